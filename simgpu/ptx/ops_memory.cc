// Loads, stores and atomics. Every lane's access is checked: alignment, then bounds of its state
// space.
#include <cstdio>

#include "simgpu/ptx/half.h"
#include "simgpu/ptx/ops.h"

// NOLINTBEGIN(bugprone-signed-char-misuse): int8_t is the type .s8 of PTX here, a number.
namespace simgpu::ptx {
namespace {

std::string Hex(uint64_t value) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

const char* SpaceName(Space space) {
  switch (space) {
    case Space::kShared:
      return "shared";
    case Space::kLocal:
      return "local";
    case Space::kParam:
      return "param";
    default:
      return "global";
  }
}

template <Space S>
inline uint8_t* Translate(Exec& e, const Instr& i, uint64_t address, uint32_t bytes, int lane,
                          bool write) {
  if ((address & (bytes - 1)) == 0) {
    if constexpr (S == Space::kShared) {
      if (address <= e.shared_bytes && bytes <= e.shared_bytes - address) return e.shared + address;
    } else if constexpr (S == Space::kLocal) {
      if (address <= e.local_bytes && bytes <= e.local_bytes - address) {
        return e.local + static_cast<size_t>(lane) * e.local_bytes + address;
      }
    } else {
      // The cache holds a range of device memory, so a generic address in another window misses it.
      const RangeCache& cache = e.caches[i.site];
      const uint64_t offset = address - cache.base;
      if (offset < cache.size && bytes <= cache.size - offset && (!write || cache.writable))
        return cache.host + offset;
    }
  }
  return TranslateSlow(e, i, S, address, bytes, lane, write);
}

// Addresses of all lanes at once, so that the loop over lanes does not look at the register's
// width.
inline void Addresses(Exec& e, const Instr& i, uint64_t* out) {
  const uint64_t imm = static_cast<uint64_t>(i.imm);
  if (i.address32) {
    const uint32_t* a = Reg<uint32_t>(e, i.a);
    for (int lane = 0; lane < kWarpSize; ++lane)
      out[lane] = static_cast<uint32_t>(a[lane] + static_cast<uint32_t>(imm));
  } else {
    const uint64_t* a = Reg<uint64_t>(e, i.a);
    for (int lane = 0; lane < kWarpSize; ++lane) out[lane] = a[lane] + imm;
  }
}

// How the lanes of a whole warp address memory, most often.
enum class Pattern { kAny, kSame, kRow };

inline Pattern PatternOf(const uint64_t* address, uint64_t bytes) {
  uint64_t same = 0, row = 0;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    same |= address[lane] ^ address[0];
    row |= address[lane] ^ (address[0] + static_cast<uint64_t>(lane) * bytes);
  }
  return row == 0 ? Pattern::kRow : same == 0 ? Pattern::kSame : Pattern::kAny;
}

// The host's bytes of a row of elements that one look at the range finds within bounds, or null:
// then the lanes are looked at one by one, which also finds who is at fault.
template <Space S>
inline uint8_t* Row(Exec& e, const Instr& i, uint64_t address, uint32_t element, bool write) {
  const uint64_t bytes = uint64_t{element} * kWarpSize;
  if ((address & (element - 1)) != 0) return nullptr;
  if constexpr (S == Space::kShared) {
    return address <= e.shared_bytes && bytes <= e.shared_bytes - address ? e.shared + address
                                                                          : nullptr;
  } else if constexpr (S == Space::kGlobal || S == Space::kGeneric) {
    const RangeCache& cache = e.caches[i.site];
    const uint64_t offset = address - cache.base;
    return offset < cache.size && bytes <= cache.size - offset && (!write || cache.writable)
               ? cache.host + offset
               : nullptr;
  }
  return nullptr;
}

template <class M, class D, Space S>
void Load(Exec& e, const Instr& i, uint32_t mask) {
  uint64_t address[kWarpSize];
  Addresses(e, i, address);
  if (i.count <= 1) {
    D* d = Reg<D>(e, i.dst);
    if (S != Space::kLocal && mask == kFullMask) {
      const Pattern pattern = PatternOf(address, sizeof(M));
      if (pattern == Pattern::kRow) {
        if (const uint8_t* p = Row<S>(e, i, address[0], sizeof(M), false)) {
          M values[kWarpSize];
          std::memcpy(values, p, sizeof values);
          SIMGPU_VECTORIZE
          for (int lane = 0; lane < kWarpSize; ++lane) d[lane] = static_cast<D>(values[lane]);
          return;
        }
      } else if (pattern == Pattern::kSame &&
                 (S != Space::kGeneric || address[0] < kSharedWindow)) {
        // Not through a generic address of local memory: that is another place for every lane.
        const uint8_t* p = Translate<S>(e, i, address[0], sizeof(M), 0, false);
        if (p == nullptr) return;
        M value;
        std::memcpy(&value, p, sizeof value);
        const D wide = static_cast<D>(value);
        SIMGPU_VECTORIZE
        for (int lane = 0; lane < kWarpSize; ++lane) d[lane] = wide;
        return;
      }
    }
    for (uint32_t m = mask; m != 0; m &= m - 1) {
      const int lane = __builtin_ctz(m);
      const uint8_t* p = Translate<S>(e, i, address[lane], sizeof(M), lane, false);
      if (p == nullptr) return;
      M value;
      std::memcpy(&value, p, sizeof value);
      d[lane] = static_cast<D>(value);
    }
    return;
  }
  const uint32_t* parts = &e.frame->function->extra[i.extra];
  for (uint32_t m = mask; m != 0; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const uint8_t* p =
        Translate<S>(e, i, address[lane], static_cast<uint32_t>(sizeof(M)) * i.count, lane, false);
    if (p == nullptr) return;
    for (int k = 0; k < i.count; ++k) {
      if (parts[k] == kNoReg) continue;
      M value;
      std::memcpy(&value, p + sizeof(M) * static_cast<size_t>(k), sizeof value);
      Reg<D>(e, parts[k])[lane] = static_cast<D>(value);
    }
  }
}

template <class M, class D, Space S>
void Store(Exec& e, const Instr& i, uint32_t mask) {
  uint64_t address[kWarpSize];
  Addresses(e, i, address);
  if (i.count <= 1) {
    const D* b = Reg<D>(e, i.b);
    if (S != Space::kLocal && mask == kFullMask && PatternOf(address, sizeof(M)) == Pattern::kRow) {
      if (uint8_t* p = Row<S>(e, i, address[0], sizeof(M), true)) {
        M values[kWarpSize];
        SIMGPU_VECTORIZE
        for (int lane = 0; lane < kWarpSize; ++lane) values[lane] = static_cast<M>(b[lane]);
        std::memcpy(p, values, sizeof values);
        return;
      }
    }
    for (uint32_t m = mask; m != 0; m &= m - 1) {
      const int lane = __builtin_ctz(m);
      uint8_t* p = Translate<S>(e, i, address[lane], sizeof(M), lane, true);
      if (p == nullptr) return;
      const M value = static_cast<M>(b[lane]);
      std::memcpy(p, &value, sizeof value);
    }
    return;
  }
  const uint32_t* parts = &e.frame->function->extra[i.extra];
  for (uint32_t m = mask; m != 0; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    uint8_t* p =
        Translate<S>(e, i, address[lane], static_cast<uint32_t>(sizeof(M)) * i.count, lane, true);
    if (p == nullptr) return;
    for (int k = 0; k < i.count; ++k) {
      const M value = static_cast<M>(Reg<D>(e, parts[k])[lane]);
      std::memcpy(p + sizeof(M) * static_cast<size_t>(k), &value, sizeof value);
    }
  }
}

template <class M, class D>
void LoadParam(Exec& e, const Instr& i, uint32_t mask) {
  const int parts = i.count <= 1 ? 1 : i.count;
  for (int k = 0; k < parts; ++k) {
    const uint32_t to =
        i.count <= 1 ? i.dst : e.frame->function->extra[i.extra + static_cast<uint32_t>(k)];
    if (to == kNoReg) continue;
    M value;
    std::memcpy(&value, e.params + i.imm + sizeof(M) * static_cast<size_t>(k), sizeof value);
    D* d = Reg<D>(e, to);
    ForLanes(mask, [&](int lane) { d[lane] = static_cast<D>(value); });
  }
}

template <class M, Space S>
Handler LoadFor(RegClass cls) {
  switch (cls) {
    case RegClass::k16:
      if constexpr (sizeof(M) <= 2) return Load<M, uint16_t, S>;
      return nullptr;
    case RegClass::k32:
      if constexpr (sizeof(M) <= 4) return Load<M, uint32_t, S>;
      return nullptr;
    case RegClass::k64:
      return Load<M, uint64_t, S>;
    default:
      return nullptr;
  }
}

template <class M, Space S>
Handler StoreFor(RegClass cls) {
  switch (cls) {
    case RegClass::k16:
      if constexpr (sizeof(M) <= 2) return Store<M, uint16_t, S>;
      return nullptr;
    case RegClass::k32:
      if constexpr (sizeof(M) <= 4) return Store<M, uint32_t, S>;
      return nullptr;
    case RegClass::k64:
      return Store<M, uint64_t, S>;
    default:
      return nullptr;
  }
}

template <Space S>
Handler LoadIn(Type type, RegClass cls) {
  switch (type) {
    case Type::kS8:
      return LoadFor<int8_t, S>(cls);
    case Type::kS16:
      return LoadFor<int16_t, S>(cls);
    case Type::kS32:
      return LoadFor<int32_t, S>(cls);
    default:
      break;
  }
  switch (Bytes(type)) {
    case 1:
      return LoadFor<uint8_t, S>(cls);
    case 2:
      return LoadFor<uint16_t, S>(cls);
    case 4:
      return LoadFor<uint32_t, S>(cls);
    case 8:
      return LoadFor<uint64_t, S>(cls);
    default:
      return nullptr;
  }
}

template <Space S>
Handler StoreIn(Type type, RegClass cls) {
  switch (Bytes(type)) {
    case 1:
      return StoreFor<uint8_t, S>(cls);
    case 2:
      return StoreFor<uint16_t, S>(cls);
    case 4:
      return StoreFor<uint32_t, S>(cls);
    case 8:
      return StoreFor<uint64_t, S>(cls);
    default:
      return nullptr;
  }
}

template <class M>
Handler ParamFor(RegClass cls) {
  switch (cls) {
    case RegClass::k16:
      if constexpr (sizeof(M) <= 2) return LoadParam<M, uint16_t>;
      return nullptr;
    case RegClass::k32:
      if constexpr (sizeof(M) <= 4) return LoadParam<M, uint32_t>;
      return nullptr;
    case RegClass::k64:
      return LoadParam<M, uint64_t>;
    default:
      return nullptr;
  }
}

// ---- atomics ----
// Host atomics, because other workers and other launches touch the same device memory.

struct AAdd {
  template <class T>
  static T Do(T old, T b) {
    return static_cast<T>(old + b);
  }
};
struct AMin {
  template <class T>
  static T Do(T old, T b) {
    return b < old ? b : old;
  }
};
struct AMax {
  template <class T>
  static T Do(T old, T b) {
    return b > old ? b : old;
  }
};
struct AExch {
  template <class T>
  static T Do(T, T b) {
    return b;
  }
};
struct AAnd {
  template <class T>
  static T Do(T old, T b) {
    return static_cast<T>(old & b);
  }
};
struct AOr {
  template <class T>
  static T Do(T old, T b) {
    return static_cast<T>(old | b);
  }
};
struct AXor {
  template <class T>
  static T Do(T old, T b) {
    return static_cast<T>(old ^ b);
  }
};
struct AInc {
  template <class T>
  static T Do(T old, T b) {
    return old >= b ? T{0} : static_cast<T>(old + 1);
  }
};
struct ADec {
  template <class T>
  static T Do(T old, T b) {
    return old == 0 || old > b ? b : static_cast<T>(old - 1);
  }
};

template <size_t N>
struct UnsignedOf;
template <>
struct UnsignedOf<2> {
  using type = uint16_t;
};
template <>
struct UnsignedOf<4> {
  using type = uint32_t;
};
template <>
struct UnsignedOf<8> {
  using type = uint64_t;
};

template <class T, class F, Space S>
void Atomic(Exec& e, const Instr& i, uint32_t mask) {
  using U = typename UnsignedOf<sizeof(T)>::type;
  uint64_t address[kWarpSize];
  Addresses(e, i, address);
  const T* b = Reg<T>(e, i.b);
  for (uint32_t m = mask; m != 0; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    uint8_t* p = Translate<S>(e, i, address[lane], sizeof(T), lane, true);
    if (p == nullptr) return;
    U* word = reinterpret_cast<U*>(p);
    U old = __atomic_load_n(word, __ATOMIC_RELAXED);
    while (true) {
      T value, next;
      std::memcpy(&value, &old, sizeof value);
      next = F::Do(value, b[lane]);
      U bits;
      std::memcpy(&bits, &next, sizeof bits);
      if (__atomic_compare_exchange_n(word, &old, bits, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
        break;
    }
    if (i.dst != kNoReg) Reg<U>(e, i.dst)[lane] = old;
  }
}

// One or two halves in a word; each is rounded on its own, in one exchange of the word.
template <class U, bool kBrain, Space S>
void AtomicHalf(Exec& e, const Instr& i, uint32_t mask) {
  uint64_t address[kWarpSize];
  Addresses(e, i, address);
  const U* b = Reg<U>(e, i.b);
  const auto add = [](uint16_t x, uint16_t y) {
    const auto in = [](uint16_t h) {
      return static_cast<double>(kBrain ? Bf16ToFloat(h) : HalfToFloat(h));
    };
    const double sum = in(x) + in(y);
    return kBrain ? ToBf16(sum) : ToHalf(sum);
  };
  for (uint32_t m = mask; m != 0; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    uint8_t* p = Translate<S>(e, i, address[lane], sizeof(U), lane, true);
    if (p == nullptr) return;
    U* word = reinterpret_cast<U*>(p);
    U old = __atomic_load_n(word, __ATOMIC_RELAXED);
    while (true) {
      U next = add(static_cast<uint16_t>(old), static_cast<uint16_t>(b[lane]));
      if constexpr (sizeof(U) == 4) {
        next |= static_cast<U>(
                    add(static_cast<uint16_t>(old >> 16), static_cast<uint16_t>(b[lane] >> 16)))
                << 16;
      }
      if (__atomic_compare_exchange_n(word, &old, next, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
        break;
    }
    if (i.dst != kNoReg) Reg<U>(e, i.dst)[lane] = old;
  }
}

template <class U, Space S>
void CompareAndSwap(Exec& e, const Instr& i, uint32_t mask) {
  uint64_t address[kWarpSize];
  Addresses(e, i, address);
  const U* b = Reg<U>(e, i.b);
  const U* c = Reg<U>(e, i.c);
  for (uint32_t m = mask; m != 0; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    uint8_t* p = Translate<S>(e, i, address[lane], sizeof(U), lane, true);
    if (p == nullptr) return;
    U old = b[lane];
    __atomic_compare_exchange_n(reinterpret_cast<U*>(p), &old, c[lane], false, __ATOMIC_SEQ_CST,
                                __ATOMIC_SEQ_CST);
    if (i.dst != kNoReg) Reg<U>(e, i.dst)[lane] = old;
  }
}

template <class T, Space S>
Handler AtomicInteger(Atom op) {
  using U = std::make_unsigned_t<T>;
  switch (op) {
    case Atom::kAdd:
      return Atomic<U, AAdd, S>;
    case Atom::kMin:
      return Atomic<T, AMin, S>;
    case Atom::kMax:
      return Atomic<T, AMax, S>;
    case Atom::kExch:
      return Atomic<U, AExch, S>;
    case Atom::kCas:
      return CompareAndSwap<U, S>;
    case Atom::kAnd:
      return Atomic<U, AAnd, S>;
    case Atom::kOr:
      return Atomic<U, AOr, S>;
    case Atom::kXor:
      return Atomic<U, AXor, S>;
    case Atom::kInc:
      return sizeof(T) == 4 ? Atomic<U, AInc, S> : nullptr;
    case Atom::kDec:
      return sizeof(T) == 4 ? Atomic<U, ADec, S> : nullptr;
  }
  return nullptr;
}

template <Space S>
Handler AtomicIn(Atom op, Type type) {
  switch (type) {
    case Type::kB16:
      return op == Atom::kCas ? CompareAndSwap<uint16_t, S> : nullptr;
    case Type::kB32:
    case Type::kU32:
      return AtomicInteger<uint32_t, S>(op);
    case Type::kS32:
      return AtomicInteger<int32_t, S>(op);
    case Type::kB64:
    case Type::kU64:
      return AtomicInteger<uint64_t, S>(op);
    case Type::kS64:
      return AtomicInteger<int64_t, S>(op);
    case Type::kF32:
      return op == Atom::kAdd ? Atomic<float, AAdd, S> : nullptr;
    case Type::kF64:
      return op == Atom::kAdd ? Atomic<double, AAdd, S> : nullptr;
    case Type::kF16:
      return op == Atom::kAdd ? AtomicHalf<uint16_t, false, S> : nullptr;
    case Type::kF16x2:
      return op == Atom::kAdd ? AtomicHalf<uint32_t, false, S> : nullptr;
    case Type::kBf16:
      return op == Atom::kAdd ? AtomicHalf<uint16_t, true, S> : nullptr;
    case Type::kBf16x2:
      return op == Atom::kAdd ? AtomicHalf<uint32_t, true, S> : nullptr;
    default:
      return nullptr;
  }
}

}  // namespace

uint8_t* TranslateSlow(Exec& e, const Instr& i, Space space, uint64_t address, uint32_t bytes,
                       int lane, bool write, uint32_t align) {
  if (space == Space::kGeneric) {
    const uint64_t window = address >> 48;
    const uint64_t offset = address & ((uint64_t{1} << 48) - 1);
    if (window == kSharedWindow >> 48)
      return TranslateSlow(e, i, Space::kShared, offset, bytes, lane, write, align);
    if (window == kLocalWindow >> 48)
      return TranslateSlow(e, i, Space::kLocal, offset, bytes, lane, write, align);
    if (window == kParamWindow >> 48)
      return TranslateSlow(e, i, Space::kParam, offset, bytes, lane, write, align);
    if (window == kGridWindow >> 48 && e.grid_workspace != nullptr && (offset & (align - 1)) == 0 &&
        offset + bytes <= kGridWorkspaceBytes)
      return e.grid_workspace + offset;
    space = Space::kGlobal;
  }
  const auto what = [&](const char* why) {
    return std::string(why) + " " + SpaceName(space) + " address " + Hex(address) + " (" +
           std::to_string(bytes) + "-byte " + (write ? "write" : "read") + ")";
  };
  if ((address & (align - 1)) != 0) {
    e.Fail(Status::kMisalignedAddress, lane, what("misaligned"));
    return nullptr;
  }
  if (space == Space::kShared) {
    if (address <= e.shared_bytes && bytes <= e.shared_bytes - address) return e.shared + address;
  } else if (space == Space::kLocal) {
    if (address <= e.local_bytes && bytes <= e.local_bytes - address) {
      return e.local + static_cast<size_t>(lane) * e.local_bytes + address;
    }
  } else if (space == Space::kParam) {
    if (!write && address <= e.param_bytes && bytes <= e.param_bytes - address) {
      return const_cast<uint8_t*>(e.params) + address;  // Read only: writes were refused above.
    }
  } else {
    MemoryRange range;
    if (address < kSharedWindow && e.memory->Resolve(address, &range) && range.host != nullptr &&
        address - range.base < range.size && bytes <= range.size - (address - range.base) &&
        (!write || range.writable)) {
      e.caches[i.site] = {range.base, range.size, range.host, range.writable};
      return range.host + (address - range.base);
    }
  }
  e.Fail(Status::kIllegalAddress, lane, what("illegal"));
  return nullptr;
}

Handler PickLoad(Space space, Type type, RegClass cls) {
  switch (space) {
    case Space::kShared:
      return LoadIn<Space::kShared>(type, cls);
    case Space::kLocal:
      return LoadIn<Space::kLocal>(type, cls);
    case Space::kGlobal:
    case Space::kConst:
      return LoadIn<Space::kGlobal>(type, cls);
    default:
      return LoadIn<Space::kGeneric>(type, cls);
  }
}

Handler PickStore(Space space, Type type, RegClass cls) {
  switch (space) {
    case Space::kShared:
      return StoreIn<Space::kShared>(type, cls);
    case Space::kLocal:
      return StoreIn<Space::kLocal>(type, cls);
    case Space::kGlobal:
      return StoreIn<Space::kGlobal>(type, cls);
    case Space::kConst:
      return nullptr;
    default:
      return StoreIn<Space::kGeneric>(type, cls);
  }
}

Handler LoadParamHandler(Type type, RegClass cls) {
  switch (type) {
    case Type::kS8:
      return ParamFor<int8_t>(cls);
    case Type::kS16:
      return ParamFor<int16_t>(cls);
    case Type::kS32:
      return ParamFor<int32_t>(cls);
    default:
      break;
  }
  switch (Bytes(type)) {
    case 1:
      return ParamFor<uint8_t>(cls);
    case 2:
      return ParamFor<uint16_t>(cls);
    case 4:
      return ParamFor<uint32_t>(cls);
    case 8:
      return ParamFor<uint64_t>(cls);
    default:
      return nullptr;
  }
}

Handler PickAtomic(Space space, Atom op, Type type) {
  switch (space) {
    case Space::kShared:
      return AtomicIn<Space::kShared>(op, type);
    case Space::kGlobal:
      return AtomicIn<Space::kGlobal>(op, type);
    case Space::kGeneric:
      return AtomicIn<Space::kGeneric>(op, type);
    default:
      return nullptr;
  }
}

}  // namespace simgpu::ptx
// NOLINTEND(bugprone-signed-char-misuse)
