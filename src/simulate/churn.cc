#include "simulate/churn.h"

#include <algorithm>
#include <deque>
#include <limits>
#include <memory>
#include <optional>
#include <queue>
#include <tuple>

#include "base/rng.h"
#include "base/units.h"
#include "placement/classes.h"
#include "placement/defragment.h"
#include "placement/fleet.h"
#include "placement/scores.h"
#include "placement/shape_index.h"
#include "simulate/replay.h"

namespace tessera::simulate {
namespace {

using placement::CardSet;
using placement::Fleet;
using placement::Held;
using placement::Shape;

constexpr std::int64_t kMillis = 1000;  // the clock counts milliseconds
constexpr std::uint32_t kNobody = std::numeric_limits<std::uint32_t>::max();

struct Request {
  std::uint32_t pod = 0;
  std::int64_t arrives = 0;
  std::int64_t life = 0;
  bool started = false;
};

enum class Kind : std::uint8_t { kEnd, kReturn, kLoss, kArrive, kTidy };  // in this order at a time

struct Event {
  std::int64_t at = 0;
  Kind kind = Kind::kArrive;
  std::uint32_t what = 0;  // request or node
  std::uint64_t number = 0;
  bool operator>(const Event& other) const {
    return std::tie(at, kind, number) > std::tie(other.at, other.kind, other.number);
  }
};

struct Running {
  std::uint32_t request = 0;
  std::int64_t end = 0;
};

class Simulation {
 public:
  Simulation(const std::vector<TracePod>& pods, const ChurnOptions& options)
      : pods_(pods), options_(options), rng_(options.seed) {}

  Result<ChurnResult> Run(const std::vector<TraceNode>& nodes) {
    TRY(scorer_, placement::MakeScorer(options_.policy));
    TRY_STATUS(Build(nodes));
    TRY_STATUS(Schedule());
    index_.emplace(fleet_, *scorer_);
    while (!events_.empty()) {
      const Event event = events_.top();
      events_.pop();
      Advance(event.at);
      Handle(event);
      Serve();
    }
    result_.unplaced = queue_.size();
    Summarise();
    return std::move(result_);
  }

 private:
  Status Build(const std::vector<TraceNode>& nodes) {
    std::vector<std::uint32_t> kept;
    for (std::uint32_t n = 0; n < nodes.size(); n += options_.nodes_every) kept.push_back(n);
    std::vector<std::uint32_t> ranks(kept.size());
    for (std::uint32_t i = 0; i < ranks.size(); ++i) ranks[i] = i;
    for (std::size_t i = ranks.size(); i > 1; --i) std::swap(ranks[i - 1], ranks[rng_.Below(i)]);
    for (std::size_t i = 0; i < kept.size(); ++i) {
      const TraceNode& node = nodes[kept[i]];
      TRY(const std::uint32_t kind, fleet_.KindOf(node.model));
      TRY_STATUS(fleet_.AddNode(node.name, node.cpu_millis,
                                node.ram_mib * static_cast<std::int64_t>(kMiB), node.cards, kind,
                                ranks[i]));
    }
    if (fleet_.capacity_milli() == 0) return Error::Field("nodes", "expected at least one card");
    lost_.resize(fleet_.nodes());
    result_.nodes = fleet_.nodes();
    result_.cards = fleet_.capacity_milli() / placement::kWholeCardMilli;
    for (const TracePod& pod : pods_) shapes_.push_back(ShapeOf(fleet_, pod));
    return {};
  }

  Status Schedule() {
    std::vector<std::int64_t> milli;
    for (const Shape& shape : shapes_) milli.push_back(shape.total_milli());
    TRY(const DenseTrace dense,
        MakeDense(pods_, milli, fleet_.capacity_milli(), options_.load_percent, &rng_));
    span_ = dense.span;
    result_.span_seconds = span_ / kMillis;
    for (const Arrival& one : dense.arrivals) {
      Push(one.at, Kind::kArrive, static_cast<std::uint32_t>(requests_.size()));
      requests_.push_back({one.pod, one.at, one.life, false});
    }
    slot_of_.assign(requests_.size(), kNobody);
    if (options_.loss_every > 0) PushLoss(0);
    if (options_.moves_max > 0) Push(kTidySeconds * kMillis, Kind::kTidy, 0);
    return {};
  }

  const Shape& ShapeOfRequest(std::uint32_t request) const {
    return shapes_[requests_[request].pod];
  }
  void Push(std::int64_t at, Kind kind, std::uint32_t what) {
    events_.push({at, kind, what, ++events_pushed_});
  }
  void PushLoss(std::int64_t now) {
    const std::int64_t at =
        now + static_cast<std::int64_t>(
                  rng_.Between(1, 2 * static_cast<std::uint64_t>(options_.loss_every) * kMillis));
    if (at < span_) Push(at, Kind::kLoss, 0);
  }

  double AllocatedPercent() const {
    return 100.0 * static_cast<double>(fleet_.used_milli() - lost_milli_) /
           static_cast<double>(fleet_.capacity_milli());
  }
  // What was taken since the last event counts for as long as it was.
  void Advance(std::int64_t at) {
    const double percent = AllocatedPercent();
    while (result_.allocated.size() < kChurnSamples &&
           static_cast<std::int64_t>(result_.allocated.size() + 1) * span_ /
                   static_cast<std::int64_t>(kChurnSamples) <=
               at) {
      result_.allocated.push_back(percent);
    }
    const std::int64_t from = std::max(now_, span_ / 4);
    const std::int64_t to = std::min(at, span_);
    if (to > from) held_for_.emplace_back(percent, to - from);
    now_ = at;
  }

  void Handle(const Event& event) {
    switch (event.kind) {
      case Kind::kArrive:
        Arrive(event.what);
        break;
      case Kind::kEnd:
        End(event.what);
        break;
      case Kind::kLoss:
        Lose();
        break;
      case Kind::kReturn:
        Return(event.what);
        break;
      case Kind::kTidy:
        Tidy();
        if (now_ < span_) Push(now_ + kTidySeconds * kMillis, Kind::kTidy, 0);
        break;
    }
  }

  void Arrive(std::uint32_t request) {
    const Shape& shape = ShapeOfRequest(request);
    ++result_.arrived;
    seen_.Count(shape, pods_[requests_[request].pod].models);
    if (LearnsAfter(seen_.total(), options_.learn_every)) {
      scorer_->Learn(seen_, fleet_);
      index_->Reset();
    }
    bool could = false;
    for (std::uint32_t n = 0; n < fleet_.nodes() && !could; ++n) could = CouldHold(n, shape);
    if (could) {
      queue_.push_back(request);
    } else {
      ++result_.never;
    }
  }
  bool CouldHold(std::uint32_t index, const Shape& shape) const {
    const Fleet::Node& node = fleet_.node(index);
    return node.cpu_millis >= shape.cpu_millis && node.ram_bytes >= shape.ram_bytes &&
           (shape.cards == 0 || (node.cards >= shape.cards &&
                                 (shape.kinds == 0 || (shape.kinds >> node.kind & 1) != 0)));
  }

  void Start(std::uint32_t request, std::uint32_t node, const CardSet& cards) {
    const Shape& shape = ShapeOfRequest(request);
    fleet_.Take(node, shape, cards);
    seen_.Placed();
    index_->Changed(node);
    slot_of_[request] = static_cast<std::uint32_t>(held_.size());
    held_.push_back({node, shape, cards, false, static_cast<std::uint64_t>(shape.total_milli())});
    running_.push_back({request, now_ + requests_[request].life});
    Push(running_.back().end, Kind::kEnd, request);
    if (!requests_[request].started) {
      requests_[request].started = true;
      ++result_.placed;
      delays_.push_back(now_ - requests_[request].arrives);
    }
  }
  void Stop(std::uint32_t request) {
    const std::uint32_t slot = slot_of_[request];
    fleet_.Give(held_[slot].node, held_[slot].shape, held_[slot].cards);
    index_->Changed(held_[slot].node);
    held_[slot] = held_.back();
    running_[slot] = running_.back();
    slot_of_[running_[slot].request] = slot;
    held_.pop_back();
    running_.pop_back();
    slot_of_[request] = kNobody;
  }
  // A life that was lengthened, or begun again, has another end by now.
  void End(std::uint32_t request) {
    if (slot_of_[request] == kNobody || running_[slot_of_[request]].end != now_) return;
    Stop(request);
  }

  // A lost node is held whole by its loss; what ran there waits again, in front.
  void Lose() {
    PushLoss(now_);
    const auto node = static_cast<std::uint32_t>(rng_.Below(fleet_.nodes()));
    if (lost_[node]) return;  // down already
    std::vector<std::uint32_t> back;
    for (std::size_t i = 0; i < held_.size(); ++i) {
      if (held_[i].node == node) back.push_back(running_[i].request);
    }
    for (const std::uint32_t request : back) Stop(request);
    std::sort(back.begin(), back.end());
    queue_.insert(queue_.begin(), back.begin(), back.end());
    result_.restarted += back.size();
    ++result_.nodes_lost;
    const Fleet::Node& at = fleet_.node(node);
    Shape all{at.cpu_millis, at.ram_bytes, at.cards, placement::kWholeCardMilli, 0};
    if (at.cards == 0) all.milli = 0;
    lost_[node] = Held{node, all, placement::LowestFree(fleet_, at, all), true, 0};
    fleet_.Take(node, all, lost_[node]->cards);
    lost_milli_ += all.total_milli();
    index_->Changed(node);
    Push(now_ + kNodeDownSeconds * kMillis, Kind::kReturn, node);
  }

  void Return(std::uint32_t node) {
    fleet_.Give(node, lost_[node]->shape, lost_[node]->cards);
    lost_milli_ -= lost_[node]->shape.total_milli();
    lost_[node].reset();
    index_->Changed(node);
  }

  void Carry(const std::vector<placement::Move>& moves) {
    for (const placement::Move& move : moves) {
      Held& one = held_[move.held];
      fleet_.Give(one.node, one.shape, one.cards);
      fleet_.Take(move.node, one.shape, move.cards);
      index_->Changed(one.node);
      index_->Changed(move.node);
      one.node = move.node;
      one.cards = move.cards;
      Running& running = running_[move.held];
      running.end += kMoveSeconds * kMillis;
      Push(running.end, Kind::kEnd, running.request);
      ++result_.moves;
      result_.moved_milli += one.shape.total_milli();
    }
  }

  void Tidy() {
    const placement::Emptied emptied = placement::EmptyCards(&fleet_, held_, options_.moves_max);
    Carry(emptied.moves);
    result_.cards_emptied += emptied.cards;
  }

  void Serve() {
    while (!queue_.empty() && ServeHead()) queue_.pop_front();
    if (queue_.size() < 2 || options_.backfill == Backfill::kNone) return;
    const bool easy = options_.backfill == Backfill::kEasy;
    std::optional<std::int64_t> head_starts;
    refused_.clear();
    refused_elsewhere_.clear();
    const auto refused = [](const std::vector<Shape>& shapes, const Shape& shape) {
      return std::find(shapes.begin(), shapes.end(), shape) != shapes.end();
    };
    std::size_t looked_at = 0;
    for (auto at = queue_.begin() + 1; at != queue_.end() && looked_at < kBackfillMax;
         ++looked_at) {
      const Shape& shape = ShapeOfRequest(*at);
      // Within one pass the fleet only fills.
      auto choice =
          refused(refused_, shape) ? std::optional<placement::Choice>() : index_->Best(shape);
      if (!choice) {
        if (!refused(refused_, shape)) refused_.push_back(shape);
        ++at;
        continue;
      }
      if (easy && !head_starts) head_starts = HeadStarts();
      if (easy && now_ + requests_[*at].life > *head_starts) {
        choice.reset();
        if (!refused(refused_elsewhere_, shape)) choice = OffTheHeadsNodes(shape);
        if (!choice) {
          refused_elsewhere_.push_back(shape);
          ++at;
          continue;
        }
      }
      Start(*at, choice->node, choice->cards);
      at = queue_.erase(at);
    }
  }

  // The best place on the nodes that the head could not have if they were empty: who goes there
  // delays it by nothing, however long he stays.
  std::optional<placement::Choice> OffTheHeadsNodes(const Shape& shape) {
    const Shape& head = ShapeOfRequest(queue_.front());
    const auto node = index_->FirstOf(shape, [&](std::uint32_t n) { return !CouldHold(n, head); });
    if (!node) return std::nullopt;
    return index_->On(*node, shape);
  }

  bool ServeHead() {
    const std::uint32_t request = queue_.front();
    const Shape& shape = ShapeOfRequest(request);
    if (const auto choice = index_->Best(shape)) {
      Start(request, choice->node, choice->cards);
      return true;
    }
    if (options_.moves_max == 0 || shape.cards == 0) return false;
    const auto room = placement::MakeRoom(&fleet_, held_, shape, *scorer_, options_.moves_max);
    if (!room) return false;
    Carry(room->moves);
    Start(request, room->node, room->cards);
    return true;
  }

  // When the head will fit if nothing starts before it.
  std::int64_t HeadStarts() {
    const Shape& shape = ShapeOfRequest(queue_.front());
    std::vector<std::uint32_t> by_end(running_.size());
    for (std::uint32_t i = 0; i < by_end.size(); ++i) by_end[i] = i;
    std::sort(by_end.begin(), by_end.end(), [&](std::uint32_t a, std::uint32_t b) {
      return std::tie(running_[a].end, running_[a].request) <
             std::tie(running_[b].end, running_[b].request);
    });
    std::size_t gone = 0;
    std::int64_t starts = std::numeric_limits<std::int64_t>::max();
    while (gone < by_end.size()) {
      const Held& one = held_[by_end[gone]];
      fleet_.Give(one.node, one.shape, one.cards);
      ++gone;
      if (fleet_.Fits(fleet_.node(one.node), shape)) {
        starts = running_[by_end[gone - 1]].end;
        break;
      }
    }
    for (std::size_t i = 0; i < gone; ++i) {
      const Held& one = held_[by_end[i]];
      fleet_.Take(one.node, one.shape, one.cards);
    }
    return starts;
  }

  void Summarise() {
    std::sort(held_for_.begin(), held_for_.end());
    double sum = 0, time = 0;
    for (const auto& [percent, length] : held_for_) {
      sum += percent * static_cast<double>(length);
      time += static_cast<double>(length);
    }
    if (time > 0) result_.allocated_mean = sum / time;
    double passed = 0;
    for (const auto& [percent, length] : held_for_) {
      passed += static_cast<double>(length);
      result_.allocated_p50 = percent;
      if (passed * 2 >= time) break;
    }
    std::sort(delays_.begin(), delays_.end());
    if (delays_.empty()) return;
    const auto at = [&](std::size_t percent) {
      return delays_[(delays_.size() - 1) * percent / 100] / kMillis;
    };
    result_.delay_p50 = at(50);
    result_.delay_p99 = at(99);
    result_.delay_max = at(100);
  }

  const std::vector<TracePod>& pods_;
  const ChurnOptions& options_;
  Rng rng_;
  Fleet fleet_;
  std::unique_ptr<placement::Scorer> scorer_;
  std::optional<placement::ShapeIndex> index_;
  placement::ClassCounter seen_;
  std::vector<Shape> shapes_;  // by pod
  std::vector<Request> requests_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  std::uint64_t events_pushed_ = 0;
  std::deque<std::uint32_t> queue_;
  std::vector<Shape> refused_;            // of this pass, by all nodes, and
  std::vector<Shape> refused_elsewhere_;  // by those that the head does not wait for
  std::vector<Held> held_;                // what runs, and
  std::vector<Running> running_;          // when it ends, by slot
  std::vector<std::uint32_t> slot_of_;
  std::vector<std::optional<Held>> lost_;  // by node: what holds it while it is down
  std::int64_t lost_milli_ = 0;
  std::int64_t span_ = 0;
  std::int64_t now_ = 0;
  std::vector<std::pair<double, std::int64_t>> held_for_;
  std::vector<std::int64_t> delays_;
  ChurnResult result_;
};

}  // namespace

Result<DenseTrace> MakeDense(const std::vector<TracePod>& pods,
                             const std::vector<std::int64_t>& milli, std::int64_t capacity_milli,
                             std::uint32_t load_percent, Rng* rng) {
  std::vector<std::int64_t> instants;
  std::vector<std::uint32_t> drawn(pods.size());
  double work = 0;  // milli x ms
  const auto life = [&](std::uint32_t pod) {
    return std::clamp<std::int64_t>(pods[pod].deleted - pods[pod].created, 1, kLifeSecondsMax) *
           kMillis;
  };
  for (std::uint32_t p = 0; p < pods.size(); ++p) {
    if (pods[p].created < 0) {
      return Error::Field("pods", "expected columns creation_time and deletion_time");
    }
    drawn[p] = p;
    instants.push_back(pods[p].created);
    work += static_cast<double>(milli[p]) * static_cast<double>(life(p));
  }
  if (work <= 0) return Error::Field("pods", "expected requests with cards that live");
  for (std::size_t i = drawn.size(); i > 1; --i) std::swap(drawn[i - 1], drawn[rng->Below(i)]);
  std::sort(instants.begin(), instants.end());
  std::vector<std::int64_t> dense(instants.size());
  for (std::size_t i = 1; i < instants.size(); ++i) {
    dense[i] = dense[i - 1] + std::min(instants[i] - instants[i - 1], kPauseSecondsMax);
  }
  const double span = work / (static_cast<double>(capacity_milli) * load_percent / 100);
  const double scale = dense.back() > 0 ? span / static_cast<double>(dense.back()) : 0;
  DenseTrace trace;
  trace.span = std::max<std::int64_t>(1, static_cast<std::int64_t>(span));
  for (std::size_t i = 0; i < drawn.size(); ++i) {
    trace.arrivals.push_back({drawn[i],
                              static_cast<std::int64_t>(static_cast<double>(dense[i]) * scale),
                              life(drawn[i])});
  }
  return trace;
}

Result<ChurnResult> Churn(const std::vector<TraceNode>& nodes, const std::vector<TracePod>& pods,
                          const ChurnOptions& options) {
  if (options.nodes_every < 1) return Error::Field("nodes_every", "expected 1 or more");
  if (options.load_percent < 1 || options.load_percent > 1000) {
    return Error::Field("load", "expected 1 to 1000 percent");
  }
  if (options.moves_max > placement::kMovesMax) {
    return Error::Field("moves", "expected at most kMovesMax (16) a plan");
  }
  if (options.loss_every < 0 || options.learn_every < 1) {
    return Error::Field(options.loss_every < 0 ? "loss_every" : "learn_every",
                        "expected no negative time, and at least one arrival");
  }
  if (pods.empty()) return Error::Field("pods", "expected at least one");
  return Simulation(pods, options).Run(nodes);
}

}  // namespace tessera::simulate
