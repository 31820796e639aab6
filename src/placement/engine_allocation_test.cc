// That the engine's decisions allocate nothing in the steady state: every allocation of the program
// is counted.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <vector>

#include "base/rng.h"
#include "placement/engine.h"

namespace {
std::atomic<std::uint64_t> allocations{0};

void* Allocate(std::size_t bytes) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  void* const memory = std::malloc(bytes);
  if (memory == nullptr) std::abort();
  return memory;
}
}  // namespace

void* operator new(std::size_t bytes) { return Allocate(bytes); }
void* operator new[](std::size_t bytes) { return Allocate(bytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace tessera::placement {
namespace {

// Strings longer than what a std::string holds without the heap.
std::string Uuid(int node, int card) {
  return "GPU-00000000-0000-0000-" + std::to_string(100'000 + node) + std::to_string(10 + card);
}

void Build(Engine* engine, const char* policy) {
  for (const char* pool : {"pool of long ago and far away", "second pool, no nearer"}) {
    ASSERT_TRUE(engine->SetPolicy(pool, policy));
    for (int n = 0; n < 12; ++n) {
      NodeInventory node;
      node.name = pool + (" node-" + std::to_string(100 + n));
      node.pool = pool;
      node.cpu_millis = 128'000;
      node.ram_bytes = 1024 * kGiB;
      node.disk_bytes = 4096 * kGiB;
      for (int c = 0; c < 8; ++c) {
        device::Card card;
        card.uuid = node.name + Uuid(n, c);
        card.model = n % 3 == 0 ? "NVIDIA A100-SXM4-80GB" : "NVIDIA A10 with 24 GB";
        card.memory_bytes = (n % 3 == 0 ? 80 : 24) * kGiB;
        card.numa_node = c / 4;
        for (int peer = 0; peer < 8; ++peer) {
          card.links.push_back({node.name + Uuid(n, peer), c / 4 == peer / 4 ? 20u : 10u});
        }
        node.cards.push_back(card);
      }
      ASSERT_TRUE(engine->UpdateNode(node));
    }
  }
}

std::vector<Request> Requests() {
  std::vector<Request> all(8);
  for (std::size_t i = 0; i < all.size(); ++i) {
    Request& one = all[i];
    one.id = "order 00000000-0000-0000-0000-000000000000";
    one.tenant = "a tenant with a long name " + std::to_string(i % 3);
    one.memory_bytes = 8 * kGiB;
    one.compute = {250};
    one.cpu_millis = 2000;
    one.ram_bytes = 8 * kGiB;
    one.disk_bytes = 50 * kGiB;
  }
  all[1].model = "a NoN-existing one";
  all[2].models = {"nvidia A100-sxm4", "something else altogether"};
  all[2].models_excluded = {"one that no node has at all"};
  all[3].exclusive = true;
  all[4].slices = 4;
  all[4].numa = Numa::kPrefer;
  all[4].links = Links::kBest;
  all[5].slices = 2;
  all[5].node_policy = Policy::kSpread;
  all[5].pool = "second pool, no nearer";
  all[6].apart = Apart::kCard;
  all[6].apart_from = {"a tenant with a long name 1"};
  all[7].card_uuid = "second pool, no nearer node-103" + Uuid(3, 5);
  return all;
}

TEST(EngineAllocations, NoDecisionMakesOneInTheSteadyState) {
  for (const char* policy : {"binpack", "spread", "tessera"}) {
    SCOPED_TRACE(policy);
    Engine engine;
    ASSERT_NO_FATAL_FAILURE(Build(&engine, policy));
    std::vector<Request> requests = Requests();
    Rng rng(7);
    std::vector<std::string> held;
    held.reserve(1000);
    std::string leaving;
    int placed = 0, refused = 0;
    std::uint64_t number = 1'000'000'000;
    const auto run = [&](int decisions, std::size_t held_max) {
      std::uint64_t made = 0;
      for (int i = 0; i < decisions; ++i) {
        Request& request = requests[rng.Below(requests.size())];
        const std::string digits = std::to_string(++number);
        request.id.replace(request.id.size() - digits.size(), digits.size(), digits);
        const bool goes = held.size() >= held_max;
        if (goes) {
          std::swap(held[rng.Below(held.size())], held.back());
          leaving = held.back();
          held.pop_back();
        }
        const std::uint64_t before = allocations.load();
        if (goes) engine.Release(leaving);
        const Placement* const answer = engine.Place(request);
        if (answer == nullptr) engine.Release(request.id);  // it does not wait
        made += allocations.load() - before;
        ++(answer != nullptr ? placed : refused);
        if (answer != nullptr) held.push_back(answer->request_id);
      }
      return made;
    };
    EXPECT_GT(run(2000, 160), 0u) << "the counter counts";
    engine.Learn();
    run(500, 120);
    EXPECT_EQ(run(5000, 120), 0u);
    EXPECT_GT(placed, 4000);
    EXPECT_GT(refused, 500);
  }
}

}  // namespace
}  // namespace tessera::placement
