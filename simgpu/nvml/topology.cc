// How the cards of the machine are joined (state/topology.h), as NVML tells it.
#include <algorithm>
#include <cstring>

#include "simgpu/nvml/core.h"

namespace simgpu::nvml {
namespace {

// Two cards of one machine, or the reason why not.
struct Pair {
  CardRef one;
  CardRef two;
  nvmlReturn_t code = NVML_SUCCESS;
};
Pair FindPair(nvmlDevice_t one, nvmlDevice_t two) {
  Pair pair{Find(one), Find(two), NVML_SUCCESS};
  if (pair.one.card == nullptr) {
    pair.code = pair.one.code;
  } else if (pair.two.card == nullptr) {
    pair.code = pair.two.code;
  }
  return pair;
}

unsigned PeerStatus(const Pair& pair) {
  const Topology& topology = pair.one.state->topology();
  switch (PeerAccess(topology, pair.one.card->profile, pair.one.card->index, pair.two.card->profile,
                     pair.two.card->index)) {
    case Peer::kOk:
      return NVML_P2P_STATUS_OK;
    case Peer::kCardCannot:
      return NVML_P2P_STATUS_GPU_NOT_SUPPORTED;
    default:
      return NVML_P2P_STATUS_IOH_TOPOLOGY_NOT_SUPPORTED;
  }
}

// Copies a set of bits into the caller's words of `unsigned long`; what does not fit is left out.
nvmlReturn_t GiveSet(const std::uint64_t* bits, unsigned bit_words, unsigned words,
                     unsigned long* out) {
  static_assert(sizeof(unsigned long) == sizeof(std::uint64_t));
  if (out == nullptr || words == 0) return NVML_ERROR_INVALID_ARGUMENT;
  std::fill(out, out + words, 0ul);
  std::copy(bits, bits + std::min(bit_words, words), out);
  return NVML_SUCCESS;
}

nvmlReturn_t CpuSet(nvmlDevice_t device, unsigned words, unsigned long* set) {
  NVML_CARD(ref, device);
  const Place& place = ref.state->topology().places[ref.card->index];
  return GiveSet(place.cpus, kCpusMax / 64, words, set);
}

// One link of a card, in use or not.
struct LinkRef {
  CardRef ref;
  const NvLink* link = nullptr;
  nvmlReturn_t code = NVML_SUCCESS;
};
LinkRef FindLink(nvmlDevice_t device, unsigned link) {
  LinkRef found{Find(device), nullptr, NVML_SUCCESS};
  if (found.ref.card == nullptr) {
    found.code = found.ref.code;
  } else if (found.ref.card->profile.nvlink_links == 0) {
    found.code = NVML_ERROR_NOT_SUPPORTED;
  } else if (link >= found.ref.card->profile.nvlink_links) {
    found.code = NVML_ERROR_INVALID_ARGUMENT;
  } else {
    found.link = &found.ref.state->topology().links[found.ref.card->index][link];
  }
  return found;
}

bool Active(const LinkRef& found) { return found.link->kind != NvLink::Kind::kNone; }

// The chip at the other end. An NVSwitch sits on the board's own PCIe bus; which chip it is is not
// simulated, so only its address is told.
nvmlReturn_t RemotePci(nvmlDevice_t device, unsigned link, nvmlPciInfo_t* pci) {
  const LinkRef found = FindLink(device, link);
  if (found.link == nullptr) return found.code;
  if (pci == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (!Active(found)) return NVML_ERROR_NOT_SUPPORTED;
  *pci = {};
  if (found.link->kind == NvLink::Kind::kSwitch) {
    pci->bus = found.ref.state->topology().nvswitch_bus + found.link->remote;
  } else {
    const Card& card = found.ref.state->card(found.link->remote);
    pci->domain = card.pci_domain;
    pci->bus = card.pci_bus;
    pci->device = card.pci_slot;
    pci->pciDeviceId = card.profile.pci_device;
    pci->pciSubSystemId = card.profile.pci_subsystem;
  }
  LegacyBusId(pci->domain, pci->bus, pci->device, pci->busIdLegacy);
  BusId(pci->domain, pci->bus, pci->device, pci->busId);
  return NVML_SUCCESS;
}

// Cards of these generations join a fabric when NVSwitches connect them.
bool InFabric(const CardRef& ref) {
  return ref.state->topology().nvswitches != 0 && ref.card->profile.capability_major >= 9;
}

// What the three layouts of the fabric's state share. One machine is no cluster, so the UUID is 0.
template <typename Info>
void FillFabric(Info* info) {
  std::memset(info->clusterUuid, 0, sizeof info->clusterUuid);
  info->status = NVML_SUCCESS;
  info->cliqueId = 0;
  info->state = NVML_GPU_FABRIC_STATE_COMPLETED;
  constexpr unsigned kBandwidthNotDegraded = 2;
  if constexpr (requires { info->healthMask; }) info->healthMask = kBandwidthNotDegraded;
  constexpr unsigned char kHealthy = 1;
  if constexpr (requires { info->healthSummary; }) info->healthSummary = kHealthy;
}

}  // namespace

NVML_CALL nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t one, nvmlDevice_t two, unsigned* level) {
  const Pair pair = FindPair(one, two);
  if (pair.code != NVML_SUCCESS) return pair.code;
  return Give(level, static_cast<unsigned>(CommonAncestor(
                         pair.one.state->topology(), pair.one.card->index, pair.two.card->index)));
}

// The cards whose nearest common ancestor with this one is of exactly that level.
NVML_CALL nvmlDeviceGetTopologyNearestGpus(nvmlDevice_t device, unsigned level, unsigned* count,
                                           nvmlDevice_t* devices) {
  NVML_CARD(ref, device);
  if (level > NVML_TOPOLOGY_SYSTEM || level % 10 != 0) return NVML_ERROR_INVALID_ARGUMENT;
  std::vector<std::uint32_t> near;
  for (std::uint32_t i = 0; i < ref.state->card_count(); ++i) {
    if (i == ref.card->index) continue;
    const Ancestor ancestor = CommonAncestor(ref.state->topology(), ref.card->index, i);
    if (static_cast<unsigned>(ancestor) == level) near.push_back(i);
  }
  return GiveList(near, count, devices, NVML_SUCCESS,
                  [&](std::uint32_t i, nvmlDevice_t* out) { *out = HandleOf(ref.state->card(i)); });
}

// The cards near a CPU.
NVML_CALL nvmlSystemGetTopologyGpuSet(unsigned cpu, unsigned* count, nvmlDevice_t* devices) {
  State* const state = Ready();
  if (state == nullptr) return NVML_ERROR_UNINITIALIZED;
  if (cpu >= kCpusMax) return NVML_ERROR_INVALID_ARGUMENT;
  std::vector<std::uint32_t> near;
  for (std::uint32_t i = 0; i < state->card_count(); ++i) {
    if ((state->topology().places[i].cpus[cpu / 64] >> (cpu % 64) & 1) != 0) near.push_back(i);
  }
  return GiveList(near, count, devices, NVML_SUCCESS,
                  [&](std::uint32_t i, nvmlDevice_t* out) { *out = HandleOf(state->card(i)); });
}

NVML_CALL nvmlDeviceGetP2PStatus(nvmlDevice_t one, nvmlDevice_t two, unsigned capability,
                                 unsigned* status) {
  const Pair pair = FindPair(one, two);
  if (pair.code != NVML_SUCCESS) return pair.code;
  if (pair.one.card == pair.two.card) return NVML_ERROR_INVALID_ARGUMENT;
  const Topology& topology = pair.one.state->topology();
  const bool linked = NvLinksBetween(topology, pair.one.card->index, pair.two.card->index) != 0;
  switch (capability) {
    case NVML_P2P_CAPS_INDEX_READ:
    case NVML_P2P_CAPS_INDEX_WRITE:
      return Give(status, PeerStatus(pair));
    case NVML_P2P_CAPS_INDEX_NVLINK:
    case NVML_P2P_CAPS_INDEX_ATOMICS:  // only NVLink carries them
      return Give(status, linked ? NVML_P2P_STATUS_OK : NVML_P2P_STATUS_NOT_SUPPORTED);
    case NVML_P2P_CAPS_INDEX_PCI:
      return Give(status, linked ? NVML_P2P_STATUS_NOT_SUPPORTED : PeerStatus(pair));
    default:
      return NVML_ERROR_INVALID_ARGUMENT;
  }
}

NVML_CALL nvmlDeviceGetCpuAffinity(nvmlDevice_t device, unsigned words, unsigned long* set) {
  return CpuSet(device, words, set);
}

// The CPUs of the whole socket are not part of a machine's description.
NVML_CALL nvmlDeviceGetCpuAffinityWithinScope(nvmlDevice_t device, unsigned words,
                                              unsigned long* set, unsigned scope) {
  if (scope == NVML_AFFINITY_SCOPE_NODE) return CpuSet(device, words, set);
  NVML_CARD(ref, device);
  return scope == NVML_AFFINITY_SCOPE_SOCKET ? NVML_ERROR_NOT_SUPPORTED
                                             : NVML_ERROR_INVALID_ARGUMENT;
}

NVML_CALL nvmlDeviceGetMemoryAffinity(nvmlDevice_t device, unsigned words, unsigned long* set,
                                      unsigned scope) {
  NVML_CARD(ref, device);
  if (scope == NVML_AFFINITY_SCOPE_SOCKET) return NVML_ERROR_NOT_SUPPORTED;
  if (scope != NVML_AFFINITY_SCOPE_NODE) return NVML_ERROR_INVALID_ARGUMENT;
  const std::uint64_t node = std::uint64_t{1}
                             << ref.state->topology().places[ref.card->index].numa_node;
  return GiveSet(&node, 1, words, set);
}

NVML_CALL nvmlDeviceGetNvLinkState(nvmlDevice_t device, unsigned link, unsigned* active) {
  const LinkRef found = FindLink(device, link);
  if (found.link == nullptr) return found.code;
  return Give(active, Active(found) ? NVML_FEATURE_ENABLED : NVML_FEATURE_DISABLED);
}

NVML_CALL nvmlDeviceGetNvLinkVersion(nvmlDevice_t device, unsigned link, unsigned* version) {
  const LinkRef found = FindLink(device, link);
  if (found.link == nullptr) return found.code;
  return Give(version, static_cast<unsigned>(found.ref.card->profile.nvlink_version));
}

NVML_CALL nvmlDeviceGetNvLinkCapability(nvmlDevice_t device, unsigned link, unsigned capability,
                                        unsigned* value) {
  const LinkRef found = FindLink(device, link);
  if (found.link == nullptr) return found.code;
  switch (capability) {
    case NVML_NVLINK_CAP_P2P_SUPPORTED:
    case NVML_NVLINK_CAP_P2P_ATOMICS:
    case NVML_NVLINK_CAP_VALID:
      return Give(value, Active(found) ? 1u : 0u);
    case NVML_NVLINK_CAP_SYSMEM_ACCESS:  // none of our links ends at a processor
    case NVML_NVLINK_CAP_SYSMEM_ATOMICS:
    case NVML_NVLINK_CAP_SLI_BRIDGE:
      return Give(value, 0u);
    default:
      return NVML_ERROR_INVALID_ARGUMENT;
  }
}

NVML_CALL nvmlDeviceGetNvLinkRemotePciInfo(nvmlDevice_t device, unsigned link, nvmlPciInfo_t* pci) {
  return RemotePci(device, link, pci);
}
NVML_CALL nvmlDeviceGetNvLinkRemotePciInfo_v2(nvmlDevice_t device, unsigned link,
                                              nvmlPciInfo_t* pci) {
  return RemotePci(device, link, pci);
}

NVML_CALL nvmlDeviceGetNvLinkRemoteDeviceType(nvmlDevice_t device, unsigned link, unsigned* type) {
  const LinkRef found = FindLink(device, link);
  if (found.link == nullptr) return found.code;
  if (!Active(found)) return NVML_ERROR_NOT_SUPPORTED;
  return Give(type, found.link->kind == NvLink::Kind::kSwitch ? NVML_NVLINK_DEVICE_TYPE_SWITCH
                                                              : NVML_NVLINK_DEVICE_TYPE_GPU);
}

// A simulated link loses nothing: replay, recovery and the two checksum counters stay at 0.
NVML_CALL nvmlDeviceGetNvLinkErrorCounter(nvmlDevice_t device, unsigned link, unsigned counter,
                                          unsigned long long* value) {
  const LinkRef found = FindLink(device, link);
  if (found.link == nullptr) return found.code;
  if (counter > 3) return NVML_ERROR_INVALID_ARGUMENT;
  return Active(found) ? Give(value, 0ull) : NVML_ERROR_NOT_SUPPORTED;
}

NVML_CALL nvmlDeviceGetGpuFabricInfo(nvmlDevice_t device, nvmlGpuFabricInfo_t* info) {
  NVML_CARD(ref, device);
  if (info == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (!InFabric(ref)) return NVML_ERROR_NOT_SUPPORTED;
  FillFabric(info);
  return NVML_SUCCESS;
}

NVML_CALL nvmlDeviceGetGpuFabricInfoV(nvmlDevice_t device, nvmlGpuFabricInfo_v2_t* info) {
  NVML_CARD(ref, device);
  if (info == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  const bool third = info->version == NvmlVersion<nvmlGpuFabricInfo_v3_t>(3);
  if (!third && info->version != NvmlVersion<nvmlGpuFabricInfo_v2_t>(2)) {
    return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  }
  if (!InFabric(ref)) return NVML_ERROR_NOT_SUPPORTED;
  if (third) {
    FillFabric(reinterpret_cast<nvmlGpuFabricInfo_v3_t*>(info));
  } else {
    FillFabric(info);
  }
  return NVML_SUCCESS;
}

}  // namespace simgpu::nvml
