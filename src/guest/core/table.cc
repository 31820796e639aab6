#include "guest/core/table.h"

namespace tessera::guest {

namespace {
uint64_t MixBits(uint64_t x) {
  x ^= x >> 32;
  x *= 0x9e3779b97f4a7c15ull;
  return x ^ (x >> 29);
}
constexpr uint32_t kFirstCapacity = 64;  // objects
constexpr uint32_t kFirstSlots = 256;    // pointers or blocks of a shard: one page
}  // namespace

bool AllocationTable::Map::Grow() {
  const uint32_t capacity = slots == nullptr ? kFirstSlots : (mask + 1) * 2;
  auto* const fresh = static_cast<Slot*>(MapMemory(capacity * sizeof(Slot)));
  if (fresh == nullptr) return false;
  const Map old = *this;
  slots = fresh;
  mask = capacity - 1;
  shift = 64 - static_cast<uint32_t>(__builtin_ctz(capacity));
  room = capacity / 2;
  if (old.slots == nullptr) return true;
  for (uint32_t i = 0; i <= old.mask; ++i) {
    const Slot& slot = old.slots[i];
    if (slot.key != 0) Fill(Seek(slot.key), slot.key, slot.value);
  }
  UnmapMemory(old.slots, (old.mask + 1) * sizeof(Slot));
  return true;
}

[[gnu::noinline]] void AllocationTable::Map::EraseShifting(Slot* slot) {
  uint64_t hole = static_cast<uint64_t>(slot - slots);
  for (uint64_t i = (hole + 1) & mask; slots[i].key != 0; i = (i + 1) & mask) {
    // Movable when its home lies outside (hole, i], going round.
    if (((i - Home(slots[i].key)) & mask) >= ((i - hole) & mask)) {
      slots[hole] = slots[i];
      hole = i;
    }
  }
  slots[hole] = {0, 0};
}

inline AllocationTable::Shard* AllocationTable::ShardOf(uint64_t address, uint32_t granule_shift) {
  const uint64_t block = address >> granule_shift;
  return &shards_[(block ^ block >> 6) & (kShards - 1)];
}

namespace {
uint64_t LastBlock(uint64_t address, uint64_t bytes, uint32_t granule_shift) {
  return (address + (bytes == 0 ? 0 : bytes - 1)) >> granule_shift;
}
uint32_t WholeGranules(uint64_t bytes, uint32_t granule_shift) {
  return static_cast<uint32_t>(RoundUp(bytes, 1ull << granule_shift) >> granule_shift);
}
constexpr uint64_t kNoBlock = ~0ull;
}  // namespace

inline int AllocationTable::AddReference(Shard* shard, uint64_t block, uint32_t card) {
  if (!shard->blocks.MakeRoom()) return -1;
  Slot* const slot = shard->blocks.Seek(block + 1);
  if (slot->key != 0) {
    ++slot->value;
    return 0;
  }
  shard->blocks.Fill(slot, block + 1, 1);
  ++shard->granules[card];
  return 1;
}

inline uint32_t AllocationTable::DropReference(Shard* shard, uint64_t block, uint32_t card) {
  Slot* const slot = shard->blocks.Find(block + 1);
  if (slot == nullptr || --slot->value != 0) return 0;
  shard->blocks.Erase(slot);
  --shard->granules[card];
  return 1;
}

[[gnu::noinline]] int AllocationTable::AddSecond(uint64_t block, uint32_t granule_shift,
                                                 uint32_t card) {
  Shard* const shard = ShardOf(block << granule_shift, granule_shift);
  LockHolder holder(&shard->lock);
  return AddReference(shard, block, card);
}

[[gnu::noinline]] uint32_t AllocationTable::DropSecond(uint64_t block, uint32_t granule_shift,
                                                       uint32_t card) {
  Shard* const shard = ShardOf(block << granule_shift, granule_shift);
  LockHolder holder(&shard->lock);
  return DropReference(shard, block, card);
}

AllocationTable::Inserted AllocationTable::InsertPacked(uint64_t address, uint64_t packed,
                                                        uint32_t granule_shift) {
  const uint64_t bytes = BytesOf(packed);
  const uint64_t first = address >> granule_shift;
  const bool shares = SharesGranule(bytes, granule_shift);
  if (__builtin_expect(shares && LastBlock(address, bytes, granule_shift) != first, 0)) {
    return InsertSlow(address, packed, granule_shift);
  }
  Shard* const shard = ShardOf(address, granule_shift);
  shard->lock.Acquire();
  uint64_t* const granules = &shard->granules[CardOf(packed)];
  if (__builtin_expect(shard->pointers.room != 0 && shard->blocks.room != 0, 1)) {
    Slot* const slot = shard->pointers.Seek(address);
    if (__builtin_expect(slot->key == 0, 1)) {
      shard->pointers.Fill(slot, address, packed);
      uint32_t added = 0;
      if (!shares) {
        added = WholeGranules(bytes, granule_shift);
      } else {
        Slot* const block = shard->blocks.Seek(first + 1);
        if (block->key != 0) {
          ++block->value;
        } else {
          shard->blocks.Fill(block, first + 1, 1);
          added = 1;
        }
      }
      *granules += added;
      shard->lock.Release();
      return {true, false, 0, added, 0};
    }
  }
  shard->lock.Release();
  return InsertSlow(address, packed, granule_shift);
}

// The whole of it: a table to grow, an address that stands already, an allocation across a border.
[[gnu::noinline]] AllocationTable::Inserted AllocationTable::InsertSlow(uint64_t address,
                                                                        uint64_t packed,
                                                                        uint32_t granule_shift) {
  Inserted result = {true, false, 0, 0, 0};
  const uint64_t bytes = BytesOf(packed);
  const uint32_t card = CardOf(packed);
  const uint64_t first = address >> granule_shift;
  const bool shares = SharesGranule(bytes, granule_shift);
  uint64_t stale_second = kNoBlock;
  Shard* const shard = ShardOf(address, granule_shift);
  shard->lock.Acquire();
  if (__builtin_expect(!shard->pointers.MakeRoom(), 0)) {
    shard->lock.Release();
    result.ok = false;
    return result;
  }
  Slot* const slot = shard->pointers.Seek(address);
  if (__builtin_expect(slot->key != 0, 0)) {
    const Allocation old = Unpack(address, slot->value);
    result.replaced = true;
    result.old_card = static_cast<uint16_t>(old.card);
    result.old_granules = DropLocked(shard, old, granule_shift, &stale_second);
    slot->value = packed;
  } else {
    shard->pointers.Fill(slot, address, packed);
  }
  if (shares) {
    const int added = AddReference(shard, first, card);
    if (__builtin_expect(added < 0, 0)) {
      shard->pointers.Erase(slot);
      result.ok = false;
    } else {
      result.new_granules = static_cast<uint32_t>(added);
    }
  } else {
    result.new_granules = WholeGranules(bytes, granule_shift);
    shard->granules[card] += result.new_granules;
  }
  shard->lock.Release();
  // What belongs to another block, which may be another shard's.
  if (__builtin_expect(stale_second != kNoBlock, 0)) {
    result.old_granules += DropSecond(stale_second, granule_shift, result.old_card);
  }
  if (shares) {
    const uint64_t last = LastBlock(address, bytes, granule_shift);
    if (__builtin_expect(last != first, 0) && result.ok &&
        AddSecond(last, granule_shift, card) > 0) {
      ++result.new_granules;
    }
  }
  return result;
}

bool AllocationTable::Remove(uint64_t address, uint32_t granule_shift, Removed* removed) {
  if (__builtin_expect(address == 0, 0)) return false;
  Shard* const shard = ShardOf(address, granule_shift);
  LockHolder holder(&shard->lock);
  Slot* const slot = shard->pointers.Find(address);
  if (__builtin_expect(slot == nullptr, 0)) return false;
  const uint64_t packed = slot->value;
  const uint64_t bytes = BytesOf(packed);
  shard->pointers.Erase(slot);
  removed->address = address;
  removed->packed = packed;
  if (!SharesGranule(bytes, granule_shift)) {
    removed->granules = WholeGranules(bytes, granule_shift);
    removed->kept = false;
    shard->granules[CardOf(packed)] -= removed->granules;
    return true;
  }
  const uint64_t first = address >> granule_shift;
  Slot* const block = shard->blocks.Find(first + 1);
  if (block == nullptr || block->value != 1 || LastBlock(address, bytes, granule_shift) != first) {
    removed->kept = true;
    return true;
  }
  shard->blocks.Erase(block);
  --shard->granules[CardOf(packed)];
  removed->granules = 1;
  removed->kept = false;
  return true;
}

uint32_t AllocationTable::Restore(const Removed& removed, uint32_t granule_shift) {
  Shard* const shard = ShardOf(removed.address, granule_shift);
  LockHolder holder(&shard->lock);
  PutBackLocked(shard, removed.address, removed.packed);
  if (removed.kept) return 0;
  if (!SharesGranule(BytesOf(removed.packed), granule_shift)) {
    shard->granules[removed.card()] += removed.granules;
    return 0;
  }
  // Without memory to count it the granule stays reserved for good, which errs on the safe side.
  return AddReference(shard, removed.address >> granule_shift, removed.card()) == 0 ? 1 : 0;
}

void AllocationTable::PutBackLocked(Shard* shard, uint64_t address, uint64_t packed) {
  // Without memory for it the pointer is forgotten and stays counted for good.
  if (!shard->pointers.MakeRoom()) return;
  Slot* const slot = shard->pointers.Seek(address);
  if (slot->key == 0) shard->pointers.Fill(slot, address, packed);
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
  PutBackLocked(shard, allocation.address, Pack(allocation));
}

uint32_t AllocationTable::DropLocked(Shard* shard, const Allocation& allocation,
                                     uint32_t granule_shift, uint64_t* second_block) {
  if (!SharesGranule(allocation.bytes, granule_shift)) {
    const uint32_t granules = WholeGranules(allocation.bytes, granule_shift);
    shard->granules[allocation.card] -= granules;
    return granules;
  }
  const uint64_t first = allocation.address >> granule_shift;
  const uint64_t last = LastBlock(allocation.address, allocation.bytes, granule_shift);
  if (last != first) *second_block = last;
  return DropReference(shard, first, allocation.card);
}

uint32_t AllocationTable::Drop(const Allocation& allocation, uint32_t granule_shift) {
  Shard* const shard = ShardOf(allocation.address, granule_shift);
  uint64_t second = kNoBlock;
  shard->lock.Acquire();
  uint32_t freed = DropLocked(shard, allocation, granule_shift, &second);
  shard->lock.Release();
  if (second != kNoBlock) freed += DropSecond(second, granule_shift, allocation.card);
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
    sum += shard.pointers.count();
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
    if (object.kind == 0 || object.kind == kObjectMapping || object.kind == kObjectGraphMemory ||
        object.kind == kObjectBinding) {
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
