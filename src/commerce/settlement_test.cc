#include "commerce/settlement.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/rng.h"
#include "commerce/rating.h"

namespace tessera::commerce {
namespace {

constexpr std::int64_t kMinute = 60'000'000;

// A purse that does what the plan says and refuses what no purse may do.
struct Purse {
  Money cash;
  Money held;
  Money revenue;
  Money owed;
  std::map<std::int64_t, Money> holds;
  std::set<std::int64_t> taken;

  void Apply(const Settlement& plan) {
    for (const Step& step : plan.steps) {
      EXPECT_GT(step.amount, Money{0});
      switch (step.kind) {
        case Step::Kind::kHold:
          EXPECT_TRUE(taken.insert(step.hour).second) << "an hour is held once";
          holds[step.hour] = step.amount;
          cash = cash - step.amount;
          held += step.amount;
          break;
        case Step::Kind::kCapture:
          holds[step.hour] = holds[step.hour] - step.amount;
          held = held - step.amount;
          revenue += step.amount;
          break;
        case Step::Kind::kVoid:
          holds[step.hour] = holds[step.hour] - step.amount;
          held = held - step.amount;
          cash += step.amount;
          break;
        case Step::Kind::kCharge:
          cash = cash - step.amount;
          revenue += step.amount;
          break;
        case Step::Kind::kOwe:
          owed += step.amount;
          revenue += step.amount;
          break;
      }
      EXPECT_GE(cash, Money{0});
      EXPECT_GE(holds[step.hour], Money{0}) << "no hold gives more than it holds";
    }
  }
};

TEST(Settlement, HalfAnHourCapturesHalfAndReturnsTheRest) {
  const auto plan = Settle({.price_per_hour = Money{4'000'000},
                            .run_micros = 30 * kMinute,
                            .ended = true,
                            .hold_open = true,
                            .margin_micros = kMinute});
  ASSERT_TRUE(plan);
  ASSERT_EQ(plan->steps.size(), 2u);
  EXPECT_EQ(plan->steps[0].kind, Step::Kind::kCapture);
  EXPECT_EQ(plan->steps[0].amount.micro, 2'000'000);
  EXPECT_EQ(plan->steps[1].kind, Step::Kind::kVoid);
  EXPECT_EQ(plan->steps[1].amount.micro, 2'000'000);
  EXPECT_FALSE(plan->out_of_funds);
}

TEST(Settlement, TheNextHourIsHeldBeforeItBeginsAndAShortPurseStopsTheRunWhileItIsCovered) {
  RunMeter meter{.price_per_hour = Money{4'000'000},
                 .run_micros = 59 * kMinute - 1,
                 .hold_open = true,
                 .cash = Money{3'999'999},
                 .margin_micros = kMinute};
  EXPECT_TRUE(Settle(meter)->steps.empty());
  EXPECT_FALSE(Settle(meter)->out_of_funds);
  meter.run_micros = 59 * kMinute;
  EXPECT_TRUE(Settle(meter)->out_of_funds);
  meter.cash = Money{4'000'000};
  const auto plan = Settle(meter);
  EXPECT_FALSE(plan->out_of_funds);
  ASSERT_EQ(plan->steps.size(), 1u);
  EXPECT_EQ(plan->steps[0].kind, Step::Kind::kHold);
  EXPECT_EQ(plan->steps[0].hour, 1);
}

TEST(Settlement, HoursTheCloudMissedAreChargedAndThenOwed) {
  const auto plan = Settle({.price_per_hour = Money{4'000'000},
                            .run_micros = 210 * kMinute,
                            .ended = true,
                            .hold_open = true,
                            .cash = Money{5'000'000},
                            .margin_micros = kMinute});
  ASSERT_TRUE(plan);
  Money captured, charged, owed;
  for (const Step& step : plan->steps) {
    if (step.kind == Step::Kind::kCapture) captured += step.amount;
    if (step.kind == Step::Kind::kCharge) charged += step.amount;
    if (step.kind == Step::Kind::kOwe) owed += step.amount;
  }
  EXPECT_EQ(captured.micro, 4'000'000);
  EXPECT_EQ(charged.micro, 5'000'000);
  EXPECT_EQ(owed.micro, 5'000'000);
  EXPECT_TRUE(plan->out_of_funds);
}

// Whenever the clock is looked at, however often, the sum is the rated sum and nothing stays held.
TEST(Settlement, AnyCutOfARunGivesTheRatedSum) {
  for (std::uint64_t seed = 1; seed <= 1000; ++seed) {
    Rng rng(seed);
    const Money price{static_cast<std::int64_t>(rng.Between(0, 20'000'000))};
    Purse purse;
    purse.cash = Money{static_cast<std::int64_t>(rng.Below(200'000'000))};
    const Money deposit = purse.cash;
    std::int64_t earlier = 0;
    for (int run = 0; run < 3; ++run) {
      const auto length = static_cast<std::int64_t>(rng.Below(6 * kHourMicros));
      RunMeter meter{.price_per_hour = price,
                     .earlier_micros = earlier,
                     .margin_micros = static_cast<std::int64_t>(rng.Below(10)) * kMinute};
      purse.holds.clear();
      purse.taken.clear();
      for (std::int64_t at = 0;;) {
        meter.run_micros = at;
        meter.ended = at == length;
        meter.cash = purse.cash;
        meter.hold_open = purse.holds[meter.hours_settled] > Money{0};
        meter.next_hold_open = purse.holds[meter.hours_settled + 1] > Money{0};
        const auto plan = Settle(meter);
        ASSERT_TRUE(plan);
        purse.Apply(*plan);
        meter.hours_settled = plan->hours_settled;
        const auto again =
            Settle({.price_per_hour = price,
                    .earlier_micros = earlier,
                    .run_micros = at,
                    .hours_settled = meter.hours_settled,
                    .hold_open = purse.holds[meter.hours_settled] > Money{0},
                    .next_hold_open = purse.holds[meter.hours_settled + 1] > Money{0},
                    .cash = purse.cash,
                    .margin_micros = meter.margin_micros});
        if (!meter.ended) {
          EXPECT_TRUE(again->steps.empty()) << "a second look moves nothing";
        }
        if (meter.ended) break;
        const auto step = static_cast<std::int64_t>(rng.Between(1, 2 * kHourMicros));
        at = std::min(length, at + step);
      }
      EXPECT_EQ(purse.held, Money{0}) << "seed " << seed;
      earlier += length;
      EXPECT_EQ(purse.revenue, *Cumulative(price, earlier)) << "seed " << seed;
      EXPECT_EQ(purse.cash + purse.revenue - purse.owed, deposit) << "seed " << seed;
    }
  }
}

}  // namespace
}  // namespace tessera::commerce
