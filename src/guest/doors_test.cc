// Every way to take memory of a card, one after another, each in a process of its own
// (testdata/door.cc): at the slice's limit it gets the right error, the card's own state never
// shows more than the limit, and when everything is given back the ledger is at zero.
#include "guest/test_door.h"

namespace tessera::guest {
namespace {

using DoorsTest = DoorTest;

TEST_F(DoorsTest, NoneLetsMoreThroughThanTheSliceHolds) {
  int tested = 0, escaped = 0;
  for (const Row& row : Rows()) {
    SCOPED_TRACE(row.name);
    const Outcome outcome = Run(row, true);
    ++tested;
    escaped += outcome.escaped() ? 1 : 0;
    EXPECT_EQ(outcome.code, row.refusal) << "after " << outcome.steps << " steps";
    EXPECT_LE(outcome.highest, kLimit) << outcome.highest / kMiB << " MiB on the card";
    // What is only refused when there is no room was granted while there was.
    constexpr unsigned kOutOfMemory = 2;
    if (row.refusal == kOutOfMemory) {
      EXPECT_GT(outcome.steps, 0);
    } else {
      EXPECT_EQ(outcome.steps, 0);
    }
    EXPECT_EQ(outcome.release, 0u);
    EXPECT_EQ(outcome.left, 0u) << "of " << outcome.refused_at / kMiB << " MiB";
    EXPECT_EQ(outcome.left_on_card, 0u);
  }
  std::printf("doors_tested %d\ndoors_escaped %d\n", tested, escaped);
  EXPECT_GE(tested, 40);
  EXPECT_EQ(escaped, 0);
}

// The same table where nobody stands before the driver: if these did not escape, the test above
// would prove nothing.
TEST_F(DoorsTest, WithoutTheLibraryTheyEscapeAndTheTableSaysSo) {
  int tested = 0, escaped = 0;
  std::string held;
  for (const Row& row : Rows()) {
    constexpr unsigned kOutOfMemory = 2;
    if (row.refusal != kOutOfMemory) continue;
    const Outcome outcome = Run(row, false);
    ++tested;
    escaped += outcome.escaped() ? 1 : 0;
    if (!outcome.escaped()) held += " " + row.name + " " + std::to_string(outcome.code);
  }
  std::printf("without the library: doors_tested %d\nwithout the library: doors_escaped %d\n",
              tested, escaped);
  EXPECT_EQ(escaped, tested) << "these take nothing even so:" << held;
}

// One charge however it is held: a multicast object and its mapping, or an import and what is
// mapped of it, take nothing more than the memory itself.
TEST_F(DoorsTest, WhatIsBoundOrMappedSeveralTimesIsPaidOnce) {
  const int plain = Run({"cuMemCreate", 2}, true).steps;
  EXPECT_EQ(plain, static_cast<int>((kLimit - kContext) / (16 * kMiB)));
  for (const char* door : {"cuMulticastCreate", "cuMulticastBindMem/handle_released",
                           "cuMulticastBindAddr/unmapped_and_released", "cuImportExternalMemory",
                           "cuExternalMemoryGetMappedBuffer/handle_destroyed",
                           "cuExternalMemoryGetMappedMipmappedArray"}) {
    EXPECT_EQ(Run({door, 2}, true).steps, plain) << door;
  }
}

// Memory of a sibling is paid by both as long as both hold it: who lets go first cannot be known,
// and the other goes on holding it. So the slice is never charged too little, and up to twice. The
// rule stands at the top of cuda/external.cc.
TEST_F(DoorsTest, SharedMemoryIsPaidByBothUntilOneLetsGo) {
  constexpr uint64_t kUnit = 16 * kMiB;
  for (const std::string call : {"cuMemImportFromShareableHandle", "cuImportExternalMemory"}) {
    SCOPED_TRACE(call);
    const Outcome both = Run({call + "/kept_by_both", 2}, true);
    // The fifth has its maker's charge and no room for the importer's.
    EXPECT_EQ(both.steps, static_cast<int>((kLimit - 2 * kContext) / (2 * kUnit)));
    const auto steps = static_cast<uint64_t>(both.steps);
    EXPECT_GE(both.refused_at, 2 * kContext + 2 * steps * kUnit);
    EXPECT_LE(both.highest, 2 * kContext + (steps + 1) * kUnit);
    const Outcome one = Run({call + "/of_another_process", 2}, true);
    EXPECT_GT(one.steps, both.steps);
    EXPECT_EQ(one.left, 0u);
    EXPECT_EQ(both.left, 0u);
  }
}

// Page-locked memory of the machine has a budget of its own. The software card keeps no account of
// it, so the witness is the program, which knows how many units it was given.
class HostDoorsTest : public DoorTest {
 protected:
  static constexpr uint64_t kUnit = 16 * kMiB;
  static constexpr uint64_t kHostLimit = 5 * kUnit + 4 * kMiB;
  struct Taken {
    int steps = -1;
    unsigned code = 7777, release = 7777;
    uint64_t held = 7777, left = 7777, left_of_card = 7777;
  };
  Taken Take(const Row& row, uint64_t limit, bool shimmed = true) {
    auto node = Node(kLimit, {0}, kContext);
    node->SetHostLimit(limit);
    const auto host = [&] { return wire::Load(&node->usage()->cards[wire::kHostRow].used); };
    Taken taken;
    Program program(shimmed ? Socket() : "", {TESSERA_GUEST_DOOR, row.name});
    if (std::fscanf(program.out(), "%d %u", &taken.steps, &taken.code) != 2) return taken;
    taken.held = host();
    program.Say("back");
    if (std::fscanf(program.out(), "%u", &taken.release) != 1) return taken;
    taken.left = host();
    taken.left_of_card = UsedOf(*node);
    program.Say("end");
    EXPECT_EQ(program.End(), 0) << row.name;
    return taken;
  }
};

TEST_F(HostDoorsTest, NoneLetsMoreThroughThanTheSliceMayPin) {
  for (const Row& row : Rows("host")) {
    SCOPED_TRACE(row.name);
    const Taken taken = Take(row, kHostLimit);
    EXPECT_EQ(taken.code, row.refusal);
    EXPECT_EQ(taken.steps, 5);
    // To the page: what reaches into two more pages than it is long counts one of them.
    const uint64_t pages = row.name.find("across") != std::string::npos ? 4096 : 0;
    EXPECT_EQ(taken.held, 5 * (kUnit + pages));
    EXPECT_EQ(taken.release, 0u);
    EXPECT_EQ(taken.left, 0u);
    EXPECT_EQ(taken.left_of_card, 0u);
  }
}

TEST_F(HostDoorsTest, WithoutABudgetNothingIsRefusedAndAllIsCounted) {
  const Row row{"cuMemHostAlloc", 0};
  const Taken taken = Take(row, wire::kUnlimitedBytes);
  EXPECT_EQ(taken.code, 0u);
  EXPECT_EQ(taken.held, static_cast<uint64_t>(taken.steps) * kUnit);
  EXPECT_EQ(taken.left, 0u);
  // And without the library the budget holds nobody, or the test above would prove nothing.
  for (const Row& door : Rows("host")) EXPECT_EQ(Take(door, kHostLimit, false).code, 0u);
}

// What a killed process had pinned is the reaper's to give back.
TEST_F(HostDoorsTest, AKilledProcessLeavesNothingPinned) {
  auto node = Node(kLimit, {0}, kContext);
  node->SetHostLimit(kHostLimit);
  const wire::UsageCard& host = node->usage()->cards[wire::kHostRow];
  Program program(Socket(), {TESSERA_GUEST_DOOR, "cuMemHostAlloc"});
  int steps = 0;
  unsigned code = 0;
  ASSERT_EQ(std::fscanf(program.out(), "%d %u", &steps, &code), 2);
  EXPECT_EQ(wire::Load(&host.used), 5 * kUnit);
  EXPECT_EQ(node->SumOfSlots(wire::kHostRow), 5 * kUnit);
  EXPECT_GE(wire::Load(&host.refusals), 1u);
  program.Kill();
  program.End();
  EXPECT_EQ(wire::Load(&host.used), 5 * kUnit) << "nobody has counted yet";
  ASSERT_TRUE(node->Recount());
  EXPECT_EQ(wire::Load(&host.used), 0u);
}

}  // namespace
}  // namespace tessera::guest
