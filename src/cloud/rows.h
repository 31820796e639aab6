// Between table rows and values. Internal to the room.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "cloud/model.h"
#include "store/database.h"

namespace tessera::cloud {

inline constexpr std::string_view kInstanceColumns =
    "SELECT i.seq, i.id, i.tenant_id, i.name, i.sku, i.sku_version, i.price_per_hour_micro, "
    "i.command, "
    "i.environment, i.state, i.wanted, i.reason, i.waiting_for, i.node, i.cards, i.generation, "
    "i.exit_code, "
    "i.created_micros, i.run_started_micros, i.run_ended_micros, i.earlier_micros, "
    "i.hours_settled, "
    "h.seen_micros, s.model, s.slices, s.memory_bytes, s.compute_permille, s.cpu_millis, "
    "s.ram_bytes, "
    "s.created_micros, i.gang, i.gang_size, i.gang_node_min, i.gang_one_rack, i.reservation, "
    "i.isolation, i.priority, i.spot, i.discount_permille, i.requeue "
    "FROM instances i JOIN skus s ON s.name = i.sku AND s.version = i.sku_version "
    "LEFT JOIN heartbeats h ON h.instance_id = i.id AND h.generation = i.generation ";

inline constexpr std::string_view kSkuColumns =
    "SELECT name, version, model, slices, memory_bytes, compute_permille, cpu_millis, ram_bytes, "
    "price_per_hour_micro, created_micros FROM skus ";

inline constexpr std::string_view kReservationColumns =
    "SELECT r.id, r.tenant_id, r.units, r.open, r.lend, r.created_micros, r.start_micros, "
    "r.end_micros, s.name, s.version, s.model, s.slices, s.memory_bytes, s.compute_permille, "
    "s.cpu_millis, s.ram_bytes, s.price_per_hour_micro, s.created_micros "
    "FROM reservations r JOIN skus s ON s.name = r.sku AND s.version = r.sku_version ";

inline constexpr std::string_view kTenantColumns =
    "SELECT id, name, created_micros, priority_max FROM tenants ";

Tenant ToTenant(const store::Row& row);
Result<Instance> ToInstance(const store::Row& row);
Reservation ToReservation(const store::Row& row);
// From the column of the name on.
Sku ToSku(const store::Row& row, std::size_t at = 0);
std::string ListToJson(const std::vector<std::string>& items);
std::string MapToJson(const std::map<std::string, std::string>& items);

// `source` is a Database (last commit) or a Transaction; `rest` is the query's WHERE, ORDER and
// LIMIT.
template <typename Source>
Result<std::vector<Instance>> SelectInstances(Source& source, std::string_view rest,
                                              const std::vector<store::Value>& parameters) {
  TRY(const auto rows, source.Query(std::string(kInstanceColumns) + std::string(rest), parameters));
  std::vector<Instance> instances;
  instances.reserve(rows.size());
  for (const auto& row : rows) {
    TRY(Instance instance, ToInstance(row));
    instances.push_back(std::move(instance));
  }
  return instances;
}

template <typename Source>
Result<std::vector<Sku>> SelectSkus(Source& source, std::string_view rest,
                                    const std::vector<store::Value>& parameters) {
  TRY(const auto rows, source.Query(std::string(kSkuColumns) + std::string(rest), parameters));
  std::vector<Sku> skus;
  for (const auto& row : rows) skus.push_back(ToSku(row));
  return skus;
}

template <typename Source>
Result<Tenant> SelectTenant(Source& source, const std::string& id) {
  TRY(const auto rows, source.Query(std::string(kTenantColumns) + "WHERE id = $1", {id}));
  if (rows.empty()) return Error(Code::kNotFound, "no such tenant");
  return ToTenant(rows[0]);
}

// One instance by id, whoever owns it.
template <typename Source>
Result<Instance> SelectInstance(Source& source, const std::string& id) {
  TRY(auto found, SelectInstances(source, "WHERE i.id = $1", {id}));
  if (found.empty()) return Error(Code::kNotFound, "no such instance");
  return std::move(found[0]);
}

// One instance of one tenant; somebody else's is as unknown as one that never was.
template <typename Source>
Result<Instance> SelectOwnInstance(Source& source, const std::string& tenant_id,
                                   const std::string& id) {
  TRY(auto found, SelectInstances(source, "WHERE i.id = $1 AND i.tenant_id = $2", {id, tenant_id}));
  if (found.empty()) return Error(Code::kNotFound, "no such instance");
  return std::move(found[0]);
}

Status AddEvent(store::Transaction& transaction, const Instance& instance, commerce::State state,
                std::int64_t wall_micros, std::int64_t now_micros, const std::string& reason);
// Writes what changes in an instance's life: state, wanted, reason, placement, generation, run and
// hours.
Status SaveInstance(store::Transaction& transaction, const Instance& instance);
Status SaveHeartbeat(store::Transaction& transaction, const std::string& id,
                     std::uint64_t generation, std::int64_t seen_micros);
Status Audit(store::Transaction& transaction, std::int64_t now_micros, const std::string& actor,
             const std::string& action, const std::string& tenant_id, const std::string& resource,
             const std::string& detail);
// `body` empty: the answer follows later.
Status Remember(store::Transaction& transaction, const Once* once, std::int64_t now_micros,
                const std::string& resource, int status, const std::optional<std::string>& body);

}  // namespace tessera::cloud
