// Streams side by side, put in order by events; callbacks; priorities; what a stream may not see before its turn.
//! cards: T4
//! seeds: 0 1 2
#include <atomic>
#include <vector>

#include "check.h"

__global__ void Fill(int* out, int value, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) out[i] = value;
}

// Each element becomes twice its neighbour's in the other buffer plus one: any wrong order shows.
__global__ void Step(const int* in, int* out, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    out[i] = 2 * in[(i + 1) % n] + 1;
  }
}

__global__ void Sum(const int* a, const int* b, int* out, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) out[i] = a[i] + b[i];
}

struct Notes {
  std::atomic<int> count{0};
  int order[8];
};
static Notes notes;
static void CUDART_CB Note(void* number) {
  notes.order[notes.count++] = static_cast<int>(reinterpret_cast<size_t>(number));
}
static void CUDART_CB Old(cudaStream_t, cudaError_t status, void* number) {
  if (status == cudaSuccess) Note(number);
}

int main() {
  const int n = 4096;
  const size_t bytes = n * sizeof(int);
  int least = 0, greatest = 0;
  MUST(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  EXPECT(least >= greatest);
  cudaStream_t left, right;
  MUST(cudaStreamCreateWithPriority(&left, cudaStreamNonBlocking, greatest));
  MUST(cudaStreamCreateWithFlags(&right, cudaStreamDefault));
  int priority = 1;
  unsigned int flags = 9;
  MUST(cudaStreamGetPriority(left, &priority));
  MUST(cudaStreamGetFlags(left, &flags));
  EXPECT(priority == greatest && flags == cudaStreamNonBlocking);
  unsigned long long left_id = 0, right_id = 0;
  MUST(cudaStreamGetId(left, &left_id));
  MUST(cudaStreamGetId(right, &right_id));
  EXPECT(left_id != right_id);

  int *a, *b, *c, *sum;
  MUST(cudaMalloc(&a, bytes));
  MUST(cudaMalloc(&b, bytes));
  MUST(cudaMalloc(&c, bytes));
  MUST(cudaMalloc(&sum, bytes));
  int* host;
  MUST(cudaHostAlloc(&host, bytes, cudaHostAllocDefault));

  // Ten steps to and fro between two streams, each waiting for the other by an event.
  std::vector<cudaEvent_t> events(20);
  for (auto& event : events) MUST(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  Fill<<<4, 128, 0, left>>>(a, 3, n);
  int expected = 3;
  for (int step = 0; step < 10; ++step) {
    MUST(cudaEventRecord(events[2 * step], left));
    MUST(cudaStreamWaitEvent(right, events[2 * step], 0));
    Step<<<4, 128, 0, right>>>(a, b, n);
    MUST(cudaEventRecord(events[2 * step + 1], right));
    MUST(cudaStreamWaitEvent(left, events[2 * step + 1], 0));
    Step<<<4, 128, 0, left>>>(b, a, n);
    expected = 2 * (2 * expected + 1) + 1;
  }
  MUST(cudaMemcpyAsync(host, a, bytes, cudaMemcpyDeviceToHost, left));
  MUST(cudaStreamSynchronize(left));
  for (int i = 0; i < n; ++i) EXPECT(host[i] == expected);

  // Two branches that meet; page-locked source, reused only after the event says so.
  cudaEvent_t begin, copied, end;
  MUST(cudaEventCreate(&begin));
  MUST(cudaEventCreateWithFlags(&copied, cudaEventBlockingSync));
  MUST(cudaEventCreate(&end));
  EXPECT(cudaEventElapsedTime(nullptr, begin, end) == cudaErrorInvalidValue);
  float milliseconds = -1;
  EXPECT(cudaEventElapsedTime(&milliseconds, begin, end) == cudaErrorInvalidResourceHandle);
  EXPECT(cudaGetLastError() == cudaErrorInvalidResourceHandle);
  for (int i = 0; i < n; ++i) host[i] = i;
  MUST(cudaEventRecord(begin, left));
  MUST(cudaMemcpyAsync(b, host, bytes, cudaMemcpyHostToDevice, left));
  MUST(cudaEventRecord(copied, left));
  Fill<<<2, 64, 0, right>>>(c, 1000, n);
  MUST(cudaStreamWaitEvent(right, copied, 0));
  Sum<<<4, 128, 0, right>>>(b, c, sum, n);
  MUST(cudaEventSynchronize(copied));
  for (int i = 0; i < n; ++i) host[i] = -1;
  MUST(cudaMemcpyAsync(host, sum, bytes, cudaMemcpyDeviceToHost, right));
  MUST(cudaEventRecord(end, right));
  MUST(cudaEventSynchronize(end));
  for (int i = 0; i < n; ++i) EXPECT(host[i] == 1000 + i);
  MUST(cudaEventElapsedTime(&milliseconds, begin, end));
  EXPECT(milliseconds >= 0 && milliseconds < 1e6);
  EXPECT(cudaEventQuery(end) == cudaSuccess && cudaStreamQuery(right) == cudaSuccess);

  // Host functions run one after the other in their stream's order.
  for (size_t i = 0; i < 4; ++i) {
    Fill<<<1, 32, 0, left>>>(a, static_cast<int>(i), n);
    if (i % 2 == 0) {
      MUST(cudaLaunchHostFunc(left, Note, reinterpret_cast<void*>(i)));
    } else {
      MUST(cudaStreamAddCallback(left, Old, reinterpret_cast<void*>(i), 0));
    }
  }
  MUST(cudaStreamSynchronize(left));
  EXPECT(notes.count == 4);
  for (int i = 0; i < 4; ++i) EXPECT(notes.order[i] == i);

  // The legacy default stream waits for blocking streams and they for it.
  for (int round = 0; round < 20; ++round) {
    Fill<<<2, 64, 0, right>>>(a, round, n);
    Step<<<2, 64>>>(a, b, n);
    Step<<<2, 64, 0, right>>>(b, c, n);
    int back = -1;
    MUST(cudaMemcpy(&back, c + 17, sizeof back, cudaMemcpyDeviceToHost));
    EXPECT(back == 2 * (2 * round + 1) + 1);
  }
  for (auto& event : events) MUST(cudaEventDestroy(event));
  MUST(cudaStreamDestroy(left));
  MUST(cudaStreamDestroy(right));
  EXPECT(cudaStreamSynchronize(left) != cudaSuccess);
  EXPECT(cudaGetLastError() != cudaSuccess);
  MUST(cudaDeviceSynchronize());
  std::printf("PASSED overlap\n");
  return 0;
}
