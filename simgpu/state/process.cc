#include "simgpu/state/process.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <new>

#include "simgpu/state/engine_lock.h"

namespace simgpu {
namespace {

constexpr off_t kAccountByte = kSlotsMax;  // the byte of `locks` that guards Take
constexpr uint32_t kLockersByte = kSlotsMax + 1;

void ReadCommand(char* command) {
  memset(command, 0, kCommandBytesMax);
  snprintf(command, kCommandBytesMax, "%s", program_invocation_name);
}

struct flock Byte(short type, off_t byte) {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = byte;
  lock.l_len = 1;
  return lock;
}

uint64_t FreshToken() {
  uint64_t fresh = 0;
  if (getrandom(&fresh, sizeof fresh, 0) != sizeof fresh || fresh == 0) fresh = MonotonicNs() | 1;
  return fresh;
}

}  // namespace

uint64_t MonotonicNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

void State::Process::BeBorn() {
  uint32_t seen = born->load(std::memory_order_acquire);
  while (seen != 2) {
    if (seen == 0 && born->compare_exchange_strong(seen, 1)) {
      new (&mutex) std::mutex;
      slot = -1;
      token = 0;
      locker = -1;
      kept_ns = 0;
      for (Usage& one : usage) one = Usage();
      for (uint64_t& one : limit) one = 0;
      born->store(2, std::memory_order_release);
    }
    seen = born->load(std::memory_order_acquire);
  }
}

bool State::Process::Open() {
  if (IsLocks(fd)) return true;
  const int fresh = open(locks_path.c_str(), O_RDWR | O_CLOEXEC);
  if (!IsLocks(fresh)) return false;
  fd = fresh;
  return true;
}

bool State::Process::IsLocks(int candidate) const {
  struct stat info;
  return candidate >= 0 && fstat(candidate, &info) == 0 && info.st_ino == inode &&
         info.st_dev == device;
}

// An open-file-description query, because only such a one reports the locks of the asking process
// too.
bool State::Process::Held(uint32_t byte, int* pid) const {
  struct flock lock = Byte(F_WRLCK, byte);
  if (fcntl(fd, F_OFD_GETLK, &lock) != 0 || lock.l_type == F_UNLCK) return false;
  *pid = lock.l_pid;
  return true;
}

bool State::Process::AnyLock() const {
  struct flock lock = Byte(F_WRLCK, 0);
  lock.l_len = 0;  // to the end
  return fcntl(fd, F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

bool State::Process::LockByte(uint32_t byte) const {
  struct flock lock = Byte(F_WRLCK, byte);
  return fcntl(fd, F_SETLK, &lock) == 0;
}

bool State::Process::LockAccount() {
  while (true) {
    struct flock lock = Byte(F_WRLCK, kAccountByte);
    if (fcntl(fd, F_SETLKW, &lock) == 0) return true;
    if (errno != EINTR) return false;
  }
}

void State::Process::UnlockAccount() {
  struct flock lock = Byte(F_UNLCK, kAccountByte);
  fcntl(fd, F_SETLK, &lock);
}

void State::Process::Publish(Shared* shared, uint32_t card) const {
  if (!Ours(*shared)) return;
  CardUse& use = shared->slots[slot].cards[card];
  use.allocation_bytes.store(usage[card].allocation_bytes);
  use.context_bytes.store(usage[card].context_bytes);
  use.module_bytes.store(usage[card].module_bytes);
  use.contexts.store(usage[card].contexts);
  use.changes.fetch_add(1);
}

uint64_t State::Process::OthersBytes(const Shared& shared, uint32_t card, bool living_only) const {
  uint64_t sum = 0;
  const uint32_t high = shared.slots_high.load(std::memory_order_acquire);
  for (uint32_t i = 0; i < high; ++i) {
    const Slot& other = shared.slots[i];
    if (static_cast<int>(i) == slot || other.token.load(std::memory_order_acquire) == 0) continue;
    const CardUse& use = other.cards[card];
    const uint64_t there = use.allocation_bytes.load(std::memory_order_relaxed) +
                           use.context_bytes.load(std::memory_order_relaxed) +
                           use.module_bytes.load(std::memory_order_relaxed);
    int pid = 0;
    if (there != 0 && (!living_only || Held(i, &pid))) sum += there;
  }
  return sum;
}

bool State::Process::HoldSlot(Shared* shared) {
  int pid = 0;
  if (Ours(*shared) && Held(slot, &pid) && pid == getpid()) return true;
  if (Ours(*shared) && !Held(slot, &pid) && LockByte(slot)) return true;
  for (uint32_t i = 0; i < kSlotsMax; ++i) {
    Slot& one = shared->slots[i];
    if (one.token.load(std::memory_order_acquire) != 0 && Held(i, &pid)) continue;
    // Empty it before the lock makes it count, so that a dead owner's numbers are never ours.
    one.token.store(0, std::memory_order_release);
    for (CardUse& use : one.cards) memset(static_cast<void*>(&use), 0, sizeof use);
    if (!LockByte(i)) continue;
    for (uint32_t card = 0; card < shared->card_count; ++card) {
      const EngineLock lock(shared, this, card);
      if (!lock.held()) return false;
      Schedule schedule(&shared->engines[card].words, {});
      schedule.Repair();
      schedule.Retire(i);
    }
    ReadCommand(one.command);
    const uint64_t fresh = FreshToken();
    slot = static_cast<int>(i);
    token = fresh;
    one.token.store(fresh, std::memory_order_release);
    uint32_t high = shared->slots_high.load();
    while (high < i + 1 && !shared->slots_high.compare_exchange_weak(high, i + 1)) {
    }
    for (uint32_t card = 0; card < kCardsMax; ++card) Publish(shared, card);
    return true;
  }
  return false;
}

// A byte that two copies of this code in one process could both lock (the kernel counts processes)
// belongs to the one that wins the word beside it.
int State::Process::Locker(Shared* shared) {
  BeBorn();
  const int own = locker.load(std::memory_order_acquire);
  if (own >= 0) return own;
  if (!Open()) return -1;
  for (uint32_t i = 0; i < kLockersMax; ++i) {
    uint64_t before = shared->lockers[i].load();
    int pid = 0;
    if (Held(kLockersByte + i, &pid) || !LockByte(kLockersByte + i) ||
        !shared->lockers[i].compare_exchange_strong(before, FreshToken())) {
      continue;
    }
    // Whoever had this name died; if inside a lock, it looks as if we were in there.
    for (uint32_t card = 0; card < shared->card_count; ++card) {
      EngineLock::Inherit(&shared->engines[card].lock, i + 1);
    }
    int none = -1;
    // Another thread may have claimed one meanwhile; then this byte stays taken, unused.
    if (locker.compare_exchange_strong(none, static_cast<int>(i))) return static_cast<int>(i);
    return none;
  }
  return -1;
}

bool State::Process::LockerLives(uint32_t id) {
  int pid = 0;
  return !Open() || Held(kLockersByte + id, &pid);
}

void State::Process::KeepLocks(Shared* shared, uint64_t now) {
  BeBorn();
  uint64_t kept = kept_ns.load(std::memory_order_relaxed);
  if (now < kept + kKeepLocksNs || !kept_ns.compare_exchange_strong(kept, now)) return;
  int pid = 0;
  const int own_locker = locker;
  if (own_locker >= 0 && Open() && !Held(kLockersByte + own_locker, &pid)) {
    // Somebody else may be about to take that name: a new one is certain.
    int expected = own_locker;
    locker.compare_exchange_strong(expected, -1);
  }
  const int own = slot;
  if (own < 0 || (Open() && Held(own, &pid))) return;
  const std::lock_guard guard(mutex);
  if (!Open() || !LockAccount()) return;
  HoldSlot(shared);
  UnlockAccount();
}

}  // namespace simgpu
