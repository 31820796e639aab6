// The cloud's view of the scheduling plane: the port that `apps/` binds to a scheduler. Calls are
// idempotent by instance id + generation (a restart of the same instance raises the generation).
// Thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "placement/explain.h"
#include "placement/queue.h"
#include "placement/request.h"
#include "placement/reservation.h"
#include "runtime/workload.h"

namespace tessera::cloud {

enum class Phase { kQueued, kRunning, kEnded };

struct ExecutionStatus {
  std::string instance_id;
  std::uint64_t generation = 0;
  Phase phase = Phase::kQueued;
  std::optional<placement::Placement> placement;  // set once placed
  // kQueued: what is scarce or waited for. kEnded: why it never started or was stopped for another.
  std::string waiting_for;
  bool evicted = false;  // kEnded: it was stopped for another
  bool adopted = false;  // the plane found it running and does not know whose it is: Submit tells
  int exit_code = 0;     // kEnded
  std::int64_t started_wall_micros = 0;
  std::int64_t ended_wall_micros =
      0;  // kEnded: kernel's exit time, or the last heartbeat when the node was away
  std::int64_t seen_wall_micros = 0;  // last time the node vouched for it
};

struct CardView {
  std::string node;
  std::string uuid;
  std::string model;
  bool simulated = false;
  std::uint64_t memory_bytes = 0;
  std::uint64_t reserved_bytes = 0;
  std::uint64_t used_bytes = 0;
  std::uint32_t reserved_permille = 0;
  std::uint32_t busy_permille = 0;
};

struct ExecOutput {
  int exit_code = 0;
  std::string output;
  bool truncated = false;
};

// Why an order is where it is. Names other tenants: the service decides who may see what.
struct OrderExplanation {
  struct Other {
    std::string instance_id;
    std::string tenant;
  };
  ExecutionStatus status;
  std::int32_t priority = 0;
  bool spot = false;
  std::size_t position = 0;  // in the queue, 1: the next; 0: it does not wait
  std::size_t waiting = 0;   // all that wait
  std::string rule;          // by which it waits; placement::Standing has the names
  std::vector<Other> ahead;
  std::optional<placement::QuotaUse> quota;
  placement::Explanation nodes;  // for one that is placed: as if it were not
};

// What the owner of an order may know of its explanation.
struct Explained {
  OrderExplanation order;              // `ahead` is empty
  std::vector<std::string> own_ahead;  // the owner's instances that were looked at before it
  std::size_t others_ahead = 0;
};

class Execution {
 public:
  virtual ~Execution() = default;
  // Places and starts, or queues. A request that no empty fleet could hold is kFailedPrecondition
  // with the scarce thing named; a full queue is kResourceExhausted with the bound's name.
  virtual Result<ExecutionStatus> Submit(const placement::Order& order, std::uint64_t generation,
                                         const runtime::Workload& workload) = 0;
  // Keeps capacity (placement/reservation.h). `whole`: all units or an error; else as many as there
  // are, and the others as there is room. Idempotent by id. The plane does not remember it across
  // its own restart.
  virtual Status Reserve(const placement::CapacityReservation& reservation, bool whole) = 0;
  virtual Status Unreserve(const std::string& id) = 0;  // unknown ids are fine
  virtual Result<std::vector<placement::ReservationUse>> Reservations() = 0;
  // Ends a running instance or takes a queued one out of the queue. Returns the final status.
  virtual Result<ExecutionStatus> Stop(const std::string& instance_id,
                                       std::uint64_t generation) = 0;
  virtual Status Forget(const std::string& instance_id) = 0;
  virtual Result<ExecutionStatus> Get(const std::string& instance_id) = 0;
  virtual Result<OrderExplanation> Explain(const std::string& instance_id) = 0;
  // All instances the plane knows, including ones that ended since the last Forget.
  virtual Result<std::vector<ExecutionStatus>> List() = 0;
  virtual Result<std::vector<CardView>> Cards() = 0;
  // The rules of the queue in place of the ones before, at once; what runs goes on. Nothing changes
  // on an error.
  virtual Status SetQueuePolicy(const placement::QueuePolicy& policy) = 0;
  // What is held under each quota of the policy, in its order.
  virtual Result<std::vector<placement::QuotaUse>> Quotas() = 0;
  virtual Result<std::string> Log(const std::string& instance_id, std::uint64_t offset) = 0;
  virtual Result<ExecOutput> Exec(const std::string& instance_id,
                                  const std::vector<std::string>& argv,
                                  const std::string& stdin_bytes) = 0;
};

}  // namespace tessera::cloud
