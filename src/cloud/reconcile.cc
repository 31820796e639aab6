// The reconciler: what the scheduling plane says becomes events and money, what is wanted becomes
// calls.
#include <algorithm>
#include <functional>
#include <set>

#include "base/log.h"
#include "cloud/rows.h"
#include "cloud/service.h"
#include "commerce/rating.h"
#include "commerce/settlement.h"

namespace tessera::cloud {
namespace {

using commerce::State;

placement::Order ToOrder(const Instance& instance) {
  return {.request = {.id = instance.id,
                      .slices = instance.sku.slices,
                      .memory_bytes = instance.sku.memory_bytes,
                      .compute = instance.sku.compute,
                      .cpu_millis = instance.sku.cpu_millis,
                      .ram_bytes = instance.sku.ram_bytes,
                      .model = instance.sku.model,
                      .isolation = instance.isolation,
                      .tenant = instance.tenant_id,
                      .priority = instance.priority},
          .preemptible = instance.spot,
          .gang = instance.StartsWithGang() ? instance.gang.id : "",
          .gang_size = instance.StartsWithGang() ? instance.gang.size : 0,
          .gang_node_min = instance.StartsWithGang() ? instance.gang.node_min : 1,
          .gang_one_rack = instance.StartsWithGang() && instance.gang.one_rack,
          .reservation = instance.reservation};
}

runtime::Workload ToWorkload(const Instance& instance) {
  runtime::Workload workload;
  workload.argv = instance.command;
  for (const auto& [name, value] : instance.environment)
    workload.environment.push_back(name + "=" + value);
  workload.cpu_millis = instance.sku.cpu_millis;
  workload.ram_bytes = instance.sku.ram_bytes;
  return workload;
}

// Whether asking again later can help.
bool Transient(Code code) {
  switch (code) {
    case Code::kUnavailable:
    case Code::kDeadlineExceeded:
    case Code::kAborted:
    case Code::kInternal:
    case Code::kUnknown:
    case Code::kCancelled:
    case Code::kDataLoss:
      return true;
    default:
      return false;
  }
}

void Place(Instance* instance, const ExecutionStatus& status) {
  if (!status.placement) return;
  instance->node = status.placement->node;
  instance->cards.clear();
  for (const auto& share : status.placement->shares) instance->cards.push_back(share.card_uuid);
}

}  // namespace

std::mutex& Service::Stripe(const std::string& instance_id) {
  return stripes_[std::hash<std::string>()(instance_id) % stripes_.size()];
}

Result<Instance> Service::Load(const std::string& id) { return SelectInstance(database_, id); }

Result<bool> Service::Settle(store::Transaction& transaction, Instance* instance,
                             std::int64_t until_micros, bool ended) {
  Books books(transaction, clock_.WallMicros());
  const auto hour = [&](std::int64_t number) {
    return Books::Hour{instance->tenant_id, instance->id, instance->generation, number};
  };
  TRY(const Purse purse, books.Read(instance->tenant_id));
  commerce::RunMeter meter{.price_per_hour = instance->sku.price_per_hour,
                           .earlier_micros = instance->earlier_micros,
                           .ended = ended,
                           .hours_settled = instance->hours_settled,
                           .cash = purse.cash,
                           .margin_micros = options_.hold_margin_micros};
  if (instance->run_started_micros) {
    meter.run_micros = std::max<std::int64_t>(0, until_micros - *instance->run_started_micros);
  }
  TRY(meter.hold_open, books.HoldOpen(hour(instance->hours_settled)));
  TRY(meter.next_hold_open, books.HoldOpen(hour(instance->hours_settled + 1)));
  TRY(const auto plan, commerce::Settle(meter));
  for (const auto& step : plan.steps) {
    switch (step.kind) {
      case commerce::Step::Kind::kHold:
        TRY_STATUS(books.Hold(hour(step.hour), step.amount));
        break;
      case commerce::Step::Kind::kCapture:
        TRY_STATUS(books.Capture(hour(step.hour), step.amount));
        break;
      case commerce::Step::Kind::kVoid:
        TRY_STATUS(books.Void(hour(step.hour), step.amount));
        break;
      case commerce::Step::Kind::kCharge:
        TRY_STATUS(books.Charge(hour(step.hour), step.amount));
        break;
      case commerce::Step::Kind::kOwe:
        TRY_STATUS(books.Owe(hour(step.hour), step.amount));
        break;
    }
  }
  instance->hours_settled = plan.hours_settled;
  return plan.out_of_funds;
}

Status Service::Finish(store::Transaction& transaction, Instance instance,
                       std::int64_t ended_micros, std::optional<std::int64_t> exit_code,
                       const std::string& reason) {
  const std::int64_t now = clock_.WallMicros();
  std::int64_t end = std::min(ended_micros, now);
  if (instance.run_started_micros) {
    // Hours already captured were vouched for by the node; an exit time before their end cannot be
    // right.
    end = std::max(end,
                   *instance.run_started_micros + instance.hours_settled * commerce::kHourMicros);
  }
  TRY(const bool owes, Settle(transaction, &instance, end, true));
  (void)owes;  // shown as owed; the run is over anyway
  if (instance.run_started_micros) {
    instance.earlier_micros += end - *instance.run_started_micros;
    instance.run_ended_micros = end;
    TRY_STATUS(SaveHeartbeat(transaction, instance.id, instance.generation, end));
  }
  instance.exit_code = exit_code;
  instance.waiting_for.clear();
  if (instance.wanted != "run") {
    instance.state = State::kStopped;
  } else {
    instance.state = instance.run_started_micros && exit_code ? State::kEnded : State::kFailed;
    instance.reason = reason;
  }
  TRY_STATUS(SaveInstance(transaction, instance));
  return AddEvent(transaction, instance, instance.state, end, now, instance.reason);
}

Status Service::Apply(const ExecutionStatus& status) {
  const std::int64_t now = clock_.WallMicros();
  TRY(auto transaction, database_.Begin());
  TRY(Instance instance, SelectInstance(*transaction, status.instance_id));
  if (!instance.Active() || status.generation != instance.generation) return {};
  Place(&instance, status);
  const bool began = status.phase == Phase::kRunning ||
                     (status.phase == Phase::kEnded && status.started_wall_micros > 0);
  if (began && !instance.run_started_micros) {
    const std::int64_t started =
        status.started_wall_micros > 0 ? std::min(status.started_wall_micros, now) : now;
    instance.run_started_micros = started;
    instance.waiting_for.clear();
    TRY_STATUS(AddEvent(*transaction, instance, State::kRunning, started, now, ""));
    TRY_STATUS(SaveHeartbeat(*transaction, instance.id, instance.generation, started));
  }
  switch (status.phase) {
    case Phase::kQueued: {
      if (instance.wanted != "run" || instance.run_started_micros) return {};
      const State state = status.placement ? State::kStarting : State::kQueued;
      if (state == State::kStarting && instance.state != state) {
        TRY_STATUS(AddEvent(*transaction, instance, state, now, now, ""));
      }
      instance.state = state;
      instance.waiting_for = status.waiting_for;
      break;
    }
    case Phase::kRunning: {
      if (instance.wanted == "run") instance.state = State::kRunning;
      const std::int64_t seen =
          std::max({*instance.run_started_micros, instance.seen_micros.value_or(0),
                    std::min(status.seen_wall_micros, now)});
      TRY_STATUS(SaveHeartbeat(*transaction, instance.id, instance.generation, seen));
      TRY(const bool out_of_funds, Settle(*transaction, &instance, seen, false));
      if (out_of_funds && instance.wanted == "run") {
        instance.wanted = "stop";
        instance.state = State::kStopping;
        instance.reason = "out of funds: the next hour costs " +
                          FormatMoney(instance.sku.price_per_hour) + " " + std::string(kCurrency);
        TRY_STATUS(AddEvent(*transaction, instance, State::kStopping, now, now, instance.reason));
        TRY_STATUS(Audit(*transaction, now, "system", "instance.stop", instance.tenant_id,
                         instance.id, instance.reason));
      }
      break;
    }
    case Phase::kEnded: {
      const std::int64_t ended = status.ended_wall_micros > 0 ? status.ended_wall_micros
                                                              : instance.seen_micros.value_or(now);
      TRY_STATUS(
          Finish(*transaction, instance, ended,
                 instance.run_started_micros ? std::optional<std::int64_t>(status.exit_code)
                                             : std::nullopt,
                 (instance.run_started_micros ? "" : "it never started: ") + status.waiting_for));
      if (status.evicted && instance.requeue && instance.wanted == "run") {
        TRY_STATUS(Requeue(*transaction, instance.id));
      }
      return transaction->Commit();
    }
  }
  TRY_STATUS(SaveInstance(*transaction, instance));
  return transaction->Commit();
}

// Once it was stopped for another it waits again, unless its owner may or can not go on paying.
Status Service::Requeue(store::Transaction& transaction, const std::string& id) {
  TRY(Instance instance, SelectInstance(transaction, id));
  const std::string reason = instance.reason;
  Status next = NextGeneration(transaction, &instance, "requeued: " + reason);
  if (next || (next.error().field() != kPurseField && next.error().field() != "priority")) {
    return next;
  }
  TRY(instance, SelectInstance(transaction, id));
  instance.reason = reason + "; not requeued: " + next.error().message();
  return SaveInstance(transaction, instance);
}

Status Service::FinishLost(const std::string& id, std::uint64_t generation,
                           const std::string& reason) {
  TRY(auto transaction, database_.Begin());
  TRY(const Instance instance, SelectInstance(*transaction, id));
  if (!instance.Active() || instance.generation != generation) return {};
  const std::int64_t end = instance.seen_micros.value_or(clock_.WallMicros());
  TRY_STATUS(Finish(*transaction, instance, end, std::nullopt, reason));
  return transaction->Commit();
}

Status Service::Refuse(const Instance& asked, const Error& why, bool forget) {
  const std::int64_t now = clock_.WallMicros();
  TRY(auto transaction, database_.Begin());
  TRY(Instance instance, SelectInstance(*transaction, asked.id));
  if (!instance.Active() || instance.generation != asked.generation) return {};
  TRY(const bool owes, Settle(*transaction, &instance, now, true));
  (void)owes;
  instance.reason = why.message();
  instance.waiting_for.clear();
  // Whoever is told "no" finds nothing new: a first order is gone, a restart leaves the instance
  // stopped, and the same key may be tried again.
  instance.state = !forget                    ? State::kFailed
                   : instance.generation == 1 ? State::kReleased
                                              : State::kStopped;
  TRY_STATUS(SaveInstance(*transaction, instance));
  TRY_STATUS(AddEvent(*transaction, instance, instance.state, now, now, instance.reason));
  TRY_STATUS(EndGang(*transaction, instance, forget ? "release" : "stop",
                     "gang: its member " + instance.id + " was refused: " + why.message()));
  if (forget) {
    TRY(const auto removed,
        transaction->Execute("DELETE FROM idempotency WHERE resource IN ($1, $2) AND body IS NULL",
                             {instance.id, instance.gang.id}));
    (void)removed;
  }
  return transaction->Commit();
}

Status Service::Ask(const Instance& instance, bool first) {
  placement::Order order = ToOrder(instance);
  if (!order.gang.empty()) {
    // A gang that began has begun: who is still to start does not wait for those who are gone.
    TRY(const auto began,
        database_.Query("SELECT 1 FROM instances WHERE gang = $1 AND "
                        "(run_started_micros IS NOT NULL OR generation > 1) LIMIT 1",
                        {instance.gang.id}));
    if (!began.empty()) {
      order.gang.clear();
      order.gang_size = 0;
      order.gang_node_min = 1;
      order.gang_one_rack = false;
    }
  }
  auto status = execution_.Submit(order, instance.generation, ToWorkload(instance));
  if (status) return Apply(*status);
  const Error& why = status.error();
  // A queue that is full now may have room later, but a tenant who is just asking is told at once.
  if (!Transient(why.code()) && (first || why.code() != Code::kResourceExhausted)) {
    TRY_STATUS(Refuse(instance, why, first));
    if (first) return why;
    return {};
  }
  if (instance.waiting_for != why.message()) {
    TRY(auto transaction, database_.Begin());
    TRY(Instance waiting, SelectInstance(*transaction, instance.id));
    if (!waiting.Active() || waiting.generation != instance.generation) return {};
    waiting.waiting_for = why.message();
    TRY_STATUS(SaveInstance(*transaction, waiting));
    return transaction->Commit();
  }
  return {};
}

Status Service::MarkReleased(const std::string& id) {
  const std::int64_t now = clock_.WallMicros();
  {
    TRY(auto transaction, database_.Begin());
    TRY(Instance instance, SelectInstance(*transaction, id));
    if (instance.Active() || instance.state == State::kReleased || instance.wanted != "release")
      return {};
    instance.state = State::kReleased;
    TRY_STATUS(SaveInstance(*transaction, instance));
    TRY_STATUS(AddEvent(*transaction, instance, State::kReleased, now, now, ""));
    TRY_STATUS(transaction->Commit());
  }
  // Should this be lost, the next round finds the plane still knowing a released instance and says
  // it again.
  return execution_.Forget(id);
}

Status Service::Drive(const std::string& id) {
  TRY(Instance instance, Load(id));
  if (instance.Active() && instance.wanted == "run") {
    if (instance.run_started_micros) return {};
    return Ask(instance, false);
  }
  if (instance.Active()) {
    auto status = execution_.Stop(id, instance.generation);
    if (status) {
      TRY_STATUS(Apply(*status));
    } else if (status.error().code() == Code::kNotFound) {
      TRY_STATUS(FinishLost(id, instance.generation, status.error().message()));
    } else {
      return status.error();
    }
    TRY(instance, Load(id));
  }
  if (!instance.Active() && instance.wanted == "release") return MarkReleased(id);
  return {};
}

Status Service::RecordOne(const std::string& id, const ExecutionStatus& status) {
  std::unique_lock stripe(Stripe(id), std::try_to_lock);
  // Somebody is at work on it, perhaps waiting for a program to end; it is looked at next time.
  if (!stripe) return {};
  TRY(const Instance instance, Load(id));
  if (!instance.Active() || status.generation != instance.generation) return {};
  switch (status.phase) {
    case Phase::kEnded:
      return Apply(status);
    case Phase::kQueued: {
      const State state = status.placement ? State::kStarting : State::kQueued;
      if (instance.state == state && instance.waiting_for == status.waiting_for) return {};
      return Apply(status);
    }
    case Phase::kRunning: {
      if (instance.run_started_micros && instance.state == State::kRunning) {
        const std::int64_t due = *instance.run_started_micros +
                                 (instance.hours_settled + 1) * commerce::kHourMicros -
                                 options_.hold_margin_micros;
        if (status.seen_wall_micros < due) return {};
      }
      return Apply(status);
    }
  }
  return {};
}

Status Service::ConvergeOne(const std::string& id, const ExecutionStatus* status) {
  std::unique_lock stripe(Stripe(id), std::try_to_lock);
  if (!stripe) return {};
  TRY(const Instance instance, Load(id));
  if (!instance.Active()) {
    if (instance.wanted == "release" && instance.state != State::kReleased) return MarkReleased(id);
    if (status == nullptr || status->generation > instance.generation) return {};
    if (status->phase != Phase::kEnded) {
      // It was given up as lost and is back: it has no right to its cards any more.
      const auto stopped = execution_.Stop(id, status->generation);
      if (!stopped && stopped.error().code() != Code::kNotFound) return stopped.error();
    }
    if (instance.state == State::kReleased) return execution_.Forget(id);
    return {};
  }
  const bool known = status != nullptr && status->generation == instance.generation;
  if (known || !instance.run_started_micros) {
    const std::lock_guard lock(mutex_);
    missing_since_.erase(id);
  }
  if (instance.wanted != "run") return Drive(id);
  if (known) {
    // A plane that started anew knows that it runs, not whose it is.
    return status->adopted ? Ask(instance, false) : Status();
  }
  if (!instance.run_started_micros) return Ask(instance, false);
  std::int64_t since = clock_.MonotonicNanos();
  {
    const std::lock_guard lock(mutex_);
    since = missing_since_.emplace(id, since).first->second;
  }
  if (clock_.MonotonicNanos() - since < options_.lost_micros * 1000) return {};
  ::tessera::Log(LogLevel::kWarn, "instance.lost", {{"instance", id}});
  return FinishLost(id, instance.generation, "lost: the scheduling plane no longer knows it");
}

Status Service::SaveHeartbeats(const std::vector<Heartbeat>& beats) {
  if (beats.empty()) return {};
  TRY(auto transaction, database_.Begin());
  for (const auto& beat : beats)
    TRY_STATUS(SaveHeartbeat(*transaction, beat.id, beat.generation, beat.seen_micros));
  return transaction->Commit();
}

namespace {

// The newest generation of each instance.
std::map<std::string, const ExecutionStatus*> ById(const std::vector<ExecutionStatus>& statuses) {
  std::map<std::string, const ExecutionStatus*> known;
  for (const auto& status : statuses) {
    const auto [at, added] = known.emplace(status.instance_id, &status);
    if (!added && status.generation > at->second->generation) at->second = &status;
  }
  return known;
}

constexpr std::string_view kUnfinished =
    "WHERE i.state IN ('queued', 'starting', 'running', 'stopping') "
    "OR (i.wanted = 'release' AND i.state <> 'released') ORDER BY i.seq";

void Note(Status* first, Status status) {
  if (!status && *first) *first = std::move(status);
}

}  // namespace

Status Service::Record() {
  TRY(const auto statuses, execution_.List());
  const auto known = ById(statuses);
  TRY(const auto open, SelectInstances(database_, kUnfinished, {}));
  Status first_error;
  // One transaction keeps all runs' heartbeats fresh.
  const std::int64_t now = clock_.WallMicros();
  std::vector<Heartbeat> beats;
  for (const auto& instance : open) {
    const auto found = known.find(instance.id);
    if (found == known.end() || !instance.run_started_micros) continue;
    const ExecutionStatus& status = *found->second;
    if (status.generation != instance.generation || status.phase != Phase::kRunning) continue;
    const std::int64_t seen = std::min(status.seen_wall_micros, now);
    if (seen - instance.seen_micros.value_or(0) >= options_.heartbeat_micros) {
      beats.push_back({instance.id, instance.generation, seen});
    }
  }
  Note(&first_error, SaveHeartbeats(beats));
  for (const auto& instance : open) {
    const auto found = known.find(instance.id);
    if (found != known.end()) Note(&first_error, RecordOne(instance.id, *found->second));
  }
  Note(&first_error, PurgeAnswers(now));
  return first_error;
}

Status Service::Converge() {
  {
    // Nobody is placed by rules that do not hold.
    const std::lock_guard lock(queue_mutex_);
    TRY_STATUS(ApplyQueue());
  }
  // Before the orders that run in them.
  TRY_STATUS(ConvergeReservations());
  TRY(const auto statuses, execution_.List());
  const auto known = ById(statuses);
  TRY(const auto open, SelectInstances(database_, kUnfinished, {}));
  Status first_error;
  // First come, first served: after a restart the plane's queue is filled in the order of the
  // orders.
  std::vector<std::string> work;
  std::set<std::string> listed;
  for (const auto& instance : open) {
    work.push_back(instance.id);
    listed.insert(instance.id);
  }
  // What the plane still knows but we closed long ago: most of it is ended and wants nothing.
  for (const auto& [id, status] : known) {
    if (listed.contains(id)) continue;
    auto closed = Load(id);
    if (!closed) {
      if (closed.error().code() != Code::kNotFound) Note(&first_error, closed.error());
      continue;
    }
    if (closed->state == State::kReleased || status->phase != Phase::kEnded) work.push_back(id);
  }
  for (const auto& id : work) {
    const auto found = known.find(id);
    Note(&first_error, ConvergeOne(id, found == known.end() ? nullptr : found->second));
  }
  return first_error;
}

Status Service::Tick() {
  Status recorded = Record();
  Status converged = Converge();
  return recorded ? converged : recorded;
}

Status Service::PurgeAnswers(std::int64_t now_micros) {
  TRY(const auto expired,
      database_.Query("SELECT 1 FROM idempotency WHERE expires_micros <= $1 LIMIT 1",
                      {now_micros}));
  if (expired.empty()) return {};
  TRY(auto transaction, database_.Begin());
  TRY(const auto removed,
      transaction->Execute("DELETE FROM idempotency WHERE expires_micros <= $1", {now_micros}));
  (void)removed;
  return transaction->Commit();
}

}  // namespace tessera::cloud
