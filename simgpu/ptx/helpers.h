// Host threads that help with launches, shared by all launches of the process.
#pragma once

#include <cstdint>
#include <functional>

namespace simgpu::ptx {

// Helpers that exist at most; a call that finds none idle is served by its own thread.
inline constexpr uint32_t kHelperThreadsMax = 64;

// Calls body(0) here and body(1) to body(count - 1) on helpers; returns when all have returned.
// What no helper has taken by then is called here too, so no call may wait for another.
// Thread-safe.
void RunWithHelpers(uint32_t count, const std::function<void(uint32_t)>& body);

}  // namespace simgpu::ptx
