// Counting cards, finding them, and who they are: index, name, UUID, PCI address.
#include <cstdio>
#include <cstring>

#include "simgpu/nvml/core.h"

namespace simgpu::nvml {
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

void LegacyBusId(const Card& card, char* out) {
  // A domain beyond 16 bits has no legacy form; ours are small.
  std::snprintf(out, NVML_DEVICE_PCI_BUS_ID_BUFFER_V2_SIZE, "%04X:%02X:%02X.0",
                card.pci_domain & 0xffffu, card.pci_bus & 0xffu, card.pci_slot & 0x1fu);
}

void BusId(const Card& card, char* out) {
  std::snprintf(out, NVML_DEVICE_PCI_BUS_ID_BUFFER_SIZE, "%08X:%02X:%02X.0", card.pci_domain,
                card.pci_bus & 0xffu, card.pci_slot & 0x1fu);
}

nvmlReturn_t LegacyPci(nvmlDevice_t device, nvmlPciInfoLegacy_t* pci) {
  NVML_CARD(ref, device);
  if (pci == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  // Only what every old caller has room for: the reserved words are left alone.
  LegacyBusId(*ref.card, pci->busId);
  pci->domain = ref.card->pci_domain;
  pci->bus = ref.card->pci_bus;
  pci->device = ref.card->pci_slot;
  pci->pciDeviceId = ref.card->profile.pci_device;
  pci->pciSubSystemId = ref.card->profile.pci_subsystem;
  return NVML_SUCCESS;
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

NVML_CALL nvmlDeviceGetIndex(nvmlDevice_t device, unsigned* index) {
  NVML_CARD(ref, device);
  if (index == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *index = ref.card->index;
  return NVML_SUCCESS;
}

NVML_CALL nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned* minor) {
  return nvmlDeviceGetIndex(device, minor);
}

NVML_CALL nvmlDeviceGetName(nvmlDevice_t device, char* name, unsigned length) {
  NVML_CARD(ref, device);
  return Answer(ref.card->profile.name, name, length);
}

NVML_CALL nvmlDeviceGetUUID(nvmlDevice_t device, char* uuid, unsigned length) {
  NVML_CARD(ref, device);
  return Answer(ref.card->uuid, uuid, length);
}

NVML_CALL nvmlDeviceGetVbiosVersion(nvmlDevice_t device, char* version, unsigned length) {
  NVML_CARD(ref, device);
  return Answer(ref.card->profile.vbios, version, length);
}

NVML_CALL nvmlDeviceGetPciInfo(nvmlDevice_t device, nvmlPciInfoLegacy_t* pci) {
  return LegacyPci(device, pci);
}
NVML_CALL nvmlDeviceGetPciInfo_v2(nvmlDevice_t device, nvmlPciInfoLegacy_t* pci) {
  return LegacyPci(device, pci);
}

NVML_CALL nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t* pci) {
  NVML_CARD(ref, device);
  if (pci == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *pci = {};
  LegacyBusId(*ref.card, pci->busIdLegacy);
  BusId(*ref.card, pci->busId);
  pci->domain = ref.card->pci_domain;
  pci->bus = ref.card->pci_bus;
  pci->device = ref.card->pci_slot;
  pci->pciDeviceId = ref.card->profile.pci_device;
  pci->pciSubSystemId = ref.card->profile.pci_subsystem;
  return NVML_SUCCESS;
}

NVML_CALL nvmlDeviceGetPciInfoExt(nvmlDevice_t device, nvmlPciInfoExt_v1_t* pci) {
  NVML_CARD(ref, device);
  if (pci == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (pci->version != NvmlVersion<nvmlPciInfoExt_v1_t>(1)) {
    return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  }
  BusId(*ref.card, pci->busId);
  pci->domain = ref.card->pci_domain;
  pci->bus = ref.card->pci_bus;
  pci->device = ref.card->pci_slot;
  pci->pciDeviceId = ref.card->profile.pci_device;
  pci->pciSubSystemId = ref.card->profile.pci_subsystem;
  pci->baseClass = 0x03;  // display controller
  pci->subClass = 0x02;   // 3D
  return NVML_SUCCESS;
}

}  // namespace simgpu::nvml
