#include "placement/engine.h"
#include "placement/test_answer.h"

#include <gtest/gtest.h>

#include <cmath>

namespace tessera::placement {
namespace {

device::Card MakeCard(std::string uuid, std::uint64_t memory = 24 * kGiB,
                      std::string model = "NVIDIA A10") {
  device::Card card;
  card.uuid = std::move(uuid);
  card.model = std::move(model);
  card.memory_bytes = memory;
  return card;
}

NodeInventory MakeNode(std::string name, std::vector<device::Card> cards, std::uint32_t cpu = 64000,
                       std::uint64_t ram = 256 * kGiB) {
  return {std::move(name), cpu, ram, std::move(cards)};
}

Request Ask(std::string id, std::uint64_t memory = 8 * kGiB, std::uint32_t permille = 333) {
  Request request;
  request.id = std::move(id);
  request.memory_bytes = memory;
  request.compute = {permille};
  request.cpu_millis = 1000;
  request.ram_bytes = kGiB;
  return request;
}

// "node/card+card" of a placement, or "!resource" of a scarcity.
std::string Where(const Answer& answer) {
  if (const auto* scarcity = std::get_if<Scarcity>(&answer)) return "!" + scarcity->resource;
  const auto& placement = std::get<Placement>(answer);
  std::string text = placement.node + "/";
  for (std::size_t i = 0; i < placement.shares.size(); ++i) {
    text += (i > 0 ? "+" : "") + placement.shares[i].card_uuid;
  }
  return text;
}

Scarcity Scarce(const Answer& answer) {
  const auto* scarcity = std::get_if<Scarcity>(&answer);
  EXPECT_NE(scarcity, nullptr) << Where(answer);
  return scarcity != nullptr ? *scarcity : Scarcity();
}

// Whether nothing has arrived before or the same ever again: the equal cards of a node are filled
// one after another.
TEST(Engine, ThirdsFillOneCardAfterAnother) {
  for (const char* policy : {"binpack", "tessera"}) {
    for (const bool learns : {false, true}) {
      for (const int cards : {1, 2, 8}) {
        SCOPED_TRACE(std::string(policy) + ", cards " + std::to_string(cards));
        Engine engine;
        ASSERT_TRUE(engine.SetPolicy("", policy));
        std::vector<device::Card> has;
        for (int c = 0; c < cards; ++c) has.push_back(MakeCard("c" + std::to_string(c)));
        ASSERT_TRUE(engine.UpdateNode(MakeNode("n", has)));
        for (int i = 0; i < 3 * cards; ++i) {
          if (learns) engine.Learn();
          ASSERT_EQ(Where(Place(engine, Ask("i" + std::to_string(i)))),
                    "n/c" + std::to_string(i / 3))
              << i;
        }
        // One in the middle goes: its place is taken before an emptier card's.
        ASSERT_TRUE(engine.Release("i0"));
        ASSERT_TRUE(engine.Release("i1"));
        ASSERT_TRUE(engine.Release("i" + std::to_string(3 * cards - 1)));
        if (learns) engine.Learn();
        if (cards > 1) {
          EXPECT_EQ(Where(Place(engine, Ask("x"))), "n/c" + std::to_string(cards - 1));
        }
      }
    }
  }
}

TEST(Engine, SixThirdsFillTwoCardsAndTheSeventhNamesTheScarceThing) {
  Engine engine;
  ASSERT_TRUE(engine.UpdateNode(MakeNode("n", {MakeCard("b"), MakeCard("a")})));
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(Where(Place(engine, Ask("i" + std::to_string(i)))), i < 3 ? "n/a" : "n/b");
  }
  const Scarcity scarcity = Scarce(Place(engine, Ask("i6")));
  EXPECT_EQ(scarcity.resource, "memory");
  EXPECT_EQ(scarcity.asked, 8 * kGiB);
  EXPECT_EQ(scarcity.available, 0u);
  EXPECT_FALSE(scarcity.never);
  EXPECT_EQ(scarcity.message,
            "memory: asked 8 GiB a card, 8 GiB short on the best card (0 B free)");
  EXPECT_TRUE(engine.Release("i1"));
  EXPECT_FALSE(engine.Release("i1"));
  EXPECT_EQ(Where(Place(engine, Ask("i6"))), "n/a");
}

TEST(Engine, TheMessageSaysHowMuchIsShort) {
  Engine engine;
  ASSERT_TRUE(engine.UpdateNode(MakeNode("n", {MakeCard("a", 80 * kGiB)})));
  EXPECT_EQ(Where(Place(engine, Ask("x", 56 * kGiB, 500))), "n/a");
  EXPECT_EQ(Scarce(Place(engine, Ask("y", 26 * kGiB, 500))).message,
            "memory: asked 26 GiB a card, 2 GiB short on the best card (24 GiB free)");
  EXPECT_EQ(Scarce(Place(engine, Ask("y", 20 * kGiB, 600))).message,
            "compute: asked 60% a card, 10% short on the best card (50% free)");
}

TEST(Engine, PlacesARequestOncePerId) {
  Engine engine;
  ASSERT_TRUE(engine.UpdateNode(MakeNode("n", {MakeCard("a")})));
  const auto first = Place(engine, Ask("x"));
  EXPECT_EQ(Where(Place(engine, Ask("x"))), Where(first));
  EXPECT_EQ(engine.reservations(), 1u);
  EXPECT_EQ(engine.Nodes()[0].cards[0].reserved_bytes, 8 * kGiB);
  EXPECT_EQ(engine.Nodes()[0].cpu_reserved_millis, 1000u);
  EXPECT_EQ(engine.Nodes()[0].ram_reserved_bytes, kGiB);
}

TEST(Engine, ConsiderReservesNothing) {
  Engine engine;
  ASSERT_TRUE(engine.UpdateNode(MakeNode("n", {MakeCard("a")})));
  EXPECT_EQ(Where(Consider(engine, Ask("x"))), "n/a");
  EXPECT_EQ(engine.reservations(), 0u);
}

TEST(Engine, NodePolicies) {
  Engine engine;
  ASSERT_TRUE(engine.UpdateNode(MakeNode("b", {MakeCard("b1")})));
  ASSERT_TRUE(engine.UpdateNode(MakeNode("a", {MakeCard("a1")})));
  Request request = Ask("first");
  EXPECT_EQ(Where(Place(engine, request)), "a/a1");  // a tie: the smaller name
  request.id = "packed";
  EXPECT_EQ(Where(Place(engine, request)), "a/a1");
  request.id = "spread";
  request.node_policy = Policy::kSpread;
  EXPECT_EQ(Where(Place(engine, request)), "b/b1");
}

TEST(Engine, CardPolicies) {
  Engine engine;
  ASSERT_TRUE(engine.UpdateNode(MakeNode("n", {MakeCard("a"), MakeCard("b"), MakeCard("c")})));
  Request request = Ask("one");
  request.card_policy = Policy::kSpread;
  EXPECT_EQ(Where(Place(engine, request)), "n/a");
  request.id = "two";
  EXPECT_EQ(Where(Place(engine, request)), "n/b");
  request.id = "three";
  request.card_policy = Policy::kBinpack;
  EXPECT_EQ(Where(Place(engine, request)), "n/a");
  request.id = "four";
  request.slices = 2;
  EXPECT_EQ(Where(Place(engine, request)), "n/a+b");
  request.id = "five";
  request.card_policy = Policy::kSpread;
  EXPECT_EQ(Where(Place(engine, request)), "n/c+b");
}

TEST(Engine, SlicesOfARequestAreOnDistinctCardsOfOneNode) {
  Engine engine;
  ASSERT_TRUE(engine.UpdateNode(MakeNode("m", {MakeCard("m1")})));
  ASSERT_TRUE(engine.UpdateNode(MakeNode("n", {MakeCard("n1"), MakeCard("n2")})));
  Request request = Ask("x", kGiB, 10);
  request.slices = 3;
  const Scarcity three = Scarce(Place(engine, request));
  EXPECT_EQ(three.resource, "cards");
  EXPECT_EQ(three.asked, 3u);
  EXPECT_EQ(three.available, 2u);
  EXPECT_TRUE(three.never);
  request.slices = 2;
  EXPECT_EQ(Where(Place(engine, request)), "n/n1+n2");
}

TEST(Engine, CpuAndRamAreCountedForTheWholeRequest) {
  Engine engine;
  ASSERT_TRUE(engine.UpdateNode(MakeNode("n", {MakeCard("a")}, 2000, 4 * kGiB)));
  Request request = Ask("x", kGiB, 10);
  request.cpu_millis = 1500;
  request.ram_bytes = 3 * kGiB;
  EXPECT_EQ(Where(Place(engine, request)), "n/a");
  request.id = "y";
  request.ram_bytes = kGiB;
  EXPECT_EQ(Scarce(Place(engine, request)).message,
            "cpu: asked 1500 CPU millis, 1000 short on the best node (500 free)");
  request.cpu_millis = 500;
  request.ram_bytes = 2 * kGiB;
  const Scarcity ram = Scarce(Place(engine, request));
  EXPECT_EQ(ram.message, "ram: asked 2 GiB, 1 GiB short on the best node (1 GiB free)");
  EXPECT_FALSE(ram.never);
  request.ram_bytes = 5 * kGiB;
  EXPECT_EQ(Scarce(Place(engine, request)).message,
            "ram: asked 5 GiB, 1 GiB short on the best node (4 GiB in all)");
  EXPECT_TRUE(Scarce(Place(engine, request)).never);
}

TEST(Engine, ModelAndUuidNarrowTheChoice) {
  Engine engine;
  ASSERT_TRUE(engine.UpdateNode(
      MakeNode("n", {MakeCard("a"), MakeCard("b", 80 * kGiB, "NVIDIA A100-80GB")})));
  Request request = Ask("x");
  request.model = "a100";
  EXPECT_EQ(Where(Place(engine, request)), "n/b");
  request.id = "y";
  request.model = "H200";
  const Scarcity model = Scarce(Place(engine, request));
  EXPECT_EQ(model.resource, "model");
  EXPECT_TRUE(model.never);
  EXPECT_EQ(model.available, 0u);
  request.model = "";
  request.card_uuid = "a";
  EXPECT_EQ(Where(Place(engine, request)), "n/a");
  request.id = "z";
  request.card_uuid = "zz";
  const Scarcity uuid = Scarce(Place(engine, request));
  EXPECT_EQ(uuid.resource, "cards");
  EXPECT_TRUE(uuid.never);
  EXPECT_EQ(uuid.message, "cards: asked the card zz, no node has it");
}

TEST(Engine, TheClosestNodeIsTheOneThatIsExplained) {
  Engine engine;
  ASSERT_TRUE(engine.UpdateNode(MakeNode("a", {MakeCard("a1", 16 * kGiB)})));
  ASSERT_TRUE(engine.UpdateNode(MakeNode("b", {MakeCard("b1", 24 * kGiB)})));
  const Scarcity scarcity = Scarce(Place(engine, Ask("x", 26 * kGiB)));
  EXPECT_EQ(scarcity.available, 24 * kGiB);
  EXPECT_TRUE(scarcity.never);
  EXPECT_EQ(scarcity.message,
            "memory: asked 26 GiB a card, 2 GiB short on the best card (24 GiB in all)");
  // A node that could never hold it is not the one to wait for, however free it is.
  ASSERT_TRUE(engine.UpdateNode(MakeNode("c", {MakeCard("c1", 32 * kGiB)})));
  EXPECT_EQ(Where(Place(engine, Ask("big", 30 * kGiB))), "c/c1");
  const Scarcity waiting = Scarce(Place(engine, Ask("x", 26 * kGiB)));
  EXPECT_FALSE(waiting.never);
  EXPECT_EQ(waiting.available, 2 * kGiB);
}

TEST(Engine, MemoryAndComputeMustBeFreeOnTheSameCard) {
  Engine engine;
  ASSERT_TRUE(engine.UpdateNode(MakeNode("n", {MakeCard("a"), MakeCard("b")})));
  Request request = Ask("memory", 20 * kGiB, 100);
  request.card_uuid = "a";
  EXPECT_EQ(Where(Place(engine, request)), "n/a");
  request = Ask("compute", kGiB, 900);
  request.card_uuid = "b";
  EXPECT_EQ(Where(Place(engine, request)), "n/b");
  const Scarcity scarcity = Scarce(Place(engine, Ask("x", 10 * kGiB, 500)));
  EXPECT_EQ(scarcity.resource, "cards");
  EXPECT_EQ(scarcity.message,
            "cards: asked 1 card(s) with 10 GiB and 50% both free, the best node has 0");
}

TEST(Engine, UnhealthyCardsTakeNothingNewAndKeepWhatTheyHold) {
  Engine engine;
  NodeInventory node = MakeNode("n", {MakeCard("a")});
  ASSERT_TRUE(engine.UpdateNode(node));
  EXPECT_EQ(Where(Place(engine, Ask("x"))), "n/a");
  node.cards[0].healthy = false;
  ASSERT_TRUE(engine.UpdateNode(node));
  const Scarcity scarcity = Scarce(Place(engine, Ask("y")));
  EXPECT_EQ(scarcity.resource, "cards");
  EXPECT_FALSE(scarcity.never);  // it may recover
  EXPECT_EQ(engine.Nodes()[0].cards[0].reserved_bytes, 8 * kGiB);
  node.cards[0].healthy = true;
  ASSERT_TRUE(engine.UpdateNode(node));
  EXPECT_EQ(Where(Place(engine, Ask("y"))), "n/a");
}

TEST(Engine, ForeignUseIsNotOursToGive) {
  Engine engine;
  const NodeInventory node = MakeNode("n", {MakeCard("a")}, 4000, 8 * kGiB);
  ForeignUse foreign{{{"a", 20 * kGiB, {800}}}, 3000, 7 * kGiB};
  ASSERT_TRUE(engine.UpdateNode(node, foreign));
  EXPECT_EQ(Scarce(Place(engine, Ask("x"))).available, 4 * kGiB);
  EXPECT_EQ(Where(Place(engine, Ask("y", 4 * kGiB, 200))), "n/a");
  const Scarcity full = Scarce(Place(engine, Ask("z", kGiB, 1)));
  EXPECT_FALSE(full.never);
  EXPECT_EQ(full.available, 0u);
  ASSERT_TRUE(engine.UpdateNode(node));
  EXPECT_EQ(Where(Place(engine, Ask("x"))), "n/a");
}

TEST(Engine, GuaranteedSlicesOfAnOversoldCardNeverAddUpToMoreThanTheCard) {
  Engine engine;
  NodeInventory node = MakeNode("n", {MakeCard("a")});
  node.oversell_memory = {1400};
  node.oversell_compute = {1800};
  ASSERT_TRUE(engine.UpdateNode(node));
  const auto sure = [](std::string id, std::uint64_t memory, std::uint32_t permille) {
    Request request = Ask(std::move(id), memory, permille);
    request.guaranteed = true;
    return request;
  };
  EXPECT_EQ(Where(Place(engine, sure("g1", 8 * kGiB, 600))), "n/a");
  EXPECT_EQ(Where(Place(engine, Ask("s1", 8 * kGiB, 600))), "n/a");
  const Scarcity compute = Scarce(Place(engine, sure("g2", kGiB, 401)));
  EXPECT_EQ(compute.resource, "compute");
  EXPECT_EQ(compute.available, 400u) << "of the card, whatever more may be sold";
  const Scarcity memory = Scarce(Place(engine, sure("g2", 17 * kGiB, 1)));
  EXPECT_EQ(memory.resource, "memory");
  EXPECT_FALSE(memory.never);
  EXPECT_TRUE(Scarce(Place(engine, sure("g3", 25 * kGiB, 1))).never);
  // What is not guaranteed leaves less to sell, not less that is guaranteed.
  EXPECT_EQ(Where(Place(engine, sure("g2", kGiB, 400))), "n/a");
  EXPECT_EQ(Scarce(Place(engine, Ask("s2", kGiB, 201))).resource, "compute");
  EXPECT_EQ(Where(Place(engine, Ask("s2", kGiB, 200))), "n/a");
  const Reservation held = *engine.Find("g1");
  EXPECT_TRUE(held.guaranteed);
  ASSERT_TRUE(engine.Release("g1"));
  ASSERT_TRUE(engine.Restore(held));
  EXPECT_EQ(Scarce(Consider(engine, sure("g4", kGiB, 1))).resource, "compute");
  ASSERT_TRUE(engine.Release("g1"));
  EXPECT_EQ(Where(Place(engine, sure("g4", kGiB, 600))), "n/a");
}

TEST(Engine, ANodeThatComesBackStillHoldsWhatItHeld) {
  Engine engine;
  const NodeInventory node = MakeNode("n", {MakeCard("a")});
  ASSERT_TRUE(engine.UpdateNode(node));
  EXPECT_EQ(Where(Place(engine, Ask("x", 20 * kGiB))), "n/a");
  engine.RemoveNode("n");
  const Scarcity gone = Scarce(Place(engine, Ask("y", 20 * kGiB)));
  EXPECT_FALSE(gone.never);
  EXPECT_EQ(gone.message, "cards: asked 1 card(s), no node is known");
  ASSERT_TRUE(engine.UpdateNode(node));
  EXPECT_EQ(Scarce(Place(engine, Ask("y", 20 * kGiB))).available, 4 * kGiB);
  engine.RemoveNode("n");
  EXPECT_TRUE(engine.Release("x"));
  ASSERT_TRUE(engine.UpdateNode(node));
  EXPECT_EQ(Where(Place(engine, Ask("y", 20 * kGiB))), "n/a");
}

TEST(Engine, RestoreTakesFactsEvenWhenTheyDoNotFit) {
  Engine engine;
  Reservation running{{"x", "n", {{"a", 20 * kGiB, {900}}}}, 1000, kGiB};
  ASSERT_TRUE(engine.Restore(running));
  ASSERT_TRUE(engine.Restore(running));
  EXPECT_EQ(engine.reservations(), 1u);
  ASSERT_TRUE(engine.UpdateNode(MakeNode("n", {MakeCard("a", 16 * kGiB)})));
  EXPECT_EQ(Scarce(Place(engine, Ask("y", kGiB, 10))).available, 0u);
  running.placement.shares[0].memory_bytes = 1;
  EXPECT_EQ(engine.Restore(running).error().code(), Code::kAlreadyExists);
  EXPECT_TRUE(engine.Release("x"));
  EXPECT_EQ(Where(Place(engine, Ask("y", kGiB, 10))), "n/a");
}

TEST(Engine, AvoidedNodesArePassedOver) {
  Engine engine;
  ASSERT_TRUE(engine.UpdateNode(MakeNode("a", {MakeCard("a1")})));
  ASSERT_TRUE(engine.UpdateNode(MakeNode("b", {MakeCard("b1", 16 * kGiB)})));
  EXPECT_EQ(Where(Consider(engine, Ask("x"), {"a"})), "b/b1");
  const Scarcity all = Scarce(Consider(engine, Ask("x"), {"a", "b"}));
  EXPECT_EQ(all.resource, "cards");
  EXPECT_FALSE(all.never);
  EXPECT_FALSE(Scarce(Consider(engine, Ask("x", 20 * kGiB), {"a"})).never);
  EXPECT_TRUE(Scarce(Consider(engine, Ask("x", 30 * kGiB), {"a"})).never);
  EXPECT_EQ(engine.CouldHold(Ask("x")), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(engine.CouldHold(Ask("x", 20 * kGiB)), (std::vector<std::string>{"a"}));
  EXPECT_TRUE(engine.CouldHold(Ask("x", 30 * kGiB)).empty());
}

TEST(Engine, ExplainNamesTheRuleOfEachFilteredNodeAndTheBestFive) {
  Engine engine;
  for (const char* name : {"a", "b", "c", "d", "e", "f"}) {
    ASSERT_TRUE(engine.UpdateNode(MakeNode(name, {MakeCard(std::string(name) + "1")})));
  }
  ASSERT_TRUE(engine.UpdateNode(MakeNode("small", {MakeCard("s1", 4 * kGiB)})));
  ASSERT_TRUE(engine.UpdateNode(MakeNode("small2", {MakeCard("s2", 4 * kGiB)})));
  ASSERT_TRUE(engine.UpdateNode(MakeNode("poor", {MakeCard("p1")}, 10)));
  ASSERT_TRUE(engine.UpdateNode(MakeNode("kept", {MakeCard("k1")})));
  Request first = Ask("first");
  first.card_uuid = "d1";
  EXPECT_EQ(Where(Place(engine, first)), "d/d1");
  const Explanation why = engine.Explain(Ask("x"), {"kept"});
  ASSERT_EQ(why.filtered.size(), 3u);
  std::map<std::string, Explanation::Filtered> by_rule;
  for (const Explanation::Filtered& one : why.filtered) by_rule[one.rule] = one;
  EXPECT_EQ(by_rule["avoid"].example_node, "kept");
  EXPECT_EQ(by_rule["memory"].nodes, 2u);
  EXPECT_EQ(by_rule["memory"].example_node, "small");
  EXPECT_EQ(by_rule["memory"].message,
            "memory: asked 8 GiB a card, 4 GiB short on the best card (4 GiB free)");
  EXPECT_EQ(by_rule["cpu"].example_node, "poor");
  ASSERT_EQ(why.best.size(), kExplainedCandidatesMax);
  EXPECT_EQ(why.best[0].node, "d");  // packed: the fullest first
  EXPECT_EQ(why.best[0].cards, (std::vector<std::string>{"d1"}));
  EXPECT_EQ(why.best[1].node, "a");
  EXPECT_GT(why.best[0].score, why.best[1].score);
  for (const Explanation::Candidate& one : why.best) {
    double sum = 0;
    for (const auto& [name, part] : one.parts) sum += part;
    EXPECT_NEAR(sum, one.score, 1e-6) << one.node;
  }
  // It is what Place does, and it reserves nothing.
  EXPECT_EQ(engine.reservations(), 1u);
  EXPECT_EQ(Where(Place(engine, Ask("x"), {"kept"})), "d/d1");
  // Nothing left is 0, not -0, in what users see.
  const Explanation whole = engine.Explain(Ask("y", 24 * kGiB, 1000), {});
  ASSERT_FALSE(whole.best.empty());
  EXPECT_FALSE(std::signbit(whole.best[0].score));
  for (const auto& [name, part] : whole.best[0].parts) EXPECT_FALSE(std::signbit(part)) << name;
}

TEST(Engine, BadInputIsRefusedByName) {
  Engine engine;
  EXPECT_EQ(engine.UpdateNode(MakeNode("", {})).error().field(), "name");
  EXPECT_EQ(engine.UpdateNode(MakeNode("n", {MakeCard("")})).error().field(), "cards");
  EXPECT_EQ(engine.UpdateNode(MakeNode("n", {MakeCard("a"), MakeCard("a")})).error().field(),
            "cards");
  EXPECT_EQ(engine.UpdateNode(MakeNode("n", {MakeCard("a", kCardBytesMax + 1)})).error().field(),
            "cards");
  std::vector<device::Card> many;
  for (std::size_t i = 0; i <= kCardsPerNodeMax; ++i) many.push_back(MakeCard(std::to_string(i)));
  EXPECT_EQ(engine.UpdateNode(MakeNode("n", many)).error().field(), "cards");
  EXPECT_TRUE(engine.Nodes().empty());

  const auto field = [](auto change) {
    Request request = Ask("x");
    change(request);
    const Status status = Validate(request);
    return status ? std::string("fine") : status.error().field();
  };
  EXPECT_EQ(field([](Request&) {}), "fine");
  EXPECT_EQ(field([](Request& r) { r.id = ""; }), "id");
  EXPECT_EQ(field([](Request& r) { r.id = std::string(129, 'x'); }), "id");
  EXPECT_EQ(field([](Request& r) { r.slices = 0; }), "slices");
  EXPECT_EQ(field([](Request& r) { r.slices = 65; }), "slices");
  EXPECT_EQ(field([](Request& r) { r.memory_bytes = 0; }), "memory");
  EXPECT_EQ(field([](Request& r) { r.compute = {0}; }), "compute");
  EXPECT_EQ(field([](Request& r) { r.compute = {1001}; }), "compute");
  EXPECT_EQ(field([](Request& r) { r.card_uuid = "a", r.slices = 2; }), "slices");
}

}  // namespace
}  // namespace tessera::placement
