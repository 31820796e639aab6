// The bill as a pure function of stored events. Order, duplicates and the way a stream was cut do
// not matter: the same set of events gives the same bill. Nothing here reads a clock.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/units.h"

namespace tessera::commerce {

// Printed on every bill.
inline constexpr std::string_view kBillingRule =
    "Running time is billed to the microsecond, from the start of the first process to the "
    "kernel's exit time; "
    "when a node could not be reached, to its last heartbeat (at most 5 s apart). Queued, "
    "starting, stopped "
    "and released time costs nothing. Amounts are rounded down to 0.000001. The price is the one "
    "of the "
    "moment of rental, for a spot instance the spot price of that moment.";

// An instance's life. Only the time between kRunning and the next final state costs money,
// kStopping included: the program still holds the card then.
enum class State {
  kQueued,
  kStarting,
  kRunning,
  kStopping,
  kStopped,
  kEnded,
  kFailed,
  kReleased,
};
std::string_view StateName(State state);  // "queued"
Result<State> ParseState(std::string_view text, std::string_view field);
// True when time in this state is paid for.
bool Accrues(State state);
// True when the program of the generation is over in this state.
bool IsFinal(State state);

// Something that happened, at the time it happened. A restart of an instance is a new generation.
struct StateEvent {
  std::string instance_id;
  std::uint64_t generation = 0;
  State state = State::kQueued;
  std::int64_t wall_micros = 0;
};

// The last time the node vouched for a run.
struct Heartbeat {
  std::string instance_id;
  std::uint64_t generation = 0;
  std::int64_t seen_wall_micros = 0;
};

// What was agreed at rental.
struct Contract {
  std::string instance_id;
  std::string name;
  std::string sku;
  std::int64_t sku_version = 0;
  Money price_per_hour;
  bool spot = false;  // the price is the spot price
};

// One run of one instance.
struct BillLine {
  Contract contract;
  std::uint64_t generation = 0;
  std::int64_t started_wall_micros = 0;
  std::int64_t ended_wall_micros = 0;  // open: the last heartbeat
  bool open = false;                   // still running
  std::int64_t running_micros = 0;
  Money amount;
};

struct Bill {
  std::vector<BillLine> lines;  // by contract as given, then generation
  Money total;
};

// kInvalidArgument when an event belongs to no contract; kOutOfRange when a sum leaves the ledger's
// 64 bits.
Result<Bill> MakeBill(const std::vector<Contract>& contracts, const std::vector<StateEvent>& events,
                      const std::vector<Heartbeat>& heartbeats);

}  // namespace tessera::commerce
