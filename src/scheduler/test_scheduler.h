// A scheduler without threads over fake nodes, for the tests of this room.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "scheduler/fake_node.h"
#include "scheduler/scheduler.h"

namespace tessera::scheduler {

inline constexpr std::uint64_t kCardBytes = 24 * kGiB;

inline device::Card MakeCard(std::string uuid, std::string model = "NVIDIA A10") {
  device::Card card;
  card.uuid = std::move(uuid);
  card.model = std::move(model);
  card.memory_bytes = kCardBytes;
  return card;
}

inline placement::Request Ask(std::string id, std::uint64_t memory = 8 * kGiB,
                              std::uint32_t permille = 333) {
  placement::Request request;
  request.id = std::move(id);
  request.memory_bytes = memory;
  request.compute = {permille};
  request.cpu_millis = 1000;
  request.ram_bytes = kGiB;
  request.priority = 500;
  return request;
}

inline runtime::Workload Work() {
  runtime::Workload workload;
  workload.argv = {"work"};
  workload.cpu_millis = 1000;
  workload.ram_bytes = kGiB;
  return workload;
}

inline bool Contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

// A scheduler without threads over fake nodes.
class SchedulerTest : public testing::Test {
 protected:
  std::shared_ptr<FakeNode> AddNode(const std::string& name, std::vector<device::Card> cards) {
    auto node = std::make_shared<FakeNode>(world, clock, name, std::move(cards));
    nodes[name] = node;
    EXPECT_TRUE(scheduler->AddNode(name, node));
    return node;
  }
  void Restart(Options options = {.period_millis = 0}) {
    scheduler = std::make_unique<Scheduler>(options, clock);
    for (const auto& [name, node] : nodes) EXPECT_TRUE(scheduler->AddNode(name, node));
  }
  InstanceStatus Must(Result<InstanceStatus> result) {
    EXPECT_TRUE(result) << (result ? "" : result.error().ToString());
    return result ? *result : InstanceStatus();
  }
  InstanceStatus Submit(const placement::Request& request, std::uint64_t generation = 1) {
    return Must(scheduler->Submit({request}, generation, Work()));
  }
  InstanceStatus Get(const std::string& id) { return Must(scheduler->Get(id)); }
  void ExpectNoDoubles() { EXPECT_TRUE(world.doubles().empty()) << *world.doubles().begin(); }

  os::FakeClock clock;
  FakeWorld world;
  std::map<std::string, std::shared_ptr<FakeNode>> nodes;
  std::unique_ptr<Scheduler> scheduler =
      std::make_unique<Scheduler>(Options{.period_millis = 0}, clock);
};

}  // namespace tessera::scheduler
