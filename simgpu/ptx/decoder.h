// The decoder's inside, shared by decode.cc (operands, the table of opcodes) and its other files by
// theme.
#pragma once

#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "simgpu/ptx/code.h"
#include "simgpu/ptx/ops.h"

namespace simgpu::ptx {

RegClass ClassOf(Type type);
class Modifiers;
Space TakeSpace(Modifiers& m);          // kGeneric when none is named.
Type ParseType(std::string_view name);  // kNone when it is no type.

// The parts of "ld.global.v2.f32" after the opcode; each decode method takes what it knows, and
// what is left over makes the instruction unsupported.
class Modifiers {
 public:
  explicit Modifiers(std::string_view text);
  std::string_view opcode() const { return opcode_; }
  bool Take(std::string_view name);
  // Takes the last type modifier.
  Type TakeType();
  // Takes a rounding modifier of arithmetic (.rn .rz .rm .rp) or conversion (.rni ...).
  Round TakeRound();
  // Takes the first modifier that is in `names`; answers its index or -1.
  int TakeOneOf(std::initializer_list<std::string_view> names);
  // Takes every modifier that changes only caching, ordering or scope, which one coherent memory
  // already gives.
  void TakeMemoryHints();
  std::string_view Left() const;  // The first that nobody took, or empty.

 private:
  std::string_view opcode_;
  std::array<std::string_view, 16> parts_;
  size_t count_ = 0;
  bool overflow_ = false;
};

// One use per function. Methods answer false after recording a refusal or an error.
class Decoder {
 public:
  Decoder(const ModuleAst& module, const FunctionAst& ast, Function* out, ParseError* error)
      : module_(module), ast_(ast), out_(*out), error_(error) {}

  bool Run();
  static std::vector<std::string_view> Opcodes();

 private:
  using Method = bool (Decoder::*)(Modifiers&);
  static const std::unordered_map<std::string_view, Method>& Methods();

  // ---- errors ----
  bool Unsupported(const std::string& why);
  bool Invalid(std::string why);
  bool Count(size_t count);
  bool Count(size_t low, size_t high);
  bool NothingLeft(const Modifiers& m);

  // ---- operands: offsets of registers, kNoReg after a failure (then failed_ is set) ----
  uint32_t Allocate(RegClass cls);
  uint32_t RegisterOffset(int index);
  uint32_t ConstantOffset(RegClass cls, uint64_t value, int variable);
  uint32_t Source(const Operand& operand, RegClass cls, bool floating = false);
  uint32_t Source(const Operand& operand, Type type) {
    return Source(operand, ClassOf(type), IsFloat(type));
  }
  uint32_t Destination(const Operand& operand, RegClass cls);
  uint32_t Pair(const Operand& operand, RegClass cls);
  uint32_t AnySource(const Operand& operand, RegClass fallback,
                     RegClass* cls);  // Any register width.
  uint32_t VariableAddress(int index, int64_t offset);
  bool Address(const Operand& operand, Space* space, Instr* i);
  // A 64-bit register that holds the whole address, for instructions that take more than one.
  uint32_t AddressRegister(const Operand& operand, Space* space);
  bool VectorParts(const Operand& operand, bool is_source, int count, RegClass cls, Instr* i);
  void Use(int variable);

  Instr New(Kind kind = Kind::kPlain) const;
  bool Emit(Instr i, Handler fn);
  void EmitHelper(Instr i, Handler fn);
  const Operand& Arg(size_t n) const { return statement_->operands[n]; }

  // ---- decode_memory.cc and decode_control.cc ----
  bool Mov(Modifiers& m);
  bool MovVector(Type type);
  bool Load(Modifiers& m);
  bool Store(Modifiers& m);
  bool Cvta(Modifiers& m);
  bool Isspacep(Modifiers& m);
  bool AtomOrRed(Modifiers& m);
  bool Branch(Modifiers& m);
  bool BranchTable(Modifiers& m);
  bool Call(Modifiers& m);
  bool IndirectCall(const Operand& results, const Operand& target, size_t at);
  bool ResolveCopies(const Operand& list, const std::vector<int>& formal, bool results,
                     std::vector<CallSite::Copy>* copies);
  bool Ret(Modifiers& m);
  bool Exit(Modifiers& m);
  bool Trap(Modifiers& m);
  bool Bar(Modifiers& m);
  bool Fence(Modifiers& m);
  bool Nothing(Modifiers& m);
  bool Nanosleep(Modifiers& m);
  bool Shfl(Modifiers& m);
  bool Vote(Modifiers& m);
  bool Match(Modifiers& m);
  bool Redux(Modifiers& m);
  bool CreatePolicy(Modifiers& m);
  bool AsyncCopy(Modifiers& m);
  bool BulkCopy(Modifiers& m);
  bool MemoryBarrier(Modifiers& m);
  bool Activemask(Modifiers& m);
  bool Elect(Modifiers& m);
  bool Label(std::string_view name, uint32_t* statement);

  // ---- decode_arithmetic.cc ----
  bool AddSub(Modifiers& m);
  bool AddSubCarry(Modifiers& m);
  bool Mul(Modifiers& m);
  bool Mad(Modifiers& m);
  bool Fma(Modifiers& m);
  bool DivRem(Modifiers& m);
  bool MinMax(Modifiers& m);
  bool NegAbs(Modifiers& m);
  bool Logic(Modifiers& m);
  bool ShiftOp(Modifiers& m);
  bool ToCount(Modifiers& m);
  bool Brev(Modifiers& m);
  bool FieldOp(Modifiers& m);
  bool Prmt(Modifiers& m);
  bool Lop3(Modifiers& m);
  bool Shf(Modifiers& m);
  bool MaskOp(Modifiers& m);
  bool Dot(Modifiers& m);
  bool Video(Modifiers& m);
  bool Fns(Modifiers& m);
  bool Sad(Modifiers& m);
  bool Select(Modifiers& m);
  bool Setp(Modifiers& m);
  bool Set(Modifiers& m);
  bool Testp(Modifiers& m);
  bool Math(Modifiers& m);
  bool Copysign(Modifiers& m);
  bool Cvt(Modifiers& m);
  bool CvtPack(Modifiers& m);
  static bool ConversionFits(Type to, Type from, Round round, uint16_t aux);
  bool ComparisonFits(int compare, Type type, bool flush);
  bool Combining(Modifiers& m, Instr* i);
  bool EmitFloat(Op op, Type type, Instr i, Round round);

  const ModuleAst& module_;
  const FunctionAst& ast_;
  Function& out_;
  ParseError* error_;
  const Statement* statement_ = nullptr;
  bool failed_ = false;
  std::vector<uint32_t> offsets_;  // By register index.
  std::map<std::tuple<RegClass, uint64_t, int>, uint32_t> constants_;
  std::map<std::string_view, uint32_t> names_;
  uint32_t predicate_chunk_ = 0;
  uint32_t predicates_left_ = 0;
};

}  // namespace simgpu::ptx
