// Stream-ordered memory: the device's pool and pools of the program's own, their figures, reuse and trimming.
//! cards: T4
#include <vector>

#include "check.h"

__global__ void Fill(int* out, int value, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) out[i] = value;
}

static unsigned long long Figure(cudaMemPool_t pool, cudaMemPoolAttr attribute) {
  unsigned long long value = 0;
  MUST(cudaMemPoolGetAttribute(pool, attribute, &value));
  return value;
}

int main() {
  int supported = 0;
  MUST(cudaDeviceGetAttribute(&supported, cudaDevAttrMemoryPoolsSupported, 0));
  EXPECT(supported == 1);
  cudaStream_t stream, other;
  MUST(cudaStreamCreate(&stream));
  MUST(cudaStreamCreate(&other));

  cudaMemPoolProps props = {};
  props.allocType = cudaMemAllocationTypePinned;
  props.location.type = cudaMemLocationTypeDevice;
  props.location.id = 0;
  cudaMemPool_t pool, usual, now;
  MUST(cudaMemPoolCreate(&pool, &props));
  MUST(cudaDeviceGetDefaultMemPool(&usual, 0));
  MUST(cudaDeviceGetMemPool(&now, 0));
  EXPECT(pool != usual && now == usual);
  unsigned long long keep = ~0ull;
  MUST(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep));
  EXPECT(Figure(pool, cudaMemPoolAttrReleaseThreshold) == keep);
  EXPECT(Figure(pool, cudaMemPoolAttrUsedMemCurrent) == 0);

  const int n = 1 << 18;
  const size_t bytes = n * sizeof(int);
  int *a, *b;
  MUST(cudaMallocFromPoolAsync(&a, bytes, pool, stream));
  MUST(cudaMallocFromPoolAsync(&b, bytes, pool, stream));
  EXPECT(a != b);
  EXPECT(Figure(pool, cudaMemPoolAttrUsedMemCurrent) >= 2 * bytes);
  EXPECT(Figure(pool, cudaMemPoolAttrReservedMemCurrent) >= Figure(pool, cudaMemPoolAttrUsedMemCurrent));
  Fill<<<8, 128, 0, stream>>>(a, 7, n);
  MUST(cudaMemcpyAsync(b, a, bytes, cudaMemcpyDeviceToDevice, stream));
  std::vector<int> back(n);
  MUST(cudaMemcpyAsync(back.data(), b, bytes, cudaMemcpyDeviceToHost, stream));
  MUST(cudaFreeAsync(a, stream));
  MUST(cudaStreamSynchronize(stream));
  for (int i = 0; i < n; ++i) EXPECT(back[i] == 7);

  // What the pool kept serves again without a new reservation.
  const unsigned long long reserved = Figure(pool, cudaMemPoolAttrReservedMemCurrent);
  MUST(cudaMallocFromPoolAsync(&a, bytes, pool, stream));
  MUST(cudaStreamSynchronize(stream));
  EXPECT(Figure(pool, cudaMemPoolAttrReservedMemCurrent) == reserved);

  // Memory freed in one stream is used in another after an event.
  cudaEvent_t freed;
  MUST(cudaEventCreateWithFlags(&freed, cudaEventDisableTiming));
  MUST(cudaFreeAsync(a, stream));
  MUST(cudaEventRecord(freed, stream));
  MUST(cudaStreamWaitEvent(other, freed, 0));
  int* c;
  MUST(cudaMallocFromPoolAsync(&c, bytes, pool, other));
  Fill<<<8, 128, 0, other>>>(c, 11, n);
  int one = 0;
  MUST(cudaMemcpyAsync(&one, c + n - 1, sizeof one, cudaMemcpyDeviceToHost, other));
  MUST(cudaFreeAsync(c, other));
  MUST(cudaFreeAsync(b, other));
  MUST(cudaStreamSynchronize(other));
  EXPECT(one == 11);
  EXPECT(Figure(pool, cudaMemPoolAttrUsedMemCurrent) == 0);
  EXPECT(Figure(pool, cudaMemPoolAttrUsedMemHigh) >= 2 * bytes);
  size_t free_before = 0, free_after = 0, total = 0;
  MUST(cudaMemGetInfo(&free_before, &total));
  MUST(cudaMemPoolTrimTo(pool, 0));
  MUST(cudaMemGetInfo(&free_after, &total));
  EXPECT(Figure(pool, cudaMemPoolAttrReservedMemCurrent) == 0 && free_after > free_before);
  unsigned long long zero = 0;
  MUST(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrUsedMemHigh, &zero));
  EXPECT(Figure(pool, cudaMemPoolAttrUsedMemHigh) == 0);

  // The pool becomes the device's; plain cudaMallocAsync takes from it, cudaFree may give back.
  MUST(cudaDeviceSetMemPool(0, pool));
  MUST(cudaMallocAsync(&a, 1 << 20, stream));
  EXPECT(Figure(pool, cudaMemPoolAttrUsedMemCurrent) >= 1 << 20);
  cudaPointerAttributes attributes;
  MUST(cudaPointerGetAttributes(&attributes, a));
  EXPECT(attributes.type == cudaMemoryTypeDevice && attributes.device == 0);
  MUST(cudaStreamSynchronize(stream));
  MUST(cudaFree(a));
  EXPECT(Figure(pool, cudaMemPoolAttrUsedMemCurrent) == 0);
  MUST(cudaDeviceSetMemPool(0, usual));
  MUST(cudaMemPoolDestroy(pool));

  int* huge = nullptr;
  EXPECT(cudaMallocAsync(&huge, total + (1 << 20), stream) == cudaErrorMemoryAllocation);
  EXPECT(cudaGetLastError() == cudaErrorMemoryAllocation);
  std::printf("PASSED pools\n");
  return 0;
}
