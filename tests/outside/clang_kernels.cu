// Kernels for clang, which needs no CUDA header for them; clang.py calls them and checks what they answer.
#define GLOBAL extern "C" __attribute__((global)) void
#define DEVICE __attribute__((device))
#define SHARED __attribute__((shared))

static inline DEVICE unsigned Thread() { return __nvvm_read_ptx_sreg_tid_x(); }
static inline DEVICE unsigned Index() {
  return __nvvm_read_ptx_sreg_ctaid_x() * __nvvm_read_ptx_sreg_ntid_x() + Thread();
}

// Integers of every width, divisions, shifts by more than the width, bits.
GLOBAL integers(const int* in, long long* out, unsigned n) {
  const unsigned i = Index();
  if (i >= n) return;
  const int x = in[i];
  const long long wide = static_cast<long long>(x) * 0x123456789ll;
  out[4 * i] = wide / (x % 97 == 0 ? 5 : x % 97) + wide % 1001;
  out[4 * i + 1] = static_cast<short>(x * 3) + static_cast<signed char>(x >> 3) - static_cast<unsigned char>(x);
  out[4 * i + 2] = __builtin_popcountll(static_cast<unsigned long long>(wide)) * 100 + __builtin_clz(x | 1);
  out[4 * i + 3] = static_cast<long long>(__builtin_bswap32(static_cast<unsigned>(x))) ^ (wide << (x & 63));
}

struct Pair {
  double sum;
  float least;
  int count;
};
static DEVICE __attribute__((noinline)) Pair Merge(Pair a, Pair b) {
  return {a.sum + b.sum, a.least < b.least ? a.least : b.least, a.count + b.count};
}
// Structures through calls, shared memory, barriers, control flow that diverges.
GLOBAL merge(const float* in, Pair* out, unsigned n) {
  SHARED static Pair partial[128];
  Pair mine = {0, 1e30f, 0};
  for (unsigned i = Thread(); i < n; i += 128) {
    if (in[i] < 0) continue;
    mine = Merge(mine, Pair{in[i], in[i], 1});
  }
  partial[Thread()] = mine;
  __syncthreads();
  for (unsigned half = 64; half > 0; half /= 2) {
    if (Thread() < half) partial[Thread()] = Merge(partial[Thread()], partial[Thread() + half]);
    __syncthreads();
  }
  if (Thread() == 0) *out = partial[0];
}

static DEVICE __attribute__((noinline)) unsigned Collatz(unsigned long long x, unsigned steps) {
  if (x == 1) return steps;
  return Collatz(x % 2 == 0 ? x / 2 : 3 * x + 1, steps + 1);
}
GLOBAL collatz(unsigned* out, unsigned n) {
  const unsigned i = Index();
  if (i < n) out[i] = Collatz(i + 1, 0);
}

DEVICE float table[16] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
// Singles and doubles: roots, rounding, conversions, fused arithmetic.
GLOBAL reals(const double* in, double* out, unsigned n) {
  const unsigned i = Index();
  if (i >= n) return;
  const double x = in[i];
  out[4 * i] = __builtin_sqrt(__builtin_fabs(x)) + __builtin_floor(x) + __builtin_trunc(x * 3);
  out[4 * i + 1] = __builtin_fma(x, x, -1.5) / (x * x + 1);
  out[4 * i + 2] = static_cast<double>(static_cast<float>(x) * table[i % 16]);
  out[4 * i + 3] = static_cast<double>(static_cast<int>(x)) + static_cast<double>(static_cast<unsigned>(x > 0 ? x : 0));
}
