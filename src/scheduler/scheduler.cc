#include "scheduler/scheduler.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "scheduler/memo.h"

namespace tessera::scheduler {
namespace {

using placement::Placement;
using placement::Scarcity;

enum class State { kQueued, kStarting, kRunning, kEnded };

struct Instance {
  runtime::Workload workload;
  std::uint64_t generation = 0;
  State state = State::kQueued;
  bool busy = false;  // a call to its node is under way; whoever set it ends it
  bool stop_requested = false;
  bool adopted = false;    // found on a node, and not told of since
  bool give_back = false;  // ended by itself: the node still has to be told to give the slice back
  std::optional<Placement> placement;
  std::string waiting_for;
  std::string failure;
  std::string eviction;     // why it is stopped for another; empty: it is not
  bool gang_ended = false;  // it is not to start: a member of its gang will not
  bool evicted = false;     // ended, and stopped for another
  int exit_code = 0;
  std::int64_t started = 0;
  std::int64_t ended = 0;
  std::int64_t seen = 0;
  int start_attempts = 0;
  int missing_polls = 0;
  std::uint64_t last_operation = 0;  // of its node's count, see NodeEntry
  std::set<std::string> leftovers;   // nodes of earlier generations that still keep a log
};

struct NodeEntry {
  std::string name;
  std::shared_ptr<Node> node;
  bool reported = false;   // has answered a whole poll since this scheduler began
  bool available = false;  // the last poll was answered
  bool refused = false;    // its ledger said no since the last poll
  bool removed = false;
  std::string error = "has not reported yet";
  std::int64_t seen = 0;
  NodeState state;
  placement::ForeignUse foreign;
  // Counts calls that changed something. A report that was asked for before such a call ended may
  // or may not show it.
  std::uint64_t operations = 0;
  std::uint64_t operations_under_way = 0;
};

bool OutcomeUnknown(Code code) {
  return code == Code::kUnavailable || code == Code::kDeadlineExceeded || code == Code::kCancelled;
}

bool WorthRepeating(Code code) {
  return code == Code::kInternal || code == Code::kUnknown || code == Code::kAborted;
}

}  // namespace

struct Scheduler::Impl {
  Impl(Options o, const os::Clock& c) : options(std::move(o)), clock(c) {
    CHECK(engine.SetPolicy("", options.policy).has_value());
  }

  const Options options;
  const os::Clock& clock;

  mutable std::mutex mutex;
  std::condition_variable changed;      // an instance stopped being busy
  std::condition_variable start_ready;  // to_start or to_stop has work, or stopping
  std::condition_variable poll_ready;   // stopping or a node was removed
  placement::Engine engine;
  placement::CapacityReservations reservations;  // of the engine
  std::map<std::string, Instance> instances;
  placement::Queue orders;  // whatever waits or holds something
  std::map<std::string, std::shared_ptr<NodeEntry>> nodes;
  std::deque<std::string> to_start;  // placed and busy; bounded by the cards there are
  std::deque<std::string> to_stop;   // to go for another; bounded likewise
  bool stopping = false;
  std::map<std::string, std::thread> pollers;
  std::vector<std::thread> starters;

  using Lock = std::unique_lock<std::mutex>;

  // ---- small helpers, lock held ----

  InstanceStatus View(const std::string& id, const Instance& instance) const {
    InstanceStatus status;
    status.instance_id = id;
    status.generation = instance.generation;
    status.phase = instance.state == State::kRunning ? Phase::kRunning
                   : instance.state == State::kEnded ? Phase::kEnded
                                                     : Phase::kQueued;
    status.placement = instance.placement;
    if (const std::string* reservation = reservations.Of(id)) status.reservation = *reservation;
    if (status.phase == Phase::kQueued) status.waiting_for = instance.waiting_for;
    status.failure = instance.failure;
    status.evicted = instance.evicted;
    status.adopted = instance.state != State::kEnded && !orders.Known(id);
    status.exit_code = instance.exit_code;
    status.started_wall_micros = instance.started;
    status.ended_wall_micros = instance.ended;
    status.seen_wall_micros = instance.seen;
    return status;
  }

  std::size_t NodesNotReported() const {
    return static_cast<std::size_t>(std::count_if(
        nodes.begin(), nodes.end(), [](const auto& entry) { return !entry.second->reported; }));
  }

  // Not in the books. As long as a node has not reported, it may still run there.
  Error Unknown(const std::string& id) const {
    if (const std::size_t missing = NodesNotReported(); missing > 0) {
      return Error(Code::kUnavailable, std::to_string(missing) +
                                           " node(s) have not reported yet; instance " + id +
                                           " may run there");
    }
    return Error(Code::kNotFound, "instance " + id + " is not known");
  }

  std::shared_ptr<NodeEntry> NodeOf(const Instance& instance) const {
    if (!instance.placement) return nullptr;
    const auto found = nodes.find(instance.placement->node);
    return found == nodes.end() ? nullptr : found->second;
  }

  // Waits until nobody else works on the instance; nullptr when it is gone by then.
  Result<Instance*> WaitIdle(Lock& lock, const std::string& id) {
    const auto idle = [&] {
      const auto found = instances.find(id);
      return found == instances.end() || !found->second.busy;
    };
    if (!changed.wait_for(lock, std::chrono::seconds(kOperationWaitSecondsMax), idle)) {
      return Error(Code::kDeadlineExceeded, "another call on instance " + id +
                                                " takes longer than operation_wait_seconds_max (" +
                                                std::to_string(kOperationWaitSecondsMax) + ")");
    }
    const auto found = instances.find(id);
    return found == instances.end() ? nullptr : &found->second;
  }

  void BeginOperation(Instance& instance, NodeEntry& node) {
    instance.busy = true;
    ++node.operations_under_way;
  }
  void EndOperation(Instance& instance, NodeEntry& node) {
    instance.busy = false;
    --node.operations_under_way;
    instance.last_operation = ++node.operations;
    changed.notify_all();
  }

  void Finish(const std::string& id, Instance& instance, int exit_code, std::int64_t ended) {
    orders.Remove(id);
    instance.state = State::kEnded;
    instance.exit_code = exit_code;
    instance.ended = ended;
    instance.stop_requested = false;
    instance.evicted = !instance.eviction.empty();
    if (instance.evicted) instance.failure = std::exchange(instance.eviction, {});
    instance.waiting_for.clear();
    instance.workload = {};
    Release(id);
  }

  // What it held is free, or back in its reservation.
  void Release(const std::string& id) {
    engine.Release(id);
    reservations.Return(engine, id);
  }

  // An order that was found running has said whose it is: it runs in its reservation again.
  void Attach(const placement::Order& order) {
    const placement::Request& request = order.request;
    if (!order.reservation.empty()) {
      reservations.Attach(engine, order.reservation, request, false);
      return;
    }
    for (const std::string& id : reservations.OpenTo(request)) {
      if (reservations.Attach(engine, id, request, false)) return;
    }
    if (!order.preemptible) return;
    for (const std::string& id : reservations.LendingTo(request)) {
      if (reservations.Attach(engine, id, request, true)) return;
    }
  }

  // A member will not start: those of its gang end with it.
  void EndGang(const std::vector<std::string>& members, const std::string& why) {
    for (const std::string& id : members) {
      Instance& instance = instances.at(id);
      if (instance.state == State::kEnded || !instance.eviction.empty()) continue;
      if (instance.state == State::kQueued) {
        instance.failure = why;
        Finish(id, instance, kExitNotStarted, clock.WallMicros());
        continue;
      }
      instance.stop_requested = true;
      instance.eviction = why;
      instance.gang_ended = true;
      to_stop.push_back(id);
    }
    if (!to_stop.empty()) start_ready.notify_all();
  }

  void FinishFrom(const std::string& id, Instance& instance, const RunStatus& status) {
    if (status.started_wall_micros != 0) instance.started = status.started_wall_micros;
    const std::int64_t ended = status.ended_wall_micros != 0 ? status.ended_wall_micros
                               : instance.seen != 0          ? instance.seen
                                                             : clock.WallMicros();
    Finish(id, instance, status.exit_code, ended);
  }

  void MarkRunning(Instance& instance, const RunStatus& status, std::int64_t seen) {
    instance.state = State::kRunning;
    instance.started = status.started_wall_micros;
    instance.seen = std::max(instance.seen, seen);
    instance.missing_polls = 0;
    instance.waiting_for.clear();
  }

  std::set<std::string> UnavailableNodes() const {
    std::set<std::string> unavailable;
    for (const auto& [name, node] : nodes) {
      if (!node->available || node->refused) unavailable.insert(name);
    }
    return unavailable;
  }

  // Does what the queue decides: placed ones are busy and stand in to_start, those that go for
  // another in to_stop.
  void Decide() {
    if (const std::size_t missing = NodesNotReported(); missing > 0) {
      for (const std::string& id : orders.Waiting()) {
        instances.at(id).waiting_for = "nodes: " + std::to_string(missing) + " of " +
                                       std::to_string(nodes.size()) +
                                       " have not reported since the scheduler began";
      }
      return;
    }
    const std::set<std::string> unavailable = UnavailableNodes();
    std::set<std::string> unsettled;
    for (const auto& [name, node] : nodes) {
      if (node->available && node->refused) unsettled.insert(name);
    }
    const std::int64_t now = clock.WallMicros();
    reservations.Advance(engine, now, unavailable);
    placement::Queue::Decision decision =
        orders.Decide(engine, now, unavailable, unsettled, &reservations);
    for (Placement& placement : decision.placed) {
      const std::string id = placement.request_id;
      Instance& instance = instances.at(id);
      instance.state = State::kStarting;
      instance.placement = std::move(placement);
      instance.waiting_for = "starting on its node";
      BeginOperation(instance, *nodes.at(instance.placement->node));
      to_start.push_back(id);
    }
    for (placement::Eviction& eviction : decision.evictions) {
      Instance& victim = instances.at(eviction.id);
      victim.stop_requested = true;
      victim.eviction = std::move(eviction.reason);
      to_stop.push_back(eviction.id);
      tessera::Log(LogLevel::kInfo, "scheduler.evicted",
                   {{"instance", eviction.id}, {"for", eviction.asker}});
    }
    for (const std::string& id : orders.Waiting()) {
      const placement::Standing standing = *orders.StandingOf(id);
      Instance& instance = instances.at(id);
      if (standing.rule == "reservation") {
        const placement::Order& order = *orders.Find(id);
        const Status admits = reservations.Admits(order.reservation, order.request,
                                                  std::max<std::size_t>(1, order.gang_size));
        if (!admits) {
          // It ended, and nothing else will do.
          instance.failure = "reservation: " + admits.error().message();
          Finish(id, instance, kExitNotStarted, now);
          continue;
        }
      }
      instance.waiting_for = standing.message;
      if (standing.rule != "node") continue;
      for (const std::string& name : unavailable) {
        const NodeEntry& node = *nodes.at(name);
        if (node.error.empty()) continue;
        instance.waiting_for = "node: " + name + " " + node.error;
        break;
      }
    }
    if (!to_start.empty() || !to_stop.empty()) start_ready.notify_all();
  }

  // ---- starting ----

  // Starts one placed instance, which is busy on our behalf. Returns the node's refusal when it is
  // final.
  Status StartOne(Lock& lock, const std::string& id) {
    Instance& instance = instances.at(id);
    CHECK(instance.busy && instance.state == State::kStarting && instance.placement);
    const std::shared_ptr<NodeEntry> node = nodes.at(instance.placement->node);
    if (instance.gang_ended) {
      EndOperation(instance, *node);
      Finish(id, instance, kExitNotStarted, clock.WallMicros());
      return Error(Code::kFailedPrecondition, instance.failure);
    }
    const Placement placement = *instance.placement;
    const std::uint64_t generation = instance.generation;
    const runtime::Workload workload = instance.workload;
    const std::string memo = WriteMemo(*orders.Find(id));
    lock.unlock();
    const std::int64_t asked = clock.WallMicros();
    const Result<RunStatus> started = node->node->Start(placement, generation, workload, memo);
    lock.lock();
    // busy kept the instance where it was
    EndOperation(instance, *node);
    if (started && started->state == RunState::kUnknown) {
      // Another call for the same start is still at work there; a later report says how it went.
      instance.waiting_for = "starting on its node";
      return {};
    }
    if (started) {
      MarkRunning(instance, *started, asked);
      if (started->state == RunState::kExited) {
        FinishFrom(id, instance, *started);
        instance.give_back = true;
      }
      return {};
    }
    const Error& error = started.error();
    if (error.code() == Code::kResourceExhausted) {
      // Somebody we do not know of holds what we thought was free. The next report tells how much.
      node->refused = true;
      node->error = "refused: " + error.message();
      Release(id);
      orders.PutBack(id);
      instance.placement.reset();
      instance.state = State::kQueued;
      instance.waiting_for = "node: " + node->name + " " + node->error;
      if (instance.gang_ended) {
        Finish(id, instance, kExitNotStarted, clock.WallMicros());
        return {};
      }
      if (!instance.eviction.empty()) {
        // It was to go for another while it was starting, and holds nothing now.
        instance.eviction.clear();
        instance.stop_requested = false;
      }
      tessera::Log(LogLevel::kInfo, "scheduler.node_refused",
                   {{"instance", id}, {"node", node->name}, {"error", error.message()}});
      return {};
    }
    const bool repeat =
        OutcomeUnknown(error.code()) ||
        (WorthRepeating(error.code()) && ++instance.start_attempts < options.start_attempts_max);
    if (repeat) {
      instance.waiting_for = "node: " + node->name + " did not confirm the start (" +
                             error.message() + "); it is repeated";
      return {};
    }
    tessera::Log(LogLevel::kWarn, "scheduler.start_failed",
                 {{"instance", id}, {"node", node->name}, {"error", error.ToString()}});
    instance.failure = error.message();
    // After an internal error something may be left there; after a plain refusal nothing is.
    instance.give_back = WorthRepeating(error.code());
    const std::vector<std::string> others = orders.GangOf(id);
    Finish(id, instance, kExitNotStarted, clock.WallMicros());
    EndGang(others, "gang: its member " + id + " could not be started: " + error.message());
    return error;
  }

  // Stops one that goes for another. What cannot be done now is done at a poll of its node.
  void StopOne(Lock& lock, const std::string& id) {
    const auto found = instances.find(id);
    if (found == instances.end() || found->second.busy || found->second.eviction.empty()) return;
    const std::shared_ptr<NodeEntry> node = NodeOf(found->second);
    CHECK(node != nullptr);  // RemoveNode refuses while an instance is on it
    if (const Status stopped = StopOnNode(lock, id, found->second, node); !stopped) {
      tessera::Log(LogLevel::kWarn, "scheduler.eviction_repeated",
                   {{"instance", id}, {"node", node->name}, {"error", stopped.error().message()}});
    }
  }

  // Does the next thing that was decided; false when there is none. Stops come first: somebody
  // waits for what they free.
  bool DoNext(Lock& lock) {
    if (!to_stop.empty()) {
      const std::string id = std::move(to_stop.front());
      to_stop.pop_front();
      StopOne(lock, id);
    } else if (!to_start.empty()) {
      const std::string id = std::move(to_start.front());
      to_start.pop_front();
      // The error is in the instance's status.
      [[maybe_unused]] const Status started = StartOne(lock, id);
    } else {
      return false;
    }
    return true;
  }

  // Without threads of its own, the scheduler does what it decided right here.
  void Drain(Lock& lock) {
    while (DoNext(lock)) {
      if (to_start.empty() && to_stop.empty()) Decide();
    }
  }

  // ---- polling ----

  struct Stray {
    std::string id;
    std::uint64_t generation;
  };

  // Takes one listed instance into the books. Returns true when it must not run there.
  bool Absorb(NodeEntry& node, const RunStatus& status, std::uint64_t operations_before,
              std::int64_t asked) {
    const std::string& id = status.instance_id;
    const auto found = instances.find(id);
    if (found != instances.end()) {
      Instance& instance = found->second;
      if (instance.busy) return false;
      const bool here = instance.placement && instance.placement->node == node.name;
      if (here && instance.last_operation > operations_before)
        return false;  // older than what we know
      if (instance.generation == status.generation && here) {
        instance.missing_polls = 0;
        if (instance.state == State::kEnded) return status.state == RunState::kRunning;
        if (status.state == RunState::kRunning) MarkRunning(instance, status, asked);
        if (status.state == RunState::kExited) {
          FinishFrom(id, instance, status);
          instance.give_back = true;
        }
        return false;
      }
      // A queued one that turns out to run is what a restart looks like; everything else on another
      // node or of an older generation must not run.
      const bool adoptable =
          (instance.generation == status.generation && instance.state == State::kQueued) ||
          (status.generation > instance.generation &&
           (instance.state == State::kQueued || instance.state == State::kEnded));
      if (!adoptable) {
        return status.state == RunState::kRunning && status.generation <= instance.generation;
      }
      if (instance.generation == status.generation && status.state != RunState::kRunning &&
          status.state != RunState::kExited) {
        return false;
      }
    } else if (instances.size() >= options.instances_max) {
      tessera::Log(LogLevel::kError, "scheduler.not_adopted",
                   {{"instance", id}, {"reason", "instances_max is reached"}});
      return false;
    }
    // Unknown here and something changed since the question: it may just have been forgotten. The
    // next report tells.
    if (found == instances.end() && node.operations != operations_before) return false;
    if (status.state == RunState::kUnknown || id.empty() ||
        id.size() > placement::kRequestIdBytesMax)
      return false;
    Adopt(node, status, operations_before, asked);
    return false;
  }

  // What an instance holds that this scheduler did not place itself. What its order does not say is
  // as the node lists it.
  static placement::Reservation HeldBy(const placement::Order& order, const Placement& placement,
                                       std::uint32_t cpu_millis, std::uint64_t ram_bytes) {
    const placement::Request& request = order.request;
    placement::Reservation held;
    held.placement = placement;
    held.cpu_millis = cpu_millis;
    held.ram_bytes = ram_bytes;
    held.disk_bytes = request.disk_bytes;
    held.isolation = placement.shares.empty() ? request.isolation : placement.shares[0].isolation;
    held.exclusive = placement::TakesWholeCards(held.isolation, request.exclusive);
    held.tenant = request.tenant;
    held.apart = request.apart;
    held.apart_from = request.apart_from;
    held.priority = request.priority;
    held.guaranteed = request.guaranteed;
    return held;
  }

  // Tells the queue of an adopted instance whose it is, and the engine what others may not share.
  void Describe(const placement::Order& order) {
    const std::string& id = order.request.id;
    if (orders.Describe(order)) {
      if (const std::optional<placement::Reservation> found = engine.Find(id)) {
        engine.Release(id);
        const Status restored =
            engine.Restore(HeldBy(order, found->placement, found->cpu_millis, found->ram_bytes));
        CHECK(restored.has_value());  // it fitted the bounds a moment ago
      }
    }
    if (std::exchange(instances.at(id).adopted, false)) Attach(order);
  }

  void Adopt(NodeEntry& node, const RunStatus& status, std::uint64_t operations_before,
             std::int64_t asked) {
    const std::string& id = status.instance_id;
    Instance& instance = instances[id];
    // One that was queued after a restart has said whose it is; else its node may have kept it.
    placement::Order order;
    order.request.id = id;
    bool told = orders.Known(id) && instance.generation == status.generation;
    if (told) {
      order = *orders.Find(id);
    } else if (!status.memo.empty()) {
      if (Result<placement::Order> kept = ReadMemo(status.memo, id)) {
        order = *std::move(kept);
        told = true;
      } else {
        tessera::Log(LogLevel::kError, "scheduler.memo_not_read",
                     {{"instance", id}, {"node", node.name}, {"error", kept.error().ToString()}});
      }
    }
    orders.Remove(id);
    instance.generation = status.generation;
    instance.placement = Placement{id, node.name, status.shares};
    instance.last_operation = operations_before;
    instance.failure.clear();
    instance.seen = asked;
    instance.adopted = true;
    Release(id);
    const Status restored = status.state == RunState::kRunning
                                ? engine.Restore(HeldBy(order, *instance.placement,
                                                        status.cpu_millis, status.ram_bytes))
                                : Status();
    const std::int64_t since = status.started_wall_micros != 0 ? status.started_wall_micros : asked;
    const Status adopted = orders.Adopt(order, since, told);
    if (told) Attach(order);
    MarkRunning(instance, status, asked);
    for (const Status* done : {&restored, &adopted}) {
      if (*done) continue;
      tessera::Log(LogLevel::kError, "scheduler.reservation_not_restored",
                   {{"instance", id}, {"node", node.name}, {"error", done->error().ToString()}});
    }
    if (status.state == RunState::kExited) {
      FinishFrom(id, instance, status);
      instance.give_back = true;
    }
    tessera::Log(LogLevel::kInfo, "scheduler.adopted", {{"instance", id}, {"node", node.name}});
  }

  // What the node reports beyond what we know to run there is somebody else's.
  placement::ForeignUse ForeignOn(const std::string& name, const NodeState& state) const {
    std::map<std::string, device::Share> ours;
    std::uint64_t our_cpu = 0;
    std::uint64_t our_ram = 0;
    for (const auto& [id, instance] : instances) {
      if (instance.state != State::kRunning || !instance.placement ||
          instance.placement->node != name)
        continue;
      const auto reservation = engine.Find(id);
      if (!reservation) continue;
      our_cpu += reservation->cpu_millis;
      our_ram += reservation->ram_bytes;
      for (const device::Share& share : reservation->placement.shares) {
        device::Share& sum = ours[share.card_uuid];
        sum.memory_bytes += share.memory_bytes;
        sum.compute.value += share.compute.value;
      }
    }
    const auto beyond = [](std::uint64_t all, std::uint64_t mine) {
      return all > mine ? all - mine : 0;
    };
    placement::ForeignUse foreign;
    foreign.cpu_millis = static_cast<std::uint32_t>(beyond(state.cpu_reserved_millis, our_cpu));
    foreign.ram_bytes = beyond(state.ram_reserved_bytes, our_ram);
    for (const CardState& card : state.cards) {
      const device::Share& mine = ours[card.card.uuid];
      const std::uint64_t bytes = beyond(card.reserved_bytes, mine.memory_bytes);
      const std::uint64_t permille = beyond(card.reserved_permille, mine.compute.value);
      if (bytes == 0 && permille == 0) continue;  // nobody else is there to stay apart from
      foreign.cards.push_back(
          {card.card.uuid, bytes, {static_cast<std::uint32_t>(permille)}, false, card.isolation});
    }
    return foreign;
  }

  Status UpdateEngine(NodeEntry& node) {
    placement::NodeInventory inventory{node.name, node.state.cpu_millis, node.state.ram_bytes, {}};
    for (const CardState& card : node.state.cards) inventory.cards.push_back(card.card);
    inventory.isolations = node.state.isolations;
    orders.SetRack(node.name, node.state.rack);
    return engine.UpdateNode(inventory, node.foreign);
  }

  // Asks one node what runs there, takes the answer into the books, and does what follows from it.
  // True when slices were given back, so that another report would show more room.
  bool Poll(const std::shared_ptr<NodeEntry>& node) {
    Lock lock(mutex);
    if (node->removed) return false;
    const std::uint64_t operations_before = node->operations;
    const bool quiet_before = node->operations_under_way == 0;
    lock.unlock();
    const std::int64_t asked = clock.WallMicros();
    const auto listed = node->node->List();
    auto state = listed ? node->node->State() : Result<NodeState>(listed.error());
    lock.lock();
    if (node->removed) return false;
    if (!state) {
      MarkAway(*node, "is away: " + state.error().message());
      return false;
    }
    node->state = *std::move(state);

    std::vector<Stray> strays;
    std::set<std::string> present;
    for (const RunStatus& status : *listed) {
      present.insert(status.instance_id);
      if (Absorb(*node, status, operations_before, asked))
        strays.push_back({status.instance_id, status.generation});
    }
    for (auto& [id, instance] : instances) {
      const bool here = instance.placement && instance.placement->node == node->name;
      if (!here || instance.busy || instance.state != State::kRunning || present.count(id) != 0)
        continue;
      if (instance.last_operation > operations_before) continue;
      if (++instance.missing_polls < kMissingPollsMax) continue;
      tessera::Log(LogLevel::kWarn, "scheduler.vanished", {{"instance", id}, {"node", node->name}});
      Finish(id, instance, kExitVanished, instance.seen);
    }
    // A report that crossed a start or a stop cannot be told apart into ours and others'; the next
    // one can.
    if (quiet_before && node->operations_under_way == 0 && node->operations == operations_before) {
      node->foreign = ForeignOn(node->name, node->state);
    }
    if (const Status updated = UpdateEngine(*node); !updated) {
      MarkAway(*node, "reported something impossible: " + updated.error().ToString());
      return false;
    }
    if (!node->available)
      tessera::Log(LogLevel::kInfo, "scheduler.node_available", {{"node", node->name}});
    node->available = true;
    node->refused = false;
    node->error.clear();
    node->reported = true;
    node->seen = asked;

    return FollowUp(lock, node, strays);
  }

  void MarkAway(NodeEntry& node, std::string error) {
    if (node.available || node.error != error) {
      tessera::Log(LogLevel::kWarn, "scheduler.node_away", {{"node", node.name}, {"error", error}});
    }
    node.available = false;
    node.error = std::move(error);
  }

  // Repeats unconfirmed starts, retries wanted stops, gives back slices of ended instances, ends
  // strays.
  bool FollowUp(Lock& lock, const std::shared_ptr<NodeEntry>& node,
                const std::vector<Stray>& strays) {
    bool given_back = false;
    std::vector<std::string> stops;
    std::vector<std::string> starts;
    for (auto& [id, instance] : instances) {
      const bool here = instance.placement && instance.placement->node == node->name;
      if (!here || instance.busy) continue;
      if (instance.stop_requested || instance.give_back) {
        stops.push_back(id);
      } else if (instance.state == State::kStarting) {
        starts.push_back(id);
      }
    }
    for (const std::string& id : stops) {
      const auto found = instances.find(id);
      if (found == instances.end() || found->second.busy) continue;
      if (!found->second.stop_requested && !found->second.give_back) continue;
      given_back = StopOnNode(lock, id, found->second, node).has_value() || given_back;
    }
    for (const std::string& id : starts) {
      const auto found = instances.find(id);
      if (found == instances.end()) continue;
      Instance& instance = found->second;
      if (instance.busy || instance.stop_requested || instance.state != State::kStarting) continue;
      BeginOperation(instance, *node);
      [[maybe_unused]] const Status started = StartOne(lock, id);
    }
    for (const Stray& stray : strays) {
      tessera::Log(
          LogLevel::kWarn, "scheduler.stray_stopped",
          {{"instance", stray.id}, {"node", node->name}, {"generation", stray.generation}});
      ++node->operations_under_way;
      lock.unlock();
      const auto stopped = node->node->Stop(stray.id, stray.generation);
      lock.lock();
      --node->operations_under_way;
      ++node->operations;
      if (!stopped) {
        tessera::Log(
            LogLevel::kWarn, "scheduler.stray_not_stopped",
            {{"instance", stray.id}, {"node", node->name}, {"error", stopped.error().message()}});
      }
    }
    return given_back;
  }

  // Ends the instance on its node. Lock held on entry and exit, released during the call.
  Status StopOnNode(Lock& lock, const std::string& id, Instance& instance,
                    const std::shared_ptr<NodeEntry>& node) {
    const std::uint64_t generation = instance.generation;
    BeginOperation(instance, *node);
    lock.unlock();
    const Result<RunStatus> stopped = node->node->Stop(id, generation);
    lock.lock();
    EndOperation(instance, *node);
    if (!stopped && stopped.error().code() != Code::kNotFound) return stopped.error();
    if (stopped && stopped->state != RunState::kExited) {
      return Error(Code::kUnavailable, "instance " + id + " is still ending");
    }
    instance.give_back = false;
    if (instance.state == State::kEnded) return {};
    if (stopped) {
      instance.seen = std::max(instance.seen, clock.WallMicros());
      FinishFrom(id, instance, *stopped);
    } else if (instance.state == State::kRunning) {
      Finish(id, instance, kExitVanished, instance.seen);
    } else {
      Finish(id, instance, 0, clock.WallMicros());  // the start never reached the node
    }
    return {};
  }

  // ---- threads ----

  void PollLoop(const std::shared_ptr<NodeEntry>& node) {
    while (true) {
      if (Poll(node)) Poll(node);
      Lock lock(mutex);
      Decide();
      poll_ready.wait_for(lock, std::chrono::milliseconds(options.period_millis),
                          [&] { return stopping || node->removed; });
      if (stopping || node->removed) return;
    }
  }

  void StartLoop() {
    Lock lock(mutex);
    while (true) {
      start_ready.wait(lock, [&] { return stopping || !to_start.empty() || !to_stop.empty(); });
      if (!DoNext(lock)) return;  // stopping: what was decided is still done
      Decide();
    }
  }

  bool HasThreads() const { return options.period_millis > 0; }
};

Scheduler::Scheduler(Options options, const os::Clock& clock)
    : impl_(std::make_unique<Impl>(std::move(options), clock)) {
  Impl& s = *impl_;
  if (s.HasThreads()) {
    for (unsigned i = 0; i < std::max(1u, s.options.starters); ++i) {
      s.starters.emplace_back([&s] { s.StartLoop(); });
    }
  }
}

Scheduler::~Scheduler() {
  Impl& s = *impl_;
  std::map<std::string, std::thread> pollers;
  {
    const std::lock_guard lock(s.mutex);
    s.stopping = true;
    pollers.swap(s.pollers);
  }
  s.poll_ready.notify_all();
  s.start_ready.notify_all();
  for (auto& [name, thread] : pollers) thread.join();
  s.start_ready.notify_all();
  for (std::thread& thread : s.starters) thread.join();
}

Status Scheduler::AddNode(const std::string& name, std::shared_ptr<Node> node) {
  Impl& s = *impl_;
  if (name.empty() || name.size() > 253) return Error::Field("name", "expected 1 to 253 bytes");
  const std::lock_guard lock(s.mutex);
  if (s.nodes.count(name) != 0) return Error(Code::kAlreadyExists, "node " + name + " is known");
  if (s.nodes.size() >= kSchedulerNodesMax) {
    return Error(Code::kResourceExhausted,
                 "scheduler_nodes_max (" + std::to_string(kSchedulerNodesMax) + ") is reached");
  }
  auto entry = std::make_shared<NodeEntry>();
  entry->name = name;
  entry->node = std::move(node);
  s.nodes[name] = entry;
  if (s.HasThreads()) s.pollers[name] = std::thread([&s, entry] { s.PollLoop(entry); });
  return {};
}

Status Scheduler::RemoveNode(const std::string& name) {
  Impl& s = *impl_;
  std::thread poller;
  {
    const std::lock_guard lock(s.mutex);
    const auto found = s.nodes.find(name);
    if (found == s.nodes.end()) return Error(Code::kNotFound, "node " + name + " is not known");
    for (const auto& [id, instance] : s.instances) {
      if (instance.placement && instance.placement->node == name &&
          (instance.state != State::kEnded || instance.busy)) {
        return Error(Code::kFailedPrecondition, "instance " + id + " is still on node " + name);
      }
    }
    found->second->removed = true;
    s.nodes.erase(found);
    s.engine.RemoveNode(name);
    if (const auto thread = s.pollers.find(name); thread != s.pollers.end()) {
      poller = std::move(thread->second);
      s.pollers.erase(thread);
    }
  }
  s.poll_ready.notify_all();
  if (poller.joinable()) poller.join();
  return {};
}

Status Scheduler::SetPolicy(const placement::QueuePolicy& policy) {
  Impl& s = *impl_;
  Impl::Lock lock(s.mutex);
  TRY_STATUS(s.orders.SetPolicy(policy));
  s.Decide();
  if (!s.HasThreads()) s.Drain(lock);
  return {};
}

Result<InstanceStatus> Scheduler::Submit(const placement::Order& order, std::uint64_t generation,
                                         const runtime::Workload& workload) {
  const placement::Request& request = order.request;
  TRY_STATUS(placement::Validate(request));
  Impl& s = *impl_;
  Impl::Lock lock(s.mutex);
  if (s.stopping) return Error(Code::kUnavailable, "the scheduler stops");
  const std::string& id = request.id;
  Instance fresh;
  if (const auto found = s.instances.find(id); found != s.instances.end()) {
    const Instance& known = found->second;
    if (known.generation == generation) {
      if (known.state != State::kEnded) s.Describe(order);
      return s.View(id, known);
    }
    if (known.generation > generation) {
      return Error(Code::kAborted, "instance " + id + " is at generation " +
                                       std::to_string(known.generation) + ", got the older " +
                                       std::to_string(generation));
    }
    if (known.state != State::kEnded) {
      return Error(Code::kFailedPrecondition, "instance " + id + " still holds generation " +
                                                  std::to_string(known.generation) +
                                                  "; stop it first");
    }
    TRY(Instance * idle, s.WaitIdle(lock, id));
    if (idle != nullptr) {
      if (idle->generation != generation && idle->state != State::kEnded) {
        return Error(Code::kAborted, "instance " + id + " was changed by another call");
      }
      if (idle->generation == generation) return s.View(id, *idle);
      if (const auto node = s.NodeOf(*idle); idle->give_back && node != nullptr) {
        // The slice of the earlier generation goes back first, or nobody would remember it.
        if (const Status stopped = s.StopOnNode(lock, id, *idle, node); !stopped) {
          return stopped.error().Wrap("giving the slice back on node " + node->name);
        }
      }
      fresh.leftovers = idle->leftovers;
      if (idle->placement) fresh.leftovers.insert(idle->placement->node);
    }
  } else if (s.instances.size() >= s.options.instances_max) {
    return Error(Code::kResourceExhausted, "instances_max (" +
                                               std::to_string(s.options.instances_max) +
                                               ") is reached; forget ended ones");
  }
  if (s.NodesNotReported() == 0) {
    if (s.engine.Consider(request) == nullptr) {
      const Scarcity scarcity = s.engine.WhyNot(request);
      if (scarcity.never) return Error(Code::kFailedPrecondition, scarcity.message);
    }
  }
  if (!order.reservation.empty()) {
    TRY_STATUS(s.reservations.Admits(order.reservation, request,
                                     std::max<std::size_t>(1, order.gang_size)));
  }
  const auto before = s.instances.find(id);
  std::optional<Instance> previous;
  if (before != s.instances.end()) previous = before->second;
  const auto take_back = [&] {
    if (previous) {
      s.instances[id] = *previous;
    } else {
      s.instances.erase(id);
    }
  };
  fresh.workload = workload;
  fresh.generation = generation;
  TRY_STATUS(s.orders.Add(order));
  s.instances[id] = std::move(fresh);
  s.Decide();
  Instance& instance = s.instances.at(id);
  if (instance.state == State::kQueued && s.orders.waiting() > s.options.queue_max) {
    const std::string scarce = instance.waiting_for;
    s.orders.Remove(id);
    take_back();
    return Error(Code::kResourceExhausted,
                 "queue_max (" + std::to_string(s.options.queue_max) + ") is reached; " + scarce);
  }
  // Ours is started in this thread, so that the answer says whether it runs.
  const auto ours = std::find(s.to_start.begin(), s.to_start.end(), id);
  if (ours != s.to_start.end()) {
    s.to_start.erase(ours);
    const Status started = s.StartOne(lock, id);
    if (!started) {
      const bool unchanged = !s.instances.at(id).give_back;
      if (unchanged) take_back();
      s.Decide();
      if (!s.HasThreads()) s.Drain(lock);
      return started.error();
    }
  }
  if (!s.HasThreads()) s.Drain(lock);
  const auto now = s.instances.find(id);
  if (now == s.instances.end())
    return Error(Code::kAborted, "instance " + id + " was forgotten meanwhile");
  return s.View(id, now->second);
}

Status Scheduler::Reserve(const placement::CapacityReservation& reservation, bool whole) {
  Impl& s = *impl_;
  Impl::Lock lock(s.mutex);
  std::set<std::string> avoid = s.UnavailableNodes();
  if (const std::size_t missing = s.NodesNotReported(); missing > 0) {
    if (whole) {
      return Error(Code::kUnavailable,
                   std::to_string(missing) + " node(s) have not reported yet; try again");
    }
    // Until then it is not known what runs there.
    for (const auto& [name, node] : s.nodes) avoid.insert(name);
  }
  TRY_STATUS(s.reservations.Add(s.engine, reservation, whole, s.clock.WallMicros(), avoid));
  if (whole) return {};
  // Told again after a restart: those that a node had kept the orders of may run in it.
  for (const auto& [id, instance] : s.instances) {
    if (instance.adopted && s.orders.Known(id)) s.Attach(*s.orders.Find(id));
  }
  return {};
}

void Scheduler::Unreserve(const std::string& id) {
  Impl& s = *impl_;
  Impl::Lock lock(s.mutex);
  if (!s.reservations.Remove(s.engine, id)) return;
  s.Decide();
  if (!s.HasThreads()) s.Drain(lock);
}

std::vector<placement::ReservationUse> Scheduler::Reservations() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->reservations.List();
}

Result<InstanceStatus> Scheduler::Stop(const std::string& instance_id, std::uint64_t generation) {
  Impl& s = *impl_;
  Impl::Lock lock(s.mutex);
  TRY(Instance * instance, s.WaitIdle(lock, instance_id));
  if (instance == nullptr) return s.Unknown(instance_id);
  if (instance->generation != generation) {
    return Error(Code::kAborted, "instance " + instance_id + " is at generation " +
                                     std::to_string(instance->generation) + ", got " +
                                     std::to_string(generation));
  }
  if (instance->state == State::kQueued) {
    if (s.NodesNotReported() > 0) return s.Unknown(instance_id);
    const std::vector<std::string> others = s.orders.GangOf(instance_id);
    s.Finish(instance_id, *instance, 0, s.clock.WallMicros());
    s.EndGang(others, "gang: its member " + instance_id + " was stopped before all had started");
  } else if (instance->state != State::kEnded) {
    instance->stop_requested = true;
    const std::shared_ptr<NodeEntry> node = s.NodeOf(*instance);
    CHECK(node != nullptr);  // RemoveNode refuses while an instance is on it
    if (const Status stopped = s.StopOnNode(lock, instance_id, *instance, node); !stopped) {
      return stopped.error().Wrap("stopping on node " + node->name);
    }
  }
  const InstanceStatus status = s.View(instance_id, *instance);
  s.Decide();
  if (!s.HasThreads()) s.Drain(lock);
  return status;
}

Status Scheduler::Forget(const std::string& instance_id) {
  Impl& s = *impl_;
  Impl::Lock lock(s.mutex);
  TRY(Instance * instance, s.WaitIdle(lock, instance_id));
  if (instance == nullptr) return {};
  if (instance->state != State::kEnded) {
    return Error(Code::kFailedPrecondition,
                 "instance " + instance_id + " has not ended; stop it first");
  }
  if (instance->give_back) {
    // Forgetting it before its slice is back would leave the slice with nobody.
    if (const std::shared_ptr<NodeEntry> node = s.NodeOf(*instance)) {
      if (const Status stopped = s.StopOnNode(lock, instance_id, *instance, node); !stopped) {
        return stopped.error().Wrap("giving the slice back on node " + node->name);
      }
    }
  }
  std::set<std::string> places = instance->leftovers;
  if (instance->placement) places.insert(instance->placement->node);
  for (const std::string& name : places) {
    const auto found = s.nodes.find(name);
    if (found == s.nodes.end()) continue;
    const std::shared_ptr<NodeEntry> node = found->second;
    s.BeginOperation(*instance, *node);
    lock.unlock();
    const Status forgotten = node->node->Forget(instance_id);
    lock.lock();
    s.EndOperation(*instance, *node);
    if (!forgotten) return forgotten.error().Wrap("forgetting on node " + name);
    instance->leftovers.erase(name);
  }
  s.instances.erase(instance_id);
  return {};
}

Result<InstanceStatus> Scheduler::Get(const std::string& instance_id) const {
  const std::lock_guard lock(impl_->mutex);
  const auto found = impl_->instances.find(instance_id);
  if (found == impl_->instances.end()) return impl_->Unknown(instance_id);
  return impl_->View(instance_id, found->second);
}

Result<OrderExplanation> Scheduler::Explain(const std::string& instance_id) {
  Impl& s = *impl_;
  const std::lock_guard lock(s.mutex);
  const auto found = s.instances.find(instance_id);
  if (found == s.instances.end()) return s.Unknown(instance_id);
  OrderExplanation explanation;
  explanation.status = s.View(instance_id, found->second);
  explanation.waiting = s.orders.waiting();
  if (!s.orders.Known(instance_id)) return explanation;
  const placement::Order& order = *s.orders.Find(instance_id);
  explanation.tenant = order.request.tenant;
  explanation.priority = order.request.priority;
  explanation.preemptible = order.preemptible;
  if (const auto standing = s.orders.StandingOf(instance_id)) {
    explanation.position = standing->position;
    explanation.rule = standing->rule;
    for (const std::string& id : s.orders.Ahead(instance_id)) {
      explanation.ahead.push_back({id, s.orders.Find(id)->request.tenant});
    }
  }
  explanation.quota = s.orders.quotas().Use(order.request.tenant);
  placement::QuotaTree none;
  placement::Absence without(s.engine, none);
  without.Take(instance_id, order.request.tenant, {});
  explanation.nodes = s.engine.Explain(order.request, s.UnavailableNodes());
  return explanation;
}

std::vector<placement::QuotaUse> Scheduler::Quotas() const {
  const std::lock_guard lock(impl_->mutex);
  std::vector<placement::QuotaUse> uses;
  for (const placement::Quota& quota : impl_->orders.policy().quotas) {
    uses.push_back(*impl_->orders.quotas().Use(quota.name));
  }
  return uses;
}

Result<std::vector<InstanceStatus>> Scheduler::List() const {
  const std::lock_guard lock(impl_->mutex);
  if (const std::size_t missing = impl_->NodesNotReported(); missing > 0) {
    return Error(
        Code::kUnavailable,
        std::to_string(missing) + " node(s) have not reported yet; what runs there is not known");
  }
  std::vector<InstanceStatus> all;
  for (const auto& [id, instance] : impl_->instances) all.push_back(impl_->View(id, instance));
  return all;
}

namespace {

Error NotPlaced(const std::string& id) {
  return Error(Code::kFailedPrecondition, "instance " + id + " is not on a node yet");
}

}  // namespace

Result<std::string> Scheduler::Log(const std::string& instance_id, std::uint64_t offset) {
  Impl::Lock lock(impl_->mutex);
  const auto found = impl_->instances.find(instance_id);
  if (found == impl_->instances.end()) return impl_->Unknown(instance_id);
  const std::shared_ptr<NodeEntry> node = impl_->NodeOf(found->second);
  if (node == nullptr) return NotPlaced(instance_id);
  lock.unlock();
  return node->node->Log(instance_id, offset);
}

Result<ExecResult> Scheduler::Exec(const std::string& instance_id,
                                   const std::vector<std::string>& argv,
                                   const std::string& stdin_bytes) {
  Impl::Lock lock(impl_->mutex);
  const auto found = impl_->instances.find(instance_id);
  if (found == impl_->instances.end()) return impl_->Unknown(instance_id);
  if (found->second.state == State::kEnded) {
    return Error(Code::kFailedPrecondition, "instance " + instance_id + " has ended");
  }
  const std::shared_ptr<NodeEntry> node = impl_->NodeOf(found->second);
  if (node == nullptr || found->second.state != State::kRunning) return NotPlaced(instance_id);
  lock.unlock();
  return node->node->Exec(instance_id, argv, stdin_bytes);
}

std::vector<CardStatus> Scheduler::Cards() const {
  const std::lock_guard lock(impl_->mutex);
  std::vector<CardStatus> cards;
  for (const placement::NodeUse& node : impl_->engine.Nodes()) {
    const auto entry = impl_->nodes.find(node.name);
    for (const placement::CardUse& use : node.cards) {
      CardStatus status;
      status.node = node.name;
      status.card = use.card;
      status.reserved_bytes = use.reserved_bytes + use.foreign_bytes;
      status.reserved_permille = use.reserved_permille + use.foreign_permille;
      if (entry != impl_->nodes.end()) {
        for (const CardState& reported : entry->second->state.cards) {
          if (reported.card.uuid != use.card.uuid) continue;
          status.used_bytes = reported.used_bytes;
          status.busy_permille = reported.busy_permille;
        }
      }
      cards.push_back(std::move(status));
    }
  }
  return cards;
}

std::vector<NodeStatus> Scheduler::Nodes() const {
  const std::lock_guard lock(impl_->mutex);
  std::vector<NodeStatus> nodes;
  for (const auto& [name, node] : impl_->nodes) {
    nodes.push_back({name, node->available, node->error, node->seen, node->state.contained});
  }
  return nodes;
}

void Scheduler::Tick() {
  Impl& s = *impl_;
  std::vector<std::shared_ptr<NodeEntry>> nodes;
  {
    const std::lock_guard lock(s.mutex);
    for (const auto& [name, node] : s.nodes) nodes.push_back(node);
  }
  for (const auto& node : nodes) {
    if (s.Poll(node)) s.Poll(node);
  }
  Impl::Lock lock(s.mutex);
  s.Decide();
  if (!s.HasThreads()) s.Drain(lock);
}

}  // namespace tessera::scheduler
