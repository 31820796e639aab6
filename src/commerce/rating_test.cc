#include "commerce/rating.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/rng.h"

namespace tessera::commerce {
namespace {

TEST(Rating, KnownValues) {
  EXPECT_EQ(Cumulative(Money{4'000'000}, kHourMicros)->micro, 4'000'000);
  EXPECT_EQ(Cumulative(Money{4'000'000}, kHourMicros / 2)->micro, 2'000'000);
  EXPECT_EQ(Cumulative(Money{4'000'000}, 1'000'000)->micro, 1111);
  EXPECT_EQ(Cumulative(Money{1}, kHourMicros - 1)->micro, 0);
  EXPECT_EQ(Cumulative(Money{1}, kHourMicros)->micro, 1);
  EXPECT_EQ(Cumulative(Money{0}, kElapsedMicrosMax)->micro, 0);
  EXPECT_EQ(Cumulative(kPricePerHourMax, kElapsedMicrosMax)->micro,
            Money::Micro{2'000'000'000} * 100 * 366 * 24);
}

TEST(Rating, RefusesWhatNobodyCanMean) {
  EXPECT_EQ(Cumulative(Money{-1}, 0).error().code(), Code::kOutOfRange);
  EXPECT_EQ(Cumulative(kPricePerHourMax + Money{1}, 0).error().code(), Code::kOutOfRange);
  EXPECT_EQ(Cumulative(Money{1}, -1).error().code(), Code::kOutOfRange);
  EXPECT_EQ(Cumulative(Money{1}, kElapsedMicrosMax + 1).error().code(), Code::kOutOfRange);
  EXPECT_EQ(Charge(Money{1}, 2, 1).error().code(), Code::kOutOfRange);
}

TEST(Rating, ADiscountIsRoundedDownAndBounded) {
  EXPECT_EQ(Discounted(Money{4'000'000}, 0)->micro, 4'000'000);
  EXPECT_EQ(Discounted(Money{4'000'000}, 500)->micro, 2'000'000);
  EXPECT_EQ(Discounted(Money{4'000'000}, 1000)->micro, 0);
  EXPECT_EQ(Discounted(Money{1}, 1)->micro, 0);
  EXPECT_EQ(Discounted(Money{1'999}, 333)->micro, 1333);  // 1333.333
  EXPECT_EQ(Discounted(Money{1}, 1001).error().code(), Code::kOutOfRange);
  EXPECT_EQ(Discounted(Money{-1}, 1).error().code(), Code::kOutOfRange);
  EXPECT_EQ(Discounted(kPricePerHourMax + Money{1}, 1).error().code(), Code::kOutOfRange);
  Rng rng(11);
  for (int i = 0; i < 10'000; ++i) {
    const Money price{static_cast<std::int64_t>(rng.Between(0, 2'000'000'000))};
    const auto permille = static_cast<std::uint32_t>(rng.Between(0, 1000));
    const Money less = *Discounted(price, permille);
    // The exact price lies less than one micro-unit above.
    const Money::Micro rest = price.micro * (1000 - permille) - less.micro * 1000;
    EXPECT_TRUE(rest >= 0 && rest < 1000) << i;
    EXPECT_GE(*Discounted(price, permille / 2), less) << i;
  }
}

TEST(Rating, AnySplitOfAnIntervalGivesTheSameSum) {
  for (std::uint64_t seed = 1; seed <= 500; ++seed) {
    Rng rng(seed);
    const Money price{static_cast<std::int64_t>(rng.Between(0, 50'000'000))};
    const auto start = static_cast<std::int64_t>(rng.Below(100'000'000'000));
    const auto end = start + static_cast<std::int64_t>(rng.Below(100'000'000'000));
    Money sum;
    std::int64_t at = start;
    while (at < end) {
      // Cuts from a microsecond to hours: rounding each piece would drift here.
      const auto step = static_cast<std::int64_t>(rng.Between(1, 1ull << rng.Between(8, 34)));
      const std::int64_t next = std::min(end, at + step);
      sum += *Charge(price, at, next);
      at = next;
      if (rng.Chance(2)) {
        sum += *Charge(price, at, end);
        break;
      }
    }
    EXPECT_EQ(sum, *Charge(price, start, end)) << "seed " << seed;
  }
}

// The same figure as the documented SQL: whole hours and the rest apart, all in 64 bits.
TEST(Rating, SixtyFourBitsAreEnoughForTheWitness) {
  Rng rng(7);
  for (int i = 0; i < 10'000; ++i) {
    const auto price = static_cast<std::int64_t>(rng.Between(0, 2'000'000'000));
    const auto elapsed = static_cast<std::int64_t>(rng.Below(kElapsedMicrosMax));
    const std::int64_t sql =
        price * (elapsed / kHourMicros) + price * (elapsed % kHourMicros) / kHourMicros;
    EXPECT_EQ(Cumulative(Money{price}, elapsed)->micro, sql);
  }
}

}  // namespace
}  // namespace tessera::commerce
