// Every profile: what NVML and the driver answer is compared with the profile's file, read by the
// test itself.
#include <cstring>

#include "abi/cuda.h"
#include "simgpu/nvml/test_support.h"

namespace simgpu {
namespace {

constexpr const char* kModels[] = {"A10",     "A100-40",  "A100-80",  "B200",
                                   "H100-80", "H200-141", "RTX-4090", "T4"};
const auto* const folder = testing::AddGlobalTestEnvironment(
    new Folder("A10,A100-40,A100-80,B200,H100-80,H200-141,RTX-4090,T4"));

class Profiles : public Nvml {
 protected:
  void SetUp() override {
    Nvml::SetUp();
    ASSERT_EQ(Call("nvmlInit_v2"), NVML_SUCCESS);
    cuda_ = dlopen(SIMGPU_CUDA_PATH, RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(cuda_, nullptr) << dlerror();
    ASSERT_EQ(Cuda("cuInit", 0u), CUDA_SUCCESS);
  }
  template <typename... Args>
  CUresult Cuda(const char* name, Args... args) {
    auto* const fn = reinterpret_cast<CUresult (*)(Args...)>(dlsym(cuda_, name));
    EXPECT_NE(fn, nullptr) << name;
    return fn == nullptr ? CUDA_ERROR_NOT_FOUND : fn(args...);
  }
  int Attribute(unsigned card, CUdevice_attribute attribute) {
    int value = -1;
    EXPECT_EQ(Cuda("cuDeviceGetAttribute", &value, attribute, static_cast<CUdevice>(card)),
              CUDA_SUCCESS);
    return value;
  }
  // A number, or nothing where the library says NOT_SUPPORTED.
  template <typename... Args>
  std::string Maybe(const char* call, Args... args) {
    unsigned value = 0;
    const nvmlReturn_t code = Call(call, args..., &value);
    if (code == NVML_ERROR_NOT_SUPPORTED) return "none";
    EXPECT_EQ(code, NVML_SUCCESS) << call;
    return std::to_string(value);
  }
  void* cuda_ = nullptr;
};

TEST_F(Profiles, NvmlTellsWhatTheFileSays) {
  const std::map<std::string, unsigned> architectures = {
      {"turing", 6}, {"ampere", 7}, {"ada", 8}, {"hopper", 9}, {"blackwell", 10}};
  const std::map<std::string, unsigned> brands = {{"tesla", 2}, {"geforce", 5}, {"nvidia", 14}};
  unsigned checked = 0;
  for (unsigned i = 0; i < std::size(kModels); ++i) {
    SCOPED_TRACE(kModels[i]);
    const ProfileFile file = ReadProfileFile(kModels[i]);
    const nvmlDevice_t card = Card(i);
    char name[96] = {};
    ASSERT_EQ(Call("nvmlDeviceGetName", card, &name[0], 96u), NVML_SUCCESS);
    EXPECT_EQ(name, file.words.at("name"));
    char vbios[32] = {};
    ASSERT_EQ(Call("nvmlDeviceGetVbiosVersion", card, &vbios[0], 32u), NVML_SUCCESS);
    EXPECT_EQ(vbios, file.words.at("vbios"));
    EXPECT_EQ(Number("nvmlDeviceGetArchitecture", card),
              architectures.at(file.words.at("architecture")));
    EXPECT_EQ(Number("nvmlDeviceGetBrand", card), brands.at(file.words.at("brand")));
    int major = 0;
    int minor = 0;
    ASSERT_EQ(Call("nvmlDeviceGetCudaComputeCapability", card, &major, &minor), NVML_SUCCESS);
    EXPECT_EQ(std::to_string(major) + "." + std::to_string(minor), file.words.at("capability"));
    nvmlMemory_t memory = {};
    ASSERT_EQ(Call("nvmlDeviceGetMemoryInfo", card, &memory), NVML_SUCCESS);
    EXPECT_EQ(memory.total, file.Number("memory_mib") << 20);
    nvmlBAR1Memory_t bar1 = {};
    ASSERT_EQ(Call("nvmlDeviceGetBAR1MemoryInfo", card, &bar1), NVML_SUCCESS);
    EXPECT_EQ(bar1.bar1Total, file.Number("bar1_mib") << 20);
    EXPECT_EQ(bar1.bar1Free + bar1.bar1Used, bar1.bar1Total);
    nvmlPciInfo_t pci = {};
    ASSERT_EQ(Call("nvmlDeviceGetPciInfo_v3", card, &pci), NVML_SUCCESS);
    EXPECT_EQ(pci.pciDeviceId, file.Number("pci_device"));
    EXPECT_EQ(pci.pciSubSystemId, file.Number("pci_subsystem"));
    // Each call, and the figure of the file it tells.
    const std::map<const char*, uint64_t> figures = {
        {"nvmlDeviceGetNumGpuCores", file.Number("sm_count") * file.Number("cores_per_sm")},
        {"nvmlDeviceGetMemoryBusWidth", file.Number("memory_bus_bits")},
        {"nvmlDeviceGetCurrPcieLinkGeneration", file.Number("pcie_generation")},
        {"nvmlDeviceGetMaxPcieLinkGeneration", file.Number("pcie_generation")},
        {"nvmlDeviceGetGpuMaxPcieLinkGeneration", file.Number("pcie_generation")},
        {"nvmlDeviceGetPcieLinkMaxSpeed", file.Number("pcie_generation")},
        {"nvmlDeviceGetPcieSpeed", 1000u << file.Number("pcie_generation")},
        {"nvmlDeviceGetCurrPcieLinkWidth", file.Number("pcie_width")},
        {"nvmlDeviceGetMaxPcieLinkWidth", file.Number("pcie_width")},
        {"nvmlDeviceGetPowerUsage", file.Number("power_idle_mw")},
        {"nvmlDeviceGetEnforcedPowerLimit", file.Number("power_limit_mw")},
        {"nvmlDeviceGetPowerManagementLimit", file.Number("power_limit_mw")},
        {"nvmlDeviceGetPowerManagementDefaultLimit", file.Number("power_limit_mw")},
        {"nvmlDeviceGetPowerManagementMode", 1},
        {"nvmlDeviceGetPcieReplayCounter", 0},
        {"nvmlDeviceGetNumFans", file.Number("fans")},
        {"nvmlDeviceGetPerformanceState", 8},
        {"nvmlDeviceGetMultiGpuBoard", 0},
        {"nvmlDeviceGetVirtualizationMode", 0}};
    for (const auto& [call, figure] : figures) EXPECT_EQ(Number(call, card), figure) << call;
    unsigned low = 0;
    unsigned high = 0;
    ASSERT_EQ(Call("nvmlDeviceGetPowerManagementLimitConstraints", card, &low, &high),
              NVML_SUCCESS);
    EXPECT_EQ(low, file.Number("power_min_mw"));
    EXPECT_EQ(high, file.Number("power_max_mw"));
    const auto text = [&](const char* key) {
      const uint64_t number = file.Number(key);
      return number == 0 ? std::string("none") : std::to_string(number);
    };
    const unsigned khz[] = {NVML_CLOCK_SM, NVML_CLOCK_GRAPHICS};
    for (const unsigned domain : khz) {
      EXPECT_EQ(Maybe("nvmlDeviceGetMaxClockInfo", card, domain),
                std::to_string(file.Number("clock_khz") / 1000));
      EXPECT_EQ(Maybe("nvmlDeviceGetClockInfo", card, domain),
                std::to_string(file.Number("clock_idle_khz") / 1000));
    }
    EXPECT_EQ(Maybe("nvmlDeviceGetMaxClockInfo", card, NVML_CLOCK_MEM),
              std::to_string(file.Number("memory_clock_khz") / 1000));
    EXPECT_EQ(Maybe("nvmlDeviceGetTemperature", card, NVML_TEMPERATURE_GPU),
              text("temperature_idle_c"));
    EXPECT_EQ(Maybe("nvmlDeviceGetTemperatureThreshold", card, NVML_TEMPERATURE_THRESHOLD_SHUTDOWN),
              text("temperature_shutdown_c"));
    EXPECT_EQ(Maybe("nvmlDeviceGetTemperatureThreshold", card, NVML_TEMPERATURE_THRESHOLD_SLOWDOWN),
              text("temperature_slowdown_c"));
    EXPECT_EQ(Maybe("nvmlDeviceGetTemperatureThreshold", card, NVML_TEMPERATURE_THRESHOLD_GPU_MAX),
              text("temperature_max_c"));
    EXPECT_EQ(Maybe("nvmlDeviceGetTemperatureThreshold", card, NVML_TEMPERATURE_THRESHOLD_MEM_MAX),
              text("temperature_memory_max_c"));
    EXPECT_EQ(Maybe("nvmlDeviceGetFanSpeed", card), file.Number("fans") == 0 ? "none" : "30");
    const std::string ecc = file.words.at("ecc");
    unsigned current = 7;
    unsigned pending = 7;
    ASSERT_EQ(Call("nvmlDeviceGetEccMode", card, &current, &pending), NVML_SUCCESS);
    EXPECT_EQ(current, ecc == "on" ? 1u : 0u);
    EXPECT_EQ(pending, current);
    unsigned states[16] = {};
    ASSERT_EQ(Call("nvmlDeviceGetSupportedPerformanceStates", card, &states[0], 64u), NVML_SUCCESS);
    EXPECT_EQ(states[0], 0u);
    EXPECT_EQ(states[1], 8u);
    EXPECT_EQ(states[2], 32u);
    ++checked;
  }
  EXPECT_EQ(checked, 8u);
}

TEST_F(Profiles, FieldsTellWhatTheFileSays) {
  const std::map<std::string, unsigned> nvlink_versions = {
      {"none", 0}, {"2.0", 2}, {"3.0", 4}, {"4.0", 6}, {"5.0", 7}};
  for (unsigned i = 0; i < std::size(kModels); ++i) {
    SCOPED_TRACE(kModels[i]);
    const ProfileFile file = ReadProfileFile(kModels[i]);
    const auto field = [&](unsigned id) -> std::string {
      nvmlFieldValue_t value = {};
      value.fieldId = id;
      EXPECT_EQ(Call("nvmlDeviceGetFieldValues", Card(i), 1, &value), NVML_SUCCESS);
      if (value.nvmlReturn == NVML_ERROR_NOT_SUPPORTED) return "none";
      EXPECT_EQ(value.nvmlReturn, NVML_SUCCESS) << id;
      return std::to_string(value.valueType == NVML_VALUE_TYPE_UNSIGNED_INT ? value.value.uiVal
                                                                            : value.value.ullVal);
    };
    const bool rows = file.words.at("memory_repair") == "rows";
    const bool pages = file.words.at("memory_repair") == "pages";
    const bool ecc = file.words.at("ecc") == "on";
    const bool links = file.Number("nvlink_links") != 0;
    const auto text = [&](const char* key) { return std::to_string(file.Number(key)); };
    const std::map<unsigned, std::string> expected = {
        {NVML_FI_DEV_ECC_CURRENT, ecc ? "1" : "0"},
        {NVML_FI_DEV_ECC_DBE_VOL_TOTAL, ecc ? "0" : "none"},
        {NVML_FI_DEV_RETIRED_DBE, pages ? "0" : "none"},
        {NVML_FI_DEV_RETIRED_PENDING, pages ? "0" : "none"},
        {NVML_FI_DEV_REMAPPED_UNC, rows ? "0" : "none"},
        {NVML_FI_DEV_REMAPPED_FAILURE, rows ? "0" : "none"},
        {NVML_FI_DEV_MEMORY_TEMP,
         file.Number("temperature_memory_max_c") == 0 ? "none" : text("temperature_memory_idle_c")},
        {NVML_FI_DEV_NVLINK_LINK_COUNT, text("nvlink_links")},
        {NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON, links ? text("nvlink_mb_s") : "none"},
        // In a list of cards nothing is joined to the links.
        {NVML_FI_DEV_NVLINK_SPEED_MBPS_L0, links ? "0" : "none"},
        {NVML_FI_DEV_NVLINK_GET_STATE, links ? "0" : "none"},
        {NVML_FI_DEV_NVLINK_GET_VERSION,
         links ? std::to_string(nvlink_versions.at(file.words.at("nvlink_version"))) : "none"},
        {NVML_FI_DEV_NVLINK_REMOTE_NVLINK_ID, "none"},
        {NVML_FI_DEV_NVSWITCH_CONNECTED_LINK_COUNT, links ? "0" : "none"},
        {NVML_FI_DEV_POWER_INSTANT, text("power_idle_mw")},
        {NVML_FI_DEV_POWER_MIN_LIMIT, text("power_min_mw")},
        {NVML_FI_DEV_POWER_MAX_LIMIT, text("power_max_mw")},
        {NVML_FI_DEV_POWER_CURRENT_LIMIT, text("power_limit_mw")},
        {NVML_FI_DEV_PCIE_REPLAY_COUNTER, "0"},
        {NVML_FI_DEV_PCIE_COUNT_TX_BYTES, "0"},
        {NVML_FI_DEV_C2C_LINK_COUNT, "0"},
        {NVML_FI_DEV_PERF_POLICY_POWER, "0"}};
    for (const auto& [id, value] : expected) EXPECT_EQ(field(id), value) << "field " << id;
  }
}

TEST_F(Profiles, MigTablesAreTheFiles) {
  for (unsigned i = 0; i < std::size(kModels); ++i) {
    SCOPED_TRACE(kModels[i]);
    const ProfileFile file = ReadProfileFile(kModels[i]);
    const bool big = std::string(kModels[i]).find("00") != std::string::npos;
    EXPECT_EQ(file.mig.size(), big && kModels[i][0] != 'R' ? 7u : 0u);
    unsigned listed = 0;
    for (unsigned kind = 0; kind < NVML_GPU_INSTANCE_PROFILE_COUNT; ++kind) {
      nvmlGpuInstanceProfileInfo_v2_t info = {};
      info.version = NvmlVersion<nvmlGpuInstanceProfileInfo_v2_t>(2);
      const nvmlReturn_t code = Call("nvmlDeviceGetGpuInstanceProfileInfoV", Card(i), kind, &info);
      const std::vector<std::string>* row = nullptr;
      for (const auto& one : file.mig) {
        if (std::stoul(one[2]) == kind) row = &one;
      }
      ASSERT_EQ(code, row == nullptr ? NVML_ERROR_NOT_SUPPORTED : NVML_SUCCESS) << kind;
      if (row == nullptr) continue;
      ++listed;
      const unsigned figures[] = {
          info.sliceCount,          info.instanceCount,   static_cast<unsigned>(info.memorySizeMB),
          info.multiprocessorCount, info.copyEngineCount, info.decoderCount,
          info.encoderCount,        info.jpegCount,       info.ofaCount};
      EXPECT_EQ(info.name, "MIG " + (*row)[0]);
      EXPECT_EQ(std::to_string(info.id), (*row)[1]);
      for (unsigned column = 0; column < std::size(figures); ++column) {
        EXPECT_EQ(std::to_string(figures[column]), (*row)[3 + column]) << "column " << 3 + column;
      }
      nvmlGpuInstanceProfileInfo_t first = {};
      ASSERT_EQ(Call("nvmlDeviceGetGpuInstanceProfileInfo", Card(i), kind, &first), NVML_SUCCESS);
      EXPECT_EQ(first.memorySizeMB, info.memorySizeMB);
      EXPECT_EQ(first.id, info.id);
      nvmlGpuInstanceProfileInfo_v3_t third = {};
      third.version = NvmlVersion<nvmlGpuInstanceProfileInfo_v3_t>(3);
      ASSERT_EQ(Call("nvmlDeviceGetGpuInstanceProfileInfoByIdV", Card(i), info.id, &third),
                NVML_SUCCESS);
      EXPECT_STREQ(third.name, info.name);
      EXPECT_EQ(third.multiprocessorCount, info.multiprocessorCount);
      third.version = 1;
      EXPECT_EQ(Call("nvmlDeviceGetGpuInstanceProfileInfoV", Card(i), kind, &third),
                NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
      // Placements: "0,2,4" of size 2.
      unsigned count = 0;
      nvmlGpuInstancePlacement_t places[8] = {};
      ASSERT_EQ(Call("nvmlDeviceGetGpuInstancePossiblePlacements_v2", Card(i), info.id,
                     static_cast<nvmlGpuInstancePlacement_t*>(nullptr), &count),
                NVML_SUCCESS);
      ASSERT_LE(count, 8u);
      ASSERT_EQ(Call("nvmlDeviceGetGpuInstancePossiblePlacements_v2", Card(i), info.id, &places[0],
                     &count),
                NVML_SUCCESS);
      std::string starts;
      for (unsigned n = 0; n < count; ++n) {
        starts += (n == 0 ? "" : ",") + std::to_string(places[n].start);
        EXPECT_EQ(std::to_string(places[n].size), (*row)[12]);
      }
      EXPECT_EQ(starts, (*row)[13]);
    }
    EXPECT_EQ(listed, file.mig.size());
    unsigned current = 0;
    unsigned pending = 0;
    EXPECT_EQ(Call("nvmlDeviceGetMigMode", Card(i), &current, &pending),
              file.mig.empty() ? NVML_ERROR_NOT_SUPPORTED : NVML_SUCCESS);
  }
}

TEST_F(Profiles, TheDriverTellsTheSame) {
  int count = 0;
  ASSERT_EQ(Cuda("cuDeviceGetCount", &count), CUDA_SUCCESS);
  ASSERT_EQ(count, 8);
  for (unsigned i = 0; i < std::size(kModels); ++i) {
    SCOPED_TRACE(kModels[i]);
    const ProfileFile file = ReadProfileFile(kModels[i]);
    char name[96] = {};
    ASSERT_EQ(Cuda("cuDeviceGetName", &name[0], 96, static_cast<CUdevice>(i)), CUDA_SUCCESS);
    EXPECT_EQ(name, file.words.at("name"));
    size_t bytes = 0;
    ASSERT_EQ(Cuda("cuDeviceTotalMem_v2", &bytes, static_cast<CUdevice>(i)), CUDA_SUCCESS);
    EXPECT_EQ(bytes, file.Number("memory_mib") << 20);
    const std::map<CUdevice_attribute, uint64_t> figures = {
        {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, file.Number("sm_count")},
        {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, file.Number("threads_per_sm")},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR, file.Number("blocks_per_sm")},
        {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, file.Number("registers_per_sm")},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, file.Number("shared_per_sm")},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
         file.Number("shared_per_block_optin")},
        {CU_DEVICE_ATTRIBUTE_CLOCK_RATE, file.Number("clock_khz")},
        {CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, file.Number("memory_clock_khz")},
        {CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, file.Number("memory_bus_bits")},
        {CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, file.Number("l2_kib") << 10},
        {CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, file.Number("copy_engines")},
        {CU_DEVICE_ATTRIBUTE_ECC_ENABLED, file.words.at("ecc") == "on" ? 1u : 0u},
        {CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID, 0}};
    for (const auto& [attribute, figure] : figures) {
      EXPECT_EQ(static_cast<uint64_t>(Attribute(i, attribute)), figure) << attribute;
    }
    // Both libraries name the card alike.
    nvmlPciInfo_t pci = {};
    ASSERT_EQ(Call("nvmlDeviceGetPciInfo_v3", Card(i), &pci), NVML_SUCCESS);
    EXPECT_EQ(static_cast<unsigned>(Attribute(i, CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)), pci.bus);
    char uuid[96] = {};
    ASSERT_EQ(Call("nvmlDeviceGetUUID", Card(i), &uuid[0], 96u), NVML_SUCCESS);
    CUuuid bytes16 = {};
    ASSERT_EQ(Cuda("cuDeviceGetUuid", &bytes16, static_cast<CUdevice>(i)), CUDA_SUCCESS);
    char first[16];
    snprintf(first, sizeof first, "GPU-%02x%02x", static_cast<unsigned char>(bytes16.bytes[0]),
             static_cast<unsigned char>(bytes16.bytes[1]));
    EXPECT_EQ(std::string(uuid).substr(0, 8), first);
  }
}

// A kernel without shared memory fits as often as threads, blocks and registers of an SM allow.
TEST_F(Profiles, OccupancyFollowsTheFile) {
  constexpr char kPtx[] =
      ".version 7.0\n.target sm_75\n.address_size 64\n"
      ".visible .entry nothing()\n{\n  ret;\n}\n";
  for (unsigned i = 0; i < std::size(kModels); ++i) {
    SCOPED_TRACE(kModels[i]);
    const ProfileFile file = ReadProfileFile(kModels[i]);
    CUcontext context = nullptr;
    ASSERT_EQ(Cuda("cuDevicePrimaryCtxRetain", &context, static_cast<CUdevice>(i)), CUDA_SUCCESS);
    ASSERT_EQ(Cuda("cuCtxSetCurrent", context), CUDA_SUCCESS);
    CUmodule module = nullptr;
    ASSERT_EQ(Cuda("cuModuleLoadData", &module, static_cast<const void*>(kPtx)), CUDA_SUCCESS);
    CUfunction kernel = nullptr;
    ASSERT_EQ(Cuda("cuModuleGetFunction", &kernel, module, "nothing"), CUDA_SUCCESS);
    int registers = 0;
    ASSERT_EQ(Cuda("cuFuncGetAttribute", &registers, CU_FUNC_ATTRIBUTE_NUM_REGS, kernel),
              CUDA_SUCCESS);
    for (const int threads : {32, 128, 1024}) {
      int blocks = 0;
      ASSERT_EQ(
          Cuda("cuOccupancyMaxActiveBlocksPerMultiprocessor", &blocks, kernel, threads, size_t{0}),
          CUDA_SUCCESS);
      const uint64_t by_threads = file.Number("threads_per_sm") / threads;
      const uint64_t by_registers =
          file.Number("registers_per_sm") / (std::max(registers, 1) * threads);
      EXPECT_EQ(static_cast<uint64_t>(blocks),
                std::min({by_threads, by_registers, file.Number("blocks_per_sm")}))
          << threads << " threads, " << registers << " registers";
    }
    EXPECT_EQ(Cuda("cuModuleUnload", module), CUDA_SUCCESS);
    EXPECT_EQ(Cuda("cuDevicePrimaryCtxRelease_v2", static_cast<CUdevice>(i)), CUDA_SUCCESS);
  }
}

}  // namespace
}  // namespace simgpu
