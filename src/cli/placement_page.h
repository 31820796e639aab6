// The page `tessera simulate --placement --html` writes.
#pragma once

#include <string>
#include <vector>

namespace tessera::cli {

struct PlacementCurve {
  std::string policy;
  std::vector<double> allocated;   // percent by percent of load; negative: unknown
  std::vector<double> fragmented;  // likewise
};

// One self-contained page: a chart of what was allocated, a chart of what lay fragmented, and the
// figures as a table. Loads nothing from elsewhere and runs no script. `title` and the policies are
// escaped.
std::string PlacementPage(const std::string& title, const std::vector<PlacementCurve>& curves);

}  // namespace tessera::cli
