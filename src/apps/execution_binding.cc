#include "apps/execution_binding.h"

namespace tessera::apps {
namespace {

cloud::Phase PhaseOf(scheduler::Phase phase) {
  switch (phase) {
    case scheduler::Phase::kQueued:
      return cloud::Phase::kQueued;
    case scheduler::Phase::kRunning:
      return cloud::Phase::kRunning;
    case scheduler::Phase::kEnded:
      return cloud::Phase::kEnded;
  }
  return cloud::Phase::kQueued;
}

cloud::ExecutionStatus Convert(const scheduler::InstanceStatus& from) {
  cloud::ExecutionStatus to;
  to.instance_id = from.instance_id;
  to.generation = from.generation;
  to.phase = PhaseOf(from.phase);
  to.placement = from.placement;
  // Why one could not be started, or was stopped for another, is all there is to say about it.
  to.waiting_for = from.phase == scheduler::Phase::kEnded ? from.failure : from.waiting_for;
  to.evicted = from.evicted;
  to.adopted = from.adopted;
  to.exit_code = from.exit_code;
  to.started_wall_micros = from.started_wall_micros;
  to.ended_wall_micros = from.ended_wall_micros;
  to.seen_wall_micros = from.seen_wall_micros;
  return to;
}

Result<cloud::ExecutionStatus> Convert(Result<scheduler::InstanceStatus> from) {
  if (!from) return from.error();
  return Convert(*from);
}

}  // namespace

Result<cloud::ExecutionStatus> SchedulerExecution::Submit(const placement::Order& order,
                                                          std::uint64_t generation,
                                                          const runtime::Workload& workload) {
  return Convert(scheduler_.Submit(order, generation, workload));
}

Status SchedulerExecution::Reserve(const placement::CapacityReservation& reservation, bool whole) {
  return scheduler_.Reserve(reservation, whole);
}

Status SchedulerExecution::Unreserve(const std::string& id) {
  scheduler_.Unreserve(id);
  return {};
}

Result<std::vector<placement::ReservationUse>> SchedulerExecution::Reservations() {
  return scheduler_.Reservations();
}

Result<cloud::ExecutionStatus> SchedulerExecution::Stop(const std::string& instance_id,
                                                        std::uint64_t generation) {
  return Convert(scheduler_.Stop(instance_id, generation));
}

Status SchedulerExecution::Forget(const std::string& instance_id) {
  return scheduler_.Forget(instance_id);
}

Result<cloud::ExecutionStatus> SchedulerExecution::Get(const std::string& instance_id) {
  return Convert(scheduler_.Get(instance_id));
}

Result<cloud::OrderExplanation> SchedulerExecution::Explain(const std::string& instance_id) {
  TRY(scheduler::OrderExplanation from, scheduler_.Explain(instance_id));
  cloud::OrderExplanation to;
  to.status = Convert(from.status);
  to.priority = from.priority;
  to.spot = from.preemptible;
  to.position = from.position;
  to.waiting = from.waiting;
  to.rule = std::move(from.rule);
  for (auto& other : from.ahead) {
    to.ahead.push_back({std::move(other.instance_id), std::move(other.tenant)});
  }
  to.quota = std::move(from.quota);
  to.nodes = std::move(from.nodes);
  return to;
}

Result<std::vector<cloud::ExecutionStatus>> SchedulerExecution::List() {
  TRY(const std::vector<scheduler::InstanceStatus> listed, scheduler_.List());
  std::vector<cloud::ExecutionStatus> all;
  all.reserve(listed.size());
  for (const scheduler::InstanceStatus& status : listed) all.push_back(Convert(status));
  return all;
}

Result<std::vector<cloud::CardView>> SchedulerExecution::Cards() {
  std::vector<cloud::CardView> views;
  for (const scheduler::CardStatus& status : scheduler_.Cards()) {
    cloud::CardView view;
    view.node = status.node;
    view.uuid = status.card.uuid;
    view.model = status.card.model;
    view.simulated = status.card.simulated;
    view.memory_bytes = status.card.memory_bytes;
    view.reserved_bytes = status.reserved_bytes;
    view.used_bytes = status.used_bytes;
    view.reserved_permille = status.reserved_permille;
    view.busy_permille = status.busy_permille;
    views.push_back(std::move(view));
  }
  return views;
}

Status SchedulerExecution::SetQueuePolicy(const placement::QueuePolicy& policy) {
  return scheduler_.SetPolicy(policy);
}

Result<std::vector<placement::QuotaUse>> SchedulerExecution::Quotas() {
  return scheduler_.Quotas();
}

Result<std::string> SchedulerExecution::Log(const std::string& instance_id, std::uint64_t offset) {
  return scheduler_.Log(instance_id, offset);
}

Result<cloud::ExecOutput> SchedulerExecution::Exec(const std::string& instance_id,
                                                   const std::vector<std::string>& argv,
                                                   const std::string& stdin_bytes) {
  TRY(scheduler::ExecResult done, scheduler_.Exec(instance_id, argv, stdin_bytes));
  return cloud::ExecOutput{done.exit_code, std::move(done.output), done.truncated};
}

}  // namespace tessera::apps
