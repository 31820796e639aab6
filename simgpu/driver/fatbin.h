// What a program hands to cuModuleLoadData or cuLibraryLoadData, down to PTX text.
//
// Accepted: PTX text; the wrapper nvcc puts into programs; the container the wrapper points to,
// with PTX parts plain, LZ4 or zstd. Machine code (ELF) cannot be interpreted. Pure but for dlopen
// of libzstd.so.1.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "abi/cuda.h"

namespace simgpu {

// The PTX text in `image` that suits a device of capability `sm` (80 for 8.0) best: the newest
// target not above it. CUDA_ERROR_NO_BINARY_FOR_GPU when there is only machine code or only newer
// PTX; CUDA_ERROR_INVALID_IMAGE for a container that contradicts itself. `why` gets a sentence on
// failure.
tessera::abi::CUresult PtxOf(const void* image, unsigned int sm, std::string* text,
                             std::string* why);

// Decodes one LZ4 block into exactly `size` bytes; false when it is damaged.
bool DecodeLz4(const uint8_t* data, size_t bytes, size_t size, std::string* out);

}  // namespace simgpu
