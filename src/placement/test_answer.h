// For tests: the engine's answer with the reason beside it, by value.
#pragma once

#include <set>
#include <variant>

#include "placement/engine.h"

namespace tessera::placement {

using Answer = std::variant<Placement, Scarcity>;

inline Answer Place(Engine& engine, const Request& request,
                    const std::set<std::string>& avoid = {}) {
  if (const Placement* const placed = engine.Place(request, avoid)) return *placed;
  return engine.WhyNot(request, avoid);
}

inline Answer Consider(const Engine& engine, const Request& request,
                       const std::set<std::string>& avoid = {}) {
  if (const Placement* const placed = engine.Consider(request, avoid)) return *placed;
  return engine.WhyNot(request, avoid);
}

}  // namespace tessera::placement
