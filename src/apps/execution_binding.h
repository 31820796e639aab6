// Binds the cloud's port to a scheduler in the same process. Thread-safe; the scheduler must
// outlive it.
#pragma once

#include "cloud/execution.h"
#include "scheduler/scheduler.h"

namespace tessera::apps {

class SchedulerExecution : public cloud::Execution {
 public:
  explicit SchedulerExecution(scheduler::Scheduler& scheduler) : scheduler_(scheduler) {}

  Result<cloud::ExecutionStatus> Submit(const placement::Order& order, std::uint64_t generation,
                                        const runtime::Workload& workload) override;
  Status Reserve(const placement::CapacityReservation& reservation, bool whole) override;
  Status Unreserve(const std::string& id) override;
  Result<std::vector<placement::ReservationUse>> Reservations() override;
  Result<cloud::ExecutionStatus> Stop(const std::string& instance_id,
                                      std::uint64_t generation) override;
  Status Forget(const std::string& instance_id) override;
  Result<cloud::ExecutionStatus> Get(const std::string& instance_id) override;
  Result<cloud::OrderExplanation> Explain(const std::string& instance_id) override;
  Result<std::vector<cloud::ExecutionStatus>> List() override;
  Result<std::vector<cloud::CardView>> Cards() override;
  Status SetQueuePolicy(const placement::QueuePolicy& policy) override;
  Result<std::vector<placement::QuotaUse>> Quotas() override;
  Result<std::string> Log(const std::string& instance_id, std::uint64_t offset) override;
  Result<cloud::ExecOutput> Exec(const std::string& instance_id,
                                 const std::vector<std::string>& argv,
                                 const std::string& stdin_bytes) override;

 private:
  scheduler::Scheduler& scheduler_;
};

}  // namespace tessera::apps
