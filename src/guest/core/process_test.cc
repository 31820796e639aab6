// Attaching to a node, settling with it, and what becomes of both after a fork. Each test lives in
// a child process of its own, because the state under test is one per process.
#include "guest/core/process.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <vector>

#include "guest/test_node.h"
#include "os/scratch.h"

namespace tessera::guest {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr char kFirst[] = "GPU-00000000-0000-0000-0000-0000000000aa";
constexpr char kSecond[] = "GPU-00000000-0000-0000-0000-0000000000bb";

class ProcessTest : public testing::Test {
 protected:
  // Runs `body` in a child whose TESSERA_SOCKET is our socket; returns its exit code, and what it
  // wrote to stderr.
  template <typename Body>
  int InChild(const Body& body) {
    int ends[2];
    if (pipe(ends) != 0) return -1;
    const pid_t pid = fork();
    if (pid == 0) {
      dup2(ends[1], 2);
      close(ends[0]);
      close(ends[1]);
      setenv(wire::kSocketVariable, socket_.c_str(), 1);
      _exit(body());
    }
    close(ends[1]);
    said_.clear();
    char buffer[512];
    for (ssize_t got; (got = read(ends[0], buffer, sizeof(buffer))) > 0;) {
      said_.append(buffer, static_cast<size_t>(got));
    }
    close(ends[0]);
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + status;
  }

  const os::ScratchFolder folder_;
  const std::string socket_ = folder_ / "s";
  std::string said_;
};

TEST_F(ProcessTest, WithoutANodeItSaysOneLine) {
  EXPECT_EQ(InChild([] {
              if (AttachSlow() != AttachResult::kNoNode) return 1;
              if (EnsureAttached()) return 2;
              return 0;
            }),
            0);
  EXPECT_EQ(said_.find("tessera: no node answers"), 0u) << said_;
  EXPECT_EQ(said_.find('\n'), said_.size() - 1) << said_;
}

TEST_F(ProcessTest, EveryAnswerHasItsReason) {
  TestNode node({{kFirst, kMiB}});
  ASSERT_TRUE(node.Listen(socket_));
  const struct {
    uint32_t status;
    AttachResult result;
    const char* words;
  } kCases[] = {{wire::kStatusNoSlice, AttachResult::kNoSlice, "belongs to no slice"},
                {wire::kStatusFull, AttachResult::kFull, "kProcessesMax = 256"},
                {wire::kStatusClosed, AttachResult::kClosed, "taken back"},
                {wire::kStatusVersion, AttachResult::kVersion, "another version"}};
  for (const auto& c : kCases) {
    node.AnswerWith(c.status);
    EXPECT_EQ(InChild([&] { return AttachSlow() == c.result ? 0 : 1; }), 0) << c.words;
    EXPECT_NE(said_.find(c.words), std::string::npos) << said_;
  }
}

TEST_F(ProcessTest, PagesOfAnotherVersionAreRefused) {
  TestNode node({{kFirst, kMiB}});
  ASSERT_TRUE(node.Listen(socket_));
  const auto attach = [] { return static_cast<int>(AttachSlow()); };
  constexpr int kVersion = static_cast<int>(AttachResult::kVersion);
  node.control()->version = wire::kPageVersion + 1;
  EXPECT_EQ(InChild(attach), kVersion);
  node.control()->version = wire::kPageVersion;
  node.usage()->magic = 1;
  EXPECT_EQ(InChild(attach), kVersion);
  node.usage()->magic = wire::kUsageMagic;
  node.control()->cards[0].granule_bytes = 3 * kMiB;
  EXPECT_EQ(InChild(attach), kVersion);
  node.control()->cards[0].granule_bytes = 2 * kMiB;
  EXPECT_EQ(InChild(attach), 0);
  // An older node's pages are shorter, and must not be touched beyond their end.
  node.Shorten(sizeof(wire::UsagePage) - 64);
  EXPECT_EQ(InChild(attach), kVersion);
  EXPECT_NE(said_.find("another version"), std::string::npos) << said_;
}

TEST_F(ProcessTest, AttachesOnceAndTheControlPageCannotBeWritten) {
  TestNode node({{kFirst, 10 * kMiB}});
  ASSERT_TRUE(node.Listen(socket_));
  EXPECT_EQ(InChild([] {
              if (!EnsureAttached() || !EnsureAttached()) return 1;
              if (!process.ledger.Reserve(0, 2 * kMiB)) return 2;
              if (process.slot->pid != static_cast<uint32_t>(getpid())) return 3;
              const size_t page = 4096;
              void* control = const_cast<wire::ControlPage*>(process.control);
              if (mprotect(control, page, PROT_READ | PROT_WRITE) == 0) return 4;
              return 0;
            }),
            0);
  EXPECT_EQ(node.attaches(), 1u);
  EXPECT_EQ(node.usage()->cards[0].used, 2 * kMiB);
}

TEST_F(ProcessTest, AForkedChildHasItsOwnSlotAndAnEmptyTable) {
  TestNode node({{kFirst, 10 * kMiB}});
  ASSERT_TRUE(node.Listen(socket_));
  EXPECT_EQ(InChild([] {
              if (!EnsureAttached() || !process.ledger.Reserve(0, 2 * kMiB)) return 1;
              process.allocations.Insert({4096, 2 * kMiB, 0, kPlain, 1}, process.granule_shift);
              const wire::ProcessSlot* parents = process.slot;
              const pid_t child = fork();
              if (child == 0) {
                if (Attached() || process.attach_word != 0) _exit(2);
                if (!EnsureAttached() || process.slot == parents) _exit(3);
                if (process.allocations.size() != 0) _exit(4);
                if (!process.ledger.Reserve(0, 4 * kMiB)) _exit(5);
                _exit(0);
              }
              int status = 0;
              waitpid(child, &status, 0);
              if (status != 0) return WEXITSTATUS(status);
              if (process.slot != parents || process.ledger.Held(0) != 2 * kMiB) return 6;
              return process.allocations.size() == 1 ? 0 : 7;
            }),
            0);
  EXPECT_EQ(node.attaches(), 2u);
  ASSERT_TRUE(node.Recount());
  EXPECT_EQ(node.usage()->cards[0].used, 0u);
}

TEST_F(ProcessTest, ManyThreadsAttachOnce) {
  TestNode node({{kFirst, 10 * kMiB}});
  ASSERT_TRUE(node.Listen(socket_));
  EXPECT_EQ(InChild([] {
              std::vector<std::thread> threads;
              std::atomic<int> attached{0};
              for (int i = 0; i < 16; ++i) {
                threads.emplace_back([&] { attached += EnsureAttached() ? 1 : 0; });
              }
              for (auto& thread : threads) thread.join();
              return attached == 16 ? 0 : 1;
            }),
            0);
  EXPECT_EQ(node.attaches(), 1u);
}

TEST_F(ProcessTest, ANodeThatRestartsDisturbsNobody) {
  TestNode node({{kFirst, 10 * kMiB}}, [](pid_t, uint32_t) { return int64_t{8 * kMiB}; });
  ASSERT_TRUE(node.Listen(socket_));
  int to_child[2], to_parent[2];
  ASSERT_EQ(pipe(to_child), 0);
  ASSERT_EQ(pipe(to_parent), 0);
  std::thread restart([&] {
    char c;
    (void)!read(to_parent[0], &c, 1);
    node.Stop();
    (void)!write(to_child[1], "x", 1);
    (void)!read(to_parent[0], &c, 1);
    EXPECT_TRUE(node.Listen(socket_));
    (void)!write(to_child[1], "x", 1);
  });
  EXPECT_EQ(InChild([&] {
              char c;
              if (!EnsureAttached()) return 1;
              (void)!write(to_parent[1], "x", 1);
              (void)!read(to_child[0], &c, 1);
              uint64_t bytes = 0;
              if (!process.ledger.Reserve(0, 2 * kMiB)) return 2;
              if (AskReal(0, &bytes)) return 3;
              (void)!write(to_parent[1], "x", 1);
              (void)!read(to_child[0], &c, 1);
              if (!AskReal(0, &bytes) || bytes != 8 * kMiB) return 4;
              return 0;
            }),
            0);
  restart.join();
  for (int fd : {to_child[0], to_child[1], to_parent[0], to_parent[1]}) close(fd);
}

TEST_F(ProcessTest, SettlingCorrectsAnEstimateBothWays) {
  std::atomic<int64_t> real{0};
  TestNode node({{kFirst, 100 * kMiB}}, [&](pid_t, uint32_t) { return real.load(); });
  ASSERT_TRUE(node.Listen(socket_));
  const auto settle = [](uint64_t estimate, uint64_t* charged) {
    if (!EnsureAttached() || !process.ledger.Reserve(0, estimate)) return false;
    *charged = estimate;
    return Settle(0, charged);
  };
  real = static_cast<int64_t>(9 * kMiB);  // rounded up to 10
  EXPECT_EQ(InChild([&] {
              uint64_t charged = 0;
              return settle(4 * kMiB, &charged) && charged == 10 * kMiB &&
                             process.ledger.Held(0) == 10 * kMiB
                         ? 0
                         : 1;
            }),
            0);
  EXPECT_EQ(InChild([&] {
              uint64_t charged = 0;
              return settle(40 * kMiB, &charged) && charged == 10 * kMiB &&
                             process.ledger.Held(0) == 10 * kMiB
                         ? 0
                         : 1;
            }),
            0);
  // Something else in flight: what looks like surplus may be its, so nothing is given back.
  EXPECT_EQ(InChild([&] {
              uint64_t charged = 0;
              if (!EnsureAttached() || !process.ledger.Reserve(0, 20 * kMiB)) return 1;
              return settle(40 * kMiB, &charged) && charged == 40 * kMiB ? 0 : 2;
            }),
            0);
  // The real size does not fit.
  real = static_cast<int64_t>(101 * kMiB);
  EXPECT_EQ(InChild([&] {
              uint64_t charged = 0;
              return !settle(4 * kMiB, &charged) && charged == 4 * kMiB ? 0 : 1;
            }),
            0);
  // The node cannot tell: the estimate stands.
  real = -1;
  EXPECT_EQ(InChild([&] {
              uint64_t charged = 0;
              return settle(4 * kMiB, &charged) && charged == 4 * kMiB ? 0 : 1;
            }),
            0);
}

std::string Visible(const wire::ControlPage& control, const char* asked, size_t capacity = 4096) {
  std::string text(capacity, '?');
  text.resize(VisibleDevices(control, asked, text.data(), capacity));
  return text;
}

TEST(VisibleDevicesTest, CountsTheSlicesCardsAndEndsAtTheFirstStranger) {
  wire::ControlPage control = {};
  control.card_count = 2;
  std::strcpy(control.cards[0].uuid, kFirst);
  std::strcpy(control.cards[1].uuid, kSecond);
  const std::string a = kFirst, b = kSecond;
  EXPECT_EQ(Visible(control, nullptr), a + "," + b);
  EXPECT_EQ(Visible(control, ""), "");
  EXPECT_EQ(Visible(control, "0"), a);
  EXPECT_EQ(Visible(control, "1,0"), b + "," + a);
  EXPECT_EQ(Visible(control, " 1 , 0 "), b + "," + a);
  EXPECT_EQ(Visible(control, "1,2,0"), b);
  EXPECT_EQ(Visible(control, "-1"), "");
  EXPECT_EQ(Visible(control, "99999999999999999999"), "");
  EXPECT_EQ(Visible(control, kSecond), b);
  EXPECT_EQ(Visible(control, "GPU-00000000-0000-0000-0000-0000000000cc,0"), "");
  EXPECT_EQ(Visible(control, "GPU-0"), "") << "an ambiguous beginning names no card";
  EXPECT_EQ(Visible(control, "MIG-1"), "");
  EXPECT_EQ(Visible(control, nullptr, a.size() + 3), a) << "cut at an entry, never inside one";
}

TEST(VisibleDevicesTest, UuidsCompareByTheirDigits) {
  EXPECT_TRUE(SameUuid("GPU-ABCD", "abcd"));
  EXPECT_FALSE(SameUuid("GPU-abcd", "GPU-abce"));
  EXPECT_FALSE(SameUuid("GPU-abcd", "GPU-abcde"));
}

}  // namespace
}  // namespace tessera::guest
