// The engine against a reference that is too simple to be wrong: it keeps a list of what was placed
// and adds it up again for every question.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/rng.h"
#include "placement/engine.h"
#include "placement/test_answer.h"

namespace tessera::placement {
namespace {

struct World {
  std::vector<NodeInventory> nodes;
  std::map<std::string, ForeignUse> foreign;
};

World RandomWorld(Rng& rng) {
  static const char* const kModels[] = {"NVIDIA T4", "NVIDIA A100-80GB", "NVIDIA H200"};
  World world;
  const auto nodes = rng.Between(1, 5);
  for (std::uint64_t n = 0; n < nodes; ++n) {
    NodeInventory node;
    node.name = "node-" + std::to_string(n);
    node.cpu_millis = static_cast<std::uint32_t>(rng.Between(1, 64) * 1000);
    node.ram_bytes = rng.Between(1, 64) * 4 * kGiB;
    const auto cards = rng.Between(0, 5);
    ForeignUse& foreign = world.foreign[node.name];
    for (std::uint64_t c = 0; c < cards; ++c) {
      device::Card card;
      card.uuid = "GPU-" + std::to_string(n) + "-" + std::to_string(c);
      card.model = kModels[rng.Below(3)];
      card.memory_bytes = rng.Between(4, 80) * kGiB;
      card.healthy = !rng.Chance(100);
      node.cards.push_back(card);
      if (rng.Chance(200)) {
        foreign.cards.push_back({card.uuid,
                                 rng.Between(1, 20) * kGiB,
                                 {static_cast<std::uint32_t>(rng.Between(1, 600))}});
      }
    }
    if (rng.Chance(300)) foreign.cpu_millis = static_cast<std::uint32_t>(rng.Below(20000));
    world.nodes.push_back(node);
  }
  return world;
}

Request RandomRequest(Rng& rng, std::string id) {
  Request request;
  request.id = std::move(id);
  request.slices = rng.Chance(700) ? 1 : static_cast<std::uint32_t>(rng.Between(1, 4));
  request.memory_bytes = rng.Between(1, 40) * (kGiB / 2) + rng.Below(3);
  request.compute = {static_cast<std::uint32_t>(rng.Between(1, rng.Chance(800) ? 400 : 1000))};
  request.cpu_millis = static_cast<std::uint32_t>(rng.Below(8000));
  request.ram_bytes = rng.Below(16) * kGiB;
  if (rng.Chance(200)) request.model = rng.Chance(500) ? "a100" : "h200";
  if (rng.Chance(50) && request.slices == 1)
    request.card_uuid = "GPU-0-" + std::to_string(rng.Below(4));
  request.node_policy = rng.Chance(500) ? Policy::kBinpack : Policy::kSpread;
  request.card_policy = rng.Chance(500) ? Policy::kBinpack : Policy::kSpread;
  return request;
}

std::string LowerText(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

class Reference {
 public:
  explicit Reference(World world) : world_(std::move(world)) {}

  void Add(const Request& request, const Placement& placement) {
    live_[request.id] = {request, placement};
  }
  void Remove(const std::string& id) { live_.erase(id); }
  const auto& live() const { return live_; }

  struct Room {
    std::int64_t memory = 0;
    std::int64_t permille = 0;
  };
  Room RoomOn(const NodeInventory& node, const device::Card& card) const {
    Room room{static_cast<std::int64_t>(card.memory_bytes), 1000};
    for (const auto& share : world_.foreign.at(node.name).cards) {
      if (share.card_uuid == card.uuid) {
        room.memory -= static_cast<std::int64_t>(share.memory_bytes);
        room.permille -= share.compute.value;
      }
    }
    for (const auto& [id, entry] : live_) {
      if (entry.second.node != node.name) continue;
      for (const auto& share : entry.second.shares) {
        if (share.card_uuid == card.uuid) {
          room.memory -= static_cast<std::int64_t>(share.memory_bytes);
          room.permille -= share.compute.value;
        }
      }
    }
    return room;
  }
  std::int64_t CpuLeft(const NodeInventory& node) const {
    std::int64_t left = std::int64_t{node.cpu_millis} - world_.foreign.at(node.name).cpu_millis;
    for (const auto& [id, entry] : live_) {
      if (entry.second.node == node.name) left -= entry.first.cpu_millis;
    }
    return left;
  }
  std::int64_t RamLeft(const NodeInventory& node) const {
    auto left = static_cast<std::int64_t>(node.ram_bytes);
    for (const auto& [id, entry] : live_) {
      if (entry.second.node == node.name) left -= static_cast<std::int64_t>(entry.first.ram_bytes);
    }
    return left;
  }
  bool CardFits(const NodeInventory& node, const device::Card& card, const Request& request) const {
    const Room room = RoomOn(node, card);
    return card.healthy &&
           LowerText(card.model).find(LowerText(request.model)) != std::string::npos &&
           (request.card_uuid.empty() || request.card_uuid == card.uuid) &&
           room.memory >= static_cast<std::int64_t>(request.memory_bytes) &&
           room.permille >= std::int64_t{request.compute.value};
  }
  bool NodeFits(const NodeInventory& node, const Request& request) const {
    const auto fitting =
        std::count_if(node.cards.begin(), node.cards.end(),
                      [&](const device::Card& card) { return CardFits(node, card, request); });
    // Asking for none fits even a node that others already use beyond its size.
    const bool cpu = request.cpu_millis == 0 || CpuLeft(node) >= std::int64_t{request.cpu_millis};
    const bool ram =
        request.ram_bytes == 0 || RamLeft(node) >= static_cast<std::int64_t>(request.ram_bytes);
    return cpu && ram && fitting >= std::int64_t{request.slices};
  }
  // How much of a card is left, as the engine's rule says, in millionths of both kinds.
  std::int64_t LeftAfter(const NodeInventory& node, const device::Card& card,
                         const Request& request) const {
    const Room room = RoomOn(node, card);
    return (room.memory - static_cast<std::int64_t>(request.memory_bytes)) / 1024 * 1'000'000 /
               static_cast<std::int64_t>(card.memory_bytes / 1024) +
           (room.permille - std::int64_t{request.compute.value}) * 1000;
  }
  const World& world() const { return world_; }

 private:
  World world_;
  std::map<std::string, std::pair<Request, Placement>> live_;
};

void CheckPlacement(const Reference& reference, const Request& request,
                    const Placement& placement) {
  const auto& nodes = reference.world().nodes;
  const auto node = std::find_if(nodes.begin(), nodes.end(),
                                 [&](const NodeInventory& n) { return n.name == placement.node; });
  ASSERT_NE(node, nodes.end());
  ASSERT_EQ(placement.request_id, request.id);
  ASSERT_EQ(placement.shares.size(), request.slices);
  ASSERT_TRUE(reference.NodeFits(*node, request)) << "no room for it on " << placement.node;
  std::set<std::string> distinct;
  std::int64_t worst_chosen = INT64_MIN;
  std::int64_t best_chosen = INT64_MAX;
  for (const device::Share& share : placement.shares) {
    ASSERT_TRUE(distinct.insert(share.card_uuid).second);
    ASSERT_EQ(share.memory_bytes, request.memory_bytes);
    ASSERT_EQ(share.compute, request.compute);
    const auto card =
        std::find_if(node->cards.begin(), node->cards.end(),
                     [&](const device::Card& c) { return c.uuid == share.card_uuid; });
    ASSERT_NE(card, node->cards.end());
    ASSERT_TRUE(reference.CardFits(*node, *card, request))
        << "card " << share.card_uuid << " is full";
    const std::int64_t left = reference.LeftAfter(*node, *card, request);
    worst_chosen = std::max(worst_chosen, left);
    best_chosen = std::min(best_chosen, left);
  }
  // No card that was passed over would have been the better choice (3 millionths for rounding).
  for (const device::Card& card : node->cards) {
    if (distinct.count(card.uuid) != 0 || !reference.CardFits(*node, card, request)) continue;
    const std::int64_t left = reference.LeftAfter(*node, card, request);
    if (request.card_policy == Policy::kBinpack) {
      ASSERT_GE(left + 3, worst_chosen);
    } else {
      ASSERT_LE(left - 3, best_chosen);
    }
  }
}

void CheckScarcity(const Reference& reference, const Request& request, const Scarcity& scarcity) {
  static const std::set<std::string> kResources = {"memory", "compute", "cards",
                                                   "cpu",    "ram",     "model"};
  for (const NodeInventory& node : reference.world().nodes) {
    ASSERT_FALSE(reference.NodeFits(node, request)) << "would have fitted on " << node.name;
  }
  ASSERT_EQ(kResources.count(scarcity.resource), 1u) << scarcity.resource;
  ASSERT_LT(scarcity.available, scarcity.asked);
  ASSERT_EQ(scarcity.message.find(scarcity.resource + ": "), 0u) << scarcity.message;
  World empty = reference.world();
  for (NodeInventory& node : empty.nodes) {
    empty.foreign[node.name] = {};
    for (device::Card& card : node.cards) card.healthy = true;
  }
  const Reference fresh(empty);
  const bool could =
      std::any_of(empty.nodes.begin(), empty.nodes.end(),
                  [&](const NodeInventory& node) { return fresh.NodeFits(node, request); });
  ASSERT_EQ(scarcity.never, !could) << scarcity.message;
}

void Load(Engine& engine, const World& world) {
  for (const NodeInventory& node : world.nodes) {
    ASSERT_TRUE(engine.UpdateNode(node, world.foreign.at(node.name)));
  }
}

TEST(EngineProperty, AgreesWithTheReferenceOver100000Steps) {
  std::uint64_t steps = 0;
  std::uint64_t placed = 0;
  std::uint64_t scarce = 0;
  std::uint64_t never = 0;
  for (std::uint64_t seed = 1; steps < 100'000; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Rng rng(seed);
    World world = RandomWorld(rng);
    Engine engine;
    Load(engine, world);
    Reference reference(world);
    const std::uint64_t length = rng.Between(50, 600);
    for (std::uint64_t i = 0; i < length; ++i, ++steps) {
      if (rng.Chance(400) && !reference.live().empty()) {
        auto victim = reference.live().begin();
        std::advance(victim, static_cast<std::ptrdiff_t>(rng.Below(reference.live().size())));
        const std::string id = victim->first;
        ASSERT_TRUE(engine.Release(id));
        reference.Remove(id);
        continue;
      }
      if (rng.Chance(20) && !world.nodes.empty()) {
        // A heartbeat in between changes nothing.
        const NodeInventory& node = world.nodes[rng.Below(world.nodes.size())];
        if (rng.Chance(300)) engine.RemoveNode(node.name);
        ASSERT_TRUE(engine.UpdateNode(node, world.foreign.at(node.name)));
        continue;
      }
      const Request request = RandomRequest(rng, "r" + std::to_string(i));
      const auto answer = Place(engine, request);
      if (const auto* placement = std::get_if<Placement>(&answer)) {
        ++placed;
        ASSERT_NO_FATAL_FAILURE(CheckPlacement(reference, request, *placement));
        reference.Add(request, *placement);
      } else {
        ++scarce;
        never += std::get<Scarcity>(answer).never ? 1 : 0;
        ASSERT_NO_FATAL_FAILURE(CheckScarcity(reference, request, std::get<Scarcity>(answer)));
      }
    }
    // Nothing is lost: once all is released, the engine answers like a new one.
    while (!reference.live().empty()) {
      const std::string id = reference.live().begin()->first;
      ASSERT_TRUE(engine.Release(id));
      reference.Remove(id);
    }
    ASSERT_EQ(engine.reservations(), 0u);
    for (const NodeUse& node : engine.Nodes()) {
      ASSERT_EQ(node.cpu_reserved_millis, 0u);
      ASSERT_EQ(node.ram_reserved_bytes, 0u);
      for (const CardUse& card : node.cards) {
        ASSERT_EQ(card.reserved_bytes, 0u);
        ASSERT_EQ(card.reserved_permille, 0u);
      }
    }
  }
  // The generator reaches every kind of answer.
  EXPECT_GT(placed, 10'000u);
  EXPECT_GT(scarce, 10'000u);
  EXPECT_GT(never, 1'000u);
}

std::string Describe(const Answer& answer) {
  if (const auto* scarcity = std::get_if<Scarcity>(&answer)) return scarcity->message;
  const auto& placement = std::get<Placement>(answer);
  std::string text = placement.node;
  for (const auto& share : placement.shares) text += " " + share.card_uuid;
  return text;
}

TEST(EngineProperty, TheOrderInWhichNodesAndCardsArriveDoesNotMatter) {
  int compared = 0;
  for (std::uint64_t seed = 1; seed <= 150; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Rng rng(seed * 977);
    const World world = RandomWorld(rng);
    World shuffled = world;
    for (std::size_t i = shuffled.nodes.size(); i > 1; --i) {
      std::swap(shuffled.nodes[i - 1], shuffled.nodes[rng.Below(i)]);
    }
    for (NodeInventory& node : shuffled.nodes) std::reverse(node.cards.begin(), node.cards.end());
    Engine a;
    Engine b;
    Load(a, world);
    Load(b, shuffled);
    for (int i = 0; i < 60; ++i) {
      const Request request = RandomRequest(rng, "r" + std::to_string(i));
      const auto answer = Place(a, request);
      ASSERT_EQ(Describe(answer), Describe(Place(b, request)));
      ++compared;
      if (rng.Chance(300)) {
        const std::string gone = "r" + std::to_string(rng.Below(60));
        ASSERT_EQ(a.Release(gone), b.Release(gone));
      }
    }
  }
  EXPECT_EQ(compared, 150 * 60);
}

TEST(EngineProperty, BinpackLeavesRoomThatSpreadDoesNot) {
  // Thirds on eight cards, then one whole card is asked: packed thirds leave cards empty, spread
  // ones do not.
  for (const Policy policy : {Policy::kBinpack, Policy::kSpread}) {
    Engine engine;
    for (const char* name : {"a", "b"}) {
      NodeInventory node{name, 64'000, 512 * kGiB, {}};
      for (int i = 0; i < 4; ++i) {
        device::Card card;
        card.uuid = std::string(name) + std::to_string(i);
        card.memory_bytes = 24 * kGiB;
        node.cards.push_back(card);
      }
      ASSERT_TRUE(engine.UpdateNode(node));
    }
    Request third;
    third.memory_bytes = 8 * kGiB;
    third.compute = {333};
    third.node_policy = third.card_policy = policy;
    std::set<std::string> used;
    for (int i = 0; i < 8; ++i) {
      third.id = "t" + std::to_string(i);
      const auto answer = Place(engine, third);
      ASSERT_TRUE(std::holds_alternative<Placement>(answer));
      used.insert(std::get<Placement>(answer).shares[0].card_uuid);
    }
    EXPECT_EQ(used.size(), policy == Policy::kBinpack ? 3u : 8u);
    Request whole = third;
    whole.id = "whole";
    whole.memory_bytes = 24 * kGiB;
    whole.compute = {1000};
    EXPECT_EQ(engine.Place(whole) != nullptr, policy == Policy::kBinpack);
  }
}

}  // namespace
}  // namespace tessera::placement
