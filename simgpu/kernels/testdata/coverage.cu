// What compilers make of the parts of the language that the demo kernels do not touch. Compiled by
// nvcc 13.0 for three targets (coverage_nvcc_*.ptx) and by clang when the tests are built.
#include "portable.h"

// ---- calls through pointers ----

struct Shape {
  DEVICE_METHOD virtual u32 Area() const = 0;
  DEVICE_METHOD virtual u32 Corners() const { return 0; }
};
struct Square : Shape {
  DEVICE_METHOD explicit Square(u32 side) : side(side) {}
  DEVICE_METHOD u32 Area() const override { return side * side; }
  DEVICE_METHOD u32 Corners() const override { return 4; }
  u32 side;
};
struct Strip : Shape {
  DEVICE_METHOD explicit Strip(u32 length) : length(length) {}
  DEVICE_METHOD u32 Area() const override { return 3 * length; }
  u32 length;
};
DEVICE_METHOD inline void* operator new(decltype(sizeof 0), Shape* place) { return place; }
DEVICE_METHOD inline void operator delete(void*, Shape*) {}

KERNEL virtual_calls(u32* out) {
  alignas(16) unsigned char place[32];
  Shape* shape = reinterpret_cast<Shape*>(place);
  if (Thread() % 3 == 0) {
    shape = new (shape) Square(Thread());
  } else {
    shape = new (shape) Strip(Thread());
  }
  out[Thread()] = shape->Area() * 10 + shape->Corners();
}

using Step = u32 (*)(u32, u32);
DEVICE NOINLINE u32 Plus(u32 a, u32 b) { return a + b; }
DEVICE NOINLINE u32 Times(u32 a, u32 b) { return a * b; }
DEVICE NOINLINE u32 Minus(u32 a, u32 b) { return a - b; }
DEVICE Step steps[4] = {Plus, Times, Minus, nullptr};

KERNEL function_pointers(u32* out, u32 bad) {
  const u32 t = Thread();
  out[t] = steps[bad ? 3 : t % 3](t, 7);
}

// ---- memory of the module ----

MANAGED u32 managed_words[4] = {10, 20, 30, 40};
CONSTANT u32 constant_words[4] = {3, 5, 7, 11};
DEVICE u32 counter = 100;

KERNEL BOUNDS(128, 2) module_memory(u32* out, const u32* indices) {
  const u32 t = Thread();
  out[t] = managed_words[indices[t] & 3] + constant_words[indices[t] & 3];
  if (t == 0) {
    managed_words[1] = 77;
    counter += 1;
    out[128] = counter;
  }
}

KERNEL heap(u32* out) {
  u32* p = static_cast<u32*>(malloc(64));
  asm volatile("" : "+l"(p)::"memory");  // So that no compiler makes do without the heap.
  if (p == nullptr) {
    out[Thread()] = 0xffffffff;
    return;
  }
  for (u32 i = 0; i < 16; ++i) p[i] = Thread() + i;
  u32 sum = 0;
  for (u32 i = 0; i < 16; ++i) sum += p[i];
  out[Thread()] = sum;
  free(p);
}

// ---- loads and stores in all their forms ----

KERNEL memory_forms(const u32* in, u32* out) {
  const u32 t = Thread();
  const u32* from = in + t * 4;
  u32* to = out + t * 16;
  u32 a, b, c, d;
  asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(a), "=r"(b), "=r"(c), "=r"(d)
               : "l"(from));
  asm volatile("st.global.cg.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(a), "r"(b) : "memory");
  asm volatile("st.global.wt.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to + 4), "r"(d), "r"(c), "r"(b),
               "r"(a)
               : "memory");
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(a) : "l"(from));
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(b) : "l"(from + 1));
  asm volatile("ld.volatile.u32 %0, [%1];" : "=r"(c) : "l"(from + 2));
  asm volatile("ld.global.L1::no_allocate.L2::128B.u32 %0, [%1];" : "=r"(d) : "l"(from + 3));
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(to + 8), "r"(a + b + c + d) : "memory");
  asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
  asm volatile("membar.gl; fence.acq_rel.sys; fence.sc.gpu; membar.cta;" ::: "memory");
  asm volatile("red.relaxed.gpu.global.add.u32 [%0], %1;" ::"l"(out + 1024), "r"(t) : "memory");
  asm volatile("atom.acq_rel.gpu.global.max.s32 %0, [%1], %2;"
               : "=r"(a)
               : "l"(out + 1025), "r"(t)
               : "memory");
  u64 wide;
  asm volatile("atom.global.cas.b64 %0, [%1], %2, %3;"
               : "=l"(wide)
               : "l"(out + 1026), "l"(u64{0}), "l"(u64{t} << 32 | 5)
               : "memory");
  to[9] = static_cast<u32>(wide >> 32);
}

// A maximum of doubles, which no instruction does: the loop around compare-and-swap.
KERNEL double_maximum(const double* in, double* out) {
  const u64 mine = __builtin_bit_cast(u64, in[Global()]);
  u64 seen = *reinterpret_cast<volatile u64*>(out);
  while (__builtin_bit_cast(double, seen) < __builtin_bit_cast(double, mine)) {
    u64 was;
    asm volatile("atom.global.cas.b64 %0, [%1], %2, %3;"
                 : "=l"(was)
                 : "l"(out), "l"(seen), "l"(mine)
                 : "memory");
    if (was == seen) break;
    seen = was;
  }
}

// ---- halves ----

KERNEL halves(const u32* in, u32* out) {
  const u32 t = Thread();
  const u32 x = in[3 * t], y = in[3 * t + 1], z = in[3 * t + 2];
  u32* to = out + 8 * t;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(to[0]) : "r"(x), "r"(y), "r"(z));
  asm("add.f16x2 %0, %1, %2;" : "=r"(to[1]) : "r"(x), "r"(y));
  asm("mul.f16x2 %0, %1, %2;" : "=r"(to[2]) : "r"(x), "r"(y));
  asm("{.reg .f16 l, h; .reg .f32 a, b; mov.b32 {l, h}, %1; cvt.f32.f16 a, l; cvt.f32.f16 b, h;"
      "add.f32 a, a, b; mov.b32 %0, a;}"
      : "=r"(to[3])
      : "r"(x));
  asm volatile("red.global.add.noftz.f16x2 [%0], %1;" ::"l"(out + 512), "r"(x) : "memory");
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(to[4]) : "r"(x), "r"(y), "r"(z));
  asm("max.f16x2 %0, %1, %2;" : "=r"(to[5]) : "r"(x), "r"(y));
  asm("min.NaN.bf16x2 %0, %1, %2;" : "=r"(to[6]) : "r"(x), "r"(y));
  asm("{.reg .f32 a, b; mov.b32 a, %1; mov.b32 b, %2; cvt.rn.bf16x2.f32 %0, a, b;}"
      : "=r"(to[7])
      : "r"(x), "r"(y));
#endif
}

// ---- across a warp ----

KERNEL warp_forms(const u32* in, u32* out) {
  const u32 t = Thread();
  const u32 value = in[t];
  u32* to = out + 6 * t;
  asm volatile("match.any.sync.b32 %0, %1, 0xffffffff;" : "=r"(to[0]) : "r"(value));
  asm volatile("{.reg .pred p; setp.gt.u32 p, %1, 3; vote.sync.ballot.b32 %0, p, 0xffffffff;}"
               : "=r"(to[1])
               : "r"(value));
  asm volatile("shfl.sync.bfly.b32 %0, %1, 5, 31, 0xffffffff;" : "=r"(to[2]) : "r"(value));
  if (t % 2 == 0) {
    asm volatile("activemask.b32 %0;" : "=r"(to[3]));
  } else {
    to[3] = 0;
  }
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm volatile("redux.sync.add.u32 %0, %1, 0xffffffff;" : "=r"(to[4]) : "r"(value));
  asm volatile("redux.sync.min.s32 %0, %1, 0xffffffff;" : "=r"(to[5]) : "r"(value));
#endif
}

// ---- asynchronous copies ----

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
KERNEL BOUNDS(64, 1) async_copies(const u32* in, u32* out) {
  SHARED static u32 tile[64 * 4] __attribute__((aligned(16)));
  SHARED static u64 barrier;
  const u32 t = Thread();
  const u32 at = SharedAddress(tile + 4 * t);
  const u32 meet = SharedAddress(&barrier);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(in + 4 * t) : "memory");
  asm volatile("cp.async.commit_group;" ::: "memory");
  asm volatile("cp.async.wait_group 0;" ::: "memory");
  Sync();
  out[t] = tile[(4 * t + 7) % 256];
  Sync();
  // The source ends early: the rest of the four bytes, or of the eight, is zeros.
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(at), "l"(in + 4 * t),
               "r"(t % 2 ? 4u : 8u)
               : "memory");
  asm volatile("cp.async.wait_all;" ::: "memory");
  Sync();
  out[64 + t] = tile[4 * t] + tile[4 * t + 1];
  if (t == 0) asm volatile("mbarrier.init.shared.b64 [%0], 64;" ::"r"(meet) : "memory");
  Sync();
  for (u32 round = 0; round < 3; ++round) {
    tile[t] = t + round;
    u64 state;
    asm volatile("mbarrier.arrive.shared.b64 %0, [%1];" : "=l"(state) : "r"(meet) : "memory");
    u32 over = 0;
    while (over == 0) {
      asm volatile(
          "{.reg .pred p; mbarrier.test_wait.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
          : "=r"(over)
          : "r"(meet), "l"(state)
          : "memory");
    }
    out[128 + 64 * round + t] = tile[63 - t];
    Sync();
  }
}
#endif

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
KERNEL BOUNDS(32, 1) bulk_copy(const u32* in, u32* out) {
  SHARED static u32 tile[128] __attribute__((aligned(16)));
  SHARED static u64 barrier;
  const u32 t = Thread();
  const u32 meet = SharedAddress(&barrier);
  if (t == 0) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(meet) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 512;" ::"r"(meet) : "memory");
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], 512, "
        "[%2];" ::"r"(SharedAddress(tile)),
        "l"(in), "r"(meet)
        : "memory");
  }
  Sync();
  u32 over = 0;
  while (over == 0) {
    asm volatile(
        "{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], 0;"
        "selp.u32 %0, 1, 0, p;}"
        : "=r"(over)
        : "r"(meet)
        : "memory");
  }
  for (u32 i = t; i < 128; i += 32) tile[i] *= 2;
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  Sync();
  if (t == 0) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], 512;" ::"l"(out),
                 "r"(SharedAddress(tile))
                 : "memory");
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
  }
}
#endif

// ---- integers ----

KERNEL integer_forms(const u32* in, u32* out) {
  const u32 t = Thread();
  const u32 a = in[2 * t], b = in[2 * t + 1];
  u32* to = out + 6 * t;
  asm("dp2a.lo.s32.u32 %0, %1, %2, 5;" : "=r"(to[0]) : "r"(a), "r"(b));
  asm("vabsdiff4.u32.u32.u32.add %0, %1, %2, %3;" : "=r"(to[1]) : "r"(a), "r"(b), "r"(1));
  asm("prmt.b32 %0, %1, %2, 0x5140;" : "=r"(to[2]) : "r"(a), "r"(b));
  to[3] =
      static_cast<u32>((static_cast<unsigned __int128>(u64{a} << 32 | b) * 0x123456789ull) >> 40);
  switch (a % 5) {
    case 0:
      to[4] = b + 1;
      break;
    case 1:
      to[4] = b * 3;
      break;
    case 2:
      to[4] = b ^ a;
      break;
    case 3:
      to[4] = b >> 3;
      break;
    default:
      to[4] = ~b;
      break;
  }
  u32 local[8];
  for (u32 i = 0; i < 8; ++i) local[i] = a + i * b;
  to[5] = local[b & 7];
}
