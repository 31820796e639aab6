// A node for tests: a ledger of cards, instances without processes, faults on demand, and the truth
// about what ran, which a scheduler's books are compared with. Thread-safe.
#pragma once

#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "os/clock.h"
#include "scheduler/nodes.h"

namespace tessera::scheduler {

// Shared by the nodes of one test: counts calls, fails the n-th, and sees when something runs
// twice.
class FakeWorld {
 public:
  enum class When { kBefore, kAfter };  // of the call's effect

  // The n-th call (0-based) from now on, over all nodes, fails with `code`; -1: none.
  void FailCall(int n, Code code, When when) {
    const std::lock_guard lock(mutex_);
    fail_at_ = n;
    code_ = code;
    when_ = when;
    calls_ = 0;
  }
  int calls() const {
    const std::lock_guard lock(mutex_);
    return calls_;
  }
  // Ids that ran on two nodes, or twice at once, or the same generation twice.
  std::set<std::string> doubles() const {
    const std::lock_guard lock(mutex_);
    return doubles_;
  }

 private:
  friend class FakeNode;
  std::optional<When> Count() {
    const std::lock_guard lock(mutex_);
    if (calls_++ != fail_at_) return std::nullopt;
    return when_;
  }
  void Began(const std::string& id, std::uint64_t generation) {
    const std::lock_guard lock(mutex_);
    if (++running_[id] > 1 || !began_.insert({id, generation}).second) doubles_.insert(id);
  }
  void Ended(const std::string& id) {
    const std::lock_guard lock(mutex_);
    --running_[id];
  }

  mutable std::mutex mutex_;
  int fail_at_ = -1;
  Code code_ = Code::kUnavailable;
  When when_ = When::kBefore;
  int calls_ = 0;
  std::map<std::string, int> running_;
  std::set<std::pair<std::string, std::uint64_t>> began_;
  std::set<std::string> doubles_;
};

class FakeNode : public Node {
 public:
  FakeNode(FakeWorld& world, const os::Clock& clock, std::string name,
           std::vector<device::Card> cards)
      : world_(world), clock_(clock), name_(std::move(name)), cards_(std::move(cards)) {}

  // ---- what a test does to it ----
  void SetOutage(bool away) {
    const std::lock_guard lock(mutex_);
    away_ = away;
  }
  // Every Start is refused with this until cleared.
  void SetRefusal(std::optional<Error> refusal) {
    const std::lock_guard lock(mutex_);
    refusal_ = std::move(refusal);
  }
  // Somebody who is not the scheduler takes a slice (or gives it back).
  void SetForeign(std::vector<device::Share> shares) {
    const std::lock_guard lock(mutex_);
    foreign_ = std::move(shares);
  }
  // False: an instance that ended by itself keeps its slice until Stop.
  void SetFreesOnExit(bool frees) {
    const std::lock_guard lock(mutex_);
    frees_on_exit_ = frees;
  }
  void SetListsShares(bool lists) {
    const std::lock_guard lock(mutex_);
    lists_shares_ = lists;
  }
  // False: as a node of before there were memos.
  void SetKeepsMemos(bool keeps) {
    const std::lock_guard lock(mutex_);
    keeps_memos_ = keeps;
    for (auto& [id, run] : runs_) {
      if (!keeps) run.status.memo.clear();
    }
  }
  void SetOffers(std::uint8_t isolations) {
    const std::lock_guard lock(mutex_);
    isolations_ = isolations;
  }
  void SetRack(std::string rack) {
    const std::lock_guard lock(mutex_);
    rack_ = std::move(rack);
  }
  // True: Start answers before the instance runs; LetRun() makes it run.
  void SetStartsLater(bool later) {
    const std::lock_guard lock(mutex_);
    starts_later_ = later;
  }
  void LetRun(const std::string& id) {
    const std::lock_guard lock(mutex_);
    runs_.at(id).status.state = RunState::kRunning;
  }
  void SetHealthy(std::size_t card, bool healthy) {
    const std::lock_guard lock(mutex_);
    cards_[card].healthy = healthy;
  }
  // The program ends by itself.
  void Exit(const std::string& id, int code) {
    const std::lock_guard lock(mutex_);
    const auto found = runs_.find(id);
    if (found == runs_.end() || found->second.status.state != RunState::kRunning) return;
    End(found->second, code);
    if (frees_on_exit_) found->second.holds = false;
  }
  // The node forgets it as if its state had been wiped; the program is gone.
  void Lose(const std::string& id) {
    const std::lock_guard lock(mutex_);
    const auto found = runs_.find(id);
    if (found == runs_.end()) return;
    if (found->second.status.state == RunState::kRunning) world_.Ended(id);
    runs_.erase(found);
  }
  // Start waits until the gate opens again.
  void CloseGate() {
    const std::lock_guard lock(mutex_);
    gate_open_ = false;
  }
  void OpenGate() {
    {
      const std::lock_guard lock(mutex_);
      gate_open_ = true;
    }
    gate_.notify_all();
  }
  // Waits until `count` Start calls stand at the gate.
  void WaitAtGate(int count) {
    std::unique_lock lock(mutex_);
    gate_.wait(lock, [&] { return at_gate_ >= count; });
  }

  // ---- the truth ----
  std::vector<std::string> Running() const {
    const std::lock_guard lock(mutex_);
    std::vector<std::string> ids;
    for (const auto& [id, run] : runs_) {
      if (run.status.state == RunState::kRunning) ids.push_back(id);
    }
    return ids;
  }
  std::size_t Known() const {
    const std::lock_guard lock(mutex_);
    return runs_.size();
  }
  device::Share Reserved(const std::string& uuid) const {
    const std::lock_guard lock(mutex_);
    return ReservedOn(uuid);
  }
  int starts() const {
    const std::lock_guard lock(mutex_);
    return starts_;
  }

  // ---- Node ----
  Result<NodeState> State() override {
    return Call<NodeState>([&]() -> Result<NodeState> {
      NodeState state;
      state.name = name_;
      state.cpu_millis = 64'000;
      state.ram_bytes = 256 * kGiB;
      state.rack = rack_;
      state.isolations = isolations_;
      for (const auto& [id, run] : runs_) {
        if (!run.holds) continue;
        state.cpu_reserved_millis += run.workload.cpu_millis;
        state.ram_reserved_bytes += run.workload.ram_bytes;
      }
      for (const device::Card& card : cards_) {
        const device::Share share = ReservedOn(card.uuid);
        state.cards.push_back({card, share.memory_bytes, share.compute.value,
                               share.memory_bytes / 2, 250, share.isolation});
      }
      return state;
    });
  }

  Result<RunStatus> Start(const placement::Placement& placement, std::uint64_t generation,
                          const runtime::Workload& workload, const std::string& memo) override {
    {
      std::unique_lock lock(mutex_);
      ++at_gate_;
      gate_.notify_all();
      gate_.wait(lock, [&] { return gate_open_; });
      --at_gate_;
    }
    return Call<RunStatus>([&]() -> Result<RunStatus> {
      ++starts_;
      if (refusal_) return *refusal_;
      const auto found = runs_.find(placement.request_id);
      if (found != runs_.end()) {
        const RunStatus& known = found->second.status;
        if (known.generation == generation) return known;
        if (known.generation > generation) return Error(Code::kAborted, "an older generation");
        if (known.state == RunState::kRunning)
          return Error(Code::kAborted, "the earlier generation runs");
        runs_.erase(found);
      }
      for (const device::Share& share : placement.shares) {
        const device::Share held = ReservedOn(share.card_uuid);
        std::uint64_t memory = 0;
        for (const device::Card& card : cards_) {
          if (card.uuid == share.card_uuid) memory = card.memory_bytes;
        }
        if ((isolations_ & placement::Bit(share.isolation)) == 0 ||
            (held.memory_bytes > 0 && held.isolation != share.isolation)) {
          return Error(Code::kFailedPrecondition, "card " + share.card_uuid + ": isolation");
        }
        if (held.memory_bytes + share.memory_bytes > memory ||
            held.compute.value + share.compute.value > 1000) {
          return Error(Code::kResourceExhausted, "card " + share.card_uuid + " is full");
        }
      }
      Run run;
      run.shares = placement.shares;
      run.workload = workload;
      run.status.instance_id = placement.request_id;
      run.status.generation = generation;
      run.status.state = RunState::kRunning;
      run.status.started_wall_micros = clock_.WallMicros();
      if (lists_shares_) {
        run.status.shares = placement.shares;
        run.status.cpu_millis = workload.cpu_millis;
        run.status.ram_bytes = workload.ram_bytes;
      }
      if (keeps_memos_) run.status.memo = memo;
      world_.Began(placement.request_id, generation);
      if (starts_later_) run.status.state = RunState::kUnknown;
      return (runs_[placement.request_id] = run).status;
    });
  }

  Result<RunStatus> Stop(const std::string& id, std::uint64_t generation) override {
    return Call<RunStatus>([&]() -> Result<RunStatus> {
      const auto found = runs_.find(id);
      if (found == runs_.end() || found->second.status.generation != generation) {
        return Error(Code::kNotFound, "no such instance");
      }
      if (found->second.status.state != RunState::kExited) End(found->second, 143);
      found->second.holds = false;
      return found->second.status;
    });
  }

  Status Forget(const std::string& id) override {
    const auto done = Call<bool>([&]() -> Result<bool> {
      const auto found = runs_.find(id);
      if (found == runs_.end()) return true;
      if (found->second.status.state == RunState::kRunning) {
        return Error(Code::kFailedPrecondition, "it runs");
      }
      runs_.erase(found);
      return true;
    });
    return done ? Status() : Status(done.error());
  }

  Result<std::vector<RunStatus>> List() override {
    return Call<std::vector<RunStatus>>([&]() -> Result<std::vector<RunStatus>> {
      std::vector<RunStatus> all;
      for (const auto& [id, run] : runs_) all.push_back(run.status);
      return all;
    });
  }

  Result<std::string> Log(const std::string& id, std::uint64_t offset) override {
    return Call<std::string>([&]() -> Result<std::string> {
      if (runs_.count(id) == 0) return Error(Code::kNotFound, "no such instance");
      const std::string log = "log of " + id;
      return offset < log.size() ? log.substr(offset) : std::string();
    });
  }

  Result<ExecResult> Exec(const std::string& id, const std::vector<std::string>& argv,
                          const std::string& stdin_bytes) override {
    return Call<ExecResult>([&]() -> Result<ExecResult> {
      if (runs_.count(id) == 0) return Error(Code::kNotFound, "no such instance");
      return ExecResult{3, id + " " + argv.at(0) + " " + stdin_bytes, false};
    });
  }

 private:
  struct Run {
    RunStatus status;
    std::vector<device::Share> shares;
    runtime::Workload workload;
    bool holds = true;
  };

  template <typename T, typename Action>
  Result<T> Call(Action action) {
    const std::optional<FakeWorld::When> fails = world_.Count();
    const std::lock_guard lock(mutex_);
    if (away_) return Error(Code::kUnavailable, "nobody answers");
    if (fails == FakeWorld::When::kBefore) return Error(world_.code_, "injected before");
    Result<T> result = action();
    if (fails == FakeWorld::When::kAfter) return Error(world_.code_, "injected after");
    return result;
  }
  void End(Run& run, int code) {
    run.status.state = RunState::kExited;
    run.status.exit_code = code;
    run.status.ended_wall_micros = clock_.WallMicros();
    world_.Ended(run.status.instance_id);
  }
  device::Share ReservedOn(const std::string& uuid) const {
    device::Share sum{uuid, 0, {0}};
    const auto add = [&](const device::Share& share) {
      if (share.card_uuid != uuid) return;
      sum.isolation = share.isolation;
      sum.memory_bytes += share.memory_bytes;
      sum.compute.value += share.compute.value;
    };
    for (const auto& [id, run] : runs_) {
      if (!run.holds) continue;
      for (const device::Share& share : run.shares) add(share);
    }
    for (const device::Share& share : foreign_) add(share);
    return sum;
  }

  FakeWorld& world_;
  const os::Clock& clock_;
  const std::string name_;
  mutable std::mutex mutex_;
  std::condition_variable gate_;
  std::vector<device::Card> cards_;
  std::map<std::string, Run> runs_;
  std::vector<device::Share> foreign_;
  std::optional<Error> refusal_;
  bool away_ = false;
  bool frees_on_exit_ = true;
  bool lists_shares_ = true;
  bool keeps_memos_ = true;
  std::uint8_t isolations_ =
      placement::Bit(device::Isolation::kShim) | placement::Bit(device::Isolation::kWhole);
  std::string rack_;
  bool starts_later_ = false;
  bool gate_open_ = true;
  int at_gate_ = 0;
  int starts_ = 0;
};

}  // namespace tessera::scheduler
