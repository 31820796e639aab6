// Memory by hand: physical memory (cuMemCreate), addresses (cuMemAddressReserve) and what joins
// them.
//
// Physical memory counts in the card's use from its creation until its last handle and mapping are
// gone, however often it is mapped. Where others may get it (a POSIX file descriptor was asked for)
// it is a memory file of its own, else a part of the device's arena. A process that imports it is
// not charged: the one that made it is, and if that one is gone, the next memory call of an
// importer takes the charge over (Adopt). The lock that says who is charged lies on the file
// itself.
//
// Each reservation has a second range, for the host, in which what is mapped lies at the same
// offsets: so neighbours in device addresses are neighbours for copies too. Where nothing is mapped
// the host's range is anonymous memory, so that work which outlives its memory faults nobody.
#pragma once

#include "simgpu/driver/driver.h"

namespace simgpu {

struct Physical : Object {
  Physical() : Object(Kind::kPhysical) {}
  int device = 0;
  uint64_t bytes = 0;
  uint64_t id = 0;
  CUmemAllocationProp prop{};
  uint32_t handles = 0;  // creations, imports and retains not yet released
  uint32_t mappings = 0;
  uint8_t* host = nullptr;
  uint64_t arena_address = 0;  // 0: a memory file of its own
  int fd = -1;
  uint64_t file = 0;  // which file fd was when it was made
  uint64_t uid[2] = {};
  int charge_lock = -1;  // an open file of its own that holds the lock, if it is this process's
  bool charged = false;
};

// An object of cuMulticastCreate. Its handles are of the same kind as those of physical memory, and
// it can be mapped; kernels reach what is bound by multimem instructions only, which are not
// interpreted, so nothing here ever reads or writes through it. What is bound to it is held by it
// as by a mapping.
struct Multicast : Object {
  Multicast() : Object(Kind::kMulticast) {}
  uint64_t bytes = 0;
  size_t devices = 0;     // that have to be added
  std::vector<int> team;  // that were
  uint32_t handles = 0;
  uint32_t mappings = 0;
  struct Binding {
    uint64_t offset = 0;
    uint64_t bytes = 0;
    Physical* physical = nullptr;
  };
  std::vector<Binding> bound;
};
void DropIfUnused(Driver* driver, Multicast* multicast);

// The memory that a program's file is: one this process has already (by `uid`), or mapped now and
// not charged. Null: the machine has no room. It has no handle and no mapping yet, so whoever asked
// counts one of them. Mutex held.
Physical* PhysicalOfFile(Driver* driver, int file, int device, uint64_t bytes,
                         const uint64_t (&uid)[2]);
// When the last handle and the last mapping are gone, so is the memory. Mutex held.
void DropIfUnused(Driver* driver, Physical* physical);
// Whether another process pays for it. Mutex held.
bool ChargedElsewhere(const Physical& physical);
// Takes over the charge of imported memory whose maker is gone. Mutex held.
void Adopt(Driver* driver);

}  // namespace simgpu
