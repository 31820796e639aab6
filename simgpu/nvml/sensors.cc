// What a card is built of and what its sensors say. Clocks, power and temperature follow the load
// of the last window between the profile's idle and load figures; nothing here is random.
#include <algorithm>

#include "simgpu/nvml/core.h"

namespace simgpu::nvml {
namespace {

std::uint32_t Load(const CardRef& ref) {
  return ref.state->UtilisationPermille(ref.card->index, kLoadWindowNs);
}

// The point between `idle` and `full` that belongs to a load of 0 to 1000.
unsigned Between(unsigned idle, unsigned full, std::uint32_t permille) {
  if (full <= idle) return idle;
  return idle + static_cast<unsigned>(std::uint64_t{full - idle} * permille / 1000);
}

unsigned Temperature(const CardRef& ref) {
  const Profile& profile = ref.card->profile;
  return Between(profile.temperature_idle_c, profile.temperature_load_c, Load(ref));
}

bool InUse(const CardRef& ref) { return ref.state->UsedBytes(ref.card->index) != 0; }

// Answers one number.
template <typename T>
nvmlReturn_t Give(T* out, T value) {
  if (out == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *out = value;
  return NVML_SUCCESS;
}

// Answers one number of the profile.
nvmlReturn_t GiveProfile(nvmlDevice_t device, unsigned* out, std::uint32_t Profile::* field) {
  NVML_CARD(ref, device);
  return Give(out, ref.card->profile.*field);
}

nvmlReturn_t ClockMhz(nvmlDevice_t device, unsigned domain, bool highest, unsigned* mhz) {
  NVML_CARD(ref, device);
  const Profile& profile = ref.card->profile;
  switch (domain) {
    case NVML_CLOCK_GRAPHICS:
    case NVML_CLOCK_SM:
      return Give(mhz,
                  (highest || Load(ref) > 0 ? profile.clock_khz : profile.clock_idle_khz) / 1000);
    case NVML_CLOCK_MEM:
      return Give(mhz, profile.memory_clock_khz / 1000);
    case NVML_CLOCK_VIDEO:
      return NVML_ERROR_NOT_SUPPORTED;
    default:
      return NVML_ERROR_INVALID_ARGUMENT;
  }
}

nvmlReturn_t MediaUtilization(nvmlDevice_t device, unsigned* percent, unsigned* period_micros) {
  NVML_CARD(ref, device);
  if (percent == nullptr || period_micros == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *percent = 0;  // no simulated card has a video engine at work
  *period_micros = kLoadWindowNs / 1000;
  return NVML_SUCCESS;
}

nvmlReturn_t GiveDisabled(nvmlDevice_t device, unsigned* out) {
  NVML_CARD(ref, device);
  return Give(out, NVML_FEATURE_DISABLED);
}

}  // namespace

NVML_CALL nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t* memory) {
  NVML_CARD(ref, device);
  if (memory == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  memory->total = ref.card->profile.memory_bytes;
  memory->used = ref.state->UsedBytes(ref.card->index);
  memory->free = memory->total - memory->used;
  return NVML_SUCCESS;
}

NVML_CALL nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t* memory) {
  NVML_CARD(ref, device);
  if (memory == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (memory->version != NvmlVersion<nvmlMemory_v2_t>(2)) {
    return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  }
  memory->total = ref.card->profile.memory_bytes;
  memory->reserved = 0;
  memory->used = ref.state->UsedBytes(ref.card->index);
  memory->free = memory->total - memory->used;
  return NVML_SUCCESS;
}

NVML_CALL nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t* utilization) {
  NVML_CARD(ref, device);
  if (utilization == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  // Rounded up: a card that worked at all in the window is not idle.
  utilization->gpu = (Load(ref) + 9) / 10;
  utilization->memory = 0;  // the simulator does not watch the memory bus
  return NVML_SUCCESS;
}

NVML_CALL nvmlDeviceGetEncoderUtilization(nvmlDevice_t device, unsigned* percent,
                                          unsigned* period_micros) {
  return MediaUtilization(device, percent, period_micros);
}
NVML_CALL nvmlDeviceGetDecoderUtilization(nvmlDevice_t device, unsigned* percent,
                                          unsigned* period_micros) {
  return MediaUtilization(device, percent, period_micros);
}

NVML_CALL nvmlDeviceGetClockInfo(nvmlDevice_t device, unsigned domain, unsigned* mhz) {
  return ClockMhz(device, domain, false, mhz);
}
NVML_CALL nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, unsigned domain, unsigned* mhz) {
  return ClockMhz(device, domain, true, mhz);
}
NVML_CALL nvmlDeviceGetClock(nvmlDevice_t device, unsigned domain, unsigned which, unsigned* mhz) {
  if (which == NVML_CLOCK_ID_CURRENT) return ClockMhz(device, domain, false, mhz);
  if (which == NVML_CLOCK_ID_CUSTOMER_BOOST_MAX) return ClockMhz(device, domain, true, mhz);
  NVML_CARD(ref, device);
  return NVML_ERROR_NOT_SUPPORTED;
}

NVML_CALL nvmlDeviceGetTemperature(nvmlDevice_t device, unsigned sensor, unsigned* celsius) {
  NVML_CARD(ref, device);
  if (sensor != NVML_TEMPERATURE_GPU) return NVML_ERROR_INVALID_ARGUMENT;
  return Give(celsius, Temperature(ref));
}

NVML_CALL nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_v1_t* temperature) {
  NVML_CARD(ref, device);
  if (temperature == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (temperature->version != NvmlVersion<nvmlTemperature_v1_t>(1)) {
    return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  }
  if (temperature->sensorType != NVML_TEMPERATURE_GPU) return NVML_ERROR_INVALID_ARGUMENT;
  temperature->temperature = static_cast<int>(Temperature(ref));
  return NVML_SUCCESS;
}

NVML_CALL nvmlDeviceGetTemperatureThreshold(nvmlDevice_t device, unsigned threshold,
                                            unsigned* celsius) {
  switch (threshold) {
    case NVML_TEMPERATURE_THRESHOLD_SHUTDOWN:
      return GiveProfile(device, celsius, &Profile::temperature_shutdown_c);
    case NVML_TEMPERATURE_THRESHOLD_SLOWDOWN:
    case NVML_TEMPERATURE_THRESHOLD_GPU_MAX:
      return GiveProfile(device, celsius, &Profile::temperature_slowdown_c);
    default: {
      NVML_CARD(ref, device);
      return NVML_ERROR_NOT_SUPPORTED;
    }
  }
}

NVML_CALL nvmlDeviceGetFanSpeed(nvmlDevice_t device, unsigned* percent) {
  NVML_CARD(ref, device);
  if (ref.card->profile.has_fan == 0) return NVML_ERROR_NOT_SUPPORTED;
  return Give(percent, Between(30, 100, Load(ref)));
}

NVML_CALL nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned* milliwatts) {
  NVML_CARD(ref, device);
  const Profile& profile = ref.card->profile;
  return Give(milliwatts, Between(profile.power_idle_mw, profile.power_limit_mw, Load(ref)));
}

NVML_CALL nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t device, unsigned* milliwatts) {
  return GiveProfile(device, milliwatts, &Profile::power_limit_mw);
}
NVML_CALL nvmlDeviceGetPowerManagementLimit(nvmlDevice_t device, unsigned* milliwatts) {
  return GiveProfile(device, milliwatts, &Profile::power_limit_mw);
}
NVML_CALL nvmlDeviceGetPowerManagementDefaultLimit(nvmlDevice_t device, unsigned* milliwatts) {
  return GiveProfile(device, milliwatts, &Profile::power_limit_mw);
}

// A card somebody holds stays in the highest state, an unused one rests.
NVML_CALL nvmlDeviceGetPerformanceState(nvmlDevice_t device, unsigned* state) {
  NVML_CARD(ref, device);
  return Give(state, InUse(ref) ? NVML_PSTATE_0 : NVML_PSTATE_8);
}
NVML_CALL nvmlDeviceGetPowerState(nvmlDevice_t device, unsigned* state) {
  return nvmlDeviceGetPerformanceState(device, state);
}

NVML_CALL nvmlDeviceGetCurrPcieLinkGeneration(nvmlDevice_t device, unsigned* generation) {
  return GiveProfile(device, generation, &Profile::pcie_generation);
}
NVML_CALL nvmlDeviceGetMaxPcieLinkGeneration(nvmlDevice_t device, unsigned* generation) {
  return GiveProfile(device, generation, &Profile::pcie_generation);
}
NVML_CALL nvmlDeviceGetGpuMaxPcieLinkGeneration(nvmlDevice_t device, unsigned* generation) {
  return GiveProfile(device, generation, &Profile::pcie_generation);
}
NVML_CALL nvmlDeviceGetCurrPcieLinkWidth(nvmlDevice_t device, unsigned* width) {
  return GiveProfile(device, width, &Profile::pcie_width);
}
NVML_CALL nvmlDeviceGetMaxPcieLinkWidth(nvmlDevice_t device, unsigned* width) {
  return GiveProfile(device, width, &Profile::pcie_width);
}
NVML_CALL nvmlDeviceGetMemoryBusWidth(nvmlDevice_t device, unsigned* bits) {
  return GiveProfile(device, bits, &Profile::memory_bus_bits);
}

NVML_CALL nvmlDeviceGetBusType(nvmlDevice_t device, unsigned* type) {
  NVML_CARD(ref, device);
  return Give(type, NVML_BUS_TYPE_PCIE);
}

NVML_CALL nvmlDeviceGetNumGpuCores(nvmlDevice_t device, unsigned* cores) {
  NVML_CARD(ref, device);
  return Give(cores, ref.card->profile.sm_count * ref.card->profile.cores_per_sm);
}

NVML_CALL nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int* major, int* minor) {
  NVML_CARD(ref, device);
  if (major == nullptr || minor == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *major = static_cast<int>(ref.card->profile.capability_major);
  *minor = static_cast<int>(ref.card->profile.capability_minor);
  return NVML_SUCCESS;
}

NVML_CALL nvmlDeviceGetArchitecture(nvmlDevice_t device, unsigned* architecture) {
  NVML_CARD(ref, device);
  const std::uint32_t major = ref.card->profile.capability_major;
  const std::uint32_t minor = ref.card->profile.capability_minor;
  if (major == 7 && minor == 5) return Give(architecture, NVML_DEVICE_ARCH_TURING);
  if (major == 8) {
    return Give(architecture, minor == 9 ? NVML_DEVICE_ARCH_ADA : NVML_DEVICE_ARCH_AMPERE);
  }
  if (major == 9) return Give(architecture, NVML_DEVICE_ARCH_HOPPER);
  if (major == 10 || major == 12) return Give(architecture, NVML_DEVICE_ARCH_BLACKWELL);
  return Give(architecture, NVML_DEVICE_ARCH_UNKNOWN);
}

NVML_CALL nvmlDeviceGetBrand(nvmlDevice_t device, unsigned* brand) {
  NVML_CARD(ref, device);
  // The data centre cards before Ampere carry the older brand.
  return Give(brand, ref.card->profile.capability_major < 8 ? NVML_BRAND_TESLA : NVML_BRAND_NVIDIA);
}

NVML_CALL nvmlDeviceGetComputeMode(nvmlDevice_t device, unsigned* mode) {
  NVML_CARD(ref, device);
  return Give(mode, NVML_COMPUTEMODE_DEFAULT);
}
NVML_CALL nvmlDeviceGetPersistenceMode(nvmlDevice_t device, unsigned* mode) {
  return GiveDisabled(device, mode);
}
NVML_CALL nvmlDeviceGetDisplayMode(nvmlDevice_t device, unsigned* mode) {
  return GiveDisabled(device, mode);
}
NVML_CALL nvmlDeviceGetDisplayActive(nvmlDevice_t device, unsigned* active) {
  return GiveDisabled(device, active);
}
NVML_CALL nvmlDeviceGetMultiGpuBoard(nvmlDevice_t device, unsigned* multi) {
  return GiveDisabled(device, multi);
}
NVML_CALL nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned* mig) {
  return GiveDisabled(device, mig);
}
NVML_CALL nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned* count) {
  NVML_CARD(ref, device);
  return Give(count, 0u);
}

// Asked for a list of fields: each one says for itself that it is not supported.
NVML_CALL nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t* values) {
  NVML_CARD(ref, device);
  if (count < 1 || values == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  for (int i = 0; i < count; ++i) {
    values[i].timestamp = static_cast<long long>(WallMicros());
    values[i].latencyUsec = 0;
    values[i].nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
  }
  return NVML_SUCCESS;
}

}  // namespace simgpu::nvml
