// The cloud's view of the scheduling plane: the port that `apps/` binds to a scheduler. Calls are
// idempotent by instance id + generation (a restart of the same instance raises the generation).
// Thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "placement/request.h"
#include "runtime/workload.h"

namespace tessera::cloud {

enum class Phase { kQueued, kRunning, kEnded };

struct ExecutionStatus {
  std::string instance_id;
  std::uint64_t generation = 0;
  Phase phase = Phase::kQueued;
  std::optional<placement::Placement> placement;  // set once placed
  std::string waiting_for;                        // kQueued: Scarcity::message
  int exit_code = 0;                              // kEnded
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

class Execution {
 public:
  virtual ~Execution() = default;
  // Places and starts, or queues. A request that no empty fleet could hold is kFailedPrecondition
  // with the scarce thing named; a full queue is kResourceExhausted with the bound's name.
  virtual Result<ExecutionStatus> Submit(const placement::Request& request,
                                         std::uint64_t generation,
                                         const runtime::Workload& workload) = 0;
  // Ends a running instance or takes a queued one out of the queue. Returns the final status.
  virtual Result<ExecutionStatus> Stop(const std::string& instance_id,
                                       std::uint64_t generation) = 0;
  virtual Status Forget(const std::string& instance_id) = 0;
  virtual Result<ExecutionStatus> Get(const std::string& instance_id) = 0;
  // All instances the plane knows, including ones that ended since the last Forget.
  virtual Result<std::vector<ExecutionStatus>> List() = 0;
  virtual Result<std::vector<CardView>> Cards() = 0;
  virtual Result<std::string> Log(const std::string& instance_id, std::uint64_t offset) = 0;
  virtual Result<ExecOutput> Exec(const std::string& instance_id,
                                  const std::vector<std::string>& argv,
                                  const std::string& stdin_bytes) = 0;
};

}  // namespace tessera::cloud
