#include "simgpu/driver/visible.h"

#include <algorithm>
#include <cctype>
#include <string_view>

namespace simgpu {
namespace {

bool IsUuid(std::string_view entry) { return entry.starts_with("GPU-"); }

// The card of an entry, or -1.
int CardOfEntry(std::string_view entry, const std::vector<std::string>& uuids) {
  if (IsUuid(entry)) {
    int found = -1;
    for (size_t i = 0; i < uuids.size(); ++i) {
      const bool same =
          uuids[i].size() >= entry.size() &&
          std::equal(entry.begin(), entry.end(), uuids[i].begin(), [](char a, char b) {
            return std::tolower(static_cast<unsigned char>(a)) ==
                   std::tolower(static_cast<unsigned char>(b));
          });
      if (!same) continue;
      if (found >= 0) return -1;
      found = static_cast<int>(i);
    }
    return found;
  }
  if (entry.empty() || entry.size() > 6) return -1;
  size_t value = 0;
  for (char c : entry) {
    if (c < '0' || c > '9') return -1;
    value = value * 10 + (c - '0');
  }
  return value < uuids.size() ? static_cast<int>(value) : -1;
}

}  // namespace

std::vector<uint32_t> VisibleCards(const char* text, const std::vector<std::string>& uuids) {
  std::vector<uint32_t> cards;
  if (text == nullptr) {
    for (size_t i = 0; i < uuids.size(); ++i) cards.push_back(static_cast<uint32_t>(i));
    return cards;
  }
  std::string_view rest = text;
  bool by_uuid = false;
  for (bool first = true;; first = false) {
    const size_t comma = rest.find(',');
    std::string_view entry = rest.substr(0, comma);
    while (!entry.empty() && entry.front() == ' ') entry.remove_prefix(1);
    while (!entry.empty() && entry.back() == ' ') entry.remove_suffix(1);
    if (first) by_uuid = IsUuid(entry);
    if (IsUuid(entry) != by_uuid) return cards;
    const int card = CardOfEntry(entry, uuids);
    if (card < 0) return cards;
    if (std::find(cards.begin(), cards.end(), static_cast<uint32_t>(card)) != cards.end()) {
      return cards;
    }
    cards.push_back(static_cast<uint32_t>(card));
    if (comma == std::string_view::npos) return cards;
    rest.remove_prefix(comma + 1);
  }
}

}  // namespace simgpu
