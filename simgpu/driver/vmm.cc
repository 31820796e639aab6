#include "simgpu/driver/vmm.h"

#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "abi/cuda_memory.h"
#include "simgpu/driver/capture.h"
#include "simgpu/driver/memory.h"

namespace simgpu {
namespace {

Physical* FindPhysical(const Driver& driver, CUmemGenericAllocationHandle handle) {
  // NOLINTNEXTLINE(performance-no-int-to-ptr): handles of this kind are integers
  return Live<Physical>(driver, reinterpret_cast<const void*>(handle), Kind::kPhysical);
}
Multicast* FindMulticast(const Driver& driver, CUmemGenericAllocationHandle handle) {
  // NOLINTNEXTLINE(performance-no-int-to-ptr): handles of this kind are integers
  return Live<Multicast>(driver, reinterpret_cast<const void*>(handle), Kind::kMulticast);
}
CUmemGenericAllocationHandle HandleOf(const Object* object) {
  return reinterpret_cast<CUmemGenericAllocationHandle>(object);
}

// An open file description of its own (the one that is handed out shares its locks with whoever
// gets it) that holds the charge's lock; -1 when another process holds it.
int TakeChargeLock(int fd) {
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  const int own = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (own < 0) return -1;
  if (flock(own, LOCK_EX | LOCK_NB) == 0) return own;
  close(own);
  return -1;
}

bool FdIsOurs(const Physical& physical) {
  struct stat now{};
  return fstat(physical.fd, &now) == 0 && now.st_ino == physical.file;
}

// Properties of memory that can be made, or why it cannot.
CUresult CheckProperties(const Driver& driver, const CUmemAllocationProp* prop) {
  if (prop == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (prop->type == CU_MEM_ALLOCATION_TYPE_MANAGED) return CUDA_ERROR_NOT_SUPPORTED;
  if (prop->type != CU_MEM_ALLOCATION_TYPE_PINNED) return CUDA_ERROR_INVALID_VALUE;
  switch (prop->location.type) {
    case CU_MEM_LOCATION_TYPE_DEVICE:
      break;
    case CU_MEM_LOCATION_TYPE_HOST:
    case CU_MEM_LOCATION_TYPE_HOST_NUMA:
    case CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT:
      return CUDA_ERROR_NOT_SUPPORTED;  // as the device attributes say
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
  if (prop->location.id < 0 || static_cast<size_t>(prop->location.id) >= driver.devices.size()) {
    return CUDA_ERROR_INVALID_DEVICE;
  }
  if ((prop->requestedHandleTypes & ~CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) != 0 ||
      prop->allocFlags.gpuDirectRDMACapable != 0 || prop->allocFlags.usage != 0) {
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  return CUDA_SUCCESS;
}

// Backs the memory with a file that can be shown to others.
CUresult MakeFile(Driver* driver, Physical* physical) {
  const MemoryTag tag =
      MakeTag(*driver, MemoryTag::kPhysicalKind, physical->device, physical->bytes);
  const auto end = static_cast<off_t>(physical->bytes);
  struct stat made{};
  physical->fd = memfd_create("simgpu-physical", MFD_CLOEXEC);
  if (physical->fd < 0) return CUDA_ERROR_OUT_OF_MEMORY;
  void* host = MAP_FAILED;
  if (ftruncate(physical->fd, end + static_cast<off_t>(kTagBytes)) == 0 &&
      pwrite(physical->fd, &tag, sizeof tag, end) == static_cast<ssize_t>(sizeof tag) &&
      fstat(physical->fd, &made) == 0) {
    host = mmap(nullptr, physical->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                physical->fd, 0);
  }
  if (host == MAP_FAILED) {
    close(physical->fd);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  madvise(host, physical->bytes, MADV_DONTDUMP);
  physical->host = static_cast<uint8_t*>(host);
  physical->file = made.st_ino;
  physical->uid[0] = tag.uid[0];
  physical->uid[1] = tag.uid[1];
  physical->charge_lock = TakeChargeLock(physical->fd);
  return CUDA_SUCCESS;
}

// The mappings that make up exactly [address, address + bytes); empty when some part is not mapped
// or one stands out at an end.
std::vector<Allocation*> MappingsOf(Driver* driver, uint64_t address, uint64_t bytes) {
  std::vector<Allocation*> found;
  const uint64_t end = address + bytes;
  for (uint64_t at = address; at < end;) {
    auto mapping = driver->allocations.find(at);
    if (mapping == driver->allocations.end() ||
        mapping->second.memory_kind != MemoryKind::kMapped || mapping->second.capacity > end - at) {
      return {};
    }
    found.push_back(&mapping->second);
    at += mapping->second.capacity;
  }
  return found;
}

// What a multicast object may be: of one process, on as many devices as there are.
CUresult CheckTeam(const Driver& driver, const CUmulticastObjectProp* prop) {
  if (prop == nullptr || prop->numDevices == 0 || prop->flags != 0) return CUDA_ERROR_INVALID_VALUE;
  if (prop->handleTypes != 0) {
    Say("multicast objects of several processes are not simulated");
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  return prop->numDevices <= driver.devices.size() ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

// Binds memory to the object. A card's driver waits until all devices were added; the only process
// that could add them would wait here, so it is told.
CUresult Bind(const Driver& driver, CUmemGenericAllocationHandle handle, uint64_t offset,
              Physical* physical, uint64_t memory_offset, uint64_t bytes) {
  Multicast* multicast = FindMulticast(driver, handle);
  if (multicast == nullptr || bytes == 0 || bytes % kGranule != 0 || offset % kGranule != 0 ||
      memory_offset % kGranule != 0 || offset > multicast->bytes ||
      bytes > multicast->bytes - offset || memory_offset > physical->bytes ||
      bytes > physical->bytes - memory_offset) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (multicast->team.size() < multicast->devices) return CUDA_ERROR_NOT_READY;
  if (std::ranges::find(multicast->team, physical->device) == multicast->team.end()) {
    return CUDA_ERROR_INVALID_DEVICE;
  }
  for (const Multicast::Binding& one : multicast->bound) {
    if (one.physical->device == physical->device && offset < one.offset + one.bytes &&
        one.offset < offset + bytes) {
      return CUDA_ERROR_INVALID_VALUE;
    }
  }
  multicast->bound.push_back({offset, bytes, physical});
  ++physical->mappings;
  return CUDA_SUCCESS;
}

// The reservation that holds all of the range, or null.
std::map<uint64_t, AddressRange>::iterator ReservationOf(Driver* driver, uint64_t address,
                                                         uint64_t bytes) {
  auto after = driver->ranges.upper_bound(address);
  if (after == driver->ranges.begin()) return driver->ranges.end();
  auto at = std::prev(after);
  const uint64_t offset = address - at->first;
  if (!at->second.program || offset >= at->second.bytes || bytes > at->second.bytes - offset) {
    return driver->ranges.end();
  }
  return at;
}

}  // namespace

void DropIfUnused(Driver* driver, Physical* physical) {
  if (physical->handles == 0) driver->live.erase(physical);
  if (physical->handles != 0 || physical->mappings != 0) return;
  driver->physicals.erase(physical);
  const uint32_t card = driver->devices[physical->device]->card;
  if (physical->arena_address != 0) {
    driver->devices[physical->device]->arena->Give(physical->arena_address,
                                                   physical->bytes / kGranule);
  } else {
    munmap(physical->host, physical->bytes);
    if (FdIsOurs(*physical)) close(physical->fd);
    if (physical->charge_lock >= 0) close(physical->charge_lock);
  }
  if (physical->charged) driver->state->Give(card, State::Kind::kAllocation, physical->bytes);
  delete physical;
}

Physical* PhysicalOfFile(Driver* driver, int file, int device, uint64_t bytes,
                         const uint64_t (&uid)[2]) {
  for (Physical* known : driver->physicals) {
    if (known->fd >= 0 && known->uid[0] == uid[0] && known->uid[1] == uid[1]) return known;
  }
  auto physical = std::make_unique<Physical>();
  struct stat made{};
  physical->fd = fcntl(file, F_DUPFD_CLOEXEC, 0);
  if (physical->fd < 0) return nullptr;
  void* host = MAP_FAILED;
  if (fstat(physical->fd, &made) == 0) {
    host =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, physical->fd, 0);
  }
  if (host == MAP_FAILED) {
    close(physical->fd);
    return nullptr;
  }
  madvise(host, bytes, MADV_DONTDUMP);
  physical->device = device;
  physical->bytes = bytes;
  physical->id = driver->next_id++;
  physical->prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  physical->prop.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  physical->prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, device};
  physical->host = static_cast<uint8_t*>(host);
  physical->file = made.st_ino;
  physical->uid[0] = uid[0];
  physical->uid[1] = uid[1];
  driver->physicals.insert(physical.get());
  return physical.release();
}

void DropIfUnused(Driver* driver, Multicast* multicast) {
  if (multicast->handles == 0) driver->live.erase(multicast);
  if (multicast->handles != 0 || multicast->mappings != 0) return;
  for (const Multicast::Binding& binding : multicast->bound) {
    --binding.physical->mappings;
    DropIfUnused(driver, binding.physical);
  }
  delete multicast;
}

bool ChargedElsewhere(const Physical& physical) {
  const int lock = TakeChargeLock(physical.fd);
  if (lock >= 0) close(lock);
  return lock < 0;
}

void Adopt(Driver* driver) {
  for (Physical* physical : driver->physicals) {
    if (physical->charged || physical->arena_address != 0 || !FdIsOurs(*physical)) continue;
    const int lock = TakeChargeLock(physical->fd);
    if (lock < 0) continue;
    if (driver->state->Take(driver->devices[physical->device]->card, State::Kind::kAllocation,
                            physical->bytes) == State::Answer::kOk) {
      physical->charge_lock = lock;
      physical->charged = true;
    } else {
      close(lock);  // the card is full without it; the next call tries again
    }
  }
}

}  // namespace simgpu

namespace tessera::abi {
using namespace simgpu;  // NOLINT

extern "C" {

CUresult cuMemGetAllocationGranularity(size_t* granularity, const CUmemAllocationProp* prop,
                                       CUmemAllocationGranularity_flags option) {
  SIMGPU_DRIVER(driver);
  if (granularity == nullptr || option > CU_MEM_ALLOC_GRANULARITY_RECOMMENDED) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (CUresult bad = CheckProperties(*driver, prop)) return bad;
  *granularity = kGranule;
  return CUDA_SUCCESS;
}

CUresult cuMemAddressReserve(CUdeviceptr* address, size_t bytes, size_t alignment, CUdeviceptr near,
                             unsigned long long flags) {
  SIMGPU_DRIVER(driver);
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  if (address == nullptr || bytes == 0 || bytes % page != 0 || near % page != 0 || flags != 0 ||
      (alignment & (alignment - 1)) != 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  std::lock_guard guard(driver->mutex);
  const uint64_t base = ReserveAddresses(driver, bytes, alignment, near);
  if (base == 0) return CUDA_ERROR_OUT_OF_MEMORY;
  void* host = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (host == MAP_FAILED) {
    FreeAddresses(driver, base);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  madvise(host, bytes, MADV_DONTDUMP);
  AddressRange& range = driver->ranges[base];
  range.program = true;
  range.host = static_cast<uint8_t*>(host);
  *address = base;
  return CUDA_SUCCESS;
}

CUresult cuMemAddressFree(CUdeviceptr address, size_t bytes) {
  SIMGPU_DRIVER(driver);
  std::lock_guard guard(driver->mutex);
  auto at = driver->ranges.find(address);
  if (at == driver->ranges.end() || !at->second.program || at->second.bytes != bytes) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  auto inside = driver->allocations.lower_bound(address);
  if (inside != driver->allocations.end() && inside->first < address + bytes) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  FreeAddresses(driver, address);
  return CUDA_SUCCESS;
}

CUresult cuMemCreate(CUmemGenericAllocationHandle* handle, size_t bytes,
                     const CUmemAllocationProp* prop, unsigned long long flags) {
  SIMGPU_DRIVER(driver);
  if (handle == nullptr || bytes == 0 || bytes % kGranule != 0 || flags != 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (CUresult bad = CheckProperties(*driver, prop)) return bad;
  std::lock_guard guard(driver->mutex);
  Adopt(driver);
  const int device = prop->location.id;
  if (bytes > CardOf(*driver, device).profile.memory_bytes) return CUDA_ERROR_OUT_OF_MEMORY;
  if (!EnsureArena(driver, device)) return CUDA_ERROR_OPERATING_SYSTEM;
  auto physical = std::make_unique<Physical>();
  physical->device = device;
  physical->bytes = bytes;
  physical->prop = *prop;
  physical->prop.allocFlags.compressionType = 0;  // asked for or not, there is no compression
  if (prop->requestedHandleTypes == CU_MEM_HANDLE_TYPE_NONE) {
    Arena* arena = driver->devices[device]->arena.get();
    if (CUresult bad = TakeGranules(driver, device, arena, bytes, State::Kind::kAllocation,
                                    &physical->arena_address)) {
      return bad;
    }
    physical->host = arena->Host(physical->arena_address);
  } else {
    const uint32_t card = driver->devices[device]->card;
    if (CUresult bad = FromAnswer(driver->state->Take(card, State::Kind::kAllocation, bytes))) {
      return bad;
    }
    if (CUresult bad = MakeFile(driver, physical.get())) {
      driver->state->Give(card, State::Kind::kAllocation, bytes);
      return bad;
    }
  }
  physical->charged = true;
  physical->handles = 1;
  physical->id = driver->next_id++;
  driver->live.insert(physical.get());
  driver->physicals.insert(physical.get());
  *handle = HandleOf(physical.release());
  return CUDA_SUCCESS;
}

CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
  SIMGPU_DRIVER(driver);
  std::lock_guard guard(driver->mutex);
  if (Multicast* multicast = FindMulticast(*driver, handle)) {
    --multicast->handles;
    DropIfUnused(driver, multicast);
    return CUDA_SUCCESS;
  }
  Physical* physical = FindPhysical(*driver, handle);
  if (physical == nullptr) return CUDA_ERROR_INVALID_VALUE;
  --physical->handles;
  DropIfUnused(driver, physical);
  return CUDA_SUCCESS;
}

CUresult cuMemMap(CUdeviceptr address, size_t bytes, size_t offset,
                  CUmemGenericAllocationHandle handle, unsigned long long flags) {
  SIMGPU_DRIVER(driver);
  if (bytes == 0 || address % kGranule != 0 || bytes % kGranule != 0 || offset != 0 || flags != 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  std::lock_guard guard(driver->mutex);
  Physical* physical = FindPhysical(*driver, handle);
  Multicast* multicast = physical == nullptr ? FindMulticast(*driver, handle) : nullptr;
  if (physical == nullptr && multicast == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (bytes > (physical != nullptr ? physical->bytes : multicast->bytes)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (multicast != nullptr && multicast->team.size() < multicast->devices) {
    return CUDA_ERROR_NOT_READY;
  }
  auto range = ReservationOf(driver, address, bytes);
  if (range == driver->ranges.end()) return CUDA_ERROR_INVALID_VALUE;
  auto next = driver->allocations.lower_bound(address);
  if ((next != driver->allocations.end() && next->first < address + bytes) ||
      FindAllocation(*driver, address) != nullptr) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  uint8_t* place = range->second.host + (address - range->first);
  // A mapping made from the mapping: works when the program has closed our descriptor, too.
  if (physical != nullptr &&
      mremap(physical->host, 0, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, place) == MAP_FAILED) {
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  Allocation made;
  made.base = address;
  made.size = bytes;
  made.capacity = bytes;
  made.memory_kind = MemoryKind::kMapped;
  made.device = physical != nullptr ? physical->device : multicast->team.front();
  made.id = driver->next_id++;
  made.host = place;
  made.physical = physical;
  made.multicast = multicast;
  driver->allocations.emplace(address, made);
  ++(physical != nullptr ? physical->mappings : multicast->mappings);
  return CUDA_SUCCESS;
}

CUresult cuMemUnmap(CUdeviceptr address, size_t bytes) {
  SIMGPU_DRIVER(driver);
  if (bytes == 0 || address + bytes < address) return CUDA_ERROR_INVALID_VALUE;
  {
    std::lock_guard guard(driver->mutex);
    if (CUresult bad = CheckUnsafeCall(driver)) return bad;
    if (MappingsOf(driver, address, bytes).empty()) return CUDA_ERROR_INVALID_VALUE;
  }
  WaitBeforeFree(driver, nullptr, -1);
  std::lock_guard guard(driver->mutex);
  const std::vector<Allocation*> mappings = MappingsOf(driver, address, bytes);
  if (mappings.empty()) return CUDA_ERROR_INVALID_VALUE;
  for (Allocation* mapping : mappings) {
    Physical* physical = mapping->physical;
    Multicast* multicast = mapping->multicast;
    void* nothing = mmap(mapping->host, mapping->capacity, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (nothing == MAP_FAILED) return CUDA_ERROR_UNMAP_FAILED;  // it stays mapped
    const uint64_t base = mapping->base;
    driver->allocations.erase(base);
    --(physical != nullptr ? physical->mappings : multicast->mappings);
    if (physical != nullptr) {
      DropIfUnused(driver, physical);
    } else {
      DropIfUnused(driver, multicast);
    }
  }
  return CUDA_SUCCESS;
}

CUresult cuMemSetAccess(CUdeviceptr address, size_t bytes, const CUmemAccessDesc* descriptors,
                        size_t count) {
  SIMGPU_DRIVER(driver);
  if (descriptors == nullptr || count == 0 || bytes == 0 || address + bytes < address) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  std::lock_guard guard(driver->mutex);
  const std::vector<Allocation*> mappings = MappingsOf(driver, address, bytes);
  if (mappings.empty()) return CUDA_ERROR_INVALID_VALUE;
  for (size_t i = 0; i < count; ++i) {
    const CUmemAccessDesc& one = descriptors[i];
    if (one.flags != CU_MEM_ACCESS_FLAGS_PROT_NONE && one.flags != CU_MEM_ACCESS_FLAGS_PROT_READ &&
        one.flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    if (one.location.type == CU_MEM_LOCATION_TYPE_HOST ||
        one.location.type == CU_MEM_LOCATION_TYPE_HOST_NUMA ||
        one.location.type == CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT) {
      return CUDA_ERROR_NOT_SUPPORTED;
    }
    if (one.location.type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_INVALID_VALUE;
    if (one.location.id < 0 || static_cast<size_t>(one.location.id) >= driver->devices.size()) {
      return CUDA_ERROR_INVALID_DEVICE;
    }
    for (const Allocation* mapping : mappings) {
      if (one.location.id != mapping->device &&
          !PeerCapable(*driver, one.location.id, mapping->device)) {
        return CUDA_ERROR_INVALID_DEVICE;
      }
    }
  }
  for (Allocation* mapping : mappings) {
    for (size_t i = 0; i < count; ++i) {
      mapping->access[descriptors[i].location.id] = static_cast<uint8_t>(descriptors[i].flags);
    }
  }
  return CUDA_SUCCESS;
}

CUresult cuMemGetAccess(unsigned long long* flags, const CUmemLocation* location,
                        CUdeviceptr address) {
  SIMGPU_DRIVER(driver);
  if (flags == nullptr || location == nullptr || location->type != CU_MEM_LOCATION_TYPE_DEVICE) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (location->id < 0 || static_cast<size_t>(location->id) >= driver->devices.size()) {
    return CUDA_ERROR_INVALID_DEVICE;
  }
  std::lock_guard guard(driver->mutex);
  const Allocation* found = FindAllocation(*driver, address);
  if (found == nullptr || found->memory_kind != MemoryKind::kMapped) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  *flags = found->access[location->id];
  return CUDA_SUCCESS;
}

CUresult cuMemExportToShareableHandle(void* shared, CUmemGenericAllocationHandle handle,
                                      CUmemAllocationHandleType type, unsigned long long flags) {
  SIMGPU_DRIVER(driver);
  if (shared == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return CUDA_ERROR_NOT_SUPPORTED;
  std::lock_guard guard(driver->mutex);
  const Physical* physical = FindPhysical(*driver, handle);
  if (physical == nullptr || physical->fd < 0) return CUDA_ERROR_INVALID_VALUE;
  const int fd = FdIsOurs(*physical) ? fcntl(physical->fd, F_DUPFD_CLOEXEC, 0) : -1;
  if (fd < 0) return CUDA_ERROR_OPERATING_SYSTEM;
  memcpy(shared, &fd, sizeof fd);
  return CUDA_SUCCESS;
}

CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle* handle, void* shared,
                                        CUmemAllocationHandleType type) {
  SIMGPU_DRIVER(driver);
  if (handle == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return CUDA_ERROR_NOT_SUPPORTED;
  const int given = static_cast<int>(reinterpret_cast<intptr_t>(shared));
  std::lock_guard guard(driver->mutex);
  Adopt(driver);
  MemoryTag tag;
  int device = 0;
  if (!ReadTag(*driver, given, &tag, &device) || tag.kind != MemoryTag::kPhysicalKind) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (!EnsureArena(driver, device)) return CUDA_ERROR_OPERATING_SYSTEM;
  Physical* physical = PhysicalOfFile(driver, given, device, tag.bytes, tag.uid);
  if (physical == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  ++physical->handles;
  driver->live.insert(physical);
  *handle = HandleOf(physical);
  Adopt(driver);  // its maker may be gone already
  return CUDA_SUCCESS;
}

CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle* handle, void* address) {
  SIMGPU_DRIVER(driver);
  if (handle == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  const Allocation* found = FindAllocation(*driver, reinterpret_cast<uint64_t>(address));
  if (found == nullptr || found->physical == nullptr) return CUDA_ERROR_INVALID_VALUE;
  ++found->physical->handles;
  driver->live.insert(found->physical);
  *handle = HandleOf(found->physical);
  return CUDA_SUCCESS;
}

CUresult cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp* prop,
                                                CUmemGenericAllocationHandle handle) {
  SIMGPU_DRIVER(driver);
  if (prop == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  const Physical* physical = FindPhysical(*driver, handle);
  if (physical == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *prop = physical->prop;
  return CUDA_SUCCESS;
}

CUresult cuMulticastGetGranularity(size_t* granularity, const CUmulticastObjectProp* prop,
                                   CUmulticastGranularity_flags option) {
  SIMGPU_DRIVER(driver);
  if (granularity == nullptr || option > CU_MULTICAST_GRANULARITY_RECOMMENDED) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (CUresult bad = CheckTeam(*driver, prop)) return bad;
  *granularity = kGranule;
  return CUDA_SUCCESS;
}

CUresult cuMulticastCreate(CUmemGenericAllocationHandle* handle,
                           const CUmulticastObjectProp* prop) {
  SIMGPU_DRIVER(driver);
  if (handle == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult bad = CheckTeam(*driver, prop)) return bad;
  if (prop->size == 0 || prop->size % kGranule != 0) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  auto made = std::make_unique<Multicast>();
  made->bytes = prop->size;
  made->devices = prop->numDevices;
  made->handles = 1;
  driver->live.insert(made.get());
  *handle = HandleOf(made.release());
  return CUDA_SUCCESS;
}

CUresult cuMulticastAddDevice(CUmemGenericAllocationHandle handle, CUdevice device) {
  Driver* driver = nullptr;
  if (CUresult bad = CheckDevice(device, &driver)) return bad;
  std::lock_guard guard(driver->mutex);
  Multicast* multicast = FindMulticast(*driver, handle);
  if (multicast == nullptr || multicast->team.size() >= multicast->devices ||
      std::ranges::find(multicast->team, device) != multicast->team.end()) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  for (const int other : multicast->team) {
    if (!PeerCapable(*driver, device, other)) return CUDA_ERROR_INVALID_DEVICE;
  }
  multicast->team.push_back(device);
  return CUDA_SUCCESS;
}

CUresult cuMulticastBindMem(CUmemGenericAllocationHandle handle, size_t offset,
                            CUmemGenericAllocationHandle memory, size_t memory_offset, size_t bytes,
                            unsigned long long flags) {
  SIMGPU_DRIVER(driver);
  std::lock_guard guard(driver->mutex);
  Physical* physical = FindPhysical(*driver, memory);
  if (physical == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  return Bind(*driver, handle, offset, physical, memory_offset, bytes);
}

CUresult cuMulticastBindAddr(CUmemGenericAllocationHandle handle, size_t offset,
                             CUdeviceptr address, size_t bytes, unsigned long long flags) {
  SIMGPU_DRIVER(driver);
  std::lock_guard guard(driver->mutex);
  const Allocation* found = FindAllocation(*driver, address);
  if (found == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  if (found->memory_kind == MemoryKind::kPooled) {
    Say("binding a pool's memory to a multicast object is not simulated");
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  if (found->memory_kind != MemoryKind::kMapped || found->physical == nullptr) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  return Bind(*driver, handle, offset, found->physical, address - found->base, bytes);
}

CUresult cuMulticastUnbind(CUmemGenericAllocationHandle handle, CUdevice device, size_t offset,
                           size_t bytes) {
  Driver* driver = nullptr;
  if (CUresult bad = CheckDevice(device, &driver)) return bad;
  std::lock_guard guard(driver->mutex);
  Multicast* multicast = FindMulticast(*driver, handle);
  if (multicast == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const auto found = std::ranges::find_if(multicast->bound, [&](const Multicast::Binding& one) {
    return one.physical->device == device && one.offset == offset && one.bytes == bytes;
  });
  if (found == multicast->bound.end()) return CUDA_ERROR_INVALID_VALUE;
  Physical* physical = found->physical;
  multicast->bound.erase(found);
  --physical->mappings;
  DropIfUnused(driver, physical);
  return CUDA_SUCCESS;
}

}  // extern "C"
}  // namespace tessera::abi
