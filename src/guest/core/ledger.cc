#include "guest/core/ledger.h"

namespace tessera::guest {

// The intent stands while this process may change `used`. It is a plain store, seen in time by
// the reaper all the same: the reaper sets the frozen bit and then reads the intents, and a
// compare-exchange of ours that precedes the bit has released the intent to it, while one that
// follows the bit fails.
inline void Ledger::Begin(const wire::UsageCard* shared) {
  lock_.Acquire();
  // Siblings write it too. Not before the lock is taken, or a thread that waits would take the line
  // from the one that is at it.
  PrefetchForWrite(shared);
  __atomic_store_n(&pages_.slot->intent, 1u, __ATOMIC_RELAXED);
}
inline void Ledger::End() {
  // Releases what was done to slot.used to the reaper that finds the intent 0.
  __atomic_store_n(&pages_.slot->intent, 0u, __ATOMIC_RELEASE);
  lock_.Release();
}

[[gnu::always_inline]] inline Ledger::Outcome Ledger::TryReserve(uint32_t card, uint64_t bytes) {
  wire::UsageCard* const shared = &pages_.usage->cards[card];
  if (__builtin_expect(wire::Load(&pages_.control->state) != wire::kStateOpen, 0)) {
    return kRefused;
  }
  Begin(shared);
  uint64_t used = __atomic_load_n(&shared->used, __ATOMIC_RELAXED);
  uint64_t sum;
  do {
    const uint64_t allowed = AllowedBytes(pages_.control->cards[card]);
    const bool frozen = (used & wire::kFrozenBit) != 0;
    if (__builtin_expect(frozen || bytes > allowed || used > allowed - bytes, 0)) {
      End();
      return frozen ? kFrozen : kRefused;
    }
    sum = used + bytes;
  } while (__builtin_expect(!__atomic_compare_exchange_n(&shared->used, &used, sum, false,
                                                         __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST),
                            0));
  uint64_t* const own = &pages_.slot->used[card];
  __atomic_store_n(own, __atomic_load_n(own, __ATOMIC_RELAXED) + bytes, __ATOMIC_RELAXED);
  if (__builtin_expect(sum > __atomic_load_n(&shared->peak, __ATOMIC_RELAXED), 0)) {
    RaisePeak(shared, sum);
  }
  End();
  return kDone;
}

[[gnu::always_inline]] inline bool Ledger::TryRelease(uint32_t card, uint64_t bytes) {
  wire::UsageCard* const shared = &pages_.usage->cards[card];
  Begin(shared);
  uint64_t used = __atomic_load_n(&shared->used, __ATOMIC_RELAXED);
  do {
    if (__builtin_expect((used & wire::kFrozenBit) != 0, 0)) {
      End();
      return false;
    }
  } while (__builtin_expect(!__atomic_compare_exchange_n(&shared->used, &used, used - bytes, false,
                                                         __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST),
                            0));
  uint64_t* const own = &pages_.slot->used[card];
  __atomic_store_n(own, __atomic_load_n(own, __ATOMIC_RELAXED) - bytes, __ATOMIC_RELAXED);
  End();
  return true;
}

bool Ledger::Reserve(uint32_t card, uint64_t bytes) {
  if (__builtin_expect(__atomic_load_n(&deferred_[card], __ATOMIC_RELAXED) != 0, 0)) {
    SettleDeferred(card);
  }
  const Outcome outcome = TryReserve(card, bytes);
  if (__builtin_expect(outcome == kDone, 1)) return true;
  return ReserveSlow(card, bytes, outcome);
}

void Ledger::Release(uint32_t card, uint64_t bytes) {
  if (__builtin_expect(!TryRelease(card, bytes), 0)) ReleaseSlow(card, bytes);
}

[[gnu::noinline]] void Ledger::RaisePeak(wire::UsageCard* shared, uint64_t used) {
  uint64_t peak = __atomic_load_n(&shared->peak, __ATOMIC_RELAXED);
  while (peak < used && !__atomic_compare_exchange_n(&shared->peak, &peak, used, true,
                                                     __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}

bool Ledger::WaitThawed(wire::UsageCard* shared, uint64_t* waited_nanos) {
  uint32_t* const futex = wire::FrozenFutex(shared);
  constexpr uint32_t kBit = static_cast<uint32_t>(wire::kFrozenBit >> 32);
  while (*waited_nanos < kFrozenTotalNanosMax) {
    const uint32_t seen = __atomic_load_n(futex, __ATOMIC_ACQUIRE);
    if ((seen & kBit) == 0) return true;
    const uint64_t before = MonotonicNanos();
    FutexWait(futex, seen, wire::kFrozenSleepNanosMax, true);
    *waited_nanos += MonotonicNanos() - before;
  }
  return false;
}

// Refused, unless what stood in the way was the reaper: then it is waited for and asked again.
[[gnu::noinline]] bool Ledger::ReserveSlow(uint32_t card, uint64_t bytes, Outcome outcome) {
  wire::UsageCard* const shared = &pages_.usage->cards[card];
  uint64_t waited = 0;
  for (;;) {
    while (outcome == kFrozen && WaitThawed(shared, &waited)) outcome = TryReserve(card, bytes);
    if (outcome == kDone) return true;
    // Something came back each time it answers true, so this ends.
    if (outcome != kRefused || reclaim_ == nullptr || !reclaim_()) break;
    outcome = TryReserve(card, bytes);
  }
  __atomic_fetch_add(&shared->refusals, 1, __ATOMIC_RELAXED);
  return false;
}

[[gnu::noinline]] void Ledger::ReleaseSlow(uint32_t card, uint64_t bytes) {
  uint64_t waited = 0;
  while (WaitThawed(&pages_.usage->cards[card], &waited)) {
    if (TryRelease(card, bytes)) return;
  }
  __atomic_fetch_add(&deferred_[card], bytes, __ATOMIC_RELAXED);
}

[[gnu::noinline]] void Ledger::SettleDeferred(uint32_t card) {
  const uint64_t bytes = __atomic_exchange_n(&deferred_[card], 0, __ATOMIC_RELAXED);
  if (bytes != 0 && !TryRelease(card, bytes)) {
    __atomic_fetch_add(&deferred_[card], bytes, __ATOMIC_RELAXED);
  }
}

}  // namespace tessera::guest
