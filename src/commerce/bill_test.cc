#include "commerce/bill.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/rng.h"
#include "commerce/rating.h"

namespace tessera::commerce {
namespace {

constexpr std::int64_t kSecond = 1'000'000;

Contract Rented(const std::string& id, std::int64_t price = 4'000'000) {
  return {.instance_id = id,
          .name = id,
          .sku = "t4.third",
          .sku_version = 1,
          .price_per_hour = Money{price}};
}

// The states of d.run's table: what accrues and what does not.
TEST(Bill, OnlyRunningAndStoppingAccrue) {
  const std::pair<State, bool> golden[] = {
      {State::kQueued, false},  {State::kStarting, false}, {State::kRunning, true},
      {State::kStopping, true}, {State::kStopped, false},  {State::kEnded, false},
      {State::kFailed, false},  {State::kReleased, false},
  };
  for (const auto& [state, accrues] : golden) {
    EXPECT_EQ(Accrues(state), accrues) << StateName(state);
    EXPECT_EQ(*ParseState(StateName(state), "state"), state);
  }
  EXPECT_EQ(ParseState("paused", "state").error().field(), "state");
  const std::int64_t t = 1000 * kSecond;
  const auto bill = MakeBill({Rented("a")},
                             {{"a", 1, State::kQueued, t},
                              {"a", 1, State::kStarting, t + 10 * kSecond},
                              {"a", 1, State::kRunning, t + 20 * kSecond},
                              {"a", 1, State::kStopping, t + 920 * kSecond},
                              {"a", 1, State::kStopped, t + 1820 * kSecond},
                              {"a", 1, State::kReleased, t + 9000 * kSecond}},
                             {});
  ASSERT_TRUE(bill);
  ASSERT_EQ(bill->lines.size(), 1u);
  EXPECT_EQ(bill->lines[0].running_micros, 1800 * kSecond);
  EXPECT_EQ(FormatMoney(bill->total), "2.00");
  EXPECT_FALSE(bill->lines[0].open);
}

TEST(Bill, QueuedOnlyCostsNothingAndAnOpenRunIsBilledToItsLastHeartbeat) {
  const auto bill = MakeBill({Rented("q"), Rented("r")},
                             {{"q", 1, State::kQueued, 0},
                              {"q", 1, State::kStopped, 7200 * kSecond},
                              {"r", 1, State::kRunning, 100 * kSecond}},
                             {{"r", 1, 1900 * kSecond}, {"r", 1, 1000 * kSecond}});
  ASSERT_TRUE(bill);
  ASSERT_EQ(bill->lines.size(), 1u);
  EXPECT_TRUE(bill->lines[0].open);
  EXPECT_EQ(bill->lines[0].ended_wall_micros, 1900 * kSecond);
  EXPECT_EQ(FormatMoney(bill->total), "2.00");
}

TEST(Bill, RunsOfOneInstanceTelescope) {
  // Ten runs of 0.1 s at 0.000036 an hour: each alone rounds to nothing, together they are one
  // whole unit.
  std::vector<StateEvent> events;
  for (std::uint64_t g = 1; g <= 1000; ++g) {
    const auto t = static_cast<std::int64_t>(g) * 10 * kSecond;
    events.push_back({"a", g, State::kRunning, t});
    events.push_back({"a", g, State::kEnded, t + kSecond / 10});
  }
  const auto bill = MakeBill({Rented("a", 36)}, events, {});
  ASSERT_TRUE(bill);
  EXPECT_EQ(bill->total, *Cumulative(Money{36}, 100 * kSecond));
  EXPECT_EQ(bill->total.micro, 1);
}

TEST(Bill, EventsWithoutAContractAreRefused) {
  EXPECT_FALSE(MakeBill({}, {{"a", 1, State::kRunning, 0}}, {}));
  EXPECT_FALSE(MakeBill({}, {}, {{"a", 1, 0}}));
}

TEST(Bill, OrderAndDuplicatesDoNotMatter) {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    Rng rng(seed);
    std::vector<Contract> contracts;
    std::vector<StateEvent> events;
    std::vector<Heartbeat> beats;
    Money expected;
    for (int i = 0; i < 5; ++i) {
      const std::string id = "i" + std::to_string(i);
      contracts.push_back(Rented(id, static_cast<std::int64_t>(rng.Below(100'000'000))));
      std::int64_t t = 0;
      std::int64_t running = 0;
      const std::uint64_t generations = rng.Between(0, 4);
      for (std::uint64_t g = 1; g <= generations; ++g) {
        t += static_cast<std::int64_t>(rng.Below(10'000 * kSecond));
        events.push_back({id, g, State::kQueued, t});
        if (rng.Chance(200)) {
          events.push_back({id, g, State::kStopped, t + kSecond});
          continue;
        }
        events.push_back({id, g, State::kRunning, t});
        const auto length = static_cast<std::int64_t>(rng.Below(20'000 * kSecond));
        for (std::int64_t at = 0; at < length; at += length / 7 + 1)
          beats.push_back({id, g, t + at});
        beats.push_back({id, g, t + length});
        if (g < generations || rng.Chance(500))
          events.push_back({id, g, State::kEnded, t + length});
        running += length;
        t += length;
      }
      expected += *Cumulative(contracts.back().price_per_hour, running);
    }
    const auto first = MakeBill(contracts, events, beats);
    ASSERT_TRUE(first);
    EXPECT_EQ(first->total, expected) << "seed " << seed;
    const std::size_t original = events.size();
    for (std::size_t i = 0; i < original; ++i) {
      if (rng.Chance(300)) events.push_back(events[i]);
    }
    for (std::size_t i = events.size(); i > 1; --i) std::swap(events[i - 1], events[rng.Below(i)]);
    for (std::size_t i = beats.size(); i > 1; --i) std::swap(beats[i - 1], beats[rng.Below(i)]);
    const auto second = MakeBill(contracts, events, beats);
    ASSERT_TRUE(second);
    EXPECT_EQ(second->total, expected) << "seed " << seed;
    ASSERT_EQ(second->lines.size(), first->lines.size());
    for (std::size_t i = 0; i < first->lines.size(); ++i) {
      EXPECT_EQ(second->lines[i].amount, first->lines[i].amount);
      EXPECT_EQ(second->lines[i].open, first->lines[i].open);
    }
  }
}

}  // namespace
}  // namespace tessera::commerce
