// Scores: how good a node is for a shape, one small pure function a policy. The highest wins, ties
// go to the lowest rank.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
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
  // The node holds the shape and is worth that much. Answers the score and the cards to take.
  virtual std::int64_t ScoreWith(const NodeWorth& worth, const Fleet& fleet,
                                 const Fleet::Node& node, const Shape& shape,
                                 CardSet* cards) const = 0;
  std::int64_t Score(const Fleet& fleet, const Fleet::Node& node, const Shape& shape,
                     CardSet* cards) const {
    return ScoreWith(Worth(fleet, node), fleet, node, shape, cards);
  }
  // What has arrived is counted anew: every score may have changed. A policy that looks at the
  // fleet too sees it as it is now.
  virtual void Learn(const ClassCounter& arrived, const Fleet& fleet);
};

// "bestfit", "dotprod", "packing", "clustering", "fgd": as published with FGD (integer scores of 0
// to 100). "tessera": ours. "hami", "least-allocated": what those schedulers do by default.
// kInvalidArgument with the list of names for any other.
Result<std::unique_ptr<Scorer>> MakeScorer(std::string_view name);
const std::vector<std::string>& ScorerNames();

}  // namespace tessera::placement
