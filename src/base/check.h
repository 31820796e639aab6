// CHECK: an invariant whose violation must stop the process (the supervisor restarts it). Always
// on. DCHECK: the same in debug and sanitizer builds only.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace tessera {
[[noreturn]] inline void CheckFailed(const char* what, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: CHECK failed: %s\n", file, line, what);
  std::abort();
}
}  // namespace tessera

#define CHECK(condition) \
  ((condition) ? static_cast<void>(0) : ::tessera::CheckFailed(#condition, __FILE__, __LINE__))
#ifdef NDEBUG
#define DCHECK(condition) static_cast<void>(0)
#else
#define DCHECK(condition) CHECK(condition)
#endif
