#include <string.h>

#include <vector>

#include "simgpu/driver/test_support.h"
#include "simgpu/state/state.h"

namespace simgpu {
namespace {

constexpr char kPtx[] = R"(
.version 7.0
.target sm_75
.address_size 64

.visible .global .align 4 .u32 counter = 5;

.visible .entry add(
  .param .u64 add_a, .param .u64 add_b, .param .u64 add_c, .param .u32 add_n)
{
  .reg .pred %p<2>;
  .reg .b32 %r<9>;
  .reg .b64 %rd<9>;
  ld.param.u64 %rd1, [add_a];
  ld.param.u64 %rd2, [add_b];
  ld.param.u64 %rd3, [add_c];
  ld.param.u32 %r1, [add_n];
  mov.u32 %r2, %ctaid.x;
  mov.u32 %r3, %ntid.x;
  mov.u32 %r4, %tid.x;
  mad.lo.s32 %r5, %r2, %r3, %r4;
  setp.ge.u32 %p1, %r5, %r1;
  @%p1 bra done;
  mul.wide.u32 %rd4, %r5, 4;
  add.s64 %rd5, %rd1, %rd4;
  add.s64 %rd6, %rd2, %rd4;
  add.s64 %rd7, %rd3, %rd4;
  ld.global.u32 %r6, [%rd5];
  ld.global.u32 %r7, [%rd6];
  add.u32 %r8, %r6, %r7;
  st.global.u32 [%rd7], %r8;
done:
  ret;
}

.visible .entry bump()
{
  .reg .b32 %r<3>;
  ld.global.u32 %r1, [counter];
  add.u32 %r2, %r1, 1;
  st.global.u32 [counter], %r2;
  ret;
}
)";

// Adds two arrays through `launch`, which gets the kernel's parameter pointers.
void CheckAdd(const std::function<CUresult(void**)>& launch) {
  constexpr unsigned int kCount = 1000;
  std::vector<unsigned int> a(kCount), b(kCount), c(kCount);
  for (unsigned int i = 0; i < kCount; ++i) {
    a[i] = i;
    b[i] = 3 * i;
  }
  CUdeviceptr da = 0, db = 0, dc = 0;
  ASSERT_EQ(cuMemAlloc_v2(&da, 4 * kCount), CUDA_SUCCESS);
  ASSERT_EQ(cuMemAlloc_v2(&db, 4 * kCount), CUDA_SUCCESS);
  ASSERT_EQ(cuMemAlloc_v2(&dc, 4 * kCount), CUDA_SUCCESS);
  ASSERT_EQ(cuMemcpyHtoD_v2(da, a.data(), 4 * kCount), CUDA_SUCCESS);
  ASSERT_EQ(cuMemcpyHtoD_v2(db, b.data(), 4 * kCount), CUDA_SUCCESS);
  unsigned int n = kCount;
  void* parameters[] = {&da, &db, &dc, &n};
  ASSERT_EQ(launch(parameters), CUDA_SUCCESS);
  ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
  ASSERT_EQ(cuMemcpyDtoH_v2(c.data(), dc, 4 * kCount), CUDA_SUCCESS);
  for (unsigned int i = 0; i < kCount; ++i) ASSERT_EQ(c[i], 4 * i) << i;
  for (CUdeviceptr address : {da, db, dc}) ASSERT_EQ(cuMemFree_v2(address), CUDA_SUCCESS);
}

TEST_F(DriverTest, RunsAKernelFromAModule) {
  WithContext([](CUcontext) {
    CUmodule module = nullptr;
    CUfunction add = nullptr;
    ASSERT_EQ(cuModuleLoadData(&module, kPtx), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), 106u + 2);
    ASSERT_EQ(cuModuleGetFunction(&add, module, "add"), CUDA_SUCCESS);
    EXPECT_EQ(cuModuleGetFunction(&add, module, "subtract"), CUDA_ERROR_NOT_FOUND);
    CheckAdd([&](void** parameters) {
      return cuLaunchKernel(add, 8, 1, 1, 128, 1, 1, 0, nullptr, parameters, nullptr);
    });
    CheckAdd([&](void** parameters) {
      // The packed form: the same values in one buffer.
      struct {
        CUdeviceptr a, b, c;
        unsigned int n;
      } packed = {
          *static_cast<CUdeviceptr*>(parameters[0]), *static_cast<CUdeviceptr*>(parameters[1]),
          *static_cast<CUdeviceptr*>(parameters[2]), *static_cast<unsigned int*>(parameters[3])};
      size_t bytes = sizeof packed;
      void* extra[] = {reinterpret_cast<void*>(kLaunchParamBufferPointer), &packed,
                       reinterpret_cast<void*>(kLaunchParamBufferSize), &bytes, nullptr};
      return cuLaunchKernel(add, 8, 1, 1, 128, 1, 1, 0, nullptr, nullptr, extra);
    });
    CheckAdd([&](void** parameters) {
      CUlaunchConfig config = {};
      config.gridDimX = 8;
      config.gridDimY = config.gridDimZ = 1;
      config.blockDimX = 128;
      config.blockDimY = config.blockDimZ = 1;
      return cuLaunchKernelEx(&config, add, parameters, nullptr);
    });
    size_t offset = 0, size = 0;
    EXPECT_EQ(cuFuncGetParamInfo(add, 3, &offset, &size), CUDA_SUCCESS);
    EXPECT_EQ(offset, 24u);
    EXPECT_EQ(size, 4u);
    EXPECT_EQ(cuFuncGetParamInfo(add, 4, &offset, &size), CUDA_ERROR_INVALID_VALUE);
    unsigned int count = 0;
    EXPECT_EQ(cuModuleGetFunctionCount(&count, module), CUDA_SUCCESS);
    EXPECT_EQ(count, 2u);
    EXPECT_EQ(cuModuleUnload(module), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), 106u);
    EXPECT_EQ(cuModuleUnload(module), CUDA_ERROR_INVALID_HANDLE);
    EXPECT_EQ(cuLaunchKernel(add, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr),
              CUDA_ERROR_INVALID_HANDLE);
  });
}

TEST_F(DriverTest, VariablesAndLibraries) {
  WithContext([](CUcontext) {
    CUlibrary library = nullptr;
    CUlibraryOption option = CUlibraryOption(1);
    void* value = reinterpret_cast<void*>(1);
    ASSERT_EQ(cuLibraryLoadData(&library, kPtx, nullptr, nullptr, 0, &option, &value, 1),
              CUDA_SUCCESS);
    // Nothing is on the card before something of the library is used.
    EXPECT_EQ(UsedMiB(), 106u);
    CUkernel bump = nullptr, add = nullptr;
    ASSERT_EQ(cuLibraryGetKernel(&bump, library, "bump"), CUDA_SUCCESS);
    ASSERT_EQ(cuLibraryGetKernel(&add, library, "add"), CUDA_SUCCESS);
    EXPECT_EQ(cuLibraryGetKernel(&add, library, "nothing"), CUDA_ERROR_NOT_FOUND);
    CUdeviceptr counter = 0;
    size_t bytes = 0;
    ASSERT_EQ(cuLibraryGetGlobal(&counter, &bytes, library, "counter"), CUDA_SUCCESS);
    EXPECT_EQ(bytes, 4u);
    EXPECT_EQ(UsedMiB(), 108u);
    EXPECT_EQ(cuMemFree_v2(counter), CUDA_ERROR_INVALID_VALUE);
    // A kernel handle is accepted where a function is expected.
    ASSERT_EQ(cuLaunchKernel(reinterpret_cast<CUfunction>(bump), 1, 1, 1, 1, 1, 1, 0, nullptr,
                             nullptr, nullptr),
              CUDA_SUCCESS);
    CUfunction function = nullptr;
    ASSERT_EQ(cuKernelGetFunction(&function, bump), CUDA_SUCCESS);
    ASSERT_EQ(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr),
              CUDA_SUCCESS);
    unsigned int now = 0;
    ASSERT_EQ(cuMemcpyDtoH_v2(&now, counter, 4), CUDA_SUCCESS);
    EXPECT_EQ(now, 7u);
    // In another context the variable is another one.
    CUcontext other = nullptr;
    ASSERT_EQ(cuCtxCreate_v2(&other, 0, 0), CUDA_SUCCESS);
    CUdeviceptr second = 0;
    ASSERT_EQ(cuLibraryGetGlobal(&second, nullptr, library, "counter"), CUDA_SUCCESS);
    EXPECT_NE(second, counter);
    ASSERT_EQ(cuMemcpyDtoH_v2(&now, second, 4), CUDA_SUCCESS);
    EXPECT_EQ(now, 5u);
    EXPECT_EQ(UsedMiB(), 2 * 108u);
    int attribute = 0;
    EXPECT_EQ(cuKernelGetAttribute(&attribute, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, add, 0),
              CUDA_SUCCESS);
    EXPECT_EQ(attribute, 1024);
    EXPECT_EQ(cuKernelGetAttribute(&attribute, CU_FUNC_ATTRIBUTE_BINARY_VERSION, add, 0),
              CUDA_SUCCESS);
    EXPECT_EQ(attribute, 75);
    EXPECT_EQ(cuLibraryUnload(library), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), 2 * 106u);
    EXPECT_EQ(cuKernelGetFunction(&function, bump), CUDA_ERROR_INVALID_HANDLE);
  });
}

TEST_F(DriverTest, BadPtxExplainsItself) {
  WithContext([](CUcontext) {
    CUmodule module = nullptr;
    char log[200] = {};
    CUjit_option options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    void* values[] = {log, reinterpret_cast<void*>(sizeof log)};
    EXPECT_EQ(cuModuleLoadDataEx(&module,
                                 ".version 7.0\n.target sm_75\n.address_size 64\n"
                                 ".entry k() { mov.u32 %r1, %tid.x; }\n",
                                 2, options, values),
              CUDA_ERROR_INVALID_PTX);
    EXPECT_NE(strstr(log, "line "), nullptr) << log;
    EXPECT_EQ(reinterpret_cast<size_t>(values[1]), strlen(log));
    values[1] = reinterpret_cast<void*>(sizeof log);
    EXPECT_EQ(cuModuleLoadDataEx(&module, ".version 7.0\n.target sm_90\n.address_size 64\n", 2,
                                 options, values),
              CUDA_ERROR_INVALID_PTX);
    EXPECT_NE(strstr(log, "sm_90 is newer"), nullptr) << log;
    EXPECT_EQ(cuModuleLoadData(&module,
                               "\x7f"
                               "ELF"),
              CUDA_ERROR_NO_BINARY_FOR_GPU);
    EXPECT_EQ(cuModuleLoad(&module, "/nonexistent.ptx"), CUDA_ERROR_FILE_NOT_FOUND);
    EXPECT_EQ(cuModuleLoadData(&module, nullptr), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(UsedMiB(), 106u);
  });
}

// A kernel that needs what the interpreter lacks does not sink its module; its launch says why.
TEST_F(DriverTest, AnUnsupportedKernelIsRefusedAtLaunch) {
  WithContext([](CUcontext) {
    CUmodule module = nullptr;
    CUfunction bad = nullptr, good = nullptr;
    ASSERT_EQ(cuModuleLoadData(&module,
                               ".version 7.0\n.target sm_75\n.address_size 64\n"
                               ".entry bad() { frobnicate; ret; }\n.entry good() { ret; }\n"),
              CUDA_SUCCESS);
    ASSERT_EQ(cuModuleGetFunction(&bad, module, "bad"), CUDA_SUCCESS);
    ASSERT_EQ(cuModuleGetFunction(&good, module, "good"), CUDA_SUCCESS);
    unsetenv("SIMGPU_QUIET");
    testing::internal::CaptureStderr();
    EXPECT_EQ(cuLaunchKernel(bad, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr),
              CUDA_ERROR_NOT_SUPPORTED);
    EXPECT_NE(testing::internal::GetCapturedStderr().find("frobnicate"), std::string::npos);
    EXPECT_EQ(cuLaunchKernel(good, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr), CUDA_SUCCESS);
    EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
  });
}

TEST_F(DriverTest, LaunchRefusals) {
  WithContext([](CUcontext) {
    CUmodule module = nullptr;
    CUfunction add = nullptr, bump = nullptr;
    ASSERT_EQ(cuModuleLoadData(&module, kPtx), CUDA_SUCCESS);
    ASSERT_EQ(cuModuleGetFunction(&add, module, "add"), CUDA_SUCCESS);
    ASSERT_EQ(cuModuleGetFunction(&bump, module, "bump"), CUDA_SUCCESS);
    auto launch = [&](unsigned int grid, unsigned int block, unsigned int shared) {
      return cuLaunchKernel(bump, grid, 1, 1, block, 1, 1, shared, nullptr, nullptr, nullptr);
    };
    EXPECT_EQ(launch(0, 1, 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(launch(1, 1025, 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(launch(1, 1, 49153), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuFuncSetAttribute(bump, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 65536),
              CUDA_SUCCESS);
    EXPECT_EQ(launch(1, 1, 65536), CUDA_SUCCESS);
    EXPECT_EQ(cuFuncSetAttribute(bump, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 65537),
              CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuLaunchKernel(add, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr),
              CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuLaunchKernel(bump, 1, 1, 1, 1, 1, 1, 0, reinterpret_cast<CUstream>(&module),
                             nullptr, nullptr),
              CUDA_ERROR_INVALID_HANDLE);
    // A function of another context.
    CUcontext other = nullptr;
    ASSERT_EQ(cuCtxCreate_v2(&other, 0, 0), CUDA_SUCCESS);
    EXPECT_EQ(launch(1, 1, 0), CUDA_ERROR_INVALID_CONTEXT);
  });
}

TEST_F(DriverTest, AFaultSticksUntilTheContextIsGone) {
  InChild([] {
    ASSERT_EQ(cuInit(0), CUDA_SUCCESS);
    CUcontext context = nullptr;
    ASSERT_EQ(cuCtxCreate_v2(&context, 0, 0), CUDA_SUCCESS);
    CUmodule module = nullptr;
    CUfunction add = nullptr;
    ASSERT_EQ(cuModuleLoadData(&module, kPtx), CUDA_SUCCESS);
    ASSERT_EQ(cuModuleGetFunction(&add, module, "add"), CUDA_SUCCESS);
    CUdeviceptr nowhere = 64;
    unsigned int n = 1;
    void* parameters[] = {&nowhere, &nowhere, &nowhere, &n};
    // The launch is accepted; the fault is told by what comes after.
    EXPECT_EQ(cuLaunchKernel(add, 1, 1, 1, 32, 1, 1, 0, nullptr, parameters, nullptr),
              CUDA_SUCCESS);
    CUdeviceptr address = 0;
    EXPECT_EQ(cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
    EXPECT_EQ(cuMemAlloc_v2(&address, 10), CUDA_ERROR_ILLEGAL_ADDRESS);
    EXPECT_EQ(cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
    // Another context is well, and after the bad one is gone so is the memory.
    CUcontext other = nullptr;
    ASSERT_EQ(cuCtxCreate_v2(&other, 0, 0), CUDA_SUCCESS);
    EXPECT_EQ(cuMemAlloc_v2(&address, 10), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), 106u + 106 + 2 + 2);
    EXPECT_EQ(cuCtxDestroy_v2(context), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), 106u + 2);
  });
}

TEST_F(DriverTest, ALaunchIsBusyTime) {
  WithContext([](CUcontext) {
    CUmodule module = nullptr;
    CUfunction bump = nullptr;
    ASSERT_EQ(cuModuleLoadData(&module, kPtx), CUDA_SUCCESS);
    ASSERT_EQ(cuModuleGetFunction(&bump, module, "bump"), CUDA_SUCCESS);
    std::string error;
    State* witness = State::Open(&error);
    ASSERT_NE(witness, nullptr) << error;
    ASSERT_EQ(witness->Processes(0, 0).size(), 1u);
    const uint64_t before = witness->Processes(0, 0)[0].busy_ns;
    ASSERT_EQ(cuLaunchKernel(bump, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr), CUDA_SUCCESS);
    ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    EXPECT_GT(witness->Processes(0, 0)[0].busy_ns, before);
  });
}

TEST_F(DriverTest, Occupancy) {
  WithContext([](CUcontext) {
    CUmodule module = nullptr;
    CUfunction bump = nullptr;
    ASSERT_EQ(cuModuleLoadData(&module, kPtx), CUDA_SUCCESS);
    ASSERT_EQ(cuModuleGetFunction(&bump, module, "bump"), CUDA_SUCCESS);
    int blocks = 0, grid = 0, block = 0;
    // A T4 holds 1,024 threads, 16 blocks and 64 KiB of shared memory on a multiprocessor.
    EXPECT_EQ(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, bump, 256, 0), CUDA_SUCCESS);
    EXPECT_EQ(blocks, 4);
    EXPECT_EQ(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, bump, 32, 0), CUDA_SUCCESS);
    EXPECT_EQ(blocks, 16);
    EXPECT_EQ(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, bump, 32, 32768), CUDA_SUCCESS);
    EXPECT_EQ(blocks, 2);
    EXPECT_EQ(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, bump, 2048, 0), CUDA_SUCCESS);
    EXPECT_EQ(blocks, 0);
    EXPECT_EQ(cuOccupancyMaxPotentialBlockSize(&grid, &block, bump, nullptr, 0, 0), CUDA_SUCCESS);
    EXPECT_EQ(block, 1024);
    EXPECT_EQ(grid, 40);
  });
}

}  // namespace
}  // namespace simgpu
