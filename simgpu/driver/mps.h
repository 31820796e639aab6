// This process as a client of the simulated MPS: asked when it makes a context, as
// CUDA_MPS_PIPE_DIRECTORY says. Where no daemon answers the process is a plain one.
#pragma once

#include "simgpu/driver/driver.h"

namespace simgpu {

// Joins the server for that card, once a card. Mutex held; the process has its slot. An error when
// there is a server that does not take this client.
CUresult JoinMps(Driver* driver, uint32_t card);
// Tells the server that a kernel of ours faulted: all its clients share the fault.
void TellMpsFault(unsigned int code);

}  // namespace simgpu
