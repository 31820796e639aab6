// The memory nodes of graphs, by the order of calls: which launch left what allocated.
//
// pool.h gives a node its address and its memory; here is what can be refused at once because of
// the calls before it, whatever the card has done of them so far. Driver::mutex held in all.
#pragma once

#include <memory>

#include "simgpu/driver/driver.h"

namespace simgpu {

struct Graph;

// Where an allocation node's memory lies; its free nodes, executable graphs and launches share it.
struct GraphMemory {
  uint64_t address = 0;
  uint64_t size = 0;  // as asked for
  int device = 0;
  CUmemPoolProps props{};
  uint64_t owner = 0;            // id of the graph whose node it is
  bool freed_by_owner = false;   // by a node of that graph
  bool freed_elsewhere = false;  // by a node of another graph
  bool outstanding = false;      // a launch allocated it, and no call since frees it
};

// A new one, or why not.
CUresult NewGraphMemory(Driver* driver, int device, uint64_t bytes,
                        std::shared_ptr<GraphMemory>* memory);
// The one at that address, or null.
std::shared_ptr<GraphMemory> FindGraphMemory(uint64_t address);
// Gives back addresses that no node, executable graph or program uses any more.
void SweepGraphMemory(Driver* driver);

// cuMemFree and cuMemFreeAsync of memory that is a graph's: invalid when no launch before this call
// left it allocated, or when the graph frees it itself. On success the caller sees to it that the
// memory's life ends (EndLife, or FreeAction in a stream).
CUresult NoteGraphFree(uint64_t address);

}  // namespace simgpu
