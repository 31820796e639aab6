#include "placement/preempt.h"

#include <algorithm>

#include "base/check.h"

namespace tessera::placement {
namespace {

using Chosen = std::vector<std::size_t>;

class Search {
 public:
  Search(const std::vector<Victim>& victims, const std::function<bool(const Chosen&)>& fits,
         const std::function<bool(const Chosen&)>& legal, const std::optional<VictimCost>& below,
         std::size_t* checks)
      : victims_(victims), fits_(fits), legal_(legal), below_(below), checks_(checks) {
    for (std::size_t i = 0; i < victims.size(); ++i) order_.push_back(i);
    std::sort(order_.begin(), order_.end(), [&](std::size_t a, std::size_t b) {
      return victims[a].cost != victims[b].cost ? victims[a].cost < victims[b].cost
                                                : victims[a].ids < victims[b].ids;
    });
  }

  std::optional<Chosen> Run() {
    if (!Fits(Sorted(order_))) return std::nullopt;  // not even all of them
    Greedy();
    Chosen chosen;
    Branch(0, chosen, {}, false);
    return best_;
  }

 private:
  static Chosen Sorted(Chosen chosen) {
    std::sort(chosen.begin(), chosen.end());
    return chosen;
  }
  bool Fits(const Chosen& chosen) {
    if (*checks_ > 0) --*checks_;
    return fits_(chosen);
  }
  bool TooDear(const VictimCost& cost) const { return below_ && cost >= *below_; }
  void Accept(Chosen chosen, const VictimCost& cost) {
    best_ = std::move(chosen);
    below_ = cost;
  }

  // A set to begin with: from the cheapest until it fits, less whoever is not needed, the dearest
  // first.
  void Greedy() {
    Chosen chosen;
    bool fits = false;
    for (const std::size_t i : order_) {
      Chosen with = chosen;
      with.push_back(i);
      if (!legal_(Sorted(with))) continue;
      chosen = std::move(with);
      fits = Fits(Sorted(chosen));
      if (fits) break;
    }
    if (!fits) return;
    for (std::size_t at = chosen.size(); at-- > 0;) {
      Chosen without = chosen;
      without.erase(without.begin() + static_cast<std::ptrdiff_t>(at));
      if (Fits(Sorted(without))) chosen = std::move(without);
    }
    chosen = Sorted(std::move(chosen));
    const VictimCost cost = CostOf(victims_, chosen);
    if (!TooDear(cost)) Accept(std::move(chosen), cost);
  }

  // Every set in turn, less those that cannot be cheaper than the best or cannot fit any more.
  // `tried`: the chosen themselves are known not to fit.
  void Branch(std::size_t at, Chosen& chosen, const VictimCost& cost, bool tried) {
    if (*checks_ == 0 || TooDear(cost)) return;
    if (!tried) {
      if (!legal_(Sorted(chosen))) return;
      if (Fits(Sorted(chosen))) {
        Accept(Sorted(chosen), cost);
        return;
      }
    }
    if (at == order_.size() || *checks_ == 0) return;
    Chosen all = chosen;
    all.insert(all.end(), order_.begin() + static_cast<std::ptrdiff_t>(at), order_.end());
    if (!Fits(Sorted(std::move(all)))) return;
    const std::size_t next = order_[at];
    VictimCost with = cost;
    with += victims_[next].cost;
    chosen.push_back(next);
    Branch(at + 1, chosen, with, false);
    chosen.pop_back();
    Branch(at + 1, chosen, cost, true);
  }

  const std::vector<Victim>& victims_;
  const std::function<bool(const Chosen&)>& fits_;
  const std::function<bool(const Chosen&)>& legal_;
  std::optional<VictimCost> below_;
  std::size_t* const checks_;
  Chosen order_;  // cheapest first
  std::optional<Chosen> best_;
};

}  // namespace

VictimCost CostOf(const std::vector<Victim>& victims, const std::vector<std::size_t>& chosen) {
  VictimCost cost;
  for (const std::size_t i : chosen) cost += victims[i].cost;
  return cost;
}

std::optional<std::vector<std::size_t>> CheapestVictims(
    const std::vector<Victim>& victims, const std::function<bool(const Chosen&)>& fits,
    const std::function<bool(const Chosen&)>& legal, const std::optional<VictimCost>& below,
    std::size_t* checks) {
  return Search(victims, fits, legal, below, checks).Run();
}

Absence::~Absence() {
  for (const auto& [id, gone] : gone_) PutBack(gone);
}

void Absence::Take(const std::string& id, const std::string& tenant, const SliceAmount& amount) {
  if (gone_.count(id) != 0) return;
  const Gone gone{engine_.Find(id), tenant, amount};
  engine_.Release(id);
  if (quotas_.Limits(tenant)) quotas_.Remove(tenant, amount);
  gone_.emplace(id, gone);
}

void Absence::Return(const std::string& id) {
  const auto found = gone_.find(id);
  if (found == gone_.end()) return;
  PutBack(found->second);
  gone_.erase(found);
}

void Absence::PutBack(const Gone& gone) {
  if (gone.reservation) CHECK(engine_.Restore(*gone.reservation).has_value());
  if (quotas_.Limits(gone.tenant)) quotas_.Add(gone.tenant, gone.amount);
}

}  // namespace tessera::placement
