#include "scheduler/scheduler.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "scheduler/test_scheduler.h"

namespace tessera::scheduler {
namespace {

TEST_F(SchedulerTest, TheSeventhOfSixWaitsAndStartsWhenOneLeaves) {
  const auto node = AddNode("n", {MakeCard("a"), MakeCard("b")});
  scheduler->Tick();
  for (int i = 0; i < 6; ++i) {
    const InstanceStatus status = Submit(Ask("i" + std::to_string(i)));
    EXPECT_EQ(status.phase, Phase::kRunning);
    EXPECT_EQ(status.placement->node, "n");
    EXPECT_EQ(status.started_wall_micros, clock.WallMicros());
  }
  const InstanceStatus seventh = Submit(Ask("i6"));
  EXPECT_EQ(seventh.phase, Phase::kQueued);
  EXPECT_EQ(seventh.waiting_for,
            "memory: asked 8 GiB a card, 8 GiB short on the best card (0 B free)");
  EXPECT_FALSE(seventh.placement);
  scheduler->Tick();
  EXPECT_EQ(Get("i6").phase, Phase::kQueued);
  const InstanceStatus stopped = Must(scheduler->Stop("i2", 1));
  EXPECT_EQ(stopped.phase, Phase::kEnded);
  EXPECT_EQ(stopped.exit_code, 143);
  EXPECT_EQ(Get("i6").phase, Phase::kRunning);
  EXPECT_EQ(node->Running().size(), 6u);
  ExpectNoDoubles();
}

TEST_F(SchedulerTest, ThePolicyOfTheOptionsDecides) {
  AddNode("a", {MakeCard("a1")});
  AddNode("b", {MakeCard("b1")});
  for (const std::string policy : {"binpack", "spread"}) {
    Restart({.period_millis = 0, .policy = policy});
    scheduler->Tick();
    const std::string first = Submit(Ask("one-" + policy, kGiB, 100)).placement->node;
    const std::string second = Submit(Ask("two-" + policy, kGiB, 100)).placement->node;
    EXPECT_EQ(first == second, policy == "binpack") << first << " and " << second;
    for (const char* id : {"one-", "two-"}) Must(scheduler->Stop(id + policy, 1));
    scheduler->Tick();
  }
}

TEST_F(SchedulerTest, AnExitFreesThePlaceWhetherOrNotTheNodeFreesItByItself) {
  for (const bool frees : {true, false}) {
    const std::string name = frees ? "f" : "g";
    const auto node = AddNode(name, {MakeCard(name + "1", "model-" + name)});
    node->SetFreesOnExit(frees);
    scheduler->Tick();
    placement::Request whole = Ask("first-" + name, kCardBytes, 1000);
    whole.model = "model-" + name;
    EXPECT_EQ(Submit(whole).phase, Phase::kRunning);
    whole.id = "second-" + name;
    EXPECT_EQ(Submit(whole).phase, Phase::kQueued);
    clock.AdvanceMicros(5'000'000);
    const std::int64_t ended = clock.WallMicros();
    node->Exit("first-" + name, 7);
    clock.AdvanceMicros(1'000'000);
    scheduler->Tick();
    const InstanceStatus first = Get("first-" + name);
    EXPECT_EQ(first.phase, Phase::kEnded);
    EXPECT_EQ(first.exit_code, 7);
    EXPECT_EQ(first.ended_wall_micros, ended);  // the kernel's time, not when it was noticed
    EXPECT_EQ(Get("second-" + name).phase, Phase::kRunning) << Get("second-" + name).waiting_for;
  }
}

TEST_F(SchedulerTest, RefusesWhatNoEmptyFleetCouldHold) {
  AddNode("n", {MakeCard("a")});
  scheduler->Tick();
  const auto refused = scheduler->Submit({Ask("x", 26 * kGiB)}, 1, Work());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kFailedPrecondition);
  EXPECT_EQ(refused.error().message(),
            "memory: asked 26 GiB a card, 2 GiB short on the best card (24 GiB in all)");
  EXPECT_EQ(scheduler->Get("x").error().code(), Code::kNotFound);
  const auto invalid = scheduler->Submit({Ask("", 1)}, 1, Work());
  ASSERT_FALSE(invalid);
  EXPECT_EQ(invalid.error().field(), "id");
}

TEST_F(SchedulerTest, TheQueueIsBoundedByName) {
  Restart({.period_millis = 0, .queue_max = 2});
  AddNode("n", {MakeCard("a")});
  scheduler->Tick();
  EXPECT_EQ(Submit(Ask("r", kCardBytes, 1000)).phase, Phase::kRunning);
  EXPECT_EQ(Submit(Ask("q1")).phase, Phase::kQueued);
  EXPECT_EQ(Submit(Ask("q2")).phase, Phase::kQueued);
  const auto full = scheduler->Submit({Ask("q3")}, 1, Work());
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code(), Code::kResourceExhausted);
  EXPECT_TRUE(Contains(full.error().message(), "queue_max (2)"));
  EXPECT_FALSE(scheduler->Get("q3"));
  EXPECT_EQ(Submit(Ask("q2")).phase, Phase::kQueued);  // known: no new place needed
  Must(scheduler->Stop("q1", 1));
  EXPECT_EQ(Submit(Ask("q3")).phase, Phase::kQueued);
}

TEST_F(SchedulerTest, KnownInstancesAreBoundedByName) {
  Restart({.period_millis = 0, .instances_max = 2});
  AddNode("n", {MakeCard("a")});
  scheduler->Tick();
  Submit(Ask("x"));
  Submit(Ask("y"));
  const auto third = scheduler->Submit({Ask("z")}, 1, Work());
  ASSERT_FALSE(third);
  EXPECT_TRUE(Contains(third.error().message(), "instances_max (2)"));
  Must(scheduler->Stop("x", 1));
  ASSERT_TRUE(scheduler->Forget("x"));
  EXPECT_EQ(Submit(Ask("z")).phase, Phase::kRunning);
}

TEST_F(SchedulerTest, NobodyIsOvertakenOnANodeHeWaitsFor) {
  AddNode("a10", {MakeCard("a")});
  AddNode("h200", {MakeCard("h", "NVIDIA H200")});
  scheduler->Tick();
  placement::Request request = Ask("holder", 16 * kGiB);
  request.model = "A10";
  EXPECT_EQ(Submit(request).phase, Phase::kRunning);
  request = Ask("big", kCardBytes, 1000);
  request.model = "A10";
  EXPECT_EQ(Submit(request).phase, Phase::kQueued);
  // It would fit beside the holder, and would then keep the big one waiting for longer.
  request = Ask("small", kGiB, 10);
  request.model = "A10";
  const InstanceStatus small = Submit(request);
  EXPECT_EQ(small.phase, Phase::kQueued);
  EXPECT_EQ(small.waiting_for, "queue: 1 earlier request(s) wait for the same nodes");
  // Nobody waits for the other node.
  EXPECT_EQ(Submit(Ask("other", kGiB, 10)).placement->node, "h200");
  Must(scheduler->Stop("holder", 1));
  EXPECT_EQ(Get("big").phase, Phase::kRunning);
  EXPECT_EQ(Get("small").phase, Phase::kQueued);
  Must(scheduler->Stop("big", 1));
  EXPECT_EQ(Get("small").phase, Phase::kRunning);
}

TEST_F(SchedulerTest, SubmitIsIdempotentByIdAndGeneration) {
  const auto node = AddNode("n", {MakeCard("a")});
  scheduler->Tick();
  Submit(Ask("x"));
  Submit(Ask("x"));
  EXPECT_EQ(node->starts(), 1);
  EXPECT_EQ(scheduler->Submit({Ask("x")}, 2, Work()).error().code(), Code::kFailedPrecondition);
  EXPECT_EQ(scheduler->Stop("x", 2).error().code(), Code::kAborted);
  Must(scheduler->Stop("x", 1));
  EXPECT_EQ(Must(scheduler->Stop("x", 1)).exit_code, 143);
  const InstanceStatus again = Submit(Ask("x"), 2);
  EXPECT_EQ(again.phase, Phase::kRunning);
  EXPECT_EQ(again.generation, 2u);
  EXPECT_EQ(scheduler->Submit({Ask("x")}, 1, Work()).error().code(), Code::kAborted);
  EXPECT_EQ(node->Running(), std::vector<std::string>{"x"});
  ExpectNoDoubles();
}

TEST_F(SchedulerTest, ForgetRemovesWhatEveryNodeKept) {
  const auto first = AddNode("a", {MakeCard("a1")});
  scheduler->Tick();
  Submit(Ask("x"));
  EXPECT_EQ(scheduler->Forget("x").error().code(), Code::kFailedPrecondition);
  Must(scheduler->Stop("x", 1));
  first->SetHealthy(0, false);
  const auto second = AddNode("b", {MakeCard("b1")});
  scheduler->Tick();
  EXPECT_EQ(Submit(Ask("x"), 2).placement->node, "b");
  Must(scheduler->Stop("x", 2));
  EXPECT_EQ(first->Known() + second->Known(), 2u);
  second->SetOutage(true);
  EXPECT_EQ(scheduler->Forget("x").error().code(), Code::kUnavailable);
  EXPECT_EQ(Get("x").phase, Phase::kEnded);
  second->SetOutage(false);
  EXPECT_TRUE(scheduler->Forget("x"));
  EXPECT_TRUE(scheduler->Forget("x"));
  EXPECT_EQ(first->Known() + second->Known(), 0u);
  EXPECT_EQ(scheduler->Get("x").error().code(), Code::kNotFound);
}

TEST_F(SchedulerTest, AStartWithoutAnAnswerStaysWithItsNode) {
  const auto a = AddNode("a", {MakeCard("a1")});
  const auto b = AddNode("b", {MakeCard("b1")});
  scheduler->Tick();
  world.FailCall(0, Code::kDeadlineExceeded, FakeWorld::When::kAfter);
  const InstanceStatus status = Submit(Ask("x"));
  EXPECT_EQ(status.phase, Phase::kQueued);
  EXPECT_TRUE(Contains(status.waiting_for, "did not confirm the start")) << status.waiting_for;
  EXPECT_EQ(status.placement->node, "a");
  EXPECT_EQ(Submit(Ask("x")).phase, Phase::kQueued);
  scheduler->Tick();
  EXPECT_EQ(Get("x").phase, Phase::kRunning);
  EXPECT_EQ(a->Running(), std::vector<std::string>{"x"});
  EXPECT_TRUE(b->Running().empty());
  // Before the effect: repeated at the next poll, on the same node, however long that takes.
  a->SetOutage(true);
  const InstanceStatus lost = Submit(Ask("y"));
  EXPECT_EQ(lost.placement->node, "a");
  for (int i = 0; i < 20; ++i) scheduler->Tick();
  EXPECT_EQ(Get("y").phase, Phase::kQueued);
  a->SetOutage(false);
  scheduler->Tick();
  EXPECT_EQ(Get("y").phase, Phase::kRunning);
  EXPECT_EQ(Get("y").placement->node, "a");
  ExpectNoDoubles();
}

TEST_F(SchedulerTest, AnUnconfirmedStartCanBeStopped) {
  for (const auto when : {FakeWorld::When::kBefore, FakeWorld::When::kAfter}) {
    Restart();
    const std::string name = when == FakeWorld::When::kBefore ? "a" : "b";
    const auto node = AddNode(name, {MakeCard(name)});
    scheduler->Tick();
    world.FailCall(0, Code::kUnavailable, when);
    EXPECT_EQ(Submit(Ask("x-" + name)).phase, Phase::kQueued);
    const InstanceStatus stopped = Must(scheduler->Stop("x-" + name, 1));
    EXPECT_EQ(stopped.phase, Phase::kEnded);
    scheduler->Tick();
    EXPECT_TRUE(node->Running().empty());
    EXPECT_EQ(node->Reserved(name).memory_bytes, 0u);
    EXPECT_EQ(Submit(Ask("whole-" + name, kCardBytes, 1000)).phase, Phase::kRunning);
    EXPECT_TRUE(scheduler->Stop("whole-" + name, 1));
  }
}

TEST_F(SchedulerTest, AnInternalErrorIsRepeatedAFewTimesAndThenTold) {
  const auto node = AddNode("n", {MakeCard("a")});
  scheduler->Tick();
  node->SetRefusal(Error(Code::kInternal, "no cgroup"));
  EXPECT_EQ(Submit(Ask("x")).phase, Phase::kQueued);
  for (int i = 0; i < 10; ++i) scheduler->Tick();
  const InstanceStatus failed = Get("x");
  EXPECT_EQ(failed.phase, Phase::kEnded);
  EXPECT_EQ(failed.exit_code, kExitNotStarted);
  EXPECT_EQ(failed.failure, "no cgroup");
  EXPECT_EQ(failed.started_wall_micros, 0);
  EXPECT_EQ(node->starts(), 5);
  node->SetRefusal(std::nullopt);
  EXPECT_EQ(Submit(Ask("y", kCardBytes, 1000)).phase, Phase::kRunning);
}

TEST_F(SchedulerTest, APlainRefusalIsTheAnswerOfSubmit) {
  const auto node = AddNode("n", {MakeCard("a")});
  scheduler->Tick();
  node->SetRefusal(Error::Field("argv[0]", "expected a program"));
  const auto refused = scheduler->Submit({Ask("x")}, 1, Work());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().field(), "argv[0]");
  EXPECT_EQ(scheduler->Get("x").error().code(), Code::kNotFound);
  node->SetRefusal(std::nullopt);
  EXPECT_EQ(Submit(Ask("y", kCardBytes, 1000)).phase, Phase::kRunning);
}

TEST_F(SchedulerTest, ForeignUseIsLearnedFromARefusalAndFromReports) {
  const auto node = AddNode("n", {MakeCard("a")});
  scheduler->Tick();
  node->SetForeign({{"a", 20 * kGiB, {500}}});
  const InstanceStatus refused = Submit(Ask("x"));
  EXPECT_EQ(refused.phase, Phase::kQueued);
  EXPECT_TRUE(Contains(refused.waiting_for, "n refused: card a is full")) << refused.waiting_for;
  EXPECT_EQ(node->starts(), 1);
  EXPECT_EQ(Submit(Ask("y", 4 * kGiB)).phase, Phase::kQueued);
  EXPECT_EQ(node->starts(), 1);  // not asked again before it has reported
  scheduler->Tick();
  EXPECT_EQ(Get("x").waiting_for,
            "memory: asked 8 GiB a card, 4 GiB short on the best card (4 GiB free)");
  EXPECT_EQ(node->starts(), 1);
  EXPECT_EQ(scheduler->Cards()[0].reserved_bytes, 20 * kGiB);
  node->SetForeign({});
  scheduler->Tick();
  EXPECT_EQ(Get("x").phase, Phase::kRunning);
  EXPECT_EQ(Get("y").phase, Phase::kRunning);
}

TEST_F(SchedulerTest, ANodeThatIsAwayKeepsItsInstancesAndTakesNothing) {
  const auto node = AddNode("n", {MakeCard("a")});
  scheduler->Tick();
  Submit(Ask("x"));
  clock.AdvanceMicros(1'000'000);
  scheduler->Tick();
  const std::int64_t seen = Get("x").seen_wall_micros;
  EXPECT_EQ(seen, clock.WallMicros());
  node->SetOutage(true);
  for (int i = 0; i < 10; ++i) {
    clock.AdvanceMicros(1'000'000);
    scheduler->Tick();
  }
  EXPECT_EQ(Get("x").phase, Phase::kRunning);
  EXPECT_EQ(Get("x").seen_wall_micros, seen);
  EXPECT_FALSE(scheduler->Nodes()[0].available);
  const InstanceStatus waiting = Submit(Ask("y"));
  EXPECT_EQ(waiting.phase, Phase::kQueued);
  EXPECT_TRUE(Contains(waiting.waiting_for, "n is away")) << waiting.waiting_for;
  EXPECT_EQ(scheduler->Stop("x", 1).error().code(), Code::kUnavailable);
  EXPECT_EQ(Get("x").phase, Phase::kRunning);
  node->SetOutage(false);
  scheduler->Tick();  // the stop that was asked for happens now
  EXPECT_EQ(Get("x").phase, Phase::kEnded);
  EXPECT_EQ(Get("y").phase, Phase::kRunning);
}

TEST_F(SchedulerTest, AVanishedInstanceEndsAtItsLastHeartbeat) {
  const auto node = AddNode("n", {MakeCard("a")});
  scheduler->Tick();
  Submit(Ask("x"));
  clock.AdvanceMicros(1'000'000);
  scheduler->Tick();
  const std::int64_t seen = Get("x").seen_wall_micros;
  node->Lose("x");
  for (int i = 1; i < kMissingPollsMax; ++i) {
    clock.AdvanceMicros(1'000'000);
    scheduler->Tick();
    EXPECT_EQ(Get("x").phase, Phase::kRunning);
  }
  scheduler->Tick();
  EXPECT_EQ(Get("x").phase, Phase::kEnded);
  EXPECT_EQ(Get("x").exit_code, kExitVanished);
  EXPECT_EQ(Get("x").ended_wall_micros, seen);
}

TEST_F(SchedulerTest, ARestartAdoptsWhatRuns) {
  const auto node = AddNode("n", {MakeCard("a"), MakeCard("b")});
  scheduler->Tick();
  for (int i = 0; i < 6; ++i) Submit(Ask("i" + std::to_string(i)));
  Submit(Ask("i6"));
  const std::int64_t started = Get("i0").started_wall_micros;
  const std::string card = Get("i0").placement->shares[0].card_uuid;
  scheduler.reset();
  clock.AdvanceMicros(3'000'000);
  node->Exit("i5", 9);
  Restart();
  // Before the node has reported, nothing is known and nothing is decided.
  EXPECT_EQ(scheduler->Get("i0").error().code(), Code::kUnavailable);
  EXPECT_EQ(scheduler->Stop("i0", 1).error().code(), Code::kUnavailable);
  EXPECT_EQ(scheduler->List().error().code(), Code::kUnavailable);
  const InstanceStatus early = Submit(Ask("i1"));
  EXPECT_EQ(early.phase, Phase::kQueued);
  EXPECT_TRUE(Contains(early.waiting_for, "1 of 1 have not reported")) << early.waiting_for;
  EXPECT_EQ(Submit(Ask("i6")).phase, Phase::kQueued);
  EXPECT_EQ(node->starts(), 6);
  scheduler->Tick();
  EXPECT_EQ(Get("i0").phase, Phase::kRunning);
  EXPECT_EQ(Get("i0").started_wall_micros, started);
  EXPECT_EQ(Get("i0").placement->shares[0].card_uuid, card);
  EXPECT_EQ(Get("i1").phase, Phase::kRunning);
  EXPECT_EQ(Get("i5").phase, Phase::kEnded);
  EXPECT_EQ(Get("i5").exit_code, 9);
  EXPECT_EQ(Get("i6").phase, Phase::kRunning);  // in the place of i5
  EXPECT_EQ(scheduler->List()->size(), 7u);
  EXPECT_EQ(Submit(Ask("i0")).phase, Phase::kRunning);
  EXPECT_EQ(node->starts(), 7);
  EXPECT_EQ(Submit(Ask("i7")).waiting_for,
            "memory: asked 8 GiB a card, 8 GiB short on the best card (0 B free)");
  Must(scheduler->Stop("i0", 1));
  EXPECT_EQ(Get("i7").phase, Phase::kRunning);
  ExpectNoDoubles();
}

TEST_F(SchedulerTest, ARestartAdoptsEvenWithoutKnowingTheShares) {
  const auto node = AddNode("n", {MakeCard("a")});
  node->SetListsShares(false);
  scheduler->Tick();
  Submit(Ask("x", 16 * kGiB));
  Restart();
  scheduler->Tick();
  EXPECT_EQ(Get("x").phase, Phase::kRunning);
  EXPECT_EQ(scheduler->Cards()[0].reserved_bytes, 16 * kGiB);
  EXPECT_EQ(Submit(Ask("y", 16 * kGiB)).waiting_for,
            "memory: asked 16 GiB a card, 8 GiB short on the best card (8 GiB free)");
  Must(scheduler->Stop("x", 1));
  scheduler->Tick();
  EXPECT_EQ(Get("y").phase, Phase::kRunning);
  ExpectNoDoubles();
}

TEST_F(SchedulerTest, AStrayOfAnOlderGenerationIsEnded) {
  const auto a = AddNode("a", {MakeCard("a1")});
  const auto b = AddNode("b", {MakeCard("b1")});
  scheduler->Tick();
  Submit(Ask("x"), 2);
  ASSERT_EQ(a->Running().size(), 1u);
  // Somebody started generation 1 behind our back.
  ASSERT_TRUE(b->Start({"x", "b", {{"b1", kGiB, {10}}}}, 1, Work(), ""));
  scheduler->Tick();
  EXPECT_TRUE(b->Running().empty());
  EXPECT_EQ(a->Running().size(), 1u);
  EXPECT_EQ(Get("x").generation, 2u);
  EXPECT_EQ(Get("x").phase, Phase::kRunning);
}

TEST_F(SchedulerTest, AStartThatIsStillUnderWayIsNotRunning) {
  const auto node = AddNode("n", {MakeCard("a")});
  scheduler->Tick();
  node->SetStartsLater(true);
  EXPECT_EQ(Submit(Ask("x")).phase, Phase::kQueued);
  scheduler->Tick();
  EXPECT_EQ(Get("x").phase, Phase::kQueued);
  EXPECT_EQ(Get("x").waiting_for, "starting on its node");
  EXPECT_EQ(Get("x").started_wall_micros, 0);
  node->LetRun("x");
  scheduler->Tick();
  EXPECT_EQ(Get("x").phase, Phase::kRunning);
  EXPECT_EQ(Submit(Ask("y")).phase, Phase::kQueued);
  EXPECT_EQ(Must(scheduler->Stop("y", 1)).phase, Phase::kEnded);
  ExpectNoDoubles();
}

TEST_F(SchedulerTest, LogAndExecGoToTheNode) {
  AddNode("n", {MakeCard("a")});
  scheduler->Tick();
  EXPECT_EQ(scheduler->Log("x", 0).error().code(), Code::kNotFound);
  Submit(Ask("x", kCardBytes, 1000));
  Submit(Ask("waits"));
  EXPECT_EQ(*scheduler->Log("x", 4), "of x");
  EXPECT_EQ(scheduler->Exec("x", {"sh"}, "in")->output, "x sh in");
  EXPECT_EQ(scheduler->Exec("x", {"sh"}, "in")->exit_code, 3);
  EXPECT_EQ(scheduler->Log("waits", 0).error().code(), Code::kFailedPrecondition);
  EXPECT_EQ(scheduler->Exec("waits", {"sh"}, "").error().code(), Code::kFailedPrecondition);
  Must(scheduler->Stop("x", 1));
  EXPECT_EQ(*scheduler->Log("x", 0), "log of x");
  EXPECT_EQ(scheduler->Exec("x", {"sh"}, "").error().code(), Code::kFailedPrecondition);
}

TEST_F(SchedulerTest, NodesAndCardsAreShown) {
  AddNode("b", {MakeCard("b1")});
  AddNode("a", {MakeCard("a2"), MakeCard("a1")});
  EXPECT_TRUE(scheduler->Cards().empty());
  scheduler->Tick();
  placement::Request request = Ask("x");
  request.card_uuid = "a1";
  Submit(request);
  scheduler->Tick();
  const auto cards = scheduler->Cards();
  ASSERT_EQ(cards.size(), 3u);
  EXPECT_EQ(cards[0].node + cards[0].card.uuid + cards[2].node, "aa1b");
  EXPECT_EQ(cards[0].reserved_bytes, 8 * kGiB);
  EXPECT_EQ(cards[0].reserved_permille, 333u);
  EXPECT_EQ(cards[0].used_bytes, 4 * kGiB);
  EXPECT_EQ(cards[0].busy_permille, 250u);
  EXPECT_EQ(scheduler->AddNode("a", nodes["a"]).error().code(), Code::kAlreadyExists);
  EXPECT_EQ(scheduler->AddNode("", nodes["a"]).error().field(), "name");
  EXPECT_EQ(scheduler->RemoveNode("a").error().code(), Code::kFailedPrecondition);
  EXPECT_EQ(scheduler->RemoveNode("c").error().code(), Code::kNotFound);
  EXPECT_TRUE(scheduler->RemoveNode("b"));
  EXPECT_EQ(scheduler->Nodes().size(), 1u);
  EXPECT_EQ(scheduler->Cards().size(), 2u);
}

TEST_F(SchedulerTest, AReportThatCrossesAStartChangesNothing) {
  const auto node = AddNode("n", {MakeCard("a")});
  scheduler->Tick();
  node->CloseGate();
  InstanceStatus started;
  std::thread submitter([&] { started = Submit(Ask("x")); });
  node->WaitAtGate(1);
  scheduler->Tick();
  EXPECT_EQ(Get("x").phase, Phase::kQueued);
  EXPECT_EQ(Get("x").waiting_for, "starting on its node");
  // What is being started is reserved already.
  EXPECT_EQ(Submit(Ask("whole", kCardBytes, 1000)).phase, Phase::kQueued);
  // A stop waits for the start.
  InstanceStatus stopped;
  std::thread stopper([&] { stopped = Must(scheduler->Stop("x", 1)); });
  node->OpenGate();
  submitter.join();
  stopper.join();
  EXPECT_EQ(stopped.phase, Phase::kEnded);
  EXPECT_EQ(Get("whole").phase, Phase::kRunning);
  ExpectNoDoubles();
}

placement::Order Spot(const placement::Request& request, int priority = 100) {
  placement::Order order{request};
  order.request.priority = priority;
  order.preemptible = true;
  return order;
}

TEST_F(SchedulerTest, WhoeverIsStoppedForAnotherEndsWithTheReason) {
  const auto node = AddNode("n", {MakeCard("a")});
  scheduler->Tick();
  EXPECT_EQ(Must(scheduler->Submit(Spot(Ask("spot", kCardBytes, 1000)), 1, Work())).phase,
            Phase::kRunning);
  clock.AdvanceMicros(5'000'000);
  // The answer to the asker is already that it runs: the victim was stopped on the way.
  EXPECT_EQ(Submit(Ask("asker", kCardBytes, 1000)).phase, Phase::kRunning);
  EXPECT_EQ(node->starts(), 2);  // none of them refused: the memory was back
  const InstanceStatus victim = Get("spot");
  EXPECT_EQ(victim.phase, Phase::kEnded);
  EXPECT_EQ(victim.failure, "preempted: an order of higher priority needs its place");
  EXPECT_TRUE(victim.evicted);
  EXPECT_FALSE(Get("asker").evicted);
  EXPECT_EQ(victim.exit_code, 143);
  EXPECT_EQ(victim.ended_wall_micros, clock.WallMicros());
  EXPECT_EQ(node->Running(), std::vector<std::string>{"asker"});
  EXPECT_EQ(scheduler->Cards()[0].reserved_bytes, kCardBytes);
  EXPECT_TRUE(scheduler->Forget("spot"));
  ExpectNoDoubles();
}

TEST_F(SchedulerTest, WhatIsHeldUnderEachQuotaIsTold) {
  AddNode("n", {MakeCard("a"), MakeCard("b")});
  scheduler->Tick();
  EXPECT_TRUE(scheduler->Quotas().empty());
  placement::QueuePolicy policy;
  policy.quotas = {{.name = "all"},
                   {.name = "t-a", .parent = "all", .nominal = {1000, kCardBytes}},
                   {.name = "t-b", .parent = "all", .nominal = {1000, kCardBytes}}};
  ASSERT_TRUE(scheduler->SetPolicy(policy));
  for (const std::string id : {"one", "two"}) {
    placement::Order order = Spot(Ask(id, kCardBytes, 1000));
    order.request.tenant = "t-b";
    EXPECT_EQ(Must(scheduler->Submit(order, 1, Work())).phase, Phase::kRunning);
  }
  const auto uses = scheduler->Quotas();
  ASSERT_EQ(uses.size(), 3u);
  EXPECT_EQ(uses[0].quota.name, "all");
  EXPECT_EQ(uses[0].held, (placement::SliceAmount{2000, 2 * kCardBytes}));
  EXPECT_EQ(uses[1].held, placement::SliceAmount());
  EXPECT_EQ(uses[2].held, (placement::SliceAmount{2000, 2 * kCardBytes}));
  EXPECT_EQ(uses[2].borrowed, (placement::SliceAmount{1000, kCardBytes}));
  // The owner takes it back: of two spot orders that cost the same to stop, one goes.
  placement::Order owner{Ask("owner", kCardBytes, 1000)};
  owner.request.tenant = "t-a";
  EXPECT_EQ(Must(scheduler->Submit(owner, 1, Work())).phase, Phase::kRunning);
  EXPECT_EQ(scheduler->Quotas()[2].borrowed, placement::SliceAmount());
  EXPECT_TRUE(scheduler->Explain("owner")->quota.has_value());
  EXPECT_FALSE(scheduler->Explain("owner")->preemptible);
}

TEST_F(SchedulerTest, AStopThatFailsIsRepeatedAndNobodyTakesThePlaceMeanwhile) {
  const auto node = AddNode("n", {MakeCard("a")});
  scheduler->Tick();
  Must(scheduler->Submit(Spot(Ask("spot", kCardBytes, 1000)), 1, Work()));
  for (const auto when : {FakeWorld::When::kBefore, FakeWorld::When::kAfter}) {
    const std::string asker = when == FakeWorld::When::kBefore ? "first" : "second";
    world.FailCall(0, Code::kDeadlineExceeded, when);
    placement::Order order{Ask(asker, kCardBytes, 1000)};
    order.request.priority = when == FakeWorld::When::kBefore ? 200 : 500;
    order.preemptible = true;
    const InstanceStatus waits = Must(scheduler->Submit(order, 1, Work()));
    EXPECT_EQ(waits.phase, Phase::kQueued);
    EXPECT_EQ(waits.waiting_for, "eviction: waits until 1 order(s) have left");
    placement::Order small{Ask("small-" + asker, kGiB, 10)};
    small.request.priority = 50;
    EXPECT_EQ(Must(scheduler->Submit(small, 1, Work())).phase, Phase::kQueued);
    scheduler->Tick();
    scheduler->Tick();
    EXPECT_EQ(Get(asker).phase, Phase::kRunning) << Get(asker).waiting_for;
    Must(scheduler->Stop("small-" + asker, 1));
  }
  EXPECT_EQ(node->Running(), std::vector<std::string>{"second"});
  EXPECT_EQ(Get("first").failure, "preempted: an order of higher priority needs its place");
  ExpectNoDoubles();
}

TEST_F(SchedulerTest, AnAdoptedInstanceIsNobodysVictimUntilItIsKnown) {
  AddNode("n", {MakeCard("a")})->SetKeepsMemos(false);
  scheduler->Tick();
  const placement::Order spot = Spot(Ask("spot", kCardBytes, 1000));
  Must(scheduler->Submit(spot, 1, Work()));
  EXPECT_FALSE(Get("spot").adopted);
  Restart();
  scheduler->Tick();
  EXPECT_TRUE(Get("spot").adopted);
  EXPECT_EQ(Submit(Ask("asker", kCardBytes, 1000)).phase, Phase::kQueued);
  scheduler->Tick();
  EXPECT_EQ(Get("spot").phase, Phase::kRunning);
  EXPECT_FALSE(Must(scheduler->Submit(spot, 1, Work())).adopted);
  scheduler->Tick();
  EXPECT_EQ(Get("spot").phase, Phase::kEnded);
  EXPECT_EQ(Get("asker").phase, Phase::kRunning);
  ExpectNoDoubles();
}

// What a node keeps for the scheduler makes whoever runs there the same as before: nobody shares
// what he did not share, and he goes for whom he would have gone. The node of before there were
// memos cannot; there it holds from the moment somebody describes him.
TEST_F(SchedulerTest, ARestartRestoresWhoseItIsAndWhatNobodyShares) {
  const auto node = AddNode("n", {MakeCard("a")});
  placement::Order exclusive{Ask("x", 8 * kGiB)};
  exclusive.request.exclusive = true;
  placement::Order apart{Ask("x", 8 * kGiB)};
  apart.request.tenant = "ann";
  apart.request.apart = placement::Apart::kCard;
  placement::Order alone = apart;
  alone.request.apart = placement::Apart::kNode;
  placement::Order from = apart;
  from.request.apart_from = {"bob"};
  placement::Order whole{Ask("x", 8 * kGiB)};
  whole.request.isolation = placement::Isolation::kWhole;
  placement::Request other = Ask("y", kGiB, 100);
  other.tenant = "bob";
  std::uint64_t generation = 0;
  for (const placement::Order& order : {exclusive, apart, alone, from, whole}) {
    for (const bool keeps : {true, false}) {
      SCOPED_TRACE(std::to_string(generation));
      ++generation;
      node->SetKeepsMemos(keeps);
      scheduler->Tick();
      ASSERT_EQ(Must(scheduler->Submit(order, generation, Work())).phase, Phase::kRunning);
      ASSERT_EQ(Submit(other, generation).phase, Phase::kQueued);
      Must(scheduler->Stop("y", generation));
      Restart();
      scheduler->Tick();
      EXPECT_EQ(Get("x").adopted, !keeps);
      if (!keeps) Must(scheduler->Submit(order, generation, Work()));
      EXPECT_FALSE(Get("x").adopted);
      EXPECT_EQ(Submit(other, generation).phase, Phase::kQueued);
      EXPECT_EQ(scheduler->Explain("x")->tenant, order.request.tenant);
      EXPECT_EQ(scheduler->Cards()[0].reserved_bytes, 8 * kGiB);
      Must(scheduler->Stop("x", generation));
      EXPECT_EQ(Get("y").phase, Phase::kRunning);
      Must(scheduler->Stop("y", generation));
    }
  }
  ExpectNoDoubles();
}

TEST_F(SchedulerTest, ARestartKnowsWhoMayBeStoppedAndForWhom) {
  AddNode("n", {MakeCard("a")});
  scheduler->Tick();
  Must(scheduler->Submit(Spot(Ask("spot", kCardBytes, 1000)), 1, Work()));
  Restart();
  scheduler->Tick();
  EXPECT_FALSE(Get("spot").adopted);
  EXPECT_EQ(Submit(Ask("asker", kCardBytes, 1000)).phase, Phase::kRunning);
  EXPECT_EQ(Get("spot").phase, Phase::kEnded);
  EXPECT_EQ(Get("asker").phase, Phase::kRunning);
  ExpectNoDoubles();
}

TEST_F(SchedulerTest, AMemoThatMakesNoSenseCountsAsNone) {
  const auto node = AddNode("n", {MakeCard("a")});
  ASSERT_TRUE(
      node->Start({"x", "n", {{"a", 8 * kGiB, {333}}}}, 1, Work(), "{\"apart\":\"never\"}"));
  scheduler->Tick();
  EXPECT_TRUE(Get("x").adopted);
  EXPECT_EQ(scheduler->Cards()[0].reserved_bytes, 8 * kGiB);
}

constexpr std::uint8_t kShimAlone = placement::Bit(placement::Isolation::kShim);
constexpr std::uint8_t kBothModes = kShimAlone | placement::Bit(placement::Isolation::kSpatial);

TEST_F(SchedulerTest, AModeIsGivenOnlyWhereANodeOffersIt) {
  AddNode("a", {MakeCard("a1")})->SetOffers(kShimAlone);
  const auto b = AddNode("b", {MakeCard("b1")});
  b->SetOffers(kShimAlone);
  scheduler->Tick();
  placement::Request spatial = Ask("s");
  spatial.isolation = placement::Isolation::kSpatial;
  const auto refused = scheduler->Submit({spatial}, 1, Work());
  EXPECT_EQ(refused.error().code(), Code::kFailedPrecondition);
  EXPECT_TRUE(Contains(refused.error().message(), "isolation: asked spatial"))
      << refused.error().message();
  b->SetOffers(kBothModes);
  scheduler->Tick();
  EXPECT_EQ(Submit(spatial).placement->node, "b");
  EXPECT_EQ(Get("s").placement->shares[0].isolation, placement::Isolation::kSpatial);
  // A card holds one mode only, also after a restart, and the explanation says so.
  Restart();
  scheduler->Tick();
  EXPECT_EQ(Submit(Ask("shim")).placement->node, "a");
  spatial.id = "s2";
  spatial.memory_bytes = 20 * kGiB;
  EXPECT_EQ(Submit(spatial).phase, Phase::kQueued);
  const auto explained = scheduler->Explain("s2");
  ASSERT_TRUE(explained);
  const auto& filtered = explained->nodes.filtered;
  const auto rule = std::find_if(filtered.begin(), filtered.end(),
                                 [](const auto& one) { return one.rule == "isolation"; });
  ASSERT_NE(rule, filtered.end());
  EXPECT_EQ(rule->nodes, 1u);
  EXPECT_EQ(rule->example_node, "a");
  EXPECT_TRUE(Contains(rule->message, "asked spatial")) << rule->message;
  ExpectNoDoubles();
}

TEST_F(SchedulerTest, ACardThatSomebodyElseHoldsSpatiallyIsNotOfferedInTurns) {
  const auto node = AddNode("n", {MakeCard("a"), MakeCard("b")});
  node->SetOffers(kBothModes);
  device::Share theirs{"a", kGiB, {100}};
  theirs.isolation = placement::Isolation::kSpatial;
  node->SetForeign({theirs});
  scheduler->Tick();
  EXPECT_EQ(Submit(Ask("shim", kGiB, 100)).placement->shares[0].card_uuid, "b");
  placement::Request spatial = Ask("s", kGiB, 100);
  spatial.isolation = placement::Isolation::kSpatial;
  EXPECT_EQ(Submit(spatial).placement->shares[0].card_uuid, "a");
}

TEST_F(SchedulerTest, ANodeWithoutStrangersTakesWhoStaysAlone) {
  AddNode("n", {MakeCard("a")});
  scheduler->Tick();
  placement::Request alone = Ask("x");
  alone.tenant = "ann";
  alone.apart = placement::Apart::kNode;
  EXPECT_EQ(Submit(alone).phase, Phase::kRunning);
}

TEST_F(SchedulerTest, AGangStandsInOneRackAsTheNodesSay) {
  const std::map<std::string, std::string> racks = {{"a", "r2"}, {"b", "r1"}, {"c", "r1"}};
  for (const auto& [name, rack] : racks) AddNode(name, {MakeCard(name + "1")})->SetRack(rack);
  scheduler->Tick();
  for (const char* id : {"g1", "g2"}) {
    placement::Order member{Ask(id, kCardBytes, 1000)};
    member.gang = "g";
    member.gang_size = 2;
    Must(scheduler->Submit(member, 1, Work()));
  }
  scheduler->Tick();
  std::set<std::string> at;
  for (const char* id : {"g1", "g2"}) {
    ASSERT_EQ(Get(id).phase, Phase::kRunning) << Get(id).waiting_for;
    at.insert(Get(id).placement->node);
  }
  EXPECT_EQ(at, (std::set<std::string>{"b", "c"}));
}

TEST_F(SchedulerTest, QuotasChangeWhileEverythingRuns) {
  const auto node = AddNode("n", {MakeCard("a"), MakeCard("b")});
  scheduler->Tick();
  const auto submit = [&](const std::string& id) {
    placement::Order order{Ask(id)};
    order.request.tenant = "acme";
    return Must(scheduler->Submit(order, 1, Work()));
  };
  for (int i = 0; i < 4; ++i) EXPECT_EQ(submit("i" + std::to_string(i)).phase, Phase::kRunning);
  placement::QueuePolicy policy;
  placement::Quota quota;
  quota.name = "acme";
  quota.nominal = {999, 24 * kGiB};
  policy.quotas = {quota};
  ASSERT_TRUE(scheduler->SetPolicy(policy));
  EXPECT_EQ(node->Running().size(), 4u);
  EXPECT_EQ(submit("i4").waiting_for,
            "quota: compute: asked 0.333 cards, 0 cards left under the nominal quota (nominal "
            "0.999 cards, held 1.332 cards)");
  EXPECT_EQ(Submit(Ask("stranger")).phase, Phase::kRunning);
  Must(scheduler->Stop("i0", 1));
  EXPECT_EQ(Get("i4").phase, Phase::kQueued);
  Must(scheduler->Stop("i1", 1));
  EXPECT_EQ(Get("i4").phase, Phase::kRunning);
  EXPECT_EQ(submit("i5").phase, Phase::kQueued);
  policy.quotas[0].parent = "nobody";
  EXPECT_EQ(scheduler->SetPolicy(policy).error().field(), "quotas[0].parent");
  EXPECT_EQ(Get("i5").phase, Phase::kQueued);
  ASSERT_TRUE(scheduler->SetPolicy({}));
  EXPECT_EQ(Get("i5").phase, Phase::kRunning);
  std::uint64_t reserved = 0;
  for (const CardStatus& card : scheduler->Cards()) reserved += card.reserved_bytes;
  EXPECT_EQ(reserved, 5 * 8 * kGiB);
  ExpectNoDoubles();
}

TEST_F(SchedulerTest, AnOrderIsExplained) {
  AddNode("a", {MakeCard("a1")});
  AddNode("b", {MakeCard("b1", "NVIDIA H200")});
  AddNode("c", {MakeCard("c1")});
  nodes["c"]->SetOutage(true);
  EXPECT_EQ(scheduler->Explain("x").error().code(), Code::kUnavailable);
  nodes["c"]->SetOutage(false);
  scheduler->Tick();
  nodes["c"]->SetOutage(true);
  scheduler->Tick();
  EXPECT_EQ(scheduler->Explain("x").error().code(), Code::kNotFound);
  placement::QueuePolicy policy;
  placement::Quota quota;
  quota.name = "acme";
  quota.nominal = {3000, 72 * kGiB};
  policy.quotas = {quota};
  ASSERT_TRUE(scheduler->SetPolicy(policy));
  placement::Order order{Ask("runs", 16 * kGiB)};
  order.request.model = "A10";
  order.request.tenant = "acme";
  EXPECT_EQ(Must(scheduler->Submit(order, 1, Work())).placement->node, "a");
  order.request.id = "waits";
  Must(scheduler->Submit(order, 1, Work()));
  order.request.id = "behind";
  order.request.tenant = "other";
  Must(scheduler->Submit(order, 1, Work()));
  const auto explained = scheduler->Explain("behind");
  ASSERT_TRUE(explained);
  EXPECT_EQ(explained->position, 2u);
  EXPECT_EQ(explained->waiting, 2u);
  EXPECT_EQ(explained->rule, "node");
  EXPECT_EQ(explained->status.waiting_for, "node: c is away: nobody answers");
  ASSERT_EQ(explained->ahead.size(), 1u);
  EXPECT_EQ(explained->ahead[0].instance_id + " of " + explained->ahead[0].tenant, "waits of acme");
  EXPECT_FALSE(explained->quota);
  std::map<std::string, std::uint32_t> filtered;
  for (const auto& rule : explained->nodes.filtered) filtered[rule.rule] = rule.nodes;
  EXPECT_EQ(filtered,
            (std::map<std::string, std::uint32_t>{{"avoid", 1}, {"memory", 1}, {"model", 1}}));
  EXPECT_TRUE(explained->nodes.best.empty());
  // One that runs: the nodes as if it were not there; and the books are as before.
  const auto runs = scheduler->Explain("runs");
  ASSERT_TRUE(runs);
  EXPECT_EQ(runs->position, 0u);
  EXPECT_EQ(runs->quota->held, (placement::SliceAmount{333, 16 * kGiB}));
  ASSERT_EQ(runs->nodes.best.size(), 1u);
  EXPECT_EQ(runs->nodes.best[0].node, "a");
  EXPECT_EQ(scheduler->Cards()[0].reserved_bytes, 16 * kGiB);
}

// With its own threads: many callers, many places, nothing lost, nothing twice.
TEST_F(SchedulerTest, ManyCallersAtOnce) {
  Restart({.period_millis = 1, .starters = 2});
  const auto a = AddNode("a", {MakeCard("a1"), MakeCard("a2")});
  const auto b = AddNode("b", {MakeCard("b1")});
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 40; ++i) {
        const std::string id = "t" + std::to_string(t) + "-" + std::to_string(i);
        if (!scheduler->Submit({Ask(id)}, 1, Work())) ++wrong;
        // A generous wait for its turn; others leave all the time.
        bool running = false;
        for (int tries = 0; tries < 60'000 && !running; ++tries) {
          const auto status = scheduler->Get(id);
          running = status && status->phase == Phase::kRunning;
          if (!running) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        if (!running) ++wrong;
        if (i % 3 == 0) {
          (t % 2 == 0 ? a : b)->Exit(id, 0);
        }
        const auto stopped = scheduler->Stop(id, 1);
        if (!stopped || stopped->phase != Phase::kEnded) ++wrong;
        if (!scheduler->Forget(id)) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  ExpectNoDoubles();
  EXPECT_EQ(a->Known() + b->Known(), 0u);
  EXPECT_TRUE(scheduler->List()->empty());
  for (const CardStatus& card : scheduler->Cards()) EXPECT_LE(card.reserved_bytes, kCardBytes);
  scheduler->Tick();
  scheduler->Tick();
  for (const CardStatus& card : scheduler->Cards()) EXPECT_EQ(card.reserved_bytes, 0u);
}

}  // namespace
}  // namespace tessera::scheduler
