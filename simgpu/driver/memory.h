// The insides of the memory model that its parts share: granules, storage, address ranges, and what
// identifies memory to another process. Driver::mutex held unless said otherwise.
#pragma once

#include <string>

#include "simgpu/driver/driver.h"

namespace simgpu {

inline constexpr size_t kAddressRangesMax = 65'536;  // reservations and imports of one process

// The arena is made with the first need: a process that only asks for names reserves nothing.
bool EnsureArena(Driver* driver, int device);

CUresult FromAnswer(State::Answer answer);
// Whole granules of a card's account and of an arena.
CUresult TakeGranules(Driver* driver, int device, Arena* arena, uint64_t bytes, State::Kind kind,
                      uint64_t* address);
void GiveGranules(Driver* driver, int device, Arena* arena, uint64_t address, uint64_t bytes,
                  State::Kind kind);

// Memory of a context that is not in the table of allocations (Allocate puts it there).
CUresult TakeStorage(Driver* driver, Context* context, uint64_t bytes, MemoryKind kind,
                     Allocation* made);
void GiveStorage(Driver* driver, const Allocation& allocation);

// Addresses that the host has no access to, aligned to a granule at least. 0: none to be had.
// `near` may say where they should lie.
uint64_t ReserveAddresses(Driver* driver, uint64_t bytes, uint64_t alignment, uint64_t near);
void FreeAddresses(Driver* driver, uint64_t base);

// Waits for all work that may still use memory of the device, or of any if -1. Mutex free. Answers
// the sticky error of `current`.
CUresult WaitBeforeFree(Driver* driver, Context* current, int device);

// The end of a memory file that is shown to others says what it is.
struct MemoryTag {
  static constexpr uint64_t kMagic = 0x53696d4770754d31;
  static constexpr uint32_t kPoolKind = 1, kPhysicalKind = 2;
  uint64_t magic = kMagic;
  uint32_t kind = 0;
  uint32_t card = 0;            // index in the state
  unsigned char uuid[16] = {};  // of the card
  uint64_t bytes = 0;           // before the tag
  uint64_t uid[2] = {};         // no two memory files have the same
};
inline constexpr uint64_t kTagBytes = 4096;

MemoryTag MakeTag(const Driver& driver, uint32_t kind, int device, uint64_t bytes);
// Reads the tag of a program's descriptor; false when it is none of ours or its card is not visible
// here. `device` is its ordinal.
bool ReadTag(const Driver& driver, int fd, MemoryTag* tag, int* device);

// Peers (peer.cc): whether two devices can reach each other's memory at all.
bool PeerCapable(const Driver& driver, int a, int b);

}  // namespace simgpu
