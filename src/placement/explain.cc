// Why requests fit or not: the scarcity of a refusal, and Explain.
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "placement/engine_state.h"

namespace tessera::placement {
namespace {

__extension__ typedef unsigned __int128 Wide;

constexpr std::uint64_t kMillion = 1'000'000;
// A shortage of kind (no such card) is worse than any shortage of amount.
constexpr std::uint64_t kWrongKind = 2 * kMillion;
constexpr std::uint64_t kWrongPool = 4 * kMillion;

std::uint64_t Millionths(std::uint64_t part, std::uint64_t whole) {
  if (whole == 0) return 0;
  return static_cast<std::uint64_t>(Wide{part} * kMillion / whole);
}

std::string Ordinal(std::uint32_t n) {
  if (n == 1) return "best card";
  return "best node's " + std::to_string(n) + " freest cards";
}

std::string EachCard(const Request& request) {
  return request.slices == 1 ? " a card"
                             : " on each of " + std::to_string(request.slices) + " cards";
}

std::string Join(const std::vector<std::string>& list) {
  std::string text;
  for (const std::string& one : list) text += (text.empty() ? "" : ", ") + one;
  return text;
}

// "H200", "one of A10, A100", "A10 but none of A100".
std::string Models(const Request& request) {
  std::string text = request.model;
  if (!request.models.empty()) {
    text += (text.empty() ? "one of " : " and one of ") + Join(request.models);
  }
  if (!request.models_excluded.empty()) {
    text += (text.empty() ? "none of " : " but none of ") + Join(request.models_excluded);
  }
  return text;
}

}  // namespace

bool Engine::NodeView::Card::Takes(const Asked& asked) const {
  const Request& request = asked.request;
  return memory_left >= request.memory_bytes && permille_left >= request.compute.value &&
         slices_left > 0 && (modes & Bit(request.isolation)) != 0 && (!asked.exclusive || idle);
}

Engine::NodeView Engine::View(const Record& record, const Asked& asked, bool empty) {
  const Known& known = *record.known;
  const NodeInventory& inventory = known.inventory;
  NodeView view;
  view.modes = inventory.isolations;
  view.count = static_cast<std::uint32_t>(known.cards.size());
  const Fleet::Amounts amounts = AmountsOf(record);
  const auto whole = [&](std::uint64_t all, std::int64_t left) {
    return empty ? all : static_cast<std::uint64_t>(left);
  };
  view.cpu_left = whole(inventory.cpu_millis, amounts.cpu_left);
  view.ram_left = whole(inventory.ram_bytes, amounts.ram_left);
  view.disk_left = whole(inventory.disk_bytes, amounts.disk_left);
  view.slices_left = empty && inventory.slices_per_node_max > 0
                         ? inventory.slices_per_node_max
                         : static_cast<std::uint64_t>(amounts.slices_left);
  for (std::size_t i = 0; i < known.cards.size(); ++i) {
    const KnownCard& card = known.cards[i];
    NodeView::Card& one = view.cards[i];
    one.known = &card;
    if (empty) {
      one.memory_left = card.sell_bytes;
      one.permille_left = asked.request.guaranteed ? kWholeCardMilli : card.sell_permille;
      one.slices_left =
          inventory.slices_per_card_max == 0 ? kSlicesMax : inventory.slices_per_card_max;
      one.modes = inventory.isolations;
    } else {
      const Fleet::Card now = CardOf(record, i);
      one.memory_left = now.memory_left;
      one.permille_left = now.compute_left;
      if (asked.request.guaranteed) {
        one.memory_left = std::min(one.memory_left, now.guaranteed_memory_left);
        one.permille_left = std::min<std::uint64_t>(one.permille_left, now.guaranteed_compute_left);
      }
      one.slices_left = now.slices_left;
      one.modes = now.modes;
      one.healthy = now.healthy;
      one.idle = now.idle;
    }
    // A slice is never larger than the card, however far the card is oversold.
    one.memory_left = std::min(one.memory_left, card.card.memory_bytes);
  }
  return view;
}

// Whether an empty node would hold the request.
bool Engine::Holds(const NodeView& node, const Asked& asked) {
  const Request& request = asked.request;
  if (node.cpu_left < request.cpu_millis || node.ram_left < request.ram_bytes ||
      node.disk_left < request.disk_bytes || node.slices_left < request.slices) {
    return false;
  }
  std::uint64_t fitting = 0;
  for (std::uint32_t i = 0; i < node.count; ++i) {
    const NodeView::Card& card = node.cards[i];
    const bool fits = asked.Model(card.known->model_lower) && asked.Card(card.known->card.uuid) &&
                      card.Takes(asked);
    fitting |= std::uint64_t{fits} << i;
  }
  if (request.numa == Numa::kRequire) {
    fitting = OneNumaNode(fitting, request.slices,
                          [&](std::size_t i) { return node.cards[i].known->card.numa_node; });
  }
  return std::popcount(fitting) >= static_cast<int>(request.slices);
}

// What a node lacks most of. `tell`: with the message.
Engine::Shortage Engine::Lacking(const Record& record, const Asked& asked, bool empty,
                                 bool tell) const {
  const Request& request = asked.request;
  const NodeView node = View(record, asked, empty);
  Shortage worst;
  const auto consider = [&](const char* resource, std::uint64_t wanted, std::uint64_t available,
                            std::uint64_t severity, auto message) {
    if (available >= wanted || severity <= worst.severity) return;
    worst.severity = severity;
    worst.scarcity = {resource, wanted, available, false, tell ? message() : std::string()};
  };
  const auto amount = [&](const char* resource, std::uint64_t wanted, std::uint64_t available,
                          auto message) {
    if (available >= wanted) return;
    consider(resource, wanted, available,
             std::max<std::uint64_t>(1, Millionths(wanted - available, wanted)), message);
  };
  const auto bytes = [&](const char* resource, std::uint64_t wanted, std::uint64_t left,
                         const char* have) {
    amount(resource, wanted, left, [&] {
      return std::string(resource) + ": asked " + FormatBytes(wanted) + ", " +
             FormatBytes(wanted - left) + " short on the best node (" + FormatBytes(left) + have;
    });
  };
  // Cards that some rule takes out of those of the right kind.
  const auto cards = [&](const char* resource, std::uint64_t available, auto message) {
    consider(
        resource, request.slices, available,
        kMillion + Millionths(request.slices - std::min<std::uint64_t>(available, request.slices),
                              request.slices) /
                       2,
        message);
    return available < request.slices;
  };
  const char* const have = empty ? " in all)" : " free)";
  const std::string slices = std::to_string(request.slices);

  if (!request.pool.empty() && request.pool != record.pool->name) {
    consider("pool", 1, 0, kWrongPool, [&] {
      return "pool: asked the pool " + request.pool + ", no node with room is in it";
    });
    return worst;
  }
  if ((node.modes & Bit(request.isolation)) == 0) {
    consider("isolation", 1, 0, kWrongKind + kMillion, [&] {
      return std::string("isolation: asked ") + IsolationName(request.isolation) +
             ", no node that comes near holds slices that way";
    });
    return worst;
  }
  std::vector<const NodeView::Card*> kind;
  for (std::uint32_t i = 0; i < node.count; ++i) {
    const KnownCard& known = *node.cards[i].known;
    if (asked.Model(known.model_lower) && asked.Card(known.card.uuid)) {
      kind.push_back(&node.cards[i]);
    }
  }
  const std::string models = tell ? Models(request) : "";
  const bool any_model = asked.AnyModel();
  if (kind.empty() && !request.card_uuid.empty()) {
    consider("cards", 1, 0, kWrongKind + kMillion, [&] {
      return "cards: asked the card " + request.card_uuid +
             (any_model ? "" : " of model " + models) + ", no node has it";
    });
    return worst;
  }
  const bool named = !request.cards.empty() || !request.cards_excluded.empty();
  if (kind.size() < request.slices && (!any_model || named)) {
    consider(any_model ? "cards" : "model", request.slices, kind.size(),
             kWrongKind + Millionths(request.slices - kind.size(), request.slices), [&] {
               return std::string(any_model ? "cards: asked " : "model: asked ") + slices +
                      " card(s)" + (any_model ? "" : " of model " + models) +
                      (named ? " among the named ones" : "") + " on one node, the best node has " +
                      std::to_string(kind.size());
             });
    return worst;
  }

  std::vector<std::uint64_t> memory;
  std::vector<std::uint64_t> permille;
  std::uint64_t healthy = 0, idle = 0, moded = 0, counted = 0, open = 0, both = 0;
  std::uint64_t fitting = 0;
  const bool apart = !empty && (request.apart != Apart::kNone || record.held.apart > 0);
  std::uint64_t allowed = kAllCards;
  if (apart) allowed = ApartFrom(record, request, allowed);
  for (const NodeView::Card* card : kind) {
    if (!card->healthy) continue;
    ++healthy;
    if (asked.exclusive && !card->idle) continue;
    ++idle;
    if ((card->modes & Bit(request.isolation)) == 0) continue;
    ++moded;
    if (card->slices_left == 0) continue;
    ++counted;
    const auto i = static_cast<std::size_t>(card - node.cards.data());
    if ((allowed >> i & 1) == 0) continue;
    ++open;
    memory.push_back(card->memory_left);
    permille.push_back(card->permille_left);
    if (!card->Takes(asked)) continue;
    ++both;
    fitting |= std::uint64_t{1} << i;
  }
  const auto best_has = [&](std::uint64_t count) {
    return " on one node, the best node has " + std::to_string(count);
  };
  const bool short_of_cards =
      cards("cards", healthy,
            [&] {
              return "cards: asked " + slices + " card(s)" + best_has(healthy) +
                     (empty ? "" : " healthy");
            }) ||
      cards("exclusive", idle,
            [&] {
              return "exclusive: asked " + slices + " card(s) that hold nothing" + best_has(idle);
            }) ||
      cards("isolation", moded,
            [&] {
              return "isolation: asked " + slices + " card(s) that hold " +
                     IsolationName(request.isolation) + " slices or none" + best_has(moded);
            }) ||
      cards("slices", counted,
            [&] {
              return "slices: asked " + slices + " card(s) with a slice left to give" +
                     best_has(counted);
            }) ||
      cards("tenant", open, [&] {
        return "tenant: asked " + slices + " card(s) apart from other tenants" + best_has(open);
      });
  if (!short_of_cards) {
    std::sort(memory.begin(), memory.end(), std::greater<>());
    std::sort(permille.begin(), permille.end(), std::greater<>());
    const std::uint64_t memory_left = memory[request.slices - 1];
    const std::uint64_t permille_left = permille[request.slices - 1];
    amount("memory", request.memory_bytes, memory_left, [&] {
      return "memory: asked " + FormatBytes(request.memory_bytes) + EachCard(request) + ", " +
             FormatBytes(request.memory_bytes - memory_left) + " short on the " +
             Ordinal(request.slices) + " (" + FormatBytes(memory_left) + have;
    });
    amount("compute", request.compute.value, permille_left, [&] {
      const auto left = static_cast<std::uint32_t>(permille_left);
      return "compute: asked " + FormatPermille(request.compute) + EachCard(request) + ", " +
             FormatPermille({request.compute.value - left}) + " short on the " +
             Ordinal(request.slices) + " (" + FormatPermille({left}) + have;
    });
    if (memory_left >= request.memory_bytes && permille_left >= request.compute.value) {
      amount("cards", request.slices, both, [&] {
        return "cards: asked " + slices + " card(s) with " + FormatBytes(request.memory_bytes) +
               " and " + FormatPermille(request.compute) + " both free, the best node has " +
               std::to_string(both);
      });
      if (both >= request.slices && request.numa == Numa::kRequire &&
          OneNumaNode(fitting, request.slices,
                      [&](std::size_t i) { return node.cards[i].known->card.numa_node; }) == 0) {
        consider("numa", request.slices, request.slices - 1, kMillion, [&] {
          return "numa: asked " + slices + " card(s) with room on one NUMA node, no node has them";
        });
      }
    }
  }
  amount("slices", request.slices, node.slices_left, [&] {
    return "slices: asked " + slices + ", the best node may hold " +
           std::to_string(node.slices_left) + " more";
  });
  amount("cpu", request.cpu_millis, node.cpu_left, [&] {
    return "cpu: asked " + std::to_string(request.cpu_millis) + " CPU millis, " +
           std::to_string(request.cpu_millis - node.cpu_left) + " short on the best node (" +
           std::to_string(node.cpu_left) + have;
  });
  bytes("ram", request.ram_bytes, node.ram_left, have);
  bytes("disk", request.disk_bytes, node.disk_left, have);
  return worst;
}

Scarcity Engine::WhyNot(const Request& request, const std::set<std::string>& avoid) const {
  if (holdings_.size() >= kReservationsMax) {
    return Scarcity{"cards", request.slices, 0, false,
                    "reservations_max (" + std::to_string(kReservationsMax) + ") is reached"};
  }
  if (known_ == 0) {
    return Scarcity{
        "cards", request.slices, 0, false,
        "cards: asked " + std::to_string(request.slices) + " card(s), no node is known"};
  }
  // If it would not fit an empty fleet either, the shortage is told against that.
  const Asked asked(request);
  const auto could_hold = [&](const Record& record) {
    return (request.pool.empty() || request.pool == record.pool->name) &&
           Holds(View(record, asked, true), asked);
  };
  const bool never = std::none_of(nodes_.begin(), nodes_.end(), [&](const auto& one) {
    return one.second->known && could_hold(*one.second);
  });
  const Record* closest = nullptr;
  std::uint64_t least = 0;
  for (const auto& [name, record] : nodes_) {
    if (!record->known) continue;
    if (!never && avoid.count(name) != 0) continue;
    // A node that could not hold it when empty is not the one to wait for.
    if (!never && !could_hold(*record)) continue;
    const std::uint64_t severity = Lacking(*record, asked, never, false).severity;
    if (closest != nullptr && severity >= least) continue;
    closest = record.get();
    least = severity;
  }
  if (closest == nullptr) {
    return Scarcity{"cards", request.slices, 0, false,
                    "cards: asked " + std::to_string(request.slices) +
                        " card(s), the nodes that have them are kept for others"};
  }
  Scarcity scarcity = Lacking(*closest, asked, never, true).scarcity;
  scarcity.never = never;
  return scarcity;
}

std::vector<std::string> Engine::CouldHold(const Request& request) const {
  const Asked asked(request);
  std::vector<std::string> names;
  for (const auto& [name, record] : nodes_) {
    if (!record->known || (!request.pool.empty() && request.pool != record->pool->name)) continue;
    if (Holds(View(*record, asked, true), asked)) names.push_back(name);
  }
  return names;
}

Explanation Engine::Explain(const Request& request, const std::set<std::string>& avoid) const {
  CHECK(Validate(request).has_value());
  const Asked asked(request);
  Explanation explanation;
  const auto filter = [&](const std::string& rule, const std::string& node, std::string message) {
    for (Explanation::Filtered& known : explanation.filtered) {
      if (known.rule != rule) continue;
      ++known.nodes;
      return;
    }
    explanation.filtered.push_back({rule, 1, node, std::move(message)});
  };
  // In the order in which Place would take them.
  struct Fitting {
    Found found;
    Choice free;  // of all the cards of the node: what orders the nodes
    bool one_numa_node;
    const Pool* pool;
  };
  std::vector<Fitting> best;
  const auto better = [](const Fitting& a, const Fitting& b) {
    if (a.pool != b.pool) return a.pool->name < b.pool->name;
    if (a.one_numa_node != b.one_numa_node) return a.one_numa_node;
    if (a.free.score != b.free.score) return a.free.score > b.free.score;
    return a.found.record->name < b.found.record->name;
  };
  for (const auto& [name, record] : nodes_) {
    if (!record->known) continue;
    if (avoid.count(name) != 0) {
      filter("avoid", name, "avoid: the node is unavailable or kept for others");
      continue;
    }
    Pool& pool = *record->pool;
    const auto shape = asked.ShapeIn(pool);
    std::uint64_t allowed = 0;
    bool one_numa_node = false;
    if ((request.pool.empty() || request.pool == pool.name) && shape &&
        pool.fleet.Fits(pool.fleet.node(record->slot), *shape)) {
      if (request.numa != Numa::kNone) {
        allowed = AllowedCards(*record, request, *shape, Numa::kRequire);
        one_numa_node = allowed != 0;
      }
      if (allowed == 0 && request.numa != Numa::kRequire) {
        allowed = AllowedCards(*record, request, *shape, Numa::kNone);
      }
    }
    if (allowed == 0) {
      const Shortage shortage = Lacking(*record, asked, false, true);
      filter(shortage.scarcity.resource, name, shortage.scarcity.message);
      continue;
    }
    Found found;
    found.record = record.get();
    found.ordered = &OrderOf(pool, request);
    found.shape = pool.fleet.Measured(pool.fleet.node(record->slot), *shape);
    found.choice = found.ordered->index.On(record->slot, *shape, allowed);
    const Fitting fitting{found, found.ordered->index.On(record->slot, *shape), one_numa_node,
                          &pool};
    best.insert(std::upper_bound(best.begin(), best.end(), fitting, better), fitting);
    if (best.size() > kExplainedCandidatesMax) best.pop_back();
  }
  for (const Fitting& one : best) {
    const Found& found = one.found;
    const Fleet& fleet = one.pool->fleet;
    Explanation::Candidate candidate;
    candidate.node = found.record->name;
    for (std::uint32_t i = 0; i < found.choice.cards.count; ++i) {
      candidate.cards.push_back(found.record->known->cards[found.choice.cards.index[i]].card.uuid);
    }
    const Scorer& scorer = *found.ordered->scorer;
    candidate.score = static_cast<double>(one.free.score) * scorer.unit();
    candidate.parts = scorer.PartsOf(fleet, fleet.node(found.record->slot), found.shape,
                                     one.free.cards, one.free.score);
    // What is nothing is said without a sign.
    candidate.score += 0.0;
    for (auto& [name, part] : candidate.parts) part += 0.0;
    explanation.best.push_back(std::move(candidate));
  }
  return explanation;
}

}  // namespace tessera::placement
