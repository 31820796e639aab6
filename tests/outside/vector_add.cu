// Vector addition, device properties, memory figures, errors: the first page of every CUDA course.
#include <cstring>
#include <vector>

#include "check.h"

__global__ void Add(const float* a, const float* b, float* out, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = a[i] + b[i];
}

int main() {
  int count = 0;
  MUST(cudaGetDeviceCount(&count));
  EXPECT(count >= 1);
  cudaDeviceProp prop;
  MUST(cudaGetDeviceProperties(&prop, 0));
  EXPECT(prop.major >= 7 && prop.warpSize == 32 && prop.maxThreadsPerBlock == 1024);
  EXPECT(prop.multiProcessorCount > 0 && prop.maxGridSize[0] == 2147483647);
  EXPECT(std::strlen(prop.name) > 0);

  size_t free_before = 0;
  size_t total = 0;
  MUST(cudaMemGetInfo(&free_before, &total));
  EXPECT(total == prop.totalGlobalMem && free_before < total);

  const int n = 100'003;
  std::vector<float> a(n), b(n), out(n);
  for (int i = 0; i < n; ++i) {
    a[i] = 0.5f * i;
    b[i] = 3.0f - i;
  }
  float *da, *db, *dout;
  MUST(cudaMalloc(&da, n * sizeof(float)));
  MUST(cudaMalloc(&db, n * sizeof(float)));
  MUST(cudaMalloc(&dout, n * sizeof(float)));
  MUST(cudaMemcpy(da, a.data(), n * sizeof(float), cudaMemcpyHostToDevice));
  MUST(cudaMemcpy(db, b.data(), n * sizeof(float), cudaMemcpyDefault));
  MUST(cudaMemset(dout, 0xff, n * sizeof(float)));
  Add<<<(n + 255) / 256, 256>>>(da, db, dout, n);
  MUST(cudaGetLastError());
  MUST(cudaDeviceSynchronize());
  size_t free_loaded = 0;  // the kernel's module takes its memory at the first launch
  MUST(cudaMemGetInfo(&free_loaded, &total));
  EXPECT(free_loaded < free_before);
  MUST(cudaMemcpy(out.data(), dout, n * sizeof(float), cudaMemcpyDeviceToHost));
  for (int i = 0; i < n; ++i) EXPECT(out[i] == a[i] + b[i]);

  cudaPointerAttributes attributes;
  MUST(cudaPointerGetAttributes(&attributes, da));
  EXPECT(attributes.type == cudaMemoryTypeDevice && attributes.device == 0);
  MUST(cudaPointerGetAttributes(&attributes, a.data()));
  EXPECT(attributes.type == cudaMemoryTypeUnregistered);

  // Errors arrive where the real runtime reports them, and are kept until asked for.
  void* big = nullptr;
  EXPECT(cudaMalloc(&big, total + 1) == cudaErrorMemoryAllocation && big == nullptr);
  EXPECT(cudaPeekAtLastError() == cudaErrorMemoryAllocation);
  EXPECT(cudaGetLastError() == cudaErrorMemoryAllocation);
  EXPECT(cudaGetLastError() == cudaSuccess);
  Add<<<1, 2048>>>(da, db, dout, n);
  EXPECT(cudaGetLastError() == cudaErrorInvalidConfiguration);
  EXPECT(cudaSetDevice(count) == cudaErrorInvalidDevice);
  EXPECT(std::strcmp(cudaGetErrorName(cudaErrorMemoryAllocation), "cudaErrorMemoryAllocation") == 0);
  EXPECT(cudaGetLastError() == cudaErrorInvalidDevice);
  EXPECT(cudaMemcpy(out.data(), dout, 4, static_cast<cudaMemcpyKind>(9)) ==
         cudaErrorInvalidMemcpyDirection);

  MUST(cudaFree(da));
  MUST(cudaFree(db));
  MUST(cudaFree(dout));
  size_t free_after = 0;
  MUST(cudaMemGetInfo(&free_after, &total));
  EXPECT(free_after > free_loaded);
  std::printf("PASSED vector_add on %s\n", prop.name);
  return 0;
}
