// Time behind an interface, so that services and tests share code. Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>

namespace tessera::os {

class Clock {
 public:
  virtual ~Clock() = default;
  // Nanoseconds that never go back; zero point arbitrary.
  virtual std::int64_t MonotonicNanos() const = 0;
  // Microseconds since 1970-01-01 UTC; bills and audit use this one.
  virtual std::int64_t WallMicros() const = 0;
  virtual void SleepNanos(std::int64_t nanos) const = 0;
};

// The machine's clocks.
const Clock& RealClock();

// A clock a test moves by hand; sleeping advances it.
class FakeClock : public Clock {
 public:
  explicit FakeClock(std::int64_t wall_micros = 1'700'000'000'000'000)
      : wall_micros_(wall_micros) {}
  std::int64_t MonotonicNanos() const override { return wall_micros_ * 1000; }
  std::int64_t WallMicros() const override { return wall_micros_; }
  void SleepNanos(std::int64_t nanos) const override { wall_micros_ += nanos / 1000; }
  void AdvanceMicros(std::int64_t micros) { wall_micros_ += micros; }

 private:
  mutable std::atomic<std::int64_t> wall_micros_;
};

}  // namespace tessera::os
