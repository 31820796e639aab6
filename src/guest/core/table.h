// What this process holds of the cards: live pointers with their sizes, the 2 MiB blocks small
// allocations share, and the rarer objects (contexts, modules, physical handles, mappings).
#pragma once

#include <stdint.h>

#include "guest/core/lock.h"

namespace tessera::guest {

// Kinds of live memory, kept with each pointer.
enum PointerKind : uint32_t { kPlain = 0, kManaged = 1, kAsync = 2 };

struct Allocation {
  uint64_t address;
  uint64_t bytes;    // as asked of the driver; below kAllocationBytesMax
  uint32_t card;     // below 16
  uint32_t kind;     // PointerKind
  uint32_t context;  // our id of the context it dies with; below kContextIdsMax
};

inline constexpr uint64_t kAllocationBytesMax = 1ull << 44;
inline constexpr uint32_t kContextIdsMax = 1u << 12;

// How many bytes the driver takes for an allocation, by the rule of its 2 MiB pages: from half a
// granule up it has whole granules for itself; smaller ones share the granule their address falls
// in.
inline bool SharesGranule(uint64_t bytes, uint32_t granule_shift) {
  return bytes < (1ull << (granule_shift - 1));
}
inline uint64_t RoundUp(uint64_t bytes, uint64_t granule) {
  return (bytes + granule - 1) & ~(granule - 1);
}

// Live pointers, address -> size, and reference counts of shared granules. O(1), 64 shards with a
// lock each; memory grows by mmap and is never given back. Zero-initialised it is empty.
// Thread-safety: all methods.
class AllocationTable {
 public:
  // What became of an insertion. Small enough to come back in registers.
  struct Inserted {
    bool ok;                // false: no memory for the table; nothing was changed
    bool replaced;          // the address was already live: the driver freed it behind us
    uint16_t old_card;      // of what stood there
    uint32_t new_granules;  // granules nobody in this process had counted before (whole ones of a
                            // large allocation)
    uint32_t old_granules;  // granules of old_card that became free by the replacement
  };
  Inserted Insert(const Allocation& allocation, uint32_t granule_shift) {
    return InsertPacked(allocation.address, Pack(allocation), granule_shift);
  }

  // What a pointer that is about to be freed leaves behind.
  struct Removed {
    uint64_t address;
    uint64_t packed;    // the allocation
    uint32_t granules;  // counted by nobody in this process any more, and reserved still
    bool kept;          // granules shared with others, or maybe: counted until Finish

    uint32_t card() const { return CardOf(packed); }
  };
  // Takes the pointer out before the driver frees it, under one lock in the usual case. The
  // granules nobody else counts are uncounted at once, which is safe while the caller keeps them
  // reserved until the driver is done: who comes to the same granule meanwhile counts and reserves
  // it anew. A reference among several stays, because the last of the others may go first and give
  // the granule back while the driver still holds it for us.
  bool Remove(uint64_t address, uint32_t granule_shift, Removed* removed);
  // The driver freed it: how many granules are to be given back.
  uint32_t Finish(const Removed& removed, uint32_t granule_shift) {
    return __builtin_expect(removed.kept, 0)
               ? Drop(Unpack(removed.address, removed.packed), granule_shift)
               : removed.granules;
  }
  // The driver refused to free it: as if never removed. How many granules are to be given back
  // because others have come to count and reserve them meanwhile.
  uint32_t Restore(const Removed& removed, uint32_t granule_shift);

  // Takes the pointer out but keeps its granules counted, to be put back or dropped.
  bool Take(uint64_t address, uint32_t granule_shift, Allocation* taken);
  // As if never taken.
  void PutBack(const Allocation& allocation, uint32_t granule_shift);
  // Taken for good: how many granules nobody in this process counts any more.
  uint32_t Drop(const Allocation& allocation, uint32_t granule_shift);

  // Removes every allocation `dies` says yes to, and reports the granules freed by each.
  void Sweep(bool (*dies)(const Allocation&, uint64_t argument), uint64_t argument,
             uint32_t granule_shift, void (*freed)(uint32_t card, uint32_t granules, void* context),
             void* context);

  // Sum of granules counted for live pointers of one card.
  uint64_t Granules(uint32_t card);
  uint64_t size();

 private:
  struct Slot {
    uint64_t key;  // 0 empty
    uint64_t value;
  };
  // Open addressing with linear probing, at most half full; deletion shifts back, so there are no
  // tombstones. The home of a key is the top bits of its product with a constant.
  struct Map {
    Slot* slots;
    uint32_t mask;   // capacity - 1, 0 when unallocated
    uint32_t shift;  // 64 - bits of the capacity
    uint32_t room;   // keys that may be added before it grows

    uint64_t Home(uint64_t key) const { return key * 0x9e3779b97f4a7c15ull >> shift; }
    // The key's slot, or the empty one a search for it ends at. Not while unallocated.
    Slot* Seek(uint64_t key) {
      for (uint64_t i = Home(key);; i = (i + 1) & mask) {
        if (slots[i].key == key || slots[i].key == 0) return &slots[i];
      }
    }
    Slot* Find(uint64_t key) {
      if (__builtin_expect(slots == nullptr, 0)) return nullptr;
      Slot* const slot = Seek(key);
      return slot->key == 0 ? nullptr : slot;
    }
    // Whether one more key fits. False: no memory.
    bool MakeRoom() { return __builtin_expect(room != 0, 1) || Grow(); }
    // Into the empty slot Seek found; there is room.
    void Fill(Slot* slot, uint64_t key, uint64_t value) {
      *slot = {key, value};
      --room;
    }
    void Erase(Slot* slot) {
      ++room;
      const uint64_t next = static_cast<uint64_t>(slot - slots + 1) & mask;
      if (__builtin_expect(slots[next].key == 0, 1)) {
        *slot = {0, 0};
      } else {
        EraseShifting(slot);
      }
    }
    void EraseShifting(Slot* slot);
    bool Grow();
    uint32_t count() const { return slots == nullptr ? 0 : (mask + 1) / 2 - room; }
  };
  // A power of two in size, so that finding one is a shift.
  struct alignas(256) Shard {
    ShortLock lock;
    Map pointers;           // address -> packed Allocation
    Map blocks;             // block number + 1 -> references
    uint64_t granules[16];  // per card, counted by allocations of this shard
  };
  static constexpr uint32_t kShards = 64;

  // An allocation without its address, in one word.
  static uint64_t Pack(const Allocation& allocation) {
    return allocation.bytes | static_cast<uint64_t>(allocation.card) << 44 |
           static_cast<uint64_t>(allocation.kind) << 48 |
           static_cast<uint64_t>(allocation.context) << 52;
  }
  static uint64_t BytesOf(uint64_t packed) { return packed & (kAllocationBytesMax - 1); }
  static uint32_t CardOf(uint64_t packed) { return static_cast<uint32_t>(packed >> 44 & 15); }
  static Allocation Unpack(uint64_t address, uint64_t packed) {
    return {address, BytesOf(packed), CardOf(packed), static_cast<uint32_t>(packed >> 48 & 15),
            static_cast<uint32_t>(packed >> 52)};
  }

  Inserted InsertPacked(uint64_t address, uint64_t packed, uint32_t granule_shift);
  Inserted InsertSlow(uint64_t address, uint64_t packed, uint32_t granule_shift);
  Shard* ShardOf(uint64_t address, uint32_t granule_shift);
  // Adds or removes one reference to a block; returns 1 when the block appears or vanishes; -1
  // without memory.
  static int AddReference(Shard* shard, uint64_t block, uint32_t card);
  static uint32_t DropReference(Shard* shard, uint64_t block, uint32_t card);
  uint32_t DropLocked(Shard* shard, const Allocation& allocation, uint32_t granule_shift,
                      uint64_t* second_block);
  static void PutBackLocked(Shard* shard, uint64_t address, uint64_t packed);
  // The second block of a small allocation across a border, which may belong to another shard.
  int AddSecond(uint64_t block, uint32_t granule_shift, uint32_t card);
  uint32_t DropSecond(uint64_t block, uint32_t granule_shift, uint32_t card);

  Shard shards_[kShards];
};

// Contexts, code, physical memory handles, mappings, arrays, executable graphs.
enum ObjectKind : uint32_t {
  kObjectContext = 1,
  kObjectModule = 2,
  kObjectLibrary = 3,
  kObjectPhysical = 4,
  kObjectMapping = 5,
  kObjectArray = 6,
  kObjectMipmap = 7,
  kObjectGraphExec = 8,
  kObjectGraphMemory = 9,  // what one graph's allocation nodes take of one card; key: exec | card
  kObjectHost = 10,        // page-locked memory of the machine, in the host row; key: its address
  kObjectExternal = 11,    // memory another interface made; key: a number of ours, maps: its holds
  kObjectHold = 12,        // what holds one: handle, buffer or mipmapped array; key: that
  kObjectBinding = 13,     // of memory to a multicast object (`bytes`, no charge); key: our number
};

struct Object {
  uint64_t key;       // handle or address
  uint32_t kind;      // ObjectKind; 0 empty
  uint32_t card;      // or wire::kHostRow
  uint64_t bytes;     // charged for it
  uint32_t context;   // id it dies with, or its own id for a context
  uint32_t holders;   // references the program holds on a physical handle. Of an array 1: it is
                      // counted among the riders
  uint32_t maps;      // mappings of a physical handle
  uint32_t imported;  // a physical handle another process made: charged when it is mapped
  uint64_t target;    // kObjectMapping, kObjectBinding, kObjectHold: what they hold; a mapping's
                      // bytes are its length. kObjectContext: of its bytes, those the driver takes
                      // later. kObjectLibrary, kObjectExternal: those it does not count for us
};

// Small map (kind, key) -> Object behind one lock. Zero-initialised it is empty. Thread-safety: all
// methods.
class ObjectTable {
 public:
  // Adds or replaces. False: no memory.
  bool Put(const Object& object);
  bool Get(uint32_t kind, uint64_t key, Object* found);
  bool Take(uint32_t kind, uint64_t key, Object* taken);
  // Changes an object in place under the lock. When `change` returns true the object is removed and
  // copied to `removed`. Returns whether the object was there.
  bool Update(uint32_t kind, uint64_t key, bool (*change)(Object*, int64_t argument),
              int64_t argument, Object* removed, bool* was_removed);
  // Takes any one object that matches; for sweeping one after another.
  bool TakeWhere(bool (*matches)(const Object&, uint64_t argument), uint64_t argument,
                 Object* taken);
  // Sum of bytes charged for objects of one card, but mappings (their handle is charged)
  // and graph memory (PoolHold has the sum).
  uint64_t Charged(uint32_t card);
  uint32_t Count(uint32_t kind, uint32_t card);

 private:
  Object* Find(uint32_t kind, uint64_t key);
  void Erase(Object* object);
  bool Grow();
  static uint64_t Home(uint32_t kind, uint64_t key);

  Lock lock_;
  uint32_t mask_;
  uint32_t count_;
  Object* objects_;
};

}  // namespace tessera::guest
