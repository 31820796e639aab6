// The queue against a model that knows no index and no increment: every rule is checked anew from
// the list of who holds what. Each run prints its seed when it fails.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>

#include "base/rng.h"
#include "placement/queue.h"

namespace tessera::placement {
namespace {

constexpr std::int64_t kSecond = 1'000'000;

std::vector<NodeInventory> Fleet(Rng& rng, std::uint64_t nodes_max, std::uint64_t cards_max) {
  std::vector<NodeInventory> fleet;
  const std::uint64_t nodes = rng.Between(1, nodes_max);
  for (std::uint64_t n = 0; n < nodes; ++n) {
    NodeInventory node{"n" + std::to_string(n), 64'000, 256 * kGiB, {}};
    const std::uint64_t cards = rng.Between(1, cards_max);
    for (std::uint64_t c = 0; c < cards; ++c) {
      device::Card card;
      card.uuid = node.name + "-" + std::to_string(c);
      card.model = rng.Chance(300) ? "H200" : "A10";
      card.memory_bytes = 24 * kGiB;
      node.cards.push_back(card);
    }
    fleet.push_back(node);
  }
  return fleet;
}

std::unique_ptr<Engine> Build(const std::vector<NodeInventory>& fleet) {
  auto engine = std::make_unique<Engine>();
  for (const NodeInventory& node : fleet) EXPECT_TRUE(engine->UpdateNode(node));
  return engine;
}

Order Draw(Rng& rng, const std::string& id) {
  Order order;
  order.request.id = id;
  order.request.slices = rng.Chance(200) ? 2 : 1;
  const std::uint64_t thirds = rng.Between(1, 3);
  order.request.memory_bytes = thirds * 8 * kGiB;
  order.request.compute = {static_cast<std::uint32_t>(thirds * 333)};
  order.request.cpu_millis = static_cast<std::uint32_t>(rng.Between(0, 3) * 4000);
  if (rng.Chance(200)) order.request.model = rng.Chance(500) ? "H200" : "A10";
  return order;
}

// The quotas read as plain sums: what a quota and those below it keep and send up.
class QuotaModel {
 public:
  QuotaModel(const std::vector<Quota>& quotas, std::map<std::string, SliceAmount> held)
      : quotas_(quotas), held_(std::move(held)) {}

  // Whether every limit between the tenant and its root is respected.
  bool Respected(const std::string& tenant) const {
    for (const int r : {0, 1}) {
      for (const Quota* at = Named(tenant); at != nullptr; at = Named(at->parent)) {
        // What fits into what it keeps for itself concerns nobody above.
        if (!at->parent.empty() && SentUp(*at, r) == 0) break;
        if (at->parent.empty()) {
          if (Used(*at, r) > Subtree(*at, r)) return false;
          continue;
        }
        const auto limit = Get(at->borrowing_limit, r);
        if (limit == kUnlimited) continue;
        if (SentUp(*at, r) > Subtree(*at, r) - Kept(*at, r) + static_cast<std::int64_t>(limit)) {
          return false;
        }
      }
    }
    return true;
  }
  bool Borrows(const std::string& tenant) const {
    const Quota* quota = Named(tenant);
    return quota != nullptr &&
           (Used(*quota, 0) > Subtree(*quota, 0) || Used(*quota, 1) > Subtree(*quota, 1));
  }
  bool Limited(const std::string& tenant) const { return Named(tenant) != nullptr; }
  bool SameTree(const std::string& a, const std::string& b) const {
    return Limited(a) && Limited(b) && Root(a) == Root(b);
  }

 private:
  static std::uint64_t Get(const SliceAmount& amount, int r) {
    return r == 0 ? amount.card_millis : amount.memory_bytes;
  }
  const Quota* Named(const std::string& name) const {
    for (const Quota& quota : quotas_) {
      if (quota.name == name) return &quota;
    }
    return nullptr;
  }
  std::string Root(const std::string& name) const {
    const Quota* quota = Named(name);
    return quota->parent.empty() ? name : Root(quota->parent);
  }
  std::int64_t Subtree(const Quota& quota, int r) const {
    auto sum = static_cast<std::int64_t>(Get(quota.nominal, r));
    for (const Quota& child : quotas_) {
      if (child.parent == quota.name) sum += Subtree(child, r) - Kept(child, r);
    }
    return sum;
  }
  std::int64_t Kept(const Quota& quota, int r) const {
    const std::uint64_t lends = Get(quota.lending_limit, r);
    if (lends == kUnlimited) return 0;
    return std::max<std::int64_t>(0, Subtree(quota, r) - static_cast<std::int64_t>(lends));
  }
  std::int64_t Used(const Quota& quota, int r) const {
    std::int64_t sum = 0;
    if (const auto held = held_.find(quota.name); held != held_.end()) {
      sum = static_cast<std::int64_t>(Get(held->second, r));
    }
    for (const Quota& child : quotas_) {
      if (child.parent == quota.name) sum += SentUp(child, r);
    }
    return sum;
  }
  std::int64_t SentUp(const Quota& quota, int r) const {
    return std::max<std::int64_t>(0, Used(quota, r) - Kept(quota, r));
  }

  std::vector<Quota> quotas_;
  std::map<std::string, SliceAmount> held_;
};

std::vector<Quota> DrawQuotas(Rng& rng) {
  const auto amount = [&](std::uint64_t most) {
    const std::uint64_t thirds = rng.Below(most * 3 + 1);
    return SliceAmount{thirds * 333, thirds * 8 * kGiB};
  };
  std::vector<Quota> quotas;
  const auto add = [&](const char* name, const char* parent, std::uint64_t most) {
    Quota quota;
    quota.name = name;
    quota.parent = parent;
    quota.nominal = amount(most);
    if (quota.parent != "" && rng.Chance(400)) quota.borrowing_limit = amount(2);
    if (quota.parent != "" && rng.Chance(400)) quota.lending_limit = amount(2);
    quota.weight = static_cast<std::uint32_t>(rng.Between(1, 3));
    quotas.push_back(quota);
  };
  add("all", "", 1);
  add("team", "all", 1);
  add("a", "team", 3);
  add("b", "team", 3);
  add("c", "all", 3);
  return quotas;
}

// One run: orders come and go, policies change, nodes drop out; returns what was decided.
class Story {
 public:
  Story(std::uint64_t seed, bool reversed) : rng_(seed) {
    fleet_ = Fleet(rng_, 4, 3);
    if (reversed) std::reverse(fleet_.begin(), fleet_.end());
    engine_ = Build(fleet_);
  }

  std::string Play(int steps) {
    for (int step = 0; step < steps && !testing::Test::HasFailure(); ++step) Step();
    Drain();
    return log_;
  }

 private:
  void Step() {
    now_ += static_cast<std::int64_t>(rng_.Below(5)) * kSecond;
    const std::uint64_t what = rng_.Below(100);
    if (what < 45) {
      Order order = Draw(rng_, "o" + std::to_string(next_++));
      static const char* const kTenants[] = {"a", "b", "c", "free", "team"};
      order.request.tenant = kTenants[rng_.Below(5)];
      order.request.priority = static_cast<int>(rng_.Below(3)) * 100;
      order.preemptible = rng_.Chance(400);
      if (rng_.Chance(300)) order.run_micros = rng_.Between(1, 20) * kSecond;
      if (rng_.Chance(200)) {
        order.gang = "g" + order.request.id;
        order.gang_size = static_cast<std::uint32_t>(rng_.Between(2, 3));
        order.gang_node_min = static_cast<std::uint32_t>(rng_.Between(1, 2));
        const std::string id = order.request.id;
        for (std::uint32_t i = 0; i < order.gang_size; ++i) {
          order.request.id = id + "." + std::to_string(i);
          Add(order);
        }
      } else {
        Add(order);
      }
    } else if (what < 75 && !placed_.empty()) {
      auto at = placed_.begin();
      std::advance(at, rng_.Below(placed_.size()));
      End(at->first);
    } else if (what < 80 && !waiting_.empty()) {
      auto at = waiting_.begin();
      std::advance(at, rng_.Below(waiting_.size()));
      End(at->first);
    } else if (what < 84 && !placed_.empty()) {  // its node refuses it
      auto at = placed_.begin();
      std::advance(at, rng_.Below(placed_.size()));
      const std::string id = at->first;
      engine_->Release(id);
      queue_.PutBack(id);
      refused_.insert(id);
      waiting_.emplace(id, at->second.order);
      placed_.erase(at);
      leaving_.erase(id);
    } else if (what < 88) {
      policy_.quotas = rng_.Chance(700) ? DrawQuotas(rng_) : std::vector<Quota>();
      policy_.fair_share = rng_.Chance(500);
      policy_.reclaim = static_cast<Reclaim>(rng_.Below(3));
      policy_.preempt = rng_.Chance(800);
      ASSERT_TRUE(queue_.SetPolicy(policy_));
    } else if (what < 92) {
      away_.clear();
      if (rng_.Chance(500)) away_.insert("n0");
    }
    Decide();
  }

  void Add(const Order& order) {
    const Status added = queue_.Add(order);
    if (added) {
      waiting_.emplace(order.request.id, order);
    } else {
      ASSERT_EQ(added.error().code(), Code::kFailedPrecondition) << added.error().ToString();
    }
  }
  void End(const std::string& id) {
    ASSERT_TRUE(queue_.Remove(id));
    engine_->Release(id);
    placed_.erase(id);
    waiting_.erase(id);
    leaving_.erase(id);
  }

  struct Held {
    Order order;
    std::int64_t since = 0;
    Placement placement;
  };
  QuotaModel ModelOf(const std::map<std::string, Held>& placed) const {
    std::map<std::string, SliceAmount> held;
    for (const auto& [id, entry] : placed) {
      const SliceAmount amount = AmountOf(entry.order.request);
      held[entry.order.request.tenant].card_millis += amount.card_millis;
      held[entry.order.request.tenant].memory_bytes += amount.memory_bytes;
    }
    return {policy_.quotas, held};
  }
  QuotaModel Model(const std::set<std::string>& without = {}) const {
    std::map<std::string, Held> placed = placed_;
    for (const std::string& id : without) placed.erase(id);
    return ModelOf(placed);
  }

  void Decide() {
    std::map<std::string, std::uint32_t> gang_placed_before;
    for (const auto& [id, entry] : placed_) {
      if (!entry.order.gang.empty()) ++gang_placed_before[entry.order.gang];
    }
    const std::set<std::string> leaving_before = leaving_;
    const std::map<std::string, Held> placed_before = placed_;
    const Queue::Decision decision = queue_.Decide(*engine_, now_, away_);
    std::map<std::string, std::map<std::string, std::uint32_t>> gangs;  // nodes of the new
    std::set<std::string> began;  // gangs of which one comes back from a node that refused it
    for (const Placement& placement : decision.placed) {
      const std::string& id = placement.request_id;
      log_ += id + "@" + placement.node + " ";
      ASSERT_EQ(waiting_.count(id), 1u) << id;
      ASSERT_EQ(away_.count(placement.node), 0u);
      const Order order = waiting_.at(id);
      waiting_.erase(id);
      placed_.emplace(id, Held{order, now_, placement});
      if (!order.gang.empty()) ++gangs[order.gang][placement.node];
      if (refused_.count(id) != 0) began.insert(order.gang);
    }
    const QuotaModel after = Model();
    for (const Placement& placement : decision.placed) {
      const Order& order = placed_.at(placement.request_id).order;
      ASSERT_TRUE(after.Respected(order.request.tenant))
          << placement.request_id << " of " << order.request.tenant;
      if (order.gang.empty() || began.count(order.gang) != 0) continue;
      std::uint32_t members = gang_placed_before[order.gang];
      const bool anew = members == 0;
      for (const auto& [node, count] : gangs[order.gang]) {
        members += count;
        if (anew) {
          ASSERT_GE(count, order.gang_node_min) << order.gang << " on " << node;
        }
      }
      ASSERT_EQ(members, order.gang_size) << order.gang;
    }
    const QuotaModel staying = Model(leaving_before);
    for (const Eviction& eviction : decision.evictions) {
      log_ += "-" + eviction.id + " ";
      ASSERT_TRUE(policy_.preempt);
      ASSERT_EQ(placed_.count(eviction.id), 1u);
      ASSERT_TRUE(leaving_.insert(eviction.id).second) << eviction.id << " was told twice";
      ASSERT_EQ(waiting_.count(eviction.asker), 1u);
      const Order& victim = placed_.at(eviction.id).order;
      const Order& asker = waiting_.at(eviction.asker);
      const bool lower = victim.request.priority < asker.request.priority;
      // With what it asks for, does the asker stay within its own?
      std::map<std::string, Held> with = placed_before;
      for (const std::string& id : leaving_before) with.erase(id);
      for (const auto& [id, order] : waiting_) {
        const bool of_the_gang = !asker.gang.empty() && order.gang == asker.gang;
        if (id == eviction.asker || of_the_gang) with.emplace(id, Held{order, 0, {}});
      }
      const bool borrows = ModelOf(with).Borrows(asker.request.tenant);
      const bool others = asker.request.tenant != victim.request.tenant &&
                          staying.SameTree(asker.request.tenant, victim.request.tenant);
      if (victim.preemptible && lower && !(policy_.reclaim == Reclaim::kAny && borrows && others)) {
        continue;
      }
      ASSERT_TRUE(others) << eviction.id;
      ASSERT_TRUE(staying.Borrows(victim.request.tenant)) << eviction.id;
      if (victim.preemptible && lower) continue;
      ASSERT_NE(policy_.reclaim, Reclaim::kNever);
      if (policy_.reclaim == Reclaim::kLowerPriority) {
        ASSERT_TRUE(lower);
      }
      ASSERT_FALSE(borrows) << eviction.asker;
    }
    CheckMinimal(decision);
    CheckBooks();
  }

  // Nobody goes who is not needed: with any one of an asker's victims kept, it fits nowhere. For
  // the first in the queue and without a quota, where no other rule is in play.
  void CheckMinimal(const Queue::Decision& decision) {
    for (const Eviction& eviction : decision.evictions) {
      const Order& order = waiting_.at(eviction.asker);
      if (!order.gang.empty() || !queue_.Ahead(eviction.asker).empty() ||
          Model().Limited(order.request.tenant)) {
        continue;
      }
      const std::string gang = placed_.at(eviction.id).order.gang;
      std::vector<Reservation> gone;
      for (const std::string& id : leaving_) {
        const bool kept = id == eviction.id || (!gang.empty() && placed_.at(id).order.gang == gang);
        const bool for_another =
            std::any_of(decision.evictions.begin(), decision.evictions.end(),
                        [&](const auto& e) { return e.id == id && e.asker != eviction.asker; });
        if (!kept && !for_another) gone.push_back(*engine_->Find(id));
      }
      for (const Reservation& reservation : gone)
        engine_->Release(reservation.placement.request_id);
      const bool fits = engine_->Consider(order.request, away_) != nullptr;
      for (const Reservation& reservation : gone) ASSERT_TRUE(engine_->Restore(reservation));
      ASSERT_FALSE(fits) << eviction.asker << " did not need " << eviction.id;
    }
  }

  void CheckBooks() {
    ASSERT_EQ(engine_->reservations(), placed_.size());
    ASSERT_EQ(queue_.waiting(), waiting_.size());
    std::map<std::string, device::Share> sums;
    std::map<std::string, SliceAmount> held;
    for (const auto& [id, entry] : placed_) {
      ASSERT_TRUE(engine_->Find(id));
      ASSERT_EQ(engine_->Find(id)->placement.shares, entry.placement.shares);
      for (const device::Share& share : entry.placement.shares) {
        device::Share& sum = sums[share.card_uuid];
        sum.memory_bytes += share.memory_bytes;
        sum.compute.value += share.compute.value;
        ASSERT_LE(sum.memory_bytes, 24 * kGiB);
        ASSERT_LE(sum.compute.value, 1000u);
      }
      const SliceAmount amount = AmountOf(entry.order.request);
      held[entry.order.request.tenant].card_millis += amount.card_millis;
      held[entry.order.request.tenant].memory_bytes += amount.memory_bytes;
    }
    for (const char* leaf : {"a", "b", "c", "free"}) {
      ASSERT_EQ(queue_.quotas().Held(leaf), held[leaf]) << leaf;
    }
  }

  // No starvation: when nothing new comes and what runs ends, everything gets its turn, but for
  // what a quota or the fleet can never hold.
  void Drain() {
    away_.clear();
    policy_.quotas.clear();
    ASSERT_TRUE(queue_.SetPolicy(policy_));
    for (int round = 0; round < 400 && !testing::Test::HasFailure(); ++round) {
      Decide();
      if (placed_.empty()) break;
      now_ += kSecond;
      End(placed_.begin()->first);
    }
    for (const auto& [id, order] : waiting_) {
      const auto standing = queue_.StandingOf(id);
      if (standing->rule == "gang") continue;  // members left
      const auto empty = Build(fleet_);
      if (order.gang.empty()) {
        ASSERT_TRUE(empty->Consider(order.request) == nullptr)
            << id << " starves: " << standing->message;
        continue;
      }
      // A gang that does not fit an empty fleet: with every split of its members over nodes.
      ASSERT_FALSE(GangFitsEmpty(order)) << id << " starves: " << standing->message;
    }
  }
  bool GangFitsEmpty(const Order& order) const {
    std::vector<std::uint32_t> room;
    for (const NodeInventory& node : fleet_) {
      const auto one = Build({node});
      std::uint32_t count = 0;
      Request member = order.request;
      for (; count < order.gang_size; ++count) {
        member.id = "m" + std::to_string(count);
        if (one->Place(member) == nullptr) break;
      }
      room.push_back(count);
    }
    const std::function<bool(std::size_t, std::uint32_t)> split = [&](std::size_t at,
                                                                      std::uint32_t left) {
      if (left == 0) return true;
      if (at == room.size()) return false;
      for (std::uint32_t take = 0; take <= std::min(left, room[at]); ++take) {
        if (take > 0 && take < order.gang_node_min) continue;
        if (split(at + 1, left - take)) return true;
      }
      return false;
    };
    return split(0, order.gang_size);
  }

  Rng rng_;
  std::vector<NodeInventory> fleet_;
  std::unique_ptr<Engine> engine_;
  Queue queue_;
  QueuePolicy policy_;
  std::map<std::string, Order> waiting_;
  std::map<std::string, Held> placed_;
  std::set<std::string> leaving_;
  std::set<std::string> refused_;  // by their node, at some time
  std::set<std::string> away_;
  std::int64_t now_ = 1000 * kSecond;
  int next_ = 0;
  std::string log_;
};

TEST(QueueProperty, EveryRuleHoldsAndTheNodesOrderDoesNotMatter) {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const std::string log = Story(seed, false).Play(150);
    if (testing::Test::HasFailure()) return;
    EXPECT_FALSE(log.empty());
    EXPECT_EQ(log, Story(seed, true).Play(150));
    if (testing::Test::HasFailure()) return;
  }
}

// The head of the queue starts no later than the ends announced when it got there said it would,
// whatever comes after it; without such ends nobody goes where it could go.
TEST(QueueProperty, BackfillNeverDelaysTheHead) {
  std::size_t backfilled = 0;
  std::size_t certain = 0;
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Rng rng(seed);
    const auto fleet = Fleet(rng, 3, 3);
    const auto built = Build(fleet);
    Engine& engine = *built;
    Queue queue;
    struct Life {
      Order order;
      std::int64_t runs = 0;
      std::int64_t ends = 0;
    };
    std::map<std::string, Life> waiting;
    std::map<std::string, Life> placed;
    std::map<std::string, std::int64_t> promised;  // the start that the head can count on
    std::int64_t now = 0;
    int next = 0;
    for (int step = 0; step < 200; ++step) {
      now += kSecond;
      for (auto at = placed.begin(); at != placed.end();) {
        const auto current = at++;
        if (current->second.ends > now) continue;
        ASSERT_TRUE(queue.Remove(current->first));
        engine.Release(current->first);
        placed.erase(current);
      }
      for (std::uint64_t n = rng.Below(3); n > 0; --n) {
        Life life;
        life.order = Draw(rng, "o" + std::to_string(next++));
        life.runs = static_cast<std::int64_t>(rng.Between(1, 12)) * kSecond;
        if (rng.Chance(800)) life.order.run_micros = static_cast<std::uint64_t>(life.runs);
        if (!queue.Add(life.order)) continue;
        waiting.emplace(life.order.request.id, life);
      }
      const auto decision = queue.Decide(engine, now, {});
      // Who waits longest of all that could ever run.
      std::string head;
      for (const auto& [id, life] : waiting) {
        const bool here = std::none_of(decision.placed.begin(), decision.placed.end(),
                                       [&](const Placement& p) { return p.request_id == id; });
        if (!here || engine.CouldHold(life.order.request).empty()) continue;
        if (head.empty() || std::stoi(id.substr(1)) < std::stoi(head.substr(1))) head = id;
      }
      const auto before_head = [&](const std::string& id) {
        return head.empty() || std::stoi(id.substr(1)) < std::stoi(head.substr(1));
      };
      const auto place = [&](const Placement& placement) {
        const auto found = waiting.find(placement.request_id);
        Life life = found->second;
        waiting.erase(found);
        if (const auto at = promised.find(placement.request_id); at != promised.end()) {
          ASSERT_LE(now, at->second) << placement.request_id << " was promised " << at->second;
        }
        life.ends = now + life.runs;
        placed.emplace(placement.request_id, life);
      };
      for (const Placement& placement : decision.placed) {
        if (before_head(placement.request_id)) place(placement);
      }
      for (const auto& [id, start] : promised) {
        if (waiting.count(id) != 0) {
          ASSERT_LT(now, start) << id << " did not start when promised";
        }
      }
      if (head.empty()) continue;
      // The model's own certain start: everything with an announced end leaves at that end.
      std::multimap<std::int64_t, std::string> ends;
      const auto later = Build(fleet);
      for (const auto& [id, life] : placed) {
        if (life.order.run_micros > 0) ends.emplace(life.ends, id);
        ASSERT_TRUE(later->Restore(*engine.Find(id)));
      }
      for (auto at = ends.begin(); at != ends.end();) {
        const std::int64_t end = at->first;
        for (; at != ends.end() && at->first == end; ++at) later->Release(at->second);
        if (later->Consider(waiting.at(head).order.request) == nullptr) {
          continue;
        }
        const auto [known, added] = promised.emplace(head, end);
        if (added) ++certain;
        ASSERT_LE(end, known->second) << "the start of " << head << " moved back";
        known->second = end;
        break;
      }
      for (const Placement& placement : decision.placed) {
        if (before_head(placement.request_id)) continue;
        const Life life = waiting.at(placement.request_id);
        const auto nodes = engine.CouldHold(waiting.at(head).order.request);
        if (std::count(nodes.begin(), nodes.end(), placement.node) != 0) {
          ++backfilled;
          ASSERT_TRUE(promised.count(head) != 0 && life.order.run_micros > 0 &&
                      now + life.runs <= promised.at(head))
              << placement.request_id << " overtook " << head << " on " << placement.node;
        }
        place(placement);
      }
    }
  }
  // The test has seen what it is about.
  EXPECT_GT(certain, 150u);
  EXPECT_GT(backfilled, 50u);
}

// On small fleets, against every subset there is.
TEST(QueueProperty, TheVictimsAreTheCheapestSetThereIs) {
  std::size_t preempted = 0;
  std::size_t several = 0;
  std::size_t gangs = 0;
  for (std::uint64_t seed = 1; seed <= 800; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Rng rng(seed);
    const auto fleet = Fleet(rng, 3, 2);
    const auto built = Build(fleet);
    Engine& engine = *built;
    Queue queue;
    std::int64_t now = 1000 * kSecond;
    std::map<std::string, std::pair<Order, std::int64_t>> placed;
    for (int i = 0; i < 12; ++i) {
      Order order = Draw(rng, "o" + std::to_string(i));
      order.request.priority = static_cast<int>(rng.Below(6)) * 100;
      order.preemptible = rng.Chance(750);
      if (!queue.Add(order)) continue;
      for (const Placement& placement : queue.Decide(engine, now, {}).placed) {
        placed.emplace(placement.request_id, std::pair{order, now});
      }
      if (queue.Waits(order.request.id)) queue.Remove(order.request.id);
      now += static_cast<std::int64_t>(rng.Below(4)) * kSecond;
    }
    // Those evicted on the way are not undone; a fresh queue has only what is placed.
    Queue fresh;
    for (const auto& [id, held] : placed) ASSERT_TRUE(fresh.Adopt(held.first, held.second, true));
    Order asker = Draw(rng, "asker");
    asker.request.priority = 400;
    const bool gang = rng.Chance(300);
    std::vector<std::string> askers;
    if (gang) {
      asker.gang = "g";
      asker.gang_size = 2;
    }
    for (int i = 0; i < (gang ? 2 : 1); ++i) {
      asker.request.id = "asker" + std::to_string(i);
      ASSERT_TRUE(fresh.Add(asker));
      askers.push_back(asker.request.id);
    }
    const auto fits = [&](Engine& in) {
      std::size_t count = 0;
      for (const std::string& id : askers) {
        Request request = asker.request;
        request.id = id;
        if (in.Place(request) != nullptr) ++count;
      }
      for (const std::string& id : askers) in.Release(id);
      return count == askers.size();
    };
    const bool fits_already = fits(engine);
    const Queue::Decision decision = fresh.Decide(engine, now, {});
    if (fits_already) {
      ASSERT_EQ(decision.placed.size(), askers.size());
      ASSERT_TRUE(decision.evictions.empty());
      continue;
    }
    std::vector<std::string> may;
    for (const auto& [id, held] : placed) {
      if (held.first.preemptible && held.first.request.priority < asker.request.priority)
        may.push_back(id);
    }
    ASSERT_LE(may.size(), 12u);
    const auto cost_of = [&](const std::set<std::string>& ids) {
      VictimCost cost;
      for (const std::string& id : ids) {
        const auto& [order, since] = placed.at(id);
        cost += {static_cast<std::uint64_t>(order.request.priority),
                 static_cast<std::uint64_t>(now - since), 1};
      }
      return cost;
    };
    std::optional<VictimCost> best;
    for (std::uint32_t mask = 0; mask < 1u << may.size(); ++mask) {
      std::set<std::string> ids;
      for (std::size_t i = 0; i < may.size(); ++i) {
        if ((mask >> i & 1u) != 0) ids.insert(may[i]);
      }
      const VictimCost cost = cost_of(ids);
      if (best && !(cost < *best)) continue;
      const auto without = Build(fleet);
      for (const auto& [id, held] : placed) {
        if (ids.count(id) == 0) {
          ASSERT_TRUE(without->Restore(*engine.Find(id)));
        }
      }
      if (fits(*without)) best = cost;
    }
    std::set<std::string> chosen;
    for (const Eviction& eviction : decision.evictions) chosen.insert(eviction.id);
    if (!best) {
      ASSERT_TRUE(chosen.empty());
      continue;
    }
    ASSERT_FALSE(chosen.empty());
    const VictimCost cost = cost_of(chosen);
    ASSERT_TRUE(cost == *best) << "priority " << cost.priority << " against " << best->priority
                               << ", lost " << cost.lost_micros << " against " << best->lost_micros
                               << ", " << cost.number << " against " << best->number;
    ++preempted;
    if (chosen.size() > 1) ++several;
    if (gang) ++gangs;
    // And the asker gets the place.
    for (const std::string& id : chosen) {
      ASSERT_TRUE(fresh.Remove(id));
      engine.Release(id);
    }
    ASSERT_EQ(fresh.Decide(engine, now, {}).placed.size(), askers.size());
  }
  EXPECT_GT(preempted, 150u);
  EXPECT_GT(several, 50u);
  EXPECT_GT(gangs, 30u);
}

}  // namespace
}  // namespace tessera::placement
