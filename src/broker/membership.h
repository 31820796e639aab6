// Which slice a process belongs to, by the kernel's word: its unified cgroup, else its ancestry up
// to a registered root process (the mode without root, where nothing is contained). Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "os/process.h"

namespace tessera::broker {

// Parents followed upwards before a process counts as a stranger.
inline constexpr int kAncestryMax = 128;
inline constexpr std::size_t kRootsPerSliceMax = 256;

class Membership {
 public:
  // What the kernel would say; tests put their own in.
  struct Kernel {
    std::function<Result<std::string>(pid_t)> cgroup = os::CgroupOf;
    std::function<Result<pid_t>(pid_t)> parent = os::ParentOf;
    std::function<Result<os::ProcessId>(pid_t)> identify = os::IdentifyProcess;
  };
  Membership() : Membership(Kernel()) {}
  explicit Membership(Kernel kernel) : kernel_(std::move(kernel)) {}

  // Every process in this cgroup or below belongs to the slice. The path is as in /proc/pid/cgroup;
  // "/" would claim the whole machine and is refused, as is a path another slice has.
  Status AddCgroup(const std::string& slice, const std::string& path);
  // The process and its descendants belong to the slice, as long as the chain of parents lives.
  Status AddRoot(const std::string& slice, const os::ProcessId& root);
  void RemoveSlice(const std::string& slice);

  // What the caller has just read of the process itself.
  struct Known {
    os::ProcessId process;
    pid_t parent = 0;
  };
  // The longest registered cgroup wins over a shorter one, any cgroup over ancestry.
  std::optional<std::string> SliceOf(pid_t pid, const Known* known = nullptr) const;
  // Live roots of a slice; ended ones are forgotten on the way.
  std::vector<os::ProcessId> LiveRoots(const std::string& slice);

 private:
  Kernel kernel_;
  mutable std::mutex mutex_;
  std::map<std::string, std::string> cgroups_;  // path -> slice
  std::map<std::string, std::vector<os::ProcessId>> roots_;
};

}  // namespace tessera::broker
