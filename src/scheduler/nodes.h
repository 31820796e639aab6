// The scheduler's view of a node: the port that `apps/` binds to a tesserad (in process or over its
// socket). All calls are idempotent by instance id + generation and may be retried after any
// failure. Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "device/card.h"
#include "placement/request.h"
#include "runtime/workload.h"

namespace tessera::scheduler {

struct CardState {
  device::Card card;
  std::uint64_t reserved_bytes = 0;  // by all slices, whoever asked for them
  std::uint32_t reserved_permille = 0;
  std::uint64_t used_bytes = 0;     // what the driver reports now
  std::uint32_t busy_permille = 0;  // engine busy over the telemetry's last period
  // How the slices on it are held apart; says nothing while nothing is reserved.
  device::Isolation isolation = device::Isolation::kShim;
};

struct NodeState {
  std::string name;
  std::uint32_t cpu_millis = 0;
  std::uint32_t cpu_reserved_millis = 0;
  std::uint64_t ram_bytes = 0;
  std::uint64_t ram_reserved_bytes = 0;
  bool contained = false;  // false: instances run without root and are not contained
  std::string rack;        // where it stands; empty: not known
  // How it can hold slices apart, as bits.
  std::uint8_t isolations = placement::Bit(device::Isolation::kShim);
  std::vector<CardState> cards;
};

enum class RunState { kUnknown, kRunning, kExited };

struct RunStatus {
  std::string instance_id;
  std::uint64_t generation = 0;
  RunState state = RunState::kUnknown;
  int exit_code = 0;                     // 128 + signal when killed
  std::int64_t started_wall_micros = 0;  // when the first process began
  std::int64_t ended_wall_micros = 0;    // kernel's exit time; 0 while running
  std::uint64_t used_bytes = 0;          // device memory over all cards, as the ledger page says
  // What a running instance holds, as given to Start: lets a restarted scheduler adopt it with its
  // reservation. Empty shares: unknown, then it is kept as it is and counts as foreign use.
  std::vector<device::Share> shares;
  std::uint32_t cpu_millis = 0;
  std::uint64_t ram_bytes = 0;
  std::string memo;  // as given to Start; empty: started without
};

struct ExecResult {
  int exit_code = 0;
  std::string output;  // stdout and stderr in order, at most 1 MiB
  bool truncated = false;
};

// Of what a node keeps unread for its scheduler. The largest order is below it.
inline constexpr std::size_t kMemoBytesMax = 256 * 1024;

class Node {
 public:
  virtual ~Node() = default;
  virtual Result<NodeState> State() = 0;
  // Creates the slice and starts the workload in it. kResourceExhausted when the node's own ledger
  // says no. `memo` is kept with the instance and listed back unread; a repeated start does not
  // change it.
  virtual Result<RunStatus> Start(const placement::Placement& placement, std::uint64_t generation,
                                  const runtime::Workload& workload, const std::string& memo) = 0;
  // Ends the processes (grace, then kill) and gives the slice back; returns the final status.
  virtual Result<RunStatus> Stop(const std::string& instance_id, std::uint64_t generation) = 0;
  // Removes what is left of an ended instance (log, folder). Unknown ids are fine.
  virtual Status Forget(const std::string& instance_id) = 0;
  virtual Result<std::vector<RunStatus>> List() = 0;
  virtual Result<std::string> Log(const std::string& instance_id, std::uint64_t offset) = 0;
  virtual Result<ExecResult> Exec(const std::string& instance_id,
                                  const std::vector<std::string>& argv,
                                  const std::string& stdin_bytes) = 0;
};

}  // namespace tessera::scheduler
