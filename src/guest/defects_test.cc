// The defects found in the shim the field ships, each under its name in the list of them: E are
// ways past the limit, C crashes and hangs. E13 to E15 concern programs and variables outside this
// library's reach and are tested where the node is.
#include <chrono>
#include <functional>

#include "guest/test_door.h"

namespace tessera::guest {
namespace {

constexpr unsigned kOutOfMemory = 2, kInvalidValue = 1, kNotPermitted = 800;

// The programs that only submit run on the driver that does nothing (TESSERA_NULL_FOLDER).
class HamiDefects : public DoorTest {
 protected:
  // The door holds: refused at the limit, never above it, and everything comes back.
  void Holds(const std::string& door) {
    SCOPED_TRACE(door);
    unsigned refusal = 0;
    for (const Row& row : Rows()) {
      if (row.name == door) refusal = row.refusal;
    }
    ASSERT_NE(refusal, 0u) << "no such door";
    const Outcome outcome = Run({door, refusal}, true);
    EXPECT_EQ(outcome.code, refusal);
    EXPECT_FALSE(outcome.escaped()) << outcome.highest / kMiB << " MiB";
    EXPECT_EQ(outcome.left, 0u);
  }
  // Allocations of that kind until one is refused with out-of-memory.
  static void Fill(Tenant& tenant, const std::string& kind, uint64_t bytes) {
    unsigned code = 0;
    for (int i = 0; i < 64 && code == 0; ++i) code = tenant.Code(kind, bytes);
    EXPECT_EQ(code, kOutOfMemory);
  }
  static uint64_t UsedOn(TestNode& node, uint32_t card) {
    return wire::Load(&node.usage()->cards[card].used);
  }
  static uint64_t Launches(TestNode& node) {
    uint64_t sum = 0;
    for (const wire::ProcessSlot& slot : node.usage()->slots) {
      sum += __atomic_load_n(&slot.launches, __ATOMIC_RELAXED);
    }
    return sum;
  }
  // The program's one figure; 6666 when it said nothing.
  static unsigned Figure(Program& program) {
    unsigned figure = 6666;
    return std::fscanf(program.out(), "%u", &figure) == 1 ? figure : 6666;
  }
  static double Seconds(const std::function<void()>& work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
};

TEST_F(HamiDefects, E1_PoolAllocIsCharged) {
  Holds("cuMemAllocFromPoolAsync");
  Holds("cuMemAllocFromPoolAsync/per_thread");
  Holds("cuMemAllocFromPoolAsync/destroyed_pool");
}

TEST_F(HamiDefects, E2_AReleasedHandleStaysChargedWhileItIsMapped) {
  Holds("cuMemMap/handle_released");
  Holds("cuMemRetainAllocationHandle");
}

TEST_F(HamiDefects, E3_VisibleDevicesAndNvmlMeanTheSameCard) {
  auto node = Node(kLimit, {0, 1}, kContext);
  Tenant tenant(Socket(), "1");
  EXPECT_EQ(tenant.Code("nvml"), 0u);  // before CUDA reads the variable
  ASSERT_EQ(tenant.Code("init"), 0u);
  EXPECT_EQ(tenant.Do("count").a, 1u);
  ASSERT_EQ(tenant.Code("retain"), 0u);
  Fill(tenant, "alloc", 64 * kMiB);
  EXPECT_EQ(RealOf(tenant.pid(), 0), 0u);
  EXPECT_EQ(RealOf(tenant.pid(), 1), UsedOn(*node, 1));
  EXPECT_EQ(UsedOn(*node, 0), 0u);
  EXPECT_LE(RealOf(tenant.pid(), 1), kLimit);
}

TEST_F(HamiDefects, E4_CardsNamedByUuidAreChargedEachItsOwn) {
  auto node = Node(kLimit, {0, 1}, kContext);
  Tenant tenant(Socket(), std::string(state_->card(1).uuid) + "," + state_->card(0).uuid);
  ASSERT_EQ(tenant.Code("init"), 0u);
  EXPECT_EQ(tenant.Do("count").a, 2u);
  for (unsigned device : {0u, 1u}) {
    ASSERT_EQ(tenant.Code("retain", device), 0u);
    Fill(tenant, "alloc", 64 * kMiB);
    // The first device named is the second card.
    const uint32_t card = 1 - device;
    EXPECT_EQ(RealOf(tenant.pid(), card), UsedOn(*node, card));
    EXPECT_GT(UsedOn(*node, card), kLimit - 64 * kMiB);
    EXPECT_LE(UsedOn(*node, card), kLimit);
  }
}

TEST_F(HamiDefects, E5_APoolIsChargedToItsOwnCard) {
  auto node = Node(kLimit, {0, 1}, kContext);
  Tenant tenant(Socket());
  ASSERT_EQ(tenant.Code("init"), 0u);
  ASSERT_EQ(tenant.Code("retain", 0), 0u);
  Fill(tenant, "async", 64 * kMiB);
  ASSERT_EQ(tenant.Code("retain", 1), 0u);
  EXPECT_EQ(UsedOn(*node, 1), kContext);
  Fill(tenant, "async", 64 * kMiB);
  Fill(tenant, "alloc", 64 * kMiB);
  for (uint32_t card : {0u, 1u}) {
    EXPECT_EQ(RealOf(tenant.pid(), card), UsedOn(*node, card));
    EXPECT_LE(UsedOn(*node, card), kLimit);
  }
}

TEST_F(HamiDefects, E6_SiblingsThatComeAndGoTakeNobodysChargeAlong) {
  auto node = Node(2048 * kMiB, {0}, kContext);
  auto first = std::make_unique<Tenant>(Socket()), second = std::make_unique<Tenant>(Socket());
  Tenant third(Socket());
  for (Tenant* tenant : {first.get(), second.get(), &third}) {
    ASSERT_EQ(tenant->Code("init"), 0u);
    ASSERT_EQ(tenant->Code("retain"), 0u);
    ASSERT_EQ(tenant->Code("alloc", 64 * kMiB), 0u);
  }
  first->End();
  second->End();
  ASSERT_TRUE(node->Recount());
  Tenant fourth(Socket());
  ASSERT_EQ(fourth.Code("init"), 0u);
  ASSERT_EQ(fourth.Code("retain"), 0u);
  for (int i = 0; i < 40; ++i) third.Code("alloc", 64 * kMiB);
  EXPECT_LE(UsedOf(*node), 2048 * kMiB);
  EXPECT_EQ(UsedOf(*node), RealOf(third.pid(), 0) + RealOf(fourth.pid(), 0));
  EXPECT_EQ(node->SumOfSlots(0), UsedOf(*node));
  ASSERT_TRUE(node->Recount());
  EXPECT_EQ(UsedOf(*node), RealOf(third.pid(), 0) + RealOf(fourth.pid(), 0));
}

TEST_F(HamiDefects, E7_CheckAndChargeAreOneStep) {
  // Room for little beside the contexts, so that the four are refused all the time.
  constexpr uint64_t kTight = 4 * kContext + 30 * kMiB;
  auto node = Node(kTight, {0}, kContext);
  std::vector<std::unique_ptr<Tenant>> tenants;
  for (int i = 0; i < 4; ++i) tenants.push_back(std::make_unique<Tenant>(Socket()));
  for (auto& tenant : tenants) ASSERT_EQ(tenant->Code("init"), 0u);
  for (auto& tenant : tenants) ASSERT_EQ(tenant->Code("retain"), 0u);
  Witness witness(state_, 0);
  for (size_t i = 0; i < tenants.size(); ++i) tenants[i]->Send("random", 7 + i);
  uint64_t refused = 0;
  for (auto& tenant : tenants) {
    const Answer answer = tenant->Receive();
    EXPECT_EQ(answer.b, 0u);
    refused += answer.a;
  }
  witness.Stop();
  EXPECT_GT(refused, 0u);
  EXPECT_LE(witness.highest(), kTight);
}

TEST_F(HamiDefects, E8_TheUncountedOnesAreCountedOrRefused) {
  for (const char* door :
       {"cuArrayCreate", "cuArray3DCreate", "cuMipmappedArrayCreate",
        "cuGraphAddMemAllocNode/cuGraphInstantiateWithFlags", "cuMemAllocAsync/captured",
        "cuMulticastCreate", "cuIpcOpenMemHandle/of_another_process",
        "cuMemImportFromShareableHandle/of_another_process", "cuMemPoolImportPointer",
        "cuImportExternalMemory", "cuModuleLoadData", "cuLibraryLoadData", "cuCtxCreate_v2"}) {
    Holds(door);
  }
}

TEST_F(HamiDefects, E9_TwoRetainsAndOneReleaseLeaveTheContextCharged) {
  auto node = Node(kLimit, {0}, kContext);
  Tenant tenant(Socket());
  ASSERT_EQ(tenant.Code("init"), 0u);
  ASSERT_EQ(tenant.Code("retain"), 0u);
  ASSERT_EQ(tenant.Code("retain"), 0u);
  ASSERT_EQ(tenant.Code("release"), 0u);
  EXPECT_EQ(UsedOf(*node), RealOf(tenant.pid(), 0));
  EXPECT_EQ(UsedOf(*node), kContext);
  ASSERT_EQ(tenant.Code("release"), 0u);
  EXPECT_EQ(UsedOf(*node), 0u);
}

TEST_F(HamiDefects, E10_AHugeGridIsASubmissionLikeAnyOther) {
  auto node = Node(kLimit);
  Program program(Socket(), {TESSERA_GUEST_DEFECT, "submissions"}, "", TESSERA_NULL_FOLDER);
  EXPECT_EQ(Figure(program), 8u);
  // Nothing of the grid's size enters the count, so nothing can turn negative.
  EXPECT_EQ(Launches(*node), 8u);
  program.Say("end");
}

TEST_F(HamiDefects, E11_EveryFormOfSubmissionIsCountedAndWaitsForTheTurn) {
  auto node = Node(kLimit);
  __atomic_store_n(&node->control()->cards[0].gate, 1u, __ATOMIC_SEQ_CST);
  Program program(Socket(), {TESSERA_GUEST_DEFECT, "submissions"}, "", TESSERA_NULL_FOLDER);
  // The turn is somebody else's: the first submission is counted and goes no further.
  for (int i = 0; i < 500 && Launches(*node) == 0; ++i) usleep(2000);
  usleep(20'000);
  EXPECT_EQ(Launches(*node), 1u);
  __atomic_store_n(&node->control()->cards[0].gate, 0u, __ATOMIC_SEQ_CST);
  EXPECT_EQ(Figure(program), 8u);
  EXPECT_EQ(Launches(*node), 8u);
  program.Say("end");
}

// Identity comes with the socket, so it does not matter who else begins at the same moment.
TEST_F(HamiDefects, E12_ProcessesThatBeginTogetherAreAllHeld) {
  auto node = Node(kLimit);
  constexpr uint32_t kTogether = 12;
  std::vector<std::unique_ptr<Program>> programs;
  for (uint32_t i = 0; i < kTogether; ++i) {
    programs.push_back(std::make_unique<Program>(
        Socket(), std::vector<std::string>{TESSERA_GUEST_DEFECT, "submissions"}, "",
        TESSERA_NULL_FOLDER));
  }
  for (auto& program : programs) EXPECT_EQ(Figure(*program), 8u);
  uint32_t held = 0;
  for (const wire::ProcessSlot& slot : node->usage()->slots) held += slot.launches == 8;
  EXPECT_EQ(held, kTogether);
  for (auto& program : programs) program->Say("end");
}

TEST_F(HamiDefects, C1_ThreadsMakeAndDropTogether) {
  auto node = Node(2048 * kMiB, {0}, kContext);
  Program program(Socket(), {TESSERA_GUEST_DEFECT, "threads"});
  EXPECT_EQ(Figure(program), 0u);
  program.Say("end");
  EXPECT_EQ(program.End(), 0);
}

TEST_F(HamiDefects, C2_ShortProcessesThatBeginTogetherAllEnd) {
  auto node = Node(4096 * kMiB, {0}, kContext);
  constexpr int kRounds = 5, kTogether = 16;
  for (int round = 0; round < kRounds; ++round) {
    std::vector<std::unique_ptr<Program>> programs;
    for (int i = 0; i < kTogether; ++i) {
      programs.push_back(std::make_unique<Program>(
          Socket(), std::vector<std::string>{TESSERA_GUEST_DEFECT, "short"}));
    }
    for (auto& program : programs) {
      EXPECT_EQ(Figure(*program), 0u);
      EXPECT_EQ(program->End(), 0);
    }
    ASSERT_TRUE(node->Recount());
    EXPECT_EQ(UsedOf(*node), 0u);
  }
}

TEST_F(HamiDefects, C3_AProcessKilledMidwayHoldsNobodyUp) {
  auto node = Node(2048 * kMiB, {0}, kContext);
  Tenant sibling(Socket());
  ASSERT_EQ(sibling.Code("init"), 0u);
  ASSERT_EQ(sibling.Code("retain"), 0u);
  for (int i = 0; i < 5; ++i) {
    Tenant victim(Socket());
    ASSERT_EQ(victim.Code("init"), 0u);
    ASSERT_EQ(victim.Code("retain"), 0u);
    victim.Send("random", 11 + static_cast<unsigned>(i));
    usleep(3000);
    victim.Kill();
    victim.End();
    // The victim's slot stays as it died, until the reaper comes after this.
    const double seconds = Seconds([&] {
      EXPECT_EQ(sibling.Code("alloc", kMiB), 0u);
      EXPECT_EQ(sibling.Code("info"), 0u);
      EXPECT_EQ(sibling.Code("free", 1), 0u);
    });
    EXPECT_LT(seconds, 1.0);
    ASSERT_TRUE(node->Recount());
  }
  EXPECT_EQ(UsedOf(*node), RealOf(sibling.pid(), 0));
}

TEST_F(HamiDefects, C4_AProcessKilledInCuInitHoldsNobodyUp) {
  auto node = Node(2048 * kMiB, {0}, kContext);
  for (int i = 0; i < 10; ++i) {
    Tenant victim(Socket());
    victim.Send("init");
    usleep(500 * static_cast<unsigned>(i));
    victim.Kill();
  }
  Tenant next(Socket());
  EXPECT_LT(Seconds([&] { EXPECT_EQ(next.Code("init"), 0u); }), 1.0);
  EXPECT_EQ(next.Code("retain"), 0u);
  EXPECT_EQ(next.Code("alloc", kMiB), 0u);
}

// The one thing siblings wait for is the reaper's frozen bit, and that wait has an end that is an
// error and not an exit.
TEST_F(HamiDefects, C5_WhoDiesHoldingTheLedgerIsWaitedForWithAnEnd) {
  auto node = Node(kLimit, {0}, kContext);
  Tenant tenant(Socket());
  ASSERT_EQ(tenant.Code("init"), 0u);
  ASSERT_EQ(tenant.Code("retain"), 0u);
  __atomic_fetch_or(&node->usage()->cards[0].used, wire::kFrozenBit, __ATOMIC_SEQ_CST);
  EXPECT_LT(Seconds([&] { EXPECT_EQ(tenant.Code("alloc", kMiB), kOutOfMemory); }), 10.0);
  __atomic_fetch_and(&node->usage()->cards[0].used, ~wire::kFrozenBit, __ATOMIC_SEQ_CST);
  EXPECT_EQ(tenant.Code("alloc", kMiB), 0u);
  EXPECT_EQ(UsedOf(*node), RealOf(tenant.pid(), 0));
}

TEST_F(HamiDefects, C6_AProcessMayBeCalledAnything) {
  auto node = Node(kLimit, {0}, kContext);
  const std::string name = folder_ + "/a Z";
  std::filesystem::create_symlink(TESSERA_GUEST_TENANT, name);
  Tenant tenant(Socket(), "", name);
  ASSERT_EQ(tenant.Code("init"), 0u);
  ASSERT_EQ(tenant.Code("retain"), 0u);
  ASSERT_EQ(tenant.Code("alloc", kMiB), 0u);
  ASSERT_TRUE(node->Recount());
  EXPECT_EQ(UsedOf(*node), RealOf(tenant.pid(), 0)) << "it lives, whatever its name says";
  EXPECT_EQ(tenant.Code("alloc", kMiB), 0u);
}

TEST_F(HamiDefects, C7_OneProcessTooManyGetsAnErrorAndLivesOn) {
  auto node = Node(kLimit, {0}, kContext);
  for (wire::ProcessSlot& slot : node->usage()->slots) {
    wire::Store(&slot.pid, static_cast<uint32_t>(getpid()));
  }
  Tenant tenant(Socket());
  EXPECT_EQ(tenant.Code("init"), kNotPermitted);
  EXPECT_EQ(tenant.Code("retain"), kNotPermitted);
  for (wire::ProcessSlot& slot : node->usage()->slots) wire::Store(&slot.pid, 0u);
  EXPECT_EQ(tenant.Code("init"), 0u) << "and when one has ended, it gets in";
  EXPECT_EQ(tenant.Code("retain"), 0u);
}

TEST_F(HamiDefects, C8_ASliceOfAsManyCardsAsThereMayBeKeepsItsLimits) {
  std::vector<TestNode::Card> cards;
  for (uint32_t i = 0; i < wire::kCardsMax; ++i) {
    char uuid[64];
    std::snprintf(uuid, sizeof(uuid), "GPU-00000000-0000-0000-0000-%012x", i);
    cards.push_back({i + 1 < wire::kCardsMax ? uuid : state_->card(0).uuid, kLimit, kContext});
  }
  TestNode node(
      cards, [](pid_t pid, uint32_t) -> int64_t { return static_cast<int64_t>(RealOf(pid, 0)); });
  ASSERT_TRUE(node.Listen(Socket()));
  Tenant tenant(Socket(), state_->card(0).uuid);
  ASSERT_EQ(tenant.Code("init"), 0u);
  ASSERT_EQ(tenant.Code("retain"), 0u);
  EXPECT_EQ(tenant.Do("info").b, kLimit);
  Fill(tenant, "alloc", 64 * kMiB);
  EXPECT_EQ(UsedOn(node, wire::kCardsMax - 1), RealOf(tenant.pid(), 0));
  for (uint32_t i = 0; i < wire::kCardsMax; ++i) {
    EXPECT_EQ(node.control()->cards[i].limit_bytes, kLimit);
  }
}

TEST_F(HamiDefects, C9_MoreProcessesThanTheListHasRoomFor) {
  constexpr uint32_t kProcesses = 20;  // the tenant's list has room for 16
  auto node = Node((kProcesses + 1) * kContext, {0}, kContext);
  std::vector<std::unique_ptr<Tenant>> tenants;
  for (uint32_t i = 0; i < kProcesses; ++i) tenants.push_back(std::make_unique<Tenant>(Socket()));
  for (auto& tenant : tenants) {
    ASSERT_EQ(tenant->Code("init"), 0u);
    ASSERT_EQ(tenant->Code("retain"), 0u);
  }
  ASSERT_EQ(tenants[0]->Code("nvml"), 0u);
  const Answer list = tenants[0]->Do("nvmlprocesses");
  EXPECT_EQ(list.code, 7u);  // NVML_ERROR_INSUFFICIENT_SIZE
  EXPECT_EQ(list.a, kProcesses);
  EXPECT_EQ(tenants[0]->Code("info"), 0u);
}

TEST_F(HamiDefects, C10_TheSecondLookupFindsWhatTheFirstFound) {
  auto node = Node(kLimit, {0}, kContext);
  Program program(Socket(), {TESSERA_GUEST_DEFECT, "lookups"});
  EXPECT_EQ(Figure(program), 0u);
  program.Say("end");
  EXPECT_EQ(program.End(), 0);
}

TEST_F(HamiDefects, C11_NullArgumentsAreAnsweredByTheDriver) {
  auto node = Node(kLimit, {0}, kContext);
  Program program(Socket(), {TESSERA_GUEST_DEFECT, "nulls"});
  EXPECT_EQ(Figure(program), 8u);
  program.Say("end");
  EXPECT_EQ(program.End(), 0);
}

TEST_F(HamiDefects, C12_PointersWeDoNotKnowAreTheDriversBusiness) {
  auto node = Node(kLimit, {0}, kContext);
  Tenant tenant(Socket());
  ASSERT_EQ(tenant.Code("init"), 0u);
  ASSERT_EQ(tenant.Code("retain"), 0u);
  ASSERT_EQ(tenant.Code("async", kMiB), 0u);
  EXPECT_EQ(tenant.Code("free", 1), 0u) << "cuMemFree of a pool's pointer frees it";
  EXPECT_EQ(tenant.Code("sync"), 0u);
  EXPECT_EQ(UsedOf(*node), kContext);
  EXPECT_EQ(tenant.Code("stranger", 12345), kInvalidValue);
  EXPECT_EQ(tenant.Code("async", 2 * kLimit), kOutOfMemory);
}

TEST_F(HamiDefects, C13_WhatIsRefusedDoesNotLive) {
  auto node = Node(kLimit, {0}, kContext);
  Tenant tenant(Socket());
  ASSERT_EQ(tenant.Code("init"), 0u);
  ASSERT_EQ(tenant.Code("retain"), 0u);
  Fill(tenant, "alloc", 64 * kMiB);
  const uint64_t before = RealOf(tenant.pid(), 0);
  for (const char* kind : {"managed", "physical", "alloc"}) {
    EXPECT_EQ(tenant.Code(kind, 64 * kMiB), kOutOfMemory) << kind;
    EXPECT_EQ(RealOf(tenant.pid(), 0), before) << kind;
    EXPECT_EQ(UsedOf(*node), before) << kind;
  }
  EXPECT_EQ(tenant.Code("pitch", 64 * kMiB / 1000), kOutOfMemory);
  EXPECT_EQ(RealOf(tenant.pid(), 0), before);
  ASSERT_EQ(tenant.Code("free", 1000), 0u);
  EXPECT_EQ(UsedOf(*node), kContext);
}

TEST_F(HamiDefects, C14_ManyWritersLoseNoCharge) {
  auto node = Node(2048 * kMiB, {0}, kContext);
  Program one(Socket(), {TESSERA_GUEST_DEFECT, "threads"});
  Program other(Socket(), {TESSERA_GUEST_DEFECT, "threads"});
  EXPECT_EQ(Figure(one), 0u);
  EXPECT_EQ(Figure(other), 0u);
  EXPECT_EQ(UsedOf(*node), RealOf(one.pid(), 0) + RealOf(other.pid(), 0));
  EXPECT_EQ(node->SumOfSlots(0), UsedOf(*node));
  one.Say("end");
  other.Say("end");
}

}  // namespace
}  // namespace tessera::guest
