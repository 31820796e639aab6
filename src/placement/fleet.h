// The fleet as flat columns: what every node and card has left, and what a placement changes.
//
// This is the inventory that scores look at and the shape index is kept over. What fits is asked
// in memory and compute, exactly; what is scored is one number a card, its milli: the smaller of
// the shares of memory and compute that are left. A slice likewise weighs the larger of its two
// shares. The nodes of a trace know milli alone: their cards have no memory of their own.
// Pure: no I/O, clock or threads. Not thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace tessera::placement {

inline constexpr std::uint32_t kWholeCardMilli = 1000;
inline constexpr std::uint32_t kCardsPerNodeMax = 64;
inline constexpr std::uint32_t kCardKindsMax = 64;
inline constexpr std::uint32_t kFleetNodesMax = 1'048'576;
inline constexpr std::uint32_t kGroupCardsMax = 16;  // larger groups count as this large
inline constexpr std::uint64_t kAllCards = ~std::uint64_t{0};

// What a request asks of one node. Equal shapes are interchangeable for placement.
struct Shape {
  std::int64_t cpu_millis = 0;
  std::int64_t ram_bytes = 0;
  std::uint32_t cards = 0;  // 0: CPU only
  std::uint32_t milli = 0;  // on each card; kWholeCardMilli: the whole card
  std::uint64_t kinds = 0;  // allowed card kinds as bits; 0: any
  // On cards with memory of their own; `milli` is then what Fleet::Measured makes of them.
  std::uint64_t memory_bytes = 0;  // on each card
  std::uint32_t compute = 0;       // per mille of each card
  std::uint8_t mode = 0;           // isolation mode: a card holds slices of one mode only
  bool exclusive = false;          // cards that hold nothing, and nothing else afterwards
  std::int64_t disk_bytes = 0;
  bool guaranteed = false;  // fits what is left of the card itself, not of what may be sold

  bool shared() const { return cards == 1 && milli < kWholeCardMilli; }
  std::int64_t total_milli() const { return std::int64_t{cards} * milli; }
  std::uint32_t group() const {
    return shared() ? 0 : cards < kGroupCardsMax ? cards : kGroupCardsMax;
  }
  bool operator==(const Shape&) const = default;
};

// Which cards of its node a request takes, as indices.
struct CardSet {
  std::uint32_t count = 0;
  std::array<std::uint8_t, kCardsPerNodeMax> index{};
};

class Fleet {
 public:
  // The bit index of a card model, made on first use. kResourceExhausted naming kCardKindsMax.
  Result<std::uint32_t> KindOf(std::string_view model);
  const std::vector<std::string>& kinds() const { return kinds_; }

  // Adds a node of a trace with all its cards free. `rank` breaks ties: the lowest wins.
  Status AddNode(std::string name, std::int64_t cpu_millis, std::int64_t ram_bytes,
                 std::uint32_t cards, std::uint32_t kind, std::uint64_t rank);

  std::uint32_t nodes() const { return static_cast<std::uint32_t>(node_.size()); }
  struct Node {
    std::int64_t cpu_millis = 0;  // capacity
    std::int64_t cpu_left = 0;
    std::int64_t ram_bytes = 0;
    std::int64_t ram_left = 0;
    std::int64_t milli_left = 0;  // over its healthy cards
    std::uint64_t kinds = 0;      // of its cards, as bits
    std::uint64_t rank = 0;
    std::uint32_t first_card = 0;
    std::uint32_t cards = 0;
    std::uint32_t kind = 0;    // of most of its cards
    std::uint32_t placed = 0;  // requests on it
    // How many of them are shared slices ([0]) or take that many whole cards.
    std::array<std::uint16_t, kGroupCardsMax + 1> groups{};
    bool plain = true;    // a node of a trace: milli alone, all cards of one kind and healthy
    bool present = true;  // what is absent holds no new request
  };
  const Node& node(std::uint32_t index) const { return node_[index]; }
  const std::string& name(std::uint32_t index) const { return names_[index]; }
  // Milli left on each card of a node; none on one that is not healthy.
  const std::uint16_t* cards(const Node& node) const { return &card_left_[node.first_card]; }

  // The cards of a node that is not plain.
  struct Card {
    std::uint64_t memory_bytes = 0;  // that may be sold
    std::uint64_t memory_left = 0;
    std::uint64_t slice_bytes_max = 0;        // of one slice: what the card really has
    std::uint32_t compute = kWholeCardMilli;  // per mille that may be sold
    std::uint32_t compute_left = 0;
    std::uint64_t guaranteed_memory_left = ~std::uint64_t{0};  // for guaranteed slices
    std::uint32_t guaranteed_compute_left = ~std::uint32_t{0};
    std::uint32_t slices_left = 0;  // how many more it may hold
    std::uint8_t kind = 0;
    std::uint8_t modes = 0;  // that a next slice may have, as bits
    bool healthy = true;
    bool idle = true;  // holds nothing at all
  };
  const Card* detail(const Node& node) const { return &card_[node.first_card]; }
  // What a node that is not plain has beside that. The sums are over its healthy cards.
  struct Room {
    std::int64_t disk_left = 0;
    std::int64_t slices_left = 0;
    std::uint64_t memory_bytes = 0;
    std::uint64_t memory_left = 0;
    std::uint64_t compute = 0;
    std::uint64_t compute_left = 0;
    std::uint64_t card_bytes = 0;  // its largest card: what slices are measured on
    std::uint32_t card_compute = kWholeCardMilli;
  };
  const Room& room(const Node& node) const {
    return room_[static_cast<std::size_t>(&node - node_.data())];
  }

  // A place for a node with memory of its own, absent until SetNode.
  Result<std::uint32_t> AddSlot();
  struct Amounts {
    std::int64_t cpu_millis = 0;  // capacity
    std::int64_t cpu_left = 0;
    std::int64_t ram_bytes = 0;
    std::int64_t ram_left = 0;
    std::int64_t disk_left = 0;
    std::int64_t slices_left = 0;
    std::uint32_t placed = 0;
  };
  // The node as it is now, whatever stood in the slot before.
  void SetNode(std::uint32_t index, std::string name, std::uint64_t rank, const Amounts& amounts,
               const std::array<std::uint16_t, kGroupCardsMax + 1>& groups,
               const std::vector<Card>& cards);
  void SetAmounts(std::uint32_t index, const Amounts& amounts,
                  const std::array<std::uint16_t, kGroupCardsMax + 1>& groups);
  void SetCard(std::uint32_t index, std::uint32_t card, const Card& now);
  void SetRank(std::uint32_t index, std::uint64_t rank) { node_[index].rank = rank; }
  void SetAbsent(std::uint32_t index);

  // Whether the shape fits the node now, health and kinds included, and on which of its cards.
  bool Fits(const Node& node, const Shape& shape, std::uint64_t* cards) const {
    if (node.cpu_left < shape.cpu_millis || node.ram_left < shape.ram_bytes || !node.present) {
      return false;
    }
    *cards = 0;
    if (shape.cards == 0) return node.plain || FitsRoom(node, shape);
    if (shape.kinds != 0 && (shape.kinds & node.kinds) == 0) return false;
    if (!node.plain) return FitsRoom(node, shape) && FitsCards(node, shape, cards);
    if (node.milli_left < shape.total_milli()) return false;
    const std::uint16_t* left = this->cards(node);
    std::uint64_t fitting = 0;
    for (std::uint32_t i = 0; i < node.cards; ++i) {
      fitting |= std::uint64_t{left[i] >= shape.milli} << i;
    }
    *cards = fitting;
    std::uint32_t missing = shape.cards;
    for (; fitting != 0 && missing > 0; fitting &= fitting - 1) --missing;
    return missing == 0;
  }
  bool Fits(const Node& node, const Shape& shape) const {
    std::uint64_t cards = 0;
    return Fits(node, shape, &cards);
  }
  // The shape with its milli as it weighs on that node.
  Shape Measured(const Node& node, const Shape& shape) const;
  // Milli left on a card that the (measured) shape is put on, of a node that is not plain.
  std::uint16_t LeftWith(const Node& node, std::uint32_t card, const Shape& shape) const;
  // Whether two cards of a node that is not plain have the same left of everything.
  bool Alike(const Node& node, std::uint32_t a, std::uint32_t b) const;

  // On plain nodes.
  void Take(std::uint32_t node, const Shape& shape, const CardSet& cards);
  void Give(std::uint32_t node, const Shape& shape, const CardSet& cards);

  std::int64_t capacity_milli() const { return capacity_milli_; }
  std::int64_t used_milli() const { return used_milli_; }

 private:
  bool FitsRoom(const Node& node, const Shape& shape) const;
  bool FitsCards(const Node& node, const Shape& shape, std::uint64_t* cards) const;
  void Count(const Card& card, std::uint16_t milli, Node* node, Room* room, bool in);

  std::vector<Node> node_;
  std::vector<Room> room_;
  std::vector<std::uint32_t> card_space_;  // cards that may stand at first_card
  std::vector<std::string> names_;
  std::vector<std::uint16_t> card_left_;
  std::vector<Card> card_;
  std::vector<std::string> kinds_;
  std::int64_t capacity_milli_ = 0;
  std::int64_t used_milli_ = 0;
};

// Of cards that fit, given as bits: the lowest ones, or for a shared slice the tightest one.
CardSet LowestFree(std::uint64_t fitting, const Shape& shape);
CardSet TightestFit(const Fleet& fleet, const Fleet::Node& node, const Shape& shape,
                    std::uint64_t fitting);
// The lowest of all the cards of the node that fit.
CardSet LowestFree(const Fleet& fleet, const Fleet::Node& node, const Shape& shape);

}  // namespace tessera::placement
