// For the guest's tests on the software GPU: tenant programs inside a slice, a small node beside
// them, and the card's own state, which the guest does not stand before, as the witness.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "guest/test_cards.h"
#include "guest/test_node.h"
#include "guest/test_tenant.h"
#include "simgpu/state/state.h"

// Where the build has put things; a test of these programs is told by its target.
#if !defined(TESSERA_GUEST_LIBRARY)
#define TESSERA_GUEST_LIBRARY ""
#define TESSERA_GUEST_TENANT ""
#define TESSERA_GUEST_DOOR ""
#define TESSERA_SIMGPU_FOLDER ""
#endif

namespace tessera::guest {

using Answer = TenantAnswer;

// The environment of a program on the software GPU, under the preload if there is a slice's socket.
inline TestProgram::Environment InSlice(const std::string& socket, const std::string& visible = "",
                                        const char* driver = TESSERA_SIMGPU_FOLDER) {
  TestProgram::Environment environment = {{"LD_LIBRARY_PATH", driver}};
  if (!socket.empty()) {
    environment.emplace_back("LD_PRELOAD", TESSERA_GUEST_LIBRARY);
    environment.emplace_back(wire::kSocketVariable, socket);
  }
  if (!visible.empty()) environment.emplace_back("CUDA_VISIBLE_DEVICES", visible);
  return environment;
}

class Program : public TestProgram {
 public:
  Program(const std::string& socket, const std::vector<std::string>& command,
          const std::string& visible = "", const char* driver = TESSERA_SIMGPU_FOLDER)
      : TestProgram(command, InSlice(socket, visible, driver)) {}
};

// The tenant program of testdata/.
class Tenant : public TestTenant {
 public:
  explicit Tenant(const std::string& socket, const std::string& visible = "",
                  const std::string& path = TESSERA_GUEST_TENANT)
      : TestTenant({path}, InSlice(socket, visible)) {}
};

// Watches what all processes together hold of a card, from outside. The card's figures are one a
// process and read one after another, so one reading may add what a process has given back to what
// another took since: only two equal readings in a row are a moment.
class Witness {
 public:
  Witness(simgpu::State* state, uint32_t card)
      : thread_([this, state, card] {
          while (!stop_) {
            const auto first = Read(state, card);
            if (first != Read(state, card)) continue;
            uint64_t used = 0;
            for (const auto& [pid, bytes] : first) used += bytes;
            if (used > highest_) highest_ = used;
            ++samples_;
          }
        }) {}
  ~Witness() { Stop(); }
  Witness(const Witness&) = delete;
  Witness& operator=(const Witness&) = delete;
  void Stop() {
    if (!thread_.joinable()) return;
    stop_ = true;
    thread_.join();
  }
  uint64_t highest() const { return highest_; }
  uint64_t samples() const { return samples_; }

 private:
  static std::vector<std::pair<int, uint64_t>> Read(simgpu::State* state, uint32_t card) {
    std::vector<std::pair<int, uint64_t>> all;
    for (const auto& use : state->Processes(card, 0)) all.emplace_back(use.pid, use.usage.Total());
    return all;
  }
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> highest_{0}, samples_{0};
  std::thread thread_;
};

// The node and its slice come per test.
class SliceTest : public TwoCardsTest {
 protected:
  std::unique_ptr<TestNode> Node(uint64_t limit, std::vector<uint32_t> cards = {0},
                                 uint64_t context = 0) {
    std::vector<TestNode::Card> list;
    for (uint32_t card : cards) list.push_back({state_->card(card).uuid, limit, context});
    auto node = std::make_unique<TestNode>(list, [cards](pid_t pid, uint32_t card) -> int64_t {
      return static_cast<int64_t>(RealOf(pid, cards[card]));
    });
    EXPECT_TRUE(node->Listen(Socket()));
    return node;
  }
  static uint64_t UsedOf(TestNode& node) { return wire::Load(&node.usage()->cards[0].used); }
  std::string Socket() const { return folder_ + "/s"; }
};

}  // namespace tessera::guest
