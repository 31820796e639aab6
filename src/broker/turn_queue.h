// Who has the next turn on one card: start-time fair queueing over the tenants (slices) that have
// work waiting, priority classes above it and hard caps beside it. Pure: no clock, no pages, no
// thread; every method is told the time, which never runs backwards.
//
//   weight   Each tenant has a virtual time that grows by served time / weight. The one furthest
//            behind is next. Who was away for less than kAbsenceNanos (a program preparing its
//            next work) comes back where it was; who was idle for longer starts no earlier than
//            the card's own virtual time, so that idleness earns nothing. What a tenant overran it
//            keeps in any case, so that debt is paid.
//   cap      An account filled with cap * time, up to cap * kCapPeriodNanos, and emptied by served
//            time. Below nothing is debt; a tenant goes on when it can pay for kCapTurnNanosMin.
//            So in any span a tenant is served at most cap * (span + kCapPeriodNanos) and what its
//            last indivisible work overran, and a busy one gets its cap exactly in the long run.
//   led      A tenant of several cards has its turns on all of them together, called from one of
//            them. On the others it is not picked; those say whether it may be called, which is
//            when it is no further ahead than one turn. Waiting for the other cards earns it no
//            more than that either.
//   class    While a higher class has work that its caps allow, no lower one is picked.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>

namespace tessera::broker {

inline constexpr std::int64_t kCapPeriodNanos = 100'000'000;
inline constexpr std::int64_t kCapTurnNanosMin = 10'000'000;
// A turn is kRoundNanos divided by who contends, within these: a round of all stays short, and up
// to four have the longest turns, because every hand-over costs the card some time.
inline constexpr std::int64_t kTurnNanosMin = 2'000'000;
inline constexpr std::int64_t kTurnNanosMax = 10'000'000;
inline constexpr std::int64_t kRoundNanos = 40'000'000;
inline constexpr std::int64_t kAbsenceNanos = 100'000'000;
// No single charge counts for more (a card that hung for hours must not stop a tenant for weeks).
inline constexpr std::int64_t kChargeNanosMax = 10'000'000'000;

struct TurnTerms {
  std::uint32_t weight = 1;          // at least 1; 0 is taken for 1
  std::uint32_t cap_permille = 0;    // 0 or from 1000 on: none
  std::uint32_t priority_class = 0;  // higher goes first
  bool operator==(const TurnTerms&) const = default;
  bool Capped() const { return cap_permille > 0 && cap_permille < 1000; }
};

// Not thread-safe.
class TurnQueue {
 public:
  // A new tenant, or other terms for one that is there; it keeps its virtual time and debt.
  void Set(const std::string& id, const TurnTerms& terms, std::int64_t now);
  void Remove(const std::string& id);
  // It has work waiting; it has none any more. Both may be said twice.
  void Arrive(const std::string& id, std::int64_t now);
  void Leave(const std::string& id, std::int64_t now);
  // It was served for so long, up to now.
  void Charge(const std::string& id, std::int64_t served, std::int64_t now);
  // It had the card to itself for so long. That costs it nothing against those who come now, and
  // pays what others overran.
  void ServeAlone(const std::string& id, std::int64_t passed, std::int64_t now);

  struct Pick {
    std::string id;
    std::int64_t turn_nanos = 0;  // how long its turn may last
  };
  // The next turn, changing nothing but the caps' accounts; nullopt when nobody may go.
  // `look_again` is then when a cap allows somebody to go, or kNever.
  static constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();
  // `without`: one that cannot be picked now.
  std::optional<Pick> Next(std::int64_t now, std::int64_t* look_again,
                           const std::string& without = {});

  // Whether somebody else could go now: of any class, or of a class above this tenant's.
  bool Contended(const std::string& id, std::int64_t now);
  bool Outranked(const std::string& id, std::int64_t now);
  bool Backlogged(const std::string& id) const;

  // Its turns are called from another card (not: picked here).
  void SetLed(const std::string& id, bool led);
  // Whether a turn of a led tenant is fair to the others here.
  bool MayBeCalled(const std::string& id, std::int64_t now);
  // It was next and could not be, or it begins after others had the card in its stead.
  void CatchUp(const std::string& id);
  // Whether several classes are registered: then windows and turns are kept small.
  bool HasClasses() const;

 private:
  struct Tenant {
    TurnTerms terms;
    bool backlogged = false;
    bool held = false;  // by its cap, when it was last looked at
    bool led = false;
    std::int64_t virtual_time = 0;
    std::int64_t left_at = std::numeric_limits<std::int64_t>::min() / 2;
    std::int64_t account = 0;  // nanoseconds * 1000: what the cap allows at once
    std::int64_t filled_at = 0;
  };

  static constexpr std::int64_t kWeightScale = 1000;
  void Fill(Tenant* tenant, std::int64_t now);
  // Backlogged and allowed by its cap. Whoever comes out of its cap's hold starts anew.
  bool MayGo(Tenant* tenant, std::int64_t now);
  static std::int64_t OneTurn(const Tenant& tenant) {
    return kTurnNanosMax * kWeightScale / tenant.terms.weight;
  }
  std::int64_t TurnNanos(const Tenant& tenant, std::int64_t now);

  std::map<std::string, Tenant> tenants_;
  std::int64_t virtual_now_ = 0;
};

}  // namespace tessera::broker
