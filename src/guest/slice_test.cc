// libtessera.so on the software GPU: a tenant program inside a slice, a small node beside it, and
// the card's own state, which the guest does not stand before, as the witness.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "guest/test_node.h"
#include "simgpu/state/state.h"

namespace tessera::guest {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kGranule = 2 * kMiB;

struct Answer {
  unsigned code = 7777;
  unsigned long long a = 0, b = 0;
};

// A tenant program under the preload, spoken to line by line.
class Tenant {
 public:
  explicit Tenant(const std::string& socket, const std::string& more = "") {
    int down[2], up[2];
    if (pipe2(down, O_CLOEXEC) != 0 || pipe2(up, O_CLOEXEC) != 0) std::abort();
    pid_ = fork();
    if (pid_ == 0) {
      dup2(down[0], 0);
      dup2(up[1], 1);
      setenv("LD_LIBRARY_PATH", TESSERA_SIMGPU_FOLDER, 1);
      setenv("LD_PRELOAD", TESSERA_GUEST_LIBRARY, 1);
      setenv(wire::kSocketVariable, socket.c_str(), 1);
      if (!more.empty()) setenv("CUDA_VISIBLE_DEVICES", more.c_str(), 1);
      execl(TESSERA_GUEST_TENANT, "tenant", static_cast<char*>(nullptr));
      _exit(127);
    }
    close(down[0]);
    close(up[1]);
    in_ = fdopen(down[1], "w");
    out_ = fdopen(up[0], "r");
  }
  ~Tenant() { End(); }
  Tenant(const Tenant&) = delete;
  Tenant& operator=(const Tenant&) = delete;

  void Send(const std::string& command, unsigned long long n = 0) {
    std::fprintf(in_, "%s %llu\n", command.c_str(), n);
    std::fflush(in_);
  }
  Answer Receive() {
    Answer answer;
    if (std::fscanf(out_, "%u %llu %llu", &answer.code, &answer.a, &answer.b) != 3)
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
  void Kill() { kill(pid_, SIGKILL); }
  void End() {
    if (pid_ <= 0) return;
    std::fclose(in_);
    std::fclose(out_);
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = 0;
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = 0;
  std::FILE *in_ = nullptr, *out_ = nullptr;
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
  static std::string folder_;
  static simgpu::State* state_;
};
std::string SliceTest::folder_;
simgpu::State* SliceTest::state_ = nullptr;

TEST_F(SliceTest, FreeMemoryIsTrueToTheGranule) {
  auto node = Node(1024 * kMiB);
  Tenant tenant(Socket());
  ASSERT_EQ(tenant.Code("init"), 0u);
  ASSERT_EQ(tenant.Code("retain"), 0u);
  const Answer info = tenant.Do("info");
  EXPECT_EQ(info.code, 0u);
  EXPECT_EQ(info.b, 1024 * kMiB);
  EXPECT_EQ(info.a + RealOf(tenant.pid(), 0), 1024 * kMiB)
      << "the context is counted as the driver counts it";
  EXPECT_EQ(tenant.Do("total").a, 1024 * kMiB);
  EXPECT_EQ(tenant.Code("alloc", info.a), 0u);
  EXPECT_EQ(RealOf(tenant.pid(), 0), 1024 * kMiB);
  EXPECT_EQ(tenant.Do("info").a, 0u);
  EXPECT_EQ(tenant.Code("alloc", kGranule), 2u);
  EXPECT_EQ(tenant.Code("alloc", 1), 2u);
  EXPECT_GE(node->usage()->cards[0].refusals, 2u);
  EXPECT_EQ(tenant.Code("free", 1), 0u);
  EXPECT_EQ(tenant.Do("info").a, info.a);
  EXPECT_EQ(tenant.Code("release"), 0u);
  EXPECT_EQ(UsedOf(*node), 0u);
}

TEST_F(SliceTest, EveryKindOfMemoryIsChargedAsTheDriverTakesIt) {
  auto node = Node(2048 * kMiB);
  Tenant tenant(Socket());
  ASSERT_EQ(tenant.Code("init"), 0u);
  ASSERT_EQ(tenant.Code("retain"), 0u);
  const auto same = [&](const char* what) {
    EXPECT_EQ(UsedOf(*node), RealOf(tenant.pid(), 0)) << what;
  };
  same("context");
  EXPECT_EQ(tenant.Code("alloc", 4096), 0u);
  same("a small one");
  for (int i = 0; i < 600; ++i) ASSERT_EQ(tenant.Code("alloc", 4096), 0u);
  same("small ones over more than one granule");
  EXPECT_EQ(tenant.Code("alloc", kMiB - 1), 0u);
  same("just below half a granule");
  EXPECT_EQ(tenant.Code("alloc", kMiB), 0u);
  same("half a granule");
  EXPECT_EQ(tenant.Code("alloc", kGranule + 1), 0u);
  same("a byte more than a granule");
  EXPECT_EQ(tenant.Code("pitch", 1000), 0u);
  same("pitch");
  EXPECT_EQ(tenant.Code("managed", 3 * kMiB), 0u);
  EXPECT_EQ(tenant.Code("async", 5 * kMiB), 0u);
  same("async");
  EXPECT_EQ(tenant.Code("free", 1000), 0u);
  // What was freed to a pool goes back to the card at the next synchronisation.
  EXPECT_EQ(tenant.Code("sync"), 0u);
  same("all freed");
  EXPECT_NE(tenant.Code("stranger", 12345), 0u);
  same("a stranger's pointer");
  EXPECT_EQ(tenant.Code("release"), 0u);
  EXPECT_EQ(UsedOf(*node), 0u);
}

TEST_F(SliceTest, ContextsAreChargedAndTakeTheirMemoryWithThem) {
  auto node = Node(2048 * kMiB, {0}, 64 * kMiB);
  Tenant tenant(Socket());
  ASSERT_EQ(tenant.Code("init"), 0u);
  ASSERT_EQ(tenant.Code("create"), 0u);
  const uint64_t one = UsedOf(*node);
  EXPECT_GT(one, 0u);
  EXPECT_EQ(one, RealOf(tenant.pid(), 0));
  ASSERT_EQ(tenant.Code("create"), 0u);
  EXPECT_EQ(UsedOf(*node), RealOf(tenant.pid(), 0));
  ASSERT_EQ(tenant.Code("alloc", 100 * kMiB), 0u);
  ASSERT_EQ(tenant.Code("destroy"), 0u);
  EXPECT_EQ(UsedOf(*node), one);
  EXPECT_EQ(RealOf(tenant.pid(), 0), one);
  ASSERT_EQ(tenant.Code("destroy"), 0u);
  EXPECT_EQ(UsedOf(*node), 0u);
  // Two retains, one release: still there.
  ASSERT_EQ(tenant.Code("retain"), 0u);
  ASSERT_EQ(tenant.Code("retain"), 0u);
  ASSERT_EQ(tenant.Code("release"), 0u);
  EXPECT_EQ(UsedOf(*node), one);
  ASSERT_EQ(tenant.Code("release"), 0u);
  EXPECT_EQ(UsedOf(*node), 0u);
}

TEST_F(SliceTest, AContextThatDoesNotFitIsRefusedAndLeavesNothing) {
  auto node = Node(32 * kMiB);
  Tenant tenant(Socket());
  ASSERT_EQ(tenant.Code("init"), 0u);
  EXPECT_EQ(tenant.Code("retain"), 2u);
  EXPECT_EQ(UsedOf(*node), 0u);
  EXPECT_EQ(RealOf(tenant.pid(), 0), 0u);
}

TEST_F(SliceTest, OnlyTheSlicesCardsAreSeenAndUsed) {
  auto node = Node(1024 * kMiB, {1});
  Tenant tenant(Socket());
  ASSERT_EQ(tenant.Code("init"), 0u);
  EXPECT_EQ(tenant.Do("count").a, 1u);
  ASSERT_EQ(tenant.Code("retain"), 0u);
  ASSERT_EQ(tenant.Code("alloc", 10 * kMiB), 0u);
  EXPECT_EQ(RealOf(tenant.pid(), 0), 0u);
  EXPECT_EQ(RealOf(tenant.pid(), 1), UsedOf(*node));
  // An index counts the slice's cards, so the second does not exist.
  Tenant second(Socket(), "1");
  second.Code("init");
  EXPECT_EQ(second.Do("count").a, 0u);
}

TEST_F(SliceTest, WithoutASliceThereIsNoDriver) {
  auto node = Node(1024 * kMiB);
  node->AnswerWith(wire::kStatusNoSlice);
  Tenant tenant(Socket());
  EXPECT_EQ(tenant.Code("init"), 800u);
  EXPECT_EQ(tenant.Code("retain"), 800u);
  EXPECT_EQ(tenant.Code("alloc", 1), 800u);
}

TEST_F(SliceTest, AClosedSliceRefusesWhatIsNew) {
  auto node = Node(1024 * kMiB);
  Tenant tenant(Socket());
  ASSERT_EQ(tenant.Code("init"), 0u);
  ASSERT_EQ(tenant.Code("retain"), 0u);
  ASSERT_EQ(tenant.Code("alloc", kGranule), 0u);
  node->control()->state = wire::kStateClosed;
  EXPECT_EQ(tenant.Code("alloc", kGranule), 2u);
  EXPECT_EQ(tenant.Code("free", 1), 0u);
}

TEST_F(SliceTest, ANodeThatDiedWithTheGateShutStopsNobodyForGood) {
  auto node = Node(1024 * kMiB);
  Tenant tenant(Socket());
  ASSERT_EQ(tenant.Code("init"), 0u);
  ASSERT_EQ(tenant.Code("retain"), 0u);
  ASSERT_EQ(tenant.Code("alloc", kGranule), 0u);
  wire::ControlCard& card = node->control()->cards[0];
  card.window_nanos = 1'000'000;
  wire::Store(&card.gate, wire::kGateStep | wire::kGateShut);
  EXPECT_EQ(tenant.Code("memset", 16), 0u) << "nobody hears it, so it passes after a while";
  EXPECT_GE(wire::Load(&node->usage()->cards[0].arrivals), 2u) << "it asked more than once";
  const uint32_t asked = wire::Load(&node->usage()->cards[0].arrivals);
  EXPECT_EQ(tenant.Code("memset", 16), 0u);
  EXPECT_EQ(wire::Load(&node->usage()->cards[0].arrivals), asked) << "and does not ask again";
  // A node that comes back changes the word, and is waited for again.
  wire::Store(&card.gate, 2 * wire::kGateStep | wire::kGateShut | wire::kGateGranted);
  EXPECT_EQ(tenant.Code("memset", 16), 0u);
  EXPECT_EQ(wire::Load(&node->usage()->slots[0].inside), 0u);
}

TEST_F(SliceTest, NvmlShowsTheSliceWithoutCuda) {
  auto node = Node(1024 * kMiB, {1});
  Tenant user(Socket()), watcher(Socket());
  ASSERT_EQ(user.Code("init"), 0u);
  ASSERT_EQ(user.Code("retain"), 0u);
  ASSERT_EQ(user.Code("alloc", 100 * kMiB), 0u);
  const Answer count = watcher.Do("nvml");
  EXPECT_EQ(count.code, 0u);
  EXPECT_EQ(count.a, 1u);
  const Answer memory = watcher.Do("nvmlmemory", 0);
  EXPECT_EQ(memory.code, 0u);
  EXPECT_EQ(memory.b, 1024 * kMiB);
  EXPECT_EQ(memory.a, UsedOf(*node));
  EXPECT_NE(watcher.Code("nvmlmemory", 1), 0u);
  const Answer processes = watcher.Do("nvmlprocesses", 0);
  EXPECT_EQ(processes.code, 0u);
  EXPECT_EQ(processes.a, 1u);
  EXPECT_EQ(processes.b, UsedOf(*node));
  EXPECT_EQ(watcher.Code("nvmlset"), 4u);
}

TEST_F(SliceTest, EightTenantsStayBelowTheCapAndAKilledOneLeaksNothing) {
  constexpr uint64_t kLimit = 2400 * kMiB;
  auto node = Node(kLimit);
  std::vector<std::unique_ptr<Tenant>> tenants;
  for (int i = 0; i < 8; ++i) tenants.push_back(std::make_unique<Tenant>(Socket()));
  for (auto& tenant : tenants) ASSERT_EQ(tenant->Code("init"), 0u);
  for (auto& tenant : tenants) ASSERT_EQ(tenant->Code("retain"), 0u);
  const uint64_t contexts = state_->UsedBytes(0);
  EXPECT_EQ(UsedOf(*node), contexts);
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> highest{0};
  std::atomic<uint64_t> samples{0};
  // The card's figures are one a process and read one after another, so one reading may add what a
  // process has given back to what another took since. Only two equal readings in a row are a
  // moment.
  const auto read = [] {
    std::vector<std::pair<int, uint64_t>> all;
    for (const auto& use : state_->Processes(0, 0)) all.emplace_back(use.pid, use.usage.Total());
    return all;
  };
  std::thread witness([&] {
    while (!stop) {
      const auto first = read();
      if (first != read()) continue;
      uint64_t used = 0;
      for (const auto& [pid, bytes] : first) used += bytes;
      if (used > highest) highest = used;
      ++samples;
    }
  });
  for (size_t i = 0; i < tenants.size(); ++i) tenants[i]->Send("random", 100 + i);
  tenants[7]->Kill();
  for (size_t i = 0; i < 7; ++i) {
    const Answer answer = tenants[i]->Receive();
    EXPECT_EQ(answer.b, 0u) << "only refusals may go wrong";
  }
  stop = true;
  witness.join();
  tenants[7]->End();
  EXPECT_LE(highest, kLimit);
  RecordProperty("highest_mib", std::to_string(highest / kMiB) + " of " +
                                    std::to_string(kLimit / kMiB) + ", samples " +
                                    std::to_string(samples));
  EXPECT_GT(highest, contexts);
  EXPECT_GT(samples, 0u);
  ASSERT_TRUE(node->Recount());
  EXPECT_EQ(UsedOf(*node), state_->UsedBytes(0));
  EXPECT_EQ(node->SumOfSlots(0), UsedOf(*node));
  for (auto& tenant : tenants) tenant->End();
  ASSERT_TRUE(node->Recount());
  EXPECT_EQ(UsedOf(*node), 0u);
}

}  // namespace
}  // namespace tessera::guest
