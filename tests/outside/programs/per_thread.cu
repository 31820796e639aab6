// Built for a default stream per thread: threads do not wait for each other, and each sees its own work in order.
//! cards: T4
//! options: -default-stream per-thread
#include <atomic>
#include <thread>
#include <vector>

#include "check.h"

__global__ void Fill(int* out, int value, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) out[i] = value;
}
__global__ void Double(int* out, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) out[i] *= 2;
}
__device__ int ready;

static std::atomic<bool> released{false};
static void CUDART_CB Wait(void*) {
  while (!released) std::this_thread::yield();
}

int main() {
  const int n = 2000, threads = 6;
  // While the first thread's default stream is held up, the others finish. They launch no host functions, which a
  // driver may run one after the other.
  MUST(cudaLaunchHostFunc(nullptr, Wait, nullptr));
  EXPECT(cudaStreamQuery(nullptr) == cudaErrorNotReady);
  EXPECT(cudaGetLastError() == cudaSuccess);
  std::vector<std::thread> running;
  std::atomic<int> right{0};
  for (int thread = 0; thread < threads; ++thread) {
    running.emplace_back([&, thread] {
      int* data;
      MUST(cudaMallocAsync(&data, n * sizeof(int), nullptr));
      cudaEvent_t event;
      MUST(cudaEventCreate(&event));
      for (int round = 0; round < 10; ++round) {
        Fill<<<2, 64>>>(data, thread * 100 + round, n);
        Double<<<2, 64>>>(data, n);
        MUST(cudaGetLastError());
        MUST(cudaEventRecord(event));
        std::vector<int> back(n);
        MUST(cudaMemcpyAsync(back.data(), data, n * sizeof(int), cudaMemcpyDeviceToHost));
        MUST(cudaStreamSynchronize(nullptr));
        MUST(cudaEventSynchronize(event));
        for (int i = 0; i < n; ++i) EXPECT(back[i] == 2 * (thread * 100 + round));
        MUST(cudaMemset(data, 0, n * sizeof(int)));
        MUST(cudaMemcpy(back.data(), data, n * sizeof(int), cudaMemcpyDeviceToHost));
        EXPECT(back[n - 1] == 0);
      }
      MUST(cudaFreeAsync(data, nullptr));
      MUST(cudaStreamSynchronize(cudaStreamPerThread));
      ++right;
    });
  }
  for (auto& thread : running) thread.join();
  EXPECT(right == threads);
  EXPECT(cudaStreamQuery(cudaStreamPerThread) == cudaErrorNotReady);
  released = true;
  MUST(cudaStreamSynchronize(nullptr));
  const int one = 1;
  int back = 0;
  MUST(cudaMemcpyToSymbol(ready, &one, sizeof one));
  MUST(cudaMemcpyFromSymbol(&back, ready, sizeof back));
  EXPECT(back == 1);
  MUST(cudaDeviceSynchronize());
  std::printf("PASSED per_thread\n");
  return 0;
}
