#include "simgpu/ptx/decode.h"

#include <unordered_map>

#include "simgpu/ptx/decoder.h"
#include "simgpu/ptx/parser.h"

namespace simgpu::ptx {

RegClass ClassOf(Type type) {
  switch (Bytes(type)) {
    case 0:
      return RegClass::kPred;
    case 1:
    case 2:
      return RegClass::k16;
    case 4:
      return RegClass::k32;
    case 8:
      return RegClass::k64;
    default:
      return RegClass::k128;
  }
}

Type ParseType(std::string_view name) {
  static const std::unordered_map<std::string_view, Type> kTypes = {
      {"pred", Type::kPred},     {"b8", Type::kB8},    {"u8", Type::kU8},
      {"s8", Type::kS8},         {"b16", Type::kB16},  {"u16", Type::kU16},
      {"s16", Type::kS16},       {"b32", Type::kB32},  {"u32", Type::kU32},
      {"s32", Type::kS32},       {"b64", Type::kB64},  {"u64", Type::kU64},
      {"s64", Type::kS64},       {"f16", Type::kF16},  {"bf16", Type::kBf16},
      {"f32", Type::kF32},       {"f64", Type::kF64},  {"f16x2", Type::kF16x2},
      {"bf16x2", Type::kBf16x2}, {"b128", Type::kB128}};
  const auto it = kTypes.find(name);
  return it == kTypes.end() ? Type::kNone : it->second;
}

// ---- Modifiers ----

Modifiers::Modifiers(std::string_view text) {
  size_t start = 0;
  for (bool first = true; start <= text.size(); first = false) {
    const size_t dot = std::min(text.find('.', start), text.size());
    const std::string_view part = text.substr(start, dot - start);
    if (first) {
      opcode_ = part;
    } else if (count_ < parts_.size()) {
      parts_[count_++] = part;
    } else {
      overflow_ = true;
    }
    start = dot + 1;
  }
}

bool Modifiers::Take(std::string_view name) {
  for (size_t i = 0; i < count_; ++i) {
    if (parts_[i] != name) continue;
    std::copy(parts_.begin() + static_cast<std::ptrdiff_t>(i) + 1,
              parts_.begin() + static_cast<std::ptrdiff_t>(count_),
              parts_.begin() + static_cast<std::ptrdiff_t>(i));
    --count_;
    return true;
  }
  return false;
}

Type Modifiers::TakeType() {
  for (size_t i = count_; i-- > 0;) {
    const Type type = ParseType(parts_[i]);
    if (type == Type::kNone) continue;
    std::copy(parts_.begin() + static_cast<std::ptrdiff_t>(i) + 1,
              parts_.begin() + static_cast<std::ptrdiff_t>(count_),
              parts_.begin() + static_cast<std::ptrdiff_t>(i));
    --count_;
    return type;
  }
  return Type::kNone;
}

Round Modifiers::TakeRound() {
  static constexpr std::pair<std::string_view, Round> kRounds[] = {
      {"rn", Round::kNearest},  {"rz", Round::kZero},        {"rm", Round::kDown},
      {"rp", Round::kUp},       {"rni", Round::kNearestInt}, {"rzi", Round::kZeroInt},
      {"rmi", Round::kDownInt}, {"rpi", Round::kUpInt},      {"rna", Round::kNearestAway}};
  for (const auto& [name, round] : kRounds) {
    if (Take(name)) return round;
  }
  return Round::kNone;
}

int Modifiers::TakeOneOf(std::initializer_list<std::string_view> names) {
  int index = 0;
  for (std::string_view name : names) {
    if (Take(name)) return index;
    ++index;
  }
  return -1;
}

void Modifiers::TakeMemoryHints() {
  while (TakeOneOf({"weak",
                    "volatile",
                    "relaxed",
                    "acquire",
                    "release",
                    "acq_rel",
                    "sc",
                    "cta",
                    "cluster",
                    "gpu",
                    "gl",
                    "sys",
                    "nc",
                    "ca",
                    "cg",
                    "cs",
                    "lu",
                    "cv",
                    "wb",
                    "wt",
                    "L1::evict_normal",
                    "L1::evict_unchanged",
                    "L1::evict_first",
                    "L1::evict_last",
                    "L1::no_allocate",
                    "L2::64B",
                    "L2::128B",
                    "L2::256B"}) >= 0) {
  }
}

std::string_view Modifiers::Left() const {
  if (overflow_) return "too many modifiers";
  return count_ == 0 ? std::string_view() : parts_[0];
}

// ---- errors ----

bool Decoder::Unsupported(std::string why) {
  failed_ = true;
  if (out_.refusal.empty()) {
    out_.refusal = "'" + std::string(statement_->text) + "' at PTX line " +
                   std::to_string(statement_->line) + " of '" + out_.name + "' is not supported" +
                   (why.empty() ? "" : ": " + why);
  }
  return false;
}

bool Decoder::Invalid(std::string why) {
  failed_ = true;
  if (error_->message.empty()) {
    *error_ = {statement_->line, "'" + std::string(statement_->text) + "': " + std::move(why)};
  }
  return false;
}

bool Decoder::Count(size_t count) { return Count(count, count); }
bool Decoder::Count(size_t low, size_t high) {
  const size_t have = statement_->operands.size();
  if (have >= low && have <= high) return true;
  return Unsupported("found " + std::to_string(have) + " operands, expected " +
                     std::to_string(low) + (high == low ? "" : " to " + std::to_string(high)));
}
bool Decoder::NothingLeft(const Modifiers& m) {
  if (m.Left().empty()) return true;
  return Unsupported("modifier ." + std::string(m.Left()));
}

// ---- operands ----

uint32_t Decoder::Allocate(RegClass cls) {
  if (cls == RegClass::kPred) {
    // Predicates share cache lines, sixteen to one.
    if (predicates_left_ == 0) {
      predicate_chunk_ = out_.register_bytes;
      out_.register_bytes += 64;
      predicates_left_ = 16;
    }
    return predicate_chunk_ + 4 * (16 - predicates_left_--);
  }
  const uint32_t offset = out_.register_bytes;
  out_.register_bytes += cls == RegClass::k16 ? 64 : cls == RegClass::k32 ? 128 : 256;
  return offset;
}

uint32_t Decoder::RegisterOffset(int index) {
  uint32_t& offset = offsets_[static_cast<size_t>(index)];
  if (offset == kNoReg) {
    const RegClass cls = ast_.registers[static_cast<size_t>(index)].cls;
    offset = Allocate(cls);
    out_.register_words += cls == RegClass::k64 ? 2 : cls == RegClass::kPred ? 0 : 1;
  }
  return offset;
}

uint32_t Decoder::ConstantOffset(RegClass cls, uint64_t value, int variable) {
  const auto [it, fresh] = constants_.try_emplace({cls, value, variable}, 0);
  if (fresh) {
    it->second = Allocate(cls);
    out_.constants.push_back({it->second, cls, variable, value});
  }
  return it->second;
}

void Decoder::Use(int variable) {
  if (std::find(out_.used_variables.begin(), out_.used_variables.end(), variable) ==
      out_.used_variables.end()) {
    out_.used_variables.push_back(variable);
  }
}

// A 64-bit register that holds the variable's address in its own state space.
uint32_t Decoder::VariableAddress(int index, int64_t offset) {
  const Variable& variable = module_.variables[static_cast<size_t>(index)];
  switch (variable.space) {
    case Space::kLocal:
    case Space::kParam: {
      if (variable.entry_offset >= 0) {
        return ConstantOffset(RegClass::k64,
                              kParamWindow + static_cast<uint64_t>(variable.entry_offset) +
                                  static_cast<uint64_t>(offset),
                              -1);
      }
      Instr i = New();
      i.dst = Allocate(RegClass::k64);
      i.imm = static_cast<int64_t>(variable.frame_offset) + offset;
      i.aux = variable.space == Space::kParam ? 1 : 0;
      EmitHelper(i, LocalAddressHandler());
      return i.dst;
    }
    default:
      Use(index);
      return ConstantOffset(RegClass::k64, static_cast<uint64_t>(offset), index);
  }
}

uint32_t Decoder::Source(const Operand& operand, RegClass cls, bool floating) {
  if (cls == RegClass::k128) {
    Unsupported("128-bit operands");
    return kNoReg;
  }
  if (operand.pair != -1 || operand.negated) {
    Unsupported("operand form");
    return kNoReg;
  }
  switch (operand.kind) {
    case Operand::kRegister:
      if (operand.integer != 0) {
        Unsupported("register plus offset outside of an address");
        return kNoReg;
      }
      if (ast_.registers[static_cast<size_t>(operand.index)].cls != cls) {
        Unsupported("width of register " + std::string(operand.name));
        return kNoReg;
      }
      return RegisterOffset(operand.index);
    case Operand::kInteger: {
      uint64_t bits = static_cast<uint64_t>(operand.integer);
      if (floating && cls == RegClass::k32) {
        const float f = static_cast<float>(operand.integer);
        uint32_t b;
        std::memcpy(&b, &f, 4);
        bits = b;
      } else if (floating && cls == RegClass::k64) {
        const double d = static_cast<double>(operand.integer);
        std::memcpy(&bits, &d, 8);
      }
      return ConstantOffset(cls, bits, -1);
    }
    case Operand::kFloat32:
    case Operand::kFloat64: {
      uint64_t bits = static_cast<uint64_t>(operand.integer);
      if (operand.kind == Operand::kFloat64 && cls == RegClass::k32) {
        double d;
        std::memcpy(&d, &bits, 8);
        const float f = static_cast<float>(d);
        uint32_t b;
        std::memcpy(&b, &f, 4);
        bits = b;
      } else if (operand.kind == Operand::kFloat32 && cls == RegClass::k64) {
        const uint32_t b = static_cast<uint32_t>(bits);
        float f;
        std::memcpy(&f, &b, 4);
        const double d = f;
        std::memcpy(&bits, &d, 8);
      } else if (cls != RegClass::k32 && cls != RegClass::k64) {
        Unsupported("floating point literal of this width");
        return kNoReg;
      }
      return ConstantOffset(cls, bits, -1);
    }
    case Operand::kSpecial: {
      if (cls != RegClass::k32 && cls != RegClass::k64) {
        Unsupported("special register of this width");
        return kNoReg;
      }
      if (operand.special == Special::kWarpSize) return ConstantOffset(cls, kWarpSize, -1);
      Instr i = New();
      i.dst = Allocate(cls);
      i.aux = static_cast<uint16_t>(operand.special);
      EmitHelper(i, SpecialHandler(operand.special, cls == RegClass::k64));
      return i.dst;
    }
    case Operand::kVariable: {
      const Variable& variable = module_.variables[static_cast<size_t>(operand.index)];
      if (cls == RegClass::k64) return VariableAddress(operand.index, operand.integer);
      if (cls == RegClass::k32 && variable.space == Space::kShared) {
        Use(operand.index);
        return ConstantOffset(cls, static_cast<uint64_t>(operand.integer), operand.index);
      }
      if (cls == RegClass::k32 && variable.space == Space::kLocal) {
        Instr i = New();
        i.dst = Allocate(cls);
        i.imm = static_cast<int64_t>(variable.frame_offset) + operand.integer;
        EmitHelper(i, LocalAddress32Handler());
        return i.dst;
      }
      Unsupported("address of '" + variable.name + "' in fewer than 64 bits");
      return kNoReg;
    }
    case Operand::kName:
      if (module_.function_index.find(operand.name) != module_.function_index.end()) {
        Unsupported("address of function '" + std::string(operand.name) + "'");
      } else if (operand.name.starts_with("%")) {
        Unsupported("register '" + std::string(operand.name) + "' is not declared");
      } else {
        Invalid("'" + std::string(operand.name) + "' is not declared");
      }
      return kNoReg;
    default:
      Unsupported("operand form");
      return kNoReg;
  }
}

uint32_t Decoder::Destination(const Operand& operand, RegClass cls) {
  if (cls == RegClass::k128) {
    Unsupported("128-bit operands");
    return kNoReg;
  }
  if (operand.kind == Operand::kSink) return Allocate(cls);
  if (operand.kind == Operand::kName) {
    Invalid("'" + std::string(operand.name) + "' is not declared");
    return kNoReg;
  }
  if (operand.kind != Operand::kRegister || operand.negated || operand.integer != 0) {
    Invalid("the destination must be a register");
    return kNoReg;
  }
  if (ast_.registers[static_cast<size_t>(operand.index)].cls != cls) {
    Unsupported("width of register " + std::string(operand.name));
    return kNoReg;
  }
  return RegisterOffset(operand.index);
}

// The register after `|`: kNoReg when there is none or it is the sink.
uint32_t Decoder::Pair(const Operand& operand, RegClass cls) {
  if (operand.pair < 0) return kNoReg;
  if (ast_.registers[static_cast<size_t>(operand.pair)].cls != cls) {
    Unsupported("width of the register after '|'");
    return kNoReg;
  }
  return RegisterOffset(operand.pair);
}

uint32_t Decoder::AnySource(const Operand& operand, RegClass fallback, RegClass* cls) {
  *cls = fallback;
  if (operand.kind == Operand::kRegister)
    *cls = ast_.registers[static_cast<size_t>(operand.index)].cls;
  if (*cls == RegClass::kPred) {
    Unsupported("predicate operand");
    return kNoReg;
  }
  return Source(operand, *cls);
}

bool Decoder::Address(const Operand& operand, Space* space, Instr* i) {
  if (operand.kind != Operand::kAddress || operand.items.size() != 1)
    return Unsupported("address form");
  const Operand& base = operand.items[0];
  switch (base.kind) {
    case Operand::kRegister: {
      const RegClass cls = ast_.registers[static_cast<size_t>(base.index)].cls;
      if (cls != RegClass::k32 && cls != RegClass::k64)
        return Unsupported("width of the address register");
      i->a = RegisterOffset(base.index);
      i->address32 = cls == RegClass::k32;
      i->imm = operand.integer;
      // A parameter's address is a window address in our registers, so it is reached like a generic
      // one.
      if (*space == Space::kParam) *space = Space::kGeneric;
      break;
    }
    case Operand::kVariable: {
      const Variable& variable = module_.variables[static_cast<size_t>(base.index)];
      if (*space == Space::kGeneric) *space = variable.space;
      if (variable.space != *space)
        return Unsupported("'" + variable.name + "' lies in another state space");
      i->a = VariableAddress(base.index, base.integer);
      if (*space == Space::kParam) *space = Space::kGeneric;
      break;
    }
    case Operand::kInteger:
      i->a = ConstantOffset(RegClass::k64, static_cast<uint64_t>(base.integer), -1);
      break;
    case Operand::kName:
      return Invalid("'" + std::string(base.name) + "' is not declared");
    default:
      return Unsupported("address form");
  }
  i->kind = Kind::kMemory;
  i->site = out_.sites++;
  return !failed_;
}

bool Decoder::VectorParts(const Operand& operand, bool is_source, int count, RegClass cls,
                          Instr* i) {
  if (operand.kind != Operand::kVector || operand.items.size() != static_cast<size_t>(count)) {
    return Unsupported("vector of " + std::to_string(count) + " expected");
  }
  std::vector<uint32_t> parts;
  for (const Operand& item : operand.items) {
    if (!is_source && item.kind == Operand::kSink) {
      parts.push_back(kNoReg);
    } else {
      parts.push_back(is_source ? Source(item, cls) : Destination(item, cls));
    }
    if (failed_) return false;
  }
  i->extra = static_cast<uint32_t>(out_.extra.size());
  i->count = static_cast<uint8_t>(count);
  out_.extra.insert(out_.extra.end(), parts.begin(), parts.end());
  return true;
}

Instr Decoder::New(Kind kind) const {
  Instr i;
  i.kind = kind;
  i.line = statement_->line;
  return i;
}

bool Decoder::Emit(Instr i, Handler fn) {
  if (failed_) return false;
  const bool needs_handler = i.kind == Kind::kPlain || i.kind == Kind::kMemory;
  if (needs_handler && fn == nullptr) return Unsupported("this combination of operation and type");
  i.fn = fn;
  if (statement_->guard >= 0) {
    i.guard = RegisterOffset(statement_->guard);
    i.guard_negated = statement_->guard_negated;
  }
  EmitHelper(i, fn);
  return true;
}

void Decoder::EmitHelper(Instr i, Handler fn) {
  i.fn = fn;
  const auto [it, fresh] =
      names_.try_emplace(statement_->text, static_cast<uint32_t>(out_.names.size()));
  if (fresh) out_.names.emplace_back(statement_->text);
  i.name = it->second;
  out_.code.push_back(i);
}

// ---- moves, memory ----

bool Decoder::Mov(Modifiers& m) {
  const Type type = m.TakeType();
  if (!NothingLeft(m) || !Count(2)) return false;
  if (type == Type::kNone) return Unsupported("no type");
  if (Arg(0).kind == Operand::kVector || Arg(1).kind == Operand::kVector) return MovVector(type);
  Instr i = New();
  if (type == Type::kPred) {
    i.dst = Destination(Arg(0), RegClass::kPred);
    i.a = Source(Arg(1), RegClass::kPred);
    return Emit(i, PickPredicate(4));
  }
  const RegClass cls = ClassOf(type);
  i.dst = Destination(Arg(0), cls);
  if (Arg(1).kind == Operand::kSpecial && (cls == RegClass::k32 || cls == RegClass::k64)) {
    i.aux = static_cast<uint16_t>(Arg(1).special);
    return Emit(i, SpecialHandler(Arg(1).special, cls == RegClass::k64));
  }
  if (Arg(1).kind == Operand::kVariable && cls == RegClass::k64) {
    const Variable& variable = module_.variables[static_cast<size_t>(Arg(1).index)];
    if ((variable.space == Space::kLocal || variable.space == Space::kParam) &&
        variable.entry_offset < 0) {
      i.imm = static_cast<int64_t>(variable.frame_offset) + Arg(1).integer;
      i.aux = variable.space == Space::kParam ? 1 : 0;
      return Emit(i, LocalAddressHandler());
    }
  }
  i.a = Source(Arg(1), type);
  return Emit(i, PickInteger(Op::kMov, type));
}

bool Decoder::MovVector(Type type) {
  const bool pack = Arg(1).kind == Operand::kVector;
  const Operand& vector = pack ? Arg(1) : Arg(0);
  const int parts = static_cast<int>(vector.items.size());
  const uint32_t bytes = parts == 0 ? 0 : Bytes(type) / static_cast<uint32_t>(parts);
  if (bytes != 2 && bytes != 4) return Unsupported("parts of this width");
  Instr i = New();
  if (!VectorParts(vector, pack, parts, bytes == 2 ? RegClass::k16 : RegClass::k32, &i))
    return false;
  if (pack) {
    i.dst = Destination(Arg(0), ClassOf(type));
    return Emit(i, PackHandler(type, parts));
  }
  i.a = Source(Arg(1), ClassOf(type));
  return Emit(i, UnpackHandler(type, parts));
}

namespace {

Space TakeSpace(Modifiers& m) {
  if (m.Take("global")) return Space::kGlobal;
  if (m.Take("shared") || m.Take("shared::cta")) return Space::kShared;
  if (m.Take("local")) return Space::kLocal;
  if (m.Take("const")) return Space::kConst;
  if (m.Take("param") || m.Take("param::entry") || m.Take("param::func")) return Space::kParam;
  return Space::kGeneric;
}

}  // namespace

bool Decoder::Load(Modifiers& m) {
  Space space = TakeSpace(m);
  m.TakeMemoryHints();
  const int count = m.Take("v2") ? 2 : m.Take("v4") ? 4 : 1;
  const Type type = m.TakeType();
  if (!NothingLeft(m) || !Count(2)) return false;
  if (type == Type::kNone || type == Type::kPred) return Unsupported("type");
  const Operand& first = count == 1                        ? Arg(0)
                         : Arg(0).kind == Operand::kVector ? Arg(0).items[0]
                                                           : Arg(0);
  // Registers may be wider than the memory type; a sink has none, so it takes the type's own width.
  RegClass cls = ClassOf(type);
  if (count > 1 && Arg(0).kind == Operand::kVector) {
    for (const Operand& item : Arg(0).items) {
      if (item.kind == Operand::kRegister)
        cls = ast_.registers[static_cast<size_t>(item.index)].cls;
    }
  } else if (first.kind == Operand::kRegister) {
    cls = ast_.registers[static_cast<size_t>(first.index)].cls;
  }
  Instr i = New();
  if (count == 1) {
    i.dst = Destination(Arg(0), cls);
  } else if (!VectorParts(Arg(0), false, count, cls, &i)) {
    return false;
  }
  if (failed_) return false;
  const Operand& address = Arg(1);
  if (space == Space::kParam && address.kind == Operand::kAddress &&
      address.items[0].kind == Operand::kVariable) {
    const Variable& variable = module_.variables[static_cast<size_t>(address.items[0].index)];
    if (variable.entry_offset >= 0) {
      const int64_t offset = variable.entry_offset + address.integer;
      const int64_t bytes = static_cast<int64_t>(Bytes(type)) * count;
      if (address.integer < 0 || address.integer + bytes > static_cast<int64_t>(variable.size)) {
        return Invalid("reads outside of parameter '" + variable.name + "'");
      }
      i.imm = offset;
      return Emit(i, LoadParamHandler(type, cls));
    }
  }
  if (!Address(address, &space, &i)) return false;
  return Emit(i, PickLoad(space, type, cls));
}

bool Decoder::Store(Modifiers& m) {
  Space space = TakeSpace(m);
  m.TakeMemoryHints();
  const int count = m.Take("v2") ? 2 : m.Take("v4") ? 4 : 1;
  const Type type = m.TakeType();
  if (!NothingLeft(m) || !Count(2)) return false;
  if (type == Type::kNone || type == Type::kPred) return Unsupported("type");
  RegClass cls = ClassOf(type);
  Instr i = New();
  if (count == 1) {
    if (Arg(1).kind == Operand::kRegister)
      cls = ast_.registers[static_cast<size_t>(Arg(1).index)].cls;
    i.b = Source(Arg(1), cls, IsFloat(type));
  } else {
    if (Arg(1).kind == Operand::kVector) {
      for (const Operand& item : Arg(1).items) {
        if (item.kind == Operand::kRegister)
          cls = ast_.registers[static_cast<size_t>(item.index)].cls;
      }
    }
    if (!VectorParts(Arg(1), true, count, cls, &i)) return false;
  }
  if (failed_ || !Address(Arg(0), &space, &i)) return false;
  return Emit(i, PickStore(space, type, cls));
}

bool Decoder::Cvta(Modifiers& m) {
  const bool to = m.Take("to");
  Space space = TakeSpace(m);
  const Type type = m.TakeType();
  if (!NothingLeft(m) || !Count(2)) return false;
  if (type != Type::kU64) return Unsupported("only .u64 addresses");
  if (space == Space::kGeneric) return Unsupported("state space");
  Instr i = New();
  i.dst = Destination(Arg(0), RegClass::k64);
  i.a = Source(Arg(1), RegClass::k64);
  // A device function's parameters live in local memory and their addresses already carry that
  // window.
  if (space == Space::kParam && !ast_.entry) return Emit(i, PickInteger(Op::kMov, Type::kB64));
  return Emit(i, CvtaHandler(space, to));
}

bool Decoder::Isspacep(Modifiers& m) {
  const Space space = TakeSpace(m);
  if (!NothingLeft(m) || !Count(2)) return false;
  if (space == Space::kGeneric) return Unsupported("state space");
  Instr i = New();
  RegClass cls;
  i.dst = Destination(Arg(0), RegClass::kPred);
  i.a = AnySource(Arg(1), RegClass::k64, &cls);
  if (cls == RegClass::k16) return Unsupported("width of the address register");
  i.aux = static_cast<uint16_t>(space);
  return Emit(i, IsspacepHandler(space, cls == RegClass::k32));
}

bool Decoder::AtomOrRed(Modifiers& m) {
  const bool red = m.opcode() == "red";
  Space space = TakeSpace(m);
  m.TakeMemoryHints();
  const int op =
      m.TakeOneOf({"add", "min", "max", "exch", "cas", "and", "or", "xor", "inc", "dec"});
  const Type type = m.TakeType();
  if (!NothingLeft(m)) return false;
  if (op < 0) return Unsupported("operation");
  const bool cas = op == 4;
  if (!Count((red ? 2 : 3) + (cas ? 1 : 0))) return false;
  const size_t first = red ? 0 : 1;
  const RegClass cls = ClassOf(type);
  Instr i = New();
  if (!red && Arg(0).kind != Operand::kSink) i.dst = Destination(Arg(0), cls);
  if (failed_ || !Address(Arg(first), &space, &i)) return false;
  i.b = Source(Arg(first + 1), type);
  if (cas) i.c = Source(Arg(first + 2), type);
  return Emit(i, PickAtomic(space, static_cast<Atom>(op), type));
}

// ---- control ----

bool Decoder::Label(std::string_view name, uint32_t* statement) {
  for (int scope = statement_->scope; scope >= 0;
       scope = ast_.scope_parent[static_cast<size_t>(scope)]) {
    const auto it = ast_.labels.find({scope, name});
    if (it != ast_.labels.end()) {
      *statement = it->second;
      return true;
    }
  }
  return Invalid("label '" + std::string(name) + "' is not declared");
}

bool Decoder::Branch(Modifiers& m) {
  m.Take("uni");
  if (!NothingLeft(m) || !Count(1)) return false;
  Instr i = New(Kind::kBranch);
  if (Arg(0).kind != Operand::kName) return Invalid("a label is expected");
  if (!Label(Arg(0).name, &i.target)) return false;
  return Emit(i, nullptr);
}

bool Decoder::BranchTable(Modifiers& m) {
  m.Take("uni");
  m.Take("idx");
  if (!NothingLeft(m) || !Count(2)) return false;
  const std::vector<std::string_view>* table = nullptr;
  for (int scope = statement_->scope; scope >= 0 && table == nullptr;
       scope = ast_.scope_parent[static_cast<size_t>(scope)]) {
    const auto it = ast_.branch_tables.find({scope, Arg(1).name});
    if (it != ast_.branch_tables.end()) table = &it->second;
  }
  if (table == nullptr)
    return Invalid("branch targets '" + std::string(Arg(1).name) + "' are not declared");
  std::vector<uint32_t> targets;
  for (std::string_view name : *table) {
    uint32_t target;
    if (!Label(name, &target)) return false;
    targets.push_back(target);
  }
  Instr i = New(Kind::kBranchTable);
  i.a = Source(Arg(0), RegClass::k32);
  i.target = static_cast<uint32_t>(out_.tables.size());
  out_.tables.push_back(std::move(targets));
  return Emit(i, nullptr);
}

bool Decoder::ResolveCopies(const Operand& list, const std::vector<int>& formal, bool results,
                            std::vector<CallSite::Copy>* copies) {
  if (list.items.size() != formal.size()) {
    return Unsupported("call passes " + std::to_string(list.items.size()) +
                       " values, the function has " + std::to_string(formal.size()));
  }
  for (size_t k = 0; k < formal.size(); ++k) {
    const Operand& item = list.items[k];
    if (item.kind == Operand::kSink && results) continue;
    if (item.kind != Operand::kVariable)
      return Unsupported("call operands must be .param variables");
    const Variable& mine = module_.variables[static_cast<size_t>(item.index)];
    const Variable& theirs = module_.variables[static_cast<size_t>(formal[k])];
    if (mine.space != Space::kParam || mine.entry_offset >= 0)
      return Unsupported("call operands must be .param variables");
    const uint32_t bytes = static_cast<uint32_t>(std::min(mine.size, theirs.size));
    copies->push_back(results ? CallSite::Copy{theirs.frame_offset, mine.frame_offset, bytes}
                              : CallSite::Copy{mine.frame_offset, theirs.frame_offset, bytes});
  }
  return true;
}

bool Decoder::Call(Modifiers& m) {
  m.Take("uni");
  if (!NothingLeft(m) || !Count(1, 4)) return false;
  size_t at = 0;
  static const Operand kEmpty;
  const Operand* results = &kEmpty;
  const Operand* arguments = &kEmpty;
  if (Arg(0).kind == Operand::kList) results = &Arg(at++);
  if (at >= statement_->operands.size()) return Invalid("a function name is expected");
  const Operand& name = Arg(at++);
  if (name.kind == Operand::kRegister) return Unsupported("indirect call");
  if (name.kind != Operand::kName) return Invalid("a function name is expected");
  const auto it = module_.function_index.find(name.name);
  if (it == module_.function_index.end())
    return Invalid("function '" + std::string(name.name) + "' is not declared");
  if (at < statement_->operands.size()) {
    arguments = &Arg(at++);
    if (arguments->kind != Operand::kList) return Unsupported("indirect call");
  }
  if (at < statement_->operands.size()) return Unsupported("call operands");
  const FunctionAst& callee = module_.functions[static_cast<size_t>(it->second)];
  if (callee.register_params) return Unsupported("functions with .reg parameters");
  if (callee.entry) return Unsupported("a call of a kernel");
  CallSite site;
  if (!ResolveCopies(*results, callee.returns, true, &site.results) ||
      !ResolveCopies(*arguments, callee.params, false, &site.arguments)) {
    return false;
  }
  if (!callee.defined) {
    if (callee.name == "vprintf" && site.arguments.size() == 2) {
      site.builtin = CallSite::kPrintf;
    } else if (callee.name == "__assertfail" && site.arguments.size() == 5) {
      site.builtin = CallSite::kAssert;
    } else {
      return Unsupported("function '" + callee.name + "' is not defined in this module");
    }
    const auto whole = [](const CallSite::Copy& copy, uint32_t bytes) {
      return copy.bytes == bytes;
    };
    const bool sizes = site.builtin == CallSite::kPrintf
                           ? whole(site.arguments[0], 8) && whole(site.arguments[1], 8) &&
                                 (site.results.empty() || whole(site.results[0], 4))
                           : whole(site.arguments[0], 8) && whole(site.arguments[1], 8) &&
                                 whole(site.arguments[2], 4) && whole(site.arguments[3], 8);
    if (!sizes) return Unsupported("parameter sizes of '" + callee.name + "'");
  }
  site.function = it->second;
  Instr i = New(Kind::kCall);
  i.target = static_cast<uint32_t>(out_.calls.size());
  i.site = out_.sites++;
  out_.calls.push_back(std::move(site));
  return Emit(i, nullptr);
}

bool Decoder::Ret(Modifiers& m) {
  m.Take("uni");
  if (!NothingLeft(m) || !Count(0)) return false;
  return Emit(New(Kind::kRet), nullptr);
}

bool Decoder::Exit(Modifiers& m) {
  if (!NothingLeft(m) || !Count(0)) return false;
  return Emit(New(Kind::kExit), nullptr);
}

bool Decoder::Trap(Modifiers& m) {
  if (!NothingLeft(m) || !Count(0)) return false;
  return Emit(New(Kind::kTrap), nullptr);
}

bool Decoder::Nothing(Modifiers&) {
  Instr i = New();
  return Emit(i, FenceHandler());
}

bool Decoder::Nanosleep(Modifiers& m) {
  m.TakeType();
  if (!NothingLeft(m) || !Count(1)) return false;
  return Emit(New(Kind::kYield), nullptr);
}

bool Decoder::Fence(Modifiers& m) {
  if (m.Take("mbarrier_init")) return Unsupported("mbarrier");
  return Emit(New(), FenceHandler());
}

bool Decoder::Bar(Modifiers& m) {
  m.Take("cta");
  if (m.Take("warp")) {
    if (!m.Take("sync") || !NothingLeft(m) || !Count(1)) return Unsupported("");
    Instr i = New(Kind::kWarpSync);
    i.a = Source(Arg(0), RegClass::k32);
    return Emit(i, nullptr);
  }
  m.Take("aligned");
  Instr i = New(Kind::kBarrier);
  size_t at = 0;
  size_t end = statement_->operands.size();
  if (m.Take("sync")) {
    if (!Count(1, 2)) return false;
  } else if (m.Take("arrive")) {
    if (!Count(2)) return false;
    i.aux = 1;
  } else if (m.Take("red")) {
    const int op = m.TakeOneOf({"popc", "and", "or"});
    const Type type = m.TakeType();
    if (op < 0 || type != (op == 0 ? Type::kU32 : Type::kPred)) return Unsupported("reduction");
    if (!Count(3, 4)) return false;
    i.dst = Destination(Arg(0), op == 0 ? RegClass::k32 : RegClass::kPred);
    Operand p = Arg(--end);
    i.aux = static_cast<uint16_t>((op + 1) << 1 | (p.negated ? 8 : 0));
    p.negated = false;
    i.c = Source(p, RegClass::kPred);
    at = 1;
  } else {
    return Unsupported("barrier form");
  }
  if (!NothingLeft(m) || failed_) return false;
  i.a = Source(Arg(at), RegClass::k32);
  if (at + 1 < end) i.b = Source(Arg(at + 1), RegClass::k32);
  return Emit(i, nullptr);
}

// ---- across lanes ----

bool Decoder::Shfl(Modifiers& m) {
  const bool sync = m.Take("sync");
  const int mode = m.TakeOneOf({"up", "down", "bfly", "idx"});
  const Type type = m.TakeType();
  if (!NothingLeft(m)) return false;
  if (!sync || mode < 0 || Bytes(type) != 4)
    return Unsupported("only shfl.sync.{up,down,bfly,idx}.b32");
  if (!Count(5)) return false;
  Instr i = New(Kind::kWarpSync);
  const uint32_t predicate = Pair(Arg(0), RegClass::kPred);
  Operand d = Arg(0);
  d.pair = -1;
  i.dst = Destination(d, RegClass::k32);
  i.b = Source(Arg(1), RegClass::k32);
  i.c = Source(Arg(2), RegClass::k32);
  i.d = Source(Arg(3), RegClass::k32);
  i.a = Source(Arg(4), RegClass::k32);
  i.extra = static_cast<uint32_t>(out_.extra.size());
  out_.extra.push_back(predicate);
  return Emit(i, ShflHandler(mode));
}

bool Decoder::Vote(Modifiers& m) {
  const bool sync = m.Take("sync");
  const int mode = m.TakeOneOf({"all", "any", "uni", "ballot"});
  const Type type = m.TakeType();
  if (!NothingLeft(m)) return false;
  if (!sync || mode < 0 || type != (mode == 3 ? Type::kB32 : Type::kPred))
    return Unsupported("only vote.sync");
  if (!Count(3)) return false;
  Instr i = New(Kind::kWarpSync);
  i.dst = Destination(Arg(0), mode == 3 ? RegClass::k32 : RegClass::kPred);
  Operand p = Arg(1);
  i.aux = p.negated ? 1 : 0;
  p.negated = false;
  i.b = Source(p, RegClass::kPred);
  i.a = Source(Arg(2), RegClass::k32);
  return Emit(i, VoteHandler(mode));
}

bool Decoder::Match(Modifiers& m) {
  const bool all = m.Take("all");
  if (!all && !m.Take("any")) return Unsupported("");
  const bool sync = m.Take("sync");
  const Type type = m.TakeType();
  if (!NothingLeft(m)) return false;
  if (!sync || (Bytes(type) != 4 && Bytes(type) != 8))
    return Unsupported("only match.sync of 32 and 64 bits");
  if (!Count(3)) return false;
  Instr i = New(Kind::kWarpSync);
  const uint32_t predicate = all ? Pair(Arg(0), RegClass::kPred) : kNoReg;
  Operand d = Arg(0);
  if (all) d.pair = -1;
  i.dst = Destination(d, RegClass::k32);
  i.b = Source(Arg(1), ClassOf(type));
  i.a = Source(Arg(2), RegClass::k32);
  i.extra = static_cast<uint32_t>(out_.extra.size());
  out_.extra.push_back(predicate);
  return Emit(i, all ? MatchAllHandler(type) : MatchAnyHandler(type));
}

bool Decoder::Redux(Modifiers& m) {
  const bool sync = m.Take("sync");
  const int op = m.TakeOneOf({"add", "min", "max", "and", "or", "xor"});
  const Type type = m.TakeType();
  if (!NothingLeft(m)) return false;
  if (!sync || op < 0 || !Count(3)) return Unsupported("");
  static constexpr Atom kOps[] = {Atom::kAdd, Atom::kMin, Atom::kMax,
                                  Atom::kAnd, Atom::kOr,  Atom::kXor};
  const Handler handler = ReduxHandler(kOps[op], type);
  if (handler == nullptr) return Unsupported("type");
  Instr i = New(Kind::kWarpSync);
  i.dst = Destination(Arg(0), RegClass::k32);
  i.b = Source(Arg(1), RegClass::k32);
  i.a = Source(Arg(2), RegClass::k32);
  return Emit(i, handler);
}

bool Decoder::Activemask(Modifiers& m) {
  const Type type = m.TakeType();
  if (!NothingLeft(m) || !Count(1)) return false;
  if (type != Type::kB32) return Unsupported("type");
  Instr i = New();
  i.dst = Destination(Arg(0), RegClass::k32);
  return Emit(i, ActivemaskHandler());
}

bool Decoder::Elect(Modifiers& m) {
  if (!m.Take("sync") || !NothingLeft(m) || !Count(2)) return Unsupported("");
  Instr i = New(Kind::kWarpSync);
  const uint32_t predicate = Pair(Arg(0), RegClass::kPred);
  Operand d = Arg(0);
  d.pair = -1;
  i.dst = Destination(d, RegClass::k32);
  i.a = Source(Arg(1), RegClass::k32);
  i.extra = static_cast<uint32_t>(out_.extra.size());
  out_.extra.push_back(predicate);
  return Emit(i, ElectHandler());
}

// ---- the function ----

Decoder::Method Decoder::Find(std::string_view opcode) {
  static const std::unordered_map<std::string_view, Method> kMethods = {
      {"mov", &Decoder::Mov},
      {"ld", &Decoder::Load},
      {"ldu", &Decoder::Load},
      {"st", &Decoder::Store},
      {"cvta", &Decoder::Cvta},
      {"isspacep", &Decoder::Isspacep},
      {"atom", &Decoder::AtomOrRed},
      {"red", &Decoder::AtomOrRed},
      {"bra", &Decoder::Branch},
      {"brx", &Decoder::BranchTable},
      {"call", &Decoder::Call},
      {"ret", &Decoder::Ret},
      {"exit", &Decoder::Exit},
      {"trap", &Decoder::Trap},
      {"brkpt", &Decoder::Trap},
      {"bar", &Decoder::Bar},
      {"barrier", &Decoder::Bar},
      {"membar", &Decoder::Fence},
      {"fence", &Decoder::Fence},
      {"prefetch", &Decoder::Nothing},
      {"prefetchu", &Decoder::Nothing},
      {"discard", &Decoder::Nothing},
      {"applypriority", &Decoder::Nothing},
      {"pmevent", &Decoder::Nothing},
      {"nanosleep", &Decoder::Nanosleep},
      {"shfl", &Decoder::Shfl},
      {"vote", &Decoder::Vote},
      {"match", &Decoder::Match},
      {"redux", &Decoder::Redux},
      {"activemask", &Decoder::Activemask},
      {"elect", &Decoder::Elect},
      {"add", &Decoder::AddSub},
      {"sub", &Decoder::AddSub},
      {"addc", &Decoder::AddSubCarry},
      {"subc", &Decoder::AddSubCarry},
      {"mul", &Decoder::Mul},
      {"mul24", &Decoder::Mul},
      {"mad", &Decoder::Mad},
      {"mad24", &Decoder::Mad},
      {"madc", &Decoder::Mad},
      {"fma", &Decoder::Fma},
      {"div", &Decoder::DivRem},
      {"rem", &Decoder::DivRem},
      {"min", &Decoder::MinMax},
      {"max", &Decoder::MinMax},
      {"neg", &Decoder::NegAbs},
      {"abs", &Decoder::NegAbs},
      {"and", &Decoder::Logic},
      {"or", &Decoder::Logic},
      {"xor", &Decoder::Logic},
      {"not", &Decoder::Logic},
      {"cnot", &Decoder::Logic},
      {"shl", &Decoder::ShiftOp},
      {"shr", &Decoder::ShiftOp},
      {"popc", &Decoder::ToCount},
      {"clz", &Decoder::ToCount},
      {"bfind", &Decoder::ToCount},
      {"brev", &Decoder::Brev},
      {"bfe", &Decoder::FieldOp},
      {"bfi", &Decoder::FieldOp},
      {"prmt", &Decoder::Prmt},
      {"lop3", &Decoder::Lop3},
      {"shf", &Decoder::Shf},
      {"bmsk", &Decoder::MaskOp},
      {"szext", &Decoder::MaskOp},
      {"dp4a", &Decoder::Dot},
      {"fns", &Decoder::Fns},
      {"sad", &Decoder::Sad},
      {"selp", &Decoder::Select},
      {"slct", &Decoder::Select},
      {"setp", &Decoder::Setp},
      {"set", &Decoder::Set},
      {"testp", &Decoder::Testp},
      {"sqrt", &Decoder::Math},
      {"rcp", &Decoder::Math},
      {"rsqrt", &Decoder::Math},
      {"ex2", &Decoder::Math},
      {"lg2", &Decoder::Math},
      {"sin", &Decoder::Math},
      {"cos", &Decoder::Math},
      {"tanh", &Decoder::Math},
      {"copysign", &Decoder::Copysign},
      {"cvt", &Decoder::Cvt}};
  const auto it = kMethods.find(opcode);
  return it == kMethods.end() ? nullptr : it->second;
}

bool Decoder::Run() {
  out_.name = ast_.name;
  out_.entry = ast_.entry;
  out_.defined = ast_.defined;
  out_.params = ast_.params;
  out_.returns = ast_.returns;
  out_.frame_bytes = ast_.frame_bytes;
  offsets_.assign(ast_.registers.size(), kNoReg);
  std::vector<uint32_t> pc_of;
  pc_of.reserve(ast_.statements.size() + 1);
  for (const Statement& statement : ast_.statements) {
    statement_ = &statement;
    failed_ = false;
    pc_of.push_back(static_cast<uint32_t>(out_.code.size()));
    Modifiers modifiers(statement.text);
    const Method method = Find(modifiers.opcode());
    const bool ok = method != nullptr ? (this->*method)(modifiers) : Unsupported("");
    if (!error_->message.empty()) return false;
    if (!ok && out_.refusal.empty()) return Invalid("malformed");
  }
  // Running off the end returns; labels may stand there.
  static const Statement kEnd{.line = 0, .text = "ret"};
  Statement end = kEnd;
  end.line = ast_.statements.empty() ? ast_.line : ast_.statements.back().line;
  statement_ = &end;
  failed_ = false;
  pc_of.push_back(static_cast<uint32_t>(out_.code.size()));
  Emit(New(Kind::kRet), nullptr);
  if (!out_.refusal.empty()) {
    out_.code.clear();
    out_.calls.clear();
    return true;
  }
  for (Instr& i : out_.code) {
    if (i.kind == Kind::kBranch) i.target = pc_of[i.target];
  }
  for (std::vector<uint32_t>& table : out_.tables) {
    for (uint32_t& target : table) target = pc_of[target];
  }
  return true;
}

bool DecodeFunction(const ModuleAst& module, const FunctionAst& ast, Function* out,
                    ParseError* error) {
  return Decoder(module, ast, out, error).Run();
}

}  // namespace simgpu::ptx
