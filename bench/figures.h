// What the measuring programs share: the middle of repeated measurements and how it is written
// down. Plain functions.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

namespace tessera::bench {

struct Figure {
  std::string name;
  double value;
};

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
