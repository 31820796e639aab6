// The simulated MPS as programs meet it: the real control program, real clients over libcuda.so.1,
// and the card's engine as the witness of what they got.
#include "simgpu/state/mps.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "simgpu/state/state.h"

namespace simgpu {
namespace {

constexpr unsigned kIllegalAddress = 700, kTerminated = 810, kRpcFailure = 806, kNotReady = 807;

TEST(MpsText, PercentagesAndSizes) {
  uint32_t permille = 0;
  EXPECT_TRUE(ParseMpsPercentage("30", &permille));
  EXPECT_EQ(permille, 300u);
  EXPECT_TRUE(ParseMpsPercentage("33.35", &permille));
  EXPECT_EQ(permille, 333u);
  EXPECT_TRUE(ParseMpsPercentage("100", &permille));
  EXPECT_EQ(MpsPercentageText(permille), "100.0");
  for (const char* bad : {"", "0", "-1", "101", "100.1", "x", "3 0", "30%"}) {
    EXPECT_FALSE(ParseMpsPercentage(bad, &permille)) << bad;
  }
  std::map<uint32_t, uint64_t> limits;
  EXPECT_TRUE(ParseMpsLimits("0=1G,2=512MB", &limits));
  EXPECT_EQ(limits, (std::map<uint32_t, uint64_t>{{0, 1ull << 30}, {2, 512ull << 20}}));
  for (const char* bad : {"0", "0=1", "0=G", "x=1G", "0=1G;1=1G", "999=1G"}) {
    EXPECT_FALSE(ParseMpsLimits(bad, &limits)) << bad;
  }
  EXPECT_EQ(limits.size(), 2u) << "a bad text changes nothing";
  // Whole multiprocessors, and never none: what two parts of 100 % cover is never more than 100 %.
  for (uint32_t part = 1; part < 1000; ++part) {
    EXPECT_GE(MpsCoverage(part, 108), 9u);
    if (part >= 10 && part <= 990) {
      EXPECT_LE(MpsCoverage(part, 108) + MpsCoverage(1000 - part, 108), 1000u) << part;
    }
  }
}

struct Variable {
  std::string name, value;
};
using Variables = std::vector<Variable>;

// A client that is spoken to by lines.
class Client {
 public:
  explicit Client(const Variables& variables = {}, uid_t uid = 0) {
    int down[2], up[2];
    if (pipe2(down, O_CLOEXEC) != 0 || pipe2(up, O_CLOEXEC) != 0) abort();
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      dup2(down[0], 0);
      dup2(up[1], 1);
      setenv("LD_LIBRARY_PATH", SIMGPU_LIBRARIES, 1);
      for (const auto& [name, value] : variables) setenv(name.c_str(), value.c_str(), 1);
      if (uid != 0 && setuid(uid) != 0) _exit(126);
      execl(SIMGPU_MPS_CLIENT, "client", static_cast<char*>(nullptr));
      _exit(127);
    }
    close(down[0]);
    close(up[1]);
    in_ = fdopen(down[1], "w");
    out_ = fdopen(up[0], "r");
    if (fscanf(out_, "ready %u", &ready_) != 1) ready_ = 9000;
  }
  ~Client() { End(); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  unsigned ready() const { return ready_; }
  pid_t pid() const { return pid_; }
  void Say(const std::string& line) {
    fprintf(in_, "%s\n", line.c_str());
    fflush(in_);
  }
  unsigned Answer() {
    unsigned code = 9001;
    if (fscanf(out_, "%u", &code) != 1) code = 9002;
    return code;
  }
  unsigned Do(const std::string& line) {
    Say(line);
    return Answer();
  }
  void End() {
    if (pid_ == 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = 0;
    fclose(in_);
    fclose(out_);
  }

 private:
  pid_t pid_ = 0;
  FILE *in_ = nullptr, *out_ = nullptr;
  unsigned ready_ = 0;
};

class MpsTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    char name[] = "/dev/shm/simgpu-test-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    folder_ = name;
    chmod(name, 0777);
    umask(0);
    setenv("SIMGPU_STATE", (folder_ + "/state").c_str(), 1);
    setenv("SIMGPU_CARDS", "A100-80,T4", 1);
    setenv("SIMGPU_QUIET", "1", 1);
    std::string error;
    state_ = State::Open(&error);
    ASSERT_NE(state_, nullptr) << error;
  }
  static void TearDownTestSuite() { std::filesystem::remove_all(folder_); }

  void SetUp() override {
    pipe_ = folder_ + "/" + testing::UnitTest::GetInstance()->current_test_info()->name();
    setenv("CUDA_MPS_PIPE_DIRECTORY", pipe_.c_str(), 1);
    setenv("CUDA_MPS_LOG_DIRECTORY", (pipe_ + "-log").c_str(), 1);
    for (const char* name : {"CUDA_VISIBLE_DEVICES", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
                             "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"}) {
      unsetenv(name);
    }
  }
  void TearDown() override {
    if (daemon_ != 0) {
      kill(daemon_, SIGTERM);
      waitpid(daemon_, nullptr, 0);
    }
  }

  // In the foreground, so that it is this test's to end.
  void StartDaemon(const Variables& variables = {}, bool multiuser = false) {
    daemon_ = fork();
    if (daemon_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGTERM);
      for (const auto& [name, value] : variables) setenv(name.c_str(), value.c_str(), 1);
      execl(SIMGPU_MPS_CONTROL, "nvidia-cuda-mps-control", "-f",
            multiuser ? "-multiuser" : static_cast<char*>(nullptr), static_cast<char*>(nullptr));
      _exit(127);
    }
    for (int i = 0; i < 1000; ++i) {
      if (Control("get_default_active_thread_percentage") == 0) return;
      usleep(5000);
    }
    FAIL() << said_;
  }
  // The exit code of the control program given these lines; what it said is in said_.
  int Control(const std::string& lines) {
    said_.clear();
    FILE* pipe = popen(
        ("printf '" + lines + "\\n' | " + std::string(SIMGPU_MPS_CONTROL) + " 2>&1").c_str(), "r");
    char buffer[512];
    for (size_t got; (got = fread(buffer, 1, sizeof buffer, pipe)) > 0;) said_.append(buffer, got);
    const int status = pclose(pipe);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000;
  }
  std::string Server() {
    EXPECT_EQ(Control("get_server_list"), 0);
    return said_.substr(0, said_.find('\n'));
  }

  uint64_t Served(pid_t pid) const {
    for (const EngineUse& use : state_->engine(0).Read().uses) {
      if (use.pid == pid) return use.served_ns;
    }
    return 0;
  }
  uint32_t PercentageOf(pid_t pid) const {
    for (const EngineUse& use : state_->engine(0).Read().uses) {
      if (use.pid == pid) return use.percentage;
    }
    return 7777;
  }
  // Parts of the card's time that each was served between two looks, once all have begun.
  std::vector<double> Parts(const std::vector<const Client*>& clients, unsigned millis) {
    for (const Client* client : clients) {
      const uint64_t at = Served(client->pid());
      for (int i = 0; i < 5000 && Served(client->pid()) == at; ++i) usleep(1000);
    }
    std::vector<uint64_t> before;
    const Engine::Account from = state_->engine(0).Read();
    for (const Client* client : clients) before.push_back(Served(client->pid()));
    usleep(millis * 1000);
    std::vector<double> parts;
    for (size_t i = 0; i < clients.size(); ++i) {
      parts.push_back(static_cast<double>(Served(clients[i]->pid()) - before[i]));
    }
    const Engine::Account to = state_->engine(0).Read();
    for (double& part : parts) part /= static_cast<double>(to.at_ns - from.at_ns);
    return parts;
  }
  static bool Eventually(const std::function<bool()>& what) {
    for (int i = 0; i < 4000; ++i) {
      if (what()) return true;
      usleep(5000);
    }
    return false;
  }

  static inline std::string folder_;
  static inline State* state_ = nullptr;
  std::string pipe_, said_;
  pid_t daemon_ = 0;
};

TEST_F(MpsTest, WithoutADaemonItIsThePlainCard) {
  EXPECT_EQ(Control("get_server_list"), 1);
  EXPECT_EQ(said_, "Cannot find MPS control daemon process\n");
  Client a;
  EXPECT_EQ(a.ready(), 0u);
  EXPECT_EQ(a.Do("work 100 200 3"), 0u);
  EXPECT_EQ(PercentageOf(a.pid()), 0u);
}

TEST_F(MpsTest, CommandsAnswerAsDocumented) {
  StartDaemon({{"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "80"}});
  EXPECT_EQ(said_, "80.0\n");
  EXPECT_EQ(Control("get_server_list"), 0);
  EXPECT_EQ(said_, "") << "no server before the first client";
  EXPECT_EQ(
      Control("set_default_active_thread_percentage 50\\nget_default_active_thread_percentage"), 0);
  EXPECT_EQ(said_, "50.0\n50.0\n");
  Client a;
  ASSERT_EQ(a.ready(), 0u);
  const std::string server = Server();
  ASSERT_GT(std::atoi(server.c_str()), 1) << server;
  EXPECT_EQ(Control("get_client_list " + server), 0);
  EXPECT_EQ(said_, std::to_string(a.pid()) + "\n");
  EXPECT_EQ(Control("get_server_status " + server), 0);
  EXPECT_EQ(said_, "ACTIVE\n");
  EXPECT_EQ(Control("get_active_thread_percentage " + server), 0);
  EXPECT_EQ(said_, "50.0\n");
  EXPECT_EQ(Control("set_device_pinned_mem_limit " + server +
                    " 0 2G\\nget_device_pinned_mem_limit " + server + " 0"),
            0);
  EXPECT_EQ(said_, "2048M\n");
  const struct {
    const char* line;
    const char* said;
  } wrong[] = {
      {"dance", "dance: is no command"},
      {"get_client_list 1", "expected the PID of a server"},
      {"set_default_active_thread_percentage 0", "expected a percentage above 0"},
      {"set_default_active_thread_percentage 101", "expected a percentage above 0"},
      {"set_default_device_pinned_mem_limit 9 1G", "expected a device"},
      {"set_default_device_pinned_mem_limit 0 1000", "expected a size with G or M"},
      {"quit -t never", "expected -t SECONDS"},
  };
  for (const auto& one : wrong) {
    EXPECT_EQ(Control(one.line), 1) << one.line;
    EXPECT_THAT(said_, testing::HasSubstr(one.said));
  }
  EXPECT_EQ(Control("shutdown_server " + server), 1);
  EXPECT_THAT(said_, testing::HasSubstr("it has clients"));
  a.End();
  EXPECT_TRUE(Eventually([&] { return Control("shutdown_server " + server) == 0; }));
  EXPECT_TRUE(Eventually([&] { return Server().empty(); }));
  EXPECT_EQ(Control("quit"), 0);
  EXPECT_TRUE(Eventually([&] { return Control("get_server_list") == 1; }));
  std::stringstream log;
  log << std::ifstream(pipe_ + "-log/control.log").rdbuf();
  EXPECT_THAT(log.str(), testing::HasSubstr("simulated: server " + server));
}

TEST_F(MpsTest, ASecondDaemonOfTheFolderIsRefused) {
  StartDaemon();
  FILE* second = popen((std::string(SIMGPU_MPS_CONTROL) + " -d 2>&1").c_str(), "r");
  char said[256] = "";
  EXPECT_NE(fgets(said, sizeof said, second), nullptr);
  EXPECT_EQ(WEXITSTATUS(pclose(second)), 1);
  EXPECT_THAT(said, testing::HasSubstr("already running"));
}

TEST_F(MpsTest, TwoClientsOf70And30GetThatAtTheSameTime) {
  StartDaemon();
  Client a(Variables{{"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "70"}});
  Client b(Variables{{"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "30"}});
  ASSERT_EQ(a.ready(), 0u);
  ASSERT_EQ(b.ready(), 0u);
  EXPECT_EQ(PercentageOf(a.pid()), 694u) << "75 of 108 multiprocessors";
  EXPECT_EQ(PercentageOf(b.pid()), 296u);
  const auto before = state_->engine(0).Read();
  a.Say("keep 10000 500");
  b.Say("keep 10000 500");
  const std::vector<double> parts = Parts({&a, &b}, 1500);
  EXPECT_NEAR(parts[0] / (parts[0] + parts[1]), 0.70, 0.02);
  EXPECT_NEAR(parts[1] / (parts[0] + parts[1]), 0.30, 0.02);
  EXPECT_LE(state_->engine(0).Read().switching_ns, before.switching_ns + 100'000)
      << "no turns but the one that all clients have";
}

TEST_F(MpsTest, ALoneClientKeepsToItsPercentage) {
  StartDaemon();
  Client a(Variables{{"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "30"}});
  ASSERT_EQ(a.ready(), 0u);
  a.Say("keep 10000 500");
  EXPECT_NEAR(Parts({&a}, 1000)[0], 0.30, 0.02);
}

TEST_F(MpsTest, SmallKernelsOfTwoGainWhatTurnsCannotGive) {
  StartDaemon();
  Client a(Variables{{"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "50"}});
  Client b(Variables{{"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "50"}});
  a.Say("keep 5000 20");
  b.Say("keep 5000 20");
  const std::vector<double> parts = Parts({&a, &b}, 1000);
  EXPECT_GT(parts[0] + parts[1], 1.5) << "turns give at most 1";
  EXPECT_LE(parts[0] + parts[1], 2.0);
  a.End();
  b.End();
  Client c(Variables{{"CUDA_MPS_PIPE_DIRECTORY", folder_}});
  Client d(Variables{{"CUDA_MPS_PIPE_DIRECTORY", folder_}});
  c.Say("keep 5000 20");
  d.Say("keep 5000 20");
  const std::vector<double> turns = Parts({&c, &d}, 1000);
  EXPECT_LE(turns[0] + turns[1], 1.0);
}

TEST_F(MpsTest, APercentageHoldsForClientsThatComeLater) {
  StartDaemon();
  Client a;
  ASSERT_EQ(a.ready(), 0u);
  ASSERT_EQ(PercentageOf(a.pid()), 1000u);
  const std::string server = Server();
  ASSERT_EQ(Control("set_active_thread_percentage " + server + " 40"), 0);
  EXPECT_EQ(said_, "40.0\n");
  EXPECT_EQ(a.Do("work 100 500 2"), 0u);
  EXPECT_EQ(PercentageOf(a.pid()), 1000u) << "who is there keeps what it came with";
  Client b;
  EXPECT_EQ(PercentageOf(b.pid()), 398u);
  Client c(Variables{{"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "90"}});
  EXPECT_EQ(PercentageOf(c.pid()), 398u) << "a client cannot ask for more than the server allows";
  Client d(Variables{{"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "10"}});
  EXPECT_EQ(PercentageOf(d.pid()), 92u);
}

TEST_F(MpsTest, TheMemoryLimitIsTheLowerOfServerAndClient) {
  StartDaemon({{"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "0=2G"}});
  Client a;
  ASSERT_EQ(a.ready(), 0u);
  EXPECT_EQ(a.Do("alloc 1000"), 0u);
  EXPECT_EQ(a.Do("alloc 1000"), 2u) << "the context counts too";
  EXPECT_EQ(a.Do("alloc 100"), 0u);
  Client b(Variables{{"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "0=1G"}});
  EXPECT_EQ(b.Do("alloc 1000"), 2u);
  Client c(Variables{{"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "0=8G"}});
  EXPECT_EQ(c.Do("alloc 3000"), 2u);
}

TEST_F(MpsTest, AFaultReachesEveryClientOfTheServer) {
  StartDaemon();
  Client a, b;
  Client outside(Variables{{"CUDA_MPS_PIPE_DIRECTORY", folder_}});
  EXPECT_EQ(b.Do("work 100 10 1"), 0u);
  EXPECT_EQ(a.Do("fault"), kIllegalAddress);
  EXPECT_TRUE(Eventually([&] { return b.Do("sync") == kIllegalAddress; }));
  EXPECT_EQ(outside.Do("work 100 10 1"), 0u) << "a process of its own is not touched";
  EXPECT_EQ(Control("get_server_status " + Server()), 0);
  EXPECT_EQ(said_, "FAULT\n");
  EXPECT_EQ(Client().ready(), kNotReady) << "not before the faulted ones are gone";
  a.End();
  b.End();
  EXPECT_TRUE(Eventually([&] { return Client().ready() == 0; }));
}

TEST_F(MpsTest, OneClientCanBeTerminated) {
  StartDaemon();
  Client a, b;
  ASSERT_EQ(Control("terminate_client " + Server() + " " + std::to_string(a.pid())), 0) << said_;
  EXPECT_TRUE(Eventually([&] { return a.Do("sync") == kTerminated; }));
  EXPECT_EQ(b.Do("work 100 10 1"), 0u);
}

// The daemon's end leaves the server and its clients alone; the server's end takes them along.
TEST_F(MpsTest, WhatADeadDaemonAndADeadServerMean) {
  StartDaemon();
  Client a;
  ASSERT_EQ(a.ready(), 0u);
  const pid_t server = std::atoi(Server().c_str());
  kill(daemon_, SIGKILL);
  waitpid(daemon_, nullptr, 0);
  daemon_ = 0;
  EXPECT_EQ(a.Do("work 100 10 5"), 0u);
  EXPECT_NE(PercentageOf(a.pid()), 0u);
  Client plain;
  EXPECT_EQ(plain.Do("work 100 10 1"), 0u);
  EXPECT_EQ(PercentageOf(plain.pid()), 0u) << "nobody answers: not a client";
  StartDaemon();
  EXPECT_EQ(a.Do("work 100 10 5"), 0u);
  kill(server, SIGKILL);
  EXPECT_TRUE(Eventually([&] { return a.Do("sync") == kRpcFailure; }));
  Client late;
  EXPECT_EQ(late.ready(), 0u);
  EXPECT_NE(PercentageOf(late.pid()), 0u);
}

TEST_F(MpsTest, OnlyCardsOfTheDaemonAreServed) {
  StartDaemon({{"CUDA_VISIBLE_DEVICES", state_->card(1).uuid}});
  EXPECT_EQ(Client(Variables{{"CUDA_VISIBLE_DEVICES", state_->card(1).uuid}}).ready(), 0u);
  EXPECT_EQ(Client(Variables{{"CUDA_VISIBLE_DEVICES", state_->card(0).uuid}}).ready(), 100u);
}

TEST_F(MpsTest, OneUserAServerUnlessMultiuser) {
  if (geteuid() != 0) GTEST_SKIP() << "NOT RUN: needs root";
  StartDaemon();
  {
    Client root;
    ASSERT_EQ(root.ready(), 0u);
    EXPECT_EQ(Client(Variables(), 4321).ready(), kNotReady);
  }
  EXPECT_TRUE(Eventually([&] { return Client(Variables(), 4321).ready() == 0; }));
  kill(daemon_, SIGTERM);
  waitpid(daemon_, nullptr, 0);
  StartDaemon({}, true);
  Client root, other(Variables(), 4321);
  EXPECT_EQ(root.ready(), 0u);
  EXPECT_EQ(other.ready(), 0u);
  EXPECT_EQ(other.Do("work 100 10 1"), 0u);
}

}  // namespace
}  // namespace simgpu
