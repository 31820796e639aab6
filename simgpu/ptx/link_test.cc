// Several PTX texts made one: what is shared, what stays apart, what is refused.
#include "simgpu/ptx/link.h"

#include "simgpu/ptx/test_device.h"

namespace simgpu::ptx {
namespace {

const std::string kMain = kHeader + R"(
.extern .func (.param .b32 result) scale (.param .b32 x);
.extern .global .align 4 .u32 factor;
.extern .shared .align 4 .b8 dynamic[];
.global .align 1 .b8 $str[3] = {65, 66, 0};
.weak .func (.param .b32 result) inlined(.param .b32 x)
{ .reg .b32 %r<2>; ld.param.b32 %r1, [x]; add.u32 %r1, %r1, 1; st.param.b32 [result], %r1; ret; }
.visible .entry k(.param .u64 k_param_0)
{
  .reg .b32 %r<8>; .reg .b64 %d<4>;
  ld.param.u64 %d1, [k_param_0];
  mov.u32 %r1, 5;
  {
  .param .b32 x; .param .b32 y;
  st.param.b32 [x], %r1;
  call.uni (y), scale, (x);
  ld.param.b32 %r2, [y];
  }
  {
  .param .b32 x; .param .b32 y;
  st.param.b32 [x], %r2;
  call.uni (y), inlined, (x);
  ld.param.b32 %r2, [y];
  }
  ld.global.u32 %r3, [factor];
  ld.global.s8 %r4, [$str];
  st.global.u32 [%d1], %r2;
  st.global.u32 [%d1+4], %r3;
  st.global.u32 [%d1+8], %r4;
  ret;
}
)";

const std::string kLibrary = R"(.version 9.0
.target sm_75, debug
.address_size 64
	.file	1 "library.cu"
.visible .global .align 4 .u32 factor = 7;
.global .align 1 .b8 $str[3] = {67, 68, 0};
.extern .func (.param .b32 result) vprintf (.param .b64 f, .param .b64 a);
.weak .func (.param .b32 result) inlined(.param .b32 x)
{ .reg .b32 %r<2>; ld.param.b32 %r1, [x]; add.u32 %r1, %r1, 1; st.param.b32 [result], %r1; ret; }
.func (.param .b32 result) times(.param .b32 x)
{
  .reg .b32 %r<4>;
  ld.param.b32 %r1, [x]; ld.global.u32 %r2, [factor];
  mul.lo.u32 %r1, %r1, %r2; st.param.b32 [result], %r1; ret;
}
.visible .func (.param .b32 result) scale(.param .b32 x)
{
  .reg .b32 %r<4>;
  ld.param.b32 %r1, [x];
  {
  .param .b32 a; .param .b32 b;
  st.param.b32 [a], %r1;
  call.uni (b), times, (a);
  ld.param.b32 %r1, [b];
  }
  ld.global.s8 %r2, [$str];
  add.u32 %r1, %r1, %r2;
  st.param.b32 [result], %r1; ret;
}
)";

TEST(Link, ResolvesSharesAndKeepsApart) {
  for (const bool swapped : {false, true}) {
    std::vector<LinkInput> inputs = {{"main", kMain}, {"library", kLibrary}};
    if (swapped) std::swap(inputs[0], inputs[1]);
    std::string merged, why;
    ASSERT_TRUE(Link(inputs, &merged, &why)) << why;
    const auto module = Load(merged);
    ASSERT_NE(module, nullptr) << merged;
    EXPECT_EQ(module->version(), 90);
    EXPECT_EQ(module->target(), 80);
    ASSERT_NE(module->FindKernel("k"), nullptr);
    EXPECT_EQ(module->FindKernel("k")->refusal, "");
    TestDevice device;
    Place(module.get(), &device);
    const uint64_t out = device.Allocate(12);
    const LaunchResult result = RunOn(*module, &device, "k", Arguments().Add(out), {.block = 1});
    ASSERT_EQ(result.status, Status::kOk) << result.message;
    EXPECT_EQ(device.Download<uint32_t>(out, 3), (std::vector<uint32_t>{5 * 7 + 67 + 1, 7, 65}));
  }
}

TEST(Link, NamesWhatIsMissingOrDouble) {
  std::string merged, why;
  EXPECT_FALSE(Link({{"main", kMain}}, &merged, &why));
  EXPECT_EQ(why, "undefined reference to 'scale' in 'main'");
  EXPECT_FALSE(Link({{"a", kLibrary}, {"b", kLibrary}}, &merged, &why));
  EXPECT_EQ(why, "symbol 'factor' is defined in 'a' and in 'b'");
  EXPECT_FALSE(Link({{"a", kLibrary}, {"b", "hello"}}, &merged, &why));
  EXPECT_NE(why.find("ptx error in 'b'"), std::string::npos) << why;
  EXPECT_FALSE(Link({}, &merged, &why));
  EXPECT_FALSE(why.empty());
}

// A strong definition wins over a weak one, wherever it stands.
TEST(Link, StrongBeatsWeak) {
  const auto module_with = [](const char* linkage, int value) {
    return kHeader + linkage + " .global .u32 x = " + std::to_string(value) + ";\n";
  };
  for (const auto& [first, second] : {std::pair(".weak", ".visible"), {".visible", ".weak"}}) {
    const std::string a = module_with(first, 1), b = module_with(second, 2);
    std::string merged, why;
    ASSERT_TRUE(Link({{"a", a}, {"b", b}}, &merged, &why)) << why;
    const auto module = Load(merged);
    ASSERT_NE(module, nullptr);
    ASSERT_EQ(module->globals().size(), 1u);
    EXPECT_EQ(module->InitialImage(0)[0], std::string(first) == ".visible" ? 1 : 2);
  }
}

}  // namespace
}  // namespace simgpu::ptx
