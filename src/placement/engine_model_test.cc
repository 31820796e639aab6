// The engine against a model that knows nothing but a list of what was placed and what each node
// said last, and asks every rule of every card again for every question. Events of all kinds come
// in an order drawn from a seed: requests with every selector, releases, nodes that fail, rejoin,
// shrink and change pools, facts restored, policies changed hot.
//
// TESSERA_ENGINE_EVENTS sets how many events are run (100'000).
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <set>

#include "base/rng.h"
#include "placement/engine.h"
#include "placement/test_answer.h"

namespace tessera::placement {
namespace {

constexpr std::uint64_t kWhole = 1000;
const char* const kModels[] = {"NVIDIA T4", "NVIDIA A100-80GB", "NVIDIA A10", "NVIDIA H200"};
const char* const kTenants[] = {"", "red", "green", "blue"};
const char* const kPools[] = {"", "", "east", "west"};

std::string LowerText(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

struct NodeState {
  NodeInventory inventory;
  ForeignUse foreign;
};

NodeState RandomNode(Rng& rng, int n) {
  NodeState node;
  NodeInventory& inventory = node.inventory;
  inventory.name = "node-" + std::to_string(n);
  inventory.cpu_millis = static_cast<std::uint32_t>(rng.Between(4, 64) * 1000);
  inventory.ram_bytes = rng.Between(8, 64) * 4 * kGiB;
  inventory.disk_bytes = rng.Between(0, 100) * kGiB;
  inventory.pool = kPools[rng.Below(4)];
  if (rng.Chance(200))
    inventory.slices_per_card_max = static_cast<std::uint32_t>(rng.Between(1, 4));
  if (rng.Chance(200))
    inventory.slices_per_node_max = static_cast<std::uint32_t>(rng.Between(1, 9));
  if (rng.Chance(500)) inventory.isolations = static_cast<std::uint8_t>(rng.Between(1, 63));
  if (rng.Chance(400)) {
    inventory.oversell_compute = {static_cast<std::uint32_t>(rng.Between(1000, 1800))};
    inventory.oversell_memory = {static_cast<std::uint32_t>(rng.Between(1000, 1400))};
  }
  const std::uint64_t cards = rng.Between(0, 6);
  for (std::uint64_t c = 0; c < cards; ++c) {
    device::Card card;
    card.uuid = "GPU-" + std::to_string(n) + "-" + std::to_string(c);
    card.model = kModels[rng.Below(4)];
    card.memory_bytes = rng.Between(4, 80) * kGiB + rng.Below(5);
    card.numa_node = static_cast<int>(rng.Below(3)) - 1;
    card.healthy = !rng.Chance(80);
    for (std::uint64_t peer = 0; peer < c && rng.Chance(500); ++peer) {
      card.links.push_back({"GPU-" + std::to_string(n) + "-" + std::to_string(peer),
                            static_cast<std::uint32_t>(rng.Below(100))});
    }
    inventory.cards.push_back(card);
    if (rng.Chance(100)) {
      node.foreign.cards.push_back({card.uuid,
                                    rng.Between(1, 20) * kGiB,
                                    {static_cast<std::uint32_t>(rng.Between(1, 600))}});
    }
  }
  if (rng.Chance(100)) node.foreign.cpu_millis = static_cast<std::uint32_t>(rng.Below(20000));
  return node;
}

Request RandomRequest(Rng& rng, std::string id) {
  Request request;
  request.id = std::move(id);
  request.slices = rng.Chance(700) ? 1 : static_cast<std::uint32_t>(rng.Between(2, 4));
  request.memory_bytes = rng.Between(1, 40) * (kGiB / 2) + rng.Below(3);
  request.compute = {static_cast<std::uint32_t>(rng.Between(1, rng.Chance(800) ? 400 : 1000))};
  request.cpu_millis = static_cast<std::uint32_t>(rng.Below(8000));
  request.ram_bytes = rng.Below(16) * kGiB;
  if (rng.Chance(200)) request.disk_bytes = rng.Below(30) * kGiB + rng.Below(3);
  if (rng.Chance(150)) request.model = rng.Chance(500) ? "a10" : "H200";
  if (rng.Chance(100)) request.models = {"t4", "A100"};
  if (rng.Chance(100)) request.models_excluded = {"A100", "none"};
  const auto card = [&] {
    return "GPU-" + std::to_string(rng.Below(9)) + "-" + std::to_string(rng.Below(6));
  };
  if (rng.Chance(50) && request.slices == 1) request.card_uuid = card();
  if (rng.Chance(50)) {
    for (int i = 0; i < 12; ++i) request.cards.push_back(card());
  }
  if (rng.Chance(50)) request.cards_excluded = {card(), card(), card()};
  if (rng.Chance(200)) request.pool = kPools[rng.Below(4)];
  if (rng.Chance(200)) request.isolation = static_cast<Isolation>(rng.Below(kIsolations));
  request.exclusive = rng.Chance(60);
  if (rng.Chance(200)) request.numa = rng.Chance(500) ? Numa::kPrefer : Numa::kRequire;
  if (rng.Chance(150)) request.links = Links::kBest;
  request.tenant = kTenants[rng.Below(4)];
  if (!request.tenant.empty() && rng.Chance(150)) {
    request.apart = rng.Chance(500) ? Apart::kCard : Apart::kNode;
    const std::string other = kTenants[rng.Between(1, 3)];
    if (rng.Chance(500) && other != request.tenant) request.apart_from = {other};
  }
  if (rng.Chance(700)) {
    request.node_policy = rng.Chance(500) ? Policy::kBinpack : Policy::kSpread;
    request.card_policy = rng.Chance(500) ? Policy::kBinpack : Policy::kSpread;
  }
  return request;
}

class Model {
 public:
  struct Live {
    Request request;
    Placement placement;
  };
  std::map<std::string, NodeState> nodes;     // known just now
  std::map<std::string, std::string> policy;  // by pool
  std::map<std::string, Live> live;

  static bool Exclusive(const Request& request) {
    return request.exclusive || request.isolation == Isolation::kWhole ||
           request.isolation == Isolation::kPassthrough;
  }
  static std::uint64_t Sold(std::uint64_t physical, Permille ratio) {
    __extension__ typedef unsigned __int128 Wide;
    return static_cast<std::uint64_t>(Wide{physical} * ratio.value / kWhole);
  }
  static Apart Distance(const Request& one, const std::string& other) {
    if (one.apart == Apart::kNone || (one.tenant == other && !other.empty())) return Apart::kNone;
    const bool named =
        std::find(one.apart_from.begin(), one.apart_from.end(), other) != one.apart_from.end();
    return one.apart_from.empty() || named ? one.apart : Apart::kNone;
  }

  struct Room {
    std::int64_t memory = 0;
    std::int64_t permille = 0;
    std::int64_t slices = 0;
    bool idle = true;
    bool taken = false;  // by an exclusive slice
    std::uint8_t modes = 0;
    bool apart = false;  // another tenant is there
  };
  Room RoomOn(const NodeState& node, const device::Card& card, const Request& request) const {
    const NodeInventory& inventory = node.inventory;
    Room room;
    room.memory = static_cast<std::int64_t>(Sold(card.memory_bytes, inventory.oversell_memory));
    room.permille = inventory.oversell_compute.value;
    room.slices = inventory.slices_per_card_max == 0 ? INT64_MAX : inventory.slices_per_card_max;
    room.modes = inventory.isolations;
    for (const auto& share : node.foreign.cards) {
      if (share.card_uuid != card.uuid) continue;
      room.memory -= static_cast<std::int64_t>(share.memory_bytes);
      room.permille -= share.compute.value;
      room.idle = false;
      room.modes &= Bit(Isolation::kShim);
      room.apart = room.apart || Distance(request, "") == Apart::kCard;
    }
    for (const auto& [id, one] : live) {
      if (one.placement.node != inventory.name) continue;
      for (const auto& share : one.placement.shares) {
        if (share.card_uuid != card.uuid) continue;
        room.memory -= static_cast<std::int64_t>(share.memory_bytes);
        room.permille -= share.compute.value;
        room.slices -= 1;
        room.idle = false;
        room.taken = room.taken || Exclusive(one.request);
        room.modes &= Bit(one.request.isolation);
        room.apart = room.apart || Distance(request, one.request.tenant) == Apart::kCard ||
                     Distance(one.request, request.tenant) == Apart::kCard;
      }
    }
    return room;
  }
  static bool Selected(const device::Card& card, const Request& request) {
    const std::string model = LowerText(card.model);
    const auto in = [&](const std::string& part) {
      return model.find(LowerText(part)) != std::string::npos;
    };
    const auto is = [&](const std::string& uuid) { return uuid == card.uuid; };
    return in(request.model) &&
           (request.models.empty() ||
            std::any_of(request.models.begin(), request.models.end(), in)) &&
           std::none_of(request.models_excluded.begin(), request.models_excluded.end(), in) &&
           (request.card_uuid.empty() || is(request.card_uuid)) &&
           (request.cards.empty() || std::any_of(request.cards.begin(), request.cards.end(), is)) &&
           std::none_of(request.cards_excluded.begin(), request.cards_excluded.end(), is);
  }
  bool CardFits(const NodeState& node, const device::Card& card, const Request& request) const {
    if (!Selected(card, request) || !card.healthy) return false;
    const Room room = RoomOn(node, card, request);
    return room.memory >= static_cast<std::int64_t>(request.memory_bytes) &&
           card.memory_bytes >= request.memory_bytes &&
           room.permille >= std::int64_t{request.compute.value} && room.slices >= 1 &&
           !room.taken && (!Exclusive(request) || room.idle) &&
           (room.modes & Bit(request.isolation)) != 0 && !room.apart;
  }
  // Whether the node holds it, on one NUMA node if `numa`.
  bool NodeFits(const NodeState& node, const Request& request, bool numa) const {
    const NodeInventory& inventory = node.inventory;
    if (!request.pool.empty() && request.pool != inventory.pool) return false;
    std::int64_t cpu = std::int64_t{inventory.cpu_millis} - node.foreign.cpu_millis;
    auto ram = static_cast<std::int64_t>(inventory.ram_bytes);
    auto disk = static_cast<std::int64_t>(inventory.disk_bytes);
    std::int64_t slices =
        inventory.slices_per_node_max == 0 ? INT64_MAX : inventory.slices_per_node_max;
    for (const auto& [id, one] : live) {
      if (one.placement.node != inventory.name) continue;
      cpu -= one.request.cpu_millis;
      ram -= static_cast<std::int64_t>(one.request.ram_bytes);
      disk -= static_cast<std::int64_t>(one.request.disk_bytes);
      slices -= static_cast<std::int64_t>(one.placement.shares.size());
      if (Distance(request, one.request.tenant) == Apart::kNode ||
          Distance(one.request, request.tenant) == Apart::kNode) {
        return false;
      }
    }
    if (Distance(request, "") == Apart::kNode && !node.foreign.cards.empty()) return false;
    // Asking for none fits even a node that others already use beyond its size.
    const auto short_of = [](std::int64_t left, std::uint64_t asked) {
      return asked > 0 && left < static_cast<std::int64_t>(asked);
    };
    if (short_of(cpu, request.cpu_millis) || short_of(ram, request.ram_bytes) ||
        short_of(disk, request.disk_bytes) || short_of(slices, request.slices)) {
      return false;
    }
    std::map<int, std::uint32_t> fitting;
    std::uint32_t all = 0;
    for (const device::Card& card : inventory.cards) {
      if (!CardFits(node, card, request)) continue;
      ++all;
      if (card.numa_node >= 0) ++fitting[card.numa_node];
    }
    if (!numa) return all >= request.slices;
    return std::any_of(fitting.begin(), fitting.end(),
                       [&](const auto& one) { return one.second >= request.slices; });
  }
  // What binpack and spread compare.
  std::int64_t LeftAfter(const NodeState& node, const Request& request) const {
    __extension__ typedef __int128 Wide;
    Wide memory = 0, memory_left = 0, permille = 0, permille_left = 0;
    for (const device::Card& card : node.inventory.cards) {
      if (!card.healthy) continue;
      const Room room = RoomOn(node, card, request);
      memory += Wide{Sold(card.memory_bytes, node.inventory.oversell_memory)};
      permille += node.inventory.oversell_compute.value;
      if (room.taken) continue;
      memory_left += std::max<std::int64_t>(0, room.memory);
      permille_left += std::max<std::int64_t>(0, room.permille);
    }
    memory_left -= Wide{request.memory_bytes} * request.slices;
    permille_left -= Wide{request.compute.value} * request.slices;
    return static_cast<std::int64_t>(memory_left * 1'000'000 / memory +
                                     permille_left * 1'000'000 / permille);
  }

  void CheckPlaced(const Request& request, const Placement& placement) const {
    const auto at = nodes.find(placement.node);
    ASSERT_NE(at, nodes.end()) << "placed on a node that is not known";
    const NodeState& node = at->second;
    ASSERT_EQ(placement.shares.size(), request.slices) << "not all or nothing";
    std::set<std::string> distinct;
    std::set<int> numa;
    for (const device::Share& share : placement.shares) {
      ASSERT_TRUE(distinct.insert(share.card_uuid).second);
      ASSERT_EQ(share.memory_bytes, request.memory_bytes);
      ASSERT_EQ(share.compute, request.compute);
      const auto card = std::find_if(node.inventory.cards.begin(), node.inventory.cards.end(),
                                     [&](const auto& c) { return c.uuid == share.card_uuid; });
      ASSERT_NE(card, node.inventory.cards.end());
      ASSERT_TRUE(CardFits(node, *card, request)) << share.card_uuid;
      numa.insert(card->numa_node);
    }
    const bool could_numa = std::any_of(nodes.begin(), nodes.end(), [&](const auto& one) {
      return one.second.inventory.pool == node.inventory.pool &&
             NodeFits(one.second, request, true);
    });
    const bool on_one =
        request.numa == Numa::kRequire || (request.numa == Numa::kPrefer && could_numa);
    ASSERT_TRUE(NodeFits(node, request, on_one));
    if (on_one) {
      ASSERT_EQ(numa.size(), 1u);
      ASSERT_GE(*numa.begin(), 0);
    }
    // The best node of the first pool that has room, where the rule is simple enough to say so.
    const auto known = policy.find(node.inventory.pool);
    const std::string by_pool = known == policy.end() ? "binpack" : known->second;
    const bool own = request.node_policy != Policy::kPool || request.card_policy != Policy::kPool;
    const bool spread = own ? request.node_policy == Policy::kSpread : by_pool == "spread";
    const bool simple = (own || by_pool == "binpack" || by_pool == "spread") && !Exclusive(request);
    const std::int64_t left = simple ? LeftAfter(node, request) : 0;
    for (const auto& [name, other] : nodes) {
      if (!NodeFits(other, request, on_one)) continue;
      if (request.numa != Numa::kPrefer) {
        ASSERT_GE(other.inventory.pool, node.inventory.pool) << "an earlier pool had room";
      }
      if (!simple || name == placement.node || other.inventory.pool != node.inventory.pool)
        continue;
      const std::int64_t its = LeftAfter(other, request);
      if (its == left) {
        ASSERT_LT(placement.node, name) << "a tie goes to the smaller name";
      } else {
        ASSERT_EQ(its < left, spread) << name << " has " << its << ", it chose " << left;
      }
    }
  }
  void CheckRefused(const Request& request, const Scarcity& scarcity) const {
    for (const auto& [name, node] : nodes) {
      ASSERT_FALSE(NodeFits(node, request, request.numa == Numa::kRequire))
          << "would have fitted on " << name << ": " << scarcity.message;
    }
    ASSERT_FALSE(scarcity.resource.empty());
    ASSERT_EQ(scarcity.message.find(scarcity.resource + ": "), 0u) << scarcity.message;
    ASSERT_LT(scarcity.available, scarcity.asked) << scarcity.message;
    Model empty;
    empty.nodes = nodes;
    for (auto& [name, node] : empty.nodes) {
      node.foreign = {};
      for (device::Card& card : node.inventory.cards) card.healthy = true;
    }
    const bool could = std::any_of(empty.nodes.begin(), empty.nodes.end(), [&](const auto& one) {
      return empty.NodeFits(one.second, request, request.numa == Numa::kRequire);
    });
    ASSERT_EQ(scarcity.never, !could && !nodes.empty()) << scarcity.message;
  }
  // What the engine says is reserved is what the list adds up to, and no card is oversold beyond
  // its ratio by what was placed while it was as large as now.
  void CheckSums(const Engine& engine, bool shrunk) const {
    ASSERT_EQ(engine.reservations(), live.size());
    const std::vector<NodeUse> uses = engine.Nodes();
    ASSERT_EQ(uses.size(), nodes.size());
    for (const NodeUse& use : uses) {
      std::uint64_t cpu = 0, ram = 0;
      std::map<std::string, std::pair<std::uint64_t, std::uint64_t>> cards;
      for (const auto& [id, one] : live) {
        if (one.placement.node != use.name) continue;
        cpu += one.request.cpu_millis;
        ram += one.request.ram_bytes;
        for (const auto& share : one.placement.shares) {
          cards[share.card_uuid].first += share.memory_bytes;
          cards[share.card_uuid].second += share.compute.value;
        }
      }
      ASSERT_EQ(use.cpu_reserved_millis, cpu);
      ASSERT_EQ(use.ram_reserved_bytes, ram);
      const NodeInventory& inventory = nodes.at(use.name).inventory;
      for (const CardUse& card : use.cards) {
        ASSERT_EQ(card.reserved_bytes, cards[card.card.uuid].first);
        ASSERT_EQ(card.reserved_permille, cards[card.card.uuid].second);
        if (shrunk) continue;
        ASSERT_LE(card.reserved_bytes, Sold(card.card.memory_bytes, inventory.oversell_memory));
        ASSERT_LE(card.reserved_permille, inventory.oversell_compute.value);
      }
    }
  }
};

std::string Describe(const Answer& answer) {
  if (const auto* scarcity = std::get_if<Scarcity>(&answer)) return "!" + scarcity->message;
  const auto& placement = std::get<Placement>(answer);
  std::string text = placement.node;
  for (const auto& share : placement.shares) text += " " + share.card_uuid;
  return text;
}

struct Tally {
  std::uint64_t events = 0, placed = 0, refused = 0, explained = 0, released = 0, failed = 0,
                joined = 0, restored = 0, policies = 0, worlds = 0;
  std::uint64_t transcript = 1469598103934665603ull;
  void Note(const std::string& text) {
    for (const char c : text) {
      transcript = (transcript ^ static_cast<unsigned char>(c)) * 1099511628211ull;
    }
  }
};

// One world from a seed.
void RunWorld(std::uint64_t seed, std::uint64_t length, Tally* tally) {
  SCOPED_TRACE("seed " + std::to_string(seed));
  Rng rng(seed);
  Engine engine;
  Model model;
  ++tally->worlds;
  const int nodes = static_cast<int>(rng.Between(1, 9));
  // In every other world nodes come back as they went: then no card may ever be oversold.
  const bool steady = rng.Chance(500);
  std::map<std::string, NodeState> all;
  for (int n = 0; n < nodes; ++n) {
    const NodeState node = RandomNode(rng, n);
    all[node.inventory.name] = node;
    if (rng.Chance(900)) {
      ASSERT_TRUE(engine.UpdateNode(node.inventory, node.foreign));
      model.nodes[node.inventory.name] = node;
    }
  }
  const auto any_node = [&]() -> NodeState& {
    auto at = all.begin();
    std::advance(at, static_cast<std::ptrdiff_t>(rng.Below(all.size())));
    return at->second;
  };
  for (std::uint64_t i = 0; i < length; ++i, ++tally->events) {
    const std::uint64_t event = rng.Below(1000);
    if (event < 380 && model.live.size() * 2 > rng.Below(40)) {
      auto victim = model.live.begin();
      std::advance(victim, static_cast<std::ptrdiff_t>(rng.Below(model.live.size())));
      ASSERT_TRUE(engine.Release(victim->first));
      ASSERT_FALSE(engine.Release(victim->first));
      model.live.erase(victim);
      ++tally->released;
    } else if (event >= 380 && event < 395) {
      const std::string name = any_node().inventory.name;
      engine.RemoveNode(name);
      model.nodes.erase(name);
      ++tally->failed;
    } else if (event >= 395 && event < 430) {
      NodeState& node = any_node();
      if (!steady && rng.Chance(300)) {
        const std::string name = node.inventory.name;
        node = RandomNode(rng, std::atoi(name.c_str() + 5));
      } else if (rng.Chance(300) && !node.inventory.cards.empty()) {
        device::Card& card = node.inventory.cards[rng.Below(node.inventory.cards.size())];
        card.healthy = !card.healthy;
      }
      ASSERT_TRUE(engine.UpdateNode(node.inventory, node.foreign));
      model.nodes[node.inventory.name] = node;
      ++tally->joined;
    } else if (event >= 430 && event < 440) {
      static const char* const kPolicies[] = {"tessera", "fgd", "binpack", "spread", "bestfit"};
      const std::string pool = kPools[rng.Below(4)];
      const std::string policy = kPolicies[rng.Below(5)];
      ASSERT_TRUE(engine.SetPolicy(pool, policy));
      ASSERT_EQ(engine.PolicyOf(pool), policy);
      model.policy[pool] = policy;
      ++tally->policies;
    } else if (event >= 440 && event < 445 && !steady) {
      // A fact, whether or not it fits and whether or not the node is there.
      Request request = RandomRequest(rng, "f" + std::to_string(i));
      request.slices = 1;
      const std::string node = any_node().inventory.name;
      const Placement placement{
          request.id,
          node,
          {{"GPU-" + node.substr(5) + "-0", request.memory_bytes, request.compute}}};
      const Reservation fact{placement,          request.cpu_millis, request.ram_bytes,
                             request.disk_bytes, request.isolation,  Model::Exclusive(request),
                             request.tenant,     request.apart,      request.apart_from,
                             request.priority};
      ASSERT_TRUE(engine.Restore(fact));
      ASSERT_TRUE(engine.Restore(fact));
      model.live[request.id] = {request, placement};
      ++tally->restored;
    } else {
      const Request request = RandomRequest(rng, "r" + std::to_string(i));
      ASSERT_TRUE(Validate(request)) << Validate(request).error().ToString();
      Explanation why;
      const bool explain = rng.Chance(100);
      if (explain) why = engine.Explain(request);
      const auto answer = Place(engine, request);
      tally->Note(Describe(answer));
      if (explain) {
        // What Explain finds by looking at every node is what the index found.
        ++tally->explained;
        std::uint64_t filtered = 0;
        for (const auto& one : why.filtered) {
          ASSERT_FALSE(one.rule.empty());
          ASSERT_EQ(one.message.find(one.rule + ": "), 0u) << one.message;
          ASSERT_EQ(model.nodes.count(one.example_node), 1u);
          filtered += one.nodes;
        }
        ASSERT_LE(filtered + why.best.size(), model.nodes.size());
        if (why.best.size() < kExplainedCandidatesMax) {
          ASSERT_EQ(filtered + why.best.size(), model.nodes.size());
        }
        for (const auto& one : why.best) {
          double sum = 0;
          for (const auto& [part, value] : one.parts) sum += value;
          ASSERT_GT(sum, one.score - 1e-6) << one.node;
          ASSERT_LT(sum, one.score + 0.024 + 1e-6) << "but for the last rounding";
        }
        std::string first = "nothing";
        if (!why.best.empty()) {
          first = why.best[0].node;
          for (const std::string& card : why.best[0].cards) first += " " + card;
          ASSERT_EQ(Describe(answer), first);
        } else {
          ASSERT_EQ(Describe(answer)[0], '!');
        }
      }
      if (const auto* placement = std::get_if<Placement>(&answer)) {
        ++tally->placed;
        ASSERT_NO_FATAL_FAILURE(model.CheckPlaced(request, *placement));
        model.live[request.id] = {request, *placement};
        ASSERT_EQ(Describe(Place(engine, request)), Describe(answer)) << "once per id";
      } else {
        ++tally->refused;
        ASSERT_NO_FATAL_FAILURE(model.CheckRefused(request, std::get<Scarcity>(answer)));
        ASSERT_FALSE(engine.Find(request.id));
      }
    }
    if (i % 64 == 0) engine.Learn();
    if (i % 16 == 0) {
      ASSERT_NO_FATAL_FAILURE(model.CheckSums(engine, !steady));
    }
  }
  // Nothing is lost: once all is released, the engine answers like a new one.
  while (!model.live.empty()) {
    ASSERT_TRUE(engine.Release(model.live.begin()->first));
    model.live.erase(model.live.begin());
  }
  ASSERT_NO_FATAL_FAILURE(model.CheckSums(engine, false));
  Engine fresh;
  for (const auto& [name, node] : model.nodes) {
    ASSERT_TRUE(fresh.UpdateNode(node.inventory, node.foreign));
  }
  for (int i = 0; i < 10; ++i) {
    Request request = RandomRequest(rng, "last" + std::to_string(i));
    request.node_policy = Policy::kBinpack;
    ASSERT_EQ(Describe(Place(engine, request)), Describe(Place(fresh, request)));
  }
}

std::uint64_t Events() {
  const char* const asked = std::getenv("TESSERA_ENGINE_EVENTS");
  return asked != nullptr ? std::strtoull(asked, nullptr, 10) : 100'000;
}

TEST(EngineModel, EveryEventIsWhatTheModelSays) {
  Tally tally;
  std::uint64_t seed = 0;
  while (tally.events < Events()) {
    ++seed;
    ASSERT_NO_FATAL_FAILURE(RunWorld(seed, seed % 40 == 0 ? 4000 : 50 + seed * 7919 % 400, &tally));
  }
  std::printf(
      "%llu events in %llu worlds: %llu placed, %llu refused, %llu explained, %llu released, %llu "
      "failed, %llu joined, %llu restored, %llu policies\n",
      static_cast<unsigned long long>(tally.events), static_cast<unsigned long long>(tally.worlds),
      static_cast<unsigned long long>(tally.placed), static_cast<unsigned long long>(tally.refused),
      static_cast<unsigned long long>(tally.explained),
      static_cast<unsigned long long>(tally.released),
      static_cast<unsigned long long>(tally.failed), static_cast<unsigned long long>(tally.joined),
      static_cast<unsigned long long>(tally.restored),
      static_cast<unsigned long long>(tally.policies));
  // The generator reaches every kind of event.
  EXPECT_GT(tally.placed, tally.events / 10);
  EXPECT_GT(tally.refused, tally.events / 10);
  EXPECT_GT(tally.explained, tally.events / 50);
  EXPECT_GT(tally.failed, tally.events / 200);
  EXPECT_GT(tally.joined, tally.events / 100);
  EXPECT_GT(tally.restored, tally.events / 1000);
  EXPECT_GT(tally.policies, tally.events / 200);
}

TEST(EngineModel, TheSameSeedGivesTheSameAnswers) {
  Tally a, b, other;
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    RunWorld(seed, 100, &a);
    RunWorld(seed, 100, &b);
    RunWorld(seed + 100, 100, &other);
  }
  EXPECT_EQ(a.transcript, b.transcript);
  EXPECT_NE(a.transcript, other.transcript);
}

// Whatever the policy, learning ones included: the order in which nodes, cards and links come does
// not matter, nor does a node that fails and rejoins between two decisions.
TEST(EngineModel, TheOrderOfNodesDoesNotMatterToAnyPolicy) {
  for (const std::string& policy : ScorerNames()) {
    int placed = 0;
    for (std::uint64_t seed = 1; seed <= 8; ++seed) {
      SCOPED_TRACE(policy + ", seed " + std::to_string(seed));
      Rng rng(seed * 977);
      std::vector<NodeState> nodes;
      for (int n = 0; n < 8; ++n) nodes.push_back(RandomNode(rng, n));
      std::vector<NodeState> shuffled = nodes;
      for (std::size_t i = shuffled.size(); i > 1; --i) {
        std::swap(shuffled[i - 1], shuffled[rng.Below(i)]);
      }
      Engine a;
      Engine b;
      for (const char* pool : kPools) {
        ASSERT_TRUE(a.SetPolicy(pool, policy));
        ASSERT_TRUE(b.SetPolicy(pool, policy));
      }
      for (const NodeState& node : nodes) ASSERT_TRUE(a.UpdateNode(node.inventory, node.foreign));
      for (NodeState node : shuffled) {
        std::reverse(node.inventory.cards.begin(), node.inventory.cards.end());
        ASSERT_TRUE(b.UpdateNode(node.inventory, node.foreign));
      }
      for (int i = 0; i < 120; ++i) {
        Request request = RandomRequest(rng, "r" + std::to_string(i));
        request.node_policy = request.card_policy = Policy::kPool;
        const auto answer = Place(a, request);
        placed += std::holds_alternative<Placement>(answer) ? 1 : 0;
        ASSERT_EQ(Describe(answer), Describe(Place(b, request)));
        if (rng.Chance(100)) {
          a.Learn();
          b.Learn();
        }
        if (rng.Chance(300)) {
          const std::string gone = "r" + std::to_string(rng.Below(120));
          ASSERT_EQ(a.Release(gone), b.Release(gone));
        }
        if (rng.Chance(200)) {
          const NodeState& node = nodes[rng.Below(nodes.size())];
          b.RemoveNode(node.inventory.name);
          ASSERT_TRUE(b.UpdateNode(node.inventory, node.foreign));
        }
      }
    }
    EXPECT_GT(placed, 200) << policy;
  }
}

}  // namespace
}  // namespace tessera::placement
