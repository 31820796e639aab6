// A fleet under churn: requests come and go on a virtual clock, wait in arrival order when there is
// no room, and may be let past a blocked head, have others moved out of their way, or lose their
// node.
//
// What arrives is the trace, made dense. The openb trace as it is holds 14 of 6,212 cards on
// average, so: every `nodes_every`-th node by name is kept; pauses between arrivals are cut to
// kPauseSecondsMax and then scaled so that card-time asked for in the span of the arrivals is
// `load_percent` of what the cards kept can give; lifetimes stay as they are up to kLifeSecondsMax
// (1 % of the pods live longer and would hold nine tenths of all card-time). Which request comes at
// which of the instants is drawn from the seed.
//
// Pure but for its inputs; the same inputs give the same result on every machine.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/rng.h"
#include "simulate/trace.h"

namespace tessera::simulate {

inline constexpr std::int64_t kPauseSecondsMax = 3600;
inline constexpr std::int64_t kLifeSecondsMax = 86'400;
inline constexpr std::size_t kBackfillMax = 256;        // requests behind the head looked at
inline constexpr std::int64_t kMoveSeconds = 30;        // a move lengthens a life by that much
inline constexpr std::int64_t kTidySeconds = 600;       // between plans that empty cards
inline constexpr std::int64_t kNodeDownSeconds = 3600;  // until a lost node returns
inline constexpr std::size_t kChurnSamples = 200;       // of the allocation over time

enum class Backfill {
  kNone,  // what waits at the head holds up all behind it
  kEasy,  // one behind it may go first if, by the lifetimes, the head starts no later for it
  kAny,   // whatever fits goes first
};

struct ChurnOptions {
  std::string policy;
  std::uint32_t nodes_every = 16;
  std::uint32_t load_percent = 110;
  Backfill backfill = Backfill::kEasy;
  std::uint32_t moves_max = 0;  // of each plan of moves; 0: nothing moves
  std::int64_t loss_every = 0;  // seconds between losses of a node, on average; 0: none
  std::uint32_t learn_every = 100;
  std::uint64_t seed = 1;
};

struct ChurnResult {
  std::uint32_t nodes = 0;
  std::int64_t cards = 0;
  std::int64_t span_seconds = 0;  // of the arrivals
  std::uint64_t arrived = 0;
  std::uint64_t placed = 0;
  std::uint64_t never = 0;     // would not fit the fleet if it were empty; does not wait
  std::uint64_t unplaced = 0;  // still waiting when nothing was left to happen
  // Taken cards in percent, over the last three quarters of the arrivals' span, by time; a lost
  // node's cards count as not taken.
  double allocated_mean = 0;
  double allocated_p50 = 0;
  std::vector<double> allocated;  // sampled over the span at equal distances
  // Seconds from arrival to the first start, of all that were placed.
  std::int64_t delay_p50 = 0, delay_p99 = 0, delay_max = 0;
  std::uint64_t moves = 0;
  std::int64_t moved_milli = 0;
  std::uint64_t cards_emptied = 0;
  std::uint64_t nodes_lost = 0;
  std::uint64_t restarted = 0;  // requests that lost their node and went back to the head
};

// The trace made dense, as said above: what arrives when, in milliseconds, and how long it lives.
struct Arrival {
  std::uint32_t pod = 0;
  std::int64_t at = 0;
  std::int64_t life = 0;
};
struct DenseTrace {
  std::vector<Arrival> arrivals;  // in order
  std::int64_t span = 0;
};
// `milli`: what each pod asks of cards in all. kInvalidArgument naming "pods" without times.
Result<DenseTrace> MakeDense(const std::vector<TracePod>& pods,
                             const std::vector<std::int64_t>& milli, std::int64_t capacity_milli,
                             std::uint32_t load_percent, Rng* rng);

// kInvalidArgument naming the field for options out of range and for pods without times.
Result<ChurnResult> Churn(const std::vector<TraceNode>& nodes, const std::vector<TracePod>& pods,
                          const ChurnOptions& options);

}  // namespace tessera::simulate
