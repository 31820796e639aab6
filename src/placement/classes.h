// Task classes: which shapes arrive and how often, and how much of a node is of no use to them.
//
// Fragmentation is the measure of FGD (Weng et al., USENIX ATC'23): the idle milli of a node that a
// task drawn at random from the classes could not use. Pure and deterministic.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "placement/fleet.h"

namespace tessera::placement {

inline constexpr std::size_t kClassesMax = 4096;  // distinct shapes counted

struct TaskClass {
  Shape shape;       // RAM and disk are not part of a class
  std::string type;  // as written in the trace: two spellings of one set are two classes
  double weight = 0;
};

// Counts shapes and keeps the most frequent ones.
class ClassCounter {
 public:
  // Beyond kClassesMax distinct shapes, new ones are not counted.
  void Count(const Shape& shape, const std::string& type);
  // The classes that together cover `permille` of all that was counted, most frequent first,
  // weights adding up to 1. Ties: more CPU, then more milli, more cards, the later type first.
  std::vector<TaskClass> Typical(std::uint32_t permille) const;
  std::uint64_t total() const { return total_; }
  // One of what was counted got its place.
  void Placed() { ++placed_; }
  // Of all that got a place, the part that has left the fleet again: 0 while nothing ever leaves,
  // near 1 on a fleet that has turned over many times. What holds a place without having been
  // counted here makes it smaller.
  double Left(const Fleet& fleet) const;

 private:
  std::vector<TaskClass> counted_;
  std::unordered_multimap<std::uint64_t, std::uint32_t> by_hash_;  // into counted_
  std::uint64_t total_ = 0;
  std::uint64_t placed_ = 0;
};

// A node as fragmentation sees it.
struct FragmentView {
  std::int64_t cpu_left = 0;
  std::uint32_t kind = 0;
  std::uint32_t cards = 0;
  std::int64_t milli_left = 0;
  const std::uint16_t* left = nullptr;
  const Fleet::Card* mixed = nullptr;  // of a node whose cards are of several kinds

  // Whether a card may hold a class bound to these kinds.
  bool Allowed(std::uint32_t card, std::uint64_t kinds) const {
    return kinds == 0 || (kinds >> (mixed != nullptr ? mixed[card].kind : kind) & 1) != 0;
  }
};

// A hundredth of a card: less of one is no capacity. Shares are whole thousandths, so a card full
// of thirds has one of them left, and one full of sevenths six.
inline constexpr std::uint32_t kRoundingMilli = 10;

// The free milli that no SKU can use: of each card, what is left where none of the shapes fits the
// node with that card among its own, unless it is less than kRoundingMilli. A shape that fits
// nowhere makes nothing usable.
std::int64_t UnusableMilli(const Fleet& fleet, const std::vector<Shape>& skus);

class Fragmentation {
 public:
  explicit Fragmentation(std::vector<TaskClass> classes);
  // Expected milli of the node that a random task cannot use.
  double Of(const FragmentView& node) const;
  const std::vector<TaskClass>& classes() const { return classes_; }

 private:
  template <bool kMixed>
  double Sum(const FragmentView& node) const;

  std::vector<TaskClass> classes_;
  std::vector<std::uint32_t> sizes_;    // distinct milli of the classes
  std::vector<std::uint32_t> size_of_;  // by class, into sizes_
};

}  // namespace tessera::placement
