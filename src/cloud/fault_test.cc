// Money and state under faults: every SQL statement and every call to the scheduling plane fails
// once, alone or as the last thing a process ever did, and the story must end with the same truth:
// books in order, every second paid once, no instance made twice.
#include <gtest/gtest.h>

#include <functional>
#include <optional>

#include "cloud/fake_execution.h"
#include "cloud/service.h"
#include "cloud/witness.h"
#include "commerce/rating.h"

namespace tessera::cloud {
namespace {

using commerce::State;

constexpr std::int64_t kSecond = 1'000'000;
constexpr std::int64_t kMinute = 60 * kSecond;
constexpr Money kPrice{4'000'000};
constexpr Money kSpotPrice{2'000'000};
constexpr int kTriesMax = 5;

enum class Fault { kStatement, kDeath, kCallNotHeard, kAnswerLost };

// What is told: the life of instances that start, wait, end and run dry; or rules of the queue and
// a spot instance that is stopped for another; or a reservation and a gang.
enum class Tale { kLife, kQueue, kKept };

class Story {
 public:
  explicit Story(Tale tale) : tale_(tale) {
    database_ = *store::Database::OpenSqlite(":memory:");
    Restart();
    Sku sku{.name = "third", .memory_bytes = 26 * kGiB};
    sku.compute.value = 333;
    sku.price_per_hour = kPrice;
    EXPECT_TRUE(service_->AddSku(sku));
    tenant_ = service_->CreateTenant("acme")->tenant.id;
  }

  // Runs the story with the n-th occasion failing; false when the story ended before it.
  bool Play(Fault fault, int n) {
    fault_ = fault;
    Arm(n);
    Tell();
    const int seen = fault == Fault::kStatement || fault == Fault::kDeath
                         ? store::StatementsSeenForTest(*database_)
                         : execution_.Calls();
    const bool fired = tripped_ || n < seen;
    Disarm();
    Settle();
    if (tale_ == Tale::kKept) {
      CheckKept();
    } else {
      Check();
    }
    return fired;
  }

 private:
  void Arm(int n) {
    switch (fault_) {
      case Fault::kStatement:
        store::FailStatementForTest(*database_, n);
        break;
      case Fault::kDeath:
        store::FailStatementsFromForTest(*database_, n);
        break;
      case Fault::kCallNotHeard:
        execution_.FailCall(n, false);
        break;
      case Fault::kAnswerLost:
        execution_.FailCall(n, true);
        break;
    }
  }
  void Disarm() {
    store::FailStatementForTest(*database_, -1);
    execution_.FailCall(-1, false);
  }
  void Restart() {
    service_.reset();
    auto service = Service::Open(*database_, execution_, clock_);
    ASSERT_TRUE(service) << service.error().ToString();
    service_ = std::move(*service);
  }

  // What a client does: the same request with the same key until it is answered. A dead process is
  // started again first, as its supervisor would.
  // The id of what was made or changed comes back when there is one.
  std::string Request(const std::string& key, const std::function<Status(const Once*)>& call) {
    const Once once{.scope = tenant_, .route = "test", .key = key, .digest = key};
    for (int i = 0; i < kTriesMax; ++i) {
      const auto remembered = service_->Recall(once);
      if (remembered && *remembered) return (*remembered)->resource;
      if (remembered && call(&once)) {
        const auto made = service_->Recall(once);
        if (!made) continue;
        return *made ? (*made)->resource : "";
      }
      tripped_ = true;
      if (fault_ == Fault::kDeath) {
        Disarm();
        Restart();
      }
    }
    ADD_FAILURE() << key << " was never answered";
    return "";
  }
  void Pass(std::int64_t micros) {
    clock_.AdvanceMicros(micros);
    if (service_->Tick()) return;
    tripped_ = true;
    if (fault_ == Fault::kDeath) {
      Disarm();
      Restart();
    }
    EXPECT_TRUE(service_->Tick()) << "the next round does what one left";
  }
  void Create(const std::string& name, bool spot = false) {
    ids_[name] = Request("create " + name, [&](const Once* once) -> Status {
      auto made = service_->CreateInstance(
          tenant_,
          {.name = name, .sku = "third", .command = {"train"}, .spot = spot, .requeue = spot},
          once);
      return made ? Status() : Status(made.error());
    });
  }

  void Tell() {
    Request("deposit", [&](const Once* once) {
      return service_->Deposit(tenant_, "one", Money{20'000'000}, once);
    });
    switch (tale_) {
      case Tale::kLife:
        return TellLife();
      case Tale::kQueue:
        return TellQueue();
      case Tale::kKept:
        return TellKept();
    }
  }
  void TellQueue() {
    Request("rules", [&](const Once*) {
      placement::QueuePolicy policy;
      policy.quotas = {{.name = tenant_}};
      policy.quotas[0].nominal = {1000, 80 * kGiB};
      return service_->SetQueue(policy, 0);
    });
    Request("limits", [&](const Once*) -> Status {
      auto tenant = service_->SetPriorityMax(tenant_, 7);
      return tenant ? Status() : Status(tenant.error());
    });
    Create("three", true);
    Pass(10 * kMinute);
    execution_.Evict(Id("three"), "preempted: an order of higher priority needs its place");
    Pass(kSecond);  // it waits again, as it asked
    Pass(5 * kMinute);
    Request("release three",
            [&](const Once*) { return Done(service_->ReleaseInstance(tenant_, Id("three"))); });
    Pass(kSecond);
  }
  void TellLife() {
    Create("one");
    Pass(kSecond);
    Create("two");  // waits: there is one place
    Pass(10 * kMinute);
    Pass(49 * kMinute + 30 * kSecond);  // the next hour's hold
    Pass(5 * kMinute);                  // the full hour
    execution_.Exit(Id("one"), 0);
    Pass(kSecond);
    Pass(20 * kMinute);
    Request("stop two",
            [&](const Once*) { return Done(service_->StopInstance(tenant_, Id("two"))); });
    Pass(kSecond);
    Request("start two", [&](const Once* once) -> Status {
      auto started = service_->StartInstance(tenant_, Id("two"), once);
      return started ? Status() : Status(started.error());
    });
    Pass(5 * kMinute);
    Request("release two",
            [&](const Once*) { return Done(service_->ReleaseInstance(tenant_, Id("two"))); });
    Pass(kSecond);
    Request("start one", [&](const Once* once) -> Status {
      auto started = service_->StartInstance(tenant_, Id("one"), once);
      return started ? Status() : Status(started.error());
    });
    for (int i = 0; i < 10; ++i) Pass(30 * kMinute);  // until the purse is empty
    Pass(kSecond);
    Request("release one",
            [&](const Once*) { return Done(service_->ReleaseInstance(tenant_, Id("one"))); });
    Pass(kSecond);
  }

  void TellKept() {
    const std::string reservation = Request("reserve", [&](const Once* once) -> Status {
      const auto made = service_->CreateReservation(tenant_, "third", {.lend = true}, once);
      return made ? Status() : Status(made.error());
    });
    Pass(kSecond);
    const std::string gang = Request("gang", [&](const Once* once) -> Status {
      const auto made = service_->CreateGang(
          tenant_, {.name = "train", .sku = "third", .command = {"train"}}, {.size = 2}, once);
      return made ? Status() : Status(made.error());
    });
    Pass(10 * kMinute);
    EXPECT_EQ(execution_.Reserved(), 1U);
    execution_.ForgetReservations();
    Pass(kSecond);
    EXPECT_EQ(execution_.Reserved(), 1U) << "told again";
    std::vector<Instance> members;
    Request("members", [&](const Once*) -> Status {
      auto all = service_->LoadGang(gang);
      if (!all) return all.error();
      members = *std::move(all);
      return {};
    });
    EXPECT_EQ(members.size(), 2U);
    for (const Instance& member : members) {
      Request("release " + member.name,
              [&](const Once*) { return Done(service_->ReleaseInstance(tenant_, member.id)); });
      Pass(5 * kMinute);
    }
    Request("delete", [&](const Once*) -> Status {
      const Status deleted = service_->DeleteReservation(reservation);
      return !deleted && deleted.error().code() == Code::kNotFound ? Status() : deleted;
    });
    Pass(kSecond);
  }
  void CheckKept() {
    EXPECT_EQ(CheckBooks(*database_), "");
    std::map<std::string, std::int64_t> truth;
    for (const auto& run : execution_.Truth()) {
      EXPECT_GT(run.ended, 0) << "a released instance does not run";
      truth[run.id] += run.ended - run.started;
    }
    EXPECT_EQ(truth.size(), 2U) << "two instances were asked for and ran, together";
    EXPECT_EQ(execution_.Truth().size(), 2U) << "each once";
    Money expected;
    for (const auto& [id, micros] : truth) expected += *commerce::Cumulative(kPrice, micros);
    const auto bill = service_->Bill(tenant_);
    ASSERT_TRUE(bill);
    EXPECT_EQ(bill->total, expected) << "every second once, and the reservation not at all";
    EXPECT_EQ(execution_.Reserved(), 0U);
    EXPECT_EQ(database_->Query("SELECT 1 FROM reservations", {})->size(), 0U);
    EXPECT_EQ(database_->Query("SELECT 1 FROM instances WHERE state <> 'released'", {})->size(),
              0U);
    EXPECT_EQ(execution_.Known(), 0U);
    EXPECT_EQ(FormatMoney(service_->GetPurse(tenant_)->held), "0.00");
  }

  // Stop and release need no key: they are asked for until they are so.
  static Status Done(const Result<Instance>& result) {
    return result ? Status() : Status(result.error());
  }
  std::string Id(const std::string& name) { return ids_[name]; }

  void Settle() {
    for (int i = 0; i < 3; ++i) {
      clock_.AdvanceMicros(kSecond);
      const auto ticked = service_->Tick();
      ASSERT_TRUE(ticked) << ticked.error().ToString();
    }
  }

  void Check() {
    EXPECT_EQ(CheckBooks(*database_), "");
    std::map<std::string, std::int64_t> truth;
    for (const auto& run : execution_.Truth()) {
      EXPECT_GT(run.ended, 0) << "a released instance does not run";
      truth[run.id] += run.ended - run.started;
    }
    EXPECT_EQ(truth.size(), tale_ == Tale::kLife ? 2u : 1u) << "as many ran as were asked for";
    Money expected;
    for (const auto& [id, micros] : truth) {
      expected += *commerce::Cumulative(id == Id("three") ? kSpotPrice : kPrice, micros);
    }
    const auto bill = service_->Bill(tenant_);
    ASSERT_TRUE(bill);
    EXPECT_EQ(bill->total, expected) << "every second once";
    const auto ledger = service_->Ledger();
    ASSERT_TRUE(ledger);
    std::map<std::string, Money> by_kind;
    for (const auto& account : ledger->accounts) by_kind[account.kind] += account.balance;
    EXPECT_EQ(by_kind["revenue"], expected) << "what is billed is earned";
    EXPECT_EQ(by_kind["held"], Money{0});
    EXPECT_EQ(by_kind["bank"], Money{-20'000'000}) << "paid in once";
    const auto states =
        database_->Query("SELECT name, state FROM instances WHERE state <> 'released'", {});
    EXPECT_EQ(states->size(), 0u);
    EXPECT_EQ(execution_.Running(), 0u);
    EXPECT_EQ(execution_.Known(), 0u) << "the plane was told to forget";
    const auto runs = execution_.Truth();
    EXPECT_EQ(runs.size(), tale_ == Tale::kLife ? 4u : 2u) << "each generation ran once";
    if (tale_ == Tale::kLife) return;
    const auto rules = service_->GetQueue();
    ASSERT_TRUE(rules);
    EXPECT_EQ(rules->version, 1) << "set once";
    ASSERT_EQ(execution_.Policy().quotas.size(), 1u) << "the plane works by what is stored";
    EXPECT_EQ(execution_.Policy().quotas[0].nominal, rules->policy.quotas[0].nominal);
    EXPECT_EQ(service_->GetTenant(tenant_)->priority_max, 7);
  }

  os::FakeClock clock_;
  const Tale tale_;
  FakeExecution execution_{clock_, tale_ == Tale::kKept ? 2U : 1U};
  std::unique_ptr<store::Database> database_;
  std::unique_ptr<Service> service_;
  std::string tenant_;
  std::map<std::string, std::string> ids_;
  Fault fault_ = Fault::kStatement;
  bool tripped_ = false;
};

void PlayAll(Tale tale, Fault fault, int at_least) {
  int n = 0;
  for (;; ++n) {
    SCOPED_TRACE("occasion " + std::to_string(n));
    Story story(tale);
    if (!story.Play(fault, n)) break;
    if (::testing::Test::HasFailure()) return;
  }
  EXPECT_GE(n, at_least) << "the story must have enough occasions to fail";
}

TEST(Faults, EveryStatementFailsOnce) { PlayAll(Tale::kLife, Fault::kStatement, 300); }
TEST(Faults, TheProcessDiesAtEveryStatement) { PlayAll(Tale::kLife, Fault::kDeath, 300); }
TEST(Faults, EveryCallToThePlaneIsNotHeardOnce) {
  PlayAll(Tale::kLife, Fault::kCallNotHeard, 30);
  PlayAll(Tale::kQueue, Fault::kCallNotHeard, 10);
}
TEST(Faults, EveryAnswerOfThePlaneIsLostOnce) {
  PlayAll(Tale::kLife, Fault::kAnswerLost, 30);
  PlayAll(Tale::kQueue, Fault::kAnswerLost, 10);
}
TEST(Faults, EveryStatementAboutTheQueueFailsOnce) {
  PlayAll(Tale::kQueue, Fault::kStatement, 100);
}
TEST(Faults, TheProcessDiesAtEveryStatementAboutTheQueue) {
  PlayAll(Tale::kQueue, Fault::kDeath, 100);
}

TEST(KeptFaults, EveryStatementFailsOnce) { PlayAll(Tale::kKept, Fault::kStatement, 100); }
TEST(KeptFaults, TheProcessDiesAtEveryStatement) { PlayAll(Tale::kKept, Fault::kDeath, 100); }
TEST(KeptFaults, EveryCallToThePlaneIsNotHeardOnce) {
  PlayAll(Tale::kKept, Fault::kCallNotHeard, 20);
}
TEST(KeptFaults, EveryAnswerOfThePlaneIsLostOnce) { PlayAll(Tale::kKept, Fault::kAnswerLost, 20); }

}  // namespace
}  // namespace tessera::cloud
