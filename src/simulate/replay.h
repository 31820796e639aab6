// Replays a trace against one placement policy, the way FGD's artifact does: pods arrive one after
// the other, each is tried once, nothing leaves, and after every arrival it is noted how much of
// the fleet has been asked for (refused pods included), how much is taken and how much lies
// fragmented. Pure but for its inputs; the same inputs give the same result on every machine.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "simulate/trace.h"

namespace tessera::simulate {

inline constexpr std::size_t kLoadPercentMax = 200;  // columns of a curve
inline constexpr std::uint32_t kBatchMax = 65'536;   // arrivals held back at a time

// Whether the classes are learnt anew after so many arrivals: every `every`, and before the first
// of those after 1, 2, 4, 8...
inline bool LearnsAfter(std::uint64_t arrivals, std::uint32_t every) {
  return arrivals % every == 0 || (arrivals < every && (arrivals & (arrivals - 1)) == 0);
}

struct ReplayOptions {
  std::string policy;  // placement::MakeScorer, or "random"
  // Task classes: from the whole trace beforehand (as FGD has them), or learnt from what has
  // arrived, see LearnsAfter.
  std::uint32_t learn_every = 0;  // 0: beforehand
  // Nodes of the same score: the lowest rank wins, or one of them drawn at random.
  bool random_ties = false;
  // Arrivals are held back in groups of that many and placed by falling demand (cards, then cores).
  // FGD's protocol places each as it comes.
  std::uint32_t batch = 1;
  // A request with cards that fits nowhere may have one other moved out of its way
  // (placement/defragment.h). FGD's protocol moves nothing.
  bool migrate = false;
  std::uint64_t seed = 1;  // of policy "random" and of random ties
};

struct ReplayResult {
  // By arrived load in whole percent: mean over the arrivals that round to it of what is taken, and
  // of fragmentation, in percent of the fleet's cards. Negative: no arrival is near it.
  std::vector<double> allocated;
  std::vector<double> fragmented;
  std::uint64_t arrived = 0;
  std::uint64_t placed = 0;
  std::uint64_t moves = 0;
};

Result<ReplayResult> Replay(const std::vector<TraceNode>& nodes, const std::vector<TracePod>& pods,
                            const TraceOrder& order, const ReplayOptions& options);

}  // namespace tessera::simulate
