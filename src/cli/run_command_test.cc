#include "cli/run_command.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <mutex>

#include "base/result.h"
#include "http/json.h"
#include "http/server.h"
#include "os/clock.h"
#include "os/files.h"
#include "os/scratch.h"

namespace tessera::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

// A node that answers as the real one does and notes what it was asked.
class FakeNode {
 public:
  bool contained = false;
  bool simulated = true;
  std::function<Status()> refuse = [] { return Status(); };

  Status Start(const std::string& run_dir) {
    http::Router router;
    router.Handle("GET", "/healthz", [](const http::Request&) { return http::Response{}; });
    router.Handle("POST", "/v1/allocations", [this](const http::Request& request) {
      const std::lock_guard<std::mutex> guard(mutex_);
      asked_.push_back(request.body);
      if (const Status refused = refuse(); !refused) return http::Problem(refused.error());
      auto body = http::JsonObject::Parse(request.body);
      const auto pid = body->Int("pid", 1, INT32_MAX);
      comm_ = os::PosixFiles().Read("/proc/" + std::to_string(*pid) + "/comm").value_or("");
      http::Response response;
      response.status = 201;
      response.body =
          R"({"id":"run-1","contained":)" + std::string(contained ? "true" : "false") +
          R"(,"socket":"/the/guest.sock","library":"libm.so.6","shares":[{"card":"GPU-a"}],)"
          R"("environment":["CUDA_MPS_PIPE_DIRECTORY=/the/pipe","ODD=a=b c"],)"
          R"("new_field":1})";
      return response;
    });
    router.Handle("GET", "/v1/cards", [this](const http::Request&) {
      http::Response response;
      response.body =
          R"({"cards":[{"uuid":"GPU-b","simulated":true},{"uuid":"GPU-a","simulated":)" +
          std::string(simulated ? "true" : "false") + "}]}";
      return response;
    });
    router.Handle("DELETE", "/v1/slices/{id}", [this](const http::Request& request) {
      const std::lock_guard<std::mutex> guard(mutex_);
      asked_.push_back("DELETE " + request.parameters.at("id"));
      http::Response response;
      response.status = 204;
      return response;
    });
    http::Options options;
    options.unix_path = run_dir + "/node.sock";
    TRY(server_, http::Server::Start(options, std::move(router)));
    return {};
  }
  std::vector<std::string> asked() {
    const std::lock_guard<std::mutex> guard(mutex_);
    return asked_;
  }
  std::string comm() {
    const std::lock_guard<std::mutex> guard(mutex_);
    return comm_;
  }

 private:
  std::mutex mutex_;
  std::vector<std::string> asked_;
  std::string comm_;
  std::unique_ptr<http::Server> server_;
};

class RunTest : public ::testing::Test {
 protected:
  void SetUp() override {
    options_.run_dir = dir_;
    options_.guest_library = "libm.so.6";
    options_.node_program = "/no/such/tesserad";
    options_.memory = "4GiB";
  }
  std::string Read(const std::string& name) {
    return os::PosixFiles().Read(dir_ + "/" + name).value_or("");
  }

  // `tessera run` in a process of its own, as it is meant to be; forked before the fake node has
  // threads.
  void Begin() {
    int fds[2];
    ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
    pid_ = fork();
    if (pid_ == 0) {
      close(fds[1]);
      char byte;
      if (read(fds[0], &byte, 1) != 1) _exit(99);
      dup2(open((dir_ + "/out").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600), 1);
      dup2(open((dir_ + "/err").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600), 2);
      _exit(RunCommand(options_));
    }
    close(fds[0]);
    ASSERT_TRUE(node_.Start(dir_));
    ASSERT_EQ(write(fds[1], "g", 1), 1);
    close(fds[1]);
  }
  int End() {
    int status = 0;
    waitpid(pid_, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  }
  int RunShell(const std::string& script) {
    options_.command = {"/bin/sh", "-c", script};
    Begin();
    return End();
  }

  const os::ScratchFolder scratch_;
  const std::string& dir_ = scratch_.path();
  RunOptions options_;
  FakeNode node_;
  pid_t pid_ = 0;
};

TEST_F(RunTest, TheProgramIsInTheSliceBeforeItsFirstInstruction) {
  options_.compute = "33.3%";
  options_.cards = "2";
  EXPECT_EQ(RunShell("echo $LD_PRELOAD $TESSERA_SOCKET; exit 7"), 7);
  EXPECT_EQ(Read("out"), "libm.so.6 /the/guest.sock\n");
  ASSERT_EQ(node_.asked().size(), 2u);
  EXPECT_THAT(node_.asked()[0], HasSubstr(R"("memory":4294967296)"));
  EXPECT_THAT(node_.asked()[0], HasSubstr(R"("cards":2)"));
  EXPECT_THAT(node_.asked()[0], HasSubstr(R"("compute":333)"));
  EXPECT_EQ(node_.asked()[1], "DELETE run-1");
  // While the node was asked the process was still a copy of this one.
  EXPECT_EQ(node_.comm(), os::PosixFiles().Read("/proc/self/comm").value_or("?"));
  EXPECT_EQ(Read("err"),
            "tessera: the card is simulated\n"
            "tessera: not contained: the program is held by its family tree, not by a cgroup\n");
}

TEST_F(RunTest, TheNodesVariablesReachTheProgram) {
  options_.isolation = "spatial";
  EXPECT_EQ(RunShell("echo \"$CUDA_MPS_PIPE_DIRECTORY,$ODD,$TESSERA_SOCKET\""), 0);
  EXPECT_EQ(Read("out"), "/the/pipe,a=b c,/the/guest.sock\n");
  EXPECT_THAT(node_.asked()[0], HasSubstr(R"("isolation":"spatial")"));
}

TEST_F(RunTest, SaysNothingWhenThereIsNothingToSay) {
  node_.contained = true;
  node_.simulated = false;
  EXPECT_EQ(RunShell("exit 0"), 0);
  EXPECT_EQ(Read("err"), "");
  EXPECT_THAT(node_.asked()[0], Not(HasSubstr("compute")));
}

TEST_F(RunTest, ARefusalIsSaidAndNothingRuns) {
  node_.refuse = [] {
    return Status(Error(Code::kResourceExhausted, "memory: asked 4 GiB, 2 GiB short"));
  };
  EXPECT_EQ(RunShell("echo ran"), 5);
  EXPECT_EQ(Read("out"), "");
  EXPECT_EQ(Read("err"), "tessera: memory: asked 4 GiB, 2 GiB short\n");
  EXPECT_EQ(node_.asked().size(), 1u);
}

TEST_F(RunTest, EndsAsTheProgramEnds) {
  EXPECT_EQ(RunShell("kill -KILL $$"), 128 + SIGKILL);
  EXPECT_EQ(node_.asked().back(), "DELETE run-1");
}

TEST_F(RunTest, AProgramThatIsNotThereIs127) {
  options_.command = {"/no/such/program"};
  Begin();
  EXPECT_EQ(End(), 127);
  EXPECT_THAT(Read("err"), HasSubstr("cannot run /no/such/program: No such file"));
}

TEST_F(RunTest, SignalsArePassedOn) {
  options_.command = {"/bin/sh", "-c",
                      "trap 'echo got it; exit 9' TERM; echo ready; while :; do sleep 0.01; done"};
  Begin();
  for (int i = 0; i < 3'000 && Read("out") != "ready\n"; ++i)
    os::RealClock().SleepNanos(10'000'000);
  kill(pid_, SIGTERM);
  EXPECT_EQ(End(), 9);
  EXPECT_EQ(Read("out"), "ready\ngot it\n");
  EXPECT_EQ(node_.asked().back(), "DELETE run-1");
}

TEST_F(RunTest, BadFlagsAreNamedBeforeAnythingStarts) {
  struct Case {
    std::string memory, compute, cards, named;
    std::vector<std::string> command = {"true"};
    std::string isolation;
  };
  for (const Case& bad : std::vector<Case>{{"4GB", "", "1", "--memory"},
                                           {"", "", "1", "--memory"},
                                           {"0", "", "1", "--memory"},
                                           {"-1GiB", "", "1", "--memory"},
                                           {"9999999TiB", "", "1", "--memory"},
                                           {"1GiB", "0%", "1", "--compute"},
                                           {"1GiB", "101%", "1", "--compute"},
                                           {"1GiB", "33", "1", "--compute"},
                                           {"1GiB", "", "0", "--cards"},
                                           {"1GiB", "", "17", "--cards"},
                                           {"1GiB", "", "two", "--cards"},
                                           {"1GiB", "", "1", "--isolation", {"true"}, "mig"},
                                           {"1GiB", "", "1", "program", {}},
                                           {"1GiB", "", "1", "program", {""}}}) {
    RunOptions options = options_;
    options.memory = bad.memory;
    options.compute = bad.compute;
    options.cards = bad.cards;
    options.command = bad.command;
    options.isolation = bad.isolation;
    std::FILE* err = tmpfile();
    options.err = err;
    EXPECT_EQ(RunCommand(options), 2);
    std::rewind(err);
    char text[512] = {};
    EXPECT_GT(fread(text, 1, sizeof text - 1, err), 0u);
    EXPECT_THAT(text, ::testing::StartsWith("tessera: " + bad.named + ": expected")) << bad.memory;
    std::fclose(err);
  }
  EXPECT_FALSE(os::PosixFiles().Exists(dir_ + "/tesserad.log"));
}

TEST_F(RunTest, WithoutANodeItSaysWhatIsMissing) {
  const auto run = [&] {
    options_.command = {"true"};
    std::FILE* err = tmpfile();
    options_.err = err;
    const int code = RunCommand(options_);
    std::rewind(err);
    char text[4096] = {};
    [[maybe_unused]] const std::size_t n = fread(text, 1, sizeof text - 1, err);
    std::fclose(err);
    return std::to_string(code) + " " + text;
  };
  EXPECT_THAT(run(), HasSubstr("none to start at /no/such/tesserad"));
  // One that ends at once is not waited for.
  const std::string script = dir_ + "/tesserad";
  ASSERT_TRUE(
      os::PosixFiles().WriteAtomically(script, "#!/bin/sh\necho \"no cards: $*\"\nexit 1\n"));
  std::filesystem::permissions(script, std::filesystem::perms::owner_all);
  options_.node_program = script;
  options_.node_arguments = {"--name", "n"};
  const std::string said = run();
  EXPECT_THAT(said, ::testing::StartsWith("6 "));
  EXPECT_THAT(said, HasSubstr("ended before it answered"));
  EXPECT_THAT(said,
              HasSubstr("no cards: --run-dir " + dir_ + " --guest-library libm.so.6 --name n"));
  // A folder others may write to is not trusted.
  std::filesystem::permissions(dir_, std::filesystem::perms::all);
  EXPECT_THAT(run(), ::testing::StartsWith("4 "));
}

}  // namespace
}  // namespace tessera::cli
