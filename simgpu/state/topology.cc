#include "simgpu/state/topology.h"

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <utility>

#include "simgpu/state/text.h"

namespace simgpu {
namespace {

struct BuiltIn {
  const char* name;
  const char* text;
};
constexpr BuiltIn kMachines[] = {
#include "simgpu/machines.inc"
};

bool ParseBounded(std::string_view text, uint64_t max, uint32_t* value) {
  uint64_t wide = 0;
  if (!ParseNumber(text, &wide) || wide > max) return false;
  *value = static_cast<uint32_t>(wide);
  return true;
}

// "0-15,32-47" or "3" into bits. At least one CPU.
bool ParseCpus(std::string_view text, uint64_t* cpus) {
  if (text.empty()) return false;
  while (!text.empty()) {
    const size_t comma = text.find(',');
    const std::string_view range = text.substr(0, comma);
    const size_t dash = range.find('-');
    uint32_t first = 0;
    uint32_t last = 0;
    if (!ParseBounded(range.substr(0, dash), kCpusMax - 1, &first)) return false;
    last = first;
    if (dash != std::string_view::npos &&
        !ParseBounded(range.substr(dash + 1), kCpusMax - 1, &last)) {
      return false;
    }
    if (last < first) return false;
    for (uint32_t cpu = first; cpu <= last; ++cpu) cpus[cpu / 64] |= uint64_t{1} << (cpu % 64);
    if (comma == std::string_view::npos) return true;
    text.remove_prefix(comma + 1);
    if (text.empty()) return false;
  }
  return true;
}

uint32_t FreeLink(const Topology& topology, uint32_t card, uint32_t links) {
  uint32_t link = 0;
  while (link < links && topology.links[card][link].kind != NvLink::Kind::kNone) ++link;
  return link;
}

const char* AddCard(std::string_view rest, Plan* plan, std::string* detail) {
  constexpr const char* kExpected = "PROFILE BUS NUMA CPUS ROOT SWITCH";
  Topology& topology = plan->topology;
  if (topology.card_count == kCardsMax) return "no more than kCardsMax = 8 cards";
  Profile profile;
  if (!FindProfile(TakeWord(&rest), &profile, detail)) return detail->c_str();
  Place place = {};
  if (!ParseBounded(TakeWord(&rest), 0xff, &place.pci_bus)) return kExpected;
  if (!ParseBounded(TakeWord(&rest), 63, &place.numa_node)) return kExpected;
  if (!ParseCpus(TakeWord(&rest), place.cpus)) return kExpected;
  if (!ParseBounded(TakeWord(&rest), 63, &place.root)) return kExpected;
  const std::string_view pcie_switch = TakeWord(&rest);
  place.pcie_switch = kNoSwitch;
  if (pcie_switch != "none" && !ParseBounded(pcie_switch, 63, &place.pcie_switch)) return kExpected;
  if (!rest.empty()) return kExpected;
  for (uint32_t i = 0; i < topology.card_count; ++i) {
    if (topology.places[i].pci_bus == place.pci_bus) return "a BUS no other card has";
  }
  topology.places[topology.card_count++] = place;
  plan->profiles.push_back(profile);
  return nullptr;
}

const char* AddSwitches(std::string_view rest, Plan* plan) {
  Topology& topology = plan->topology;
  if (!ParseBounded(TakeWord(&rest), kNvSwitchesMax, &topology.nvswitches) ||
      topology.nvswitches == 0 ||
      !ParseBounded(TakeWord(&rest), 0xff - kNvSwitchesMax, &topology.nvswitch_bus) ||
      !rest.empty()) {
    return "a number of NVSwitches, 1 to kNvSwitchesMax = 8, and a PCI bus";
  }
  for (uint32_t card = 0; card < topology.card_count; ++card) {
    const uint32_t links = plan->profiles[card].nvlink_links;
    if (links == 0) return "cards with NVLink above it";
    for (uint32_t link = 0; link < links; ++link) {
      if (topology.links[card][link].kind != NvLink::Kind::kNone) return "links that are free";
      // Neighbouring links go to one switch; there each card has its own row of ports.
      const uint32_t to = link * topology.nvswitches / links;
      const uint32_t first = (to * links + topology.nvswitches - 1) / topology.nvswitches;
      const uint32_t row = (links + topology.nvswitches - 1) / topology.nvswitches;
      topology.links[card][link] = {NvLink::Kind::kSwitch, static_cast<uint8_t>(to),
                                    static_cast<uint8_t>(card * row + link - first)};
    }
  }
  return nullptr;
}

const char* AddLinks(std::string_view rest, Plan* plan) {
  Topology& topology = plan->topology;
  uint32_t a = 0;
  uint32_t b = 0;
  uint32_t count = 0;
  if (!ParseBounded(TakeWord(&rest), kCardsMax, &a) ||
      !ParseBounded(TakeWord(&rest), kCardsMax, &b) ||
      !ParseBounded(TakeWord(&rest), kNvLinksMax, &count) || !rest.empty() || count == 0 ||
      a == b || a >= topology.card_count || b >= topology.card_count) {
    return "two cards that stand above it and a number of links";
  }
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t from = FreeLink(topology, a, plan->profiles[a].nvlink_links);
    const uint32_t to = FreeLink(topology, b, plan->profiles[b].nvlink_links);
    if (from == plan->profiles[a].nvlink_links || to == plan->profiles[b].nvlink_links) {
      return "no more links than the cards have";
    }
    topology.links[a][from] = {NvLink::Kind::kCard, static_cast<uint8_t>(b),
                               static_cast<uint8_t>(to)};
    topology.links[b][to] = {NvLink::Kind::kCard, static_cast<uint8_t>(a),
                             static_cast<uint8_t>(from)};
  }
  return nullptr;
}

// A list of profiles: a root for every card, one NUMA node with all CPUs.
bool PlanList(std::string_view rest, Plan* plan, std::string* error) {
  Topology& topology = plan->topology;
  while (true) {
    const size_t comma = rest.find(',');
    const std::string_view key = Trim(rest.substr(0, comma));
    if (topology.card_count == kCardsMax) {
      *error = "more than kCardsMax = " + std::to_string(kCardsMax) + " cards";
      return false;
    }
    const uint32_t index = topology.card_count;
    Profile profile;
    if (!FindProfile(key, &profile, error)) return false;
    plan->profiles.push_back(profile);
    Place& place = topology.places[index];
    place.pci_bus = 0x17 + 0x10 * index;
    place.root = index;
    place.pcie_switch = kNoSwitch;
    std::memset(place.cpus, 0xff, sizeof place.cpus);
    ++topology.card_count;
    if (comma == std::string_view::npos) return true;
    rest.remove_prefix(comma + 1);
  }
}

}  // namespace

Ancestor CommonAncestor(const Topology& topology, uint32_t a, uint32_t b) {
  if (a == b) return Ancestor::kSelf;
  const Place& one = topology.places[a];
  const Place& two = topology.places[b];
  if (one.pcie_switch != kNoSwitch && one.pcie_switch == two.pcie_switch) {
    return Ancestor::kSingleSwitch;
  }
  if (one.root == two.root) return Ancestor::kHostBridge;
  return one.numa_node == two.numa_node ? Ancestor::kNode : Ancestor::kSystem;
}

uint32_t NvLinksBetween(const Topology& topology, uint32_t a, uint32_t b) {
  if (a == b) return 0;
  uint32_t count = 0;
  bool reaches = false;
  for (const NvLink& link : topology.links[b]) reaches |= link.kind == NvLink::Kind::kSwitch;
  for (const NvLink& link : topology.links[a]) {
    if (link.kind == NvLink::Kind::kCard && link.remote == b) ++count;
    if (link.kind == NvLink::Kind::kSwitch && reaches) ++count;
  }
  return count;
}

Peer PeerAccess(const Topology& topology, const Profile& a_profile, uint32_t a,
                const Profile& b_profile, uint32_t b) {
  if (a == b) return Peer::kOk;
  if (NvLinksBetween(topology, a, b) != 0) return Peer::kOk;
  if (std::strcmp(a_profile.name, b_profile.name) != 0 || a_profile.p2p_pcie == 0) {
    return Peer::kCardCannot;
  }
  return CommonAncestor(topology, a, b) == Ancestor::kSystem ? Peer::kTopologyCannot : Peer::kOk;
}

bool ParseMachine(std::string_view name, std::string_view text, Plan* plan, std::string* error) {
  *plan = Plan();
  if (name.empty() || name.size() >= sizeof plan->topology.machine) {
    *error = "machine name: expected 1 to 31 letters";
    return false;
  }
  std::memcpy(plan->topology.machine, name.data(), name.size());
  int line = 0;
  while (!text.empty()) {
    ++line;
    const size_t end = text.find('\n');
    std::string_view row = Trim(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (row.empty() || row[0] == '#') continue;
    const std::string_view key = TakeWord(&row);
    std::string detail;
    const char* const expected = key == "card"         ? AddCard(row, plan, &detail)
                                 : key == "nvswitches" ? AddSwitches(row, plan)
                                 : key == "nvlink"     ? AddLinks(row, plan)
                                                       : "card, nvswitches or nvlink";
    if (expected == nullptr) continue;
    *error = "line " + std::to_string(line) + ": " + std::string(key) + ": expected " + expected;
    if (!detail.empty()) {
      *error = "line " + std::to_string(line) + ": " + std::string(key) + ": " + detail;
    }
    return false;
  }
  if (plan->topology.card_count == 0) {
    *error = "expected at least one line \"card\"";
    return false;
  }
  return true;
}

std::string KnownMachines() {
  std::string known;
  for (const BuiltIn& machine : kMachines) {
    known += std::string(known.empty() ? "" : ", ") + machine.name;
  }
  return known;
}

bool PlanMachine(std::string_view spec, Plan* plan, std::string* error) {
  *plan = Plan();
  const std::string_view name = Trim(spec);
  const char* folder = std::getenv("SIMGPU_PROFILES");
  const bool word = !name.empty() && name.find_first_of("/, ") == std::string_view::npos;
  if (word && folder != nullptr && *folder != 0) {
    const std::string path = std::string(folder) + "/" + std::string(name) + ".machine";
    if (std::ifstream in(path, std::ios::binary); in) {
      const std::string text((std::istreambuf_iterator<char>(in)),
                             std::istreambuf_iterator<char>());
      if (ParseMachine(name, text, plan, error)) return true;
      *error = path + ": " + *error;
      return false;
    }
  }
  for (const BuiltIn& machine : kMachines) {
    if (name == machine.name) return ParseMachine(name, machine.text, plan, error);
  }
  if (PlanList(spec, plan, error)) return true;
  if (error->starts_with("no profile")) {
    *error += "; or a machine: " + KnownMachines();
  }
  return false;
}

}  // namespace simgpu
