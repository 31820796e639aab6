// The options a program gives to whoever compiles for it (modules, libraries, the linker).
#pragma once

#include <stddef.h>

#include <string>

#include "abi/cuda.h"

namespace simgpu {

// The ones we honour: where messages go. The buffers are the program's.
struct JitLog {
  char* error = nullptr;
  size_t error_size = 0;
  void** error_size_slot = nullptr;
  char* info = nullptr;
  size_t info_size = 0;
  void** info_size_slot = nullptr;
};

tessera::abi::CUresult ReadOptions(unsigned int count, const tessera::abi::CUjit_option* options,
                                   void** values, JitLog* log);

// Writes what fits, NUL-terminated, and the number of bytes written into the size's slot.
void WriteLog(const std::string& text, char* buffer, size_t size, void** slot);

}  // namespace simgpu
