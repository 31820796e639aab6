// libtessera.so on the software GPU: a tenant program inside a slice, a small node beside it, and
// the card's own state, which the guest does not stand before, as the witness.
#include "guest/test_slice.h"

namespace tessera::guest {
namespace {

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

// A stream's place in the page must stay its own while a thread is in the driver with work of it:
// two streams that count in one place overwrite each other, and a mark that is not seen to complete
// is charged for good, so that a capped slice never has a turn again.
TEST_F(SliceTest, EveryMarkOfManyStreamsIsSeenToComplete) {
  auto node = Node(2048 * kMiB);
  wire::ControlCard& card = node->control()->cards[0];
  card.window_nanos = 1'000'000'000;
  wire::Store(&node->control()->turns, 1u);
  wire::Store(&card.gate, wire::kGateStep | wire::kGateShut | wire::kGateGranted);
  Tenant tenant(Socket());
  ASSERT_EQ(tenant.Code("init"), 0u);
  ASSERT_EQ(tenant.Code("retain"), 0u);
  ASSERT_EQ(tenant.Code("launches", 64 * kMiB), 0u);
  std::uint32_t marks = 0;
  for (const wire::StreamMarks& stream : node->usage()->slots[0].marks) {
    marks += wire::Load(&stream.submitted);
    EXPECT_EQ(wire::Load(&stream.completed), wire::Load(&stream.submitted));
  }
  EXPECT_GT(marks, 30u) << "there were marks to be seen";
  EXPECT_EQ(node->usage()->slots[0].inside, 0u);
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
  Witness witness(state_, 0);
  for (size_t i = 0; i < tenants.size(); ++i) tenants[i]->Send("random", 100 + i);
  tenants[7]->Kill();
  for (size_t i = 0; i < 7; ++i) {
    const Answer answer = tenants[i]->Receive();
    EXPECT_EQ(answer.b, 0u) << "only refusals may go wrong";
  }
  witness.Stop();
  tenants[7]->End();
  EXPECT_LE(witness.highest(), kLimit);
  RecordProperty("highest_mib", std::to_string(witness.highest() / kMiB) + " of " +
                                    std::to_string(kLimit / kMiB) + ", samples " +
                                    std::to_string(witness.samples()));
  EXPECT_GT(witness.highest(), contexts);
  EXPECT_GT(witness.samples(), 0u);
  ASSERT_TRUE(node->Recount());
  EXPECT_EQ(UsedOf(*node), state_->UsedBytes(0));
  EXPECT_EQ(node->SumOfSlots(0), UsedOf(*node));
  for (auto& tenant : tenants) tenant->End();
  ASSERT_TRUE(node->Recount());
  EXPECT_EQ(UsedOf(*node), 0u);
}

}  // namespace
}  // namespace tessera::guest
