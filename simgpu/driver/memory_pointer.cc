// Questions about pointers.
#include <string.h>

#include "abi/cuda_memory.h"
#include "simgpu/driver/memory.h"
#include "simgpu/driver/pool.h"
#include "simgpu/driver/vmm.h"

namespace simgpu {
namespace {

template <typename T>
CUresult Answer(void* data, T value) {
  memcpy(data, &value, sizeof(T));
  return CUDA_SUCCESS;
}

// What handle types the memory's pool or creation allowed.
unsigned long long HandleTypes(const Allocation& memory) {
  if (memory.physical != nullptr) return memory.physical->prop.requestedHandleTypes;
  if (memory.memory_kind == MemoryKind::kPooled) return memory.pool->props.handleTypes;
  return CU_MEM_HANDLE_TYPE_NONE;
}

// One attribute of what the address points into. `neutral`: answer ordinary host memory with
// neutral values instead of an error.
CUresult Attribute(const Driver& driver, const Context* current, uint64_t address,
                   CUpointer_attribute attribute, void* data, bool neutral) {
  const Allocation* memory = FindAllocation(driver, address);
  const HostRange* host = memory == nullptr ? FindHost(driver, address) : nullptr;
  const bool known = memory != nullptr || host != nullptr;
  // Addresses that are reserved and not mapped are known by their range alone.
  const AddressRange* range = nullptr;
  uint64_t range_base = 0;
  if (auto after = driver.ranges.upper_bound(address); after != driver.ranges.begin()) {
    auto at = std::prev(after);
    if (at->second.program && address - at->first < at->second.bytes) {
      range_base = at->first;
      range = &at->second;
    }
  }
  const bool managed = memory != nullptr && memory->memory_kind == MemoryKind::kManaged;
  const Context* context = memory != nullptr ? memory->context
                           : host != nullptr ? host->context
                                             : nullptr;
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
      if (range != nullptr) return Answer<CUdeviceptr>(data, range_base);
      break;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
      if (range != nullptr) return Answer<size_t>(data, range->bytes);
      break;
    case CU_POINTER_ATTRIBUTE_MAPPED:
      if (range != nullptr) return Answer<unsigned int>(data, memory != nullptr ? 1 : 0);
      break;
    default:
      break;
  }
  if (!known && !neutral) return CUDA_ERROR_INVALID_VALUE;
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
      return Answer<const void*>(data, context);
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      return Answer<unsigned int>(data, memory != nullptr ? CU_MEMORYTYPE_DEVICE
                                        : host != nullptr ? CU_MEMORYTYPE_HOST
                                                          : 0u);
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
      // Where kernels of the current context cannot go there is no device pointer.
      if (memory != nullptr && current != nullptr && AccessOf(driver, current, *memory) == 0) {
        return neutral ? Answer<CUdeviceptr>(data, 0) : CUDA_ERROR_INVALID_VALUE;
      }
      return Answer<CUdeviceptr>(data, known ? address : 0);
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
      if (host != nullptr || managed) return Answer(data, address);
      return neutral ? Answer<uint64_t>(data, 0) : CUDA_ERROR_INVALID_VALUE;
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
      // Synchronous operations always synchronise here.
      return Answer<unsigned int>(data, known ? 1 : 0);
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
      return Answer<unsigned long long>(data, memory != nullptr ? memory->id : 0);
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
      return Answer<unsigned int>(data, managed ? 1 : 0);
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
      return Answer<int>(data, memory != nullptr    ? memory->device
                               : context != nullptr ? context->device
                                                    : kDeviceInvalid);
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
      return Answer<unsigned int>(data,
                                  memory != nullptr && (memory->memory_kind == MemoryKind::kLarge ||
                                                        memory->memory_kind == MemoryKind::kSmall)
                                      ? 1
                                      : 0);
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
    case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
      return Answer<CUdeviceptr>(data, memory != nullptr ? memory->base
                                       : host != nullptr ? host->base
                                                         : 0);
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
    case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
      return Answer<size_t>(data, memory != nullptr ? memory->size
                                  : host != nullptr ? host->size
                                                    : 0);
    case CU_POINTER_ATTRIBUTE_MAPPED:
      return Answer<unsigned int>(data, known ? 1 : 0);
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
      return Answer<unsigned long long>(data, memory != nullptr ? HandleTypes(*memory) : 0);
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
    case CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE:
      return Answer<unsigned int>(data, 0);
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS: {
      unsigned int flags = 0;
      if (memory != nullptr && current != nullptr) flags = AccessOf(driver, current, *memory);
      if (host != nullptr) {
        const bool read_only =
            host->mapped == 0 && (host->flags & CU_MEMHOSTREGISTER_READ_ONLY) != 0;
        flags = read_only ? CU_MEM_ACCESS_FLAGS_PROT_READ : CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
      }
      return Answer(data, flags);
    }
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE: {
      // A destroyed pool has no handle, whatever still comes from it.
      const Pool* pool = memory != nullptr ? memory->pool : nullptr;
      return Answer<const void*>(data, pool != nullptr && !pool->destroyed ? pool : nullptr);
    }
    case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID:
      return Answer<unsigned long long>(data, memory == nullptr             ? 0
                                              : memory->physical != nullptr ? memory->physical->id
                                                                            : memory->id);
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

}  // namespace
}  // namespace simgpu

namespace tessera::abi {
using namespace simgpu;  // NOLINT

extern "C" {

CUresult cuPointerGetAttribute(void* data, CUpointer_attribute attribute, CUdeviceptr address) {
  SIMGPU_DRIVER(driver);
  if (data == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Context* current = nullptr;
  if (Current(&driver, &current) != CUDA_SUCCESS) current = nullptr;
  std::lock_guard guard(driver->mutex);
  return Attribute(*driver, current, address, attribute, data, false);
}

CUresult cuPointerGetAttributes(unsigned int count, CUpointer_attribute* attributes, void** data,
                                CUdeviceptr address) {
  SIMGPU_DRIVER(driver);
  if (count == 0 || attributes == nullptr || data == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Context* current = nullptr;
  if (Current(&driver, &current) != CUDA_SUCCESS) current = nullptr;
  std::lock_guard guard(driver->mutex);
  for (unsigned int i = 0; i < count; ++i) {
    if (data[i] == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (CUresult bad = Attribute(*driver, current, address, attributes[i], data[i], true)) {
      return bad;
    }
  }
  return CUDA_SUCCESS;
}

// Synchronous operations synchronise always, so the one attribute that can be set has no effect but
// its checks.
CUresult cuPointerSetAttribute(const void* value, CUpointer_attribute attribute,
                               CUdeviceptr address) {
  SIMGPU_DRIVER(driver);
  if (value == nullptr || attribute != CU_POINTER_ATTRIBUTE_SYNC_MEMOPS) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  std::lock_guard guard(driver->mutex);
  return FindAllocation(*driver, address) != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemGetAddressRange_v2(CUdeviceptr* base, size_t* bytes, CUdeviceptr address) {
  SIMGPU_CURRENT(driver, context);
  std::lock_guard guard(driver->mutex);
  const Allocation* found = FindAllocation(*driver, address);
  if (found == nullptr) return CUDA_ERROR_NOT_FOUND;
  if (base != nullptr) *base = found->base;
  if (bytes != nullptr) *bytes = found->size;
  return CUDA_SUCCESS;
}

}  // extern "C"
}  // namespace tessera::abi
