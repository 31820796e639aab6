// Every way to take memory of a card, one after another, each in a process of its own
// (testdata/door.cc): at the slice's limit it gets the right error, the card's own state never
// shows more than the limit, and when everything is given back the ledger is at zero.
#include <algorithm>

#include "guest/test_slice.h"

namespace tessera::guest {
namespace {

constexpr uint64_t kLimit = 300 * kMiB;
constexpr uint64_t kContext = 106 * kMiB;  // of a T4

struct Row {
  std::string name;
  unsigned refusal;
};

struct Outcome {
  int steps = -1;
  unsigned code = 7777, release = 7777;
  uint64_t highest = 0, refused_at = 0, left = 0, left_on_card = 0;

  // Nobody refused it, or the card held more than the slice may.
  bool escaped() const { return code == 0 || highest > kLimit; }
};

class DoorsTest : public SliceTest {
 protected:
  static std::vector<Row> Rows() {
    std::vector<Row> rows;
    std::FILE* list = popen(TESSERA_GUEST_DOOR " list", "r");
    char name[128];
    unsigned refusal = 0;
    while (list != nullptr && std::fscanf(list, "%127s %u", name, &refusal) == 2) {
      rows.push_back({name, refusal});
    }
    if (list != nullptr) pclose(list);
    return rows;
  }

  Outcome Run(const Row& row, bool shimmed) {
    // A node knows what a context takes of its card from the first one it saw.
    auto node = Node(kLimit, {0}, kContext);
    Outcome outcome;
    Witness witness(state_, 0);
    Program program(shimmed ? Socket() : "", {TESSERA_GUEST_DOOR, row.name});
    if (std::fscanf(program.out(), "%d %u", &outcome.steps, &outcome.code) != 2) return outcome;
    outcome.refused_at = UsedOf(*node);
    outcome.highest = state_->UsedBytes(0);
    program.Say("back");
    if (std::fscanf(program.out(), "%u", &outcome.release) != 1) return outcome;
    // Processes a door has started are gone by now, and what they held is the reaper's to count.
    EXPECT_TRUE(node->Recount());
    outcome.left = UsedOf(*node);
    outcome.left_on_card = RealOf(program.pid(), 0);
    program.Say("end");
    EXPECT_EQ(program.End(), 0) << row.name;
    witness.Stop();
    outcome.highest = std::max(outcome.highest, witness.highest());
    return outcome;
  }
};

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
