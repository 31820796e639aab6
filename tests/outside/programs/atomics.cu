// Atomic operations on global and shared memory, of every width and kind, under contention.
//! cards: T4
#include <climits>
#include <vector>

#include "check.h"

struct Totals {
  int add, low, high;
  unsigned int inc, dec, bits_or, bits_and, bits_xor;
  unsigned long long wide_add, wide_max;
  float single;
  double real;
  int exchanged;
  unsigned int spun;  // by compare and swap
  unsigned short narrow, pad;
};

__global__ void Gather(Totals* t, unsigned char* seen, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  atomicAdd(&t->add, i);
  atomicSub(&t->add, 1);
  atomicMin(&t->low, -i);
  atomicMax(&t->high, i * 3);
  atomicInc(&t->inc, 99u);
  atomicDec(&t->dec, 99u);
  atomicOr(&t->bits_or, 1u << (i % 32));
  atomicAnd(&t->bits_and, ~(1u << (i % 7)));
  atomicXor(&t->bits_xor, static_cast<unsigned int>(i));
  atomicAdd(&t->wide_add, 1ull << 33);
  atomicMax(&t->wide_max, static_cast<unsigned long long>(i) << 34);
  atomicAdd(&t->single, 0.5f);
  atomicAdd(&t->real, 0.25);
  unsigned int old = t->spun;
  for (;;) {
    const unsigned int was = atomicCAS(&t->spun, old, old + 2);
    if (was == old) break;
    old = was;
  }
  unsigned short narrow = t->narrow;
  for (;;) {
    const unsigned short was = atomicCAS(&t->narrow, narrow, static_cast<unsigned short>(narrow + 1));
    if (was == narrow) break;
    narrow = was;
  }
  // Every thread puts its own number in and takes another's out: none is lost, none comes twice.
  const int out = atomicExch(&t->exchanged, i);
  if (out >= 0) seen[out] = 1;
}

__global__ void Histogram(const unsigned char* in, unsigned int* out, int n) {
  __shared__ unsigned int counts[256];
  for (int i = threadIdx.x; i < 256; i += blockDim.x) counts[i] = 0;
  __syncthreads();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    atomicAdd(&counts[in[i]], 1u);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < 256; i += blockDim.x) atomicAdd(&out[i], counts[i]);
}

// The last block to finish knows that it is the last.
__device__ unsigned int finished;
__global__ void LastBlock(int* sums, int* total) {
  __shared__ bool last;
  if (threadIdx.x == 0) {
    sums[blockIdx.x] = blockIdx.x + 1;
    __threadfence();
    last = atomicInc(&finished, gridDim.x - 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (last && threadIdx.x == 0) {
    int sum = 0;
    for (int i = 0; i < gridDim.x; ++i) sum += static_cast<volatile int*>(sums)[i];
    *total = sum;
  }
}

int main() {
  const int n = 1000;
  Totals start = {};
  start.bits_and = UINT_MAX;
  start.exchanged = -1;
  Totals* t;
  unsigned char* seen;
  MUST(cudaMalloc(&t, sizeof *t));
  MUST(cudaMalloc(&seen, n));
  MUST(cudaMemcpy(t, &start, sizeof start, cudaMemcpyHostToDevice));
  MUST(cudaMemset(seen, 0, n));
  Gather<<<8, 128>>>(t, seen, n);
  MUST(cudaGetLastError());
  Totals end;
  MUST(cudaMemcpy(&end, t, sizeof end, cudaMemcpyDeviceToHost));
  EXPECT(end.add == n * (n - 1) / 2 - n);
  EXPECT(end.low == -(n - 1) && end.high == (n - 1) * 3);
  EXPECT(end.inc == n % 100);
  EXPECT(end.dec == 0);
  EXPECT(end.bits_or == UINT_MAX && end.bits_and == (UINT_MAX & ~0x7fu));
  unsigned int bits_xor = 0;
  for (int i = 0; i < n; ++i) bits_xor ^= static_cast<unsigned int>(i);
  EXPECT(end.bits_xor == bits_xor);
  EXPECT(end.wide_add == n * (1ull << 33) && end.wide_max == (static_cast<unsigned long long>(n - 1) << 34));
  EXPECT(end.single == n * 0.5f && end.real == n * 0.25);
  EXPECT(end.spun == 2u * n && end.narrow == n);
  std::vector<unsigned char> came(n);
  MUST(cudaMemcpy(came.data(), seen, n, cudaMemcpyDeviceToHost));
  came[end.exchanged] = 1;
  for (int i = 0; i < n; ++i) EXPECT(came[i] == 1);

  const int bytes = 50'000;
  std::vector<unsigned char> text(bytes);
  std::vector<unsigned int> expected(256), counts(256);
  for (int i = 0; i < bytes; ++i) {
    text[i] = static_cast<unsigned char>(i * i / 7);
    ++expected[text[i]];
  }
  unsigned char* dtext;
  unsigned int* dcounts;
  MUST(cudaMalloc(&dtext, bytes));
  MUST(cudaMalloc(&dcounts, 256 * sizeof(unsigned int)));
  MUST(cudaMemcpy(dtext, text.data(), bytes, cudaMemcpyHostToDevice));
  MUST(cudaMemset(dcounts, 0, 256 * sizeof(unsigned int)));
  Histogram<<<6, 256>>>(dtext, dcounts, bytes);
  MUST(cudaMemcpy(counts.data(), dcounts, 256 * sizeof(unsigned int), cudaMemcpyDeviceToHost));
  EXPECT(counts == expected);

  int *sums, *total;
  MUST(cudaMalloc(&sums, 64 * sizeof(int)));
  MUST(cudaMalloc(&total, sizeof(int)));
  for (int round = 0; round < 3; ++round) {
    LastBlock<<<64, 32>>>(sums, total);
    int sum = 0;
    MUST(cudaMemcpy(&sum, total, sizeof sum, cudaMemcpyDeviceToHost));
    EXPECT(sum == 64 * 65 / 2);
  }
  std::printf("PASSED atomics\n");
  return 0;
}
