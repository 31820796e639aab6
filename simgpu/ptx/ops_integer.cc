// Integer arithmetic, logic and bit operations. Results for the undefined corners (division by
// zero, INT_MIN / -1) are what the hardware's sequences give: all ones, the dividend, INT_MIN.
#include <limits>
#include <type_traits>

#include "simgpu/ptx/ops.h"

namespace simgpu::ptx {
namespace {

template <class T>
using U = std::make_unsigned_t<T>;
template <class T>
using Twice = std::conditional_t<
    sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, int32_t, uint32_t>,
    std::conditional_t<sizeof(T) == 4, std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>,
                       std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>>>;
template <class T>
using UTwice = Twice<U<T>>;

// 16-bit operands promote to int, whose product may overflow, so multiply in at least 32 unsigned
// bits.
template <class T>
T WrapMul(T a, T b) {
  using W = std::conditional_t<sizeof(T) < 4, uint32_t, U<T>>;
  return static_cast<T>(static_cast<W>(static_cast<U<T>>(a)) *
                        static_cast<W>(static_cast<U<T>>(b)));
}
template <class T>
T MulHigh(T a, T b) {
  return static_cast<T>((static_cast<Twice<T>>(a) * static_cast<Twice<T>>(b)) >> (8 * sizeof(T)));
}

#define SIMGPU_BINARY(name, expression)  \
  struct name {                          \
    template <class T>                   \
    static T Do(T a, T b) {              \
      return static_cast<T>(expression); \
    }                                    \
  }
SIMGPU_BINARY(OAdd, static_cast<U<T>>(a) + static_cast<U<T>>(b));
SIMGPU_BINARY(OSub, static_cast<U<T>>(a) - static_cast<U<T>>(b));
SIMGPU_BINARY(OMulLo, WrapMul(a, b));
SIMGPU_BINARY(OMulHi, MulHigh(a, b));
SIMGPU_BINARY(OMin, a < b ? a : b);
SIMGPU_BINARY(OMax, a > b ? a : b);
SIMGPU_BINARY(OAnd, a& b);
SIMGPU_BINARY(OOr, a | b);
SIMGPU_BINARY(OXor, a ^ b);
#undef SIMGPU_BINARY

struct ODiv {
  template <class T>
  static T Do(T a, T b) {
    if (b == 0) return static_cast<T>(-1);
    if (std::is_signed_v<T> && b == static_cast<T>(-1))
      return static_cast<T>(U<T>{0} - static_cast<U<T>>(a));
    return static_cast<T>(a / b);
  }
};
struct ORem {
  template <class T>
  static T Do(T a, T b) {
    if (b == 0) return a;
    if (std::is_signed_v<T> && b == static_cast<T>(-1)) return 0;
    return static_cast<T>(a % b);
  }
};
struct OAddSat {
  template <class T>
  static T Do(T a, T b) {
    T out;
    if (!__builtin_add_overflow(a, b, &out)) return out;
    return b < 0 ? std::numeric_limits<T>::min() : std::numeric_limits<T>::max();
  }
};
struct OSubSat {
  template <class T>
  static T Do(T a, T b) {
    T out;
    if (!__builtin_sub_overflow(a, b, &out)) return out;
    return b < 0 ? std::numeric_limits<T>::max() : std::numeric_limits<T>::min();
  }
};
inline int64_t Product24(uint32_t a, uint32_t b, bool is_signed) {
  if (!is_signed)
    return static_cast<int64_t>(static_cast<uint64_t>(a & 0xffffffu) * (b & 0xffffffu));
  return static_cast<int64_t>(static_cast<int32_t>(a << 8) >> 8) *
         (static_cast<int32_t>(b << 8) >> 8);
}
template <bool kHigh>
struct OMul24 {
  template <class T>
  static T Do(T a, T b) {
    const int64_t p =
        Product24(static_cast<uint32_t>(a), static_cast<uint32_t>(b), std::is_signed_v<T>);
    return static_cast<T>(kHigh ? p >> 16 : p);
  }
};

template <class T, class F>
void Binary(Exec& e, const Instr& i, uint32_t mask) {
  T* d = Reg<T>(e, i.dst);
  const T* a = Reg<T>(e, i.a);
  const T* b = Reg<T>(e, i.b);
  ForLanes(mask, [=](int lane) { d[lane] = F::template Do<T>(a[lane], b[lane]); });
}

template <class T>
void MulWide(Exec& e, const Instr& i, uint32_t mask) {
  Twice<T>* d = Reg<Twice<T>>(e, i.dst);
  const T* a = Reg<T>(e, i.a);
  const T* b = Reg<T>(e, i.b);
  ForLanes(mask, [=](int lane) {
    d[lane] = static_cast<Twice<T>>(a[lane]) * static_cast<Twice<T>>(b[lane]);
  });
}

// Shifts take a 32-bit amount whatever the type and clamp it.
template <class T, bool kLeft>
void Shift(Exec& e, const Instr& i, uint32_t mask) {
  T* d = Reg<T>(e, i.dst);
  const T* a = Reg<T>(e, i.a);
  const uint32_t* b = Reg<uint32_t>(e, i.b);
  constexpr uint32_t kBits = 8 * sizeof(T);
  ForLanes(mask, [=](int lane) {
    const uint32_t n = b[lane];
    if constexpr (kLeft) {
      d[lane] = n >= kBits ? T{0} : static_cast<T>(static_cast<U<T>>(a[lane]) << n);
    } else if constexpr (std::is_signed_v<T>) {
      d[lane] = static_cast<T>(a[lane] >> (n >= kBits ? kBits - 1 : n));
    } else {
      d[lane] = n >= kBits ? T{0} : static_cast<T>(a[lane] >> n);
    }
  });
}

struct ONeg {
  template <class T>
  static T Do(T a) {
    return static_cast<T>(U<T>{0} - static_cast<U<T>>(a));
  }
};
struct OAbs {
  template <class T>
  static T Do(T a) {
    return a < 0 ? ONeg::Do<T>(a) : a;
  }
};
struct ONot {
  template <class T>
  static T Do(T a) {
    return static_cast<T>(~a);
  }
};
struct OCnot {
  template <class T>
  static T Do(T a) {
    return a == 0 ? T{1} : T{0};
  }
};
struct OMov {
  template <class T>
  static T Do(T a) {
    return a;
  }
};
struct OBrev {
  template <class T>
  static T Do(T a) {
    U<T> in = static_cast<U<T>>(a), out = 0;
    for (size_t bit = 0; bit < 8 * sizeof(T); ++bit, in >>= 1)
      out = static_cast<U<T>>(out << 1 | (in & 1));
    return static_cast<T>(out);
  }
};

template <class T, class F>
void Unary(Exec& e, const Instr& i, uint32_t mask) {
  T* d = Reg<T>(e, i.dst);
  const T* a = Reg<T>(e, i.a);
  ForLanes(mask, [=](int lane) { d[lane] = F::template Do<T>(a[lane]); });
}

struct OPopc {
  template <class T>
  static uint32_t Do(T a) {
    return static_cast<uint32_t>(__builtin_popcountll(static_cast<U<T>>(a)));
  }
};
struct OClz {
  template <class T>
  static uint32_t Do(T a) {
    constexpr uint32_t kBits = 8 * sizeof(T);
    return a == 0 ? kBits
                  : static_cast<uint32_t>(__builtin_clzll(static_cast<U<T>>(a))) - (64 - kBits);
  }
};
template <bool kShiftAmount>
struct OBfind {
  template <class T>
  static uint32_t Do(T a) {
    constexpr uint32_t kBits = 8 * sizeof(T);
    U<T> bits = static_cast<U<T>>(a);
    if (std::is_signed_v<T> && a < 0) bits = static_cast<U<T>>(~bits);
    if (bits == 0) return 0xffffffffu;
    const uint32_t msb = 63 - static_cast<uint32_t>(__builtin_clzll(bits));
    return kShiftAmount ? kBits - 1 - msb : msb;
  }
};
template <class T, class F>
void UnaryTo32(Exec& e, const Instr& i, uint32_t mask) {
  uint32_t* d = Reg<uint32_t>(e, i.dst);
  const T* a = Reg<T>(e, i.a);
  ForLanes(mask, [=](int lane) { d[lane] = F::template Do<T>(a[lane]); });
}

struct OMadLo {
  template <class T>
  static T Do(T a, T b, T c) {
    return static_cast<T>(static_cast<U<T>>(WrapMul(a, b)) + static_cast<U<T>>(c));
  }
};
struct OMadHi {
  template <class T>
  static T Do(T a, T b, T c) {
    return static_cast<T>(static_cast<U<T>>(MulHigh(a, b)) + static_cast<U<T>>(c));
  }
};
template <bool kHigh>
struct OMad24 {
  template <class T>
  static T Do(T a, T b, T c) {
    return static_cast<T>(static_cast<U<T>>(OMul24<kHigh>::template Do<T>(a, b)) +
                          static_cast<U<T>>(c));
  }
};
struct OSad {
  template <class T>
  static T Do(T a, T b, T c) {
    const U<T> difference = static_cast<U<T>>(a < b ? static_cast<U<T>>(b) - static_cast<U<T>>(a)
                                                    : static_cast<U<T>>(a) - static_cast<U<T>>(b));
    return static_cast<T>(static_cast<U<T>>(c) + difference);
  }
};
template <class T, class F>
void Ternary(Exec& e, const Instr& i, uint32_t mask) {
  T* d = Reg<T>(e, i.dst);
  const T* a = Reg<T>(e, i.a);
  const T* b = Reg<T>(e, i.b);
  const T* c = Reg<T>(e, i.c);
  ForLanes(mask, [=](int lane) { d[lane] = F::template Do<T>(a[lane], b[lane], c[lane]); });
}

template <class T>
void MadWide(Exec& e, const Instr& i, uint32_t mask) {
  UTwice<T>* d = Reg<UTwice<T>>(e, i.dst);
  const T* a = Reg<T>(e, i.a);
  const T* b = Reg<T>(e, i.b);
  const UTwice<T>* c = Reg<UTwice<T>>(e, i.c);
  ForLanes(mask, [=](int lane) {
    d[lane] =
        static_cast<UTwice<T>>(static_cast<Twice<T>>(a[lane]) * static_cast<Twice<T>>(b[lane])) +
        c[lane];
  });
}

template <class T>
void Bfe(Exec& e, const Instr& i, uint32_t mask) {
  T* d = Reg<T>(e, i.dst);
  const T* a = Reg<T>(e, i.a);
  const uint32_t* b = Reg<uint32_t>(e, i.b);
  const uint32_t* c = Reg<uint32_t>(e, i.c);
  constexpr uint32_t kMsb = 8 * sizeof(T) - 1;
  ForLanes(mask, [=](int lane) {
    const uint32_t pos = b[lane] & 0xff, len = c[lane] & 0xff;
    const U<T> bits = static_cast<U<T>>(a[lane]);
    bool sign = false;
    if (std::is_signed_v<T> && len != 0)
      sign = bits >> (pos + len - 1 < kMsb ? pos + len - 1 : kMsb) & 1;
    U<T> out = pos > kMsb ? 0 : bits >> pos;
    if (len <= kMsb) {
      // Bits past the source's top come from the sign.
      if (sign && pos + len - 1 > kMsb) {
        const uint32_t have = pos > kMsb ? 0 : kMsb - pos + 1;
        if (have < kMsb + 1) out |= have == 0 ? ~U<T>{0} : static_cast<U<T>>(~U<T>{0} << have);
      }
      out &= static_cast<U<T>>((U<T>{1} << len) - 1);
      if (sign) out |= static_cast<U<T>>(~U<T>{0} << len);
    } else if (sign && pos > 0) {
      out |= pos > kMsb ? ~U<T>{0} : static_cast<U<T>>(~U<T>{0} << (kMsb - pos + 1));
    }
    d[lane] = static_cast<T>(out);
  });
}

// bfi d, a, b, pos, len: sources a (field), b (into), c (pos), d (len).
template <class T>
void Bfi(Exec& e, const Instr& i, uint32_t mask) {
  T* to = Reg<T>(e, i.dst);
  const T* a = Reg<T>(e, i.a);
  const T* b = Reg<T>(e, i.b);
  const uint32_t* p = Reg<uint32_t>(e, i.c);
  const uint32_t* n = Reg<uint32_t>(e, i.d);
  constexpr uint32_t kBits = 8 * sizeof(T);
  ForLanes(mask, [=](int lane) {
    const uint32_t pos = p[lane] & 0xff, len = n[lane] & 0xff;
    if (pos >= kBits || len == 0) {
      to[lane] = b[lane];
      return;
    }
    const T field =
        static_cast<T>((len >= kBits ? ~T{0} : static_cast<T>((T{1} << len) - 1)) << pos);
    to[lane] = static_cast<T>((b[lane] & ~field) | (static_cast<T>(a[lane] << pos) & field));
  });
}

template <class T>
void Selp(Exec& e, const Instr& i, uint32_t mask) {
  T* d = Reg<T>(e, i.dst);
  const T* a = Reg<T>(e, i.a);
  const T* b = Reg<T>(e, i.b);
  const uint32_t p = *Reg<uint32_t>(e, i.c) ^ ((i.aux & 1) != 0 ? kFullMask : 0);
  ForLanes(mask, [=](int lane) { d[lane] = (p >> lane & 1) != 0 ? a[lane] : b[lane]; });
}

// slct d, a, b, c: aux 0 compares c as s32, 1 as f32.
template <class T>
void Slct(Exec& e, const Instr& i, uint32_t mask) {
  T* d = Reg<T>(e, i.dst);
  const T* a = Reg<T>(e, i.a);
  const T* b = Reg<T>(e, i.b);
  const int32_t* c = Reg<int32_t>(e, i.c);
  for (uint32_t m = mask; m != 0; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    bool first = c[lane] >= 0;
    if (i.aux == 1) {
      float f;
      std::memcpy(&f, &c[lane], 4);
      first = f >= 0;
    }
    d[lane] = first ? a[lane] : b[lane];
  }
}

// Extended precision: the carry flag is one bit a lane in e.carry.
template <class T, bool kSubtract, bool kIn, bool kOut>
void Carry(Exec& e, const Instr& i, uint32_t mask) {
  T* d = Reg<T>(e, i.dst);
  const T* a = Reg<T>(e, i.a);
  const T* b = Reg<T>(e, i.b);
  for (uint32_t m = mask; m != 0; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const T in = kIn ? static_cast<T>(e.carry >> lane & 1) : T{0};
    T sum;
    bool out;
    if constexpr (kSubtract) {
      out = __builtin_sub_overflow(a[lane], b[lane], &sum);
      out = __builtin_sub_overflow(sum, in, &sum) || out;
    } else {
      out = __builtin_add_overflow(a[lane], b[lane], &sum);
      out = __builtin_add_overflow(sum, in, &sum) || out;
    }
    d[lane] = sum;
    if (kOut) e.carry = (e.carry & ~(1u << lane)) | (out ? 1u << lane : 0);
  }
}

template <class T, bool kHigh, bool kIn, bool kOut>
void MadCarry(Exec& e, const Instr& i, uint32_t mask) {
  using V = U<T>;
  V* d = Reg<V>(e, i.dst);
  const T* a = Reg<T>(e, i.a);
  const T* b = Reg<T>(e, i.b);
  const V* c = Reg<V>(e, i.c);
  for (uint32_t m = mask; m != 0; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const V product = static_cast<V>(kHigh ? MulHigh(a[lane], b[lane]) : WrapMul(a[lane], b[lane]));
    const V in = kIn ? static_cast<V>(e.carry >> lane & 1) : V{0};
    V sum;
    bool out = __builtin_add_overflow(product, c[lane], &sum);
    out = __builtin_add_overflow(sum, in, &sum) || out;
    d[lane] = sum;
    if (kOut) e.carry = (e.carry & ~(1u << lane)) | (out ? 1u << lane : 0);
  }
}

// prmt: aux 0 = generic selector, else 1 f4e, 2 b4e, 3 rc8, 4 ecl, 5 ecr, 6 rc16.
void Prmt(Exec& e, const Instr& i, uint32_t mask) {
  uint32_t* d = Reg<uint32_t>(e, i.dst);
  const uint32_t* a = Reg<uint32_t>(e, i.a);
  const uint32_t* b = Reg<uint32_t>(e, i.b);
  const uint32_t* c = Reg<uint32_t>(e, i.c);
  const uint16_t mode = i.aux;
  ForLanes(mask, [=](int lane) {
    const uint64_t bytes = static_cast<uint64_t>(b[lane]) << 32 | a[lane];
    const uint32_t s = c[lane];
    uint32_t out = 0;
    for (uint32_t k = 0; k < 4; ++k) {
      const uint32_t n = s & 3;
      uint32_t select = s >> (4 * k) & 15;
      switch (mode) {
        case 1:
          select = n + k;
          break;
        case 2:
          select = (n - k) & 7;
          break;
        case 3:
          select = n;
          break;
        case 4:
          select = k > n ? k : n;
          break;
        case 5:
          select = k < n ? k : n;
          break;
        case 6:
          select = (n & 1) * 2 + (k & 1);
          break;
        default:
          break;
      }
      uint32_t byte = static_cast<uint32_t>(bytes >> (8 * (select & 7))) & 0xff;
      if (mode == 0 && (select & 8) != 0) byte = (byte & 0x80) != 0 ? 0xff : 0;
      out |= byte << (8 * k);
    }
    d[lane] = out;
  });
}

void Lop3(Exec& e, const Instr& i, uint32_t mask) {
  uint32_t* d = Reg<uint32_t>(e, i.dst);
  const uint32_t* a = Reg<uint32_t>(e, i.a);
  const uint32_t* b = Reg<uint32_t>(e, i.b);
  const uint32_t* c = Reg<uint32_t>(e, i.c);
  const uint32_t table = static_cast<uint32_t>(i.imm);
  ForLanes(mask, [=](int lane) {
    uint32_t out = 0;
    for (uint32_t k = 0; k < 8; ++k) {
      const uint32_t on = (table >> k & 1) != 0 ? ~0u : 0u;
      out |= on & ((k & 4) != 0 ? a[lane] : ~a[lane]) & ((k & 2) != 0 ? b[lane] : ~b[lane]) &
             ((k & 1) != 0 ? c[lane] : ~c[lane]);
    }
    d[lane] = out;
  });
}

template <bool kLeft, bool kWrap>
void Shf(Exec& e, const Instr& i, uint32_t mask) {
  uint32_t* d = Reg<uint32_t>(e, i.dst);
  const uint32_t* a = Reg<uint32_t>(e, i.a);
  const uint32_t* b = Reg<uint32_t>(e, i.b);
  const uint32_t* c = Reg<uint32_t>(e, i.c);
  ForLanes(mask, [=](int lane) {
    const uint64_t both = static_cast<uint64_t>(b[lane]) << 32 | a[lane];
    const uint32_t n = kWrap ? c[lane] & 31 : (c[lane] < 32 ? c[lane] : 32);
    d[lane] = static_cast<uint32_t>(kLeft ? both << n >> 32 : both >> n);
  });
}

template <bool kWrap>
void Bmsk(Exec& e, const Instr& i, uint32_t mask) {
  uint32_t* d = Reg<uint32_t>(e, i.dst);
  const uint32_t* a = Reg<uint32_t>(e, i.a);
  const uint32_t* b = Reg<uint32_t>(e, i.b);
  ForLanes(mask, [=](int lane) {
    const uint32_t pos = kWrap ? a[lane] & 31 : (a[lane] < 32 ? a[lane] : 32);
    const uint32_t len = kWrap ? b[lane] & 31 : (b[lane] < 32 ? b[lane] : 32);
    d[lane] = static_cast<uint32_t>(((uint64_t{1} << len) - 1) << pos);
  });
}

template <class T, bool kWrap>
void Szext(Exec& e, const Instr& i, uint32_t mask) {
  uint32_t* d = Reg<uint32_t>(e, i.dst);
  const uint32_t* a = Reg<uint32_t>(e, i.a);
  const uint32_t* b = Reg<uint32_t>(e, i.b);
  ForLanes(mask, [=](int lane) {
    const uint32_t n = kWrap ? b[lane] & 31 : (b[lane] < 32 ? b[lane] : 32);
    uint32_t out = static_cast<uint32_t>(a[lane] & ((uint64_t{1} << n) - 1));
    if (std::is_signed_v<T> && n > 0 && n < 32 && (out >> (n - 1) & 1) != 0) out |= ~0u << n;
    d[lane] = out;
  });
}

template <bool kSignedA, bool kSignedB>
void Dp4a(Exec& e, const Instr& i, uint32_t mask) {
  uint32_t* d = Reg<uint32_t>(e, i.dst);
  const uint32_t* a = Reg<uint32_t>(e, i.a);
  const uint32_t* b = Reg<uint32_t>(e, i.b);
  const uint32_t* c = Reg<uint32_t>(e, i.c);
  ForLanes(mask, [=](int lane) {
    uint32_t sum = c[lane];
    for (int k = 0; k < 4; ++k) {
      const uint8_t x = static_cast<uint8_t>(a[lane] >> (8 * k)),
                    y = static_cast<uint8_t>(b[lane] >> (8 * k));
      const int32_t p =
          (kSignedA ? static_cast<int8_t>(x) : x) * (kSignedB ? static_cast<int8_t>(y) : y);
      sum += static_cast<uint32_t>(p);
    }
    d[lane] = sum;
  });
}

// fns d, mask, base, offset: the position of the n-th set bit.
void Fns(Exec& e, const Instr& i, uint32_t mask) {
  for (uint32_t m = mask; m != 0; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const uint32_t bits = Reg<uint32_t>(e, i.a)[lane];
    const uint32_t base = Reg<uint32_t>(e, i.b)[lane];
    const int32_t offset = Reg<int32_t>(e, i.c)[lane];
    uint32_t out = 0xffffffffu;
    if (base < 32 && offset == 0) {
      out = (bits >> base & 1) != 0 ? base : 0xffffffffu;
    } else if (base < 32) {
      const int step = offset > 0 ? 1 : -1;
      int64_t left = offset > 0 ? offset : -static_cast<int64_t>(offset);
      for (int pos = static_cast<int>(base); pos >= 0 && pos < 32; pos += step) {
        if ((bits >> pos & 1) != 0 && --left == 0) {
          out = static_cast<uint32_t>(pos);
          break;
        }
      }
    }
    Reg<uint32_t>(e, i.dst)[lane] = out;
  }
}

template <int kOp>
void Predicate(Exec& e, const Instr& i, uint32_t mask) {
  const uint32_t a = *Reg<uint32_t>(e, i.a);
  const uint32_t b = i.b == kNoReg ? 0 : *Reg<uint32_t>(e, i.b);
  uint32_t out = a;
  if constexpr (kOp == 0) out = a & b;
  if constexpr (kOp == 1) out = a | b;
  if constexpr (kOp == 2) out = a ^ b;
  if constexpr (kOp == 3) out = ~a;
  uint32_t& d = *Reg<uint32_t>(e, i.dst);
  d = (d & ~mask) | (out & mask);
}

template <class T>
Handler Arithmetic(Op op) {
  switch (op) {
    case Op::kAdd:
      return Binary<T, OAdd>;
    case Op::kSub:
      return Binary<T, OSub>;
    case Op::kMulLo:
      return Binary<T, OMulLo>;
    case Op::kMulHi:
      return Binary<T, OMulHi>;
    case Op::kMulWide:
      if constexpr (sizeof(T) <= 4) return MulWide<T>;
      return nullptr;
    case Op::kDiv:
      return Binary<T, ODiv>;
    case Op::kRem:
      return Binary<T, ORem>;
    case Op::kMin:
      return Binary<T, OMin>;
    case Op::kMax:
      return Binary<T, OMax>;
    case Op::kShr:
      return Shift<T, false>;
    case Op::kNeg:
      return std::is_signed_v<T> ? Unary<T, ONeg> : nullptr;
    case Op::kAbs:
      return std::is_signed_v<T> ? Unary<T, OAbs> : nullptr;
    case Op::kMadLo:
      return Ternary<T, OMadLo>;
    case Op::kMadHi:
      return Ternary<T, OMadHi>;
    case Op::kMadWide:
      if constexpr (sizeof(T) <= 4) return MadWide<T>;
      return nullptr;
    case Op::kSad:
      return Ternary<T, OSad>;
    default:
      break;
  }
  if constexpr (sizeof(T) == 4) {
    switch (op) {
      case Op::kAddSat:
        return std::is_signed_v<T> ? Binary<T, OAddSat> : nullptr;
      case Op::kSubSat:
        return std::is_signed_v<T> ? Binary<T, OSubSat> : nullptr;
      case Op::kMul24Lo:
        return Binary<T, OMul24<false>>;
      case Op::kMul24Hi:
        return Binary<T, OMul24<true>>;
      case Op::kMad24Lo:
        return Ternary<T, OMad24<false>>;
      case Op::kMad24Hi:
        return Ternary<T, OMad24<true>>;
      case Op::kBmskClamp:
        return Bmsk<false>;
      case Op::kBmskWrap:
        return Bmsk<true>;
      case Op::kSzextClamp:
        return Szext<T, false>;
      case Op::kSzextWrap:
        return Szext<T, true>;
      default:
        break;
    }
  }
  if constexpr (sizeof(T) >= 4) {
    using V = U<T>;
    switch (op) {
      case Op::kBfe:
        return Bfe<T>;
      case Op::kBfind:
        return UnaryTo32<T, OBfind<false>>;
      case Op::kBfindShift:
        return UnaryTo32<T, OBfind<true>>;
      case Op::kAddCc:
        return Carry<V, false, false, true>;
      case Op::kAddc:
        return Carry<V, false, true, false>;
      case Op::kAddcCc:
        return Carry<V, false, true, true>;
      case Op::kSubCc:
        return Carry<V, true, false, true>;
      case Op::kSubc:
        return Carry<V, true, true, false>;
      case Op::kSubcCc:
        return Carry<V, true, true, true>;
      case Op::kMadLoCc:
        return MadCarry<T, false, false, true>;
      case Op::kMadHiCc:
        return MadCarry<T, true, false, true>;
      case Op::kMadcLo:
        return MadCarry<T, false, true, false>;
      case Op::kMadcHi:
        return MadCarry<T, true, true, false>;
      case Op::kMadcLoCc:
        return MadCarry<T, false, true, true>;
      case Op::kMadcHiCc:
        return MadCarry<T, true, true, true>;
      default:
        break;
    }
  }
  return nullptr;
}

template <class T>
Handler Bits(Op op) {
  switch (op) {
    case Op::kAnd:
      return Binary<T, OAnd>;
    case Op::kOr:
      return Binary<T, OOr>;
    case Op::kXor:
      return Binary<T, OXor>;
    case Op::kNot:
      return Unary<T, ONot>;
    case Op::kCnot:
      return Unary<T, OCnot>;
    case Op::kShl:
      return Shift<T, true>;
    case Op::kShr:
      return Shift<T, false>;
    case Op::kMov:
      return Unary<T, OMov>;
    case Op::kSelp:
      return Selp<T>;
    case Op::kSlct:
      return Slct<T>;
    default:
      break;
  }
  if constexpr (sizeof(T) >= 4) {
    switch (op) {
      case Op::kPopc:
        return UnaryTo32<T, OPopc>;
      case Op::kClz:
        return UnaryTo32<T, OClz>;
      case Op::kBrev:
        return Unary<T, OBrev>;
      case Op::kBfi:
        return Bfi<T>;
      default:
        break;
    }
  }
  if constexpr (sizeof(T) == 4) {
    switch (op) {
      case Op::kPrmt:
        return Prmt;
      case Op::kLop3:
        return Lop3;
      case Op::kShfLeftWrap:
        return Shf<true, true>;
      case Op::kShfLeftClamp:
        return Shf<true, false>;
      case Op::kShfRightWrap:
        return Shf<false, true>;
      case Op::kShfRightClamp:
        return Shf<false, false>;
      case Op::kFns:
        return Fns;
      case Op::kDp4aUU:
        return Dp4a<false, false>;
      case Op::kDp4aUS:
        return Dp4a<false, true>;
      case Op::kDp4aSU:
        return Dp4a<true, false>;
      case Op::kDp4aSS:
        return Dp4a<true, true>;
      case Op::kBmskClamp:
        return Bmsk<false>;
      case Op::kBmskWrap:
        return Bmsk<true>;
      default:
        break;
    }
  }
  return nullptr;
}

}  // namespace

bool IsSigned(Type t) {
  return t == Type::kS8 || t == Type::kS16 || t == Type::kS32 || t == Type::kS64;
}
bool IsFloat(Type t) { return t >= Type::kF16 && t <= Type::kF64; }

uint32_t Bytes(Type t) {
  switch (t) {
    case Type::kNone:
    case Type::kPred:
      return 0;
    case Type::kB8:
    case Type::kU8:
    case Type::kS8:
      return 1;
    case Type::kB16:
    case Type::kU16:
    case Type::kS16:
    case Type::kF16:
    case Type::kBf16:
      return 2;
    case Type::kB32:
    case Type::kU32:
    case Type::kS32:
    case Type::kF16x2:
    case Type::kBf16x2:
    case Type::kF32:
      return 4;
    case Type::kB64:
    case Type::kU64:
    case Type::kS64:
    case Type::kF64:
      return 8;
    case Type::kB128:
      return 16;
  }
  return 0;
}

Handler PickInteger(Op op, Type type) {
  if (IsFloat(type) && op != Op::kMov && op != Op::kSelp && op != Op::kSlct) return nullptr;
  switch (type) {
    case Type::kU16:
      if (Handler h = Arithmetic<uint16_t>(op)) return h;
      break;
    case Type::kS16:
      if (Handler h = Arithmetic<int16_t>(op)) return h;
      break;
    case Type::kU32:
      if (Handler h = Arithmetic<uint32_t>(op)) return h;
      break;
    case Type::kS32:
      if (Handler h = Arithmetic<int32_t>(op)) return h;
      break;
    case Type::kU64:
      if (Handler h = Arithmetic<uint64_t>(op)) return h;
      break;
    case Type::kS64:
      if (Handler h = Arithmetic<int64_t>(op)) return h;
      break;
    default:
      break;
  }
  switch (Bytes(type)) {
    case 2:
      return Bits<uint16_t>(op);
    case 4:
      return Bits<uint32_t>(op);
    case 8:
      return Bits<uint64_t>(op);
    default:
      return nullptr;
  }
}

Handler PickPredicate(int op) {
  switch (op) {
    case 0:
      return Predicate<0>;
    case 1:
      return Predicate<1>;
    case 2:
      return Predicate<2>;
    case 3:
      return Predicate<3>;
    default:
      return Predicate<4>;
  }
}

}  // namespace simgpu::ptx
