// This process's side of the state: its descriptor of `locks`, its slot and its own book, which is
// the truth the slot is a copy of. Private to this folder. Thread-safe where a member says so, else
// under Mutex(). Never destroyed.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>

#include "simgpu/state/shared.h"

namespace simgpu {

uint64_t MonotonicNs();

struct State::Process {
  // 0 in a process that has not looked yet, also in a fresh child: the page is wiped by fork.
  std::atomic<uint32_t>* born = nullptr;
  std::mutex mutex;
  std::string locks_path;
  dev_t device = 0;  // which file `locks` is
  ino_t inode = 0;
  std::atomic<int> fd = -1;
  std::atomic<int> slot = -1;
  std::atomic<uint64_t> token = 0;
  std::atomic<int> locker = -1;
  std::atomic<uint64_t> kept_ns = 0;  // when KeepLocks last looked
  Usage usage[kCardsMax];
  uint64_t limit[kCardsMax] = {};  // of usage, by card; 0: none

  // Makes everything anew after a fork. Thread-safe.
  void BeBorn();
  // The mutex of this process, made anew after a fork (another thread of the parent may have held
  // it).
  std::mutex& Mutex() {
    BeBorn();
    return mutex;
  }

  // A descriptor of `locks`; the program may have closed ours or put another file in its place, so
  // it is only trusted after a look at what it is. Never closed: see State. Thread-safe.
  bool Open();
  bool IsLocks(int candidate) const;
  // Whether a process holds the byte, and its pid as we see it. Thread-safe.
  bool Held(uint32_t byte, int* pid) const;
  // Whether anybody holds any byte.
  bool AnyLock() const;
  // Takes the byte if no other process has it.
  bool LockByte(uint32_t byte) const;

  bool LockAccount();
  void UnlockAccount();

  // Whether slot and token are ours. Thread-safe.
  bool Ours(const Shared& shared) const {
    const int own = slot.load(std::memory_order_acquire);
    return own >= 0 && shared.slots[own].token.load(std::memory_order_acquire) == token.load();
  }
  // The slot or -1. Thread-safe.
  int OwnSlot(const Shared& shared) {
    BeBorn();
    return Ours(shared) ? slot.load(std::memory_order_acquire) : -1;
  }

  void Publish(Shared* shared, uint32_t card) const;
  // Bytes of the card in the other slots; of dead processes too unless `living_only`.
  uint64_t OthersBytes(const Shared& shared, uint32_t card, bool living_only) const;
  // Holds a slot whose byte we have locked, under the account lock. A slot of ours whose lock a
  // program closed away is taken again if nobody else has it by now.
  bool HoldSlot(Shared* shared);

  // This process's name in the locks of engines, claimed when first asked for; -1 when there is
  // none. Thread-safe.
  int Locker(Shared* shared);
  // Whether a locker may still be in a critical section: it lives, or it cannot be told.
  bool LockerLives(uint32_t id);
  // Takes back what a program that closes every descriptor dropped. Looks at most every
  // kKeepLocksNs. Thread-safe; not under Mutex or an engine's lock.
  void KeepLocks(Shared* shared, uint64_t now);
  static constexpr uint64_t kKeepLocksNs = 100'000'000;
};

}  // namespace simgpu
