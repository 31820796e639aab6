#include "simgpu/driver/external.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "abi/cuda_memory.h"
#include "simgpu/driver/ipc.h"
#include "simgpu/driver/memory.h"
#include "simgpu/driver/vmm.h"
#include "simgpu/driver/work.h"

namespace simgpu {

struct ExternalMemory : Object {
  ExternalMemory() : Object(Kind::kExternalMemory) {}
  Context* context = nullptr;
  Physical* physical = nullptr;
  uint64_t size = 0;
};

namespace {

struct ExternalSemaphore : Object {
  ExternalSemaphore() : Object(Kind::kExternalSemaphore) {}
  Context* context = nullptr;
  bool timeline = false;
  uint64_t address = 0;
};

constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kWordBytes = 8;

void Drop(Driver* driver, ExternalMemory* memory) {
  driver->live.erase(memory);
  --memory->physical->mappings;
  DropIfUnused(driver, memory->physical);
  delete memory;
}

// The page goes with the context: work in streams may outlive the semaphore.
void Drop(Driver* driver, ExternalSemaphore* semaphore) {
  driver->live.erase(semaphore);
  delete semaphore;
}

// Whose file it is, and how much of the card it stands for. Mutex held.
CUresult Identify(Driver* driver, const Context* context, int fd, uint64_t size, int* device,
                  uint64_t* bytes, uint64_t (&uid)[2]) {
  MemoryTag tag;
  if (ReadTag(*driver, fd, &tag, device)) {
    if (tag.kind != MemoryTag::kPhysicalKind || tag.bytes != size) return CUDA_ERROR_INVALID_VALUE;
    *bytes = tag.bytes;
    uid[0] = tag.uid[0];
    uid[1] = tag.uid[1];
    return CUDA_SUCCESS;
  }
  struct stat file{};
  if (fstat(fd, &file) != 0 || !S_ISREG(file.st_mode) ||
      static_cast<uint64_t>(file.st_size) != size) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  *device = context->device;
  *bytes = RoundUp(size, kGranule);
  uid[0] = file.st_dev;
  uid[1] = file.st_ino;
  return CUDA_SUCCESS;
}

CUresult Import(CUexternalMemory* handle, const CUDA_EXTERNAL_MEMORY_HANDLE_DESC* given) {
  SIMGPU_CURRENT(driver, context);
  if (handle == nullptr || given == nullptr || given->size == 0 ||
      (given->flags & ~CUDA_EXTERNAL_MEMORY_DEDICATED) != 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (given->type != CU_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD) {
    return given->type <= CU_EXTERNAL_MEMORY_HANDLE_TYPE_DMABUF_FD && given->type != 0
               ? CUDA_ERROR_NOT_SUPPORTED
               : CUDA_ERROR_INVALID_VALUE;
  }
  std::lock_guard guard(driver->mutex);
  Adopt(driver);
  int device = 0;
  uint64_t bytes = 0;
  uint64_t uid[2] = {};
  const int fd = given->handle.fd;
  if (CUresult bad = Identify(driver, context, fd, given->size, &device, &bytes, uid)) return bad;
  if (bytes > CardOf(*driver, device).profile.memory_bytes) return CUDA_ERROR_OUT_OF_MEMORY;
  if (!EnsureArena(driver, device)) return CUDA_ERROR_OPERATING_SYSTEM;
  Physical* physical = PhysicalOfFile(driver, fd, device, bytes, uid);
  if (physical == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  if (physical->bytes != bytes) return CUDA_ERROR_INVALID_VALUE;  // the file has grown since
  ++physical->mappings;
  Adopt(driver);
  if (!physical->charged && !ChargedElsewhere(*physical)) {
    // Nobody pays for it, because the card has no room.
    --physical->mappings;
    DropIfUnused(driver, physical);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  auto memory = std::make_unique<ExternalMemory>();
  memory->context = context;
  memory->physical = physical;
  memory->size = given->size;
  close(fd);  // the descriptor is the driver's from here on
  driver->live.insert(memory.get());
  *handle = reinterpret_cast<CUexternalMemory>(memory.release());
  return CUDA_SUCCESS;
}

CUresult MapBuffer(CUdeviceptr* address, CUexternalMemory handle,
                   const CUDA_EXTERNAL_MEMORY_BUFFER_DESC* given) {
  SIMGPU_CURRENT(driver, context);
  if (address == nullptr || given == nullptr || given->flags != 0 || given->size == 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  std::lock_guard guard(driver->mutex);
  const auto* memory = Live<ExternalMemory>(*driver, handle, Kind::kExternalMemory);
  if (memory == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (given->offset > memory->size || given->size > memory->size - given->offset) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const uint64_t first = given->offset / kPageBytes * kPageBytes;
  const uint64_t bytes = RoundUp(given->offset + given->size - first, kPageBytes);
  const uint64_t base = ReserveAddresses(driver, bytes, kGranule, 0);
  if (base == 0) return CUDA_ERROR_OUT_OF_MEMORY;
  // A mapping made from the mapping, as cuMemMap's.
  void* host = mremap(memory->physical->host + first, 0, bytes, MREMAP_MAYMOVE);
  if (host == MAP_FAILED) {
    FreeAddresses(driver, base);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  driver->ranges[base].host = static_cast<uint8_t*>(host);
  Allocation made;
  made.base = base + (given->offset - first);
  made.size = given->size;
  made.capacity = given->size;
  made.memory_kind = MemoryKind::kExternal;
  made.context = context;
  made.device = memory->physical->device;
  made.id = driver->next_id++;
  made.host = static_cast<uint8_t*>(host) + (given->offset - first);
  made.physical = memory->physical;
  driver->allocations.emplace(made.base, made);
  ++memory->physical->mappings;
  *address = made.base;
  return CUDA_SUCCESS;
}

CUresult ImportSemaphore(CUexternalSemaphore* handle,
                         const CUDA_EXTERNAL_SEMAPHORE_HANDLE_DESC* given) {
  SIMGPU_CURRENT(driver, context);
  if (handle == nullptr || given == nullptr || given->flags != 0) return CUDA_ERROR_INVALID_VALUE;
  const bool timeline = given->type == CU_EXTERNAL_SEMAPHORE_HANDLE_TYPE_TIMELINE_SEMAPHORE_FD;
  if (!timeline && given->type != CU_EXTERNAL_SEMAPHORE_HANDLE_TYPE_OPAQUE_FD) {
    constexpr unsigned int kLast = 10;  // a timeline's handle of Windows
    return given->type != 0 && given->type <= kLast ? CUDA_ERROR_NOT_SUPPORTED
                                                    : CUDA_ERROR_INVALID_VALUE;
  }
  struct stat file{};
  const int fd = given->handle.fd;
  if (fstat(fd, &file) != 0 || !S_ISREG(file.st_mode) ||
      file.st_size < static_cast<off_t>(kWordBytes)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  void* page = mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (page == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  std::lock_guard guard(driver->mutex);
  auto semaphore = std::make_unique<ExternalSemaphore>();
  semaphore->context = context;
  semaphore->timeline = timeline;
  semaphore->address = reinterpret_cast<uint64_t>(page);
  // Words that streams write and wait for lie in page-locked memory.
  driver->hosts[semaphore->address] = {semaphore->address, kWordBytes, kPageBytes, kHostOfEvent,
                                       context};
  close(fd);
  driver->live.insert(semaphore.get());
  *handle = reinterpret_cast<CUexternalSemaphore>(semaphore.release());
  return CUDA_SUCCESS;
}

// What a signal or a wait of one of `count` semaphores puts into a stream.
template <typename Params>
CUresult PutWords(const CUexternalSemaphore* handles, const Params* params, unsigned int count,
                  CUstream stream, StreamForm form, bool signal) {
  SIMGPU_CURRENT(driver, context);
  if (handles == nullptr || params == nullptr || count > kExternalSemaphoresMax) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  std::vector<WordAction> words;
  {
    std::lock_guard guard(driver->mutex);
    // A capture would need the nodes of semaphores, which are not simulated.
    if (CUresult bad = RefuseCapture(driver, context, stream, form)) return bad;
    for (unsigned int i = 0; i < count; ++i) {
      const auto* semaphore =
          Live<ExternalSemaphore>(*driver, handles[i], Kind::kExternalSemaphore);
      if (semaphore == nullptr) return CUDA_ERROR_INVALID_HANDLE;
      if (params[i].flags != 0) return CUDA_ERROR_INVALID_VALUE;
      constexpr uint32_t kAtLeast = 0, kEqual = 1;
      const uint64_t value = semaphore->timeline ? params[i].params.fence.value : 1;
      if (signal) {
        words.push_back({semaphore->address, value, kWordBytes, true, 0});
      } else {
        words.push_back({semaphore->address, value, kWordBytes, false,
                         semaphore->timeline ? kAtLeast : kEqual});
        if (!semaphore->timeline) words.push_back({semaphore->address, 0, kWordBytes, true, 0});
      }
    }
  }
  for (const WordAction& word : words) {
    if (CUresult bad = Put(stream, form, word)) return bad;
  }
  return CUDA_SUCCESS;
}

CUresult Signal(const CUexternalSemaphore* handles,
                const CUDA_EXTERNAL_SEMAPHORE_SIGNAL_PARAMS* params, unsigned int count,
                CUstream stream, StreamForm form) {
  return PutWords(handles, params, count, stream, form, true);
}
CUresult Wait(const CUexternalSemaphore* handles, const CUDA_EXTERNAL_SEMAPHORE_WAIT_PARAMS* params,
              unsigned int count, CUstream stream, StreamForm form) {
  return PutWords(handles, params, count, stream, form, false);
}

}  // namespace

CUresult TakeExternal(Driver* driver, const ExternalPlace& place, uint64_t bytes,
                      Allocation* made) {
  const auto* memory = Live<ExternalMemory>(*driver, place.memory, Kind::kExternalMemory);
  if (memory == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (place.offset > memory->size || bytes > memory->size - place.offset) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  made->memory_kind = MemoryKind::kExternal;
  made->device = memory->physical->device;
  made->physical = memory->physical;
  made->host = memory->physical->host + place.offset;
  ++memory->physical->mappings;
  return CUDA_SUCCESS;
}

void DropExternals(Driver* driver, Context* context) {
  std::vector<ExternalMemory*> memories;
  std::vector<ExternalSemaphore*> semaphores;
  for (const Object* object : driver->live) {
    auto* one = const_cast<Object*>(object);
    if (object->kind == Kind::kExternalMemory) {
      auto* memory = static_cast<ExternalMemory*>(one);
      if (memory->context == context) memories.push_back(memory);
    } else if (object->kind == Kind::kExternalSemaphore) {
      auto* semaphore = static_cast<ExternalSemaphore*>(one);
      if (semaphore->context == context) semaphores.push_back(semaphore);
    }
  }
  for (ExternalMemory* memory : memories) Drop(driver, memory);
  for (ExternalSemaphore* semaphore : semaphores) Drop(driver, semaphore);
}

}  // namespace simgpu

namespace tessera::abi {
using namespace simgpu;  // NOLINT

extern "C" {

CUresult cuImportExternalMemory(CUexternalMemory* memory,
                                const CUDA_EXTERNAL_MEMORY_HANDLE_DESC* given) {
  return Import(memory, given);
}

CUresult cuExternalMemoryGetMappedBuffer(CUdeviceptr* address, CUexternalMemory memory,
                                         const CUDA_EXTERNAL_MEMORY_BUFFER_DESC* given) {
  return MapBuffer(address, memory, given);
}

CUresult cuExternalMemoryGetMappedMipmappedArray(
    CUmipmappedArray* mipmap, CUexternalMemory memory,
    const CUDA_EXTERNAL_MEMORY_MIPMAPPED_ARRAY_DESC* given) {
  SIMGPU_DRIVER(driver);
  if (given == nullptr) return CUDA_ERROR_INVALID_VALUE;
  // Whether it is a live one is looked up once more when its memory is taken.
  const ExternalPlace place = {reinterpret_cast<ExternalMemory*>(memory), given->offset};
  return CreateMipmap(mipmap, &given->arrayDesc, given->numLevels, &place);
}

CUresult cuDestroyExternalMemory(CUexternalMemory handle) {
  SIMGPU_DRIVER(driver);
  std::lock_guard guard(driver->mutex);
  auto* memory = Live<ExternalMemory>(*driver, handle, Kind::kExternalMemory);
  if (memory == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  Drop(driver, memory);
  return CUDA_SUCCESS;
}

CUresult cuImportExternalSemaphore(CUexternalSemaphore* semaphore,
                                   const CUDA_EXTERNAL_SEMAPHORE_HANDLE_DESC* given) {
  return ImportSemaphore(semaphore, given);
}

CUresult cuSignalExternalSemaphoresAsync(const CUexternalSemaphore* semaphores,
                                         const CUDA_EXTERNAL_SEMAPHORE_SIGNAL_PARAMS* params,
                                         unsigned int count, CUstream stream) {
  return Signal(semaphores, params, count, stream, StreamForm::kLegacy);
}
CUresult cuSignalExternalSemaphoresAsync_ptsz(const CUexternalSemaphore* semaphores,
                                              const CUDA_EXTERNAL_SEMAPHORE_SIGNAL_PARAMS* params,
                                              unsigned int count, CUstream stream) {
  return Signal(semaphores, params, count, stream, StreamForm::kPerThread);
}

CUresult cuWaitExternalSemaphoresAsync(const CUexternalSemaphore* semaphores,
                                       const CUDA_EXTERNAL_SEMAPHORE_WAIT_PARAMS* params,
                                       unsigned int count, CUstream stream) {
  return Wait(semaphores, params, count, stream, StreamForm::kLegacy);
}
CUresult cuWaitExternalSemaphoresAsync_ptsz(const CUexternalSemaphore* semaphores,
                                            const CUDA_EXTERNAL_SEMAPHORE_WAIT_PARAMS* params,
                                            unsigned int count, CUstream stream) {
  return Wait(semaphores, params, count, stream, StreamForm::kPerThread);
}

CUresult cuDestroyExternalSemaphore(CUexternalSemaphore handle) {
  SIMGPU_DRIVER(driver);
  std::lock_guard guard(driver->mutex);
  auto* semaphore = Live<ExternalSemaphore>(*driver, handle, Kind::kExternalSemaphore);
  if (semaphore == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  Drop(driver, semaphore);
  return CUDA_SUCCESS;
}

}  // extern "C"
}  // namespace tessera::abi
