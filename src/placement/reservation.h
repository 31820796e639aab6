// Capacity that is kept for a tenant: so many units of one shape, from a start to an end. Pure: no
// I/O, clock, thread or chance; the caller gives the time and owns the engine. Not thread-safe.
//
// A unit that stands is a place on concrete cards, held in the engine like a request, so nobody
// else can take it. An order of exactly the unit's shape takes the place of a unit, on those cards,
// in one step; when it is gone the unit is back. A unit whose node or card is lost is placed
// elsewhere as soon as there is room; until then it keeps its old place and does not stand. Units
// that do not stand are placed before anybody who waits gets something, and nobody is stopped for
// them.
//
// Who uses it. Orders that name the reservation run in it and nowhere else. With `open`, orders of
// its tenant that ask for its shape use it first, without naming it. With `lend`, units that nobody
// waits for are lent to orders of any tenant that said they may be stopped, and called back for the
// owner (queue.h does both).
//
// What stands free counts against nobody's quota; an order that uses a unit counts as anywhere.
//
// The end. Units that nobody uses are released; what runs goes on as an ordinary order.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "placement/engine.h"
#include "placement/request.h"

namespace tessera::placement {

inline constexpr std::size_t kCapacityReservationsMax = 1024;
inline constexpr std::uint32_t kReservedUnitsMax = 1024;  // of one reservation
inline constexpr std::size_t kReservationIdBytesMax = 64;

struct CapacityReservation {
  std::string id;
  Request unit;  // what each holds; `tenant` is the owner, `id` and `priority` say nothing
  std::uint32_t units = 1;
  bool open = false;
  bool lend = false;
  std::int64_t start_micros = 0;  // on the clock of Advance
  std::int64_t end_micros = 0;    // 0: until it is removed
  friend bool operator==(const CapacityReservation&, const CapacityReservation&) = default;
};

enum class ReservationPhase { kPending, kActive, kEnded };

// used + lent + free + missing = reservation.units while it is active; all 0 otherwise.
struct ReservationUse {
  CapacityReservation reservation;
  ReservationPhase phase = ReservationPhase::kPending;
  std::uint32_t used = 0;     // by its owner
  std::uint32_t lent = 0;     // to orders that may be stopped
  std::uint32_t free = 0;     // standing
  std::uint32_t missing = 0;  // units that do not stand
  std::string missing_for;    // why, when some are missing
};

class CapacityReservations {
 public:
  // Takes what is free at once. With `whole`, all units or nothing: kResourceExhausted says how
  // many fit, kFailedPrecondition that no empty fleet could hold one. The same reservation again is
  // fine; another one under its id is kAlreadyExists. Nodes in `avoid` hold nothing new.
  Status Add(Engine& engine, const CapacityReservation& reservation, bool whole,
             std::int64_t now_micros, const std::set<std::string>& avoid);
  // False when it is not known. Ends it at once, see above.
  bool Remove(Engine& engine, const std::string& id);
  // Begins and ends reservations, and places the units that do not stand.
  void Advance(Engine& engine, std::int64_t now_micros, const std::set<std::string>& avoid);

  bool empty() const { return entries_.empty(); }
  std::vector<ReservationUse> List() const;  // by id
  // Whether `count` orders like that may name the reservation; the wrong thing named.
  Status Admits(const std::string& id, const Request& request, std::size_t count) const;
  // The active reservations, by id, that such an order may use without naming them, or borrow from.
  std::vector<std::string> OpenTo(const Request& request) const;
  std::vector<std::string> LendingTo(const Request& request) const;
  // Free units that stand on other nodes than those.
  std::size_t Usable(const std::string& id, const std::set<std::string>& avoid) const;
  std::vector<std::string> Borrowers(const std::string& id) const;  // by id of the order
  // How many units it has, while it is active.
  std::size_t Units(const std::string& id) const;
  // The reservation that an order runs in; nullptr: none.
  const std::string* Of(const std::string& order_id) const;

  // Gives a usable unit's place to the order; there must be one.
  Placement Take(Engine& engine, const std::string& id, const Request& order, bool lent,
                 const std::set<std::string>& avoid);
  // After the order was released in the engine: its unit is back. Orders that run in no reservation
  // are fine.
  void Return(Engine& engine, const std::string& order_id);
  // Takes an order that the engine holds already into the reservation: it stands in for a unit that
  // does not stand or, unless lent, for a free one. False when it is of another shape or all units
  // are taken.
  bool Attach(Engine& engine, const std::string& id, const Request& order, bool lent);

 private:
  struct Unit {
    enum class State { kMissing, kFree, kUsed, kLent };
    State state = State::kMissing;
    bool stands = false;  // kFree, as of the last Advance
    Reservation place;    // not kMissing
    std::string holder;   // kUsed, kLent: the order
  };
  struct Entry {
    CapacityReservation reservation;
    ReservationPhase phase = ReservationPhase::kPending;
    std::vector<Unit> units;  // while it is active
    std::string missing_for;
  };

  static std::string UnitId(const std::string& id, std::size_t unit);
  static bool SameShape(const CapacityReservation& reservation, const Request& request);
  static bool Usable(const Unit& unit, const std::set<std::string>& avoid);
  const Entry* Active(const std::string& id) const;
  void End(Engine& engine, Entry& entry);
  void Fill(Engine& engine, Entry& entry, const std::set<std::string>& avoid);

  std::map<std::string, Entry> entries_;
  // By order: the reservation it runs in and the unit whose place it has.
  std::map<std::string, std::pair<std::string, std::size_t>> holders_;
};

}  // namespace tessera::placement
