// The driver's entry points this runtime calls, found by name in libcuda.so.1. One the driver lacks
// answers CUDA_ERROR_NOT_SUPPORTED when called.
#pragma once

#include "abi/cuda.h"

namespace simgpu::cudart {

using namespace tessera::abi;

// member, exported symbol, parameter types
#define CUDART_DRIVER_CALLS(X)                                                                    \
  X(Init, "cuInit", unsigned int)                                                                 \
  X(DriverGetVersion, "cuDriverGetVersion", int*)                                                 \
  X(DeviceGetCount, "cuDeviceGetCount", int*)                                                     \
  X(DeviceGetName, "cuDeviceGetName", char*, int, CUdevice)                                       \
  X(DeviceGetUuid, "cuDeviceGetUuid_v2", CUuuid*, CUdevice)                                       \
  X(DeviceTotalMem, "cuDeviceTotalMem_v2", size_t*, CUdevice)                                     \
  X(DeviceGetAttribute, "cuDeviceGetAttribute", int*, CUdevice_attribute, CUdevice)               \
  X(DeviceGetPCIBusId, "cuDeviceGetPCIBusId", char*, int, CUdevice)                               \
  X(DeviceGetByPCIBusId, "cuDeviceGetByPCIBusId", CUdevice*, const char*)                         \
  X(DeviceCanAccessPeer, "cuDeviceCanAccessPeer", int*, CUdevice, CUdevice)                       \
  X(DeviceGetDefaultMemPool, "cuDeviceGetDefaultMemPool", CUmemoryPool*, CUdevice)                \
  X(PrimaryRetain, "cuDevicePrimaryCtxRetain", CUcontext*, CUdevice)                              \
  X(PrimaryReset, "cuDevicePrimaryCtxReset_v2", CUdevice)                                         \
  X(PrimarySetFlags, "cuDevicePrimaryCtxSetFlags_v2", CUdevice, unsigned int)                     \
  X(CtxGetCurrent, "cuCtxGetCurrent", CUcontext*)                                                 \
  X(CtxSetCurrent, "cuCtxSetCurrent", CUcontext)                                                  \
  X(CtxGetDevice, "cuCtxGetDevice", CUdevice*)                                                    \
  X(CtxSynchronize, "cuCtxSynchronize")                                                           \
  X(CtxGetLimit, "cuCtxGetLimit", size_t*, CUlimit)                                               \
  X(CtxSetLimit, "cuCtxSetLimit", CUlimit, size_t)                                                \
  X(CtxGetStreamPriorityRange, "cuCtxGetStreamPriorityRange", int*, int*)                         \
  X(LibraryLoadData, "cuLibraryLoadData", CUlibrary*, const void*, CUjit_option*, void**,         \
    unsigned int, CUlibraryOption*, void**, unsigned int)                                         \
  X(LibraryUnload, "cuLibraryUnload", CUlibrary)                                                  \
  X(LibraryGetKernel, "cuLibraryGetKernel", CUkernel*, CUlibrary, const char*)                    \
  X(LibraryGetGlobal, "cuLibraryGetGlobal", CUdeviceptr*, size_t*, CUlibrary, const char*)        \
  X(KernelGetFunction, "cuKernelGetFunction", CUfunction*, CUkernel)                              \
  X(KernelGetAttribute, "cuKernelGetAttribute", int*, CUfunction_attribute, CUkernel, CUdevice)   \
  X(KernelSetAttribute, "cuKernelSetAttribute", CUfunction_attribute, int, CUkernel, CUdevice)    \
  X(LaunchKernel, "cuLaunchKernel", CUfunction, unsigned int, unsigned int, unsigned int,         \
    unsigned int, unsigned int, unsigned int, unsigned int, CUstream, void**, void**)             \
  X(LaunchCooperativeKernel, "cuLaunchCooperativeKernel", CUfunction, unsigned int, unsigned int, \
    unsigned int, unsigned int, unsigned int, unsigned int, unsigned int, CUstream, void**)       \
  X(LaunchHostFunc, "cuLaunchHostFunc", CUstream, CUhostFn, void*)                                \
  X(Occupancy, "cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags", int*, CUfunction, int,     \
    size_t, unsigned int)                                                                         \
  X(MemGetInfo, "cuMemGetInfo_v2", size_t*, size_t*)                                              \
  X(MemAlloc, "cuMemAlloc_v2", CUdeviceptr*, size_t)                                              \
  X(MemAllocPitch, "cuMemAllocPitch_v2", CUdeviceptr*, size_t*, size_t, size_t, unsigned int)     \
  X(MemAllocManaged, "cuMemAllocManaged", CUdeviceptr*, size_t, unsigned int)                     \
  X(MemFree, "cuMemFree_v2", CUdeviceptr)                                                         \
  X(MemAllocAsync, "cuMemAllocAsync", CUdeviceptr*, size_t, CUstream)                             \
  X(MemFreeAsync, "cuMemFreeAsync", CUdeviceptr, CUstream)                                        \
  X(MemPoolTrimTo, "cuMemPoolTrimTo", CUmemoryPool, size_t)                                       \
  X(MemPoolGetAttribute, "cuMemPoolGetAttribute", CUmemoryPool, CUmemPool_attribute, void*)       \
  X(MemPoolSetAttribute, "cuMemPoolSetAttribute", CUmemoryPool, CUmemPool_attribute, void*)       \
  X(MemHostAlloc, "cuMemHostAlloc", void**, size_t, unsigned int)                                 \
  X(MemFreeHost, "cuMemFreeHost", void*)                                                          \
  X(MemHostRegister, "cuMemHostRegister_v2", void*, size_t, unsigned int)                         \
  X(MemHostUnregister, "cuMemHostUnregister", void*)                                              \
  X(MemHostGetDevicePointer, "cuMemHostGetDevicePointer_v2", CUdeviceptr*, void*, unsigned int)   \
  X(MemHostGetFlags, "cuMemHostGetFlags", unsigned int*, void*)                                   \
  X(PointerGetAttributes, "cuPointerGetAttributes", unsigned int, CUpointer_attribute*, void**,   \
    CUdeviceptr)                                                                                  \
  X(Memcpy, "cuMemcpy", CUdeviceptr, CUdeviceptr, size_t)                                         \
  X(MemcpyHtoD, "cuMemcpyHtoD_v2", CUdeviceptr, const void*, size_t)                              \
  X(MemcpyDtoH, "cuMemcpyDtoH_v2", void*, CUdeviceptr, size_t)                                    \
  X(MemcpyDtoD, "cuMemcpyDtoD_v2", CUdeviceptr, CUdeviceptr, size_t)                              \
  X(MemcpyAsync, "cuMemcpyAsync", CUdeviceptr, CUdeviceptr, size_t, CUstream)                     \
  X(MemcpyHtoDAsync, "cuMemcpyHtoDAsync_v2", CUdeviceptr, const void*, size_t, CUstream)          \
  X(MemcpyDtoHAsync, "cuMemcpyDtoHAsync_v2", void*, CUdeviceptr, size_t, CUstream)                \
  X(MemcpyDtoDAsync, "cuMemcpyDtoDAsync_v2", CUdeviceptr, CUdeviceptr, size_t, CUstream)          \
  X(Memcpy2D, "cuMemcpy2DUnaligned_v2", const CUDA_MEMCPY2D*)                                     \
  X(Memcpy2DAsync, "cuMemcpy2DAsync_v2", const CUDA_MEMCPY2D*, CUstream)                          \
  X(MemsetD8, "cuMemsetD8_v2", CUdeviceptr, unsigned char, size_t)                                \
  X(MemsetD8Async, "cuMemsetD8Async", CUdeviceptr, unsigned char, size_t, CUstream)               \
  X(MemsetD2D8, "cuMemsetD2D8_v2", CUdeviceptr, size_t, unsigned char, size_t, size_t)            \
  X(StreamCreate, "cuStreamCreate", CUstream*, unsigned int)                                      \
  X(StreamCreateWithPriority, "cuStreamCreateWithPriority", CUstream*, unsigned int, int)         \
  X(StreamDestroy, "cuStreamDestroy_v2", CUstream)                                                \
  X(StreamSynchronize, "cuStreamSynchronize", CUstream)                                           \
  X(StreamQuery, "cuStreamQuery", CUstream)                                                       \
  X(StreamWaitEvent, "cuStreamWaitEvent", CUstream, CUevent, unsigned int)                        \
  X(StreamGetFlags, "cuStreamGetFlags", CUstream, unsigned int*)                                  \
  X(StreamGetPriority, "cuStreamGetPriority", CUstream, int*)                                     \
  X(StreamGetId, "cuStreamGetId", CUstream, unsigned long long*)                                  \
  X(StreamAddCallback, "cuStreamAddCallback", CUstream, CUstreamCallback, void*, unsigned int)    \
  X(EventCreate, "cuEventCreate", CUevent*, unsigned int)                                         \
  X(EventDestroy, "cuEventDestroy_v2", CUevent)                                                   \
  X(EventRecord, "cuEventRecord", CUevent, CUstream)                                              \
  X(EventQuery, "cuEventQuery", CUevent)                                                          \
  X(EventSynchronize, "cuEventSynchronize", CUevent)                                              \
  X(EventElapsedTime, "cuEventElapsedTime", float*, CUevent, CUevent)

// Null until Open succeeded.
struct DriverCalls {
#define CUDART_MEMBER(member, symbol, ...) CUresult (*member)(__VA_ARGS__) = nullptr;
  CUDART_DRIVER_CALLS(CUDART_MEMBER)
#undef CUDART_MEMBER
  // Finds libcuda.so.1 as any program would and fills the table. False when there is none.
  bool Open();
};

DriverCalls& Driver();

// Calls an entry point, or says that the driver has no such thing.
template <typename... Parameters, typename... Arguments>
CUresult Call(CUresult (*entry)(Parameters...), Arguments... arguments) {
  return entry == nullptr ? CUDA_ERROR_NOT_SUPPORTED : entry(arguments...);
}

}  // namespace simgpu::cudart
