// The guest side of the reservation protocol of wire/pages.h: take bytes of a card before the
// driver does, give them back after it has.
#pragma once

#include <stdint.h>

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
// threads of the process; lock-free but for the bounded sleep while the reaper counts.
// Zero-initialised it is empty.
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
  bool Reserve(uint32_t card, uint64_t bytes) {
    wire::UsageCard* const shared = &pages_.usage->cards[card];
    wire::ProcessSlot* const slot = pages_.slot;
    if (__builtin_expect(__atomic_load_n(&deferred_[card], __ATOMIC_RELAXED) != 0, 0)) {
      SettleDeferred(card);
    }
    if (__builtin_expect(wire::Load(&pages_.control->state) != wire::kStateOpen, 0)) {
      return Refuse(shared);
    }
    // Sequentially consistent against the reaper, which sets the bit and then reads the intents.
    __atomic_fetch_add(&slot->intent, 1, __ATOMIC_SEQ_CST);
    uint64_t used = __atomic_load_n(&shared->used, __ATOMIC_SEQ_CST);
    uint64_t waited = 0;
    for (;;) {
      if (__builtin_expect((used & wire::kFrozenBit) != 0, 0)) {
        __atomic_fetch_sub(&slot->intent, 1, __ATOMIC_RELEASE);
        if (!WaitThawed(shared, &waited)) return Refuse(shared);
        __atomic_fetch_add(&slot->intent, 1, __ATOMIC_SEQ_CST);
        used = __atomic_load_n(&shared->used, __ATOMIC_SEQ_CST);
        continue;
      }
      const uint64_t allowed = AllowedBytes(pages_.control->cards[card]);
      if (__builtin_expect(bytes > allowed || used > allowed - bytes, 0)) {
        __atomic_fetch_sub(&slot->intent, 1, __ATOMIC_RELEASE);
        return DoesNotFit(card, bytes);
      }
      if (__builtin_expect(__atomic_compare_exchange_n(&shared->used, &used, used + bytes, false,
                                                       __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST),
                           1)) {
        break;
      }
    }
    __atomic_fetch_add(&slot->used[card], bytes, __ATOMIC_RELAXED);
    if (__builtin_expect(used + bytes > __atomic_load_n(&shared->peak, __ATOMIC_RELAXED), 0)) {
      RaisePeak(shared, used + bytes);
    }
    __atomic_fetch_sub(&slot->intent, 1, __ATOMIC_RELEASE);
    return true;
  }

  // Gives back bytes this process reserved. Never fails: while the reaper stays in the way the
  // amount is kept aside and given back with the next reservation or release.
  void Release(uint32_t card, uint64_t bytes) {
    if (__builtin_expect(!TryRelease(card, bytes), 0)) ReleaseSlow(card, bytes);
  }

  // What this process holds on the card.
  uint64_t Held(uint32_t card) const {
    return __atomic_load_n(&pages_.slot->used[card], __ATOMIC_ACQUIRE);
  }

 private:
  bool TryRelease(uint32_t card, uint64_t bytes) {
    wire::UsageCard* const shared = &pages_.usage->cards[card];
    wire::ProcessSlot* const slot = pages_.slot;
    __atomic_fetch_add(&slot->intent, 1, __ATOMIC_SEQ_CST);
    if (__builtin_expect((__atomic_load_n(&shared->used, __ATOMIC_SEQ_CST) & wire::kFrozenBit) != 0,
                         0)) {
      __atomic_fetch_sub(&slot->intent, 1, __ATOMIC_RELEASE);
      return false;
    }
    __atomic_fetch_sub(&slot->used[card], bytes, __ATOMIC_RELAXED);
    // The bit may be set between the check and here; the reaper then waits for our intent, and
    // subtracting leaves the bit alone.
    __atomic_fetch_sub(&shared->used, bytes, __ATOMIC_SEQ_CST);
    __atomic_fetch_sub(&slot->intent, 1, __ATOMIC_RELEASE);
    return true;
  }

  void ReleaseSlow(uint32_t card, uint64_t bytes);
  void SettleDeferred(uint32_t card);
  bool DoesNotFit(uint32_t card, uint64_t bytes);
  bool WaitThawed(wire::UsageCard* shared, uint64_t* waited_nanos);
  static bool Refuse(wire::UsageCard* shared);
  static void RaisePeak(wire::UsageCard* shared, uint64_t used);

  Pages pages_;
  uint64_t deferred_[wire::kCardsMax];  // freed, not yet given back
  bool (*reclaim_)();
};

}  // namespace tessera::guest
