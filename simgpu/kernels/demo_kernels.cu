// The kernels that Tessera's demos and tests launch. Plain enough to be checked against a loop on
// the CPU.
#include "device.h"

SIMGPU_KERNEL vector_add(const float* a, const float* b, float* c, uint64_t n) {
  for (uint64_t i = GlobalX(); i < n; i += StrideX()) c[i] = a[i] + b[i];
}

// y = alpha * x + y
SIMGPU_KERNEL saxpy(float alpha, const float* x, float* y, uint64_t n) {
  for (uint64_t i = GlobalX(); i < n; i += StrideX()) y[i] = alpha * x[i] + y[i];
}

// Adds the sum of `in` to *out: warp shuffles first, shared memory between the warps. Blocks of up
// to 1024 threads.
SIMGPU_KERNEL reduce_sum(const float* in, float* out, uint64_t n) {
  SIMGPU_SHARED static float partial[32];
  float sum = 0;
  for (uint64_t i = GlobalX(); i < n; i += StrideX()) sum += in[i];
  for (int offset = 16; offset > 0; offset /= 2)
    sum += __nvvm_shfl_sync_down_f32(0xffffffffu, sum, offset, 31);
  const uint32_t lane = ThreadX() % 32;
  const uint32_t warp = ThreadX() / 32;
  if (lane == 0) partial[warp] = sum;
  Sync();
  if (warp == 0) {
    sum = lane < (BlockSizeX() + 31) / 32 ? partial[lane] : 0.0f;
    for (int offset = 16; offset > 0; offset /= 2)
      sum += __nvvm_shfl_sync_down_f32(0xffffffffu, sum, offset, 31);
    if (lane == 0) __nvvm_atom_add_gen_f(out, sum);
  }
}

// c = a * b for row-major n x n matrices; blocks of 16 x 16 threads, any n.
SIMGPU_KERNEL matmul_tiled(const float* a, const float* b, float* c, uint32_t n) {
  SIMGPU_SHARED static float tile_a[16][16];
  SIMGPU_SHARED static float tile_b[16][16];
  const uint32_t tx = ThreadX(), ty = ThreadY();
  const uint32_t row = BlockY() * 16 + ty, column = BlockX() * 16 + tx;
  float sum = 0;
  for (uint32_t k = 0; k < n; k += 16) {
    tile_a[ty][tx] = row < n && k + tx < n ? a[uint64_t{row} * n + k + tx] : 0.0f;
    tile_b[ty][tx] = k + ty < n && column < n ? b[uint64_t{k + ty} * n + column] : 0.0f;
    Sync();
    for (uint32_t i = 0; i < 16; ++i) sum += tile_a[ty][i] * tile_b[i][tx];
    Sync();
  }
  if (row < n && column < n) c[uint64_t{row} * n + column] = sum;
}

// Counts byte values into 256 bins: a block's own bins in shared memory first, then one atomic a
// bin.
SIMGPU_KERNEL histogram256(const unsigned char* in, uint32_t* bins, uint64_t n) {
  SIMGPU_SHARED static uint32_t local[256];
  for (uint32_t i = ThreadX(); i < 256; i += BlockSizeX()) local[i] = 0;
  Sync();
  for (uint64_t i = GlobalX(); i < n; i += StrideX())
    __nvvm_atom_add_gen_i(reinterpret_cast<int*>(&local[in[i]]), 1);
  Sync();
  for (uint32_t i = ThreadX(); i < 256; i += BlockSizeX()) {
    if (local[i] != 0)
      __nvvm_atom_add_gen_i(reinterpret_cast<int*>(&bins[i]), static_cast<int>(local[i]));
  }
}

// The word that belongs at position i of a buffer filled with `seed` (a 64-bit finaliser, so
// neighbours differ).
SIMGPU_DEVICE uint64_t Pattern(uint64_t i, uint64_t seed) {
  uint64_t x = i + seed * 0x9e3779b97f4a7c15ull;
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdull;
  x ^= x >> 33;
  return x;
}

// Writes the pattern to every `step`-th word of data[0..n).
SIMGPU_KERNEL fill_pattern(uint64_t* data, uint64_t n, uint64_t step, uint64_t seed) {
  for (uint64_t i = GlobalX() * step; i < n; i += StrideX() * step) data[i] = Pattern(i, seed);
}

// Compares those words; adds their number to result[0], the wrong ones to result[1], xor of all to
// result[2].
SIMGPU_KERNEL check_pattern(const uint64_t* data, uint64_t n, uint64_t step, uint64_t seed,
                            uint64_t* result) {
  uint64_t seen = 0, wrong = 0, sum = 0;
  for (uint64_t i = GlobalX() * step; i < n; i += StrideX() * step) {
    const uint64_t value = data[i];
    ++seen;
    wrong += value != Pattern(i, seed);
    sum ^= value;
  }
  __nvvm_atom_add_gen_ll(reinterpret_cast<long long*>(&result[0]), static_cast<long long>(seen));
  if (wrong != 0)
    __nvvm_atom_add_gen_ll(reinterpret_cast<long long*>(&result[1]), static_cast<long long>(wrong));
  __nvvm_atom_xor_gen_ll(reinterpret_cast<long long*>(&result[2]), static_cast<long long>(sum));
}

// Keeps every thread busy for `iterations` steps of a generator; out[global thread] proves that it
// ran.
SIMGPU_KERNEL busy(uint32_t* out, uint64_t iterations) {
  uint32_t x = static_cast<uint32_t>(GlobalX()) + 1;
  for (uint64_t i = 0; i < iterations; ++i) x = x * 1664525u + 1013904223u;
  out[GlobalX()] = x;
}

// 0 on a real card; the simulated one makes it 1 when it loads the module.
extern "C" __attribute__((device)) uint32_t simgpu_present = 0;

// Waits until `ns` have passed. A simulated card lets that time pass by itself: it reads the pragma
// of the kernels below, which a real card's assembler ignores, so waiting here too would double it.
SIMGPU_DEVICE void Take(uint64_t ns) {
  if (*static_cast<volatile uint32_t*>(&simgpu_present) != 0) return;
  const uint64_t start = GlobalTimer();
  while (GlobalTimer() - start < ns) {
  }
}

// Occupies the card for `ns`.
SIMGPU_KERNEL busy_ns(uint64_t ns) {
  asm volatile(".pragma \"simgpu.time_ns param0\";");
  Take(ns);
}

// Occupies the card for `ns` and adds 1 to every word of data[0..n), which proves that it ran once.
SIMGPU_KERNEL busy_touch(uint64_t ns, uint32_t* data, uint64_t n) {
  asm volatile(".pragma \"simgpu.time_ns param0\";");
  for (uint64_t i = GlobalX(); i < n; i += StrideX()) data[i] += 1;
  Take(ns);
}
