#include "placement/fleet.h"

#include <algorithm>

#include "base/check.h"

namespace tessera::placement {

Result<std::uint32_t> Fleet::KindOf(std::string_view model) {
  const auto at = std::find(kinds_.begin(), kinds_.end(), model);
  if (at != kinds_.end()) return static_cast<std::uint32_t>(at - kinds_.begin());
  if (kinds_.size() == kCardKindsMax) {
    return Error(Code::kResourceExhausted, "more than kCardKindsMax (64) card models");
  }
  kinds_.emplace_back(model);
  return static_cast<std::uint32_t>(kinds_.size() - 1);
}

Status Fleet::AddNode(std::string name, std::int64_t cpu_millis, std::int64_t ram_mib,
                      std::uint32_t cards, std::uint32_t kind, std::uint32_t rank) {
  if (node_.size() == kFleetNodesMax) {
    return Error(Code::kResourceExhausted, "more than kFleetNodesMax (1048576) nodes");
  }
  if (cards > kFleetCardsPerNodeMax) {
    return Error::Field("cards", "expected at most kFleetCardsPerNodeMax (16) on node " + name);
  }
  if (cpu_millis < 0 || ram_mib < 0) {
    return Error::Field("node", "expected no negative capacity on node " + name);
  }
  Node node;
  node.cpu_millis = node.cpu_left = cpu_millis;
  node.ram_mib = node.ram_left = ram_mib;
  node.first_card = static_cast<std::uint32_t>(card_left_.size());
  node.cards = cards;
  node.kind = kind;
  node.rank = rank;
  node.milli_left = std::int64_t{cards} * kWholeCardMilli;
  capacity_milli_ += node.milli_left;
  card_left_.insert(card_left_.end(), cards, kWholeCardMilli);
  node_.push_back(node);
  names_.push_back(std::move(name));
  return {};
}

bool Fleet::Fits(const Node& node, const Shape& shape) const {
  if (node.cpu_left < shape.cpu_millis || node.ram_left < shape.ram_mib) return false;
  if (shape.cards == 0) return true;
  if (shape.kinds != 0 && (shape.kinds >> node.kind & 1) == 0) return false;
  if (node.milli_left < shape.total_milli()) return false;
  const std::uint16_t* left = cards(node);
  std::uint32_t fitting = 0;
  for (std::uint32_t i = 0; i < node.cards; ++i) fitting += left[i] >= shape.milli ? 1 : 0;
  return fitting >= shape.cards;
}

void Fleet::Take(std::uint32_t index, const Shape& shape, const CardSet& cards) {
  Node& node = node_[index];
  CHECK(node.cpu_left >= shape.cpu_millis && node.ram_left >= shape.ram_mib &&
        cards.count == shape.cards);
  node.cpu_left -= shape.cpu_millis;
  node.ram_left -= shape.ram_mib;
  for (std::uint32_t i = 0; i < cards.count; ++i) {
    std::uint16_t& left = card_left_[node.first_card + cards.index[i]];
    CHECK(left >= shape.milli);
    left = static_cast<std::uint16_t>(left - shape.milli);
  }
  node.milli_left -= shape.total_milli();
  used_milli_ += shape.total_milli();
  ++node.placed;
  if (shape.cards > 0) ++node.groups[shape.shared() ? 0 : shape.cards];
}

void Fleet::Give(std::uint32_t index, const Shape& shape, const CardSet& cards) {
  Node& node = node_[index];
  CHECK(node.placed > 0 && cards.count == shape.cards);
  node.cpu_left += shape.cpu_millis;
  node.ram_left += shape.ram_mib;
  for (std::uint32_t i = 0; i < cards.count; ++i) {
    std::uint16_t& left = card_left_[node.first_card + cards.index[i]];
    left = static_cast<std::uint16_t>(left + shape.milli);
    CHECK(left <= kWholeCardMilli);
  }
  node.milli_left += shape.total_milli();
  used_milli_ -= shape.total_milli();
  --node.placed;
  if (shape.cards > 0) --node.groups[shape.shared() ? 0 : shape.cards];
}

CardSet LowestFree(const Fleet& fleet, const Fleet::Node& node, const Shape& shape) {
  CardSet set;
  const std::uint16_t* left = fleet.cards(node);
  for (std::uint32_t i = 0; i < node.cards && set.count < shape.cards; ++i) {
    if (left[i] >= shape.milli) set.index[set.count++] = static_cast<std::uint8_t>(i);
  }
  return set;
}

CardSet TightestFit(const Fleet& fleet, const Fleet::Node& node, const Shape& shape) {
  if (!shape.shared()) return LowestFree(fleet, node, shape);
  CardSet set;
  const std::uint16_t* left = fleet.cards(node);
  for (std::uint32_t i = 0; i < node.cards; ++i) {
    if (left[i] < shape.milli || (set.count == 1 && left[i] >= left[set.index[0]])) continue;
    set.index[0] = static_cast<std::uint8_t>(i);
    set.count = 1;
  }
  return set;
}

}  // namespace tessera::placement
