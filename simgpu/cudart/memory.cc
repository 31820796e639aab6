// Memory: taking and giving back, of devices, hosts and pools, and what a pointer is.
#include <cstring>

#include "simgpu/cudart/runtime.h"

namespace simgpu::cudart {
namespace {

// The pointer is written only on success, as with the real runtime.
cudaError_t Take(CUresult result, CUdeviceptr address, void** pointer) {
  if (result == CUDA_SUCCESS) *pointer = reinterpret_cast<void*>(address);
  return Record(result);
}

}  // namespace

CUDART_CALL cudaError_t cudaMalloc(void** pointer, size_t size) {
  if (pointer == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  if (size == 0) {
    *pointer = nullptr;
    return cudaSuccess;
  }
  CUdeviceptr address = 0;
  const CUresult result = Call(Driver().cuMemAlloc_v2)(&address, size);
  return Take(result, address, pointer);
}

CUDART_CALL cudaError_t cudaMallocPitch(void** pointer, size_t* pitch, size_t width,
                                        size_t height) {
  if (pointer == nullptr || pitch == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  if (width == 0 || height == 0) {
    *pointer = nullptr;
    *pitch = 0;
    return cudaSuccess;
  }
  CUdeviceptr address = 0;
  const CUresult result = Call(Driver().cuMemAllocPitch_v2)(&address, pitch, width, height, 4);
  return Take(result, address, pointer);
}

CUDART_CALL cudaError_t cudaMalloc3D(cudaPitchedPtr* pointer, cudaExtent extent) {
  if (pointer == nullptr) return Record(cudaErrorInvalidValue);
  size_t rows = 0;
  if (__builtin_mul_overflow(extent.height, extent.depth, &rows)) {
    return Record(cudaErrorMemoryAllocation);
  }
  cudaPitchedPtr made = {nullptr, 0, extent.width, extent.height};
  const cudaError_t result = cudaMallocPitch(&made.ptr, &made.pitch, extent.width, rows);
  if (result == cudaSuccess) *pointer = made;
  return result;
}

CUDART_CALL cudaError_t cudaMallocManaged(void** pointer, size_t size, unsigned int flags) {
  if (pointer == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  CUdeviceptr address = 0;
  const CUresult result = Call(Driver().cuMemAllocManaged)(&address, size, flags);
  return Take(result, address, pointer);
}

CUDART_CALL cudaError_t cudaFree(void* pointer) {
  // cudaFree(nullptr) is the usual way to make the context.
  CUDART_NEEDS_CONTEXT();
  if (pointer == nullptr) return cudaSuccess;
  return Record(Call(Driver().cuMemFree_v2)(Address(pointer)));
}

CUDART_PASS(cudaMemGetInfo, cuMemGetInfo_v2, (size_t* free, size_t* total), (free, total))

// Host memory.

CUDART_CALL cudaError_t cudaHostAlloc(void** pointer, size_t size, unsigned int flags) {
  if (pointer == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  if (size == 0) {
    *pointer = nullptr;
    return cudaSuccess;
  }
  return Record(Call(Driver().cuMemHostAlloc)(pointer, size, flags));
}

CUDART_CALL cudaError_t cudaMallocHost(void** pointer, size_t size) {
  return cudaHostAlloc(pointer, size, 0);
}

CUDART_CALL cudaError_t cudaFreeHost(void* pointer) {
  CUDART_NEEDS_CONTEXT();
  if (pointer == nullptr) return cudaSuccess;
  return Record(Call(Driver().cuMemFreeHost)(pointer));
}

CUDART_PASS(cudaHostRegister, cuMemHostRegister_v2,
            (void* pointer, size_t size, unsigned int flags), (pointer, size, flags))
CUDART_PASS(cudaHostUnregister, cuMemHostUnregister, (void* pointer), (pointer))
CUDART_PASS(cudaHostGetFlags, cuMemHostGetFlags, (unsigned int* flags, void* host), (flags, host))

CUDART_CALL cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned int flags) {
  if (device == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  CUdeviceptr address = 0;
  const CUresult result = Call(Driver().cuMemHostGetDevicePointer_v2)(&address, host, flags);
  return Take(result, address, device);
}

// Stream-ordered memory and its pools.

static cudaError_t MallocAsync(void** pointer, size_t size, CUstream stream) {
  if (pointer == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  CUdeviceptr address = 0;
  const CUresult result = Call(Driver().cuMemAllocAsync)(&address, size, stream);
  return Take(result, address, pointer);
}

static cudaError_t MallocFromPoolAsync(void** pointer, size_t size, CUmemoryPool pool,
                                       CUstream stream) {
  if (pointer == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  CUdeviceptr address = 0;
  const CUresult result = Call(Driver().cuMemAllocFromPoolAsync)(&address, size, pool, stream);
  return Take(result, address, pointer);
}

CUDART_BOTH_STREAM(cudaMallocAsync, MallocAsync, (void** pointer, size_t size, CUstream stream),
                   (pointer, size, stream))
CUDART_BOTH_STREAM(cudaMallocFromPoolAsync, MallocFromPoolAsync,
                   (void** pointer, size_t size, CUmemoryPool pool, CUstream stream),
                   (pointer, size, pool, stream))
CUDART_PASS_STREAM(cudaFreeAsync, cuMemFreeAsync, (void* pointer, CUstream stream),
                   (Address(pointer), stream))

CUDART_PASS(cudaMemPoolCreate, cuMemPoolCreate, (CUmemoryPool * pool, const CUmemPoolProps* props),
            (pool, props))
CUDART_PASS(cudaMemPoolDestroy, cuMemPoolDestroy, (CUmemoryPool pool), (pool))
CUDART_PASS(cudaMemPoolTrimTo, cuMemPoolTrimTo, (CUmemoryPool pool, size_t keep), (pool, keep))
CUDART_PASS(cudaMemPoolGetAttribute, cuMemPoolGetAttribute,
            (CUmemoryPool pool, CUmemPool_attribute attribute, void* value),
            (pool, attribute, value))
CUDART_PASS(cudaMemPoolSetAttribute, cuMemPoolSetAttribute,
            (CUmemoryPool pool, CUmemPool_attribute attribute, void* value),
            (pool, attribute, value))
CUDART_PASS(cudaMemPoolSetAccess, cuMemPoolSetAccess,
            (CUmemoryPool pool, const CUmemAccessDesc* list, size_t count), (pool, list, count))
CUDART_PASS(cudaMemPoolGetAccess, cuMemPoolGetAccess,
            (CUmemAccess_flags * flags, CUmemoryPool pool, CUmemLocation* location),
            (flags, pool, location))
CUDART_PASS(cudaMemPoolExportToShareableHandle, cuMemPoolExportToShareableHandle,
            (void* handle, CUmemoryPool pool, CUmemAllocationHandleType type, unsigned int flags),
            (handle, pool, type, flags))
CUDART_PASS(cudaMemPoolImportFromShareableHandle, cuMemPoolImportFromShareableHandle,
            (CUmemoryPool * pool, void* handle, CUmemAllocationHandleType type, unsigned int flags),
            (pool, handle, type, flags))
CUDART_PASS(cudaMemPoolExportPointer, cuMemPoolExportPointer,
            (CUmemPoolPtrExportData * data, void* pointer), (data, Address(pointer)))
CUDART_PASS(cudaMemPoolImportPointer, cuMemPoolImportPointer,
            (void** pointer, CUmemoryPool pool, CUmemPoolPtrExportData* data),
            (reinterpret_cast<CUdeviceptr*>(pointer), pool, data))
CUDART_PASS(cudaDeviceGetDefaultMemPool, cuDeviceGetDefaultMemPool,
            (CUmemoryPool * pool, int device), (pool, device))
CUDART_PASS(cudaDeviceGetMemPool, cuDeviceGetMemPool, (CUmemoryPool * pool, int device),
            (pool, device))
CUDART_PASS(cudaDeviceSetMemPool, cuDeviceSetMemPool, (int device, CUmemoryPool pool),
            (device, pool))
CUDART_PASS(cudaMemGetDefaultMemPool, cuMemGetDefaultMemPool,
            (CUmemoryPool * pool, CUmemLocation* location, CUmemAllocationType type),
            (pool, location, type))
CUDART_PASS(cudaMemGetMemPool, cuMemGetMemPool,
            (CUmemoryPool * pool, CUmemLocation* location, CUmemAllocationType type),
            (pool, location, type))
CUDART_PASS(cudaMemSetMemPool, cuMemSetMemPool,
            (CUmemLocation * location, CUmemAllocationType type, CUmemoryPool pool),
            (location, type, pool))

// Managed memory.

CUDART_PASS(cudaMemAdvise, cuMemAdvise_v2,
            (const void* pointer, size_t count, CUmem_advise advice, CUmemLocation location),
            (Address(pointer), count, advice, location))
CUDART_PASS_STREAM(cudaMemPrefetchAsync, cuMemPrefetchAsync_v2,
                   (const void* pointer, size_t count, CUmemLocation location, unsigned int flags,
                    CUstream stream),
                   (Address(pointer), count, location, flags, stream))
CUDART_PASS_STREAM(cudaMemPrefetchBatchAsync, cuMemPrefetchBatchAsync,
                   (CUdeviceptr * pointers, size_t* sizes, size_t count, CUmemLocation* locations,
                    size_t* indices, size_t location_count, unsigned long long flags,
                    CUstream stream),
                   (pointers, sizes, count, locations, indices, location_count, flags, stream))
CUDART_PASS_STREAM(cudaMemDiscardBatchAsync, cuMemDiscardBatchAsync,
                   (CUdeviceptr * pointers, size_t* sizes, size_t count, unsigned long long flags,
                    CUstream stream),
                   (pointers, sizes, count, flags, stream))
CUDART_PASS_STREAM(cudaMemDiscardAndPrefetchBatchAsync, cuMemDiscardAndPrefetchBatchAsync,
                   (CUdeviceptr * pointers, size_t* sizes, size_t count, CUmemLocation* locations,
                    size_t* indices, size_t location_count, unsigned long long flags,
                    CUstream stream),
                   (pointers, sizes, count, locations, indices, location_count, flags, stream))
CUDART_PASS(cudaMemRangeGetAttribute, cuMemRangeGetAttribute,
            (void* data, size_t size, CUmem_range_attribute attribute, const void* pointer,
             size_t count),
            (data, size, attribute, Address(pointer), count))
CUDART_PASS(cudaMemRangeGetAttributes, cuMemRangeGetAttributes,
            (void** data, size_t* sizes, CUmem_range_attribute* attributes, size_t attribute_count,
             const void* pointer, size_t count),
            (data, sizes, attributes, attribute_count, Address(pointer), count))

// Between processes.

CUDART_PASS(cudaIpcGetMemHandle, cuIpcGetMemHandle, (CUipcMemHandle * handle, void* pointer),
            (handle, Address(pointer)))
CUDART_PASS(cudaIpcOpenMemHandle, cuIpcOpenMemHandle_v2,
            (void** pointer, CUipcMemHandle handle, unsigned int flags),
            (reinterpret_cast<CUdeviceptr*>(pointer), handle, flags))
CUDART_PASS(cudaIpcCloseMemHandle, cuIpcCloseMemHandle, (void* pointer), (Address(pointer)))
CUDART_PASS(cudaIpcGetEventHandle, cuIpcGetEventHandle, (CUipcEventHandle * handle, CUevent event),
            (handle, event))
CUDART_PASS(cudaIpcOpenEventHandle, cuIpcOpenEventHandle,
            (CUevent * event, CUipcEventHandle handle), (event, handle))

CUDART_CALL cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes,
                                                 const void* pointer) {
  if (attributes == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  unsigned int type = 0;
  CUdeviceptr device = 0;
  void* host = nullptr;
  unsigned int managed = 0;
  int ordinal = -2;
  CUpointer_attribute wanted[] = {
      CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_DEVICE_POINTER,
      CU_POINTER_ATTRIBUTE_HOST_POINTER, CU_POINTER_ATTRIBUTE_IS_MANAGED,
      CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL};
  void* answers[] = {&type, &device, &host, &managed, &ordinal};
  const CUresult result =
      Call(Driver().cuPointerGetAttributes)(5, &wanted[0], &answers[0], Address(pointer));
  if (result != CUDA_SUCCESS) return Record(result);
  *attributes = {};
  attributes->type = managed != 0 ? 3 : type;  // the driver's HOST and DEVICE are the runtime's too
  attributes->device = ordinal;
  attributes->devicePointer = reinterpret_cast<void*>(device);
  attributes->hostPointer = type == 0 ? const_cast<void*>(pointer) : host;
  return cudaSuccess;
}

}  // namespace simgpu::cudart
