// The public face of the PTX interpreter: parse a module's text, ask what it needs, launch its
// kernels. Standard library only; the driver (libcuda) owns device memory and hands it in through
// Memory.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace simgpu::ptx {

// Named bounds. Hitting one is an error whose message carries the bound's name.
inline constexpr size_t kMaxSourceBytes = size_t{256} << 20;  // PTX text of one module.
inline constexpr size_t kMaxInstructionsPerFunction =
    4'000'000;  // Statements of one function body.
inline constexpr uint32_t kMaxRegistersPerFunction =
    1'000'000;  // Declared registers of one function.
inline constexpr size_t kMaxVariableBytes = size_t{4}
                                            << 30;  // One .global/.const/.shared variable.
inline constexpr uint32_t kMaxParamBytes = 32764;   // Kernel parameters, as CUDA 12.1+.
inline constexpr uint32_t kMaxThreadsPerBlock = 1024;
inline constexpr uint32_t kMaxSharedBytes = 232448;  // Static + dynamic of one block (227 KiB).
inline constexpr uint32_t kMaxCallDepth = 256;       // Nested device function calls.
inline constexpr uint32_t kMaxLocalBytesPerThread =
    512 * 1024;                                            // .local, depots and call parameters.
inline constexpr uint32_t kDefaultStackBytes = 64 * 1024;  // Where device functions recurse.
inline constexpr uint64_t kDefaultInstructionBudget =
    400'000'000'000;                                     // Thread instructions of one launch.
inline constexpr uint64_t kMaxCooperativeBlocks = 8192;  // Blocks of one cooperative launch.

// Generic address windows. Device memory that the driver hands out must stay below kSharedWindow.
inline constexpr uint64_t kSharedWindow = uint64_t{1} << 48;
inline constexpr uint64_t kLocalWindow = uint64_t{2} << 48;
inline constexpr uint64_t kParamWindow = uint64_t{3} << 48;
// The memory through which the blocks of a cooperative launch meet; the launch owns it.
inline constexpr uint64_t kGridWindow = uint64_t{4} << 48;
inline constexpr uint32_t kGridWorkspaceBytes = 256;

// Addresses of device functions, for calls through pointers: one every kFunctionStep bytes.
inline constexpr uint64_t kFunctionWindow = uint64_t{5} << 48;
inline constexpr uint64_t kFunctionStep = 16;

// A module variable of this name and 4 bytes starts as 1 here, whatever its initialiser says. A
// test kernel asks it whether it runs on a simulated card, where a stated time stands for spinning.
inline constexpr std::string_view kPresentVariable = "simgpu_present";

// Where and why a text was refused, for the JIT log.
struct ParseError {
  int line = 0;
  std::string message;
  std::string ToString() const;  // "line 12: message"
};

enum class GlobalSpace : uint8_t { kGlobal, kConst };

// A module-scope variable that the driver must allocate before the first launch.
struct Global {
  std::string name;
  GlobalSpace space = GlobalSpace::kGlobal;
  uint64_t size = 0;  // 0: declared `.extern x[]`, nothing to allocate.
  uint32_t align = 1;
  bool visible = false;   // Reachable by cuModuleGetGlobal.
  bool external = false;  // `.extern`: defined in another module; kernels that use it are refused.
  bool managed = false;   // `.attribute(.managed)`.
};

struct Param {
  uint32_t offset = 0;  // In the packed parameter buffer (natural alignment).
  uint32_t size = 0;
  uint32_t align = 1;
};

struct KernelInfo {
  std::string name;
  std::vector<Param> params;
  uint32_t param_bytes = 0;
  uint32_t static_shared_bytes = 0;
  uint32_t local_bytes = 0;  // Per thread; a lower bound when device functions recurse.
  uint32_t registers =
      0;  // An estimate for cuFuncGetAttribute (32-bit registers a thread, capped at 255).
  uint32_t max_threads = kMaxThreadsPerBlock;  // From .maxntid/.reqntid.
  uint32_t required_block[3] = {0, 0, 0};      // From .reqntid, zeros when absent.
  bool uses_dynamic_shared = false;
  // The time the kernel says it takes, see StatedTime; none when both are unset.
  int time_param = -1;
  uint64_t time_ns = 0;
  bool states_time = false;
  std::string
      refusal;  // Not empty: Launch answers kUnsupported with this text ("opcode ... at line ...").
};

// A kernel may say how long it takes of the card: `.pragma "simgpu.time_ns 500000";` anywhere in
// its body, or `.pragma "simgpu.time_ns param1";` for the value of its parameter number 1 (4 or 8
// bytes, unsigned, counted from 0). Assemblers of real cards ignore pragmas they do not know. The
// kernel is interpreted all the same. False: it says nothing, or `params` is shorter than its
// parameters.
bool StatedTime(const KernelInfo& info, const void* params, size_t param_bytes, uint64_t* ns);

// A contiguous piece of device memory as the host can reach it.
struct MemoryRange {
  uint64_t base = 0;  // Device address.
  uint64_t size = 0;
  uint8_t* host = nullptr;
  bool writable = true;
};

// Implemented by the driver. Thread-safe: several workers and several launches may ask at once.
// A range that was handed out must stay mapped until the launch that asked for it has returned
// (free is stream ordered or synchronises, as on a real device).
class Memory {
 public:
  virtual ~Memory() = default;
  // The whole allocation that contains `address`, or false: the kernel then ends with
  // kIllegalAddress.
  virtual bool Resolve(uint64_t address, MemoryRange* range) = 0;
  // Device-side malloc and free. 0: the device's heap is full, or there is none; false: the address
  // is not one that HeapAllocate gave and HeapFree has not taken.
  virtual uint64_t HeapAllocate(uint64_t) { return 0; }
  virtual bool HeapFree(uint64_t) { return false; }
  // cudaGraphSetConditional. False: the driver knows no such handle.
  virtual bool SetConditional(uint64_t, uint32_t) { return false; }
};

enum class Status : uint8_t {
  kOk,
  kInvalidValue,    // CUDA_ERROR_INVALID_VALUE (1): configuration out of range.
  kUnsupported,     // CUDA_ERROR_NOT_SUPPORTED (801): the kernel needs what the interpreter lacks.
  kIllegalAddress,  // CUDA_ERROR_ILLEGAL_ADDRESS (700)
  kLaunchTimeout,   // CUDA_ERROR_LAUNCH_TIMEOUT (702): budget spent or a barrier nobody can
                    // complete.
  kAssert,          // CUDA_ERROR_ASSERT (710)
  kMisalignedAddress,  // CUDA_ERROR_MISALIGNED_ADDRESS (716)
  kLaunchFailed,       // CUDA_ERROR_LAUNCH_FAILED (719): trap, stack overflow.
  kInvalidPc,          // CUDA_ERROR_INVALID_PC (718): a call through a pointer to no function.
  kCancelled,          // LaunchConfig::cancel was set.
};

// The CUresult number for a status (0 for kOk, 719 for kCancelled).
int ToCudaError(Status status);
const char* StatusName(Status status);

struct LaunchConfig {
  uint32_t grid[3] = {1, 1, 1};
  uint32_t block[3] = {1, 1, 1};
  uint32_t dynamic_shared_bytes = 0;
  // The packed parameter buffer, laid out as KernelInfo::params says; at least param_bytes long.
  const void* params = nullptr;
  size_t param_bytes = 0;
  Memory* memory = nullptr;  // Required.
  uint64_t instruction_budget = kDefaultInstructionBudget;
  uint32_t stack_bytes =
      kDefaultStackBytes;  // Per thread, used only by kernels whose functions recurse.
  uint32_t workers = 1;    // Host threads that share the grid's blocks.
  const std::atomic<bool>* cancel = nullptr;  // Polled; set it to stop a launch early.
  // All blocks are resident and take turns, so that they may wait for each other (grid.sync()).
  bool cooperative = false;
  // Receives device printf text, whole calls at a time; stdout when empty. Called under a lock.
  std::function<void(std::string_view)> print;
  // Value of %globaltimer in nanoseconds; the host's steady clock when empty. %clock and %clock64
  // follow it at `clock_khz` ticks a millisecond.
  std::function<uint64_t()> clock;
  uint64_t clock_khz = 1'000'000;
};

struct LaunchResult {
  Status status = Status::kOk;
  std::string
      message;  // Empty when kOk; else what happened, with kernel, PTX line, block and thread.
  uint64_t instructions = 0;  // PTX instructions executed, counted per thread.
  bool has_stated = false;    // The kernel states its time (StatedTime): stated_ns.
  uint64_t stated_ns = 0;
};

// One parsed PTX module.
// Thread-safety: after the addresses are set, Launch may run from several threads at once.
// Ownership: keeps no pointer into the text; owns the decoded code.
class Module {
 public:
  // Text may end with NUL bytes. Answers null and fills `error` only when the text is not PTX
  // (syntax, undeclared names); what is well formed but not supported is recorded per kernel as its
  // refusal.
  static std::unique_ptr<Module> Parse(std::string_view text, ParseError* error);
  ~Module();

  int version() const;  // 83 for ".version 8.3".
  int target() const;   // 75 for "sm_75".
  const std::vector<Global>& globals() const;
  const std::vector<KernelInfo>& kernels() const;
  const KernelInfo* FindKernel(std::string_view name) const;
  int FindGlobal(std::string_view name) const;  // Index, or -1.

  // Driver protocol: allocate every global with size > 0, SetGlobalAddress each, then copy
  // InitialImage(i) to device memory (initialisers that hold addresses of other globals need all
  // addresses first).
  void SetGlobalAddress(size_t index, uint64_t device_address);
  std::vector<uint8_t> InitialImage(size_t index) const;  // Exactly `size` bytes, zero filled.
  bool HasInitialiser(size_t index) const;                // False: zero fill is all there is to do.

  LaunchResult Launch(std::string_view kernel, const LaunchConfig& config) const;

  struct Impl;

 private:
  explicit Module(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace simgpu::ptx
