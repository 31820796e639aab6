// Stream capture: the same calls, recorded and then launched, do what they do in streams; and what
// a capture forbids.
#include <atomic>
#include <thread>

#include "simgpu/driver/graph_test_support.h"

namespace simgpu {
namespace {

using CaptureTest = DriverTest;

CUstreamCaptureStatus StatusOf(CUstream stream) {
  auto status = static_cast<CUstreamCaptureStatus>(99);
  EXPECT_EQ(cuStreamIsCapturing(stream, &status), CUDA_SUCCESS);
  return status;
}

void Begin(CUstream stream, CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL) {
  ASSERT_EQ(cuStreamBeginCapture_v2(stream, mode), CUDA_SUCCESS);
  ASSERT_EQ(StatusOf(stream), CU_STREAM_CAPTURE_STATUS_ACTIVE);
}

CUgraph End(CUstream stream) {
  CUgraph graph = nullptr;
  EXPECT_EQ(cuStreamEndCapture(stream, &graph), CUDA_SUCCESS);
  EXPECT_NE(graph, nullptr);
  EXPECT_EQ(StatusOf(stream), CU_STREAM_CAPTURE_STATUS_NONE);
  return graph;
}

// Expects that the capture was spoilt, and ends it.
void EndInvalid(CUstream stream) {
  EXPECT_EQ(StatusOf(stream), CU_STREAM_CAPTURE_STATUS_INVALIDATED);
  CUgraph graph = reinterpret_cast<CUgraph>(stream);
  EXPECT_EQ(cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  EXPECT_EQ(graph, nullptr);
  EXPECT_EQ(StatusOf(stream), CU_STREAM_CAPTURE_STATUS_NONE);
}

CUevent NewEvent() {
  CUevent event = nullptr;
  EXPECT_EQ(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING), CUDA_SUCCESS);
  return event;
}

std::vector<CUgraphNodeType> TypesOf(CUgraph graph) {
  std::vector<CUgraphNodeType> types;
  for (CUgraphNode node : NodesOf(graph)) {
    types.emplace_back();
    EXPECT_EQ(cuGraphNodeGetType(node, &types.back()), CUDA_SUCCESS);
  }
  return types;
}

TEST_F(CaptureTest, RecordsAStreamAndDoesItLater) {
  WithContext([](CUcontext) {
    const GraphBench bench;
    CUstream stream = NewStream();
    static unsigned int copied[kCells];
    static std::atomic<unsigned int> seen;
    CUevent outside = NewEvent();
    const auto work = [&](CUstream to) {
      ASSERT_EQ(cuMemsetD32Async(bench.cells, 5, kCells, to), CUDA_SUCCESS);
      ASSERT_EQ(bench.LaunchAdd(to, 3, 10), CUDA_SUCCESS);
      ASSERT_EQ(bench.LaunchFold(to, 4, 1 << 3), CUDA_SUCCESS);
      ASSERT_EQ(cuMemcpyDtoHAsync_v2(copied, bench.cells, sizeof copied, to), CUDA_SUCCESS);
      ASSERT_EQ(cuLaunchHostFunc(to, [](void*) { seen = copied[4]; }, nullptr), CUDA_SUCCESS);
      ASSERT_EQ(cuEventRecordWithFlags(outside, to, 1), CUDA_SUCCESS);
    };
    work(stream);
    ASSERT_EQ(cuStreamSynchronize(stream), CUDA_SUCCESS);
    const std::vector<unsigned int> expected(copied, copied + kCells);
    ASSERT_EQ(expected[4], 50u);
    ASSERT_EQ(seen.load(), 50u);

    memset(copied, 0, sizeof copied);
    seen = 0;
    bench.Clear();
    ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    Begin(stream);
    work(stream);
    CUgraph graph = End(stream);
    EXPECT_EQ(bench.Read()[4], 0u) << "nothing was done";
    EXPECT_EQ(seen.load(), 0u);
    EXPECT_EQ(TypesOf(graph), (std::vector<CUgraphNodeType>{
                                  CU_GRAPH_NODE_TYPE_MEMSET, CU_GRAPH_NODE_TYPE_KERNEL,
                                  CU_GRAPH_NODE_TYPE_KERNEL, CU_GRAPH_NODE_TYPE_MEMCPY,
                                  CU_GRAPH_NODE_TYPE_HOST, CU_GRAPH_NODE_TYPE_EVENT_RECORD}));
    EXPECT_EQ(EdgeCount(graph), 5u) << "a stream is a line";
    CUgraphExec exec = Ready(graph);
    for (int round = 0; round < 2; ++round) {
      memset(copied, 0, sizeof copied);
      ASSERT_EQ(cuGraphLaunch(exec, stream), CUDA_SUCCESS);
      ASSERT_EQ(cuEventSynchronize(outside), CUDA_SUCCESS) << "an external record is a real one";
      EXPECT_EQ(std::vector<unsigned int>(copied, copied + kCells), expected);
      EXPECT_EQ(seen.load(), 50u);
    }
    // A captured node can be asked like any other.
    CUDA_KERNEL_NODE_PARAMS params{};
    ASSERT_EQ(cuGraphKernelNodeGetParams_v2(NodesOf(graph)[1], &params), CUDA_SUCCESS);
    EXPECT_EQ(params.func, bench.add);
    EXPECT_EQ(*static_cast<unsigned int*>(params.kernelParams[2]), 10u);
  });
}

TEST_F(CaptureTest, FollowsForksAndJoins) {
  for (const char* seed : {"", "11", "12"}) {
    if (*seed != '\0') setenv("SIMGPU_SEED", seed, 1);
    WithContext([](CUcontext) {
      const GraphBench bench;
      CUstream a = NewStream(), b = NewStream(), c = NewStream();
      CUevent fork = NewEvent(), join_b = NewEvent(), join_c = NewEvent();
      const auto work = [&] {
        ASSERT_EQ(cuMemsetD32Async(bench.cells, 0, kCells, a), CUDA_SUCCESS);
        ASSERT_EQ(bench.LaunchFold(a, 0, 0), CUDA_SUCCESS);
        ASSERT_EQ(cuEventRecord(fork, a), CUDA_SUCCESS);
        ASSERT_EQ(cuStreamWaitEvent(b, fork, 0), CUDA_SUCCESS);
        ASSERT_EQ(cuStreamWaitEvent(c, fork, 0), CUDA_SUCCESS);
        ASSERT_EQ(bench.LaunchFold(b, 1, 1), CUDA_SUCCESS);
        ASSERT_EQ(bench.LaunchFold(c, 2, 1), CUDA_SUCCESS);
        ASSERT_EQ(bench.LaunchFold(a, 3, 1), CUDA_SUCCESS);
        ASSERT_EQ(cuEventRecord(join_b, b), CUDA_SUCCESS);
        ASSERT_EQ(cuEventRecord(join_c, c), CUDA_SUCCESS);
        ASSERT_EQ(cuStreamWaitEvent(a, join_b, 0), CUDA_SUCCESS);
        ASSERT_EQ(cuStreamWaitEvent(a, join_c, 0), CUDA_SUCCESS);
        ASSERT_EQ(bench.LaunchFold(a, 4, 0xe), CUDA_SUCCESS);
      };
      work();
      const auto expected = bench.Read();
      Begin(a);
      work();
      EXPECT_EQ(StatusOf(b), CU_STREAM_CAPTURE_STATUS_ACTIVE) << "the wait drew it in";
      CUgraph graph = End(a);
      EXPECT_EQ(StatusOf(b), CU_STREAM_CAPTURE_STATUS_NONE);
      EXPECT_EQ(NodesOf(graph).size(), 6u) << "records and waits are edges";
      EXPECT_EQ(EdgeCount(graph), 7u);
      CUgraphExec exec = Ready(graph);
      for (int round = 0; round < 5; ++round) {
        ASSERT_EQ(cuGraphLaunch(exec, b), CUDA_SUCCESS);
        EXPECT_EQ(bench.Read(), expected);
      }
    });
  }
  unsetenv("SIMGPU_SEED");
}

TEST_F(CaptureTest, RefusesWhatItCannotRecord) {
  WithContext([](CUcontext) {
    const GraphBench bench;
    CUstream a = NewStream(), b = NewStream();
    CUevent event = NewEvent();
    CUgraph graph = nullptr;

    // 900: questions about work that is not there, and callbacks.
    const std::vector<std::function<CUresult()>> forbidden = {
        [&] { return cuStreamSynchronize(a); },
        [&] { return cuStreamQuery(a); },
        [&] { return cuCtxSynchronize(); },
        [&] { return cuStreamAddCallback(a, [](CUstream, CUresult, void*) {}, nullptr, 0); },
        [&] {
          CUdeviceptr address = 0;
          return cuMemAlloc_v2(&address, 4096);
        },
        [&] { return cuMemFree_v2(bench.cells); },
    };
    for (size_t i = 0; i < forbidden.size(); ++i) {
      Begin(a);
      EXPECT_EQ(forbidden[i](), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED) << i;
      EXPECT_EQ(bench.LaunchAdd(a, 0, 1), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED) << i;  // 901
      EndInvalid(a);
    }
    EXPECT_EQ(cuStreamBeginCapture_v2(nullptr, CU_STREAM_CAPTURE_MODE_RELAXED),
              CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);

    // 902: two captures meet.
    Begin(a);
    Begin(b);
    ASSERT_EQ(cuEventRecord(event, b), CUDA_SUCCESS);
    EXPECT_EQ(cuStreamWaitEvent(a, event, 0), CUDA_ERROR_STREAM_CAPTURE_MERGE);
    EndInvalid(a);
    EndInvalid(b);

    // 903: ended in another stream than it was begun in. It can still be ended rightly.
    Begin(a);
    ASSERT_EQ(bench.LaunchAdd(a, 0, 1), CUDA_SUCCESS);
    ASSERT_EQ(cuEventRecord(event, a), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamWaitEvent(b, event, 0), CUDA_SUCCESS);
    EXPECT_EQ(cuStreamEndCapture(b, &graph), CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
    // 904: what the other stream did is not joined.
    ASSERT_EQ(bench.LaunchAdd(b, 0, 1), CUDA_SUCCESS);
    EXPECT_EQ(cuStreamEndCapture(a, &graph), CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    EXPECT_EQ(graph, nullptr);
    EXPECT_EQ(StatusOf(a), CU_STREAM_CAPTURE_STATUS_NONE);
    EXPECT_EQ(StatusOf(b), CU_STREAM_CAPTURE_STATUS_NONE);

    // 905: it would wait for work that was not captured.
    CUevent real = NewEvent();
    ASSERT_EQ(cuEventRecord(real, b), CUDA_SUCCESS);
    Begin(a);
    EXPECT_EQ(cuStreamWaitEvent(a, real, 0), CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    EndInvalid(a);
    // With the external flag that is a node.
    Begin(a);
    ASSERT_EQ(cuStreamWaitEvent(a, real, 1), CUDA_SUCCESS);
    EXPECT_EQ(TypesOf(End(a)), (std::vector<CUgraphNodeType>{CU_GRAPH_NODE_TYPE_WAIT_EVENT}));

    // 906: the legacy default stream would wait for a blocking stream.
    CUstream blocking = NewStream(CU_STREAM_DEFAULT);
    Begin(blocking, CU_STREAM_CAPTURE_MODE_RELAXED);
    CUstreamCaptureStatus status{};
    EXPECT_EQ(cuStreamIsCapturing(nullptr, &status), CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    EXPECT_EQ(StatusOf(blocking), CU_STREAM_CAPTURE_STATUS_ACTIVE) << "asking spoils nothing";
    EXPECT_EQ(bench.LaunchAdd(nullptr, 0, 1), CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    EndInvalid(blocking);
    Begin(a, CU_STREAM_CAPTURE_MODE_RELAXED);
    EXPECT_EQ(bench.LaunchAdd(nullptr, 0, 1), CUDA_SUCCESS) << "nothing to do with that one";
    EXPECT_EQ(cuGraphDestroy(End(a)), CUDA_SUCCESS);

    // 907: an event of a capture tells nothing.
    for (int call = 0; call < 2; ++call) {
      Begin(a);
      ASSERT_EQ(cuEventRecord(event, a), CUDA_SUCCESS);
      EXPECT_EQ(call == 0 ? cuEventQuery(event) : cuEventSynchronize(event),
                CUDA_ERROR_CAPTURED_EVENT);
      EndInvalid(a);
    }
    ASSERT_EQ(cuEventRecord(event, a), CUDA_SUCCESS);
    EXPECT_EQ(cuEventSynchronize(event), CUDA_SUCCESS) << "recorded anew, it does";

    // 908: ended by another thread.
    CUcontext context = nullptr;
    ASSERT_EQ(cuCtxGetCurrent(&context), CUDA_SUCCESS);
    const auto end_elsewhere = [&] {
      CUresult result = CUDA_SUCCESS;
      std::thread([&] {
        EXPECT_EQ(cuCtxSetCurrent(context), CUDA_SUCCESS);
        result = cuStreamEndCapture(a, &graph);
      }).join();
      return result;
    };
    Begin(a, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    EXPECT_EQ(end_elsewhere(), CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
    EXPECT_EQ(cuGraphDestroy(End(a)), CUDA_SUCCESS);
    Begin(a, CU_STREAM_CAPTURE_MODE_RELAXED);
    EXPECT_EQ(end_elsewhere(), CUDA_SUCCESS);

    // 401: begun twice, ended without.
    Begin(a);
    EXPECT_EQ(cuStreamBeginCapture_v2(a, CU_STREAM_CAPTURE_MODE_GLOBAL), CUDA_ERROR_ILLEGAL_STATE);
    EXPECT_EQ(cuGraphDestroy(End(a)), CUDA_SUCCESS);
    EXPECT_EQ(cuStreamEndCapture(a, &graph), CUDA_ERROR_ILLEGAL_STATE);
    EXPECT_EQ(cuStreamBeginCapture_v2(a, static_cast<CUstreamCaptureMode>(3)),
              CUDA_ERROR_INVALID_VALUE);
    bench.Read();
  });
}

TEST_F(CaptureTest, ModesSayWhoseUnsafeCallsCount) {
  WithContext([](CUcontext context) {
    CUstream stream = NewStream();
    const auto allocate = [] {
      CUdeviceptr address = 0;
      CUresult result = cuMemAlloc_v2(&address, 4096);
      EXPECT_TRUE(result != CUDA_SUCCESS || cuMemFree_v2(address) == CUDA_SUCCESS);
      return result;
    };
    const auto elsewhere = [&](CUstreamCaptureMode mode) {
      CUresult result = CUDA_SUCCESS;
      std::thread([&] {
        EXPECT_EQ(cuCtxSetCurrent(context), CUDA_SUCCESS);
        EXPECT_EQ(cuThreadExchangeStreamCaptureMode(&mode), CUDA_SUCCESS);
        EXPECT_EQ(mode, CU_STREAM_CAPTURE_MODE_GLOBAL) << "what threads begin with";
        result = allocate();
      }).join();
      return result;
    };
    constexpr CUresult kNo = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    struct Case {
      CUstreamCaptureMode capture, thread;
      CUresult same_thread, other_thread;
    };
    const Case cases[] = {
        {CU_STREAM_CAPTURE_MODE_GLOBAL, CU_STREAM_CAPTURE_MODE_GLOBAL, kNo, kNo},
        {CU_STREAM_CAPTURE_MODE_GLOBAL, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, kNo, CUDA_SUCCESS},
        {CU_STREAM_CAPTURE_MODE_GLOBAL, CU_STREAM_CAPTURE_MODE_RELAXED, CUDA_SUCCESS, CUDA_SUCCESS},
        {CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, CU_STREAM_CAPTURE_MODE_GLOBAL, kNo, CUDA_SUCCESS},
        {CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, kNo,
         CUDA_SUCCESS},
        {CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, CU_STREAM_CAPTURE_MODE_RELAXED, CUDA_SUCCESS,
         CUDA_SUCCESS},
        {CU_STREAM_CAPTURE_MODE_RELAXED, CU_STREAM_CAPTURE_MODE_GLOBAL, CUDA_SUCCESS, CUDA_SUCCESS},
    };
    for (const Case& one : cases) {
      for (bool same : {true, false}) {
        const CUresult expected = same ? one.same_thread : one.other_thread;
        Begin(stream, one.capture);
        CUstreamCaptureMode mode = one.thread;
        CUresult result = CUDA_SUCCESS;
        if (same) {
          ASSERT_EQ(cuThreadExchangeStreamCaptureMode(&mode), CUDA_SUCCESS);
          result = allocate();
          ASSERT_EQ(cuThreadExchangeStreamCaptureMode(&mode), CUDA_SUCCESS);
          ASSERT_EQ(mode, one.thread);
        } else {
          result = elsewhere(one.thread);
        }
        EXPECT_EQ(result, expected) << one.capture << " " << one.thread << " " << same;
        if (expected == CUDA_SUCCESS) {
          EXPECT_EQ(cuGraphDestroy(End(stream)), CUDA_SUCCESS);
        } else {
          EndInvalid(stream);
        }
      }
    }
    auto bad = static_cast<CUstreamCaptureMode>(3);
    EXPECT_EQ(cuThreadExchangeStreamCaptureMode(&bad), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(cuThreadExchangeStreamCaptureMode(nullptr), CUDA_ERROR_INVALID_VALUE);
  });
}

TEST_F(CaptureTest, TellsAndTakesDependencies) {
  WithContext([](CUcontext) {
    const GraphBench bench;
    CUstream stream = NewStream();
    CUstreamCaptureStatus status{};
    cuuint64_t id = 0, id_before = 0;
    ASSERT_EQ(cuStreamGetCaptureInfo(stream, &status, &id), CUDA_SUCCESS);
    EXPECT_EQ(status, CU_STREAM_CAPTURE_STATUS_NONE);
    Begin(stream);
    ASSERT_EQ(cuStreamGetCaptureInfo(stream, &status, &id_before), CUDA_SUCCESS);
    ASSERT_EQ(bench.LaunchFold(stream, 0, 0), CUDA_SUCCESS);
    CUgraph graph = nullptr;
    const CUgraphNode* dependencies = nullptr;
    size_t count = 0;
    ASSERT_EQ(cuStreamGetCaptureInfo_v2(stream, &status, &id, &graph, &dependencies, &count),
              CUDA_SUCCESS);
    EXPECT_EQ(status, CU_STREAM_CAPTURE_STATUS_ACTIVE);
    EXPECT_EQ(id, id_before);
    ASSERT_EQ(count, 1u);
    CUgraphNode first = dependencies[0];
    EXPECT_EQ(NodesOf(graph), (std::vector<CUgraphNode>{first}));
    EXPECT_EQ(cuGraphDestroy(graph), CUDA_ERROR_INVALID_VALUE) << "it is being captured";
    EXPECT_EQ(cuGraphDestroyNode(first), CUDA_ERROR_INVALID_VALUE);
    CUgraphExec exec = nullptr;
    EXPECT_EQ(cuGraphInstantiateWithFlags(&exec, graph, 0), CUDA_ERROR_INVALID_VALUE);
    // A node of the program's own, which the stream then stands behind.
    CUgraphNode own = nullptr;
    ASSERT_EQ(bench.AddFold(graph, {first}, 1, 1, &own), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamUpdateCaptureDependencies(stream, &own, 1, 1), CUDA_SUCCESS);
    const CUgraphEdgeData* data = nullptr;
    ASSERT_EQ(
        cuStreamGetCaptureInfo_v3(stream, &status, nullptr, nullptr, &dependencies, &data, &count),
        CUDA_SUCCESS);
    ASSERT_EQ(count, 1u);
    EXPECT_EQ(dependencies[0], own);
    EXPECT_EQ(data[0].type, 0);
    ASSERT_EQ(cuStreamUpdateCaptureDependencies(stream, &first, 1, 0), CUDA_SUCCESS);
    ASSERT_EQ(bench.LaunchFold(stream, 2, 3), CUDA_SUCCESS);
    EXPECT_EQ(cuStreamUpdateCaptureDependencies(stream, &first, 1, 2), CUDA_ERROR_INVALID_VALUE);
    CUgraph captured = End(stream);
    EXPECT_EQ(captured, graph);
    EXPECT_EQ(EdgeCount(graph), 3u);
    EXPECT_EQ(cuStreamUpdateCaptureDependencies(stream, &first, 1, 0), CUDA_ERROR_ILLEGAL_STATE);

    // More of it, captured into the same graph.
    CUgraphNode last = NodesOf(graph).back();
    ASSERT_EQ(cuStreamBeginCaptureToGraph(stream, graph, &last, nullptr, 1,
                                          CU_STREAM_CAPTURE_MODE_GLOBAL),
              CUDA_SUCCESS);
    ASSERT_EQ(bench.LaunchFold(stream, 3, 7), CUDA_SUCCESS);
    EXPECT_EQ(End(stream), graph);
    EXPECT_EQ(NodesOf(graph).size(), 4u);
    exec = Ready(graph);
    ASSERT_EQ(cuGraphLaunch(exec, stream), CUDA_SUCCESS);
    const auto values = bench.Read();
    EXPECT_EQ(values[1], 5u);
    EXPECT_EQ(values[2], 3u + 3 * (1 + 5));
    EXPECT_EQ(values[3], 4u + 3 * (1 + 5 + 21));
    // A capture that fails leaves the program its graph.
    ASSERT_EQ(cuStreamBeginCaptureToGraph(stream, graph, nullptr, nullptr, 0,
                                          CU_STREAM_CAPTURE_MODE_GLOBAL),
              CUDA_SUCCESS);
    EXPECT_EQ(cuStreamSynchronize(stream), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    EndInvalid(stream);
    EXPECT_EQ(NodesOf(graph).size(), 4u);
    EXPECT_EQ(cuGraphDestroy(graph), CUDA_SUCCESS);
  });
}

TEST_F(CaptureTest, RecordsAllocationsAndLaunches) {
  WithContext([](CUcontext) {
    const GraphBench bench;
    CUstream stream = NewStream();
    const size_t before = UsedMiB();
    Begin(stream);
    CUdeviceptr address = 0;
    ASSERT_EQ(cuMemAllocAsync(&address, 4 << 20, stream), CUDA_SUCCESS);
    ASSERT_EQ(cuMemsetD32Async(address, 6, kCells, stream), CUDA_SUCCESS);
    ASSERT_EQ(cuMemcpyDtoDAsync_v2(bench.cells, address, 4 * kCells, stream), CUDA_SUCCESS);
    ASSERT_EQ(cuMemFreeAsync(address, stream), CUDA_SUCCESS);
    CUgraph graph = End(stream);
    EXPECT_EQ(UsedMiB(), before);
    EXPECT_EQ(TypesOf(graph), (std::vector<CUgraphNodeType>{
                                  CU_GRAPH_NODE_TYPE_MEM_ALLOC, CU_GRAPH_NODE_TYPE_MEMSET,
                                  CU_GRAPH_NODE_TYPE_MEMCPY, CU_GRAPH_NODE_TYPE_MEM_FREE}));
    CUgraphExec exec = Ready(graph);
    for (int round = 0; round < 3; ++round) {
      ASSERT_EQ(cuGraphLaunch(exec, stream), CUDA_SUCCESS);
    }
    EXPECT_EQ(bench.Read()[7], 6u);
    EXPECT_EQ(UsedMiB(), before + 4);

    // A launch while capturing is a child.
    CUgraph inner = NewGraphHandle();
    CUgraphNode node = nullptr;
    ASSERT_EQ(bench.AddAdd(inner, {}, 0, 1, &node), CUDA_SUCCESS);
    CUgraphExec inner_exec = Ready(inner);
    bench.Clear();
    Begin(stream);
    ASSERT_EQ(cuGraphLaunch(inner_exec, stream), CUDA_SUCCESS);
    ASSERT_EQ(bench.LaunchFold(stream, 1, 1), CUDA_SUCCESS);
    ASSERT_EQ(cuGraphLaunch(inner_exec, stream), CUDA_SUCCESS);
    CUgraph outer = End(stream);
    EXPECT_EQ(TypesOf(outer),
              (std::vector<CUgraphNodeType>{CU_GRAPH_NODE_TYPE_GRAPH, CU_GRAPH_NODE_TYPE_KERNEL,
                                            CU_GRAPH_NODE_TYPE_GRAPH}));
    ASSERT_EQ(cuGraphExecDestroy(inner_exec), CUDA_SUCCESS);
    ASSERT_EQ(cuGraphLaunch(Ready(outer), stream), CUDA_SUCCESS);
    const auto values = bench.Read();
    EXPECT_EQ(values[0], 2u);
    EXPECT_EQ(values[1], 5u);

    // Memory from outside of a graph cannot be freed in one.
    CUdeviceptr plain = 0;
    ASSERT_EQ(cuMemAllocAsync(&plain, 4096, stream), CUDA_SUCCESS);
    Begin(stream);
    EXPECT_EQ(cuMemFreeAsync(plain, stream), CUDA_ERROR_INVALID_VALUE);
    EndInvalid(stream);
    ASSERT_EQ(cuMemFreeAsync(plain, stream), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamSynchronize(stream), CUDA_SUCCESS);
  });
}

TEST_F(CaptureTest, GrowsAnEmbeddedGraph) {
  WithContext([](CUcontext) {
    const GraphBench bench;
    CUstream stream = NewStream();
    CUgraph graph = NewGraphHandle(), child = NewGraphHandle(), embedded = nullptr;
    CUgraphNode nested = nullptr;
    ASSERT_EQ(cuGraphAddChildGraphNode(&nested, graph, nullptr, 0, child), CUDA_SUCCESS);
    ASSERT_EQ(cuGraphChildGraphNodeGetGraph(nested, &embedded), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamBeginCaptureToGraph(stream, embedded, nullptr, nullptr, 0,
                                          CU_STREAM_CAPTURE_MODE_GLOBAL),
              CUDA_SUCCESS);
    ASSERT_EQ(bench.LaunchAdd(stream, 0, 8), CUDA_SUCCESS);
    EXPECT_EQ(cuGraphDestroy(graph), CUDA_ERROR_INVALID_VALUE) << "a part of it is being made";
    EXPECT_EQ(cuGraphDestroyNode(nested), CUDA_ERROR_INVALID_VALUE);
    CUgraphExec exec = nullptr;
    EXPECT_EQ(cuGraphInstantiateWithFlags(&exec, graph, 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(End(stream), embedded);
    ASSERT_EQ(cuGraphLaunch(Ready(graph), stream), CUDA_SUCCESS);
    EXPECT_EQ(bench.Read()[0], 8u);
    EXPECT_EQ(cuGraphDestroy(graph), CUDA_SUCCESS);
  });
}

TEST_F(CaptureTest, EndsWithItsStream) {
  WithContext([](CUcontext) {
    const GraphBench bench;
    CUstream a = NewStream(), b = NewStream();
    CUevent event = NewEvent();
    Begin(a);
    ASSERT_EQ(cuEventRecord(event, a), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamWaitEvent(b, event, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamDestroy_v2(b), CUDA_SUCCESS);
    EndInvalid(a);
    Begin(a);
    b = NewStream();
    ASSERT_EQ(cuEventRecord(event, a), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamWaitEvent(b, event, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamDestroy_v2(a), CUDA_SUCCESS);
    EXPECT_EQ(StatusOf(b), CU_STREAM_CAPTURE_STATUS_NONE);
    EXPECT_EQ(cuStreamWaitEvent(b, event, 0), CUDA_ERROR_CAPTURED_EVENT);
    ASSERT_EQ(bench.LaunchAdd(b, 0, 1), CUDA_SUCCESS);
    EXPECT_EQ(bench.Read()[0], 1u);
  });
}

}  // namespace
}  // namespace simgpu
