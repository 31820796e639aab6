#include "commerce/settlement.h"

#include <algorithm>

#include "commerce/rating.h"

namespace tessera::commerce {

Result<Settlement> Settle(const RunMeter& meter) {
  const Money price = meter.price_per_hour;
  Settlement result;
  Money cash = meter.cash;
  const auto add = [&](Step::Kind kind, std::int64_t hour, Money amount) {
    if (amount > Money{0}) result.steps.push_back({kind, hour, amount});
  };
  const auto held = [&](std::int64_t hour) {
    return (hour == meter.hours_settled && meter.hold_open) ||
           (hour == meter.hours_settled + 1 && meter.next_hold_open);
  };
  const auto ensure_hold = [&](std::int64_t hour) {
    if (held(hour)) return;
    if (cash < price) {
      result.out_of_funds = true;
      return;
    }
    cash = cash - price;
    add(Step::Kind::kHold, hour, price);
  };
  std::int64_t hour = meter.hours_settled;
  for (;; ++hour) {
    const std::int64_t begin = hour * kHourMicros;
    const std::int64_t end = begin + kHourMicros;
    const bool full = meter.run_micros >= end;
    if (!full && !meter.ended) {
      ensure_hold(hour);
      if (meter.run_micros >= end - meter.margin_micros) ensure_hold(hour + 1);
      break;
    }
    const std::int64_t until = std::max(begin, std::min(end, meter.run_micros));
    TRY(const Money amount,
        Charge(price, meter.earlier_micros + begin, meter.earlier_micros + until));
    if (held(hour)) {
      add(Step::Kind::kCapture, hour, amount);
      add(Step::Kind::kVoid, hour, price - amount);
    } else {
      const Money paid = std::min(cash, amount);
      cash = cash - paid;
      add(Step::Kind::kCharge, hour, paid);
      add(Step::Kind::kOwe, hour, amount - paid);
      if (amount > paid) result.out_of_funds = true;
    }
    if (full) continue;
    if (held(hour + 1)) add(Step::Kind::kVoid, hour + 1, price);
    break;
  }
  result.hours_settled = hour;
  return result;
}

}  // namespace tessera::commerce
