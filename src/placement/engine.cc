#include "placement/engine.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

#include "base/check.h"
#include "placement/engine_state.h"

namespace tessera::placement {
namespace {

constexpr std::uint32_t kWholeCard = 1000;  // per mille
constexpr auto kAmountMax = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
constexpr std::uint64_t kRankStep = std::uint64_t{1} << 32;

std::uint64_t Left(std::uint64_t capacity, std::uint64_t reserved, std::uint64_t foreign) {
  // Foreign use may overlap a card that shrank: what is left is never negative.
  if (reserved >= capacity) return 0;
  return capacity - reserved > foreign ? capacity - reserved - foreign : 0;
}

std::string Lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return lower;
}

bool Has(const std::vector<std::string>& list, const std::string& one) {
  return std::find(list.begin(), list.end(), one) != list.end();
}

// How far a tenant that asked for `apart` stays from another one. Unknown tenants are others too.
Apart From(Apart apart, const std::vector<std::string>& from, const std::string& own,
           const std::string& other) {
  if (apart == Apart::kNone || (own == other && !own.empty())) return Apart::kNone;
  return from.empty() || Has(from, other) ? apart : Apart::kNone;
}

std::uint32_t GroupOf(const Reservation& reservation) {
  const auto cards = static_cast<std::uint32_t>(reservation.placement.shares.size());
  if (cards == 1 && !reservation.exclusive &&
      reservation.placement.shares[0].compute.value < kWholeCard) {
    return 0;
  }
  return std::min(cards, kGroupCardsMax);
}

// The sum of the scores of all pairs of a subset.
std::uint64_t Connected(const std::vector<std::uint32_t>& links, std::size_t cards,
                        const std::vector<std::size_t>& subset) {
  std::uint64_t sum = 0;
  for (std::size_t a = 0; a < subset.size(); ++a) {
    for (std::size_t b = a + 1; b < subset.size(); ++b) sum += links[subset[a] * cards + subset[b]];
  }
  return sum;
}

}  // namespace

std::uint64_t BestConnected(const std::vector<std::uint32_t>& links, std::size_t cards,
                            std::uint64_t fitting, std::uint32_t asked) {
  std::vector<std::size_t> from;
  for (std::uint64_t rest = fitting; rest != 0; rest &= rest - 1) {
    from.push_back(static_cast<std::size_t>(std::countr_zero(rest)));
  }
  if (links.empty() || from.size() <= asked || asked == 0) return fitting;
  const auto bits = [](const std::vector<std::size_t>& subset) {
    std::uint64_t mask = 0;
    for (const std::size_t one : subset) mask |= std::uint64_t{1} << one;
    return mask;
  };
  if (asked == 1) {
    const auto all = [&](std::size_t card) {
      std::uint64_t sum = 0;
      for (std::size_t other = 0; other < cards; ++other) sum += links[card * cards + other];
      return sum;
    };
    const auto worst = std::min_element(
        from.begin(), from.end(), [&](std::size_t a, std::size_t b) { return all(a) < all(b); });
    return std::uint64_t{1} << *worst;
  }
  std::uint64_t subsets = 1;
  for (std::uint32_t i = 0; i < asked && subsets <= kSubsetsMax; ++i) {
    subsets = subsets * (from.size() - i) / (i + 1);
  }
  std::vector<std::size_t> best;
  if (subsets <= kSubsetsMax) {
    std::vector<std::size_t> at(asked);
    for (std::uint32_t i = 0; i < asked; ++i) at[i] = i;
    std::vector<std::size_t> subset(asked);
    std::optional<std::uint64_t> most;
    while (true) {
      for (std::uint32_t i = 0; i < asked; ++i) subset[i] = from[at[i]];
      const std::uint64_t sum = Connected(links, cards, subset);
      if (!most || sum > *most) {
        most = sum;
        best = subset;
      }
      std::size_t turn = asked;
      while (turn > 0 && at[turn - 1] == from.size() - asked + turn - 1) --turn;
      if (turn == 0) return bits(best);
      ++at[turn - 1];
      for (std::size_t i = turn; i < asked; ++i) at[i] = at[i - 1] + 1;
    }
  }
  std::optional<std::uint64_t> most;
  for (std::size_t a = 0; a < from.size(); ++a) {
    for (std::size_t b = a + 1; b < from.size(); ++b) {
      const std::uint64_t sum = links[from[a] * cards + from[b]];
      if (most && sum <= *most) continue;
      most = sum;
      best = {from[a], from[b]};
    }
  }
  while (best.size() < asked) {
    std::optional<std::size_t> next;
    std::uint64_t gain = 0;
    for (const std::size_t one : from) {
      if (std::find(best.begin(), best.end(), one) != best.end()) continue;
      std::uint64_t sum = 0;
      for (const std::size_t other : best) sum += links[one * cards + other];
      if (next && sum <= gain) continue;
      next = one;
      gain = sum;
    }
    best.push_back(*next);
  }
  return bits(best);
}

std::optional<std::size_t> Engine::Known::IndexOf(const std::string& uuid) const {
  const auto at = std::lower_bound(
      cards.begin(), cards.end(), uuid,
      [](const KnownCard& card, const std::string& asked) { return card.card.uuid < asked; });
  if (at == cards.end() || at->card.uuid != uuid) return std::nullopt;
  return static_cast<std::size_t>(at - cards.begin());
}

// ---- requests as they are compared ----

Engine::Asked::Asked(const Request& asked) : request(asked), model_lower(Lower(asked.model)) {
  exclusive = TakesWholeCards(asked.isolation, asked.exclusive);
  for (const std::string& one : asked.models) models.push_back(Lower(one));
  for (const std::string& one : asked.models_excluded) excluded.push_back(Lower(one));
}

bool Engine::Asked::Model(const std::string& model) const {
  const auto in = [&](const std::string& one) { return model.find(one) != std::string::npos; };
  return in(model_lower) && (models.empty() || std::any_of(models.begin(), models.end(), in)) &&
         std::none_of(excluded.begin(), excluded.end(), in);
}

bool Engine::Asked::Card(const std::string& uuid) const {
  return (request.card_uuid.empty() || request.card_uuid == uuid) &&
         (request.cards.empty() || Has(request.cards, uuid)) && !Has(request.cards_excluded, uuid);
}

std::optional<Shape> Engine::Asked::ShapeIn(const Pool& pool) const {
  Shape shape;
  shape.cpu_millis = request.cpu_millis;
  shape.ram_bytes = static_cast<std::int64_t>(request.ram_bytes);
  shape.disk_bytes = static_cast<std::int64_t>(request.disk_bytes);
  shape.cards = request.slices;
  shape.memory_bytes = request.memory_bytes;
  shape.compute = request.compute.value;
  shape.milli = exclusive ? kWholeCardMilli : request.compute.value;
  shape.mode = static_cast<std::uint8_t>(request.isolation);
  shape.exclusive = exclusive;
  if (model_lower.empty() && models.empty() && excluded.empty()) return shape;
  const std::vector<std::string>& kinds = pool.fleet.kinds();
  for (std::size_t k = 0; k < kinds.size(); ++k) {
    if (Model(kinds[k])) shape.kinds |= std::uint64_t{1} << k;
  }
  if (shape.kinds == 0) return std::nullopt;
  return shape;
}

// ---- pools ----

Engine::Engine() = default;
Engine::~Engine() = default;

Result<Engine::Pool*> Engine::PoolOf(const std::string& name) {
  const auto known = pools_.find(name);
  if (known != pools_.end()) return known->second.get();
  if (name.size() > kSelectorBytesMax) {
    return Error::Field("pool", "expected at most " + std::to_string(kSelectorBytesMax) + " bytes");
  }
  if (pools_.size() >= kPoolsMax) {
    return Error(Code::kResourceExhausted,
                 "pools_max (" + std::to_string(kPoolsMax) + ") is reached");
  }
  auto pool = std::make_unique<Pool>();
  pool->name = name;
  return pools_.emplace(name, std::move(pool)).first->second.get();
}

Status Engine::SetPolicy(const std::string& pool, std::string_view policy) {
  TRY(const auto known, MakeScorer(policy));
  TRY(Pool* const changed, PoolOf(pool));
  changed->policy = policy;
  return {};
}

std::string Engine::PolicyOf(const std::string& pool) const {
  const auto known = pools_.find(pool);
  return known == pools_.end() ? std::string(kDefaultPolicy) : known->second->policy;
}

Engine::Ordered& Engine::OrderOf(Pool& pool, const Request& request) {
  std::string_view name = pool.policy;
  if (request.node_policy != Policy::kPool || request.card_policy != Policy::kPool) {
    const bool spread_nodes = request.node_policy == Policy::kSpread;
    const bool spread_cards = request.card_policy == Policy::kSpread;
    name = spread_nodes ? (spread_cards ? "spread" : "spread-binpack")
                        : (spread_cards ? "binpack-spread" : "binpack");
  }
  const auto known = pool.ordered.find(name);
  if (known != pool.ordered.end()) return *known->second;
  auto scorer = *MakeScorer(name);
  if (pool.arrived.total() > 0) scorer->Learn(pool.arrived, pool.fleet);
  auto fresh = std::make_unique<Ordered>(std::move(scorer), pool.fleet);
  return *pool.ordered.emplace(std::string(name), std::move(fresh)).first->second;
}

// Ranks follow the names. They are numbers with room between them, so that a name in the middle
// moves no other; where there is none left, all are numbered anew, in the order they had.
std::uint64_t Engine::Pool::RankFor(const std::string& node) {
  const auto next = slots.upper_bound(node);
  while (true) {
    const std::uint64_t below =
        next == slots.begin() ? 0 : fleet.node(std::prev(next)->second).rank;
    if (next == slots.end()) {
      if (below < ~std::uint64_t{0} - kRankStep) return below + kRankStep;
    } else {
      const std::uint64_t above = fleet.node(next->second).rank;
      if (above - below > 1) return below + (above - below) / 2;
    }
    std::uint64_t rank = 0;
    for (const auto& [name, slot] : slots) fleet.SetRank(slot, rank += kRankStep);
  }
}

void Engine::Attach(Record* record, Pool* pool) {
  Known& known = *record->known;
  std::vector<Fleet::Card> cards;
  for (std::size_t i = 0; i < known.cards.size(); ++i) {
    known.cards[i].kind =
        static_cast<std::uint8_t>(*pool->fleet.KindOf(known.cards[i].model_lower));
    cards.push_back(CardOf(*record, i));
  }
  const bool fresh = record->slot == kNoSlot;
  if (fresh) {
    const std::uint64_t rank = pool->RankFor(record->name);
    if (pool->free_slots.empty()) {
      record->slot = *pool->fleet.AddSlot();
      pool->records.push_back(nullptr);
    } else {
      record->slot = pool->free_slots.back();
      pool->free_slots.pop_back();
    }
    record->pool = pool;
    pool->records[record->slot] = record;
    pool->slots[record->name] = record->slot;
    pool->fleet.SetRank(record->slot, rank);
  }
  pool->fleet.SetNode(record->slot, record->name, pool->fleet.node(record->slot).rank,
                      AmountsOf(*record), record->held.groups, cards);
  for (auto& [name, one] : pool->ordered) {
    if (fresh) {
      one->index.Replaced(record->slot);
    } else {
      one->index.Changed(record->slot);
    }
  }
  for (const KnownCard& card : known.cards) by_card_.emplace(card.card.uuid, record);
}

// Takes the node out of what decisions see; its slot stays its own while `record->slot` says so.
void Engine::Detach(Record* record) {
  for (const KnownCard& card : record->known->cards) {
    auto [from, to] = by_card_.equal_range(card.card.uuid);
    for (; from != to; ++from) {
      if (from->second != record) continue;
      by_card_.erase(from);
      break;
    }
  }
  Pool& pool = *record->pool;
  pool.fleet.SetAbsent(record->slot);
  pool.Changed(record->slot);
  pool.records[record->slot] = nullptr;
  pool.slots.erase(record->name);
  pool.free_slots.push_back(record->slot);
  record->slot = kNoSlot;
  record->pool = nullptr;
}

// ---- inventory ----

Fleet::Amounts Engine::AmountsOf(const Record& record) {
  const Known& known = *record.known;
  const Held& held = record.held;
  const auto left = [](std::uint64_t capacity, std::uint64_t reserved, std::uint64_t foreign) {
    return static_cast<std::int64_t>(Left(capacity, reserved, foreign));
  };
  const std::uint64_t slices_max =
      known.inventory.slices_per_node_max == 0 ? kAmountMax : known.inventory.slices_per_node_max;
  return {known.inventory.cpu_millis,
          left(known.inventory.cpu_millis, held.cpu_millis, known.foreign_cpu_millis),
          static_cast<std::int64_t>(known.inventory.ram_bytes),
          left(known.inventory.ram_bytes, held.ram_bytes, known.foreign_ram_bytes),
          left(known.inventory.disk_bytes, held.disk_bytes, 0),
          left(slices_max, held.slices, 0),
          static_cast<std::uint32_t>(held.reservations.size())};
}

Fleet::Card Engine::CardOf(const Record& record, std::size_t i) {
  const KnownCard& known = record.known->cards[i];
  const NodeInventory& inventory = record.known->inventory;
  const auto found = record.held.cards.find(known.card.uuid);
  const Amount nothing;
  const Amount& held = found == record.held.cards.end() ? nothing : found->second;
  const bool foreign = known.foreign_bytes > 0 || known.foreign_permille > 0;
  std::uint8_t modes = inventory.isolations;
  // What others hold is held the way its node says.
  if (foreign)
    modes &= TakesWholeCards(known.foreign_isolation, false) ? 0 : Bit(known.foreign_isolation);
  for (std::uint32_t m = 0; m < kIsolations; ++m) {
    if (held.of_mode[m] > 0) modes &= static_cast<std::uint8_t>(1u << m);
  }
  Fleet::Card card;
  card.memory_bytes = known.sell_bytes;
  card.slice_bytes_max = known.card.memory_bytes;
  card.compute = known.sell_permille;
  if (held.exclusive == 0) {
    card.memory_left = Left(known.sell_bytes, held.memory_bytes, known.foreign_bytes);
    card.compute_left = static_cast<std::uint32_t>(
        Left(known.sell_permille, held.permille, known.foreign_permille));
  }
  const std::uint32_t slices_max = inventory.slices_per_card_max;
  card.slices_left =
      slices_max == 0 ? ~std::uint32_t{0} : slices_max - std::min(slices_max, held.slices);
  card.kind = known.kind;
  card.modes = modes;
  card.healthy = known.card.healthy;
  card.idle = held.slices == 0 && !foreign;
  return card;
}

Status Engine::UpdateNode(const NodeInventory& inventory, const ForeignUse& foreign) {
  if (inventory.name.empty()) return Error::Field("name", "expected a node name");
  if (inventory.cards.size() > kCardsPerNodeMax) {
    return Error::Field("cards", "expected at most cards_per_node_max (" +
                                     std::to_string(kCardsPerNodeMax) + "), got " +
                                     std::to_string(inventory.cards.size()));
  }
  if (inventory.ram_bytes > kAmountMax) {
    return Error::Field("ram", "expected less than 2^63 bytes");
  }
  if (inventory.disk_bytes > kAmountMax) {
    return Error::Field("disk", "expected less than 2^63 bytes");
  }
  if (inventory.isolations == 0 || inventory.isolations >> kIsolations != 0) {
    return Error::Field("isolations", "expected one or more of the known isolation modes");
  }
  const auto oversell = [](const char* field, Permille ratio) -> Status {
    if (ratio.value >= kWholeCard && ratio.value <= kOversellMax) return {};
    return Error::Field(field, "expected 1000 to oversell_max (" + std::to_string(kOversellMax) +
                                   ") per mille, got " + std::to_string(ratio.value));
  };
  TRY_STATUS(oversell("oversell_memory", inventory.oversell_memory));
  TRY_STATUS(oversell("oversell_compute", inventory.oversell_compute));
  const auto at = nodes_.find(inventory.name);
  Record* record = at == nodes_.end() ? nullptr : at->second.get();
  const bool fresh = record == nullptr || !record->known;
  if (fresh && known_ >= kNodesMax) {
    return Error(Code::kResourceExhausted,
                 "nodes_max (" + std::to_string(kNodesMax) + ") is reached");
  }
  Known known;
  known.inventory = inventory;
  known.inventory.cards.clear();
  known.foreign_cpu_millis = foreign.cpu_millis;
  known.foreign_ram_bytes = foreign.ram_bytes;
  for (const device::Card& card : inventory.cards) {
    KnownCard one;
    one.card = card;
    one.model_lower = Lower(card.model);
    one.sell_permille = inventory.oversell_compute.value;
    known.cards.push_back(std::move(one));
  }
  const auto by_uuid = [](const KnownCard& a, const KnownCard& b) {
    return a.card.uuid < b.card.uuid;
  };
  std::sort(known.cards.begin(), known.cards.end(), by_uuid);
  for (std::size_t i = 0; i < known.cards.size(); ++i) {
    KnownCard& one = known.cards[i];
    const std::string& uuid = one.card.uuid;
    if (uuid.empty()) return Error::Field("cards", "expected a uuid on every card");
    if (one.card.memory_bytes > kCardBytesMax) {
      return Error::Field("cards", "expected at most card_bytes_max (" +
                                       FormatBytes(kCardBytesMax) + ") of memory on " + uuid);
    }
    if (i > 0 && uuid == known.cards[i - 1].card.uuid) {
      return Error::Field("cards", "expected each uuid once, " + uuid + " is given twice");
    }
    // kCardBytesMax leaves room for the product.
    one.sell_bytes =
        one.card.memory_bytes / kWholeCard * inventory.oversell_memory.value +
        one.card.memory_bytes % kWholeCard * inventory.oversell_memory.value / kWholeCard;
  }
  for (const device::Share& share : foreign.cards) {
    const auto i = known.IndexOf(share.card_uuid);
    if (!i) continue;
    known.cards[*i].foreign_bytes += share.memory_bytes;
    known.cards[*i].foreign_permille += share.compute.value;
    known.cards[*i].foreign_isolation = share.isolation;
    known.foreign = true;
  }
  for (std::size_t i = 0; i < known.cards.size(); ++i) {
    for (const device::Link& link : known.cards[i].card.links) {
      const auto peer = known.IndexOf(link.peer_uuid);
      if (!peer || *peer == i) continue;
      known.links.resize(known.cards.size() * known.cards.size());
      std::uint32_t& there = known.links[i * known.cards.size() + *peer];
      std::uint32_t& back = known.links[*peer * known.cards.size() + i];
      there = back = std::max(there, link.score);
    }
  }
  TRY(Pool* const pool, PoolOf(inventory.pool));
  std::set<std::string> fresh_kinds;
  for (const KnownCard& one : known.cards) {
    if (!Has(pool->fleet.kinds(), one.model_lower)) fresh_kinds.insert(one.model_lower);
  }
  if (pool->fleet.kinds().size() + fresh_kinds.size() > kCardKindsMax) {
    return Error(Code::kResourceExhausted, "card_kinds_max (" + std::to_string(kCardKindsMax) +
                                               ") models of cards are known in the pool");
  }
  // From here on nothing is refused.
  if (record == nullptr) {
    record = nodes_.emplace(inventory.name, std::make_unique<Record>()).first->second.get();
    record->name = inventory.name;
  }
  if (fresh) {
    ++known_;
  } else if (record->pool != pool) {
    Detach(record);
  } else {
    for (const KnownCard& card : record->known->cards) {
      auto [from, to] = by_card_.equal_range(card.card.uuid);
      for (; from != to && from->second != record; ++from) {
      }
      if (from != to) by_card_.erase(from);
    }
  }
  record->known = std::move(known);
  Attach(record, pool);
  return {};
}

void Engine::RemoveNode(const std::string& name) {
  const auto at = nodes_.find(name);
  if (at == nodes_.end() || !at->second->known) return;
  Detach(at->second.get());
  at->second->known.reset();
  --known_;
  Forget(name);
}

void Engine::Forget(const std::string& name) {
  const auto at = nodes_.find(name);
  if (!at->second->known && at->second->held.reservations.empty()) nodes_.erase(at);
}

// ---- choosing ----

// Of these cards, the ones that the request's tenant and those who are there already leave to it.
std::uint64_t Engine::ApartFrom(const Record& record, const Request& request,
                                std::uint64_t allowed) {
  const Known& known = *record.known;
  for (const Reservation* holder : record.held.reservations) {
    const Apart distance =
        std::max(From(request.apart, request.apart_from, request.tenant, holder->tenant),
                 From(holder->apart, holder->apart_from, holder->tenant, request.tenant));
    if (distance == Apart::kNode) return 0;
    if (distance == Apart::kNone) continue;
    for (const device::Share& share : holder->placement.shares) {
      if (const auto i = known.IndexOf(share.card_uuid)) allowed &= ~(std::uint64_t{1} << *i);
    }
  }
  // Whose slices the others on the node are is not known.
  const Apart strangers = From(request.apart, request.apart_from, request.tenant, "");
  if (strangers == Apart::kNode && known.foreign) return 0;
  for (std::size_t i = 0; i < known.cards.size() && strangers == Apart::kCard; ++i) {
    if (known.cards[i].foreign_bytes > 0 || known.cards[i].foreign_permille > 0) {
      allowed &= ~(std::uint64_t{1} << i);
    }
  }
  return allowed;
}

// The cards that a request may take on a node, as far as its shape does not say so: at least as
// many as it asks, or 0.
std::uint64_t Engine::AllowedCards(const Record& record, const Request& request, const Shape& shape,
                                   Numa numa) {
  const bool named =
      !request.card_uuid.empty() || !request.cards.empty() || !request.cards_excluded.empty();
  const bool apart = request.apart != Apart::kNone || record.held.apart > 0;
  if (!named && !apart && numa != Numa::kRequire && request.links == Links::kAny) return kAllCards;
  const Known& known = *record.known;
  std::uint64_t allowed = 0;
  const Fleet& fleet = record.pool->fleet;
  if (!fleet.Fits(fleet.node(record.slot), shape, &allowed)) return 0;
  const auto keep = [&](auto&& good) {
    for (std::uint64_t rest = allowed; rest != 0; rest &= rest - 1) {
      const auto i = static_cast<std::size_t>(std::countr_zero(rest));
      if (!good(known.cards[i])) allowed &= ~(std::uint64_t{1} << i);
    }
  };
  if (named) {
    const auto has = [&](const std::vector<std::string>& list, const KnownCard& card) {
      return Has(list, card.card.uuid);
    };
    keep([&](const KnownCard& card) {
      return (request.card_uuid.empty() || request.card_uuid == card.card.uuid) &&
             (request.cards.empty() || has(request.cards, card)) &&
             !has(request.cards_excluded, card);
    });
  }
  if (apart) allowed = ApartFrom(record, request, allowed);
  if (std::popcount(allowed) < static_cast<int>(request.slices)) return 0;
  if (numa == Numa::kRequire) {
    allowed = OneNumaNode(allowed, request.slices,
                          [&](std::size_t i) { return known.cards[i].card.numa_node; });
  }
  if (request.links == Links::kBest) {
    allowed = BestConnected(known.links, known.cards.size(), allowed, request.slices);
  }
  return allowed;
}

std::optional<Engine::Found> Engine::ChooseIn(Pool& pool, const Request& request,
                                              const Shape& shape, Numa numa,
                                              const std::set<std::string>& avoid) const {
  Ordered& ordered = OrderOf(pool, request);
  std::uint64_t allowed = 0;
  const auto accept = [&](std::uint32_t slot) {
    const Record& record = *pool.records[slot];
    if (!avoid.empty() && avoid.count(record.name) != 0) return false;
    allowed = AllowedCards(record, request, shape, numa);
    return allowed != 0;
  };
  Found found;
  found.ordered = &ordered;
  found.shape = shape;
  if (!request.card_uuid.empty() || !request.cards.empty()) {
    // Only the nodes that have the cards are looked at.
    std::set<std::uint32_t> slots;
    std::int64_t best = 0;
    const auto add = [&](const std::string& uuid) {
      const auto [from, to] = by_card_.equal_range(uuid);
      for (auto at = from; at != to; ++at) {
        if (at->second->pool == &pool) slots.insert(at->second->slot);
      }
    };
    if (!request.card_uuid.empty()) add(request.card_uuid);
    if (request.card_uuid.empty()) std::for_each(request.cards.begin(), request.cards.end(), add);
    for (const std::uint32_t slot : slots) {
      if (!pool.fleet.Fits(pool.fleet.node(slot), shape) || !accept(slot)) continue;
      const std::int64_t score = ordered.index.On(slot, shape).score;
      const auto rank = [&](std::uint32_t one) { return pool.fleet.node(one).rank; };
      if (found.record != nullptr &&
          (score < best || (score == best && rank(slot) > rank(found.choice.node)))) {
        continue;
      }
      best = score;
      found.record = pool.records[slot];
      found.choice = ordered.index.On(slot, shape, allowed);
    }
    if (found.record == nullptr) return std::nullopt;
    return found;
  }
  const auto slot = ordered.index.FirstOf(shape, accept);
  if (!slot) return std::nullopt;
  found.record = pool.records[*slot];
  found.choice = ordered.index.On(*slot, shape, allowed);
  return found;
}

std::optional<Engine::Found> Engine::Choose(const Request& request,
                                            const std::set<std::string>& avoid) const {
  const Asked asked(request);
  for (const auto& [name, pool] : pools_) {
    if (!request.pool.empty() && request.pool != name) continue;
    const auto shape = asked.ShapeIn(*pool);
    if (!shape) continue;
    if (request.numa != Numa::kNone) {
      if (auto found = ChooseIn(*pool, request, *shape, Numa::kRequire, avoid)) return found;
    }
    if (request.numa == Numa::kRequire) continue;
    if (auto found = ChooseIn(*pool, request, *shape, Numa::kNone, avoid)) return found;
  }
  return std::nullopt;
}

// ---- reservations ----

// New requests teach the policies what arrives; one that is asked again while it waits is not new.
void Engine::CountArrival(const Request& request, bool placed) {
  if (refused_.count(request.id) != 0) {
    if (placed) refused_.erase(request.id);
    return;
  }
  if (!placed) {
    if (refused_.size() >= kRefusedIdsMax) return;
    refused_.insert(request.id);
  }
  const Asked asked(request);
  std::string type = asked.model_lower;
  for (const std::string& one : asked.models) type += "|" + one;
  for (const std::string& one : asked.excluded) type += "!" + one;
  for (const auto& [name, pool] : pools_) {
    if (!request.pool.empty() && request.pool != name) continue;
    auto shape = asked.ShapeIn(*pool);
    if (!shape) continue;
    pool->arrived.Count(*shape, type);
    const std::uint64_t total = pool->arrived.total();
    const std::uint64_t every = std::max<std::uint64_t>(kLearnEvery, pool->fleet.nodes());
    // While little has arrived, each further one says much.
    if (!std::has_single_bit(total) && total - pool->learnt_at < every) continue;
    pool->learnt_at = total;
    for (auto& [policy, one] : pool->ordered) {
      if (one->scorer->Learn(pool->arrived, pool->fleet)) one->index.Reset();
    }
  }
}

std::variant<Placement, Scarcity> Engine::Place(const Request& request,
                                                const std::set<std::string>& avoid, bool counts) {
  CHECK(Validate(request).has_value());
  if (const Reservation* held = Find(request.id)) return held->placement;
  auto answer = Consider(request, avoid);
  const auto* const placement = std::get_if<Placement>(&answer);
  if (counts) CountArrival(request, placement != nullptr);
  if (placement == nullptr) return answer;
  if (reservations_.size() >= kReservationsMax) {
    return Scarcity{"cards", request.slices, 0, false,
                    "reservations_max (" + std::to_string(kReservationsMax) + ") is reached"};
  }
  Reservation reservation{*placement,         request.cpu_millis,
                          request.ram_bytes,  request.disk_bytes,
                          request.isolation,  TakesWholeCards(request.isolation, request.exclusive),
                          request.tenant,     request.apart,
                          request.apart_from, request.priority};
  Hold(reservation);
  return answer;
}

void Engine::Refresh(const Record& record, const Placement& placement) {
  if (!record.known) return;
  Fleet& fleet = record.pool->fleet;
  for (const device::Share& share : placement.shares) {
    const auto i = record.known->IndexOf(share.card_uuid);
    if (i) fleet.SetCard(record.slot, static_cast<std::uint32_t>(*i), CardOf(record, *i));
  }
  fleet.SetAmounts(record.slot, AmountsOf(record), record.held.groups);
  record.pool->Changed(record.slot);
}

void Engine::Hold(const Reservation& reservation) {
  std::unique_ptr<Record>& slot = nodes_[reservation.placement.node];
  if (slot == nullptr) {
    slot = std::make_unique<Record>();
    slot->name = reservation.placement.node;
  }
  const Reservation& kept =
      reservations_.emplace(reservation.placement.request_id, reservation).first->second;
  Held& held = slot->held;
  for (const device::Share& share : kept.placement.shares) {
    Amount& amount = held.cards[share.card_uuid];
    amount.memory_bytes += share.memory_bytes;
    amount.permille += share.compute.value;
    ++amount.slices;
    amount.exclusive += kept.exclusive ? 1 : 0;
    ++amount.of_mode[static_cast<std::size_t>(kept.isolation)];
  }
  held.cpu_millis += kept.cpu_millis;
  held.ram_bytes += kept.ram_bytes;
  held.disk_bytes += kept.disk_bytes;
  held.slices += kept.placement.shares.size();
  ++held.groups[GroupOf(kept)];
  held.apart += kept.apart != Apart::kNone ? 1 : 0;
  held.reservations.push_back(&kept);
  Refresh(*slot, kept.placement);
}

bool Engine::Release(const std::string& request_id) {
  refused_.erase(request_id);
  const auto found = reservations_.find(request_id);
  if (found == reservations_.end()) return false;
  const Reservation reservation = std::move(found->second);
  const auto where = nodes_.find(reservation.placement.node);
  CHECK(where != nodes_.end());
  Held& held = where->second->held;
  for (const device::Share& share : reservation.placement.shares) {
    const auto card = held.cards.find(share.card_uuid);
    CHECK(card != held.cards.end() && card->second.memory_bytes >= share.memory_bytes &&
          card->second.permille >= share.compute.value && card->second.slices > 0);
    Amount& amount = card->second;
    amount.memory_bytes -= share.memory_bytes;
    amount.permille -= share.compute.value;
    amount.exclusive -= reservation.exclusive ? 1 : 0;
    --amount.of_mode[static_cast<std::size_t>(reservation.isolation)];
    if (--amount.slices == 0) held.cards.erase(card);
  }
  CHECK(held.cpu_millis >= reservation.cpu_millis && held.ram_bytes >= reservation.ram_bytes &&
        held.disk_bytes >= reservation.disk_bytes);
  held.cpu_millis -= reservation.cpu_millis;
  held.ram_bytes -= reservation.ram_bytes;
  held.disk_bytes -= reservation.disk_bytes;
  held.slices -= reservation.placement.shares.size();
  --held.groups[GroupOf(reservation)];
  held.apart -= reservation.apart != Apart::kNone ? 1 : 0;
  const auto at = std::find(held.reservations.begin(), held.reservations.end(), &found->second);
  *at = held.reservations.back();
  held.reservations.pop_back();
  reservations_.erase(found);
  Refresh(*where->second, reservation.placement);
  Forget(reservation.placement.node);
  return true;
}

Status Engine::Restore(const Reservation& reservation) {
  const Placement& placement = reservation.placement;
  if (placement.request_id.empty() || placement.request_id.size() > kRequestIdBytesMax) {
    return Error::Field("request_id",
                        "expected 1 to " + std::to_string(kRequestIdBytesMax) + " bytes");
  }
  if (placement.node.empty()) return Error::Field("node", "expected a node name");
  if (placement.shares.size() > kSlicesMax) {
    return Error::Field("shares",
                        "expected at most slices_max (" + std::to_string(kSlicesMax) + ")");
  }
  if (static_cast<std::uint32_t>(reservation.isolation) >= kIsolations) {
    return Error::Field("isolation", "expected a known mode");
  }
  if (const Reservation* held = Find(placement.request_id)) {
    if (held->placement.node == placement.node && held->placement.shares == placement.shares &&
        held->cpu_millis == reservation.cpu_millis && held->ram_bytes == reservation.ram_bytes &&
        held->disk_bytes == reservation.disk_bytes) {
      return {};
    }
    return Error(Code::kAlreadyExists,
                 "request " + placement.request_id + " already holds something else");
  }
  if (reservations_.size() >= kReservationsMax) {
    return Error(Code::kResourceExhausted,
                 "reservations_max (" + std::to_string(kReservationsMax) + ") is reached");
  }
  Hold(reservation);
  return {};
}

const Reservation* Engine::Find(const std::string& request_id) const {
  const auto found = reservations_.find(request_id);
  return found == reservations_.end() ? nullptr : &found->second;
}

device::Share Engine::ReservedOn(const std::string& node, const std::string& card_uuid) const {
  device::Share share{card_uuid, 0, {0}};
  const auto at = nodes_.find(node);
  if (at == nodes_.end()) return share;
  const auto card = at->second->held.cards.find(card_uuid);
  if (card == at->second->held.cards.end()) return share;
  share.memory_bytes = card->second.memory_bytes;
  share.compute.value = static_cast<std::uint32_t>(card->second.permille);
  return share;
}

std::vector<NodeUse> Engine::Nodes() const {
  std::vector<NodeUse> nodes;
  for (const auto& [name, record] : nodes_) {
    if (!record->known) continue;
    const Known& known = *record->known;
    NodeUse use;
    use.name = name;
    use.cpu_millis = known.inventory.cpu_millis;
    use.cpu_reserved_millis = static_cast<std::uint32_t>(record->held.cpu_millis);
    use.cpu_foreign_millis = static_cast<std::uint32_t>(known.foreign_cpu_millis);
    use.ram_bytes = known.inventory.ram_bytes;
    use.ram_reserved_bytes = record->held.ram_bytes;
    use.ram_foreign_bytes = known.foreign_ram_bytes;
    for (const KnownCard& card : known.cards) {
      const device::Share ours = ReservedOn(name, card.card.uuid);
      use.cards.push_back({card.card, ours.memory_bytes, ours.compute.value, card.foreign_bytes,
                           static_cast<std::uint32_t>(card.foreign_permille)});
    }
    nodes.push_back(std::move(use));
  }
  return nodes;
}

}  // namespace tessera::placement
