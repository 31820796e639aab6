// The two pages of a slice, shared between the node (tesserad) and every process of the slice.
//
//   control  the node writes, guests map it read-only: what the slice may have.
//   usage    guests write, the node audits and never trusts it: what the slice takes.
//
// Plain data, fixed sizes, 64-bit little-endian machines. All multi-writer words are accessed with
// the __atomic builtins through the helpers below. A change of layout raises kPageVersion; node and
// guest refuse each other's pages by version, never guess.
//
// The reservation protocol (guest side in `guest/core/`, reaper in `broker/`):
//   A process has at most one reservation or release in flight: its threads take turns by a lock of
//   their own, so only one of them writes the slot at a time.
//
//   reserve: intent = 1; compare-exchange `used` to used + n only if the frozen bit is clear and
//   it fits the limit; slot.used += n; intent = 0. Nothing is ever added and taken back, so an
//   ask that is too large never makes a fitting ask of a sibling fail.
//
//   release (after the driver's free): intent = 1; compare-exchange `used` to used - n only if the
//   frozen bit is clear; slot.used -= n; intent = 0.
//
//   frozen: a process that meets the frozen bit drops its intent, waits on the futex and starts
//   again. Nothing but the reaper ever changes `used` while the bit is set.
//
//   order: `used` is only changed by read-modify-writes until the reaper has the slice settled. One
//   that comes before the frozen bit in the order of that word releases the intent stored before it
//   to the reaper, which therefore sees the intent, or the 0 that follows it and with it slot.used;
//   one that comes after the bit fails. So the intent needs no barrier of its own.
//
//   reaper: sets the frozen bit, waits (kFreezeWaitNanosMax) until every live slot's intent is 0,
//   clears dead slots, stores used = sum of live slots without the bit, wakes the futex. When a
//   live process does not settle in time nothing is changed and the reaper tries again later.
//
// A process killed at any point therefore leaks nothing: what only `used` knew is recomputed from
// live slots.
//
// The protocol of turns (node side in `broker/`, guest side in `guest/cuda/gate.cc`):
//   open: a gate of 0 stops nobody. Any other value is a turn number with kGateGranted or without,
//   and every change of it wakes the futex.
//
//   submit: say "inside", then look at the gate; with a granted turn and room in the window the
//   work is handed to the driver, and so is, after enough of it, a mark: a command of the same
//   stream that writes the stream's `completed`. Then say "not inside". A thread says so in a lane
//   of its own, which nobody else writes, or adds to `inside` when all lanes are taken. Saying
//   "inside" is a read-modify-write and the gate is read after it; the node changes the gate by one
//   and reads the lanes after that. So of a submission and the end of a turn that meet, the thread
//   sees the shut gate or the node sees the thread. Saying "not inside" is a plain store, made
//   after the marks that stand for the work are counted in `submitted`.
//
//   marks count expected microseconds, at least one each: `submitted` - `completed` of a stream is
//   what is expected of its unfinished marked work, and 0 when there is none. What is not marked
//   yet is `unmarked_nanos` of the stream and of the lanes. Expectations say when a hand-over may
//   begin, never what is charged.
//
//   marks given up (their context is gone, or they do not come): the process counts `submitted` of
//   such a stream on by kMarksLeap and says that this is completed. Commands that write the marks
//   may still be on the card and may be carried out at any time later, also when the place is
//   another stream's by then. What they write lies more than kMarksBehindMax behind, which nothing
//   outstanding does, and is taken for "nothing is outstanding" until the next mark's own number
//   stands there: never for work that does not end, for which its slice would be charged and the
//   others would wait at every hand-over.
//
//   wait: without a turn, arrivals += 1, wake its futex, sleep on the gate. The node repeats the
//   number in `heard`; a guest whose arrival is not heard concludes that there is no node.
//
//   hand-over: the node takes kGateGranted away. It grants the next turn when nobody is inside and
//   what is left is expected to end within the time a wake-up takes, so that the card is not idle
//   meanwhile; until all marks have completed, time is charged to who had the turn before.
//
//   several cards: a slice whose cards are shared has its turns on all of them together. Marks and
//   lanes carry their card.
//
//   without a node: a slice that limits itself has a granted turn that never ends, and `paid`, the
//   monotonic time for which its compute share is used up. A process that measured n nanoseconds of
//   work on the card raises it, from no earlier than kPaidNanosBehind ago, by n / share, and
//   submits nothing while it lies ahead of now.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace tessera::wire {

inline constexpr uint32_t kControlMagic = 0x54535343;  // "CSST"
inline constexpr uint32_t kUsageMagic = 0x54535355;    // "USST"
inline constexpr uint32_t kPageVersion = 3;

inline constexpr uint32_t kCardsMax = 16;  // cards of one slice
// What a slice may take is counted in rows: one a card, and one for page-locked memory of the
// machine, which has a limit of its own and is counted by the same protocol.
inline constexpr uint32_t kHostRow = kCardsMax;
inline constexpr uint32_t kRowsMax = kCardsMax + 1;
inline constexpr uint64_t kUnlimitedBytes = 1ull << 62;  // the limit of a row that has none
inline constexpr uint64_t kHostGranuleBytes = 4096;      // what is counted in the host row
inline constexpr uint32_t kProcessesMax = 256;           // live processes of one slice
inline constexpr uint32_t kSliceIdMax = 64;              // bytes with the terminating NUL
inline constexpr uint32_t kUuidTextMax = 48;  // "GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx" and NUL
// Of a stream's marks; eight of a second each are less. Sixty-four leaps come around again: a mark
// as old as that is met by chance, and believed until the next one.
inline constexpr uint32_t kMarksBehindMax = 1u << 24;
inline constexpr uint32_t kMarksLeap = 1u << 26;
inline constexpr uint32_t kMarksMax = 32;  // streams of one process that are marked at a time
inline constexpr uint32_t kLanesMax = 8;   // threads of one process with a lane of their own
inline constexpr uint64_t kFrozenBit = 1ull << 63;
inline constexpr uint64_t kFreezeWaitNanosMax =
    50'000'000;  // reaper waits this long for live intents
inline constexpr uint64_t kFrozenSleepNanosMax =
    200'000'000;  // guest re-checks a frozen word this often

// ControlCard::gate: 0 open, else turn number * kGateStep + kGateShut, + kGateGranted in a turn.
inline constexpr uint32_t kGateShut = 1;
inline constexpr uint32_t kGateGranted = 2;
inline constexpr uint32_t kGateStep = 4;
inline constexpr uint64_t kPaidNanosBehind = 10'000'000;
inline constexpr uint64_t kPaidNanosAheadMax = 60'000'000'000;
inline constexpr uint64_t kTurnSleepNanosMax = 200'000'000;  // a waiter announces itself this often

// Slice states in ControlPage::state.
inline constexpr uint32_t kStateOpen = 1;  // reservations are served
inline constexpr uint32_t kStateClosed =
    2;  // the slice was taken back: every reservation is refused

struct ControlCard {
  char uuid[kUuidTextMax];  // as the driver prints it, with the "GPU-" prefix
  uint64_t limit_bytes;     // reserved + promised: what the slice can always reach
  uint64_t lease_bytes;     // lent above the limit; 0 when nothing is lent
  uint64_t ceiling_bytes;   // leases never lift the slice above this
  uint64_t context_bytes;   // measured cost of one context of this card, charged before it is made
  uint64_t granule_bytes;   // the driver's page for device memory; every charge is a multiple
  uint32_t compute_permille;  // share of the card's compute, 1 to 1000
  uint32_t weight;            // relative share of idle compute; 0 means hard cap only
  uint32_t gate;              // turn word: 0 = open
  uint32_t window_nanos;      // work a process may have in flight while the gate is not open
  uint32_t heard;             // the last `arrivals` the node has seen
  uint32_t priority;          // a higher class goes first
  uint32_t mps_percentage;    // not 0: active thread percentage of processes that start now
  uint32_t reserved[3];
};
static_assert(sizeof(ControlCard) == 128, "ControlCard is two cache lines");

struct ControlPage {
  uint32_t magic;
  uint32_t version;
  uint32_t bytes;       // size of this page as the node made it
  uint32_t state;       // kStateOpen or kStateClosed
  uint64_t generation;  // rises with every change of limits, odd while one is under way; who copies
                        // several fields reads it before and after and starts again when it was odd
                        // or has changed
  uint32_t card_count;
  uint32_t turns;  // 0: the gates of all cards are open
  char slice_id[kSliceIdMax];
  uint32_t reserved1[8];
  ControlCard cards[kRowsMax];  // of the host row only the limit, the lease and the ceiling count
};
static_assert(sizeof(ControlPage) == 128 + 128 * kRowsMax, "ControlPage has no padding");

struct UsageCard {
  uint64_t used;      // bytes reserved by all processes; kFrozenBit while the reaper counts
  uint64_t refusals;  // asks that did not fit, for metrics
  uint64_t peak;      // highest `used` seen by a reserver
  uint32_t
      arrivals;  // counts announcements of work that waits for a turn; a futex the node sleeps on
  uint32_t reserved0;
  uint64_t paid;  // without a node
  uint64_t reserved[3];
};
static_assert(sizeof(UsageCard) == 64, "UsageCard is a cache line");

// Progress of one stream of a process, in expected microseconds of marked work. The process writes
// the first and the card the second, so equal means that all marked work is done, and so does
// anything further apart than kMarksBehindMax.
struct StreamMarks {
  uint32_t submitted;
  uint32_t completed;
  uint32_t card;
  uint32_t unmarked_nanos;  // estimate of what was submitted since the last mark, lanes apart
};

// One thread's passage through the gate, on a cache line of its own.
struct GateLane {
  uint32_t state;  // kLaneInside between the gate and the driver's return, + twice the nanoseconds
                   // expected of what it submitted and no mark stands for
  uint32_t card;
  uint32_t reserved[14];
};
inline constexpr uint32_t kLaneInside = 1;

// One live process. The node fills pid and start time when the process attaches (host pid
// namespace) and clears the slot when it is gone; the process writes the rest.
struct ProcessSlot {
  uint32_t pid;         // 0 = free
  uint32_t intent;      // not 0: a reservation or release of this process is in flight
  uint64_t start_time;  // clock ticks since boot, field 22 of /proc/pid/stat
  uint64_t launches;    // submissions so far; the node samples it for last-kernel age
  uint64_t local_pid;   // what the process calls itself; inside a container NVML names it so. For
                        // views only
  uint32_t inside;      // threads without a lane between the gate and the driver's return
  uint32_t reserved0;
  uint64_t gate_wait_nanos;  // how long its threads have waited for turns, all of them together
  uint64_t reserved[1];
  uint64_t used[kRowsMax];
  StreamMarks marks[kMarksMax];
  GateLane lanes[kLanesMax];
};
static_assert(sizeof(ProcessSlot) == 56 + 8 * kRowsMax + 16 * kMarksMax + 64 * kLanesMax &&
                  sizeof(ProcessSlot) % 64 == 0,
              "ProcessSlot is whole cache lines without padding");

struct UsagePage {
  uint32_t magic;
  uint32_t version;
  uint32_t bytes;
  uint32_t card_count;
  uint64_t reserved[6];
  UsageCard cards[kRowsMax];
  ProcessSlot slots[kProcessesMax];
};
static_assert(sizeof(UsagePage) == 64 + 64 * kRowsMax + sizeof(ProcessSlot) * kProcessesMax,
              "UsagePage has no padding");

inline uint64_t Load(const uint64_t* word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
inline uint32_t Load(const uint32_t* word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
inline void Store(uint64_t* word, uint64_t value) {
  __atomic_store_n(word, value, __ATOMIC_RELEASE);
}
inline void Store(uint32_t* word, uint32_t value) {
  __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

// The futex a waiter sleeps on while a card is frozen: the half of `used` that holds the frozen
// bit.
inline uint32_t* FrozenFutex(UsageCard* card) {
  return reinterpret_cast<uint32_t*>(&card->used) + 1;
}

}  // namespace tessera::wire
