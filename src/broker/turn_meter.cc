#include "broker/turn_meter.h"

#include <algorithm>
#include <utility>

namespace tessera::broker {

void TurnMeter::Begin(const Progress& progress, std::int64_t now) {
  *this = {};
  begun_ = looked_ = active_ = work_from_ = now;
  activity_ = progress.activity;
  completed_ = progress.completed;
}

void TurnMeter::Resume(const Progress& progress, std::int64_t now) {
  Begin(progress, now);
  claimed_ = busy_ = true;
  inside_ = progress.inside;
  Expect(progress, now);
}

void TurnMeter::Expect(const Progress& progress, std::int64_t now) {
  // Work in a queue begins when what stood before it has completed.
  if (progress.completed != completed_ || expected_ == 0) work_from_ = now;
  completed_ = progress.completed;
  expected_ = progress.outstanding + progress.unmarked;
}

std::int64_t TurnMeter::Look(const Progress& progress, std::int64_t now, std::int64_t others) {
  const bool moved = progress.activity != activity_;
  activity_ = progress.activity;
  if (moved) active_ = now;
  inside_ = progress.inside;
  const bool busy = progress.pending || moved || (claimed_ && now - active_ < progress.unmarked);
  const std::int64_t passed = now - looked_;
  std::int64_t mine = 0;
  if (claimed_ && busy) mine = passed;
  // Work that ended between two looks ended, for all we know, in the middle.
  if (claimed_ && !busy && busy_) mine = std::max(passed / 2, std::min(passed, kLookNanosClose));
  mine = std::clamp<std::int64_t>(passed - others, 0, mine);
  served_ += mine;
  if (busy) {
    claimed_ = true;
    idle_from_ = 0;
  } else if (idle_from_ == 0) {
    idle_from_ = now;
  }
  busy_ = busy;
  looked_ = now;
  Expect(progress, now);
  return mine;
}

std::int64_t TurnMeter::Take() { return std::exchange(served_, 0); }

}  // namespace tessera::broker
