// How the cards of one machine are joined: NUMA nodes, PCIe, NVLink.
//
// A machine is a text file of "simgpu/profiles" (NAME.machine), built into the library and
// overridden by a file of the same name in the folder $SIMGPU_PROFILES:
//
//   card PROFILE BUS NUMA CPUS ROOT SWITCH   one line a card, in the order of their indices
//   nvswitches N BUS                         all NVLinks of all cards go to these N switches,
//                                            which have PCI buses from BUS on
//   nvlink A B N                             N links straight from card A to card B
//
// BUS is the PCI bus number, CPUS a list like "0-15,32-47", ROOT the PCIe root complex (host
// bridge), SWITCH the PCIe switch below it or "none"; roots and switches are numbered over the
// whole machine. A plain list of profiles is a machine too: one NUMA node, a root for every card,
// no NVLink.
//
// The answers here are the truth both libraries tell: NVML's topology and the driver's peer access.
// Plain values; thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "simgpu/state/profile.h"

namespace simgpu {

inline constexpr uint32_t kCardsMax = 8;
inline constexpr uint32_t kNvLinksMax = 18;  // of one card
inline constexpr uint32_t kNvSwitchesMax = 8;
inline constexpr uint32_t kCpusMax = 256;
inline constexpr uint32_t kNoSwitch = 0xffffffff;

// Where a card sits.
struct Place {
  uint32_t pci_bus;
  uint32_t numa_node;
  uint32_t root;
  uint32_t pcie_switch;  // kNoSwitch: directly at its root
  uint64_t cpus[kCpusMax / 64];
};

// The other end of one NVLink.
struct NvLink {
  enum class Kind : uint8_t { kNone, kCard, kSwitch };
  Kind kind;
  uint8_t remote;       // the card's index, or the switch's number
  uint8_t remote_link;  // its link
};

// Plain data, because shared memory holds it.
struct Topology {
  char machine[32];  // "HGX-H100-8"; empty for a list of profiles
  uint64_t made_ns;  // device time at which the machine came to be
  uint32_t card_count;
  uint32_t nvswitches;
  uint32_t nvswitch_bus;  // PCI bus of the first, the others follow
  Place places[kCardsMax];
  NvLink links[kCardsMax][kNvLinksMax];
};

// The nearest thing two cards share on the way over PCIe; the numbers are NVML's.
enum class Ancestor : uint32_t {
  kSelf = 0,
  kSingleSwitch = 10,
  kMultipleSwitches = 20,  // none of our machines has switches below switches
  kHostBridge = 30,
  kNode = 40,
  kSystem = 50,
};
Ancestor CommonAncestor(const Topology& topology, uint32_t a, uint32_t b);

// How many NVLinks of card `a` lead to card `b`, through switches or straight. 0: none.
uint32_t NvLinksBetween(const Topology& topology, uint32_t a, uint32_t b);

// Whether one card reaches the other's memory, and if not, why not. Two cards do when NVLinks lead
// from one to the other, or over PCIe when both are of one model that can and share a NUMA node.
enum class Peer : uint32_t { kOk, kCardCannot, kTopologyCannot };
Peer PeerAccess(const Topology& topology, const Profile& a_profile, uint32_t a,
                const Profile& b_profile, uint32_t b);

// A machine before it stands: its cards' profiles by index, and how they are joined (made_ns is 0).
struct Plan {
  std::vector<Profile> profiles;
  Topology topology = {};
};

// Reads one machine's text. False with "line N: what was expected" in `error`.
bool ParseMachine(std::string_view name, std::string_view text, Plan* plan, std::string* error);

// What $SIMGPU_CARDS asks for: the name of a machine, or profiles with commas between them. False
// with a sentence in `error`.
bool PlanMachine(std::string_view spec, Plan* plan, std::string* error);

// The names of the built-in machines, with a comma between them.
std::string KnownMachines();

}  // namespace simgpu
