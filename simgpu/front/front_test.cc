// The trace, the forwarding library and fault rules, seen by programs.
#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "simgpu/driver/test_support.h"

namespace simgpu {
namespace {

class FrontTest : public DriverTest {
 protected:
  void SetUp() override {
    DriverTest::SetUp();
    for (const char* name : {"SIMGPU_TRACE", "SIMGPU_TRACE_DRIVER", "SIMGPU_FAULTS"}) {
      unsetenv(name);
    }
  }
  void TearDown() override {
    for (const char* name : {"SIMGPU_TRACE", "SIMGPU_TRACE_DRIVER", "SIMGPU_FAULTS"}) {
      unsetenv(name);
    }
    DriverTest::TearDown();
  }

  std::vector<std::string> Lines(const std::string& path) const {
    std::ifstream in(path);
    std::vector<std::string> lines;
    for (std::string line; std::getline(in, line);) {
      if (!line.starts_with("#")) lines.push_back(line);
    }
    return lines;
  }

  void WriteFaults(const std::string& text) const {
    std::ofstream(folder_ + "/faults.new") << text;
    std::filesystem::rename(folder_ + "/faults.new", folder_ + "/faults");
  }
};

template <typename F>
F Function(void* library, const char* name) {
  return reinterpret_cast<F>(dlsym(library, name));
}

// A program that only knows a library; what it asks for is in the trace of the next test.
void Program(void* library) {
#define CALL(name) Function<decltype(&name)>(library, #name)
  ASSERT_EQ(CALL(cuInit)(0), CUDA_SUCCESS);
  CUdevice device = -1;
  ASSERT_EQ(CALL(cuDeviceGet)(&device, 1), CUDA_SUCCESS);
  char name[32];
  ASSERT_EQ(CALL(cuDeviceGetName)(name, sizeof name, device), CUDA_SUCCESS);
  CUcontext context = nullptr;
  ASSERT_EQ(CALL(cuDevicePrimaryCtxRetain)(&context, device), CUDA_SUCCESS);
  ASSERT_EQ(CALL(cuCtxSetCurrent)(context), CUDA_SUCCESS);
  CUdeviceptr memory = 0, more = 0;
  ASSERT_EQ(CALL(cuMemAlloc_v2)(&memory, 4096), CUDA_SUCCESS);
  ASSERT_EQ(CALL(cuMemAlloc_v2)(&more, 4096), CUDA_SUCCESS);
  ASSERT_EQ(CALL(cuMemsetD8_v2)(memory + 16, 7, 8), CUDA_SUCCESS);
  char bytes[8];
  ASSERT_EQ(CALL(cuMemcpyDtoH_v2)(bytes, memory + 16, sizeof bytes), CUDA_SUCCESS);
  EXPECT_EQ(bytes[7], 7);
  CUstream stream = nullptr;
  ASSERT_EQ(CALL(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  ASSERT_EQ(CALL(cuStreamSynchronize)(stream), CUDA_SUCCESS);
  ASSERT_EQ(CALL(cuStreamDestroy_v2)(stream), CUDA_SUCCESS);
  ASSERT_EQ(CALL(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  ASSERT_EQ(CALL(cuMemFree_v2)(memory), CUDA_SUCCESS);
  EXPECT_EQ(CALL(cuMemFree_v2)(memory), CUDA_ERROR_INVALID_VALUE);
  const char* text = nullptr;
  ASSERT_EQ(CALL(cuGetErrorName)(CUDA_ERROR_UNKNOWN, &text), CUDA_SUCCESS);
  // The function that is handed out is traced as the exported one is.
  void* function = nullptr;
  ASSERT_EQ(CALL(cuGetProcAddress_v2)("cuMemFree", &function, 12000, 0, nullptr), CUDA_SUCCESS);
  EXPECT_EQ(function, dlsym(library, "cuMemFree_v2"));
  ASSERT_EQ(reinterpret_cast<decltype(&cuMemFree_v2)>(function)(more), CUDA_SUCCESS);
#undef CALL
}

const char* const kProgramTrace[] = {
    "1 t0 cuInit(Flags=0) = CUDA_SUCCESS",
    "2 t0 cuDeviceGet(device=&1, ordinal=1) = CUDA_SUCCESS",
    "3 t0 cuDeviceGetName(name=&\"NVIDIA A100-SXM4-80GB\", len=32, dev=1) = CUDA_SUCCESS",
    "4 t0 cuDevicePrimaryCtxRetain(pctx=&context#1, dev=1) = CUDA_SUCCESS",
    "5 t0 cuCtxSetCurrent(ctx=context#1) = CUDA_SUCCESS",
    "6 t0 cuMemAlloc_v2(dptr=&mem#1, bytesize=4096) = CUDA_SUCCESS",
    "7 t0 cuMemAlloc_v2(dptr=&mem#2, bytesize=4096) = CUDA_SUCCESS",
    "8 t0 cuMemsetD8_v2(dstDevice=mem#1+0x10, uc=7, N=8) = CUDA_SUCCESS",
    "9 t0 cuMemcpyDtoH_v2(dstHost=host, srcDevice=mem#1+0x10, ByteCount=8) = CUDA_SUCCESS",
    "10 t0 cuStreamCreate(phStream=&stream#1, Flags=1) = CUDA_SUCCESS",
    "11 t0 cuStreamSynchronize(hStream=stream#1) = CUDA_SUCCESS",
    "12 t0 cuStreamDestroy_v2(hStream=stream#1) = CUDA_SUCCESS",
    "13 t0 cuStreamCreate(phStream=&stream#2, Flags=1) = CUDA_SUCCESS",
    "14 t0 cuMemFree_v2(dptr=mem#1) = CUDA_SUCCESS",
    "15 t0 cuMemFree_v2(dptr=address) = CUDA_ERROR_INVALID_VALUE",
    "16 t0 cuGetErrorName(error=999, pStr=&\"CUDA_ERROR_UNKNOWN\") = CUDA_SUCCESS",
    ("17 t0 cuGetProcAddress_v2(symbol=\"cuMemFree\", pfn=&function, driverVersion=12000, flags=0, "
     "symbolFound=null) = CUDA_SUCCESS"),
    "18 t0 cuMemFree_v2(dptr=mem#2) = CUDA_SUCCESS",
};

TEST_F(FrontTest, TraceIsNormalised) {
  const std::string trace = folder_ + "/trace";
  setenv("SIMGPU_TRACE", trace.c_str(), 1);
  InChild([] { Program(dlopen("libcuda.so.1", RTLD_NOW)); });
  EXPECT_EQ(Lines(trace),
            std::vector<std::string>(std::begin(kProgramTrace), std::end(kProgramTrace)));
}

TEST_F(FrontTest, ForwardingLibraryTracesTheDriverItIsGiven) {
  const std::string trace = folder_ + "/trace";
  setenv("SIMGPU_TRACE", trace.c_str(), 1);
  setenv("SIMGPU_TRACE_DRIVER", SIMGPU_CUDA_LIBRARY, 1);
  InChild([] {
    void* library = dlopen(SIMGPU_TRACE_LIBRARY, RTLD_NOW);
    ASSERT_NE(library, nullptr) << dlerror();
    EXPECT_NE(dlsym(library, "cuInit"), dlsym(dlopen("libcuda.so.1", RTLD_NOW), "cuInit"));
    Program(library);
  });
  EXPECT_EQ(Lines(trace),
            std::vector<std::string>(std::begin(kProgramTrace), std::end(kProgramTrace)));
}

TEST_F(FrontTest, ForwardingLibrarySaysWhatItNeeds) {
  for (const auto& [driver, why] :
       {std::pair{"libcuda.so.1", "expected the full path"}, {SIMGPU_TRACE_LIBRARY, "itself"}}) {
    setenv("SIMGPU_TRACE_DRIVER", driver, 1);
    const std::string said = folder_ + "/said";
    InChild([&] {
      ASSERT_NE(freopen(said.c_str(), "w", stderr), nullptr);
      void* library = dlopen(SIMGPU_TRACE_LIBRARY, RTLD_NOW);
      ASSERT_NE(library, nullptr);
      EXPECT_EQ(Function<decltype(&cuInit)>(library, "cuInit")(0), CUDA_ERROR_NOT_SUPPORTED);
      fflush(stderr);
    });
    std::stringstream text;
    text << std::ifstream(said).rdbuf();
    EXPECT_NE(text.str().find(why), std::string::npos) << text.str();
  }
}

// Every exported entry point is looked at: none goes around the front.
TEST_F(FrontTest, EveryEntryPointCanBeMadeToFail) {
  setenv("SIMGPU_FAULTS", "call cuMemAdvise 1+ 999; call cuMulticastCreate 1+ TIMEOUT", 1);
  InChild([] {
    EXPECT_EQ(cuMemAdvise(0, 0, CUmem_advise(0), 0), CUDA_ERROR_UNKNOWN);
    EXPECT_EQ(cuMemAdvise_v2(0, 0, CUmem_advise(0), CUmemLocation()), CUDA_ERROR_UNKNOWN);
    EXPECT_EQ(cuMulticastCreate(nullptr, nullptr), CUDA_ERROR_TIMEOUT);
  });
}

TEST_F(FrontTest, NthCallFailsAndDoesNothing) {
  setenv("SIMGPU_FAULTS", "call cuMemAlloc_v2 2 OUT_OF_MEMORY; call cuInit 1 NO_DEVICE", 1);
  const std::string trace = folder_ + "/trace";
  setenv("SIMGPU_TRACE", trace.c_str(), 1);
  InChild([] {
    EXPECT_EQ(cuInit(0), CUDA_ERROR_NO_DEVICE);
    ASSERT_EQ(cuInit(0), CUDA_SUCCESS);
    CUcontext context = nullptr;
    ASSERT_EQ(cuDevicePrimaryCtxRetain(&context, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuCtxSetCurrent(context), CUDA_SUCCESS);
    CUdeviceptr memory = 0, untouched = 1;
    EXPECT_EQ(cuMemAlloc_v2(&memory, 1 << 20), CUDA_SUCCESS);
    const size_t used = UsedMiB();
    EXPECT_EQ(cuMemAlloc_v2(&untouched, 1 << 20), CUDA_ERROR_OUT_OF_MEMORY);
    EXPECT_EQ(untouched, 1u);
    EXPECT_EQ(UsedMiB(), used);
    EXPECT_EQ(cuMemAlloc_v2(&memory, 1 << 20), CUDA_SUCCESS);
  });
  const std::vector<std::string> lines = Lines(trace);
  ASSERT_FALSE(lines.empty());
  EXPECT_EQ(lines[0], "1 t0 cuInit(Flags=0) = CUDA_ERROR_NO_DEVICE (by a fault rule)");
}

// The rule names the card, whatever the program calls it.
TEST_F(FrontTest, StickyErrorStaysUntilTheContextIsGone) {
  setenv("SIMGPU_FAULTS", "sticky card 1 ECC_UNCORRECTABLE", 1);
  setenv("CUDA_VISIBLE_DEVICES", "1,0", 1);
  InChild([] {
    ASSERT_EQ(cuInit(0), CUDA_SUCCESS);
    CUcontext bad = nullptr, good = nullptr;
    ASSERT_EQ(cuCtxCreate_v2(&bad, 0, 0), CUDA_SUCCESS);
    CUdeviceptr memory = 0;
    EXPECT_EQ(cuMemAlloc_v2(&memory, 100), CUDA_ERROR_ECC_UNCORRECTABLE);
    EXPECT_EQ(cuCtxSynchronize(), CUDA_ERROR_ECC_UNCORRECTABLE);
    ASSERT_EQ(cuCtxCreate_v2(&good, 0, 1), CUDA_SUCCESS);
    EXPECT_EQ(cuMemAlloc_v2(&memory, 100), CUDA_SUCCESS);
    EXPECT_EQ(cuCtxDestroy_v2(good), CUDA_SUCCESS);
    EXPECT_EQ(cuCtxDestroy_v2(bad), CUDA_SUCCESS);
  });
  unsetenv("CUDA_VISIBLE_DEVICES");
}

TEST_F(FrontTest, MemoryRuleIsWhatCanBeTaken) {
  setenv("SIMGPU_FAULTS", "memory card 0 1GiB", 1);
  WithContext([](CUcontext) {
    size_t free = 0, total = 0;
    ASSERT_EQ(cuMemGetInfo_v2(&free, &total), CUDA_SUCCESS);
    EXPECT_EQ(total, size_t{15360} << 20);
    EXPECT_LT(free, size_t{1} << 30);
    CUdeviceptr memory = 0;
    EXPECT_EQ(cuMemAlloc_v2(&memory, free + 1), CUDA_ERROR_OUT_OF_MEMORY);
    EXPECT_EQ(cuMemAlloc_v2(&memory, free), CUDA_SUCCESS);
  });
}

TEST_F(FrontTest, LostCardTakesNoNewContext) {
  InChild([this] {
    ASSERT_EQ(cuInit(0), CUDA_SUCCESS);
    CUcontext context = nullptr;
    ASSERT_EQ(cuCtxCreate_v2(&context, 0, 0), CUDA_SUCCESS);
    CUdeviceptr memory = 0;
    ASSERT_EQ(cuMemAlloc_v2(&memory, 100), CUDA_SUCCESS);
    WriteFaults("card 0 lost\n");
    // The process follows the file by itself; how soon is the machine's business.
    CUresult result = CUDA_SUCCESS;
    for (int i = 0; i < 20000 && result == CUDA_SUCCESS; ++i) {
      result = cuMemsetD8_v2(memory, 0, 1);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_EQ(result, CUDA_ERROR_UNKNOWN);
    CUcontext other = nullptr;
    EXPECT_EQ(cuCtxCreate_v2(&other, 0, 0), CUDA_ERROR_DEVICE_UNAVAILABLE);
    EXPECT_EQ(cuDevicePrimaryCtxRetain(&other, 0), CUDA_ERROR_DEVICE_UNAVAILABLE);
    EXPECT_EQ(cuDevicePrimaryCtxRetain(&other, 1), CUDA_SUCCESS);
    WriteFaults("");
    for (int i = 0; i < 20000 && result != CUDA_SUCCESS; ++i) {
      result = cuDevicePrimaryCtxRetain(&other, 0);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_EQ(result, CUDA_SUCCESS);
    // The old context stays what it was.
    EXPECT_EQ(cuMemsetD8_v2(memory, 0, 1), CUDA_ERROR_UNKNOWN);
  });
}

TEST_F(FrontTest, KernelsOfAHungCardWaitForTheRuleToGo) {
  WithContext([this](CUcontext) {
    CUmodule module = nullptr;
    CUfunction function = nullptr;
    ASSERT_EQ(cuModuleLoadData(&module,
                               ".version 6.4\n.target sm_70\n.address_size 64\n"
                               ".visible .entry nothing()\n{\n ret;\n}\n"),
              CUDA_SUCCESS);
    ASSERT_EQ(cuModuleGetFunction(&function, module, "nothing"), CUDA_SUCCESS);
    auto launch = [&] {
      return cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr);
    };
    ASSERT_EQ(launch(), CUDA_SUCCESS);
    ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    WriteFaults("hang card 0\n");
    // Once the rule is known; it is looked at within milliseconds.
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    ASSERT_EQ(launch(), CUDA_SUCCESS);
    for (int i = 0; i < 20; ++i) {
      ASSERT_EQ(cuStreamQuery(nullptr), CUDA_ERROR_NOT_READY);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    WriteFaults("hang card 1\n");
    EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
  });
}

// In device time, so how busy the machine is can only add to it.
TEST_F(FrontTest, SlowCopiesTakeTheirFactor) {
  setenv("SIMGPU_FAULTS", "slow-copy card 0 2000", 1);
  WithContext([](CUcontext) {
    constexpr size_t kBytes = 1 << 20;
    void* host = nullptr;
    CUdeviceptr memory = 0;
    CUevent start = nullptr, end = nullptr;
    ASSERT_EQ(cuMemHostAlloc(&host, kBytes, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuMemAlloc_v2(&memory, kBytes), CUDA_SUCCESS);
    ASSERT_EQ(cuEventCreate(&start, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuEventCreate(&end, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuEventRecord(start, nullptr), CUDA_SUCCESS);
    ASSERT_EQ(cuMemcpyHtoDAsync_v2(memory, host, kBytes, nullptr), CUDA_SUCCESS);
    ASSERT_EQ(cuEventRecord(end, nullptr), CUDA_SUCCESS);
    ASSERT_EQ(cuEventSynchronize(end), CUDA_SUCCESS);
    float milliseconds = 0;
    ASSERT_EQ(cuEventElapsedTime(&milliseconds, start, end), CUDA_SUCCESS);
    // No PCIe link of a T4 moves a mebibyte in less than 50 microseconds.
    EXPECT_GT(milliseconds, 100);
  });
}

// Threads that call while rules come and go.
TEST_F(FrontTest, RulesChangeUnderBusyThreads) {
  const std::string trace = folder_ + "/trace";
  setenv("SIMGPU_TRACE", trace.c_str(), 1);
  InChild([this] {
    ASSERT_EQ(cuInit(0), CUDA_SUCCESS);
    std::atomic<bool> stop{false};
    std::atomic<int> failed{0}, fine{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t) {
      threads.emplace_back([&] {
        int version = 0;
        while (!stop.load()) {
          (cuDriverGetVersion(&version) == CUDA_SUCCESS ? fine : failed).fetch_add(1);
          std::this_thread::sleep_for(std::chrono::microseconds(200));
        }
      });
    }
    auto until_more = [](std::atomic<int>& counter) {
      const int before = counter.load();
      for (int i = 0; i < 20000 && counter.load() == before; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
      EXPECT_GT(counter.load(), before);
    };
    for (int round = 0; round < 5; ++round) {
      WriteFaults("call cuDriverGetVersion 1+ 999\n");
      until_more(failed);
      std::filesystem::remove(folder_ + "/faults");
      until_more(fine);
    }
    stop.store(true);
    for (std::thread& thread : threads) thread.join();
  });
  // Every line is whole.
  for (const std::string& line : Lines(trace)) {
    EXPECT_TRUE(line.ends_with("CUDA_SUCCESS") || line.ends_with("UNKNOWN (by a fault rule)"))
        << line;
  }
}

}  // namespace
}  // namespace simgpu
