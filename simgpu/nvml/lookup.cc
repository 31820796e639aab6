// Counting cards, finding them, and who they are: index, name, UUID, PCI address.
#include <cstdio>
#include <cstring>

#include "simgpu/nvml/core.h"

// Who a card is, is also told of a lost one.
#define IDENTITY(ref, device)               \
  const CardRef ref = FindEvenLost(device); \
  if (ref.card == nullptr) return ref.code

namespace simgpu::nvml {

void LegacyBusId(unsigned domain, unsigned bus, unsigned slot, char* out) {
  // A domain beyond 16 bits has no legacy form; ours are small.
  std::snprintf(out, NVML_DEVICE_PCI_BUS_ID_BUFFER_V2_SIZE, "%04X:%02X:%02X.0", domain & 0xffffu,
                bus & 0xffu, slot & 0x1fu);
}

void BusId(unsigned domain, unsigned bus, unsigned slot, char* out) {
  std::snprintf(out, NVML_DEVICE_PCI_BUS_ID_BUFFER_SIZE, "%08X:%02X:%02X.0", domain, bus & 0xffu,
                slot & 0x1fu);
}

namespace {

nvmlReturn_t Count(unsigned* count) {
  State* const state = Ready();
  if (state == nullptr) return NVML_ERROR_UNINITIALIZED;
  if (count == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *count = state->card_count();
  return NVML_SUCCESS;
}

nvmlReturn_t ByIndex(unsigned index, nvmlDevice_t* device) {
  State* const state = Ready();
  if (state == nullptr) return NVML_ERROR_UNINITIALIZED;
  if (device == nullptr || index >= state->card_count()) return NVML_ERROR_INVALID_ARGUMENT;
  *device = HandleOf(state->card(index));
  return NVML_SUCCESS;
}

// The first card that `matches`, else NOT_FOUND.
template <typename Matches>
nvmlReturn_t ByMatch(nvmlDevice_t* device, Matches matches) {
  State* const state = Ready();
  if (state == nullptr) return NVML_ERROR_UNINITIALIZED;
  for (std::uint32_t i = 0; i < state->card_count(); ++i) {
    if (!matches(state->card(i))) continue;
    *device = HandleOf(state->card(i));
    return NVML_SUCCESS;
  }
  return NVML_ERROR_NOT_FOUND;
}

// "00000000:3B:00.0", "0000:3b:00.0" and "3B:00.0" name the same card.
nvmlReturn_t ByBusId(const char* text, nvmlDevice_t* device) {
  if (Ready() == nullptr) return NVML_ERROR_UNINITIALIZED;
  if (text == nullptr || device == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  unsigned domain = 0;
  unsigned bus = 0;
  unsigned slot = 0;
  unsigned function = 0;
  int end = 0;
  const bool full =
      std::sscanf(text, "%8x:%2x:%2x.%1x%n", &domain, &bus, &slot, &function, &end) == 4 &&
      text[end] == '\0';
  if (!full) {
    domain = 0;
    if (std::sscanf(text, "%2x:%2x.%1x%n", &bus, &slot, &function, &end) != 3 ||
        text[end] != '\0') {
      return NVML_ERROR_INVALID_ARGUMENT;
    }
  }
  return ByMatch(device, [&](const Card& card) {
    return card.pci_domain == domain && card.pci_bus == bus && card.pci_slot == slot &&
           function == 0;
  });
}

// The members all layouts share.
template <typename Info>
void FillPci(const Card& card, Info* pci) {
  pci->domain = card.pci_domain;
  pci->bus = card.pci_bus;
  pci->device = card.pci_slot;
  pci->pciDeviceId = card.profile.pci_device;
  pci->pciSubSystemId = card.profile.pci_subsystem;
}

nvmlReturn_t LegacyPci(nvmlDevice_t device, nvmlPciInfoLegacy_t* pci) {
  IDENTITY(ref, device);
  if (pci == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  // Only what every old caller has room for: the reserved words are left alone.
  LegacyBusId(ref.card->pci_domain, ref.card->pci_bus, ref.card->pci_slot, pci->busId);
  FillPci(*ref.card, pci);
  return NVML_SUCCESS;
}

// A MIG device by its UUID, on whatever card it lies; null when there is none.
nvmlDevice_t MigByUuid(State* state, const char* uuid) {
  for (std::uint32_t card = 0; card < state->card_count(); ++card) {
    for (const GpuInstance& gpu : Instances()->GpuInstances(card)) {
      for (const ComputeInstance& one : Instances()->ComputeInstances(card, gpu.id)) {
        if (Instances()->Uuid(card, gpu.id, one.id) == uuid) {
          return MigHandleOf(card, gpu.id, one.id);
        }
      }
    }
  }
  return nullptr;
}

}  // namespace

NVML_CALL nvmlDeviceGetCount(unsigned* count) { return Count(count); }
NVML_CALL nvmlDeviceGetCount_v2(unsigned* count) { return Count(count); }

NVML_CALL nvmlDeviceGetHandleByIndex(unsigned index, nvmlDevice_t* device) {
  return ByIndex(index, device);
}
NVML_CALL nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t* device) {
  return ByIndex(index, device);
}

NVML_CALL nvmlDeviceGetHandleByUUID(const char* uuid, nvmlDevice_t* device) {
  if (Ready() == nullptr) return NVML_ERROR_UNINITIALIZED;
  if (uuid == nullptr || device == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (std::strncmp(uuid, "MIG-", 4) == 0) {
    const nvmlDevice_t found = MigByUuid(Ready(), uuid);
    if (found == nullptr) return NVML_ERROR_NOT_FOUND;
    *device = found;
    return NVML_SUCCESS;
  }
  return ByMatch(device, [&](const Card& card) { return std::strcmp(card.uuid, uuid) == 0; });
}

NVML_CALL nvmlDeviceGetHandleByUUIDV(const nvmlUUID_v1_t* uuid, nvmlDevice_t* device) {
  if (Ready() == nullptr) return NVML_ERROR_UNINITIALIZED;
  if (uuid == nullptr || device == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (uuid->version != NvmlVersion<nvmlUUID_v1_t>(1)) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  if (uuid->type == 1) {
    return ByMatch(device, [&](const Card& card) {
      return std::strncmp(card.uuid, uuid->value.str, sizeof uuid->value.str) == 0;
    });
  }
  if (uuid->type != 2) return NVML_ERROR_INVALID_ARGUMENT;
  return ByMatch(device, [&](const Card& card) {
    return std::memcmp(card.uuid_bytes, uuid->value.bytes, sizeof uuid->value.bytes) == 0;
  });
}

NVML_CALL nvmlDeviceGetHandleByPciBusId(const char* bus_id, nvmlDevice_t* device) {
  return ByBusId(bus_id, device);
}
NVML_CALL nvmlDeviceGetHandleByPciBusId_v2(const char* bus_id, nvmlDevice_t* device) {
  return ByBusId(bus_id, device);
}

// A MIG device's index is the one nvmlDeviceGetMigDeviceHandleByIndex finds it by.
NVML_CALL nvmlDeviceGetIndex(nvmlDevice_t device, unsigned* index) {
  if (const MigRef mig = FindMig(device); mig.card != nullptr) {
    unsigned before = 0;
    for (const GpuInstance& gpu : Instances()->GpuInstances(mig.card->index)) {
      if (gpu.id > mig.gpu_instance.id) break;
      for (const ComputeInstance& one : Instances()->ComputeInstances(mig.card->index, gpu.id)) {
        if (gpu.id < mig.gpu_instance.id || one.id < mig.instance.id) ++before;
      }
    }
    return Give(index, before);
  }
  IDENTITY(ref, device);
  if (index == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *index = ref.card->index;
  return NVML_SUCCESS;
}

NVML_CALL nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned* minor) {
  IDENTITY(ref, device);
  return Give(minor, static_cast<unsigned>(ref.card->index));
}

NVML_CALL nvmlDeviceGetName(nvmlDevice_t device, char* name, unsigned length) {
  if (const MigRef mig = FindMig(device); mig.card != nullptr) {
    return Answer(mig.card->profile.name + (" " + Mig::Name(mig.gpu_instance, mig.instance)), name,
                  length);
  }
  IDENTITY(ref, device);
  return Answer(ref.card->profile.name, name, length);
}

NVML_CALL nvmlDeviceGetUUID(nvmlDevice_t device, char* uuid, unsigned length) {
  if (const MigRef mig = FindMig(device); mig.card != nullptr) {
    return Answer(Instances()->Uuid(mig.card->index, mig.gpu_instance.id, mig.instance.id), uuid,
                  length);
  }
  IDENTITY(ref, device);
  return Answer(ref.card->uuid, uuid, length);
}

NVML_CALL nvmlDeviceGetVbiosVersion(nvmlDevice_t device, char* version, unsigned length) {
  IDENTITY(ref, device);
  return Answer(ref.card->profile.vbios, version, length);
}

NVML_CALL nvmlDeviceGetPciInfo(nvmlDevice_t device, nvmlPciInfoLegacy_t* pci) {
  return LegacyPci(device, pci);
}
NVML_CALL nvmlDeviceGetPciInfo_v2(nvmlDevice_t device, nvmlPciInfoLegacy_t* pci) {
  return LegacyPci(device, pci);
}

NVML_CALL nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t* pci) {
  IDENTITY(ref, device);
  if (pci == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *pci = {};
  LegacyBusId(ref.card->pci_domain, ref.card->pci_bus, ref.card->pci_slot, pci->busIdLegacy);
  BusId(ref.card->pci_domain, ref.card->pci_bus, ref.card->pci_slot, pci->busId);
  FillPci(*ref.card, pci);
  return NVML_SUCCESS;
}

NVML_CALL nvmlDeviceGetPciInfoExt(nvmlDevice_t device, nvmlPciInfoExt_v1_t* pci) {
  IDENTITY(ref, device);
  if (pci == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (pci->version != NvmlVersion<nvmlPciInfoExt_v1_t>(1)) {
    return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  }
  BusId(ref.card->pci_domain, ref.card->pci_bus, ref.card->pci_slot, pci->busId);
  FillPci(*ref.card, pci);
  pci->baseClass = 0x03;  // display controller
  pci->subClass = 0x02;   // 3D
  return NVML_SUCCESS;
}

}  // namespace simgpu::nvml
