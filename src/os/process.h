// What the kernel says about processes. Free functions over /proc and pidfd; thread-safe.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "os/fd.h"

namespace tessera::os {

// A process is named by pid and start time together: pids are reused, the pair is not (within one
// boot).
struct ProcessId {
  pid_t pid = 0;
  std::uint64_t start_time = 0;  // field 22 of /proc/pid/stat, clock ticks since boot
  bool operator==(const ProcessId&) const = default;
};

// Start time of a live process (zombies count as dead, unless threads of them still run); kNotFound
// when there is none. Parses /proc/pid/stat from the last ')' on, so a command named "a) Z" cannot
// mislead it.
Result<ProcessId> IdentifyProcess(pid_t pid);
// The parsing alone, of a text in the form of /proc/pid/stat, which names the parent too.
Result<ProcessId> ParseProcessStat(pid_t pid, std::string_view text, pid_t* parent = nullptr);
bool IsAlive(const ProcessId& id);
Result<pid_t> ParentOf(pid_t pid);
// The process's path in the unified (v2) cgroup hierarchy, "/" when it is at the root.
Result<std::string> CgroupOf(pid_t pid);
// A pidfd; readable (poll) when the process has ended.
Result<Fd> OpenPidfd(pid_t pid);

}  // namespace tessera::os
