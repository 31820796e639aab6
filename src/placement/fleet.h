// The fleet as flat columns: what every node and card has left, and what a placement changes.
//
// This is the inventory that scores look at and the shape index is kept over. A slice is measured
// on its card in milli, the larger of its compute share and its memory share, so one number a card
// says what is left of it. Pure: no I/O, clock or threads. Not thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace tessera::placement {

inline constexpr std::uint32_t kWholeCardMilli = 1000;
inline constexpr std::uint32_t kFleetCardsPerNodeMax = 16;
inline constexpr std::uint32_t kCardKindsMax = 64;
inline constexpr std::uint32_t kFleetNodesMax = 1'048'576;

// What a request asks of one node. Equal shapes are interchangeable for placement.
struct Shape {
  std::int64_t cpu_millis = 0;
  std::int64_t ram_mib = 0;
  std::uint32_t cards = 0;  // 0: CPU only
  std::uint32_t milli = 0;  // on each card; kWholeCardMilli: the whole card
  std::uint64_t kinds = 0;  // allowed card kinds as bits; 0: any

  bool shared() const { return cards == 1 && milli < kWholeCardMilli; }
  std::int64_t total_milli() const { return std::int64_t{cards} * milli; }
  bool operator==(const Shape&) const = default;
};

// Which cards of its node a request takes, as indices.
struct CardSet {
  std::uint32_t count = 0;
  std::array<std::uint8_t, kFleetCardsPerNodeMax> index{};
};

class Fleet {
 public:
  // The bit index of a card model, made on first use. kResourceExhausted naming kCardKindsMax.
  Result<std::uint32_t> KindOf(std::string_view model);
  const std::vector<std::string>& kinds() const { return kinds_; }

  // Adds a node with all its cards free. `rank` breaks ties: the lowest wins.
  Status AddNode(std::string name, std::int64_t cpu_millis, std::int64_t ram_mib,
                 std::uint32_t cards, std::uint32_t kind, std::uint32_t rank);

  std::uint32_t nodes() const { return static_cast<std::uint32_t>(node_.size()); }
  struct Node {
    std::int64_t cpu_millis = 0;  // capacity
    std::int64_t cpu_left = 0;
    std::int64_t ram_mib = 0;
    std::int64_t ram_left = 0;
    std::int64_t milli_left = 0;  // over its cards
    std::uint32_t first_card = 0;
    std::uint32_t cards = 0;
    std::uint32_t kind = 0;
    std::uint32_t rank = 0;
    std::uint32_t placed = 0;  // requests on it
    // How many of them are shared slices ([0]) or take that many whole cards.
    std::array<std::uint16_t, kFleetCardsPerNodeMax + 1> groups{};
  };
  const Node& node(std::uint32_t index) const { return node_[index]; }
  const std::string& name(std::uint32_t index) const { return names_[index]; }
  // Milli left on each card of a node.
  const std::uint16_t* cards(const Node& node) const { return &card_left_[node.first_card]; }

  // Whether the shape fits the node now, health and kinds included.
  bool Fits(const Node& node, const Shape& shape) const;

  void Take(std::uint32_t node, const Shape& shape, const CardSet& cards);
  void Give(std::uint32_t node, const Shape& shape, const CardSet& cards);

  std::int64_t capacity_milli() const { return capacity_milli_; }
  std::int64_t used_milli() const { return used_milli_; }

 private:
  std::vector<Node> node_;
  std::vector<std::string> names_;
  std::vector<std::uint16_t> card_left_;
  std::vector<std::string> kinds_;
  std::int64_t capacity_milli_ = 0;
  std::int64_t used_milli_ = 0;
};

// The cards a whole-card request takes: the lowest free ones. The tightest card for a shared one.
CardSet LowestFree(const Fleet& fleet, const Fleet::Node& node, const Shape& shape);
CardSet TightestFit(const Fleet& fleet, const Fleet::Node& node, const Shape& shape);

}  // namespace tessera::placement
