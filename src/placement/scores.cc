#include "placement/scores.h"

#include <algorithm>
#include <cmath>

namespace tessera::placement {
namespace {

// The largest node of the fleet the published baselines were made for: 128 cores, 8 cards.
constexpr double kCpuMax = 128'000;
constexpr double kMilliMax = 8'000;

double Logistic(double x) { return 1.0 / (1.0 + std::exp(-x)); }

// The node after the shape was placed on the cards.
struct After {
  FragmentView view;
  std::uint16_t left[kFleetCardsPerNodeMax];

  After(const Fleet& fleet, const Fleet::Node& node, const Shape& shape, const CardSet& cards) {
    const std::uint16_t* before = fleet.cards(node);
    std::copy(before, before + node.cards, left);
    for (std::uint32_t i = 0; i < cards.count; ++i) {
      left[cards.index[i]] = static_cast<std::uint16_t>(left[cards.index[i]] - shape.milli);
    }
    view = {node.cpu_left - shape.cpu_millis, node.kind, node.cards,
            node.milli_left - shape.total_milli(), left};
  }
  After(const After&) = delete;
  After& operator=(const After&) = delete;
};

FragmentView Before(const Fleet& fleet, const Fleet::Node& node) {
  return {node.cpu_left, node.kind, node.cards, node.milli_left, fleet.cards(node)};
}

class BestFit : public Scorer {
 public:
  std::int64_t ScoreWith(const NodeWorth&, const Fleet& fleet, const Fleet::Node& node,
                         const Shape& shape, CardSet* cards) const override {
    *cards = TightestFit(fleet, node, shape);
    double score = 0;
    score += static_cast<double>(node.cpu_left - shape.cpu_millis) / kCpuMax * 0.5;
    score += static_cast<double>(node.milli_left - shape.total_milli()) / kMilliMax * 0.5;
    return static_cast<std::int64_t>((1.0 - score) * 100.0);
  }
};

class DotProd : public Scorer {
 public:
  std::int64_t ScoreWith(const NodeWorth&, const Fleet& fleet, const Fleet::Node& node,
                         const Shape& shape, CardSet* cards) const override {
    *cards = TightestFit(fleet, node, shape);
    double product = 0;
    product += static_cast<double>(node.cpu_left) / kCpuMax *
               (static_cast<double>(shape.cpu_millis) / kCpuMax);
    product += static_cast<double>(node.milli_left) / kMilliMax *
               (static_cast<double>(shape.total_milli()) / kMilliMax);
    return static_cast<std::int64_t>(100.0 * (1 - product / 2));
  }
};

// Shares a used card if it can, else takes cards of a used node, else opens an idle node.
class Packing : public Scorer {
 public:
  std::int64_t ScoreWith(const NodeWorth&, const Fleet& fleet, const Fleet::Node& node,
                         const Shape& shape, CardSet* cards) const override {
    *cards = TightestFit(fleet, node, shape);
    if (shape.cards == 0) return 0;
    const std::uint16_t* left = fleet.cards(node);
    std::uint16_t sorted[kFleetCardsPerNodeMax];
    std::copy(left, left + node.cards, sorted);
    std::sort(sorted, sorted + node.cards);
    const std::int64_t free = std::count(sorted, sorted + node.cards, kWholeCardMilli);
    if (free == node.cards) return std::max<std::int64_t>(33 - free, free);
    std::uint32_t wanted = shape.cards;
    std::int64_t opened = 0;
    std::int64_t idle_percent = 0;
    for (std::uint32_t i = 0; i < node.cards && wanted > 0; ++i) {
      if (sorted[i] < shape.milli) continue;
      --wanted;
      if (sorted[i] == kWholeCardMilli) ++opened;
      idle_percent += std::int64_t{sorted[i]} * 100 / kWholeCardMilli;
    }
    if (opened > 0) return std::max<std::int64_t>(50 - opened, 33);
    return std::max<std::int64_t>(100 - idle_percent / 10, 50);
  }
};

// Prefers nodes that only hold requests of the same number of cards.
class Clustering : public Scorer {
 public:
  std::int64_t ScoreWith(const NodeWorth&, const Fleet& fleet, const Fleet::Node& node,
                         const Shape& shape, CardSet* cards) const override {
    *cards = TightestFit(fleet, node, shape);
    if (shape.cards == 0) return 0;
    const std::int64_t used =
        25 * (8000 - node.milli_left) / 8000;  // of the largest node, in its own quarter
    const auto groups =
        std::count_if(node.groups.begin(), node.groups.end(), [](auto n) { return n > 0; });
    const bool same = node.groups[shape.shared() ? 0 : shape.cards] > 0;
    if (same) return used + (groups == 1 ? 75 : 50);
    return used + (groups == 0 ? 25 : 0);
  }
};

double Share(double part, double whole) { return whole > 0 ? part / whole : 0; }

// Kubernetes' NodeResourcesLeastAllocated over CPU and memory; the tightest card.
std::int64_t LeastAllocatedScore(const Fleet::Node& node, const Shape& shape) {
  const auto percent = [](std::int64_t left, std::int64_t capacity) {
    return capacity > 0 ? left * 100 / capacity : 0;
  };
  return (percent(node.cpu_left - shape.cpu_millis, node.cpu_millis) +
          percent(node.ram_left - shape.ram_mib, node.ram_mib)) /
         2;
}

class LeastAllocated : public Scorer {
 public:
  std::int64_t ScoreWith(const NodeWorth&, const Fleet& fleet, const Fleet::Node& node,
                         const Shape& shape, CardSet* cards) const override {
    *cards = TightestFit(fleet, node, shape);
    return LeastAllocatedScore(node, shape);
  }
};

// HAMi's default: the node that is fullest before the request comes, by slots, cores and memory of
// its cards (a milli stands for cores and memory alike), and on it the card with the most left.
// Requests without cards are left to Kubernetes' own rule, as HAMi leaves them.
class Hami : public Scorer {
 public:
  std::int64_t ScoreWith(const NodeWorth&, const Fleet& fleet, const Fleet::Node& node,
                         const Shape& shape, CardSet* cards) const override {
    *cards = LowestFree(fleet, node, shape);
    if (shape.cards == 0) return LeastAllocatedScore(node, shape);
    if (shape.shared()) {
      const std::uint16_t* left = fleet.cards(node);
      cards->index[0] = static_cast<std::uint8_t>(std::max_element(left, left + node.cards) - left);
    }
    std::int64_t slots = node.groups[0];
    for (std::uint32_t k = 1; k < node.groups.size(); ++k)
      slots += std::int64_t{k} * node.groups[k];
    const double milli = static_cast<double>(node.cards) * kWholeCardMilli;
    const double used = Share(milli - static_cast<double>(node.milli_left), milli);
    const double score =
        10 * (Share(static_cast<double>(slots), node.cards * kSlotsPerCard) + 2 * used);
    return std::llround(score * 1e6);
  }

 private:
  static constexpr double kSlotsPerCard = 10;
};

// Fragmentation gradient descent.
class Fgd : public Scorer {
 public:
  void Learn(const ClassCounter& arrived, const Fleet&) override {
    fragmentation_ = Fragmentation(arrived.Typical(kTypicalPermille));
  }
  NodeWorth Worth(const Fleet& fleet, const Fleet::Node& node) const override {
    return {fragmentation_.Of(Before(fleet, node)), 0};
  }
  std::int64_t ScoreWith(const NodeWorth& worth, const Fleet& fleet, const Fleet::Node& node,
                         const Shape& shape, CardSet* cards) const override {
    const double before = worth.fragments;
    const auto score = [&](const CardSet& set) {
      const After after(fleet, node, shape, set);
      return static_cast<std::int64_t>(Logistic((before - fragmentation_.Of(after.view)) / 1000) *
                                       100.0);
    };
    if (!shape.shared()) {
      *cards = LowestFree(fleet, node, shape);
      return score(*cards);
    }
    std::int64_t best = -1;
    const std::uint16_t* left = fleet.cards(node);
    for (std::uint32_t i = 0; i < node.cards; ++i) {
      // A card with as much left as an earlier one scores the same, and the earlier one is taken.
      if (left[i] < shape.milli || std::find(left, left + i, left[i]) != left + i) continue;
      CardSet set;
      set.count = 1;
      set.index[0] = static_cast<std::uint8_t>(i);
      const std::int64_t with = score(set);
      if (with <= best) continue;
      best = with;
      *cards = set;
    }
    return best;
  }

 private:
  Fragmentation fragmentation_{{}};
};

// Ours: fragmentation's gradient beside what it cannot see — slivers nobody's share fits, cores
// that no request for cores alone fills, cards and cores that strand each other, nodes and cards
// opened, card kinds that others depend on, places for the rare large requests. Amounts are in
// cards and cores. The weights were found by search over generated orders of the public openb
// trace, none of them one that results are reported on.
class Tessera : public Scorer {
 public:
  void Learn(const ClassCounter& arrived, const Fleet& fleet) override {
    const std::vector<TaskClass> classes = arrived.Typical(kTypicalPermille);
    fragmentation_ = Fragmentation(classes);
    FindFillable(classes);
    FindFillableCores(classes);
    FindScarcity(classes, fleet);
    FindPrices(arrived.Typical(1000), fleet);
  }

  NodeWorth Worth(const Fleet& fleet, const Fleet::Node& node) const override {
    const FragmentView view = Before(fleet, node);
    return {fragmentation_.Of(view), PlacesOf(view)};
  }
  std::int64_t ScoreWith(const NodeWorth& worth, const Fleet& fleet, const Fleet::Node& node,
                         const Shape& shape, CardSet* cards) const override {
    const double before = worth.fragments;
    const double common = NodeTerms(node, shape);
    const auto score = [&](const CardSet& set) {
      const After after(fleet, node, shape, set);
      const double gradient = (before - fragmentation_.Of(after.view)) / 1000;
      double sum = common + kLogistic * Logistic(gradient) + kGradient * gradient;
      sum -= kPlaces * (worth.places - PlacesOf(after.view));
      if (shape.shared()) sum += CardTerms(fleet.cards(node)[set.index[0]], shape);
      return static_cast<std::int64_t>(std::floor(sum / kStep));
    };
    if (!shape.shared()) {
      *cards = LowestFree(fleet, node, shape);
      return score(*cards);
    }
    const std::uint16_t* left = fleet.cards(node);
    bool any = false;
    std::int64_t best = 0;
    for (std::uint32_t i = 0; i < node.cards; ++i) {
      // A card with as much left as an earlier one scores the same, and the earlier one is taken.
      if (left[i] < shape.milli || std::find(left, left + i, left[i]) != left + i) continue;
      CardSet set;
      set.count = 1;
      set.index[0] = static_cast<std::uint8_t>(i);
      const std::int64_t with = score(set);
      if (any && with <= best) continue;
      any = true;
      best = with;
      *cards = set;
    }
    return best;
  }

 private:
  static constexpr double kLogistic = 5.7, kGradient = 0.86;
  static constexpr double kSliver = 1.33, kRemainder = 0.17;
  static constexpr double kStranded[3] = {0.67, 1.11, 1.86};  // growth of cards without cores
  static constexpr double kCoresPerCard[3] = {8, 11.4, 16};
  static constexpr double kStrandedCores = 0.10, kStrandedCoresAt = 12;
  static constexpr double kUnfillableCores = 0.025;
  static constexpr double kIdleCards = 0.078, kIdleCores = 0.0013;
  static constexpr double kOpenNode = 0.68, kOpenCard = 0.28;
  static constexpr double kCoresFit = 0.52, kCardsFit = 0.055;
  static constexpr double kScarceCards = 1.60, kScarceCores = 0.62;
  static constexpr double kScarcityMax = 2;
  static constexpr double kPlaces = 1.0;         // cards of places for large requests
  static constexpr double kPlacesSigmas = 3;     // of what may arrive, beyond what is expected
  static constexpr double kPlacesFree = 0.3;     // of the places may be wanted at no price
  static constexpr double kPlacesUnused = 0.05;  // of the cards that no arrival is expected for
  static constexpr double kStep = 0.024;

  static constexpr std::int64_t kCoreStep = 100, kCoreSteps = 1280;  // millis; of them

  // A class of large requests and what one of its places costs who takes it, in 0 to 1.
  struct Price {
    Shape shape;
    double price;
  };

  double NodeTerms(const Fleet::Node& node, const Shape& shape) const {
    const double cores = static_cast<double>(node.cpu_left) / 1000;
    const double cards = static_cast<double>(node.milli_left) / 1000;
    const double pod_cores = static_cast<double>(shape.cpu_millis) / 1000;
    const double pod_cards = static_cast<double>(shape.total_milli()) / 1000;
    const double cores_after = cores - pod_cores;
    const double cards_after = cards - pod_cards;
    const auto above = [](double a, double b) { return std::max(0.0, a - b); };
    double sum = 0;
    for (int i = 0; i < 3; ++i) {
      sum -= kStranded[i] * (above(cards_after, cores_after / kCoresPerCard[i]) -
                             above(cards, cores / kCoresPerCard[i]));
    }
    sum -= kStrandedCores *
           (above(cores_after, kStrandedCoresAt * cards_after) -
            above(cores, kStrandedCoresAt * cards)) /
           kStrandedCoresAt;
    sum += kIdleCards * cards_after - kIdleCores * cores_after;
    sum -= kUnfillableCores *
           (UnfillableCores(node.cpu_left - shape.cpu_millis) - UnfillableCores(node.cpu_left));
    if (node.placed == 0) sum -= kOpenNode;
    const double per_card =
        node.cards > 0 ? static_cast<double>(node.cpu_millis) / 1000 / node.cards : 0;
    if (per_card > 0) sum += kCoresFit * pod_cores / per_card + kCardsFit * pod_cards * per_card;
    const double scarcity = node.kind < scarcity_.size() ? scarcity_[node.kind] : 0;
    sum -= scarcity * (kScarceCards * pod_cards + kScarceCores * pod_cores / 12);
    return sum;
  }

  double CardTerms(std::uint16_t left, const Shape& shape) const {
    const std::uint32_t after = left - shape.milli;
    double sum = 0;
    if (after > 0 && after < smallest_) sum -= kSliver * after / 1000.0;
    sum -= kRemainder * unfillable_[after] / 1000.0;
    if (left == kWholeCardMilli) sum += kOpenCard;
    return sum;
  }

  // For each amount up to `most`, what stays over when it is filled with pieces of these sizes.
  static void FindRemainders(const std::vector<std::uint32_t>& sizes, std::uint32_t most,
                             std::uint16_t* remainders) {
    std::vector<bool> reachable(most + 1, false);
    reachable[0] = true;
    std::uint32_t best = 0;
    for (std::uint32_t amount = 0; amount <= most; ++amount) {
      for (const std::uint32_t size : sizes) {
        if (size <= amount && reachable[amount - size]) reachable[amount] = true;
      }
      if (reachable[amount]) best = amount;
      remainders[amount] = static_cast<std::uint16_t>(amount - best);
    }
  }

  // What stays over on a card that is filled with the shares that arrive.
  void FindFillable(const std::vector<TaskClass>& classes) {
    std::vector<std::uint32_t> sizes;
    for (const TaskClass& one : classes) {
      if (one.shape.shared()) sizes.push_back(one.shape.milli);
    }
    smallest_ = sizes.empty() ? 0 : *std::min_element(sizes.begin(), sizes.end());
    FindRemainders(sizes, kWholeCardMilli, unfillable_.data());
    unfillable_[kWholeCardMilli] = 0;  // a whole card is wanted as such
  }

  // What stays over of a node's cores when they are filled with the requests for cores alone that
  // arrive: those decide, for they come last to a node whose cards are taken.
  void FindFillableCores(const std::vector<TaskClass>& classes) {
    unfillable_cores_.fill(0);
    std::vector<std::uint32_t> sizes;
    for (const TaskClass& one : classes) {
      if (one.shape.cards > 0 || one.shape.cpu_millis == 0) continue;
      const std::int64_t steps = (one.shape.cpu_millis + kCoreStep - 1) / kCoreStep;
      if (steps <= kCoreSteps) sizes.push_back(static_cast<std::uint32_t>(steps));
    }
    if (!sizes.empty()) FindRemainders(sizes, kCoreSteps, unfillable_cores_.data());
  }

  double UnfillableCores(std::int64_t cpu_millis) const {
    const std::int64_t steps = cpu_millis / kCoreStep;
    if (steps > kCoreSteps) return 0;  // so many can be filled in some way
    return static_cast<double>(unfillable_cores_[static_cast<std::size_t>(steps)]) * kCoreStep /
           1000;
  }

  // Demand bound to a kind (spread over the kinds it may use) against what there is of it.
  void FindScarcity(const std::vector<TaskClass>& classes, const Fleet& fleet) {
    std::vector<double> supply(fleet.kinds().size()), demand(fleet.kinds().size());
    double all_supply = 0, all_demand = 0;
    for (std::uint32_t n = 0; n < fleet.nodes(); ++n) {
      const Fleet::Node& node = fleet.node(n);
      if (node.kind < supply.size()) supply[node.kind] += node.cards;
      all_supply += node.cards;
    }
    for (const TaskClass& one : classes) {
      const double wanted = one.weight * static_cast<double>(one.shape.total_milli()) / 1000;
      all_demand += wanted;
      double allowed = 0;
      for (std::size_t k = 0; k < supply.size(); ++k) {
        if (one.shape.kinds >> k & 1) allowed += supply[k];
      }
      for (std::size_t k = 0; k < supply.size() && allowed > 0; ++k) {
        if (one.shape.kinds >> k & 1) demand[k] += wanted * supply[k] / allowed;
      }
    }
    scarcity_.assign(supply.size(), 0);
    for (std::size_t k = 0; k < supply.size(); ++k) {
      // Per unit of load: demand at the point where all demand equals all supply.
      if (supply[k] > 0 && all_demand > 0) {
        scarcity_[k] = std::min(kScarcityMax, demand[k] / all_demand * all_supply / supply[k]);
      }
    }
  }

  static std::int64_t PlacesFor(const FragmentView& node, const Shape& shape) {
    if (shape.kinds != 0 && (shape.kinds >> node.kind & 1) == 0) return 0;
    std::int64_t fitting = 0;
    for (std::uint32_t i = 0; i < node.cards; ++i) fitting += node.left[i] >= shape.milli ? 1 : 0;
    const std::int64_t by_cards = fitting / shape.cards;
    if (by_cards == 0 || shape.cpu_millis == 0) return by_cards;
    return std::min(by_cards, node.cpu_left / shape.cpu_millis);
  }

  double PlacesOf(const FragmentView& node) const {
    double cards = 0;
    for (const Price& one : prices_) {
      cards += one.price * static_cast<double>(PlacesFor(node, one.shape) * one.shape.cards);
    }
    return cards;
  }

  // Requests for most of a large node are too rare to weigh in the expectation that fragmentation
  // is, yet each that is refused leaves as many cards idle as dozens of small ones. So their places
  // have a price where more of them may arrive before the fleet is full than there are places: what
  // is expected of what is left, and some standard deviations of that. Near saturation nothing more
  // is expected and every place may be broken up.
  void FindPrices(const std::vector<TaskClass>& classes, const Fleet& fleet) {
    prices_.clear();
    std::uint32_t most = 0;
    for (std::uint32_t n = 0; n < fleet.nodes(); ++n) most = std::max(most, fleet.node(n).cards);
    double mean = 0;
    for (const TaskClass& one : classes) {
      mean += one.weight * static_cast<double>(one.shape.total_milli());
    }
    const double left = static_cast<double>(fleet.capacity_milli()) * (1 - kPlacesUnused) -
                        static_cast<double>(fleet.used_milli());
    if (mean <= 0 || left <= 0) return;
    for (const TaskClass& one : classes) {
      if (one.shape.cards < 2 || one.shape.cards * 2 <= most) continue;
      std::int64_t places = 0;
      for (std::uint32_t n = 0; n < fleet.nodes(); ++n) {
        places += PlacesFor(Before(fleet, fleet.node(n)), one.shape);
      }
      if (places == 0) continue;
      const double expected = one.weight * left / mean;
      const double wanted =
          (expected + kPlacesSigmas * std::sqrt(expected)) / static_cast<double>(places);
      const double price = std::min(1.0, (wanted - kPlacesFree) / (1 - kPlacesFree));
      if (price > 0) prices_.push_back({one.shape, price});
    }
  }

  Fragmentation fragmentation_{{}};
  std::vector<Price> prices_;
  std::uint32_t smallest_ = 0;
  std::array<std::uint16_t, kWholeCardMilli + 1> unfillable_{};
  std::array<std::uint16_t, kCoreSteps + 1> unfillable_cores_{};
  std::vector<double> scarcity_;
};

}  // namespace

NodeWorth Scorer::Worth(const Fleet&, const Fleet::Node&) const { return {}; }

void Scorer::Learn(const ClassCounter&, const Fleet&) {}

const std::vector<std::string>& ScorerNames() {
  static const std::vector<std::string> names = {
      "bestfit", "dotprod", "packing", "clustering", "hami", "least-allocated", "fgd", "tessera"};
  return names;
}

Result<std::unique_ptr<Scorer>> MakeScorer(std::string_view name) {
  if (name == "bestfit") return std::unique_ptr<Scorer>(new BestFit);
  if (name == "dotprod") return std::unique_ptr<Scorer>(new DotProd);
  if (name == "packing") return std::unique_ptr<Scorer>(new Packing);
  if (name == "clustering") return std::unique_ptr<Scorer>(new Clustering);
  if (name == "hami") return std::unique_ptr<Scorer>(new Hami);
  if (name == "least-allocated") return std::unique_ptr<Scorer>(new LeastAllocated);
  if (name == "fgd") return std::unique_ptr<Scorer>(new Fgd);
  if (name == "tessera") return std::unique_ptr<Scorer>(new Tessera);
  std::string known;
  for (const std::string& one : ScorerNames()) known.append(known.empty() ? "" : ", ").append(one);
  return Error::Field("policy", "expected one of " + known + "; got " + std::string(name));
}

}  // namespace tessera::placement
