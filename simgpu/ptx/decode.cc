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
                    "L2::256B",
                    "L2::evict_last",
                    "L2::evict_normal",
                    "L2::evict_first",
                    "mmio"}) >= 0) {
  }
}

std::string_view Modifiers::Left() const {
  if (overflow_) return "too many modifiers";
  return count_ == 0 ? std::string_view() : parts_[0];
}

// ---- errors ----

bool Decoder::Unsupported(const std::string& why) {
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
      if (const auto it = module_.function_index.find(operand.name);
          it != module_.function_index.end()) {
        if (cls == RegClass::k64) {
          out_.address_taken.push_back(it->second);
          return ConstantOffset(
              cls, kFunctionWindow + static_cast<uint64_t>(it->second) * kFunctionStep, -1);
        }
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

// ---- the function ----

const std::unordered_map<std::string_view, Decoder::Method>& Decoder::Methods() {
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
      {"griddepcontrol", &Decoder::Nothing},
      {"prefetch", &Decoder::Nothing},
      {"prefetchu", &Decoder::Nothing},
      {"discard", &Decoder::Nothing},
      {"applypriority", &Decoder::Nothing},
      {"pmevent", &Decoder::Nothing},
      {"createpolicy", &Decoder::CreatePolicy},
      {"cp", &Decoder::AsyncCopy},
      {"mbarrier", &Decoder::MemoryBarrier},
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
      {"dp2a", &Decoder::Dot},
      {"vadd2", &Decoder::Video},
      {"vsub2", &Decoder::Video},
      {"vavrg2", &Decoder::Video},
      {"vabsdiff2", &Decoder::Video},
      {"vmin2", &Decoder::Video},
      {"vmax2", &Decoder::Video},
      {"vset2", &Decoder::Video},
      {"vadd4", &Decoder::Video},
      {"vsub4", &Decoder::Video},
      {"vavrg4", &Decoder::Video},
      {"vabsdiff4", &Decoder::Video},
      {"vmin4", &Decoder::Video},
      {"vmax4", &Decoder::Video},
      {"vset4", &Decoder::Video},
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
  return kMethods;
}

std::vector<std::string_view> Decoder::Opcodes() {
  std::vector<std::string_view> names;
  for (const auto& [name, method] : Methods()) names.push_back(name);
  return names;
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
    const auto method = Methods().find(modifiers.opcode());
    const bool ok =
        method != Methods().end() ? (this->*method->second)(modifiers) : Unsupported("");
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
    out_.constants.clear();
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

std::vector<std::string_view> Opcodes() { return Decoder::Opcodes(); }

bool DecodeFunction(const ModuleAst& module, const FunctionAst& ast, Function* out,
                    ParseError* error) {
  return Decoder(module, ast, out, error).Run();
}

}  // namespace simgpu::ptx
