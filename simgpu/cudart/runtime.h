// The public runtime API's types as far as ordinary programs use them, and what all entry points
// share: the calling thread's device and its last error. Numbers and layouts are facts of
// CUDA 13.0.
#pragma once

#include <cstddef>

#include "abi/cuda.h"

// An entry point of the library: C linkage, visible.
#define CUDART_CALL extern "C" __attribute__((visibility("default")))

namespace simgpu::cudart {

using namespace tessera::abi;

// Runtime errors are the driver's codes for everything the driver can say; these are the runtime's
// own.
enum cudaError_t : unsigned int {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInitializationError = 3,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidPitchValue = 12,
  cudaErrorInvalidSymbol = 13,
  cudaErrorInvalidMemcpyDirection = 21,
  cudaErrorInsufficientDriver = 35,
  cudaErrorMissingConfiguration = 52,
  cudaErrorInvalidDeviceFunction = 98,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorInvalidKernelImage = 200,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorNotReady = 600,
  cudaErrorNotSupported = 801,
  cudaErrorUnknown = 999,
};

struct dim3 {
  unsigned int x, y, z;
};

enum cudaMemcpyKind : unsigned int {
  cudaMemcpyHostToHost = 0,
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost = 2,
  cudaMemcpyDeviceToDevice = 3,
  cudaMemcpyDefault = 4,
};

struct cudaDeviceProp {
  char name[256];
  CUuuid uuid;
  char luid[8];
  unsigned int luidDeviceNodeMask;
  size_t totalGlobalMem;
  size_t sharedMemPerBlock;
  int regsPerBlock;
  int warpSize;
  size_t memPitch;
  int maxThreadsPerBlock;
  int maxThreadsDim[3];
  int maxGridSize[3];
  size_t totalConstMem;
  int major;
  int minor;
  size_t textureAlignment;
  size_t texturePitchAlignment;
  int multiProcessorCount;
  int integrated;
  int canMapHostMemory;
  int textureAndSurfaceLimits[39];  // sizes of textures and surfaces: the simulated card has none
  size_t surfaceAlignment;
  int concurrentKernels;
  int ECCEnabled;
  int pciBusID;
  int pciDeviceID;
  int pciDomainID;
  int tccDriver;
  int asyncEngineCount;
  int unifiedAddressing;
  int memoryBusWidth;
  int l2CacheSize;
  int persistingL2CacheMaxSize;
  int maxThreadsPerMultiProcessor;
  int streamPrioritiesSupported;
  int globalL1CacheSupported;
  int localL1CacheSupported;
  size_t sharedMemPerMultiprocessor;
  int regsPerMultiprocessor;
  int managedMemory;
  int isMultiGpuBoard;
  int multiGpuBoardGroupID;
  int hostNativeAtomicSupported;
  int pageableMemoryAccess;
  int concurrentManagedAccess;
  int computePreemptionSupported;
  int canUseHostPointerForRegisteredMem;
  int cooperativeLaunch;
  size_t sharedMemPerBlockOptin;
  int pageableMemoryAccessUsesHostPageTables;
  int directManagedMemAccessFromHost;
  int maxBlocksPerMultiProcessor;
  int accessPolicyMaxWindowSize;
  size_t reservedSharedMemPerBlock;
  int hostRegisterSupported;
  int sparseCudaArraySupported;
  int hostRegisterReadOnlySupported;
  int timelineSemaphoreInteropSupported;
  int memoryPoolsSupported;
  int gpuDirectRDMASupported;
  unsigned int gpuDirectRDMAFlushWritesOptions;
  int gpuDirectRDMAWritesOrdering;
  unsigned int memoryPoolSupportedHandleTypes;
  int deferredMappingCudaArraySupported;
  int ipcEventSupported;
  int clusterLaunch;
  int unifiedFunctionPointers;
  int deviceNumaConfig;
  int deviceNumaId;
  int mpsEnabled;
  int hostNumaId;
  unsigned int gpuPciDeviceID;
  unsigned int gpuPciSubsystemID;
  int hostNumaMultinodeIpcSupported;
  int reserved[56];
};
static_assert(sizeof(cudaDeviceProp) == 1008 && offsetof(cudaDeviceProp, totalGlobalMem) == 288 &&
              offsetof(cudaDeviceProp, multiProcessorCount) == 384 &&
              offsetof(cudaDeviceProp, surfaceAlignment) == 552 &&
              offsetof(cudaDeviceProp, pciBusID) == 568 &&
              offsetof(cudaDeviceProp, sharedMemPerMultiprocessor) == 624 &&
              offsetof(cudaDeviceProp, reserved) == 784);

struct cudaFuncAttributes {
  size_t sharedSizeBytes;
  size_t constSizeBytes;
  size_t localSizeBytes;
  int maxThreadsPerBlock;
  int numRegs;
  int ptxVersion;
  int binaryVersion;
  int cacheModeCA;
  int maxDynamicSharedSizeBytes;
  int preferredShmemCarveout;
  int clusterDimMustBeSet;
  int requiredClusterWidth;
  int requiredClusterHeight;
  int requiredClusterDepth;
  int clusterSchedulingPolicyPreference;
  int nonPortableClusterSizeAllowed;
  int reserved[16];
};
static_assert(sizeof(cudaFuncAttributes) == 144 && offsetof(cudaFuncAttributes, reserved) == 76);

struct cudaPointerAttributes {
  unsigned int type;  // 0 unregistered, 1 host, 2 device, 3 managed
  int device;
  void* devicePointer;
  void* hostPointer;
  long reserved[8];
};
static_assert(sizeof(cudaPointerAttributes) == 88);

using cudaStreamCallback_t = void (*)(CUstream stream, cudaError_t status, void* user_data);

inline constexpr int kRuntimeVersion = 13000;
inline constexpr int kDevicesMax = 64;  // more visible devices than this are not counted

// Remembers an error for cudaGetLastError and hands it on. NotReady is an answer, not an error.
cudaError_t Record(cudaError_t error);
inline cudaError_t Record(CUresult result) { return Record(static_cast<cudaError_t>(result)); }

// The driver is open and initialised; the first failure is kept and answered to every later call.
cudaError_t EnsureDriver();
// And the thread has a current context: the one it set itself, or the primary one of its device.
cudaError_t EnsureContext();
// The device of the thread's current context. Call after EnsureContext.
int CurrentDevice();

}  // namespace simgpu::cudart

// Leaves the entry point with the reason when there is no driver, or no context.
#define CUDART_NEEDS_DRIVER() \
  if (const cudaError_t bad = EnsureDriver(); bad != cudaSuccess) return Record(bad)
#define CUDART_NEEDS_CONTEXT() \
  if (const cudaError_t bad = EnsureContext(); bad != cudaSuccess) return Record(bad)
