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

class Scorer {
 public:
  virtual ~Scorer() = default;
  // The node holds the shape. Answers the score and the cards to take.
  virtual std::int64_t Score(const Fleet& fleet, const Fleet::Node& node, const Shape& shape,
                             CardSet* cards) const = 0;
  // The task classes have changed: every score may have.
  virtual void SetClasses(const std::vector<TaskClass>& classes, const Fleet& fleet);
};

// "bestfit", "dotprod", "packing", "clustering", "fgd": as published with FGD (integer scores of 0
// to 100). "tessera": ours. "hami", "least-allocated": what those schedulers do by default.
// kInvalidArgument with the list of names for any other.
Result<std::unique_ptr<Scorer>> MakeScorer(std::string_view name);
const std::vector<std::string>& ScorerNames();

}  // namespace tessera::placement
