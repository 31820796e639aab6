// Stream capture, as the calls that meet it see it: who has to ask before acting, and what comes of
// it. All with Driver::mutex held.
//
// A capture is one graph that grows while one or several streams put their work into it instead of
// doing it. Calls that would need that work's results, or that hide from a capture, are refused,
// and the captures they spoil become invalid: every later use of their streams answers
// CUDA_ERROR_STREAM_CAPTURE_INVALIDATED until they are ended.
#pragma once

#include <optional>

#include "simgpu/driver/work.h"

namespace simgpu {

// For Put and everything else that adds work to a stream. Nothing: the stream does not capture, go
// on. Else the call's answer; on success the action became a node (an event record or wait without
// the external flag becomes an edge). `legacy` says that the stream is the legacy default one.
// Waiting for an event that was recorded in a capture draws the stream into that capture.
std::optional<CUresult> Captured(Driver* driver, Context* context, Stream* stream, bool legacy,
                                 Action* action);
// The same for cuMemAllocAsync and cuMemAllocFromPoolAsync, which answer an address. `pool` may be
// null. Frees go through Captured.
std::optional<CUresult> CapturedAlloc(Driver* driver, Context* context, Stream* stream, bool legacy,
                                      uint64_t bytes, uint64_t* address);

// For calls that wait for, or ask after, what a handle stands for (cuStreamSynchronize,
// cuStreamQuery, cuCtxSynchronize, cuEventSynchronize, cuEventQuery, cuEventElapsedTime).
CUresult CheckNotCaptured(Driver* driver, Context* context, Stream* stream, bool legacy);
CUresult CheckNotCaptured(Driver* driver, Context* context);
CUresult CheckNotCaptured(Driver* driver, Event* event);
// For calls that a capture would not notice and that may wait behind the scenes: synchronous
// allocation and freeing, synchronous copies and fills, peer access, context and module changes.
CUresult CheckUnsafeCall(Driver* driver);

// The stream is being destroyed.
void ForgetCapture(Driver* driver, Stream* stream);

}  // namespace simgpu
