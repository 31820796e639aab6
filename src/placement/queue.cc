#include "placement/queue.h"

#include <algorithm>
#include <deque>
#include <functional>
#include <tuple>
#include <utility>

#include "base/check.h"

namespace tessera::placement {
namespace {

SliceAmount& operator+=(SliceAmount& a, const SliceAmount& b) {
  a.card_millis += b.card_millis;
  a.memory_bytes += b.memory_bytes;
  return a;
}

// Whether two requests ask for the same, but for their ids.
bool Alike(Request a, const Request& b) {
  a.id = b.id;
  return a == b;
}

// Whether a gang minds where its members are: the places in a reservation are given.
bool Choosy(const Order& order) { return order.gang_node_min > 1 || order.gang_one_rack; }

SliceAmount FleetOf(const Engine& engine) {
  SliceAmount fleet;
  for (const NodeUse& node : engine.Nodes()) {
    for (const CardUse& card : node.cards) {
      fleet.card_millis += 1000;
      fleet.memory_bytes += card.card.memory_bytes;
    }
  }
  return fleet;
}

}  // namespace

// One decision.
struct Queue::Walk {
  Engine& engine;
  const std::int64_t now;
  const std::set<std::string>& unavailable;
  const std::set<std::string> away;  // unavailable for longer than a moment
  QuotaTree promised;  // what is held, and what those looked at so far wait for a node with
  Decision decision;
  std::size_t ahead = 0;        // of those looked at so far, who wait for nodes
  std::set<std::string> taken;  // unavailable, or claimed by somebody looked at so far
  std::map<std::string, std::int64_t> free_until;  // claimed, but usable by who is gone by then
  std::set<std::string> short_of_quota;            // tenants of whom an order waits for it
  bool bounded = false;                            // some waiting order says how long it runs
  std::size_t certain_starts = 0;
  std::size_t checks = kFitChecksMax;
  CapacityReservations* reservations = nullptr;
  std::map<std::string, std::size_t> wanted;  // units, by reservation, of who waited for them
  std::map<std::string, std::size_t> spoken;  // units that are kept for those looked at so far

  // What runs in a reservation leaves its place to that, whenever it goes.
  bool Inside(const std::string& id) const {
    return reservations != nullptr && reservations->Of(id) != nullptr;
  }
};

Status Queue::SetPolicy(const QueuePolicy& policy) {
  TRY(QuotaTree quotas, QuotaTree::Make(policy.quotas));
  for (const auto& [id, entry] : entries_) {
    if (entry.placed && entry.known) {
      quotas.Add(entry.order.request.tenant, AmountOf(entry.order.request));
    }
  }
  policy_ = policy;
  quotas_ = std::move(quotas);
  return {};
}

void Queue::SetRack(const std::string& node, const std::string& rack) {
  if (rack.empty()) {
    racks_.erase(node);
  } else {
    racks_[node] = rack;
  }
}

Status Queue::Check(const Order& order) const {
  TRY_STATUS(Validate(order.request));
  if (order.run_micros > kRunMicrosMax) {
    return Error::Field("run_micros",
                        "expected at most run_micros_max (" + std::to_string(kRunMicrosMax) + ")");
  }
  if (order.gang.empty()) {
    if (order.gang_size != 0) {
      return Error::Field("gang_size",
                          "expected 0 without a gang, got " + std::to_string(order.gang_size));
    }
    if (order.gang_one_rack) return Error::Field("gang_one_rack", "expected a gang");
    return {};
  }
  if (order.gang.size() > kRequestIdBytesMax) {
    return Error::Field("gang",
                        "expected at most " + std::to_string(kRequestIdBytesMax) + " bytes");
  }
  if (order.gang_size < 1 || order.gang_size > kGangSizeMax) {
    return Error::Field("gang_size", "expected 1 to " + std::to_string(kGangSizeMax) + ", got " +
                                         std::to_string(order.gang_size));
  }
  if (order.gang_node_min < 1 || order.gang_node_min > order.gang_size) {
    return Error::Field("gang_node_min", "expected 1 to gang_size (" +
                                             std::to_string(order.gang_size) + "), got " +
                                             std::to_string(order.gang_node_min));
  }
  if (!order.reservation.empty() && Choosy(order)) {
    return Error::Field(order.gang_node_min > 1 ? "gang_node_min" : "gang_one_rack",
                        "expected none in a reservation, whose places are given");
  }
  const auto gang = gangs_.find(GangKey(order));
  if (gang == gangs_.end()) return {};
  const Order& member = entries_.at(*gang->second.begin()).order;
  if (member.gang_size != order.gang_size || member.preemptible != order.preemptible ||
      member.reservation != order.reservation || member.gang_node_min != order.gang_node_min ||
      member.gang_one_rack != order.gang_one_rack || !Alike(member.request, order.request)) {
    return Error::Field(
        "gang", "expected the shape, priority and size of the gang's member " + member.request.id);
  }
  if (gang->second.size() >= order.gang_size) {
    return Error::Field("gang_size", "expected at most " + std::to_string(order.gang_size) +
                                         " members; the gang is full");
  }
  return {};
}

// Everything that follows from an order's being placed and known.
void Queue::Hold(Entry& entry, bool holds) {
  const Order& order = entry.order;
  const SliceAmount amount = AmountOf(order.request);
  if (holds) {
    quotas_.Add(order.request.tenant, amount);
    if (order.run_micros > 0) ending_.insert(order.request.id);
    if (order.preemptible) preemptible_.insert(order.request.priority);
    return;
  }
  quotas_.Remove(order.request.tenant, amount);
  ending_.erase(order.request.id);
  evicted_.erase(order.request.id);
  if (order.preemptible && !entry.evicted) {
    preemptible_.erase(preemptible_.find(order.request.priority));
  }
  entry.evicted = false;
}

void Queue::Evict(const std::string& id) {
  Entry& entry = entries_.at(id);
  entry.evicted = true;
  evicted_.insert(id);
  if (entry.order.preemptible) preemptible_.erase(preemptible_.find(entry.order.request.priority));
}

Status Queue::Add(const Order& order) {
  if (entries_.count(order.request.id) != 0) {
    return Error(Code::kAlreadyExists, "order " + order.request.id + " is known");
  }
  if (entries_.size() >= kOrdersMax) {
    return Error(Code::kResourceExhausted,
                 "orders_max (" + std::to_string(kOrdersMax) + ") is reached");
  }
  TRY_STATUS(Check(order));
  SliceAmount ask = AmountOf(order.request);
  const std::uint64_t members = std::max<std::uint64_t>(1, order.gang_size);
  ask.card_millis *= members;
  ask.memory_bytes *= members;
  if (const auto denial = quotas_.Check(order.request.tenant, ask); denial && denial->never) {
    return Error(Code::kFailedPrecondition, denial->message);
  }
  Entry entry;
  entry.order = order;
  entry.sequence = next_sequence_++;
  waiting_.emplace(entry.sequence, order.request.id);
  if (!order.gang.empty()) gangs_[GangKey(order)].insert(order.request.id);
  entries_.emplace(order.request.id, std::move(entry));
  return {};
}

Status Queue::Adopt(const Order& order, std::int64_t placed_micros, bool known) {
  if (entries_.size() >= kOrdersMax) {
    return Error(Code::kResourceExhausted,
                 "orders_max (" + std::to_string(kOrdersMax) + ") is reached");
  }
  const auto [found, added] = entries_.try_emplace(order.request.id);
  if (!added) return Error(Code::kAlreadyExists, "order " + order.request.id + " is known");
  Entry& entry = found->second;
  entry.sequence = next_sequence_++;
  entry.placed = true;
  entry.known = false;
  entry.placed_micros = placed_micros;
  entry.order.request.id = order.request.id;
  if (known) Describe(order);
  return {};
}

bool Queue::Describe(const Order& order) {
  const auto found = entries_.find(order.request.id);
  if (found == entries_.end() || found->second.known) return false;
  Entry& entry = found->second;
  entry.order = order;
  entry.known = true;
  if (!order.gang.empty()) gangs_[GangKey(order)].insert(order.request.id);
  Hold(entry, true);
  return true;
}

void Queue::PutBack(const std::string& id) {
  Entry& entry = entries_.at(id);
  CHECK(entry.placed && entry.known);
  Hold(entry, false);
  entry.placed = false;
  entry.put_back = true;
  waiting_.emplace(entry.sequence, id);
}

bool Queue::Remove(const std::string& id) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) return false;
  Entry& entry = found->second;
  if (entry.placed && entry.known) Hold(entry, false);
  waiting_.erase(entry.sequence);
  nominated_.erase(id);
  if (!entry.order.gang.empty()) {
    const auto gang = gangs_.find(GangKey(entry.order));
    gang->second.erase(id);
    if (gang->second.empty()) gangs_.erase(gang);
  }
  entries_.erase(found);
  return true;
}

std::vector<std::string> Queue::Waiting() const {
  std::vector<std::string> ids;
  for (const auto& [sequence, id] : waiting_) ids.push_back(id);
  return ids;
}

bool Queue::Waits(const std::string& id) const {
  const auto found = entries_.find(id);
  return found != entries_.end() && !found->second.placed;
}

const Order* Queue::Find(const std::string& id) const {
  const auto found = entries_.find(id);
  return found == entries_.end() ? nullptr : &found->second.order;
}

bool Queue::Known(const std::string& id) const {
  const auto found = entries_.find(id);
  return found != entries_.end() && found->second.known;
}

std::optional<Standing> Queue::StandingOf(const std::string& id) const {
  const auto found = entries_.find(id);
  if (found == entries_.end() || found->second.placed) return std::nullopt;
  Standing standing = found->second.standing;
  standing.position = Ahead(id).size() + 1;
  return standing;
}

std::vector<std::string> Queue::Ahead(const std::string& id) const {
  std::vector<std::string> ahead;
  for (const std::string& other : walked_) {
    if (other == id) break;
    if (Waits(other)) ahead.push_back(other);
  }
  return ahead;
}

std::vector<std::string> Queue::GangOf(const std::string& id) const {
  const auto found = entries_.find(id);
  if (found == entries_.end() || found->second.order.gang.empty()) return {};
  std::vector<std::string> others;
  for (const std::string& member : gangs_.at(GangKey(found->second.order))) {
    if (member != id) others.push_back(member);
  }
  return others;
}

// ---- one decision ----

std::vector<Queue::Unit> Queue::Units() {
  std::map<std::string, Unit> gangs;
  std::vector<Unit> units;
  for (const auto& [sequence, id] : waiting_) {
    Entry& entry = entries_.at(id);
    const Order& order = entry.order;
    if (order.gang.empty()) {
      units.push_back({{id}, sequence, &order, AmountOf(order.request), 1});
      continue;
    }
    const std::string key = GangKey(order);
    const std::set<std::string>& members = gangs_.at(key);
    if (members.size() < order.gang_size && !entry.put_back) {
      entry.standing = {0, "gang",
                        "gang: " + std::to_string(members.size()) + " of " +
                            std::to_string(order.gang_size) + " members are here"};
      continue;
    }
    Unit& unit = gangs[key];
    if (unit.ids.empty()) {
      unit.order = &order;
      const auto placed = std::find_if(members.begin(), members.end(), [&](const auto& member) {
        return entries_.at(member).placed;
      });
      unit.node_min = placed != members.end() ? 1 : order.gang_node_min;
      if (placed != members.end() && order.gang_one_rack) unit.rack_of = *placed;
    }
    unit.ids.push_back(id);
    unit.sequence = sequence;  // of the last
    unit.ask += AmountOf(order.request);
  }
  for (auto& [key, unit] : gangs) units.push_back(std::move(unit));
  for (Unit& unit : units) unit.nominated = nominated_.count(unit.ids.front()) != 0;
  std::sort(units.begin(), units.end(), [](const Unit& a, const Unit& b) {
    return std::tuple(!a.nominated, -std::int64_t{a.order->request.priority}, a.sequence) <
           std::tuple(!b.nominated, -std::int64_t{b.order->request.priority}, b.sequence);
  });
  return units;
}

Queue::Decision Queue::Decide(Engine& engine, std::int64_t now_micros,
                              const std::set<std::string>& unavailable,
                              const std::set<std::string>& unsettled,
                              CapacityReservations* reservations) {
  walked_.clear();
  if (waiting_.empty()) return {};
  engine.Learn();
  std::set<std::string> away = unavailable;
  for (const std::string& node : unsettled) away.erase(node);
  Walk walk{.engine = engine,
            .now = now_micros,
            .unavailable = unavailable,
            .away = std::move(away),
            .promised = policy_.quotas.empty() ? QuotaTree() : quotas_,
            .taken = unavailable,
            .reservations = reservations};
  CountWanted(walk);
  for (const auto& [sequence, id] : waiting_) {
    walk.bounded = walk.bounded || entries_.at(id).order.run_micros > 0;
  }
  WalkAll(walk, Units());
  // Once the last of those who go for others has left, whoever they went for has had his turn.
  if (evicted_.empty()) nominated_.clear();
  return std::move(walk.decision);
}

void Queue::WalkAll(Walk& walk, std::vector<Unit> units) {
  if (!policy_.fair_share) {
    for (const Unit& unit : units) Look(walk, unit);
    return;
  }
  const SliceAmount fleet = FleetOf(walk.engine);
  std::size_t begin = 0;
  for (; begin < units.size() && units[begin].nominated; ++begin) Look(walk, units[begin]);
  while (begin < units.size()) {
    std::map<std::string, std::deque<Unit>> by_tenant;
    const int priority = units[begin].order->request.priority;
    for (; begin < units.size() && units[begin].order->request.priority == priority; ++begin) {
      by_tenant[units[begin].order->request.tenant].push_back(std::move(units[begin]));
    }
    while (!by_tenant.empty()) {
      // Down from the root: at each level the quota whose tree holds the least for its weight.
      std::vector<std::pair<std::vector<std::string>, std::string>> heads;
      for (const auto& [tenant, line] : by_tenant) {
        heads.emplace_back(quotas_.Path(tenant), tenant);
      }
      const auto first = [&](const std::string& tenant) {
        return by_tenant.at(tenant).front().sequence;
      };
      for (std::size_t level = 0; heads.size() > 1; ++level) {
        // A tenant that is itself a group competes at its own level with those below it.
        const auto name = [&](const auto& head) {
          return level < head.first.size() ? head.first[level] : std::string();
        };
        std::map<std::string, std::pair<std::uint64_t, std::uint64_t>> groups;
        for (const auto& head : heads) {
          const std::string group = name(head);
          const std::uint64_t share = quotas_.Share(group.empty() ? head.second : group, fleet);
          const auto [at, added] = groups.emplace(group, std::pair{share, first(head.second)});
          if (!added) at->second.second = std::min(at->second.second, first(head.second));
        }
        const auto best =
            std::min_element(groups.begin(), groups.end(),
                             [](const auto& a, const auto& b) { return a.second < b.second; });
        const std::string chosen = best->first;
        std::erase_if(heads, [&](const auto& head) { return name(head) != chosen; });
      }
      const auto line = by_tenant.find(heads.front().second);
      const Unit unit = std::move(line->second.front());
      line->second.pop_front();
      if (line->second.empty()) by_tenant.erase(line);
      Look(walk, unit);
    }
  }
}

void Queue::Wait(const Unit& unit, const std::string& rule, const std::string& message) {
  for (const std::string& id : unit.ids) entries_.at(id).standing = {0, rule, message};
}

std::variant<std::vector<Placement>, Scarcity> Queue::Place(
    Engine& engine, const Unit& unit, const std::set<std::string>& avoid) const {
  if (unit.ids.size() == 1) {
    if (const Placement* placed = engine.Place(unit.order->request, avoid)) {
      return std::vector<Placement>{*placed};
    }
    return engine.WhyNot(unit.order->request, avoid);
  }
  std::vector<Request> members;
  for (const std::string& id : unit.ids) members.push_back(entries_.at(id).order.request);
  return PlaceGang(engine, members, unit.node_min, racks_, avoid, unit.order->gang_one_rack);
}

// A node without a rack is one of its own.
std::set<std::string> Queue::OtherRacks(const Engine& engine, const std::string& node) const {
  const auto rack = racks_.find(node);
  std::set<std::string> others;
  for (const NodeUse& other : engine.Nodes()) {
    const auto there = racks_.find(other.name);
    const bool same = other.name == node || (rack != racks_.end() && there != racks_.end() &&
                                             rack->second == there->second);
    if (!same) others.insert(other.name);
  }
  return others;
}

std::optional<Scarcity> Queue::Consider(Engine& engine, const Unit& unit,
                                        const std::set<std::string>& avoid) const {
  if (unit.ids.size() == 1) {
    if (engine.Consider(unit.order->request, avoid) != nullptr) return std::nullopt;
    return engine.WhyNot(unit.order->request, avoid);
  }
  auto answer = Place(engine, unit, avoid);
  if (auto* scarcity = std::get_if<Scarcity>(&answer)) return std::move(*scarcity);
  for (const Placement& placement : std::get<std::vector<Placement>>(answer)) {
    engine.Release(placement.request_id);
  }
  return std::nullopt;
}

bool Queue::Fits(Engine& engine, const QuotaTree& quotas, const Unit& unit,
                 const std::set<std::string>& avoid) const {
  if (quotas.Check(unit.order->request.tenant, unit.ask)) return false;
  if (unit.ids.size() == 1) return engine.Consider(unit.order->request, avoid) != nullptr;
  return !Consider(engine, unit, avoid);
}

// Whether its quota admits the unit; says why not.
Queue::Admission Queue::CheckQuota(Walk& walk, const Unit& unit) {
  const std::string& tenant = unit.order->request.tenant;
  if (!quotas_.Limits(tenant)) return Admission::kAdmitted;
  if (walk.short_of_quota.count(tenant) != 0) {
    Wait(unit, "quota", "quota: an earlier order of this tenant waits for quota");
    return Admission::kHeldBack;
  }
  const bool behind =
      walk.promised.Borrows(tenant, unit.ask) &&
      std::any_of(walk.short_of_quota.begin(), walk.short_of_quota.end(),
                  [&](const auto& other) { return quotas_.SameTree(tenant, other); });
  if (const auto denial = quotas_.Check(tenant, unit.ask)) {
    Wait(unit, "quota", denial->message);
    // What a change of the policy made impossible waits for another change and holds up nobody.
    if (!denial->never) walk.short_of_quota.insert(tenant);
    // Nobody is stopped for one who could not have what that frees.
    return behind ? Admission::kHeldBack : Admission::kShort;
  }
  if (walk.promised.Check(tenant, unit.ask)) {
    Wait(unit, "quota", "quota: what is left of it is kept for earlier orders");
    walk.short_of_quota.insert(tenant);
    return Admission::kHeldBack;
  }
  if (behind) {
    Wait(unit, "quota",
         "quota: it would borrow (over its nominal quota), and an earlier order of its group "
         "waits for quota");
    return Admission::kHeldBack;
  }
  return Admission::kAdmitted;
}

void Queue::Look(Walk& walk, const Unit& unit) {
  for (const std::string& id : unit.ids) walked_.push_back(id);
  std::set<std::string> wider;
  const std::set<std::string>* avoid = &walk.taken;
  if (unit.order->run_micros > 0 && !walk.free_until.empty()) {
    wider = walk.taken;
    const std::int64_t gone = walk.now + static_cast<std::int64_t>(unit.order->run_micros);
    for (const auto& [node, until] : walk.free_until) {
      if (gone <= until && walk.unavailable.count(node) == 0) wider.erase(node);
    }
    avoid = &wider;
  }
  if (!unit.rack_of.empty()) {
    // Others of its gang have places: it joins them.
    if (const auto held = walk.engine.Find(unit.rack_of)) {
      if (avoid != &wider) wider = walk.taken;
      avoid = &wider;
      wider.merge(OtherRacks(walk.engine, held->placement.node));
    }
  }
  const Admission admission = CheckQuota(walk, unit);
  if (admission == Admission::kHeldBack || LookInside(walk, unit, admission)) return;
  if (admission == Admission::kShort) {
    if (WaitsForEvictions(walk, unit, *avoid) || Preempt(walk, unit, *avoid)) {
      // What is freed for it is kept for it, so nothing else needs to be held back.
      walk.short_of_quota.erase(unit.order->request.tenant);
      Claim(walk, unit);
    }
    return;
  }
  auto answer = Place(walk.engine, unit, *avoid);
  if (auto* placed = std::get_if<std::vector<Placement>>(&answer)) {
    if (unit.ids.size() > 1) {
      for (const std::string& id : unit.ids) walk.engine.Arrived(entries_.at(id).order.request);
    }
    Keep(walk, unit, std::move(*placed));
    return;
  }
  if (walk.reservations != nullptr && !Choosy(*unit.order)) {
    for (const std::string& id : walk.reservations->OpenTo(unit.order->request)) {
      if (CallBack(walk, unit, id)) return;
    }
    if (unit.order->preemptible) {
      for (const std::string& id : walk.reservations->LendingTo(unit.order->request)) {
        if (TakeUnits(walk, unit, id, true)) return;
      }
    }
  }
  const Scarcity& scarcity = std::get<Scarcity>(answer);
  if (Fits(walk.engine, quotas_, unit, walk.unavailable)) {
    Wait(unit, "queue",
         "queue: " + std::to_string(walk.ahead) + " earlier request(s) wait for the same nodes");
  } else {
    const auto why = Consider(walk.engine, unit, {});
    Wait(unit, why ? "fit" : "node", why ? why->message : scarcity.message);
  }
  if (!WaitsForEvictions(walk, unit, *avoid)) Preempt(walk, unit, *avoid);
  Claim(walk, unit);
}

void Queue::Keep(Walk& walk, const Unit& unit, std::vector<Placement> placed) {
  CHECK(placed.size() == unit.ids.size());
  for (Placement& placement : placed) {
    Entry& entry = entries_.at(placement.request_id);
    waiting_.erase(entry.sequence);
    entry.placed = true;
    entry.placed_micros = walk.now;
    Hold(entry, true);
    walk.promised.Add(entry.order.request.tenant, AmountOf(entry.order.request));
    walk.decision.placed.push_back(std::move(placement));
  }
}

// ---- reservations ----

void Queue::CountWanted(Walk& walk) const {
  if (walk.reservations == nullptr || walk.reservations->empty()) return;
  for (const auto& [sequence, id] : waiting_) {
    const Order& order = entries_.at(id).order;
    if (!order.reservation.empty()) {
      ++walk.wanted[order.reservation];
      continue;
    }
    if (Choosy(order)) continue;
    for (const std::string& open : walk.reservations->OpenTo(order.request)) ++walk.wanted[open];
  }
}

// Units are lent only while more are free than anybody waited for.
bool Queue::TakeUnits(Walk& walk, const Unit& unit, const std::string& id, bool lent) {
  const std::size_t kept = lent ? std::max(walk.spoken[id], walk.wanted[id]) : walk.spoken[id];
  if (walk.reservations->Usable(id, walk.unavailable) < kept + unit.ids.size()) return false;
  std::vector<Placement> placed;
  for (const std::string& member : unit.ids) {
    placed.push_back(walk.reservations->Take(walk.engine, id, entries_.at(member).order.request,
                                             lent, walk.unavailable));
  }
  Keep(walk, unit, std::move(placed));
  return true;
}

// Whether that is all there is to do: it got units, or it can wait for nothing else.
bool Queue::LookInside(Walk& walk, const Unit& unit, Admission admission) {
  const std::string& named = unit.order->reservation;
  if (named.empty()) {
    if (walk.reservations == nullptr || admission != Admission::kAdmitted) return false;
    if (Choosy(*unit.order)) return false;
    const auto open = walk.reservations->OpenTo(unit.order->request);
    return std::any_of(open.begin(), open.end(),
                       [&](const std::string& id) { return TakeUnits(walk, unit, id, false); });
  }
  if (admission != Admission::kAdmitted) return true;  // CheckQuota said why
  if (walk.reservations == nullptr || walk.reservations->Units(named) == 0) {
    Wait(unit, "reservation", "reservation: " + named + " is not active");
    return true;
  }
  if (TakeUnits(walk, unit, named, false) || CallBack(walk, unit, named)) return true;
  const std::size_t usable = walk.reservations->Usable(named, walk.unavailable);
  Wait(unit, "reservation",
       "reservation: " + std::to_string(usable) + " of " +
           std::to_string(walk.reservations->Units(named)) + " units of " + named + " are free, " +
           std::to_string(walk.spoken[named]) + " of them for earlier orders; " +
           std::to_string(unit.ids.size()) + " asked");
  walk.spoken[named] += unit.ids.size();
  return true;
}

// Whether the unit gets its place in the reservation once those who borrowed there have left; they
// are told to go, the least important and youngest first.
bool Queue::CallBack(Walk& walk, const Unit& unit, const std::string& id) {
  const std::size_t need = walk.spoken[id] + unit.ids.size();
  const std::size_t usable = walk.reservations->Usable(id, walk.unavailable);
  std::vector<std::string> staying = walk.reservations->Borrowers(id);
  if (usable + staying.size() < need) return false;
  walk.spoken[id] = need;
  const std::size_t all = staying.size();
  std::erase_if(staying, [&](const std::string& one) { return entries_.at(one).evicted; });
  const std::size_t leaving = all - staying.size();
  std::sort(staying.begin(), staying.end(), [&](const std::string& a, const std::string& b) {
    const Entry& left = entries_.at(a);
    const Entry& right = entries_.at(b);
    if (left.order.request.priority != right.order.request.priority) {
      return left.order.request.priority < right.order.request.priority;
    }
    return left.placed_micros != right.placed_micros ? left.placed_micros > right.placed_micros
                                                     : a < b;
  });
  for (std::size_t i = 0; usable + leaving + i < need; ++i) {
    Evict(staying[i]);
    walk.decision.evictions.push_back({staying[i], unit.ids.front(),
                                       "called back: the owner of the reservation whose unit it "
                                       "borrowed needs it"});
  }
  Wait(unit, "eviction",
       "eviction: waits until a borrowed unit of reservation " + id + " is given back");
  return true;
}

bool Queue::WaitsForEvictions(Walk& walk, const Unit& unit, const std::set<std::string>& avoid) {
  if (evicted_.empty()) return false;
  bool fits = false;
  {
    Absence absence(walk.engine, walk.promised);
    for (const std::string& id : evicted_) {
      if (walk.Inside(id)) continue;
      const Order& order = entries_.at(id).order;
      absence.Take(id, order.request.tenant, AmountOf(order.request));
    }
    fits = Fits(walk.engine, walk.promised, unit, avoid);
  }
  if (fits) {
    Wait(unit, "eviction",
         "eviction: waits until " + std::to_string(evicted_.size()) + " order(s) have left");
  }
  return fits;
}

// ---- who must go ----

bool Queue::ByPriority(const Entry& entry, const Unit& unit) {
  return entry.order.preemptible && entry.order.request.priority < unit.order->request.priority;
}

// Whether the asker may have it stopped by priority alone. Where an owner reclaims from a higher
// priority, who borrows stops nobody of his tree who keeps to his own quota, or the two would stop
// each other for ever.
bool Queue::Freely(const Entry& entry, const Unit& unit, const QuotaTree& staying) const {
  if (!ByPriority(entry, unit)) return false;
  if (policy_.reclaim != Reclaim::kAny) return true;
  const std::string& asker = unit.order->request.tenant;
  const std::string& victim = entry.order.request.tenant;
  return asker == victim || !staying.SameTree(asker, victim) || !staying.Borrows(asker, unit.ask);
}

// `staying`: what is held by those not told to go yet.
std::vector<Victim> Queue::Victims(const Walk& walk, const Unit& unit,
                                   const QuotaTree& staying) const {
  const std::string& tenant = unit.order->request.tenant;
  const bool reclaims = policy_.reclaim != Reclaim::kNever && staying.Limits(tenant) &&
                        !staying.Borrows(tenant, unit.ask);
  const bool lower = !preemptible_.empty() && *preemptible_.begin() < unit.order->request.priority;
  if (!reclaims && !lower) return {};
  const auto may = [&](const std::string& id, const Entry& entry) {
    if (!entry.known || entry.evicted || !walk.engine.IsPlaced(id)) return false;
    if (walk.Inside(id)) return false;
    if (Freely(entry, unit, staying)) return true;
    if (entry.order.request.tenant == tenant) return false;
    if (!ByPriority(entry, unit)) {
      if (!reclaims) return false;
      if (policy_.reclaim == Reclaim::kLowerPriority &&
          entry.order.request.priority >= unit.order->request.priority) {
        return false;
      }
    }
    return staying.SameTree(tenant, entry.order.request.tenant) &&
           staying.Borrows(entry.order.request.tenant);
  };
  std::map<std::string, Victim> groups;
  std::set<std::string> spared;  // gangs of which one member may not be asked
  for (const auto& [id, entry] : entries_) {
    if (!entry.placed) continue;
    const std::string key = entry.order.gang.empty() ? "\x01" + id : GangKey(entry.order);
    if (!may(id, entry)) {
      spared.insert(key);
      continue;
    }
    Victim& victim = groups[key];
    victim.ids.push_back(id);
    const std::int64_t ran = std::max<std::int64_t>(0, walk.now - entry.placed_micros);
    victim.cost += {static_cast<std::uint64_t>(std::max(0, entry.order.request.priority)),
                    static_cast<std::uint64_t>(ran), 1};
  }
  std::vector<Victim> victims;
  for (auto& [key, victim] : groups) {
    if (spared.count(key) == 0) victims.push_back(std::move(victim));
  }
  return victims;
}

// Orders that go only because their tenant borrows may go one after another while it still does.
bool Queue::Legal(const Unit& unit, const std::vector<Victim>& victims,
                  const std::vector<std::size_t>& chosen, QuotaTree& staying) const {
  std::map<std::string, std::vector<SliceAmount>> reclaimed;  // by tenant
  for (const std::size_t i : chosen) {
    const Entry& first = entries_.at(victims[i].ids.front());
    if (Freely(first, unit, staying)) continue;
    SliceAmount amount;
    for (const std::string& id : victims[i].ids) amount += AmountOf(entries_.at(id).order.request);
    reclaimed[first.order.request.tenant].push_back(amount);
  }
  for (const auto& [tenant, amounts] : reclaimed) {
    for (const SliceAmount& amount : amounts) staying.Remove(tenant, amount);
    const bool some_last = std::any_of(amounts.begin(), amounts.end(), [&](const auto& last) {
      return staying.Borrows(tenant, last);
    });
    for (const SliceAmount& amount : amounts) staying.Add(tenant, amount);
    if (!some_last) return false;
  }
  return true;
}

bool Queue::Preempt(Walk& walk, const Unit& unit, const std::set<std::string>& avoid) {
  if (!policy_.preempt || walk.checks == 0) return false;
  if (preemptible_.empty() && policy_.quotas.empty()) return false;  // nobody could be asked
  if (walk.away.size() < walk.unavailable.size() &&
      Fits(walk.engine, walk.promised, unit, walk.away)) {
    return false;
  }
  QuotaTree staying = quotas_;
  for (const std::string& id : evicted_) {
    const Order& order = entries_.at(id).order;
    staying.Remove(order.request.tenant, AmountOf(order.request));
  }
  const std::vector<Victim> all = Victims(walk, unit, staying);
  if (all.empty()) return false;

  std::vector<Victim> best;
  std::optional<VictimCost> below;
  {
    Absence absence(walk.engine, walk.promised);
    const auto take = [&](const std::string& id) {
      const Order& order = entries_.at(id).order;
      absence.Take(id, order.request.tenant, AmountOf(order.request));
    };
    // Whoever is on his way out frees his place anyway.
    for (const std::string& id : evicted_) {
      if (!walk.Inside(id)) take(id);
    }
    const auto search = [&](const std::vector<Victim>& victims, const std::set<std::string>& pass) {
      const auto fits = [&](const std::vector<std::size_t>& chosen) {
        std::vector<bool> out(victims.size());
        for (const std::size_t i : chosen) out[i] = true;
        for (std::size_t i = 0; i < victims.size(); ++i) {
          for (const std::string& id : victims[i].ids) {
            if (out[i]) {
              take(id);
            } else {
              absence.Return(id);
            }
          }
        }
        return Fits(walk.engine, walk.promised, unit, pass);
      };
      const auto legal = [&](const std::vector<std::size_t>& chosen) {
        return Legal(unit, victims, chosen, staying);
      };
      const auto found = CheapestVictims(victims, fits, legal, below, &walk.checks);
      for (const Victim& victim : victims) {
        for (const std::string& id : victim.ids) absence.Return(id);
      }
      if (!found) return;
      below = CostOf(victims, *found);
      best.clear();
      for (const std::size_t i : *found) best.push_back(victims[i]);
    };
    const bool quota_admits = !walk.promised.Check(unit.order->request.tenant, unit.ask);
    if (unit.ids.size() > 1 || !quota_admits) {
      search(all, avoid);
    } else {
      // On one node only those who are on it matter.
      std::map<std::string, std::vector<Victim>> by_node;
      for (const Victim& victim : all) {
        std::set<std::string> on;
        for (const std::string& id : victim.ids) on.insert(walk.engine.Find(id)->placement.node);
        for (const std::string& node : on) by_node[node].push_back(victim);
      }
      std::set<std::string> others;
      for (const NodeUse& node : walk.engine.Nodes()) others.insert(node.name);
      for (const auto& [node, victims] : by_node) {
        if (avoid.count(node) != 0 || others.erase(node) == 0) continue;
        search(victims, others);
        others.insert(node);
      }
    }
  }
  if (best.empty()) return false;
  nominated_.insert(unit.ids.begin(), unit.ids.end());
  std::size_t number = 0;
  for (const Victim& victim : best) {
    for (const std::string& id : victim.ids) {
      Evict(id);
      ++number;
      walk.decision.evictions.push_back(
          {id, unit.ids.front(),
           ByPriority(entries_.at(id), unit)
               ? "preempted: an order of higher priority needs its place"
               : "reclaimed: the owner of the quota it borrowed needs it"});
    }
  }
  Wait(unit, "eviction",
       "eviction: " + std::to_string(number) + " order(s) are stopped to make room");
  return true;
}

// ---- what those who wait keep for themselves ----

void Queue::Claim(Walk& walk, const Unit& unit) {
  std::vector<std::string> nodes = walk.engine.CouldHold(unit.order->request);
  if (unit.ids.size() > 1 && !nodes.empty()) {
    // Each node could hold a member, yet perhaps no fleet of them the gang.
    Absence absence(walk.engine, walk.promised);
    for (const auto& [id, entry] : entries_) {
      if (!entry.placed || walk.Inside(id)) continue;
      absence.Take(id, entry.order.request.tenant, AmountOf(entry.order.request));
    }
    if (Consider(walk.engine, unit, {})) nodes.clear();
  }
  if (nodes.empty()) return;
  ++walk.ahead;
  walk.promised.Add(unit.order->request.tenant, unit.ask);
  const std::int64_t start = CertainStart(walk, unit);
  for (std::string& node : nodes) {
    const bool first = walk.taken.insert(node).second;
    const auto found = walk.free_until.find(node);
    if (start == 0) {
      if (found != walk.free_until.end()) walk.free_until.erase(found);
    } else if (found != walk.free_until.end()) {
      found->second = std::min(found->second, start);
    } else if (first) {
      walk.free_until.emplace(std::move(node), start);
    }
  }
}

// When the unit fits at the latest, given who has announced an end; 0: not known. Nobody else who
// waits is looked at, so it is also the earliest that others can count on.
std::int64_t Queue::CertainStart(Walk& walk, const Unit& unit) {
  if (!walk.bounded || walk.certain_starts >= kCertainStartsMax) return 0;
  ++walk.certain_starts;
  std::vector<std::pair<std::int64_t, const Entry*>> ends;
  for (const std::string& id : evicted_) {
    if (!walk.Inside(id)) ends.emplace_back(walk.now, &entries_.at(id));
  }
  for (const std::string& id : ending_) {
    if (walk.Inside(id)) continue;
    const Entry& entry = entries_.at(id);
    const std::int64_t end =
        entry.placed_micros + static_cast<std::int64_t>(entry.order.run_micros);
    if (end > walk.now && !entry.evicted) ends.emplace_back(end, &entry);
  }
  std::stable_sort(ends.begin(), ends.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  QuotaTree quotas = quotas_;
  Absence absence(walk.engine, quotas);
  for (std::size_t i = 0; i < ends.size(); ++i) {
    const Order& order = ends[i].second->order;
    absence.Take(order.request.id, order.request.tenant, AmountOf(order.request));
    if (i + 1 < ends.size() && ends[i + 1].first == ends[i].first) continue;
    if (Fits(walk.engine, quotas, unit, walk.unavailable)) return ends[i].first;
  }
  return 0;
}

}  // namespace tessera::placement
