// The memory model: who gets which addresses, and what that takes of the card.
#include <sys/mman.h>

#include "simgpu/driver/driver.h"

namespace simgpu {
namespace {

CUresult FromAnswer(State::Answer answer) {
  if (answer == State::Answer::kOk) return CUDA_SUCCESS;
  if (answer == State::Answer::kNoSlot) {
    Say("no slot in the shared state: kSlotsMax = " + std::to_string(kSlotsMax) +
        " processes, or its folder is gone");
  }
  return CUDA_ERROR_OUT_OF_MEMORY;
}

// Whole granules from the card's account and the arena.
CUresult TakeGranules(Driver* driver, int device, uint64_t bytes, State::Kind kind,
                      uint64_t* address) {
  Device* card = driver->devices[device];
  CUresult result = FromAnswer(driver->state->Take(card->card, kind, bytes));
  if (result != CUDA_SUCCESS) return result;
  *address = card->arena->Take(bytes / kGranule);
  if (*address != 0) return CUDA_SUCCESS;
  driver->state->Give(card->card, kind, bytes);
  return CUDA_ERROR_OUT_OF_MEMORY;
}

void GiveGranules(Driver* driver, int device, uint64_t address, uint64_t bytes, State::Kind kind) {
  Device* card = driver->devices[device];
  card->arena->Give(address, bytes / kGranule);
  driver->state->Give(card->card, kind, bytes);
}

// The first fit of `units` in a block, or false.
bool TakeUnits(SmallBlock* block, uint32_t units, uint64_t* address) {
  for (auto run = block->free_runs.begin(); run != block->free_runs.end(); ++run) {
    if (run->second < units) continue;
    const uint32_t first = run->first;
    const uint32_t rest = run->second - units;
    block->free_runs.erase(run);
    if (rest > 0) block->free_runs[first + units] = rest;
    ++block->live;
    *address = block->base + first * kSmallUnit;
    return true;
  }
  return false;
}

CUresult AllocateSmall(Driver* driver, Context* context, uint64_t bytes, uint64_t* address) {
  const auto units = static_cast<uint32_t>(bytes / kSmallUnit);
  for (auto& block : context->small_blocks) {
    if (TakeUnits(block.get(), units, address)) return CUDA_SUCCESS;
  }
  auto block = std::make_unique<SmallBlock>();
  CUresult result =
      TakeGranules(driver, context->device, kGranule, State::Kind::kAllocation, &block->base);
  if (result != CUDA_SUCCESS) return result;
  block->free_runs[0] = kGranule / kSmallUnit;
  TakeUnits(block.get(), units, address);
  context->small_blocks.push_back(std::move(block));
  return CUDA_SUCCESS;
}

void ReleaseSmall(Driver* driver, const Allocation& allocation) {
  auto& blocks = allocation.context->small_blocks;
  const uint64_t base = allocation.base / kGranule * kGranule;
  auto at = blocks.begin();
  while ((*at)->base != base) ++at;
  SmallBlock* block = at->get();
  if (--block->live == 0) {
    GiveGranules(driver, allocation.device, base, kGranule, State::Kind::kAllocation);
    blocks.erase(at);
    return;
  }
  auto first = static_cast<uint32_t>((allocation.base - base) / kSmallUnit);
  auto units = static_cast<uint32_t>(allocation.capacity / kSmallUnit);
  auto after = block->free_runs.lower_bound(first);
  if (after != block->free_runs.begin()) {
    auto before = std::prev(after);
    if (before->first + before->second == first) {
      first = before->first;
      units += before->second;
      block->free_runs.erase(before);
    }
  }
  if (after != block->free_runs.end() && first + units == after->first) {
    units += after->second;
    block->free_runs.erase(after);
  }
  block->free_runs[first] = units;
}

State::Kind AccountOf(MemoryKind kind) {
  return kind == MemoryKind::kModule ? State::Kind::kModule : State::Kind::kAllocation;
}

}  // namespace

CUresult Allocate(Driver* driver, Context* context, uint64_t bytes, MemoryKind kind,
                  uint64_t* address) {
  const uint64_t memory = CardOf(*driver, context->device).profile.memory_bytes;
  if (bytes > memory) return CUDA_ERROR_OUT_OF_MEMORY;
  if (kind == MemoryKind::kLarge && bytes < kLargeBytes) kind = MemoryKind::kSmall;
  Allocation made;
  made.size = bytes;
  made.capacity = RoundUp(bytes, kind == MemoryKind::kSmall ? kSmallUnit : kGranule);
  made.memory_kind = kind;
  made.context = context;
  made.device = context->device;
  CUresult result =
      kind == MemoryKind::kSmall
          ? AllocateSmall(driver, context, made.capacity, &made.base)
          : TakeGranules(driver, context->device, made.capacity, AccountOf(kind), &made.base);
  if (result != CUDA_SUCCESS) return result;
  Arena* arena = driver->devices[context->device]->arena.get();
  if (kind == MemoryKind::kManaged && !arena->Expose(made.base, made.capacity / kGranule)) {
    GiveGranules(driver, made.device, made.base, made.capacity, AccountOf(kind));
    return CUDA_ERROR_OPERATING_SYSTEM;
  }
  made.id = driver->next_id++;
  *address = made.base;
  driver->allocations.emplace(made.base, made);
  return CUDA_SUCCESS;
}

CUresult Release(Driver* driver, std::map<uint64_t, Allocation>::iterator at) {
  const Allocation allocation = at->second;
  driver->allocations.erase(at);
  if (allocation.memory_kind == MemoryKind::kSmall) {
    ReleaseSmall(driver, allocation);
    return CUDA_SUCCESS;
  }
  if (allocation.memory_kind == MemoryKind::kManaged) {
    driver->devices[allocation.device]->arena->Hide(allocation.base,
                                                    allocation.capacity / kGranule);
  }
  GiveGranules(driver, allocation.device, allocation.base, allocation.capacity,
               AccountOf(allocation.memory_kind));
  return CUDA_SUCCESS;
}

void ReleaseAll(Driver* driver, Context* context) {
  for (auto at = driver->allocations.begin(); at != driver->allocations.end();) {
    auto next = std::next(at);
    if (at->second.context == context) Release(driver, at);
    at = next;
  }
  for (auto at = driver->hosts.begin(); at != driver->hosts.end();) {
    auto next = std::next(at);
    if (at->second.context == context) {
      if (at->second.mapped != 0) {
        munmap(reinterpret_cast<void*>(at->second.base), at->second.mapped);
      }
      driver->hosts.erase(at);
    }
    at = next;
  }
}

const Allocation* FindAllocation(const Driver& driver, uint64_t address) {
  auto after = driver.allocations.upper_bound(address);
  if (after == driver.allocations.begin()) return nullptr;
  const Allocation& found = std::prev(after)->second;
  return address - found.base < found.capacity ? &found : nullptr;
}

const HostRange* FindHost(const Driver& driver, uint64_t address) {
  auto after = driver.hosts.upper_bound(address);
  if (after == driver.hosts.begin()) return nullptr;
  const HostRange& found = std::prev(after)->second;
  return address - found.base < found.size ? &found : nullptr;
}

uint8_t* Reach(const Driver& driver, uint64_t address, uint64_t bytes) {
  if (const Allocation* found = FindAllocation(driver, address)) {
    if (bytes > found->capacity - (address - found->base)) return nullptr;
    return driver.devices[found->device]->arena->Host(address);
  }
  if (const HostRange* found = FindHost(driver, address)) {
    if (bytes > found->size - (address - found->base)) return nullptr;
    return reinterpret_cast<uint8_t*>(address);
  }
  return nullptr;
}

bool InAnyArena(const Driver& driver, uint64_t address) {
  for (const Device* device : driver.devices) {
    if (device->arena != nullptr && device->arena->Contains(address)) return true;
  }
  return false;
}

}  // namespace simgpu
