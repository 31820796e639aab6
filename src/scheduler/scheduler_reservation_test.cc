// Gangs and reservations.
#include <gtest/gtest.h>

#include "base/rng.h"
#include "scheduler/test_scheduler.h"

namespace tessera::scheduler {
namespace {

std::vector<placement::Order> Gang(const std::string& name, int size) {
  std::vector<placement::Order> orders;
  for (int i = 0; i < size; ++i) {
    placement::Order order;
    order.request = Ask(name + std::to_string(i), kCardBytes, 1000);
    order.gang = name;
    order.gang_size = static_cast<std::uint32_t>(size);
    orders.push_back(order);
  }
  return orders;
}

TEST_F(SchedulerTest, AGangStartsTogether) {
  AddNode("a", {MakeCard("a1")});
  const auto b = AddNode("b", {MakeCard("b1"), MakeCard("b2")});
  scheduler->Tick();
  Submit(Ask("x"));
  const auto gang = Gang("g", 3);
  for (const auto& order : gang) {
    EXPECT_EQ(Must(scheduler->Submit(order, 1, Work())).phase, Phase::kQueued);
  }
  EXPECT_TRUE(Contains(Get("g0").waiting_for, "gang: 2 of 3 members fit")) << Get("g0").waiting_for;
  Must(scheduler->Stop("x", 1));
  for (const auto& order : gang) EXPECT_EQ(Get(order.request.id).phase, Phase::kRunning);
  // From here on each is on its own.
  Must(scheduler->Stop("g0", 1));
  scheduler->Tick();
  EXPECT_EQ(Get("g1").phase, Phase::kRunning);
  EXPECT_EQ(Get("g2").phase, Phase::kRunning);
  ExpectNoDoubles();
}

TEST_F(SchedulerTest, AMemberThatCannotStartEndsItsGang) {
  AddNode("a", {MakeCard("a1"), MakeCard("a2")});
  const auto b = AddNode("b", {MakeCard("b1"), MakeCard("b2")});
  scheduler->Tick();
  b->SetRefusal(Error::Field("argv[0]", "expected a program"));
  const auto gang = Gang("g", 4);
  for (const auto& order : gang) (void)scheduler->Submit(order, 1, Work()).has_value();
  scheduler->Tick();
  int known = 0;
  for (const auto& order : gang) {
    const auto status = scheduler->Get(order.request.id);
    if (!status) continue;  // Submit said no to its face
    ++known;
    EXPECT_EQ(status->phase, Phase::kEnded) << order.request.id;
    EXPECT_TRUE(Contains(status->failure, "expected a program")) << status->failure;
  }
  EXPECT_GE(known, 3);
  for (const auto& [name, node] : nodes) EXPECT_TRUE(node->Running().empty()) << name;
  for (const CardStatus& card : scheduler->Cards()) EXPECT_EQ(card.reserved_bytes, 0U);
}

TEST_F(SchedulerTest, StoppingAMemberThatWaitsEndsItsGang) {
  AddNode("a", {MakeCard("a1")});
  scheduler->Tick();
  for (const auto& order : Gang("g", 2)) Must(scheduler->Submit(order, 1, Work()));
  Must(scheduler->Stop("g0", 1));
  EXPECT_EQ(Get("g1").phase, Phase::kEnded);
  EXPECT_TRUE(Contains(Get("g1").failure, "g0 was stopped before")) << Get("g1").failure;
}

// ---- reservations ----

placement::CapacityReservation Kept(const std::string& id, std::uint32_t units) {
  placement::CapacityReservation reservation;
  reservation.id = id;
  reservation.unit = Ask("", kCardBytes, 1000);
  reservation.unit.tenant = "ada";
  reservation.units = units;
  return reservation;
}

placement::Order Of(const std::string& tenant, const std::string& id,
                    const std::string& reservation = "") {
  placement::Order order;
  order.request = Ask(id, kCardBytes, 1000);
  order.request.tenant = tenant;
  order.reservation = reservation;
  return order;
}

TEST_F(SchedulerTest, AReservationKeepsItsCards) {
  AddNode("a", {MakeCard("a1"), MakeCard("a2")});
  EXPECT_EQ(scheduler->Reserve(Kept("r", 1), true).error().code(), Code::kUnavailable);
  scheduler->Tick();
  ASSERT_TRUE(scheduler->Reserve(Kept("r", 1), true));
  EXPECT_EQ(scheduler->Reserve(Kept("s", 2), true).error().code(), Code::kResourceExhausted);
  Must(scheduler->Submit(Of("bob", "b1"), 1, Work()));
  EXPECT_EQ(Must(scheduler->Submit(Of("bob", "b2"), 1, Work())).phase, Phase::kQueued);
  EXPECT_EQ(scheduler->Submit(Of("bob", "b3", "r"), 1, Work()).error().field(), "reservation");
  EXPECT_EQ(scheduler->Submit(Of("ada", "a3", "q"), 1, Work()).error().field(), "reservation");
  const InstanceStatus first = Must(scheduler->Submit(Of("ada", "a1", "r"), 1, Work()));
  EXPECT_EQ(first.phase, Phase::kRunning);
  EXPECT_EQ(first.reservation, "r");
  EXPECT_EQ(Must(scheduler->Submit(Of("ada", "a2", "r"), 1, Work())).waiting_for,
            "reservation: 0 of 1 units of r are free, 0 of them for earlier orders; 1 asked");
  Must(scheduler->Stop("a1", 1));
  EXPECT_EQ(Get("a2").phase, Phase::kRunning);
  Must(scheduler->Stop("a2", 1));
  scheduler->Tick();
  EXPECT_EQ(Get("b2").phase, Phase::kQueued);
  EXPECT_EQ(scheduler->Reservations().at(0).free, 1U);
  scheduler->Unreserve("r");
  EXPECT_EQ(Get("b2").phase, Phase::kRunning);
  EXPECT_TRUE(scheduler->Reservations().empty());
  ExpectNoDoubles();
}

TEST_F(SchedulerTest, WhoWaitsForAReservationThatEndsEndsWithIt) {
  AddNode("a", {MakeCard("a1")});
  scheduler->Tick();
  placement::CapacityReservation kept = Kept("r", 1);
  kept.end_micros = clock.WallMicros() + 5'000'000;
  ASSERT_TRUE(scheduler->Reserve(kept, true));
  Must(scheduler->Submit(Of("ada", "x", "r"), 1, Work()));
  EXPECT_EQ(Must(scheduler->Submit(Of("ada", "y", "r"), 1, Work())).phase, Phase::kQueued);
  clock.AdvanceMicros(5'000'000);
  scheduler->Tick();
  EXPECT_EQ(Get("x").phase, Phase::kRunning);
  EXPECT_EQ(Get("x").reservation, "");
  EXPECT_EQ(Get("y").phase, Phase::kEnded);
  EXPECT_EQ(Get("y").failure, "reservation: reservation r has ended");
}

TEST_F(SchedulerTest, AReservationIsToldAgainAfterARestart) {
  const auto a = AddNode("a", {MakeCard("a1"), MakeCard("a2")});
  const auto b = AddNode("b", {MakeCard("b1")});
  scheduler->Tick();
  ASSERT_TRUE(scheduler->Reserve(Kept("r", 2), true));
  Must(scheduler->Submit(Of("bob", "b1"), 1, Work()));
  const InstanceStatus ran = Must(scheduler->Submit(Of("ada", "a1", "r"), 1, Work()));
  ASSERT_TRUE(ran.placement);
  Restart();
  ASSERT_TRUE(scheduler->Reserve(Kept("r", 2), false));
  EXPECT_EQ(Must(scheduler->Submit(Of("bob", "b2"), 1, Work())).phase, Phase::kQueued);
  scheduler->Tick();
  // Until the orders are told again it is not known that one of them runs in it.
  Must(scheduler->Submit(Of("ada", "a1", "r"), 1, Work()));
  Must(scheduler->Submit(Of("bob", "b1"), 1, Work()));
  scheduler->Tick();
  const placement::ReservationUse use = scheduler->Reservations().at(0);
  EXPECT_EQ(use.used, 1U);
  EXPECT_EQ(use.free, 1U);
  EXPECT_EQ(Get("a1").reservation, "r");
  EXPECT_EQ(Get("b2").phase, Phase::kQueued);
  Must(scheduler->Stop("a1", 1));
  scheduler->Tick();
  EXPECT_EQ(scheduler->Reservations().at(0).free, 2U);
  EXPECT_EQ(Get("b2").phase, Phase::kQueued);
  ExpectNoDoubles();
}

// Where nodes keep the orders, nobody tells of them again: whichever comes first, the reservation
// or the news of what runs, whoever ran in it does so again.
TEST_F(SchedulerTest, WhoRanInAReservationIsInItAfterARestart) {
  AddNode("a", {MakeCard("a1"), MakeCard("a2")});
  scheduler->Tick();
  ASSERT_TRUE(scheduler->Reserve(Kept("r", 1), true));
  ASSERT_EQ(Must(scheduler->Submit(Of("ada", "a1", "r"), 1, Work())).phase, Phase::kRunning);
  for (const bool reservation_first : {true, false}) {
    SCOPED_TRACE(reservation_first);
    Restart();
    if (!reservation_first) scheduler->Tick();
    ASSERT_TRUE(scheduler->Reserve(Kept("r", 1), false));
    scheduler->Tick();
    EXPECT_FALSE(Get("a1").adopted);
    EXPECT_EQ(Get("a1").reservation, "r");
    const placement::ReservationUse use = scheduler->Reservations().at(0);
    EXPECT_EQ(use.used, 1U);
    EXPECT_EQ(use.free + use.missing, 0U);
  }
  ExpectNoDoubles();
}

TEST_F(SchedulerTest, AReservationLeavesANodeThatIsAway) {
  const auto a = AddNode("a", {MakeCard("a1")});
  const auto b = AddNode("b", {MakeCard("b1")});
  scheduler->Tick();
  ASSERT_TRUE(scheduler->Reserve(Kept("r", 1), true));
  a->SetOutage(true);
  scheduler->Tick();
  EXPECT_EQ(scheduler->Reservations().at(0).free, 1U);
  EXPECT_EQ(Must(scheduler->Submit(Of("ada", "x", "r"), 1, Work())).placement->node, "b");
  b->SetOutage(true);
  b->Exit("x", 0);
  scheduler->Tick();
  EXPECT_EQ(Get("x").phase, Phase::kRunning);  // kept as it is
  b->SetOutage(false);
  scheduler->Tick();
  b->SetOutage(true);
  scheduler->Tick();
  const placement::ReservationUse lost = scheduler->Reservations().at(0);
  EXPECT_EQ(lost.missing, 1U);
  EXPECT_FALSE(lost.missing_for.empty());
  a->SetOutage(false);
  scheduler->Tick();
  EXPECT_EQ(scheduler->Reservations().at(0).free, 1U);
}

TEST_F(SchedulerTest, ABorrowerIsStoppedForTheOwner) {
  const auto a = AddNode("a", {MakeCard("a1")});
  scheduler->Tick();
  placement::CapacityReservation lending = Kept("r", 1);
  lending.lend = true;
  ASSERT_TRUE(scheduler->Reserve(lending, true));
  placement::Order spot = Of("bob", "spot");
  spot.preemptible = true;
  EXPECT_EQ(Must(scheduler->Submit(spot, 1, Work())).phase, Phase::kRunning);
  EXPECT_EQ(scheduler->Reservations().at(0).lent, 1U);
  Must(scheduler->Submit(Of("ada", "x", "r"), 1, Work()));
  scheduler->Tick();
  EXPECT_EQ(Get("x").phase, Phase::kRunning);
  EXPECT_EQ(Get("spot").phase, Phase::kEnded);
  EXPECT_TRUE(Contains(Get("spot").failure, "called back")) << Get("spot").failure;
  ExpectNoDoubles();
}

// Orders come and go, nodes are away, calls fail, the scheduler is started anew: a reservation's
// units always add up, no card is given twice, and when all is well again it is whole.
TEST(SchedulerReservations, HoldUnderRandomEvents) {
  for (std::uint64_t seed = 1; seed <= 40 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Rng rng(seed);
    os::FakeClock clock;
    FakeWorld world;
    std::map<std::string, std::shared_ptr<FakeNode>> nodes;
    for (const char* name : {"a", "b", "c"}) {
      nodes[name] =
          std::make_shared<FakeNode>(world, clock, name,
                                     std::vector<device::Card>{MakeCard(std::string(name) + "1"),
                                                               MakeCard(std::string(name) + "2")});
    }
    placement::CapacityReservation kept = Kept("r", 2);
    kept.open = rng.Chance(500);
    kept.lend = rng.Chance(700);
    std::unique_ptr<Scheduler> scheduler;
    std::map<std::string, placement::Order> told;  // what the owner of the orders remembers
    const auto restart = [&] {
      scheduler = std::make_unique<Scheduler>(Options{.period_millis = 0}, clock);
      for (const auto& [name, node] : nodes) ASSERT_TRUE(scheduler->AddNode(name, node));
      ASSERT_TRUE(scheduler->Reserve(kept, false));
      for (const auto& [id, order] : told) {
        (void)scheduler->Submit(order, 1, Work()).has_value();
      }
    };
    const auto check = [&] {
      const auto uses = scheduler->Reservations();
      ASSERT_EQ(uses.size(), 1U);
      const placement::ReservationUse& use = uses[0];
      EXPECT_EQ(use.used + use.lent + use.free + use.missing, 2U);
      EXPECT_TRUE(kept.lend || use.lent == 0);
      const auto listed = scheduler->List();
      if (!listed) return;  // a node has not reported since a restart
      std::map<std::string, std::string> on;
      std::uint32_t inside = 0;
      for (const InstanceStatus& status : *listed) {
        if (status.phase == Phase::kEnded || !status.placement) continue;
        if (!status.reservation.empty()) ++inside;
        const std::string& card = status.placement->shares.at(0).card_uuid;
        EXPECT_TRUE(on.emplace(card, status.instance_id).second)
            << card << " is given to " << on[card] << " and " << status.instance_id;
      }
      EXPECT_EQ(inside, use.used + use.lent);
      EXPECT_LE(on.size() + use.free, 6U);
    };
    restart();
    scheduler->Tick();
    int next = 0;
    for (int step = 0; step < 150; ++step) {
      const std::uint64_t kind = rng.Between(0, 99);
      if (kind < 40 && told.size() < 12) {
        std::vector<placement::Order> orders;
        const std::string id = "i" + std::to_string(next++);
        if (rng.Chance(150)) {
          orders = Gang(id + "-", 2);
          for (placement::Order& order : orders) order.request.tenant = "bob";
        } else {
          const bool owner = rng.Chance(500);
          orders = {Of(owner ? "ada" : "bob", id, owner && rng.Chance(600) ? "r" : "")};
          orders[0].preemptible = !owner && rng.Chance(600);
        }
        for (const placement::Order& order : orders) {
          told[order.request.id] = order;
          (void)scheduler->Submit(order, 1, Work()).has_value();
        }
      } else if (kind < 60 && !told.empty()) {
        auto at = told.begin();
        std::advance(at, static_cast<std::ptrdiff_t>(rng.Between(0, told.size() - 1)));
        const auto stopped = scheduler->Stop(at->first, 1);
        if (stopped && stopped->phase == Phase::kEnded) told.erase(at);
      } else if (kind < 66 && !told.empty()) {
        auto at = told.begin();
        std::advance(at, static_cast<std::ptrdiff_t>(rng.Between(0, told.size() - 1)));
        for (const auto& [name, node] : nodes) node->Exit(at->first, 0);
      } else if (kind < 74) {
        auto node = nodes.begin();
        std::advance(node, static_cast<std::ptrdiff_t>(rng.Between(0, 2)));
        node->second->SetOutage(rng.Chance(500));
      } else if (kind < 78) {
        world.FailCall(static_cast<int>(rng.Between(0, 10)),
                       rng.Chance(500) ? Code::kUnavailable : Code::kInternal,
                       rng.Chance(500) ? FakeWorld::When::kBefore : FakeWorld::When::kAfter);
      } else if (kind < 82) {
        restart();
      }
      clock.AdvanceMicros(1'000'000);
      scheduler->Tick();
      // Whoever has ended is remembered no more.
      for (auto at = told.begin(); at != told.end();) {
        const auto status = scheduler->Get(at->first);
        const bool over =
            status ? status->phase == Phase::kEnded : status.error().code() == Code::kNotFound;
        at = over ? told.erase(at) : std::next(at);
      }
      check();
      if (testing::Test::HasFailure()) FAIL() << "step " << step;
    }
    world.FailCall(-1, Code::kOk, FakeWorld::When::kBefore);
    for (const auto& [name, node] : nodes) node->SetOutage(false);
    const auto settle = [&] {
      for (int i = 0; i < 6; ++i) {
        clock.AdvanceMicros(1'000'000);
        scheduler->Tick();
      }
    };
    settle();
    check();
    const placement::ReservationUse use = scheduler->Reservations().at(0);
    for (const auto& [id, order] : told) {
      const auto status = scheduler->Get(id);
      if (!status || status->phase != Phase::kQueued || order.reservation.empty()) continue;
      EXPECT_EQ(use.used, 2U) << id << " waits: " << status->waiting_for;
    }
    for (const auto& [id, order] : told) (void)scheduler->Stop(id, 1).has_value();
    settle();
    EXPECT_TRUE(world.doubles().empty());
    EXPECT_EQ(scheduler->Reservations().at(0).free, 2U);
    scheduler->Unreserve("r");
    settle();
    for (const CardStatus& card : scheduler->Cards()) EXPECT_EQ(card.reserved_bytes, 0U);
  }
}

}  // namespace
}  // namespace tessera::scheduler
