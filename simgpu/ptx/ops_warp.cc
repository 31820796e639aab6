// Special registers, moves of parts, address conversions and the operations that look across lanes.
#include <atomic>
#include <chrono>

#include "simgpu/ptx/ops.h"

namespace simgpu::ptx {
namespace {

uint64_t UniformSpecial(const Exec& e, Special special) {
  const LaunchConfig& config = *e.config;
  const auto clock = [&]() -> uint64_t {
    if (config.clock) return config.clock();
    return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                     std::chrono::steady_clock::now().time_since_epoch())
                                     .count());
  };
  const auto ticks = [&] {
    return static_cast<uint64_t>(static_cast<unsigned __int128>(clock()) * config.clock_khz /
                                 1'000'000);
  };
  switch (special) {
    case Special::kNtidX:
      return config.block[0];
    case Special::kNtidY:
      return config.block[1];
    case Special::kNtidZ:
      return config.block[2];
    case Special::kCtaidX:
      return e.ctaid[0];
    case Special::kCtaidY:
      return e.ctaid[1];
    case Special::kCtaidZ:
      return e.ctaid[2];
    case Special::kNctaidX:
      return config.grid[0];
    case Special::kNctaidY:
      return config.grid[1];
    case Special::kNctaidZ:
      return config.grid[2];
    case Special::kWarpId:
      return e.warp_id;
    case Special::kNwarpId:
      return kMaxThreadsPerBlock / kWarpSize;
    case Special::kSmId:
      return e.worker;
    case Special::kNsmId:
      return config.workers;
    case Special::kWarpSize:
      return kWarpSize;
    case Special::kClock:
      return ticks() & 0xffffffffu;
    case Special::kClockHi:
      return ticks() >> 32;
    case Special::kClock64:
      return ticks();
    case Special::kGlobalTimer:
      return clock();
    case Special::kGlobalTimerLo:
      return clock() & 0xffffffffu;
    case Special::kGlobalTimerHi:
      return clock() >> 32;
    case Special::kDynamicSmemSize:
      return config.dynamic_shared_bytes;
    case Special::kTotalSmemSize:
      return e.shared_bytes;
    case Special::kGridId:
      return e.grid_id;
    case Special::kGridWorkspaceLow:
      return config.cooperative ? kGridWindow & 0xffffffffu : 0;
    case Special::kGridWorkspaceHigh:
      return config.cooperative ? kGridWindow >> 32 : 0;
    case Special::kOne:
      return 1;
    default:
      return 0;
  }
}

// aux carries the Special.
template <class D>
void MovUniform(Exec& e, const Instr& i, uint32_t mask) {
  const D value = static_cast<D>(UniformSpecial(e, static_cast<Special>(i.aux)));
  D* d = Reg<D>(e, i.dst);
  ForLanes(mask, [&](int lane) { d[lane] = value; });
}

template <class D>
void MovLane(Exec& e, const Instr& i, uint32_t mask) {
  D* d = Reg<D>(e, i.dst);
  const Special special = static_cast<Special>(i.aux);
  if (special >= Special::kTidX && special <= Special::kTidZ) {
    const uint32_t* tid = e.tid[static_cast<int>(special) - static_cast<int>(Special::kTidX)];
    ForLanes(mask, [&](int lane) { d[lane] = static_cast<D>(tid[lane]); });
    return;
  }
  for (uint32_t m = mask; m != 0; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const uint32_t eq = 1u << lane;
    uint32_t value = 0;
    switch (special) {
      case Special::kLaneId:
        value = static_cast<uint32_t>(lane);
        break;
      case Special::kLaneMaskEq:
        value = eq;
        break;
      case Special::kLaneMaskLt:
        value = eq - 1;
        break;
      case Special::kLaneMaskLe:
        value = eq | (eq - 1);
        break;
      case Special::kLaneMaskGt:
        value = ~(eq | (eq - 1));
        break;
      case Special::kLaneMaskGe:
        value = ~(eq - 1);
        break;
      default:
        break;
    }
    d[lane] = value;
  }
}

template <class D>
void LocalAddress(Exec& e, const Instr& i, uint32_t mask) {
  const uint64_t value =
      e.frame->local_base + static_cast<uint64_t>(i.imm) + (i.aux == 1 ? kLocalWindow : 0);
  D* d = Reg<D>(e, i.dst);
  ForLanes(mask, [&](int lane) { d[lane] = static_cast<D>(value); });
}

template <class W, class P>
void Pack(Exec& e, const Instr& i, uint32_t mask) {
  constexpr int kParts = sizeof(W) / sizeof(P);
  W out[kWarpSize] = {};
  const uint32_t* parts = &e.frame->function->extra[i.extra];
  for (int k = 0; k < kParts; ++k) {
    const P* p = Reg<P>(e, parts[k]);
    for (int lane = 0; lane < kWarpSize; ++lane) {
      out[lane] =
          static_cast<W>(out[lane] | static_cast<W>(static_cast<W>(p[lane])
                                                    << (8 * sizeof(P) * static_cast<size_t>(k))));
    }
  }
  W* d = Reg<W>(e, i.dst);
  ForLanes(mask, [&](int lane) { d[lane] = out[lane]; });
}

template <class W, class P>
void Unpack(Exec& e, const Instr& i, uint32_t mask) {
  constexpr int kParts = sizeof(W) / sizeof(P);
  W in[kWarpSize];
  std::memcpy(in, Reg<W>(e, i.a), sizeof in);
  const uint32_t* parts = &e.frame->function->extra[i.extra];
  for (int k = 0; k < kParts; ++k) {
    if (parts[k] == kNoReg) continue;
    P* p = Reg<P>(e, parts[k]);
    ForLanes(mask, [&](int lane) {
      p[lane] = static_cast<P>(in[lane] >> (8 * sizeof(P) * static_cast<size_t>(k)));
    });
  }
}

void Fence(Exec&, const Instr&, uint32_t) { std::atomic_thread_fence(std::memory_order_seq_cst); }

template <class A>
void Isspacep(Exec& e, const Instr& i, uint32_t mask) {
  const A* a = Reg<A>(e, i.a);
  uint32_t result = 0;
  for (uint32_t m = mask; m != 0; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const uint64_t window = static_cast<uint64_t>(a[lane]) >> 48;
    bool in = false;
    switch (static_cast<Space>(i.aux)) {
      case Space::kShared:
        in = window == kSharedWindow >> 48;
        break;
      case Space::kLocal:
        in = window == kLocalWindow >> 48;
        break;
      case Space::kParam:
        in = window == kParamWindow >> 48;
        break;
      default:
        in = window == 0;
        break;
    }
    if (in) result |= 1u << lane;
  }
  uint32_t& p = *Reg<uint32_t>(e, i.dst);
  p = (p & ~mask) | result;
}

template <int kSpace, bool kTo>
void Cvta(Exec& e, const Instr& i, uint32_t mask) {
  constexpr Space kS = static_cast<Space>(kSpace);
  constexpr uint64_t kWindow = kS == Space::kShared  ? kSharedWindow
                               : kS == Space::kLocal ? kLocalWindow
                               : kS == Space::kParam ? kParamWindow
                                                     : 0;
  uint64_t* d = Reg<uint64_t>(e, i.dst);
  const uint64_t* a = Reg<uint64_t>(e, i.a);
  ForLanes(mask, [&](int lane) { d[lane] = kTo ? a[lane] & ~kWindow : a[lane] | kWindow; });
}

void SetPredicate(Exec& e, uint32_t to, uint32_t mask, uint32_t value) {
  if (to == kNoReg) return;
  uint32_t& p = *Reg<uint32_t>(e, to);
  p = (p & ~mask) | (value & mask);
}

template <int kMode>
void Shfl(Exec& e, const Instr& i, uint32_t mask) {
  uint32_t value[kWarpSize];
  std::memcpy(value, Reg<uint32_t>(e, i.b), sizeof value);
  uint32_t out[kWarpSize];
  const uint32_t* lanes = Reg<uint32_t>(e, i.c);
  const uint32_t* clamps = Reg<uint32_t>(e, i.d);
  uint32_t valid = 0;
  for (uint32_t m = mask; m != 0; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const int b = static_cast<int>(lanes[lane] & 31);
    const int clamp = static_cast<int>(clamps[lane] & 31);
    const int segment = static_cast<int>(clamps[lane] >> 8 & 31);
    const int max_lane = (lane & segment) | (clamp & ~segment);
    const int min_lane = lane & segment;
    int j = lane;
    bool in = false;
    if constexpr (kMode == 0) {
      j = lane - b;
      in = j >= max_lane;
    } else if constexpr (kMode == 1) {
      j = lane + b;
      in = j <= max_lane;
    } else if constexpr (kMode == 2) {
      j = lane ^ b;
      in = j <= max_lane;
    } else {
      j = min_lane | (b & ~segment);
      in = j <= max_lane;
    }
    if (!in) j = lane;
    out[lane] = value[j & 31];
    if (in) valid |= 1u << lane;
  }
  if (i.dst != kNoReg) {
    uint32_t* d = Reg<uint32_t>(e, i.dst);
    for (uint32_t m = mask; m != 0; m &= m - 1) d[__builtin_ctz(m)] = out[__builtin_ctz(m)];
  }
  SetPredicate(e, e.frame->function->extra[i.extra], mask, valid);
}

// Lanes may carry different member masks; each lane looks at its own members among those that run
// here.
template <int kMode>
void Vote(Exec& e, const Instr& i, uint32_t mask) {
  const uint32_t* members = Reg<uint32_t>(e, i.a);
  const uint32_t p = *Reg<uint32_t>(e, i.b) ^ ((i.aux & 1) != 0 ? kFullMask : 0);
  uint32_t result = 0;
  uint32_t* d = kMode == 3 && i.dst != kNoReg ? Reg<uint32_t>(e, i.dst) : nullptr;
  for (uint32_t m = mask; m != 0; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const uint32_t here = members[lane] & mask;
    const uint32_t yes = p & here;
    bool vote = false;
    if constexpr (kMode == 0) vote = yes == here;
    if constexpr (kMode == 1) vote = yes != 0;
    if constexpr (kMode == 2) vote = yes == here || yes == 0;
    if (vote) result |= 1u << lane;
    if (d != nullptr) d[lane] = yes;
  }
  if constexpr (kMode != 3) SetPredicate(e, i.dst, mask, result);
}

template <class T>
void MatchAny(Exec& e, const Instr& i, uint32_t mask) {
  const uint32_t* members = Reg<uint32_t>(e, i.a);
  T value[kWarpSize];
  std::memcpy(value, Reg<T>(e, i.b), sizeof value);
  uint32_t out[kWarpSize];
  for (uint32_t m = mask; m != 0; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    out[lane] = 0;
    for (uint32_t o = mask & members[lane]; o != 0; o &= o - 1) {
      if (value[__builtin_ctz(o)] == value[lane]) out[lane] |= 1u << __builtin_ctz(o);
    }
  }
  uint32_t* d = Reg<uint32_t>(e, i.dst);
  for (uint32_t m = mask; m != 0; m &= m - 1) d[__builtin_ctz(m)] = out[__builtin_ctz(m)];
}

template <class T>
void MatchAll(Exec& e, const Instr& i, uint32_t mask) {
  const uint32_t* members = Reg<uint32_t>(e, i.a);
  T value[kWarpSize];
  std::memcpy(value, Reg<T>(e, i.b), sizeof value);
  uint32_t all = 0;
  for (uint32_t m = mask; m != 0; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    bool same = true;
    for (uint32_t o = mask & members[lane]; o != 0; o &= o - 1)
      same = same && value[__builtin_ctz(o)] == value[lane];
    if (same) all |= 1u << lane;
    if (i.dst != kNoReg) Reg<uint32_t>(e, i.dst)[lane] = same ? mask & members[lane] : 0;
  }
  SetPredicate(e, e.frame->function->extra[i.extra], mask, all);
}

template <class T, int kOp>
void Redux(Exec& e, const Instr& i, uint32_t mask) {
  const uint32_t* members = Reg<uint32_t>(e, i.a);
  T value[kWarpSize];
  std::memcpy(value, Reg<T>(e, i.b), sizeof value);
  T* d = Reg<T>(e, i.dst);
  for (uint32_t m = mask; m != 0; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    bool first = true;
    T sum{};
    for (uint32_t o = mask & members[lane]; o != 0; o &= o - 1) {
      const T v = value[__builtin_ctz(o)];
      if (first) {
        sum = v;
      } else if constexpr (kOp == 0) {
        sum = static_cast<T>(static_cast<uint32_t>(sum) + static_cast<uint32_t>(v));
      } else if constexpr (kOp == 1) {
        sum = v < sum ? v : sum;
      } else if constexpr (kOp == 2) {
        sum = v > sum ? v : sum;
      } else if constexpr (kOp == 3) {
        sum = static_cast<T>(sum & v);
      } else if constexpr (kOp == 4) {
        sum = static_cast<T>(sum | v);
      } else {
        sum = static_cast<T>(sum ^ v);
      }
      first = false;
    }
    d[lane] = sum;
  }
}

void Activemask(Exec& e, const Instr& i, uint32_t mask) {
  uint32_t* d = Reg<uint32_t>(e, i.dst);
  ForLanes(mask, [&](int lane) { d[lane] = mask; });
}

void Elect(Exec& e, const Instr& i, uint32_t mask) {
  const uint32_t* members = Reg<uint32_t>(e, i.a);
  uint32_t elected = 0;
  for (uint32_t m = mask; m != 0; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const uint32_t here = members[lane] & mask;
    const uint32_t leader = here == 0 ? 0 : static_cast<uint32_t>(__builtin_ctz(here));
    if (leader == static_cast<uint32_t>(lane)) elected |= 1u << lane;
    if (i.dst != kNoReg) Reg<uint32_t>(e, i.dst)[lane] = leader;
  }
  SetPredicate(e, e.frame->function->extra[i.extra], mask, elected);
}

template <class T>
Handler ReduxFor(Atom op) {
  switch (op) {
    case Atom::kAdd:
      return Redux<T, 0>;
    case Atom::kMin:
      return Redux<T, 1>;
    case Atom::kMax:
      return Redux<T, 2>;
    case Atom::kAnd:
      return Redux<T, 3>;
    case Atom::kOr:
      return Redux<T, 4>;
    case Atom::kXor:
      return Redux<T, 5>;
    default:
      return nullptr;
  }
}

template <int kSpace>
Handler CvtaFor(bool to) {
  return to ? Cvta<kSpace, true> : Cvta<kSpace, false>;
}

}  // namespace

Handler SpecialHandler(Special special, bool wide) {
  const bool lane = (special >= Special::kTidX && special <= Special::kTidZ) ||
                    special == Special::kLaneId ||
                    (special >= Special::kLaneMaskEq && special <= Special::kLaneMaskGt);
  if (lane) return wide ? MovLane<uint64_t> : MovLane<uint32_t>;
  return wide ? MovUniform<uint64_t> : MovUniform<uint32_t>;
}

Handler LocalAddressHandler() { return LocalAddress<uint64_t>; }
Handler LocalAddress32Handler() { return LocalAddress<uint32_t>; }

Handler PackHandler(Type whole, int parts) {
  if (Bytes(whole) == 8 && parts == 2) return Pack<uint64_t, uint32_t>;
  if (Bytes(whole) == 8 && parts == 4) return Pack<uint64_t, uint16_t>;
  if (Bytes(whole) == 4 && parts == 2) return Pack<uint32_t, uint16_t>;
  return nullptr;
}

Handler UnpackHandler(Type whole, int parts) {
  if (Bytes(whole) == 8 && parts == 2) return Unpack<uint64_t, uint32_t>;
  if (Bytes(whole) == 8 && parts == 4) return Unpack<uint64_t, uint16_t>;
  if (Bytes(whole) == 4 && parts == 2) return Unpack<uint32_t, uint16_t>;
  return nullptr;
}

Handler FenceHandler() { return Fence; }

Handler IsspacepHandler(Space, bool address32) {
  return address32 ? Isspacep<uint32_t> : Isspacep<uint64_t>;
}

Handler CvtaHandler(Space space, bool to) {
  switch (space) {
    case Space::kShared:
      return CvtaFor<static_cast<int>(Space::kShared)>(to);
    case Space::kLocal:
      return CvtaFor<static_cast<int>(Space::kLocal)>(to);
    case Space::kParam:
      return CvtaFor<static_cast<int>(Space::kParam)>(to);
    default:
      return CvtaFor<static_cast<int>(Space::kGlobal)>(to);
  }
}

Handler ShflHandler(int mode) {
  switch (mode) {
    case 0:
      return Shfl<0>;
    case 1:
      return Shfl<1>;
    case 2:
      return Shfl<2>;
    default:
      return Shfl<3>;
  }
}

Handler VoteHandler(int mode) {
  switch (mode) {
    case 0:
      return Vote<0>;
    case 1:
      return Vote<1>;
    case 2:
      return Vote<2>;
    default:
      return Vote<3>;
  }
}

Handler MatchAnyHandler(Type type) {
  return Bytes(type) == 8 ? MatchAny<uint64_t> : MatchAny<uint32_t>;
}
Handler MatchAllHandler(Type type) {
  return Bytes(type) == 8 ? MatchAll<uint64_t> : MatchAll<uint32_t>;
}

Handler ReduxHandler(Atom op, Type type) {
  if (type == Type::kS32) return ReduxFor<int32_t>(op);
  if (type == Type::kU32 || type == Type::kB32) return ReduxFor<uint32_t>(op);
  return nullptr;
}

Handler ActivemaskHandler() { return Activemask; }
Handler ElectHandler() { return Elect; }

}  // namespace simgpu::ptx
