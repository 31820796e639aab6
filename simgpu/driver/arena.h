// The address range of one card in this process.
//
// Device addresses lie in a reserved range without access, so that a host that dereferences one
// faults as on a real machine; the bytes live in a second mapping of a memory file, which copies
// and kernels use. Nothing is backed by memory until it is written, and freed granules are punched
// out, so an 80 GiB card exists on a small machine. Not thread-safe: the driver's mutex guards it.
// A card's is never destroyed; a pool's is when nothing can be using it any more.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "simgpu/driver/free_runs.h"

namespace simgpu {

class Arena {
 public:
  // Room for `granules` of 2 MiB. Null with a sentence in `error` when the machine refuses. With a
  // `tag` the memory file ends with these bytes (at most a page), for others to know it by.
  static std::unique_ptr<Arena> Make(uint64_t granules, std::string* error,
                                     std::string_view tag = {});
  ~Arena();

  // The lowest free run of that length, or 0.
  uint64_t Take(uint64_t granules);
  void Give(uint64_t address, uint64_t granules);
  // Forgets the bytes of a range that stays taken.
  void Punch(uint64_t address, uint64_t granules);
  // Lets the host use the range at its device address too (managed memory), or no longer.
  bool Expose(uint64_t address, uint64_t granules);
  bool Hide(uint64_t address, uint64_t granules);

  bool Contains(uint64_t address) const { return address >= base_ && address < base_ + bytes_; }
  uint8_t* Host(uint64_t address) const { return host_ + (address - base_); }
  uint64_t base() const { return base_; }
  uint64_t bytes() const { return bytes_; }
  // A new descriptor of the memory file, to be shown to another process. -1 when the program has
  // closed ours.
  int Duplicate() const;

 private:
  Arena() = default;
  uint64_t base_ = 0;
  uint64_t bytes_ = 0;
  uint8_t* host_ = nullptr;
  int fd_ = -1;
  uint64_t file_ = 0;  // which file fd_ was when it was made
  void* reserved_ = nullptr;
  FreeRuns free_;  // granules
};

}  // namespace simgpu
