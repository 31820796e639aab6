#include "simulate/spot.h"

#include <gtest/gtest.h>

#include <cstdio>

#include "base/rng.h"

namespace tessera::simulate {
namespace {

std::vector<TraceNode> Nodes(int count) {
  std::vector<TraceNode> nodes;
  for (int i = 0; i < count; ++i) {
    nodes.push_back({"n" + std::to_string(i), 64'000, 262'144, 4, "T4"});
  }
  return nodes;
}

// Shares of one card, one in four of them guaranteed.
std::vector<TracePod> Shares(std::uint64_t seed, std::size_t count) {
  Rng rng(seed);
  std::vector<TracePod> pods;
  std::int64_t at = 0;
  for (std::size_t i = 0; i < count; ++i) {
    at += static_cast<std::int64_t>(rng.Between(20, 40));
    pods.push_back({"p", 1000, 1024, 1, static_cast<std::uint32_t>(rng.Between(1, 4)) * 250, "", at,
                    at + static_cast<std::int64_t>(rng.Between(600, 3000))});
    pods.back().qos = rng.Chance(750) ? "BE" : "LS";
  }
  return pods;
}

SpotOptions Options() {
  return {.policy = "tessera", .nodes_every = 1, .load_percent = 160, .oversell = 1400};
}

TEST(Spot, GuaranteedRequestsAreNeverHarmed) {
  std::int64_t behind_spot = 0;
  std::uint64_t evictions = 0;
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    for (const std::uint32_t oversell : {1000u, 1400u, 1800u}) {
      SpotOptions options = Options();
      options.seed = seed;
      options.oversell = oversell;
      const auto pods = Shares(seed, 200);
      const auto result = ChurnSpot(Nodes(4), pods, options);
      ASSERT_TRUE(result) << result.error().ToString();
      EXPECT_EQ(result->guaranteed.placed, result->guaranteed.arrived);
      EXPECT_LE(result->behind_spot_max, kStopSeconds) << seed << " at " << oversell;
      EXPECT_EQ(result->guaranteed.evicted, 0u);
      EXPECT_EQ(result->guaranteed.lost_percent, 0) << "never more than the card has";
      EXPECT_EQ(result->spot.placed, result->spot.arrived) << "and nobody starves";
      EXPECT_EQ(result->unplaced, 0u);
      evictions += result->spot.evicted;
      options.preempt = false;
      behind_spot = std::max(behind_spot, ChurnSpot(Nodes(4), pods, options)->behind_spot_max);
    }
  }
  EXPECT_GT(evictions, 0u);
  EXPECT_GT(behind_spot, 10 * kStopSeconds) << "without preemption they are harmed";
}

TEST(Spot, OversellingSellsMoreAndShowsWhatItCosts) {
  SpotOptions options = Options();
  options.load_percent = 220;
  SpotResult last;
  for (const std::uint32_t oversell : {1000u, 1400u, 1800u}) {
    options.oversell = oversell;
    const auto result = ChurnSpot(Nodes(4), Shares(3, 300), options);
    ASSERT_TRUE(result) << result.error().ToString();
    EXPECT_LE(result->allocated_percent, 100);
    EXPECT_LE(result->sold_percent, oversell / 10.0);
    EXPECT_LE(result->memory_sold_percent, kOversellMemoryMax / 10.0);
    EXPECT_GT(result->sold_percent, last.sold_percent);
    EXPECT_GT(result->useful_percent, last.useful_percent);
    EXPECT_EQ(result->contended_percent > 0, oversell > 1000);
    EXPECT_EQ(result->spot.lost_percent > 0, oversell > 1000);
    EXPECT_EQ(result->sold.size(), kChurnSamples);
    last = *result;
  }
}

// One card: the spot request that holds it goes when the guaranteed one comes, and begins again
// when that one has left.
TEST(Spot, AStoppedRequestLosesWhatItDidAndBeginsAgain) {
  const std::vector<TraceNode> node = {{"a", 64'000, 65'536, 1, "T4"}};
  std::vector<TracePod> pods(2, TracePod{"p", 1000, 1, 1, 1000, "", 0, 6000});
  pods[0].qos = "BE";
  pods[1].qos = "Guaranteed";
  pods[1].created = 100;
  pods[1].deleted = 6100;
  pods.push_back({"last", 1000, 1, 1, 1, "", 1000, 1001});  // the arrivals end with it
  pods.back().qos = "BE";
  int stopped = 0;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SpotOptions options = Options();
    options.oversell = 1000;
    options.load_percent = 100;
    options.use_percent = 50;
    options.seed = seed;
    const auto result = ChurnSpot(node, pods, options);
    ASSERT_TRUE(result) << result.error().ToString();
    EXPECT_EQ(result->guaranteed.placed + result->spot.placed, 3u);
    if (result->spot.evicted == 0) continue;  // the guaranteed one was drawn to come first
    ++stopped;
    EXPECT_EQ(result->spot.evicted, 1u);
    EXPECT_EQ(result->guaranteed.delay_max, kStopSeconds);
    EXPECT_GE(result->lost_work_percent, 0);
    EXPECT_LE(result->useful_percent, result->served_percent);
  }
  EXPECT_GT(stopped, 0);
  EXPECT_LT(stopped, 20);
}

TEST(Spot, MovesOfSpotEmptyCardsAndTheSameSeedRepeats) {
  SpotOptions options = Options();
  options.load_percent = 70;
  options.policy = "spread";
  options.moves_max = 4;
  const auto result = ChurnSpot(Nodes(6), Shares(2, 500), options);
  ASSERT_TRUE(result) << result.error().ToString();
  EXPECT_GT(result->moves, 0u);
  EXPECT_GT(result->cards_emptied, 0u);
  EXPECT_LE(result->behind_spot_max, kStopSeconds);
  const auto again = ChurnSpot(Nodes(6), Shares(2, 500), options);
  EXPECT_EQ(again->sold, result->sold);
  EXPECT_EQ(again->moves, result->moves);
  options.seed = 2;
  EXPECT_NE(ChurnSpot(Nodes(6), Shares(2, 500), options)->sold, result->sold);
}

TEST(Spot, APartDrawnFromTheSeedMayBeSpot) {
  SpotOptions options = Options();
  options.spot_percent = 0;
  const auto none = ChurnSpot(Nodes(4), Shares(1, 200), options);
  options.spot_percent = 100;
  const auto all = ChurnSpot(Nodes(4), Shares(1, 200), options);
  ASSERT_TRUE(none && all);
  EXPECT_EQ(none->spot.arrived, 0u);
  EXPECT_LE(none->sold_percent, 100) << "what is guaranteed is never oversold";
  EXPECT_EQ(all->guaranteed.arrived, 0u);
}

TEST(Spot, RefusesWhatMakesNoSense) {
  const auto field = [](const SpotOptions& options, const std::vector<TracePod>& pods) {
    return ChurnSpot(Nodes(1), pods, options).error().field();
  };
  const auto pods = Shares(1, 10);
  SpotOptions options = Options();
  options.policy = "random";
  EXPECT_EQ(field(options, pods), "policy");
  options = Options();
  options.oversell = 1801;
  EXPECT_EQ(field(options, pods), "oversell");
  options.oversell = 999;
  EXPECT_EQ(field(options, pods), "oversell");
  options = Options();
  options.spot_percent = 101;
  EXPECT_EQ(field(options, pods), "spot_percent");
  options = Options();
  options.use_percent = 51;
  EXPECT_EQ(field(options, pods), "use_percent");
  options = Options();
  options.moves_max = 17;
  EXPECT_EQ(field(options, pods), "moves");
  options = Options();
  EXPECT_EQ(field(options, {{"p", 1, 1, 1, 1000, "", 0, 5}}), "pods") << "no QoS class";
  EXPECT_EQ(field(options, {}), "pods");
}

}  // namespace
}  // namespace tessera::simulate
