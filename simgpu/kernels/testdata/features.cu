// What nvcc is asked to compile for the interpreter's tests; features_nvcc.ptx beside it is the
// answer of nvcc 13.0
// (-arch=sm_75 -O3 -ptx).
#include <cassert>
#include <cstdio>

__constant__ float coefficients[4] = {1.0f, 0.5f, 0.25f, 0.125f};
__device__ int counter;
struct Pair {
  float x;
  int y;
  double z;
};

__device__ __noinline__ int Fibonacci(int n) {
  return n < 2 ? n : Fibonacci(n - 1) + Fibonacci(n - 2);
}

extern "C" __global__ void fibonacci(int* out) { out[threadIdx.x] = Fibonacci(threadIdx.x % 12); }

extern "C" __global__ void polynomial(const float* x, float* y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) {
    float sum = 0;
    for (int k = 3; k >= 0; --k) sum = sum * x[i] + coefficients[k];
    y[i] = sum;
  }
}

extern "C" __global__ void functions(const float* x, float* y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n)
    y[i] = sinf(x[i]) + expf(x[i] * 0.1f) + logf(x[i] + 2.0f) + sqrtf(x[i]) + powf(x[i], 1.5f) +
           fmodf(x[i], 0.7f);
}

extern "C" __global__ void doubles(const double* x, double* y, int n) {
  int i = threadIdx.x;
  if (i < n)
    y[i] =
        exp(x[i]) / (1.0 + x[i]) + cbrt(x[i]) + rint(x[i] * 3.0) + (double)(long long)(x[i] * 1e6);
}

extern "C" __global__ void by_value(Pair pair, double* out) {
  Pair copies[4];
  for (int i = 0; i < 4; ++i) {
    copies[i] = pair;
    copies[i].y += i;
  }
  out[threadIdx.x] = copies[threadIdx.x & 3].y + pair.x + pair.z;
}

extern "C" __global__ void print(int n) {
  if (threadIdx.x == 0) printf("block %d says %s %.2f\n", blockIdx.x, "hello", n * 0.5);
}

extern "C" __global__ void check(int n) { assert(threadIdx.x < n); }

extern "C" __global__ void prefix_sum(int* data) {
  __shared__ int warps[32];
  int value = data[blockIdx.x * blockDim.x + threadIdx.x];
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  for (int d = 1; d < 32; d *= 2) {
    int other = __shfl_up_sync(~0u, value, d);
    if (lane >= d) value += other;
  }
  if (lane == 31) warps[warp] = value;
  __syncthreads();
  if (warp == 0) {
    int w = warps[lane];
    for (int d = 1; d < 32; d *= 2) {
      int other = __shfl_up_sync(~0u, w, d);
      if (lane >= d) w += other;
    }
    warps[lane] = w;
  }
  __syncthreads();
  if (warp > 0) value += warps[warp - 1];
  data[blockIdx.x * blockDim.x + threadIdx.x] = value;
}

extern "C" __global__ void wide(const unsigned long long* a, unsigned long long* out) {
  unsigned long long x = a[threadIdx.x];
  unsigned __int128 square = (unsigned __int128)x * x + 12345;
  out[threadIdx.x * 2] = (unsigned long long)square;
  out[threadIdx.x * 2 + 1] = (unsigned long long)(square >> 64);
}

extern "C" __global__ void integers(const int* a, int* out) {
  int x = a[threadIdx.x];
  unsigned u = x;
  out[threadIdx.x] = __popc(u) + __clz(x) * 3 + __ffs(x) + (x / 7) + (x % 13) + __brev(u) % 11 +
                     __funnelshift_l(u, u, 5) % 17 + (short)x + (signed char)x + __mulhi(x, 12345) +
                     min(x, 99) + abs(x) % 5;
}

extern "C" __global__ void last_block(const int* in, int* out, int n) {
  __shared__ bool last;
  extern __shared__ int scratch[];
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  scratch[threadIdx.x] = i < n ? in[i] : 0;
  __syncthreads();
  for (int s = blockDim.x / 2; s > 0; s /= 2) {
    if (threadIdx.x < s) scratch[threadIdx.x] += scratch[threadIdx.x + s];
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    atomicAdd(&out[0], scratch[0]);
    __threadfence();
    last = atomicAdd(&counter, 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (last && threadIdx.x == 0) out[1] = out[0] * 2;
}
