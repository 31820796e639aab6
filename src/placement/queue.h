// Who goes next, and for whom somebody must go. Pure: no I/O, clock, thread or chance; the caller
// gives the time and owns the engine. Not thread-safe.
//
// Order. Higher priority first. Among equals first come, first served; with `fair_share`, the
// tenant (group) that holds the least goes first, by the resource of the fleet it holds most of,
// divided by its weight, and first come, first served within a tenant. The order is drawn anew at
// every decision.
//
// Nobody is overtaken on a node he waits for. A waiting order claims every node that could hold it
// if the node were empty; a later one only goes to nodes that nobody before it claims, with one
// exception (back-fill): where enough running orders have a known end, the waiting order has a
// start that is certain, and others may use its nodes if they are gone by then. That start never
// moves back; an order that outruns its announced time counts as one whose end is not known. What
// this fleet could not hold even if nothing of ours ran claims nothing.
//
// Quota. What a tenant may hold is in quota.h. An order that waits for quota holds back later
// orders of its tenant, and later orders of the same tree may not borrow; it claims no node. What
// waits for a node keeps its quota.
//
// Gangs. Orders of one gang are placed together or not at all, once all are here, in the place of
// the last. A member whose node refused it waits alone while the others keep their places, also
// when some of them are gone by then.
//
// Reservations (reservation.h). An order that names one waits for its units alone: it claims no
// node, nobody is stopped for it but who borrowed a unit, and within a reservation nobody is
// overtaken either. A gang gets units of one reservation or none at all, and none if it asks for a
// rack or a minimum per node: the places of units are given. Who runs in a reservation
// is no victim but of its owner, and his end frees nothing for others.
//
// Preemption. Who waits for room or quota may have others stopped: orders of strictly lower
// priority that said they may be (preemptible), and, if the asker stays within its own nominal
// quota, orders of a tenant of the same tree that borrows (as `reclaim` says). Of another tenant of
// its tree an asker that borrows, or reclaims, never stops more than until that one no longer
// borrows. Gangs go whole. The set is the cheapest (preempt.h): on one
// node, or, for a gang or for quota, anywhere. What a victim holds stays booked until Remove; the
// asker is placed only then. Until he was looked at once after the last of them has left he goes
// first, or others could take what they free (an owner's borrower of a higher priority, or one that
// holds less) and he would have more of them stopped for ever. While victims are on their way out,
// nobody else is chosen for what they will free.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "placement/engine.h"
#include "placement/gang.h"
#include "placement/preempt.h"
#include "placement/quota.h"
#include "placement/reservation.h"

namespace tessera::placement {

inline constexpr std::size_t kOrdersMax = 1'048'576;  // waiting and placed
inline constexpr std::uint64_t kRunMicrosMax = 10ULL * 365 * 86'400 * 1'000'000;
// The first waiting orders get a certain start; behind more than these nobody is back-filled.
inline constexpr std::size_t kCertainStartsMax = 16;

struct Order {
  Request request;               // its tenant's quota counts, its priority orders the queue
  bool preemptible = false;      // spot: may be stopped for an order of higher priority
  std::uint64_t run_micros = 0;  // it is gone that long after it was placed; 0: not known
  std::string gang;              // empty: on its own
  std::uint32_t gang_size = 0;
  std::uint32_t gang_node_min = 1;  // members at least on every node that gets one
  bool gang_one_rack = false;       // all on nodes of one rack; else that is preferred
  std::string reservation;          // that it runs in; empty: wherever there is room
};

// Whose borrowed quota an owner takes back by stopping orders.
enum class Reclaim { kNever, kLowerPriority, kAny };

struct QueuePolicy {
  std::vector<Quota> quotas;
  bool fair_share = false;
  bool preempt = true;
  Reclaim reclaim = Reclaim::kLowerPriority;
};

// How a waiting order stood at the last decision.
struct Standing {
  std::size_t position = 0;  // 1: the next
  // "quota", "gang", "queue", "node", "eviction", "reservation" or "fit"
  std::string rule;
  std::string message;
};

struct Eviction {
  std::string id;
  std::string asker;  // for whom; a gang is named by its first member
  std::string reason;
};

class Queue {
 public:
  // Takes effect with the next decision; what is placed stays. Nothing changes on an error.
  Status SetPolicy(const QueuePolicy& policy);
  const QueuePolicy& policy() const { return policy_; }
  void SetRack(const std::string& node, const std::string& rack);  // empty: not known

  // Puts an order at the end of its rank. kFailedPrecondition when a limit of its quota can never
  // admit it.
  Status Add(const Order& order);
  // An order that the engine holds already, placed at `placed_micros`. Without `known`, only the
  // id is certain: it counts against nobody's quota and is nobody's victim until Describe.
  Status Adopt(const Order& order, std::int64_t placed_micros, bool known);
  // Tells of an adopted order what Adopt did not know. False when it is not such an order.
  bool Describe(const Order& order);
  // A placed order is to wait again, in its old place; the caller released it in the engine (and
  // returned its unit to its reservation, here as below).
  void PutBack(const std::string& id);
  // It waits or holds no more; the caller releases it in the engine. False when it is not here.
  bool Remove(const std::string& id);

  struct Decision {
    std::vector<Placement> placed;  // reserved in the engine
    std::vector<Eviction> evictions;
  };
  // Walks all that wait. Nodes in `unavailable` take nothing now; those of them that are also in
  // `unsettled` are about to say what they have, and nobody is stopped for who might fit there.
  // `reservations` are those of the engine, as of their last Advance.
  Decision Decide(Engine& engine, std::int64_t now_micros, const std::set<std::string>& unavailable,
                  const std::set<std::string>& unsettled = {},
                  CapacityReservations* reservations = nullptr);

  std::size_t waiting() const { return waiting_.size(); }
  std::vector<std::string> Waiting() const;  // in the order in which they came
  bool Waits(const std::string& id) const;
  const Order* Find(const std::string& id) const;  // nullptr: not here
  bool Known(const std::string& id) const;         // false after an Adopt without knowledge
  std::optional<Standing> StandingOf(const std::string& id) const;  // nullopt: does not wait
  std::vector<std::string> Ahead(const std::string& id) const;      // who was looked at before it
  // The other members of its gang that are here; empty for an order on its own.
  std::vector<std::string> GangOf(const std::string& id) const;
  const QuotaTree& quotas() const { return quotas_; }

 private:
  struct Entry {
    Order order;
    std::uint64_t sequence = 0;
    bool placed = false;
    bool known = true;
    std::int64_t placed_micros = 0;
    bool evicted = false;
    bool put_back = false;  // it had a place before: its gang began, whoever is still here
    Standing standing;
  };
  // What is placed at once: one order or a gang.
  struct Unit {
    std::vector<std::string> ids;
    std::uint64_t sequence = 0;
    const Order* order = nullptr;  // of the first
    SliceAmount ask;               // of all
    std::uint32_t node_min = 1;
    std::string rack_of;  // the member whose rack it has to join; empty: none yet
    bool nominated = false;
  };
  struct Walk;

  enum class Admission { kAdmitted, kShort, kHeldBack };

  Status Check(const Order& order) const;
  void Hold(Entry& entry, bool holds);
  void Evict(const std::string& id);
  std::vector<Unit> Units();
  void WalkAll(Walk& walk, std::vector<Unit> units);
  void Look(Walk& walk, const Unit& unit);
  std::set<std::string> OtherRacks(const Engine& engine, const std::string& node) const;
  void Keep(Walk& walk, const Unit& unit, std::vector<Placement> placed);
  void CountWanted(Walk& walk) const;
  bool TakeUnits(Walk& walk, const Unit& unit, const std::string& id, bool lent);
  bool LookInside(Walk& walk, const Unit& unit, Admission admission);
  bool CallBack(Walk& walk, const Unit& unit, const std::string& id);
  Admission CheckQuota(Walk& walk, const Unit& unit);
  void Wait(const Unit& unit, const std::string& rule, const std::string& message);
  std::variant<std::vector<Placement>, Scarcity> Place(Engine& engine, const Unit& unit,
                                                       const std::set<std::string>& avoid) const;
  // Why it does not fit, leaving everything as it was; nullopt when it does.
  std::optional<Scarcity> Consider(Engine& engine, const Unit& unit,
                                   const std::set<std::string>& avoid) const;
  bool Fits(Engine& engine, const QuotaTree& quotas, const Unit& unit,
            const std::set<std::string>& avoid) const;
  bool WaitsForEvictions(Walk& walk, const Unit& unit, const std::set<std::string>& avoid);
  bool Preempt(Walk& walk, const Unit& unit, const std::set<std::string>& avoid);
  std::vector<Victim> Victims(const Walk& walk, const Unit& unit, const QuotaTree& staying) const;
  static bool ByPriority(const Entry& entry, const Unit& unit);
  bool Freely(const Entry& entry, const Unit& unit, const QuotaTree& staying) const;
  bool Legal(const Unit& unit, const std::vector<Victim>& victims,
             const std::vector<std::size_t>& chosen, QuotaTree& staying) const;
  void Claim(Walk& walk, const Unit& unit);
  std::int64_t CertainStart(Walk& walk, const Unit& unit);
  static std::string GangKey(const Order& order) {
    return order.request.tenant + "\n" + order.gang;
  }

  QueuePolicy policy_;
  QuotaTree quotas_;
  std::map<std::string, std::string> racks_;
  std::map<std::string, Entry> entries_;
  std::map<std::uint64_t, std::string> waiting_;        // by sequence
  std::map<std::string, std::set<std::string>> gangs_;  // their members, waiting and placed
  std::vector<std::string> walked_;                     // as the last decision looked at them
  std::set<std::string> evicted_;                       // placed, and told to go
  std::set<std::string> nominated_;                     // for whom somebody was told to go
  std::set<std::string> ending_;                        // placed, with an announced end
  std::multiset<std::int32_t>
      preemptible_;  // priorities of those placed that say they may be stopped
  std::uint64_t next_sequence_ = 1;
};

}  // namespace tessera::placement
