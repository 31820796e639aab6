// The parts of the language that testdata/coverage.cu uses, as nvcc 13.0 compiles them for three
// targets and clang for one: every kernel against a loop on the CPU.
#include <algorithm>
#include <cmath>
#include <fstream>
#include <iostream>
#include <set>
#include <sstream>

#include "simgpu/ptx/half.h"
#include "simgpu/ptx/test_device.h"

namespace simgpu::ptx {
namespace {

// A device with a heap of a bounded number of blocks.
class HeapDevice : public TestDevice {
 public:
  uint64_t HeapAllocate(uint64_t bytes) override {
    if (live.size() >= kBlocksMax) return 0;
    const uint64_t address = Allocate(bytes);
    live.insert(address);
    return address;
  }
  bool HeapFree(uint64_t address) override { return live.erase(address) == 1; }
  static constexpr size_t kBlocksMax = 20;
  std::set<uint64_t> live;
};

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

class Coverage : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    module_ = Load(ReadFile(GetParam()));
    ASSERT_NE(module_, nullptr);
    for (const KernelInfo& kernel : module_->kernels())
      EXPECT_EQ(kernel.refusal, "") << kernel.name;
    Place(module_.get(), &device_);
  }
  bool Has(const char* kernel) const { return module_->FindKernel(kernel) != nullptr; }
  LaunchResult Run(const char* kernel, const Arguments& arguments, uint32_t block,
                   Status expected = Status::kOk) {
    const LaunchResult result = RunOn(*module_, &device_, kernel, arguments, {.block = block});
    EXPECT_EQ(result.status, expected) << kernel << ": " << result.message;
    return result;
  }
  std::vector<uint32_t> Words(size_t count, uint32_t seed) {
    std::vector<uint32_t> words(count);
    uint32_t x = seed;
    for (uint32_t& word : words) word = x = x * 1664525u + 1013904223u;
    return words;
  }
  std::unique_ptr<Module> module_;
  HeapDevice device_;
};

TEST_P(Coverage, VirtualCalls) {
  const uint64_t out = device_.Allocate(64 * 4);
  Run("virtual_calls", Arguments().Add(out), 64);
  const auto found = device_.Download<uint32_t>(out, 64);
  for (uint32_t t = 0; t < 64; ++t) EXPECT_EQ(found[t], t % 3 == 0 ? t * t * 10 + 4 : t * 30) << t;
}

TEST_P(Coverage, FunctionPointers) {
  const uint64_t out = device_.Allocate(64 * 4);
  Run("function_pointers", Arguments().Add(out).Add(uint32_t{0}), 64);
  const auto found = device_.Download<uint32_t>(out, 64);
  for (uint32_t t = 0; t < 64; ++t) {
    EXPECT_EQ(found[t], t % 3 == 0 ? t + 7 : t % 3 == 1 ? t * 7 : t - 7) << t;
  }
  const LaunchResult bad =
      Run("function_pointers", Arguments().Add(out).Add(uint32_t{1}), 64, Status::kInvalidPc);
  EXPECT_EQ(ToCudaError(bad.status), 718);
}

TEST_P(Coverage, ModuleMemory) {
  const uint64_t out = device_.Allocate(129 * 4);
  std::vector<uint32_t> indices(128);
  for (uint32_t t = 0; t < 128; ++t) indices[t] = t * 7;
  const uint64_t in = device_.Upload(indices);
  Run("module_memory", Arguments().Add(out).Add(in), 128);
  const auto found = device_.Download<uint32_t>(out, 129);
  const uint32_t managed[] = {10, 20, 30, 40}, constant[] = {3, 5, 7, 11};
  for (uint32_t t = 32; t < 128; ++t) {
    const uint32_t k = t * 7 & 3;
    // The other warps may see what the first has written by then.
    EXPECT_TRUE(found[t] == managed[k] + constant[k] || (k == 1 && found[t] == 77 + 5u)) << t;
  }
  EXPECT_EQ(found[128], 101u);
  EXPECT_EQ(module_->FindKernel("module_memory")->max_threads, 128u);
  Run("module_memory", Arguments().Add(out).Add(in), 129, Status::kInvalidValue);
}

TEST_P(Coverage, Heap) {
  const uint64_t out = device_.Allocate(32 * 4);
  Run("heap", Arguments().Add(out), 16);
  auto found = device_.Download<uint32_t>(out, 16);
  for (uint32_t t = 0; t < 16; ++t) EXPECT_EQ(found[t], 16 * t + 120) << t;
  EXPECT_TRUE(device_.live.empty());
  // More threads than the heap has blocks: some get null, as on a card.
  Run("heap", Arguments().Add(out), 32);
  found = device_.Download<uint32_t>(out, 32);
  EXPECT_EQ(std::count(found.begin(), found.end(), 0xffffffffu),
            static_cast<std::ptrdiff_t>(32 - HeapDevice::kBlocksMax));
}

TEST_P(Coverage, MemoryForms) {
  const auto in = Words(64 * 4, 1);
  const uint64_t from = device_.Upload(in), to = device_.Allocate(1100 * 4);
  Run("memory_forms", Arguments().Add(from).Add(to), 64);
  const auto out = device_.Download<uint32_t>(to, 1100);
  for (uint32_t t = 0; t < 64; ++t) {
    const uint32_t *a = &in[4 * t], *o = &out[16 * t];
    EXPECT_EQ(o[0], a[0]);
    EXPECT_EQ(o[1], a[1]);
    for (int k = 0; k < 4; ++k) EXPECT_EQ(o[4 + k], a[3 - k]);
    EXPECT_EQ(o[8], a[0] + a[1] + a[2] + a[3]);
    EXPECT_EQ(o[9], 0u);  // Thread 0 was first, so the word's upper half stayed 0.
  }
  EXPECT_EQ(out[1024], 63u * 64 / 2);
  EXPECT_EQ(out[1025], 63u);
  EXPECT_EQ(out[1026], 5u);
}

TEST_P(Coverage, DoubleMaximum) {
  std::vector<double> values(256);
  for (int k = 0; k < 256; ++k) values[k] = std::sin(k * 1.7) * k;
  const uint64_t in = device_.Upload(values);
  const uint64_t out = device_.Upload<double>({-1.0});
  RunOn(*module_, &device_, "double_maximum", Arguments().Add(in).Add(out),
        {.grid = 4, .block = 64, .workers = 2});
  EXPECT_EQ(device_.Download<double>(out, 1)[0], *std::max_element(values.begin(), values.end()));
}

TEST_P(Coverage, Halves) {
  std::vector<uint32_t> in;
  const float values[] = {1.5f, -2.25f, 0.1f, 1000.f, -0.333f, 65000.f, 0.0001f, 3.f};
  const auto half = [](float v) { return static_cast<uint32_t>(ToHalf(v)); };
  for (uint32_t t = 0; t < 32; ++t) {
    for (uint32_t k = 0; k < 3; ++k) {
      in.push_back(half(values[(t + k) % 8]) | half(values[(t * 3 + k) % 8] / 16) << 16);
    }
  }
  const uint64_t from = device_.Upload(in), to = device_.Allocate(600 * 4);
  Run("halves", Arguments().Add(from).Add(to), 32);
  const auto out = device_.Download<uint32_t>(to, 600);
  // One float operation and one rounding; sums and products of halves are exact in double.
  const auto pair = [](uint32_t x, uint32_t y, uint32_t z, auto f) {
    const auto part = [&](int s) {
      return static_cast<uint32_t>(ToHalf(f(double{HalfToFloat(static_cast<uint16_t>(x >> s))},
                                            double{HalfToFloat(static_cast<uint16_t>(y >> s))},
                                            double{HalfToFloat(static_cast<uint16_t>(z >> s))})));
    };
    return part(0) | part(16) << 16;
  };
  double sum = 0;
  for (uint32_t t = 0; t < 32; ++t) {
    const uint32_t x = in[3 * t], y = in[3 * t + 1], z = in[3 * t + 2];
    const uint32_t* o = &out[8 * t];
    EXPECT_EQ(o[0], pair(x, y, z, [](double a, double b, double c) { return a * b + c; })) << t;
    EXPECT_EQ(o[1], pair(x, y, z, [](double a, double b, double) { return a + b; })) << t;
    EXPECT_EQ(o[2], pair(x, y, z, [](double a, double b, double) { return a * b; })) << t;
    const float low = HalfToFloat(static_cast<uint16_t>(x));
    EXPECT_EQ(o[3], F(low + HalfToFloat(static_cast<uint16_t>(x >> 16)))) << t;
    sum = HalfToFloat(ToHalf(sum + low));
    if (module_->target() < 80) continue;
    EXPECT_EQ(o[5], pair(x, y, z, [](double a, double b, double) { return std::max(a, b); })) << t;
    const uint32_t high = ToBf16(std::bit_cast<float>(x));
    EXPECT_EQ(o[7], high << 16 | ToBf16(std::bit_cast<float>(y))) << t;
  }
  EXPECT_EQ(out[512] & 0xffff, ToHalf(sum));
}

TEST_P(Coverage, WarpForms) {
  std::vector<uint32_t> in(32);
  for (uint32_t t = 0; t < 32; ++t) in[t] = t * t % 7;
  const uint64_t from = device_.Upload(in), to = device_.Allocate(32 * 6 * 4);
  Run("warp_forms", Arguments().Add(from).Add(to), 32);
  const auto out = device_.Download<uint32_t>(to, 32 * 6);
  uint32_t above = 0, sum = 0;
  for (uint32_t t = 0; t < 32; ++t) {
    if (in[t] > 3) above |= 1u << t;
    sum += in[t];
  }
  for (uint32_t t = 0; t < 32; ++t) {
    uint32_t like = 0;
    for (uint32_t u = 0; u < 32; ++u) like |= in[u] == in[t] ? 1u << u : 0;
    EXPECT_EQ(out[6 * t], like);
    EXPECT_EQ(out[6 * t + 1], above);
    EXPECT_EQ(out[6 * t + 2], in[t ^ 5]);
    EXPECT_EQ(out[6 * t + 3], t % 2 == 0 ? 0x55555555u : 0);
    if (module_->target() < 80) continue;
    EXPECT_EQ(out[6 * t + 4], sum);
    EXPECT_EQ(out[6 * t + 5], 0u);
  }
}

TEST_P(Coverage, AsyncCopies) {
  EXPECT_EQ(Has("async_copies"), module_->target() >= 80);
  if (!Has("async_copies")) return;  // There is no such instruction before sm_80.
  const auto in = Words(64 * 4, 2);
  const uint64_t from = device_.Upload(in), to = device_.Allocate(320 * 4);
  Run("async_copies", Arguments().Add(from).Add(to), 64);
  const auto out = device_.Download<uint32_t>(to, 320);
  for (uint32_t t = 0; t < 64; ++t) {
    EXPECT_EQ(out[t], in[(4 * t + 7) % 256]) << t;
    EXPECT_EQ(out[64 + t], in[4 * t] + (t % 2 ? 0 : in[4 * t + 1])) << t;
    for (uint32_t round = 0; round < 3; ++round) {
      EXPECT_EQ(out[128 + 64 * round + t], 63 - t + round) << t;
    }
  }
}

TEST_P(Coverage, BulkCopy) {
  EXPECT_EQ(Has("bulk_copy"), module_->target() >= 90);
  if (!Has("bulk_copy")) return;  // Nor this before sm_90.
  const auto in = Words(128, 3);
  const uint64_t from = device_.Upload(in), to = device_.Allocate(128 * 4);
  Run("bulk_copy", Arguments().Add(from).Add(to), 32);
  const auto out = device_.Download<uint32_t>(to, 128);
  for (uint32_t k = 0; k < 128; ++k) EXPECT_EQ(out[k], 2 * in[k]) << k;
}

TEST_P(Coverage, IntegerForms) {
  const auto in = Words(64 * 2, 4);
  const uint64_t from = device_.Upload(in), to = device_.Allocate(64 * 6 * 4);
  Run("integer_forms", Arguments().Add(from).Add(to), 64);
  const auto out = device_.Download<uint32_t>(to, 64 * 6);
  for (uint32_t t = 0; t < 64; ++t) {
    const uint32_t a = in[2 * t], b = in[2 * t + 1];
    const uint32_t* o = &out[6 * t];
    EXPECT_EQ(o[0], 5 + static_cast<uint32_t>(static_cast<int16_t>(a) * int(b & 255) +
                                              static_cast<int16_t>(a >> 16) * int(b >> 8 & 255)));
    uint32_t sad = 1;
    for (int s = 0; s < 32; s += 8)
      sad += static_cast<uint32_t>(std::abs(int(a >> s & 255) - int(b >> s & 255)));
    EXPECT_EQ(o[1], sad);
    EXPECT_EQ(o[2], (a & 255) | (b & 255) << 8 | (a >> 8 & 255) << 16 | (b >> 8 & 255) << 24);
    const unsigned __int128 wide = uint64_t{a} << 32 | b;
    EXPECT_EQ(o[3], static_cast<uint32_t>(wide * 0x123456789ull >> 40));
    const uint32_t choices[] = {b + 1, b * 3, b ^ a, b >> 3, ~b};
    EXPECT_EQ(o[4], choices[a % 5]);
    EXPECT_EQ(o[5], a + (b & 7) * b);
  }
}

std::vector<const char*> Texts() {
  std::vector<const char*> texts = {COVERAGE_DIR "/coverage_nvcc_75.ptx",
                                    COVERAGE_DIR "/coverage_nvcc_80.ptx",
                                    COVERAGE_DIR "/coverage_nvcc_90.ptx"};
  if (*CLANG_COVERAGE_PTX != 0) {
    texts.push_back(CLANG_COVERAGE_PTX);
  } else {
    std::cout << "note: no clang++ for NVPTX here, only nvcc's texts are run" << std::endl;
  }
  return texts;
}

INSTANTIATE_TEST_SUITE_P(Compilers, Coverage, testing::ValuesIn(Texts()),
                         [](const testing::TestParamInfo<const char*>& info) {
                           const std::string path = info.param;
                           std::string name = path.substr(path.rfind('/') + 1);
                           name.resize(name.find('.'));
                           return name;
                         });

}  // namespace
}  // namespace simgpu::ptx
