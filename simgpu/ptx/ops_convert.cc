// cvt. One generic handler per pair of value classes, with short ones for the conversions that
// loops are full of.
#include <cmath>
#include <limits>
#include <type_traits>

#include "simgpu/ptx/half.h"
#include "simgpu/ptx/ops.h"

// NOLINTBEGIN(bugprone-signed-char-misuse): int8_t is the type .s8 of PTX here, a number.
namespace simgpu::ptx {

float RoundToFloat(double value, Round round);  // rounding.cc
float SignedToFloat(int64_t value, Round round);
float UnsignedToFloat(uint64_t value, Round round);
double SignedToDouble(int64_t value, Round round);
double UnsignedToDouble(uint64_t value, Round round);

namespace {

double RoundIntegral(double v, Round round) {
  switch (round) {
    case Round::kZeroInt:
    case Round::kZero:
      return std::trunc(v);
    case Round::kDownInt:
    case Round::kDown:
      return std::floor(v);
    case Round::kUpInt:
    case Round::kUp:
      return std::ceil(v);
    default:
      return std::nearbyint(v);  // The host stays in round-to-nearest-even.
  }
}

bool IsIntegral(Round round) {
  return round == Round::kNearestInt || round == Round::kZeroInt || round == Round::kDownInt ||
         round == Round::kUpInt;
}

// Clamps to the destination's range; NaN becomes 0 in 32 bits and less, and the top bit in 64 bits.
template <class D>
D ToInteger(double v, Round round) {
  if (v != v) {
    return sizeof(D) == 8 ? static_cast<D>(uint64_t{1} << 63) : D{0};
  }
  v = RoundIntegral(v, round);
  if (v <= static_cast<double>(std::numeric_limits<D>::min())) return std::numeric_limits<D>::min();
  if (v >= std::ldexp(1.0, std::numeric_limits<D>::digits)) return std::numeric_limits<D>::max();
  return static_cast<D>(v);
}

// ---- integer to integer ----

template <class D, class S, class RD, class RS, bool kClamp>
void IntToInt(Exec& e, const Instr& i, uint32_t mask) {
  RD* d = Reg<RD>(e, i.dst);
  const RS* a = Reg<RS>(e, i.a);
  ForLanes(mask, [=](int lane) {
    const S s = static_cast<S>(a[lane]);
    if constexpr (kClamp) {
      __int128 v = s;
      if (v < static_cast<__int128>(std::numeric_limits<D>::min()))
        v = std::numeric_limits<D>::min();
      if (v > static_cast<__int128>(std::numeric_limits<D>::max()))
        v = std::numeric_limits<D>::max();
      d[lane] = static_cast<RD>(static_cast<D>(v));
    } else {
      d[lane] = static_cast<RD>(static_cast<D>(s));
    }
  });
}

template <class S>
struct FloatSource;
struct HalfTag {};
struct BrainTag {};
template <>
struct FloatSource<float> {
  using Bits = uint32_t;
  static double Value(uint32_t bits, bool flush) {
    const float f = std::bit_cast<float>(bits);
    return flush ? FlushFloat(f) : f;
  }
};
template <>
struct FloatSource<double> {
  using Bits = uint64_t;
  static double Value(uint64_t bits, bool) { return std::bit_cast<double>(bits); }
};
template <>
struct FloatSource<HalfTag> {
  using Bits = uint16_t;
  static double Value(uint16_t bits, bool) { return HalfToFloat(bits); }
};
template <>
struct FloatSource<BrainTag> {
  using Bits = uint16_t;
  static double Value(uint16_t bits, bool) { return Bf16ToFloat(bits); }
};

template <class D, class S, class RD, class RS>
void FloatToInt(Exec& e, const Instr& i, uint32_t mask) {
  using Bits = typename FloatSource<S>::Bits;
  RD* d = Reg<RD>(e, i.dst);
  const RS* a = Reg<RS>(e, i.a);
  const Round round = static_cast<Round>(i.aux & 15);
  const bool flush = (i.aux & kFtz) != 0;
  for (uint32_t m = mask; m != 0; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    d[lane] = static_cast<RD>(
        ToInteger<D>(FloatSource<S>::Value(static_cast<Bits>(a[lane]), flush), round));
  }
}

// Integer sources arrive as 64 bits so that every width shares the four rounding routines.
template <class S, class RS>
void IntToFloat(Exec& e, const Instr& i, uint32_t mask, Type to) {
  const RS* a = Reg<RS>(e, i.a);
  Round round = static_cast<Round>(i.aux & 15);
  if (round == Round::kNone) round = Round::kNearest;
  const bool clamp = (i.aux & kSat) != 0;
  for (uint32_t m = mask; m != 0; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const S s = static_cast<S>(a[lane]);
    if (to == Type::kF64) {
      double v;
      if constexpr (std::is_signed_v<S>) {
        v = SignedToDouble(s, round);
      } else {
        v = UnsignedToDouble(s, round);
      }
      if (clamp) v = v > 0 ? (v < 1 ? v : 1.0) : 0.0;
      Reg<double>(e, i.dst)[lane] = v;
    } else if (to == Type::kF32) {
      float v;
      if constexpr (std::is_signed_v<S>) {
        v = SignedToFloat(s, round);
      } else {
        v = UnsignedToFloat(s, round);
      }
      if (clamp) v = v > 0 ? (v < 1 ? v : 1.0f) : 0.0f;
      Reg<float>(e, i.dst)[lane] = v;
    } else {
      // Truncate to a double and keep what was lost as a sticky last bit, so that the one rounding
      // is to 16 bits.
      double v;
      if constexpr (std::is_signed_v<S>) {
        v = SignedToDouble(s, Round::kZero);
      } else {
        v = UnsignedToDouble(s, Round::kZero);
      }
      if (static_cast<__int128>(v) != static_cast<__int128>(s)) {
        v = std::bit_cast<double>(std::bit_cast<uint64_t>(v) | 1);
      }
      if (clamp) v = v > 0 ? (v < 1 ? v : 1.0) : 0.0;
      Reg<uint16_t>(e, i.dst)[lane] = to == Type::kF16 ? ToHalf(v, round) : ToBf16(v, round);
    }
  }
}
template <class S, class RS, Type kTo>
void IntToFloatAs(Exec& e, const Instr& i, uint32_t mask) {
  IntToFloat<S, RS>(e, i, mask, kTo);
}

// The two that kernels run in loops; both exact or correctly rounded by the host's own conversion.
template <class S, class D>
void PlainConvert(Exec& e, const Instr& i, uint32_t mask) {
  D* d = Reg<D>(e, i.dst);
  const S* a = Reg<S>(e, i.a);
  ForLanes(mask, [=](int lane) { d[lane] = static_cast<D>(a[lane]); });
}

template <class S>
void FloatToFloat(Exec& e, const Instr& i, uint32_t mask, Type to) {
  using Bits = typename FloatSource<S>::Bits;
  const Bits* a = Reg<Bits>(e, i.a);
  Round round = static_cast<Round>(i.aux & 15);
  const bool flush = (i.aux & kFtz) != 0;
  const bool clamp = (i.aux & kSat) != 0;
  for (uint32_t m = mask; m != 0; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    double v = FloatSource<S>::Value(a[lane], flush);
    if (IsIntegral(round)) v = RoundIntegral(v, round);
    if (clamp) v = v > 0 ? (v < 1 ? v : 1.0) : 0.0;
    if ((i.aux & kRelu) != 0 && v <= 0) v = 0;
    const Round mode = IsIntegral(round) || round == Round::kNone ? Round::kNearest : round;
    switch (to) {
      case Type::kF64:
        Reg<double>(e, i.dst)[lane] = v;
        break;
      case Type::kF32: {
        float f = sizeof(Bits) == 8 ? RoundToFloat(v, mode) : static_cast<float>(v);
        if (flush) f = FlushFloat(f);
        Reg<float>(e, i.dst)[lane] = CanonicalFloat(f);
        break;
      }
      case Type::kF16:
        Reg<uint16_t>(e, i.dst)[lane] = ToHalf(v, mode);
        break;
      default:
        Reg<uint16_t>(e, i.dst)[lane] = ToBf16(v, mode);
        break;
    }
  }
}
template <class S, Type kTo>
void FloatToFloatAs(Exec& e, const Instr& i, uint32_t mask) {
  FloatToFloat<S>(e, i, mask, kTo);
}

// cvt.rn.f16x2.f32 d, a, b: a is the upper half.
template <bool kBrain>
void Pack2(Exec& e, const Instr& i, uint32_t mask) {
  const float* a = Reg<float>(e, i.a);
  const float* b = Reg<float>(e, i.b);
  uint32_t* d = Reg<uint32_t>(e, i.dst);
  Round round = static_cast<Round>(i.aux & 15);
  if (round == Round::kNone) round = Round::kNearest;
  const bool relu = (i.aux & kRelu) != 0;
  for (uint32_t m = mask; m != 0; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const auto one = [&](float f) -> uint32_t {
      if (relu && f <= 0) f = 0;
      return kBrain ? ToBf16(f, round) : ToHalf(f, round);
    };
    d[lane] = one(a[lane]) << 16 | one(b[lane]);
  }
}

// tf32 is a float whose mantissa keeps 10 bits.
void ConvertTf32(Exec& e, const Instr& i, uint32_t mask) {
  const uint32_t* a = Reg<uint32_t>(e, i.a);
  uint32_t* d = Reg<uint32_t>(e, i.dst);
  const Round round = static_cast<Round>(i.aux & 15);
  for (uint32_t m = mask; m != 0; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    uint32_t bits = a[lane];
    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    if ((i.aux & kRelu) != 0 && !nan && (bits >> 31) != 0) bits = 0;
    if (nan) {
      bits = 0x7fffffffu;
    } else if ((bits & 0x7f800000u) != 0x7f800000u) {
      // Carries run into the exponent, up to infinity, as they should.
      if (round == Round::kNearestAway) bits += 0x1000u;
      if (round == Round::kNearest) bits += 0x0fffu + (bits >> 13 & 1);
      bits &= ~0x1fffu;
    }
    d[lane] = bits;
  }
}

template <class P>
void PackSaturated(Exec& e, const Instr& i, uint32_t mask) {
  const int32_t* a = Reg<int32_t>(e, i.a);
  const int32_t* b = Reg<int32_t>(e, i.b);
  uint32_t* d = Reg<uint32_t>(e, i.dst);
  constexpr int kBits = 8 * sizeof(P);
  const auto clamped = [](int32_t v) -> uint32_t {
    constexpr int32_t kLow = std::numeric_limits<P>::min(), kHigh = std::numeric_limits<P>::max();
    return static_cast<std::make_unsigned_t<P>>(v < kLow ? kLow : v > kHigh ? kHigh : v);
  };
  for (uint32_t m = mask; m != 0; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const uint32_t packed = clamped(a[lane]) << kBits | clamped(b[lane]);
    d[lane] = sizeof(P) == 2 ? packed : Reg<uint32_t>(e, i.c)[lane] << 16 | packed;
  }
}

// ---- selection ----

template <class D, class S, class RS>
Handler IntIntTo(RegClass rd, bool clamp) {
  switch (rd) {
    case RegClass::k16:
      if constexpr (sizeof(D) <= 2)
        return clamp ? IntToInt<D, S, uint16_t, RS, true> : IntToInt<D, S, uint16_t, RS, false>;
      return nullptr;
    case RegClass::k32:
      if constexpr (sizeof(D) <= 4)
        return clamp ? IntToInt<D, S, uint32_t, RS, true> : IntToInt<D, S, uint32_t, RS, false>;
      return nullptr;
    case RegClass::k64:
      return clamp ? IntToInt<D, S, uint64_t, RS, true> : IntToInt<D, S, uint64_t, RS, false>;
    default:
      return nullptr;
  }
}

template <class S, class RS>
Handler IntFrom(Type to, RegClass rd, bool clamp) {
  switch (to) {
    case Type::kU8:
    case Type::kB8:
      return IntIntTo<uint8_t, S, RS>(rd, clamp);
    case Type::kS8:
      return IntIntTo<int8_t, S, RS>(rd, clamp);
    case Type::kU16:
    case Type::kB16:
      return IntIntTo<uint16_t, S, RS>(rd, clamp);
    case Type::kS16:
      return IntIntTo<int16_t, S, RS>(rd, clamp);
    case Type::kU32:
    case Type::kB32:
      return IntIntTo<uint32_t, S, RS>(rd, clamp);
    case Type::kS32:
      return IntIntTo<int32_t, S, RS>(rd, clamp);
    case Type::kU64:
    case Type::kB64:
      return IntIntTo<uint64_t, S, RS>(rd, clamp);
    case Type::kS64:
      return IntIntTo<int64_t, S, RS>(rd, clamp);
    case Type::kF16:
      return rd == RegClass::k16 ? IntToFloatAs<S, RS, Type::kF16> : nullptr;
    case Type::kBf16:
      return rd == RegClass::k16 ? IntToFloatAs<S, RS, Type::kBf16> : nullptr;
    case Type::kF32:
      return rd == RegClass::k32 ? IntToFloatAs<S, RS, Type::kF32> : nullptr;
    case Type::kF64:
      return rd == RegClass::k64 ? IntToFloatAs<S, RS, Type::kF64> : nullptr;
    default:
      return nullptr;
  }
}

template <class S>
Handler IntFromReg(Type to, RegClass rd, RegClass rs, bool clamp) {
  switch (rs) {
    case RegClass::k16:
      if constexpr (sizeof(S) <= 2) return IntFrom<S, uint16_t>(to, rd, clamp);
      return nullptr;
    case RegClass::k32:
      if constexpr (sizeof(S) <= 4) return IntFrom<S, uint32_t>(to, rd, clamp);
      return nullptr;
    case RegClass::k64:
      return IntFrom<S, uint64_t>(to, rd, clamp);
    default:
      return nullptr;
  }
}

template <class D, class S>
Handler FloatIntTo(RegClass rd) {
  using RS = typename FloatSource<S>::Bits;
  switch (rd) {
    case RegClass::k16:
      if constexpr (sizeof(D) <= 2) return FloatToInt<D, S, uint16_t, RS>;
      return nullptr;
    case RegClass::k32:
      if constexpr (sizeof(D) <= 4) return FloatToInt<D, S, uint32_t, RS>;
      return nullptr;
    case RegClass::k64:
      return FloatToInt<D, S, uint64_t, RS>;
    default:
      return nullptr;
  }
}

template <class S>
Handler FloatFrom(Type to, RegClass rd) {
  switch (to) {
    case Type::kU8:
      return FloatIntTo<uint8_t, S>(rd);
    case Type::kS8:
      return FloatIntTo<int8_t, S>(rd);
    case Type::kU16:
      return FloatIntTo<uint16_t, S>(rd);
    case Type::kS16:
      return FloatIntTo<int16_t, S>(rd);
    case Type::kU32:
      return FloatIntTo<uint32_t, S>(rd);
    case Type::kS32:
      return FloatIntTo<int32_t, S>(rd);
    case Type::kU64:
      return FloatIntTo<uint64_t, S>(rd);
    case Type::kS64:
      return FloatIntTo<int64_t, S>(rd);
    case Type::kF16:
      return rd == RegClass::k16 ? FloatToFloatAs<S, Type::kF16> : nullptr;
    case Type::kBf16:
      return rd == RegClass::k16 ? FloatToFloatAs<S, Type::kBf16> : nullptr;
    case Type::kF32:
      return rd == RegClass::k32 ? FloatToFloatAs<S, Type::kF32> : nullptr;
    case Type::kF64:
      return rd == RegClass::k64 ? FloatToFloatAs<S, Type::kF64> : nullptr;
    default:
      return nullptr;
  }
}

}  // namespace

Handler PickConvert(Type to, Type from, RegClass rd, RegClass rs, uint16_t aux) {
  const bool clamp = (aux & kSat) != 0;
  const Round round = static_cast<Round>(aux & 15);
  if (aux == static_cast<uint16_t>(Round::kNearest)) {
    if (to == Type::kF32 && rd == RegClass::k32 && rs == RegClass::k32) {
      if (from == Type::kS32) return PlainConvert<int32_t, float>;
      if (from == Type::kU32) return PlainConvert<uint32_t, float>;
    }
    if (to == Type::kF64 && rd == RegClass::k64 && rs == RegClass::k32) {
      if (from == Type::kS32) return PlainConvert<int32_t, double>;
      if (from == Type::kU32) return PlainConvert<uint32_t, double>;
    }
    if (to == Type::kF32 && from == Type::kF64)
      return rd == RegClass::k32 && rs == RegClass::k64 ? FloatToFloatAs<double, Type::kF32>
                                                        : nullptr;
  }
  if (IsFloat(from) && !IsFloat(to) && round == Round::kNone) return nullptr;  // Needs .r?i.
  switch (from) {
    case Type::kU8:
    case Type::kB8:
      return IntFromReg<uint8_t>(to, rd, rs, clamp);
    case Type::kS8:
      return IntFromReg<int8_t>(to, rd, rs, clamp);
    case Type::kU16:
    case Type::kB16:
      return IntFromReg<uint16_t>(to, rd, rs, clamp);
    case Type::kS16:
      return IntFromReg<int16_t>(to, rd, rs, clamp);
    case Type::kU32:
    case Type::kB32:
      return IntFromReg<uint32_t>(to, rd, rs, clamp);
    case Type::kS32:
      return IntFromReg<int32_t>(to, rd, rs, clamp);
    case Type::kU64:
    case Type::kB64:
      return IntFromReg<uint64_t>(to, rd, rs, clamp);
    case Type::kS64:
      return IntFromReg<int64_t>(to, rd, rs, clamp);
    case Type::kF16:
      return rs == RegClass::k16 ? FloatFrom<HalfTag>(to, rd) : nullptr;
    case Type::kBf16:
      return rs == RegClass::k16 ? FloatFrom<BrainTag>(to, rd) : nullptr;
    case Type::kF32:
      return rs == RegClass::k32 ? FloatFrom<float>(to, rd) : nullptr;
    case Type::kF64:
      return rs == RegClass::k64 ? FloatFrom<double>(to, rd) : nullptr;
    default:
      return nullptr;
  }
}

Handler ConvertTf32Handler() { return ConvertTf32; }

Handler PackSaturatedHandler(Type part) {
  switch (part) {
    case Type::kU8:
      return PackSaturated<uint8_t>;
    case Type::kS8:
      return PackSaturated<int8_t>;
    case Type::kU16:
      return PackSaturated<uint16_t>;
    case Type::kS16:
      return PackSaturated<int16_t>;
    default:
      return nullptr;
  }
}

Handler PickConvertPack(Type to) {
  if (to == Type::kF16x2) return Pack2<false>;
  if (to == Type::kBf16x2) return Pack2<true>;
  return nullptr;
}

}  // namespace simgpu::ptx
// NOLINTEND(bugprone-signed-char-misuse)
