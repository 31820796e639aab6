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
// MPS clients of a card share the turns of one process and are served at the same time, each at its
// percentage of the card; schedule.h has the model. What they were served is counted in the time
// their work takes alone, so with work that does not fill the card the sum of it may be more than
// the card was busy.
//
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
  int pid = 0;              // in the asker's pid namespace; 0 when not visible there
  uint64_t served_ns = 0;   // compute
  uint64_t copied_ns = 0;   // all copy engines
  uint64_t recent_ns = 0;   // of served_ns, within the window asked for
  bool waiting = false;     // has work that is not finished
  uint32_t percentage = 0;  // per mille, of an MPS client; 0: none
};

class Engine {
 public:
  Engine(State* state, uint32_t card) : state_(state), card_(card) {}

  static uint64_t NowNs();  // device time

  // Work whose length is known. It can be served from `ready_ns` on; 0 means from now. It may lie
  // in the past, up to kLateMaxNs: what was decided meanwhile is not changed, but an engine that
  // had nothing to do then served it then, so a host thread that woke up late delays nothing. Takes
  // at least 1 ns. Answers the position at which it is finished, or 0 when the process has no slot
  // in the shared state. `width`: how much of the card it fills, per mille of the multiprocessors;
  // only the turns of MPS clients depend on it.
  uint64_t Submit(uint64_t ready_ns, uint64_t duration_ns, uint32_t width = 1000);

  // Work whose length shows only when the host has computed it: from Begin to End the process wants
  // the engine without limit. The work then takes what the process was served meanwhile, but no
  // less than `at_least_ns`. Begin answers what to hand to End, 0 when the process has no slot; End
  // the position at which the work is finished. Several may be open at once.
  uint64_t Begin(uint64_t ready_ns, uint32_t width = 1000);
  uint64_t End(uint64_t begin, uint64_t at_least_ns);

  struct Progress {
    bool finished = false;
    uint64_t at_ns = 0;          // finished: when, in device time
    uint64_t look_again_ns = 0;  // not finished: device time at which it may be
  };
  // Plays the schedule forward to now and says whether this process was served up to `position`
  // (0 always was). `look_again_ns` is when it will be if everybody only does what is queued now;
  // while others stand before it, never more than kLookAgainMaxNs from now, because they may leave.
  Progress Look(uint64_t position);

  // Forgets what this process has queued, copies too: its context is gone or faulted. The positions
  // of that work count as finished now. Open work stays until its End.
  void Cancel();

  // Makes this process an MPS client of the card (1 to 1000 per mille of it) or, with 0, none.
  // False: no slot, or kMpsClientsMax others are.
  bool SetPercentage(uint32_t permille);

  // Takes a copy engine for `duration_ns`, from `ready_ns` or when it is free. Answers when the
  // copy ends. What a process took that died or was cancelled is free again for later callers.
  uint64_t Copy(CopyLane lane, uint64_t ready_ns, uint64_t duration_ns);

  // For readers: all of it true at one moment, to which the schedule was played.
  struct Account {
    uint64_t at_ns = 0;
    // How long the compute engine served somebody since the state was made, kept apart from the
    // processes' own sums on purpose: one checks the other.
    uint64_t busy_ns = 0;
    uint64_t switching_ns = 0;        // likewise for switches
    uint64_t mps_busy_ns = 0;         // of busy_ns: the turns of MPS clients
    uint64_t mps_served_ns = 0;       // what they were served in them
    uint64_t gone_ns = 0;             // what processes that are dead by now were served
    uint64_t recent_ns = 0;           // of busy_ns, within the window asked for
    uint64_t lane_copied_ns[3] = {};  // copies by CopyLane since the state was made, done by at_ns
    std::vector<EngineUse> uses;      // of those alive
  };
  Account Read(uint64_t window_ns = 0) const;
  std::vector<EngineUse> Uses() const { return Read().uses; }
  uint64_t BusyNs() const { return Read().busy_ns; }
  uint64_t SwitchingNs() const { return Read().switching_ns; }

 private:
  class Session;
  int Slot() const;
  template <typename Operation>
  uint64_t Change(Operation operation) const;

  State* state_;
  uint32_t card_;
};

}  // namespace simgpu
