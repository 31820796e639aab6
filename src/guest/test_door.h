// For tests of single ways to take memory: runs one of testdata/door.cc in a slice, or without one,
// and says what came of it.
#pragma once

#include <algorithm>

#include "guest/test_slice.h"

namespace tessera::guest {

inline constexpr uint64_t kLimit = 300 * kMiB;
inline constexpr uint64_t kContext = 106 * kMiB;  // of a T4

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

class DoorTest : public SliceTest {
 protected:
  static std::vector<Row> Rows(const std::string& which = "list") {
    std::vector<Row> rows;
    std::FILE* list = popen((TESSERA_GUEST_DOOR " " + which).c_str(), "r");
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

}  // namespace tessera::guest
