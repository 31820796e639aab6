#include "broker/turns.h"

#include <linux/futex.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <system_error>
#include <thread>

#include "base/log.h"
#include "broker/turn_queue.h"
#include "os/clock.h"

namespace tessera::broker {
namespace {

constexpr std::int64_t kLookNanos = 200'000;  // a holder others wait for, or whose cap is counted
constexpr std::int64_t kLookNanosClose =
    50'000;  // before the first work of a turn, and after the last
constexpr std::int64_t kLookNanosOverdue = 10'000'000;
constexpr std::int64_t kLookNanosMax = 1'000'000'000;
// Unmarked work is little by the protocol; what a process says beyond this is not believed.
constexpr std::int64_t kUnmarkedNanosMax = 2'000'000;
// On a kernel without futex_waitv (before 5.16) waiting tenants are looked for this often.
constexpr std::int64_t kPollNanos = 2'000'000;

constexpr int kNice = -15;

// The kernel's struct futex_waitv, which older headers lack.
struct Waiter {
  std::uint64_t value;
  std::uint64_t address;
  std::uint32_t flags;
  std::uint32_t reserved;
};
constexpr long kFutexWaitv = 449;
constexpr std::uint32_t kFutex32 = 2;

void WakeAll(std::uint32_t* word) {
  syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

TurnTerms TermsOf(const CardLimits& card) {
  // Weight 0 is a hard cap and nothing else; any other weight shares whatever is free.
  if (card.weight != 0) return {card.weight, 0, card.priority};
  return {card.compute_permille, card.compute_permille, card.priority};
}

// What the processes of a slice say of their work. Any of it may be a lie; it is only compared.
struct Progress {
  std::uint64_t activity = 0;  // differs when something was submitted
  bool pending = false;        // inside the driver, or marks outstanding
  std::int64_t unmarked = 0;
};

Progress LookAt(const wire::UsagePage& usage) {
  Progress progress;
  for (const wire::ProcessSlot& slot : usage.slots) {
    if (wire::Load(&slot.pid) == 0) continue;
    const std::uint32_t inside = wire::Load(&slot.inside);
    const std::uint32_t unmarked = wire::Load(&slot.unmarked_nanos);
    std::uint64_t marks = 0;
    for (const wire::StreamMarks& stream : slot.marks) {
      const std::uint32_t completed = wire::Load(&stream.completed);
      const std::uint32_t submitted = wire::Load(&stream.submitted);
      marks += submitted;
      progress.pending |= submitted != completed;
    }
    progress.pending |= inside != 0;
    progress.unmarked = std::max<std::int64_t>(progress.unmarked, unmarked);
    progress.activity +=
        wire::Load(&slot.launches) * 1'000'003 + marks * 8'191 + unmarked * 131 + inside;
  }
  progress.unmarked = std::min(progress.unmarked, kUnmarkedNanosMax);
  return progress;
}

}  // namespace

class Turns::CardTurns {
 public:
  CardTurns() = default;
  ~CardTurns() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      Ring();
    }
    if (thread_.joinable()) thread_.join();
    for (auto& [id, tenant] : tenants_) Open(&tenant);
  }

  void Add(const std::string& id, SlicePages* pages, std::uint32_t card, const TurnTerms& terms) {
    const std::lock_guard lock(mutex_);
    if (tenants_.size() >= kCardSlicesMax) return;
    Tenant tenant;
    tenant.pages = pages;
    tenant.card = card;
    tenant.terms = terms;
    // Not where an earlier tesserad's turns began: its last word may be one nobody waits behind.
    tenant.turn = static_cast<std::uint32_t>(Now() >> 20);
    tenants_.insert_or_assign(id, tenant);
    queue_.Set(id, terms, Now());
    Changed();
  }

  void Change(const std::string& id, const TurnTerms& terms) {
    const std::lock_guard lock(mutex_);
    const auto at = tenants_.find(id);
    if (at == tenants_.end()) return;
    at->second.terms = terms;
    queue_.Set(id, terms, Now());
    Changed();
  }

  void Remove(const std::string& id) {
    const std::lock_guard lock(mutex_);
    const auto at = tenants_.find(id);
    if (at == tenants_.end()) return;
    Open(&at->second);
    tenants_.erase(at);
    queue_.Remove(id);
    if (holder_ == id) Forget();
    Changed();
  }

  TurnCounters counters() const {
    const std::lock_guard lock(mutex_);
    return counters_;
  }

 private:
  struct Tenant {
    SlicePages* pages = nullptr;
    std::uint32_t card = 0;
    TurnTerms terms;
    bool gated = false;
    std::uint32_t turn = 0;
    std::uint32_t heard = 0;
    std::int64_t overdue_from = 0;  // not 0: its last turn has not ended yet

    wire::ControlCard& control() const { return pages->control().cards[card]; }
    wire::UsageCard& usage() const { return pages->usage().cards[card]; }
  };

  static std::int64_t Now() { return os::RealClock().MonotonicNanos(); }

  // ---- gates ----

  void Write(Tenant* tenant, std::uint32_t word) {
    __atomic_store_n(&tenant->control().gate, word, __ATOMIC_SEQ_CST);
    WakeAll(&tenant->control().gate);
  }
  void Open(Tenant* tenant) {
    if (!tenant->gated) return;
    tenant->gated = false;
    Write(tenant, 0);
    __atomic_fetch_sub(&tenant->pages->control().turns, 1u, __ATOMIC_SEQ_CST);
  }
  void Shut(Tenant* tenant) {
    if (!tenant->gated) {
      tenant->gated = true;
      __atomic_fetch_add(&tenant->pages->control().turns, 1u, __ATOMIC_SEQ_CST);
    }
    Write(tenant, tenant->turn * wire::kGateStep | wire::kGateShut);
  }
  void Grant(Tenant* tenant) {
    ++tenant->turn;
    Write(tenant, tenant->turn * wire::kGateStep | wire::kGateShut | wire::kGateGranted);
  }

  bool Needed() const {
    return tenants_.size() > 1 ||
           std::any_of(tenants_.begin(), tenants_.end(),
                       [](const auto& entry) { return entry.second.terms.Capped(); });
  }

  // Without a thread to grant turns the gates stay open: shares are not held, but nobody waits.
  bool HaveThread() {
    if (thread_.joinable()) return true;
    try {
      thread_ = std::thread([this] {
        sigset_t all;
        sigfillset(&all);
        sigdelset(&all, SIGBUS);
        pthread_sigmask(SIG_BLOCK, &all, nullptr);
        prctl(PR_SET_TIMERSLACK, 1);
        // A hand-over that is late is time of the card lost. Without the right to it, it stays as
        // it is.
        (void)setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kNice);
        Run();
      });
    } catch (const std::system_error& error) {
      Log(LogLevel::kError, "turns.thread", {{"why", error.what()}});
      return false;
    }
    return true;
  }

  // Lock held.
  void Changed() {
    const bool needed = Needed() && HaveThread();
    if (!needed) Forget();
    const std::uint32_t window = queue_.HasClasses() ? kWindowNanosClasses : kWindowNanosAlike;
    for (auto& [id, tenant] : tenants_) {
      wire::Store(&tenant.control().window_nanos, window);
      if (!needed) {
        Open(&tenant);
      } else if (!tenant.gated) {
        Shut(&tenant);
      }
    }
    Ring();
  }

  void Forget() {
    holder_.clear();
    parked_ = false;
  }

  void Ring() {
    __atomic_fetch_add(&bell_, 1u, __ATOMIC_SEQ_CST);
    WakeAll(&bell_);
  }

  // ---- the thread ----

  // Sleeps until `until`, an arrival nobody has heard yet, or a change of the tenants. The lock is
  // free meanwhile, so tenants may be others afterwards.
  void Sleep(std::unique_lock<std::mutex>* lock, std::int64_t until, bool arrivals) {
    std::vector<Waiter> words;
    words.push_back({bell_, reinterpret_cast<std::uint64_t>(&bell_), kFutex32, 0});
    if (arrivals) {
      for (const auto& [id, tenant] : tenants_) {
        words.push_back(
            {tenant.heard, reinterpret_cast<std::uint64_t>(&tenant.usage().arrivals), kFutex32, 0});
      }
    }
    lock->unlock();
    timespec deadline{};
    if (until != TurnQueue::kNever) {
      deadline = {static_cast<time_t>(until / 1'000'000'000),
                  static_cast<long>(until % 1'000'000'000)};
    }
    const long slept = syscall(kFutexWaitv, words.data(), words.size(), 0,
                               until == TurnQueue::kNever ? nullptr : &deadline, CLOCK_MONOTONIC);
    if (slept < 0 && errno != ETIMEDOUT && errno != EAGAIN && errno != EINTR) {
      const std::int64_t now = Now();
      const std::int64_t most = arrivals ? kPollNanos : 1'000'000'000;
      const std::int64_t nanos = std::clamp<std::int64_t>(until - now, 0, most);
      const timespec wait{static_cast<time_t>(nanos / 1'000'000'000),
                          static_cast<long>(nanos % 1'000'000'000)};
      syscall(SYS_futex, &bell_, FUTEX_WAIT, static_cast<std::uint32_t>(words[0].value), &wait,
              nullptr, 0);
    }
    lock->lock();
    ++counters_.wakes;
  }

  void Hear(std::int64_t now) {
    for (auto& [id, tenant] : tenants_) {
      const std::uint32_t arrivals = wire::Load(&tenant.usage().arrivals);
      if (arrivals == tenant.heard) continue;
      tenant.heard = arrivals;
      wire::Store(&tenant.control().heard, arrivals);
      queue_.Arrive(id, now);
    }
  }

  // What did not end in its turn goes on being charged. Returns whether any is left.
  bool ChargeOverdue(std::int64_t now) {
    bool any = false;
    for (auto& [id, tenant] : tenants_) {
      if (tenant.overdue_from == 0) continue;
      queue_.Charge(id, now - tenant.overdue_from, now);
      tenant.overdue_from = LookAt(tenant.pages->usage()).pending ? now : 0;
      any |= tenant.overdue_from != 0;
    }
    return any;
  }

  void Run() {
    std::unique_lock lock(mutex_);
    std::int64_t overdue_look = kLookNanosOverdue;
    while (!stopping_) {
      const std::int64_t now = Now();
      if (!Needed()) {
        Sleep(&lock, TurnQueue::kNever, false);
        continue;
      }
      if (parked_) Unpark(now);
      Hear(now);
      const bool overdue = ChargeOverdue(now);
      if (holder_.empty()) {
        std::int64_t look_again = TurnQueue::kNever;
        if (const auto next = queue_.Next(now, &look_again)) {
          Begin(next->id, next->turn_nanos, now);
          overdue_look = kLookNanosOverdue;
          continue;
        }
        if (overdue) {
          look_again = std::min(look_again, now + overdue_look);
          overdue_look = std::min(2 * overdue_look, kLookNanosMax);
        }
        Sleep(&lock, look_again, true);
        continue;
      }
      const std::int64_t until = Turn(now);
      if (!holder_.empty()) Sleep(&lock, until, !draining_);
    }
  }

  void Begin(const std::string& id, std::int64_t nanos, std::int64_t now) {
    Tenant& tenant = tenants_.at(id);
    holder_ = id;
    draining_ = false;
    parked_ = false;
    claimed_ = false;
    begun_ = looked_ = now;
    end_ = now + nanos;
    active_ = now;
    was_busy_ = false;
    idle_from_ = 0;
    served_ = 0;
    arrivals_ = tenant.heard;
    activity_ = LookAt(tenant.pages->usage()).activity;
    ++counters_.turns;
    Grant(&tenant);
  }

  // The holder had the card to itself and was not looked at; from now on its time counts again.
  void Unpark(std::int64_t now) {
    parked_ = false;
    queue_.ServeAlone(holder_, now - looked_, now);
    claimed_ = true;
    was_busy_ = false;
    looked_ = end_ = now;
    idle_from_ = now - kIdleNanosAlone;
  }

  // One look at who has the turn; returns when to look again, unless the turn is over.
  std::int64_t Turn(std::int64_t now) {
    Tenant& tenant = tenants_.at(holder_);
    const Progress progress = LookAt(tenant.pages->usage());
    const bool moved = progress.activity != activity_;
    activity_ = progress.activity;
    if (moved) active_ = now;
    const bool busy = progress.pending || moved || (claimed_ && now - active_ < progress.unmarked);
    // Time counts from the first look that finds work: what the waking took is nobody's.
    // Work that ended between two looks ended, for all we know, in the middle.
    const std::int64_t passed = now - looked_;
    if (claimed_ && busy) served_ += passed;
    if (claimed_ && !busy && was_busy_)
      served_ += std::max(passed / 2, std::min(passed, kLookNanosClose));
    if (busy) {
      claimed_ = true;
      idle_from_ = 0;
    } else if (idle_from_ == 0) {
      idle_from_ = now;
    }
    was_busy_ = busy;
    looked_ = now;

    if (draining_) {
      const bool late = now - closed_ > kDrainNanosMax;
      if (busy && !late) return now + kLookNanosClose;
      Charge(now);
      if (busy) {
        ++counters_.overdue;
        tenant.overdue_from = now;
      }
      Forget();
      return now;
    }

    const bool contended = queue_.Contended(holder_, now);
    const bool counted = tenant.terms.Capped();
    if (!contended && !counted) {
      parked_ = true;
      // Somebody may be held by a cap, and comes back without an arrival.
      std::int64_t look_again = TurnQueue::kNever;
      (void)queue_.Next(now, &look_again);
      return look_again;
    }
    const std::int64_t idle = contended ? kIdleNanosContended : kIdleNanosAlone;
    bool close = queue_.Outranked(holder_, now);
    if (!claimed_) {
      if (now - begun_ > kClaimNanosMax) {
        ++counters_.unclaimed;
        close = true;
      }
    } else if (!busy && now - idle_from_ >= idle) {
      close = true;
    } else if (now >= end_ && !close) {
      // Goes on without a break when it would be its turn again.
      Charge(now);
      std::int64_t ignored = 0;
      const auto next = queue_.Next(now, &ignored);
      if (next && next->id == holder_) {
        end_ = now + next->turn_nanos;
      } else {
        close = true;
      }
    }
    if (close) {
      Shut(&tenant);
      draining_ = true;
      closed_ = now;
      // Whoever still waits has said so since the turn began, or will say so when it meets the
      // shut gate.
      if (tenant.heard == arrivals_) queue_.Leave(holder_, now);
      return now;
    }
    if (!claimed_) return now + kLookNanosClose;
    return std::min(std::max(end_, now + kLookNanosClose), now + kLookNanos);
  }

  void Charge(std::int64_t now) {
    queue_.Charge(holder_, served_, now);
    served_ = 0;
  }

  mutable std::mutex mutex_;
  std::thread thread_;
  bool stopping_ = false;
  std::uint32_t bell_ = 0;
  std::map<std::string, Tenant> tenants_;
  TurnQueue queue_;
  TurnCounters counters_;

  // The turn that is on, of the thread.
  std::string holder_;  // "": nobody's
  bool draining_ = false;
  bool parked_ = false;
  bool claimed_ = false;
  bool was_busy_ = false;
  std::int64_t begun_ = 0, end_ = 0, closed_ = 0;
  std::int64_t looked_ = 0, active_ = 0, idle_from_ = 0;
  std::int64_t served_ = 0;
  std::uint32_t arrivals_ = 0;
  std::uint64_t activity_ = 0;
};

Turns::Turns() = default;
Turns::~Turns() = default;

void Turns::Add(const std::string& id, SlicePages* pages, const std::vector<CardLimits>& cards) {
  const std::lock_guard lock(mutex_);
  wire::ControlPage& control = pages->control();
  // Pages of an earlier tesserad may still say whose turn it was.
  __atomic_store_n(&control.turns, 0u, __ATOMIC_SEQ_CST);
  for (std::uint32_t i = 0; i < cards.size(); ++i) {
    __atomic_store_n(&control.cards[i].gate, 0u, __ATOMIC_SEQ_CST);
    WakeAll(&control.cards[i].gate);
  }
  std::vector<std::string>& uuids = uuids_[id];
  for (std::uint32_t i = 0; i < cards.size(); ++i) {
    if (cards[i].mps_percentage != 0) continue;  // its gate stays open
    uuids.push_back(cards[i].uuid);
    auto& card = cards_[cards[i].uuid];
    if (card == nullptr) card = std::make_unique<CardTurns>();
    card->Add(id, pages, i, TermsOf(cards[i]));
  }
}

void Turns::SetLimits(const std::string& id, const std::vector<CardLimits>& cards) {
  const std::lock_guard lock(mutex_);
  for (const CardLimits& limits : cards) {
    if (const auto at = cards_.find(limits.uuid); at != cards_.end()) {
      at->second->Change(id, TermsOf(limits));
    }
  }
}

void Turns::Remove(const std::string& id) {
  const std::lock_guard lock(mutex_);
  const auto at = uuids_.find(id);
  if (at == uuids_.end()) return;
  for (const std::string& uuid : at->second) cards_.at(uuid)->Remove(id);
  uuids_.erase(at);
}

TurnCounters Turns::counters() const {
  const std::lock_guard lock(mutex_);
  TurnCounters all;
  for (const auto& [uuid, card] : cards_) {
    const TurnCounters one = card->counters();
    all.turns += one.turns;
    all.unclaimed += one.unclaimed;
    all.overdue += one.overdue;
    all.wakes += one.wakes;
  }
  return all;
}

}  // namespace tessera::broker
