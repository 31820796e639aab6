// What a tenant does with his instances.
#include <algorithm>

#include "cloud/rows.h"
#include "cloud/service.h"
#include "cloud/views.h"
#include "crypto/crypto.h"

namespace tessera::cloud {
namespace {

using commerce::State;

// The name is shown in tables and used in commands and file names.
Status CheckInstanceName(const std::string& name) {
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  const bool good =
      !name.empty() && name.size() <= 63 && letter(name.front()) && letter(name.back()) &&
      std::all_of(name.begin(), name.end(), [&](char c) { return letter(c) || c == '-'; });
  if (good) return {};
  return Error::Field(
      "name",
      "expected 1 to 63 characters of a-z, 0-9 and '-', with a letter or digit at both ends");
}

Status CheckCommand(const std::vector<std::string>& command) {
  if (command.empty() || command.size() > kArgumentsMax) {
    return Error::Field("command", "expected 1 to " + std::to_string(kArgumentsMax) + " arguments");
  }
  if (command[0].empty()) return Error::Field("command[0]", "expected a program");
  std::size_t bytes = 0;
  for (const auto& argument : command) bytes += argument.size() + 1;
  if (bytes > kArgumentBytesMax) {
    return Error::Field("command",
                        "expected at most " + std::to_string(kArgumentBytesMax) + " bytes in all");
  }
  for (std::size_t i = 0; i < command.size(); ++i) {
    if (command[i].find('\0') != std::string::npos) {
      return Error::Field("command[" + std::to_string(i) + "]", "expected no NUL byte");
    }
  }
  return {};
}

Status CheckEnvironment(const std::map<std::string, std::string>& environment) {
  if (environment.size() > kEnvironmentMax) {
    return Error::Field("environment",
                        "expected at most " + std::to_string(kEnvironmentMax) + " variables");
  }
  std::size_t bytes = 0;
  for (const auto& [name, value] : environment) {
    const auto field = "environment." + name.substr(0, 64);
    const auto word = [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (c >= '0' && c <= '9');
    };
    if (name.empty() || name.size() > 128 || (name[0] >= '0' && name[0] <= '9') ||
        !std::all_of(name.begin(), name.end(), word)) {
      return Error::Field(field,
                          "expected a name of letters, digits and '_' that begins with no digit");
    }
    // These would let a program choose its own limits or slip past the shim.
    if (name.starts_with("TESSERA_") || name == "LD_PRELOAD" || name == "LD_AUDIT") {
      return Error::Field(field, "this variable belongs to the house");
    }
    if (value.find('\0') != std::string::npos) return Error::Field(field, "expected no NUL byte");
    bytes += name.size() + value.size() + 2;
  }
  if (bytes > kArgumentBytesMax) {
    return Error::Field("environment",
                        "expected at most " + std::to_string(kArgumentBytesMax) + " bytes in all");
  }
  return {};
}

Error ShortOf(const Purse& purse, Money price) {
  std::string message = "one hour costs " + FormatMoney(price) + " " + std::string(kCurrency) +
                        " ahead, " + FormatMoney(purse.cash) + " is available";
  if (purse.owed > Money{0}) {
    message += " and " + FormatMoney(purse.owed) + " is owed";
  } else {
    message += ", " + FormatMoney(price - purse.cash) + " short";
  }
  return Error(Code::kFailedPrecondition, message).Under(kPurseField);
}

constexpr std::uint32_t kWholeCard = 1000;  // per mille

// Whether slices of that SKU can be held so, and for its price.
Status CheckIsolation(device::Isolation isolation, const Sku& sku) {
  switch (isolation) {
    case device::Isolation::kShim:
      return {};
    case device::Isolation::kSpatial:
      if (sku.slices == 1) return {};
      return Error::Field("isolation",
                          "expected shim: spatial takes a SKU of one slice, because a process is a "
                          "client of one card's MPS daemon; " +
                              sku.name + " has " + std::to_string(sku.slices));
    case device::Isolation::kWhole:
      if (sku.compute.value == kWholeCard) return {};
      return Error::Field(
          "isolation", "expected shim or spatial: whole takes a SKU of a whole card's compute, " +
                           sku.name + " has " + FormatPermille(sku.compute));
    default:
      return Error::Field("isolation", "expected shim, spatial or whole");
  }
}

// The rank an order asks for, or the one it gets without asking, within what the tenant may ask
// for.
Result<std::int32_t> PriorityOf(const InstanceSpec& spec, const Tenant& tenant) {
  const std::int32_t most = spec.spot ? kSpotPriorityMax : kPriorityMax;
  if (!spec.priority) {
    return std::min(spec.spot ? kSpotPriorityMax : kPriorityDefault, tenant.priority_max);
  }
  if (*spec.priority < kPriorityMin || *spec.priority > most) {
    return Error::Field("priority", "expected " + std::to_string(kPriorityMin) + " to " +
                                        std::to_string(most) +
                                        (spec.spot ? ": a spot order ranks below the others" : ""));
  }
  return *spec.priority;
}

// What the operator has lowered since counts for the next run as well.
Status CheckPriority(std::int32_t priority, const Tenant& tenant) {
  if (priority <= tenant.priority_max) return {};
  return Error(Code::kPermissionDenied, "expected at most your priority_max (" +
                                            std::to_string(tenant.priority_max) + "), got " +
                                            std::to_string(priority))
      .Under("priority");
}

// Sets one hour aside for the run that is about to be asked for.
Status HoldFirstHour(Books& books, const Instance& instance) {
  TRY(const Purse purse, books.Read(instance.tenant_id));
  const Money price = instance.sku.price_per_hour;
  if (purse.owed > Money{0} || purse.cash < price) return ShortOf(purse, price);
  if (price == Money{0}) return {};
  return books.Hold({instance.tenant_id, instance.id, instance.generation, 0}, price);
}

Status CheckSpec(const InstanceSpec& spec) {
  if (!spec.name.empty()) TRY_STATUS(CheckInstanceName(spec.name));
  TRY_STATUS(CheckCommand(spec.command));
  TRY_STATUS(CheckEnvironment(spec.environment));
  if (spec.requeue && !spec.spot) {
    return Error::Field("requeue", "expected it of a spot instance only; no other is stopped so");
  }
  if (spec.reservation.size() > placement::kReservationIdBytesMax) {
    return Error::Field("reservation", "expected the id of a reservation");
  }
  return {};
}

Instance FromSpec(const std::string& tenant_id, const InstanceSpec& spec, std::int64_t now) {
  Instance instance;
  instance.id = crypto::RandomId("i");
  instance.tenant_id = tenant_id;
  instance.name = spec.name.empty() ? instance.id : spec.name;
  instance.command = spec.command;
  instance.environment = spec.environment;
  instance.reservation = spec.reservation;
  instance.isolation = spec.isolation;
  instance.spot = spec.spot;
  instance.requeue = spec.requeue;
  instance.created_micros = now;
  return instance;
}

Result<Sku> CurrentSku(store::Transaction& transaction, const std::string& name) {
  TRY(const auto skus,
      SelectSkus(transaction, "WHERE name = $1 ORDER BY version DESC LIMIT 1", {name}));
  if (skus.empty()) return Error::Field("sku", "expected the name of a SKU in the catalogue");
  return skus[0];
}

// Writes a new instance, with one hour set aside.
Status AddInstance(store::Transaction& transaction, const Instance& instance) {
  const std::int64_t now = instance.created_micros;
  TRY(const auto others, transaction.Query("SELECT count(*), coalesce(sum(CASE WHEN name = $2 "
                                           "THEN 1 ELSE 0 END), 0) FROM instances "
                                           "WHERE tenant_id = $1 AND state <> 'released'",
                                           {instance.tenant_id, instance.name}));
  if (others[0].Int(1) != 0) {
    return Error(Code::kAlreadyExists, "an instance of that name exists; release it first")
        .Under("name");
  }
  if (others[0].Int(0) >= static_cast<std::int64_t>(kInstancesPerTenantMax)) {
    return Error(Code::kResourceExhausted, "at most kInstancesPerTenantMax (" +
                                               std::to_string(kInstancesPerTenantMax) +
                                               ") instances a tenant; release some");
  }
  TRY(const std::int64_t price, instance.sku.price_per_hour.ToStored());
  TRY(const auto added,
      transaction.Execute(
          "INSERT INTO instances (id, tenant_id, name, sku, sku_version, "
          "price_per_hour_micro, command, environment, state, wanted, reason, waiting_for, "
          "node, cards, generation, created_micros, earlier_micros, hours_settled, gang, "
          "gang_size, gang_node_min, gang_one_rack, reservation, isolation, priority, spot, "
          "discount_permille, requeue) "
          "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'queued', 'run', '', '', '', '[]', 1, "
          "$9, 0, 0, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)",
          {instance.id, instance.tenant_id, instance.name, instance.sku.name, instance.sku.version,
           price, ListToJson(instance.command), MapToJson(instance.environment), now,
           instance.gang.id, std::int64_t{instance.gang.size}, std::int64_t{instance.gang.node_min},
           std::int64_t{instance.gang.one_rack ? 1 : 0}, instance.reservation,
           std::string(device::IsolationName(instance.isolation)), std::int64_t{instance.priority},
           std::int64_t{instance.spot}, std::int64_t{instance.discount_permille},
           std::int64_t{instance.requeue}}));
  (void)added;
  Books books(transaction, now);
  TRY_STATUS(HoldFirstHour(books, instance));
  TRY_STATUS(AddEvent(transaction, instance, State::kQueued, now, now, ""));
  return Audit(transaction, now, instance.tenant_id, "instance.create", instance.tenant_id,
               instance.id, instance.sku.name);
}

}  // namespace

Status Service::Agree(store::Transaction& transaction, const InstanceSpec& spec,
                      Instance* instance) {
  TRY(instance->sku, CurrentSku(transaction, spec.sku));
  TRY_STATUS(CheckIsolation(instance->isolation, instance->sku));
  TRY(const Tenant tenant, SelectTenant(transaction, instance->tenant_id));
  TRY(instance->priority, PriorityOf(spec, tenant));
  TRY_STATUS(CheckPriority(instance->priority, tenant));
  if (instance->spot) {
    Price(&instance->sku);
    instance->discount_permille = options_.spot_discount_permille;
    instance->sku.price_per_hour = instance->sku.spot_price_per_hour;
  }
  return {};
}

Result<Instance> Service::CreateInstance(const std::string& tenant_id, const InstanceSpec& spec,
                                         const Once* once) {
  TRY_STATUS(CheckSpec(spec));
  const std::int64_t now = clock_.WallMicros();
  Instance instance = FromSpec(tenant_id, spec, now);

  // The reconciler must not ask for the same placement at the same moment.
  const std::lock_guard stripe(Stripe(instance.id));
  {
    TRY(auto transaction, database_.Begin());
    TRY_STATUS(Agree(*transaction, spec, &instance));
    TRY_STATUS(AddInstance(*transaction, instance));
    TRY_STATUS(Remember(*transaction, once, now, instance.id, 201, std::nullopt));
    TRY_STATUS(transaction->Commit());
  }
  TRY_STATUS(Ask(instance, true));
  TRY(Instance made, Load(instance.id));
  TRY_STATUS(Answer(once, 201, ToJson(made)));
  return made;
}

Result<std::vector<Instance>> Service::CreateGang(const std::string& tenant_id,
                                                  const InstanceSpec& spec, Gang gang,
                                                  const Once* once) {
  TRY_STATUS(CheckSpec(spec));
  if (gang.size < 2 || gang.size > kGangMembersMax) {
    return Error::Field("count", "expected 2 to " + std::to_string(kGangMembersMax));
  }
  if (gang.node_min < 1 || gang.node_min > gang.size) {
    return Error::Field("per_node_min", "expected 1 to count");
  }
  if (!spec.reservation.empty() && (gang.node_min > 1 || gang.one_rack)) {
    return Error::Field(gang.node_min > 1 ? "per_node_min" : "same_rack",
                        "expected none in a reservation, whose places are given");
  }
  gang.id = crypto::RandomId("g");
  const std::int64_t now = clock_.WallMicros();
  std::vector<Instance> members;
  for (std::uint32_t i = 1; i <= gang.size; ++i) {
    InstanceSpec one = spec;
    if (!spec.name.empty()) {
      one.name += "-" + std::to_string(i);
      TRY_STATUS(CheckInstanceName(one.name));
    }
    members.push_back(FromSpec(tenant_id, one, now));
    members.back().gang = gang;
  }
  {
    TRY(auto transaction, database_.Begin());
    for (Instance& member : members) {
      TRY_STATUS(Agree(*transaction, spec, &member));
      TRY_STATUS(AddInstance(*transaction, member));
    }
    TRY_STATUS(Remember(*transaction, once, now, gang.id, 201, std::nullopt));
    TRY_STATUS(transaction->Commit());
  }
  for (const Instance& member : members) {
    const Status asked = [&] {
      const std::lock_guard stripe(Stripe(member.id));
      return Ask(member, true);
    }();
    if (asked) continue;
    // The refusal took the others with it; what the plane has of them goes now, or with the next
    // round.
    for (const Instance& other : members) {
      const std::lock_guard stripe(Stripe(other.id));
      (void)Drive(other.id).has_value();
    }
    return asked.error();
  }
  TRY(auto made, LoadGang(gang.id));
  TRY_STATUS(Answer(once, 201, ToJson(made)));
  return made;
}

Result<std::vector<Instance>> Service::LoadGang(const std::string& gang_id) {
  return SelectInstances(database_, "WHERE i.gang = $1 ORDER BY i.seq", {gang_id});
}

// Of members that wait for their gang's first start, none starts without the others.
Status Service::EndGang(store::Transaction& transaction, const Instance& member,
                        const std::string& wanted, const std::string& reason) {
  if (!member.StartsWithGang() || member.run_started_micros) return {};
  const std::int64_t now = clock_.WallMicros();
  TRY(const auto others, SelectInstances(transaction, "WHERE i.gang = $1 AND i.id <> $2",
                                         {member.gang.id, member.id}));
  for (Instance other : others) {
    if (!other.Active() || other.run_started_micros || other.wanted != "run") continue;
    other.wanted = wanted;
    other.state = State::kStopping;
    other.reason = reason;
    TRY_STATUS(SaveInstance(transaction, other));
    TRY_STATUS(AddEvent(transaction, other, State::kStopping, now, now, reason));
  }
  return {};
}

Result<Instance> Service::StartInstance(const std::string& tenant_id, const std::string& id,
                                        const Once* once) {
  TRY(Instance instance, SelectOwnInstance(database_, tenant_id, id));
  const std::lock_guard stripe(Stripe(id));
  {
    const std::int64_t now = clock_.WallMicros();
    TRY(auto transaction, database_.Begin());
    TRY(instance, SelectOwnInstance(*transaction, tenant_id, id));
    if (instance.Active() || instance.state == State::kReleased || instance.wanted == "release") {
      return Error(Code::kFailedPrecondition,
                   "expected a stopped, ended or failed instance; it is " +
                       std::string(commerce::StateName(instance.state)));
    }
    TRY_STATUS(NextGeneration(*transaction, &instance, ""));
    TRY_STATUS(Audit(*transaction, now, tenant_id, "instance.start", tenant_id, id,
                     "generation " + std::to_string(instance.generation)));
    TRY_STATUS(Remember(*transaction, once, now, id, 200, std::nullopt));
    TRY_STATUS(transaction->Commit());
  }
  TRY_STATUS(Ask(instance, true));
  TRY(Instance started, Load(id));
  TRY_STATUS(Answer(once, 200, ToJson(started)));
  return started;
}

Status Service::NextGeneration(store::Transaction& transaction, Instance* instance,
                               const std::string& reason) {
  TRY(const Tenant tenant, SelectTenant(transaction, instance->tenant_id));
  TRY_STATUS(CheckPriority(instance->priority, tenant));
  const std::int64_t now = clock_.WallMicros();
  instance->generation += 1;
  instance->state = State::kQueued;
  instance->wanted = "run";
  instance->reason.clear();
  instance->waiting_for.clear();
  instance->node.clear();
  instance->cards.clear();
  instance->exit_code.reset();
  instance->run_started_micros.reset();
  instance->run_ended_micros.reset();
  instance->hours_settled = 0;
  Books books(transaction, now);
  TRY_STATUS(HoldFirstHour(books, *instance));
  TRY_STATUS(SaveInstance(transaction, *instance));
  return AddEvent(transaction, *instance, State::kQueued, now, now, reason);
}

// The effect is committed; an answer that cannot be stored is made anew from the instance when
// asked again.
Status Service::Answer(const Once* once, int status, const std::string& body) {
  if (once == nullptr) return {};
  TRY(auto transaction, database_.Begin());
  TRY(const auto changed,
      transaction->Execute("UPDATE idempotency SET status = $4, body = $5 "
                           "WHERE scope = $1 AND route = $2 AND key = $3",
                           {once->scope, once->route, once->key, std::int64_t{status}, body}));
  (void)changed;
  return transaction->Commit();
}

Result<Instance> Service::GetInstance(const std::string& tenant_id, const std::string& id) {
  return SelectOwnInstance(database_, tenant_id, id);
}

Result<Service::Page> Service::ListInstances(const std::string& tenant_id,
                                             std::optional<State> state, std::size_t limit,
                                             std::int64_t after) {
  if (limit < 1 || limit > kPageMax) {
    return Error::Field("limit", "expected 1 to " + std::to_string(kPageMax));
  }
  const std::string filter = state ? "i.state = $4 " : "i.state <> $4 ";
  TRY(auto found,
      SelectInstances(
          database_,
          "WHERE i.tenant_id = $1 AND i.seq > $2 AND " + filter + "ORDER BY i.seq LIMIT $3",
          {tenant_id, after, static_cast<std::int64_t>(limit) + 1,
           std::string(commerce::StateName(state.value_or(State::kReleased)))}));
  Page page;
  page.instances = std::move(found);
  if (page.instances.size() > limit) {
    page.instances.resize(limit);
    page.next = page.instances.back().seq;
  }
  return page;
}

Result<Instance> Service::StopInstance(const std::string& tenant_id, const std::string& id) {
  TRY(Instance instance, SelectOwnInstance(database_, tenant_id, id));
  const std::lock_guard stripe(Stripe(id));
  {
    const std::int64_t now = clock_.WallMicros();
    TRY(auto transaction, database_.Begin());
    TRY(instance, SelectOwnInstance(*transaction, tenant_id, id));
    if (instance.state == State::kReleased) {
      return Error(Code::kFailedPrecondition, "expected an instance that is not released");
    }
    if (!instance.Active()) return instance;
    if (instance.wanted == "run") {
      instance.wanted = "stop";
      instance.state = State::kStopping;
      instance.reason = "stopped by its owner";
      TRY_STATUS(EndGang(*transaction, instance, "stop",
                         "gang: its member " + id + " was stopped before all had started"));
      TRY_STATUS(SaveInstance(*transaction, instance));
      TRY_STATUS(AddEvent(*transaction, instance, State::kStopping, now, now, instance.reason));
      TRY_STATUS(Audit(*transaction, now, tenant_id, "instance.stop", tenant_id, id, ""));
      TRY_STATUS(transaction->Commit());
    }
  }
  // Once it is wanted, a plane that cannot be reached only means that the reconciler does it later.
  (void)Drive(id).has_value();
  return Load(id);
}

Result<Instance> Service::ReleaseInstance(const std::string& tenant_id, const std::string& id) {
  TRY(Instance instance, SelectOwnInstance(database_, tenant_id, id));
  const std::lock_guard stripe(Stripe(id));
  {
    const std::int64_t now = clock_.WallMicros();
    TRY(auto transaction, database_.Begin());
    TRY(instance, SelectOwnInstance(*transaction, tenant_id, id));
    if (instance.state == State::kReleased) return instance;
    if (instance.wanted != "release") {
      instance.wanted = "release";
      TRY_STATUS(EndGang(*transaction, instance, "stop",
                         "gang: its member " + id + " was released before all had started"));
      if (instance.Active() && instance.state != State::kStopping) {
        instance.state = State::kStopping;
        instance.reason = "released by its owner";
        TRY_STATUS(AddEvent(*transaction, instance, State::kStopping, now, now, instance.reason));
      }
      TRY_STATUS(SaveInstance(*transaction, instance));
      TRY_STATUS(Audit(*transaction, now, tenant_id, "instance.release", tenant_id, id, ""));
      TRY_STATUS(transaction->Commit());
    }
  }
  (void)Drive(id).has_value();
  return Load(id);
}

Result<std::string> Service::Log(const std::string& tenant_id, const std::string& id,
                                 std::uint64_t offset) {
  TRY(const Instance instance, SelectOwnInstance(database_, tenant_id, id));
  if (instance.state == State::kReleased) {
    return Error(Code::kFailedPrecondition, "a released instance has no log");
  }
  auto log = execution_.Log(id, offset);
  // Nothing has been started yet, so nothing has been written.
  if (!log && !instance.run_started_micros &&
      (log.error().code() == Code::kNotFound || log.error().code() == Code::kFailedPrecondition)) {
    return std::string();
  }
  return log;
}

Result<ExecOutput> Service::Exec(const std::string& tenant_id, const std::string& id,
                                 const std::vector<std::string>& command,
                                 const std::string& stdin_bytes) {
  TRY_STATUS(CheckCommand(command));
  if (stdin_bytes.size() > kStdinBytesMax) {
    return Error::Field("stdin", "expected at most " + std::to_string(kStdinBytesMax) + " bytes");
  }
  TRY(const Instance instance, SelectOwnInstance(database_, tenant_id, id));
  if (instance.state != State::kRunning) {
    return Error(Code::kFailedPrecondition, "expected a running instance; it is " +
                                                std::string(commerce::StateName(instance.state)));
  }
  {
    TRY(auto transaction, database_.Begin());
    TRY_STATUS(Audit(*transaction, clock_.WallMicros(), tenant_id, "instance.exec", tenant_id, id,
                     command[0]));
    TRY_STATUS(transaction->Commit());
  }
  return execution_.Exec(id, command, stdin_bytes);
}

Result<Explained> Service::Explain(const std::string& tenant_id, const std::string& id) {
  TRY(const Instance instance, SelectOwnInstance(database_, tenant_id, id));
  if (!instance.Active()) {
    return Error(Code::kFailedPrecondition, "expected an instance that waits or runs; it is " +
                                                std::string(commerce::StateName(instance.state)));
  }
  auto order = execution_.Explain(id);
  // An earlier run's is none of this one's.
  if (!order || order->status.generation != instance.generation) {
    if (!order && order.error().code() != Code::kNotFound) return order.error();
    return Error(Code::kUnavailable, "the scheduling plane does not know it yet; try again");
  }
  Explained explained;
  for (const auto& other : order->ahead) {
    if (other.tenant == tenant_id) {
      explained.own_ahead.push_back(other.instance_id);
    } else {
      ++explained.others_ahead;
    }
  }
  order->ahead.clear();
  explained.order = *std::move(order);
  return explained;
}

Result<std::vector<InstanceEvent>> Service::Events(const std::string& tenant_id,
                                                   const std::string& id) {
  TRY(const Instance instance, SelectOwnInstance(database_, tenant_id, id));
  TRY(const auto rows,
      database_.Query("SELECT generation, state, wall_micros, recorded_micros, reason "
                      "FROM instance_events WHERE instance_id = $1 "
                      "ORDER BY seq",
                      {instance.id}));
  std::vector<InstanceEvent> events;
  for (const auto& row : rows) {
    events.push_back(
        {static_cast<std::uint64_t>(row.Int(0)), row.Text(1), row.Int(2), row.Int(3), row.Text(4)});
  }
  return events;
}

}  // namespace tessera::cloud
