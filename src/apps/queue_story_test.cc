// Cloud and scheduler as `tessera up` binds them, over nodes without processes: tenants rent at
// random (spot or not, of any priority), programs end, the rules change, the process starts anew,
// and after every step what the database, the scheduler and the nodes say must agree.
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <set>

#include "apps/execution_binding.h"
#include "base/rng.h"
#include "cloud/service.h"
#include "cloud/witness.h"
#include "scheduler/fake_node.h"

namespace tessera::apps {
namespace {

using commerce::State;

constexpr std::int64_t kSecond = 1'000'000;
constexpr int kSteps = 150;
constexpr int kRoundsMax = 20;

class Story {
 public:
  explicit Story(std::uint64_t seed) : rng_(seed) {
    for (const std::string name : {"n1", "n2"}) {
      std::vector<device::Card> cards(2);
      for (std::size_t i = 0; i < cards.size(); ++i) {
        cards[i].uuid = name + "-" + std::to_string(i);
        cards[i].model = "A100";
        cards[i].memory_bytes = 80 * kGiB;
      }
      nodes_[name] = std::make_shared<scheduler::FakeNode>(world_, clock_, name, cards);
    }
    database_ = *store::Database::OpenSqlite(":memory:");
    Start();
    for (const std::uint32_t parts : {1u, 2u, 3u}) {
      cloud::Sku sku{.name = "part-" + std::to_string(parts), .memory_bytes = 78 * kGiB / parts};
      sku.compute.value = 1000 / parts;
      sku.price_per_hour = Money{6'000'000 / parts};
      EXPECT_TRUE(service_->AddSku(sku));
    }
    for (const std::string name : {"a", "b", "c"}) {
      const std::string id = service_->CreateTenant(name)->tenant.id;
      EXPECT_TRUE(service_->Deposit(id, "one", Money{60'000'000}));
      tenants_.push_back(id);
    }
  }

  void Run() {
    for (int step = 0; step < kSteps; ++step) {
      SCOPED_TRACE("step " + std::to_string(step));
      Step();
      Settle();
      Check();
      if (::testing::Test::HasFailure()) return;
    }
    for (const auto& [id, tenant] : instances_) {
      EXPECT_TRUE(service_->ReleaseInstance(tenant, id));
    }
    Settle();
    for (const auto& [name, node] : nodes_) EXPECT_EQ(node->Known(), 0u) << name;
    for (const std::string& tenant : tenants_) {
      EXPECT_EQ(service_->GetPurse(tenant)->held, Money{0});
    }
  }
  int preempted() const { return preempted_; }
  int reclaimed() const { return reclaimed_; }
  int requeued() const { return requeued_; }

 private:
  void Start() {
    service_.reset();
    execution_.reset();
    scheduler_ =
        std::make_unique<scheduler::Scheduler>(scheduler::Options{.period_millis = 0}, clock_);
    for (const auto& [name, node] : nodes_) EXPECT_TRUE(scheduler_->AddNode(name, node));
    scheduler_->Tick();
    execution_ = std::make_unique<SchedulerExecution>(*scheduler_);
    service_ = *cloud::Service::Open(*database_, *execution_, clock_);
    EXPECT_TRUE(service_->Tick());
  }
  // Rounds until nothing changes any more: whoever is stopped for another may be one who then has
  // somebody else stopped, but never in a circle.
  void Settle() {
    std::string before;
    for (int round = 0; round < kRoundsMax; ++round) {
      clock_.AdvanceMicros(kSecond);
      scheduler_->Tick();
      const Status ticked = service_->Tick();
      ASSERT_TRUE(ticked) << ticked.error().ToString();
      std::string now;
      const auto rows =
          database_->Query("SELECT id, state, generation FROM instances ORDER BY seq", {});
      for (const auto& row : *rows) {
        now += row.Text(0) + " " + row.Text(1) + " " + std::to_string(row.Int(2)) + "\n";
      }
      for (const std::string& id : Running()) now += id + "\n";
      if (now == before) return;
      before = std::move(now);
    }
    FAIL() << "after " << kRoundsMax << " rounds it still changes";
  }
  std::set<std::string> Running() const {
    std::set<std::string> running;
    for (const auto& [name, node] : nodes_) {
      for (const std::string& id : node->Running()) running.insert(id);
    }
    return running;
  }
  bool Chance(std::uint64_t percent) { return rng_.Below(100) < percent; }
  const std::string& AnyTenant() { return tenants_[rng_.Below(tenants_.size())]; }
  std::int32_t AnyPriority() { return static_cast<std::int32_t>(rng_.Between(0, 6)) - 3; }

  void Rent() {
    cloud::InstanceSpec spec{.sku = "part-" + std::to_string(rng_.Between(1, 3)), .command = {"x"}};
    spec.spot = Chance(50);
    spec.requeue = spec.spot && Chance(50);
    if (Chance(40)) spec.priority = AnyPriority();
    const std::string& tenant = AnyTenant();
    const std::int32_t most = service_->GetTenant(tenant)->priority_max;
    const auto made = service_->CreateInstance(tenant, spec);
    if (made) {
      EXPECT_LE(made->priority, most);
      EXPECT_TRUE(!made->spot || made->priority < 0);
      instances_.emplace_back(made->id, tenant);
    } else {
      // Not the purse, the priority, the quota or the bound: then it should have been taken.
      const Error& why = made.error();
      EXPECT_TRUE(why.code() == Code::kFailedPrecondition ||
                  why.code() == Code::kPermissionDenied || why.code() == Code::kInvalidArgument ||
                  why.code() == Code::kResourceExhausted)
          << why.ToString();
    }
  }
  void SetRules() {
    placement::QueuePolicy policy;
    policy.fair_share = Chance(50);
    policy.preempt = Chance(80);
    policy.reclaim = static_cast<placement::Reclaim>(rng_.Below(3));
    policy.quotas.push_back({.name = "lab"});
    for (const std::string& tenant : tenants_) {
      if (Chance(20)) continue;
      placement::Quota quota{.name = tenant, .parent = Chance(90) ? "lab" : ""};
      quota.nominal = {rng_.Between(1, 4) * 500, placement::kUnlimited};
      if (!quota.parent.empty() && Chance(30)) quota.borrowing_limit.card_millis = 1000;
      if (!quota.parent.empty() && Chance(30)) quota.lending_limit.card_millis = 500;
      policy.quotas.push_back(quota);
    }
    const Status set = service_->SetQueue(policy, std::nullopt);
    ASSERT_TRUE(set) << set.error().ToString();
    policy_ = policy;
  }
  void Step() {
    const std::uint64_t what = rng_.Below(100);
    if (what < 45) {
      Rent();
    } else if (what < 70 && !instances_.empty()) {
      const auto at =
          instances_.begin() + static_cast<std::ptrdiff_t>(rng_.Below(instances_.size()));
      const auto [id, tenant] = *at;
      if (what < 50) {
        (void)service_->StopInstance(tenant, id).has_value();
      } else if (what < 55) {
        (void)service_->StartInstance(tenant, id).has_value();
      } else if (what < 60) {
        for (const auto& [name, node] : nodes_) node->Exit(id, 0);
      } else {
        EXPECT_TRUE(service_->ReleaseInstance(tenant, id));
        instances_.erase(at);
      }
    } else if (what < 80) {
      SetRules();
    } else if (what < 86) {
      EXPECT_TRUE(service_->SetPriorityMax(AnyTenant(), AnyPriority()));
    } else if (what < 90) {
      Start();
    } else {
      clock_.AdvanceMicros(static_cast<std::int64_t>(rng_.Between(1, 900)) * kSecond);
    }
  }

  void Check() {
    ASSERT_TRUE(world_.doubles().empty());
    ASSERT_EQ(cloud::CheckBooks(*database_), "");
    // Who runs, by the database and by the nodes.
    std::set<std::string> stored;
    std::map<std::string, placement::SliceAmount> held;
    const auto rows = database_->Query(
        "SELECT i.id, i.tenant_id, s.compute_permille, s.memory_bytes FROM instances i JOIN skus s "
        "ON s.name = i.sku AND s.version = i.sku_version WHERE i.state = 'running'",
        {});
    for (const auto& row : *rows) {
      stored.insert(row.Text(0));
      held[row.Text(1)].card_millis += static_cast<std::uint64_t>(row.Int(2));
      held[row.Text(1)].memory_bytes += static_cast<std::uint64_t>(row.Int(3));
    }
    EXPECT_EQ(stored, Running());
    // What is held under each quota, and that the rules are those that were set last.
    const auto rules = service_->GetQueue();
    ASSERT_TRUE(rules);
    ASSERT_EQ(rules->use.size(), policy_.quotas.size());
    for (const auto& use : rules->use) {
      if (use.quota.name == "lab") continue;
      EXPECT_EQ(use.held, held[use.quota.name]) << use.quota.name;
    }
    CheckEvictions();
    // Every bill by plain SQL, and every price against the catalogue.
    std::map<std::string, std::int64_t> by_sql;
    const auto bills = database_->Query(cloud::WitnessSql("bill"), {});
    for (const auto& row : *bills) by_sql[row.Text(0)] += row.Int(4);
    for (const std::string& tenant : tenants_) {
      EXPECT_EQ(*service_->Bill(tenant)->total.ToStored(), by_sql[tenant]);
    }
    const auto wrong = database_->Query(
        "SELECT 1 FROM instances i JOIN skus s ON s.name = i.sku AND s.version = i.sku_version "
        "WHERE i.price_per_hour_micro <> s.price_per_hour_micro * (1000 - 500 * i.spot) / 1000",
        {});
    EXPECT_TRUE(wrong->empty());
  }
  // Only a spot instance goes for an order of higher priority; whoever asked for it waits again.
  void CheckEvictions() {
    const auto events = database_->Query(
        "SELECT e.seq, e.reason, i.spot, i.requeue, e.generation, i.generation, i.reason, "
        "i.wanted FROM instance_events e JOIN instances i ON i.id = e.instance_id "
        "WHERE e.seq > $1 AND e.state IN ('ended', 'failed') AND "
        "(e.reason LIKE '%preempted: %' OR e.reason LIKE '%reclaimed: %') ORDER BY e.seq",
        {seen_});
    for (const auto& row : *events) {
      seen_ = row.Int(0);
      const bool preempted = row.Text(1).find("preempted: ") != std::string::npos;
      ++(preempted ? preempted_ : reclaimed_);
      EXPECT_TRUE(!preempted || row.Int(2) == 1) << row.Text(1);
      EXPECT_TRUE(policy_.preempt) << "the rules allow nobody to be stopped: " << row.Text(1);
      EXPECT_TRUE(preempted || policy_.reclaim != placement::Reclaim::kNever);
      if (row.Int(3) == 1 && row.Text(7) == "run") {
        const bool again = row.Int(5) > row.Int(4);
        requeued_ += again;
        EXPECT_TRUE(again || row.Text(6).find("not requeued: ") != std::string::npos)
            << row.Text(6);
      } else if (row.Int(3) == 0 && row.Text(7) == "run") {
        EXPECT_EQ(row.Int(5), row.Int(4)) << "it did not ask to wait again";
      }
    }
  }

  os::FakeClock clock_;
  scheduler::FakeWorld world_;
  std::map<std::string, std::shared_ptr<scheduler::FakeNode>> nodes_;
  std::unique_ptr<store::Database> database_;
  std::unique_ptr<scheduler::Scheduler> scheduler_;
  std::unique_ptr<SchedulerExecution> execution_;
  std::unique_ptr<cloud::Service> service_;
  Rng rng_;
  std::vector<std::string> tenants_;
  // With their tenants, in the order of rental. Ids are random, and of two that are alike in all
  // else a decision may go by the id: a seed tells the same story only up to that.
  std::vector<std::pair<std::string, std::string>> instances_;
  placement::QueuePolicy policy_;
  std::int64_t seen_ = 0;  // events
  int preempted_ = 0;
  int reclaimed_ = 0;
  int requeued_ = 0;
};

TEST(QueueStory, DatabaseSchedulerAndNodesAgreeAtEveryStep) {
  int preempted = 0;
  int reclaimed = 0;
  int requeued = 0;
  const std::uint64_t seeds = std::getenv("TESSERA_SOAK") != nullptr ? 300 : 8;
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Story story(seed);
    story.Run();
    if (HasFailure()) return;
    preempted += story.preempted();
    reclaimed += story.reclaimed();
    requeued += story.requeued();
  }
  EXPECT_GT(preempted, 0);
  EXPECT_GT(reclaimed, 0);
  EXPECT_GT(requeued, 0);
  RecordProperty("preempted", preempted);
  RecordProperty("reclaimed", reclaimed);
  RecordProperty("requeued", requeued);
}

}  // namespace
}  // namespace tessera::apps
