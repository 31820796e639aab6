// One story, in which the n-th call to any node fails, for all n, before or after its effect. A
// client that repeats what was not confirmed must reach the same end as without the failure, and
// nothing may run twice.
#include <gtest/gtest.h>

#include "scheduler/fake_node.h"
#include "scheduler/scheduler.h"

namespace tessera::scheduler {
namespace {

constexpr int kRepeatsMax = 30;

placement::Request Ask(int i) {
  placement::Request request;
  request.id = "i" + std::to_string(i);
  request.memory_bytes = 8 * kGiB;
  request.compute = {333};
  request.cpu_millis = 1000;
  request.ram_bytes = kGiB;
  return request;
}

struct Story {
  explicit Story(bool frees_on_exit) {
    for (const char* name : {"a", "b"}) {
      device::Card card;
      card.uuid = std::string("card-") + name;
      card.memory_bytes = 24 * kGiB;
      nodes[name] = std::make_shared<FakeNode>(world, clock, name, std::vector<device::Card>{card});
      nodes[name]->SetFreesOnExit(frees_on_exit);
    }
    Restart();
  }
  void Restart() {
    scheduler = std::make_unique<Scheduler>(Options{.period_millis = 0}, clock);
    for (const auto& [name, node] : nodes) ASSERT_TRUE(scheduler->AddNode(name, node));
  }
  void Tick(int times) {
    for (int i = 0; i < times; ++i) {
      clock.AdvanceMicros(1'000'000);
      scheduler->Tick();
    }
  }
  void Submit(int i, std::uint64_t generation) {
    workload.argv = {"work"};
    workload.cpu_millis = 1000;
    workload.ram_bytes = kGiB;
    for (int repeat = 0; repeat < kRepeatsMax; ++repeat) {
      if (scheduler->Submit({Ask(i)}, generation, workload)) return;
      Tick(1);
    }
    FAIL() << "submit i" << i;
  }
  void Stop(int i, std::uint64_t generation) {
    for (int repeat = 0; repeat < kRepeatsMax; ++repeat) {
      const auto stopped = scheduler->Stop("i" + std::to_string(i), generation);
      if (stopped) {
        ASSERT_EQ(stopped->phase, Phase::kEnded);
        return;
      }
      Tick(1);
    }
    FAIL() << "stop i" << i;
  }
  void Forget(int i) {
    for (int repeat = 0; repeat < kRepeatsMax; ++repeat) {
      if (scheduler->Forget("i" + std::to_string(i))) return;
      Tick(1);
    }
    FAIL() << "forget i" << i;
  }
  void Exit(int i) {
    for (const auto& [name, node] : nodes) node->Exit("i" + std::to_string(i), 5);
  }

  // Six fill two cards, two wait; one is stopped, one exits, the scheduler restarts, one is started
  // anew.
  void Run() {
    Tick(2);
    for (int i = 0; i < 8; ++i) Submit(i, 1);
    Tick(2);
    Stop(1, 1);
    Tick(1);
    Exit(2);
    Tick(2);
    Forget(1);
    Restart();
    for (int i : {0, 3, 4, 5, 6, 7}) Submit(i, 1);
    Tick(3);
    Stop(3, 1);
    Submit(3, 2);
    Stop(7, 1);
    Forget(7);
    Tick(8);
  }

  // Whatever failed on the way, this is how it must end, one undisturbed poll later at most.
  void Check() {
    world.FailCall(-1, Code::kOk, FakeWorld::When::kBefore);
    Tick(1);
    ASSERT_TRUE(world.doubles().empty()) << *world.doubles().begin() << " ran twice";
    std::set<std::string> truth;
    for (const auto& [name, node] : nodes) {
      for (const std::string& id : node->Running()) truth.insert(id);
    }
    EXPECT_EQ(truth, (std::set<std::string>{"i0", "i3", "i4", "i5", "i6"}));
    const auto listed = scheduler->List();
    ASSERT_TRUE(listed) << listed.error().ToString();
    std::set<std::string> books;
    std::map<std::string, std::uint64_t> reserved;
    for (const InstanceStatus& status : *listed) {
      if (status.phase == Phase::kEnded) {
        EXPECT_EQ(status.instance_id, "i2");
        continue;
      }
      ASSERT_EQ(status.phase, Phase::kRunning) << status.instance_id << ": " << status.waiting_for;
      books.insert(status.instance_id);
      EXPECT_EQ(status.generation, status.instance_id == "i3" ? 2u : 1u);
      EXPECT_EQ(status.seen_wall_micros, clock.WallMicros());
      ASSERT_EQ(status.placement->shares.size(), 1u);
      reserved[status.placement->shares[0].card_uuid] += 8 * kGiB;
    }
    EXPECT_EQ(books, truth);
    // Three ledgers agree: the instances', the engine's, the node's.
    for (const CardStatus& card : scheduler->Cards()) {
      EXPECT_EQ(card.reserved_bytes, reserved[card.card.uuid]);
      EXPECT_EQ(nodes[card.node]->Reserved(card.card.uuid).memory_bytes, reserved[card.card.uuid]);
    }
  }

  os::FakeClock clock;
  FakeWorld world;
  std::map<std::string, std::shared_ptr<FakeNode>> nodes;
  runtime::Workload workload;
  std::unique_ptr<Scheduler> scheduler;
};

struct Fault {
  Code code;
  FakeWorld::When when;
  bool frees_on_exit;
};

class SchedulerFaults : public testing::TestWithParam<Fault> {
 protected:
  // Tells the story once with every call answered, then once for each call that fails.
  template <typename Told, typename... Arguments>
  void FailEveryCall(int more_than, Arguments... arguments) {
    int calls = 0;
    {
      Told calm(arguments...);
      calm.world.FailCall(-1, Code::kOk, FakeWorld::When::kBefore);
      ASSERT_NO_FATAL_FAILURE(calm.Run());
      calls = calm.world.calls();
      ASSERT_NO_FATAL_FAILURE(calm.Check());
      ASSERT_GT(calls, more_than);
    }
    for (int n = 0; n < calls; ++n) {
      SCOPED_TRACE("call " + std::to_string(n));
      Told story(arguments...);
      story.world.FailCall(n, GetParam().code, GetParam().when);
      ASSERT_NO_FATAL_FAILURE(story.Run());
      ASSERT_NO_FATAL_FAILURE(story.Check());
      if (HasFailure()) return;
    }
  }
};

TEST_P(SchedulerFaults, AnyOneCallMayFail) { FailEveryCall<Story>(60, GetParam().frees_on_exit); }

// Six spot slices fill two cards; a whole card is asked for with a higher priority, so three must
// go. Whatever fails on the way, three have ended with the reason stated, three run, the asker
// runs, and all ledgers agree.
struct PreemptionStory : Story {
  // How the scheduler starts anew: not at all, over nodes of before there were memos, where
  // everybody is described again, or over nodes that kept what was said.
  enum class Restarts { kNever, kDescribed, kRemembered };
  PreemptionStory(bool frees_on_exit, Restarts restarts)
      : Story(frees_on_exit), restarts_(restarts) {
    for (const auto& [name, node] : nodes) node->SetKeepsMemos(restarts != Restarts::kDescribed);
  }
  static placement::Order Spot(int i) {
    placement::Order order{Ask(i)};
    order.request.priority = -100;
    order.preemptible = true;
    return order;
  }
  void Submit(const placement::Order& order) {
    for (int repeat = 0; repeat < kRepeatsMax; ++repeat) {
      if (scheduler->Submit(order, 1, workload)) return;
      Tick(1);
    }
    FAIL() << "submit " << order.request.id;
  }
  void Run() {
    workload.argv = {"work"};
    workload.cpu_millis = 1000;
    workload.ram_bytes = kGiB;
    Tick(2);
    for (int i = 0; i < 6; ++i) Submit(Spot(i));
    Tick(3);
    placement::Order whole{Ask(9)};
    whole.request.memory_bytes = 24 * kGiB;
    whole.request.compute = {1000};
    Submit(whole);
    Tick(1);
    if (restarts_ == Restarts::kNever) {
      Tick(8);
      return;
    }
    // Nothing is lost of it when the scheduler starts anew in the middle.
    Restart();
    Submit(whole);
    const std::vector<InstanceStatus> listed = Listed();
    for (const InstanceStatus& status : listed) {
      if (restarts_ == Restarts::kDescribed && status.adopted && status.instance_id != "i9") {
        Submit(Spot(std::stoi(status.instance_id.substr(1))));
      }
    }
    Tick(8);
  }
  // As a client that asks until it is told.
  std::vector<InstanceStatus> Listed() {
    for (int repeat = 0; repeat < kRepeatsMax; ++repeat) {
      if (auto listed = scheduler->List()) return *listed;
      Tick(1);
    }
    return {};
  }
  void Check() {
    world.FailCall(-1, Code::kOk, FakeWorld::When::kBefore);
    Tick(1);
    ASSERT_TRUE(world.doubles().empty()) << *world.doubles().begin() << " ran twice";
    std::set<std::string> truth;
    for (const auto& [name, node] : nodes) {
      for (const std::string& id : node->Running()) truth.insert(id);
    }
    EXPECT_EQ(truth.size(), 4u);
    EXPECT_EQ(truth.count("i9"), 1u);
    std::map<std::string, std::uint64_t> reserved;
    const std::vector<InstanceStatus> listed = Listed();
    for (const InstanceStatus& status : listed) {
      if (status.phase == Phase::kEnded) {
        // A scheduler that was started anew no longer knows why.
        EXPECT_TRUE(restarts_ != Restarts::kNever ||
                    status.failure == "preempted: an order of higher priority needs its place")
            << status.instance_id << ": " << status.failure;
        continue;
      }
      ASSERT_EQ(status.phase, Phase::kRunning) << status.instance_id << ": " << status.waiting_for;
      EXPECT_FALSE(status.adopted) << status.instance_id;
      EXPECT_EQ(truth.count(status.instance_id), 1u) << status.instance_id;
      const device::Share& share = status.placement->shares.at(0);
      reserved[share.card_uuid] += share.memory_bytes;
    }
    for (const CardStatus& card : scheduler->Cards()) {
      EXPECT_EQ(card.reserved_bytes, reserved[card.card.uuid]) << card.card.uuid;
      EXPECT_EQ(card.reserved_bytes, 24 * kGiB);
      EXPECT_EQ(nodes[card.node]->Reserved(card.card.uuid).memory_bytes, reserved[card.card.uuid]);
    }
  }

  const Restarts restarts_;
};

TEST_P(SchedulerFaults, AnyCallMayFailWhileSomebodyGoesForAnother) {
  using Restarts = PreemptionStory::Restarts;
  for (const auto restarts : {Restarts::kNever, Restarts::kDescribed, Restarts::kRemembered}) {
    FailEveryCall<PreemptionStory>(40, GetParam().frees_on_exit, restarts);
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, SchedulerFaults,
    testing::Values(Fault{Code::kUnavailable, FakeWorld::When::kBefore, true},
                    Fault{Code::kUnavailable, FakeWorld::When::kAfter, true},
                    Fault{Code::kDeadlineExceeded, FakeWorld::When::kAfter, false},
                    Fault{Code::kInternal, FakeWorld::When::kBefore, false},
                    Fault{Code::kInternal, FakeWorld::When::kAfter, true},
                    Fault{Code::kResourceExhausted, FakeWorld::When::kBefore, true}));

}  // namespace
}  // namespace tessera::scheduler
