// The node of a soak: a process of its own with the real broker over the software cards, so that it
// can be killed and started again. Driven by lines on its standard input, one answer a line.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "broker/slice_pages.h"
#include "simgpu/state/state.h"

namespace tessera::soak {

// A slice of the soak, as both the controller and the node know it.
struct SlicePlan {
  const char* id;
  std::vector<std::uint32_t> cards;
  std::uint64_t limit_mib;
  std::uint32_t permille;
  std::uint32_t weight;  // 0: `permille` is a hard cap
  std::uint32_t priority;
  int walkers;  // of sixteen
};
const std::vector<SlicePlan>& Plans();

// Lines: "create N", "adopt N [PID START]...", "root N PID START", "terms N PERMILLE WEIGHT",
// "remove N", "counters". Answers: "ok [numbers]" or "error TEXT".
int RunNode(const std::string& folder);

}  // namespace tessera::soak
