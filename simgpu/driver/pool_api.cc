// The calls about pools and stream-ordered memory.
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "abi/cuda_memory.h"
#include "simgpu/driver/capture.h"
#include "simgpu/driver/graph_memory.h"
#include "simgpu/driver/memory.h"
#include "simgpu/driver/pool.h"

namespace simgpu {
namespace {

Pool* FindPool(const Driver& driver, CUmemoryPool handle) {
  return Live<Pool>(driver, handle, Kind::kPool);
}

CUmemoryPool HandleOf(Pool* pool) { return reinterpret_cast<CUmemoryPool>(pool); }

// With `current` the pool is the current one of the context's device.
CUresult AllocateInStream(CUdeviceptr* address, size_t bytes, CUmemoryPool handle, bool current,
                          CUstream stream_handle, StreamForm form) {
  SIMGPU_CURRENT(driver, context);
  if (address == nullptr || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  uint64_t made = 0;
  CommandRef behind;
  while (true) {
    CommandRef wait;
    CUresult taken = CUDA_SUCCESS;
    {
      std::lock_guard guard(driver->mutex);
      Stream* stream = nullptr;
      if (CUresult bad = FindStream(driver, context, stream_handle, form, &stream)) return bad;
      Pool* pool = current ? driver->devices[context->device]->pool : FindPool(*driver, handle);
      if (pool == nullptr || pool->imported) return CUDA_ERROR_INVALID_VALUE;
      if (auto answer =
              CapturedAlloc(driver, context, stream, stream == context->legacy, bytes, &made)) {
        if (*answer == CUDA_SUCCESS) *address = made;
        return *answer;
      }
      taken = TakeFromPool(driver, pool, *stream, bytes, &made, &behind, &wait);
    }
    if (taken == CUDA_SUCCESS) break;
    if (wait == nullptr) return taken;
    if (CUresult bad = WaitFor(wait)) return bad;
  }
  CUresult result = CUDA_SUCCESS;
  if (behind != nullptr) result = Join(stream_handle, form, {&behind, 1});
  if (result == CUDA_SUCCESS) result = Put(stream_handle, form, AllocAction{made});
  if (result != CUDA_SUCCESS) {
    std::lock_guard guard(driver->mutex);
    if (auto at = driver->allocations.find(made); at != driver->allocations.end()) {
      FreePooled(driver, at);
    }
    return result;
  }
  *address = made;
  return CUDA_SUCCESS;
}

CUresult FreeInStream(CUdeviceptr address, CUstream stream_handle, StreamForm form) {
  SIMGPU_CURRENT(driver, context);
  uint64_t id = 0, stream_id = 0;
  bool graph = false, captures = false;
  {
    std::lock_guard guard(driver->mutex);
    Stream* stream = nullptr;
    if (CUresult bad = FindStream(driver, context, stream_handle, form, &stream)) return bad;
    stream_id = stream->id;
    captures = stream->capture != nullptr;
    graph = driver->graph_ranges.contains(address);
    if (!captures && graph) {
      if (CUresult bad = NoteGraphFree(address)) return bad;
    }
    if (!captures && !graph) {
      auto at = driver->allocations.find(address);
      if (at == driver->allocations.end() || at->second.freeing ||
          at->second.memory_kind == MemoryKind::kModule ||
          at->second.memory_kind == MemoryKind::kMapped ||
          at->second.memory_kind == MemoryKind::kExternal ||
          (at->second.memory_kind == MemoryKind::kImported && at->second.pool == nullptr)) {
        return CUDA_ERROR_INVALID_VALUE;
      }
      at->second.freeing = true;
      id = at->second.id;
    }
  }
  CUresult result = Put(stream_handle, form, FreeAction{address});
  if (captures || graph) return result;
  CommandRef free;
  if (result == CUDA_SUCCESS) result = Fork(stream_handle, form, &free);
  std::lock_guard guard(driver->mutex);
  auto at = driver->allocations.find(address);
  if (at == driver->allocations.end() || at->second.id != id) return result;
  if (result != CUDA_SUCCESS) {
    at->second.freeing = false;
    return result;
  }
  if (at->second.memory_kind == MemoryKind::kPooled) {
    at->second.pool->pending[address] = {stream_id, at->second.capacity, free, false};
  }
  return CUDA_SUCCESS;
}

// A place as calls name one: a visible device, or why not.
CUresult CheckLocation(const Driver& driver, const CUmemLocation& location) {
  switch (location.type) {
    case CU_MEM_LOCATION_TYPE_DEVICE:
      return location.id >= 0 && static_cast<size_t>(location.id) < driver.devices.size()
                 ? CUDA_SUCCESS
                 : CUDA_ERROR_INVALID_DEVICE;
    case CU_MEM_LOCATION_TYPE_HOST:
    case CU_MEM_LOCATION_TYPE_HOST_NUMA:
    case CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT:
      return CUDA_ERROR_NOT_SUPPORTED;  // as the device attributes say
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult CheckPlace(const Driver& driver, const CUmemLocation* location, CUmemAllocationType type) {
  if (location == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (type == CU_MEM_ALLOCATION_TYPE_MANAGED) return CUDA_ERROR_NOT_SUPPORTED;
  if (type != CU_MEM_ALLOCATION_TYPE_PINNED) return CUDA_ERROR_INVALID_VALUE;
  return CheckLocation(driver, *location);
}

CUresult SetDevicePool(Driver* driver, int device, CUmemoryPool handle) {
  Pool* pool = FindPool(*driver, handle);
  if (pool == nullptr || pool->imported || pool->device != device) return CUDA_ERROR_INVALID_VALUE;
  driver->devices[device]->pool = pool;
  return CUDA_SUCCESS;
}

// What an exported pointer looks like.
struct PointerData {
  static constexpr uint64_t kMagic = 0x53696d5074723031;
  uint64_t magic = kMagic;
  uint64_t uid[2] = {};
  uint64_t offset = 0;
  uint64_t bytes = 0;
};
static_assert(sizeof(PointerData) <= sizeof(CUmemPoolPtrExportData));

}  // namespace
}  // namespace simgpu

namespace tessera::abi {
using namespace simgpu;  // NOLINT

extern "C" {

CUresult cuMemAllocAsync(CUdeviceptr* address, size_t bytes, CUstream stream) {
  return AllocateInStream(address, bytes, nullptr, true, stream, StreamForm::kLegacy);
}
CUresult cuMemAllocAsync_ptsz(CUdeviceptr* address, size_t bytes, CUstream stream) {
  return AllocateInStream(address, bytes, nullptr, true, stream, StreamForm::kPerThread);
}
CUresult cuMemAllocFromPoolAsync(CUdeviceptr* address, size_t bytes, CUmemoryPool pool,
                                 CUstream stream) {
  return AllocateInStream(address, bytes, pool, false, stream, StreamForm::kLegacy);
}
CUresult cuMemAllocFromPoolAsync_ptsz(CUdeviceptr* address, size_t bytes, CUmemoryPool pool,
                                      CUstream stream) {
  return AllocateInStream(address, bytes, pool, false, stream, StreamForm::kPerThread);
}
CUresult cuMemFreeAsync(CUdeviceptr address, CUstream stream) {
  return FreeInStream(address, stream, StreamForm::kLegacy);
}
CUresult cuMemFreeAsync_ptsz(CUdeviceptr address, CUstream stream) {
  return FreeInStream(address, stream, StreamForm::kPerThread);
}

CUresult cuDeviceGetDefaultMemPool(CUmemoryPool* pool, CUdevice device) {
  Driver* driver = nullptr;
  if (CUresult bad = CheckDevice(device, &driver)) return bad;
  if (pool == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *pool = HandleOf(driver->devices[device]->default_pool);
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetMemPool(CUmemoryPool* pool, CUdevice device) {
  Driver* driver = nullptr;
  if (CUresult bad = CheckDevice(device, &driver)) return bad;
  if (pool == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  *pool = HandleOf(driver->devices[device]->pool);
  return CUDA_SUCCESS;
}

CUresult cuDeviceSetMemPool(CUdevice device, CUmemoryPool pool) {
  Driver* driver = nullptr;
  if (CUresult bad = CheckDevice(device, &driver)) return bad;
  std::lock_guard guard(driver->mutex);
  return SetDevicePool(driver, device, pool);
}

CUresult cuMemGetDefaultMemPool(CUmemoryPool* pool, CUmemLocation* location,
                                CUmemAllocationType type) {
  SIMGPU_DRIVER(driver);
  if (pool == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult bad = CheckPlace(*driver, location, type)) return bad;
  *pool = HandleOf(driver->devices[location->id]->default_pool);
  return CUDA_SUCCESS;
}

CUresult cuMemGetMemPool(CUmemoryPool* pool, CUmemLocation* location, CUmemAllocationType type) {
  SIMGPU_DRIVER(driver);
  if (pool == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult bad = CheckPlace(*driver, location, type)) return bad;
  std::lock_guard guard(driver->mutex);
  *pool = HandleOf(driver->devices[location->id]->pool);
  return CUDA_SUCCESS;
}

CUresult cuMemSetMemPool(CUmemLocation* location, CUmemAllocationType type, CUmemoryPool pool) {
  SIMGPU_DRIVER(driver);
  if (CUresult bad = CheckPlace(*driver, location, type)) return bad;
  std::lock_guard guard(driver->mutex);
  return SetDevicePool(driver, location->id, pool);
}

CUresult cuMemPoolCreate(CUmemoryPool* handle, const CUmemPoolProps* props) {
  SIMGPU_DRIVER(driver);
  if (handle == nullptr || props == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult bad = CheckPlace(*driver, &props->location, props->allocType)) {
    return bad == CUDA_ERROR_INVALID_DEVICE ? CUDA_ERROR_INVALID_VALUE : bad;
  }
  if ((props->handleTypes & ~CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) != 0 || props->usage != 0) {
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  for (unsigned char byte : props->reserved) {
    if (byte != 0) return CUDA_ERROR_INVALID_VALUE;
  }
  std::lock_guard guard(driver->mutex);
  Pool* pool = nullptr;
  if (CUresult bad = NewPool(driver, *props, &pool)) return bad;
  *handle = HandleOf(pool);
  return CUDA_SUCCESS;
}

CUresult cuMemPoolDestroy(CUmemoryPool handle) {
  SIMGPU_DRIVER(driver);
  std::lock_guard guard(driver->mutex);
  Pool* pool = FindPool(*driver, handle);
  if (pool == nullptr || pool->is_default) return CUDA_ERROR_INVALID_VALUE;
  for (Device* device : driver->devices) {
    if (device->pool == pool) device->pool = device->default_pool;
  }
  pool->destroyed = true;
  driver->live.erase(pool);
  DropPoolIfUnused(driver, pool);
  return CUDA_SUCCESS;
}

CUresult cuMemPoolTrimTo(CUmemoryPool handle, size_t keep) {
  SIMGPU_DRIVER(driver);
  std::lock_guard guard(driver->mutex);
  Pool* pool = FindPool(*driver, handle);
  if (pool == nullptr || pool->imported) return CUDA_ERROR_INVALID_VALUE;
  if (pool->reserved > keep) TrimPool(driver, pool, keep);
  return CUDA_SUCCESS;
}

CUresult cuMemPoolSetAttribute(CUmemoryPool handle, CUmemPool_attribute attribute, void* value) {
  SIMGPU_DRIVER(driver);
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  Pool* pool = FindPool(*driver, handle);
  if (pool == nullptr || pool->imported) return CUDA_ERROR_INVALID_VALUE;
  uint64_t wide = 0;
  switch (attribute) {
    case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES: {
      int flag = 0;
      memcpy(&flag, value, sizeof flag);
      pool->reuse[attribute - CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES] = flag != 0;
      return CUDA_SUCCESS;
    }
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
      memcpy(&pool->threshold, value, sizeof pool->threshold);
      return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
      memcpy(&wide, value, sizeof wide);
      if (wide != 0) return CUDA_ERROR_INVALID_VALUE;
      if (attribute == CU_MEMPOOL_ATTR_USED_MEM_HIGH) {
        pool->used_high = pool->used;
      } else {
        pool->reserved_high = pool->reserved;
      }
      return CUDA_SUCCESS;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult cuMemPoolGetAttribute(CUmemoryPool handle, CUmemPool_attribute attribute, void* value) {
  SIMGPU_DRIVER(driver);
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  const Pool* pool = FindPool(*driver, handle);
  if (pool == nullptr || pool->imported) return CUDA_ERROR_INVALID_VALUE;
  auto answer = [value](uint64_t wide) {
    memcpy(value, &wide, sizeof wide);
    return CUDA_SUCCESS;
  };
  switch (attribute) {
    case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES: {
      const int flag = pool->reuse[attribute - CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES];
      memcpy(value, &flag, sizeof flag);
      return CUDA_SUCCESS;
    }
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
      return answer(pool->threshold);
    case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
      return answer(pool->reserved);
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
      return answer(pool->reserved_high);
    case CU_MEMPOOL_ATTR_USED_MEM_CURRENT:
      return answer(pool->used);
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
      return answer(pool->used_high);
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult cuMemPoolSetAccess(CUmemoryPool handle, const CUmemAccessDesc* descriptors, size_t count) {
  SIMGPU_DRIVER(driver);
  if (descriptors == nullptr || count == 0 || count > kCardsMax) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  Pool* pool = FindPool(*driver, handle);
  if (pool == nullptr) return CUDA_ERROR_INVALID_VALUE;
  for (size_t i = 0; i < count; ++i) {
    const CUmemAccessDesc& one = descriptors[i];
    if (CUresult bad = CheckLocation(*driver, one.location)) {
      return bad == CUDA_ERROR_NOT_SUPPORTED ? bad : CUDA_ERROR_INVALID_VALUE;
    }
    const bool grants = one.flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    if (!grants && one.flags != CU_MEM_ACCESS_FLAGS_PROT_NONE) return CUDA_ERROR_INVALID_VALUE;
    // A pool's own device always has access, and others only where a link is.
    if (one.location.id == pool->device ? !grants
                                        : !PeerCapable(*driver, one.location.id, pool->device)) {
      return CUDA_ERROR_INVALID_VALUE;
    }
  }
  for (size_t i = 0; i < count; ++i) {
    pool->access[descriptors[i].location.id] = static_cast<uint8_t>(descriptors[i].flags);
  }
  return CUDA_SUCCESS;
}

CUresult cuMemPoolGetAccess(CUmemAccess_flags* flags, CUmemoryPool handle,
                            CUmemLocation* location) {
  SIMGPU_DRIVER(driver);
  if (flags == nullptr || location == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  const Pool* pool = FindPool(*driver, handle);
  if (pool == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult bad = CheckLocation(*driver, *location)) {
    return bad == CUDA_ERROR_NOT_SUPPORTED ? bad : CUDA_ERROR_INVALID_VALUE;
  }
  *flags = location->id == pool->device ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE
                                        : CUmemAccess_flags{pool->access[location->id]};
  return CUDA_SUCCESS;
}

CUresult cuMemPoolExportToShareableHandle(void* shared, CUmemoryPool handle,
                                          CUmemAllocationHandleType type,
                                          unsigned long long flags) {
  SIMGPU_DRIVER(driver);
  if (shared == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return CUDA_ERROR_NOT_SUPPORTED;
  std::lock_guard guard(driver->mutex);
  const Pool* pool = FindPool(*driver, handle);
  if (pool == nullptr || pool->arena == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const int fd = pool->arena->Duplicate();
  if (fd < 0) return CUDA_ERROR_OPERATING_SYSTEM;
  memcpy(shared, &fd, sizeof fd);
  return CUDA_SUCCESS;
}

CUresult cuMemPoolImportFromShareableHandle(CUmemoryPool* handle, void* shared,
                                            CUmemAllocationHandleType type,
                                            unsigned long long flags) {
  SIMGPU_DRIVER(driver);
  if (handle == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return CUDA_ERROR_NOT_SUPPORTED;
  const int fd = static_cast<int>(reinterpret_cast<intptr_t>(shared));
  std::lock_guard guard(driver->mutex);
  MemoryTag tag;
  int device = 0;
  if (!ReadTag(*driver, fd, &tag, &device) || tag.kind != MemoryTag::kPoolKind) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (driver->pools.size() >= kPoolsMax) {
    Say("more than kPoolsMax = " + std::to_string(kPoolsMax) + " pools in one process");
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  void* host = mmap(nullptr, tag.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (host == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  madvise(host, tag.bytes, MADV_DONTDUMP);
  const uint64_t base = ReserveAddresses(driver, tag.bytes, kGranule, 0);
  if (base == 0) {
    munmap(host, tag.bytes);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  auto* pool = new Pool;
  pool->device = device;
  pool->imported = true;
  pool->uid[0] = tag.uid[0];
  pool->uid[1] = tag.uid[1];
  pool->props.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  pool->props.location = {CU_MEM_LOCATION_TYPE_DEVICE, device};
  driver->ranges[base].host = static_cast<uint8_t*>(host);
  driver->ranges[base].pool = pool;
  driver->live.insert(pool);
  driver->pools.insert(pool);
  *handle = HandleOf(pool);
  return CUDA_SUCCESS;
}

CUresult cuMemPoolExportPointer(CUmemPoolPtrExportData* shared, CUdeviceptr address) {
  SIMGPU_DRIVER(driver);
  if (shared == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  auto at = driver->allocations.find(address);
  if (at == driver->allocations.end() || at->second.memory_kind != MemoryKind::kPooled ||
      at->second.pool->arena == nullptr || at->second.freeing) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const Pool* pool = at->second.pool;
  PointerData data;
  data.uid[0] = pool->uid[0];
  data.uid[1] = pool->uid[1];
  data.offset = address - pool->arena->base();
  data.bytes = at->second.size;
  memset(shared, 0, sizeof *shared);
  memcpy(shared, &data, sizeof data);
  return CUDA_SUCCESS;
}

CUresult cuMemPoolImportPointer(CUdeviceptr* address, CUmemoryPool handle,
                                CUmemPoolPtrExportData* shared) {
  SIMGPU_DRIVER(driver);
  if (address == nullptr || shared == nullptr) return CUDA_ERROR_INVALID_VALUE;
  PointerData data;
  memcpy(static_cast<void*>(&data), shared, sizeof data);
  std::lock_guard guard(driver->mutex);
  Pool* pool = FindPool(*driver, handle);
  if (pool == nullptr || !pool->imported || data.magic != PointerData::kMagic ||
      data.uid[0] != pool->uid[0] || data.uid[1] != pool->uid[1] || data.bytes == 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  auto range = std::find_if(driver->ranges.begin(), driver->ranges.end(),
                            [pool](const auto& one) { return one.second.pool == pool; });
  const uint64_t capacity = RoundUp(data.bytes, kSmallUnit);
  if (data.offset % kSmallUnit != 0 || data.offset > range->second.bytes ||
      capacity > range->second.bytes - data.offset) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  Allocation made;
  made.base = range->first + data.offset;
  // One that lies there already was not freed here, as the exporter's program had to see to.
  if (FindAllocation(*driver, made.base) != nullptr) return CUDA_ERROR_ALREADY_MAPPED;
  made.size = data.bytes;
  made.capacity = capacity;
  made.memory_kind = MemoryKind::kImported;
  made.device = pool->device;
  made.id = driver->next_id++;
  made.host = range->second.host + data.offset;
  made.pool = pool;
  driver->allocations.emplace(made.base, made);
  ++pool->imports;
  *address = made.base;
  return CUDA_SUCCESS;
}

}  // extern "C"
}  // namespace tessera::abi
