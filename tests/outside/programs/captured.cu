// Graphs by stream capture: fork and join, launches again and again, updates, and what capture forbids.
//! cards: T4
//! seeds: 0 1
#include <vector>

#include "check.h"

__global__ void Fill(int* out, int value, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) out[i] = value;
}
__global__ void Add(const int* a, const int* b, int* out, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) out[i] = a[i] + b[i];
}
__global__ void Bump(int* out) { atomicAdd(out, 1); }

static void CUDART_CB Count(void* counter) { ++*static_cast<int*>(counter); }

static const int kN = 3000;
static int *a, *b, *c, *host_out, *bumped;
static int called = 0;

// Two branches that fill, one that adds; a copy to page-locked memory, a host function.
static cudaGraph_t Capture(cudaStream_t main_stream, cudaStream_t side, int x, int y) {
  cudaEvent_t fork, join;
  MUST(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming));
  MUST(cudaEventCreateWithFlags(&join, cudaEventDisableTiming));
  MUST(cudaStreamBeginCapture(main_stream, cudaStreamCaptureModeGlobal));
  MUST(cudaMemsetAsync(c, 0, kN * sizeof(int), main_stream));
  MUST(cudaEventRecord(fork, main_stream));
  MUST(cudaStreamWaitEvent(side, fork, 0));
  Fill<<<2, 128, 0, side>>>(b, y, kN);
  MUST(cudaEventRecord(join, side));
  Fill<<<2, 128, 0, main_stream>>>(a, x, kN);
  MUST(cudaStreamWaitEvent(main_stream, join, 0));
  Add<<<2, 128, 0, main_stream>>>(a, b, c, kN);
  Bump<<<1, 4, 0, main_stream>>>(bumped);
  MUST(cudaMemcpyAsync(host_out, c, kN * sizeof(int), cudaMemcpyDeviceToHost, main_stream));
  MUST(cudaLaunchHostFunc(main_stream, Count, &called));
  cudaStreamCaptureStatus status;
  unsigned long long id = 0;
  cudaGraph_t under_way = nullptr;
  MUST(cudaStreamGetCaptureInfo(main_stream, &status, &id, &under_way));
  EXPECT(status == cudaStreamCaptureStatusActive && id != 0 && under_way != nullptr);
  MUST(cudaStreamIsCapturing(side, &status));
  EXPECT(status == cudaStreamCaptureStatusActive);
  cudaGraph_t graph;
  MUST(cudaStreamEndCapture(main_stream, &graph));
  MUST(cudaStreamIsCapturing(main_stream, &status));
  EXPECT(status == cudaStreamCaptureStatusNone);
  MUST(cudaEventDestroy(fork));
  MUST(cudaEventDestroy(join));
  return graph;
}

static int Bumped() {
  int value = -1;
  MUST(cudaMemcpy(&value, bumped, sizeof value, cudaMemcpyDeviceToHost));
  return value;
}

int main() {
  MUST(cudaMalloc(&a, kN * sizeof(int)));
  MUST(cudaMalloc(&b, kN * sizeof(int)));
  MUST(cudaMalloc(&c, kN * sizeof(int)));
  MUST(cudaMalloc(&bumped, sizeof(int)));
  MUST(cudaMemset(bumped, 0, sizeof(int)));
  MUST(cudaMallocHost(&host_out, kN * sizeof(int)));
  cudaStream_t stream, side;
  MUST(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  MUST(cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking));

  // Nothing runs while it is captured.
  cudaGraph_t graph = Capture(stream, side, 5, 6);
  MUST(cudaDeviceSynchronize());
  EXPECT(Bumped() == 0 && called == 0);
  size_t nodes = 0, roots = 0, edges = 0;
  MUST(cudaGraphGetNodes(graph, nullptr, &nodes));
  MUST(cudaGraphGetRootNodes(graph, nullptr, &roots));
  MUST(cudaGraphGetEdges(graph, nullptr, nullptr, nullptr, &edges));
  EXPECT(nodes == 7 && roots == 1 && edges == 7);

  cudaGraphExec_t exec;
  MUST(cudaGraphInstantiate(&exec, graph));
  for (int launch = 1; launch <= 5; ++launch) {
    for (int i = 0; i < kN; ++i) host_out[i] = 0;
    MUST(cudaGraphLaunch(exec, stream));
    MUST(cudaStreamSynchronize(stream));
    for (int i = 0; i < kN; ++i) EXPECT(host_out[i] == 11);
    EXPECT(called == launch && Bumped() == 4 * launch);
  }
  // Launches of one graph follow each other even in two streams.
  MUST(cudaGraphLaunch(exec, stream));
  MUST(cudaGraphLaunch(exec, side));
  MUST(cudaDeviceSynchronize());
  EXPECT(called == 7 && Bumped() == 28);

  // The same shape with other values updates the executable graph; another shape does not.
  cudaGraph_t changed = Capture(stream, side, 100, 23);
  cudaGraphExecUpdateResultInfo info;
  MUST(cudaGraphExecUpdate(exec, changed, &info));
  EXPECT(info.result == cudaGraphExecUpdateSuccess);
  MUST(cudaGraphLaunch(exec, stream));
  MUST(cudaStreamSynchronize(stream));
  for (int i = 0; i < kN; ++i) EXPECT(host_out[i] == 123);
  cudaGraph_t smaller;
  MUST(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  Bump<<<1, 1, 0, stream>>>(bumped);
  MUST(cudaStreamEndCapture(stream, &smaller));
  EXPECT(cudaGraphExecUpdate(exec, smaller, &info) == cudaErrorGraphExecUpdateFailure);
  EXPECT(info.result == cudaGraphExecUpdateErrorTopologyChanged);
  EXPECT(cudaGetLastError() == cudaErrorGraphExecUpdateFailure);

  // The executable graph lives on without its graph.
  MUST(cudaGraphDestroy(graph));
  MUST(cudaGraphDestroy(changed));
  MUST(cudaGraphDestroy(smaller));
  MUST(cudaGraphLaunch(exec, stream));
  MUST(cudaStreamSynchronize(stream));
  EXPECT(host_out[0] == 123);
  MUST(cudaGraphExecDestroy(exec));

  // What capture forbids: synchronising a capturing stream breaks the capture.
  MUST(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
  Bump<<<1, 1, 0, stream>>>(bumped);
  EXPECT(cudaStreamSynchronize(stream) == cudaErrorStreamCaptureUnsupported);
  cudaStreamCaptureStatus status;
  MUST(cudaStreamIsCapturing(stream, &status));
  EXPECT(status == cudaStreamCaptureStatusInvalidated);
  cudaGraph_t broken = nullptr;
  EXPECT(cudaStreamEndCapture(stream, &broken) == cudaErrorStreamCaptureInvalidated && broken == nullptr);
  EXPECT(cudaGetLastError() == cudaErrorStreamCaptureInvalidated);
  // A fork that does not come back.
  cudaEvent_t fork;
  MUST(cudaEventCreate(&fork));
  MUST(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
  MUST(cudaEventRecord(fork, stream));
  MUST(cudaStreamWaitEvent(side, fork, 0));
  Bump<<<1, 1, 0, side>>>(bumped);
  EXPECT(cudaStreamEndCapture(stream, &broken) == cudaErrorStreamCaptureUnjoined);
  EXPECT(cudaGetLastError() == cudaErrorStreamCaptureUnjoined);
  EXPECT(cudaStreamEndCapture(stream, &broken) == cudaErrorIllegalState);
  EXPECT(cudaGetLastError() == cudaErrorIllegalState);
  const int before = Bumped();
  Bump<<<1, 1, 0, stream>>>(bumped);
  MUST(cudaStreamSynchronize(stream));
  EXPECT(Bumped() == before + 1);
  std::printf("PASSED captured\n");
  return 0;
}
