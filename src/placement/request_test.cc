// Every field of a request: what Validate says of it and what it does to a placement.
#include "placement/request.h"

#include <gtest/gtest.h>

#include <functional>

#include "placement/engine.h"
#include "placement/test_answer.h"

namespace tessera::placement {
namespace {

device::Card MakeCard(std::string uuid, std::string model = "NVIDIA A10", int numa = -1) {
  device::Card card;
  card.uuid = std::move(uuid);
  card.model = std::move(model);
  card.memory_bytes = 24 * kGiB;
  card.numa_node = numa;
  return card;
}

NodeInventory MakeNode(std::string name, std::vector<device::Card> cards) {
  NodeInventory node{std::move(name), 64'000, 256 * kGiB, std::move(cards)};
  node.disk_bytes = 100 * kGiB;
  return node;
}

Request Ask(std::string id, std::uint32_t slices = 1) {
  Request request;
  request.id = std::move(id);
  request.slices = slices;
  request.memory_bytes = 8 * kGiB;
  request.compute = {300};
  return request;
}

Request With(std::string id, const std::function<void(Request&)>& change) {
  Request request = Ask(std::move(id));
  change(request);
  EXPECT_TRUE(Validate(request)) << Validate(request).error().ToString();
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

TEST(Request, ValidateNamesEachBadField) {
  const auto field = [](const std::function<void(Request&)>& change) {
    Request request = Ask("x");
    change(request);
    const Status status = Validate(request);
    return status ? std::string("fine") : status.error().field();
  };
  const std::vector<std::string> many(kSelectorsMax + 1, "x");
  const std::string lengthy(kSelectorBytesMax + 1, 'x');
  EXPECT_EQ(field([](Request&) {}), "fine");
  EXPECT_EQ(field([](Request& r) { r.ram_bytes = ~std::uint64_t{0}; }), "ram");
  EXPECT_EQ(field([](Request& r) { r.disk_bytes = ~std::uint64_t{0}; }), "disk");
  EXPECT_EQ(field([&](Request& r) { r.pool = lengthy; }), "pool");
  EXPECT_EQ(field([&](Request& r) { r.tenant = lengthy; }), "tenant");
  EXPECT_EQ(field([&](Request& r) { r.models = many; }), "models");
  EXPECT_EQ(field([&](Request& r) { r.models = {lengthy}; }), "models");
  EXPECT_EQ(field([](Request& r) { r.models_excluded = {""}; }), "models_excluded");
  EXPECT_EQ(field([&](Request& r) { r.cards = many; }), "cards");
  EXPECT_EQ(field([&](Request& r) { r.cards_excluded = many; }), "cards_excluded");
  EXPECT_EQ(field([](Request& r) { r.isolation = static_cast<Isolation>(6); }), "isolation");
  EXPECT_EQ(field([](Request& r) { r.apart = Apart::kCard; }), "tenant");
  EXPECT_EQ(field([](Request& r) { r.tenant = "a", r.apart_from = {"b"}; }), "apart_from");
  EXPECT_EQ(field([&](Request& r) { r.tenant = "a", r.apart = Apart::kCard, r.apart_from = many; }),
            "apart_from");
  EXPECT_EQ(field([](Request& r) { r.tenant = "a", r.apart = Apart::kNode, r.apart_from = {"a"}; }),
            "apart_from");
  EXPECT_EQ(field([](Request& r) { r.priority = kPriorityMax + 1; }), "priority");
  EXPECT_EQ(field([](Request& r) { r.priority = kPriorityMax; }), "fine");
}

TEST(Request, ListsOfModelsAndCardsNarrowTheChoice) {
  Engine engine;
  ASSERT_TRUE(engine.UpdateNode(
      MakeNode("n", {MakeCard("a", "NVIDIA A10"), MakeCard("b", "NVIDIA A100-80GB"),
                     MakeCard("c", "NVIDIA H200"), MakeCard("d", "NVIDIA T4")})));
  const auto where = [&](const std::function<void(Request&)>& change) {
    return Where(Consider(engine, With("x", change)));
  };
  EXPECT_EQ(where([](Request& r) { r.models = {"h200", "t4"}; }), "n/c");
  EXPECT_EQ(where([](Request& r) { r.models = {"a10"}, r.models_excluded = {"a100"}; }), "n/a");
  EXPECT_EQ(where([](Request& r) { r.models_excluded = {"A10"}; }), "n/c");
  EXPECT_EQ(where([](Request& r) { r.model = "a10", r.models = {"80gb"}; }), "n/b");
  EXPECT_EQ(where([](Request& r) { r.models = {"B200"}; }), "!model");
  EXPECT_EQ(where([](Request& r) { r.cards = {"d", "c", "zz"}; }), "n/c");
  EXPECT_EQ(where([](Request& r) { r.cards = {"d", "c"}, r.cards_excluded = {"c"}; }), "n/d");
  EXPECT_EQ(where([](Request& r) { r.cards_excluded = {"a", "b"}; }), "n/c");
  EXPECT_EQ(where([](Request& r) { r.cards = {"a", "b"}, r.slices = 3; }), "!cards");
  EXPECT_EQ(where([](Request& r) { r.cards = {"a", "b", "d"}, r.slices = 3; }), "n/a+b+d");
}

TEST(Request, ACardWithoutAModelIsTakenByWhoNamesNone) {
  Engine engine;
  ASSERT_TRUE(engine.UpdateNode(MakeNode("n", {MakeCard("a", "")})));
  EXPECT_TRUE(std::get<Scarcity>(Place(engine, With("x", [](Request& r) { r.slices = 2; }))).never);
  EXPECT_EQ(Where(Place(engine, With("x", [](Request& r) { r.model = "A10"; }))), "!model");
  EXPECT_EQ(Where(Place(engine, With("y", [](Request& r) { r.exclusive = true; }))), "n/a");
  EXPECT_FALSE(std::get<Scarcity>(Place(engine, Ask("z"))).never);
}

TEST(Request, APoolIsAskedByNameOrTheFirstWithRoomIsTaken) {
  Engine engine;
  NodeInventory east = MakeNode("a", {MakeCard("a1")});
  east.pool = "east";
  NodeInventory west = MakeNode("b", {MakeCard("b1")});
  west.pool = "west";
  ASSERT_TRUE(engine.UpdateNode(west));
  ASSERT_TRUE(engine.UpdateNode(east));
  EXPECT_EQ(Where(Place(engine, Ask("x"))), "a/a1");
  EXPECT_EQ(Where(Place(engine, With("y", [](Request& r) { r.pool = "west"; }))), "b/b1");
  EXPECT_EQ(Where(Place(engine, With("z", [](Request& r) { r.pool = "north"; }))), "!pool");
  EXPECT_EQ(Where(Place(engine, With("w", [](Request& r) { r.memory_bytes = 20 * kGiB; }))),
            "!memory");
  // A node that changes pools takes what it holds along.
  east.pool = "west";
  ASSERT_TRUE(engine.UpdateNode(east));
  EXPECT_EQ(Where(Consider(engine, With("z", [](Request& r) { r.pool = "east"; }))), "!pool");
  const auto rest = With("v", [](Request& r) { r.pool = "west", r.memory_bytes = 17 * kGiB; });
  EXPECT_EQ(Where(Consider(engine, rest)), "!memory");
  EXPECT_TRUE(engine.Release("x"));
  EXPECT_EQ(Where(Consider(engine, rest)), "a/a1");
}

TEST(Request, APolicyIsChangedHotAndReservationsStay) {
  Engine engine;
  ASSERT_TRUE(engine.UpdateNode(MakeNode("a", {MakeCard("a1")})));
  ASSERT_TRUE(engine.UpdateNode(MakeNode("b", {MakeCard("b1")})));
  EXPECT_EQ(Where(Place(engine, Ask("one"))), "a/a1");
  ASSERT_TRUE(engine.SetPolicy("", "spread"));
  EXPECT_EQ(Where(Place(engine, Ask("two"))), "b/b1");
  EXPECT_EQ(engine.reservations(), 2u);
  for (const std::string& policy : ScorerNames()) {
    ASSERT_TRUE(engine.SetPolicy("", policy));
    EXPECT_EQ(engine.PolicyOf(""), policy);
    // What is reserved counts for every policy, also one that was never asked before.
    EXPECT_EQ(Where(Consider(engine, With("x", [](Request& r) { r.memory_bytes = 17 * kGiB; }))),
              "!memory")
        << policy;
    EXPECT_NE(Where(Consider(engine, Ask("x")))[0], '!') << policy;
  }
  EXPECT_EQ(engine.SetPolicy("", "best").error().field(), "policy");
  EXPECT_EQ(engine.SetPolicy(std::string(kSelectorBytesMax + 1, 'x'), "fgd").error().field(),
            "pool");
  EXPECT_EQ(engine.PolicyOf("other"), kDefaultPolicy);
}

TEST(Request, OneNumaNodeIsPreferredOrRequired) {
  Engine engine;
  ASSERT_TRUE(engine.UpdateNode(
      MakeNode("a", {MakeCard("a1", "T4", 0), MakeCard("a2", "T4", 1), MakeCard("a3", "T4")})));
  const auto ask = [](Numa numa) {
    return With("x", [&](Request& r) { r.slices = 2, r.numa = numa; });
  };
  EXPECT_EQ(Where(Consider(engine, ask(Numa::kNone))), "a/a1+a2");
  EXPECT_EQ(Where(Consider(engine, ask(Numa::kPrefer))), "a/a1+a2");
  const auto refused = Consider(engine, ask(Numa::kRequire));
  EXPECT_EQ(Where(refused), "!numa");
  EXPECT_TRUE(std::get<Scarcity>(refused).never);
  ASSERT_TRUE(engine.UpdateNode(
      MakeNode("b", {MakeCard("b1", "T4", 1), MakeCard("b2", "T4", 0), MakeCard("b3", "T4", 0),
                     MakeCard("b4", "T4", 1), MakeCard("b5", "T4", 1)})));
  // The NUMA node that is left the fuller.
  EXPECT_EQ(Where(Consider(engine, ask(Numa::kRequire))), "b/b2+b3");
  EXPECT_EQ(Where(Consider(engine, ask(Numa::kPrefer))), "b/b2+b3");
}

TEST(Request, TheBestConnectedCardsAreTaken) {
  Engine engine;
  std::vector<device::Card> cards;
  for (const char* name : {"a", "b", "c", "d"}) cards.push_back(MakeCard(name));
  cards[0].links = {{"b", 10}, {"c", 10}, {"d", 20}};
  cards[1].links = {{"d", 90}, {"unknown", 500}};
  cards[2].links = {{"d", 30}, {"b", 40}};
  ASSERT_TRUE(engine.UpdateNode(MakeNode("n", cards)));
  const auto ask = [](std::uint32_t slices) {
    return With("x", [&](Request& r) { r.slices = slices, r.links = Links::kBest; });
  };
  EXPECT_EQ(Where(Consider(engine, ask(2))), "n/b+d");
  EXPECT_EQ(Where(Consider(engine, ask(3))), "n/b+c+d");
  EXPECT_EQ(Where(Consider(engine, ask(1))), "n/a") << "the worst connected one for one slice";
  EXPECT_EQ(Where(Consider(engine, Ask("x", 2))), "n/a+b");
}

TEST(Request, ACardHoldsOneIsolationModeAtATime) {
  Engine engine;
  NodeInventory node = MakeNode("n", {MakeCard("a"), MakeCard("b")});
  ASSERT_TRUE(engine.UpdateNode(node));
  const auto as = [](const char* id, Isolation mode) {
    return With(id, [&](Request& r) { r.isolation = mode; });
  };
  const auto refused = Place(engine, as("x", Isolation::kSpatial));
  EXPECT_EQ(Where(refused), "!isolation");
  EXPECT_TRUE(std::get<Scarcity>(refused).never);
  node.isolations = 0x3f;
  ASSERT_TRUE(engine.UpdateNode(node));
  EXPECT_EQ(Where(Place(engine, as("shim", Isolation::kShim))), "n/a");
  EXPECT_EQ(Where(Place(engine, as("spatial", Isolation::kSpatial))), "n/b");
  EXPECT_EQ(Where(Place(engine, as("spatial2", Isolation::kSpatial))), "n/b");
  const auto third = Place(engine, as("mig", Isolation::kMig));
  EXPECT_EQ(Where(third), "!isolation");
  EXPECT_FALSE(std::get<Scarcity>(third).never);
  EXPECT_TRUE(engine.Release("shim"));
  // A whole card is let to nobody else, however little of it was asked for.
  EXPECT_EQ(Where(Place(engine, as("whole", Isolation::kWhole))), "n/a");
  EXPECT_EQ(Where(Place(engine, as("whole2", Isolation::kWhole))), "!exclusive");
  EXPECT_EQ(Where(Place(engine, as("shim", Isolation::kShim))), "!isolation");
  EXPECT_TRUE(engine.Release("whole"));
  EXPECT_EQ(Where(Place(engine, as("shim", Isolation::kShim))), "n/a");
}

TEST(Request, AnExclusiveCardHoldsNothingElse) {
  Engine engine;
  ASSERT_TRUE(engine.UpdateNode(MakeNode("n", {MakeCard("a"), MakeCard("b")})));
  EXPECT_EQ(Where(Place(engine, Ask("first"))), "n/a");
  const Request alone = With("alone", [](Request& r) { r.exclusive = true; });
  EXPECT_EQ(Where(Place(engine, alone)), "n/b");
  EXPECT_EQ(Where(Place(engine, With("two", [](Request& r) { r.slices = 2; }))), "!memory");
  EXPECT_TRUE(engine.Release("alone"));
  EXPECT_EQ(Where(Place(engine, Ask("two", 2))), "n/a+b");
  EXPECT_EQ(Where(Place(engine, alone)), "!exclusive");
}

TEST(Request, DiskAndCountsAreLimitsToo) {
  Engine engine;
  NodeInventory node = MakeNode("n", {MakeCard("a"), MakeCard("b")});
  node.slices_per_card_max = 2;
  node.slices_per_node_max = 3;
  ASSERT_TRUE(engine.UpdateNode(node));
  const auto disk = [](const char* id, std::uint64_t bytes) {
    return With(id, [&](Request& r) { r.disk_bytes = bytes, r.memory_bytes = kGiB; });
  };
  EXPECT_EQ(Where(Place(engine, disk("one", 60 * kGiB))), "n/a");
  EXPECT_EQ(Where(Place(engine, disk("two", 40 * kGiB + 1))), "!disk");
  EXPECT_EQ(Where(Place(engine, disk("two", 40 * kGiB))), "n/a");
  EXPECT_EQ(Where(Place(engine, disk("three", 0))), "n/b") << "a holds two slices, its most";
  const auto fourth = Place(engine, disk("four", 0));
  EXPECT_EQ(Where(fourth), "!slices");
  EXPECT_FALSE(std::get<Scarcity>(fourth).never);
  EXPECT_TRUE(engine.Release("one"));
  EXPECT_EQ(Where(Place(engine, disk("four", 60 * kGiB))), "n/a");
}

TEST(Request, ACardIsOversoldByItsRatioAndNoSliceIsLargerThanIt) {
  Engine engine;
  NodeInventory node = MakeNode("n", {MakeCard("a")});
  node.oversell_memory = {1500};
  node.oversell_compute = {1200};
  ASSERT_TRUE(engine.UpdateNode(node));
  const auto ask = [](const char* id, std::uint64_t memory, std::uint32_t permille) {
    return With(id, [&](Request& r) { r.memory_bytes = memory, r.compute = {permille}; });
  };
  EXPECT_EQ(Where(Place(engine, ask("x", 24 * kGiB + 1, 1))), "!memory");
  EXPECT_EQ(Where(Place(engine, ask("one", 24 * kGiB, 600))), "n/a");
  EXPECT_EQ(Where(Place(engine, ask("two", 12 * kGiB - 1, 600))), "n/a");
  EXPECT_EQ(Where(Place(engine, ask("x", 1, 1))), "!compute");
  EXPECT_TRUE(engine.Release("one"));
  EXPECT_EQ(Where(Place(engine, ask("three", 24 * kGiB, 599))), "n/a");
  EXPECT_EQ(Where(Place(engine, ask("x", 2, 1))), "!memory");
  EXPECT_EQ(Where(Place(engine, ask("last", 1, 1))), "n/a") << "to the last byte";
  node.oversell_memory = {1801};
  EXPECT_EQ(engine.UpdateNode(node).error().field(), "oversell_memory");
  node.oversell_memory = {1000};
  node.oversell_compute = {999};
  EXPECT_EQ(engine.UpdateNode(node).error().field(), "oversell_compute");
  node.oversell_compute = {1000};
  node.isolations = 0;
  EXPECT_EQ(engine.UpdateNode(node).error().field(), "isolations");
}

TEST(Request, TenantsStayApartWhoeverComesFirst) {
  Engine engine;
  const auto clear = [&] {
    for (const char* id : {"1", "2", "3", "4"}) engine.Release(id);
  };
  ASSERT_TRUE(engine.UpdateNode(MakeNode("n", {MakeCard("a"), MakeCard("b")})));
  ASSERT_TRUE(engine.UpdateNode(MakeNode("m", {MakeCard("m1")})));
  const auto of = [](const char* id, const char* tenant, Apart apart = Apart::kNone,
                     std::vector<std::string> from = {}) {
    return With(id, [&](Request& r) {
      r.tenant = tenant, r.apart = apart, r.apart_from = from, r.pool = "";
    });
  };
  // Packed, all of these would be on m1, the smallest node.
  EXPECT_EQ(Where(Place(engine, of("1", "red"))), "m/m1");
  EXPECT_EQ(Where(Place(engine, of("2", "blue", Apart::kCard))), "n/a");
  EXPECT_EQ(Where(Place(engine, of("3", "blue"))), "m/m1") << "this one did not ask to be apart";
  EXPECT_EQ(Where(Place(engine, of("4", "red", Apart::kNode))), "!tenant");
  clear();
  // The earlier one's wish binds the later one too.
  EXPECT_EQ(Where(Place(engine, of("1", "red", Apart::kNode))), "m/m1");
  EXPECT_EQ(Where(Place(engine, of("2", "red"))), "m/m1");
  EXPECT_EQ(Where(Place(engine, of("3", "blue"))), "n/a");
  EXPECT_EQ(Where(Place(engine, of("4", ""))), "n/a") << "nobody's slice is another's";
  clear();
  // Only those named.
  EXPECT_EQ(Where(Place(engine, of("1", "red", Apart::kCard, {"blue"}))), "m/m1");
  EXPECT_EQ(Where(Place(engine, of("2", "green"))), "m/m1");
  EXPECT_EQ(Where(Place(engine, of("3", "blue"))), "n/a");
  clear();
  EXPECT_EQ(Where(Place(engine, of("1", "blue"))), "m/m1");
}

TEST(Request, PriorityAndTenantAreKeptWithTheReservation) {
  Engine engine;
  ASSERT_TRUE(engine.UpdateNode(MakeNode("n", {MakeCard("a")})));
  const Request request = With("x", [](Request& r) { r.priority = -7, r.tenant = "red"; });
  EXPECT_EQ(Where(Place(engine, request)), "n/a");
  ASSERT_TRUE(engine.Find("x"));
  EXPECT_EQ(engine.Find("x")->priority, -7);
  EXPECT_EQ(engine.Find("x")->tenant, "red");
}

TEST(RequestOf, IsKubernetesRuleOverContainers) {
  const ContainerNeeds app{1, 8 * kGiB, {300}, 1000, 2 * kGiB, kGiB, false};
  const ContainerNeeds helper{0, 0, {0}, 500, kGiB, 0, false};
  const ContainerNeeds heavy{2, 4 * kGiB, {500}, 4000, kGiB, 0, false};
  const ContainerNeeds sidecar{0, 0, {0}, 250, kGiB, 2 * kGiB, true};
  Request base;
  base.id = "pod";
  base.tenant = "red";
  const auto plain = RequestOf({app, app, helper}, {}, base);
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->slices, 2u);
  EXPECT_EQ(plain->memory_bytes, 8 * kGiB);
  EXPECT_EQ(plain->compute.value, 300u);
  EXPECT_EQ(plain->cpu_millis, 2500u);
  EXPECT_EQ(plain->ram_bytes, 5 * kGiB);
  EXPECT_EQ(plain->disk_bytes, 2 * kGiB);
  EXPECT_EQ(plain->tenant, "red");
  // The heavy init container runs beside the sidecar ahead of it, before the apps.
  const auto ahead = RequestOf({app, helper}, {sidecar, heavy}, base);
  ASSERT_TRUE(ahead);
  EXPECT_EQ(ahead->cpu_millis, 4250u);
  EXPECT_EQ(ahead->slices, 2u);
  EXPECT_EQ(ahead->compute.value, 500u);
  EXPECT_EQ(ahead->ram_bytes, 4 * kGiB) << "apps and the sidecar";
  const auto behind = RequestOf({app, helper}, {heavy, sidecar}, base);
  ASSERT_TRUE(behind);
  EXPECT_EQ(behind->cpu_millis, 4000u) << "the sidecar starts after it";
  EXPECT_EQ(behind->disk_bytes, 3 * kGiB);
}

TEST(RequestOf, NamesWhatIsWrong) {
  Request base;
  base.id = "pod";
  const ContainerNeeds app{1, 8 * kGiB, {300}, 1000, 0, 0, false};
  const auto field = [&](const std::vector<ContainerNeeds>& containers,
                         const std::vector<ContainerNeeds>& init) {
    const auto request = RequestOf(containers, init, base);
    return request ? "fine" : request.error().field();
  };
  EXPECT_EQ(field({app}, {}), "fine");
  EXPECT_EQ(field({}, {app}), "containers");
  EXPECT_EQ(field(std::vector<ContainerNeeds>(kContainersMax + 1, app), {}), "containers");
  ContainerNeeds sidecar = app;
  sidecar.restarts = true;
  EXPECT_EQ(field({app, sidecar}, {}), "containers[1].restarts");
  ContainerNeeds none = app;
  none.slices = 0;
  EXPECT_EQ(field({none}, {}), "slices");
  ContainerNeeds many = app;
  many.slices = 40;
  EXPECT_EQ(field({many, many}, {}), "slices");
  ContainerNeeds large = app;
  large.cpu_millis = ~std::uint32_t{0};
  EXPECT_EQ(field({large, large}, {}), "cpu");
  large = app;
  large.ram_bytes = ~std::uint64_t{0};
  EXPECT_EQ(field({large, large}, {}), "ram");
}

}  // namespace
}  // namespace tessera::placement
