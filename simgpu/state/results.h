// Every error code of the driver API with its name and description: what cuGetErrorName answers,
// and what traces and fault rules are written in. Data; no state.
#pragma once

#include <cstdint>
#include <string_view>

namespace simgpu {

// Null for a number that is no code.
const char* ResultName(uint32_t code);
const char* ResultText(uint32_t code);
// By name ("CUDA_ERROR_OUT_OF_MEMORY", also without "CUDA_ERROR_"; either case) or by number.
// False if it is no code.
bool ParseResult(std::string_view text, uint32_t* code);

}  // namespace simgpu
