// Reservations alone and with the queue. The property tests keep the plainest books beside them: a
// list of who holds which cards, added up anew after every event.
#include "placement/reservation.h"

#include <gtest/gtest.h>

#include "base/rng.h"
#include "placement/queue.h"

namespace tessera::placement {
namespace {

constexpr std::int64_t kSecond = 1'000'000;

Request Ask(std::string id, std::string tenant, std::uint64_t gib = 24) {
  Request request;
  request.id = std::move(id);
  request.tenant = std::move(tenant);
  request.memory_bytes = gib * kGiB;
  request.compute = {static_cast<std::uint32_t>(gib * 1000 / 24)};
  request.cpu_millis = 1000;
  return request;
}

CapacityReservation Reserve(std::string id, std::string tenant, std::uint32_t units,
                            std::uint64_t gib = 24) {
  CapacityReservation reservation;
  reservation.id = std::move(id);
  reservation.unit = Ask("", std::move(tenant), gib);
  reservation.units = units;
  return reservation;
}

NodeInventory Node(const std::string& name, std::size_t cards) {
  NodeInventory node{name, 64'000, 256 * kGiB, {}};
  for (std::size_t i = 0; i < cards; ++i) {
    device::Card card;
    card.uuid = name + "-" + std::to_string(i);
    card.model = "A10";
    card.memory_bytes = 24 * kGiB;
    node.cards.push_back(card);
  }
  return node;
}

class ReservationTest : public testing::Test {
 protected:
  void Fleet(std::size_t nodes, std::size_t cards) {
    for (std::size_t n = 0; n < nodes; ++n) {
      ASSERT_TRUE(engine.UpdateNode(Node("n" + std::to_string(n), cards)));
    }
  }
  Status Add(const CapacityReservation& reservation, bool whole = true) {
    return reservations.Add(engine, reservation, whole, now, away);
  }
  void Submit(const std::string& id, const std::string& tenant, const std::string& reservation = "",
              bool spot = false, std::int32_t priority = 0, std::uint64_t gib = 24) {
    Order order;
    order.request = Ask(id, tenant, gib);
    order.request.priority = priority;
    order.reservation = reservation;
    order.preemptible = spot;
    const Status added = queue.Add(order);
    ASSERT_TRUE(added) << added.error().ToString();
  }
  Queue::Decision Decide() {
    reservations.Advance(engine, now, away);
    return queue.Decide(engine, now, away, {}, &reservations);
  }
  void End(const std::string& id) {
    queue.Remove(id);
    engine.Release(id);
    reservations.Return(engine, id);
  }
  std::string Card(const std::string& id) {
    const std::optional<Reservation> held = engine.Find(id);
    return !held ? "none" : held->placement.shares.at(0).card_uuid;
  }
  // "used+lent+free+missing"
  std::string Use(const std::string& id) {
    for (const ReservationUse& use : reservations.List()) {
      if (use.reservation.id != id) continue;
      return std::to_string(use.used) + "+" + std::to_string(use.lent) + "+" +
             std::to_string(use.free) + "+" + std::to_string(use.missing);
    }
    return "unknown";
  }

  Engine engine;
  Queue queue;
  CapacityReservations reservations;
  std::int64_t now = 100 * kSecond;
  std::set<std::string> away;
};

TEST_F(ReservationTest, IsTakenFromOthersAndUsedByThoseWhoNameIt) {
  Fleet(1, 2);
  ASSERT_TRUE(Add(Reserve("r", "ada", 1)));
  Submit("bob1", "bob");
  Submit("bob2", "bob");
  Submit("ada1", "ada", "r");
  Submit("ada2", "ada", "r");
  EXPECT_EQ(Decide().placed.size(), 2U);
  EXPECT_EQ(Card("bob1"), "n0-1");  // the reservation had its card before
  EXPECT_EQ(Card("ada1"), "n0-0");
  EXPECT_EQ(Card("bob2"), "none");
  EXPECT_EQ(queue.StandingOf("ada2")->rule, "reservation");
  EXPECT_EQ(Use("r"), "1+0+0+0");
  // A place outside does not concern who waits for a unit, nor the other way round.
  End("bob1");
  Decide();
  EXPECT_EQ(Card("bob2"), "n0-1");
  End("ada1");
  EXPECT_EQ(Use("r"), "0+0+1+0");
  Decide();
  EXPECT_EQ(Card("ada2"), "n0-0");
}

TEST_F(ReservationTest, IsAllOrNoneWhenItIsMade) {
  Fleet(2, 1);
  const Status three = Add(Reserve("r", "ada", 3));
  ASSERT_FALSE(three);
  EXPECT_EQ(three.error().code(), Code::kResourceExhausted);
  EXPECT_NE(three.error().message().find("2 of 3 units fit now"), std::string::npos);
  EXPECT_EQ(engine.reservations(), 0U);
  const Status never = Add(Reserve("r", "ada", 1, 25));
  ASSERT_FALSE(never);
  CapacityReservation bad = Reserve("r", "ada", 0);
  EXPECT_EQ(Add(bad).error().field(), "units");
  bad = Reserve("r", "", 1);
  EXPECT_EQ(Add(bad).error().field(), "tenant");
  bad = Reserve("r", "ada", 1);
  bad.start_micros = bad.end_micros = 5;
  EXPECT_EQ(Add(bad).error().field(), "end");
  bad.start_micros = 0;
  EXPECT_EQ(Add(bad).error().field(), "end");  // it lies in the past
  ASSERT_TRUE(Add(Reserve("r", "ada", 2)));
  ASSERT_TRUE(Add(Reserve("r", "ada", 2)));
  EXPECT_EQ(Add(Reserve("r", "ada", 1)).error().code(), Code::kAlreadyExists);
  EXPECT_EQ(Use("r"), "0+0+2+0");
}

TEST_F(ReservationTest, AdmitsItsTenantAndItsShapeAlone) {
  Fleet(1, 2);
  ASSERT_TRUE(Add(Reserve("r", "ada", 2)));
  EXPECT_TRUE(reservations.Admits("r", Ask("a", "ada"), 2));
  EXPECT_FALSE(reservations.Admits("r", Ask("a", "ada"), 3));
  EXPECT_FALSE(reservations.Admits("r", Ask("a", "bob"), 1));
  EXPECT_FALSE(reservations.Admits("r", Ask("a", "ada", 12), 1));
  EXPECT_FALSE(reservations.Admits("q", Ask("a", "ada"), 1));
}

TEST_F(ReservationTest, BeginsAndEndsByTheClock) {
  Fleet(1, 2);
  CapacityReservation later = Reserve("r", "ada", 2);
  later.start_micros = now + 10 * kSecond;
  later.end_micros = now + 20 * kSecond;
  ASSERT_TRUE(Add(later));
  Submit("early", "ada", "r");
  Submit("bob", "bob");
  Decide();
  EXPECT_EQ(Use("r"), "0+0+0+0");
  EXPECT_EQ(Card("early"), "none");
  EXPECT_EQ(Card("bob"), "n0-0");
  now += 10 * kSecond;
  Decide();
  EXPECT_EQ(Card("early"), "n0-1");
  EXPECT_EQ(Use("r"), "1+0+0+1");  // bob goes on where he is
  End("bob");
  Submit("bob2", "bob");
  Decide();
  EXPECT_EQ(Use("r"), "1+0+1+0");
  EXPECT_EQ(Card("bob2"), "none");
  now += 10 * kSecond;
  Decide();
  EXPECT_EQ(Card("early"), "n0-1");  // goes on as an ordinary one
  EXPECT_EQ(Card("bob2"), "n0-0");
  EXPECT_EQ(reservations.List().at(0).phase, ReservationPhase::kEnded);
  End("early");
  EXPECT_EQ(engine.reservations(), 1U);
}

TEST_F(ReservationTest, OpenOnesAreUsedFirstWithoutBeingNamed) {
  Fleet(2, 2);
  ASSERT_TRUE(engine.SetPolicy("", "spread"));
  CapacityReservation open = Reserve("r", "ada", 1);
  open.open = true;
  ASSERT_TRUE(Add(open));
  Submit("bob", "bob");
  Submit("other", "ada", "", false, 0, 12);  // of another shape
  Submit("one", "ada");
  Submit("two", "ada");
  Decide();
  EXPECT_EQ(Use("r"), "1+0+0+0");
  EXPECT_EQ(*reservations.Of("one"), "r");
  EXPECT_EQ(reservations.Of("bob"), nullptr);
  EXPECT_EQ(reservations.Of("other"), nullptr);
  EXPECT_NE(Card("two"), "none");  // outside
}

TEST_F(ReservationTest, MovesFreeUnitsOffALostNode) {
  Fleet(3, 1);
  ASSERT_TRUE(Add(Reserve("r", "ada", 2)));  // n0 and n1
  Submit("a", "ada", "r");
  Decide();
  EXPECT_EQ(Card("a"), "n0-0");
  away = {"n1"};
  Decide();
  EXPECT_EQ(Use("r"), "1+0+1+0");  // on n2 now
  away = {"n1", "n2"};
  Decide();
  EXPECT_EQ(Use("r"), "1+0+0+1");
  EXPECT_FALSE(reservations.List().at(0).missing_for.empty());
  Submit("b", "ada", "r");
  Decide();
  EXPECT_EQ(Card("b"), "none");
  away = {"n2"};
  Decide();
  EXPECT_EQ(Card("b"), "n1-0");
  // A card that falls ill is left as well.
  End("b");
  NodeInventory ill = Node("n1", 1);
  ill.cards[0].healthy = false;
  ASSERT_TRUE(engine.UpdateNode(ill));
  away = {};
  Decide();
  EXPECT_EQ(Use("r"), "1+0+1+0");
  Submit("c", "ada", "r");
  Decide();
  EXPECT_EQ(Card("c"), "n2-0");
}

TEST_F(ReservationTest, LendsToSpotAndCallsBack) {
  Fleet(1, 2);
  CapacityReservation lending = Reserve("r", "ada", 2);
  lending.lend = true;
  ASSERT_TRUE(Add(lending));
  Submit("firm", "bob");
  Submit("spot1", "bob", "", true);
  Submit("spot2", "bob", "", true);
  Submit("spot3", "bob", "", true);
  Decide();
  EXPECT_EQ(Use("r"), "0+2+0+0");
  EXPECT_EQ(Card("firm"), "none");
  EXPECT_EQ(Card("spot3"), "none");
  now += kSecond;
  Submit("ada1", "ada", "r");
  auto decision = Decide();
  ASSERT_EQ(decision.evictions.size(), 1U);
  EXPECT_EQ(decision.evictions[0].asker, "ada1");
  const std::string gone = decision.evictions[0].id;
  EXPECT_EQ(queue.StandingOf("ada1")->rule, "eviction");
  EXPECT_TRUE(Decide().evictions.empty());  // one is enough
  End(gone);
  Decide();
  EXPECT_EQ(Use("r"), "1+1+0+0");
  EXPECT_NE(Card("ada1"), "none");
  EXPECT_EQ(Card("spot3"), "none");
  // Somebody of higher priority outside may not have the borrower stopped: its place is not his.
  Submit("urgent", "bob", "", false, 1000);
  EXPECT_TRUE(Decide().evictions.empty());
  // What runs in a reservation, even if it may be stopped, is nobody's victim.
  Submit("ada2", "ada", "r", true);
  decision = Decide();
  ASSERT_EQ(decision.evictions.size(), 1U);
  End(decision.evictions[0].id);
  decision = Decide();
  EXPECT_EQ(decision.evictions.size(), 0U);
  EXPECT_EQ(Use("r"), "2+0+0+0");
  EXPECT_EQ(Card("urgent"), "none");
}

TEST_F(ReservationTest, IsNotOvertakenWithinItself) {
  Fleet(1, 3);
  ASSERT_TRUE(Add(Reserve("r", "ada", 3)));
  Submit("first", "ada", "r");
  Decide();
  for (const char* id : {"g1", "g2", "g3"}) {
    Order member;
    member.request = Ask(id, "ada");
    member.reservation = "r";
    member.gang = "g";
    member.gang_size = 3;
    ASSERT_TRUE(queue.Add(member));
  }
  Submit("late", "ada", "r");
  EXPECT_TRUE(Decide().placed.empty());
  EXPECT_EQ(Use("r"), "1+0+2+0");
  End("first");
  EXPECT_EQ(Decide().placed.size(), 3U);
  EXPECT_EQ(Card("late"), "none");
  Order bad;
  bad.request = Ask("bad", "ada");
  bad.reservation = "r";
  bad.gang = "h";
  bad.gang_size = bad.gang_node_min = 2;
  EXPECT_EQ(queue.Add(bad).error().field(), "gang_node_min");
}

TEST_F(ReservationTest, IsNotForAGangThatMindsItsPlaces) {
  Fleet(4, 1);
  CapacityReservation open = Reserve("r", "ada", 2);  // n0 and n1
  open.open = true;
  ASSERT_TRUE(Add(open));
  for (const char* node : {"n0", "n2"}) queue.SetRack(node, "east");
  for (const char* node : {"n1", "n3"}) queue.SetRack(node, "west");
  for (const char* id : {"g1", "g2"}) {
    Order member;
    member.request = Ask(id, "ada");
    member.gang = "g";
    member.gang_size = 2;
    member.gang_one_rack = true;
    ASSERT_TRUE(queue.Add(member));
  }
  EXPECT_TRUE(Decide().placed.empty());  // n2 and n3 are free, in two racks
  EXPECT_EQ(Use("r"), "0+0+2+0");
  reservations.Remove(engine, "r");
  EXPECT_EQ(Decide().placed.size(), 2U);
}

TEST_F(ReservationTest, TakesInWhatRanBeforeARestart) {
  Fleet(1, 3);
  // What the nodes list is restored first; then the owner tells of the reservation.
  ASSERT_NE(engine.Place(Ask("ran", "ada")), nullptr);
  ASSERT_NE(engine.Place(Ask("borrowed", "bob")), nullptr);
  ASSERT_TRUE(Add(Reserve("r", "ada", 2), false));
  EXPECT_EQ(Use("r"), "0+0+1+1");
  EXPECT_FALSE(reservations.Attach(engine, "r", Ask("ran", "bob"), false));
  EXPECT_FALSE(reservations.Attach(engine, "r", Ask("ran", "ada", 12), false));
  EXPECT_TRUE(reservations.Attach(engine, "r", Ask("ran", "ada"), false));
  EXPECT_FALSE(reservations.Attach(engine, "r", Ask("ran", "ada"), false));
  EXPECT_EQ(Use("r"), "1+0+1+0");
  // Nothing is missing: a borrower stands in for nothing.
  EXPECT_FALSE(reservations.Attach(engine, "r", Ask("borrowed", "bob"), true));
  End("ran");
  EXPECT_EQ(Use("r"), "0+0+2+0");
  EXPECT_EQ(engine.reservations(), 3U);
}

// ---- the property test ----

// Events in any order over a small fleet. After each: the cards hold exactly what the lists say, no
// card more than it has, every reservation's units add up, who runs inside is on cards that were
// the reservation's, and nothing is missing that would fit.
void RunEvents(std::uint64_t seed, int steps) {
  SCOPED_TRACE("seed " + std::to_string(seed));
  Rng rng(seed);
  Engine engine;
  CapacityReservations reservations;
  const std::size_t nodes = 2 + rng.Between(0, 2);
  const std::size_t cards = 1 + rng.Between(0, 2);
  std::set<std::string> away;     // of the scheduler: the node does not answer
  std::set<std::string> removed;  // of the engine as well
  for (std::size_t n = 0; n < nodes; ++n) {
    ASSERT_TRUE(engine.UpdateNode(Node("n" + std::to_string(n), cards)));
  }
  struct Spec {
    CapacityReservation reservation;
    std::set<std::string> used;
    std::set<std::string> lent;
  };
  std::map<std::string, Spec> specs;             // as the plain books have them
  std::map<std::string, std::uint64_t> outside;  // order: GiB
  std::map<std::string, Placement> places;       // of all orders
  std::int64_t now = 0;
  int next = 0;
  const auto avoid = [&] {
    std::set<std::string> both = away;
    both.insert(removed.begin(), removed.end());
    return both;
  };
  const auto active = [&](const Spec& spec) {
    return spec.reservation.start_micros <= now &&
           (spec.reservation.end_micros == 0 || now < spec.reservation.end_micros);
  };
  const auto drop = [&](Spec& spec) {  // what runs there goes on as ordinary
    const std::uint64_t gib = spec.reservation.unit.memory_bytes / kGiB;
    for (const auto* held : {&spec.used, &spec.lent}) {
      for (const std::string& id : *held) outside[id] = gib;
    }
    spec.used.clear();
    spec.lent.clear();
  };
  const auto any = [&](const auto& map) {
    auto at = map.begin();
    std::advance(at, static_cast<std::ptrdiff_t>(rng.Between(0, map.size() - 1)));
    return at->first;
  };
  int attached = 0;
  int took = 0;
  for (int step = 0; step < steps; ++step) {
    SCOPED_TRACE("step " + std::to_string(step));
    const std::uint64_t kind = rng.Between(0, 99);
    if (kind < 10 && specs.size() < 4) {
      const std::string id = "r" + std::to_string(next++);
      CapacityReservation reservation =
          Reserve(id, "t" + std::to_string(rng.Between(0, 1)),
                  static_cast<std::uint32_t>(rng.Between(1, 4)), rng.Chance(500) ? 12 : 24);
      reservation.open = rng.Chance(500);
      reservation.lend = rng.Chance(500);
      if (rng.Chance(300))
        reservation.start_micros = now + 1 + static_cast<std::int64_t>(rng.Between(0, 20));
      if (rng.Chance(500)) {
        reservation.end_micros = std::max(now, reservation.start_micros) + 1 +
                                 static_cast<std::int64_t>(rng.Between(0, 60));
      }
      const bool whole = rng.Chance(500);
      const std::size_t before = engine.reservations();
      if (reservations.Add(engine, reservation, whole, now, avoid())) {
        specs[id] = {reservation, {}, {}};
      } else {
        EXPECT_EQ(engine.reservations(), before);
      }
    } else if (kind < 14 && !specs.empty()) {
      const std::string id = any(specs);
      EXPECT_TRUE(reservations.Remove(engine, id));
      drop(specs.at(id));
      specs.erase(id);
    } else if (kind < 45 && !specs.empty()) {
      const std::string id = any(specs);
      Spec& spec = specs.at(id);
      const bool lent = spec.reservation.lend && rng.Chance(400);
      Request request = spec.reservation.unit;
      request.id = "o" + std::to_string(next++);
      if (reservations.Usable(id, avoid()) > 0) {
        const Placement place = reservations.Take(engine, id, request, lent, avoid());
        EXPECT_EQ(avoid().count(place.node), 0U);
        EXPECT_EQ(place.request_id, request.id);
        (lent ? spec.lent : spec.used).insert(request.id);
        places[request.id] = place;
        ++took;
      }
    } else if (kind < 60) {
      const std::uint64_t gib = rng.Chance(500) ? 12 : 24;
      const Request request = Ask("o" + std::to_string(next++), "t0", gib);
      if (const Placement* place = engine.Place(request, avoid())) {
        outside[request.id] = gib;
        places[request.id] = *place;
      }
    } else if (kind < 80 && !places.empty()) {
      const std::string id = any(places);
      EXPECT_TRUE(engine.Release(id));
      reservations.Return(engine, id);
      outside.erase(id);
      for (auto& [name, spec] : specs) {
        spec.used.erase(id);
        spec.lent.erase(id);
      }
      places.erase(id);
    } else if (kind < 84 && !outside.empty() && !specs.empty()) {
      const std::string id = any(specs);
      const std::string order = any(outside);
      Spec& spec = specs.at(id);
      const Request request = Ask(order, spec.reservation.unit.tenant, outside.at(order));
      const bool lent = rng.Chance(500);
      if (reservations.Attach(engine, id, request, lent)) {
        EXPECT_EQ(request.memory_bytes, spec.reservation.unit.memory_bytes);
        (lent ? spec.lent : spec.used).insert(order);
        outside.erase(order);
        ++attached;
      }
    } else if (kind < 92) {
      const std::string name = "n" + std::to_string(rng.Between(0, nodes - 1));
      if (removed.erase(name) != 0) {
        ASSERT_TRUE(engine.UpdateNode(Node(name, cards)));
      } else if (rng.Chance(500)) {
        engine.RemoveNode(name);
        removed.insert(name);
      } else if (away.erase(name) == 0) {
        away.insert(name);
      }
    } else {
      now += static_cast<std::int64_t>(rng.Between(0, 8));
    }
    reservations.Advance(engine, now, avoid());
    for (auto& [id, spec] : specs) {
      if (!active(spec)) drop(spec);
    }

    // The books.
    std::size_t units = 0;
    std::map<std::string, std::uint64_t> held;  // GiB, by card, of orders
    for (const auto& [id, place] : places) {
      const std::optional<Reservation> now_held = engine.Find(id);
      ASSERT_TRUE(now_held) << id;
      EXPECT_EQ(now_held->placement.shares, place.shares);  // nobody is moved who runs
      for (const auto& share : place.shares) held[share.card_uuid] += share.memory_bytes / kGiB;
    }
    std::uint64_t of_units = 0;
    const std::vector<ReservationUse> uses = reservations.List();
    ASSERT_EQ(uses.size(), specs.size());
    for (const ReservationUse& use : uses) {
      const Spec& spec = specs.at(use.reservation.id);
      EXPECT_EQ(use.used, spec.used.size());
      EXPECT_EQ(use.lent, spec.lent.size());
      for (const auto* orders : {&spec.used, &spec.lent}) {
        for (const std::string& id : *orders) EXPECT_EQ(*reservations.Of(id), use.reservation.id);
      }
      const std::uint32_t all = use.used + use.lent + use.free + use.missing;
      EXPECT_EQ(all, active(spec) ? spec.reservation.units : 0U);
      const std::uint64_t gib = spec.reservation.unit.memory_bytes / kGiB;
      of_units += use.free * gib;
      units += use.free;
      if (use.missing > 0) {
        // No room is left that would hold it.
        Request probe = spec.reservation.unit;
        probe.id = "probe";
        EXPECT_EQ(engine.Consider(probe, avoid()), nullptr);
        EXPECT_FALSE(use.missing_for.empty());
      }
    }
    std::uint64_t on_cards = 0;
    std::uint64_t beyond = 0;  // what units that do not stand keep of their old places
    for (std::size_t n = 0; n < nodes; ++n) {
      const std::string name = "n" + std::to_string(n);
      for (std::size_t c = 0; c < cards; ++c) {
        const std::string uuid = name + "-" + std::to_string(c);
        const std::uint64_t gib = engine.ReservedOn(name, uuid).memory_bytes / kGiB;
        EXPECT_LE(gib, 24U) << uuid;
        EXPECT_GE(gib, held[uuid]) << uuid;
        if (avoid().count(name) == 0) {
          on_cards += gib - held[uuid];
        } else {
          beyond += gib - held[uuid];
        }
      }
    }
    // On nodes that answer, beside orders there are the units that stand, and nothing else.
    EXPECT_EQ(on_cards, of_units);
    std::uint64_t missing = 0;
    for (const ReservationUse& use : uses) {
      missing += use.missing * (use.reservation.unit.memory_bytes / kGiB);
    }
    EXPECT_LE(beyond, missing);
    EXPECT_GE(engine.reservations(), places.size() + units);
    if (testing::Test::HasFailure()) return;
  }
  EXPECT_GT(took, steps / 100);
  // All given back: nothing is held.
  while (!places.empty()) {
    const std::string id = places.begin()->first;
    engine.Release(id);
    reservations.Return(engine, id);
    places.erase(id);
  }
  for (const auto& [id, spec] : specs) reservations.Remove(engine, id);
  EXPECT_EQ(engine.reservations(), 0U);
}

TEST(ReservationPropertyTest, BooksAreExactUnderRandomEvents) {
  for (std::uint64_t seed = 1; seed <= 60 && !testing::Test::HasFailure(); ++seed)
    RunEvents(seed, 1500);
}

// The queue with lending and callbacks: owners who name a reservation never wait while a usable
// unit is free or lent to somebody who was not told to go, spot orders never push anybody out, and
// in the end everybody who could be served was.
TEST(ReservationPropertyTest, OwnersAreServedBeforeBorrowers) {
  for (std::uint64_t seed = 1; seed <= 40 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Rng rng(seed);
    Engine engine;
    Queue queue;
    CapacityReservations reservations;
    for (int n = 0; n < 3; ++n) ASSERT_TRUE(engine.UpdateNode(Node("n" + std::to_string(n), 2)));
    CapacityReservation lending =
        Reserve("r", "ada", static_cast<std::uint32_t>(rng.Between(1, 4)));
    lending.lend = true;
    lending.open = rng.Chance(500);
    ASSERT_TRUE(reservations.Add(engine, lending, true, 0, {}));
    std::set<std::string> running;
    std::set<std::string> leaving;
    std::map<std::string, Order> orders;
    int next = 0;
    for (int step = 0; step < 300; ++step) {
      if (rng.Chance(600) && orders.size() < 20) {
        Order order;
        const bool owner = rng.Chance(400);
        order.request = Ask("o" + std::to_string(next++), owner ? "ada" : "bob");
        if (owner && rng.Chance(700)) order.reservation = "r";
        order.preemptible = !owner && rng.Chance(700);
        ASSERT_TRUE(queue.Add(order));
        orders[order.request.id] = order;
      } else if (!running.empty()) {
        auto at =
            leaving.empty() || rng.Chance(300) ? running.begin() : running.find(*leaving.begin());
        const std::string id = *at;
        queue.Remove(id);
        engine.Release(id);
        reservations.Return(engine, id);
        running.erase(id);
        leaving.erase(id);
        orders.erase(id);
      }
      reservations.Advance(engine, step, {});
      auto decision = queue.Decide(engine, step, {}, {}, &reservations);
      for (const Placement& placement : decision.placed) {
        const Order& order = orders.at(placement.request_id);
        running.insert(placement.request_id);
        const std::string* in = reservations.Of(placement.request_id);
        if (!order.reservation.empty()) {
          EXPECT_NE(in, nullptr);
        } else if (in != nullptr) {
          EXPECT_TRUE(order.preemptible || (lending.open && order.request.tenant == "ada"));
        }
      }
      for (const Eviction& eviction : decision.evictions) {
        EXPECT_TRUE(orders.at(eviction.id).preemptible);
        EXPECT_EQ(orders.at(eviction.asker).request.tenant, "ada");
        EXPECT_EQ(*reservations.Of(eviction.id), "r");
        EXPECT_TRUE(leaving.insert(eviction.id).second);
      }
      const ReservationUse use = reservations.List().at(0);
      EXPECT_EQ(use.used + use.lent + use.free + use.missing, lending.units);
      EXPECT_EQ(use.missing, 0U);
      std::size_t waiting = 0;
      for (const auto& [id, order] : orders) {
        if (!order.reservation.empty() && queue.Waits(id)) ++waiting;
      }
      if (waiting > 0) {
        EXPECT_EQ(use.free, 0U);
        std::size_t lent_leaving = 0;
        for (const std::string& id : reservations.Borrowers("r")) lent_leaving += leaving.count(id);
        EXPECT_GE(lent_leaving, std::min<std::size_t>(waiting, use.lent));
      }
    }
  }
}

}  // namespace
}  // namespace tessera::placement
