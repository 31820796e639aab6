#include "guest/core/text.h"

#include "guest/core/sys.h"

namespace tessera::guest {

namespace {
uint32_t lines_said = 0;

char Folded(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }
}  // namespace

size_t Length(const char* text) {
  size_t n = 0;
  while (text[n] != '\0') ++n;
  return n;
}

bool Equal(const char* a, const char* b) {
  while (*a != '\0' && *a == *b) ++a, ++b;
  return *a == *b;
}

bool StartsWith(const char* text, const char* prefix) {
  while (*prefix != '\0') {
    if (*text++ != *prefix++) return false;
  }
  return true;
}

bool EqualFolded(const char* a, const char* b, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (Folded(a[i]) != Folded(b[i])) return false;
    if (a[i] == '\0') return true;
  }
  return true;
}

const char* BaseName(const char* path) {
  const char* base = path;
  for (; *path != '\0'; ++path) {
    if (*path == '/') base = path + 1;
  }
  return base;
}

Line& Line::operator<<(const char* text) {
  while (*text != '\0' && size_ + 1 < sizeof(text_)) text_[size_++] = *text++;
  return *this;
}

Line& Line::operator<<(uint64_t number) {
  char digits[24];
  size_t at = sizeof(digits);
  digits[--at] = '\0';
  do {
    digits[--at] = static_cast<char>('0' + number % 10);
    number /= 10;
  } while (number != 0);
  return *this << &digits[at];
}

void Line::Say() {
  if (__atomic_fetch_add(&lines_said, 1, __ATOMIC_RELAXED) >= kLinesMax) return;
  Line whole;
  whole << "tessera: " << text_;
  // The line ends where it was cut, but it ends.
  if (whole.size_ + 1 >= sizeof(whole.text_)) --whole.size_;
  whole.text_[whole.size_++] = '\n';
  Syscall(SYS_write, 2, Arg(whole.text_), static_cast<long>(whole.size_));
}

}  // namespace tessera::guest
