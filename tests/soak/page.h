// The page the soak's controller shares with its walkers: what each is at, and when all must stand
// still. A plain file mapped by everybody; words are accessed with the __atomic builtins.
#pragma once

#include <cstdint>

namespace tessera::soak {

inline constexpr std::uint32_t kWalkersMax = 64;
inline constexpr char kPageVariable[] = "SOAK_PAGE";

// What a walker does, one step at a time.
enum Step : std::uint32_t {
  kStart,
  kPlain,
  kPitch,
  kManaged,
  kAsync,
  kPool,
  kVirtual,
  kArray,
  kMipmap,
  kContext,
  kModule,
  kGraphMemory,
  kDrop,
  kLaunch,
  kGraph,
  kStreams,
  kContextFull,
  kThreads,
  kFork,
  kExec,
  kIpc,
  kInfo,
  kSteps,
};
inline constexpr const char* kStepNames[kSteps] = {
    "start",        "plain",   "pitch",  "managed",      "async", "pool",   "virtual", "array",
    "mipmap",       "context", "module", "graph_memory", "drop",  "launch", "graph",   "streams",
    "context_full", "threads", "fork",   "exec",         "ipc",   "info"};

inline constexpr std::uint32_t kRecent = 16;

struct Line {
  std::uint32_t step;        // what it is doing
  std::uint32_t paused;      // stands still, with nothing in flight
  std::uint64_t progress;    // rises with every driver call that came back, children's included
  std::uint64_t refusals;    // out of memory
  std::uint64_t unattached;  // children that found no node
  std::uint64_t wrong;       // anything that must not happen; the first is described
  // Bytes an executable graph it holds may allocate: charged as long as it is executable, held by
  // the driver from a launch to a trim.
  std::uint64_t claimed;
  char what[128];
  std::uint32_t recent[kRecent];  // the last steps, a ring
  std::uint32_t taken;            // steps so far: its head
  std::uint64_t steps[kSteps];
};

struct Page {
  std::uint32_t pause;  // everybody stands still while it is not 0
  std::uint32_t stop;   // everybody gives all back and ends
  Line lines[kWalkersMax];
};

}  // namespace tessera::soak
