// A card as discovered on a node, and a share of one. Plain values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/units.h"

namespace tessera::device {

// How well two cards of a node are connected: the higher, the better. Measured by the vendor's
// adapter; a pair without a link is worth 0.
struct Link {
  std::string peer_uuid;
  std::uint32_t score = 0;
  bool operator==(const Link&) const = default;
};

struct Card {
  std::string uuid;    // as the vendor prints it ("GPU-...")
  std::string vendor;  // "nvidia"
  std::string model;   // "NVIDIA A100-SXM4-80GB"
  int index = 0;       // the driver's own order on this node
  std::string pci_bus_id;
  std::uint64_t memory_bytes = 0;   // what the driver reports as total
  std::uint32_t compute_units = 0;  // streaming multiprocessors
  int numa_node = -1;               // -1: unknown
  bool healthy = true;
  std::string health_reason;               // empty when healthy
  bool simulated = false;                  // a simgpu card; every output that shows it says so
  std::uint64_t granule_bytes = 2 * kMiB;  // the driver's page for device memory
  std::uint64_t context_bytes = 0;         // measured at discovery: what one context takes
  std::vector<Link> links;                 // to other cards of the node, in any order
};

// How the slices of a card are held apart. All slices of one card are held the same way; a whole
// card and one that is passed through hold nothing beside them.
enum class Isolation : std::uint8_t {
  kShim,     // in turns, by the guest library
  kSpatial,  // at the same time, as clients of the card's MPS daemon; memory by the guest library
  kMig,
  kTemplate,  // a shape of the maker's own vNPUs
  kWhole,
  kPassthrough,
};
inline constexpr std::uint32_t kIsolations = 6;

constexpr const char* IsolationName(Isolation isolation) {
  constexpr const char* kNames[kIsolations] = {"shim",     "spatial", "mig",
                                               "template", "whole",   "passthrough"};
  const auto at = static_cast<std::uint32_t>(isolation);
  return at < kIsolations ? kNames[at] : "unknown";
}

constexpr std::optional<Isolation> IsolationNamed(std::string_view name) {
  for (std::uint32_t i = 0; i < kIsolations; ++i) {
    if (name == IsolationName(static_cast<Isolation>(i))) return static_cast<Isolation>(i);
  }
  return std::nullopt;
}

// A share of one card, as held by a slice.
struct Share {
  std::string card_uuid;
  std::uint64_t memory_bytes = 0;  // reserved: never oversold, always resident
  Permille compute;
  bool compute_capped = false;  // compute is a hard cap; else a part of what contends
  Isolation isolation = Isolation::kShim;
  bool operator==(const Share&) const = default;
};

}  // namespace tessera::device
