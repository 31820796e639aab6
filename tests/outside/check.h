// What the nvcc programs share: a call that must succeed, and a comparison. Prints one line and
// ends on failure.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>

#define MUST(call)                                                               \
  do {                                                                           \
    const cudaError_t must_error = (call);                                       \
    if (must_error != cudaSuccess) {                                             \
      std::printf("FAILED %s:%d: %s: %s (%d)\n", __FILE__, __LINE__, #call,      \
                  cudaGetErrorString(must_error), static_cast<int>(must_error)); \
      std::exit(1);                                                              \
    }                                                                            \
  } while (false)

#define EXPECT(condition)                                                \
  do {                                                                   \
    if (!(condition)) {                                                  \
      std::printf("FAILED %s:%d: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                      \
    }                                                                    \
  } while (false)

inline bool Near(double a, double b) { return std::fabs(a - b) <= 1e-4 * (1 + std::fabs(b)); }
