// Conversions between half, bfloat16 and single precision, bit exact, without hardware support.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "simgpu/ptx/ops.h"

namespace simgpu::ptx {

inline float HalfToFloat(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16;
  const uint32_t exponent = h >> 10 & 31;
  const uint32_t mantissa = h & 0x3ff;
  if (exponent == 31) return std::bit_cast<float>(mantissa != 0 ? 0x7fffffffu : sign | 0x7f800000u);
  if (exponent == 0) {
    const float value = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | sign);
  }
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}

inline float Bf16ToFloat(uint16_t b) {
  return std::bit_cast<float>(static_cast<uint32_t>(b) << 16);
}

// Rounds a double (which holds every float and half exactly) to a binary format of `mantissa`
// stored bits and `exponent` bits.
inline uint16_t DoubleToSmall(double value, int mantissa, int exponent, Round mode) {
  const uint64_t bits = std::bit_cast<uint64_t>(value);
  const uint16_t sign = static_cast<uint16_t>(bits >> 63 << 15);
  const int bias = (1 << (exponent - 1)) - 1;
  const uint16_t infinity = static_cast<uint16_t>(((1 << exponent) - 1) << mantissa);
  if (value != value) return 0x7fff;
  const bool negative = sign != 0;
  const double magnitude = std::fabs(value);
  if (std::isinf(magnitude)) return static_cast<uint16_t>(sign | infinity);
  if (magnitude == 0) return sign;
  int e = 0;
  std::frexp(magnitude, &e);  // magnitude = m * 2^e, m in [0.5, 1)
  int quantum = e - 1 - mantissa;
  if (quantum < 1 - bias - mantissa) quantum = 1 - bias - mantissa;
  const double scaled = std::ldexp(magnitude, -quantum);  // Exact: only the exponent moves.
  double whole = std::floor(scaled);
  const double rest = scaled - whole;
  bool up = false;
  switch (mode) {
    case Round::kZero:
      break;
    case Round::kDown:
      up = negative && rest > 0;
      break;
    case Round::kUp:
      up = !negative && rest > 0;
      break;
    case Round::kNearestAway:
      up = rest >= 0.5;
      break;
    default:
      up = rest > 0.5 || (rest == 0.5 && std::fmod(whole, 2) == 1);
      break;
  }
  if (up) whole += 1;
  if (whole >= std::ldexp(1.0, mantissa + 1)) {
    whole /= 2;
    ++quantum;
  }
  const int biased = quantum + mantissa + bias;
  if (whole >= std::ldexp(1.0, mantissa)) {
    if (biased >= (1 << exponent) - 1) {
      const bool to_max = mode == Round::kZero || (mode == Round::kDown && !negative) ||
                          (mode == Round::kUp && negative);
      return static_cast<uint16_t>(sign | (to_max ? infinity - 1 : infinity));
    }
    return static_cast<uint16_t>(sign | biased << mantissa |
                                 (static_cast<int>(whole) - (1 << mantissa)));
  }
  return static_cast<uint16_t>(sign | static_cast<int>(whole));
}

inline uint16_t ToHalf(double value, Round mode = Round::kNearest) {
  return DoubleToSmall(value, 10, 5, mode);
}
inline uint16_t ToBf16(double value, Round mode = Round::kNearest) {
  return DoubleToSmall(value, 7, 8, mode);
}

inline float FlushFloat(float f) {
  const uint32_t bits = std::bit_cast<uint32_t>(f);
  return (bits & 0x7f800000u) == 0 ? std::bit_cast<float>(bits & 0x80000000u) : f;
}
inline float CanonicalFloat(float f) { return f != f ? std::bit_cast<float>(0x7fffffffu) : f; }

}  // namespace simgpu::ptx
