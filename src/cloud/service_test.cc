#include "cloud/service.h"

#include <gtest/gtest.h>

#include "cloud/fake_execution.h"
#include "cloud/schema.h"
#include "cloud/views.h"
#include "cloud/witness.h"
#include "commerce/rating.h"

namespace tessera::cloud {
namespace {

using commerce::State;

constexpr std::int64_t kSecond = 1'000'000;
constexpr std::int64_t kMinute = 60 * kSecond;

class ServiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    database_ = *store::Database::OpenSqlite(":memory:");
    Restart();
    Sku sku{.name = "a100.third", .model = "NVIDIA A100-SXM4-80GB", .memory_bytes = 26 * kGiB};
    sku.compute.value = 333;
    sku.price_per_hour = Money{4'000'000};
    ASSERT_TRUE(service_->AddSku(sku));
    tenant_ = service_->CreateTenant("acme")->tenant.id;
    ASSERT_TRUE(service_->Deposit(tenant_, "first", Money{20'000'000}));
  }
  void TearDown() override { EXPECT_EQ(CheckBooks(*database_), ""); }

  void Restart(ServiceOptions options = {}) {
    auto service = Service::Open(*database_, execution_, clock_, options);
    ASSERT_TRUE(service) << service.error().ToString();
    service_ = std::move(*service);
  }
  Instance Create(const std::string& name) {
    auto made = service_->CreateInstance(
        tenant_, {.name = name, .sku = "a100.third", .command = {"/bin/train"}});
    EXPECT_TRUE(made) << made.error().ToString();
    return *made;
  }
  Result<Instance> Rent(InstanceSpec spec) {
    spec.sku = "a100.third";
    spec.command = {"/bin/train"};
    return service_->CreateInstance(tenant_, spec);
  }
  void Pass(std::int64_t micros) {
    clock_.AdvanceMicros(micros);
    const auto ticked = service_->Tick();
    EXPECT_TRUE(ticked) << ticked.error().ToString();
  }
  Instance Get(const std::string& id) { return *service_->GetInstance(tenant_, id); }
  std::string Cash() { return FormatMoney(service_->GetPurse(tenant_)->cash); }
  std::string Held() { return FormatMoney(service_->GetPurse(tenant_)->held); }
  std::string Owed() { return FormatMoney(service_->GetPurse(tenant_)->owed); }
  std::string Total() { return FormatMoney(service_->Bill(tenant_)->total); }

  os::FakeClock clock_;
  FakeExecution execution_{clock_, 1};
  std::unique_ptr<store::Database> database_;
  std::unique_ptr<Service> service_;
  std::string tenant_;
};

TEST_F(ServiceTest, HalfAnHourCostsHalfAnHour) {
  const Instance made = Create("train");
  EXPECT_EQ(made.state, State::kRunning);
  EXPECT_EQ(made.node, "node-a");
  EXPECT_EQ(made.cards, std::vector<std::string>{"GPU-0"});
  EXPECT_EQ(execution_.LastOrder().request.memory_bytes, 26 * kGiB);
  EXPECT_EQ(execution_.LastOrder().request.compute.value, 333u);
  EXPECT_EQ(execution_.LastWorkload().argv, std::vector<std::string>{"/bin/train"});
  EXPECT_EQ(Cash(), "16.00");
  EXPECT_EQ(Held(), "4.00");
  Pass(30 * kMinute);
  EXPECT_EQ(Total(), "2.00") << "the open run is billed to its heartbeat";
  execution_.Exit(made.id, 3);
  Pass(kMinute);
  const Instance ended = Get(made.id);
  EXPECT_EQ(ended.state, State::kEnded);
  EXPECT_EQ(ended.exit_code, 3);
  EXPECT_EQ(Cash(), "18.00");
  EXPECT_EQ(Held(), "0.00");
  EXPECT_EQ(Total(), "2.00") << "to the kernel's exit time, not to when we heard of it";
}

TEST_F(ServiceTest, TheNextHourIsHeldAheadAndFullHoursAreCaptured) {
  const Instance made = Create("train");
  Pass(59 * kMinute - 1);
  EXPECT_EQ(Held(), "4.00");
  Pass(1);
  EXPECT_EQ(Held(), "8.00");
  EXPECT_EQ(Cash(), "12.00");
  Pass(kMinute);
  EXPECT_EQ(Held(), "4.00") << "the first hour is captured";
  EXPECT_EQ(service_->StopInstance(tenant_, made.id)->state, State::kStopped);
  EXPECT_EQ(Held(), "0.00");
  EXPECT_EQ(Cash(), "16.00");
  EXPECT_EQ(Total(), "4.00");
}

TEST_F(ServiceTest, AnEmptyPurseStopsTheRunBeforeAnHourIsFree) {
  const Instance made = Create("train");
  for (int i = 0; i < 6 * 60; ++i) Pass(kMinute);
  const Instance stopped = Get(made.id);
  EXPECT_EQ(stopped.state, State::kStopped);
  EXPECT_NE(stopped.reason.find("out of funds"), std::string::npos) << stopped.reason;
  EXPECT_EQ(execution_.Running(), 0u);
  // Five hours were paid for; the run ended one margin before the end of the fifth.
  EXPECT_EQ(*stopped.run_ended_micros - *stopped.run_started_micros, 299 * kMinute);
  EXPECT_EQ(Total(), FormatMoney(*commerce::Cumulative(Money{4'000'000}, 299 * kMinute)));
  EXPECT_EQ(Owed(), "0.00");
  const auto again = service_->StartInstance(tenant_, made.id);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code(), Code::kFailedPrecondition);
  EXPECT_EQ(again.error().field(), kPurseField);
  EXPECT_EQ(Get(made.id).generation, 1u) << "a refused start leaves nothing";
}

TEST_F(ServiceTest, HoursTheCloudSleptThroughAreChargedAndOwedAndRepaidFirst) {
  const Instance made = Create("train");
  Restart();
  Pass(7 * 60 * kMinute);
  EXPECT_EQ(Get(made.id).state, State::kStopped);
  EXPECT_EQ(Total(), "28.00");
  EXPECT_EQ(Cash(), "0.00");
  EXPECT_EQ(Owed(), "8.00");
  ASSERT_TRUE(service_->Deposit(tenant_, "second", Money{10'000'000}));
  EXPECT_EQ(Owed(), "0.00");
  EXPECT_EQ(Cash(), "2.00");
  EXPECT_FALSE(service_->StartInstance(tenant_, made.id));
  ASSERT_TRUE(service_->Deposit(tenant_, "second", Money{10'000'000})) << "the same payment again";
  EXPECT_EQ(Cash(), "2.00");
  EXPECT_EQ(service_->Deposit(tenant_, "second", Money{11'000'000}).error().code(),
            Code::kAlreadyExists);
}

TEST_F(ServiceTest, AQueuedInstanceCostsNothingAndRunsWhenItsTurnComes) {
  const Instance first = Create("one");
  const Instance second = Create("two");
  EXPECT_EQ(second.state, State::kQueued);
  EXPECT_NE(second.waiting_for.find("memory"), std::string::npos);
  EXPECT_EQ(Held(), "8.00");
  Pass(30 * kMinute);
  EXPECT_EQ(Total(), "2.00");
  EXPECT_EQ(service_->ReleaseInstance(tenant_, first.id)->state, State::kReleased);
  Pass(kSecond);
  EXPECT_EQ(Get(second.id).state, State::kRunning);
  EXPECT_EQ(execution_.Known(), 1u) << "what is released is forgotten by the plane";
  const Instance third = Create("three");
  EXPECT_EQ(third.state, State::kQueued);
  EXPECT_EQ(*service_->Log(tenant_, third.id, 0), "") << "what has not begun has written nothing";
  EXPECT_EQ(service_->StopInstance(tenant_, third.id)->state, State::kStopped);
  EXPECT_EQ(service_->Bill(tenant_)->lines.size(), 2u) << "what never ran is no line";
}

TEST_F(ServiceTest, StartAgainIsANewGenerationAndTheBillTelescopes) {
  const Instance made = Create("train");
  std::int64_t running = 0;
  for (int i = 0; i < 5; ++i) {
    Pass(7 * kMinute + 1);
    running += 7 * kMinute + 1;
    ASSERT_EQ(service_->StopInstance(tenant_, made.id)->state, State::kStopped);
    Pass(kMinute);
    const auto started = service_->StartInstance(tenant_, made.id);
    ASSERT_TRUE(started) << started.error().ToString();
    EXPECT_EQ(started->generation, static_cast<std::uint64_t>(i + 2));
  }
  ASSERT_TRUE(service_->ReleaseInstance(tenant_, made.id));
  EXPECT_EQ(Total(), FormatMoney(*commerce::Cumulative(Money{4'000'000}, running)));
  EXPECT_FALSE(service_->StartInstance(tenant_, made.id));
  EXPECT_EQ(Get(made.id).state, State::kReleased);
  EXPECT_EQ(LegalActions(Get(made.id)).size(), 0u);
}

TEST_F(ServiceTest, WhatCanNeverFitIsRefusedAndLeavesNothing) {
  execution_.SetRefusal(
      Error(Code::kFailedPrecondition, "memory: asked 26 GiB a card, the largest has 16 GiB"));
  const auto refused =
      service_->CreateInstance(tenant_, {.name = "big", .sku = "a100.third", .command = {"x"}});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kFailedPrecondition);
  EXPECT_NE(refused.error().message().find("the largest has 16 GiB"), std::string::npos);
  EXPECT_EQ(service_->ListInstances(tenant_, std::nullopt, 10, 0)->instances.size(), 0u);
  EXPECT_EQ(Cash(), "20.00");
  execution_.SetRefusal(
      Error(Code::kResourceExhausted, "the queue holds at most kQueueMax (1000)"));
  EXPECT_EQ(
      service_->CreateInstance(tenant_, {.name = "big", .sku = "a100.third", .command = {"x"}})
          .error()
          .code(),
      Code::kResourceExhausted);
  execution_.SetRefusal(std::nullopt);
  EXPECT_EQ(Create("big").state, State::kRunning) << "the name is free again";
}

TEST_F(ServiceTest, APlaneThatIsAwayOnlyDelays) {
  execution_.SetOutage(Error(Code::kUnavailable, "the scheduler does not answer"));
  const Instance made = Create("train");
  EXPECT_EQ(made.state, State::kQueued);
  EXPECT_EQ(made.waiting_for, "the scheduler does not answer");
  EXPECT_FALSE(service_->Tick());
  execution_.SetOutage(std::nullopt);
  Pass(kSecond);
  EXPECT_EQ(Get(made.id).state, State::kRunning);
  execution_.SetOutage(Error(Code::kUnavailable, "the scheduler does not answer"));
  EXPECT_EQ(service_->StopInstance(tenant_, made.id)->state, State::kStopping);
  EXPECT_EQ(Get(made.id).wanted, "stop");
  execution_.SetOutage(std::nullopt);
  Pass(kMinute);
  EXPECT_EQ(Get(made.id).state, State::kStopped);
  EXPECT_EQ(*Get(made.id).run_ended_micros - *Get(made.id).run_started_micros, kMinute)
      << "stopping time is running time: the program held the card";
}

TEST_F(ServiceTest, ALostRunIsBilledToItsLastHeartbeat) {
  const Instance made = Create("train");
  Pass(10 * kMinute);
  execution_.Lose(made.id);
  Pass(59 * kSecond);
  EXPECT_EQ(Get(made.id).state, State::kRunning) << "not given up before the bound";
  Pass(61 * kSecond);
  const Instance lost = Get(made.id);
  EXPECT_EQ(lost.state, State::kFailed);
  EXPECT_NE(lost.reason.find("lost"), std::string::npos);
  EXPECT_EQ(*lost.run_ended_micros - *lost.run_started_micros, 10 * kMinute);
  EXPECT_EQ(Total(), FormatMoney(*commerce::Cumulative(Money{4'000'000}, 10 * kMinute)));
  EXPECT_EQ(Held(), "0.00");
}

TEST_F(ServiceTest, HeartbeatsAreNeverOlderThanTheRuleSays) {
  const Instance made = Create("train");
  for (int i = 0; i < 100; ++i) {
    Pass(kSecond);
    EXPECT_LE(clock_.WallMicros() - *Get(made.id).seen_micros, 5 * kSecond);
  }
}

TEST_F(ServiceTest, ARestartAdoptsWhatRuns) {
  const Instance made = Create("train");
  Pass(5 * kMinute);
  Restart();
  EXPECT_EQ(service_->TakeNewAdminKey(), "") << "the admin key is made once";
  Pass(5 * kMinute);
  EXPECT_EQ(Get(made.id).state, State::kRunning);
  EXPECT_EQ(execution_.Truth().size(), 1u) << "the program was not started again";
  EXPECT_EQ(Get(made.id).generation, 1u);
}

TEST_F(ServiceTest, APlaneThatStartedAnewIsToldWhoseItIs) {
  const Instance made = Create("train");
  EXPECT_EQ(execution_.LastOrder().request.tenant, tenant_);
  execution_.Adopt();
  EXPECT_EQ(execution_.Adopted(), 1u);
  Pass(kSecond);
  EXPECT_EQ(execution_.Adopted(), 0u);
  EXPECT_EQ(Get(made.id).state, State::kRunning);
  EXPECT_EQ(execution_.Truth().size(), 1u);
}

TEST_F(ServiceTest, WhoeverIsStoppedForAnotherIsToldWhyAndPaysWhatHeUsed) {
  const Instance made = Create("spot");
  clock_.AdvanceMicros(30 * kMinute);
  execution_.Evict(made.id, "preempted: an order of higher priority needs its place");
  Pass(kSecond);
  const Instance ended = Get(made.id);
  EXPECT_EQ(ended.state, State::kEnded);
  EXPECT_EQ(ended.reason, "preempted: an order of higher priority needs its place");
  EXPECT_EQ(service_->Events(tenant_, made.id)->back().reason, ended.reason);
  EXPECT_EQ(Total(), "2.00");
}

TEST_F(ServiceTest, ASpotInstancePaysTheSpotPriceOfItsRental) {
  EXPECT_EQ(FormatMoney((*service_->Skus())[0].spot_price_per_hour), "2.00");
  const auto made = Rent({.name = "spot", .spot = true});
  ASSERT_TRUE(made) << made.error().ToString();
  EXPECT_EQ(made->priority, kSpotPriorityMax);
  EXPECT_EQ(FormatMoney(made->sku.price_per_hour), "2.00");
  EXPECT_EQ(made->discount_permille, 500u);
  EXPECT_TRUE(execution_.LastOrder().preemptible);
  EXPECT_EQ(execution_.LastOrder().request.priority, kSpotPriorityMax);
  EXPECT_EQ(Held(), "2.00");
  Pass(30 * kMinute);
  ASSERT_TRUE(service_->StopInstance(tenant_, made->id));
  EXPECT_EQ(Total(), "1.00");
  EXPECT_TRUE(service_->Bill(tenant_)->lines[0].contract.spot);
  // What a spot instance pays less is changed: this one keeps its price, the next has the new one.
  Restart({.spot_discount_permille = 250});
  ASSERT_TRUE(service_->StartInstance(tenant_, made->id));
  Pass(30 * kMinute);
  EXPECT_EQ(Total(), "2.00");
  ASSERT_TRUE(service_->ReleaseInstance(tenant_, made->id));
  EXPECT_EQ(FormatMoney(Rent({.name = "next", .spot = true})->sku.price_per_hour), "3.00");
  // Whoever has the file can check every price against the catalogue.
  const auto wrong = database_->Query(
      "SELECT 1 FROM instances i JOIN skus s ON s.name = i.sku AND s.version = i.sku_version "
      "WHERE i.price_per_hour_micro <> s.price_per_hour_micro * (1000 - i.discount_permille) / "
      "1000",
      {});
  EXPECT_TRUE(wrong->empty());
  EXPECT_FALSE(Service::Open(*database_, execution_, clock_, {.spot_discount_permille = 1001}));
}

TEST_F(ServiceTest, ASpotInstanceStoppedForAnotherWaitsAgainIfItAskedFor) {
  const Instance made = *Rent({.name = "spot", .spot = true, .requeue = true});
  Pass(30 * kMinute);
  const std::string why = "preempted: an order of higher priority needs its place";
  execution_.Evict(made.id, why);
  ASSERT_TRUE(service_->Record());
  EXPECT_EQ(Get(made.id).state, State::kQueued);
  EXPECT_EQ(Get(made.id).generation, 2u);
  EXPECT_EQ(service_->Explain(tenant_, made.id).error().code(), Code::kUnavailable)
      << "the plane knows the run that is over";
  EXPECT_EQ(Total(), "1.00");
  Pass(kSecond);
  EXPECT_EQ(Get(made.id).state, State::kRunning);
  Pass(30 * kMinute);
  const auto events = *service_->Events(tenant_, made.id);
  std::vector<std::string> life;
  for (const auto& event : events) {
    life.push_back(std::to_string(event.generation) + " " + event.state + " " + event.reason);
  }
  EXPECT_EQ(life, (std::vector<std::string>{"1 queued ", "1 running ", "1 ended " + why,
                                            "2 queued requeued: " + why, "2 running "}));
  EXPECT_EQ(Total(), "2.00");
  // One that ends by itself, or that its owner stops, is over.
  execution_.Exit(made.id, 0);
  Pass(kSecond);
  EXPECT_EQ(Get(made.id).state, State::kEnded);
  EXPECT_EQ(Get(made.id).generation, 2u);
}

TEST_F(ServiceTest, NobodyIsRequeuedWhoCannotPayOrMayNotAskSoHigh) {
  const Instance poor = *Rent({.name = "poor", .spot = true, .requeue = true});
  for (int i = 0; i < 17; ++i) Pass(30 * kMinute);  // 17 of the 20 are used up, 2 are held
  execution_.Evict(poor.id, "preempted");
  Pass(kSecond);
  EXPECT_EQ(Get(poor.id).state, State::kRunning) << "3.00 are left";
  Pass(kSecond);
  Pass(30 * kMinute - kSecond);
  execution_.Evict(poor.id, "preempted");
  Pass(kSecond);
  Pass(15 * kMinute);
  execution_.Evict(poor.id, "preempted");
  Pass(kSecond);
  EXPECT_EQ(Get(poor.id).state, State::kEnded);
  EXPECT_EQ(Get(poor.id).generation, 3u);
  EXPECT_EQ(Get(poor.id).reason.find("preempted; not requeued: one hour costs 2.00 CNY ahead"), 0u)
      << Get(poor.id).reason;
  ASSERT_TRUE(service_->Deposit(tenant_, "more", Money{20'000'000}));
  const Instance high = *Rent({.name = "high", .spot = true, .requeue = true});
  ASSERT_TRUE(service_->SetPriorityMax(tenant_, -2));
  execution_.Evict(high.id, "preempted");
  Pass(kSecond);
  EXPECT_EQ(Get(high.id).state, State::kEnded);
  EXPECT_EQ(Get(high.id).reason,
            "preempted; not requeued: expected at most your priority_max (-2), got -1");
}

TEST_F(ServiceTest, APriorityIsBoundedByWhatTheTenantMayAskFor) {
  const auto rank = [&](InstanceSpec spec) { return Rent(std::move(spec)); };
  EXPECT_EQ(rank({.name = "plain"})->priority, 0);
  EXPECT_EQ(rank({.name = "low", .priority = -7})->priority, -7);
  const auto high = rank({.name = "high", .priority = 1});
  EXPECT_EQ(high.error().code(), Code::kPermissionDenied);
  EXPECT_EQ(high.error().field(), "priority");
  EXPECT_EQ(rank({.name = "x", .priority = 0, .spot = true}).error().code(),
            Code::kInvalidArgument);
  EXPECT_EQ(rank({.name = "x", .requeue = true}).error().field(), "requeue");
  ASSERT_TRUE(service_->Deposit(tenant_, "more", Money{100'000'000}));
  ASSERT_TRUE(service_->SetPriorityMax(tenant_, 500));
  EXPECT_EQ(service_->GetTenant(tenant_)->priority_max, 500);
  const Instance now = *rank({.name = "now", .priority = 500});
  EXPECT_EQ(execution_.LastOrder().request.priority, 500);
  EXPECT_EQ(rank({.name = "above", .priority = 501}).error().code(), Code::kPermissionDenied);
  EXPECT_EQ(rank({.name = "as-before"})->priority, 0);
  // Lowered: what was rented keeps its rank, but does not begin again with it.
  ASSERT_TRUE(service_->SetPriorityMax(tenant_, -10));
  EXPECT_EQ(Get(now.id).priority, 500);
  ASSERT_TRUE(service_->StopInstance(tenant_, now.id));
  EXPECT_EQ(service_->StartInstance(tenant_, now.id).error().code(), Code::kPermissionDenied);
  EXPECT_EQ(Get(now.id).state, State::kStopped);
  EXPECT_EQ(rank({.name = "lowest"})->priority, -10);
  EXPECT_EQ(rank({.name = "spot", .spot = true})->priority, -10);
  EXPECT_EQ(service_->SetPriorityMax("t-none", 0).error().code(), Code::kNotFound);
  EXPECT_EQ(service_->SetPriorityMax(tenant_, kPriorityMax + 1).error().field(), "priority_max");
}

TEST_F(ServiceTest, TheRulesOfTheQueueAreSetWholeAndOutliveARestart) {
  EXPECT_EQ(service_->GetQueue()->version, 0);
  placement::QueuePolicy policy;
  policy.fair_share = true;
  policy.reclaim = placement::Reclaim::kAny;
  policy.quotas = {{.name = "all"}, {.name = tenant_, .parent = "all", .nominal = {1000, kGiB}}};
  ASSERT_TRUE(service_->SetQueue(policy, 0));
  EXPECT_EQ(execution_.Policy().quotas.size(), 2u) << "at once";
  // Refused as a whole, the field named.
  const auto wrong = [&](std::size_t at, const std::string& field, auto change) {
    placement::QueuePolicy bad = policy;
    change(bad.quotas[at]);
    const Status set = service_->SetQueue(bad, std::nullopt);
    ASSERT_FALSE(set);
    EXPECT_EQ(set.error().field(), "quotas[" + std::to_string(at) + "]." + field);
  };
  wrong(1, "name", [](auto& quota) { quota.name = "t-nobody"; });
  wrong(0, "name", [](auto& quota) { quota.name = "All"; });
  wrong(1, "parent", [](auto& quota) { quota.parent = "none"; });
  wrong(1, "parent", [](auto& quota) { quota.parent = quota.name; });
  wrong(1, "weight", [](auto& quota) { quota.weight = 0; });
  EXPECT_TRUE(service_->SetQueue(policy, 0)) << "the very same again";
  EXPECT_EQ(service_->SetQueue({}, 0).error().code(), Code::kAborted) << "it is at 1 now";
  EXPECT_EQ(service_->GetQueue()->version, 1);
  EXPECT_EQ(execution_.Policy().quotas.size(), 2u);
  // A plane that is away hears of it later; one that starts anew is told what holds.
  execution_.SetOutage(Error(Code::kUnavailable, "away"));
  policy.quotas.pop_back();
  ASSERT_TRUE(service_->SetQueue(policy, 1));
  EXPECT_EQ(execution_.Policy().quotas.size(), 2u);
  execution_.SetOutage(std::nullopt);
  Pass(kSecond);
  EXPECT_EQ(execution_.Policy().quotas.size(), 1u);
  ASSERT_TRUE(execution_.SetQueuePolicy({}));
  Restart();
  Pass(kSecond);
  EXPECT_EQ(execution_.Policy().quotas.size(), 1u);
  EXPECT_TRUE(execution_.Policy().fair_share);
  EXPECT_EQ(execution_.Policy().reclaim, placement::Reclaim::kAny);
  EXPECT_EQ(service_->GetQueue()->version, 2);
}

TEST_F(ServiceTest, AFileWithRulesIsTheOnlyPlaceToChangeThem) {
  placement::QueuePolicy stored;
  stored.quotas = {{.name = "stored"}};
  ASSERT_TRUE(service_->SetQueue(stored, std::nullopt));
  placement::QueuePolicy file;
  file.quotas = {{.name = "one"}, {.name = "two"}};
  ASSERT_TRUE(service_->UseQueueFile(file, "/etc/up.yaml"));
  EXPECT_EQ(execution_.Policy().quotas.size(), 2u);
  EXPECT_EQ(service_->GetQueue()->file, "/etc/up.yaml");
  const Status set = service_->SetQueue(stored, std::nullopt);
  EXPECT_EQ(set.error().code(), Code::kFailedPrecondition);
  EXPECT_EQ(set.error().message(),
            "the rules are those of /etc/up.yaml: change them there and send SIGHUP");
  file.quotas[0].name = "t-nobody";
  EXPECT_EQ(service_->UseQueueFile(file, "/etc/up.yaml").error().field(), "quotas[0].name");
  EXPECT_EQ(execution_.Policy().quotas[0].name, "one") << "what held goes on";
  ASSERT_TRUE(service_->UseQueueFile(std::nullopt, ""));
  EXPECT_EQ(execution_.Policy().quotas[0].name, "stored");
}

// A database as the first version of the tables left it, with a run under way.
TEST(Migrations, ADatabaseOfTheFirstVersionGoesOn) {
  os::FakeClock clock;
  FakeExecution execution(clock, 1);
  auto database = *store::Database::OpenSqlite(":memory:");
  ASSERT_TRUE(database->Migrate({Migrations().front()}));
  const std::int64_t start = clock.WallMicros();
  {
    auto transaction = *database->Begin();
    for (const std::string sql : {
             "INSERT INTO tenants (id, name, key_hash, created_micros) VALUES ('t-1', 'acme', 'h', "
             "0)",
             "INSERT INTO skus VALUES ('third', 1, '', 1, 1073741824, 333, 0, 0, 4000000, 0)",
             "INSERT INTO accounts (id, tenant_id, kind) VALUES ('t-1/cash', 't-1', 'cash'), "
             "('t-1/held', 't-1', 'held'), ('t-1/owed', 't-1', 'owed')",
             "INSERT INTO instances (id, tenant_id, name, sku, sku_version, price_per_hour_micro, "
             "command, environment, state, wanted, reason, waiting_for, node, cards, generation, "
             "created_micros, earlier_micros, hours_settled) VALUES ('i-1', 't-1', 'train', "
             "'third', "
             "1, 4000000, '[\"x\"]', '{}', 'queued', 'run', '', '', '', '[]', 1, 0, 0, 0)",
         }) {
      ASSERT_TRUE(transaction->Execute(sql, {})) << sql;
    }
    ASSERT_TRUE(transaction->Commit());
  }
  auto service = *Service::Open(*database, execution, clock);
  const Instance old = *service->GetInstance("t-1", "i-1");
  EXPECT_EQ(old.priority, 0);
  EXPECT_FALSE(old.spot);
  EXPECT_FALSE(old.requeue);
  EXPECT_EQ(old.sku.price_per_hour, Money{4'000'000});
  EXPECT_EQ(service->GetTenant("t-1")->priority_max, 0);
  EXPECT_TRUE(service->GetQueue()->policy.quotas.empty());
  ASSERT_TRUE(service->Deposit("t-1", "first", Money{20'000'000}));
  ASSERT_TRUE(service->Tick());
  EXPECT_EQ(service->GetInstance("t-1", "i-1")->state, State::kRunning);
  EXPECT_EQ(service->GetInstance("t-1", "i-1")->run_started_micros, start);
  EXPECT_FALSE(execution.LastOrder().preemptible);
  // Opening it once more finds nothing to do.
  service.reset();
  ASSERT_TRUE(Service::Open(*database, execution, clock));
}

TEST_F(ServiceTest, AQueueLostByThePlaneIsFilledAgainInOrder) {
  ASSERT_TRUE(service_->Deposit(tenant_, "more", Money{100'000'000}));
  std::vector<std::string> ids;
  for (int i = 0; i < 8; ++i) ids.push_back(Create("n" + std::to_string(i)).id);
  execution_.ForgetQueue();
  Restart();
  for (std::size_t i = 0; i < ids.size(); ++i) {
    Pass(kSecond);
    EXPECT_EQ(Get(ids[i]).state, State::kRunning) << i;
    execution_.Exit(ids[i], 0);
  }
}

TEST_F(ServiceTest, KeysOpenWhatTheyShouldAndNothingElse) {
  auto database = *store::Database::OpenSqlite(":memory:");
  auto service = *Service::Open(*database, execution_, clock_);
  const std::string admin = service->TakeNewAdminKey();
  ASSERT_NE(admin, "");
  EXPECT_EQ(service->TakeNewAdminKey(), "");
  EXPECT_TRUE(service->Authenticate(admin)->admin);
  const auto made = *service->CreateTenant("a");
  EXPECT_FALSE(service->Authenticate(made.api_key)->admin);
  EXPECT_EQ(service->Authenticate(made.api_key)->tenant_id, made.tenant.id);
  for (const auto& key : std::vector<std::string>{"", "x", made.tenant.id, made.api_key + "x"}) {
    EXPECT_EQ(service->Authenticate(key).error().code(), Code::kUnauthenticated) << key;
  }
  const std::string fresh = *service->ResetTenantKey(made.tenant.id);
  EXPECT_FALSE(service->Authenticate(made.api_key));
  EXPECT_EQ(service->Authenticate(fresh)->tenant_id, made.tenant.id);
  const std::string fresh_admin = *service->ResetAdminKey();
  EXPECT_FALSE(service->Authenticate(admin));
  EXPECT_TRUE(service->Authenticate(fresh_admin)->admin);
  // No key is in any table.
  const auto tables = database->Query("SELECT name FROM sqlite_master WHERE type = 'table'", {});
  for (const auto& table : *tables) {
    const auto columns =
        database->Query("SELECT name FROM pragma_table_info('" + table.Text(0) + "')", {});
    for (const auto& column : *columns) {
      const auto hits = database->Query(
          "SELECT count(*) FROM " + table.Text(0) + " WHERE instr(" + column.Text(0) + ", $1) > 0",
          {fresh});
      ASSERT_TRUE(hits);
      EXPECT_EQ((*hits)[0].Int(0), 0) << table.Text(0) << "." << column.Text(0);
    }
  }
}

TEST_F(ServiceTest, AnInstanceKeepsThePriceItWasRentedAt) {
  const Instance made = Create("train");
  Sku dearer = made.sku;
  dearer.price_per_hour = Money{8'000'000};
  EXPECT_EQ(service_->AddSku(dearer)->version, 2);
  EXPECT_EQ(service_->AddSku(dearer)->version, 2) << "the same offer again is the same version";
  Pass(30 * kMinute);
  EXPECT_EQ(Total(), "2.00");
  ASSERT_TRUE(service_->StopInstance(tenant_, made.id));
  ASSERT_TRUE(service_->StartInstance(tenant_, made.id));
  EXPECT_EQ(Get(made.id).sku.version, 1);
  EXPECT_EQ(service_->Skus()->size(), 1u);
  EXPECT_EQ((*service_->Skus())[0].version, 2);
}

TEST_F(ServiceTest, FactsOfThePastCannotBeChanged) {
  Create("train");
  ASSERT_TRUE(service_->SetQueue({}, std::nullopt));
  for (const std::string sql : {
           "UPDATE entries SET amount_micro = amount_micro + 1",
           "DELETE FROM entries",
           "UPDATE transfers SET kind = 'void'",
           "DELETE FROM transfers",
           "UPDATE instance_events SET wall_micros = 0",
           "DELETE FROM instance_events",
           "UPDATE skus SET price_per_hour_micro = 0",
           "DELETE FROM audit",
           "UPDATE instances SET price_per_hour_micro = 0",
           "UPDATE instances SET spot = 1, discount_permille = 1000",
           "UPDATE instances SET priority = 1",
           "UPDATE queue_policies SET policy = '{}'",
           "DELETE FROM queue_policies",
           "UPDATE accounts SET balance_micro = -1 WHERE kind = 'cash'",
           "UPDATE holds SET captured_micro = amount_micro + 1",
       }) {
    auto transaction = *database_->Begin();
    EXPECT_FALSE(transaction->Execute(sql, {})) << sql;
  }
}

TEST_F(ServiceTest, ADroppedLedgerLineIsSeenByTheSqlWitness) {
  Create("train");
  {
    auto transaction = *database_->Begin();
    ASSERT_TRUE(transaction->Execute("DROP TRIGGER entries_no_delete", {}));
    ASSERT_EQ(*transaction->Execute(
                  "DELETE FROM entries WHERE rowid = (SELECT max(rowid) FROM entries)", {}),
              1);
    ASSERT_TRUE(transaction->Commit());
  }
  EXPECT_NE(CheckBooks(*database_), "");
  EXPECT_NE(service_->Ledger()->sum, Money{0});
  // The fixture checks the books at the end, so they are replaced by new ones.
  service_.reset();
  database_ = *store::Database::OpenSqlite(":memory:");
  Restart();
}

TEST_F(ServiceTest, TheSqlWitnessAgreesWithTheBill) {
  const Instance first = Create("one");
  Pass(13 * kMinute + 7);
  ASSERT_TRUE(service_->StopInstance(tenant_, first.id));
  ASSERT_TRUE(service_->StartInstance(tenant_, first.id));
  Create("two");
  Pass(71 * kMinute + 11);
  ASSERT_TRUE(service_->ReleaseInstance(tenant_, first.id));
  Pass(3 * kMinute);
  const auto rows = database_->Query(WitnessSql("bill"), {});
  ASSERT_TRUE(rows) << rows.error().ToString();
  std::map<std::string, std::int64_t> witness;
  for (const auto& row : *rows) witness[row.Text(1)] = row.Int(4);
  std::map<std::string, std::int64_t> billed;
  const auto bill = service_->Bill(tenant_);
  for (const auto& line : bill->lines) {
    billed[line.contract.instance_id] += static_cast<std::int64_t>(line.amount.micro);
  }
  EXPECT_EQ(billed.size(), 2u);
  EXPECT_EQ(witness, billed);
}

TEST_F(ServiceTest, ListsArePagedInAStableOrder) {
  ASSERT_TRUE(service_->Deposit(tenant_, "more", Money{1'000'000'000}));
  std::vector<std::string> ids;
  for (int i = 0; i < 7; ++i) ids.push_back(Create("n" + std::to_string(i)).id);
  std::vector<std::string> seen;
  std::int64_t after = 0;
  do {
    const auto page = *service_->ListInstances(tenant_, std::nullopt, 3, after);
    for (const auto& instance : page.instances) seen.push_back(instance.id);
    after = page.next;
  } while (after != 0);
  EXPECT_EQ(seen, ids);
  EXPECT_EQ(service_->ListInstances(tenant_, State::kRunning, 200, 0)->instances.size(), 1u);
  EXPECT_EQ(service_->ListInstances(tenant_, std::nullopt, 0, 0).error().field(), "limit");
}

TEST_F(ServiceTest, ABoundIsNamedWhenItIsReached) {
  Sku free{.name = "free", .memory_bytes = kGiB};
  free.compute.value = 1;
  ASSERT_TRUE(service_->AddSku(free));
  for (std::size_t i = 0; i < kInstancesPerTenantMax; ++i) {
    ASSERT_TRUE(service_->CreateInstance(tenant_, {.sku = "free", .command = {"x"}}));
  }
  const auto refused = service_->CreateInstance(tenant_, {.sku = "free", .command = {"x"}});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kResourceExhausted);
  EXPECT_NE(refused.error().message().find("kInstancesPerTenantMax"), std::string::npos);
}

TEST(FormatTime, IsRfc3339) {
  EXPECT_EQ(FormatTime(0), "1970-01-01T00:00:00.000000Z");
  EXPECT_EQ(FormatTime(1'700'000'000'123'456), "2023-11-14T22:13:20.123456Z");
}

// ---- gangs and reservations ----

TEST_F(ServiceTest, AGangIsMadeHeldForAndAskedForTogether) {
  const auto made =
      service_->CreateGang(tenant_, {.name = "train", .sku = "a100.third", .command = {"x"}},
                           {.size = 3, .node_min = 2, .one_rack = true});
  ASSERT_TRUE(made) << made.error().ToString();
  ASSERT_EQ(made->size(), 3U);
  EXPECT_EQ((*made)[0].name, "train-1");
  EXPECT_EQ((*made)[2].name, "train-3");
  EXPECT_EQ(Held(), "12.00");  // an hour of each
  const placement::Order order = execution_.LastOrder();
  EXPECT_EQ(order.request.id, (*made)[2].id);
  EXPECT_EQ(order.gang, (*made)[0].gang.id);
  EXPECT_EQ(order.gang_size, 3U);
  EXPECT_EQ(order.gang_node_min, 2U);
  EXPECT_TRUE(order.gang_one_rack);
  // One that starts again starts on its own.
  const std::string first = (*made)[0].id;
  ASSERT_EQ(Get(first).state, State::kQueued);  // there is one place
  ASSERT_TRUE(service_->StopInstance(tenant_, first));
  Pass(kSecond);
  EXPECT_EQ(Get((*made)[2].id).state, State::kStopped);
  EXPECT_EQ(Held(), "0.00");
  ASSERT_TRUE(service_->StartInstance(tenant_, first));
  EXPECT_EQ(Get(first).state, State::kRunning);
  EXPECT_EQ(execution_.LastOrder().gang, "");
  EXPECT_EQ(execution_.LastOrder().gang_size, 0U);
}

TEST_F(ServiceTest, AGangThatCannotBePaidIsNotMade) {
  const auto made = service_->CreateGang(tenant_, {.sku = "a100.third", .command = {"x"}},
                                         {.size = 6});  // 24.00 of 20.00
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().field(), kPurseField);
  EXPECT_EQ(Held(), "0.00");
  EXPECT_EQ(database_->Query("SELECT 1 FROM instances", {})->size(), 0U);
}

TEST_F(ServiceTest, ARefusedMemberTakesItsGangAlong) {
  execution_.SetRefusal(Error(Code::kFailedPrecondition, "memory: too large"));
  const auto made =
      service_->CreateGang(tenant_, {.sku = "a100.third", .command = {"x"}}, {.size = 3});
  ASSERT_FALSE(made);
  Pass(kSecond);
  EXPECT_EQ(Held(), "0.00");
  EXPECT_EQ(database_->Query("SELECT 1 FROM instances WHERE state <> 'released'", {})->size(), 0U);
}

TEST_F(ServiceTest, StoppingAMemberThatWaitsStopsItsGang) {
  Create("busy");  // in the only place
  const auto made =
      service_->CreateGang(tenant_, {.sku = "a100.third", .command = {"x"}}, {.size = 3});
  ASSERT_TRUE(made);
  ASSERT_TRUE(service_->StopInstance(tenant_, (*made)[1].id));
  Pass(kSecond);
  for (const Instance& member : *made) {
    EXPECT_EQ(Get(member.id).state, State::kStopped) << member.id;
  }
  EXPECT_NE(Get((*made)[0].id).reason.find("was stopped before all had started"),
            std::string::npos);
  EXPECT_EQ(Held(), "4.00");
}

TEST_F(ServiceTest, AReservationIsKeptAndToldAgain) {
  EXPECT_EQ(service_->CreateReservation("nobody", "a100.third", {}).error().field(), "tenant");
  EXPECT_EQ(service_->CreateReservation(tenant_, "none", {}).error().field(), "sku");
  EXPECT_EQ(service_->CreateReservation(tenant_, "a100.third", {.units = 0}).error().field(),
            "units");
  EXPECT_EQ(service_->CreateReservation(tenant_, "a100.third", {.end_micros = 1}).error().field(),
            "end");
  const auto many = service_->CreateReservation(tenant_, "a100.third", {.units = 2});
  EXPECT_EQ(many.error().code(), Code::kResourceExhausted);
  EXPECT_TRUE(service_->Reservations("")->empty());
  const auto made = service_->CreateReservation(tenant_, "a100.third", {.lend = true});
  ASSERT_TRUE(made) << made.error().ToString();
  EXPECT_EQ(made->phase, "active");
  EXPECT_EQ(made->free, 1U);
  execution_.ForgetReservations();
  Restart();
  EXPECT_EQ(execution_.Reserved(), 0U);
  Pass(kSecond);
  EXPECT_EQ(execution_.Reserved(), 1U);
  EXPECT_EQ(service_->Reservations(tenant_)->size(), 1U);
  EXPECT_TRUE(service_->Reservations("t-other")->empty());
  const auto inside = service_->CreateInstance(
      tenant_, {.sku = "a100.third", .command = {"x"}, .reservation = made->id});
  ASSERT_TRUE(inside);
  EXPECT_EQ(execution_.LastOrder().reservation, made->id);
  EXPECT_EQ(Get(inside->id).reservation, made->id);
  ASSERT_TRUE(service_->DeleteReservation(made->id));
  EXPECT_EQ(service_->DeleteReservation(made->id).error().code(), Code::kNotFound);
  EXPECT_EQ(execution_.Reserved(), 0U);
  // What the plane knows and we do not goes with the next round.
  ASSERT_TRUE(execution_.Reserve({.id = "r-stray"}, false));
  Pass(kSecond);
  EXPECT_EQ(execution_.Reserved(), 0U);
}

TEST(Schema, AnOlderDatabaseKeepsItsInstances) {
  os::FakeClock clock;
  FakeExecution execution(clock, 1);
  const auto database = *store::Database::OpenSqlite(":memory:");
  ASSERT_TRUE(database->Migrate({Migrations().front()}));
  {
    auto transaction = database->Begin();
    ASSERT_TRUE(transaction);
    for (const char* row :
         {"INSERT INTO tenants VALUES (1, 't-1', 'acme', 'hash', 0)",
          "INSERT INTO skus VALUES ('third', 1, '', 1, 1048576, 333, 0, 0, 4000000, 0)",
          "INSERT INTO instances VALUES (1, 'i-1', 't-1', 'old', 'third', 1, 4000000, '[\"x\"]', "
          "'{}', 'stopped', 'stop', '', '', '', '[]', 1, NULL, 0, NULL, NULL, 0, 0)"}) {
      ASSERT_TRUE((*transaction)->Execute(row, {})) << row;
    }
    ASSERT_TRUE((*transaction)->Commit());
  }
  const auto service = Service::Open(*database, execution, clock);
  ASSERT_TRUE(service) << service.error().ToString();
  const auto old = (*service)->GetInstance("t-1", "i-1");
  ASSERT_TRUE(old);
  EXPECT_EQ(old->name, "old");
  EXPECT_EQ(old->gang.id, "");
  EXPECT_EQ(old->reservation, "");
  EXPECT_TRUE((*service)->Reservations("")->empty());
  ASSERT_TRUE((*service)->Tick());
}

TEST(Views, TimesAreReadAsTheyAreWritten) {
  for (const std::int64_t wall : {std::int64_t{0}, std::int64_t{1'769'846'709'000'001},
                                  std::int64_t{1'709'164'800'000'000}}) {
    EXPECT_EQ(ParseTime(FormatTime(wall), "t").value(), wall);
  }
  EXPECT_EQ(ParseTime("1970-01-01T00:00:01Z", "t").value(), 1'000'000);
  EXPECT_EQ(ParseTime("1970-01-01T00:00:01.5Z", "t").value(), 1'500'000);
  for (const char* bad :
       {"", "Z", "now", "1970-01-01", "1970-01-01T00:00:01", "1970-13-01T00:00:00Z",
        "2026-02-30T00:00:00Z", "1970-01-01T24:00:00Z", "1970-01-01T00:00:01.Z",
        "1970-01-01T00:00:01.1234567Z", "1970-01-01T00:00:01.12x4Z", "1970-01-01 00:00:01Z"}) {
    EXPECT_EQ(ParseTime(bad, "t").error().field(), "t") << bad;
  }
}

}  // namespace
}  // namespace tessera::cloud
