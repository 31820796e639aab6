// For the tests of graphs and captures: kernels whose results show what ran before what.
#pragma once

#include <string.h>

#include <vector>

#include "abi/cuda_graph.h"
#include "simgpu/driver/test_support.h"

namespace simgpu {

// fold: cells[index] = 1 + index + 3 * the sum of cells[j] over the bits j of mask.
// add: cells[index] += value, by one thread and not atomically.
inline constexpr char kGraphPtx[] = R"(
.version 7.0
.target sm_75
.address_size 64

.visible .entry fold(.param .u64 fold_cells, .param .u32 fold_index, .param .u64 fold_mask)
{
  .reg .pred %p<3>;
  .reg .b32 %r<6>;
  .reg .b64 %rd<6>;
  ld.param.u64 %rd1, [fold_cells];
  ld.param.u32 %r1, [fold_index];
  ld.param.u64 %rd2, [fold_mask];
  mov.u32 %r2, 0;
  add.u32 %r3, %r1, 1;
again:
  setp.ge.u32 %p1, %r2, 64;
  @%p1 bra done;
  shr.u64 %rd3, %rd2, %r2;
  and.b64 %rd3, %rd3, 1;
  setp.eq.u64 %p2, %rd3, 0;
  @%p2 bra next;
  mul.wide.u32 %rd4, %r2, 4;
  add.s64 %rd5, %rd1, %rd4;
  ld.global.u32 %r4, [%rd5];
  mad.lo.u32 %r3, %r4, 3, %r3;
next:
  add.u32 %r2, %r2, 1;
  bra again;
done:
  mul.wide.u32 %rd4, %r1, 4;
  add.s64 %rd5, %rd1, %rd4;
  st.global.u32 [%rd5], %r3;
  ret;
}

.visible .entry add(.param .u64 add_cells, .param .u32 add_index, .param .u32 add_value)
{
  .reg .b32 %r<4>;
  .reg .b64 %rd<4>;
  ld.param.u64 %rd1, [add_cells];
  ld.param.u32 %r1, [add_index];
  ld.param.u32 %r2, [add_value];
  mul.wide.u32 %rd2, %r1, 4;
  add.s64 %rd3, %rd1, %rd2;
  ld.global.u32 %r3, [%rd3];
  add.u32 %r3, %r3, %r2;
  st.global.u32 [%rd3], %r3;
  ret;
}
)";

inline constexpr unsigned int kCells = 64;

// In a child with a context: the kernels, an array of zeroed cells, and short ways to use them.
struct GraphBench {
  CUmodule module = nullptr;
  CUfunction fold = nullptr, add = nullptr;
  CUdeviceptr cells = 0;

  GraphBench() {
    EXPECT_EQ(cuModuleLoadData(&module, kGraphPtx), CUDA_SUCCESS);
    EXPECT_EQ(cuModuleGetFunction(&fold, module, "fold"), CUDA_SUCCESS);
    EXPECT_EQ(cuModuleGetFunction(&add, module, "add"), CUDA_SUCCESS);
    EXPECT_EQ(cuMemAlloc_v2(&cells, 4 * kCells), CUDA_SUCCESS);
    Clear();
  }

  // Fills run behind the call, and streams that do not block do not wait for them.
  void Clear() const {
    EXPECT_EQ(cuMemsetD32_v2(cells, 0, kCells), CUDA_SUCCESS);
    EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
  }

  std::vector<unsigned int> Read() const {
    std::vector<unsigned int> values(kCells);
    EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    EXPECT_EQ(cuMemcpyDtoH_v2(values.data(), cells, 4 * kCells), CUDA_SUCCESS);
    return values;
  }

  CUresult AddFold(CUgraph graph, const std::vector<CUgraphNode>& after, unsigned int index,
                   unsigned long long mask, CUgraphNode* node) const {
    CUdeviceptr base = cells;
    void* parameters[] = {&base, &index, &mask};
    CUDA_KERNEL_NODE_PARAMS params{};
    params.func = fold;
    params.gridDimX = params.gridDimY = params.gridDimZ = 1;
    params.blockDimX = params.blockDimY = params.blockDimZ = 1;
    params.kernelParams = parameters;
    return cuGraphAddKernelNode_v2(node, graph, after.data(), after.size(), &params);
  }

  CUDA_KERNEL_NODE_PARAMS AddParams(void** parameters) const {
    CUDA_KERNEL_NODE_PARAMS params{};
    params.func = add;
    params.gridDimX = params.gridDimY = params.gridDimZ = 1;
    params.blockDimX = params.blockDimY = params.blockDimZ = 1;
    params.kernelParams = parameters;
    return params;
  }

  CUresult AddAdd(CUgraph graph, const std::vector<CUgraphNode>& after, unsigned int index,
                  unsigned int value, CUgraphNode* node) const {
    CUdeviceptr base = cells;
    void* parameters[] = {&base, &index, &value};
    const CUDA_KERNEL_NODE_PARAMS params = AddParams(parameters);
    return cuGraphAddKernelNode_v2(node, graph, after.data(), after.size(), &params);
  }

  CUresult LaunchFold(CUstream stream, unsigned int index, unsigned long long mask) const {
    CUdeviceptr base = cells;
    void* parameters[] = {&base, &index, &mask};
    return cuLaunchKernel(fold, 1, 1, 1, 1, 1, 1, 0, stream, parameters, nullptr);
  }

  CUresult LaunchAdd(CUstream stream, unsigned int index, unsigned int value) const {
    CUdeviceptr base = cells;
    void* parameters[] = {&base, &index, &value};
    return cuLaunchKernel(add, 1, 1, 1, 1, 1, 1, 0, stream, parameters, nullptr);
  }
};

inline CUstream NewStream(unsigned int flags = CU_STREAM_NON_BLOCKING) {
  CUstream stream = nullptr;
  EXPECT_EQ(cuStreamCreate(&stream, flags), CUDA_SUCCESS);
  return stream;
}

inline CUgraph NewGraphHandle() {
  CUgraph graph = nullptr;
  EXPECT_EQ(cuGraphCreate(&graph, 0), CUDA_SUCCESS);
  return graph;
}

inline CUgraphExec Ready(CUgraph graph, unsigned long long flags = 0) {
  CUgraphExec exec = nullptr;
  EXPECT_EQ(cuGraphInstantiateWithFlags(&exec, graph, flags), CUDA_SUCCESS);
  return exec;
}

inline CUgraphNode EmptyNode(CUgraph graph, const std::vector<CUgraphNode>& after = {}) {
  CUgraphNode node = nullptr;
  EXPECT_EQ(cuGraphAddEmptyNode(&node, graph, after.data(), after.size()), CUDA_SUCCESS);
  return node;
}

inline std::vector<CUgraphNode> NodesOf(CUgraph graph) {
  size_t count = 0;
  EXPECT_EQ(cuGraphGetNodes(graph, nullptr, &count), CUDA_SUCCESS);
  std::vector<CUgraphNode> nodes(count);
  EXPECT_EQ(cuGraphGetNodes(graph, nodes.data(), &count), CUDA_SUCCESS);
  return nodes;
}

inline size_t EdgeCount(CUgraph graph) {
  size_t count = 0;
  EXPECT_EQ(cuGraphGetEdges(graph, nullptr, nullptr, &count), CUDA_SUCCESS);
  return count;
}

}  // namespace simgpu
