// The embedded scheduler: places requests on nodes, starts them there, queues what does not fit,
// notices what ends. Thread-safe. Owns its threads; nodes are shared with whoever made them.
// Destroying it ends no instance.
//
// Queue. Who goes next, and for whom somebody is stopped, is decided by placement/queue.h, whose
// first comment has the rules; here it is bounded by queue_max. Whoever is stopped for another ends
// with the reason stated. What he held counts as held until his node has given it back, so the
// asker starts no earlier; a stop that fails is repeated at every poll of the node.
//
// Failures. Every call to a node is idempotent by id + generation. A start whose outcome is unknown
// (no answer) stays with its node and its reservation and is repeated there, never elsewhere:
// nothing runs twice. A node that says its own ledger is full is asked no more until it has
// reported again, and the request keeps its place in the queue. A node that is away takes nothing
// new, and what runs there is kept as it is.
//
// Gangs start together or not at all: when the start of a member fails for good, or a member is
// stopped before the gang was placed, the others end with it. Once all run, each is on its own.
//
// Reservations (placement/reservation.h) are not remembered: who keeps them tells again, before the
// orders that run in them. An order whose reservation ended before it started ends with it.
//
// Restarts. A new scheduler knows nothing; until every node has listed what runs there once,
// requests only queue. What a node lists is adopted with its reservation and, from the memo that
// the node kept unread (memo.h), with whose it is and what it shares with nobody. Where there is no
// memo (started by an older scheduler), `adopted` is set until Submit tells again; as long, it
// counts against no quota and is stopped for nobody.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "os/clock.h"
#include "placement/engine.h"
#include "placement/queue.h"
#include "placement/reservation.h"
#include "runtime/workload.h"
#include "scheduler/nodes.h"

namespace tessera::scheduler {

enum class Phase { kQueued, kRunning, kEnded };

struct InstanceStatus {
  std::string instance_id;
  std::uint64_t generation = 0;
  Phase phase = Phase::kQueued;
  std::optional<placement::Placement> placement;  // set once placed
  std::string reservation;                        // that it runs in, while it does
  std::string waiting_for;  // kQueued: what is scarce, or what is being waited for
  bool adopted = false;     // found on a node; the same Submit again tells whose it is
  // kEnded: why it could not be started, or why it was stopped for another; else empty.
  std::string failure;
  bool evicted = false;                  // kEnded: it was stopped for another
  int exit_code = 0;                     // kEnded
  std::int64_t started_wall_micros = 0;  // 0: never ran
  std::int64_t ended_wall_micros =
      0;  // kEnded: the kernel's exit time, or the last heartbeat when it vanished
  std::int64_t seen_wall_micros = 0;  // last time its node vouched for it
};

struct CardStatus {
  std::string node;
  device::Card card;
  std::uint64_t reserved_bytes = 0;  // by this scheduler and by others
  std::uint32_t reserved_permille = 0;
  std::uint64_t used_bytes = 0;  // as of the node's last report
  std::uint32_t busy_permille = 0;
};

struct NodeStatus {
  std::string name;
  bool available = false;  // the last poll was answered
  std::string error;       // why not
  std::int64_t seen_wall_micros = 0;
  bool contained = false;
};

struct Options {
  // Between two polls of a node. 0: no threads at all, the owner calls Tick() (tests, simulation).
  int period_millis = 1000;
  std::size_t queue_max = 1000;
  std::size_t instances_max = 100'000;  // known ones, ended but not forgotten included
  int start_attempts_max = 5;           // of a start that the node answers with an internal error
  unsigned starters = 4;                // threads that start and stop what the queue decides
  // Of placement, where a request names none: one of placement::ScorerNames().
  std::string policy{placement::kDefaultPolicy};
};

// Why an order is where it is.
struct OrderExplanation {
  struct Other {
    std::string instance_id;
    std::string tenant;
  };
  InstanceStatus status;
  std::string tenant;
  std::int32_t priority = 0;
  bool preemptible = false;  // spot
  // While it waits: its place (1: the next), the rule it waits by, who was looked at before it.
  std::size_t position = 0;
  std::size_t waiting = 0;  // all that wait
  std::string rule;
  std::vector<Other> ahead;
  std::optional<placement::QuotaUse> quota;  // of its tenant, if it has one
  // The nodes as the engine sees them for this order; for one that is placed, as if it were not.
  // Empty while what it asked for is not known.
  placement::Explanation nodes;
};

// The exit code of an instance that could not be started.
inline constexpr int kExitNotStarted = 125;
// The exit code of an instance that its node no longer knows.
inline constexpr int kExitVanished = 137;
inline constexpr std::size_t kSchedulerNodesMax = 256;
// How long a call waits for another call on the same instance.
inline constexpr int kOperationWaitSecondsMax = 60;
// An instance its node does not list this many times in a row is over.
inline constexpr int kMissingPollsMax = 3;

class Scheduler {
 public:
  // `clock` must outlive the scheduler.
  Scheduler(Options options, const os::Clock& clock);
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  Status AddNode(const std::string& name, std::shared_ptr<Node> node);
  // kFailedPrecondition while instances are on it.
  Status RemoveNode(const std::string& name);

  // Quotas and the rules of the queue. Nothing changes on an error; otherwise the queue is walked
  // by the new rules at once, and what runs goes on.
  Status SetPolicy(const placement::QueuePolicy& policy);
  // What is held under each quota of the policy, in its order.
  std::vector<placement::QuotaUse> Quotas() const;

  // Keeps capacity for a tenant; start and end are wall micros. `whole`: all units at once (from
  // its start on, if that is later) or an error, as CapacityReservations::Add says, and
  // kUnavailable until every node has reported; else as many as there are, and the others as there
  // is room. Idempotent by id.
  Status Reserve(const placement::CapacityReservation& reservation, bool whole);
  void Unreserve(const std::string& id);                        // unknown ids are fine
  std::vector<placement::ReservationUse> Reservations() const;  // by id

  // Places and starts, or queues. What no empty fleet could hold, or no quota ever admits, is
  // kFailedPrecondition with the scarce thing named; a full queue is kResourceExhausted naming
  // queue_max. The same id and generation again returns how it stands.
  Result<InstanceStatus> Submit(const placement::Order& order, std::uint64_t generation,
                                const runtime::Workload& workload);
  // Ends a running instance or takes a queued one out. After a failure the scheduler goes on trying
  // by itself.
  Result<InstanceStatus> Stop(const std::string& instance_id, std::uint64_t generation);
  // Removes an ended instance and what its node kept of it. Unknown ids are fine.
  Status Forget(const std::string& instance_id);
  // kNotFound means that no node runs it; while that cannot be known (a node has not reported since
  // the scheduler began) it is kUnavailable.
  Result<InstanceStatus> Get(const std::string& instance_id) const;
  // As Get, with the reasons.
  Result<OrderExplanation> Explain(const std::string& instance_id);
  // All known instances by id; kUnavailable as above. Add the nodes before asking: without any,
  // nothing runs.
  Result<std::vector<InstanceStatus>> List() const;
  Result<std::string> Log(const std::string& instance_id, std::uint64_t offset);
  Result<ExecResult> Exec(const std::string& instance_id, const std::vector<std::string>& argv,
                          const std::string& stdin_bytes);
  std::vector<CardStatus> Cards() const;  // by node, then uuid
  std::vector<NodeStatus> Nodes() const;

  // One round of all nodes and the queue, in the caller's thread.
  void Tick();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tessera::scheduler
