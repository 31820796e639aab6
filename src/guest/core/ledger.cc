#include "guest/core/ledger.h"

namespace tessera::guest {

bool Ledger::Refuse(wire::UsageCard* shared) {
  __atomic_fetch_add(&shared->refusals, 1, __ATOMIC_RELAXED);
  return false;
}

bool Ledger::DoesNotFit(uint32_t card, uint64_t bytes) {
  // Something came back each time it answers true, so this ends.
  if (reclaim_ != nullptr && reclaim_()) return Reserve(card, bytes);
  return Refuse(&pages_.usage->cards[card]);
}

void Ledger::RaisePeak(wire::UsageCard* shared, uint64_t used) {
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

void Ledger::ReleaseSlow(uint32_t card, uint64_t bytes) {
  uint64_t waited = 0;
  while (WaitThawed(&pages_.usage->cards[card], &waited)) {
    if (TryRelease(card, bytes)) return;
  }
  __atomic_fetch_add(&deferred_[card], bytes, __ATOMIC_RELAXED);
}

void Ledger::SettleDeferred(uint32_t card) {
  const uint64_t bytes = __atomic_exchange_n(&deferred_[card], 0, __ATOMIC_RELAXED);
  if (bytes != 0 && !TryRelease(card, bytes)) {
    __atomic_fetch_add(&deferred_[card], bytes, __ATOMIC_RELAXED);
  }
}

}  // namespace tessera::guest
