// The placement engine: which node and which cards a request gets. Pure: no I/O, no clock, no
// threads, no chance; the same calls in the same order give the same answers on every machine, and
// the order in which nodes were added does not matter. One owner calls it (the scheduler under its
// lock, the simulator, the extender); not thread-safe.
//
// What fits: on one node, `slices` different healthy cards (of the asked model or uuid) that each
// have the asked memory and compute left, and the node's CPU and RAM for the whole request. Left =
// capacity - what this engine reserved - foreign use.
//
// Which one: binpack takes the node (card) with the least left after placing, spread the one with
// the most. "Left" is the free share of memory plus the free share of compute, each in millionths,
// over the node's healthy cards (of the card). Ties go to the smaller node name, then to the
// smaller card uuid.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "base/result.h"
#include "device/card.h"
#include "placement/explain.h"
#include "placement/request.h"

namespace tessera::placement {

inline constexpr std::uint32_t kSlicesMax = 64;  // of one request
inline constexpr std::size_t kRequestIdBytesMax = 128;
inline constexpr std::size_t kCardsPerNodeMax = 256;
inline constexpr std::uint64_t kCardBytesMax =
    1024 * 1024 * kGiB;  // sums over a node stay in 64 bits
inline constexpr std::size_t kNodesMax = 16'384;
inline constexpr std::size_t kReservationsMax = 1'048'576;

// What a node has, reserved or not.
struct NodeInventory {
  std::string name;
  std::uint32_t cpu_millis = 0;
  std::uint64_t ram_bytes = 0;
  std::vector<device::Card> cards;
};

// What others hold on a node: slices it reports that this engine did not place. One Share a card,
// in any order.
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

// What an instance holds: its placement plus the node's CPU and RAM.
struct Reservation {
  Placement placement;
  std::uint32_t cpu_millis = 0;
  std::uint64_t ram_bytes = 0;
};

// Whether the request itself makes sense, the wrong field named. Place() requires it.
Status Validate(const Request& request);

class Engine {
 public:
  // Adds a node or replaces what is known of it. Reservations on it stay, also when a card shrank
  // or vanished: they are facts that only Release ends. Refuses an empty name, a card uuid given
  // twice, and beyond the bounds above.
  Status UpdateNode(const NodeInventory& inventory, const ForeignUse& foreign = {});
  // Nothing is placed on it any more. Reservations on it stay and count again when it comes back.
  void RemoveNode(const std::string& name);

  // Reserves everything or nothing. A request id that already holds something gets the same
  // placement again.
  // Nodes in `avoid` are passed over; the scarcity is told as if they were not there, unless they
  // are all there is.
  std::variant<Placement, Scarcity> Place(const Request& request,
                                          const std::set<std::string>& avoid = {});
  // What Place would answer, without reserving.
  std::variant<Placement, Scarcity> Consider(const Request& request,
                                             const std::set<std::string>& avoid = {}) const;
  // What Consider looks at: the nodes that each rule filters and the best of those that fit.
  Explanation Explain(const Request& request, const std::set<std::string>& avoid = {}) const;
  // The nodes that would hold the request if they were empty and healthy, by name.
  std::vector<std::string> CouldHold(const Request& request) const;
  // False when the id holds nothing.
  bool Release(const std::string& request_id);
  // Takes over what already runs, as a fact: neither fit nor health is asked. The same reservation
  // twice is fine; another one under the same id is kAlreadyExists.
  Status Restore(const Reservation& reservation);

  const Reservation* Find(const std::string& request_id) const;  // nullptr when it holds nothing
  std::size_t reservations() const { return reservations_.size(); }
  std::vector<NodeUse> Nodes() const;  // by name
  // What this engine reserved on a card, whether or not the node is known just now.
  device::Share ReservedOn(const std::string& node, const std::string& card_uuid) const;

 private:
  struct Amount {
    std::uint64_t memory_bytes = 0;
    std::uint64_t permille = 0;
  };
  // What this engine reserved on a node; lives as long as it is not empty, whether or not the node
  // is known.
  struct Held {
    std::map<std::string, Amount> cards;
    std::uint64_t cpu_millis = 0;
    std::uint64_t ram_bytes = 0;
    std::size_t reservations = 0;
  };
  struct KnownCard {
    device::Card card;
    std::string model_lower;
    Amount foreign;
  };
  struct KnownNode {
    std::uint64_t cpu_millis = 0;
    std::uint64_t ram_bytes = 0;
    std::uint64_t foreign_cpu_millis = 0;
    std::uint64_t foreign_ram_bytes = 0;
    std::vector<KnownCard> cards;  // by uuid
  };
  // A node as a request sees it: what is left of everything.
  struct CardView {
    const KnownCard* known = nullptr;
    std::uint64_t memory_left = 0;
    std::uint64_t permille_left = 0;
  };
  struct NodeView {
    const std::string* name = nullptr;
    std::uint64_t cpu_left = 0;
    std::uint64_t ram_left = 0;
    std::vector<CardView> cards;
  };
  struct Shortage {
    Scarcity scarcity;
    std::uint64_t severity =
        0;  // millionths of what was asked that are missing; above 1'000'000: not that kind
  };

  NodeView View(const std::string& name, const KnownNode& node, bool empty) const;
  // The cards that take the request, best first by its card policy; empty when the node cannot.
  static std::vector<const CardView*> Choose(const NodeView& node, const Request& request,
                                             const std::string& model_lower, bool ignore_health);
  static Shortage Lacking(const NodeView& node, const Request& request,
                          const std::string& model_lower, bool empty);
  static std::uint64_t LeftAfter(const NodeView& node, const std::vector<const CardView*>& chosen,
                                 const Request& request);
  void Hold(const Reservation& reservation);

  std::map<std::string, KnownNode> nodes_;
  std::map<std::string, Held> held_;
  std::unordered_map<std::string, Reservation> reservations_;
};

}  // namespace tessera::placement
