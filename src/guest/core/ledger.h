// The guest side of the reservation protocol of wire/pages.h: take bytes of a card, or of what the
// slice may pin of the machine (wire::kHostRow), before the driver does, give them back after it
// has.
#pragma once

#include <stdint.h>

#include "guest/core/lock.h"
#include "guest/core/sys.h"
#include "wire/pages.h"

namespace tessera::guest {

// A process's view of its slice's pages. Plain data; does not own the mappings.
struct Pages {
  const wire::ControlPage* control;
  wire::UsagePage* usage;
  wire::ProcessSlot* slot;
};

// What all processes of the slice may hold on this card at this moment.
inline uint64_t AllowedBytes(const wire::ControlCard& card) {
  const uint64_t limit = __atomic_load_n(&card.limit_bytes, __ATOMIC_RELAXED);
  const uint64_t lease = __atomic_load_n(&card.lease_bytes, __ATOMIC_RELAXED);
  if (lease == 0) return limit;
  const uint64_t ceiling = __atomic_load_n(&card.ceiling_bytes, __ATOMIC_RELAXED);
  const uint64_t lent = limit + lease;
  return lent > ceiling ? (ceiling > limit ? ceiling : limit) : lent;
}

inline uint64_t UsedBytes(const wire::UsageCard& card) {
  return __atomic_load_n(&card.used, __ATOMIC_RELAXED) & ~wire::kFrozenBit;
}

// The reservation protocol over one process's slot. Thread-safety: all methods, from any number of
// threads of the process. The process's own lines of the page are written under `lock_`, so that an
// operation costs two locked instructions, the lock's and the one on `used`, and all else is plain
// loads and stores. The lock is held for a handful of instructions, never while the reaper counts:
// then the caller sleeps, bounded, without it. Zero-initialised it is empty.
class Ledger {
 public:
  // A reservation gives up after meeting the frozen bit for this long in all: the reaper died while
  // counting.
  static constexpr uint64_t kFrozenTotalNanosMax = 2'000'000'000;

  void Bind(const Pages& pages) { pages_ = pages; }
  // Called when an ask does not fit, with nothing held; true makes the ledger try once more.
  // Without one an ask that does not fit is refused at once.
  void OnRefusal(bool (*reclaim)()) { reclaim_ = reclaim; }
  const Pages& pages() const { return pages_; }

  // Adds `bytes` to what the slice uses, or changes nothing and returns false: it does not fit, the
  // slice was taken back, or the reaper stayed in the way for kFrozenTotalNanosMax.
  bool Reserve(uint32_t card, uint64_t bytes);

  // Gives back bytes this process reserved. Never fails: while the reaper stays in the way the
  // amount is kept aside and given back with the next reservation or release.
  void Release(uint32_t card, uint64_t bytes);

  // What this process holds on the card.
  uint64_t Held(uint32_t card) const {
    return __atomic_load_n(&pages_.slot->used[card], __ATOMIC_ACQUIRE);
  }

 private:
  enum Outcome : uint32_t { kDone, kRefused, kFrozen };

  void Begin(const wire::UsageCard* shared);
  void End();
  Outcome TryReserve(uint32_t card, uint64_t bytes);
  bool TryRelease(uint32_t card, uint64_t bytes);  // false: the reaper is counting
  bool ReserveSlow(uint32_t card, uint64_t bytes, Outcome outcome);
  void ReleaseSlow(uint32_t card, uint64_t bytes);
  void SettleDeferred(uint32_t card);
  bool WaitThawed(wire::UsageCard* shared, uint64_t* waited_nanos);
  static void RaisePeak(wire::UsageCard* shared, uint64_t used);

  Pages pages_;
  // On lines of their own: every operation writes the lock, and launches read what stands above.
  alignas(64) ShortLock lock_;
  uint64_t deferred_[wire::kRowsMax];  // freed, not yet given back
  bool (*reclaim_)();
};

}  // namespace tessera::guest
