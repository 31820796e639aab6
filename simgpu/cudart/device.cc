// Start-up, the thread's device, and what belongs to a device as a whole.
#include <pthread.h>

#include <cstring>
#include <mutex>

#include "simgpu/cudart/registry.h"
#include "simgpu/cudart/runtime.h"

namespace simgpu::cudart {
namespace {

thread_local int chosen_device = 0;

std::mutex start_mutex;
std::atomic<bool> started{false};
std::atomic<bool> forked{false};  // a child whose parent had started
cudaError_t start_error = cudaSuccess;

std::mutex primary_mutex;
std::atomic<CUcontext> primary[kDevicesMax] = {};  // retained once for the life of the process
std::atomic<bool> retained[kDevicesMax] = {};      // false again after a reset

cudaError_t Count(int* count) {
  const CUresult result = Call(Driver().cuDeviceGetCount)(count);
  if (result == CUDA_SUCCESS && *count > kDevicesMax) *count = kDevicesMax;
  return static_cast<cudaError_t>(result);
}

cudaError_t CheckDevice(int device) {
  int count = 0;
  if (const cudaError_t bad = Count(&count); bad != cudaSuccess) return bad;
  return device >= 0 && device < count ? cudaSuccess : cudaErrorInvalidDevice;
}

// Of a checked device.
cudaError_t RetainPrimary(int device) {
  if (retained[device].load(std::memory_order_acquire)) return cudaSuccess;
  const std::lock_guard lock(primary_mutex);
  if (retained[device].load(std::memory_order_relaxed)) return cudaSuccess;
  CUcontext context = nullptr;
  const CUresult result = Call(Driver().cuDevicePrimaryCtxRetain)(&context, device);
  if (result != CUDA_SUCCESS) return static_cast<cudaError_t>(result);
  primary[device].store(context);
  retained[device].store(true, std::memory_order_release);
  return cudaSuccess;
}

// Makes the primary context of a checked device current.
cudaError_t EnterPrimary(int device) {
  if (const cudaError_t bad = RetainPrimary(device); bad != cudaSuccess) return bad;
  return static_cast<cudaError_t>(Call(Driver().cuCtxSetCurrent)(primary[device].load()));
}

// The device whose primary context this is, if it was reset and has to be entered anew; else -1.
int WasReset(CUcontext context) {
  for (int device = 0; device < kDevicesMax; ++device) {
    const CUcontext known = primary[device].load(std::memory_order_acquire);
    if (known == nullptr) continue;
    if (known == context) return retained[device].load(std::memory_order_acquire) ? -1 : device;
  }
  return -1;
}

cudaError_t Start() {
  const std::lock_guard lock(start_mutex);
  if (started.load(std::memory_order_relaxed)) return start_error;
  if (!Driver().Open()) {
    start_error = cudaErrorInsufficientDriver;
  } else {
    start_error = static_cast<cudaError_t>(Call(Driver().cuInit)(0));
  }
  pthread_atfork(nullptr, nullptr, [] { forked.store(true); });
  started.store(true, std::memory_order_release);
  return start_error;
}

}  // namespace

cudaError_t EnsureDriver() {
  if (forked.load(std::memory_order_relaxed)) return cudaErrorInitializationError;
  if (started.load(std::memory_order_acquire)) return start_error;
  return Start();
}

cudaError_t EnsureContext() {
  if (const cudaError_t bad = EnsureDriver(); bad != cudaSuccess) return bad;
  CUcontext current = nullptr;
  if (Call(Driver().cuCtxGetCurrent)(&current) == CUDA_SUCCESS && current != nullptr) {
    const int reset = WasReset(current);
    return reset < 0 ? cudaSuccess : EnterPrimary(reset);
  }
  if (const cudaError_t bad = CheckDevice(chosen_device); bad != cudaSuccess) return bad;
  if (const cudaError_t bad = EnterPrimary(chosen_device); bad != cudaSuccess) return bad;
  return LoadManaged();
}

int CurrentDevice() {
  CUdevice device = chosen_device;
  Call(Driver().cuCtxGetDevice)(&device);
  return device;
}

cudaError_t PrimaryOf(int device, CUcontext* context) {
  if (const cudaError_t bad = CheckDevice(device); bad != cudaSuccess) return bad;
  if (const cudaError_t bad = RetainPrimary(device); bad != cudaSuccess) return bad;
  *context = primary[device].load();
  return cudaSuccess;
}

CUDART_CALL cudaError_t cudaDriverGetVersion(int* version) {
  if (version == nullptr) return Record(cudaErrorInvalidValue);
  // Asked on a machine without a driver, this call answers 0 and no error.
  if (EnsureDriver() != cudaSuccess && Driver().cuDriverGetVersion == nullptr) {
    *version = 0;
    return cudaSuccess;
  }
  return Record(Call(Driver().cuDriverGetVersion)(version));
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
  const bool entered =
      Call(Driver().cuCtxGetCurrent)(&current) == CUDA_SUCCESS && current != nullptr;
  *device = entered ? CurrentDevice() : chosen_device;
  return cudaSuccess;
}

CUDART_CALL cudaError_t cudaSetDevice(int device) {
  CUDART_NEEDS_DRIVER();
  if (const cudaError_t bad = CheckDevice(device); bad != cudaSuccess) return Record(bad);
  chosen_device = device;
  if (const cudaError_t bad = EnterPrimary(device); bad != cudaSuccess) return Record(bad);
  return Record(LoadManaged());
}

CUDART_CALL cudaError_t cudaInitDevice(int device, unsigned int, unsigned int) {
  CUDART_NEEDS_DRIVER();
  if (const cudaError_t bad = CheckDevice(device); bad != cudaSuccess) return Record(bad);
  return Record(RetainPrimary(device));
}

CUDART_CALL cudaError_t cudaSetDeviceFlags(unsigned int flags) {
  CUDART_NEEDS_DRIVER();
  return Record(Call(Driver().cuDevicePrimaryCtxSetFlags_v2)(chosen_device, flags));
}

CUDART_CALL cudaError_t cudaGetDeviceFlags(unsigned int* flags) {
  if (flags == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_DRIVER();
  CUcontext current = nullptr;
  if (Call(Driver().cuCtxGetCurrent)(&current) == CUDA_SUCCESS && current != nullptr) {
    return Record(Call(Driver().cuCtxGetFlags)(flags));
  }
  int active = 0;
  return Record(Call(Driver().cuDevicePrimaryCtxGetState)(chosen_device, flags, &active));
}

CUDART_PASS(cudaDeviceSynchronize, cuCtxSynchronize, (), ())

CUDART_CALL cudaError_t cudaDeviceReset() {
  CUDART_NEEDS_DRIVER();
  int device = chosen_device;
  CUcontext current = nullptr;
  if (Call(Driver().cuCtxGetCurrent)(&current) == CUDA_SUCCESS && current != nullptr) {
    device = CurrentDevice();
  }
  if (const cudaError_t bad = CheckDevice(device); bad != cudaSuccess) return Record(bad);
  CUresult result = CUDA_SUCCESS;
  {
    const std::lock_guard lock(primary_mutex);
    retained[device].store(false, std::memory_order_release);
    Call(Driver().cuCtxSetCurrent)(nullptr);
    result = Call(Driver().cuDevicePrimaryCtxReset_v2)(device);
  }
  if (result == CUDA_SUCCESS) ForgetFaults();
  return Record(result);
}

CUDART_PASS(cudaDeviceGetLimit, cuCtxGetLimit, (size_t* value, CUlimit limit), (value, limit))
CUDART_PASS(cudaDeviceSetLimit, cuCtxSetLimit, (CUlimit limit, size_t value), (limit, value))
CUDART_PASS(cudaDeviceGetCacheConfig, cuCtxGetCacheConfig, (CUfunc_cache * config), (config))
CUDART_PASS(cudaDeviceSetCacheConfig, cuCtxSetCacheConfig, (CUfunc_cache config), (config))
CUDART_PASS(cudaDeviceGetSharedMemConfig, cuCtxGetSharedMemConfig, (CUsharedconfig * config),
            (config))
CUDART_PASS(cudaDeviceSetSharedMemConfig, cuCtxSetSharedMemConfig, (CUsharedconfig config),
            (config))
CUDART_PASS(cudaDeviceGetStreamPriorityRange, cuCtxGetStreamPriorityRange,
            (int* least, int* greatest), (least, greatest))
CUDART_PASS(cudaCtxResetPersistingL2Cache, cuCtxResetPersistingL2Cache, (), ())
CUDART_PASS(cudaDeviceFlushGPUDirectRDMAWrites, cuFlushGPUDirectRDMAWrites,
            (CUflushGPUDirectRDMAWritesTarget target, CUflushGPUDirectRDMAWritesScope scope),
            (target, scope))
CUDART_PASS(cudaProfilerStart, cuProfilerStart, (), ())
CUDART_PASS(cudaProfilerStop, cuProfilerStop, (), ())

// The runtime's attribute numbers are the driver's.
CUDART_CALL cudaError_t cudaDeviceGetAttribute(int* value, CUdevice_attribute attribute,
                                               int device) {
  if (value == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_DRIVER();
  if (const cudaError_t bad = CheckDevice(device); bad != cudaSuccess) return Record(bad);
  return Record(Call(Driver().cuDeviceGetAttribute)(value, attribute, device));
}

CUDART_CALL cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device) {
  CUDART_NEEDS_DRIVER();
  return Record(Call(Driver().cuDeviceGetPCIBusId)(text, length, device));
}

CUDART_CALL cudaError_t cudaDeviceGetByPCIBusId(int* device, const char* text) {
  CUDART_NEEDS_DRIVER();
  return Record(Call(Driver().cuDeviceGetByPCIBusId)(device, text));
}

// Peers.

CUDART_CALL cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  if (can == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_DRIVER();
  return Record(Call(Driver().cuDeviceCanAccessPeer)(can, device, peer));
}

CUDART_CALL cudaError_t cudaDeviceGetP2PAttribute(int* value, CUdevice_P2PAttribute attribute,
                                                  int device, int peer) {
  CUDART_NEEDS_DRIVER();
  return Record(Call(Driver().cuDeviceGetP2PAttribute)(value, attribute, device, peer));
}

CUDART_CALL cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned int flags) {
  CUDART_NEEDS_CONTEXT();
  if (peer == CurrentDevice()) return Record(cudaErrorInvalidDevice);
  CUcontext context = nullptr;
  if (const cudaError_t bad = PrimaryOf(peer, &context); bad != cudaSuccess) return Record(bad);
  return Record(Call(Driver().cuCtxEnablePeerAccess)(context, flags));
}

CUDART_CALL cudaError_t cudaDeviceDisablePeerAccess(int peer) {
  CUDART_NEEDS_CONTEXT();
  CUcontext context = nullptr;
  if (const cudaError_t bad = PrimaryOf(peer, &context); bad != cudaSuccess) return Record(bad);
  return Record(Call(Driver().cuCtxDisablePeerAccess)(context));
}

// The driver's entry points by name, of this runtime's version or of a given one.

static cudaError_t EntryPoint(const char* symbol, void** entry, int version,
                              unsigned long long flags, CUdriverProcAddressQueryResult* status) {
  if (symbol == nullptr || entry == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_DRIVER();
  CUdriverProcAddressQueryResult found = {};
  *entry = nullptr;
  const CUresult result = Call(Driver().cuGetProcAddress_v2)(symbol, entry, version, flags, &found);
  if (status == nullptr) return Record(result);
  *status = found;
  return result == CUDA_ERROR_NOT_FOUND ? cudaSuccess : Record(result);
}

CUDART_CALL cudaError_t cudaGetDriverEntryPoint(const char* symbol, void** entry,
                                                unsigned long long flags,
                                                CUdriverProcAddressQueryResult* status) {
  return EntryPoint(symbol, entry, kRuntimeVersion, flags, status);
}

CUDART_CALL cudaError_t cudaGetDriverEntryPoint_ptsz(const char* symbol, void** entry,
                                                     unsigned long long flags,
                                                     CUdriverProcAddressQueryResult* status) {
  if (flags == CU_GET_PROC_ADDRESS_DEFAULT) flags = CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM;
  return EntryPoint(symbol, entry, kRuntimeVersion, flags, status);
}

CUDART_CALL cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** entry,
                                                         unsigned int version,
                                                         unsigned long long flags,
                                                         CUdriverProcAddressQueryResult* status) {
  return EntryPoint(symbol, entry, static_cast<int>(version), flags, status);
}

CUDART_CALL cudaError_t cudaGetDriverEntryPointByVersion_ptsz(
    const char* symbol, void** entry, unsigned int version, unsigned long long flags,
    CUdriverProcAddressQueryResult* status) {
  if (flags == CU_GET_PROC_ADDRESS_DEFAULT) flags = CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM;
  return EntryPoint(symbol, entry, static_cast<int>(version), flags, status);
}

}  // namespace simgpu::cudart
