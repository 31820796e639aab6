// Allocation, page-locked host memory and questions about pointers.
#include <sys/mman.h>
#include <unistd.h>

#include "simgpu/driver/driver.h"

namespace simgpu {
namespace {

CUresult AllocateFor(CUdeviceptr* address, size_t bytes, MemoryKind kind) {
  SIMGPU_CURRENT(driver, context);
  if (address == nullptr || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  uint64_t made = 0;
  if (CUresult bad = Allocate(driver, context, bytes, kind, &made)) return bad;
  *address = made;
  return CUDA_SUCCESS;
}

CUresult FreeOf(CUdeviceptr address) {
  SIMGPU_CURRENT(driver, context);
  if (address == 0) return CUDA_SUCCESS;
  std::lock_guard guard(driver->mutex);
  auto at = driver->allocations.find(address);
  if (at == driver->allocations.end() || at->second.memory_kind == MemoryKind::kModule) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  return Release(driver, at);
}

CUresult HostAllocate(void** pointer, size_t bytes, unsigned int flags) {
  SIMGPU_CURRENT(driver, context);
  constexpr unsigned int kKnown =
      CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_WRITECOMBINED;
  if (pointer == nullptr || bytes == 0 || (flags & ~kKnown) != 0) return CUDA_ERROR_INVALID_VALUE;
  const uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  if (bytes > (uint64_t{1} << 46)) return CUDA_ERROR_OUT_OF_MEMORY;
  const uint64_t mapped = RoundUp(bytes, page);
  void* made = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (made == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  std::lock_guard guard(driver->mutex);
  const auto base = reinterpret_cast<uint64_t>(made);
  driver->hosts[base] = {base, bytes, mapped, flags, context};
  *pointer = made;
  return CUDA_SUCCESS;
}

// One attribute of what the address points into; null pointers of `memory` and `host` mean ordinary
// host memory. `neutral`: answer such a pointer with neutral values instead of an error.
CUresult Attribute(const Driver& driver, uint64_t address, CUpointer_attribute attribute,
                   void* data, bool neutral) {
  const Allocation* memory = FindAllocation(driver, address);
  const HostRange* host = memory == nullptr ? FindHost(driver, address) : nullptr;
  const bool known = memory != nullptr || host != nullptr;
  if (!known && !neutral) return CUDA_ERROR_INVALID_VALUE;
  const bool managed = memory != nullptr && memory->memory_kind == MemoryKind::kManaged;
  const Context* context = memory != nullptr ? memory->context
                           : host != nullptr ? host->context
                                             : nullptr;
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
      *static_cast<const void**>(data) = context;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      *static_cast<unsigned int*>(data) = memory != nullptr ? CU_MEMORYTYPE_DEVICE
                                          : host != nullptr ? CU_MEMORYTYPE_HOST
                                                            : 0u;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
      *static_cast<CUdeviceptr*>(data) = known ? address : 0;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
      *static_cast<void**>(data) =
          host != nullptr || managed ? reinterpret_cast<void*>(address) : nullptr;
      return host != nullptr || managed || neutral ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
      *static_cast<unsigned int*>(data) = known ? 1 : 0;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
      *static_cast<unsigned long long*>(data) = memory != nullptr ? memory->id : 0;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
      *static_cast<unsigned int*>(data) = managed ? 1 : 0;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
      *static_cast<int*>(data) = context != nullptr ? context->device : -2;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
      *static_cast<unsigned int*>(data) = 0;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
      *static_cast<CUdeviceptr*>(data) = memory != nullptr ? memory->base
                                         : host != nullptr ? host->base
                                                           : 0;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
      *static_cast<size_t*>(data) = memory != nullptr ? memory->size
                                    : host != nullptr ? host->size
                                                      : 0;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MAPPED:
      *static_cast<unsigned int*>(data) = known ? 1 : 0;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
      *static_cast<unsigned long long*>(data) = 0;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
      *static_cast<unsigned int*>(data) = known ? 3 : 0;  // read and write
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
      *static_cast<void**>(data) = nullptr;
      return CUDA_SUCCESS;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

}  // namespace
}  // namespace simgpu

namespace tessera::abi {
using namespace simgpu;  // NOLINT

extern "C" {

CUresult cuMemAlloc_v2(CUdeviceptr* address, size_t bytes) {
  return AllocateFor(address, bytes, MemoryKind::kLarge);
}

CUresult cuMemAllocPitch_v2(CUdeviceptr* address, size_t* pitch, size_t width, size_t height,
                            unsigned int element) {
  if (pitch == nullptr || (element != 4 && element != 8 && element != 16)) {
    return Get() == nullptr ? CUDA_ERROR_NOT_INITIALIZED : CUDA_ERROR_INVALID_VALUE;
  }
  const size_t wide = RoundUp(width, 512);
  if (width == 0 || height == 0 || wide < width) return CUDA_ERROR_INVALID_VALUE;
  size_t bytes = 0;
  if (__builtin_mul_overflow(wide, height, &bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = AllocateFor(address, bytes, MemoryKind::kLarge);
  if (result == CUDA_SUCCESS) *pitch = wide;
  return result;
}

CUresult cuMemAllocManaged(CUdeviceptr* address, size_t bytes, unsigned int flags) {
  if (flags != 1 && flags != 2) {  // attached to all streams, or to the host
    return Get() == nullptr ? CUDA_ERROR_NOT_INITIALIZED : CUDA_ERROR_INVALID_VALUE;
  }
  return AllocateFor(address, bytes, MemoryKind::kManaged);
}

CUresult cuMemFree_v2(CUdeviceptr address) { return FreeOf(address); }

// Streams run in line, so the order of the stream is the order of the calls.
CUresult cuMemAllocAsync(CUdeviceptr* address, size_t bytes, CUstream stream) {
  SIMGPU_CURRENT(driver, context);
  {
    std::lock_guard guard(driver->mutex);
    if (!StreamOk(*driver, stream)) return CUDA_ERROR_INVALID_HANDLE;
  }
  return AllocateFor(address, bytes, MemoryKind::kLarge);
}

CUresult cuMemAllocFromPoolAsync(CUdeviceptr* address, size_t bytes, CUmemoryPool pool,
                                 CUstream stream) {
  SIMGPU_CURRENT(driver, context);
  std::lock_guard guard(driver->mutex);
  const Pool* from = Live<Pool>(*driver, pool, Kind::kPool);
  if (from == nullptr || address == nullptr || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  if (!StreamOk(*driver, stream)) return CUDA_ERROR_INVALID_HANDLE;
  // A pool of another card would allocate there, in that card's primary context.
  if (from->device != context->device) return CUDA_ERROR_NOT_SUPPORTED;
  uint64_t made = 0;
  if (CUresult bad = Allocate(driver, context, bytes, MemoryKind::kLarge, &made)) return bad;
  *address = made;
  return CUDA_SUCCESS;
}

CUresult cuMemFreeAsync(CUdeviceptr address, CUstream stream) {
  SIMGPU_CURRENT(driver, context);
  {
    std::lock_guard guard(driver->mutex);
    if (!StreamOk(*driver, stream)) return CUDA_ERROR_INVALID_HANDLE;
  }
  return FreeOf(address);
}

// A pool keeps nothing back here, so there is never anything to trim.
CUresult cuMemPoolTrimTo(CUmemoryPool pool, size_t) {
  SIMGPU_DRIVER(driver);
  std::lock_guard guard(driver->mutex);
  return Live<Pool>(*driver, pool, Kind::kPool) != nullptr ? CUDA_SUCCESS
                                                           : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
  SIMGPU_CURRENT(driver, context);
  if (free == nullptr || total == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const Card& card = CardOf(*driver, context->device);
  const uint64_t used = driver->state->UsedBytes(card.index);
  *total = card.profile.memory_bytes;
  *free = used < card.profile.memory_bytes ? card.profile.memory_bytes - used : 0;
  return CUDA_SUCCESS;
}

CUresult cuMemGetAddressRange_v2(CUdeviceptr* base, size_t* bytes, CUdeviceptr address) {
  SIMGPU_CURRENT(driver, context);
  std::lock_guard guard(driver->mutex);
  const Allocation* found = FindAllocation(*driver, address);
  if (found == nullptr) return CUDA_ERROR_NOT_FOUND;
  if (base != nullptr) *base = found->base;
  if (bytes != nullptr) *bytes = found->size;
  return CUDA_SUCCESS;
}

CUresult cuMemHostAlloc(void** pointer, size_t bytes, unsigned int flags) {
  return HostAllocate(pointer, bytes, flags);
}

CUresult cuMemAllocHost_v2(void** pointer, size_t bytes) { return HostAllocate(pointer, bytes, 0); }

CUresult cuMemFreeHost(void* pointer) {
  SIMGPU_DRIVER(driver);
  std::lock_guard guard(driver->mutex);
  auto at = driver->hosts.find(reinterpret_cast<uint64_t>(pointer));
  if (at == driver->hosts.end() || at->second.mapped == 0) return CUDA_ERROR_INVALID_VALUE;
  munmap(pointer, at->second.mapped);
  driver->hosts.erase(at);
  return CUDA_SUCCESS;
}

CUresult cuMemHostRegister_v2(void* pointer, size_t bytes, unsigned int flags) {
  SIMGPU_CURRENT(driver, context);
  constexpr unsigned int kKnown =
      CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP | CU_MEMHOSTREGISTER_READ_ONLY;
  if (pointer == nullptr || bytes == 0 || (flags & ~kKnown) != 0) return CUDA_ERROR_INVALID_VALUE;
  const auto base = reinterpret_cast<uint64_t>(pointer);
  if (base + bytes < base) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  if (InAnyArena(*driver, base)) return CUDA_ERROR_INVALID_VALUE;
  auto after = driver->hosts.lower_bound(base + bytes);
  if (after != driver->hosts.begin()) {
    const HostRange& before = std::prev(after)->second;
    if (before.base + before.size > base) return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
  }
  driver->hosts[base] = {base, bytes, 0, flags, context};
  return CUDA_SUCCESS;
}

CUresult cuMemHostUnregister(void* pointer) {
  SIMGPU_CURRENT(driver, context);
  std::lock_guard guard(driver->mutex);
  auto at = driver->hosts.find(reinterpret_cast<uint64_t>(pointer));
  if (at == driver->hosts.end() || at->second.mapped != 0) {
    return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
  }
  driver->hosts.erase(at);
  return CUDA_SUCCESS;
}

CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr* address, void* pointer, unsigned int flags) {
  SIMGPU_CURRENT(driver, context);
  if (address == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  if (FindHost(*driver, reinterpret_cast<uint64_t>(pointer)) == nullptr) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  *address = reinterpret_cast<uint64_t>(pointer);
  return CUDA_SUCCESS;
}

CUresult cuMemHostGetFlags(unsigned int* flags, void* pointer) {
  SIMGPU_CURRENT(driver, context);
  if (flags == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  const HostRange* found = FindHost(*driver, reinterpret_cast<uint64_t>(pointer));
  if (found == nullptr || found->mapped == 0) return CUDA_ERROR_INVALID_VALUE;
  *flags = found->flags;
  return CUDA_SUCCESS;
}

CUresult cuPointerGetAttribute(void* data, CUpointer_attribute attribute, CUdeviceptr address) {
  SIMGPU_DRIVER(driver);
  if (data == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  return Attribute(*driver, address, attribute, data, false);
}

CUresult cuPointerGetAttributes(unsigned int count, CUpointer_attribute* attributes, void** data,
                                CUdeviceptr address) {
  SIMGPU_DRIVER(driver);
  if (count == 0 || attributes == nullptr || data == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  for (unsigned int i = 0; i < count; ++i) {
    if (data[i] == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (CUresult bad = Attribute(*driver, address, attributes[i], data[i], true)) return bad;
  }
  return CUDA_SUCCESS;
}

}  // extern "C"

SIMGPU_ALIAS(cuMemAllocAsync, cuMemAllocAsync_ptsz);
SIMGPU_ALIAS(cuMemAllocFromPoolAsync, cuMemAllocFromPoolAsync_ptsz);
SIMGPU_ALIAS(cuMemFreeAsync, cuMemFreeAsync_ptsz);

}  // namespace tessera::abi
