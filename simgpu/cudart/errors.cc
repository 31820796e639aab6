// The last error of a thread, and the names and sentences of errors.
#include <cstdio>
#include <cstdlib>

#include "simgpu/cudart/runtime.h"

namespace simgpu::cudart {
namespace {

std::atomic<unsigned> resets{0};
thread_local cudaError_t last_error = cudaSuccess;
thread_local unsigned last_error_at = 0;  // `resets` when it happened

// Faults that stay until the context is gone: the driver answers them to every call, so must the
// last error.
bool IsFault(cudaError_t error) {
  switch (error) {
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContained:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorTensorMemoryLeak:
      return true;
    default:
      return false;
  }
}

struct Text {
  unsigned int code;
  const char* name;
  const char* sentence;
};

constexpr Text kTexts[] = {
#define CUDART_ERROR(code, name, sentence) {code, #name, sentence},
#include "simgpu/cudart/errors.inc"
#undef CUDART_ERROR
};

const Text* Find(cudaError_t error) {
  for (const Text& text : kTexts) {
    if (text.code == error) return &text;
  }
  return nullptr;
}

cudaError_t LastError() {
  if (IsFault(last_error) && last_error_at != resets.load(std::memory_order_acquire)) {
    last_error = cudaSuccess;
  }
  return last_error;
}

}  // namespace

cudaError_t Record(cudaError_t error) {
  if (error != cudaSuccess && error != cudaErrorNotReady) {
    last_error = error;
    last_error_at = resets.load(std::memory_order_acquire);
  }
  return error;
}

void ForgetFaults() { resets.fetch_add(1, std::memory_order_acq_rel); }

cudaError_t Refuse(const char* name, std::atomic_flag* said) {
  if (!said->test_and_set() && std::getenv("SIMGPU_QUIET") == nullptr) {
    std::fprintf(stderr, "simgpu: %s is not simulated; it answers cudaErrorNotSupported\n", name);
  }
  return Record(cudaErrorNotSupported);
}

// How the simulated driver tells this runtime from NVIDIA's.
CUDART_CALL int simgpu_is_simulated() { return 1; }

CUDART_CALL cudaError_t cudaGetLastError() {
  const cudaError_t error = LastError();
  if (!IsFault(error)) last_error = cudaSuccess;
  return error;
}

CUDART_CALL cudaError_t cudaPeekAtLastError() { return LastError(); }

CUDART_CALL const char* cudaGetErrorName(cudaError_t error) {
  const Text* const text = Find(error);
  return text == nullptr ? "unrecognized error code" : text->name;
}

CUDART_CALL const char* cudaGetErrorString(cudaError_t error) {
  const Text* const text = Find(error);
  return text == nullptr ? "unrecognized error code" : text->sentence;
}

}  // namespace simgpu::cudart
