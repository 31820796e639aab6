// printf on the device: formats, order within a thread, and that a synchronisation brings it out.
//! cards: T4
//! prints: 3 of 3: -17 4294967279 0xff 2.500000 2.5e+00 c text % 123456789012345 003 [  7] [7  ]
//! prints: lane 31 of block 1
//! prints: second kernel
#include "check.h"

__global__ void Say(int x, double y, const char* text) {
  for (int i = 1; i <= 3; ++i) {
    if (threadIdx.x == 0 && blockIdx.x == 0 && i == 3) {
      printf("%d of 3: %d %u 0x%x %f %.1e %c %s %% %lld %03d [%3d] [%-3d]\n", i, x, x, 255, y, y, 'c', text,
             123456789012345ll, i, 7, 7);
    }
  }
  if (threadIdx.x == 31 && blockIdx.x == 1) {
    const int written = printf("lane %d of block %d\n", threadIdx.x, blockIdx.x);
    if (written != 2) printf("printf answered %d\n", written);
  }
}

__global__ void Again() { printf("second kernel\n"); }

int main() {
  char* text;
  MUST(cudaMallocManaged(&text, 5));
  for (int i = 0; i < 5; ++i) text[i] = "text"[i];
  Say<<<2, 32>>>(-17, 2.5, text);
  MUST(cudaDeviceSynchronize());
  Again<<<1, 1>>>();
  MUST(cudaDeviceSynchronize());
  size_t fifo = 0;
  MUST(cudaDeviceGetLimit(&fifo, cudaLimitPrintfFifoSize));
  EXPECT(fifo >= 1024);
  std::fflush(stdout);
  std::printf("PASSED printing\n");
  return 0;
}
