// Mutated kernels: parsing and running them must end, in bounds and in budget, whatever the text
// says; and so must unpacking damaged images. Deterministic: the seed is printed and fixed unless
// SIMGPU_FUZZ_SEED says otherwise. TESSERA_SOAK, a number of inputs, makes it longer.
#include <cstdlib>
#include <iostream>
#include <random>

#include "simgpu/kernels/demo_kernels.h"
#include "simgpu/ptx/link.h"
#include "simgpu/ptx/test_device.h"

namespace simgpu::ptx {
namespace {

uint64_t FromEnvironment(const char* name, uint64_t fallback) {
  const char* text = std::getenv(name);
  return text == nullptr ? fallback : std::strtoull(text, nullptr, 10);
}

const char kExtra[] = R"(
.global .align 8 .u64 cell = 5;
.const .align 4 .u32 table[4] = {1, 2, 3, 4};
.func (.param .b32 result) twice(.param .b32 n)
{
  .reg .b32 %r<4>;
  ld.param.u32 %r1, [n];
  add.u32 %r1, %r1, %r1;
  st.param.b32 [result], %r1;
  ret;
}
.visible .entry mixed(.param .u64 a, .param .u64 b, .param .u64 c, .param .u64 d, .param .u64 e)
{
  .reg .pred %p<4>; .reg .b16 %h<4>; .reg .b32 %r<12>; .reg .b64 %d<8>;
  .local .align 8 .b8 depot[64];
  .shared .align 8 .b8 tile[256];
  ld.param.u64 %d1, [a];
  mov.u32 %r1, %tid.x;
  mov.u64 %d2, depot; cvta.local.u64 %d3, %d2;
  st.u32 [%d3+4], %r1;
  ld.local.u32 %r2, [%d2+4];
  setp.lt.s32 %p1|%p2, %r1, 9;
  @%p1 bra A;
  shfl.sync.bfly.b32 %r3|%p3, %r1, 1, 31, 0xfffffe00;
  bar.red.popc.u32 %r4, 1, %p3;
  bra B;
A:
  bar.red.popc.u32 %r4, 1, %p1;
B:
  {
    .reg .b32 %r<3>;
    .param .b32 x; .param .b32 y;
    st.param.b32 [x], %r1;
    call.uni (y), twice, (x);
    ld.param.b32 %r1, [y];
  }
  atom.global.cas.b64 %d4, [cell], 5, 6;
  ld.const.u32 %r5, [table+8];
  cvt.rn.f32.s32 %r6, %r5;
  sqrt.rz.f32 %r7, %r6;
  bfe.s32 %r8, %r7, %r1, 7;
  mov.b64 %d5, {%r7, %r8};
  shl.b32 %r9, %r1, 3;
  mov.u32 %r10, tile; add.u32 %r9, %r9, %r10;
  st.shared.b64 [%r9], %d5;
  vote.sync.ballot.b32 %r11, %p1, -1;
  bar.warp.sync -1;
  mov.u64 %d6, twice;
  {
    .param .b32 x; .param .b32 y;
    st.param.b32 [x], %r1;
    call (y), %d6, (x), prototype;
    prototype: .callprototype (.param .b32 _) _ (.param .b32 _);
  }
  mbarrier.init.shared.b64 [tile], 48;
  cp.async.ca.shared.global [tile+16], [%d1], 8, 4;
  mbarrier.arrive.shared.b64 %d7, [tile];
  mbarrier.test_wait.shared.b64 %p1, [tile], %d7;
  fma.rn.relu.f16x2 %r1, %r2, %r3, %r4;
  vabsdiff4.u32.u32.u32.add %r1, %r2, %r3, %r4;
  nanosleep.u32 1;
  ret;
}
)";

constexpr const char* kBreaks = " \t\n,;(){}[]";

class Mutator {
 public:
  Mutator(std::string base, uint64_t seed) : base_(std::move(base)), random_(seed) {
    size_t start = 0;
    for (size_t i = 0; i <= base_.size(); ++i) {
      if (i == base_.size() || std::strchr(kBreaks, base_[i]) != nullptr) {
        if (i > start) words_.push_back(base_.substr(start, i - start));
        start = i + 1;
      }
    }
  }

  std::string Next() {
    std::string text = base_;
    const int edits = static_cast<int>(1 + Below(4));
    for (int k = 0; k < edits && !text.empty(); ++k) {
      const size_t at = Below(text.size());
      switch (Below(14)) {
        case 0:
          text[at] = static_cast<char>(Below(256));
          break;
        case 1:
          text.erase(at, 1 + Below(40));
          break;
        case 2:
          text.insert(at, words_[Below(words_.size())]);
          break;
        case 3: {
          const size_t from = Below(text.size());
          text.insert(at, text.substr(from, Below(80)));
          break;
        }
        case 4:
          text.resize(Below(10) == 0 ? at : text.size());
          break;
        case 5:
        case 6:
        case 7:
          SwapWord(&text, at);
          break;
        case 8:
        case 9:
          ReplaceWord(&text, at, words_[Below(words_.size())]);
          break;
        default:
          ReplaceNumber(&text, at);
          break;
      }
    }
    return text;
  }

  uint64_t Below(uint64_t bound) { return random_() % bound; }

 private:
  // Puts a word of the same kind (register, opcode, name) there, so that many texts stay well
  // formed.
  void SwapWord(std::string* text, size_t at) {
    const size_t start = text->find_first_not_of(kBreaks, at);
    if (start == std::string::npos) return;
    const std::string old = text->substr(start, text->find_first_of(kBreaks, start) - start);
    for (int tries = 0; tries < 50; ++tries) {
      const std::string& word = words_[Below(words_.size())];
      const bool alike =
          word[0] == old[0] &&
          (word[0] != '%' || (word.size() > 1 && old.size() > 1 && word[1] == old[1]));
      const bool opcodes =
          (word.find('.') != std::string::npos) == (old.find('.') != std::string::npos);
      if (alike && opcodes && word != old) {
        text->replace(start, old.size(), word);
        return;
      }
    }
  }
  void ReplaceWord(std::string* text, size_t at, const std::string& word) {
    const size_t start = text->find_first_not_of(kBreaks, at);
    if (start == std::string::npos) return;
    const size_t end = text->find_first_of(kBreaks, start);
    text->replace(start, end == std::string::npos ? end : end - start, word);
  }
  void ReplaceNumber(std::string* text, size_t at) {
    static const char* kNumbers[] = {"0",
                                     "-1",
                                     "1",
                                     "31",
                                     "32",
                                     "4294967295",
                                     "18446744073709551615",
                                     "0x7fffffff",
                                     "-2147483648",
                                     "0f7FC00000",
                                     "65536",
                                     "1000000"};
    const size_t start = text->find_first_of("0123456789", at);
    if (start == std::string::npos) return;
    const size_t end = text->find_first_not_of("0123456789", start);
    text->replace(start, end == std::string::npos ? end : end - start,
                  kNumbers[Below(std::size(kNumbers))]);
  }

  std::string base_;
  std::mt19937_64 random_;
  std::vector<std::string> words_;
};

TEST(Fuzz, MutatedTextsNeitherCrashNorHang) {
  const uint64_t seed = FromEnvironment("SIMGPU_FUZZ_SEED", 20261124);
  const uint64_t rounds = FromEnvironment("TESSERA_SOAK", 3000);
  std::cout << "SIMGPU_FUZZ_SEED=" << seed << " inputs " << rounds << std::endl;
  // Alternately all the demo kernels and the short kernel that holds the rarer forms.
  Mutator demo(std::string(kernels::kDemoKernelsPtx) + kExtra, seed);
  Mutator mixed(kHeader + kExtra, seed + 1);
  uint64_t parsed = 0, ran = 0, ended_well = 0;
  for (uint64_t round = 0; round < rounds; ++round) {
    const std::string text = round % 4 == 0 ? demo.Next() : mixed.Next();
    ParseError error;
    const auto module = Module::Parse(text, &error);
    if (module == nullptr) {
      EXPECT_FALSE(error.message.empty());
      continue;
    }
    ++parsed;
    TestDevice device;
    for (size_t i = 0; i < module->globals().size(); ++i) {
      if (module->globals()[i].size > 1 << 20) continue;
      module->SetGlobalAddress(i, device.Upload(module->InitialImage(i)));
    }
    const uint64_t buffer = device.Allocate(65536);
    const Arguments arguments =
        Arguments().Add(buffer).Add(buffer).Add(buffer).Add(uint64_t{64}).Add(buffer);
    // The texts also go through the linker, alone and with another.
    if (round % 16 == 0) {
      std::string merged, why;
      const bool linked =
          Link({{"a", text}, {"b", kHeader + ".visible .global .u32 other;\n"}}, &merged, &why);
      EXPECT_EQ(linked, why.empty());
      if (linked) {
        EXPECT_NE(Module::Parse(merged, &error), nullptr) << error.ToString();
      }
    }
    for (const KernelInfo& kernel : module->kernels()) {
      if (kernel.local_bytes > 4096 || !kernel.refusal.empty()) continue;
      const LaunchResult result =
          RunOn(*module, &device, kernel.name, arguments,
                {.grid = 2, .block = 48, .budget = 20000, .cooperative = round % 8 == 1});
      ++ran;
      ended_well += result.status == Status::kOk;
      EXPECT_EQ(result.status == Status::kOk, result.message.empty());
    }
  }
  std::cout << "parsed " << parsed << ", launches " << ran << ", of them ok " << ended_well
            << std::endl;
  // A mutator that breaks every text, or none, tests nothing.
  EXPECT_GT(parsed, rounds / 20);
  EXPECT_LT(parsed, rounds);
  EXPECT_GT(ended_well, 0u);
  EXPECT_LT(ended_well, ran);
}

}  // namespace
}  // namespace simgpu::ptx
