// Decoding of arithmetic, logic, comparison and conversion.
#include "simgpu/ptx/decoder.h"

namespace simgpu::ptx {
namespace {

bool IsDirected(Round round) {
  return round == Round::kZero || round == Round::kDown || round == Round::kUp;
}

uint16_t TakeFloatFlags(Modifiers& m, bool saturate) {
  uint16_t aux = 0;
  if (m.Take("ftz")) aux |= kFtz;
  if (saturate && m.Take("sat")) aux |= kSat;
  return aux;
}

// Flushing is of single precision and f16, saturation too.
bool FlagsFit(Type type, uint16_t aux) {
  if ((aux & (kFtz | kSat)) == 0) return true;
  return type == Type::kF32 || type == Type::kF16 || type == Type::kF16x2;
}

// An integer form takes none of the floats' modifiers.
bool PlainInteger(uint16_t aux, Round round) {
  return round == Round::kNone && (aux & (kFtz | kSat)) == 0;
}

int CompareIndex(Modifiers& m) {
  return m.TakeOneOf({"eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu",
                      "ltu", "leu", "gtu", "geu", "num", "nan"});
}

}  // namespace

bool Decoder::EmitFloat(Op op, Type type, Instr i, Round round) {
  i.aux = static_cast<uint16_t>(i.aux | static_cast<uint16_t>(round));
  if (round != Round::kNone && round != Round::kNearest && !IsDirected(round))
    return Unsupported("rounding");
  const bool brain_exponential = op == Op::kEx2 && (type == Type::kBf16 || type == Type::kBf16x2);
  if (!brain_exponential && !FlagsFit(type, i.aux)) return Unsupported("modifier .ftz or .sat");
  return Emit(i, IsDirected(round) ? PickDirected(op, type) : PickFloat(op, type, i.aux));
}

bool Decoder::AddSub(Modifiers& m) {
  const bool add = m.opcode() == "add";
  const bool carry = m.Take("cc");
  const Type type = m.TakeType();
  Instr i = New();
  const Round round = m.TakeRound();
  const bool saturate = m.Take("sat");
  if (m.Take("ftz")) i.aux |= kFtz;
  if (!NothingLeft(m) || !Count(3)) return false;
  i.dst = Destination(Arg(0), ClassOf(type));
  i.a = Source(Arg(1), type);
  i.b = Source(Arg(2), type);
  if (IsFloat(type)) {
    if (saturate) i.aux |= kSat;
    if (carry) return Unsupported("modifier .cc");
    return EmitFloat(add ? Op::kAdd : Op::kSub, type, i, round);
  }
  if (!PlainInteger(i.aux, round) || (carry && saturate)) return Unsupported("modifiers");
  if (carry) return Emit(i, PickInteger(add ? Op::kAddCc : Op::kSubCc, type));
  if (saturate) return Emit(i, PickInteger(add ? Op::kAddSat : Op::kSubSat, type));
  return Emit(i, PickInteger(add ? Op::kAdd : Op::kSub, type));
}

bool Decoder::AddSubCarry(Modifiers& m) {
  const bool add = m.opcode() == "addc";
  const bool out = m.Take("cc");
  const Type type = m.TakeType();
  if (!NothingLeft(m) || !Count(3)) return false;
  Instr i = New();
  i.dst = Destination(Arg(0), ClassOf(type));
  i.a = Source(Arg(1), type);
  i.b = Source(Arg(2), type);
  return Emit(
      i,
      PickInteger(add ? (out ? Op::kAddcCc : Op::kAddc) : (out ? Op::kSubcCc : Op::kSubc), type));
}

bool Decoder::Mul(Modifiers& m) {
  const bool mul24 = m.opcode() == "mul24";
  const int part = m.TakeOneOf({"lo", "hi", "wide"});
  const Type type = m.TakeType();
  Instr i = New();
  const Round round = m.TakeRound();
  i.aux = TakeFloatFlags(m, true);
  if (!NothingLeft(m) || !Count(3)) return false;
  RegClass to = ClassOf(type);
  if (part == 2) to = Bytes(type) == 2 ? RegClass::k32 : RegClass::k64;
  i.dst = Destination(Arg(0), to);
  i.a = Source(Arg(1), type);
  i.b = Source(Arg(2), type);
  if (IsFloat(type)) {
    return part < 0 && !mul24 ? EmitFloat(Op::kMulLo, type, i, round)
                              : Unsupported("part of the product");
  }
  if (!PlainInteger(i.aux, round)) return Unsupported("modifiers");
  if (part < 0) return Unsupported("part of the product");
  if (mul24)
    return part == 2 ? Unsupported("part of the product")
                     : Emit(i, PickInteger(part == 0 ? Op::kMul24Lo : Op::kMul24Hi, type));
  return Emit(i, PickInteger(part == 0 ? Op::kMulLo : part == 1 ? Op::kMulHi : Op::kMulWide, type));
}

bool Decoder::Mad(Modifiers& m) {
  const bool mad24 = m.opcode() == "mad24";
  const bool madc = m.opcode() == "madc";
  const int part = m.TakeOneOf({"lo", "hi", "wide"});
  const bool carry = m.Take("cc");
  const Type type = m.TakeType();
  if (IsFloat(type)) {
    if (part >= 0 || carry || mad24 || madc) return Unsupported("modifiers");
    Instr i = New();
    const Round round = m.TakeRound();
    i.aux = TakeFloatFlags(m, true);
    if (!NothingLeft(m) || !Count(4)) return false;
    i.dst = Destination(Arg(0), ClassOf(type));
    i.a = Source(Arg(1), type);
    i.b = Source(Arg(2), type);
    i.c = Source(Arg(3), type);
    return EmitFloat(Op::kFma, type, i, round);
  }
  if (!NothingLeft(m) || !Count(4)) return false;
  if (part < 0) return Unsupported("part of the product");
  Instr i = New();
  RegClass to = ClassOf(type);
  if (part == 2) to = Bytes(type) == 2 ? RegClass::k32 : RegClass::k64;
  i.dst = Destination(Arg(0), to);
  i.a = Source(Arg(1), type);
  i.b = Source(Arg(2), type);
  i.c = Source(Arg(3), to);
  Op op = part == 0 ? Op::kMadLo : part == 1 ? Op::kMadHi : Op::kMadWide;
  if (mad24 || madc || carry) {
    if (part == 2) return Unsupported("part of the product");
    if (mad24) op = part == 0 ? Op::kMad24Lo : Op::kMad24Hi;
    if (!madc && carry) op = part == 0 ? Op::kMadLoCc : Op::kMadHiCc;
    if (madc)
      op =
          part == 0 ? (carry ? Op::kMadcLoCc : Op::kMadcLo) : (carry ? Op::kMadcHiCc : Op::kMadcHi);
  }
  return Emit(i, PickInteger(op, type));
}

bool Decoder::Fma(Modifiers& m) {
  const Type type = m.TakeType();
  Instr i = New();
  const Round round = m.TakeRound();
  i.aux = TakeFloatFlags(m, true);
  if (m.Take("relu")) i.aux |= kRelu;
  if (!NothingLeft(m) || !Count(4)) return false;
  if (!IsFloat(type)) return Unsupported("type");
  if ((i.aux & kRelu) != 0 && (type == Type::kF32 || type == Type::kF64 || (i.aux & kSat) != 0))
    return Unsupported("modifier .relu");
  i.dst = Destination(Arg(0), ClassOf(type));
  i.a = Source(Arg(1), type);
  i.b = Source(Arg(2), type);
  i.c = Source(Arg(3), type);
  return EmitFloat(Op::kFma, type, i, round);
}

bool Decoder::DivRem(Modifiers& m) {
  const bool div = m.opcode() == "div";
  const Type type = m.TakeType();
  Instr i = New();
  Round round = m.TakeRound();
  const bool approximate = m.TakeOneOf({"approx", "full"}) >= 0;
  if (m.Take("ftz")) i.aux |= kFtz;
  if (!NothingLeft(m) || !Count(3)) return false;
  i.dst = Destination(Arg(0), ClassOf(type));
  i.a = Source(Arg(1), type);
  i.b = Source(Arg(2), type);
  if (IsFloat(type)) {
    if (!div || (type != Type::kF32 && type != Type::kF64) ||
        (approximate ? type == Type::kF64 || round != Round::kNone : round == Round::kNone)) {
      return Unsupported("form");
    }
    return EmitFloat(Op::kDiv, type, i, round);
  }
  if (approximate || !PlainInteger(i.aux, round)) return Unsupported("modifiers");
  return Emit(i, PickInteger(div ? Op::kDiv : Op::kRem, type));
}

bool Decoder::MinMax(Modifiers& m) {
  const bool min = m.opcode() == "min";
  const bool nan = m.Take("NaN");
  const bool xor_sign = m.Take("xorsign") && m.Take("abs");
  const Type type = m.TakeType();
  Instr i = New();
  i.aux = TakeFloatFlags(m, false);
  if (!NothingLeft(m) || !Count(3)) return false;
  if (xor_sign && (!IsFloat(type) || type == Type::kF64)) return Unsupported("modifier .xorsign");
  if (IsFloat(type) ? !FlagsFit(type, i.aux) || (nan && type == Type::kF64)
                    : nan || !PlainInteger(i.aux, Round::kNone)) {
    return Unsupported("modifiers");
  }
  i.dst = Destination(Arg(0), ClassOf(type));
  i.a = Source(Arg(1), type);
  i.b = Source(Arg(2), type);
  if (xor_sign) {
    return Emit(i, PickFloat(nan ? (min ? Op::kMinNanXor : Op::kMaxNanXor)
                                 : (min ? Op::kMinXor : Op::kMaxXor),
                             type, i.aux));
  }
  if (IsFloat(type)) {
    return Emit(i, PickFloat(nan ? (min ? Op::kMinNan : Op::kMaxNan) : (min ? Op::kMin : Op::kMax),
                             type, i.aux));
  }
  return Emit(i, PickInteger(min ? Op::kMin : Op::kMax, type));
}

bool Decoder::NegAbs(Modifiers& m) {
  const Op op = m.opcode() == "neg" ? Op::kNeg : Op::kAbs;
  const Type type = m.TakeType();
  Instr i = New();
  i.aux = TakeFloatFlags(m, false);
  if (!NothingLeft(m) || !Count(2)) return false;
  i.dst = Destination(Arg(0), ClassOf(type));
  i.a = Source(Arg(1), type);
  if (IsFloat(type) ? !FlagsFit(type, i.aux) : !PlainInteger(i.aux, Round::kNone))
    return Unsupported("modifier .ftz");
  return Emit(i, IsFloat(type) ? PickFloat(op, type, i.aux) : PickInteger(op, type));
}

bool Decoder::Logic(Modifiers& m) {
  const std::string_view name = m.opcode();
  const bool unary = name == "not" || name == "cnot";
  const Type type = m.TakeType();
  if (!NothingLeft(m) || !Count(unary ? 2 : 3)) return false;
  Instr i = New();
  i.dst = Destination(Arg(0), ClassOf(type));
  i.a = Source(Arg(1), type);
  if (!unary) i.b = Source(Arg(2), type);
  if (type == Type::kPred) {
    if (name == "cnot") return Unsupported("type");
    return Emit(i, PickPredicate(name == "and" ? 0 : name == "or" ? 1 : name == "xor" ? 2 : 3));
  }
  const Op op = name == "and"   ? Op::kAnd
                : name == "or"  ? Op::kOr
                : name == "xor" ? Op::kXor
                : name == "not" ? Op::kNot
                                : Op::kCnot;
  return Emit(i, IsFloat(type) ? nullptr : PickInteger(op, type));
}

bool Decoder::ShiftOp(Modifiers& m) {
  const bool left = m.opcode() == "shl";
  const Type type = m.TakeType();
  if (!NothingLeft(m) || !Count(3)) return false;
  Instr i = New();
  i.dst = Destination(Arg(0), ClassOf(type));
  i.a = Source(Arg(1), type);
  i.b = Source(Arg(2), RegClass::k32);
  return Emit(i, IsFloat(type) ? nullptr : PickInteger(left ? Op::kShl : Op::kShr, type));
}

bool Decoder::ToCount(Modifiers& m) {
  const std::string_view name = m.opcode();
  const bool amount = m.Take("shiftamt");
  const Type type = m.TakeType();
  if (!NothingLeft(m) || !Count(2)) return false;
  Instr i = New();
  i.dst = Destination(Arg(0), RegClass::k32);
  i.a = Source(Arg(1), type);
  const Op op = name == "popc"  ? Op::kPopc
                : name == "clz" ? Op::kClz
                : amount        ? Op::kBfindShift
                                : Op::kBfind;
  return Emit(i, PickInteger(op, type));
}

bool Decoder::Brev(Modifiers& m) {
  const Type type = m.TakeType();
  if (!NothingLeft(m) || !Count(2)) return false;
  Instr i = New();
  i.dst = Destination(Arg(0), ClassOf(type));
  i.a = Source(Arg(1), type);
  return Emit(i, PickInteger(Op::kBrev, type));
}

bool Decoder::FieldOp(Modifiers& m) {
  const bool insert = m.opcode() == "bfi";
  const Type type = m.TakeType();
  if (!NothingLeft(m) || !Count(insert ? 5 : 4)) return false;
  Instr i = New();
  i.dst = Destination(Arg(0), ClassOf(type));
  i.a = Source(Arg(1), type);
  if (insert) {
    i.b = Source(Arg(2), type);
    i.c = Source(Arg(3), RegClass::k32);
    i.d = Source(Arg(4), RegClass::k32);
    return Emit(i, PickInteger(Op::kBfi, type));
  }
  i.b = Source(Arg(2), RegClass::k32);
  i.c = Source(Arg(3), RegClass::k32);
  return Emit(i, PickInteger(Op::kBfe, type));
}

bool Decoder::Prmt(Modifiers& m) {
  const Type type = m.TakeType();
  Instr i = New();
  i.aux = static_cast<uint16_t>(m.TakeOneOf({"f4e", "b4e", "rc8", "ecl", "ecr", "rc16"}) + 1);
  if (!NothingLeft(m) || !Count(4)) return false;
  if (type != Type::kB32) return Unsupported("type");
  i.dst = Destination(Arg(0), RegClass::k32);
  i.a = Source(Arg(1), RegClass::k32);
  i.b = Source(Arg(2), RegClass::k32);
  i.c = Source(Arg(3), RegClass::k32);
  return Emit(i, PickInteger(Op::kPrmt, type));
}

bool Decoder::Lop3(Modifiers& m) {
  const Type type = m.TakeType();
  if (!NothingLeft(m) || !Count(5)) return false;
  if (type != Type::kB32 || Arg(4).kind != Operand::kInteger) return Unsupported("form");
  Instr i = New();
  i.dst = Destination(Arg(0), RegClass::k32);
  i.a = Source(Arg(1), RegClass::k32);
  i.b = Source(Arg(2), RegClass::k32);
  i.c = Source(Arg(3), RegClass::k32);
  i.imm = Arg(4).integer;
  return Emit(i, PickInteger(Op::kLop3, type));
}

bool Decoder::Shf(Modifiers& m) {
  const bool left = m.Take("l");
  if (!left && !m.Take("r")) return Unsupported("");
  const bool wrap = m.Take("wrap");
  if (!wrap && !m.Take("clamp")) return Unsupported("");
  const Type type = m.TakeType();
  if (!NothingLeft(m) || !Count(4)) return false;
  if (type != Type::kB32) return Unsupported("type");
  Instr i = New();
  i.dst = Destination(Arg(0), RegClass::k32);
  i.a = Source(Arg(1), RegClass::k32);
  i.b = Source(Arg(2), RegClass::k32);
  i.c = Source(Arg(3), RegClass::k32);
  const Op op = left ? (wrap ? Op::kShfLeftWrap : Op::kShfLeftClamp)
                     : (wrap ? Op::kShfRightWrap : Op::kShfRightClamp);
  return Emit(i, PickInteger(op, type));
}

bool Decoder::MaskOp(Modifiers& m) {
  const bool mask = m.opcode() == "bmsk";
  const bool wrap = m.Take("wrap");
  if (!wrap) m.Take("clamp");
  const Type type = m.TakeType();
  if (!NothingLeft(m) || !Count(3)) return false;
  if (Bytes(type) != 4) return Unsupported("type");
  Instr i = New();
  i.dst = Destination(Arg(0), RegClass::k32);
  i.a = Source(Arg(1), RegClass::k32);
  i.b = Source(Arg(2), RegClass::k32);
  const Op op =
      mask ? (wrap ? Op::kBmskWrap : Op::kBmskClamp) : (wrap ? Op::kSzextWrap : Op::kSzextClamp);
  return Emit(i, PickInteger(op, type));
}

bool Decoder::Dot(Modifiers& m) {
  const bool halves = m.opcode() == "dp2a";
  const int part = halves ? m.TakeOneOf({"lo", "hi"}) : 0;
  if (part < 0) return Unsupported("part of the bytes");
  const Type b = m.TakeType();
  const Type a = m.TakeType();
  if (!NothingLeft(m) || !Count(4)) return false;
  for (Type type : {a, b}) {
    if (type != Type::kU32 && type != Type::kS32) return Unsupported("type");
  }
  Instr i = New();
  i.dst = Destination(Arg(0), RegClass::k32);
  i.a = Source(Arg(1), RegClass::k32);
  i.b = Source(Arg(2), RegClass::k32);
  i.c = Source(Arg(3), RegClass::k32);
  if (halves) return Emit(i, Dp2aHandler(IsSigned(a), IsSigned(b), part == 1));
  const Op op = IsSigned(a) ? (IsSigned(b) ? Op::kDp4aSS : Op::kDp4aSU)
                            : (IsSigned(b) ? Op::kDp4aUS : Op::kDp4aUU);
  return Emit(i, PickInteger(op, Type::kB32));
}

// v{add,sub,...}{2,4}.dtype.atype.btype{.sat}{.add} d, a, b, c; vset has no dtype.
bool Decoder::Video(Modifiers& m) {
  const int parts = m.opcode().back() - '0';
  const std::string_view name = m.opcode().substr(0, m.opcode().size() - 1);
  Instr i = New();
  uint16_t op = 0;
  while (name != kVideoNames[op]) ++op;
  const bool set = name == "vset";
  i.aux = op;
  if (m.Take("add")) i.aux |= 16;
  if (m.Take("sat")) i.aux |= 32;
  const int compare = set ? m.TakeOneOf({"eq", "ne", "lt", "le", "gt", "ge"}) : 0;
  if (compare < 0) return Unsupported("comparison");
  const Type b = m.TakeType();
  const Type a = m.TakeType();
  const Type d = set ? Type::kU32 : m.TakeType();
  if (!NothingLeft(m) || !Count(4)) return false;
  for (Type type : {a, b, d}) {
    if (type != Type::kU32 && type != Type::kS32) return Unsupported("type");
  }
  i.aux = static_cast<uint16_t>(i.aux | (IsSigned(a) ? 64 : 0) | (IsSigned(b) ? 128 : 0) |
                                (IsSigned(d) ? 256 : 0) | compare << 9);
  i.dst = Destination(Arg(0), RegClass::k32);
  i.a = Source(Arg(1), RegClass::k32);
  i.b = Source(Arg(2), RegClass::k32);
  i.c = Source(Arg(3), RegClass::k32);
  return Emit(i, VideoHandler(parts));
}

bool Decoder::Fns(Modifiers& m) {
  const Type type = m.TakeType();
  if (!NothingLeft(m) || !Count(4)) return false;
  if (type != Type::kB32) return Unsupported("type");
  Instr i = New();
  i.dst = Destination(Arg(0), RegClass::k32);
  i.a = Source(Arg(1), RegClass::k32);
  i.b = Source(Arg(2), RegClass::k32);
  i.c = Source(Arg(3), RegClass::k32);
  return Emit(i, PickInteger(Op::kFns, type));
}

bool Decoder::Sad(Modifiers& m) {
  const Type type = m.TakeType();
  if (!NothingLeft(m) || !Count(4)) return false;
  Instr i = New();
  i.dst = Destination(Arg(0), ClassOf(type));
  i.a = Source(Arg(1), type);
  i.b = Source(Arg(2), type);
  i.c = Source(Arg(3), type);
  return Emit(i, PickInteger(Op::kSad, type));
}

bool Decoder::Select(Modifiers& m) {
  const bool selp = m.opcode() == "selp";
  Instr i = New();
  Type chooser = Type::kPred;
  if (!selp) {
    m.Take("ftz");
    chooser = m.TakeType();
    if (chooser != Type::kS32 && chooser != Type::kF32) return Unsupported("type");
    i.aux = chooser == Type::kF32 ? 1 : 0;
  }
  const Type type = m.TakeType();
  if (!NothingLeft(m) || !Count(4)) return false;
  i.dst = Destination(Arg(0), ClassOf(type));
  i.a = Source(Arg(1), type);
  i.b = Source(Arg(2), type);
  Operand c = Arg(3);
  if (selp && c.negated) {
    i.aux = 1;
    c.negated = false;
  }
  i.c = Source(c, chooser);
  return Emit(i, PickInteger(selp ? Op::kSelp : Op::kSlct, type));
}

// `.and/.or/.xor` with a predicate as the last operand.
bool Decoder::Combining(Modifiers& m, Instr* i) {
  const int how = m.TakeOneOf({"and", "or", "xor"});
  if (!NothingLeft(m) || !Count(how < 0 ? 3 : 4)) return false;
  if (how < 0) return true;
  Operand c = Arg(3);
  i->aux = static_cast<uint16_t>(i->aux | (how + 1) << 5 | (c.negated ? 128 : 0));
  c.negated = false;
  i->c = Source(c, RegClass::kPred);
  return !failed_;
}

// Unordered comparisons are of floats, lo and hi of unsigned integers, and bits are equal or not.
bool Decoder::ComparisonFits(int compare, Type type, bool flush) {
  const auto c = static_cast<Compare>(compare);
  const bool unsigned_only = c >= Compare::kLo && c <= Compare::kHs;
  if (IsFloat(type)) {
    if (unsigned_only) return Unsupported("comparison");
    return !flush || type == Type::kF32 || type == Type::kF16 || type == Type::kF16x2 ||
           Unsupported("modifier .ftz");
  }
  if (flush) return Unsupported("modifier .ftz");
  const bool bits = type == Type::kB16 || type == Type::kB32 || type == Type::kB64;
  if (c > Compare::kHs || (bits && c > Compare::kNe) || (unsigned_only && IsSigned(type)))
    return Unsupported("comparison");
  return true;
}

bool Decoder::Setp(Modifiers& m) {
  Instr i = New();
  const int compare = CompareIndex(m);
  if (compare < 0) return Unsupported("comparison");
  i.aux = static_cast<uint16_t>(compare);
  if (m.Take("ftz")) i.aux |= 256;
  const Type type = m.TakeType();
  if (!Combining(m, &i)) return false;
  i.d = Pair(Arg(0), RegClass::kPred);
  Operand p = Arg(0);
  p.pair = -1;
  i.dst = Destination(p, RegClass::kPred);
  i.a = Source(Arg(1), type);
  i.b = Source(Arg(2), type);
  if (failed_ || !ComparisonFits(compare, type, (i.aux & 256) != 0)) return false;
  if (type == Type::kF16x2 || type == Type::kBf16x2) return Emit(i, PickSetpPair(type));
  return Emit(i, PickSetp(type));
}

bool Decoder::Set(Modifiers& m) {
  Instr i = New();
  const int compare = CompareIndex(m);
  if (compare < 0) return Unsupported("comparison");
  i.aux = static_cast<uint16_t>(compare);
  if (m.Take("ftz")) i.aux |= 256;
  const Type source = m.TakeType();
  const Type destination = m.TakeType();
  if (!Combining(m, &i) || !ComparisonFits(compare, source, (i.aux & 256) != 0)) return false;
  const bool pair = source == Type::kF16x2 || source == Type::kBf16x2;
  const bool half = source == Type::kF16 || source == Type::kBf16;
  switch (destination) {
    case Type::kF32:
      i.imm = 0x3f800000;
      break;
    case Type::kU32:
    case Type::kS32:
      i.imm = 0xffffffff;
      break;
    case Type::kU16:
    case Type::kS16:
      i.imm = 0xffff;
      break;
    case Type::kF16:
    case Type::kF16x2:
      i.imm = 0x3c003c00;
      break;
    case Type::kBf16:
    case Type::kBf16x2:
      i.imm = 0x3f803f80;
      break;
    default:
      return Unsupported("type");
  }
  // Halves answer in halves of their own kind or in integers, pairs in pairs.
  const bool small = destination == Type::kF16 || destination == Type::kBf16;
  if (pair ? destination != source && destination != Type::kU32 && destination != Type::kS32
           : destination == Type::kF16x2 || destination == Type::kBf16x2 ||
                 (small && destination != source) || (!half && Bytes(destination) == 2)) {
    return Unsupported("type");
  }
  i.dst = Destination(Arg(0), ClassOf(destination));
  i.a = Source(Arg(1), source);
  i.b = Source(Arg(2), source);
  return Emit(i, PickSet(ClassOf(destination), source));
}

bool Decoder::Testp(Modifiers& m) {
  const int what =
      m.TakeOneOf({"finite", "infinite", "number", "notanumber", "normal", "subnormal"});
  const Type type = m.TakeType();
  if (!NothingLeft(m) || !Count(2)) return false;
  if (what < 0) return Unsupported("test");
  Instr i = New();
  i.aux = static_cast<uint16_t>(what);
  i.dst = Destination(Arg(0), RegClass::kPred);
  i.a = Source(Arg(1), type);
  return Emit(i, PickTestp(type));
}

bool Decoder::Math(Modifiers& m) {
  const std::string_view name = m.opcode();
  const Op op = name == "sqrt"    ? Op::kSqrt
                : name == "rcp"   ? Op::kRcp
                : name == "rsqrt" ? Op::kRsqrt
                : name == "ex2"   ? Op::kEx2
                : name == "lg2"   ? Op::kLg2
                : name == "sin"   ? Op::kSin
                : name == "cos"   ? Op::kCos
                                  : Op::kTanh;
  const Type type = m.TakeType();
  Instr i = New();
  const Round round = m.TakeRound();
  const bool approx = m.Take("approx");
  const bool flush = m.Take("ftz");
  if (flush && type != Type::kF64)
    i.aux |= kFtz;  // .approx.ftz.f64 flushes nothing that a double here would keep.
  if (!NothingLeft(m) || !Count(2)) return false;
  // What is approximate has no rounding, and each function its own list of types.
  if (!IsFloat(type) || approx != (round == Round::kNone)) return Unsupported("form");
  const bool exact = op == Op::kSqrt || op == Op::kRcp;
  bool fits = type == Type::kF32 || (type == Type::kF64 && exact && !approx);
  if (approx && type == Type::kF64)
    fits = flush ? op == Op::kRcp || op == Op::kRsqrt : op == Op::kRsqrt;
  if (op == Op::kTanh || op == Op::kEx2)
    fits = fits || (type != Type::kF64 && (!flush || type == Type::kBf16 || type == Type::kBf16x2));
  if (!approx && !exact) fits = false;
  if (op == Op::kTanh && flush) fits = false;
  if (!fits) return Unsupported("form");
  i.dst = Destination(Arg(0), ClassOf(type));
  i.a = Source(Arg(1), type);
  return EmitFloat(op, type, i, round);
}

bool Decoder::Copysign(Modifiers& m) {
  const Type type = m.TakeType();
  if (!NothingLeft(m) || !Count(3)) return false;
  Instr i = New();
  i.dst = Destination(Arg(0), ClassOf(type));
  i.a = Source(Arg(1), type);
  i.b = Source(Arg(2), type);
  if (type != Type::kF32 && type != Type::kF64) return Unsupported("type");
  return Emit(i, PickFloat(Op::kCopysign, type, 0));
}

// cvt.pack.sat.{u16,s16}.s32 d, a, b and cvt.pack.sat.{u8,s8}.s32.b32 d, a, b, c.
bool Decoder::CvtPack(Modifiers& m) {
  if (!m.Take("sat")) return Unsupported("without .sat");
  Type last = m.TakeType();
  const bool third = last == Type::kB32;
  if (third) last = m.TakeType();
  const Type part = m.TakeType();
  if (!NothingLeft(m) || !Count(third ? 4 : 3)) return false;
  if (last != Type::kS32 || part == Type::kNone || third != (Bytes(part) == 1))
    return Unsupported("type");
  Instr i = New();
  i.dst = Destination(Arg(0), RegClass::k32);
  i.a = Source(Arg(1), RegClass::k32);
  i.b = Source(Arg(2), RegClass::k32);
  if (third) i.c = Source(Arg(3), RegClass::k32);
  return Emit(i, PackSaturatedHandler(part));
}

// Rounding stands where something may be lost, and only there.
bool Decoder::ConversionFits(Type to, Type from, Round round, uint16_t aux) {
  const bool whole = round >= Round::kNearestInt && round <= Round::kUpInt;
  const bool flush = (aux & kFtz) != 0, saturate = (aux & kSat) != 0;
  const auto is_bits = [](Type t) {
    return t == Type::kB8 || t == Type::kB16 || t == Type::kB32 || t == Type::kB64;
  };
  if (is_bits(to) || is_bits(from)) return false;
  if (flush && ((to != Type::kF32 && from != Type::kF32) || !IsFloat(from))) return false;
  if (!IsFloat(to) && !IsFloat(from)) return round == Round::kNone;
  if (!IsFloat(to)) return whole;
  if (saturate && to == Type::kBf16) return false;
  if (!IsFloat(from)) return round != Round::kNone && !whole && round != Round::kNearestAway;
  if (to == from) return round == Round::kNone || (whole && to != Type::kBf16);
  const auto rank = [](Type t) { return t == Type::kF64 ? 2 : t == Type::kF32 ? 1 : 0; };
  return rank(to) > rank(from) ? round == Round::kNone
                               : round != Round::kNone && !whole && round != Round::kNearestAway;
}

bool Decoder::Cvt(Modifiers& m) {
  if (m.Take("pack")) return CvtPack(m);
  if (m.Take("tf32")) {
    const Type source = m.TakeType();
    Instr i = New();
    const Round round = m.TakeRound();
    i.aux = static_cast<uint16_t>(round);
    if (m.Take("relu")) i.aux |= kRelu;
    if (!NothingLeft(m) || !Count(2)) return false;
    if (source != Type::kF32 ||
        (round != Round::kNearest && round != Round::kNearestAway && round != Round::kZero)) {
      return Unsupported("form");
    }
    i.dst = Destination(Arg(0), RegClass::k32);
    i.a = Source(Arg(1), source);
    return Emit(i, ConvertTf32Handler());
  }
  const Type from = m.TakeType();
  const Type to = m.TakeType();
  Instr i = New();
  const Round round = m.TakeRound();
  i.aux = static_cast<uint16_t>(static_cast<uint16_t>(round) | TakeFloatFlags(m, true));
  const bool relu = m.Take("relu");
  if (!NothingLeft(m)) return false;
  if (from == Type::kNone || to == Type::kNone) return Unsupported("type");
  if (to == Type::kF16x2 || to == Type::kBf16x2) {
    if (!Count(3)) return false;
    if (from != Type::kF32 || (i.aux & (kSat | kFtz)) != 0 ||
        (round != Round::kNearest && round != Round::kZero)) {
      return Unsupported("form");
    }
    if (relu) i.aux |= kRelu;
    i.dst = Destination(Arg(0), RegClass::k32);
    i.a = Source(Arg(1), from);
    i.b = Source(Arg(2), from);
    return Emit(i, PickConvertPack(to));
  }
  if (!Count(2)) return false;
  if (relu) {
    if (from != Type::kF32 || (to != Type::kF16 && to != Type::kBf16) || (i.aux & kSat) != 0)
      return Unsupported("modifier .relu");
    i.aux |= kRelu;
  }
  RegClass rd = ClassOf(to);
  if (Arg(0).kind == Operand::kRegister) rd = ast_.registers[static_cast<size_t>(Arg(0).index)].cls;
  RegClass rs;
  if (Arg(1).kind == Operand::kRegister) {
    i.a = AnySource(Arg(1), ClassOf(from), &rs);
  } else {
    rs = ClassOf(from);
    i.a = Source(Arg(1), from);
  }
  i.dst = Destination(Arg(0), rd);
  if (failed_) return false;
  if (!ConversionFits(to, from, round, i.aux)) return Unsupported("form");
  return Emit(i, PickConvert(to, from, rd, rs, i.aux));
}

}  // namespace simgpu::ptx
