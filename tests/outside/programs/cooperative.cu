// All blocks of a grid meet: cooperative launch and grid-wide synchronisation.
//! cards: T4
#include <cooperative_groups.h>

#include <vector>

#include "check.h"

namespace cg = cooperative_groups;

// A prefix sum over the whole grid, in steps that need every block's last one.
__global__ void Scan(int* a, int* b, int n, int** result) {
  const cg::grid_group grid = cg::this_grid();
  int* from = a;
  int* to = b;
  for (int step = 1; step < n; step *= 2) {
    for (int i = grid.thread_rank(); i < n; i += grid.size()) to[i] = from[i] + (i >= step ? from[i - step] : 0);
    grid.sync();
    int* const swap = from;
    from = to;
    to = swap;
  }
  if (grid.thread_rank() == 0) *result = from;
}

int main() {
  int can = 0;
  MUST(cudaDeviceGetAttribute(&can, cudaDevAttrCooperativeLaunch, 0));
  EXPECT(can == 1);
  int per_sm = 0, sms = 0;
  MUST(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, Scan, 64, 0));
  MUST(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0));
  EXPECT(per_sm >= 1);
  int n = 3000;
  std::vector<int> in(n), out(n);
  for (int i = 0; i < n; ++i) in[i] = i % 13 - 4;
  int *a, *b, **result;
  MUST(cudaMalloc(&a, n * sizeof(int)));
  MUST(cudaMalloc(&b, n * sizeof(int)));
  MUST(cudaMalloc(&result, sizeof(int*)));
  MUST(cudaMemcpy(a, in.data(), n * sizeof(int), cudaMemcpyHostToDevice));
  void* arguments[] = {&a, &b, &n, &result};
  MUST(cudaLaunchCooperativeKernel(reinterpret_cast<void*>(Scan), dim3(16), dim3(64), arguments, 0, nullptr));
  int* where = nullptr;
  MUST(cudaMemcpy(&where, result, sizeof where, cudaMemcpyDeviceToHost));
  MUST(cudaMemcpy(out.data(), where, n * sizeof(int), cudaMemcpyDeviceToHost));
  int sum = 0;
  for (int i = 0; i < n; ++i) {
    sum += in[i];
    EXPECT(out[i] == sum);
  }

  // By attribute too, in the extended form of a launch.
  MUST(cudaMemcpy(a, in.data(), n * sizeof(int), cudaMemcpyHostToDevice));
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(8);
  config.blockDim = dim3(96);
  config.attrs = &attribute;
  config.numAttrs = 1;
  MUST(cudaLaunchKernelEx(&config, Scan, a, b, n, result));
  MUST(cudaMemcpy(&where, result, sizeof where, cudaMemcpyDeviceToHost));
  MUST(cudaMemcpy(out.data(), where, n * sizeof(int), cudaMemcpyDeviceToHost));
  EXPECT(out[n - 1] == sum);

  // More blocks than can be on the card at once cannot meet.
  EXPECT(cudaLaunchCooperativeKernel(reinterpret_cast<void*>(Scan), dim3(per_sm * sms + 1), dim3(64), arguments, 0,
                                     nullptr) == cudaErrorCooperativeLaunchTooLarge);
  EXPECT(cudaGetLastError() == cudaErrorCooperativeLaunchTooLarge);
  std::printf("PASSED cooperative\n");
  return 0;
}
