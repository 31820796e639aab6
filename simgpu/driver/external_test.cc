// Memory and semaphores that another interface made: a memory file stands for what it exported.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "abi/cuda_graph.h"
#include "simgpu/driver/memory_test_support.h"

namespace simgpu {
namespace {

// What Vulkan's export of an allocation would give.
int FileOf(size_t bytes) {
  const int fd = memfd_create("exported", MFD_CLOEXEC);
  EXPECT_EQ(ftruncate(fd, static_cast<off_t>(bytes)), 0);
  return fd;
}

CUresult Import(CUexternalMemory* memory, int fd, size_t bytes) {
  CUDA_EXTERNAL_MEMORY_HANDLE_DESC given = {};
  given.type = CU_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD;
  given.handle.fd = fd;
  given.size = bytes;
  return cuImportExternalMemory(memory, &given);
}

CUresult MapBuffer(CUdeviceptr* address, CUexternalMemory memory, size_t offset, size_t bytes) {
  CUDA_EXTERNAL_MEMORY_BUFFER_DESC given = {};
  given.offset = offset;
  given.size = bytes;
  return cuExternalMemoryGetMappedBuffer(address, memory, &given);
}

TEST_F(DriverTest, ExternalMemoryIsTheExportersBytesAndCountsUntilItsLastUse) {
  WithContext([](CUcontext) {
    const size_t before = UsedMiB();
    const size_t bytes = 6 * kMiBytes;
    const int fd = FileOf(bytes);
    auto* const theirs =
        static_cast<unsigned int*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    ASSERT_NE(theirs, MAP_FAILED);
    const int again = dup(fd);
    CUexternalMemory memory = nullptr, second = nullptr;
    ASSERT_EQ(Import(&memory, fd, bytes), CUDA_SUCCESS);
    EXPECT_EQ(fcntl(fd, F_GETFD), -1);  // the descriptor is the driver's
    EXPECT_EQ(UsedMiB(), before + 6);
    ASSERT_EQ(Import(&second, again, bytes), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), before + 6);  // the same memory
    CUdeviceptr whole = 0, part = 0;
    ASSERT_EQ(MapBuffer(&whole, memory, 0, bytes), CUDA_SUCCESS);
    ASSERT_EQ(MapBuffer(&part, second, kMiBytes + 8, 4096), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), before + 6);
    theirs[(kMiBytes + 8) / 4] = 5;
    unsigned int value = 0;
    ASSERT_EQ(cuMemcpyDtoH_v2(&value, part, 4), CUDA_SUCCESS);
    EXPECT_EQ(value, 5u);
    ASSERT_EQ(StoreByKernel(whole + kMiBytes + 8, 4711), CUDA_SUCCESS);
    EXPECT_EQ(theirs[(kMiBytes + 8) / 4], 4711u);
    EXPECT_EQ(cuMemcpyDtoH_v2(&value, part + 4096, 4), CUDA_ERROR_INVALID_VALUE);  // beyond it
    EXPECT_EQ(MapBuffer(&part, memory, bytes - 8, 16), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(MapBuffer(&part, memory, ~size_t{0} - 4, 16), CUDA_ERROR_INVALID_VALUE);
    ASSERT_EQ(cuDestroyExternalMemory(memory), CUDA_SUCCESS);
    EXPECT_EQ(cuDestroyExternalMemory(memory), CUDA_ERROR_INVALID_HANDLE);
    ASSERT_EQ(cuDestroyExternalMemory(second), CUDA_SUCCESS);
    ASSERT_EQ(cuMemFree_v2(part), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), before + 6);  // the other buffer holds it
    ASSERT_EQ(cuMemcpyDtoH_v2(&value, whole + kMiBytes + 8, 4), CUDA_SUCCESS);
    EXPECT_EQ(value, 4711u);
    ASSERT_EQ(cuMemFree_v2(whole), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), before);
    EXPECT_EQ(cuMemFree_v2(whole), CUDA_ERROR_INVALID_VALUE);
    munmap(theirs, bytes);
  });
}

TEST_F(DriverTest, ExternalMemoryHoldsMipmappedArrays) {
  WithContext([](CUcontext) {
    const size_t before = UsedMiB();
    const size_t bytes = 4 * kMiBytes;
    CUexternalMemory memory = nullptr;
    ASSERT_EQ(Import(&memory, FileOf(bytes), bytes), CUDA_SUCCESS);
    CUDA_EXTERNAL_MEMORY_MIPMAPPED_ARRAY_DESC given = {};
    given.offset = kMiBytes;
    given.arrayDesc = {512, 512, 0, CU_AD_FORMAT_FLOAT, 1, 0};
    given.numLevels = 2;
    CUmipmappedArray mipmap = nullptr;
    ASSERT_EQ(cuExternalMemoryGetMappedMipmappedArray(&mipmap, memory, &given), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), before + 4);
    CUarray level = nullptr;
    ASSERT_EQ(cuMipmappedArrayGetLevel(&level, mipmap, 1), CUDA_SUCCESS);
    CUDA_ARRAY_DESCRIPTOR told = {};
    ASSERT_EQ(cuArrayGetDescriptor_v2(&told, level), CUDA_SUCCESS);
    EXPECT_EQ(told.Width, 256u);
    float out[256], back[256] = {};
    for (int i = 0; i < 256; ++i) out[i] = static_cast<float>(i);
    ASSERT_EQ(cuMemcpyHtoA_v2(level, 0, out, sizeof out), CUDA_SUCCESS);
    ASSERT_EQ(cuMemcpyAtoH_v2(back, level, 0, sizeof back), CUDA_SUCCESS);
    EXPECT_TRUE(std::ranges::equal(out, back));
    given.offset = 3 * kMiBytes + 4096;  // no room for it there
    CUmipmappedArray other = nullptr;
    EXPECT_EQ(cuExternalMemoryGetMappedMipmappedArray(&other, memory, &given),
              CUDA_ERROR_INVALID_VALUE);
    ASSERT_EQ(cuDestroyExternalMemory(memory), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), before + 4);
    ASSERT_EQ(cuMipmappedArrayDestroy(mipmap), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), before);
    EXPECT_EQ(cuExternalMemoryGetMappedMipmappedArray(&other, memory, &given),
              CUDA_ERROR_INVALID_HANDLE);
  });
}

TEST_F(DriverTest, WhatCuMemCreateMadeComesBackAsExternalMemoryAndCountsOnce) {
  WithContext([](CUcontext) {
    const size_t before = UsedMiB();
    CUmemAllocationProp prop = {};
    prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    prop.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
    CUmemGenericAllocationHandle handle = 0;
    ASSERT_EQ(cuMemCreate(&handle, 4 * kMiBytes, &prop, 0), CUDA_SUCCESS);
    int fd = -1;
    ASSERT_EQ(
        cuMemExportToShareableHandle(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
        CUDA_SUCCESS);
    CUexternalMemory memory = nullptr;
    EXPECT_EQ(Import(&memory, fd, 2 * kMiBytes), CUDA_ERROR_INVALID_VALUE);  // not its length
    ASSERT_EQ(Import(&memory, fd, 4 * kMiBytes), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), before + 4);
    ASSERT_EQ(cuMemRelease(handle), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), before + 4);
    ASSERT_EQ(cuDestroyExternalMemory(memory), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), before);
  });
}

TEST_F(DriverTest, ExternalMemoryGoesWithItsContextAndIsRefusedWhenItIsNone) {
  WithContext([](CUcontext) {
    const size_t alone = UsedMiB();
    CUcontext own = nullptr;
    ASSERT_EQ(cuCtxCreate_v2(&own, 0, 0), CUDA_SUCCESS);
    const size_t before = UsedMiB();
    CUexternalMemory memory = nullptr;
    CUdeviceptr address = 0;
    ASSERT_EQ(Import(&memory, FileOf(2 * kMiBytes), 2 * kMiBytes), CUDA_SUCCESS);
    ASSERT_EQ(MapBuffer(&address, memory, 0, kMiBytes), CUDA_SUCCESS);
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    EXPECT_EQ(Import(&memory, ends[0], 4096), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(Import(&memory, -1, 4096), CUDA_ERROR_INVALID_VALUE);
    const int small = FileOf(4096);
    EXPECT_EQ(Import(&memory, small, 8192), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(Import(&memory, small, 0), CUDA_ERROR_INVALID_VALUE);
    CUDA_EXTERNAL_MEMORY_HANDLE_DESC given = {};
    given.type = CU_EXTERNAL_MEMORY_HANDLE_TYPE_DMABUF_FD;
    given.handle.fd = small;
    given.size = 4096;
    EXPECT_EQ(cuImportExternalMemory(&memory, &given), CUDA_ERROR_NOT_SUPPORTED);
    // More than the card has left.
    const size_t card = size_t{1} << 40;
    const int large = FileOf(card);
    EXPECT_EQ(Import(&memory, large, card), CUDA_ERROR_OUT_OF_MEMORY);
    EXPECT_NE(fcntl(large, F_GETFD), -1);  // still the program's
    for (int fd : {ends[0], ends[1], small, large}) close(fd);
    EXPECT_EQ(UsedMiB(), before + 2);
    ASSERT_EQ(cuCtxDestroy_v2(own), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), alone);
  });
}

// One charge on the card, whoever of those that have it lives longest.
TEST_F(TwoProcessTest, ExternalMemoryIsTakenOverWhenItsFirstImporterIsGone) {
  const size_t bytes = 8 * kMiBytes;
  Converse(
      [bytes](Line line) {
        const int fd = FileOf(bytes);
        line.SayFd(fd);
        const size_t before = line.Hear<size_t>();
        CUexternalMemory memory = nullptr;
        ASSERT_EQ(Import(&memory, fd, bytes), CUDA_SUCCESS);
        EXPECT_EQ(UsedMiB(), before + 8);
        line.Say(1);
        EXPECT_EQ(line.Hear<int>(), 2);
        EXPECT_EQ(UsedMiB(), before + 8);
      },
      [bytes](Line line) {
        const int fd = line.HearFd();
        const size_t before = UsedMiB();  // both contexts
        line.Say(before);
        EXPECT_EQ(line.Hear<int>(), 1);
        CUexternalMemory memory = nullptr;
        ASSERT_EQ(Import(&memory, fd, bytes), CUDA_SUCCESS);
        EXPECT_EQ(UsedMiB(), before + 8);
        line.Say(2);
        // Its context (106 MiB) goes, the memory stays.
        size_t used = UsedMiB();
        for (int i = 0; i < 2000 && used != before - 106 + 8; ++i) {
          usleep(1000);
          used = UsedMiB();
        }
        EXPECT_EQ(used, before - 106 + 8);
        ASSERT_EQ(cuDestroyExternalMemory(memory), CUDA_SUCCESS);
        EXPECT_EQ(UsedMiB(), before - 106);
      });
}

TEST_F(DriverTest, ExternalSemaphoresOrderStreamsAndTheirExporter) {
  WithContext([](CUcontext) {
    CUstream stream = nullptr;
    ASSERT_EQ(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
    for (const bool timeline : {true, false}) {
      const int fd = FileOf(4096);
      auto* const word = static_cast<volatile unsigned long long*>(
          mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
      CUDA_EXTERNAL_SEMAPHORE_HANDLE_DESC given = {};
      given.type = timeline ? CU_EXTERNAL_SEMAPHORE_HANDLE_TYPE_TIMELINE_SEMAPHORE_FD
                            : CU_EXTERNAL_SEMAPHORE_HANDLE_TYPE_OPAQUE_FD;
      given.handle.fd = fd;
      CUexternalSemaphore semaphore = nullptr;
      ASSERT_EQ(cuImportExternalSemaphore(&semaphore, &given), CUDA_SUCCESS);
      CUDA_EXTERNAL_SEMAPHORE_WAIT_PARAMS wait = {};
      wait.params.fence.value = 3;
      CUDA_EXTERNAL_SEMAPHORE_SIGNAL_PARAMS signal = {};
      signal.params.fence.value = 9;
      ASSERT_EQ(cuWaitExternalSemaphoresAsync(&semaphore, &wait, 1, stream), CUDA_SUCCESS);
      CUdeviceptr mark = 0;
      ASSERT_EQ(cuMemAlloc_v2(&mark, 4), CUDA_SUCCESS);
      ASSERT_EQ(cuMemsetD32Async(mark, 1, 1, stream), CUDA_SUCCESS);
      EXPECT_EQ(cuStreamQuery(stream), CUDA_ERROR_NOT_READY);
      if (timeline) {
        *word = 2;
        usleep(5000);
        EXPECT_EQ(cuStreamQuery(stream), CUDA_ERROR_NOT_READY);
      }
      *word = timeline ? 4 : 1;
      ASSERT_EQ(cuStreamSynchronize(stream), CUDA_SUCCESS);
      EXPECT_EQ(*word, timeline ? 4u : 0u);  // a wait takes a binary one back
      ASSERT_EQ(cuSignalExternalSemaphoresAsync(&semaphore, &signal, 1, stream), CUDA_SUCCESS);
      ASSERT_EQ(cuStreamSynchronize(stream), CUDA_SUCCESS);
      EXPECT_EQ(*word, timeline ? 9u : 1u);
      ASSERT_EQ(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED), CUDA_SUCCESS);
      EXPECT_EQ(cuSignalExternalSemaphoresAsync(&semaphore, &signal, 1, stream),
                CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
      CUgraph graph = nullptr;
      cuStreamEndCapture(stream, &graph);
      if (graph != nullptr) cuGraphDestroy(graph);
      ASSERT_EQ(cuDestroyExternalSemaphore(semaphore), CUDA_SUCCESS);
      EXPECT_EQ(cuDestroyExternalSemaphore(semaphore), CUDA_ERROR_INVALID_HANDLE);
      EXPECT_EQ(cuSignalExternalSemaphoresAsync(&semaphore, &signal, 1, stream),
                CUDA_ERROR_INVALID_HANDLE);
      munmap(const_cast<unsigned long long*>(word), 4096);
    }
  });
}

}  // namespace
}  // namespace simgpu
