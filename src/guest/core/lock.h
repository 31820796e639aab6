// A futex mutex: one word, no libc, zero-initialised (so a page wiped on fork holds an open lock).
#pragma once

#include "guest/core/sys.h"

namespace tessera::guest {

// Thread-safety: all. Never held while the driver or any other foreign code runs.
class Lock {
 public:
  void Acquire() {
    uint32_t free = 0;
    if (__builtin_expect(!__atomic_compare_exchange_n(&word_, &free, 1u, false, __ATOMIC_ACQUIRE,
                                                      __ATOMIC_RELAXED),
                         0)) {
      AcquireContended();
    }
  }

  void Release() {
    if (__builtin_expect(__atomic_exchange_n(&word_, 0u, __ATOMIC_RELEASE) == 2, 0)) {
      FutexWake(&word_, 1);
    }
  }

 private:
  [[gnu::noinline]] void AcquireContended() {
    // A critical section here is tens of nanoseconds: spin briefly, then sleep. 2 says "someone may
    // sleep".
    for (int spin = 0; spin < 64; ++spin) {
      uint32_t free = 0;
      if (__atomic_compare_exchange_n(&word_, &free, 1u, false, __ATOMIC_ACQUIRE,
                                      __ATOMIC_RELAXED)) {
        return;
      }
    }
    while (__atomic_exchange_n(&word_, 2u, __ATOMIC_ACQUIRE) != 0) {
      FutexWait(&word_, 2, 1'000'000'000, false);
    }
  }

  uint32_t word_;  // 0 open, 1 held, 2 held and awaited
};

// A mutex whose release is a plain store, for critical sections of tens of nanoseconds on the path
// of an allocation: a release that tells whether somebody sleeps costs a locked instruction, which
// is a quarter of such a section. So nobody is woken; who finds it held, because its holder was
// preempted in the middle or stands on the other core, looks again until it is free, after
// pauses and then naps of growing length. No libc, zero-initialised. Thread-safety: all. Never held
// while the driver or any other foreign code runs, nor over a system call that may sleep.
class ShortLock {
 public:
  void Acquire() {
    if (__builtin_expect(!TryAcquire(), 0)) AcquireContended();
  }
  void Release() { __atomic_store_n(&word_, 0u, __ATOMIC_RELEASE); }

 private:
  static constexpr uint32_t kPausesFirst = 32;
  static constexpr uint32_t kPausesMax = 128;
  static constexpr uint64_t kNapNanosFirst = 2'000;
  static constexpr uint64_t kNapNanosMax = 100'000;

  bool TryAcquire() {
    uint32_t free = 0;
    return __atomic_compare_exchange_n(&word_, &free, 1u, false, __ATOMIC_ACQUIRE,
                                       __ATOMIC_RELAXED);
  }
  // Who finds it held stands back for the time of many critical sections: two cores that snatch it
  // from each other pass the cache lines of what it guards to and fro, which costs several times
  // the work done under it. Meanwhile the other core gets on with what it has at hand.
  [[gnu::noinline]] void AcquireContended() {
    for (uint32_t pauses = kPausesFirst; pauses <= kPausesMax; pauses *= 2) {
      for (uint32_t i = 0; i < pauses; ++i) Pause();
      // Looking only reads, so the holder keeps the cache line it is about to release.
      if (__atomic_load_n(&word_, __ATOMIC_RELAXED) == 0 && TryAcquire()) return;
    }
    for (uint64_t nap = kNapNanosFirst;; nap = nap < kNapNanosMax ? nap * 2 : kNapNanosMax) {
      // Sleeping, not yielding: a holder of lower priority must get the core.
      Sleep(nap);
      if (TryAcquire()) return;
    }
  }

  uint32_t word_;  // 0 open, 1 held
};

template <typename Mutex>
class LockHolder {
 public:
  explicit LockHolder(Mutex* lock) : lock_(lock) { lock_->Acquire(); }
  ~LockHolder() { lock_->Release(); }
  LockHolder(const LockHolder&) = delete;
  LockHolder& operator=(const LockHolder&) = delete;

 private:
  Mutex* lock_;
};

}  // namespace tessera::guest
