#include "simulate/bound.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>

#include "base/rng.h"

namespace tessera::simulate {
namespace {

using placement::CardSet;
using placement::Fleet;
using placement::Shape;

// The most milli that any subset takes in any placement: every request is left out or put on every
// node and card that takes it.
std::int64_t Best(Fleet* fleet, const std::vector<Shape>& arrived, std::size_t next) {
  if (next == arrived.size()) return fleet->used_milli();
  std::int64_t best = Best(fleet, arrived, next + 1);
  const Shape& shape = arrived[next];
  for (std::uint32_t n = 0; n < fleet->nodes(); ++n) {
    const Fleet::Node& node = fleet->node(n);
    if (!fleet->Fits(node, shape)) continue;
    for (std::uint32_t mask = 0; mask < 1u << node.cards; ++mask) {
      if (std::popcount(mask) != static_cast<int>(shape.cards)) continue;
      CardSet set;
      bool fits = true;
      for (std::uint32_t c = 0; c < node.cards; ++c) {
        if ((mask >> c & 1) == 0) continue;
        fits &= fleet->cards(node)[c] >= shape.milli;
        set.index[set.count++] = static_cast<std::uint8_t>(c);
      }
      if (!fits) continue;
      fleet->Take(n, shape, set);
      best = std::max(best, Best(fleet, arrived, next + 1));
      fleet->Give(n, shape, set);
    }
  }
  return best;
}

TEST(AllocationBound, IsNeverBelowTheBestOfAllPlacementsOfAllSubsets) {
  constexpr std::uint64_t kSeed = 20260107;
  std::printf("seed %llu\n", static_cast<unsigned long long>(kSeed));
  Rng rng(kSeed);
  int reached = 0, below_full = 0;
  for (int round = 0; round < 1500; ++round) {
    Fleet fleet;
    for (std::uint64_t n = rng.Between(1, 2); n > 0; --n) {
      ASSERT_TRUE(fleet.AddNode("n", static_cast<std::int64_t>(rng.Between(2, 8)) * 1000, 100,
                                static_cast<std::uint32_t>(rng.Between(1, 2)), *fleet.KindOf("T4"),
                                0));
    }
    std::vector<Shape> arrived;
    for (std::uint64_t i = rng.Between(1, 5); i > 0; --i) {
      Shape shape{static_cast<std::int64_t>(rng.Between(0, 4)) * 1000, 1,
                  static_cast<std::uint32_t>(rng.Between(0, 2)), 0, 0};
      if (shape.cards == 1) shape.milli = static_cast<std::uint32_t>(rng.Between(1, 20)) * 50;
      if (shape.cards == 2) shape.milli = placement::kWholeCardMilli;
      arrived.push_back(shape);
    }
    const double bound = AllocationBound(fleet, arrived);
    const double best = 100.0 * static_cast<double>(Best(&fleet, arrived, 0)) /
                        static_cast<double>(fleet.capacity_milli());
    ASSERT_GE(bound, best - 1e-9) << "round " << round;
    reached += bound < best + 1e-9 ? 1 : 0;
    below_full += bound < 100 - 1e-9 ? 1 : 0;
  }
  std::printf("reached in %d rounds, below all cards in %d\n", reached, below_full);
  EXPECT_GT(reached, 100);
  EXPECT_GT(below_full, 100);
}

TEST(AllocationBound, SeesWasteThatNobodyCanFill) {
  Fleet fleet;
  ASSERT_TRUE(fleet.AddNode("n", 64'000, 100, 4, *fleet.KindOf("T4"), 0));
  EXPECT_DOUBLE_EQ(AllocationBound(fleet, std::vector<Shape>(9, Shape{0, 1, 1, 810, 0})), 81);
  EXPECT_DOUBLE_EQ(AllocationBound(fleet, std::vector<Shape>(9, Shape{0, 1, 1, 340, 0})), 68);
  EXPECT_DOUBLE_EQ(AllocationBound(fleet, std::vector<Shape>(2, Shape{0, 1, 1, 810, 0})), 40.5);
  EXPECT_DOUBLE_EQ(AllocationBound(fleet, std::vector<Shape>(9, Shape{32'000, 1, 1, 1000, 0})), 50);
  EXPECT_DOUBLE_EQ(AllocationBound(fleet, {}), 0);
}

}  // namespace
}  // namespace tessera::simulate
