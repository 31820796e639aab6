// LD_PRELOAD=libtessera.so with limits in the environment and no node, on the software GPU.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <string>

#include "guest/core/standalone.h"
#include "guest/core/text.h"
#include "guest/test_cards.h"
#include "guest/test_tenant.h"
#include "simgpu/state/state.h"

namespace tessera::guest {
namespace {

constexpr unsigned kOutOfMemory = 2, kNotPermitted = 800;
using Environment = TestTenant::Environment;

class StandaloneTest : public TwoCardsTest {
 protected:
  void SetUp() override {
    if (access(wire::kGuestSocket, F_OK) == 0) {
      std::printf("NOT RUN: this machine has a node at %s, whose slices win\n", wire::kGuestSocket);
      GTEST_SKIP();
    }
  }
  // Each test has limits of its own, told apart by HAMi's name for the shared region.
  static Environment With(Environment more) {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    more.emplace_back("CUDA_DEVICE_MEMORY_SHARED_CACHE", folder_ + "/" + test->name());
    more.emplace_back("LD_LIBRARY_PATH", TESSERA_SIMGPU_FOLDER);
    more.emplace_back("LD_PRELOAD", TESSERA_GUEST_LIBRARY);
    return more;
  }
  static std::vector<std::string> Program() { return {TESSERA_GUEST_TENANT}; }
};

TEST_F(StandaloneTest, AloneItHoldsTheCapToTheByte) {
  TestTenant tenant(Program(), With({{"CUDA_DEVICE_MEMORY_LIMIT", "1g"}}));
  ASSERT_EQ(tenant.Code("init"), 0u) << tenant.Said();
  EXPECT_EQ(tenant.Do("count").a, 2u);
  ASSERT_EQ(tenant.Code("retain"), 0u);
  const TenantAnswer info = tenant.Do("info");
  EXPECT_EQ(info.b, 1024 * kMiB);
  EXPECT_EQ(info.a + RealOf(tenant.pid(), 0), 1024 * kMiB)
      << "the context is counted as the driver counts it";
  EXPECT_EQ(tenant.Code("alloc", info.a + kGranule), kOutOfMemory);
  EXPECT_EQ(tenant.Code("alloc", info.a), 0u);
  EXPECT_EQ(RealOf(tenant.pid(), 0), 1024 * kMiB);
  EXPECT_EQ(tenant.Code("alloc", 1), kOutOfMemory);
  EXPECT_EQ(tenant.Code("free", 1), 0u);
  EXPECT_EQ(tenant.Do("info").a, info.a);
  EXPECT_EQ(tenant.Said(), "");
}

TEST_F(StandaloneTest, TwoProcessesShareTheCapAndAKilledOnesBytesReturn) {
  const Environment environment = With({{"CUDA_DEVICE_MEMORY_LIMIT", "1024m"}});
  TestTenant first(Program(), environment), second(Program(), environment);
  for (TestTenant* tenant : {&first, &second}) {
    ASSERT_EQ(tenant->Code("init"), 0u);
    ASSERT_EQ(tenant->Code("retain"), 0u);
  }
  ASSERT_EQ(first.Code("alloc", 600 * kMiB), 0u);
  EXPECT_EQ(second.Code("alloc", 600 * kMiB), kOutOfMemory);
  EXPECT_LE(RealOf(first.pid(), 0) + RealOf(second.pid(), 0), 1024 * kMiB);
  EXPECT_EQ(second.Do("info").a, 1024 * kMiB - RealOf(first.pid(), 0) - RealOf(second.pid(), 0));
  first.Kill();
  first.End();
  // The refused one looks for the dead itself, in the very call that did not fit.
  EXPECT_EQ(second.Code("alloc", 600 * kMiB), 0u);
  EXPECT_EQ(second.Do("info").a, 1024 * kMiB - RealOf(second.pid(), 0));
  second.Kill();
  second.End();
  // And a starting one finds an empty slice.
  TestTenant third(Program(), environment);
  ASSERT_EQ(third.Code("init"), 0u);
  ASSERT_EQ(third.Code("retain"), 0u);
  EXPECT_EQ(third.Do("info").a, 1024 * kMiB - RealOf(third.pid(), 0));
}

TEST_F(StandaloneTest, TogetherManyNeverHoldMoreThanTheCap) {
  const Environment environment = With({{"CUDA_DEVICE_MEMORY_LIMIT", "2g"}});
  std::vector<std::unique_ptr<TestTenant>> tenants;
  for (int i = 0; i < 4; ++i) {
    tenants.push_back(std::make_unique<TestTenant>(Program(), environment));
    ASSERT_EQ(tenants.back()->Code("init"), 0u);
    ASSERT_EQ(tenants.back()->Code("retain"), 0u);
  }
  unsigned refused = 0;
  for (int round = 0; round < 40; ++round) {
    refused += tenants[static_cast<size_t>(round % 4)]->Code("alloc", 64 * kMiB) == kOutOfMemory;
    uint64_t held = 0;
    for (const auto& tenant : tenants) held += RealOf(tenant->pid(), 0);
    ASSERT_LE(held, 2048 * kMiB);
  }
  EXPECT_GT(refused, 0u);
}

TEST_F(StandaloneTest, AnIndexCountsTheCardsTheProgramSees) {
  TestTenant both(Program(), With({{"CUDA_DEVICE_MEMORY_LIMIT", "1g"},
                                   {"CUDA_DEVICE_MEMORY_LIMIT_1", "512Mi"}}));
  ASSERT_EQ(both.Code("init"), 0u);
  EXPECT_EQ(both.Do("total", 0).a, 1024 * kMiB);
  EXPECT_EQ(both.Do("total", 1).a, 512 * kMiB);
  // Defects E3 and E4: with cards chosen by index or UUID, charge and check still mean the same
  // card.
  for (const std::string& chosen : {std::string("1"), std::string(state_->card(1).uuid)}) {
    TestTenant one(Program(), With({{"CUDA_DEVICE_MEMORY_LIMIT_0", "768m"},
                                    {"CUDA_VISIBLE_DEVICES", chosen}}));
    ASSERT_EQ(one.Code("nvml"), 0u);
    ASSERT_EQ(one.Code("init"), 0u);
    EXPECT_EQ(one.Do("count").a, 1u);
    ASSERT_EQ(one.Code("retain"), 0u);
    EXPECT_EQ(one.Do("info").b, 768 * kMiB);
    EXPECT_EQ(one.Code("alloc", 768 * kMiB), kOutOfMemory);
    EXPECT_EQ(one.Code("alloc", 256 * kMiB), 0u);
    EXPECT_GT(RealOf(one.pid(), 1), 256 * kMiB);
    EXPECT_EQ(RealOf(one.pid(), 0), 0u);
  }
}

TEST_F(StandaloneTest, ManagementShowsTheSameCapWithoutCuda) {
  TestTenant tenant(Program(), With({{"CUDA_DEVICE_MEMORY_LIMIT", "1g"}}));
  ASSERT_EQ(tenant.Code("nvml"), 0u);
  EXPECT_EQ(tenant.Do("nvmlmemory").b, 1024 * kMiB);
}

TEST_F(StandaloneTest, NoLimitIsTheWholeCard) {
  TestTenant tenant(Program(),
                    With({{"CUDA_DEVICE_MEMORY_LIMIT", "0"}, {"CUDA_DEVICE_SM_LIMIT", "50"}}));
  ASSERT_EQ(tenant.Code("init"), 0u);
  EXPECT_GT(tenant.Do("total").a, 14ull << 30);
}

// What the engine of a card served these programs, as a part of the time that passed.
double ShareOf(simgpu::State* state, uint32_t card, const std::vector<pid_t>& pids,
               double seconds) {
  const auto served = [&](uint64_t* at) {
    const auto account = state->engine(card).Read();
    *at = account.at_ns;
    uint64_t nanos = 0;
    for (const auto& use : account.uses) {
      for (const pid_t pid : pids) nanos += use.pid == pid ? use.served_ns : 0;
    }
    return static_cast<double>(nanos);
  };
  uint64_t from = 0, to = 0;
  const double before = served(&from);
  usleep(static_cast<useconds_t>(seconds * 1e6));
  const double after = served(&to);
  return (after - before) / static_cast<double>(to - from);
}

TEST_F(StandaloneTest, AComputeLimitIsHeldWithoutANode) {
  const struct {
    const char *limit, *policy, *kind, *micros;
    double least, most;  // a busy machine may serve less for a while, never more
  } kCases[] = {
      {"30", "default", "kernels", "500", 0.15, 0.32},
      {"30", "force", "kernels", "50", 0.15, 0.32},
      {"60", "default", "graphs", "2000", 0.3, 0.62},
      {"30", "disable", "kernels", "500", 0.4, 1},
  };
  for (const auto& c : kCases) {
    SCOPED_TRACE(std::string(c.kind) + " " + c.micros + " at " + c.limit + ", " + c.policy);
    TestProgram program({TESSERA_SHARE_TENANT, c.kind, c.micros},
                        With({{"CUDA_DEVICE_SM_LIMIT_0", c.limit},
                              {"CUDA_DEVICE_SM_LIMIT_1", "50"},
                              {"GPU_CORE_UTILIZATION_POLICY", c.policy}}));
    char line[16];
    ASSERT_NE(std::fgets(line, sizeof(line), program.out()), nullptr);
    usleep(300'000);
    double share = 0;
    for (int i = 0; i < 5 && share < c.least; ++i) {
      share = ShareOf(state_, 0, {program.pid()}, 3);
      EXPECT_LE(share, c.most);
    }
    EXPECT_GE(share, c.least);
  }
}

TEST_F(StandaloneTest, TogetherTwoProcessesGetNoMoreThanTheirComputeLimit) {
  const Environment environment = With({{"CUDA_DEVICE_SM_LIMIT", "40"}});
  TestProgram first({TESSERA_SHARE_TENANT, "kernels", "300"}, environment);
  TestProgram second({TESSERA_SHARE_TENANT, "streams", "700"}, environment);
  char line[16];
  ASSERT_NE(std::fgets(line, sizeof(line), first.out()), nullptr);
  ASSERT_NE(std::fgets(line, sizeof(line), second.out()), nullptr);
  usleep(300'000);
  double share = 0;
  for (int i = 0; i < 5 && share < 0.1; ++i) {
    share = ShareOf(state_, 0, {first.pid(), second.pid()}, 1.5);
    EXPECT_LE(share, 0.42);
  }
  EXPECT_GE(share, 0.1);
}

TEST_F(StandaloneTest, ANodesSliceWins) {
  // A process that was promised a node gets no limits of its own when the node is gone.
  Environment environment = With({{"CUDA_DEVICE_MEMORY_LIMIT", "1g"}});
  environment.emplace_back(wire::kSocketVariable, folder_ + "/nobody");
  TestTenant tenant(Program(), environment);
  EXPECT_EQ(tenant.Code("init"), kNotPermitted);
  EXPECT_NE(tenant.Said().find("no node answers"), std::string::npos);
}

// Defect E14: "abc" was no limit, "-1" was 16 EiB, "1.5g" was 1 GiB and "10GB" was 10 bytes.
TEST_F(StandaloneTest, E14BadValuesAreNamedAndRefused) {
  const struct {
    const char *name, *value, *expected;
  } kCases[] = {
      {"CUDA_DEVICE_MEMORY_LIMIT", "abc", "makes whole bytes"},
      {"CUDA_DEVICE_MEMORY_LIMIT", "-1", "makes whole bytes"},
      {"CUDA_DEVICE_MEMORY_LIMIT_0", "10GB", "makes whole bytes"},
      {"CUDA_DEVICE_MEMORY_LIMIT", "0.3k", "makes whole bytes"},
      {"CUDA_DEVICE_MEMORY_LIMIT", "", "makes whole bytes"},
      {"CUDA_DEVICE_MEMORY_LIMIT", "99999999999g", "makes whole bytes"},
      {"CUDA_DEVICE_MEMORY_LIMIT_x", "1g", "index of a card"},
      {"CUDA_DEVICE_SM_LIMIT", "101", "percentage from 0 to 100"},
      {"CUDA_DEVICE_SM_LIMIT_1", "half", "percentage from 0 to 100"},
  };
  for (const auto& c : kCases) {
    TestTenant tenant(Program(), With({{c.name, c.value}}));
    EXPECT_EQ(tenant.Code("init"), kNotPermitted) << c.name << "=" << c.value;
    EXPECT_EQ(tenant.Code("retain"), kNotPermitted);
    const std::string said = tenant.Said();
    EXPECT_EQ(said.find("tessera: " + std::string(c.name) + "=\"" + c.value + "\": expected "), 0u)
        << said;
    EXPECT_NE(said.find(c.expected), std::string::npos) << said;
    EXPECT_EQ(said.find('\n'), said.size() - 1) << "said once: " << said;
  }
  for (const auto& [name, value] :
       Environment{{"GPU_CORE_UTILIZATION_POLICY", "often"}, {"CUDA_TASK_PRIORITY", "2"}}) {
    TestTenant tenant(Program(), With({{"CUDA_DEVICE_MEMORY_LIMIT", "1g"}, {name, value}}));
    EXPECT_EQ(tenant.Code("init"), kNotPermitted) << name;
    EXPECT_NE(tenant.Said().find(name + "=\"" + value), std::string::npos);
  }
  TestTenant exact(Program(), With({{"CUDA_DEVICE_MEMORY_LIMIT", "1.5g"}}));
  ASSERT_EQ(exact.Code("init"), 0u);
  EXPECT_EQ(exact.Do("total").a, 1536 * kMiB);
}

class Settings : public testing::Test {
 protected:
  void TearDown() override {
    for (const char* name :
         {"CUDA_DEVICE_MEMORY_LIMIT", "CUDA_DEVICE_MEMORY_LIMIT_1", "CUDA_DEVICE_SM_LIMIT",
          "CUDA_DEVICE_SM_LIMIT_1", "GPU_CORE_UTILIZATION_POLICY", "CUDA_TASK_PRIORITY"}) {
      unsetenv(name);
    }
  }
  bool Fill(Environment environment) {
    for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
    StandaloneCard cards[2] = {};
    std::strcpy(cards[0].uuid, "GPU-a");
    std::strcpy(cards[1].uuid, "GPU-b");
    cards[0].total_bytes = cards[1].total_bytes = 16ull << 30;
    Line why;
    return FillStandalone(cards, 2, &page_, &why);
  }
  wire::ControlPage page_;
};

TEST_F(Settings, EveryUnitHamiTakes) {
  const std::pair<const char*, uint64_t> kCases[] = {
      {"1073741824", 1ull << 30}, {"1048576k", 1ull << 30}, {"1024m", 1ull << 30},
      {"1g", 1ull << 30},         {"1048576K", 1ull << 30}, {"1024M", 1ull << 30},
      {"1G", 1ull << 30},         {"1024Mi", 1ull << 30},   {"1048576Ki", 1ull << 30},
      {"1Gi", 1ull << 30},        {"0.5g", 512ull << 20},   {"0.001953125k", 0},
      {"1t", 16ull << 30},        {"0", 16ull << 30},
  };
  for (const auto& [text, bytes] : kCases) {
    const bool filled = Fill({{"CUDA_DEVICE_MEMORY_LIMIT", text}});
    EXPECT_EQ(filled, bytes != 0) << text;
    if (filled) {
      EXPECT_EQ(page_.cards[1].limit_bytes, bytes) << text;
    }
  }
}

TEST_F(Settings, ComputeIsCarriedToThePage) {
  ASSERT_TRUE(Fill({{"CUDA_DEVICE_SM_LIMIT", "30"}, {"CUDA_DEVICE_SM_LIMIT_1", "0"}}));
  EXPECT_EQ(page_.cards[0].compute_permille, 300u);
  EXPECT_EQ(page_.cards[1].compute_permille, 1000u);
  EXPECT_EQ(page_.cards[0].weight, 300u);
  ASSERT_TRUE(Fill({{"CUDA_TASK_PRIORITY", "0"}}));
  EXPECT_EQ(page_.cards[0].weight, 3000u);
  ASSERT_TRUE(Fill({{"GPU_CORE_UTILIZATION_POLICY", "force"}}));
  EXPECT_EQ(page_.cards[0].weight, 0u);
  ASSERT_TRUE(Fill({{"GPU_CORE_UTILIZATION_POLICY", "disable"}}));
  EXPECT_EQ(page_.cards[0].compute_permille, 1000u);
}

}  // namespace
}  // namespace tessera::guest
