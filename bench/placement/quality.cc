#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "bench/placement/parts.h"
#include "os/files.h"
#include "os/scratch.h"
#include "simulate/bound.h"
#include "simulate/churn.h"
#include "simulate/replay.h"
#include "simulate/spot.h"
#include "simulate/trace.h"

namespace tessera::bench {
namespace {

constexpr const char* kVariants[] = {"default",    "cpu050",      "cpu250",
                                     "gpushare60", "gpushare100", "gpuspec10",
                                     "gpuspec25",  "multigpu20",  "multigpu50"};
constexpr int kFirstSeed = 42, kLastSeed = 51;
constexpr std::size_t kLoads[] = {90, 100, 110, 120, 130};

// Ours learns what arrives on the way; FGD knows it beforehand, as published.
struct Way {
  const char* prefix;  // of its figure
  simulate::ReplayOptions options;
};
const Way kWays[] = {
    {"", {.policy = "tessera", .learn_every = 100}},
    {"fgd_", {.policy = "fgd"}},
    {"random_ties_", {.policy = "tessera", .learn_every = 100, .random_ties = true}},
    {"fgd_random_ties_", {.policy = "fgd", .random_ties = true}},
    {"hami_", {.policy = "hami", .random_ties = true}},
    {"least_allocated_", {.policy = "least-allocated", .random_ties = true}},
    // Other protocols than FGD's, reported apart: arrivals held back in groups.
    {"batch_16_", {.policy = "tessera", .learn_every = 100, .batch = 16}},
    {"batch_64_", {.policy = "tessera", .learn_every = 100, .batch = 64}},
    {"batch_256_", {.policy = "tessera", .learn_every = 100, .batch = 256}},
};
constexpr std::size_t kOurs = 0, kFgd = 1, kOursRandom = 2;

template <typename T>
T OrDie(Result<T> result) {
  if (!result) Die(result.error().ToString());
  return *std::move(result);
}

// The bound on what has arrived at 100 % load, the arrivals that round to it included.
double BoundAt100(const std::vector<simulate::TraceNode>& nodes,
                  const std::vector<simulate::TracePod>& pods, const simulate::TraceOrder& order) {
  placement::Fleet fleet;
  for (const simulate::TraceNode& node : nodes) {
    const Status added = fleet.AddNode(node.name, node.cpu_millis, node.ram_mib, node.cards,
                                       OrDie(fleet.KindOf(node.model)), 0);
    if (!added) Die(added.error().ToString());
  }
  std::vector<placement::Shape> arrived;
  std::int64_t milli = 0;
  for (const std::uint32_t pod : order.arrivals) {
    const placement::Shape shape = simulate::ShapeOf(fleet, pods[pod]);
    milli += shape.total_milli();
    if (milli * 1000 > fleet.capacity_milli() * 1005) break;
    arrived.push_back(shape);
  }
  return simulate::AllocationBound(fleet, arrived);
}

double MeanOf(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

// Requests that come and go on every 16th node: allocation in percent and waits in seconds, mean of
// the seeds, without moves and with plans of up to four.
void MeasureChurn(const std::vector<simulate::TraceNode>& nodes,
                  const std::vector<simulate::TracePod>& pods, std::vector<Figure>* figures) {
  constexpr std::uint64_t kSeeds = 10;
  for (const std::string policy : {"tessera", "fgd", "binpack", "bestfit"}) {
    for (const std::uint32_t moves_max : {0u, 4u}) {
      std::vector<double> allocated, delay, moves;
      for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
        const auto result = OrDie(
            simulate::Churn(nodes, pods, {.policy = policy, .moves_max = moves_max, .seed = seed}));
        allocated.push_back(result.allocated_mean);
        delay.push_back(static_cast<double>(result.delay_p99));
        moves.push_back(static_cast<double>(result.moves));
      }
      const double mean = MeanOf(allocated);
      double squares = 0;
      for (const double one : allocated) squares += (one - mean) * (one - mean);
      const std::string key = moves_max > 0 ? "churn_moved_" : "churn_";
      figures->push_back({key + "alloc." + policy, mean});
      figures->push_back({key + "alloc_deviation." + policy, std::sqrt(squares / (kSeeds - 1))});
      figures->push_back({key + "delay_p99_s." + policy, MeanOf(delay)});
      if (moves_max > 0) figures->push_back({key + "moves." + policy, MeanOf(moves)});
    }
  }
}

// Four in ten requests are spot, on every 64th node: what selling more than there is brings, and
// what it costs. By compute sold to what there is, per mille; percent of what the cards have.
void MeasureSpot(const std::vector<simulate::TraceNode>& nodes,
                 const std::vector<simulate::TracePod>& all, std::vector<Figure>* figures) {
  std::vector<simulate::TracePod> pods;
  for (std::size_t i = 0; i < all.size(); i += 4) pods.push_back(all[i]);
  for (const std::uint32_t oversell : {1000u, 1200u, 1400u, 1600u, 1800u}) {
    const auto result = OrDie(simulate::ChurnSpot(
        nodes, pods,
        {.policy = "tessera", .nodes_every = 64, .spot_percent = 40, .oversell = oversell}));
    const std::string at = "." + std::to_string(oversell);
    figures->push_back({"spot_alloc" + at, result.allocated_percent});
    figures->push_back({"spot_sold" + at, result.sold_percent});
    figures->push_back({"spot_useful" + at, result.useful_percent});
    figures->push_back({"spot_lost_work" + at, result.lost_work_percent});
    figures->push_back({"spot_contended" + at, result.contended_percent});
    figures->push_back({"spot_evictions" + at, static_cast<double>(result.spot.evicted)});
    figures->push_back(
        {"spot_guaranteed_delay_p99_s" + at, static_cast<double>(result.guaranteed.delay_p99)});
    figures->push_back({"spot_delay_p99_s" + at, static_cast<double>(result.spot.delay_p99)});
    figures->push_back({"spot_behind_max_s" + at, static_cast<double>(result.behind_spot_max)});
  }
}

}  // namespace

void MeasureQuality(std::vector<Figure>* figures) {
  const char* chosen = std::getenv("TESSERA_OPENB");
  const std::string folder = chosen != nullptr && *chosen != '\0' ? chosen : OPENB_FOLDER;
  if (!os::PosixFiles().Exists(folder + "/openb_node_list_gpu_node.csv")) {
    std::fprintf(stderr,
                 "bench-placement: NOT RUN: no trace data at %s, so nothing is said about "
                 "allocation (see src/simulate/README.md)\n",
                 folder.c_str());
    return;
  }
  const auto nodes = OrDie(simulate::ReadNodes(folder + "/openb_node_list_gpu_node.csv"));
  const os::ScratchFolder orders;
  const std::string untar = "tar xzf '" + folder + "/sequences.tgz' -C '" + orders.path() + "'";
  if (std::system(untar.c_str()) != 0) Die("cannot unpack " + folder + "/sequences.tgz");
  double below_fgd = -100, lost_by_ties = -100;
  for (const std::string variant : kVariants) {
    const std::string file = folder + "/openb_pod_list_" + variant + ".csv";
    if (!os::PosixFiles().Exists(file)) continue;
    const auto pods = OrDie(simulate::ReadPods(file));
    std::vector<std::vector<double>> mean(std::size(kWays),
                                          std::vector<double>(simulate::kLoadPercentMax + 1));
    double bound = 0;
    if (variant == "default") {
      MeasureChurn(nodes, pods, figures);
      MeasureSpot(nodes, pods, figures);
    }
    for (int seed = kFirstSeed; seed <= kLastSeed; ++seed) {
      const auto order = OrDie(simulate::ReadOrder(
          orders / ("sequences/" + variant + ".10" + std::to_string(seed) + ".txt"), pods.size(),
          nodes.size()));
      bound += BoundAt100(nodes, pods, order) / (kLastSeed - kFirstSeed + 1);
      for (std::size_t way = 0; way < std::size(kWays); ++way) {
        simulate::ReplayOptions options = kWays[way].options;
        options.seed = static_cast<std::uint64_t>(seed);
        const auto result = OrDie(simulate::Replay(nodes, pods, order, options));
        for (const std::size_t load : kLoads) {
          mean[way][load] += result.allocated[load] / (kLastSeed - kFirstSeed + 1);
        }
      }
    }
    if (variant == "default") {
      double allocated = 0;
      for (int seed = kFirstSeed; seed <= kLastSeed; ++seed) {
        const auto order = OrDie(simulate::ReadOrder(
            orders / ("sequences/" + variant + ".10" + std::to_string(seed) + ".txt"), pods.size(),
            nodes.size()));
        allocated +=
            OrDie(simulate::Replay(nodes, pods, order,
                                   {.policy = "tessera", .learn_every = 100, .migrate = true}))
                .allocated[100] /
            (kLastSeed - kFirstSeed + 1);
      }
      figures->push_back({"migrate_alloc_at_100.default", allocated});
    }
    std::fprintf(stderr, "bench-placement: %-12s", variant.c_str());
    for (std::size_t way = 0; way < std::size(kWays); ++way) {
      figures->push_back({kWays[way].prefix + ("alloc_at_100." + variant), mean[way][100]});
      std::fprintf(stderr, " %salloc %.2f", kWays[way].prefix, mean[way][100]);
    }
    // What the bound leaves above FGD, and how much of that is ours. It bounds whoever may choose
    // freely what to refuse; who must take what fits stays further below it.
    const double gap_closed = (mean[kOurs][100] - mean[kFgd][100]) / (bound - mean[kFgd][100]);
    figures->push_back({"bound_at_100." + variant, bound});
    figures->push_back({"gap_closed." + variant, gap_closed});
    std::fprintf(stderr, " bound %.2f gap_closed %.2f\n", bound, gap_closed);
    for (const std::size_t load : kLoads) {
      const double short_of = mean[kFgd][load] - mean[kOurs][load];
      if (short_of > 0.05) {
        std::fprintf(stderr, "bench-placement: %-12s at %zu %%: ours %.2f, FGD %.2f\n",
                     variant.c_str(), load, mean[kOurs][load], mean[kFgd][load]);
      }
      below_fgd = std::max(below_fgd, short_of);
    }
    lost_by_ties = std::max(lost_by_ties, mean[kOurs][100] - mean[kOursRandom][100]);
  }
  // Points of the worst variant and load, and of the worst variant; negative: never.
  figures->push_back({"below_fgd_at_worst", below_fgd});
  figures->push_back({"lost_by_random_ties_at_worst", lost_by_ties});
}

}  // namespace tessera::bench
