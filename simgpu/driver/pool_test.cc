// Pools: what stream-ordered memory takes of the card and when, who gets freed memory again, and
// what is refused.
#include <fcntl.h>

#include <atomic>
#include <map>
#include <random>
#include <vector>

#include "simgpu/driver/memory_test_support.h"

namespace simgpu {
namespace {

constexpr size_t kGranuleBytes = 2 * kMiBytes;

CUmemPoolProps OnDevice(int device, CUmemAllocationHandleType handles = CU_MEM_HANDLE_TYPE_NONE,
                        size_t max_size = 0) {
  CUmemPoolProps props = {};
  props.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  props.handleTypes = handles;
  props.location = {CU_MEM_LOCATION_TYPE_DEVICE, device};
  props.maxSize = max_size;
  return props;
}

CUmemoryPool Create(const CUmemPoolProps& props) {
  CUmemoryPool pool = nullptr;
  EXPECT_EQ(cuMemPoolCreate(&pool, &props), CUDA_SUCCESS);
  return pool;
}

size_t Get(CUmemoryPool pool, CUmemPool_attribute attribute) {
  cuuint64_t value = 0;
  EXPECT_EQ(cuMemPoolGetAttribute(pool, attribute, &value), CUDA_SUCCESS);
  return value;
}
size_t Reserved(CUmemoryPool pool) { return Get(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT); }
size_t Used(CUmemoryPool pool) { return Get(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT); }

CUstream NewStream() {
  CUstream stream = nullptr;
  EXPECT_EQ(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  return stream;
}

// Holds a stream up until it is opened.
class Gate {
 public:
  Gate() {
    void* word = nullptr;
    EXPECT_EQ(cuMemHostAlloc(&word, 4, 0), CUDA_SUCCESS);
    word_ = static_cast<std::atomic<unsigned int>*>(word);
    word_->store(0);
  }
  void Close(CUstream stream) {
    EXPECT_EQ(cuStreamWaitValue32_v2(stream, reinterpret_cast<CUdeviceptr>(word_), 1, 0),
              CUDA_SUCCESS);
  }
  void Open() { word_->store(1); }

 private:
  std::atomic<unsigned int>* word_;
};

TEST_F(DriverTest, FreedMemoryStaysThePoolsUntilASynchronisation) {
  WithContext([](CUcontext) {
    const size_t before = UsedMiB();
    CUmemoryPool pool = nullptr;
    ASSERT_EQ(cuDeviceGetDefaultMemPool(&pool, 0), CUDA_SUCCESS);
    CUstream stream = NewStream();
    CUdeviceptr a = 0, b = 0;
    ASSERT_EQ(cuMemAllocAsync(&a, 3 * kMiBytes, stream), CUDA_SUCCESS);
    ASSERT_EQ(cuMemAllocAsync(&b, 100, stream), CUDA_SUCCESS);
    EXPECT_EQ(Used(pool), 3 * kMiBytes + 512);
    EXPECT_EQ(Reserved(pool), 4 * kMiBytes);
    EXPECT_EQ(UsedMiB(), before + 4);
    ASSERT_EQ(cuMemFreeAsync(a, stream), CUDA_SUCCESS);
    ASSERT_EQ(cuMemFreeAsync(b, stream), CUDA_SUCCESS);
    EXPECT_EQ(cuMemFreeAsync(b, stream), CUDA_ERROR_INVALID_VALUE);
    ASSERT_EQ(cuStreamSynchronize(stream), CUDA_SUCCESS);
    EXPECT_EQ(Used(pool), 0u);
    EXPECT_EQ(Reserved(pool), 0u);
    EXPECT_EQ(UsedMiB(), before);
    EXPECT_EQ(Get(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH), 4 * kMiBytes);
    EXPECT_EQ(Get(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH), 3 * kMiBytes + 512);
    // A threshold keeps memory; TrimTo gives it back by hand.
    cuuint64_t keep = 16 * kMiBytes;
    ASSERT_EQ(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &keep), CUDA_SUCCESS);
    ASSERT_EQ(cuMemAllocAsync(&a, 40 * kMiBytes, stream), CUDA_SUCCESS);
    ASSERT_EQ(cuMemFreeAsync(a, stream), CUDA_SUCCESS);
    ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    EXPECT_EQ(Reserved(pool), 16 * kMiBytes);
    EXPECT_EQ(UsedMiB(), before + 16);
    ASSERT_EQ(cuMemPoolTrimTo(pool, 5 * kMiBytes), CUDA_SUCCESS);
    EXPECT_EQ(Reserved(pool), 4 * kMiBytes);
    ASSERT_EQ(cuMemPoolTrimTo(pool, 0), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), before);
    cuuint64_t zero = 0;
    ASSERT_EQ(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH, &zero), CUDA_SUCCESS);
    EXPECT_EQ(Get(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH), 0u);
    EXPECT_EQ(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH, &keep),
              CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &zero),
              CUDA_ERROR_INVALID_VALUE);
  });
}

// Memory whose free is still to come is its stream's at once, and others' only when it is free.
TEST_F(DriverTest, FreedMemoryIsReusedAsStreamsOrderIt) {
  WithContext([](CUcontext) {
    CUmemoryPool pool = Create(OnDevice(0));
    CUstream one = NewStream(), other = NewStream();
    Gate gate;
    CUdeviceptr first = 0, again = 0, apart = 0, late = 0;
    ASSERT_EQ(cuMemAllocFromPoolAsync(&first, kMiBytes, pool, one), CUDA_SUCCESS);
    gate.Close(one);
    ASSERT_EQ(cuMemsetD8Async(first, 1, kMiBytes, one), CUDA_SUCCESS);
    ASSERT_EQ(cuMemFreeAsync(first, one), CUDA_SUCCESS);
    ASSERT_EQ(cuMemAllocFromPoolAsync(&apart, kMiBytes, pool, other), CUDA_SUCCESS);
    EXPECT_NE(apart, first);
    ASSERT_EQ(cuMemAllocFromPoolAsync(&again, kMiBytes, pool, one), CUDA_SUCCESS);
    EXPECT_EQ(again, first);
    ASSERT_EQ(cuMemsetD8Async(again, 2, kMiBytes, one), CUDA_SUCCESS);
    EXPECT_EQ(Used(pool), 2 * kMiBytes);
    EXPECT_EQ(cuStreamQuery(one), CUDA_ERROR_NOT_READY);
    gate.Open();
    ASSERT_EQ(cuStreamSynchronize(one), CUDA_SUCCESS);
    // The first life's free has come by and took nothing from the second.
    unsigned char byte = 0;
    ASSERT_EQ(cuMemcpyDtoH_v2(&byte, again + kMiBytes - 1, 1), CUDA_SUCCESS);
    EXPECT_EQ(byte, 2);
    ASSERT_EQ(cuMemFreeAsync(again, one), CUDA_SUCCESS);
    cuuint64_t keep = ~cuuint64_t{0};
    ASSERT_EQ(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &keep), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamSynchronize(one), CUDA_SUCCESS);
    EXPECT_EQ(cuMemcpyDtoH_v2(&byte, again, 1), CUDA_ERROR_INVALID_VALUE);
    ASSERT_EQ(cuMemAllocFromPoolAsync(&late, kMiBytes, pool, other), CUDA_SUCCESS);
    EXPECT_EQ(late, first);
    EXPECT_EQ(Reserved(pool), kGranuleBytes);
    // Memory of a pool may be freed at once, too.
    EXPECT_EQ(cuMemFree_v2(late), CUDA_SUCCESS);
    EXPECT_EQ(cuMemFree_v2(late), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemFree_v2(apart), CUDA_SUCCESS);
    EXPECT_EQ(Used(pool), 0u);
    EXPECT_EQ(cuMemPoolDestroy(pool), CUDA_SUCCESS);
  });
}

// A pool that may not grow hands out what another stream is about to free, behind that free; unless
// it must not make such a dependency.
TEST_F(DriverTest, APoolAtItsLimitWaitsForAFree) {
  WithContext([](CUcontext) {
    const size_t before = UsedMiB();
    CUmemoryPool pool = Create(OnDevice(0, CU_MEM_HANDLE_TYPE_NONE, kGranuleBytes));
    CUstream one = NewStream(), other = NewStream();
    Gate gate;
    CUdeviceptr first = 0, second = 0;
    ASSERT_EQ(cuMemAllocFromPoolAsync(&first, kGranuleBytes, pool, one), CUDA_SUCCESS);
    EXPECT_EQ(cuMemAllocFromPoolAsync(&second, 512, pool, one), CUDA_ERROR_OUT_OF_MEMORY);
    gate.Close(one);
    ASSERT_EQ(cuMemFreeAsync(first, one), CUDA_SUCCESS);
    int no = 0, yes = 1, told = 9;
    ASSERT_EQ(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES, &no),
              CUDA_SUCCESS);
    ASSERT_EQ(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES, &told),
              CUDA_SUCCESS);
    EXPECT_EQ(told, 0);
    EXPECT_EQ(cuMemAllocFromPoolAsync(&second, kMiBytes, pool, other), CUDA_ERROR_OUT_OF_MEMORY);
    ASSERT_EQ(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES, &yes),
              CUDA_SUCCESS);
    ASSERT_EQ(cuMemAllocFromPoolAsync(&second, kMiBytes, pool, other), CUDA_SUCCESS);
    EXPECT_EQ(second, first);
    EXPECT_EQ(cuStreamQuery(other), CUDA_ERROR_NOT_READY);
    gate.Open();
    ASSERT_EQ(cuStreamSynchronize(other), CUDA_SUCCESS);
    ASSERT_EQ(cuMemFreeAsync(second, other), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamSynchronize(other), CUDA_SUCCESS);
    EXPECT_EQ(cuMemPoolDestroy(pool), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), before);
  });
}

TEST_F(DriverTest, ADestroyedPoolLivesUntilItsLastAllocation) {
  WithContext([](CUcontext) {
    const size_t before = UsedMiB();
    CUmemoryPool pool = Create(OnDevice(0)), current = nullptr, standard = nullptr;
    ASSERT_EQ(cuDeviceSetMemPool(0, pool), CUDA_SUCCESS);
    ASSERT_EQ(cuDeviceGetMemPool(&current, 0), CUDA_SUCCESS);
    EXPECT_EQ(current, pool);
    CUdeviceptr address = 0;
    ASSERT_EQ(cuMemAllocAsync(&address, 10 * kMiBytes, nullptr), CUDA_SUCCESS);
    void* of = nullptr;
    ASSERT_EQ(cuPointerGetAttribute(&of, CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE, address),
              CUDA_SUCCESS);
    EXPECT_EQ(of, pool);
    ASSERT_EQ(cuMemPoolDestroy(pool), CUDA_SUCCESS);
    EXPECT_EQ(cuMemPoolDestroy(pool), CUDA_ERROR_INVALID_VALUE);
    ASSERT_EQ(cuDeviceGetMemPool(&current, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuDeviceGetDefaultMemPool(&standard, 0), CUDA_SUCCESS);
    EXPECT_EQ(current, standard);
    EXPECT_EQ(UsedMiB(), before + 10);
    EXPECT_EQ(cuMemsetD8_v2(address, 1, 10 * kMiBytes), CUDA_SUCCESS);
    ASSERT_EQ(cuMemFreeAsync(address, nullptr), CUDA_SUCCESS);
    ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), before);
    EXPECT_EQ(cuMemPoolDestroy(standard), CUDA_ERROR_INVALID_VALUE);
  });
}

TEST_F(DriverTest, PoolsThatCannotBeAreRefused) {
  WithContext([](CUcontext) {
    CUmemoryPool pool = nullptr, standard = nullptr;
    CUmemPoolProps props = OnDevice(5);
    EXPECT_EQ(cuMemPoolCreate(&pool, &props), CUDA_ERROR_INVALID_VALUE);
    props = OnDevice(0, CU_MEM_HANDLE_TYPE_FABRIC);
    EXPECT_EQ(cuMemPoolCreate(&pool, &props), CUDA_ERROR_NOT_SUPPORTED);
    props = OnDevice(0);
    props.location.type = CU_MEM_LOCATION_TYPE_HOST;
    EXPECT_EQ(cuMemPoolCreate(&pool, &props), CUDA_ERROR_NOT_SUPPORTED);
    props = OnDevice(0);
    props.reserved[7] = 1;
    EXPECT_EQ(cuMemPoolCreate(&pool, &props), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemPoolCreate(&pool, nullptr), CUDA_ERROR_INVALID_VALUE);
    CUdeviceptr address = 0;
    EXPECT_EQ(cuMemAllocFromPoolAsync(&address, 1, nullptr, nullptr), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemAllocAsync(&address, 0, nullptr), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemAllocAsync(nullptr, 1, nullptr), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemAllocAsync(&address, size_t{1} << 45, nullptr), CUDA_ERROR_OUT_OF_MEMORY);
    EXPECT_EQ(cuMemFreeAsync(12345, nullptr), CUDA_ERROR_INVALID_VALUE);
    ASSERT_EQ(cuDeviceGetDefaultMemPool(&standard, 0), CUDA_SUCCESS);
    EXPECT_EQ(cuDeviceSetMemPool(1, standard), CUDA_ERROR_INVALID_VALUE);
    CUmemLocation here = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
    ASSERT_EQ(cuMemGetDefaultMemPool(&pool, &here, CU_MEM_ALLOCATION_TYPE_PINNED), CUDA_SUCCESS);
    EXPECT_EQ(pool, standard);
    ASSERT_EQ(cuMemGetMemPool(&pool, &here, CU_MEM_ALLOCATION_TYPE_PINNED), CUDA_SUCCESS);
    EXPECT_EQ(pool, standard);
    EXPECT_EQ(cuMemSetMemPool(&here, CU_MEM_ALLOCATION_TYPE_PINNED, standard), CUDA_SUCCESS);
    EXPECT_EQ(cuMemGetMemPool(&pool, &here, CU_MEM_ALLOCATION_TYPE_MANAGED),
              CUDA_ERROR_NOT_SUPPORTED);
    here.type = CU_MEM_LOCATION_TYPE_HOST;
    EXPECT_EQ(cuMemGetDefaultMemPool(&pool, &here, CU_MEM_ALLOCATION_TYPE_PINNED),
              CUDA_ERROR_NOT_SUPPORTED);
    int fd = -1;
    EXPECT_EQ(cuMemPoolExportToShareableHandle(&fd, standard,
                                               CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
              CUDA_ERROR_INVALID_VALUE);
    // Its own device's access can be stated but not taken; a card without a link gets none.
    CUmemAccessDesc access = {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, 3};
    EXPECT_EQ(cuMemPoolSetAccess(standard, &access, 1), CUDA_SUCCESS);
    access.flags = 0;
    EXPECT_EQ(cuMemPoolSetAccess(standard, &access, 1), CUDA_ERROR_INVALID_VALUE);
    access = {{CU_MEM_LOCATION_TYPE_DEVICE, 1}, 3};
    EXPECT_EQ(cuMemPoolSetAccess(standard, &access, 1), CUDA_ERROR_INVALID_VALUE);
    CUmemAccess_flags flags = {};
    here = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
    ASSERT_EQ(cuMemPoolGetAccess(&flags, standard, &here), CUDA_SUCCESS);
    EXPECT_EQ(flags, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    here.id = 1;
    ASSERT_EQ(cuMemPoolGetAccess(&flags, standard, &here), CUDA_SUCCESS);
    EXPECT_EQ(flags, CU_MEM_ACCESS_FLAGS_PROT_NONE);
    // Ordinary memory may be freed in a stream.
    ASSERT_EQ(cuMemAlloc_v2(&address, kMiBytes), CUDA_SUCCESS);
    EXPECT_EQ(cuMemFreeAsync(address, nullptr), CUDA_SUCCESS);
    ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    EXPECT_EQ(cuMemFree_v2(address), CUDA_ERROR_INVALID_VALUE);
  });
}

TEST_F(DriverTest, PooledMemoryGoesWithTheDevicesLastContext) {
  WithContext([](CUcontext primary) {
    const size_t before = UsedMiB();
    CUdeviceptr address = 0;
    CUcontext context = nullptr;
    CUmemoryPool pool = Create(OnDevice(0, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
    ASSERT_EQ(cuMemAllocAsync(&address, 8 * kMiBytes, nullptr), CUDA_SUCCESS);
    ASSERT_EQ(cuMemAllocFromPoolAsync(&address, 8 * kMiBytes, pool, nullptr), CUDA_SUCCESS);
    ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), before + 16);
    ASSERT_EQ(cuDevicePrimaryCtxReset_v2(0), CUDA_SUCCESS);
    ASSERT_EQ(cuDevicePrimaryCtxRetain(&context, 0), CUDA_SUCCESS);
    EXPECT_EQ(context, primary);
    EXPECT_EQ(UsedMiB(), before);
    EXPECT_EQ(Reserved(pool), 0u);
  });
}

TEST_F(TwoProcessTest, APoolsPointersAreSharedByDescriptor) {
  Converse(
      [](Line line) {
        CUmemoryPool pool = Create(OnDevice(0, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
        CUdeviceptr first = 0, address = 0;
        ASSERT_EQ(cuMemAllocFromPoolAsync(&first, kMiBytes, pool, nullptr), CUDA_SUCCESS);
        ASSERT_EQ(cuMemAllocFromPoolAsync(&address, 1000, pool, nullptr), CUDA_SUCCESS);
        ASSERT_EQ(StoreByKernel(address + 996, 21), CUDA_SUCCESS);
        int fd = -1;
        ASSERT_EQ(cuMemPoolExportToShareableHandle(&fd, pool,
                                                   CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
                  CUDA_SUCCESS);
        CUmemPoolPtrExportData data = {};
        EXPECT_EQ(cuMemPoolExportPointer(&data, address + 4), CUDA_ERROR_INVALID_VALUE);
        ASSERT_EQ(cuMemPoolExportPointer(&data, address), CUDA_SUCCESS);
        line.SayFd(fd);
        close(fd);
        line.Say(data);
        EXPECT_EQ(line.Hear<int>(), 1);
        unsigned int value = 0;
        EXPECT_EQ(cuMemcpyDtoH_v2(&value, address + 992, 4), CUDA_SUCCESS);
        EXPECT_EQ(value, 22u);
      },
      [](Line line) {
        const int fd = line.HearFd();
        auto data = line.Hear<CUmemPoolPtrExportData>();
        CUmemoryPool pool = nullptr;
        void* shared = reinterpret_cast<void*>(static_cast<intptr_t>(fd));
        EXPECT_EQ(cuMemPoolImportFromShareableHandle(&pool, shared, CU_MEM_HANDLE_TYPE_FABRIC, 0),
                  CUDA_ERROR_NOT_SUPPORTED);
        ASSERT_EQ(cuMemPoolImportFromShareableHandle(&pool, shared,
                                                     CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
                  CUDA_SUCCESS);
        close(fd);
        const size_t both = UsedMiB();
        CUdeviceptr address = 0, other = 0;
        ASSERT_EQ(cuMemPoolImportPointer(&address, pool, &data), CUDA_SUCCESS);
        EXPECT_EQ(cuMemPoolImportPointer(&other, pool, &data), CUDA_ERROR_ALREADY_MAPPED);
        EXPECT_EQ(UsedMiB(), both);
        EXPECT_EQ(cuMemAllocFromPoolAsync(&other, 1, pool, nullptr), CUDA_ERROR_INVALID_VALUE);
        unsigned int value = 0;
        ASSERT_EQ(cuMemcpyDtoH_v2(&value, address + 996, 4), CUDA_SUCCESS);
        EXPECT_EQ(value, 21u);
        EXPECT_EQ(StoreByKernel(address + 992, 22), CUDA_SUCCESS);
        EXPECT_EQ(cuMemFreeAsync(address, nullptr), CUDA_SUCCESS);
        EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
        EXPECT_EQ(cuMemcpyDtoH_v2(&value, address + 996, 4), CUDA_ERROR_INVALID_VALUE);
        data.reserved[9] ^= 1;  // of another pool
        EXPECT_EQ(cuMemPoolImportPointer(&address, pool, &data), CUDA_ERROR_INVALID_VALUE);
        EXPECT_EQ(cuMemPoolDestroy(pool), CUDA_SUCCESS);
        line.Say(1);
      });
}

// Random allocations and frees in two streams: what is used is what lives, the card's account is
// what pools hold, bytes stay with their allocation, and nothing is left.
TEST_F(DriverTest, RandomStreamOrderedMemoryLeavesTheAccountRight) {
  for (unsigned seed = 1; seed <= 3; ++seed) {
    WithContext([seed](CUcontext) {
      std::mt19937_64 random(seed);
      const size_t before = UsedMiB();
      CUmemoryPool pools[2] = {Create(OnDevice(0)),
                               Create(OnDevice(0, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR))};
      cuuint64_t keep = 8 * kMiBytes;
      ASSERT_EQ(cuMemPoolSetAttribute(pools[1], CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &keep),
                CUDA_SUCCESS);
      CUstream streams[2] = {NewStream(), NewStream()};
      struct Piece {
        int pool;
        int stream;
        size_t bytes;
        unsigned char mark;
      };
      std::map<CUdeviceptr, Piece> live;
      for (int step = 0; step < 400; ++step) {
        const int stream = static_cast<int>(random() % 2);
        if (live.empty() || random() % 100 < 55) {
          Piece piece = {static_cast<int>(random() % 2), stream,
                         random() % 2 == 0 ? 1 + random() % 4000 : 1 + random() % (5 * kMiBytes),
                         static_cast<unsigned char>(random())};
          CUdeviceptr address = 0;
          ASSERT_EQ(
              cuMemAllocFromPoolAsync(&address, piece.bytes, pools[piece.pool], streams[stream]),
              CUDA_SUCCESS);
          ASSERT_EQ(address % 512, 0u);
          auto after = live.lower_bound(address);
          ASSERT_TRUE(after == live.end() || address + piece.bytes <= after->first);
          ASSERT_TRUE(after == live.begin() ||
                      std::prev(after)->first + std::prev(after)->second.bytes <= address);
          ASSERT_EQ(cuMemsetD8Async(address, piece.mark, 1, streams[stream]), CUDA_SUCCESS);
          live[address] = piece;
        } else {
          auto at = live.begin();
          std::advance(at, random() % live.size());
          ASSERT_EQ(cuMemFreeAsync(at->first, streams[at->second.stream]), CUDA_SUCCESS);
          live.erase(at);
        }
        if (random() % 20 != 0) continue;
        ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
        ASSERT_EQ(UsedMiB(), before + (Reserved(pools[0]) + Reserved(pools[1])) / kMiBytes);
        for (int i = 0; i < 2; ++i) {
          size_t least = 0;
          for (const auto& [address, piece] : live) {
            if (piece.pool == i) least += (piece.bytes + 511) / 512 * 512;
          }
          // What is handed on whole may be larger than asked for, at most twice.
          ASSERT_GE(Used(pools[i]), least);
          ASSERT_LE(Used(pools[i]), 2 * least);
          ASSERT_GE(Reserved(pools[i]), Used(pools[i]));
        }
        for (const auto& [address, piece] : live) {
          unsigned char byte = 0;
          ASSERT_EQ(cuMemcpyDtoH_v2(&byte, address, 1), CUDA_SUCCESS);
          ASSERT_EQ(byte, piece.mark) << "step " << step << " of seed " << seed;
        }
      }
      for (const auto& [address, piece] : live) {
        ASSERT_EQ(cuMemFreeAsync(address, streams[piece.stream]), CUDA_SUCCESS);
      }
      ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
      EXPECT_EQ(Used(pools[0]) + Used(pools[1]), 0u);
      EXPECT_EQ(Reserved(pools[0]), 0u);
      EXPECT_LE(Reserved(pools[1]), keep);
      for (CUmemoryPool pool : pools) EXPECT_EQ(cuMemPoolDestroy(pool), CUDA_SUCCESS);
      EXPECT_EQ(UsedMiB(), before);
    });
  }
}

}  // namespace
}  // namespace simgpu
