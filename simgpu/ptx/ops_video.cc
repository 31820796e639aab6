// Two or four small integers packed in a word.
#include <algorithm>

#include "simgpu/ptx/ops.h"

namespace simgpu::ptx {
namespace {

template <int kParts>
void Video(Exec& e, const Instr& i, uint32_t mask) {
  constexpr int kBits = 32 / kParts;
  constexpr uint32_t kPart = (1u << kBits) - 1;
  const int op = i.aux & 15;
  const bool accumulates = (i.aux & 16) != 0, saturates = (i.aux & 32) != 0;
  const bool signed_a = (i.aux & 64) != 0, signed_b = (i.aux & 128) != 0,
             signed_d = (i.aux & 256) != 0;
  const int compare = i.aux >> 9 & 7;
  const auto part = [](uint32_t word, int k, bool is_signed) {
    const uint32_t bits = word >> (k * kBits) & kPart;
    const int32_t sign = is_signed && (bits >> (kBits - 1)) != 0 ? 1 << kBits : 0;
    return static_cast<int32_t>(bits) - sign;
  };
  for (uint32_t m = mask; m != 0; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const uint32_t a = Reg<uint32_t>(e, i.a)[lane], b = Reg<uint32_t>(e, i.b)[lane];
    const uint32_t c = Reg<uint32_t>(e, i.c)[lane];
    uint32_t packed = 0;
    uint32_t sum = c;
    for (int k = 0; k < kParts; ++k) {
      const int32_t x = part(a, k, signed_a), y = part(b, k, signed_b);
      int32_t out = 0;
      switch (op) {
        case 0:
          out = x + y;
          break;
        case 1:
          out = x - y;
          break;
        case 2:  // Rounds away from zero.
          out = x + y + (x + y >= 0 ? 1 : 0);
          out >>= 1;
          break;
        case 3:
          out = x < y ? y - x : x - y;
          break;
        case 4:
          out = std::min(x, y);
          break;
        case 5:
          out = std::max(x, y);
          break;
        default: {
          const bool yes[] = {x == y, x != y, x<y, x <= y, x> y, x >= y};
          out = yes[compare] ? 1 : 0;
          break;
        }
      }
      if (saturates) {
        out = signed_d ? std::clamp(out, -(1 << (kBits - 1)), (1 << (kBits - 1)) - 1)
                       : std::clamp(out, 0, static_cast<int32_t>(kPart));
      }
      sum += static_cast<uint32_t>(out);
      packed |= (static_cast<uint32_t>(out) & kPart) << (k * kBits);
    }
    Reg<uint32_t>(e, i.dst)[lane] = accumulates ? sum : packed;
  }
}

template <bool kSignedA, bool kSignedB, bool kHigh>
void Dp2a(Exec& e, const Instr& i, uint32_t mask) {
  uint32_t* d = Reg<uint32_t>(e, i.dst);
  const uint32_t* a = Reg<uint32_t>(e, i.a);
  const uint32_t* b = Reg<uint32_t>(e, i.b);
  const uint32_t* c = Reg<uint32_t>(e, i.c);
  ForLanes(mask, [=](int lane) {
    uint32_t sum = c[lane];
    for (int k = 0; k < 2; ++k) {
      const uint16_t x = static_cast<uint16_t>(a[lane] >> (16 * k));
      const uint8_t y = static_cast<uint8_t>(b[lane] >> (8 * (k + (kHigh ? 2 : 0))));
      const int32_t p =
          (kSignedA ? static_cast<int16_t>(x) : x) * (kSignedB ? static_cast<int8_t>(y) : y);
      sum += static_cast<uint32_t>(p);
    }
    d[lane] = sum;
  });
}

template <bool kSignedA, bool kSignedB>
Handler Dp2aOf(bool high) {
  return high ? Dp2a<kSignedA, kSignedB, true> : Dp2a<kSignedA, kSignedB, false>;
}

}  // namespace

Handler VideoHandler(int parts) { return parts == 2 ? Video<2> : Video<4>; }

Handler Dp2aHandler(bool signed_a, bool signed_b, bool high) {
  if (signed_a) return signed_b ? Dp2aOf<true, true>(high) : Dp2aOf<true, false>(high);
  return signed_b ? Dp2aOf<false, true>(high) : Dp2aOf<false, false>(high);
}

}  // namespace simgpu::ptx
