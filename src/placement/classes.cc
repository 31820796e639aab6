#include "placement/classes.h"

#include <algorithm>
#include <tuple>

namespace tessera::placement {

void ClassCounter::Count(const Shape& shape, const std::string& type) {
  ++total_;
  const auto same = [&](const TaskClass& known) {
    return known.shape.cpu_millis == shape.cpu_millis && known.shape.cards == shape.cards &&
           known.shape.milli == shape.milli && known.shape.memory_bytes == shape.memory_bytes &&
           known.shape.compute == shape.compute && known.type == type;
  };
  std::uint64_t hash = std::hash<std::string>()(type);
  for (const std::uint64_t part :
       {static_cast<std::uint64_t>(shape.cpu_millis), shape.memory_bytes,
        std::uint64_t{shape.cards} << 40 | std::uint64_t{shape.milli} << 20 | shape.compute}) {
    hash = (hash ^ part) * 0x9e3779b97f4a7c15ull;
    hash ^= hash >> 29;
  }
  for (auto [at, end] = by_hash_.equal_range(hash); at != end; ++at) {
    TaskClass& known = counted_[at->second];
    if (!same(known)) continue;
    known.weight += 1;
    return;
  }
  if (counted_.size() == kClassesMax) return;
  by_hash_.emplace(hash, static_cast<std::uint32_t>(counted_.size()));
  TaskClass fresh{shape, type, 1};
  fresh.shape.ram_bytes = 0;
  fresh.shape.disk_bytes = 0;
  counted_.push_back(std::move(fresh));
}

std::vector<TaskClass> ClassCounter::Typical(std::uint32_t permille) const {
  std::vector<TaskClass> sorted = counted_;
  const auto key = [](const TaskClass& c) {
    return std::tuple(c.weight, c.shape.cpu_millis, c.shape.milli, c.shape.cards,
                      c.shape.memory_bytes, c.shape.compute, std::string_view(c.type));
  };
  std::sort(sorted.begin(), sorted.end(),
            [&](const TaskClass& a, const TaskClass& b) { return key(a) > key(b); });
  const auto total = static_cast<double>(total_);
  const double wanted = static_cast<double>(permille) * total / 1000.0;
  double covered = 0;
  std::size_t kept = 0;
  while (kept < sorted.size() && covered < wanted) {
    covered += sorted[kept].weight;
    sorted[kept].weight /= total;
    ++kept;
  }
  if (kept < sorted.size()) {
    sorted.resize(kept);
    for (TaskClass& one : sorted) one.weight /= covered / total;
  }
  return sorted;
}

double ClassCounter::Left(const Fleet& fleet) const {
  std::uint64_t running = 0;
  for (std::uint32_t n = 0; n < fleet.nodes(); ++n) running += fleet.node(n).placed;
  if (running >= placed_) return 0;
  return 1 - static_cast<double>(running) / static_cast<double>(placed_);
}

std::int64_t UnusableMilli(const Fleet& fleet, const std::vector<Shape>& skus) {
  std::int64_t unusable = 0;
  for (std::uint32_t n = 0; n < fleet.nodes(); ++n) {
    const Fleet::Node& node = fleet.node(n);
    std::uint32_t least = kWholeCardMilli + 1;  // of what fits, the smallest share of a card
    for (const Shape& sku : skus) {
      if (sku.cards > 0 && fleet.Fits(node, sku)) least = std::min(least, sku.milli);
    }
    for (std::uint32_t i = 0; i < node.cards; ++i) {
      const std::uint32_t left = fleet.cards(node)[i];
      if (left < least && left >= kRoundingMilli) unusable += left;
    }
  }
  return unusable;
}

Fragmentation::Fragmentation(std::vector<TaskClass> classes) : classes_(std::move(classes)) {
  for (const TaskClass& one : classes_) {
    auto at = std::find(sizes_.begin(), sizes_.end(), one.shape.milli);
    if (at == sizes_.end()) at = sizes_.insert(sizes_.end(), one.shape.milli);
    size_of_.push_back(static_cast<std::uint32_t>(at - sizes_.begin()));
  }
}

double Fragmentation::Of(const FragmentView& node) const {
  return node.mixed == nullptr ? Sum<false>(node) : Sum<true>(node);
}

template <bool kMixed>
double Fragmentation::Sum(const FragmentView& node) const {
  // For each size: how many cards hold it, and what lies idle on the others.
  constexpr std::size_t kOnStack = 128;
  std::uint32_t fitting_space[kOnStack];
  std::uint32_t small_space[kOnStack];
  std::vector<std::uint32_t> fitting_heap;
  std::vector<std::uint32_t> small_heap;
  std::uint32_t* fitting = fitting_space;
  std::uint32_t* small = small_space;
  if (sizes_.size() > kOnStack) {
    fitting_heap.resize(sizes_.size());
    small_heap.resize(sizes_.size());
    fitting = fitting_heap.data();
    small = small_heap.data();
  }
  for (std::size_t s = 0; s < sizes_.size(); ++s) {
    std::uint32_t count = 0;
    std::uint32_t idle = 0;
    for (std::uint32_t i = 0; i < node.cards; ++i) {
      const bool fits = node.left[i] >= sizes_[s];
      count += fits ? 1 : 0;
      idle += fits ? 0 : node.left[i];
    }
    fitting[s] = count;
    small[s] = idle;
  }
  // Summed by what is lacking, in the published order: another order rounds differently.
  double lacks_both = 0, lacks_card = 0, lacks_cpu = 0, cpu_only = 0, cpu_only_lacking = 0,
         wrong_kind = 0;
  const auto all = static_cast<double>(node.milli_left);
  for (std::size_t c = 0; c < classes_.size(); ++c) {
    const Shape& shape = classes_[c].shape;
    const double weight = classes_[c].weight;
    const bool cpu_fits = node.cpu_left >= shape.cpu_millis;
    if (shape.milli == 0) {
      (cpu_fits ? cpu_only : cpu_only_lacking) += weight * all;
    } else if (kMixed && shape.kinds != 0) {
      // Cards of other kinds are idle for this class, as cards that are too full are.
      std::uint32_t count = 0;
      std::int64_t idle = 0;
      for (std::uint32_t i = 0; i < node.cards; ++i) {
        const bool fits = node.left[i] >= shape.milli && node.Allowed(i, shape.kinds);
        count += fits ? 1 : 0;
        idle += fits ? 0 : node.left[i];
      }
      const bool placeable = count >= shape.cards && cpu_fits;
      lacks_card += weight * (placeable ? static_cast<double>(idle) : all);
    } else if (shape.kinds != 0 && (shape.kinds >> node.kind & 1) == 0) {
      wrong_kind += weight * all;
    } else if (fitting[size_of_[c]] >= shape.cards) {
      if (cpu_fits) {
        lacks_card += weight * static_cast<double>(small[size_of_[c]]);
      } else {
        lacks_cpu += weight * all;
      }
    } else {
      (cpu_fits ? lacks_card : lacks_both) += weight * all;
    }
  }
  return lacks_both + lacks_card + lacks_cpu + cpu_only + cpu_only_lacking + wrong_kind;
}

}  // namespace tessera::placement
