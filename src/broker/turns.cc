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
#include "broker/turn_meter.h"
#include "broker/turn_queue.h"
#include "os/clock.h"

namespace tessera::broker {
namespace {

constexpr std::int64_t kLookNanos = 200'000;  // a holder others wait for, or whose cap is counted
constexpr std::int64_t kLookNanosOverdue = 10'000'000;
constexpr std::int64_t kLookNanosMax = 1'000'000'000;
// Unmarked work is little by the protocol; what a process says beyond this is not believed.
constexpr std::int64_t kUnmarkedNanosMax = 2'000'000;
constexpr std::int64_t kOutstandingMicrosMax = 1'000'000;
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

// What the processes of a slice say of their work on one of its cards.
Progress LookAt(const wire::UsagePage& usage, std::uint32_t card) {
  Progress progress;
  for (const wire::ProcessSlot& slot : usage.slots) {
    if (wire::Load(&slot.pid) == 0) continue;
    // Lanes before marks: a thread counts its mark in `submitted` before it says it is outside.
    std::uint64_t inside = wire::Load(&slot.inside);
    std::int64_t unmarked = 0;
    for (const wire::GateLane& lane : slot.lanes) {
      const std::uint32_t state = wire::Load(&lane.state);
      if (state == 0 || wire::Load(&lane.card) != card) continue;
      inside += state & wire::kLaneInside;
      unmarked += state >> 1;
    }
    for (const wire::StreamMarks& stream : slot.marks) {
      if (wire::Load(&stream.card) != card) continue;
      const std::uint32_t completed = wire::Load(&stream.completed);
      const std::uint32_t submitted = wire::Load(&stream.submitted);
      unmarked += wire::Load(&stream.unmarked_nanos);
      progress.completed += completed;
      progress.activity += submitted * std::uint64_t{8191};
      // Further behind, it was written by a mark that was given up.
      if (submitted == completed || submitted - completed > wire::kMarksBehindMax) continue;
      progress.pending = true;
      progress.outstanding +=
          std::min<std::int64_t>(submitted - completed, kOutstandingMicrosMax) * 1000;
    }
    progress.inside |= inside != 0;
    progress.unmarked = std::max(progress.unmarked, unmarked);
    progress.activity += wire::Load(&slot.launches) * 1'000'003 +
                         static_cast<std::uint64_t>(unmarked) * 131 + inside;
  }
  progress.pending |= progress.inside;
  progress.unmarked = std::min(progress.unmarked, kUnmarkedNanosMax);
  return progress;
}

}  // namespace

// One card. Everything but the thread's own loop is called with the lock held.
class Turns::CardTurns {
 public:
  explicit CardTurns(Turns* turns) : turns_(turns) {}
  ~CardTurns() {
    for (auto& [id, tenant] : tenants_) Open(&tenant);
  }
  void Stop() {
    stopping_ = true;
    Ring();
  }
  // Without the lock.
  void Join() {
    if (thread_.joinable()) thread_.join();
  }

  void Add(const std::string& id, SlicePages* pages, std::uint32_t card, const TurnTerms& terms) {
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
  // The slice has other cards too.
  void Join(const std::string& id, const Gang* gang) {
    if (const auto at = tenants_.find(id); at != tenants_.end()) at->second.gang = gang;
    Changed();
  }
  bool Has(const std::string& id) const { return tenants_.contains(id); }
  // It is about to be removed from all of them.
  void Part(const std::string& id) {
    const auto at = tenants_.find(id);
    if (at == tenants_.end() || at->second.gang == nullptr) return;
    Abandon(*at->second.gang);
    at->second.gang = nullptr;
    queue_.SetLed(id, false);
  }

  void Change(const std::string& id, const TurnTerms& terms) {
    const auto at = tenants_.find(id);
    if (at == tenants_.end()) return;
    at->second.terms = terms;
    queue_.Set(id, terms, Now());
    Changed();
  }

  void Remove(const std::string& id) {
    const auto at = tenants_.find(id);
    if (at == tenants_.end()) return;
    Open(&at->second);
    tenants_.erase(at);
    queue_.Remove(id);
    if (holder_ == id) Forget();
    if (tail_ == id) tail_.clear();
    Changed();
  }

  const TurnCounters& counters() const { return counters_; }

  TurnService Service(const std::string& id) const {
    TurnService service;
    service.now = Now();
    const auto at = tenants_.find(id);
    if (at == tenants_.end()) return service;
    service.served_nanos = at->second.served;
    if (holder_ == id) {
      const CardTurns* const looks = led_ ? LeaderOf(*at->second.gang) : this;
      service.served_nanos += static_cast<std::uint64_t>(
          looks->meter_.served() +
          (looks->parked_ ? service.now - looks->meter_.looked() : std::int64_t{0}));
    }
    service.gated_since = at->second.gated ? at->second.gated_since : 0;
    return service;
  }

 private:
  struct Tenant {
    SlicePages* pages = nullptr;
    std::uint32_t card = 0;
    TurnTerms terms;
    const Gang* gang = nullptr;
    bool gated = false;
    std::int64_t gated_since = 0;
    std::uint64_t served = 0;
    std::uint32_t turn = 0;
    std::uint32_t heard = 0;
    std::uint32_t arrivals = 0;     // heard when its turn began
    std::int64_t overdue_from = 0;  // not 0: its last turn has not ended yet

    wire::ControlCard& control() const { return pages->control().cards[card]; }
    wire::UsageCard& usage() const { return pages->usage().cards[card]; }
    Progress Look() const { return LookAt(pages->usage(), card); }
  };

  static std::int64_t Now() { return os::RealClock().MonotonicNanos(); }

  // ---- gates ----

  void Write(Tenant* tenant, std::uint32_t word) {
    __atomic_exchange_n(&tenant->control().gate, word, __ATOMIC_SEQ_CST);
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
      tenant->gated_since = Now();
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

  void Changed() {
    for (auto& [id, tenant] : tenants_) {
      if (tenant.gang != nullptr) Abandon(*tenant.gang);
    }
    gated_ = Needed() && HaveThread();
    if (!gated_) {
      Forget();
      tail_.clear();
    }
    const std::uint32_t window = queue_.HasClasses() ? kWindowNanosClasses : kWindowNanosAlike;
    for (auto& [id, tenant] : tenants_) {
      wire::Store(&tenant.control().window_nanos, window);
      if (!gated_) {
        Open(&tenant);
      } else if (!tenant.gated) {
        Shut(&tenant);
      }
    }
    for (auto& [id, tenant] : tenants_) {
      if (tenant.gang == nullptr) continue;
      for (CardTurns* card : tenant.gang->cards) {
        card->queue_.SetLed(id, IsGang(*tenant.gang) && LeaderOf(*tenant.gang) != card);
      }
    }
    Ring();
  }

  void Forget() {
    holder_.clear();
    led_ = parked_ = reserved_ = false;
  }

  void Ring() {
    __atomic_fetch_add(&bell_, 1u, __ATOMIC_SEQ_CST);
    WakeAll(&bell_);
  }

  // ---- gangs ----

  // Only cards that are shared have turns.
  static bool IsGang(const Gang& gang) {
    return std::count_if(gang.cards.begin(), gang.cards.end(),
                         [](const CardTurns* card) { return card->gated_; }) > 1;
  }
  static CardTurns* LeaderOf(const Gang& gang) {
    const auto at = std::find_if(gang.cards.begin(), gang.cards.end(),
                                 [](const CardTurns* card) { return card->gated_; });
    return at == gang.cards.end() ? nullptr : *at;
  }
  // The cards a turn of this tenant is on, in their order.
  std::vector<CardTurns*> CardsOf(const std::string& id) {
    const Tenant& tenant = tenants_.at(id);
    if (tenant.gang == nullptr || !IsGang(*tenant.gang)) return {this};
    std::vector<CardTurns*> cards;
    for (CardTurns* card : tenant.gang->cards) {
      if (card->gated_) cards.push_back(card);
    }
    return cards;
  }
  bool Called() const {
    return turns_->called_ != nullptr && gated_ &&
           std::find(turns_->called_->cards.begin(), turns_->called_->cards.end(), this) !=
               turns_->called_->cards.end();
  }

  // Ends a gang's call or turn, where the cards it stands on change.
  void Abandon(const Gang& gang) {
    if (turns_->called_ == &gang) {
      turns_->called_ = nullptr;
      for (CardTurns* card : gang.cards) card->reserved_ = false;
    }
    for (CardTurns* card : gang.cards) {
      if (card->holder_ == gang.id && !card->led_) card->Close(Now());
      card->Ring();
    }
  }

  // Makes this card free for the gang that is called, as soon as it can be. Returns whether it is.
  bool Reserve(std::int64_t now) {
    if (reserved_) return true;
    if (!holder_.empty()) {
      CardTurns* const ends = led_ ? LeaderOf(*tenants_.at(holder_).gang) : this;
      if (ends->parked_) ends->Unpark(now);
      if (!ends->HandsOver()) ends->Close(now);
    }
    reserved_ = holder_.empty() && MayFollow(turns_->called_->id, now);
    return reserved_;
  }

  // Reserves what is free; the last one grants. Returns whether the turn has begun.
  bool Assemble(std::int64_t now) {
    const Gang& gang = *turns_->called_;
    const std::vector<CardTurns*> cards = CardsOf(gang.id);
    bool all = true;
    for (CardTurns* card : cards) {
      const bool before = card->reserved_;
      all &= card->Reserve(now);
      if (card != this && !before) card->Ring();
    }
    if (!all) return false;
    const std::int64_t nanos = turns_->called_nanos_;
    turns_->called_ = nullptr;
    for (CardTurns* card : cards) {
      card->reserved_ = false;
      card->queue_.CatchUp(gang.id);
      card->Begin(gang.id, nanos, now);
      card->led_ = card != cards.front();
      card->Ring();
    }
    return true;
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
      for (CardTurns* card : CardsOf(id)) {
        card->queue_.Arrive(id, now);
        if (card != this) card->Ring();
      }
      // Whether anybody waits here is the business of the card that looks at the turn.
      if (led_) LeaderOf(*tenants_.at(holder_).gang)->Ring();
    }
  }

  // What did not end in its turn goes on being charged. Returns whether any is left.
  bool ChargeOverdue(std::int64_t now) {
    bool any = false;
    for (auto& [id, tenant] : tenants_) {
      if (tenant.overdue_from == 0) continue;
      queue_.Charge(id, now - tenant.overdue_from, now);
      tenant.served += static_cast<std::uint64_t>(now - tenant.overdue_from);
      tenant.overdue_from = tenant.Look().pending ? now : 0;
      any |= tenant.overdue_from != 0;
    }
    return any;
  }

  // One look at what is left of the turn before; returns how much of the time since the last one
  // that took.
  std::int64_t LookAtTail(std::int64_t now) {
    if (tail_.empty()) return 0;
    Tenant& tenant = tenants_.at(tail_);
    const std::int64_t expected = tail_meter_.ExpectedEnd();
    std::int64_t took = tail_meter_.Look(tenant.Look(), now);
    const bool late = now - closed_ > kDrainNanosMax;
    if (!holder_.empty() && meter_.claimed() && now > expected + kHandOverNanos) {
      // By now the card does the work of both.
      tail_meter_.Return(took - took / 2);
      took /= 2;
    }
    if (tail_meter_.busy() && !late) return took;
    const std::int64_t served = tail_meter_.Take();
    queue_.Charge(tail_, served, now);
    tenant.served += static_cast<std::uint64_t>(served);
    if (tail_meter_.busy()) {
      ++counters_.overdue;
      tenant.overdue_from = now;
    }
    tail_.clear();
    return took;
  }

  // Often, and at the very moment from which the next one's work may come behind it.
  std::int64_t NextLookAtTail(std::int64_t now) const {
    if (tail_.empty()) return TurnQueue::kNever;
    const std::int64_t follow = tail_meter_.ExpectedEnd() - kHandOverNanos;
    return follow > now ? std::min(follow, now + kLookNanosClose) : now + kLookNanosClose;
  }

  // Whether this tenant's work may come behind what is left of the turn before.
  bool MayFollow(const std::string& id, std::int64_t now) {
    if (tail_.empty()) return true;
    if (tail_ == id) return false;
    // Its own work is short and must not wait for a wake-up; what stands before it is a window.
    if (tenants_.at(id).terms.priority_class > tenants_.at(tail_).terms.priority_class) return true;
    return !tail_meter_.inside() && tail_meter_.ExpectedEnd() - now <= kHandOverNanos;
  }

  void Run() {
    std::unique_lock lock(turns_->mutex_);
    std::int64_t overdue_look = kLookNanosOverdue;
    while (!stopping_) {
      const std::int64_t now = Now();
      if (!gated_) {
        Sleep(&lock, TurnQueue::kNever, false);
        continue;
      }
      if (parked_) Unpark(now);
      Hear(now);
      const bool overdue = ChargeOverdue(now);
      const std::int64_t others = LookAtTail(now);
      const std::int64_t close = NextLookAtTail(now);
      if (Called() && !reserved_ && (holder_.empty() || holder_ != turns_->called_->id)) {
        if (!holder_.empty() && !led_) (void)meter_.Look(ProgressOf(holder_), now, others);
        if (!Assemble(now)) Sleep(&lock, reserved_ ? close : now + kLookNanosClose, true);
        continue;
      }
      if (reserved_ || led_) {
        Sleep(&lock, close, true);
        continue;
      }
      if (holder_.empty()) {
        std::int64_t look_again = TurnQueue::kNever;
        if (Pick(now, &look_again)) {
          overdue_look = kLookNanosOverdue;
          continue;
        }
        if (overdue) {
          look_again = std::min(look_again, now + overdue_look);
          overdue_look = std::min(2 * overdue_look, kLookNanosMax);
        }
        Sleep(&lock, std::min(look_again, close), true);
        continue;
      }
      const std::int64_t until = Turn(now, others);
      if (!holder_.empty()) Sleep(&lock, std::min(until, close), true);
    }
  }

  // Begins the next turn or calls for it. False: not now.
  bool Pick(std::int64_t now, std::int64_t* look_again) {
    auto next = queue_.Next(now, look_again);
    if (!next) return false;
    const std::vector<CardTurns*> cards = CardsOf(next->id);
    if (cards.size() > 1) {
      if (turns_->called_ != nullptr) {
        *look_again = now + kLookNanosClose;
        return false;
      }
      if (std::all_of(cards.begin(), cards.end(), [&](CardTurns* card) {
            // Who has a card to himself is charged when he is looked at.
            if (card->parked_) card->Unpark(now);
            card->Ring();
            return card->queue_.MayBeCalled(next->id, now);
          })) {
        turns_->called_ = tenants_.at(next->id).gang;
        turns_->called_nanos_ = next->turn_nanos;
        return true;
      }
      // Others have to be served on its other cards first; here, that is nobody's loss but its own.
      queue_.CatchUp(next->id);
      next = queue_.Next(now, look_again, next->id);
      *look_again = now + kLookNanos;
      if (!next) return false;
    }
    if (!MayFollow(next->id, now)) return false;
    Begin(next->id, next->turn_nanos, now);
    return true;
  }

  void Begin(const std::string& id, std::int64_t nanos, std::int64_t now) {
    Tenant& tenant = tenants_.at(id);
    holder_ = id;
    parked_ = false;
    meter_.Begin(ProgressOf(id), now);
    end_ = now + nanos;
    tenant.arrivals = tenant.heard;
    ++counters_.turns;
    Grant(&tenant);
  }

  // Of all cards of its turns.
  Progress ProgressOf(const std::string& id) {
    Progress all;
    for (CardTurns* card : CardsOf(id)) {
      const Progress one = card->tenants_.at(id).Look();
      all.activity += one.activity;
      all.completed += one.completed;
      all.inside |= one.inside;
      all.pending |= one.pending;
      all.unmarked = std::max(all.unmarked, one.unmarked);
      all.outstanding = std::max(all.outstanding, one.outstanding);
    }
    return all;
  }

  // Whether, on any card of the holder, there is work of the turn before.
  bool HandsOver() {
    const std::vector<CardTurns*> cards = CardsOf(holder_);
    return std::any_of(cards.begin(), cards.end(),
                       [](const CardTurns* card) { return !card->tail_.empty(); });
  }

  // The holder had the card to itself and was not looked at; from now on its time counts again.
  void Unpark(std::int64_t now) {
    parked_ = false;
    for (CardTurns* card : CardsOf(holder_)) {
      card->queue_.ServeAlone(holder_, now - meter_.looked(), now);
      card->tenants_.at(holder_).served += static_cast<std::uint64_t>(now - meter_.looked());
    }
    meter_.Resume(ProgressOf(holder_), now);
    end_ = now;
  }

  // One look at who has the turn; returns when to look again, unless the turn is over.
  std::int64_t Turn(std::int64_t now, std::int64_t others) {
    const std::vector<CardTurns*> cards = CardsOf(holder_);
    const auto on_any = [&](auto holds) { return std::any_of(cards.begin(), cards.end(), holds); };
    (void)meter_.Look(ProgressOf(holder_), now, others);

    const bool contended =
        on_any([&](CardTurns* card) { return card->queue_.Contended(holder_, now); });
    const bool counted = tenants_.at(holder_).terms.Capped();
    if (!contended && !counted) {
      if (HandsOver()) return now + kLookNanosClose;
      parked_ = true;
      const std::int64_t served = meter_.Take();
      for (CardTurns* card : cards) {
        card->tenants_.at(holder_).served += static_cast<std::uint64_t>(served);
      }
      // Somebody may be held by a cap, and comes back without an arrival.
      std::int64_t look_again = TurnQueue::kNever;
      for (CardTurns* card : cards) {
        std::int64_t again = TurnQueue::kNever;
        (void)card->queue_.Next(now, &again);
        look_again = std::min(look_again, again);
      }
      return look_again;
    }
    const std::int64_t idle = contended ? kIdleNanosContended : kIdleNanosAlone;
    bool close = on_any([&](CardTurns* card) { return card->queue_.Outranked(holder_, now); });
    if (!meter_.claimed()) {
      if (now - meter_.begun() > kClaimNanosMax) {
        ++counters_.unclaimed;
        close = true;
      }
    } else if (!meter_.busy() && now - meter_.idle_from() >= idle) {
      close = true;
    } else if (now >= end_ && !close) {
      // Goes on without a break when it would be its turn again.
      Charge(now);
      std::int64_t ignored = 0;
      const auto next = queue_.Next(now, &ignored);
      const bool fair = cards.size() == 1 || !on_any([&](CardTurns* card) {
                          return !card->queue_.MayBeCalled(holder_, now);
                        });
      if (next && next->id == holder_ && fair) {
        end_ = now + next->turn_nanos;
      } else {
        close = true;
      }
    }
    // One turn is handed over at a time.
    if (close && HandsOver()) return now + kLookNanosClose;
    if (close) {
      Close(now);
      return now;
    }
    if (!meter_.claimed()) return now + kLookNanosClose;
    return std::min(std::max(end_, now + kLookNanosClose), now + kLookNanos);
  }

  // The holder's turn is over, on all its cards; its work in hand is not.
  void Close(std::int64_t now) {
    Charge(now);
    const std::string id = holder_;
    const std::vector<CardTurns*> cards = CardsOf(id);
    // Whoever still waits has said so since the turn began, or will say so when it meets the shut
    // gate.
    bool waits = false;
    for (CardTurns* card : cards) {
      Tenant& tenant = card->tenants_.at(id);
      waits |= tenant.heard != tenant.arrivals;
      card->Shut(&tenant);
      card->tail_ = id;
      card->tail_meter_ = meter_;
      if (cards.size() > 1) card->tail_meter_.Resume(tenant.Look(), now);
      card->closed_ = now;
      card->Forget();
      if (card != this) card->Ring();
    }
    for (CardTurns* card : cards) {
      if (!waits) card->queue_.Leave(id, now);
    }
  }

  void Charge(std::int64_t now) {
    const std::int64_t served = meter_.Take();
    for (CardTurns* card : CardsOf(holder_)) {
      card->queue_.Charge(holder_, served, now);
      card->tenants_.at(holder_).served += static_cast<std::uint64_t>(served);
    }
  }

  Turns* const turns_;
  std::thread thread_;
  bool stopping_ = false;
  bool gated_ = false;
  std::uint32_t bell_ = 0;
  std::map<std::string, Tenant> tenants_;
  TurnQueue queue_;
  TurnCounters counters_;

  // The turn that is on.
  std::string holder_;  // "": nobody's
  bool led_ = false;    // by another card, which looks at it and ends it
  bool parked_ = false;
  TurnMeter meter_;
  std::int64_t end_ = 0;
  bool reserved_ = false;  // for the gang that is called

  // The turn before, while its work is still on the card.
  std::string tail_;  // "": none
  TurnMeter tail_meter_;
  std::int64_t closed_ = 0;  // when it ended
};

Turns::Turns() = default;
Turns::~Turns() {
  {
    const std::lock_guard lock(mutex_);
    for (auto& [uuid, card] : cards_) card->Stop();
  }
  for (auto& [uuid, card] : cards_) card->Join();
}

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
    if (card == nullptr) card = std::make_unique<CardTurns>(this);
    card->Add(id, pages, i, TermsOf(cards[i]));
  }
  if (cards.size() < 2) return;
  auto gang = std::make_unique<Gang>();
  gang->id = id;
  for (auto& [uuid, card] : cards_) {
    if (card->Has(id)) gang->cards.push_back(card.get());
  }
  for (CardTurns* card : gang->cards) card->Join(id, gang.get());
  gangs_.insert_or_assign(id, std::move(gang));
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
  for (const std::string& uuid : at->second) cards_.at(uuid)->Part(id);
  for (const std::string& uuid : at->second) cards_.at(uuid)->Remove(id);
  gangs_.erase(id);
  uuids_.erase(at);
}

std::vector<TurnService> Turns::Service(const std::string& id) const {
  const std::lock_guard lock(mutex_);
  std::vector<TurnService> all;
  const auto at = uuids_.find(id);
  if (at == uuids_.end()) return all;
  for (const std::string& uuid : at->second) {
    all.push_back(cards_.at(uuid)->Service(id));
    all.back().card = uuid;
  }
  return all;
}

TurnCounters Turns::counters() const {
  const std::lock_guard lock(mutex_);
  TurnCounters all;
  for (const auto& [uuid, card] : cards_) {
    const TurnCounters& one = card->counters();
    all.turns += one.turns;
    all.unclaimed += one.unclaimed;
    all.overdue += one.overdue;
    all.wakes += one.wakes;
  }
  return all;
}

}  // namespace tessera::broker
