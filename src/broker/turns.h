// The turns of every card of this node, held with the slices' pages: grants by writing a gate and
// waking it, hand-over when what is left of a turn's work ends, charges by measured time. Who is
// next is turn_queue.h's business, what a turn took turn_meter.h's; the protocol with the guests is
// at the top of wire/pages.h.
//
// A card with one slice and no cap has its gates open and costs nothing. A card of several slices
// has a thread; it sleeps on the slices' `arrivals` and wakes only when somebody has work. One
// uncapped tenant alone at work keeps its turn until another arrives, and is not looked at.
//
// A slice that shares several of its cards has its turns on all of them at the same time (work of
// one card may wait for work of another: collectives). The first of those cards, by UUID, calls
// such a turn when it is fair on all; the called cards end the turns they have and stay empty until
// the last of them is free, then all gates are granted in the order of the cards. One call is under
// way at a time, on all of the node, and a turn that is on waits for no other card: so nobody holds
// one card and waits for a holder that waits for him.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "broker/slice_pages.h"

namespace tessera::broker {

// Work a process may have in flight in its turn; less when a higher class wants short hand-overs.
inline constexpr std::uint32_t kWindowNanosAlike = 1'000'000;
inline constexpr std::uint32_t kWindowNanosClasses = 300'000;
// A holder that has had no work for so long gives its turn back: where others wait, and where it is
// only its own cap that is counted.
inline constexpr std::int64_t kIdleNanosContended = 100'000;
inline constexpr std::int64_t kIdleNanosAlone = 2'000'000;
// Who was granted a turn and does not use it within this time has lost it.
inline constexpr std::int64_t kClaimNanosMax = 5'000'000;
// Work that takes longer than this to end after its turn (a persistent kernel, a stream that waits
// for the host) no longer keeps the others waiting; it is charged until it ends.
inline constexpr std::int64_t kDrainNanosMax = 100'000'000;
// The next turn is granted when the work of the last is expected to end within so long: what it
// takes to wake a program up and have its work reach the card. Work that lasts longer than expected
// by as much again is on the card beside the next one's, and both are charged half of the time.
inline constexpr std::int64_t kHandOverNanos = 100'000;
// Slices of one card that are listened to (the kernel's FUTEX_WAITV_MAX is 128, one is our own).
inline constexpr std::size_t kCardSlicesMax = 127;

struct TurnCounters {
  std::uint64_t turns = 0;      // granted
  std::uint64_t unclaimed = 0;  // granted and not used
  std::uint64_t overdue = 0;    // drains given up
  std::uint64_t wakes = 0;      // times a card's thread woke up
};

// What the turns of one card have given a slice.
struct TurnService {
  std::string card;
  std::uint64_t served_nanos = 0;  // time counted as its own since the slice was added; a slice
                                   // that has the card to itself is not looked at, all of it counts
  std::int64_t gated_since = 0;    // monotonic; 0: the gate is open and nothing is counted
  std::int64_t now = 0;            // when this was read
};

// Thread-safe: all methods. Owns its threads, not the pages.
class Turns {
 public:
  Turns();
  // Opens all gates: between two tesserads nobody waits for a turn that cannot come.
  ~Turns();
  Turns(const Turns&) = delete;
  Turns& operator=(const Turns&) = delete;

  // The pages must live until Remove has returned. Beyond kCardSlicesMax slices of one card the
  // newest are not gated there.
  void Add(const std::string& id, SlicePages* pages, const std::vector<CardLimits>& cards);
  void SetLimits(const std::string& id, const std::vector<CardLimits>& cards);
  void Remove(const std::string& id);
  TurnCounters counters() const;
  // One entry a card of the slice.
  std::vector<TurnService> Service(const std::string& id) const;

 private:
  class CardTurns;
  // The cards of a slice that has several, in the order of their UUIDs.
  struct Gang {
    std::string id;
    std::vector<CardTurns*> cards;
  };

  mutable std::mutex mutex_;                                 // guards everything, the cards' too
  std::map<std::string, std::unique_ptr<CardTurns>> cards_;  // by UUID
  std::map<std::string, std::vector<std::string>> uuids_;    // by slice
  std::map<std::string, std::unique_ptr<Gang>> gangs_;       // by slice
  const Gang* called_ = nullptr;   // whose cards are being emptied for its turn
  std::int64_t called_nanos_ = 0;  // how long that turn may last
};

}  // namespace tessera::broker
