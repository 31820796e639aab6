// Text tables for terminals: columns padded to their widest cell, numbers right-aligned on request.
#pragma once

#include <string>
#include <vector>

namespace tessera::cli {

class Table {
 public:
  // A header that begins with '>' is right-aligned (the mark is not printed).
  explicit Table(std::vector<std::string> headers);
  // Missing cells are empty; cells beyond the headers are a programming error (CHECK).
  void Add(std::vector<std::string> cells);
  std::size_t size() const { return rows_.size(); }
  // Control characters in cells are shown as '?', so that a tenant's text cannot drive the
  // terminal.
  std::string ToString() const;

 private:
  std::vector<std::string> headers_;
  std::vector<bool> right_;
  std::vector<std::vector<std::string>> rows_;
};

// "3m12s", "2h05m", "4d03h" for people.
std::string FormatDuration(long long seconds);

}  // namespace tessera::cli
