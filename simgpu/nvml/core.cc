#include "simgpu/nvml/core.h"

#include <ctime>

#include <cstdio>
#include <cstring>
#include <mutex>

#include "abi/cuda.h"
#include "simgpu/state/faults.h"

namespace simgpu::nvml {
namespace {

// Plain statics with constant initialisers: a client may call from its exit handlers.
std::mutex mutex;
unsigned initialised = 0;  // nvmlInit calls not yet undone
State* opened = nullptr;   // made once, kept for the life of the process

nvmlReturn_t Initialise() {
  const std::lock_guard lock(mutex);
  if (opened == nullptr) {
    std::string error;
    opened = State::Open(&error);
    if (opened == nullptr) {
      std::fprintf(stderr, "simgpu: libnvidia-ml: %s\n", error.c_str());
      return NVML_ERROR_DRIVER_NOT_LOADED;
    }
  }
  ++initialised;
  return NVML_SUCCESS;
}

}  // namespace

State* Ready() {
  const std::lock_guard lock(mutex);
  return initialised == 0 ? nullptr : opened;
}

nvmlDevice_t HandleOf(const Card& card) {
  return reinterpret_cast<nvmlDevice_t>(const_cast<Card*>(&card));
}

CardRef FindEvenLost(nvmlDevice_t device) {
  State* const state = Ready();
  if (state == nullptr) return {nullptr, nullptr, NVML_ERROR_UNINITIALIZED};
  for (std::uint32_t i = 0; i < state->card_count(); ++i) {
    if (HandleOf(state->card(i)) == device) return {state, &state->card(i), NVML_SUCCESS};
  }
  const bool mig = FindMig(device).card != nullptr;
  return {state, nullptr, mig ? NVML_ERROR_NOT_SUPPORTED : NVML_ERROR_INVALID_ARGUMENT};
}

CardRef Find(nvmlDevice_t device) {
  CardRef ref = FindEvenLost(device);
  if (ref.card != nullptr && Faults::Get().Lost(ref.card->index)) {
    ref = {ref.state, nullptr, NVML_ERROR_GPU_IS_LOST};
  }
  return ref;
}

namespace {
// Only their addresses count.
char mig_marks[kCardsMax][kGpuInstanceIds][kComputeInstanceIds];
}  // namespace

Mig* Instances() {
  static Mig* const mig = new Mig(Ready());
  return mig;
}

nvmlDevice_t MigHandleOf(std::uint32_t card, std::uint32_t gpu_instance, std::uint32_t instance) {
  return reinterpret_cast<nvmlDevice_t>(&mig_marks[card][gpu_instance][instance]);
}

MigRef FindMig(nvmlDevice_t device) {
  State* const state = Ready();
  const auto address = reinterpret_cast<std::uintptr_t>(device);
  const auto first = reinterpret_cast<std::uintptr_t>(&mig_marks);
  if (state == nullptr || address < first || address >= first + sizeof mig_marks) return {};
  const auto place = static_cast<std::uint32_t>(address - first);
  const std::uint32_t card = place / (kGpuInstanceIds * kComputeInstanceIds);
  MigRef ref;
  if (card >= state->card_count() ||
      !Instances()->FindGpuInstance(card, place / kComputeInstanceIds % kGpuInstanceIds,
                                    &ref.gpu_instance) ||
      !Instances()->FindComputeInstance(card, ref.gpu_instance.id, place % kComputeInstanceIds,
                                        &ref.instance)) {
    return {};
  }
  ref.state = state;
  ref.card = &state->card(card);
  return ref;
}

nvmlReturn_t Answer(std::string_view text, char* out, unsigned length) {
  if (out == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (text.size() + 1 > length) return NVML_ERROR_INSUFFICIENT_SIZE;
  std::memcpy(out, text.data(), text.size());
  out[text.size()] = '\0';
  return NVML_SUCCESS;
}

unsigned long long WallMicros() {
  timespec now = {};
  clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<unsigned long long>(now.tv_sec) * 1'000'000 +
         static_cast<unsigned long long>(now.tv_nsec) / 1'000;
}

// What every generated stub answers.
extern "C" __attribute__((visibility("hidden"))) nvmlReturn_t SimgpuNvmlUnsupported() {
  return Ready() == nullptr ? NVML_ERROR_UNINITIALIZED : NVML_ERROR_NOT_SUPPORTED;
}

extern "C" __attribute__((visibility("default"))) int simgpu_is_simulated() { return 1; }

NVML_CALL nvmlInit() { return Initialise(); }
NVML_CALL nvmlInit_v2() { return Initialise(); }

NVML_CALL nvmlInitWithFlags(unsigned flags) {
  if ((flags & ~(NVML_INIT_FLAG_NO_GPUS | NVML_INIT_FLAG_NO_ATTACH)) != 0) {
    return NVML_ERROR_INVALID_ARGUMENT;
  }
  return Initialise();
}

NVML_CALL nvmlShutdown() {
  const std::lock_guard lock(mutex);
  if (initialised == 0) return NVML_ERROR_UNINITIALIZED;
  --initialised;
  return NVML_SUCCESS;
}

extern "C" __attribute__((visibility("default"))) const char* nvmlErrorString(nvmlReturn_t code) {
  switch (code) {
    case NVML_SUCCESS:
      return "Success";
    case NVML_ERROR_UNINITIALIZED:
      return "Uninitialized";
    case NVML_ERROR_INVALID_ARGUMENT:
      return "Invalid Argument";
    case NVML_ERROR_NOT_SUPPORTED:
      return "Not Supported";
    case NVML_ERROR_NO_PERMISSION:
      return "Insufficient Permissions";
    case NVML_ERROR_ALREADY_INITIALIZED:
      return "Already Initialized";
    case NVML_ERROR_NOT_FOUND:
      return "Not Found";
    case NVML_ERROR_INSUFFICIENT_SIZE:
      return "Insufficient Size";
    case NVML_ERROR_DRIVER_NOT_LOADED:
      return "Driver Not Loaded";
    case NVML_ERROR_TIMEOUT:
      return "Timeout";
    case NVML_ERROR_FUNCTION_NOT_FOUND:
      return "Function Not Found";
    case NVML_ERROR_GPU_IS_LOST:
      return "GPU is lost";
    case NVML_ERROR_ARGUMENT_VERSION_MISMATCH:
      return "Argument Version Mismatch";
    case NVML_ERROR_IN_USE:
      return "In use by another client";
    case NVML_ERROR_MEMORY:
      return "Insufficient Memory";
    case NVML_ERROR_INSUFFICIENT_RESOURCES:
      return "Insufficient Resources";
    default:
      return "Unknown Error";
  }
}

NVML_CALL nvmlSystemGetDriverVersion(char* version, unsigned length) {
  if (Ready() == nullptr) return NVML_ERROR_UNINITIALIZED;
  return Answer(kDriverVersion, version, length);
}

// These two answer before initialisation too.
NVML_CALL nvmlSystemGetNVMLVersion(char* version, unsigned length) {
  return Answer(kNvmlVersion, version, length);
}

NVML_CALL nvmlSystemGetCudaDriverVersion(int* version) {
  if (version == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *version = kCudaVersion;
  return NVML_SUCCESS;
}

NVML_CALL nvmlSystemGetCudaDriverVersion_v2(int* version) {
  return nvmlSystemGetCudaDriverVersion(version);
}

// S-class chassis units: there are none.
NVML_CALL nvmlUnitGetCount(unsigned* count) {
  if (Ready() == nullptr) return NVML_ERROR_UNINITIALIZED;
  if (count == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *count = 0;
  return NVML_SUCCESS;
}

}  // namespace simgpu::nvml
