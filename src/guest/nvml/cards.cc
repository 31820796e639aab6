// The driver's half of a slice without a node: which cards the machine has, and what this process
// holds of them. NVML tells both without making a context and without initialising CUDA, which a
// program may want to do after a fork.
#include "abi/nvml.h"
#include "guest/core/doors.h"
#include "guest/core/standalone.h"

using namespace tessera::abi;

namespace tessera::guest {
namespace {

template <typename... Arguments>
bool Call(const char* name, Arguments... arguments) {
  auto* const real =
      reinterpret_cast<nvmlReturn_t (*)(Arguments...)>(ResolveReal(kNvmlLibrary, name));
  if (real == nullptr) return false;
  DepthGuard guard;
  return real(arguments...) == NVML_SUCCESS;
}

// Counted by the driver, so the program's own pairs of init and shutdown stay its own.
bool Initialise() {
  static uint32_t ready = 0;
  if (__atomic_load_n(&ready, __ATOMIC_ACQUIRE) != 0) return true;
  if (!LoadReal(kNvmlLibrary) || !Call("nvmlInit_v2")) return false;
  __atomic_store_n(&ready, 1u, __ATOMIC_RELEASE);
  return true;
}

}  // namespace

int FindStandaloneCards(StandaloneCard* cards, uint32_t most) {
  unsigned count = 0;
  if (!Initialise() || !Call("nvmlDeviceGetCount_v2", &count)) return -1;
  for (unsigned i = 0; i < count && i < most; ++i) {
    nvmlDevice_t device = nullptr;
    nvmlMemory_t memory = {};
    char uuid[96] = {};
    if (!Call("nvmlDeviceGetHandleByIndex_v2", i, &device) ||
        !Call("nvmlDeviceGetUUID", device, static_cast<char*>(uuid),
              static_cast<unsigned>(sizeof(uuid))) ||
        !Call("nvmlDeviceGetMemoryInfo", device, &memory)) {
      return -1;
    }
    cards[i] = {};
    for (uint32_t c = 0; c + 1 < wire::kUuidTextMax && uuid[c] != '\0'; ++c)
      cards[i].uuid[c] = uuid[c];
    cards[i].total_bytes = memory.total;
  }
  return static_cast<int>(count);
}

bool FindStandaloneHeld(const char* uuid, uint64_t pid, uint64_t* bytes) {
  constexpr unsigned kListed = 128;  // more processes than this on one card, and nothing is settled
  nvmlProcessInfo_v2_t list[kListed];
  unsigned count = kListed;
  nvmlDevice_t device = nullptr;
  if (!Initialise() || !Call("nvmlDeviceGetHandleByUUID", uuid, &device) ||
      !Call("nvmlDeviceGetComputeRunningProcesses_v3", device, &count,
            static_cast<nvmlProcessInfo_v2_t*>(list))) {
    return false;
  }
  constexpr unsigned long long kNotAvailable = ~0ull;
  // In a pid namespace of its own the driver may name it otherwise, and then nobody can tell.
  for (unsigned i = 0; i < count && i < kListed; ++i) {
    if (list[i].pid != pid || list[i].usedGpuMemory == kNotAvailable) continue;
    *bytes = list[i].usedGpuMemory;
    return true;
  }
  return false;
}

}  // namespace tessera::guest
