#include "os/process.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

namespace tessera::os {
namespace {

std::string StatLine(const std::string& command, char state, const std::string& threads = "1") {
  return "7 (" + command + ") " + state + " 5 7 7 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 " + threads +
         " 0 987654 1 2 3\n";
}

TEST(Process, StartTimeIsFieldTwentyTwo) {
  const auto id = ParseProcessStat(7, StatLine("cat", 'S'));
  ASSERT_TRUE(id);
  EXPECT_EQ(id->start_time, 987654u);
}

TEST(Process, ACommandWithParenthesesMisleadsNobody) {
  const auto id = ParseProcessStat(7, StatLine("a) Z 1 (b) X", 'R'));
  ASSERT_TRUE(id);
  EXPECT_EQ(id->start_time, 987654u);
}

TEST(Process, ZombiesAreDeadUnlessThreadsRun) {
  EXPECT_EQ(ParseProcessStat(7, StatLine("cat", 'Z')).error().code(), Code::kNotFound);
  EXPECT_EQ(ParseProcessStat(7, StatLine("cat", 'X')).error().code(), Code::kNotFound);
  EXPECT_TRUE(ParseProcessStat(7, StatLine("cat", 'Z', "3")));
}

TEST(Process, MalformedTextIsAnError) {
  for (const char* text :
       {"", "7 (cat", "7 (cat) S", "7 (cat) S x 7", "7 (cat) S 5 7 7 0 -1 4194304 1"}) {
    EXPECT_FALSE(ParseProcessStat(7, text)) << text;
  }
}

TEST(Process, KnowsItselfAndItsParent) {
  const auto self = IdentifyProcess(getpid());
  ASSERT_TRUE(self);
  EXPECT_TRUE(IsAlive(*self));
  EXPECT_FALSE(IsAlive({self->pid, self->start_time + 1}));
  EXPECT_EQ(*ParentOf(getpid()), getppid());
  EXPECT_EQ(IdentifyProcess(0).error().code(), Code::kNotFound);
}

TEST(Process, AHostileNameInTheRealProc) {
  char before[16];
  prctl(PR_GET_NAME, before);
  const auto plain = IdentifyProcess(getpid());
  prctl(PR_SET_NAME, "x) Z 9 9 (");
  const auto hostile = IdentifyProcess(getpid());
  prctl(PR_SET_NAME, before);
  ASSERT_TRUE(plain);
  ASSERT_TRUE(hostile);
  EXPECT_EQ(*plain, *hostile);
}

TEST(Process, PidfdBecomesReadableAndTheZombieCountsAsDead) {
  const pid_t child = fork();
  if (child == 0) {
    pause();
    _exit(0);
  }
  const auto id = IdentifyProcess(child);
  ASSERT_TRUE(id);
  auto pidfd = OpenPidfd(child);
  ASSERT_TRUE(pidfd);
  pollfd waiter{pidfd->get(), POLLIN, 0};
  EXPECT_EQ(poll(&waiter, 1, 0), 0);
  kill(child, SIGKILL);
  EXPECT_EQ(poll(&waiter, 1, 30'000), 1);
  EXPECT_FALSE(IsAlive(*id));  // Not waited for yet.
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_FALSE(IsAlive(*id));
}

TEST(Process, AProcessWhoseMainThreadLeftIsAlive) {
  const pid_t child = fork();
  if (child == 0) {
    pthread_t thread;
    pthread_create(
        &thread, nullptr,
        [](void*) -> void* {
          for (;;) pause();
        },
        nullptr);
    syscall(SYS_exit,
            0);  // This thread alone; pthread_exit would unwind through the test framework.
  }
  for (int i = 0; i < 3000; ++i) {  // Until the leader has become a zombie.
    FILE* const stat = fopen(("/proc/" + std::to_string(child) + "/stat").c_str(), "r");
    char line[512] = "";
    ASSERT_NE(stat, nullptr);
    ASSERT_NE(fgets(line, sizeof(line), stat), nullptr);
    fclose(stat);
    if (std::string(line).find(") Z ") != std::string::npos) break;
    usleep(10'000);
  }
  EXPECT_TRUE(IdentifyProcess(child));
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_FALSE(IdentifyProcess(child));
}

TEST(Process, CgroupIsAnAbsolutePath) {
  const auto path = CgroupOf(getpid());
  if (!path) {
    EXPECT_EQ(path.error().code(), Code::kUnavailable);  // A machine without the unified hierarchy.
    return;
  }
  EXPECT_EQ(path->front(), '/');
}

}  // namespace
}  // namespace tessera::os
