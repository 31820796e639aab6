#include "cloud/views.h"

#include <cstdio>
#include <cstdlib>
#include <ctime>

namespace tessera::cloud {
namespace {

using commerce::State;

http::JsonWriter& MoneyField(http::JsonWriter& json, std::string_view key, Money money) {
  return json.Field(key, FormatMoney(money));
}

void TimeField(http::JsonWriter& json, std::string_view key,
               const std::optional<std::int64_t>& micros) {
  json.Key(key);
  if (micros) {
    json.Value(FormatTime(*micros));
  } else {
    json.Null();
  }
}

std::string SecondsText(std::int64_t micros) {
  char text[48];
  std::snprintf(text, sizeof text, "%lld.%06lld", static_cast<long long>(micros / 1'000'000),
                static_cast<long long>(micros % 1'000'000));
  return text;
}

// A score is a fraction of the house's own making: six decimals are all that is meant.
std::string ScoreText(double score) {
  char text[64];
  std::snprintf(text, sizeof text, "%.6f", score);
  return text;
}

void AmountField(http::JsonWriter& json, std::string_view key,
                 const placement::SliceAmount& amount) {
  json.Key(key).BeginObject();
  for (const auto& [name, value] : {std::pair{"card_millis", amount.card_millis},
                                    std::pair{"memory_bytes", amount.memory_bytes}}) {
    json.Key(name);
    if (value == placement::kUnlimited) {
      json.Null();
    } else {
      json.Value(value);
    }
  }
  json.EndObject();
}

void QuotaFields(http::JsonWriter& json, const placement::Quota& quota) {
  AmountField(json, "nominal", quota.nominal);
  AmountField(json, "borrowing_limit", quota.borrowing_limit);
  AmountField(json, "lending_limit", quota.lending_limit);
}

void UseFields(http::JsonWriter& json, const placement::QuotaUse& use) {
  AmountField(json, "held", use.held);
  AmountField(json, "borrowed", use.borrowed);
}

}  // namespace

std::string FormatTime(std::int64_t wall_micros) {
  std::int64_t seconds = wall_micros / 1'000'000;
  std::int64_t micros = wall_micros % 1'000'000;
  if (micros < 0) {
    micros += 1'000'000;
    --seconds;
  }
  const std::time_t time = static_cast<std::time_t>(seconds);
  std::tm parts{};
  gmtime_r(&time, &parts);
  char text[96];
  std::snprintf(text, sizeof text, "%04d-%02d-%02dT%02d:%02d:%02d.%06dZ", parts.tm_year + 1900,
                parts.tm_mon + 1, parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec,
                static_cast<int>(micros));
  return text;
}

Result<std::int64_t> ParseTime(const std::string& text, std::string_view field) {
  const Error wrong =
      Error::Field(std::string(field), "expected a time such as 2026-01-31T08:05:09Z");
  constexpr std::string_view kShape = "dddd-dd-ddTdd:dd:dd";
  if (text.size() < kShape.size() + 1 || text.back() != 'Z') return wrong;
  const auto digit = [&](std::size_t i) { return text[i] >= '0' && text[i] <= '9'; };
  for (std::size_t i = 0; i < kShape.size(); ++i) {
    if (kShape[i] == 'd' ? !digit(i) : text[i] != kShape[i]) return wrong;
  }
  const auto number = [&](std::size_t from, std::size_t count) {
    return std::atoi(text.substr(from, count).c_str());
  };
  std::int64_t micros = 0;
  if (const std::size_t end = text.size() - 1; end > kShape.size()) {
    const std::size_t from = kShape.size() + 1;
    if (text[from - 1] != '.' || end == from || end - from > 6) return wrong;
    for (std::size_t i = from; i < from + 6; ++i) {
      if (i < end && !digit(i)) return wrong;
      micros = micros * 10 + (i < end ? text[i] - '0' : 0);
    }
  }
  std::tm parts{};
  parts.tm_year = number(0, 4) - 1900;
  parts.tm_mon = number(5, 2) - 1;
  parts.tm_mday = number(8, 2);
  parts.tm_hour = number(11, 2);
  parts.tm_min = number(14, 2);
  parts.tm_sec = number(17, 2);
  const std::int64_t wall = std::int64_t{timegm(&parts)} * 1'000'000 + micros;
  // A 31st of February would have become another day.
  if (FormatTime(wall).substr(0, kShape.size()) != text.substr(0, kShape.size())) return wrong;
  return wall;
}

void Write(http::JsonWriter& json, const Explained& explained) {
  const OrderExplanation& order = explained.order;
  const bool waits = order.position != 0;
  json.BeginObject().Field("instance", order.status.instance_id);
  json.Field("waiting_for", order.status.phase == Phase::kQueued ? order.status.waiting_for : "");
  json.Field("spot", order.spot);
  json.Key("queue");
  if (waits) {
    json.BeginObject().Field("position", order.position).Field("waiting", order.waiting);
    json.Field("rule", order.rule).Field("priority", order.priority).Key("ahead").BeginArray();
    for (const std::string& id : explained.own_ahead) json.Value(id);
    json.EndArray().Field("others_ahead", explained.others_ahead).EndObject();
  } else {
    json.Null();
  }
  json.Key("quota");
  if (order.quota) {
    json.BeginObject();
    UseFields(json, *order.quota);
    QuotaFields(json, order.quota->quota);
    json.EndObject();
  } else {
    json.Null();
  }
  json.Key("filtered").BeginArray();
  for (const auto& filtered : order.nodes.filtered) {
    json.BeginObject().Field("rule", filtered.rule).Field("nodes", filtered.nodes);
    json.Field("example_node", filtered.example_node).Field("message", filtered.message);
    json.EndObject();
  }
  json.EndArray().Key("best").BeginArray();
  for (const auto& candidate : order.nodes.best) {
    json.BeginObject().Field("node", candidate.node).Key("cards").BeginArray();
    for (const std::string& card : candidate.cards) json.Value(card);
    json.EndArray().Field("score", ScoreText(candidate.score)).Key("parts").BeginArray();
    for (const auto& [name, value] : candidate.parts) {
      json.BeginObject().Field("name", name).Field("score", ScoreText(value)).EndObject();
    }
    json.EndArray().EndObject();
  }
  json.EndArray().EndObject();
}

std::vector<std::string> LegalActions(const Instance& instance) {
  if (instance.state == State::kReleased) return {};
  if (instance.wanted == "release") return {"logs"};
  if (!instance.Active()) return {"start", "release", "logs"};
  if (instance.wanted == "stop") return {"release", "logs"};
  if (instance.state == State::kRunning) return {"stop", "release", "exec", "logs"};
  return {"stop", "release", "logs"};
}

void Write(http::JsonWriter& json, const Tenant& tenant, const Purse& purse) {
  json.BeginObject();
  json.Field("id", tenant.id)
      .Field("name", tenant.name)
      .Field("created_at", FormatTime(tenant.created_micros));
  json.Field("role", "tenant").Field("currency", kCurrency);
  MoneyField(json, "balance", purse.cash + purse.held - purse.owed);
  MoneyField(json, "held", purse.held);
  MoneyField(json, "available", purse.cash);
  MoneyField(json, "owed", purse.owed);
  json.Field("priority_max", tenant.priority_max);
  json.EndObject();
}

void Write(http::JsonWriter& json, const placement::QueuePolicy& policy) {
  json.BeginObject().Field("fair_share", policy.fair_share).Field("preemption", policy.preempt);
  json.Field("reclaim", ReclaimName(policy.reclaim)).Key("quotas").BeginArray();
  for (const placement::Quota& quota : policy.quotas) {
    json.BeginObject().Field("name", quota.name).Field("parent", quota.parent);
    QuotaFields(json, quota);
    json.Field("weight", quota.weight).EndObject();
  }
  json.EndArray().EndObject();
}

void Write(http::JsonWriter& json, const QueueRules& rules) {
  json.BeginObject().Field("version", rules.version).Key("file");
  if (rules.file.empty()) {
    json.Null();
  } else {
    json.Value(rules.file);
  }
  json.Key("policy");
  Write(json, rules.policy);
  json.Key("use").BeginArray();
  for (const placement::QuotaUse& use : rules.use) {
    json.BeginObject().Field("name", use.quota.name);
    UseFields(json, use);
    json.EndObject();
  }
  json.EndArray().EndObject();
}

void Write(http::JsonWriter& json, const OwnQuota& own) {
  json.BeginObject().Field("priority_max", own.priority_max).Key("quota");
  if (own.use) {
    json.BeginObject();
    UseFields(json, *own.use);
    QuotaFields(json, own.use->quota);
    json.Field("weight", own.use->quota.weight).EndObject();
  } else {
    json.Null();
  }
  json.EndObject();
}

void Write(http::JsonWriter& json, const Sku& sku) {
  json.BeginObject();
  json.Field("name", sku.name).Field("version", sku.version).Field("model", sku.model);
  json.Field("slices", sku.slices).Field("memory_bytes", sku.memory_bytes);
  json.Field("memory", FormatBytes(sku.memory_bytes));
  json.Field("compute_permille", sku.compute.value);
  json.Field("cpu_millis", sku.cpu_millis).Field("ram_bytes", sku.ram_bytes);
  MoneyField(json, "price_per_hour", sku.price_per_hour);
  MoneyField(json, "spot_price_per_hour", sku.spot_price_per_hour).Field("currency", kCurrency);
  json.Field("created_at", FormatTime(sku.created_micros));
  json.EndObject();
}

void Write(http::JsonWriter& json, const Instance& instance) {
  json.BeginObject();
  json.Field("id", instance.id).Field("name", instance.name);
  json.Field("state", commerce::StateName(instance.state)).Field("reason", instance.reason);
  json.Field("waiting_for", instance.waiting_for);
  json.Field("sku", instance.sku.name).Field("sku_version", instance.sku.version);
  json.Field("slices", instance.sku.slices).Field("memory_bytes", instance.sku.memory_bytes);
  json.Field("compute_permille", instance.sku.compute.value);
  json.Field("isolation", device::IsolationName(instance.isolation));
  MoneyField(json, "price_per_hour", instance.sku.price_per_hour).Field("currency", kCurrency);
  json.Key("command").BeginArray();
  for (const auto& argument : instance.command) json.Value(argument);
  json.EndArray();
  json.Key("environment").BeginObject();
  for (const auto& [name, value] : instance.environment) json.Field(name, value);
  json.EndObject();
  json.Field("node", instance.node);
  json.Key("cards").BeginArray();
  for (const auto& card : instance.cards) json.Value(card);
  json.EndArray();
  json.Field("gang", instance.gang.id).Field("reservation", instance.reservation);
  json.Field("priority", instance.priority).Field("spot", instance.spot);
  json.Field("requeue", instance.requeue).Field("generation", instance.generation);
  json.Key("exit_code");
  if (instance.exit_code) {
    json.Value(*instance.exit_code);
  } else {
    json.Null();
  }
  json.Field("created_at", FormatTime(instance.created_micros));
  TimeField(json, "started_at", instance.run_started_micros);
  TimeField(json, "ended_at", instance.run_ended_micros);
  json.Key("actions").BeginArray();
  for (const auto& action : LegalActions(instance)) json.Value(action);
  json.EndArray();
  json.EndObject();
}

void Write(http::JsonWriter& json, const std::vector<Instance>& gang) {
  json.BeginObject().Field("gang", gang.empty() ? "" : gang.front().gang.id);
  json.Key("instances").BeginArray();
  for (const auto& member : gang) Write(json, member);
  json.EndArray().EndObject();
}

void Write(http::JsonWriter& json, const Reservation& reservation) {
  json.BeginObject();
  json.Field("id", reservation.id).Field("tenant", reservation.tenant_id);
  json.Field("sku", reservation.sku.name).Field("sku_version", reservation.sku.version);
  json.Field("units", reservation.units).Field("open", reservation.open);
  json.Field("lend", reservation.lend).Field("state", reservation.phase);
  json.Field("used", reservation.used).Field("lent", reservation.lent);
  json.Field("free", reservation.free).Field("missing", reservation.missing);
  json.Field("missing_for", reservation.missing_for);
  json.Field("created_at", FormatTime(reservation.created_micros));
  json.Field("start", FormatTime(reservation.start_micros));
  TimeField(json, "end",
            reservation.end_micros == 0 ? std::nullopt : std::optional(reservation.end_micros));
  json.EndObject();
}

void Write(http::JsonWriter& json, const InstanceEvent& event) {
  json.BeginObject();
  json.Field("generation", event.generation).Field("kind", event.state);
  json.Field("at", FormatTime(event.wall_micros))
      .Field("recorded_at", FormatTime(event.recorded_micros));
  json.Field("detail", event.reason);
  json.EndObject();
}

void Write(http::JsonWriter& json, const CardView& card) {
  json.BeginObject();
  json.Field("node", card.node).Field("uuid", card.uuid).Field("model", card.model);
  json.Field("simulated", card.simulated);
  json.Field("memory_bytes", card.memory_bytes).Field("reserved_bytes", card.reserved_bytes);
  json.Field("used_bytes", card.used_bytes).Field("reserved_permille", card.reserved_permille);
  json.Field("busy_permille", card.busy_permille);
  json.EndObject();
}

void Write(http::JsonWriter& json, const LedgerState& ledger) {
  json.BeginObject();
  json.Key("accounts").BeginArray();
  for (const auto& account : ledger.accounts) {
    json.BeginObject().Field("name", account.id).Field("kind", account.kind).Key("tenant");
    if (account.tenant_id.empty()) {
      json.Null();
    } else {
      json.Value(account.tenant_id);
    }
    MoneyField(json, "balance", account.balance).EndObject();
  }
  json.EndArray();
  MoneyField(json, "sum", ledger.sum).Field("currency", kCurrency);
  json.EndObject();
}

void WriteBill(http::JsonWriter& json, const Tenant& tenant, const Purse& purse,
               const commerce::Bill& bill) {
  json.BeginObject();
  json.Field("tenant", tenant.id).Field("tenant_name", tenant.name).Field("currency", kCurrency);
  json.Field("rule", commerce::kBillingRule);
  json.Key("lines").BeginArray();
  for (const auto& line : bill.lines) {
    json.BeginObject();
    json.Field("instance", line.contract.instance_id).Field("name", line.contract.name);
    json.Field("sku", line.contract.sku).Field("sku_version", line.contract.sku_version);
    MoneyField(json, "price_per_hour", line.contract.price_per_hour);
    json.Field("spot", line.contract.spot);
    json.Field("generation", line.generation);
    json.Field("from", FormatTime(line.started_wall_micros));
    json.Field("to", FormatTime(line.ended_wall_micros)).Field("open", line.open);
    json.Field("seconds", SecondsText(line.running_micros));
    MoneyField(json, "amount", line.amount);
    json.EndObject();
  }
  json.EndArray();
  MoneyField(json, "total", bill.total);
  MoneyField(json, "balance", purse.cash + purse.held - purse.owed);
  MoneyField(json, "held", purse.held);
  MoneyField(json, "available", purse.cash);
  MoneyField(json, "owed", purse.owed);
  json.EndObject();
}

}  // namespace tessera::cloud
