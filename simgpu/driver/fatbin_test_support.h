// Fat binaries made by hand, for tests.
#pragma once

#include <string.h>

#include <cstdint>
#include <string>
#include <vector>

namespace simgpu {

template <typename T>
void Put(std::string* bytes, size_t at, T value) {
  if (bytes->size() < at + sizeof value) bytes->resize(at + sizeof value);
  memcpy(bytes->data() + at, &value, sizeof value);
}

// `kind` 1 is text, 2 machine code; `size` that of the text when the flags say it is compressed.
inline std::string Part(uint16_t kind, uint32_t sm, uint64_t flags, const std::string& payload,
                        uint64_t size) {
  std::string part(64, '\0');
  Put<uint16_t>(&part, 0, kind);
  Put<uint16_t>(&part, 2, 0x101);
  Put<uint32_t>(&part, 4, 64);
  const uint64_t padded = (payload.size() + 7) / 8 * 8;
  Put<uint64_t>(&part, 8, padded);
  Put<uint32_t>(&part, 16, static_cast<uint32_t>(payload.size()));
  Put<uint32_t>(&part, 28, sm);
  Put<uint64_t>(&part, 40, flags);
  Put<uint64_t>(&part, 56, size);
  part += payload;
  part.resize(64 + padded);
  return part;
}

inline std::string Container(const std::vector<std::string>& parts) {
  std::string bytes(16, '\0');
  Put<uint32_t>(&bytes, 0, 0xba55ed50);
  Put<uint16_t>(&bytes, 4, 1);
  Put<uint16_t>(&bytes, 6, 16);
  uint64_t size = 0;
  for (const std::string& part : parts) size += part.size();
  Put<uint64_t>(&bytes, 8, size);
  for (const std::string& part : parts) bytes += part;
  return bytes;
}

}  // namespace simgpu
