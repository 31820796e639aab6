#include "simgpu/driver/pool.h"

#include <algorithm>

#include "abi/cuda_memory.h"
#include "simgpu/driver/memory.h"

namespace simgpu {
namespace {

void CountUsed(Pool* pool, uint64_t bytes) {
  pool->used += bytes;
  pool->used_high = std::max(pool->used_high, pool->used);
}

CUresult Grow(Driver* driver, Pool* pool, uint64_t bytes) {
  const uint64_t granules = RoundUp(bytes, kGranule);
  if (pool->max_bytes != 0 && pool->reserved + granules > pool->max_bytes) {
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  uint64_t address = 0;
  if (CUresult bad = TakeGranules(driver, pool->device, ArenaOf(*driver, *pool), granules,
                                  State::Kind::kAllocation, &address)) {
    return bad;
  }
  pool->reserved += granules;
  pool->reserved_high = std::max(pool->reserved_high, pool->reserved);
  pool->free_runs.Add(address, granules);
  return CUDA_SUCCESS;
}

void AddRecord(Driver* driver, Pool* pool, uint64_t address, uint64_t size, uint64_t capacity) {
  Allocation made;
  made.base = address;
  made.size = size;
  made.capacity = capacity;
  made.memory_kind = MemoryKind::kPooled;
  made.device = pool->device;
  made.id = driver->next_id++;
  made.host = ArenaOf(*driver, *pool)->Host(address);
  made.pool = pool;
  driver->allocations[address] = made;
  CountUsed(pool, capacity);
}

// Memory whose free is under way passes to an allocation that comes behind it.
void PassOn(Driver* driver, Pool* pool, std::map<uint64_t, PendingFree>::iterator at,
            uint64_t size) {
  const uint64_t address = at->first;
  const bool done = at->second.done;
  const uint64_t bytes = at->second.bytes;
  pool->pending.erase(at);
  if (!done) {
    ++pool->passed_on[address];
    pool->used -= bytes;
  }
  AddRecord(driver, pool, address, size, bytes);
}

// The best fitting one of those frees; `stream` 0: of any stream.
std::map<uint64_t, PendingFree>::iterator FindPending(Pool* pool, uint64_t stream, uint64_t bytes,
                                                      uint64_t at_most) {
  auto best = pool->pending.end();
  for (auto at = pool->pending.begin(); at != pool->pending.end(); ++at) {
    if (stream != 0 && at->second.stream != stream) continue;
    if (at->second.bytes < bytes || at->second.bytes > at_most) continue;
    if (best == pool->pending.end() || at->second.bytes < best->second.bytes) best = at;
  }
  return best;
}

}  // namespace

Arena* ArenaOf(const Driver& driver, const Pool& pool) {
  return pool.arena != nullptr ? pool.arena.get() : driver.devices[pool.device]->arena.get();
}

void TrimPool(Driver* driver, Pool* pool, uint64_t keep) {
  Arena* arena = ArenaOf(*driver, *pool);
  const auto& all = pool->free_runs.all();
  std::vector<std::pair<uint64_t, uint64_t>> runs(all.begin(), all.end());
  for (auto run = runs.rbegin(); run != runs.rend() && pool->reserved > keep; ++run) {
    const uint64_t end = (run->first + run->second) / kGranule * kGranule;
    uint64_t first = RoundUp(run->first, kGranule);
    if (first >= end) continue;
    const uint64_t over = RoundUp(pool->reserved - keep, kGranule);
    if (end - first > over) first = end - over;
    pool->free_runs.TakeAt(first, end - first);
    GiveGranules(driver, pool->device, arena, first, end - first, State::Kind::kAllocation);
    pool->reserved -= end - first;
  }
}

void PoolsAtSync(Driver* driver) {
  if (!driver->pools_look.load(std::memory_order_acquire)) return;
  std::lock_guard guard(driver->mutex);
  driver->pools_look.store(false, std::memory_order_release);
  const std::vector<Pool*> pools(driver->pools.begin(), driver->pools.end());
  for (Pool* pool : pools) {
    for (auto at = pool->pending.begin(); at != pool->pending.end();) {
      if (!at->second.done) {
        ++at;
        continue;
      }
      pool->free_runs.Add(at->first, at->second.bytes);
      at = pool->pending.erase(at);
    }
    if (pool->reserved > pool->threshold) TrimPool(driver, pool, pool->threshold);
    DropPoolIfUnused(driver, pool);
  }
}

void DropPoolIfUnused(Driver* driver, Pool* pool) {
  if (!pool->destroyed || pool->used != 0 || pool->imports != 0) return;
  for (const auto& [address, pending] : pool->pending) {
    if (!pending.done) return;
    pool->free_runs.Add(address, pending.bytes);
  }
  if (!pool->passed_on.empty()) return;
  pool->pending.clear();
  if (pool->imported) {
    for (auto& [base, range] : driver->ranges) {
      if (range.pool != pool) continue;
      FreeAddresses(driver, base);
      break;
    }
  } else {
    if (pool->reserved != 0) TrimPool(driver, pool, 0);
    if (pool->arena != nullptr) driver->ranges.erase(pool->arena->base());
  }
  driver->pools.erase(pool);
  delete pool;
}

void ReleasePooled(Driver* driver, int device) {
  const std::vector<Pool*> pools(driver->pools.begin(), driver->pools.end());
  for (Pool* pool : pools) {
    if (pool->device != device || pool->imported) continue;
    for (auto at = driver->allocations.begin(); at != driver->allocations.end();) {
      if (at->second.pool == pool && at->second.memory_kind == MemoryKind::kPooled) {
        pool->free_runs.Add(at->first, at->second.capacity);
        at = driver->allocations.erase(at);
      } else {
        ++at;
      }
    }
    for (const auto& [address, pending] : pool->pending) {
      if (pending.done) pool->free_runs.Add(address, pending.bytes);
    }
    pool->pending.clear();
    pool->passed_on.clear();
    pool->used = 0;
    if (pool->reserved != 0) TrimPool(driver, pool, 0);
    DropPoolIfUnused(driver, pool);
  }
  for (auto& [address, range] : driver->graph_ranges) {
    if (range.device != device || range.taken == 0) continue;
    range.taken = 0;
    driver->allocations.erase(address);
    driver->devices[device]->graphs.used -= range.capacity;
  }
  TrimGraphMemory(driver, device);
}

CUresult NewPool(Driver* driver, const CUmemPoolProps& props, Pool** made) {
  if (driver->pools.size() >= kPoolsMax) {
    Say("more than kPoolsMax = " + std::to_string(kPoolsMax) + " pools in one process");
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  auto pool = std::make_unique<Pool>();
  pool->device = props.location.id;
  pool->props = props;
  const uint64_t memory = CardOf(*driver, pool->device).profile.memory_bytes;
  if (props.maxSize != 0) pool->max_bytes = RoundUp(std::min(props.maxSize, memory), kGranule);
  if (props.handleTypes != CU_MEM_HANDLE_TYPE_NONE) {
    const uint64_t bytes = 2 * (pool->max_bytes != 0 ? pool->max_bytes : memory);
    const MemoryTag tag = MakeTag(*driver, MemoryTag::kPoolKind, pool->device, bytes);
    std::string error;
    pool->arena = Arena::Make(bytes / kGranule, &error,
                              std::string_view(reinterpret_cast<const char*>(&tag), sizeof tag));
    if (pool->arena == nullptr) {
      Say(error);
      return CUDA_ERROR_OUT_OF_MEMORY;
    }
    pool->uid[0] = tag.uid[0];
    pool->uid[1] = tag.uid[1];
    AddressRange range;
    range.bytes = bytes;
    range.pool = pool.get();
    driver->ranges.emplace(pool->arena->base(), range);
  }
  *made = pool.release();
  driver->live.insert(*made);
  driver->pools.insert(*made);
  return CUDA_SUCCESS;
}

void NewDefaultPool(Driver* driver, int device) {
  auto* pool = new Pool;
  pool->device = device;
  pool->is_default = true;
  pool->props.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  pool->props.location = {CU_MEM_LOCATION_TYPE_DEVICE, device};
  driver->devices[device]->default_pool = pool;
  driver->devices[device]->pool = pool;
  driver->live.insert(pool);
  driver->pools.insert(pool);
}

CUresult TakeFromPool(Driver* driver, Pool* pool, const Stream& stream, uint64_t bytes,
                      uint64_t* address, CommandRef* behind, CommandRef* wait) {
  if (bytes > CardOf(*driver, pool->device).profile.memory_bytes) return CUDA_ERROR_OUT_OF_MEMORY;
  if (!EnsureArena(driver, pool->device)) return CUDA_ERROR_OPERATING_SYSTEM;
  const uint64_t need = RoundUp(bytes, kSmallUnit);
  // What this stream freed is its own to have again, whether it is free yet or not.
  if (auto at = FindPending(pool, stream.id, need, 2 * need); at != pool->pending.end()) {
    *address = at->first;
    PassOn(driver, pool, at, bytes);
    return CUDA_SUCCESS;
  }
  bool found = pool->free_runs.Take(need, address);
  if (!found) {
    CUresult grown = Grow(driver, pool, need);
    if (grown != CUDA_SUCCESS) {
      // Free memory in pieces that are too small makes room for a piece that is not.
      TrimPool(driver, pool, 0);
      grown = Grow(driver, pool, need);
    }
    found = grown == CUDA_SUCCESS && pool->free_runs.Take(need, address);
  }
  if (found) {
    AddRecord(driver, pool, *address, bytes, need);
    return CUDA_SUCCESS;
  }
  // Behind a free that is still to come, of this stream or, if allowed, of any.
  const uint64_t whose = pool->reuse[2] ? 0 : stream.id;
  if (auto at = FindPending(pool, whose, need, ~uint64_t{0}); at != pool->pending.end()) {
    *address = at->first;
    if (at->second.stream != stream.id && !at->second.done) *behind = at->second.free;
    PassOn(driver, pool, at, bytes);
    return CUDA_SUCCESS;
  }
  for (auto at = pool->pending.begin(); at != pool->pending.end(); ++at) {
    if (at->second.done || (whose != 0 && at->second.stream != whose)) continue;
    *wait = at->second.free;
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  return CUDA_ERROR_OUT_OF_MEMORY;
}

void FreePooled(Driver* driver, std::map<uint64_t, Allocation>::iterator at) {
  const Allocation memory = at->second;
  driver->allocations.erase(at);
  Pool* pool = memory.pool;
  if (memory.memory_kind == MemoryKind::kImported) {
    --pool->imports;
    DropPoolIfUnused(driver, pool);
    return;
  }
  pool->used -= memory.capacity;
  auto pending = pool->pending.find(memory.base);
  if (pending != pool->pending.end() && !pool->reuse[1]) {
    // Others may have it when somebody has waited; until then only its stream.
    pending->second.done = true;
  } else {
    if (pending != pool->pending.end()) pool->pending.erase(pending);
    pool->free_runs.Add(memory.base, memory.capacity);
  }
  driver->pools_look.store(true, std::memory_order_release);
  DropPoolIfUnused(driver, pool);
}

void BeginLife(Driver* driver, const AllocAction& action) {
  const uint64_t address = action.address;
  std::lock_guard guard(driver->mutex);
  // Pooled memory is there since the call that chose its address.
  auto at = driver->graph_ranges.find(address);
  if (at == driver->graph_ranges.end() || at->second.taken == 0) return;
  Allocation made;
  made.base = address;
  made.size = at->second.size;
  made.capacity = at->second.capacity;
  made.memory_kind = MemoryKind::kGraph;
  made.device = at->second.device;
  made.id = driver->next_id++;
  made.host = driver->devices[made.device]->arena->Host(address);
  driver->allocations[address] = made;
}

void EndLife(Driver* driver, const FreeAction& action) {
  const uint64_t address = action.address;
  std::lock_guard guard(driver->mutex);
  if (auto range = driver->graph_ranges.find(address); range != driver->graph_ranges.end()) {
    // The next launch may have taken the memory already: then its life goes on.
    if (range->second.taken == 0) return;
    --range->second.taken;
    if (range->second.taken != 0) return;
    driver->allocations.erase(address);
    Device* device = driver->devices[range->second.device];
    device->arena->Punch(address, range->second.capacity / kGranule);
    device->graphs.used -= range->second.capacity;
    return;
  }
  for (Pool* pool : driver->pools) {
    auto passed = pool->passed_on.find(address);
    if (passed == pool->passed_on.end()) continue;
    if (--passed->second == 0) pool->passed_on.erase(passed);
    DropPoolIfUnused(driver, pool);
    return;
  }
  auto at = driver->allocations.find(address);
  if (at == driver->allocations.end() || !at->second.freeing) return;
  if (at->second.pool != nullptr) {
    FreePooled(driver, at);
  } else {
    Release(driver, at);
  }
}

CUresult ReserveGraphMemory(Driver* driver, int device, uint64_t bytes, uint64_t* address) {
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  if (bytes > CardOf(*driver, device).profile.memory_bytes) return CUDA_ERROR_OUT_OF_MEMORY;
  if (!EnsureArena(driver, device)) return CUDA_ERROR_OPERATING_SYSTEM;
  GraphRange range;
  range.device = device;
  range.size = bytes;
  range.capacity = RoundUp(bytes, kGranule);
  *address = driver->devices[device]->arena->Take(range.capacity / kGranule);
  if (*address == 0) return CUDA_ERROR_OUT_OF_MEMORY;
  driver->graph_ranges.emplace(*address, range);
  return CUDA_SUCCESS;
}

void DropGraphMemory(Driver* driver, uint64_t address) {
  auto at = driver->graph_ranges.find(address);
  if (at == driver->graph_ranges.end()) return;
  Device* device = driver->devices[at->second.device];
  if (at->second.taken != 0) device->graphs.used -= at->second.capacity;
  driver->allocations.erase(address);
  device->arena->Give(address, at->second.capacity / kGranule);
  driver->graph_ranges.erase(at);
}

CUresult TakeGraphMemory(Driver* driver, uint64_t address) {
  auto at = driver->graph_ranges.find(address);
  if (at == driver->graph_ranges.end()) return CUDA_ERROR_INVALID_VALUE;
  if (at->second.taken == 0) {
    Device* device = driver->devices[at->second.device];
    const uint64_t used = device->graphs.used + at->second.capacity;
    if (used > device->graphs.reserved) {
      if (CUresult bad = FromAnswer(driver->state->Take(device->card, State::Kind::kAllocation,
                                                        used - device->graphs.reserved))) {
        return bad;
      }
      device->graphs.reserved = used;
    }
    device->graphs.used = used;
    device->graphs.used_high = std::max(device->graphs.used_high, used);
    device->graphs.reserved_high = std::max(device->graphs.reserved_high, device->graphs.reserved);
  }
  ++at->second.taken;
  return CUDA_SUCCESS;
}

bool GraphMemoryLives(const Driver& driver, uint64_t address) {
  auto at = driver.graph_ranges.find(address);
  return at != driver.graph_ranges.end() && at->second.taken != 0;
}

void TrimGraphMemory(Driver* driver, int device) {
  Device* one = driver->devices[device];
  const uint64_t unused = one->graphs.reserved - one->graphs.used;
  if (unused != 0) driver->state->Give(one->card, State::Kind::kAllocation, unused);
  one->graphs.reserved = one->graphs.used;
}

}  // namespace simgpu
