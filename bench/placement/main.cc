// How fast the placement engine decides and how much of a fleet it fills. Speed figures are medians
// of repeated windows with their MAD, in time of the processor; quality figures are means of ten
// orders of arrival and repeat exactly.
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "bench/figures.h"
#include "bench/placement/parts.h"

namespace {

using tessera::bench::Figure;

constexpr tessera::bench::Aim kAims[] = {
    {"decisions_per_s.10000", true, 100'000},
    {"decision_p99_us.100000", false, 200},
    {"decision_p99_us.1000000", false, 1000},
    {"allocations_per_decision", false, 0},
    {"engine_decisions_per_s.10000", true, 100'000},
    {"engine_decision_p99_us.100000", false, 200},
    {"engine_decision_p99_us.1000000", false, 1000},
    {"engine_allocations_per_decision", false, 0},
    {"alloc_at_100.default", true, 95.9},
    {"alloc_at_100.cpu250", true, 94.9},
    {"alloc_at_100.gpushare100", true, 87.0},
    {"alloc_at_100.multigpu50", true, 97.4},
    {"alloc_at_100.gpuspec25", true, 95.0},
    {"below_fgd_at_worst", false, 0.05},
    {"lost_by_random_ties_at_worst", false, 0.1},
};

}  // namespace

void tessera::bench::Die(const std::string& what) {
  std::fprintf(stderr, "bench-placement: %s\n", what.c_str());
  std::exit(1);
}

int main(int argc, char** argv) {
  std::string json;
  bool check = false;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--check") {
      check = true;
    } else if (word == "--json" && i + 1 < argc) {
      json = argv[++i];
    } else {
      std::fprintf(stderr, "usage: bench-placement [--json FILE] [--check]\n");
      return 2;
    }
  }
  std::vector<Figure> figures;
  tessera::bench::MeasureSpeed(&figures);
  tessera::bench::MeasureEngine(&figures);
  tessera::bench::MeasureQuality(&figures);
  if (!tessera::bench::WriteFigures(json, figures)) {
    tessera::bench::Die(json + ": " + std::strerror(errno));
  }
  if (!check) return 0;
  return tessera::bench::Reached("bench-placement", kAims, figures) ? 0 : 1;
}
