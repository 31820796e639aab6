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
inline constexpr Money kDepositMax{Money::Micro{1'000'000'000} * 1'000'000};
inline constexpr std::int64_t kIdempotencyMicros = 24LL * 3'600'000'000;

struct Tenant {
  std::string id;
  std::string name;
  std::int64_t created_micros = 0;
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
  Money price_per_hour;  // of the whole SKU
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
};

struct Instance {
  std::int64_t seq = 0;
  std::string id;
  std::string tenant_id;
  std::string name;
  Sku sku;  // the version it was rented at
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
  device::Isolation isolation = device::Isolation::kShim;

  // An active instance holds or waits for cards.
  bool Active() const { return !commerce::IsFinal(state); }
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
