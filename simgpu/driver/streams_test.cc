// Streams as programs see them: what order they give and what they do not, and what time passes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string.h>
#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "abi/cuda_graph.h"
#include "simgpu/driver/test_support.h"
#include "simgpu/driver/work.h"
#include "simgpu/state/engine.h"

namespace simgpu {
namespace {

constexpr const char* kKernels = R"(
.version 8.3
.target sm_75
.address_size 64

// Writes its number behind those that are there: log[0] counts.
.visible .entry append(.param .u64 log, .param .u32 number) {
  .reg .u32 %r<4>;
  .reg .u64 %d<4>;
  ld.param.u64 %d1, [log];
  ld.param.u32 %r1, [number];
  atom.global.add.u32 %r2, [%d1], 1;
  mul.wide.u32 %d2, %r2, 4;
  add.u64 %d3, %d1, %d2;
  st.global.u32 [%d3+4], %r1;
  ret;
}

.visible .entry stated(.param .u64 time) {
  .pragma "simgpu.time_ns param0";
  ret;
}

// Goes on when the flag is no longer zero.
.visible .entry spin(.param .u64 flag) {
  .reg .pred %p;
  .reg .u32 %r;
  .reg .u64 %d;
  ld.param.u64 %d, [flag];
again:
  ld.volatile.global.u32 %r, [%d];
  setp.eq.u32 %p, %r, 0;
  @%p bra again;
  ret;
}

.visible .entry store(.param .u64 to, .param .u32 value) {
  .reg .u32 %r;
  .reg .u64 %d;
  ld.param.u64 %d, [to];
  ld.param.u32 %r, [value];
  st.volatile.global.u32 [%d], %r;
  ret;
}
)";

#define OK(call) ASSERT_EQ(call, CUDA_SUCCESS) << #call

struct Kernels {
  CUfunction append, stated, spin, store;
  Kernels() {
    CUmodule module = nullptr;
    EXPECT_EQ(cuModuleLoadData(&module, kKernels), CUDA_SUCCESS);
    EXPECT_EQ(cuModuleGetFunction(&append, module, "append"), CUDA_SUCCESS);
    EXPECT_EQ(cuModuleGetFunction(&stated, module, "stated"), CUDA_SUCCESS);
    EXPECT_EQ(cuModuleGetFunction(&spin, module, "spin"), CUDA_SUCCESS);
    EXPECT_EQ(cuModuleGetFunction(&store, module, "store"), CUDA_SUCCESS);
  }
  static CUresult Launch(CUfunction function, CUstream stream, std::vector<void*> parameters) {
    return cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, parameters.data(), nullptr);
  }
  CUresult Append(CUdeviceptr log, uint32_t number, CUstream stream) const {
    return Launch(append, stream, {&log, &number});
  }
  CUresult Stated(uint64_t ns, CUstream stream) const { return Launch(stated, stream, {&ns}); }
  CUresult Spin(CUdeviceptr flag, CUstream stream) const { return Launch(spin, stream, {&flag}); }
  CUresult Store(CUdeviceptr to, uint32_t value, CUstream stream) const {
    return Launch(store, stream, {&to, &value});
  }
};

CUstream NewStream(unsigned int flags = 0) {
  CUstream stream = nullptr;
  EXPECT_EQ(cuStreamCreate(&stream, flags), CUDA_SUCCESS);
  return stream;
}
CUevent NewEvent(unsigned int flags = 0) {
  CUevent event = nullptr;
  EXPECT_EQ(cuEventCreate(&event, flags), CUDA_SUCCESS);
  return event;
}
CUdeviceptr NewZeros(size_t bytes) {
  CUdeviceptr made = 0;
  EXPECT_EQ(cuMemAlloc_v2(&made, bytes), CUDA_SUCCESS);
  EXPECT_EQ(cuMemsetD8_v2(made, 0, bytes), CUDA_SUCCESS);
  EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
  return made;
}
// A word that host and device can reach, zero.
std::atomic<uint32_t>* NewWord(CUdeviceptr* address) {
  void* made = nullptr;
  EXPECT_EQ(cuMemHostAlloc(&made, 64, 0), CUDA_SUCCESS);
  memset(made, 0, 64);
  *address = reinterpret_cast<CUdeviceptr>(made);
  return static_cast<std::atomic<uint32_t>*>(made);
}
std::vector<uint32_t> ReadLog(CUdeviceptr log) {
  uint32_t count = 0;
  EXPECT_EQ(cuMemcpyDtoH_v2(&count, log, 4), CUDA_SUCCESS);
  std::vector<uint32_t> numbers(count);
  if (count > 0) {
    EXPECT_EQ(cuMemcpyDtoH_v2(numbers.data(), log + 4, count * 4), CUDA_SUCCESS);
  }
  return numbers;
}
bool WithinAMinute(const std::function<bool()>& happened) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (!happened()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}
double ElapsedNs(CUevent from, CUevent to) {
  float milliseconds = -1e9f;
  EXPECT_EQ(cuEventElapsedTime_v2(&milliseconds, from, to), CUDA_SUCCESS);
  return milliseconds * 1e6;
}

class StreamsTest : public DriverTest {
 protected:
  void SetUp() override {
    DriverTest::SetUp();
    unsetenv("SIMGPU_SEED");
  }
  void TearDown() override {
    unsetenv("SIMGPU_SEED");
    DriverTest::TearDown();
  }
};

// A random program over streams and events, and the order it asks for.
struct Program {
  struct Step {
    enum { kLaunch, kRecord, kWait } what;
    int stream;  // 0 is the legacy default stream
    int event;
  };
  int streams = 0, events = 0;
  std::vector<bool> blocking;
  std::vector<Step> steps;
  // For each launch, those that have to come before it.
  std::vector<std::set<int>> before;

  explicit Program(uint32_t seed) {
    std::mt19937 random(seed);
    streams = 3 + static_cast<int>(random() % 4);
    events = 3;
    for (int i = 0; i < streams; ++i) blocking.push_back(i == 0 || random() % 3 != 0);
    std::vector<std::set<int>> done(streams), recorded(events);
    for (int i = 0; i < 60; ++i) {
      const Step step{static_cast<decltype(Step::what)>(random() % 4 == 0   ? Step::kRecord
                                                        : random() % 4 == 0 ? Step::kWait
                                                                            : Step::kLaunch),
                      static_cast<int>(random() % streams), static_cast<int>(random() % events)};
      steps.push_back(step);
      std::set<int>& here = done[step.stream];
      // Every entry into a stream, also of an event, follows the rules of the default stream.
      if (step.stream == 0) {
        for (int other = 1; other < streams; ++other) {
          if (blocking[other]) here.insert(done[other].begin(), done[other].end());
        }
      } else if (blocking[step.stream]) {
        here.insert(done[0].begin(), done[0].end());
      }
      if (step.what == Step::kRecord) recorded[step.event] = here;
      if (step.what == Step::kWait) {
        here.insert(recorded[step.event].begin(), recorded[step.event].end());
      }
      if (step.what == Step::kLaunch) {
        before.push_back(here);
        here.insert(static_cast<int>(before.size()) - 1);
      }
    }
  }

  // Runs it in the current context; answers where in the log each launch stands.
  std::vector<int> Run(const Kernels& kernels) const {
    const CUdeviceptr log = NewZeros(4096);
    std::vector<CUstream> made(streams, nullptr);
    for (int i = 1; i < streams; ++i) {
      made[i] = NewStream(blocking[i] ? CU_STREAM_DEFAULT : CU_STREAM_NON_BLOCKING);
    }
    std::vector<CUevent> event;
    for (int i = 0; i < events; ++i) event.push_back(NewEvent(CU_EVENT_DISABLE_TIMING));
    uint32_t launched = 0;
    for (const Step& step : steps) {
      switch (step.what) {
        case Step::kLaunch:
          EXPECT_EQ(kernels.Append(log, launched++, made[step.stream]), CUDA_SUCCESS);
          break;
        case Step::kRecord:
          EXPECT_EQ(cuEventRecord(event[step.event], made[step.stream]), CUDA_SUCCESS);
          break;
        case Step::kWait:
          EXPECT_EQ(cuStreamWaitEvent(made[step.stream], event[step.event], 0), CUDA_SUCCESS);
          break;
      }
    }
    EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    const std::vector<uint32_t> numbers = ReadLog(log);
    EXPECT_EQ(numbers.size(), before.size());
    std::vector<int> place(before.size(), -1);
    for (size_t i = 0; i < numbers.size(); ++i) place.at(numbers[i]) = static_cast<int>(i);
    for (int i = 1; i < streams; ++i) EXPECT_EQ(cuStreamDestroy_v2(made[i]), CUDA_SUCCESS);
    for (CUevent one : event) EXPECT_EQ(cuEventDestroy_v2(one), CUDA_SUCCESS);
    EXPECT_EQ(cuMemFree_v2(log), CUDA_SUCCESS);
    return place;
  }
};

TEST_F(StreamsTest, EveryOrderThatAProgramAsksForIsKept) {
  for (const char* seed : {"", "1", "2"}) {
    setenv("SIMGPU_SEED", seed, 1);
    WithContext([](CUcontext) {
      const Kernels kernels;
      for (uint32_t number = 0; number < 25; ++number) {
        const Program program(number);
        const std::vector<int> place = program.Run(kernels);
        for (size_t late = 0; late < place.size(); ++late) {
          for (int early : program.before[late]) {
            ASSERT_LT(place[early], place[late])
                << "program " << number << ": launch " << early << " before " << late;
          }
        }
      }
    });
  }
}

TEST_F(StreamsTest, SeedsShowBothOrdersOfWhatHasNone) {
  auto* seen = static_cast<std::atomic<int>*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(seen, MAP_FAILED);
  for (int seed = 1; seed <= 8; ++seed) {
    setenv("SIMGPU_SEED", std::to_string(seed).c_str(), 1);
    WithContext([&](CUcontext) {
      const Kernels kernels;
      const CUdeviceptr log = NewZeros(64);
      CUstream one = NewStream(), other = NewStream();
      // The program's mistake: nothing makes the second wait for the first.
      OK(kernels.Append(log, 0, one));
      OK(kernels.Append(log, 1, other));
      OK(cuCtxSynchronize());
      ++seen[ReadLog(log).at(0)];
    });
  }
  EXPECT_GT(seen[0].load(), 0);
  EXPECT_GT(seen[1].load(), 0) << "the missing wait was never caught";
  EXPECT_EQ(seen[0] + seen[1], 8);
  munmap(seen, 4096);
}

TEST_F(StreamsTest, TheSameSeedGivesTheSameOrder) {
  auto* seen = static_cast<std::atomic<uint32_t>*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(seen, MAP_FAILED);
  setenv("SIMGPU_SEED", "77", 1);
  for (int round = 0; round < 3; ++round) {
    WithContext([&](CUcontext) {
      const Kernels kernels;
      const CUdeviceptr log = NewZeros(256);
      CUdeviceptr gate = 0;
      std::atomic<uint32_t>* word = NewWord(&gate);
      // All of it is queued before any of it can be chosen.
      CUstream gated = NewStream(CU_STREAM_NON_BLOCKING);
      const CUevent open = NewEvent();
      OK(cuStreamWaitValue32_v2(gated, gate, 1, 1));
      OK(cuEventRecord(open, gated));
      for (uint32_t i = 0; i < 16; ++i) {
        CUstream stream = NewStream(CU_STREAM_NON_BLOCKING);
        OK(cuStreamWaitEvent(stream, open, 0));
        OK(kernels.Append(log, i, stream));
      }
      *word = 1;
      OK(cuCtxSynchronize());
      uint32_t digest = 0;
      for (uint32_t number : ReadLog(log)) digest = digest * 31 + number;
      seen[round] = digest;
    });
  }
  EXPECT_EQ(seen[0].load(), seen[1].load());
  EXPECT_EQ(seen[0].load(), seen[2].load());
  munmap(seen, 4096);
}

TEST_F(StreamsTest, QueuedKernelsLeaveNoGapOnTheEngine) {
  WithContext([](CUcontext) {
    constexpr int kCount = 50;
    constexpr uint64_t kEach = 300'000;
    const Kernels kernels;
    std::string error;
    Engine engine(State::Open(&error), 0);
    CUstream stream = NewStream();
    OK(kernels.Stated(20'000'000, stream));  // the host gets ahead
    const CUevent first = NewEvent(), last = NewEvent();
    OK(cuEventRecord(first, stream));
    const uint64_t busy = engine.BusyNs();
    for (int i = 0; i < kCount; ++i) OK(kernels.Stated(kEach, stream));
    OK(cuEventRecord(last, stream));
    EXPECT_EQ(cuStreamQuery(stream), CUDA_ERROR_NOT_READY);
    EXPECT_EQ(cuEventQuery(last), CUDA_ERROR_NOT_READY);
    float milliseconds = 0;
    EXPECT_EQ(cuEventElapsedTime_v2(&milliseconds, first, last), CUDA_ERROR_NOT_READY);
    OK(cuEventSynchronize(last));
    EXPECT_NEAR(ElapsedNs(first, last), kCount * kEach, 2'000);
    EXPECT_EQ(cuStreamQuery(stream), CUDA_SUCCESS);
    OK(cuCtxSynchronize());
    const uint64_t more = engine.BusyNs() - busy;
    EXPECT_GE(more, kCount * kEach);
    EXPECT_LE(more, kCount * kEach + 20'000'000);
  });
}

TEST_F(StreamsTest, TheEngineIsBusyExactlyAsLongAsItsWork) {
  WithContext([](CUcontext) {
    const Kernels kernels;
    std::string error;
    Engine engine(State::Open(&error), 0);
    OK(cuCtxSynchronize());
    const uint64_t before = engine.BusyNs();
    CUstream one = NewStream(CU_STREAM_NON_BLOCKING), other = NewStream(CU_STREAM_NON_BLOCKING);
    for (int i = 0; i < 40; ++i) OK(kernels.Stated(100'000 + i, i % 2 == 0 ? one : other));
    OK(cuCtxSynchronize());
    EXPECT_EQ(engine.BusyNs() - before, 40u * 100'000 + 39 * 40 / 2);
  });
}

TEST_F(StreamsTest, CopiesPassBesideKernels) {
  WithContext([](CUcontext) {
    const Kernels kernels;
    void* host = nullptr;
    OK(cuMemHostAlloc(&host, 1 << 20, 0));
    CUdeviceptr device = 0;
    OK(cuMemAlloc_v2(&device, 1 << 20));
    CUstream computes = NewStream(CU_STREAM_NON_BLOCKING),
             copies = NewStream(CU_STREAM_NON_BLOCKING);
    const CUevent computed = NewEvent(), copied = NewEvent();
    OK(kernels.Stated(2'000'000'000, computes));
    OK(cuEventRecord(computed, computes));
    OK(cuMemcpyHtoDAsync_v2(device, host, 1 << 20, copies));
    OK(cuEventRecord(copied, copies));
    OK(cuEventSynchronize(copied));
    EXPECT_EQ(cuEventQuery(computed), CUDA_ERROR_NOT_READY);
    OK(cuEventSynchronize(computed));
    EXPECT_GT(ElapsedNs(copied, computed), 0);
  });
}

TEST_F(StreamsTest, ACopyBehindAKernelWaitsForItInDeviceTime) {
  WithContext([](CUcontext) {
    constexpr size_t kBytes = 1 << 20;
    const Kernels kernels;
    void* host = nullptr;
    OK(cuMemHostAlloc(&host, kBytes, 0));
    CUdeviceptr device = NewZeros(kBytes), gate = 0;
    std::atomic<uint32_t>* word = NewWord(&gate);
    CUstream stream = NewStream();
    const CUevent start = NewEvent(), between = NewEvent(), end = NewEvent();
    // All of it is queued before any of it begins.
    OK(cuStreamWaitValue32_v2(stream, gate, 1, 1));
    OK(kernels.Stated(5'000'000, stream));
    OK(cuEventRecord(start, stream));
    OK(kernels.Stated(50'000'000, stream));
    OK(cuEventRecord(between, stream));
    OK(cuMemcpyDtoHAsync_v2(host, device, kBytes, stream));
    OK(cuEventRecord(end, stream));
    *word = 1;
    OK(cuStreamSynchronize(stream));
    EXPECT_NEAR(ElapsedNs(start, between), 50'000'000, 2'000);
    // 16 lanes of PCIe 3 at 85 %: 13.4 GB/s.
    EXPECT_NEAR(ElapsedNs(between, end), kBytes / 13.396 + 3'000, 5'000);
  });
}

TEST_F(StreamsTest, HostFunctionsComeInTheirPlaceAndMayCallNothing) {
  WithContext([](CUcontext) {
    struct Seen {
      std::atomic<uint32_t>* word;
      uint32_t before = 77;
      CUresult call = CUDA_SUCCESS;
      CUresult status = CUDA_ERROR_UNKNOWN;
      std::atomic<bool> done{false};
    } seen;
    const Kernels kernels;
    CUdeviceptr address = 0;
    seen.word = NewWord(&address);
    CUstream stream = NewStream();
    OK(kernels.Stated(3'000'000, stream));
    OK(kernels.Store(address, 1, stream));
    OK(cuLaunchHostFunc(
        stream,
        [](void* data) {
          auto* seen = static_cast<Seen*>(data);
          seen->before = *seen->word;
          seen->call = cuStreamQuery(nullptr);
        },
        &seen));
    OK(kernels.Store(address, 2, stream));
    OK(cuStreamAddCallback(
        stream,
        [](CUstream, CUresult status, void* data) {
          auto* seen = static_cast<Seen*>(data);
          seen->status = status;
          seen->done = *seen->word == 2;
        },
        &seen, 0));
    EXPECT_EQ(cuStreamQuery(stream), CUDA_ERROR_NOT_READY);
    OK(cuStreamSynchronize(stream));
    EXPECT_EQ(seen.before, 1u);
    EXPECT_EQ(seen.call, CUDA_ERROR_NOT_PERMITTED);
    EXPECT_EQ(seen.status, CUDA_SUCCESS);
    EXPECT_TRUE(seen.done);
    EXPECT_EQ(cuLaunchHostFunc(stream, nullptr, nullptr), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuStreamAddCallback(
                  stream, [](CUstream, CUresult, void*) {}, nullptr, 1),
              CUDA_ERROR_INVALID_VALUE);
  });
}

TEST_F(StreamsTest, AWordHoldsAStreamUntilItSaysSo) {
  WithContext([](CUcontext) {
    struct Case {
      uint32_t value, flags, not_yet, then;
    };
    const Case cases[] = {{5, 0, 4, 5},
                          {5, 0, 4, 9},
                          {0xfffffff0, 0, 0xffffffe0, 3},  // cyclic: 3 is beyond 0xfffffff0
                          {5, 1, 6, 5},
                          {6, 2, 9, 4},
                          {0x0f, 3, 0xfffffff0, 0x7ffffff0}};
    const Kernels kernels;
    CUdeviceptr address = 0, seen = 0;
    std::atomic<uint32_t>* word = NewWord(&address);
    std::atomic<uint32_t>* passed = NewWord(&seen);
    CUstream stream = NewStream();
    uint32_t round = 0;
    for (const Case& one : cases) {
      *word = one.not_yet;
      OK(cuStreamWaitValue32_v2(stream, address, one.value, one.flags));
      OK(cuStreamWriteValue32_v2(stream, seen, ++round, 0));
      EXPECT_EQ(cuStreamQuery(stream), CUDA_ERROR_NOT_READY);
      std::this_thread::sleep_for(std::chrono::milliseconds(3));
      EXPECT_EQ(*passed, round - 1);
      *word = one.then;
      OK(cuStreamSynchronize(stream));
      EXPECT_EQ(*passed, round);
    }
    // By 64 bits, released by a kernel of another stream.
    CUdeviceptr flag = NewZeros(64);
    CUstream other = NewStream(CU_STREAM_NON_BLOCKING);
    OK(cuStreamWaitValue64_v2(stream, flag, 1, 1));
    OK(cuStreamWriteValue64_v2(stream, flag + 8, 0x1'0000'0002, 1));
    EXPECT_EQ(cuStreamQuery(stream), CUDA_ERROR_NOT_READY);
    OK(kernels.Store(flag, 1, other));
    OK(cuStreamSynchronize(stream));
    uint64_t written = 0;
    OK(cuMemcpyDtoH_v2(&written, flag + 8, 8));
    EXPECT_EQ(written, 0x1'0000'0002u);
    // Several at once.
    CUstreamBatchMemOpParams batch[3] = {};
    batch[0].operation = CU_STREAM_MEM_OP_WRITE_VALUE_32;
    batch[0].address = seen;
    batch[0].value = 100;
    batch[1].operation = CU_STREAM_MEM_OP_WAIT_VALUE_32;
    batch[1].address = address;
    batch[1].value = 41;
    batch[1].flags = 1;
    batch[2].operation = CU_STREAM_MEM_OP_WRITE_VALUE_64;
    batch[2].address = flag;
    batch[2].value64 = 7;
    OK(cuStreamBatchMemOp_v2(stream, 3, batch, 0));
    EXPECT_TRUE(WithinAMinute([&] { return *passed == 100; }));
    EXPECT_EQ(cuStreamQuery(stream), CUDA_ERROR_NOT_READY);
    *word = 41;
    OK(cuStreamSynchronize(stream));
    // What is refused.
    EXPECT_EQ(cuStreamWaitValue32_v2(stream, address + 2, 1, 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuStreamWaitValue32_v2(stream, address, 1, 4), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuStreamWaitValue32_v2(stream, address, 1, 1u << 30), CUDA_ERROR_NOT_SUPPORTED);
    EXPECT_EQ(cuStreamWaitValue32_v2(stream, 0, 1, 0), CUDA_ERROR_INVALID_VALUE);
    batch[1].operation = static_cast<CUstreamBatchMemOpType>(99);
    EXPECT_EQ(cuStreamBatchMemOp_v2(stream, 3, batch, 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(*passed, 100u) << "nothing of a refused batch is done";
  });
}

TEST_F(StreamsTest, AFaultEndsWhatIsQueued) {
  InChild([] {
    OK(cuInit(0));
    CUcontext context = nullptr;
    OK(cuCtxCreate_v2(&context, 0, 0));
    const Kernels kernels;
    CUdeviceptr held = 0, gate = 0;
    NewWord(&held);
    // All is queued before the fault can happen, or a later call would already answer it.
    auto* open = NewWord(&gate);
    CUstream faults = NewStream(), waits = NewStream(CU_STREAM_NON_BLOCKING),
             spins = NewStream(CU_STREAM_NON_BLOCKING), lasts = NewStream(CU_STREAM_NON_BLOCKING);
    std::atomic<int> called{0};
    static std::atomic<unsigned int> status{0};
    OK(kernels.Spin(held, spins));                  // would never end
    OK(cuStreamWaitValue32_v2(waits, held, 1, 1));  // nor would this
    OK(kernels.Stated(3'600'000'000'000, lasts));   // nor this within an hour
    OK(cuStreamWaitValue32_v2(faults, gate, 1, 1));
    OK(kernels.Store(0xdead0000, 1, faults));
    OK(kernels.Stated(3'600'000'000'000, faults));
    OK(cuLaunchHostFunc(
        faults, [](void* data) { ++*static_cast<std::atomic<int>*>(data); }, &called));
    OK(cuStreamAddCallback(
        faults, [](CUstream, CUresult result, void*) { status = result; }, nullptr, 0));
    *open = 1;
    EXPECT_EQ(cuStreamSynchronize(lasts), CUDA_ERROR_ILLEGAL_ADDRESS);
    EXPECT_EQ(cuStreamSynchronize(waits), CUDA_ERROR_ILLEGAL_ADDRESS);
    CUdeviceptr more = 0;
    EXPECT_EQ(cuMemAlloc_v2(&more, 64), CUDA_ERROR_ILLEGAL_ADDRESS);
    EXPECT_TRUE(WithinAMinute([] { return status == CUDA_ERROR_ILLEGAL_ADDRESS; }));
    EXPECT_EQ(called, 0);
    // The context can go, and the next one is well.
    OK(cuCtxDestroy_v2(context));
    OK(cuCtxCreate_v2(&context, 0, 0));
    const Kernels again;
    const CUdeviceptr log = NewZeros(64);
    OK(again.Append(log, 5, nullptr));
    EXPECT_THAT(ReadLog(log), testing::ElementsAre(5));
    OK(cuCtxDestroy_v2(context));
  });
}

TEST_F(StreamsTest, AFullStreamMakesItsCallerWait) {
  WithContext([](CUcontext context) {
    CUdeviceptr address = 0;
    std::atomic<uint32_t>* word = NewWord(&address);
    CUstream stream = NewStream();
    OK(cuStreamWaitValue32_v2(stream, address, 1, 1));
    std::atomic<size_t> put{0};
    constexpr size_t kAll = 3 * kStreamDepthMax;
    std::thread caller([&] {
      OK(cuCtxSetCurrent(context));
      for (size_t i = 0; i < kAll; ++i) {
        OK(cuStreamWriteValue32_v2(stream, address + 4, static_cast<uint32_t>(i), 0));
        ++put;
      }
    });
    EXPECT_TRUE(WithinAMinute([&] { return put == kStreamDepthMax - 1; }));
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_EQ(put, kStreamDepthMax - 1);
    // Other streams are not affected.
    CUstream other = NewStream(CU_STREAM_NON_BLOCKING);
    OK(cuStreamWriteValue32_v2(other, address + 8, 9, 0));
    OK(cuStreamSynchronize(other));
    EXPECT_EQ(word[2], 9u);
    word[0] = 1;
    caller.join();
    OK(cuStreamSynchronize(stream));
    EXPECT_EQ(word[1], kAll - 1);
  });
}

TEST_F(StreamsTest, EachThreadHasADefaultStreamOfItsOwn) {
  WithContext([](CUcontext context) {
    const Kernels kernels;
    CUdeviceptr address = 0;
    std::atomic<uint32_t>* word = NewWord(&address);
    OK(cuStreamWaitValue32_v2_ptsz(nullptr, address, 1, 1));
    EXPECT_EQ(cuStreamQuery_ptsz(nullptr), CUDA_ERROR_NOT_READY);
    EXPECT_EQ(cuStreamQuery(reinterpret_cast<CUstream>(kStreamPerThread)), CUDA_ERROR_NOT_READY);
    unsigned long long mine = 0, theirs = 0, legacy = 0;
    OK(cuStreamGetId_ptsz(nullptr, &mine));
    OK(cuStreamGetId(nullptr, &legacy));
    std::thread other([&] {
      OK(cuCtxSetCurrent(context));
      EXPECT_EQ(cuStreamQuery_ptsz(nullptr), CUDA_SUCCESS);
      OK(cuStreamGetId_ptsz(nullptr, &theirs));
      OK(cuStreamWriteValue32_v2_ptsz(nullptr, address + 4, 3, 0));
      OK(cuStreamSynchronize_ptsz(nullptr));
      EXPECT_EQ(word[1], 3u);
      // Left behind by a thread that ends: the work goes on.
      OK(cuStreamWaitValue32_v2_ptsz(nullptr, address, 1, 1));
      OK(cuStreamWriteValue32_v2_ptsz(nullptr, address + 8, 4, 0));
    });
    other.join();
    EXPECT_NE(mine, theirs);
    EXPECT_NE(mine, legacy);
    // The legacy stream waits for all of them, even those of threads that are gone.
    OK(cuStreamWriteValue32_v2(nullptr, address + 12, 5, 0));
    EXPECT_EQ(cuStreamQuery(nullptr), CUDA_ERROR_NOT_READY);
    EXPECT_EQ(word[3], 0u);
    *word = 1;
    OK(cuStreamSynchronize(nullptr));
    EXPECT_EQ(word[2], 4u);
    EXPECT_EQ(word[3], 5u);
    EXPECT_EQ(cuStreamQuery_ptsz(nullptr), CUDA_SUCCESS);
  });
}

TEST_F(StreamsTest, TheLegacyStreamAndBlockingOnesWaitForEachOther) {
  WithContext([](CUcontext) {
    const Kernels kernels;
    CUdeviceptr address = 0;
    std::atomic<uint32_t>* word = NewWord(&address);
    const CUdeviceptr log = NewZeros(256);
    CUstream blocking = NewStream(), later = NewStream(), free = NewStream(CU_STREAM_NON_BLOCKING);
    OK(cuStreamWaitValue32_v2(blocking, address, 1, 1));
    OK(kernels.Append(log, 1, blocking));
    OK(kernels.Append(log, 2, nullptr));  // behind the blocking stream
    OK(kernels.Append(log, 3, later));    // behind the legacy one
    OK(kernels.Append(log, 0, free));     // behind nothing
    OK(cuStreamSynchronize(free));
    EXPECT_EQ(cuStreamQuery(blocking), CUDA_ERROR_NOT_READY);
    EXPECT_EQ(cuStreamQuery(nullptr), CUDA_ERROR_NOT_READY);
    EXPECT_EQ(cuStreamQuery(later), CUDA_ERROR_NOT_READY);
    *word = 1;
    OK(cuStreamSynchronize(later));
    EXPECT_EQ(cuStreamQuery(blocking), CUDA_SUCCESS);
    EXPECT_EQ(cuStreamQuery(nullptr), CUDA_SUCCESS);
    EXPECT_THAT(ReadLog(log), testing::ElementsAre(0, 1, 2, 3));
  });
}

TEST_F(StreamsTest, KernelsThatWaitForOthersHoldUpNobody) {
  WithContext([](CUcontext) {
    const Kernels kernels;
    const CUdeviceptr flag = NewZeros(64), log = NewZeros(256);
    constexpr uint32_t kSpinners = 6;  // more than there are processors to start with
    for (uint32_t i = 0; i < kSpinners; ++i) {
      CUstream stream = NewStream(CU_STREAM_NON_BLOCKING);
      OK(kernels.Spin(flag, stream));
      OK(kernels.Append(log, i + 1, stream));
    }
    CUstream last = NewStream(CU_STREAM_NON_BLOCKING);
    OK(kernels.Append(log, 0, last));
    OK(kernels.Store(flag, 1, last));
    OK(cuCtxSynchronize());
    const std::vector<uint32_t> numbers = ReadLog(log);
    ASSERT_EQ(numbers.size(), kSpinners + 1);
    EXPECT_EQ(numbers[0], 0u);
  });
}

TEST_F(StreamsTest, PageableMemoryIsReadBeforeTheCallReturns) {
  WithContext([](CUcontext) {
    CUdeviceptr address = 0;
    std::atomic<uint32_t>* word = NewWord(&address);
    for (size_t bytes : {size_t{100}, size_t{64} << 10}) {
      std::vector<uint8_t> source(bytes, 7), back(bytes, 0);
      CUdeviceptr device = 0;
      OK(cuMemAlloc_v2(&device, bytes));
      CUstream stream = NewStream();
      *word = 0;
      OK(cuStreamWaitValue32_v2(stream, address, 1, 1));
      OK(cuMemcpyHtoDAsync_v2(device, source.data(), bytes, stream));
      memset(source.data(), 9, bytes);
      *word = 1;
      // To pageable memory a copy is over when the call returns.
      OK(cuMemcpyDtoHAsync_v2(back.data(), device, bytes, stream));
      EXPECT_EQ(back, std::vector<uint8_t>(bytes, 7));
    }
    // More than is taken at once: the call returns when it was read.
    std::vector<uint8_t> source(4 << 20, 7), back(4 << 20, 0);
    CUdeviceptr device = 0;
    OK(cuMemAlloc_v2(&device, source.size()));
    CUstream stream = NewStream();
    OK(cuMemcpyHtoDAsync_v2(device, source.data(), source.size(), stream));
    memset(source.data(), 9, source.size());
    OK(cuMemcpyDtoHAsync_v2(back.data(), device, back.size(), stream));
    EXPECT_EQ(back, std::vector<uint8_t>(back.size(), 7));
  });
}

TEST_F(StreamsTest, EventsOfOtherDevicesAreWaitedFor) {
  InChild([] {
    OK(cuInit(0));
    CUcontext first = nullptr, second = nullptr;
    OK(cuCtxCreate_v2(&first, 0, 0));
    const Kernels there;
    CUdeviceptr address = 0;
    std::atomic<uint32_t>* word = NewWord(&address);
    CUstream far = NewStream();
    const CUevent event = NewEvent();
    OK(cuStreamWaitValue32_v2(far, address, 1, 1));
    OK(there.Stated(5'000'000, far));
    OK(cuEventRecord(event, far));
    OK(cuCtxCreate_v2(&second, 0, 1));
    const Kernels here;
    CUstream near = NewStream();
    EXPECT_EQ(cuEventRecord(event, near), CUDA_ERROR_INVALID_HANDLE) << "another context's";
    OK(cuStreamWaitEvent(near, event, 0));
    const CUevent start = NewEvent();
    OK(here.Stated(1'000'000, near));
    OK(cuEventRecord(start, near));
    EXPECT_EQ(cuStreamQuery(near), CUDA_ERROR_NOT_READY);
    EXPECT_EQ(cuStreamQuery(far), CUDA_ERROR_NOT_READY) << "a stream of another context";
    float milliseconds = 0;
    EXPECT_EQ(cuEventElapsedTime_v2(&milliseconds, event, start), CUDA_ERROR_INVALID_HANDLE);
    *word = 1;
    OK(cuStreamSynchronize(near));
    EXPECT_EQ(cuEventQuery(event), CUDA_SUCCESS);
    OK(cuCtxDestroy_v2(second));
    OK(cuCtxDestroy_v2(first));
  });
}

TEST_F(StreamsTest, EventsAnswerHonestly) {
  WithContext([](CUcontext) {
    const Kernels kernels;
    const CUevent never = NewEvent(), untimed = NewEvent(CU_EVENT_DISABLE_TIMING),
                  event = NewEvent(CU_EVENT_BLOCKING_SYNC);
    EXPECT_EQ(cuEventQuery(never), CUDA_SUCCESS);
    EXPECT_EQ(cuEventSynchronize(never), CUDA_SUCCESS);
    OK(cuEventRecord(event, nullptr));
    OK(cuEventSynchronize(event));
    OK(cuEventRecord(untimed, nullptr));
    float milliseconds = 0;
    EXPECT_EQ(cuEventElapsedTime_v2(&milliseconds, never, event), CUDA_ERROR_INVALID_HANDLE);
    EXPECT_EQ(cuEventElapsedTime_v2(&milliseconds, untimed, event), CUDA_ERROR_INVALID_HANDLE);
    EXPECT_EQ(cuEventElapsedTime_v2(nullptr, event, event), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(ElapsedNs(event, event), 0);
    CUevent refused = nullptr;
    EXPECT_EQ(cuEventCreate(&refused, 8), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuEventCreate(&refused, CU_EVENT_INTERPROCESS), CUDA_ERROR_INVALID_VALUE);
    OK(cuEventDestroy_v2(event));
    EXPECT_EQ(cuEventQuery(event), CUDA_ERROR_INVALID_HANDLE);
    // A record of before many others still knows its time.
    const CUevent old = NewEvent(), end = NewEvent();
    CUstream stream = NewStream();
    OK(kernels.Stated(1'000'000, stream));
    OK(cuEventRecord(old, stream));
    for (int i = 0; i < 400; ++i) {
      OK(kernels.Stated(10'000, stream));
      if (i % 2 == 0) {
        OK(cuStreamSynchronize(stream));  // an idle engine between
      }
    }
    OK(cuEventRecord(end, stream));
    OK(cuEventSynchronize(end));
    EXPECT_GE(ElapsedNs(old, end), 400 * 10'000 - 1'000);
  });
}

TEST_F(StreamsTest, CooperativeGridsHaveToFit) {
  WithContext([](CUcontext) {
    const Kernels kernels;
    const CUdeviceptr log = NewZeros(4096);
    uint32_t number = 1;
    CUdeviceptr to = log;
    void* parameters[] = {&to, &number};
    // A T4: 40 multiprocessors of 1024 threads and 16 blocks.
    EXPECT_EQ(
        cuLaunchCooperativeKernel(kernels.append, 41, 1, 1, 1024, 1, 1, 0, nullptr, parameters),
        CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
    OK(cuLaunchCooperativeKernel(kernels.append, 40, 1, 1, 1, 1, 1, 0, nullptr, parameters));
    EXPECT_EQ(ReadLog(log).size(), 40u);
  });
}

TEST_F(StreamsTest, AttributesAreKept) {
  WithContext([](CUcontext) {
    CUstream stream = NewStream(), other = NewStream();
    CUlaunchAttributeValue value{};
    OK(cuStreamGetAttribute(stream, CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY, &value));
    EXPECT_EQ(value.cooperative, 1);
    value.cooperative = 3;
    OK(cuStreamSetAttribute(stream, CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY, &value));
    value.cooperative = 5;
    EXPECT_EQ(cuStreamSetAttribute(stream, CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY, &value),
              CUDA_ERROR_INVALID_VALUE);
    value.priority = -3;
    OK(cuStreamSetAttribute(stream, CU_LAUNCH_ATTRIBUTE_PRIORITY, &value));
    OK(cuStreamCopyAttributes(other, stream));
    int priority = 0;
    OK(cuStreamGetPriority(other, &priority));
    EXPECT_EQ(priority, -3);
    OK(cuStreamGetAttribute(other, CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY, &value));
    EXPECT_EQ(value.cooperative, 3);
    EXPECT_EQ(cuStreamGetAttribute(stream, CU_LAUNCH_ATTRIBUTE_COOPERATIVE, &value),
              CUDA_ERROR_INVALID_VALUE);
    CUdevice device = -1;
    OK(cuStreamGetDevice(stream, &device));
    EXPECT_EQ(device, 0);
  });
}

TEST_F(StreamsTest, AProgramMayForkAndExitWhileItsCardIsBusy) {
  WithContext([](CUcontext) {
    const Kernels kernels;
    CUdeviceptr address = 0;
    NewWord(&address);
    OK(kernels.Spin(address, NewStream(CU_STREAM_NON_BLOCKING)));
    OK(kernels.Stated(3'600'000'000'000, NewStream(CU_STREAM_NON_BLOCKING)));
    OK(cuStreamWaitValue32_v2(NewStream(CU_STREAM_NON_BLOCKING), address, 1, 1));
    InChild([] {
      EXPECT_EQ(cuCtxSynchronize(), CUDA_ERROR_NOT_INITIALIZED);
      EXPECT_EQ(cuInit(0), CUDA_ERROR_NOT_INITIALIZED);
    });
    if (!testing::Test::HasFailure()) exit(0);
  });
}

TEST_F(StreamsTest, DestroyingWaitsForWhatIsUnderWay) {
  InChild([] {
    OK(cuInit(0));
    CUcontext context = nullptr;
    OK(cuCtxCreate_v2(&context, 0, 0));
    const Kernels kernels;
    static CUdeviceptr address = 0;
    void* made = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    OK(cuMemHostRegister_v2(made, 4096, 0));
    address = reinterpret_cast<CUdeviceptr>(made);
    auto* word = static_cast<std::atomic<uint32_t>*>(made);
    CUstream stream = NewStream();
    OK(kernels.Stated(20'000'000, stream));
    OK(kernels.Store(address, 1, stream));
    OK(cuStreamWriteValue32_v2(stream, address + 4, 2, 0));
    OK(cuStreamDestroy_v2(stream));  // its work goes on
    OK(cuCtxDestroy_v2(context));
    EXPECT_EQ(word[0], 1u);
    EXPECT_EQ(word[1], 2u);
  });
}

}  // namespace
}  // namespace simgpu
