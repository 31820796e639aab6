// Stream capture: streams that record instead of doing.
#include "simgpu/driver/capture.h"

#include <pthread.h>

#include <algorithm>
#include <unordered_set>

#include "simgpu/driver/graph.h"
#include "simgpu/driver/graph_memory.h"

namespace simgpu {

// One capture from its begin to its end. Driver::mutex.
struct Capture {
  uint64_t id = 0;
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
  pthread_t thread{};
  std::shared_ptr<Graph> graph;  // its own; null when it captures into a graph of the program's
  Graph* into = nullptr;
  Stream* origin = nullptr;
  std::vector<Stream*> streams;  // the origin included
  bool invalid = false;
  bool ended = false;
  std::vector<CUgraphEdgeData> edge_data;  // what cuStreamGetCaptureInfo points to
};

namespace {

thread_local CUstreamCaptureMode t_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

// Those under way. Driver::mutex.
std::vector<std::shared_ptr<Capture>>& Captures() {
  static auto* captures = new std::vector<std::shared_ptr<Capture>>;
  return *captures;
}

// Whether work in the legacy default stream would wait for, or hold up, a captured stream. With
// `spoil` such captures become invalid.
bool LegacyMeetsCapture(const Context* context, bool spoil) {
  bool meets = false;
  for (const auto& capture : Captures()) {
    const bool blocks = std::ranges::any_of(capture->streams, [&](const Stream* stream) {
      return stream->context == context && stream->blocking;
    });
    if (!blocks || capture->invalid) continue;
    meets = true;
    if (spoil) capture->invalid = true;
  }
  return meets;
}

void Leave(Capture* capture) {
  for (Stream* stream : capture->streams) {
    stream->capture_after.clear();
    stream->capture.reset();
  }
  capture->streams.clear();
}

// Takes the capture out of the world; the caller holds it. What it captured into a graph of its own
// goes too unless it was handed on.
void End(Driver* driver, const std::shared_ptr<Capture>& capture) {
  Leave(capture.get());
  capture->ended = true;
  CountCapture(capture->into, -1);
  capture->into = nullptr;
  if (capture->graph != nullptr) {
    DropGraph(driver, capture->graph.get());
    capture->graph.reset();
    SweepGraphMemory(driver);
  }
  std::erase(Captures(), capture);
}

void Merge(std::vector<GraphNode*>* into, const std::vector<GraphNode*>& from) {
  for (GraphNode* node : from) {
    if (std::ranges::find(*into, node) == into->end()) into->push_back(node);
  }
}

CUresult Refuse(Capture* capture, CUresult why) {
  capture->invalid = true;
  return why;
}

// A node for the stream's next piece of work.
CUresult AddCaptured(Driver* driver, Stream* stream, NodeBody body, GraphNode** made) {
  Capture* capture = stream->capture.get();
  std::vector<GraphEdge> before;
  for (GraphNode* node : stream->capture_after) before.push_back({node, {}});
  GraphNode* node = nullptr;
  if (CUresult bad = AddNode(driver, capture->into, before, std::move(body), &node)) {
    return Refuse(capture, bad);
  }
  if (node->body.memory != nullptr) NoteMemoryNode(capture->into, *node);
  stream->capture_after.assign(1, node);
  if (made != nullptr) *made = node;
  return CUDA_SUCCESS;
}

CUstreamBatchMemOpParams OperationOf(const WordAction& word) {
  CUstreamBatchMemOpParams op{};
  const bool wide = word.bytes == 8;
  if (word.write) {
    op.operation = wide ? CU_STREAM_MEM_OP_WRITE_VALUE_64 : CU_STREAM_MEM_OP_WRITE_VALUE_32;
  } else {
    op.operation = wide ? CU_STREAM_MEM_OP_WAIT_VALUE_64 : CU_STREAM_MEM_OP_WAIT_VALUE_32;
  }
  op.address = word.address;
  op.value64 = word.value;
  op.flags = word.flags;
  return op;
}

// What node an action becomes. Event records and waits without the external flag never get here.
CUresult BodyOf(const Stream& stream, Action* action, NodeBody* body) {
  body->context = stream.context;
  if (auto* kernel = std::get_if<KernelAction>(action)) {
    body->type = CU_GRAPH_NODE_TYPE_KERNEL;
    body->context = kernel->context;
    body->attributes[CU_LAUNCH_ATTRIBUTE_PRIORITY].priority = stream.priority;
    if (kernel->cooperative) body->attributes[CU_LAUNCH_ATTRIBUTE_COOPERATIVE].cooperative = 1;
  } else if (std::holds_alternative<CopyAction>(*action)) {
    body->type = CU_GRAPH_NODE_TYPE_MEMCPY;
  } else if (std::holds_alternative<FillAction>(*action)) {
    body->type = CU_GRAPH_NODE_TYPE_MEMSET;
  } else if (auto* host = std::get_if<HostAction>(action)) {
    // Stream callbacks are told a status, which only a stream has.
    if (host->callback != nullptr) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    body->type = CU_GRAPH_NODE_TYPE_HOST;
  } else if (std::holds_alternative<EventRecordAction>(*action)) {
    body->type = CU_GRAPH_NODE_TYPE_EVENT_RECORD;
  } else if (std::holds_alternative<EventWaitAction>(*action)) {
    body->type = CU_GRAPH_NODE_TYPE_WAIT_EVENT;
  } else if (auto* word = std::get_if<WordAction>(action)) {
    body->type = CU_GRAPH_NODE_TYPE_BATCH_MEM_OP;
    body->ops.push_back(OperationOf(*word));
    return CUDA_SUCCESS;
  } else if (auto* freed = std::get_if<FreeAction>(action)) {
    body->type = CU_GRAPH_NODE_TYPE_MEM_FREE;
    body->memory = FindGraphMemory(freed->address);
    if (body->memory == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (CUresult bad = CheckMemoryNode(stream.capture->into, *body)) return bad;
  } else if (auto* child = std::get_if<ChildAction>(action)) {
    body->type = CU_GRAPH_NODE_TYPE_GRAPH;
    body->child = std::move(child->graph);
    return CUDA_SUCCESS;
  } else {
    body->type = CU_GRAPH_NODE_TYPE_EMPTY;
  }
  body->action = std::move(*action);
  return CUDA_SUCCESS;
}

// A stream waits for an event that has to do with a capture, or a captured stream for any event.
CUresult CapturedWait(Stream* stream, const Event& event) {
  Capture* of_stream = stream->capture.get();
  Capture* of_event = event.capture.get();
  if (of_event == nullptr || of_event->ended) {
    if (of_stream == nullptr) return CUDA_ERROR_CAPTURED_EVENT;
    return Refuse(of_stream, CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
  }
  if (of_stream != nullptr && of_stream != of_event) {
    of_event->invalid = true;
    return Refuse(of_stream, CUDA_ERROR_STREAM_CAPTURE_MERGE);
  }
  if (of_event->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  if (of_stream == nullptr) {
    stream->capture = event.capture;
    of_event->streams.push_back(stream);
  }
  Merge(&stream->capture_after, event.capture_after);
  return CUDA_SUCCESS;
}

// Whether everything other streams captured comes before what the origin captured last.
bool AllJoined(const Capture& capture) {
  std::unordered_set<const GraphNode*> joined(capture.origin->capture_after.begin(),
                                              capture.origin->capture_after.end());
  std::vector<const GraphNode*> open(joined.begin(), joined.end());
  while (!open.empty()) {
    const GraphNode* node = open.back();
    open.pop_back();
    for (const GraphEdge& edge : node->before) {
      if (joined.insert(edge.node).second) open.push_back(edge.node);
    }
  }
  return std::ranges::all_of(capture.streams, [&](const Stream* stream) {
    return std::ranges::all_of(stream->capture_after,
                               [&](const GraphNode* node) { return joined.contains(node); });
  });
}

CUresult Begin(CUstream handle, StreamForm form, CUstreamCaptureMode mode, const CUgraph* into,
               const CUgraphNode* dependencies, const CUgraphEdgeData* data, size_t count) {
  SIMGPU_CURRENT(driver, context);
  if (mode > CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  Stream* stream = nullptr;
  if (CUresult bad = FindStream(driver, context, handle, form, &stream)) return bad;
  if (stream == stream->context->legacy) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (stream->capture != nullptr) return CUDA_ERROR_ILLEGAL_STATE;
  auto capture = std::make_shared<Capture>();
  std::vector<GraphNode*> after;
  if (into != nullptr) {
    if (CUresult bad = FindGraph(*driver, *into, &capture->into)) return bad;
    if (capture->into->capturing > 0) return CUDA_ERROR_INVALID_VALUE;
    if (CUresult bad = FindNodes(*driver, capture->into, dependencies, count, &after)) return bad;
    for (size_t i = 0; i < count; ++i) {
      if (CUresult bad = CheckEdgeData(after[i], data != nullptr ? &data[i] : nullptr)) return bad;
    }
  } else {
    capture->graph = NewGraph(driver);
    if (capture->graph == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
    capture->into = capture->graph.get();
  }
  CountCapture(capture->into, 1);
  capture->id = driver->next_id++;
  capture->mode = mode;
  capture->thread = pthread_self();
  capture->origin = stream;
  capture->streams.push_back(stream);
  stream->capture = capture;
  stream->capture_after = std::move(after);
  Captures().push_back(std::move(capture));
  return CUDA_SUCCESS;
}

CUresult EndCapture(CUstream handle, StreamForm form, CUgraph* graph) {
  SIMGPU_CURRENT(driver, context);
  if (graph == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *graph = nullptr;
  std::lock_guard guard(driver->mutex);
  Stream* stream = nullptr;
  if (CUresult bad = FindStream(driver, context, handle, form, &stream)) return bad;
  const std::shared_ptr<Capture> capture = stream->capture;
  if (capture == nullptr) return CUDA_ERROR_ILLEGAL_STATE;
  if (capture->origin != stream) return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
  if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED &&
      pthread_equal(capture->thread, pthread_self()) == 0) {
    return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
  }
  CUresult result = CUDA_SUCCESS;
  if (capture->invalid) {
    result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  } else if (!AllJoined(*capture)) {
    result = CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
  } else {
    *graph = HandleOf(capture->into);
    if (capture->graph != nullptr) Own(std::move(capture->graph));
    capture->graph.reset();
  }
  End(driver, capture);
  return result;
}

CUresult IsCapturing(CUstream handle, StreamForm form, CUstreamCaptureStatus* status,
                     const Stream** stream_out) {
  SIMGPU_CURRENT(driver, context);
  if (status == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Stream* stream = nullptr;
  if (CUresult bad = FindStream(driver, context, handle, form, &stream)) return bad;
  if (stream == stream->context->legacy && LegacyMeetsCapture(stream->context, false)) {
    return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
  }
  *status = stream->capture == nullptr ? CU_STREAM_CAPTURE_STATUS_NONE
            : stream->capture->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                       : CU_STREAM_CAPTURE_STATUS_ACTIVE;
  *stream_out = stream;
  return CUDA_SUCCESS;
}

CUresult Status(CUstream handle, StreamForm form, CUstreamCaptureStatus* status) {
  SIMGPU_DRIVER(driver);
  std::lock_guard guard(driver->mutex);
  const Stream* stream = nullptr;
  return IsCapturing(handle, form, status, &stream);
}

CUresult Info(CUstream handle, StreamForm form, CUstreamCaptureStatus* status, cuuint64_t* id,
              CUgraph* graph, const CUgraphNode** dependencies, const CUgraphEdgeData** data,
              size_t* count) {
  SIMGPU_DRIVER(driver);
  if (data != nullptr && dependencies == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  const Stream* stream = nullptr;
  if (CUresult bad = IsCapturing(handle, form, status, &stream)) return bad;
  if (*status != CU_STREAM_CAPTURE_STATUS_ACTIVE) return CUDA_SUCCESS;
  Capture* capture = stream->capture.get();
  if (id != nullptr) *id = capture->id;
  if (graph != nullptr) *graph = HandleOf(capture->into);
  if (count != nullptr) *count = stream->capture_after.size();
  if (dependencies != nullptr) {
    // A node's handle is its address.
    *dependencies = reinterpret_cast<const CUgraphNode*>(stream->capture_after.data());
  }
  if (data != nullptr) {
    capture->edge_data.assign(stream->capture_after.size(), CUgraphEdgeData{});
    *data = capture->edge_data.data();
  }
  return CUDA_SUCCESS;
}

CUresult UpdateDependencies(CUstream handle, StreamForm form, const CUgraphNode* dependencies,
                            const CUgraphEdgeData* data, size_t count, unsigned int flags) {
  SIMGPU_CURRENT(driver, context);
  if (flags > CU_STREAM_SET_CAPTURE_DEPENDENCIES) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  Stream* stream = nullptr;
  if (CUresult bad = FindStream(driver, context, handle, form, &stream)) return bad;
  if (stream->capture == nullptr) return CUDA_ERROR_ILLEGAL_STATE;
  if (stream->capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  std::vector<GraphNode*> nodes;
  if (CUresult bad = FindNodes(*driver, stream->capture->into, dependencies, count, &nodes)) {
    return bad;
  }
  for (size_t i = 0; i < count; ++i) {
    if (CUresult bad = CheckEdgeData(nodes[i], data != nullptr ? &data[i] : nullptr)) return bad;
  }
  if (flags == CU_STREAM_SET_CAPTURE_DEPENDENCIES) {
    stream->capture_after = std::move(nodes);
  } else {
    Merge(&stream->capture_after, nodes);
  }
  return CUDA_SUCCESS;
}

}  // namespace

std::optional<CUresult> Captured(Driver* driver, Context*, Stream* stream, bool legacy,
                                 Action* action) {
  auto* wait = std::get_if<EventWaitAction>(action);
  auto* record = std::get_if<EventRecordAction>(action);
  const bool inner_wait = wait != nullptr && !wait->external;
  if (wait != nullptr && !driver->live.contains(wait->event)) return CUDA_ERROR_INVALID_HANDLE;
  if (legacy) {
    if (LegacyMeetsCapture(stream->context, true)) return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    if (inner_wait && wait->event->capture != nullptr && !wait->event->capture->ended) {
      return Refuse(wait->event->capture.get(), CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    }
  }
  if (stream->capture != nullptr && stream->capture->invalid) {
    return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  }
  if (inner_wait && (stream->capture != nullptr || wait->event->capture != nullptr)) {
    return CapturedWait(stream, *wait->event);
  }
  if (stream->capture == nullptr) {
    if (record != nullptr) {
      record->event->capture.reset();
      record->event->capture_after.clear();
    }
    return std::nullopt;
  }
  if (record != nullptr && !record->external) {
    record->event->capture = stream->capture;
    record->event->capture_after = stream->capture_after;
    return CUDA_SUCCESS;
  }
  NodeBody body;
  if (CUresult bad = BodyOf(*stream, action, &body)) {
    return Refuse(stream->capture.get(), bad);
  }
  return AddCaptured(driver, stream, std::move(body), nullptr);
}

std::optional<CUresult> CapturedAlloc(Driver* driver, Context*, Stream* stream, bool legacy,
                                      uint64_t bytes, uint64_t* address) {
  if (legacy && LegacyMeetsCapture(stream->context, true)) {
    return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
  }
  if (stream->capture == nullptr) return std::nullopt;
  if (stream->capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  NodeBody body;
  body.type = CU_GRAPH_NODE_TYPE_MEM_ALLOC;
  body.context = stream->context;
  if (CUresult bad = NewGraphMemory(driver, stream->context->device, bytes, &body.memory)) {
    return Refuse(stream->capture.get(), bad);
  }
  body.memory->props.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  body.memory->props.location = {CU_MEM_LOCATION_TYPE_DEVICE, stream->context->device};
  body.action = AllocAction{body.memory->address};
  *address = body.memory->address;
  return AddCaptured(driver, stream, std::move(body), nullptr);
}

CUresult CheckNotCaptured(Driver*, Context*, Stream* stream, bool legacy) {
  if (legacy && LegacyMeetsCapture(stream->context, true)) {
    return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
  }
  if (stream->capture == nullptr) return CUDA_SUCCESS;
  if (stream->capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  return Refuse(stream->capture.get(), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
}

CUresult CheckNotCaptured(Driver*, Context* context) {
  CUresult result = CUDA_SUCCESS;
  for (const auto& capture : Captures()) {
    const bool here = std::ranges::any_of(
        capture->streams, [&](const Stream* stream) { return stream->context == context; });
    if (here) result = Refuse(capture.get(), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  }
  return result;
}

CUresult CheckNotCaptured(Driver*, Event* event) {
  if (event->capture == nullptr) return CUDA_SUCCESS;
  return Refuse(event->capture.get(), CUDA_ERROR_CAPTURED_EVENT);
}

CUresult CheckUnsafeCall(Driver*) {
  if (t_mode == CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_SUCCESS;
  CUresult result = CUDA_SUCCESS;
  for (const auto& capture : Captures()) {
    if (capture->invalid) continue;
    const bool mine = pthread_equal(capture->thread, pthread_self()) != 0;
    const bool forbids = mine ? capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED
                              : capture->mode == CU_STREAM_CAPTURE_MODE_GLOBAL &&
                                    t_mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
    if (forbids) result = Refuse(capture.get(), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  }
  return result;
}

void ForgetCapture(Driver* driver, Stream* stream) {
  const std::shared_ptr<Capture> capture = stream->capture;
  if (capture == nullptr) return;
  capture->invalid = true;
  if (capture->origin == stream) {
    End(driver, capture);  // nobody could end it any more
    return;
  }
  std::erase(capture->streams, stream);
  stream->capture.reset();
  stream->capture_after.clear();
}

}  // namespace simgpu

namespace tessera::abi {
using namespace simgpu;  // NOLINT

extern "C" {

CUresult cuStreamBeginCapture(CUstream stream) {
  return Begin(stream, StreamForm::kLegacy, CU_STREAM_CAPTURE_MODE_GLOBAL, nullptr, nullptr,
               nullptr, 0);
}
CUresult cuStreamBeginCapture_ptsz(CUstream stream) {
  return Begin(stream, StreamForm::kPerThread, CU_STREAM_CAPTURE_MODE_GLOBAL, nullptr, nullptr,
               nullptr, 0);
}
CUresult cuStreamBeginCapture_v2(CUstream stream, CUstreamCaptureMode mode) {
  return Begin(stream, StreamForm::kLegacy, mode, nullptr, nullptr, nullptr, 0);
}
CUresult cuStreamBeginCapture_v2_ptsz(CUstream stream, CUstreamCaptureMode mode) {
  return Begin(stream, StreamForm::kPerThread, mode, nullptr, nullptr, nullptr, 0);
}
CUresult cuStreamBeginCaptureToGraph(CUstream stream, CUgraph graph,
                                     const CUgraphNode* dependencies, const CUgraphEdgeData* data,
                                     size_t count, CUstreamCaptureMode mode) {
  return Begin(stream, StreamForm::kLegacy, mode, &graph, dependencies, data, count);
}
CUresult cuStreamBeginCaptureToGraph_ptsz(CUstream stream, CUgraph graph,
                                          const CUgraphNode* dependencies,
                                          const CUgraphEdgeData* data, size_t count,
                                          CUstreamCaptureMode mode) {
  return Begin(stream, StreamForm::kPerThread, mode, &graph, dependencies, data, count);
}

CUresult cuStreamEndCapture(CUstream stream, CUgraph* graph) {
  return EndCapture(stream, StreamForm::kLegacy, graph);
}
CUresult cuStreamEndCapture_ptsz(CUstream stream, CUgraph* graph) {
  return EndCapture(stream, StreamForm::kPerThread, graph);
}

CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus* status) {
  return Status(stream, StreamForm::kLegacy, status);
}
CUresult cuStreamIsCapturing_ptsz(CUstream stream, CUstreamCaptureStatus* status) {
  return Status(stream, StreamForm::kPerThread, status);
}

CUresult cuStreamGetCaptureInfo(CUstream stream, CUstreamCaptureStatus* status, cuuint64_t* id) {
  return Info(stream, StreamForm::kLegacy, status, id, nullptr, nullptr, nullptr, nullptr);
}
CUresult cuStreamGetCaptureInfo_ptsz(CUstream stream, CUstreamCaptureStatus* status,
                                     cuuint64_t* id) {
  return Info(stream, StreamForm::kPerThread, status, id, nullptr, nullptr, nullptr, nullptr);
}
CUresult cuStreamGetCaptureInfo_v2(CUstream stream, CUstreamCaptureStatus* status, cuuint64_t* id,
                                   CUgraph* graph, const CUgraphNode** dependencies,
                                   size_t* count) {
  return Info(stream, StreamForm::kLegacy, status, id, graph, dependencies, nullptr, count);
}
CUresult cuStreamGetCaptureInfo_v2_ptsz(CUstream stream, CUstreamCaptureStatus* status,
                                        cuuint64_t* id, CUgraph* graph,
                                        const CUgraphNode** dependencies, size_t* count) {
  return Info(stream, StreamForm::kPerThread, status, id, graph, dependencies, nullptr, count);
}
CUresult cuStreamGetCaptureInfo_v3(CUstream stream, CUstreamCaptureStatus* status, cuuint64_t* id,
                                   CUgraph* graph, const CUgraphNode** dependencies,
                                   const CUgraphEdgeData** data, size_t* count) {
  return Info(stream, StreamForm::kLegacy, status, id, graph, dependencies, data, count);
}
CUresult cuStreamGetCaptureInfo_v3_ptsz(CUstream stream, CUstreamCaptureStatus* status,
                                        cuuint64_t* id, CUgraph* graph,
                                        const CUgraphNode** dependencies,
                                        const CUgraphEdgeData** data, size_t* count) {
  return Info(stream, StreamForm::kPerThread, status, id, graph, dependencies, data, count);
}

CUresult cuStreamUpdateCaptureDependencies(CUstream stream, CUgraphNode* dependencies, size_t count,
                                           unsigned int flags) {
  return UpdateDependencies(stream, StreamForm::kLegacy, dependencies, nullptr, count, flags);
}
CUresult cuStreamUpdateCaptureDependencies_ptsz(CUstream stream, CUgraphNode* dependencies,
                                                size_t count, unsigned int flags) {
  return UpdateDependencies(stream, StreamForm::kPerThread, dependencies, nullptr, count, flags);
}
CUresult cuStreamUpdateCaptureDependencies_v2(CUstream stream, CUgraphNode* dependencies,
                                              const CUgraphEdgeData* data, size_t count,
                                              unsigned int flags) {
  return UpdateDependencies(stream, StreamForm::kLegacy, dependencies, data, count, flags);
}
CUresult cuStreamUpdateCaptureDependencies_v2_ptsz(CUstream stream, CUgraphNode* dependencies,
                                                   const CUgraphEdgeData* data, size_t count,
                                                   unsigned int flags) {
  return UpdateDependencies(stream, StreamForm::kPerThread, dependencies, data, count, flags);
}

CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) {
  SIMGPU_DRIVER(driver);
  if (mode == nullptr || *mode > CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_ERROR_INVALID_VALUE;
  std::swap(*mode, t_mode);
  return CUDA_SUCCESS;
}

}  // extern "C"

}  // namespace tessera::abi
