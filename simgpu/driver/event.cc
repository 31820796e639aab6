// Events: points in the work of streams that can be asked after, waited for and timed.
#include "simgpu/driver/capture.h"
#include "simgpu/driver/executor.h"
#include "simgpu/driver/ipc.h"
#include "simgpu/driver/pool.h"

namespace simgpu {
namespace {

// What an event stands for at present: null when it was never recorded.
CUresult CommandOf(CUevent handle, Driver** driver, Event** event, CommandRef* command) {
  SIMGPU_CURRENT(found_driver, context);
  *driver = found_driver;
  std::lock_guard guard(found_driver->mutex);
  *event = Live<Event>(*found_driver, handle, Kind::kEvent);
  if (*event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (CUresult bad = CheckNotCaptured(found_driver, *event)) return bad;
  std::lock_guard lock(Executor::Get().lock());
  *command = (*event)->command;
  return CUDA_SUCCESS;
}

CUresult Record(CUevent handle, CUstream stream, StreamForm form, unsigned int flags) {
  SIMGPU_CURRENT(driver, context);
  if (flags > 1) return CUDA_ERROR_INVALID_VALUE;
  auto* event = reinterpret_cast<Event*>(handle);
  bool shared = false;
  {
    std::lock_guard guard(driver->mutex);
    if (Live<Event>(*driver, handle, Kind::kEvent) == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    shared = event->shared != nullptr;
    if (shared) {
      if (CUresult bad = RefuseCapture(driver, context, stream, form)) return bad;
    }
  }
  CUresult result = Put(stream, form, EventRecordAction{event, flags == 1});
  if (result != CUDA_SUCCESS || !shared) return result;
  WordAction write;
  {
    std::lock_guard guard(driver->mutex);
    if (Live<Event>(*driver, handle, Kind::kEvent) == nullptr) return CUDA_SUCCESS;
    write = RecordShared(event);
  }
  return Put(stream, form, write);
}

CUresult WaitEvent(CUstream stream, StreamForm form, CUevent handle, unsigned int flags) {
  SIMGPU_CURRENT(driver, context);
  if (flags > 1) return CUDA_ERROR_INVALID_VALUE;
  auto* event = reinterpret_cast<Event*>(handle);
  WordAction wait;
  {
    std::lock_guard guard(driver->mutex);
    if (Live<Event>(*driver, handle, Kind::kEvent) == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (event->shared != nullptr) {
      if (CUresult bad = RefuseCapture(driver, context, stream, form)) return bad;
      wait = WaitShared(*event);
    }
  }
  // What was recorded in another process is known by its word alone.
  if (wait.address != 0) return Put(stream, form, wait);
  return Put(stream, form, EventWaitAction{event, flags == 1});
}

// The counters of an interprocess event, or null. The page outlives the event.
const SharedEvent* SharedOf(CUevent handle) {
  Driver* driver = simgpu::Get();
  if (driver == nullptr) return nullptr;
  std::lock_guard guard(driver->mutex);
  const Event* event = Live<Event>(*driver, handle, Kind::kEvent);
  return event != nullptr ? event->shared : nullptr;
}

}  // namespace
}  // namespace simgpu

namespace tessera::abi {
using namespace simgpu;  // NOLINT

extern "C" {

CUresult cuEventCreate(CUevent* handle, unsigned int flags) {
  SIMGPU_CURRENT(driver, context);
  constexpr unsigned int kKnown =
      CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS;
  if (handle == nullptr || (flags & ~kKnown) != 0) return CUDA_ERROR_INVALID_VALUE;
  if ((flags & CU_EVENT_INTERPROCESS) != 0) {
    if ((flags & CU_EVENT_DISABLE_TIMING) == 0) return CUDA_ERROR_INVALID_VALUE;
  }
  std::lock_guard guard(driver->mutex);
  auto event = std::make_unique<Event>();
  event->context = context;
  event->flags = flags;
  if ((flags & CU_EVENT_INTERPROCESS) != 0) {
    if (CUresult bad = ShareEvent(driver, event.get())) return bad;
  }
  driver->live.insert(event.get());
  *handle = reinterpret_cast<CUevent>(event.release());
  return CUDA_SUCCESS;
}

CUresult cuEventDestroy_v2(CUevent handle) {
  SIMGPU_DRIVER(driver);
  if (InHostFunction()) return CUDA_ERROR_NOT_PERMITTED;
  std::lock_guard guard(driver->mutex);
  Event* event = Live<Event>(*driver, handle, Kind::kEvent);
  if (event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  driver->live.erase(event);
  delete event;
  return CUDA_SUCCESS;
}

CUresult cuEventRecord(CUevent handle, CUstream stream) {
  return Record(handle, stream, StreamForm::kLegacy, 0);
}
CUresult cuEventRecord_ptsz(CUevent handle, CUstream stream) {
  return Record(handle, stream, StreamForm::kPerThread, 0);
}

CUresult cuEventRecordWithFlags(CUevent handle, CUstream stream, unsigned int flags) {
  return Record(handle, stream, StreamForm::kLegacy, flags);
}
CUresult cuEventRecordWithFlags_ptsz(CUevent handle, CUstream stream, unsigned int flags) {
  return Record(handle, stream, StreamForm::kPerThread, flags);
}

CUresult cuStreamWaitEvent(CUstream handle, CUevent event, unsigned int flags) {
  return WaitEvent(handle, StreamForm::kLegacy, event, flags);
}
CUresult cuStreamWaitEvent_ptsz(CUstream handle, CUevent event, unsigned int flags) {
  return WaitEvent(handle, StreamForm::kPerThread, event, flags);
}

CUresult cuEventQuery(CUevent handle) {
  Driver* driver = nullptr;
  Event* event = nullptr;
  CommandRef command;
  if (CUresult bad = CommandOf(handle, &driver, &event, &command)) return bad;
  Executor::Get().Help();
  if (const SharedEvent* shared = SharedOf(handle)) {
    return shared->Done() ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
  }
  return command == nullptr || Done(command) ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult cuEventSynchronize(CUevent handle) {
  Driver* driver = nullptr;
  Event* event = nullptr;
  CommandRef command;
  if (CUresult bad = CommandOf(handle, &driver, &event, &command)) return bad;
  if (const SharedEvent* shared = SharedOf(handle)) {
    SIMGPU_CURRENT(found, context);
    if (CUresult bad = SynchroniseShared(context, *shared)) return bad;
    PoolsAtSync(found);
    return CUDA_SUCCESS;
  }
  if (command == nullptr) return CUDA_SUCCESS;
  if (CUresult bad = WaitFor(command)) return bad;
  PoolsAtSync(driver);
  return CUDA_SUCCESS;
}

CUresult cuEventElapsedTime_v2(float* milliseconds, CUevent start, CUevent end) {
  if (milliseconds == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Driver* driver = nullptr;
  Event *from = nullptr, *to = nullptr;
  CommandRef begun, ended;
  if (CUresult bad = CommandOf(start, &driver, &from, &begun)) return bad;
  if (CUresult bad = CommandOf(end, &driver, &to, &ended)) return bad;
  {
    std::lock_guard guard(driver->mutex);
    // Both may have been destroyed by another thread meanwhile.
    if (!driver->live.contains(from) || !driver->live.contains(to)) {
      return CUDA_ERROR_INVALID_HANDLE;
    }
    if (((from->flags | to->flags) & CU_EVENT_DISABLE_TIMING) != 0) {
      return CUDA_ERROR_INVALID_HANDLE;
    }
    if (from->context->device != to->context->device) return CUDA_ERROR_INVALID_HANDLE;
  }
  if (begun == nullptr || ended == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (!Done(begun) || !Done(ended)) return CUDA_ERROR_NOT_READY;
  const auto ns = static_cast<int64_t>(DoneAtNs(ended)) - static_cast<int64_t>(DoneAtNs(begun));
  *milliseconds = static_cast<float>(static_cast<double>(ns) / 1e6);
  return CUDA_SUCCESS;
}

// All work of the context so far.
CUresult cuCtxRecordEvent(CUcontext handle, CUevent event_handle) {
  Driver* driver = nullptr;
  Context* context = nullptr;
  if (CUresult bad = ContextOf(handle, &driver, &context)) return bad;
  std::lock_guard guard(driver->mutex);
  Event* event = Live<Event>(*driver, event_handle, Kind::kEvent);
  if (event == nullptr || event->context != context) return CUDA_ERROR_INVALID_HANDLE;
  if (CUresult bad = CheckNotCaptured(driver, context)) return bad;
  Executor& executor = Executor::Get();
  std::lock_guard lock(executor.lock());
  std::vector<CommandRef> before(context->loose);
  before.insert(before.end(), context->orphans.begin(), context->orphans.end());
  for (const Stream* one : context->streams) {
    if (one->last != nullptr) before.push_back(one->last);
  }
  Executor::Extra extra;
  extra.event = true;
  event->command = executor.Add(context, 0, before, EmptyAction{}, std::move(extra), nullptr);
  return CUDA_SUCCESS;
}

}  // extern "C"

SIMGPU_ALIAS(cuEventDestroy_v2, cuEventDestroy);
SIMGPU_ALIAS(cuEventElapsedTime_v2, cuEventElapsedTime);

}  // namespace tessera::abi
