// Asynchronous copies, done at once, and the barriers in shared memory that wait for them.
//
// A barrier is the 64 bits that programs may not look into. Here: bits 0..19 arrivals still
// missing, 20..39 arrivals of a phase, 40..62 bytes still to come (biased by kBytesBias), 63 the
// phase.
#include "simgpu/ptx/ops.h"

namespace simgpu::ptx {
namespace {

constexpr uint32_t kArrivalsMax = (1u << 20) - 1;
constexpr int64_t kBytesBias = int64_t{1} << 22;

struct Barrier {
  uint32_t missing = 0;
  uint32_t arrivals = 0;
  int64_t bytes = 0;
  bool phase = false;

  static Barrier From(uint64_t bits) {
    return {static_cast<uint32_t>(bits & kArrivalsMax),
            static_cast<uint32_t>(bits >> 20 & kArrivalsMax),
            static_cast<int64_t>(bits >> 40 & 0x7fffff) - kBytesBias, bits >> 63 != 0};
  }
  uint64_t Bits() const {
    return uint64_t{missing} | uint64_t{arrivals} << 20 |
           static_cast<uint64_t>((bytes + kBytesBias) & 0x7fffff) << 40 |
           static_cast<uint64_t>(phase ? 1 : 0) << 63;
  }
  void Settle() {
    if (missing != 0 || bytes != 0) return;
    phase = !phase;
    missing = arrivals;
  }
};

uint64_t AddressOf(Exec& e, const Instr& i, int lane) {
  const uint64_t imm = static_cast<uint64_t>(i.imm);
  if (i.address32)
    return static_cast<uint32_t>(Reg<uint32_t>(e, i.a)[lane] + static_cast<uint32_t>(imm));
  return Reg<uint64_t>(e, i.a)[lane] + imm;
}

// Shared memory by its own address or by a generic one.
uint8_t* Shared(Exec& e, const Instr& i, uint64_t address, uint32_t bytes, uint32_t align, int lane,
                bool write) {
  const Space space = address >> 48 == kSharedWindow >> 48 ? Space::kGeneric : Space::kShared;
  return TranslateSlow(e, i, space, address, bytes, lane, write, align);
}

void Address(Exec& e, const Instr& i, uint32_t mask) {
  uint64_t* d = Reg<uint64_t>(e, i.dst);
  ForLanes(mask, [&](int lane) { d[lane] = AddressOf(e, i, lane); });
}

void AsyncCopy(Exec& e, const Instr& i, uint32_t mask) {
  const uint32_t bytes = i.aux;
  for (uint32_t m = mask; m != 0; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const uint32_t wanted = i.b == kNoReg ? bytes : Reg<uint32_t>(e, i.b)[lane];
    if (wanted > bytes) {
      e.Fail(Status::kLaunchFailed, lane,
             "src-size " + std::to_string(wanted) + " exceeds cp-size " + std::to_string(bytes));
      return;
    }
    uint8_t* to = Shared(e, i, AddressOf(e, i, lane), bytes, bytes, lane, true);
    if (to == nullptr) return;
    if (wanted > 0) {
      const uint8_t* from = TranslateSlow(e, i, Space::kGlobal, Reg<uint64_t>(e, i.c)[lane], wanted,
                                          lane, false, bytes);
      if (from == nullptr) return;
      std::memcpy(to, from, wanted);
    }
    std::memset(to + wanted, 0, bytes - wanted);
  }
}

void Count(Exec& e, const Instr& i, uint64_t address, int64_t bytes, int lane) {
  uint8_t* p = Shared(e, i, address, 8, 8, lane, true);
  if (p == nullptr) return;
  uint64_t bits;
  std::memcpy(&bits, p, sizeof bits);
  Barrier barrier = Barrier::From(bits);
  barrier.bytes += bytes;
  if (barrier.bytes < -kBytesBias || barrier.bytes >= kBytesBias) {
    e.Fail(Status::kLaunchFailed, lane, "mbarrier: the count of bytes is out of range");
    return;
  }
  if (bytes <= 0) barrier.Settle();
  bits = barrier.Bits();
  std::memcpy(p, &bits, sizeof bits);
}

void BulkCopy(Exec& e, const Instr& i, uint32_t mask) {
  for (uint32_t m = mask; m != 0; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const uint32_t bytes = Reg<uint32_t>(e, i.b)[lane];
    if (bytes % 16 != 0) {
      e.Fail(Status::kMisalignedAddress, lane,
             "bulk copy of " + std::to_string(bytes) + " bytes, which is no multiple of 16");
      return;
    }
    const uint64_t source = Reg<uint64_t>(e, i.c)[lane];
    const uint64_t target = AddressOf(e, i, lane);
    if (bytes > 0) {
      const bool to_shared = i.d != kNoReg;
      uint8_t* to = to_shared ? Shared(e, i, target, bytes, 16, lane, true)
                              : TranslateSlow(e, i, Space::kGlobal, target, bytes, lane, true, 16);
      if (to == nullptr) return;
      const uint8_t* from =
          to_shared ? TranslateSlow(e, i, Space::kGlobal, source, bytes, lane, false, 16)
                    : Shared(e, i, source, bytes, 16, lane, false);
      if (from == nullptr) return;
      std::memmove(to, from, bytes);
    }
    if (i.d != kNoReg) Count(e, i, Reg<uint64_t>(e, i.d)[lane], -static_cast<int64_t>(bytes), lane);
    if (e.fault.status != Status::kOk) return;
  }
}

template <Mbarrier kOp>
void OnBarrier(Exec& e, const Instr& i, uint32_t mask) {
  bool waits = false;
  for (uint32_t m = mask; m != 0; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    if constexpr (kOp == Mbarrier::kPending) {
      Reg<uint32_t>(e, i.dst)[lane] = Barrier::From(Reg<uint64_t>(e, i.a)[lane]).missing;
      continue;
    }
    const uint64_t address = AddressOf(e, i, lane);
    if constexpr (kOp == Mbarrier::kExpect || kOp == Mbarrier::kComplete) {
      const int64_t bytes = static_cast<int64_t>(Reg<uint32_t>(e, i.b)[lane]);
      Count(e, i, address, kOp == Mbarrier::kExpect ? bytes : -bytes, lane);
      if (e.fault.status != Status::kOk) return;
      continue;
    }
    if constexpr (kOp == Mbarrier::kArriveExpect) {
      Count(e, i, address, static_cast<int64_t>(Reg<uint32_t>(e, i.b)[lane]), lane);
      if (e.fault.status != Status::kOk) return;
    }
    uint8_t* p = Shared(e, i, address, 8, 8, lane, true);
    if (p == nullptr) return;
    uint64_t bits;
    std::memcpy(&bits, p, sizeof bits);
    Barrier barrier = Barrier::From(bits);
    if constexpr (kOp == Mbarrier::kInit) {
      const uint32_t count = Reg<uint32_t>(e, i.b)[lane];
      if (count == 0 || count > kArrivalsMax) {
        e.Fail(Status::kLaunchFailed, lane,
               "mbarrier.init: the count must be 1 to 2^20 - 1, found " + std::to_string(count));
        return;
      }
      barrier = {count, count, 0, false};
    } else if constexpr (kOp == Mbarrier::kInvalidate) {
      barrier = {};
    } else if constexpr (kOp == Mbarrier::kArrive || kOp == Mbarrier::kArriveExpect) {
      const uint32_t count = kOp == Mbarrier::kArrive ? Reg<uint32_t>(e, i.b)[lane] : 1;
      if (count > barrier.missing) {
        e.Fail(Status::kLaunchFailed, lane,
               "mbarrier.arrive: " + std::to_string(count) + " arrivals, " +
                   std::to_string(barrier.missing) + " are expected");
        return;
      }
      if (i.dst != kNoReg) Reg<uint64_t>(e, i.dst)[lane] = bits;
      barrier.missing -= count;
      if (i.aux == 1) barrier.arrivals -= std::min(count, barrier.arrivals);
      barrier.Settle();
    } else {
      bool phase;
      if constexpr (kOp == Mbarrier::kWaitParity) {
        phase = (Reg<uint32_t>(e, i.b)[lane] & 1) != 0;
      } else {
        phase = Barrier::From(Reg<uint64_t>(e, i.b)[lane]).phase;
      }
      const bool over = barrier.phase != phase;
      uint32_t& d = *Reg<uint32_t>(e, i.dst);
      d = over ? d | 1u << lane : d & ~(1u << lane);
      waits = waits || !over;
      continue;
    }
    bits = barrier.Bits();
    std::memcpy(p, &bits, sizeof bits);
  }
  // Whoever waits asks again; the others get to run first.
  if (waits) e.interrupt = true;
}

}  // namespace

Handler AddressHandler() { return Address; }
Handler AsyncCopyHandler() { return AsyncCopy; }
Handler BulkCopyHandler() { return BulkCopy; }

Handler MbarrierHandler(Mbarrier op) {
  switch (op) {
    case Mbarrier::kInit:
      return OnBarrier<Mbarrier::kInit>;
    case Mbarrier::kInvalidate:
      return OnBarrier<Mbarrier::kInvalidate>;
    case Mbarrier::kArrive:
      return OnBarrier<Mbarrier::kArrive>;
    case Mbarrier::kArriveExpect:
      return OnBarrier<Mbarrier::kArriveExpect>;
    case Mbarrier::kExpect:
      return OnBarrier<Mbarrier::kExpect>;
    case Mbarrier::kComplete:
      return OnBarrier<Mbarrier::kComplete>;
    case Mbarrier::kWait:
      return OnBarrier<Mbarrier::kWait>;
    case Mbarrier::kWaitParity:
      return OnBarrier<Mbarrier::kWaitParity>;
    case Mbarrier::kPending:
      return OnBarrier<Mbarrier::kPending>;
  }
  return nullptr;
}

}  // namespace simgpu::ptx
