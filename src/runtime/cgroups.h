// Where this machine keeps its cgroups and how an instance gets one: a leaf in the unified (v2)
// hierarchy, which is its identity and how its whole tree is killed, and limits there or, where v2
// has no controllers (hybrid machines), in v1 leaves of the same name. Values; thread-safe to use
// concurrently for different ids.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace tessera::runtime {

struct CgroupMounts {
  std::string unified;       // mount point of cgroup2; empty: none
  std::string unified_root;  // which part of the hierarchy is mounted there
  struct Mounted {
    std::string point;
    std::string root;
  };
  std::map<std::string, Mounted> v1;  // by controller: "cpu", "memory"
};

// Reads /proc/self/mountinfo's text.
CgroupMounts ParseCgroupMounts(std::string_view mountinfo);

// One instance's leaf: every path that belongs to it, known before any of them is made.
struct CgroupLeaf {
  std::string path;                  // in the unified hierarchy, as /proc/PID/cgroup prints it
  std::string unified;               // folder of the v2 leaf
  std::vector<std::string> folders;  // all leaves, v2 first
  std::vector<std::string> procs;    // where a process's pid is written to join
  std::vector<std::string> memory_events;  // files with a line "oom_kill N"
};

class Cgroups {
 public:
  // Finds the mounts, makes `<parent>` and the supervisors' own leaf in it, and learns which limits
  // can be set.
  static Result<Cgroups> Detect(const std::string& parent);

  CgroupLeaf LeafOf(const std::string& id, bool cpu_limited, bool ram_limited) const;
  // Makes the leaf and sets the limits (0: none). Returns one sentence for each limit that could
  // not be set.
  Result<std::vector<std::string>> Make(const CgroupLeaf& leaf, const std::string& id,
                                        std::uint32_t cpu_millis, std::uint64_t ram_bytes) const;
  const std::string& supervisors_procs() const { return supervisors_procs_; }

 private:
  std::string path_;    // of the parent in the hierarchy
  std::string folder_;  // of the parent
  std::string supervisors_procs_;
  bool cpu_v2_ = false;
  bool memory_v2_ = false;
  std::string cpu_v1_;  // parent's folder, empty: no such hierarchy
  std::string memory_v1_;
};

// Where a path of the unified hierarchy, as /proc/PID/cgroup prints it, lies in the file system.
Result<std::string> UnifiedFolder(const std::string& path);
// Stops every process of a v2 leaf, or lets them run again; nobody inside can undo it.
Status FreezeCgroup(const std::string& unified_leaf, bool frozen);
// Whether the kernel has come to a halt with all of them.
bool IsFrozen(const std::string& unified_leaf);
// Kills every process of a v2 leaf and waits until it is empty; an unknown leaf is fine.
Status KillCgroup(const std::string& unified_leaf, int wait_millis);
// Removes empty leaves, trying for a moment while the kernel lets go of the last process.
Status RemoveCgroups(const std::vector<std::string>& folders);

}  // namespace tessera::runtime
