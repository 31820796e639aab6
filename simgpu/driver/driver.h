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
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <unordered_set>
#include <vector>

#include "abi/cuda.h"
#include "simgpu/driver/arena.h"
#include "simgpu/driver/free_runs.h"
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
  kMulticast,
  kExternalMemory,
  kExternalSemaphore,
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
struct Stream;
struct Command;

// A 2 MiB block of one context that holds small allocations only.
struct SmallBlock {
  uint64_t base = 0;
  FreeRuns free_runs;  // addresses
  uint32_t live = 0;
};

enum class MemoryKind {
  kLarge,     // cuMemAlloc, granules of its own
  kSmall,     // cuMemAlloc, packed
  kManaged,   // reachable from the host too
  kModule,    // a module's variables
  kPooled,    // stream ordered, from a pool of this process (pool.h)
  kGraph,     // a graph's memory node (pool.h)
  kMapped,    // a range of addresses backed by cuMemMap (vmm.cc)
  kImported,  // another process's memory: IPC, or a pointer of an imported pool
  kExternal,  // a buffer of memory that another interface made (external.cc)
};

struct Pool;
struct Physical;
struct Multicast;

// One range of device addresses that hold memory. All but mapped and imported ones lie in the arena
// of their device or of their pool.
struct Allocation {
  uint64_t base = 0;
  uint64_t size = 0;      // as asked for
  uint64_t capacity = 0;  // rounded to what the model takes
  MemoryKind memory_kind = MemoryKind::kLarge;
  Context* context = nullptr;  // null for pooled, graph and mapped memory, which no context owns
  int device = 0;              // whose memory it is; -1: the host's
  uint64_t id = 0;
  bool freeing = false;            // its free is queued in a stream
  uint8_t* host = nullptr;         // where this process reaches the byte at `base`
  Pool* pool = nullptr;            // kPooled; kImported by cuMemPoolImportPointer
  Physical* physical = nullptr;    // kMapped, kExternal
  Multicast* multicast = nullptr;  // kMapped instead: nothing that loads and stores reach
  uint8_t access[kCardsMax] = {};  // kMapped: CU_MEM_ACCESS_FLAGS_* by device; others: see MayReach
};

// Page-locked host memory, allocated here or registered by the program.
struct HostRange {
  uint64_t base = 0;
  uint64_t size = 0;
  uint64_t mapped = 0;  // bytes to unmap; 0 for registered memory
  unsigned int flags = 0;
  Context* context = nullptr;
};

struct Module;  // NOLINT(bugprone-forward-declaration-namespace): the interpreter has one too
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
  std::set<const Context*> peers;  // whose memory cuCtxEnablePeerAccess opened to this one
  // Its streams (stream.cc): the default ones belong to the context, those of cuStreamCreate stand
  // in Driver::live too. Driver::mutex.
  Stream* legacy = nullptr;
  std::map<uint64_t, Stream*> per_thread;  // by thread
  std::vector<Stream*> streams;            // all of them
  // Work (executor.h). The executor's lock.
  uint64_t legacy_count = 0;                      // commands put into the legacy default stream
  std::vector<std::shared_ptr<Command>> loose;    // work of graphs that stands in no stream
  std::vector<std::shared_ptr<Command>> orphans;  // the last work of destroyed blocking streams
  uint64_t unfinished = 0;                        // commands whose time is not known yet
  std::atomic<bool> cancel{false};                // kernels stop: the context faulted
};

struct Capture;
struct GraphNode;
struct SharedEvent;

struct Stream : Object {
  Stream() : Object(Kind::kStream) {}
  Context* context = nullptr;
  unsigned int flags = 0;
  int priority = 0;
  uint64_t id = 0;
  unsigned int policy = 1;               // CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY: 1 automatic
  unsigned char access_window[32] = {};  // CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW, as it was set
  bool blocking = true;  // waits for, and is waited for by, the legacy default stream
  // Work (executor.h). The executor's lock.
  std::shared_ptr<Command> last;
  std::deque<std::shared_ptr<Command>> queued;  // not known to be finished, oldest first
  uint64_t count = 0;                           // commands put into it
  uint64_t legacy_joined = 0;  // how many of them the legacy default stream waits for
  uint64_t legacy_seen = 0;    // how many of the legacy stream's it waits for
  // While it captures (capture.h; null otherwise): into what, and behind which nodes.
  std::shared_ptr<Capture> capture;
  std::vector<GraphNode*> capture_after;
};

struct Event : Object {
  Event() : Object(Kind::kEvent) {}
  ~Event();
  Context* context = nullptr;
  unsigned int flags = 0;
  // Interprocess events (ipc.h); null for others.
  SharedEvent* shared = nullptr;
  int shared_fd = -1;
  uint64_t shared_file = 0;  // which file shared_fd was when it was made
  uint64_t shared_id = 0;
  std::shared_ptr<Command> command;  // its last record (the executor's lock); null: none yet
  // When it was last recorded in a capture (capture.h): that one, and behind which nodes.
  std::shared_ptr<Capture> capture;
  std::vector<GraphNode*> capture_after;
};

// Device addresses outside the cards' arenas: reserved by the program, a pool's own, or imported.
struct AddressRange {
  uint64_t bytes = 0;
  bool program = false;     // by cuMemAddressReserve
  uint8_t* host = nullptr;  // where this process reaches what is there (null: a pool's arena does)
  Pool* pool = nullptr;     // whose it is, made here or imported
  // IPC: how often it is open (0: this is none), by which handle, and the connection to the process
  // whose memory it is; what is charged here since that process is gone.
  uint32_t references = 0;
  uint32_t card = 0;
  uint64_t import_of[3] = {};
  int socket = -1;
  uint64_t socket_file = 0;  // which file `socket` was when it was made
  uint64_t charged = 0;
};

// The addresses of a graph's memory node.
struct GraphRange {
  int device = 0;
  uint64_t size = 0;
  uint64_t capacity = 0;
  uint32_t taken = 0;  // lives that launches have taken memory for and that are not over
};

// Of device-side malloc, in one allocation of the context (memory_heap.cc).
struct DeviceHeap {
  uint64_t base = 0;
  FreeRuns free_runs;  // addresses
  std::map<uint64_t, uint64_t> used;
};

// What a program advised about part of a managed allocation (managed.cc).
struct ManagedAdvice {
  uint64_t bytes = 0;
  bool read_mostly = false;
  CUmemLocation preferred{};  // type 0: none
  CUmemLocation prefetched{};
  uint32_t accessed_by = 0;  // devices, as bits
  bool accessed_by_host = false;
};

// What graphs use of a device, and what is kept for them.
struct GraphMemoryUse {
  uint64_t used = 0, used_high = 0;
  uint64_t reserved = 0, reserved_high = 0;
};

struct Device {
  uint32_t card = 0;  // index in the state
  Context primary;
  Pool* default_pool = nullptr;
  Pool* pool = nullptr;          // the current one: what cuMemAllocAsync takes
  std::unique_ptr<Arena> arena;  // made at the first need
  GraphMemoryUse graphs;         // memory nodes of graphs (pool.h)
};

struct Driver {
  State* state = nullptr;
  std::vector<Device*> devices;  // the visible ones, in the program's order
  std::mutex mutex;
  std::unordered_set<const Object*> live;      // every handle that may be used
  std::map<uint64_t, Allocation> allocations;  // device memory by base
  std::map<uint64_t, HostRange> hosts;         // page-locked host memory by base
  std::map<uint64_t, AddressRange> ranges;     // device addresses outside the cards' arenas by base
  // By base of a managed allocation: what was advised, by address. No entry: nothing.
  std::map<uint64_t, std::map<uint64_t, ManagedAdvice>> managed;
  std::map<uint64_t, GraphRange> graph_ranges;  // by address of the memory node
  std::map<const Context*, DeviceHeap> heaps;
  std::set<Physical*> physicals;        // what cuMemCreate made or an import brought
  std::set<Pool*> pools;                // all of them, default ones too
  std::atomic<bool> pools_look{false};  // a free may have left a pool more than it may keep
  std::vector<Context*> gone;           // destroyed, but maybe still on some thread's stack
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
// As Reach, for work of that device: null too when the memory is mapped and the device was given no
// (write) access by cuMemSetAccess. Copies and fills may take any device that has access.
inline constexpr int kAnyDevice = -1;
uint8_t* ReachFor(const Driver& driver, int device, uint64_t address, uint64_t bytes, bool write);
// As Reach, for the memory nodes of graphs, alive or not (graph_memory.cc): nodes, and calls that a
// capture records, name memory that there will be when their time comes.
uint8_t* ReachInGraph(const Driver& driver, uint64_t address, uint64_t bytes, int* device);
// Whether the address lies in a range that only device memory can have, whatever is there now.
bool InAnyArena(const Driver& driver, uint64_t address);
// Whether kernels of a context (or of any context of the device) may touch the memory: their own
// device's, managed, a peer's after cuCtxEnablePeerAccess, a pool's after cuMemPoolSetAccess,
// mapped memory as cuMemSetAccess says. The answer is CU_MEM_ACCESS_FLAGS_*: 0 none, 1 read, 3 read
// and write.
uint32_t AccessOf(const Driver& driver, const Context* from, const Allocation& memory);
bool MayReach(const Driver& driver, int from_device, const Allocation& memory);

// Device-side malloc and free of kernels of the context. Mutex free. 0: the heap is full; false:
// not an address it gave.
uint64_t HeapAllocate(Driver* driver, Context* context, uint64_t bytes);
bool HeapFree(Driver* driver, Context* context, uint64_t address);

// cudaGraphSetConditional of kernels (graph_conditional.cc). False: no such handle.
bool SetConditional(uint64_t handle, uint32_t value);

// Modules (module.cc): drops all modules of the context and its instances of libraries. Mutex held.
void DropModules(Driver* driver, Context* context);

// Streams (stream.cc): 0, 1 and 2 name the default streams. Mutex held.
bool StreamOk(const Driver& driver, CUstream handle);
void MakeStreams(Driver* driver, Context* context);
void DropStreams(Driver* driver, Context* context);

// Whether this thread runs a host function or callback of a stream, which may call nothing here.
bool InHostFunction();

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

// Exports `alias_name` as another name of `symbol`, which must stand in the same file. Not for the
// forms of a call that take the default stream differently (StreamForm in work.h). Both names
// expand first, because the entry points have others in here (front/).
#define SIMGPU_ALIAS(symbol, alias_name) SIMGPU_ALIAS_EXPANDED(symbol, alias_name)
#define SIMGPU_ALIAS_EXPANDED(symbol, alias_name) \
  extern "C" __attribute__((alias(#symbol))) decltype(symbol) alias_name
