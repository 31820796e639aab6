// What nodes do: from the structures calls take to bodies, and back.
#include <string.h>

#include <algorithm>

#include "simgpu/driver/array.h"
#include "simgpu/driver/graph.h"
#include "simgpu/driver/graph_memory.h"
#include "simgpu/driver/memory.h"

namespace simgpu {
namespace {

// Whether the device can have bytes there, now or (graph memory) when the node's time comes.
bool DeviceRange(const Driver& driver, uint64_t address, uint64_t bytes) {
  int device = 0;
  return Reach(driver, address, bytes) != nullptr ||
         ReachInGraph(driver, address, bytes, &device) != nullptr;
}

// The device whose memory an address is; -1 for the host's.
int DeviceOf(const Driver& driver, uint64_t address) {
  if (const Allocation* found = FindAllocation(driver, address)) return found->device;
  int device = -1;
  return ReachInGraph(driver, address, 1, &device) != nullptr ? device : -1;
}

CUresult KernelBody(Driver* driver, Context* context, const CUDA_KERNEL_NODE_PARAMS& params,
                    NodeBody* body) {
  body->context = context;
  CUfunction handle =
      params.func != nullptr ? params.func : reinterpret_cast<CUfunction>(params.kern);
  if (handle == nullptr) return CUDA_ERROR_INVALID_VALUE;
  // A function has a context of its own; a kernel runs in the node's.
  if (const auto* function = Live<Function>(*driver, handle, Kind::kFunction);
      function != nullptr && params.ctx == nullptr) {
    body->context = function->module->context;
  }
  const auto cooperative = body->attributes.find(CU_LAUNCH_ATTRIBUTE_COOPERATIVE);
  LaunchShape shape{{params.gridDimX, params.gridDimY, params.gridDimZ},
                    {params.blockDimX, params.blockDimY, params.blockDimZ},
                    params.sharedMemBytes,
                    cooperative != body->attributes.end() && cooperative->second.cooperative != 0};
  KernelAction action;
  if (CUresult bad = MakeKernel(driver, body->context, handle, shape, params.kernelParams,
                                params.extra, &action)) {
    return bad;
  }
  body->action = std::move(action);
  return CUDA_SUCCESS;
}

CUresult CopyBody(Driver* driver, const CUDA_MEMCPY3D& params, NodeBody* body) {
  if (params.WidthInBytes == 0 || params.Height == 0 || params.Depth == 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  CopyAction action;
  if (CUresult bad = MakeCopy(driver, params, &action)) return bad;
  body->action = action;
  return CUDA_SUCCESS;
}

CUresult FillBody(Driver* driver, const CUDA_MEMSET_NODE_PARAMS_v2& params, NodeBody* body) {
  const uint64_t element = params.elementSize;
  uint64_t row = 0, before_last = 0, bytes = 0;
  if ((element != 1 && element != 2 && element != 4) || params.width == 0 || params.height == 0 ||
      params.dst % element != 0 || __builtin_mul_overflow(params.width, element, &row)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const uint64_t pitch = params.height > 1 ? params.pitch : row;
  if (pitch < row || pitch % element != 0 ||
      __builtin_mul_overflow(pitch, params.height - 1, &before_last) ||
      __builtin_add_overflow(before_last, row, &bytes) ||
      !DeviceRange(*driver, params.dst, bytes)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  FillAction action;
  action.address = params.dst;
  action.pitch = params.pitch;
  action.value = params.value;
  action.element = params.elementSize;
  action.width = params.width;
  action.height = params.height;
  body->action = action;
  return CUDA_SUCCESS;
}

CUresult BatchBody(Driver* driver, const CUDA_BATCH_MEM_OP_NODE_PARAMS& params, NodeBody* body) {
  if (params.count == 0 || params.paramArray == nullptr || params.flags != 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (params.count > kBatchOpsMax) {
    BoundHit("kBatchOpsMax", kBatchOpsMax);
    return CUDA_ERROR_INVALID_VALUE;
  }
  for (uint32_t i = 0; i < params.count; ++i) {
    const CUstreamBatchMemOpParams& op = params.paramArray[i];
    uint64_t bytes = 0;
    bool wait = false;
    switch (op.operation) {
      case CU_STREAM_MEM_OP_WAIT_VALUE_32:
      case CU_STREAM_MEM_OP_WAIT_VALUE_64:
        wait = true;
        bytes = op.operation == CU_STREAM_MEM_OP_WAIT_VALUE_32 ? 4 : 8;
        break;
      case CU_STREAM_MEM_OP_WRITE_VALUE_32:
      case CU_STREAM_MEM_OP_WRITE_VALUE_64:
        bytes = op.operation == CU_STREAM_MEM_OP_WRITE_VALUE_32 ? 4 : 8;
        break;
      case CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES:
      case CU_STREAM_MEM_OP_BARRIER:
        continue;  // everything here is in order already
      default:
        return CUDA_ERROR_INVALID_VALUE;
    }
    constexpr unsigned int kComparison = 3, kFlush = 1u << 30, kNoBarrier = 1;
    if ((op.flags & ~(wait ? kComparison | kFlush : kNoBarrier)) != 0 || op.address % bytes != 0 ||
        !DeviceRange(*driver, op.address, bytes)) {
      return CUDA_ERROR_INVALID_VALUE;
    }
  }
  body->ops.assign(params.paramArray, params.paramArray + params.count);
  body->batch_flags = params.flags;
  return CUDA_SUCCESS;
}

CUresult AllocBody(Driver* driver, const CUDA_MEM_ALLOC_NODE_PARAMS& params, NodeBody* body,
                   std::vector<CUmemAccessDesc>* access) {
  const CUmemLocation& location = params.poolProps.location;
  if (params.bytesize == 0 || params.poolProps.allocType != CU_MEM_ALLOCATION_TYPE_PINNED ||
      params.poolProps.handleTypes != CU_MEM_HANDLE_TYPE_NONE ||
      location.type != CU_MEM_LOCATION_TYPE_DEVICE || location.id < 0 ||
      static_cast<size_t>(location.id) >= driver->devices.size() ||
      (params.accessDescCount > 0 && params.accessDescs == nullptr) ||
      params.accessDescCount > driver->devices.size()) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  constexpr unsigned int kReadWrite = 3;
  for (size_t i = 0; i < params.accessDescCount; ++i) {
    const CUmemAccessDesc& desc = params.accessDescs[i];
    if (desc.location.type != CU_MEM_LOCATION_TYPE_DEVICE || desc.flags != kReadWrite ||
        desc.location.id < 0 || static_cast<size_t>(desc.location.id) >= driver->devices.size()) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    if (desc.location.id == location.id) continue;
    Say("graph memory that other devices reach is not simulated");
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  std::shared_ptr<GraphMemory> memory;
  if (CUresult bad = NewGraphMemory(driver, location.id, params.bytesize, &memory)) return bad;
  memory->props = params.poolProps;
  access->assign(params.accessDescs, params.accessDescs + params.accessDescCount);
  body->action = AllocAction{memory->address};
  body->memory = std::move(memory);
  return CUDA_SUCCESS;
}

CUresult EventBody(Driver* driver, CUevent handle, bool record, NodeBody* body) {
  Event* event = Live<Event>(*driver, handle, Kind::kEvent);
  if (event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  body->context = event->context;
  if (record) {
    body->action = EventRecordAction{.event = event, .external = true};
  } else {
    body->action = EventWaitAction{.event = event, .external = true};
  }
  return CUDA_SUCCESS;
}

bool SameSide(const CopySide& a, const CopySide& b) {
  return a.type == b.type && a.base == b.base && a.array == b.array && a.pitch == b.pitch &&
         a.height == b.height && a.x == b.x && a.y == b.y && a.z == b.z;
}
bool SameCopy(const CopyAction& a, const CopyAction& b) {
  return SameSide(a.from, b.from) && SameSide(a.to, b.to) && a.width == b.width &&
         a.height == b.height && a.depth == b.depth;
}
bool SameFill(const FillAction& a, const FillAction& b) {
  return a.address == b.address && a.pitch == b.pitch && a.value == b.value &&
         a.element == b.element && a.width == b.width && a.height == b.height;
}

bool SideMayBecome(const Driver& driver, const CopySide& old, const CopySide& side) {
  if (old.type != side.type) return false;
  if (old.type == CU_MEMORYTYPE_ARRAY) return old.array == side.array;
  return DeviceOf(driver, old.base) == DeviceOf(driver, side.base);
}

void SideTo(const CopySide& side, CUmemorytype* type, const void** host, CUdeviceptr* device,
            CUarray* array, size_t* pitch, size_t* height, size_t* x, size_t* y, size_t* z) {
  *type = side.type;
  *host = side.type == CU_MEMORYTYPE_HOST ? reinterpret_cast<const void*>(side.base) : nullptr;
  *device = side.type == CU_MEMORYTYPE_DEVICE || side.type == CU_MEMORYTYPE_UNIFIED ? side.base : 0;
  *array = reinterpret_cast<CUarray>(side.array);
  *pitch = side.pitch;
  *height = side.height;
  *x = side.x;
  *y = side.y;
  *z = side.z;
}

CUDA_MEMCPY3D CopyParams(const CopyAction& copy) {
  CUDA_MEMCPY3D params{};
  SideTo(copy.from, &params.srcMemoryType, &params.srcHost, &params.srcDevice, &params.srcArray,
         &params.srcPitch, &params.srcHeight, &params.srcXInBytes, &params.srcY, &params.srcZ);
  const void* host = nullptr;
  SideTo(copy.to, &params.dstMemoryType, &host, &params.dstDevice, &params.dstArray,
         &params.dstPitch, &params.dstHeight, &params.dstXInBytes, &params.dstY, &params.dstZ);
  params.dstHost = const_cast<void*>(host);
  params.WidthInBytes = copy.width;
  params.Height = copy.height;
  params.Depth = copy.depth;
  return params;
}

CUDA_KERNEL_NODE_PARAMS KernelParams(const Driver& driver, GraphNode* node) {
  auto& kernel = std::get<KernelAction>(node->body.action);
  node->pointers.clear();
  for (const ptx::Param& param : kernel.info->params) {
    node->pointers.push_back(kernel.params.data() + param.offset);
  }
  CUDA_KERNEL_NODE_PARAMS params{};
  if (Live<Object>(driver, kernel.handle, Kind::kKernel) != nullptr) {
    params.kern = reinterpret_cast<CUkernel>(kernel.handle);
  } else {
    params.func = kernel.handle;
  }
  params.gridDimX = kernel.grid[0];
  params.gridDimY = kernel.grid[1];
  params.gridDimZ = kernel.grid[2];
  params.blockDimX = kernel.block[0];
  params.blockDimY = kernel.block[1];
  params.blockDimZ = kernel.block[2];
  params.sharedMemBytes = kernel.shared_bytes;
  params.kernelParams = node->pointers.empty() ? nullptr : node->pointers.data();
  params.ctx = reinterpret_cast<CUcontext>(node->body.context);
  return params;
}

}  // namespace

CUresult BodyFrom(Driver* driver, Context* current, const CUgraphNodeParams& params, NodeBody* body,
                  std::vector<CUmemAccessDesc>* access) {
  body->type = params.type;
  body->context = current;
  switch (params.type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
      return KernelBody(driver, current, params.kernel, body);
    case CU_GRAPH_NODE_TYPE_MEMCPY:
      if (params.memcpy.flags != 0) return CUDA_ERROR_INVALID_VALUE;
      return CopyBody(driver, params.memcpy.copyParams, body);
    case CU_GRAPH_NODE_TYPE_MEMSET:
      return FillBody(driver, params.memset, body);
    case CU_GRAPH_NODE_TYPE_HOST: {
      if (params.host.fn == nullptr) return CUDA_ERROR_INVALID_VALUE;
      HostAction action;
      action.function = params.host.fn;
      action.data = params.host.userData;
      body->action = action;
      return CUDA_SUCCESS;
    }
    case CU_GRAPH_NODE_TYPE_EMPTY:
      body->action = EmptyAction{};
      return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
      return EventBody(driver, params.event, false, body);
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
      return EventBody(driver, params.event, true, body);
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
      return BatchBody(driver, params.memOp, body);
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
      return AllocBody(driver, params.alloc, body, access);
    case CU_GRAPH_NODE_TYPE_MEM_FREE:
      body->memory = FindGraphMemory(params.free);
      if (body->memory == nullptr) return CUDA_ERROR_INVALID_VALUE;
      body->action = FreeAction{params.free};
      return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_EXT_SEMAS_SIGNAL:
    case CU_GRAPH_NODE_TYPE_EXT_SEMAS_WAIT:
    case CU_GRAPH_NODE_TYPE_CONDITIONAL:
      Say("graph nodes of external semaphores, and changing conditional nodes, are not simulated");
      return CUDA_ERROR_NOT_SUPPORTED;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

CUgraphExecUpdateResult MayBecome(const Driver& driver, const NodeBody& old, const NodeBody& body) {
  if (old.type != body.type) return CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED;
  switch (old.type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
      return old.context == body.context ? CU_GRAPH_EXEC_UPDATE_SUCCESS
                                         : CU_GRAPH_EXEC_UPDATE_ERROR_UNSUPPORTED_FUNCTION_CHANGE;
    case CU_GRAPH_NODE_TYPE_MEMCPY: {
      const auto& a = std::get<CopyAction>(old.action);
      const auto& b = std::get<CopyAction>(body.action);
      if (SameCopy(a, b)) return CU_GRAPH_EXEC_UPDATE_SUCCESS;
      const bool flat = a.height == 1 && a.depth == 1 && b.height == 1 && b.depth == 1;
      return flat && SideMayBecome(driver, a.from, b.from) && SideMayBecome(driver, a.to, b.to)
                 ? CU_GRAPH_EXEC_UPDATE_SUCCESS
                 : CU_GRAPH_EXEC_UPDATE_ERROR_PARAMETERS_CHANGED;
    }
    case CU_GRAPH_NODE_TYPE_MEMSET: {
      const auto& a = std::get<FillAction>(old.action);
      const auto& b = std::get<FillAction>(body.action);
      if (SameFill(a, b)) return CU_GRAPH_EXEC_UPDATE_SUCCESS;
      return a.height == 1 && b.height == 1 &&
                     DeviceOf(driver, a.address) == DeviceOf(driver, b.address)
                 ? CU_GRAPH_EXEC_UPDATE_SUCCESS
                 : CU_GRAPH_EXEC_UPDATE_ERROR_PARAMETERS_CHANGED;
    }
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
      return old.ops.size() == body.ops.size() ? CU_GRAPH_EXEC_UPDATE_SUCCESS
                                               : CU_GRAPH_EXEC_UPDATE_ERROR_PARAMETERS_CHANGED;
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
    case CU_GRAPH_NODE_TYPE_MEM_FREE:
      return old.memory == body.memory ? CU_GRAPH_EXEC_UPDATE_SUCCESS
                                       : CU_GRAPH_EXEC_UPDATE_ERROR_NOT_SUPPORTED;
    default:
      return CU_GRAPH_EXEC_UPDATE_SUCCESS;
  }
}

std::vector<WordAction> WordsOf(const NodeBody& body) {
  std::vector<WordAction> words;
  for (const CUstreamBatchMemOpParams& op : body.ops) {
    const bool wide = op.operation == CU_STREAM_MEM_OP_WAIT_VALUE_64 ||
                      op.operation == CU_STREAM_MEM_OP_WRITE_VALUE_64;
    const bool write = op.operation == CU_STREAM_MEM_OP_WRITE_VALUE_32 ||
                       op.operation == CU_STREAM_MEM_OP_WRITE_VALUE_64;
    if (op.operation == CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES ||
        op.operation == CU_STREAM_MEM_OP_BARRIER) {
      continue;
    }
    WordAction word;
    word.address = op.address;
    word.value = wide ? op.value64 : op.value;
    word.bytes = wide ? 8 : 4;
    word.write = write;
    word.flags = write ? 0 : op.flags & 3;
    words.push_back(word);
  }
  return words;
}

namespace {

// Adds a node of any type: the body of all cuGraphAdd... calls.
CUresult Add(CUgraphNode* handle, CUgraph graph_handle, const CUgraphNode* dependencies,
             const CUgraphEdgeData* data, size_t count, CUcontext named,
             CUgraphNodeParams* params) {
  SIMGPU_DRIVER(driver);
  if (handle == nullptr || params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Context* context = nullptr;
  const bool needs_context = params->type == CU_GRAPH_NODE_TYPE_KERNEL ||
                             params->type == CU_GRAPH_NODE_TYPE_MEMCPY ||
                             params->type == CU_GRAPH_NODE_TYPE_MEMSET ||
                             params->type == CU_GRAPH_NODE_TYPE_BATCH_MEM_OP ||
                             params->type == CU_GRAPH_NODE_TYPE_CONDITIONAL;
  if (needs_context) {
    if (CUresult bad = ContextOf(named, &driver, &context)) return bad;
  }
  std::lock_guard guard(driver->mutex);
  Graph* graph = nullptr;
  if (CUresult bad = FindGraph(*driver, graph_handle, &graph)) return bad;
  std::vector<GraphNode*> before;
  if (CUresult bad = FindNodes(*driver, graph, dependencies, count, &before)) return bad;
  std::vector<GraphEdge> edges;
  for (size_t i = 0; i < count; ++i) {
    const CUgraphEdgeData* edge = data != nullptr ? &data[i] : nullptr;
    if (CUresult bad = CheckEdgeData(before[i], edge)) return bad;
    if (edge != nullptr && edge->type != 0 && params->type != CU_GRAPH_NODE_TYPE_KERNEL) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    edges.push_back({before[i], edge != nullptr ? *edge : CUgraphEdgeData{}});
  }
  NodeBody body;
  std::vector<CUmemAccessDesc> access;
  std::shared_ptr<Graph> moved;
  if (params->type == CU_GRAPH_NODE_TYPE_GRAPH) {
    Graph* child = nullptr;
    if (CUresult bad = FindGraph(*driver, params->graph.graph, &child)) return bad;
    body.type = CU_GRAPH_NODE_TYPE_GRAPH;
    if (params->graph.ownership == CU_GRAPH_CHILD_GRAPH_OWNERSHIP_CLONE) {
      if (child->capturing > 0) return CUDA_ERROR_INVALID_VALUE;
      if (CUresult bad = CloneGraph(driver, *child, 1, &body.child)) return bad;
    } else if (params->graph.ownership == CU_GRAPH_CHILD_GRAPH_OWNERSHIP_MOVE) {
      const Graph* top = graph;
      while (top->parent != nullptr) top = top->parent;
      if (child->parent != nullptr || child->capturing > 0 || child == top ||
          child->exec != nullptr) {
        return CUDA_ERROR_INVALID_VALUE;
      }
      body.child = moved = Disown(child);
    } else {
      return CUDA_ERROR_INVALID_VALUE;
    }
  } else if (params->type == CU_GRAPH_NODE_TYPE_CONDITIONAL) {
    body.context = context;
    if (CUresult bad = ConditionalBody(driver, graph, params->conditional, &body)) return bad;
  } else {
    if (CUresult bad = BodyFrom(driver, context, *params, &body, &access)) return bad;
    if (CUresult bad = CheckMemoryNode(graph, body)) return bad;
  }
  const std::shared_ptr<Graph> child = body.child;
  const std::shared_ptr<Conditional> condition = body.condition;
  const std::vector<std::shared_ptr<Graph>> branches = body.branches;
  const std::shared_ptr<GraphMemory> memory = body.memory;
  GraphNode* node = nullptr;
  if (CUresult bad = AddNode(driver, graph, edges, std::move(body), &node)) {
    if (moved != nullptr) {
      moved->parent = nullptr;
      Own(std::move(moved));
    } else if (child != nullptr) {
      Destructors none;  // the original holds what its clone holds
      ReleaseUserObjects(driver, child.get(), &none);
      DropGraph(driver, child.get());
    }
    for (const auto& branch : branches) DropGraph(driver, branch.get());
    return bad;
  }
  if (condition != nullptr) {
    condition->used = true;
    for (const auto& branch : branches) node->branches.push_back(HandleOf(branch.get()));
    params->conditional.phGraph_out = node->branches.data();
  }
  node->access = std::move(access);
  if (memory != nullptr) NoteMemoryNode(graph, *node);
  if (params->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC) params->alloc.dptr = memory->address;
  *handle = HandleOf(node);
  return CUDA_SUCCESS;
}

bool IsKernelAttribute(CUlaunchAttributeID id) {
  switch (id) {
    case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
    case CU_LAUNCH_ATTRIBUTE_COOPERATIVE:
    case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION:
    case CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
    case CU_LAUNCH_ATTRIBUTE_PRIORITY:
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP:
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN:
    case CU_LAUNCH_ATTRIBUTE_PREFERRED_CLUSTER_DIMENSION:
    case CU_LAUNCH_ATTRIBUTE_DEVICE_UPDATABLE_KERNEL_NODE:
    case CU_LAUNCH_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
    case CU_LAUNCH_ATTRIBUTE_NVLINK_UTIL_CENTRIC_SCHEDULING:
      return true;
    default:
      return false;
  }
}

CUlaunchAttributeValue DefaultAttribute(CUlaunchAttributeID id) {
  CUlaunchAttributeValue value{};
  if (id == CU_LAUNCH_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT) value.priority = -1;
  if (id == CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP) value.bytes[1] = 1;  // default 0, remote 1
  return value;
}

// Only what changes a kernel's meaning is refused; the rest are hints about order and placement.
CUresult CheckKernelAttribute(CUlaunchAttributeID id, const CUlaunchAttributeValue& value) {
  if (!IsKernelAttribute(id)) return CUDA_ERROR_INVALID_VALUE;
  const bool cluster = (id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION ||
                        id == CU_LAUNCH_ATTRIBUTE_PREFERRED_CLUSTER_DIMENSION) &&
                       (value.clusterDim.x > 1 || value.clusterDim.y > 1 || value.clusterDim.z > 1);
  const bool updatable =
      id == CU_LAUNCH_ATTRIBUTE_DEVICE_UPDATABLE_KERNEL_NODE && value.cooperative != 0;
  if (!cluster && !updatable) return CUDA_SUCCESS;
  Say("clusters of blocks and kernel nodes that devices update are not simulated");
  return CUDA_ERROR_NOT_SUPPORTED;
}

// A node of that type by its handle, for reading.
CUresult OfType(Driver* driver, CUgraphNode handle, CUgraphNodeType type, GraphNode** node) {
  if (CUresult bad = FindNode(*driver, handle, node)) return bad;
  return (*node)->body.type == type ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

// Gives a node new parameters: the body of all cuGraph...NodeSet... calls.
CUresult Set(CUgraphNode handle, CUcontext named, const CUgraphNodeParams& params) {
  SIMGPU_DRIVER(driver);
  Context* context = nullptr;
  std::unique_lock guard(driver->mutex);
  GraphNode* node = nullptr;
  if (CUresult bad = OfType(driver, handle, params.type, &node)) return bad;
  if (params.type == CU_GRAPH_NODE_TYPE_MEM_ALLOC || params.type == CU_GRAPH_NODE_TYPE_MEM_FREE ||
      params.type == CU_GRAPH_NODE_TYPE_GRAPH) {
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  context = node->body.context;
  if (named != nullptr) {
    guard.unlock();
    if (CUresult bad = ContextOf(named, &driver, &context)) return bad;
    guard.lock();
    if (CUresult bad = OfType(driver, handle, params.type, &node)) return bad;
  }
  NodeBody body;
  body.attributes = node->body.attributes;
  std::vector<CUmemAccessDesc> access;
  if (CUresult bad = BodyFrom(driver, context, params, &body, &access)) return bad;
  node->body = std::move(body);
  return CUDA_SUCCESS;
}

CUgraphNodeParams Params(CUgraphNodeType type) {
  CUgraphNodeParams params;
  memset(static_cast<void*>(&params), 0, sizeof params);
  params.type = type;
  return params;
}

CUDA_KERNEL_NODE_PARAMS Widen(const CUDA_KERNEL_NODE_PARAMS_v1& old) {
  CUDA_KERNEL_NODE_PARAMS params{};
  memcpy(static_cast<void*>(&params), &old, sizeof old);
  return params;
}
CUDA_MEMSET_NODE_PARAMS_v2 Widen(const CUDA_MEMSET_NODE_PARAMS& old) {
  CUDA_MEMSET_NODE_PARAMS_v2 params{};
  memcpy(static_cast<void*>(&params), &old, sizeof old);
  return params;
}

// Reads what a node does under the lock.
template <typename Read>
CUresult Get(CUgraphNode handle, CUgraphNodeType type, const void* out, const Read& read) {
  SIMGPU_DRIVER(driver);
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  GraphNode* node = nullptr;
  if (CUresult bad = OfType(driver, handle, type, &node)) return bad;
  read(*driver, node);
  return CUDA_SUCCESS;
}

}  // namespace

CUresult CheckMemoryNode(const Graph* graph, const NodeBody& body) {
  if (body.type != CU_GRAPH_NODE_TYPE_MEM_FREE) return CUDA_SUCCESS;
  // One free per graph, and either in the allocation's own graph or in others.
  const GraphMemory& memory = *body.memory;
  const bool own = memory.owner == graph->id;
  if (memory.freed_by_owner || (own && memory.freed_elsewhere)) return CUDA_ERROR_INVALID_VALUE;
  for (const auto& node : graph->nodes) {
    if (node->body.type == CU_GRAPH_NODE_TYPE_MEM_FREE && node->body.memory == body.memory) {
      return CUDA_ERROR_INVALID_VALUE;
    }
  }
  return CUDA_SUCCESS;
}

void NoteMemoryNode(const Graph* graph, const GraphNode& node) {
  GraphMemory& memory = *node.body.memory;
  if (node.body.type == CU_GRAPH_NODE_TYPE_MEM_ALLOC) {
    memory.owner = graph->id;
  } else if (memory.owner == graph->id) {
    memory.freed_by_owner = true;
  } else {
    memory.freed_elsewhere = true;
  }
}

CUcontext NamedContext(const CUgraphNodeParams& params) {
  switch (params.type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
      return params.kernel.ctx;
    case CU_GRAPH_NODE_TYPE_MEMCPY:
      return params.memcpy.copyCtx;
    case CU_GRAPH_NODE_TYPE_MEMSET:
      return params.memset.ctx;
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
      return params.memOp.ctx;
    case CU_GRAPH_NODE_TYPE_CONDITIONAL:
      return params.conditional.ctx;
    default:
      return nullptr;
  }
}

}  // namespace simgpu

namespace tessera::abi {
using namespace simgpu;  // NOLINT

extern "C" {

CUresult cuGraphAddNode_v2(CUgraphNode* node, CUgraph graph, const CUgraphNode* dependencies,
                           const CUgraphEdgeData* data, size_t count, CUgraphNodeParams* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (params->reserved0[0] != 0 || params->reserved0[1] != 0 || params->reserved0[2] != 0 ||
      params->reserved2 != 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  return Add(node, graph, dependencies, data, count, NamedContext(*params), params);
}

CUresult cuGraphAddNode(CUgraphNode* node, CUgraph graph, const CUgraphNode* dependencies,
                        size_t count, CUgraphNodeParams* params) {
  return cuGraphAddNode_v2(node, graph, dependencies, nullptr, count, params);
}

CUresult cuGraphAddKernelNode_v2(CUgraphNode* node, CUgraph graph, const CUgraphNode* dependencies,
                                 size_t count, const CUDA_KERNEL_NODE_PARAMS* given) {
  if (given == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUgraphNodeParams params = Params(CU_GRAPH_NODE_TYPE_KERNEL);
  params.kernel = *given;
  return Add(node, graph, dependencies, nullptr, count, given->ctx, &params);
}

CUresult cuGraphAddKernelNode(CUgraphNode* node, CUgraph graph, const CUgraphNode* dependencies,
                              size_t count, const CUDA_KERNEL_NODE_PARAMS_v1* given) {
  if (given == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const CUDA_KERNEL_NODE_PARAMS wide = Widen(*given);
  return cuGraphAddKernelNode_v2(node, graph, dependencies, count, &wide);
}

CUresult cuGraphAddMemcpyNode(CUgraphNode* node, CUgraph graph, const CUgraphNode* dependencies,
                              size_t count, const CUDA_MEMCPY3D* copy, CUcontext context) {
  if (copy == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUgraphNodeParams params = Params(CU_GRAPH_NODE_TYPE_MEMCPY);
  params.memcpy.copyParams = *copy;
  return Add(node, graph, dependencies, nullptr, count, context, &params);
}

CUresult cuGraphAddMemsetNode(CUgraphNode* node, CUgraph graph, const CUgraphNode* dependencies,
                              size_t count, const CUDA_MEMSET_NODE_PARAMS* given,
                              CUcontext context) {
  if (given == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUgraphNodeParams params = Params(CU_GRAPH_NODE_TYPE_MEMSET);
  params.memset = Widen(*given);
  return Add(node, graph, dependencies, nullptr, count, context, &params);
}

CUresult cuGraphAddHostNode(CUgraphNode* node, CUgraph graph, const CUgraphNode* dependencies,
                            size_t count, const CUDA_HOST_NODE_PARAMS* given) {
  if (given == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUgraphNodeParams params = Params(CU_GRAPH_NODE_TYPE_HOST);
  params.host = *given;
  return Add(node, graph, dependencies, nullptr, count, nullptr, &params);
}

CUresult cuGraphAddEmptyNode(CUgraphNode* node, CUgraph graph, const CUgraphNode* dependencies,
                             size_t count) {
  CUgraphNodeParams params = Params(CU_GRAPH_NODE_TYPE_EMPTY);
  return Add(node, graph, dependencies, nullptr, count, nullptr, &params);
}

CUresult cuGraphAddChildGraphNode(CUgraphNode* node, CUgraph graph, const CUgraphNode* dependencies,
                                  size_t count, CUgraph child) {
  CUgraphNodeParams params = Params(CU_GRAPH_NODE_TYPE_GRAPH);
  params.graph.graph = child;
  return Add(node, graph, dependencies, nullptr, count, nullptr, &params);
}

CUresult cuGraphAddEventRecordNode(CUgraphNode* node, CUgraph graph,
                                   const CUgraphNode* dependencies, size_t count, CUevent event) {
  CUgraphNodeParams params = Params(CU_GRAPH_NODE_TYPE_EVENT_RECORD);
  params.event = event;
  return Add(node, graph, dependencies, nullptr, count, nullptr, &params);
}

CUresult cuGraphAddEventWaitNode(CUgraphNode* node, CUgraph graph, const CUgraphNode* dependencies,
                                 size_t count, CUevent event) {
  CUgraphNodeParams params = Params(CU_GRAPH_NODE_TYPE_WAIT_EVENT);
  params.event = event;
  return Add(node, graph, dependencies, nullptr, count, nullptr, &params);
}

CUresult cuGraphAddBatchMemOpNode(CUgraphNode* node, CUgraph graph, const CUgraphNode* dependencies,
                                  size_t count, const CUDA_BATCH_MEM_OP_NODE_PARAMS* given) {
  if (given == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUgraphNodeParams params = Params(CU_GRAPH_NODE_TYPE_BATCH_MEM_OP);
  params.memOp = *given;
  return Add(node, graph, dependencies, nullptr, count, given->ctx, &params);
}

CUresult cuGraphAddMemAllocNode(CUgraphNode* node, CUgraph graph, const CUgraphNode* dependencies,
                                size_t count, CUDA_MEM_ALLOC_NODE_PARAMS* given) {
  if (given == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUgraphNodeParams params = Params(CU_GRAPH_NODE_TYPE_MEM_ALLOC);
  params.alloc = *given;
  CUresult result = Add(node, graph, dependencies, nullptr, count, nullptr, &params);
  if (result == CUDA_SUCCESS) given->dptr = params.alloc.dptr;
  return result;
}

CUresult cuGraphAddMemFreeNode(CUgraphNode* node, CUgraph graph, const CUgraphNode* dependencies,
                               size_t count, CUdeviceptr address) {
  CUgraphNodeParams params = Params(CU_GRAPH_NODE_TYPE_MEM_FREE);
  params.free = address;
  return Add(node, graph, dependencies, nullptr, count, nullptr, &params);
}

CUresult cuGraphNodeSetParams(CUgraphNode node, CUgraphNodeParams* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return Set(node, NamedContext(*params), *params);
}

CUresult cuGraphKernelNodeGetParams_v2(CUgraphNode node, CUDA_KERNEL_NODE_PARAMS* params) {
  return Get(node, CU_GRAPH_NODE_TYPE_KERNEL, params,
             [&](const Driver& driver, GraphNode* one) { *params = KernelParams(driver, one); });
}

CUresult cuGraphKernelNodeGetParams(CUgraphNode node, CUDA_KERNEL_NODE_PARAMS_v1* params) {
  return Get(node, CU_GRAPH_NODE_TYPE_KERNEL, params, [&](const Driver& driver, GraphNode* one) {
    CUDA_KERNEL_NODE_PARAMS wide = KernelParams(driver, one);
    if (wide.func == nullptr) wide.func = reinterpret_cast<CUfunction>(wide.kern);
    memcpy(static_cast<void*>(params), &wide, sizeof *params);
  });
}

CUresult cuGraphKernelNodeSetParams_v2(CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS* given) {
  if (given == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUgraphNodeParams params = Params(CU_GRAPH_NODE_TYPE_KERNEL);
  params.kernel = *given;
  return Set(node, given->ctx, params);
}

CUresult cuGraphKernelNodeSetParams(CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS_v1* given) {
  if (given == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const CUDA_KERNEL_NODE_PARAMS wide = Widen(*given);
  return cuGraphKernelNodeSetParams_v2(node, &wide);
}

CUresult cuGraphMemcpyNodeGetParams(CUgraphNode node, CUDA_MEMCPY3D* params) {
  return Get(node, CU_GRAPH_NODE_TYPE_MEMCPY, params, [&](const Driver&, GraphNode* one) {
    *params = CopyParams(std::get<CopyAction>(one->body.action));
  });
}

CUresult cuGraphMemcpyNodeSetParams(CUgraphNode node, const CUDA_MEMCPY3D* given) {
  if (given == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUgraphNodeParams params = Params(CU_GRAPH_NODE_TYPE_MEMCPY);
  params.memcpy.copyParams = *given;
  return Set(node, nullptr, params);
}

CUresult cuGraphMemsetNodeGetParams(CUgraphNode node, CUDA_MEMSET_NODE_PARAMS* params) {
  return Get(node, CU_GRAPH_NODE_TYPE_MEMSET, params, [&](const Driver&, GraphNode* one) {
    const auto& fill = std::get<FillAction>(one->body.action);
    *params = {fill.address, fill.pitch, fill.value, fill.element, fill.width, fill.height};
  });
}

CUresult cuGraphMemsetNodeSetParams(CUgraphNode node, const CUDA_MEMSET_NODE_PARAMS* given) {
  if (given == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUgraphNodeParams params = Params(CU_GRAPH_NODE_TYPE_MEMSET);
  params.memset = Widen(*given);
  return Set(node, nullptr, params);
}

CUresult cuGraphHostNodeGetParams(CUgraphNode node, CUDA_HOST_NODE_PARAMS* params) {
  return Get(node, CU_GRAPH_NODE_TYPE_HOST, params, [&](const Driver&, GraphNode* one) {
    const auto& host = std::get<HostAction>(one->body.action);
    *params = {host.function, host.data};
  });
}

CUresult cuGraphHostNodeSetParams(CUgraphNode node, const CUDA_HOST_NODE_PARAMS* given) {
  if (given == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUgraphNodeParams params = Params(CU_GRAPH_NODE_TYPE_HOST);
  params.host = *given;
  return Set(node, nullptr, params);
}

CUresult cuGraphChildGraphNodeGetGraph(CUgraphNode node, CUgraph* graph) {
  return Get(node, CU_GRAPH_NODE_TYPE_GRAPH, graph,
             [&](const Driver&, GraphNode* one) { *graph = HandleOf(one->body.child.get()); });
}

CUresult cuGraphEventRecordNodeGetEvent(CUgraphNode node, CUevent* event) {
  return Get(node, CU_GRAPH_NODE_TYPE_EVENT_RECORD, event, [&](const Driver&, GraphNode* one) {
    *event = reinterpret_cast<CUevent>(std::get<EventRecordAction>(one->body.action).event);
  });
}

CUresult cuGraphEventRecordNodeSetEvent(CUgraphNode node, CUevent event) {
  CUgraphNodeParams params = Params(CU_GRAPH_NODE_TYPE_EVENT_RECORD);
  params.event = event;
  return Set(node, nullptr, params);
}

CUresult cuGraphEventWaitNodeGetEvent(CUgraphNode node, CUevent* event) {
  return Get(node, CU_GRAPH_NODE_TYPE_WAIT_EVENT, event, [&](const Driver&, GraphNode* one) {
    *event = reinterpret_cast<CUevent>(std::get<EventWaitAction>(one->body.action).event);
  });
}

CUresult cuGraphEventWaitNodeSetEvent(CUgraphNode node, CUevent event) {
  CUgraphNodeParams params = Params(CU_GRAPH_NODE_TYPE_WAIT_EVENT);
  params.event = event;
  return Set(node, nullptr, params);
}

CUresult cuGraphBatchMemOpNodeGetParams(CUgraphNode node, CUDA_BATCH_MEM_OP_NODE_PARAMS* params) {
  return Get(node, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP, params, [&](const Driver&, GraphNode* one) {
    *params = {reinterpret_cast<CUcontext>(one->body.context),
               static_cast<unsigned int>(one->body.ops.size()), one->body.ops.data(),
               one->body.batch_flags};
  });
}

CUresult cuGraphBatchMemOpNodeSetParams(CUgraphNode node,
                                        const CUDA_BATCH_MEM_OP_NODE_PARAMS* given) {
  if (given == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUgraphNodeParams params = Params(CU_GRAPH_NODE_TYPE_BATCH_MEM_OP);
  params.memOp = *given;
  return Set(node, given->ctx, params);
}

CUresult cuGraphMemAllocNodeGetParams(CUgraphNode node, CUDA_MEM_ALLOC_NODE_PARAMS* params) {
  return Get(node, CU_GRAPH_NODE_TYPE_MEM_ALLOC, params, [&](const Driver&, GraphNode* one) {
    const GraphMemory& memory = *one->body.memory;
    *params = {memory.props, one->access.empty() ? nullptr : one->access.data(), one->access.size(),
               memory.size, memory.address};
  });
}

CUresult cuGraphMemFreeNodeGetParams(CUgraphNode node, CUdeviceptr* address) {
  return Get(node, CU_GRAPH_NODE_TYPE_MEM_FREE, address,
             [&](const Driver&, GraphNode* one) { *address = one->body.memory->address; });
}

CUresult cuGraphKernelNodeGetAttribute(CUgraphNode node, CUkernelNodeAttrID id,
                                       CUkernelNodeAttrValue* value) {
  if (!IsKernelAttribute(id)) return CUDA_ERROR_INVALID_VALUE;
  return Get(node, CU_GRAPH_NODE_TYPE_KERNEL, value, [&](const Driver&, GraphNode* one) {
    const auto found = one->body.attributes.find(id);
    *value = found != one->body.attributes.end() ? found->second : DefaultAttribute(id);
  });
}

CUresult cuGraphKernelNodeSetAttribute(CUgraphNode node, CUkernelNodeAttrID id,
                                       const CUkernelNodeAttrValue* value) {
  if (value != nullptr) {
    if (CUresult bad = CheckKernelAttribute(id, *value)) return bad;
  }
  return Get(node, CU_GRAPH_NODE_TYPE_KERNEL, value, [&](const Driver&, GraphNode* one) {
    one->body.attributes[id] = *value;
    if (id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE) {
      std::get<KernelAction>(one->body.action).cooperative = value->cooperative != 0;
    }
  });
}

CUresult cuGraphKernelNodeCopyAttributes(CUgraphNode to, CUgraphNode from) {
  SIMGPU_DRIVER(driver);
  std::lock_guard guard(driver->mutex);
  GraphNode *target = nullptr, *source = nullptr;
  if (CUresult bad = OfType(driver, to, CU_GRAPH_NODE_TYPE_KERNEL, &target)) return bad;
  if (CUresult bad = OfType(driver, from, CU_GRAPH_NODE_TYPE_KERNEL, &source)) return bad;
  target->body.attributes = source->body.attributes;
  std::get<KernelAction>(target->body.action).cooperative =
      std::get<KernelAction>(source->body.action).cooperative;
  return CUDA_SUCCESS;
}

}  // extern "C"

}  // namespace tessera::abi
