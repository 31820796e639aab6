// Runs tessera-probe beside a reader: the mechanics of "start a child that holds one context, look
// from outside, end it". Not thread-safe; one object per measurement; the destructor ends and reaps
// the child.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "base/result.h"
#include "os/fd.h"

namespace tessera::vendors {

class Probe {
 public:
  struct Options {
    std::string program;
    std::string card_uuid;     // becomes the child's CUDA_VISIBLE_DEVICES
    std::string library_path;  // becomes its LD_LIBRARY_PATH; empty: inherited
    std::int64_t deadline_millis = 20'000;
  };
  // Starts the child and waits until it holds its context. kDeadlineExceeded names the bound; a
  // child that reports an error or dies is kUnavailable with its own words.
  static Result<Probe> Start(const Options& options);

  Probe(Probe&& other) noexcept;
  Probe(const Probe&) = delete;
  Probe& operator=(const Probe&) = delete;
  Probe& operator=(Probe&&) = delete;
  ~Probe();

  pid_t pid() const { return pid_; }
  // Milliseconds until the deadline given to Start; 0 when it has passed.
  std::int64_t MillisLeft() const;

 private:
  Probe() = default;
  Status AwaitReady(int output);

  pid_t pid_ = -1;
  os::Fd hold_;  // the child's stdin: closing it lets the child go
  std::int64_t deadline_nanos_ = 0;
  std::int64_t deadline_millis_ = 0;
};

// The probe's path when none is configured: tessera-probe beside the running program.
Result<std::string> DefaultProbeProgram();

}  // namespace tessera::vendors
