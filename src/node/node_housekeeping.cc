// Node: replaying records after a start, and the thread that notices ends and retries what failed.
#include <poll.h>
#include <unistd.h>

#include <algorithm>

#include "base/log.h"
#include "node/id_lock.h"
#include "node/node.h"

namespace tessera::node {

// ---- replay: no other thread is there yet ----

Status Node::Replay() {
  TRY(auto records, records_.Load());
  std::set<std::string> known;
  for (Record& record : records) {
    known.insert(record.id);
    const std::string id = record.id;
    if (auto replayed = ReplayOne(std::move(record)); !replayed)
      return replayed.error().Wrap("record of " + id);
  }
  // Pages without a record belong to a slice that was never announced, or whose removal was
  // interrupted.
  for (const std::string& id : broker_->PagesOnDisk()) {
    if (!known.contains(id)) TRY_STATUS(broker_->RemoveSlice(id));
  }
  if (options_.runner != nullptr) {
    TRY(const auto running, options_.runner->List());
    for (const auto& report : running) {
      if (known.contains(report.id) || report.state != runtime::State::kRunning) continue;
      // It has no slice, so its processes can reserve nothing; stopping it is for whoever lost the
      // state folder.
      Log(LogLevel::kError, "instance.unknown",
          {{"instance", report.id}, {"generation", report.generation}});
    }
  }
  return {};
}

Status Node::ReplayOne(Record record) {
  const std::string id = record.id;
  const bool same_boot = record.boot_id == options_.boot_id;
  {
    const std::lock_guard lock(mutex_);
    TRY_STATUS(Insert(record));
  }
  if (record.phase == Phase::kExited) {
    TRY_STATUS(broker_->RemoveSlice(id));
    const std::lock_guard lock(mutex_);
    entries_.at(id).released = true;
    return {};
  }
  std::optional<runtime::Report> report;
  if (record.owner == Owner::kInstance) {
    if (options_.runner == nullptr) {
      return Error(Code::kFailedPrecondition, "an instance is recorded and this node runs none");
    }
    if (auto found = options_.runner->Inspect(id);
        found && found->generation == record.generation) {
      report = *std::move(found);
    } else if (!found && found.error().code() != Code::kNotFound) {
      return found.error();
    }
    if (!report && record.phase == Phase::kStarting) {
      // The node died before the start; whoever asked was told nothing and asks again.
      Log(LogLevel::kInfo, "instance.never_started", {{"instance", id}});
      return Undo(id);
    }
    if (!report) {
      // Its folder is gone: what can be said is that it does not run.
      report = runtime::Report{};
      report->id = id;
      report->generation = record.generation;
      report->state = runtime::State::kEnded;
      report->exit_code = 137;
      report->lost = true;
      report->started_wall_micros = record.started_wall_micros;
      report->ended_wall_micros = clock_.WallMicros();
    }
    record.cgroup = report->cgroup;
    record.roots.clear();
    if (report->cgroup.empty() && report->supervisor.pid != 0)
      record.roots.push_back(report->supervisor);
  } else if (record.owner == Owner::kRun && !same_boot) {
    return Undo(id);
  }
  if (!same_boot && record.owner != Owner::kInstance) {
    record.roots.clear();
    record.cgroup.clear();
  }
  // Members by cgroup have their roots only as a sign of life, not as an identity.
  std::vector<std::string> cgroups;
  std::vector<os::ProcessId> roots;
  if (record.cgroup.empty()) {
    roots = record.roots;
  } else {
    cgroups.push_back(record.cgroup);
  }
  AdoptMps(id, record.shares);
  const auto limits = LimitsOf(id, record.shares);
  const std::uint64_t pinned = record.terms.pinned_bytes;
  Status pages = broker_->AdoptSlice(id, limits, cgroups, roots, pinned);
  if (!pages &&
      (pages.error().code() == Code::kNotFound || pages.error().code() == Code::kDataLoss)) {
    if (pages.error().code() == Code::kDataLoss) {
      Log(LogLevel::kError, "slice.pages_lost",
          {{"slice", id}, {"error", pages.error().ToString()}});
    }
    TRY_STATUS(broker_->RemoveSlice(id));
    pages = broker_->CreateSlice(id, limits, pinned);
    if (pages) {
      for (const std::string& path : cgroups) TRY_STATUS(broker_->AddCgroup(id, path));
      for (const os::ProcessId& root : roots) {
        if (os::IsAlive(root)) TRY_STATUS(broker_->AddRoot(id, root));
      }
    }
  }
  if (!pages) return pages;
  {
    const std::lock_guard lock(mutex_);
    entries_.at(id).record = record;
  }
  if (report && report->state == runtime::State::kRunning) {
    TRY_STATUS(Adopt(id, *report));
    Log(LogLevel::kInfo, "instance.adopted", {{"instance", id}, {"generation", record.generation}});
  } else if (report) {
    (void)Settle(id, *report);  // What fails is tried again by Tick().
  }
  return {};
}

// ---- the thread ----

void Node::Loop() {
  std::int64_t telemetry_at = 0;
  while (!stopping_.load()) {
    std::vector<pollfd> waits = {{wake_.get(), POLLIN, 0}};
    std::vector<os::Fd> copies;  // An entry may close its own while we wait.
    {
      const std::lock_guard lock(mutex_);
      for (const auto& [id, entry] : entries_) {
        if (!entry.watch) continue;
        copies.emplace_back(dup(entry.watch.get()));
        if (copies.back()) waits.push_back({copies.back().get(), POLLIN, 0});
      }
    }
    const int ready = poll(waits.data(), waits.size(), static_cast<int>(kTickNanos / 1'000'000));
    if (waits[0].revents != 0) {
      std::uint64_t ignored = 0;
      [[maybe_unused]] const ssize_t n = read(wake_.get(), &ignored, sizeof(ignored));
    }
    if (stopping_.load()) return;
    const std::int64_t now = clock_.MonotonicNanos();
    if (now >= telemetry_at) {
      RefreshTelemetry();
      Audit();
      telemetry_at = now + kTelemetryNanos;
    }
    Tick();
    // An end that cannot be settled yet leaves its descriptor readable; do not spin on it.
    if (ready > 0) clock_.SleepNanos(20'000'000);
  }
}

bool Node::EndedRun(const Entry& entry) {
  const std::string& id = entry.record.id;
  if (entry.record.phase == Phase::kStarting) {
    return clock_.MonotonicNanos() - entry.born > kOrphanNanos;
  }
  const auto& roots = entry.record.roots;
  if (std::any_of(roots.begin(), roots.end(),
                  [](const os::ProcessId& root) { return os::IsAlive(root); })) {
    return false;
  }
  const auto processes = broker_->Processes(id);
  if (processes && !processes->empty()) return false;
  if (entry.record.cgroup.empty() || !options_.cgroups) return true;
  const auto events = os::PosixFiles().Read(LeafOf(id).unified + "/cgroup.events");
  return !events || events->find("populated 1") == std::string::npos;
}

void Node::Tick() {
  mps_.Tick();
  std::vector<std::string> due;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, entry] : entries_) {
      const bool exited = entry.record.phase == Phase::kExited && !entry.released;
      bool ended = false;
      if (entry.record.owner == Owner::kInstance && entry.record.phase == Phase::kRunning) {
        pollfd look{entry.watch.get(), POLLIN, 0};
        ended = !entry.watch || poll(&look, 1, 0) > 0;
      } else if (entry.record.owner == Owner::kRun) {
        ended = EndedRun(entry);
      }
      if (entry.dirty || entry.releasing || exited || ended) due.push_back(id);
    }
  }
  for (const std::string& id : due) TickOne(id);
}

void Node::TickOne(const std::string& id) {
  const IdLock id_lock(*this, id, /*wait=*/false);
  if (!id_lock.held()) return;
  Record record;
  bool releasing = false;
  bool dirty = false;
  {
    const std::lock_guard lock(mutex_);
    const auto at = entries_.find(id);
    if (at == entries_.end()) return;
    record = at->second.record;
    dirty = at->second.dirty;
    releasing = at->second.releasing;
    if (!releasing && record.owner == Owner::kRun && EndedRun(at->second)) releasing = true;
  }
  if (releasing) {
    if (Undo(id)) Log(LogLevel::kInfo, "slice.released", {{"slice", id}});
    return;
  }
  if (record.owner == Owner::kInstance && record.phase != Phase::kStarting) {
    if (record.phase == Phase::kExited) {
      runtime::Report report;
      report.exit_code = record.exit_code;
      (void)Settle(id, report);
      return;
    }
    const auto report = options_.runner->Inspect(id);
    if (report && report->state == runtime::State::kEnded) {
      (void)Settle(id, *report);
      return;
    }
    if (report) {
      const std::lock_guard lock(mutex_);
      Entry& entry = entries_.at(id);
      if (!entry.watch) {
        if (auto watch = options_.runner->WatchEnd(id)) entry.watch = std::move(*watch);
      }
    }
  }
  if (!dirty || !records_.Save(record)) return;
  const std::lock_guard lock(mutex_);
  Entry& entry = entries_.at(id);
  entry.dirty = false;
  entry.held = entry.record.shares;
}

}  // namespace tessera::node
