// The layout of the mapped file `state`. Private to this folder.
//
// Everything is zero in a fresh file but the head, so the slots and engines stay holes of the file
// until somebody uses them.
#pragma once

#include <atomic>
#include <cstdint>

#include "simgpu/state/schedule.h"
#include "simgpu/state/state.h"

namespace simgpu {

// Who may take the lock of a card's engines at the same time: processes, once for each copy of this
// code in them. Far above kSlotsMax because readers count too.
inline constexpr uint32_t kLockersMax = 2048;

struct CardUse {
  std::atomic<uint64_t> changes;  // rises with every publication of the words below
  std::atomic<uint64_t> allocation_bytes;
  std::atomic<uint64_t> context_bytes;
  std::atomic<uint64_t> module_bytes;
  std::atomic<uint32_t> contexts;
};

struct Slot {
  std::atomic<uint64_t> token;  // 0: never used or being taken; else names one claim of the slot
  char command[kCommandBytesMax];
  CardUse cards[kCardsMax];
};

struct CardEngine {
  alignas(64) std::atomic<uint32_t> lock;  // as engine_lock.h says
  EngineWords words;
};

struct State::Shared {
  uint64_t magic;
  uint32_t version;
  uint32_t size;
  uint32_t card_count;
  std::atomic<uint32_t> slots_high;  // slots from here on were never used
  char spec[256];
  Card cards[kCardsMax];
  Topology topology;
  Slot slots[kSlotsMax];
  std::atomic<uint64_t> lockers[kLockersMax];  // each names one claim of that locker
  CardEngine engines[kCardsMax];

  // Whether some engine's time lies ahead: it was another boot's.
  bool AheadOf(uint64_t now) const {
    for (uint32_t card = 0; card < card_count; ++card) {
      if (engines[card].words.at_ns > now) return true;
    }
    return false;
  }
};

}  // namespace simgpu
