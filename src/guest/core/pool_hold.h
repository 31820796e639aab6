// What the memory pools and the graphs of this process hold on one card, as the ledger has it. The
// driver's side of it is cuda/pools.cc and cuda/graphs.cc.
#pragma once

#include <stdint.h>

#include "guest/core/lock.h"

namespace tessera::guest {

inline constexpr uint32_t kPoolsPerCardMax = 64;  // destroyed ones that still hold memory included

// A pool keeps memory after a free, so it is charged by what it holds and its pointers are in no
// table. Zero-initialised it is empty. Thread-safety: fields under `lock` but for those that say
// otherwise.
struct PoolHold {
  Lock lock;
  // Set anew with every change of the charge. Atomic: who asks the driver reads it first, and asks
  // again when it has moved.
  uint32_t settled;
  uint64_t charged;       // in the ledger for pools, `claims` included. Atomic reads anywhere
  uint64_t claims;        // for allocations the driver is serving at this moment
  uint64_t graph_claims;  // in the ledger for executable graphs. Atomic reads anywhere
  uint64_t graph_left;    // and for what destroyed ones may have left. Atomic reads anywhere
  // Charged to other entries, and not among what the driver counts for this process: memory that
  // another process made and shared, a heap that is made when a kernel first asks. Atomic.
  uint64_t ahead;
  uint32_t readers;  // threads that ask the driver about `pools`. Atomic
  uint32_t reserved;
  // CUmemoryPool, 0 for a free place; the lowest bit says that the program has destroyed it. Atomic
  // reads anywhere.
  uint64_t pools[kPoolsPerCardMax];

  // Everything in the ledger that neither the allocation table nor the object table knows.
  uint64_t Charged() const {
    return __atomic_load_n(&charged, __ATOMIC_RELAXED) +
           __atomic_load_n(&graph_claims, __ATOMIC_RELAXED) +
           __atomic_load_n(&graph_left, __ATOMIC_RELAXED);
  }
  // Whether the driver's figure and the ledger's may differ here.
  bool Differs() const { return Charged() + __atomic_load_n(&ahead, __ATOMIC_RELAXED) != 0; }
};

}  // namespace tessera::guest
