#include "simgpu/state/state.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <random>
#include <thread>

namespace simgpu {
namespace {

// A state folder of its own, on the file system such folders stand on.
class StateTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/dev/shm/simgpu-test-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    folder_ = name;
    setenv("SIMGPU_STATE", name, 1);
    setenv("SIMGPU_CARDS", "T4,A100-80", 1);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  static State* Open() {
    std::string error;
    State* state = State::Open(&error);
    EXPECT_NE(state, nullptr) << error;
    return state;
  }

  std::string folder_;
};

// Runs `body` in a child that says "ready" by calling its argument and then waits to be killed,
// unless `body` does not call it. Leaves no process behind.
class Child {
 public:
  explicit Child(const std::function<void(const std::function<void()>&)>& body) {
    int ends[2];
    EXPECT_EQ(pipe(ends), 0);
    pid_ = fork();
    if (pid_ == 0) {
      close(ends[0]);
      body([&] {
        if (write(ends[1], "r", 1) != 1) _exit(9);
        while (true) pause();
      });
      _exit(0);
    }
    close(ends[1]);
    char byte;
    ready_ = read(ends[0], &byte, 1) == 1;
    close(ends[0]);
  }
  ~Child() { Kill(); }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  int pid() const { return pid_; }
  bool ready() const { return ready_; }
  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

 private:
  pid_t pid_ = -1;
  bool ready_ = false;
};

TEST_F(StateTest, MakesCardsFromTheEnvironment) {
  State* state = Open();
  ASSERT_EQ(state->card_count(), 2u);
  EXPECT_STREQ(state->card(0).profile.name, "Tesla T4");
  EXPECT_STREQ(state->card(1).profile.name, "NVIDIA A100-SXM4-80GB");
  EXPECT_EQ(state->card(0).profile.memory_bytes, uint64_t{15360} << 20);
  EXPECT_EQ(strlen(state->card(0).uuid), 40u);
  EXPECT_STRNE(state->card(0).uuid, state->card(1).uuid);
  EXPECT_NE(state->card(0).pci_bus, state->card(1).pci_bus);
}

TEST_F(StateTest, SameCardsEverywhereAndAnotherMachineOthers) {
  const std::string first = Open()->card(0).uuid;
  std::filesystem::remove_all(folder_);
  EXPECT_EQ(first, Open()->card(0).uuid);
  std::filesystem::remove_all(folder_);
  setenv("SIMGPU_MACHINE", "beta", 1);
  EXPECT_NE(first, Open()->card(0).uuid);
  unsetenv("SIMGPU_MACHINE");
}

TEST_F(StateTest, LaterCardsAreIgnoredWithAWarning) {
  Open();
  setenv("SIMGPU_CARDS", "A100-80", 1);
  testing::internal::CaptureStderr();
  EXPECT_EQ(Open()->card_count(), 2u);
  EXPECT_NE(testing::internal::GetCapturedStderr().find("SIMGPU_CARDS=A100-80 ignored"),
            std::string::npos);
}

TEST_F(StateTest, RefusesUnknownCards) {
  std::string error;
  setenv("SIMGPU_CARDS", "A100-80,V100", 1);
  EXPECT_EQ(State::Open(&error), nullptr);
  EXPECT_NE(error.find("no profile \"V100\": expected one of A10, A100-40, A100-80"),
            std::string::npos)
      << error;
  setenv("SIMGPU_CARDS", "T4,T4,T4,T4,T4,T4,T4,T4,T4", 1);
  EXPECT_EQ(State::Open(&error), nullptr);
  EXPECT_NE(error.find("kCardsMax = 8"), std::string::npos) << error;
}

TEST_F(StateTest, RefusesAForeignFileInUse) {
  ASSERT_EQ(Open()->Take(0, State::Kind::kAllocation, kGranule), State::Answer::kOk);
  // The mapping is left alone: another file stands in its place.
  std::filesystem::rename(folder_ + "/state", folder_ + "/before");
  std::filesystem::copy_file(folder_ + "/before", folder_ + "/state");
  ASSERT_EQ(truncate((folder_ + "/state").c_str(), 100), 0);
  std::string error;
  EXPECT_EQ(State::Open(&error), nullptr);
  EXPECT_NE(error.find("another version of simgpu and in use"), std::string::npos) << error;
  struct stat info;
  ASSERT_EQ(stat((folder_ + "/state").c_str(), &info), 0);
  EXPECT_EQ(info.st_size, 100);
}

TEST_F(StateTest, ReplacesAForeignFileNobodyUses) {
  {
    Child child([](const std::function<void()>& ready) {
      if (Open()->Take(0, State::Kind::kAllocation, kGranule) == State::Answer::kOk) ready();
    });
    ASSERT_TRUE(child.ready());
    ASSERT_EQ(truncate((folder_ + "/state").c_str(), 100), 0);
    std::string error;
    EXPECT_EQ(State::Open(&error), nullptr);
  }
  setenv("SIMGPU_CARDS", "T4", 1);
  State* state = Open();
  ASSERT_NE(state, nullptr);
  EXPECT_EQ(state->card_count(), 1u);
  EXPECT_EQ(state->Take(0, State::Kind::kAllocation, kGranule), State::Answer::kOk);
}

TEST_F(StateTest, FilesAreForEveryUser) {
  const mode_t before = umask(077);
  Open();
  umask(before);
  struct stat info;
  for (const char* name : {"/state", "/locks", "/making"}) {
    ASSERT_EQ(stat((folder_ + name).c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0666u) << name;
  }
}

TEST_F(StateTest, TakesUntilTheCardIsFull) {
  State* state = Open();
  const uint64_t memory = state->card(0).profile.memory_bytes;
  EXPECT_EQ(state->Take(0, State::Kind::kContext, 106 << 20), State::Answer::kOk);
  EXPECT_EQ(state->Take(0, State::Kind::kModule, kGranule), State::Answer::kOk);
  const uint64_t rest = memory - (uint64_t{108} << 20);
  EXPECT_EQ(state->Take(0, State::Kind::kAllocation, rest + kGranule), State::Answer::kOutOfMemory);
  EXPECT_EQ(state->Take(0, State::Kind::kAllocation, rest), State::Answer::kOk);
  EXPECT_EQ(state->Take(0, State::Kind::kAllocation, kGranule), State::Answer::kOutOfMemory);
  EXPECT_EQ(state->Take(1, State::Kind::kAllocation, kGranule), State::Answer::kOk);
  EXPECT_EQ(state->UsedBytes(0), memory);
  auto processes = state->Processes(0, 0);
  ASSERT_EQ(processes.size(), 1u);
  EXPECT_EQ(processes[0].pid, getpid());
  EXPECT_EQ(processes[0].usage.contexts, 1u);
  EXPECT_EQ(processes[0].usage.context_bytes, uint64_t{106} << 20);
  EXPECT_EQ(processes[0].usage.module_bytes, kGranule);
  state->Give(0, State::Kind::kAllocation, rest);
  state->Give(0, State::Kind::kModule, kGranule);
  state->Give(0, State::Kind::kContext, 106 << 20);
  EXPECT_EQ(state->UsedBytes(0), 0u);
  EXPECT_TRUE(state->Processes(0, 0).empty());
}

TEST_F(StateTest, ADeadProcessGivesEverythingBack) {
  State* witness = Open();
  const uint64_t memory = witness->card(0).profile.memory_bytes;
  Child child([](const std::function<void()>& ready) {
    State* state = Open();
    if (state->Take(0, State::Kind::kAllocation, state->card(0).profile.memory_bytes) !=
        State::Answer::kOk) {
      _exit(1);
    }
    ready();
  });
  ASSERT_TRUE(child.ready());
  EXPECT_EQ(witness->UsedBytes(0), memory);
  auto processes = witness->Processes(0, 0);
  ASSERT_EQ(processes.size(), 1u);
  EXPECT_EQ(processes[0].pid, child.pid());
  EXPECT_EQ(witness->Take(0, State::Kind::kAllocation, kGranule), State::Answer::kOutOfMemory);
  child.Kill();
  EXPECT_EQ(witness->UsedBytes(0), 0u);
  EXPECT_EQ(witness->Take(0, State::Kind::kAllocation, memory), State::Answer::kOk);
}

// Children that take and give without pause are killed at arbitrary points; what is left must be
// exactly what the living use, and the account's lock must be free.
TEST_F(StateTest, KillAtArbitraryPoints) {
  State* witness = Open();
  std::mt19937 random(7);
  const uint64_t memory = witness->card(0).profile.memory_bytes;
  for (int round = 0; round < 40; ++round) {
    std::vector<pid_t> children;
    for (int i = 0; i < 3; ++i) {
      pid_t pid = fork();
      ASSERT_GE(pid, 0);
      if (pid == 0) {
        State* state = Open();
        std::mt19937 mine(round * 3 + i);
        uint64_t held = 0;
        while (true) {
          const uint64_t bytes = (1 + mine() % 2000) * kGranule;
          if (state->Take(0, State::Kind::kAllocation, bytes) == State::Answer::kOk) held += bytes;
          if (mine() % 2 == 0 && held > 0) {
            state->Give(0, State::Kind::kAllocation, held);
            held = 0;
          }
        }
      }
      children.push_back(pid);
    }
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 8000));
    ASSERT_LE(witness->UsedBytes(0), memory);
    for (pid_t pid : children) kill(pid, SIGKILL);
    for (pid_t pid : children) waitpid(pid, nullptr, 0);
    ASSERT_EQ(witness->UsedBytes(0), 0u) << "round " << round;
    ASSERT_EQ(witness->Take(0, State::Kind::kAllocation, memory), State::Answer::kOk);
    witness->Give(0, State::Kind::kAllocation, memory);
  }
}

// Four processes fill the card in granules at the same time; together they get exactly all of it.
TEST_F(StateTest, ConcurrentTakersNeverExceedTheCard) {
  State* witness = Open();
  const uint64_t memory = witness->card(0).profile.memory_bytes;
  int start[2], result[2];
  ASSERT_EQ(pipe(start), 0);
  ASSERT_EQ(pipe(result), 0);
  std::vector<pid_t> children;
  for (int i = 0; i < 4; ++i) {
    pid_t pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      close(start[1]);
      State* state = Open();
      char byte;
      // The start signal is the end of this pipe.
      if (read(start[0], &byte, 1) != 0) _exit(1);
      uint64_t got = 0;
      while (state->Take(0, State::Kind::kAllocation, kGranule) == State::Answer::kOk) ++got;
      if (write(result[1], &got, sizeof got) != sizeof got) _exit(2);
      while (true) pause();
    }
    children.push_back(pid);
  }
  close(start[0]);
  close(start[1]);
  uint64_t sum = 0;
  for (int i = 0; i < 4; ++i) {
    uint64_t got = 0;
    EXPECT_EQ(read(result[0], &got, sizeof got), static_cast<ssize_t>(sizeof got));
    sum += got;
    EXPECT_LE(witness->UsedBytes(0), memory);
  }
  EXPECT_EQ(sum * kGranule, memory);
  EXPECT_EQ(witness->UsedBytes(0), memory);
  for (pid_t pid : children) kill(pid, SIGKILL);
  for (pid_t pid : children) waitpid(pid, nullptr, 0);
  EXPECT_EQ(witness->UsedBytes(0), 0u);
  close(result[0]);
  close(result[1]);
}

TEST_F(StateTest, AForkedChildStartsWithNothing) {
  State* state = Open();
  ASSERT_EQ(state->Take(0, State::Kind::kAllocation, 10 * kGranule), State::Answer::kOk);
  Child child([&](const std::function<void()>& ready) {
    // The parent's use is the parent's: seen, not ours.
    if (state->Own(0).Total() != 0 || state->UsedBytes(0) != 10 * kGranule) _exit(1);
    if (state->Take(0, State::Kind::kAllocation, kGranule) != State::Answer::kOk) _exit(2);
    if (state->UsedBytes(0) != 11 * kGranule) _exit(3);
    ready();
  });
  ASSERT_TRUE(child.ready());
  EXPECT_EQ(state->UsedBytes(0), 11 * kGranule);
  EXPECT_EQ(state->Processes(0, 0).size(), 2u);
  child.Kill();
  EXPECT_EQ(state->UsedBytes(0), 10 * kGranule);
}

TEST_F(StateTest, SurvivesAProgramThatClosesEveryDescriptor) {
  State* witness = Open();
  Child child([](const std::function<void()>& ready) {
    State* state = Open();
    if (state->Take(0, State::Kind::kAllocation, 5 * kGranule) != State::Answer::kOk) _exit(1);
    // Keeps the pipe to the parent by duplicating it high, then behaves like a daemon.
    for (int fd = 3; fd < 256; ++fd) {
      struct stat info;
      if (fstat(fd, &info) == 0 && !S_ISFIFO(info.st_mode)) close(fd);
    }
    // Other files land on the old numbers.
    for (int i = 0; i < 8; ++i) {
      if (open("/dev/null", O_RDONLY) < 0) _exit(2);
    }
    if (state->Take(0, State::Kind::kAllocation, kGranule) != State::Answer::kOk) _exit(3);
    ready();
  });
  ASSERT_TRUE(child.ready());
  auto processes = witness->Processes(0, 0);
  ASSERT_EQ(processes.size(), 1u);
  EXPECT_EQ(processes[0].pid, child.pid());
  EXPECT_EQ(processes[0].usage.Total(), 6 * kGranule);
}

TEST_F(StateTest, PidsAreTheReadersOwn) {
  if (geteuid() != 0) GTEST_SKIP() << "NOT RUN: pid namespaces need root, and this is not root";
  State* witness = Open();
  ASSERT_EQ(witness->Take(0, State::Kind::kAllocation, kGranule), State::Answer::kOk);
  int ready[2], told[2];
  ASSERT_EQ(pipe(ready), 0);
  ASSERT_EQ(pipe(told), 0);
  pid_t middle = fork();
  ASSERT_GE(middle, 0);
  if (middle == 0) {
    if (unshare(CLONE_NEWPID) != 0) _exit(7);
    // The first process of the namespace is 1 there.
    pid_t inner = fork();
    if (inner == 0) {
      State* state = Open();
      if (getpid() != 1) _exit(1);
      if (state->Take(0, State::Kind::kAllocation, kGranule) != State::Answer::kOk) _exit(2);
      auto seen = state->Processes(0, 0);
      // Itself under its own pid, the outside witness without one.
      int own = 0, unseen = 0;
      for (const ProcessUse& one : seen) {
        own += one.pid == 1;
        unseen += one.pid == 0;
      }
      if (seen.size() != 2 || own != 1 || unseen != 1) _exit(3);
      if (write(ready[1], "r", 1) != 1) _exit(4);
      while (true) pause();
    }
    int status = 0;
    if (write(told[1], &inner, sizeof inner) != sizeof inner) _exit(5);
    // So that the outside sees the end of `ready` when the inner process fails.
    close(ready[1]);
    waitpid(inner, &status, 0);
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 0);
  }
  close(ready[1]);
  close(told[1]);
  pid_t inner = 0;
  char byte = 0;
  EXPECT_EQ(read(told[0], &inner, sizeof inner), static_cast<ssize_t>(sizeof inner));
  if (read(ready[0], &byte, 1) == 1) {
    bool found = false;
    for (const ProcessUse& one : witness->Processes(0, 0)) found |= one.pid == inner;
    EXPECT_TRUE(found);
    EXPECT_EQ(witness->UsedBytes(0), 2 * kGranule);
  }
  if (inner > 0) kill(inner, SIGKILL);
  int status = 0;
  waitpid(middle, &status, 0);
  EXPECT_EQ(byte, 'r');
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_EQ(witness->UsedBytes(0), kGranule);
  close(ready[0]);
  close(told[0]);
}

TEST_F(StateTest, SlotsAreBounded) {
  // All bytes of the lock file are held by one process that is not us.
  State* state = Open();
  ASSERT_EQ(state->Take(0, State::Kind::kAllocation, kGranule), State::Answer::kOk);
  Child holder([&](const std::function<void()>& ready) {
    int fd = open((folder_ + "/locks").c_str(), O_RDWR);
    struct flock lock = {};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    lock.l_start = 1;
    lock.l_len = kSlotsMax - 1;
    if (fcntl(fd, F_SETLK, &lock) != 0) _exit(1);
    ready();
  });
  ASSERT_TRUE(holder.ready());
  Child late([](const std::function<void()>& ready) {
    if (Open()->Take(0, State::Kind::kAllocation, kGranule) == State::Answer::kNoSlot) ready();
  });
  EXPECT_TRUE(late.ready());
}

TEST_F(StateTest, BusyTimeIsCountedOnceAndForgotten) {
  State* state = Open();
  ASSERT_EQ(state->Take(0, State::Kind::kContext, kGranule), State::Answer::kOk);
  EXPECT_EQ(state->UtilisationPermille(0, 1'000'000'000), 0u);
  const uint64_t begun = state->engine(0).Begin(0);
  const uint64_t again = state->engine(0).Begin(0);
  std::this_thread::sleep_for(std::chrono::milliseconds(60));
  // Under way: already visible.
  const uint64_t running = state->Processes(0, 1'000'000'000)[0].busy_recent_ns;
  EXPECT_GE(running, 60'000'000u);
  state->engine(0).End(begun, 0);
  EXPECT_EQ(state->Processes(0, 0)[0].busy_recent_ns, 0u);
  state->engine(0).End(again, 0);
  const ProcessUse after = state->Processes(0, State::kWindowMaxNs)[0];
  EXPECT_GE(after.busy_ns, 60'000'000u);
  EXPECT_GE(after.busy_recent_ns, 60'000'000u);
  EXPECT_LE(after.busy_recent_ns, after.busy_ns + 1);
  EXPECT_GT(state->UtilisationPermille(0, State::kWindowMaxNs), 0u);
  EXPECT_EQ(state->UtilisationPermille(1, State::kWindowMaxNs), 0u);
}

TEST(Profile, RefusesWithLineAndKey) {
  Profile profile;
  std::string error;
  ASSERT_TRUE(FindProfile("T4", &profile, &error)) << error;
  EXPECT_FALSE(ParseProfile("name x\nname y\n", &profile, &error));
  EXPECT_EQ(error, "line 2: name: stands there twice");
  EXPECT_FALSE(ParseProfile("sm_count many\n", &profile, &error));
  EXPECT_EQ(error, "line 1: sm_count: expected a number in range, not \"many\"");
  EXPECT_FALSE(ParseProfile("memory_mib 15361\n", &profile, &error));
  EXPECT_EQ(error,
            "line 1: memory_mib: expected an even number of MiB, 2 to 4194304, not \"15361\"");
  EXPECT_FALSE(ParseProfile("colour red\n", &profile, &error));
  EXPECT_EQ(error, "line 1: colour: unknown key");
  EXPECT_FALSE(ParseProfile("name x\n", &profile, &error));
  EXPECT_EQ(error, "key architecture is missing");
  EXPECT_FALSE(FindProfile("../T4", &profile, &error));
}

TEST(Profile, AFolderOverrides) {
  char name[] = "/tmp/simgpu-profiles-XXXXXX";
  ASSERT_NE(mkdtemp(name), nullptr);
  setenv("SIMGPU_PROFILES", name, 1);
  Profile profile;
  std::string error;
  EXPECT_TRUE(FindProfile("H200", &profile, &error)) << error;
  {
    FILE* file = fopen((std::string(name) + "/H200.profile").c_str(), "w");
    ASSERT_NE(file, nullptr);
    fputs("sm_count 1\n", file);
    fclose(file);
  }
  EXPECT_FALSE(FindProfile("H200", &profile, &error));
  EXPECT_NE(error.find("H200.profile: key name is missing"), std::string::npos) << error;
  unsetenv("SIMGPU_PROFILES");
  std::filesystem::remove_all(name);
}

}  // namespace
}  // namespace simgpu
