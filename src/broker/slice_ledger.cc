#include "broker/slice_ledger.h"

#include <linux/futex.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstring>

#include "os/files.h"

namespace tessera::broker {
namespace {

constexpr std::int64_t kLookAgainNanos = 200'000;  // while the living have not settled

void WakeAll(wire::UsageCard* card) {
  syscall(SYS_futex, wire::FrozenFutex(card), FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

std::uint64_t Mix(std::uint64_t hash, std::uint64_t value) {
  hash ^= value + 0x9e3779b97f4a7c15ull + (hash << 6) + (hash >> 2);
  return hash * 0xbf58476d1ce4e5b9ull;
}

// The layout of the address space, which exec draws anew: start of code, end of code and start of
// stack, fields 26 to 28 of /proc/pid/stat.
std::uint64_t ImageOf(std::string_view stat) {
  const auto close = stat.rfind(')');
  if (close == std::string_view::npos) return 0;
  stat.remove_prefix(close + 1);
  std::uint64_t hash = 0;
  bool told = false;
  int field = 2;
  while (!stat.empty()) {
    const auto begin = stat.find_first_not_of(" \n");
    if (begin == std::string_view::npos) break;
    stat.remove_prefix(begin);
    const auto end = std::min(stat.find_first_of(" \n"), stat.size());
    const std::string_view word = stat.substr(0, end);
    stat.remove_prefix(end);
    ++field;
    if (field < 26) continue;
    if (field > 28) break;
    std::uint64_t value = 0;
    for (const char c : word) value = value * 10 + static_cast<std::uint64_t>(c - '0');
    // Without the right to look, the kernel prints 0 or 1.
    if (value > 1) told = true;
    hash = Mix(hash, value);
  }
  return told ? (hash | 1) : 0;
}

}  // namespace

Result<ProgramId> IdentifyProgram(pid_t pid, pid_t* parent) {
  TRY(const std::string stat, os::PosixFiles().Read("/proc/" + std::to_string(pid) + "/stat"));
  TRY(const os::ProcessId process, os::ParseProcessStat(pid, stat, parent));
  ProgramId program{process, ImageOf(stat)};
  struct stat info{};
  if (program.image != 0 && ::stat(("/proc/" + std::to_string(pid) + "/exe").c_str(), &info) == 0) {
    program.image = Mix(Mix(program.image, info.st_ino), info.st_dev) | 1;
  }
  return program;
}

SliceLedger::SliceLedger(std::string id, std::unique_ptr<SlicePages> pages, const os::Clock& clock)
    : id_(std::move(id)), pages_(std::move(pages)), clock_(clock) {
  const wire::ControlPage& control = pages_->control();
  for (std::uint32_t i = 0; i < pages_->card_count(); ++i) {
    const wire::ControlCard& card = control.cards[i];
    limits_.push_back({card.uuid, card.limit_bytes, card.lease_bytes, card.ceiling_bytes,
                       card.context_bytes, card.granule_bytes, card.compute_permille, card.weight,
                       card.priority, card.mps_percentage});
  }
  const std::uint64_t host = control.cards[wire::kHostRow].limit_bytes;
  host_bytes_ = host == wire::kUnlimitedBytes ? 0 : host;
  closed_ = wire::Load(&control.state) != wire::kStateOpen;
}

SliceLedger::~SliceLedger() {
  if (frozen_) Thaw();
}

Result<std::uint32_t> SliceLedger::Attach(const ProgramId& program, os::Fd* pidfd) {
  if (closed_) return Error(Code::kFailedPrecondition, "slice " + id_ + " is closed");
  std::optional<std::uint32_t> free;
  for (std::uint32_t i = 0; i < entries_.size(); ++i) {
    Entry& entry = entries_[i];
    if (entry.state == State::kFree && !free) free = i;
    if (entry.state != State::kLive || entry.program.process != program.process) continue;
    const bool same_program =
        entry.program.image == program.image || program.image == 0 || entry.program.image == 0;
    if (same_program) return i;
    // The process became another program: what the earlier one held is gone with its descriptors.
    entry.state = State::kDead;
    entry.pidfd.Close();
    wanted_ = true;
  }
  if (!free) {
    return Error(Code::kResourceExhausted,
                 "slice " + id_ + ": kProcessesMax (256) processes are attached already");
  }
  Take(*free, program, pidfd);
  return *free;
}

void SliceLedger::Take(std::uint32_t index, const ProgramId& program, os::Fd* pidfd) {
  Entry& entry = entries_[index];
  entry.state = State::kLive;
  entry.program = program;
  entry.pidfd.Close();
  if (pidfd != nullptr && *pidfd) {
    entry.pidfd = std::move(*pidfd);
  } else if (auto opened = os::OpenPidfd(program.process.pid)) {
    // The pid may have been given to another process between the look and the open.
    if (os::IsAlive(program.process)) entry.pidfd = std::move(*opened);
  }
  wire::ProcessSlot& slot = pages_->usage().slots[index];
  wire::Store(&slot.start_time, program.process.start_time);
  wire::Store(&slot.pid, static_cast<std::uint32_t>(program.process.pid));
}

void SliceLedger::AdoptSlots(bool (*is_member)(void*, const os::ProcessId&), void* context) {
  const wire::UsagePage& usage = pages_->usage();
  for (std::uint32_t i = 0; i < entries_.size(); ++i) {
    const wire::ProcessSlot& slot = usage.slots[i];
    const std::uint32_t pid = wire::Load(&slot.pid);
    Entry& entry = entries_[i];
    entry.state = State::kFree;
    if (pid == 0) {
      // A forged or half-cleared slot: its numbers count for nobody, but must not greet the next
      // owner.
      const auto any = [](std::uint64_t word) { return word != 0; };
      if (wire::Load(&slot.intent) != 0 ||
          std::any_of(std::begin(slot.used), std::end(slot.used), any)) {
        entry.state = State::kDead;
      }
      continue;
    }
    const os::ProcessId process{static_cast<pid_t>(pid), wire::Load(&slot.start_time)};
    const auto now = IdentifyProgram(process.pid);
    if (now && now->process == process && !IsAttached(process) && is_member(context, process)) {
      Take(i, *now, nullptr);
    } else {
      entry.state = State::kDead;
    }
  }
  // Always recount once: the node may have died between freezing and thawing.
  wanted_ = true;
}

bool SliceLedger::Alive(const Entry& entry) const {
  if (entry.pidfd) {
    pollfd waiter{entry.pidfd.get(), POLLIN, 0};
    return poll(&waiter, 1, 0) == 0;
  }
  return os::IsAlive(entry.program.process);
}

bool SliceLedger::CheckProcesses() {
  bool found = false;
  for (Entry& entry : entries_) {
    if (entry.state != State::kLive || Alive(entry)) continue;
    entry.state = State::kDead;
    entry.pidfd.Close();
    found = true;
  }
  if (found) {
    wanted_ = true;
    // News of a death is worth a try at once; the pause is for one that keeps not settling.
    next_try_ = std::min(next_try_, clock_.MonotonicNanos() + kRecountPauseNanosFirst);
  }
  return found;
}

void SliceLedger::Freeze() {
  for (std::uint32_t i = 0; i < row_count(); ++i) {
    __atomic_fetch_or(&pages_->usage().cards[RowAt(i)].used, wire::kFrozenBit, __ATOMIC_SEQ_CST);
  }
}

void SliceLedger::Thaw() {
  for (std::uint32_t i = 0; i < row_count(); ++i) {
    wire::UsageCard& card = pages_->usage().cards[RowAt(i)];
    __atomic_fetch_and(&card.used, ~wire::kFrozenBit, __ATOMIC_SEQ_CST);
    WakeAll(&card);
  }
}

bool SliceLedger::LivingSettled() {
  for (std::uint32_t i = 0; i < entries_.size(); ++i) {
    Entry& entry = entries_[i];
    if (entry.state != State::kLive) continue;
    if (__atomic_load_n(&pages_->usage().slots[i].intent, __ATOMIC_SEQ_CST) == 0) continue;
    if (Alive(entry)) return false;
    entry.state = State::kDead;
    entry.pidfd.Close();
  }
  return true;
}

std::uint64_t SliceLedger::LimitOf(std::uint32_t row) const {
  return row == wire::kHostRow ? (host_bytes_ == 0 ? wire::kUnlimitedBytes : host_bytes_)
                               : limits_[row].ceiling_bytes;
}

std::uint64_t SliceLedger::SlotUsed(std::uint32_t slot, std::uint32_t row) const {
  // No honest process passes the ceiling. A larger figure is cut there, so that sums cannot
  // overflow.
  return std::min(wire::Load(&pages_->usage().slots[slot].used[row]), wire::kFrozenBit >> 1);
}

std::uint64_t SliceLedger::SumOfLive(std::uint32_t row) const {
  std::uint64_t sum = 0;
  for (std::uint32_t i = 0; i < entries_.size(); ++i) {
    if (entries_[i].state == State::kLive)
      sum = std::min(sum + SlotUsed(i, row), wire::kFrozenBit >> 1);
  }
  return sum;
}

void SliceLedger::Recount() {
  wire::UsagePage& usage = pages_->usage();
  for (std::uint32_t i = 0; i < entries_.size(); ++i) {
    wire::ProcessSlot& slot = usage.slots[i];
    if (entries_[i].state == State::kLive) {
      for (std::uint32_t r = 0; r < row_count(); ++r) {
        if (wire::Load(&slot.used[RowAt(r)]) > LimitOf(RowAt(r))) ++nonsense_;
      }
      // The identity lines are the node's; whoever wrote over them is put right.
      wire::Store(&slot.start_time, entries_[i].program.process.start_time);
      wire::Store(&slot.pid, static_cast<std::uint32_t>(entries_[i].program.process.pid));
      continue;
    }
    if (entries_[i].state != State::kDead) continue;
    ended_.submissions += wire::Load(&slot.launches);
    ended_.gate_wait_nanos += wire::Load(&slot.gate_wait_nanos);
    for (std::uint64_t& used : slot.used) wire::Store(&used, 0);
    for (wire::StreamMarks& stream : slot.marks) {
      wire::Store(&stream.submitted, 0);
      wire::Store(&stream.completed, 0);
      wire::Store(&stream.unmarked_nanos, 0);
    }
    for (wire::GateLane& lane : slot.lanes) wire::Store(&lane.state, 0);
    wire::Store(&slot.inside, 0);
    wire::Store(&slot.launches, 0);
    wire::Store(&slot.gate_wait_nanos, 0);
    wire::Store(&slot.start_time, 0);
    wire::Store(&slot.intent, 0);
    wire::Store(&slot.pid, 0);
    entries_[i].state = State::kFree;
  }
  for (std::uint32_t i = 0; i < row_count(); ++i) {
    // One store gives the sum and lifts the frozen bit.
    wire::UsageCard& row = usage.cards[RowAt(i)];
    __atomic_store_n(&row.used, SumOfLive(RowAt(i)), __ATOMIC_SEQ_CST);
    WakeAll(&row);
  }
  ++recounts_;
}

std::optional<std::int64_t> SliceLedger::Step() {
  if (!wanted_) return std::nullopt;
  const std::int64_t now = clock_.MonotonicNanos();
  if (!frozen_) {
    if (now < next_try_) return next_try_;
    Freeze();
    frozen_ = true;
    deadline_ = now + static_cast<std::int64_t>(wire::kFreezeWaitNanosMax);
  }
  if (LivingSettled()) {
    Recount();
    frozen_ = false;
    wanted_ = false;
    next_try_ = 0;
    pause_ = kRecountPauseNanosFirst;
    return std::nullopt;
  }
  if (now < deadline_) return now + kLookAgainNanos;
  Thaw();
  frozen_ = false;
  ++unsettled_;
  next_try_ = now + pause_;
  pause_ = std::min(pause_ * 2, kRecountPauseNanosMax);
  return next_try_;
}

void SliceLedger::SetLimits(const std::vector<CardLimits>& cards, std::uint64_t host_bytes) {
  pages_->SetLimits(cards, host_bytes);
  limits_ = cards;
  host_bytes_ = host_bytes;
}

void SliceLedger::Close() {
  if (closed_) return;
  closed_ = true;
  pages_->SetState(wire::kStateClosed);
}

bool SliceLedger::CloseIfDamaged() {
  if (closed_ || pages_->UsageIntact()) return false;
  Close();
  return true;
}

std::vector<AttachedProcess> SliceLedger::Processes() const {
  std::vector<AttachedProcess> processes;
  for (std::uint32_t i = 0; i < entries_.size(); ++i) {
    if (entries_[i].state != State::kLive) continue;
    AttachedProcess process{
        i, entries_[i].program.process, wire::Load(&pages_->usage().slots[i].launches), {}, 0};
    for (std::uint32_t c = 0; c < pages_->card_count(); ++c) process.used.push_back(SlotUsed(i, c));
    process.host_used = SlotUsed(i, wire::kHostRow);
    processes.push_back(std::move(process));
  }
  return processes;
}

std::uint32_t SliceLedger::LiveCount() const {
  return static_cast<std::uint32_t>(
      std::count_if(entries_.begin(), entries_.end(),
                    [](const Entry& entry) { return entry.state == State::kLive; }));
}

bool SliceLedger::IsAttached(const os::ProcessId& process) const {
  return std::any_of(entries_.begin(), entries_.end(), [&](const Entry& entry) {
    return entry.state == State::kLive && entry.program.process == process;
  });
}

int SliceLedger::PidfdOf(std::uint32_t slot) const { return entries_[slot].pidfd.get(); }

CardUsage SliceLedger::UsageOf(std::uint32_t row) const {
  const wire::UsageCard& usage = pages_->usage().cards[row];
  return {row == wire::kHostRow ? "" : limits_[row].uuid,
          wire::Load(&usage.used) & ~wire::kFrozenBit, wire::Load(&usage.peak),
          wire::Load(&usage.refusals), row == wire::kHostRow ? 0 : limits_[row].lease_bytes};
}

std::vector<CardUsage> SliceLedger::Usage() const {
  std::vector<CardUsage> all;
  for (std::uint32_t c = 0; c < pages_->card_count(); ++c) all.push_back(UsageOf(c));
  return all;
}

CardUsage SliceLedger::HostUsage() const { return UsageOf(wire::kHostRow); }

SliceActivity SliceLedger::Activity() const {
  SliceActivity activity = ended_;
  for (std::uint32_t i = 0; i < entries_.size(); ++i) {
    if (entries_[i].state == State::kFree) continue;
    const wire::ProcessSlot& slot = pages_->usage().slots[i];
    activity.submissions += wire::Load(&slot.launches);
    activity.gate_wait_nanos += wire::Load(&slot.gate_wait_nanos);
  }
  return activity;
}

std::vector<CardAudit> SliceLedger::Audit() const {
  const auto quiet = [this] {
    for (std::uint32_t i = 0; i < entries_.size(); ++i) {
      if (entries_[i].state == State::kDead) return false;
      if (entries_[i].state == State::kLive && wire::Load(&pages_->usage().slots[i].intent) != 0)
        return false;
    }
    return true;
  };
  std::vector<CardAudit> cards;
  for (std::uint32_t c = 0; c < pages_->card_count(); ++c) {
    CardAudit card;
    card.uuid = limits_[c].uuid;
    const bool quiet_before = quiet();
    const std::uint64_t word = wire::Load(&pages_->usage().cards[c].used);
    card.recomputed = SumOfLive(c);
    const std::uint64_t again = wire::Load(&pages_->usage().cards[c].used);
    card.recorded = word & ~wire::kFrozenBit;
    card.settled = quiet_before && quiet() && word == again && (word & wire::kFrozenBit) == 0;
    cards.push_back(std::move(card));
  }
  return cards;
}

}  // namespace tessera::broker
