// Rating: what a stretch of running time costs. Pure functions.
//
// The charge of a segment is the difference of two cumulative charges, so any way of cutting an
// interval into segments adds up to the same sum, to the micro-unit. Rounding is down: nobody pays
// for a part of a micro-unit he has not used up.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "base/units.h"

namespace tessera::commerce {

inline constexpr std::int64_t kHourMicros = 3'600'000'000;
// 2,000.00 an hour. Above it `price * micros of an hour` would leave 64 bits, and a plain SQL query
// could no longer check a bill.
inline constexpr Money kPricePerHourMax{2'000'000'000};
// One hundred years of running time; nothing measured reaches it.
inline constexpr std::int64_t kElapsedMicrosMax = 100LL * 366 * 24 * kHourMicros;

// floor(price * elapsed / hour). kOutOfRange unless 0 <= price <= kPricePerHourMax and
// 0 <= elapsed <= kElapsedMicrosMax.
Result<Money> Cumulative(Money price_per_hour, std::int64_t elapsed_micros);

// The charge of the running time from `from_micros` to `to_micros`, both counted from the first
// second an instance ever ran.
Result<Money> Charge(Money price_per_hour, std::int64_t from_micros, std::int64_t to_micros);

// `price_per_hour` less `discount_permille` thousandths of it, rounded down: what a spot instance
// pays. kOutOfRange unless 0 <= price <= kPricePerHourMax and discount_permille <= 1000.
Result<Money> Discounted(Money price_per_hour, std::uint32_t discount_permille);

}  // namespace tessera::commerce
