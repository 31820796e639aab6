// Copies of every shape, between every kind of memory.
#include <gtest/gtest.h>
#include <string.h>

#include <numeric>
#include <vector>

#include "abi/cuda_copy.h"
#include "simgpu/driver/test_support.h"

namespace simgpu {
namespace {

#define OK(call) ASSERT_EQ(call, CUDA_SUCCESS) << #call

class CopyTest : public DriverTest {};

std::vector<uint8_t> Counting(size_t bytes) {
  std::vector<uint8_t> made(bytes);
  for (size_t i = 0; i < bytes; ++i) made[i] = static_cast<uint8_t>(i * 7 + i / 251);
  return made;
}

CUdeviceptr NewMemory(const std::vector<uint8_t>& bytes) {
  CUdeviceptr made = 0;
  EXPECT_EQ(cuMemAlloc_v2(&made, bytes.size()), CUDA_SUCCESS);
  EXPECT_EQ(cuMemcpyHtoD_v2(made, bytes.data(), bytes.size()), CUDA_SUCCESS);
  return made;
}

std::vector<uint8_t> Read(CUdeviceptr from, size_t bytes) {
  std::vector<uint8_t> read(bytes);
  EXPECT_EQ(cuMemcpyDtoH_v2(read.data(), from, bytes), CUDA_SUCCESS);
  return read;
}

// A box of 5 x 3 x 2 bytes out of one block into another of other measures, byte by byte as well.
TEST_F(CopyTest, ABoxGoesWhereItShould) {
  WithContext([](CUcontext) {
    const std::vector<uint8_t> source = Counting(16 * 8 * 4);
    const CUdeviceptr from = NewMemory(source), to = NewMemory(std::vector<uint8_t>(20 * 6 * 5, 0));
    CUDA_MEMCPY3D copy{};
    copy.srcMemoryType = CU_MEMORYTYPE_DEVICE;
    copy.srcDevice = from;
    copy.srcPitch = 16;
    copy.srcHeight = 8;
    copy.srcXInBytes = 3;
    copy.srcY = 2;
    copy.srcZ = 1;
    copy.dstMemoryType = CU_MEMORYTYPE_UNIFIED;
    copy.dstDevice = to;
    copy.dstPitch = 20;
    copy.dstHeight = 6;
    copy.dstXInBytes = 11;
    copy.dstY = 1;
    copy.dstZ = 3;
    copy.WidthInBytes = 5;
    copy.Height = 3;
    copy.Depth = 2;
    OK(cuMemcpy3D_v2(&copy));
    std::vector<uint8_t> expected(20 * 6 * 5, 0);
    for (int z = 0; z < 2; ++z) {
      for (int y = 0; y < 3; ++y) {
        for (int x = 0; x < 5; ++x) {
          expected[((z + 3) * 6 + y + 1) * 20 + x + 11] =
              source[((z + 1) * 8 + y + 2) * 16 + x + 3];
        }
      }
    }
    EXPECT_EQ(Read(to, expected.size()), expected);
    // There it would run over the end, small allocations being rounded up to 512 bytes.
    copy.dstZ = 8;
    EXPECT_EQ(cuMemcpy3D_v2(&copy), CUDA_ERROR_INVALID_VALUE);
    copy.dstZ = 3;
    copy.dstPitch = 15;
    EXPECT_EQ(cuMemcpy3D_v2(&copy), CUDA_ERROR_INVALID_VALUE) << "rows would overlap";
    copy.dstPitch = 20;
    copy.dstHeight = 3;
    EXPECT_EQ(cuMemcpy3D_v2(&copy), CUDA_ERROR_INVALID_VALUE) << "slices would overlap";
    copy.dstHeight = 6;
    copy.srcLOD = 1;
    EXPECT_EQ(cuMemcpy3D_v2(&copy), CUDA_ERROR_INVALID_VALUE);
    copy.srcLOD = 0;
    copy.srcZ = SIZE_MAX / 64;
    EXPECT_EQ(cuMemcpy3D_v2(&copy), CUDA_ERROR_INVALID_VALUE) << "beyond all addresses";
    copy.srcZ = 1;
    copy.Depth = 0;
    EXPECT_EQ(cuMemcpy3DAsync_v2(&copy, nullptr), CUDA_SUCCESS);
    EXPECT_EQ(Read(to, expected.size()), expected);
  });
}

TEST_F(CopyTest, ArraysAreReadAndWrittenByEveryForm) {
  WithContext([](CUcontext) {
    const CUDA_ARRAY_DESCRIPTOR wanted{32, 0, CU_AD_FORMAT_UNSIGNED_INT32, 1};
    CUarray one = nullptr, other = nullptr;
    OK(cuArrayCreate_v2(&one, &wanted));
    OK(cuArrayCreate_v2(&other, &wanted));
    const std::vector<uint8_t> source = Counting(128);
    const CUdeviceptr device = NewMemory(std::vector<uint8_t>(128, 0));
    std::vector<uint8_t> back(128, 0);
    OK(cuMemcpyHtoA_v2(one, 0, source.data(), 128));
    OK(cuMemcpyAtoA_v2(other, 64, one, 0, 64));
    OK(cuMemcpyAtoA_v2(other, 0, one, 64, 64));
    OK(cuMemcpyAtoD_v2(device, other, 0, 128));
    OK(cuMemcpyDtoA_v2(one, 0, device + 64, 64));
    OK(cuMemcpyAtoH_v2(back.data(), one, 0, 128));
    EXPECT_EQ(back, source);
    std::vector<uint8_t> swapped(source.begin() + 64, source.end());
    swapped.insert(swapped.end(), source.begin(), source.begin() + 64);
    EXPECT_EQ(Read(device, 128), swapped);
    CUstream stream = nullptr;
    OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    OK(cuMemcpyHtoAAsync_v2(one, 4, source.data(), 8, stream));
    OK(cuMemcpyAtoHAsync_v2(back.data(), one, 0, 16, stream));
    OK(cuStreamSynchronize(stream));
    EXPECT_EQ(memcmp(back.data() + 4, source.data(), 8), 0);
    EXPECT_EQ(cuMemcpyHtoA_v2(one, 2, source.data(), 4), CUDA_ERROR_INVALID_VALUE)
        << "half an element";
    EXPECT_EQ(cuMemcpyHtoA_v2(one, 64, source.data(), 128), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemcpyHtoA_v2(nullptr, 0, source.data(), 4), CUDA_ERROR_INVALID_HANDLE);
  });
}

TEST_F(CopyTest, BetweenContexts) {
  InChild([] {
    OK(cuInit(0));
    CUcontext first = nullptr, second = nullptr;
    const std::vector<uint8_t> source = Counting(1000);
    OK(cuCtxCreate_v2(&first, 0, 0));
    const CUdeviceptr from = NewMemory(source);
    OK(cuCtxCreate_v2(&second, 0, 1));
    const CUdeviceptr to = NewMemory(std::vector<uint8_t>(1000, 0));
    OK(cuMemcpyPeer(to, second, from, first, 500));
    OK(cuMemcpyPeerAsync(to + 500, second, from + 500, first, 500, nullptr));
    EXPECT_EQ(Read(to, 1000), source);
    EXPECT_EQ(cuMemcpyPeer(to, nullptr, from, first, 500), CUDA_ERROR_INVALID_CONTEXT);
    CUDA_MEMCPY3D_PEER box{};
    box.srcMemoryType = box.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    box.srcDevice = from;
    box.srcContext = first;
    box.dstDevice = to;
    box.dstContext = second;
    box.dstXInBytes = 10;
    box.WidthInBytes = 20;
    box.Height = box.Depth = 1;
    OK(cuMemcpy3DPeer(&box));
    std::vector<uint8_t> expected = source;
    std::copy(source.begin(), source.begin() + 20, expected.begin() + 10);
    EXPECT_EQ(Read(to, 1000), expected);
    box.dstContext = nullptr;
    EXPECT_EQ(cuMemcpy3DPeer(&box), CUDA_ERROR_INVALID_CONTEXT);
  });
}

TEST_F(CopyTest, ABatchIsCheckedWholeBeforeAnyOfIt) {
  WithContext([](CUcontext) {
    std::vector<uint8_t> source = Counting(300);
    const CUdeviceptr to = NewMemory(std::vector<uint8_t>(300, 0));
    CUstream stream = nullptr;
    OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CUdeviceptr targets[3] = {to, to + 100, to + 200}, sources[3];
    for (int i = 0; i < 3; ++i) {
      sources[i] = reinterpret_cast<CUdeviceptr>(source.data()) + 100 * (2 - i);
    }
    size_t sizes[3] = {100, 100, 4000}, of[1] = {0}, failed = 77;
    CUmemcpyAttributes attributes[1] = {};
    attributes[0].srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL;
    EXPECT_EQ(cuMemcpyBatchAsync(targets, sources, sizes, 3, attributes, of, 1, &failed, stream),
              CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(failed, 2u);
    EXPECT_EQ(Read(to, 300), std::vector<uint8_t>(300, 0));
    sizes[2] = 100;
    EXPECT_EQ(cuMemcpyBatchAsync_v2(targets, sources, sizes, 3, attributes, of, 1, nullptr),
              CUDA_ERROR_INVALID_VALUE)
        << "not into the legacy default stream";
    OK(cuMemcpyBatchAsync_v2(targets, sources, sizes, 3, attributes, of, 1, stream));
    std::vector<uint8_t> expected;
    for (int i = 2; i >= 0; --i) {
      expected.insert(expected.end(), source.begin() + 100 * i, source.begin() + 100 * (i + 1));
    }
    source.assign(300, 0);
    OK(cuStreamSynchronize(stream));
    EXPECT_EQ(Read(to, 300), expected);
    attributes[0].srcAccessOrder = 4;
    EXPECT_EQ(cuMemcpyBatchAsync_v2(targets, sources, sizes, 3, attributes, of, 1, stream),
              CUDA_ERROR_INVALID_VALUE);
  });
}

TEST_F(CopyTest, FillsOfEveryWidth) {
  WithContext([](CUcontext) {
    const CUdeviceptr memory = NewMemory(std::vector<uint8_t>(4096, 1));
    OK(cuMemsetD32Async(memory, 0x04030201, 1000, nullptr));
    std::vector<uint8_t> read = Read(memory, 4096);
    for (size_t i = 0; i < 4000; ++i) ASSERT_EQ(read[i], i % 4 + 1);
    for (size_t i = 4000; i < 4096; ++i) ASSERT_EQ(read[i], 1);
    OK(cuMemsetD2D16_v2(memory, 64, 0x0908, 3, 2));
    read = Read(memory, 128);
    for (size_t i = 0; i < 128; ++i) {
      ASSERT_EQ(read[i], i % 64 < 6 ? 8 + i % 2 : i % 4 + 1) << i;
    }
    EXPECT_EQ(cuMemsetD32_v2(memory + 2, 0, 1), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemsetD8_v2(memory, 0, SIZE_MAX), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemsetD8Async(memory, 0, 10, reinterpret_cast<CUstream>(&read)),
              CUDA_ERROR_INVALID_HANDLE);
  });
}

}  // namespace
}  // namespace simgpu
