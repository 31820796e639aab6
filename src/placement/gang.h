// Places several requests together or not at all. Pure; the engine keeps every book.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "placement/engine.h"

namespace tessera::placement {

inline constexpr std::uint32_t kGangSizeMax = 1024;
// Trial placements that one decision about a gang may make to learn what every node could take.
inline constexpr std::size_t kGangProbesMax = 65'536;

// Reserves a place for every member, or for none, as a trial: who keeps it tells
// Engine::Arrived. The members ask for the same thing. Every node
// that gets one gets at least `node_min` of them. Nodes of one rack are preferred (`racks` says
// which rack a node stands in; nodes without one count as their own), then few nodes, then the
// engine's choice. A node is taken to hold as many members as the engine itself puts there one
// after another; with that, a placement is found whenever there is one, up to gang_probes_max.
// With `one_rack`, nodes of one rack or none at all.
std::variant<std::vector<Placement>, Scarcity> PlaceGang(
    Engine& engine, const std::vector<Request>& members, std::uint32_t node_min,
    const std::map<std::string, std::string>& racks, const std::set<std::string>& avoid,
    bool one_rack = false);

}  // namespace tessera::placement
