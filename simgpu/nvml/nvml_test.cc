// The library as a client meets it: opened by its path, with another process on the card.
#include <cstring>
#include <set>

#include "simgpu/nvml/test_support.h"

namespace simgpu {
namespace {

// Choosing cards with CUDA_VISIBLE_DEVICES must change nothing here: it is the CUDA driver's
// business.
class OneVisible : public testing::Environment {
 public:
  void SetUp() override { setenv("CUDA_VISIBLE_DEVICES", "1", 1); }
};
const auto* const folder = testing::AddGlobalTestEnvironment(new Folder("A100-80,T4"));
const auto* const visible = testing::AddGlobalTestEnvironment(new OneVisible);

std::set<std::string> Manifest() {
  std::ifstream file(NVML_MANIFEST);
  std::set<std::string> symbols;
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("nvml")) continue;
    std::string base, symbol;
    std::istringstream(line) >> base >> symbol;
    EXPECT_TRUE(symbols.insert(symbol).second) << "twice in the manifest: " << symbol;
  }
  return symbols;
}

TEST_F(Nvml, ExportsTheManifestAndItsMarkOnly) {
  std::set<std::string> expected = Manifest();
  ASSERT_GT(expected.size(), 400u);
  expected.insert("simgpu_is_simulated");
  std::set<std::string> exported;
  FILE* const listing = popen("nm -D --defined-only " SIMGPU_NVML_PATH, "r");
  ASSERT_NE(listing, nullptr);
  char line[512];
  while (fgets(line, sizeof line, listing) != nullptr) {
    std::string address, kind, name;
    std::istringstream(line) >> address >> kind >> name;
    exported.insert(name);
  }
  ASSERT_EQ(pclose(listing), 0);
  EXPECT_EQ(exported, expected);
}

TEST_F(Nvml, AnswersOnlyBetweenInitAndShutdown) {
  unsigned count = 0;
  EXPECT_EQ(Call("nvmlDeviceGetCount_v2", &count), NVML_ERROR_UNINITIALIZED);
  EXPECT_EQ(Call("nvmlDeviceGetSerial", nvmlDevice_t{}), NVML_ERROR_UNINITIALIZED);
  EXPECT_EQ(Call("nvmlShutdown"), NVML_ERROR_UNINITIALIZED);
  ASSERT_EQ(Call("nvmlInit_v2"), NVML_SUCCESS);
  ASSERT_EQ(Call("nvmlInitWithFlags", 0u), NVML_SUCCESS);
  EXPECT_EQ(Call("nvmlInitWithFlags", 0x80u), NVML_ERROR_INVALID_ARGUMENT);
  EXPECT_EQ(Call("nvmlShutdown"), NVML_SUCCESS);
  EXPECT_EQ(Call("nvmlDeviceGetCount_v2", &count), NVML_SUCCESS);
  EXPECT_EQ(Call("nvmlShutdown"), NVML_SUCCESS);
  EXPECT_EQ(Call("nvmlDeviceGetCount_v2", &count), NVML_ERROR_UNINITIALIZED);
}

TEST_F(Nvml, SaysThatItIsSimulated) {
  ASSERT_EQ(Call("nvmlInit_v2"), NVML_SUCCESS);
  EXPECT_EQ(Call("simgpu_is_simulated"), 1);
  char version[NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE] = {};
  ASSERT_EQ(Call("nvmlSystemGetDriverVersion", version, static_cast<unsigned>(sizeof version)),
            NVML_SUCCESS);
  EXPECT_NE(strstr(version, "simgpu"), nullptr) << version;
  EXPECT_EQ(Call("nvmlSystemGetDriverVersion", version, 4u), NVML_ERROR_INSUFFICIENT_SIZE);
}

TEST_F(Nvml, UnsupportedCallsSaySo) {
  ASSERT_EQ(Call("nvmlInit_v2"), NVML_SUCCESS);
  EXPECT_EQ(Call("nvmlDeviceSetPowerManagementLimit", Card(0), 1u), NVML_ERROR_NOT_SUPPORTED);
  unsigned fan = 0;
  EXPECT_EQ(Call("nvmlDeviceGetFanSpeed", Card(0), &fan), NVML_ERROR_NOT_SUPPORTED);
  nvmlFieldValue_t fields[2] = {};
  fields[0].fieldId = NVML_FI_DEV_POWER_DEFAULT_LIMIT;
  fields[1].fieldId = 9999;
  ASSERT_EQ(Call("nvmlDeviceGetFieldValues", Card(0), 2, &fields[0]), NVML_SUCCESS);
  EXPECT_EQ(fields[0].nvmlReturn, NVML_SUCCESS);
  EXPECT_EQ(fields[0].value.uiVal, 400'000u);
  EXPECT_EQ(fields[1].nvmlReturn, NVML_ERROR_NOT_SUPPORTED);
  EXPECT_EQ(Call("nvmlDeviceGetFieldValues", Card(0), 0, &fields[0]), NVML_ERROR_INVALID_ARGUMENT);
}

TEST_F(Nvml, FindsCardsByEveryName) {
  ASSERT_EQ(Call("nvmlInit_v2"), NVML_SUCCESS);
  unsigned count = 0;
  ASSERT_EQ(Call("nvmlDeviceGetCount_v2", &count), NVML_SUCCESS);
  ASSERT_EQ(count, 2u);  // in spite of CUDA_VISIBLE_DEVICES
  for (unsigned i = 0; i < count; ++i) {
    const nvmlDevice_t card = Card(i);
    EXPECT_EQ(Number("nvmlDeviceGetIndex", card), i);
    char uuid[NVML_DEVICE_UUID_V2_BUFFER_SIZE] = {};
    ASSERT_EQ(Call("nvmlDeviceGetUUID", card, &uuid[0], static_cast<unsigned>(sizeof uuid)),
              NVML_SUCCESS);
    EXPECT_EQ(strlen(uuid), 40u);
    nvmlPciInfo_t pci = {};
    ASSERT_EQ(Call("nvmlDeviceGetPciInfo_v3", card, &pci), NVML_SUCCESS);
    EXPECT_STREQ(pci.busId + 4, pci.busIdLegacy);
    nvmlPciInfoExt_v1_t ext = {};
    EXPECT_EQ(Call("nvmlDeviceGetPciInfoExt", card, &ext), NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    ext.version = NvmlVersion<nvmlPciInfoExt_v1_t>(1);
    ASSERT_EQ(Call("nvmlDeviceGetPciInfoExt", card, &ext), NVML_SUCCESS);
    EXPECT_EQ(ext.bus, pci.bus);

    nvmlUUID_v1_t text = {NvmlVersion<nvmlUUID_v1_t>(1), 1, {}};
    memcpy(text.value.str, uuid, 41);
    nvmlDevice_t found = nullptr;
    EXPECT_EQ(Call("nvmlDeviceGetHandleByUUID", static_cast<const char*>(uuid), &found),
              NVML_SUCCESS);
    EXPECT_EQ(found, card);
    found = nullptr;
    EXPECT_EQ(Call("nvmlDeviceGetHandleByUUIDV", static_cast<const nvmlUUID_v1_t*>(&text), &found),
              NVML_SUCCESS);
    EXPECT_EQ(found, card);
    for (const char* name : {pci.busId + 0, pci.busIdLegacy + 0, pci.busId + 9}) {
      found = nullptr;
      EXPECT_EQ(Call("nvmlDeviceGetHandleByPciBusId_v2", name, &found), NVML_SUCCESS) << name;
      EXPECT_EQ(found, card);
    }
  }
  nvmlDevice_t none = nullptr;
  EXPECT_EQ(Call("nvmlDeviceGetHandleByIndex_v2", 2u, &none), NVML_ERROR_INVALID_ARGUMENT);
  EXPECT_EQ(Call("nvmlDeviceGetHandleByUUID", "GPU-none", &none), NVML_ERROR_NOT_FOUND);
  EXPECT_EQ(Call("nvmlDeviceGetHandleByPciBusId_v2", "rubbish", &none),
            NVML_ERROR_INVALID_ARGUMENT);
  EXPECT_EQ(Call("nvmlDeviceGetHandleByPciBusId_v2", "0000:F0:00.0", &none), NVML_ERROR_NOT_FOUND);
  unsigned index = 0;
  EXPECT_EQ(Call("nvmlDeviceGetIndex", reinterpret_cast<nvmlDevice_t>(&index), &index),
            NVML_ERROR_INVALID_ARGUMENT);
  EXPECT_EQ(Call("nvmlDeviceGetIndex", nvmlDevice_t{}, &index), NVML_ERROR_INVALID_ARGUMENT);
}

TEST_F(Nvml, ListsAProcessInAllLayoutsAndForgetsTheDead) {
  ASSERT_EQ(Call("nvmlInit_v2"), NVML_SUCCESS);
  const nvmlDevice_t card = Card(0);
  unsigned count = 7;
  EXPECT_EQ(Call("nvmlDeviceGetComputeRunningProcesses_v3", card, &count,
                 static_cast<nvmlProcessInfo_v2_t*>(nullptr)),
            NVML_SUCCESS);
  EXPECT_EQ(count, 0u);

  Guest first(uint64_t{3} << 30);
  Guest second(uint64_t{1} << 30);
  Profile profile = {};
  std::string error;
  ASSERT_TRUE(FindProfile("A100-80", &profile, &error)) << error;
  const uint64_t takes = (uint64_t{3} << 30) + profile.context_bytes;

  count = 0;
  EXPECT_EQ(Call("nvmlDeviceGetComputeRunningProcesses_v3", card, &count,
                 static_cast<nvmlProcessInfo_v2_t*>(nullptr)),
            NVML_ERROR_INSUFFICIENT_SIZE);
  ASSERT_EQ(count, 2u);
  // Each layout into an array with a guard behind it.
  const auto check = [&](const char* call, auto entry) {
    std::vector<decltype(entry)> entries(3);
    memset(static_cast<void*>(entries.data()), 0xee, sizeof(entry) * 3);
    unsigned room = 2;
    ASSERT_EQ(Call(call, card, &room, entries.data()), NVML_SUCCESS) << call;
    ASSERT_EQ(room, 2u);
    const auto& one = entries[entries[0].pid == static_cast<unsigned>(first.pid()) ? 0 : 1];
    EXPECT_EQ(one.pid, static_cast<unsigned>(first.pid())) << call;
    EXPECT_EQ(one.usedGpuMemory, takes) << call;
    EXPECT_EQ(entries[2].pid, 0xeeeeeeeeu) << call << " wrote past the array";
  };
  check("nvmlDeviceGetComputeRunningProcesses", nvmlProcessInfo_v1_t{});
  check("nvmlDeviceGetComputeRunningProcesses_v2", nvmlProcessInfo_v2_t{});
  check("nvmlDeviceGetComputeRunningProcesses_v3", nvmlProcessInfo_v2_t{});
  nvmlProcessDetail_v1_t details[2] = {};
  nvmlProcessDetailList_v1_t list = {NvmlVersion<nvmlProcessDetailList_v1_t>(1), 0, 2, details};
  ASSERT_EQ(Call("nvmlDeviceGetRunningProcessDetailList", card, &list), NVML_SUCCESS);
  EXPECT_EQ(list.numProcArrayEntries, 2u);
  EXPECT_EQ(details[0].gpuInstanceId, kNvmlNoInstance);
  count = 2;
  nvmlProcessInfo_v2_t graphics[2] = {};
  EXPECT_EQ(Call("nvmlDeviceGetGraphicsRunningProcesses_v3", card, &count, &graphics[0]),
            NVML_SUCCESS);
  EXPECT_EQ(count, 0u);

  char name[64] = {};
  EXPECT_EQ(Call("nvmlSystemGetProcessName", static_cast<unsigned>(first.pid()), &name[0], 64u),
            NVML_SUCCESS);
  EXPECT_NE(name[0], '\0');

  nvmlMemory_t memory = {};
  ASSERT_EQ(Call("nvmlDeviceGetMemoryInfo", card, &memory), NVML_SUCCESS);
  EXPECT_EQ(memory.used, (uint64_t{4} << 30) + 2 * profile.context_bytes);
  EXPECT_EQ(memory.free + memory.used, memory.total);
  nvmlMemory_v2_t memory2 = {};
  EXPECT_EQ(Call("nvmlDeviceGetMemoryInfo_v2", card, &memory2),
            NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
  memory2.version = NvmlVersion<nvmlMemory_v2_t>(2);
  ASSERT_EQ(Call("nvmlDeviceGetMemoryInfo_v2", card, &memory2), NVML_SUCCESS);
  EXPECT_EQ(memory2.used, memory.used);
  EXPECT_EQ(Number("nvmlDeviceGetPerformanceState", card), NVML_PSTATE_0);

  first.End();
  second.End();
  ASSERT_EQ(Call("nvmlDeviceGetMemoryInfo", card, &memory), NVML_SUCCESS);
  EXPECT_EQ(memory.used, 0u);
  EXPECT_EQ(Number("nvmlDeviceGetPerformanceState", card), NVML_PSTATE_8);
}

TEST_F(Nvml, LoadIsMeasuredAndMovesTheSensors) {
  ASSERT_EQ(Call("nvmlInit_v2"), NVML_SUCCESS);
  const nvmlDevice_t card = Card(0);
  Guest guest(uint64_t{2} << 20);
  EXPECT_EQ(Load(card), 0u);
  unsigned idle = 0;
  ASSERT_EQ(Call("nvmlDeviceGetTemperature", card, NVML_TEMPERATURE_GPU, &idle), NVML_SUCCESS);
  const unsigned idle_power = Number("nvmlDeviceGetPowerUsage", card);
  unsigned idle_clock = 0;
  ASSERT_EQ(Call("nvmlDeviceGetClockInfo", card, NVML_CLOCK_SM, &idle_clock), NVML_SUCCESS);
  nvmlProcessUtilizationSample_t samples[4] = {};
  unsigned count = 4;
  EXPECT_EQ(Call("nvmlDeviceGetProcessUtilization", card, &samples[0], &count, 0ull),
            NVML_ERROR_NOT_FOUND);

  guest.Say('b');
  const auto until = std::chrono::steady_clock::now() + kPatience;
  while (Load(card) < 90 && std::chrono::steady_clock::now() < until) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  EXPECT_GE(Load(card), 90u);
  EXPECT_EQ(Load(Card(1)), 0u);
  unsigned busy = 0;
  ASSERT_EQ(Call("nvmlDeviceGetTemperature", card, NVML_TEMPERATURE_GPU, &busy), NVML_SUCCESS);
  EXPECT_GT(busy, idle);
  nvmlTemperature_v1_t sensor = {NvmlVersion<nvmlTemperature_v1_t>(1), NVML_TEMPERATURE_GPU, 0};
  ASSERT_EQ(Call("nvmlDeviceGetTemperatureV", card, &sensor), NVML_SUCCESS);
  EXPECT_GT(sensor.temperature, static_cast<int>(idle));
  EXPECT_GT(Number("nvmlDeviceGetPowerUsage", card), idle_power);
  EXPECT_LE(Number("nvmlDeviceGetPowerUsage", card),
            Number("nvmlDeviceGetEnforcedPowerLimit", card));
  unsigned clock = 0;
  ASSERT_EQ(Call("nvmlDeviceGetClockInfo", card, NVML_CLOCK_SM, &clock), NVML_SUCCESS);
  EXPECT_GT(clock, idle_clock);
  count = 4;
  ASSERT_EQ(Call("nvmlDeviceGetProcessUtilization", card, &samples[0], &count, 0ull), NVML_SUCCESS);
  ASSERT_EQ(count, 1u);
  EXPECT_EQ(samples[0].pid, static_cast<unsigned>(guest.pid()));
  EXPECT_GE(samples[0].smUtil, 80u);
  nvmlProcessUtilizationInfo_v1_t infos[4] = {};
  nvmlProcessesUtilizationInfo_v1_t all = {NvmlVersion<nvmlProcessesUtilizationInfo_v1_t>(1), 4, 0,
                                           infos};
  ASSERT_EQ(Call("nvmlDeviceGetProcessesUtilizationInfo", card, &all), NVML_SUCCESS);
  EXPECT_EQ(all.processSamplesCount, 1u);
  EXPECT_EQ(infos[0].pid, static_cast<unsigned>(guest.pid()));

  guest.Say('e');
  const auto later = std::chrono::steady_clock::now() + kPatience;
  while (Load(card) > 0 && std::chrono::steady_clock::now() < later) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  EXPECT_EQ(Load(card), 0u);
}

// Power follows the load, and energy is that power over time: checked against the engine's own
// account, read just before and just after.
TEST_F(Nvml, EnergyIsPowerOverTime) {
  ASSERT_EQ(Call("nvmlInit_v2"), NVML_SUCCESS);
  std::string error;
  State* const witness = State::Open(&error);
  ASSERT_NE(witness, nullptr) << error;
  Guest guest(uint64_t{2} << 20);
  const ProfileFile file = ReadProfileFile("A100-80");
  const double idle = static_cast<double>(file.Number("power_idle_mw"));
  const double more = static_cast<double>(file.Number("power_limit_mw")) - idle;
  const auto truth = [&] {
    const Engine::Account account = witness->engine(0).Read();
    return (idle * static_cast<double>(account.at_ns - witness->topology().made_ns) +
            more * static_cast<double>(account.busy_ns)) /
           1e9;
  };
  double last = -1;
  for (const char command : {'b', 'e'}) {
    guest.Say(command);
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    const double before = truth();
    unsigned long long energy = 0;
    ASSERT_EQ(Call("nvmlDeviceGetTotalEnergyConsumption", Card(0), &energy), NVML_SUCCESS);
    const double after = truth();
    EXPECT_GE(static_cast<double>(energy), before - 2);
    EXPECT_LE(static_cast<double>(energy), after + 2);
    EXPECT_GT(static_cast<double>(energy), last);
    last = static_cast<double>(energy);
    nvmlFieldValue_t field = {};
    field.fieldId = NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION;
    ASSERT_EQ(Call("nvmlDeviceGetFieldValues", Card(0), 1, &field), NVML_SUCCESS);
    EXPECT_GE(field.value.ullVal, energy);
    EXPECT_LE(static_cast<double>(field.value.ullVal), truth() + 2);
  }
}

TEST_F(Nvml, CopiesAreSeenOnTheBus) {
  ASSERT_EQ(Call("nvmlInit_v2"), NVML_SUCCESS);
  const nvmlDevice_t card = Card(0);
  const auto rate = [&](unsigned direction) {
    unsigned kb_s = 1;
    EXPECT_EQ(Call("nvmlDeviceGetPcieThroughput", card, direction, &kb_s), NVML_SUCCESS);
    return kb_s;
  };
  EXPECT_EQ(rate(NVML_PCIE_UTIL_TX_BYTES), 0u);
  EXPECT_EQ(rate(NVML_PCIE_UTIL_RX_BYTES), 0u);
  EXPECT_EQ(Call("nvmlDeviceGetPcieThroughput", card, 7u, static_cast<unsigned*>(nullptr)),
            NVML_ERROR_INVALID_ARGUMENT);
  // 16 lanes of generation 4 carry 31.5 GB a second, copies at 85 % of it; a bus cannot do more.
  const double most = 1.969e6 * 16;
  Guest guest(uint64_t{2} << 20);
  guest.Say('t');
  EXPECT_TRUE(Comes([&] { return rate(NVML_PCIE_UTIL_RX_BYTES) > most * 0.7; }));
  EXPECT_LE(rate(NVML_PCIE_UTIL_RX_BYTES), most);
  EXPECT_EQ(rate(NVML_PCIE_UTIL_TX_BYTES), 0u);
  guest.Say('f');
  EXPECT_TRUE(Comes([&] { return rate(NVML_PCIE_UTIL_TX_BYTES) > most * 0.7; }));
  nvmlFieldValue_t fields[2] = {};
  fields[0].fieldId = NVML_FI_DEV_PCIE_COUNT_TX_BYTES;
  fields[1].fieldId = NVML_FI_DEV_PCIE_COUNT_RX_BYTES;
  ASSERT_EQ(Call("nvmlDeviceGetFieldValues", card, 2, &fields[0]), NVML_SUCCESS);
  EXPECT_GT(fields[0].value.ullVal, 0u);
  EXPECT_GT(fields[1].value.ullVal, fields[0].value.ullVal);
}

TEST_F(Nvml, SamplesTellTheRecentPast) {
  ASSERT_EQ(Call("nvmlInit_v2"), NVML_SUCCESS);
  const nvmlDevice_t card = Card(0);
  unsigned kind = 0;
  unsigned count = 0;
  nvmlSample_t* const none = nullptr;
  ASSERT_EQ(
      Call("nvmlDeviceGetSamples", card, NVML_GPU_UTILIZATION_SAMPLES, 0ull, &kind, &count, none),
      NVML_SUCCESS);
  EXPECT_EQ(kind, NVML_VALUE_TYPE_UNSIGNED_INT);
  ASSERT_GE(count, 4u);
  const unsigned all = count;
  Guest guest(uint64_t{2} << 20);
  guest.Say('b');
  std::vector<nvmlSample_t> samples(all);
  const auto ask = [&](unsigned type, unsigned long long since) {
    count = all;
    return Call("nvmlDeviceGetSamples", card, type, since, &kind, &count, samples.data());
  };
  // At work all the while, in the end every sample says so.
  EXPECT_TRUE(Comes([&] {
    EXPECT_EQ(ask(NVML_GPU_UTILIZATION_SAMPLES, 0), NVML_SUCCESS);
    return samples[0].sampleValue.uiVal >= 95 && samples[all - 1].sampleValue.uiVal >= 95;
  }));
  for (unsigned i = 1; i < all; ++i) EXPECT_GT(samples[i].timeStamp, samples[i - 1].timeStamp);
  const unsigned long long middle = samples[all / 2].timeStamp;
  ASSERT_EQ(ask(NVML_TOTAL_POWER_SAMPLES, middle), NVML_SUCCESS);
  EXPECT_LT(count, all);
  EXPECT_GT(samples[0].timeStamp, middle);
  EXPECT_GT(samples[0].sampleValue.uiVal, 380'000u);
  ASSERT_EQ(ask(NVML_PROCESSOR_CLK_SAMPLES, 0), NVML_SUCCESS);
  EXPECT_EQ(samples[all - 1].sampleValue.uiVal, 1410u);
  EXPECT_EQ(ask(NVML_GPU_UTILIZATION_SAMPLES, ~0ull), NVML_ERROR_NOT_FOUND);
  EXPECT_EQ(ask(NVML_MEMORY_UTILIZATION_SAMPLES, 0), NVML_ERROR_NOT_SUPPORTED);
}

// Turing takes whole pages out of use.
TEST_F(Nvml, PagesAreRetired) {
  ASSERT_EQ(Call("nvmlInit_v2"), NVML_SUCCESS);
  const nvmlDevice_t card = Card(1);
  const auto dead = NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR;
  unsigned long long* const none = nullptr;
  unsigned count = 9;
  ASSERT_EQ(Call("nvmlDeviceGetRetiredPages", card, dead, &count, none), NVML_SUCCESS);
  EXPECT_EQ(count, 0u);
  EXPECT_EQ(Number("nvmlDeviceGetRetiredPagesPendingStatus", card), 0u);
  Faults("ecc card 1 dbe 2\n");
  EXPECT_TRUE(Comes([&] {
    count = 0;
    return Call("nvmlDeviceGetRetiredPages", card, dead, &count, none) ==
           NVML_ERROR_INSUFFICIENT_SIZE;
  }));
  ASSERT_EQ(count, 2u);
  unsigned long long pages[3] = {7, 7, 7};
  unsigned long long stamps[3] = {7, 7, 7};
  ASSERT_EQ(Call("nvmlDeviceGetRetiredPages_v2", card, dead, &count, &pages[0], &stamps[0]),
            NVML_SUCCESS);
  EXPECT_EQ(pages[0], (15360ull << 20) - 4096);
  EXPECT_EQ(pages[1], (15360ull << 20) - 8192);
  EXPECT_EQ(pages[2], 7u);
  EXPECT_EQ(stamps[2], 7u);
  EXPECT_EQ(Number("nvmlDeviceGetRetiredPagesPendingStatus", card), 1u);
  count = 3;
  ASSERT_EQ(Call("nvmlDeviceGetRetiredPages", card,
                 NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS, &count, &pages[0]),
            NVML_SUCCESS);
  EXPECT_EQ(count, 0u);
  unsigned rows[4] = {};
  EXPECT_EQ(Call("nvmlDeviceGetRemappedRows", card, &rows[0], &rows[1], &rows[2], &rows[3]),
            NVML_ERROR_NOT_SUPPORTED);
  Faults("");
  EXPECT_TRUE(Comes([&] { return Number("nvmlDeviceGetRetiredPagesPendingStatus", card) == 0; }));
}

TEST_F(Nvml, ClocksSayWhyTheyAreLow) {
  ASSERT_EQ(Call("nvmlInit_v2"), NVML_SUCCESS);
  const nvmlDevice_t card = Card(0);
  const auto reasons = [&](const char* call) {
    unsigned long long bits = ~0ull;
    EXPECT_EQ(Call(call, card, &bits), NVML_SUCCESS);
    return bits;
  };
  Guest guest(uint64_t{2} << 20);
  EXPECT_TRUE(Comes([&] { return Load(card) == 0; }));
  EXPECT_EQ(reasons("nvmlDeviceGetCurrentClocksEventReasons"), nvmlClocksEventReasonGpuIdle);
  guest.Say('b');
  EXPECT_TRUE(Comes([&] { return Load(card) > 0; }));
  EXPECT_EQ(reasons("nvmlDeviceGetCurrentClocksThrottleReasons"), nvmlClocksEventReasonNone);
  EXPECT_EQ(reasons("nvmlDeviceGetSupportedClocksEventReasons"), nvmlClocksEventReasonGpuIdle);
  nvmlViolationTime_t time = {0, 1};
  ASSERT_EQ(Call("nvmlDeviceGetViolationStatus", card, NVML_PERF_POLICY_POWER, &time),
            NVML_SUCCESS);
  EXPECT_GT(time.referenceTime, 0u);
  EXPECT_EQ(time.violationTime, 0u);
}

}  // namespace
}  // namespace simgpu
