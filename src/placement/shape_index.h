// For every shape that is asked for, the nodes ordered by score: the best one is read off, and a
// node that changed costs one new score and one path up a tournament tree, when the shape is asked
// for again. Decisions so cost what has changed, not what there is. Not thread-safe; holds
// references to the fleet and the scorer.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "placement/fleet.h"
#include "placement/scores.h"

namespace tessera::placement {

inline constexpr std::size_t kIndexedShapesMax = 1024;  // the one not asked for longest makes room

struct Choice {
  std::uint32_t node = 0;
  std::int64_t score = 0;
  CardSet cards;
};

class ShapeIndex {
 public:
  ShapeIndex(const Fleet& fleet, const Scorer& scorer) : fleet_(fleet), scorer_(scorer) {}
  // The best node for the shape, or none.
  std::optional<Choice> Best(const Shape& shape);
  // The node's contents changed.
  void Changed(std::uint32_t node);
  // Every score may have changed.
  void Reset() { entries_.clear(); }

 private:
  struct Entry {
    Shape shape;
    std::uint64_t seen = 0;   // position in the log of changes
    std::uint64_t asked = 0;  // for making room
    std::vector<std::int64_t> score;
    std::vector<std::uint32_t> winner;  // tournament tree, the root at 1
  };
  Entry& Find(const Shape& shape);
  void Build(Entry* entry) const;
  void Refresh(Entry* entry);
  std::int64_t ScoreOf(const Shape& shape, std::uint32_t node) const;
  std::uint32_t Better(const Entry& entry, std::uint32_t a, std::uint32_t b) const;

  const Fleet& fleet_;
  const Scorer& scorer_;
  std::vector<std::unique_ptr<Entry>> entries_;
  std::vector<std::uint32_t> log_;  // nodes in the order they changed
  std::uint64_t log_first_ = 0;     // position of log_[0]
  std::vector<std::uint64_t> stamp_;
  std::uint64_t clock_ = 0;
};

}  // namespace tessera::placement
