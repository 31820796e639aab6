// NVML's public binary interface as Tessera uses it: handles, structures, constants. Names and
// layouts are the public ones so that a reader can look them up; everything else is our own.
// `nvml.manifest` lists the entry points. Freestanding, no include at all.
// Layouts are those of a 64-bit system and asserted.
#pragma once

namespace tessera::abi {

using nvmlReturn_t = int;
inline constexpr nvmlReturn_t NVML_SUCCESS = 0;
inline constexpr nvmlReturn_t NVML_ERROR_UNINITIALIZED = 1;
inline constexpr nvmlReturn_t NVML_ERROR_INVALID_ARGUMENT = 2;
inline constexpr nvmlReturn_t NVML_ERROR_NOT_SUPPORTED = 3;
inline constexpr nvmlReturn_t NVML_ERROR_NO_PERMISSION = 4;
inline constexpr nvmlReturn_t NVML_ERROR_ALREADY_INITIALIZED = 5;
inline constexpr nvmlReturn_t NVML_ERROR_NOT_FOUND = 6;
inline constexpr nvmlReturn_t NVML_ERROR_INSUFFICIENT_SIZE = 7;
inline constexpr nvmlReturn_t NVML_ERROR_INSUFFICIENT_POWER = 8;
inline constexpr nvmlReturn_t NVML_ERROR_DRIVER_NOT_LOADED = 9;
inline constexpr nvmlReturn_t NVML_ERROR_TIMEOUT = 10;
inline constexpr nvmlReturn_t NVML_ERROR_IRQ_ISSUE = 11;
inline constexpr nvmlReturn_t NVML_ERROR_LIBRARY_NOT_FOUND = 12;
inline constexpr nvmlReturn_t NVML_ERROR_FUNCTION_NOT_FOUND = 13;
inline constexpr nvmlReturn_t NVML_ERROR_CORRUPTED_INFOROM = 14;
inline constexpr nvmlReturn_t NVML_ERROR_GPU_IS_LOST = 15;
inline constexpr nvmlReturn_t NVML_ERROR_RESET_REQUIRED = 16;
inline constexpr nvmlReturn_t NVML_ERROR_OPERATING_SYSTEM = 17;
inline constexpr nvmlReturn_t NVML_ERROR_LIB_RM_VERSION_MISMATCH = 18;
inline constexpr nvmlReturn_t NVML_ERROR_IN_USE = 19;
inline constexpr nvmlReturn_t NVML_ERROR_MEMORY = 20;
inline constexpr nvmlReturn_t NVML_ERROR_NO_DATA = 21;
inline constexpr nvmlReturn_t NVML_ERROR_VGPU_ECC_NOT_SUPPORTED = 22;
inline constexpr nvmlReturn_t NVML_ERROR_INSUFFICIENT_RESOURCES = 23;
inline constexpr nvmlReturn_t NVML_ERROR_FREQ_NOT_SUPPORTED = 24;
inline constexpr nvmlReturn_t NVML_ERROR_ARGUMENT_VERSION_MISMATCH = 25;
inline constexpr nvmlReturn_t NVML_ERROR_DEPRECATED = 26;
inline constexpr nvmlReturn_t NVML_ERROR_NOT_READY = 27;
inline constexpr nvmlReturn_t NVML_ERROR_GPU_NOT_FOUND = 28;
inline constexpr nvmlReturn_t NVML_ERROR_INVALID_STATE = 29;
inline constexpr nvmlReturn_t NVML_ERROR_RESET_TYPE_NOT_SUPPORTED = 30;
inline constexpr nvmlReturn_t NVML_ERROR_UNKNOWN = 999;

// Opaque handles.
using nvmlDevice_t = struct nvmlDevice_st*;
using nvmlUnit_t = struct nvmlUnit_st*;
using nvmlEventSet_t = struct nvmlEventSet_st*;
using nvmlSystemEventSet_t = struct nvmlSystemEventSet_st*;
using nvmlGpuInstance_t = struct nvmlGpuInstance_st*;
using nvmlComputeInstance_t = struct nvmlComputeInstance_st*;
using nvmlGpmSample_t = struct nvmlGpmSample_st*;

// "The driver does not say": a 64-bit figure, and the instance ids of a card that is not
// partitioned.
inline constexpr unsigned long long NVML_VALUE_NOT_AVAILABLE = ~0ull;
inline constexpr unsigned int kNvmlNoInstance = 0xffffffffu;

// Sizes callers use for text buffers.
inline constexpr unsigned int NVML_DEVICE_NAME_BUFFER_SIZE = 64;
inline constexpr unsigned int NVML_DEVICE_NAME_V2_BUFFER_SIZE = 96;
inline constexpr unsigned int NVML_DEVICE_UUID_BUFFER_SIZE = 80;
inline constexpr unsigned int NVML_DEVICE_UUID_V2_BUFFER_SIZE = 96;
inline constexpr unsigned int NVML_DEVICE_SERIAL_BUFFER_SIZE = 30;
inline constexpr unsigned int NVML_DEVICE_PCI_BUS_ID_BUFFER_SIZE = 32;
inline constexpr unsigned int NVML_DEVICE_PCI_BUS_ID_BUFFER_V2_SIZE = 16;
inline constexpr unsigned int NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE = 80;
inline constexpr unsigned int NVML_SYSTEM_NVML_VERSION_BUFFER_SIZE = 80;

// nvmlInitWithFlags: a machine without cards is no error; do not attach to them yet.
inline constexpr unsigned int NVML_INIT_FLAG_NO_GPUS = 1;
inline constexpr unsigned int NVML_INIT_FLAG_NO_ATTACH = 2;

inline constexpr unsigned int NVML_FEATURE_DISABLED = 0;
inline constexpr unsigned int NVML_FEATURE_ENABLED = 1;
inline constexpr unsigned int NVML_COMPUTEMODE_DEFAULT = 0;
inline constexpr unsigned int NVML_PSTATE_0 = 0;
inline constexpr unsigned int NVML_PSTATE_8 = 8;
inline constexpr unsigned int NVML_TEMPERATURE_GPU = 0;
inline constexpr unsigned int NVML_TEMPERATURE_THRESHOLD_SHUTDOWN = 0;
inline constexpr unsigned int NVML_TEMPERATURE_THRESHOLD_SLOWDOWN = 1;
inline constexpr unsigned int NVML_TEMPERATURE_THRESHOLD_MEM_MAX = 2;
inline constexpr unsigned int NVML_TEMPERATURE_THRESHOLD_GPU_MAX = 3;
inline constexpr unsigned int NVML_CLOCK_GRAPHICS = 0;
inline constexpr unsigned int NVML_CLOCK_SM = 1;
inline constexpr unsigned int NVML_CLOCK_MEM = 2;
inline constexpr unsigned int NVML_CLOCK_VIDEO = 3;
inline constexpr unsigned int NVML_CLOCK_ID_CURRENT = 0;
inline constexpr unsigned int NVML_CLOCK_ID_CUSTOMER_BOOST_MAX = 3;
inline constexpr unsigned int NVML_PCIE_UTIL_TX_BYTES = 0;
inline constexpr unsigned int NVML_PCIE_UTIL_RX_BYTES = 1;
inline constexpr unsigned int NVML_BRAND_TESLA = 2;
inline constexpr unsigned int NVML_BRAND_NVIDIA = 14;
inline constexpr unsigned int NVML_DEVICE_ARCH_TURING = 6;
inline constexpr unsigned int NVML_DEVICE_ARCH_AMPERE = 7;
inline constexpr unsigned int NVML_DEVICE_ARCH_ADA = 8;
inline constexpr unsigned int NVML_DEVICE_ARCH_HOPPER = 9;
inline constexpr unsigned int NVML_DEVICE_ARCH_BLACKWELL = 10;
inline constexpr unsigned int NVML_DEVICE_ARCH_UNKNOWN = 0xffffffffu;
inline constexpr unsigned int NVML_BUS_TYPE_PCIE = 2;

// A structure that carries its version says: number in the top byte, size below.
template <typename T>
constexpr unsigned int NvmlVersion(unsigned int number) {
  return static_cast<unsigned int>(sizeof(T)) | number << 24;
}

struct nvmlPciInfo_t {
  char busIdLegacy[NVML_DEVICE_PCI_BUS_ID_BUFFER_V2_SIZE];  // "0000:3B:00.0"
  unsigned int domain;
  unsigned int bus;
  unsigned int device;
  unsigned int pciDeviceId;  // device << 16 | vendor
  unsigned int pciSubSystemId;
  char busId[NVML_DEVICE_PCI_BUS_ID_BUFFER_SIZE];  // "00000000:3B:00.0"
};
static_assert(sizeof(nvmlPciInfo_t) == 68);

// What the unsuffixed nvmlDeviceGetPciInfo of old programs fills: the first part and four reserved
// words. The _v2 call fills no further than pciSubSystemId either.
struct nvmlPciInfoLegacy_t {
  char busId[NVML_DEVICE_PCI_BUS_ID_BUFFER_V2_SIZE];
  unsigned int domain;
  unsigned int bus;
  unsigned int device;
  unsigned int pciDeviceId;
  unsigned int pciSubSystemId;
  unsigned int reserved[4];
};
static_assert(sizeof(nvmlPciInfoLegacy_t) == 52);

struct nvmlPciInfoExt_v1_t {
  unsigned int version;
  unsigned int domain;
  unsigned int bus;
  unsigned int device;
  unsigned int pciDeviceId;
  unsigned int pciSubSystemId;
  unsigned int baseClass;
  unsigned int subClass;
  char busId[NVML_DEVICE_PCI_BUS_ID_BUFFER_SIZE];
};
static_assert(NvmlVersion<nvmlPciInfoExt_v1_t>(1) == 0x1000040);

struct nvmlMemory_t {
  unsigned long long total;
  unsigned long long free;
  unsigned long long used;  // what the driver reserves counts as used
};
static_assert(sizeof(nvmlMemory_t) == 24);

struct nvmlMemory_v2_t {
  unsigned int version;
  unsigned long long total;
  unsigned long long reserved;
  unsigned long long free;
  unsigned long long used;  // without reserved
};
static_assert(NvmlVersion<nvmlMemory_v2_t>(2) == 0x2000028);

struct nvmlBAR1Memory_t {
  unsigned long long bar1Total;
  unsigned long long bar1Free;
  unsigned long long bar1Used;
};
static_assert(sizeof(nvmlBAR1Memory_t) == 24);

struct nvmlUtilization_t {
  unsigned int gpu;     // percent of the window in which some kernel ran
  unsigned int memory;  // percent of the window in which memory was read or written
};
static_assert(sizeof(nvmlUtilization_t) == 8);

// The three layouts of a running process. The unsuffixed calls fill the first, _v2 and _v3 the
// second.
struct nvmlProcessInfo_v1_t {
  unsigned int pid;
  unsigned long long usedGpuMemory;
};
static_assert(sizeof(nvmlProcessInfo_v1_t) == 16);

struct nvmlProcessInfo_v2_t {
  unsigned int pid;
  unsigned long long usedGpuMemory;
  unsigned int gpuInstanceId;
  unsigned int computeInstanceId;
};
static_assert(sizeof(nvmlProcessInfo_v2_t) == 24);

struct nvmlProcessDetail_v1_t {
  unsigned int pid;
  unsigned long long usedGpuMemory;
  unsigned int gpuInstanceId;
  unsigned int computeInstanceId;
  unsigned long long usedGpuCcProtectedMemory;
};
static_assert(sizeof(nvmlProcessDetail_v1_t) == 32);

struct nvmlProcessDetailList_v1_t {
  unsigned int version;
  unsigned int mode;  // 0 compute, 1 graphics, 2 MPS
  unsigned int numProcArrayEntries;
  nvmlProcessDetail_v1_t* procArray;
};
static_assert(NvmlVersion<nvmlProcessDetailList_v1_t>(1) == 0x1000018);

struct nvmlProcessUtilizationSample_t {
  unsigned int pid;
  unsigned long long timeStamp;  // microseconds since 1970
  unsigned int smUtil;
  unsigned int memUtil;
  unsigned int encUtil;
  unsigned int decUtil;
};
static_assert(sizeof(nvmlProcessUtilizationSample_t) == 32);

struct nvmlProcessUtilizationInfo_v1_t {
  unsigned long long timeStamp;
  unsigned int pid;
  unsigned int smUtil;
  unsigned int memUtil;
  unsigned int encUtil;
  unsigned int decUtil;
  unsigned int jpgUtil;
  unsigned int ofaUtil;
};
static_assert(sizeof(nvmlProcessUtilizationInfo_v1_t) == 40);

struct nvmlProcessesUtilizationInfo_v1_t {
  unsigned int version;
  unsigned int processSamplesCount;
  unsigned long long lastSeenTimeStamp;
  nvmlProcessUtilizationInfo_v1_t* procUtilArray;
};
static_assert(NvmlVersion<nvmlProcessesUtilizationInfo_v1_t>(1) == 0x1000018);

union nvmlValue_t {
  double dVal;
  int siVal;
  unsigned int uiVal;
  unsigned long ulVal;
  unsigned long long ullVal;
  signed long long sllVal;
  unsigned short usVal;
};
static_assert(sizeof(nvmlValue_t) == 8);

struct nvmlFieldValue_t {
  unsigned int fieldId;
  unsigned int scopeId;
  long long timestamp;
  long long latencyUsec;
  unsigned int valueType;
  nvmlReturn_t nvmlReturn;
  nvmlValue_t value;
};
static_assert(sizeof(nvmlFieldValue_t) == 40);

struct nvmlTemperature_v1_t {
  unsigned int version;
  unsigned int sensorType;
  int temperature;
};
static_assert(NvmlVersion<nvmlTemperature_v1_t>(1) == 0x100000c);

// A card named by the text or the 16 bytes of its UUID.
struct nvmlUUID_v1_t {
  unsigned int version;
  unsigned int type;  // 1 text, 2 bytes
  union {
    char str[41];
    unsigned char bytes[16];
  } value;
};
static_assert(NvmlVersion<nvmlUUID_v1_t>(1) == 0x1000034);

struct nvmlConfComputeMemSizeInfo_t {
  unsigned long long protectedMemSizeKib;
  unsigned long long unprotectedMemSizeKib;
};
static_assert(sizeof(nvmlConfComputeMemSizeInfo_t) == 16);

}  // namespace tessera::abi
