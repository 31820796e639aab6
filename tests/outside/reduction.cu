// Sums in shared memory, static and dynamic, with warp shuffles; kernel attributes and occupancy.
#include <vector>

#include "check.h"

constexpr int kThreads = 256;

__global__ void SumShared(const int* in, long long* out, int n) {
  __shared__ long long partial[kThreads];
  long long sum = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) sum += in[i];
  partial[threadIdx.x] = sum;
  __syncthreads();
  for (int half = blockDim.x / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) atomicAdd(reinterpret_cast<unsigned long long*>(out), static_cast<unsigned long long>(partial[0]));
}

template <typename T>
__global__ void SumShuffle(const T* in, T* out, int n) {
  extern __shared__ unsigned char raw[];
  T* const warps = reinterpret_cast<T*>(raw);
  T sum = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) sum += in[i];
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_down_sync(0xffffffffu, sum, offset);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x < 32) {
    sum = threadIdx.x < blockDim.x / 32 ? warps[threadIdx.x] : T(0);
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_down_sync(0xffffffffu, sum, offset);
    if (threadIdx.x == 0) atomicAdd(out, sum);
  }
}

int main() {
  const int n = 200'001;
  std::vector<int> in(n);
  long long expected = 0;
  for (int i = 0; i < n; ++i) {
    in[i] = (i * 37) % 1001 - 400;
    expected += in[i];
  }
  int* din;
  long long* dsum;
  MUST(cudaMalloc(&din, n * sizeof(int)));
  MUST(cudaMalloc(&dsum, sizeof(long long)));
  MUST(cudaMemcpy(din, in.data(), n * sizeof(int), cudaMemcpyHostToDevice));
  MUST(cudaMemset(dsum, 0, sizeof(long long)));
  SumShared<<<24, kThreads>>>(din, dsum, n);
  MUST(cudaGetLastError());
  long long sum = 0;
  MUST(cudaMemcpy(&sum, dsum, sizeof sum, cudaMemcpyDeviceToHost));
  EXPECT(sum == expected);

  int* dsum32 = reinterpret_cast<int*>(dsum);
  MUST(cudaMemset(dsum, 0, sizeof(long long)));
  SumShuffle<int><<<24, kThreads, kThreads / 32 * sizeof(int)>>>(din, dsum32, n);
  MUST(cudaGetLastError());
  int sum32 = 0;
  MUST(cudaMemcpy(&sum32, dsum32, sizeof sum32, cudaMemcpyDeviceToHost));
  EXPECT(sum32 == static_cast<int>(expected));

  // A thousand floats 0.5 add up without rounding.
  std::vector<float> halves(1000, 0.5f);
  float* dhalves;
  MUST(cudaMalloc(&dhalves, halves.size() * sizeof(float)));
  MUST(cudaMemcpy(dhalves, halves.data(), halves.size() * sizeof(float), cudaMemcpyHostToDevice));
  MUST(cudaMemset(dsum, 0, sizeof(long long)));
  SumShuffle<float><<<4, kThreads, kThreads / 32 * sizeof(float)>>>(dhalves, reinterpret_cast<float*>(dsum), 1000);
  float total = 0;
  MUST(cudaMemcpy(&total, dsum, sizeof total, cudaMemcpyDeviceToHost));
  EXPECT(total == 500.0f);

  cudaFuncAttributes attributes;
  MUST(cudaFuncGetAttributes(&attributes, SumShared));
  EXPECT(attributes.sharedSizeBytes == kThreads * sizeof(long long));
  EXPECT(attributes.maxThreadsPerBlock >= kThreads);
  int blocks = 0;
  MUST(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, SumShared, kThreads, 0));
  EXPECT(blocks >= 1);
  int least_grid = 0, best_block = 0;
  MUST(cudaOccupancyMaxPotentialBlockSize(&least_grid, &best_block, SumShared, 0, 0));
  EXPECT(best_block >= 32 && best_block <= 1024 && least_grid >= 1);
  MUST(cudaFree(din));
  MUST(cudaFree(dsum));
  MUST(cudaFree(dhalves));
  std::printf("PASSED reduction\n");
  return 0;
}
