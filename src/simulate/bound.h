// How much of a fleet any scheduler at all could have taken: an upper bound on the allocation of
// every subset of what has arrived, however it is placed, moved about or chosen beforehand.
//
// A relaxation. Let f be a dual-feasible function (shares that fit one card together have f that
// add up to at most one card). Then whatever is placed obeys, summed over the fleet,
//     sum f(milli) + mu * cores  <=  cards + mu * all cores      for every mu >= 0 (and cores
//     alone),
// and the most milli under that one constraint is a fractional knapsack, solved exactly by taking
// what costs least a milli. Each f and mu gives a bound; the lowest counts. Nodes, card kinds and
// RAM are relaxed away, so the bound is weaker than one that migrates freely and must accept what
// fits, and never below it. Pure.
#pragma once

#include <vector>

#include "placement/fleet.h"

namespace tessera::simulate {

// Percent of the fleet's cards, at most 100. The fleet's capacity counts, not what is left of it.
double AllocationBound(const placement::Fleet& fleet, const std::vector<placement::Shape>& arrived);

}  // namespace tessera::simulate
