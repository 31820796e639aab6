// What all entry points of the runtime share: how they are declared, the calling thread's device
// and its last error.
#pragma once

#include <atomic>

#include "simgpu/cudart/driver.h"
#include "simgpu/cudart/types.h"

// An entry point of the library: C linkage, visible.
#define CUDART_CALL extern "C" __attribute__((visibility("default")))

namespace simgpu::cudart {

inline constexpr int kRuntimeVersion = 13000;
inline constexpr int kDevicesMax = 64;  // more visible devices than this are not counted

// Remembers an error for cudaGetLastError and hands it on. NotReady is an answer, not an error.
cudaError_t Record(cudaError_t error);
inline cudaError_t Record(CUresult result) { return Record(static_cast<cudaError_t>(result)); }
// The device was reset: faults that threads remember from before count no longer.
void ForgetFaults();

// For the names that exist and do nothing here: says so once, answers cudaErrorNotSupported.
cudaError_t Refuse(const char* name, std::atomic_flag* said);

// The driver is open and initialised; the first failure is kept and answered to every later call.
// In the child of a process that used the driver: cudaErrorInitializationError, as everywhere.
cudaError_t EnsureDriver();
// And the thread has a current context: the one it set itself, or the primary one of its device.
cudaError_t EnsureContext();
// The device of the thread's current context. Call after EnsureContext.
int CurrentDevice();
// The primary context of a device, made if need be. The thread's own stays current.
cudaError_t PrimaryOf(int device, CUcontext* context);

// What the program's own null stream means in the per-thread form of a call.
inline CUstream OwnStream(CUstream stream) {
  return stream == nullptr ? reinterpret_cast<CUstream>(kStreamPerThread) : stream;
}
enum class Form { kLegacy, kPerThread };

inline CUdeviceptr Address(const void* pointer) { return reinterpret_cast<CUdeviceptr>(pointer); }

}  // namespace simgpu::cudart

// Leaves the entry point with the reason when there is no driver, or no context.
#define CUDART_NEEDS_DRIVER() \
  if (const cudaError_t bad = EnsureDriver(); bad != cudaSuccess) return Record(bad)
#define CUDART_NEEDS_CONTEXT() \
  if (const cudaError_t bad = EnsureContext(); bad != cudaSuccess) return Record(bad)

// An entry point that is one of the driver's. The second form also exports the per-thread one,
// whose null stream is the thread's own; its parameter is called `stream`.
#define CUDART_PASS(name, entry, parameters, arguments) \
  CUDART_CALL cudaError_t name parameters {             \
    CUDART_NEEDS_CONTEXT();                             \
    return Record(Call(Driver().entry) arguments);      \
  }
#define CUDART_PASS_STREAM(name, entry, parameters, arguments) \
  CUDART_PASS(name, entry, parameters, arguments)              \
  CUDART_CALL cudaError_t name##_ptsz parameters {             \
    stream = OwnStream(stream);                                \
    CUDART_NEEDS_CONTEXT();                                    \
    return Record(Call(Driver().entry) arguments);             \
  }
// Both forms of an entry point that one function of ours does.
#define CUDART_BOTH_STREAM(name, function, parameters, arguments)        \
  CUDART_CALL cudaError_t name parameters { return function arguments; } \
  CUDART_CALL cudaError_t name##_ptsz parameters {                       \
    stream = OwnStream(stream);                                          \
    return function arguments;                                           \
  }
