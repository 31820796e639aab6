// From elapsed time to money movements: which holds to capture, void or take, and what is owed.
// Pure, so that the plan can be tried over every way a clock, a crash or a short purse can cut a
// run.
//
// A run is paid hour by hour. Hour k of a run (from 0) is covered by hold k, worth one hour's
// price. When the hour is full the hold is captured whole; at the end of the run the last hour is
// captured up to the end and the rest returned. The next hour's hold is taken `margin_micros`
// before it begins, so that a run that cannot pay on is stopped while it is still covered. Time
// that ran without a hold (the cloud was away) is charged to cash, and what cash cannot pay is
// owed: no second is free and none is paid twice.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "base/units.h"

namespace tessera::commerce {

struct RunMeter {
  Money price_per_hour;
  std::int64_t earlier_micros = 0;  // running time of the instance's earlier runs
  std::int64_t run_micros = 0;      // running time of this run until now, or in all when `ended`
  bool ended = false;
  std::int64_t hours_settled = 0;  // hours 0 to hours_settled - 1 are paid
  bool hold_open = false;          // the hold of hour `hours_settled`
  bool next_hold_open = false;     // the hold of the hour after it
  Money cash;                      // what the tenant can spend
  std::int64_t margin_micros = 0;  // below one hour
};

struct Step {
  enum class Kind {
    kHold,     // take the hold of `hour`, worth one hour
    kCapture,  // capture `amount` of the hold of `hour`
    kVoid,     // return `amount`, the rest of the hold of `hour`
    kCharge,   // take `amount` from cash: the hour ran without a hold
    kOwe,      // cash could not pay `amount`
  };
  Kind kind = Kind::kHold;
  std::int64_t hour = 0;
  Money amount;
};

struct Settlement {
  std::vector<Step> steps;  // in order; amounts above zero
  std::int64_t hours_settled = 0;
  bool out_of_funds = false;  // a hold could not be taken or something is owed: stop the run
};

Result<Settlement> Settle(const RunMeter& meter);

}  // namespace tessera::commerce
