#include "base/units.h"

#include <cctype>
#include <limits>

namespace tessera {
namespace {

__extension__ typedef unsigned __int128 Wide;

// Splits "12.5GiB" into digits before and after the point and the rest; false when there is no
// number.
struct Number {
  Wide whole = 0;
  Wide fraction = 0;
  int fraction_digits = 0;
  std::string_view rest;
};

bool SplitNumber(std::string_view text, Number* out) {
  size_t i = 0;
  while (i < text.size() && std::isdigit(static_cast<unsigned char>(text[i]))) {
    if (i >= 24) return false;
    out->whole = out->whole * 10 + static_cast<unsigned>(text[i] - '0');
    ++i;
  }
  if (i == 0) return false;
  if (i < text.size() && text[i] == '.') {
    ++i;
    const size_t start = i;
    while (i < text.size() && std::isdigit(static_cast<unsigned char>(text[i]))) {
      if (i - start >= 9) return false;
      out->fraction = out->fraction * 10 + static_cast<unsigned>(text[i] - '0');
      ++i;
    }
    if (i == start) return false;
    out->fraction_digits = static_cast<int>(i - start);
  }
  out->rest = text.substr(i);
  return true;
}

std::string Quote(std::string_view text) {
  std::string shown(text.substr(0, 40));
  if (text.size() > 40) shown += "...";
  return "\"" + shown + "\"";
}

std::string WideToString(Wide value) {
  if (value == 0) return "0";
  std::string digits;
  while (value > 0) {
    digits.insert(digits.begin(), static_cast<char>('0' + static_cast<int>(value % 10)));
    value /= 10;
  }
  return digits;
}

}  // namespace

Result<std::uint64_t> ParseBytes(std::string_view text, std::string_view field) {
  const auto expected = [&](std::string_view why) {
    return Error::Field(std::string(field),
                        "expected bytes such as 4GiB, 512MiB or 1073741824, got " + Quote(text) +
                            (why.empty() ? "" : " (" + std::string(why) + ")"));
  };
  Number number;
  if (!SplitNumber(text, &number)) return expected("");
  Wide unit = 0;
  if (number.rest.empty() || number.rest == "B")
    unit = 1;
  else if (number.rest == "KiB")
    unit = kKiB;
  else if (number.rest == "MiB")
    unit = kMiB;
  else if (number.rest == "GiB")
    unit = kGiB;
  else if (number.rest == "TiB")
    unit = 1024 * static_cast<Wide>(kGiB);
  else if (number.rest == "KB" || number.rest == "MB" || number.rest == "GB" ||
           number.rest == "TB" || number.rest == "K" || number.rest == "M" || number.rest == "G" ||
           number.rest == "T")
    return expected("units are binary: write KiB, MiB, GiB or TiB");
  else
    return expected("unknown unit");
  Wide scale = 1;
  for (int i = 0; i < number.fraction_digits; ++i) scale *= 10;
  const Wide scaled_fraction = number.fraction * unit;
  if (scaled_fraction % scale != 0) return expected("not a whole number of bytes");
  if (number.whole > std::numeric_limits<std::uint64_t>::max()) return expected("too large");
  const Wide total = number.whole * unit + scaled_fraction / scale;
  if (total > static_cast<Wide>(std::numeric_limits<std::int64_t>::max()))
    return expected("too large");
  return static_cast<std::uint64_t>(total);
}

std::string FormatBytes(std::uint64_t bytes) {
  const struct {
    std::uint64_t size;
    const char* name;
  } units[] = {{1024 * kGiB, "TiB"}, {kGiB, "GiB"}, {kMiB, "MiB"}, {kKiB, "KiB"}};
  for (const auto& unit : units) {
    if (bytes < unit.size) continue;
    const Wide hundredths = static_cast<Wide>(bytes) * 100 / unit.size;
    std::string text = WideToString(hundredths / 100);
    const int rest = static_cast<int>(hundredths % 100);
    if (rest != 0) {
      text += '.';
      text += static_cast<char>('0' + rest / 10);
      if (rest % 10 != 0) text += static_cast<char>('0' + rest % 10);
    }
    return text + " " + unit.name;
  }
  return std::to_string(bytes) + " B";
}

Result<Permille> ParsePermille(std::string_view text, std::string_view field) {
  const auto expected = [&] {
    return Error::Field(
        std::string(field),
        "expected a share such as 33.3% or 333permille (0.1% to 100%), got " + Quote(text));
  };
  Number number;
  if (!SplitNumber(text, &number)) return expected();
  Wide value = 0;
  if (number.rest == "%") {
    if (number.fraction_digits > 1) return expected();
    value = number.whole * 10 + (number.fraction_digits == 1 ? number.fraction : 0);
  } else if (number.rest == "permille" && number.fraction_digits == 0) {
    value = number.whole;
  } else {
    return expected();
  }
  if (value < 1 || value > 1000) return expected();
  return Permille{static_cast<std::uint32_t>(value)};
}

std::string FormatPermille(Permille share) {
  std::string text = std::to_string(share.value / 10);
  if (share.value % 10 != 0) text += "." + std::to_string(share.value % 10);
  return text + "%";
}

Result<std::int64_t> ParseInt(std::string_view text, std::string_view field, std::int64_t min,
                              std::int64_t max) {
  const auto expected = [&] {
    return Error::Field(std::string(field), "expected a whole number from " + std::to_string(min) +
                                                " to " + std::to_string(max) + ", got " +
                                                Quote(text));
  };
  std::string_view digits = text;
  const bool negative = !digits.empty() && digits.front() == '-';
  if (negative) digits.remove_prefix(1);
  if (digits.empty() || digits.size() > 19) return expected();
  Wide magnitude = 0;
  for (const char c : digits) {
    if (!std::isdigit(static_cast<unsigned char>(c))) return expected();
    magnitude = magnitude * 10 + static_cast<unsigned>(c - '0');
  }
  const Money::Micro value =
      negative ? -static_cast<Money::Micro>(magnitude) : static_cast<Money::Micro>(magnitude);
  if (value < min || value > max) return expected();
  return static_cast<std::int64_t>(value);
}

Result<std::int64_t> Money::ToStored() const {
  if (micro > std::numeric_limits<std::int64_t>::max() ||
      micro < std::numeric_limits<std::int64_t>::min()) {
    return Error(Code::kOutOfRange,
                 "amount " + FormatMoney(*this) + " does not fit the ledger's 64 bits");
  }
  return static_cast<std::int64_t>(micro);
}

Result<Money> ParseMoney(std::string_view text, std::string_view field) {
  const auto expected = [&] {
    return Error::Field(
        std::string(field),
        "expected an amount such as 12.50 with at most six decimals, got " + Quote(text));
  };
  std::string_view digits = text;
  const bool negative = !digits.empty() && digits.front() == '-';
  if (negative) digits.remove_prefix(1);
  Number number;
  if (!SplitNumber(digits, &number) || !number.rest.empty() || number.fraction_digits > 6)
    return expected();
  if (number.whole > static_cast<Wide>(std::numeric_limits<std::int64_t>::max() / 1000000))
    return expected();
  Wide micro = number.fraction;
  for (int i = number.fraction_digits; i < 6; ++i) micro *= 10;
  micro += number.whole * 1000000;
  const auto value = static_cast<Money::Micro>(micro);
  return Money{negative ? -value : value};
}

std::string FormatMoney(Money money) {
  const bool negative = money.micro < 0;
  const Wide magnitude =
      negative ? static_cast<Wide>(-(money.micro + 1)) + 1 : static_cast<Wide>(money.micro);
  std::string fraction = WideToString(magnitude % 1000000);
  fraction.insert(0, 6 - fraction.size(), '0');
  while (fraction.size() > 2 && fraction.back() == '0') fraction.pop_back();
  return (negative ? "-" : "") + WideToString(magnitude / 1000000) + "." + fraction;
}

}  // namespace tessera
