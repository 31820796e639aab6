// Decoded code and the state one host thread needs to run it. Internal to the interpreter.
//
// A warp runs one instruction for all its active lanes before the next one: a register is 32 lanes
// side by side (a predicate is one 32-bit mask), so a handler is a short loop that the compiler
// turns into vector code and the cost of dispatch is paid once for up to 32 threads.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "simgpu/ptx/ast.h"
#include "simgpu/ptx/ptx.h"

namespace simgpu::ptx {

inline constexpr int kWarpSize = 32;
inline constexpr uint32_t kFullMask = 0xffffffffu;
inline constexpr uint32_t kNoReg = 0xffffffffu;  // Also "no guard".

struct Exec;
struct Instr;
using Handler = void (*)(Exec&, const Instr&, uint32_t mask);

enum class Kind : uint8_t {
  kPlain,
  kMemory,    // May set Exec::fault.
  kWarpSync,  // Plain, once every lane of its member mask has arrived.
  kBranch,
  kBranchTable,
  kCall,
  kRet,
  kExit,
  kTrap,
  kBarrier,
  kYield,
};

// Comparison, rounding and flag values live in `aux`; their meaning belongs to the handler.
struct Instr {
  Handler fn = nullptr;
  uint32_t dst = kNoReg;  // Byte offsets of registers in the frame.
  uint32_t a = kNoReg;
  uint32_t b = kNoReg;
  uint32_t c = kNoReg;
  uint32_t d = kNoReg;
  uint32_t guard = kNoReg;
  int64_t imm = 0;
  uint32_t target = 0;  // Branch target, or an index into Function::calls / tables.
  uint32_t extra = 0;   // First of `count` entries in Function::extra.
  uint32_t site = 0;    // Index of this access's range cache.
  int32_t line = 0;
  uint32_t name = 0;  // Into Function::names.
  uint16_t aux = 0;
  uint8_t count = 0;
  Kind kind = Kind::kPlain;
  bool guard_negated = false;
  bool address32 = false;  // The address register is 32 bits wide.
};

// A literal, or the address of a variable plus a literal, spread over a read-only register of the
// frame.
struct Constant {
  uint32_t offset = 0;
  RegClass cls = RegClass::k32;
  int variable = -1;
  uint64_t value = 0;
};

struct CallSite {
  enum Builtin : uint8_t { kNoBuiltin, kPrintf, kAssert, kMalloc, kFree, kSetConditional };
  int function = -1;  // -1: indirect, the register `a` of the instruction says which.
  Builtin builtin = kNoBuiltin;
  struct Copy {
    uint32_t from, to, bytes;
  };
  std::vector<Copy> arguments;  // From caller frame offsets to callee frame offsets.
  std::vector<Copy> results;    // From callee frame offsets to caller frame offsets.
  // Indirect: the caller's variables by index, -1 for a result nobody wants; the callee's are known
  // when it is called.
  std::vector<int> argument_variables;
  std::vector<int> result_variables;
};

struct Function {
  std::string name;
  bool entry = false;
  bool defined = false;
  std::vector<Instr> code;
  std::vector<uint32_t> extra;
  std::vector<Constant> constants;
  std::vector<CallSite> calls;
  std::vector<std::vector<uint32_t>> tables;  // brx.idx.
  std::vector<std::string> names;             // Opcode texts, for messages.
  std::vector<int> params, returns;           // Variable indices.
  std::vector<int> used_variables;            // .global, .const and .shared ones.
  std::vector<int> address_taken;             // Functions.
  uint32_t register_bytes = 0;                // Registers and constants of one warp.
  uint32_t register_words = 0;                // 32-bit registers of one thread, as declared.
  uint32_t frame_bytes = 0;                   // .local and .param bytes of one thread.
  uint32_t sites = 0;                         // Range caches its instructions use.
  std::string refusal;
};

struct Kernel {
  int function = -1;
  std::vector<int> closure;  // Functions reachable by calls and itself, ascending.
  std::map<int, uint32_t>
      shared_offsets;  // Variable index to address in the block's shared memory.
  uint32_t static_shared_bytes = 0;
  bool recursive = false;  // Or calls what only a register knows.
  uint32_t local_bytes = 0;
};

struct Module::Impl {
  ModuleAst ast;
  std::vector<Function> functions;
  std::vector<Kernel> kernel_code;  // Beside `kernels`.
  std::vector<KernelInfo> kernels;
  std::vector<Global> globals;      // Beside ast.module_variables.
  std::vector<uint64_t> addresses;  // By variable index.
};

struct RangeCache {
  uint64_t base = 0;
  uint64_t size = 0;
  uint8_t* host = nullptr;
  bool writable = false;
};

struct Frame {
  const Function* function = nullptr;
  uint32_t slot = 0;  // Of the function, in Kernel::closure.
  Frame* parent = nullptr;
  std::vector<uint64_t> storage;
  uint8_t* registers = nullptr;
  uint32_t return_pc = 0;
  uint32_t lanes = 0;       // Lanes that have not returned yet.
  uint32_t local_base = 0;  // Where its local bytes start in each thread's local memory.
  uint32_t depth = 0;
};

struct Fault {
  Status status = Status::kOk;
  int lane = 0;
  std::string what;
};

// What handlers see. One per host worker; the scheduler points it at the running warp.
struct Exec {
  uint8_t* r = nullptr;  // Registers of the current frame.
  Frame* frame = nullptr;
  uint32_t carry = 0;  // CC.CF, one bit a lane; saved per warp.

  const uint32_t* tid[3] = {nullptr, nullptr, nullptr};  // Of the running warp, 32 each.
  uint32_t warp_id = 0;
  uint32_t live = 0;  // Lanes of the warp that have not exited.

  uint8_t* shared = nullptr;
  uint64_t shared_bytes = 0;
  uint8_t* local = nullptr;  // Of the warp's first thread.
  uint64_t local_bytes = 0;  // Of one thread.
  const uint8_t* params = nullptr;
  uint32_t param_bytes = 0;
  RangeCache* caches = nullptr;
  Memory* memory = nullptr;

  uint32_t ctaid[3] = {0, 0, 0};
  const LaunchConfig* config = nullptr;
  uint8_t* grid_workspace = nullptr;  // kGridWorkspaceBytes; null unless cooperative.
  uint64_t grid_id = 0;
  uint64_t instructions = 0;  // Thread instructions of this worker so far.
  uint32_t worker = 0;
  bool interrupt = false;  // A memory handler has set `fault`, or wants other warps to run.
  Fault fault;

  void Fail(Status status, int lane, std::string what) {
    interrupt = true;
    if (fault.status == Status::kOk) fault = {status, lane, std::move(what)};
  }
};

template <class T>
inline T* Reg(Exec& e, uint32_t offset) {
  return reinterpret_cast<T*>(e.r + offset);
}

// clang vectorises these loops unasked, after a check that the registers do not overlap.
#if defined(__clang__)
#define SIMGPU_VECTORIZE
#else
#define SIMGPU_VECTORIZE _Pragma("GCC ivdep")
#endif

// Runs `body(lane)` for the lanes of `mask`; the full warp is a plain loop that vectorises.
// Registers either coincide or do not overlap, so reading and writing lane by lane is safe in any
// order.
template <class Body>
inline void ForLanes(uint32_t mask, Body body) {
  if (mask == kFullMask) {
    SIMGPU_VECTORIZE
    for (int lane = 0; lane < kWarpSize; ++lane) body(lane);
  } else {
    for (uint32_t m = mask; m != 0; m &= m - 1) body(__builtin_ctz(m));
  }
}

// Where [address, address + bytes) lies on the host, or null with e.fault set. The address must be
// a multiple of `align`, a power of two.
uint8_t* TranslateSlow(Exec& e, const Instr& i, Space space, uint64_t address, uint32_t bytes,
                       int lane, bool write, uint32_t align);
inline uint8_t* TranslateSlow(Exec& e, const Instr& i, Space space, uint64_t address,
                              uint32_t bytes, int lane, bool write) {
  return TranslateSlow(e, i, space, address, bytes, lane, write, bytes);
}

// Runs device printf for one lane; false with e.fault set when an argument is out of reach.
bool DevicePrintf(Exec& e, const Instr& i, uint64_t format, uint64_t arguments, int lane,
                  std::string* text);
// Reads a NUL-terminated string of at most kMaxDeviceString bytes through generic addresses.
bool ReadDeviceString(Exec& e, const Instr& i, uint64_t address, int lane, std::string* text);
inline constexpr size_t kMaxDeviceString = 64 * 1024;

LaunchResult RunKernel(const Module::Impl& module, size_t kernel, const LaunchConfig& config);

}  // namespace simgpu::ptx
