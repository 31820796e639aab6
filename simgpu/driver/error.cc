// Names and descriptions of error codes.
#include "simgpu/driver/driver.h"
#include "simgpu/state/results.h"

namespace tessera::abi {

extern "C" {

CUresult cuGetErrorName(CUresult error, const char** name) {
  if (name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *name = simgpu::ResultName(error);
  return *name != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGetErrorString(CUresult error, const char** description) {
  if (description == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *description = simgpu::ResultText(error);
  return *description != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

}  // extern "C"
}  // namespace tessera::abi
