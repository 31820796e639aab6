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
inline constexpr unsigned int NVML_BRAND_GEFORCE = 5;
inline constexpr unsigned int NVML_CLOCK_ID_APP_CLOCK_TARGET = 1;
inline constexpr unsigned int NVML_CLOCK_ID_APP_CLOCK_DEFAULT = 2;
inline constexpr unsigned int NVML_PSTATE_UNKNOWN = 32;
inline constexpr unsigned int NVML_POWER_SOURCE_AC = 0;
inline constexpr unsigned int NVML_GPU_VIRTUALIZATION_MODE_NONE = 0;

// Why the clocks are what they are, a bit each.
inline constexpr unsigned long long nvmlClocksEventReasonNone = 0;
inline constexpr unsigned long long nvmlClocksEventReasonGpuIdle = 0x1;
inline constexpr unsigned long long nvmlClocksEventReasonSwPowerCap = 0x4;

// Memory errors: what kind, since when counted, where.
inline constexpr unsigned int NVML_MEMORY_ERROR_TYPE_CORRECTED = 0;
inline constexpr unsigned int NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1;
inline constexpr unsigned int NVML_VOLATILE_ECC = 0;
inline constexpr unsigned int NVML_AGGREGATE_ECC = 1;
inline constexpr unsigned int NVML_MEMORY_LOCATION_DRAM = 2;
inline constexpr unsigned int NVML_MEMORY_LOCATION_COUNT = 8;
inline constexpr unsigned int NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS = 0;
inline constexpr unsigned int NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR = 1;

// What two cards share, from near to far.
inline constexpr unsigned int NVML_TOPOLOGY_INTERNAL = 0;
inline constexpr unsigned int NVML_TOPOLOGY_SINGLE = 10;
inline constexpr unsigned int NVML_TOPOLOGY_MULTIPLE = 20;
inline constexpr unsigned int NVML_TOPOLOGY_HOSTBRIDGE = 30;
inline constexpr unsigned int NVML_TOPOLOGY_NODE = 40;
inline constexpr unsigned int NVML_TOPOLOGY_SYSTEM = 50;
inline constexpr unsigned int NVML_AFFINITY_SCOPE_NODE = 0;
inline constexpr unsigned int NVML_AFFINITY_SCOPE_SOCKET = 1;
inline constexpr unsigned int NVML_P2P_CAPS_INDEX_READ = 0;
inline constexpr unsigned int NVML_P2P_CAPS_INDEX_WRITE = 1;
inline constexpr unsigned int NVML_P2P_CAPS_INDEX_NVLINK = 2;
inline constexpr unsigned int NVML_P2P_CAPS_INDEX_ATOMICS = 3;
inline constexpr unsigned int NVML_P2P_CAPS_INDEX_PCI = 4;
inline constexpr unsigned int NVML_P2P_STATUS_OK = 0;
inline constexpr unsigned int NVML_P2P_STATUS_GPU_NOT_SUPPORTED = 2;
inline constexpr unsigned int NVML_P2P_STATUS_IOH_TOPOLOGY_NOT_SUPPORTED = 3;
inline constexpr unsigned int NVML_P2P_STATUS_NOT_SUPPORTED = 5;
inline constexpr unsigned int NVML_NVLINK_DEVICE_TYPE_GPU = 0;
inline constexpr unsigned int NVML_NVLINK_DEVICE_TYPE_SWITCH = 2;
inline constexpr unsigned int NVML_NVLINK_CAP_P2P_SUPPORTED = 0;
inline constexpr unsigned int NVML_NVLINK_CAP_SYSMEM_ACCESS = 1;
inline constexpr unsigned int NVML_NVLINK_CAP_P2P_ATOMICS = 2;
inline constexpr unsigned int NVML_NVLINK_CAP_SYSMEM_ATOMICS = 3;
inline constexpr unsigned int NVML_NVLINK_CAP_SLI_BRIDGE = 4;
inline constexpr unsigned int NVML_NVLINK_CAP_VALID = 5;
inline constexpr unsigned int NVML_GPU_FABRIC_STATE_COMPLETED = 3;

// What a card can be asked to report.
inline constexpr unsigned long long nvmlEventTypeSingleBitEccError = 0x1;
inline constexpr unsigned long long nvmlEventTypeDoubleBitEccError = 0x2;
inline constexpr unsigned long long nvmlEventTypePState = 0x4;
inline constexpr unsigned long long nvmlEventTypeXidCriticalError = 0x8;
inline constexpr unsigned long long nvmlEventTypeClock = 0x10;

// Which member of nvmlValue_t holds an answer.
inline constexpr unsigned int NVML_VALUE_TYPE_UNSIGNED_INT = 1;
inline constexpr unsigned int NVML_VALUE_TYPE_UNSIGNED_LONG_LONG = 3;
inline constexpr unsigned int NVML_VALUE_TYPE_SIGNED_INT = 5;

inline constexpr unsigned int NVML_TOTAL_POWER_SAMPLES = 0;
inline constexpr unsigned int NVML_GPU_UTILIZATION_SAMPLES = 1;
inline constexpr unsigned int NVML_MEMORY_UTILIZATION_SAMPLES = 2;
inline constexpr unsigned int NVML_ENC_UTILIZATION_SAMPLES = 3;
inline constexpr unsigned int NVML_DEC_UTILIZATION_SAMPLES = 4;
inline constexpr unsigned int NVML_PROCESSOR_CLK_SAMPLES = 5;
inline constexpr unsigned int NVML_MEMORY_CLK_SAMPLES = 6;

inline constexpr unsigned int NVML_PERF_POLICY_POWER = 0;
inline constexpr unsigned int NVML_PERF_POLICY_COUNT = 12;

inline constexpr unsigned int NVML_GPU_INSTANCE_PROFILE_COUNT = 0x12;
inline constexpr unsigned int NVML_COMPUTE_INSTANCE_PROFILE_COUNT = 9;
inline constexpr unsigned int NVML_DEVICE_MIG_DISABLE = 0;
inline constexpr unsigned int NVML_DEVICE_MIG_ENABLE = 1;

// Field numbers of nvmlDeviceGetFieldValues.
inline constexpr unsigned int NVML_FI_DEV_ECC_CURRENT = 1;
inline constexpr unsigned int NVML_FI_DEV_ECC_PENDING = 2;
inline constexpr unsigned int NVML_FI_DEV_ECC_SBE_VOL_TOTAL = 3;
inline constexpr unsigned int NVML_FI_DEV_ECC_DBE_VOL_TOTAL = 4;
inline constexpr unsigned int NVML_FI_DEV_ECC_SBE_AGG_TOTAL = 5;
inline constexpr unsigned int NVML_FI_DEV_ECC_DBE_AGG_TOTAL = 6;
inline constexpr unsigned int NVML_FI_DEV_ECC_SBE_VOL_DEV = 11;
inline constexpr unsigned int NVML_FI_DEV_ECC_DBE_VOL_DEV = 12;
inline constexpr unsigned int NVML_FI_DEV_RETIRED_SBE = 29;
inline constexpr unsigned int NVML_FI_DEV_RETIRED_DBE = 30;
inline constexpr unsigned int NVML_FI_DEV_RETIRED_PENDING = 31;
inline constexpr unsigned int NVML_FI_DEV_PERF_POLICY_POWER = 74;
inline constexpr unsigned int NVML_FI_DEV_MEMORY_TEMP = 82;
inline constexpr unsigned int NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION = 83;
inline constexpr unsigned int NVML_FI_DEV_NVLINK_SPEED_MBPS_L0 = 84;  // to L5
inline constexpr unsigned int NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON = 90;
inline constexpr unsigned int NVML_FI_DEV_NVLINK_LINK_COUNT = 91;
inline constexpr unsigned int NVML_FI_DEV_PCIE_REPLAY_COUNTER = 94;
inline constexpr unsigned int NVML_FI_DEV_NVLINK_SPEED_MBPS_L6 = 132;  // to L11
inline constexpr unsigned int NVML_FI_DEV_REMAPPED_COR = 142;
inline constexpr unsigned int NVML_FI_DEV_REMAPPED_UNC = 143;
inline constexpr unsigned int NVML_FI_DEV_REMAPPED_PENDING = 144;
inline constexpr unsigned int NVML_FI_DEV_REMAPPED_FAILURE = 145;
inline constexpr unsigned int NVML_FI_DEV_NVLINK_REMOTE_NVLINK_ID = 146;
inline constexpr unsigned int NVML_FI_DEV_NVSWITCH_CONNECTED_LINK_COUNT = 147;
inline constexpr unsigned int NVML_FI_DEV_NVLINK_GET_SPEED = 164;
inline constexpr unsigned int NVML_FI_DEV_NVLINK_GET_STATE = 165;
inline constexpr unsigned int NVML_FI_DEV_NVLINK_GET_VERSION = 166;
inline constexpr unsigned int NVML_FI_DEV_C2C_LINK_COUNT = 170;
inline constexpr unsigned int NVML_FI_DEV_POWER_AVERAGE = 185;
inline constexpr unsigned int NVML_FI_DEV_POWER_INSTANT = 186;
inline constexpr unsigned int NVML_FI_DEV_POWER_MIN_LIMIT = 187;
inline constexpr unsigned int NVML_FI_DEV_POWER_MAX_LIMIT = 188;
inline constexpr unsigned int NVML_FI_DEV_POWER_DEFAULT_LIMIT = 189;
inline constexpr unsigned int NVML_FI_DEV_POWER_CURRENT_LIMIT = 190;
inline constexpr unsigned int NVML_FI_DEV_ENERGY = 191;
inline constexpr unsigned int NVML_FI_DEV_POWER_REQUESTED_LIMIT = 192;
inline constexpr unsigned int NVML_FI_DEV_PCIE_COUNT_TX_BYTES = 197;
inline constexpr unsigned int NVML_FI_DEV_PCIE_COUNT_RX_BYTES = 198;

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

struct nvmlSample_t {
  unsigned long long timeStamp;  // microseconds since 1970
  nvmlValue_t sampleValue;
};
static_assert(sizeof(nvmlSample_t) == 16);

struct nvmlViolationTime_t {
  unsigned long long referenceTime;  // microseconds since 1970
  unsigned long long violationTime;  // nanoseconds
};
static_assert(sizeof(nvmlViolationTime_t) == 16);

struct nvmlEccErrorCounts_t {
  unsigned long long l1Cache;
  unsigned long long l2Cache;
  unsigned long long deviceMemory;
  unsigned long long registerFile;
};
static_assert(sizeof(nvmlEccErrorCounts_t) == 32);

struct nvmlRemappedRowsInfo_v2_t {
  unsigned int corrActiveRemaps;
  unsigned int corrInactiveRemaps;
  unsigned int uncActiveRemaps;
  unsigned int uncInactiveRemaps;
  unsigned int bPending;
  unsigned int bfailureOccurred;
};
static_assert(sizeof(nvmlRemappedRowsInfo_v2_t) == 24);

struct nvmlAccountingStats_t {
  unsigned int gpuUtilization;
  unsigned int memoryUtilization;
  unsigned long long maxMemoryUsage;
  unsigned long long time;       // milliseconds of use; 0 while the process runs
  unsigned long long startTime;  // microseconds since 1970
  unsigned int isRunning;
  unsigned int reserved[5];
};
static_assert(sizeof(nvmlAccountingStats_t) == 56);

// The unsuffixed nvmlEventSetWait fills the first three members only.
struct nvmlEventData_t {
  nvmlDevice_t device;
  unsigned long long eventType;
  unsigned long long eventData;  // XID number
  unsigned int gpuInstanceId;
  unsigned int computeInstanceId;
};
static_assert(sizeof(nvmlEventData_t) == 32);

struct nvmlEventDataLegacy_t {
  nvmlDevice_t device;
  unsigned long long eventType;
  unsigned long long eventData;
};
static_assert(sizeof(nvmlEventDataLegacy_t) == 24);

struct nvmlGpuFabricInfo_t {
  unsigned char clusterUuid[16];
  nvmlReturn_t status;
  unsigned int cliqueId;
  unsigned int state;
};
static_assert(sizeof(nvmlGpuFabricInfo_t) == 28);

struct nvmlGpuFabricInfo_v2_t {
  unsigned int version;
  unsigned char clusterUuid[16];
  nvmlReturn_t status;
  unsigned int cliqueId;
  unsigned int state;
  unsigned int healthMask;
};
static_assert(NvmlVersion<nvmlGpuFabricInfo_v2_t>(2) == 0x2000024);

struct nvmlGpuFabricInfo_v3_t {
  unsigned int version;
  unsigned char clusterUuid[16];
  nvmlReturn_t status;
  unsigned int cliqueId;
  unsigned int state;
  unsigned int healthMask;
  unsigned char healthSummary;
};
static_assert(NvmlVersion<nvmlGpuFabricInfo_v3_t>(3) == 0x3000028);

// MIG. The first layout of a GPU instance profile has no version, the second one adds a name, the
// third replaces isP2pSupported by a set of capabilities.
struct nvmlGpuInstancePlacement_t {
  unsigned int start;
  unsigned int size;
};
static_assert(sizeof(nvmlGpuInstancePlacement_t) == 8);

struct nvmlGpuInstanceProfileInfo_t {
  unsigned int id;
  unsigned int isP2pSupported;
  unsigned int sliceCount;
  unsigned int instanceCount;
  unsigned int multiprocessorCount;
  unsigned int copyEngineCount;
  unsigned int decoderCount;
  unsigned int encoderCount;
  unsigned int jpegCount;
  unsigned int ofaCount;
  unsigned long long memorySizeMB;
};
static_assert(sizeof(nvmlGpuInstanceProfileInfo_t) == 48);

struct nvmlGpuInstanceProfileInfo_v2_t {
  unsigned int version;
  unsigned int id;
  unsigned int isP2pSupported;
  unsigned int sliceCount;
  unsigned int instanceCount;
  unsigned int multiprocessorCount;
  unsigned int copyEngineCount;
  unsigned int decoderCount;
  unsigned int encoderCount;
  unsigned int jpegCount;
  unsigned int ofaCount;
  unsigned long long memorySizeMB;
  char name[NVML_DEVICE_NAME_V2_BUFFER_SIZE];
};
static_assert(NvmlVersion<nvmlGpuInstanceProfileInfo_v2_t>(2) == 0x2000098);

struct nvmlGpuInstanceProfileInfo_v3_t {
  unsigned int version;
  unsigned int id;
  unsigned int sliceCount;
  unsigned int instanceCount;
  unsigned int multiprocessorCount;
  unsigned int copyEngineCount;
  unsigned int decoderCount;
  unsigned int encoderCount;
  unsigned int jpegCount;
  unsigned int ofaCount;
  unsigned long long memorySizeMB;
  char name[NVML_DEVICE_NAME_V2_BUFFER_SIZE];
  unsigned int capabilities;
};
static_assert(NvmlVersion<nvmlGpuInstanceProfileInfo_v3_t>(3) == 0x3000098);

struct nvmlGpuInstanceInfo_t {
  nvmlDevice_t device;
  unsigned int id;
  unsigned int profileId;
  nvmlGpuInstancePlacement_t placement;
};
static_assert(sizeof(nvmlGpuInstanceInfo_t) == 24);

struct nvmlComputeInstanceProfileInfo_t {
  unsigned int id;
  unsigned int sliceCount;
  unsigned int instanceCount;
  unsigned int multiprocessorCount;
  unsigned int sharedCopyEngineCount;
  unsigned int sharedDecoderCount;
  unsigned int sharedEncoderCount;
  unsigned int sharedJpegCount;
  unsigned int sharedOfaCount;
};
static_assert(sizeof(nvmlComputeInstanceProfileInfo_t) == 36);

struct nvmlComputeInstanceProfileInfo_v2_t {
  unsigned int version;
  unsigned int id;
  unsigned int sliceCount;
  unsigned int instanceCount;
  unsigned int multiprocessorCount;
  unsigned int sharedCopyEngineCount;
  unsigned int sharedDecoderCount;
  unsigned int sharedEncoderCount;
  unsigned int sharedJpegCount;
  unsigned int sharedOfaCount;
  char name[NVML_DEVICE_NAME_V2_BUFFER_SIZE];
};
static_assert(NvmlVersion<nvmlComputeInstanceProfileInfo_v2_t>(2) == 0x2000088);

struct nvmlComputeInstanceProfileInfo_v3_t {
  unsigned int version;
  unsigned int id;
  unsigned int sliceCount;
  unsigned int instanceCount;
  unsigned int multiprocessorCount;
  unsigned int sharedCopyEngineCount;
  unsigned int sharedDecoderCount;
  unsigned int sharedEncoderCount;
  unsigned int sharedJpegCount;
  unsigned int sharedOfaCount;
  char name[NVML_DEVICE_NAME_V2_BUFFER_SIZE];
  unsigned int capabilities;
};
static_assert(NvmlVersion<nvmlComputeInstanceProfileInfo_v3_t>(3) == 0x300008c);

struct nvmlComputeInstancePlacement_t {
  unsigned int start;
  unsigned int size;
};
static_assert(sizeof(nvmlComputeInstancePlacement_t) == 8);

struct nvmlComputeInstanceInfo_t {
  nvmlDevice_t device;
  nvmlGpuInstance_t gpuInstance;
  unsigned int id;
  unsigned int profileId;
  nvmlComputeInstancePlacement_t placement;
};
static_assert(sizeof(nvmlComputeInstanceInfo_t) == 32);

struct nvmlDeviceAttributes_t {
  unsigned int multiprocessorCount;
  unsigned int sharedCopyEngineCount;
  unsigned int sharedDecoderCount;
  unsigned int sharedEncoderCount;
  unsigned int sharedJpegCount;
  unsigned int sharedOfaCount;
  unsigned int gpuInstanceSliceCount;
  unsigned int computeInstanceSliceCount;
  unsigned long long memorySizeMB;
};
static_assert(sizeof(nvmlDeviceAttributes_t) == 40);

}  // namespace tessera::abi
