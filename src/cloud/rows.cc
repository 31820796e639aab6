#include "cloud/rows.h"

#include "http/json.h"

namespace tessera::cloud {
namespace {

std::optional<std::int64_t> OptionalInt(const store::Row& row, std::size_t column) {
  if (row.IsNull(column)) return std::nullopt;
  return row.Int(column);
}

store::Value Nullable(const std::optional<std::int64_t>& value) {
  if (value) return *value;
  return nullptr;
}

Result<std::vector<std::string>> ListFromJson(const std::string& text) {
  TRY(const auto value, http::JsonValue::Parse(text, "stored list"));
  TRY(const auto items, value.Array(kArgumentsMax));
  std::vector<std::string> list;
  for (const auto& item : items) {
    TRY(std::string entry, item.String(kArgumentBytesMax));
    list.push_back(std::move(entry));
  }
  return list;
}

}  // namespace

std::string ListToJson(const std::vector<std::string>& items) {
  http::JsonWriter json;
  json.BeginArray();
  for (const auto& item : items) json.Value(item);
  json.EndArray();
  return json.Take();
}

std::string MapToJson(const std::map<std::string, std::string>& items) {
  http::JsonWriter json;
  json.BeginObject();
  for (const auto& [key, value] : items) json.Field(key, value);
  json.EndObject();
  return json.Take();
}

Tenant ToTenant(const store::Row& row) {
  return {row.Text(0), row.Text(1), row.Int(2), static_cast<std::int32_t>(row.Int(3))};
}

Sku ToSku(const store::Row& row, std::size_t at) {
  Sku sku;
  sku.name = row.Text(at);
  sku.version = row.Int(at + 1);
  sku.model = row.Text(at + 2);
  sku.slices = static_cast<std::uint32_t>(row.Int(at + 3));
  sku.memory_bytes = static_cast<std::uint64_t>(row.Int(at + 4));
  sku.compute.value = static_cast<std::uint32_t>(row.Int(at + 5));
  sku.cpu_millis = static_cast<std::uint32_t>(row.Int(at + 6));
  sku.ram_bytes = static_cast<std::uint64_t>(row.Int(at + 7));
  sku.price_per_hour = Money::FromStored(row.Int(at + 8));
  sku.created_micros = row.Int(at + 9);
  return sku;
}

Reservation ToReservation(const store::Row& row) {
  Reservation reservation;
  reservation.id = row.Text(0);
  reservation.tenant_id = row.Text(1);
  reservation.units = static_cast<std::uint32_t>(row.Int(2));
  reservation.open = row.Int(3) != 0;
  reservation.lend = row.Int(4) != 0;
  reservation.created_micros = row.Int(5);
  reservation.start_micros = row.Int(6);
  reservation.end_micros = row.Int(7);
  reservation.sku = ToSku(row, 8);
  return reservation;
}

Result<Instance> ToInstance(const store::Row& row) {
  Instance instance;
  instance.seq = row.Int(0);
  instance.id = row.Text(1);
  instance.tenant_id = row.Text(2);
  instance.name = row.Text(3);
  instance.sku.name = row.Text(4);
  instance.sku.version = row.Int(5);
  instance.sku.price_per_hour = Money::FromStored(row.Int(6));
  TRY(instance.command, ListFromJson(row.Text(7)));
  TRY(auto environment, http::JsonObject::Parse(row.Text(8)));
  for (const auto& key : environment.Keys()) {
    TRY(instance.environment[key], environment.String(key, kArgumentBytesMax));
  }
  TRY(instance.state, commerce::ParseState(row.Text(9), "instances.state"));
  instance.wanted = row.Text(10);
  instance.reason = row.Text(11);
  instance.waiting_for = row.Text(12);
  instance.node = row.Text(13);
  TRY(instance.cards, ListFromJson(row.Text(14)));
  instance.generation = static_cast<std::uint64_t>(row.Int(15));
  instance.exit_code = OptionalInt(row, 16);
  instance.created_micros = row.Int(17);
  instance.run_started_micros = OptionalInt(row, 18);
  instance.run_ended_micros = OptionalInt(row, 19);
  instance.earlier_micros = row.Int(20);
  instance.hours_settled = row.Int(21);
  instance.seen_micros = OptionalInt(row, 22);
  instance.sku.model = row.Text(23);
  instance.sku.slices = static_cast<std::uint32_t>(row.Int(24));
  instance.sku.memory_bytes = static_cast<std::uint64_t>(row.Int(25));
  instance.sku.compute.value = static_cast<std::uint32_t>(row.Int(26));
  instance.sku.cpu_millis = static_cast<std::uint32_t>(row.Int(27));
  instance.sku.ram_bytes = static_cast<std::uint64_t>(row.Int(28));
  instance.sku.created_micros = row.Int(29);
  instance.gang.id = row.Text(30);
  instance.gang.size = static_cast<std::uint32_t>(row.Int(31));
  instance.gang.node_min = static_cast<std::uint32_t>(row.Int(32));
  instance.gang.one_rack = row.Int(33) != 0;
  instance.reservation = row.Text(34);
  const auto isolation = device::IsolationNamed(row.Text(35));
  if (!isolation) {
    return Error(Code::kDataLoss, "instances.isolation: " + row.Text(35) + " is no known mode");
  }
  instance.isolation = *isolation;
  instance.priority = static_cast<std::int32_t>(row.Int(36));
  instance.spot = row.Int(37) != 0;
  instance.discount_permille = static_cast<std::uint32_t>(row.Int(38));
  instance.requeue = row.Int(39) != 0;
  return instance;
}

Status AddEvent(store::Transaction& transaction, const Instance& instance, commerce::State state,
                std::int64_t wall_micros, std::int64_t now_micros, const std::string& reason) {
  // A state is entered once a generation; hearing of it again changes nothing.
  TRY(const auto added,
      transaction.Execute(
          "INSERT INTO instance_events (instance_id, generation, state, wall_micros, "
          "recorded_micros, reason) VALUES ($1, $2, $3, $4, $5, $6) "
          "ON CONFLICT (instance_id, generation, state) DO NOTHING",
          {instance.id, static_cast<std::int64_t>(instance.generation),
           std::string(commerce::StateName(state)), wall_micros, now_micros, reason}));
  (void)added;
  return {};
}

Status SaveInstance(store::Transaction& transaction, const Instance& instance) {
  TRY(const auto changed,
      transaction.Execute(
          "UPDATE instances SET state = $2, wanted = $3, reason = $4, waiting_for = $5, node = $6, "
          "cards = $7, "
          "generation = $8, exit_code = $9, run_started_micros = $10, run_ended_micros = $11, "
          "earlier_micros = $12, hours_settled = $13 WHERE id = $1",
          {instance.id, std::string(commerce::StateName(instance.state)), instance.wanted,
           instance.reason, instance.waiting_for, instance.node, ListToJson(instance.cards),
           static_cast<std::int64_t>(instance.generation), Nullable(instance.exit_code),
           Nullable(instance.run_started_micros), Nullable(instance.run_ended_micros),
           instance.earlier_micros, instance.hours_settled}));
  if (changed != 1) return Error(Code::kInternal, "instance " + instance.id + " is gone");
  return {};
}

Status SaveHeartbeat(store::Transaction& transaction, const std::string& id,
                     std::uint64_t generation, std::int64_t seen_micros) {
  TRY(const auto changed,
      transaction.Execute("INSERT INTO heartbeats (instance_id, generation, seen_micros) "
                          "VALUES ($1, $2, $3) ON CONFLICT (instance_id, generation) DO UPDATE "
                          "SET seen_micros = excluded.seen_micros "
                          "WHERE excluded.seen_micros > heartbeats.seen_micros",
                          {id, static_cast<std::int64_t>(generation), seen_micros}));
  (void)changed;
  return {};
}

Status Audit(store::Transaction& transaction, std::int64_t now_micros, const std::string& actor,
             const std::string& action, const std::string& tenant_id, const std::string& resource,
             const std::string& detail) {
  TRY(const auto added,
      transaction.Execute(
          "INSERT INTO audit (wall_micros, actor, action, tenant_id, resource, detail) "
          "VALUES ($1, $2, $3, $4, $5, $6)",
          {now_micros, actor, action,
           tenant_id.empty() ? store::Value(nullptr) : store::Value(tenant_id), resource, detail}));
  (void)added;
  return {};
}

Status Remember(store::Transaction& transaction, const Once* once, std::int64_t now_micros,
                const std::string& resource, int status, const std::optional<std::string>& body) {
  if (once == nullptr) return {};
  TRY(const auto expired,
      transaction.Execute("DELETE FROM idempotency WHERE scope = $1 AND route = $2 AND key = $3 "
                          "AND expires_micros <= $4",
                          {once->scope, once->route, once->key, now_micros}));
  (void)expired;
  TRY(const auto added,
      transaction.Execute(
          "INSERT INTO idempotency (scope, route, key, digest, resource, status, body, "
          "expires_micros) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
          {once->scope, once->route, once->key, once->digest, resource, std::int64_t{status},
           body ? store::Value(*body) : store::Value(nullptr), now_micros + kIdempotencyMicros}));
  (void)added;
  return {};
}

}  // namespace tessera::cloud
