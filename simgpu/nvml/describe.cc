// What a card is built of and how it is set up: the profile's figures and the settings that never
// change on a simulated card.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "simgpu/nvml/core.h"

namespace simgpu::nvml {
namespace {

unsigned Architecture(const Profile& profile) {
  const std::string_view name = profile.architecture;
  return name == "turing"      ? NVML_DEVICE_ARCH_TURING
         : name == "ampere"    ? NVML_DEVICE_ARCH_AMPERE
         : name == "ada"       ? NVML_DEVICE_ARCH_ADA
         : name == "hopper"    ? NVML_DEVICE_ARCH_HOPPER
         : name == "blackwell" ? NVML_DEVICE_ARCH_BLACKWELL
                               : NVML_DEVICE_ARCH_UNKNOWN;
}

unsigned Brand(const Profile& profile) {
  const std::string_view name = profile.brand;
  return name == "tesla"     ? NVML_BRAND_TESLA
         : name == "geforce" ? NVML_BRAND_GEFORCE
                             : NVML_BRAND_NVIDIA;
}

// Megabits a second of one lane.
unsigned PcieSpeed(const Profile& profile) { return 1000u << profile.pcie_generation; }

// Boards of data centres have a serial number. Ours is made of the UUID, so it is as unique.
bool Serial(const Card& card, char (&text)[16]) {
  if (Brand(card.profile) == NVML_BRAND_GEFORCE) return false;
  std::uint64_t word = 0;
  std::memcpy(&word, card.uuid_bytes, sizeof word);
  std::snprintf(text, sizeof text, "%013llu",
                static_cast<unsigned long long>(word % 10'000'000'000'000));
  return true;
}

// Memory of a card, or of a MIG device, which nothing ever runs in.
nvmlReturn_t Memory(nvmlDevice_t device, std::uint64_t* total, std::uint64_t* used) {
  if (const MigRef mig = FindMig(device); mig.card != nullptr) {
    *total = std::uint64_t{mig.gpu_instance.profile->memory_mib} << 20;
    *used = 0;
    return NVML_SUCCESS;
  }
  NVML_CARD(ref, device);
  *total = ref.card->profile.memory_bytes;
  *used = std::min(*total, ref.state->UsedBytes(ref.card->index));
  return NVML_SUCCESS;
}

}  // namespace

NVML_CALL nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t* memory) {
  std::uint64_t total = 0;
  std::uint64_t used = 0;
  if (const nvmlReturn_t bad = Memory(device, &total, &used)) return bad;
  return Give(memory, nvmlMemory_t{.total = total, .free = total - used, .used = used});
}

NVML_CALL nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t* memory) {
  std::uint64_t total = 0;
  std::uint64_t used = 0;
  if (const nvmlReturn_t bad = Memory(device, &total, &used)) return bad;
  if (memory == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (memory->version != NvmlVersion<nvmlMemory_v2_t>(2)) {
    return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  }
  *memory = {memory->version, total, 0, total - used, used};
  return NVML_SUCCESS;
}

// The window is as large as the profile says; what drivers map of it is not simulated.
NVML_CALL nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t* memory) {
  NVML_CARD(ref, device);
  const std::uint64_t total = ref.card->profile.bar1_bytes;
  return Give(memory, nvmlBAR1Memory_t{total, total, 0});
}

NVML_CALL nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int* major, int* minor) {
  NVML_CARD(ref, device);
  if (major == nullptr || minor == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *major = static_cast<int>(ref.card->profile.capability_major);
  *minor = static_cast<int>(ref.card->profile.capability_minor);
  return NVML_SUCCESS;
}

NVML_NUMBER(nvmlDeviceGetArchitecture, Architecture(profile))
NVML_NUMBER(nvmlDeviceGetBrand, Brand(profile))
NVML_NUMBER(nvmlDeviceGetNumGpuCores, profile.sm_count* profile.cores_per_sm)
NVML_NUMBER(nvmlDeviceGetMemoryBusWidth, profile.memory_bus_bits)
NVML_NUMBER(nvmlDeviceGetBusType, NVML_BUS_TYPE_PCIE)
NVML_NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, profile.pcie_generation)
NVML_NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, profile.pcie_generation)
NVML_NUMBER(nvmlDeviceGetGpuMaxPcieLinkGeneration, profile.pcie_generation)
NVML_NUMBER(nvmlDeviceGetCurrPcieLinkWidth, profile.pcie_width)
NVML_NUMBER(nvmlDeviceGetMaxPcieLinkWidth, profile.pcie_width)
NVML_NUMBER(nvmlDeviceGetPcieLinkMaxSpeed, profile.pcie_generation)
NVML_NUMBER(nvmlDeviceGetPcieSpeed, PcieSpeed(profile))
// A simulated link loses nothing.
NVML_NUMBER(nvmlDeviceGetPcieReplayCounter, 0)
NVML_NUMBER(nvmlDeviceGetNumFans, profile.fans)
NVML_NUMBER(nvmlDeviceGetEnforcedPowerLimit, profile.power_limit_mw)
NVML_NUMBER(nvmlDeviceGetPowerManagementLimit, profile.power_limit_mw)
NVML_NUMBER(nvmlDeviceGetPowerManagementDefaultLimit, profile.power_limit_mw)
NVML_NUMBER(nvmlDeviceGetPowerManagementMode, NVML_FEATURE_ENABLED)
NVML_NUMBER(nvmlDeviceGetPowerSource, NVML_POWER_SOURCE_AC)
NVML_NUMBER(nvmlDeviceGetComputeMode, NVML_COMPUTEMODE_DEFAULT)
NVML_NUMBER(nvmlDeviceGetPersistenceMode, NVML_FEATURE_DISABLED)
NVML_NUMBER(nvmlDeviceGetAccountingMode, NVML_FEATURE_DISABLED)
NVML_NUMBER(nvmlDeviceGetDisplayMode, NVML_FEATURE_DISABLED)
NVML_NUMBER(nvmlDeviceGetDisplayActive, NVML_FEATURE_DISABLED)
NVML_NUMBER(nvmlDeviceGetMultiGpuBoard, NVML_FEATURE_DISABLED)
NVML_NUMBER(nvmlDeviceGetVirtualizationMode, NVML_GPU_VIRTUALIZATION_MODE_NONE)
NVML_NUMBER(nvmlDeviceGetBoardId, ref.card->pci_domain << 16 | ref.card->pci_bus << 8)

NVML_CALL nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device, unsigned* lowest,
                                                       unsigned* highest) {
  NVML_CARD(ref, device);
  if (lowest == nullptr || highest == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *lowest = ref.card->profile.power_min_mw;
  *highest = ref.card->profile.power_max_mw;
  return NVML_SUCCESS;
}

// The highest state and the resting one; the rest of the array is marked as unused.
NVML_CALL nvmlDeviceGetSupportedPerformanceStates(nvmlDevice_t device, unsigned* states,
                                                  unsigned bytes) {
  NVML_CARD(ref, device);
  if (states == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  const unsigned room = bytes / sizeof *states;
  if (room < 2) return NVML_ERROR_INSUFFICIENT_SIZE;
  std::fill(states, states + room, NVML_PSTATE_UNKNOWN);
  states[0] = NVML_PSTATE_0;
  states[1] = NVML_PSTATE_8;
  return NVML_SUCCESS;
}

// Every simulated card is a board of its own.
NVML_CALL nvmlDeviceOnSameBoard(nvmlDevice_t one, nvmlDevice_t two, int* same) {
  NVML_CARD(first, one);
  NVML_CARD(second, two);
  return Give(same, first.card == second.card ? 1 : 0);
}

NVML_CALL nvmlDeviceGetSerial(nvmlDevice_t device, char* serial, unsigned length) {
  NVML_CARD(ref, device);
  char text[16];
  return Serial(*ref.card, text) ? Answer(text, serial, length) : NVML_ERROR_NOT_SUPPORTED;
}

NVML_CALL nvmlDeviceGetHandleBySerial(const char* serial, nvmlDevice_t* device) {
  State* const state = Ready();
  if (state == nullptr) return NVML_ERROR_UNINITIALIZED;
  if (serial == nullptr || device == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  for (std::uint32_t i = 0; i < state->card_count(); ++i) {
    char text[16];
    if (!Serial(state->card(i), text) || std::strcmp(text, serial) != 0) continue;
    *device = HandleOf(state->card(i));
    return NVML_SUCCESS;
  }
  return NVML_ERROR_NOT_FOUND;
}

}  // namespace simgpu::nvml
