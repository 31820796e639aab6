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

}  // namespace
}  // namespace tessera::guest
