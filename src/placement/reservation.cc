#include "placement/reservation.h"

#include <algorithm>
#include <variant>

#include "base/check.h"

namespace tessera::placement {

// No order has such an id: those that travel are printable.
std::string CapacityReservations::UnitId(const std::string& id, std::size_t unit) {
  return "\x01unit " + id + "/" + std::to_string(unit);
}

bool CapacityReservations::SameShape(const CapacityReservation& reservation,
                                     const Request& request) {
  Request asked = request;
  const Request& unit = reservation.unit;
  asked.id = unit.id;
  asked.tenant = unit.tenant;
  asked.priority = unit.priority;
  if (asked.pool.empty()) asked.pool = unit.pool;  // any pool: also that of the units
  return asked == unit;
}

bool CapacityReservations::Usable(const Unit& unit, const std::set<std::string>& avoid) {
  return unit.state == Unit::State::kFree && unit.stands &&
         avoid.count(unit.place.placement.node) == 0;
}

const CapacityReservations::Entry* CapacityReservations::Active(const std::string& id) const {
  const auto found = entries_.find(id);
  if (found == entries_.end() || found->second.phase != ReservationPhase::kActive) return nullptr;
  return &found->second;
}

Status CapacityReservations::Add(Engine& engine, const CapacityReservation& reservation, bool whole,
                                 std::int64_t now_micros, const std::set<std::string>& avoid) {
  const std::string& id = reservation.id;
  if (id.empty() || id.size() > kReservationIdBytesMax) {
    return Error::Field("id", "expected 1 to " + std::to_string(kReservationIdBytesMax) + " bytes");
  }
  if (reservation.units < 1 || reservation.units > kReservedUnitsMax) {
    return Error::Field("units", "expected 1 to reserved_units_max (" +
                                     std::to_string(kReservedUnitsMax) + "), got " +
                                     std::to_string(reservation.units));
  }
  if (reservation.unit.tenant.empty()) {
    return Error::Field("tenant", "expected the tenant it is kept for");
  }
  if (reservation.end_micros != 0 && reservation.end_micros <= reservation.start_micros) {
    return Error::Field("end", "expected a time after the start");
  }
  Entry fresh;
  fresh.reservation = reservation;
  fresh.reservation.unit.id = UnitId(id, 0);
  TRY_STATUS(Validate(fresh.reservation.unit));
  if (const auto known = entries_.find(id); known != entries_.end()) {
    if (known->second.reservation == fresh.reservation) return {};
    return Error(Code::kAlreadyExists, "reservation " + id + " is another one");
  }
  if (entries_.size() >= kCapacityReservationsMax) {
    return Error(
        Code::kResourceExhausted,
        "capacity_reservations_max (" + std::to_string(kCapacityReservationsMax) + ") is reached");
  }
  if (whole && reservation.end_micros != 0 && reservation.end_micros <= now_micros) {
    return Error::Field("end", "expected a time to come");
  }
  if (whole && engine.CouldHold(fresh.reservation.unit).empty()) {
    return Error(Code::kFailedPrecondition, engine.WhyNot(fresh.reservation.unit).message);
  }
  Entry& entry = entries_.emplace(id, std::move(fresh)).first->second;
  if (entry.reservation.start_micros > now_micros) return {};
  if (entry.reservation.end_micros != 0 && entry.reservation.end_micros <= now_micros) {
    entry.phase = ReservationPhase::kEnded;
    return {};
  }
  entry.phase = ReservationPhase::kActive;
  entry.units.resize(entry.reservation.units);
  Fill(engine, entry, avoid);
  const auto standing = static_cast<std::size_t>(std::count_if(
      entry.units.begin(), entry.units.end(), [](const Unit& unit) { return unit.stands; }));
  if (whole && standing < entry.units.size()) {
    const Error error(Code::kResourceExhausted, std::to_string(standing) + " of " +
                                                    std::to_string(entry.units.size()) +
                                                    " units fit now; " + entry.missing_for);
    End(engine, entry);
    entries_.erase(id);
    return error.Under("units");
  }
  return {};
}

void CapacityReservations::End(Engine& engine, Entry& entry) {
  for (const Unit& unit : entry.units) {
    if (unit.state == Unit::State::kFree) engine.Release(unit.place.placement.request_id);
    if (!unit.holder.empty()) holders_.erase(unit.holder);
  }
  entry.units.clear();
  entry.missing_for.clear();
  entry.phase = ReservationPhase::kEnded;
}

bool CapacityReservations::Remove(Engine& engine, const std::string& id) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) return false;
  End(engine, found->second);
  entries_.erase(found);
  return true;
}

void CapacityReservations::Advance(Engine& engine, std::int64_t now_micros,
                                   const std::set<std::string>& avoid) {
  // Ends come first: what they free may be what others lack.
  for (auto& [id, entry] : entries_) {
    const std::int64_t end = entry.reservation.end_micros;
    if (end != 0 && end <= now_micros && entry.phase != ReservationPhase::kEnded) {
      End(engine, entry);
    }
  }
  for (auto& [id, entry] : entries_) {
    if (entry.phase == ReservationPhase::kPending && entry.reservation.start_micros <= now_micros) {
      entry.phase = ReservationPhase::kActive;
      entry.units.resize(entry.reservation.units);
    }
    if (entry.phase == ReservationPhase::kActive) Fill(engine, entry, avoid);
  }
}

void CapacityReservations::Fill(Engine& engine, Entry& entry, const std::set<std::string>& avoid) {
  Request request = entry.reservation.unit;
  bool room = true;  // all units ask for the same: the first refusal speaks for all
  entry.missing_for.clear();
  for (std::size_t i = 0; i < entry.units.size(); ++i) {
    Unit& unit = entry.units[i];
    const bool placed = unit.state == Unit::State::kFree;
    if (!placed && unit.state != Unit::State::kMissing) continue;
    unit.stands = placed && avoid.count(unit.place.placement.node) == 0 &&
                  engine.Stands(unit.place.placement);
    if (unit.stands || !room) continue;
    request.id = UnitId(entry.reservation.id, i);
    if (placed) engine.Release(request.id);
    if (engine.Place(request, avoid, false) != nullptr) {
      unit.place = *engine.Find(request.id);
      unit.state = Unit::State::kFree;
      unit.stands = true;
      continue;
    }
    room = false;
    entry.missing_for = engine.WhyNot(request, avoid).message;
    // Its old place may come back, and is still its own then.
    if (placed) CHECK(engine.Restore(unit.place).has_value());
  }
}

std::vector<ReservationUse> CapacityReservations::List() const {
  std::vector<ReservationUse> all;
  for (const auto& [id, entry] : entries_) {
    ReservationUse use;
    use.reservation = entry.reservation;
    use.phase = entry.phase;
    use.missing_for = entry.missing_for;
    for (const Unit& unit : entry.units) {
      ++(unit.state == Unit::State::kUsed   ? use.used
         : unit.state == Unit::State::kLent ? use.lent
         : unit.stands                      ? use.free
                                            : use.missing);
    }
    all.push_back(std::move(use));
  }
  return all;
}

Status CapacityReservations::Admits(const std::string& id, const Request& request,
                                    std::size_t count) const {
  const auto found = entries_.find(id);
  // Somebody else's is as unknown as one that never was.
  if (found == entries_.end() || found->second.reservation.unit.tenant != request.tenant) {
    return Error(Code::kFailedPrecondition, "expected the id of a reservation of the tenant")
        .Under("reservation");
  }
  const Entry& entry = found->second;
  if (entry.phase == ReservationPhase::kEnded) {
    return Error(Code::kFailedPrecondition, "reservation " + id + " has ended")
        .Under("reservation");
  }
  if (!SameShape(entry.reservation, request)) {
    return Error(Code::kFailedPrecondition, "expected the shape that reservation " + id + " keeps")
        .Under("reservation");
  }
  if (count > entry.reservation.units) {
    return Error(Code::kFailedPrecondition,
                 "reservation " + id + " has " + std::to_string(entry.reservation.units) +
                     " unit(s), " + std::to_string(count) + " are asked together")
        .Under("reservation");
  }
  return {};
}

std::vector<std::string> CapacityReservations::OpenTo(const Request& request) const {
  std::vector<std::string> ids;
  for (const auto& [id, entry] : entries_) {
    if (entry.phase == ReservationPhase::kActive && entry.reservation.open &&
        entry.reservation.unit.tenant == request.tenant && SameShape(entry.reservation, request)) {
      ids.push_back(id);
    }
  }
  return ids;
}

std::vector<std::string> CapacityReservations::LendingTo(const Request& request) const {
  std::vector<std::string> ids;
  for (const auto& [id, entry] : entries_) {
    if (entry.phase == ReservationPhase::kActive && entry.reservation.lend &&
        SameShape(entry.reservation, request)) {
      ids.push_back(id);
    }
  }
  return ids;
}

std::size_t CapacityReservations::Usable(const std::string& id,
                                         const std::set<std::string>& avoid) const {
  const Entry* entry = Active(id);
  if (entry == nullptr) return 0;
  return static_cast<std::size_t>(
      std::count_if(entry->units.begin(), entry->units.end(),
                    [&](const Unit& unit) { return Usable(unit, avoid); }));
}

std::vector<std::string> CapacityReservations::Borrowers(const std::string& id) const {
  std::vector<std::string> borrowers;
  const Entry* entry = Active(id);
  if (entry == nullptr) return borrowers;
  for (const Unit& unit : entry->units) {
    if (unit.state == Unit::State::kLent) borrowers.push_back(unit.holder);
  }
  std::sort(borrowers.begin(), borrowers.end());
  return borrowers;
}

std::size_t CapacityReservations::Units(const std::string& id) const {
  const Entry* entry = Active(id);
  return entry == nullptr ? 0 : entry->units.size();
}

const std::string* CapacityReservations::Of(const std::string& order_id) const {
  const auto found = holders_.find(order_id);
  return found == holders_.end() ? nullptr : &found->second.first;
}

Placement CapacityReservations::Take(Engine& engine, const std::string& id, const Request& order,
                                     bool lent, const std::set<std::string>& avoid) {
  Entry& entry = entries_.at(id);
  const auto unit = std::find_if(entry.units.begin(), entry.units.end(),
                                 [&](const Unit& one) { return Usable(one, avoid); });
  CHECK(unit != entry.units.end());
  Reservation place = unit->place;
  place.placement.request_id = order.id;
  place.tenant = order.tenant;
  place.priority = order.priority;
  engine.Release(unit->place.placement.request_id);
  CHECK(engine.Restore(place).has_value());
  engine.Arrived(order);
  unit->state = lent ? Unit::State::kLent : Unit::State::kUsed;
  unit->holder = order.id;
  holders_[order.id] = {id, static_cast<std::size_t>(unit - entry.units.begin())};
  return place.placement;
}

void CapacityReservations::Return(Engine& engine, const std::string& order_id) {
  const auto found = holders_.find(order_id);
  if (found == holders_.end()) return;
  CHECK(!engine.IsPlaced(order_id));
  Unit& unit = entries_.at(found->second.first).units.at(found->second.second);
  CHECK(engine.Restore(unit.place).has_value());
  unit.state = Unit::State::kFree;
  unit.stands = engine.Stands(unit.place.placement);
  unit.holder.clear();
  holders_.erase(found);
}

bool CapacityReservations::Attach(Engine& engine, const std::string& id, const Request& order,
                                  bool lent) {
  const Entry* active = Active(id);
  const std::optional<Reservation> held = engine.Find(order.id);
  if (active == nullptr || !held || holders_.count(order.id) != 0) return false;
  const CapacityReservation& reservation = active->reservation;
  if (!SameShape(reservation, order) || held->placement.shares.size() != order.slices) return false;
  if (!lent && reservation.unit.tenant != order.tenant) return false;
  if (held->cpu_millis != order.cpu_millis || held->ram_bytes != order.ram_bytes ||
      held->disk_bytes != order.disk_bytes || held->isolation != order.isolation) {
    return false;
  }
  for (const device::Share& share : held->placement.shares) {
    if (share.memory_bytes != order.memory_bytes || share.compute != order.compute) return false;
  }
  Entry& entry = entries_.at(id);
  const auto worth = [&](const Unit& unit) {  // the higher, the sooner it is stood in for
    if (unit.state == Unit::State::kMissing) return 3;
    if (unit.state != Unit::State::kFree) return 0;
    if (!unit.stands) return 2;
    return lent ? 0 : 1;
  };
  const auto unit =
      std::max_element(entry.units.begin(), entry.units.end(),
                       [&](const Unit& a, const Unit& b) { return worth(a) < worth(b); });
  if (unit == entry.units.end() || worth(*unit) == 0) return false;
  if (unit->state == Unit::State::kFree) engine.Release(unit->place.placement.request_id);
  const auto number = static_cast<std::size_t>(unit - entry.units.begin());
  unit->place = *held;
  unit->place.placement.request_id = UnitId(id, number);
  unit->place.tenant = reservation.unit.tenant;
  unit->state = lent ? Unit::State::kLent : Unit::State::kUsed;
  unit->holder = order.id;
  holders_[order.id] = {id, number};
  return true;
}

}  // namespace tessera::placement
