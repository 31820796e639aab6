#include "os/clock.h"

#include <time.h>

#include <cerrno>

namespace tessera::os {
namespace {

class PosixClock : public Clock {
 public:
  std::int64_t MonotonicNanos() const override {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
  }

  std::int64_t WallMicros() const override {
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * 1'000'000LL + now.tv_nsec / 1000;
  }

  void SleepNanos(std::int64_t nanos) const override {
    if (nanos <= 0) return;
    timespec left{nanos / 1'000'000'000, nanos % 1'000'000'000};
    while (clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left) == EINTR) {
    }
  }
};

}  // namespace

const Clock& RealClock() {
  static const PosixClock* const clock =
      new PosixClock;  // Never destroyed: threads may outlive main.
  return *clock;
}

}  // namespace tessera::os
