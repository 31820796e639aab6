// Which running orders must go so that another fits: the search, apart from who may be asked to go
// (queue.h has those rules). Pure.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "placement/engine.h"
#include "placement/quota.h"

namespace tessera::placement {

// What stopping costs, compared in this order: the sum of the victims' priorities (a negative one
// counts as 0), then of the time they have run, then their number. Every victim adds to it, so the
// cheapest set has nobody in it who is not needed.
struct VictimCost {
  std::uint64_t priority = 0;
  std::uint64_t lost_micros = 0;
  std::uint64_t number = 0;
  friend auto operator<=>(const VictimCost&, const VictimCost&) = default;
  VictimCost& operator+=(const VictimCost& other) {
    priority += other.priority;
    lost_micros += other.lost_micros;
    number += other.number;
    return *this;
  }
};

// Those that go together: one order, or a whole gang.
struct Victim {
  std::vector<std::string> ids;
  VictimCost cost;
};

// How often the searches of one decision ask `fits`, beyond the twice a victim that a minimal set
// takes. A search that reaches it keeps the best set found: minimal, though perhaps not the
// cheapest.
inline constexpr std::size_t kFitChecksMax = 4096;

// Indices into `victims` of the cheapest set that `fits` and is `legal`, in rising order; nullopt
// when there is none. `fits` must stay true and `legal` stay false when victims are added.
// `checks` counts down. Sets at or above `below` are not looked for.
std::optional<std::vector<std::size_t>> CheapestVictims(
    const std::vector<Victim>& victims,
    const std::function<bool(const std::vector<std::size_t>&)>& fits,
    const std::function<bool(const std::vector<std::size_t>&)>& legal,
    const std::optional<VictimCost>& below, std::size_t* checks);

VictimCost CostOf(const std::vector<Victim>& victims, const std::vector<std::size_t>& chosen);

// "What if these were gone": takes reservations out of the engine and the quotas, and puts all of
// them back when it ends.
class Absence {
 public:
  Absence(Engine& engine, QuotaTree& quotas) : engine_(engine), quotas_(quotas) {}
  Absence(const Absence&) = delete;
  Absence& operator=(const Absence&) = delete;
  ~Absence();

  void Take(const std::string& id, const std::string& tenant, const SliceAmount& amount);
  void Return(const std::string& id);
  bool Has(const std::string& id) const { return gone_.count(id) != 0; }

 private:
  struct Gone {
    std::optional<Reservation> reservation;
    std::string tenant;
    SliceAmount amount;
  };
  void PutBack(const Gone& gone);

  Engine& engine_;
  QuotaTree& quotas_;
  std::map<std::string, Gone> gone_;
};

}  // namespace tessera::placement
