#include "placement/defragment.h"

#include <algorithm>
#include <array>
#include <limits>

#include "base/check.h"

namespace tessera::placement {
namespace {

using Set = std::vector<std::size_t>;  // indices of held requests, all on one node

// The fleet while a plan is tried: every step is noted and taken back at the end.
class Trial {
 public:
  Trial(Fleet* fleet, std::span<const Held> held) : fleet_(fleet), held_(held) {}
  ~Trial() { Back(0); }
  Trial(const Trial&) = delete;
  Trial& operator=(const Trial&) = delete;

  const Fleet& fleet() const { return *fleet_; }
  const std::vector<Move>& moves() const { return moves_; }
  void Do(const Move& move) {
    const Held& one = held_[move.held];
    fleet_->Give(one.node, one.shape, one.cards);
    fleet_->Take(move.node, one.shape, move.cards);
    moves_.push_back(move);
  }
  void Back(std::size_t moves) {
    while (moves_.size() > moves) {
      const Move& move = moves_.back();
      const Held& one = held_[move.held];
      fleet_->Give(move.node, one.shape, move.cards);
      fleet_->Take(one.node, one.shape, one.cards);
      moves_.pop_back();
    }
  }

 private:
  Fleet* fleet_;
  std::span<const Held> held_;
  std::vector<Move> moves_;
};

struct Place {
  std::uint32_t node = 0;
  CardSet cards;
};

// The best place by score, on any node but that one.
std::optional<Place> BestElsewhere(const Fleet& fleet, const Shape& shape, const Scorer& scorer,
                                   std::uint32_t not_on) {
  std::optional<Place> best;
  std::int64_t score = 0;
  for (std::uint32_t n = 0; n < fleet.nodes(); ++n) {
    if (n == not_on || !fleet.Fits(fleet.node(n), shape)) continue;
    CardSet cards;
    const std::int64_t with = scorer.Score(fleet, fleet.node(n), shape, &cards);
    if (best &&
        (with < score || (with == score && fleet.node(n).rank >= fleet.node(best->node).rank))) {
      continue;
    }
    score = with;
    best = Place{n, cards};
  }
  return best;
}

// Whether a shape fits on any node, asked once a shape. Steps of a plan only free room on the node
// they clear, where nothing they move goes, so what fits nowhere at first fits nowhere later.
class Anywhere {
 public:
  explicit Anywhere(const Fleet& fleet) : fleet_(fleet) {}
  bool Fits(const Shape& shape) {
    const auto known = std::find_if(known_.begin(), known_.end(),
                                    [&](const auto& one) { return one.first == shape; });
    if (known != known_.end()) return known->second;
    bool fits = false;
    for (std::uint32_t n = 0; n < fleet_.nodes() && !fits; ++n) {
      fits = fleet_.Fits(fleet_.node(n), shape);
    }
    known_.emplace_back(shape, fits);
    return fits;
  }

 private:
  const Fleet& fleet_;
  std::vector<std::pair<Shape, bool>> known_;
};

// Whether the node would hold the shape once the set is gone from it.
bool FitsWithout(const Fleet& fleet, std::uint32_t index, std::span<const Held> held,
                 const Set& set, const Shape& shape) {
  const Fleet::Node& node = fleet.node(index);
  std::int64_t cpu = node.cpu_left, ram = node.ram_left;
  std::array<std::uint32_t, kCardsPerNodeMax> left{};
  std::copy_n(fleet.cards(node), node.cards, left.begin());
  for (const std::size_t i : set) {
    cpu += held[i].shape.cpu_millis;
    ram += held[i].shape.ram_bytes;
    for (std::uint32_t c = 0; c < held[i].cards.count; ++c) {
      left[held[i].cards.index[c]] += held[i].shape.milli;
    }
  }
  if (cpu < shape.cpu_millis || ram < shape.ram_bytes) return false;
  const auto fitting = std::count_if(left.begin(), left.begin() + node.cards,
                                     [&](std::uint32_t l) { return l >= shape.milli; });
  return fitting >= static_cast<std::ptrdiff_t>(shape.cards);
}

bool Allowed(const Fleet::Node& node, const Shape& shape) {
  return node.cpu_millis >= shape.cpu_millis && node.ram_bytes >= shape.ram_bytes &&
         (shape.cards == 0 ||
          (node.cards >= shape.cards && (shape.kinds == 0 || (shape.kinds >> node.kind & 1) != 0)));
}

bool CanChangeCard(const Fleet& fleet, const Held& one) {
  if (one.shape.cards != 1) return false;
  const Fleet::Node& node = fleet.node(one.node);
  for (std::uint32_t c = 0; c < node.cards; ++c) {
    if (c != one.cards.index[0] && fleet.cards(node)[c] >= one.shape.milli) return true;
  }
  return false;
}

struct Candidate {
  std::uint64_t cost;
  std::int64_t milli;  // that moves
  std::uint32_t node;
  Set set;
};

// Sets of exactly `size` requests of one node without which the shape would fit there.
class Sets {
 public:
  Sets(const Fleet& fleet, std::span<const Held> held, const Shape& shape, std::size_t size,
       std::size_t* looked_at)
      : fleet_(fleet), held_(held), shape_(shape), size_(size), looked_at_(looked_at) {}
  void Find(std::uint32_t node, const Set& movable) {
    node_ = node;
    Extend(movable, 0);
  }
  std::vector<Candidate> Sorted() && {
    std::stable_sort(found_.begin(), found_.end(), [&](const Candidate& a, const Candidate& b) {
      if (a.cost != b.cost) return a.cost < b.cost;
      if (a.milli != b.milli) return a.milli < b.milli;
      return fleet_.node(a.node).rank < fleet_.node(b.node).rank;
    });
    return std::move(found_);
  }

 private:
  void Extend(const Set& movable, std::size_t from) {
    if (set_.size() == size_) {
      ++*looked_at_;
      if (!FitsWithout(fleet_, node_, held_, set_, shape_)) return;
      Candidate found{0, 0, node_, set_};
      for (const std::size_t i : set_) {
        found.cost += held_[i].cost;
        found.milli += held_[i].shape.total_milli();
      }
      found_.push_back(std::move(found));
      return;
    }
    for (std::size_t i = from; i < movable.size() && *looked_at_ < kMoveSetsMax; ++i) {
      set_.push_back(movable[i]);
      Extend(movable, i + 1);
      set_.pop_back();
    }
  }

  const Fleet& fleet_;
  std::span<const Held> held_;
  const Shape& shape_;
  std::size_t size_;
  std::size_t* looked_at_;
  std::uint32_t node_ = 0;
  Set set_;
  std::vector<Candidate> found_;
};

// Finds the set new places; what no other node takes may change its card on the same node.
bool Clear(Trial* trial, std::span<const Held> held, const Candidate& candidate, const Shape& shape,
           const Scorer& scorer, Anywhere* anywhere) {
  Set largest_first = candidate.set;
  std::stable_sort(largest_first.begin(), largest_first.end(), [&](std::size_t a, std::size_t b) {
    return held[a].shape.total_milli() > held[b].shape.total_milli();
  });
  std::optional<std::size_t> stays;
  for (const std::size_t i : largest_first) {
    std::optional<Place> place;
    if (anywhere->Fits(held[i].shape)) {
      place = BestElsewhere(trial->fleet(), held[i].shape, scorer, candidate.node);
    }
    if (place) {
      trial->Do({i, place->node, place->cards});
    } else if (!stays && held[i].shape.cards == 1) {
      stays = i;
    } else {
      return false;
    }
  }
  if (!stays) return true;
  const Fleet& fleet = trial->fleet();
  const Fleet::Node& node = fleet.node(candidate.node);
  const Held& one = held[*stays];
  for (std::uint32_t c = 0; c < node.cards; ++c) {
    if (c == one.cards.index[0] || fleet.cards(node)[c] < one.shape.milli) continue;
    CardSet cards;
    cards.count = 1;
    cards.index[0] = static_cast<std::uint8_t>(c);
    trial->Do({*stays, candidate.node, cards});
    if (fleet.Fits(node, shape)) return true;
    trial->Back(trial->moves().size() - 1);
  }
  return false;
}

// The two moves that the sets of one node and the best place of each do not show, all of them until
// the looks are used up: two requests of the node in either order, the first to any place; or one
// that has a place once another has left some other node for any place.
class Pairs {
 public:
  Pairs(Fleet* fleet, std::span<const Held> held, const Shape& shape, const Scorer& scorer)
      : held_(held), shape_(shape), scorer_(scorer), trial_(fleet, held), on_(fleet->nodes()) {
    for (std::size_t i = 0; i < held.size(); ++i) {
      if (!held[i].pinned) on_[held[i].node].push_back(i);
    }
  }
  // The cheapest.
  std::optional<Room> Find() {
    const Fleet& fleet = trial_.fleet();
    for (node_ = 0; node_ < fleet.nodes() && looks_ < kPairLooksMax; ++node_) {
      if (!Allowed(fleet.node(node_), shape_)) continue;
      for (const std::size_t last : on_[node_]) {
        for (const std::size_t first : on_[node_]) {
          if (first != last && Frees(node_, {first, last}, shape_)) Try(first, last);
        }
        if (!Frees(node_, {last}, shape_)) continue;
        for (std::uint32_t n = 0; n < fleet.nodes(); ++n) {
          if (n == node_ || !Allowed(fleet.node(n), held_[last].shape)) continue;
          for (const std::size_t first : on_[n]) {
            if (Frees(n, {first}, held_[last].shape)) Try(first, last);
          }
        }
      }
    }
    return std::move(best_);
  }

 private:
  bool Frees(std::uint32_t node, const Set& gone, const Shape& shape) {
    return ++looks_ < kPairLooksMax && FitsWithout(trial_.fleet(), node, held_, gone, shape);
  }
  // Every place the request may move to, until one is visited that will do.
  template <typename Visit>
  void EachPlace(std::size_t which, Visit visit) {
    const Held& one = held_[which];
    const Fleet& fleet = trial_.fleet();
    for (std::uint32_t n = 0; n < fleet.nodes() && ++looks_ < kPairLooksMax; ++n) {
      const Fleet::Node& node = fleet.node(n);
      if (n != one.node && !fleet.Fits(node, one.shape)) continue;
      if (one.shape.cards != 1) {
        if (n != one.node && visit(Move{which, n, LowestFree(fleet, node, one.shape)})) return;
        continue;
      }
      const std::uint16_t* const left = fleet.cards(node);
      for (std::uint32_t c = 0; c < node.cards; ++c) {
        if (left[c] < one.shape.milli || (n == one.node && c == one.cards.index[0])) continue;
        CardSet cards;
        cards.count = 1;
        cards.index[0] = static_cast<std::uint8_t>(c);
        if (visit(Move{which, n, cards})) return;
      }
    }
  }
  void Try(std::size_t first, std::size_t last) {
    const std::uint64_t cost = held_[first].cost + held_[last].cost;
    if (best_ && best_->cost <= cost) return;
    const Fleet& fleet = trial_.fleet();
    EachPlace(first, [&](const Move& move) {
      trial_.Do(move);
      bool found = false;
      EachPlace(last, [&](const Move& then) {
        trial_.Do(then);
        found = fleet.Fits(fleet.node(node_), shape_);
        if (found) {
          best_ = Room{trial_.moves(), cost, node_, {}};
          scorer_.Score(fleet, fleet.node(node_), shape_, &best_->cards);
        }
        trial_.Back(1);
        return found;
      });
      trial_.Back(0);
      return found;
    });
  }

  std::span<const Held> held_;
  const Shape& shape_;
  const Scorer& scorer_;
  Trial trial_;
  std::vector<Set> on_;  // by node, those that may move
  std::uint32_t node_ = 0;
  std::size_t looks_ = 0;
  std::optional<Room> best_;
};

}  // namespace

std::optional<Room> MakeRoom(Fleet* fleet, std::span<const Held> held, const Shape& shape,
                             const Scorer& scorer, std::uint32_t moves_max) {
  Room room;
  if (const auto place =
          BestElsewhere(*fleet, shape, scorer, std::numeric_limits<std::uint32_t>::max())) {
    room.node = place->node;
    room.cards = place->cards;
    return room;
  }
  Anywhere anywhere(*fleet);
  std::vector<Set> by_node(fleet->nodes());
  for (std::size_t i = 0; i < held.size(); ++i) {
    // What fits nowhere else can at most change its card.
    if (held[i].pinned || !(anywhere.Fits(held[i].shape) || CanChangeCard(*fleet, held[i]))) {
      continue;
    }
    by_node[held[i].node].push_back(i);
  }
  std::size_t looked_at = 0;
  for (std::size_t size = 1; size <= std::min(moves_max, kMovesMax); ++size) {
    Sets sets(*fleet, held, shape, size, &looked_at);
    for (std::uint32_t n = 0; n < fleet->nodes(); ++n) {
      if (Allowed(fleet->node(n), shape)) sets.Find(n, by_node[n]);
    }
    std::size_t tries = 0;
    for (const Candidate& candidate : std::move(sets).Sorted()) {
      // The first size is tried to its end, so that a single move is never overlooked.
      if (size > 1 && tries++ == kMoveTriesMax) break;
      Trial trial(fleet, held);
      if (!Clear(&trial, held, candidate, shape, scorer, &anywhere)) continue;
      const Fleet::Node& node = fleet->node(candidate.node);
      CHECK(fleet->Fits(node, shape));
      scorer.Score(*fleet, node, shape, &room.cards);
      room.node = candidate.node;
      room.cost = candidate.cost;
      room.moves = trial.moves();
      return room;
    }
    if (size == 2) {
      if (auto found = Pairs(fleet, held, shape, scorer).Find()) return found;
    }
    if (looked_at >= kMoveSetsMax) break;
  }
  return std::nullopt;
}

Emptied EmptyCards(Fleet* fleet, std::span<const Held> held, std::uint32_t moves_max) {
  moves_max = std::min(moves_max, kMovesMax);
  // Cards that hold only shares which may all move, and those shares.
  struct Card {
    std::uint64_t cost = 0;
    std::uint32_t node = 0;
    std::uint32_t index = 0;
    bool stuck = false;
    Set shares;
  };
  std::vector<Card> cards;
  std::vector<std::size_t> first(fleet->nodes());
  for (std::uint32_t n = 0; n < fleet->nodes(); ++n) {
    first[n] = cards.size();
    for (std::uint32_t c = 0; c < fleet->node(n).cards; ++c) cards.push_back({0, n, c, false, {}});
  }
  for (std::size_t i = 0; i < held.size(); ++i) {
    for (std::uint32_t c = 0; c < held[i].cards.count; ++c) {
      Card& card = cards[first[held[i].node] + held[i].cards.index[c]];
      card.stuck |= held[i].pinned || !held[i].shape.shared();
      card.cost += held[i].cost;
      card.shares.push_back(i);
    }
  }
  std::erase_if(cards, [&](const Card& card) { return card.stuck || card.shares.empty(); });
  std::stable_sort(cards.begin(), cards.end(),
                   [](const Card& a, const Card& b) { return a.cost < b.cost; });

  Emptied emptied;
  Trial trial(fleet, held);
  std::vector<bool> moved(held.size(), false);
  for (const Card& card : cards) {
    const std::size_t before = trial.moves().size();
    if (before + card.shares.size() > moves_max) continue;
    const std::uint16_t left = fleet->cards(fleet->node(card.node))[card.index];
    // What came here in an earlier step, or left, makes it another card than the one looked at.
    std::uint32_t taken = 0;
    bool changed = false;
    for (const std::size_t i : card.shares) {
      taken += held[i].shape.milli;
      changed |= moved[i];
    }
    if (changed || left + taken != kWholeCardMilli) continue;
    bool all = true;
    for (const std::size_t i : card.shares) {
      // The fullest card that takes it: another one, and none that is free.
      std::optional<Move> best;
      std::uint16_t best_left = kWholeCardMilli;
      for (std::uint32_t n = 0; n < fleet->nodes(); ++n) {
        const Fleet::Node& node = fleet->node(n);
        if (n != held[i].node && !fleet->Fits(node, held[i].shape)) continue;
        for (std::uint32_t c = 0; c < node.cards; ++c) {
          const std::uint16_t there = fleet->cards(node)[c];
          if ((n == card.node && c == card.index) || there < held[i].shape.milli ||
              there >= best_left) {
            continue;
          }
          best_left = there;
          best = Move{i, n, {}};
          best->cards.count = 1;
          best->cards.index[0] = static_cast<std::uint8_t>(c);
        }
      }
      if (!best) {
        all = false;
        break;
      }
      trial.Do(*best);
    }
    if (!all) {
      trial.Back(before);
      continue;
    }
    for (const std::size_t i : card.shares) moved[i] = true;
    emptied.cost += card.cost;
    ++emptied.cards;
  }
  emptied.moves = trial.moves();
  return emptied;
}

}  // namespace tessera::placement
