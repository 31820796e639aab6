// Streams and events. Work runs in line, so a stream is always idle when a call looks at it.
#include "simgpu/driver/driver.h"

namespace simgpu {

bool StreamOk(const Driver& driver, CUstream handle) {
  return reinterpret_cast<uint64_t>(handle) <= kStreamPerThread ||
         Live<Stream>(driver, handle, Kind::kStream) != nullptr;
}

void DropStreams(Driver* driver, Context* context) {
  for (auto at = driver->live.begin(); at != driver->live.end();) {
    const Object* object = *at;
    const bool stream =
        object->kind == Kind::kStream && static_cast<const Stream*>(object)->context == context;
    const bool event =
        object->kind == Kind::kEvent && static_cast<const Event*>(object)->context == context;
    if (!stream && !event) {
      ++at;
      continue;
    }
    at = driver->live.erase(at);
    if (stream) {
      delete static_cast<const Stream*>(object);
    } else {
      delete static_cast<const Event*>(object);
    }
  }
}

namespace {

CUresult CreateStream(CUstream* handle, unsigned int flags, int priority) {
  SIMGPU_CURRENT(driver, context);
  if (handle == nullptr || (flags & ~CU_STREAM_NON_BLOCKING) != 0) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  auto* stream = new Stream;
  stream->context = context;
  stream->flags = flags;
  // Out-of-range priorities are cut to the range of cuCtxGetStreamPriorityRange.
  stream->priority = priority > 0 ? 0 : priority < -5 ? -5 : priority;
  stream->id = driver->next_id++;
  driver->live.insert(stream);
  *handle = reinterpret_cast<CUstream>(stream);
  return CUDA_SUCCESS;
}

// What a call about an idle stream answers: success for a good handle, else why not.
CUresult Idle(CUstream handle) {
  SIMGPU_CURRENT(driver, context);
  std::lock_guard guard(driver->mutex);
  return StreamOk(*driver, handle) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

}  // namespace
}  // namespace simgpu

namespace tessera::abi {
using namespace simgpu;  // NOLINT

extern "C" {

CUresult cuStreamCreate(CUstream* handle, unsigned int flags) {
  return CreateStream(handle, flags, 0);
}

CUresult cuStreamCreateWithPriority(CUstream* handle, unsigned int flags, int priority) {
  return CreateStream(handle, flags, priority);
}

CUresult cuStreamDestroy_v2(CUstream handle) {
  SIMGPU_DRIVER(driver);
  std::lock_guard guard(driver->mutex);
  Stream* stream = Live<Stream>(*driver, handle, Kind::kStream);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  driver->live.erase(stream);
  delete stream;
  return CUDA_SUCCESS;
}

CUresult cuStreamSynchronize(CUstream handle) { return Idle(handle); }
CUresult cuStreamQuery(CUstream handle) { return Idle(handle); }

CUresult cuStreamWaitEvent(CUstream handle, CUevent event, unsigned int flags) {
  if (CUresult bad = Idle(handle)) return bad;
  if (flags > 1) return CUDA_ERROR_INVALID_VALUE;
  Driver* driver = Get();
  std::lock_guard guard(driver->mutex);
  return Live<Event>(*driver, event, Kind::kEvent) != nullptr ? CUDA_SUCCESS
                                                              : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuStreamGetPriority(CUstream handle, int* priority) {
  if (CUresult bad = Idle(handle)) return bad;
  if (priority == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Driver* driver = Get();
  std::lock_guard guard(driver->mutex);
  const Stream* stream = Live<Stream>(*driver, handle, Kind::kStream);
  *priority = stream != nullptr ? stream->priority : 0;
  return CUDA_SUCCESS;
}

CUresult cuStreamGetFlags(CUstream handle, unsigned int* flags) {
  if (CUresult bad = Idle(handle)) return bad;
  if (flags == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Driver* driver = Get();
  std::lock_guard guard(driver->mutex);
  const Stream* stream = Live<Stream>(*driver, handle, Kind::kStream);
  *flags = stream != nullptr ? stream->flags : 0u;
  return CUDA_SUCCESS;
}

CUresult cuStreamGetId(CUstream handle, unsigned long long* id) {
  if (CUresult bad = Idle(handle)) return bad;
  if (id == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Driver* driver = Get();
  std::lock_guard guard(driver->mutex);
  const Stream* stream = Live<Stream>(*driver, handle, Kind::kStream);
  *id = stream != nullptr ? stream->id : reinterpret_cast<uint64_t>(handle);
  return CUDA_SUCCESS;
}

CUresult cuStreamGetCtx(CUstream handle, CUcontext* out) {
  SIMGPU_CURRENT(driver, context);
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  if (!StreamOk(*driver, handle)) return CUDA_ERROR_INVALID_HANDLE;
  const Stream* stream = Live<Stream>(*driver, handle, Kind::kStream);
  *out = reinterpret_cast<CUcontext>(stream != nullptr ? stream->context : context);
  return CUDA_SUCCESS;
}

CUresult cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus* status) {
  if (CUresult bad = Idle(handle)) return bad;
  if (status == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *status = CU_STREAM_CAPTURE_STATUS_NONE;
  return CUDA_SUCCESS;
}

CUresult cuStreamAddCallback(CUstream handle, CUstreamCallback callback, void* user_data,
                             unsigned int flags) {
  if (CUresult bad = Idle(handle)) return bad;
  if (callback == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  callback(handle, CUDA_SUCCESS, user_data);
  return CUDA_SUCCESS;
}

CUresult cuLaunchHostFunc(CUstream handle, CUhostFn function, void* user_data) {
  if (CUresult bad = Idle(handle)) return bad;
  if (function == nullptr) return CUDA_ERROR_INVALID_VALUE;
  function(user_data);
  return CUDA_SUCCESS;
}

CUresult cuEventCreate(CUevent* handle, unsigned int flags) {
  SIMGPU_CURRENT(driver, context);
  constexpr unsigned int kKnown =
      CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS;
  if (handle == nullptr || (flags & ~kKnown) != 0) return CUDA_ERROR_INVALID_VALUE;
  if ((flags & CU_EVENT_INTERPROCESS) != 0) return CUDA_ERROR_NOT_SUPPORTED;
  std::lock_guard guard(driver->mutex);
  auto* event = new Event;
  event->context = context;
  event->flags = flags;
  driver->live.insert(event);
  *handle = reinterpret_cast<CUevent>(event);
  return CUDA_SUCCESS;
}

CUresult cuEventDestroy_v2(CUevent handle) {
  SIMGPU_DRIVER(driver);
  std::lock_guard guard(driver->mutex);
  Event* event = Live<Event>(*driver, handle, Kind::kEvent);
  if (event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  driver->live.erase(event);
  delete event;
  return CUDA_SUCCESS;
}

CUresult cuEventRecord(CUevent handle, CUstream stream) {
  SIMGPU_CURRENT(driver, context);
  std::lock_guard guard(driver->mutex);
  Event* event = Live<Event>(*driver, handle, Kind::kEvent);
  if (event == nullptr || !StreamOk(*driver, stream)) return CUDA_ERROR_INVALID_HANDLE;
  event->at_ns.store(NowNs());
  return CUDA_SUCCESS;
}

CUresult cuEventRecordWithFlags(CUevent handle, CUstream stream, unsigned int flags) {
  if (flags > 1) return CUDA_ERROR_INVALID_VALUE;
  return cuEventRecord(handle, stream);
}

CUresult cuEventQuery(CUevent handle) {
  SIMGPU_CURRENT(driver, context);
  std::lock_guard guard(driver->mutex);
  return Live<Event>(*driver, handle, Kind::kEvent) != nullptr ? CUDA_SUCCESS
                                                               : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuEventElapsedTime_v2(float* milliseconds, CUevent start, CUevent end) {
  SIMGPU_CURRENT(driver, context);
  if (milliseconds == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  const Event* from = Live<Event>(*driver, start, Kind::kEvent);
  const Event* to = Live<Event>(*driver, end, Kind::kEvent);
  if (from == nullptr || to == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (((from->flags | to->flags) & CU_EVENT_DISABLE_TIMING) != 0) return CUDA_ERROR_INVALID_HANDLE;
  const uint64_t begun = from->at_ns.load(), ended = to->at_ns.load();
  if (begun == 0 || ended == 0) return CUDA_ERROR_INVALID_HANDLE;
  const auto ns = static_cast<int64_t>(ended) - static_cast<int64_t>(begun);
  *milliseconds = static_cast<float>(static_cast<double>(ns) / 1e6);
  return CUDA_SUCCESS;
}

}  // extern "C"

SIMGPU_ALIAS(cuStreamDestroy_v2, cuStreamDestroy);
SIMGPU_ALIAS(cuStreamSynchronize, cuStreamSynchronize_ptsz);
SIMGPU_ALIAS(cuStreamQuery, cuStreamQuery_ptsz);
SIMGPU_ALIAS(cuStreamWaitEvent, cuStreamWaitEvent_ptsz);
SIMGPU_ALIAS(cuStreamGetPriority, cuStreamGetPriority_ptsz);
SIMGPU_ALIAS(cuStreamGetFlags, cuStreamGetFlags_ptsz);
SIMGPU_ALIAS(cuStreamGetId, cuStreamGetId_ptsz);
SIMGPU_ALIAS(cuStreamGetCtx, cuStreamGetCtx_ptsz);
SIMGPU_ALIAS(cuStreamIsCapturing, cuStreamIsCapturing_ptsz);
SIMGPU_ALIAS(cuStreamAddCallback, cuStreamAddCallback_ptsz);
SIMGPU_ALIAS(cuLaunchHostFunc, cuLaunchHostFunc_ptsz);
SIMGPU_ALIAS(cuEventDestroy_v2, cuEventDestroy);
SIMGPU_ALIAS(cuEventRecord, cuEventRecord_ptsz);
SIMGPU_ALIAS(cuEventRecordWithFlags, cuEventRecordWithFlags_ptsz);
SIMGPU_ALIAS(cuEventQuery, cuEventSynchronize);
SIMGPU_ALIAS(cuEventElapsedTime_v2, cuEventElapsedTime);

}  // namespace tessera::abi
