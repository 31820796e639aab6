// Which handler runs a decoded operation: the decoder asks by operation and type, null means "not
// supported".
#pragma once

#include <cstdint>

#include "simgpu/ptx/code.h"

namespace simgpu::ptx {

// The value type of an instruction, from its last type modifier. B types are untyped bits.
enum class Type : uint8_t {
  kNone,
  kPred,
  kB8,
  kU8,
  kS8,
  kB16,
  kU16,
  kS16,
  kB32,
  kU32,
  kS32,
  kB64,
  kU64,
  kS64,
  kF16,
  kBf16,
  kF16x2,
  kBf16x2,
  kF32,
  kF64,
  kB128
};
bool IsSigned(Type t);
bool IsFloat(Type t);
uint32_t Bytes(Type t);

enum class Round : uint8_t {
  kNone,
  kNearest,
  kZero,
  kDown,
  kUp,
  kNearestInt,
  kZeroInt,
  kDownInt,
  kUpInt,
  kNearestAway
};

// aux of float handlers: bits 0..3 Round, then flags.
inline constexpr uint16_t kFtz = 16;
inline constexpr uint16_t kSat = 32;
inline constexpr uint16_t kRelu = 64;  // fma and cvt to halves: negative results become 0.

enum class Op : uint8_t {
  // Integer, two sources unless said otherwise.
  kAdd,
  kSub,
  kMulLo,
  kMulHi,
  kMulWide,
  kDiv,
  kRem,
  kMin,
  kMax,
  kAnd,
  kOr,
  kXor,
  kShl,
  kShr,
  kAddSat,
  kSubSat,
  kMul24Lo,
  kMul24Hi,
  kMad24Lo,
  kMad24Hi,
  kNeg,
  kAbs,
  kNot,
  kCnot,
  kPopc,
  kClz,
  kBrev,
  kBfind,
  kBfindShift,
  kMov,  // One source.
  kMadLo,
  kMadHi,
  kMadWide,
  kSad,
  kBfe,
  kSlct,
  kSelp,  // Three sources; selp's third is a predicate.
  kBfi,
  kAddCc,
  kAddc,
  kAddcCc,
  kSubCc,
  kSubc,
  kSubcCc,
  kMadLoCc,
  kMadHiCc,
  kMadcLo,
  kMadcHi,
  kMadcLoCc,
  kMadcHiCc,
  kPrmt,
  kLop3,
  kShfLeftWrap,
  kShfLeftClamp,
  kShfRightWrap,
  kShfRightClamp,
  kBmskClamp,
  kBmskWrap,
  kSzextClamp,
  kSzextWrap,
  kDp4aUU,
  kDp4aUS,
  kDp4aSU,
  kDp4aSS,
  kFns,
  // Float only.
  kFma,
  kSqrt,
  kRcp,
  kRsqrt,
  kEx2,
  kLg2,
  kSin,
  kCos,
  kTanh,
  kCopysign,
  kMinNan,
  kMaxNan,
  kMinXor,  // .xorsign.abs
  kMaxXor,
  kMinNanXor,
  kMaxNanXor,
};

Handler PickInteger(Op op, Type type);
Handler PickFloat(Op op, Type type, uint16_t aux);  // ops_float.cc
Handler PickDirected(Op op, Type type);             // rounding.cc: rz, rm, rp; aux says which.

// Comparison: aux bits 0..4 = Compare, bits 5..6 = combine (0 none, 1 and, 2 or, 3 xor), bit 7 =
// combine predicate negated, bit 8 = ftz; dst = p, d = q or kNoReg, c = combining predicate.
enum class Compare : uint8_t {
  kEq,
  kNe,
  kLt,
  kLe,
  kGt,
  kGe,
  kLo,
  kLs,
  kHi,
  kHs,
  kEqu,
  kNeu,
  kLtu,
  kLeu,
  kGtu,
  kGeu,
  kNum,
  kNan
};
Handler PickSetp(Type type);
// setp of two halves: dst of the low ones, d of the high ones.
Handler PickSetpPair(Type type);
// set: dst gets imm or 0; aux as setp. A pair of halves gives imm's halves or 0 each.
Handler PickSet(RegClass destination, Type source);

// testp: aux 0 finite, 1 infinite, 2 number, 3 notanumber, 4 normal, 5 subnormal.
Handler PickTestp(Type type);

// cvt: registers may be wider than the types; aux as floats. ops_convert.cc
Handler PickConvert(Type destination, Type source, RegClass destination_class,
                    RegClass source_class, uint16_t aux);
Handler PickConvertPack(Type destination);  // cvt.rn.{f16x2,bf16x2}.f32 d, a, b
Handler ConvertTf32Handler();               // dst b32, a f32
// cvt.pack.sat: a above b in parts of the type, 8-bit ones above c's low half.
Handler PackSaturatedHandler(Type part);

// Predicates: a, b, c are predicate masks; aux: and, or, xor, not, mov, in this order.
Handler PickPredicate(int op);

// Memory: ops_memory.cc. Address in a (plus imm); vectors through extra.
Handler PickLoad(Space space, Type type, RegClass cls);
Handler PickStore(Space space, Type type, RegClass cls);
Handler LoadParamHandler(Type type,
                         RegClass cls);  // Uniform: imm is the offset in the parameter buffer.
enum class Atom : uint8_t { kAdd, kMin, kMax, kExch, kCas, kAnd, kOr, kXor, kInc, kDec };
Handler PickAtomic(Space space, Atom op, Type type);  // dst kNoReg: red.

// Asynchronous copies and their barriers: ops_async.cc. Destination address in a (plus imm).
Handler AddressHandler();  // dst (64-bit) = a + imm, the width of a as address32 says.
Handler
AsyncCopyHandler();  // aux bytes to shared a from global c, of which b are read (kNoReg: all).
Handler
BulkCopyHandler();  // b bytes to a from c; d: the barrier in shared memory that counts them.
// A barrier in a: b a count, bytes or a state; dst a state, a predicate or a count.
enum class Mbarrier : uint8_t {
  kInit,
  kInvalidate,
  kArrive,        // aux 1: and leaves the barrier's later phases.
  kArriveExpect,  // b: the bytes.
  kExpect,
  kComplete,
  kWait,
  kWaitParity,
  kPending,
};
Handler MbarrierHandler(Mbarrier op);

// Two or four small integers in a word: ops_video.cc. aux bits 0..3 = the operation in the order of
// kVideoNames, bit 4 = adds the lanes to c, bit 5 = saturates, bits 6..8 = a, b, d signed,
// bits 9..11 = vset's comparison (eq ne lt le gt ge).
Handler VideoHandler(int parts);
inline constexpr const char* kVideoNames[] = {"vadd", "vsub", "vavrg", "vabsdiff",
                                              "vmin", "vmax", "vset"};
Handler Dp2aHandler(bool signed_a, bool signed_b, bool high);

// Moves and special registers: ops_warp.cc.
Handler SpecialHandler(Special special, bool wide);
Handler
LocalAddressHandler();  // dst (64-bit) = frame's local base + imm; aux 1: as a generic address.
Handler LocalAddress32Handler();
Handler PackHandler(Type whole, int parts);    // dst from extra[0..parts)
Handler UnpackHandler(Type whole, int parts);  // extra[0..parts) from a
Handler FenceHandler();
Handler IsspacepHandler(Space space, bool address32);
Handler CvtaHandler(Space space, bool to);  // 64-bit
// Warp-wide. Member mask register is always `a` (the scheduler reads it), operands follow in b, c,
// d.
Handler ShflHandler(int mode);  // 0 up 1 down 2 bfly 3 idx; dst, extra[0] = predicate or kNoReg; b
                                // value, c lane, d clamp.
Handler VoteHandler(int mode);  // 0 all 1 any 2 uni 3 ballot; b = predicate, aux bit 0 negated.
Handler MatchAnyHandler(Type type);  // b = value.
Handler MatchAllHandler(Type type);  // extra[0] = predicate or kNoReg.
Handler ReduxHandler(Atom op, Type type);
Handler ActivemaskHandler();
Handler ElectHandler();  // extra[0] = predicate.

}  // namespace simgpu::ptx
