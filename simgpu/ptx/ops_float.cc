// Floating point arithmetic to nearest, the approximate functions, comparisons.
// Single precision NaN results are the canonical 0x7fffffff; double precision follows the host,
// whose default NaN (0xfff8000000000000) is also the device's.
#include <cmath>

#include "simgpu/ptx/half.h"
#include "simgpu/ptx/ops.h"

namespace simgpu::ptx {
namespace {

template <class T>
inline T MinNumber(T a, T b) {
  if (a != a) return b;
  if (b != b) return a;
  if (a == b) return std::signbit(a) ? a : b;  // -0 is below +0.
  return a < b ? a : b;
}
template <class T>
inline T MaxNumber(T a, T b) {
  if (a != a) return b;
  if (b != b) return a;
  if (a == b) return std::signbit(a) ? b : a;
  return a > b ? a : b;
}
template <class T>
inline T NanOf() {
  return static_cast<T>(NAN);
}

template <class T>
inline T XorSign(T a, T b) {
  return std::signbit(a) != std::signbit(b) ? T{-1} : T{1};
}

#define SIMGPU_FLOAT(name, arity, expression)                                       \
  struct name {                                                                     \
    static constexpr int kArity = arity;                                            \
    template <class T>                                                              \
    static T Do([[maybe_unused]] T a, [[maybe_unused]] T b, [[maybe_unused]] T c) { \
      return expression;                                                            \
    }                                                                               \
  }
SIMGPU_FLOAT(FAdd, 2, a + b);
SIMGPU_FLOAT(FSub, 2, a - b);
SIMGPU_FLOAT(FMul, 2, a* b);
SIMGPU_FLOAT(FDiv, 2, a / b);
SIMGPU_FLOAT(FMin, 2, MinNumber(a, b));
SIMGPU_FLOAT(FMax, 2, MaxNumber(a, b));
SIMGPU_FLOAT(FMinNan, 2, a != a || b != b ? NanOf<T>() : MinNumber(a, b));
SIMGPU_FLOAT(FMaxNan, 2, a != a || b != b ? NanOf<T>() : MaxNumber(a, b));
SIMGPU_FLOAT(FMinXor, 2, std::copysign(MinNumber(std::fabs(a), std::fabs(b)), XorSign(a, b)));
SIMGPU_FLOAT(FMaxXor, 2, std::copysign(MaxNumber(std::fabs(a), std::fabs(b)), XorSign(a, b)));
SIMGPU_FLOAT(FMinNanXor, 2, a != a || b != b ? NanOf<T>() : FMinXor::Do<T>(a, b, c));
SIMGPU_FLOAT(FMaxNanXor, 2, a != a || b != b ? NanOf<T>() : FMaxXor::Do<T>(a, b, c));
SIMGPU_FLOAT(FFma, 3, std::fma(a, b, c));
SIMGPU_FLOAT(FSqrt, 1, std::sqrt(a));
SIMGPU_FLOAT(FRcp, 1, T{1} / a);
SIMGPU_FLOAT(FRsqrt, 1, T{1} / std::sqrt(a));
SIMGPU_FLOAT(FEx2, 1, std::exp2(a));
SIMGPU_FLOAT(FLg2, 1, std::log2(a));
SIMGPU_FLOAT(FSin, 1, std::sin(a));
SIMGPU_FLOAT(FCos, 1, std::cos(a));
SIMGPU_FLOAT(FTanh, 1, std::tanh(a));
#undef SIMGPU_FLOAT

inline float Saturate(float f) { return f > 0 ? (f < 1 ? f : 1.0f) : 0.0f; }  // NaN becomes +0.
inline double Saturate(double f) { return f > 0 ? (f < 1 ? f : 1.0) : 0.0; }

template <class T, class F, bool kFlush, bool kClamp>
void Float(Exec& e, const Instr& i, uint32_t mask) {
  T* d = Reg<T>(e, i.dst);
  const T* a = Reg<T>(e, i.a);
  const T* b = F::kArity >= 2 ? Reg<T>(e, i.b) : a;
  const T* c = F::kArity >= 3 ? Reg<T>(e, i.c) : a;
  ForLanes(mask, [=](int lane) {
    T x = a[lane], y = b[lane], z = c[lane];
    if constexpr (kFlush && sizeof(T) == 4) {
      x = FlushFloat(x);
      y = FlushFloat(y);
      z = FlushFloat(z);
    }
    T out = F::template Do<T>(x, y, z);
    if constexpr (kFlush && sizeof(T) == 4) out = FlushFloat(out);
    if constexpr (kClamp) out = Saturate(out);
    if constexpr (sizeof(T) == 4) out = CanonicalFloat(out);
    d[lane] = out;
  });
}

#if defined(__x86_64__)
// std::fma is a call on baseline x86-64; with the instruction the loop vectorises and stays exact.
__attribute__((target("avx2,fma"))) void FmaAvx2(Exec& e, const Instr& i, uint32_t mask) {
  float* d = Reg<float>(e, i.dst);
  const float* a = Reg<float>(e, i.a);
  const float* b = Reg<float>(e, i.b);
  const float* c = Reg<float>(e, i.c);
  if (mask == kFullMask) {
    SIMGPU_VECTORIZE
    for (int lane = 0; lane < kWarpSize; ++lane) {
      const float out = __builtin_fmaf(a[lane], b[lane], c[lane]);
      d[lane] = out != out ? std::bit_cast<float>(0x7fffffffu) : out;
    }
    return;
  }
  for (uint32_t m = mask; m != 0; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const float out = __builtin_fmaf(a[lane], b[lane], c[lane]);
    d[lane] = out != out ? std::bit_cast<float>(0x7fffffffu) : out;
  }
}
#endif

// neg and abs move the sign bit only, NaN payloads stay as they are.
template <class W, W kClear, W kFlip>
void SignBits(Exec& e, const Instr& i, uint32_t mask) {
  W* d = Reg<W>(e, i.dst);
  const W* a = Reg<W>(e, i.a);
  ForLanes(mask, [=](int lane) { d[lane] = static_cast<W>((a[lane] & ~kClear) ^ kFlip); });
}
template <class W, W kSign>
void CopySign(Exec& e, const Instr& i, uint32_t mask) {
  W* d = Reg<W>(e, i.dst);
  const W* a = Reg<W>(e, i.a);
  const W* b = Reg<W>(e, i.b);
  ForLanes(mask,
           [=](int lane) { d[lane] = static_cast<W>((b[lane] & ~kSign) | (a[lane] & kSign)); });
}
// Of one or two halves in a word.
template <class W, bool kAbs>
void SignFtzHalf(Exec& e, const Instr& i, uint32_t mask) {
  W* d = Reg<W>(e, i.dst);
  const W* a = Reg<W>(e, i.a);
  for (uint32_t m = mask; m != 0; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    W out = 0;
    for (size_t k = 0; k < sizeof(W) / 2; ++k) {
      uint16_t half = static_cast<uint16_t>(a[lane] >> (16 * k));
      if ((half & 0x7c00) == 0) half &= 0x8000;
      half = static_cast<uint16_t>(kAbs ? half & 0x7fff : half ^ 0x8000);
      out = static_cast<W>(out | static_cast<W>(half) << (16 * k));
    }
    d[lane] = out;
  }
}
template <bool kAbs>
void SignFtz(Exec& e, const Instr& i, uint32_t mask) {
  uint32_t* d = Reg<uint32_t>(e, i.dst);
  const float* a = Reg<float>(e, i.a);
  ForLanes(mask, [=](int lane) {
    const uint32_t bits = std::bit_cast<uint32_t>(FlushFloat(a[lane]));
    d[lane] = kAbs ? bits & 0x7fffffffu : bits ^ 0x80000000u;
  });
}

// The sum rounded to odd: what is lost shows in the last bit, so that a second rounding, to half,
// does not take a value just off the middle for the middle.
inline double FusedToOdd(double product, double c) {
  const double sum = product + c;
  if (!std::isfinite(sum)) return sum;
  const double part = sum - product;
  const double lost = (product - (sum - part)) + (c - part);
  if (lost == 0) return sum;
  uint64_t bits = std::bit_cast<uint64_t>(sum);
  if ((lost > 0) != (sum > 0)) --bits;  // Towards zero.
  return std::bit_cast<double>(bits | 1);
}

// Half precision runs in double, which holds sums and products of halves closely enough that the
// one rounding to half is the correct one.
template <class F, bool kBrain, bool kPair>
void Small(Exec& e, const Instr& i, uint32_t mask) {
  constexpr uint16_t kExponent = kBrain ? 0x7f80 : 0x7c00;
  const bool flush = (i.aux & kFtz) != 0;
  const auto flushed = [&](uint16_t h) {
    return static_cast<uint16_t>(flush && (h & kExponent) == 0 ? h & 0x8000 : h);
  };
  const auto one = [&](uint16_t x, uint16_t y, uint16_t z) {
    x = flushed(x);
    y = flushed(y);
    z = flushed(z);
    const auto in = [](uint16_t h) {
      return static_cast<double>(kBrain ? Bf16ToFloat(h) : HalfToFloat(h));
    };
    double out;
    if constexpr (std::is_same_v<F, FFma>) {
      out = FusedToOdd(in(x)*in(y), in(z));
    } else {
      out = F::template Do<double>(in(x), in(y), in(z));
    }
    if ((i.aux & kSat) != 0) out = Saturate(out);
    if ((i.aux & kRelu) != 0 && out <= 0) out = 0;  // Also -0.
    return flushed(kBrain ? ToBf16(out) : ToHalf(out));
  };
  for (uint32_t m = mask; m != 0; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    if constexpr (kPair) {
      const uint32_t x = Reg<uint32_t>(e, i.a)[lane];
      const uint32_t y = F::kArity >= 2 ? Reg<uint32_t>(e, i.b)[lane] : 0;
      const uint32_t z = F::kArity >= 3 ? Reg<uint32_t>(e, i.c)[lane] : 0;
      const auto low = [](uint32_t v) { return static_cast<uint16_t>(v); };
      const auto high = [](uint32_t v) { return static_cast<uint16_t>(v >> 16); };
      Reg<uint32_t>(e, i.dst)[lane] =
          static_cast<uint32_t>(one(high(x), high(y), high(z))) << 16 | one(low(x), low(y), low(z));
    } else {
      const uint16_t x = Reg<uint16_t>(e, i.a)[lane];
      const uint16_t y = F::kArity >= 2 ? Reg<uint16_t>(e, i.b)[lane] : uint16_t{0};
      const uint16_t z = F::kArity >= 3 ? Reg<uint16_t>(e, i.c)[lane] : uint16_t{0};
      Reg<uint16_t>(e, i.dst)[lane] = one(x, y, z);
    }
  }
}

template <class T, class F>
Handler Variants(uint16_t aux) {
  if ((aux & kSat) != 0)
    return (aux & kFtz) != 0 ? Float<T, F, true, true> : Float<T, F, false, true>;
  return (aux & kFtz) != 0 ? Float<T, F, true, false> : Float<T, F, false, false>;
}

template <class F>
Handler ForType(Type type, uint16_t aux) {
  switch (type) {
    case Type::kF32:
      return Variants<float, F>(aux);
    case Type::kF64:
      return (aux & (kFtz | kSat)) != 0 ? nullptr : Float<double, F, false, false>;
    case Type::kF16:
      return Small<F, false, false>;
    case Type::kF16x2:
      return Small<F, false, true>;
    case Type::kBf16:
      return Small<F, true, false>;
    case Type::kBf16x2:
      return Small<F, true, true>;
    default:
      return nullptr;
  }
}

// ---- comparison ----

template <class T>
inline bool CompareInteger(Compare c, T a, T b) {
  switch (c) {
    case Compare::kEq:
      return a == b;
    case Compare::kNe:
      return a != b;
    case Compare::kLt:
    case Compare::kLo:
      return a < b;
    case Compare::kLe:
    case Compare::kLs:
      return a <= b;
    case Compare::kGt:
    case Compare::kHi:
      return a > b;
    default:
      return a >= b;
  }
}
template <class T>
inline bool CompareFloat(Compare c, T a, T b) {
  const bool nan = a != a || b != b;
  switch (c) {
    case Compare::kEq:
      return a == b;
    case Compare::kNe:
      return !nan && a != b;
    case Compare::kLt:
      return a < b;
    case Compare::kLe:
      return a <= b;
    case Compare::kGt:
      return a > b;
    case Compare::kGe:
      return a >= b;
    case Compare::kEqu:
      return nan || a == b;
    case Compare::kNeu:
      return nan || a != b;
    case Compare::kLtu:
      return nan || a < b;
    case Compare::kLeu:
      return nan || a <= b;
    case Compare::kGtu:
      return nan || a > b;
    case Compare::kGeu:
      return nan || a >= b;
    case Compare::kNum:
      return !nan;
    case Compare::kNan:
      return nan;
    default:
      return false;
  }
}

template <class T, Compare kCompare>
inline uint32_t CompareAll(const T* a, const T* b, bool flush) {
  uint8_t hit[kWarpSize];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    T x = a[lane], y = b[lane];
    if constexpr (std::is_same_v<T, float>) {
      if (flush) {
        x = FlushFloat(x);
        y = FlushFloat(y);
      }
    }
    if constexpr (std::is_floating_point_v<T>) {
      hit[lane] = CompareFloat<T>(kCompare, x, y) ? 1 : 0;
    } else {
      hit[lane] = CompareInteger<T>(kCompare, x, y) ? 1 : 0;
    }
  }
  // Eight bytes of 0 or 1 become eight bits by one multiplication.
  uint32_t out = 0;
  for (int k = 0; k < 4; ++k) {
    uint64_t bytes;
    std::memcpy(&bytes, hit + 8 * k, 8);
    out |= static_cast<uint32_t>(bytes * 0x0102040810204080ull >> 56) << (8 * k);
  }
  return out;
}

template <class T>
uint32_t Compared(Exec& e, const Instr& i) {
  const T* a = Reg<T>(e, i.a);
  const T* b = Reg<T>(e, i.b);
  const bool flush = (i.aux & 256) != 0;
#define SIMGPU_CASE(name) \
  case Compare::name:     \
    return CompareAll<T, Compare::name>(a, b, flush)
  switch (static_cast<Compare>(i.aux & 31)) {
    SIMGPU_CASE(kEq);
    SIMGPU_CASE(kNe);
    SIMGPU_CASE(kLt);
    SIMGPU_CASE(kLe);
    SIMGPU_CASE(kGt);
    SIMGPU_CASE(kGe);
    SIMGPU_CASE(kLo);
    SIMGPU_CASE(kLs);
    SIMGPU_CASE(kHi);
    SIMGPU_CASE(kHs);
    SIMGPU_CASE(kEqu);
    SIMGPU_CASE(kNeu);
    SIMGPU_CASE(kLtu);
    SIMGPU_CASE(kLeu);
    SIMGPU_CASE(kGtu);
    SIMGPU_CASE(kGeu);
    SIMGPU_CASE(kNum);
    SIMGPU_CASE(kNan);
  }
#undef SIMGPU_CASE
  return 0;
}

// A half as comparisons see it: flushed when they say so (bit 8 of aux).
template <bool kBrain>
inline float ComparedHalf(uint16_t half, uint16_t aux) {
  if (kBrain) return Bf16ToFloat(half);
  if ((aux & 256) != 0 && (half & 0x7c00) == 0) half &= 0x8000;
  return HalfToFloat(half);
}

template <bool kBrain>
uint32_t ComparedSmall(Exec& e, const Instr& i) {
  const uint16_t* a = Reg<uint16_t>(e, i.a);
  const uint16_t* b = Reg<uint16_t>(e, i.b);
  uint32_t out = 0;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const float x = ComparedHalf<kBrain>(a[lane], i.aux);
    const float y = ComparedHalf<kBrain>(b[lane], i.aux);
    if (CompareFloat<float>(static_cast<Compare>(i.aux & 31), x, y)) out |= 1u << lane;
  }
  return out;
}

using CompareFn = uint32_t (*)(Exec&, const Instr&);

inline uint32_t Combine(Exec& e, const Instr& i, uint32_t value) {
  const int how = i.aux >> 5 & 3;
  if (how == 0) return value;
  const uint32_t c = *Reg<uint32_t>(e, i.c) ^ ((i.aux & 128) != 0 ? kFullMask : 0);
  return how == 1 ? value & c : how == 2 ? value | c : value ^ c;
}

template <CompareFn kFn>
void Setp(Exec& e, const Instr& i, uint32_t mask) {
  const uint32_t value = kFn(e, i);
  const uint32_t p = Combine(e, i, value);
  const uint32_t q = Combine(e, i, ~value);
  if (i.dst != kNoReg) {
    uint32_t& d = *Reg<uint32_t>(e, i.dst);
    d = (d & ~mask) | (p & mask);
  }
  if (i.d != kNoReg) {
    uint32_t& d = *Reg<uint32_t>(e, i.d);
    d = (d & ~mask) | (q & mask);
  }
}

template <class D, CompareFn kFn>
void Set(Exec& e, const Instr& i, uint32_t mask) {
  const uint32_t p = Combine(e, i, kFn(e, i));
  D* d = Reg<D>(e, i.dst);
  const D yes = static_cast<D>(i.imm);
  ForLanes(mask, [=](int lane) { d[lane] = (p >> lane & 1) != 0 ? yes : D{0}; });
}

// Of pairs of halves: one bit a lane for the low ones, one for the high ones.
template <bool kBrain>
void ComparePairs(Exec& e, const Instr& i, uint32_t* low, uint32_t* high) {
  const uint32_t* a = Reg<uint32_t>(e, i.a);
  const uint32_t* b = Reg<uint32_t>(e, i.b);
  *low = *high = 0;
  const auto value = [&](uint32_t bits) {
    return ComparedHalf<kBrain>(static_cast<uint16_t>(bits), i.aux);
  };
  const Compare compare = static_cast<Compare>(i.aux & 31);
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (CompareFloat<float>(compare, value(a[lane]), value(b[lane]))) *low |= 1u << lane;
    if (CompareFloat<float>(compare, value(a[lane] >> 16), value(b[lane] >> 16)))
      *high |= 1u << lane;
  }
  *low = Combine(e, i, *low);
  *high = Combine(e, i, *high);
}

template <bool kBrain>
void SetpPair(Exec& e, const Instr& i, uint32_t mask) {
  uint32_t low, high;
  ComparePairs<kBrain>(e, i, &low, &high);
  uint32_t& p = *Reg<uint32_t>(e, i.dst);
  p = (p & ~mask) | (low & mask);
  if (i.d != kNoReg) {
    uint32_t& q = *Reg<uint32_t>(e, i.d);
    q = (q & ~mask) | (high & mask);
  }
}

template <bool kBrain>
void SetPair(Exec& e, const Instr& i, uint32_t mask) {
  uint32_t low, high;
  ComparePairs<kBrain>(e, i, &low, &high);
  uint32_t* d = Reg<uint32_t>(e, i.dst);
  const uint32_t yes = static_cast<uint32_t>(i.imm);
  for (uint32_t m = mask; m != 0; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    d[lane] = ((low >> lane & 1) != 0 ? yes & 0xffffu : 0) |
              ((high >> lane & 1) != 0 ? yes & 0xffff0000u : 0);
  }
}

template <class T>
void Testp(Exec& e, const Instr& i, uint32_t mask) {
  const T* a = Reg<T>(e, i.a);
  uint32_t out = 0;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    bool yes = false;
    switch (i.aux) {
      case 0:
        yes = std::isfinite(a[lane]);
        break;
      case 1:
        yes = std::isinf(a[lane]);
        break;
      case 2:
        yes = !std::isnan(a[lane]);
        break;
      case 3:
        yes = std::isnan(a[lane]);
        break;
      case 4:
        yes = std::isnormal(a[lane]);
        break;
      default:
        yes = std::fpclassify(a[lane]) == FP_SUBNORMAL;
        break;
    }
    if (yes) out |= 1u << lane;
  }
  uint32_t& d = *Reg<uint32_t>(e, i.dst);
  d = (d & ~mask) | (out & mask);
}

template <template <CompareFn> class Pick>
Handler ByType(Type type) {
  switch (type) {
    case Type::kB16:
    case Type::kU16:
      return Pick<Compared<uint16_t>>::kHandler;
    case Type::kS16:
      return Pick<Compared<int16_t>>::kHandler;
    case Type::kB32:
    case Type::kU32:
      return Pick<Compared<uint32_t>>::kHandler;
    case Type::kS32:
      return Pick<Compared<int32_t>>::kHandler;
    case Type::kB64:
    case Type::kU64:
      return Pick<Compared<uint64_t>>::kHandler;
    case Type::kS64:
      return Pick<Compared<int64_t>>::kHandler;
    case Type::kF32:
      return Pick<Compared<float>>::kHandler;
    case Type::kF64:
      return Pick<Compared<double>>::kHandler;
    case Type::kF16:
      return Pick<ComparedSmall<false>>::kHandler;
    case Type::kBf16:
      return Pick<ComparedSmall<true>>::kHandler;
    default:
      return nullptr;
  }
}
template <CompareFn kFn>
struct PickSetpFor {
  static constexpr Handler kHandler = Setp<kFn>;
};
template <CompareFn kFn>
struct PickSetFor {
  static constexpr Handler kHandler = Set<uint32_t, kFn>;
};
template <CompareFn kFn>
struct PickSet16For {
  static constexpr Handler kHandler = Set<uint16_t, kFn>;
};

Handler Sign(bool abs, Type type, uint16_t aux) {
  switch (type) {
    case Type::kF32:
      if ((aux & kFtz) != 0) return abs ? SignFtz<true> : SignFtz<false>;
      return abs ? SignBits<uint32_t, 0x80000000u, 0> : SignBits<uint32_t, 0, 0x80000000u>;
    case Type::kF64:
      return abs ? SignBits<uint64_t, uint64_t{1} << 63, 0>
                 : SignBits<uint64_t, 0, uint64_t{1} << 63>;
    case Type::kF16:
      if ((aux & kFtz) != 0)
        return abs ? SignFtzHalf<uint16_t, true> : SignFtzHalf<uint16_t, false>;
      [[fallthrough]];
    case Type::kBf16:
      return abs ? SignBits<uint16_t, 0x8000, 0> : SignBits<uint16_t, 0, 0x8000>;
    case Type::kF16x2:
      if ((aux & kFtz) != 0)
        return abs ? SignFtzHalf<uint32_t, true> : SignFtzHalf<uint32_t, false>;
      [[fallthrough]];
    case Type::kBf16x2:
      return abs ? SignBits<uint32_t, 0x80008000u, 0> : SignBits<uint32_t, 0, 0x80008000u>;
    default:
      return nullptr;
  }
}

}  // namespace

Handler PickFloat(Op op, Type type, uint16_t aux) {
  switch (op) {
    case Op::kAdd:
      return ForType<FAdd>(type, aux);
    case Op::kSub:
      return ForType<FSub>(type, aux);
    case Op::kMulLo:
      return ForType<FMul>(type, aux);
    case Op::kDiv:
      return ForType<FDiv>(type, aux);
    case Op::kMin:
      return ForType<FMin>(type, aux);
    case Op::kMax:
      return ForType<FMax>(type, aux);
    case Op::kMinNan:
      return ForType<FMinNan>(type, aux);
    case Op::kMaxNan:
      return ForType<FMaxNan>(type, aux);
    case Op::kMinXor:
      return ForType<FMinXor>(type, aux);
    case Op::kMaxXor:
      return ForType<FMaxXor>(type, aux);
    case Op::kMinNanXor:
      return ForType<FMinNanXor>(type, aux);
    case Op::kMaxNanXor:
      return ForType<FMaxNanXor>(type, aux);
    case Op::kCopysign:
      if (type == Type::kF32) return CopySign<uint32_t, 0x80000000u>;
      return type == Type::kF64 ? CopySign<uint64_t, uint64_t{1} << 63> : nullptr;
    case Op::kFma:
#if defined(__x86_64__)
      if (type == Type::kF32 && (aux & (kFtz | kSat)) == 0 && __builtin_cpu_supports("fma") &&
          __builtin_cpu_supports("avx2")) {
        return FmaAvx2;
      }
#endif
      return ForType<FFma>(type, aux);
    case Op::kSqrt:
      return ForType<FSqrt>(type, aux);
    case Op::kRcp:
      return ForType<FRcp>(type, aux);
    case Op::kRsqrt:
      return ForType<FRsqrt>(type, aux);
    case Op::kEx2:
      return ForType<FEx2>(type, aux);
    case Op::kLg2:
      return ForType<FLg2>(type, aux);
    case Op::kSin:
      return ForType<FSin>(type, aux);
    case Op::kCos:
      return ForType<FCos>(type, aux);
    case Op::kTanh:
      return ForType<FTanh>(type, aux);
    case Op::kNeg:
      return Sign(false, type, aux);
    case Op::kAbs:
      return Sign(true, type, aux);
    default:
      return nullptr;
  }
}

Handler PickSetp(Type type) { return ByType<PickSetpFor>(type); }

Handler PickSetpPair(Type type) { return type == Type::kF16x2 ? SetpPair<false> : SetpPair<true>; }

Handler PickSet(RegClass destination, Type source) {
  if (source == Type::kF16x2) return SetPair<false>;
  if (source == Type::kBf16x2) return SetPair<true>;
  return destination == RegClass::k16 ? ByType<PickSet16For>(source) : ByType<PickSetFor>(source);
}

Handler PickTestp(Type type) {
  if (type == Type::kF32) return Testp<float>;
  if (type == Type::kF64) return Testp<double>;
  return nullptr;
}

}  // namespace simgpu::ptx
