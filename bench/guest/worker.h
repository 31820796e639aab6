// The measured program: calls of one kind, many times, as an ordinary CUDA program reaches them.
#pragma once

#include <string>

namespace tessera::bench {

// Kinds: "launch", "alloc_free.N" (N other allocations live), "meminfo".

// Reads commands "KIND CALLS\n" from descriptor `in` and answers each with the nanoseconds the
// calls took, on `out`.
int ServeBatches(int in, int out);
// Makes `calls` calls of one kind once; for counting instructions.
int MakeCalls(const std::string& kind, long calls);
// Starts the driver as a program does and ends.
int StartOnly();

}  // namespace tessera::bench
