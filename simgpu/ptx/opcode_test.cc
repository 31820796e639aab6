// One row per opcode form: PTX text, three inputs, the bits that must come out. Each row runs as a
// full warp (the vector path of the handlers) and as five lanes (the masked path).
#include <cmath>
#include <limits>

#include "simgpu/ptx/opcode_rows.h"
#include "simgpu/ptx/test_device.h"

namespace simgpu::ptx {
namespace {

// Inputs arrive in %d0..%d2 and, cut to size, in %r0..%r2 and %h0..%h2; %p0 is input 0's lowest
// bit. The answer is read from %d9, %r9, %h9 or %p9, as the row's kind says.
struct Row {
  const char* text;
  char kind;
  uint64_t a, b, c;
  uint64_t expected;
};

std::string KernelText(const Row& row) {
  std::string text = kHeader + R"(.visible .entry k(.param .u64 in, .param .u64 out)
{
  .reg .pred %p<16>;
  .reg .b16 %h<16>;
  .reg .b32 %r<16>;
  .reg .b64 %d<16>;
  ld.param.u64 %d14, [in];
  ld.param.u64 %d15, [out];
  ld.global.u64 %d0, [%d14];
  ld.global.u64 %d1, [%d14+8];
  ld.global.u64 %d2, [%d14+16];
  cvt.u32.u64 %r0, %d0; cvt.u32.u64 %r1, %d1; cvt.u32.u64 %r2, %d2;
  cvt.u16.u64 %h0, %d0; cvt.u16.u64 %h1, %d1; cvt.u16.u64 %h2, %d2;
  and.b32 %r15, %r0, 1;
  setp.eq.u32 %p0, %r15, 1;
)";
  text += "  " + std::string(row.text) + "\n";
  switch (row.kind) {
    case 'd':
      text += "  st.global.u64 [%d15], %d9;\n";
      break;
    case 'r':
      text += "  cvt.u64.u32 %d8, %r9;\n  st.global.u64 [%d15], %d8;\n";
      break;
    case 'h':
      text += "  cvt.u64.u16 %d8, %h9;\n  st.global.u64 [%d15], %d8;\n";
      break;
    default:
      text += "  selp.u64 %d8, 1, 0, %p9;\n  st.global.u64 [%d15], %d8;\n";
      break;
  }
  return text + "  ret;\n}\n";
}

constexpr uint64_t kNan32 = 0x7fffffff;
constexpr uint64_t kMinS32 = 0x80000000u;
constexpr uint64_t kDenormal = 0x00000001;  // The smallest positive float.
const float kInf = std::numeric_limits<float>::infinity();

class Opcodes : public testing::TestWithParam<Row> {};

TEST_P(Opcodes, KnownAnswer) {
  const Row& row = GetParam();
  ParseError error;
  const auto module = Module::Parse(KernelText(row), &error);
  ASSERT_NE(module, nullptr) << error.ToString();
  ASSERT_EQ(module->kernels()[0].refusal, "");
  for (uint32_t lanes : {32u, 5u}) {
    TestDevice device;
    const uint64_t in = device.Upload<uint64_t>({row.a, row.b, row.c});
    const uint64_t out = device.Allocate(8);
    const LaunchResult result =
        RunOn(*module, &device, "k", Arguments().Add(in).Add(out), {.block = lanes});
    ASSERT_EQ(result.status, Status::kOk) << result.message;
    const uint64_t found = device.Download<uint64_t>(out, 1)[0];
    EXPECT_EQ(found, row.expected)
        << row.text << std::hex << ": found 0x" << found << ", expected 0x" << row.expected;
  }
}

const Row kInteger[] = {
    {"add.s32 %r9, %r0, %r1;", 'r', 0x7fffffff, 1, 0, kMinS32},
    {"add.u16 %h9, %h0, %h1;", 'h', 0xffff, 2, 0, 1},
    {"add.u64 %d9, %d0, %d1;", 'd', ~0ull, 2, 0, 1},
    {"add.sat.s32 %r9, %r0, %r1;", 'r', 0x7fffffff, 5, 0, 0x7fffffff},
    {"add.sat.s32 %r9, %r0, %r1;", 'r', kMinS32, 0xffffffff, 0, kMinS32},
    {"sub.s32 %r9, %r0, %r1;", 'r', 3, 5, 0, 0xfffffffe},
    {"sub.sat.s32 %r9, %r0, %r1;", 'r', kMinS32, 1, 0, kMinS32},
    {"mul.lo.s32 %r9, %r0, %r1;", 'r', 0x10001, 0x10001, 0, 0x20001},
    {"mul.hi.u32 %r9, %r0, %r1;", 'r', 0xffffffff, 0xffffffff, 0, 0xfffffffe},
    {"mul.hi.s32 %r9, %r0, %r1;", 'r', 0xffffffff, 2, 0, 0xffffffff},
    {"mul.hi.u64 %d9, %d0, %d1;", 'd', ~0ull, ~0ull, 0, 0xfffffffffffffffe},
    {"mul.hi.s64 %d9, %d0, %d1;", 'd', ~0ull, 5, 0, ~0ull},
    {"mul.lo.u16 %h9, %h0, %h1;", 'h', 0xffff, 0xffff, 0, 1},
    {"mul.wide.s16 %r9, %h0, %h1;", 'r', 0xffff, 3, 0, 0xfffffffd},
    {"mul.wide.u32 %d9, %r0, %r1;", 'd', 0xffffffff, 0xffffffff, 0, 0xfffffffe00000001},
    {"mul.wide.s32 %d9, %r0, %r1;", 'd', 0xffffffff, 7, 0, 0xfffffffffffffff9},
    {"mul24.lo.s32 %r9, %r0, %r1;", 'r', 0xffffff, 2, 0, 0xfffffffe},
    {"mul24.hi.u32 %r9, %r0, %r1;", 'r', 0xffffff, 0xffffff, 0, 0xfffffe00 | 0},
    {"mad.lo.s32 %r9, %r0, %r1, %r2;", 'r', 5, 7, 0xffffffff, 34},
    {"mad.hi.u32 %r9, %r0, %r1, %r2;", 'r', 0x80000000, 4, 1, 3},
    {"mad.wide.u32 %d9, %r0, %r1, %d2;", 'd', 0xffffffff, 2, 1, 0x1ffffffff},
    {"mad.wide.s32 %d9, %r0, %r1, %d2;", 'd', 0xffffffff, 2, 1, ~0ull},
    {"mad.lo.u16 %h9, %h0, %h1, %h2;", 'h', 300, 300, 5, (90000 + 5) & 0xffff},
    {"div.s32 %r9, %r0, %r1;", 'r', 0xfffffff9, 2, 0, 0xfffffffd},
    {"div.s32 %r9, %r0, %r1;", 'r', kMinS32, 0xffffffff, 0, kMinS32},
    {"div.u32 %r9, %r0, %r1;", 'r', 7, 0, 0, 0xffffffff},
    {"div.s64 %d9, %d0, %d1;", 'd', 1ull << 63, ~0ull, 0, 1ull << 63},
    {"div.u16 %h9, %h0, %h1;", 'h', 1000, 7, 0, 142},
    {"rem.s32 %r9, %r0, %r1;", 'r', 0xfffffff9, 4, 0, 0xfffffffd},
    {"rem.s32 %r9, %r0, %r1;", 'r', kMinS32, 0xffffffff, 0, 0},
    {"rem.u64 %d9, %d0, %d1;", 'd', 1000000007, 1000, 0, 7},
    {"abs.s32 %r9, %r0;", 'r', kMinS32, 0, 0, kMinS32},
    {"abs.s64 %d9, %d0;", 'd', ~4ull, 0, 0, 5},
    {"neg.s16 %h9, %h0;", 'h', 1, 0, 0, 0xffff},
    {"neg.s32 %r9, %r0;", 'r', kMinS32, 0, 0, kMinS32},
    {"min.s32 %r9, %r0, %r1;", 'r', 0xffffffff, 1, 0, 0xffffffff},
    {"min.u32 %r9, %r0, %r1;", 'r', 0xffffffff, 1, 0, 1},
    {"max.s64 %d9, %d0, %d1;", 'd', ~0ull, 1, 0, 1},
    {"max.u16 %h9, %h0, %h1;", 'h', 0xffff, 1, 0, 0xffff},
    {"sad.s32 %r9, %r0, %r1, %r2;", 'r', 0xfffffffb, 5, 100, 110},
    {"sad.u32 %r9, %r0, %r1, %r2;", 'r', 2, 9, 1, 8},
    {"and.b32 %r9, %r0, 0x0ff0;", 'r', 0x1234, 0, 0, 0x0230},
    {"or.b64 %d9, %d0, %d1;", 'd', 1ull << 40, 5, 0, (1ull << 40) | 5},
    {"xor.b16 %h9, %h0, %h1;", 'h', 0xff00, 0x0ff0, 0, 0xf0f0},
    {"not.b32 %r9, %r0;", 'r', 0x0f0f0f0f, 0, 0, 0xf0f0f0f0},
    {"cnot.b32 %r9, %r0;", 'r', 0, 0, 0, 1},
    {"cnot.b64 %d9, %d0;", 'd', 17, 0, 0, 0},
    {"shl.b32 %r9, %r0, %r1;", 'r', 3, 31, 0, kMinS32},
    {"shl.b32 %r9, %r0, %r1;", 'r', 3, 32, 0, 0},
    {"shl.b64 %d9, %d0, %r1;", 'd', 1, 63, 0, 1ull << 63},
    {"shl.b16 %h9, %h0, %r1;", 'h', 0xffff, 4, 0, 0xfff0},
    {"shr.u32 %r9, %r0, %r1;", 'r', kMinS32, 31, 0, 1},
    {"shr.u32 %r9, %r0, %r1;", 'r', kMinS32, 400, 0, 0},
    {"shr.s32 %r9, %r0, %r1;", 'r', kMinS32, 400, 0, 0xffffffff},
    {"shr.s64 %d9, %d0, %r1;", 'd', 1ull << 63, 62, 0, ~1ull},
    {"shr.s16 %h9, %h0, %r1;", 'h', 0x8000, 15, 0, 0xffff},
    {"bfe.u32 %r9, %r0, 4, 8;", 'r', 0x12345678, 0, 0, 0x67},
    {"bfe.s32 %r9, %r0, 4, 4;", 'r', 0xf0, 0, 0, 0xffffffff},
    {"bfe.s32 %r9, %r0, 24, 16;", 'r', 0x80000000, 0, 0, 0xffffff80},
    {"bfe.u32 %r9, %r0, 24, 16;", 'r', 0x80000000, 0, 0, 0x80},
    {"bfe.u32 %r9, %r0, 4, 0;", 'r', 0xffffffff, 0, 0, 0},
    {"bfe.u64 %d9, %d0, 32, 16;", 'd', 0x1234567890abcdef, 0, 0, 0x5678},
    {"bfe.s64 %d9, %d0, 60, 4;", 'd', 0xf000000000000000, 0, 0, ~0ull},
    {"bfi.b32 %r9, %r0, %r1, 8, 8;", 'r', 0xab, 0xffffffff, 0, 0xffffabff},
    {"bfi.b32 %r9, %r0, %r1, 28, 8;", 'r', 0xff, 0, 0, 0xf0000000},
    {"bfi.b32 %r9, %r0, %r1, 40, 8;", 'r', 0xff, 77, 0, 77},
    {"bfi.b64 %d9, %d0, %d1, 32, 32;", 'd', 0x1234, 0x5678, 0, 0x123400005678},
    {"brev.b32 %r9, %r0;", 'r', 1, 0, 0, kMinS32},
    {"brev.b64 %d9, %d0;", 'd', 3, 0, 0, 0xc000000000000000},
    {"popc.b32 %r9, %r0;", 'r', 0xf0f0f0f0, 0, 0, 16},
    {"popc.b64 %r9, %d0;", 'r', ~0ull, 0, 0, 64},
    {"clz.b32 %r9, %r0;", 'r', 0, 0, 0, 32},
    {"clz.b32 %r9, %r0;", 'r', 1, 0, 0, 31},
    {"clz.b64 %r9, %d0;", 'r', 1ull << 32, 0, 0, 31},
    {"bfind.u32 %r9, %r0;", 'r', 0x100, 0, 0, 8},
    {"bfind.s32 %r9, %r0;", 'r', 0xffffffff, 0, 0, 0xffffffff},
    {"bfind.s32 %r9, %r0;", 'r', 0xfffffff0, 0, 0, 3},
    {"bfind.shiftamt.u32 %r9, %r0;", 'r', 0x100, 0, 0, 23},
    {"bfind.u64 %r9, %d0;", 'r', 1ull << 50, 0, 0, 50},
    {"fns.b32 %r9, %r0, %r1, %r2;", 'r', 0xb4, 0, 2, 4},
    {"fns.b32 %r9, %r0, 7, -1;", 'r', 0x34, 0, 0, 5},
    {"prmt.b32 %r9, %r0, %r1, 0x7531;", 'r', 0x33221100, 0x77665544, 0, 0x77553311},
    {"prmt.b32 %r9, %r0, %r1, 0x000f;", 'r', 0, 0x80000000, 0, 0x000000ff},
    {"prmt.b32.rc8 %r9, %r0, %r1, 2;", 'r', 0x33221100, 0, 0, 0x22222222},
    {"prmt.b32.f4e %r9, %r0, %r1, 1;", 'r', 0x33221100, 0x77665544, 0, 0x44332211},
    {"prmt.b32.b4e %r9, %r0, %r1, 1;", 'r', 0x33221100, 0x77665544, 0, 0x66770011},
    {"prmt.b32.ecl %r9, %r0, %r1, 2;", 'r', 0x33221100, 0, 0, 0x33222222},
    {"prmt.b32.ecr %r9, %r0, %r1, 1;", 'r', 0x33221100, 0, 0, 0x11111100},
    {"prmt.b32.rc16 %r9, %r0, %r1, 1;", 'r', 0x33221100, 0, 0, 0x33223322},
    {"lop3.b32 %r9, %r0, %r1, %r2, 0x96;", 'r', 0xf0f0, 0xff00, 0x0ff0, 0xf0f0 ^ 0xff00 ^ 0x0ff0},
    {"lop3.b32 %r9, %r0, %r1, %r2, 0xe8;", 'r', 0xf0f0, 0xff00, 0x0ff0, 0xfff0},
    {"shf.l.wrap.b32 %r9, %r0, %r1, %r2;", 'r', 0x80000000, 1, 33, 3},
    {"shf.l.clamp.b32 %r9, %r0, %r1, %r2;", 'r', 0x80000001, 1, 33, 0x80000001},
    {"shf.r.wrap.b32 %r9, %r0, %r1, 4;", 'r', 0x10, 0xf, 0, 0xf0000001},
    {"shf.r.clamp.b32 %r9, %r0, %r1, 64;", 'r', 0x10, 0xf, 0, 0xf},
    {"bmsk.clamp.b32 %r9, %r0, %r1;", 'r', 4, 8, 0, 0xff0},
    {"bmsk.clamp.b32 %r9, %r0, %r1;", 'r', 0, 40, 0, 0xffffffff},
    {"bmsk.wrap.b32 %r9, %r0, %r1;", 'r', 33, 33, 0, 2},
    {"szext.clamp.s32 %r9, %r0, %r1;", 'r', 0xff, 8, 0, 0xffffffff},
    {"szext.wrap.u32 %r9, %r0, %r1;", 'r', 0xffff, 40, 0, 0xff},
    {"dp4a.s32.s32 %r9, %r0, %r1, %r2;", 'r', 0xff02ff02, 0x01010101, 10, 12},
    {"dp4a.u32.u32 %r9, %r0, %r1, %r2;", 'r', 0xff000001, 0x02000003, 1, 514},
    {"selp.b32 %r9, %r1, %r2, %p0;", 'r', 1, 11, 22, 11},
    {"selp.b64 %d9, %d1, %d2, %p0;", 'd', 0, 11, 22, 22},
    {"selp.b16 %h9, %h1, %h2, !%p0;", 'h', 0, 11, 22, 11},
    {"slct.s32.s32 %r9, %r0, %r1, %r2;", 'r', 1, 2, 0xffffffff, 2},
    {"slct.u64.f32 %d9, %d0, %d1, %r2;", 'd', 1, 2, 0x80000000, 1},
    {"add.cc.u32 %r9, %r0, %r1; addc.u32 %r9, %r2, 0;", 'r', 0xffffffff, 1, 5, 6},
    {"add.cc.u64 %d8, %d0, %d1; addc.cc.u64 %d8, %d0, 0; addc.u64 %d9, %d2, 0;", 'd', ~0ull, 1, 5,
     6},
    {"sub.cc.u32 %r8, %r0, %r1; subc.u32 %r9, %r2, 0;", 'r', 1, 2, 5, 4},
    {"mad.lo.cc.u32 %r8, %r0, %r1, %r2; madc.hi.u32 %r9, %r0, %r1, 0;", 'r', 0xffffffff, 0xffffffff,
     0xffffffff, 0xffffffff},
    {"mov.b64 %d9, {%r0, %r1};", 'd', 0x11111111, 0x22222222, 0, 0x2222222211111111},
    {"mov.b64 {%r8, %r9}, %d0;", 'r', 0x2222222211111111, 0, 0, 0x22222222},
    {"mov.b64 {_, %r9}, %d0;", 'r', 0x2222222211111111, 0, 0, 0x22222222},
    {"mov.b32 %r9, {%h0, %h1};", 'r', 0x1111, 0x2222, 0, 0x22221111},
    {"mov.b32 {%h8, %h9}, %r0;", 'h', 0x22221111, 0, 0, 0x2222},
    {"mov.b64 {%h6, %h7, %h8, %h9}, %d0;", 'h', 0x4444333322221111, 0, 0, 0x4444},
    {"mov.u32 %r9, WARP_SZ;", 'r', 0, 0, 0, 32},
    {"mov.u32 %r9, -1;", 'r', 0, 0, 0, 0xffffffff},
    {"mov.u32 %r9, 0b101;", 'r', 0, 0, 0, 5},
    {"mov.u32 %r9, 017;", 'r', 0, 0, 0, 15},
    {"mov.pred %p1, %p0; selp.u32 %r9, 1, 2, %p1;", 'r', 1, 0, 0, 1},
};

const Row kCompare[] = {
    {"setp.lt.s32 %p9, %r0, %r1;", 'p', 0xffffffff, 0, 0, 1},
    {"setp.lo.u32 %p9, %r0, %r1;", 'p', 0xffffffff, 0, 0, 0},
    {"setp.lt.u32 %p9, %r0, %r1;", 'p', 0xffffffff, 0, 0, 0},
    {"setp.ge.s64 %p9, %d0, %d1;", 'p', ~0ull, 0, 0, 0},
    {"setp.hi.u64 %p9, %d0, %d1;", 'p', ~0ull, 0, 0, 1},
    {"setp.ne.b16 %p9, %h0, %h1;", 'p', 0x10000, 0, 0, 0},
    {"setp.le.s16 %p9, %h0, %h1;", 'p', 0x8000, 0x7fff, 0, 1},
    {"setp.eq.f32 %p9, %r0, %r1;", 'p', F(-0.0f), F(0.0f), 0, 1},
    {"setp.eq.f32 %p9, %r0, %r1;", 'p', kNan32, kNan32, 0, 0},
    {"setp.ne.f32 %p9, %r0, %r1;", 'p', kNan32, F(1), 0, 0},
    {"setp.neu.f32 %p9, %r0, %r1;", 'p', kNan32, F(1), 0, 1},
    {"setp.ltu.f32 %p9, %r0, %r1;", 'p', kNan32, F(1), 0, 1},
    {"setp.gtu.f32 %p9, %r0, %r1;", 'p', F(0), F(1), 0, 0},
    {"setp.num.f32 %p9, %r0, %r1;", 'p', F(0), kNan32, 0, 0},
    {"setp.nan.f64 %p9, %d0, %d1;", 'p', D(NAN), D(1), 0, 1},
    {"setp.gt.f64 %p9, %d0, %d1;", 'p', D(2), D(1), 0, 1},
    {"setp.gt.ftz.f32 %p9, %r0, %r1;", 'p', kDenormal, 0, 0, 0},
    {"setp.gt.f32 %p9, %r0, %r1;", 'p', kDenormal, 0, 0, 1},
    {"setp.lt.f16 %p9, %h0, %h1;", 'p', 0xbc00, 0x3c00, 0, 1},
    {"setp.lt.and.s32 %p9, %r1, %r2, %p0;", 'p', 1, 1, 2, 1},
    {"setp.lt.and.s32 %p9, %r1, %r2, !%p0;", 'p', 1, 1, 2, 0},
    {"setp.lt.or.s32 %p9, %r1, %r2, %p0;", 'p', 1, 3, 2, 1},
    {"setp.lt.xor.s32 %p9, %r1, %r2, %p0;", 'p', 1, 1, 2, 0},
    {"setp.lt.s32 %p8|%p9, %r0, %r1;", 'p', 1, 2, 0, 0},
    {"setp.lt.and.s32 %p8|%p9, %r1, %r2, %p0;", 'p', 1, 3, 2, 1},
    {"setp.lt.s32 %p9|_, %r0, %r1;", 'p', 1, 2, 0, 1},
    {"set.lt.u32.s32 %r9, %r0, %r1;", 'r', 1, 2, 0, 0xffffffff},
    {"set.gt.f32.f32 %r9, %r0, %r1;", 'r', F(2), F(1), 0, F(1)},
    {"testp.finite.f32 %p9, %r0;", 'p', F(kInf), 0, 0, 0},
    {"testp.subnormal.f32 %p9, %r0;", 'p', kDenormal, 0, 0, 1},
    {"testp.notanumber.f64 %p9, %d0;", 'p', D(NAN), 0, 0, 1},
    {"not.pred %p9, %p0;", 'p', 1, 0, 0, 0},
    {"setp.eq.u32 %p1, %r1, 5; and.pred %p9, %p0, %p1;", 'p', 1, 5, 0, 1},
    {"setp.eq.u32 %p1, %r1, 5; xor.pred %p9, %p0, %p1;", 'p', 1, 5, 0, 0},
    {"isspacep.global %p9, %d0;", 'p', 0x7f0000000000, 0, 0, 1},
    {"isspacep.shared %p9, %d0;", 'p', kSharedWindow + 4, 0, 0, 1},
    {"isspacep.local %p9, %d0;", 'p', kSharedWindow + 4, 0, 0, 0},
};

const Row kFloat[] = {
    {"add.f32 %r9, %r0, %r1;", 'r', F(1.5f), F(2.25f), 0, F(3.75f)},
    {"add.f32 %r9, %r0, %r1;", 'r', F(kInf), F(-kInf), 0, kNan32},
    {"add.rn.f32 %r9, %r0, %r1;", 'r', F(1), F(0x1p-24f), 0, F(1)},
    {"add.rz.f32 %r9, %r0, %r1;", 'r', F(-1), F(-0x1p-30f), 0, F(-1)},
    {"add.rp.f32 %r9, %r0, %r1;", 'r', F(1), F(0x1p-30f), 0, F(1) + 1},
    {"add.rm.f32 %r9, %r0, %r1;", 'r', F(-1), F(-0x1p-30f), 0, F(-1) + 1},
    {"add.ftz.f32 %r9, %r0, %r1;", 'r', kDenormal, 0, 0, 0},
    {"add.f32 %r9, %r0, %r1;", 'r', kDenormal, kDenormal, 0, 2},
    {"add.sat.f32 %r9, %r0, %r1;", 'r', F(0.75f), F(0.75f), 0, F(1)},
    {"add.sat.f32 %r9, %r0, %r1;", 'r', kNan32, F(0.75f), 0, 0},
    {"add.f64 %d9, %d0, %d1;", 'd', D(0.1), D(0.2), 0, D(0.1 + 0.2)},
    {"add.rp.f64 %d9, %d0, %d1;", 'd', D(1), D(0x1p-60), 0, D(1) + 1},
    {"sub.f32 %r9, %r0, %r1;", 'r', F(1), F(3), 0, F(-2)},
    {"sub.rz.f64 %d9, %d0, %d1;", 'd', D(1), D(0x1p-60), 0, D(1) - 1},
    {"mul.f32 %r9, %r0, %r1;", 'r', F(1e30f), F(1e30f), 0, F(kInf)},
    {"mul.rz.f32 %r9, %r0, %r1;", 'r', F(1e30f), F(1e30f), 0, 0x7f7fffff},
    {"mul.rm.f32 %r9, %r0, %r1;", 'r', F(-1e30f), F(1e30f), 0, F(-kInf)},
    {"mul.f32 %r9, %r0, %r1;", 'r', F(0), F(kInf), 0, kNan32},
    {"mul.ftz.f32 %r9, %r0, %r1;", 'r', F(-0x1p-100f), F(0x1p-40f), 0, 0x80000000},
    {"mul.rn.f64 %d9, %d0, %d1;", 'd', D(1.1), D(1.1), 0, D(1.1 * 1.1)},
    {"fma.rn.f32 %r9, %r0, %r1, %r2;", 'r', F(1 + 0x1p-12f), F(1 + 0x1p-12f), F(-1),
     F(0x1p-11f + 0x1p-24f)},
    {"fma.rz.f32 %r9, %r0, %r1, %r2;", 'r', F(1), F(1), F(-0x1p-30f), F(1) - 1},
    {"fma.rn.ftz.f32 %r9, %r0, %r1, %r2;", 'r', F(1), kDenormal, F(2), F(2)},
    {"fma.rn.f64 %d9, %d0, %d1, %d2;", 'd', D(1 + 0x1p-30), D(1 + 0x1p-30), D(-1),
     D(0x1p-29 + 0x1p-60)},
    {"fma.rn.f32 %r9, %r0, %r1, %r2;", 'r', F(kInf), F(0), F(1), kNan32},
    {"mad.rn.f32 %r9, %r0, %r1, %r2;", 'r', F(2), F(3), F(4), F(10)},
    {"div.rn.f32 %r9, %r0, %r1;", 'r', F(1), F(3), 0, F(1.0f / 3.0f)},
    {"div.rz.f32 %r9, %r0, %r1;", 'r', F(1), F(3), 0, 0x3eaaaaaa},
    {"div.approx.ftz.f32 %r9, %r0, %r1;", 'r', F(1), F(4), 0, F(0.25f)},
    {"div.full.f32 %r9, %r0, %r1;", 'r', F(10), F(4), 0, F(2.5f)},
    {"div.rn.f32 %r9, %r0, %r1;", 'r', F(1), 0x80000000, 0, F(-kInf)},
    {"div.rn.f64 %d9, %d0, %d1;", 'd', D(1), D(3), 0, D(1.0 / 3.0)},
    {"div.rp.f64 %d9, %d0, %d1;", 'd', D(1), D(3), 0, D(1.0 / 3.0) + 1},
    {"rcp.rn.f32 %r9, %r0;", 'r', F(8), 0, 0, F(0.125f)},
    {"rcp.approx.ftz.f32 %r9, %r0;", 'r', kDenormal, 0, 0, F(kInf)},
    {"rcp.rn.f64 %d9, %d0;", 'd', D(3), 0, 0, D(1.0 / 3.0)},
    {"sqrt.rn.f32 %r9, %r0;", 'r', F(2), 0, 0, F(std::sqrt(2.0f))},
    {"sqrt.rm.f32 %r9, %r0;", 'r', F(2), 0, 0, 0x3fb504f3},
    {"sqrt.rp.f32 %r9, %r0;", 'r', F(2), 0, 0, 0x3fb504f4},
    {"sqrt.rn.f32 %r9, %r0;", 'r', F(-1), 0, 0, kNan32},
    {"sqrt.approx.f32 %r9, %r0;", 'r', F(16), 0, 0, F(4)},
    {"sqrt.rn.f64 %d9, %d0;", 'd', D(2), 0, 0, D(std::sqrt(2.0))},
    {"rsqrt.approx.f32 %r9, %r0;", 'r', F(16), 0, 0, F(0.25f)},
    {"rsqrt.approx.f64 %d9, %d0;", 'd', D(16), 0, 0, D(0.25)},
    {"ex2.approx.f32 %r9, %r0;", 'r', F(10), 0, 0, F(1024)},
    {"ex2.approx.ftz.f32 %r9, %r0;", 'r', F(-140), 0, 0, 0},
    {"lg2.approx.f32 %r9, %r0;", 'r', F(1024), 0, 0, F(10)},
    {"lg2.approx.f32 %r9, %r0;", 'r', F(0), 0, 0, F(-kInf)},
    {"sin.approx.f32 %r9, %r0;", 'r', F(0), 0, 0, F(0)},
    {"cos.approx.f32 %r9, %r0;", 'r', F(0), 0, 0, F(1)},
    {"sin.approx.f32 %r9, %r0;", 'r', F(kInf), 0, 0, kNan32},
    {"tanh.approx.f32 %r9, %r0;", 'r', F(100), 0, 0, F(1)},
    {"neg.f32 %r9, %r0;", 'r', 0x7fc12345, 0, 0, 0xffc12345},
    {"neg.f64 %d9, %d0;", 'd', D(0.0), 0, 0, D(-0.0)},
    {"abs.f32 %r9, %r0;", 'r', F(-2), 0, 0, F(2)},
    {"abs.ftz.f32 %r9, %r0;", 'r', 0x80000001, 0, 0, 0},
    {"abs.f64 %d9, %d0;", 'd', D(-2), 0, 0, D(2)},
    {"min.f32 %r9, %r0, %r1;", 'r', kNan32, F(5), 0, F(5)},
    {"min.NaN.f32 %r9, %r0, %r1;", 'r', kNan32, F(5), 0, kNan32},
    {"min.f32 %r9, %r0, %r1;", 'r', F(0), F(-0.0f), 0, F(-0.0f)},
    {"max.f32 %r9, %r0, %r1;", 'r', F(-0.0f), F(0), 0, F(0)},
    {"max.f32 %r9, %r0, %r1;", 'r', kNan32, kNan32, 0, kNan32},
    {"max.f64 %d9, %d0, %d1;", 'd', D(1), D(2), 0, D(2)},
    {"copysign.f32 %r9, %r0, %r1;", 'r', F(-1), F(3), 0, F(-3)},
    {"mov.f32 %r9, 0f3F800000;", 'r', 0, 0, 0, F(1)},
    {"mov.f64 %d9, 0d4000000000000000;", 'd', 0, 0, 0, D(2)},
    {"mov.f32 %r9, 1.5;", 'r', 0, 0, 0, F(1.5f)},
    {"add.f64 %d9, %d0, -2.5e-1;", 'd', D(1), 0, 0, D(0.75)},
    {"add.f16 %h9, %h0, %h1;", 'h', 0x3c00, 0x3c00, 0, 0x4000},
    {"add.f16 %h9, %h0, %h1;", 'h', 0x7bff, 0x7bff, 0, 0x7c00},
    {"mul.f16 %h9, %h0, %h1;", 'h', 0x0001, 0x3800, 0, 0},
    {"mul.f16 %h9, %h0, %h1;", 'h', 0x0003, 0x3800, 0, 2},
    {"fma.rn.f16 %h9, %h0, %h1, %h2;", 'h', 0x3c01, 0x3c01, 0xbc00, 0x1800},
    {"sub.f16x2 %r9, %r0, %r1;", 'r', 0x40003c00, 0x3c003c00, 0, 0x3c000000},
    {"fma.rn.f16x2 %r9, %r0, %r1, %r2;", 'r', 0x40003c00, 0x40003c00, 0x3c003c00, 0x45004000},
    {"fma.rn.bf16 %h9, %h0, %h1, %h2;", 'h', 0x3f80, 0x4000, 0x3f80, 0x4040},
    {"neg.f16 %h9, %h0;", 'h', 0x3c00, 0, 0, 0xbc00},
    {"abs.f16x2 %r9, %r0;", 'r', 0xbc00bc00, 0, 0, 0x3c003c00},
    {"max.f16 %h9, %h0, %h1;", 'h', 0x7e00, 0x3c00, 0, 0x3c00},
};

const Row kConvert[] = {
    {"cvt.s32.s8 %r9, %r0;", 'r', 0x180, 0, 0, 0xffffff80},
    {"cvt.u32.u8 %r9, %r0;", 'r', 0x180, 0, 0, 0x80},
    {"cvt.s64.s32 %d9, %r0;", 'd', 0xffffffff, 0, 0, ~0ull},
    {"cvt.u64.u32 %d9, %r0;", 'd', 0xffffffff, 0, 0, 0xffffffff},
    {"cvt.u16.u32 %h9, %r0;", 'h', 0x12345, 0, 0, 0x2345},
    {"cvt.s16.s8 %h9, %h0;", 'h', 0xff, 0, 0, 0xffff},
    {"cvt.sat.u8.s32 %r9, %r0;", 'r', 0xffffffff, 0, 0, 0},
    {"cvt.sat.s8.s32 %r9, %r0;", 'r', 1000, 0, 0, 127},
    {"cvt.sat.s32.u32 %r9, %r0;", 'r', 0xffffffff, 0, 0, 0x7fffffff},
    {"cvt.sat.u32.s64 %r9, %d0;", 'r', 1ull << 40, 0, 0, 0xffffffff},
    {"cvt.u32.u64 %r9, %d0;", 'r', 0x123456789, 0, 0, 0x23456789},
    {"cvt.rzi.s32.f32 %r9, %r0;", 'r', F(-2.9f), 0, 0, 0xfffffffe},
    {"cvt.rni.s32.f32 %r9, %r0;", 'r', F(2.5f), 0, 0, 2},
    {"cvt.rni.s32.f32 %r9, %r0;", 'r', F(3.5f), 0, 0, 4},
    {"cvt.rmi.s32.f32 %r9, %r0;", 'r', F(-2.1f), 0, 0, 0xfffffffd},
    {"cvt.rpi.s32.f32 %r9, %r0;", 'r', F(2.1f), 0, 0, 3},
    {"cvt.rzi.s32.f32 %r9, %r0;", 'r', F(3e9f), 0, 0, 0x7fffffff},
    {"cvt.rzi.u32.f32 %r9, %r0;", 'r', F(-5.0f), 0, 0, 0},
    {"cvt.rzi.u32.f32 %r9, %r0;", 'r', F(4294967040.0f), 0, 0, 0xffffff00},
    {"cvt.rzi.s32.f32 %r9, %r0;", 'r', kNan32, 0, 0, 0},
    {"cvt.rzi.s64.f64 %d9, %d0;", 'd', D(NAN), 0, 0, 1ull << 63},
    {"cvt.rzi.s64.f64 %d9, %d0;", 'd', D(1e19), 0, 0, 0x7fffffffffffffff},
    {"cvt.rzi.u64.f64 %d9, %d0;", 'd', D(1e19), 0, 0, 10000000000000000000ull},
    {"cvt.rzi.ftz.s32.f32 %r9, %r0;", 'r', F(7.5f), 0, 0, 7},
    {"cvt.rzi.u8.f32 %r9, %r0;", 'r', F(300), 0, 0, 255},
    {"cvt.rn.f32.s32 %r9, %r0;", 'r', 0xffffffff, 0, 0, F(-1)},
    {"cvt.rn.f32.u32 %r9, %r0;", 'r', 0xffffffff, 0, 0, F(4294967296.0f)},
    {"cvt.rz.f32.u32 %r9, %r0;", 'r', 0xffffffff, 0, 0, 0x4f7fffff},
    {"cvt.rn.f32.s32 %r9, %r0;", 'r', 16777217, 0, 0, F(16777216.0f)},
    {"cvt.rp.f32.s32 %r9, %r0;", 'r', 16777217, 0, 0, F(16777218.0f)},
    {"cvt.rn.f32.u64 %r9, %d0;", 'r', ~0ull, 0, 0, F(0x1p64f)},
    {"cvt.rn.f64.s32 %d9, %r0;", 'd', 0xfffffffd, 0, 0, D(-3)},
    {"cvt.rn.f64.u64 %d9, %d0;", 'd', ~0ull, 0, 0, D(0x1p64)},
    {"cvt.rz.f64.u64 %d9, %d0;", 'd', ~0ull, 0, 0, D(0x1p64) - 1},
    {"cvt.rn.f32.u16 %r9, %h0;", 'r', 65535, 0, 0, F(65535)},
    {"cvt.rn.f32.s8 %r9, %r0;", 'r', 0xff, 0, 0, F(-1)},
    {"cvt.f64.f32 %d9, %r0;", 'd', F(1.1f), 0, 0, D(static_cast<double>(1.1f))},
    {"cvt.rn.f32.f64 %r9, %d0;", 'r', D(1 + 0x1p-24), 0, 0, F(1)},
    {"cvt.rp.f32.f64 %r9, %d0;", 'r', D(1 + 0x1p-40), 0, 0, F(1) + 1},
    {"cvt.rz.f32.f64 %r9, %d0;", 'r', D(1e300), 0, 0, 0x7f7fffff},
    {"cvt.rn.f32.f64 %r9, %d0;", 'r', D(1e300), 0, 0, F(kInf)},
    {"cvt.rni.f32.f32 %r9, %r0;", 'r', F(2.5f), 0, 0, F(2)},
    {"cvt.rzi.f32.f32 %r9, %r0;", 'r', F(-2.7f), 0, 0, F(-2)},
    {"cvt.rmi.f64.f64 %d9, %d0;", 'd', D(-2.1), 0, 0, D(-3)},
    {"cvt.sat.f32.f32 %r9, %r0;", 'r', F(1.5f), 0, 0, F(1)},
    {"cvt.ftz.f32.f32 %r9, %r0;", 'r', 0x80000001, 0, 0, 0x80000000},
    {"cvt.f32.f16 %r9, %h0;", 'r', 0x3555, 0, 0, 0x3eaaa000},
    {"cvt.f32.f16 %r9, %h0;", 'r', 0x0001, 0, 0, F(0x1p-24f)},
    {"cvt.f32.f16 %r9, %h0;", 'r', 0xfc00, 0, 0, F(-kInf)},
    {"cvt.rn.f16.f32 %h9, %r0;", 'h', F(1 + 0x1p-11f), 0, 0, 0x3c00},
    {"cvt.rn.f16.f32 %h9, %r0;", 'h', F(1 + 0x1p-11f + 0x1p-20f), 0, 0, 0x3c01},
    {"cvt.rz.f16.f32 %h9, %r0;", 'h', F(1e6f), 0, 0, 0x7bff},
    {"cvt.rn.f16.f32 %h9, %r0;", 'h', F(65520.0f), 0, 0, 0x7c00},
    {"cvt.rn.f16.f32 %h9, %r0;", 'h', F(0x1p-25f), 0, 0, 0},
    {"cvt.rn.f16.f32 %h9, %r0;", 'h', F(0x1.8p-25f), 0, 0, 1},
    {"cvt.rn.f16.f32 %h9, %r0;", 'h', kNan32, 0, 0, 0x7fff},
    {"cvt.rn.f16.f64 %h9, %d0;", 'h', D(-2), 0, 0, 0xc000},
    {"cvt.rn.f16.s32 %h9, %r0;", 'h', 2049, 0, 0, 0x6800},
    {"cvt.rzi.s32.f16 %r9, %h0;", 'r', 0xc100, 0, 0, 0xfffffffe},
    {"cvt.rn.bf16.f32 %h9, %r0;", 'h', 0x3f808000, 0, 0, 0x3f80},
    {"cvt.rn.bf16.f32 %h9, %r0;", 'h', 0x3f818000, 0, 0, 0x3f82},
    {"cvt.f32.bf16 %r9, %h0;", 'r', 0xc040, 0, 0, F(-3)},
    {"cvt.rn.f16x2.f32 %r9, %r0, %r1;", 'r', F(2), F(1), 0, 0x40003c00},
    {"cvt.rn.bf16x2.f32 %r9, %r0, %r1;", 'r', F(2), F(1), 0, 0x40003f80},
    {"cvt.u64.u8 %d9, %d0;", 'd', 0x1ff, 0, 0, 0xff},
};

INSTANTIATE_TEST_SUITE_P(Integer, Opcodes, testing::ValuesIn(kInteger));
INSTANTIATE_TEST_SUITE_P(Compare, Opcodes, testing::ValuesIn(kCompare));
INSTANTIATE_TEST_SUITE_P(Float, Opcodes, testing::ValuesIn(kFloat));
INSTANTIATE_TEST_SUITE_P(Convert, Opcodes, testing::ValuesIn(kConvert));

}  // namespace

std::vector<std::string> OpcodeRowTexts() {
  std::vector<std::string> texts;
  for (const Row& row : kInteger) texts.emplace_back(row.text);
  for (const Row& row : kCompare) texts.emplace_back(row.text);
  for (const Row& row : kFloat) texts.emplace_back(row.text);
  for (const Row& row : kConvert) texts.emplace_back(row.text);
  return texts;
}

}  // namespace simgpu::ptx
