// What a card's sensors say. Clocks, power and temperature follow the load of the last window
// between the profile's idle and load figures; energy is that power over the whole life of the
// machine; nothing here is random.
#include <algorithm>
#include <ctime>

#include "simgpu/nvml/core.h"

namespace simgpu::nvml {
namespace {

// How long PCIe throughput is watched, which is how long the call takes, as with the real library.
constexpr long kThroughputWindowNs = 20'000'000;
// One sample of nvmlDeviceGetSamples, and how many there are: as far back as the state remembers.
constexpr std::uint64_t kSampleNs = 200'000'000;
constexpr unsigned kSamples = State::kWindowMaxNs / kSampleNs;

// The point between `idle` and `full` that belongs to a load of 0 to 1000.
unsigned Between(unsigned idle, unsigned full, std::uint32_t permille) {
  if (full <= idle) return idle;
  return idle + static_cast<unsigned>(std::uint64_t{full - idle} * permille / 1000);
}

unsigned Celsius(const CardRef& ref) {
  const Profile& profile = ref.card->profile;
  return Between(profile.temperature_idle_c, profile.temperature_load_c, LoadPermille(ref));
}

// Percent, rounded up: a card that worked at all in the window is not idle.
unsigned Percent(std::uint32_t permille) { return (permille + 9) / 10; }

nvmlReturn_t ClockMhz(nvmlDevice_t device, unsigned domain, bool highest, unsigned* mhz) {
  NVML_CARD(ref, device);
  const Profile& profile = ref.card->profile;
  switch (domain) {
    case NVML_CLOCK_GRAPHICS:
    case NVML_CLOCK_SM:
      return Give(mhz, highest ? profile.clock_khz / 1000 : SmClockMhz(ref));
    case NVML_CLOCK_MEM:
      return Give(mhz, profile.memory_clock_khz / 1000);
    case NVML_CLOCK_VIDEO:
      return NVML_ERROR_NOT_SUPPORTED;
    default:
      return NVML_ERROR_INVALID_ARGUMENT;
  }
}

// No simulated card has a video engine at work.
nvmlReturn_t MediaUtilization(nvmlDevice_t device, unsigned* percent, unsigned* period_micros) {
  NVML_CARD(ref, device);
  if (percent == nullptr || period_micros == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *percent = 0;
  *period_micros = kLoadWindowNs / 1000;
  return NVML_SUCCESS;
}

nvmlReturn_t ClockReasons(nvmlDevice_t device, unsigned long long* reasons) {
  NVML_CARD(ref, device);
  // The clocks of a simulated card at work are always the highest, so nothing else ever holds.
  return Give(reasons,
              LoadPermille(ref) == 0 ? nvmlClocksEventReasonGpuIdle : nvmlClocksEventReasonNone);
}
nvmlReturn_t SupportedClockReasons(nvmlDevice_t device, unsigned long long* reasons) {
  NVML_CARD(ref, device);
  return Give(reasons, nvmlClocksEventReasonGpuIdle);
}

// The load in each of the last kSamples stretches, oldest first.
std::vector<std::uint32_t> RecentLoads(const CardRef& ref) {
  std::vector<std::uint64_t> sums(kSamples + 1);  // permille * stretches, from now backwards
  for (unsigned i = 1; i <= kSamples; ++i) {
    sums[i] = std::uint64_t{i} * ref.state->UtilisationPermille(ref.card->index, i * kSampleNs);
  }
  std::vector<std::uint32_t> loads;
  for (unsigned i = kSamples; i >= 1; --i) {
    const std::uint64_t load = sums[i] > sums[i - 1] ? sums[i] - sums[i - 1] : 0;
    loads.push_back(static_cast<std::uint32_t>(std::min<std::uint64_t>(load, 1000)));
  }
  return loads;
}

}  // namespace

std::uint32_t LoadPermille(const CardRef& ref) {
  return ref.state->UtilisationPermille(ref.card->index, kLoadWindowNs);
}

unsigned PowerMilliwatts(const CardRef& ref) {
  const Profile& profile = ref.card->profile;
  return Between(profile.power_idle_mw, profile.power_limit_mw, LoadPermille(ref));
}

unsigned long long EnergyMillijoules(const CardRef& ref) {
  const Profile& profile = ref.card->profile;
  const Engine::Account account = ref.state->engine(ref.card->index).Read();
  const std::uint64_t made = ref.state->topology().made_ns;
  const std::uint64_t lived = account.at_ns > made ? account.at_ns - made : 0;
  const unsigned more =
      profile.power_limit_mw - std::min(profile.power_idle_mw, profile.power_limit_mw);
  // Milliwatts times microseconds are nanojoules; in 128 bits nothing overflows.
  const auto nanojoules = static_cast<unsigned __int128>(profile.power_idle_mw) * (lived / 1000) +
                          static_cast<unsigned __int128>(more) * (account.busy_ns / 1000);
  return static_cast<unsigned long long>(nanojoules / 1'000'000);
}

unsigned SmClockMhz(const CardRef& ref) {
  const Profile& profile = ref.card->profile;
  return (LoadPermille(ref) > 0 ? profile.clock_khz : profile.clock_idle_khz) / 1000;
}

bool MemoryCelsius(const CardRef& ref, unsigned* celsius) {
  const Profile& profile = ref.card->profile;
  if (profile.temperature_memory_max_c == 0) return false;
  *celsius = Between(profile.temperature_memory_idle_c, profile.temperature_memory_load_c,
                     LoadPermille(ref));
  return true;
}

unsigned long long PcieBytes(const CardRef& ref, unsigned direction) {
  // The card transmits what programs copy from it.
  const CopyLane lane =
      direction == NVML_PCIE_UTIL_TX_BYTES ? CopyLane::kFromDevice : CopyLane::kToDevice;
  const Engine::Account account = ref.state->engine(ref.card->index).Read();
  return static_cast<unsigned long long>(
      static_cast<double>(account.lane_copied_ns[static_cast<unsigned>(lane)]) *
      PcieBytesPerNs(ref.card->profile));
}

// A card somebody holds stays in the highest state, an unused one rests.
unsigned PerformanceState(const CardRef& ref) {
  return ref.state->UsedBytes(ref.card->index) != 0 ? NVML_PSTATE_0 : NVML_PSTATE_8;
}

NVML_CALL nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t* utilization) {
  NVML_CARD(ref, device);
  if (utilization == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  utilization->gpu = Percent(LoadPermille(ref));
  utilization->memory = 0;  // the simulator does not watch the memory bus
  return NVML_SUCCESS;
}

#define MEDIA_UTILIZATION(name)                                                     \
  NVML_CALL name(nvmlDevice_t device, unsigned* percent, unsigned* period_micros) { \
    return MediaUtilization(device, percent, period_micros);                        \
  }
MEDIA_UTILIZATION(nvmlDeviceGetEncoderUtilization)
MEDIA_UTILIZATION(nvmlDeviceGetDecoderUtilization)
MEDIA_UTILIZATION(nvmlDeviceGetJpgUtilization)
MEDIA_UTILIZATION(nvmlDeviceGetOfaUtilization)

NVML_CALL nvmlDeviceGetClockInfo(nvmlDevice_t device, unsigned domain, unsigned* mhz) {
  return ClockMhz(device, domain, false, mhz);
}
NVML_CALL nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, unsigned domain, unsigned* mhz) {
  return ClockMhz(device, domain, true, mhz);
}
NVML_CALL nvmlDeviceGetMaxCustomerBoostClock(nvmlDevice_t device, unsigned domain, unsigned* mhz) {
  return ClockMhz(device, domain, true, mhz);
}
NVML_CALL nvmlDeviceGetClock(nvmlDevice_t device, unsigned domain, unsigned which, unsigned* mhz) {
  if (which == NVML_CLOCK_ID_CURRENT) return ClockMhz(device, domain, false, mhz);
  if (which == NVML_CLOCK_ID_CUSTOMER_BOOST_MAX) return ClockMhz(device, domain, true, mhz);
  NVML_CARD(ref, device);
  return NVML_ERROR_NOT_SUPPORTED;
}

NVML_CALL nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t device, unsigned long long* reasons) {
  return ClockReasons(device, reasons);
}
NVML_CALL nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t device,
                                                    unsigned long long* reasons) {
  return ClockReasons(device, reasons);
}
NVML_CALL nvmlDeviceGetSupportedClocksEventReasons(nvmlDevice_t device,
                                                   unsigned long long* reasons) {
  return SupportedClockReasons(device, reasons);
}
NVML_CALL nvmlDeviceGetSupportedClocksThrottleReasons(nvmlDevice_t device,
                                                      unsigned long long* reasons) {
  return SupportedClockReasons(device, reasons);
}

// Nothing ever lowers the clocks of a simulated card at work.
NVML_CALL nvmlDeviceGetViolationStatus(nvmlDevice_t device, unsigned policy,
                                       nvmlViolationTime_t* time) {
  NVML_CARD(ref, device);
  if (time == nullptr || policy >= NVML_PERF_POLICY_COUNT) return NVML_ERROR_INVALID_ARGUMENT;
  *time = {WallMicros(), 0};
  return NVML_SUCCESS;
}

NVML_CALL nvmlDeviceGetTemperature(nvmlDevice_t device, unsigned sensor, unsigned* celsius) {
  NVML_CARD(ref, device);
  if (sensor != NVML_TEMPERATURE_GPU) return NVML_ERROR_INVALID_ARGUMENT;
  return Give(celsius, Celsius(ref));
}

NVML_CALL nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_v1_t* temperature) {
  NVML_CARD(ref, device);
  if (temperature == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (temperature->version != NvmlVersion<nvmlTemperature_v1_t>(1)) {
    return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  }
  if (temperature->sensorType != NVML_TEMPERATURE_GPU) return NVML_ERROR_INVALID_ARGUMENT;
  temperature->temperature = static_cast<int>(Celsius(ref));
  return NVML_SUCCESS;
}

NVML_CALL nvmlDeviceGetTemperatureThreshold(nvmlDevice_t device, unsigned threshold,
                                            unsigned* celsius) {
  NVML_CARD(ref, device);
  const Profile& profile = ref.card->profile;
  switch (threshold) {
    case NVML_TEMPERATURE_THRESHOLD_SHUTDOWN:
      return Give(celsius, profile.temperature_shutdown_c);
    case NVML_TEMPERATURE_THRESHOLD_SLOWDOWN:
      return Give(celsius, profile.temperature_slowdown_c);
    case NVML_TEMPERATURE_THRESHOLD_GPU_MAX:
      return Give(celsius, profile.temperature_max_c);
    case NVML_TEMPERATURE_THRESHOLD_MEM_MAX:
      if (profile.temperature_memory_max_c == 0) return NVML_ERROR_NOT_SUPPORTED;
      return Give(celsius, profile.temperature_memory_max_c);
    default:
      return NVML_ERROR_NOT_SUPPORTED;
  }
}

NVML_CALL nvmlDeviceGetFanSpeed(nvmlDevice_t device, unsigned* percent) {
  NVML_CARD(ref, device);
  if (ref.card->profile.fans == 0) return NVML_ERROR_NOT_SUPPORTED;
  return Give(percent, Between(30, 100, LoadPermille(ref)));
}
NVML_CALL nvmlDeviceGetFanSpeed_v2(nvmlDevice_t device, unsigned fan, unsigned* percent) {
  NVML_CARD(ref, device);
  if (ref.card->profile.fans != 0 && fan >= ref.card->profile.fans) {
    return NVML_ERROR_INVALID_ARGUMENT;
  }
  return nvmlDeviceGetFanSpeed(device, percent);
}

NVML_NUMBER(nvmlDeviceGetPowerUsage, PowerMilliwatts(ref))
NVML_NUMBER(nvmlDeviceGetPerformanceState, PerformanceState(ref))
NVML_NUMBER(nvmlDeviceGetPowerState, PerformanceState(ref))

NVML_CALL nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long* energy) {
  NVML_CARD(ref, device);
  return Give(energy, EnergyMillijoules(ref));
}

// KB a second, averaged over the 20 ms that the call takes.
NVML_CALL nvmlDeviceGetPcieThroughput(nvmlDevice_t device, unsigned direction, unsigned* kb_s) {
  NVML_CARD(ref, device);
  if (kb_s == nullptr || direction > NVML_PCIE_UTIL_RX_BYTES) return NVML_ERROR_INVALID_ARGUMENT;
  const std::uint64_t begin = Engine::NowNs();
  const unsigned long long before = PcieBytes(ref, direction);
  timespec wait = {0, kThroughputWindowNs};
  while (nanosleep(&wait, &wait) != 0) {
  }
  const unsigned long long after = PcieBytes(ref, direction);
  const std::uint64_t ns = std::max<std::uint64_t>(Engine::NowNs() - begin, 1);
  const unsigned long long moved = after > before ? after - before : 0;
  return Give(kb_s,
              static_cast<unsigned>(static_cast<double>(moved) * 1e6 / static_cast<double>(ns)));
}

NVML_CALL nvmlDeviceGetSamples(nvmlDevice_t device, unsigned type, unsigned long long last_seen,
                               unsigned* value_type, unsigned* count, nvmlSample_t* samples) {
  NVML_CARD(ref, device);
  if (count == nullptr || value_type == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  const Profile& profile = ref.card->profile;
  switch (type) {
    case NVML_TOTAL_POWER_SAMPLES:
    case NVML_GPU_UTILIZATION_SAMPLES:
    case NVML_ENC_UTILIZATION_SAMPLES:
    case NVML_DEC_UTILIZATION_SAMPLES:
    case NVML_PROCESSOR_CLK_SAMPLES:
    case NVML_MEMORY_CLK_SAMPLES:
      break;
    default:  // memory activity is not simulated
      return NVML_ERROR_NOT_SUPPORTED;
  }
  *value_type = NVML_VALUE_TYPE_UNSIGNED_INT;
  if (samples == nullptr) {
    *count = kSamples;
    return NVML_SUCCESS;
  }
  const unsigned long long now = WallMicros();
  const std::vector<std::uint32_t> loads = RecentLoads(ref);
  unsigned given = 0;
  for (unsigned i = 0; i < kSamples && given < *count; ++i) {
    const unsigned long long end = now - (kSamples - 1 - i) * (kSampleNs / 1000);
    if (end <= last_seen) continue;
    samples[given] = {};
    samples[given].timeStamp = end;
    unsigned& value = samples[given++].sampleValue.uiVal;
    if (type == NVML_GPU_UTILIZATION_SAMPLES) value = Percent(loads[i]);
    if (type == NVML_TOTAL_POWER_SAMPLES) {
      value = Between(profile.power_idle_mw, profile.power_limit_mw, loads[i]);
    }
    if (type == NVML_PROCESSOR_CLK_SAMPLES) {
      value = (loads[i] > 0 ? profile.clock_khz : profile.clock_idle_khz) / 1000;
    }
    if (type == NVML_MEMORY_CLK_SAMPLES) value = profile.memory_clock_khz / 1000;
  }
  *count = given;
  return given == 0 ? NVML_ERROR_NOT_FOUND : NVML_SUCCESS;
}

}  // namespace simgpu::nvml
