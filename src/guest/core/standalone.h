// A slice without a node: `LD_PRELOAD=libtessera.so` with HAMi's variables
// CUDA_DEVICE_MEMORY_LIMIT[_i] and CUDA_DEVICE_SM_LIMIT[_i]. The first process makes the two pages
// itself, and every process of the user that was started with the same settings on the same cards
// shares them by the protocol of wire/pages.h. This limits whoever agrees to be limited: the pages
// belong to the user.
//
// A compute limit is always held, unless the policy is "disable": nobody tells whether others want
// the card. One process gets its share of the time the card needs for its work. Several share one
// account; the time they work at once is counted by each of them, so together they get less than
// the share, never more. Work of strangers on the card counts as theirs, too.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "guest/core/process.h"
#include "wire/messages.h"
#include "wire/pages.h"

namespace tessera::guest {

inline constexpr uint64_t kStandaloneGranule = 2 << 20;        // CUDA's page for device memory
inline constexpr uint32_t kStandaloneWindowNanos = 1'000'000;  // work in flight of a process
inline constexpr uint64_t kStandaloneLockNanosMax =
    2'000'000'000;  // wait for the user's other processes

struct StandaloneCard {
  char uuid[wire::kUuidTextMax];
  uint64_t total_bytes;
};

// True when the environment sets a limit and no node was promised to this process: there is no
// kGuestSocket and kSocketVariable is not set. Where a node is, its slice wins.
bool StandaloneAsked();

// Answers an attach as a node would: the slot and the descriptors of both pages. A setting that
// means nothing is kOwnLimits, after a line on stderr that names the variable and what was
// expected.
AttachResult AttachStandalone(wire::Reply* reply, int* descriptors, size_t* count);

// Gives back what dead processes of the user held. Called when a reservation does not fit; true
// when something came back.
bool ReclaimStandalone();

// The settings alone, for AttachStandalone and its tests. False: `*why` says what is wrong.
class Line;
bool FillStandalone(const StandaloneCard* cards, uint32_t count, wire::ControlPage* control,
                    Line* why);

// What the driver knows, given by nvml/cards.cc: the machine's cards in the order of their PCI
// addresses (the return value counts all, `cards` has room for `most`; negative: the driver cannot
// be asked), and what a process of this pid namespace holds.
int FindStandaloneCards(StandaloneCard* cards, uint32_t most);
bool FindStandaloneHeld(const char* uuid, uint64_t pid, uint64_t* bytes);

}  // namespace tessera::guest
