// The memory model: who gets which addresses, and what that takes of the card.
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "abi/cuda_memory.h"
#include "simgpu/driver/array.h"
#include "simgpu/driver/external.h"
#include "simgpu/driver/memory.h"
#include "simgpu/driver/pool.h"
#include "simgpu/driver/vmm.h"

namespace simgpu {

// Four times the card's memory, so that a torn-up address range never is why an allocation fails.
bool EnsureArena(Driver* driver, int device) {
  Device* one = driver->devices[device];
  if (one->arena != nullptr) return true;
  std::string error;
  one->arena = Arena::Make(4 * CardOf(*driver, device).profile.memory_bytes / kGranule, &error);
  if (one->arena == nullptr) Say(error);
  return one->arena != nullptr;
}

CUresult FromAnswer(State::Answer answer) {
  if (answer == State::Answer::kOk) return CUDA_SUCCESS;
  if (answer == State::Answer::kNoSlot) {
    Say("no slot in the shared state: kSlotsMax = " + std::to_string(kSlotsMax) +
        " processes, or its folder is gone");
  }
  return CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult TakeGranules(Driver* driver, int device, Arena* arena, uint64_t bytes, State::Kind kind,
                      uint64_t* address) {
  const uint32_t card = driver->devices[device]->card;
  CUresult result = FromAnswer(driver->state->Take(card, kind, bytes));
  if (result != CUDA_SUCCESS) return result;
  *address = arena->Take(bytes / kGranule);
  if (*address != 0) return CUDA_SUCCESS;
  driver->state->Give(card, kind, bytes);
  return CUDA_ERROR_OUT_OF_MEMORY;
}

void GiveGranules(Driver* driver, int device, Arena* arena, uint64_t address, uint64_t bytes,
                  State::Kind kind) {
  arena->Give(address, bytes / kGranule);
  driver->state->Give(driver->devices[device]->card, kind, bytes);
}

namespace {

bool TakePart(SmallBlock* block, uint64_t bytes, uint64_t* address) {
  if (!block->free_runs.Take(bytes, address)) return false;
  ++block->live;
  return true;
}

CUresult AllocateSmall(Driver* driver, Context* context, uint64_t bytes, uint64_t* address) {
  for (auto& block : context->small_blocks) {
    if (TakePart(block.get(), bytes, address)) return CUDA_SUCCESS;
  }
  auto block = std::make_unique<SmallBlock>();
  CUresult result =
      TakeGranules(driver, context->device, driver->devices[context->device]->arena.get(), kGranule,
                   State::Kind::kAllocation, &block->base);
  if (result != CUDA_SUCCESS) return result;
  block->free_runs.Add(block->base, kGranule);
  TakePart(block.get(), bytes, address);
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
    GiveGranules(driver, allocation.device, driver->devices[allocation.device]->arena.get(), base,
                 kGranule, State::Kind::kAllocation);
    blocks.erase(at);
    return;
  }
  block->free_runs.Add(allocation.base, allocation.capacity);
}

State::Kind AccountOf(MemoryKind kind) {
  return kind == MemoryKind::kModule ? State::Kind::kModule : State::Kind::kAllocation;
}

}  // namespace

CUresult TakeStorage(Driver* driver, Context* context, uint64_t bytes, MemoryKind kind,
                     Allocation* made) {
  const uint64_t memory = CardOf(*driver, context->device).profile.memory_bytes;
  if (bytes > memory) return CUDA_ERROR_OUT_OF_MEMORY;
  if (kind == MemoryKind::kLarge && bytes < kLargeBytes) kind = MemoryKind::kSmall;
  made->size = bytes;
  made->capacity = RoundUp(bytes, kind == MemoryKind::kSmall ? kSmallUnit : kGranule);
  made->memory_kind = kind;
  made->context = context;
  made->device = context->device;
  Arena* arena = driver->devices[context->device]->arena.get();
  CUresult result = kind == MemoryKind::kSmall
                        ? AllocateSmall(driver, context, made->capacity, &made->base)
                        : TakeGranules(driver, context->device, arena, made->capacity,
                                       AccountOf(kind), &made->base);
  if (result != CUDA_SUCCESS) return result;
  made->host = arena->Host(made->base);
  made->id = driver->next_id++;
  return CUDA_SUCCESS;
}

void GiveStorage(Driver* driver, const Allocation& allocation) {
  if (allocation.memory_kind == MemoryKind::kSmall) {
    ReleaseSmall(driver, allocation);
    return;
  }
  GiveGranules(driver, allocation.device, driver->devices[allocation.device]->arena.get(),
               allocation.base, allocation.capacity, AccountOf(allocation.memory_kind));
}

CUresult Allocate(Driver* driver, Context* context, uint64_t bytes, MemoryKind kind,
                  uint64_t* address) {
  Allocation made;
  if (CUresult bad = TakeStorage(driver, context, bytes, kind, &made)) return bad;
  Arena* arena = driver->devices[context->device]->arena.get();
  if (kind == MemoryKind::kManaged && !arena->Expose(made.base, made.capacity / kGranule)) {
    GiveStorage(driver, made);
    return CUDA_ERROR_OPERATING_SYSTEM;
  }
  *address = made.base;
  driver->allocations.emplace(made.base, made);
  return CUDA_SUCCESS;
}

CUresult Release(Driver* driver, std::map<uint64_t, Allocation>::iterator at) {
  const Allocation allocation = at->second;
  driver->allocations.erase(at);
  if (allocation.memory_kind == MemoryKind::kExternal) {
    FreeAddresses(driver, allocation.base / kGranule * kGranule);
    --allocation.physical->mappings;
    DropIfUnused(driver, allocation.physical);
    return CUDA_SUCCESS;
  }
  if (allocation.memory_kind == MemoryKind::kManaged) {
    driver->managed.erase(allocation.base);
    driver->devices[allocation.device]->arena->Hide(allocation.base,
                                                    allocation.capacity / kGranule);
  }
  GiveStorage(driver, allocation);
  return CUDA_SUCCESS;
}

void ReleaseAll(Driver* driver, Context* context) {
  for (auto at = driver->allocations.begin(); at != driver->allocations.end();) {
    auto next = std::next(at);
    if (at->second.context == context) {
      if (at->second.memory_kind == MemoryKind::kImported) {
        FreeAddresses(driver, at->second.base / kGranule * kGranule);
        driver->allocations.erase(at);
      } else {
        Release(driver, at);
      }
    }
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
  DropArrays(driver, context);
  DropExternals(driver, context);
  driver->heaps.erase(context);
  bool last = true;
  for (const Object* object : driver->live) {
    if (object->kind != Kind::kContext) continue;
    auto* other = const_cast<Context*>(static_cast<const Context*>(object));
    if (other == context) continue;
    other->peers.erase(context);
    last = last && other->device != context->device;
  }
  context->peers.clear();
  if (last) ReleasePooled(driver, context->device);
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

namespace {

// Mapped memory that lies side by side is side by side for the host too (vmm.cc), so a range may
// run over several mappings.
uint8_t* ReachIf(const Driver& driver, uint64_t address, uint64_t bytes,
                 bool (*may)(const Allocation&, int device, bool write), int device, bool write) {
  if (const Allocation* found = FindAllocation(driver, address)) {
    if (!may(*found, device, write)) return nullptr;
    if (found->multicast != nullptr) return nullptr;
    uint8_t* host = found->host + (address - found->base);
    uint64_t room = found->capacity - (address - found->base);
    while (room < bytes) {
      if (found->memory_kind != MemoryKind::kMapped) return nullptr;
      found = FindAllocation(driver, address + room);
      if (found == nullptr || found->multicast != nullptr || found->host != host + room ||
          !may(*found, device, write)) {
        return nullptr;
      }
      room += found->capacity;
    }
    return host;
  }
  if (const HostRange* found = FindHost(driver, address)) {
    if (bytes > found->size - (address - found->base)) return nullptr;
    return reinterpret_cast<uint8_t*>(address);
  }
  return nullptr;
}

}  // namespace

uint8_t* Reach(const Driver& driver, uint64_t address, uint64_t bytes) {
  return ReachIf(
      driver, address, bytes, [](const Allocation&, int, bool) { return true; }, 0, false);
}

uint8_t* ReachFor(const Driver& driver, int device, uint64_t address, uint64_t bytes, bool write) {
  return ReachIf(
      driver, address, bytes,
      [](const Allocation& memory, int from, bool writes) {
        if (memory.memory_kind != MemoryKind::kMapped) return true;
        const unsigned int need =
            writes ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE : CU_MEM_ACCESS_FLAGS_PROT_READ;
        if (from != kAnyDevice) return (memory.access[from] & need) == need;
        return std::ranges::any_of(memory.access,
                                   [need](uint8_t flags) { return (flags & need) == need; });
      },
      device, write);
}

bool InAnyArena(const Driver& driver, uint64_t address) {
  for (const Device* device : driver.devices) {
    if (device->arena != nullptr && device->arena->Contains(address)) return true;
  }
  auto after = driver.ranges.upper_bound(address);
  if (after == driver.ranges.begin()) return false;
  const auto& [base, range] = *std::prev(after);
  return address - base < range.bytes;
}

uint64_t ReserveAddresses(Driver* driver, uint64_t bytes, uint64_t alignment, uint64_t near) {
  if (driver->ranges.size() >= kAddressRangesMax) {
    Say("more than kAddressRangesMax = " + std::to_string(kAddressRangesMax) +
        " ranges of device addresses reserved or imported");
    return 0;
  }
  alignment = std::max(alignment, kGranule);
  if (bytes > (uint64_t{1} << 46) || alignment > (uint64_t{1} << 45)) return 0;
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  AddressRange made;
  made.bytes = bytes;
  uint64_t base = 0;
  if (near != 0 && near % alignment == 0) {
    void* at =
        mmap(reinterpret_cast<void*>(near), bytes, PROT_NONE, kFlags | MAP_FIXED_NOREPLACE, -1, 0);
    if (at != MAP_FAILED && reinterpret_cast<uint64_t>(at) == near) {
      base = near;
    } else if (at != MAP_FAILED) {
      munmap(at, bytes);
    }
  }
  if (base == 0) {
    void* at = mmap(nullptr, bytes + alignment, PROT_NONE, kFlags, -1, 0);
    if (at == MAP_FAILED) return 0;
    const auto start = reinterpret_cast<uint64_t>(at);
    base = RoundUp(start, alignment);
    // What stands over at both ends goes back, page by page.
    if (base > start) munmap(at, base - start);
    const uint64_t end = RoundUp(base + bytes, 4096);
    munmap(reinterpret_cast<void*>(end), start + bytes + alignment - end);
  }
  madvise(reinterpret_cast<void*>(base), bytes, MADV_DONTDUMP);
  driver->ranges.emplace(base, made);
  return base;
}

void FreeAddresses(Driver* driver, uint64_t base) {
  auto at = driver->ranges.find(base);
  if (at == driver->ranges.end()) return;
  munmap(reinterpret_cast<void*>(base), at->second.bytes);
  if (at->second.host != nullptr) munmap(at->second.host, at->second.bytes);
  if (at->second.charged != 0) {
    driver->state->Give(at->second.card, State::Kind::kAllocation, at->second.charged);
  }
  struct stat socket{};
  if (at->second.socket >= 0 && fstat(at->second.socket, &socket) == 0 &&
      socket.st_ino == at->second.socket_file) {
    close(at->second.socket);
  }
  driver->ranges.erase(at);
}

CUresult WaitBeforeFree(Driver* driver, Context* current, int device) {
  std::vector<Context*> users;
  {
    std::lock_guard guard(driver->mutex);
    for (const Object* object : driver->live) {
      if (object->kind != Kind::kContext) continue;
      auto* context = const_cast<Context*>(static_cast<const Context*>(object));
      bool uses = device < 0 || context->device == device;
      for (const Context* peer : context->peers) uses = uses || peer->device == device;
      if (uses) users.push_back(context);
    }
  }
  // Contexts are never deleted, so one that ends meanwhile may still be waited for.
  CUresult result = CUDA_SUCCESS;
  for (Context* context : users) {
    CUresult answer = WaitContext(context);
    if (context == current) result = answer;
  }
  return result;
}

MemoryTag MakeTag(const Driver& driver, uint32_t kind, int device, uint64_t bytes) {
  MemoryTag tag;
  tag.kind = kind;
  const Card& card = CardOf(driver, device);
  tag.card = card.index;
  memcpy(tag.uuid, card.uuid_bytes, sizeof tag.uuid);
  tag.bytes = bytes;
  if (getrandom(tag.uid, sizeof tag.uid, 0) != static_cast<ssize_t>(sizeof tag.uid)) {
    tag.uid[0] = static_cast<uint64_t>(getpid());
    tag.uid[1] = NowNs();
  }
  return tag;
}

bool ReadTag(const Driver& driver, int fd, MemoryTag* tag, int* device) {
  struct stat file{};
  if (fstat(fd, &file) != 0 || !S_ISREG(file.st_mode) ||
      file.st_size < static_cast<off_t>(kTagBytes)) {
    return false;
  }
  const uint64_t bytes = static_cast<uint64_t>(file.st_size) - kTagBytes;
  if (pread(fd, tag, sizeof *tag, static_cast<off_t>(bytes)) != sizeof *tag ||
      tag->magic != MemoryTag::kMagic || tag->bytes != bytes) {
    return false;
  }
  for (size_t i = 0; i < driver.devices.size(); ++i) {
    const Card& card = CardOf(driver, static_cast<int>(i));
    if (card.index == tag->card && memcmp(card.uuid_bytes, tag->uuid, sizeof tag->uuid) == 0) {
      *device = static_cast<int>(i);
      return true;
    }
  }
  return false;
}

}  // namespace simgpu
