// For the guest's tests on the software GPU: tenant programs inside a slice, a small node beside
// them, and the card's own state, which the guest does not stand before, as the witness.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "guest/test_node.h"
#include "simgpu/state/state.h"

// Where the build has put things; a test of these programs is told by its target.
#if !defined(TESSERA_GUEST_LIBRARY)
#define TESSERA_GUEST_LIBRARY ""
#define TESSERA_GUEST_TENANT ""
#define TESSERA_GUEST_DOOR ""
#define TESSERA_SIMGPU_FOLDER ""
#endif

namespace tessera::guest {

inline constexpr uint64_t kMiB = 1 << 20;
inline constexpr uint64_t kGranule = 2 * kMiB;

struct Answer {
  unsigned code = 7777;
  unsigned long long a = 0, b = 0;
};

// A program on the software GPU, under the preload if there is a slice's socket, spoken to line by
// line.
class Program {
 public:
  Program(const std::string& socket, const std::vector<std::string>& command,
          const std::string& visible = "", const char* driver = TESSERA_SIMGPU_FOLDER) {
    int down[2], up[2];
    if (pipe2(down, O_CLOEXEC) != 0 || pipe2(up, O_CLOEXEC) != 0) std::abort();
    pid_ = fork();
    if (pid_ == 0) {
      dup2(down[0], 0);
      dup2(up[1], 1);
      setenv("LD_LIBRARY_PATH", driver, 1);
      if (!socket.empty()) {
        setenv("LD_PRELOAD", TESSERA_GUEST_LIBRARY, 1);
        setenv(wire::kSocketVariable, socket.c_str(), 1);
      }
      if (!visible.empty()) setenv("CUDA_VISIBLE_DEVICES", visible.c_str(), 1);
      std::vector<char*> arguments;
      for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
      arguments.push_back(nullptr);
      execv(arguments[0], arguments.data());
      _exit(127);
    }
    close(down[0]);
    close(up[1]);
    in_ = fdopen(down[1], "w");
    out_ = fdopen(up[0], "r");
  }
  ~Program() { End(); }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  void Say(const std::string& line) {
    std::fprintf(in_, "%s\n", line.c_str());
    std::fflush(in_);
  }
  std::FILE* out() { return out_; }
  void Kill() { kill(pid_, SIGKILL); }
  // Waits for its end; what it ended with, as waitpid says it.
  int End() {
    if (pid_ <= 0) return 0;
    std::fclose(in_);
    std::fclose(out_);
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = 0;
    return status;
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = 0;
  std::FILE *in_ = nullptr, *out_ = nullptr;
};

// The tenant program of testdata/.
class Tenant : public Program {
 public:
  explicit Tenant(const std::string& socket, const std::string& visible = "",
                  const std::string& path = TESSERA_GUEST_TENANT)
      : Program(socket, {path}, visible) {}

  void Send(const std::string& command, unsigned long long n = 0) {
    Say(command + " " + std::to_string(n));
  }
  Answer Receive() {
    Answer answer;
    if (std::fscanf(out(), "%u %llu %llu", &answer.code, &answer.a, &answer.b) != 3)
      answer.code = 6666;
    return answer;
  }
  Answer Do(const std::string& command, unsigned long long n = 0) {
    Send(command, n);
    return Receive();
  }
  unsigned Code(const std::string& command, unsigned long long n = 0) {
    return Do(command, n).code;
  }
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

// Two cards; the node and its slice come per test. The state folder is one a test program, because
// a State is never closed.
class SliceTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    char folder[] = "/tmp/tsXXXXXX";
    if (mkdtemp(folder) == nullptr) std::abort();
    folder_ = folder;
    setenv("SIMGPU_STATE", (folder_ + "/g").c_str(), 1);
    setenv("SIMGPU_CARDS", "T4,T4", 1);
    std::string error;
    state_ = simgpu::State::Open(&error);
    ASSERT_NE(state_, nullptr) << error;
  }
  static void TearDownTestSuite() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
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
  static uint64_t RealOf(pid_t pid, uint32_t card) {
    for (const auto& process : state_->Processes(card, 0)) {
      if (process.pid == pid) return process.usage.Total();
    }
    return 0;
  }
  static uint64_t UsedOf(TestNode& node) { return wire::Load(&node.usage()->cards[0].used); }
  std::string Socket() const { return folder_ + "/s"; }
  static inline std::string folder_;
  static inline simgpu::State* state_ = nullptr;
};

}  // namespace tessera::guest
