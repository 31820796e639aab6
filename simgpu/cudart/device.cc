// Start-up, the thread's device, and what is asked about devices.
#include <atomic>
#include <cstring>
#include <mutex>

#include "simgpu/cudart/driver.h"
#include "simgpu/cudart/runtime.h"

namespace simgpu::cudart {
namespace {

thread_local int chosen_device = 0;
std::mutex start_mutex;
bool started = false;
cudaError_t start_error = cudaSuccess;

std::mutex primary_mutex;
CUcontext primary[kDevicesMax] = {};  // retained once a device for the life of the process

cudaError_t Count(int* count) {
  const CUresult result = Call(Driver().DeviceGetCount, count);
  if (result == CUDA_SUCCESS && *count > kDevicesMax) *count = kDevicesMax;
  return static_cast<cudaError_t>(result);
}

cudaError_t CheckDevice(int device) {
  int count = 0;
  if (const cudaError_t bad = Count(&count); bad != cudaSuccess) return bad;
  return device >= 0 && device < count ? cudaSuccess : cudaErrorInvalidDevice;
}

// Makes the primary context of a checked device current.
cudaError_t EnterPrimary(int device) {
  const std::lock_guard lock(primary_mutex);
  if (primary[device] == nullptr) {
    const CUresult result = Call(Driver().PrimaryRetain, &primary[device], device);
    if (result != CUDA_SUCCESS) {
      primary[device] = nullptr;
      return static_cast<cudaError_t>(result);
    }
  }
  return static_cast<cudaError_t>(Call(Driver().CtxSetCurrent, primary[device]));
}

}  // namespace

cudaError_t EnsureDriver() {
  const std::lock_guard lock(start_mutex);
  if (started) return start_error;
  started = true;
  if (!Driver().Open()) return start_error = cudaErrorInsufficientDriver;
  return start_error = static_cast<cudaError_t>(Call(Driver().Init, 0u));
}

cudaError_t EnsureContext() {
  if (const cudaError_t bad = EnsureDriver(); bad != cudaSuccess) return bad;
  CUcontext current = nullptr;
  if (Call(Driver().CtxGetCurrent, &current) == CUDA_SUCCESS && current != nullptr) {
    return cudaSuccess;
  }
  if (const cudaError_t bad = CheckDevice(chosen_device); bad != cudaSuccess) return bad;
  return EnterPrimary(chosen_device);
}

int CurrentDevice() {
  CUdevice device = chosen_device;
  Call(Driver().CtxGetDevice, &device);
  return device;
}

CUDART_CALL cudaError_t cudaDriverGetVersion(int* version) {
  if (version == nullptr) return Record(cudaErrorInvalidValue);
  // Asked on a machine without a driver, this call answers 0 and no error.
  if (EnsureDriver() != cudaSuccess && Driver().DriverGetVersion == nullptr) {
    *version = 0;
    return cudaSuccess;
  }
  return Record(Call(Driver().DriverGetVersion, version));
}

CUDART_CALL cudaError_t cudaRuntimeGetVersion(int* version) {
  if (version == nullptr) return Record(cudaErrorInvalidValue);
  *version = kRuntimeVersion;
  return cudaSuccess;
}

CUDART_CALL cudaError_t cudaGetDeviceCount(int* count) {
  if (count == nullptr) return Record(cudaErrorInvalidValue);
  *count = 0;
  CUDART_NEEDS_DRIVER();
  if (const cudaError_t bad = Count(count); bad != cudaSuccess) return Record(bad);
  return *count == 0 ? Record(cudaErrorNoDevice) : cudaSuccess;
}

CUDART_CALL cudaError_t cudaGetDevice(int* device) {
  if (device == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_DRIVER();
  CUcontext current = nullptr;
  const bool entered = Call(Driver().CtxGetCurrent, &current) == CUDA_SUCCESS && current != nullptr;
  *device = entered ? CurrentDevice() : chosen_device;
  return cudaSuccess;
}

CUDART_CALL cudaError_t cudaSetDevice(int device) {
  CUDART_NEEDS_DRIVER();
  if (const cudaError_t bad = CheckDevice(device); bad != cudaSuccess) return Record(bad);
  chosen_device = device;
  return Record(EnterPrimary(device));
}

CUDART_CALL cudaError_t cudaInitDevice(int device, unsigned int, unsigned int) {
  CUDART_NEEDS_DRIVER();
  if (const cudaError_t bad = CheckDevice(device); bad != cudaSuccess) return Record(bad);
  CUcontext before = nullptr;
  Call(Driver().CtxGetCurrent, &before);
  const cudaError_t answer = EnterPrimary(device);
  Call(Driver().CtxSetCurrent, before);
  return Record(answer);
}

CUDART_CALL cudaError_t cudaSetDeviceFlags(unsigned int flags) {
  CUDART_NEEDS_DRIVER();
  return Record(Call(Driver().PrimarySetFlags, chosen_device, flags));
}

CUDART_CALL cudaError_t cudaDeviceSynchronize() {
  CUDART_NEEDS_CONTEXT();
  return Record(Call(Driver().CtxSynchronize));
}

CUDART_CALL cudaError_t cudaDeviceReset() {
  CUDART_NEEDS_DRIVER();
  const int device = chosen_device;
  if (const cudaError_t bad = CheckDevice(device); bad != cudaSuccess) return Record(bad);
  {
    const std::lock_guard lock(primary_mutex);
    primary[device] = nullptr;
  }
  Call(Driver().CtxSetCurrent, CUcontext{});
  return Record(Call(Driver().PrimaryReset, device));
}

CUDART_CALL cudaError_t cudaDeviceGetLimit(size_t* value, unsigned int limit) {
  if (value == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  return Record(Call(Driver().CtxGetLimit, value, static_cast<CUlimit>(limit)));
}

CUDART_CALL cudaError_t cudaDeviceSetLimit(unsigned int limit, size_t value) {
  CUDART_NEEDS_CONTEXT();
  return Record(Call(Driver().CtxSetLimit, static_cast<CUlimit>(limit), value));
}

CUDART_CALL cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  CUDART_NEEDS_CONTEXT();
  return Record(Call(Driver().CtxGetStreamPriorityRange, least, greatest));
}

// The runtime's attribute numbers are the driver's.
CUDART_CALL cudaError_t cudaDeviceGetAttribute(int* value, unsigned int attribute, int device) {
  if (value == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_DRIVER();
  if (const cudaError_t bad = CheckDevice(device); bad != cudaSuccess) return Record(bad);
  return Record(
      Call(Driver().DeviceGetAttribute, value, static_cast<CUdevice_attribute>(attribute), device));
}

CUDART_CALL cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  if (can == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_DRIVER();
  return Record(Call(Driver().DeviceCanAccessPeer, can, device, peer));
}

CUDART_CALL cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device) {
  CUDART_NEEDS_DRIVER();
  return Record(Call(Driver().DeviceGetPCIBusId, text, length, device));
}

CUDART_CALL cudaError_t cudaDeviceGetByPCIBusId(int* device, const char* text) {
  CUDART_NEEDS_DRIVER();
  return Record(Call(Driver().DeviceGetByPCIBusId, device, text));
}

CUDART_CALL cudaError_t cudaDeviceGetDefaultMemPool(CUmemoryPool* pool, int device) {
  CUDART_NEEDS_DRIVER();
  return Record(Call(Driver().DeviceGetDefaultMemPool, pool, device));
}

CUDART_CALL cudaError_t cudaGetDeviceProperties(cudaDeviceProp* prop, int device) {
  if (prop == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_DRIVER();
  if (const cudaError_t bad = CheckDevice(device); bad != cudaSuccess) return Record(bad);
  *prop = {};
  CUresult worst =
      Call(Driver().DeviceGetName, prop->name, static_cast<int>(sizeof prop->name), device);
  if (worst == CUDA_SUCCESS) worst = Call(Driver().DeviceTotalMem, &prop->totalGlobalMem, device);
  if (worst == CUDA_SUCCESS) worst = Call(Driver().DeviceGetUuid, &prop->uuid, device);
  if (worst != CUDA_SUCCESS) return Record(worst);
  // An attribute the driver does not know leaves its field 0.
  const auto get = [&](auto* field, CUdevice_attribute attribute) {
    int value = 0;
    if (Call(Driver().DeviceGetAttribute, &value, attribute, device) == CUDA_SUCCESS) {
      *field = static_cast<std::remove_reference_t<decltype(*field)>>(value);
    }
  };
  get(&prop->sharedMemPerBlock, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK);
  get(&prop->regsPerBlock, CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK);
  get(&prop->warpSize, CU_DEVICE_ATTRIBUTE_WARP_SIZE);
  get(&prop->memPitch, CU_DEVICE_ATTRIBUTE_MAX_PITCH);
  get(&prop->maxThreadsPerBlock, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK);
  get(&prop->maxThreadsDim[0], CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X);
  get(&prop->maxThreadsDim[1], CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y);
  get(&prop->maxThreadsDim[2], CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z);
  get(&prop->maxGridSize[0], CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X);
  get(&prop->maxGridSize[1], CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y);
  get(&prop->maxGridSize[2], CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z);
  get(&prop->totalConstMem, CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY);
  get(&prop->major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
  get(&prop->minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
  get(&prop->textureAlignment, CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT);
  get(&prop->texturePitchAlignment, CU_DEVICE_ATTRIBUTE_TEXTURE_PITCH_ALIGNMENT);
  get(&prop->multiProcessorCount, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
  get(&prop->integrated, CU_DEVICE_ATTRIBUTE_INTEGRATED);
  get(&prop->canMapHostMemory, CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY);
  get(&prop->surfaceAlignment, CU_DEVICE_ATTRIBUTE_SURFACE_ALIGNMENT);
  get(&prop->concurrentKernels, CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS);
  get(&prop->ECCEnabled, CU_DEVICE_ATTRIBUTE_ECC_ENABLED);
  get(&prop->pciBusID, CU_DEVICE_ATTRIBUTE_PCI_BUS_ID);
  get(&prop->pciDeviceID, CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID);
  get(&prop->pciDomainID, CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID);
  get(&prop->asyncEngineCount, CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT);
  get(&prop->unifiedAddressing, CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING);
  get(&prop->memoryBusWidth, CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH);
  get(&prop->l2CacheSize, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
  get(&prop->maxThreadsPerMultiProcessor, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR);
  get(&prop->streamPrioritiesSupported, CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED);
  get(&prop->sharedMemPerMultiprocessor, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR);
  get(&prop->regsPerMultiprocessor, CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR);
  get(&prop->managedMemory, CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY);
  get(&prop->cooperativeLaunch, CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH);
  get(&prop->sharedMemPerBlockOptin, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
  get(&prop->maxBlocksPerMultiProcessor, CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR);
  get(&prop->memoryPoolsSupported, CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED);
  get(&prop->hostRegisterSupported, CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED);
  return cudaSuccess;
}

}  // namespace simgpu::cudart
