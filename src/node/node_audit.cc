// Node: the driver's word against the ledger, once a second, for every process on a managed card.
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>

#include "base/log.h"
#include "node/node.h"
#include "os/error.h"
#include "os/process.h"
#include "runtime/cgroups.h"

namespace tessera::node {

namespace {

// By pidfd where the kernel has one, so that a pid that was given to somebody else is never hit.
Status Signal(const os::ProcessId& process, int signal) {
  if (process.pid <= 1 || process.pid == getpid()) {
    return Error(Code::kFailedPrecondition, "the node does not signal init or itself");
  }
  const auto pidfd = os::OpenPidfd(process.pid);
  if (!os::IsAlive(process)) return {};
  const long sent = pidfd ? syscall(SYS_pidfd_send_signal, pidfd->get(), signal, nullptr, 0)
                          : kill(process.pid, signal);
  if (sent != 0 && errno != ESRCH)
    return os::ErrnoError("signal", std::to_string(process.pid), errno);
  return {};
}

bool IsStopped(pid_t pid) {
  const std::string text =
      os::PosixFiles().Read("/proc/" + std::to_string(pid) + "/stat").value_or("");
  const auto end = text.rfind(')');
  return end != std::string::npos && end + 2 < text.size() && text[end + 2] == 'T';
}

}  // namespace

// The ledger page is the tenant's to scribble on; the driver's figure is not. What a slice holds
// past it as a whole is said aloud and counted; what single processes do is the auditor's.
void Node::Audit() {
  const std::vector<SliceView> slices = Slices();
  for (const SliceView& slice : slices) {
    bool over = false;
    for (const broker::CardAudit& card : slice.audit) {
      if (!card.driver || !card.settled) continue;
      if (*card.driver <= card.recomputed + AuditSlack(card.recomputed)) continue;
      over = true;
      bool again = false;
      {
        const std::lock_guard lock(mutex_);
        again = overruns_[slice.id].last;
        if (again) ++overruns_[slice.id].count;
      }
      if (again) {
        Log(LogLevel::kWarn, "slice.overrun",
            {{"slice", slice.id},
             {"card", card.uuid},
             {"driver_bytes", *card.driver},
             {"ledger_bytes", card.recomputed}});
      }
    }
    const std::lock_guard lock(mutex_);
    if (over || overruns_.contains(slice.id)) overruns_[slice.id].last = over;
  }
  SampleActivity(slices);
  AuditProcesses(slices);
  const std::lock_guard lock(mutex_);
  std::erase_if(overruns_, [this](const auto& item) { return !entries_.contains(item.first); });
}

// Remembers when a slice last submitted something. The counts are the tenant's own word.
void Node::SampleActivity(const std::vector<SliceView>& slices) {
  const std::int64_t now = clock_.MonotonicNanos();
  const std::lock_guard lock(mutex_);
  for (const SliceView& slice : slices) {
    Activity& activity = activity_[slice.id];
    std::map<pid_t, std::uint64_t> launches;
    for (const broker::AttachedProcess& process : slice.processes) {
      const pid_t pid = process.process.pid;
      launches[pid] = process.launches;
      const auto before = activity.launches.find(pid);
      if (process.launches > (before == activity.launches.end() ? 0 : before->second))
        activity.last = now;
    }
    activity.launches = std::move(launches);
  }
  std::erase_if(activity_, [this](const auto& item) { return !entries_.contains(item.first); });
}

std::map<Node::SliceCard, std::uint32_t> Node::SampleTurns(const std::vector<SliceView>& slices) {
  std::map<SliceCard, std::uint32_t> over;
  std::map<SliceCard, Served> fresh;
  std::map<std::string, std::map<pid_t, std::uint32_t>> busy;
  {
    const std::lock_guard lock(mutex_);
    busy = busy_time_;
  }
  for (const SliceView& slice : slices) {
    for (const broker::TurnService& turns : slice.turns) {
      const SliceCard key{slice.id, turns.card};
      const std::lock_guard lock(mutex_);
      const auto known = served_.find(key);
      const Served before = known == served_.end() ? Served{} : known->second;
      Served& served = fresh[key];
      served.nanos = turns.served_nanos;
      served.at = turns.now;
      if (before.at != 0 && turns.now > before.at && turns.served_nanos >= before.nanos) {
        served.permille = static_cast<std::uint32_t>(
            std::min<std::uint64_t>((turns.served_nanos - before.nanos) * 1000 /
                                        static_cast<std::uint64_t>(turns.now - before.at),
                                    1000));
      }
      const auto of_card = busy.find(turns.card);
      if (of_card == busy.end()) continue;
      std::uint32_t used = 0;
      for (const auto& [pid, permille] : of_card->second) {
        const bool attached = std::any_of(slice.processes.begin(), slice.processes.end(),
                                          [pid = pid](const broker::AttachedProcess& process) {
                                            return process.process.pid == pid;
                                          });
        if (attached) used += permille;
      }
      served.busy_permille = std::min(used, 1000u);
      // The driver's window may lie up to one of ours back.
      const std::uint32_t given = std::max(served.permille, before.permille);
      const bool judged = turns.gated_since != 0 && before.at != 0 &&
                          turns.now - turns.gated_since >= options_.audit.turns_settle_nanos;
      if (judged && *served.busy_permille > given) over[key] = *served.busy_permille - given;
    }
  }
  const std::lock_guard lock(mutex_);
  served_ = std::move(fresh);
  return over;
}

std::optional<Permille> Node::BusyOf(const std::string& slice, const std::string& card) const {
  const std::lock_guard lock(mutex_);
  const auto at = served_.find({slice, card});
  if (at == served_.end() || !at->second.busy_permille) return std::nullopt;
  return Permille{*at->second.busy_permille};
}

void Node::AuditProcesses(const std::vector<SliceView>& slices) {
  const std::map<SliceCard, std::uint32_t> over_turns = SampleTurns(slices);
  std::map<std::string, std::map<pid_t, std::optional<std::uint64_t>>> sampled;
  std::map<std::string, std::map<pid_t, std::uint32_t>> busy;
  std::map<std::string, std::set<pid_t>> outside;  // of the card's MPS daemon
  {
    const std::lock_guard lock(mutex_);
    sampled = sampled_;
    busy = busy_time_;
    for (const auto& [card, processes] : sampled) {
      for (const auto& [pid, bytes] : processes) {
        if (OutsideMps(card, pid)) outside[card].insert(pid);
      }
    }
  }
  struct Session {
    const SliceView* slice;
    const broker::AttachedProcess* process;
  };
  std::map<pid_t, Session> sessions;
  std::map<std::string, const SliceView*> by_id;
  for (const SliceView& slice : slices) {
    by_id[slice.id] = &slice;
    for (const broker::AttachedProcess& process : slice.processes) {
      sessions[process.process.pid] = {&slice, &process};
    }
  }
  std::set<std::string> frozen_groups;
  for (const SliceView& slice : slices) {
    if (!slice.contained) continue;
    const auto folder = runtime::UnifiedFolder(slice.cgroup);
    if (folder && runtime::IsFrozen(*folder)) frozen_groups.insert(slice.id);
  }
  std::vector<CardHolder> holders;
  std::map<std::string, std::uint64_t> strangers;
  for (const auto& [card, processes] : sampled) {
    strangers[card] = 0;
    for (const auto& [pid, bytes] : processes) {
      // Gone since the sample, or one the node itself started to measure with.
      const auto process = os::IdentifyProcess(pid);
      if (!process || pid == getpid() || mps_.Owns(pid)) continue;
      CardHolder holder{*process, card, "", false, bytes, 0};
      if (const auto used = busy[card].find(pid); used != busy[card].end()) {
        holder.busy_permille = used->second;
      }
      const auto session = sessions.find(pid);
      if (session != sessions.end() && session->second.process->process == *process) {
        const SliceView& slice = *session->second.slice;
        holder.slice = slice.id;
        for (std::size_t i = 0; i < slice.shares.size() && i < session->second.process->used.size();
             ++i) {
          if (slice.shares[i].card_uuid != card) continue;
          // In spatial isolation a session alone is not enough: it has to be a client.
          holder.session = !outside[card].contains(pid);
          if (const auto over = over_turns.find({slice.id, card}); over != over_turns.end()) {
            holder.over_turns_permille = over->second;
          }
          holder.ledger = session->second.process->used[i];
        }
      } else if (const auto slice = broker_->SliceOf(pid)) {
        holder.slice = *slice;
      } else {
        ++strangers[card];
      }
      holder.stopped = IsStopped(pid) || frozen_groups.contains(holder.slice);
      holders.push_back(std::move(holder));
    }
  }
  const std::int64_t now = clock_.MonotonicNanos();
  std::vector<Verdict> verdicts;
  {
    const std::lock_guard lock(mutex_);
    audit_.strangers = std::move(strangers);
    verdicts = auditor_.Judge(holders, now);
  }
  std::set<pid_t> dismissed;
  for (const Verdict& verdict : verdicts) {
    if (dismissed.contains(verdict.holder.process.pid)) continue;
    const auto slice = by_id.find(verdict.holder.slice);
    if (CarryOut(verdict, slice == by_id.end() ? nullptr : slice->second, now)) continue;
    dismissed.insert(verdict.holder.process.pid);
    const std::lock_guard lock(mutex_);
    auditor_.Dismiss(verdict.holder.process);
  }
}

// The sample and the ledger were read one after the other, and a program that allocates and frees
// all the time may be between them. The ledger is charged before the driver takes and given back
// after it has freed, so of a stopped program both must agree.
bool Node::StillOver(const CardHolder& holder) {
  const auto ledger = [&]() -> std::optional<std::uint64_t> {
    const auto slice = GetSlice(holder.slice);
    if (!slice) return std::nullopt;
    for (const broker::AttachedProcess& process : slice->processes) {
      if (process.process != holder.process) continue;
      for (std::size_t i = 0; i < slice->shares.size() && i < process.used.size(); ++i) {
        if (slice->shares[i].card_uuid == holder.card) return process.used[i];
      }
    }
    return std::nullopt;
  };
  const auto before = ledger();
  const auto driver = DriverBytes(holder.card, holder.process.pid);
  const auto after = ledger();
  if (!before || !driver || !after) return false;
  const std::uint64_t held = std::max(*before, *after);
  return *driver > held + AuditSlack(held);
}

// False: a closer look found the process in order.
bool Node::CarryOut(const Verdict& verdict, const SliceView* slice, std::int64_t now) {
  constexpr int kLooks = 3;  // without stopping it
  constexpr std::int64_t kStopWaitNanos = 100'000'000;
  const os::ProcessId& process = verdict.holder.process;
  const bool over = verdict.finding == AuditFinding::kOverLedger;
  std::string how = "told";
  Status done;
  if (verdict.step == AuditAction::kReport && over) {
    for (int i = 0; i < kLooks; ++i) {
      if (!StillOver(verdict.holder)) return false;
    }
  } else if (verdict.step == AuditAction::kFreeze) {
    // The freezer takes the whole instance: a tenant can wake a stopped process of his, not a
    // frozen group.
    std::string folder;
    if (slice != nullptr && slice->contained) {
      if (auto found = runtime::UnifiedFolder(slice->cgroup)) folder = *std::move(found);
    }
    how = "cgroup";
    if (folder.empty() || !runtime::FreezeCgroup(folder, true)) {
      how = "signal";
      folder.clear();
      done = Signal(process, SIGSTOP);
    }
    if (done && over) {
      const auto stopped = [&] {
        return folder.empty() ? IsStopped(process.pid) : runtime::IsFrozen(folder);
      };
      const std::int64_t until = clock_.MonotonicNanos() + kStopWaitNanos;
      while (!stopped() && clock_.MonotonicNanos() < until) clock_.SleepNanos(1'000'000);
      if (!stopped() || !StillOver(verdict.holder)) {
        const Status resumed =
            folder.empty() ? Signal(process, SIGCONT) : runtime::FreezeCgroup(folder, false);
        Log(resumed ? LogLevel::kInfo : LogLevel::kError, "audit.cleared",
            {{"slice", verdict.holder.slice}, {"pid", static_cast<std::int64_t>(process.pid)}});
        const std::lock_guard lock(mutex_);
        ++audit_.cleared;
        return false;
      }
    }
  } else if (verdict.step == AuditAction::kEvict) {
    how = "signal";
    done = Signal(process, SIGKILL);
  }
  {
    const std::lock_guard lock(mutex_);
    if (done && verdict.step == AuditAction::kFreeze)
      auditor_.Frozen(process, verdict.finding, now);
    if (verdict.step == AuditAction::kReport) {
      ++audit_.findings[std::string(AuditFindingName(verdict.finding))];
    }
    if (done && verdict.step == AuditAction::kFreeze) ++audit_.frozen;
    if (done && verdict.step == AuditAction::kEvict) ++audit_.evicted;
  }
  const char* event = verdict.step == AuditAction::kReport   ? "audit.found"
                      : verdict.step == AuditAction::kFreeze ? "audit.frozen"
                                                             : "audit.evicted";
  Log(done ? LogLevel::kWarn : LogLevel::kError, done ? event : "audit.failed",
      {{"finding", std::string(AuditFindingName(verdict.finding))},
       {"slice", verdict.holder.slice},
       {"pid", static_cast<std::int64_t>(process.pid)},
       {"card", verdict.holder.card},
       {"driver_bytes", verdict.holder.driver.value_or(0)},
       {"ledger_bytes", verdict.holder.ledger},
       {"busy_permille", verdict.holder.busy_permille},
       {"over_turns_permille", verdict.holder.over_turns_permille},
       {"by", how},
       {"error", done ? std::string() : done.error().ToString()}});
  return true;
}

AuditCounts Node::audit() const {
  const std::lock_guard lock(mutex_);
  return audit_;
}

std::optional<std::int64_t> Node::LastKernelNanos(const std::string& slice) const {
  const std::lock_guard lock(mutex_);
  const auto at = activity_.find(slice);
  if (at == activity_.end() || !at->second.last) return std::nullopt;
  return clock_.MonotonicNanos() - *at->second.last;
}

}  // namespace tessera::node
