#include "placement/engine.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
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

char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

std::string Lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = Lower(c);
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

// Whether a text in lower case has that in it, in whatever case it is asked.
bool Contains(const std::string& lower, const std::string& asked) {
  const auto same = [](char a, char b) { return a == Lower(b); };
  return asked.empty() ||
         std::search(lower.begin(), lower.end(), asked.begin(), asked.end(), same) != lower.end();
}

// Some cards of a node, as indices.
struct Subset {
  std::array<std::uint8_t, kCardsPerNodeMax> card;
  std::uint32_t count = 0;

  void Add(std::size_t one) { card[count++] = static_cast<std::uint8_t>(one); }
  std::uint64_t bits() const {
    std::uint64_t mask = 0;
    for (std::uint32_t i = 0; i < count; ++i) mask |= std::uint64_t{1} << card[i];
    return mask;
  }
};

}  // namespace

std::uint64_t BestConnected(const std::vector<std::uint32_t>& links, std::size_t cards,
                            std::uint64_t fitting, std::uint32_t asked) {
  Subset from;
  for (std::uint64_t rest = fitting; rest != 0; rest &= rest - 1) {
    from.Add(static_cast<std::size_t>(std::countr_zero(rest)));
  }
  if (links.empty() || from.count <= asked || asked == 0) return fitting;
  if (asked == 1) {
    const auto all = [&](std::size_t card) {
      std::uint64_t sum = 0;
      for (std::size_t other = 0; other < cards; ++other) sum += links[card * cards + other];
      return sum;
    };
    const auto* const worst =
        std::min_element(from.card.begin(), from.card.begin() + from.count,
                         [&](std::size_t a, std::size_t b) { return all(a) < all(b); });
    return std::uint64_t{1} << *worst;
  }
  const auto between = [&](std::size_t a, std::size_t b) { return links[a * cards + b]; };
  std::uint64_t subsets = 1;
  for (std::uint32_t i = 0; i < asked && subsets <= kSubsetsMax; ++i) {
    subsets = subsets * (from.count - i) / (i + 1);
  }
  Subset best;
  if (subsets <= kSubsetsMax) {
    // In lexicographic order. sum[i]: of all pairs among the first i cards, which stand while a
    // later one changes.
    std::array<std::uint32_t, kCardsPerNodeMax> at;
    std::array<std::uint64_t, kCardsPerNodeMax + 1> sum;
    std::uint64_t most = 0;
    std::uint32_t turn = 0;
    at[0] = 0;
    sum[0] = 0;
    while (true) {
      for (std::uint32_t i = turn; i < asked; ++i) {
        if (i > turn) at[i] = at[i - 1] + 1;
        sum[i + 1] = sum[i];
        for (std::uint32_t j = 0; j < i; ++j) {
          sum[i + 1] += between(from.card[at[j]], from.card[at[i]]);
        }
      }
      if (best.count == 0 || sum[asked] > most) {
        most = sum[asked];
        best.count = 0;
        for (std::uint32_t i = 0; i < asked; ++i) best.Add(from.card[at[i]]);
      }
      turn = asked;
      while (turn > 0 && at[turn - 1] == from.count - asked + turn - 1) --turn;
      if (turn == 0) return best.bits();
      ++at[--turn];
    }
  }
  std::uint64_t most = 0;
  for (std::uint32_t a = 0; a < from.count; ++a) {
    for (std::uint32_t b = a + 1; b < from.count; ++b) {
      const std::uint64_t sum = between(from.card[a], from.card[b]);
      if (best.count != 0 && sum <= most) continue;
      most = sum;
      best.count = 0;
      best.Add(from.card[a]);
      best.Add(from.card[b]);
    }
  }
  while (best.count < asked) {
    std::optional<std::uint8_t> next;
    std::uint64_t gain = 0;
    for (std::uint32_t i = 0; i < from.count; ++i) {
      const std::uint8_t one = from.card[i];
      if ((best.bits() >> one & 1) != 0) continue;
      std::uint64_t sum = 0;
      for (std::uint32_t j = 0; j < best.count; ++j) sum += between(one, best.card[j]);
      if (next && sum <= gain) continue;
      next = one;
      gain = sum;
    }
    best.Add(*next);
  }
  return best.bits();
}

std::optional<std::size_t> Engine::Known::IndexOf(const std::string& uuid) const {
  const auto at = std::lower_bound(
      cards.begin(), cards.end(), uuid,
      [](const KnownCard& card, const std::string& asked) { return card.card.uuid < asked; });
  if (at == cards.end() || at->card.uuid != uuid) return std::nullopt;
  return static_cast<std::size_t>(at - cards.begin());
}

// ---- requests as they are compared ----

Engine::Asked::Asked(const Request& asked)
    : request(asked), exclusive(TakesWholeCards(asked.isolation, asked.exclusive)) {}

bool Engine::Asked::Model(const std::string& model) const {
  const auto in = [&](const std::string& one) { return Contains(model, one); };
  const auto any = [&](const std::vector<std::string>& list) {
    return std::any_of(list.begin(), list.end(), in);
  };
  return in(request.model) && (request.models.empty() || any(request.models)) &&
         !any(request.models_excluded);
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
  shape.guaranteed = request.guaranteed;
  if (AnyModel()) return shape;
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
    KnownCard& card = known.cards[i];
    card.kind = static_cast<std::uint8_t>(*pool->fleet.KindOf(card.model_lower));
    card.held = &*record->held.cards.try_emplace(card.card.uuid).first;
    card.held->second.card = static_cast<std::uint32_t>(i);
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
          held.count};
}

Fleet::Card Engine::CardOf(const Record& record, std::size_t i) {
  const KnownCard& known = record.known->cards[i];
  const NodeInventory& inventory = record.known->inventory;
  const Amount& held = known.held->second;
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
  // What others hold is not known to be less than guaranteed.
  card.guaranteed_memory_left =
      Left(known.card.memory_bytes, held.guaranteed_bytes, known.foreign_bytes);
  card.guaranteed_compute_left = static_cast<std::uint32_t>(
      Left(kWholeCard, held.guaranteed_permille, known.foreign_permille));
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
  record->held.ForgetCards();
  record->known = std::move(known);
  Attach(record, pool);
  return {};
}

void Engine::RemoveNode(const std::string& name) {
  const auto at = nodes_.find(name);
  if (at == nodes_.end() || !at->second->known) return;
  Record* const record = at->second.get();
  Detach(record);
  record->known.reset();
  record->held.ForgetCards();
  --known_;
  Forget(record);
}

// What is held on the cards stands when they are no longer known.
void Engine::Held::ForgetCards() {
  for (auto& [uuid, held] : cards) held.card = kNoCard;
  std::erase_if(cards, [](const auto& card) { return card.second.slices == 0; });
}

void Engine::Forget(Record* record) {
  if (!record->known && record->held.count == 0) nodes_.erase(nodes_.find(record->name));
}

// ---- choosing ----

// Of these cards, the ones that the request's tenant and those who are there already leave to it.
std::uint64_t Engine::ApartFrom(const Record& record, const Request& request,
                                std::uint64_t allowed) const {
  const Known& known = *record.known;
  for (const Holding* holder = record.held.first; holder != nullptr; holder = holder->next) {
    const Apart distance =
        std::max(From(request.apart, request.apart_from, request.tenant, holder->tenant),
                 From(holder->apart, ApartFromOf(*holder), holder->tenant, request.tenant));
    if (distance == Apart::kNode) return 0;
    if (distance == Apart::kNone) continue;
    for (std::uint32_t i = holder->first_share; i != kNoShare; i = shares_[i].next) {
      const std::uint32_t card = shares_[i].card->second.card;
      if (card != kNoCard) allowed &= ~(std::uint64_t{1} << card);
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
                                   Numa numa) const {
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
    slots_.clear();
    std::int64_t best = 0;
    const auto add = [&](const std::string& uuid) {
      const auto [from, to] = by_card_.equal_range(uuid);
      for (auto at = from; at != to; ++at) {
        if (at->second->pool == &pool) slots_.push_back(at->second->slot);
      }
    };
    if (!request.card_uuid.empty()) add(request.card_uuid);
    if (request.card_uuid.empty()) std::for_each(request.cards.begin(), request.cards.end(), add);
    for (const std::uint32_t slot : slots_) {
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
  if (const auto known = refused_.find(request.id); known != refused_.end()) {
    if (placed) spare_refused_.push_back(refused_.extract(known));
    return;
  }
  if (!placed) {
    if (refused_.size() >= kRefusedIdsMax) return;
    if (spare_refused_.empty()) {
      refused_.insert(request.id);
      if (spare_refused_.capacity() < refused_.size()) spare_refused_.reserve(2 * refused_.size());
    } else {
      spare_refused_.back().value() = request.id;
      refused_.insert(std::move(spare_refused_.back()));
      spare_refused_.pop_back();
    }
  }
  const auto add = [&](char mark, const std::string& name) {
    type_ += mark;
    for (const char c : name) type_ += Lower(c);
  };
  type_.clear();
  add(' ', request.model);
  for (const std::string& one : request.models) add('|', one);
  for (const std::string& one : request.models_excluded) add('!', one);
  const Asked asked(request);
  for (const auto& [name, pool] : pools_) {
    if (!request.pool.empty() && request.pool != name) continue;
    if (const auto shape = asked.ShapeIn(*pool)) pool->arrived.Count(*shape, type_);
  }
}

bool Engine::Pool::MayLearn() const {
  const std::uint64_t total = arrived.total();
  const std::uint64_t fresh = total - learnt_at;
  if (fresh == 0) return false;
  if (total >= 2 * learnt_at || fresh >= std::max(kLearnEvery, total / kLearnPart)) return true;
  return std::abs(fleet.used_milli() - learnt_used_milli) * 1000 >=
         fleet.capacity_milli() * kLearnFillPermille;
}

void Engine::Learn() {
  for (const auto& [name, pool] : pools_) {
    if (!pool->MayLearn()) continue;
    pool->learnt_at = pool->arrived.total();
    pool->learnt_used_milli = pool->fleet.used_milli();
    for (auto& [policy, one] : pool->ordered) {
      if (one->scorer->Learn(pool->arrived, pool->fleet)) one->index.Reset();
    }
  }
}

const Placement* Engine::Place(const Request& request, const std::set<std::string>& avoid,
                               bool counts) {
  CHECK(Validate(request).has_value());
  const auto held = holdings_.find(request.id);
  if (held != holdings_.end()) return Tell(request.id, *held->second);
  const auto found = Choose(request, avoid);
  if (counts) CountArrival(request, found.has_value());
  if (!found || holdings_.size() >= kReservationsMax) return nullptr;
  Holding& holding = NewHolding(request.id, found->record);
  for (std::uint32_t i = 0; i < found->choice.cards.count; ++i) {
    const KnownCard& card = found->record->known->cards[found->choice.cards.index[i]];
    AddShare(&holding,
             {card.held, request.memory_bytes, request.compute, false, request.isolation});
  }
  holding.TakeFrom(request);
  holding.apart_from = NamesOf(request.apart_from);
  holding.exclusive = TakesWholeCards(request.isolation, request.exclusive);
  Hold(&holding);
  if (counts) holding.record->pool->arrived.Placed();
  return Tell(request.id, holding);
}

void Engine::Arrived(const Request& request) {
  CountArrival(request, true);
  const auto held = holdings_.find(request.id);
  if (held == holdings_.end()) return;
  Pool* const pool = held->second->record->pool;
  if (pool != nullptr) pool->arrived.Placed();
}

const Placement* Engine::Consider(const Request& request,
                                  const std::set<std::string>& avoid) const {
  CHECK(Validate(request).has_value());
  const auto held = holdings_.find(request.id);
  if (held != holdings_.end()) return Tell(request.id, *held->second);
  const auto found = Choose(request, avoid);
  return found && holdings_.size() < kReservationsMax ? Tell(request, *found) : nullptr;
}

// A new answer with so many shares. Those that an answer does not need keep their strings aside.
Placement* Engine::Answer(const std::string& id, const std::string& node,
                          std::size_t shares) const {
  told_.request_id = id;
  told_.node = node;
  for (; told_.shares.size() > shares; told_.shares.pop_back()) {
    spare_shares_.push_back(std::move(told_.shares.back()));
  }
  for (; told_.shares.size() < shares && !spare_shares_.empty(); spare_shares_.pop_back()) {
    told_.shares.push_back(std::move(spare_shares_.back()));
  }
  told_.shares.resize(shares);
  return &told_;
}

const Placement* Engine::Tell(const std::string& id, const Holding& holding) const {
  Placement* const answer = Answer(id, holding.record->name, holding.shares);
  std::uint32_t at = holding.first_share;
  for (device::Share& share : answer->shares) {
    const HeldShare& held = shares_[at];
    share.card_uuid = held.card->first;
    share.memory_bytes = held.memory_bytes;
    share.compute = held.compute;
    share.compute_capped = held.compute_capped;
    share.isolation = held.isolation;
    at = held.next;
  }
  return answer;
}

const Placement* Engine::Tell(const Request& request, const Found& found) const {
  const CardSet& cards = found.choice.cards;
  Placement* const answer = Answer(request.id, found.record->name, cards.count);
  for (std::uint32_t i = 0; i < cards.count; ++i) {
    device::Share& share = answer->shares[i];
    share.card_uuid = found.record->known->cards[cards.index[i]].card.uuid;
    share.memory_bytes = request.memory_bytes;
    share.compute = request.compute;
    share.compute_capped = false;
    share.isolation = request.isolation;
  }
  return answer;
}

// Out of what has left, if anything has.
Engine::Holding& Engine::NewHolding(const std::string& id, Record* record) {
  Holding* holding = nullptr;
  if (spare_holdings_.empty()) {
    holding = holdings_.emplace(id, std::make_unique<Holding>()).first->second.get();
    // So that all of them may leave again.
    if (spare_holdings_.capacity() < holdings_.size())
      spare_holdings_.reserve(2 * holdings_.size());
  } else {
    spare_holdings_.back().key() = id;
    holding = holdings_.insert(std::move(spare_holdings_.back())).position->second.get();
    spare_holdings_.pop_back();
  }
  holding->record = record;
  return *holding;
}

void Engine::AddShare(Holding* holding, const HeldShare& share) {
  std::uint32_t at = free_share_;
  if (at == kNoShare) {
    at = static_cast<std::uint32_t>(shares_.size());
    shares_.emplace_back();
  } else {
    free_share_ = shares_[at].next;
  }
  shares_[at] = share;
  (holding->shares == 0 ? holding->first_share : shares_[holding->last_share].next) = at;
  holding->last_share = at;
  ++holding->shares;
}

Engine::Names::value_type* Engine::NamesOf(const std::vector<std::string>& names) {
  if (names.empty()) return nullptr;
  Names::value_type* const known = &*names_.try_emplace(names).first;
  ++known->second;
  return known;
}

const std::vector<std::string>& Engine::ApartFromOf(const Holding& holding) {
  static const std::vector<std::string> everyone;
  return holding.apart_from != nullptr ? holding.apart_from->first : everyone;
}

std::uint32_t Engine::GroupOf(const Holding& holding) const {
  if (holding.shares == 1 && !holding.exclusive &&
      shares_[holding.first_share].compute.value < kWholeCard) {
    return 0;
  }
  return std::min(holding.shares, kGroupCardsMax);
}

void Engine::Refresh(const Holding& holding) const {
  const Record& record = *holding.record;
  if (!record.known) return;
  Fleet& fleet = record.pool->fleet;
  for (std::uint32_t i = holding.first_share; i != kNoShare; i = shares_[i].next) {
    const std::uint32_t card = shares_[i].card->second.card;
    if (card != kNoCard) fleet.SetCard(record.slot, card, CardOf(record, card));
  }
  fleet.SetAmounts(record.slot, AmountsOf(record), record.held.groups);
  record.pool->Changed(record.slot);
}

// Counts a new holding on its node.
void Engine::Hold(Holding* holding) {
  Held& held = holding->record->held;
  for (std::uint32_t i = holding->first_share; i != kNoShare; i = shares_[i].next) {
    const HeldShare& share = shares_[i];
    Amount& amount = share.card->second;
    amount.memory_bytes += share.memory_bytes;
    amount.permille += share.compute.value;
    amount.guaranteed_bytes += holding->guaranteed ? share.memory_bytes : 0;
    amount.guaranteed_permille += holding->guaranteed ? share.compute.value : 0;
    ++amount.slices;
    amount.exclusive += holding->exclusive ? 1 : 0;
    ++amount.of_mode[static_cast<std::size_t>(holding->isolation)];
  }
  held.cpu_millis += holding->cpu_millis;
  held.ram_bytes += holding->ram_bytes;
  held.disk_bytes += holding->disk_bytes;
  held.slices += holding->shares;
  ++held.groups[GroupOf(*holding)];
  held.apart += holding->apart != Apart::kNone ? 1 : 0;
  ++held.count;
  holding->previous = nullptr;
  holding->next = held.first;
  if (held.first != nullptr) held.first->previous = holding;
  held.first = holding;
  Refresh(*holding);
}

bool Engine::Release(const std::string& request_id) {
  if (const auto refused = refused_.find(request_id); refused != refused_.end()) {
    spare_refused_.push_back(refused_.extract(refused));
  }
  const auto found = holdings_.find(request_id);
  if (found == holdings_.end()) return false;
  Holding& holding = *found->second;
  Record* const record = holding.record;
  Held& held = record->held;
  for (std::uint32_t i = holding.first_share; i != kNoShare; i = shares_[i].next) {
    const HeldShare& share = shares_[i];
    Amount& amount = share.card->second;
    CHECK(amount.memory_bytes >= share.memory_bytes && amount.permille >= share.compute.value &&
          amount.slices > 0);
    amount.memory_bytes -= share.memory_bytes;
    amount.permille -= share.compute.value;
    amount.guaranteed_bytes -= holding.guaranteed ? share.memory_bytes : 0;
    amount.guaranteed_permille -= holding.guaranteed ? share.compute.value : 0;
    amount.exclusive -= holding.exclusive ? 1 : 0;
    --amount.of_mode[static_cast<std::size_t>(holding.isolation)];
    --amount.slices;
  }
  CHECK(held.cpu_millis >= holding.cpu_millis && held.ram_bytes >= holding.ram_bytes &&
        held.disk_bytes >= holding.disk_bytes);
  held.cpu_millis -= holding.cpu_millis;
  held.ram_bytes -= holding.ram_bytes;
  held.disk_bytes -= holding.disk_bytes;
  held.slices -= holding.shares;
  --held.groups[GroupOf(holding)];
  held.apart -= holding.apart != Apart::kNone ? 1 : 0;
  --held.count;
  if (holding.next != nullptr) holding.next->previous = holding.previous;
  (holding.previous != nullptr ? holding.previous->next : held.first) = holding.next;
  Refresh(holding);
  for (std::uint32_t i = holding.first_share; i != kNoShare; i = shares_[i].next) {
    const auto& card = *shares_[i].card;
    if (card.second.card == kNoCard && card.second.slices == 0) held.cards.erase(card.first);
  }
  if (holding.shares > 0) {
    shares_[holding.last_share].next = free_share_;
    free_share_ = holding.first_share;
  }
  holding.first_share = holding.last_share = kNoShare;
  holding.shares = 0;
  if (holding.apart_from != nullptr && --holding.apart_from->second == 0 &&
      names_.size() > kIdleNamesMax) {
    names_.erase(names_.find(holding.apart_from->first));
  }
  spare_holdings_.push_back(holdings_.extract(found));
  Forget(record);
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
  if (const auto held = Find(placement.request_id)) {
    if (held->placement.node == placement.node && held->placement.shares == placement.shares &&
        held->cpu_millis == reservation.cpu_millis && held->ram_bytes == reservation.ram_bytes &&
        held->disk_bytes == reservation.disk_bytes) {
      return {};
    }
    return Error(Code::kAlreadyExists,
                 "request " + placement.request_id + " already holds something else");
  }
  if (holdings_.size() >= kReservationsMax) {
    return Error(Code::kResourceExhausted,
                 "reservations_max (" + std::to_string(kReservationsMax) + ") is reached");
  }
  std::unique_ptr<Record>& record = nodes_[placement.node];
  if (record == nullptr) {
    record = std::make_unique<Record>();
    record->name = placement.node;
  }
  Holding& holding = NewHolding(placement.request_id, record.get());
  for (const device::Share& share : placement.shares) {
    const auto card = record->held.cards.try_emplace(share.card_uuid).first;
    AddShare(&holding,
             {&*card, share.memory_bytes, share.compute, share.compute_capped, share.isolation});
  }
  holding.TakeFrom(reservation);
  holding.apart_from = NamesOf(reservation.apart_from);
  Hold(&holding);
  return {};
}

std::optional<Reservation> Engine::Find(const std::string& request_id) const {
  const auto found = holdings_.find(request_id);
  if (found == holdings_.end()) return std::nullopt;
  const Holding& held = *found->second;
  Placement placement{request_id, held.record->name, {}};
  for (std::uint32_t i = held.first_share; i != kNoShare; i = shares_[i].next) {
    const HeldShare& share = shares_[i];
    placement.shares.push_back({share.card->first, share.memory_bytes, share.compute,
                                share.compute_capped, share.isolation});
  }
  return Reservation{std::move(placement), held.cpu_millis, held.ram_bytes, held.disk_bytes,
                     held.isolation,       held.exclusive,  held.tenant,    held.apart,
                     ApartFromOf(held),    held.priority,   held.guaranteed};
}

bool Engine::Stands(const Placement& placement) const {
  const auto at = nodes_.find(placement.node);
  if (at == nodes_.end() || !at->second->known) return false;
  const Known& known = *at->second->known;
  return std::all_of(placement.shares.begin(), placement.shares.end(), [&](const auto& share) {
    const auto i = known.IndexOf(share.card_uuid);
    return i && known.cards[*i].card.healthy;
  });
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
