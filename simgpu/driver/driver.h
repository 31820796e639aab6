// The insides of simgpu's libcuda.so.1: devices, contexts and what hangs on them, one process's
// worth.
//
// Everything is made once and leaked, because programs call the driver from exit handlers. One
// lock, Driver::mutex, guards all tables; it is not held while a kernel runs or bytes are copied.
// Handles are pointers to the objects below; an object whose handle a program may still hold after
// destroying it is kept and marked dead instead of freed, so that a stale handle gets an error and
// not a crash.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <unordered_set>
#include <vector>

#include "abi/cuda.h"
#include "simgpu/driver/arena.h"
#include "simgpu/state/state.h"

namespace simgpu {

using namespace tessera::abi;  // NOLINT: this whole library is written in the driver's words

inline constexpr int kContextStackMax = 64;
inline constexpr uint64_t kLargeBytes =
    uint64_t{1} << 20;                       // from here on an allocation has granules of its own
inline constexpr uint64_t kSmallUnit = 512;  // smaller ones are packed in these

// What every handle points to begins with its kind.
enum class Kind : uint32_t {
  kContext = 0x43747831,
  kModule,
  kFunction,
  kLibrary,
  kKernel,
  kStream,
  kEvent,
  kPool,
  kArray,
  kMipmap,
  kPhysical,  // cuMemCreate
  kGraph,
  kGraphNode,
  kGraphExec,
  kUserObject,
  kLinker,
};

struct Object {
  explicit Object(Kind kind) : kind(kind) {}
  const Kind kind;
};

struct Context;

// A 2 MiB block of one context that holds small allocations only.
struct SmallBlock {
  uint64_t base = 0;
  std::map<uint32_t, uint32_t> free_runs;  // unit -> length in units
  uint32_t live = 0;
};

enum class MemoryKind { kLarge, kSmall, kManaged, kModule };

struct Allocation {
  uint64_t base = 0;
  uint64_t size = 0;      // as asked for
  uint64_t capacity = 0;  // rounded to what the model takes
  MemoryKind memory_kind = MemoryKind::kLarge;
  Context* context = nullptr;
  int device = 0;
  uint64_t id = 0;
};

// Page-locked host memory, allocated here or registered by the program.
struct HostRange {
  uint64_t base = 0;
  uint64_t size = 0;
  uint64_t mapped = 0;  // bytes to unmap; 0 for registered memory
  unsigned int flags = 0;
  Context* context = nullptr;
};

struct Module;
struct Library;

struct Context : Object {
  Context() : Object(Kind::kContext) {}
  int device = 0;  // ordinal among the visible devices
  unsigned int flags = 0;
  unsigned int api_version = 3020;
  uint64_t id = 0;
  bool primary = false;
  std::atomic<bool> alive{false};
  unsigned int attached = 0;  // primary: retains; else cuCtxAttach count
  std::atomic<unsigned int> sticky{
      0};  // a kernel's fault: answered to every call until the context is gone
  size_t limits[10] = {};
  std::vector<std::unique_ptr<SmallBlock>> small_blocks;
};

struct Stream : Object {
  Stream() : Object(Kind::kStream) {}
  Context* context = nullptr;
  unsigned int flags = 0;
  int priority = 0;
  uint64_t id = 0;
};

struct Event : Object {
  Event() : Object(Kind::kEvent) {}
  Context* context = nullptr;
  unsigned int flags = 0;
  std::atomic<uint64_t> at_ns{0};  // 0: never recorded
};

struct Pool : Object {
  Pool() : Object(Kind::kPool) {}
  int device = 0;
};

struct Device {
  uint32_t card = 0;  // index in the state
  Context primary;
  Pool pool;
  std::unique_ptr<Arena> arena;  // made at the first context
};

struct Driver {
  State* state = nullptr;
  std::vector<Device*> devices;  // the visible ones, in the program's order
  std::mutex mutex;
  std::unordered_set<const Object*> live;      // every handle that may be used
  std::map<uint64_t, Allocation> allocations;  // device memory by base
  std::map<uint64_t, HostRange> hosts;         // page-locked host memory by base
  std::vector<Context*> gone;                  // destroyed, but maybe still on some thread's stack
  uint64_t next_id = 1;
};

// The process's driver, or null before cuInit succeeded here (a forked child has to say so too).
Driver* Get();
// For cuInit.
CUresult Initialise();

// The context on top of the calling thread's stack, alive and without a sticky error.
CUresult Current(Driver** driver, Context** context);
// As above; a handle of a context may be given instead (null: the current one).
CUresult ContextOf(CUcontext handle, Driver** driver, Context** context);
CUresult CheckDevice(CUdevice device, Driver** driver);
inline const Card& CardOf(const Driver& driver, int device) {
  return driver.state->card(driver.devices[device]->card);
}

// The handle as its object if it is live and of that kind. Call with the mutex held.
template <typename T>
T* Live(const Driver& driver, const void* handle, Kind kind) {
  auto* object = static_cast<const Object*>(handle);
  if (object == nullptr || !driver.live.contains(object) || object->kind != kind) return nullptr;
  return static_cast<T*>(const_cast<Object*>(object));
}

// Memory (memory.cc). With the mutex held.
CUresult Allocate(Driver* driver, Context* context, uint64_t bytes, MemoryKind kind,
                  uint64_t* address);
CUresult Release(Driver* driver, std::map<uint64_t, Allocation>::iterator at);
void ReleaseAll(Driver* driver, Context* context);
const Allocation* FindAllocation(const Driver& driver, uint64_t address);
const HostRange* FindHost(const Driver& driver, uint64_t address);
// Where the host can reach `bytes` at the address, which may be device or page-locked memory; null
// when it is neither or runs over the end.
uint8_t* Reach(const Driver& driver, uint64_t address, uint64_t bytes);
bool InAnyArena(const Driver& driver, uint64_t address);

// Modules (module.cc): drops all modules of the context and its instances of libraries. Mutex held.
void DropModules(Driver* driver, Context* context);

// Streams (stream.cc): 0, 1 and 2 name the default streams. Mutex held.
bool StreamOk(const Driver& driver, CUstream handle);
void DropStreams(Driver* driver, Context* context);

// One line on stderr unless SIMGPU_QUIET is set.
void Say(const std::string& line);

uint64_t NowNs();

inline uint64_t RoundUp(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace simgpu

// The start of an entry point that needs a usable current context.
#define SIMGPU_CURRENT(driver, context) \
  simgpu::Driver* driver = nullptr;     \
  simgpu::Context* context = nullptr;   \
  if (CUresult bad = simgpu::Current(&driver, &context); bad != CUDA_SUCCESS) return bad;
// The start of one that needs cuInit only.
#define SIMGPU_DRIVER(driver)             \
  simgpu::Driver* driver = simgpu::Get(); \
  if (driver == nullptr) return CUDA_ERROR_NOT_INITIALIZED;

// Exports `alias_name` as another name of `symbol`, which must stand in the same file: the
// per-thread-stream forms, which are one with the legacy ones as long as streams run in line.
#define SIMGPU_ALIAS(symbol, alias_name) \
  extern "C" __attribute__((alias(#symbol))) decltype(symbol) alias_name
