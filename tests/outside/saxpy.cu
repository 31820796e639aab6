// SAXPY over streams with page-locked memory, events, constants, symbols, pools, a host function and two-dimensional
// copies.
#include <vector>

#include "check.h"

__constant__ float scale[2];
__device__ unsigned int launches;

__global__ void Saxpy(const float* x, float* y, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i == 0) atomicAdd(&launches, 1u);
  if (i < n) y[i] = scale[0] * x[i] + y[i] + scale[1];
}

static void CUDART_CB Note(void* seen) { *static_cast<int*>(seen) += 1; }

int main() {
  const int n = 1 << 16;
  const int parts = 4;
  float *x, *y;
  MUST(cudaMallocHost(&x, n * sizeof(float)));
  MUST(cudaHostAlloc(&y, n * sizeof(float), cudaHostAllocDefault));
  for (int i = 0; i < n; ++i) {
    x[i] = i % 97;
    y[i] = i % 31;
  }
  const float constants[2] = {2.5f, -1.0f};
  MUST(cudaMemcpyToSymbol(scale, constants, sizeof constants));
  float one = 0;
  MUST(cudaMemcpyFromSymbol(&one, scale, sizeof one, sizeof one));
  EXPECT(one == -1.0f);
  EXPECT(cudaMemcpyToSymbol(scale, constants, sizeof constants, 4) == cudaErrorInvalidValue);
  EXPECT(cudaGetLastError() == cudaErrorInvalidValue);
  size_t size = 0;
  MUST(cudaGetSymbolSize(&size, scale));
  EXPECT(size == sizeof constants);

  float *dx, *dy;
  MUST(cudaMalloc(&dx, n * sizeof(float)));
  MUST(cudaMalloc(&dy, n * sizeof(float)));
  cudaEvent_t begin, end;
  MUST(cudaEventCreate(&begin));
  MUST(cudaEventCreateWithFlags(&end, cudaEventDefault));
  cudaStream_t streams[parts];
  for (auto& stream : streams) MUST(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  MUST(cudaEventRecord(begin, streams[0]));
  int notes = 0;
  for (int part = 0; part < parts; ++part) {
    const int from = part * n / parts;
    const size_t bytes = n / parts * sizeof(float);
    MUST(cudaMemcpyAsync(dx + from, x + from, bytes, cudaMemcpyHostToDevice, streams[part]));
    MUST(cudaMemcpyAsync(dy + from, y + from, bytes, cudaMemcpyHostToDevice, streams[part]));
    Saxpy<<<(n / parts + 127) / 128, 128, 0, streams[part]>>>(dx + from, dy + from, n / parts);
    MUST(cudaGetLastError());
    MUST(cudaMemcpyAsync(y + from, dy + from, bytes, cudaMemcpyDeviceToHost, streams[part]));
    MUST(cudaLaunchHostFunc(streams[part], Note, &notes));
    MUST(cudaStreamSynchronize(streams[part]));
  }
  MUST(cudaEventRecord(end, streams[0]));
  MUST(cudaStreamWaitEvent(streams[1], end, 0));
  MUST(cudaEventSynchronize(end));
  MUST(cudaDeviceSynchronize());
  EXPECT(cudaStreamQuery(streams[2]) == cudaSuccess && cudaEventQuery(end) == cudaSuccess);
  float milliseconds = -1;
  MUST(cudaEventElapsedTime(&milliseconds, begin, end));
  EXPECT(milliseconds >= 0);
  EXPECT(notes == parts);
  for (int i = 0; i < n; ++i) EXPECT(y[i] == 2.5f * (i % 97) + i % 31 - 1.0f);
  unsigned int counted = 0;
  MUST(cudaMemcpyFromSymbol(&counted, launches, sizeof counted));
  EXPECT(counted == parts);

  // A rectangle out of pitched memory.
  const int width = 100, height = 7;
  unsigned char* pitched;
  size_t pitch = 0;
  MUST(cudaMallocPitch(&pitched, &pitch, width, height));
  EXPECT(pitch >= width);
  MUST(cudaMemset2D(pitched, pitch, 0, width, height));
  std::vector<unsigned char> image(width * height), back(width * height);
  for (int i = 0; i < width * height; ++i) image[i] = static_cast<unsigned char>(i * 7);
  MUST(cudaMemcpy2D(pitched, pitch, image.data(), width, width, height, cudaMemcpyHostToDevice));
  MUST(cudaMemcpy2D(back.data(), width, pitched, pitch, width, height, cudaMemcpyDeviceToHost));
  EXPECT(image == back);
  MUST(cudaFree(pitched));

  float* pooled = nullptr;
  MUST(cudaMallocAsync(&pooled, 1 << 20, streams[0]));
  MUST(cudaMemsetAsync(pooled, 0, 1 << 20, streams[0]));
  MUST(cudaFreeAsync(pooled, streams[0]));
  MUST(cudaStreamSynchronize(streams[0]));

  for (auto& stream : streams) MUST(cudaStreamDestroy(stream));
  MUST(cudaEventDestroy(begin));
  MUST(cudaEventDestroy(end));
  MUST(cudaFreeHost(x));
  MUST(cudaFreeHost(y));
  MUST(cudaFree(dx));
  MUST(cudaFree(dy));
  std::printf("PASSED saxpy\n");
  return 0;
}
