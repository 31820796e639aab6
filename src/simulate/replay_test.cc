#include "simulate/replay.h"

#include <gtest/gtest.h>

namespace tessera::simulate {
namespace {

const std::vector<TraceNode> kTwoNodes = {{"a", 8000, 1024, 2, "T4"}, {"b", 64000, 4096, 2, "T4"}};

TEST(Replay, CountsWhatArrivesAndWhatFits) {
  // Two whole-card pods with 8 cores each: a holds one by its cores, b the other, the third none.
  const std::vector<TracePod> pods = {{"p", 8000, 1, 2, 1000, ""}, {"q", 1000, 1, 1, 1000, ""}};
  const auto result = Replay(kTwoNodes, pods, {{0, 0, 1}, {0, 1}}, {.policy = "bestfit"});
  ASSERT_TRUE(result) << result.error().ToString();
  EXPECT_EQ(result->arrived, 3u);
  EXPECT_EQ(result->placed, 2u);
  EXPECT_DOUBLE_EQ(result->allocated[50], 50);
  EXPECT_DOUBLE_EQ(result->allocated[100], 100);
  EXPECT_DOUBLE_EQ(result->allocated[125], 100) << "a refused pod counts as arrived only";
  EXPECT_LT(result->allocated[75], 0) << "nothing arrived near it";
}

TEST(Replay, APodThatNamesAbsentModelsFitsNowhere) {
  const std::vector<TracePod> pods = {{"p", 1, 1, 1, 1000, "H100"}, {"q", 1, 1, 1, 1000, "A10|T4"}};
  for (const char* policy : {"bestfit", "fgd", "tessera", "random"}) {
    const auto result = Replay(kTwoNodes, pods, {{0, 1}, {0, 1}}, {.policy = policy});
    ASSERT_TRUE(result) << result.error().ToString();
    EXPECT_EQ(result->placed, 1u) << policy;
  }
}

TEST(Replay, AHeldBackGroupIsPlacedLargestFirst) {
  // Alone, the two small ones take a card of each node and the large one finds no pair.
  const std::vector<TracePod> pods = {{"small", 1000, 1, 1, 1000, ""},
                                      {"pair", 1000, 1, 2, 1000, ""}};
  const TraceOrder order = {{0, 0, 1, 1}, {0, 1}};
  const std::vector<TraceNode> nodes = {{"a", 8000, 1024, 2, "T4"}, {"b", 8000, 1024, 2, "T4"}};
  const auto one_by_one = Replay(nodes, pods, order, {.policy = "least-allocated"});
  const auto held = Replay(nodes, pods, order, {.policy = "least-allocated", .batch = 4});
  ASSERT_TRUE(one_by_one && held);
  EXPECT_EQ(one_by_one->arrived, 4u);
  EXPECT_EQ(held->arrived, 4u);
  EXPECT_DOUBLE_EQ(one_by_one->allocated[150], 50);
  EXPECT_DOUBLE_EQ(held->allocated[150], 100);
  EXPECT_EQ(Replay(nodes, pods, order, {.policy = "fgd", .batch = kBatchMax + 1}).error().field(),
            "batch");
}

TEST(Replay, OneMoveMakesRoomForWhatWouldBeRefused) {
  // Two halves on two cards; the whole one needs them together.
  const std::vector<TracePod> pods = {{"half", 1000, 1, 1, 500, ""},
                                      {"whole", 1000, 1, 1, 1000, ""}};
  const std::vector<TraceNode> nodes = {{"a", 8000, 1024, 1, "T4"}, {"b", 8000, 1024, 1, "T4"}};
  const TraceOrder order = {{0, 0, 1}, {0, 1}};
  const auto still = Replay(nodes, pods, order, {.policy = "least-allocated"});
  const auto moved = Replay(nodes, pods, order, {.policy = "least-allocated", .migrate = true});
  ASSERT_TRUE(still && moved);
  EXPECT_EQ(still->placed, 2u);
  EXPECT_EQ(still->moves, 0u);
  EXPECT_EQ(moved->placed, 3u);
  EXPECT_EQ(moved->moves, 1u);
  EXPECT_DOUBLE_EQ(moved->allocated[100], 100);
  EXPECT_EQ(Replay(nodes, pods, order, {.policy = "random", .migrate = true}).error().field(),
            "migrate");
}

TEST(Replay, RefusesWhatMakesNoSense) {
  const std::vector<TracePod> pods = {{"p", 1, 1, 1, 1000, ""}};
  EXPECT_EQ(Replay(kTwoNodes, pods, {{0}, {0, 1}}, {.policy = "x"}).error().field(), "policy");
  EXPECT_EQ(Replay(kTwoNodes, pods, {{0}, {0}}, {.policy = "fgd"}).error().field(), "sequence");
  EXPECT_EQ(Replay({{"a", 1, 1, 0, ""}}, pods, {{0}, {0}}, {.policy = "fgd"}).error().field(),
            "nodes");
}

}  // namespace
}  // namespace tessera::simulate
