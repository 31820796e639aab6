// A fleet that sells more than it has: guaranteed requests and spot ones under churn (churn.h says
// how the trace is made dense; requests for cores alone are left out), decided by the queue and the
// engine that production runs. The node's oversell ratio admits spot above what a card has;
// guaranteed slices never add up to more than the card; a guaranteed request that waits has spot
// stopped for it, the cheapest set.
//
// The trace says neither what is used nor how much card memory is asked, so both are drawn from the
// seed. Memory asked: 40 to 100 % of what the compute share would be of a card of kSpotCardBytes;
// of it 50 to 100 % are in use. Compute in use: each request draws a duty, evenly from 0 to twice
// `use_percent`, and is in any minute either at its whole share, with that chance, or idle. A card
// serves guaranteed slices first, as the node's broker does for priorities; spot gets what is left.
//
// Pure but for its inputs; the same inputs give the same result on every machine.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "simulate/churn.h"
#include "simulate/trace.h"

namespace tessera::simulate {

inline constexpr std::uint64_t kSpotCardBytes = 32 * kGiB;
inline constexpr std::uint32_t kOversellMemoryMax = 1400;  // per mille; above, memory is often over
inline constexpr std::int64_t kStopSeconds = 10;           // from being told to go to being gone
inline constexpr std::int64_t kUseSeconds = 60;            // between looks at what is in use
// Spot requests that wait in the queue at a time, stopped ones not counted; the others stand in
// line before it, as behind a door. A decision looks at all that wait in the queue.
inline constexpr std::size_t kSpotLineMax = 32;
inline constexpr const char* kSpotClass = "BE";  // the trace's best-effort QoS class

struct SpotOptions {
  std::string policy;
  std::uint32_t nodes_every = 16;
  std::uint32_t load_percent = 110;           // of what the cards have, spot included
  std::optional<std::uint32_t> spot_percent;  // of the requests; none: those of kSpotClass
  std::uint32_t oversell = 1000;  // compute, per mille; memory likewise up to kOversellMemoryMax
  std::uint32_t use_percent = 35;
  bool preempt = true;  // false: guaranteed requests wait behind spot, to show what it costs
  std::uint32_t moves_max = 0;  // spot slices moved together every kTidySeconds; 0: none
  std::uint64_t seed = 1;
};

struct SpotClassResult {
  std::uint64_t arrived = 0;
  std::uint64_t placed = 0;
  std::int64_t delay_p50 = 0, delay_p99 = 0, delay_max = 0;  // seconds from arrival to first start
  std::uint64_t evicted = 0;
  double wanted_percent = 0;  // compute wanted by what runs, of what the cards have
  double lost_percent = 0;    // of what it wanted and did not get, the card being over
};

struct SpotResult {
  std::uint32_t nodes = 0;
  std::int64_t cards = 0;
  std::int64_t span_seconds = 0;
  std::uint64_t never = 0;     // would not fit an empty fleet; does not wait
  std::uint64_t unplaced = 0;  // still waiting when nothing was left to happen
  SpotClassResult guaranteed, spot;
  // The longest that the first guaranteed request in line waited while it would have fitted if no
  // spot ran: no more than kStopSeconds where preemption works.
  std::int64_t behind_spot_max = 0;
  // Over the last three quarters of the arrivals' span, in percent of what the cards have.
  double allocated_percent = 0;  // at most the whole of each card
  double sold_percent = 0;       // with what is sold twice
  double memory_sold_percent = 0;
  double served_percent = 0;       // compute that was really got
  double useful_percent = 0;       // less what stopped spot requests had got and do again
  double lost_work_percent = 0;    // that difference
  double contended_percent = 0;    // of card-time: more wanted than the card has
  double memory_over_percent = 0;  // of card-time: more memory in use than the card has
  std::vector<double> sold;        // percent, sampled over the span at equal distances
  std::uint64_t moves = 0, moves_refused = 0;  // refused: the engine had no room where planned
  std::uint64_t cards_emptied = 0;
};

// kInvalidArgument naming the field for options out of range and for pods without times (or, with
// no `spot_percent`, without a QoS class).
Result<SpotResult> ChurnSpot(const std::vector<TraceNode>& nodes, const std::vector<TracePod>& pods,
                             const SpotOptions& options);

}  // namespace tessera::simulate
