// What the driver relies on around a launch: stated times, the device's clock, grids whose blocks
// wait for each other, helpers shared by launches, how a launch is stopped.
#include <atomic>
#include <thread>

#include "simgpu/ptx/test_device.h"

namespace simgpu::ptx {
namespace {

std::string Entry(const std::string& parameters, const std::string& body) {
  return kHeader + ".visible .entry k(" + parameters + R"()
{
  .reg .pred %p<8>; .reg .b32 %r<32>; .reg .b64 %d<16>;
)" + body +
         "\n}\n";
}

TEST(StatedTime, ConstantAndParameter) {
  const auto constant = Load(Entry("", ".pragma \"simgpu.time_ns 500000\"; ret;"));
  ASSERT_NE(constant, nullptr);
  TestDevice device;
  LaunchResult result = RunOn(*constant, &device, "k", {});
  EXPECT_EQ(result.status, Status::kOk) << result.message;
  EXPECT_TRUE(result.has_stated);
  EXPECT_EQ(result.stated_ns, 500000u);
  EXPECT_EQ(result.instructions, 32u) << "a kernel with a stated time is interpreted all the same";

  const auto parameter = Load(Entry(".param .u32 a, .param .u64 b",
                                    ".pragma \"nounroll\", \"simgpu.time_ns param1\"; ret;"));
  ASSERT_NE(parameter, nullptr);
  const Arguments arguments = Arguments().Add(uint32_t{7}).Add(uint64_t{1} << 40);
  result = RunOn(*parameter, &device, "k", arguments);
  EXPECT_EQ(result.status, Status::kOk) << result.message;
  EXPECT_EQ(result.stated_ns, uint64_t{1} << 40);
  uint64_t ns = 0;
  const KernelInfo& info = parameter->kernels()[0];
  EXPECT_TRUE(StatedTime(info, arguments.bytes().data(), arguments.bytes().size(), &ns));
  EXPECT_EQ(ns, uint64_t{1} << 40);
  EXPECT_FALSE(StatedTime(info, arguments.bytes().data(), 12, &ns)) << "parameters cut short";

  const auto silent = Load(Entry("", ".pragma \"nounroll\"; ret;"));
  ASSERT_NE(silent, nullptr);
  EXPECT_FALSE(RunOn(*silent, &device, "k", {}).has_stated);
}

TEST(StatedTime, NonsenseIsAnErrorThatSaysWhatWasExpected) {
  for (const char* text :
       {"simgpu.time_ns ", "simgpu.time_ns -5", "simgpu.time_ns param", "simgpu.time_ns param1",
        "simgpu.time_ns 1ms", "simgpu.time_ns 99999999999999999999"}) {
    ParseError error;
    EXPECT_EQ(Module::Parse(Entry(".param .u64 a", std::string(".pragma \"") + text + "\"; ret;"),
                            &error),
              nullptr)
        << text;
    EXPECT_NE(error.message.find("simgpu.time_ns"), std::string::npos) << error.message;
  }
  ParseError error;
  EXPECT_EQ(
      Module::Parse(Entry(".param .align 8 .b8 a[16]", ".pragma \"simgpu.time_ns param0\"; ret;"),
                    &error),
      nullptr);
  EXPECT_NE(error.message.find("4 or 8 bytes"), std::string::npos) << error.message;
}

TEST(Present, TheVariableSaysSo) {
  const auto module = Load(kHeader + R"(
.visible .global .u32 simgpu_present;
.visible .global .u32 other = 9;
)");
  ASSERT_NE(module, nullptr);
  EXPECT_TRUE(module->HasInitialiser(0));
  EXPECT_EQ(module->InitialImage(0), (std::vector<uint8_t>{1, 0, 0, 0}));
  EXPECT_EQ(module->InitialImage(1), (std::vector<uint8_t>{9, 0, 0, 0}));
}

TEST(Clock, FollowsTheLaunchsClock) {
  const auto module = Load(Entry(".param .u64 out", R"(
  ld.param.u64 %d0, [out];
  mov.u64 %d1, %globaltimer; mov.u32 %r1, %globaltimer_hi;
  mov.u64 %d2, %clock64; mov.u32 %r2, %clock; mov.u32 %r3, %clock_hi;
  st.global.u64 [%d0], %d1; st.global.u32 [%d0+8], %r1;
  st.global.u64 [%d0+16], %d2; st.global.u32 [%d0+24], %r2; st.global.u32 [%d0+28], %r3;
  ret;)"));
  ASSERT_NE(module, nullptr);
  TestDevice device;
  const uint64_t out = device.Allocate(32);
  LaunchConfig config;
  const Arguments arguments = Arguments().Add(out);
  config.params = arguments.bytes().data();
  config.param_bytes = arguments.bytes().size();
  config.memory = &device;
  config.clock = [] { return uint64_t{10'000'000'000}; };
  config.clock_khz = 1'410'000;
  const LaunchResult result = module->Launch("k", config);
  ASSERT_EQ(result.status, Status::kOk) << result.message;
  const auto words = device.Download<uint64_t>(out, 4);
  EXPECT_EQ(words[0], 10'000'000'000u);
  EXPECT_EQ(words[1] & 0xffffffff, 2u);
  EXPECT_EQ(words[2], 14'100'000'000u);
  EXPECT_EQ(words[3], 14'100'000'000u);
}

// The grid barrier as nvcc 13 makes it of cooperative_groups: a workspace at %envreg1:%envreg2, one
// thread a block that adds to its second word and waits until the top bit has changed.
constexpr const char* kGridSync = R"(
  ld.param.u64 %d0, [data];
  mov.u32 %r13, %envreg2; cvt.u64.u32 %d4, %r13;
  mov.u32 %r14, %envreg1; cvt.u64.u32 %d5, %r14;
  bfi.b64 %d1, %d5, %d4, 32, 32;
  setp.ne.s64 %p3, %d1, 0;
  @%p3 bra VALID;
  trap;
VALID:
  mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r3, %nctaid.x; mov.u32 %r4, %ntid.x;
  mad.lo.s32 %r5, %r2, %r4, %r1;
  mul.lo.s32 %r6, %r3, %r4;
  sub.s32 %r7, -2147483647, %r3;
  setp.eq.s32 %p2, %r2, 0;
  selp.b32 %r8, %r7, 1, %p2;
  mov.u32 %r20, 0;
STEP:
  // data[step + 1][i] = data[step][(i + 1) % n] + 1
  add.s32 %r9, %r5, 1; rem.u32 %r9, %r9, %r6;
  mad.lo.s32 %r10, %r20, %r6, %r9; mul.wide.u32 %d2, %r10, 4; add.s64 %d2, %d2, %d0;
  ld.global.u32 %r11, [%d2]; add.s32 %r11, %r11, 1;
  add.s32 %r20, %r20, 1;
  mad.lo.s32 %r10, %r20, %r6, %r5; mul.wide.u32 %d2, %r10, 4; add.s64 %d2, %d2, %d0;
  st.global.u32 [%d2], %r11;
  add.s64 %d3, %d1, 4;
  barrier.sync 0;
  setp.ne.s32 %p4, %r1, 0;
  @%p4 bra MET;
  atom.add.release.gpu.u32 %r12, [%d3], %r8;
WAIT:
  ld.acquire.gpu.u32 %r15, [%d3];
  xor.b32 %r16, %r15, %r12;
  setp.gt.s32 %p5, %r16, -1;
  @%p5 bra WAIT;
MET:
  barrier.sync 0;
  setp.lt.u32 %p6, %r20, 5;
  @%p6 bra STEP;
  ret;)";

TEST(Cooperative, BlocksWaitForEachOther) {
  const auto module = Load(Entry(".param .u64 data", kGridSync));
  ASSERT_NE(module, nullptr);
  const Shape shape{.grid = 37, .block = 96, .workers = 4, .cooperative = true};
  const uint32_t n = shape.grid * shape.block;
  TestDevice device;
  std::vector<uint32_t> first(size_t{6} * n);
  for (uint32_t i = 0; i < n; ++i) first[i] = i * 7;
  const uint64_t data = device.Upload(first);
  // Twice: the workspace is fresh for each launch.
  for (int round = 0; round < 2; ++round) {
    const LaunchResult result = RunOn(*module, &device, "k", Arguments().Add(data), shape);
    ASSERT_EQ(result.status, Status::kOk) << result.message;
    const auto last = device.Download<uint32_t>(data, size_t{6} * n);
    for (uint32_t i = 0; i < n; ++i) ASSERT_EQ(last[size_t{5} * n + i], (i + 5) % n * 7 + 5) << i;
  }
}

TEST(Cooperative, AnOrdinaryLaunchHasNoWorkspace) {
  const auto module = Load(Entry(".param .u64 data", kGridSync));
  ASSERT_NE(module, nullptr);
  TestDevice device;
  const uint64_t data = device.Allocate(4096);
  EXPECT_EQ(RunOn(*module, &device, "k", Arguments().Add(data), {.grid = 2}).status,
            Status::kLaunchFailed);
}

TEST(Cooperative, TheNumberOfBlocksIsBounded) {
  const auto module = Load(Entry("", "ret;"));
  ASSERT_NE(module, nullptr);
  TestDevice device;
  const LaunchResult result =
      RunOn(*module, &device, "k", {}, {.grid = kMaxCooperativeBlocks + 1, .cooperative = true});
  EXPECT_EQ(result.status, Status::kInvalidValue);
  EXPECT_NE(result.message.find("kMaxCooperativeBlocks"), std::string::npos) << result.message;
}

// Launches from several threads share the helpers; each must still run every block once.
TEST(Helpers, SharedByLaunchesAtOnce) {
  const auto module = Load(Entry(".param .u64 out", R"(
  ld.param.u64 %d0, [out];
  atom.global.add.u32 %r1, [%d0], 1;
  ret;)"));
  ASSERT_NE(module, nullptr);
  TestDevice device;
  std::vector<uint64_t> counters;
  for (int t = 0; t < 6; ++t) counters.push_back(device.Allocate(4));
  std::vector<std::thread> threads;
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 20; ++round) {
        const LaunchResult result =
            RunOn(*module, &device, "k", Arguments().Add(counters[static_cast<size_t>(t)]),
                  {.grid = 64, .block = 64, .workers = 4});
        EXPECT_EQ(result.status, Status::kOk) << result.message;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (uint64_t counter : counters) {
    EXPECT_EQ(device.Download<uint32_t>(counter, 1)[0], 20u * 64 * 64);
  }
}

TEST(Stop, CancelWorksInsideABlock) {
  for (const bool cooperative : {false, true}) {
    const auto module = Load(Entry("", "FOREVER: bra FOREVER;"));
    ASSERT_NE(module, nullptr);
    TestDevice device;
    std::atomic<bool> cancel{false};
    LaunchConfig config;
    config.block[0] = 64;
    config.memory = &device;
    config.cancel = &cancel;
    config.cooperative = cooperative;
    LaunchResult result;
    std::thread launch([&] { result = module->Launch("k", config); });
    cancel.store(true);
    launch.join();
    EXPECT_EQ(result.status, Status::kCancelled) << result.message;
  }
}

TEST(Stop, AWaitOnTheClockEndsWhenTheClockSaysSo) {
  const auto module = Load(Entry("", R"(
  mov.u64 %d1, %globaltimer;
WAIT:
  nanosleep.u32 1000;
  mov.u64 %d2, %globaltimer;
  sub.u64 %d3, %d2, %d1;
  setp.lt.u64 %p1, %d3, 1000000;
  @%p1 bra WAIT;
  ret;)"));
  ASSERT_NE(module, nullptr);
  TestDevice device;
  const Arguments none;
  LaunchConfig config;
  config.memory = &device;
  config.block[0] = 96;
  uint64_t now = 0;
  config.clock = [&now] { return now += 10'000; };
  const LaunchResult result = module->Launch("k", config);
  EXPECT_EQ(result.status, Status::kOk) << result.message;
  EXPECT_LT(result.instructions, 100'000u) << "sleeping threads must not spin";
}

TEST(Textures, OnlyTheKernelsThatUseThemAreRefused) {
  const auto module = Load(kHeader + R"(
.global .texref picture;
.tex .u32 old_picture;
.global .surfref surface;
.global .samplerref sampler = { addr_mode_0 = clamp_to_border, filter_mode = nearest };
.visible .entry plain() { ret; }
.visible .entry reads(.param .u64 out)
{
  .reg .b32 %r<4>; .reg .f32 %f<8>; .reg .b64 %d<4>;
  tex.2d.v4.f32.s32 {%f1, %f2, %f3, %f4}, [picture, {%r1, %r2}];
  ret;
}
.visible .entry addresses()
{
  .reg .b64 %d<4>;
  mov.u64 %d1, surface;
  ret;
}
)");
  ASSERT_NE(module, nullptr);
  EXPECT_EQ(module->FindKernel("plain")->refusal, "");
  EXPECT_NE(module->FindKernel("reads")->refusal.find("tex.2d"), std::string::npos)
      << module->FindKernel("reads")->refusal;
  EXPECT_NE(module->FindKernel("addresses")->refusal.find("surface"), std::string::npos)
      << module->FindKernel("addresses")->refusal;
}

}  // namespace
}  // namespace simgpu::ptx
