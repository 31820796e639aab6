// Allocation and page-locked host memory.
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "abi/cuda_memory.h"
#include "simgpu/driver/capture.h"
#include "simgpu/driver/graph_memory.h"
#include "simgpu/driver/ipc.h"
#include "simgpu/driver/memory.h"
#include "simgpu/driver/pool.h"
#include "simgpu/driver/vmm.h"
#include "simgpu/state/faults.h"

namespace simgpu {
namespace {

CUresult AllocateFor(CUdeviceptr* address, size_t bytes, MemoryKind kind) {
  SIMGPU_CURRENT(driver, context);
  if (address == nullptr || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  if (CUresult bad = CheckUnsafeCall(driver)) return bad;
  uint64_t made = 0;
  if (CUresult bad = Allocate(driver, context, bytes, kind, &made)) return bad;
  *address = made;
  return CUDA_SUCCESS;
}

CUresult FreeOf(CUdeviceptr address) {
  SIMGPU_CURRENT(driver, context);
  if (address == 0) return CUDA_SUCCESS;
  bool pooled = false;
  int device = 0;
  uint64_t id = 0;
  {
    std::lock_guard guard(driver->mutex);
    if (CUresult bad = CheckUnsafeCall(driver)) return bad;
    if (driver->graph_ranges.contains(address)) {
      if (CUresult bad = NoteGraphFree(address)) return bad;
      pooled = true;
    } else {
      auto at = driver->allocations.find(address);
      if (at == driver->allocations.end() || at->second.freeing ||
          at->second.memory_kind == MemoryKind::kModule ||
          at->second.memory_kind == MemoryKind::kMapped ||
          (at->second.memory_kind == MemoryKind::kImported && at->second.pool == nullptr)) {
        return CUDA_ERROR_INVALID_VALUE;
      }
      at->second.freeing = true;  // nobody else frees it while we wait
      id = at->second.id;
      device = at->second.device;
      pooled = at->second.memory_kind == MemoryKind::kPooled;
    }
  }
  // Stream-ordered memory is free at once: its program says that nothing uses it any more.
  const CUresult waited = pooled ? CUDA_SUCCESS : WaitBeforeFree(driver, context, device);
  if (id == 0) {
    EndLife(driver, FreeAction{address});
    return CUDA_SUCCESS;
  }
  std::lock_guard guard(driver->mutex);
  auto at = driver->allocations.find(address);
  if (at == driver->allocations.end() || at->second.id != id) return waited;
  if (at->second.pool != nullptr) {
    FreePooled(driver, at);
  } else {
    Release(driver, at);
  }
  return waited;
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
  if (CUresult bad = CheckUnsafeCall(driver)) {
    munmap(made, mapped);
    return bad;
  }
  const auto base = reinterpret_cast<uint64_t>(made);
  driver->hosts[base] = {base, bytes, mapped, flags, context};
  *pointer = made;
  return CUDA_SUCCESS;
}

// Page-locked memory, allocated here or registered, is not ours any more once no work can be using
// it.
CUresult ForgetHost(Driver* driver, Context* current, void* pointer, bool allocated,
                    CUresult unknown) {
  const auto base = reinterpret_cast<uint64_t>(pointer);
  {
    std::lock_guard guard(driver->mutex);
    if (CUresult bad = CheckUnsafeCall(driver)) return bad;
    auto at = driver->hosts.find(base);
    if (at == driver->hosts.end() || (at->second.mapped != 0) != allocated) return unknown;
    if ((at->second.flags & kHostOfEvent) != 0) return unknown;
  }
  const CUresult waited = WaitBeforeFree(driver, current, -1);
  std::lock_guard guard(driver->mutex);
  auto at = driver->hosts.find(base);
  if (at == driver->hosts.end() || (at->second.mapped != 0) != allocated) return unknown;
  if (allocated) munmap(pointer, at->second.mapped);
  driver->hosts.erase(at);
  return waited;
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
  if (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST) {
    return Get() == nullptr ? CUDA_ERROR_NOT_INITIALIZED : CUDA_ERROR_INVALID_VALUE;
  }
  return AllocateFor(address, bytes, MemoryKind::kManaged);
}

CUresult cuMemFree_v2(CUdeviceptr address) { return FreeOf(address); }

CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
  SIMGPU_CURRENT(driver, context);
  if (free == nullptr || total == nullptr) return CUDA_ERROR_INVALID_VALUE;
  {
    std::lock_guard guard(driver->mutex);
    Adopt(driver);
    AdoptImports(driver);
  }
  const Card& card = CardOf(*driver, context->device);
  const uint64_t used = driver->state->UsedBytes(card.index);
  *total = card.profile.memory_bytes;
  // A fault rule may leave less to take than the card has.
  const uint64_t most = std::min(*total, Faults::Get().MemoryLimit(card.index));
  *free = used < most ? most - used : 0;
  return CUDA_SUCCESS;
}

CUresult cuMemHostAlloc(void** pointer, size_t bytes, unsigned int flags) {
  return HostAllocate(pointer, bytes, flags);
}

CUresult cuMemAllocHost_v2(void** pointer, size_t bytes) { return HostAllocate(pointer, bytes, 0); }

CUresult cuMemFreeHost(void* pointer) {
  SIMGPU_DRIVER(driver);
  return ForgetHost(driver, nullptr, pointer, true, CUDA_ERROR_INVALID_VALUE);
}

CUresult cuMemHostRegister_v2(void* pointer, size_t bytes, unsigned int flags) {
  SIMGPU_CURRENT(driver, context);
  constexpr unsigned int kKnown =
      CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP | CU_MEMHOSTREGISTER_READ_ONLY;
  if (pointer == nullptr || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  if ((flags & CU_MEMHOSTREGISTER_IOMEMORY) != 0) return CUDA_ERROR_NOT_SUPPORTED;
  if ((flags & ~kKnown) != 0) return CUDA_ERROR_INVALID_VALUE;
  const auto base = reinterpret_cast<uint64_t>(pointer);
  if (base + bytes < base) return CUDA_ERROR_INVALID_VALUE;
  // Pages that are not there cannot be locked.
  const uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uint64_t first = base / page * page;
  if (msync(reinterpret_cast<void*>(first), base + bytes - first, MS_ASYNC) != 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  std::lock_guard guard(driver->mutex);
  if (CUresult bad = CheckUnsafeCall(driver)) return bad;
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
  return ForgetHost(driver, context, pointer, false, CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
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

}  // extern "C"

SIMGPU_ALIAS(cuMemHostRegister_v2, cuMemHostRegister);

}  // namespace tessera::abi
