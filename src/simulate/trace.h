// Traces: what a fleet has and what arrives at it, read from CSV files in the form of Alibaba's
// public openb trace (cluster-trace-gpu-v2023).
//
//   nodes  sn,cpu_milli,memory_mib,gpu,model
//   pods   name,cpu_milli,memory_mib,num_gpu,gpu_milli[,gpu_spec,...]  (of the later ones, only
//          qos, and creation_time and deletion_time, in seconds, where both are there, are read)
//   order  one number a line: indices into the pods in file order as they arrive, -1, then for each
//          node, by name, its rank (the lowest wins ties)
//
// Bad input is refused naming file, line and column. Thread-safe: no state.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "placement/fleet.h"

namespace tessera::simulate {

inline constexpr std::size_t kTraceLinesMax = 4'000'000;

struct TraceNode {
  std::string name;
  std::int64_t cpu_millis = 0;
  std::int64_t ram_mib = 0;
  std::uint32_t cards = 0;
  std::string model;
};

struct TracePod {
  std::string name;
  std::int64_t cpu_millis = 0;
  std::int64_t ram_mib = 0;
  std::uint32_t cards = 0;
  std::uint32_t milli = 0;    // on each card; 0 without cards
  std::string models;         // allowed ones, "A|B"; empty: any
  std::int64_t created = -1;  // seconds from the trace's begin; negative: not in the file
  std::int64_t deleted = -1;
  std::string qos;  // Kubernetes' class as the trace has it; empty: not in the file
};

struct TraceOrder {
  std::vector<std::uint32_t> arrivals;
  std::vector<std::uint32_t> ranks;
};

Result<std::vector<TraceNode>> ReadNodes(const std::string& path);  // sorted by name
Result<std::vector<TracePod>> ReadPods(const std::string& path);
Result<TraceOrder> ReadOrder(const std::string& path, std::size_t pods, std::size_t nodes);

// What a pod asks of the fleet.
placement::Shape ShapeOf(const placement::Fleet& fleet, const TracePod& pod);

// An order of our own: the pods shuffled, then picks of them until `load_permille` of the fleet's
// milli has arrived (pods beyond it are left out), and shuffled ranks. The same seed gives the same
// order everywhere.
TraceOrder MakeOrder(const std::vector<TraceNode>& nodes, const std::vector<TracePod>& pods,
                     std::uint64_t seed, std::uint32_t load_permille);

}  // namespace tessera::simulate
