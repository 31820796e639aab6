#include "runtime/cgroups.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "os/clock.h"
#include "os/error.h"
#include "os/files.h"

namespace tessera::runtime {
namespace {

constexpr std::uint64_t kPeriodMicros = 100'000;
constexpr int kRemoveTries = 200;
constexpr std::int64_t kRemovePauseNanos = 5'000'000;

std::vector<std::string_view> Split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (!text.empty()) {
    const std::size_t at = text.find(separator);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) break;
    text.remove_prefix(at + 1);
  }
  return parts;
}

// mountinfo writes space, tab, newline and backslash as \ooo.
std::string Unescape(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      out += static_cast<char>(std::strtol(std::string(text.substr(i + 1, 3)).c_str(), nullptr, 8));
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

bool HasWord(std::string_view text, std::string_view word) {
  for (std::string_view line : Split(text, '\n')) {
    for (std::string_view part : Split(line, ' ')) {
      if (part == word) return true;
    }
  }
  return false;
}

Status MakeFolder(const std::string& path) {
  if (mkdir(path.c_str(), 0755) == 0 || errno == EEXIST) return {};
  return os::ErrnoError("mkdir", path, errno);
}

// The caller's own path in the v1 hierarchy of a controller.
std::string OwnPath(std::string_view self_cgroup, std::string_view controller) {
  for (std::string_view line : Split(self_cgroup, '\n')) {
    const auto first = line.find(':');
    const auto second = line.find(':', first + 1);
    if (first == std::string_view::npos || second == std::string_view::npos) continue;
    for (std::string_view name : Split(line.substr(first + 1, second - first - 1), ',')) {
      if (name == controller) return std::string(line.substr(second + 1));
    }
  }
  return "/";
}

// Where the parent of leaves goes in a v1 hierarchy: below the caller's own group, so that what
// limits the caller limits his instances too.
std::string V1Parent(const CgroupMounts& mounts, std::string_view self_cgroup,
                     const std::string& controller, const std::string& parent) {
  const auto found = mounts.v1.find(controller);
  if (found == mounts.v1.end()) return {};
  std::string own = OwnPath(self_cgroup, controller);
  const std::string& root = found->second.root;
  if (root != "/" && own.compare(0, root.size(), root) == 0) own = own.substr(root.size());
  std::string folder = found->second.point + (own == "/" ? "" : own);
  if (access(folder.c_str(), W_OK) != 0) folder = found->second.point;
  return folder + "/" + parent;
}

std::string QuotaText(std::uint32_t cpu_millis) {
  return std::to_string(std::uint64_t{cpu_millis} * kPeriodMicros / 1000);
}

}  // namespace

CgroupMounts ParseCgroupMounts(std::string_view mountinfo) {
  CgroupMounts mounts;
  for (std::string_view line : Split(mountinfo, '\n')) {
    const auto fields = Split(line, ' ');
    std::size_t dash = 6;
    while (dash < fields.size() && fields[dash] != "-") ++dash;
    if (fields.size() < 6 || dash + 3 >= fields.size()) continue;
    const std::string_view type = fields[dash + 1];
    if (type == "cgroup2" && mounts.unified.empty()) {
      mounts.unified = Unescape(fields[4]);
      mounts.unified_root = Unescape(fields[3]);
    } else if (type == "cgroup") {
      for (std::string_view option : Split(fields[dash + 3], ',')) {
        if (option == "cpu" || option == "memory") {
          mounts.v1.emplace(option,
                            CgroupMounts::Mounted{Unescape(fields[4]), Unescape(fields[3])});
        }
      }
    }
  }
  return mounts;
}

Result<Cgroups> Cgroups::Detect(const std::string& parent) {
  os::Files& files = os::PosixFiles();
  TRY(const std::string mountinfo, files.Read("/proc/self/mountinfo"));
  TRY(const std::string own, files.Read("/proc/self/cgroup"));
  const CgroupMounts mounts = ParseCgroupMounts(mountinfo);
  if (mounts.unified.empty()) {
    return Error(Code::kFailedPrecondition, "no unified (v2) cgroup hierarchy is mounted");
  }
  Cgroups result;
  result.folder_ = mounts.unified + "/" + parent;
  result.path_ = (mounts.unified_root == "/" ? "" : mounts.unified_root) + "/" + parent;
  TRY_STATUS(MakeFolder(result.folder_));
  // Processes and controllers for children exclude each other in one group: supervisors get a leaf
  // of their own.
  const std::string supervisors = result.folder_ + "/.supervisors";
  TRY_STATUS(MakeFolder(supervisors));
  result.supervisors_procs_ = supervisors + "/cgroup.procs";
  const std::string available = files.Read(mounts.unified + "/cgroup.controllers").value_or("");
  const auto enable = [&](const char* controller) {
    if (!HasWord(available, controller)) return false;
    const std::string request = std::string("+") + controller;
    for (const std::string& folder : {mounts.unified, result.folder_}) {
      const std::string control = folder + "/cgroup.subtree_control";
      if (HasWord(files.Read(control).value_or(""), controller)) continue;
      if (!files.Poke(control, request)) return false;
    }
    return true;
  };
  result.cpu_v2_ = enable("cpu");
  result.memory_v2_ = enable("memory");
  if (!result.cpu_v2_) result.cpu_v1_ = V1Parent(mounts, own, "cpu", parent);
  if (!result.memory_v2_) result.memory_v1_ = V1Parent(mounts, own, "memory", parent);
  return result;
}

CgroupLeaf Cgroups::LeafOf(const std::string& id, bool cpu_limited, bool ram_limited) const {
  CgroupLeaf leaf;
  leaf.path = path_ + "/" + id;
  leaf.unified = folder_ + "/" + id;
  leaf.folders = {leaf.unified};
  if (cpu_limited && !cpu_v1_.empty()) leaf.folders.push_back(cpu_v1_ + "/" + id);
  if (ram_limited && memory_v2_) leaf.memory_events.push_back(leaf.unified + "/memory.events");
  if (ram_limited && !memory_v1_.empty()) {
    leaf.folders.push_back(memory_v1_ + "/" + id);
    leaf.memory_events.push_back(memory_v1_ + "/" + id + "/memory.oom_control");
  }
  for (const std::string& folder : leaf.folders) leaf.procs.push_back(folder + "/cgroup.procs");
  return leaf;
}

Result<std::vector<std::string>> Cgroups::Make(const CgroupLeaf& leaf, const std::string& id,
                                               std::uint32_t cpu_millis,
                                               std::uint64_t ram_bytes) const {
  os::Files& files = os::PosixFiles();
  TRY_STATUS(MakeFolder(leaf.unified));
  for (const std::string& folder : leaf.folders) {
    if (folder == leaf.unified) continue;
    TRY_STATUS(MakeFolder(folder.substr(0, folder.rfind('/'))));
    TRY_STATUS(MakeFolder(folder));
  }
  std::vector<std::string> unenforced;
  const auto note = [&](const char* what, const Status& status, bool possible) {
    if (!possible) {
      unenforced.push_back(std::string(what) + ": this machine has no controller for it");
    } else if (!status) {
      unenforced.push_back(std::string(what) + ": " + status.error().message());
    }
  };
  if (cpu_millis > 0) {
    Status done;
    if (cpu_v2_) {
      done = files.Poke(leaf.unified + "/cpu.max",
                        QuotaText(cpu_millis) + " " + std::to_string(kPeriodMicros));
    } else if (!cpu_v1_.empty()) {
      const std::string folder = cpu_v1_ + "/" + id;
      done = files.Poke(folder + "/cpu.cfs_period_us", std::to_string(kPeriodMicros));
      if (done) done = files.Poke(folder + "/cpu.cfs_quota_us", QuotaText(cpu_millis));
    }
    note("cpu", done, cpu_v2_ || !cpu_v1_.empty());
  }
  if (ram_bytes > 0) {
    Status done;
    const std::string text = std::to_string(ram_bytes);
    if (memory_v2_) {
      done = files.Poke(leaf.unified + "/memory.max", text);
      // The whole instance goes at once instead of losing a process it cannot do without.
      if (done) done = files.Poke(leaf.unified + "/memory.oom.group", "1");
      if (done && files.Exists(leaf.unified + "/memory.swap.max")) {
        done = files.Poke(leaf.unified + "/memory.swap.max", "0");
      }
    } else if (!memory_v1_.empty()) {
      const std::string folder = memory_v1_ + "/" + id;
      done = files.Poke(folder + "/memory.limit_in_bytes", text);
      if (done && files.Exists(folder + "/memory.memsw.limit_in_bytes")) {
        done = files.Poke(folder + "/memory.memsw.limit_in_bytes", text);
      }
    }
    note("ram", done, memory_v2_ || !memory_v1_.empty());
  }
  return unenforced;
}

Result<std::string> UnifiedFolder(const std::string& path) {
  TRY(const std::string mountinfo, os::PosixFiles().Read("/proc/self/mountinfo"));
  const CgroupMounts mounts = ParseCgroupMounts(mountinfo);
  const std::string root = mounts.unified_root == "/" ? "" : mounts.unified_root;
  if (mounts.unified.empty() || path.compare(0, root.size(), root) != 0) {
    return Error(Code::kNotFound, path + " is in no unified hierarchy mounted here");
  }
  return mounts.unified + path.substr(root.size());
}

Status FreezeCgroup(const std::string& unified_leaf, bool frozen) {
  os::Files& files = os::PosixFiles();
  if (!files.Exists(unified_leaf + "/cgroup.freeze")) {
    return Error(Code::kFailedPrecondition, unified_leaf + " has no freezer");
  }
  return files.Poke(unified_leaf + "/cgroup.freeze", frozen ? "1" : "0");
}

bool IsFrozen(const std::string& unified_leaf) {
  return os::PosixFiles().Read(unified_leaf + "/cgroup.events").value_or("").find("frozen 1") !=
         std::string::npos;
}

Status KillCgroup(const std::string& unified_leaf, int wait_millis) {
  os::Files& files = os::PosixFiles();
  if (unified_leaf.empty() || !files.Exists(unified_leaf)) return {};
  const Status killed = files.Poke(unified_leaf + "/cgroup.kill", "1");
  if (!killed && killed.error().code() != Code::kNotFound) return killed.error();
  const os::Clock& clock = os::RealClock();
  const std::int64_t until = clock.MonotonicNanos() + std::int64_t{wait_millis} * 1'000'000;
  while (true) {
    const auto procs = files.Read(unified_leaf + "/cgroup.procs");
    if (!procs || procs->empty()) {
      const auto events = files.Read(unified_leaf + "/cgroup.events");
      if (!events || events->find("populated 1") == std::string::npos) return {};
    }
    if (clock.MonotonicNanos() > until) {
      return Error(Code::kDeadlineExceeded, unified_leaf + " still has processes " +
                                                std::to_string(wait_millis) + " ms after the kill");
    }
    clock.SleepNanos(kRemovePauseNanos / 2);
  }
}

Status RemoveCgroups(const std::vector<std::string>& folders) {
  for (const std::string& folder : folders) {
    for (int i = 0;; ++i) {
      if (rmdir(folder.c_str()) == 0 || errno == ENOENT) break;
      if (errno != EBUSY || i == kRemoveTries) return os::ErrnoError("rmdir", folder, errno);
      os::RealClock().SleepNanos(kRemovePauseNanos);
    }
  }
  return {};
}

}  // namespace tessera::runtime
