#include "simulate/spot.h"

#include <algorithm>
#include <deque>
#include <map>
#include <queue>
#include <set>
#include <string_view>
#include <tuple>

#include "base/check.h"
#include "base/rng.h"
#include "placement/defragment.h"
#include "placement/engine.h"
#include "placement/fleet.h"
#include "placement/preempt.h"
#include "placement/queue.h"

namespace tessera::simulate {
namespace {

constexpr std::int64_t kMillis = 1000;  // the clock counts milliseconds
constexpr std::uint32_t kWholeCard = 1000;
constexpr std::int32_t kGuaranteedPriority = 100, kSpotPriority = 0;

enum class Kind : std::uint8_t { kEnd, kGone, kUse, kArrive, kTidy };  // in this order at a time

struct Event {
  std::int64_t at = 0;
  Kind kind = Kind::kArrive;
  std::uint32_t what = 0;  // request
  std::uint64_t number = 0;
  bool operator>(const Event& other) const {
    return std::tie(at, kind, number) > std::tie(other.at, other.kind, other.number);
  }
};

struct One {
  placement::Order order;
  std::int64_t arrives = 0;
  std::int64_t life = 0;
  std::uint32_t duty_percent = 0;    // of the minutes, in use
  std::uint64_t memory_used = 0;     // on each card
  std::vector<std::uint32_t> cards;  // that it runs on, by number over the fleet
  std::int64_t end = 0;              // while it runs
  bool running = false;
  bool started = false;
  double got = 0;  // of compute since it started last, in permille minutes
  bool spot() const { return order.preemptible; }
};

struct CardNow {
  std::int64_t sold = 0, wanted_guaranteed = 0, wanted_spot = 0;
  std::uint64_t memory_sold = 0, memory_used = 0;
};

std::vector<std::string> ModelsOf(std::string_view text) {
  std::vector<std::string> models;
  while (!text.empty()) {
    const std::size_t bar = text.find('|');
    if (bar != 0) models.emplace_back(text.substr(0, bar));
    text.remove_prefix(bar == std::string_view::npos ? text.size() : bar + 1);
  }
  return models;
}

class Simulation {
 public:
  explicit Simulation(const SpotOptions& options) : options_(options), rng_(options.seed) {}

  Result<SpotResult> Run(const std::vector<TraceNode>& nodes, const std::vector<TracePod>& pods) {
    TRY_STATUS(Build(nodes));
    TRY_STATUS(Schedule(pods));
    while (!events_.empty()) {
      now_ = events_.top().at;
      bool changed = false;
      while (!events_.empty() && events_.top().at == now_) {
        const Event event = events_.top();
        events_.pop();
        changed |= Handle(event);
      }
      if (!changed) continue;
      NoteBehindSpot();
      Decide();
      LookBehindSpot();
    }
    result_.unplaced = queue_.waiting() + line_.size();
    Summarise();
    return std::move(result_);
  }

 private:
  Status Build(const std::vector<TraceNode>& nodes) {
    TRY_STATUS(engine_.SetPolicy("", options_.policy));
    const std::uint32_t memory = std::min(options_.oversell, kOversellMemoryMax);
    for (std::size_t n = 0; n < nodes.size(); n += options_.nodes_every) {
      const TraceNode& node = nodes[n];
      placement::NodeInventory inventory;
      inventory.name = node.name;
      inventory.cpu_millis = static_cast<std::uint32_t>(node.cpu_millis);
      inventory.ram_bytes = static_cast<std::uint64_t>(node.ram_mib) * kMiB;
      inventory.oversell_compute = {options_.oversell};
      inventory.oversell_memory = {memory};
      for (std::uint32_t i = 0; i < node.cards; ++i) {
        device::Card card;
        card.uuid = node.name + "/" + (i < 10 ? "0" : "") + std::to_string(i);
        card.model = node.model;
        card.memory_bytes = kSpotCardBytes;
        card_number_[card.uuid] = static_cast<std::uint32_t>(cards_.size());
        card_uuid_.push_back(card.uuid);
        cards_.emplace_back();
        inventory.cards.push_back(std::move(card));
      }
      TRY_STATUS(engine_.UpdateNode(inventory));
      inventories_.push_back(std::move(inventory));
    }
    if (cards_.empty()) return Error::Field("nodes", "expected at least one card");
    placement::QueuePolicy policy;
    policy.preempt = options_.preempt;
    TRY_STATUS(queue_.SetPolicy(policy));
    result_.nodes = static_cast<std::uint32_t>(inventories_.size());
    result_.cards = static_cast<std::int64_t>(cards_.size());
    return {};
  }

  Status Schedule(const std::vector<TracePod>& all) {
    std::vector<TracePod> pods;
    std::vector<std::int64_t> milli;
    bool classes = false;
    for (const TracePod& pod : all) {
      if (pod.cards == 0) continue;
      pods.push_back(pod);
      milli.push_back(std::int64_t{pod.cards} * pod.milli);
      classes = classes || !pod.qos.empty();
    }
    if (pods.empty()) return Error::Field("pods", "expected requests with cards");
    if (!classes && !options_.spot_percent) {
      return Error::Field("pods", "expected column qos, or a part that is spot");
    }
    TRY(const DenseTrace dense,
        MakeDense(pods, milli, result_.cards * kWholeCard, options_.load_percent, &rng_));
    span_ = dense.span;
    result_.span_seconds = span_ / kMillis;
    for (const Arrival& arrival : dense.arrivals) {
      const TracePod& pod = pods[arrival.pod];
      One one;
      // Each request draws the same numbers whichever options ask for them.
      const auto drawn = static_cast<std::uint32_t>(rng_.Below(100));
      const std::uint64_t memory_percent = rng_.Between(40, 100);
      const std::uint64_t memory_used_percent = rng_.Between(50, 100);
      one.duty_percent = static_cast<std::uint32_t>(std::uint64_t{options_.use_percent} * 2 *
                                                    rng_.Between(0, 1000) / 1000);
      const bool spot =
          options_.spot_percent ? drawn < *options_.spot_percent : pod.qos == kSpotClass;
      placement::Request& request = one.order.request;
      request.id = std::to_string(requests_.size());
      request.slices = pod.cards;
      request.compute = {pod.milli};
      request.memory_bytes = std::max<std::uint64_t>(
          1, kSpotCardBytes / kWholeCard * pod.milli * memory_percent / 100);
      request.cpu_millis = static_cast<std::uint32_t>(pod.cpu_millis);
      request.ram_bytes = static_cast<std::uint64_t>(pod.ram_mib) * kMiB;
      request.models = ModelsOf(pod.models);
      request.priority = spot ? kSpotPriority : kGuaranteedPriority;
      request.guaranteed = !spot;
      one.order.preemptible = spot;
      one.memory_used = request.memory_bytes / 100 * memory_used_percent;
      one.arrives = arrival.at;
      one.life = arrival.life;
      Push(arrival.at, Kind::kArrive, static_cast<std::uint32_t>(requests_.size()));
      requests_.push_back(std::move(one));
    }
    Push(kUseSeconds * kMillis, Kind::kUse, 0);
    if (options_.moves_max > 0) Push(kTidySeconds * kMillis, Kind::kTidy, 0);
    return {};
  }

  void Push(std::int64_t at, Kind kind, std::uint32_t what) {
    events_.push({at, kind, what, ++events_pushed_});
  }
  SpotClassResult& ClassOf(const One& one) {
    return one.spot() ? result_.spot : result_.guaranteed;
  }

  // Whether the queue has to look again.
  bool Handle(const Event& event) {
    One& one = requests_[event.what];
    switch (event.kind) {
      case Kind::kArrive:
        ++ClassOf(one).arrived;
        if (engine_.CouldHold(one.order.request).empty()) {
          ++result_.never;
          return false;
        }
        if (one.spot()) {
          line_.push_back(event.what);
        } else {
          CHECK(queue_.Add(one.order).has_value());
        }
        return true;
      case Kind::kEnd:
        // A life that was lengthened, or begun again, has another end by now.
        if (!one.running || one.end != now_) return false;
        Leave(&one);
        CHECK(queue_.Remove(one.order.request.id));
        return true;
      case Kind::kGone:
        if (!one.running) return false;  // it came to its end while it was on its way out
        Leave(&one);
        queue_.PutBack(one.order.request.id);
        ++spot_waiting_;
        ++ClassOf(one).evicted;
        if (Counts()) lost_work_ += one.got;
        one.got = 0;
        return true;
      case Kind::kUse:
        Use();
        if (now_ < span_) Push(now_ + kUseSeconds * kMillis, Kind::kUse, 0);
        return false;
      case Kind::kTidy:
        Tidy();
        if (now_ < span_) Push(now_ + kTidySeconds * kMillis, Kind::kTidy, 0);
        return true;
    }
    return false;
  }

  void Decide() {
    for (; spot_waiting_ < kSpotLineMax && !line_.empty(); line_.pop_front()) {
      CHECK(queue_.Add(requests_[line_.front()].order).has_value());
      ++spot_waiting_;
    }
    placement::Queue::Decision decision = queue_.Decide(engine_, now_ * kMillis, {});
    for (const placement::Placement& placement : decision.placed) {
      One& one = requests_[std::stoul(placement.request_id)];
      one.running = true;
      if (one.spot()) --spot_waiting_;
      one.end = now_ + one.life;
      Sit(&one, placement);
      Push(one.end, Kind::kEnd, static_cast<std::uint32_t>(&one - requests_.data()));
      if (one.started) continue;
      one.started = true;
      ++ClassOf(one).placed;
      (one.spot() ? spot_delays_ : guaranteed_delays_).push_back(now_ - one.arrives);
    }
    for (const placement::Eviction& eviction : decision.evictions) {
      Push(now_ + kStopSeconds * kMillis, Kind::kGone,
           static_cast<std::uint32_t>(std::stoul(eviction.id)));
    }
  }

  // Whether the first guaranteed request in line would fit now if no spot ran.
  void LookBehindSpot() {
    const std::vector<std::string> waiting = queue_.Waiting();
    const auto head = std::find_if(waiting.begin(), waiting.end(), [&](const std::string& id) {
      return !requests_[std::stoul(id)].spot();
    });
    if (head == waiting.end()) {
      behind_spot_.clear();
      return;
    }
    placement::QuotaTree quotas;
    placement::Absence absence(engine_, quotas);
    for (const One& one : requests_) {
      if (one.running && one.spot()) {
        absence.Take(one.order.request.id, "", placement::AmountOf(one.order.request));
      }
    }
    if (engine_.Consider(requests_[std::stoul(*head)].order.request) == nullptr) {
      behind_spot_.clear();
    } else if (behind_spot_ != *head) {
      behind_spot_ = *head;
      behind_spot_since_ = now_;
    }
  }
  void NoteBehindSpot() {
    if (behind_spot_.empty()) return;
    result_.behind_spot_max =
        std::max(result_.behind_spot_max, (now_ - behind_spot_since_) / kMillis);
  }

  // What it takes of its cards, given (1) or taken back (-1).
  void Book(const One& one, std::int64_t sign) {
    for (const std::uint32_t card : one.cards) {
      cards_[card].sold += sign * one.order.request.compute.value;
      const std::uint64_t memory = one.order.request.memory_bytes;
      const std::uint64_t used = one.memory_used;
      cards_[card].memory_sold += sign > 0 ? memory : -memory;
      cards_[card].memory_used += sign > 0 ? used : -used;
    }
  }
  void Sit(One* one, const placement::Placement& placement) {
    one->cards.clear();
    for (const device::Share& share : placement.shares) {
      one->cards.push_back(card_number_.at(share.card_uuid));
    }
    Book(*one, 1);
  }
  void Leave(One* one) {
    Book(*one, -1);
    one->running = false;
    one->cards.clear();
    CHECK(engine_.Release(one->order.request.id));
  }

  bool Counts() const { return now_ >= span_ / 4 && now_ <= span_; }

  // One minute: who is in use, and what the cards make of it.
  void Use() {
    for (CardNow& card : cards_) card.wanted_guaranteed = card.wanted_spot = 0;
    const auto minute = static_cast<std::uint64_t>(now_ / (kUseSeconds * kMillis));
    std::vector<std::uint32_t> busy;
    for (std::uint32_t i = 0; i < requests_.size(); ++i) {
      const One& one = requests_[i];
      if (!one.running) continue;
      // Not from rng_: the draw is the same whatever else runs at the time.
      Rng draw(options_.seed * 0x9e3779b97f4a7c15ull + i * 0x100000001b3ull + minute);
      if (draw.Below(100) >= one.duty_percent) continue;
      busy.push_back(i);
      for (const std::uint32_t card : one.cards) {
        (one.spot() ? cards_[card].wanted_spot : cards_[card].wanted_guaranteed) +=
            one.order.request.compute.value;
      }
    }
    for (const std::uint32_t i : busy) {
      One& one = requests_[i];
      for (const std::uint32_t number : one.cards) {
        const CardNow& card = cards_[number];
        const std::int64_t room =
            one.spot() ? std::max<std::int64_t>(0, kWholeCard - card.wanted_guaranteed)
                       : std::int64_t{kWholeCard};
        const std::int64_t wanted = one.spot() ? card.wanted_spot : card.wanted_guaranteed;
        const double share = one.order.request.compute.value;
        const double got = wanted <= room
                               ? share
                               : share * static_cast<double>(room) / static_cast<double>(wanted);
        one.got += got;
        if (!Counts()) continue;
        served_ += got;
        (one.spot() ? spot_wanted_ : guaranteed_wanted_) += share;
        (one.spot() ? spot_lost_ : guaranteed_lost_) += share - got;
      }
    }
    std::int64_t sold = 0;
    for (const CardNow& card : cards_) sold += card.sold;
    const double capacity = static_cast<double>(cards_.size()) * kWholeCard;
    const double sold_percent = 100.0 * static_cast<double>(sold) / capacity;
    while (result_.sold.size() < kChurnSamples &&
           static_cast<std::int64_t>(result_.sold.size() + 1) * span_ /
                   static_cast<std::int64_t>(kChurnSamples) <=
               now_) {
      result_.sold.push_back(sold_percent);
    }
    if (!Counts()) return;
    ++minutes_;
    sold_ += static_cast<double>(sold);
    for (const CardNow& card : cards_) {
      allocated_ += static_cast<double>(std::min<std::int64_t>(card.sold, kWholeCard));
      memory_sold_ += static_cast<double>(card.memory_sold) / static_cast<double>(kSpotCardBytes);
      contended_ += card.wanted_guaranteed + card.wanted_spot > kWholeCard ? 1 : 0;
      memory_over_ += card.memory_used > kSpotCardBytes ? 1 : 0;
    }
  }

  // Plans on plain columns, where a card's thousandths are those of what may be sold of it; the
  // engine, which alone knows memory and what is guaranteed, has the last word on every move.
  void Tidy() {
    placement::Fleet fleet;
    std::map<std::string, std::uint32_t> number;
    std::vector<std::uint32_t> first;  // card of each node
    for (const placement::NodeInventory& node : inventories_) {
      number[node.name] = static_cast<std::uint32_t>(first.size());
      first.push_back(node.cards.empty() ? 0 : card_number_.at(node.cards.front().uuid));
      const std::string model = node.cards.empty() ? std::string() : node.cards.front().model;
      CHECK(fleet
                .AddNode(node.name, node.cpu_millis, static_cast<std::int64_t>(node.ram_bytes),
                         static_cast<std::uint32_t>(node.cards.size()), *fleet.KindOf(model),
                         first.size())
                .has_value());
    }
    std::vector<placement::Held> held;
    std::vector<std::uint32_t> who;
    for (std::uint32_t i = 0; i < requests_.size(); ++i) {
      const One& one = requests_[i];
      if (!one.running) continue;
      const placement::Request& request = one.order.request;
      placement::Held here;
      here.node = number.at(engine_.Find(request.id)->placement.node);
      // Rounded down, so that what the engine let in fits here.
      here.shape.milli =
          std::max<std::uint32_t>(1, request.compute.value * kWholeCard / options_.oversell);
      here.shape.cards = request.slices;
      here.shape.cpu_millis = request.cpu_millis;
      here.shape.ram_bytes = static_cast<std::int64_t>(request.ram_bytes);
      for (const std::string& model : request.models) {
        here.shape.kinds |= std::uint64_t{1} << *fleet.KindOf(model);
      }
      for (const std::uint32_t card : one.cards) {
        here.cards.index[here.cards.count++] = static_cast<std::uint8_t>(card - first[here.node]);
      }
      here.pinned = !one.spot();
      here.cost = static_cast<std::uint64_t>(here.shape.total_milli());
      fleet.Take(here.node, here.shape, here.cards);
      held.push_back(here);
      who.push_back(i);
    }
    const placement::Emptied plan = placement::EmptyCards(&fleet, held, options_.moves_max);
    bool all = true;
    for (const placement::Move& move : plan.moves) {
      const std::uint32_t i = who[move.held];
      One& one = requests_[i];
      placement::Request there = one.order.request;
      for (std::uint32_t c = 0; c < move.cards.count; ++c) {
        there.cards.push_back(card_uuid_[first[move.node] + move.cards.index[c]]);
      }
      const placement::Reservation before = *engine_.Find(there.id);
      CHECK(engine_.Release(there.id));
      const placement::Placement* const placement = engine_.Place(there, {}, false);
      if (placement == nullptr) {
        CHECK(engine_.Restore(before).has_value());
        ++result_.moves_refused;
        all = false;
        continue;
      }
      Book(one, -1);
      Sit(&one, *placement);
      one.end += kMoveSeconds * kMillis;
      Push(one.end, Kind::kEnd, i);
      ++result_.moves;
    }
    if (all) result_.cards_emptied += plan.cards;
  }

  void Summarise() {
    const double whole = static_cast<double>(std::max<std::int64_t>(1, minutes_)) *
                         static_cast<double>(cards_.size());
    const double compute = whole * kWholeCard / 100;
    result_.allocated_percent = allocated_ / compute;
    result_.sold_percent = sold_ / compute;
    result_.memory_sold_percent = memory_sold_ / whole * 100;
    result_.served_percent = served_ / compute;
    result_.lost_work_percent = lost_work_ / compute;
    result_.useful_percent = result_.served_percent - result_.lost_work_percent;
    result_.contended_percent = static_cast<double>(contended_) / whole * 100;
    result_.memory_over_percent = static_cast<double>(memory_over_) / whole * 100;
    const auto of_class = [&](SpotClassResult* one, std::vector<std::int64_t>* delays,
                              double wanted, double lost) {
      one->wanted_percent = wanted / compute;
      one->lost_percent = wanted > 0 ? 100 * lost / wanted : 0;
      std::sort(delays->begin(), delays->end());
      if (delays->empty()) return;
      one->delay_p50 = (*delays)[(delays->size() - 1) * 50 / 100] / kMillis;
      one->delay_p99 = (*delays)[(delays->size() - 1) * 99 / 100] / kMillis;
      one->delay_max = delays->back() / kMillis;
    };
    of_class(&result_.guaranteed, &guaranteed_delays_, guaranteed_wanted_, guaranteed_lost_);
    of_class(&result_.spot, &spot_delays_, spot_wanted_, spot_lost_);
  }

  const SpotOptions& options_;
  Rng rng_;
  placement::Engine engine_;
  placement::Queue queue_;
  std::vector<placement::NodeInventory> inventories_;
  std::map<std::string, std::uint32_t> card_number_;
  std::vector<std::string> card_uuid_;
  std::vector<CardNow> cards_;
  std::vector<One> requests_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  std::uint64_t events_pushed_ = 0;
  std::deque<std::uint32_t> line_;  // spot requests that the queue has not been given yet
  std::size_t spot_waiting_ = 0;    // and those that wait in it
  std::int64_t span_ = 0;
  std::int64_t now_ = 0;
  std::vector<std::int64_t> guaranteed_delays_, spot_delays_;
  std::string behind_spot_;  // whom LookBehindSpot found, and since when it is so
  std::int64_t behind_spot_since_ = 0;
  std::int64_t minutes_ = 0;  // that count
  double allocated_ = 0, sold_ = 0, memory_sold_ = 0, served_ = 0, lost_work_ = 0;
  double guaranteed_wanted_ = 0, spot_wanted_ = 0, guaranteed_lost_ = 0, spot_lost_ = 0;
  std::uint64_t contended_ = 0, memory_over_ = 0;
  SpotResult result_;
};

}  // namespace

Result<SpotResult> ChurnSpot(const std::vector<TraceNode>& nodes, const std::vector<TracePod>& pods,
                             const SpotOptions& options) {
  if (options.nodes_every < 1) return Error::Field("nodes_every", "expected 1 or more");
  if (options.load_percent < 1 || options.load_percent > 1000) {
    return Error::Field("load", "expected 1 to 1000 percent");
  }
  if (options.spot_percent && *options.spot_percent > 100) {
    return Error::Field("spot_percent", "expected 0 to 100 percent");
  }
  if (options.oversell < kWholeCard || options.oversell > placement::kOversellMax) {
    return Error::Field("oversell", "expected 1000 to oversell_max (1800) per mille");
  }
  if (options.use_percent < 1 || options.use_percent > 50) {
    return Error::Field("use_percent", "expected 1 to 50 percent");
  }
  if (options.moves_max > placement::kMovesMax) {
    return Error::Field("moves", "expected at most kMovesMax (16) a plan");
  }
  return Simulation(options).Run(nodes, pods);
}

}  // namespace tessera::simulate
