// Contexts: the primary one of each device, plain ones, and each thread's stack of current ones.
#include "simgpu/driver/capture.h"
#include "simgpu/driver/executor.h"
#include "simgpu/driver/memory.h"
#include "simgpu/driver/mps.h"
#include "simgpu/driver/pool.h"

namespace simgpu {
namespace {

// Trivial on purpose: no destructor runs at thread exit, so late calls are safe.
struct Stack {
  Context* items[kContextStackMax];
  int depth;
};
thread_local Stack t_stack;

constexpr size_t kDefaultLimits[10] = {1024, 1 << 20, 8 << 20, 2, 2048, 64, 0, 0, 0, 0};

// Takes the context's overhead and makes it usable. Mutex held.
CUresult Begin(Driver* driver, Context* context) {
  if (!EnsureArena(driver, context->device)) return CUDA_ERROR_OPERATING_SYSTEM;
  const Card& card = CardOf(*driver, context->device);
  switch (driver->state->Take(card.index, State::Kind::kContext, card.profile.context_bytes)) {
    case State::Answer::kOk:
      break;
    case State::Answer::kNoSlot:
      Say("no slot in the shared state: kSlotsMax = " + std::to_string(kSlotsMax) +
          " processes, or its folder is gone");
      return CUDA_ERROR_OUT_OF_MEMORY;
    case State::Answer::kOutOfMemory:
      return CUDA_ERROR_OUT_OF_MEMORY;
  }
  if (CUresult bad = JoinMps(driver, card.index)) {
    driver->state->Give(card.index, State::Kind::kContext, card.profile.context_bytes);
    return bad;
  }
  for (int i = 0; i < 10; ++i) context->limits[i] = kDefaultLimits[i];
  context->sticky.store(0);
  context->cancel.store(false);
  context->id = driver->next_id++;
  context->alive.store(true);
  driver->live.insert(context);
  MakeStreams(driver, context);
  return CUDA_SUCCESS;
}

// Waits until the context has no work left, as long as that takes; work of one that faulted only
// has to stop. `lock` holds the mutex and is free meanwhile. False: somebody else destroyed it.
bool Settle(Driver* driver, Context* context, std::unique_lock<std::mutex>* lock) {
  const uint64_t id = context->id;
  Executor& executor = Executor::Get();
  for (;;) {
    lock->unlock();
    WaitContext(context);
    executor.Drain(context);
    lock->lock();
    if (!driver->live.contains(context) || context->id != id) return false;
    std::lock_guard guard(executor.lock());
    if (context->unfinished == 0) return true;
  }
}

// Everything of the context goes; the object stays, so that other threads' stacks may still name
// it.
void End(Driver* driver, Context* context) {
  context->alive.store(false);
  driver->live.erase(context);
  DropModules(driver, context);
  DropStreams(driver, context);
  ReleaseAll(driver, context);
  const Card& card = CardOf(*driver, context->device);
  driver->state->Give(card.index, State::Kind::kContext, card.profile.context_bytes);
  if (!context->primary) driver->gone.push_back(context);
}

Context* AsContext(CUcontext handle) { return reinterpret_cast<Context*>(handle); }
CUcontext AsHandle(Context* context) { return reinterpret_cast<CUcontext>(context); }

// The context at the top, whatever its health; null when the stack is empty.
Context* Top() { return t_stack.depth == 0 ? nullptr : t_stack.items[t_stack.depth - 1]; }

CUresult Health(const Context* context) {
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (!context->alive.load(std::memory_order_acquire)) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  return static_cast<CUresult>(context->sticky.load(std::memory_order_acquire));
}

CUresult Create(CUcontext* handle, unsigned int flags, CUdevice device, unsigned int version) {
  Driver* driver = nullptr;
  if (CUresult bad = CheckDevice(device, &driver)) return bad;
  if (handle == nullptr || (flags & ~CU_CTX_FLAGS_MASK) != 0) return CUDA_ERROR_INVALID_VALUE;
  if (t_stack.depth == kContextStackMax) {
    Say("more than kContextStackMax = " + std::to_string(kContextStackMax) +
        " contexts pushed by one thread");
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  auto* context = new Context;
  context->device = device;
  context->flags = flags;
  context->api_version = version;
  context->attached = 1;
  std::lock_guard guard(driver->mutex);
  if (CUresult bad = Begin(driver, context)) {
    delete context;
    return bad;
  }
  t_stack.items[t_stack.depth++] = context;
  *handle = AsHandle(context);
  return CUDA_SUCCESS;
}

// All work of the context; a kernel's fault is told here, as it is told by every call.
CUresult Synchronize(Driver* driver, Context* context) {
  {
    std::lock_guard guard(driver->mutex);
    if (CUresult bad = CheckNotCaptured(driver, context)) return bad;
  }
  if (CUresult bad = WaitContext(context)) return bad;
  PoolsAtSync(driver);
  return CUDA_SUCCESS;
}

// A handle given by the program: a live context of ours.
CUresult Check(Driver* driver, CUcontext handle, Context** context) {
  if (handle == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  for (const Device* device : driver->devices) {
    if (&device->primary == AsContext(handle) && !device->primary.alive.load()) {
      return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    }
  }
  *context = Live<Context>(*driver, handle, Kind::kContext);
  return *context != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

}  // namespace

CUresult Current(Driver** driver, Context** context) {
  *driver = Get();
  if (*driver == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  if (InHostFunction()) return CUDA_ERROR_NOT_PERMITTED;
  *context = Top();
  return Health(*context);
}

CUresult ContextOf(CUcontext handle, Driver** driver, Context** context) {
  if (handle == nullptr) return Current(driver, context);
  *driver = Get();
  if (*driver == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  if (InHostFunction()) return CUDA_ERROR_NOT_PERMITTED;
  {
    std::lock_guard guard((*driver)->mutex);
    if (CUresult bad = Check(*driver, handle, context)) return bad;
  }
  return Health(*context);
}

}  // namespace simgpu

namespace tessera::abi {
using namespace simgpu;  // NOLINT

extern "C" {

CUresult cuDevicePrimaryCtxRetain(CUcontext* handle, CUdevice device) {
  Driver* driver = nullptr;
  if (CUresult bad = CheckDevice(device, &driver)) return bad;
  if (handle == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  Context* primary = &driver->devices[device]->primary;
  if (!primary->alive.load()) {
    if (CUresult bad = Begin(driver, primary)) return bad;
    // A reset primary context keeps its retains and comes back with the next use.
    primary->attached = 0;
  }
  ++primary->attached;
  *handle = AsHandle(primary);
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  Driver* driver = nullptr;
  if (CUresult bad = CheckDevice(device, &driver)) return bad;
  std::unique_lock lock(driver->mutex);
  Context* primary = &driver->devices[device]->primary;
  if (!primary->alive.load()) return CUDA_ERROR_INVALID_CONTEXT;
  if (--primary->attached > 0) return CUDA_SUCCESS;
  // Somebody may retain it again while this waits.
  if (Settle(driver, primary, &lock) && primary->attached == 0) End(driver, primary);
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxReset_v2(CUdevice device) {
  Driver* driver = nullptr;
  if (CUresult bad = CheckDevice(device, &driver)) return bad;
  std::unique_lock lock(driver->mutex);
  Context* primary = &driver->devices[device]->primary;
  if (primary->alive.load() && Settle(driver, primary, &lock)) End(driver, primary);
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned int flags) {
  Driver* driver = nullptr;
  if (CUresult bad = CheckDevice(device, &driver)) return bad;
  if ((flags & ~CU_CTX_FLAGS_MASK) != 0) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  driver->devices[device]->primary.flags = flags;
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned int* flags, int* active) {
  Driver* driver = nullptr;
  if (CUresult bad = CheckDevice(device, &driver)) return bad;
  if (flags == nullptr || active == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  const Context& primary = driver->devices[device]->primary;
  *flags = primary.flags;
  *active = primary.alive.load() ? 1 : 0;
  return CUDA_SUCCESS;
}

CUresult cuCtxCreate_v2(CUcontext* handle, unsigned int flags, CUdevice device) {
  return Create(handle, flags, device, 3020);
}

CUresult cuCtxCreate_v3(CUcontext* handle, CUexecAffinityParam* affinity, int count,
                        unsigned int flags, CUdevice device) {
  // Affinity would bind a context to some of the multiprocessors, which the simulation does not
  // have.
  if (affinity != nullptr && count > 0) return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
  return Create(handle, flags, device, 3020);
}

CUresult cuCtxCreate_v4(CUcontext* handle, CUctxCreateParams* parameters, unsigned int flags,
                        CUdevice device) {
  if (parameters != nullptr) {
    if (parameters->cigParams != nullptr) return CUDA_ERROR_NOT_SUPPORTED;
    if (parameters->execAffinityParams != nullptr && parameters->numExecAffinityParams > 0) {
      return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
    }
  }
  return Create(handle, flags, device, 3020);
}

CUresult cuCtxDestroy_v2(CUcontext handle) {
  SIMGPU_DRIVER(driver);
  if (InHostFunction()) return CUDA_ERROR_NOT_PERMITTED;
  std::unique_lock lock(driver->mutex);
  Context* context = nullptr;
  if (CUresult bad = Check(driver, handle, &context)) return bad;
  if (context->primary) return CUDA_ERROR_INVALID_CONTEXT;
  if (!Settle(driver, context, &lock)) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  End(driver, context);
  if (Top() == context) --t_stack.depth;
  return CUDA_SUCCESS;
}

CUresult cuCtxAttach(CUcontext* handle, unsigned int flags) {
  SIMGPU_CURRENT(driver, context);
  if (handle == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  ++context->attached;
  *handle = AsHandle(context);
  return CUDA_SUCCESS;
}

CUresult cuCtxDetach(CUcontext handle) {
  SIMGPU_DRIVER(driver);
  if (InHostFunction()) return CUDA_ERROR_NOT_PERMITTED;
  std::unique_lock lock(driver->mutex);
  Context* context = nullptr;
  if (CUresult bad = Check(driver, handle, &context)) return bad;
  if (context != Top() || context->primary) return CUDA_ERROR_INVALID_CONTEXT;
  if (--context->attached > 0) return CUDA_SUCCESS;
  if (!Settle(driver, context, &lock)) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  End(driver, context);
  --t_stack.depth;
  return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent_v2(CUcontext handle) {
  SIMGPU_DRIVER(driver);
  std::lock_guard guard(driver->mutex);
  Context* context = nullptr;
  if (CUresult bad = Check(driver, handle, &context)) return bad;
  if (t_stack.depth == kContextStackMax) {
    Say("more than kContextStackMax = " + std::to_string(kContextStackMax) +
        " contexts pushed by one thread");
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  t_stack.items[t_stack.depth++] = context;
  return CUDA_SUCCESS;
}

CUresult cuCtxPopCurrent_v2(CUcontext* handle) {
  SIMGPU_DRIVER(driver);
  if (t_stack.depth == 0) return CUDA_ERROR_INVALID_CONTEXT;
  Context* context = t_stack.items[--t_stack.depth];
  if (handle != nullptr) *handle = AsHandle(context);
  return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext handle) {
  SIMGPU_DRIVER(driver);
  if (handle == nullptr) {
    if (t_stack.depth > 0) --t_stack.depth;
    return CUDA_SUCCESS;
  }
  std::lock_guard guard(driver->mutex);
  Context* context = nullptr;
  if (CUresult bad = Check(driver, handle, &context)) return bad;
  if (t_stack.depth == 0) t_stack.depth = 1;
  t_stack.items[t_stack.depth - 1] = context;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext* handle) {
  SIMGPU_DRIVER(driver);
  if (handle == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *handle = AsHandle(Top());
  return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice* device) {
  SIMGPU_CURRENT(driver, context);
  if (device == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *device = context->device;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice_v2(CUdevice* device, CUcontext handle) {
  Driver* driver = nullptr;
  Context* context = nullptr;
  if (CUresult bad = ContextOf(handle, &driver, &context)) return bad;
  if (device == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *device = context->device;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetFlags(unsigned int* flags) {
  SIMGPU_CURRENT(driver, context);
  if (flags == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *flags = context->flags;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetId(CUcontext handle, unsigned long long* id) {
  Driver* driver = nullptr;
  Context* context = nullptr;
  if (CUresult bad = ContextOf(handle, &driver, &context)) return bad;
  if (id == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *id = context->id;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetApiVersion(CUcontext handle, unsigned int* version) {
  Driver* driver = nullptr;
  Context* context = nullptr;
  if (CUresult bad = ContextOf(handle, &driver, &context)) return bad;
  if (version == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *version = context->api_version;
  return CUDA_SUCCESS;
}

CUresult cuCtxSynchronize() {
  SIMGPU_CURRENT(driver, context);
  return Synchronize(driver, context);
}

CUresult cuCtxSynchronize_v2(CUcontext handle) {
  Driver* driver = nullptr;
  Context* context = nullptr;
  if (CUresult bad = ContextOf(handle, &driver, &context)) return bad;
  return Synchronize(driver, context);
}

CUresult cuCtxGetLimit(size_t* value, CUlimit limit) {
  SIMGPU_CURRENT(driver, context);
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (limit > CU_LIMIT_PERSISTING_L2_CACHE_SIZE) return CUDA_ERROR_UNSUPPORTED_LIMIT;
  std::lock_guard guard(driver->mutex);
  *value = context->limits[limit];
  return CUDA_SUCCESS;
}

CUresult cuCtxSetLimit(CUlimit limit, size_t value) {
  SIMGPU_CURRENT(driver, context);
  std::lock_guard guard(driver->mutex);
  switch (limit) {
    case CU_LIMIT_STACK_SIZE:
      if (value > 512 * 1024) return CUDA_ERROR_INVALID_VALUE;
      break;
    case CU_LIMIT_MALLOC_HEAP_SIZE:
      // A heap that a kernel has used keeps its size.
      if (driver->heaps.contains(context)) return CUDA_ERROR_INVALID_VALUE;
      break;
    case CU_LIMIT_PRINTF_FIFO_SIZE:
      // The least that is buffered before something is lost; nothing ever is.
      break;
    default:
      // A limit that would do nothing is refused.
      return CUDA_ERROR_UNSUPPORTED_LIMIT;
  }
  context->limits[limit] = value;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  SIMGPU_CURRENT(driver, context);
  if (least != nullptr) *least = 0;
  if (greatest != nullptr) *greatest = -5;
  return CUDA_SUCCESS;
}

}  // extern "C"

SIMGPU_ALIAS(cuDevicePrimaryCtxRelease_v2, cuDevicePrimaryCtxRelease);
SIMGPU_ALIAS(cuDevicePrimaryCtxReset_v2, cuDevicePrimaryCtxReset);
SIMGPU_ALIAS(cuDevicePrimaryCtxSetFlags_v2, cuDevicePrimaryCtxSetFlags);
SIMGPU_ALIAS(cuCtxCreate_v2, cuCtxCreate);
SIMGPU_ALIAS(cuCtxDestroy_v2, cuCtxDestroy);
SIMGPU_ALIAS(cuCtxPushCurrent_v2, cuCtxPushCurrent);
SIMGPU_ALIAS(cuCtxPopCurrent_v2, cuCtxPopCurrent);

}  // namespace tessera::abi
