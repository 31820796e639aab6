// Two software cards for a test program, and the cards' own state, which the guest does not stand
// before, as the witness.
#pragma once

#include <gtest/gtest.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>

#include <filesystem>
#include <string>

#include "simgpu/state/state.h"

namespace tessera::guest {

inline constexpr uint64_t kMiB = 1 << 20;
inline constexpr uint64_t kGranule = 2 * kMiB;

// The state folder is one a test program, because a State is never closed.
class TwoCardsTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    char folder[] = "/tmp/tsXXXXXX";
    ASSERT_NE(mkdtemp(folder), nullptr);
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
  // What the card holds for a process.
  static uint64_t RealOf(pid_t pid, uint32_t card) {
    for (const auto& process : state_->Processes(card, 0)) {
      if (process.pid == pid) return process.usage.Total();
    }
    return 0;
  }
  static inline std::string folder_;
  static inline simgpu::State* state_ = nullptr;
};

}  // namespace tessera::guest
