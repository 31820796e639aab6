// A fault stays until the device is reset; after that everything works again, in every thread.
//! cards: T4,T4
//! complains-about: simgpu: illegal .*
#include <thread>

#include "check.h"

__global__ void Store(int* out, int value) { out[threadIdx.x] = value; }

static void Works(int value) {
  int* data;
  MUST(cudaMalloc(&data, 32 * sizeof(int)));
  Store<<<1, 32>>>(data, value);
  int back = 0;
  MUST(cudaMemcpy(&back, data + 31, sizeof back, cudaMemcpyDeviceToHost));
  EXPECT(back == value);
  MUST(cudaFree(data));
}

int main() {
  Works(1);
  // One card's fault is nothing to the other.
  Store<<<1, 1>>>(reinterpret_cast<int*>(0x1000), 1);
  EXPECT(cudaDeviceSynchronize() == cudaErrorIllegalAddress);
  MUST(cudaSetDevice(1));
  std::thread([] {
    MUST(cudaSetDevice(1));
    Works(2);
  }).join();
  std::thread([] {
    void* data = nullptr;
    EXPECT(cudaMalloc(&data, 16) == cudaErrorIllegalAddress);
    EXPECT(cudaGetLastError() == cudaErrorIllegalAddress);
  }).join();
  MUST(cudaSetDevice(0));
  EXPECT(cudaGetLastError() == cudaErrorIllegalAddress);
  cudaStream_t stream;
  EXPECT(cudaStreamCreate(&stream) == cudaErrorIllegalAddress);
  size_t free_before = 0, free_after = 0, total = 0;
  MUST(cudaDeviceReset());
  EXPECT(cudaGetLastError() == cudaSuccess);
  Works(3);
  MUST(cudaMemGetInfo(&free_before, &total));
  // A reset frees what the program did not.
  void* lost = nullptr;
  MUST(cudaMalloc(&lost, 64 << 20));
  MUST(cudaDeviceReset());
  MUST(cudaFree(nullptr));
  Works(4);
  MUST(cudaMemGetInfo(&free_after, &total));
  EXPECT(free_after == free_before);
  std::thread([] { Works(5); }).join();
  MUST(cudaSetDevice(1));
  Works(6);
  std::printf("PASSED recovery\n");
  return 0;
}
