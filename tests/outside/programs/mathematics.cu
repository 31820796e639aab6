// The functions of the mathematical library, against the host's; rounding modes and integer intrinsics exactly.
//! cards: T4
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "check.h"

constexpr int kSingles = 22;
__global__ void Singles(const float* in, float* out, int n) {
  const int i = threadIdx.x + blockIdx.x * blockDim.x;
  if (i >= n) return;
  const float x = in[i];
  float* o = out + i * kSingles;
  *o++ = sinf(x);
  *o++ = cosf(x);
  *o++ = tanf(x);
  *o++ = expf(x);
  *o++ = exp2f(x);
  *o++ = logf(fabsf(x) + 0.01f);
  *o++ = log2f(fabsf(x) + 0.01f);
  *o++ = log1pf(fabsf(x));
  *o++ = sqrtf(fabsf(x));
  *o++ = 1 / sqrtf(fabsf(x) + 0.1f);
  *o++ = rsqrtf(fabsf(x) + 0.1f);
  *o++ = powf(fabsf(x), 1.7f);
  *o++ = atanf(x);
  *o++ = atan2f(x, 2.0f);
  *o++ = asinf(x / 40);
  *o++ = sinhf(x / 4);
  *o++ = tanhf(x);
  *o++ = erff(x);
  *o++ = cbrtf(x);
  *o++ = fmodf(x, 0.7f);
  *o++ = hypotf(x, 3.0f);
  *o++ = x / 3.1f;
}

constexpr int kDoubles = 10;
__global__ void Doubles(const double* in, double* out, int n) {
  const int i = threadIdx.x + blockIdx.x * blockDim.x;
  if (i >= n) return;
  const double x = in[i];
  double* o = out + i * kDoubles;
  *o++ = sin(x);
  *o++ = cos(x);
  *o++ = exp(x);
  *o++ = log(fabs(x) + 0.01);
  *o++ = sqrt(fabs(x));
  *o++ = pow(fabs(x), 1.7);
  *o++ = atan2(x, 2.0);
  *o++ = x / 3.1;
  *o++ = erf(x);
  *o++ = rsqrt(fabs(x) + 0.1);
}

struct Exact {
  float add_rz, add_ru, add_rd, mul_ru, div_rn, sqrt_rn, fused, floor_, round_, trunc_, min_, copied;
  double wide_div, wide_sqrt, wide_fused;
  int to_int_rn, to_int_rz, to_int_ru, to_int_rd, saturated, popc, clz, ffs, clzll, dp;
  unsigned int brev, perm, mulhi, sad, funnel, float_bits;
  unsigned long long wide_mulhi;
  int is_nan, is_inf;
};

__global__ void Exactly(Exact* out, float a, float b, double c, double d, unsigned int u, unsigned int v) {
  Exact e;
  e.add_rz = __fadd_rz(a, b);
  e.add_ru = __fadd_ru(a, b);
  e.add_rd = __fadd_rd(a, b);
  e.mul_ru = __fmul_ru(a, b);
  e.div_rn = __fdiv_rn(a, b);
  e.sqrt_rn = __fsqrt_rn(a);
  e.fused = fmaf(a, b, -0.3f);
  e.floor_ = floorf(-a);
  e.round_ = rintf(a * 2.5f);
  e.trunc_ = truncf(-a * 3);
  e.min_ = fminf(NAN, b);
  e.copied = copysignf(a, -0.0f);
  e.wide_div = __ddiv_rn(c, d);
  e.wide_sqrt = __dsqrt_rn(c);
  e.wide_fused = fma(c, d, -0.3);
  e.to_int_rn = __float2int_rn(2.5f * a);
  e.to_int_rz = __float2int_rz(-2.7f * a);
  e.to_int_ru = __float2int_ru(2.1f * a);
  e.to_int_rd = __float2int_rd(-2.1f * a);
  e.saturated = static_cast<int>(a * 1e20f);
  e.popc = __popc(u);
  e.clz = __clz(u >> 5);
  e.ffs = __ffs(u << 7);
  e.clzll = __clzll(static_cast<long long>(u));
  e.dp = __dp4a(static_cast<int>(u), static_cast<int>(v), 100);
  e.brev = __brev(u);
  e.perm = __byte_perm(u, v, 0x5241);
  e.mulhi = __umulhi(u, v);
  e.sad = __usad(u, v, 5u);
  e.funnel = __funnelshift_l(u, v, 9);
  e.float_bits = __float_as_uint(a);
  e.wide_mulhi = __umul64hi(static_cast<unsigned long long>(u) << 31, static_cast<unsigned long long>(v) << 30);
  e.is_nan = isnan(a - a + NAN);
  e.is_inf = isinf(b / (a - a));
  *out = e;
}

template <typename T>
static bool Close(T got, double want, double tolerance) {
  return std::fabs(static_cast<double>(got) - want) <= tolerance * (1 + std::fabs(want));
}

template <typename T>
static T Rounded(int mode, T (*operation)(T, T), T a, T b) {
  std::fesetround(mode);
  volatile T x = a, y = b;
  const T answer = operation(x, y);
  std::fesetround(FE_TONEAREST);
  return answer;
}

int main() {
  const int n = 500;
  std::vector<float> in(n), out(n * kSingles);
  std::vector<double> win(n), wout(n * kDoubles);
  for (int i = 0; i < n; ++i) {
    in[i] = -9.7f + 0.0391f * i;
    win[i] = in[i];
  }
  float *din, *dout;
  double *dwin, *dwout;
  MUST(cudaMalloc(&din, in.size() * sizeof(float)));
  MUST(cudaMalloc(&dout, out.size() * sizeof(float)));
  MUST(cudaMalloc(&dwin, win.size() * sizeof(double)));
  MUST(cudaMalloc(&dwout, wout.size() * sizeof(double)));
  MUST(cudaMemcpy(din, in.data(), in.size() * sizeof(float), cudaMemcpyHostToDevice));
  MUST(cudaMemcpy(dwin, win.data(), win.size() * sizeof(double), cudaMemcpyHostToDevice));
  Singles<<<(n + 127) / 128, 128>>>(din, dout, n);
  Doubles<<<(n + 127) / 128, 128>>>(dwin, dwout, n);
  MUST(cudaGetLastError());
  MUST(cudaMemcpy(out.data(), dout, out.size() * sizeof(float), cudaMemcpyDeviceToHost));
  MUST(cudaMemcpy(wout.data(), dwout, wout.size() * sizeof(double), cudaMemcpyDeviceToHost));
  for (int i = 0; i < n; ++i) {
    const double x = in[i];
    const double want[kSingles] = {
        std::sin(x), std::cos(x), std::tan(x), std::exp(x), std::exp2(x),
        std::log(std::fabs(in[i]) + 0.01f), std::log2(std::fabs(in[i]) + 0.01f), std::log1p(std::fabs(x)),
        std::sqrt(std::fabs(x)), 1 / std::sqrt(std::fabs(in[i]) + 0.1f), 1 / std::sqrt(std::fabs(in[i]) + 0.1f),
        std::pow(std::fabs(x), 1.7f), std::atan(x), std::atan2(x, 2.0), std::asin(x / 40), std::sinh(x / 4),
        std::tanh(x), std::erf(x), std::cbrt(x), std::fmod(x, 0.7f), std::hypot(x, 3.0), x / 3.1f};
    for (int k = 0; k < kSingles; ++k) {
      // The tangent near its poles asks for the argument's own precision.
      EXPECT(Close(out[i * kSingles + k], want[k], k == 2 ? 1e-3 * (1 + want[k] * want[k]) : 4e-6));
    }
    const double wide[kDoubles] = {std::sin(x), std::cos(x), std::exp(x), std::log(std::fabs(x) + 0.01),
                                   std::sqrt(std::fabs(x)), std::pow(std::fabs(x), 1.7), std::atan2(x, 2.0), x / 3.1,
                                   std::erf(x), 1 / std::sqrt(std::fabs(x) + 0.1)};
    for (int k = 0; k < kDoubles; ++k) {
      if (!Close(wout[i * kDoubles + k], wide[k], 4e-15)) std::printf("%d %.17g %.17g %.17g\n", k, x, wout[i * kDoubles + k], wide[k]);
      EXPECT(Close(wout[i * kDoubles + k], wide[k], 4e-15));
    }
  }

  Exact* dexact;
  MUST(cudaMalloc(&dexact, sizeof(Exact)));
  const float a = 1.1f, b = 0.30000001f;
  const double c = 1.1, d = 0.3;
  const unsigned int u = 0xdeadbeefu, v = 0x12345678u;
  Exactly<<<1, 1>>>(dexact, a, b, c, d, u, v);
  Exact e;
  MUST(cudaMemcpy(&e, dexact, sizeof e, cudaMemcpyDeviceToHost));
  const auto plus = [](float x, float y) { return x + y; };
  const auto times = [](float x, float y) { return x * y; };
  EXPECT(e.add_rz == Rounded<float>(FE_TOWARDZERO, plus, a, b));
  EXPECT(e.add_ru == Rounded<float>(FE_UPWARD, plus, a, b));
  EXPECT(e.add_rd == Rounded<float>(FE_DOWNWARD, plus, a, b));
  EXPECT(e.mul_ru == Rounded<float>(FE_UPWARD, times, a, b));
  EXPECT(e.div_rn == a / b && e.sqrt_rn == std::sqrt(a) && e.fused == std::fma(a, b, -0.3f));
  EXPECT(e.floor_ == -2.0f && e.round_ == std::rint(a * 2.5f) && e.trunc_ == -3.0f && e.min_ == b);
  EXPECT(e.copied == -a && e.wide_div == c / d && e.wide_sqrt == std::sqrt(c));
  EXPECT(e.wide_fused == std::fma(c, d, -0.3));
  EXPECT(e.to_int_rn == 3 && e.to_int_rz == -2 && e.to_int_ru == 3 && e.to_int_rd == -3);
  EXPECT(e.saturated == INT32_MAX && e.popc == 24 && e.clz == 5 && e.ffs == 8 && e.clzll == 32);
  int dp = 100;
  for (int byte = 0; byte < 4; ++byte) {
    dp += static_cast<signed char>(u >> 8 * byte) * static_cast<signed char>(v >> 8 * byte);
  }
  EXPECT(e.dp == dp);
  EXPECT(e.brev == 0xf77db57bu && e.perm == 0x56ad78beu);
  EXPECT(e.mulhi == static_cast<unsigned int>(static_cast<unsigned long long>(u) * v >> 32));
  EXPECT(e.sad == u - v + 5 && e.funnel == (v << 9 | u >> 23));
  unsigned int bits;
  std::memcpy(&bits, &a, sizeof bits);
  EXPECT(e.float_bits == bits);
  EXPECT(e.wide_mulhi ==
         static_cast<unsigned long long>((static_cast<unsigned __int128>(u) << 31) *
                                         (static_cast<unsigned __int128>(v) << 30) >> 64));
  EXPECT(e.is_nan != 0 && e.is_inf != 0);
  std::printf("PASSED mathematics\n");
  return 0;
}
