#include "simgpu/driver/visible.h"

#include <gtest/gtest.h>

namespace simgpu {
namespace {

TEST(VisibleCards, Table) {
  const std::vector<std::string> uuids = {"GPU-aa11-0", "GPU-aa22-0", "GPU-bb33-0"};
  struct Case {
    const char* text;
    std::vector<uint32_t> cards;
  } cases[] = {
      {nullptr, {0, 1, 2}},
      {"", {}},
      {"0", {0}},
      {"2,0", {2, 0}},
      {" 1 , 2 ", {1, 2}},
      {"0,-1,1", {0}},
      {"-1", {}},
      {"3", {}},
      {"1,3,2", {1}},
      {"1,1,2", {1}},
      {"0,,1", {0}},
      {"0x1", {}},
      {"1a,0", {}},
      {"9999999", {}},
      {"none", {}},
      {"NoDevFiles", {}},
      {"GPU-bb33-0", {2}},
      {"GPU-b", {2}},
      {"gpu-bb", {}},
      {"GPU-BB33", {2}},
      {"GPU-aa", {}},
      {"GPU-aa2,GPU-aa1", {1, 0}},
      {"GPU-aa2,GPU-zz,GPU-aa1", {1}},
      {"GPU-bb,0", {2}},
      {"0,GPU-bb", {0}},
      {"GPU-bb33-0000", {}},
      {"MIG-GPU-aa11/0/0", {}},
  };
  for (const Case& one : cases) {
    EXPECT_EQ(VisibleCards(one.text, uuids), one.cards) << (one.text ? one.text : "(unset)");
  }
}

}  // namespace
}  // namespace simgpu
