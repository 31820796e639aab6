// What the parser hands to the decoder: names are resolved to indices, opcodes are still text.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace simgpu::ptx {

enum class Space : uint8_t { kGeneric, kGlobal, kConst, kShared, kLocal, kParam };

// The storage class of a register: how many bits a lane holds.
enum class RegClass : uint8_t { kPred, k16, k32, k64, k128 };

struct Register {
  RegClass cls = RegClass::k32;
};

// An initialiser part that is an address: ((address of variable + addend) >> shift), low `bytes`
// bytes.
struct Relocation {
  uint64_t offset = 0;
  uint32_t bytes = 8;
  uint32_t shift = 0;
  int64_t addend = 0;
  std::string symbol;
};

struct Variable {
  std::string name;
  Space space = Space::kGlobal;
  uint64_t size = 0;
  uint32_t align = 1;
  uint32_t frame_offset =
      0;                  // .local and .param inside a function: where in the frame's local bytes.
  int entry_offset = -1;  // .param of an entry: offset in the parameter buffer.
  int element_bytes = 0;
  bool visible = false;
  bool external = false;
  bool managed = false;
  bool unsized = false;  // `x[]`
  bool opaque = false;   // A texture, surface or sampler reference.
  std::vector<uint8_t> init;
  std::vector<Relocation> relocations;
};

enum class Special : uint8_t {
  kNone,
  kTidX,
  kTidY,
  kTidZ,
  kNtidX,
  kNtidY,
  kNtidZ,
  kCtaidX,
  kCtaidY,
  kCtaidZ,
  kNctaidX,
  kNctaidY,
  kNctaidZ,
  kLaneId,
  kWarpId,
  kNwarpId,
  kSmId,
  kNsmId,
  kWarpSize,
  kGridId,
  kClock,
  kClockHi,
  kClock64,
  kGlobalTimer,
  kGlobalTimerLo,
  kGlobalTimerHi,
  kLaneMaskEq,
  kLaneMaskLe,
  kLaneMaskLt,
  kLaneMaskGe,
  kLaneMaskGt,
  kDynamicSmemSize,
  kTotalSmemSize,
  kGridWorkspaceLow,
  kGridWorkspaceHigh,
  kOne,
  kZero,
};

struct Operand {
  enum Kind : uint8_t {
    kNone,
    kRegister,
    kVariable,
    kSpecial,
    kInteger,
    kFloat32,
    kFloat64,
    kVector,
    kAddress,
    kList,
    kName,
    kSink
  };
  Kind kind = kNone;
  bool negated = false;  // `!p` as a source.
  int index = -1;        // Register or variable.
  int pair = -1;         // `p|q`: the second register, -2 for `p|_`.
  Special special = Special::kNone;
  int64_t integer = 0;    // Literal bits, or the offset of an address or symbol.
  std::string_view name;  // kName.
  std::vector<Operand>
      items;  // kVector, kList; kAddress: the base (register, variable or integer).
};

struct Statement {
  int line = 0;
  std::string_view text;  // "ld.global.u32"
  int scope = 0;
  int guard = -1;
  bool guard_negated = false;
  std::vector<Operand> operands;
};

struct FunctionAst {
  std::string name;
  int line = 0;
  bool entry = false;
  bool visible = false;
  bool defined = false;
  bool register_params = false;  // `.func (.reg ...)`: the pre-ABI form.
  std::vector<int> params;       // Variable indices.
  std::vector<int> returns;
  uint32_t max_threads = 0;
  uint32_t required_block[3] = {0, 0, 0};
  bool states_time = false;  // `.pragma "simgpu.time_ns ..."`
  int time_param = -1;
  uint64_t time_ns = 0;
  std::vector<Register> registers;
  std::vector<Statement> statements;
  std::vector<int> scope_parent;                                // Scope 0 is the body.
  std::map<std::pair<int, std::string_view>, uint32_t> labels;  // To the next statement's index.
  std::map<std::pair<int, std::string_view>, std::vector<std::string_view>> branch_tables;
  uint32_t frame_bytes = 0;  // .local and .param variables.
};

struct ModuleAst {
  int version = 0;
  int target = 0;
  int address_size = 64;
  std::vector<Variable> variables;
  std::vector<int> module_variables;  // Module scope .global/.const, in order.
  std::vector<FunctionAst> functions;
  std::map<std::string, int, std::less<>> function_index;
};

}  // namespace simgpu::ptx
