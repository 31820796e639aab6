// The doors a program reaches a driver library through, and the real functions behind them. Tables
// of wrappers come from cuda/ and nvml/; this file knows no entry point by name.
#pragma once

#include <stdint.h>

namespace tessera::guest {

enum LibraryId : uint32_t { kCudaLibrary = 0, kNvmlLibrary = 1, kLibraries = 2 };

// One entry point we stand in front of. `index` numbers the CUDA wrappers from 0.
struct Wrapper {
  void* wrapper;
  uint32_t index;
  uint32_t library;
};

// Given by cuda/ and nvml/: the wrapper of exactly this exported name, if there is one.
bool FindCudaWrapper(const char* name, Wrapper* found);
bool FindNvmlWrapper(const char* name, Wrapper* found);

// How often this thread is inside the driver through one of our wrappers. While it is, everything
// passes: the driver calling itself is none of our business.
extern constinit thread_local int depth
    __attribute__((tls_model("initial-exec"), visibility("hidden")));

class DepthGuard {
 public:
  DepthGuard() { ++depth; }
  ~DepthGuard() { --depth; }
  DepthGuard(const DepthGuard&) = delete;
  DepthGuard& operator=(const DepthGuard&) = delete;
};

// The full path of the real library where our own library is the driver; null where it is
// preloaded before one. Given by wall/real.cc there.
const char* RealPath(LibraryId library);

// The driver library's own function, found among what is loaded; null when the library is not
// loaded or lacks it.
void* ResolveReal(LibraryId library, const char* name);
bool RealLoaded(LibraryId library);
// Loads it when nobody has. False: there is none.
bool LoadReal(LibraryId library);

}  // namespace tessera::guest
