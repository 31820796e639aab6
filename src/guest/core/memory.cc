// The four functions compilers call on their own. libc's memcpy is newer than our symbol floor, so
// these hidden ones stand in. Compiled with -fno-tree-loop-distribute-patterns, or the loops would
// call themselves.
#include <stddef.h>

extern "C" {

[[gnu::visibility("hidden")]] void* memcpy(void* to, const void* from, size_t count) {
  auto* t = static_cast<unsigned char*>(to);
  auto* f = static_cast<const unsigned char*>(from);
  while (count-- > 0) *t++ = *f++;
  return to;
}

[[gnu::visibility("hidden")]] void* memmove(void* to, const void* from, size_t count) {
  auto* t = static_cast<unsigned char*>(to);
  auto* f = static_cast<const unsigned char*>(from);
  if (t < f) {
    while (count-- > 0) *t++ = *f++;
  } else {
    while (count-- > 0) t[count] = f[count];
  }
  return to;
}

[[gnu::visibility("hidden")]] void* memset(void* to, int value, size_t count) {
  auto* t = static_cast<unsigned char*>(to);
  while (count-- > 0) *t++ = static_cast<unsigned char>(value);
  return to;
}

[[gnu::visibility("hidden")]] int memcmp(const void* a, const void* b, size_t count) {
  auto* x = static_cast<const unsigned char*>(a);
  auto* y = static_cast<const unsigned char*>(b);
  for (; count-- > 0; ++x, ++y) {
    if (*x != *y) return *x - *y;
  }
  return 0;
}
}
