// Capacity that is kept for tenants: our rows say what there is, the scheduling plane holds it.
#include <algorithm>
#include <set>

#include "base/log.h"
#include "cloud/rows.h"
#include "cloud/service.h"
#include "cloud/views.h"
#include "crypto/crypto.h"

namespace tessera::cloud {
namespace {

placement::CapacityReservation ToCapacity(const Reservation& reservation) {
  const Sku& sku = reservation.sku;
  return {.id = reservation.id,
          .unit = {.slices = sku.slices,
                   .memory_bytes = sku.memory_bytes,
                   .compute = sku.compute,
                   .cpu_millis = sku.cpu_millis,
                   .ram_bytes = sku.ram_bytes,
                   .model = sku.model,
                   .tenant = reservation.tenant_id},
          .units = reservation.units,
          .open = reservation.open,
          .lend = reservation.lend,
          .start_micros = reservation.start_micros,
          .end_micros = reservation.end_micros};
}

void Fill(const std::vector<placement::ReservationUse>& uses, Reservation* reservation) {
  for (const auto& use : uses) {
    if (use.reservation.id != reservation->id) continue;
    switch (use.phase) {
      case placement::ReservationPhase::kPending:
        reservation->phase = "pending";
        break;
      case placement::ReservationPhase::kActive:
        reservation->phase = "active";
        break;
      case placement::ReservationPhase::kEnded:
        reservation->phase = "ended";
        break;
    }
    reservation->used = use.used;
    reservation->lent = use.lent;
    reservation->free = use.free;
    reservation->missing = use.missing;
    reservation->missing_for = use.missing_for;
  }
}

template <typename Source>
Result<std::vector<Reservation>> Select(Source& source, std::string_view rest,
                                        const std::vector<store::Value>& parameters) {
  TRY(const auto rows,
      source.Query(std::string(kReservationColumns) + std::string(rest), parameters));
  std::vector<Reservation> all;
  for (const auto& row : rows) all.push_back(ToReservation(row));
  return all;
}

}  // namespace

Result<Reservation> Service::CreateReservation(const std::string& tenant_id, const std::string& sku,
                                               Reservation wanted, const Once* once) {
  const std::int64_t now = clock_.WallMicros();
  wanted.id = crypto::RandomId("r");
  wanted.tenant_id = tenant_id;
  wanted.created_micros = now;
  if (wanted.units < 1 || wanted.units > placement::kReservedUnitsMax) {
    return Error::Field("units", "expected 1 to " + std::to_string(placement::kReservedUnitsMax));
  }
  wanted.start_micros = std::max(wanted.start_micros, now);
  if (wanted.end_micros != 0 && wanted.end_micros <= wanted.start_micros) {
    return Error::Field("end", "expected a time to come, after the start");
  }
  const std::lock_guard lock(reservations_mutex_);
  {
    TRY(auto transaction, database_.Begin());
    TRY(const auto tenants, transaction->Query("SELECT 1 FROM tenants WHERE id = $1", {tenant_id}));
    if (tenants.empty()) return Error::Field("tenant", "expected the id of a tenant");
    TRY(const auto skus,
        SelectSkus(*transaction, "WHERE name = $1 ORDER BY version DESC LIMIT 1", {sku}));
    if (skus.empty()) return Error::Field("sku", "expected the name of a SKU in the catalogue");
    wanted.sku = skus[0];
    TRY(const auto count, transaction->Query("SELECT count(*) FROM reservations", {}));
    if (count[0].Int(0) >= static_cast<std::int64_t>(placement::kCapacityReservationsMax)) {
      return Error(Code::kResourceExhausted,
                   "at most kCapacityReservationsMax (" +
                       std::to_string(placement::kCapacityReservationsMax) +
                       ") reservations; delete ended ones");
    }
    TRY(const auto added,
        transaction->Execute(
            "INSERT INTO reservations (id, tenant_id, sku, sku_version, units, open, lend, "
            "created_micros, start_micros, end_micros) "
            "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            {wanted.id, tenant_id, wanted.sku.name, wanted.sku.version, std::int64_t{wanted.units},
             std::int64_t{wanted.open ? 1 : 0}, std::int64_t{wanted.lend ? 1 : 0}, now,
             wanted.start_micros, wanted.end_micros}));
    (void)added;
    TRY_STATUS(Audit(*transaction, now, "admin", "reservation.create", tenant_id, wanted.id,
                     std::to_string(wanted.units) + " of " + wanted.sku.name));
    TRY_STATUS(Remember(*transaction, once, now, wanted.id, 201, std::nullopt));
    TRY_STATUS(transaction->Commit());
  }
  // Whoever dies here has made it: the next round tells the plane, which then takes what there is.
  const Status reserved = execution_.Reserve(ToCapacity(wanted), true);
  if (!reserved) {
    TRY(auto transaction, database_.Begin());
    TRY(const auto removed,
        transaction->Execute("DELETE FROM reservations WHERE id = $1", {wanted.id}));
    TRY(const auto forgotten,
        transaction->Execute("DELETE FROM idempotency WHERE resource = $1 AND body IS NULL",
                             {wanted.id}));
    (void)removed;
    (void)forgotten;
    TRY_STATUS(Audit(*transaction, now, "admin", "reservation.refused", tenant_id, wanted.id,
                     reserved.error().message()));
    TRY_STATUS(transaction->Commit());
    // Should its answer have been lost only, it holds nothing that nobody knows of.
    (void)execution_.Unreserve(wanted.id).has_value();
    return reserved.error();
  }
  TRY(const Reservation made, Standing(wanted));
  TRY_STATUS(Answer(once, 201, ToJson(made)));
  return made;
}

Result<Reservation> Service::Standing(Reservation reservation) {
  TRY(const auto uses, execution_.Reservations());
  Fill(uses, &reservation);
  return reservation;
}

Result<std::vector<Reservation>> Service::Reservations(const std::string& tenant_id) {
  TRY(const auto uses, execution_.Reservations());
  TRY(auto all, Select(database_, "WHERE $1 = '' OR r.tenant_id = $1 ORDER BY r.seq", {tenant_id}));
  for (Reservation& reservation : all) Fill(uses, &reservation);
  return all;
}

Status Service::DeleteReservation(const std::string& id) {
  const std::lock_guard lock(reservations_mutex_);
  {
    TRY(auto transaction, database_.Begin());
    TRY(const auto known, Select(*transaction, "WHERE r.id = $1", {id}));
    if (known.empty()) return Error(Code::kNotFound, "no such reservation");
    TRY(const auto removed, transaction->Execute("DELETE FROM reservations WHERE id = $1", {id}));
    (void)removed;
    TRY_STATUS(Audit(*transaction, clock_.WallMicros(), "admin", "reservation.delete",
                     known[0].tenant_id, id, ""));
    TRY_STATUS(transaction->Commit());
  }
  // A plane that cannot be reached is told by the next round.
  (void)execution_.Unreserve(id).has_value();
  return {};
}

Status Service::ConvergeReservations() {
  const std::lock_guard lock(reservations_mutex_);
  TRY(const auto rows, Select(database_, "ORDER BY r.seq", {}));
  TRY(const auto uses, execution_.Reservations());
  std::set<std::string> held;
  for (const auto& use : uses) held.insert(use.reservation.id);
  for (const Reservation& reservation : rows) {
    if (held.erase(reservation.id) == 0) {
      const Status told = execution_.Reserve(ToCapacity(reservation), false);
      if (told) continue;
      // Orders that run in it must not be asked for before it is known; one that the plane will
      // never take holds nobody up.
      if (told.error().code() == Code::kUnavailable) return told;
      ::tessera::Log(LogLevel::kError, "reservation.refused",
                     {{"reservation", reservation.id}, {"error", told.error().ToString()}});
    }
  }
  for (const std::string& id : held) TRY_STATUS(execution_.Unreserve(id));
  return {};
}

}  // namespace tessera::cloud
