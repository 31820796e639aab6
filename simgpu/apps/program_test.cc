// The program `simgpu`, as people run it.
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>

namespace simgpu::apps {
namespace {

class ProgramTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/dev/shm/simgpu-test-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    folder_ = name;
    for (const char* variable :
         {"SIMGPU_STATE", "SIMGPU_CARDS", "SIMGPU_TRACE", "SIMGPU_FAULTS", "SIMGPU_QUIET",
          "SIMGPU_SEED", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES"}) {
      unsetenv(variable);
    }
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // Runs `simgpu WORDS`; both outputs end up in output_, in order. The exit code.
  int Simgpu(const std::string& words) { return Shell(std::string(SIMGPU_PROGRAM) + " " + words); }

  int Shell(const std::string& line) {
    output_.clear();
    FILE* pipe = popen(("{ " + line + "; } 2>&1").c_str(), "r");
    if (pipe == nullptr) return -1;
    char buffer[4096];
    for (size_t got; (got = fread(buffer, 1, sizeof buffer, pipe)) > 0;)
      output_.append(buffer, got);
    const int status = pclose(pipe);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + status;
  }

  std::string Write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ + "/" + name) << text;
    return folder_ + "/" + name;
  }

  std::string folder_, output_;
};

const std::string kProbe = SIMGPU_PROBE;

TEST_F(ProgramTest, RunsOnCardsOfItsOwnAndLeavesNothing) {
  ASSERT_EQ(Simgpu("run --cards T4,A100-80 -- " + kProbe + " state exit 7"), 7) << output_;
  std::smatch match;
  ASSERT_TRUE(std::regex_match(
      output_, match,
      std::regex("Tesla T4\nNVIDIA A100-SXM4-80GB\nstate (/dev/shm/simgpu-run-\\w{6})\n")))
      << output_;
  EXPECT_FALSE(std::filesystem::exists(match[1].str()));
}

TEST_F(ProgramTest, AnswersWithTheSignalsNumber) {
  EXPECT_EQ(Simgpu("run -- " + kProbe + " signal 9"), 137) << output_;
}

TEST_F(ProgramTest, HandsSignalsOn) {
  // The shell's child is simgpu itself; its program dies of the signal, so the folder can go.
  ASSERT_EQ(Shell("mkfifo " + folder_ + "/in; " + SIMGPU_PROGRAM + " run -- " + kProbe +
                  " state hold <" + folder_ + "/in >" + folder_ + "/out & exec 9>" + folder_ +
                  "/in; until grep -q holding " + folder_ +
                  "/out; do sleep 0.01; done; kill -TERM $!; wait $!; echo code $?; cat " +
                  folder_ + "/out"),
            0);
  std::smatch match;
  ASSERT_TRUE(std::regex_search(output_, match, std::regex("code 143\n[^]*state (\\S+)\n")))
      << output_;
  EXPECT_FALSE(std::filesystem::exists(match[1].str()));
}

TEST_F(ProgramTest, BadInputNamesTheOption) {
  const struct {
    const char* words;
    int code;
    const char* said;
  } cases[] = {
      {"", 2, "expected"},
      {"walk", 2, "\"walk\": expected run, cards, ps, faults, trace-diff or help"},
      {"run", 2, "run: expected a program after the options"},
      {"run --", 2, "run: expected a program after the options"},
      {"run --cards", 2, "--cards: expected a value"},
      {"run --colour red -- true", 2, "--colour: no such option; expected --cards, --state"},
      {"run --quiet=yes -- true", 2, "--quiet: expected no value"},
      {"run --cards X9 -- true", 2, "simgpu: --cards: "},
      {"run --cards '' -- true", 2, "--cards: expected models"},
      {"run --seed 1x -- true", 2, "--seed: expected a number, not \"1x\""},
      {"run --state '' -- true", 2, "--state: expected private, shared or a folder"},
      {"run --trace /nowhere/at/all -- true", 2, "--trace: /nowhere/at/all: No such file"},
      {"run --faults /nowhere -- true", 2, "--faults: /nowhere: No such file"},
      {"run -- /nowhere/program", 127, "/nowhere/program: not found"},
      {"run -- no-such-program-of-simgpu", 127, "no-such-program-of-simgpu: not found"},
      {"run -- /dev", 126, "/dev: not an executable file"},
      {"ps 7", 2, "ps: expected options only, not \"7\""},
      {"ps --state /nowhere", 1, "--state: expected a folder that programs on simulated cards use"},
      {"faults", 2, "faults: expected check, show, set or clear"},
      {"faults check", 2, "faults check: expected one file"},
      {"faults set", 2, "faults set: expected rules"},
      {"faults set --state /nowhere 'hang card 0'", 1, "/nowhere is not"},
      {"trace-diff one", 2, "trace-diff: expected two files"},
      {"trace-diff /nowhere /nowhere", 2, "/nowhere: No such file"},
  };
  for (const auto& one : cases) {
    EXPECT_EQ(Simgpu(one.words), one.code) << one.words << "\n" << output_;
    EXPECT_NE(output_.find(one.said), std::string::npos) << one.words << "\n" << output_;
  }
}

TEST_F(ProgramTest, SharedFolderShowsItsProcesses) {
  const std::string state = " --state " + folder_ + "/state";
  ASSERT_EQ(Shell("mkfifo " + folder_ + "/in; " + SIMGPU_PROGRAM + " run --cards T4" + state +
                  " -- " + kProbe + " alloc 100 hold <" + folder_ + "/in >" + folder_ +
                  "/out & exec 9>" + folder_ + "/in; until grep -q holding " + folder_ +
                  "/out; do sleep 0.01; done; echo pid $!; " + SIMGPU_PROGRAM + " ps" + state +
                  "; " + SIMGPU_PROGRAM + " cards" + state + "; exec 9>&-; wait; " +
                  SIMGPU_PROGRAM + " ps" + state),
            0)
      << output_;
  std::smatch match;
  ASSERT_TRUE(std::regex_search(output_, match, std::regex("pid (\\d+)\n"))) << output_;
  const std::string pid = match[1];
  // The context's own memory comes on top.
  const std::regex row("\n0 +" + pid +
                       " +(\\d+) MiB +1 +\\d+\\.\\d+ s +\\d+\\.\\d+ s +\\d+ % .*simgpu_probe");
  ASSERT_TRUE(std::regex_search(output_, match, row)) << output_;
  EXPECT_GT(std::stoi(match[1]), 100);
  EXPECT_NE(output_.find(match[1].str() + " of 15360 MiB used, 1 processes"), std::string::npos)
      << output_;
  // Once it is gone only the sums are left.
  const size_t last = output_.rfind("COMMAND");
  EXPECT_EQ(output_.find(pid, last), std::string::npos) << output_;
  EXPECT_TRUE(std::filesystem::exists(folder_ + "/state/state"));
}

TEST_F(ProgramTest, ListsEveryModel) {
  ASSERT_EQ(Simgpu("cards --state shared"), 0) << output_;
  for (const char* model : {"T4 ", "A100-80 ", "NVIDIA A100-SXM4-80GB", "sm_75", " HGX-H100-8"}) {
    EXPECT_NE(output_.find(model), std::string::npos) << model << "\n" << output_;
  }
}

TEST_F(ProgramTest, FaultsReachTheProgram) {
  const std::string good = Write("good", "call cuMemAlloc 1 OUT_OF_MEMORY\n");
  EXPECT_EQ(Simgpu("run --faults " + good + " -- " + kProbe + " alloc 1"), 4) << output_;
  EXPECT_NE(output_.find("cuMemAlloc_v2 answered 2\n"), std::string::npos) << output_;
  const std::string bad = Write("bad", "\ncall cuMemAlloc 0 2\n");
  EXPECT_EQ(Simgpu("run --faults " + bad + " -- " + kProbe), 2);
  EXPECT_NE(output_.find(bad + ":2: N: expected a number"), std::string::npos) << output_;
  EXPECT_EQ(output_.find("Tesla"), std::string::npos) << output_;
}

TEST_F(ProgramTest, FaultRulesAreCheckedSetShownAndCleared) {
  const std::string state = " --state " + folder_ + " ";
  EXPECT_EQ(Simgpu("faults check " + Write("bad", "hang card 9\n")), 1);
  EXPECT_EQ(output_, folder_ + "/bad:1: card: expected an index from 0 to 7, not \"9\"\n");
  EXPECT_EQ(Shell("echo 'card  1 lost' | " + std::string(SIMGPU_PROGRAM) + " faults check -"), 0);
  EXPECT_TRUE(
      std::regex_match(output_, std::regex("card 1 lost +# card 1 has fallen off the bus\n")))
      << output_;
  EXPECT_EQ(Simgpu("faults set" + state + "'hang card 1' 'memory card 0 1GiB'"), 0) << output_;
  EXPECT_EQ(Simgpu("faults set" + state + "'hang card 1' 'hang'"), 1);
  EXPECT_EQ(output_, "rule:2: card: expected the word card, not the end\n");
  EXPECT_EQ(Simgpu("faults show" + state), 0);
  EXPECT_TRUE(std::regex_match(
      output_,
      std::regex("hang card 1 +# kernels on card 1 do not finish\n"
                 "memory card 0 1GiB +# no more than 1073741824 bytes of card 0 can be taken\n")))
      << output_;
  EXPECT_EQ(Simgpu("run" + state + "-- " + kProbe + " alloc 1100"), 4);
  EXPECT_NE(output_.find("cuMemAlloc_v2 answered 2\n"), std::string::npos) << output_;
  EXPECT_EQ(Simgpu("faults clear" + state), 0);
  EXPECT_EQ(Simgpu("run" + state + "-- " + kProbe + " alloc 1100"), 0) << output_;
  EXPECT_EQ(Simgpu("faults show" + state), 0);
  EXPECT_EQ(output_, folder_ + ": no rules\n");
}

TEST_F(ProgramTest, TracesOfTwoRunsAreEqual) {
  const std::string a = folder_ + "/a", b = folder_ + "/b";
  for (const std::string& file : {a, b}) {
    ASSERT_EQ(Simgpu("run --trace " + file + " -- " + kProbe + " alloc 3"), 0) << output_;
  }
  EXPECT_EQ(Simgpu("trace-diff " + a + " " + b), 0);
  EXPECT_TRUE(std::regex_match(output_, std::regex("\\d+ calls on both sides, 0 differences\n")))
      << output_;
  ASSERT_EQ(Simgpu("run --cards T4 --trace " + b + " -- " + kProbe + " alloc 4"), 0) << output_;
  EXPECT_EQ(Simgpu("trace-diff " + a + " " + b), 1);
  EXPECT_NE(output_.find("cuMemAlloc_v2: bytesize 3145728 | 4194304\n"), std::string::npos);
  EXPECT_NE(output_.find("name &\"NVIDIA A100-SXM4-80GB\" | &\"Tesla T4\"\n"), std::string::npos);
  EXPECT_EQ(
      Simgpu("trace-diff --ignore cuMemAlloc_v2 --ignore cuDeviceGetName.name " + a + " " + b), 0)
      << output_;
}

// What a program with NVIDIA's runtime linked in looks like: device code and no shared runtime.
TEST_F(ProgramTest, ProgramsThatCanNeverRunHearWhy) {
  EXPECT_EQ(Simgpu("run -- " SIMGPU_STATIC_PROBE), 3) << output_;
  EXPECT_NE(output_.find("has NVIDIA's CUDA runtime linked in (static cudart)"), std::string::npos)
      << output_;
  EXPECT_EQ(std::count(output_.begin(), output_.end(), '\n'), 1) << output_;
}

TEST_F(ProgramTest, InstalledTreeRunsFromWhereItLies) {
  const std::string tree = folder_ + "/tree", moved = folder_ + "/moved";
  ASSERT_EQ(Shell(std::string(SIMGPU_CMAKE) +
                  " --install " SIMGPU_BUILD_FOLDER " --component simgpu --prefix " + tree),
            0)
      << output_;
  std::filesystem::rename(tree, moved);
  for (const char* file : {"bin/simgpu", "lib/simgpu/libcuda.so.1", "lib/simgpu/libnvidia-ml.so.1",
                           "lib/simgpu/libcudart.so.13", "lib/simgpu/trace/libcuda.so.1",
                           "share/doc/simgpu/simgpu.md"}) {
    EXPECT_TRUE(std::filesystem::exists(moved + "/" + file)) << file;
  }
  const auto extra = std::filesystem::directory_iterator(moved);
  EXPECT_EQ(std::distance(begin(extra), end(extra)), 3);
  EXPECT_EQ(Shell(moved + "/bin/simgpu run -- " + kProbe), 0) << output_;
  EXPECT_EQ(output_, "NVIDIA A100-SXM4-80GB\n");
  std::filesystem::remove_all(moved + "/lib");
  EXPECT_EQ(Shell(moved + "/bin/simgpu run -- " + kProbe), 1);
  EXPECT_NE(output_.find("no libcuda.so.1 in"), std::string::npos) << output_;
}

}  // namespace
}  // namespace simgpu::apps
