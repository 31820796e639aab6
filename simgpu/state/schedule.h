// The schedule of one card's engines as a pure function of shared words and a given present: no
// clock, no lock, no system call. engine.cc puts it behind the lock and the clock.
//
// Everything up to `at_ns` is decided and never changes. Play decides up to now; an engine with
// nothing to do decides nothing, so that work which comes later but could have begun earlier (its
// host thread woke up late) still begins when it could, up to kLateMaxNs back. Every change plays
// to now first, so looking in between changes nothing: what is decided depends only on what was
// submitted when.
//
// A change is a few words written together: they are put down in the journal first, then applied.
// Whoever is killed in between leaves either nothing or a journal that Repair applies again. So the
// words are whole whenever somebody else takes the lock.
//
// MPS clients (queues with a percentage) are one party of the round robin, and those of them that
// have work are served at the same time, each at a pace: what its percentage covers of the width of
// its work, min(width, percentage) / width. Widths and percentages are per mille of the card's
// multiprocessors. When all clients together would cover more than the card, all are slowed alike.
// So work as wide as the card runs at the percentage, and work no wider than the percentage as if
// it were alone. Nothing else of a card is shared out: memory bandwidth and caches are not
// modelled.
//
// Not thread-safe: the caller holds the card's lock. Does not own the words.
#pragma once

#include <atomic>
#include <cstdint>

#include "simgpu/state/engine.h"
#include "simgpu/state/state.h"

namespace simgpu {

// How long work may have been late and is still served from when it was ready, had the engine
// nothing else to do then.
inline constexpr uint64_t kLateMaxNs = 100'000'000;
// The owner of a queue that did not touch it for so long is asked whether it lives.
inline constexpr uint64_t kAskAliveNs = 100'000'000;
// A waiter is told to look again at the latest after this time when others stand before it, because
// they may leave: then it would be its turn sooner than foreseen.
inline constexpr uint64_t kLookAgainMaxNs = 10'000'000;
// No single work, and no readiness ahead of now, is longer: longer ones are cut to it (11 days).
inline constexpr uint64_t kLengthMaxNs = 1'000'000'000'000'000;
// Times at which parts of one queue become ready that lie in the future. When there are more, the
// last of them is postponed to the newest, so work may be served later than it could, never sooner.
inline constexpr uint32_t kGatesMax = 32;
// Stretches in which one queue was served without a break, remembered to say when a position was
// reached. Of a position reached before them, the beginning of the oldest is said: not too early.
inline constexpr uint32_t kGrantsMax = 128;
// Busy time by span of the clock, for shares of a recent window.
inline constexpr uint32_t kBuckets = 16;
inline constexpr uint64_t kBucketNs = 125'000'000;
// Clients of one card's MPS server, as many as NVIDIA's newest servers take.
inline constexpr uint32_t kMpsClientsMax = 60;
inline constexpr uint32_t kJournalMax = 1024;     // words of one change
inline constexpr uint64_t kFullPace = 1'000'000;  // served nanoseconds in a million of the clock's
inline constexpr uint32_t kWholeCard = 1000;      // per mille
inline constexpr uint32_t kCopyLanes = 3;

struct BusyBucket {
  uint64_t epoch;  // which span: begins at epoch * kBucketNs
  uint64_t ns;
};

struct Gate {
  uint64_t position;  // what lies behind it
  uint64_t ready_ns;  // is not served before
};

struct Grant {
  uint64_t start_ns;
  uint64_t before;  // the position then
  uint64_t length;
  uint64_t end_ns;
  uint64_t pace;   // of kFullPace
  uint64_t carry;  // millionths of a nanosecond that were served beyond `before`
};

// The queue of one slot on one card. Positions are cumulative nanoseconds, served or forgotten.
struct EngineQueue {
  uint64_t submitted;  // the end of all work whose length is known
  uint64_t position;   // how far it is; beyond `submitted` only while work is open
  uint64_t forgotten;  // of `position`, never served
  uint64_t open;       // begun, not ended
  uint64_t seen_ns;    // when the owner was last known to live
  uint64_t copied_ns;
  uint64_t copy_end_ns[kCopyLanes];  // of its last copy on each copy engine
  uint64_t gates_first;  // counts, not indices: gates_first..gates_next stand in the ring
  uint64_t gates_next;
  uint64_t grants_next;
  uint64_t percentage;  // per mille, of an MPS client; 0: none
  uint64_t width;       // the widest of its work since it last had none
  uint64_t carry;       // millionths of a nanosecond served beyond `position`
  Gate gates[kGatesMax];
  Grant grants[kGrantsMax];
  BusyBucket buckets[kBuckets];
};

struct JournalEntry {
  uint64_t word;  // index from the beginning of EngineWords
  uint64_t value;
};

struct EngineWords {
  uint64_t at_ns;    // decided up to here
  uint64_t current;  // 0: nobody yet; slot + 1 of who was served last; kGone: one that is no more
  uint64_t slice_end_ns;
  uint64_t switch_end_ns;  // until then nobody is served
  uint64_t busy_ns;
  uint64_t switching_ns;
  uint64_t mps_busy_ns;     // of busy_ns: MPS clients were served
  uint64_t mps_served_ns;   // the sum of what they were served meanwhile
  uint64_t gone_served_ns;  // of slots that got another owner
  uint64_t gone_copied_ns;
  uint64_t copy_free_ns[kCopyLanes];    // by copy engine: when its last copy ends
  uint64_t lane_copied_ns[kCopyLanes];  // by CopyLane, whichever engine did it
  uint64_t lane_end_ns[kCopyLanes];     // when the lane's last copy ends
  uint64_t active[kSlotsMax / 64];      // queues that have work, ready or not
  uint64_t copiers[kSlotsMax / 64];     // queues that ever had a copy
  uint64_t clients[kSlotsMax / 64];     // queues with a percentage
  BusyBucket buckets[kBuckets];
  uint64_t journal_count;  // entries to apply
  JournalEntry journal[kJournalMax];
  EngineQueue queues[kSlotsMax];
};

// The lock under which the words are changed, to see that it is still ours.
struct Holding {
  static constexpr uint32_t kSleepers = 0x1000;  // of the word, set by others

  const std::atomic<uint32_t>* word = nullptr;
  uint32_t mine = 0;

  bool Still() const {
    return word == nullptr ||
           (word->load(std::memory_order_relaxed) & ~kSleepers) == (mine & ~kSleepers);
  }
};

class Schedule {
 public:
  struct Rules {
    uint64_t slice_ns = 0;
    uint64_t switch_ns = 0;
    uint32_t copy_engines = 0;
  };
  // Whether the owner of a slot lives; null: all do.
  using Alive = bool (*)(void* context, uint32_t slot);

  Schedule(EngineWords* words, const Rules& rules, Alive alive = nullptr, void* context = nullptr);

  // The lock is looked at before every store.
  void Guard(const Holding& holding) {
    holding_ = holding;
    lost_ = false;
  }
  // Whether the last change did not take place, because the lock was lost before. What it answered
  // is void then.
  bool failed() const { return failed_; }

  // To be called first by whoever takes the lock.
  void Repair();
  void Play(uint64_t now);
  // At most `steps`; false when more are needed.
  bool Play(uint64_t now, uint32_t steps);

  // As in Engine, for one slot.
  uint64_t Submit(uint32_t slot, uint64_t now, uint64_t ready_ns, uint64_t duration_ns,
                  uint32_t width = kWholeCard);
  uint64_t Begin(uint32_t slot, uint64_t now, uint64_t ready_ns, uint32_t width = kWholeCard);
  uint64_t End(uint32_t slot, uint64_t now, uint64_t begin, uint64_t at_least_ns);
  Engine::Progress Look(uint32_t slot, uint64_t now, uint64_t position);
  void Cancel(uint32_t slot, uint64_t now);
  uint64_t Copy(uint32_t slot, uint64_t now, CopyLane lane, uint64_t ready_ns,
                uint64_t duration_ns);
  // False: kMpsClientsMax others are clients. 0: not a client any more.
  bool SetPercentage(uint32_t slot, uint64_t now, uint32_t permille);
  bool IsClient(uint32_t slot) const { return words_->clients[slot / 64] >> (slot % 64) & 1; }
  // The slot has no owner any more: its queue is emptied, what it was served kept as gone.
  void Retire(uint32_t slot);

  uint64_t Served(uint32_t slot) const {
    return words_->queues[slot].position - words_->queues[slot].forgotten;
  }
  bool Waiting(uint32_t slot) const;
  // Of the buckets, what lies in the window_ns before now.
  static uint64_t Recent(const BusyBucket* buckets, uint64_t now, uint64_t window_ns);

  // A seam for tests: after so many stores to the words no further one takes place, as if the
  // process had been killed there.
  void StopAfter(uint64_t stores) { stores_left_ = stores; }
  uint64_t stores_left() const { return stores_left_; }

 private:
  static constexpr uint64_t kGone = kSlotsMax + 1;
  static constexpr uint32_t kNobody = UINT32_MAX;
  static constexpr uint64_t kNever = UINT64_MAX;

  bool Stopped() const { return lost_ || stores_left_ == 0; }
  bool Store(uint64_t* word, uint64_t value);
  void Set(uint64_t* word, uint64_t value);  // part of the next Commit
  void Commit();

  bool Step(uint64_t to);
  void Serve(uint32_t slot, uint64_t limit);
  void ServeClients(uint64_t to, uint64_t limit);
  // Part of a change: what the queue was served from the present moment on.
  void Advance(uint32_t slot, uint64_t length, uint64_t span, uint64_t pace, uint64_t carry);
  // Part of a change: the queue has work of that width.
  void Widen(uint32_t slot, uint32_t width);
  // Who stands for a queue in the round robin: itself, or the first client that has work.
  uint32_t PartyOf(uint32_t slot) const;
  // The pace of a client's work while the clients with work cover `demand` per mille of the card.
  uint64_t PaceOf(uint32_t slot, uint64_t demand) const;
  uint64_t Covered(uint32_t slot) const {
    return words_->queues[slot].width < words_->queues[slot].percentage
               ? words_->queues[slot].width
               : words_->queues[slot].percentage;
  }
  void Forget(uint32_t slot);
  void SetActive(uint32_t slot, bool active) { SetBit(words_->active, slot, active); }
  void SetBit(uint64_t* bits, uint32_t slot, bool value);
  // When a copy engine is free if the copies of `without` and of the dead are left out.
  uint64_t CopyFree(uint32_t engine, uint64_t now, uint32_t without);
  void AddBusy(BusyBucket* buckets, uint64_t from, uint64_t length);
  void AddGrant(EngineQueue* queue, uint64_t before, uint64_t length, uint64_t span, uint64_t pace,
                uint64_t carry);
  void AddGate(EngineQueue* queue, uint64_t now, uint64_t position, uint64_t ready_ns);
  bool Active(uint32_t slot) const { return words_->active[slot / 64] >> (slot % 64) & 1; }
  // The first active queue behind `slot`, round and round; kNobody when there is none. Ends at
  // `slot` itself.
  uint32_t NextActive(uint32_t slot) const { return NextBit(words_->active, slot); }
  static uint32_t NextBit(const uint64_t* bits, uint32_t slot);
  // From when on the head of the queue may be served; kNever without work.
  uint64_t ReadyAt(uint32_t slot) const;
  // The same of a party: of any of the clients when the slot is a client's.
  uint64_t PartyReadyAt(uint32_t slot) const;
  // How much of the queue can be served without a break from `at` on.
  uint64_t Runnable(uint32_t slot, uint64_t at, uint64_t pace = kFullPace) const;
  bool Lives(uint32_t slot, uint64_t now);
  uint64_t ReachedAt(const EngineQueue& queue, uint64_t position) const;
  uint64_t Foresee(uint32_t slot, uint64_t now, uint64_t position) const;
  uint64_t ForeseeClient(uint32_t slot, uint64_t start, uint64_t left) const;
  uint32_t Current() const {
    return words_->current == 0 || words_->current == kGone
               ? kNobody
               : PartyOf(static_cast<uint32_t>(words_->current - 1));
  }

  EngineWords* words_;
  Rules rules_;
  Alive alive_;
  void* context_;
  Holding holding_;
  bool lost_ = false;    // the lock
  bool failed_ = false;  // the last Commit
  uint64_t stores_left_ = UINT64_MAX;
  uint32_t pending_count_ = 0;
  JournalEntry pending_[kJournalMax];
};

}  // namespace simgpu
