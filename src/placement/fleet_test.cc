#include "placement/fleet.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <tuple>

#include "base/rng.h"
#include "placement/scores.h"
#include "placement/shape_index.h"

namespace tessera::placement {
namespace {

// A fleet of random nodes and a stream of random shapes, the same for the same seed.
struct World {
  explicit World(std::uint64_t seed, std::uint32_t nodes) : rng(seed) {
    for (const char* model : {"T4", "A10", "A100"}) EXPECT_TRUE(fleet.KindOf(model));
    std::vector<std::uint32_t> ranks(nodes);
    std::iota(ranks.begin(), ranks.end(), 0u);
    for (std::size_t i = nodes; i > 1; --i) std::swap(ranks[i - 1], ranks[rng.Below(i)]);
    for (std::uint32_t n = 0; n < nodes; ++n) {
      EXPECT_TRUE(fleet.AddNode("n" + std::to_string(n),
                                static_cast<std::int64_t>(rng.Between(8, 128)) * 1000,
                                static_cast<std::int64_t>(rng.Between(32, 1024)) * 1024,
                                static_cast<std::uint32_t>(rng.Between(0, 8)),
                                static_cast<std::uint32_t>(rng.Below(3)), ranks[n]));
    }
    for (int i = 0; i < 20; ++i) {
      Shape shape;
      shape.cpu_millis = static_cast<std::int64_t>(rng.Between(1, 16)) * 1000;
      shape.ram_bytes = static_cast<std::int64_t>(rng.Between(1, 64)) * 1024;
      shape.cards = static_cast<std::uint32_t>(rng.Below(4));
      if (shape.cards == 1) shape.milli = static_cast<std::uint32_t>(rng.Between(1, 10)) * 100;
      if (shape.cards > 1) shape.milli = kWholeCardMilli;
      if (shape.cards > 0 && rng.Chance(300)) shape.kinds = rng.Between(1, 7);
      shapes.push_back(shape);
    }
  }
  const Shape& Any() { return shapes[rng.Below(shapes.size())]; }

  Rng rng;
  Fleet fleet;
  std::vector<Shape> shapes;
};

TEST(Fleet, RefusesWhatItCannotHold) {
  Fleet fleet;
  const auto kind = fleet.KindOf("T4");
  ASSERT_TRUE(kind);
  const Status status = fleet.AddNode("n", 1000, 1024, kCardsPerNodeMax + 1, *kind, 0);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().field(), "cards");
  EXPECT_EQ(fleet.nodes(), 0u);
  for (int i = 1; i < 64; ++i) ASSERT_TRUE(fleet.KindOf("kind" + std::to_string(i)));
  EXPECT_EQ(fleet.KindOf("one too many").error().code(), Code::kResourceExhausted);
}

TEST(Fleet, FitsLooksAtEveryResource) {
  Fleet fleet;
  const std::uint32_t t4 = *fleet.KindOf("T4");
  ASSERT_TRUE(fleet.AddNode("n", 4000, 4096, 2, t4, 0));
  const Shape fits{4000, 4096, 2, 1000, 1};
  EXPECT_TRUE(fleet.Fits(fleet.node(0), fits));
  const auto without = [&](auto change) {
    Shape shape = fits;
    change(shape);
    return fleet.Fits(fleet.node(0), shape);
  };
  EXPECT_FALSE(without([](Shape& s) { s.cpu_millis = 4001; }));
  EXPECT_FALSE(without([](Shape& s) { s.ram_bytes = 4097; }));
  EXPECT_FALSE(without([](Shape& s) { s.cards = 3; }));
  EXPECT_FALSE(without([](Shape& s) { s.kinds = 2; }));
  CardSet first;
  first.count = 1;
  fleet.Take(0, {0, 0, 1, 1, 0}, first);
  EXPECT_FALSE(fleet.Fits(fleet.node(0), fits)) << "one card has 999 milli left";
  fleet.Give(0, {0, 0, 1, 1, 0}, first);
  EXPECT_TRUE(fleet.Fits(fleet.node(0), fits));
}

// Against a plain scan: whatever the index answers is what looking at every node would.
TEST(ShapeIndex, AnswersWhatAPlainScanDoes) {
  for (const std::string& name : ScorerNames()) {
    for (std::uint64_t seed = 1; seed <= 3; ++seed) {
      SCOPED_TRACE(name + ", seed " + std::to_string(seed));
      World world(seed, 60);
      auto scorer = *MakeScorer(name);
      ClassCounter counter;
      for (const Shape& shape : world.shapes) counter.Count(shape, "");
      scorer->Learn(counter, world.fleet);
      ShapeIndex index(world.fleet, *scorer);
      std::vector<std::tuple<std::uint32_t, Shape, CardSet>> held;
      for (int step = 0; step < 600; ++step) {
        if (!held.empty() && world.rng.Chance(300)) {
          const std::size_t at = world.rng.Below(held.size());
          const auto [node, shape, cards] = held[at];
          world.fleet.Give(node, shape, cards);
          index.Changed(node);
          held.erase(held.begin() + static_cast<std::ptrdiff_t>(at));
          continue;
        }
        const Shape& shape = world.Any();
        std::optional<std::uint32_t> best;
        std::int64_t best_score = 0;
        for (std::uint32_t n = 0; n < world.fleet.nodes(); ++n) {
          const Fleet::Node& node = world.fleet.node(n);
          if (!world.fleet.Fits(node, shape)) continue;
          CardSet cards;
          const std::int64_t score = scorer->Score(world.fleet, node, shape, &cards);
          if (best && (score < best_score ||
                       (score == best_score && node.rank > world.fleet.node(*best).rank))) {
            continue;
          }
          best = n;
          best_score = score;
        }
        const auto answer = index.Best(shape);
        ASSERT_EQ(answer.has_value(), best.has_value()) << "step " << step;
        if (!answer) continue;
        ASSERT_EQ(answer->node, *best) << "step " << step;
        ASSERT_EQ(answer->score, best_score);
        world.fleet.Take(answer->node, shape, answer->cards);  // checks that nothing is oversold
        index.Changed(answer->node);
        held.emplace_back(answer->node, shape, answer->cards);
      }
      for (const auto& [node, shape, cards] : held) world.fleet.Give(node, shape, cards);
      EXPECT_EQ(world.fleet.used_milli(), 0);
    }
  }
}

// The same over nodes with memory of their own, cards of several kinds and sizes, that come, go and
// change; and in the order in which a walk meets them.
TEST(ShapeIndex, WalksMixedNodesInTheOrderOfAPlainScan) {
  for (const std::string& name : ScorerNames()) {
    SCOPED_TRACE(name);
    Rng rng(99);
    Fleet fleet;
    for (const char* model : {"t4", "a10", "a100"}) ASSERT_TRUE(fleet.KindOf(model));
    const auto scorer = *MakeScorer(name);
    ShapeIndex index(fleet, *scorer);
    std::vector<Shape> shapes(12);
    ClassCounter counter;
    for (Shape& shape : shapes) {
      shape.cpu_millis = static_cast<std::int64_t>(rng.Below(8000));
      shape.cards = static_cast<std::uint32_t>(rng.Between(1, 3));
      shape.memory_bytes = rng.Between(1, 50'000'000'000);
      shape.compute = shape.milli = static_cast<std::uint32_t>(rng.Between(1, 1000));
      if (rng.Chance(300)) shape.kinds = rng.Between(1, 7);
      counter.Count(shape, "");
    }
    std::uint64_t walked = 0;
    for (std::uint64_t step = 0; step < 300; ++step) {
      std::uint32_t slot = static_cast<std::uint32_t>(rng.Below(40));
      const bool fresh = slot >= fleet.nodes();
      if (fresh) slot = *fleet.AddSlot();
      if (!fresh && rng.Chance(100)) {
        fleet.SetAbsent(slot);
        index.Changed(slot);
      } else {
        std::vector<Fleet::Card> cards(rng.Below(5));
        for (Fleet::Card& card : cards) {
          card.memory_bytes = card.slice_bytes_max = rng.Between(16, 80) * 1'000'000'000;
          card.memory_left = rng.Below(card.memory_bytes + 1);
          card.compute_left = static_cast<std::uint32_t>(rng.Below(1001));
          card.slices_left = 9;
          card.kind = static_cast<std::uint8_t>(rng.Below(3));
          card.modes = 1;
          card.healthy = !rng.Chance(100);
        }
        // Another rank in the same slot is another node.
        fleet.SetNode(slot, "n", rng.Next(), {64'000, 30'000, 0, 0, 0, 99, 1}, {}, cards);
        index.Replaced(slot);
      }
      if (step % 50 == 10 && scorer->Learn(counter, fleet)) index.Reset();
      const Shape& shape = shapes[rng.Below(shapes.size())];
      std::vector<std::tuple<std::int64_t, std::uint64_t, std::uint32_t>> scan;
      for (std::uint32_t n = 0; n < fleet.nodes(); ++n) {
        const Fleet::Node& node = fleet.node(n);
        if (!fleet.Fits(node, shape)) continue;
        CardSet cards;
        scan.emplace_back(-scorer->Score(fleet, node, shape, &cards), node.rank, n);
        ASSERT_EQ(cards.count, shape.cards);
      }
      std::sort(scan.begin(), scan.end());
      std::size_t at = 0;
      const auto nobody = index.FirstOf(shape, [&](std::uint32_t node) {
        EXPECT_LT(at, scan.size());
        if (at < scan.size()) {
          EXPECT_EQ(node, std::get<2>(scan[at]));
        }
        ++at;
        ++walked;
        return false;
      });
      ASSERT_FALSE(nobody);
      ASSERT_EQ(at, scan.size());
      ASSERT_FALSE(testing::Test::HasFailure()) << "step " << step;
    }
    EXPECT_GT(walked, 300u);
  }
}

TEST(ShapeIndex, ReadersWhoSleptThroughManyChangesStartOver) {
  World world(7, 16);
  auto scorer = *MakeScorer("bestfit");
  ShapeIndex index(world.fleet, *scorer);
  const Shape cpu{1000, 1024, 0, 0, 0};
  const auto first = index.Best(cpu);
  ASSERT_TRUE(first);
  CardSet none;
  for (int i = 0; i < 20'000; ++i) {
    world.fleet.Take(first->node, cpu, none);
    index.Changed(first->node);
    world.fleet.Give(first->node, cpu, none);
    index.Changed(first->node);
  }
  const auto again = index.Best(cpu);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->node, first->node);
}

TEST(Classes, TypicalOnesCoverWhatIsAskedAndAddUp) {
  ClassCounter counter;
  const auto count = [&](int times, Shape shape, const char* type) {
    for (int i = 0; i < times; ++i) counter.Count(shape, type);
  };
  count(6, {1000, 5, 1, 500, 0}, "");
  count(3, {2000, 6, 1, 1000, 0}, "");
  count(1, {3000, 7, 8, 1000, 0}, "");
  const auto typical = counter.Typical(900);
  ASSERT_EQ(typical.size(), 2u);
  EXPECT_EQ(typical[0].shape.milli, 500u);
  EXPECT_DOUBLE_EQ(typical[0].weight, 6.0 / 9);
  EXPECT_DOUBLE_EQ(typical[0].weight + typical[1].weight, 1);
  EXPECT_EQ(counter.Typical(1000).size(), 3u);
}

// By hand: a node of two cards with 400 and 1000 milli and 4 cores left.
TEST(Fragmentation, IsWhatARandomTaskCannotUse) {
  const std::uint16_t left[] = {400, 1000};
  const FragmentView node{4000, 0, 2, 1400, left};
  const auto of = [&](const Shape& shape) { return Fragmentation({{shape, "", 1.0}}).Of(node); };
  EXPECT_DOUBLE_EQ(of({1000, 0, 1, 500, 0}), 400) << "the small card is lost";
  EXPECT_DOUBLE_EQ(of({1000, 0, 1, 400, 0}), 0);
  EXPECT_DOUBLE_EQ(of({5000, 0, 1, 400, 0}), 1400) << "no cores for it";
  EXPECT_DOUBLE_EQ(of({1000, 0, 2, 1000, 0}), 1400) << "two whole cards are not there";
  EXPECT_DOUBLE_EQ(of({1000, 0, 1, 400, 2}), 1400) << "the wrong kind";
  EXPECT_DOUBLE_EQ(of({1000, 0, 0, 0, 0}), 1400) << "a task without a card uses none";
}

// Two fleets of two empty nodes, alike but for one request in 200 that wants a node of its own: too
// rare for the typical classes, and yet a place for it is not given away for nothing.
TEST(Scorers, OursPricesThePlacesOfRareLargeRequests) {
  Fleet fleet;
  const std::uint32_t kind = *fleet.KindOf("T4");
  for (std::uint32_t n = 0; n < 2; ++n) {
    ASSERT_TRUE(fleet.AddNode("n" + std::to_string(n), 64'000, 65'536, 8, kind, n));
  }
  const Shape small{1000, 1024, 1, 1000, 0};
  const Shape large{32'000, 1024, 8, 1000, 0};
  const auto score = [&](int larges, const Shape& shape) {
    ClassCounter counter;
    for (int i = larges; i < 200; ++i) counter.Count(small, "");
    for (int i = 0; i < larges; ++i) counter.Count(large, "");
    const auto scorer = *MakeScorer("tessera");
    scorer->Learn(counter, fleet);
    CardSet cards;
    return scorer->Score(fleet, fleet.node(0), shape, &cards);
  };
  EXPECT_LT(score(1, small), score(0, small));
  // Nearly full, nothing more is expected.
  fleet.Take(1, large, LowestFree(fleet, fleet.node(1), large));
  const Shape seven{1000, 1024, 7, 1000, 0};
  fleet.Take(0, seven, LowestFree(fleet, fleet.node(0), seven));
  EXPECT_EQ(score(1, small), score(0, small));
}

TEST(Scorers, HamiTakesTheFullestNodeAndItsEmptiestCard) {
  Fleet fleet;
  const std::uint32_t kind = *fleet.KindOf("T4");
  for (std::uint32_t n = 0; n < 2; ++n) {
    ASSERT_TRUE(fleet.AddNode("n" + std::to_string(n), 64'000, 65'536, 2, kind, n));
  }
  CardSet first;
  first.count = 1;
  const Shape half{1000, 1024, 1, 500, 0};
  fleet.Take(1, half, first);
  const auto scorer = *MakeScorer("hami");
  ShapeIndex index(fleet, *scorer);
  const auto choice = index.Best(half);
  ASSERT_TRUE(choice);
  EXPECT_EQ(choice->node, 1u);
  EXPECT_EQ(choice->cards.index[0], 1u);
  const auto cpu_only = index.Best({1000, 1024, 0, 0, 0});
  ASSERT_TRUE(cpu_only);
  EXPECT_EQ(cpu_only->node, 0u) << "without cards the least allocated node";
}

TEST(ShapeIndex, ListsAllThatAreAsGoodAsTheBest) {
  Fleet fleet;
  const std::uint32_t kind = *fleet.KindOf("T4");
  for (std::uint32_t n = 0; n < 5; ++n) {
    ASSERT_TRUE(fleet.AddNode("n" + std::to_string(n), 64'000, 65'536, n == 3 ? 8 : 4, kind, n));
  }
  const auto scorer = *MakeScorer("bestfit");
  ShapeIndex index(fleet, *scorer);
  std::vector<std::uint32_t> tied = {9};
  index.Tied({1000, 1024, 4, 1000, 0}, &tied);
  EXPECT_EQ(tied, (std::vector<std::uint32_t>{0, 1, 2, 4}));
  index.Tied({1000, 1024, 9, 1000, 0}, &tied);
  EXPECT_TRUE(tied.empty());
}

TEST(Scorers, AnUnknownNameIsRefusedWithTheList) {
  const auto none = MakeScorer("best");
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().field(), "policy");
  for (const std::string& name : ScorerNames()) {
    EXPECT_NE(none.error().message().find(name), std::string::npos);
  }
}

// What free capacity is lost to fragmentation, and A16: packing loses no more of it than spreading.

TEST(Unusable, IsWhatNoSkuFits) {
  Fleet fleet;
  const std::uint32_t t4 = *fleet.KindOf("T4");
  ASSERT_TRUE(fleet.AddNode("a", 8000, 100, 2, t4, 0));
  const Shape third{1000, 1, 1, 333, 0}, pair{1000, 1, 2, 1000, 0};
  EXPECT_EQ(UnusableMilli(fleet, {third, pair}), 0);
  EXPECT_EQ(UnusableMilli(fleet, {}), 2000) << "nothing is sold";
  CardSet first;
  first.count = 1;
  fleet.Take(0, {1000, 1, 1, 800, 0}, first);
  EXPECT_EQ(UnusableMilli(fleet, {third, pair}), 200) << "a sliver on the first card";
  EXPECT_EQ(UnusableMilli(fleet, {pair}), 1200) << "no two whole cards are left";
  EXPECT_EQ(UnusableMilli(fleet, {Shape{1000, 1, 1, 333, 2}}), 1200) << "another model";
  fleet.Take(0, {7000, 1, 0, 0, 0}, {});
  EXPECT_EQ(UnusableMilli(fleet, {third, pair}), 1200) << "no cores are left";
}

TEST(Unusable, ACardFullOfSharesThatDoNotDivideItIsFull) {
  for (const std::uint32_t pieces : {3u, 6u, 7u, 9u}) {
    Fleet fleet;
    ASSERT_TRUE(fleet.AddNode("a", 64'000, 100, 2, *fleet.KindOf("T4"), 0));
    const Shape share{1000, 1, 1, kWholeCardMilli / pieces, 0};
    CardSet first;
    first.count = 1;
    for (std::uint32_t i = 0; i < pieces; ++i) {
      fleet.Take(0, share, first);
      const bool full = i + 1 == pieces;
      EXPECT_EQ(fleet.cards(fleet.node(0))[0] < share.milli, full);
      EXPECT_EQ(UnusableMilli(fleet, {share}), 0) << i + 1 << " of " << pieces;
    }
  }
  Fleet fleet;
  ASSERT_TRUE(fleet.AddNode("a", 64'000, 100, 1, *fleet.KindOf("T4"), 0));
  CardSet first;
  first.count = 1;
  const Shape share{1000, 1, 1, 330, 0};
  for (int i = 0; i < 3; ++i) fleet.Take(0, share, first);
  EXPECT_EQ(UnusableMilli(fleet, {share}), 10) << "a hundredth that is sold nowhere is lost";
}

TEST(Unusable, PackingLosesNoMoreThanSpreading) {
  const Shape quarter{1000, 1, 1, 250, 0}, third{1000, 1, 1, 333, 0}, half{1000, 1, 1, 500, 0};
  const Shape whole{1000, 1, 1, 1000, 0}, four{2000, 1, 4, 1000, 0};
  // What arrives, each as often as the next, until so much of the cards has arrived; what is sold.
  const auto lost = [&](const char* policy, const std::vector<Shape>& arriving,
                        const std::vector<Shape>& skus, std::int64_t percent) {
    Fleet fleet;
    const std::uint32_t t4 = *fleet.KindOf("T4");
    for (std::uint32_t n = 0; n < 16; ++n) {
      EXPECT_TRUE(fleet.AddNode("n" + std::to_string(n), 64'000, 1000, 4, t4, n));
    }
    const auto scorer = *MakeScorer(policy);
    ShapeIndex index(fleet, *scorer);
    ClassCounter counter;
    Rng rng(16);
    std::int64_t arrived = 0;
    while (arrived * 100 < fleet.capacity_milli() * percent) {
      const Shape& shape = arriving[rng.Below(arriving.size())];
      arrived += shape.total_milli();
      counter.Count(shape, "");
      if (counter.total() % 10 == 0 && scorer->Learn(counter, fleet)) index.Reset();
      const auto choice = index.Best(shape);
      if (!choice) continue;
      fleet.Take(choice->node, shape, choice->cards);
      index.Changed(choice->node);
    }
    return UnusableMilli(fleet, skus);
  };
  for (const std::int64_t percent : {25, 50, 75, 90, 99}) {
    SCOPED_TRACE(percent);
    for (const std::vector<Shape>& skus :
         {std::vector<Shape>{quarter}, {quarter, half, four}, {third}, {third, four}}) {
      std::vector<Shape> shares = skus;
      if (shares.back() == four) shares.pop_back();
      for (const char* binpack : {"packing", "bestfit", "binpack", "tessera"}) {
        for (const char* spread : {"spread", "least-allocated"}) {
          EXPECT_LE(lost(binpack, shares, skus, percent), lost(spread, shares, skus, percent))
              << binpack << " " << spread;
          EXPECT_LE(lost(binpack, shares, {four}, percent), lost(spread, shares, {four}, percent))
              << binpack << " " << spread;
        }
      }
      if (percent <= 75) {
        EXPECT_LT(lost("packing", shares, {four}, percent),
                  lost("spread", shares, {four}, percent) / 2)
            << "spreading leaves hardly a node with four free cards";
      }
    }
  }
  // Thirds and halves do not divide a card together: who packs without a look at what arrives
  // leaves a sixth beside every pair, who spreads meets the same pairs when the fleet fills up.
  const std::vector<Shape> sold = {third, half, whole};
  EXPECT_LT(lost("tessera", sold, sold, 99) * 3, lost("spread", sold, sold, 99));
  EXPECT_LT(lost("tessera", sold, sold, 99) * 3, lost("packing", sold, sold, 99));
}

}  // namespace
}  // namespace tessera::placement
