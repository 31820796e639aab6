// The last error of a thread, and the names and sentences of errors.
#include "simgpu/cudart/runtime.h"

namespace simgpu::cudart {
namespace {

thread_local cudaError_t last_error = cudaSuccess;

// Faults that stay until the context is gone: the driver answers them to every call, so must the
// last error.
bool IsSticky(cudaError_t error) {
  switch (static_cast<unsigned int>(error)) {
    case 700:
    case 702:
    case 710:
    case 714:
    case 715:
    case 716:
    case 717:
    case 718:
    case 719:
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
    {0, "cudaSuccess", "no error"},
    {1, "cudaErrorInvalidValue", "invalid argument"},
    {2, "cudaErrorMemoryAllocation", "out of memory"},
    {3, "cudaErrorInitializationError", "initialization error"},
    {4, "cudaErrorCudartUnloading", "driver shutting down"},
    {9, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {12, "cudaErrorInvalidPitchValue", "invalid pitch argument"},
    {13, "cudaErrorInvalidSymbol", "invalid device symbol"},
    {21, "cudaErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"},
    {35, "cudaErrorInsufficientDriver", "no CUDA driver, or one that is too old for this runtime"},
    {46, "cudaErrorDevicesUnavailable", "device busy or unavailable"},
    {52, "cudaErrorMissingConfiguration", "kernel launched without a configuration"},
    {98, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {100, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {101, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {200, "cudaErrorInvalidKernelImage", "device kernel image is invalid"},
    {201, "cudaErrorDeviceUninitialized", "invalid device context"},
    {209, "cudaErrorNoKernelImageForDevice", "no kernel image for this device"},
    {214, "cudaErrorECCUncorrectable", "uncorrectable memory error"},
    {218, "cudaErrorInvalidPtx", "PTX that could not be compiled"},
    {222, "cudaErrorUnsupportedPtxVersion", "PTX of an unsupported version"},
    {301, "cudaErrorFileNotFound", "file not found"},
    {302, "cudaErrorSharedObjectSymbolNotFound", "symbol not found in a shared object"},
    {303, "cudaErrorSharedObjectInitFailed", "a shared object could not be initialised"},
    {304, "cudaErrorOperatingSystem", "the operating system refused a call"},
    {400, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {401, "cudaErrorIllegalState", "the operation is not allowed in this state"},
    {500, "cudaErrorSymbolNotFound", "named symbol not found"},
    {600, "cudaErrorNotReady", "device not ready"},
    {700, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {701, "cudaErrorLaunchOutOfResources", "too many resources requested for launch"},
    {702, "cudaErrorLaunchTimeout", "the launch timed out"},
    {709, "cudaErrorContextIsDestroyed", "the context is destroyed"},
    {710, "cudaErrorAssert", "a device-side assertion failed"},
    {712, "cudaErrorHostMemoryAlreadyRegistered", "host memory is registered already"},
    {713, "cudaErrorHostMemoryNotRegistered", "host memory is not registered"},
    {714, "cudaErrorHardwareStackError", "the device call stack is corrupt"},
    {715, "cudaErrorIllegalInstruction", "an illegal instruction was encountered"},
    {716, "cudaErrorMisalignedAddress", "misaligned address"},
    {717, "cudaErrorInvalidAddressSpace", "an operation on the wrong address space"},
    {718, "cudaErrorInvalidPc", "invalid program counter"},
    {719, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {720, "cudaErrorCooperativeLaunchTooLarge", "too many blocks in a cooperative launch"},
    {800, "cudaErrorNotPermitted", "operation not permitted"},
    {801, "cudaErrorNotSupported", "operation not supported"},
    {900, "cudaErrorStreamCaptureUnsupported", "not permitted while a stream captures"},
    {901, "cudaErrorStreamCaptureInvalidated", "the capture failed earlier"},
    {999, "cudaErrorUnknown", "unknown error"},
};

const Text* Find(cudaError_t error) {
  for (const Text& text : kTexts) {
    if (text.code == error) return &text;
  }
  return nullptr;
}

}  // namespace

cudaError_t Record(cudaError_t error) {
  if (error != cudaSuccess && error != cudaErrorNotReady) last_error = error;
  return error;
}

// How the simulated driver tells this runtime from NVIDIA's.
CUDART_CALL int simgpu_is_simulated() { return 1; }

CUDART_CALL cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  if (!IsSticky(error)) last_error = cudaSuccess;
  return error;
}

CUDART_CALL cudaError_t cudaPeekAtLastError() { return last_error; }

CUDART_CALL const char* cudaGetErrorName(cudaError_t error) {
  const Text* const text = Find(error);
  return text == nullptr ? "unrecognized error code" : text->name;
}

CUDART_CALL const char* cudaGetErrorString(cudaError_t error) {
  const Text* const text = Find(error);
  return text == nullptr ? "unrecognized error code" : text->sentence;
}

}  // namespace simgpu::cudart
