// `tessera simulate --placement`: replays a trace of arrivals against placement policies.
#pragma once

#include <cstdint>
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
};

// Prints one line a policy; returns the process's exit code.
int SimulatePlacement(const Context& context, const SimulateOptions& options);

}  // namespace tessera::cli
