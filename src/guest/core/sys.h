// System calls without libc: no errno to save, no symbol newer than the oldest libc we load into,
// and safe before constructors and in signal handlers. A negative result is the error number.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>

namespace tessera::guest {

#if defined(__x86_64__)
inline long Syscall(long number, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0,
                    long f = 0) {
  long result;
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  register long r9 asm("r9") = f;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return result;
}
#elif defined(__aarch64__)
inline long Syscall(long number, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0,
                    long f = 0) {
  register long x8 asm("x8") = number;
  register long x0 asm("x0") = a;
  register long x1 asm("x1") = b;
  register long x2 asm("x2") = c;
  register long x3 asm("x3") = d;
  register long x4 asm("x4") = e;
  register long x5 asm("x5") = f;
  asm volatile("svc 0"
               : "+r"(x0)
               : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
               : "memory");
  return x0;
}
#else
#error "libtessera speaks x86-64 and aarch64"
#endif

template <typename T>
inline long Arg(T* pointer) {
  return reinterpret_cast<long>(pointer);
}

// Sleeps while *word == expected, at most `nanos`. Returns on a wake, a signal, a changed word or
// the timeout: callers look at the word again.
inline void FutexWait(uint32_t* word, uint32_t expected, uint64_t nanos, bool shared) {
  struct {
    long seconds, nanos;
  } timeout = {static_cast<long>(nanos / 1'000'000'000), static_cast<long>(nanos % 1'000'000'000)};
  constexpr long kWait = 0, kPrivate = 128;
  Syscall(SYS_futex, Arg(word), kWait | (shared ? 0 : kPrivate), expected, Arg(&timeout));
}

inline void FutexWake(uint32_t* word, int count) {
  constexpr long kWake = 1, kPrivate = 128;
  Syscall(SYS_futex, Arg(word), kWake | kPrivate, count);
}

// Wakes who sleeps on the word in any process.
inline void FutexWakeShared(uint32_t* word) {
  constexpr long kWake = 1, kAll = 0x7fffffff;
  Syscall(SYS_futex, Arg(word), kWake, kAll);
}

inline uint64_t ClockNanos(long clock) {
  struct {
    long seconds, nanos;
  } now = {0, 0};
  Syscall(SYS_clock_gettime, clock, Arg(&now));
  return static_cast<uint64_t>(now.seconds) * 1'000'000'000 + static_cast<uint64_t>(now.nanos);
}
inline uint64_t MonotonicNanos() { return ClockNanos(1); }
inline uint64_t WallMicros() { return ClockNanos(0) / 1000; }

inline void Sleep(uint64_t nanos) {
  struct {
    long seconds, nanos;
  } time = {static_cast<long>(nanos / 1'000'000'000), static_cast<long>(nanos % 1'000'000'000)};
  Syscall(SYS_nanosleep, Arg(&time), 0);
}

// The cache line will be written: fetches it for that at once, where a load would first fetch it
// for reading.
inline void PrefetchForWrite(const void* address) {
#if defined(__x86_64__)
  // Every 64-bit core takes it, the oldest ones as a no-op.
  asm volatile("prefetchw %0" : : "m"(*static_cast<const char*>(address)));
#else
  __builtin_prefetch(address, 1);
#endif
}

// Tells the core that this is a loop waiting for another core.
inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  asm volatile("yield");
#endif
}

// Fresh zeroed private memory, or null. Its pages are there at once: all of it is written soon, and
// a page that comes by a fault costs several times as much.
inline void* MapMemory(size_t bytes) {
  constexpr long kReadWrite = 3, kPrivateAnonymous = 0x22, kPopulate = 0x8000;
  const long result = Syscall(SYS_mmap, 0, static_cast<long>(bytes), kReadWrite,
                              kPrivateAnonymous | kPopulate, -1, 0);
  return result < 0 && result > -4096 ? nullptr : reinterpret_cast<void*>(result);
}

inline void UnmapMemory(void* address, size_t bytes) {
  Syscall(SYS_munmap, Arg(address), static_cast<long>(bytes));
}

}  // namespace tessera::guest
