// Strings without libc, and the one way this library speaks: a line on stderr, at most a few times
// a process.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace tessera::guest {

size_t Length(const char* text);
bool Equal(const char* a, const char* b);
bool StartsWith(const char* text, const char* prefix);
// Like Equal for ASCII letters of either case.
bool EqualFolded(const char* a, const char* b, size_t count);
// The part after the last '/'.
const char* BaseName(const char* path);

// A fixed buffer that cuts what does not fit. One thread uses it.
class Line {
 public:
  Line& operator<<(const char* text);
  Line& operator<<(uint64_t number);
  // Writes "tessera: ...\n" to stderr unless the process has already had kLinesMax lines.
  void Say();
  const char* Text() const { return text_; }
  size_t size() const { return size_; }

 private:
  char text_[480] = {};
  size_t size_ = 0;
};

inline constexpr uint32_t kLinesMax = 16;

}  // namespace tessera::guest
