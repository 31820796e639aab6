// Bounds of the runtime, shared by the library and tessera-init. Every refusal names the one it
// hit.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tessera::runtime {

inline constexpr std::size_t kArgvMax = 256;             // entries of one command line
inline constexpr std::size_t kArgvBytesMax = 32 * 1024;  // bytes of one command line
inline constexpr std::size_t kEnvironmentMax = 256;      // tenant's variables; the node's likewise
inline constexpr std::size_t kEnvironmentBytesMax = 128 * 1024;
inline constexpr std::size_t kBindsMax = 64;       // node's binds of one instance
inline constexpr std::size_t kInstanceIdMax = 63;  // characters
inline constexpr std::size_t kPathMax = 4'000;     // bytes of one path
inline constexpr std::size_t kExecOutputBytesMax = 1 << 20;
inline constexpr std::size_t kExecStdinBytesMax = 16 << 20;
inline constexpr std::size_t kExecsMax = 16;               // commands inside one instance at a time
inline constexpr std::size_t kLogChunkBytesMax = 1 << 20;  // one ReadLog
inline constexpr int kStartWaitMillis = 20'000;  // the supervisor answers Start within this time
inline constexpr int kKillWaitMillis = 15'000;   // a killed tree is gone within this time
inline constexpr int kHeartbeatMillis = 2'000;   // a lost instance's end is known to this precision

// Answers of the control socket that are no exit code.
inline constexpr std::int32_t kExecRefusedBusy = -1;
inline constexpr std::int32_t kExecRefusedFailed = -2;

}  // namespace tessera::runtime
