// What the cloud sells and to whom, as plain values.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/units.h"
#include "commerce/bill.h"
#include "device/card.h"

namespace tessera::cloud {

inline constexpr std::string_view kCurrency = "CNY";

// Bounds that errors name.
inline constexpr std::size_t kTenantsMax = 10'000;
inline constexpr std::size_t kSkusMax = 1'000;
inline constexpr std::int64_t kSkuVersionsMax = 10'000;
inline constexpr std::size_t kInstancesPerTenantMax = 100;  // not counting released ones
inline constexpr std::size_t kArgumentsMax = 256;
inline constexpr std::size_t kArgumentBytesMax = 32 * 1024;  // all arguments together
inline constexpr std::size_t kEnvironmentMax = 256;
inline constexpr std::size_t kStdinBytesMax = 1024 * 1024;
inline constexpr std::size_t kPageMax = 200;
inline constexpr std::uint32_t kGangMembersMax = 64;
inline constexpr std::size_t kQuotaRulesMax = 2048;
// Priorities that a tenant may be given; the highest is Kubernetes' for user classes.
inline constexpr std::int32_t kPriorityMin = -1'000'000'000;
inline constexpr std::int32_t kPriorityMax = 1'000'000'000;
inline constexpr std::int32_t kPriorityDefault = 0;
// A spot order ranks below every order that asks for nothing special.
inline constexpr std::int32_t kSpotPriorityMax = -1;
inline constexpr Money kDepositMax{Money::Micro{1'000'000'000} * 1'000'000};
inline constexpr std::int64_t kIdempotencyMicros = 24LL * 3'600'000'000;

struct Tenant {
  std::string id;
  std::string name;
  std::int64_t created_micros = 0;
  std::int32_t priority_max = 0;  // of his orders
};

// A named slice shape with a price. A change makes a new version; a rented instance keeps the one
// it was rented at.
struct Sku {
  std::string name;
  std::int64_t version = 1;
  std::string model;  // empty: any card
  std::uint32_t slices = 1;
  std::uint64_t memory_bytes = 0;  // of each slice
  Permille compute;                // of each slice
  std::uint32_t cpu_millis = 0;
  std::uint64_t ram_bytes = 0;
  Money price_per_hour;       // of the whole SKU
  Money spot_price_per_hour;  // of a spot instance rented now
  std::int64_t created_micros = 0;
};

// What a tenant asks for.
struct InstanceSpec {
  std::string name;  // empty: the instance's id
  std::string sku;
  std::vector<std::string> command;
  std::map<std::string, std::string> environment;
  // kShim, kSpatial (of SKUs with one slice), or kWhole (of SKUs with all of a card's compute).
  device::Isolation isolation = device::Isolation::kShim;
  std::string reservation;  // that it runs in; empty: wherever there is room
  // Absent: kPriorityDefault, or less where the tenant may not ask for that much.
  std::optional<std::int32_t> priority;
  bool spot = false;     // may be stopped for others at any time, at the spot price
  bool requeue = false;  // spot: once stopped for another it waits again instead of ending
};

// Instances that start together or not at all. Once they run, each is on its own.
struct Gang {
  std::string id;  // empty: an instance on its own
  std::uint32_t size = 0;
  std::uint32_t node_min = 1;  // members at least on every node that gets one
  bool one_rack = false;       // all in one rack; else that is preferred
};

struct Instance {
  std::int64_t seq = 0;
  std::string id;
  std::string tenant_id;
  std::string name;
  Sku sku;  // the version it was rented at, with the price this instance pays
  std::vector<std::string> command;
  std::map<std::string, std::string> environment;
  commerce::State state = commerce::State::kQueued;
  std::string wanted = "run";  // "run", "stop" or "release": what the reconciler works towards
  std::string reason;          // why it is in this state, when there is something to say
  std::string waiting_for;     // queued: the scarce thing
  std::string node;
  std::vector<std::string> cards;
  std::uint64_t generation = 1;
  std::optional<std::int64_t> exit_code;
  std::int64_t created_micros = 0;
  std::optional<std::int64_t> run_started_micros;  // of the current generation
  std::optional<std::int64_t> run_ended_micros;
  std::int64_t earlier_micros = 0;  // running time of generations before this one
  std::int64_t hours_settled = 0;   // of this generation
  std::optional<std::int64_t> seen_micros;
  Gang gang;
  std::string reservation;
  device::Isolation isolation = device::Isolation::kShim;
  std::int32_t priority = 0;
  bool spot = false;
  std::uint32_t discount_permille = 0;  // spot: what the list price was lowered by
  bool requeue = false;

  // Its gang starts it; a later generation starts on its own.
  bool StartsWithGang() const { return !gang.id.empty() && generation == 1; }
  // An active instance holds or waits for cards.
  bool Active() const { return !commerce::IsFinal(state); }
};

// Capacity that is kept for a tenant: units of a SKU. Reserved units are not billed; what runs in
// them is, as anywhere.
struct Reservation {
  std::string id;
  std::string tenant_id;
  Sku sku;  // the version it was made with
  std::uint32_t units = 1;
  bool open = false;  // used by the tenant's orders of that shape without being named
  bool lend = false;  // unused units are lent to orders that may be stopped
  std::int64_t created_micros = 0;
  std::int64_t start_micros = 0;
  std::int64_t end_micros = 0;  // 0: until it is deleted
  // As the scheduling plane has it; all 0 while it is not active.
  std::string phase = "pending";  // "pending", "active" or "ended"
  std::uint32_t used = 0;
  std::uint32_t lent = 0;
  std::uint32_t free = 0;
  std::uint32_t missing = 0;
  std::string missing_for;
};

struct InstanceEvent {
  std::uint64_t generation = 0;
  std::string state;
  std::int64_t wall_micros = 0;
  std::int64_t recorded_micros = 0;
  std::string reason;
};

// Who asks.
struct Caller {
  bool admin = false;
  std::string tenant_id;  // of a tenant
  std::string Actor() const { return admin ? "admin" : tenant_id; }
};

// The client's promise that a repeated request is the same request. The row that remembers it is
// written in the same transaction as the effect.
struct Once {
  std::string scope;   // tenant id or "admin"
  std::string route;   // method and path
  std::string key;     // the Idempotency-Key header
  std::string digest;  // of the body
};

// A remembered answer.
struct Remembered {
  std::string digest;
  std::string resource;
  int status = 0;
  std::optional<std::string> body;  // not set: the effect is there, the answer was never written
};

}  // namespace tessera::cloud
