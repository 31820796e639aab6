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

class LockHolder {
 public:
  explicit LockHolder(Lock* lock) : lock_(lock) { lock_->Acquire(); }
  ~LockHolder() { lock_->Release(); }
  LockHolder(const LockHolder&) = delete;
  LockHolder& operator=(const LockHolder&) = delete;

 private:
  Lock* lock_;
};

}  // namespace tessera::guest
