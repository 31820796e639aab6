// Defragmentation: bounded plans of moves that make room for a request which fits nowhere though
// the fleet as a whole could take it, or that empty whole cards.
//
// A plan is a list of steps in order. Every step fits when its turn comes, with the old place still
// held: a request goes to another node, or (one card only) to another card of its own node, whose
// CPU and RAM then count once. Nothing is without a place at any time, nothing pinned moves, and a
// plan has at most `moves_max` steps. The caller carries it out; what it finds changed by then ends
// the plan, each step stands by itself.
//
// Pure and deterministic; used by the simulator and by whoever plans moves in production. Not
// thread-safe: the fleet is used as scratch paper and is as it was when the call returns.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "placement/fleet.h"
#include "placement/scores.h"

namespace tessera::placement {

inline constexpr std::uint32_t kMovesMax = 16;        // of one plan
inline constexpr std::size_t kMoveSetsMax = 1 << 20;  // of requests looked at together, a plan
inline constexpr std::size_t kMoveTriesMax = 256;     // of them whose new places are looked for
// Nodes looked at, a plan, to find two moves that those sets do not: one request after another off
// the node to wherever it fits, or one that makes way for the other on a third node.
inline constexpr std::size_t kPairLooksMax = 1 << 21;

// A request that holds its place.
struct Held {
  std::uint32_t node = 0;
  Shape shape;
  CardSet cards;
  bool pinned = false;     // may not move
  std::uint64_t cost = 1;  // of moving it, in what unit the caller likes
};

struct Move {
  std::size_t held = 0;  // index into what was given
  std::uint32_t node = 0;
  CardSet cards;
};

struct Room {
  std::vector<Move> moves;
  std::uint64_t cost = 0;
  std::uint32_t node = 0;  // where the request goes after the moves, and its cards there
  CardSet cards;
};

// The plan with the fewest moves, among those the cheapest found; none within the bounds: nothing.
// A plan without moves is given when the shape fits as it is. With one move the search is
// exhaustive (for requests of whole cards or of one card), with two as far as kPairLooksMax goes;
// with more it takes sets of requests off one node and tries their new places in order of score,
// not every combination of them. Where things go, `scorer` decides, and beyond the best place of
// each the order of the nodes.
std::optional<Room> MakeRoom(Fleet* fleet, std::span<const Held> held, const Shape& shape,
                             const Scorer& scorer, std::uint32_t moves_max);

struct Emptied {
  std::vector<Move> moves;
  std::uint64_t cost = 0;
  std::uint32_t cards = 0;  // whole cards that are free after it and were not before
};

// Moves shares of cards together so that cards become whole again, the cheapest ones first. No move
// breaks into a free card.
Emptied EmptyCards(Fleet* fleet, std::span<const Held> held, std::uint32_t moves_max);

}  // namespace tessera::placement
