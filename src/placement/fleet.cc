#include "placement/fleet.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace tessera::placement {
namespace {

__extension__ typedef unsigned __int128 Wide;

// Thousandths of the whole, rounded down.
std::uint64_t Milli(std::uint64_t part, std::uint64_t whole) {
  constexpr std::uint64_t kNarrow = ~std::uint64_t{0} / kWholeCardMilli;
  if (whole == 0) return 0;
  if (part <= kNarrow) return part * kWholeCardMilli / whole;
  return static_cast<std::uint64_t>(Wide{part} * kWholeCardMilli / whole);
}

std::uint16_t MilliLeft(const Fleet::Card& card, std::uint64_t memory, std::uint64_t compute) {
  return static_cast<std::uint16_t>(
      std::min(Milli(memory, card.memory_bytes), Milli(compute, card.compute)));
}

std::uint16_t MilliLeft(const Fleet::Card& card) {
  return card.healthy ? MilliLeft(card, card.memory_left, card.compute_left) : std::uint16_t{0};
}

}  // namespace

Result<std::uint32_t> Fleet::KindOf(std::string_view model) {
  const auto at = std::find(kinds_.begin(), kinds_.end(), model);
  if (at != kinds_.end()) return static_cast<std::uint32_t>(at - kinds_.begin());
  if (kinds_.size() == kCardKindsMax) {
    return Error(Code::kResourceExhausted, "more than kCardKindsMax (64) card models");
  }
  kinds_.emplace_back(model);
  return static_cast<std::uint32_t>(kinds_.size() - 1);
}

Status Fleet::AddNode(std::string name, std::int64_t cpu_millis, std::int64_t ram_bytes,
                      std::uint32_t cards, std::uint32_t kind, std::uint64_t rank) {
  if (node_.size() == kFleetNodesMax) {
    return Error(Code::kResourceExhausted, "more than kFleetNodesMax (1048576) nodes");
  }
  if (cards > kCardsPerNodeMax) {
    return Error::Field("cards", "expected at most kCardsPerNodeMax (64) on node " + name);
  }
  if (cpu_millis < 0 || ram_bytes < 0) {
    return Error::Field("node", "expected no negative capacity on node " + name);
  }
  Node node;
  node.cpu_millis = node.cpu_left = cpu_millis;
  node.ram_bytes = node.ram_left = ram_bytes;
  node.first_card = static_cast<std::uint32_t>(card_left_.size());
  node.cards = cards;
  node.kind = kind;
  node.kinds = std::uint64_t{1} << kind;
  node.rank = rank;
  node.milli_left = std::int64_t{cards} * kWholeCardMilli;
  capacity_milli_ += node.milli_left;
  card_left_.insert(card_left_.end(), cards, kWholeCardMilli);
  node_.push_back(node);
  room_.emplace_back();
  card_space_.push_back(cards);
  names_.push_back(std::move(name));
  return {};
}

Result<std::uint32_t> Fleet::AddSlot() {
  TRY_STATUS(AddNode("", 0, 0, 0, 0, 0));
  node_.back().plain = false;
  node_.back().present = false;
  return nodes() - 1;
}

// Adds a card to what its node and the fleet sum up, or takes it out again.
void Fleet::Count(const Card& card, std::uint16_t milli, Node* node, Room* room, bool in) {
  if (!card.healthy) return;
  const std::int64_t sign = in ? 1 : -1;
  capacity_milli_ += sign * kWholeCardMilli;
  used_milli_ += sign * (std::int64_t{kWholeCardMilli} - milli);
  node->milli_left += sign * milli;
  // Modulo 2^64 these are exact in either direction.
  const auto wrap = static_cast<std::uint64_t>(sign);
  room->memory_bytes += wrap * card.memory_bytes;
  room->memory_left += wrap * card.memory_left;
  room->compute += wrap * card.compute;
  room->compute_left += wrap * card.compute_left;
}

void Fleet::SetNode(std::uint32_t index, std::string name, std::uint64_t rank,
                    const Amounts& amounts,
                    const std::array<std::uint16_t, kGroupCardsMax + 1>& groups,
                    const std::vector<Card>& cards) {
  CHECK(!node_[index].plain && cards.size() <= kCardsPerNodeMax);
  SetAbsent(index);
  Node& node = node_[index];
  Room& room = room_[index];
  names_[index] = std::move(name);
  const auto count = static_cast<std::uint32_t>(cards.size());
  if (count > card_space_[index]) {
    // Space doubles, so that a node that comes and goes with more cards wastes less than it has.
    node.first_card = static_cast<std::uint32_t>(card_left_.size());
    card_space_[index] = std::bit_ceil(count);
    card_left_.resize(card_left_.size() + card_space_[index]);
  }
  card_.resize(card_left_.size());
  node.cards = count;
  node.rank = rank;
  node.kind = 0;
  node.kinds = 0;
  std::array<std::uint32_t, kCardKindsMax> of_kind{};
  for (std::uint32_t i = 0; i < count; ++i) {
    const Card& card = cards[i];
    card_[node.first_card + i] = card;
    card_left_[node.first_card + i] = MilliLeft(card);
    Count(card, MilliLeft(card), &node, &room, true);
    node.kinds |= std::uint64_t{1} << card.kind;
    ++of_kind[card.kind];
    if (card.memory_bytes > room.card_bytes) {
      room.card_bytes = card.memory_bytes;
      room.card_compute = card.compute;
    }
  }
  // Kinds are numbered as they came; where two are as many, that must not decide.
  for (std::uint32_t kind = 0; kind < kinds_.size(); ++kind) {
    const std::uint32_t most = of_kind[node.kind];
    if (of_kind[kind] > most ||
        (of_kind[kind] == most && most > 0 && kinds_[kind] < kinds_[node.kind])) {
      node.kind = kind;
    }
  }
  node.present = true;
  SetAmounts(index, amounts, groups);
}

void Fleet::SetAmounts(std::uint32_t index, const Amounts& amounts,
                       const std::array<std::uint16_t, kGroupCardsMax + 1>& groups) {
  Node& node = node_[index];
  node.cpu_millis = amounts.cpu_millis;
  node.cpu_left = amounts.cpu_left;
  node.ram_bytes = amounts.ram_bytes;
  node.ram_left = amounts.ram_left;
  node.placed = amounts.placed;
  node.groups = groups;
  room_[index].disk_left = amounts.disk_left;
  room_[index].slices_left = amounts.slices_left;
}

void Fleet::SetCard(std::uint32_t index, std::uint32_t i, const Card& now) {
  Node& node = node_[index];
  CHECK(!node.plain && i < node.cards);
  Card& card = card_[node.first_card + i];
  std::uint16_t& left = card_left_[node.first_card + i];
  Count(card, left, &node, &room_[index], false);
  card = now;
  left = MilliLeft(card);
  Count(card, left, &node, &room_[index], true);
}

void Fleet::SetAbsent(std::uint32_t index) {
  Node& node = node_[index];
  CHECK(!node.plain);
  for (std::uint32_t i = 0; i < node.cards; ++i) {
    Count(card_[node.first_card + i], card_left_[node.first_card + i], &node, &room_[index], false);
  }
  CHECK(node.milli_left == 0);
  node.cards = 0;
  node.present = false;
  room_[index] = Room();
}

bool Fleet::FitsRoom(const Node& node, const Shape& shape) const {
  const Room& here = room(node);
  return here.disk_left >= shape.disk_bytes && here.slices_left >= std::int64_t{shape.cards};
}

bool Fleet::FitsCards(const Node& node, const Shape& shape, std::uint64_t* cards) const {
  const Card* card = detail(node);
  std::uint64_t fitting = 0;
  for (std::uint32_t i = 0; i < node.cards; ++i, ++card) {
    const bool fits = card->memory_left >= shape.memory_bytes &&
                      card->compute_left >= shape.compute && card->healthy &&
                      card->slices_left > 0 && shape.memory_bytes <= card->slice_bytes_max &&
                      (card->modes >> shape.mode & 1) != 0 && (!shape.exclusive || card->idle) &&
                      (shape.kinds == 0 || (shape.kinds >> card->kind & 1) != 0) &&
                      (!shape.guaranteed || (card->guaranteed_memory_left >= shape.memory_bytes &&
                                             card->guaranteed_compute_left >= shape.compute));
    fitting |= std::uint64_t{fits} << i;
  }
  *cards = fitting;
  return std::popcount(fitting) >= static_cast<int>(shape.cards);
}

Shape Fleet::Measured(const Node& node, const Shape& shape) const {
  Shape measured = shape;
  if (node.plain || shape.cards == 0) return measured;
  const Room& here = room(node);
  if (shape.exclusive) {
    measured.milli = kWholeCardMilli;
  } else {
    // Rounded down, as what is left is: then as many slices fit by milli as fit in truth.
    const std::uint64_t milli = std::max(Milli(shape.memory_bytes, here.card_bytes),
                                         Milli(shape.compute, here.card_compute));
    measured.milli =
        static_cast<std::uint32_t>(std::clamp<std::uint64_t>(milli, 1, kWholeCardMilli));
  }
  return measured;
}

std::uint16_t Fleet::LeftWith(const Node& node, std::uint32_t i, const Shape& shape) const {
  if (shape.exclusive) return 0;
  const Card& card = detail(node)[i];
  return MilliLeft(card, card.memory_left - shape.memory_bytes, card.compute_left - shape.compute);
}

bool Fleet::Alike(const Node& node, std::uint32_t a, std::uint32_t b) const {
  const Card& one = detail(node)[a];
  const Card& other = detail(node)[b];
  return one.memory_left == other.memory_left && one.compute_left == other.compute_left &&
         one.memory_bytes == other.memory_bytes && one.compute == other.compute &&
         one.kind == other.kind;
}

void Fleet::Take(std::uint32_t index, const Shape& shape, const CardSet& cards) {
  Node& node = node_[index];
  CHECK(node.plain && node.cpu_left >= shape.cpu_millis && node.ram_left >= shape.ram_bytes &&
        cards.count == shape.cards);
  node.cpu_left -= shape.cpu_millis;
  node.ram_left -= shape.ram_bytes;
  for (std::uint32_t i = 0; i < cards.count; ++i) {
    std::uint16_t& left = card_left_[node.first_card + cards.index[i]];
    CHECK(left >= shape.milli);
    left = static_cast<std::uint16_t>(left - shape.milli);
  }
  node.milli_left -= shape.total_milli();
  used_milli_ += shape.total_milli();
  ++node.placed;
  if (shape.cards > 0) ++node.groups[shape.group()];
}

void Fleet::Give(std::uint32_t index, const Shape& shape, const CardSet& cards) {
  Node& node = node_[index];
  CHECK(node.plain && node.placed > 0 && cards.count == shape.cards);
  node.cpu_left += shape.cpu_millis;
  node.ram_left += shape.ram_bytes;
  for (std::uint32_t i = 0; i < cards.count; ++i) {
    std::uint16_t& left = card_left_[node.first_card + cards.index[i]];
    left = static_cast<std::uint16_t>(left + shape.milli);
    CHECK(left <= kWholeCardMilli);
  }
  node.milli_left += shape.total_milli();
  used_milli_ -= shape.total_milli();
  --node.placed;
  if (shape.cards > 0) --node.groups[shape.group()];
}

CardSet LowestFree(std::uint64_t fitting, const Shape& shape) {
  CardSet set;
  for (; fitting != 0 && set.count < shape.cards; fitting &= fitting - 1) {
    set.index[set.count++] = static_cast<std::uint8_t>(std::countr_zero(fitting));
  }
  return set;
}

CardSet LowestFree(const Fleet& fleet, const Fleet::Node& node, const Shape& shape) {
  std::uint64_t fitting = 0;
  fleet.Fits(node, shape, &fitting);
  return LowestFree(fitting, shape);
}

CardSet TightestFit(const Fleet& fleet, const Fleet::Node& node, const Shape& shape,
                    std::uint64_t fitting) {
  if (!shape.shared()) return LowestFree(fitting, shape);
  CardSet set;
  const std::uint16_t* left = fleet.cards(node);
  for (; fitting != 0; fitting &= fitting - 1) {
    const int i = std::countr_zero(fitting);
    if (set.count == 1 && left[i] >= left[set.index[0]]) continue;
    set.index[0] = static_cast<std::uint8_t>(i);
    set.count = 1;
  }
  return set;
}

}  // namespace tessera::placement
