// What goes wrong in a kernel: the fault arrives at the next synchronisation, stays, and ends with the context.
//! complains-about: simgpu: illegal .*
#include "check.h"

__global__ void Write(int* where) { *where = 1; }

__global__ void UseShared(int* out, int words) {
  extern __shared__ int shared[];
  for (int i = threadIdx.x; i < words; i += blockDim.x) shared[i] = i;
  __syncthreads();
  if (threadIdx.x == 0) *out = shared[words - 1];
}

int main() {
  // More dynamic shared memory than a kernel may have by default is refused until it is allowed.
  int* out;
  MUST(cudaMalloc(&out, sizeof(int)));
  const int bytes = 60 * 1024;
  UseShared<<<1, 64, bytes>>>(out, bytes / 4);
  EXPECT(cudaGetLastError() != cudaSuccess);
  MUST(cudaFuncSetAttribute(UseShared, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  UseShared<<<1, 64, bytes>>>(out, bytes / 4);
  MUST(cudaGetLastError());
  int last = 0;
  MUST(cudaMemcpy(&last, out, sizeof last, cudaMemcpyDeviceToHost));
  EXPECT(last == bytes / 4 - 1);

  Write<<<1, 1>>>(reinterpret_cast<int*>(0x40));
  EXPECT(cudaDeviceSynchronize() == cudaErrorIllegalAddress);
  void* more = nullptr;
  EXPECT(cudaMalloc(&more, 16) == cudaErrorIllegalAddress);
  EXPECT(cudaGetLastError() == cudaErrorIllegalAddress);
  EXPECT(cudaGetLastError() == cudaErrorIllegalAddress);
  std::printf("PASSED faults: %s\n", cudaGetErrorString(cudaErrorIllegalAddress));
  return 0;
}
