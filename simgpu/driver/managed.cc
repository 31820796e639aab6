// Managed memory: advice, prefetching and questions about ranges.
//
// The bytes of managed memory are in one place that host and devices share, so advice and
// prefetching change nothing but what is answered about them; a prefetch takes its turn in its
// stream. Advice is kept by whole pages.
#include <string.h>
#include <unistd.h>

#include <algorithm>

#include "abi/cuda_memory.h"
#include "simgpu/driver/memory.h"
#include "simgpu/driver/work.h"

namespace simgpu {
namespace {

constexpr uint64_t kPage = 4096;
constexpr size_t kAdvicePiecesMax = 65'536;  // of one allocation

using Pieces = std::map<uint64_t, ManagedAdvice>;

bool Same(const CUmemLocation& a, const CUmemLocation& b) {
  return a.type == b.type && (a.id == b.id || a.type == CU_MEM_LOCATION_TYPE_HOST);
}

// The managed allocation that holds all of the range, or null.
const Allocation* ManagedRange(const Driver& driver, uint64_t address, uint64_t bytes) {
  const Allocation* found = FindAllocation(driver, address);
  if (found == nullptr || found->memory_kind != MemoryKind::kManaged || found->freeing ||
      bytes > found->size - (address - found->base)) {
    return nullptr;
  }
  return found;
}

// Cuts the piece that spans `at` in two there.
void Cut(Pieces* pieces, uint64_t at) {
  auto after = pieces->upper_bound(at);
  if (after == pieces->begin()) return;
  auto piece = std::prev(after);
  if (piece->first == at || piece->first + piece->second.bytes <= at) return;
  ManagedAdvice rest = piece->second;
  rest.bytes = piece->first + piece->second.bytes - at;
  piece->second.bytes = at - piece->first;
  pieces->emplace(at, rest);
}

// Changes what was advised about the pages of a range.
template <typename Change>
CUresult Advise(Driver* driver, const Allocation& memory, uint64_t address, uint64_t bytes,
                Change change) {
  Pieces& pieces = driver->managed[memory.base];
  if (pieces.empty()) pieces.emplace(memory.base, ManagedAdvice{.bytes = memory.capacity});
  if (pieces.size() + 2 > kAdvicePiecesMax) {
    Say("advice on one managed allocation falls into more than kAdvicePiecesMax = " +
        std::to_string(kAdvicePiecesMax) + " pieces");
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  const uint64_t first = address / kPage * kPage;
  const uint64_t end = RoundUp(address + bytes, kPage);
  Cut(&pieces, first);
  Cut(&pieces, end);
  for (auto at = pieces.lower_bound(first); at != pieces.end() && at->first < end; ++at) {
    change(&at->second);
  }
  return CUDA_SUCCESS;
}

CUmemLocation LocationOf(CUdevice device) {
  if (device == kDeviceCpu) return {CU_MEM_LOCATION_TYPE_HOST, 0};
  return {CU_MEM_LOCATION_TYPE_DEVICE, device};
}

CUresult CheckLocation(const Driver& driver, const CUmemLocation& location) {
  switch (location.type) {
    case CU_MEM_LOCATION_TYPE_DEVICE:
      return location.id >= 0 && static_cast<size_t>(location.id) < driver.devices.size()
                 ? CUDA_SUCCESS
                 : CUDA_ERROR_INVALID_DEVICE;
    case CU_MEM_LOCATION_TYPE_HOST:
      return CUDA_SUCCESS;
    case CU_MEM_LOCATION_TYPE_HOST_NUMA:
    case CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT:
      return CUDA_ERROR_NOT_SUPPORTED;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult AdviseAt(CUdeviceptr address, size_t bytes, CUmem_advise advice, CUmemLocation location) {
  SIMGPU_DRIVER(driver);
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  const bool placed = advice == CU_MEM_ADVISE_SET_PREFERRED_LOCATION ||
                      advice == CU_MEM_ADVISE_SET_ACCESSED_BY ||
                      advice == CU_MEM_ADVISE_UNSET_ACCESSED_BY;
  if (placed) {
    if (CUresult bad = CheckLocation(*driver, location)) return bad;
  }
  std::lock_guard guard(driver->mutex);
  const Allocation* memory = ManagedRange(*driver, address, bytes);
  if (memory == nullptr) return CUDA_ERROR_INVALID_VALUE;
  auto accessed = [&](bool set) {
    return Advise(driver, *memory, address, bytes, [&](ManagedAdvice* piece) {
      if (location.type == CU_MEM_LOCATION_TYPE_HOST) {
        piece->accessed_by_host = set;
      } else if (set) {
        piece->accessed_by |= 1u << location.id;
      } else {
        piece->accessed_by &= ~(1u << location.id);
      }
    });
  };
  switch (advice) {
    case CU_MEM_ADVISE_SET_READ_MOSTLY:
    case CU_MEM_ADVISE_UNSET_READ_MOSTLY:
      return Advise(driver, *memory, address, bytes, [&](ManagedAdvice* piece) {
        piece->read_mostly = advice == CU_MEM_ADVISE_SET_READ_MOSTLY;
      });
    case CU_MEM_ADVISE_SET_PREFERRED_LOCATION:
      return Advise(driver, *memory, address, bytes,
                    [&](ManagedAdvice* piece) { piece->preferred = location; });
    case CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION:
      return Advise(driver, *memory, address, bytes,
                    [](ManagedAdvice* piece) { piece->preferred = {}; });
    case CU_MEM_ADVISE_SET_ACCESSED_BY:
      return accessed(true);
    case CU_MEM_ADVISE_UNSET_ACCESSED_BY:
      return accessed(false);
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

struct Prefetch {
  uint64_t address = 0;
  uint64_t bytes = 0;
  CUmemLocation location{};
};

// All or none of them.
CUresult PrefetchIn(const std::vector<Prefetch>& wanted, CUstream stream_handle, StreamForm form) {
  SIMGPU_CURRENT(driver, context);
  {
    std::lock_guard guard(driver->mutex);
    Stream* stream = nullptr;
    if (CUresult bad = FindStream(driver, context, stream_handle, form, &stream)) return bad;
    for (const Prefetch& one : wanted) {
      if (one.bytes == 0) return CUDA_ERROR_INVALID_VALUE;
      if (CUresult bad = CheckLocation(*driver, one.location)) return bad;
      if (ManagedRange(*driver, one.address, one.bytes) == nullptr) {
        return CUDA_ERROR_INVALID_VALUE;
      }
    }
    for (const Prefetch& one : wanted) {
      const Allocation* memory = ManagedRange(*driver, one.address, one.bytes);
      if (CUresult bad = Advise(driver, *memory, one.address, one.bytes,
                                [&](ManagedAdvice* piece) { piece->prefetched = one.location; })) {
        return bad;
      }
    }
  }
  return Put(stream_handle, form, EmptyAction{});
}

// The ranges of a batch: location i is for the ranges from locationsAt[i] on.
CUresult Batch(CUdeviceptr* addresses, size_t* sizes, size_t count, CUmemLocation* locations,
               size_t* locations_at, size_t location_count, unsigned long long flags,
               std::vector<Prefetch>* wanted) {
  if (addresses == nullptr || sizes == nullptr || count == 0 || locations == nullptr ||
      locations_at == nullptr || location_count == 0 || location_count > count || flags != 0 ||
      locations_at[0] != 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  size_t location = 0;
  for (size_t i = 1; i < location_count; ++i) {
    if (locations_at[i] <= locations_at[i - 1] || locations_at[i] >= count) {
      return CUDA_ERROR_INVALID_VALUE;
    }
  }
  for (size_t i = 0; i < count; ++i) {
    while (location + 1 < location_count && locations_at[location + 1] <= i) ++location;
    wanted->push_back({addresses[i], sizes[i], locations[location]});
  }
  return CUDA_SUCCESS;
}

CUresult PrefetchBatch(CUdeviceptr* addresses, size_t* sizes, size_t count,
                       CUmemLocation* locations, size_t* locations_at, size_t location_count,
                       unsigned long long flags, CUstream stream, StreamForm form) {
  std::vector<Prefetch> wanted;
  if (CUresult bad =
          Batch(addresses, sizes, count, locations, locations_at, location_count, flags, &wanted)) {
    return Get() == nullptr ? CUDA_ERROR_NOT_INITIALIZED : bad;
  }
  return PrefetchIn(wanted, stream, form);
}

CUresult Attach(CUstream stream_handle, StreamForm form, CUdeviceptr address, size_t length,
                unsigned int flags) {
  SIMGPU_CURRENT(driver, context);
  if (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST &&
      flags != CU_MEM_ATTACH_SINGLE) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  {
    std::lock_guard guard(driver->mutex);
    Stream* stream = nullptr;
    if (CUresult bad = FindStream(driver, context, stream_handle, form, &stream)) return bad;
    // A single stream must be one: the default stream stands for all.
    if (flags == CU_MEM_ATTACH_SINGLE && stream == context->legacy) return CUDA_ERROR_INVALID_VALUE;
    const Allocation* memory = FindAllocation(*driver, address);
    if (memory == nullptr || memory->memory_kind != MemoryKind::kManaged ||
        memory->base != address || (length != 0 && length != memory->size)) {
      return CUDA_ERROR_INVALID_VALUE;
    }
  }
  // Devices access managed memory while the host does, so that it is attached constrains nobody.
  return Put(stream_handle, form, EmptyAction{});
}

// One answer about a range: that of its pages if they agree.
CUresult RangeAttribute(const Driver& driver, void* data, size_t bytes,
                        CUmem_range_attribute attribute, uint64_t address, uint64_t count) {
  const Allocation* memory = ManagedRange(driver, address, count);
  if (data == nullptr || count == 0 || memory == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const ManagedAdvice nothing{.bytes = memory->capacity};
  std::vector<const ManagedAdvice*> pieces;
  if (auto found = driver.managed.find(memory->base); found != driver.managed.end()) {
    auto at = found->second.upper_bound(address);
    if (at != found->second.begin()) --at;
    for (; at != found->second.end() && at->first < address + count; ++at) {
      pieces.push_back(&at->second);
    }
  }
  if (pieces.empty()) pieces.push_back(&nothing);
  auto agreed = [&](CUmemLocation ManagedAdvice::* member) {
    CUmemLocation location = pieces[0]->*member;
    for (const ManagedAdvice* piece : pieces) {
      if (!Same(piece->*member, location)) location = {};
    }
    return location;
  };
  auto as_device = [](const CUmemLocation& location) {
    return location.type == CU_MEM_LOCATION_TYPE_DEVICE ? location.id
           : location.type == CU_MEM_LOCATION_TYPE_HOST ? kDeviceCpu
                                                        : kDeviceInvalid;
  };
  auto answer = [&](int value) {
    if (bytes != sizeof value) return CUDA_ERROR_INVALID_VALUE;
    memcpy(data, &value, sizeof value);
    return CUDA_SUCCESS;
  };
  switch (attribute) {
    case CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY:
      return answer(std::ranges::all_of(pieces, &ManagedAdvice::read_mostly) ? 1 : 0);
    case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION:
      return answer(as_device(agreed(&ManagedAdvice::preferred)));
    case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION:
      return answer(as_device(agreed(&ManagedAdvice::prefetched)));
    case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_TYPE:
      return answer(static_cast<int>(agreed(&ManagedAdvice::preferred).type));
    case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_ID:
      return answer(agreed(&ManagedAdvice::preferred).id);
    case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_TYPE:
      return answer(static_cast<int>(agreed(&ManagedAdvice::prefetched).type));
    case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_ID:
      return answer(agreed(&ManagedAdvice::prefetched).id);
    case CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY: {
      // A list of devices that all pages are accessed by, filled up with none.
      if (bytes == 0 || bytes % sizeof(int) != 0) return CUDA_ERROR_INVALID_VALUE;
      uint32_t devices = ~0u;
      bool host = true;
      for (const ManagedAdvice* piece : pieces) {
        devices &= piece->accessed_by;
        host = host && piece->accessed_by_host;
      }
      std::vector<int> list;
      if (host) list.push_back(kDeviceCpu);
      for (int i = 0; i < static_cast<int>(driver.devices.size()); ++i) {
        if ((devices >> i & 1) != 0) list.push_back(i);
      }
      list.resize(bytes / sizeof(int), kDeviceInvalid);
      memcpy(data, list.data(), bytes);
      return CUDA_SUCCESS;
    }
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

}  // namespace
}  // namespace simgpu

namespace tessera::abi {
using namespace simgpu;  // NOLINT

extern "C" {

CUresult cuMemAdvise(CUdeviceptr address, size_t bytes, CUmem_advise advice, CUdevice device) {
  return AdviseAt(address, bytes, advice, LocationOf(device));
}

CUresult cuMemAdvise_v2(CUdeviceptr address, size_t bytes, CUmem_advise advice,
                        CUmemLocation location) {
  return AdviseAt(address, bytes, advice, location);
}

CUresult cuMemPrefetchAsync(CUdeviceptr address, size_t bytes, CUdevice device, CUstream stream) {
  return PrefetchIn({{address, bytes, LocationOf(device)}}, stream, StreamForm::kLegacy);
}
CUresult cuMemPrefetchAsync_ptsz(CUdeviceptr address, size_t bytes, CUdevice device,
                                 CUstream stream) {
  return PrefetchIn({{address, bytes, LocationOf(device)}}, stream, StreamForm::kPerThread);
}
CUresult cuMemPrefetchAsync_v2(CUdeviceptr address, size_t bytes, CUmemLocation location,
                               unsigned int flags, CUstream stream) {
  if (flags != 0) return Get() == nullptr ? CUDA_ERROR_NOT_INITIALIZED : CUDA_ERROR_INVALID_VALUE;
  return PrefetchIn({{address, bytes, location}}, stream, StreamForm::kLegacy);
}
CUresult cuMemPrefetchAsync_v2_ptsz(CUdeviceptr address, size_t bytes, CUmemLocation location,
                                    unsigned int flags, CUstream stream) {
  if (flags != 0) return Get() == nullptr ? CUDA_ERROR_NOT_INITIALIZED : CUDA_ERROR_INVALID_VALUE;
  return PrefetchIn({{address, bytes, location}}, stream, StreamForm::kPerThread);
}

CUresult cuMemPrefetchBatchAsync(CUdeviceptr* addresses, size_t* sizes, size_t count,
                                 CUmemLocation* locations, size_t* locations_at,
                                 size_t location_count, unsigned long long flags, CUstream stream) {
  return PrefetchBatch(addresses, sizes, count, locations, locations_at, location_count, flags,
                       stream, StreamForm::kLegacy);
}
CUresult cuMemPrefetchBatchAsync_ptsz(CUdeviceptr* addresses, size_t* sizes, size_t count,
                                      CUmemLocation* locations, size_t* locations_at,
                                      size_t location_count, unsigned long long flags,
                                      CUstream stream) {
  return PrefetchBatch(addresses, sizes, count, locations, locations_at, location_count, flags,
                       stream, StreamForm::kPerThread);
}

CUresult cuStreamAttachMemAsync(CUstream stream, CUdeviceptr address, size_t length,
                                unsigned int flags) {
  return Attach(stream, StreamForm::kLegacy, address, length, flags);
}
CUresult cuStreamAttachMemAsync_ptsz(CUstream stream, CUdeviceptr address, size_t length,
                                     unsigned int flags) {
  return Attach(stream, StreamForm::kPerThread, address, length, flags);
}

CUresult cuMemRangeGetAttribute(void* data, size_t bytes, CUmem_range_attribute attribute,
                                CUdeviceptr address, size_t count) {
  SIMGPU_DRIVER(driver);
  std::lock_guard guard(driver->mutex);
  return RangeAttribute(*driver, data, bytes, attribute, address, count);
}

CUresult cuMemRangeGetAttributes(void** data, size_t* sizes, CUmem_range_attribute* attributes,
                                 size_t attribute_count, CUdeviceptr address, size_t count) {
  SIMGPU_DRIVER(driver);
  if (data == nullptr || sizes == nullptr || attributes == nullptr || attribute_count == 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  std::lock_guard guard(driver->mutex);
  for (size_t i = 0; i < attribute_count; ++i) {
    if (CUresult bad = RangeAttribute(*driver, data[i], sizes[i], attributes[i], address, count)) {
      return bad;
    }
  }
  return CUDA_SUCCESS;
}

}  // extern "C"
}  // namespace tessera::abi
