// What one turn on one card took, by what is seen of its holder's work from time to time. Pure: no
// clock, no pages; every method is told the time, which never runs backwards.
#pragma once

#include <cstdint>

namespace tessera::broker {

// What the processes of a slice say of their work on a card. Any of it may be a lie: it is only
// compared, and says when the next turn may begin, never what is charged.
struct Progress {
  std::uint64_t activity = 0;    // differs when something was submitted or completed
  std::uint64_t completed = 0;   // differs when a mark completed
  bool inside = false;           // a thread is in the driver
  bool pending = false;          // that, or marks outstanding
  std::int64_t unmarked = 0;     // nanoseconds expected of what no mark stands for
  std::int64_t outstanding = 0;  // nanoseconds expected of marked work that has not completed
};

// Between two looks that find work and none, the work ended at some moment; so much at least is
// counted.
inline constexpr std::int64_t kLookNanosClose = 50'000;

// Not thread-safe.
class TurnMeter {
 public:
  // A turn is granted; what was submitted before is not its work.
  void Begin(const Progress& progress, std::int64_t now);
  // It goes on with work in hand: after a time nobody looked, or when only its end is looked for.
  void Resume(const Progress& progress, std::int64_t now);

  // One look; returns how much of the time since the last one was its own and counted. Time counts
  // from the first look that finds work: what the waking took is nobody's. `others` of it went to
  // somebody else's work that was still on the card.
  std::int64_t Look(const Progress& progress, std::int64_t now, std::int64_t others = 0);
  // Takes what was counted since the last Take.
  std::int64_t Take();
  std::int64_t served() const { return served_; }
  // Gives back part of what a look counted.
  void Return(std::int64_t nanos) { served_ -= nanos; }

  bool claimed() const { return claimed_; }
  bool busy() const { return busy_; }
  bool inside() const { return inside_; }
  std::int64_t begun() const { return begun_; }
  std::int64_t looked() const { return looked_; }
  std::int64_t idle_from() const { return idle_from_; }  // 0: busy
  // When the work in hand is expected to end, if nothing is added to it. Work that takes longer
  // than expected has an end in the past.
  std::int64_t ExpectedEnd() const { return work_from_ + expected_; }

 private:
  void Expect(const Progress& progress, std::int64_t now);

  bool claimed_ = false;
  bool busy_ = false;
  bool inside_ = false;
  std::int64_t begun_ = 0, looked_ = 0, active_ = 0, idle_from_ = 0;
  std::int64_t served_ = 0;
  std::uint64_t activity_ = 0, completed_ = 0;
  std::int64_t work_from_ = 0;  // when the oldest work in hand began, as far as was seen
  std::int64_t expected_ = 0;
};

}  // namespace tessera::broker
