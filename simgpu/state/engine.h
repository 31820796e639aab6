// The engines of one card: whose work they do when, in device time, agreed on by all processes
// without a daemon.
//
// Device time is the machine's CLOCK_MONOTONIC in nanoseconds. The compute engine does the work of
// one process at a time, round robin over those that have some, in slices of the profile's
// time_slice_us; a change of process costs switch_us in which nobody is served. Nobody has to be
// awake for that: the queues stand in the shared state, and whoever looks first plays the schedule
// forward to the present moment, the same for everybody. So a wake-up that comes late changes no
// figure, a process that dies is dropped from the schedule, and what each process was served and
// what the card was busy are exact. A card that is idle costs nothing.
//
// A process's compute queue is one line: what it submits is served in order. Positions in it are
// cumulative served nanoseconds: work is finished once the process was served up to its end.
// Each copy engine serves requests in the order they are made, one at a time, whole.
//
// An Engine belongs to a State and lives as long. Thread-safe. Calls answer at once; waiting is the
// caller's business (Look says until when). A forked child begins with an empty queue.
#pragma once

#include <cstdint>
#include <vector>

namespace simgpu {

class State;

// Which copy engine a copy takes. A card with one copy engine does all on that one.
enum class CopyLane : uint8_t { kToDevice, kFromDevice, kOnDevice };

// What one live process was served on a card since it began.
struct EngineUse {
  uint32_t slot = 0;
  int pid = 0;             // in the asker's pid namespace; 0 when not visible there
  uint64_t served_ns = 0;  // compute
  uint64_t copied_ns = 0;  // all copy engines
  bool waiting = false;    // has work that is not finished
};

class Engine {
 public:
  Engine(State* state, uint32_t card) : state_(state), card_(card) {}

  static uint64_t NowNs();  // device time

  // Work whose length is known. It can be served from `ready_ns` on (which may lie in the past: a
  // schedule that was played beyond it is not changed). Answers the position at which it is
  // finished, or 0 when the process has no slot in the shared state.
  uint64_t Submit(uint64_t ready_ns, uint64_t duration_ns);

  // Work whose length shows only when the host has computed it: from Begin to End the process wants
  // the engine without limit. The work then takes what the process was served meanwhile, but no
  // less than `at_least_ns`. Begin answers a position to hand to End; End the one at which the work
  // is finished. Several may be open at once.
  uint64_t Begin(uint64_t ready_ns);
  uint64_t End(uint64_t begin, uint64_t at_least_ns);

  struct Progress {
    bool finished = false;
    uint64_t at_ns = 0;       // finished: when, in device time
    uint64_t look_again_ns = 0;  // not finished: device time before which it cannot be
  };
  // Plays the schedule forward to now and says whether this process was served up to `position`.
  Progress Look(uint64_t position);

  // Forgets what this process has queued: its context is gone or faulted.
  void Cancel();

  // Takes a copy engine for `duration_ns`, from `ready_ns` or when it is free. Answers when the
  // copy ends.
  uint64_t Copy(CopyLane lane, uint64_t ready_ns, uint64_t duration_ns);

  // For readers. Each plays the schedule forward to now first.
  std::vector<EngineUse> Uses();
  // How long the compute engine served somebody since the state was made, kept apart from the
  // processes' own sums on purpose: one checks the other. `switching_ns` likewise for switches.
  uint64_t BusyNs();
  uint64_t SwitchingNs();

 private:
  State* state_;
  uint32_t card_;
};

}  // namespace simgpu
