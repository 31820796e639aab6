#include "simgpu/state/engine_lock.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

namespace simgpu {
namespace {

// From below: who (0: nobody), Holding::kSleepers, which acquisition.
constexpr uint32_t kIdMask = 0xfff;
constexpr uint32_t kSleepers = Holding::kSleepers;
constexpr uint32_t kOneAcquisition = 0x2000;
static_assert(kLockersMax < kIdMask);

constexpr int kSpins = 64;

uint32_t Next(uint32_t word, uint32_t id) {
  return ((word & ~(kIdMask | kSleepers)) + kOneAcquisition) | id;
}

// Not FUTEX_PRIVATE: the word is known by its file, so other processes wake us.
void SleepOn(std::atomic<uint32_t>* word, uint32_t value, uint64_t ns) {
  const timespec limit = {static_cast<time_t>(ns / 1'000'000'000),
                          static_cast<long>(ns % 1'000'000'000)};
  syscall(SYS_futex, word, FUTEX_WAIT, value, &limit, nullptr, 0);
}

void WakeOne(std::atomic<uint32_t>* word) {
  syscall(SYS_futex, word, FUTEX_WAKE, 1, nullptr, nullptr, 0);
}

}  // namespace

EngineLock::EngineLock(State::Shared* shared, State::Process* process, uint32_t card)
    : word_(&shared->engines[card].lock), process_(process) {
  const int locker = process->Locker(shared);
  if (locker < 0) return;
  id_ = static_cast<uint32_t>(locker) + 1;
  Lock();
}

EngineLock::~EngineLock() {
  if (held()) Unlock();
}

void EngineLock::Yield() {
  Unlock();
  Lock();
}

void EngineLock::Lock() {
  uint32_t seen = word_->load(std::memory_order_relaxed);
  for (int i = 0; i < kSpins; ++i) {
    if ((seen & kIdMask) == 0) {
      const uint32_t next = Next(seen, id_);
      if (word_->compare_exchange_weak(seen, next, std::memory_order_acquire)) {
        mine_ = next;
        return;
      }
    } else {
      seen = word_->load(std::memory_order_relaxed);
    }
  }
  Wait();
}

void EngineLock::Wait() {
  uint32_t seen = word_->load(std::memory_order_relaxed);
  uint32_t watched = 0;  // an acquisition, and since when it lasts
  uint64_t since = 0;
  uint64_t asked = 0;
  while (true) {
    if ((seen & kIdMask) == 0) {
      // Others may sleep too, so whoever slept says that there are some.
      const uint32_t next = Next(seen, id_);
      if (word_->compare_exchange_weak(seen, next | kSleepers, std::memory_order_acquire)) {
        mine_ = next;
        return;
      }
      continue;
    }
    const uint32_t held = seen & ~kSleepers;
    const uint64_t now = MonotonicNs();
    if (held != watched) {
      watched = held;
      since = now;
      asked = now;
    } else if (now - asked >= kAskHolderNs) {
      if (now - since >= kStoppedNs || !process_->LockerLives((seen & kIdMask) - 1)) {
        const uint32_t next = Next(seen, id_);
        if (word_->compare_exchange_strong(seen, next | kSleepers, std::memory_order_acquire)) {
          mine_ = next;
          return;
        }
        continue;
      }
      asked = now;
    }
    if ((seen & kSleepers) == 0 &&
        !word_->compare_exchange_weak(seen, seen | kSleepers, std::memory_order_relaxed)) {
      continue;
    }
    SleepOn(word_, held | kSleepers, kAskHolderNs);
    seen = word_->load(std::memory_order_relaxed);
  }
}

void EngineLock::Unlock() {
  uint32_t expected = mine_;
  const uint32_t free = mine_ & ~kIdMask;
  mine_ = 0;
  if (word_->compare_exchange_strong(expected, free, std::memory_order_release)) return;
  // Somebody sleeps, or took the lock from us because we were stopped for long or a program closed
  // our descriptors away.
  if ((expected & ~kSleepers) != (free | id_)) return;
  if (word_->compare_exchange_strong(expected, free, std::memory_order_release)) WakeOne(word_);
}

void EngineLock::Inherit(std::atomic<uint32_t>* word, uint32_t id) {
  uint32_t seen = word->load();
  while ((seen & kIdMask) == id) {
    if (word->compare_exchange_weak(seen, seen & ~(kIdMask | kSleepers))) {
      WakeOne(word);
      return;
    }
  }
}

}  // namespace simgpu
