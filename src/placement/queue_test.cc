#include "placement/queue.h"

#include <gtest/gtest.h>

namespace tessera::placement {
namespace {

constexpr std::uint64_t kCardBytes = 24 * kGiB;
constexpr std::int64_t kSecond = 1'000'000;

Request Ask(std::string id, std::uint64_t gib = 24, std::uint32_t permille = 1000) {
  Request request;
  request.id = std::move(id);
  request.memory_bytes = gib * kGiB;
  request.compute = {permille};
  request.priority = 500;
  return request;
}

Order Plain(std::string id, std::uint64_t gib = 24, std::uint32_t permille = 1000) {
  Order order;
  order.request = Ask(std::move(id), gib, permille);
  return order;
}

Quota MakeQuota(std::string name, std::string parent, std::uint64_t cards) {
  Quota quota;
  quota.name = std::move(name);
  quota.parent = std::move(parent);
  quota.nominal = {cards * 1000, cards * kCardBytes};
  return quota;
}

SliceAmount Cards(std::uint64_t n) { return {n * 1000, n * kCardBytes}; }

class QueueTest : public testing::Test {
 protected:
  void AddNode(const std::string& name, int cards, const std::string& model = "A10") {
    NodeInventory node{name, 64'000, 256 * kGiB, {}};
    for (int i = 0; i < cards; ++i) {
      device::Card card;
      card.uuid = name + "-" + std::to_string(i);
      card.model = model;
      card.memory_bytes = kCardBytes;
      node.cards.push_back(card);
    }
    ASSERT_TRUE(engine.UpdateNode(node));
  }
  void Add(const Order& order) {
    const Status added = queue.Add(order);
    ASSERT_TRUE(added) << added.error().ToString();
  }
  // The ids placed by one decision, in order.
  std::vector<std::string> Decide(const std::set<std::string>& unavailable = {}) {
    last = queue.Decide(engine, now, unavailable);
    std::vector<std::string> ids;
    for (const Placement& placement : last.placed) ids.push_back(placement.request_id);
    return ids;
  }
  void End(const std::string& id) {
    ASSERT_TRUE(queue.Remove(id));
    engine.Release(id);
  }
  std::string Why(const std::string& id) {
    const auto standing = queue.StandingOf(id);
    return standing ? standing->rule + "|" + standing->message : "does not wait";
  }
  std::vector<std::string> Victims() {
    std::vector<std::string> ids;
    for (const Eviction& eviction : last.evictions) ids.push_back(eviction.id);
    std::sort(ids.begin(), ids.end());
    return ids;
  }
  using Ids = std::vector<std::string>;

  Engine engine;
  Queue queue;
  Queue::Decision last;
  std::int64_t now = 1000 * kSecond;
};

// ---- quota ----

// The numbers of Kueue's lending example: alpha 9 (lends 1), beta 12, one cohort.
TEST(QuotaTest, LendingAndBorrowingFollowTheCohortArithmetic) {
  Quota alpha = MakeQuota("alpha", "all", 9);
  alpha.lending_limit = Cards(1);
  const Quota beta = MakeQuota("beta", "all", 12);
  auto tree = QuotaTree::Make({MakeQuota("all", "", 0), alpha, beta});
  ASSERT_TRUE(tree) << tree.error().ToString();
  EXPECT_FALSE(tree->Check("beta", Cards(13)));  // its own and the one that alpha lends
  const auto denial = tree->Check("beta", Cards(14));
  ASSERT_TRUE(denial);
  EXPECT_TRUE(denial->never);
  EXPECT_EQ(denial->limit, "lending_limit");
  EXPECT_EQ(denial->available, 13'000u);
  EXPECT_EQ(denial->message,
            "quota: compute: asked 14 cards, 13 cards left under the lending_limit of others in "
            "its group (nominal 12 cards, held 0 cards); it can never be admitted");
  EXPECT_FALSE(tree->Check("alpha", Cards(21)));
  tree->Add("beta", Cards(13));
  EXPECT_TRUE(tree->Borrows("beta"));
  EXPECT_EQ(tree->Use("beta")->held, tree->Held("beta"));
  EXPECT_EQ(tree->Use("beta")->borrowed, Cards(1));
  EXPECT_EQ(tree->Use("all")->held, Cards(13));
  EXPECT_EQ(tree->Use("alpha")->borrowed, Cards(0));
  EXPECT_FALSE(tree->Use("nobody"));
  EXPECT_FALSE(tree->Check("alpha", Cards(8)));
  EXPECT_EQ(tree->Check("alpha", Cards(9))->limit, "nominal");
  EXPECT_FALSE(tree->Check("alpha", Cards(9))->never);
  tree->Remove("beta", Cards(13));
  EXPECT_FALSE(tree->Check("alpha", Cards(21)));
  EXPECT_FALSE(tree->Check("stranger", Cards(1'000'000)));
}

TEST(QuotaTest, ABorrowingLimitIsNamed) {
  Quota a = MakeQuota("a", "all", 2);
  a.borrowing_limit = {1000, kUnlimited};
  auto tree = QuotaTree::Make({MakeQuota("all", "", 10), a});
  ASSERT_TRUE(tree);
  EXPECT_FALSE(tree->Check("a", Cards(3)));
  tree->Add("a", Cards(2));
  EXPECT_FALSE(tree->Borrows("a"));
  EXPECT_TRUE(tree->Borrows("a", Cards(1)));
  const auto denial = tree->Check("a", {1500, kGiB});
  ASSERT_TRUE(denial);
  EXPECT_EQ(denial->message,
            "quota: compute: asked 1.5 cards, 1 card left under the borrowing_limit (nominal 2 "
            "cards, held 2 cards)");
  EXPECT_EQ(denial->quota, "a");
}

TEST(QuotaTest, TheWholeSetIsRefusedWithTheFieldNamed) {
  const auto field = [](std::vector<Quota> quotas) {
    const auto tree = QuotaTree::Make(quotas);
    return tree ? std::string("accepted") : tree.error().field();
  };
  EXPECT_EQ(field({MakeQuota("a", "", 1), MakeQuota("a", "", 1)}), "quotas[1].name");
  EXPECT_EQ(field({MakeQuota("a", "b", 1)}), "quotas[0].parent");
  EXPECT_EQ(field({MakeQuota("a", "b", 1), MakeQuota("b", "a", 1)}), "quotas[0].parent");
  Quota quota = MakeQuota("a", "", 1);
  quota.lending_limit = Cards(1);
  EXPECT_EQ(field({quota}), "quotas[0].parent");
  quota = MakeQuota("a", "", 1);
  quota.weight = 0;
  EXPECT_EQ(field({quota}), "quotas[0].weight");
  quota.name.clear();
  EXPECT_EQ(field({quota}), "quotas[0].name");
}

// ---- order ----

TEST_F(QueueTest, PriorityThenFirstCome) {
  AddNode("n", 1);
  Order low = Plain("low");
  low.request.priority = 100;
  Add(low);
  Add(Plain("first"));
  Add(Plain("second"));
  EXPECT_EQ(Decide(), Ids{"first"});
  EXPECT_EQ(queue.StandingOf("second")->position, 1u);
  EXPECT_EQ(queue.StandingOf("low")->position, 2u);
  EXPECT_EQ(queue.Ahead("low"), Ids{"second"});
  End("first");
  EXPECT_EQ(Decide(), Ids{"second"});
  End("second");
  EXPECT_EQ(Decide(), Ids{"low"});
}

TEST_F(QueueTest, FairShareServesWhoHoldsTheLeastForItsWeight) {
  AddNode("n", 6);
  QueuePolicy policy;
  policy.fair_share = true;
  policy.quotas = {MakeQuota("all", "", 100), MakeQuota("a", "all", 0), MakeQuota("b", "all", 0)};
  policy.quotas[2].weight = 2;
  ASSERT_TRUE(queue.SetPolicy(policy));
  for (int i = 0; i < 6; ++i) {
    Order order = Plain("a" + std::to_string(i));
    order.request.tenant = "a";
    Add(order);
  }
  for (int i = 0; i < 6; ++i) {
    Order order = Plain("b" + std::to_string(i));
    order.request.tenant = "b";
    Add(order);
  }
  // b may hold twice what a holds.
  EXPECT_EQ(Decide(), (Ids{"a0", "b0", "b1", "a1", "b2", "b3"}));
}

TEST_F(QueueTest, QuotaRefusesNamesTheLimitAndHoldsUpNobodyElse) {
  AddNode("n", 4);
  QueuePolicy policy;
  policy.quotas = {MakeQuota("a", "", 1)};
  ASSERT_TRUE(queue.SetPolicy(policy));
  Order order = Plain("a0");
  order.request.tenant = "a";
  Add(order);
  order.request.id = "a1";
  Add(order);
  Order other = Plain("b0");
  other.request.tenant = "b";
  Add(other);
  EXPECT_EQ(Decide(), (Ids{"a0", "b0"}));
  EXPECT_EQ(Why("a1"),
            "quota|quota: compute: asked 1 card, 0 cards left under the nominal quota (nominal 1 "
            "card, held 1 card)");
  order.request.id = "a2";
  order.request.slices = 2;
  const Status never = queue.Add(order);
  ASSERT_FALSE(never);
  EXPECT_EQ(never.error().code(), Code::kFailedPrecondition);
  // A small one of the same tenant does not slip past the one that waits.
  order.request = Ask("a3", 1, 10);
  order.request.tenant = "a";
  Add(order);
  End("a0");
  EXPECT_EQ(Decide(), Ids{"a1"});
}

TEST_F(QueueTest, WhatWaitsForANodeKeepsItsQuota) {
  AddNode("a10", 2);
  AddNode("h200", 2, "H200");
  QueuePolicy policy;
  policy.quotas = {MakeQuota("a", "", 2)};
  ASSERT_TRUE(queue.SetPolicy(policy));
  Order order = Plain("stranger");
  order.request.model = "A10";
  Add(order);
  Decide();
  order.request.id = "wide";
  order.request.tenant = "a";
  order.request.slices = 2;
  Add(order);
  // There is room for it, and its tenant holds nothing; yet then the wide one could not start.
  order.request.id = "elsewhere";
  order.request.model = "H200";
  order.request.slices = 1;
  Add(order);
  EXPECT_TRUE(Decide().empty());
  EXPECT_EQ(Why("elsewhere"), "quota|quota: what is left of it is kept for earlier orders");
  End("stranger");
  EXPECT_EQ(Decide(), Ids{"wide"});
}

TEST_F(QueueTest, ChangingThePolicyKeepsWhatIsPlaced) {
  AddNode("n", 4);
  QueuePolicy policy;
  policy.quotas = {MakeQuota("all", "", 4), MakeQuota("a", "all", 0)};
  ASSERT_TRUE(queue.SetPolicy(policy));
  for (int i = 0; i < 3; ++i) {
    Order order = Plain("a" + std::to_string(i));
    order.request.tenant = "a";
    Add(order);
  }
  EXPECT_EQ(Decide().size(), 3u);
  policy.quotas = {MakeQuota("a", "", 2)};
  ASSERT_TRUE(queue.SetPolicy(policy));
  EXPECT_EQ(engine.reservations(), 3u);
  EXPECT_EQ(queue.quotas().Held("a"), Cards(3));
  Order order = Plain("a3");
  order.request.tenant = "a";
  Add(order);
  End("a0");
  EXPECT_TRUE(Decide().empty());  // two are held, two are allowed
  QueuePolicy wrong;
  wrong.quotas = {MakeQuota("a", "nobody", 9)};
  EXPECT_FALSE(queue.SetPolicy(wrong));
  EXPECT_TRUE(Decide().empty());
  End("a1");
  EXPECT_EQ(Decide(), Ids{"a3"});
  End("a2");
  End("a3");
  EXPECT_EQ(queue.quotas().Held("a"), SliceAmount());
}

TEST_F(QueueTest, AnAdoptedOrderCountsOnceItIsDescribed) {
  AddNode("n", 2);
  QueuePolicy policy;
  policy.quotas = {MakeQuota("a", "", 1)};
  ASSERT_TRUE(queue.SetPolicy(policy));
  ASSERT_TRUE(engine.Restore({{"old", "n", {{"n-0", kCardBytes, {1000}}}}, 0, 0}));
  ASSERT_TRUE(queue.Adopt(Plain("old"), now, false));
  EXPECT_FALSE(queue.Known("old"));
  EXPECT_EQ(queue.quotas().Held("a"), SliceAmount());
  Order order = Plain("old");
  order.request.tenant = "a";
  EXPECT_TRUE(queue.Describe(order));
  EXPECT_FALSE(queue.Describe(order));
  EXPECT_EQ(queue.quotas().Held("a"), Cards(1));
  order.request.id = "new";
  Add(order);
  EXPECT_TRUE(Decide().empty());
}

// ---- back-fill ----

TEST_F(QueueTest, WithoutKnownEndsNobodyIsOvertakenOnANode) {
  AddNode("n", 2);
  Add(Plain("holder"));
  EXPECT_EQ(Decide(), Ids{"holder"});
  Order wide = Plain("wide");
  wide.request.slices = 2;
  Add(wide);
  Order brief = Plain("brief");
  brief.run_micros = 1;
  Add(brief);
  EXPECT_TRUE(Decide().empty());
  EXPECT_EQ(Why("brief"), "queue|queue: 1 earlier request(s) wait for the same nodes");
}

TEST_F(QueueTest, BackfillIsGoneBeforeTheHeadStarts) {
  AddNode("n", 2);
  Order holder = Plain("holder");
  holder.run_micros = 100 * kSecond;
  Add(holder);
  EXPECT_EQ(Decide(), Ids{"holder"});
  Order wide = Plain("wide");
  wide.request.slices = 2;
  Add(wide);
  now += 10 * kSecond;
  Order order = Plain("too-long");
  order.run_micros = 91 * kSecond;
  Add(order);
  Add(Plain("endless"));
  order = Plain("just");
  order.run_micros = 90 * kSecond;
  Add(order);
  EXPECT_EQ(Decide(), Ids{"just"});
  now += 90 * kSecond;
  End("holder");
  End("just");
  EXPECT_EQ(Decide(), Ids{"wide"});
}

TEST_F(QueueTest, WhatNoFleetOfOursCouldHoldClaimsNothing) {
  AddNode("a", 1);
  AddNode("b", 1);
  for (int i = 0; i < 3; ++i) {
    Order order = Plain("g" + std::to_string(i));
    order.gang = "g";
    order.gang_size = 3;
    Add(order);
  }
  Add(Plain("x"));
  EXPECT_EQ(Decide(), Ids{"x"});
  EXPECT_EQ(engine.reservations(), 1u);
}

// ---- gangs ----

TEST_F(QueueTest, AGangIsPlacedWholeOrNotAtAll) {
  AddNode("a", 2);
  AddNode("b", 1);
  Add(Plain("holder"));
  EXPECT_EQ(Decide(), Ids{"holder"});
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(Decide().empty());
    Order order = Plain("g" + std::to_string(i));
    order.gang = "g";
    order.gang_size = 3;
    Add(order);
  }
  EXPECT_TRUE(Decide().empty());
  EXPECT_EQ(engine.reservations(), 1u);
  EXPECT_EQ(Why("g1"),
            "fit|gang: 2 of 3 members fit; memory: asked 24 GiB a card, 24 GiB short on the best "
            "card (0 B free)");
  Order more = Plain("g3");
  more.gang = "g";
  more.gang_size = 3;
  EXPECT_EQ(queue.Add(more).error().field(), "gang_size");
  End("holder");
  EXPECT_EQ(Decide().size(), 3u);
  // A member that its node refused comes back alone.
  engine.Release("g1");
  queue.PutBack("g1");
  EXPECT_EQ(Decide(), Ids{"g1"});
}

TEST_F(QueueTest, AGangKeepsItsMinimumPerNodeAndItsRack) {
  AddNode("a", 3);
  AddNode("b", 2);
  AddNode("c", 2);
  const auto gang = [&](const std::string& name, std::uint32_t size, std::uint32_t least) {
    for (std::uint32_t i = 0; i < size; ++i) {
      Order order = Plain(name + std::to_string(i));
      order.gang = name;
      order.gang_size = size;
      order.gang_node_min = least;
      Add(order);
    }
  };
  const auto nodes = [&] {
    std::map<std::string, int> count;
    for (const Placement& placement : last.placed) ++count[placement.node];
    return count;
  };
  gang("g", 4, 2);
  Decide();
  ASSERT_EQ(last.placed.size(), 4u);
  for (const auto& [node, count] : nodes()) EXPECT_GE(count, 2) << node;
  for (int i = 0; i < 4; ++i) End("g" + std::to_string(i));
  // Three and one would fit, yet not with two on each: five need a and b, or b, c is too small.
  gang("h", 6, 3);
  EXPECT_TRUE(Decide().empty());
  EXPECT_EQ(engine.reservations(), 0u);
  for (int i = 0; i < 6; ++i) End("h" + std::to_string(i));
  queue.SetRack("b", "r1");
  queue.SetRack("c", "r1");
  queue.SetRack("a", "r2");
  gang("r", 4, 1);
  Decide();
  EXPECT_EQ(nodes(), (std::map<std::string, int>{{"b", 2}, {"c", 2}}));
}

TEST_F(QueueTest, MembersOfAGangAskForTheSame) {
  Order first = Plain("g0");
  first.gang = "g";
  first.gang_size = 2;
  Add(first);
  const auto refused = [&](const auto& change) {
    Order other = first;
    other.request.id = "g1";
    change(other);
    const Status added = queue.Add(other);
    return !added && added.error().field() == "gang";
  };
  EXPECT_TRUE(refused([](Order& order) { order.gang_size = 3; }));
  EXPECT_TRUE(refused([](Order& order) { order.gang_node_min = 2; }));
  EXPECT_TRUE(refused([](Order& order) { order.gang_one_rack = true; }));
  EXPECT_TRUE(refused([](Order& order) { order.reservation = "r"; }));
  EXPECT_TRUE(refused([](Order& order) { order.preemptible = !order.preemptible; }));
  EXPECT_TRUE(refused([](Order& order) { ++order.request.priority; }));
  EXPECT_TRUE(refused([](Order& order) { ++order.request.memory_bytes; }));
  EXPECT_FALSE(refused([](Order&) {}));
}

TEST_F(QueueTest, AGangThatMustHaveOneRackWaitsForIt) {
  for (const char* name : {"a", "b", "c"}) AddNode(name, 2);
  queue.SetRack("a", "r1");
  queue.SetRack("b", "r1");
  queue.SetRack("c", "r2");
  Add(Plain("other"));
  EXPECT_EQ(Decide(), Ids{"other"});
  const std::string busy = engine.Find("other")->placement.node;
  EXPECT_EQ(busy, "a");
  for (int i = 0; i < 4; ++i) {
    Order order = Plain("g" + std::to_string(i));
    order.gang = "g";
    order.gang_size = 4;
    order.gang_one_rack = true;
    Add(order);
  }
  EXPECT_TRUE(Decide().empty());  // five cards are free, three of them in one rack
  EXPECT_EQ(queue.StandingOf("g0")->message,
            "gang: no rack takes 4 members with at least 1 on each node");
  End("other");
  EXPECT_EQ(Decide().size(), 4U);
  for (int i = 0; i < 4; ++i) {
    EXPECT_NE(engine.Find("g" + std::to_string(i))->placement.node, "c");
  }
  // One whose node refused it comes back to its rack, also when others of it are gone by then.
  const std::string gone = engine.Find("g0")->placement.node;
  engine.Release("g0");
  queue.PutBack("g0");
  EXPECT_TRUE(Decide({gone}).empty());
  for (int i = 1; i < 4; ++i) {
    if (engine.Find("g" + std::to_string(i))->placement.node == gone) End("g" + std::to_string(i));
  }
  EXPECT_EQ(Decide(), Ids{"g0"});
  EXPECT_EQ(engine.Find("g0")->placement.node, gone);
}

TEST_F(QueueTest, MembersMustBeAlike) {
  Order order = Plain("g0");
  order.gang = "g";
  order.gang_size = 2;
  Add(order);
  order.request = Ask("g1", 8);
  EXPECT_EQ(queue.Add(order).error().field(), "gang");
  order = Plain("x");
  order.gang_size = 2;
  EXPECT_EQ(queue.Add(order).error().field(), "gang_size");
  order = Plain("x");
  order.request.priority = kPriorityMax + 1;
  EXPECT_EQ(queue.Add(order).error().field(), "priority");
  EXPECT_EQ(queue.Add(Plain("g0")).error().code(), Code::kAlreadyExists);
}

// ---- preemption ----

TEST_F(QueueTest, TheCheapestGoesAndTheAskerStartsWhenItIsGone) {
  AddNode("a", 1);
  AddNode("b", 1);
  AddNode("c", 1);
  Order spot = Plain("old-spot");
  spot.request.priority = 100;
  spot.preemptible = true;
  Add(spot);
  Decide();
  now += kSecond;
  spot.request.id = "young-spot";
  Add(spot);
  Order guaranteed = Plain("guaranteed");
  guaranteed.request.priority = 50;
  Add(guaranteed);
  EXPECT_EQ(Decide().size(), 2u);
  now += kSecond;
  Add(Plain("asker"));
  EXPECT_TRUE(Decide().empty());
  ASSERT_EQ(last.evictions.size(), 1u);
  EXPECT_EQ(last.evictions[0].id, "young-spot");  // it has run for a shorter time
  EXPECT_EQ(last.evictions[0].asker, "asker");
  EXPECT_EQ(last.evictions[0].reason, "preempted: an order of higher priority needs its place");
  EXPECT_EQ(Why("asker"), "eviction|eviction: 1 order(s) are stopped to make room");
  // It is not gone yet: nobody else is chosen, nobody takes the place, nothing is given away.
  EXPECT_TRUE(Decide().empty());
  EXPECT_TRUE(last.evictions.empty());
  EXPECT_EQ(Why("asker"), "eviction|eviction: waits until 1 order(s) have left");
  End("young-spot");
  Add(Plain("late"));
  EXPECT_EQ(Decide(), Ids{"asker"});
  EXPECT_EQ(Victims(), Ids{"old-spot"});  // for the late one
}

TEST_F(QueueTest, NeverForAnEqualNorForWhatWouldNotHelp) {
  AddNode("a", 2);
  Order spot = Plain("spot");
  spot.preemptible = true;  // of the same priority as the asker
  Add(spot);
  Order lower = Plain("lower");
  lower.request.priority = 1;  // did not say that it may be stopped
  Add(lower);
  Decide();
  Add(Plain("asker"));
  Decide();
  EXPECT_TRUE(last.evictions.empty());
  QueuePolicy policy;
  policy.preempt = false;
  End("lower");
  End("asker");
  lower.preemptible = true;
  Add(lower);
  Decide();
  Order wide = Plain("wide");
  wide.request.slices = 2;
  Add(wide);
  Decide();
  EXPECT_TRUE(last.evictions.empty());  // one of two cards would not help
  End("spot");
  ASSERT_TRUE(queue.SetPolicy(policy));
  Decide();
  EXPECT_TRUE(last.evictions.empty());
  ASSERT_TRUE(queue.SetPolicy({}));
  Decide();
  EXPECT_EQ(Victims(), Ids{"lower"});
}

TEST_F(QueueTest, AGangGoesWholeAndComesWhole) {
  AddNode("a", 2);
  AddNode("b", 2);
  const auto gang = [&](const std::string& name, std::uint32_t size, int priority) {
    for (std::uint32_t i = 0; i < size; ++i) {
      Order order = Plain(name + std::to_string(i));
      order.gang = name;
      order.gang_size = size;
      order.request.priority = priority;
      order.preemptible = priority < 500;
      Add(order);
    }
  };
  gang("g", 3, 100);
  Order spot = Plain("spot");
  spot.request.priority = 301;
  spot.preemptible = true;
  Add(spot);
  EXPECT_EQ(Decide().size(), 4u);
  Add(Plain("one"));
  Decide();
  EXPECT_EQ(Victims(), (Ids{"g0", "g1", "g2"}));  // 3 x 100 is less than 301
  for (const char* id : {"g0", "g1", "g2"}) End(id);
  EXPECT_EQ(Decide(), Ids{"one"});
  gang("h", 3, 500);
  Decide();
  EXPECT_EQ(Victims(), Ids{"spot"});
  End("spot");
  EXPECT_EQ(Decide().size(), 3u);
}

TEST_F(QueueTest, AnOwnerTakesBackWhatOthersBorrowed) {
  AddNode("n", 4);
  QueuePolicy policy;
  policy.quotas = {MakeQuota("all", "", 0), MakeQuota("a", "all", 2), MakeQuota("b", "all", 2)};
  policy.reclaim = Reclaim::kAny;
  ASSERT_TRUE(queue.SetPolicy(policy));
  for (int i = 0; i < 4; ++i) {
    Order order = Plain("a" + std::to_string(i));
    order.request.tenant = "a";
    Add(order);
    Decide();
    now += kSecond;
  }
  EXPECT_EQ(engine.reservations(), 4u);
  for (int i = 0; i < 3; ++i) {
    Order order = Plain("b" + std::to_string(i));
    order.request.tenant = "b";
    Add(order);
  }
  // One after the other, the youngest first; a third would make b the borrower.
  Decide();
  EXPECT_EQ(Victims(), Ids{"a3"});
  EXPECT_EQ(last.evictions[0].reason, "reclaimed: the owner of the quota it borrowed needs it");
  End("a3");
  EXPECT_EQ(Decide(), Ids{"b0"});
  EXPECT_EQ(Victims(), Ids{"a2"});
  End("a2");
  EXPECT_EQ(Decide(), Ids{"b1"});
  EXPECT_TRUE(Victims().empty());
  EXPECT_EQ(queue.StandingOf("b2")->rule, "quota");
}

// What its going would free could not be borrowed past an earlier order of the group: it would go
// for nothing, and if it comes back, go again for ever.
TEST_F(QueueTest, NobodyIsStoppedForQuotaThatAnEarlierOrderWaitsFor) {
  AddNode("n", 8);
  QueuePolicy policy;
  policy.quotas = {MakeQuota("all", "", 1), MakeQuota("a", "all", 2), MakeQuota("b", "all", 1),
                   MakeQuota("c", "all", 0)};
  ASSERT_TRUE(queue.SetPolicy(policy));
  const auto order = [](const std::string& id, const std::string& tenant, std::uint32_t cards) {
    Order made = Plain(id);
    made.request.tenant = tenant;
    made.request.slices = cards;
    made.request.priority = 0;
    return made;
  };
  Add(order("a-runs", "a", 1));
  Add(order("b-runs", "b", 1));
  Order spot = order("spot", "c", 1);
  spot.request.priority = -1;
  spot.preemptible = true;
  Add(spot);
  EXPECT_EQ(Decide().size(), 3u);
  Add(order("a-waits", "a", 3));  // one card is left; without the spot order two
  Add(order("b-waits", "b", 2));
  EXPECT_EQ(Decide(), Ids{});
  EXPECT_EQ(Victims(), Ids{});
  EXPECT_EQ(queue.StandingOf("b-waits")->rule, "quota");
  // Without the earlier one it could have it.
  queue.Remove("a-waits");
  EXPECT_EQ(Decide(), Ids{});
  EXPECT_EQ(Victims(), Ids{"spot"});
  End("spot");
  EXPECT_EQ(Decide(), Ids{"b-waits"});
}

// Or an owner that reclaims from a higher priority and the borrower it stopped would stop each
// other's spot orders for ever.
TEST_F(QueueTest, WhoBorrowsStopsNobodyWhoKeepsToHisOwn) {
  AddNode("n", 2);
  QueuePolicy policy;
  policy.quotas = {MakeQuota("all", "", 0), MakeQuota("a", "all", 1), MakeQuota("b", "all", 1)};
  policy.reclaim = Reclaim::kAny;
  ASSERT_TRUE(queue.SetPolicy(policy));
  const auto order = [](const std::string& id, const std::string& tenant, int priority) {
    Order made = Plain(id);
    made.request.tenant = tenant;
    made.request.priority = priority;
    made.preemptible = priority < 0;
    return made;
  };
  Add(order("spot", "a", -1));
  Add(order("b1", "b", 0));
  EXPECT_EQ(Decide().size(), 2u);
  Add(order("b2", "b", 7));
  EXPECT_EQ(Decide(), Ids{});
  EXPECT_EQ(Victims(), Ids{});
  // Once the other borrows as well, the rank decides.
  policy.quotas = {MakeQuota("all", "", 1), MakeQuota("a", "all", 0), MakeQuota("b", "all", 1)};
  ASSERT_TRUE(queue.SetPolicy(policy));
  EXPECT_EQ(Decide(), Ids{});
  EXPECT_EQ(Victims(), Ids{"spot"});
}

// Whoever was stopped for an owner holds less than the owner then, and by fair share would go
// first.
TEST_F(QueueTest, WhatIsTakenBackGoesToTheOwnerAndNotToWhoHoldsTheLeast) {
  AddNode("n", 4);
  QueuePolicy policy;
  policy.quotas = {MakeQuota("all", "", 0), MakeQuota("owner", "all", 3),
                   MakeQuota("borrower", "all", 1)};
  policy.fair_share = true;
  policy.reclaim = Reclaim::kAny;
  ASSERT_TRUE(queue.SetPolicy(policy));
  const auto add = [&](const std::string& id, const std::string& tenant) {
    Order order = Plain(id);
    order.request.tenant = tenant;
    Add(order);
  };
  for (const std::string id : {"1", "2"}) {
    add("o" + id, "owner");
    add("b" + id, "borrower");
    EXPECT_EQ(Decide().size(), 2u);
    now += kSecond;
  }
  add("b3", "borrower");
  add("o3", "owner");
  EXPECT_EQ(Decide(), Ids{});
  EXPECT_EQ(Victims(), Ids{"b2"});
  EXPECT_EQ(Decide(), Ids{}) << "it is still on its way out";
  End("b2");
  EXPECT_EQ(Decide(), Ids{"o3"});
  EXPECT_EQ(Victims(), Ids{});
  EXPECT_EQ(queue.StandingOf("b3")->rule, "quota");
}

TEST_F(QueueTest, WhatIsTakenBackGoesToTheOwnerAndNotToAHigherPriority) {
  AddNode("n", 2);
  QueuePolicy policy;
  policy.quotas = {MakeQuota("all", "", 0), MakeQuota("owner", "all", 2),
                   MakeQuota("borrower", "all", 0)};
  policy.reclaim = Reclaim::kAny;
  ASSERT_TRUE(queue.SetPolicy(policy));
  for (const std::string id : {"b1", "b2", "b3"}) {
    Order order = Plain(id);
    order.request.tenant = "borrower";
    order.request.priority = 700;
    Add(order);
    Decide();
    now += kSecond;
  }
  Order order = Plain("o");
  order.request.tenant = "owner";
  order.request.priority = 1;
  Add(order);
  EXPECT_EQ(Decide(), Ids{});
  EXPECT_EQ(Victims(), Ids{"b2"});
  End("b2");
  EXPECT_EQ(Decide(), Ids{"o"});
  EXPECT_EQ(Victims(), Ids{});
}

TEST_F(QueueTest, NoMoreIsTakenBackThanIsBorrowed) {
  AddNode("n", 4);
  QueuePolicy policy;
  policy.quotas = {MakeQuota("all", "", 0), MakeQuota("a", "all", 2), MakeQuota("b", "all", 3)};
  policy.reclaim = Reclaim::kAny;
  ASSERT_TRUE(queue.SetPolicy(policy));
  for (int i = 0; i < 3; ++i) {
    Order order = Plain("a" + std::to_string(i));
    order.request.tenant = "a";
    Add(order);
  }
  EXPECT_EQ(Decide().size(), 3u);
  // Two of a's would have to go, and a borrows one: what is its own is not b's to take.
  Order order = Plain("b0");
  order.request.tenant = "b";
  order.request.slices = 3;
  Add(order);
  Decide();
  EXPECT_TRUE(last.evictions.empty());
  End("b0");
  order.request.id = "b1";
  order.request.slices = 2;
  Add(order);
  Decide();
  EXPECT_EQ(last.evictions.size(), 1u);
}

// A search that runs out of checks still stops nobody who is not needed.
TEST(CheapestVictims, OutOfChecksTheSetIsMinimal) {
  std::vector<Victim> victims;
  std::vector<std::uint64_t> frees;
  for (std::uint64_t i = 0; i < 20; ++i) {
    victims.push_back({{"v" + std::to_string(100 + i)}, {i, 0, 1}});
    frees.push_back(i);
  }
  const auto fits = [&](const std::vector<std::size_t>& chosen) {
    std::uint64_t sum = 0;
    for (const std::size_t i : chosen) sum += frees[i];
    return sum >= 31;
  };
  const auto legal = [](const std::vector<std::size_t>&) { return true; };
  std::size_t checks = 1;
  const auto found = CheapestVictims(victims, fits, legal, std::nullopt, &checks);
  ASSERT_TRUE(found);
  for (const std::size_t kept : *found) {
    std::vector<std::size_t> without = *found;
    std::erase(without, kept);
    EXPECT_FALSE(fits(without)) << victims[kept].ids[0];
  }
  checks = kFitChecksMax;
  const auto best = CheapestVictims(victims, fits, legal, std::nullopt, &checks);
  ASSERT_TRUE(best);
  EXPECT_LT(CostOf(victims, *best), CostOf(victims, *found));
}

TEST_F(QueueTest, ReclaimOnlyFromLowerPriorityUnlessToldOtherwise) {
  AddNode("n", 2);
  QueuePolicy policy;
  policy.quotas = {MakeQuota("all", "", 0), MakeQuota("a", "all", 1), MakeQuota("b", "all", 1)};
  ASSERT_TRUE(queue.SetPolicy(policy));
  for (int i = 0; i < 2; ++i) {
    Order order = Plain("a" + std::to_string(i));
    order.request.tenant = "a";
    Add(order);
  }
  Decide();
  Order order = Plain("b0");
  order.request.tenant = "b";
  Add(order);
  Decide();
  EXPECT_TRUE(last.evictions.empty());
  EXPECT_EQ(queue.StandingOf("b0")->rule, "quota");
  order.request.id = "b1";
  order.request.priority = 501;
  Add(order);
  Decide();
  EXPECT_EQ(last.evictions.size(), 1u);
}

}  // namespace
}  // namespace tessera::placement
