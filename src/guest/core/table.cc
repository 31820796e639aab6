#include "guest/core/table.h"

namespace tessera::guest {

namespace {
uint64_t MixBits(uint64_t x) {
  x ^= x >> 32;
  x *= 0x9e3779b97f4a7c15ull;
  return x ^ (x >> 29);
}
constexpr uint32_t kFirstCapacity = 64;
}  // namespace

uint64_t AllocationTable::Map::Mix(uint64_t key) { return MixBits(key); }

AllocationTable::Slot* AllocationTable::Map::Find(uint64_t key) {
  if (slots == nullptr) return nullptr;
  for (uint64_t i = Mix(key) & mask;; i = (i + 1) & mask) {
    if (slots[i].key == key) return &slots[i];
    if (slots[i].key == 0) return nullptr;
  }
}

bool AllocationTable::Map::Grow() {
  const uint32_t capacity = slots == nullptr ? kFirstCapacity : (mask + 1) * 2;
  auto* fresh = static_cast<Slot*>(MapMemory(capacity * sizeof(Slot)));
  if (fresh == nullptr) return false;
  const uint32_t fresh_mask = capacity - 1;
  if (slots != nullptr) {
    for (uint32_t i = 0; i <= mask; ++i) {
      if (slots[i].key == 0) continue;
      uint64_t at = Mix(slots[i].key) & fresh_mask;
      while (fresh[at].key != 0) at = (at + 1) & fresh_mask;
      fresh[at] = slots[i];
    }
    UnmapMemory(slots, (mask + 1) * sizeof(Slot));
  }
  slots = fresh;
  mask = fresh_mask;
  return true;
}

AllocationTable::Slot* AllocationTable::Map::Add(uint64_t key, uint64_t value) {
  // At most three quarters full, so probes stay short and always meet an empty slot.
  if (slots == nullptr || (count + 1) * 4 > (mask + 1) * 3) {
    if (!Grow()) return nullptr;
  }
  uint64_t i = Mix(key) & mask;
  while (slots[i].key != 0) i = (i + 1) & mask;
  slots[i] = {key, value};
  ++count;
  return &slots[i];
}

void AllocationTable::Map::Erase(Slot* slot) {
  uint64_t hole = static_cast<uint64_t>(slot - slots);
  for (uint64_t i = (hole + 1) & mask; slots[i].key != 0; i = (i + 1) & mask) {
    const uint64_t home = Mix(slots[i].key) & mask;
    // Movable when its home lies outside (hole, i], going round.
    if (((i - home) & mask) >= ((i - hole) & mask)) {
      slots[hole] = slots[i];
      hole = i;
    }
  }
  slots[hole] = {0, 0};
  --count;
}

uint64_t AllocationTable::Pack(const Allocation& allocation) {
  return allocation.bytes | static_cast<uint64_t>(allocation.card) << 44 |
         static_cast<uint64_t>(allocation.kind) << 48 |
         static_cast<uint64_t>(allocation.context) << 52;
}

Allocation AllocationTable::Unpack(uint64_t address, uint64_t packed) {
  return {address, packed & (kAllocationBytesMax - 1), static_cast<uint32_t>(packed >> 44 & 15),
          static_cast<uint32_t>(packed >> 48 & 15), static_cast<uint32_t>(packed >> 52)};
}

AllocationTable::Shard* AllocationTable::ShardOf(uint64_t address, uint32_t granule_shift) {
  const uint64_t block = address >> granule_shift;
  return &shards_[(block ^ block >> 6) & (kShards - 1)];
}

int AllocationTable::AddReference(Shard* shard, uint64_t block, uint32_t card) {
  if (Slot* slot = shard->blocks.Find(block + 1)) {
    ++slot->value;
    return 0;
  }
  if (shard->blocks.Add(block + 1, 1) == nullptr) return -1;
  ++shard->granules[card];
  return 1;
}

uint32_t AllocationTable::DropReference(Shard* shard, uint64_t block, uint32_t card) {
  Slot* slot = shard->blocks.Find(block + 1);
  if (slot == nullptr || --slot->value != 0) return 0;
  shard->blocks.Erase(slot);
  --shard->granules[card];
  return 1;
}

AllocationTable::Inserted AllocationTable::Insert(const Allocation& allocation,
                                                  uint32_t granule_shift) {
  Inserted result = {true, 0, false, {}, 0};
  Shard* const shard = ShardOf(allocation.address, granule_shift);
  const uint64_t first = allocation.address >> granule_shift;
  const bool shares = SharesGranule(allocation.bytes, granule_shift);
  shard->lock.Acquire();
  uint64_t stale_second = ~0ull;
  if (Slot* slot = shard->pointers.Find(allocation.address)) {
    result.replaced = true;
    result.old = Unpack(allocation.address, slot->value);
    result.old_granules = DropLocked(shard, result.old, granule_shift, &stale_second);
    slot->value = Pack(allocation);
  } else if (shard->pointers.Add(allocation.address, Pack(allocation)) == nullptr) {
    shard->lock.Release();
    result.ok = false;
    return result;
  }
  if (!shares) {
    result.new_granules =
        static_cast<uint32_t>(RoundUp(allocation.bytes, 1ull << granule_shift) >> granule_shift);
    shard->granules[allocation.card] += result.new_granules;
  } else {
    const int added = AddReference(shard, first, allocation.card);
    if (added < 0) {
      shard->pointers.Erase(shard->pointers.Find(allocation.address));
      result.ok = false;
    } else {
      result.new_granules = static_cast<uint32_t>(added);
    }
  }
  shard->lock.Release();
  if (stale_second != ~0ull) {
    Shard* const other = ShardOf(stale_second << granule_shift, granule_shift);
    LockHolder holder(&other->lock);
    result.old_granules += DropReference(other, stale_second, result.old.card);
  }
  if (!shares || !result.ok) return result;
  // A small allocation may cross into a second block, which may belong to another shard.
  const uint64_t last =
      (allocation.address + (allocation.bytes == 0 ? 0 : allocation.bytes - 1)) >> granule_shift;
  if (last != first) {
    Shard* const other = ShardOf(last << granule_shift, granule_shift);
    LockHolder holder(&other->lock);
    const int added = AddReference(other, last, allocation.card);
    if (added > 0) ++result.new_granules;
  }
  return result;
}

bool AllocationTable::Take(uint64_t address, uint32_t granule_shift, Allocation* taken) {
  if (address == 0) return false;
  Shard* const shard = ShardOf(address, granule_shift);
  LockHolder holder(&shard->lock);
  Slot* slot = shard->pointers.Find(address);
  if (slot == nullptr) return false;
  *taken = Unpack(address, slot->value);
  shard->pointers.Erase(slot);
  return true;
}

void AllocationTable::PutBack(const Allocation& allocation, uint32_t granule_shift) {
  Shard* const shard = ShardOf(allocation.address, granule_shift);
  LockHolder holder(&shard->lock);
  // The slot it came from is still there to use: the map only ever grows.
  if (shard->pointers.Find(allocation.address) == nullptr) {
    shard->pointers.Add(allocation.address, Pack(allocation));
  }
}

uint32_t AllocationTable::DropLocked(Shard* shard, const Allocation& allocation,
                                     uint32_t granule_shift, uint64_t* second_block) {
  if (!SharesGranule(allocation.bytes, granule_shift)) {
    const uint32_t granules =
        static_cast<uint32_t>(RoundUp(allocation.bytes, 1ull << granule_shift) >> granule_shift);
    shard->granules[allocation.card] -= granules;
    return granules;
  }
  const uint64_t first = allocation.address >> granule_shift;
  const uint64_t last =
      (allocation.address + (allocation.bytes == 0 ? 0 : allocation.bytes - 1)) >> granule_shift;
  if (last != first) *second_block = last;
  return DropReference(shard, first, allocation.card);
}

uint32_t AllocationTable::Drop(const Allocation& allocation, uint32_t granule_shift) {
  Shard* const shard = ShardOf(allocation.address, granule_shift);
  uint64_t second = ~0ull;
  shard->lock.Acquire();
  uint32_t freed = DropLocked(shard, allocation, granule_shift, &second);
  shard->lock.Release();
  if (second != ~0ull) {
    Shard* const other = ShardOf(second << granule_shift, granule_shift);
    LockHolder holder(&other->lock);
    freed += DropReference(other, second, allocation.card);
  }
  return freed;
}

void AllocationTable::Sweep(bool (*dies)(const Allocation&, uint64_t), uint64_t argument,
                            uint32_t granule_shift, void (*freed)(uint32_t, uint32_t, void*),
                            void* context) {
  for (Shard& shard : shards_) {
    for (;;) {
      Allocation found = {};
      bool any = false;
      shard.lock.Acquire();
      for (uint32_t i = 0; shard.pointers.slots != nullptr && i <= shard.pointers.mask; ++i) {
        const Slot& slot = shard.pointers.slots[i];
        if (slot.key == 0) continue;
        found = Unpack(slot.key, slot.value);
        if (dies(found, argument)) {
          shard.pointers.Erase(&shard.pointers.slots[i]);
          any = true;
          break;
        }
      }
      shard.lock.Release();
      if (!any) break;
      const uint32_t granules = Drop(found, granule_shift);
      if (granules != 0) freed(found.card, granules, context);
    }
  }
}

uint64_t AllocationTable::Granules(uint32_t card) {
  uint64_t sum = 0;
  for (Shard& shard : shards_) {
    LockHolder holder(&shard.lock);
    sum += shard.granules[card];
  }
  return sum;
}

uint64_t AllocationTable::size() {
  uint64_t sum = 0;
  for (Shard& shard : shards_) {
    LockHolder holder(&shard.lock);
    sum += shard.pointers.count;
  }
  return sum;
}

uint64_t ObjectTable::Home(uint32_t kind, uint64_t key) {
  return MixBits(key ^ static_cast<uint64_t>(kind) << 56);
}

Object* ObjectTable::Find(uint32_t kind, uint64_t key) {
  if (objects_ == nullptr) return nullptr;
  for (uint64_t i = Home(kind, key) & mask_;; i = (i + 1) & mask_) {
    Object& object = objects_[i];
    if (object.kind == 0) return nullptr;
    if (object.kind == kind && object.key == key) return &object;
  }
}

bool ObjectTable::Grow() {
  const uint32_t capacity = objects_ == nullptr ? kFirstCapacity : (mask_ + 1) * 2;
  auto* fresh = static_cast<Object*>(MapMemory(capacity * sizeof(Object)));
  if (fresh == nullptr) return false;
  const uint32_t fresh_mask = capacity - 1;
  if (objects_ != nullptr) {
    for (uint32_t i = 0; i <= mask_; ++i) {
      if (objects_[i].kind == 0) continue;
      uint64_t at = Home(objects_[i].kind, objects_[i].key) & fresh_mask;
      while (fresh[at].kind != 0) at = (at + 1) & fresh_mask;
      fresh[at] = objects_[i];
    }
    UnmapMemory(objects_, (mask_ + 1) * sizeof(Object));
  }
  objects_ = fresh;
  mask_ = fresh_mask;
  return true;
}

void ObjectTable::Erase(Object* object) {
  uint64_t hole = static_cast<uint64_t>(object - objects_);
  for (uint64_t i = (hole + 1) & mask_; objects_[i].kind != 0; i = (i + 1) & mask_) {
    const uint64_t home = Home(objects_[i].kind, objects_[i].key) & mask_;
    if (((i - home) & mask_) >= ((i - hole) & mask_)) {
      objects_[hole] = objects_[i];
      hole = i;
    }
  }
  objects_[hole] = {};
  --count_;
}

bool ObjectTable::Put(const Object& object) {
  LockHolder holder(&lock_);
  if (Object* present = Find(object.kind, object.key)) {
    *present = object;
    return true;
  }
  if (objects_ == nullptr || (count_ + 1) * 4 > (mask_ + 1) * 3) {
    if (!Grow()) return false;
  }
  uint64_t i = Home(object.kind, object.key) & mask_;
  while (objects_[i].kind != 0) i = (i + 1) & mask_;
  objects_[i] = object;
  ++count_;
  return true;
}

bool ObjectTable::Get(uint32_t kind, uint64_t key, Object* found) {
  LockHolder holder(&lock_);
  Object* object = Find(kind, key);
  if (object == nullptr) return false;
  *found = *object;
  return true;
}

bool ObjectTable::Take(uint32_t kind, uint64_t key, Object* taken) {
  LockHolder holder(&lock_);
  Object* object = Find(kind, key);
  if (object == nullptr) return false;
  *taken = *object;
  Erase(object);
  return true;
}

bool ObjectTable::Update(uint32_t kind, uint64_t key, bool (*change)(Object*, int64_t),
                         int64_t argument, Object* removed, bool* was_removed) {
  LockHolder holder(&lock_);
  *was_removed = false;
  Object* object = Find(kind, key);
  if (object == nullptr) return false;
  if (change(object, argument)) {
    *removed = *object;
    *was_removed = true;
    Erase(object);
  }
  return true;
}

bool ObjectTable::TakeWhere(bool (*matches)(const Object&, uint64_t), uint64_t argument,
                            Object* taken) {
  LockHolder holder(&lock_);
  for (uint32_t i = 0; objects_ != nullptr && i <= mask_; ++i) {
    if (objects_[i].kind == 0 || !matches(objects_[i], argument)) continue;
    *taken = objects_[i];
    Erase(&objects_[i]);
    return true;
  }
  return false;
}

uint64_t ObjectTable::Charged(uint32_t card) {
  LockHolder holder(&lock_);
  uint64_t sum = 0;
  for (uint32_t i = 0; objects_ != nullptr && i <= mask_; ++i) {
    const Object& object = objects_[i];
    if (object.kind == 0 || object.kind == kObjectMapping || object.kind == kObjectGraphMemory) {
      continue;
    }
    if (object.card == card) sum += object.bytes;
  }
  return sum;
}

uint32_t ObjectTable::Count(uint32_t kind, uint32_t card) {
  LockHolder holder(&lock_);
  uint32_t count = 0;
  for (uint32_t i = 0; objects_ != nullptr && i <= mask_; ++i) {
    if (objects_[i].kind == kind && objects_[i].card == card) ++count;
  }
  return count;
}

}  // namespace tessera::guest
