// What the engine keeps of pools and nodes. Of engine.cc and explain.cc alone.
#pragma once

#include <bit>

#include "placement/engine.h"

namespace tessera::placement {

inline constexpr std::uint32_t kNoSlot = ~std::uint32_t{0};
inline constexpr std::uint32_t kNoCard = ~std::uint32_t{0};
inline constexpr std::uint32_t kNoShare = ~std::uint32_t{0};

// What is reserved on a card.
struct Engine::Amount {
  std::uint32_t card = kNoCard;  // of the node as it is known
  std::uint64_t memory_bytes = 0;
  std::uint64_t permille = 0;
  std::uint64_t guaranteed_bytes = 0;  // of them
  std::uint64_t guaranteed_permille = 0;
  std::uint32_t slices = 0;
  std::uint32_t exclusive = 0;                       // of them
  std::array<std::uint32_t, kIsolations> of_mode{};  // of them
};

// What this engine reserved on a node; a fact, whether or not the node is known just now.
struct Engine::Held {
  std::map<std::string, Amount> cards;  // by uuid: those that are known or hold something
  std::uint64_t cpu_millis = 0;
  std::uint64_t ram_bytes = 0;
  std::uint64_t disk_bytes = 0;
  std::uint64_t slices = 0;
  std::array<std::uint16_t, kGroupCardsMax + 1> groups{};
  Holding* first = nullptr;
  std::uint32_t count = 0;  // of them
  std::uint32_t apart = 0;  // of them, those that stay apart from someone

  void ForgetCards();
};

struct Engine::HeldShare {
  std::map<std::string, Amount>::value_type* card = nullptr;
  std::uint64_t memory_bytes = 0;
  Permille compute;
  bool compute_capped = false;
  Isolation isolation = Isolation::kShim;
  std::uint32_t next = kNoShare;
};

// A reservation as the engine keeps it.
struct Engine::Holding {
  Record* record = nullptr;
  Holding* next = nullptr;  // on its node
  Holding* previous = nullptr;
  std::uint32_t first_share = kNoShare;
  std::uint32_t last_share = kNoShare;
  std::uint32_t shares = 0;
  std::uint32_t cpu_millis = 0;
  std::uint64_t ram_bytes = 0;
  std::uint64_t disk_bytes = 0;
  Isolation isolation = Isolation::kShim;
  bool exclusive = false;
  Apart apart = Apart::kNone;
  std::int32_t priority = 0;
  bool guaranteed = false;
  std::string tenant;
  Names::value_type* apart_from = nullptr;  // nullptr: every other one

  // What a request and a reservation have under the same names.
  template <typename From>
  void TakeFrom(const From& from) {
    cpu_millis = from.cpu_millis;
    ram_bytes = from.ram_bytes;
    disk_bytes = from.disk_bytes;
    isolation = from.isolation;
    exclusive = from.exclusive;
    apart = from.apart;
    priority = from.priority;
    guaranteed = from.guaranteed;
    tenant = from.tenant;
  }
};

struct Engine::KnownCard {
  device::Card card;
  std::string model_lower;
  std::map<std::string, Amount>::value_type* held = nullptr;  // of its node
  std::uint8_t kind = 0;                                      // in its pool
  std::uint64_t sell_bytes = 0;
  std::uint32_t sell_permille = 0;
  std::uint64_t foreign_bytes = 0;
  std::uint64_t foreign_permille = 0;
  Isolation foreign_isolation = Isolation::kShim;
};

struct Engine::Known {
  NodeInventory inventory;       // its cards are in `cards`
  std::vector<KnownCard> cards;  // by uuid
  // Link scores, cards by cards; empty where no card has links.
  std::vector<std::uint32_t> links;
  std::uint64_t foreign_cpu_millis = 0;
  std::uint64_t foreign_ram_bytes = 0;
  bool foreign = false;  // others hold something of its cards

  std::optional<std::size_t> IndexOf(const std::string& uuid) const;
};

struct Engine::Record {
  std::string name;
  Held held;
  std::optional<Known> known;
  Pool* pool = nullptr;  // where it stands while it is known
  std::uint32_t slot = kNoSlot;
};

// A policy's nodes in its order.
struct Engine::Ordered {
  std::unique_ptr<Scorer> scorer;
  ShapeIndex index;
  Ordered(std::unique_ptr<Scorer> by, const Fleet& fleet)
      : scorer(std::move(by)), index(fleet, *scorer) {}
};

struct Engine::Pool {
  std::string name;
  std::string policy{kDefaultPolicy};
  Fleet fleet;
  std::map<std::string, std::unique_ptr<Ordered>, std::less<>> ordered;
  std::vector<Record*> records;  // by slot; nullptr: free
  std::vector<std::uint32_t> free_slots;
  std::map<std::string, std::uint32_t> slots;  // by name of the node
  ClassCounter arrived;
  std::uint64_t learnt_at = 0;         // of arrivals
  std::int64_t learnt_used_milli = 0;  // of the fleet

  bool MayLearn() const;

  std::uint64_t RankFor(const std::string& node);
  void Changed(std::uint32_t slot) {
    for (auto& [policy_name, one] : ordered) one->index.Changed(slot);
  }
};

// A request with its selectors as they are compared.
struct Engine::Asked {
  explicit Asked(const Request& asked);
  bool Model(const std::string& model_lower) const;
  bool Card(const std::string& uuid) const;
  bool AnyModel() const {
    return request.model.empty() && request.models.empty() && request.models_excluded.empty();
  }

  const Request& request;
  bool exclusive = false;
  // As a shape of that pool; none where the pool has no such model.
  std::optional<Shape> ShapeIn(const Pool& pool) const;
};

struct Engine::Found {
  Record* record = nullptr;
  Ordered* ordered = nullptr;
  Shape shape;
  Choice choice;
};

// A node as a request sees it: what is left of everything, or all there is.
struct Engine::NodeView {
  struct Card {
    const KnownCard* known = nullptr;
    std::uint64_t memory_left = 0;
    std::uint64_t permille_left = 0;
    std::uint64_t slices_left = 0;
    std::uint8_t modes = 0;
    bool healthy = true;
    bool idle = true;

    bool Takes(const Asked& asked) const;
  };
  std::uint64_t cpu_left = 0;
  std::uint64_t ram_left = 0;
  std::uint64_t disk_left = 0;
  std::uint64_t slices_left = 0;
  std::uint8_t modes = 0;
  std::uint32_t count = 0;
  std::array<Card, kCardsPerNodeMax> cards;
};

struct Engine::Shortage {
  Scarcity scarcity;
  // Millionths of what was asked that are missing; above 1'000'000: not that kind.
  std::uint64_t severity = 0;
};

// Of the cards in `fitting`, those of one NUMA node that holds as many as asked: the one with the
// fewest, then the lowest. 0: none does.
template <typename NumaOf>
std::uint64_t OneNumaNode(std::uint64_t fitting, std::uint32_t asked, NumaOf numa_of) {
  std::uint64_t best = 0;
  int best_numa = 0;
  for (std::uint64_t rest = fitting; rest != 0; rest &= rest - 1) {
    const int numa = numa_of(static_cast<std::size_t>(std::countr_zero(rest)));
    if (numa < 0) continue;  // unknown
    std::uint64_t group = 0;
    for (std::uint64_t other = fitting; other != 0; other &= other - 1) {
      if (numa_of(static_cast<std::size_t>(std::countr_zero(other))) == numa) {
        group |= other & (~other + 1);
      }
    }
    if (std::popcount(group) < static_cast<int>(asked)) continue;
    const bool fewer = std::popcount(group) < std::popcount(best);
    const bool as_few = std::popcount(group) == std::popcount(best) && numa < best_numa;
    if (best != 0 && !fewer && !as_few) continue;
    best = group;
    best_numa = numa;
  }
  return best;
}

// Of the cards in `fitting`, the `asked` ones with the highest sum of link scores; ties to the
// lower cards. All subsets are tried up to kSubsetsMax of them; beyond, the best connected pair is
// joined by whichever card adds most. `links`: cards by cards, `cards` to a row.
std::uint64_t BestConnected(const std::vector<std::uint32_t>& links, std::size_t cards,
                            std::uint64_t fitting, std::uint32_t asked);

}  // namespace tessera::placement
