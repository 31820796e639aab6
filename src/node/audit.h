// Who holds memory of a card past the ledger or uses its time past the turns, and what is done
// about it: the judgement alone, from samples. The node gathers the samples (node_audit.cc) and
// carries out what is decided.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "os/process.h"

namespace tessera::node {

inline constexpr int kAuditSamples = 2;  // in a row, a second apart, before anything is done
// A process may hold this much more by the driver's word than by its ledger; the larger of the two
// counts.
inline constexpr std::uint64_t kOverrunBytes = 64 * kMiB;
inline constexpr std::uint64_t kOverrunPercent = 1;
inline constexpr std::size_t kAuditSuspectsMax =
    8192;  // processes watched at a time; the rest waits for the next sample

// A slice may be this much busier by the driver's word than the turns have counted.
inline constexpr std::uint32_t kOverTurnsPermille = 100;
// A slice whose gate was shut later than this ago is not judged: what it had submitted before may
// still run.
inline constexpr std::int64_t kTurnsSettleNanos = 10'000'000'000;

constexpr std::uint64_t AuditSlack(std::uint64_t ledger) {
  const std::uint64_t part = ledger / 100 * kOverrunPercent;
  return part > kOverrunBytes ? part : kOverrunBytes;
}

enum class AuditAction {
  kReport,  // log and count
  kFreeze,  // and stop it, so that it submits nothing more; what it holds stays held
  kEvict,   // and kill it when it has been frozen for the grace time
};
std::string_view AuditActionName(AuditAction action);
Result<AuditAction> ParseAuditAction(const std::string& text, const std::string& field);

struct AuditPolicy {
  AuditAction members = AuditAction::kFreeze;  // processes of a slice or instance
  AuditAction strangers =
      AuditAction::kReport;  // everybody else: the card may be the machine owner's as well
  // Time past the turns: two clocks are compared that were not made to be, so by default it is only
  // told.
  AuditAction turns = AuditAction::kReport;
  std::int64_t grace_nanos = 30'000'000'000;
  std::int64_t turns_settle_nanos = kTurnsSettleNanos;
};

enum class AuditFinding {
  kNoSession,   // of a slice, on the card, and never asked the node
  kOverLedger,  // holds more than it reserved
  kOverTurns,   // uses the card at times the turns did not give its slice
  kStranger,    // of no slice
};
std::string_view AuditFindingName(AuditFinding finding);

// One process on one card in one sample.
struct CardHolder {
  os::ProcessId process;
  std::string card;
  std::string slice;                    // empty: of none
  bool session = false;                 // attached to that slice, and the card is the slice's
  std::optional<std::uint64_t> driver;  // nullopt: the driver does not say how much
  std::uint64_t ledger = 0;
  bool stopped = false;             // stands still already
  std::uint32_t busy_permille = 0;  // share of the card's time it used itself
  // ... and what its slice as a whole used beyond its turns. Which of a slice's processes goes past
  // them cannot be told, so every one that is busy enough to be it stands for the slice.
  std::uint32_t over_turns_permille = 0;
};

// What is to be done now. `step` is kReport once a finding, kFreeze in every sample until Frozen()
// was told, kEvict after the grace until the process is gone.
struct Verdict {
  CardHolder holder;
  AuditFinding finding = AuditFinding::kStranger;
  AuditAction step = AuditAction::kReport;
};

// Not thread-safe. Counts samples, not time, up to the freeze; `now` matters for the grace only.
class Auditor {
 public:
  explicit Auditor(AuditPolicy policy) : policy_(policy) {}
  std::vector<Verdict> Judge(const std::vector<CardHolder>& holders, std::int64_t now);
  void Frozen(const os::ProcessId& process, AuditFinding finding, std::int64_t now);
  // A closer look found nothing wrong: the process is no suspect any more.
  void Dismiss(const os::ProcessId& process);
  const AuditPolicy& policy() const { return policy_; }

 private:
  struct Suspect {
    int samples = 0;
    bool reported = false;
  };
  using Key = std::tuple<pid_t, std::uint64_t, std::string>;
  AuditPolicy policy_;
  std::map<Key, Suspect> suspects_;
  struct Stopped {
    std::int64_t since = 0;
    AuditFinding finding = AuditFinding::kStranger;
  };
  std::map<std::pair<pid_t, std::uint64_t>, Stopped> frozen_;
};

}  // namespace tessera::node
