// Turns as the pages show them, with guests that do nothing but follow the protocol of
// wire/pages.h. The order of events is what is tested; a slow machine makes it slow, not wrong.
#include "broker/turns.h"

#include <gtest/gtest.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <thread>

#include "os/files.h"

namespace tessera::broker {
namespace {

CardLimits Card(const std::string& uuid, std::uint32_t weight, std::uint32_t priority = 0) {
  return {uuid, 1 << 20, 0, 1 << 20, 0, 4096, 500, weight, priority};
}

void Nap(long micros) { usleep(static_cast<useconds_t>(micros)); }

class TurnsTest : public testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/tuXXXXXX";
    ASSERT_NE(mkdtemp(folder), nullptr);
    folder_ = folder;
    store_ = std::make_unique<SliceStore>(os::PosixFiles(), folder_);
    ASSERT_TRUE(store_->Prepare());
  }
  void TearDown() override {
    turns_.reset();
    slices_.clear();
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  // A slice as its one process sees it.
  struct Slice {
    std::string id;
    std::unique_ptr<SlicePages> pages;

    std::uint32_t Gate(std::uint32_t card) const {
      return __atomic_load_n(&pages->control().cards[card].gate, __ATOMIC_SEQ_CST);
    }
    bool Granted(std::uint32_t card) const { return (Gate(card) & wire::kGateGranted) != 0; }
    void Announce(std::uint32_t card) const {
      std::uint32_t* const arrivals = &pages->usage().cards[card].arrivals;
      __atomic_add_fetch(arrivals, 1, __ATOMIC_SEQ_CST);
      syscall(SYS_futex, arrivals, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
    }
    wire::StreamMarks& Marks(std::uint32_t card) const {
      return pages->usage().slots[0].marks[card];
    }
  };

  Slice* Add(const std::string& id, const std::vector<CardLimits>& cards) {
    auto slice = std::make_unique<Slice>();
    slice->id = id;
    auto made = store_->Create(id, cards);
    if (!made) std::abort();
    slice->pages = std::move(*made);
    slice->pages->usage().slots[0].pid = 1;
    for (std::uint32_t i = 0; i < cards.size(); ++i) slice->Marks(i).card = i;
    turns_->Add(id, slice->pages.get(), cards);
    slices_.push_back(std::move(slice));
    return slices_.back().get();
  }

  template <typename Holds>
  static bool Eventually(const Holds& holds) {
    for (int i = 0; i < 200'000; ++i) {
      if (holds()) return true;
      Nap(50);
    }
    return false;
  }

  // Works on all cards of a slice, one after the other, as long as it may.
  static std::jthread Work(const Slice* slice, std::uint32_t cards, std::atomic<int>* done) {
    return std::jthread([=](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        for (std::uint32_t card = 0; card < cards && !stop.stop_requested(); ++card) {
          // A turn that came and went meanwhile was granted for nothing: it asks again.
          for (std::uint32_t asked = 0; !stop.stop_requested();) {
            const std::uint32_t word = slice->Gate(card);
            if (word == 0 || (word & wire::kGateGranted) != 0) break;
            if (word != asked) slice->Announce(card);
            asked = word;
            Nap(50);
          }
          wire::Store(&slice->Marks(card).submitted, slice->Marks(card).submitted + 200);
        }
        Nap(200);
        for (std::uint32_t card = 0; card < cards; ++card) {
          wire::Store(&slice->Marks(card).completed, slice->Marks(card).submitted);
        }
        ++*done;
      }
    });
  }

  std::string folder_;
  std::unique_ptr<SliceStore> store_;
  std::vector<std::unique_ptr<Slice>> slices_;
  std::unique_ptr<Turns> turns_ = std::make_unique<Turns>();
};

TEST_F(TurnsTest, TheNextTurnIsGrantedWhenTheLastIsAboutToEndAndNotBefore) {
  const Slice* const a = Add("a", {Card("GPU-1", 500)});
  const Slice* const b = Add("b", {Card("GPU-1", 500)});
  bool shown = false;
  for (int attempt = 0; attempt < 20 && !shown; ++attempt) {
    const std::uint64_t overdue = turns_->counters().overdue;
    a->Announce(0);
    ASSERT_TRUE(Eventually([&] { return a->Granted(0); }));
    // A second's work, as far as anybody knows.
    wire::Store(&a->Marks(0).submitted, a->Marks(0).completed + 1'000'000);
    b->Announce(0);
    ASSERT_TRUE(Eventually([&] { return !a->Granted(0); })) << "turns end";
    bool early = false;
    for (int i = 0; i < 20; ++i) {
      early |= b->Granted(0);
      Nap(1000);
    }
    // Now all but the last 50 microseconds of it have completed.
    wire::Store(&a->Marks(0).completed, a->Marks(0).submitted - 50);
    ASSERT_TRUE(Eventually([&] { return b->Granted(0); }));
    // After kDrainNanosMax anybody may go: then this machine was too slow to show anything.
    if (turns_->counters().overdue == overdue) {
      shown = true;
      EXPECT_FALSE(early) << "the next one was let on a card that is busy";
    }
    wire::Store(&a->Marks(0).completed, a->Marks(0).submitted);
  }
  EXPECT_TRUE(shown);
}

// Marks that a process has given up may be written by the card at any time later, over newer ones
// too (wire/pages.h, "marks given up"). Nobody waits for them, and nobody is charged for them.
TEST_F(TurnsTest, AMarkThatWasGivenUpAndIsWrittenLateKeepsNobodyWaiting) {
  const Slice* const a = Add("a", {Card("GPU-1", 500)});
  const Slice* const b = Add("b", {Card("GPU-1", 500)});
  const auto turn_of = [&](const Slice* slice) {
    slice->Announce(0);
    return Eventually([&] { return slice->Granted(0); });
  };
  for (std::uint32_t late : {0u, 5u, 9u}) {
    wire::StreamMarks& marks = a->Marks(0);
    ASSERT_TRUE(turn_of(a));
    // 5 and 9 are on the card when they are given up; then one more is marked and done.
    wire::Store(&marks.submitted, 9u);
    wire::Store(&marks.completed, 0u);
    wire::Store(&marks.submitted, 9 + wire::kMarksLeap);
    wire::Store(&marks.completed, 9 + wire::kMarksLeap);
    wire::Store(&marks.submitted, 10 + wire::kMarksLeap);
    wire::Store(&marks.completed, 10 + wire::kMarksLeap);
    wire::Store(&marks.completed, late);
    const std::uint64_t overdue = turns_->counters().overdue;
    ASSERT_TRUE(turn_of(b));
    EXPECT_EQ(turns_->counters().overdue, overdue) << "the late mark passed for work that goes on";
    // Its slice is charged for nothing either while the other works.
    const std::uint64_t served = turns_->Service("a").at(0).served_nanos;
    ASSERT_TRUE(Eventually([&] { return !a->Granted(0); }));
    for (int i = 0; i < 5; ++i) ASSERT_TRUE(turn_of(b));
    EXPECT_EQ(turns_->Service("a").at(0).served_nanos, served);
    wire::Store(&marks.completed, marks.submitted);
  }
}

TEST_F(TurnsTest, AThreadInsideKeepsTheNextOneOut) {
  const Slice* const a = Add("a", {Card("GPU-1", 500)});
  const Slice* const b = Add("b", {Card("GPU-1", 500)});
  wire::GateLane& lane = a->pages->usage().slots[0].lanes[3];
  bool shown = false;
  for (int attempt = 0; attempt < 20 && !shown; ++attempt) {
    const std::uint64_t overdue = turns_->counters().overdue;
    a->Announce(0);
    ASSERT_TRUE(Eventually([&] { return a->Granted(0); }));
    wire::Store(&lane.state, 10'000 << 1 | wire::kLaneInside);
    b->Announce(0);
    ASSERT_TRUE(Eventually([&] { return !a->Granted(0); }));
    bool early = false;
    for (int i = 0; i < 20; ++i) {
      early |= b->Granted(0);
      Nap(1000);
    }
    wire::Store(&lane.state, 10'000 << 1);
    ASSERT_TRUE(Eventually([&] { return b->Granted(0); }));
    if (turns_->counters().overdue == overdue) {
      shown = true;
      EXPECT_FALSE(early);
    }
    wire::Store(&lane.state, 0);
  }
  EXPECT_TRUE(shown);
}

TEST_F(TurnsTest, AHigherClassDoesNotWaitForTheWindowBeforeIt) {
  const Slice* const low = Add("low", {Card("GPU-1", 500)});
  const Slice* const high = Add("high", {Card("GPU-1", 500, 1)});
  bool shown = false;
  for (int attempt = 0; attempt < 20 && !shown; ++attempt) {
    const std::uint64_t overdue = turns_->counters().overdue;
    low->Announce(0);
    ASSERT_TRUE(Eventually([&] { return low->Granted(0); }));
    wire::Store(&low->Marks(0).submitted, low->Marks(0).completed + 1'000'000);
    high->Announce(0);
    ASSERT_TRUE(Eventually([&] { return high->Granted(0); }));
    EXPECT_FALSE(low->Granted(0));
    shown = turns_->counters().overdue == overdue;
    wire::Store(&low->Marks(0).completed, low->Marks(0).submitted);
  }
  EXPECT_TRUE(shown) << "granted only after kDrainNanosMax";
}

// Two slices of both cards, one of each card beside them, the cards named in either order: all get
// on, and never has one of the two a turn on one card while the other has one on the other.
TEST_F(TurnsTest, SlicesOfTwoCardsHaveBothOrNone) {
  const Slice* const one = Add("one", {Card("GPU-1", 500), Card("GPU-2", 500)});
  const Slice* const two = Add("two", {Card("GPU-2", 500), Card("GPU-1", 500)});
  const Slice* const left = Add("left", {Card("GPU-1", 500)});
  const Slice* const right = Add("right", {Card("GPU-2", 500)});
  std::atomic<int> done[4] = {};
  {
    const std::jthread workers[] = {Work(one, 2, &done[0]), Work(two, 2, &done[1]),
                                    Work(left, 1, &done[2]), Work(right, 1, &done[3])};
    const auto crossed = [](const Slice& a, std::uint32_t card, const Slice& b,
                            std::uint32_t other) {
      const std::uint32_t before = a.Gate(card);
      const bool granted = b.Granted(other);
      return (before & wire::kGateGranted) != 0 && granted && a.Gate(card) == before;
    };
    bool bad = false;
    EXPECT_TRUE(Eventually([&] {
      // GPU-1 is the first card of "one" and the second of "two".
      bad |= crossed(*one, 0, *two, 0) || crossed(*two, 1, *one, 1);
      bad |= crossed(*one, 0, *two, 1) || crossed(*one, 1, *two, 0);
      return std::all_of(std::begin(done), std::end(done),
                         [](const auto& count) { return count >= 100; });
    })) << "nobody stands still: "
        << done[0] << " " << done[1] << " " << done[2] << " " << done[3];
    EXPECT_FALSE(bad) << "two turns of several cards at the same time";
    // One of them goes in the middle of it all, another changes.
    turns_->SetLimits("left", {Card("GPU-1", 100)});
    turns_->Remove("one");
    for (std::atomic<int>& count : done) count = 0;
    EXPECT_TRUE(Eventually([&] { return done[1] >= 50 && done[2] >= 50 && done[3] >= 50; }));
  }
}

}  // namespace
}  // namespace tessera::broker
