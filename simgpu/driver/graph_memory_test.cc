// Memory nodes of graphs: who holds what of the card when, and which orders are refused.
#include "simgpu/driver/graph_test_support.h"

namespace simgpu {
namespace {

using GraphMemoryTest = DriverTest;

constexpr size_t kMiB = size_t{1} << 20;

CUDA_MEM_ALLOC_NODE_PARAMS Wanted(size_t bytes) {
  CUDA_MEM_ALLOC_NODE_PARAMS params{};
  params.poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  params.poolProps.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  params.bytesize = bytes;
  return params;
}

CUgraphNode AddAlloc(CUgraph graph, size_t bytes, CUdeviceptr* address,
                     const std::vector<CUgraphNode>& after = {}) {
  CUDA_MEM_ALLOC_NODE_PARAMS params = Wanted(bytes);
  CUgraphNode node = nullptr;
  EXPECT_EQ(cuGraphAddMemAllocNode(&node, graph, after.data(), after.size(), &params),
            CUDA_SUCCESS);
  EXPECT_NE(params.dptr, 0u);
  *address = params.dptr;
  return node;
}

CUresult AddFree(CUgraph graph, CUdeviceptr address, const std::vector<CUgraphNode>& after = {}) {
  CUgraphNode node = nullptr;
  return cuGraphAddMemFreeNode(&node, graph, after.data(), after.size(), address);
}

uint64_t Attribute(CUgraphMem_attribute attribute) {
  cuuint64_t value = ~cuuint64_t{0};
  EXPECT_EQ(cuDeviceGetGraphMemAttribute(0, attribute, &value), CUDA_SUCCESS);
  return value;
}

void ExpectMemory(uint64_t used_mib, uint64_t reserved_mib) {
  EXPECT_EQ(Attribute(CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT), used_mib * kMiB);
  EXPECT_EQ(Attribute(CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT), reserved_mib * kMiB);
}

TEST_F(GraphMemoryTest, TakesAndGivesBackTheCardsMemory) {
  WithContext([](CUcontext context) {
    const GraphBench bench;
    const size_t before = UsedMiB();
    CUgraph graph = NewGraphHandle();
    CUdeviceptr address = 0;
    CUgraphNode alloc = AddAlloc(graph, 8 * kMiB, &address), fill_node = nullptr,
                copy_node = nullptr;
    CUDA_MEMSET_NODE_PARAMS fill{address, 0, 9, 4, kCells, 1};
    ASSERT_EQ(cuGraphAddMemsetNode(&fill_node, graph, &alloc, 1, &fill, context), CUDA_SUCCESS);
    CUDA_MEMCPY3D copy{};
    copy.srcMemoryType = copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    copy.srcDevice = address;
    copy.dstDevice = bench.cells;
    copy.WidthInBytes = 4 * kCells;
    copy.Height = copy.Depth = 1;
    ASSERT_EQ(cuGraphAddMemcpyNode(&copy_node, graph, &fill_node, 1, &copy, context), CUDA_SUCCESS);
    ASSERT_EQ(AddFree(graph, address, {copy_node}), CUDA_SUCCESS);
    CUgraphExec exec = Ready(graph);
    EXPECT_EQ(UsedMiB(), before) << "an address alone takes nothing";
    ExpectMemory(0, 0);
    for (int round = 0; round < 4; ++round) {
      ASSERT_EQ(cuGraphLaunch(exec, nullptr), CUDA_SUCCESS) << "also when the last still runs";
    }
    EXPECT_EQ(bench.Read()[5], 9u);
    ExpectMemory(0, 8);
    EXPECT_EQ(UsedMiB(), before + 8) << "kept for the next launch";
    EXPECT_EQ(Attribute(CU_GRAPH_MEM_ATTR_USED_MEM_HIGH), 8 * kMiB);
    ASSERT_EQ(cuDeviceGraphMemTrim(0), CUDA_SUCCESS);
    ExpectMemory(0, 0);
    EXPECT_EQ(UsedMiB(), before);
    EXPECT_EQ(Attribute(CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH), 8 * kMiB);
    cuuint64_t value = 1;
    EXPECT_EQ(cuDeviceSetGraphMemAttribute(0, CU_GRAPH_MEM_ATTR_USED_MEM_HIGH, &value),
              CUDA_ERROR_INVALID_VALUE);
    value = 0;
    EXPECT_EQ(cuDeviceSetGraphMemAttribute(0, CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT, &value),
              CUDA_ERROR_INVALID_VALUE);
    ASSERT_EQ(cuDeviceSetGraphMemAttribute(0, CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH, &value),
              CUDA_SUCCESS);
    EXPECT_EQ(Attribute(CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH), 0u);
    ASSERT_EQ(cuGraphLaunch(exec, nullptr), CUDA_SUCCESS) << "and taken again";
    EXPECT_EQ(bench.Read()[5], 9u);
    EXPECT_EQ(UsedMiB(), before + 8);
    ASSERT_EQ(cuGraphExecDestroy(exec), CUDA_SUCCESS);
    ASSERT_EQ(cuGraphDestroy(graph), CUDA_SUCCESS);
    ASSERT_EQ(cuDeviceGraphMemTrim(0), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), before);
    EXPECT_EQ(cuDeviceGraphMemTrim(7), CUDA_ERROR_INVALID_DEVICE);
  });
}

TEST_F(GraphMemoryTest, RefusesASecondLaunchUntilTheMemoryIsFreed) {
  WithContext([](CUcontext) {
    const size_t before = UsedMiB();
    CUgraph graph = NewGraphHandle(), freeing = NewGraphHandle();
    CUdeviceptr address = 0;
    AddAlloc(graph, 4 * kMiB, &address);
    CUgraphExec exec = Ready(graph);
    CUgraphExec second = nullptr;
    EXPECT_EQ(cuGraphInstantiateWithFlags(&second, graph, 0), CUDA_ERROR_INVALID_VALUE)
        << "one executable at a time";
    ASSERT_EQ(cuGraphLaunch(exec, nullptr), CUDA_SUCCESS);
    EXPECT_EQ(cuGraphLaunch(exec, nullptr), CUDA_ERROR_INVALID_VALUE);
    // The memory may be used by what comes behind the launch.
    ASSERT_EQ(cuMemsetD32Async(address, 3, 100, nullptr), CUDA_SUCCESS);
    ASSERT_EQ(cuMemFreeAsync(address, nullptr), CUDA_SUCCESS);
    EXPECT_EQ(cuMemFreeAsync(address, nullptr), CUDA_ERROR_INVALID_VALUE);
    ASSERT_EQ(cuGraphLaunch(exec, nullptr), CUDA_SUCCESS);
    ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    ExpectMemory(4, 4);
    ASSERT_EQ(cuMemFree_v2(address), CUDA_SUCCESS);
    ExpectMemory(0, 4);
    EXPECT_EQ(cuMemFree_v2(address), CUDA_ERROR_INVALID_VALUE);
    // Another graph may free it, once for each time it was allocated.
    ASSERT_EQ(AddFree(freeing, address), CUDA_SUCCESS);
    CUgraphExec free_exec = Ready(freeing);
    EXPECT_EQ(cuGraphLaunch(free_exec, nullptr), CUDA_ERROR_INVALID_VALUE) << "nothing to free";
    for (int round = 0; round < 3; ++round) {
      ASSERT_EQ(cuGraphLaunch(exec, nullptr), CUDA_SUCCESS);
      ASSERT_EQ(cuGraphLaunch(free_exec, nullptr), CUDA_SUCCESS);
    }
    ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    ExpectMemory(0, 4);
    EXPECT_EQ(AddFree(graph, address), CUDA_ERROR_INVALID_VALUE) << "another graph frees it";
    ASSERT_EQ(cuGraphExecDestroy(exec), CUDA_SUCCESS);
    exec = Ready(graph, CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH);
    for (int round = 0; round < 3; ++round) {
      ASSERT_EQ(cuGraphLaunch(exec, nullptr), CUDA_SUCCESS);
    }
    ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    ExpectMemory(4, 4);
    EXPECT_EQ(UsedMiB(), before + 4);
  });
}

TEST_F(GraphMemoryTest, SaysNoWhenTheCardIsFull) {
  WithContext([](CUcontext) {
    const size_t before = UsedMiB();
    size_t free = 0, total = 0;
    ASSERT_EQ(cuMemGetInfo_v2(&free, &total), CUDA_SUCCESS);
    CUgraph graph = NewGraphHandle();
    CUdeviceptr small = 0, large = 0;
    AddAlloc(graph, 2 * kMiB, &small);
    AddAlloc(graph, free - 64 * kMiB, &large);
    CUgraphExec exec = Ready(graph);
    CUdeviceptr other = 0;
    ASSERT_EQ(cuMemAlloc_v2(&other, 128 * kMiB), CUDA_SUCCESS);
    EXPECT_EQ(cuGraphLaunch(exec, nullptr), CUDA_ERROR_OUT_OF_MEMORY);
    EXPECT_EQ(Attribute(CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT), 0u) << "nothing half taken";
    ASSERT_EQ(cuMemFree_v2(other), CUDA_SUCCESS);
    ASSERT_EQ(cuGraphLaunch(exec, nullptr), CUDA_SUCCESS);
    ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    ASSERT_EQ(cuMemFree_v2(small), CUDA_SUCCESS);
    ASSERT_EQ(cuMemFree_v2(large), CUDA_SUCCESS);
    ASSERT_EQ(cuDeviceGraphMemTrim(0), CUDA_SUCCESS);
    EXPECT_EQ(UsedMiB(), before);
    CUDA_MEM_ALLOC_NODE_PARAMS params = Wanted(total + 1);
    CUgraphNode node = nullptr;
    EXPECT_EQ(cuGraphAddMemAllocNode(&node, graph, nullptr, 0, &params), CUDA_ERROR_OUT_OF_MEMORY);
  });
}

TEST_F(GraphMemoryTest, RefusesWhatMemoryNodesForbid) {
  WithContext([](CUcontext) {
    CUgraph graph = NewGraphHandle(), other = NewGraphHandle(), clone = nullptr;
    CUdeviceptr address = 0, plain = 0;
    ASSERT_EQ(cuMemAlloc_v2(&plain, 4096), CUDA_SUCCESS);
    CUgraphNode alloc = AddAlloc(graph, 100, &address), node = nullptr;
    EXPECT_EQ(AddFree(graph, plain), CUDA_ERROR_INVALID_VALUE) << "not a graph's";
    EXPECT_EQ(AddFree(graph, address + 1), CUDA_ERROR_INVALID_VALUE);
    ASSERT_EQ(AddFree(graph, address), CUDA_SUCCESS);
    EXPECT_EQ(AddFree(graph, address), CUDA_ERROR_INVALID_VALUE) << "twice";
    EXPECT_EQ(AddFree(other, address), CUDA_ERROR_INVALID_VALUE) << "its own graph frees it";
    CUgraphExec exec = nullptr;
    EXPECT_EQ(cuGraphInstantiateWithFlags(&exec, graph, 0), CUDA_ERROR_INVALID_VALUE)
        << "the free is not behind the allocation";
    CUgraphNode free_node = NodesOf(graph)[1];
    ASSERT_EQ(cuGraphAddDependencies(graph, &alloc, &free_node, 1), CUDA_SUCCESS);
    exec = Ready(graph);
    EXPECT_EQ(cuGraphClone(&clone, graph), CUDA_ERROR_NOT_SUPPORTED);
    EXPECT_EQ(cuGraphDestroyNode(alloc), CUDA_ERROR_NOT_SUPPORTED);
    EXPECT_EQ(cuGraphRemoveDependencies(graph, &alloc, &free_node, 1), CUDA_ERROR_NOT_SUPPORTED);
    EXPECT_EQ(cuGraphAddChildGraphNode(&node, other, nullptr, 0, graph), CUDA_ERROR_NOT_SUPPORTED);
    CUdeviceptr found = 0;
    ASSERT_EQ(cuGraphMemFreeNodeGetParams(free_node, &found), CUDA_SUCCESS);
    EXPECT_EQ(found, address);
    CUDA_MEM_ALLOC_NODE_PARAMS params{};
    ASSERT_EQ(cuGraphMemAllocNodeGetParams(alloc, &params), CUDA_SUCCESS);
    EXPECT_EQ(params.bytesize, 100u);
    EXPECT_EQ(params.dptr, address);
    for (int bad = 0; bad < 4; ++bad) {
      params = Wanted(bad == 0 ? 0 : 100);
      if (bad == 1) params.poolProps.location.id = 9;
      if (bad == 2) params.poolProps.handleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
      if (bad == 3) params.accessDescCount = 1;
      EXPECT_EQ(cuGraphAddMemAllocNode(&node, other, nullptr, 0, &params), CUDA_ERROR_INVALID_VALUE)
          << bad;
    }
    CUgraphNodeParams generic;
    memset(static_cast<void*>(&generic), 0, sizeof generic);
    generic.type = CU_GRAPH_NODE_TYPE_MEM_FREE;
    generic.free = address;
    EXPECT_EQ(cuGraphExecNodeSetParams(exec, free_node, &generic), CUDA_ERROR_NOT_SUPPORTED);
    generic.type = CU_GRAPH_NODE_TYPE_MEM_ALLOC;
    generic.alloc = Wanted(4096);
    ASSERT_EQ(cuGraphAddNode(&node, other, nullptr, 0, &generic), CUDA_SUCCESS);
    EXPECT_NE(generic.alloc.dptr, 0u);
    EXPECT_NE(generic.alloc.dptr, address);
  });
}

TEST_F(GraphMemoryTest, ComesWithAChildThatIsMoved) {
  WithContext([](CUcontext context) {
    const GraphBench bench;
    CUgraph graph = NewGraphHandle(), child = NewGraphHandle();
    CUdeviceptr address = 0;
    CUgraphNode alloc = AddAlloc(child, 2 * kMiB, &address), fill_node = nullptr, nested = nullptr,
                copy_node = nullptr;
    CUDA_MEMSET_NODE_PARAMS fill{address, 0, 4, 4, kCells, 1};
    ASSERT_EQ(cuGraphAddMemsetNode(&fill_node, child, &alloc, 1, &fill, context), CUDA_SUCCESS);
    CUgraphNodeParams params;
    memset(static_cast<void*>(&params), 0, sizeof params);
    params.type = CU_GRAPH_NODE_TYPE_GRAPH;
    params.graph = {child, CU_GRAPH_CHILD_GRAPH_OWNERSHIP_MOVE};
    ASSERT_EQ(cuGraphAddNode(&nested, graph, nullptr, 0, &params), CUDA_SUCCESS);
    CUDA_MEMCPY3D copy{};
    copy.srcMemoryType = copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    copy.srcDevice = address;
    copy.dstDevice = bench.cells;
    copy.WidthInBytes = 4 * kCells;
    copy.Height = copy.Depth = 1;
    ASSERT_EQ(cuGraphAddMemcpyNode(&copy_node, graph, &nested, 1, &copy, context), CUDA_SUCCESS);
    ASSERT_EQ(AddFree(graph, address, {copy_node}), CUDA_SUCCESS);
    CUgraph clone = nullptr;
    EXPECT_EQ(cuGraphClone(&clone, graph), CUDA_ERROR_NOT_SUPPORTED);
    CUgraphExec exec = Ready(graph);
    for (int round = 0; round < 2; ++round) {
      ASSERT_EQ(cuGraphLaunch(exec, nullptr), CUDA_SUCCESS);
      EXPECT_EQ(bench.Read()[1], 4u);
    }
    ExpectMemory(0, 2);
  });
}

// A node that runs when its memory is not there is a fault, not a read of somebody else's bytes.
TEST_F(GraphMemoryTest, MemoryThatDoesNotLiveFaults) {
  WithContext([](CUcontext context) {
    const GraphBench bench;
    CUgraph graph = NewGraphHandle(), reader = NewGraphHandle();
    CUdeviceptr address = 0;
    AddAlloc(graph, 2 * kMiB, &address);
    CUDA_MEMSET_NODE_PARAMS fill{address, 0, 4, 4, kCells, 1};
    CUgraphNode node = nullptr;
    ASSERT_EQ(cuGraphAddMemsetNode(&node, reader, nullptr, 0, &fill, context), CUDA_SUCCESS);
    CUgraphExec exec = Ready(reader);
    // The fault may show while the launch is still being put together.
    const CUresult launched = cuGraphLaunch(exec, nullptr);
    EXPECT_TRUE(launched == CUDA_SUCCESS || launched == CUDA_ERROR_ILLEGAL_ADDRESS) << launched;
    EXPECT_EQ(cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
    EXPECT_EQ(cuGraphLaunch(exec, nullptr), CUDA_ERROR_ILLEGAL_ADDRESS) << "it sticks";
  });
}

}  // namespace
}  // namespace simgpu
