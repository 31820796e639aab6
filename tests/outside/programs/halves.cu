// Numbers of 16 bits: half and bfloat16, single and in pairs, against arithmetic in single precision rounded once.
//! cards: A100-80
//! options: -gencode arch=compute_80,code=compute_80
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <vector>

#include "check.h"

struct Answers {
  float sum, product, fused, quotient, root, exponential, low, pair_x, pair_y;
  int less, equal, to_int;
  float from_int;
};

template <typename T, typename T2>
__global__ void Work(const float* in, Answers* out, int n);

__device__ float Wide(__half x) { return __half2float(x); }
__device__ float Wide(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __half Narrow(float x, __half*) { return __float2half(x); }
__device__ __nv_bfloat16 Narrow(float x, __nv_bfloat16*) { return __float2bfloat16(x); }
__device__ __half2 Pair(__half a, __half b) { return __halves2half2(a, b); }
__device__ __nv_bfloat162 Pair(__nv_bfloat16 a, __nv_bfloat16 b) { return __halves2bfloat162(a, b); }
__device__ int Whole(__half x) { return __half2int_rz(x); }
__device__ int Whole(__nv_bfloat16 x) { return __bfloat162int_rz(x); }

template <typename T, typename T2>
__global__ void Work(const float* in, Answers* out, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const T a = Narrow(in[i], static_cast<T*>(nullptr));
  const T b = Narrow(in[(i * 7 + 3) % n], static_cast<T*>(nullptr));
  Answers o;
  o.sum = Wide(__hadd(a, b));
  o.product = Wide(__hmul(a, b));
  o.fused = Wide(__hfma(a, b, a));
  o.quotient = Wide(__hdiv(a, b));
  o.root = Wide(hsqrt(__habs(a)));
  o.exponential = Wide(hexp(a));
  o.low = Wide(__hmin(a, b));
  const T2 pair = __hfma2(Pair(a, b), Pair(b, b), Pair(b, a));
  o.pair_x = Wide(pair.x);
  o.pair_y = Wide(pair.y);
  o.less = __hlt(a, b);
  o.equal = __heq(a, a);
  o.to_int = Whole(a);
  o.from_int = Wide(static_cast<T>(static_cast<float>(i % 200)));
  out[i] = o;
}

// A value of more precision, rounded to the format: what one correctly rounded operation gives.
template <typename T>
static float Round(double x);
template <>
float Round<__half>(double x) { return __half2float(__double2half(x)); }
template <>
float Round<__nv_bfloat16>(double x) { return __bfloat162float(__double2bfloat16(x)); }

template <typename T, typename T2>
static void Check(float tolerance) {
  const int n = 300;
  std::vector<float> in(n);
  for (int i = 0; i < n; ++i) in[i] = -4.0f + 0.027f * i + (i == 148 ? 0.01f : 0.0f);
  float* din;
  Answers* dout;
  MUST(cudaMalloc(&din, n * sizeof(float)));
  MUST(cudaMalloc(&dout, n * sizeof(Answers)));
  MUST(cudaMemcpy(din, in.data(), n * sizeof(float), cudaMemcpyHostToDevice));
  Work<T, T2><<<3, 128>>>(din, dout, n);
  MUST(cudaGetLastError());
  std::vector<Answers> out(n);
  MUST(cudaMemcpy(out.data(), dout, n * sizeof(Answers), cudaMemcpyDeviceToHost));
  for (int i = 0; i < n; ++i) {
    const double a = Round<T>(in[i]), b = Round<T>(in[(i * 7 + 3) % n]);
    const Answers& o = out[i];
    EXPECT(o.sum == Round<T>(a + b));
    EXPECT(o.product == Round<T>(a * b));
    EXPECT(o.fused == Round<T>(a * b + a));
    EXPECT(std::fabs(o.quotient - a / b) <= tolerance * (1 + std::fabs(a / b)));
    EXPECT(std::fabs(o.root - std::sqrt(std::fabs(a))) <= tolerance * 3);
    EXPECT(std::fabs(o.exponential - std::exp(a)) <= tolerance * 2 * (1 + std::exp(a)));
    EXPECT(o.low == static_cast<float>(a < b ? a : b));
    EXPECT(o.pair_x == Round<T>(a * b + b) && o.pair_y == Round<T>(b * b + a));
    EXPECT(o.less == (a < b) && o.equal == 1 && o.to_int == static_cast<int>(a));
    EXPECT(o.from_int == static_cast<float>(i % 200));
  }
  MUST(cudaFree(din));
  MUST(cudaFree(dout));
}

int main() {
  Check<__half, __half2>(0.001f);
  Check<__nv_bfloat16, __nv_bfloat162>(0.008f);
  std::printf("PASSED halves\n");
  return 0;
}
