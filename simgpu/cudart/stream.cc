// Streams and events, which are the driver's own, and stream capture.
#include "simgpu/cudart/runtime.h"

namespace simgpu::cudart {

CUDART_PASS(cudaStreamCreateWithFlags, cuStreamCreate, (CUstream * stream, unsigned int flags),
            (stream, flags))
CUDART_PASS(cudaStreamCreate, cuStreamCreate, (CUstream * stream), (stream, CU_STREAM_DEFAULT))
CUDART_PASS(cudaStreamCreateWithPriority, cuStreamCreateWithPriority,
            (CUstream * stream, unsigned int flags, int priority), (stream, flags, priority))
CUDART_PASS(cudaStreamDestroy, cuStreamDestroy_v2, (CUstream stream), (stream))
CUDART_PASS_STREAM(cudaStreamSynchronize, cuStreamSynchronize, (CUstream stream), (stream))
CUDART_PASS_STREAM(cudaStreamQuery, cuStreamQuery, (CUstream stream), (stream))
CUDART_PASS_STREAM(cudaStreamWaitEvent, cuStreamWaitEvent,
                   (CUstream stream, CUevent event, unsigned int flags), (stream, event, flags))
CUDART_PASS_STREAM(cudaStreamGetFlags, cuStreamGetFlags, (CUstream stream, unsigned int* flags),
                   (stream, flags))
CUDART_PASS_STREAM(cudaStreamGetPriority, cuStreamGetPriority, (CUstream stream, int* priority),
                   (stream, priority))
CUDART_PASS_STREAM(cudaStreamGetId, cuStreamGetId, (CUstream stream, unsigned long long* id),
                   (stream, id))
CUDART_PASS_STREAM(cudaStreamGetDevice, cuStreamGetDevice, (CUstream stream, int* device),
                   (stream, device))
CUDART_PASS_STREAM(cudaStreamGetAttribute, cuStreamGetAttribute,
                   (CUstream stream, CUstreamAttrID attribute, CUstreamAttrValue* value),
                   (stream, attribute, value))
CUDART_PASS_STREAM(cudaStreamSetAttribute, cuStreamSetAttribute,
                   (CUstream stream, CUstreamAttrID attribute, const CUstreamAttrValue* value),
                   (stream, attribute, value))
CUDART_PASS_STREAM(cudaStreamAttachMemAsync, cuStreamAttachMemAsync,
                   (CUstream stream, void* pointer, size_t length, unsigned int flags),
                   (stream, Address(pointer), length, flags))
// The driver calls back with its result type, whose values are the runtime's.
CUDART_PASS_STREAM(cudaStreamAddCallback, cuStreamAddCallback,
                   (CUstream stream, cudaStreamCallback_t callback, void* user_data,
                    unsigned int flags),
                   (stream, reinterpret_cast<CUstreamCallback>(callback), user_data, flags))

CUDART_PASS(cudaStreamCopyAttributes, cuStreamCopyAttributes, (CUstream to, CUstream from),
            (to, from))
CUDART_PASS(cudaStreamCopyAttributes_ptsz, cuStreamCopyAttributes, (CUstream to, CUstream from),
            (OwnStream(to), OwnStream(from)))

CUDART_PASS(cudaEventCreateWithFlags, cuEventCreate, (CUevent * event, unsigned int flags),
            (event, flags))
CUDART_PASS(cudaEventCreate, cuEventCreate, (CUevent * event), (event, CU_EVENT_DEFAULT))
CUDART_PASS(cudaEventDestroy, cuEventDestroy_v2, (CUevent event), (event))
CUDART_PASS_STREAM(cudaEventRecord, cuEventRecord, (CUevent event, CUstream stream),
                   (event, stream))
CUDART_PASS_STREAM(cudaEventRecordWithFlags, cuEventRecordWithFlags,
                   (CUevent event, CUstream stream, unsigned int flags), (event, stream, flags))
CUDART_PASS(cudaEventQuery, cuEventQuery, (CUevent event), (event))
CUDART_PASS(cudaEventSynchronize, cuEventSynchronize, (CUevent event), (event))
CUDART_PASS(cudaEventElapsedTime, cuEventElapsedTime_v2,
            (float* milliseconds, CUevent start, CUevent end), (milliseconds, start, end))

// Capture.

CUDART_PASS_STREAM(cudaStreamBeginCapture, cuStreamBeginCapture_v2,
                   (CUstream stream, CUstreamCaptureMode mode), (stream, mode))
CUDART_PASS_STREAM(cudaStreamBeginCaptureToGraph, cuStreamBeginCaptureToGraph,
                   (CUstream stream, CUgraph graph, const CUgraphNode* dependencies,
                    const CUgraphEdgeData* edges, size_t count, CUstreamCaptureMode mode),
                   (stream, graph, dependencies, edges, count, mode))
CUDART_PASS_STREAM(cudaStreamEndCapture, cuStreamEndCapture, (CUstream stream, CUgraph* graph),
                   (stream, graph))
CUDART_PASS_STREAM(cudaStreamIsCapturing, cuStreamIsCapturing,
                   (CUstream stream, CUstreamCaptureStatus* status), (stream, status))
CUDART_PASS_STREAM(cudaStreamGetCaptureInfo, cuStreamGetCaptureInfo_v3,
                   (CUstream stream, CUstreamCaptureStatus* status, cuuint64_t* id, CUgraph* graph,
                    const CUgraphNode** dependencies, const CUgraphEdgeData** edges, size_t* count),
                   (stream, status, id, graph, dependencies, edges, count))
CUDART_PASS_STREAM(cudaStreamUpdateCaptureDependencies, cuStreamUpdateCaptureDependencies_v2,
                   (CUstream stream, CUgraphNode* dependencies, const CUgraphEdgeData* edges,
                    size_t count, unsigned int flags),
                   (stream, dependencies, edges, count, flags))
CUDART_PASS(cudaThreadExchangeStreamCaptureMode, cuThreadExchangeStreamCaptureMode,
            (CUstreamCaptureMode * mode), (mode))

}  // namespace simgpu::cudart
