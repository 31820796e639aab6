// The page `tessera simulate --placement --html` writes.
#pragma once

#include <string>
#include <vector>

namespace tessera::cli {

struct PlacementCurve {
  std::string policy;
  std::vector<double> allocated;   // percent by percent of what it goes along; negative: unknown
  std::vector<double> fragmented;  // likewise
};

// One self-contained page: a chart of what was allocated, a chart of what lay fragmented, and the
// figures as a table. Loads nothing from elsewhere and runs no script. `along` says what the curves
// go along, in percent. `title`, `along` and the policies are escaped; a chart nothing is known for
// is left out.
std::string PlacementPage(const std::string& title, const std::vector<PlacementCurve>& curves,
                          const std::string& along);

}  // namespace tessera::cli
