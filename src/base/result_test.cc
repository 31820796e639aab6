#include "base/result.h"

#include <gtest/gtest.h>

#include <memory>

namespace tessera {
namespace {

Result<int> Half(int n) {
  if (n % 2 != 0) return Error::Field("n", "expected an even number");
  return n / 2;
}

Result<int> Quarter(int n) {
  TRY(const int half, Half(n));
  return Half(half);
}

Status Check(int n) {
  TRY_STATUS(Quarter(n) ? Status() : Status(Error(Code::kAborted, "no quarter")));
  return {};
}

TEST(Result, PropagatesTheFirstError) {
  EXPECT_EQ(*Quarter(8), 2);
  ASSERT_FALSE(Quarter(6));
  EXPECT_EQ(Quarter(6).error().field(), "n");
  EXPECT_TRUE(Check(4));
  EXPECT_EQ(Check(3).error().code(), Code::kAborted);
}

TEST(Result, HoldsMoveOnlyValues) {
  Result<std::unique_ptr<int>> result = std::make_unique<int>(3);
  std::unique_ptr<int> taken = *std::move(result);
  EXPECT_EQ(*taken, 3);
}

TEST(Error, KeepsCauseAndField) {
  const Error error =
      Error::Field("uuid", "expected 40 characters").Under("cards[0]").Wrap("creating slice");
  EXPECT_EQ(error.ToString(),
            "INVALID_ARGUMENT: cards[0].uuid: creating slice: expected 40 characters");
}

}  // namespace
}  // namespace tessera
