#include "placement/scores.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>

namespace tessera::placement {
namespace {

// The largest node of the fleet the published baselines were made for: 128 cores, 8 cards.
constexpr double kCpuMax = 128'000;
constexpr double kMilliMax = 8'000;

double Logistic(double x) { return 1.0 / (1.0 + std::exp(-x)); }

const Fleet::Card* Mixed(const Fleet& fleet, const Fleet::Node& node) {
  return (node.kinds & (node.kinds - 1)) != 0 ? fleet.detail(node) : nullptr;
}

// The node after the shape was placed on the cards.
struct After {
  FragmentView view;
  std::uint16_t left[kCardsPerNodeMax];

  After(const Fleet& fleet, const Fleet::Node& node, const Shape& shape, const CardSet& cards) {
    const std::uint16_t* before = fleet.cards(node);
    std::copy(before, before + node.cards, left);
    view = {node.cpu_left - shape.cpu_millis, node.kind, node.cards,
            node.milli_left - shape.total_milli(), left};
    if (node.plain) {
      for (std::uint32_t i = 0; i < cards.count; ++i) {
        left[cards.index[i]] = static_cast<std::uint16_t>(left[cards.index[i]] - shape.milli);
      }
      return;
    }
    view.milli_left = node.milli_left;
    view.mixed = Mixed(fleet, node);
    for (std::uint32_t i = 0; i < cards.count; ++i) {
      const std::uint8_t card = cards.index[i];
      left[card] = fleet.LeftWith(node, card, shape);
      view.milli_left -= before[card] - left[card];
    }
  }
  After(const After&) = delete;
  After& operator=(const After&) = delete;
};

FragmentView Before(const Fleet& fleet, const Fleet::Node& node) {
  return {node.cpu_left,   node.kind,         node.cards,
          node.milli_left, fleet.cards(node), Mixed(fleet, node)};
}

// The cards among those that fit, each with what the earlier ones do not leave alike.
template <typename Visit>
void EachUnlike(const Fleet& fleet, const Fleet::Node& node, std::uint64_t fitting, Visit visit) {
  const std::uint16_t* left = fleet.cards(node);
  for (std::uint64_t rest = fitting; rest != 0; rest &= rest - 1) {
    const auto i = static_cast<std::uint32_t>(std::countr_zero(rest));
    if (node.plain) {  // what has as much left fits as well
      if (std::find(left, left + i, left[i]) == left + i) visit(i);
      continue;
    }
    bool seen = false;
    for (std::uint64_t earlier = fitting & ~rest; earlier != 0 && !seen; earlier &= earlier - 1) {
      const auto other = static_cast<std::uint32_t>(std::countr_zero(earlier));
      seen = left[other] == left[i] && fleet.Alike(node, other, i);
    }
    if (!seen) visit(i);
  }
}

class BestFit : public Scorer {
 public:
  std::int64_t ScoreWith(const NodeWorth&, const Fleet& fleet, const Fleet::Node& node,
                         const Shape& shape, std::uint64_t fitting, CardSet* cards) const override {
    *cards = TightestFit(fleet, node, shape, fitting);
    double score = 0;
    score += static_cast<double>(node.cpu_left - shape.cpu_millis) / kCpuMax * 0.5;
    score += static_cast<double>(node.milli_left - shape.total_milli()) / kMilliMax * 0.5;
    return static_cast<std::int64_t>((1.0 - score) * 100.0);
  }
};

class DotProd : public Scorer {
 public:
  std::int64_t ScoreWith(const NodeWorth&, const Fleet& fleet, const Fleet::Node& node,
                         const Shape& shape, std::uint64_t fitting, CardSet* cards) const override {
    *cards = TightestFit(fleet, node, shape, fitting);
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
                         const Shape& shape, std::uint64_t fitting, CardSet* cards) const override {
    *cards = TightestFit(fleet, node, shape, fitting);
    if (shape.cards == 0) return 0;
    const std::uint16_t* left = fleet.cards(node);
    const std::int64_t free = std::count(left, left + node.cards, kWholeCardMilli);
    std::uint16_t sorted[kCardsPerNodeMax];
    std::uint32_t count = 0;
    for (; fitting != 0; fitting &= fitting - 1) sorted[count++] = left[std::countr_zero(fitting)];
    std::sort(sorted, sorted + count);
    if (free == node.cards) return std::max<std::int64_t>(33 - free, free);
    std::uint32_t wanted = shape.cards;
    std::int64_t opened = 0;
    std::int64_t idle_percent = 0;
    for (std::uint32_t i = 0; i < count && wanted > 0; ++i) {
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
                         const Shape& shape, std::uint64_t fitting, CardSet* cards) const override {
    *cards = TightestFit(fleet, node, shape, fitting);
    if (shape.cards == 0) return 0;
    const std::int64_t used =
        25 * (8000 - node.milli_left) / 8000;  // of the largest node, in its own quarter
    const auto groups =
        std::count_if(node.groups.begin(), node.groups.end(), [](auto n) { return n > 0; });
    const bool same = node.groups[shape.group()] > 0;
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
          percent(node.ram_left - shape.ram_bytes, node.ram_bytes)) /
         2;
}

class LeastAllocated : public Scorer {
 public:
  std::int64_t ScoreWith(const NodeWorth&, const Fleet& fleet, const Fleet::Node& node,
                         const Shape& shape, std::uint64_t fitting, CardSet* cards) const override {
    *cards = TightestFit(fleet, node, shape, fitting);
    return LeastAllocatedScore(node, shape);
  }
};

// HAMi's default: the node that is fullest before the request comes, by slots, cores and memory of
// its cards (a milli stands for cores and memory alike), and on it the card with the most left.
// Requests without cards are left to Kubernetes' own rule, as HAMi leaves them.
class Hami : public Scorer {
 public:
  std::int64_t ScoreWith(const NodeWorth&, const Fleet& fleet, const Fleet::Node& node,
                         const Shape& shape, std::uint64_t fitting, CardSet* cards) const override {
    *cards = LowestFree(fitting, shape);
    if (shape.cards == 0) return LeastAllocatedScore(node, shape);
    if (shape.shared()) {
      const std::uint16_t* left = fleet.cards(node);
      for (std::uint64_t rest = fitting; rest != 0; rest &= rest - 1) {
        const auto i = static_cast<std::uint8_t>(std::countr_zero(rest));
        if (left[i] > left[cards->index[0]]) cards->index[0] = i;
      }
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

// The node (card) with the least or the most left after placing: free share of memory plus free
// share of compute, in millionths, over the node's healthy cards (of the card). A plain node's
// milli stand for both.
class Filling : public Scorer {
 public:
  Filling(bool pack_nodes, bool pack_cards) : pack_nodes_(pack_nodes), pack_cards_(pack_cards) {}

  std::int64_t ScoreWith(const NodeWorth&, const Fleet& fleet, const Fleet::Node& node,
                         const Shape& shape, std::uint64_t fitting, CardSet* cards) const override {
    std::pair<std::uint64_t, std::uint8_t> order[kCardsPerNodeMax];
    std::uint32_t count = 0;
    for (; fitting != 0; fitting &= fitting - 1) {
      const auto i = static_cast<std::uint8_t>(std::countr_zero(fitting));
      order[count++] = {LeftOnCard(fleet, node, i, shape), i};
    }
    const auto first = [this](const auto& a, const auto& b) {
      if (a.first == b.first) return a.second < b.second;
      return pack_cards_ ? a.first < b.first : a.first > b.first;
    };
    std::partial_sort(order, order + std::min(count, shape.cards), order + count, first);
    *cards = {};
    for (; cards->count < std::min(count, shape.cards); ++cards->count) {
      cards->index[cards->count] = order[cards->count].second;
    }
    const auto [memory, compute] = LeftOnNode(fleet, node, shape, *cards);
    const auto left = static_cast<std::int64_t>(memory + compute);
    return pack_nodes_ ? -left : left;
  }
  double unit() const override { return 1.0 / kMillion; }
  Parts PartsOf(const Fleet& fleet, const Fleet::Node& node, const Shape& shape,
                const CardSet& cards, std::int64_t) const override {
    const auto [memory, compute] = LeftOnNode(fleet, node, shape, cards);
    const double sign = pack_nodes_ ? -unit() : unit();
    return {{"memory left", sign * static_cast<double>(memory)},
            {"compute left", sign * static_cast<double>(compute)}};
  }

 private:
  __extension__ typedef unsigned __int128 Wide;
  static constexpr std::uint64_t kMillion = 1'000'000;

  static std::uint64_t Millionths(std::uint64_t part, std::uint64_t whole) {
    if (whole == 0) return 0;
    if (part < ~std::uint64_t{0} / kMillion) return part * kMillion / whole;
    return static_cast<std::uint64_t>(Wide{part} * kMillion / whole);
  }
  static std::uint64_t LeftOnCard(const Fleet& fleet, const Fleet::Node& node, std::uint8_t i,
                                  const Shape& shape) {
    if (node.plain) return fleet.cards(node)[i] - shape.milli;
    const Fleet::Card& card = fleet.detail(node)[i];
    return Millionths(card.memory_left - shape.memory_bytes, card.memory_bytes) +
           Millionths(card.compute_left - shape.compute, card.compute);
  }
  static std::pair<std::uint64_t, std::uint64_t> LeftOnNode(const Fleet& fleet,
                                                            const Fleet::Node& node,
                                                            const Shape& shape,
                                                            const CardSet& cards) {
    if (node.plain) {
      const auto left = static_cast<std::uint64_t>(node.milli_left - shape.total_milli());
      return {0, Millionths(left, std::uint64_t{node.cards} * kWholeCardMilli)};
    }
    const Fleet::Room& room = fleet.room(node);
    std::uint64_t memory = 0;
    std::uint64_t compute = 0;
    for (std::uint32_t i = 0; i < cards.count; ++i) {
      const Fleet::Card& card = fleet.detail(node)[cards.index[i]];
      memory += shape.exclusive ? card.memory_left : shape.memory_bytes;
      compute += shape.exclusive ? card.compute_left : shape.compute;
    }
    return {Millionths(room.memory_left - memory, room.memory_bytes),
            Millionths(room.compute_left - compute, room.compute)};
  }

  bool pack_nodes_;
  bool pack_cards_;
};

// Classes with memory of their own as they weigh on the fleet's most common card: where cards
// differ in size, a class has one weight for all of them.
std::vector<TaskClass> Measured(std::vector<TaskClass> classes, const Fleet& fleet) {
  std::map<std::uint64_t, std::pair<std::uint64_t, std::uint32_t>> common;  // cards, first node
  for (std::uint32_t n = 0; n < fleet.nodes(); ++n) {
    const Fleet::Node& node = fleet.node(n);
    if (node.plain || node.cards == 0) continue;
    auto& [cards, first] =
        common.emplace(fleet.room(node).card_bytes, std::pair{0, n}).first->second;
    cards += node.cards;
  }
  const auto most = std::max_element(
      common.begin(), common.end(),
      [](const auto& a, const auto& b) { return a.second.first < b.second.first; });
  if (most == common.end()) return classes;
  const Fleet::Node& node = fleet.node(most->second.second);
  for (TaskClass& one : classes) one.shape = fleet.Measured(node, one.shape);
  return classes;
}

// Fragmentation gradient descent.
class Fgd : public Scorer {
 public:
  bool Learn(const ClassCounter& arrived, const Fleet& fleet) override {
    fragmentation_ = Fragmentation(Measured(arrived.Typical(kTypicalPermille), fleet));
    return true;
  }
  NodeWorth Worth(const Fleet& fleet, const Fleet::Node& node) const override {
    return {fragmentation_.Of(Before(fleet, node)), 0};
  }
  std::int64_t ScoreWith(const NodeWorth& worth, const Fleet& fleet, const Fleet::Node& node,
                         const Shape& shape, std::uint64_t fitting, CardSet* cards) const override {
    const double before = worth.fragments;
    const auto score = [&](const CardSet& set) {
      const After after(fleet, node, shape, set);
      return static_cast<std::int64_t>(Logistic((before - fragmentation_.Of(after.view)) / 1000) *
                                       100.0);
    };
    if (!shape.shared()) {
      *cards = LowestFree(fitting, shape);
      return score(*cards);
    }
    std::int64_t best = -1;
    // A card with as much left as an earlier one scores the same, and the earlier one is taken.
    EachUnlike(fleet, node, fitting, [&](std::uint32_t i) {
      CardSet set;
      set.count = 1;
      set.index[0] = static_cast<std::uint8_t>(i);
      const std::int64_t with = score(set);
      if (with <= best) return;
      best = with;
      *cards = set;
    });
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
  bool Learn(const ClassCounter& arrived, const Fleet& fleet) override {
    const std::vector<TaskClass> classes = Measured(arrived.Typical(kTypicalPermille), fleet);
    fragmentation_ = Fragmentation(classes);
    whole_cards_ = std::any_of(classes.begin(), classes.end(), [](const TaskClass& one) {
      return one.shape.milli == kWholeCardMilli;
    });
    FindFillable(classes);
    FindFillableCores(classes);
    FindScarcity(classes, fleet);
    left_ = arrived.Left(fleet);
    FindPrices(Measured(arrived.Typical(1000), fleet), fleet);
    return true;
  }

  NodeWorth Worth(const Fleet& fleet, const Fleet::Node& node) const override {
    const FragmentView view = Before(fleet, node);
    return {fragmentation_.Of(view), PlacesOf(view)};
  }
  std::int64_t ScoreWith(const NodeWorth& worth, const Fleet& fleet, const Fleet::Node& node,
                         const Shape& shape, std::uint64_t fitting, CardSet* cards) const override {
    const auto quiet = [](const char*, double) {};
    const double common = NodeTerms(node, shape, quiet);
    const auto score = [&](const CardSet& set) {
      return static_cast<std::int64_t>(
          std::floor(Sum(worth, fleet, node, shape, set, common, quiet) / kStep));
    };
    if (!shape.shared()) {
      *cards = LowestFree(fitting, shape);
      return score(*cards);
    }
    bool any = false;
    std::int64_t best = 0;
    const std::uint16_t* const left = fleet.cards(node);
    // A card with as much left as an earlier one scores the same, and the earlier one is taken. Of
    // cards with the same score that differ, the fullest.
    EachUnlike(fleet, node, fitting, [&](std::uint32_t i) {
      CardSet set;
      set.count = 1;
      set.index[0] = static_cast<std::uint8_t>(i);
      const std::int64_t with = score(set);
      if (any && (with < best || (with == best && left[i] >= left[cards->index[0]]))) return;
      any = true;
      best = with;
      *cards = set;
    });
    return best;
  }

  double unit() const override { return kStep; }
  Parts PartsOf(const Fleet& fleet, const Fleet::Node& node, const Shape& shape,
                const CardSet& cards, std::int64_t) const override {
    Parts parts;
    const auto note = [&](const char* name, double part) {
      if (part == 0) return;
      for (auto& [known, sum] : parts) {
        if (known != name) continue;
        sum += part;
        return;
      }
      parts.emplace_back(name, part);
    };
    const double common = NodeTerms(node, shape, note);
    Sum(Worth(fleet, node), fleet, node, shape, cards, common, note);
    return parts;
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

  // What the score is summed up from, each part told to `note` by name.
  template <typename Note>
  double NodeTerms(const Fleet::Node& node, const Shape& shape, Note note) const {
    const double cores = static_cast<double>(node.cpu_left) / 1000;
    const double cards = static_cast<double>(node.milli_left) / 1000;
    const double pod_cores = static_cast<double>(shape.cpu_millis) / 1000;
    const double pod_cards = static_cast<double>(shape.total_milli()) / 1000;
    const double cores_after = cores - pod_cores;
    const double cards_after = cards - pod_cards;
    const auto above = [](double a, double b) { return std::max(0.0, a - b); };
    double sum = 0;
    const auto add = [&](const char* name, double part) {
      sum += part;
      note(name, part);
    };
    for (int i = 0; i < 3; ++i) {
      add("stranded cards", -(kStranded[i] * (above(cards_after, cores_after / kCoresPerCard[i]) -
                                              above(cards, cores / kCoresPerCard[i]))));
    }
    add("stranded cores", -(kStrandedCores *
                            (above(cores_after, kStrandedCoresAt * cards_after) -
                             above(cores, kStrandedCoresAt * cards)) /
                            kStrandedCoresAt));
    // Idle cards of one node are worth more together to who only ever fills the fleet; where
    // requests leave, keeping away from what is in use breaks up the places that come free.
    add("idle", (1 - left_) * kIdleCards * cards_after - kIdleCores * cores_after);
    add("unfillable cores",
        -(kUnfillableCores *
          (UnfillableCores(node.cpu_left - shape.cpu_millis) - UnfillableCores(node.cpu_left))));
    if (node.placed == 0) add("opened node", -kOpenNode);
    const double per_card =
        node.cards > 0 ? static_cast<double>(node.cpu_millis) / 1000 / node.cards : 0;
    if (per_card > 0) {
      add("cores to cards", kCoresFit * pod_cores / per_card + kCardsFit * pod_cards * per_card);
    }
    const double scarcity = node.kind < scarcity_.size() ? scarcity_[node.kind] : 0;
    add("scarce kind", -(scarcity * (kScarceCards * pod_cards + kScarceCores * pod_cores / 12)));
    return sum;
  }

  template <typename Note>
  double CardTerms(std::uint16_t left, std::uint16_t after, Note note) const {
    double sum = 0;
    const auto add = [&](const char* name, double part) {
      sum += part;
      note(name, part);
    };
    if (after > 0 && after < smallest_) add("sliver", -(kSliver * after / 1000.0));
    add("remainder", -(kRemainder * unfillable_[after] / 1000.0));
    if (left == kWholeCardMilli && whole_cards_) add("opened card", kOpenCard);
    return sum;
  }

  // `common`: NodeTerms.
  template <typename Note>
  double Sum(const NodeWorth& worth, const Fleet& fleet, const Fleet::Node& node,
             const Shape& shape, const CardSet& set, double common, Note note) const {
    const After after(fleet, node, shape, set);
    const double gradient = (worth.fragments - fragmentation_.Of(after.view)) / 1000;
    double sum = common + kLogistic * Logistic(gradient) + kGradient * gradient;
    note("fragmentation", kLogistic * Logistic(gradient) + kGradient * gradient);
    const double places = kPlaces * (worth.places - PlacesOf(after.view));
    sum -= places;
    note("places for large requests", -places);
    if (shape.shared()) {
      sum += CardTerms(fleet.cards(node)[set.index[0]], after.left[set.index[0]], note);
    }
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
      const Fleet::Card* const mixed = Mixed(fleet, node);
      if (mixed == nullptr) {
        if (node.kind < supply.size()) supply[node.kind] += node.cards;
      } else {
        for (std::uint32_t i = 0; i < node.cards; ++i) supply[mixed[i].kind] += 1;
      }
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
    const bool mixed = node.mixed != nullptr && shape.kinds != 0;
    if (!mixed && shape.kinds != 0 && (shape.kinds >> node.kind & 1) == 0) return 0;
    std::int64_t fitting = 0;
    for (std::uint32_t i = 0; i < node.cards; ++i) {
      fitting += node.left[i] >= shape.milli && (!mixed || node.Allowed(i, shape.kinds)) ? 1 : 0;
    }
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
  // is expected and every place may be broken up. Where requests leave again, more arrive than the
  // free cards hold: what is in use now will be asked for anew, as much of it as leaves.
  void FindPrices(const std::vector<TaskClass>& classes, const Fleet& fleet) {
    prices_.clear();
    std::uint32_t most = 0;
    for (std::uint32_t n = 0; n < fleet.nodes(); ++n) most = std::max(most, fleet.node(n).cards);
    double mean = 0;
    for (const TaskClass& one : classes) {
      mean += one.weight * static_cast<double>(one.shape.total_milli());
    }
    const double left = static_cast<double>(fleet.capacity_milli()) * (1 - kPlacesUnused) -
                        (1 - left_) * static_cast<double>(fleet.used_milli());
    if (mean <= 0 || left <= 0) return;
    for (const TaskClass& one : classes) {
      if (one.shape.cards < 2 || one.shape.cards * 2 <= most) continue;
      std::int64_t places = 0;
      for (std::uint32_t n = 0; n < fleet.nodes(); ++n) {
        places += PlacesFor(Before(fleet, fleet.node(n)), one.shape);
      }
      if (places == 0 && left_ == 0) continue;
      const double expected = one.weight * left / mean;
      const double wanted = (expected + kPlacesSigmas * std::sqrt(expected)) /
                            static_cast<double>(std::max<std::int64_t>(1, places));
      const double price = std::min(1.0, (wanted - kPlacesFree) / (1 - kPlacesFree));
      if (price > 0) prices_.push_back({one.shape, price});
    }
  }

  Fragmentation fragmentation_{{}};
  std::vector<Price> prices_;
  bool whole_cards_ = false;  // whether any request is for them
  std::uint32_t smallest_ = 0;
  std::array<std::uint16_t, kWholeCardMilli + 1> unfillable_{};
  std::array<std::uint16_t, kCoreSteps + 1> unfillable_cores_{};
  std::vector<double> scarcity_;
  double left_ = 0;  // ClassCounter::Left
};

}  // namespace

NodeWorth Scorer::Worth(const Fleet&, const Fleet::Node&) const { return {}; }

bool Scorer::Learn(const ClassCounter&, const Fleet&) { return false; }

Scorer::Parts Scorer::PartsOf(const Fleet&, const Fleet::Node&, const Shape&, const CardSet&,
                              std::int64_t score) const {
  return {{"score", static_cast<double>(score) * unit()}};
}

const std::vector<std::string>& ScorerNames() {
  static const std::vector<std::string> names = {
      "bestfit", "dotprod", "packing", "clustering",     "hami",           "least-allocated",
      "fgd",     "tessera", "binpack", "binpack-spread", "spread-binpack", "spread"};
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
  if (name == "binpack") return std::unique_ptr<Scorer>(new Filling(true, true));
  if (name == "binpack-spread") return std::unique_ptr<Scorer>(new Filling(true, false));
  if (name == "spread-binpack") return std::unique_ptr<Scorer>(new Filling(false, true));
  if (name == "spread") return std::unique_ptr<Scorer>(new Filling(false, false));
  std::string known;
  for (const std::string& one : ScorerNames()) known.append(known.empty() ? "" : ", ").append(one);
  return Error::Field("policy", "expected one of " + known + "; got " + std::string(name));
}

}  // namespace tessera::placement
