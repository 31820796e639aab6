// What the software GPU costs: instructions of the interpreter, calls of the driver, two kernels as
// programs run them. Each figure is the median of kRepetitions with its MAD.
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "abi/cuda.h"
#include "bench/figures.h"
#include "simgpu/kernels/demo_kernels.h"
#include "simgpu/ptx/ptx.h"

namespace tessera::abi {
#include "simgpu/cuda_declarations.inc"
}  // namespace tessera::abi

namespace {

using namespace tessera::abi;  // NOLINT
using tessera::bench::Figure;
using tessera::bench::Summarise;

constexpr int kRepetitions = 7;
constexpr int kLaunches = 500;
constexpr int kAllocations = 2000;
constexpr int kCalls = 200'000;

constexpr tessera::bench::Aim kAims[] = {{"ptx_minstr_per_s", true, 300}};

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "bench-simgpu: %s\n", what.c_str());
  std::exit(1);
}

double Seconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

// What this process had of the processors: the interpreter's rates are of one core, whatever else
// the machine does.
double CpuSeconds() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

// One piece of memory at a made-up address.
class OneBlock : public simgpu::ptx::Memory {
 public:
  static constexpr uint64_t kBase = 0x7f00'0000'0000;
  explicit OneBlock(size_t bytes) : bytes_(bytes) {}
  bool Resolve(uint64_t address, simgpu::ptx::MemoryRange* range) override {
    if (address < kBase || address - kBase >= bytes_.size()) return false;
    *range = {kBase, bytes_.size(), bytes_.data(), true};
    return true;
  }

 private:
  std::vector<uint8_t> bytes_;
};

struct Workload {
  const char* name;  // of its figure
  const char* kernel;
  uint32_t grid[2];
  uint32_t block[2];
  std::vector<uint64_t> params;
  size_t memory_bytes;
  bool mixed;  // counts towards ptx_minstr_per_s
};

// Millions of thread instructions a second of one worker, the interpreter alone: of each workload,
// and of the mixed ones together (loads, stores, shuffles, shared memory, barriers, arithmetic).
void MeasureInterpreter(const std::vector<Workload>& workloads, std::vector<Figure>* figures) {
  simgpu::ptx::ParseError error;
  auto module = simgpu::ptx::Module::Parse(simgpu::kernels::kDemoKernelsPtx, &error);
  if (module == nullptr) Die(error.ToString());
  std::vector<double> instructions(kRepetitions, 0), seconds(kRepetitions, 0);
  for (const Workload& workload : workloads) {
    const auto* info = module->FindKernel(workload.kernel);
    if (info == nullptr || info->params.size() != workload.params.size()) {
      Die(std::string("no kernel ") + workload.kernel);
    }
    std::vector<uint8_t> packed(info->param_bytes);
    for (size_t i = 0; i < workload.params.size(); ++i) {
      std::memcpy(packed.data() + info->params[i].offset, &workload.params[i],
                  info->params[i].size);
    }
    OneBlock memory(workload.memory_bytes);
    simgpu::ptx::LaunchConfig config;
    for (int i = 0; i < 2; ++i) {
      config.grid[i] = workload.grid[i];
      config.block[i] = workload.block[i];
    }
    config.params = packed.data();
    config.param_bytes = packed.size();
    config.memory = &memory;
    std::vector<double> rates;
    for (int i = -1; i < kRepetitions; ++i) {
      const double start = CpuSeconds();
      const simgpu::ptx::LaunchResult result = module->Launch(workload.kernel, config);
      const double took = CpuSeconds() - start;
      if (result.status != simgpu::ptx::Status::kOk) Die(result.message);
      if (i < 0) continue;
      rates.push_back(static_cast<double>(result.instructions) / took / 1e6);
      if (!workload.mixed) continue;
      instructions[i] += static_cast<double>(result.instructions);
      seconds[i] += took;
    }
    Summarise(workload.name, rates, figures);
  }
  std::vector<double> rates;
  for (int i = 0; i < kRepetitions; ++i) rates.push_back(instructions[i] / seconds[i] / 1e6);
  Summarise("ptx_minstr_per_s", rates, figures);
}

void Must(CUresult result, const char* what) {
  if (result != CUDA_SUCCESS) Die(std::string(what) + " answered " + std::to_string(result));
}

// The driver as a program finds it.
class Driver {
 public:
  Driver() : library_(dlopen("libcuda.so.1", RTLD_NOW)) {
    if (library_ == nullptr) Die(dlerror());
  }
  template <typename F>
  F* Find(const char* name) const {
    auto* function = reinterpret_cast<F*>(dlsym(library_, name));
    if (function == nullptr) Die(std::string("the driver has no ") + name);
    return function;
  }

 private:
  void* library_;
};

#define FIND(name) driver.Find<decltype(name)>(#name)

void MeasureDriver(std::vector<Figure>* figures) {
  const Driver driver;
  CUcontext context = nullptr;
  CUmodule module = nullptr;
  Must(FIND(cuInit)(0), "cuInit");
  Must(FIND(cuDevicePrimaryCtxRetain)(&context, 0), "cuDevicePrimaryCtxRetain");
  Must(FIND(cuCtxSetCurrent)(context), "cuCtxSetCurrent");
  Must(FIND(cuModuleLoadData)(&module, simgpu::kernels::kDemoKernelsPtx), "cuModuleLoadData");
  auto kernel = [&](const char* name) {
    CUfunction function = nullptr;
    Must(FIND(cuModuleGetFunction)(&function, module, name), name);
    return function;
  };
  auto* alloc = FIND(cuMemAlloc_v2);
  auto* free = FIND(cuMemFree_v2);
  auto* launch = FIND(cuLaunchKernel);
  auto* synchronise = FIND(cuCtxSynchronize);
  auto* version = FIND(cuDriverGetVersion);
  auto repeat = [&](const char* name, double unit, long times, auto&& body) {
    std::vector<double> values;
    for (int i = -1; i < kRepetitions; ++i) {
      const double start = Seconds();
      body();
      if (i >= 0) values.push_back((Seconds() - start) * unit / static_cast<double>(times));
    }
    Summarise(name, values, figures);
  };

  repeat("call_ns", 1e9, kCalls, [&] {
    int number = 0;
    for (int i = 0; i < kCalls; ++i) version(&number);
  });
  repeat("alloc_ns", 1e9, kAllocations, [&] {
    CUdeviceptr memory = 0;
    for (int i = 0; i < kAllocations; ++i) {
      Must(alloc(&memory, 4096), "cuMemAlloc");
      Must(free(memory), "cuMemFree");
    }
  });
  // A kernel of one thread that does next to nothing: what is left is the launch.
  {
    CUdeviceptr out = 0;
    uint64_t iterations = 0;
    Must(alloc(&out, 4096), "cuMemAlloc");
    void* params[] = {&out, &iterations};
    const CUfunction busy = kernel("busy");
    repeat("launch_ns", 1e9, kLaunches, [&] {
      for (int i = 0; i < kLaunches; ++i) {
        Must(launch(busy, 1, 1, 1, 1, 1, 1, 0, nullptr, params, nullptr), "cuLaunchKernel");
      }
      Must(synchronise(), "cuCtxSynchronize");
    });
  }
  {
    constexpr uint64_t kElements = 1 << 20;
    CUdeviceptr x = 0, y = 0;
    float alpha = 2;
    uint64_t n = kElements;
    Must(alloc(&x, kElements * sizeof(float)), "cuMemAlloc");
    Must(alloc(&y, kElements * sizeof(float)), "cuMemAlloc");
    void* params[] = {&alpha, &x, &y, &n};
    const CUfunction saxpy = kernel("saxpy");
    repeat("saxpy_1m_ms", 1e3, 1, [&] {
      Must(launch(saxpy, kElements / 256, 1, 1, 256, 1, 1, 0, nullptr, params, nullptr), "saxpy");
      Must(synchronise(), "cuCtxSynchronize");
    });
  }
  {
    uint32_t n = 256;
    CUdeviceptr a = 0, b = 0, c = 0;
    for (CUdeviceptr* one : {&a, &b, &c}) Must(alloc(one, n * n * sizeof(float)), "cuMemAlloc");
    void* params[] = {&a, &b, &c, &n};
    const CUfunction matmul = kernel("matmul_tiled");
    repeat("matmul_256_ms", 1e3, 1, [&] {
      Must(launch(matmul, n / 16, n / 16, 1, 16, 16, 1, 0, nullptr, params, nullptr), "matmul");
      Must(synchronise(), "cuCtxSynchronize");
    });
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::string json;
  bool check = false;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--check") {
      check = true;
    } else if (word == "--json" && i + 1 < argc) {
      json = argv[++i];
    } else {
      std::fprintf(stderr, "usage: bench-simgpu [--json FILE] [--check]\n");
      return 2;
    }
  }
  // A card of its own: what others do on the machine's shared ones must not show.
  char folder[] = "/dev/shm/simgpu-bench-XXXXXX";
  if (mkdtemp(folder) == nullptr) Die(std::string(folder) + ": " + std::strerror(errno));
  for (const char* name :
       {"SIMGPU_CARDS", "SIMGPU_FAULTS", "SIMGPU_TRACE", "SIMGPU_SEED", "CUDA_VISIBLE_DEVICES"}) {
    unsetenv(name);
  }
  setenv("SIMGPU_STATE", folder, 1);

  std::vector<Figure> figures;
  const uint64_t base = OneBlock::kBase;
  float alpha = 2;
  uint64_t alpha_bits = 0;
  std::memcpy(&alpha_bits, &alpha, sizeof alpha);
  constexpr uint64_t kMiB = 1 << 20;
  MeasureInterpreter(
      {{"ptx_arithmetic_minstr_per_s", "busy", {8, 1}, {256, 1}, {base, 4000}, 64 << 10, false},
       {"ptx_saxpy_minstr_per_s",
        "saxpy",
        {1024, 1},
        {256, 1},
        {alpha_bits, base, base + kMiB, 1 << 18},
        2 * kMiB,
        true},
       {"ptx_reduce_minstr_per_s",
        "reduce_sum",
        {64, 1},
        {256, 1},
        {base, base + kMiB, 1 << 18},
        2 * kMiB,
        true},
       {"ptx_matmul_minstr_per_s",
        "matmul_tiled",
        {8, 8},
        {16, 16},
        {base, base + (64 << 10), base + (128 << 10), 128},
        192 << 10,
        true}},
      &figures);
  MeasureDriver(&figures);
  std::error_code gone;
  std::filesystem::remove_all(folder, gone);
  if (!tessera::bench::WriteFigures(json, figures)) Die(json + ": " + std::strerror(errno));
  return !check || tessera::bench::Reached("bench-simgpu", kAims, figures) ? 0 : 1;
}
