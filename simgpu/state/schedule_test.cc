#include "simgpu/state/schedule.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <set>
#include <vector>

namespace simgpu {
namespace {

constexpr uint64_t kMs = 1'000'000;
constexpr uint32_t kQueues = 5;  // slots the random tests use: below, between and above word limits
constexpr uint32_t kSlots[kQueues] = {0, 1, 63, 64, kSlotsMax - 1};

struct Free {
  void operator()(EngineWords* words) const { free(words); }
};
using Words = std::unique_ptr<EngineWords, Free>;
Words Fresh() { return Words(static_cast<EngineWords*>(calloc(1, sizeof(EngineWords)))); }

// Copies the part the random tests touch.
void CopyTouched(EngineWords* to, const EngineWords* from) {
  memcpy(to, from, offsetof(EngineWords, queues));
  for (uint32_t slot : kSlots) to->queues[slot] = from->queues[slot];
}

// All but the journal.
bool Same(const EngineWords& one, const EngineWords& other) {
  if (memcmp(&one, &other, offsetof(EngineWords, journal_count)) != 0) return false;
  return std::all_of(std::begin(kSlots), std::end(kSlots), [&](uint32_t slot) {
    return memcmp(&one.queues[slot], &other.queues[slot], sizeof(EngineQueue)) == 0;
  });
}

uint64_t Sum(const BusyBucket* buckets) {
  uint64_t sum = 0;
  for (uint32_t i = 0; i < kBuckets; ++i) sum += buckets[i].ns;
  return sum;
}

// What must hold between any two changes. `whole`: no ring ran over since the words were made.
void ExpectSound(const EngineWords& words, bool whole) {
  ASSERT_EQ(words.journal_count, 0u);
  uint64_t served = words.gone_served_ns;
  for (uint32_t slot : kSlots) {
    const EngineQueue& queue = words.queues[slot];
    ASSERT_LE(queue.forgotten, queue.position);
    const uint64_t own = queue.position - queue.forgotten;
    served += own;
    const bool work = queue.open != 0 || queue.submitted > queue.position;
    ASSERT_EQ(words.active[slot / 64] >> (slot % 64) & 1, work ? 1u : 0u) << slot;
    ASSERT_LE(queue.gates_next - queue.gates_first, kGatesMax);
    for (uint64_t i = queue.gates_first + 1; i < queue.gates_next; ++i) {
      ASSERT_LT(queue.gates[(i - 1) % kGatesMax].ready_ns, queue.gates[i % kGatesMax].ready_ns);
      ASSERT_LT(queue.gates[(i - 1) % kGatesMax].position, queue.gates[i % kGatesMax].position);
    }
    const uint64_t first = queue.grants_next > kGrantsMax ? queue.grants_next - kGrantsMax : 0;
    uint64_t granted = 0;
    for (uint64_t i = first; i < queue.grants_next; ++i) {
      const Grant& grant = queue.grants[i % kGrantsMax];
      granted += grant.length;
      if (i == first) continue;
      const Grant& before = queue.grants[(i - 1) % kGrantsMax];
      ASSERT_GE(before.end_ns, before.start_ns + before.length);
      ASSERT_GE(grant.start_ns, before.end_ns);
      ASSERT_GE(grant.before, before.before + before.length);
    }
    if (first == 0) {
      ASSERT_EQ(granted, own);
    }
    if (whole) {
      ASSERT_EQ(Sum(queue.buckets), own);
    }
  }
  ASSERT_EQ(served, words.busy_ns - words.mps_busy_ns + words.mps_served_ns);
  if (whole) {
    ASSERT_EQ(Sum(words.buckets), words.busy_ns);
  }
}

TEST(Schedule, AloneItIsServedWithoutABreak) {
  Words words = Fresh();
  Schedule schedule(words.get(), {.slice_ns = 2 * kMs, .switch_ns = 100'000, .copy_engines = 1});
  const uint64_t now = 700 * kMs;
  EXPECT_EQ(schedule.Submit(63, now, 0, 5 * kMs), 5 * kMs);
  EXPECT_EQ(schedule.Submit(63, now, 0, 20 * kMs), 25 * kMs);
  Engine::Progress progress = schedule.Look(63, now + 3 * kMs, 5 * kMs);
  EXPECT_FALSE(progress.finished);
  EXPECT_EQ(progress.look_again_ns, now + 5 * kMs);
  EXPECT_EQ(schedule.Look(63, now + 3 * kMs, 25 * kMs).look_again_ns, now + 25 * kMs);
  // Whoever looks late is told the same.
  for (const uint64_t late : {25 * kMs, 900 * kMs, 10'000 * kMs}) {
    progress = schedule.Look(63, now + late, 5 * kMs);
    EXPECT_TRUE(progress.finished);
    EXPECT_EQ(progress.at_ns, now + 5 * kMs);
    EXPECT_EQ(schedule.Look(63, now + late, 25 * kMs).at_ns, now + 25 * kMs);
    EXPECT_EQ(schedule.Look(63, now + late, 1).at_ns, now + 1);
  }
  EXPECT_EQ(words->busy_ns, 25 * kMs);
  EXPECT_EQ(words->switching_ns, 0u);
  EXPECT_EQ(words->queues[63].grants_next, 1u);
  ExpectSound(*words, false);
}

TEST(Schedule, LateWorkBeginsWhenItCouldHave) {
  Words words = Fresh();
  Schedule schedule(words.get(), {.slice_ns = 2 * kMs, .switch_ns = 100'000, .copy_engines = 1});
  const uint64_t now = 5'000 * kMs;
  const uint64_t first = schedule.Submit(0, now, now, kMs);
  // Its host thread came 3 ms late; others looked meanwhile.
  schedule.Play(now + 2 * kMs);
  const uint64_t second = schedule.Submit(0, now + 4 * kMs, now + kMs, kMs);
  EXPECT_EQ(schedule.Look(0, now + 4 * kMs, first).at_ns, now + kMs);
  EXPECT_EQ(schedule.Look(0, now + 4 * kMs, second).at_ns, now + 2 * kMs);
  EXPECT_EQ(words->queues[0].grants_next, 1u);
  // Never from before what is decided, and never from more than kLateMaxNs ago.
  const uint64_t third = schedule.Submit(0, now + 5 * kMs, now, kMs);
  EXPECT_EQ(schedule.Look(0, now + 5 * kMs, third).at_ns, now + 3 * kMs);
  const uint64_t fourth = schedule.Submit(0, now + 500 * kMs, now, kMs);
  EXPECT_EQ(schedule.Look(0, now + 500 * kMs, fourth).at_ns, now + 500 * kMs - kLateMaxNs + kMs);
  ExpectSound(*words, true);
}

TEST(Schedule, TurnsOfASliceWithASwitchBetween) {
  Words words = Fresh();
  Schedule schedule(words.get(), {.slice_ns = 2 * kMs, .switch_ns = kMs / 10, .copy_engines = 1});
  const uint64_t now = 1'000 * kMs;
  const uint64_t a = schedule.Submit(1, now, 0, 5 * kMs);
  const uint64_t b = schedule.Submit(63, now, 0, 3 * kMs);
  // a 2.0, switch, b 2.0, switch, a 2.0, switch, b 1.0 and dry, switch, a 1.0.
  const uint64_t ends_b = now + 73 * kMs / 10;
  const uint64_t ends_a = now + 84 * kMs / 10;
  EXPECT_EQ(schedule.Look(1, now, a).look_again_ns, ends_a);
  EXPECT_EQ(schedule.Look(63, now, b).look_again_ns, ends_b);
  EXPECT_EQ(schedule.Look(63, now + 30 * kMs, b).at_ns, ends_b);
  EXPECT_EQ(schedule.Look(1, now + 30 * kMs, a).at_ns, ends_a);
  EXPECT_EQ(words->busy_ns, 8 * kMs);
  EXPECT_EQ(words->switching_ns, 4 * kMs / 10);
  // The engine stands with a: coming back costs b a switch, also after a pause.
  const uint64_t c = schedule.Submit(63, now + 50 * kMs, 0, kMs);
  EXPECT_EQ(schedule.Look(63, now + 60 * kMs, c).at_ns, now + 50 * kMs + kMs / 10 + kMs);
  ExpectSound(*words, true);
}

TEST(Schedule, ANewcomerWaitsForTheSliceAndNoLonger) {
  Words words = Fresh();
  Schedule schedule(words.get(), {.slice_ns = 2 * kMs, .switch_ns = 0, .copy_engines = 1});
  const uint64_t now = 1'000 * kMs;
  schedule.Submit(0, now, 0, 100 * kMs);
  // In the middle of the first slice.
  const uint64_t b = schedule.Submit(1, now + kMs, 0, kMs);
  EXPECT_EQ(schedule.Look(1, now + kMs, b).look_again_ns, now + 3 * kMs);
  EXPECT_EQ(schedule.Look(1, now + 10 * kMs, b).at_ns, now + 3 * kMs);
  // Alone beyond its slice: whoever comes is served at once.
  const uint64_t c = schedule.Submit(1, now + 20 * kMs, 0, kMs);
  EXPECT_EQ(schedule.Look(1, now + 30 * kMs, c).at_ns, now + 21 * kMs);
}

TEST(Schedule, WorkIsNotServedBeforeItIsReady) {
  Words words = Fresh();
  Schedule schedule(words.get(), {.slice_ns = 2 * kMs, .switch_ns = 0, .copy_engines = 1});
  const uint64_t now = 1'000 * kMs;
  const uint64_t a = schedule.Submit(0, now, now + 10 * kMs, kMs);
  // Behind it in the same line, though ready.
  const uint64_t b = schedule.Submit(0, now, 0, kMs);
  const uint64_t c = schedule.Submit(0, now, now + 50 * kMs, kMs);
  EXPECT_EQ(schedule.Look(0, now, a).look_again_ns, now + 11 * kMs);
  EXPECT_EQ(schedule.Look(0, now, b).look_again_ns, now + 12 * kMs);
  EXPECT_EQ(schedule.Look(0, now, c).look_again_ns, now + 51 * kMs);
  // Somebody else uses the time.
  const uint64_t d = schedule.Submit(1, now + kMs, 0, 3 * kMs);
  EXPECT_EQ(schedule.Look(1, now + 4 * kMs, d).at_ns, now + 4 * kMs);
  EXPECT_FALSE(schedule.Look(0, now + 11 * kMs - 1, a).finished);
  EXPECT_EQ(schedule.Look(0, now + 100 * kMs, a).at_ns, now + 11 * kMs);
  EXPECT_EQ(schedule.Look(0, now + 100 * kMs, b).at_ns, now + 12 * kMs);
  EXPECT_EQ(schedule.Look(0, now + 100 * kMs, c).at_ns, now + 51 * kMs);
  ExpectSound(*words, true);
}

TEST(Schedule, MoreReadyTimesThanRemembered) {
  Words words = Fresh();
  Schedule schedule(words.get(), {.slice_ns = 2 * kMs, .switch_ns = 0, .copy_engines = 1});
  const uint64_t now = 1'000 * kMs;
  std::vector<uint64_t> ends;
  for (uint64_t i = 0; i < 2 * kGatesMax; ++i) {
    ends.push_back(schedule.Submit(0, now, now + (i + 1) * kMs, 1000));
  }
  for (uint64_t i = 0; i < ends.size(); ++i) {
    const uint64_t at = schedule.Look(0, now + 1'000 * kMs, ends[i]).at_ns;
    // Never sooner than it could; exact as far as they are remembered.
    EXPECT_GE(at, now + (i + 1) * kMs + 1000);
    if (i + 1 < kGatesMax) {
      EXPECT_EQ(at, now + (i + 1) * kMs + 1000);
    }
  }
  ExpectSound(*words, true);
}

TEST(Schedule, OpenWorkTakesWhatItWasServed) {
  Words words = Fresh();
  Schedule schedule(words.get(), {.slice_ns = 2 * kMs, .switch_ns = 0, .copy_engines = 1});
  const uint64_t now = 1'000 * kMs;
  uint64_t begin = schedule.Begin(0, now, 0);
  uint64_t end = schedule.End(0, now + 3 * kMs, begin, kMs);
  EXPECT_EQ(end, 3 * kMs);
  EXPECT_EQ(schedule.Look(0, now + 3 * kMs, end).at_ns, now + 3 * kMs);
  // Done sooner by the host than the card would have: the rest is served after.
  begin = schedule.Begin(0, now + 5 * kMs, 0);
  end = schedule.End(0, now + 6 * kMs, begin, 4 * kMs);
  EXPECT_EQ(schedule.Look(0, now + 6 * kMs, end).look_again_ns, now + 9 * kMs);
  EXPECT_EQ(schedule.Look(0, now + 20 * kMs, end).at_ns, now + 9 * kMs);
  // While somebody else is served, it is not.
  begin = schedule.Begin(0, now + 20 * kMs, 0);
  schedule.Submit(1, now + 20 * kMs, 0, 2 * kMs);
  end = schedule.End(0, now + 25 * kMs, begin, 0);
  EXPECT_EQ(end - begin, 3 * kMs);
  // What was submitted meanwhile is served in full too.
  begin = schedule.Begin(0, now + 30 * kMs, now + 40 * kMs);
  const uint64_t known = schedule.Submit(0, now + 30 * kMs, 0, kMs);
  end = schedule.End(0, now + 35 * kMs, begin, 2 * kMs);
  EXPECT_EQ(schedule.Look(0, now + 90 * kMs, known).at_ns, now + 41 * kMs);
  EXPECT_EQ(schedule.Look(0, now + 90 * kMs, end).at_ns, now + 43 * kMs);
  EXPECT_FALSE(schedule.Waiting(0));
  // Overlapping ones end each by itself.
  begin = schedule.Begin(0, now + 100 * kMs, 0);
  const uint64_t other = schedule.Begin(0, now + 100 * kMs, 0);
  schedule.End(0, now + 101 * kMs, begin, 0);
  EXPECT_TRUE(schedule.Waiting(0));
  schedule.End(0, now + 103 * kMs, other, 0);
  EXPECT_FALSE(schedule.Waiting(0));
  EXPECT_EQ(words->queues[0].position, other + 3 * kMs);
  ExpectSound(*words, true);
}

TEST(Schedule, ForgottenWorkIsFinishedAndNotServed) {
  Words words = Fresh();
  Schedule schedule(words.get(), {.slice_ns = 2 * kMs, .switch_ns = 0, .copy_engines = 1});
  const uint64_t now = 1'000 * kMs;
  const uint64_t a = schedule.Submit(0, now, 0, kMs);
  const uint64_t b = schedule.Submit(0, now, 0, 10 * kMs);
  schedule.Submit(0, now, now + 200 * kMs, 10 * kMs);
  schedule.Cancel(0, now + 4 * kMs);
  EXPECT_EQ(schedule.Look(0, now + 9 * kMs, a).at_ns, now + kMs);
  EXPECT_TRUE(schedule.Look(0, now + 9 * kMs, b).finished);
  EXPECT_EQ(schedule.Look(0, now + 9 * kMs, b).at_ns, now + 4 * kMs);
  EXPECT_EQ(schedule.Served(0), 4 * kMs);
  EXPECT_FALSE(schedule.Waiting(0));
  const uint64_t c = schedule.Submit(0, now + 10 * kMs, 0, kMs);
  EXPECT_EQ(schedule.Look(0, now + 20 * kMs, c).at_ns, now + 11 * kMs);
  EXPECT_EQ(words->busy_ns, 5 * kMs);
  schedule.Retire(0);
  EXPECT_EQ(words->gone_served_ns, 5 * kMs);
  EXPECT_EQ(words->queues[0].submitted, 0u);
  ExpectSound(*words, false);
}

TEST(Schedule, APositionOlderThanTheRingIsNotToldTooEarly) {
  Words words = Fresh();
  Schedule schedule(words.get(), {.slice_ns = 2 * kMs, .switch_ns = 0, .copy_engines = 1});
  uint64_t now = 1'000 * kMs;
  const uint64_t first = schedule.Submit(0, now, 0, 10);
  for (uint32_t i = 0; i < kGrantsMax; ++i) schedule.Submit(0, now += kMs, 0, 10);
  EXPECT_EQ(schedule.Look(0, now + kMs, first).at_ns, 1'001 * kMs);  // truly at 1000 ms + 10
  EXPECT_EQ(schedule.Look(0, now + kMs, first + 10).at_ns, 1'001 * kMs + 10);
}

TEST(Schedule, CopiesQueueByLane) {
  const uint64_t now = 1'000 * kMs;
  for (const uint32_t engines : {0u, 1u, 2u, 3u, 5u}) {
    Words words = Fresh();
    Schedule schedule(words.get(), {.slice_ns = 2 * kMs, .switch_ns = 0, .copy_engines = engines});
    EXPECT_EQ(schedule.Copy(0, now, CopyLane::kToDevice, 0, 3 * kMs), now + 3 * kMs);
    EXPECT_EQ(schedule.Copy(1, now, CopyLane::kToDevice, now + kMs, kMs), now + 4 * kMs);
    EXPECT_EQ(schedule.Copy(1, now, CopyLane::kFromDevice, 0, kMs),
              engines >= 2 ? now + kMs : now + 5 * kMs);
    EXPECT_EQ(schedule.Copy(1, now, CopyLane::kOnDevice, now + 2 * kMs, kMs),
              engines >= 3   ? now + 3 * kMs
              : engines == 2 ? now + 5 * kMs
                             : now + 6 * kMs);
    // Ready later than free.
    EXPECT_EQ(schedule.Copy(1, now, CopyLane::kToDevice, now + 50 * kMs, kMs), now + 51 * kMs);
    EXPECT_EQ(words->queues[0].copied_ns, 3 * kMs);
    EXPECT_EQ(words->queues[1].copied_ns, 4 * kMs);
    EXPECT_EQ(words->busy_ns, 0u);
  }
}

TEST(Schedule, CopiesOfTheDeadAndTheCancelledFreeTheLane) {
  Words words = Fresh();
  std::set<uint32_t> dead;
  Schedule schedule(
      words.get(), {.slice_ns = 2 * kMs, .switch_ns = 0, .copy_engines = 2},
      [](void* context, uint32_t slot) {
        return !static_cast<std::set<uint32_t>*>(context)->contains(slot);
      },
      &dead);
  const uint64_t now = 1'000 * kMs;
  schedule.Copy(0, now, CopyLane::kToDevice, 0, 1'000 * kMs);
  schedule.Copy(63, now, CopyLane::kToDevice, 0, 1'000 * kMs);
  EXPECT_EQ(schedule.Copy(1, now + 500 * kMs, CopyLane::kToDevice, 0, kMs), now + 2'001 * kMs);
  schedule.Cancel(1, now + 501 * kMs);
  EXPECT_EQ(words->copy_free_ns[0], now + 2'000 * kMs);
  dead = {63};
  EXPECT_EQ(schedule.Copy(1, now + 502 * kMs, CopyLane::kToDevice, 0, kMs), now + 1'001 * kMs);
  schedule.Cancel(0, now + 503 * kMs);
  // A promise given is kept.
  EXPECT_EQ(schedule.Copy(0, now + 504 * kMs, CopyLane::kToDevice, 0, kMs), now + 1'002 * kMs);
  EXPECT_EQ(schedule.Copy(0, now + 504 * kMs, CopyLane::kFromDevice, 0, kMs), now + 505 * kMs);
}

// Owners that are silent are asked for; the dead are dropped and cost no turn.
TEST(Schedule, TheDeadAreDroppedTheStoppedAreServed) {
  Words words = Fresh();
  struct Living {
    std::set<uint32_t> dead;
    int asked = 0;
  } living;
  Schedule schedule(
      words.get(), {.slice_ns = 2 * kMs, .switch_ns = kMs / 10, .copy_engines = 1},
      [](void* context, uint32_t slot) {
        auto* all = static_cast<Living*>(context);
        ++all->asked;
        return !all->dead.contains(slot);
      },
      &living);
  const uint64_t now = 1'000 * kMs;
  schedule.Submit(0, now, 0, 400 * kMs);
  schedule.Begin(1, now, 0);
  schedule.Submit(63, now, 0, 400 * kMs);
  schedule.Play(now + 90 * kMs);
  EXPECT_EQ(living.asked, 0);
  living.dead = {1};
  schedule.Play(now + 200 * kMs);
  // Once each; then not again for kAskAliveNs.
  EXPECT_EQ(living.asked, 3);
  EXPECT_FALSE(schedule.Waiting(1));
  EXPECT_LE(schedule.Served(1), 32 * kMs);
  schedule.Play(now + 250 * kMs);
  EXPECT_EQ(living.asked, 3);
  const uint64_t before = schedule.Served(0) + schedule.Served(63);
  schedule.Play(now + 271 * kMs);
  // Two turns of 2.1 ms each, five times.
  EXPECT_EQ(schedule.Served(0) + schedule.Served(63) - before, 20 * kMs);
  schedule.Play(now + 10'000 * kMs);
  EXPECT_EQ(schedule.Served(0), 400 * kMs);
  EXPECT_EQ(schedule.Served(63), 400 * kMs);
  ExpectSound(*words, false);
}

TEST(Schedule, ALongTimeIsPlayedInPortions) {
  const Schedule::Rules rules = {.slice_ns = 2 * kMs, .switch_ns = kMs / 10};
  Words whole = Fresh();
  Words portions = Fresh();
  const uint64_t now = 1'000 * kMs;
  for (EngineWords* words : {whole.get(), portions.get()}) {
    Schedule schedule(words, rules);
    for (const uint32_t slot : kSlots) schedule.Begin(slot, now, 0);
  }
  Schedule(whole.get(), rules).Play(now + 60'000 * kMs);
  int times = 1;
  while (!Schedule(portions.get(), rules).Play(now + 60'000 * kMs, 1000)) ++times;
  EXPECT_GT(times, 50);
  EXPECT_TRUE(Same(*whole, *portions));
  EXPECT_EQ(whole->busy_ns + whole->switching_ns, 60'000 * kMs);
}

TEST(Schedule, RecentTimeIsCutByTheWindow) {
  Words words = Fresh();
  Schedule schedule(words.get(), {.slice_ns = 2 * kMs, .switch_ns = 0, .copy_engines = 1});
  const uint64_t now = 8 * kBucketNs;
  schedule.Submit(0, now, 0, 4 * kBucketNs);
  schedule.Play(now + 8 * kBucketNs);
  EXPECT_EQ(Schedule::Recent(words->buckets, now + 8 * kBucketNs, 8 * kBucketNs), 4 * kBucketNs);
  EXPECT_EQ(Schedule::Recent(words->buckets, now + 8 * kBucketNs, 5 * kBucketNs), kBucketNs);
  EXPECT_EQ(Schedule::Recent(words->buckets, now + 8 * kBucketNs, 9 * kBucketNs / 2),
            kBucketNs / 2);
  EXPECT_EQ(Schedule::Recent(words->buckets, now + 8 * kBucketNs, 4 * kBucketNs), 0u);
  EXPECT_EQ(Schedule::Recent(words->queues[0].buckets, now + 2 * kBucketNs, kBucketNs), kBucketNs);
}

// ---- MPS clients ----

constexpr Schedule::Rules kRules = {.slice_ns = 2 * kMs, .switch_ns = kMs / 10, .copy_engines = 1};

TEST(ScheduleMps, ALoneClientRunsAtItsPercentage) {
  Words words = Fresh();
  Schedule schedule(words.get(), kRules);
  const uint64_t now = 700 * kMs;
  ASSERT_TRUE(schedule.SetPercentage(63, now, 300));
  const uint64_t wide = schedule.Submit(63, now, 0, 3 * kMs);
  EXPECT_EQ(schedule.Look(63, now + 1, wide).look_again_ns, now + 10 * kMs);
  EXPECT_FALSE(schedule.Look(63, now + 10 * kMs - 1, wide).finished);
  EXPECT_EQ(schedule.Look(63, now + 50 * kMs, wide).at_ns, now + 10 * kMs);
  // Work no wider than its part runs as if it had the card.
  const uint64_t narrow = schedule.Submit(63, now + 50 * kMs, 0, 3 * kMs, 300);
  EXPECT_EQ(schedule.Look(63, now + 90 * kMs, narrow).at_ns, now + 53 * kMs);
  EXPECT_EQ(words->busy_ns, 13 * kMs);
  EXPECT_EQ(words->mps_served_ns, 6 * kMs);
  EXPECT_EQ(words->switching_ns, 0u);
  ExpectSound(*words, true);
}

TEST(ScheduleMps, ClientsRunAtTheSameTimeAndKeepTheirParts) {
  Words words = Fresh();
  Schedule schedule(words.get(), kRules);
  const uint64_t now = 1'000 * kMs;
  ASSERT_TRUE(schedule.SetPercentage(1, now, 700));
  ASSERT_TRUE(schedule.SetPercentage(64, now, 300));
  const uint64_t a = schedule.Submit(1, now, 0, 70 * kMs);
  const uint64_t b = schedule.Submit(64, now, 0, 70 * kMs);
  schedule.Play(now + 100 * kMs);
  EXPECT_EQ(schedule.Served(1), 70 * kMs);
  EXPECT_EQ(schedule.Served(64), 30 * kMs);
  EXPECT_EQ(schedule.Look(1, now + 100 * kMs, a).at_ns, now + 100 * kMs);
  // What the other leaves is not taken: a percentage is a part of the card, not of who works.
  const uint64_t end = now + 234 * kMs;
  EXPECT_EQ(schedule.Look(64, end, b).at_ns, now + (700 * kMs + 2) / 3);
  EXPECT_EQ(words->switching_ns, 0u);
  ExpectSound(*words, true);
}

// Turns would take the sum of both; side by side they take the longer of the two.
TEST(ScheduleMps, WorkThatDoesNotFillTheCardGainsByCompany) {
  for (const bool clients : {false, true}) {
    Words words = Fresh();
    Schedule schedule(words.get(), kRules);
    const uint64_t now = 1'000 * kMs;
    if (clients) {
      ASSERT_TRUE(schedule.SetPercentage(0, now, 500));
      ASSERT_TRUE(schedule.SetPercentage(1, now, 500));
    }
    const uint64_t a = schedule.Submit(0, now, 0, 20 * kMs, 250);
    const uint64_t b = schedule.Submit(1, now, 0, 20 * kMs, 500);
    const uint64_t late = now + 100 * kMs;
    const uint64_t end =
        std::max(schedule.Look(0, late, a).at_ns, schedule.Look(1, late, b).at_ns) - now;
    if (clients) {
      EXPECT_EQ(end, 20 * kMs);
      EXPECT_EQ(words->mps_busy_ns, 20 * kMs);
      EXPECT_EQ(words->mps_served_ns, 40 * kMs);
    } else {
      EXPECT_GT(end, 40 * kMs);
    }
    ExpectSound(*words, true);
  }
}

TEST(ScheduleMps, MoreThanTheCardSlowsAllAlike) {
  Words words = Fresh();
  Schedule schedule(words.get(), kRules);
  const uint64_t now = 1'000 * kMs;
  for (const uint32_t slot : {0u, 1u, 63u}) {
    ASSERT_TRUE(schedule.SetPercentage(slot, now, slot == 0 ? 1000 : 500));
    schedule.Submit(slot, now, 0, 1'000 * kMs);
  }
  schedule.Play(now + 100 * kMs);
  EXPECT_EQ(schedule.Served(0), 50 * kMs);
  EXPECT_EQ(schedule.Served(1), 25 * kMs);
  EXPECT_EQ(schedule.Served(63), 25 * kMs);
  ExpectSound(*words, true);
}

// On a card whose compute mode lets others in, all clients together are one of its processes.
TEST(ScheduleMps, ClientsAreOnePartyOfTheRoundRobin) {
  Words words = Fresh();
  Schedule schedule(words.get(), kRules);
  const uint64_t now = 1'000 * kMs;
  ASSERT_TRUE(schedule.SetPercentage(0, now, 500));
  ASSERT_TRUE(schedule.SetPercentage(63, now, 500));
  for (const uint32_t slot : {0u, 1u, 63u}) schedule.Submit(slot, now, 0, 10'000 * kMs);
  schedule.Play(now + 4'200 * kMs);
  EXPECT_NEAR(static_cast<double>(schedule.Served(1)), 2e9, 3e6);
  EXPECT_NEAR(static_cast<double>(schedule.Served(0)), 1e9, 2e6);
  EXPECT_EQ(schedule.Served(0), schedule.Served(63));
  ExpectSound(*words, false);
}

TEST(ScheduleMps, TheServerIsFullAtItsBoundAndTheDeadMakeRoom) {
  Words words = Fresh();
  std::set<uint32_t> dead;
  Schedule schedule(
      words.get(), kRules,
      [](void* context, uint32_t slot) {
        return !static_cast<std::set<uint32_t>*>(context)->contains(slot);
      },
      &dead);
  for (uint32_t slot = 0; slot < kMpsClientsMax; ++slot) {
    ASSERT_TRUE(schedule.SetPercentage(slot, kMs, 10));
    schedule.Submit(slot, kMs, 0, kMs);
  }
  EXPECT_FALSE(schedule.SetPercentage(kMpsClientsMax, kMs, 10));
  EXPECT_TRUE(schedule.SetPercentage(3, kMs, 20)) << "one of them may change";
  // All end in one change of the words.
  schedule.Play(200 * kMs);
  EXPECT_EQ(words->mps_served_ns, kMpsClientsMax * kMs);
  dead = {0, 7};
  EXPECT_TRUE(schedule.SetPercentage(kMpsClientsMax, 300 * kMs, 10));
  EXPECT_TRUE(schedule.SetPercentage(kMpsClientsMax + 1, 300 * kMs, 10));
  EXPECT_FALSE(schedule.SetPercentage(kMpsClientsMax + 2, 300 * kMs, 10));
  EXPECT_FALSE(schedule.IsClient(7));
}

// The rules once more, too simple to be wrong: one nanosecond after the other, work as a list.
class Reference {
 public:
  Reference(uint64_t slice, uint64_t turn) : slice_(slice), switch_(turn) {}

  void Submit(uint32_t queue, uint64_t now, uint64_t ready, uint64_t length, uint64_t end) {
    Play(now);
    // A line: nobody in it is ready before who stands in front.
    uint64_t& last = ready_[queue];
    last = std::max(last, ready == 0 ? now : ready);
    work_[queue].push_back({last, length, end});
  }
  void Cancel(uint32_t queue, uint64_t now) {
    Play(now);
    for (const Work& one : work_[queue]) finished_[queue].push_back({one.end, at_});
    work_[queue].clear();
    ready_[queue] = 0;
  }
  void Play(uint64_t now) {
    while (at_ < now) {
      if (at_ < switch_end_) {
        ++switching;
        ++at_;
        continue;
      }
      uint32_t next = kQueues;
      bool later = false;
      for (uint32_t i = 1; i <= kQueues; ++i) {
        const uint32_t queue = (current_ + i) % kQueues;
        if (work_[queue].empty()) continue;
        if (work_[queue].front().ready < now) later = true;
        if (next == kQueues && work_[queue].front().ready <= at_) next = queue;
      }
      if (next == kQueues) {
        if (!later) return;
        ++at_;
        slice_end_ = at_ + slice_;
        continue;
      }
      const bool own = !nobody_ && !work_[current_].empty() && work_[current_].front().ready <= at_;
      if (own && at_ < slice_end_) next = current_;
      if (next != current_ || nobody_) {
        switch_end_ = nobody_ ? at_ : at_ + switch_;
        slice_end_ = switch_end_ + slice_;
        current_ = next;
        nobody_ = false;
        continue;
      }
      ++at_;
      ++busy;
      ++served[next];
      Work& work = work_[next].front();
      if (--work.length == 0) {
        finished_[next].push_back({work.end, at_});
        work_[next].pop_front();
      }
    }
  }
  uint64_t FinishedAt(uint32_t queue, uint64_t end) const {
    for (const auto& [position, at] : finished_[queue]) {
      if (position == end) return at;
    }
    return 0;
  }

  uint64_t busy = 0;
  uint64_t switching = 0;
  uint64_t served[kQueues] = {};

  void BeginAt(uint64_t at) { at_ = at; }

 private:
  struct Work {
    uint64_t ready;
    uint64_t length;
    uint64_t end;
  };
  uint64_t slice_, switch_;
  uint64_t at_ = 0;
  uint64_t slice_end_ = 0;
  uint64_t switch_end_ = 0;
  uint32_t current_ = kQueues - 1;
  bool nobody_ = true;
  uint64_t ready_[kQueues] = {};
  std::deque<Work> work_[kQueues];
  std::vector<std::pair<uint64_t, uint64_t>> finished_[kQueues];
};

TEST(ScheduleProperty, AgreesWithTheRulesTakenNanosecondByNanosecond) {
  for (uint32_t seed = 0; seed < 800; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const uint64_t slice = 1 + random() % 30;
    const uint64_t turn = random() % 6;
    Words words = Fresh();
    Schedule schedule(words.get(), {.slice_ns = slice, .switch_ns = turn, .copy_engines = 1});
    Reference reference(slice, turn);
    // So that a bucket's end is crossed.
    uint64_t now = 3 * kBucketNs - random() % 1000;
    words->at_ns = now;
    reference.BeginAt(now);
    std::vector<std::pair<uint32_t, uint64_t>> ends;
    for (int step = 0; step < 40; ++step) {
      now += random() % 3 == 0 ? 0 : random() % 80;
      const uint32_t queue = random() % kQueues;
      if (random() % 12 == 0) {
        schedule.Cancel(kSlots[queue], now);
        reference.Cancel(queue, now);
      } else {
        const uint64_t ready = random() % 3 == 0 ? 0 : now - 60 + random() % 100;
        const uint64_t length = 1 + random() % 60;
        const uint64_t end = schedule.Submit(kSlots[queue], now, ready, length);
        reference.Submit(queue, now, ready, length, end);
        ends.emplace_back(queue, end);
      }
      ASSERT_EQ(words->busy_ns, reference.busy);
      ASSERT_EQ(words->switching_ns, reference.switching);
      for (uint32_t i = 0; i < kQueues; ++i) {
        ASSERT_EQ(schedule.Served(kSlots[i]), reference.served[i]) << i;
      }
      ExpectSound(*words, true);
      if (HasFatalFailure()) return;
    }
    now += 100'000;
    schedule.Play(now);
    reference.Play(now);
    for (const auto& [queue, end] : ends) {
      const Engine::Progress progress = schedule.Look(kSlots[queue], now, end);
      ASSERT_TRUE(progress.finished);
      if (words->queues[kSlots[queue]].grants_next <= kGrantsMax) {
        ASSERT_EQ(progress.at_ns, reference.FinishedAt(queue, end));
      } else {
        ASSERT_GE(progress.at_ns, reference.FinishedAt(queue, end));
      }
    }
  }
}

// A random life of a card. `looks` draws moments at which somebody merely looks.
void Live(Schedule* schedule, uint32_t seed, std::mt19937* looks, uint64_t* now,
          const std::function<void(const std::function<void(Schedule*)>&)>& change) {
  std::mt19937 random(seed);
  std::vector<std::shared_ptr<uint64_t>> begun[kQueues];
  for (int step = 0; step < 60; ++step) {
    const uint64_t next = *now + random() % 2000;
    while (looks != nullptr && (*looks)() % 3 != 0 && *now < next) {
      *now += (*looks)() % (next - *now) + 1;
      if ((*looks)() % 2 == 0) {
        schedule->Play(*now);
      } else {
        schedule->Look(kSlots[(*looks)() % kQueues], *now, (*looks)() % 4000);
      }
    }
    *now = next;
    const uint32_t queue = random() % kQueues;
    const uint32_t slot = kSlots[queue];
    const uint64_t ready = random() % 2 == 0 ? 0 : next - 1000 + random() % 3000;
    const uint64_t length = random() % 2500;
    const uint32_t width = random() % 1100;
    const uint32_t permille = random() % 4 == 0 ? 0 : 1 + random() % 1000;
    switch (random() % 12) {
      case 0:
        change([=](Schedule* s) { s->Cancel(slot, next); });
        break;
      case 11:
        change([=](Schedule* s) { s->SetPercentage(slot, next, permille); });
        break;
      case 1:
        change([=](Schedule* s) {
          s->Play(next);
          s->Retire(slot);
        });
        begun[queue].clear();
        break;
      case 2:
      case 3:
        begun[queue].push_back(std::make_shared<uint64_t>(0));
        change([=, begin = begun[queue].back()](Schedule* s) {
          *begin = s->Begin(slot, next, ready, width);
        });
        break;
      case 4:
      case 5:
        if (!begun[queue].empty()) {
          const uint64_t begin = *begun[queue].back();
          begun[queue].pop_back();
          change([=](Schedule* s) { s->End(slot, next, begin, length); });
        }
        break;
      case 6:
        change([=](Schedule* s) {
          s->Copy(slot, next, static_cast<CopyLane>(length % 3), ready, length);
        });
        break;
      default:
        change([=](Schedule* s) { s->Submit(slot, next, ready, length, width); });
    }
  }
}

TEST(ScheduleProperty, LookingChangesNothing) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(seed);
    const Schedule::Rules rules = {.slice_ns = 50 + seed % 700, .switch_ns = seed % 50};
    Words plain = Fresh();
    Words watched = Fresh();
    for (EngineWords* words : {plain.get(), watched.get()}) {
      Schedule schedule(words, rules);
      std::mt19937 looks(seed + 1);
      uint64_t now = 5 * kBucketNs - 30'000;
      Live(&schedule, seed, words == plain.get() ? nullptr : &looks, &now,
           [&](const std::function<void(Schedule*)>& change) { change(&schedule); });
      schedule.Play(now + 200'000);
      ExpectSound(*words, false);
      // Who was last known to live is not part of the schedule.
      for (uint32_t slot : kSlots) words->queues[slot].seen_ns = 0;
    }
    if (HasFatalFailure()) return;
    ASSERT_TRUE(Same(*plain, *watched));
  }
}

// Every single store of every change is once the last one before the process dies.
TEST(ScheduleProperty, WhoeverDiesAtAnyStoreLeavesItWhole) {
  uint64_t deaths = 0;
  for (uint32_t seed = 0; seed < 10; ++seed) {
    SCOPED_TRACE(seed);
    const Schedule::Rules rules = {.slice_ns = 50 + seed * 100, .switch_ns = seed % 50};
    Words words = Fresh();
    Words copy = Fresh();
    Words without = Fresh();
    Words with = Fresh();
    Schedule schedule(words.get(), rules);
    uint64_t now = 5 * kBucketNs - 30'000;
    Live(&schedule, seed, nullptr, &now, [&](const std::function<void(Schedule*)>& change) {
      if (testing::Test::HasFatalFailure()) return;
      CopyTouched(without.get(), words.get());
      Schedule(without.get(), rules).Play(now);
      CopyTouched(with.get(), words.get());
      Schedule changed(with.get(), rules);
      change(&changed);
      changed.Play(now);
      bool died = true;
      for (uint64_t stores = 0; died; ++stores) {
        CopyTouched(copy.get(), words.get());
        Schedule victim(copy.get(), rules);
        victim.StopAfter(stores);
        change(&victim);
        died = victim.stores_left() == 0;
        deaths += died;
        Schedule heir(copy.get(), rules);
        heir.Repair();
        ExpectSound(*copy, false);
        heir.Play(now);
        // The change took place whole or not at all, and what was to be played was.
        ASSERT_TRUE(Same(*copy, *without) || Same(*copy, *with)) << stores;
      }
      change(&schedule);
    });
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(deaths, 10'000u);
}

// Queues that always have work are never further apart than a slice, wherever one looks.
TEST(ScheduleProperty, AlwaysBusyQueuesAreServedAlike) {
  for (uint32_t seed = 0; seed < 50; ++seed) {
    std::mt19937 random(seed);
    const uint64_t slice = 1000 + random() % 5000;
    Words words = Fresh();
    Schedule schedule(words.get(), {.slice_ns = slice, .switch_ns = random() % 500});
    uint64_t now = kBucketNs;
    for (uint32_t slot : kSlots) schedule.Submit(slot, now, 0, 1'000'000'000);
    for (int look = 0; look < 200; ++look) {
      schedule.Play(now += random() % (4 * slice));
      uint64_t least = UINT64_MAX;
      uint64_t most = 0;
      for (uint32_t slot : kSlots) {
        least = std::min(least, schedule.Served(slot));
        most = std::max(most, schedule.Served(slot));
      }
      ASSERT_LE(most - least, slice);
      // Nothing is lost: busy or switching all the time.
      ASSERT_EQ(words->busy_ns + words->switching_ns, now - kBucketNs);
    }
  }
}

// When nothing changes, it is told to the nanosecond when work will be finished.
TEST(ScheduleProperty, ForesightIsExactUnlessSomethingChanges) {
  uint64_t asked = 0;
  for (uint32_t seed = 0; seed < 600; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const Schedule::Rules rules = {.slice_ns = 100 + random() % 3000, .switch_ns = random() % 200};
    Words words = Fresh();
    Words future = Fresh();
    Schedule schedule(words.get(), rules);
    uint64_t now = kBucketNs + random() % 10'000;
    std::vector<std::pair<uint32_t, uint64_t>> ends;
    for (int i = 0; i < 12; ++i) {
      const uint32_t slot = kSlots[random() % kQueues];
      ends.emplace_back(slot, schedule.Submit(slot, now, 0, 1 + random() % (10 * rules.slice_ns)));
      now += random() % 3000;
      for (const auto& [who, end] : ends) {
        const Engine::Progress progress = schedule.Look(who, now, end);
        if (progress.finished) continue;
        ++asked;
        CopyTouched(future.get(), words.get());
        Schedule then(future.get(), rules);
        ASSERT_EQ(progress.look_again_ns, then.Look(who, now + 100'000'000, end).at_ns);
      }
    }
  }
  EXPECT_GT(asked, 5000u);
}

}  // namespace
}  // namespace simgpu
