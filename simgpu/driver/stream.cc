// Streams: their objects, their attributes, and the calls that ask after or wait for one.
#include <pthread.h>
#include <string.h>

#include <algorithm>

#include "simgpu/driver/capture.h"
#include "simgpu/driver/executor.h"
#include "simgpu/driver/pool.h"

namespace simgpu {
namespace {

constexpr int kGreatestPriority = -5;

// The calling thread's number, which no other thread of the process ever has, and what happens to
// its default streams when it ends.
thread_local uint64_t t_thread = 0;

Stream* NewStream(Driver* driver, Context* context, unsigned int flags, int priority) {
  auto* stream = new Stream;
  stream->context = context;
  stream->flags = flags;
  stream->blocking = (flags & CU_STREAM_NON_BLOCKING) == 0;
  // Out-of-range priorities are cut to the range of cuCtxGetStreamPriorityRange.
  stream->priority = std::clamp(priority, kGreatestPriority, 0);
  stream->id = driver->next_id++;
  context->streams.push_back(stream);
  return stream;
}

// The stream goes, its work goes on. Mutex held.
void DeleteStream(Driver* driver, Stream* stream) {
  ForgetCapture(driver, stream);
  Executor& executor = Executor::Get();
  std::lock_guard lock(executor.lock());
  Context* context = stream->context;
  if (stream->last != nullptr && !executor.Finished(stream->last.get())) {
    executor.Trim(&context->orphans);
    executor.Trim(&context->loose);
    (stream->blocking ? context->orphans : context->loose).push_back(stream->last);
  }
  std::erase(context->streams, stream);
  delete stream;
}

void ThreadEnds(void* thread) {
  Driver* driver = Get();
  if (driver == nullptr) return;
  std::lock_guard guard(driver->mutex);
  for (const Object* object : driver->live) {
    if (object->kind != Kind::kContext) continue;
    auto* context = static_cast<Context*>(const_cast<Object*>(object));
    auto at = context->per_thread.find(reinterpret_cast<uint64_t>(thread));
    if (at == context->per_thread.end()) continue;
    Stream* stream = at->second;
    context->per_thread.erase(at);
    DeleteStream(driver, stream);
  }
}

uint64_t ThisThread() {
  if (t_thread != 0) return t_thread;
  static std::atomic<uint64_t> last{0};
  static const pthread_key_t key = [] {
    pthread_key_t made;
    pthread_key_create(&made, ThreadEnds);
    return made;
  }();
  t_thread = ++last;
  pthread_setspecific(key, reinterpret_cast<void*>(t_thread));
  return t_thread;
}

CUresult CreateStream(CUstream* handle, unsigned int flags, int priority) {
  SIMGPU_CURRENT(driver, context);
  if (handle == nullptr || (flags & ~CU_STREAM_NON_BLOCKING) != 0) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  Stream* stream = NewStream(driver, context, flags, priority);
  driver->live.insert(stream);
  *handle = reinterpret_cast<CUstream>(stream);
  return CUDA_SUCCESS;
}

// Runs `use` on the stream that the handle names, with the mutex held.
template <typename F>
CUresult With(CUstream handle, StreamForm form, F&& use) {
  SIMGPU_CURRENT(driver, context);
  std::lock_guard guard(driver->mutex);
  Stream* stream = nullptr;
  if (CUresult bad = FindStream(driver, context, handle, form, &stream)) return bad;
  return use(driver, stream);
}

CUresult Synchronize(CUstream handle, StreamForm form) { return WaitStream(handle, form); }

CUresult Query(CUstream handle, StreamForm form) {
  SIMGPU_CURRENT(driver, context);
  Executor::Get().Help();
  std::lock_guard guard(driver->mutex);
  Stream* stream = nullptr;
  if (CUresult bad = FindStream(driver, context, handle, form, &stream)) return bad;
  Context* owner = stream->context;
  if (CUresult bad = CheckNotCaptured(driver, owner, stream, stream == owner->legacy)) return bad;
  return StreamDone(owner, stream) ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult GetPriority(CUstream handle, StreamForm form, int* priority) {
  if (priority == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return With(handle, form, [&](Driver*, const Stream* stream) {
    *priority = stream->priority;
    return CUDA_SUCCESS;
  });
}

CUresult GetFlags(CUstream handle, StreamForm form, unsigned int* flags) {
  if (flags == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return With(handle, form, [&](Driver*, const Stream* stream) {
    *flags = stream->flags;
    return CUDA_SUCCESS;
  });
}

CUresult GetId(CUstream handle, StreamForm form, unsigned long long* id) {
  if (id == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return With(handle, form, [&](Driver*, const Stream* stream) {
    *id = stream->id;
    return CUDA_SUCCESS;
  });
}

CUresult GetContext(CUstream handle, StreamForm form, CUcontext* out) {
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return With(handle, form, [&](Driver*, const Stream* stream) {
    *out = reinterpret_cast<CUcontext>(stream->context);
    return CUDA_SUCCESS;
  });
}

CUresult GetDevice(CUstream handle, StreamForm form, CUdevice* device) {
  if (device == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return With(handle, form, [&](Driver*, const Stream* stream) {
    *device = stream->context->device;
    return CUDA_SUCCESS;
  });
}

CUresult AddCallback(CUstream handle, StreamForm form, CUstreamCallback callback, void* data,
                     unsigned int flags) {
  if (callback == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  return Put(handle, form, HostAction{nullptr, callback, handle, data});
}

CUresult LaunchHost(CUstream handle, StreamForm form, CUhostFn function, void* data) {
  if (function == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return Put(handle, form, HostAction{function, nullptr, nullptr, data});
}

// The attributes of streams, each as a union of 64 bytes.
CUresult GetAttribute(CUstream handle, StreamForm form, CUstreamAttrID id,
                      CUstreamAttrValue* value) {
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return With(handle, form, [&](Driver*, const Stream* stream) {
    switch (id) {
      case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
        memcpy(value, stream->access_window, sizeof stream->access_window);
        return CUDA_SUCCESS;
      case CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY:
        memcpy(value, &stream->policy, sizeof stream->policy);
        return CUDA_SUCCESS;
      case CU_LAUNCH_ATTRIBUTE_PRIORITY:
        memcpy(value, &stream->priority, sizeof stream->priority);
        return CUDA_SUCCESS;
      default:
        return CUDA_ERROR_INVALID_VALUE;
    }
  });
}

CUresult SetAttribute(CUstream handle, StreamForm form, CUstreamAttrID id,
                      const CUstreamAttrValue* value) {
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return With(handle, form, [&](Driver*, Stream* stream) {
    switch (id) {
      case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
        memcpy(stream->access_window, value, sizeof stream->access_window);
        return CUDA_SUCCESS;
      case CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY: {
        unsigned int policy = 0;
        memcpy(&policy, value, sizeof policy);
        if (policy < 1 || policy > 4) return CUDA_ERROR_INVALID_VALUE;
        stream->policy = policy;
        return CUDA_SUCCESS;
      }
      case CU_LAUNCH_ATTRIBUTE_PRIORITY: {
        int priority = 0;
        memcpy(&priority, value, sizeof priority);
        stream->priority = std::clamp(priority, kGreatestPriority, 0);
        return CUDA_SUCCESS;
      }
      default:
        return CUDA_ERROR_INVALID_VALUE;
    }
  });
}

CUresult CopyAttributes(CUstream to, CUstream from, StreamForm form) {
  SIMGPU_CURRENT(driver, context);
  std::lock_guard guard(driver->mutex);
  Stream *target = nullptr, *source = nullptr;
  if (CUresult bad = FindStream(driver, context, to, form, &target)) return bad;
  if (CUresult bad = FindStream(driver, context, from, form, &source)) return bad;
  // As documented, both must belong to one context.
  if (target->context != source->context) return CUDA_ERROR_INVALID_VALUE;
  target->policy = source->policy;
  target->priority = source->priority;
  memcpy(target->access_window, source->access_window, sizeof target->access_window);
  return CUDA_SUCCESS;
}

}  // namespace

bool StreamOk(const Driver& driver, CUstream handle) {
  return reinterpret_cast<uint64_t>(handle) <= kStreamPerThread ||
         Live<Stream>(driver, handle, Kind::kStream) != nullptr;
}

CUresult FindStream(Driver* driver, Context* context, CUstream handle, StreamForm form,
                    Stream** stream) {
  const auto number = reinterpret_cast<uint64_t>(handle);
  if (number > kStreamPerThread) {
    *stream = Live<Stream>(*driver, handle, Kind::kStream);
    return *stream != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
  }
  if (number == kStreamLegacy || (number == 0 && form == StreamForm::kLegacy)) {
    *stream = context->legacy;
    return CUDA_SUCCESS;
  }
  Stream*& own = context->per_thread[ThisThread()];
  if (own == nullptr) own = NewStream(driver, context, CU_STREAM_DEFAULT, 0);
  *stream = own;
  return CUDA_SUCCESS;
}

void MakeStreams(Driver* driver, Context* context) {
  context->legacy = NewStream(driver, context, CU_STREAM_DEFAULT, 0);
}

void DropStreams(Driver* driver, Context* context) {
  for (auto at = driver->live.begin(); at != driver->live.end();) {
    const Object* object = *at;
    if (object->kind == Kind::kEvent && static_cast<const Event*>(object)->context == context) {
      at = driver->live.erase(at);
      delete static_cast<const Event*>(object);
    } else {
      ++at;
    }
  }
  while (!context->streams.empty()) {
    Stream* stream = context->streams.back();
    driver->live.erase(stream);
    DeleteStream(driver, stream);
  }
  context->legacy = nullptr;
  context->per_thread.clear();
  context->orphans.clear();
  context->loose.clear();
}

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
  if (InHostFunction()) return CUDA_ERROR_NOT_PERMITTED;
  std::lock_guard guard(driver->mutex);
  Stream* stream = Live<Stream>(*driver, handle, Kind::kStream);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  driver->live.erase(stream);
  DeleteStream(driver, stream);
  return CUDA_SUCCESS;
}

CUresult cuStreamSynchronize(CUstream handle) { return Synchronize(handle, StreamForm::kLegacy); }
CUresult cuStreamSynchronize_ptsz(CUstream handle) {
  return Synchronize(handle, StreamForm::kPerThread);
}

CUresult cuStreamQuery(CUstream handle) { return Query(handle, StreamForm::kLegacy); }
CUresult cuStreamQuery_ptsz(CUstream handle) { return Query(handle, StreamForm::kPerThread); }

CUresult cuStreamGetPriority(CUstream handle, int* priority) {
  return GetPriority(handle, StreamForm::kLegacy, priority);
}
CUresult cuStreamGetPriority_ptsz(CUstream handle, int* priority) {
  return GetPriority(handle, StreamForm::kPerThread, priority);
}

CUresult cuStreamGetFlags(CUstream handle, unsigned int* flags) {
  return GetFlags(handle, StreamForm::kLegacy, flags);
}
CUresult cuStreamGetFlags_ptsz(CUstream handle, unsigned int* flags) {
  return GetFlags(handle, StreamForm::kPerThread, flags);
}

CUresult cuStreamGetId(CUstream handle, unsigned long long* id) {
  return GetId(handle, StreamForm::kLegacy, id);
}
CUresult cuStreamGetId_ptsz(CUstream handle, unsigned long long* id) {
  return GetId(handle, StreamForm::kPerThread, id);
}

CUresult cuStreamGetCtx(CUstream handle, CUcontext* out) {
  return GetContext(handle, StreamForm::kLegacy, out);
}
CUresult cuStreamGetCtx_ptsz(CUstream handle, CUcontext* out) {
  return GetContext(handle, StreamForm::kPerThread, out);
}

// There are no green contexts, so no stream belongs to one.
CUresult cuStreamGetCtx_v2(CUstream handle, CUcontext* out, CUgreenCtx* green) {
  if (green != nullptr) *green = nullptr;
  return GetContext(handle, StreamForm::kLegacy, out);
}
CUresult cuStreamGetCtx_v2_ptsz(CUstream handle, CUcontext* out, CUgreenCtx* green) {
  if (green != nullptr) *green = nullptr;
  return GetContext(handle, StreamForm::kPerThread, out);
}

CUresult cuStreamGetDevice(CUstream handle, CUdevice* device) {
  return GetDevice(handle, StreamForm::kLegacy, device);
}
CUresult cuStreamGetDevice_ptsz(CUstream handle, CUdevice* device) {
  return GetDevice(handle, StreamForm::kPerThread, device);
}

CUresult cuStreamAddCallback(CUstream handle, CUstreamCallback callback, void* user_data,
                             unsigned int flags) {
  return AddCallback(handle, StreamForm::kLegacy, callback, user_data, flags);
}
CUresult cuStreamAddCallback_ptsz(CUstream handle, CUstreamCallback callback, void* user_data,
                                  unsigned int flags) {
  return AddCallback(handle, StreamForm::kPerThread, callback, user_data, flags);
}

CUresult cuLaunchHostFunc(CUstream handle, CUhostFn function, void* user_data) {
  return LaunchHost(handle, StreamForm::kLegacy, function, user_data);
}
CUresult cuLaunchHostFunc_ptsz(CUstream handle, CUhostFn function, void* user_data) {
  return LaunchHost(handle, StreamForm::kPerThread, function, user_data);
}

CUresult cuStreamGetAttribute(CUstream handle, CUstreamAttrID id, CUstreamAttrValue* value) {
  return GetAttribute(handle, StreamForm::kLegacy, id, value);
}
CUresult cuStreamGetAttribute_ptsz(CUstream handle, CUstreamAttrID id, CUstreamAttrValue* value) {
  return GetAttribute(handle, StreamForm::kPerThread, id, value);
}

CUresult cuStreamSetAttribute(CUstream handle, CUstreamAttrID id, const CUstreamAttrValue* value) {
  return SetAttribute(handle, StreamForm::kLegacy, id, value);
}
CUresult cuStreamSetAttribute_ptsz(CUstream handle, CUstreamAttrID id,
                                   const CUstreamAttrValue* value) {
  return SetAttribute(handle, StreamForm::kPerThread, id, value);
}

CUresult cuStreamCopyAttributes(CUstream to, CUstream from) {
  return CopyAttributes(to, from, StreamForm::kLegacy);
}
CUresult cuStreamCopyAttributes_ptsz(CUstream to, CUstream from) {
  return CopyAttributes(to, from, StreamForm::kPerThread);
}

}  // extern "C"

SIMGPU_ALIAS(cuStreamDestroy_v2, cuStreamDestroy);

}  // namespace tessera::abi
