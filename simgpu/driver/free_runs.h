// The free parts of a stretch of addresses or granules. Neighbours are always joined, so that no
// two runs touch. First fit, because a program's addresses must not depend on anything but what it
// allocated before. Not thread-safe: its owner's lock guards it.
#pragma once

#include <cstdint>
#include <iterator>
#include <map>

namespace simgpu {

class FreeRuns {
 public:
  // A part that was not free until now. `length` is not 0.
  void Add(uint64_t at, uint64_t length) {
    auto after = runs_.lower_bound(at);
    if (after != runs_.begin()) {
      auto before = std::prev(after);
      if (before->first + before->second == at) {
        at = before->first;
        length += before->second;
        runs_.erase(before);
      }
    }
    if (after != runs_.end() && at + length == after->first) {
      length += after->second;
      runs_.erase(after);
    }
    runs_[at] = length;
  }

  // The lowest part that is long enough. False, with `at` as it was, when there is none.
  bool Take(uint64_t length, uint64_t* at) {
    for (auto run = runs_.begin(); run != runs_.end(); ++run) {
      if (run->second < length) continue;
      *at = run->first;
      Remove(run, run->first, length);
      return true;
    }
    return false;
  }

  // A part that lies within one run.
  void TakeAt(uint64_t at, uint64_t length) {
    Remove(std::prev(runs_.upper_bound(at)), at, length);
  }

  // Start -> length.
  const std::map<uint64_t, uint64_t>& all() const { return runs_; }

 private:
  void Remove(std::map<uint64_t, uint64_t>::iterator run, uint64_t at, uint64_t length) {
    const uint64_t first = run->first, end = run->first + run->second;
    runs_.erase(run);
    if (at > first) runs_[first] = at - first;
    if (at + length < end) runs_[at + length] = end - (at + length);
  }

  std::map<uint64_t, uint64_t> runs_;
};

}  // namespace simgpu
