// Many names without a relocation each: one text of all of them, made by the compiler, and where
// each begins. A shared object that every process loads should have little for the loader to patch.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace tessera::guest {

template <uint32_t kCount>
struct NameOffsets {
  uint16_t at[kCount];
};

// `text` is the names one after another, each with its NUL.
template <uint32_t kCount, size_t kBytes>
constexpr NameOffsets<kCount> OffsetsOf(const char (&text)[kBytes]) {
  static_assert(kBytes < 65536);
  NameOffsets<kCount> offsets = {};
  uint32_t name = 0;
  bool begins = true;
  for (size_t i = 0; i + 1 < kBytes && name < kCount; ++i) {
    if (begins) offsets.at[name++] = static_cast<uint16_t>(i);
    begins = text[i] == '\0';
  }
  return offsets;
}

}  // namespace tessera::guest
