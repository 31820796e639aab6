#include "cli/table.h"

#include <algorithm>
#include <cstdio>

#include "base/check.h"

namespace tessera::cli {
namespace {

// Width in columns: bytes that continue a UTF-8 character take none.
std::size_t Width(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  }));
}

std::string Clean(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return text;
}

}  // namespace

Table::Table(std::vector<std::string> headers) {
  for (std::string& header : headers) {
    const bool right = !header.empty() && header[0] == '>';
    right_.push_back(right);
    headers_.push_back(right ? header.substr(1) : header);
  }
}

void Table::Add(std::vector<std::string> cells) {
  CHECK(cells.size() <= headers_.size());
  cells.resize(headers_.size());
  for (std::string& cell : cells) cell = Clean(std::move(cell));
  rows_.push_back(std::move(cells));
}

std::string Table::ToString() const {
  std::vector<std::size_t> widths;
  for (std::size_t i = 0; i < headers_.size(); ++i) {
    std::size_t width = Width(headers_[i]);
    for (const auto& row : rows_) width = std::max(width, Width(row[i]));
    widths.push_back(width);
  }
  std::string text;
  const auto line = [&](const std::vector<std::string>& cells) {
    std::string out;
    for (std::size_t i = 0; i < cells.size(); ++i) {
      const std::string pad(widths[i] - Width(cells[i]), ' ');
      if (i > 0) out += "  ";
      out += right_[i] ? pad + cells[i] : cells[i] + pad;
    }
    while (!out.empty() && out.back() == ' ') out.pop_back();
    text += out + "\n";
  };
  line(headers_);
  for (const auto& row : rows_) line(row);
  return text;
}

std::string FormatDuration(long long seconds) {
  char text[48];
  if (seconds < 0) seconds = 0;
  if (seconds < 60)
    snprintf(text, sizeof text, "%llds", seconds);
  else if (seconds < 3600)
    snprintf(text, sizeof text, "%lldm%02llds", seconds / 60, seconds % 60);
  else if (seconds < 86400)
    snprintf(text, sizeof text, "%lldh%02lldm", seconds / 3600, seconds / 60 % 60);
  else
    snprintf(text, sizeof text, "%lldd%02lldh", seconds / 86400, seconds / 3600 % 24);
  return text;
}

}  // namespace tessera::cli
