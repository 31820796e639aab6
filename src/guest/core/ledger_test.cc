// The reservation protocol: alone, from many threads, from many processes, and with processes
// killed in the middle.
#include "guest/core/ledger.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "guest/test_node.h"

#if defined(__SANITIZE_THREAD__)
#define TESSERA_TSAN
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TESSERA_TSAN
#endif
#endif

namespace tessera::guest {
namespace {
[[maybe_unused]] constexpr uint64_t kMiB = 1 << 20;  // only the tests that fork use it

std::unique_ptr<Ledger> LedgerOf(TestNode& node, pid_t pid) {
  auto ledger = std::make_unique<Ledger>();
  ledger->Bind({node.control(), node.usage(), &node.usage()->slots[node.SlotOf(pid)]});
  return ledger;
}

TEST(LedgerTest, TakesWhatFitsAndRefusesOneByteMore) {
  TestNode node({{"GPU-1", 100}});
  auto ledger = LedgerOf(node, getpid());
  EXPECT_TRUE(ledger->Reserve(0, 60));
  EXPECT_FALSE(ledger->Reserve(0, 41));
  EXPECT_TRUE(ledger->Reserve(0, 40));
  EXPECT_FALSE(ledger->Reserve(0, 1));
  EXPECT_FALSE(ledger->Reserve(0, ~0ull));
  EXPECT_EQ(node.usage()->cards[0].refusals, 3u);
  EXPECT_EQ(node.usage()->cards[0].peak, 100u);
  EXPECT_EQ(ledger->Held(0), 100u);
  ledger->Release(0, 100);
  EXPECT_EQ(node.usage()->cards[0].used, 0u);
  EXPECT_EQ(ledger->Held(0), 0u);
  EXPECT_EQ(node.usage()->slots[0].intent, 0u);
}

TEST(LedgerTest, LeasesLiftTheLimitUpToTheCeiling) {
  TestNode node({{"GPU-1", 100}});
  auto ledger = LedgerOf(node, getpid());
  wire::ControlCard& card = node.control()->cards[0];
  card.lease_bytes = 50;
  card.ceiling_bytes = 120;
  EXPECT_EQ(AllowedBytes(card), 120u);
  card.ceiling_bytes = 1000;
  EXPECT_EQ(AllowedBytes(card), 150u);
  card.ceiling_bytes = 10;  // nonsense: the limit is what the slice can always reach
  EXPECT_EQ(AllowedBytes(card), 100u);
  card.ceiling_bytes = 1000;
  EXPECT_TRUE(ledger->Reserve(0, 150));
  card.lease_bytes = 0;
  EXPECT_FALSE(ledger->Reserve(0, 1));
}

TEST(LedgerTest, AClosedSliceRefusesButTakesBack) {
  TestNode node({{"GPU-1", 100}});
  auto ledger = LedgerOf(node, getpid());
  ASSERT_TRUE(ledger->Reserve(0, 10));
  node.control()->state = wire::kStateClosed;
  EXPECT_FALSE(ledger->Reserve(0, 1));
  ledger->Release(0, 10);
  EXPECT_EQ(node.usage()->cards[0].used, 0u);
}

TEST(LedgerTest, WaitsWhileTheReaperCounts) {
  TestNode node({{"GPU-1", 100}});
  auto ledger = LedgerOf(node, getpid());
  ASSERT_TRUE(ledger->Reserve(0, 10));
  __atomic_fetch_or(&node.usage()->cards[0].used, wire::kFrozenBit, __ATOMIC_SEQ_CST);
  std::atomic<int> done{0};
  std::thread reserve([&] {
    EXPECT_TRUE(ledger->Reserve(0, 5));
    ++done;
  });
  std::thread release([&] {
    ledger->Release(0, 10);
    ++done;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(done, 0);
  EXPECT_EQ(__atomic_load_n(&node.usage()->slots[0].intent, __ATOMIC_SEQ_CST), 0u);
  EXPECT_TRUE(node.Recount());
  reserve.join();
  release.join();
  EXPECT_EQ(node.usage()->cards[0].used, 5u);
  EXPECT_EQ(ledger->Held(0), 5u);
}

// What the order in wire/pages.h promises: whoever gets past the frozen bit had its intent seen.
TEST(LedgerTest, NothingChangesWhileAReaperThatSawNoIntentCounts) {
  TestNode node({{"GPU-1", 1 << 20}});
  auto ledger = LedgerOf(node, getpid());
  wire::UsageCard* const card = &node.usage()->cards[0];
  wire::ProcessSlot* const slot = &node.usage()->slots[0];
  std::atomic<bool> stop{false};
  std::thread tenant([&] {
    while (!stop) {
      if (ledger->Reserve(0, 7)) ledger->Release(0, 7);
    }
  });
  // A third of a second of it; how many rounds that is depends on the machine.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(300);
  while (std::chrono::steady_clock::now() < deadline) {
    __atomic_fetch_or(&card->used, wire::kFrozenBit, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&slot->intent, __ATOMIC_SEQ_CST) != 0) std::this_thread::yield();
    const uint64_t held = wire::Load(&slot->used[0]);
    const uint64_t word = wire::Load(&card->used);
    std::this_thread::yield();
    ASSERT_EQ(word, held | wire::kFrozenBit);
    ASSERT_EQ(wire::Load(&slot->used[0]), held);
    ASSERT_EQ(wire::Load(&card->used), word);
    // The bit goes with a plain store of the sum, as the reaper lifts it.
    __atomic_store_n(&card->used, held, __ATOMIC_SEQ_CST);
    constexpr long kWake = 1;
    Syscall(SYS_futex, Arg(wire::FrozenFutex(card)), kWake, 1 << 30);
  }
  stop = true;
  tenant.join();
  EXPECT_EQ(wire::Load(&card->used), 0u);
  EXPECT_EQ(ledger->Held(0), 0u);
}

TEST(LedgerTest, AReaperThatDiedWhileCountingStopsNobodyForGood) {
  TestNode node({{"GPU-1", 100}});
  auto ledger = LedgerOf(node, getpid());
  ASSERT_TRUE(ledger->Reserve(0, 10));
  __atomic_fetch_or(&node.usage()->cards[0].used, wire::kFrozenBit, __ATOMIC_SEQ_CST);
  EXPECT_FALSE(ledger->Reserve(0, 5));  // after kFrozenTotalNanosMax
  ledger->Release(0, 10);               // kept aside
  EXPECT_EQ(ledger->Held(0), 10u);
  __atomic_fetch_and(&node.usage()->cards[0].used, ~wire::kFrozenBit, __ATOMIC_SEQ_CST);
  EXPECT_TRUE(ledger->Reserve(0, 100));  // fits only once what was kept aside is given back
  ledger->Release(0, 100);
  EXPECT_EQ(node.usage()->cards[0].used, 0u);
}

// Threads of one process, with a reaper counting all the time.
TEST(LedgerTest, ThreadsAndReaperAgree) {
  constexpr uint64_t kLimit = 64;
  TestNode node({{"GPU-1", kLimit}});
  auto ledger = LedgerOf(node, getpid());
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> over{0};
  std::thread reaper([&] {
    while (!stop) {
      node.Recount();
      if (UsedBytes(node.usage()->cards[0]) > kLimit) ++over;
    }
  });
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(static_cast<uint32_t>(t));
      std::vector<uint64_t> held;
      for (int i = 0; i < 300000; ++i) {
        const uint64_t bytes = 1 + random() % 20;
        if (random() % 2 == 0) {
          if (ledger->Reserve(0, bytes)) held.push_back(bytes);
        } else if (!held.empty()) {
          ledger->Release(0, held.back());
          held.pop_back();
        }
      }
      for (uint64_t bytes : held) ledger->Release(0, bytes);
    });
  }
  for (auto& thread : threads) thread.join();
  stop = true;
  reaper.join();
  EXPECT_EQ(over, 0u);
  EXPECT_TRUE(node.Recount());
  EXPECT_EQ(node.usage()->cards[0].used, 0u);
  EXPECT_LE(node.usage()->cards[0].peak, kLimit);
}

// Sanitizers of races cannot follow fork; the rest is about processes.
#if !defined(TESSERA_TSAN)

// Runs `body` in a child that shares the pages.
template <typename Body>
pid_t Spawn(const Body& body) {
  const pid_t pid = fork();
  if (pid == 0) {
    body();
    _exit(0);
  }
  return pid;
}

void WaitFor(const std::vector<pid_t>& pids) {
  for (pid_t pid : pids) {
    int status = 0;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_TRUE(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
  }
}

// A child's random life: returns 1 if it ever saw the slice above its limit.
int RandomLife(TestNode& node, uint64_t seed, int steps, uint64_t limit) {
  auto ledger = LedgerOf(node, getpid());
  std::mt19937_64 random(seed);
  std::vector<uint64_t> held;
  for (int i = 0; i < steps; ++i) {
    if (random() % 100 < 55) {
      const uint64_t bytes = (1 + random() % 8) * 2 * kMiB;
      if (ledger->Reserve(0, bytes)) held.push_back(bytes);
    } else if (!held.empty()) {
      std::swap(held[random() % held.size()], held.back());
      ledger->Release(0, held.back());
      held.pop_back();
    }
    if (UsedBytes(node.usage()->cards[0]) > limit) return 1;
  }
  for (uint64_t bytes : held) ledger->Release(0, bytes);
  return 0;
}

TEST(LedgerProcessesTest, EightProcessesNeverPassTheLimitAndLeaveNothing) {
  constexpr uint64_t kLimit = 100 * kMiB;
  TestNode node({{"GPU-1", kLimit}});
  std::vector<pid_t> children;
  for (uint64_t p = 0; p < 8; ++p) {
    children.push_back(Spawn([&, p] { _exit(RandomLife(node, 77 + p, 125000, kLimit)); }));
  }
  WaitFor(children);
  EXPECT_EQ(UsedBytes(node.usage()->cards[0]), 0u);
  EXPECT_EQ(node.SumOfSlots(0), 0u);
  EXPECT_LE(node.usage()->cards[0].peak, kLimit);
  EXPECT_GT(node.usage()->cards[0].peak, kLimit / 2);
  EXPECT_GT(node.usage()->cards[0].refusals, 0u);
}

TEST(LedgerProcessesTest, AGreedySiblingNeverMakesAFittingAskFail) {
  TestNode node({{"GPU-1", 10 * kMiB}});
  auto ledger = LedgerOf(node, getpid());
  ASSERT_TRUE(ledger->Reserve(0, 2 * kMiB));  // from now on 9 MiB never fit
  const pid_t greedy = Spawn([&] {
    auto ledger = LedgerOf(node, getpid());
    for (;;) {
      if (ledger->Reserve(0, 9 * kMiB)) _exit(1);
    }
  });
  // On a busy machine the sibling may get its first turn late; only asks beside its asks count
  // here.
  while (__atomic_load_n(&node.usage()->cards[0].refusals, __ATOMIC_RELAXED) == 0) usleep(1000);
  const uint64_t refused_before = node.usage()->cards[0].refusals;
  for (int i = 0; i < 200000 || __atomic_load_n(&node.usage()->cards[0].refusals,
                                                __ATOMIC_RELAXED) == refused_before;
       ++i) {
    ASSERT_TRUE(ledger->Reserve(0, 8 * kMiB)) << i;
    ledger->Release(0, 8 * kMiB);
  }
  EXPECT_EQ(kill(greedy, SIGKILL), 0);
  int status = 0;
  waitpid(greedy, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status)) << "the greedy sibling got 9 MiB that were not there";
  EXPECT_GT(node.usage()->cards[0].refusals, refused_before);
}

TEST(LedgerProcessesTest, KilledAnywhereTheyLeakNothing) {
  constexpr uint64_t kLimit = 40 * kMiB;
  TestNode node({{"GPU-1", kLimit}});
  std::mt19937_64 random(4711);
  std::vector<pid_t> living;
  uint64_t seed = 1;
  for (int kills = 0; kills < 200; ++kills) {
    while (living.size() < 6) {
      ++seed;
      living.push_back(Spawn([&] { _exit(RandomLife(node, seed, 100000000, kLimit)); }));
    }
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
    const size_t victim = random() % living.size();
    ASSERT_EQ(kill(living[victim], SIGKILL), 0);
    int status = 0;
    ASSERT_EQ(waitpid(living[victim], &status, 0), living[victim]);
    ASSERT_TRUE(WIFSIGNALED(status)) << "a child saw the slice above its limit";
    living.erase(living.begin() + static_cast<long>(victim));
    node.Recount();
    ASSERT_LE(UsedBytes(node.usage()->cards[0]), kLimit);
  }
  for (pid_t pid : living) kill(pid, SIGKILL);
  WaitFor(living);
  ASSERT_TRUE(node.Recount());
  EXPECT_EQ(node.usage()->cards[0].used, 0u);
  for (const wire::ProcessSlot& slot : node.usage()->slots) EXPECT_EQ(slot.pid, 0u);
}

#endif

}  // namespace
}  // namespace tessera::guest
