// Takes PTX out of the container nvcc puts into a program. Thread-safe; nothing is kept.
#pragma once

#include <cstdint>
#include <string>

namespace simgpu {

// What the host stub hands over: a small record that points to the container.
inline constexpr std::uint32_t kFatbinWrapperMagic = 0x466243b1;
inline constexpr std::uint32_t kFatbinMagic = 0xba55ed50;
// A PTX text larger than this is refused before memory is taken for it.
inline constexpr std::uint64_t kFatbinPtxBytesMax = std::uint64_t{256} << 20;

enum class FatbinAnswer {
  kPtx,      // `ptx` holds the text
  kNoMatch,  // well formed, but no PTX for this capability (machine code only, or a newer architecture)
  kBad,      // not a container, or damaged, or compressed in a way this machine cannot undo
};

// The PTX of the highest architecture that is not above `capability` (major * 10 + minor). `image` is a wrapper
// or a container. `why` gets one sentence unless the answer is kPtx.
FatbinAnswer ExtractPtx(const void* image, std::uint32_t capability, std::string* ptx,
                        std::string* why);

// One LZ4 block. False when it is damaged or does not fill `size` bytes exactly.
bool DecodeLz4(const unsigned char* from, std::size_t length, unsigned char* to, std::size_t size);

}  // namespace simgpu
