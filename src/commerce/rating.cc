#include "commerce/rating.h"

namespace tessera::commerce {

Result<Money> Cumulative(Money price_per_hour, std::int64_t elapsed_micros) {
  if (price_per_hour < Money{0} || price_per_hour > kPricePerHourMax) {
    return Error(Code::kOutOfRange, "a price per hour is from 0.00 to " +
                                        FormatMoney(kPricePerHourMax) + ", got " +
                                        FormatMoney(price_per_hour));
  }
  if (elapsed_micros < 0 || elapsed_micros > kElapsedMicrosMax) {
    return Error(Code::kOutOfRange, "running time is from 0 to kElapsedMicrosMax, got " +
                                        std::to_string(elapsed_micros) + " microseconds");
  }
  return Money{price_per_hour.micro * elapsed_micros / kHourMicros};
}

Result<Money> Charge(Money price_per_hour, std::int64_t from_micros, std::int64_t to_micros) {
  if (to_micros < from_micros) {
    return Error(Code::kOutOfRange, "a segment ends at or after its start");
  }
  TRY(const Money before, Cumulative(price_per_hour, from_micros));
  TRY(const Money after, Cumulative(price_per_hour, to_micros));
  return after - before;
}

Result<Money> Discounted(Money price_per_hour, std::uint32_t discount_permille) {
  TRY(const Money zero, Cumulative(price_per_hour, 0));
  if (discount_permille > 1000) {
    return Error(Code::kOutOfRange, "a discount is from 0 to 1000 per mille, got " +
                                        std::to_string(discount_permille));
  }
  return zero + Money{price_per_hour.micro * (1000 - discount_permille) / 1000};
}

}  // namespace tessera::commerce
