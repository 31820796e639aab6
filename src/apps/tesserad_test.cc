// The real daemon, the real guest library and plain driver programs on software GPUs: two slices on
// one card, a daemon that is killed and started again under them, and nothing lost.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>

#include <gtest/gtest.h>

#include "apps/node_client.h"
#include "base/units.h"
#include "http/json.h"
#include "os/scratch.h"
#include "simgpu/state/state.h"

namespace tessera::apps {
namespace {

bool Eventually(const std::function<bool()>& holds) {
  for (int i = 0; i < 6000; ++i) {
    if (holds()) return true;
    usleep(10'000);
  }
  return false;
}

// A child that waits for a word before it becomes the program, so that it can be made a member
// first.
class Program {
 public:
  Program(std::vector<std::string> argv, std::vector<std::string> environment) {
    EXPECT_EQ(pipe2(in_, O_CLOEXEC), 0);
    EXPECT_EQ(pipe2(out_, O_CLOEXEC), 0);
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      dup2(in_[0], 0);
      dup2(out_[1], 1);
      char go = 0;
      if (read(0, &go, 1) != 1) _exit(1);
      for (std::string& variable : environment) putenv(variable.data());
      std::vector<char*> words;
      for (std::string& word : argv) words.push_back(word.data());
      words.push_back(nullptr);
      execv(words[0], words.data());
      _exit(127);
    }
    close(in_[0]);
    close(out_[1]);
  }
  ~Program() {
    Kill();
    close(in_[1]);
    close(out_[0]);
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  pid_t pid() const { return pid_; }
  void Tell(const std::string& text) {
    EXPECT_EQ(write(in_[1], text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  std::string Line() {
    std::string line;
    for (;;) {
      pollfd waiter{out_[0], POLLIN, 0};
      if (poll(&waiter, 1, 60'000) != 1) return line + " (no answer)";
      char c = 0;
      if (read(out_[0], &c, 1) != 1) return line + " (ended)";
      if (c == '\n') return line;
      line += c;
    }
  }
  std::string Ask(const std::string& text) {
    Tell(text + "\n");
    return Line();
  }
  int Join() {
    int status = 0;
    if (pid_ > 0) waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  void Kill() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      Join();
    }
  }
  void Signal(int number) {
    if (pid_ > 0) kill(pid_, number);
  }

 private:
  int in_[2];
  int out_[2];
  pid_t pid_ = -1;
};

class TesseradTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/tdXXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    folder_ = name;
    state_ = "/dev/shm/" + folder_.substr(5);
    chmod(folder_.c_str(), 0755);
  }
  void TearDown() override {
    if (daemon_) {
      for (const char* const id : {"a", "b"})
        (void)Client().Call("DELETE", std::string("/v1/slices/") + id);
      daemon_->Signal(SIGTERM);
      EXPECT_EQ(daemon_->Join(), 0);
    }
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
    std::filesystem::remove_all(state_, ignored);
  }
  std::vector<std::string> Environment() const {
    return {"SIMGPU_STATE=" + state_, "SIMGPU_CARDS=T4,T4", "SIMGPU_QUIET=1",
            std::string("LD_LIBRARY_PATH=") + SIMGPU_LIB_DIR};
  }
  std::unique_ptr<Program> Launch() {
    auto daemon = std::make_unique<Program>(
        std::vector<std::string>{TESSERAD, "--run-dir", folder_ + "/run", "--state-dir",
                                 folder_ + "/state", "--guest-library", TESSERA_GUEST, "--name",
                                 "n1", "--log", "text"},
        Environment());
    daemon->Tell("!");
    return daemon;
  }
  void StartDaemon() {
    daemon_ = Launch();
    ASSERT_TRUE(Eventually([&] {
      const auto reply = Client().Call("GET", "/healthz");
      return reply && reply->status == 200;
    }));
  }
  http::Client Client() {
    http::Client::Options options;
    options.unix_path = folder_ + "/run/node.sock";
    options.timeout_millis = 30'000;
    return http::Client(options);
  }
  std::unique_ptr<Program> StartGuest(const std::string& slice) {
    auto environment = Environment();
    environment.push_back(std::string("LD_PRELOAD=") + TESSERA_GUEST);
    environment.push_back("TESSERA_SOCKET=" + folder_ + "/run/guest/guest.sock");
    auto guest =
        std::make_unique<Program>(std::vector<std::string>{TESSERA_TEST_GUEST}, environment);
    const auto joined = Client().CallOk("POST", "/v1/slices/" + slice + "/members",
                                        "{\"pid\":" + std::to_string(guest->pid()) + "}");
    EXPECT_TRUE(joined) << joined.error().ToString();
    guest->Tell("!");
    return guest;
  }
  std::uint64_t Number(const std::string& target, const std::string& list, std::size_t index,
                       const std::string& key) {
    const auto text = Client().CallOk("GET", target);
    if (!text) return ~0ull;
    auto json = http::JsonObject::Parse(*text);
    if (!json) return ~0ull;
    auto items = json->Array(list, 64);
    if (!items || items->size() <= index) return ~0ull;
    auto object = (*items)[index].Object();
    const auto value = object->Int(key, 0, http::kJsonIntMax);
    return value ? static_cast<std::uint64_t>(*value) : ~0ull;
  }
  std::uint64_t Used(const std::string& slice) {
    return Number("/v1/slices/" + slice, "cards", 0, "used_bytes");
  }

  std::string folder_;
  std::string state_;
  std::unique_ptr<Program> daemon_;
};

TEST_F(TesseradTest, TwoSlicesOnOneCardOutliveTheirDaemon) {
  StartDaemon();
  HttpNode node(folder_ + "/run/node.sock");
  const auto state = node.State();
  ASSERT_TRUE(state) << state.error().ToString();
  ASSERT_EQ(state->cards.size(), 2u);
  const std::string card = state->cards[0].card.uuid;
  const std::uint64_t context = state->cards[0].card.context_bytes;
  EXPECT_TRUE(state->cards[0].card.simulated);
  ASSERT_GT(context, 0u);
  const auto put = [&](const std::string& id, const std::string& memory) {
    return Client().CallOk("PUT", "/v1/slices/" + id,
                           "{\"generation\":1,\"shares\":[{\"card\":\"" + card +
                               "\",\"memory_bytes\":\"" + memory +
                               "\",\"compute_permille\":300}]}");
  };
  ASSERT_TRUE(put("a", "4GiB"));
  ASSERT_TRUE(put("b", "2GiB"));
  EXPECT_EQ(put("c", "12GiB").error().code(), Code::kResourceExhausted);

  auto a = StartGuest("a");
  auto b = StartGuest("b");
  EXPECT_EQ(a->Line(), "ready 0");
  EXPECT_EQ(b->Line(), "ready 0");
  EXPECT_EQ(a->Ask("a " + std::to_string(kGiB)), "alloc 0");
  EXPECT_EQ(b->Ask("a " + std::to_string(kGiB)), "alloc 0");
  EXPECT_EQ(b->Ask("a " + std::to_string(kGiB)),
            "alloc 2");  // Out of its slice's memory, not of the card's.
  EXPECT_EQ(Used("a"), context + kGiB);
  EXPECT_EQ(Used("b"), context + kGiB);

  daemon_->Kill();
  // Without a daemon they keep what they hold and reach their limit, no further.
  EXPECT_EQ(a->Ask("a " + std::to_string(kGiB)), "alloc 0");
  EXPECT_EQ(b->Ask("a " + std::to_string(kGiB)), "alloc 2");
  EXPECT_EQ(b->Ask("i").substr(0, 7), "info 0 ");

  StartDaemon();
  EXPECT_EQ(Used("a"), context + 2 * kGiB);
  EXPECT_EQ(Used("b"), context + kGiB);
  EXPECT_EQ(Number("/v1/slices/a", "processes", 0, "pid"), static_cast<std::uint64_t>(a->pid()));
  EXPECT_EQ(Number("/v1/cards", "cards", 0, "reserved_bytes"), 6 * kGiB);
  EXPECT_EQ(b->Ask("f"), "free 0");
  EXPECT_EQ(Used("b"), context);
  EXPECT_EQ(b->Ask("a " + std::to_string(kGiB)), "alloc 0");
  // A new program in the adopted slice meets what the first one holds.
  auto late = StartGuest("a");
  EXPECT_EQ(late->Line(), "ready 0");
  EXPECT_EQ(late->Ask("a " + std::to_string(2 * kGiB)), "alloc 2");
  late->Kill();

  EXPECT_EQ(Client().CallOk("DELETE", "/v1/slices/a").error().code(), Code::kFailedPrecondition);
  a->Kill();
  EXPECT_TRUE(Eventually([&] { return Used("a") == 0; }));
  EXPECT_EQ(Used("b"), context + kGiB);
  b->Kill();
  EXPECT_TRUE(Eventually([&] { return Used("b") == 0; }));
  EXPECT_TRUE(
      Eventually([&] { return static_cast<bool>(Client().CallOk("DELETE", "/v1/slices/a")); }));
  EXPECT_TRUE(
      Eventually([&] { return static_cast<bool>(Client().CallOk("DELETE", "/v1/slices/b")); }));
  EXPECT_EQ(Number("/v1/cards", "cards", 0, "reserved_bytes"), 0u);
}

// As root the instances are contained: users, IPC and pid namespaces, /tmp and /dev/shm of their
// own. They meet in one MPS server all the same, and the engine says with how much.
TEST_F(TesseradTest, SpatialInstancesAreClientsOfOneServer) {
  StartDaemon();
  // An instance has a /tmp of its own, and the build may lie in ours: what it runs must not.
  std::string client = TESSERA_MPS_CLIENT;
  const os::ScratchFolder programs(geteuid() == 0 ? "/opt" : "/tmp");
  if (geteuid() == 0) {
    std::filesystem::permissions(programs.path(), std::filesystem::perms(0755));
    client = programs.path() + "/client";
    std::filesystem::copy_file(TESSERA_MPS_CLIENT, client);
  }
  HttpNode node(folder_ + "/run/node.sock");
  const auto state = node.State();
  ASSERT_TRUE(state) << state.error().ToString();
  if (geteuid() == 0) {
    EXPECT_TRUE(state->contained);
  }
  const std::string card = state->cards[0].card.uuid;
  const auto put = [&](const std::string& id, int permille) {
    const auto done = Client().CallOk(
        "PUT", "/v1/instances/" + id,
        R"({"generation":1,"shares":[{"card":")" + card +
            R"(","memory_bytes":"2GiB","compute_permille":)" + std::to_string(permille) +
            R"(,"compute_capped":true,"isolation":"spatial"}],"workload":{"argv":["/bin/sh","-c",)" +
            R"("(echo keep 2000 100; sleep 1000) | )" + client + R"("]}})");
    EXPECT_TRUE(done) << done.error().ToString();
  };
  put("a", 700);
  put("b", 300);
  setenv("SIMGPU_STATE", state_.c_str(), 1);
  std::string error;
  simgpu::State* const cards = simgpu::State::Open(&error);
  ASSERT_NE(cards, nullptr) << error;
  const auto served = [&](std::uint32_t percentage) -> std::uint64_t {
    for (const auto& use : cards->engine(0).Read().uses) {
      if (use.percentage == percentage) return use.served_ns;
    }
    return 0;
  };
  // 28 and 12 of the card's 40 multiprocessors.
  EXPECT_TRUE(Eventually([&] { return served(700) > 50'000'000 && served(300) > 50'000'000; }))
      << *Client().CallOk("GET", "/v1/instances/a/log");
  const auto refused = Client().CallOk("PUT", "/v1/slices/c",
                                       R"({"generation":1,"shares":[{"card":")" + card +
                                           R"(","memory_bytes":"1GiB","compute_permille":1}]})");
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message().find("shares[0].isolation"), std::string::npos)
      << refused.error().ToString();
  for (const char* id : {"a", "b"}) {
    EXPECT_TRUE(Client().CallOk("POST", std::string("/v1/instances/") + id + "/stop", "{}"));
    EXPECT_TRUE(Client().CallOk("DELETE", std::string("/v1/instances/") + id));
  }
  EXPECT_FALSE(std::filesystem::exists(folder_ + "/run/mps/" + card + "/daemon"))
      << "the daemon went with the last of them";
}

TEST_F(TesseradTest, OnlyOneDaemonServesARunFolder) {
  StartDaemon();
  auto second = Launch();
  EXPECT_EQ(second->Join(), 1);
  EXPECT_TRUE(Client().CallOk("GET", "/v1/node"));
}

}  // namespace
}  // namespace tessera::apps
