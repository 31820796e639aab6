#include "cloud/rest.h"

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>

#include "cloud/views.h"
#include "crypto/crypto.h"
#include "http/json.h"

namespace tessera::cloud {
namespace {

using http::JsonObject;
using http::JsonWriter;
using http::Request;
using http::Response;

constexpr std::size_t kInFlightMax = 1024;
constexpr std::size_t kKeyBytesMax = 128;
constexpr std::size_t kPageDefault = 50;

Response Json(int status, std::string body) {
  Response response;
  response.status = status;
  response.body = std::move(body);
  return response;
}

Response Refuse(const Error& error) {
  Response response = http::Problem(error);
  if (error.code() == Code::kUnauthenticated) response.headers["www-authenticate"] = "Bearer";
  if (error.code() != Code::kFailedPrecondition || error.field() != kPurseField) return response;
  // A purse that is too small has its own status and code: a client can tell it from every other
  // conflict.
  JsonWriter json;
  json.BeginObject()
      .Field("type", "about:blank")
      .Field("title", "Payment Required")
      .Field("status", 402);
  json.Field("detail", error.message()).Field("code", "insufficient_funds");
  json.Key("errors").BeginArray().BeginObject();
  json.Field("field", error.field())
      .Field("detail", error.message())
      .EndObject()
      .EndArray()
      .EndObject();
  response.status = 402;
  response.body = json.Take();
  return response;
}

// Which keys are being worked on right now. A process that dies forgets them, which is right: what
// it did is in the database, what it did not do may be asked again.
class InFlight {
 public:
  enum class Entry { kEntered, kSame, kOther, kFull };
  Entry Enter(const std::string& name, const std::string& digest) {
    const std::lock_guard lock(mutex_);
    const auto found = digests_.find(name);
    if (found != digests_.end()) return found->second == digest ? Entry::kSame : Entry::kOther;
    if (digests_.size() >= kInFlightMax) return Entry::kFull;
    digests_.emplace(name, digest);
    return Entry::kEntered;
  }
  void Leave(const std::string& name) {
    const std::lock_guard lock(mutex_);
    digests_.erase(name);
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::string> digests_;
};

enum class Role { kAny, kTenant, kAdmin };

// A handler's view of one request.
struct Call {
  Service& service;
  const Request& request;
  Caller caller;
  const Once* once = nullptr;  // set on routes that need an Idempotency-Key

  std::string Parameter(const std::string& name) const { return request.parameters.at(name); }
};

using Answer = Result<Response>;
using Action = Answer (*)(const Call&);

Status NoQuery(const Request& request) {
  if (request.query.empty()) return {};
  return Error::Field(request.query.begin()->first, "unknown query parameter; expected none");
}

// Actions without input accept no body, or an empty object.
Status NoBody(const Request& request) {
  if (request.body.empty()) return {};
  TRY(const auto body, JsonObject::Parse(request.body));
  return body.Finish();
}

Answer InstanceAnswer(int status, const Result<Instance>& instance) {
  if (!instance) return instance.error();
  return Json(status, ToJson(*instance));
}

Answer CreateTenant(const Call& call) {
  TRY(auto body, JsonObject::Parse(call.request.body));
  TRY(const std::string name, body.String("name"));
  TRY_STATUS(body.Finish());
  TRY(const NewTenant made, call.service.CreateTenant(name, call.once));
  std::string text = ToJson(made.tenant, Purse{});
  JsonWriter key;
  key.Value(made.api_key);
  text.insert(text.size() - 1, ",\"api_key\":" + key.Take());
  return Json(201, text);
}

Answer ListTenants(const Call& call) {
  TRY(const auto tenants, call.service.Tenants());
  JsonWriter json;
  json.BeginObject().Key("tenants").BeginArray();
  for (const auto& tenant : tenants) {
    TRY(const Purse purse, call.service.GetPurse(tenant.id));
    Write(json, tenant, purse);
  }
  json.EndArray().EndObject();
  return Json(200, json.Take());
}

Answer Deposit(const Call& call) {
  TRY(auto body, JsonObject::Parse(call.request.body));
  TRY(const std::string amount_text, body.String("amount"));
  TRY(const std::string currency, body.OptionalString("currency", std::string(kCurrency)));
  TRY_STATUS(body.Finish());
  if (currency != kCurrency) return body.Wrong("currency", "expected " + std::string(kCurrency));
  TRY(const Money amount, ParseMoney(amount_text, "amount"));
  const std::string tenant_id = call.Parameter("id");
  TRY_STATUS(call.service.Deposit(tenant_id, call.once->key, amount, call.once));
  TRY(const Tenant tenant, call.service.GetTenant(tenant_id));
  TRY(const Purse purse, call.service.GetPurse(tenant_id));
  return Json(201, ToJson(tenant, purse));
}

Answer ResetKey(const Call& call) {
  TRY_STATUS(NoBody(call.request));
  TRY(const std::string key, call.service.ResetTenantKey(call.Parameter("id")));
  JsonWriter json;
  json.BeginObject().Field("id", call.Parameter("id")).Field("api_key", key).EndObject();
  return Json(201, json.Take());
}

Answer SetLimits(const Call& call) {
  TRY(auto body, JsonObject::Parse(call.request.body));
  TRY(const auto priority_max, body.Int("priority_max", kPriorityMin, kPriorityMax));
  TRY_STATUS(body.Finish());
  TRY(const Tenant tenant,
      call.service.SetPriorityMax(call.Parameter("id"), static_cast<std::int32_t>(priority_max)));
  TRY(const Purse purse, call.service.GetPurse(tenant.id));
  return Json(200, ToJson(tenant, purse));
}

Answer GetQueue(const Call& call) {
  TRY(const QueueRules rules, call.service.GetQueue());
  return Json(200, ToJson(rules));
}

Answer SetQueue(const Call& call) {
  TRY(auto body, JsonObject::Parse(call.request.body));
  std::optional<std::int64_t> version;
  if (body.Has("version")) {
    TRY(version, body.Int("version", 0, http::kJsonIntMax));
  }
  TRY(auto policy_body, body.Object("policy"));
  TRY(const auto policy, ReadQueuePolicy(std::move(policy_body)));
  TRY_STATUS(body.Finish());
  if (const Status set = call.service.SetQueue(policy, version); !set) {
    const Error& error = set.error();
    return error.field().starts_with("quotas") ? error.Under("policy") : error;
  }
  return GetQueue(call);
}

Answer OwnQuotaOf(const Call& call) {
  TRY(const OwnQuota own, call.service.QuotaOf(call.caller.tenant_id));
  return Json(200, ToJson(own));
}

Answer Me(const Call& call) {
  if (call.caller.admin) {
    JsonWriter json;
    json.BeginObject()
        .Field("id", "admin")
        .Field("name", "admin")
        .Field("role", "admin")
        .EndObject();
    return Json(200, json.Take());
  }
  TRY(const Tenant tenant, call.service.GetTenant(call.caller.tenant_id));
  TRY(const Purse purse, call.service.GetPurse(tenant.id));
  return Json(200, ToJson(tenant, purse));
}

Answer ListSkus(const Call& call) {
  TRY(const auto skus, call.service.Skus());
  JsonWriter json;
  json.BeginObject().Key("skus").BeginArray();
  for (const auto& sku : skus) Write(json, sku);
  json.EndArray().EndObject();
  return Json(200, json.Take());
}

Answer AddSku(const Call& call) {
  TRY(auto body, JsonObject::Parse(call.request.body));
  Sku sku;
  TRY(sku.name, body.String("name"));
  TRY(sku.model, body.OptionalString("model"));
  TRY(const auto slices, body.OptionalInt("slices", 1, 16, 1));
  sku.slices = static_cast<std::uint32_t>(slices);
  TRY(sku.memory_bytes, body.Bytes("memory"));
  TRY(sku.compute, body.Permille("compute"));
  TRY(const auto cpu, body.OptionalInt("cpu_millis", 0, 1'000'000, 0));
  sku.cpu_millis = static_cast<std::uint32_t>(cpu);
  TRY(sku.ram_bytes, body.OptionalBytes("ram", 0));
  TRY(const std::string price, body.String("price_per_hour"));
  TRY(const std::string currency, body.OptionalString("currency", std::string(kCurrency)));
  TRY_STATUS(body.Finish());
  if (currency != kCurrency) return body.Wrong("currency", "expected " + std::string(kCurrency));
  TRY(sku.price_per_hour, ParseMoney(price, "price_per_hour"));
  TRY(const Sku added, call.service.AddSku(sku, call.once));
  return Json(201, ToJson(added));
}

Result<InstanceSpec> ReadSpec(JsonObject& body) {
  InstanceSpec spec;
  TRY(spec.name, body.OptionalString("name"));
  // An absent name means "call it by its id"; an empty one means nothing.
  if (body.Has("name") && spec.name.empty())
    return body.Wrong("name", "expected a name or none at all");
  TRY(spec.sku, body.String("sku"));
  TRY(spec.command, body.Strings("command", kArgumentsMax, kArgumentBytesMax));
  TRY(spec.environment, body.OptionalStringMap("environment", kEnvironmentMax, kArgumentBytesMax));
  TRY(spec.reservation, body.OptionalString("reservation"));
  if (body.Has("reservation") && spec.reservation.empty())
    return body.Wrong("reservation", "expected the id of a reservation or none at all");
  TRY(const std::string isolation, body.OptionalString("isolation", "shim"));
  const auto mode = device::IsolationNamed(isolation);
  if (!mode) return body.Wrong("isolation", "expected shim, spatial or whole");
  spec.isolation = *mode;
  if (body.Has("priority")) {
    TRY(const auto priority, body.Int("priority", kPriorityMin, kPriorityMax));
    spec.priority = static_cast<std::int32_t>(priority);
  }
  TRY(spec.spot, body.OptionalBool("spot", false));
  TRY(spec.requeue, body.OptionalBool("requeue", false));
  return spec;
}

Answer CreateInstance(const Call& call) {
  TRY(auto body, JsonObject::Parse(call.request.body));
  TRY(const InstanceSpec spec, ReadSpec(body));
  TRY_STATUS(body.Finish());
  return InstanceAnswer(201, call.service.CreateInstance(call.caller.tenant_id, spec, call.once));
}

Answer CreateGang(const Call& call) {
  TRY(auto body, JsonObject::Parse(call.request.body));
  TRY(const InstanceSpec spec, ReadSpec(body));
  Gang gang;
  TRY(const auto count, body.Int("count", 2, kGangMembersMax));
  gang.size = static_cast<std::uint32_t>(count);
  TRY(const auto node_min, body.OptionalInt("per_node_min", 1, count, 1));
  gang.node_min = static_cast<std::uint32_t>(node_min);
  TRY(const std::string rack, body.OptionalString("same_rack", "prefer"));
  TRY_STATUS(body.Finish());
  if (rack != "prefer" && rack != "require") {
    return body.Wrong("same_rack", "expected prefer or require");
  }
  gang.one_rack = rack == "require";
  TRY(const auto made, call.service.CreateGang(call.caller.tenant_id, spec, gang, call.once));
  return Json(201, ToJson(made));
}

Answer CreateReservation(const Call& call) {
  TRY(auto body, JsonObject::Parse(call.request.body));
  Reservation wanted;
  TRY(const std::string tenant, body.String("tenant"));
  TRY(const std::string sku, body.String("sku"));
  TRY(const auto units, body.Int("units", 1, placement::kReservedUnitsMax));
  wanted.units = static_cast<std::uint32_t>(units);
  TRY(wanted.open, body.OptionalBool("open", false));
  TRY(wanted.lend, body.OptionalBool("lend", false));
  TRY(const std::string start, body.OptionalString("start"));
  TRY(const std::string end, body.OptionalString("end"));
  TRY_STATUS(body.Finish());
  if (body.Has("start")) {
    TRY(wanted.start_micros, ParseTime(start, "start"));
  }
  if (body.Has("end")) {
    TRY(wanted.end_micros, ParseTime(end, "end"));
    if (wanted.end_micros <= 0) return body.Wrong("end", "expected a time to come");
  }
  TRY(const Reservation made, call.service.CreateReservation(tenant, sku, wanted, call.once));
  return Json(201, ToJson(made));
}

Answer ListReservations(const Call& call) {
  TRY(const auto all, call.service.Reservations(call.caller.tenant_id));
  JsonWriter json;
  json.BeginObject().Key("reservations").BeginArray();
  for (const auto& reservation : all) Write(json, reservation);
  json.EndArray().EndObject();
  return Json(200, json.Take());
}

Answer DeleteReservation(const Call& call) {
  TRY_STATUS(NoBody(call.request));
  TRY_STATUS(call.service.DeleteReservation(call.Parameter("id")));
  JsonWriter json;
  json.BeginObject().Field("id", call.Parameter("id")).EndObject();
  return Json(200, json.Take());
}

Answer ListInstances(const Call& call) {
  std::optional<commerce::State> state;
  std::size_t limit = kPageDefault;
  std::int64_t after = 0;
  for (const auto& [name, value] : call.request.query) {
    if (name == "state") {
      TRY(state, commerce::ParseState(value, "state"));
    } else if (name == "limit") {
      TRY(const auto number, ParseInt(value, "limit", 1, kPageMax));
      limit = static_cast<std::size_t>(number);
    } else if (name == "cursor") {
      auto number = value.starts_with("c") ? ParseInt(value.substr(1), "cursor", 1, INT64_MAX)
                                           : Result<std::int64_t>(Error::Field("cursor", ""));
      if (!number) return Error::Field("cursor", "expected the `next` of an earlier page");
      after = *number;
    } else {
      return Error::Field(name, "unknown query parameter; expected state, limit or cursor");
    }
  }
  TRY(const auto page, call.service.ListInstances(call.caller.tenant_id, state, limit, after));
  JsonWriter json;
  json.BeginObject().Key("instances").BeginArray();
  for (const auto& instance : page.instances) Write(json, instance);
  json.EndArray().Key("next");
  if (page.next == 0) {
    json.Null();
  } else {
    json.Value("c" + std::to_string(page.next));
  }
  json.EndObject();
  return Json(200, json.Take());
}

Answer GetInstance(const Call& call) {
  return InstanceAnswer(200, call.service.GetInstance(call.caller.tenant_id, call.Parameter("id")));
}

Answer StopInstance(const Call& call) {
  TRY_STATUS(NoBody(call.request));
  return InstanceAnswer(200,
                        call.service.StopInstance(call.caller.tenant_id, call.Parameter("id")));
}

Answer StartInstance(const Call& call) {
  TRY_STATUS(NoBody(call.request));
  return InstanceAnswer(
      200, call.service.StartInstance(call.caller.tenant_id, call.Parameter("id"), call.once));
}

Answer ReleaseInstance(const Call& call) {
  TRY_STATUS(NoBody(call.request));
  return InstanceAnswer(200,
                        call.service.ReleaseInstance(call.caller.tenant_id, call.Parameter("id")));
}

Answer Logs(const Call& call) {
  std::int64_t offset = 0;
  for (const auto& [name, value] : call.request.query) {
    if (name != "offset") return Error::Field(name, "unknown query parameter; expected offset");
    TRY(offset, ParseInt(value, "offset", 0, INT64_MAX));
  }
  TRY(const std::string text, call.service.Log(call.caller.tenant_id, call.Parameter("id"),
                                               static_cast<std::uint64_t>(offset)));
  JsonWriter json;
  json.BeginObject().Field("offset", offset).Field("text", text);
  json.Field("next_offset", offset + static_cast<std::int64_t>(text.size())).EndObject();
  return Json(200, json.Take());
}

Answer Exec(const Call& call) {
  TRY(auto body, JsonObject::Parse(call.request.body));
  TRY(const auto command, body.Strings("command", kArgumentsMax, kArgumentBytesMax));
  TRY(const auto stdin_bytes, body.OptionalString("stdin", "", kStdinBytesMax));
  TRY_STATUS(body.Finish());
  TRY(const auto output,
      call.service.Exec(call.caller.tenant_id, call.Parameter("id"), command, stdin_bytes));
  JsonWriter json;
  json.BeginObject().Field("exit_code", output.exit_code).Field("output", output.output);
  json.Field("truncated", output.truncated).EndObject();
  return Json(200, json.Take());
}

Answer Events(const Call& call) {
  TRY(const auto events, call.service.Events(call.caller.tenant_id, call.Parameter("id")));
  JsonWriter json;
  json.BeginObject().Key("events").BeginArray();
  for (const auto& event : events) Write(json, event);
  json.EndArray().EndObject();
  return Json(200, json.Take());
}

Answer Explanation(const Call& call) {
  TRY(const Explained explained, call.service.Explain(call.caller.tenant_id, call.Parameter("id")));
  return Json(200, ToJson(explained));
}

Answer Bill(const Call& call) {
  TRY(const Tenant tenant, call.service.GetTenant(call.caller.tenant_id));
  TRY(const auto bill, call.service.Bill(tenant.id));
  TRY(const Purse purse, call.service.GetPurse(tenant.id));
  JsonWriter json;
  WriteBill(json, tenant, purse, bill);
  return Json(200, json.Take());
}

Answer Ledger(const Call& call) {
  TRY(const auto ledger, call.service.Ledger());
  return Json(200, ToJson(ledger));
}

Answer Cards(const Call& call) {
  TRY(const auto cards, call.service.Cards());
  bool simulated = false;
  JsonWriter json;
  json.BeginObject().Key("cards").BeginArray();
  for (const auto& card : cards) {
    Write(json, card);
    simulated = simulated || card.simulated;
  }
  json.EndArray().Field("simulated", simulated).EndObject();
  return Json(200, json.Take());
}

struct Route {
  const char* method;
  const char* pattern;
  Role role;
  bool once;   // needs an Idempotency-Key
  bool query;  // reads query parameters itself
  Action action;
};

constexpr Route kRoutes[] = {
    {"POST", "/v1/tenants", Role::kAdmin, true, false, CreateTenant},
    {"GET", "/v1/tenants", Role::kAdmin, false, false, ListTenants},
    {"POST", "/v1/tenants/{id}/deposits", Role::kAdmin, true, false, Deposit},
    {"POST", "/v1/tenants/{id}/key", Role::kAdmin, false, false, ResetKey},
    {"PUT", "/v1/tenants/{id}/limits", Role::kAdmin, false, false, SetLimits},
    {"GET", "/v1/queue", Role::kAdmin, false, false, GetQueue},
    {"PUT", "/v1/queue", Role::kAdmin, false, false, SetQueue},
    {"GET", "/v1/quota", Role::kTenant, false, false, OwnQuotaOf},
    {"GET", "/v1/me", Role::kAny, false, false, Me},
    {"GET", "/v1/skus", Role::kAny, false, false, ListSkus},
    {"POST", "/v1/skus", Role::kAdmin, true, false, AddSku},
    {"POST", "/v1/instances", Role::kTenant, true, false, CreateInstance},
    {"GET", "/v1/instances", Role::kTenant, false, true, ListInstances},
    {"POST", "/v1/gangs", Role::kTenant, true, false, CreateGang},
    {"POST", "/v1/reservations", Role::kAdmin, true, false, CreateReservation},
    {"GET", "/v1/reservations", Role::kAny, false, false, ListReservations},
    {"DELETE", "/v1/reservations/{id}", Role::kAdmin, false, false, DeleteReservation},
    {"GET", "/v1/instances/{id}", Role::kTenant, false, false, GetInstance},
    {"DELETE", "/v1/instances/{id}", Role::kTenant, false, false, ReleaseInstance},
    {"POST", "/v1/instances/{id}/stop", Role::kTenant, false, false, StopInstance},
    {"POST", "/v1/instances/{id}/start", Role::kTenant, true, false, StartInstance},
    {"GET", "/v1/instances/{id}/logs", Role::kTenant, false, true, Logs},
    {"POST", "/v1/instances/{id}/exec", Role::kTenant, false, false, Exec},
    {"GET", "/v1/instances/{id}/events", Role::kTenant, false, false, Events},
    {"GET", "/v1/instances/{id}/explanation", Role::kTenant, false, false, Explanation},
    {"GET", "/v1/bill", Role::kTenant, false, false, Bill},
    {"GET", "/v1/ledger", Role::kAdmin, false, false, Ledger},
    {"GET", "/v1/cards", Role::kAny, false, false, Cards},
};

Result<Caller> Identify(Service& service, const Request& request, Role role) {
  const std::string header = request.Header("authorization");
  constexpr std::string_view kScheme = "bearer ";
  std::string scheme = header.substr(0, kScheme.size());
  for (char& c : scheme) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  TRY(const Caller caller,
      service.Authenticate(scheme == kScheme ? header.substr(kScheme.size()) : std::string()));
  if (role == Role::kAdmin && !caller.admin) {
    return Error(Code::kPermissionDenied, "expected the admin's key");
  }
  if (role == Role::kTenant && caller.admin) {
    return Error(Code::kPermissionDenied, "expected a tenant's key; the admin rents nothing");
  }
  return caller;
}

Response Replay(Service& service, const Caller& caller, const Remembered& remembered) {
  Response response = Json(remembered.status, remembered.body.value_or(""));
  if (!remembered.body) {
    // The effect was committed, its answer was not: it is made anew from what the effect became.
    auto body = [&]() -> Result<std::string> {
      if (remembered.resource.starts_with("r-")) {
        TRY(const auto all, service.Reservations(""));
        for (const auto& one : all) {
          if (one.id == remembered.resource) return ToJson(one);
        }
        return Error(Code::kNotFound, "no such reservation");
      }
      if (remembered.resource.starts_with("g-")) {
        TRY(const auto gang, service.LoadGang(remembered.resource));
        return ToJson(gang);
      }
      TRY(const auto instance, service.GetInstance(caller.tenant_id, remembered.resource));
      return ToJson(instance);
    }();
    if (!body) return Refuse(body.error());
    response.body = *std::move(body);
  }
  response.headers["idempotency-replayed"] = "true";
  return response;
}

Response RunOnce(Service& service, InFlight& in_flight, const Route& route, Call call) {
  constexpr const char* kHeader = "Idempotency-Key";
  const std::string key = call.request.Header("idempotency-key");
  const bool printable =
      std::all_of(key.begin(), key.end(), [](char c) { return c > 0x20 && c < 0x7f; });
  if (key.empty() || key.size() > kKeyBytesMax || !printable) {
    return Refuse(Error::Field(kHeader, "expected a header of 1 to " +
                                            std::to_string(kKeyBytesMax) +
                                            " printable characters that names this one request"));
  }
  const Once once{.scope = call.caller.Actor(),
                  .route = std::string(route.method) + " " + call.request.path,
                  .key = key,
                  .digest = crypto::Sha256Hex(call.request.body)};
  const auto other_body = [&] {
    return http::ProblemWithStatus(422,
                                   Error::Field(kHeader, "this key was used for another body"));
  };
  const std::string name = once.scope + "\n" + once.route + "\n" + once.key;
  switch (in_flight.Enter(name, once.digest)) {
    case InFlight::Entry::kEntered:
      break;
    case InFlight::Entry::kSame:
      return Refuse(
          Error(Code::kAborted, "the request of this key is still running").Under(kHeader));
    case InFlight::Entry::kOther:
      return other_body();
    case InFlight::Entry::kFull:
      return Refuse(Error(
          Code::kResourceExhausted,
          "at most kInFlightMax (" + std::to_string(kInFlightMax) + ") such requests at a time"));
  }
  struct Leaver {
    InFlight& in_flight;
    const std::string& name;
    ~Leaver() { in_flight.Leave(name); }
  } leaver{in_flight, name};
  const auto remembered = service.Recall(once);
  if (!remembered) return Refuse(remembered.error());
  if (*remembered) {
    if ((*remembered)->digest != once.digest) return other_body();
    return Replay(service, call.caller, **remembered);
  }
  call.once = &once;
  auto answer = route.action(call);
  return answer ? std::move(*answer) : Refuse(answer.error());
}

}  // namespace

void AddRoutes(http::Router& router, Service& service) {
  const auto in_flight = std::make_shared<InFlight>();
  for (const Route& route : kRoutes) {
    router.Handle(route.method, route.pattern,
                  [&service, &route, in_flight](const Request& request) {
                    const auto caller = Identify(service, request, route.role);
                    if (!caller) return Refuse(caller.error());
                    if (!route.query) {
                      if (const auto none = NoQuery(request); !none) return Refuse(none.error());
                    }
                    const Call call{.service = service, .request = request, .caller = *caller};
                    if (route.once) return RunOnce(service, *in_flight, route, call);
                    auto answer = route.action(call);
                    return answer ? std::move(*answer) : Refuse(answer.error());
                  });
  }
  router.Handle("GET", "/healthz", [&service](const Request&) {
    // The database is the one thing without which nothing can be answered.
    const auto alive = service.Healthy();
    if (!alive) return Refuse(Error(Code::kUnavailable, alive.error().message()));
    return Json(200, "{\"status\":\"ok\"}");
  });
}

std::vector<std::pair<std::string, std::string>> RouteTable() {
  std::vector<std::pair<std::string, std::string>> table;
  for (const Route& route : kRoutes) table.emplace_back(route.method, route.pattern);
  table.emplace_back("GET", "/healthz");
  return table;
}

}  // namespace tessera::cloud
