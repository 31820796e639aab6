// The queue of turns, exactly, with a clock that is a number.
#include "broker/turn_queue.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <vector>

#include "base/rng.h"

namespace tessera::broker {
namespace {

constexpr std::int64_t kMs = 1'000'000;

// A card that serves whoever is next for exactly its turn, or for units of work that do not end
// with it.
class Card {
 public:
  TurnQueue queue;
  std::int64_t now = 0;
  std::map<std::string, std::int64_t> served;
  std::map<std::string, std::int64_t> unit;  // of indivisible work; none: 1 ns

  // Until then; everybody who is backlogged stays so.
  void RunUntil(std::int64_t end) {
    while (now < end) {
      std::int64_t look_again = 0;
      const auto next = queue.Next(now, &look_again);
      if (!next) {
        if (look_again > end) {
          now = end;
          return;
        }
        ASSERT_GT(look_again, now) << "told to look again at once";
        now = look_again;
        continue;
      }
      ASSERT_GT(next->turn_nanos, 0);
      ASSERT_LE(next->turn_nanos, kTurnNanosMax);
      const std::int64_t one = unit.contains(next->id) ? unit[next->id] : 1;
      const std::int64_t nanos = (next->turn_nanos + one - 1) / one * one;
      now += nanos;
      served[next->id] += nanos;
      queue.Charge(next->id, nanos, now);
    }
  }
  void Add(const std::string& id, TurnTerms terms) {
    queue.Set(id, terms, now);
    queue.Arrive(id, now);
  }
};

TEST(TurnQueue, EmptyHasNoTurnAndNothingToWaitFor) {
  TurnQueue queue;
  std::int64_t look_again = 0;
  EXPECT_FALSE(queue.Next(0, &look_again));
  EXPECT_EQ(look_again, TurnQueue::kNever);
  queue.Set("a", {1, 0, 0}, 0);
  EXPECT_FALSE(queue.Next(0, &look_again)) << "nothing waits";
  EXPECT_EQ(look_again, TurnQueue::kNever);
}

TEST(TurnQueue, EqualWeightsTakeTurns) {
  Card card;
  card.Add("a", {5, 0, 0});
  card.Add("b", {5, 0, 0});
  card.RunUntil(1200 * kMs);
  EXPECT_EQ(card.served["a"], 600 * kMs);
  EXPECT_EQ(card.served["b"], 600 * kMs);
}

TEST(TurnQueue, WeightsDivideWithinOneTurn) {
  Card card;
  card.Add("a", {1, 0, 0});
  card.Add("b", {9, 0, 0});
  card.RunUntil(6000 * kMs);
  EXPECT_NEAR(static_cast<double>(card.served["a"]), 600e6, kTurnNanosMax);
  EXPECT_NEAR(static_cast<double>(card.served["b"]), 5400e6, kTurnNanosMax);
}

TEST(TurnQueue, IdlenessEarnsNothingAndDebtIsPaid) {
  Card card;
  card.Add("a", {1, 0, 0});
  card.RunUntil(1000 * kMs);
  card.Add("b", {1, 0, 0});
  card.served.clear();
  card.RunUntil(1240 * kMs);
  EXPECT_NEAR(static_cast<double>(card.served["b"]), 120e6, kTurnNanosMax) << "no catching up";
  // One long kernel of 200 ms: the other one gets its 200 ms first.
  card.queue.Charge("a", 200 * kMs, card.now += 200 * kMs);
  card.served.clear();
  card.RunUntil(card.now + 180 * kMs);
  EXPECT_EQ(card.served["a"], 0);
  // Neither does going away pay it.
  card.queue.Leave("a", card.now);
  card.queue.Charge("a", 200 * kMs, card.now);
  card.queue.Arrive("a", card.now);
  card.served.clear();
  card.RunUntil(card.now + 180 * kMs);
  EXPECT_EQ(card.served["a"], 0);
}

TEST(TurnQueue, ACapIsKeptByATenantAloneAndWhatItLeavesIsNotOffered) {
  Card card;
  card.Add("a", {1, 300, 0});
  card.RunUntil(10'000 * kMs);
  EXPECT_LE(card.served["a"], 3000 * kMs + 30 * kMs);
  EXPECT_GE(card.served["a"], 3000 * kMs - kCapTurnNanosMin);
}

TEST(TurnQueue, AnOverrunIsPaidBackWithinTheCap) {
  Card card;
  card.unit["a"] = 50 * kMs;
  card.Add("a", {1, 100, 0});
  card.RunUntil(20'000 * kMs);
  EXPECT_LE(card.served["a"], 2000 * kMs + 10 * kMs + 50 * kMs);
  EXPECT_GE(card.served["a"], 2000 * kMs - 50 * kMs);
}

TEST(TurnQueue, AHigherClassGoesFirstAndLeavesTheRest) {
  Card card;
  card.Add("low", {9, 0, 0});
  card.Add("high", {1, 200, 1});
  EXPECT_TRUE(card.queue.HasClasses());
  EXPECT_TRUE(card.queue.Outranked("low", 0));
  EXPECT_FALSE(card.queue.Outranked("high", 0));
  card.RunUntil(10'000 * kMs);
  EXPECT_NEAR(static_cast<double>(card.served["high"]), 2000e6, 35e6);
  EXPECT_NEAR(static_cast<double>(card.served["low"]), 8000e6, 35e6);
}

TEST(TurnQueue, AShortAbsenceKeepsItsPlace) {
  for (const std::int64_t away : {20 * kMs, 300 * kMs}) {
    Card card;
    card.Add("a", {1, 0, 0});
    card.Add("b", {1, 0, 0});
    card.RunUntil(120 * kMs);
    card.queue.Leave("b", card.now);
    card.RunUntil(card.now + away);
    card.queue.Arrive("b", card.now);
    card.served.clear();
    card.RunUntil(card.now + 600 * kMs);
    const double due = away < kAbsenceNanos ? 300e6 + static_cast<double>(away) / 2 : 300e6;
    EXPECT_NEAR(static_cast<double>(card.served["b"]), due, kTurnNanosMax) << away;
  }
}

TEST(TurnQueue, TimeAloneCountsAgainstNobody) {
  Card card;
  card.Add("a", {1, 0, 0});
  card.queue.Set("b", {1, 0, 0}, 0);
  card.queue.ServeAlone("a", 3600'000 * kMs, card.now = 3600'000 * kMs);
  card.queue.Arrive("b", card.now);
  card.RunUntil(card.now + 1200 * kMs);
  EXPECT_NEAR(static_cast<double>(card.served["a"]), 600e6, kTurnNanosMax);
  EXPECT_NEAR(static_cast<double>(card.served["b"]), 600e6, kTurnNanosMax);
}

TEST(TurnQueue, TermsChangeLiveAndKeepTheDebt) {
  Card card;
  card.Add("a", {1, 0, 0});
  card.Add("b", {1, 0, 0});
  card.RunUntil(120 * kMs);
  card.queue.Set("a", {3, 0, 0}, card.now);
  card.served.clear();
  card.RunUntil(card.now + 1200 * kMs);
  EXPECT_NEAR(static_cast<double>(card.served["a"]), 900e6, kRoundNanos);
  card.queue.Set("a", {3, 100, 0}, card.now);
  card.served.clear();
  card.RunUntil(card.now + 1000 * kMs);
  EXPECT_NEAR(static_cast<double>(card.served["a"]), 100e6, kTurnNanosMax);
  card.queue.Set("a", {3, 0, 0}, card.now);
  card.served.clear();
  card.RunUntil(card.now + 1200 * kMs);
  EXPECT_NEAR(static_cast<double>(card.served["a"]), 900e6, kRoundNanos);
}

TEST(TurnQueue, ManyContendersHaveShortTurns) {
  Card card;
  for (int i = 0; i < 8; ++i) card.Add(std::to_string(i), {1, 0, 0});
  std::int64_t ignored = 0;
  EXPECT_EQ(card.queue.Next(0, &ignored)->turn_nanos, kRoundNanos / 8);
  for (int i = 4; i < 8; ++i) card.queue.Remove(std::to_string(i));
  EXPECT_EQ(card.queue.Next(0, &ignored)->turn_nanos, kTurnNanosMax) << "of four";
  for (int i = 1; i < 4; ++i) card.queue.Remove(std::to_string(i));
  EXPECT_EQ(card.queue.Next(0, &ignored)->turn_nanos, kTurnNanosMax);
}

TEST(TurnQueue, ALedTenantIsCalledNotPickedAndBoundsWhatItIsAhead) {
  Card card;
  card.Add("gang", {1, 0, 0});
  card.queue.SetLed("gang", true);
  std::int64_t look_again = 0;
  EXPECT_FALSE(card.queue.Next(0, &look_again)) << "another card calls it";
  EXPECT_FALSE(card.queue.Contended("one", 0));
  card.Add("one", {1, 0, 0});
  EXPECT_EQ(card.queue.Next(0, &look_again)->id, "one");
  EXPECT_TRUE(card.queue.MayBeCalled("gang", 0));
  card.queue.Charge("gang", kTurnNanosMax, card.now += kTurnNanosMax);
  EXPECT_TRUE(card.queue.MayBeCalled("gang", card.now)) << "one turn ahead";
  card.queue.Charge("gang", kTurnNanosMin, card.now += kTurnNanosMin);
  EXPECT_FALSE(card.queue.MayBeCalled("gang", card.now)) << "and no more";
  card.RunUntil(card.now + kTurnNanosMax);
  EXPECT_TRUE(card.queue.MayBeCalled("gang", card.now));
  // Nothing to do, or a higher class at work: no call.
  card.Add("high", {1, 0, 1});
  EXPECT_FALSE(card.queue.MayBeCalled("gang", card.now));
  card.queue.Leave("high", card.now);
  card.queue.Leave("gang", card.now);
  EXPECT_FALSE(card.queue.MayBeCalled("gang", card.now));
}

TEST(TurnQueue, WaitingForOtherCardsEarnsOneTurnAtMost) {
  Card card;
  card.Add("gang", {1, 0, 0});
  card.Add("one", {1, 0, 0});
  card.queue.SetLed("gang", true);
  card.RunUntil(1000 * kMs);
  EXPECT_EQ(card.served["gang"], 0);
  card.queue.CatchUp("gang");
  card.queue.SetLed("gang", false);
  card.served.clear();
  card.RunUntil(card.now + 200 * kMs);
  EXPECT_NEAR(static_cast<double>(card.served["one"]), 100e6, 1.5 * kTurnNanosMax);
}

// Whatever weights, caps, units and arrivals: over the whole of a busy stretch nobody uncapped
// strays from its part of what the capped leave by more than a turn and a unit each, no cap is
// passed, and the card is never idle while somebody may go.
TEST(TurnQueue, PropertiesOfRandomMixes) {
  Rng random(20261125);
  for (int round = 0; round < 200; ++round) {
    Card card;
    const int count = 2 + static_cast<int>(random.Below(7));
    std::vector<TurnTerms> terms;
    std::int64_t unit_max = 1;
    for (int i = 0; i < count; ++i) {
      TurnTerms one;
      one.weight = 1 + static_cast<std::uint32_t>(random.Below(9));
      if (random.Below(3) == 0)
        one.cap_permille = 50 + static_cast<std::uint32_t>(random.Below(900));
      terms.push_back(one);
      const std::string id = std::to_string(i);
      card.unit[id] = 1 + static_cast<std::int64_t>(random.Below(5'000'000));
      unit_max = std::max(unit_max, card.unit[id]);
      card.Add(id, one);
    }
    const std::int64_t span = 5000 * kMs;
    card.RunUntil(span);
    std::int64_t all = 0, uncapped_weight = 0, uncapped_served = 0;
    for (int i = 0; i < count; ++i) {
      const std::string id = std::to_string(i);
      all += card.served[id];
      if (terms[i].cap_permille == 0) {
        uncapped_weight += terms[i].weight;
        uncapped_served += card.served[id];
      } else {
        EXPECT_LE(card.served[id], terms[i].cap_permille * (span + kCapPeriodNanos) / 1000 +
                                       card.unit[id] + unit_max + kTurnNanosMax)
            << round;
      }
    }
    if (uncapped_weight == 0) continue;
    EXPECT_GE(all, span) << "work-conserving, round " << round;
    for (int i = 0; i < count; ++i) {
      if (terms[i].cap_permille != 0) continue;
      const double due = static_cast<double>(uncapped_served) * terms[i].weight /
                         static_cast<double>(uncapped_weight);
      EXPECT_NEAR(static_cast<double>(card.served[std::to_string(i)]), due,
                  2.0 * static_cast<double>(kTurnNanosMax + unit_max))
          << "round " << round << " tenant " << i;
    }
  }
}

}  // namespace
}  // namespace tessera::broker
