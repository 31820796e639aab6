// A scheduling plane for tests: a number of places, a queue, a clock moved by hand, and faults on
// demand. It keeps the truth about who ran when, which bills are compared with. Thread-safe.
#pragma once

#include <algorithm>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "cloud/execution.h"
#include "os/clock.h"

namespace tessera::cloud {

class FakeExecution final : public Execution {
 public:
  struct Run {
    std::string id;
    std::uint64_t generation = 0;
    std::int64_t started = 0;
    std::int64_t ended = 0;  // 0: still running
  };

  FakeExecution(const os::Clock& clock, std::size_t places) : clock_(clock), places_(places) {}

  // The n-th call (0-based) from now on is answered kUnavailable, before or after it took effect;
  // -1: none.
  void FailCall(int n, bool after_effect) {
    const std::lock_guard lock(mutex_);
    fail_at_ = n;
    after_effect_ = after_effect;
    calls_ = 0;
  }
  int Calls() {
    const std::lock_guard lock(mutex_);
    return calls_;
  }
  // Every call is answered with this error until cleared.
  void SetOutage(std::optional<Error> outage) {
    const std::lock_guard lock(mutex_);
    outage_ = std::move(outage);
  }
  // Every new Submit is refused with this error until cleared.
  void SetRefusal(std::optional<Error> refusal) {
    const std::lock_guard lock(mutex_);
    refusal_ = std::move(refusal);
  }
  // The program of a running instance ends by itself.
  void Exit(const std::string& id, int code) {
    const std::lock_guard lock(mutex_);
    if (jobs_.contains(id) && jobs_[id].phase == Phase::kRunning) End(id, code);
  }
  // The plane forgets an instance as if its node were gone; the program ends now.
  void Lose(const std::string& id) {
    const std::lock_guard lock(mutex_);
    if (jobs_.contains(id) && jobs_[id].phase == Phase::kRunning) End(id, 0);
    jobs_.erase(id);
  }
  // The plane starts anew and knows only what runs.
  void ForgetQueue() {
    const std::lock_guard lock(mutex_);
    std::erase_if(jobs_, [](const auto& job) { return job.second.phase == Phase::kQueued; });
  }
  std::vector<Run> Truth() {
    const std::lock_guard lock(mutex_);
    return runs_;
  }
  std::size_t Running() {
    const std::lock_guard lock(mutex_);
    return static_cast<std::size_t>(std::count_if(jobs_.begin(), jobs_.end(), [](const auto& job) {
      return job.second.phase == Phase::kRunning;
    }));
  }
  std::size_t Known() {
    const std::lock_guard lock(mutex_);
    return jobs_.size();
  }
  // The plane starts anew and finds what runs, without knowing whose it is.
  void Adopt() {
    const std::lock_guard lock(mutex_);
    for (auto& [id, job] : jobs_) job.adopted = job.phase == Phase::kRunning;
  }
  std::size_t Adopted() {
    const std::lock_guard lock(mutex_);
    return static_cast<std::size_t>(std::count_if(
        jobs_.begin(), jobs_.end(), [](const auto& job) { return job.second.adopted; }));
  }
  // A running instance is stopped for another.
  void Evict(const std::string& id, const std::string& reason) {
    const std::lock_guard lock(mutex_);
    jobs_.at(id).eviction = reason;
    End(id, 143);
  }
  placement::Order LastOrder() {
    const std::lock_guard lock(mutex_);
    return last_order_;
  }
  runtime::Workload LastWorkload() {
    const std::lock_guard lock(mutex_);
    return last_workload_;
  }

  Result<ExecutionStatus> Submit(const placement::Order& order, std::uint64_t generation,
                                 const runtime::Workload& workload) override {
    const placement::Request& request = order.request;
    const std::lock_guard lock(mutex_);
    TRY_STATUS(Before());
    const auto found = jobs_.find(request.id);
    if (found == jobs_.end() || found->second.generation < generation) {
      if (refusal_) return *refusal_;
      last_order_ = order;
      last_workload_ = workload;
      if (found != jobs_.end() && found->second.phase == Phase::kRunning) End(request.id, 137);
      jobs_[request.id] = Job{.generation = generation,
                              .order = ++order_,
                              .tenant = order.request.tenant,
                              .amount = placement::AmountOf(request),
                              .spot = order.preemptible,
                              .priority = request.priority};
      jobs_[request.id].gang = order.gang;
      jobs_[request.id].gang_size = order.gang_size;
      Fill();
    } else {
      found->second.adopted = false;
    }
    TRY_STATUS(After());
    return View(request.id);
  }

  // Of `places` units; what runs uses none of them.
  Status Reserve(const placement::CapacityReservation& reservation, bool whole) override {
    const std::lock_guard lock(mutex_);
    TRY_STATUS(Before());
    if (refusal_) return *refusal_;
    if (whole && reservation.units > places_) {
      return Error(Code::kResourceExhausted, std::to_string(places_) + " of " +
                                                 std::to_string(reservation.units) +
                                                 " units fit now; cards: asked 1, 0 are free")
          .Under("units");
    }
    reservations_.emplace(reservation.id, reservation);
    return After();
  }
  Status Unreserve(const std::string& id) override {
    const std::lock_guard lock(mutex_);
    TRY_STATUS(Before());
    reservations_.erase(id);
    return After();
  }
  Result<std::vector<placement::ReservationUse>> Reservations() override {
    const std::lock_guard lock(mutex_);
    TRY_STATUS(Before());
    std::vector<placement::ReservationUse> all;
    for (const auto& [id, reservation] : reservations_) {
      const bool begun = reservation.start_micros <= clock_.WallMicros();
      all.push_back({.reservation = reservation,
                     .phase = begun ? placement::ReservationPhase::kActive
                                    : placement::ReservationPhase::kPending,
                     .free = begun ? reservation.units : 0});
    }
    return all;
  }
  // The plane starts anew; it knows of no reservation.
  void ForgetReservations() {
    const std::lock_guard lock(mutex_);
    reservations_.clear();
  }
  std::size_t Reserved() {
    const std::lock_guard lock(mutex_);
    return reservations_.size();
  }

  Result<ExecutionStatus> Stop(const std::string& instance_id, std::uint64_t generation) override {
    const std::lock_guard lock(mutex_);
    TRY_STATUS(Before());
    const auto found = jobs_.find(instance_id);
    if (found == jobs_.end() || found->second.generation != generation) {
      return Error(Code::kNotFound, "the plane does not know it");
    }
    if (found->second.phase == Phase::kRunning) {
      End(instance_id, 143);
    } else if (found->second.phase == Phase::kQueued) {
      found->second.phase = Phase::kEnded;
      found->second.ended = clock_.WallMicros();
    }
    TRY_STATUS(After());
    return View(instance_id);
  }

  Status Forget(const std::string& instance_id) override {
    const std::lock_guard lock(mutex_);
    TRY_STATUS(Before());
    if (const auto found = jobs_.find(instance_id);
        found != jobs_.end() && found->second.phase == Phase::kEnded) {
      jobs_.erase(found);
    }
    return After();
  }

  Result<ExecutionStatus> Get(const std::string& instance_id) override {
    const std::lock_guard lock(mutex_);
    TRY_STATUS(Before());
    if (!jobs_.contains(instance_id)) return Error(Code::kNotFound, "the plane does not know it");
    return View(instance_id);
  }

  // First come, first served; two nodes, of which one is too small, and a quota for everybody.
  Result<OrderExplanation> Explain(const std::string& instance_id) override {
    const std::lock_guard lock(mutex_);
    TRY_STATUS(Before());
    if (!jobs_.contains(instance_id)) return Error(Code::kNotFound, "the plane does not know it");
    const Job& mine = jobs_[instance_id];
    OrderExplanation explanation;
    explanation.status = View(instance_id);
    explanation.priority = mine.priority;
    explanation.spot = mine.spot;
    for (const auto& [id, job] : jobs_) {
      if (job.phase != Phase::kQueued) continue;
      ++explanation.waiting;
      if (job.order < mine.order && mine.phase == Phase::kQueued) {
        explanation.ahead.push_back({id, job.tenant});
      }
    }
    if (mine.phase == Phase::kQueued) {
      explanation.position = explanation.ahead.size() + 1;
      explanation.rule = "fit";
    }
    placement::QuotaUse quota;
    quota.quota.name = mine.tenant;
    quota.quota.nominal = {4000, 320 * kGiB};
    quota.quota.borrowing_limit = {1000, placement::kUnlimited};
    quota.held = {333, 26 * kGiB};
    explanation.quota = quota;
    explanation.nodes.filtered.push_back(
        {"memory", 1, "node-b",
         "memory: asked 26 GiB a card, 2 GiB short on the best card (24 GiB free)"});
    explanation.nodes.best.push_back({"node-a", {"GPU-0"}, -0.25, {{"left", -0.25}}});
    return explanation;
  }

  Result<std::vector<ExecutionStatus>> List() override {
    const std::lock_guard lock(mutex_);
    TRY_STATUS(Before());
    std::vector<ExecutionStatus> all;
    for (const auto& [id, job] : jobs_) all.push_back(View(id));
    return all;
  }

  Result<std::vector<CardView>> Cards() override {
    const std::lock_guard lock(mutex_);
    TRY_STATUS(Before());
    return std::vector<CardView>{{.node = "node-a",
                                  .uuid = "GPU-0",
                                  .model = "NVIDIA A100-SXM4-80GB",
                                  .simulated = true,
                                  .memory_bytes = 80 * kGiB}};
  }

  Status SetQueuePolicy(const placement::QueuePolicy& policy) override {
    const std::lock_guard lock(mutex_);
    TRY_STATUS(Before());
    TRY_STATUS(queue_.SetPolicy(policy));
    return After();
  }
  // The policy the plane works by, and what runs under its quotas.
  placement::QueuePolicy Policy() {
    const std::lock_guard lock(mutex_);
    return queue_.policy();
  }
  Result<std::vector<placement::QuotaUse>> Quotas() override {
    const std::lock_guard lock(mutex_);
    TRY_STATUS(Before());
    placement::QuotaTree tree = *placement::QuotaTree::Make(queue_.policy().quotas);
    for (const auto& [id, job] : jobs_) {
      if (job.phase == Phase::kRunning) tree.Add(job.tenant, job.amount);
    }
    std::vector<placement::QuotaUse> uses;
    for (const auto& quota : queue_.policy().quotas) uses.push_back(*tree.Use(quota.name));
    return uses;
  }

  Result<std::string> Log(const std::string& instance_id, std::uint64_t offset) override {
    const std::lock_guard lock(mutex_);
    TRY_STATUS(Before());
    if (!jobs_.contains(instance_id)) return Error(Code::kNotFound, "the plane does not know it");
    if (jobs_[instance_id].phase == Phase::kQueued) {
      return Error(Code::kFailedPrecondition, "it is not on a node yet");
    }
    const std::string log = "log of " + instance_id + "\n";
    return offset < log.size() ? log.substr(offset) : std::string();
  }

  Result<ExecOutput> Exec(const std::string& instance_id, const std::vector<std::string>& argv,
                          const std::string& stdin_bytes) override {
    const std::lock_guard lock(mutex_);
    TRY_STATUS(Before());
    return ExecOutput{.exit_code = 7, .output = instance_id + ":" + argv[0] + ":" + stdin_bytes};
  }

 private:
  struct Job {
    std::uint64_t generation = 0;
    std::uint64_t order = 0;
    std::string tenant;
    placement::SliceAmount amount;
    bool spot = false;
    std::int32_t priority = 0;
    std::string eviction;
    std::string gang;
    std::size_t gang_size = 0;
    bool adopted = false;
    Phase phase = Phase::kQueued;
    int exit_code = 0;
    std::int64_t started = 0;
    std::int64_t ended = 0;
  };

  Status Before() {
    const int number = calls_++;
    failing_ = fail_at_ >= 0 && number == fail_at_;
    if (outage_) return *outage_;
    if (failing_ && !after_effect_)
      return Error(Code::kUnavailable, "injected: the plane did not hear");
    return {};
  }
  Status After() {
    if (failing_ && after_effect_)
      return Error(Code::kUnavailable, "injected: the answer was lost");
    return {};
  }
  void End(const std::string& id, int code) {
    Job& job = jobs_[id];
    job.phase = Phase::kEnded;
    job.exit_code = code;
    job.ended = clock_.WallMicros();
    for (auto& run : runs_) {
      if (run.id == id && run.generation == job.generation) run.ended = job.ended;
    }
    Fill();
  }
  // The first that fits starts; a gang when all are here and fit.
  void Fill() {
    while (true) {
      std::size_t running = 0;
      std::map<std::string, std::vector<std::string>> gangs;
      std::map<std::uint64_t, std::string> waiting;
      for (const auto& [id, job] : jobs_) {
        if (job.phase == Phase::kRunning) ++running;
        if (job.phase != Phase::kQueued) continue;
        waiting[job.order] = id;
        if (!job.gang.empty()) gangs[job.gang].push_back(id);
      }
      std::vector<std::string> next;
      for (const auto& [order, id] : waiting) {
        const Job& job = jobs_[id];
        next = job.gang.empty() ? std::vector<std::string>{id} : gangs[job.gang];
        if (next.size() >= job.gang_size && running + next.size() <= places_) break;
        next.clear();
      }
      if (next.empty()) return;
      for (const std::string& id : next) {
        Job& job = jobs_[id];
        job.phase = Phase::kRunning;
        job.started = clock_.WallMicros();
        runs_.push_back({id, job.generation, job.started, 0});
      }
    }
  }
  ExecutionStatus View(const std::string& id) {
    const Job& job = jobs_[id];
    ExecutionStatus status{.instance_id = id,
                           .generation = job.generation,
                           .phase = job.phase,
                           .exit_code = job.exit_code,
                           .started_wall_micros = job.started,
                           .ended_wall_micros = job.ended};
    status.adopted = job.adopted;
    if (job.phase == Phase::kEnded) {
      status.waiting_for = job.eviction;
      status.evicted = !job.eviction.empty();
    }
    if (job.phase == Phase::kQueued) {
      status.waiting_for =
          "memory: asked 26 GiB a card, 2 GiB short on the best card (24 GiB free)";
    } else if (job.started > 0) {
      status.placement = placement::Placement{
          .request_id = id, .node = "node-a", .shares = {{.card_uuid = "GPU-0"}}};
      status.seen_wall_micros = job.phase == Phase::kRunning ? clock_.WallMicros() : job.ended;
    }
    return status;
  }

  const os::Clock& clock_;
  const std::size_t places_;
  std::mutex mutex_;
  std::map<std::string, Job> jobs_;
  std::vector<Run> runs_;
  std::uint64_t order_ = 0;
  int fail_at_ = -1;
  int calls_ = 0;
  bool after_effect_ = false;
  bool failing_ = false;
  std::optional<Error> outage_;
  std::optional<Error> refusal_;
  std::map<std::string, placement::CapacityReservation> reservations_;
  placement::Queue queue_;  // for its rules only
  placement::Order last_order_;
  runtime::Workload last_workload_;
};

}  // namespace tessera::cloud
