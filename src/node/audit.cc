#include "node/audit.h"

#include <algorithm>
#include <set>

namespace tessera::node {

std::string_view AuditActionName(AuditAction action) {
  switch (action) {
    case AuditAction::kReport:
      return "report";
    case AuditAction::kFreeze:
      return "freeze";
    case AuditAction::kEvict:
      return "evict";
  }
  return "";
}

Result<AuditAction> ParseAuditAction(const std::string& text, const std::string& field) {
  for (const AuditAction action :
       {AuditAction::kReport, AuditAction::kFreeze, AuditAction::kEvict}) {
    if (text == AuditActionName(action)) return action;
  }
  return Error::Field(field, "expected report, freeze or evict");
}

std::string_view AuditFindingName(AuditFinding finding) {
  switch (finding) {
    case AuditFinding::kNoSession:
      return "no_session";
    case AuditFinding::kOverLedger:
      return "over_ledger";
    case AuditFinding::kOverTurns:
      return "over_turns";
    case AuditFinding::kStranger:
      return "stranger";
  }
  return "";
}

namespace {
std::optional<AuditFinding> FindingOf(const CardHolder& holder) {
  if (holder.slice.empty()) return AuditFinding::kStranger;
  if (!holder.session) return AuditFinding::kNoSession;
  if (holder.driver && *holder.driver > holder.ledger + AuditSlack(holder.ledger))
    return AuditFinding::kOverLedger;
  if (std::min(holder.over_turns_permille, holder.busy_permille) > kOverTurnsPermille)
    return AuditFinding::kOverTurns;
  return std::nullopt;
}
}  // namespace

std::vector<Verdict> Auditor::Judge(const std::vector<CardHolder>& holders, std::int64_t now) {
  std::map<Key, Suspect> seen;
  std::set<std::pair<pid_t, std::uint64_t>> present;
  std::vector<Verdict> verdicts;
  for (const CardHolder& holder : holders) {
    const std::pair<pid_t, std::uint64_t> process{holder.process.pid, holder.process.start_time};
    present.insert(process);
    auto finding = FindingOf(holder);
    const auto frozen = frozen_.find(process);
    // A process that stands still uses no time; what it was stopped for holds on.
    if (!finding && holder.stopped && frozen != frozen_.end() &&
        frozen->second.finding == AuditFinding::kOverTurns) {
      finding = AuditFinding::kOverTurns;
    }
    if (!finding || seen.size() >= kAuditSuspectsMax) continue;
    const Key key{holder.process.pid, holder.process.start_time, holder.card};
    const auto before = suspects_.find(key);
    Suspect suspect = before == suspects_.end() ? Suspect{} : before->second;
    if (suspect.samples < kAuditSamples) ++suspect.samples;
    if (suspect.samples >= kAuditSamples) {
      if (!suspect.reported) verdicts.push_back({holder, *finding, AuditAction::kReport});
      suspect.reported = true;
      const AuditAction most = *finding == AuditFinding::kStranger    ? policy_.strangers
                               : *finding == AuditFinding::kOverTurns ? policy_.turns
                                                                      : policy_.members;
      if (most == AuditAction::kEvict && frozen != frozen_.end() &&
          now - frozen->second.since >= policy_.grace_nanos) {
        verdicts.push_back({holder, *finding, AuditAction::kEvict});
      } else if (most != AuditAction::kReport && (frozen == frozen_.end() || !holder.stopped)) {
        verdicts.push_back({holder, *finding, AuditAction::kFreeze});
      }
    }
    seen.emplace(key, suspect);
  }
  suspects_ = std::move(seen);
  std::erase_if(frozen_, [&](const auto& item) { return !present.contains(item.first); });
  return verdicts;
}

void Auditor::Frozen(const os::ProcessId& process, AuditFinding finding, std::int64_t now) {
  frozen_.emplace(std::pair{process.pid, process.start_time}, Stopped{now, finding});
}

void Auditor::Dismiss(const os::ProcessId& process) {
  std::erase_if(suspects_, [&](const auto& item) {
    return std::get<0>(item.first) == process.pid && std::get<1>(item.first) == process.start_time;
  });
}

}  // namespace tessera::node
