// The simulated MPS server: one process that its clients' connections end in. It holds no card
// itself; what clients are served is the engine's business (state/schedule.h).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace simgpu::mps {

inline constexpr uint32_t kDefaultPermille = 1000;

// What clients that come from now on are given.
struct Settings {
  uint32_t permille = kDefaultPermille;
  std::map<uint32_t, uint64_t> limits;  // bytes of device memory a client, by device ordinal
  std::vector<std::string> devices;     // UUIDs, in order of the ordinals
};

// Serves until its daemon says so, or is gone and the last client too. `daemon` is a SEQPACKET
// socket: the daemon sends a client's connection with the message "client", and asks by others:
//   percentage P | limit DEVICE BYTES     -> "ok"
//   clients                                -> PIDs, one a line
//   status                                 -> ACTIVE or FAULT
//   terminate PID                          -> "ok" or "no such client"
//   end | force                            -> "ok", when no client is left; "busy" else
// Does not return.
[[noreturn]] void Serve(int daemon, Settings settings);

}  // namespace simgpu::mps
