// The order of graphs' allocations and frees, and the calls about graph memory as a whole.
#include "simgpu/driver/graph_memory.h"

#include <map>

#include "simgpu/driver/graph.h"
#include "simgpu/driver/pool.h"

namespace simgpu {
namespace {

// By address. Driver::mutex.
std::map<uint64_t, std::shared_ptr<GraphMemory>>& Table() {
  static auto* table = new std::map<uint64_t, std::shared_ptr<GraphMemory>>;
  return *table;
}

// The counter of an attribute; null when there is no such one.
uint64_t* Counter(GraphMemoryUse* use, CUgraphMem_attribute attribute) {
  switch (attribute) {
    case CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT:
      return &use->used;
    case CU_GRAPH_MEM_ATTR_USED_MEM_HIGH:
      return &use->used_high;
    case CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT:
      return &use->reserved;
    case CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH:
      return &use->reserved_high;
  }
  return nullptr;
}

}  // namespace

CUresult NewGraphMemory(Driver* driver, int device, uint64_t bytes,
                        std::shared_ptr<GraphMemory>* memory) {
  SweepGraphMemory(driver);
  auto made = std::make_shared<GraphMemory>();
  if (CUresult bad = ReserveGraphMemory(driver, device, bytes, &made->address)) return bad;
  made->size = bytes;
  made->device = device;
  Table()[made->address] = made;
  *memory = std::move(made);
  return CUDA_SUCCESS;
}

std::shared_ptr<GraphMemory> FindGraphMemory(uint64_t address) {
  const auto found = Table().find(address);
  return found != Table().end() ? found->second : nullptr;
}

uint8_t* ReachInGraph(const Driver& driver, uint64_t address, uint64_t bytes, int* device) {
  auto after = driver.graph_ranges.upper_bound(address);
  if (after == driver.graph_ranges.begin()) return nullptr;
  const auto& [base, range] = *std::prev(after);
  if (address - base >= range.capacity || bytes > range.capacity - (address - base)) return nullptr;
  *device = range.device;
  return driver.devices[range.device]->arena->Host(address);
}

void SweepGraphMemory(Driver* driver) {
  for (auto at = Table().begin(); at != Table().end();) {
    if (at->second.use_count() > 1 || GraphMemoryLives(*driver, at->first)) {
      ++at;
      continue;
    }
    DropGraphMemory(driver, at->first);
    at = Table().erase(at);
  }
}

CUresult NoteGraphFree(uint64_t address) {
  const std::shared_ptr<GraphMemory> memory = FindGraphMemory(address);
  if (memory == nullptr || !memory->outstanding) return CUDA_ERROR_INVALID_VALUE;
  memory->outstanding = false;
  return CUDA_SUCCESS;
}

}  // namespace simgpu

namespace tessera::abi {
using namespace simgpu;  // NOLINT

extern "C" {

CUresult cuDeviceGraphMemTrim(CUdevice device) {
  Driver* driver = nullptr;
  if (CUresult bad = CheckDevice(device, &driver)) return bad;
  std::lock_guard guard(driver->mutex);
  SweepGraphMemory(driver);
  TrimGraphMemory(driver, device);
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetGraphMemAttribute(CUdevice device, CUgraphMem_attribute attribute,
                                      void* value) {
  Driver* driver = nullptr;
  if (CUresult bad = CheckDevice(device, &driver)) return bad;
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  const uint64_t* counter = Counter(UseByGraphs(driver, device), attribute);
  if (counter == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *static_cast<cuuint64_t*>(value) = *counter;
  return CUDA_SUCCESS;
}

CUresult cuDeviceSetGraphMemAttribute(CUdevice device, CUgraphMem_attribute attribute,
                                      void* value) {
  Driver* driver = nullptr;
  if (CUresult bad = CheckDevice(device, &driver)) return bad;
  // High-water marks only, and only back to zero: they then begin anew at what is in use.
  if (value == nullptr || *static_cast<const cuuint64_t*>(value) != 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  std::lock_guard guard(driver->mutex);
  GraphMemoryUse* use = UseByGraphs(driver, device);
  if (attribute == CU_GRAPH_MEM_ATTR_USED_MEM_HIGH) {
    use->used_high = use->used;
  } else if (attribute == CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH) {
    use->reserved_high = use->reserved;
  } else {
    return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}

}  // extern "C"

}  // namespace tessera::abi
