// The words our test kernels use, for nvcc and for clang without any CUDA header.
#pragma once

#if defined(__NVCC__)
#define KERNEL extern "C" __global__ void
#define DEVICE static __device__
#define SHARED __shared__
#define CONSTANT __constant__
#define MANAGED __managed__
#define NOINLINE __noinline__
#define DEVICE_METHOD __device__
#define BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)
#else
#define KERNEL extern "C" __attribute__((global)) void
#define DEVICE static __attribute__((device))
#define SHARED __attribute__((shared))
#define CONSTANT __attribute__((constant))
#define MANAGED __attribute__((device))
#define NOINLINE __attribute__((noinline))
#define DEVICE_METHOD __attribute__((device))
#define BOUNDS(threads, blocks) __attribute__((launch_bounds(threads, blocks)))
extern "C" __attribute__((device)) void* malloc(unsigned long);
extern "C" __attribute__((device)) void free(void*);
#endif

using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;

#define SPECIAL(name, text)                                \
  DEVICE inline u32 name() {                               \
    u32 value;                                             \
    asm volatile("mov.u32 %0, %%" text ";" : "=r"(value)); \
    return value;                                          \
  }
SPECIAL(Thread, "tid.x")
SPECIAL(Block, "ctaid.x")
SPECIAL(Threads, "ntid.x")
SPECIAL(Lane, "laneid")
#undef SPECIAL
DEVICE inline u32 Global() { return Block() * Threads() + Thread(); }
DEVICE inline void Sync() { asm volatile("bar.sync 0;" ::: "memory"); }
DEVICE inline u32 SharedAddress(const void* p) {
  u64 address;
  asm("cvta.to.shared.u64 %0, %1;" : "=l"(address) : "l"(p));
  return static_cast<u32>(address);
}
