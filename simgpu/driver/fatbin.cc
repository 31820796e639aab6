#include "simgpu/driver/fatbin.h"

#include <dlfcn.h>
#include <string.h>

#include <algorithm>

#include "simgpu/ptx/ptx.h"

namespace simgpu {
namespace {

using namespace tessera::abi;  // NOLINT

constexpr uint32_t kWrapperMagic = 0x466243b1;
constexpr uint32_t kContainerMagic = 0xba55ed50;
constexpr size_t kContainerHeader = 16;
constexpr size_t kPartHeaderMin = 64;
constexpr uint64_t kContainerBytesMax = uint64_t{4} << 30;
constexpr uint16_t kPartPtx = 1;
constexpr uint64_t kFlagLz4 = 0x2000;
constexpr uint64_t kFlagZstd = 0x8000;

template <typename T>
T Read(const uint8_t* at) {
  T value;
  memcpy(&value, at, sizeof value);
  return value;
}

bool DecodeZstd(const uint8_t* data, size_t bytes, size_t size, std::string* out,
                std::string* why) {
  using Decompress = size_t (*)(void*, size_t, const void*, size_t);
  using IsError = unsigned (*)(size_t);
  using ContentSize = unsigned long long (*)(const void*, size_t);
  // Kept open: a program that loads one compressed module loads more.
  static void* library = dlopen("libzstd.so.1", RTLD_NOW | RTLD_LOCAL);
  auto decompress =
      library ? reinterpret_cast<Decompress>(dlsym(library, "ZSTD_decompress")) : nullptr;
  auto is_error = library ? reinterpret_cast<IsError>(dlsym(library, "ZSTD_isError")) : nullptr;
  auto content =
      library ? reinterpret_cast<ContentSize>(dlsym(library, "ZSTD_getFrameContentSize")) : nullptr;
  if (decompress == nullptr || is_error == nullptr || content == nullptr) {
    *why =
        "the image is zstd-compressed and libzstd.so.1 cannot be loaded; install it or build with "
        "\"nvcc -no-compress\"";
    return false;
  }
  // Before room is made for it: what the frame itself says, when it does.
  const unsigned long long said = content(data, bytes);
  if (said != ~0ull && said != size) {
    *why = "the image's zstd part is damaged";
    return false;
  }
  out->resize(size);
  const size_t made = decompress(out->data(), size, data, bytes);
  if (is_error(made) != 0 || made != size) {
    *why = "the image's zstd part is damaged";
    return false;
  }
  return true;
}

CUresult Unpack(const uint8_t* part, size_t header, uint64_t payload, std::string* text,
                std::string* why) {
  const auto compressed = Read<uint32_t>(part + 16);
  const auto flags = Read<uint64_t>(part + 40);
  const auto size = Read<uint64_t>(part + 56);
  const uint8_t* data = part + header;
  if ((flags & (kFlagLz4 | kFlagZstd)) == 0) {
    if (payload > ptx::kMaxSourceBytes) {
      *why = "a part is longer than kMaxSourceBytes = " + std::to_string(ptx::kMaxSourceBytes);
      return CUDA_ERROR_INVALID_IMAGE;
    }
    text->assign(reinterpret_cast<const char*>(data), payload);
  } else if (compressed > payload || size > ptx::kMaxSourceBytes) {
    *why = "the image's sizes contradict each other";
    return CUDA_ERROR_INVALID_IMAGE;
  } else if ((flags & kFlagLz4) != 0) {
    if (!DecodeLz4(data, compressed, size, text)) {
      *why = "the image's LZ4 part is damaged";
      return CUDA_ERROR_INVALID_IMAGE;
    }
  } else if (!DecodeZstd(data, compressed, size, text, why)) {
    return CUDA_ERROR_INVALID_IMAGE;
  }
  text->resize(strnlen(text->data(), text->size()));
  return CUDA_SUCCESS;
}

CUresult FromContainer(const uint8_t* container, size_t limit, unsigned int sm, std::string* text,
                       std::string* why) {
  if (limit < kContainerHeader) {
    *why = "the image ends inside the container's header";
    return CUDA_ERROR_INVALID_IMAGE;
  }
  const auto header = Read<uint16_t>(container + 6);
  const auto size = Read<uint64_t>(container + 8);
  if (header < kContainerHeader || size > kContainerBytesMax) {
    *why = "the container's header is damaged";
    return CUDA_ERROR_INVALID_IMAGE;
  }
  if (header > limit || size > limit - header) {
    *why = "the container is longer than the image";
    return CUDA_ERROR_INVALID_IMAGE;
  }
  const uint8_t* best = nullptr;
  uint32_t best_sm = 0, best_header = 0;
  uint64_t best_payload = 0;
  uint64_t at = 0;
  while (at + kPartHeaderMin <= size) {
    const uint8_t* part = container + header + at;
    const auto part_header = Read<uint32_t>(part + 4);
    const auto payload = Read<uint64_t>(part + 8);
    if (part_header < kPartHeaderMin || part_header > size - at ||
        payload > size - at - part_header) {
      *why = "a part of the container runs over its end";
      return CUDA_ERROR_INVALID_IMAGE;
    }
    const auto target = Read<uint32_t>(part + 28);
    if (Read<uint16_t>(part) == kPartPtx && target <= sm && (best == nullptr || target > best_sm)) {
      best = part;
      best_sm = target;
      best_header = part_header;
      best_payload = payload;
    }
    at += part_header + payload;
  }
  if (best == nullptr) {
    *why =
        "the image has no PTX for sm_" + std::to_string(sm) +
        " or older, and machine code cannot be interpreted; build with -arch=compute_75 or alike";
    return CUDA_ERROR_NO_BINARY_FOR_GPU;
  }
  return Unpack(best, best_header, best_payload, text, why);
}

}  // namespace

std::string LinkedImage(const std::string& text) {
  std::string image(kLinkedMagic, sizeof kLinkedMagic);
  const uint64_t size = text.size();
  image.append(reinterpret_cast<const char*>(&size), sizeof size);
  image += text;
  image.push_back('\0');
  return image;
}

bool DecodeLz4(const uint8_t* data, size_t bytes, size_t size, std::string* out) {
  out->clear();
  if (size / 255 > bytes) return false;  // More than the format can hold.
  out->reserve(size);
  const uint8_t* at = data;
  const uint8_t* end = data + bytes;
  auto length = [&](size_t* value) {
    uint8_t more = 255;
    while (more == 255) {
      if (at == end) return false;
      more = *at++;
      *value += more;
    }
    return true;
  };
  while (at < end) {
    const uint8_t token = *at++;
    size_t literals = token >> 4;
    if (literals == 15 && !length(&literals)) return false;
    if (literals > static_cast<size_t>(end - at) || literals > size - out->size()) return false;
    out->append(reinterpret_cast<const char*>(at), literals);
    at += literals;
    if (at == end) break;  // the last sequence has no match
    if (end - at < 2) return false;
    const size_t back = at[0] | at[1] << 8;
    at += 2;
    size_t match = token & 15;
    if (match == 15 && !length(&match)) return false;
    match += 4;
    if (back == 0 || back > out->size() || match > size - out->size()) return false;
    // Byte by byte: a match may run into what it is just writing.
    for (size_t i = 0; i < match; ++i) out->push_back((*out)[out->size() - back]);
  }
  return out->size() == size;
}

CUresult PtxOf(const void* image, unsigned int sm, std::string* text, std::string* why) {
  return PtxOf(image, SIZE_MAX, sm, text, why);
}

CUresult PtxOf(const void* image, size_t limit, unsigned int sm, std::string* text,
               std::string* why) {
  const auto* bytes = static_cast<const uint8_t*>(image);
  // A text may be shorter than a magic number; it ends with a NUL, so compare byte by byte.
  auto begins = [&](uint32_t magic) {
    for (size_t i = 0; i < 4; ++i) {
      if (i >= limit || bytes[i] != static_cast<uint8_t>(magic >> (8 * i))) return false;
    }
    return true;
  };
  if (begins(kWrapperMagic)) {
    if (limit != SIZE_MAX) {
      *why = "a wrapper points out of the image";
      return CUDA_ERROR_INVALID_IMAGE;
    }
    bytes = Read<const uint8_t*>(bytes + 8);
    if (bytes == nullptr || !begins(kContainerMagic)) {
      *why = "the wrapper points to no container";
      return CUDA_ERROR_INVALID_IMAGE;
    }
  }
  if (begins(kContainerMagic)) return FromContainer(bytes, limit, sm, text, why);
  if (begins(0x464c457f)) {  // "\x7f" "ELF"
    *why = "the image is machine code, which cannot be interpreted; load its PTX instead";
    return CUDA_ERROR_NO_BINARY_FOR_GPU;
  }
  const auto* chars = static_cast<const char*>(image);
  if (strnlen(chars, std::min(limit, sizeof kLinkedMagic)) == sizeof kLinkedMagic &&
      memcmp(chars, kLinkedMagic, sizeof kLinkedMagic) == 0) {
    constexpr size_t kHeader = sizeof kLinkedMagic + sizeof(uint64_t);
    const auto size = limit < kHeader ? UINT64_MAX : Read<uint64_t>(bytes + sizeof kLinkedMagic);
    if (size > ptx::kMaxSourceBytes || size > limit - kHeader) {
      *why = "the linked image's size is damaged";
      return CUDA_ERROR_INVALID_IMAGE;
    }
    text->assign(chars + kHeader, size);
    return CUDA_SUCCESS;
  }
  const size_t size = strnlen(chars, std::min(limit, ptx::kMaxSourceBytes + 1));
  if (size > ptx::kMaxSourceBytes) {
    *why = "the PTX text is longer than kMaxSourceBytes = " + std::to_string(ptx::kMaxSourceBytes);
    return CUDA_ERROR_INVALID_IMAGE;
  }
  text->assign(chars, size);
  return CUDA_SUCCESS;
}

}  // namespace simgpu
