// Node: instances, from reservation to exit status.
#include <algorithm>

#include "base/log.h"
#include "node/id_lock.h"
#include "node/node.h"

namespace tessera::node {
namespace {

Error NoInstance(const std::string& id) {
  return Error(Code::kNotFound, "instance " + id + " does not exist");
}

}  // namespace

InstanceView Node::ViewInstance(const Record& record) {
  InstanceView view;
  view.id = record.id;
  view.generation = record.generation;
  view.phase = record.phase;
  view.shares = record.shares;
  view.cpu_millis = record.workload.cpu_millis;
  view.ram_bytes = record.workload.ram_bytes;
  view.memo = record.memo;
  view.exit_code = record.exit_code;
  view.started_wall_micros = record.started_wall_micros;
  view.ended_wall_micros = record.ended_wall_micros;
  if (const auto usage = broker_->Usage(record.id)) {
    for (const auto& card : *usage) view.used_bytes += card.used;
  }
  return view;
}

Result<InstanceView> Node::PutInstance(const std::string& id, std::uint64_t generation,
                                       const std::vector<device::Share>& shares,
                                       const runtime::Workload& workload, const std::string& memo) {
  TRY_STATUS(broker::CheckSliceId(id));
  if (generation == 0) return Error::Field("generation", "expected at least 1");
  if (memo.size() > kMemoBytesMax) {
    return Error::Field("memo", "expected at most kMemoBytesMax (262144) bytes");
  }
  if (options_.runner == nullptr) return Error(Code::kUnimplemented, "this node runs no instances");
  const IdLock id_lock(*this, id);
  if (!id_lock.held()) return id_lock.Busy();
  bool replaces = false;
  {
    const std::lock_guard lock(mutex_);
    if (const auto at = entries_.find(id); at != entries_.end()) {
      const Entry& entry = at->second;
      const Record& known = entry.record;
      if (known.owner != Owner::kInstance) {
        return Error(Code::kAlreadyExists,
                     id + " is the slice of a " + std::string(OwnerName(known.owner)));
      }
      if (entry.releasing)
        return Error(Code::kUnavailable, "instance " + id + " is being taken back; try again");
      if (generation < known.generation) {
        return Error(Code::kAborted, "instance " + id + ": generation " +
                                         std::to_string(generation) + " is older than the known " +
                                         std::to_string(known.generation));
      }
      if (generation == known.generation) {
        if (shares != known.shares || !SameWorkload(workload, known.workload)) {
          return Error(Code::kAlreadyExists, "instance " + id +
                                                 " has another content at generation " +
                                                 std::to_string(generation));
        }
        return ViewInstance(known);
      }
      if (known.phase != Phase::kExited || !entry.released) {
        return Error(Code::kFailedPrecondition, "instance " + id + " still runs at generation " +
                                                    std::to_string(known.generation));
      }
      replaces = true;
    }
    TRY_STATUS(CheckShares(shares));
    TRY_STATUS(CheckFits(id, shares, workload.cpu_millis, workload.ram_bytes));
  }
  // The log and folder of the earlier generation go before the new one is reserved: a failure
  // changes nothing.
  if (replaces) TRY_STATUS(options_.runner->Remove(id));
  {
    const std::lock_guard lock(mutex_);
    // Others may have reserved meanwhile.
    TRY_STATUS(CheckFits(id, shares, workload.cpu_millis, workload.ram_bytes));
    Record record;
    record.id = id;
    record.generation = generation;
    record.owner = Owner::kInstance;
    record.phase = Phase::kStarting;
    record.shares = shares;
    record.boot_id = options_.boot_id;
    record.created_wall_micros = clock_.WallMicros();
    record.workload = workload;
    record.memo = memo;
    // What a driver pins for a process is not always counted by its cgroup, and is of the RAM it
    // rents all the same. Less than a page would be no limit but a mistake.
    if (workload.ram_bytes >= wire::kHostGranuleBytes) {
      record.terms.pinned_bytes = workload.ram_bytes;
    }
    TRY_STATUS(Insert(std::move(record)));
  }
  TRY_STATUS(Establish(id));

  runtime::Spec spec;
  spec.id = id;
  spec.generation = generation;
  spec.workload = workload;
  spec.binds = options_.instance_binds;
  spec.environment = options_.instance_environment;
  std::string visible;
  for (const device::Share& share : shares)
    visible += (visible.empty() ? "" : ",") + share.card_uuid;
  spec.environment.push_back("CUDA_VISIBLE_DEVICES=" + visible);
  AddMpsAccess(id, shares, &spec);
  // Its processes may ask for their slice before we know their cgroup or supervisor.
  const auto announcement = broker_->Announce();
  auto report = options_.runner->Start(spec);
  if (!report && report.error().code() == Code::kAlreadyExists) {
    // A leftover of this id that no record spoke for.
    if (auto found = options_.runner->Inspect(id); found && found->generation == generation) {
      report = std::move(found);
    } else if (found && found->state == runtime::State::kEnded && options_.runner->Remove(id)) {
      report = options_.runner->Start(spec);
    }
  }
  if (!report) {
    (void)Undo(id);
    return report.error();
  }
  if (const Status adopted = Adopt(id, *report); !adopted) {
    // It runs, but its processes could not be given their slice: nobody may run outside the ledger.
    if (options_.runner->Stop(id, 0)) (void)options_.runner->Remove(id);
    (void)Undo(id);
    return adopted.error();
  }
  Log(LogLevel::kInfo, "instance.started", {{"instance", id}, {"generation", generation}});
  if (report->state == runtime::State::kEnded) return Settle(id, *report);
  return GetInstance(id);
}

// Registers a running instance's processes with the broker and remembers how to find them again. A
// record that cannot be written now is written by Tick(); until then a restart finds the instance
// through the runner.
Status Node::Adopt(const std::string& id, const runtime::Report& report) {
  if (report.state == runtime::State::kRunning) {
    if (!report.cgroup.empty()) {
      TRY_STATUS(broker_->AddCgroup(id, report.cgroup));
    } else {
      TRY_STATUS(broker_->AddRoot(id, report.supervisor));
    }
  }
  auto watch = options_.runner->WatchEnd(id);
  Record record;
  {
    const std::lock_guard lock(mutex_);
    Entry& entry = entries_.at(id);
    entry.record.phase = Phase::kRunning;
    entry.record.cgroup = report.cgroup;
    entry.record.roots.clear();
    if (report.cgroup.empty()) entry.record.roots.push_back(report.supervisor);
    entry.record.started_wall_micros = report.started_wall_micros;
    entry.record.boot_id = options_.boot_id;
    if (watch) entry.watch = std::move(*watch);
    record = entry.record;
  }
  const Status saved = records_.Save(record);
  if (!saved) {
    Log(LogLevel::kWarn, "record.not_saved",
        {{"instance", id}, {"error", saved.error().ToString()}});
    const std::lock_guard lock(mutex_);
    entries_.at(id).dirty = true;
  }
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = write(wake_.get(), &one, sizeof(one));
  return {};
}

// Takes over an ended instance's exit status, and gives its shares back once that is on disk and
// nobody is left.
Result<InstanceView> Node::Settle(const std::string& id, const runtime::Report& report) {
  Record record;
  {
    const std::lock_guard lock(mutex_);
    Entry& entry = entries_.at(id);
    if (entry.record.phase != Phase::kExited) {
      entry.record.phase = Phase::kExited;
      entry.record.exit_code = std::clamp(report.exit_code, 0, 255);
      entry.record.started_wall_micros = report.started_wall_micros;
      entry.record.ended_wall_micros = report.ended_wall_micros;
      entry.dirty = true;
      Log(LogLevel::kInfo, "instance.ended",
          {{"instance", id},
           {"exit_code", entry.record.exit_code},
           {"lost", report.lost},
           {"out_of_memory", report.out_of_memory}});
    }
    entry.watch.Close();
    record = entry.record;
    if (entry.released) return ViewInstance(record);
  }
  const auto work = [&]() -> Status {
    TRY_STATUS(records_.Save(record));
    // Without containment a process may have left the tree; it keeps its share until it ends.
    if (const auto processes = broker_->Processes(id)) {
      for (const auto& process : *processes) {
        if (os::IsAlive(process.process)) {
          return Error(Code::kFailedPrecondition,
                       "process " + std::to_string(process.process.pid) + " lives on");
        }
      }
    }
    TRY_STATUS(broker_->RemoveSlice(id));
    return LeaveMps(id, record.shares);
  };
  const Status done = work();
  const std::lock_guard lock(mutex_);
  Entry& entry = entries_.at(id);
  if (done) {
    entry.dirty = false;
    entry.released = true;
  }
  return ViewInstance(entry.record);
}

Result<InstanceView> Node::GetInstance(const std::string& id) {
  Record record;
  {
    const std::lock_guard lock(mutex_);
    const auto at = entries_.find(id);
    if (at == entries_.end() || at->second.record.owner != Owner::kInstance) return NoInstance(id);
    record = at->second.record;
  }
  return ViewInstance(record);
}

std::vector<InstanceView> Node::Instances() {
  std::vector<Record> records;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, entry] : entries_) {
      if (entry.record.owner == Owner::kInstance) records.push_back(entry.record);
    }
  }
  std::vector<InstanceView> views;
  for (const Record& record : records) views.push_back(ViewInstance(record));
  return views;
}

Result<InstanceView> Node::StopInstance(const std::string& id, std::uint64_t generation) {
  TRY_STATUS(broker::CheckSliceId(id));
  const IdLock id_lock(*this, id);
  if (!id_lock.held()) return id_lock.Busy();
  {
    const std::lock_guard lock(mutex_);
    const auto at = entries_.find(id);
    if (at == entries_.end() || at->second.record.owner != Owner::kInstance) return NoInstance(id);
    const Record& known = at->second.record;
    if (generation != 0 && generation < known.generation) {
      return Error(Code::kAborted, "instance " + id + ": generation " + std::to_string(generation) +
                                       " is older than the known " +
                                       std::to_string(known.generation));
    }
    if (at->second.released) return ViewInstance(known);
  }
  TRY(const auto report, options_.runner->Stop(id, options_.stop_grace_millis));
  return Settle(id, report);
}

Status Node::DeleteInstance(const std::string& id) {
  TRY_STATUS(broker::CheckSliceId(id));
  const IdLock id_lock(*this, id);
  if (!id_lock.held()) return id_lock.Busy();
  {
    const std::lock_guard lock(mutex_);
    const auto at = entries_.find(id);
    if (at == entries_.end()) return {};
    if (at->second.record.owner != Owner::kInstance) return NoInstance(id);
    if (!at->second.released) {
      return Error(Code::kFailedPrecondition, "instance " + id + " has not ended; stop it first");
    }
  }
  TRY_STATUS(options_.runner->Remove(id));
  TRY_STATUS(records_.Remove(id));
  const std::lock_guard lock(mutex_);
  entries_.erase(id);
  return {};
}

Result<runtime::LogChunk> Node::ReadLog(const std::string& id, std::uint64_t offset,
                                        std::size_t bytes_max) {
  TRY_STATUS(GetInstance(id) ? Status() : Status(NoInstance(id)));
  return options_.runner->ReadLog(id, offset, bytes_max);
}

Result<runtime::ExecOutcome> Node::Exec(const std::string& id, const std::vector<std::string>& argv,
                                        const std::string& stdin_bytes, int timeout_millis) {
  TRY(const InstanceView view, GetInstance(id));
  if (view.phase != Phase::kRunning)
    return Error(Code::kFailedPrecondition, "instance " + id + " does not run");
  return options_.runner->Exec(id, argv, stdin_bytes, timeout_millis);
}

}  // namespace tessera::node
