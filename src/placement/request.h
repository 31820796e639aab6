// What a workload asks and what the engine answers. These two types travel through every plane.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/units.h"
#include "device/card.h"

namespace tessera::placement {

enum class Policy { kBinpack, kSpread };

struct Request {
  std::string id;                  // instance id; a request is placed at most once per id
  std::uint32_t slices = 1;        // on that many different cards of one node
  std::uint64_t memory_bytes = 0;  // of each slice
  Permille compute;                // of each slice
  std::uint32_t cpu_millis = 0;    // of the whole request
  std::uint64_t ram_bytes = 0;     // of the whole request
  std::string model;      // empty: any; else substring of the card's model, case-insensitive
  std::string card_uuid;  // empty: any
  Policy node_policy = Policy::kBinpack;
  Policy card_policy = Policy::kBinpack;
};

struct Placement {
  std::string request_id;
  std::string node;
  std::vector<device::Share> shares;  // one per slice, on distinct cards
};

// Why a request does not fit right now: the scarcest thing, how much was asked, how much the best
// node has.
struct Scarcity {
  std::string resource;         // "memory", "compute", "cards", "cpu", "ram", "model"
  std::uint64_t asked = 0;      // bytes, per mille, cards or CPU millis by resource
  std::uint64_t available = 0;  // same unit, on the node that comes closest
  bool never = false;           // would not fit an empty fleet either
  // "memory: asked 26 GiB a card, 2 GiB short on the best card (24 GiB free)"
  std::string message;
};

}  // namespace tessera::placement
