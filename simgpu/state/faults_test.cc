#include "simgpu/state/faults.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "simgpu/state/results.h"

namespace simgpu {
namespace {

class FaultsTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/simgpu-faults-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    unsetenv("SIMGPU_QUIET");
    folder_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void Write(const std::string& text) {
    std::ofstream(folder_ + "/next", std::ios::binary) << text;
    std::filesystem::rename(folder_ + "/next", folder_ + "/faults");
  }

  std::string folder_;
};

std::string ErrorsOf(const std::string& text) {
  std::vector<FaultRule> rules;
  std::string errors;
  EXPECT_FALSE(ParseFaults("f", text, '\n', &rules, &errors)) << text;
  EXPECT_TRUE(rules.empty());
  return errors;
}

TEST_F(FaultsTest, NamesLineAndFieldOfWhatIsWrong) {
  const struct {
    const char* text;
    const char* errors;
  } cases[] = {
      {"boom",
       "f:1: rule: expected call, sticky, slow-copy, card, hang, xid, ecc or memory, not "
       "\"boom\""},
      {"\n# fine\nhang card 8", "f:3: card: expected an index from 0 to 7, not \"8\""},
      {"hang 1", "f:1: card: expected the word card, not \"1\""},
      {"hang card 1 now", "f:1: end: expected nothing more, not \"now\""},
      {"card 0", "f:1: state: expected lost, not the end"},
      {"call malloc 1 2",
       "f:1: NAME: expected an entry point of the driver, as cuMemAlloc_v2, not "
       "\"malloc\""},
      {"call cuInit 0 2",
       "f:1: N: expected a number from 1, a number with +, or a probability as p0.5, not \"0\""},
      {"call cuInit 1 SUCCESS",
       "f:1: RESULT: expected an error's name or number, as "
       "CUDA_ERROR_OUT_OF_MEMORY, not \"SUCCESS\""},
      {"call cuInit 1 0",
       "f:1: RESULT: expected an error's name or number, as "
       "CUDA_ERROR_OUT_OF_MEMORY, not \"0\""},
      {"call cuInit p1.5 2 seed 1", "f:1: pP: expected a probability from p0 to p1, not \"p1.5\""},
      {"call cuInit p0.5 2", "f:1: seed: expected the word seed, not the end"},
      {"slow-copy card 0 0.5", "f:1: FACTOR: expected a number from 1 to 1000000, not \"0.5\""},
      {"slow-copy card 0 nan", "f:1: FACTOR: expected a number from 1 to 1000000, not \"nan\""},
      {"xid card 0 0", "f:1: NUMBER: expected an XID from 1 to 999, not \"0\""},
      {"ecc card 0 some 3", "f:1: error: expected sbe or dbe, not \"some\""},
      {"ecc card 0 sbe", "f:1: COUNT: expected a number from 1, not the end"},
      {"memory card 0 4GB",
       "f:1: SIZE: expected bytes, or a number with KiB, MiB or GiB, not \"4GB\""},
      {"memory card 0 99999999999GiB",
       "f:1: SIZE: expected bytes, or a number with KiB, MiB or "
       "GiB, not \"99999999999GiB\""},
      {"hang card x\nhang card 1\nlost",
       "f:1: card: expected an index from 0 to 7, not \"x\"\nf:3: rule: expected call, sticky, "
       "slow-copy, card, hang, xid, ecc or memory, not \"lost\""},
  };
  for (const auto& one : cases) EXPECT_EQ(ErrorsOf(one.text), one.errors) << one.text;
  std::string many;
  for (size_t i = 0; i <= kFaultRulesMax; ++i) many += "hang card 0\n";
  EXPECT_EQ(ErrorsOf(many), "f:257: more than kFaultRulesMax = 256 rules");
}

TEST_F(FaultsTest, CountsCallsByFormOrByAllForms) {
  Faults faults(folder_, "call cuMemAlloc 2 out_of_memory; call cuMemFree_v2 3+ 700");
  EXPECT_TRUE(faults.AnyForCalls());
  EXPECT_EQ(faults.Call("cuMemAlloc_v2", "cuMemAlloc"), 0u);
  EXPECT_EQ(faults.Call("cuMemAlloc", "cuMemAlloc"), 2u);
  EXPECT_EQ(faults.Call("cuMemAlloc_v2", "cuMemAlloc"), 0u);
  for (uint32_t expected : {0u, 0u, 700u, 700u, 700u}) {
    EXPECT_EQ(faults.Call("cuMemFree_v2", "cuMemFree"), expected);
    EXPECT_EQ(faults.Call("cuMemFree", "cuMemFree"), 0u);
  }
}

TEST_F(FaultsTest, ProbabilityIsDrawnFromItsSeed) {
  auto pattern = [&](const std::string& rule) {
    Faults faults(folder_, rule);
    std::string text;
    for (int i = 0; i < 1000; ++i) text += faults.Call("cuInit", "cuInit") != 0 ? 'x' : '.';
    return text;
  };
  const std::string one = pattern("call cuInit p0.25 999 seed 1");
  EXPECT_EQ(one, pattern("call cuInit p0.25 999 seed 1"));
  EXPECT_NE(one, pattern("call cuInit p0.25 999 seed 2"));
  const auto hits = std::count(one.begin(), one.end(), 'x');
  EXPECT_GT(hits, 200);
  EXPECT_LT(hits, 300);
  EXPECT_EQ(pattern("call cuInit p1 999 seed 1"), std::string(1000, 'x'));
  EXPECT_EQ(pattern("call cuInit p0 999 seed 1"), std::string(1000, '.'));
}

TEST_F(FaultsTest, CardsHaveTheirOwnRules) {
  Faults faults(folder_,
                "slow-copy card 1 2.5; slow-copy card 1 2; hang card 2; card 3 lost; sticky card 4 "
                "ECC_UNCORRECTABLE; memory card 5 2GiB; ecc card 6 sbe 3; ecc card 6 sbe 4; ecc "
                "card 6 dbe 1; xid card 7 79");
  EXPECT_EQ(faults.CopyFactor(0), 1);
  EXPECT_EQ(faults.CopyFactor(1), 2.5);
  EXPECT_FALSE(faults.Hung(1));
  EXPECT_TRUE(faults.Hung(2));
  EXPECT_FALSE(faults.Lost(2));
  EXPECT_TRUE(faults.Lost(3));
  EXPECT_EQ(faults.Sticky(3), 0u);
  EXPECT_EQ(faults.Sticky(4), 214u);
  EXPECT_EQ(faults.MemoryLimit(4), UINT64_MAX);
  EXPECT_EQ(faults.MemoryLimit(5), uint64_t{2} << 30);
  EXPECT_EQ(faults.Ecc(6).corrected, 7u);
  EXPECT_EQ(faults.Ecc(6).uncorrected, 1u);
  ASSERT_EQ(faults.Xids(0).size(), 1u);
  EXPECT_EQ(faults.Xids(0)[0].card, 7u);
  EXPECT_EQ(faults.Xids(0)[0].number, 79u);
  EXPECT_TRUE(faults.Xids(1).empty());
}

// The file is read again without being told, when its time comes.
TEST_F(FaultsTest, FileRulesComeAndGo) {
  Faults faults(folder_, "hang card 7");
  auto eventually = [](const std::function<bool()>& what) {
    for (int i = 0; i < 10000 && !what(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return what();
  };
  EXPECT_FALSE(faults.Hung(0));
  Write("hang card 0\ncall cuInit 2 100\nxid card 0 31\n");
  EXPECT_TRUE(eventually([&] { return faults.Hung(0); }));
  EXPECT_EQ(faults.Call("cuInit", "cuInit"), 0u);
  EXPECT_EQ(faults.Xids(0).size(), 1u);
  // The rule that stays keeps its count; the XID is not reported twice; the second is.
  Write("call   cuInit 2 100 # again\nxid card 0 31\nxid card 0 31\n");
  EXPECT_TRUE(eventually([&] { return !faults.Hung(0); }));
  EXPECT_EQ(faults.Call("cuInit", "cuInit"), 100u);
  EXPECT_EQ(faults.Xids(0).size(), 2u);
  EXPECT_EQ(faults.Xids(1).size(), 1u);
  // A bad file changes nothing.
  testing::internal::CaptureStderr();
  Write("hang card 1\nhang cards 2\n");
  faults.Look(true);
  faults.Look(true);
  EXPECT_EQ(
      testing::internal::GetCapturedStderr(),
      "simgpu: faults: " + folder_ + "/faults:2: card: expected the word card, not \"cards\"\n");
  EXPECT_FALSE(faults.Hung(1));
  EXPECT_EQ(faults.Rules().size(), 4u);
  std::filesystem::remove(folder_ + "/faults");
  EXPECT_TRUE(eventually([&] { return faults.Rules().size() == 1; }));
  EXPECT_TRUE(faults.Hung(7));
}

TEST_F(FaultsTest, RefusesAFileThatIsTooLarge) {
  Faults faults(folder_, "");
  Write(std::string(kFaultFileBytesMax + 1, '#'));
  testing::internal::CaptureStderr();
  faults.Look(true);
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "simgpu: faults: " + folder_ + "/faults: larger than kFaultFileBytesMax = 65536\n");
}

TEST(Results, ReadsNamesAndNumbers) {
  uint32_t code = 0;
  EXPECT_TRUE(ParseResult("CUDA_ERROR_OUT_OF_MEMORY", &code));
  EXPECT_EQ(code, 2u);
  EXPECT_TRUE(ParseResult("illegal_address", &code));
  EXPECT_EQ(code, 700u);
  EXPECT_TRUE(ParseResult("999", &code));
  EXPECT_EQ(code, 999u);
  for (const char* bad : {"", "12x", "-1", "77777", "CUDA_ERROR", "nothing"}) {
    EXPECT_FALSE(ParseResult(bad, &code)) << bad;
  }
  EXPECT_STREQ(ResultName(0), "CUDA_SUCCESS");
  EXPECT_EQ(ResultName(77777), nullptr);
  EXPECT_STREQ(ResultText(2), "out of memory");
}

}  // namespace
}  // namespace simgpu
