#include <gtest/gtest.h>
#include <string.h>

#include "abi/cuda.h"

namespace tessera::abi {
#include "simgpu/cuda_declarations.inc"
extern "C" void simgpu_null_counts(unsigned long* frees, unsigned long* launches);
}  // namespace tessera::abi

namespace simgpu {
namespace {

using namespace tessera::abi;  // NOLINT

TEST(NullDriver, LooksLikeOneCard) {
  int count = 0;
  EXPECT_EQ(cuInit(0), CUDA_SUCCESS);
  EXPECT_EQ(cuDeviceGetCount(&count), CUDA_SUCCESS);
  EXPECT_EQ(count, 1);
  char name[32];
  EXPECT_EQ(cuDeviceGetName(name, sizeof name, 0), CUDA_SUCCESS);
  EXPECT_STREQ(name, "simgpu null");
  CUcontext context = nullptr, current = nullptr;
  EXPECT_EQ(cuDevicePrimaryCtxRetain(&context, 0), CUDA_SUCCESS);
  ASSERT_NE(context, nullptr);
  EXPECT_EQ(cuCtxSetCurrent(context), CUDA_SUCCESS);
  EXPECT_EQ(cuCtxGetCurrent(&current), CUDA_SUCCESS);
  EXPECT_EQ(current, context);
  CUmodule module = nullptr;
  CUfunction function = nullptr;
  EXPECT_EQ(cuModuleLoadData(&module, ""), CUDA_SUCCESS);
  EXPECT_EQ(cuModuleGetFunction(&function, module, "any"), CUDA_SUCCESS);
  EXPECT_NE(function, nullptr);
}

TEST(NullDriver, AddressesRiseAndCallsAreCounted) {
  size_t free = 0, after = 0, total = 0;
  ASSERT_EQ(cuMemGetInfo_v2(&free, &total), CUDA_SUCCESS);
  CUdeviceptr a = 0, b = 0;
  EXPECT_EQ(cuMemAlloc_v2(&a, 100), CUDA_SUCCESS);
  EXPECT_EQ(cuMemAlloc_v2(&b, 1000), CUDA_SUCCESS);
  EXPECT_EQ(b - a, 512u);
  ASSERT_EQ(cuMemGetInfo_v2(&after, &total), CUDA_SUCCESS);
  EXPECT_EQ(free - after, 1536u);
  unsigned long frees = 0, launches = 0, frees_after = 0, launches_after = 0;
  simgpu_null_counts(&frees, &launches);
  EXPECT_EQ(cuMemFree_v2(a), CUDA_SUCCESS);
  EXPECT_EQ(cuLaunchKernel(nullptr, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr), CUDA_SUCCESS);
  EXPECT_EQ(cuLaunchKernelEx(nullptr, nullptr, nullptr, nullptr), CUDA_SUCCESS);
  simgpu_null_counts(&frees_after, &launches_after);
  EXPECT_EQ(frees_after - frees, 1u);
  EXPECT_EQ(launches_after - launches, 2u);
}

TEST(NullDriver, HandsOutItsFunctions) {
  void* function = nullptr;
  CUdriverProcAddressQueryResult status;
  EXPECT_EQ(cuGetProcAddress_v2("cuMemAlloc", &function, 13000, 0, &status), CUDA_SUCCESS);
  EXPECT_EQ(function, reinterpret_cast<void*>(&cuMemAlloc_v2));
  EXPECT_EQ(cuGetProcAddress("cuLaunchKernel", &function, 13000, 2), CUDA_SUCCESS);
  EXPECT_EQ(function, reinterpret_cast<void*>(&cuLaunchKernel_ptsz));
  EXPECT_EQ(cuGetProcAddress_v2("cuNothing", &function, 13000, 0, &status), CUDA_ERROR_NOT_FOUND);
  EXPECT_EQ(status, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
  // A generated one.
  EXPECT_EQ(cuGetProcAddress("cuMulticastCreate", &function, 13000, 0), CUDA_SUCCESS);
  EXPECT_EQ(cuMulticastCreate(nullptr, nullptr), CUDA_SUCCESS);
}

}  // namespace
}  // namespace simgpu
