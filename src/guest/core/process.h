// Everything this library knows about the process it lives in, and its ties to the node: attaching
// to a slice, asking what the driver really holds, charging and giving back.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "guest/core/ledger.h"
#include "guest/core/pool_hold.h"
#include "guest/core/table.h"
#include "guest/core/turns.h"
#include "wire/messages.h"
#include "wire/pages.h"

namespace tessera::guest {

inline constexpr uint32_t kGuestVersion = 1;
inline constexpr uint32_t kDevicesMax = 64;  // driver ordinals looked at
#if defined(__aarch64__)
inline constexpr size_t kPageBytes = 65536;  // the largest page such a kernel may use
#else
inline constexpr size_t kPageBytes = 4096;
#endif
inline constexpr uint64_t kSettlePauseNanos =
    10'000'000'000;  // after a node that did not answer in time

// Why a process has no slice.
enum class AttachResult : uint32_t {
  kAttached,
  kNoNode,     // no socket, or nobody behind it
  kSilent,     // a node that did not answer within kReplyWaitMillis
  kNoSlice,    // the node says this process belongs to none
  kFull,       // kProcessesMax processes live in the slice
  kVersion,    // pages or messages of another version
  kClosed,     // the slice was taken back
  kNoMemory,   // the pages could not be mapped
  kOwnLimits,  // limits in the environment that mean nothing or cannot be held
};

// Where a driver ordinal stands.
enum DeviceState : uint8_t { kDeviceUnknown = 0, kDeviceForeign = 1, kDeviceOurs = 2 };
struct Device {
  uint8_t state;
  uint8_t card;
  // The primary context, by our count: 0 none, 1 some thread is making it, 2 charged.
  uint32_t primary;
  uint32_t retains;
  uint32_t context;  // our id of it
  uint64_t handle;   // the driver's
};

// Arrays that were charged nothing, because the driver put them into a granule that other memory of
// this process had taken: once that memory is freed, the granule is theirs and must stay charged.
struct Riders {
  uint32_t count;  // of them, living. Atomic
  uint32_t reserved;
  uint64_t held;   // kept in the ledger when granules were freed, in case it is theirs. Atomic
  uint64_t asked;  // monotonic time at which the driver's figure was last asked for because of it
};
inline constexpr uint64_t kRidersPauseNanos = 10'000'000;  // between two such questions

// Lives in memory the kernel wipes in a forked child (MADV_WIPEONFORK): a child starts from zero,
// attaches again on first use under its own identity, and never touches its parent's slot. All-zero
// is the state before the first use. Thread-safety: members are words read with atomics, or guard
// themselves.
struct alignas(kPageBytes) Process {
  // Hot: read by every launch and allocation.
  wire::ProcessSlot* slot;  // null: not attached
  const wire::ControlPage* control;
  const uint32_t*
      gate;  // the turn word of the only card; of several cards one that says whether any is shut
  uint32_t granule_shift;
  uint32_t card_count;
  uint32_t sole_context;  // id of the only live context of the process; 0: none or several
  uint32_t any_riders;    // arrays that ride, of all cards
  Ledger ledger;

  uint32_t attach_word;    // 0 not attached, 1 a thread is at it, 2 attached
  uint32_t next_context;   // ids given out so far
  uint64_t settle_paused;  // monotonic nanoseconds until which the node is not asked
  uint32_t said;           // bit per AttachResult already explained on stderr
  uint32_t devices_known;
  uint32_t standalone;  // 1: no node, the pages are the user's own
  Lock settle_lock;     // one settlement at a time
  Lock context_lock;    // the counts below
  uint32_t live_contexts;
  Device devices[kDevicesMax];
  AllocationTable allocations;
  ObjectTable objects;
  uint32_t pools_used;   // something was allocated from a pool
  uint32_t graphs_used;  // a graph was given a node that allocates
  // Id of a context that is charged by the node's measure yet; 0: none.
  uint32_t unsettled[wire::kCardsMax];
  Riders riders[wire::kCardsMax];
  PoolHold pools[wire::kCardsMax];
  Turns turns;
};

extern "C" Process tessera_process __attribute__((visibility("hidden")));
inline constexpr Process& process = tessera_process;

inline bool Attached() { return __atomic_load_n(&process.slot, __ATOMIC_ACQUIRE) != nullptr; }

// Attaches on first use; every later call is one load. Says on stderr, once a reason, why it
// failed.
AttachResult AttachSlow();
inline bool EnsureAttached() {
  return __builtin_expect(Attached(), 1) || AttachSlow() == AttachResult::kAttached;
}

// Asks the node what the driver holds for this process on a card. False: it cannot tell.
bool AskReal(uint32_t card, uint64_t* bytes);

// After something was charged by estimate and made by the driver: compares the ledger with what the
// driver really holds and corrects `*charged`, the estimate, upwards (reserving) or downwards
// (giving back). Downwards only when nothing else of this process was in flight on the card, so
// that the difference is surely this object's. False: the real size does not fit the slice; the
// caller undoes what it made and gives back *charged. `slack` is charged on purpose before the
// driver takes it (graphs ahead of their launch). With `surplus` a correction downwards is not done
// but told, and may be more than *charged, for a caller that must first see whether the slack is
// still the same.
bool Settle(uint32_t card, uint64_t* charged, uint64_t slack = 0, uint64_t* surplus = nullptr);

// The value of an environment variable, or null.
const char* Variable(const char* name);

// Builds CUDA_VISIBLE_DEVICES for the slice from what the program asked for: indices count the
// slice's cards, UUIDs must be the slice's, the list ends at the first stranger as it does in the
// driver. Null asks for all. Returns the length without NUL; the text is cut at an entry boundary
// if `capacity` is too small.
size_t VisibleDevices(const wire::ControlPage& control, const char* asked, char* text,
                      size_t capacity);
// Puts the list into the environment before the driver first reads it.
void SetVisibleDevices();
// In spatial isolation: the process asks the MPS server for what its slice has of the card now,
// whatever it was started with. Before the driver reads the variable, so at the first cuInit.
void SetMpsPercentage();

// Compares two UUID texts by their hexadecimal digits, with or without the "GPU-" prefix.
bool SameUuid(const char* a, const char* b);
// The card of the slice with this UUID, or -1.
int CardOfUuid(const wire::ControlPage& control, const char* uuid);

}  // namespace tessera::guest
