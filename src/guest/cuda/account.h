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

// Removes everything that died with a context and gives it back.
void DropContext(uint32_t card, uint32_t context);

// Makes something the driver charges to the card (`make`), charged by an estimate first and by the
// driver's own figure afterwards, and remembered under (kind, *key). When the real size does not
// fit, `unmake` is called.
template <typename Make, typename Key, typename Unmake>
inline abi::CUresult MakeCharged(ObjectKind kind, const Place& place, uint64_t estimate,
                                 const Make& make, const Key& key, const Unmake& unmake) {
  uint64_t charged = RoundUp(estimate, Granule());
  if (charged != 0 && !process.ledger.Reserve(place.card, charged)) {
    return abi::CUDA_ERROR_OUT_OF_MEMORY;
  }
  abi::CUresult result;
  {
    DepthGuard guard;
    result = make();
  }
  if (result == abi::CUDA_SUCCESS) {
    Object object = {};
    if (Settle(place.card, &charged)) {
      object.key = key();
      object.kind = kind;
      object.card = place.card;
      object.bytes = charged;
      object.context = place.context;
      if (process.objects.Put(object)) return result;
    }
    DepthGuard guard;
    unmake();
    result = abi::CUDA_ERROR_OUT_OF_MEMORY;
  }
  if (charged != 0) process.ledger.Release(place.card, charged);
  return result;
}

// Unmakes it: `call` first, and what was charged is given back only if the driver did its part.
template <typename Call>
inline abi::CUresult UnmakeCharged(ObjectKind kind, uint64_t key, const Call& call) {
  Object object;
  const bool known = Attached() && process.objects.Take(kind, key, &object);
  abi::CUresult result;
  {
    DepthGuard guard;
    result = call();
  }
  if (!known) return result;
  if (result != abi::CUDA_SUCCESS) {
    process.objects.Put(object);
  } else if (object.bytes != 0) {
    process.ledger.Release(object.card, object.bytes);
  }
  return result;
}

}  // namespace tessera::guest
