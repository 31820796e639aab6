// Peers, managed memory and what pointers tell about themselves.
#include <vector>

#include "simgpu/driver/memory_test_support.h"

namespace simgpu {
namespace {

class PeerTest : public DriverTest {
 protected:
  // As WithContext on four A100 joined by NVLink, with the primary contexts of two devices.
  static void WithTwo(const std::function<void(CUcontext, CUcontext)>& program) {
    setenv("SIMGPU_CARDS", "NVL-A100-4", 1);
    WithContext([&](CUcontext first) {
      CUcontext second = nullptr;
      ASSERT_EQ(cuDevicePrimaryCtxRetain(&second, 1), CUDA_SUCCESS);
      program(first, second);
    });
  }
  static CUdeviceptr AllocateIn(CUcontext context, size_t bytes) {
    CUdeviceptr address = 0;
    CUcontext before = nullptr;
    EXPECT_EQ(cuCtxPushCurrent_v2(context), CUDA_SUCCESS);
    EXPECT_EQ(cuMemAlloc_v2(&address, bytes), CUDA_SUCCESS);
    EXPECT_EQ(cuMemsetD8_v2(address, 7, bytes), CUDA_SUCCESS);
    EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);  // other contexts' work is not ordered behind it
    EXPECT_EQ(cuCtxPopCurrent_v2(&before), CUDA_SUCCESS);
    return address;
  }
};

TEST_F(PeerTest, KernelsReachAPeersMemoryOnlyWhenItIsOpened) {
  WithTwo([](CUcontext first, CUcontext second) {
    int can = 0, rank = 9, value = 9;
    ASSERT_EQ(cuDeviceCanAccessPeer(&can, 0, 1), CUDA_SUCCESS);
    EXPECT_EQ(can, 1);
    ASSERT_EQ(cuDeviceCanAccessPeer(&can, 0, 0), CUDA_SUCCESS);
    EXPECT_EQ(can, 0);
    ASSERT_EQ(cuDeviceGetP2PAttribute(&rank, CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK, 0, 1),
              CUDA_SUCCESS);
    EXPECT_EQ(rank, 0);
    ASSERT_EQ(
        cuDeviceGetP2PAttribute(&value, CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED, 0, 1),
        CUDA_SUCCESS);
    EXPECT_EQ(value, 1);
    EXPECT_EQ(cuDeviceGetP2PAttribute(&value, CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED, 0, 0),
              CUDA_ERROR_INVALID_DEVICE);
    EXPECT_EQ(cuDeviceGetP2PAttribute(&value, static_cast<CUdevice_P2PAttribute>(77), 0, 1),
              CUDA_ERROR_INVALID_VALUE);
    CUdeviceptr theirs = AllocateIn(second, 4096);
    CUdeviceptr seen = 9;
    EXPECT_EQ(cuPointerGetAttribute(&seen, CU_POINTER_ATTRIBUTE_DEVICE_POINTER, theirs),
              CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuCtxDisablePeerAccess(second), CUDA_ERROR_PEER_ACCESS_NOT_ENABLED);
    EXPECT_EQ(cuCtxEnablePeerAccess(second, 1), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuCtxEnablePeerAccess(first, 0), CUDA_ERROR_INVALID_CONTEXT);
    EXPECT_EQ(cuCtxEnablePeerAccess(nullptr, 0), CUDA_ERROR_INVALID_CONTEXT);
    ASSERT_EQ(cuCtxEnablePeerAccess(second, 0), CUDA_SUCCESS);
    EXPECT_EQ(cuCtxEnablePeerAccess(second, 0), CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED);
    EXPECT_EQ(cuPointerGetAttribute(&seen, CU_POINTER_ATTRIBUTE_DEVICE_POINTER, theirs),
              CUDA_SUCCESS);
    EXPECT_EQ(seen, theirs);
    EXPECT_EQ(StoreByKernel(theirs + 4, 55), CUDA_SUCCESS);
    unsigned int read = 0;
    EXPECT_EQ(cuMemcpyDtoH_v2(&read, theirs + 4, 4), CUDA_SUCCESS);
    EXPECT_EQ(read, 55u);
    ASSERT_EQ(cuCtxDisablePeerAccess(second), CUDA_SUCCESS);
    EXPECT_EQ(StoreByKernel(theirs, 1), CUDA_ERROR_ILLEGAL_ADDRESS);
  });
}

TEST_F(PeerTest, CardsWithoutALinkAreNoPeers) {
  WithContext([](CUcontext) {
    int can = 9;
    ASSERT_EQ(cuDeviceCanAccessPeer(&can, 0, 1), CUDA_SUCCESS);
    EXPECT_EQ(can, 0);
    EXPECT_EQ(cuDeviceCanAccessPeer(&can, 0, 2), CUDA_ERROR_INVALID_DEVICE);
    CUcontext other = nullptr;
    ASSERT_EQ(cuDevicePrimaryCtxRetain(&other, 1), CUDA_SUCCESS);
    EXPECT_EQ(cuCtxEnablePeerAccess(other, 0), CUDA_ERROR_PEER_ACCESS_UNSUPPORTED);
  });
}

// Pools and mapped memory of another card are opened by their own calls.
TEST_F(PeerTest, PoolsAndMappingsOfAnotherCardAreOpenedByDevice) {
  WithTwo([](CUcontext, CUcontext) {
    CUmemPoolProps props = {};
    props.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
    props.location = {CU_MEM_LOCATION_TYPE_DEVICE, 1};
    CUmemoryPool pool = nullptr;
    ASSERT_EQ(cuMemPoolCreate(&pool, &props), CUDA_SUCCESS);
    CUdeviceptr pooled = 0, base = 0;
    ASSERT_EQ(cuMemAllocFromPoolAsync(&pooled, 100, pool, nullptr), CUDA_SUCCESS);
    int ordinal = 9;
    ASSERT_EQ(cuPointerGetAttribute(&ordinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, pooled),
              CUDA_SUCCESS);
    EXPECT_EQ(ordinal, 1);
    unsigned int flags = 9;
    ASSERT_EQ(cuPointerGetAttribute(&flags, CU_POINTER_ATTRIBUTE_ACCESS_FLAGS, pooled),
              CUDA_SUCCESS);
    EXPECT_EQ(flags, 0u);
    CUmemAccessDesc access = {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, 3};
    ASSERT_EQ(cuMemPoolSetAccess(pool, &access, 1), CUDA_SUCCESS);
    EXPECT_EQ(StoreByKernel(pooled, 1), CUDA_SUCCESS);
    CUmemAllocationProp prop = {};
    prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, 1};
    CUmemGenericAllocationHandle handle = 0;
    ASSERT_EQ(cuMemCreate(&handle, 2 * kMiBytes, &prop, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuMemAddressReserve(&base, 2 * kMiBytes, 0, 0, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuMemMap(base, 2 * kMiBytes, 0, handle, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuMemSetAccess(base, 2 * kMiBytes, &access, 1), CUDA_SUCCESS);
    EXPECT_EQ(StoreByKernel(base, 2), CUDA_SUCCESS);
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_NONE;
    ASSERT_EQ(cuMemPoolSetAccess(pool, &access, 1), CUDA_SUCCESS);
    EXPECT_EQ(StoreByKernel(pooled, 1), CUDA_ERROR_ILLEGAL_ADDRESS);
  });
}

TEST_F(DriverTest, ManagedMemoryRemembersItsAdvice) {
  WithContext([](CUcontext) {
    CUdeviceptr base = 0, plain = 0;
    EXPECT_EQ(cuMemAllocManaged(&base, 4096, 4), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemAllocManaged(&base, size_t{15360} * kMiBytes, CU_MEM_ATTACH_GLOBAL),
              CUDA_ERROR_OUT_OF_MEMORY);
    ASSERT_EQ(cuMemAllocManaged(&base, 8 * kMiBytes, CU_MEM_ATTACH_GLOBAL), CUDA_SUCCESS);
    ASSERT_EQ(cuMemAlloc_v2(&plain, kMiBytes), CUDA_SUCCESS);
    EXPECT_EQ(cuMemAdvise(plain, kMiBytes, CU_MEM_ADVISE_SET_READ_MOSTLY, 0),
              CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemAdvise(base, 9 * kMiBytes, CU_MEM_ADVISE_SET_READ_MOSTLY, 0),
              CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemAdvise(base, 4096, CU_MEM_ADVISE_SET_PREFERRED_LOCATION, 7),
              CUDA_ERROR_INVALID_DEVICE);
    auto ask = [](CUmem_range_attribute attribute, CUdeviceptr address, size_t bytes) {
      int value = 99;
      EXPECT_EQ(cuMemRangeGetAttribute(&value, sizeof value, attribute, address, bytes),
                CUDA_SUCCESS);
      return value;
    };
    EXPECT_EQ(ask(CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION, base, 8 * kMiBytes), kDeviceInvalid);
    ASSERT_EQ(cuMemAdvise(base, 4 * kMiBytes, CU_MEM_ADVISE_SET_READ_MOSTLY, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuMemAdvise(base, 8 * kMiBytes, CU_MEM_ADVISE_SET_PREFERRED_LOCATION, kDeviceCpu),
              CUDA_SUCCESS);
    ASSERT_EQ(cuMemAdvise_v2(base + 2 * kMiBytes, 4 * kMiBytes, CU_MEM_ADVISE_SET_ACCESSED_BY,
                             {CU_MEM_LOCATION_TYPE_DEVICE, 1}),
              CUDA_SUCCESS);
    EXPECT_EQ(ask(CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY, base + kMiBytes, kMiBytes), 1);
    EXPECT_EQ(ask(CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY, base, 8 * kMiBytes), 0);
    EXPECT_EQ(ask(CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION, base, 8 * kMiBytes), kDeviceCpu);
    EXPECT_EQ(ask(CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_TYPE, base, 1),
              static_cast<int>(CU_MEM_LOCATION_TYPE_HOST));
    int list[3] = {};
    ASSERT_EQ(cuMemRangeGetAttribute(list, sizeof list, CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY,
                                     base + 3 * kMiBytes, kMiBytes),
              CUDA_SUCCESS);
    EXPECT_EQ(list[0], 1);
    EXPECT_EQ(list[1], kDeviceInvalid);
    ASSERT_EQ(cuMemRangeGetAttribute(list, sizeof list, CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY, base,
                                     8 * kMiBytes),
              CUDA_SUCCESS);
    EXPECT_EQ(list[0], kDeviceInvalid);
    ASSERT_EQ(cuMemPrefetchAsync(base, 4 * kMiBytes, 0, nullptr), CUDA_SUCCESS);
    EXPECT_EQ(ask(CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION, base, 4 * kMiBytes), 0);
    EXPECT_EQ(ask(CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION, base, 8 * kMiBytes),
              kDeviceInvalid);
    EXPECT_EQ(cuMemPrefetchAsync(plain, 4096, 0, nullptr), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemPrefetchAsync_v2(base, 4096, {CU_MEM_LOCATION_TYPE_HOST, 0}, 1, nullptr),
              CUDA_ERROR_INVALID_VALUE);
    CUdeviceptr ranges[2] = {base, base + 4 * kMiBytes};
    size_t sizes[2] = {kMiBytes, kMiBytes}, at[2] = {0, 1};
    CUmemLocation places[2] = {{CU_MEM_LOCATION_TYPE_HOST, 0}, {CU_MEM_LOCATION_TYPE_DEVICE, 1}};
    ASSERT_EQ(cuMemPrefetchBatchAsync(ranges, sizes, 2, places, at, 2, 0, nullptr), CUDA_SUCCESS);
    EXPECT_EQ(ask(CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION, base, kMiBytes), kDeviceCpu);
    EXPECT_EQ(ask(CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION, ranges[1], kMiBytes), 1);
    at[1] = 2;
    EXPECT_EQ(cuMemPrefetchBatchAsync(ranges, sizes, 2, places, at, 2, 0, nullptr),
              CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuStreamAttachMemAsync(nullptr, base, 0, CU_MEM_ATTACH_HOST), CUDA_SUCCESS);
    EXPECT_EQ(cuStreamAttachMemAsync(nullptr, base, 0, CU_MEM_ATTACH_SINGLE),
              CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuStreamAttachMemAsync(nullptr, plain, 0, CU_MEM_ATTACH_GLOBAL),
              CUDA_ERROR_INVALID_VALUE);
    // Host and kernels see the same bytes.
    ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    ASSERT_EQ(StoreByKernel(base + 8, 31), CUDA_SUCCESS);
    EXPECT_EQ(*reinterpret_cast<volatile unsigned int*>(base + 8), 31u);
    EXPECT_EQ(cuMemFree_v2(base), CUDA_SUCCESS);
    EXPECT_EQ(cuMemAdvise(base, 4096, CU_MEM_ADVISE_SET_READ_MOSTLY, 0), CUDA_ERROR_INVALID_VALUE);
  });
}

TEST_F(DriverTest, PointersTellWhatTheyAre) {
  WithContext([](CUcontext context) {
    CUdeviceptr plain = 0, pooled = 0, managed = 0;
    void* host = nullptr;
    ASSERT_EQ(cuMemAlloc_v2(&plain, 3 * kMiBytes), CUDA_SUCCESS);
    ASSERT_EQ(cuMemAllocAsync(&pooled, 700, nullptr), CUDA_SUCCESS);
    ASSERT_EQ(cuMemAllocManaged(&managed, 4096, CU_MEM_ATTACH_GLOBAL), CUDA_SUCCESS);
    ASSERT_EQ(cuMemHostAlloc(&host, 4096, CU_MEMHOSTALLOC_PORTABLE), CUDA_SUCCESS);
    const auto locked = reinterpret_cast<CUdeviceptr>(host);
    struct Expected {
      CUdeviceptr address;
      CUcontext context;
      unsigned int type, managed, ipc;
      size_t size;
    };
    for (const Expected& one : {Expected{plain, context, CU_MEMORYTYPE_DEVICE, 0, 1, 3 * kMiBytes},
                                Expected{pooled, nullptr, CU_MEMORYTYPE_DEVICE, 0, 0, 700},
                                Expected{managed, context, CU_MEMORYTYPE_DEVICE, 1, 0, 4096},
                                Expected{locked, context, CU_MEMORYTYPE_HOST, 0, 0, 4096}}) {
      CUcontext of = nullptr;
      unsigned int type = 9, is_managed = 9, ipc = 9, flags = 9;
      size_t size = 0;
      CUdeviceptr start = 0;
      int ordinal = 9;
      CUpointer_attribute attributes[] = {
          CU_POINTER_ATTRIBUTE_CONTEXT,        CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
          CU_POINTER_ATTRIBUTE_IS_MANAGED,     CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE,
          CU_POINTER_ATTRIBUTE_RANGE_SIZE,     CU_POINTER_ATTRIBUTE_RANGE_START_ADDR,
          CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, CU_POINTER_ATTRIBUTE_ACCESS_FLAGS};
      void* answers[] = {&of, &type, &is_managed, &ipc, &size, &start, &ordinal, &flags};
      ASSERT_EQ(cuPointerGetAttributes(8, attributes, answers, one.address + 100), CUDA_SUCCESS);
      EXPECT_EQ(of, one.context);
      EXPECT_EQ(type, one.type);
      EXPECT_EQ(is_managed, one.managed);
      EXPECT_EQ(ipc, one.ipc);
      EXPECT_EQ(size, one.size);
      EXPECT_EQ(start, one.address);
      EXPECT_EQ(ordinal, 0);
      EXPECT_EQ(flags, 3u);
    }
    int ordinary = 0, on = 1;
    const auto unknown = reinterpret_cast<CUdeviceptr>(&ordinary);
    CUcontext of = context;
    EXPECT_EQ(cuPointerGetAttribute(&of, CU_POINTER_ATTRIBUTE_CONTEXT, unknown),
              CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuPointerGetAttribute(&of, static_cast<CUpointer_attribute>(99), plain),
              CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuPointerSetAttribute(&on, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, plain), CUDA_SUCCESS);
    EXPECT_EQ(cuPointerSetAttribute(&on, CU_POINTER_ATTRIBUTE_IS_MANAGED, plain),
              CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuPointerSetAttribute(&on, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, unknown),
              CUDA_ERROR_INVALID_VALUE);
    // Registering what is not there, twice, or on the bus of a device.
    EXPECT_EQ(cuMemHostRegister_v2(reinterpret_cast<void*>(4096), 4096, 0),
              CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemHostRegister_v2(host, 4096, CU_MEMHOSTREGISTER_IOMEMORY),
              CUDA_ERROR_NOT_SUPPORTED);
    EXPECT_EQ(cuMemHostRegister_v2(host, 16, 0), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    EXPECT_EQ(cuMemHostRegister_v2(reinterpret_cast<void*>(plain), 16, 0),
              CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemHostUnregister(host), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
    std::vector<char> mine(100000);
    ASSERT_EQ(cuMemHostRegister_v2(mine.data(), mine.size(), 0), CUDA_SUCCESS);
    EXPECT_EQ(cuMemFreeHost(mine.data()), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuMemHostUnregister(mine.data()), CUDA_SUCCESS);
    EXPECT_EQ(cuMemFreeHost(host), CUDA_SUCCESS);
  });
}

// A kernel's malloc takes the context's heap, which counts from then on and keeps its size.
TEST_F(DriverTest, LimitsAreKeptAndTheHeapIsOneOfThem) {
  WithContext([](CUcontext) {
    size_t value = 0;
    ASSERT_EQ(cuCtxGetLimit(&value, CU_LIMIT_MALLOC_HEAP_SIZE), CUDA_SUCCESS);
    EXPECT_EQ(value, 8 * kMiBytes);
    ASSERT_EQ(cuCtxSetLimit(CU_LIMIT_MALLOC_HEAP_SIZE, 4 * kMiBytes), CUDA_SUCCESS);
    ASSERT_EQ(cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 65536), CUDA_SUCCESS);
    EXPECT_EQ(cuCtxSetLimit(CU_LIMIT_STACK_SIZE, kMiBytes), CUDA_ERROR_INVALID_VALUE);
    ASSERT_EQ(cuCtxSetLimit(CU_LIMIT_PRINTF_FIFO_SIZE, 16 * kMiBytes), CUDA_SUCCESS);
    EXPECT_EQ(cuCtxSetLimit(CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH, 3), CUDA_ERROR_UNSUPPORTED_LIMIT);
    EXPECT_EQ(cuCtxSetLimit(CUlimit(77), 3), CUDA_ERROR_UNSUPPORTED_LIMIT);
    EXPECT_EQ(cuCtxGetLimit(&value, CUlimit(77)), CUDA_ERROR_UNSUPPORTED_LIMIT);
    ASSERT_EQ(cuCtxGetLimit(&value, CU_LIMIT_STACK_SIZE), CUDA_SUCCESS);
    EXPECT_EQ(value, 65536u);
    const size_t before = UsedMiB();
    CUdeviceptr out = 0;
    CUmodule module = nullptr;
    CUfunction function = nullptr;
    ASSERT_EQ(cuMemAllocManaged(&out, 16, CU_MEM_ATTACH_GLOBAL), CUDA_SUCCESS);
    ASSERT_EQ(cuModuleLoadData(&module, R"(
.version 7.0
.target sm_75
.address_size 64
.extern .func (.param .b64 result) malloc (.param .b64 size);
.extern .func free (.param .b64 pointer);
.visible .entry heap(.param .u64 out, .param .u64 bytes) {
  .reg .u64 %d<4>;
  ld.param.u64 %d0, [out];
  ld.param.u64 %d1, [bytes];
  {
  .param .b64 size;
  .param .b64 result;
  st.param.b64 [size], %d1;
  call.uni (result), malloc, (size);
  ld.param.b64 %d2, [result];
  }
  st.global.u64 [%d0], %d2;
  ret;
}
)"),
              CUDA_SUCCESS);
    ASSERT_EQ(cuModuleGetFunction(&function, module, "heap"), CUDA_SUCCESS);
    unsigned long long bytes = 3 * kMiBytes;
    void* parameters[] = {&out, &bytes};
    const auto* answer = reinterpret_cast<volatile unsigned long long*>(out);
    for (bool fits : {true, false}) {
      ASSERT_EQ(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, nullptr, parameters, nullptr),
                CUDA_SUCCESS);
      ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
      EXPECT_EQ(*answer != 0, fits);
    }
    EXPECT_EQ(UsedMiB(), before + 2 + 2 + 4);  // managed memory, the module, the heap
    EXPECT_EQ(cuCtxSetLimit(CU_LIMIT_MALLOC_HEAP_SIZE, 16 * kMiBytes), CUDA_ERROR_INVALID_VALUE);
  });
}

}  // namespace
}  // namespace simgpu
