// NVML as the slice sees it: only its cards, their memory as the slice has it, only its processes,
// nothing to set. Works in a process that never touched CUDA: nvmlInit attaches.
#include "abi/nvml.h"
#include "guest/core/doors.h"
#include "guest/core/elf.h"
#include "guest/core/names.h"
#include "guest/core/process.h"
#include "guest/core/text.h"

#define TESSERA_EXPORT extern "C" __attribute__((visibility("default")))

using namespace tessera::abi;

namespace tessera::guest {
namespace {

// The functions answered for the slice, one a line; `guest/nvml/denied.inc` holds the manifest's
// "deny" lines.
// clang-format off
#define TESSERA_NVML_VIEWS(X)                   \
  X(nvmlInit)                                   \
  X(nvmlInit_v2)                                \
  X(nvmlInitWithFlags)                          \
  X(nvmlShutdown)                               \
  X(nvmlDeviceGetCount)                         \
  X(nvmlDeviceGetCount_v2)                      \
  X(nvmlDeviceGetHandleByIndex)                 \
  X(nvmlDeviceGetHandleByIndex_v2)              \
  X(nvmlDeviceGetHandleBySerial)                \
  X(nvmlDeviceGetHandleByUUID)                  \
  X(nvmlDeviceGetHandleByUUIDV)                 \
  X(nvmlDeviceGetHandleByPciBusId)              \
  X(nvmlDeviceGetHandleByPciBusId_v2)           \
  X(nvmlDeviceGetIndex)                         \
  X(nvmlDeviceGetMemoryInfo)                    \
  X(nvmlDeviceGetMemoryInfo_v2)                 \
  X(nvmlDeviceGetComputeRunningProcesses)       \
  X(nvmlDeviceGetComputeRunningProcesses_v2)    \
  X(nvmlDeviceGetComputeRunningProcesses_v3)    \
  X(nvmlDeviceGetGraphicsRunningProcesses)      \
  X(nvmlDeviceGetGraphicsRunningProcesses_v2)   \
  X(nvmlDeviceGetGraphicsRunningProcesses_v3)   \
  X(nvmlDeviceGetMPSComputeRunningProcesses)    \
  X(nvmlDeviceGetMPSComputeRunningProcesses_v2) \
  X(nvmlDeviceGetMPSComputeRunningProcesses_v3) \
  X(nvmlDeviceGetRunningProcessDetailList)      \
  X(nvmlDeviceGetUtilizationRates)              \
  X(nvmlDeviceGetProcessUtilization)            \
  X(nvmlDeviceGetProcessesUtilizationInfo)
// clang-format on

enum NvmlIndex : uint32_t {
#define X(name) kNvml_##name,
  TESSERA_NVML_VIEWS(X)
#undef X
      kNvmlViews
};

constexpr char kNameText[] =
#define X(name) #name "\0"
    TESSERA_NVML_VIEWS(X)
#undef X
        "";
constexpr NameOffsets<kNvmlViews> kNameOffsets = OffsetsOf<kNvmlViews>(kNameText);
constexpr const char* Name(uint32_t index) { return &kNameText[kNameOffsets.at[index]]; }

void* nvml_real[kNvmlViews];

void* Resolve(uint32_t index) {
  void* real = __atomic_load_n(&nvml_real[index], __ATOMIC_RELAXED);
  if (real == nullptr) {
    real = ResolveReal(kNvmlLibrary, Name(index));
    if (real != nullptr) __atomic_store_n(&nvml_real[index], real, __ATOMIC_RELAXED);
  }
  return real;
}

template <typename... Arguments>
nvmlReturn_t Call(uint32_t index, Arguments... arguments) {
  auto* const real = reinterpret_cast<nvmlReturn_t (*)(Arguments...)>(Resolve(index));
  if (real == nullptr) {
    return RealLoaded(kNvmlLibrary) ? NVML_ERROR_FUNCTION_NOT_FOUND : NVML_ERROR_LIBRARY_NOT_FOUND;
  }
  DepthGuard guard;
  return real(arguments...);
}

// The driver's handle of a card of the slice, or null.
nvmlDevice_t HandleOf(uint32_t card) {
  // Asked each time: handles may change with nvmlShutdown, and the driver answers from a table.
  nvmlDevice_t handle = nullptr;
  const nvmlReturn_t result = Call<const char*, nvmlDevice_t*>(
      kNvml_nvmlDeviceGetHandleByUUID, process.control->cards[card].uuid, &handle);
  return result == NVML_SUCCESS ? handle : nullptr;
}

int CardOfHandle(nvmlDevice_t device) {
  if (device == nullptr) return -1;
  for (uint32_t card = 0; card < process.card_count; ++card) {
    if (HandleOf(card) == device) return static_cast<int>(card);
  }
  return -1;
}

nvmlReturn_t Attach(nvmlReturn_t initialised) {
  if (initialised != NVML_SUCCESS || depth > 0) return initialised;
  if (EnsureAttached()) return initialised;
  Call<>(kNvml_nvmlShutdown);
  return NVML_ERROR_NO_PERMISSION;
}

nvmlReturn_t OnlyOurs(nvmlReturn_t result, nvmlDevice_t* device) {
  if (result != NVML_SUCCESS || depth > 0) return result;
  if (!EnsureAttached()) return NVML_ERROR_NO_PERMISSION;
  if (CardOfHandle(*device) >= 0) return result;
  *device = nullptr;
  return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t ByIndex(uint32_t index_of_call, unsigned int index, nvmlDevice_t* device) {
  if (depth > 0) return Call(index_of_call, index, device);
  if (!EnsureAttached()) return NVML_ERROR_NO_PERMISSION;
  if (device == nullptr || index >= process.card_count) return NVML_ERROR_INVALID_ARGUMENT;
  return Call<const char*, nvmlDevice_t*>(kNvml_nvmlDeviceGetHandleByUUID,
                                          process.control->cards[index].uuid, device);
}

nvmlReturn_t Count(uint32_t index_of_call, unsigned int* count) {
  const nvmlReturn_t result = Call(index_of_call, count);
  if (result != NVML_SUCCESS || depth > 0) return result;
  if (!EnsureAttached()) return NVML_ERROR_NO_PERMISSION;
  *count = process.card_count;
  return result;
}

// The slot of a process of this slice, or null. The driver names processes in the asker's pid
// namespace: as the node does on the machine itself, as they call themselves inside a container.
const wire::ProcessSlot* SlotOf(unsigned int pid) {
  const wire::UsagePage* usage = process.ledger.pages().usage;
  if (usage == nullptr) return nullptr;
  for (const wire::ProcessSlot& slot : usage->slots) {
    if (pid == 0 || wire::Load(&slot.pid) == 0) continue;
    if (wire::Load(&slot.pid) == pid || wire::Load(&slot.local_pid) == pid) return &slot;
  }
  return nullptr;
}

// A list of the driver's of unknown length is read into memory of our own, then only our processes
// are handed on.
inline constexpr unsigned int kListMax = 16384;

template <typename Info>
class List {
 public:
  explicit List(unsigned int capacity)
      : bytes_(capacity * sizeof(Info)), items_(static_cast<Info*>(MapMemory(bytes_))) {}
  ~List() {
    if (items_ != nullptr) UnmapMemory(items_, bytes_);
  }
  List(const List&) = delete;
  List& operator=(const List&) = delete;
  Info* items() { return items_; }

 private:
  size_t bytes_;
  Info* items_;
};

// `read` fills (count, items) the driver's way: NVML_ERROR_INSUFFICIENT_SIZE with the count when
// too small.
template <typename Info, typename Read, typename Use>
nvmlReturn_t ReadList(const Read& read, const Use& use) {
  for (unsigned int capacity = 256; capacity <= kListMax; capacity *= 4) {
    List<Info> list(capacity);
    if (list.items() == nullptr) return NVML_ERROR_MEMORY;
    unsigned int count = capacity;
    const nvmlReturn_t result = read(&count, list.items());
    if (result == NVML_ERROR_INSUFFICIENT_SIZE) continue;
    if (result != NVML_SUCCESS) return result;
    return use(count < capacity ? count : capacity, list.items());
  }
  return NVML_ERROR_INSUFFICIENT_RESOURCES;
}

template <typename Info>
nvmlReturn_t RunningProcesses(uint32_t index, nvmlDevice_t device, unsigned int* count,
                              Info* infos) {
  if (depth > 0) return Call(index, device, count, infos);
  if (!EnsureAttached()) return NVML_ERROR_NO_PERMISSION;
  const int card = CardOfHandle(device);
  if (count == nullptr || card < 0 || (*count != 0 && infos == nullptr)) {
    return NVML_ERROR_INVALID_ARGUMENT;
  }
  return ReadList<Info>(
      [&](unsigned int* listed, Info* items) { return Call(index, device, listed, items); },
      [&](unsigned int listed, const Info* items) {
        unsigned int ours = 0;
        for (unsigned int i = 0; i < listed; ++i) {
          const wire::ProcessSlot* slot = SlotOf(items[i].pid);
          if (slot == nullptr) continue;
          if (ours < *count) {
            infos[ours] = items[i];
            infos[ours].usedGpuMemory = wire::Load(&slot->used[card]);
          }
          ++ours;
        }
        const bool fits = ours <= *count;
        *count = ours;
        return fits ? NVML_SUCCESS : NVML_ERROR_INSUFFICIENT_SIZE;
      });
}

// How busy processes keep the card, relative to the slice: 100 is the whole of its share. More than
// that is time others left idle, and is shown as 100.
unsigned int Relative(unsigned int percent, int card) {
  const uint32_t share =
      __atomic_load_n(&process.control->cards[card].compute_permille, __ATOMIC_RELAXED);
  const unsigned int relative = share == 0 ? percent : (percent * 1000 + share / 2) / share;
  return relative < 100 ? relative : 100;
}
template <typename Sample>
void MakeRelative(Sample* sample, int card) {
  sample->smUtil = Relative(sample->smUtil, card);
  sample->memUtil = Relative(sample->memUtil, card);
}

struct SliceMemory {
  uint64_t total, used;
};
SliceMemory MemoryOf(int card) {
  const uint64_t total = AllowedBytes(process.control->cards[card]);
  const uint64_t used = UsedBytes(process.ledger.pages().usage->cards[card]);
  return {total, used < total ? used : total};
}

}  // namespace

}  // namespace tessera::guest

using namespace tessera::guest;

TESSERA_EXPORT nvmlReturn_t nvmlInit() { return Attach(Call<>(kNvml_nvmlInit)); }
TESSERA_EXPORT nvmlReturn_t nvmlInit_v2() { return Attach(Call<>(kNvml_nvmlInit_v2)); }
TESSERA_EXPORT nvmlReturn_t nvmlInitWithFlags(unsigned int flags) {
  return Attach(Call(kNvml_nvmlInitWithFlags, flags));
}
TESSERA_EXPORT nvmlReturn_t nvmlShutdown() { return Call<>(kNvml_nvmlShutdown); }

TESSERA_EXPORT nvmlReturn_t nvmlDeviceGetCount(unsigned int* deviceCount) {
  return Count(kNvml_nvmlDeviceGetCount, deviceCount);
}
TESSERA_EXPORT nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int* deviceCount) {
  return Count(kNvml_nvmlDeviceGetCount_v2, deviceCount);
}

TESSERA_EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t* device) {
  return ByIndex(kNvml_nvmlDeviceGetHandleByIndex, index, device);
}
TESSERA_EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index,
                                                          nvmlDevice_t* device) {
  return ByIndex(kNvml_nvmlDeviceGetHandleByIndex_v2, index, device);
}
TESSERA_EXPORT nvmlReturn_t nvmlDeviceGetHandleBySerial(const char* serial, nvmlDevice_t* device) {
  return OnlyOurs(Call(kNvml_nvmlDeviceGetHandleBySerial, serial, device), device);
}
TESSERA_EXPORT nvmlReturn_t nvmlDeviceGetHandleByUUID(const char* uuid, nvmlDevice_t* device) {
  return OnlyOurs(Call(kNvml_nvmlDeviceGetHandleByUUID, uuid, device), device);
}
TESSERA_EXPORT nvmlReturn_t nvmlDeviceGetHandleByUUIDV(const nvmlUUID_v1_t* uuid,
                                                       nvmlDevice_t* device) {
  return OnlyOurs(Call(kNvml_nvmlDeviceGetHandleByUUIDV, uuid, device), device);
}
TESSERA_EXPORT nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char* pciBusId,
                                                          nvmlDevice_t* device) {
  return OnlyOurs(Call(kNvml_nvmlDeviceGetHandleByPciBusId, pciBusId, device), device);
}
TESSERA_EXPORT nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char* pciBusId,
                                                             nvmlDevice_t* device) {
  return OnlyOurs(Call(kNvml_nvmlDeviceGetHandleByPciBusId_v2, pciBusId, device), device);
}

TESSERA_EXPORT nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int* index) {
  const nvmlReturn_t result = Call(kNvml_nvmlDeviceGetIndex, device, index);
  if (result != NVML_SUCCESS || depth > 0 || !Attached()) return result;
  const int card = CardOfHandle(device);
  if (card < 0) return NVML_ERROR_INVALID_ARGUMENT;
  *index = static_cast<unsigned int>(card);
  return result;
}

TESSERA_EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t* memory) {
  const nvmlReturn_t result = Call(kNvml_nvmlDeviceGetMemoryInfo, device, memory);
  if (result != NVML_SUCCESS || depth > 0) return result;
  if (!EnsureAttached()) return NVML_ERROR_NO_PERMISSION;
  const int card = CardOfHandle(device);
  if (card < 0) return NVML_ERROR_INVALID_ARGUMENT;
  const SliceMemory slice = MemoryOf(card);
  *memory = {slice.total, slice.total - slice.used, slice.used};
  return result;
}
TESSERA_EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device,
                                                       nvmlMemory_v2_t* memory) {
  const nvmlReturn_t result = Call(kNvml_nvmlDeviceGetMemoryInfo_v2, device, memory);
  if (result != NVML_SUCCESS || depth > 0) return result;
  if (!EnsureAttached()) return NVML_ERROR_NO_PERMISSION;
  const int card = CardOfHandle(device);
  if (card < 0) return NVML_ERROR_INVALID_ARGUMENT;
  const SliceMemory slice = MemoryOf(card);
  memory->total = slice.total;
  memory->reserved = 0;
  memory->free = slice.total - slice.used;
  memory->used = slice.used;
  return result;
}

#define TESSERA_NVML_PROCESSES(name, Info)                                                      \
  TESSERA_EXPORT nvmlReturn_t name(nvmlDevice_t device, unsigned int* infoCount, Info* infos) { \
    return RunningProcesses(kNvml_##name, device, infoCount, infos);                            \
  }
TESSERA_NVML_PROCESSES(nvmlDeviceGetComputeRunningProcesses, nvmlProcessInfo_v1_t)
TESSERA_NVML_PROCESSES(nvmlDeviceGetComputeRunningProcesses_v2, nvmlProcessInfo_v2_t)
TESSERA_NVML_PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3, nvmlProcessInfo_v2_t)
TESSERA_NVML_PROCESSES(nvmlDeviceGetGraphicsRunningProcesses, nvmlProcessInfo_v1_t)
TESSERA_NVML_PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v2, nvmlProcessInfo_v2_t)
TESSERA_NVML_PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3, nvmlProcessInfo_v2_t)
TESSERA_NVML_PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses, nvmlProcessInfo_v1_t)
TESSERA_NVML_PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v2, nvmlProcessInfo_v2_t)
TESSERA_NVML_PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v3, nvmlProcessInfo_v2_t)

TESSERA_EXPORT nvmlReturn_t
nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t device, nvmlProcessDetailList_v1_t* plist) {
  if (depth > 0) return Call(kNvml_nvmlDeviceGetRunningProcessDetailList, device, plist);
  if (!EnsureAttached()) return NVML_ERROR_NO_PERMISSION;
  const int card = CardOfHandle(device);
  if (card < 0 || plist == nullptr ||
      (plist->numProcArrayEntries != 0 && plist->procArray == nullptr)) {
    return NVML_ERROR_INVALID_ARGUMENT;
  }
  return ReadList<nvmlProcessDetail_v1_t>(
      [&](unsigned int* listed, nvmlProcessDetail_v1_t* items) {
        nvmlProcessDetailList_v1_t all = *plist;
        all.numProcArrayEntries = *listed;
        all.procArray = items;
        const nvmlReturn_t result = Call(kNvml_nvmlDeviceGetRunningProcessDetailList, device, &all);
        *listed = all.numProcArrayEntries;
        return result;
      },
      [&](unsigned int listed, const nvmlProcessDetail_v1_t* items) {
        unsigned int ours = 0;
        for (unsigned int i = 0; i < listed; ++i) {
          const tessera::wire::ProcessSlot* slot = SlotOf(items[i].pid);
          if (slot == nullptr) continue;
          if (ours < plist->numProcArrayEntries) {
            plist->procArray[ours] = items[i];
            plist->procArray[ours].usedGpuMemory = tessera::wire::Load(&slot->used[card]);
          }
          ++ours;
        }
        const bool fits = ours <= plist->numProcArrayEntries;
        plist->numProcArrayEntries = ours;
        return fits ? NVML_SUCCESS : NVML_ERROR_INSUFFICIENT_SIZE;
      });
}

// The slice's own use of the card. NVML_ERROR_NOT_SUPPORTED where the driver does not tell
// processes apart: the card's figure would be the neighbours'.
TESSERA_EXPORT nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device,
                                                          nvmlUtilization_t* utilization) {
  if (depth > 0) return Call(kNvml_nvmlDeviceGetUtilizationRates, device, utilization);
  if (!EnsureAttached()) return NVML_ERROR_NO_PERMISSION;
  const int card = CardOfHandle(device);
  if (utilization == nullptr || card < 0) return NVML_ERROR_INVALID_ARGUMENT;
  // Older samples would say that a process that stopped goes on.
  constexpr unsigned long long kNotOlderMicros = 1'500'000;
  const unsigned long long since = WallMicros() - kNotOlderMicros;
  *utilization = {};
  const nvmlReturn_t result = ReadList<nvmlProcessUtilizationSample_t>(
      [&](unsigned int* listed, nvmlProcessUtilizationSample_t* items) {
        return Call(kNvml_nvmlDeviceGetProcessUtilization, device, items, listed, since);
      },
      [&](unsigned int listed, const nvmlProcessUtilizationSample_t* items) {
        nvmlUtilization_t sum = {};
        for (unsigned int i = 0; i < listed; ++i) {
          // Of several samples of a process the newest.
          bool newest = SlotOf(items[i].pid) != nullptr;
          for (unsigned int j = 0; j < listed && newest; ++j) {
            newest = items[j].pid != items[i].pid || items[j].timeStamp < items[i].timeStamp ||
                     (items[j].timeStamp == items[i].timeStamp && j >= i);
          }
          if (!newest) continue;
          sum.gpu += items[i].smUtil;
          sum.memory += items[i].memUtil;
        }
        *utilization = {Relative(sum.gpu, card), Relative(sum.memory, card)};
        return NVML_SUCCESS;
      });
  return result == NVML_ERROR_NOT_FOUND ? NVML_SUCCESS : result;
}

TESSERA_EXPORT nvmlReturn_t nvmlDeviceGetProcessUtilization(
    nvmlDevice_t device, nvmlProcessUtilizationSample_t* utilization,
    unsigned int* processSamplesCount, unsigned long long lastSeenTimeStamp) {
  constexpr uint32_t kIndex = kNvml_nvmlDeviceGetProcessUtilization;
  if (depth > 0) return Call(kIndex, device, utilization, processSamplesCount, lastSeenTimeStamp);
  if (!EnsureAttached()) return NVML_ERROR_NO_PERMISSION;
  const int card = CardOfHandle(device);
  if (processSamplesCount == nullptr || card < 0) return NVML_ERROR_INVALID_ARGUMENT;
  return ReadList<nvmlProcessUtilizationSample_t>(
      [&](unsigned int* listed, nvmlProcessUtilizationSample_t* items) {
        return Call(kIndex, device, items, listed, lastSeenTimeStamp);
      },
      [&](unsigned int listed, const nvmlProcessUtilizationSample_t* items) {
        const unsigned int room = utilization == nullptr ? 0 : *processSamplesCount;
        unsigned int ours = 0;
        for (unsigned int i = 0; i < listed; ++i) {
          if (SlotOf(items[i].pid) == nullptr) continue;
          if (ours < room) {
            utilization[ours] = items[i];
            MakeRelative(&utilization[ours], card);
          }
          ++ours;
        }
        *processSamplesCount = ours;
        if (ours == 0) return NVML_ERROR_NOT_FOUND;
        return ours <= room ? NVML_SUCCESS : NVML_ERROR_INSUFFICIENT_SIZE;
      });
}

TESSERA_EXPORT nvmlReturn_t nvmlDeviceGetProcessesUtilizationInfo(
    nvmlDevice_t device, nvmlProcessesUtilizationInfo_v1_t* procesesUtilInfo) {
  constexpr uint32_t kIndex = kNvml_nvmlDeviceGetProcessesUtilizationInfo;
  if (depth > 0) return Call(kIndex, device, procesesUtilInfo);
  if (!EnsureAttached()) return NVML_ERROR_NO_PERMISSION;
  const int card = CardOfHandle(device);
  if (procesesUtilInfo == nullptr || card < 0) return NVML_ERROR_INVALID_ARGUMENT;
  return ReadList<nvmlProcessUtilizationInfo_v1_t>(
      [&](unsigned int* listed, nvmlProcessUtilizationInfo_v1_t* items) {
        nvmlProcessesUtilizationInfo_v1_t all = *procesesUtilInfo;
        all.processSamplesCount = *listed;
        all.procUtilArray = items;
        const nvmlReturn_t result = Call(kIndex, device, &all);
        *listed = all.processSamplesCount;
        return result;
      },
      [&](unsigned int listed, const nvmlProcessUtilizationInfo_v1_t* items) {
        const unsigned int room =
            procesesUtilInfo->procUtilArray == nullptr ? 0 : procesesUtilInfo->processSamplesCount;
        unsigned int ours = 0;
        for (unsigned int i = 0; i < listed; ++i) {
          if (SlotOf(items[i].pid) == nullptr) continue;
          if (ours < room) {
            procesesUtilInfo->procUtilArray[ours] = items[i];
            MakeRelative(&procesesUtilInfo->procUtilArray[ours], card);
          }
          ++ours;
        }
        procesesUtilInfo->processSamplesCount = ours;
        if (ours == 0) return NVML_ERROR_NOT_FOUND;
        return ours <= room ? NVML_SUCCESS : NVML_ERROR_INSUFFICIENT_SIZE;
      });
}

// Denied calls look at no argument, so one function under all their names serves every signature.
extern "C" {
[[gnu::visibility("hidden")]] nvmlReturn_t tessera_nvml_denied() {
  return NVML_ERROR_NO_PERMISSION;
}
}
#define TESSERA_NVML_DENIED(name) \
  TESSERA_EXPORT nvmlReturn_t name() __attribute__((alias("tessera_nvml_denied"), nothrow));
#include "guest/nvml/denied.inc"
#undef TESSERA_NVML_DENIED

namespace tessera::guest {

// All our functions of NVML are exports, and no other export begins so: the object's own table of
// them is the table of wrappers.
bool FindNvmlWrapper(const char* name, Wrapper* found) {
  if (!StartsWith(name, "nvml")) return false;
  Library self;
  ReadSelf(&self);
  void* const wrapper = FindSymbol(self, name);
  if (wrapper == nullptr) return false;
  *found = {wrapper, 0, kNvmlLibrary};
  return true;
}

}  // namespace tessera::guest
