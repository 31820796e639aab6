// The library as a client meets it: opened by its path, with another process on the card.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "abi/nvml.h"
#include "simgpu/state/state.h"

namespace simgpu {
namespace {

using namespace tessera::abi;

constexpr auto kPatience = std::chrono::seconds(60);

// The state folder must be chosen before the library is first initialised, so once for the whole
// program.
class Folder : public testing::Environment {
 public:
  void SetUp() override {
    char path[] = "/tmp/simgpu-nvml.XXXXXX";
    ASSERT_NE(mkdtemp(path), nullptr);
    path_ = path;
    setenv("SIMGPU_STATE", path, 1);
    setenv("SIMGPU_CARDS", "A100-80,T4", 1);
    // Must change nothing here: choosing cards is the CUDA driver's business.
    setenv("CUDA_VISIBLE_DEVICES", "1", 1);
  }
  void TearDown() override { std::filesystem::remove_all(path_); }

 private:
  std::string path_;
};
const auto* const folder = testing::AddGlobalTestEnvironment(new Folder);

// A process that takes memory of card 0 and works on command.
class Guest {
 public:
  explicit Guest(uint64_t bytes) {
    EXPECT_EQ(pipe(to_), 0);
    EXPECT_EQ(pipe(from_), 0);
    pid_ = fork();
    if (pid_ == 0) Live(bytes);
    // Only the child holds its ends, so that its death is heard as the end of the pipe.
    close(to_[0]);
    close(from_[1]);
    Hear();
  }
  ~Guest() { End(); }

  pid_t pid() const { return pid_; }
  void Say(char what) {
    ASSERT_EQ(write(to_[1], &what, 1), 1);
    Hear();
  }
  void End() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
    for (int fd : {to_[1], from_[0]}) close(fd);
  }

 private:
  void Hear() {
    char answer = 0;
    ASSERT_EQ(read(from_[0], &answer, 1), 1);
    ASSERT_EQ(answer, 'k');
  }
  [[noreturn]] void Live(uint64_t bytes) {
    close(to_[1]);
    close(from_[0]);
    std::string error;
    State* const state = State::Open(&error);
    char answer = 'f';
    if (state != nullptr &&
        state->Take(0, State::Kind::kContext, state->card(0).profile.context_bytes) ==
            State::Answer::kOk &&
        state->Take(0, State::Kind::kAllocation, bytes) == State::Answer::kOk) {
      answer = 'k';
    }
    char command = 0;
    while (write(from_[1], &answer, 1) == 1 && read(to_[0], &command, 1) == 1) {
      if (command == 'b') state->BeginWork(0);
      if (command == 'e') state->EndWork(0);
    }
    _exit(0);
  }

  int to_[2] = {-1, -1};
  int from_[2] = {-1, -1};
  pid_t pid_ = -1;
};

class Nvml : public testing::Test {
 protected:
  void SetUp() override {
    library_ = dlopen(SIMGPU_NVML_PATH, RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(library_, nullptr) << dlerror();
  }
  void TearDown() override {
    while (Call("nvmlShutdown") == NVML_SUCCESS) {
    }
  }

  template <typename... Args>
  nvmlReturn_t Call(const char* name, Args... args) {
    auto* const fn = reinterpret_cast<nvmlReturn_t (*)(Args...)>(dlsym(library_, name));
    EXPECT_NE(fn, nullptr) << name;
    return fn == nullptr ? NVML_ERROR_FUNCTION_NOT_FOUND : fn(args...);
  }
  nvmlDevice_t Card(unsigned index) {
    nvmlDevice_t device = nullptr;
    EXPECT_EQ(Call("nvmlDeviceGetHandleByIndex_v2", index, &device), NVML_SUCCESS);
    return device;
  }
  unsigned Load(nvmlDevice_t device) {
    nvmlUtilization_t load = {};
    EXPECT_EQ(Call("nvmlDeviceGetUtilizationRates", device, &load), NVML_SUCCESS);
    return load.gpu;
  }
  unsigned Number(const char* call, nvmlDevice_t device) {
    unsigned value = 0;
    EXPECT_EQ(Call(call, device, &value), NVML_SUCCESS) << call;
    return value;
  }

  void* library_ = nullptr;
};

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
  unsigned long long value = 0;
  EXPECT_EQ(Call("nvmlDeviceGetTotalEnergyConsumption", Card(0), &value), NVML_ERROR_NOT_SUPPORTED);
  EXPECT_EQ(Call("nvmlDeviceSetPowerManagementLimit", Card(0), 1u), NVML_ERROR_NOT_SUPPORTED);
  nvmlFieldValue_t fields[2] = {};
  ASSERT_EQ(Call("nvmlDeviceGetFieldValues", Card(0), 2, &fields[0]), NVML_SUCCESS);
  EXPECT_EQ(fields[1].nvmlReturn, NVML_ERROR_NOT_SUPPORTED);
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

TEST_F(Nvml, DescribesTheProfile) {
  ASSERT_EQ(Call("nvmlInit_v2"), NVML_SUCCESS);
  int major = 0;
  int minor = 0;
  ASSERT_EQ(Call("nvmlDeviceGetCudaComputeCapability", Card(1), &major, &minor), NVML_SUCCESS);
  EXPECT_EQ(major * 10 + minor, 75);
  EXPECT_EQ(Number("nvmlDeviceGetArchitecture", Card(1)), NVML_DEVICE_ARCH_TURING);
  EXPECT_EQ(Number("nvmlDeviceGetArchitecture", Card(0)), NVML_DEVICE_ARCH_AMPERE);
  EXPECT_EQ(Number("nvmlDeviceGetNumGpuCores", Card(0)), 6912u);
  EXPECT_EQ(Number("nvmlDeviceGetCurrPcieLinkGeneration", Card(0)), 4u);
  unsigned fan = 0;
  EXPECT_EQ(Call("nvmlDeviceGetFanSpeed", Card(0), &fan), NVML_ERROR_NOT_SUPPORTED);
  unsigned limit = 0;
  ASSERT_EQ(Call("nvmlDeviceGetTemperatureThreshold", Card(0), NVML_TEMPERATURE_THRESHOLD_SLOWDOWN,
                 &limit),
            NVML_SUCCESS);
  EXPECT_EQ(limit, 89u);
  EXPECT_EQ(Call("nvmlDeviceGetTemperatureThreshold", Card(0), NVML_TEMPERATURE_THRESHOLD_MEM_MAX,
                 &limit),
            NVML_ERROR_NOT_SUPPORTED);
}

}  // namespace
}  // namespace simgpu
