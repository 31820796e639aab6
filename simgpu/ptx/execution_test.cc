// What threads do together: divergence, barriers, shuffles, calls, memory faults, and how a launch
// ends.
#include <thread>

#include "simgpu/ptx/test_device.h"

namespace simgpu::ptx {
namespace {

// A kernel k(out) whose body finds its linear thread number in %r0 and the address of out[thread]
// (32-bit words) in %d0; `before` stands at module scope.
std::string Body(const std::string& body, const std::string& before = "") {
  return kHeader + before + R"(
.visible .entry k(.param .u64 out)
{
  .reg .pred %p<16>; .reg .b16 %h<8>; .reg .b32 %r<32>; .reg .b64 %d<32>;
  ld.param.u64 %d1, [out];
  mov.u32 %r0, %tid.x;
  mad.lo.s32 %r31, %ctaid.x, %ntid.x, %r0;
  mul.wide.u32 %d0, %r31, 4;
  add.u64 %d0, %d0, %d1;
)" + body +
         "\n}\n";
}

// Runs k on `threads` threads a block and answers out[].
std::vector<uint32_t> Words(const std::string& text, Shape shape = {},
                            Status expected = Status::kOk) {
  const auto module = Load(text);
  if (module == nullptr) return {};
  TestDevice device;
  Place(module.get(), &device);
  const size_t count = size_t{shape.grid} * shape.block;
  const uint64_t out = device.Allocate(count * 4);
  const LaunchResult result = RunOn(*module, &device, "k", Arguments().Add(out), shape);
  EXPECT_EQ(result.status, expected) << result.message;
  return device.Download<uint32_t>(out, count);
}

LaunchResult Outcome(const std::string& text, Shape shape = {}, std::string* printed = nullptr) {
  const auto module = Load(text);
  if (module == nullptr) return {};
  TestDevice device;
  for (size_t i = 0; i < module->globals().size(); ++i) {
    const uint64_t address =
        device.Upload(module->globals()[i].size ? std::vector<uint8_t>(module->globals()[i].size)
                                                : std::vector<uint8_t>(1));
    module->SetGlobalAddress(i, address);
    MemoryRange range;
    device.Resolve(address, &range);
    const std::vector<uint8_t> image = module->InitialImage(i);
    std::memcpy(range.host, image.data(), image.size());
  }
  const uint64_t out = device.Allocate(size_t{shape.grid} * shape.block * 4);
  return RunOn(*module, &device, "k", Arguments().Add(out), shape, printed);
}

TEST(Divergence, BothSidesOfABranchRunAndMeet) {
  const auto out = Words(Body(R"(
  and.b32 %r1, %r0, 1;
  setp.eq.u32 %p1, %r1, 0;
  @%p1 bra EVEN;
  mul.lo.u32 %r2, %r0, 10;
  bra.uni JOIN;
EVEN:
  add.u32 %r2, %r0, 1000;
JOIN:
  activemask.b32 %r3;
  setp.ne.u32 %p2, %r3, 0xffffffff;
  @%p2 mov.u32 %r2, 0;
  st.global.u32 [%d0], %r2;
  ret;)"));
  for (uint32_t i = 0; i < 32; ++i) EXPECT_EQ(out[i], i % 2 ? i * 10 : i + 1000) << i;
}

TEST(Divergence, LoopsOfDifferentLength) {
  const auto out = Words(Body(R"(
  mov.u32 %r1, 0; mov.u32 %r2, 0;
LOOP:
  add.u32 %r2, %r2, %r1;
  add.u32 %r1, %r1, 1;
  setp.le.u32 %p1, %r1, %r0;
  @%p1 bra LOOP;
  st.global.u32 [%d0], %r2;
  ret;)"),
                         {.block = 96});
  for (uint32_t i = 0; i < 96; ++i) EXPECT_EQ(out[i], i * (i + 1) / 2) << i;
}

TEST(Divergence, EarlyExitAndPredicatedExit) {
  const auto out = Words(Body(R"(
  mov.u32 %r1, 7;
  st.global.u32 [%d0], %r1;
  setp.gt.u32 %p1, %r0, 20;
  @%p1 exit;
  @!%p1 st.global.u32 [%d0], %r0;
  ret;)"));
  for (uint32_t i = 0; i < 32; ++i) EXPECT_EQ(out[i], i > 20 ? 7 : i);
}

TEST(Divergence, BranchTable) {
  const auto out = Words(Body(R"(
  rem.u32 %r1, %r0, 3;
  mov.u32 %r2, 99;
TABLE: .branchtargets L0, L1, L2;
  brx.idx %r1, TABLE;
L0: mov.u32 %r2, 5; bra END;
L1: mov.u32 %r2, 6; bra END;
L2: mov.u32 %r2, 7;
END:
  st.global.u32 [%d0], %r2;
  ret;)"));
  for (uint32_t i = 0; i < 32; ++i) EXPECT_EQ(out[i], 5 + i % 3);
}

// A lane that spins on a lock its neighbour holds must not starve the neighbour (Volta's promise).
TEST(Divergence, SpinLockInsideOneWarp) {
  const auto out = Words(Body(R"(
  mov.u64 %d5, lock;
  mov.u64 %d6, counter;
SPIN:
  atom.global.cas.b32 %r1, [%d5], 0, 1;
  setp.ne.u32 %p1, %r1, 0;
  @%p1 bra SPIN;
  ld.volatile.global.u32 %r2, [%d6];
  add.u32 %r2, %r2, 1;
  st.volatile.global.u32 [%d6], %r2;
  membar.gl;
  atom.global.exch.b32 %r1, [%d5], 0;
  st.global.u32 [%d0], %r2;
  ret;)",
                              ".global .u32 lock;\n.global .u32 counter;\n"),
                         {.block = 64});
  std::vector<uint32_t> sorted = out;
  std::sort(sorted.begin(), sorted.end());
  for (uint32_t i = 0; i < 64; ++i) EXPECT_EQ(sorted[i], i + 1);
}

TEST(Scopes, InnerDeclarationsHideOuterOnes) {
  const auto out = Words(Body(R"(
  .reg .b32 x;
  mov.u32 x, 5;
  {
    .reg .b32 x;
    .reg .pred p;
    mov.u32 x, 100;
    setp.eq.u32 p, %r0, 3;
    @p bra INNER;
    add.u32 x, x, 1;
INNER:
    mov.u32 %r1, x;
  }
  {
    .reg .b32 x;
    .reg .pred p;
    mov.u32 x, 200;
    setp.eq.u32 p, %r0, 4;
    @p bra INNER;
    add.u32 x, x, 1;
INNER:
    add.u32 %r1, %r1, x;
  }
  add.u32 %r1, %r1, x;
  st.global.u32 [%d0], %r1;
  ret;)"));
  for (uint32_t i = 0; i < 32; ++i)
    EXPECT_EQ(out[i], 5u + (i == 3 ? 100 : 101) + (i == 4 ? 200 : 201));
}

TEST(Barrier, DivergentWarpsMeetAndSharedMemoryIsVisible) {
  const auto out = Words(Body(R"(
  .shared .align 4 .b8 buffer[512];
  mov.u32 %r2, buffer;
  shl.b32 %r3, %r0, 2;
  add.u32 %r4, %r2, %r3;
  and.b32 %r5, %r0, 1;
  setp.eq.u32 %p1, %r5, 0;
  @%p1 bra EVEN;
  mul.lo.u32 %r6, %r0, 3;
  st.shared.u32 [%r4], %r6;
  bar.sync 0;
  bra DONE;
EVEN:
  mul.lo.u32 %r6, %r0, 5;
  st.shared.u32 [%r4], %r6;
  bar.sync 0;
DONE:
  xor.b32 %r7, %r0, 127;
  shl.b32 %r7, %r7, 2;
  add.u32 %r7, %r7, %r2;
  ld.shared.u32 %r8, [%r7];
  st.global.u32 [%d0], %r8;
  ret;)"),
                         {.block = 128});
  for (uint32_t i = 0; i < 128; ++i) {
    const uint32_t other = i ^ 127;
    EXPECT_EQ(out[i], other % 2 ? other * 3 : other * 5);
  }
}

TEST(Barrier, ExitedThreadsAreNotWaitedFor) {
  const auto out = Words(Body(R"(
  setp.ge.u32 %p1, %r0, 40;
  @%p1 ret;
  barrier.sync 0;
  mov.u32 %r1, 1;
  st.global.u32 [%d0], %r1;
  ret;)"),
                         {.block = 96});
  for (uint32_t i = 0; i < 96; ++i) EXPECT_EQ(out[i], i < 40 ? 1u : 0u);
}

TEST(Barrier, ReductionsAndNamedBarriers) {
  const auto out = Words(Body(R"(
  setp.lt.u32 %p1, %r0, 50;
  bar.red.popc.u32 %r1, 1, %p1;
  bar.red.and.pred %p2, 2, %p1;
  bar.red.or.pred %p3, 3, !%p1;
  selp.u32 %r2, 1000, 0, %p2;
  selp.u32 %r3, 10000, 0, %p3;
  add.u32 %r1, %r1, %r2;
  add.u32 %r1, %r1, %r3;
  st.global.u32 [%d0], %r1;
  ret;)"),
                         {.block = 64});
  for (uint32_t word : out) EXPECT_EQ(word, 10050u);
}

TEST(Barrier, ProducerArrivesConsumerSyncs) {
  const auto out = Words(Body(R"(
  .shared .u32 cell;
  setp.ge.u32 %p1, %r0, 32;
  @%p1 bra CONSUMER;
  mov.u32 %r1, 77;
  st.shared.u32 [cell], %r1;
  bar.arrive 5, 64;
  st.global.u32 [%d0], %r0;
  ret;
CONSUMER:
  bar.sync 5, 64;
  ld.shared.u32 %r1, [cell];
  st.global.u32 [%d0], %r1;
  ret;)"),
                         {.block = 64});
  for (uint32_t i = 0; i < 64; ++i) EXPECT_EQ(out[i], i < 32 ? i : 77u);
}

TEST(Barrier, ThatNobodyCanCompleteEndsTheLaunch) {
  const LaunchResult result = Outcome(Body(R"(
  setp.eq.u32 %p1, %r0, 0;
  @%p1 bar.sync 1, 64;
  bar.sync 2;
  ret;)"),
                                      {.block = 64});
  EXPECT_EQ(result.status, Status::kLaunchTimeout);
  EXPECT_NE(result.message.find("bar.sync"), std::string::npos) << result.message;
}

TEST(Warp, ShuffleModesWithPredicate) {
  struct Case {
    const char* text;
    uint32_t (*value)(uint32_t lane);
    bool (*valid)(uint32_t lane);
  };
  const Case cases[] = {
      {"shfl.sync.up.b32 %r2|%p1, %r1, 3, 0, 0xffffffff;",
       [](uint32_t l) { return l >= 3 ? l - 3 : l; }, [](uint32_t l) { return l >= 3; }},
      {"shfl.sync.down.b32 %r2|%p1, %r1, 4, 31, 0xffffffff;",
       [](uint32_t l) { return l < 28 ? l + 4 : l; }, [](uint32_t l) { return l < 28; }},
      {"shfl.sync.bfly.b32 %r2|%p1, %r1, 1, 31, 0xffffffff;", [](uint32_t l) { return l ^ 1; },
       [](uint32_t) { return true; }},
      {"shfl.sync.idx.b32 %r2|%p1, %r1, 9, 31, 0xffffffff;", [](uint32_t) { return 9u; },
       [](uint32_t) { return true; }},
      // Segments of eight lanes: clamp 0x1807 = mask 24 in the high part, 7 in the low.
      {"shfl.sync.down.b32 %r2|%p1, %r1, 2, 0x1807, 0xffffffff;",
       [](uint32_t l) { return l % 8 < 6 ? l + 2 : l; }, [](uint32_t l) { return l % 8 < 6; }},
      {"shfl.sync.idx.b32 %r2|%p1, %r1, 1, 0x1807, 0xffffffff;",
       [](uint32_t l) { return l / 8 * 8 + 1; }, [](uint32_t) { return true; }},
  };
  for (const Case& c : cases) {
    const auto out = Words(
        Body("mov.u32 %r1, %laneid;\n" + std::string(c.text) +
             "selp.u32 %r3, 256, 0, %p1; add.u32 %r2, %r2, %r3; st.global.u32 [%d0], %r2; ret;"));
    for (uint32_t l = 0; l < 32; ++l)
      EXPECT_EQ(out[l], c.value(l) + (c.valid(l) ? 256 : 0)) << c.text << " lane " << l;
  }
}

TEST(Warp, SyncWaitsForMembersThatComeLater) {
  // Odd lanes take a detour before the shuffle; its member mask brings the warp together again.
  const auto out = Words(Body(R"(
  and.b32 %r1, %r0, 1;
  setp.eq.u32 %p1, %r1, 1;
  @%p1 bra DETOUR;
BACK:
  shfl.sync.bfly.b32 %r2, %r0, 1, 31, -1;
  st.global.u32 [%d0], %r2;
  ret;
DETOUR:
  add.u32 %r3, %r0, 1;
  bra BACK;)"));
  for (uint32_t i = 0; i < 32; ++i) EXPECT_EQ(out[i], i ^ 1);
}

TEST(Warp, BarWarpSyncAtDifferentPlaces) {
  const auto out = Words(Body(R"(
  .shared .b32 cells[32];
  shl.b32 %r1, %r0, 2;
  mov.u32 %r2, cells;
  add.u32 %r1, %r1, %r2;
  setp.lt.u32 %p1, %r0, 16;
  @%p1 bra LOW;
  st.shared.u32 [%r1], %r0;
  bar.warp.sync -1;
  bra JOIN;
LOW:
  st.shared.u32 [%r1], 5;
  bar.warp.sync -1;
JOIN:
  ld.shared.u32 %r3, [cells+64];
  st.global.u32 [%d0], %r3;
  ret;)"));
  for (uint32_t word : out) EXPECT_EQ(word, 16u);
}

TEST(Warp, VoteMatchReduxMasks) {
  const auto out = Words(Body(R"(
  mov.u32 %r1, %laneid;
  setp.lt.u32 %p1, %r1, 12;
  vote.sync.ballot.b32 %r2, %p1, -1;
  setp.eq.u32 %p2, %r2, 0xfff;
  vote.sync.all.pred %p3, %p1, -1;
  vote.sync.any.pred %p4, %p1, -1;
  vote.sync.uni.pred %p5, !%p1, -1;
  shr.u32 %r3, %r1, 3;
  match.any.sync.b32 %r4, %r3, -1;
  shl.b32 %r5, %r3, 3;
  shl.b32 %r6, 255, %r5;
  setp.eq.u32 %p6, %r4, %r6;
  match.all.sync.b32 %r7|%p7, %r2, -1;
  redux.sync.add.s32 %r8, %r1, -1;
  setp.eq.s32 %p8, %r8, 496;
  redux.sync.max.u32 %r9, %r1, -1;
  setp.eq.and.u32 %p8, %r9, 31, %p8;
  mov.u32 %r10, %lanemask_lt;
  popc.b32 %r11, %r10;
  setp.eq.and.u32 %p8, %r11, %r1, %p8;
  elect.sync %r12|%p9, -1;
  mov.u32 %r20, 0;
  @%p2 or.b32 %r20, %r20, 1;
  @%p3 or.b32 %r20, %r20, 2;
  @%p4 or.b32 %r20, %r20, 4;
  @%p5 or.b32 %r20, %r20, 8;
  @%p6 or.b32 %r20, %r20, 16;
  @%p7 or.b32 %r20, %r20, 32;
  @%p8 or.b32 %r20, %r20, 64;
  @%p9 or.b32 %r20, %r20, 128;
  st.global.u32 [%d0], %r20;
  ret;)"));
  for (uint32_t i = 0; i < 32; ++i)
    EXPECT_EQ(out[i], 1u + 4 + 16 + 32 + 64 + (i == 0 ? 128 : 0)) << i;
}

TEST(Atomics, EveryOperation) {
  struct Case {
    const char* text;
    uint64_t start, expected;
  };
  // All 32 lanes add, and so on; the cell is 64 bits wide.
  const Case cases[] = {
      {"red.global.add.u32 [%d5], 2;", 1, 65},
      {"atom.global.add.u64 %d6, [%d5], 0x100000000;", 0, 32ull << 32},
      {"atom.add.s32 %r2, [%d5], -1;", 40, 8},
      {"red.global.min.s32 [%d5], %r0;", 5, 0},
      {"red.global.max.u32 [%d5], %r0;", 5, 31},
      {"atom.global.max.s64 %d6, [%d5], -5;", ~9ull, ~4ull},
      {"atom.global.and.b32 %r2, [%d5], 0xf0;", 0xff, 0xf0},
      {"atom.global.or.b64 %d6, [%d5], 0x10;", 1, 0x11},
      {"red.global.xor.b32 [%d5], %r0;", 0, 0},
      {"atom.global.inc.u32 %r2, [%d5], 9;", 0, 2},
      {"atom.global.dec.u32 %r2, [%d5], 9;", 0, 8},
      {"red.global.add.f32 [%d5], 0f3F000000;", 0, F(16)},
      {"red.global.add.f64 [%d5], 0d3FE0000000000000;", 0, D(16)},
      {"atom.relaxed.gpu.global.exch.b32 %r2, [%d5], 7;", 1, 7},
  };
  for (const Case& c : cases) {
    const auto module =
        Load(Body("mov.u64 %d5, cell;\n" + std::string(c.text) + "\nret;", ".global .u64 cell;\n"));
    ASSERT_EQ(module->kernels()[0].refusal, "");
    TestDevice device;
    const uint64_t cell = device.Upload<uint64_t>({c.start});
    module->SetGlobalAddress(0, cell);
    const uint64_t out = device.Allocate(128);
    const LaunchResult result = RunOn(*module, &device, "k", Arguments().Add(out));
    ASSERT_EQ(result.status, Status::kOk) << result.message;
    EXPECT_EQ(device.Download<uint64_t>(cell, 1)[0], c.expected) << c.text;
  }
}

TEST(Atomics, SharedAndAcrossWorkers) {
  const auto out = Words(Body(R"(
  .shared .u32 cell;
  setp.eq.u32 %p1, %r0, 0;
  @%p1 st.shared.u32 [cell], 0;
  bar.sync 0;
  atom.shared.add.u32 %r1, [cell], 1;
  bar.sync 0;
  ld.shared.u32 %r2, [cell];
  red.global.add.u32 [total], 1;
  st.global.u32 [%d0], %r2;
  ret;)",
                              ".global .u32 total;\n"),
                         {.grid = 64, .block = 96, .workers = 4});
  for (uint32_t word : out) EXPECT_EQ(word, 96u);
}

TEST(Memory, GenericAddressesReachEverySpace) {
  const auto out = Words(Body(R"(
  .shared .align 8 .b8 s[128];
  .local .align 8 .b8 l[16];
  mov.u64 %d2, s; cvta.shared.u64 %d2, %d2;
  mov.u64 %d3, l; cvta.local.u64 %d3, %d3;
  mul.wide.u32 %d4, %r0, 4;
  add.u64 %d2, %d2, %d4;
  st.u32 [%d2], %r0;
  add.u32 %r1, %r0, 100;
  st.u32 [%d3+8], %r1;
  ld.local.u32 %r2, [l+8];
  cvta.to.shared.u64 %d5, %d2;
  ld.shared.u32 %r3, [%d5];
  cvta.to.global.u64 %d6, %d0;
  add.u32 %r4, %r2, %r3;
  st.global.u32 [%d6], %r4;
  ret;)"));
  for (uint32_t i = 0; i < 32; ++i) EXPECT_EQ(out[i], 100 + 2 * i);
}

TEST(Memory, VectorsAndNarrowTypes) {
  const auto out = Words(Body(R"(
  .shared .align 16 .b8 s[1024];
  mov.u32 %r1, s;
  shl.b32 %r2, %r0, 4;
  add.u32 %r1, %r1, %r2;
  st.shared.v4.u32 [%r1], {%r0, 2, %r0, 0xfffffff6};
  ld.shared.v2.u32 {%r3, %r4}, [%r1+8];
  ld.shared.s8 %r5, [%r1+12];
  ld.shared.u8 %h1, [%r1+15];
  cvt.u32.u16 %r6, %h1;
  ld.shared.v2.b64 {%d7, _}, [%r1];
  add.u32 %r7, %r3, %r5;
  add.u32 %r7, %r7, %r6;
  st.global.u32 [%d0], %r7;
  ret;)"));
  for (uint32_t i = 0; i < 32; ++i) EXPECT_EQ(out[i], i - 10 + 255);
}

TEST(Memory, ConstantsAndInitialisers) {
  const std::string before = R"(
.const .align 4 .u32 table[4] = {10, 20, 30, 40};
.global .align 8 .u64 pointer = generic(table)+8;
.global .align 4 .f32 floats[2] = {0f3FC00000, 2.5};
.global .align 1 .b8 text[] = {104, 105, 0};
.global .align 1 .b8 bytes[8] = {0xFF(table), 0xFF00(table), 0xFF0000(table), 0xFF000000(table), 0xFF00000000(table), 0xFF0000000000(table), 0, 0};
)";
  const auto module = Load(Body(
      "ld.global.u64 %d2, [pointer]; ld.u32 %r1, [%d2]; st.global.u32 [%d0], %r1; ret;", before));
  ASSERT_EQ(module->globals().size(), 5u);
  EXPECT_EQ(module->globals()[0].space, GlobalSpace::kConst);
  EXPECT_EQ(module->globals()[3].size, 3u);
  TestDevice device;
  const uint64_t table = device.Upload<uint32_t>({10, 20, 30, 40});
  module->SetGlobalAddress(0, table);
  const std::vector<uint8_t> image = module->InitialImage(1);
  uint64_t pointer;
  std::memcpy(&pointer, image.data(), 8);
  EXPECT_EQ(pointer, table + 8);
  module->SetGlobalAddress(1, device.Upload<uint64_t>({pointer}));
  float floats[2];
  std::memcpy(floats, module->InitialImage(2).data(), 8);
  EXPECT_EQ(floats[0], 1.5f);
  EXPECT_EQ(floats[1], 2.5f);
  std::memcpy(&pointer, module->InitialImage(4).data(), 8);
  EXPECT_EQ(pointer, table);
  const uint64_t out = device.Allocate(4);
  const LaunchResult result = RunOn(*module, &device, "k", Arguments().Add(out), {.block = 1});
  ASSERT_EQ(result.status, Status::kOk) << result.message;
  EXPECT_EQ(device.Download<uint32_t>(out, 1)[0], 30u);
}

TEST(Memory, DynamicSharedFollowsStatic) {
  const std::string text =
      Body(R"(
  mov.u32 %r1, fixed;
  mov.u32 %r2, dynamic;
  sub.u32 %r3, %r2, %r1;
  ld.shared.u32 %r4, [dynamic+60];
  st.global.u32 [%d0], %r3;
  ret;)",
           ".shared .align 4 .b8 fixed[100];\n.extern .shared .align 16 .b8 dynamic[];\n");
  EXPECT_EQ(Words(text, {.shared = 64})[0], 112u);
  const LaunchResult result = Outcome(text, {.shared = 60});
  EXPECT_EQ(result.status, Status::kIllegalAddress);
}

TEST(Faults, OutOfBoundsNamesThread) {
  const LaunchResult result =
      Outcome(Body("setp.eq.u32 %p1, %r0, 17;\n@%p1 st.global.u32 [%d0+1000000], %r0;\nret;"));
  EXPECT_EQ(result.status, Status::kIllegalAddress);
  EXPECT_EQ(ToCudaError(result.status), 700);
  EXPECT_NE(result.message.find("st.global.u32 at PTX line 1"), std::string::npos)
      << result.message;
  EXPECT_NE(result.message.find("thread (17,0,0)"), std::string::npos) << result.message;
  EXPECT_NE(result.message.find("4-byte write"), std::string::npos) << result.message;
}

TEST(Faults, EachSpaceIsBounded) {
  const char* illegal[] = {
      "ld.global.u32 %r1, [%d0+128];",
      "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%d1+120];",
      ".shared .u32 s[4]; ld.shared.u32 %r1, [s+16];",
      ".shared .u32 s[4]; mov.u32 %r1, -4; ld.shared.u32 %r1, [%r1];",
      ".local .u32 l[4]; st.local.u32 [l+16], %r0;",
      ".shared .u32 s[4]; mov.u64 %d2, s; cvta.shared.u64 %d2, %d2; ld.u32 %r1, [%d2+4096];",
      "mov.u64 %d2, 0; ld.u32 %r1, [%d2];",
      "mov.u64 %d2, 0xffffffffffffffe0; ld.u32 %r1, [%d2];",
      "atom.global.add.u32 %r1, [%d0+4096], 1;",
      "mov.u64 %d2, out; cvta.param.u64 %d2, %d2; st.u32 [%d2], %r0;",
  };
  for (const char* text : illegal) {
    const std::string body = std::string(text).find("v4") != std::string::npos
                                 ? std::string(text) + " ret;"
                                 : std::string(text) + " ret;";
    const LaunchResult result = Outcome(Body(body));
    EXPECT_TRUE(result.status == Status::kIllegalAddress ||
                result.status == Status::kMisalignedAddress)
        << text << ": " << result.message;
  }
  EXPECT_EQ(Outcome(Body("ld.global.u32 %r1, [%d0+2]; ret;")).status, Status::kMisalignedAddress);
  EXPECT_EQ(Outcome(Body("ld.global.v2.u32 {%r1, %r2}, [%d1+4]; ret;")).status,
            Status::kMisalignedAddress);
  EXPECT_EQ(
      Outcome(Body("mov.u64 %d2, out; cvta.param.u64 %d2, %d2; ld.u32 %r1, [%d2]; ret;")).status,
      Status::kOk);
}

TEST(Faults, ReadOnlyRanges) {
  const auto module = Load(Body("ld.global.u32 %r1, [%d0];\nst.global.u32 [%d0], %r1;\nret;"));
  TestDevice device;
  const uint64_t out = device.Allocate(128);
  device.read_only = out;
  const LaunchResult result = RunOn(*module, &device, "k", Arguments().Add(out));
  EXPECT_EQ(result.status, Status::kIllegalAddress);
  EXPECT_NE(result.message.find("write"), std::string::npos);
}

TEST(Faults, TrapAssertBudgetCancel) {
  EXPECT_EQ(Outcome(Body("setp.eq.u32 %p1, %r0, 3;\n@%p1 trap;\nret;")).status,
            Status::kLaunchFailed);
  const LaunchResult runaway = Outcome(Body("LOOP: bra LOOP;"), {.budget = 1'000'000});
  EXPECT_EQ(runaway.status, Status::kLaunchTimeout);
  EXPECT_NE(runaway.message.find("budget of 1000000"), std::string::npos) << runaway.message;
  EXPECT_GE(runaway.instructions, 1'000'000u);

  const auto module = Load(Body("LOOP: bra LOOP;"));
  TestDevice device;
  const uint64_t out = device.Allocate(128);
  const Arguments arguments = Arguments().Add(out);
  std::atomic<bool> cancel{false};
  LaunchConfig config;
  config.block[0] = 32;
  config.params = arguments.bytes().data();
  config.param_bytes = 8;
  config.memory = &device;
  config.cancel = &cancel;
  LaunchResult result;
  std::thread launch([&] { result = module->Launch("k", config); });
  cancel = true;
  launch.join();
  EXPECT_EQ(result.status, Status::kCancelled);
}

const char kPrintfDeclaration[] = R"(
.extern .func (.param .b32 retval) vprintf (.param .b64 format, .param .b64 arguments);
.global .align 1 .b8 message[] = {105, 61, 37, 100, 32, 102, 61, 37, 46, 49, 102, 32, 37, 115, 32, 37, 108, 108, 120, 37, 37, 10, 0};
.global .align 1 .b8 word[] = {111, 107, 0};
)";

TEST(Builtins, Printf) {
  std::string printed;
  const LaunchResult result = Outcome(Body(R"(
  .local .align 8 .b8 depot[32];
  mov.u64 %d2, depot; cvta.local.u64 %d3, %d2;
  st.local.u32 [%d2], -7;
  st.local.f64 [%d2+8], 0d3FF8000000000000;
  mov.u64 %d4, word; cvta.global.u64 %d4, %d4;
  st.local.u64 [%d2+16], %d4;
  st.local.u64 [%d2+24], 0x123456789abc;
  mov.u64 %d5, message; cvta.global.u64 %d5, %d5;
  setp.ne.u32 %p1, %r0, 1;
  @%p1 ret;
  {
  .param .b64 param0; st.param.b64 [param0], %d5;
  .param .b64 param1; st.param.b64 [param1], %d3;
  .param .b32 retval0;
  call.uni (retval0), vprintf, (param0, param1);
  ld.param.b32 %r5, [retval0];
  }
  ret;)",
                                           kPrintfDeclaration),
                                      {}, &printed);
  EXPECT_EQ(result.status, Status::kOk) << result.message;
  EXPECT_EQ(printed, "i=-7 f=1.5 ok 123456789abc%\n");
}

TEST(Builtins, Assert) {
  const LaunchResult result =
      Outcome(Body(R"(
  mov.u64 %d4, word; cvta.global.u64 %d4, %d4;
  {
  .param .b64 p0; st.param.b64 [p0], %d4;
  .param .b64 p1; st.param.b64 [p1], %d4;
  .param .b32 p2; st.param.b32 [p2], 12;
  .param .b64 p3; st.param.b64 [p3], %d4;
  .param .b64 p4; st.param.b64 [p4], 1;
  call.uni __assertfail, (p0, p1, p2, p3, p4);
  }
  ret;)",
                   std::string(".extern .func __assertfail (.param .b64 a, .param .b64 b, .param "
                               ".b32 c, .param .b64 d, .param .b64 e);\n") +
                       ".global .align 1 .b8 word[] = {111, 107, 0};\n"));
  EXPECT_EQ(result.status, Status::kAssert);
  EXPECT_EQ(ToCudaError(result.status), 710);
  EXPECT_NE(result.message.find("ok:12: ok: Assertion `ok` failed"), std::string::npos)
      << result.message;
}

const char kFactorial[] = R"(
.func (.param .b32 result) factorial(.param .b32 n);
.func (.param .b32 result) factorial(.param .b32 n)
{
  .reg .pred %p<2>; .reg .b32 %r<8>;
  ld.param.u32 %r1, [n];
  setp.gt.u32 %p1, %r1, 1;
  @%p1 bra RECURSE;
  st.param.b32 [result], 1;
  ret;
RECURSE:
  sub.u32 %r2, %r1, 1;
  {
  .param .b32 a; st.param.b32 [a], %r2;
  .param .b32 b;
  call.uni (b), factorial, (a);
  ld.param.b32 %r3, [b];
  }
  mul.lo.u32 %r4, %r3, %r1;
  st.param.b32 [result], %r4;
  ret;
}
)";

TEST(Calls, RecursionWithLanesAtDifferentDepths) {
  const auto out = Words(Body(R"(
  and.b32 %r1, %r0, 7;
  {
  .param .b32 a; st.param.b32 [a], %r1;
  .param .b32 b;
  call.uni (b), factorial, (a);
  ld.param.b32 %r2, [b];
  }
  shfl.sync.idx.b32 %r3, %r2, 5, 31, -1;
  add.u32 %r2, %r2, %r3;
  st.global.u32 [%d0], %r2;
  ret;)",
                              kFactorial));
  const uint32_t expected[] = {1, 1, 2, 6, 24, 120, 720, 5040};
  for (uint32_t i = 0; i < 32; ++i) EXPECT_EQ(out[i], expected[i % 8] + 120);
}

TEST(Calls, EndlessRecursionStops) {
  const LaunchResult result =
      Outcome(Body("{ call.uni f, (); } ret;", ".func f()\n{\n  call.uni f, ();\n  ret;\n}\n"));
  EXPECT_EQ(result.status, Status::kLaunchFailed);
  EXPECT_NE(result.message.find("kMaxCallDepth"), std::string::npos) << result.message;
}

TEST(Refusal, IsPerKernelAndNamesOpcodeAndLine) {
  const auto module = Load(kHeader + R"(
.visible .entry good(.param .u64 out)
{
  .reg .b64 %d<2>;
  ld.param.u64 %d1, [out];
  st.global.u32 [%d1], 1;
  ret;
}
.visible .entry bad(.param .u64 out)
{
  .reg .b32 %r<9>;
  wmma.load.a.sync.aligned.row.m16n16k16.global.f16 {%r1, %r2}, [%r3];
  ret;
}
.extern .func (.param .b64 p) cudaGetParameterBuffer (.param .b64 n);
.visible .entry heap()
{
  .reg .b64 %d<2>;
  {
  .param .b64 n; st.param.b64 [n], 8;
  .param .b64 p;
  call.uni (p), cudaGetParameterBuffer, (n);
  }
  ret;
}
)");
  ASSERT_NE(module, nullptr);
  EXPECT_EQ(module->FindKernel("good")->refusal, "");
  EXPECT_EQ(module->FindKernel("bad")->refusal,
            "'wmma.load.a.sync.aligned.row.m16n16k16.global.f16' at PTX line 15 of 'bad' is not "
            "supported");
  EXPECT_NE(module->FindKernel("heap")->refusal.find("'cudaGetParameterBuffer'"),
            std::string::npos);
  TestDevice device;
  const uint64_t out = device.Allocate(4);
  EXPECT_EQ(RunOn(*module, &device, "good", Arguments().Add(out), {.block = 1}).status,
            Status::kOk);
  const LaunchResult refused = RunOn(*module, &device, "bad", Arguments().Add(out), {.block = 1});
  EXPECT_EQ(refused.status, Status::kUnsupported);
  EXPECT_EQ(ToCudaError(refused.status), 801);
  EXPECT_EQ(RunOn(*module, &device, "none", Arguments().Add(out)).status, Status::kInvalidValue);
}

TEST(Launch, ConfigurationIsChecked) {
  const auto module = Load(Body("ret;"));
  TestDevice device;
  const Arguments arguments = Arguments().Add(uint64_t{0});
  EXPECT_EQ(RunOn(*module, &device, "k", arguments, {.grid = 0}).status, Status::kInvalidValue);
  EXPECT_EQ(RunOn(*module, &device, "k", arguments, {.block = 1025}).status, Status::kInvalidValue);
  EXPECT_EQ(RunOn(*module, &device, "k", arguments, {.shared = kMaxSharedBytes + 1}).status,
            Status::kInvalidValue);
  EXPECT_EQ(RunOn(*module, &device, "k", Arguments(), {}).status, Status::kInvalidValue);
  EXPECT_EQ(RunOn(*module, &device, "k", arguments, {.workers = 0}).status, Status::kInvalidValue);
  EXPECT_EQ(RunOn(*module, nullptr, "k", arguments, {}).status, Status::kInvalidValue);
}

TEST(Launch, InstructionsAreCountedPerThread) {
  const auto module = Load(kHeader +
                           ".visible .entry k()\n{\n .reg .b32 %r<3>;\n mov.u32 %r1, 1;\n add.u32 "
                           "%r2, %r1, %r1;\n ret;\n}\n");
  TestDevice device;
  EXPECT_EQ(RunOn(*module, &device, "k", Arguments(), {.grid = 10, .block = 40}).instructions,
            3u * 400);
}

TEST(Launch, ThreeDimensions) {
  const auto module = Load(kHeader + R"(
.visible .entry k(.param .u64 out)
{
  .reg .b32 %r<16>; .reg .b64 %d<4>;
  ld.param.u64 %d1, [out];
  mov.u32 %r1, %tid.x; mov.u32 %r2, %tid.y; mov.u32 %r3, %tid.z;
  mov.u32 %r4, %ctaid.x; mov.u32 %r5, %ctaid.y; mov.u32 %r6, %ctaid.z;
  mad.lo.u32 %r7, %r6, %nctaid.y, %r5;
  mad.lo.u32 %r7, %r7, %nctaid.x, %r4;
  mad.lo.u32 %r7, %r7, %ntid.z, %r3;
  mad.lo.u32 %r7, %r7, %ntid.y, %r2;
  mad.lo.u32 %r7, %r7, %ntid.x, %r1;
  mul.wide.u32 %d2, %r7, 4;
  add.u64 %d2, %d2, %d1;
  add.u32 %r7, %r7, 1;
  st.global.u32 [%d2], %r7;
  ret;
})");
  TestDevice device;
  const uint64_t out = device.Allocate(2 * 3 * 4 * 5 * 3 * 2 * 4);
  const Arguments arguments = Arguments().Add(out);
  LaunchConfig config;
  const uint32_t grid[] = {2, 3, 4}, block[] = {5, 3, 2};
  std::copy_n(grid, 3, config.grid);
  std::copy_n(block, 3, config.block);
  config.params = arguments.bytes().data();
  config.param_bytes = 8;
  config.memory = &device;
  ASSERT_EQ(module->Launch("k", config).status, Status::kOk);
  const auto words = device.Download<uint32_t>(out, 720);
  for (uint32_t i = 0; i < 720; ++i) EXPECT_EQ(words[i], i + 1);
}

}  // namespace
}  // namespace simgpu::ptx
