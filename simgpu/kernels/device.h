// What our kernels need of CUDA C++, declared with clang's builtins: no CUDA header is read.
#pragma once

#define SIMGPU_KERNEL extern "C" __attribute__((global)) void
#define SIMGPU_DEVICE static inline __attribute__((device))
#define SIMGPU_SHARED __attribute__((shared))

using uint32_t = unsigned int;
using uint64_t = unsigned long long;

SIMGPU_DEVICE uint32_t ThreadX() { return __nvvm_read_ptx_sreg_tid_x(); }
SIMGPU_DEVICE uint32_t ThreadY() { return __nvvm_read_ptx_sreg_tid_y(); }
SIMGPU_DEVICE uint32_t BlockX() { return __nvvm_read_ptx_sreg_ctaid_x(); }
SIMGPU_DEVICE uint32_t BlockY() { return __nvvm_read_ptx_sreg_ctaid_y(); }
SIMGPU_DEVICE uint32_t BlockSizeX() { return __nvvm_read_ptx_sreg_ntid_x(); }
SIMGPU_DEVICE uint32_t GridSizeX() { return __nvvm_read_ptx_sreg_nctaid_x(); }
SIMGPU_DEVICE uint64_t GlobalX() { return uint64_t{BlockX()} * BlockSizeX() + ThreadX(); }
SIMGPU_DEVICE uint64_t StrideX() { return uint64_t{GridSizeX()} * BlockSizeX(); }
SIMGPU_DEVICE void Sync() { __syncthreads(); }
// Nanoseconds of the card's clock.
SIMGPU_DEVICE uint64_t GlobalTimer() {
  uint64_t ns;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
  return ns;
}
