// For every shape that is asked for, the nodes ordered by score: the best one is read off, and a
// node that changed costs one new score and a path up a tournament tree as far as the change shows,
// when the shape is asked for again. Decisions so cost what has changed, not what there is; only a
// shape's first one looks at every node. Once the shapes are known no decision allocates. Not
// thread-safe; holds references to the fleet and the scorer.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_map>
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
  // The best of the nodes that `accept` (of a node's number) takes; it is asked in the order of
  // score, from the best on, so each refusal costs one path down the tree.
  template <typename Accept>
  std::optional<std::uint32_t> FirstOf(const Shape& shape, Accept accept) {
    Entry& entry = Refreshed(shape);
    StartWalk();
    while (const auto node = NextInWalk(entry)) {
      if (accept(*node)) return node;
    }
    return std::nullopt;
  }
  // All the nodes that are as good as the best one, in the order they were added; for who breaks
  // ties otherwise. Looks at every node.
  void Tied(const Shape& shape, std::vector<std::uint32_t>* nodes);
  // The shape on that node, which holds it on some of these cards.
  Choice On(std::uint32_t node, const Shape& shape, std::uint64_t allowed = kAllCards);
  // The node's contents changed. A node that is new to the fleet is noticed without this.
  void Changed(std::uint32_t node);
  // Another node with another rank stands there now.
  void Replaced(std::uint32_t node);
  // Every score may have changed.
  void Reset();

 private:
  struct ShapeHash {
    std::size_t operator()(const Shape& shape) const;
  };
  struct Entry {
    Shape shape;
    std::uint64_t seen = 0;   // position in the log of changes
    std::uint64_t asked = 0;  // for making room
    std::vector<std::int64_t> score;
    std::vector<std::uint32_t> winner;  // tournament tree, the root at 1
  };
  Entry& Find(const Shape& shape);
  Entry& Refreshed(const Shape& shape);
  void StartWalk();
  std::optional<std::uint32_t> NextInWalk(const Entry& entry);
  void Grow(Entry* entry);
  // Scores the node anew and plays its matches again, all of them or as far as that changes them.
  void Build(Entry* entry);
  void Refresh(Entry* entry);
  void Update(Entry* entry, std::uint32_t node, bool all);
  std::int64_t ScoreOf(const Shape& shape, std::uint32_t node);
  const NodeWorth& WorthOf(std::uint32_t node);
  std::uint32_t Better(const Entry& entry, std::uint32_t a, std::uint32_t b) const;

  const Fleet& fleet_;
  const Scorer& scorer_;
  std::unordered_map<Shape, std::unique_ptr<Entry>, ShapeHash> entries_;
  std::vector<NodeWorth> worth_;
  std::vector<bool> worth_known_;
  std::vector<std::uint32_t> log_;  // nodes in the order they changed
  std::uint64_t log_first_ = 0;     // position of log_[0]
  std::vector<std::uint64_t> stamp_;
  std::uint64_t clock_ = 0;
  std::vector<std::uint32_t> walk_;  // a heap of subtrees, the one with the best winner on top
};

}  // namespace tessera::placement
