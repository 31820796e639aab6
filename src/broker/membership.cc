#include "broker/membership.h"

#include <algorithm>

namespace tessera::broker {

Status Membership::AddCgroup(const std::string& slice, const std::string& path) {
  if (path.size() < 2 || path[0] != '/' || path.back() == '/' ||
      path.find("//") != std::string::npos) {
    return Error::Field(
        "cgroup", "expected an absolute path below the root of the hierarchy, got '" + path + "'");
  }
  const std::lock_guard lock(mutex_);
  const auto [at, added] = cgroups_.emplace(path, slice);
  if (!added && at->second != slice) {
    return Error(Code::kAlreadyExists, "cgroup " + path + " belongs to slice " + at->second);
  }
  return {};
}

Status Membership::AddRoot(const std::string& slice, const os::ProcessId& root) {
  const std::lock_guard lock(mutex_);
  for (const auto& [other, roots] : roots_) {
    if (other != slice && std::find(roots.begin(), roots.end(), root) != roots.end()) {
      return Error(Code::kAlreadyExists,
                   "process " + std::to_string(root.pid) + " is the root of slice " + other);
    }
  }
  auto& roots = roots_[slice];
  if (std::find(roots.begin(), roots.end(), root) != roots.end()) return {};
  std::erase_if(roots, [&](const os::ProcessId& id) {
    const auto now = kernel_.identify(id.pid);
    return !now || *now != id;
  });
  if (roots.size() >= kRootsPerSliceMax) {
    return Error(Code::kResourceExhausted,
                 "slice " + slice + ": kRootsPerSliceMax (256) root processes live");
  }
  roots.push_back(root);
  return {};
}

void Membership::RemoveSlice(const std::string& slice) {
  const std::lock_guard lock(mutex_);
  std::erase_if(cgroups_, [&](const auto& item) { return item.second == slice; });
  roots_.erase(slice);
}

std::optional<std::string> Membership::SliceOf(pid_t pid, const Known* known) const {
  const std::lock_guard lock(mutex_);
  if (!cgroups_.empty()) {
    if (auto found = kernel_.cgroup(pid)) {
      std::string path = *std::move(found);
      while (path.size() > 1) {
        if (const auto at = cgroups_.find(path); at != cgroups_.end()) return at->second;
        path.resize(path.rfind('/'));
      }
    }
  }
  if (roots_.empty()) return std::nullopt;
  // A child is younger than its parent; a parent that began later took over a reused pid.
  std::optional<std::uint64_t> child_start;
  for (int depth = 0; depth < kAncestryMax && pid > 0; ++depth) {
    const bool told = depth == 0 && known != nullptr;
    const auto id = told ? Result<os::ProcessId>(known->process) : kernel_.identify(pid);
    if (!id) return std::nullopt;
    if (child_start && id->start_time > *child_start) return std::nullopt;
    child_start = id->start_time;
    for (const auto& [slice, roots] : roots_) {
      if (std::find(roots.begin(), roots.end(), *id) != roots.end()) return slice;
    }
    const auto parent = told ? Result<pid_t>(known->parent) : kernel_.parent(pid);
    if (!parent) return std::nullopt;
    pid = *parent;
  }
  return std::nullopt;
}

std::vector<os::ProcessId> Membership::LiveRoots(const std::string& slice) {
  const std::lock_guard lock(mutex_);
  const auto at = roots_.find(slice);
  if (at == roots_.end()) return {};
  std::erase_if(at->second, [&](const os::ProcessId& id) {
    const auto now = kernel_.identify(id.pid);
    return !now || *now != id;
  });
  return at->second;
}

}  // namespace tessera::broker
