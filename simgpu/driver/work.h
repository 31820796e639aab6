// Work: what programs put into streams, and how it comes to be done.
//
// An Action says what to do, as data: stream calls make one, stream capture and graph nodes keep
// one, Put and PutAfter turn one into a Command. Commands form a graph: each waits for those it
// depends on. A command has two halves. Its function (the bytes it moves, the kernel it interprets)
// is computed by a host thread as soon as the functions before it are done; its time (what it takes
// of the card's engines, state/engine.h) passes in device time. A command is done when both are,
// and only that is what programs can observe: synchronising, events, host functions and stream
// memory operations wait for it.
//
// With SIMGPU_SEED set, ready functions are computed one at a time in an order drawn from that
// seed, so that a program that relies on an order no stream gives it gets caught.
//
// Thread-safe; calls marked so want Driver::mutex held or free.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "simgpu/driver/driver.h"
#include "simgpu/driver/module.h"

namespace simgpu {

inline constexpr size_t kStreamDepthMax =
    1024;  // commands in one stream before a call that adds waits
inline constexpr size_t kExecutorThreadsMax = 16;  // host threads that compute functions

struct Array;
struct Graph;

// A launch, checked and complete: nothing in it refers to the caller's memory.
struct KernelAction {
  Context* context = nullptr;
  CUfunction handle = nullptr;  // as the program gave it: a function or a kernel
  std::shared_ptr<ptx::Module> code;
  const ptx::KernelInfo* info = nullptr;  // lives as long as `code`
  uint32_t grid[3] = {1, 1, 1};
  uint32_t block[3] = {1, 1, 1};
  uint32_t shared_bytes = 0;
  std::vector<uint8_t> params;  // packed as info->params says
  bool cooperative = false;
};

// One side of a copy. Bytes of a linear side: base + (z * height + y) * pitch + x.
struct CopySide {
  CUmemorytype type = CU_MEMORYTYPE_HOST;  // host, device, unified or array
  uint64_t base = 0;                       // address, for all but arrays
  Array* array = nullptr;
  uint64_t pitch = 0;
  uint64_t height = 0;
  uint64_t x = 0, y = 0, z = 0;  // x in bytes
};
struct CopyAction {
  CopySide from, to;
  uint64_t width = 0;  // bytes
  uint64_t height = 1, depth = 1;
};

struct FillAction {
  uint64_t address = 0;
  uint64_t pitch = 0;
  uint32_t value = 0;
  uint32_t element = 1;  // bytes: 1, 2, 4
  uint64_t width = 0;    // elements
  uint64_t height = 1;
};

// A host function, or with `callback` a stream callback. Called when everything before it is done.
struct HostAction {
  CUhostFn function = nullptr;
  CUstreamCallback callback = nullptr;
  CUstream stream = nullptr;
  void* data = nullptr;
  std::shared_ptr<void> keep;  // `data`, when it is ours
};

struct EventRecordAction {
  Event* event = nullptr;
  bool external = false;  // CU_EVENT_RECORD_EXTERNAL: a capture keeps it as a node of its own
};
struct EventWaitAction {
  Event* event = nullptr;
  bool external = false;
};

// One stream memory operation: waits for, or writes, a word that host or device can reach.
struct WordAction {
  uint64_t address = 0;
  uint64_t value = 0;
  uint32_t bytes = 4;
  bool write = false;
  uint32_t flags = 0;  // wait: the comparison, CU_STREAM_WAIT_VALUE_*
};

// Stream-ordered memory: the address was chosen when the action was made; these are the moments at
// which it begins and ceases to exist (BeginLife as soon as the functions before it are done,
// EndLife when everything before it is finished; pool.h).
struct AllocAction {
  uint64_t address = 0;
};
struct FreeAction {
  uint64_t address = 0;
};

struct EmptyAction {};

// A whole graph as one node of another.
struct ChildAction {
  std::shared_ptr<Graph> graph;
};

using Action =
    std::variant<EmptyAction, KernelAction, CopyAction, FillAction, HostAction, EventRecordAction,
                 EventWaitAction, WordAction, AllocAction, FreeAction, ChildAction>;

struct Command;
using CommandRef = std::shared_ptr<Command>;

// The form of a call: legacy ones take stream 0 as the legacy default stream, those that end in
// _ptsz and _ptds as the calling thread's own.
enum class StreamForm { kLegacy, kPerThread };

// Adds the action to a stream of the current context, behind what the stream's rules put before it
// (its own last command; the legacy default stream and blocking streams wait for each other). On a
// stream that captures, the action becomes a node of its graph instead. Mutex free. May wait for
// room (kStreamDepthMax). Capture: asks Captured (capture.h) first; the other calls that have to
// ask something there are named there.
CUresult Put(CUstream stream, StreamForm form, Action action);
// As Put, and answers the command; null when a capture took the action.
CUresult Put(CUstream stream, StreamForm form, Action action, CommandRef* command);
// As Put, and returns when it is done, or when its function is.
CUresult PutAndWait(CUstream stream, StreamForm form, Action action);
CUresult PutAndCompute(CUstream stream, StreamForm form, Action action);

// Makers of actions, with the checks and answers of the calls that take the same things. Mutex
// held. For streams (launch.cc, copy.cc) and for graph nodes alike.
struct LaunchShape {
  uint32_t grid[3] = {1, 1, 1};
  uint32_t block[3] = {1, 1, 1};
  uint32_t shared_bytes = 0;
  bool cooperative = false;
};
CUresult MakeKernel(Driver* driver, Context* context, CUfunction handle, const LaunchShape& shape,
                    void** parameters, void** extra, KernelAction* action);
CUresult MakeCopy(Driver* driver, const CUDA_MEMCPY3D& copy, CopyAction* action);
CUresult WordsOf(Driver* driver, Context* context, unsigned int count,
                 const CUstreamBatchMemOpParams* operations,
                 std::vector<WordAction>* words);            // mutex free
CUresult CheckFill(Driver* driver, const FillAction& fill);  // of at least one element

// A call whose legacy and per-thread forms differ: write its body as a function that takes the
// form, and both entry points with it, e.g.
//   CUresult cuX(CUstream stream) { return X(stream, StreamForm::kLegacy); }
//   CUresult cuX_ptsz(CUstream stream) { return X(stream, StreamForm::kPerThread); }
//
// For graphs: adds a command that waits for `after` and for nothing else. It counts as work of
// `context`. Actions of a launched graph reach a stream through Fork and Join: Fork makes a command
// that stands where the stream is now, Join makes the stream continue when all of `last` are done.
CommandRef PutAfter(Context* context, std::span<const CommandRef> after, Action action);
CUresult Fork(CUstream stream, StreamForm form, CommandRef* at);
CUresult Join(CUstream stream, StreamForm form, std::span<const CommandRef> last);

// Waiting. Mutex free. Each answers the context's sticky error if it has one by then. WaitContext
// is what calls that free memory, unload code or destroy things use: it waits for all work of the
// context, in both halves, whatever stream or graph it stands in, and may be called with any
// context of the process.
CUresult WaitFor(const CommandRef& command);
CUresult WaitStream(CUstream stream, StreamForm form);
CUresult WaitContext(Context* context);
// May be called with the mutex held, as DoneAtNs may.
bool Done(const CommandRef& command);
// When a done command was finished, in device time.
uint64_t DoneAtNs(const CommandRef& command);

// A command that is finished when what was put into the stream so far is (for the legacy default
// stream: into all blocking ones); null when that is nothing. Mutex held.
CommandRef StreamEnd(Context* context, Stream* stream);
bool StreamDone(Context* context, Stream* stream);

// The stream that a handle names for a call made in this context: 0 is the legacy default stream
// or, in the per-thread form, the calling thread's; 1 and 2 are those in either form. Other handles
// may name a stream of another context (Stream::context), as most calls allow. Mutex held.
CUresult FindStream(Driver* driver, Context* context, CUstream handle, StreamForm form,
                    Stream** stream);

}  // namespace simgpu
