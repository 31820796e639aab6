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

// The driver puts a small array where linear memory was already, and charges nothing more for it.
TEST_F(SliceTest, AGranuleStaysChargedForTheArrayThatSharedIt) {
  auto node = Node(2048 * kMiB);
  Tenant tenant(Socket());
  ASSERT_EQ(tenant.Code("init"), 0u);
  ASSERT_EQ(tenant.Code("retain"), 0u);
  const uint64_t context = UsedOf(*node);
  ASSERT_EQ(tenant.Code("alloc", 4096), 0u);
  ASSERT_EQ(tenant.Code("array", 4096), 0u);
  ASSERT_EQ(UsedOf(*node), context + kGranule) << "the array is in the granule of the memory";
  ASSERT_EQ(tenant.Code("free", 1), 0u);
  EXPECT_EQ(RealOf(tenant.pid(), 0), context + kGranule);
  EXPECT_EQ(UsedOf(*node), context + kGranule);
  // Over and over: no more is kept than the array can have, and once it is gone nothing.
  for (int i = 0; i < 200; ++i) {
    ASSERT_EQ(tenant.Code("alloc", 4096), 0u);
    ASSERT_EQ(tenant.Code("free", 1), 0u);
    ASSERT_EQ(UsedOf(*node), context + kGranule);
  }
  ASSERT_EQ(tenant.Code("unarray"), 0u);
  EXPECT_EQ(RealOf(tenant.pid(), 0), context);
  EXPECT_EQ(UsedOf(*node), context);
  // An array may share the granule of another one.
  ASSERT_EQ(tenant.Code("array", 8192), 0u);
  ASSERT_EQ(tenant.Code("array", 4096), 0u);
  EXPECT_EQ(UsedOf(*node), context + kGranule);
  ASSERT_EQ(tenant.Code("unarray", 0), 0u);
  EXPECT_EQ(UsedOf(*node), RealOf(tenant.pid(), 0));
  ASSERT_EQ(tenant.Code("array", 4096), 0u);
  ASSERT_EQ(tenant.Code("unarray", 1), 0u);
  EXPECT_EQ(UsedOf(*node), RealOf(tenant.pid(), 0));
  EXPECT_EQ(UsedOf(*node), context + kGranule);
  ASSERT_EQ(tenant.Code("unarray"), 0u);
  EXPECT_EQ(UsedOf(*node), context);
  // Memory in a granule of its own is not the array's, whatever was asked a moment ago.
  ASSERT_EQ(tenant.Code("alloc", 4096), 0u);
  ASSERT_EQ(tenant.Code("array", 4096), 0u);
  ASSERT_EQ(tenant.Code("alloc", 600 * 1024), 0u);
  ASSERT_EQ(tenant.Code("alloc", 600 * 1024), 0u);
  ASSERT_EQ(tenant.Code("alloc", 600 * 1024), 0u);
  ASSERT_EQ(tenant.Code("free", 3), 0u);
  EXPECT_GE(UsedOf(*node), RealOf(tenant.pid(), 0));
  ASSERT_EQ(tenant.Code("alloc", 4096 * kMiB), 2u);
  EXPECT_EQ(UsedOf(*node), RealOf(tenant.pid(), 0)) << "the next settlement says whose it is";
  ASSERT_EQ(tenant.Code("release"), 0u);
  EXPECT_EQ(UsedOf(*node), 0u);
}

TEST_F(SliceTest, ContextsAreChargedAndTakeTheirMemoryWithThem) {
  auto node = Node(2048 * kMiB, {0}, 64 * kMiB);
  Tenant tenant(Socket());
  ASSERT_EQ(tenant.Code("init"), 0u);
  ASSERT_EQ(tenant.Code("create"), 0u);
  EXPECT_EQ(UsedOf(*node), 64 * kMiB);
  // The first is looked at before there is a second, and that one when an ask does not fit.
  ASSERT_EQ(tenant.Code("create"), 0u);
  const uint64_t one = RealOf(tenant.pid(), 0) / 2;
  EXPECT_EQ(UsedOf(*node), one + 64 * kMiB);
  ASSERT_EQ(tenant.Code("alloc", 2048 * kMiB), 2u);
  EXPECT_EQ(UsedOf(*node), 2 * one);
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
  ASSERT_EQ(tenant.Code("alloc", 2048 * kMiB), 2u);
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

// A program that starts asks the node once. What a context really took is looked at before code is
// loaded, or when an ask does not fit.
TEST_F(SliceTest, ANewContextIsComparedWithTheDriverOnlyWhenItMatters) {
  for (const uint64_t estimate : {60 * kMiB, 106 * kMiB, 200 * kMiB}) {
    SCOPED_TRACE(estimate / kMiB);
    auto node = Node(300 * kMiB, {0}, estimate);
    Tenant tenant(Socket());
    ASSERT_EQ(tenant.Code("init"), 0u);
    ASSERT_EQ(tenant.Code("retain"), 0u);
    EXPECT_EQ(node->attaches(), 1u);
    EXPECT_EQ(node->settles(), 0u);
    EXPECT_EQ(UsedOf(*node), estimate);
    // More than the slice holds, whatever a context takes: asked once, and then it is known.
    EXPECT_EQ(tenant.Code("alloc", 250 * kMiB), 2u);
    EXPECT_EQ(UsedOf(*node), RealOf(tenant.pid(), 0));
    const uint32_t settles = node->settles();
    EXPECT_EQ(settles, 1u);
    EXPECT_EQ(tenant.Code("alloc", 250 * kMiB), 2u);
    EXPECT_EQ(node->settles(), settles);
    // What was charged too much is there for an allocation.
    EXPECT_EQ(tenant.Code("alloc", 190 * kMiB), 0u);
    EXPECT_EQ(tenant.Code("alloc", 6 * kMiB), 2u);
    EXPECT_EQ(tenant.Code("release"), 0u);
    EXPECT_EQ(UsedOf(*node), 0u);
  }
}

// 100 % inside the slice is the whole of its share, whatever its neighbours do with the card.
TEST_F(SliceTest, NvmlShowsHowMuchOfItsShareTheSliceUses) {
  constexpr uint64_t kWindow = 1'000'000'000;
  auto node = Node(1024 * kMiB);
  node->control()->cards[0].compute_permille = 400;
  Tenant watcher(Socket());
  ASSERT_EQ(watcher.Code("nvml"), 0u);
  Answer idle = watcher.Do("nvmlbusy");
  EXPECT_EQ(idle.code, 0u);
  EXPECT_EQ(idle.a, 0u);
  Program worker(Socket(), {TESSERA_SHARE_TENANT, "bursts", "4000"});
  char line[16];
  ASSERT_NE(std::fgets(line, sizeof(line), worker.out()), nullptr);
  const auto share = [&] {  // of the slice's 400 per mille, in percent
    for (const auto& process : state_->Processes(0, kWindow)) {
      if (process.pid == worker.pid())
        return static_cast<double>(process.busy_recent_ns) / kWindow * 100 * 1000 / 400;
    }
    return 0.0;
  };
  const auto look = [&] {
    const double before = share();
    const Answer busy = watcher.Do("nvmlbusy");
    const double after = share();
    EXPECT_EQ(busy.code, 0u);
    // The driver speaks in whole points of the card, which are 2.5 of the slice.
    EXPECT_GE(busy.a + 4.0, std::min(100.0, std::min(before, after)));
    EXPECT_LE(busy.a - 4.0, std::min(100.0, std::max(before, after)));
    EXPECT_EQ(busy.b, busy.a) << "the only process of the slice at work";
    return busy.a;
  };
  while (share() < 20) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_GT(look(), 10u);
  {
    Program outsider("", {TESSERA_SHARE_TENANT, "kernels", "4000"});
    ASSERT_NE(std::fgets(line, sizeof(line), outsider.out()), nullptr);
    while (state_->UtilisationPermille(0, kWindow) < 700)
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    look();
    outsider.Kill();
  }
  // With a hundredth of the card it is at the top of its share.
  node->control()->cards[0].compute_permille = 10;
  EXPECT_EQ(watcher.Do("nvmlbusy").a, 100u);
  worker.Kill();
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
