#include <time.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "bench/placement/parts.h"
#include "placement/classes.h"
#include "placement/fleet.h"
#include "placement/scores.h"
#include "placement/shape_index.h"

namespace {

std::atomic<std::uint64_t> allocations{0};

void* Allocate(std::size_t bytes) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  void* memory = std::malloc(bytes);
  if (memory == nullptr) std::abort();
  return memory;
}

}  // namespace

// Every allocation of the program is counted; the measured loop reads the count before and after.
void* operator new(std::size_t bytes) { return Allocate(bytes); }
void* operator new[](std::size_t bytes) { return Allocate(bytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace tessera::bench {
namespace {

using placement::CardSet;
using placement::Fleet;
using placement::Shape;
using placement::ShapeIndex;

constexpr std::uint32_t kCardsPerNode = 8;
constexpr std::uint32_t kFleets[] = {10'000, 100'000, 1'000'000};  // cards
constexpr std::uint32_t kFullPercent[] = {0, 50, 90};
constexpr int kRepetitions = 5;
constexpr int kDecisions = 20'000;  // of each repetition
constexpr int kWarm = 5'000;
// How much may run on an empty fleet: what is decided has to go somewhere for a while.
constexpr std::size_t kHeldWhenEmpty = 500;

// What arrives: 40 % shares of a card, 40 % one card, 10 % two, 7 % four, 3 % eight; a third asks
// for one or two of the three card models. Weights are per mille of the arrivals.
struct Mix {
  std::uint32_t permille;
  Shape shape;
};
constexpr std::int64_t kGiB = 1024;  // in MiB
const Mix kMix[] = {
    {100, {4'000, 16 * kGiB, 1, 250, 0}},      {60, {6'000, 24 * kGiB, 1, 500, 0}},
    {60, {2'000, 8 * kGiB, 1, 100, 0}},        {40, {8'000, 30 * kGiB, 1, 330, 0b001}},
    {40, {4'000, 12 * kGiB, 1, 200, 0b110}},   {40, {6'000, 48 * kGiB, 1, 700, 0}},
    {30, {1'000, 4 * kGiB, 1, 50, 0}},         {30, {8'000, 32 * kGiB, 1, 800, 0b100}},
    {120, {8'000, 32 * kGiB, 1, 1000, 0}},     {80, {12'000, 64 * kGiB, 1, 1000, 0}},
    {60, {4'000, 16 * kGiB, 1, 1000, 0b001}},  {60, {10'000, 60 * kGiB, 1, 1000, 0b010}},
    {40, {16'000, 90 * kGiB, 1, 1000, 0b101}}, {40, {6'000, 30 * kGiB, 1, 1000, 0}},
    {60, {16'000, 100 * kGiB, 2, 1000, 0}},    {40, {24'000, 128 * kGiB, 2, 1000, 0b100}},
    {40, {32'000, 200 * kGiB, 4, 1000, 0}},    {30, {48'000, 256 * kGiB, 4, 1000, 0b110}},
    {20, {64'000, 400 * kGiB, 8, 1000, 0}},    {10, {88'000, 600 * kGiB, 8, 1000, 0b100}},
};

struct Held {
  std::uint32_t node;
  const Shape* shape;
  CardSet cards;
};

class World {
 public:
  explicit World(std::uint32_t cards) : rng_(cards) {
    for (const char* model : {"T4", "A10", "A100"}) {
      if (!fleet_.KindOf(model)) Die("no room for a card model");
    }
    const std::uint32_t nodes = cards / kCardsPerNode;
    std::vector<std::uint32_t> ranks(nodes);
    for (std::uint32_t n = 0; n < nodes; ++n) ranks[n] = n;
    for (std::size_t i = nodes; i > 1; --i) std::swap(ranks[i - 1], ranks[rng_.Below(i)]);
    for (std::uint32_t n = 0; n < nodes; ++n) {
      const bool large = rng_.Chance(500);
      const Status added = fleet_.AddNode("node-" + std::to_string(n), large ? 128'000 : 96'000,
                                          (large ? 1024 : 768) * kGiB, kCardsPerNode,
                                          static_cast<std::uint32_t>(rng_.Below(3)), ranks[n]);
      if (!added) Die(added.error().ToString());
    }
    for (const Mix& one : kMix) {
      for (std::uint32_t i = 0; i < one.permille; ++i) arrived_.Count(one.shape, "");
    }
    scorer_ = *placement::MakeScorer("tessera");
    index_.emplace(fleet_, *scorer_);
    Learn();
    held_.reserve(std::size_t{cards} * 4);
  }

  // Up to that much, with what arrives; false when nothing of it fits any more.
  bool Fill(std::uint32_t percent) {
    int refused = 0;
    while (fleet_.used_milli() * 100 < fleet_.capacity_milli() * percent) {
      refused = Decide(Next()) ? 0 : refused + 1;
      if (refused == 1000) return false;
    }
    return true;
  }

  // As the owner of a fleet does now and then, beside its decisions.
  void Learn() {
    scorer_->Learn(arrived_, fleet_);
    index_->Reset();
    for (const Mix& one : kMix) index_->Best(one.shape);
  }

  // Decides so often while as much leaves as comes; the seconds of each decision and of all of it.
  double Churn(int decisions, std::uint32_t percent, std::vector<double>* each) {
    double in_all = 0;
    for (int i = 0; i < decisions; ++i) {
      const Shape& shape = Next();
      const double start = CpuSeconds();
      while (!held_.empty() && TooFull(percent)) ReleaseAny();
      const double ready = CpuSeconds();
      Decide(shape);
      const double end = CpuSeconds();
      if (each != nullptr) each->push_back(end - ready);
      in_all += end - start;
    }
    return in_all;
  }

 private:
  const Shape& Next() {
    std::uint64_t draw = rng_.Below(1000);
    for (const Mix& one : kMix) {
      if (draw < one.permille) return one.shape;
      draw -= one.permille;
    }
    return kMix[0].shape;
  }
  bool TooFull(std::uint32_t percent) const {
    if (percent == 0) return held_.size() >= kHeldWhenEmpty;
    return fleet_.used_milli() * 100 >= fleet_.capacity_milli() * percent;
  }
  bool Decide(const Shape& shape) {
    const auto choice = index_->Best(shape);
    if (!choice) return false;
    fleet_.Take(choice->node, shape, choice->cards);
    index_->Changed(choice->node);
    held_.push_back({choice->node, &shape, choice->cards});
    return true;
  }
  void ReleaseAny() {
    Held& leaving = held_[rng_.Below(held_.size())];
    fleet_.Give(leaving.node, *leaving.shape, leaving.cards);
    index_->Changed(leaving.node);
    leaving = held_.back();
    held_.pop_back();
  }

  Rng rng_;
  Fleet fleet_;
  placement::ClassCounter arrived_;
  std::unique_ptr<placement::Scorer> scorer_;
  std::optional<ShapeIndex> index_;
  std::vector<Held> held_;
};

}  // namespace

double CpuSeconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

std::uint64_t Allocations() { return allocations.load(); }

double Percentile(std::vector<double>* values, double percent) {
  const auto at =
      static_cast<std::ptrdiff_t>(percent / 100 * static_cast<double>(values->size() - 1));
  std::nth_element(values->begin(), values->begin() + at, values->end());
  return (*values)[static_cast<std::size_t>(at)];
}

void MeasureSpeed(std::vector<Figure>* figures) {
  double allocations_per_decision = 0;
  std::vector<double> each;
  each.reserve(kDecisions);
  for (const std::uint32_t cards : kFleets) {
    World world(cards);
    for (const std::uint32_t percent : kFullPercent) {
      if (!world.Fill(percent)) Die("the fleet cannot be filled to " + std::to_string(percent));
      const double learning = CpuSeconds();
      world.Learn();
      const double learnt = CpuSeconds() - learning;
      world.Churn(kWarm, percent, nullptr);
      std::vector<double> p50, p99, rate;
      for (int i = 0; i < kRepetitions; ++i) {
        each.clear();
        const std::uint64_t before = Allocations();
        const double seconds = world.Churn(kDecisions, percent, &each);
        const std::uint64_t made = Allocations() - before;
        allocations_per_decision =
            std::max(allocations_per_decision, static_cast<double>(made) / kDecisions);
        p50.push_back(Percentile(&each, 50) * 1e6);
        p99.push_back(Percentile(&each, 99) * 1e6);
        rate.push_back(kDecisions / seconds);
      }
      // The gates are those of the fullest fleet; the others stand beside them.
      const std::string of =
          "." + std::to_string(cards) + (percent == 90 ? "" : ".full_" + std::to_string(percent));
      Summarise("decision_p50_us" + of, p50, figures);
      Summarise("decision_p99_us" + of, p99, figures);
      Summarise("decisions_per_s" + of, rate, figures);
      // What no decision pays: classes learnt anew and every shape scored on every node.
      figures->push_back({"relearn_ms" + of, learnt * 1e3});
      std::fprintf(stderr,
                   "bench-placement: %u cards, %u %% full: p50 %.1f us, p99 %.1f us, %.0f "
                   "decisions a second\n",
                   cards, percent, Median(p50), Median(p99), Median(rate));
    }
  }
  figures->push_back({"allocations_per_decision", allocations_per_decision});
}

}  // namespace tessera::bench
