// The heap of device-side malloc: one of a context, made when a kernel first asks, as large as
// CU_LIMIT_MALLOC_HEAP_SIZE says then, and counted in the card's use from there on.
#include "simgpu/driver/memory.h"

namespace simgpu {
namespace {

constexpr uint64_t kHeapUnit = 16;

}  // namespace

uint64_t HeapAllocate(Driver* driver, Context* context, uint64_t bytes) {
  if (bytes == 0) return 0;
  std::lock_guard guard(driver->mutex);
  if (!context->alive.load()) return 0;
  DeviceHeap& heap = driver->heaps[context];
  if (heap.base == 0) {
    const uint64_t size = RoundUp(context->limits[CU_LIMIT_MALLOC_HEAP_SIZE], kGranule);
    if (size == 0 ||
        Allocate(driver, context, size, MemoryKind::kModule, &heap.base) != CUDA_SUCCESS) {
      return 0;
    }
    heap.free_runs.Add(heap.base, size);
  }
  if (bytes > (uint64_t{1} << 40)) return 0;
  const uint64_t need = RoundUp(bytes, kHeapUnit);
  uint64_t address = 0;
  if (!heap.free_runs.Take(need, &address)) return 0;
  heap.used[address] = need;
  return address;
}

bool HeapFree(Driver* driver, Context* context, uint64_t address) {
  std::lock_guard guard(driver->mutex);
  auto heap = driver->heaps.find(context);
  if (heap == driver->heaps.end()) return false;
  auto used = heap->second.used.find(address);
  if (used == heap->second.used.end()) return false;
  heap->second.free_runs.Add(address, used->second);
  heap->second.used.erase(used);
  return true;
}

}  // namespace simgpu
