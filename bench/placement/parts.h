// The two parts of bench-placement. Each adds its figures.
#pragma once

#include <vector>

#include "bench/figures.h"

namespace tessera::bench {

// Decisions on fleets of generated nodes: percentiles, rates and heap allocations.
void MeasureSpeed(std::vector<Figure>* figures);

// Allocation on the openb trace by policy. Nothing, with a line that says so, where the trace is
// not there; an error in it ends the program.
void MeasureQuality(std::vector<Figure>* figures);

// Ends the program.
[[noreturn]] void Die(const std::string& what);

}  // namespace tessera::bench
