// Graphs made node by node: their structure, what launches of them do, and how they change.
#include <atomic>
#include <fstream>
#include <random>
#include <sstream>
#include <thread>

#include "simgpu/driver/graph_test_support.h"

namespace simgpu {
namespace {

using GraphTest = DriverTest;

TEST_F(GraphTest, HoldsNodesAndEdges) {
  WithContext([](CUcontext) {
    CUgraph graph = NewGraphHandle();
    CUgraphNode a = EmptyNode(graph), b = EmptyNode(graph), c = EmptyNode(graph, {a, b});
    EXPECT_EQ(NodesOf(graph), (std::vector<CUgraphNode>{a, b, c}));
    CUgraphNode nodes[4] = {a, a, a, a};
    size_t count = 4;
    ASSERT_EQ(cuGraphGetNodes(graph, nodes, &count), CUDA_SUCCESS);
    EXPECT_EQ(count, 3u);
    EXPECT_EQ(nodes[3], nullptr) << "entries beyond the last node are nulled";
    count = 2;
    ASSERT_EQ(cuGraphGetRootNodes(graph, nodes, &count), CUDA_SUCCESS);
    EXPECT_EQ(count, 2u);
    EXPECT_EQ(nodes[1], b);
    CUgraphNode from[2] = {}, to[2] = {};
    count = 2;
    ASSERT_EQ(cuGraphGetEdges(graph, from, to, &count), CUDA_SUCCESS);
    EXPECT_EQ(from[0], a);
    EXPECT_EQ(to[1], c);
    count = 2;
    ASSERT_EQ(cuGraphNodeGetDependencies(c, nodes, &count), CUDA_SUCCESS);
    EXPECT_EQ(count, 2u);
    EXPECT_EQ(nodes[0], a);
    count = 2;
    ASSERT_EQ(cuGraphNodeGetDependentNodes(a, nodes, &count), CUDA_SUCCESS);
    EXPECT_EQ(count, 1u);
    CUgraphNodeType type = CU_GRAPH_NODE_TYPE_KERNEL;
    ASSERT_EQ(cuGraphNodeGetType(c, &type), CUDA_SUCCESS);
    EXPECT_EQ(type, CU_GRAPH_NODE_TYPE_EMPTY);

    ASSERT_EQ(cuGraphRemoveDependencies(graph, &a, &c, 1), CUDA_SUCCESS);
    EXPECT_EQ(cuGraphRemoveDependencies(graph, &a, &c, 1), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(EdgeCount(graph), 1u);
    ASSERT_EQ(cuGraphDestroyNode(b), CUDA_SUCCESS);
    EXPECT_EQ(EdgeCount(graph), 0u);
    EXPECT_EQ(cuGraphDestroyNode(b), CUDA_ERROR_INVALID_VALUE) << "a dead handle is an error";
    EXPECT_EQ(NodesOf(graph), (std::vector<CUgraphNode>{a, c}));
    ASSERT_EQ(cuGraphDestroy(graph), CUDA_SUCCESS);
    EXPECT_EQ(cuGraphDestroy(graph), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuGraphNodeGetType(a, &type), CUDA_ERROR_INVALID_VALUE);
  });
}

TEST_F(GraphTest, RefusesBadEdgesAndLeavesNothingBehind) {
  WithContext([](CUcontext) {
    CUgraph graph = NewGraphHandle(), other = NewGraphHandle();
    CUgraphNode a = EmptyNode(graph), b = EmptyNode(graph, {a}), c = EmptyNode(graph, {b});
    CUgraphNode stranger = EmptyNode(other), made = nullptr;
    EXPECT_EQ(cuGraphAddDependencies(graph, &c, &a, 1), CUDA_ERROR_INVALID_VALUE) << "a circle";
    EXPECT_EQ(cuGraphAddDependencies(graph, &a, &a, 1), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuGraphAddDependencies(graph, &a, &b, 1), CUDA_ERROR_INVALID_VALUE) << "twice";
    EXPECT_EQ(cuGraphAddDependencies(graph, &a, &stranger, 1), CUDA_ERROR_INVALID_VALUE);
    CUgraphNode from[] = {a, c}, to[] = {c, a};
    EXPECT_EQ(cuGraphAddDependencies(graph, from, to, 2), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(EdgeCount(graph), 2u) << "the good edge before the bad one is gone again";
    CUgraphNode twice[] = {a, a};
    EXPECT_EQ(cuGraphAddEmptyNode(&made, graph, twice, 2), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuGraphAddEmptyNode(&made, graph, &stranger, 1), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuGraphAddEmptyNode(nullptr, graph, nullptr, 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuGraphAddEmptyNode(&made, nullptr, nullptr, 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuGraphCreate(&graph, 1), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(NodesOf(graph).size(), 3u);
  });
}

TEST_F(GraphTest, KeepsEdgeData) {
  WithContext([](CUcontext) {
    const GraphBench bench;
    CUgraph graph = NewGraphHandle();
    CUgraphNode a = nullptr, b = nullptr, e = EmptyNode(graph);
    ASSERT_EQ(bench.AddAdd(graph, {}, 0, 1, &a), CUDA_SUCCESS);
    ASSERT_EQ(bench.AddAdd(graph, {}, 0, 1, &b), CUDA_SUCCESS);
    CUgraphEdgeData data{};
    data.type = CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC;
    data.from_port = CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC;
    EXPECT_EQ(cuGraphAddDependencies_v2(graph, &e, &b, &data, 1), CUDA_ERROR_INVALID_VALUE)
        << "only kernels let others begin early";
    EXPECT_EQ(cuGraphAddDependencies_v2(graph, &a, &e, &data, 1), CUDA_ERROR_INVALID_VALUE);
    ASSERT_EQ(cuGraphAddDependencies_v2(graph, &a, &b, &data, 1), CUDA_SUCCESS);
    CUgraphNode from = nullptr, to = nullptr;
    size_t count = 1;
    EXPECT_EQ(cuGraphGetEdges(graph, &from, &to, &count), CUDA_ERROR_LOSSY_QUERY);
    EXPECT_EQ(cuGraphNodeGetDependencies(b, &from, &count), CUDA_ERROR_LOSSY_QUERY);
    CUgraphEdgeData found{};
    count = 1;
    ASSERT_EQ(cuGraphGetEdges_v2(graph, &from, &to, &found, &count), CUDA_SUCCESS);
    EXPECT_EQ(from, a);
    EXPECT_EQ(found.from_port, CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC);
    EXPECT_EQ(cuGraphRemoveDependencies(graph, &a, &b, 1), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuGraphRemoveDependencies_v2(graph, &a, &b, &data, 1), CUDA_SUCCESS);
  });
}

TEST_F(GraphTest, TellsParametersAndTakesNewOnes) {
  WithContext([](CUcontext context) {
    const GraphBench bench;
    CUgraph graph = NewGraphHandle();
    CUgraphNode kernel = nullptr;
    ASSERT_EQ(bench.AddFold(graph, {}, 7, 0x12, &kernel), CUDA_SUCCESS);
    CUDA_KERNEL_NODE_PARAMS params{};
    ASSERT_EQ(cuGraphKernelNodeGetParams_v2(kernel, &params), CUDA_SUCCESS);
    EXPECT_EQ(params.func, bench.fold);
    EXPECT_EQ(params.ctx, context);
    EXPECT_EQ(*static_cast<CUdeviceptr*>(params.kernelParams[0]), bench.cells);
    EXPECT_EQ(*static_cast<unsigned int*>(params.kernelParams[1]), 7u);
    EXPECT_EQ(*static_cast<unsigned long long*>(params.kernelParams[2]), 0x12u);
    // What was told may be handed back as it is, with one thing changed.
    params.blockDimX = 32;
    ASSERT_EQ(cuGraphKernelNodeSetParams_v2(kernel, &params), CUDA_SUCCESS);
    CUDA_KERNEL_NODE_PARAMS_v1 old{};
    ASSERT_EQ(cuGraphKernelNodeGetParams(kernel, &old), CUDA_SUCCESS);
    EXPECT_EQ(old.blockDimX, 32u);
    EXPECT_EQ(*static_cast<unsigned int*>(old.kernelParams[1]), 7u);
    params.blockDimX = 2048;
    EXPECT_EQ(cuGraphKernelNodeSetParams_v2(kernel, &params), CUDA_ERROR_INVALID_VALUE);
    ASSERT_EQ(cuGraphKernelNodeGetParams(kernel, &old), CUDA_SUCCESS);
    EXPECT_EQ(old.blockDimX, 32u) << "nothing of the bad ones was taken";

    CUDA_MEMSET_NODE_PARAMS fill{bench.cells, 0, 0x55, 4, 16, 1};
    CUgraphNode memset_node = nullptr, bad = nullptr;
    ASSERT_EQ(cuGraphAddMemsetNode(&memset_node, graph, nullptr, 0, &fill, context), CUDA_SUCCESS);
    CUDA_MEMSET_NODE_PARAMS found{};
    ASSERT_EQ(cuGraphMemsetNodeGetParams(memset_node, &found), CUDA_SUCCESS);
    EXPECT_EQ(memcmp(&found, &fill, sizeof fill), 0);
    for (auto [element, width, address] : {std::tuple{3u, 4u, bench.cells},
                                           {4u, 0u, bench.cells},
                                           {4u, 4u, bench.cells + 1},
                                           {4u, 1u << 20, bench.cells},
                                           {4u, 4u, CUdeviceptr{64}}}) {
      fill.elementSize = element;
      fill.width = width;
      fill.dst = address;
      EXPECT_EQ(cuGraphAddMemsetNode(&bad, graph, nullptr, 0, &fill, context),
                CUDA_ERROR_INVALID_VALUE);
    }

    unsigned int host[4] = {};
    CUDA_MEMCPY3D copy{};
    copy.srcMemoryType = CU_MEMORYTYPE_DEVICE;
    copy.srcDevice = bench.cells;
    copy.srcXInBytes = 8;
    copy.dstMemoryType = CU_MEMORYTYPE_HOST;
    copy.dstHost = host;
    copy.WidthInBytes = 16;
    copy.Height = copy.Depth = 1;
    CUgraphNode copy_node = nullptr;
    ASSERT_EQ(cuGraphAddMemcpyNode(&copy_node, graph, nullptr, 0, &copy, context), CUDA_SUCCESS);
    CUDA_MEMCPY3D told{};
    ASSERT_EQ(cuGraphMemcpyNodeGetParams(copy_node, &told), CUDA_SUCCESS);
    EXPECT_EQ(told.srcDevice, bench.cells);
    EXPECT_EQ(told.srcXInBytes, 8u);
    EXPECT_EQ(told.dstHost, host);
    EXPECT_EQ(told.WidthInBytes, 16u);
    copy.WidthInBytes = 0;
    EXPECT_EQ(cuGraphMemcpyNodeSetParams(copy_node, &copy), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuGraphMemsetNodeSetParams(copy_node, &found), CUDA_ERROR_INVALID_VALUE)
        << "a node of another type";

    CUDA_HOST_NODE_PARAMS call{[](void*) {}, &copy};
    CUgraphNode host_node = nullptr;
    ASSERT_EQ(cuGraphAddHostNode(&host_node, graph, nullptr, 0, &call), CUDA_SUCCESS);
    CUDA_HOST_NODE_PARAMS call_found{};
    ASSERT_EQ(cuGraphHostNodeGetParams(host_node, &call_found), CUDA_SUCCESS);
    EXPECT_EQ(call_found.userData, &copy);
    call.fn = nullptr;
    EXPECT_EQ(cuGraphHostNodeSetParams(host_node, &call), CUDA_ERROR_INVALID_VALUE);
  });
}

TEST_F(GraphTest, KeepsKernelAttributes) {
  WithContext([](CUcontext) {
    const GraphBench bench;
    CUgraph graph = NewGraphHandle();
    CUgraphNode a = nullptr, b = nullptr;
    ASSERT_EQ(bench.AddAdd(graph, {}, 0, 1, &a), CUDA_SUCCESS);
    ASSERT_EQ(bench.AddAdd(graph, {}, 0, 1, &b), CUDA_SUCCESS);
    CUlaunchAttributeValue value{};
    value.priority = -3;
    ASSERT_EQ(cuGraphKernelNodeSetAttribute(a, CU_LAUNCH_ATTRIBUTE_PRIORITY, &value), CUDA_SUCCESS);
    ASSERT_EQ(cuGraphKernelNodeCopyAttributes(b, a), CUDA_SUCCESS);
    value.priority = 0;
    ASSERT_EQ(cuGraphKernelNodeGetAttribute(b, CU_LAUNCH_ATTRIBUTE_PRIORITY, &value), CUDA_SUCCESS);
    EXPECT_EQ(value.priority, -3);
    value.clusterDim = {2, 1, 1};
    EXPECT_EQ(cuGraphKernelNodeSetAttribute(a, CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, &value),
              CUDA_ERROR_NOT_SUPPORTED);
    EXPECT_EQ(cuGraphKernelNodeSetAttribute(a, CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY, &value),
              CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuGraphKernelNodeGetAttribute(EmptyNode(graph), CU_LAUNCH_ATTRIBUTE_PRIORITY, &value),
              CUDA_ERROR_INVALID_VALUE);
  });
}

// Work of every type in one line: the result needs each of them in its place.
TEST_F(GraphTest, LaunchDoesWhatTheNodesSay) {
  WithContext([](CUcontext context) {
    const GraphBench bench;
    CUgraph graph = NewGraphHandle();
    CUDA_MEMSET_NODE_PARAMS fill{bench.cells, 0, 5, 4, kCells, 1};
    CUgraphNode set = nullptr, first = nullptr, second = nullptr, copy_node = nullptr,
                host_node = nullptr;
    ASSERT_EQ(cuGraphAddMemsetNode(&set, graph, nullptr, 0, &fill, context), CUDA_SUCCESS);
    ASSERT_EQ(bench.AddAdd(graph, {set}, 3, 10, &first), CUDA_SUCCESS);
    ASSERT_EQ(bench.AddFold(graph, {first}, 4, 1 << 3, &second), CUDA_SUCCESS);
    static unsigned int copied[kCells];
    CUDA_MEMCPY3D copy{};
    copy.srcMemoryType = CU_MEMORYTYPE_DEVICE;
    copy.srcDevice = bench.cells;
    copy.dstMemoryType = CU_MEMORYTYPE_HOST;
    copy.dstHost = copied;
    copy.WidthInBytes = sizeof copied;
    copy.Height = copy.Depth = 1;
    ASSERT_EQ(cuGraphAddMemcpyNode(&copy_node, graph, &second, 1, &copy, context), CUDA_SUCCESS);
    static std::atomic<unsigned int> seen;
    CUDA_HOST_NODE_PARAMS call{[](void* data) { seen = static_cast<unsigned int*>(data)[4]; },
                               copied};
    ASSERT_EQ(cuGraphAddHostNode(&host_node, graph, &copy_node, 1, &call), CUDA_SUCCESS);
    CUgraphExec exec = Ready(graph);
    CUstream stream = NewStream();
    for (int round = 0; round < 3; ++round) {
      seen = 0;
      ASSERT_EQ(cuGraphLaunch(exec, stream), CUDA_SUCCESS);
      ASSERT_EQ(cuStreamSynchronize(stream), CUDA_SUCCESS);
      EXPECT_EQ(copied[3], 15u);
      EXPECT_EQ(copied[4], 5u + 3 * 15u);
      EXPECT_EQ(copied[5], 5u);
      EXPECT_EQ(seen.load(), copied[4]);
    }
    ASSERT_EQ(cuGraphDestroy(graph), CUDA_SUCCESS);
    ASSERT_EQ(cuGraphLaunch(exec, nullptr), CUDA_SUCCESS) << "it outlives its graph";
    ASSERT_EQ(cuGraphExecDestroy(exec), CUDA_SUCCESS) << "under way, too";
    EXPECT_EQ(cuGraphLaunch(exec, stream), CUDA_ERROR_INVALID_VALUE);
    ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
  });
}

struct Dag {
  std::vector<unsigned long long> masks;  // whom node i folds, and hence follows
};

Dag RandomDag(std::mt19937* random, unsigned int count) {
  Dag dag;
  for (unsigned int i = 0; i < count; ++i) {
    unsigned long long mask = 0;
    for (unsigned int j = 0; j < i; ++j) {
      if ((*random)() % 4 == 0) mask |= 1ull << j;
    }
    dag.masks.push_back(mask);
  }
  return dag;
}

std::vector<unsigned int> Expected(const Dag& dag) {
  std::vector<unsigned int> values(kCells);
  for (unsigned int i = 0; i < dag.masks.size(); ++i) {
    values[i] = i + 1;
    for (unsigned int j = 0; j < i; ++j) {
      if ((dag.masks[i] >> j & 1) != 0) values[i] += 3 * values[j];
    }
  }
  return values;
}

// Every order that respects the edges gives one result, and hardly any other order does: for random
// graphs, and seeds of the executor's order, a launch, a launch of a clone, and the same work in
// streams with events all give it.
TEST_F(GraphTest, RandomGraphsRespectTheirEdges) {
  for (const char* seed : {"", "1", "2", "3"}) {
    if (*seed != '\0') setenv("SIMGPU_SEED", seed, 1);
    WithContext([&](CUcontext) {
      const GraphBench bench;
      std::mt19937 random(2026);
      for (int round = 0; round < 6; ++round) {
        const Dag dag = RandomDag(&random, 4 + random() % 28);
        const auto expected = Expected(dag);
        CUgraph graph = NewGraphHandle();
        std::vector<CUgraphNode> nodes;
        for (unsigned int i = 0; i < dag.masks.size(); ++i) {
          std::vector<CUgraphNode> after;
          for (unsigned int j = 0; j < i; ++j) {
            if ((dag.masks[i] >> j & 1) != 0) after.push_back(nodes[j]);
          }
          nodes.emplace_back();
          ASSERT_EQ(bench.AddFold(graph, after, i, dag.masks[i], &nodes.back()), CUDA_SUCCESS);
        }
        CUgraph clone = nullptr;
        ASSERT_EQ(cuGraphClone(&clone, graph), CUDA_SUCCESS);
        for (size_t i = 0; i < nodes.size(); ++i) {
          CUgraphNode twin = nullptr;
          ASSERT_EQ(cuGraphNodeFindInClone(&twin, nodes[i], clone), CUDA_SUCCESS);
          ASSERT_EQ(twin, NodesOf(clone)[i]);
        }
        EXPECT_EQ(EdgeCount(clone), EdgeCount(graph));
        CUgraphExec exec = Ready(graph), twin = Ready(clone);
        ASSERT_EQ(cuGraphDestroy(graph), CUDA_SUCCESS);
        CUstream stream = NewStream();
        for (CUgraphExec one : {exec, twin}) {
          bench.Clear();
          ASSERT_EQ(cuGraphLaunch(one, stream), CUDA_SUCCESS);
          ASSERT_EQ(bench.Read(), expected) << "round " << round << " seed " << seed;
        }
        // The same in four streams that wait for each other through events.
        bench.Clear();
        std::vector<CUstream> streams{stream, NewStream(), NewStream(), NewStream()};
        std::vector<CUevent> events(dag.masks.size());
        for (unsigned int i = 0; i < dag.masks.size(); ++i) {
          CUstream at = streams[i % 4];
          for (unsigned int j = 0; j < i; ++j) {
            if ((dag.masks[i] >> j & 1) == 0) continue;
            ASSERT_EQ(cuStreamWaitEvent(at, events[j], 0), CUDA_SUCCESS);
          }
          ASSERT_EQ(bench.LaunchFold(at, i, dag.masks[i]), CUDA_SUCCESS);
          ASSERT_EQ(cuEventCreate(&events[i], CU_EVENT_DISABLE_TIMING), CUDA_SUCCESS);
          ASSERT_EQ(cuEventRecord(events[i], at), CUDA_SUCCESS);
        }
        ASSERT_EQ(bench.Read(), expected);
        for (CUevent event : events) ASSERT_EQ(cuEventDestroy_v2(event), CUDA_SUCCESS);
        for (CUstream one : streams) ASSERT_EQ(cuStreamDestroy_v2(one), CUDA_SUCCESS);
        ASSERT_EQ(cuGraphExecDestroy(exec), CUDA_SUCCESS);
        ASSERT_EQ(cuGraphExecDestroy(twin), CUDA_SUCCESS);
        ASSERT_EQ(cuGraphDestroy(clone), CUDA_SUCCESS);
      }
    });
  }
  unsetenv("SIMGPU_SEED");
}

TEST_F(GraphTest, LaunchesOfOneExecutableStandInLine) {
  WithContext([](CUcontext) {
    const GraphBench bench;
    CUgraph graph = NewGraphHandle();
    CUgraphNode node = nullptr;
    // Unordered reads and writes of one cell: two launches at once would lose some.
    ASSERT_EQ(bench.AddAdd(graph, {}, 0, 1, &node), CUDA_SUCCESS);
    for (int i = 0; i < 3; ++i) ASSERT_EQ(bench.AddAdd(graph, {node}, 0, 1, &node), CUDA_SUCCESS);
    CUgraphExec exec = Ready(graph);
    constexpr int kThreads = 4, kRounds = 25;
    CUcontext context = nullptr;
    ASSERT_EQ(cuCtxGetCurrent(&context), CUDA_SUCCESS);
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&] {
        EXPECT_EQ(cuCtxSetCurrent(context), CUDA_SUCCESS);
        CUstream stream = NewStream();
        for (int round = 0; round < kRounds; ++round) {
          EXPECT_EQ(cuGraphLaunch(exec, stream), CUDA_SUCCESS);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(bench.Read()[0], 4u * kThreads * kRounds);
  });
}

TEST_F(GraphTest, UpdateChangesOnlyWhatItSays) {
  WithContext([](CUcontext) {
    const GraphBench bench;
    const auto make = [&](unsigned int value) {
      CUgraph graph = NewGraphHandle();
      CUgraphNode a = nullptr, b = nullptr;
      EXPECT_EQ(bench.AddAdd(graph, {}, 0, value, &a), CUDA_SUCCESS);
      EXPECT_EQ(bench.AddAdd(graph, {a}, 1, 100, &b), CUDA_SUCCESS);
      return graph;
    };
    CUgraph graph = make(1), other = make(7);
    CUgraphExec exec = Ready(graph);
    CUgraphExecUpdateResultInfo info{};
    ASSERT_EQ(cuGraphExecUpdate_v2(exec, other, &info), CUDA_SUCCESS);
    EXPECT_EQ(info.result, CU_GRAPH_EXEC_UPDATE_SUCCESS);
    ASSERT_EQ(cuGraphLaunch(exec, nullptr), CUDA_SUCCESS);
    EXPECT_EQ(bench.Read()[0], 7u);
    EXPECT_EQ(bench.Read()[1], 100u);
    CUgraphExec fresh = Ready(graph);
    ASSERT_EQ(cuGraphLaunch(fresh, nullptr), CUDA_SUCCESS);
    EXPECT_EQ(bench.Read()[0], 8u) << "the graph it was made from is as it was";

    // Another edge, another node, another type: each is told, and none changes anything.
    CUgraph wrong = NewGraphHandle();
    CUgraphNode first = nullptr, second = nullptr;
    ASSERT_EQ(bench.AddAdd(wrong, {}, 0, 50, &first), CUDA_SUCCESS);
    ASSERT_EQ(bench.AddAdd(wrong, {}, 1, 50, &second), CUDA_SUCCESS);
    EXPECT_EQ(cuGraphExecUpdate_v2(exec, wrong, &info), CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
    EXPECT_EQ(info.result, CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED);
    EXPECT_EQ(info.errorNode, second);
    ASSERT_EQ(cuGraphAddDependencies(wrong, &first, &second, 1), CUDA_SUCCESS);
    CUgraphNode third = EmptyNode(wrong);
    CUgraphNode error_node = nullptr;
    CUgraphExecUpdateResult result{};
    EXPECT_EQ(cuGraphExecUpdate(exec, wrong, &error_node, &result),
              CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
    EXPECT_EQ(result, CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED);
    EXPECT_EQ(error_node, third);
    CUgraph typed = NewGraphHandle();
    ASSERT_EQ(bench.AddAdd(typed, {}, 0, 50, &first), CUDA_SUCCESS);
    second = EmptyNode(typed, {first});
    EXPECT_EQ(cuGraphExecUpdate_v2(exec, typed, &info), CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
    EXPECT_EQ(info.result, CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED);
    EXPECT_EQ(info.errorNode, second);
    bench.Clear();
    ASSERT_EQ(cuGraphLaunch(exec, nullptr), CUDA_SUCCESS);
    EXPECT_EQ(bench.Read()[0], 7u);
  });
}

TEST_F(GraphTest, ChangesNodesOfAnExecutable) {
  WithContext([](CUcontext context) {
    const GraphBench bench;
    CUgraph graph = NewGraphHandle(), child = NewGraphHandle();
    CUgraphNode a = nullptr, b = nullptr, nested = nullptr, inner = nullptr, fill_node = nullptr;
    CUDA_MEMSET_NODE_PARAMS fill{bench.cells, 0, 0, 4, kCells, 1};
    ASSERT_EQ(cuGraphAddMemsetNode(&fill_node, graph, nullptr, 0, &fill, context), CUDA_SUCCESS);
    ASSERT_EQ(bench.AddAdd(graph, {fill_node}, 0, 1, &a), CUDA_SUCCESS);
    ASSERT_EQ(bench.AddAdd(child, {}, 1, 2, &inner), CUDA_SUCCESS);
    ASSERT_EQ(cuGraphAddChildGraphNode(&nested, graph, &a, 1, child), CUDA_SUCCESS);
    ASSERT_EQ(bench.AddFold(graph, {nested}, 2, 3, &b), CUDA_SUCCESS);
    CUgraphExec exec = Ready(graph);
    const auto run = [&] {
      EXPECT_EQ(cuGraphLaunch(exec, nullptr), CUDA_SUCCESS);
      return bench.Read();
    };
    EXPECT_EQ(run()[2], 3u + 3 * (1 + 2));

    CUdeviceptr base = bench.cells;
    unsigned int index = 0, value = 20;
    void* parameters[] = {&base, &index, &value};
    const CUDA_KERNEL_NODE_PARAMS params = bench.AddParams(parameters);
    ASSERT_EQ(cuGraphExecKernelNodeSetParams_v2(exec, a, &params), CUDA_SUCCESS);
    EXPECT_EQ(run()[2], 3u + 3 * (20 + 2));
    EXPECT_EQ(cuGraphExecKernelNodeSetParams_v2(exec, inner, &params), CUDA_ERROR_INVALID_VALUE)
        << "the child is a copy; this node is not in it";

    CUgraph embedded = nullptr;
    ASSERT_EQ(cuGraphChildGraphNodeGetGraph(nested, &embedded), CUDA_SUCCESS);
    EXPECT_EQ(cuGraphDestroy(embedded), CUDA_ERROR_INVALID_VALUE) << "its node owns it";
    CUgraph other = NewGraphHandle();
    ASSERT_EQ(bench.AddAdd(other, {}, 1, 30, &inner), CUDA_SUCCESS);
    ASSERT_EQ(cuGraphExecChildGraphNodeSetParams(exec, nested, other), CUDA_SUCCESS);
    EXPECT_EQ(run()[2], 3u + 3 * (20 + 30));
    EmptyNode(other);
    EXPECT_EQ(cuGraphExecChildGraphNodeSetParams(exec, nested, other), CUDA_ERROR_INVALID_VALUE);

    unsigned int enabled = 7;
    ASSERT_EQ(cuGraphNodeGetEnabled(exec, a, &enabled), CUDA_SUCCESS);
    EXPECT_EQ(enabled, 1u);
    ASSERT_EQ(cuGraphNodeSetEnabled(exec, a, 0), CUDA_SUCCESS);
    EXPECT_EQ(run()[2], 3u + 3 * 30);
    ASSERT_EQ(cuGraphNodeSetEnabled(exec, a, 1), CUDA_SUCCESS);
    EXPECT_EQ(run()[2], 3u + 3 * (20 + 30));
    EXPECT_EQ(cuGraphNodeSetEnabled(exec, nested, 0), CUDA_ERROR_INVALID_VALUE);

    fill.value = 4;
    ASSERT_EQ(cuGraphExecMemsetNodeSetParams(exec, fill_node, &fill, context), CUDA_SUCCESS);
    EXPECT_EQ(run()[2], 3u + 3 * (24 + 34));
    fill.height = 2;
    fill.pitch = 16;
    fill.width = 4;
    EXPECT_EQ(cuGraphExecMemsetNodeSetParams(exec, fill_node, &fill, context),
              CUDA_ERROR_INVALID_VALUE)
        << "only one-dimensional fills change";

    CUgraphNodeParams generic;
    memset(static_cast<void*>(&generic), 0, sizeof generic);
    generic.type = CU_GRAPH_NODE_TYPE_KERNEL;
    generic.kernel = params;
    value = 1;
    ASSERT_EQ(cuGraphExecNodeSetParams(exec, a, &generic), CUDA_SUCCESS);
    EXPECT_EQ(run()[2], 3u + 3 * (5 + 34));
    EXPECT_EQ(cuGraphExecNodeSetParams(exec, fill_node, &generic), CUDA_ERROR_INVALID_VALUE);
  });
}

TEST_F(GraphTest, TakesChildrenByCloneAndByMove) {
  WithContext([](CUcontext) {
    const GraphBench bench;
    CUgraph graph = NewGraphHandle(), child = NewGraphHandle();
    CUgraphNode inner = nullptr;
    ASSERT_EQ(bench.AddAdd(child, {}, 0, 1, &inner), CUDA_SUCCESS);
    CUgraphNodeParams params;
    memset(static_cast<void*>(&params), 0, sizeof params);
    params.type = CU_GRAPH_NODE_TYPE_GRAPH;
    params.graph.graph = child;
    params.graph.ownership = CU_GRAPH_CHILD_GRAPH_OWNERSHIP_MOVE;
    CUgraphNode moved = nullptr, cloned = nullptr, bad = nullptr;
    EXPECT_EQ(cuGraphAddNode(&bad, child, nullptr, 0, &params), CUDA_ERROR_INVALID_VALUE)
        << "into itself";
    ASSERT_EQ(cuGraphAddChildGraphNode(&cloned, graph, nullptr, 0, child), CUDA_SUCCESS);
    ASSERT_EQ(cuGraphAddNode(&moved, graph, &cloned, 1, &params), CUDA_SUCCESS);
    EXPECT_EQ(cuGraphAddNode(&bad, graph, nullptr, 0, &params), CUDA_ERROR_INVALID_VALUE) << "gone";
    EXPECT_EQ(cuGraphDestroy(child), CUDA_ERROR_INVALID_VALUE) << "its node owns it now";
    CUgraph found = nullptr;
    ASSERT_EQ(cuGraphChildGraphNodeGetGraph(moved, &found), CUDA_SUCCESS);
    EXPECT_EQ(found, child);
    // It may still grow there.
    ASSERT_EQ(bench.AddAdd(child, {inner}, 0, 10, &bad), CUDA_SUCCESS);
    CUgraphExec exec = Ready(graph);
    ASSERT_EQ(cuGraphLaunch(exec, nullptr), CUDA_SUCCESS);
    EXPECT_EQ(bench.Read()[0], 12u);
    // Graphs nest to a bound.
    CUgraph deep = graph;
    CUresult result = CUDA_SUCCESS;
    int levels = 0;
    while (result == CUDA_SUCCESS && levels < 100) {
      CUgraph outer = NewGraphHandle();
      CUgraphNode node = nullptr;
      result = cuGraphAddChildGraphNode(&node, outer, nullptr, 0, deep);
      deep = outer;
      ++levels;
    }
    EXPECT_EQ(result, CUDA_ERROR_OUT_OF_MEMORY);
    EXPECT_EQ(levels, 15);
    ASSERT_EQ(cuGraphDestroy(graph), CUDA_SUCCESS);
    EXPECT_EQ(cuGraphAddEmptyNode(&bad, child, nullptr, 0), CUDA_ERROR_INVALID_VALUE)
        << "children go with their parent";
  });
}

TEST_F(GraphTest, RecordsAndAwaitsEvents) {
  WithContext([](CUcontext) {
    const GraphBench bench;
    CUevent begin = nullptr, end = nullptr;
    ASSERT_EQ(cuEventCreate(&begin, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuEventCreate(&end, 0), CUDA_SUCCESS);
    CUgraph graph = NewGraphHandle();
    CUgraphNode record = nullptr, kernel = nullptr, record_end = nullptr;
    ASSERT_EQ(cuGraphAddEventRecordNode(&record, graph, nullptr, 0, begin), CUDA_SUCCESS);
    ASSERT_EQ(bench.AddAdd(graph, {record}, 0, 1, &kernel), CUDA_SUCCESS);
    ASSERT_EQ(cuGraphAddEventRecordNode(&record_end, graph, &kernel, 1, end), CUDA_SUCCESS);
    CUgraph waiting = NewGraphHandle();
    CUgraphNode wait = nullptr, fold = nullptr;
    ASSERT_EQ(cuGraphAddEventWaitNode(&wait, waiting, nullptr, 0, begin), CUDA_SUCCESS);
    ASSERT_EQ(cuGraphEventWaitNodeSetEvent(wait, end), CUDA_SUCCESS);
    CUevent found = nullptr;
    ASSERT_EQ(cuGraphEventWaitNodeGetEvent(wait, &found), CUDA_SUCCESS);
    EXPECT_EQ(found, end);
    ASSERT_EQ(cuGraphEventRecordNodeGetEvent(record, &found), CUDA_SUCCESS);
    EXPECT_EQ(found, begin);
    ASSERT_EQ(bench.AddFold(waiting, {wait}, 1, 1, &fold), CUDA_SUCCESS);
    CUgraphExec first = Ready(graph), second = Ready(waiting);
    CUstream a = NewStream(), b = NewStream();
    for (unsigned int round = 1; round < 6; ++round) {
      ASSERT_EQ(cuGraphLaunch(first, a), CUDA_SUCCESS);
      ASSERT_EQ(cuGraphLaunch(second, b), CUDA_SUCCESS);
      ASSERT_EQ(cuStreamSynchronize(b), CUDA_SUCCESS);
      EXPECT_EQ(bench.Read()[1], 2 + 3 * round);
    }
    float ms = -1;
    ASSERT_EQ(cuEventElapsedTime_v2(&ms, begin, end), CUDA_SUCCESS);
    EXPECT_GE(ms, 0);
    ASSERT_EQ(cuEventDestroy_v2(end), CUDA_SUCCESS);
    EXPECT_EQ(cuGraphLaunch(second, b), CUDA_ERROR_INVALID_HANDLE);
  });
}

TEST_F(GraphTest, WritesAndAwaitsWords) {
  WithContext([](CUcontext context) {
    const GraphBench bench;
    CUstreamBatchMemOpParams ops[3] = {};
    ops[0].operation = CU_STREAM_MEM_OP_WAIT_VALUE_32;
    ops[0].address = bench.cells;
    ops[0].value = 1;
    ops[0].flags = 1;  // equal
    ops[1].operation = CU_STREAM_MEM_OP_WRITE_VALUE_32;
    ops[1].address = bench.cells + 4;
    ops[1].value = 77;
    ops[2].operation = CU_STREAM_MEM_OP_WRITE_VALUE_64;
    ops[2].address = bench.cells + 8;
    ops[2].value64 = 0x500000006;
    CUDA_BATCH_MEM_OP_NODE_PARAMS params{context, 3, ops, 0};
    CUgraph graph = NewGraphHandle();
    CUgraphNode node = nullptr;
    ASSERT_EQ(cuGraphAddBatchMemOpNode(&node, graph, nullptr, 0, &params), CUDA_SUCCESS);
    CUDA_BATCH_MEM_OP_NODE_PARAMS found{};
    ASSERT_EQ(cuGraphBatchMemOpNodeGetParams(node, &found), CUDA_SUCCESS);
    ASSERT_EQ(found.count, 3u);
    EXPECT_EQ(memcmp(found.paramArray, ops, sizeof ops), 0);
    CUgraphExec exec = Ready(graph);
    CUstream waiting = NewStream(), setting = NewStream();
    ASSERT_EQ(cuGraphLaunch(exec, waiting), CUDA_SUCCESS);
    EXPECT_EQ(cuStreamQuery(waiting), CUDA_ERROR_NOT_READY);
    ASSERT_EQ(bench.LaunchAdd(setting, 0, 1), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamSynchronize(waiting), CUDA_SUCCESS);
    const auto values = bench.Read();
    EXPECT_EQ(values[1], 77u);
    EXPECT_EQ(values[2], 6u);
    EXPECT_EQ(values[3], 5u);
    ops[1].value = 78;
    ASSERT_EQ(cuGraphExecBatchMemOpNodeSetParams(exec, node, &params), CUDA_SUCCESS);
    params.count = 2;
    EXPECT_EQ(cuGraphExecBatchMemOpNodeSetParams(exec, node, &params), CUDA_ERROR_INVALID_VALUE);
    ASSERT_EQ(cuGraphLaunch(exec, waiting), CUDA_SUCCESS);
    EXPECT_EQ(bench.Read()[1], 78u);
    for (unsigned int bad : {0u, 257u}) {
      params.count = bad;
      EXPECT_EQ(cuGraphAddBatchMemOpNode(&node, graph, nullptr, 0, &params),
                CUDA_ERROR_INVALID_VALUE);
    }
    params.count = 1;
    ops[0].address += 2;
    EXPECT_EQ(cuGraphAddBatchMemOpNode(&node, graph, nullptr, 0, &params),
              CUDA_ERROR_INVALID_VALUE);
  });
}

TEST_F(GraphTest, InstantiatesInAllForms) {
  WithContext([](CUcontext) {
    CUgraph graph = NewGraphHandle();
    EmptyNode(graph);
    CUgraphExec exec = nullptr;
    CUgraphNode error_node = NodesOf(graph)[0];
    char log[8] = "dirty";
    ASSERT_EQ(cuGraphInstantiate(&exec, graph, &error_node, log, sizeof log), CUDA_SUCCESS);
    EXPECT_EQ(error_node, nullptr);
    EXPECT_STREQ(log, "");
    cuuint64_t flags = 99;
    ASSERT_EQ(cuGraphExecGetFlags(exec, &flags), CUDA_SUCCESS);
    EXPECT_EQ(flags, 0u);
    exec = Ready(graph, CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH |
                            CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY);
    ASSERT_EQ(cuGraphExecGetFlags(exec, &flags), CUDA_SUCCESS);
    EXPECT_EQ(flags, 9u);
    CUstream stream = NewStream();
    CUDA_GRAPH_INSTANTIATE_PARAMS params{CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD, stream, error_node, 9};
    ASSERT_EQ(cuGraphInstantiateWithParams(&exec, graph, &params), CUDA_SUCCESS);
    EXPECT_EQ(params.result_out, CUDA_GRAPH_INSTANTIATE_SUCCESS);
    ASSERT_EQ(cuGraphUpload(exec, stream), CUDA_SUCCESS);
    params.flags = CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH;
    EXPECT_EQ(cuGraphInstantiateWithParams(&exec, graph, &params), CUDA_ERROR_NOT_SUPPORTED);
    EXPECT_EQ(params.result_out, CUDA_GRAPH_INSTANTIATE_ERROR);
    for (unsigned long long bad : {5ull, 16ull, 2ull}) {
      EXPECT_EQ(cuGraphInstantiateWithFlags(&exec, graph, bad), CUDA_ERROR_INVALID_VALUE) << bad;
    }
    EXPECT_EQ(cuGraphInstantiateWithFlags(nullptr, graph, 0), CUDA_ERROR_INVALID_VALUE);
    ASSERT_EQ(cuGraphExecDestroy(exec), CUDA_SUCCESS);
    EXPECT_EQ(cuGraphExecDestroy(exec), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuGraphUpload(exec, stream), CUDA_ERROR_INVALID_VALUE);
  });
}

TEST_F(GraphTest, CallsUserObjectsDestructorOnce) {
  WithContext([](CUcontext) {
    static std::atomic<int> destroyed;
    destroyed = 0;
    const auto make = [](unsigned int count) {
      CUuserObject object = nullptr;
      EXPECT_EQ(
          cuUserObjectCreate(
              &object, &destroyed, [](void* data) { ++*static_cast<std::atomic<int>*>(data); },
              count, CU_USER_OBJECT_NO_DESTRUCTOR_SYNC),
          CUDA_SUCCESS);
      return object;
    };
    CUuserObject object = make(1);
    ASSERT_EQ(cuUserObjectRetain(object, 2), CUDA_SUCCESS);
    EXPECT_EQ(cuUserObjectRelease(object, 4), CUDA_ERROR_INVALID_VALUE) << "more than there are";
    ASSERT_EQ(cuUserObjectRelease(object, 3), CUDA_SUCCESS);
    EXPECT_EQ(destroyed.load(), 1);
    EXPECT_EQ(cuUserObjectRelease(object, 1), CUDA_ERROR_INVALID_VALUE);

    // Graph, clone and executable each hold it; it goes with the last of them.
    object = make(1);
    CUgraph graph = NewGraphHandle(), clone = nullptr;
    ASSERT_EQ(cuGraphRetainUserObject(graph, object, 1, CU_GRAPH_USER_OBJECT_MOVE), CUDA_SUCCESS);
    EXPECT_EQ(cuGraphRetainUserObject(graph, object, 1, CU_GRAPH_USER_OBJECT_MOVE),
              CUDA_ERROR_INVALID_VALUE)
        << "the program has none left to move";
    EXPECT_EQ(cuUserObjectRelease(object, 1), CUDA_ERROR_INVALID_VALUE);
    ASSERT_EQ(cuGraphRetainUserObject(graph, object, 2, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuGraphReleaseUserObject(graph, object, 2), CUDA_SUCCESS);
    ASSERT_EQ(cuGraphClone(&clone, graph), CUDA_SUCCESS);
    CUgraphExec exec = Ready(graph);
    ASSERT_EQ(cuGraphDestroy(graph), CUDA_SUCCESS);
    ASSERT_EQ(cuGraphDestroy(clone), CUDA_SUCCESS);
    EXPECT_EQ(destroyed.load(), 1);
    ASSERT_EQ(cuGraphExecDestroy(exec), CUDA_SUCCESS);
    EXPECT_EQ(destroyed.load(), 2);
    EXPECT_EQ(cuUserObjectCreate(&object, nullptr, nullptr, 1, 1), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuUserObjectCreate(&object, nullptr, [](void*) {}, 1, 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuUserObjectCreate(&object, nullptr, [](void*) {}, 0, 1), CUDA_ERROR_INVALID_VALUE);
  });
}

TEST_F(GraphTest, HasBounds) {
  WithContext([](CUcontext) {
    CUgraph graph = NewGraphHandle();
    CUgraphNode node = nullptr;
    size_t added = 0;
    while (added < 300'000 && cuGraphAddEmptyNode(&node, graph, nullptr, 0) == CUDA_SUCCESS) {
      ++added;
    }
    EXPECT_EQ(added, 262'144u);
    EXPECT_EQ(cuGraphAddEmptyNode(&node, graph, nullptr, 0), CUDA_ERROR_OUT_OF_MEMORY);
    CUgraph other = NewGraphHandle();
    EXPECT_EQ(cuGraphAddChildGraphNode(&node, other, nullptr, 0, graph), CUDA_ERROR_OUT_OF_MEMORY);
    EXPECT_TRUE(NodesOf(other).empty());
    ASSERT_EQ(cuGraphDestroy(graph), CUDA_SUCCESS);
    std::vector<CUgraph> graphs;
    CUresult result = CUDA_SUCCESS;
    while (graphs.size() < 70'000 && result == CUDA_SUCCESS) {
      graphs.emplace_back();
      result = cuGraphCreate(&graphs.back(), 0);
    }
    EXPECT_EQ(result, CUDA_ERROR_OUT_OF_MEMORY);
    EXPECT_EQ(graphs.size(), 65'536u) << "`other` is one of them";
    CUgraphExec exec = nullptr;
    EXPECT_EQ(cuGraphInstantiateWithFlags(&exec, other, 0), CUDA_ERROR_OUT_OF_MEMORY);
    graphs.pop_back();
    for (CUgraph one : graphs) ASSERT_EQ(cuGraphDestroy(one), CUDA_SUCCESS);
    EXPECT_NE(Ready(other), nullptr);
    CUuserObject object = nullptr;
    size_t objects = 0;
    while (objects < 70'000 &&
           cuUserObjectCreate(&object, nullptr, [](void*) {}, 1, 1) == CUDA_SUCCESS) {
      ++objects;
    }
    EXPECT_EQ(objects, 65'536u);
  });
}

TEST_F(GraphTest, LargeGraphsRun) {
  WithContext([](CUcontext) {
    const GraphBench bench;
    // Levels of one node and of many, so that every edge is needed for the sum to come out.
    constexpr unsigned int kLevels = 60, kWide = 31;
    CUgraph graph = NewGraphHandle();
    CUgraphNode gate = EmptyNode(graph);
    std::vector<unsigned int> expected(kCells);
    for (unsigned int level = 0; level < kLevels; ++level) {
      std::vector<CUgraphNode> row(kWide);
      unsigned int sum = 0;
      for (unsigned int i = 0; i < kWide; ++i) {
        ASSERT_EQ(bench.AddFold(graph, {gate}, i + 1, 1, &row[i]), CUDA_SUCCESS);
        expected[i + 1] = i + 2 + 3 * expected[0];
        sum += expected[i + 1];
      }
      ASSERT_EQ(bench.AddFold(graph, row, 0, ((1ull << kWide) - 1) << 1, &gate), CUDA_SUCCESS);
      expected[0] = 1 + 3 * sum;
    }
    CUgraphExec exec = Ready(graph);
    ASSERT_EQ(cuGraphLaunch(exec, nullptr), CUDA_SUCCESS);
    EXPECT_EQ(bench.Read(), expected);
  });
}

// Threads that make, change, launch and destroy graphs of their own and one that all share.
TEST_F(GraphTest, ThreadsMayDoAllThisAtOnce) {
  WithContext([](CUcontext context) {
    const GraphBench bench;
    CUgraph shared = NewGraphHandle();
    CUgraphNode shared_node = nullptr;
    ASSERT_EQ(bench.AddAdd(shared, {}, 0, 1, &shared_node), CUDA_SUCCESS);
    CUgraphExec shared_exec = Ready(shared);
    constexpr unsigned int kThreads = 4, kRounds = 40;
    std::vector<std::thread> threads;
    for (unsigned int number = 1; number <= kThreads; ++number) {
      threads.emplace_back([&, number] {
        EXPECT_EQ(cuCtxSetCurrent(context), CUDA_SUCCESS);
        CUstream stream = NewStream();
        for (unsigned int round = 0; round < kRounds; ++round) {
          CUgraph graph = NewGraphHandle();
          CUgraphNode a = nullptr, b = nullptr;
          EXPECT_EQ(bench.AddAdd(graph, {}, number, 1, &a), CUDA_SUCCESS);
          EXPECT_EQ(bench.AddAdd(graph, {a}, number, 1, &b), CUDA_SUCCESS);
          CUgraphExec exec = Ready(graph);
          EXPECT_EQ(cuGraphLaunch(exec, stream), CUDA_SUCCESS);
          CUgraphExecUpdateResultInfo info{};
          EXPECT_EQ(cuGraphExecUpdate_v2(shared_exec, shared, &info), CUDA_SUCCESS);
          EXPECT_EQ(cuGraphLaunch(shared_exec, stream), CUDA_SUCCESS);
          EXPECT_EQ(cuGraphDestroy(graph), CUDA_SUCCESS);
          EXPECT_EQ(cuGraphExecDestroy(exec), CUDA_SUCCESS);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    const auto values = bench.Read();
    EXPECT_EQ(values[0], kThreads * kRounds);
    for (unsigned int number = 1; number <= kThreads; ++number) {
      EXPECT_EQ(values[number], 2 * kRounds);
    }
  });
}

TEST_F(GraphTest, PrintsDot) {
  WithContext([&](CUcontext context) {
    const GraphBench bench;
    CUgraph graph = NewGraphHandle(), child = NewGraphHandle();
    CUgraphNode set = nullptr, kernel = nullptr, nested = nullptr;
    CUDA_MEMSET_NODE_PARAMS fill{bench.cells, 0, 5, 4, 8, 1};
    ASSERT_EQ(cuGraphAddMemsetNode(&set, graph, nullptr, 0, &fill, context), CUDA_SUCCESS);
    ASSERT_EQ(bench.AddAdd(graph, {set}, 0, 1, &kernel), CUDA_SUCCESS);
    EmptyNode(child, {EmptyNode(child)});
    ASSERT_EQ(cuGraphAddChildGraphNode(&nested, graph, &kernel, 1, child), CUDA_SUCCESS);
    const std::string path = folder_ + "/graph.dot";
    const auto print = [&](unsigned int flags) {
      EXPECT_EQ(cuGraphDebugDotPrint(graph, path.c_str(), flags), CUDA_SUCCESS);
      std::ifstream file(path);
      std::stringstream text;
      text << file.rdbuf();
      return text.str();
    };
    EXPECT_EQ(print(CU_GRAPH_DEBUG_DOT_FLAGS_KERNEL_NODE_PARAMS), R"(digraph dot {
subgraph cluster_graph_0 {
label="graph_0" graph[style="dashed"];
"graph_0_node_0"[shape="rectangle" label="0\nMEMSET\n"];
"graph_0_node_1"[shape="octagon" label="1\nKERNEL\nadd\ngrid 1,1,1 block 1,1,1 shared 0\n"];
"graph_0_node_2"[shape="rectangle" label="2\nGRAPH\n"];
subgraph cluster_graph_0_node_2_graph {
label="graph_0_node_2_graph" graph[style="dashed"];
"graph_0_node_2_graph_node_0"[shape="rectangle" label="0\nEMPTY\n"];
"graph_0_node_2_graph_node_1"[shape="rectangle" label="1\nEMPTY\n"];
"graph_0_node_2_graph_node_0" -> "graph_0_node_2_graph_node_1";
}
"graph_0_node_0" -> "graph_0_node_1";
"graph_0_node_1" -> "graph_0_node_2";
}
}
)");
    std::stringstream where;
    where << std::hex << bench.cells;
    const std::string verbose = print(CU_GRAPH_DEBUG_DOT_FLAGS_VERBOSE);
    EXPECT_NE(verbose.find("at 0x" + where.str() + " pitch 0 value 5 of 4 bytes\\n8 x 1"),
              std::string::npos)
        << verbose;
    EXPECT_EQ(cuGraphDebugDotPrint(graph, nullptr, 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuGraphDebugDotPrint(graph, path.c_str(), 1u << 16), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuGraphDebugDotPrint(graph, "/nowhere/at/all", 0), CUDA_ERROR_OPERATING_SYSTEM);
  });
}

}  // namespace
}  // namespace simgpu
