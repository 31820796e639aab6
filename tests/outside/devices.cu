// Two cards in one program: kernels and constants live on each of them, threads choose for themselves, and kernels
// print.
#include <thread>
#include <vector>

#include "check.h"

__constant__ int offset;

__global__ void Mark(int* out, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = offset + i;
}

__global__ void Speak(int who) {
  if (threadIdx.x == 0) printf("kernel %d speaks\n", who);
}

static void Work(int device) {
  MUST(cudaSetDevice(device));
  int now = -1;
  MUST(cudaGetDevice(&now));
  EXPECT(now == device);
  const int mine = 1000 * (device + 1);
  MUST(cudaMemcpyToSymbol(offset, &mine, sizeof mine));
  const int n = 5000;
  int* out;
  MUST(cudaMalloc(&out, n * sizeof(int)));
  cudaPointerAttributes attributes;
  MUST(cudaPointerGetAttributes(&attributes, out));
  EXPECT(attributes.device == device);
  for (int round = 0; round < 20; ++round) {
    MUST(cudaMemset(out, 0, n * sizeof(int)));
    Mark<<<(n + 127) / 128, 128>>>(out, n);
    MUST(cudaGetLastError());
    std::vector<int> back(n);
    MUST(cudaMemcpy(back.data(), out, n * sizeof(int), cudaMemcpyDeviceToHost));
    for (int i = 0; i < n; ++i) EXPECT(back[i] == mine + i);
  }
  MUST(cudaFree(out));
}

int main() {
  int count = 0;
  MUST(cudaGetDeviceCount(&count));
  EXPECT(count == 2);
  cudaDeviceProp first, second;
  MUST(cudaGetDeviceProperties(&first, 0));
  MUST(cudaGetDeviceProperties(&second, 1));
  EXPECT(first.major == 8 && second.major == 7 && first.pciBusID != second.pciBusID);
  // One after the other, then both at once from threads of their own; a new thread begins on card 0.
  Work(0);
  Work(1);
  std::vector<std::thread> threads;
  for (int device = 0; device < 2; ++device) {
    threads.emplace_back([device] {
      int begins = -1;
      MUST(cudaGetDevice(&begins));
      EXPECT(begins == 0);
      Work(device);
    });
  }
  for (auto& thread : threads) thread.join();
  int still = -1;
  MUST(cudaGetDevice(&still));
  EXPECT(still == 1);
  Speak<<<1, 32>>>(7);
  MUST(cudaDeviceSynchronize());
  std::printf("PASSED devices\n");
  return 0;
}
