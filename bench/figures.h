// What the measuring programs share: the middle of repeated measurements and how it is written
// down. Plain functions.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <span>
#include <string>
#include <vector>

namespace tessera::bench {

struct Figure {
  std::string name;
  double value;
};

// What --check wants of a figure.
struct Aim {
  const char* name;
  bool at_least;
  double value;
};

// Says on stderr how every figure stands to its aim. False: one misses it or was not measured.
inline bool Reached(const char* program, std::span<const Aim> aims,
                    const std::vector<Figure>& figures) {
  bool all = true;
  for (const Aim& aim : aims) {
    const auto figure =
        std::ranges::find_if(figures, [&](const Figure& one) { return one.name == aim.name; });
    const char* const sense = aim.at_least ? "at least" : "at most";
    if (figure == figures.end()) {
      std::fprintf(stderr, "%s: %s was not measured, aim %s %.2f: MISSED\n", program, aim.name,
                   sense, aim.value);
      all = false;
      continue;
    }
    const bool reached = aim.at_least ? figure->value >= aim.value : figure->value <= aim.value;
    std::fprintf(stderr, "%s: %s is %.2f, aim %s %.2f: %s\n", program, aim.name, figure->value,
                 sense, aim.value, reached ? "reached" : "MISSED");
    all &= reached;
  }
  return all;
}

inline double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

// The median distance from the median.
inline double Mad(const std::vector<double>& values, double median) {
  std::vector<double> distances;
  for (double value : values) distances.push_back(std::fabs(value - median));
  return Median(distances);
}

// NAME and NAME_mad of repeated measurements.
inline void Summarise(const std::string& name, const std::vector<double>& values,
                      std::vector<Figure>* figures) {
  const double median = Median(values);
  figures->push_back({name, median});
  figures->push_back({name + "_mad", Mad(values, median)});
}

// Flat JSON to the file, or to the standard output when `path` is empty. False with errno set.
inline bool WriteFigures(const std::string& path, const std::vector<Figure>& figures) {
  std::FILE* out = path.empty() ? stdout : std::fopen(path.c_str(), "we");
  if (out == nullptr) return false;
  std::fprintf(out, "{\n");
  for (size_t i = 0; i < figures.size(); ++i) {
    std::fprintf(out, "  \"%s\": %.3f%s\n", figures[i].name.c_str(), figures[i].value,
                 i + 1 < figures.size() ? "," : "");
  }
  std::fprintf(out, "}\n");
  return out == stdout ? std::fflush(out) == 0 : std::fclose(out) == 0;
}

}  // namespace tessera::bench
