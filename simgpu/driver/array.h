// CUDA arrays and mipmapped arrays: their storage, and where copies find their bytes.
//
// A card lays arrays out in tiles of 64 bytes by 8 rows. Nobody can see the layout, only what it
// takes: rows are rounded up to 64 bytes, the rows of a slice to 8 (but not those of arrays of one
// dimension), and the whole as linear memory is: below 1 MiB to 512 bytes within a shared granule,
// from there on to granules of 2 MiB. The bytes here lie row by row.
//
// Arrays belong to a context and go with it. Driver::mutex guards the tables; the bytes of a live
// array may be copied without it (destroying waits for the device first).
#pragma once

#include <cstdint>

#include "simgpu/driver/driver.h"

namespace simgpu {

inline constexpr unsigned int kMipmapLevelsMax = 17;

// Where the bytes of an array (or of one level of a mipmapped one) lie: the element at column x
// (in bytes), row y, slice or layer z is host + (z * rows + y) * pitch + x.
struct ArrayLayout {
  uint8_t* host = nullptr;
  uint64_t pitch = 0;          // bytes from row to row
  uint64_t rows = 0;           // rows from slice to slice
  uint64_t width_bytes = 0;    // what may be copied of a row
  uint64_t height = 0;         // rows that may be copied, at least 1
  uint64_t depth = 0;          // slices or layers that may be copied, at least 1
  uint32_t element_bytes = 0;  // width_bytes and every x are multiples of it
  int device = 0;
};

struct Mipmap;

struct Array : Object {
  Array() : Object(Kind::kArray) {}
  Context* context = nullptr;
  CUDA_ARRAY3D_DESCRIPTOR descriptor{};  // as asked for
  ArrayLayout layout;
  Allocation storage;        // size 0: the storage is a mipmap's, or another array's
  Mipmap* mipmap = nullptr;  // whose level this is
  Array* whole = nullptr;    // whose plane this is
  Array* planes[2] = {};     // of a format of two planes
};

struct Mipmap : Object {
  Mipmap() : Object(Kind::kMipmap) {}
  Context* context = nullptr;
  CUDA_ARRAY3D_DESCRIPTOR descriptor{};
  Allocation storage;  // in external memory: of that, and not its own
  std::vector<std::unique_ptr<Array>> levels;
};

// The live array of that handle, or null. Mutex held.
inline Array* FindArray(const Driver& driver, CUarray handle) {
  return Live<Array>(driver, handle, Kind::kArray);
}

// A mipmapped array in memory of its own or, with `external`, in such memory from `offset` on
// (external.h). Mutex free.
struct ExternalPlace {
  struct ExternalMemory* memory = nullptr;
  uint64_t offset = 0;
};
CUresult CreateMipmap(CUmipmappedArray* handle, const CUDA_ARRAY3D_DESCRIPTOR* wanted,
                      unsigned int levels, const ExternalPlace* external);

// Destroys what arrays the context still has. Mutex held.
void DropArrays(Driver* driver, Context* context);

}  // namespace simgpu
