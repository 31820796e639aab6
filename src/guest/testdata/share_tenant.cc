// A plain CUDA program that keeps a card busy with kernels that state how long they take, for the
// tests and the measurement of compute shares. It knows nothing of Tessera.
//
//   share_tenant KIND MICROSECONDS
//
//   kernels      one stream, a synchronisation every 64 launches
//   streams      the same over two streams
//   graphs       graphs of eight kernels, captured once
//   conditional  graphs of a loop whose kernel decides, after eight turns, that it is over
//   cooperative  cooperative launches
//   mixed        lengths from a quarter to twice the given one, copies and graphs between
//   everywhere   a kernel on each visible card in turn, all waited for every four rounds
//   bursts       a kernel, waited for, then a pause of four times its length
//   idle         a context and nothing else
//   late         before it is ready: work that waits for the host is given up for lost with another
//                context, other streams do theirs, and then it is let go; afterwards nothing
//
// Says "ready" when it has a context, and works until its standard input ends. At the end, one line
// for "bursts": the 99th percentile of launch to end, in nanoseconds.
#include <dlfcn.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "abi/cuda.h"
#include "abi/cuda_graph.h"

using namespace tessera::abi;

namespace {

constexpr char kModule[] = R"(
.version 8.0
.target sm_70
.address_size 64
.visible .entry stated(.param .u64 time) {
  .pragma "simgpu.time_ns param0";
  ret;
}
.extern .func cudaGraphSetConditional (.param .b64 handle, .param .b32 value);
.visible .entry turn(.param .u64 time, .param .u64 loop, .param .u64 left) {
  .pragma "simgpu.time_ns param0";
  .reg .pred %p<2>;
  .reg .b32 %r<3>;
  .reg .b64 %rd<3>;
  .param .b64 handle;
  .param .b32 value;
  ld.param.u64 %rd1, [loop];
  ld.param.u64 %rd2, [left];
  ld.global.u32 %r1, [%rd2];
  add.u32 %r1, %r1, -1;
  st.param.b64 [handle], %rd1;
  st.param.b32 [value], %r1;
  call.uni cudaGraphSetConditional, (handle, value);
  setp.eq.u32 %p1, %r1, 0;
  selp.u32 %r2, 8, %r1, %p1;
  st.global.u32 [%rd2], %r2;
  ret;
}
)";

void* g_cuda = nullptr;

template <typename... Arguments>
void Cuda(const char* name, Arguments... arguments) {
  auto* function = reinterpret_cast<unsigned (*)(Arguments...)>(dlsym(g_cuda, name));
  const unsigned code = function == nullptr ? 9999 : function(arguments...);
  if (code == 0) return;
  std::fprintf(stderr, "share_tenant: %s answered %u\n", name, code);
  std::exit(1);
}

bool Told() {
  pollfd in = {0, POLLIN, 0};
  return poll(&in, 1, 0) > 0;
}

uint64_t Now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

CUfunction g_kernel = nullptr;
using LaunchCall = unsigned (*)(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned,
                                unsigned, unsigned, CUstream, void**, void**);
LaunchCall g_launch = nullptr;

void Launch(CUstream stream, uint64_t nanos) {
  void* parameters[] = {&nanos};
  // The grid follows from the length, as larger work has larger grids.
  const auto grid = static_cast<unsigned>(1 + nanos / 1'000'000);
  if (g_launch(g_kernel, grid, 1, 1, 1, 1, 1, 0, stream, parameters, nullptr) == 0) return;
  std::fprintf(stderr, "share_tenant: cuLaunchKernel failed\n");
  std::exit(1);
}

CUgraphExec MakeGraph(CUstream stream, uint64_t nanos) {
  CUgraph graph = nullptr;
  CUgraphExec exec = nullptr;
  Cuda("cuStreamBeginCapture_v2", stream, 0u);
  for (int i = 0; i < 8; ++i) Launch(stream, nanos / 8);
  Cuda("cuStreamEndCapture", stream, &graph);
  Cuda("cuGraphInstantiateWithFlags", &exec, graph, 0ull);
  return exec;
}

CUgraphExec MakeLoop(CUfunction turn, uint64_t nanos) {
  CUgraph graph = nullptr, inner = nullptr;
  CUgraphNode node = nullptr;
  CUgraphExec exec = nullptr;
  CUgraphConditionalHandle loop = 0;
  CUdeviceptr left = 0;
  CUgraphNodeParams params;
  std::memset(static_cast<void*>(&params), 0, sizeof(params));
  const CUgraphNode* const none = nullptr;
  Cuda("cuMemAlloc_v2", &left, sizeof(unsigned));
  Cuda("cuMemsetD32_v2", left, 8u, size_t{1});
  Cuda("cuGraphCreate", &graph, 0u);
  Cuda("cuGraphConditionalHandleCreate", &loop, graph, static_cast<CUcontext>(nullptr), 1u, 1u);
  params.type = CU_GRAPH_NODE_TYPE_CONDITIONAL;
  params.conditional.handle = loop;
  params.conditional.type = CU_GRAPH_COND_TYPE_WHILE;
  params.conditional.size = 1;
  Cuda("cuGraphAddNode", &node, graph, none, size_t{0}, &params);
  inner = params.conditional.phGraph_out[0];
  uint64_t time = nanos / 8;
  void* arguments[] = {&time, &loop, &left};
  CUDA_KERNEL_NODE_PARAMS kernel = {};
  kernel.func = turn;
  kernel.gridDimX = kernel.gridDimY = kernel.gridDimZ = 1;
  kernel.blockDimX = kernel.blockDimY = kernel.blockDimZ = 1;
  kernel.kernelParams = arguments;
  Cuda("cuGraphAddKernelNode_v2", &node, inner, none, size_t{0},
       static_cast<const CUDA_KERNEL_NODE_PARAMS*>(&kernel));
  Cuda("cuGraphInstantiateWithFlags", &exec, graph, 0ull);
  return exec;
}

// One visible card each.
struct Place {
  CUcontext context = nullptr;
  CUfunction kernel = nullptr;
  CUstream stream = nullptr;
};

int WorkEverywhere(uint64_t nanos) {
  int count = 0;
  Cuda("cuInit", 0u);
  Cuda("cuDeviceGetCount", &count);
  std::vector<Place> places(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) {
    Place& place = places[static_cast<size_t>(i)];
    CUmodule module = nullptr;
    Cuda("cuDevicePrimaryCtxRetain", &place.context, i);
    Cuda("cuCtxSetCurrent", place.context);
    Cuda("cuModuleLoadData", &module, static_cast<const void*>(kModule));
    Cuda("cuModuleGetFunction", &place.kernel, module, "stated");
    Cuda("cuStreamCreate", &place.stream, 1u);
  }
  std::printf("ready\n");
  std::fflush(stdout);
  for (uint64_t i = 1; !Told(); ++i) {
    for (const Place& place : places) {
      Cuda("cuCtxSetCurrent", place.context);
      g_kernel = place.kernel;
      Launch(place.stream, nanos);
    }
    for (const Place& place : places) {
      if (i % 4 == 0) Cuda("cuStreamSynchronize", place.stream);
    }
  }
  return 0;
}

// The guest library forgets what is outstanding when a context goes, also what another context
// still has on the card. So many streams that one of them is counted where that one was.
void LetGoLate(CUcontext context, CUstream waiting, uint64_t nanos) {
  constexpr int kStreams = 512;
  CUcontext second = nullptr;
  volatile uint32_t* word = nullptr;
  Cuda("cuCtxCreate_v2", &second, 0u, 0);
  Cuda("cuCtxSetCurrent", context);
  Cuda("cuMemHostAlloc", reinterpret_cast<void**>(const_cast<uint32_t**>(&word)), size_t{4}, 0u);
  *word = 0;
  Cuda("cuStreamWaitValue32_v2", waiting, reinterpret_cast<CUdeviceptr>(word), 1u, 0u);
  Launch(waiting, nanos);
  Cuda("cuCtxDestroy_v2", second);
  Cuda("cuCtxSetCurrent", context);
  for (int i = 0; i < kStreams; ++i) {
    CUstream stream = nullptr;
    Cuda("cuStreamCreate", &stream, 1u);
    Launch(stream, nanos);
    Cuda("cuStreamSynchronize", stream);
  }
  *word = 1;
  Cuda("cuStreamSynchronize", waiting);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const std::string kind = argv[1];
  const uint64_t nanos = std::strtoull(argv[2], nullptr, 10) * 1000;
  g_cuda = dlopen("libcuda.so.1", RTLD_NOW);
  if (g_cuda == nullptr) return 3;
  g_launch = reinterpret_cast<LaunchCall>(
      dlsym(g_cuda, kind == "cooperative" ? "cuLaunchCooperativeKernel" : "cuLaunchKernel"));
  if (kind == "everywhere") return WorkEverywhere(nanos);
  CUcontext context = nullptr;
  CUmodule module = nullptr;
  CUstream streams[2] = {};
  Cuda("cuInit", 0u);
  Cuda("cuDevicePrimaryCtxRetain", &context, 0);
  Cuda("cuCtxSetCurrent", context);
  Cuda("cuModuleLoadData", &module, static_cast<const void*>(kModule));
  Cuda("cuModuleGetFunction", &g_kernel, module, "stated");
  for (CUstream& stream : streams) Cuda("cuStreamCreate", &stream, 1u);
  CUgraphExec graph = nullptr;
  if (kind == "graphs" || kind == "mixed") graph = MakeGraph(streams[0], nanos);
  if (kind == "conditional") {
    CUfunction turn = nullptr;
    Cuda("cuModuleGetFunction", &turn, module, "turn");
    graph = MakeLoop(turn, nanos);
  }
  CUdeviceptr buffer = 0;
  Cuda("cuMemAlloc_v2", &buffer, size_t{1} << 20);
  if (kind == "late") LetGoLate(context, streams[0], nanos);
  std::printf("ready\n");
  std::fflush(stdout);

  std::mt19937_64 random(1);
  std::vector<uint64_t> latencies;
  for (uint64_t i = 1; !Told(); ++i) {
    if (kind == "kernels" || kind == "cooperative") {
      Launch(streams[0], nanos);
    } else if (kind == "streams") {
      Launch(streams[i % 2], nanos);
    } else if (kind == "graphs" || kind == "conditional") {
      Cuda("cuGraphLaunch", graph, streams[0]);
    } else if (kind == "mixed") {
      Launch(streams[0], nanos / 4 + random() % (nanos * 7 / 4));
      if (i % 8 == 0)
        Cuda("cuMemsetD8Async", buffer, static_cast<unsigned char>(1), size_t{4096}, streams[0]);
      if (i % 4 == 0) Cuda("cuGraphLaunch", graph, streams[0]);
    } else if (kind == "bursts") {
      const uint64_t start = Now();
      Launch(streams[0], nanos);
      Cuda("cuStreamSynchronize", streams[0]);
      latencies.push_back(Now() - start);
      usleep(static_cast<useconds_t>(4 * nanos / 1000));
    } else {
      pollfd in = {0, POLLIN, 0};
      poll(&in, 1, -1);
    }
    if (i % 64 == 0) {
      for (CUstream stream : streams) Cuda("cuStreamSynchronize", stream);
    }
  }
  for (CUstream stream : streams) Cuda("cuStreamSynchronize", stream);
  if (!latencies.empty()) {
    std::sort(latencies.begin(), latencies.end());
    std::printf("%llu\n", static_cast<unsigned long long>(latencies[latencies.size() * 99 / 100]));
  }
  return 0;
}
