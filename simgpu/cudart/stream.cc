// Streams and events, which are the driver's own.
#include "simgpu/cudart/driver.h"
#include "simgpu/cudart/runtime.h"

namespace simgpu::cudart {

CUDART_CALL cudaError_t cudaStreamCreateWithFlags(CUstream* stream, unsigned int flags) {
  if (stream == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  return Record(Call(Driver().StreamCreate, stream, flags));
}

CUDART_CALL cudaError_t cudaStreamCreate(CUstream* stream) {
  return cudaStreamCreateWithFlags(stream, 0);
}

CUDART_CALL cudaError_t cudaStreamCreateWithPriority(CUstream* stream, unsigned int flags,
                                                     int priority) {
  if (stream == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  return Record(Call(Driver().StreamCreateWithPriority, stream, flags, priority));
}

CUDART_CALL cudaError_t cudaStreamDestroy(CUstream stream) {
  CUDART_NEEDS_CONTEXT();
  return Record(Call(Driver().StreamDestroy, stream));
}

CUDART_CALL cudaError_t cudaStreamSynchronize(CUstream stream) {
  CUDART_NEEDS_CONTEXT();
  return Record(Call(Driver().StreamSynchronize, stream));
}

CUDART_CALL cudaError_t cudaStreamQuery(CUstream stream) {
  CUDART_NEEDS_CONTEXT();
  return Record(Call(Driver().StreamQuery, stream));
}

CUDART_CALL cudaError_t cudaStreamWaitEvent(CUstream stream, CUevent event, unsigned int flags) {
  CUDART_NEEDS_CONTEXT();
  return Record(Call(Driver().StreamWaitEvent, stream, event, flags));
}

CUDART_CALL cudaError_t cudaStreamGetFlags(CUstream stream, unsigned int* flags) {
  CUDART_NEEDS_CONTEXT();
  return Record(Call(Driver().StreamGetFlags, stream, flags));
}

CUDART_CALL cudaError_t cudaStreamGetPriority(CUstream stream, int* priority) {
  CUDART_NEEDS_CONTEXT();
  return Record(Call(Driver().StreamGetPriority, stream, priority));
}

CUDART_CALL cudaError_t cudaStreamGetId(CUstream stream, unsigned long long* id) {
  CUDART_NEEDS_CONTEXT();
  return Record(Call(Driver().StreamGetId, stream, id));
}

// The driver calls back with its result type, whose values are the runtime's.
CUDART_CALL cudaError_t cudaStreamAddCallback(CUstream stream, cudaStreamCallback_t callback,
                                              void* user_data, unsigned int flags) {
  CUDART_NEEDS_CONTEXT();
  return Record(Call(Driver().StreamAddCallback, stream,
                     reinterpret_cast<CUstreamCallback>(callback), user_data, flags));
}

CUDART_CALL cudaError_t cudaEventCreateWithFlags(CUevent* event, unsigned int flags) {
  if (event == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  return Record(Call(Driver().EventCreate, event, flags));
}

CUDART_CALL cudaError_t cudaEventCreate(CUevent* event) {
  return cudaEventCreateWithFlags(event, 0);
}

CUDART_CALL cudaError_t cudaEventDestroy(CUevent event) {
  CUDART_NEEDS_CONTEXT();
  return Record(Call(Driver().EventDestroy, event));
}

CUDART_CALL cudaError_t cudaEventRecord(CUevent event, CUstream stream) {
  CUDART_NEEDS_CONTEXT();
  return Record(Call(Driver().EventRecord, event, stream));
}

CUDART_CALL cudaError_t cudaEventQuery(CUevent event) {
  CUDART_NEEDS_CONTEXT();
  return Record(Call(Driver().EventQuery, event));
}

CUDART_CALL cudaError_t cudaEventSynchronize(CUevent event) {
  CUDART_NEEDS_CONTEXT();
  return Record(Call(Driver().EventSynchronize, event));
}

CUDART_CALL cudaError_t cudaEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
  CUDART_NEEDS_CONTEXT();
  return Record(Call(Driver().EventElapsedTime, milliseconds, start, end));
}

}  // namespace simgpu::cudart
