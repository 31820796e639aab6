// Units that must not be mixed up, and their text forms. All parsing is exact and strict: a unit
// that is unknown, a sign, a fraction of a byte or an overflow is an error that says what was
// expected.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace tessera {

inline constexpr std::uint64_t kKiB = 1024;
inline constexpr std::uint64_t kMiB = 1024 * kKiB;
inline constexpr std::uint64_t kGiB = 1024 * kMiB;

// Memory in bytes as users write it: "4GiB", "512MiB", "1.5GiB", "1073741824". Binary units only,
// so that nobody is sold 7 % less than he read; "GB" is refused with the hint to write GiB. `field`
// names the input in the error.
Result<std::uint64_t> ParseBytes(std::string_view text, std::string_view field);
// "1.50 GiB", "512 MiB", "0 B": two decimals at most, for people.
std::string FormatBytes(std::uint64_t bytes);

// A share of a card's compute in thousandths, 1 to 1000.
struct Permille {
  std::uint32_t value = 0;
  auto operator<=>(const Permille&) const = default;
};
// "33.3%", "333" (per mille) or "0.333" is not accepted: "N%" with at most one decimal, or "N
// permille".
Result<Permille> ParsePermille(std::string_view text, std::string_view field);
std::string FormatPermille(Permille share);

// Whole numbers of a stated range, for flags and fields ("8", not "8x", "+8" or "0x8").
Result<std::int64_t> ParseInt(std::string_view text, std::string_view field, std::int64_t min,
                              std::int64_t max);

// Money in micro-units of the ledger's one currency. Arithmetic is 128-bit; what is stored is
// 64-bit and whatever does not fit is refused, never truncated. Money never meets a float.
struct Money {
  __extension__ typedef __int128 Micro;
  Micro micro = 0;

  auto operator<=>(const Money&) const = default;
  friend Money operator+(Money a, Money b) { return {a.micro + b.micro}; }
  friend Money operator-(Money a, Money b) { return {a.micro - b.micro}; }
  friend Money operator-(Money a) { return {-a.micro}; }
  Money& operator+=(Money b) {
    micro += b.micro;
    return *this;
  }
  // The value as stored; kOutOfRange when it does not fit 64 bits.
  Result<std::int64_t> ToStored() const;
  static Money FromStored(std::int64_t micro) { return {micro}; }
};
// "12.50", "0.000001", "-3"; at most six decimals, no exponent, no currency sign.
Result<Money> ParseMoney(std::string_view text, std::string_view field);
// At least two decimals, at most six: "12.50", "0.000001".
std::string FormatMoney(Money money);

}  // namespace tessera
