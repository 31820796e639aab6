// The way of a submission when the gate is not open. Every wrapper of treatment "gate" comes here
// with its arguments as words.
#pragma once

#include <stdint.h>

#include "guest/cuda/entries.h"

namespace tessera::guest {

// gates.S knows this layout.
struct GateFrame {
  uint64_t words[6];     // the first six arguments
  const uint64_t* more;  // the others
  uint32_t called;       // set by tessera_gate_enter: call the function and then tessera_gate_leave
  uint32_t index;
  uint32_t stream;  // of process.turns.streams; kMarksMax: none
  uint32_t nanos;
  uint64_t handle;  // the stream as the driver takes it
  uint32_t cost;
  uint32_t waited;  // the call itself waits for its work
  uint64_t key;     // of the stream, among the process's
  uint32_t most;    // what else this thread may submit is no longer than this
  uint32_t reserved;
};
static_assert(sizeof(GateFrame) == 104);
// GateFrame::stream of a launch that only its thread's lane knows of.
inline constexpr uint32_t kStreamOfLane = UINT32_MAX;

extern "C" {
// The driver's function, or null; says in the frame whether to jump to it or to call it.
[[gnu::visibility("hidden")]] void* tessera_gate_enter(GateFrame* frame, uint32_t index);
[[gnu::visibility("hidden")]] void tessera_gate_leave(GateFrame* frame, abi::CUresult result);
[[gnu::visibility("hidden")]] abi::CUresult tessera_gate_missing();
}

// A context is gone: what it had outstanding will never complete, and what was registered in it is
// not any more.
void ForgetMarks();

}  // namespace tessera::guest
