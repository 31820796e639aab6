// Stream-ordered memory: pools, and the memory nodes of graphs.
//
// A pool takes whole granules of its device and hands out parts of them, rounded up to 512 bytes.
// What is freed stays the pool's (and counted in the card's use) until a synchronisation finds the
// pool holding more than its release threshold; then free granules go back, highest addresses
// first. An address is chosen when a call makes it; memory is freed when its stream gets there. In
// between, the same stream may have the memory again at once; others when the free is done
// (reuse-allow-opportunistic) or, when the pool cannot grow, behind it (reuse-allow-internal-
// dependencies). Reuse that follows event dependencies comes out as one of these two.
//
// Pools whose memory can be exported have an address range and a memory file of their own, which
// is what their file descriptor shows to others; all other memory is the device's.
//
// Everything with Driver::mutex held unless it says otherwise.
#pragma once

#include <map>
#include <memory>

#include "simgpu/driver/driver.h"
#include "simgpu/driver/work.h"

namespace simgpu {

inline constexpr size_t kPoolsMax = 1024;  // of one process, destroyed ones still in use included

// Memory whose free is queued, or done and not yet for everybody to have.
struct PendingFree {
  uint64_t stream = 0;  // Stream::id
  uint64_t bytes = 0;
  CommandRef free;  // done when the memory is free
  bool done = false;
};

struct Pool : Object {
  Pool() : Object(Kind::kPool) {}
  int device = 0;
  bool is_default = false;
  bool imported = false;  // allocates nothing; holds what cuMemPoolImportPointer maps
  bool destroyed = false;
  CUmemPoolProps props{};
  uint64_t uid[2] = {};          // of its memory file, for exports
  std::unique_ptr<Arena> arena;  // of its own; null: the device's
  uint64_t max_bytes = 0;        // 0: the card's memory
  uint64_t threshold = 0;
  uint64_t reserved = 0, reserved_high = 0;  // whole granules
  uint64_t used = 0, used_high = 0;
  bool reuse[3] = {true, true, true};  // event dependencies, opportunistic, internal dependencies
  uint8_t access[kCardsMax] = {};      // by device; its own is always read and write
  FreeRuns free_runs;                  // addresses, for anybody
  std::map<uint64_t, PendingFree> pending;  // by address of the allocation
  // Frees to come that concern nobody: their memory was handed on before they were done.
  std::map<uint64_t, uint32_t> passed_on;
  uint32_t imports = 0;  // imported: pointers in use
};

Arena* ArenaOf(const Driver& driver, const Pool& pool);
// Gives free granules back while the pool holds more than `keep` bytes.
void TrimPool(Driver* driver, Pool* pool, uint64_t keep);
// A stream, an event or a context was waited for: pools above their threshold shrink. Mutex free.
void PoolsAtSync(Driver* driver);
// The device's last context is gone: so is all pooled memory.
void ReleasePooled(Driver* driver, int device);

// What the actions of stream-ordered memory do when their moment comes. Mutex free. An address that
// no longer means what it did is nobody's error: its context is gone.
void BeginLife(Driver* driver, const AllocAction& action);
void EndLife(Driver* driver, const FreeAction& action);

// Memory nodes. A node has its address from its making to its end. A launch takes the memory its
// node needs of the card beforehand, so that it can say no; BeginLife then cannot fail.
// EndLife (in the graph, by cuMemFreeAsync or by cuMemFree) takes the memory away. What graphs
// no longer use stays reserved for graphs until TrimGraphMemory; the sums are UseByGraphs.
CUresult ReserveGraphMemory(Driver* driver, int device, uint64_t bytes, uint64_t* address);
void DropGraphMemory(Driver* driver, uint64_t address);
CUresult TakeGraphMemory(Driver* driver, uint64_t address);
bool GraphMemoryLives(const Driver& driver, uint64_t address);
void TrimGraphMemory(Driver* driver, int device);
inline GraphMemoryUse* UseByGraphs(Driver* driver, int device) {
  return &driver->devices[device]->graphs;
}

// Used by the calls in pool_api.cc.
CUresult NewPool(Driver* driver, const CUmemPoolProps& props, Pool** pool);
void NewDefaultPool(Driver* driver, int device);
// A destroyed pool goes once nothing of it is in use.
void DropPoolIfUnused(Driver* driver, Pool* pool);
// Memory for an allocation in that stream. With `behind` the stream must first wait for that
// command; with `wait` instead of success the caller waits for it (mutex free) and asks again.
CUresult TakeFromPool(Driver* driver, Pool* pool, const Stream& stream, uint64_t bytes,
                      uint64_t* address, CommandRef* behind, CommandRef* wait);
// Frees pooled or imported memory at once. The iterator is gone after that.
void FreePooled(Driver* driver, std::map<uint64_t, Allocation>::iterator at);

}  // namespace simgpu
