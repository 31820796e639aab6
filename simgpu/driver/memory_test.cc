#include <string.h>

#include <atomic>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "simgpu/driver/test_support.h"
#include "simgpu/state/state.h"

namespace simgpu {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

TEST_F(DriverTest, BeforeInitNothingWorks) {
  InChild([] {
    int count = 0;
    size_t bytes = 0;
    CUdeviceptr address = 0;
    CUcontext context = nullptr;
    EXPECT_EQ(cuDeviceGetCount(&count), CUDA_ERROR_NOT_INITIALIZED);
    EXPECT_EQ(cuMemAlloc_v2(&address, 1), CUDA_ERROR_NOT_INITIALIZED);
    EXPECT_EQ(cuMemGetInfo_v2(&bytes, &bytes), CUDA_ERROR_NOT_INITIALIZED);
    EXPECT_EQ(cuCtxCreate_v2(&context, 0, 0), CUDA_ERROR_NOT_INITIALIZED);
    EXPECT_EQ(cuCtxGetCurrent(&context), CUDA_ERROR_NOT_INITIALIZED);
    EXPECT_EQ(cuStreamSynchronize(nullptr), CUDA_ERROR_NOT_INITIALIZED);
    int version = 0;
    EXPECT_EQ(cuDriverGetVersion(&version), CUDA_SUCCESS);
    EXPECT_EQ(version, 13000);
    EXPECT_EQ(cuInit(1), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuInit(0), CUDA_SUCCESS);
    EXPECT_EQ(cuInit(0), CUDA_SUCCESS);
    EXPECT_EQ(cuMemAlloc_v2(&address, 1), CUDA_ERROR_INVALID_CONTEXT);
  });
}

TEST_F(DriverTest, Devices) {
  InChild([] {
    ASSERT_EQ(cuInit(0), CUDA_SUCCESS);
    int count = 0, value = 0;
    ASSERT_EQ(cuDeviceGetCount(&count), CUDA_SUCCESS);
    ASSERT_EQ(count, 2);
    CUdevice device = -1;
    EXPECT_EQ(cuDeviceGet(&device, 1), CUDA_SUCCESS);
    EXPECT_EQ(cuDeviceGet(&device, 2), CUDA_ERROR_INVALID_DEVICE);
    EXPECT_EQ(cuDeviceGet(&device, -1), CUDA_ERROR_INVALID_DEVICE);
    char name[64];
    EXPECT_EQ(cuDeviceGetName(name, sizeof name, 0), CUDA_SUCCESS);
    EXPECT_STREQ(name, "Tesla T4");
    EXPECT_EQ(cuDeviceGetName(name, 4, 1), CUDA_SUCCESS);
    EXPECT_STREQ(name, "NVI");
    size_t bytes = 0;
    EXPECT_EQ(cuDeviceTotalMem_v2(&bytes, 0), CUDA_SUCCESS);
    EXPECT_EQ(bytes, 15360 * kMiB);
    EXPECT_EQ(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 0),
              CUDA_SUCCESS);
    EXPECT_EQ(value, 7);
    EXPECT_EQ(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 1),
              CUDA_SUCCESS);
    EXPECT_EQ(value, 108);
    EXPECT_EQ(cuDeviceGetAttribute(&value, CUdevice_attribute(0), 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuDeviceGetAttribute(&value, CUdevice_attribute(4000), 0), CUDA_ERROR_INVALID_VALUE);
    char bus[16];
    EXPECT_EQ(cuDeviceGetPCIBusId(bus, sizeof bus, 1), CUDA_SUCCESS);
    EXPECT_STREQ(bus, "0000:27:00.0");
    EXPECT_EQ(cuDeviceGetByPCIBusId(&device, bus), CUDA_SUCCESS);
    EXPECT_EQ(device, 1);
    EXPECT_EQ(cuDeviceGetByPCIBusId(&device, "27:00.0"), CUDA_SUCCESS);
    EXPECT_EQ(cuDeviceGetByPCIBusId(&device, "0000:99:00.0"), CUDA_ERROR_INVALID_DEVICE);
    CUuuid a, b;
    EXPECT_EQ(cuDeviceGetUuid_v2(&a, 0), CUDA_SUCCESS);
    EXPECT_EQ(cuDeviceGetUuid(&b, 1), CUDA_SUCCESS);
    EXPECT_NE(memcmp(&a, &b, sizeof a), 0);
  });
}

TEST_F(DriverTest, VisibleDevicesChoosesAndOrders) {
  std::string error;
  State* state = State::Open(&error);
  ASSERT_NE(state, nullptr) << error;
  const std::string second = state->card(1).uuid;
  for (const std::string& text : {std::string("1,0"), second.substr(0, 12)}) {
    setenv("CUDA_VISIBLE_DEVICES", text.c_str(), 1);
    InChild([&] {
      ASSERT_EQ(cuInit(0), CUDA_SUCCESS);
      int count = 0;
      EXPECT_EQ(cuDeviceGetCount(&count), CUDA_SUCCESS);
      EXPECT_EQ(count, text == "1,0" ? 2 : 1);
      char name[64];
      EXPECT_EQ(cuDeviceGetName(name, sizeof name, 0), CUDA_SUCCESS);
      EXPECT_STREQ(name, "NVIDIA A100-SXM4-80GB");
      // What is taken is taken of the right card.
      CUcontext context = nullptr;
      ASSERT_EQ(cuCtxCreate_v4(&context, nullptr, 0, 0), CUDA_SUCCESS);
      EXPECT_EQ(state->UsedBytes(1), 416 * kMiB);
      EXPECT_EQ(state->UsedBytes(0), 0u);
    });
  }
  setenv("CUDA_VISIBLE_DEVICES", "", 1);
  InChild([] {
    EXPECT_EQ(cuInit(0), CUDA_ERROR_NO_DEVICE);
    int count = 0;
    EXPECT_EQ(cuDeviceGetCount(&count), CUDA_ERROR_NOT_INITIALIZED);
  });
  unsetenv("CUDA_VISIBLE_DEVICES");
}

TEST_F(DriverTest, PrimaryContextIsCounted) {
  InChild([] {
    ASSERT_EQ(cuInit(0), CUDA_SUCCESS);
    unsigned int flags = 9;
    int active = 9;
    EXPECT_EQ(cuDevicePrimaryCtxGetState(0, &flags, &active), CUDA_SUCCESS);
    EXPECT_EQ(active, 0);
    EXPECT_EQ(cuDevicePrimaryCtxRelease_v2(0), CUDA_ERROR_INVALID_CONTEXT);
    CUcontext first = nullptr, second = nullptr;
    ASSERT_EQ(cuDevicePrimaryCtxRetain(&first, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuDevicePrimaryCtxRetain(&second, 0), CUDA_SUCCESS);
    EXPECT_EQ(first, second);
    ASSERT_EQ(cuCtxSetCurrent(first), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), 106u);
    EXPECT_EQ(cuDevicePrimaryCtxRelease_v2(0), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), 106u);
    EXPECT_EQ(cuCtxDestroy_v2(first), CUDA_ERROR_INVALID_CONTEXT);
    CUdeviceptr address = 0;
    EXPECT_EQ(cuMemAlloc_v2(&address, 10), CUDA_SUCCESS);
    EXPECT_EQ(cuDevicePrimaryCtxRelease_v2(0), CUDA_SUCCESS);
    EXPECT_EQ(cuMemAlloc_v2(&address, 10), CUDA_ERROR_CONTEXT_IS_DESTROYED);
    // Comes back empty.
    ASSERT_EQ(cuDevicePrimaryCtxRetain(&second, 0), CUDA_SUCCESS);
    EXPECT_EQ(first, second);
    EXPECT_EQ(UsedMiB(), 106u);
    EXPECT_EQ(cuDevicePrimaryCtxReset_v2(0), CUDA_SUCCESS);
    EXPECT_EQ(cuCtxSynchronize(), CUDA_ERROR_CONTEXT_IS_DESTROYED);
  });
}

TEST_F(DriverTest, ContextStack) {
  InChild([] {
    ASSERT_EQ(cuInit(0), CUDA_SUCCESS);
    CUcontext a = nullptr, b = nullptr, got = nullptr;
    ASSERT_EQ(cuCtxCreate_v2(&a, 0, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuCtxCreate_v3(&b, nullptr, 0, CU_CTX_SCHED_SPIN, 1), CUDA_SUCCESS);
    CUdevice device = -1;
    EXPECT_EQ(cuCtxGetDevice(&device), CUDA_SUCCESS);
    EXPECT_EQ(device, 1);
    EXPECT_EQ(cuCtxGetDevice_v2(&device, a), CUDA_SUCCESS);
    EXPECT_EQ(device, 0);
    unsigned int flags = 0;
    EXPECT_EQ(cuCtxGetFlags(&flags), CUDA_SUCCESS);
    EXPECT_EQ(flags, CU_CTX_SCHED_SPIN);
    EXPECT_EQ(cuCtxPopCurrent_v2(&got), CUDA_SUCCESS);
    EXPECT_EQ(got, b);
    EXPECT_EQ(cuCtxGetCurrent(&got), CUDA_SUCCESS);
    EXPECT_EQ(got, a);
    EXPECT_EQ(cuCtxPushCurrent_v2(b), CUDA_SUCCESS);
    EXPECT_EQ(cuCtxDestroy_v2(a), CUDA_SUCCESS);
    EXPECT_EQ(cuCtxDestroy_v2(a), CUDA_ERROR_INVALID_CONTEXT);
    EXPECT_EQ(cuCtxPopCurrent_v2(&got), CUDA_SUCCESS);
    EXPECT_EQ(cuCtxSynchronize(), CUDA_ERROR_CONTEXT_IS_DESTROYED);
    EXPECT_EQ(cuCtxPopCurrent_v2(&got), CUDA_SUCCESS);
    EXPECT_EQ(cuCtxPopCurrent_v2(&got), CUDA_ERROR_INVALID_CONTEXT);
    EXPECT_EQ(cuCtxSetCurrent(b), CUDA_SUCCESS);
    EXPECT_EQ(cuCtxSetCurrent(nullptr), CUDA_SUCCESS);
    EXPECT_EQ(cuCtxSynchronize(), CUDA_ERROR_INVALID_CONTEXT);
    EXPECT_EQ(cuCtxPushCurrent_v2(reinterpret_cast<CUcontext>(&device)),
              CUDA_ERROR_INVALID_CONTEXT);
    int pushed = 0;
    while (cuCtxPushCurrent_v2(b) == CUDA_SUCCESS) ++pushed;
    EXPECT_EQ(pushed, 64);
    EXPECT_EQ(cuCtxCreate_v2(&a, 0, 7), CUDA_ERROR_INVALID_DEVICE);
    EXPECT_EQ(cuCtxCreate_v2(nullptr, 0, 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuCtxCreate_v2(&a, 0x1000, 0), CUDA_ERROR_INVALID_VALUE);
  });
}

// Against a reference that only looks at addresses: what the card has lost is 2 MiB for each
// distinct 2 MiB of addresses with a live allocation, and the context.
TEST_F(DriverTest, MemoryModelOverRandomAllocations) {
  for (unsigned seed = 1; seed <= 3; ++seed) {
    WithContext([seed](CUcontext) {
      std::mt19937_64 random(seed);
      std::map<CUdeviceptr, size_t> live;
      const size_t context = UsedMiB();
      EXPECT_EQ(context, 106u);
      size_t expected = 0;
      for (int step = 0; step < 2000; ++step) {
        if (live.empty() || random() % 100 < 55) {
          size_t bytes = 0;
          switch (random() % 4) {
            case 0:
              bytes = 1 + random() % 2000;
              break;
            case 1:
              bytes = 1 + random() % (kMiB - 1);
              break;
            case 2:
              bytes = kMiB - 2 + random() % 4;
              break;
            default:
              bytes = 1 + random() % (64 * kMiB);
          }
          CUdeviceptr address = 0;
          ASSERT_EQ(cuMemAlloc_v2(&address, bytes), CUDA_SUCCESS);
          ASSERT_EQ(address % (bytes >= kMiB ? 2 * kMiB : 512), 0u);
          auto after = live.lower_bound(address);
          if (after != live.end()) {
            ASSERT_LE(address + bytes, after->first);
          }
          if (after != live.begin()) {
            auto before = std::prev(after);
            ASSERT_LE(before->first + before->second, address);
          }
          live[address] = bytes;
        } else {
          auto at = live.begin();
          std::advance(at, random() % live.size());
          ASSERT_EQ(cuMemFree_v2(at->first), CUDA_SUCCESS);
          live.erase(at);
        }
        std::set<CUdeviceptr> blocks, small, large;
        for (auto [address, bytes] : live) {
          for (CUdeviceptr block = address / (2 * kMiB);
               block <= (address + bytes - 1) / (2 * kMiB); ++block) {
            blocks.insert(block);
            (bytes >= kMiB ? large : small).insert(block);
          }
        }
        ASSERT_EQ(blocks.size(), small.size() + large.size()) << "a block of both sorts";
        expected = context + 2 * blocks.size();
        ASSERT_EQ(UsedMiB(), expected) << "step " << step;
      }
      for (auto [address, bytes] : live) ASSERT_EQ(cuMemFree_v2(address), CUDA_SUCCESS);
      EXPECT_EQ(UsedMiB(), context);
    });
  }
}

TEST_F(DriverTest, FreeAsToldFitsAndOneGranuleMoreDoesNot) {
  WithContext([](CUcontext) {
    size_t free = 0, total = 0;
    ASSERT_EQ(cuMemGetInfo_v2(&free, &total), CUDA_SUCCESS);
    EXPECT_EQ(free + 106 * kMiB, total);
    CUdeviceptr all = 0, more = 0;
    EXPECT_EQ(cuMemAlloc_v2(&all, free + 1), CUDA_ERROR_OUT_OF_MEMORY);
    ASSERT_EQ(cuMemAlloc_v2(&all, free), CUDA_SUCCESS);
    EXPECT_EQ(cuMemAlloc_v2(&more, 1), CUDA_ERROR_OUT_OF_MEMORY);
    EXPECT_EQ(cuMemFree_v2(all), CUDA_SUCCESS);
    EXPECT_EQ(cuMemAlloc_v2(&more, 1), CUDA_SUCCESS);
    EXPECT_EQ(cuMemAlloc_v2(&all, ~size_t{0}), CUDA_ERROR_OUT_OF_MEMORY);
    EXPECT_EQ(cuMemAlloc_v2(&all, 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemAlloc_v2(nullptr, 1), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemFree_v2(more + 1), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemFree_v2(0), CUDA_SUCCESS);
    EXPECT_EQ(cuMemFree_v2(more), CUDA_SUCCESS);
    EXPECT_EQ(cuMemFree_v2(more), CUDA_ERROR_INVALID_VALUE);
  });
}

// Two processes on one card see each other's use, and a killed one's memory comes back.
TEST_F(DriverTest, ProcessesShareTheCard) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  pid_t pid = fork();
  ASSERT_GE(pid, 0);
  if (pid == 0) {
    CUcontext context = nullptr;
    CUdeviceptr address = 0;
    const bool ok = cuInit(0) == CUDA_SUCCESS && cuCtxCreate_v2(&context, 0, 0) == CUDA_SUCCESS &&
                    cuMemAlloc_v2(&address, 1000 * kMiB) == CUDA_SUCCESS;
    if (!ok || write(ends[1], "r", 1) != 1) _exit(1);
    while (true) pause();
  }
  char byte = 0;
  close(ends[1]);
  ASSERT_EQ(read(ends[0], &byte, 1), 1);
  close(ends[0]);
  WithContext([](CUcontext) { EXPECT_EQ(UsedMiB(), 106u + 106u + 1000u); });
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
  WithContext([](CUcontext) { EXPECT_EQ(UsedMiB(), 106u); });
}

// Processes that allocate, copy and free without pause are killed at arbitrary points; the card is
// whole again each time, by the word of a process that was not there before.
TEST_F(DriverTest, KilledProcessesLoseNothing) {
  for (unsigned round = 0; round < 12; ++round) {
    std::vector<pid_t> children;
    for (unsigned i = 0; i < 3; ++i) {
      pid_t pid = fork();
      ASSERT_GE(pid, 0);
      if (pid == 0) {
        std::mt19937_64 random(round * 3 + i);
        CUcontext context = nullptr;
        if (cuInit(0) != CUDA_SUCCESS || cuCtxCreate_v2(&context, 0, 0) != CUDA_SUCCESS) _exit(1);
        std::vector<CUdeviceptr> held;
        while (true) {
          CUdeviceptr address = 0;
          if (random() % 2 == 0 &&
              cuMemAlloc_v2(&address, 1 + random() % (100 * kMiB)) == CUDA_SUCCESS) {
            cuMemsetD8_v2(address, 1, 1);
            held.push_back(address);
          } else if (!held.empty()) {
            std::swap(held[random() % held.size()], held.back());
            cuMemFree_v2(held.back());
            held.pop_back();
          }
        }
      }
      children.push_back(pid);
    }
    usleep(1000 * (1 + round * 7 % 40));
    for (pid_t pid : children) kill(pid, SIGKILL);
    for (pid_t pid : children) waitpid(pid, nullptr, 0);
    WithContext([](CUcontext) { EXPECT_EQ(UsedMiB(), 106u); });
  }
}

// Threads of one process use the driver at once, each in the same context.
TEST_F(DriverTest, ThreadsShareAContext) {
  WithContext([](CUcontext context) {
    std::vector<std::thread> threads;
    std::atomic<int> wrong{0};
    for (unsigned i = 0; i < 4; ++i) {
      threads.emplace_back([&, i] {
        std::mt19937_64 random(i);
        if (cuCtxSetCurrent(context) != CUDA_SUCCESS) ++wrong;
        for (int step = 0; step < 300; ++step) {
          CUdeviceptr address = 0;
          const size_t bytes = 8 + random() % (3 * kMiB);
          uint64_t value = random(), back = 0;
          if (cuMemAlloc_v2(&address, bytes) != CUDA_SUCCESS ||
              cuMemcpyHtoD_v2(address, &value, 8) != CUDA_SUCCESS ||
              cuMemcpyDtoH_v2(&back, address, 8) != CUDA_SUCCESS || back != value ||
              cuMemFree_v2(address) != CUDA_SUCCESS) {
            ++wrong;
          }
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(wrong.load(), 0);
    EXPECT_EQ(UsedMiB(), 106u);
  });
}

TEST_F(DriverTest, AForkedChildMustNotUseTheParentsDriver) {
  WithContext([](CUcontext context) {
    CUdeviceptr address = 0;
    ASSERT_EQ(cuMemAlloc_v2(&address, kMiB), CUDA_SUCCESS);
    InChild([&] {
      CUdeviceptr other = 0;
      EXPECT_EQ(cuMemAlloc_v2(&other, kMiB), CUDA_ERROR_NOT_INITIALIZED);
      EXPECT_EQ(cuCtxSetCurrent(context), CUDA_ERROR_NOT_INITIALIZED);
      EXPECT_EQ(cuInit(0), CUDA_ERROR_NOT_INITIALIZED);
    });
    // The child's death changes nothing here.
    EXPECT_EQ(UsedMiB(), 108u);
    EXPECT_EQ(cuMemFree_v2(address), CUDA_SUCCESS);
  });
}

TEST_F(DriverTest, AHostDereferenceOfADeviceAddressFaults) {
  pid_t pid = fork();
  ASSERT_GE(pid, 0);
  if (pid == 0) {
    CUcontext context = nullptr;
    CUdeviceptr address = 0;
    if (cuInit(0) != CUDA_SUCCESS || cuCtxCreate_v2(&context, 0, 0) != CUDA_SUCCESS ||
        cuMemAlloc_v2(&address, 64) != CUDA_SUCCESS) {
      _exit(1);
    }
    signal(SIGSEGV, SIG_DFL);
    *reinterpret_cast<volatile int*>(address) = 1;
    _exit(2);
  }
  int status = 0;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

TEST_F(DriverTest, CopiesAndFills) {
  WithContext([](CUcontext) {
    CUdeviceptr a = 0, b = 0;
    ASSERT_EQ(cuMemAlloc_v2(&a, 4096), CUDA_SUCCESS);
    ASSERT_EQ(cuMemAlloc_v2(&b, 3 * kMiB), CUDA_SUCCESS);
    std::vector<unsigned char> host(4096), back(4096);
    for (size_t i = 0; i < host.size(); ++i) host[i] = static_cast<unsigned char>(i * 7);
    ASSERT_EQ(cuMemcpyHtoD_v2(a, host.data(), 4096), CUDA_SUCCESS);
    ASSERT_EQ(cuMemcpyDtoD_v2(b + 100, a, 4096), CUDA_SUCCESS);
    ASSERT_EQ(cuMemcpyDtoHAsync_v2(back.data(), b + 100, 4096, nullptr), CUDA_SUCCESS);
    EXPECT_EQ(host, back);
    ASSERT_EQ(cuMemsetD8_v2(a, 0x5a, 4096), CUDA_SUCCESS);
    ASSERT_EQ(cuMemsetD16_v2(a + 2, 0x0102, 3), CUDA_SUCCESS);
    ASSERT_EQ(cuMemsetD32Async(a + 16, 0xdeadbeef, 2, nullptr), CUDA_SUCCESS);
    ASSERT_EQ(cuMemcpy(reinterpret_cast<CUdeviceptr>(back.data()), a, 32), CUDA_SUCCESS);
    const unsigned char expected[32] = {0x5a, 0x5a, 2,    1,    2,    1,    2,    1,
                                        0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a,
                                        0xef, 0xbe, 0xad, 0xde, 0xef, 0xbe, 0xad, 0xde,
                                        0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a};
    EXPECT_EQ(memcmp(back.data(), expected, 32), 0);
    // Over the end, unaligned, and into nothing.
    EXPECT_EQ(cuMemcpyHtoD_v2(a, host.data(), 4097), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemcpyDtoH_v2(back.data(), b + 4 * kMiB - 1, 2), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemsetD32_v2(a + 2, 0, 1), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemsetD8_v2(4096, 0, 1), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemcpyDtoD_v2(a, 4096, 1), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemcpyHtoD_v2(a, nullptr, 1), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemcpyHtoD_v2(a, nullptr, 0), CUDA_SUCCESS);
    EXPECT_EQ(cuMemcpyHtoDAsync_v2(a, host.data(), 1, reinterpret_cast<CUstream>(&a)),
              CUDA_ERROR_INVALID_HANDLE);
  });
}

TEST_F(DriverTest, TwoDimensions) {
  WithContext([](CUcontext) {
    CUdeviceptr plane = 0;
    size_t pitch = 0;
    ASSERT_EQ(cuMemAllocPitch_v2(&plane, &pitch, 100, 8, 4), CUDA_SUCCESS);
    EXPECT_EQ(pitch, 512u);
    ASSERT_EQ(cuMemsetD2D8_v2(plane, pitch, 1, 100, 8), CUDA_SUCCESS);
    ASSERT_EQ(cuMemsetD2D32_v2(plane + pitch, pitch, 0x04030201, 2, 2), CUDA_SUCCESS);
    unsigned char host[4 * 10];
    CUDA_MEMCPY2D copy = {};
    copy.srcMemoryType = CU_MEMORYTYPE_DEVICE;
    copy.srcDevice = plane;
    copy.srcPitch = pitch;
    copy.srcXInBytes = 4;
    copy.srcY = 1;
    copy.dstMemoryType = CU_MEMORYTYPE_HOST;
    copy.dstHost = host;
    copy.dstPitch = 10;
    copy.WidthInBytes = 10;
    copy.Height = 4;
    ASSERT_EQ(cuMemcpy2D_v2(&copy), CUDA_SUCCESS);
    const unsigned char first[10] = {1, 2, 3, 4, 1, 1, 1, 1, 1, 1};
    const unsigned char third[10] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    EXPECT_EQ(memcmp(host, first, 10), 0);
    EXPECT_EQ(memcmp(host + 10, first, 10), 0);
    EXPECT_EQ(memcmp(host + 20, third, 10), 0);
    copy.dstPitch = 9;
    EXPECT_EQ(cuMemcpy2DUnaligned_v2(&copy), CUDA_ERROR_INVALID_VALUE);
    copy.dstPitch = 10;
    copy.srcMemoryType = CU_MEMORYTYPE_ARRAY;
    EXPECT_EQ(cuMemcpy2D_v2(&copy), CUDA_ERROR_INVALID_HANDLE);
    EXPECT_EQ(cuMemsetD2D8_v2(plane, 99, 0, 100, 8), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemAllocPitch_v2(&plane, &pitch, 100, 8, 3), CUDA_ERROR_INVALID_VALUE);
  });
}

TEST_F(DriverTest, HostMemoryAndPointerQuestions) {
  WithContext([](CUcontext context) {
    void* pinned = nullptr;
    ASSERT_EQ(cuMemHostAlloc(&pinned, 5000, CU_MEMHOSTALLOC_DEVICEMAP), CUDA_SUCCESS);
    memset(pinned, 3, 5000);
    CUdeviceptr mapped = 0;
    ASSERT_EQ(cuMemHostGetDevicePointer_v2(&mapped, pinned, 0), CUDA_SUCCESS);
    unsigned int type = 0;
    EXPECT_EQ(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, mapped), CUDA_SUCCESS);
    EXPECT_EQ(type, CU_MEMORYTYPE_HOST);
    EXPECT_EQ(UsedMiB(), 106u);

    static char array[8192];
    ASSERT_EQ(cuMemHostRegister_v2(array, 4096, 0), CUDA_SUCCESS);
    EXPECT_EQ(cuMemHostRegister_v2(array + 4000, 4096, 0),
              CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    EXPECT_EQ(cuMemFreeHost(array), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemHostUnregister(array), CUDA_SUCCESS);
    EXPECT_EQ(cuMemHostUnregister(array), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);

    CUdeviceptr device = 0, base = 0;
    ASSERT_EQ(cuMemAlloc_v2(&device, 700), CUDA_SUCCESS);
    size_t bytes = 0;
    EXPECT_EQ(cuMemGetAddressRange_v2(&base, &bytes, device + 600), CUDA_SUCCESS);
    EXPECT_EQ(base, device);
    EXPECT_EQ(bytes, 700u);
    EXPECT_EQ(cuMemGetAddressRange_v2(&base, &bytes, 5), CUDA_ERROR_NOT_FOUND);
    CUcontext owner = nullptr;
    EXPECT_EQ(cuPointerGetAttribute(&owner, CU_POINTER_ATTRIBUTE_CONTEXT, device), CUDA_SUCCESS);
    EXPECT_EQ(owner, context);
    EXPECT_EQ(cuPointerGetAttribute(&owner, CU_POINTER_ATTRIBUTE_CONTEXT, 5),
              CUDA_ERROR_INVALID_VALUE);

    // The runtime asks these of every pointer; one the driver does not know gets neutral answers.
    CUpointer_attribute asked[] = {
        CU_POINTER_ATTRIBUTE_CONTEXT,        CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
        CU_POINTER_ATTRIBUTE_DEVICE_POINTER, CU_POINTER_ATTRIBUTE_HOST_POINTER,
        CU_POINTER_ATTRIBUTE_IS_MANAGED,     CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL};
    void* host = pinned;
    unsigned int managed = 7;
    int ordinal = 7;
    void* answers[] = {&owner, &type, &base, &host, &managed, &ordinal};
    EXPECT_EQ(cuPointerGetAttributes(6, asked, answers, reinterpret_cast<CUdeviceptr>(array)),
              CUDA_SUCCESS);
    EXPECT_EQ(owner, nullptr);
    EXPECT_EQ(type, 0u);
    EXPECT_EQ(host, nullptr);
    EXPECT_EQ(managed, 0u);
    EXPECT_EQ(ordinal, -2);
    EXPECT_EQ(cuMemFreeHost(pinned), CUDA_SUCCESS);
    EXPECT_EQ(cuMemFreeHost(pinned), CUDA_ERROR_INVALID_VALUE);

    CUdeviceptr shared = 0;
    ASSERT_EQ(cuMemAllocManaged(&shared, 100, 1), CUDA_SUCCESS);
    *reinterpret_cast<int*>(shared) = 77;
    int read = 0;
    EXPECT_EQ(cuMemcpyDtoH_v2(&read, shared, 4), CUDA_SUCCESS);
    EXPECT_EQ(read, 77);
    EXPECT_EQ(UsedMiB(), 106u + 2 + 2);
    EXPECT_EQ(cuMemFree_v2(shared), CUDA_SUCCESS);
    EXPECT_EQ(cuMemFree_v2(device), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), 106u);
  });
}

TEST_F(DriverTest, FreedMemoryGoesBackToTheMachine) {
  WithContext([](CUcontext) {
    CUdeviceptr address = 0;
    ASSERT_EQ(cuMemAlloc_v2(&address, 4 * kMiB), CUDA_SUCCESS);
    ASSERT_EQ(cuMemsetD8_v2(address, 9, 4 * kMiB), CUDA_SUCCESS);
    ASSERT_EQ(cuMemFree_v2(address), CUDA_SUCCESS);
    CUdeviceptr again = 0;
    ASSERT_EQ(cuMemAlloc_v2(&again, 4 * kMiB), CUDA_SUCCESS);
    ASSERT_EQ(again, address);
    unsigned char byte = 1;
    ASSERT_EQ(cuMemcpyDtoH_v2(&byte, again, 1), CUDA_SUCCESS);
    EXPECT_EQ(byte, 0);  // punched out, not kept
  });
}

void Note(void* data) { ++*static_cast<int*>(data); }
void NoteStream(CUstream, CUresult status, void* data) {
  EXPECT_EQ(status, CUDA_SUCCESS);
  ++*static_cast<int*>(data);
}

TEST_F(DriverTest, StreamsAndEvents) {
  WithContext([](CUcontext context) {
    CUstream stream = nullptr;
    ASSERT_EQ(cuStreamCreateWithPriority(&stream, CU_STREAM_NON_BLOCKING, -9), CUDA_SUCCESS);
    EXPECT_EQ(cuStreamCreate(&stream, 4), CUDA_ERROR_INVALID_VALUE);
    int priority = 1;
    unsigned int flags = 0;
    EXPECT_EQ(cuStreamGetPriority(stream, &priority), CUDA_SUCCESS);
    EXPECT_EQ(priority, -5);
    EXPECT_EQ(cuStreamGetFlags(stream, &flags), CUDA_SUCCESS);
    EXPECT_EQ(flags, CU_STREAM_NON_BLOCKING);
    CUcontext owner = nullptr;
    EXPECT_EQ(cuStreamGetCtx(stream, &owner), CUDA_SUCCESS);
    EXPECT_EQ(owner, context);
    for (uintptr_t name : {0, 1, 2}) {
      EXPECT_EQ(cuStreamSynchronize(reinterpret_cast<CUstream>(name)), CUDA_SUCCESS);
    }
    EXPECT_EQ(cuStreamQuery(reinterpret_cast<CUstream>(&priority)), CUDA_ERROR_INVALID_HANDLE);
    int called = 0;
    EXPECT_EQ(cuLaunchHostFunc(stream, Note, &called), CUDA_SUCCESS);
    EXPECT_EQ(cuStreamAddCallback(stream, NoteStream, &called, 0), CUDA_SUCCESS);
    EXPECT_EQ(cuStreamSynchronize(stream), CUDA_SUCCESS);
    EXPECT_EQ(called, 2);

    CUevent start = nullptr, end = nullptr, untimed = nullptr;
    ASSERT_EQ(cuEventCreate(&start, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuEventCreate(&end, CU_EVENT_BLOCKING_SYNC), CUDA_SUCCESS);
    ASSERT_EQ(cuEventCreate(&untimed, CU_EVENT_DISABLE_TIMING), CUDA_SUCCESS);
    float ms = -1;
    EXPECT_EQ(cuEventElapsedTime_v2(&ms, start, end), CUDA_ERROR_INVALID_HANDLE);
    EXPECT_EQ(cuEventRecord(start, stream), CUDA_SUCCESS);
    usleep(2000);
    EXPECT_EQ(cuEventRecord(end, stream), CUDA_SUCCESS);
    EXPECT_EQ(cuEventRecord(untimed, stream), CUDA_SUCCESS);
    EXPECT_EQ(cuEventQuery(end), CUDA_SUCCESS);
    EXPECT_EQ(cuEventSynchronize(end), CUDA_SUCCESS);
    EXPECT_EQ(cuStreamWaitEvent(stream, end, 0), CUDA_SUCCESS);
    EXPECT_EQ(cuEventElapsedTime_v2(&ms, start, end), CUDA_SUCCESS);
    EXPECT_GE(ms, 2.0f);
    EXPECT_EQ(cuEventElapsedTime_v2(&ms, start, untimed), CUDA_ERROR_INVALID_HANDLE);
    EXPECT_EQ(cuEventDestroy_v2(end), CUDA_SUCCESS);
    EXPECT_EQ(cuEventDestroy_v2(end), CUDA_ERROR_INVALID_HANDLE);
    EXPECT_EQ(cuStreamDestroy_v2(stream), CUDA_SUCCESS);
    EXPECT_EQ(cuStreamSynchronize(stream), CUDA_ERROR_INVALID_HANDLE);
  });
}

TEST_F(DriverTest, PoolForm) {
  WithContext([](CUcontext) {
    CUmemoryPool pool = nullptr;
    ASSERT_EQ(cuDeviceGetDefaultMemPool(&pool, 0), CUDA_SUCCESS);
    CUdeviceptr a = 0, b = 0;
    EXPECT_EQ(cuMemAllocAsync(&a, 100, nullptr), CUDA_SUCCESS);
    EXPECT_EQ(cuMemAllocFromPoolAsync(&b, 3 * kMiB, pool, nullptr), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), 106u + 2 + 4);
    EXPECT_EQ(cuMemFreeAsync(a, nullptr), CUDA_SUCCESS);
    EXPECT_EQ(cuMemFreeAsync(b, nullptr), CUDA_SUCCESS);
    EXPECT_EQ(cuStreamSynchronize(nullptr), CUDA_SUCCESS);
    EXPECT_EQ(cuMemPoolTrimTo(pool, 0), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), 106u);
    EXPECT_EQ(cuMemFreeAsync(b, nullptr), CUDA_ERROR_INVALID_VALUE);
  });
}

TEST_F(DriverTest, WhatIsNotSimulatedSaysSoOnceByName) {
  InChild([] {
    unsetenv("SIMGPU_QUIET");
    testing::internal::CaptureStderr();
    CUtexObject texture = 0;
    EXPECT_EQ(cuTexObjectCreate(&texture, nullptr, nullptr, nullptr), CUDA_ERROR_NOT_SUPPORTED);
    EXPECT_EQ(cuTexObjectCreate(&texture, nullptr, nullptr, nullptr), CUDA_ERROR_NOT_SUPPORTED);
    EXPECT_EQ(testing::internal::GetCapturedStderr(),
              "simgpu: cuTexObjectCreate is not simulated: CUDA_ERROR_NOT_SUPPORTED\n");
    testing::internal::CaptureStderr();
    const void* table = &texture;
    CUuuid uuid = {};
    EXPECT_EQ(cuGetExportTable(&table, &uuid), CUDA_ERROR_NOT_SUPPORTED);
    EXPECT_EQ(table, nullptr);
    EXPECT_NE(testing::internal::GetCapturedStderr().find("nvcc -cudart shared"),
              std::string::npos);
  });
}

TEST_F(DriverTest, ErrorTexts) {
  const char* text = nullptr;
  EXPECT_EQ(cuGetErrorName(CUDA_ERROR_OUT_OF_MEMORY, &text), CUDA_SUCCESS);
  EXPECT_STREQ(text, "CUDA_ERROR_OUT_OF_MEMORY");
  EXPECT_EQ(cuGetErrorString(CUDA_ERROR_OUT_OF_MEMORY, &text), CUDA_SUCCESS);
  EXPECT_STREQ(text, "out of memory");
  EXPECT_EQ(cuGetErrorName(CUresult(12345), &text), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(text, nullptr);
}

}  // namespace
}  // namespace simgpu
