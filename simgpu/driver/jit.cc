#include "simgpu/driver/jit.h"

#include <string.h>

#include <algorithm>

namespace simgpu {

using namespace tessera::abi;  // NOLINT

CUresult ReadOptions(unsigned int count, const CUjit_option* options, void** values, JitLog* log) {
  if (count > 0 && (options == nullptr || values == nullptr)) return CUDA_ERROR_INVALID_VALUE;
  for (unsigned int i = 0; i < count; ++i) {
    switch (options[i]) {
      case CU_JIT_ERROR_LOG_BUFFER:
        log->error = static_cast<char*>(values[i]);
        break;
      case CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES:
        log->error_size = static_cast<unsigned int>(reinterpret_cast<uintptr_t>(values[i]));
        log->error_size_slot = &values[i];
        break;
      case CU_JIT_INFO_LOG_BUFFER:
        log->info = static_cast<char*>(values[i]);
        break;
      case CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES:
        log->info_size = static_cast<unsigned int>(reinterpret_cast<uintptr_t>(values[i]));
        log->info_size_slot = &values[i];
        break;
      default:
        // The others steer a compiler (registers, optimisation, debug info) that is not here; they
        // never change what a program computes.
        break;
    }
  }
  return CUDA_SUCCESS;
}

void WriteLog(const std::string& text, char* buffer, size_t size, void** slot) {
  size_t written = 0;
  if (buffer != nullptr && size > 0) {
    written = std::min(text.size(), size - 1);
    memcpy(buffer, text.data(), written);
    buffer[written] = 0;
  }
  if (slot != nullptr) *slot = reinterpret_cast<void*>(written);
}

}  // namespace simgpu
