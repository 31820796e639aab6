#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include "base/rng.h"
#include "bench/placement/parts.h"
#include "placement/engine.h"

namespace tessera::bench {
namespace {

using placement::Engine;
using placement::Request;

constexpr std::uint32_t kCardsPerNode = 8;
constexpr std::uint32_t kFleets[] = {10'000, 100'000, 1'000'000};  // cards
constexpr std::uint32_t kFullPercent[] = {0, 50, 90};
constexpr int kRepetitions = 5;
constexpr int kDecisions = 20'000;  // of each repetition
constexpr int kWarm = 50'000;
constexpr int kLearnMayEvery = 100;
// How much may run on an empty fleet: what is decided has to go somewhere for a while.
constexpr std::size_t kHeldWhenEmpty = 500;
// Before it is measured a fleet has held this part more reservations.
constexpr std::size_t kOnceMorePart = 8;
constexpr std::uint64_t kMib = 1024 * 1024;

struct Model {
  const char* name;
  std::uint64_t memory_bytes;
  std::uint32_t near, far;  // link scores on one NUMA node and across
};
constexpr Model kModels[] = {{"NVIDIA A10", 24 * kGiB, 4, 1},
                             {"NVIDIA A100-SXM4-80GB", 80 * kGiB, 24, 12},
                             {"Tesla T4", 16 * kGiB, 0, 0}};
constexpr const char* kPools[] = {"inference", "shared", "training"};

// What arrives, per mille: 40 % shares of a card with memory and compute of their own, 40 % one
// card, 10 % two, 7 % four, 3 % eight; a third names a model, a third a pool.
struct Ask {
  std::uint32_t permille;
  std::uint32_t slices;
  std::uint64_t memory_bytes;
  std::uint32_t compute;  // 1000: cards that hold nothing else
  std::uint32_t cpu_millis;
  std::uint64_t ram_bytes;
  const char* model = "";
  const char* pool = "";
};
constexpr Ask kAsks[] = {
    {100, 1, 4 * kGiB, 250, 4'000, 16 * kGiB},
    {60, 1, 6 * kGiB, 500, 6'000, 24 * kGiB},
    {60, 1, 3 * kGiB, 100, 2'000, 8 * kGiB},
    {40, 1, 8 * kGiB, 330, 8'000, 30 * kGiB, "a10"},
    {40, 1, 2 * kGiB, 200, 4'000, 12 * kGiB, "", "inference"},
    {40, 1, 12 * kGiB, 700, 6'000, 48 * kGiB},
    {30, 1, 1536 * kMib, 50, 1'000, 4 * kGiB, "T4"},
    {30, 1, 60 * kGiB, 600, 8'000, 32 * kGiB, "A100"},
    {120, 1, 12 * kGiB, 1000, 8'000, 32 * kGiB, "", "shared"},
    {80, 1, 12 * kGiB, 1000, 12'000, 64 * kGiB},
    {60, 1, 15 * kGiB, 1000, 4'000, 16 * kGiB, "t4"},
    {60, 1, 20 * kGiB, 1000, 10'000, 60 * kGiB, "A10"},
    {40, 1, 70 * kGiB, 1000, 16'000, 90 * kGiB, "a100", "training"},
    {40, 1, 10 * kGiB, 1000, 6'000, 30 * kGiB},
    {60, 2, 12 * kGiB, 1000, 16'000, 100 * kGiB},
    {40, 2, 70 * kGiB, 1000, 24'000, 128 * kGiB, "A100"},
    {40, 4, 12 * kGiB, 1000, 32'000, 200 * kGiB, "", "shared"},
    {30, 4, 70 * kGiB, 1000, 48'000, 256 * kGiB, "A100", "training"},
    {20, 8, 12 * kGiB, 1000, 64'000, 400 * kGiB},
    {10, 8, 70 * kGiB, 1000, 88'000, 600 * kGiB, "A100"},
};

constexpr std::size_t kSmall = 2;

// As long as a UUID.
std::string Uuid(const char* kind, std::uint64_t number) {
  const std::string digits = std::to_string(number);
  std::string uuid = std::string(kind) + "-00000000-0000-0000-0000-000000000000";
  return uuid.replace(uuid.size() - digits.size(), digits.size(), digits);
}

class World {
 public:
  World(std::uint32_t cards, const char* policy) : rng_(cards), cards_(cards) {
    for (const char* pool : kPools) OrDie(engine_.SetPolicy(pool, policy));
    for (std::uint32_t n = 0; n < cards / kCardsPerNode; ++n) AddNode(n);
    for (std::size_t i = 0; i < std::size(kAsks); ++i) {
      const Ask& ask = kAsks[i];
      Request request;
      request.id = Uuid("order", 0);
      request.slices = ask.slices;
      request.memory_bytes = ask.memory_bytes;
      request.compute = {ask.compute};
      request.exclusive = ask.compute == 1000;
      request.cpu_millis = ask.cpu_millis;
      request.ram_bytes = ask.ram_bytes;
      request.disk_bytes = 50 * kGiB;
      if (*ask.model != '\0') request.models = {ask.model};
      request.pool = ask.pool;
      request.tenant = "a tenant of the region " + std::to_string(i % 7);
      if (ask.slices == 2) request.links = placement::Links::kBest;
      if (ask.slices == 4) {
        request.numa = placement::Numa::kPrefer;
        request.links = placement::Links::kBest;
      }
      requests_.push_back(std::move(request));
    }
    held_.reserve(std::size_t{cards} * 2);
    leaving_ = Uuid("order", 0);
  }

  // Up to that much, with what arrives; false when nothing of it fits any more.
  bool Fill(std::uint32_t percent) {
    int missed = 0;
    for (int i = 0; !TooFull(percent); ++i) {
      if (i % kLearnMayEvery == 0) engine_.Learn();
      missed = Decide(Next()) ? 0 : missed + 1;
      if (missed == 1000) return false;
    }
    return true;
  }

  // What a steady state has behind it: every request was asked in every pool, and there were some
  // small ones more. False when they do not fit.
  bool Settle() {
    for (Request request : requests_) {
      if (!request.pool.empty()) continue;
      Name(&request.id, ++number_);
      for (const char* pool : kPools) {
        request.pool = pool;
        engine_.Consider(request);
      }
    }
    Request& small = requests_[kSmall];
    const std::size_t before = held_.size();
    while (held_.size() < before + before / kOnceMorePart) {
      Name(&small.id, ++number_);
      if (!Decide(small)) return false;
    }
    while (held_.size() > before) Release(held_.size() - 1);
    return true;
  }

  struct Measured {
    double seconds = 0;  // of everything
    double learning = 0;
    std::uint64_t allocations = 0;  // of decisions and releases
    int refused = 0;
  };
  // Decides so often while as much leaves as comes; the seconds of each decision into `each`. Now
  // and then the policy may learn, as between the decisions of a scheduler.
  Measured Churn(int decisions, std::uint32_t percent, std::vector<double>* each) {
    Measured all;
    for (int i = 0; i < decisions; ++i) {
      if (i % kLearnMayEvery == 0) {
        const double start = CpuSeconds();
        engine_.Learn();
        all.learning += CpuSeconds() - start;
      }
      const Request& request = Next();
      const std::uint64_t before = Allocations();
      const double start = CpuSeconds();
      while (!held_.empty() && TooFull(percent)) ReleaseAny();
      const double ready = CpuSeconds();
      if (!Decide(request)) ++all.refused;
      const double end = CpuSeconds();
      all.allocations += Allocations() - before;
      if (each != nullptr) each->push_back(end - ready);
      all.seconds += end - start;
    }
    all.seconds += all.learning;
    return all;
  }

 private:
  struct Held {
    std::uint64_t number;
    std::uint32_t permille;
  };

  static void OrDie(const Status& status) {
    if (!status) Die(status.error().ToString());
  }
  void AddNode(std::uint32_t n) {
    placement::NodeInventory node;
    const bool large = rng_.Chance(500);
    node.name = "node-" + std::to_string(rng_.Below(1'000'000'000)) + "-" + std::to_string(n);
    node.pool = kPools[rng_.Below(std::size(kPools))];
    node.cpu_millis = large ? 128'000 : 96'000;
    node.ram_bytes = (large ? 1024 : 768) * kGiB;
    node.disk_bytes = 8192 * kGiB;
    node.slices_per_card_max = 20;
    const std::uint64_t most = rng_.Below(std::size(kModels));
    const bool mixed = rng_.Chance(50);
    for (std::uint32_t c = 0; c < kCardsPerNode; ++c) {
      const Model& model = kModels[mixed && c >= 4 ? (most + 1) % std::size(kModels) : most];
      device::Card card;
      card.uuid = Uuid("GPU", std::uint64_t{n} * kCardsPerNode + c);
      card.vendor = "nvidia";
      card.model = model.name;
      card.index = static_cast<int>(c);
      card.memory_bytes = model.memory_bytes;
      card.numa_node = static_cast<int>(c / 4);
      for (std::uint32_t peer = 0; peer < kCardsPerNode && model.near > 0; ++peer) {
        if (peer == c) continue;
        card.links.push_back({Uuid("GPU", std::uint64_t{n} * kCardsPerNode + peer),
                              peer / 4 == c / 4 ? model.near : model.far});
      }
      node.cards.push_back(std::move(card));
    }
    OrDie(engine_.UpdateNode(node));
  }
  const Request& Next() {
    std::uint64_t draw = rng_.Below(1000);
    std::size_t i = 0;
    while (draw >= kAsks[i].permille) draw -= kAsks[i++].permille;
    Name(&requests_[i].id, ++number_);
    return requests_[i];
  }
  static void Name(std::string* id, std::uint64_t number) {
    constexpr std::size_t kDigits = 12;
    for (std::size_t i = 0; i < kDigits; ++i, number /= 10) {
      (*id)[id->size() - 1 - i] = static_cast<char>('0' + number % 10);
    }
  }
  bool TooFull(std::uint32_t percent) const {
    if (percent == 0) return held_.size() >= kHeldWhenEmpty;
    return used_permille_ >= std::uint64_t{cards_} * 10 * percent;
  }
  bool Decide(const Request& request) {
    if (engine_.Place(request) == nullptr) {
      engine_.Release(request.id);  // it does not wait
      return false;
    }
    held_.push_back({number_, request.slices * request.compute.value});
    used_permille_ += held_.back().permille;
    return true;
  }
  void ReleaseAny() { Release(rng_.Below(held_.size())); }
  void Release(std::size_t which) {
    Held& leaving = held_[which];
    Name(&leaving_, leaving.number);
    if (!engine_.Release(leaving_)) Die("a reservation is lost");
    used_permille_ -= leaving.permille;
    leaving = held_.back();
    held_.pop_back();
  }

  Rng rng_;
  std::uint32_t cards_;
  Engine engine_;
  std::vector<Request> requests_;  // of kAsks
  std::vector<Held> held_;
  std::string leaving_;
  std::uint64_t number_ = 0;
  std::uint64_t used_permille_ = 0;
};

}  // namespace

void MeasureEngine(std::vector<Figure>* figures) {
  double allocations_per_decision = 0;
  std::vector<double> each;
  each.reserve(kDecisions);
  for (const std::uint32_t cards : kFleets) {
    World world(cards, "tessera");
    for (const std::uint32_t percent : kFullPercent) {
      if (!world.Fill(percent)) Die("the fleet cannot be filled to " + std::to_string(percent));
      world.Churn(kWarm, percent, nullptr);
      if (!world.Settle()) Die("no room for small requests");
      world.Churn(kWarm, percent, nullptr);
      std::vector<double> p50, p99, rate;
      int refused = 0;
      double learning = 0;
      for (int i = 0; i < kRepetitions; ++i) {
        each.clear();
        const World::Measured all = world.Churn(kDecisions, percent, &each);
        allocations_per_decision =
            std::max(allocations_per_decision, static_cast<double>(all.allocations) / kDecisions);
        p50.push_back(Percentile(&each, 50) * 1e6);
        p99.push_back(Percentile(&each, 99) * 1e6);
        rate.push_back(kDecisions / all.seconds);
        refused += all.refused;
        learning += all.learning;
      }
      const std::string of =
          "." + std::to_string(cards) + (percent == 90 ? "" : ".full_" + std::to_string(percent));
      Summarise("engine_decision_p50_us" + of, p50, figures);
      Summarise("engine_decision_p99_us" + of, p99, figures);
      Summarise("engine_decisions_per_s" + of, rate, figures);
      const double refused_percent = 100.0 * refused / (kRepetitions * kDecisions);
      figures->push_back({"engine_refused_percent" + of, refused_percent});
      std::fprintf(stderr,
                   "bench-placement: the engine with %u cards, %u %% full: p50 %.1f us, p99 %.1f "
                   "us, %.0f decisions a second, %.1f %% refused, %.3f s of it learning\n",
                   cards, percent, Median(p50), Median(p99), Median(rate), refused_percent,
                   learning);
    }
  }
  figures->push_back({"engine_allocations_per_decision", allocations_per_decision});
}

}  // namespace tessera::bench
