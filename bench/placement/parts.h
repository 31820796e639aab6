// The parts of bench-placement. Each adds its figures.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/figures.h"

namespace tessera::bench {

// Decisions on fleets of generated nodes: percentiles, rates and heap allocations.
void MeasureSpeed(std::vector<Figure>* figures);

// The same of the engine that production calls, on nodes whose cards differ in memory, links and
// NUMA node, in pools.
void MeasureEngine(std::vector<Figure>* figures);

// Allocation on the openb trace by policy. Nothing, with a line that says so, where the trace is
// not there; an error in it ends the program.
void MeasureQuality(std::vector<Figure>* figures);

// What this thread had of the processor: others on the machine must not show in a percentile.
double CpuSeconds();
// Heap allocations of the program so far.
std::uint64_t Allocations();
double Percentile(std::vector<double>* values, double percent);

// Ends the program.
[[noreturn]] void Die(const std::string& what);

}  // namespace tessera::bench
