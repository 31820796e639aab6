// Arithmetic in directed rounding modes. Compiled with -frounding-math, and nothing else lives
// here.
#include <cfenv>
#include <cmath>

#include "simgpu/ptx/half.h"
#include "simgpu/ptx/ops.h"

namespace simgpu::ptx {
namespace {

int HostMode(Round round) {
  switch (round) {
    case Round::kZero:
      return FE_TOWARDZERO;
    case Round::kDown:
      return FE_DOWNWARD;
    case Round::kUp:
      return FE_UPWARD;
    default:
      return FE_TONEAREST;
  }
}

struct DAdd {
  static constexpr int kArity = 2;
  template <class T>
  static T Do(T a, T b, T) {
    return a + b;
  }
};
struct DSub {
  static constexpr int kArity = 2;
  template <class T>
  static T Do(T a, T b, T) {
    return a - b;
  }
};
struct DMul {
  static constexpr int kArity = 2;
  template <class T>
  static T Do(T a, T b, T) {
    return a * b;
  }
};
struct DDiv {
  static constexpr int kArity = 2;
  template <class T>
  static T Do(T a, T b, T) {
    return a / b;
  }
};
struct DFma {
  static constexpr int kArity = 3;
  template <class T>
  static T Do(T a, T b, T c) {
    return std::fma(a, b, c);
  }
};
struct DSqrt {
  static constexpr int kArity = 1;
  template <class T>
  static T Do(T a, T, T) {
    return std::sqrt(a);
  }
};
struct DRcp {
  static constexpr int kArity = 1;
  template <class T>
  static T Do(T a, T, T) {
    return T{1} / a;
  }
};

template <class T, class F>
void Directed(Exec& e, const Instr& i, uint32_t mask) {
  const bool flush = sizeof(T) == 4 && (i.aux & kFtz) != 0;
  std::fesetround(HostMode(static_cast<Round>(i.aux & 15)));
  for (uint32_t m = mask; m != 0; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    // Volatile keeps the operation between the two changes of the rounding mode.
    volatile T x = Reg<T>(e, i.a)[lane];
    volatile T y = F::kArity >= 2 ? Reg<T>(e, i.b)[lane] : T{};
    volatile T z = F::kArity >= 3 ? Reg<T>(e, i.c)[lane] : T{};
    if constexpr (sizeof(T) == 4) {
      if (flush) {
        x = FlushFloat(x);
        y = FlushFloat(y);
        z = FlushFloat(z);
      }
    }
    volatile T out = F::template Do<T>(x, y, z);
    if constexpr (sizeof(T) == 4) {
      if (flush) out = FlushFloat(out);
      if ((i.aux & kSat) != 0) out = out > 0 ? (out < 1 ? out : 1) : 0;
      out = CanonicalFloat(out);
    }
    Reg<T>(e, i.dst)[lane] = out;
  }
  std::fesetround(FE_TONEAREST);
}

template <class T>
Handler For(Op op) {
  switch (op) {
    case Op::kAdd:
      return Directed<T, DAdd>;
    case Op::kSub:
      return Directed<T, DSub>;
    case Op::kMulLo:
      return Directed<T, DMul>;
    case Op::kDiv:
      return Directed<T, DDiv>;
    case Op::kFma:
      return Directed<T, DFma>;
    case Op::kSqrt:
      return Directed<T, DSqrt>;
    case Op::kRcp:
      return Directed<T, DRcp>;
    default:
      return nullptr;
  }
}

}  // namespace

Handler PickDirected(Op op, Type type) {
  if (type == Type::kF32) return For<float>(op);
  if (type == Type::kF64) return For<double>(op);
  return nullptr;
}

// Used by ops_convert.cc: the conversions that round.
float RoundToFloat(double value, Round round) {
  std::fesetround(HostMode(round));
  volatile double in = value;
  volatile float out = static_cast<float>(in);
  std::fesetround(FE_TONEAREST);
  return out;
}
template <class T, class I>
T RoundInteger(I value, Round round) {
  std::fesetround(HostMode(round));
  volatile I in = value;
  volatile T out = static_cast<T>(in);
  std::fesetround(FE_TONEAREST);
  return out;
}
float SignedToFloat(int64_t value, Round round) { return RoundInteger<float>(value, round); }
float UnsignedToFloat(uint64_t value, Round round) { return RoundInteger<float>(value, round); }
double SignedToDouble(int64_t value, Round round) { return RoundInteger<double>(value, round); }
double UnsignedToDouble(uint64_t value, Round round) { return RoundInteger<double>(value, round); }

}  // namespace simgpu::ptx
