// What a process remembers of the work it submits while the gate of a card is not open: per stream
// the marks that are outstanding, and what each kind of work is expected to take. The protocol is
// at the top of wire/pages.h, the code in cuda/gate.cc. Zero-initialised it is empty.
//
// A launch costs one locked instruction, because a thread keeps to itself what it needs for the
// next one like the last (Lane): the stream, what it may still submit to it before the next mark,
// and the expectations of the kinds of work it met. Everything under the lock is brought up to date
// once a mark, from what the lane has added up.
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
inline constexpr uint32_t kLaneKinds = 64;  // kinds of work a thread has at hand; a power of two

// A kind of work: a kernel with its grid and block, a graph, a copy's size.
struct Kind {
  uint64_t what;
  uint64_t size[3];
};

// What is expected of one kind of work.
struct Cost {
  uint32_t tag;  // 0: free
  uint32_t nanos;
};

// What one mark stands for.
struct Batch {
  uint64_t started;  // monotonic time of its first submission
  uint32_t nanos;    // the sum of estimates
  uint32_t end;      // `submitted` of the stream with this mark
  uint32_t cost_count;
  uint16_t costs[kBatchCosts];
};

struct TurnStream {
  uint64_t key;        // 0: free
  uint32_t card;       // of the slice
  uint32_t submitted;  // in the unit of wire::StreamMarks
  uint32_t harvested;  // of them, known to have completed
  uint32_t first;      // of `marks`, the oldest outstanding one
  uint32_t count;      // outstanding ones
  uint32_t marking;    // a thread is at it
  uint32_t held;  // threads that are about to count something here; the place stays its stream's
  Batch open;     // what is not marked yet
  Batch marks[kMarksInFlight];
};

// Marks on one card that have not completed.
struct InFlight {
  uint32_t nanos;  // the sum of estimates
  uint32_t count;
};

struct LaneKind {
  Kind kind;
  uint32_t index;  // of the call, + 1; 0: free
  uint32_t tag;    // of the cost, which is its place too
};

// One thread's. Only the thread itself reads or writes it, but for `owner`.
struct Lane {
  const void* owner;   // the thread's `depth`; null: free
  uint32_t bound;      // to a stream, whose place it holds
  uint64_t key;        // the stream
  uint32_t stream;     // its place
  uint32_t allowance;  // nanoseconds it may still submit without a look at the books
  uint32_t most;       // nothing longer
  uint32_t spent;      // nanoseconds submitted since the books were brought up to date
  uint32_t cost_count;
  uint16_t costs[kBatchCosts];  // of what was spent
  LaneKind kinds[kLaneKinds];
};

// The state of the registration that lets a card write the marks.
inline constexpr uint32_t kMarksUnknown = 0, kMarksPossible = 1, kMarksImpossible = 2;

struct Turns {
  Lock lock;  // guards all below but `passed`, and the lanes
  uint32_t state;
  uint32_t failures;
  uint64_t address;  // the marks as the card sees them
  InFlight marks[wire::kCardsMax];
  uint64_t looked;                    // when that was last looked at
  uint64_t paid_at[wire::kCardsMax];  // without a node: up to when work was paid for
  uint32_t passed[wire::kCardsMax];   // a gate word behind which nobody answered
  TurnStream streams[wire::kMarksMax];
  Cost costs[kCostsMax];
  Lane lanes[wire::kLanesMax];
};

}  // namespace tessera::guest
