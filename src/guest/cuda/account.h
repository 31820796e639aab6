// What the hand-written wrappers share: which card and context a call concerns, and charging it.
#pragma once

#include <stdint.h>

#include "guest/core/text.h"
#include "guest/cuda/entries.h"

namespace tessera::guest {

// Where a call of this thread lands.
struct Place {
  abi::CUresult error;
  uint32_t card;
  uint32_t context;  // our id, 0 when we do not know the context
};

// The card of the current context. A slice of one card needs no question: contexts elsewhere are
// refused.
Place FindPlace();
Place FindPlaceSlow();

// The slice's card behind a driver ordinal, or -1 for a card that is not the slice's.
int CardOfDevice(abi::CUdevice device);

inline uint64_t Granule() { return 1ull << process.granule_shift; }

inline Place FindPlace() {
  const uint32_t context = __atomic_load_n(&process.sole_context, __ATOMIC_RELAXED);
  if (__builtin_expect(context != 0 && process.card_count == 1, 1)) {
    return {abi::CUDA_SUCCESS, 0, context};
  }
  return FindPlaceSlow();
}

// Not attached and not attachable: what every call that takes memory answers.
inline constexpr abi::CUresult kRefused = abi::CUDA_ERROR_NOT_PERMITTED;

// A stream as a call names it, in the legacy or the per-thread form.
struct StreamForm {
  abi::CUstream stream;
  bool per_thread;
};

// When a reservation did not fit: gives back what this process's pools and graphs keep without
// using it, and tries again. `stream`, if given, is waited for when that was not enough: what was
// freed in it may come back.
bool ReserveTrimmed(uint32_t card, uint64_t bytes, const StreamForm* stream);
inline bool ReserveOn(uint32_t card, uint64_t bytes) {
  return __builtin_expect(process.ledger.Reserve(card, bytes), 1) ||
         ReserveTrimmed(card, bytes, nullptr);
}

// Charges the pools of a card as the driver says they are now, and takes `claim` out of the claims.
// False: they hold more than the slice can have.
bool SettlePools(uint32_t card, uint64_t claim);
// The same for all cards, when a pool may have changed behind us.
void SettleAllPools();
// The memory of graphs: `wanted` a card for a graph about to become executable.
struct GraphClaim {
  uint64_t bytes[wire::kCardsMax];
};
abi::CUresult ClaimGraph(abi::CUgraph graph, GraphClaim* claim);
void KeepGraph(uint64_t exec, uint32_t context, const GraphClaim& claim);
void DropClaim(const GraphClaim& claim);
// An executable graph is gone: what it may have left stays charged until a trim.
void ForgetGraph(const Object& memory);
void SettleGraphs(uint32_t card);
// Gives graph memory no graph uses back to the card.
void TrimGraphs(uint32_t card);

// A driver ordinal of the card, or -1.
int OrdinalOfCard(uint32_t card);
// Charged and not taken by the driver.
uint64_t GraphSlack(uint32_t card);
uint64_t SlackSlow(uint32_t card);
inline uint64_t Slack(uint32_t card) {
  return __builtin_expect(!process.pools[card].Differs(), 1) ? 0 : SlackSlow(card);
}
// Charged to an object and not counted by the driver for this process: more or less of it.
inline void AddAhead(uint32_t card, uint64_t bytes) {
  __atomic_fetch_add(&process.pools[card].ahead, bytes, __ATOMIC_RELAXED);
}
// Lets go of what is held for riders and not theirs, by the driver's figure.
void SettleRiders(uint32_t card);
// Counts an array among the riders of its card, or no more.
void CountRider(uint32_t card, int change);
inline bool HoldsForRiders(uint32_t card) {
  return __atomic_load_n(&process.riders[card].held, __ATOMIC_RELAXED) != 0;
}

// What freed linear memory leaves. Beside riders one granule of it may be theirs.
void ReleaseBesideRiders(uint32_t card, uint64_t bytes);
inline void ReleaseGranules(uint32_t card, uint64_t bytes) {
  if (__builtin_expect(__atomic_load_n(&process.any_riders, __ATOMIC_RELAXED) != 0, 0)) {
    ReleaseBesideRiders(card, bytes);
  } else {
    process.ledger.Release(card, bytes);
  }
}

// Settle, with what pools and graphs have of the charge left out of the comparison.
bool SettleObject(uint32_t card, uint64_t* charged);

// The first half of making something that the driver charges to the card, with an estimate of it
// reserved; objects.cc has the second.
struct Making {
  abi::CUresult error;
  bool counts;
  Place place;
  uint64_t charged;
};
Making Begin(const void* handle, uint64_t estimate);

// The end of what may hold external memory: a buffer or an array of it. Made before the driver ends
// it, because its address may be given to another thread at once; `End` hands the answer on.
class ExternalEnd {
 public:
  explicit ExternalEnd(uint64_t key);
  abi::CUresult End(abi::CUresult result);

 private:
  Object hold_;
};
// A multicast object is gone, and with it what was bound to it.
void UnbindAll(uint64_t multicast);
// One reference more or less to physical memory that is no handle of the program's (memory.cc).
void HoldPhysical(uint64_t handle, int64_t change);

// A new context is charged by what the node has measured, and compared with what the driver says
// only before code or another context is made on the card, or when an ask does not fit: a program
// that starts asks the node no more than it must. False: it took more than the slice can have.
bool SettleContextSlow(uint32_t card);
inline bool Unsettled(uint32_t card) {
  return __atomic_load_n(&process.unsettled[card], __ATOMIC_RELAXED) != 0 || HoldsForRiders(card);
}
inline bool SettleContext(uint32_t card) {
  return __builtin_expect(!Unsettled(card), 1) || SettleContextSlow(card);
}

// Removes everything that died with a context and gives it back.
void DropContext(uint32_t card, uint32_t context);

}  // namespace tessera::guest
