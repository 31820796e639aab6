#include "placement/shape_index.h"

#include <algorithm>
#include <limits>

namespace tessera::placement {
namespace {

constexpr std::int64_t kUnfit = std::numeric_limits<std::int64_t>::min();
constexpr std::uint32_t kNobody = std::numeric_limits<std::uint32_t>::max();

}  // namespace

std::size_t ShapeIndex::ShapeHash::operator()(const Shape& shape) const {
  std::uint64_t hash = 0;
  for (const std::uint64_t part :
       {static_cast<std::uint64_t>(shape.cpu_millis), static_cast<std::uint64_t>(shape.ram_bytes),
        std::uint64_t{shape.cards} << 32 | shape.milli, shape.kinds, shape.memory_bytes,
        static_cast<std::uint64_t>(shape.disk_bytes),
        std::uint64_t{shape.compute} << 16 | std::uint64_t{shape.mode} << 1 |
            std::uint64_t{shape.exclusive}}) {
    hash = (hash ^ part) * 0x9e3779b97f4a7c15ull;
    hash ^= hash >> 29;
  }
  return hash;
}

const NodeWorth& ShapeIndex::WorthOf(std::uint32_t node) {
  if (worth_.size() < fleet_.nodes()) {
    worth_.resize(fleet_.nodes());
    worth_known_.resize(fleet_.nodes(), false);
  }
  if (!worth_known_[node]) {
    worth_[node] = scorer_.Worth(fleet_, fleet_.node(node));
    worth_known_[node] = true;
  }
  return worth_[node];
}

std::int64_t ShapeIndex::ScoreOf(const Shape& shape, std::uint32_t node) {
  const Fleet::Node& at = fleet_.node(node);
  std::uint64_t fitting = 0;
  if (!fleet_.Fits(at, shape, &fitting)) return kUnfit;
  CardSet cards;
  if (at.plain) return scorer_.ScoreWith(WorthOf(node), fleet_, at, shape, fitting, &cards);
  return scorer_.ScoreWith(WorthOf(node), fleet_, at, fleet_.Measured(at, shape), fitting, &cards);
}

std::uint32_t ShapeIndex::Better(const Entry& entry, std::uint32_t a, std::uint32_t b) const {
  if (a == kNobody || entry.score[a] == kUnfit) return b;
  if (b == kNobody || entry.score[b] == kUnfit) return a;
  if (entry.score[a] != entry.score[b]) return entry.score[a] > entry.score[b] ? a : b;
  return fleet_.node(a).rank <= fleet_.node(b).rank ? a : b;
}

void ShapeIndex::Build(Entry* entry) {
  const std::uint32_t nodes = fleet_.nodes();
  std::size_t leaves = 1;
  while (leaves < nodes) leaves *= 2;
  entry->score.resize(nodes);
  entry->winner.assign(2 * leaves, kNobody);
  walk_.reserve(leaves);  // of subtrees that share nothing there are no more
  for (std::uint32_t n = 0; n < nodes; ++n) {
    entry->score[n] = ScoreOf(entry->shape, n);
    entry->winner[leaves + n] = n;
  }
  for (std::size_t i = leaves - 1; i > 0; --i) {
    entry->winner[i] = Better(*entry, entry->winner[2 * i], entry->winner[2 * i + 1]);
  }
  entry->seen = log_first_ + log_.size();
}

ShapeIndex::Entry& ShapeIndex::Find(const Shape& shape) {
  const auto known = entries_.find(shape);
  if (known != entries_.end()) return *known->second;
  if (entries_.size() == kIndexedShapesMax) {
    const auto oldest = std::min_element(
        entries_.begin(), entries_.end(),
        [](const auto& a, const auto& b) { return a.second->asked < b.second->asked; });
    entries_.erase(oldest);
  }
  auto entry = std::make_unique<Entry>();
  entry->shape = shape;
  Build(entry.get());
  return *entries_.emplace(shape, std::move(entry)).first->second;
}

// A match that the node neither won before nor wins now decides nothing further up.
void ShapeIndex::Update(Entry* entry, std::uint32_t node, bool all) {
  const std::int64_t score = ScoreOf(entry->shape, node);
  if (!all && score == entry->score[node]) return;
  entry->score[node] = score;
  const std::size_t leaves = entry->winner.size() / 2;
  for (std::size_t i = (leaves + node) / 2; i > 0; i /= 2) {
    const std::uint32_t before = entry->winner[i];
    const std::uint32_t now = Better(*entry, entry->winner[2 * i], entry->winner[2 * i + 1]);
    if (!all && now == before && now != node) return;
    entry->winner[i] = now;
  }
}

void ShapeIndex::Refresh(Entry* entry) {
  const std::uint64_t end = log_first_ + log_.size();
  const bool no_leaves = entry->winner.size() / 2 < fleet_.nodes();
  if (no_leaves || entry->seen < log_first_ || end - entry->seen > fleet_.nodes()) {
    Build(entry);
    return;
  }
  if (entry->score.size() != fleet_.nodes()) Grow(entry);
  ++clock_;
  stamp_.resize(fleet_.nodes());
  for (std::uint64_t at = entry->seen; at < end; ++at) {
    const std::uint32_t node = log_[at - log_first_];
    if (stamp_[node] == clock_) continue;
    stamp_[node] = clock_;
    Update(entry, node, false);
  }
  entry->seen = end;
}

// Nodes were added, and there are leaves for them.
void ShapeIndex::Grow(Entry* entry) {
  const std::size_t leaves = entry->winner.size() / 2;
  const auto before = static_cast<std::uint32_t>(entry->score.size());
  entry->score.resize(fleet_.nodes(), kUnfit);
  for (std::uint32_t n = before; n < fleet_.nodes(); ++n) {
    entry->winner[leaves + n] = n;
    Update(entry, n, true);
  }
}

ShapeIndex::Entry& ShapeIndex::Refreshed(const Shape& shape) {
  Entry& entry = Find(shape);
  Refresh(&entry);
  entry.asked = ++clock_;
  return entry;
}

void ShapeIndex::StartWalk() {
  walk_.clear();
  if (fleet_.nodes() > 0) walk_.push_back(1);
}

// The best winner of all subtrees on the heap. Its own subtree makes way for those along the path
// down to it, which hold everyone else that was in it.
std::optional<std::uint32_t> ShapeIndex::NextInWalk(const Entry& entry) {
  if (walk_.empty()) return std::nullopt;
  const auto worse = [&](std::uint32_t a, std::uint32_t b) {
    const std::uint32_t first = entry.winner[a];
    const std::uint32_t second = entry.winner[b];
    return first != second && Better(entry, first, second) == second;
  };
  std::pop_heap(walk_.begin(), walk_.end(), worse);
  std::uint32_t subtree = walk_.back();
  walk_.pop_back();
  const std::uint32_t best = entry.winner[subtree];
  if (best == kNobody || entry.score[best] == kUnfit) return std::nullopt;
  const auto leaves = static_cast<std::uint32_t>(entry.winner.size() / 2);
  const auto add = [&](std::uint32_t other) {
    const std::uint32_t winner = entry.winner[other];
    if (winner == kNobody || entry.score[winner] == kUnfit) return;
    walk_.push_back(other);
    std::push_heap(walk_.begin(), walk_.end(), worse);
  };
  for (std::uint32_t i = leaves + best; i > subtree; i /= 2) add(i ^ 1);
  return best;
}

std::optional<Choice> ShapeIndex::Best(const Shape& shape) {
  Entry& entry = Refreshed(shape);
  if (fleet_.nodes() == 0) return std::nullopt;
  const std::uint32_t best = entry.winner[1];
  if (best == kNobody || entry.score[best] == kUnfit) return std::nullopt;
  return On(best, shape);
}

Choice ShapeIndex::On(std::uint32_t node, const Shape& shape, std::uint64_t allowed) {
  const Fleet::Node& at = fleet_.node(node);
  Choice choice;
  choice.node = node;
  std::uint64_t fitting = 0;
  fleet_.Fits(at, shape, &fitting);
  choice.score =
      scorer_.ScoreWith(WorthOf(node), fleet_, at, at.plain ? shape : fleet_.Measured(at, shape),
                        fitting & allowed, &choice.cards);
  return choice;
}

void ShapeIndex::Replaced(std::uint32_t node) {
  Changed(node);
  for (auto& [shape, entry] : entries_) {
    if (node < entry->score.size()) Update(entry.get(), node, true);
  }
}

void ShapeIndex::Tied(const Shape& shape, std::vector<std::uint32_t>* nodes) {
  nodes->clear();
  const auto best = Best(shape);
  if (!best) return;
  const Entry& entry = Find(shape);
  for (std::uint32_t n = 0; n < entry.score.size(); ++n) {
    if (entry.score[n] == best->score) nodes->push_back(n);
  }
}

void ShapeIndex::Reset() {
  // Nobody has read as far as the log now begins.
  log_first_ += log_.size() + 1;
  log_.clear();
  worth_known_.assign(worth_known_.size(), false);
}

void ShapeIndex::Changed(std::uint32_t node) {
  // Old news is dropped by halves; who has not read it by then starts over.
  const std::size_t bound = std::max<std::size_t>(4096, 2 * std::size_t{fleet_.nodes()});
  if (log_.capacity() < bound) log_.reserve(bound);
  if (node < worth_known_.size()) worth_known_[node] = false;
  if (log_.size() >= bound) {
    const std::size_t half = bound / 2;
    log_.erase(log_.begin(), log_.begin() + static_cast<std::ptrdiff_t>(half));
    log_first_ += half;
  }
  log_.push_back(node);
}

}  // namespace tessera::placement
