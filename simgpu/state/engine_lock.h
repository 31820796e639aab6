// The lock of one card's engines: one word of the shared state that survives the death of its
// holder at any instruction, in whatever pid namespace.
//
// The word holds who has it (a locker, process.h), whether somebody sleeps for it, and a number
// that rises with every acquisition. A waiter that saw the same acquisition for kAskHolderNs asks
// the kernel whether the holder's byte of `locks` is still locked; if not, it takes the lock over.
// The number keeps it from taking a later acquisition for the one it asked about. What the dead
// left half done is mended by Schedule::Repair.
//
// A holder that lives and still does not move for kStoppedNs was stopped in there, by a signal or a
// freezer. It is overtaken as well: when it goes on, it finds before its next store that the lock
// is no longer its own, and stores nothing more (Holding). A stop that falls between that look and
// the store itself, two instructions, would let one old word through; nothing but the kernel could
// close that gap.
#pragma once

#include <atomic>
#include <cstdint>

#include "simgpu/state/process.h"

namespace simgpu {

inline constexpr uint64_t kAskHolderNs = 5'000'000;
inline constexpr uint64_t kStoppedNs = 1'000'000'000;

class EngineLock {
 public:
  // Waits for the lock. Not held when this process has no name to lock by: kLockersMax others have
  // one or the state's folder is gone.
  EngineLock(State::Shared* shared, State::Process* process, uint32_t card);
  ~EngineLock();
  EngineLock(const EngineLock&) = delete;
  EngineLock& operator=(const EngineLock&) = delete;

  bool held() const { return mine_ != 0; }
  Holding holding() const { return {word_, mine_}; }
  // Lets those who wait in between, for long work.
  void Yield();

  // Frees the word from a dead holder of that id, which is now ours: `id` was just claimed.
  static void Inherit(std::atomic<uint32_t>* word, uint32_t id);

 private:
  void Lock();
  void Wait();
  void Unlock();

  std::atomic<uint32_t>* word_;
  State::Process* process_;
  uint32_t id_ = 0;
  uint32_t mine_ = 0;  // the word as it is while we have it and nobody waits
};

}  // namespace simgpu
