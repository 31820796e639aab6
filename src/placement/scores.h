// Scores: how good a node is for a shape, one small pure function a policy. The highest wins, ties
// go to the lowest rank.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "placement/classes.h"
#include "placement/fleet.h"

namespace tessera::placement {

// What a node is worth as it stands, whichever shape is asked: kept from one score to the next.
struct NodeWorth {
  double fragments = 0;
  double places = 0;
};

// Of the requests that arrived, the typical classes cover so much.
inline constexpr std::uint32_t kTypicalPermille = 950;

class Scorer {
 public:
  virtual ~Scorer() = default;
  virtual NodeWorth Worth(const Fleet& fleet, const Fleet::Node& node) const;
  // The node holds the shape (measured on it) on `fitting` of its cards and is worth that much.
  // Answers the score and the cards to take.
  virtual std::int64_t ScoreWith(const NodeWorth& worth, const Fleet& fleet,
                                 const Fleet::Node& node, const Shape& shape, std::uint64_t fitting,
                                 CardSet* cards) const = 0;
  // Of a node that holds the shape as it was asked.
  std::int64_t Score(const Fleet& fleet, const Fleet::Node& node, const Shape& shape,
                     CardSet* cards) const {
    std::uint64_t fitting = 0;
    fleet.Fits(node, shape, &fitting);
    return ScoreWith(Worth(fleet, node), fleet, node, fleet.Measured(node, shape), fitting, cards);
  }
  // The named parts that a score of these cards is made of, in units of one; their sum is the score
  // before it was rounded. One part where the policy has no more.
  using Parts = std::vector<std::pair<std::string, double>>;
  virtual Parts PartsOf(const Fleet& fleet, const Fleet::Node& node, const Shape& shape,
                        const CardSet& cards, std::int64_t score) const;
  virtual double unit() const { return 1; }  // of one step of the score
  // What has arrived is counted anew. A policy that looks at the fleet too sees it as it is now.
  // Whether every score may have changed.
  virtual bool Learn(const ClassCounter& arrived, const Fleet& fleet);
};

// "bestfit", "dotprod", "packing", "clustering", "fgd": as published with FGD (integer scores of 0
// to 100). "tessera": ours. "hami", "least-allocated": what those schedulers do by default.
// "binpack", "spread": the node (card) with the least or the most memory and compute left after
// placing; "binpack-spread" packs nodes and spreads over their cards, "spread-binpack" the reverse.
// kInvalidArgument with the list of names for any other.
Result<std::unique_ptr<Scorer>> MakeScorer(std::string_view name);
const std::vector<std::string>& ScorerNames();

}  // namespace tessera::placement
