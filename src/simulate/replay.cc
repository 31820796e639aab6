#include "simulate/replay.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>

#include "base/rng.h"
#include "base/units.h"
#include "placement/classes.h"
#include "placement/defragment.h"
#include "placement/fleet.h"
#include "placement/scores.h"
#include "placement/shape_index.h"

namespace tessera::simulate {
namespace {

using placement::CardSet;
using placement::Choice;
using placement::Fleet;
using placement::Shape;

// A uniformly drawn node that fits, and uniformly drawn cards on it.
std::optional<Choice> DrawRandom(const Fleet& fleet, const Shape& shape, Rng* rng) {
  std::uint64_t fitting = 0;
  Choice choice;
  for (std::uint32_t n = 0; n < fleet.nodes(); ++n) {
    if (!fleet.Fits(fleet.node(n), shape)) continue;
    if (rng->Below(++fitting) == 0) choice.node = n;
  }
  if (fitting == 0) return std::nullopt;
  const Fleet::Node& node = fleet.node(choice.node);
  choice.cards = placement::LowestFree(fleet, node, shape);
  if (shape.shared()) {
    std::uint64_t cards = 0;
    for (std::uint32_t i = 0; i < node.cards; ++i) {
      if (fleet.cards(node)[i] < shape.milli || rng->Below(++cards) != 0) continue;
      choice.cards.index[0] = static_cast<std::uint8_t>(i);
    }
  }
  return choice;
}

// One of the best nodes, uniformly drawn.
std::optional<Choice> DrawTied(placement::ShapeIndex* index, const Shape& shape, Rng* rng,
                               std::vector<std::uint32_t>* tied) {
  index->Tied(shape, tied);
  if (tied->empty()) return std::nullopt;
  return index->On((*tied)[rng->Below(tied->size())], shape);
}

// The arrivals with each group of so many in order of falling demand.
std::vector<std::uint32_t> InBatches(std::vector<std::uint32_t> arrivals, std::size_t batch,
                                     const std::vector<Shape>& shapes) {
  const auto demand = [&](std::uint32_t pod) {
    return std::pair(shapes[pod].total_milli(), shapes[pod].cpu_millis);
  };
  for (std::size_t first = 0; batch > 1 && first < arrivals.size(); first += batch) {
    const auto begin = arrivals.begin() + static_cast<std::ptrdiff_t>(first);
    const std::size_t count = std::min(batch, arrivals.size() - first);
    std::stable_sort(begin, begin + static_cast<std::ptrdiff_t>(count),
                     [&](std::uint32_t a, std::uint32_t b) { return demand(a) > demand(b); });
  }
  return arrivals;
}

// The mean of what was noted at each whole percent of load.
class Curve {
 public:
  Curve() : sum_(kLoadPercentMax + 1), count_(kLoadPercentMax + 1) {}
  void Note(double load_percent, double value) {
    const auto at = static_cast<std::size_t>(std::nearbyint(load_percent));
    if (at > kLoadPercentMax) return;
    sum_[at] += value;
    ++count_[at];
  }
  // Where nothing arrived, the neighbours' mean, as in the published tables.
  std::vector<double> Means() const {
    std::vector<double> means(sum_.size(), -1);
    for (std::size_t i = 0; i < sum_.size(); ++i) {
      const std::size_t first = count_[i] > 0 || i == 0 ? i : i - 1;
      const std::size_t last = count_[i] > 0 || i + 1 == sum_.size() ? i : i + 1;
      double sum = 0;
      std::uint64_t count = 0;
      for (std::size_t k = first; k <= last; ++k) {
        sum += sum_[k];
        count += count_[k];
      }
      if (count > 0) means[i] = sum / static_cast<double>(count);
    }
    return means;
  }

 private:
  std::vector<double> sum_;
  std::vector<std::uint64_t> count_;
};

}  // namespace

Result<ReplayResult> Replay(const std::vector<TraceNode>& nodes, const std::vector<TracePod>& pods,
                            const TraceOrder& order, const ReplayOptions& options) {
  const bool random = options.policy == "random";
  std::unique_ptr<placement::Scorer> scorer;
  if (!random) {
    TRY(scorer, placement::MakeScorer(options.policy));
  }
  if (order.ranks.size() != nodes.size()) {
    return Error::Field("sequence", "expected a rank for each of the nodes");
  }
  if (options.batch < 1 || options.batch > kBatchMax) {
    return Error::Field("batch", "expected 1 to kBatchMax (65536)");
  }
  if (options.migrate && random) {
    return Error::Field("migrate", "expected a policy that scores: random has nowhere to move to");
  }
  Fleet fleet;
  for (std::size_t n = 0; n < nodes.size(); ++n) {
    TRY(const std::uint32_t kind, fleet.KindOf(nodes[n].model));
    TRY_STATUS(fleet.AddNode(nodes[n].name, nodes[n].cpu_millis,
                             nodes[n].ram_mib * static_cast<std::int64_t>(kMiB), nodes[n].cards,
                             kind, order.ranks[n]));
  }
  if (fleet.capacity_milli() == 0) return Error::Field("nodes", "expected at least one card");

  std::vector<Shape> shapes;
  placement::ClassCounter all;
  for (const TracePod& pod : pods) {
    shapes.push_back(ShapeOf(fleet, pod));
    all.Count(shapes.back(), pod.models);
  }
  // Fragmentation is reported against the whole trace, whatever the policy knows.
  const placement::Fragmentation fragmentation(all.Typical(placement::kTypicalPermille));
  const auto fragments = [&](std::uint32_t index) {
    const Fleet::Node& node = fleet.node(index);
    return fragmentation.Of(
        {node.cpu_left, node.kind, node.cards, node.milli_left, fleet.cards(node)});
  };
  double fragmented = 0;
  for (std::uint32_t n = 0; n < fleet.nodes(); ++n) fragmented += fragments(n);

  if (scorer != nullptr && options.learn_every == 0) {
    scorer->Learn(all, fleet);
  }
  std::optional<placement::ShapeIndex> index;
  if (scorer != nullptr) index.emplace(fleet, *scorer);
  placement::ClassCounter seen;
  Rng rng(options.seed);
  std::vector<std::uint32_t> tied;
  Curve allocated_curve, fragmented_curve;
  ReplayResult result;
  const auto capacity = static_cast<double>(fleet.capacity_milli());
  std::int64_t arrived_milli = 0;
  std::vector<placement::Held> held;  // kept for who migrates
  const auto take = [&](std::uint32_t node, const Shape& shape, const CardSet& cards) {
    fragmented -= fragments(node);
    fleet.Take(node, shape, cards);
    fragmented += fragments(node);
    if (index) index->Changed(node);
  };
  // One move for the request at most; its cost is what moves, in milli of cards.
  const auto make_room = [&](const Shape& shape) -> std::optional<Choice> {
    const auto room = placement::MakeRoom(&fleet, held, shape, *scorer, 1);
    if (!room) return std::nullopt;
    for (const placement::Move& move : room->moves) {
      placement::Held& one = held[move.held];
      fragmented -= fragments(one.node);
      fleet.Give(one.node, one.shape, one.cards);
      fragmented += fragments(one.node);
      index->Changed(one.node);
      take(move.node, one.shape, move.cards);
      one.node = move.node;
      one.cards = move.cards;
      ++result.moves;
    }
    return Choice{room->node, 0, room->cards};
  };
  for (const std::uint32_t pod : InBatches(order.arrivals, options.batch, shapes)) {
    const Shape& shape = shapes[pod];
    if (options.learn_every > 0 && scorer != nullptr) {
      seen.Count(shape, pods[pod].models);
      if (LearnsAfter(seen.total(), options.learn_every)) {
        scorer->Learn(seen, fleet);
        index->Reset();
      }
    }
    ++result.arrived;
    arrived_milli += shape.total_milli();
    auto choice = random                ? DrawRandom(fleet, shape, &rng)
                  : options.random_ties ? DrawTied(&*index, shape, &rng, &tied)
                                        : index->Best(shape);
    if (!choice && options.migrate && shape.cards > 0) choice = make_room(shape);
    if (choice) {
      ++result.placed;
      seen.Placed();
      take(choice->node, shape, choice->cards);
      if (options.migrate) {
        held.push_back({choice->node, shape, choice->cards, false,
                        static_cast<std::uint64_t>(shape.total_milli())});
      }
    }
    const double load = 100.0 * static_cast<double>(arrived_milli) / capacity;
    // To a hundredth before the mean is taken: the published tables were made so.
    allocated_curve.Note(
        load, std::nearbyint(1e4 * static_cast<double>(fleet.used_milli()) / capacity) / 100);
    fragmented_curve.Note(load, 100.0 * fragmented / capacity);
  }
  result.allocated = allocated_curve.Means();
  result.fragmented = fragmented_curve.Means();
  return result;
}

}  // namespace tessera::simulate
