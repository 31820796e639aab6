#include "base/units.h"

#include <gtest/gtest.h>

#include <limits>

#include "base/rng.h"

namespace tessera {
namespace {

TEST(ParseBytes, AcceptsBinaryUnitsExactly) {
  EXPECT_EQ(*ParseBytes("4GiB", "memory"), 4 * kGiB);
  EXPECT_EQ(*ParseBytes("1.5GiB", "memory"), 3 * kGiB / 2);
  EXPECT_EQ(*ParseBytes("512MiB", "memory"), 512 * kMiB);
  EXPECT_EQ(*ParseBytes("17", "memory"), 17u);
  EXPECT_EQ(*ParseBytes("0B", "memory"), 0u);
}

TEST(ParseBytes, RefusesWithTheFieldAndWhatWasExpected) {
  for (const char* bad : {"", "-1", "+1", "4GB", "1.5", "abc", "4 GiB", "0x10", "1e9", "0.3KiB",
                          "9223372036854775808", "99999999999999999999999999", "8388608TiB", "4gib",
                          "1.GiB", ".5GiB", "NaN"}) {
    const auto result = ParseBytes(bad, "memory");
    ASSERT_FALSE(result) << bad;
    EXPECT_EQ(result.error().field(), "memory");
    EXPECT_NE(result.error().message().find("expected"), std::string::npos);
  }
}

TEST(ParseBytes, RoundTripsWholeMebibytes) {
  Rng rng(7);
  for (int i = 0; i < 2000; ++i) {
    const std::uint64_t mib = rng.Below(1u << 20);
    EXPECT_EQ(*ParseBytes(std::to_string(mib) + "MiB", "m"), mib * kMiB);
  }
}

TEST(FormatBytes, IsShort) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(1023), "1023 B");
  EXPECT_EQ(FormatBytes(3 * kGiB / 2), "1.5 GiB");
  EXPECT_EQ(FormatBytes(80 * kGiB), "80 GiB");
}

TEST(ParsePermille, Range) {
  EXPECT_EQ(ParsePermille("33.3%", "compute")->value, 333u);
  EXPECT_EQ(ParsePermille("100%", "compute")->value, 1000u);
  EXPECT_EQ(ParsePermille("1permille", "compute")->value, 1u);
  for (const char* bad :
       {"0%", "101%", "33", "-5%", "33.33%", "0permille", "1001permille", "", "%"}) {
    EXPECT_FALSE(ParsePermille(bad, "compute")) << bad;
  }
}

TEST(ParseInt, Range) {
  EXPECT_EQ(*ParseInt("8", "count", 1, 8), 8);
  EXPECT_EQ(*ParseInt("-8", "count", -8, 8), -8);
  for (const char* bad : {"", "9", "0", "+1", "8x", "99999999999999999999", "-"}) {
    EXPECT_FALSE(ParseInt(bad, "count", 1, 8)) << bad;
  }
}

TEST(Money, ParsesAndPrintsExactly) {
  EXPECT_EQ(FormatMoney(*ParseMoney("12.5", "amount")), "12.50");
  EXPECT_EQ(FormatMoney(*ParseMoney("-0.000001", "amount")), "-0.000001");
  EXPECT_EQ(FormatMoney(*ParseMoney("0", "amount")), "0.00");
  for (const char* bad : {"", "1.0000001", "1e3", "$1", "1,5", "--1", "9999999999999999999"}) {
    EXPECT_FALSE(ParseMoney(bad, "amount")) << bad;
  }
  Rng rng(11);
  for (int i = 0; i < 5000; ++i) {
    const Money money{static_cast<std::int64_t>(rng.Next() >> 2) - (1ll << 61)};
    EXPECT_EQ(*ParseMoney(FormatMoney(money), "amount"), money);
  }
}

TEST(Money, RefusesToStoreWhatDoesNotFit) {
  const Money max = Money::FromStored(std::numeric_limits<std::int64_t>::max());
  EXPECT_TRUE(max.ToStored());
  EXPECT_FALSE((max + Money{1}).ToStored());
  EXPECT_FALSE((-max - Money{2}).ToStored());
}

}  // namespace
}  // namespace tessera
