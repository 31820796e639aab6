#include "simulate/bound.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace tessera::simulate {
namespace {

using placement::kWholeCardMilli;
using placement::Shape;

// Fekete and Schepers' U(e): below e nothing, above the rest of the card all of it. e in 0 to 500.
double Threshold(std::uint32_t milli, std::uint32_t e) {
  if (milli > kWholeCardMilli - e) return kWholeCardMilli;
  return milli < e ? 0 : milli;
}

// Their u(k): in steps of 1/k, where what falls between two steps counts as the lower one.
double Steps(std::uint32_t milli, std::uint32_t k) {
  const std::uint32_t scaled = milli * (k + 1);
  if (scaled % kWholeCardMilli == 0) return milli;
  const std::uint32_t steps = scaled / kWholeCardMilli;
  return static_cast<double>(steps) * kWholeCardMilli / k;
}

// The most milli whose weights stay within the room.
double Knapsack(const std::vector<Shape>& arrived, const std::vector<double>& weight, double room) {
  std::vector<std::size_t> order(arrived.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto milli = [&](std::size_t i) { return static_cast<double>(arrived[i].total_milli()); };
  std::erase_if(order, [&](std::size_t i) { return arrived[i].cards == 0; });
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return weight[a] * milli(b) < weight[b] * milli(a);
  });
  double taken = 0;
  for (const std::size_t i : order) {
    if (weight[i] > room) return taken + milli(i) * (weight[i] > 0 ? room / weight[i] : 0);
    room -= weight[i];
    taken += milli(i);
  }
  return taken;
}

}  // namespace

double AllocationBound(const placement::Fleet& fleet, const std::vector<Shape>& arrived) {
  const auto capacity = static_cast<double>(fleet.capacity_milli());
  if (capacity <= 0) return 0;
  double cores = 0;
  for (std::uint32_t n = 0; n < fleet.nodes(); ++n) {
    cores += static_cast<double>(fleet.node(n).cpu_millis);
  }
  double best = capacity;
  std::vector<double> weight(arrived.size());
  const auto look = [&](auto dual_feasible) {
    // What a milli of a card and a milli of a core weigh; the last one is cores alone.
    constexpr std::pair<double, double> kWeights[] = {{1, 0}, {1, 0.01}, {1, 0.03}, {0, 1}};
    for (const auto& [card, core] : kWeights) {
      for (std::size_t i = 0; i < arrived.size(); ++i) {
        weight[i] = card * dual_feasible(arrived[i].milli) * arrived[i].cards +
                    core * static_cast<double>(arrived[i].cpu_millis);
      }
      best = std::min(best, Knapsack(arrived, weight, card * capacity + core * cores));
    }
  };
  // A threshold only matters where a share begins to count, or ceases to.
  std::vector<std::uint32_t> thresholds = {0};
  for (const Shape& shape : arrived) {
    if (shape.cards == 0) continue;
    if (shape.milli < kWholeCardMilli / 2) thresholds.push_back(shape.milli + 1);
    if (shape.milli > kWholeCardMilli / 2) thresholds.push_back(kWholeCardMilli - shape.milli + 1);
  }
  std::sort(thresholds.begin(), thresholds.end());
  thresholds.erase(std::unique(thresholds.begin(), thresholds.end()), thresholds.end());
  for (const std::uint32_t e : thresholds) {
    if (e > kWholeCardMilli / 2) continue;
    look([e](std::uint32_t milli) { return Threshold(milli, e); });
  }
  for (std::uint32_t k = 1; k <= 5; ++k) {
    look([k](std::uint32_t milli) { return Steps(milli, k); });
  }
  return 100 * best / capacity;
}

}  // namespace tessera::simulate
