// Conditional nodes: bodies that run, run again or do not, as kernels decide on the way.
#include <vector>

#include "simgpu/driver/graph_test_support.h"
#include "simgpu/driver/memory_test_support.h"

namespace simgpu {
namespace {

// set: sets the condition to a value. countdown: takes one off a cell and sets the condition to it.
constexpr char kPtx[] = R"(
.version 7.0
.target sm_75
.address_size 64
.extern .func cudaGraphSetConditional (.param .b64 handle, .param .b32 value);
.visible .entry set(.param .u64 set_handle, .param .u32 set_value)
{
  .reg .b32 %r<2>;
  .reg .b64 %rd<2>;
  .param .b64 handle;
  .param .b32 value;
  ld.param.u64 %rd1, [set_handle];
  ld.param.u32 %r1, [set_value];
  st.param.b64 [handle], %rd1;
  st.param.b32 [value], %r1;
  call.uni cudaGraphSetConditional, (handle, value);
  ret;
}
.visible .entry countdown(.param .u64 down_handle, .param .u64 down_cell)
{
  .reg .b32 %r<3>;
  .reg .b64 %rd<3>;
  .param .b64 handle;
  .param .b32 value;
  ld.param.u64 %rd1, [down_handle];
  ld.param.u64 %rd2, [down_cell];
  ld.global.u32 %r1, [%rd2];
  add.u32 %r2, %r1, -1;
  st.global.u32 [%rd2], %r2;
  st.param.b64 [handle], %rd1;
  st.param.b32 [value], %r2;
  call.uni cudaGraphSetConditional, (handle, value);
  ret;
}
)";

struct Conditions : GraphBench {
  CUmodule code = nullptr;
  CUfunction set = nullptr, countdown = nullptr;
  CUgraph graph = nullptr;

  Conditions() {
    EXPECT_EQ(cuModuleLoadData(&code, kPtx), CUDA_SUCCESS);
    EXPECT_EQ(cuModuleGetFunction(&set, code, "set"), CUDA_SUCCESS);
    EXPECT_EQ(cuModuleGetFunction(&countdown, code, "countdown"), CUDA_SUCCESS);
    EXPECT_EQ(cuGraphCreate(&graph, 0), CUDA_SUCCESS);
  }

  CUgraphConditionalHandle Handle(unsigned int initial, unsigned int flags = 1) const {
    CUgraphConditionalHandle handle = 0;
    EXPECT_EQ(cuGraphConditionalHandleCreate(&handle, graph, nullptr, initial, flags),
              CUDA_SUCCESS);
    return handle;
  }

  static CUresult TryAdd(CUgraph to, CUgraphConditionalHandle handle,
                         CUgraphConditionalNodeType type, unsigned int size, CUgraphNode* node,
                         std::vector<CUgraph>* bodies,
                         const std::vector<CUgraphNode>& before = {}) {
    CUgraphNodeParams params;
    memset(static_cast<void*>(&params), 0, sizeof params);
    params.type = CU_GRAPH_NODE_TYPE_CONDITIONAL;
    params.conditional.handle = handle;
    params.conditional.type = type;
    params.conditional.size = size;
    if (CUresult bad = cuGraphAddNode(node, to, before.data(), before.size(), &params)) return bad;
    bodies->assign(params.conditional.phGraph_out, params.conditional.phGraph_out + size);
    return CUDA_SUCCESS;
  }
  static std::vector<CUgraph> AddCondition(CUgraph to, CUgraphConditionalHandle handle,
                                           CUgraphConditionalNodeType type, unsigned int size,
                                           CUgraphNode* node,
                                           const std::vector<CUgraphNode>& before = {}) {
    std::vector<CUgraph> bodies(size);
    EXPECT_EQ(TryAdd(to, handle, type, size, node, &bodies, before), CUDA_SUCCESS);
    return bodies;
  }

  CUgraphNode AddKernel(CUgraph to, CUfunction function, void** arguments,
                        const std::vector<CUgraphNode>& before = {}) const {
    CUDA_KERNEL_NODE_PARAMS kernel{function, 1, 1,         1,       1,       1,
                                   1,        0, arguments, nullptr, nullptr, nullptr};
    CUgraphNode node = nullptr;
    EXPECT_EQ(cuGraphAddKernelNode_v2(&node, to, before.data(), before.size(), &kernel),
              CUDA_SUCCESS);
    return node;
  }
  CUgraphNode AddSet(CUgraph to, CUgraphConditionalHandle handle, unsigned int value,
                     const std::vector<CUgraphNode>& before = {}) const {
    void* arguments[] = {&handle, &value};
    return AddKernel(to, set, arguments, before);
  }
  CUgraphNode AddOne(CUgraph to, unsigned int cell, unsigned int value = 1,
                     const std::vector<CUgraphNode>& before = {}) const {
    CUdeviceptr at = cells;
    void* arguments[] = {&at, &cell, &value};
    return AddKernel(to, add, arguments, before);
  }
  CUgraphNode AddCountdown(CUgraph to, CUgraphConditionalHandle handle, unsigned int cell,
                           const std::vector<CUgraphNode>& before = {}) const {
    CUdeviceptr at = cells + 4 * cell;
    void* arguments[] = {&handle, &at};
    return AddKernel(to, countdown, arguments, before);
  }
  void Put(unsigned int cell, unsigned int value) const {
    EXPECT_EQ(cuMemsetD32_v2(cells + 4 * cell, value, 1), CUDA_SUCCESS);
  }
  unsigned int Cell(unsigned int cell) const {
    unsigned int value = 0;
    EXPECT_EQ(cuMemcpyDtoH_v2(&value, cells + 4 * cell, 4), CUDA_SUCCESS);
    return value;
  }
  CUgraphExec Executable() const {
    CUgraphExec exec = nullptr;
    EXPECT_EQ(cuGraphInstantiateWithFlags(&exec, graph, 0), CUDA_SUCCESS);
    return exec;
  }
  static void Run(CUgraphExec exec) {
    EXPECT_EQ(cuGraphLaunch(exec, nullptr), CUDA_SUCCESS);
    EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
  }
};

TEST_F(DriverTest, AnIfRunsTheBodyItsValueChooses) {
  WithContext([](CUcontext) {
    const Conditions on;
    const CUgraphConditionalHandle handle = on.Handle(0);
    CUgraphNode node = nullptr;
    const CUgraphNode before = on.AddOne(on.graph, 0);
    const auto bodies =
        Conditions::AddCondition(on.graph, handle, CU_GRAPH_COND_TYPE_IF, 2, &node, {before});
    on.AddOne(bodies[0], 1);
    on.AddOne(bodies[1], 2);
    on.AddOne(on.graph, 3, 1, {node});
    CUgraphNodeType type = CU_GRAPH_NODE_TYPE_EMPTY;
    ASSERT_EQ(cuGraphNodeGetType(node, &type), CUDA_SUCCESS);
    EXPECT_EQ(type, CU_GRAPH_NODE_TYPE_CONDITIONAL);
    CUgraphExec exec = on.Executable();
    Conditions::Run(exec);  // the initial value: 0
    EXPECT_EQ(on.Cell(0), 1u);
    EXPECT_EQ(on.Cell(1), 0u);
    EXPECT_EQ(on.Cell(2), 1u);
    EXPECT_EQ(on.Cell(3), 1u);
    // A kernel before the node decides otherwise, in this launch alone.
    CUgraphNode decides = on.AddSet(on.graph, handle, 7, {before});
    ASSERT_EQ(cuGraphAddDependencies_v2(on.graph, &decides, &node, nullptr, 1), CUDA_SUCCESS);
    CUgraphExec second = on.Executable();
    Conditions::Run(second);
    EXPECT_EQ(on.Cell(1), 1u);
    EXPECT_EQ(on.Cell(2), 1u);
    Conditions::Run(exec);  // assigned anew
    EXPECT_EQ(on.Cell(1), 1u);
    EXPECT_EQ(on.Cell(2), 2u);
  });
}

TEST_F(DriverTest, AWhileRunsItsBodyUntilTheValueIsZeroAndSwitchesChooseOne) {
  WithContext([](CUcontext) {
    const Conditions on;
    const CUgraphConditionalHandle loop = on.Handle(1), inner = on.Handle(0, 0),
                                   choice = on.Handle(9);
    CUgraphNode node = nullptr, nested = nullptr, chooses = nullptr;
    const CUgraph body =
        Conditions::AddCondition(on.graph, loop, CU_GRAPH_COND_TYPE_WHILE, 1, &node)[0];
    const CUgraphNode down = on.AddCountdown(body, loop, 0);
    const CUgraphNode one = on.AddOne(body, 1, 1, {down});
    // Within the body, and after the count of this turn: every second turn.
    const CUgraphNode sets = on.AddSet(body, inner, 1, {one});
    const CUgraph deep =
        Conditions::AddCondition(body, inner, CU_GRAPH_COND_TYPE_IF, 1, &nested, {sets})[0];
    on.AddOne(deep, 2);
    const CUgraphNode last = on.AddSet(on.graph, choice, 2, {node});
    const auto bodies =
        Conditions::AddCondition(on.graph, choice, CU_GRAPH_COND_TYPE_SWITCH, 3, &chooses, {last});
    for (unsigned int i = 0; i < 3; ++i) on.AddOne(bodies[i], 10 + i);
    CUgraphExec exec = on.Executable();
    constexpr unsigned int kTurns = 40;
    for (unsigned int launch = 1; launch <= 3; ++launch) {
      on.Put(0, kTurns);
      Conditions::Run(exec);
      EXPECT_EQ(on.Cell(0), 0u);
      EXPECT_EQ(on.Cell(1), launch * kTurns);
      EXPECT_EQ(on.Cell(2), launch * kTurns);
      EXPECT_EQ(on.Cell(10) + on.Cell(11), 0u);
      EXPECT_EQ(on.Cell(12), launch);
    }
    // Two launches in a row, without waiting between: one after the other.
    on.Put(0, kTurns);
    on.Put(1, 0);
    ASSERT_EQ(cuGraphLaunch(exec, nullptr), CUDA_SUCCESS);
    ASSERT_EQ(cuMemsetD32Async(on.cells, 5, 1, nullptr), CUDA_SUCCESS);
    ASSERT_EQ(cuGraphLaunch(exec, nullptr), CUDA_SUCCESS);
    ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    EXPECT_EQ(on.Cell(1), kTurns + 5);
  });
}

TEST_F(DriverTest, BodiesAreCapturedIntoAndSwitchesOfNothingRunNothing) {
  WithContext([](CUcontext) {
    const Conditions on;
    const CUgraphConditionalHandle handle = on.Handle(5);
    CUgraphNode node = nullptr;
    const auto bodies =
        Conditions::AddCondition(on.graph, handle, CU_GRAPH_COND_TYPE_SWITCH, 1, &node);
    CUstream stream = nullptr;
    ASSERT_EQ(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamBeginCaptureToGraph(stream, bodies[0], nullptr, nullptr, 0,
                                          CU_STREAM_CAPTURE_MODE_RELAXED),
              CUDA_SUCCESS);
    CUgraphExec exec = nullptr;
    EXPECT_EQ(cuGraphInstantiateWithFlags(&exec, on.graph, 0), CUDA_ERROR_INVALID_VALUE);
    ASSERT_EQ(cuMemsetD32Async(on.cells, 77, 1, stream), CUDA_SUCCESS);
    CUgraph same = nullptr;
    ASSERT_EQ(cuStreamEndCapture(stream, &same), CUDA_SUCCESS);
    EXPECT_EQ(same, bodies[0]);
    exec = on.Executable();
    Conditions::Run(exec);
    EXPECT_EQ(on.Cell(0), 0u);
    CUgraphNode sets = on.AddSet(on.graph, handle, 0);
    ASSERT_EQ(cuGraphAddDependencies_v2(on.graph, &sets, &node, nullptr, 1), CUDA_SUCCESS);
    Conditions::Run(on.Executable());
    EXPECT_EQ(on.Cell(0), 77u);
  });
}

TEST_F(DriverTest, WhatMayNotStandInABodyOrAConditionIsRefused) {
  WithContext([](CUcontext) {
    const Conditions on;
    CUgraphConditionalHandle handle = 0;
    EXPECT_EQ(cuGraphConditionalHandleCreate(&handle, nullptr, nullptr, 0, 0),
              CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuGraphConditionalHandleCreate(&handle, on.graph, nullptr, 0, 2),
              CUDA_ERROR_INVALID_VALUE);
    handle = on.Handle(0);
    CUgraphNode node = nullptr;
    std::vector<CUgraph> bodies;
    const auto refused = [&](CUgraphConditionalHandle which, CUgraphConditionalNodeType type,
                             unsigned int size) {
      return Conditions::TryAdd(on.graph, which, type, size, &node, &bodies);
    };
    EXPECT_EQ(refused(handle + 1000, CU_GRAPH_COND_TYPE_IF, 1), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(refused(handle, CU_GRAPH_COND_TYPE_IF, 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(refused(handle, CU_GRAPH_COND_TYPE_IF, 3), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(refused(handle, CU_GRAPH_COND_TYPE_WHILE, 2), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(refused(handle, CU_GRAPH_COND_TYPE_SWITCH, 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(refused(handle, static_cast<CUgraphConditionalNodeType>(3), 1),
              CUDA_ERROR_INVALID_VALUE);
    CUgraph other = nullptr;
    ASSERT_EQ(cuGraphCreate(&other, 0), CUDA_SUCCESS);
    EXPECT_EQ(Conditions::TryAdd(other, handle, CU_GRAPH_COND_TYPE_IF, 1, &node, &bodies),
              CUDA_ERROR_INVALID_VALUE);
    ASSERT_EQ(refused(handle, CU_GRAPH_COND_TYPE_IF, 1), CUDA_SUCCESS);
    const CUgraph body = bodies[0];
    EXPECT_EQ(refused(handle, CU_GRAPH_COND_TYPE_IF, 1), CUDA_ERROR_INVALID_VALUE);  // used
    EXPECT_EQ(cuGraphDestroy(body), CUDA_ERROR_INVALID_VALUE);
    CUgraph clone = nullptr;
    EXPECT_EQ(cuGraphClone(&clone, on.graph), CUDA_ERROR_NOT_SUPPORTED);
    // Memory nodes are none of what a body may hold: instantiating says so, and takes nothing.
    CUDA_MEM_ALLOC_NODE_PARAMS memory = {};
    memory.poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
    memory.poolProps.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
    memory.bytesize = size_t{64} << 20;
    CUgraphNode allocates = nullptr;
    ASSERT_EQ(cuGraphAddMemAllocNode(&allocates, body, nullptr, 0, &memory), CUDA_SUCCESS);
    const size_t before = UsedMiB();
    CUDA_GRAPH_INSTANTIATE_PARAMS params = {};
    CUgraphExec exec = nullptr;
    EXPECT_EQ(cuGraphInstantiateWithParams(&exec, on.graph, &params), CUDA_ERROR_NOT_SUPPORTED);
    EXPECT_EQ(params.result_out, CUDA_GRAPH_INSTANTIATE_NODE_OPERATION_NOT_SUPPORTED);
    EXPECT_EQ(UsedMiB(), before);
    ASSERT_EQ(cuGraphDestroy(on.graph), CUDA_SUCCESS);
    EXPECT_EQ(cuGraphInstantiateWithFlags(&exec, body, 0), CUDA_ERROR_INVALID_VALUE);
    // A kernel that sets a condition nobody made has done something undefined: it faults.
    CUgraphConditionalHandle none = 1ull << 40;
    unsigned int value = 1;
    void* arguments[] = {&none, &value};
    ASSERT_EQ(cuLaunchKernel(on.set, 1, 1, 1, 1, 1, 1, 0, nullptr, arguments, nullptr),
              CUDA_SUCCESS);
    EXPECT_EQ(cuCtxSynchronize(), CUDA_ERROR_LAUNCH_FAILED);
  });
}

}  // namespace
}  // namespace simgpu
