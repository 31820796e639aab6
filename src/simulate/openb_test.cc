// The public openb trace: the figures that FGD's authors published on it, and ours.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>

#include "os/files.h"
#include "os/scratch.h"
#include "simulate/churn.h"
#include "simulate/replay.h"
#include "simulate/spot.h"

namespace tessera::simulate {
namespace {

struct Openb {
  std::string folder;
  std::unique_ptr<os::ScratchFolder> orders;
  std::vector<TraceNode> nodes;
  // "variant policy seed" -> allocation by load
  std::map<std::string, std::vector<double>> expected;
  mutable std::map<std::string, std::vector<TracePod>> pods;
  mutable std::map<std::pair<std::string, int>, ReplayResult> ours;

  static const Openb* Get() {
    static const Openb* openb = Load();
    return openb;
  }

  static std::string Folder() {
    const char* chosen = std::getenv("TESSERA_OPENB");
    return chosen != nullptr && *chosen != '\0' ? chosen : OPENB_FOLDER;
  }

  static const Openb* Load() {
    auto openb = std::make_unique<Openb>();
    openb->folder = Folder();
    auto nodes = ReadNodes(openb->folder + "/openb_node_list_gpu_node.csv");
    if (!nodes) return nullptr;
    openb->nodes = *std::move(nodes);
    openb->orders = std::make_unique<os::ScratchFolder>();
    const std::string untar =
        "tar xzf '" + openb->folder + "/sequences.tgz' -C '" + openb->orders->path() + "'";
    if (std::system(untar.c_str()) != 0) return nullptr;
    std::ifstream table(openb->folder + "/expected/analysis_allo_discrete.csv");
    std::string line;
    std::getline(table, line);
    while (std::getline(table, line)) {
      std::istringstream fields(line);
      std::string workload, policy, tune, seed, gpus, value;
      std::getline(fields, workload, ',');
      std::getline(fields, policy, ',');
      std::getline(fields, tune, ',');
      std::getline(fields, seed, ',');
      std::getline(fields, gpus, ',');
      std::vector<double>& curve = openb->expected[workload.substr(workload.find("list_") + 5) +
                                                   " " + policy.substr(3) + " " + seed];
      while (std::getline(fields, value, ',')) {
        curve.push_back(value.empty() ? -1 : std::strtod(value.c_str(), nullptr));
      }
    }
    return openb.release();
  }

  // Read once, kept for all tests of the process.
  const std::vector<TracePod>& Pods(const std::string& variant) const {
    const auto known = pods.find(variant);
    if (known != pods.end()) return known->second;
    return pods.emplace(variant, *ReadPods(folder + "/openb_pod_list_" + variant + ".csv"))
        .first->second;
  }

  Result<ReplayResult> Run(const std::string& variant, int seed,
                           const ReplayOptions& options) const {
    const auto& of_variant = Pods(variant);
    TRY(const auto order,
        ReadOrder(orders->path() + "/sequences/" + variant + ".10" + std::to_string(seed) + ".txt",
                  of_variant.size(), nodes.size()));
    return Replay(nodes, of_variant, order, options);
  }

  // Our policy, one policy and one set of weights, with what it learns from what has arrived.
  const ReplayResult& Ours(const std::string& variant, int seed) const {
    const std::pair key(variant, seed);
    const auto known = ours.find(key);
    if (known != ours.end()) return known->second;
    return ours.emplace(key, *Run(variant, seed, {.policy = "tessera", .learn_every = 100}))
        .first->second;
  }

  std::vector<std::string> Variants() const {
    std::vector<std::string> found;
    for (const char* name : {"default", "cpu050", "cpu250", "gpushare60", "gpushare100",
                             "gpuspec10", "gpuspec25", "multigpu20", "multigpu50"}) {
      if (os::PosixFiles().Exists(folder + "/openb_pod_list_" + name + ".csv")) {
        found.emplace_back(name);
      }
    }
    return found;
  }
};

// Data that is absent is skipped, data that cannot be read is a failure.
#define NEED_OPENB(openb)                                                                          \
  const Openb* openb = Openb::Get();                                                               \
  if (openb == nullptr) {                                                                          \
    ASSERT_FALSE(os::PosixFiles().Exists(Openb::Folder())) << Openb::Folder() << " is unreadable"; \
    GTEST_SKIP() << "NOT RUN: no trace data (see src/simulate/README.md)";                         \
  }

constexpr int kFirstSeed = 42;
constexpr int kLastSeed = 51;
constexpr std::size_t kLoads = 131;

// The published tables have two digits.
double Distance(const ReplayResult& result, const std::vector<double>& expected) {
  double worst = 0;
  for (std::size_t load = 0; load < kLoads && load < expected.size(); ++load) {
    if (expected[load] < 0) continue;
    worst = std::max(worst, std::abs(result.allocated[load] - expected[load]));
  }
  return worst;
}

// Every published curve of the policies, `theirs` and `ours` by name, to the rounding digit.
void ExpectTheAuthorsOwn(const Openb& openb,
                         const std::vector<std::pair<const char*, const char*>>& policies) {
  int curves = 0;
  for (const std::string& variant : openb.Variants()) {
    for (const auto& [theirs, ours] : policies) {
      for (int seed = kFirstSeed; seed <= kLastSeed; ++seed) {
        const std::string key = variant + " " + theirs + " " + std::to_string(seed);
        const auto expected = openb.expected.find(key);
        ASSERT_NE(expected, openb.expected.end()) << key;
        const auto result = openb.Run(variant, seed, {.policy = ours});
        ASSERT_TRUE(result) << result.error().ToString();
        EXPECT_LE(Distance(*result, expected->second), 0.00501) << key;
        ++curves;
      }
    }
  }
  std::printf("%d curves\n", curves);
  EXPECT_GE(curves, 20);
}

TEST(Openb, BestFitAndDotProdAreTheAuthorsOwnToTheRoundingDigit) {
  NEED_OPENB(openb);
  ExpectTheAuthorsOwn(*openb, {{"BestFit", "bestfit"}, {"DotProd", "dotprod"}});
}

TEST(Openb, PackingAndClusteringAreTheAuthorsOwnToTheRoundingDigit) {
  NEED_OPENB(openb);
  ExpectTheAuthorsOwn(*openb, {{"GpuPacking", "packing"}, {"GpuClustering", "clustering"}});
}

TEST(Openb, FgdIsTheAuthorsOwn) {
  NEED_OPENB(openb);
  int curves = 0, equal = 0;
  double worst = 0;
  for (const std::string& variant : openb->Variants()) {
    for (int seed = kFirstSeed; seed <= kLastSeed; ++seed) {
      const std::string key = variant + " FGD " + std::to_string(seed);
      const auto result = openb->Run(variant, seed, {.policy = "fgd"});
      ASSERT_TRUE(result) << result.error().ToString();
      const double distance = Distance(*result, openb->expected.at(key));
      ++curves;
      equal += distance <= 0.00501 ? 1 : 0;
      worst = std::max(worst, distance);
    }
  }
  std::printf("%d of %d curves equal, the worst off by %.3f points\n", equal, curves, worst);
  EXPECT_GE(equal * 100, curves * 94);
  EXPECT_LE(worst, 0.2);
}

TEST(Openb, RandomAgreesInTheMean) {
  NEED_OPENB(openb);
  double ours = 0, theirs = 0;
  for (int seed = kFirstSeed; seed <= kLastSeed; ++seed) {
    const auto result =
        openb->Run("default", seed, {.policy = "random", .seed = static_cast<unsigned>(seed)});
    ASSERT_TRUE(result) << result.error().ToString();
    ours += result->allocated[100] / 10;
    theirs += openb->expected.at("default Random " + std::to_string(seed))[100] / 10;
  }
  EXPECT_NEAR(ours, theirs, 0.3);
}

TEST(Openb, OursWastesLessThanFgdOnEveryVariant) {
  NEED_OPENB(openb);
  const std::map<std::string, double> at_least = {{"default", 95.9},
                                                  {"cpu250", 94.9},
                                                  {"gpushare100", 87.0},
                                                  {"multigpu50", 97.4},
                                                  {"gpuspec25", 95.0}};
  for (const std::string& variant : openb->Variants()) {
    std::map<std::size_t, double> ours, fgd;
    for (int seed = kFirstSeed; seed <= kLastSeed; ++seed) {
      const ReplayResult& result = openb->Ours(variant, seed);
      for (const std::size_t load : {90, 95, 100, 110, 120, 130}) {
        ours[load] += result.allocated[load] / 10;
        fgd[load] += openb->expected.at(variant + " FGD " + std::to_string(seed))[load] / 10;
      }
    }
    std::printf("%-12s", variant.c_str());
    for (const auto& [load, percent] : ours) {
      std::printf("  %zu%%: %.2f (FGD %.2f)", load, percent, fgd[load]);
      EXPECT_GE(percent, fgd[load] - 0.05) << variant << " at " << load << " %";
    }
    std::printf("\n");
    EXPECT_GE(ours[100], fgd[100] + 0.3) << variant;
    const auto aim = at_least.find(variant);
    if (aim != at_least.end()) {
      EXPECT_GE(ours[100], aim->second) << variant;
    }
  }
}

// FGD loses five points on these orders when ties fall at random.
TEST(Openb, OursDoesNotRestOnHowTiesFall) {
  NEED_OPENB(openb);
  double ranked = 0, drawn = 0;
  for (int seed = kFirstSeed; seed <= kLastSeed; ++seed) {
    const auto at_random = openb->Run("default", seed,
                                      {.policy = "tessera",
                                       .learn_every = 100,
                                       .random_ties = true,
                                       .seed = static_cast<std::uint64_t>(seed)});
    ASSERT_TRUE(at_random);
    ranked += openb->Ours("default", seed).allocated[100] / 10;
    drawn += at_random->allocated[100] / 10;
  }
  std::printf("allocated at 100%%: %.2f by rank, %.2f at random\n", ranked, drawn);
  EXPECT_GE(drawn, ranked - 0.1);
}

// Other protocols than FGD's, whose figures are reported apart: a study of the same trace found
// 95.98, 96.05 and 96.07 at 100 % for our kind of policy in groups of 16, 64 and 256, and a loss
// for FGD (94.8 to 95.2 with groups of 16, 93.8 with 64).
TEST(Openb, HoldingArrivalsBackHelpsUsAndHurtsFgd) {
  NEED_OPENB(openb);
  double ours[2] = {}, fgd = 0, fgd_at_once = 0;
  for (int seed = kFirstSeed; seed < kFirstSeed + 5; ++seed) {
    ours[0] += openb->Ours("default", seed).allocated[100] / 5;
    ours[1] += openb->Run("default", seed, {.policy = "tessera", .learn_every = 100, .batch = 64})
                   ->allocated[100] /
               5;
    fgd += openb->Run("default", seed, {.policy = "fgd", .batch = 64})->allocated[100] / 5;
    fgd_at_once += openb->expected.at("default FGD " + std::to_string(seed))[100] / 5;
  }
  std::printf("at 100%%: ours %.2f, in groups of 64 %.2f; FGD %.2f, in groups of 64 %.2f\n",
              ours[0], ours[1], fgd_at_once, fgd);
  EXPECT_NEAR(ours[1], 96.05, 0.1);
  EXPECT_GT(ours[1], ours[0]);
  EXPECT_NEAR(fgd, 93.83, 0.3);
}

// One move for a request that would be refused: the study found 0.05 points for our kind of policy
// on default, with some 14 moves a run, and far more for FGD where card kinds are bound.
TEST(Openb, OneMoveForWhatWouldBeRefusedIsWorthLittleToUsAndMuchToFgd) {
  NEED_OPENB(openb);
  double gain = 0, moves = 0;
  for (int seed = kFirstSeed; seed < kFirstSeed + 3; ++seed) {
    const auto moved =
        openb->Run("default", seed, {.policy = "tessera", .learn_every = 100, .migrate = true});
    ASSERT_TRUE(moved) << moved.error().ToString();
    gain += (moved->allocated[100] - openb->Ours("default", seed).allocated[100]) / 3;
    moves += static_cast<double>(moved->moves) / 3;
  }
  const auto fgd = openb->Run("gpuspec25", kFirstSeed, {.policy = "fgd", .migrate = true});
  ASSERT_TRUE(fgd) << fgd.error().ToString();
  const double fgd_gain =
      fgd->allocated[100] - openb->expected.at("gpuspec25 FGD " + std::to_string(kFirstSeed))[100];
  std::printf("gain at 100%%: %.2f with %.0f moves; FGD on gpuspec25 %.2f with %llu\n", gain, moves,
              fgd_gain, static_cast<unsigned long long>(fgd->moves));
  EXPECT_NEAR(gain, 0.05, 0.05);
  EXPECT_GE(moves, 5);
  EXPECT_LE(moves, 30);
  EXPECT_GT(fgd_gain, 0.5);
}

struct Spread {
  double mean = 0, deviation = 0;
};
Spread SpreadOf(const std::vector<double>& values) {
  Spread spread;
  for (const double value : values) spread.mean += value / static_cast<double>(values.size());
  for (const double value : values) {
    spread.deviation += (value - spread.mean) * (value - spread.mean);
  }
  spread.deviation = std::sqrt(spread.deviation / static_cast<double>(values.size() - 1));
  return spread;
}

// Under departure ours fills the fleet as its peers do. A single seed says little: see the
// deviations.
TEST(Openb, ChurnOursKeepsUpWithItsPeers) {
  NEED_OPENB(openb);
  std::map<std::string, std::vector<double>> allocated, delay;
  for (const char* policy : {"tessera", "fgd", "binpack"}) {
    for (std::uint64_t seed = 1; seed <= 12; ++seed) {
      const auto result =
          Churn(openb->nodes, openb->Pods("default"), {.policy = policy, .seed = seed});
      ASSERT_TRUE(result) << result.error().ToString();
      EXPECT_EQ(result->placed + result->never, result->arrived);
      allocated[policy].push_back(result->allocated_mean);
      delay[policy].push_back(static_cast<double>(result->delay_p99));
    }
    const Spread mean = SpreadOf(allocated[policy]), late = SpreadOf(delay[policy]);
    std::printf("%-8s allocated %.2f (deviation %.2f), p99 of the wait %.0f s (%.0f)\n", policy,
                mean.mean, mean.deviation, late.mean, late.deviation);
  }
  EXPECT_GE(SpreadOf(allocated["tessera"]).mean, SpreadOf(allocated["fgd"]).mean - 0.75);
  EXPECT_LE(SpreadOf(delay["tessera"]).mean, SpreadOf(delay["fgd"]).mean * 1.5);
}

TEST(Openb, ChurnSpotNeverHarmsWhatIsGuaranteed) {
  NEED_OPENB(openb);
  std::vector<TracePod> pods;
  for (std::size_t i = 0; i < openb->Pods("default").size(); i += 8) {
    pods.push_back(openb->Pods("default")[i]);
  }
  std::uint64_t evicted = 0;
  for (const std::uint32_t oversell : {1000u, 1400u, 1800u}) {
    const auto result = ChurnSpot(
        openb->nodes, pods,
        {.policy = "tessera", .nodes_every = 64, .spot_percent = 40, .oversell = oversell});
    ASSERT_TRUE(result) << result.error().ToString();
    std::printf(
        "oversold to %u: sold %.1f, useful %.1f, %llu evictions, guaranteed p99 %lld s, behind "
        "spot at most %lld s\n",
        oversell, result->sold_percent, result->useful_percent,
        static_cast<unsigned long long>(result->spot.evicted),
        static_cast<long long>(result->guaranteed.delay_p99),
        static_cast<long long>(result->behind_spot_max));
    EXPECT_LE(result->behind_spot_max, kStopSeconds);
    EXPECT_EQ(result->guaranteed.lost_percent, 0);
    EXPECT_EQ(result->guaranteed.evicted, 0u);
    EXPECT_LE(result->memory_sold_percent, kOversellMemoryMax / 10.0);
    EXPECT_EQ(result->unplaced, 0u);
    evicted += result->spot.evicted;
  }
  EXPECT_GT(evicted, 0u);
}

}  // namespace
}  // namespace tessera::simulate
