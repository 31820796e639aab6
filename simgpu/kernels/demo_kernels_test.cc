// Each demo kernel against a loop on the CPU, the committed PTX against a fresh compilation, and
// PTX that nvcc made.
#include "simgpu/kernels/demo_kernels.h"

#include <cmath>
#include <fstream>
#include <iostream>
#include <sstream>

#include "simgpu/ptx/test_device.h"

namespace simgpu::ptx {
namespace {

std::string ReadFile(const char* path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// Drops comments, blank runs and the compiler's banner: what is left decides what a kernel does.
std::string Essence(const std::string& text) {
  std::string out;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    line.resize(std::min(line.find("//"), line.size()));
    std::istringstream words(line);
    std::string word;
    bool any = false;
    while (words >> word) {
      out += word + ' ';
      any = true;
    }
    if (any) out += '\n';
  }
  return out;
}

TEST(DemoKernels, CommittedPtxIsWhatTheSourceGives) {
  if (!REGENERATED)
    std::cout << "note: no clang++ for NVPTX here, the embedded PTX is the committed one"
              << std::endl;
  if (std::string(CLANG).find("clang++-19") == std::string::npos) {
    // Another compiler may choose other instructions; the kernels are then checked by the tests
    // below alone.
    std::cout << "note: compiled by '" << CLANG << "', texts are compared for kernels only"
              << std::endl;
    const auto committed = Load(ReadFile(COMMITTED_PTX));
    const auto fresh = Load(kernels::kDemoKernelsPtx);
    ASSERT_EQ(committed->kernels().size(), fresh->kernels().size());
    for (size_t i = 0; i < committed->kernels().size(); ++i) {
      EXPECT_EQ(committed->kernels()[i].name, fresh->kernels()[i].name);
      EXPECT_EQ(committed->kernels()[i].param_bytes, fresh->kernels()[i].param_bytes);
    }
    return;
  }
  EXPECT_EQ(Essence(ReadFile(COMMITTED_PTX)), Essence(kernels::kDemoKernelsPtx))
      << "demo_kernels.ptx is stale: regenerate it (simgpu/kernels/README.md)";
}

class Demo : public testing::Test {
 protected:
  void SetUp() override {
    module_ = Load(kernels::kDemoKernelsPtx);
    ASSERT_NE(module_, nullptr);
    for (const KernelInfo& kernel : module_->kernels()) EXPECT_EQ(kernel.refusal, "");
    Place(module_.get(), &device_);
  }
  void Run(const char* kernel, const Arguments& arguments, Shape shape) {
    const LaunchResult result = RunOn(*module_, &device_, kernel, arguments, shape);
    ASSERT_EQ(result.status, Status::kOk) << result.message;
  }
  std::unique_ptr<Module> module_;
  TestDevice device_;
};

TEST_F(Demo, VectorAddAndSaxpy) {
  for (const uint64_t n : {1, 31, 1000}) {
    std::vector<float> a(n), b(n);
    for (uint64_t i = 0; i < n; ++i) {
      a[i] = static_cast<float>(i) * 0.5f;
      b[i] = 100.0f - static_cast<float>(i);
    }
    const uint64_t da = device_.Upload(a), db = device_.Upload(b), dc = device_.Allocate(n * 4);
    Run("vector_add", Arguments().Add(da).Add(db).Add(dc).Add(n), {.grid = 3, .block = 64});
    const auto c = device_.Download<float>(dc, n);
    for (uint64_t i = 0; i < n; ++i) ASSERT_EQ(c[i], a[i] + b[i]);
    Run("saxpy", Arguments().Add(3.0f).Add(da).Add(db).Add(n),
        {.grid = 2, .block = 128, .workers = 2});
    const auto y = device_.Download<float>(db, n);
    for (uint64_t i = 0; i < n; ++i) ASSERT_EQ(y[i], std::fma(3.0f, a[i], b[i]));
  }
}

TEST_F(Demo, ReductionIsExactForSmallIntegers) {
  // Whole warps only: the shuffles name all 32 lanes.
  for (const uint32_t block : {32u, 96u, 1024u}) {
    std::vector<float> in(5000);
    float sum = 0;
    for (size_t i = 0; i < in.size(); ++i) sum += in[i] = static_cast<float>(i % 19);
    const uint64_t di = device_.Upload(in), out = device_.Allocate(4);
    Run("reduce_sum", Arguments().Add(di).Add(out).Add(uint64_t{5000}),
        {.grid = 4, .block = block});
    EXPECT_EQ(device_.Download<float>(out, 1)[0], sum) << block;
  }
}

TEST_F(Demo, TiledMatmulOfAwkwardSize) {
  const uint32_t n = 37;
  std::vector<float> a(n * n), b(n * n);
  for (uint32_t i = 0; i < n * n; ++i) {
    a[i] = static_cast<float>(i % 11) - 5;
    b[i] = static_cast<float>(i % 7) * 0.25f;
  }
  const uint64_t da = device_.Upload(a), db = device_.Upload(b), dc = device_.Allocate(n * n * 4);
  const Arguments arguments = Arguments().Add(da).Add(db).Add(dc).Add(n);
  LaunchConfig config;
  config.grid[0] = config.grid[1] = 3;
  config.block[0] = config.block[1] = 16;
  config.params = arguments.bytes().data();
  config.param_bytes = arguments.bytes().size();
  config.memory = &device_;
  const LaunchResult result = module_->Launch("matmul_tiled", config);
  ASSERT_EQ(result.status, Status::kOk) << result.message;
  const auto c = device_.Download<float>(dc, n * n);
  for (uint32_t row = 0; row < n; ++row) {
    for (uint32_t column = 0; column < n; ++column) {
      float sum = 0;
      for (uint32_t k = 0; k < n; ++k) sum = std::fma(a[row * n + k], b[k * n + column], sum);
      ASSERT_EQ(c[row * n + column], sum) << row << "," << column;
    }
  }
}

TEST_F(Demo, Histogram) {
  std::vector<uint8_t> in(10000);
  std::vector<uint32_t> expected(256);
  for (size_t i = 0; i < in.size(); ++i) ++expected[in[i] = static_cast<uint8_t>(i * i / 7)];
  const uint64_t di = device_.Upload(in), bins = device_.Allocate(1024);
  Run("histogram256", Arguments().Add(di).Add(bins).Add(uint64_t{10000}),
      {.grid = 5, .block = 96, .workers = 3});
  EXPECT_EQ(device_.Download<uint32_t>(bins, 256), expected);
}

TEST_F(Demo, PatternSeesOneWrongWord) {
  const uint64_t n = 4000, step = 3, seed = 9;
  const uint64_t data = device_.Allocate(n * 8);
  Run("fill_pattern", Arguments().Add(data).Add(n).Add(step).Add(seed), {.grid = 2, .block = 64});
  const auto check = [&](uint64_t with_seed) {
    const uint64_t result = device_.Upload<uint64_t>({0, 0, 0});
    Run("check_pattern", Arguments().Add(data).Add(n).Add(step).Add(with_seed).Add(result),
        {.grid = 3, .block = 32});
    return device_.Download<uint64_t>(result, 3);
  };
  EXPECT_EQ(check(seed)[0], (n + step - 1) / step);
  EXPECT_EQ(check(seed)[1], 0u);
  EXPECT_EQ(check(seed + 1)[1], (n + step - 1) / step);
  MemoryRange range;
  ASSERT_TRUE(device_.Resolve(data, &range));
  range.host[step * 8 * 100 + 5] ^= 1;
  EXPECT_EQ(check(seed)[1], 1u);
}

TEST_F(Demo, BusyRunsItsIterations) {
  const uint64_t out = device_.Allocate(64 * 4);
  Run("busy", Arguments().Add(out).Add(uint64_t{100}), {.grid = 1, .block = 64});
  uint32_t x = 11;
  for (int i = 0; i < 100; ++i) x = x * 1664525u + 1013904223u;
  EXPECT_EQ(device_.Download<uint32_t>(out, 64)[10], x);
}

// An hour on the card, at once here; the driver adds the hour to the engine's time.
TEST_F(Demo, BusyKernelsStateTheirTime) {
  const uint64_t hour = 3'600'000'000'000;
  LaunchResult result =
      RunOn(*module_, &device_, "busy_ns", Arguments().Add(hour), {.grid = 2, .block = 64});
  EXPECT_EQ(result.status, Status::kOk) << result.message;
  EXPECT_TRUE(result.has_stated);
  EXPECT_EQ(result.stated_ns, hour);
  EXPECT_LT(result.instructions, 128u * 10);

  const uint64_t data = device_.Allocate(1000 * 4);
  result = RunOn(*module_, &device_, "busy_touch",
                 Arguments().Add(hour).Add(data).Add(uint64_t{1000}), {.grid = 2, .block = 64});
  EXPECT_EQ(result.status, Status::kOk) << result.message;
  EXPECT_EQ(result.stated_ns, hour);
  EXPECT_EQ(device_.Download<uint32_t>(data, 1000), std::vector<uint32_t>(1000, 1));
}

// On a card where the variable stays 0 they wait for the clock instead.
TEST_F(Demo, BusyKernelsSpinOnARealCard) {
  const int present = module_->FindGlobal("simgpu_present");
  ASSERT_GE(present, 0);
  module_->SetGlobalAddress(static_cast<size_t>(present), device_.Upload<uint32_t>({0}));
  LaunchConfig config;
  const Arguments arguments = Arguments().Add(uint64_t{1'000'000});
  config.params = arguments.bytes().data();
  config.param_bytes = arguments.bytes().size();
  config.memory = &device_;
  uint64_t now = 5, first = 0;
  config.clock = [&] {
    if (first == 0) first = now;
    return now += 1000;
  };
  ASSERT_EQ(module_->Launch("busy_ns", config).status, Status::kOk);
  EXPECT_GE(now - first, 1'000'000u);
}

// ---- PTX made by nvcc 13.0 from testdata/features.cu ----

class Nvcc : public testing::Test {
 protected:
  void SetUp() override {
    module_ = Load(ReadFile(NVCC_FEATURES_PTX));
    ASSERT_NE(module_, nullptr);
    for (size_t i = 0; i < module_->globals().size(); ++i) {
      module_->SetGlobalAddress(i, device_.Allocate(module_->globals()[i].size + 1));
    }
    for (size_t i = 0; i < module_->globals().size(); ++i) {
      MemoryRange range;
      const Global& global = module_->globals()[i];
      const std::vector<uint8_t> image = module_->InitialImage(i);
      addresses_[global.name] = device_.Upload(image.empty() ? std::vector<uint8_t>(1) : image);
      module_->SetGlobalAddress(i, addresses_[global.name]);
      ASSERT_TRUE(device_.Resolve(addresses_[global.name], &range));
    }
  }
  LaunchResult Run(const char* kernel, const Arguments& arguments, Shape shape,
                   Status expected = Status::kOk) {
    const LaunchResult result = RunOn(*module_, &device_, kernel, arguments, shape, &printed_);
    EXPECT_EQ(result.status, expected) << kernel << ": " << result.message;
    return result;
  }
  std::unique_ptr<Module> module_;
  TestDevice device_;
  std::map<std::string, uint64_t> addresses_;
  std::string printed_;
};

TEST_F(Nvcc, RecursionAndCalls) {
  const uint64_t out = device_.Allocate(128);
  Run("fibonacci", Arguments().Add(out), {});
  const auto found = device_.Download<int>(out, 32);
  const int fibonacci[] = {0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89};
  for (int i = 0; i < 32; ++i) EXPECT_EQ(found[static_cast<size_t>(i)], fibonacci[i % 12]);
}

TEST_F(Nvcc, ConstantMemory) {
  const std::vector<float> x = {0, 1, 2, -3};
  const uint64_t dx = device_.Upload(x), dy = device_.Allocate(16);
  Run("polynomial", Arguments().Add(dx).Add(dy).Add(4), {});
  const auto y = device_.Download<float>(dy, 4);
  for (size_t i = 0; i < 4; ++i)
    EXPECT_FLOAT_EQ(y[i], ((0.125f * x[i] + 0.25f) * x[i] + 0.5f) * x[i] + 1.0f);
}

TEST_F(Nvcc, MathLibrary) {
  std::vector<float> x(100);
  for (size_t i = 0; i < 100; ++i) x[i] = static_cast<float>(i * i) * 0.37f;
  x[99] = 123456.0f;  // Far enough for the slow path of the trigonometric reduction.
  const uint64_t dx = device_.Upload(x), dy = device_.Allocate(400);
  for (float& v : x) v = std::min(v, 123456.0f);
  Run("functions", Arguments().Add(dx).Add(dy).Add(100), {.block = 128});
  const auto y = device_.Download<float>(dy, 100);
  for (size_t i = 0; i < 99; ++i) {
    const double v = x[i];
    const double expected = std::sin(v) + std::exp(v * 0.1f) + std::log(v + 2) + std::sqrt(v) +
                            std::pow(v, 1.5) + std::fmod(x[i], 0.7f);
    if (std::isinf(static_cast<float>(expected))) {
      EXPECT_TRUE(std::isinf(y[i]));
    } else {
      EXPECT_NEAR(y[i] / expected, 1, 1e-4) << v;
    }
  }
}

TEST_F(Nvcc, Doubles) {
  std::vector<double> x(32);
  for (size_t i = 0; i < 32; ++i) x[i] = static_cast<double>(i) * 0.77;
  const uint64_t dx = device_.Upload(x), dy = device_.Allocate(256);
  Run("doubles", Arguments().Add(dx).Add(dy).Add(32), {});
  const auto y = device_.Download<double>(dy, 32);
  for (size_t i = 0; i < 32; ++i) {
    const double v = x[i];
    const double expected = std::exp(v) / (1 + v) + std::cbrt(v) + std::rint(v * 3) +
                            static_cast<double>(static_cast<long long>(v * 1e6));
    EXPECT_NEAR(y[i] / expected, 1, 1e-14) << v;
  }
}

TEST_F(Nvcc, StructuresAndLocalArrays) {
  struct Pair {
    float x;
    int y;
    double z;
  };
  const uint64_t out = device_.Allocate(256);
  Run("by_value", Arguments().Add(Pair{0.5f, 10, 2.25}).Add(out), {});
  const auto found = device_.Download<double>(out, 32);
  for (size_t i = 0; i < 32; ++i) EXPECT_EQ(found[i], 10.0 + static_cast<double>(i % 4) + 2.75);
}

TEST_F(Nvcc, PrintfAndAssert) {
  Run("print", Arguments().Add(5), {.grid = 2});
  EXPECT_EQ(printed_, "block 0 says hello 2.50\nblock 1 says hello 2.50\n");
  Run("check", Arguments().Add(32), {});
  const LaunchResult failed = Run("check", Arguments().Add(20), {}, Status::kAssert);
  EXPECT_NE(failed.message.find("Assertion `threadIdx.x < n` failed"), std::string::npos)
      << failed.message;
  EXPECT_NE(failed.message.find("thread (20,0,0)"), std::string::npos) << failed.message;
}

TEST_F(Nvcc, PrefixSumWithShuffles) {
  std::vector<int> data(1024, 0);
  std::vector<int> expected(1024);
  int sum = 0;
  for (size_t i = 0; i < 1024; ++i) expected[i] = sum += data[i] = static_cast<int>(i * 7 % 23);
  const uint64_t d = device_.Upload(data);
  Run("prefix_sum", Arguments().Add(d), {.block = 1024});
  EXPECT_EQ(device_.Download<int>(d, 1024), expected);
}

TEST_F(Nvcc, WideIntegers) {
  std::vector<uint64_t> a(32);
  for (size_t i = 0; i < 32; ++i) a[i] = ~0ull / (i + 1);
  const uint64_t da = device_.Upload(a), out = device_.Allocate(512);
  Run("wide", Arguments().Add(da).Add(out), {});
  const auto found = device_.Download<uint64_t>(out, 64);
  for (size_t i = 0; i < 32; ++i) {
    const unsigned __int128 square = static_cast<unsigned __int128>(a[i]) * a[i] + 12345;
    EXPECT_EQ(found[2 * i], static_cast<uint64_t>(square));
    EXPECT_EQ(found[2 * i + 1], static_cast<uint64_t>(square >> 64));
  }
}

TEST_F(Nvcc, IntegerIntrinsics) {
  std::vector<int> a(64);
  for (size_t i = 0; i < 64; ++i)
    a[i] = static_cast<int>(static_cast<uint32_t>(i) * 2654435761u) + (i == 0 ? 1 : 0);
  const uint64_t da = device_.Upload(a), out = device_.Allocate(256);
  Run("integers", Arguments().Add(da).Add(out), {.block = 64});
  const auto found = device_.Download<int>(out, 64);
  for (size_t i = 0; i < 64; ++i) {
    const int x = a[i];
    const uint32_t u = static_cast<uint32_t>(x);
    uint32_t reversed = 0;
    for (int b = 0; b < 32; ++b) reversed |= (u >> b & 1) << (31 - b);
    const uint32_t rotated = u << 5 | u >> 27;
    // Summed as unsigned, because the kernel's sum wraps.
    const int terms[] = {__builtin_popcount(u),
                         (u == 0 ? 32 : __builtin_clz(u)) * 3,
                         __builtin_ffs(x),
                         x / 7,
                         x % 13,
                         static_cast<int>(reversed % 11),
                         static_cast<int>(rotated % 17),
                         static_cast<int16_t>(x),
                         static_cast<int8_t>(x),
                         static_cast<int>((int64_t{x} * 12345) >> 32),
                         std::min(x, 99),
                         std::abs(x) % 5};
    uint32_t sum = 0;
    for (int term : terms) sum += static_cast<uint32_t>(term);
    const int expected = static_cast<int>(sum);
    EXPECT_EQ(found[i], expected) << x;
  }
}

TEST_F(Nvcc, LastBlockPattern) {
  std::vector<int> in(1000);
  int sum = 0;
  for (size_t i = 0; i < in.size(); ++i) sum += in[i] = static_cast<int>(i % 101) - 50;
  const uint64_t di = device_.Upload(in), out = device_.Allocate(8);
  Run("last_block", Arguments().Add(di).Add(out).Add(1000),
      {.grid = 16, .block = 64, .shared = 256, .workers = 4});
  EXPECT_EQ(device_.Download<int>(out, 2), (std::vector<int>{sum, 2 * sum}));
}

}  // namespace
}  // namespace simgpu::ptx
