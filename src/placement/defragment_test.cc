#include "placement/defragment.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/rng.h"

namespace tessera::placement {
namespace {

constexpr Shape kHalf{1000, 1, 1, 500, 0}, kWhole{1000, 1, 1, 1000, 0}, kPair{2000, 1, 2, 1000, 0};

struct World {
  Fleet fleet;
  std::vector<Held> held;
  std::unique_ptr<Scorer> scorer = *MakeScorer("bestfit");

  void Node(std::uint32_t cards, std::int64_t cores = 64, const char* model = "T4") {
    const std::uint32_t kind = *fleet.KindOf(model);
    ASSERT_TRUE(fleet.AddNode("n" + std::to_string(fleet.nodes()), cores * 1000, 1 << 20, cards,
                              kind, fleet.nodes()));
  }
  Held& Put(std::uint32_t node, const Shape& shape, std::vector<std::uint8_t> cards) {
    CardSet set;
    for (const std::uint8_t card : cards) set.index[set.count++] = card;
    fleet.Take(node, shape, set);
    held.push_back({node, shape, set, false, 1});
    return held.back();
  }
  std::optional<Room> MakeRoom(const Shape& shape, std::uint32_t moves = 1) {
    return placement::MakeRoom(&fleet, held, shape, *scorer, moves);
  }
};

// All there is to see of a fleet.
std::vector<std::int64_t> Contents(const Fleet& fleet) {
  std::vector<std::int64_t> all = {fleet.used_milli()};
  for (std::uint32_t n = 0; n < fleet.nodes(); ++n) {
    const Fleet::Node& node = fleet.node(n);
    all.insert(all.end(), {node.cpu_left, node.ram_left, node.milli_left, node.placed});
    all.insert(all.end(), fleet.cards(node), fleet.cards(node) + node.cards);
  }
  return all;
}

// Carries a plan out step by step; every step has to fit with the old place still held.
void Carry(World* world, const std::vector<Move>& moves) {
  for (const Move& move : moves) {
    ASSERT_LT(move.held, world->held.size());
    Held& one = world->held[move.held];
    ASSERT_FALSE(one.pinned);
    ASSERT_EQ(move.cards.count, one.shape.cards);
    const Fleet::Node& to = world->fleet.node(move.node);
    if (one.shape.kinds != 0 && one.shape.cards > 0) {
      ASSERT_NE(one.shape.kinds >> to.kind & 1, 0u);
    }
    if (move.node != one.node) {
      ASSERT_GE(to.cpu_left, one.shape.cpu_millis);
      ASSERT_GE(to.ram_left, one.shape.ram_bytes);
    }
    for (std::uint32_t c = 0; c < move.cards.count; ++c) {
      ASSERT_LT(move.cards.index[c], to.cards);
      ASSERT_GE(world->fleet.cards(to)[move.cards.index[c]], one.shape.milli);
      for (std::uint32_t d = 0; d < c; ++d) ASSERT_NE(move.cards.index[c], move.cards.index[d]);
    }
    world->fleet.Give(one.node, one.shape, one.cards);
    world->fleet.Take(move.node, one.shape, move.cards);
    one.node = move.node;
    one.cards = move.cards;
  }
}

TEST(MakeRoom, MovesOneShareOutOfTheWay) {
  World world;
  world.Node(1);
  world.Node(1);
  world.Put(0, kHalf, {0});
  world.Put(1, kHalf, {0});
  const auto room = world.MakeRoom(kWhole);
  ASSERT_TRUE(room);
  ASSERT_EQ(room->moves.size(), 1u);
  EXPECT_EQ(room->moves[0].held, 0u) << "equal costs: the node of the lower rank is cleared";
  EXPECT_EQ(room->node, 0u);
  EXPECT_FALSE(world.MakeRoom(kWhole, 0)) << "no moves allowed";
  world.held[0].cost = 2;
  EXPECT_EQ(world.MakeRoom(kWhole)->node, 1u) << "the cheaper one moves";
  world.held[1].pinned = true;
  EXPECT_EQ(world.MakeRoom(kWhole)->node, 0u);
  world.held[0].pinned = true;
  EXPECT_FALSE(world.MakeRoom(kWhole));
}

TEST(MakeRoom, AShareMayChangeItsCardOnItsNode) {
  World world;
  world.Node(2, 3);
  world.Put(0, kHalf, {0});
  world.Put(0, kHalf, {1});
  const auto room = world.MakeRoom(kWhole);
  ASSERT_TRUE(room);
  ASSERT_EQ(room->moves.size(), 1u);
  EXPECT_EQ(room->moves[0].node, 0u);
  Carry(&world, room->moves);
  EXPECT_TRUE(world.fleet.Fits(world.fleet.node(0), kWhole));
}

TEST(MakeRoom, TakesMoreMovesOnlyWhenFewerDoNotDo) {
  World world;
  for (int i = 0; i < 3; ++i) world.Node(2);
  for (std::uint32_t n = 0; n < 3; ++n) world.Put(n, kWhole, {0});
  world.Put(2, kHalf, {1});
  EXPECT_EQ(world.MakeRoom(kPair, 4)->moves.size(), 1u);
  world.Put(0, kHalf, {1});
  world.Put(1, kHalf, {1});
  // Now every node holds a whole and a half, and no whole card is free anywhere.
  EXPECT_FALSE(world.MakeRoom(kPair, 4));
  const auto one = world.MakeRoom(kWhole, 4);
  ASSERT_TRUE(one);
  EXPECT_EQ(one->moves.size(), 1u);
  World two;
  two.Node(2);
  two.Node(2);
  two.Put(0, kHalf, {0});
  two.Put(0, kHalf, {1});
  two.Put(1, kHalf, {0});
  two.Put(1, kHalf, {1});
  EXPECT_FALSE(two.MakeRoom(kPair, 1));
  const auto pair = two.MakeRoom(kPair, 2);
  ASSERT_TRUE(pair);
  EXPECT_EQ(pair->moves.size(), 2u);
  EXPECT_EQ(pair->cost, 2u);
}

TEST(EmptyCards, GathersSharesWithoutBreakingIntoAFreeCard) {
  World world;
  world.Node(3);
  world.Put(0, kHalf, {0});
  world.Put(0, kHalf, {1});
  const Emptied emptied = EmptyCards(&world.fleet, world.held, 16);
  ASSERT_EQ(emptied.moves.size(), 1u);
  EXPECT_EQ(emptied.cards, 1u);
  EXPECT_TRUE(EmptyCards(&world.fleet, world.held, 0).moves.empty());
  world.held[0].pinned = true;
  EXPECT_EQ(EmptyCards(&world.fleet, world.held, 16).moves[0].held, 1u);
}

// ---- small random fleets, against trying everything ----

World RandomWorld(Rng* rng) {
  World world;
  const std::uint64_t nodes = rng->Between(1, 3);
  for (std::uint64_t n = 0; n < nodes; ++n) {
    world.Node(static_cast<std::uint32_t>(rng->Between(0, 3)),
               static_cast<std::int64_t>(rng->Between(2, 8)), rng->Chance(500) ? "T4" : "A10");
  }
  return world;
}

Shape RandomShape(Rng* rng) {
  Shape shape;
  shape.cpu_millis = static_cast<std::int64_t>(rng->Between(0, 4)) * 1000;
  shape.ram_bytes = 1;
  shape.cards = static_cast<std::uint32_t>(rng->Between(0, 2));
  if (shape.cards == 1) shape.milli = static_cast<std::uint32_t>(rng->Between(1, 4)) * 250;
  if (shape.cards == 2) shape.milli = kWholeCardMilli;
  if (shape.cards > 0 && rng->Chance(300)) shape.kinds = rng->Between(1, 2);
  return shape;
}

void Fill(World* world, Rng* rng) {
  for (int i = 0; i < 8; ++i) {
    const Shape shape = RandomShape(rng);
    const auto node = static_cast<std::uint32_t>(rng->Below(world->fleet.nodes()));
    if (!world->fleet.Fits(world->fleet.node(node), shape)) continue;
    CardSet cards = LowestFree(world->fleet, world->fleet.node(node), shape);
    if (shape.shared() && rng->Chance(500)) {
      // Spread: the emptiest card.
      const std::uint16_t* left = world->fleet.cards(world->fleet.node(node));
      cards.index[0] = static_cast<std::uint8_t>(
          std::max_element(left, left + world->fleet.node(node).cards) - left);
    }
    world->fleet.Take(node, shape, cards);
    world->held.push_back({node, shape, cards, rng->Chance(150), rng->Between(1, 5)});
  }
}

bool FitsAnywhere(const Fleet& fleet, const Shape& shape) {
  for (std::uint32_t n = 0; n < fleet.nodes(); ++n) {
    if (fleet.Fits(fleet.node(n), shape)) return true;
  }
  return false;
}

// The lowest cost of any sequence of at most so many moves after which the shape fits somewhere.
std::optional<std::uint64_t> Cheapest(Fleet* fleet, std::vector<Held>* held, const Shape& shape,
                                      std::uint32_t moves) {
  if (FitsAnywhere(*fleet, shape)) return 0;
  if (moves == 0) return std::nullopt;
  std::optional<std::uint64_t> best;
  for (Held& one : *held) {
    if (one.pinned) continue;
    for (std::uint32_t n = 0; n < fleet->nodes(); ++n) {
      const Fleet::Node& node = fleet->node(n);
      std::vector<CardSet> ways;
      if (n == one.node || one.shape.cards == 1) {
        for (std::uint32_t c = 0; c < node.cards && one.shape.cards == 1; ++c) {
          if (n == one.node
                  ? c == one.cards.index[0] || fleet->cards(node)[c] < one.shape.milli
                  : !fleet->Fits(node, one.shape) || fleet->cards(node)[c] < one.shape.milli) {
            continue;
          }
          CardSet set;
          set.count = 1;
          set.index[0] = static_cast<std::uint8_t>(c);
          ways.push_back(set);
        }
      } else if (fleet->Fits(node, one.shape)) {
        ways.push_back(LowestFree(*fleet, node, one.shape));
      }
      for (const CardSet& cards : ways) {
        const Held before = one;
        fleet->Give(one.node, one.shape, one.cards);
        fleet->Take(n, one.shape, cards);
        one.node = n;
        one.cards = cards;
        const auto rest = Cheapest(fleet, held, shape, moves - 1);
        fleet->Give(one.node, one.shape, one.cards);
        fleet->Take(before.node, before.shape, before.cards);
        one = before;
        if (rest && (!best || *rest + one.cost < *best)) best = *rest + one.cost;
      }
    }
  }
  return best;
}

TEST(MakeRoomProperty, EveryStepFitsAndOneMoveIsFoundWhenThereIsOne) {
  constexpr std::uint64_t kSeed = 20260105;
  std::printf("seed %llu\n", static_cast<unsigned long long>(kSeed));
  Rng rng(kSeed);
  int with_one = 0, with_two = 0, missed_two = 0, none = 0;
  for (int round = 0; round < 100'000; ++round) {
    World world = RandomWorld(&rng);
    Fill(&world, &rng);
    const Shape shape = RandomShape(&rng);
    const bool fits = FitsAnywhere(world.fleet, shape);
    const std::vector<std::int64_t> before = Contents(world.fleet);
    const auto one = world.MakeRoom(shape, 1);
    ASSERT_EQ(Contents(world.fleet), before) << "round " << round;
    const auto cheapest = Cheapest(&world.fleet, &world.held, shape, 1);
    ASSERT_EQ(one.has_value(), cheapest.has_value()) << "round " << round;
    std::optional<Room> plan = one;
    if (one) {
      ASSERT_EQ(one->cost, *cheapest) << "round " << round;
      ASSERT_EQ(one->moves.size(), fits ? 0u : 1u);
      with_one += fits ? 0 : 1;
    } else {
      plan = world.MakeRoom(shape, 2);
      ASSERT_EQ(Contents(world.fleet), before) << "round " << round;
      const auto both = Cheapest(&world.fleet, &world.held, shape, 2);
      if (plan) {
        ASSERT_TRUE(both);
        ASSERT_GE(plan->cost, *both);
      }
      missed_two += both && !plan ? 1 : 0;
      with_two += both && plan ? 1 : 0;
      none += plan ? 0 : 1;
    }
    if (!plan) continue;
    Carry(&world, plan->moves);
    if (HasFatalFailure()) FAIL() << "round " << round;
    ASSERT_EQ(world.fleet.used_milli(), before[0]) << "nothing gained or lost";
    const Fleet::Node& node = world.fleet.node(plan->node);
    ASSERT_TRUE(world.fleet.Fits(node, shape)) << "round " << round;
    for (std::uint32_t c = 0; c < plan->cards.count; ++c) {
      ASSERT_GE(world.fleet.cards(node)[plan->cards.index[c]], shape.milli);
    }
    world.fleet.Take(plan->node, shape, plan->cards);
  }
  std::printf("one move %d, two moves %d, two moves overlooked %d, no plan %d\n", with_one,
              with_two, missed_two, none);
  EXPECT_GT(with_one, 500);
  EXPECT_GT(with_two, 50);
  EXPECT_EQ(missed_two, 0);
}

TEST(EmptyCardsProperty, FreesAsManyCardsAsItSaysAndNeverLosesOne) {
  constexpr std::uint64_t kSeed = 20260106;
  std::printf("seed %llu\n", static_cast<unsigned long long>(kSeed));
  Rng rng(kSeed);
  int freed = 0;
  const auto free_cards = [](const Fleet& fleet) {
    std::uint32_t free = 0;
    for (std::uint32_t n = 0; n < fleet.nodes(); ++n) {
      const Fleet::Node& node = fleet.node(n);
      free += static_cast<std::uint32_t>(
          std::count(fleet.cards(node), fleet.cards(node) + node.cards, kWholeCardMilli));
    }
    return free;
  };
  for (int round = 0; round < 20'000; ++round) {
    World world = RandomWorld(&rng);
    Fill(&world, &rng);
    const std::vector<std::int64_t> before = Contents(world.fleet);
    const std::uint32_t free = free_cards(world.fleet);
    const auto moves_max = static_cast<std::uint32_t>(rng.Between(0, 4));
    const Emptied emptied = EmptyCards(&world.fleet, world.held, moves_max);
    ASSERT_EQ(Contents(world.fleet), before);
    ASSERT_LE(emptied.moves.size(), moves_max);
    std::uint64_t cost = 0;
    for (const Move& move : emptied.moves) cost += world.held[move.held].cost;
    ASSERT_EQ(emptied.cost, cost);
    Carry(&world, emptied.moves);
    if (HasFatalFailure()) FAIL() << "round " << round;
    ASSERT_EQ(free_cards(world.fleet), free + emptied.cards) << "round " << round;
    ASSERT_EQ(world.fleet.used_milli(), before[0]);
    freed += static_cast<int>(emptied.cards);
  }
  EXPECT_GT(freed, 500);
}

}  // namespace
}  // namespace tessera::placement
