// What a turn is charged, exactly, with a clock that is a number.
#include "broker/turn_meter.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <deque>

#include "base/rng.h"

namespace tessera::broker {
namespace {

constexpr std::int64_t kUs = 1'000;

Progress Working(std::uint64_t activity, std::int64_t outstanding = 1'000'000) {
  Progress progress;
  progress.activity = activity;
  progress.pending = true;
  progress.outstanding = outstanding;
  return progress;
}
Progress Done(std::uint64_t activity) {
  Progress progress;
  progress.activity = progress.completed = activity;
  return progress;
}

TEST(TurnMeter, TimeCountsFromTheFirstLookThatFindsWork) {
  TurnMeter meter;
  meter.Begin({}, 1000 * kUs);
  EXPECT_EQ(meter.Look({}, 1500 * kUs), 0);
  EXPECT_FALSE(meter.claimed());
  EXPECT_EQ(meter.Look(Working(1), 1600 * kUs), 0) << "what the waking took is nobody's";
  EXPECT_TRUE(meter.claimed());
  EXPECT_EQ(meter.Look(Working(2), 1800 * kUs), 200 * kUs);
  EXPECT_EQ(meter.Look(Working(3), 2000 * kUs), 200 * kUs);
  EXPECT_EQ(meter.Take(), 400 * kUs);
  EXPECT_EQ(meter.Take(), 0);
}

TEST(TurnMeter, WhatEndedBetweenTwoLooksEndedInTheMiddle) {
  TurnMeter meter;
  meter.Begin({}, 0);
  meter.Look(Working(1), 100 * kUs);
  Progress done = Working(1);
  done.pending = false;
  EXPECT_EQ(meter.Look(done, 400 * kUs), 150 * kUs);
  EXPECT_FALSE(meter.busy());
  EXPECT_EQ(meter.idle_from(), 400 * kUs);
  EXPECT_EQ(meter.Look(done, 800 * kUs), 0) << "idle is free";
}

TEST(TurnMeter, UnmarkedWorkIsGivenTheTimeItIsSaidToTake) {
  TurnMeter meter;
  meter.Begin({}, 0);
  Progress little;
  little.activity = 1;
  little.unmarked = 120 * kUs;
  meter.Look(little, 100 * kUs);
  EXPECT_EQ(meter.Look(little, 200 * kUs), 100 * kUs);
  EXPECT_TRUE(meter.busy());
  meter.Look(little, 250 * kUs);
  EXPECT_FALSE(meter.busy()) << "its time has passed";
}

TEST(TurnMeter, TheTimeOfAnotherIsNotItsOwn) {
  TurnMeter meter;
  meter.Begin({}, 0);
  meter.Look(Working(1), 50 * kUs);
  EXPECT_EQ(meter.Look(Working(1), 100 * kUs, 50 * kUs), 0) << "queued behind the turn before";
  EXPECT_EQ(meter.Look(Working(1), 150 * kUs, 20 * kUs), 30 * kUs);
  EXPECT_EQ(meter.Look(Working(1), 200 * kUs, 900 * kUs), 0) << "never less than nothing";
  EXPECT_EQ(meter.Take(), 30 * kUs);
}

TEST(TurnMeter, TheEndIsExpectedFromWhatCompletedLast) {
  TurnMeter meter;
  meter.Begin({}, 0);
  meter.Look(Working(1, 900 * kUs), 100 * kUs);
  EXPECT_EQ(meter.ExpectedEnd(), 1000 * kUs);
  meter.Look(Working(1, 900 * kUs), 300 * kUs);
  EXPECT_EQ(meter.ExpectedEnd(), 1000 * kUs) << "looking does not postpone it";
  Progress next = Working(2, 600 * kUs);
  next.completed = 1;
  next.unmarked = 50 * kUs;
  meter.Look(next, 500 * kUs);
  EXPECT_EQ(meter.ExpectedEnd(), 1150 * kUs) << "the rest began when something completed";
  meter.Look(next, 2000 * kUs);
  EXPECT_LT(meter.ExpectedEnd(), 2000 * kUs) << "late work has its end in the past";
  meter.Look(Done(2), 2100 * kUs);
  EXPECT_EQ(meter.ExpectedEnd(), 2100 * kUs);
}

// Two tenants hand a card over to each other many times, each turn granted before the last has
// ended; the card does one thing after the other. What both are charged adds up to the time that
// passed, and to what the card did for each, but for the graininess of the looks.
TEST(TurnMeter, OverlappedTurnsAreChargedAsTheCardServedThem) {
  const char* const seed = std::getenv("TESSERA_SEED");
  const std::uint64_t number = seed == nullptr ? 20261126 : std::strtoull(seed, nullptr, 10);
  SCOPED_TRACE("TESSERA_SEED=" + std::to_string(number));
  Rng random(number);
  constexpr std::int64_t kLook = 50 * kUs;
  struct Tenant {
    std::uint64_t submitted = 0, completed = 0;
    std::int64_t served = 0, charged = 0;
  } tenants[2];
  std::deque<std::pair<int, std::int64_t>> card;  // whose, and how much is left
  std::int64_t now = 0, idle = 0;
  const auto pass = [&](std::int64_t nanos) {
    now += nanos;
    while (nanos > 0 && !card.empty()) {
      auto& [who, left] = card.front();
      const std::int64_t done = std::min(left, nanos);
      tenants[who].served += done;
      nanos -= done;
      left -= done;
      if (left == 0) {
        ++tenants[who].completed;
        card.pop_front();
      }
    }
    idle += nanos;
  };
  const auto look = [&](int who) {
    const Tenant& tenant = tenants[who];
    Progress progress;
    progress.activity = tenant.submitted * 3 + tenant.completed;
    progress.completed = tenant.completed;
    progress.pending = tenant.submitted != tenant.completed;
    for (const auto& [owner, left] : card) progress.outstanding += owner == who ? left : 0;
    return progress;
  };
  TurnMeter meter, tail;
  bool has_tail = false;
  constexpr int kTurns = 400;
  for (int turn = 0; turn < kTurns; ++turn) {
    const int who = turn % 2;
    meter.Begin(look(who), now);
    const std::int64_t end = now + 2'000 * kUs + static_cast<std::int64_t>(random.Below(8'000'000));
    const std::int64_t wakes = now + static_cast<std::int64_t>(random.Below(200'000));
    while (now < end || has_tail) {
      std::int64_t in_hand = 0;
      for (const auto& [owner, left] : card) in_hand += owner == who ? left : 0;
      while (now >= wakes && now < end && in_hand < 1'000 * kUs) {
        const auto unit = 50 * kUs + static_cast<std::int64_t>(random.Below(400'000));
        card.emplace_back(who, unit);
        ++tenants[who].submitted;
        in_hand += unit;
      }
      pass(kLook);
      std::int64_t others = 0;
      if (has_tail) {
        others = tail.Look(look(1 - who), now);
        if (!tail.busy()) {
          tenants[1 - who].charged += tail.Take();
          has_tail = false;
        }
      }
      meter.Look(look(who), now, others);
    }
    tenants[who].charged += meter.Take();
    tail = meter;
    has_tail = true;
    // The next is granted when what is left takes no longer than a wake-up.
    while (tail.ExpectedEnd() - now > 100 * kUs) {
      pass(kLook);
      tail.Look(look(who), now);
    }
  }
  for (const Tenant& tenant : tenants) {
    EXPECT_NEAR(static_cast<double>(tenant.charged), static_cast<double>(tenant.served),
                kTurns * static_cast<double>(kLook));
    EXPECT_GT(tenant.served, 500'000 * kUs);
  }
  EXPECT_LE(tenants[0].charged + tenants[1].charged, now);
  EXPECT_LT(idle, now / 40) << "the card is not kept waiting by hand-overs";
}

}  // namespace
}  // namespace tessera::broker
