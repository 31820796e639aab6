// What a process remembers of the work it submits while the gate of a card is not open: per stream
// the marks that are outstanding, and what each kind of work is expected to take. The protocol is
// at the top of wire/pages.h, the code in cuda/gate.cc. Zero-initialised it is empty.
#pragma once

#include <stdint.h>

#include "guest/core/lock.h"
#include "wire/pages.h"

namespace tessera::guest {

inline constexpr uint32_t kMarkNanos = 300'000;  // estimated work between two marks of a stream
inline constexpr uint32_t kMarksInFlight = 8;    // of one stream
inline constexpr uint32_t kBatchCosts = 4;       // kinds of work one mark teaches something about
inline constexpr uint32_t kCostsMax = 512;       // kinds of work remembered; a power of two
inline constexpr uint32_t kCostNanosMax = 1'000'000'000;

// What is expected of one kind of work: a kernel with its grid and block, a graph, a copy's size.
struct Cost {
  uint32_t tag;  // 0: free
  uint32_t nanos;
};

// What one mark stands for.
struct Batch {
  uint64_t started;  // monotonic time of its first submission
  uint32_t nanos;    // the sum of estimates
  uint16_t costs[kBatchCosts];
  uint32_t cost_count;
};

struct TurnStream {
  uint64_t key;        // 0: free
  uint32_t submitted;  // marks
  uint32_t harvested;  // of them, known to have completed
  uint32_t marking;    // a thread is at it
  uint32_t held;  // threads that are about to count something here; the place stays its stream's
  Batch open;     // what is not marked yet
  Batch marks[kMarksInFlight];
};

// The state of the registration that lets a card write the marks.
inline constexpr uint32_t kMarksUnknown = 0, kMarksPossible = 1, kMarksImpossible = 2;

struct Turns {
  Lock lock;  // guards all below but `passed`
  uint32_t state;
  uint32_t failures;
  uint64_t address;                  // the marks as the card sees them
  uint32_t outstanding;              // estimates of all marks that have not completed
  uint32_t count;                    // of those marks
  uint64_t looked;                   // when that was last looked at
  uint32_t passed[wire::kCardsMax];  // a gate word behind which nobody answered
  TurnStream streams[wire::kMarksMax];
  Cost costs[kCostsMax];
};

}  // namespace tessera::guest
