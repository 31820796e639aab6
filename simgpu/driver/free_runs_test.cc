#include "simgpu/driver/free_runs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace simgpu {
namespace {

constexpr uint64_t kLength = 200;

// What FreeRuns must be equal to: one flag for each place.
std::map<uint64_t, uint64_t> RunsOf(const std::vector<bool>& free) {
  std::map<uint64_t, uint64_t> runs;
  for (uint64_t at = 0; at < kLength; ++at) {
    if (!free[at]) continue;
    const uint64_t first = at;
    while (at < kLength && free[at]) ++at;
    runs[first] = at - first;
  }
  return runs;
}

TEST(FreeRuns, EqualsAFlagForEachPlace) {
  constexpr uint64_t kSeed = 20261125;
  std::mt19937_64 random(kSeed);
  FreeRuns runs;
  std::vector<bool> free(kLength, true);
  std::map<uint64_t, uint64_t> taken;
  const auto mark = [&](uint64_t at, uint64_t length, bool value) {
    for (uint64_t k = at; k < at + length; ++k) free[k] = value;
  };
  runs.Add(0, kLength);
  for (int round = 0; round < 20'000; ++round) {
    SCOPED_TRACE(testing::Message() << "seed " << kSeed << ", round " << round);
    const auto all = RunsOf(free);
    ASSERT_EQ(runs.all(), all);
    const uint64_t length = 1 + random() % 12;
    if (random() % 5 < 2 && !taken.empty()) {
      auto at = taken.begin();
      std::advance(at, random() % taken.size());
      runs.Add(at->first, at->second);
      mark(at->first, at->second, true);
      taken.erase(at);
    } else if (random() % 4 == 0 && !all.empty()) {
      auto run = all.begin();
      std::advance(run, random() % all.size());
      const uint64_t part = std::min(length, run->second);
      const uint64_t at = run->first + random() % (run->second - part + 1);
      runs.TakeAt(at, part);
      mark(at, part, false);
      taken[at] = part;
    } else {
      uint64_t expected = kLength;
      for (const auto& [first, have] : all) {
        if (have >= length) {
          expected = first;
          break;
        }
      }
      uint64_t at = kLength;
      ASSERT_EQ(runs.Take(length, &at), expected != kLength);
      ASSERT_EQ(at, expected);
      if (at == kLength) continue;
      mark(at, length, false);
      taken[at] = length;
    }
  }
}

}  // namespace
}  // namespace simgpu
