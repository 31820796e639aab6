// Memory: taking, giving back, copying, setting, and what a pointer is.
#include <cstring>

#include "simgpu/cudart/driver.h"
#include "simgpu/cudart/registry.h"
#include "simgpu/cudart/runtime.h"

namespace simgpu::cudart {
namespace {

CUdeviceptr Device(const void* pointer) { return reinterpret_cast<CUdeviceptr>(pointer); }

// The pointer is written only on success, as with the real runtime.
cudaError_t Take(CUresult result, CUdeviceptr address, void** pointer) {
  if (result == CUDA_SUCCESS) *pointer = reinterpret_cast<void*>(address);
  return Record(result);
}

cudaError_t Copy(void* to, const void* from, size_t count, unsigned int kind) {
  CUDART_NEEDS_CONTEXT();
  if (count == 0) return cudaSuccess;
  switch (kind) {
    case cudaMemcpyHostToHost:
      std::memmove(to, from, count);
      return cudaSuccess;
    case cudaMemcpyHostToDevice:
      return Record(Call(Driver().MemcpyHtoD, Device(to), from, count));
    case cudaMemcpyDeviceToHost:
      return Record(Call(Driver().MemcpyDtoH, to, Device(from), count));
    case cudaMemcpyDeviceToDevice:
      return Record(Call(Driver().MemcpyDtoD, Device(to), Device(from), count));
    case cudaMemcpyDefault:
      return Record(Call(Driver().Memcpy, Device(to), Device(from), count));
    default:
      return Record(cudaErrorInvalidMemcpyDirection);
  }
}

cudaError_t CopyAsync(void* to, const void* from, size_t count, unsigned int kind,
                      CUstream stream) {
  CUDART_NEEDS_CONTEXT();
  if (count == 0) return cudaSuccess;
  switch (kind) {
    case cudaMemcpyHostToDevice:
      return Record(Call(Driver().MemcpyHtoDAsync, Device(to), from, count, stream));
    case cudaMemcpyDeviceToHost:
      return Record(Call(Driver().MemcpyDtoHAsync, to, Device(from), count, stream));
    case cudaMemcpyDeviceToDevice:
      return Record(Call(Driver().MemcpyDtoDAsync, Device(to), Device(from), count, stream));
    case cudaMemcpyHostToHost:
    case cudaMemcpyDefault:
      return Record(Call(Driver().MemcpyAsync, Device(to), Device(from), count, stream));
    default:
      return Record(cudaErrorInvalidMemcpyDirection);
  }
}

// A rectangle in the driver's words.
cudaError_t Describe(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                     size_t height, unsigned int kind, CUDA_MEMCPY2D* copy) {
  if (kind > cudaMemcpyDefault) return cudaErrorInvalidMemcpyDirection;
  if (width > to_pitch || width > from_pitch) return cudaErrorInvalidPitchValue;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool unified = kind == cudaMemcpyDefault;
  *copy = {};
  copy->srcMemoryType = unified       ? CU_MEMORYTYPE_UNIFIED
                        : from_device ? CU_MEMORYTYPE_DEVICE
                                      : CU_MEMORYTYPE_HOST;
  copy->dstMemoryType = unified     ? CU_MEMORYTYPE_UNIFIED
                        : to_device ? CU_MEMORYTYPE_DEVICE
                                    : CU_MEMORYTYPE_HOST;
  copy->srcHost = from;
  copy->srcDevice = Device(from);
  copy->dstHost = to;
  copy->dstDevice = Device(to);
  copy->srcPitch = from_pitch;
  copy->dstPitch = to_pitch;
  copy->WidthInBytes = width;
  copy->Height = height;
  return cudaSuccess;
}

// The part of a variable that a symbol copy names.
cudaError_t SymbolRange(const void* symbol, size_t count, size_t offset, CUdeviceptr* address) {
  size_t size = 0;
  if (const cudaError_t bad = FindVariable(symbol, address, &size); bad != cudaSuccess) return bad;
  if (offset > size || count > size - offset) return cudaErrorInvalidValue;
  *address += offset;
  return cudaSuccess;
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
  const CUresult result = Call(Driver().MemAlloc, &address, size);
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
  const CUresult result = Call(Driver().MemAllocPitch, &address, pitch, width, height, 4u);
  return Take(result, address, pointer);
}

CUDART_CALL cudaError_t cudaMallocManaged(void** pointer, size_t size, unsigned int flags) {
  if (pointer == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  CUdeviceptr address = 0;
  const CUresult result = Call(Driver().MemAllocManaged, &address, size, flags);
  return Take(result, address, pointer);
}

CUDART_CALL cudaError_t cudaFree(void* pointer) {
  // cudaFree(nullptr) is the usual way to make the context.
  CUDART_NEEDS_CONTEXT();
  if (pointer == nullptr) return cudaSuccess;
  return Record(Call(Driver().MemFree, Device(pointer)));
}

CUDART_CALL cudaError_t cudaMallocAsync(void** pointer, size_t size, CUstream stream) {
  if (pointer == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  CUdeviceptr address = 0;
  const CUresult result = Call(Driver().MemAllocAsync, &address, size, stream);
  return Take(result, address, pointer);
}

CUDART_CALL cudaError_t cudaFreeAsync(void* pointer, CUstream stream) {
  CUDART_NEEDS_CONTEXT();
  return Record(Call(Driver().MemFreeAsync, Device(pointer), stream));
}

CUDART_CALL cudaError_t cudaMemPoolTrimTo(CUmemoryPool pool, size_t keep) {
  CUDART_NEEDS_CONTEXT();
  return Record(Call(Driver().MemPoolTrimTo, pool, keep));
}

CUDART_CALL cudaError_t cudaMemPoolGetAttribute(CUmemoryPool pool, unsigned int attribute,
                                                void* value) {
  CUDART_NEEDS_CONTEXT();
  return Record(
      Call(Driver().MemPoolGetAttribute, pool, static_cast<CUmemPool_attribute>(attribute), value));
}

CUDART_CALL cudaError_t cudaMemPoolSetAttribute(CUmemoryPool pool, unsigned int attribute,
                                                void* value) {
  CUDART_NEEDS_CONTEXT();
  return Record(
      Call(Driver().MemPoolSetAttribute, pool, static_cast<CUmemPool_attribute>(attribute), value));
}

CUDART_CALL cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  CUDART_NEEDS_CONTEXT();
  return Record(Call(Driver().MemGetInfo, free, total));
}

CUDART_CALL cudaError_t cudaHostAlloc(void** pointer, size_t size, unsigned int flags) {
  if (pointer == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  if (size == 0) {
    *pointer = nullptr;
    return cudaSuccess;
  }
  return Record(Call(Driver().MemHostAlloc, pointer, size, flags));
}

CUDART_CALL cudaError_t cudaMallocHost(void** pointer, size_t size) {
  return cudaHostAlloc(pointer, size, 0);
}

CUDART_CALL cudaError_t cudaFreeHost(void* pointer) {
  CUDART_NEEDS_CONTEXT();
  if (pointer == nullptr) return cudaSuccess;
  return Record(Call(Driver().MemFreeHost, pointer));
}

CUDART_CALL cudaError_t cudaHostRegister(void* pointer, size_t size, unsigned int flags) {
  CUDART_NEEDS_CONTEXT();
  return Record(Call(Driver().MemHostRegister, pointer, size, flags));
}

CUDART_CALL cudaError_t cudaHostUnregister(void* pointer) {
  CUDART_NEEDS_CONTEXT();
  return Record(Call(Driver().MemHostUnregister, pointer));
}

CUDART_CALL cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned int flags) {
  if (device == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  CUdeviceptr address = 0;
  const CUresult result = Call(Driver().MemHostGetDevicePointer, &address, host, flags);
  return Take(result, address, device);
}

CUDART_CALL cudaError_t cudaHostGetFlags(unsigned int* flags, void* host) {
  CUDART_NEEDS_CONTEXT();
  return Record(Call(Driver().MemHostGetFlags, flags, host));
}

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
      Call(Driver().PointerGetAttributes, 5u, &wanted[0], &answers[0], Device(pointer));
  if (result != CUDA_SUCCESS) return Record(result);
  *attributes = {};
  attributes->type = managed != 0 ? 3 : type;  // the driver's HOST and DEVICE are the runtime's too
  attributes->device = ordinal;
  attributes->devicePointer = reinterpret_cast<void*>(device);
  attributes->hostPointer = type == 0 ? const_cast<void*>(pointer) : host;
  return cudaSuccess;
}

CUDART_CALL cudaError_t cudaMemcpy(void* to, const void* from, size_t count, unsigned int kind) {
  return Copy(to, from, count, kind);
}

CUDART_CALL cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t count, unsigned int kind,
                                        CUstream stream) {
  return CopyAsync(to, from, count, kind, stream);
}

CUDART_CALL cudaError_t cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                                     size_t width, size_t height, unsigned int kind) {
  CUDART_NEEDS_CONTEXT();
  if (width == 0 || height == 0) return cudaSuccess;
  CUDA_MEMCPY2D copy;
  const cudaError_t bad = Describe(to, to_pitch, from, from_pitch, width, height, kind, &copy);
  if (bad != cudaSuccess) return Record(bad);
  return Record(Call(Driver().Memcpy2D, &copy));
}

CUDART_CALL cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from,
                                          size_t from_pitch, size_t width, size_t height,
                                          unsigned int kind, CUstream stream) {
  CUDART_NEEDS_CONTEXT();
  if (width == 0 || height == 0) return cudaSuccess;
  CUDA_MEMCPY2D copy;
  const cudaError_t bad = Describe(to, to_pitch, from, from_pitch, width, height, kind, &copy);
  if (bad != cudaSuccess) return Record(bad);
  return Record(Call(Driver().Memcpy2DAsync, &copy, stream));
}

CUDART_CALL cudaError_t cudaMemset(void* pointer, int value, size_t count) {
  CUDART_NEEDS_CONTEXT();
  if (count == 0) return cudaSuccess;
  return Record(Call(Driver().MemsetD8, Device(pointer), static_cast<unsigned char>(value), count));
}

CUDART_CALL cudaError_t cudaMemsetAsync(void* pointer, int value, size_t count, CUstream stream) {
  CUDART_NEEDS_CONTEXT();
  if (count == 0) return cudaSuccess;
  return Record(Call(Driver().MemsetD8Async, Device(pointer), static_cast<unsigned char>(value),
                     count, stream));
}

CUDART_CALL cudaError_t cudaMemset2D(void* pointer, size_t pitch, int value, size_t width,
                                     size_t height) {
  CUDART_NEEDS_CONTEXT();
  if (width == 0 || height == 0) return cudaSuccess;
  return Record(Call(Driver().MemsetD2D8, Device(pointer), pitch, static_cast<unsigned char>(value),
                     width, height));
}

CUDART_CALL cudaError_t cudaGetSymbolAddress(void** pointer, const void* symbol) {
  if (pointer == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  CUdeviceptr address = 0;
  size_t size = 0;
  const cudaError_t bad = FindVariable(symbol, &address, &size);
  if (bad == cudaSuccess) *pointer = reinterpret_cast<void*>(address);
  return Record(bad);
}

CUDART_CALL cudaError_t cudaGetSymbolSize(size_t* size, const void* symbol) {
  if (size == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  CUdeviceptr address = 0;
  return Record(FindVariable(symbol, &address, size));
}

CUDART_CALL cudaError_t cudaMemcpyToSymbol(const void* symbol, const void* from, size_t count,
                                           size_t offset, unsigned int kind) {
  CUDART_NEEDS_CONTEXT();
  CUdeviceptr address = 0;
  const cudaError_t bad = SymbolRange(symbol, count, offset, &address);
  if (bad != cudaSuccess) return Record(bad);
  return Copy(reinterpret_cast<void*>(address), from, count, kind);
}

CUDART_CALL cudaError_t cudaMemcpyFromSymbol(void* to, const void* symbol, size_t count,
                                             size_t offset, unsigned int kind) {
  CUDART_NEEDS_CONTEXT();
  CUdeviceptr address = 0;
  const cudaError_t bad = SymbolRange(symbol, count, offset, &address);
  if (bad != cudaSuccess) return Record(bad);
  return Copy(to, reinterpret_cast<const void*>(address), count, kind);
}

CUDART_CALL cudaError_t cudaMemcpyToSymbolAsync(const void* symbol, const void* from, size_t count,
                                                size_t offset, unsigned int kind, CUstream stream) {
  CUDART_NEEDS_CONTEXT();
  CUdeviceptr address = 0;
  const cudaError_t bad = SymbolRange(symbol, count, offset, &address);
  if (bad != cudaSuccess) return Record(bad);
  return CopyAsync(reinterpret_cast<void*>(address), from, count, kind, stream);
}

CUDART_CALL cudaError_t cudaMemcpyFromSymbolAsync(void* to, const void* symbol, size_t count,
                                                  size_t offset, unsigned int kind,
                                                  CUstream stream) {
  CUDART_NEEDS_CONTEXT();
  CUdeviceptr address = 0;
  const cudaError_t bad = SymbolRange(symbol, count, offset, &address);
  if (bad != cudaSuccess) return Record(bad);
  return CopyAsync(to, reinterpret_cast<const void*>(address), count, kind, stream);
}

}  // namespace simgpu::cudart
