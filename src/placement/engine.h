// The placement engine: which node and which cards a request gets. Pure: no I/O, no clock, no
// threads, no chance; the same calls in the same order give the same answers on every machine, and
// the order in which nodes were added does not matter. One owner calls it (the scheduler under its
// lock, the simulator, the extender); not thread-safe, const calls included: they refresh the
// index.
//
// What fits: on one node, `slices` different healthy cards (of the asked models and uuids) that
// each have the asked memory and compute left, and the node's CPU, RAM, disk and slice count for
// the whole request. Left = what may be sold - what this engine reserved - foreign use; what may be
// sold is the capacity times the node's oversell ratio.
//
// Which one: the best by the policy of the node's pool (scores.h), or by the request's own: binpack
// takes the node (card) with the least left after placing, spread the one with the most. "Left" is
// the free share of memory plus the free share of compute, each in millionths, over the node's
// healthy cards (of the card). Ties go to the smaller node name, then to the smaller card uuid.
// What a node's score cannot see (named cards, NUMA, links, tenants) narrows its cards afterwards:
// nodes are taken in order of score until one has cards that do. The first pool by name that has
// room is taken: scores of different policies do not compare.
//
// Nodes are columns of a Fleet and ordered by a ShapeIndex, as in simulate/: a decision costs what
// has changed since its shape was asked for last. Once its shape is known and the fleet has held as
// much before, it allocates nothing, nor does Release. WhyNot looks at every node.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"
#include "device/card.h"
#include "placement/explain.h"
#include "placement/fleet.h"
#include "placement/request.h"
#include "placement/scores.h"
#include "placement/shape_index.h"

namespace tessera::placement {

inline constexpr std::uint64_t kCardBytesMax =
    1024 * 1024 * kGiB;  // sums over a node stay in 64 bits
inline constexpr std::size_t kNodesMax = 131'072;
inline constexpr std::size_t kReservationsMax = 1'048'576;
inline constexpr std::size_t kPoolsMax = 256;
inline constexpr std::uint32_t kOversellMax = 1800;  // per mille
inline constexpr std::size_t kSubsetsMax = 20'000;   // of cards, tried for the best connected one
inline constexpr std::size_t kRefusedIdsMax = 65'536;
inline constexpr std::size_t kIdleNamesMax = 64;  // lists of tenants kept when nobody has them
// Policies learn anew what arrives when it has doubled, later when so many have come and are that
// part of all, or when the pool is that much fuller or emptier: all its nodes are then scored anew.
inline constexpr std::uint64_t kLearnEvery = 500;
inline constexpr std::uint64_t kLearnPart = 8;
inline constexpr std::int64_t kLearnFillPermille = 50;
inline constexpr std::string_view kDefaultPolicy = "binpack";

// What a node has, reserved or not.
struct NodeInventory {
  std::string name;
  std::uint32_t cpu_millis = 0;
  std::uint64_t ram_bytes = 0;
  std::vector<device::Card> cards;
  std::string pool;  // empty: the default pool
  std::uint64_t disk_bytes = 0;
  std::uint32_t slices_per_card_max = 0;  // 0: as many as fit
  std::uint32_t slices_per_node_max = 0;
  std::uint8_t isolations = Bit(Isolation::kShim) | Bit(Isolation::kWhole);  // that it can hold
  // Sellable per mille of each card's memory and compute, 1000 to kOversellMax. One slice is never
  // larger than its card.
  Permille oversell_memory{1000};
  Permille oversell_compute{1000};
};

// What others hold on a node: slices it reports that this engine did not place. One Share a card,
// in any order, with the isolation that its slices have.
struct ForeignUse {
  std::vector<device::Share> cards;
  std::uint32_t cpu_millis = 0;
  std::uint64_t ram_bytes = 0;
};

struct CardUse {
  device::Card card;
  std::uint64_t reserved_bytes = 0;  // by this engine
  std::uint32_t reserved_permille = 0;
  std::uint64_t foreign_bytes = 0;
  std::uint32_t foreign_permille = 0;
};

struct NodeUse {
  std::string name;
  std::uint32_t cpu_millis = 0;
  std::uint32_t cpu_reserved_millis = 0;
  std::uint32_t cpu_foreign_millis = 0;
  std::uint64_t ram_bytes = 0;
  std::uint64_t ram_reserved_bytes = 0;
  std::uint64_t ram_foreign_bytes = 0;
  std::vector<CardUse> cards;  // by uuid
};

// What an instance holds: its placement plus the node's CPU, RAM and disk, and what others may not
// share with it.
struct Reservation {
  Placement placement;
  std::uint32_t cpu_millis = 0;
  std::uint64_t ram_bytes = 0;
  std::uint64_t disk_bytes = 0;
  Isolation isolation = Isolation::kShim;
  bool exclusive = false;
  std::string tenant;
  Apart apart = Apart::kNone;
  std::vector<std::string> apart_from;
  std::int32_t priority = 0;
  bool guaranteed = false;
};

class Engine {
 public:
  Engine();
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // The policy of a pool (a name of ScorerNames(); empty: the default pool), from the next decision
  // on; what is reserved stays. kInvalidArgument naming "policy" or "pool".
  Status SetPolicy(const std::string& pool, std::string_view policy);
  std::string PolicyOf(const std::string& pool) const;

  // Adds a node or replaces what is known of it. Reservations on it stay, also when a card shrank
  // or vanished: they are facts that only Release ends. Refuses an empty name, a card uuid given
  // twice, and beyond the bounds above.
  Status UpdateNode(const NodeInventory& inventory, const ForeignUse& foreign = {});
  // Nothing is placed on it any more. Reservations on it stay and count again when it comes back.
  void RemoveNode(const std::string& name);

  // Reserves everything or nothing: what is reserved, or nullptr where nothing has room for it. A
  // request id that already holds something gets the same placement again. What is pointed to
  // stands until the next call of Place or Consider.
  // Nodes in `avoid` are passed over.
  // `counts`: policies learn from the arrival, once a request; false for a trial that may be taken
  // back, of which Arrived tells when it is kept.
  const Placement* Place(const Request& request, const std::set<std::string>& avoid = {},
                         bool counts = true);
  void Arrived(const Request& request);
  // What Place would answer, without reserving.
  const Placement* Consider(const Request& request, const std::set<std::string>& avoid = {}) const;
  // What a request that Place has no room for lacks. The scarcity is told as if the nodes in
  // `avoid` were not there, unless they are all there is.
  Scarcity WhyNot(const Request& request, const std::set<std::string>& avoid = {}) const;
  // Policies that learn look at what has arrived, once it is enough to matter (kLearnEvery). For
  // between decisions: it may cost as much as many of them.
  void Learn();
  // What Consider looks at: the nodes that each rule filters and the best of those that fit.
  Explanation Explain(const Request& request, const std::set<std::string>& avoid = {}) const;
  // The nodes that would hold the request if they were empty and healthy, by name.
  std::vector<std::string> CouldHold(const Request& request) const;
  // False when the id holds nothing.
  bool Release(const std::string& request_id);
  // Takes over what already runs, as a fact: neither fit nor health is asked. The same reservation
  // twice is fine; another one under the same id is kAlreadyExists.
  Status Restore(const Reservation& reservation);

  std::optional<Reservation> Find(const std::string& request_id) const;  // what it holds, if so
  bool IsPlaced(const std::string& request_id) const { return holdings_.count(request_id) != 0; }
  // Whether its node is known and has all its cards, healthy.
  bool Stands(const Placement& placement) const;
  std::size_t reservations() const { return holdings_.size(); }
  std::vector<NodeUse> Nodes() const;  // by name
  // What this engine reserved on a card, whether or not the node is known just now.
  device::Share ReservedOn(const std::string& node, const std::string& card_uuid) const;

 private:
  struct Amount;
  struct Held;
  struct HeldShare;
  struct Holding;
  struct KnownCard;
  struct Known;
  struct Pool;
  struct Record;
  struct Asked;
  struct NodeView;
  struct Shortage;
  struct Found;
  // Lists of tenants, and how many holdings have them.
  using Names = std::map<std::vector<std::string>, std::size_t>;

  Result<Pool*> PoolOf(const std::string& name);
  struct Ordered;
  static Ordered& OrderOf(Pool& pool, const Request& request);
  void Attach(Record* record, Pool* pool);
  void Detach(Record* record);
  static Fleet::Amounts AmountsOf(const Record& record);
  static Fleet::Card CardOf(const Record& record, std::size_t card);
  Holding& NewHolding(const std::string& id, Record* record);
  void AddShare(Holding* holding, const HeldShare& share);
  void Hold(Holding* holding);
  void Refresh(const Holding& holding) const;
  void Forget(Record* record);
  std::uint32_t GroupOf(const Holding& holding) const;
  Names::value_type* NamesOf(const std::vector<std::string>& names);
  static const std::vector<std::string>& ApartFromOf(const Holding& holding);
  Placement* Answer(const std::string& id, const std::string& node, std::size_t shares) const;
  const Placement* Tell(const std::string& id, const Holding& holding) const;
  const Placement* Tell(const Request& request, const Found& found) const;

  void CountArrival(const Request& request, bool placed);
  std::optional<Found> Choose(const Request& request, const std::set<std::string>& avoid) const;
  std::optional<Found> ChooseIn(Pool& pool, const Request& request, const Shape& shape, Numa numa,
                                const std::set<std::string>& avoid) const;
  std::uint64_t AllowedCards(const Record& record, const Request& request, const Shape& shape,
                             Numa numa) const;
  std::uint64_t ApartFrom(const Record& record, const Request& request,
                          std::uint64_t allowed) const;
  static NodeView View(const Record& record, const Asked& asked, bool empty);
  static bool Holds(const NodeView& node, const Asked& asked);
  Shortage Lacking(const Record& record, const Asked& asked, bool empty, bool tell) const;

  std::map<std::string, std::unique_ptr<Pool>> pools_;
  std::map<std::string, std::unique_ptr<Record>> nodes_;  // known, or with reservations
  std::size_t known_ = 0;
  std::unordered_multimap<std::string, Record*> by_card_;
  using Holdings = std::unordered_map<std::string, std::unique_ptr<Holding>>;
  using Refused = std::unordered_set<std::string>;
  Holdings holdings_;  // by request id
  std::vector<HeldShare>
      shares_;  // of all of them; those of one, or the free ones, linked by index
  std::uint32_t free_share_ = ~std::uint32_t{0};
  Names names_;      // whom to stay apart from
  Refused refused_;  // ids counted as arrivals that hold nothing yet
  // What left, for what comes next.
  std::vector<Holdings::node_type> spare_holdings_;
  std::vector<Refused::node_type> spare_refused_;
  // The last answer, and what its strings are kept in while an answer has fewer shares.
  mutable Placement told_;
  mutable std::vector<device::Share> spare_shares_;
  mutable std::vector<std::uint32_t> slots_;  // of ChooseIn
  std::string type_;                          // of CountArrival
};

}  // namespace tessera::placement
