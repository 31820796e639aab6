// Pieces of text that profiles and machines are written in.
#pragma once

#include <cstdint>
#include <string_view>

namespace simgpu {

// A number in decimal or, with 0x in front, in hexadecimal. False for anything else.
inline bool ParseNumber(std::string_view text, uint64_t* value) {
  if (text.empty() || text.size() > 18) return false;
  uint64_t base = 10;
  if (text.starts_with("0x")) {
    base = 16;
    text.remove_prefix(2);
    if (text.size() > 15) return false;
  }
  *value = 0;
  for (const char c : text) {
    const uint64_t digit = c >= '0' && c <= '9'   ? c - '0'
                           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                                  : base;
    if (digit >= base) return false;
    *value = *value * base + digit;
  }
  return !text.empty();
}

inline std::string_view Trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t' || text.back() == '\r')) {
    text.remove_suffix(1);
  }
  return text;
}

// Takes the first word off the front; empty when there is none.
inline std::string_view TakeWord(std::string_view* text) {
  *text = Trim(*text);
  const std::string_view word = text->substr(0, text->find(' '));
  *text = Trim(text->substr(word.size()));
  return word;
}

}  // namespace simgpu
