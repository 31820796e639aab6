#include "simgpu/cudart/fatbin.h"

#include <dlfcn.h>

#include <cstring>

namespace simgpu {
namespace {

struct Wrapper {
  std::uint32_t magic;
  std::uint32_t version;
  const unsigned char* data;
  void* extra;
};

struct Header {
  std::uint32_t magic;
  std::uint16_t version;
  std::uint16_t header_bytes;
  std::uint64_t payload_bytes;
};
static_assert(sizeof(Header) == 16);

// The first 64 bytes of an entry; longer entry headers carry things we do not need.
struct Entry {
  std::uint16_t kind;
  std::uint16_t version;
  std::uint32_t header_bytes;
  std::uint64_t padded_bytes;
  std::uint32_t compressed_bytes;
  std::uint32_t unused1;
  std::uint32_t language;
  std::uint32_t architecture;
  std::uint64_t unused2;
  std::uint64_t flags;
  std::uint64_t unused3;
  std::uint64_t plain_bytes;
};
static_assert(sizeof(Entry) == 64);

constexpr std::uint16_t kPtxKind = 1;
constexpr std::uint64_t kLz4Flag = 0x2000;
constexpr std::uint64_t kZstdFlag = 0x8000;

using ZstdDecompress = std::size_t(void* to, std::size_t room, const void* from, std::size_t size);

// The system's zstd, opened when first needed so that nothing links to it.
ZstdDecompress* Zstd() {
  static ZstdDecompress* const decompress = [] {
    void* const library = dlopen("libzstd.so.1", RTLD_NOW | RTLD_LOCAL);
    return library == nullptr
               ? nullptr
               : reinterpret_cast<ZstdDecompress*>(dlsym(library, "ZSTD_decompress"));
  }();
  return decompress;
}

FatbinAnswer Unpack(const Entry& entry, const unsigned char* payload, std::string* ptx,
                    std::string* why) {
  const bool packed = (entry.flags & (kLz4Flag | kZstdFlag)) != 0;
  const std::uint64_t stored = packed ? entry.compressed_bytes : entry.padded_bytes;
  const std::uint64_t plain = packed ? entry.plain_bytes : entry.padded_bytes;
  if (stored > entry.padded_bytes || plain > kFatbinPtxBytesMax) {
    *why = "a PTX entry of the fat binary is damaged or above kFatbinPtxBytesMax";
    return FatbinAnswer::kBad;
  }
  ptx->assign(plain, '\0');
  if (!packed) {
    std::memcpy(ptx->data(), payload, plain);
  } else if ((entry.flags & kZstdFlag) != 0) {
    if (Zstd() == nullptr) {
      *why = "the fat binary is compressed with zstd and this machine has no libzstd.so.1 "
             "(install libzstd1, or build with nvcc --compress-mode=none)";
      return FatbinAnswer::kBad;
    }
    if (Zstd()(ptx->data(), plain, payload, stored) != plain) {
      *why = "the fat binary's zstd frame is damaged";
      return FatbinAnswer::kBad;
    }
  } else if (!DecodeLz4(payload, stored, reinterpret_cast<unsigned char*>(ptx->data()), plain)) {
    *why = "the fat binary's LZ4 block is damaged";
    return FatbinAnswer::kBad;
  }
  // Stored texts are padded with NULs; a text ends at the first.
  ptx->resize(strnlen(ptx->c_str(), ptx->size()));
  return FatbinAnswer::kPtx;
}

}  // namespace

bool DecodeLz4(const unsigned char* from, std::size_t length, unsigned char* to, std::size_t size) {
  const unsigned char* const end = from + length;
  unsigned char* const start = to;
  unsigned char* const stop = to + size;
  // A length of 15 continues in bytes of 255.
  const auto extend = [&](std::size_t* value) {
    if (*value != 15) return true;
    while (from < end) {
      const unsigned char more = *from++;
      *value += more;
      if (more != 255) return true;
    }
    return false;
  };
  while (from < end) {
    const unsigned char token = *from++;
    std::size_t literals = token >> 4;
    if (!extend(&literals) || literals > static_cast<std::size_t>(end - from) ||
        literals > static_cast<std::size_t>(stop - to)) {
      return false;
    }
    std::memcpy(to, from, literals);
    from += literals;
    to += literals;
    if (from == end) break;  // the last sequence is literals only
    if (end - from < 2) return false;
    const std::size_t distance = from[0] | from[1] << 8;
    from += 2;
    std::size_t match = token & 15;
    if (!extend(&match)) return false;
    match += 4;
    if (distance == 0 || distance > static_cast<std::size_t>(to - start) ||
        match > static_cast<std::size_t>(stop - to)) {
      return false;
    }
    for (; match > 0; --match, ++to) *to = *(to - distance);  // may overlap itself
  }
  return to == stop;
}

FatbinAnswer ExtractPtx(const void* image, std::uint32_t capability, std::string* ptx,
                        std::string* why) {
  const auto* data = static_cast<const unsigned char*>(image);
  std::uint32_t magic = 0;
  std::memcpy(&magic, data, sizeof magic);
  if (magic == kFatbinWrapperMagic) {
    Wrapper wrapper;
    std::memcpy(&wrapper, data, sizeof wrapper);
    data = wrapper.data;
    std::memcpy(&magic, data, sizeof magic);
  }
  Header header;
  std::memcpy(&header, data, sizeof header);
  if (header.magic != kFatbinMagic || header.header_bytes < sizeof header) {
    *why = "not a fat binary";
    return FatbinAnswer::kBad;
  }
  const unsigned char* at = data + header.header_bytes;
  const unsigned char* const end = at + header.payload_bytes;
  Entry best = {};
  const unsigned char* best_payload = nullptr;
  std::string seen;
  while (at < end) {
    Entry entry;
    if (static_cast<std::size_t>(end - at) < sizeof entry) {
      *why = "the fat binary ends inside an entry";
      return FatbinAnswer::kBad;
    }
    std::memcpy(&entry, at, sizeof entry);
    const std::size_t left = static_cast<std::size_t>(end - at);
    if (entry.header_bytes < sizeof entry || entry.header_bytes > left ||
        entry.padded_bytes > left - entry.header_bytes) {
      *why = "an entry of the fat binary runs over its end";
      return FatbinAnswer::kBad;
    }
    seen += (seen.empty() ? "" : ", ") + std::string(entry.kind == kPtxKind ? "PTX " : "machine code ") +
            std::to_string(entry.architecture);
    if (entry.kind == kPtxKind && entry.architecture <= capability &&
        (best_payload == nullptr || entry.architecture > best.architecture)) {
      best = entry;
      best_payload = at + entry.header_bytes;
    }
    at += entry.header_bytes + entry.padded_bytes;
  }
  if (best_payload == nullptr) {
    *why = "the program has no PTX for architecture " + std::to_string(capability) + " or below (" +
           (seen.empty() ? "no entries" : seen) +
           "); a simulated card needs PTX: build with nvcc -arch=sm_75, without -rdc=true";
    return FatbinAnswer::kNoMatch;
  }
  return Unpack(best, best_payload, ptx, why);
}

}  // namespace simgpu
