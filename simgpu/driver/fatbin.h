// What a program hands to cuModuleLoadData or cuLibraryLoadData, down to PTX text.
//
// Accepted: PTX text; what cuLinkComplete made of several; the wrapper nvcc puts into programs; the
// container the wrapper points to, with PTX parts plain, LZ4 or zstd. Machine code (ELF) cannot be
// interpreted. Pure but for dlopen of libzstd.so.1.
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
// The same of an image whose size is known: nothing beyond it is read, and a wrapper, which points
// elsewhere, is refused.
tessera::abi::CUresult PtxOf(const void* image, size_t bytes, unsigned int sm, std::string* text,
                             std::string* why);

// A linked image: this magic, the text's size in 8 bytes, the text, a NUL. What cuLinkComplete
// hands out, because a program passes it on without a size.
inline constexpr char kLinkedMagic[8] = {'S', 'I', 'M', 'G', 'P', 'U', 'L', '\n'};
std::string LinkedImage(const std::string& text);

// Decodes one LZ4 block into exactly `size` bytes; false when it is damaged.
bool DecodeLz4(const uint8_t* data, size_t bytes, size_t size, std::string* out);

}  // namespace simgpu
