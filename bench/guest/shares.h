// Compute shares as the software card's engine saw them, and what a gated launch costs.
#pragma once

#include <string>
#include <vector>

#include "bench/figures.h"
#include "guest/test_node.h"

namespace tessera::bench {

// While one lives, the node's only card is in a granted turn.
class GrantedTurn {
 public:
  explicit GrantedTurn(guest::TestNode* node);
  ~GrantedTurn();
  GrantedTurn(const GrantedTurn&) = delete;
  GrantedTurn& operator=(const GrantedTurn&) = delete;

 private:
  guest::TestNode* node_;
};

// Adds share_error_points_1s_max, share_error_points_10s_max, jain_min, redistributed_ratio,
// throughput_ratio_min, priority_added_p99_us, wake_p99_us and idle_wakeups_per_s. Takes about a
// minute and a half; every mix prints a line on stderr. `only`: the name of one mix, for looking
// at it; "" runs all.
void MeasureShares(const std::string& only, std::vector<Figure>* figures);

}  // namespace tessera::bench
