#include "placement/shape_index.h"

#include <algorithm>
#include <limits>

namespace tessera::placement {
namespace {

constexpr std::int64_t kUnfit = std::numeric_limits<std::int64_t>::min();
constexpr std::uint32_t kNobody = std::numeric_limits<std::uint32_t>::max();

}  // namespace

std::int64_t ShapeIndex::ScoreOf(const Shape& shape, std::uint32_t node) const {
  const Fleet::Node& at = fleet_.node(node);
  if (!fleet_.Fits(at, shape)) return kUnfit;
  CardSet cards;
  return scorer_.Score(fleet_, at, shape, &cards);
}

std::uint32_t ShapeIndex::Better(const Entry& entry, std::uint32_t a, std::uint32_t b) const {
  if (a == kNobody || entry.score[a] == kUnfit) return b;
  if (b == kNobody || entry.score[b] == kUnfit) return a;
  if (entry.score[a] != entry.score[b]) return entry.score[a] > entry.score[b] ? a : b;
  return fleet_.node(a).rank <= fleet_.node(b).rank ? a : b;
}

void ShapeIndex::Build(Entry* entry) const {
  const std::uint32_t nodes = fleet_.nodes();
  std::size_t leaves = 1;
  while (leaves < nodes) leaves *= 2;
  entry->score.resize(nodes);
  entry->winner.assign(2 * leaves, kNobody);
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
  for (auto& entry : entries_) {
    if (entry->shape == shape) return *entry;
  }
  if (entries_.size() == kIndexedShapesMax) {
    const auto oldest =
        std::min_element(entries_.begin(), entries_.end(),
                         [](const auto& a, const auto& b) { return a->asked < b->asked; });
    entries_.erase(oldest);
  }
  entries_.push_back(std::make_unique<Entry>());
  entries_.back()->shape = shape;
  Build(entries_.back().get());
  return *entries_.back();
}

void ShapeIndex::Refresh(Entry* entry) {
  const std::uint64_t end = log_first_ + log_.size();
  const bool fresh_nodes = entry->score.size() != fleet_.nodes();
  if (fresh_nodes || entry->seen < log_first_ || end - entry->seen > fleet_.nodes()) {
    Build(entry);
    return;
  }
  ++clock_;
  stamp_.resize(fleet_.nodes());
  const std::size_t leaves = entry->winner.size() / 2;
  for (std::uint64_t at = entry->seen; at < end; ++at) {
    const std::uint32_t node = log_[at - log_first_];
    if (stamp_[node] == clock_) continue;
    stamp_[node] = clock_;
    entry->score[node] = ScoreOf(entry->shape, node);
    for (std::size_t i = (leaves + node) / 2; i > 0; i /= 2) {
      entry->winner[i] = Better(*entry, entry->winner[2 * i], entry->winner[2 * i + 1]);
    }
  }
  entry->seen = end;
}

std::optional<Choice> ShapeIndex::Best(const Shape& shape) {
  Entry& entry = Find(shape);
  Refresh(&entry);
  entry.asked = ++clock_;
  if (fleet_.nodes() == 0) return std::nullopt;
  const std::uint32_t best = entry.winner[1];
  if (best == kNobody || entry.score[best] == kUnfit) return std::nullopt;
  Choice choice;
  choice.node = best;
  choice.score = scorer_.Score(fleet_, fleet_.node(best), shape, &choice.cards);
  return choice;
}

void ShapeIndex::Changed(std::uint32_t node) {
  // Old news is dropped by halves; who has not read it by then starts over.
  const std::size_t bound = std::max<std::size_t>(4096, 2 * std::size_t{fleet_.nodes()});
  if (log_.size() >= bound) {
    const std::size_t half = bound / 2;
    log_.erase(log_.begin(), log_.begin() + static_cast<std::ptrdiff_t>(half));
    log_first_ += half;
  }
  log_.push_back(node);
}

}  // namespace tessera::placement
