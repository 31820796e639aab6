// Tiled matrix product of a size that is no multiple of the tile, checked against the host.
#include <vector>

#include "check.h"

constexpr int kTile = 16;

__global__ void Multiply(const float* a, const float* b, float* c, int n) {
  __shared__ float as[kTile][kTile];
  __shared__ float bs[kTile][kTile];
  const int row = blockIdx.y * kTile + threadIdx.y;
  const int column = blockIdx.x * kTile + threadIdx.x;
  float sum = 0;
  for (int k = 0; k < n; k += kTile) {
    as[threadIdx.y][threadIdx.x] = row < n && k + threadIdx.x < n ? a[row * n + k + threadIdx.x] : 0.0f;
    bs[threadIdx.y][threadIdx.x] = column < n && k + threadIdx.y < n ? b[(k + threadIdx.y) * n + column] : 0.0f;
    __syncthreads();
    for (int i = 0; i < kTile; ++i) sum += as[threadIdx.y][i] * bs[i][threadIdx.x];
    __syncthreads();
  }
  if (row < n && column < n) c[row * n + column] = sum;
}

int main() {
  const int n = 90;
  std::vector<float> a(n * n), b(n * n), c(n * n);
  for (int i = 0; i < n * n; ++i) {
    a[i] = static_cast<float>(i % 13) - 6;
    b[i] = static_cast<float>(i % 7) * 0.25f;
  }
  float *da, *db, *dc;
  MUST(cudaMalloc(&da, a.size() * sizeof(float)));
  MUST(cudaMalloc(&db, b.size() * sizeof(float)));
  MUST(cudaMalloc(&dc, c.size() * sizeof(float)));
  MUST(cudaMemcpy(da, a.data(), a.size() * sizeof(float), cudaMemcpyHostToDevice));
  MUST(cudaMemcpy(db, b.data(), b.size() * sizeof(float), cudaMemcpyHostToDevice));
  const int tiles = (n + kTile - 1) / kTile;
  Multiply<<<dim3(tiles, tiles), dim3(kTile, kTile)>>>(da, db, dc, n);
  MUST(cudaGetLastError());
  MUST(cudaMemcpy(c.data(), dc, c.size() * sizeof(float), cudaMemcpyDeviceToHost));
  for (int row = 0; row < n; ++row) {
    for (int column = 0; column < n; ++column) {
      double sum = 0;
      for (int k = 0; k < n; ++k) sum += static_cast<double>(a[row * n + k]) * b[k * n + column];
      EXPECT(Near(c[row * n + column], sum));
    }
  }
  MUST(cudaDeviceReset());
  // The runtime starts anew after a reset.
  MUST(cudaMalloc(&da, 16));
  MUST(cudaMemset(da, 0, 16));
  Multiply<<<1, dim3(kTile, kTile)>>>(da, da, da, 1);
  MUST(cudaDeviceSynchronize());
  MUST(cudaFree(da));
  std::printf("PASSED matmul\n");
  return 0;
}
