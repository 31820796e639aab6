// What a workload asks and what the engine answers. These two types travel through every plane.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "device/card.h"

namespace tessera::placement {

inline constexpr std::uint32_t kSlicesMax = 64;  // of one request
inline constexpr std::size_t kRequestIdBytesMax = 128;
inline constexpr std::size_t kSelectorsMax = 64;  // entries of each list of a request
inline constexpr std::size_t kSelectorBytesMax = 128;
inline constexpr std::size_t kContainersMax = 256;           // of one pod, init containers included
inline constexpr std::int32_t kPriorityMax = 1'000'000'000;  // as of Kubernetes' user classes

// kPool: as the pool of the node says. Where only one of the two policies of a request is given,
// the other one is kBinpack.
enum class Policy { kBinpack, kSpread, kPool };

using device::Isolation;
using device::IsolationName;
using device::kIsolations;
constexpr std::uint8_t Bit(Isolation mode) {
  return static_cast<std::uint8_t>(1u << static_cast<unsigned>(mode));
}

// Whether a slice leaves room for nobody else on its card.
constexpr bool TakesWholeCards(Isolation isolation, bool exclusive) {
  return exclusive || isolation == Isolation::kWhole || isolation == Isolation::kPassthrough;
}

// Whether all cards of a request are on one NUMA node. kPrefer: where any node can.
enum class Numa { kNone, kPrefer, kRequire };

// kBest: the subset of the node's cards with the highest sum of link scores; a single slice goes to
// the card that is connected the worst, which others need the least.
enum class Links { kAny, kBest };

// What a tenant does not share with others, whichever of the two came first.
enum class Apart { kNone, kCard, kNode };

struct Request {
  std::string id;                  // instance id; a request is placed at most once per id
  std::uint32_t slices = 1;        // on that many different cards of one node
  std::uint64_t memory_bytes = 0;  // of each slice
  Permille compute;                // of each slice
  std::uint32_t cpu_millis = 0;    // of the whole request
  std::uint64_t ram_bytes = 0;     // of the whole request
  std::string model;      // empty: any; else substring of the card's model, case-insensitive
  std::string card_uuid;  // empty: any
  Policy node_policy = Policy::kPool;
  Policy card_policy = Policy::kPool;

  std::uint64_t disk_bytes = 0;  // of the whole request
  std::string pool;              // empty: the first pool, by name, that has room
  // As `model` and `card_uuid`, but any of several (empty: all) and none of several.
  std::vector<std::string> models;
  std::vector<std::string> models_excluded;
  std::vector<std::string> cards;
  std::vector<std::string> cards_excluded;
  Isolation isolation = Isolation::kShim;
  bool exclusive = false;  // cards that hold nothing else, before or after
  Numa numa = Numa::kNone;
  Links links = Links::kAny;
  std::string tenant;  // empty: nobody's, which is nobody to stay apart from
  Apart apart = Apart::kNone;
  std::vector<std::string> apart_from;  // tenants; empty: every other one
  std::int32_t priority = 0;            // the higher, the more important
  // Never oversold: the guaranteed slices of a card add up to no more than the card really has;
  // what a node's oversell ratios add on top is for the others.
  bool guaranteed = false;
  friend bool operator==(const Request&, const Request&) = default;
};

// Whether the request itself makes sense, the wrong field named. Engine::Place requires it.
Status Validate(const Request& request);

// What one container of a pod asks.
struct ContainerNeeds {
  std::uint32_t slices = 0;
  std::uint64_t memory_bytes = 0;  // of each slice
  Permille compute;                // of each slice
  std::uint32_t cpu_millis = 0;
  std::uint64_t ram_bytes = 0;
  std::uint64_t disk_bytes = 0;
  bool restarts = false;  // an init container that goes on beside the later ones (a sidecar)
};

// Kubernetes' rule: containers and restarting init containers run together, the other init
// containers one after the other before them, each beside the restarting ones ahead of it; a pod
// needs the most of all that. Slices add up the same way, on different cards; each is as large as
// the largest that any container asks. The other fields are those of `base`.
Result<Request> RequestOf(const std::vector<ContainerNeeds>& containers,
                          const std::vector<ContainerNeeds>& init_containers, Request base);

struct Placement {
  std::string request_id;
  std::string node;
  std::vector<device::Share> shares;  // one per slice, on distinct cards
};

// Why a request does not fit right now: the scarcest thing, how much was asked, how much the best
// node has.
struct Scarcity {
  // "memory", "compute", "cards", "cpu", "ram", "model", and "disk", "slices", "numa", "isolation",
  // "exclusive", "tenant", "pool"
  std::string resource;
  std::uint64_t asked = 0;      // bytes, per mille, cards, slices or CPU millis by resource
  std::uint64_t available = 0;  // same unit, on the node that comes closest
  bool never = false;           // would not fit an empty fleet either
  // "memory: asked 26 GiB a card, 2 GiB short on the best card (24 GiB free)"
  std::string message;
};

}  // namespace tessera::placement
