// `tessera simulate --placement`: replays a trace of arrivals against placement policies, or, with
// `--churn`, lets them come and go, with `--spot` on cards that are sold more than once.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/commands.h"

namespace tessera::cli {

struct SimulateOptions {
  std::string nodes;  // CSV files, see simulate/trace.h
  std::string pods;
  std::string sequence;  // file with the order of arrivals; empty: drawn from `seed`
  std::uint64_t seed = 1;
  std::uint32_t load_percent = 130;  // of the cards' capacity arrives when the order is drawn
  std::vector<std::string> policies;
  std::uint32_t learn_every = 100;  // 0: classes are known beforehand
  bool random_ties = false;         // among nodes of the same score, drawn from `seed`
  std::string json;                 // files for the curves; empty: none
  std::string html;
  std::string csv;          // one line a policy and load (or sample of time)
  std::uint32_t batch = 1;  // arrivals held back at a time
  bool migrate = false;     // one move for a request that fits nowhere
  // Instead of a replay: requests come and go (simulate/churn.h), each policy without moves and,
  // if `moves` is not 0, with plans of at most that many.
  bool churn = false;
  std::uint32_t nodes_every = 16;
  std::uint32_t pods_every = 1;
  std::uint32_t churn_load_percent = 110;
  std::string backfill = "easy";
  std::uint32_t moves = 4;
  std::int64_t loss_every = 0;
  // Of a run under churn: on oversold cards, with requests that may be stopped (simulate/spot.h),
  // for each policy at each ratio.
  bool spot = false;
  std::optional<std::uint32_t> spot_percent;
  std::vector<std::string> oversell = {"1.0", "1.2", "1.4", "1.6", "1.8"};
  std::uint32_t use_percent = 35;
};

// Prints one line a policy; returns the process's exit code.
int SimulatePlacement(const Context& context, const SimulateOptions& options);

}  // namespace tessera::cli
