// The measured program: calls of one kind, many times, as an ordinary CUDA program reaches them.
#pragma once

#include <string>

namespace tessera::bench {

// Kinds:
//   launch            an empty kernel
//   alloc_free.N      a small allocation comes and goes while N are live in all
//   threads.N         the same from N threads at once, none other live; `calls` pairs a thread
//   meminfo           cuMemGetInfo
//   getprocaddress    cuGetProcAddress of names a program asks for, one after another
//   dlsym             dlsym of names in the driver, one after another

// Reads commands "KIND CALLS\n" from descriptor `in` and answers each with the nanoseconds the
// calls took, on `out`.
int ServeBatches(int in, int out);
// Makes `calls` calls of one kind once; for counting instructions.
int MakeCalls(const std::string& kind, long calls);
// Starts the driver as a program does, prints the microseconds that took and ends.
int StartOnly();

}  // namespace tessera::bench
