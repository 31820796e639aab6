// Conditional nodes: the values that kernels set, and the bodies that depend on them.
#include <algorithm>
#include <map>

#include "simgpu/driver/graph.h"

namespace simgpu {
namespace {

// By handle. A lock of its own, because kernels come here.
struct Table {
  std::mutex mutex;
  std::map<uint64_t, std::weak_ptr<Conditional>> conditionals;
};
Table& Known() {
  static auto* table = new Table;
  return *table;
}

std::shared_ptr<Conditional> Find(uint64_t handle) {
  Table& known = Known();
  std::lock_guard guard(known.mutex);
  const auto found = known.conditionals.find(handle);
  return found != known.conditionals.end() ? found->second.lock() : nullptr;
}

bool MadeFor(const Conditional& condition, const Graph* graph) {
  for (; graph != nullptr; graph = graph->parent) {
    if (graph->id == condition.graph) return true;
  }
  return false;
}

}  // namespace

bool SetConditional(uint64_t handle, uint32_t value) {
  const std::shared_ptr<Conditional> condition = Find(handle);
  if (condition == nullptr) return false;
  condition->value.store(value);
  return true;
}

CUresult ConditionalBody(Driver* driver, const Graph* graph,
                         const CUDA_CONDITIONAL_NODE_PARAMS& params, NodeBody* body) {
  const bool sized = params.type == CU_GRAPH_COND_TYPE_WHILE ? params.size == 1
                     : params.type == CU_GRAPH_COND_TYPE_IF
                         ? params.size == 1 || params.size == 2
                         : params.type == CU_GRAPH_COND_TYPE_SWITCH && params.size != 0;
  const std::shared_ptr<Conditional> condition = Find(params.handle);
  if (!sized || condition == nullptr || condition->used || !MadeFor(*condition, graph)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (params.size > kBranchesMax) return BoundHit("kBranchesMax", kBranchesMax);
  for (uint32_t i = 0; i < params.size; ++i) {
    std::shared_ptr<Graph> branch = NewGraph(driver);
    if (branch == nullptr) {
      for (const auto& made : body->branches) DropGraph(driver, made.get());
      return CUDA_ERROR_OUT_OF_MEMORY;
    }
    body->branches.push_back(std::move(branch));
  }
  body->type = CU_GRAPH_NODE_TYPE_CONDITIONAL;
  body->condition = condition;
  body->condition_type = params.type;
  return CUDA_SUCCESS;
}

bool BodiesAllowed(const Graph& graph, bool in_body) {
  return std::ranges::all_of(graph.nodes, [in_body](const auto& node) {
    const NodeBody& body = node->body;
    bool allowed = true;
    switch (body.type) {
      case CU_GRAPH_NODE_TYPE_KERNEL:
      case CU_GRAPH_NODE_TYPE_MEMCPY:
      case CU_GRAPH_NODE_TYPE_MEMSET:
      case CU_GRAPH_NODE_TYPE_EMPTY:
      case CU_GRAPH_NODE_TYPE_GRAPH:
      case CU_GRAPH_NODE_TYPE_CONDITIONAL:
        break;
      default:
        allowed = !in_body;
    }
    const bool within = in_body || body.condition != nullptr;
    body.ForEachWithin([&](const Graph* one) { allowed = allowed && BodiesAllowed(*one, within); });
    return allowed;
  });
}

}  // namespace simgpu

namespace tessera::abi {
using namespace simgpu;  // NOLINT

extern "C" {

CUresult cuGraphConditionalHandleCreate(CUgraphConditionalHandle* handle, CUgraph graph_handle,
                                        CUcontext named, unsigned int initial, unsigned int flags) {
  Driver* driver = nullptr;
  Context* context = nullptr;
  if (CUresult bad = ContextOf(named, &driver, &context)) return bad;
  if (handle == nullptr || (flags & ~CU_GRAPH_COND_ASSIGN_DEFAULT) != 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  std::lock_guard guard(driver->mutex);
  Graph* graph = nullptr;
  if (CUresult bad = FindGraph(*driver, graph_handle, &graph)) return bad;
  auto made = std::make_shared<Conditional>();
  made->handle = driver->next_id++;
  made->graph = graph->id;
  made->initial = initial;
  made->assigned = flags == CU_GRAPH_COND_ASSIGN_DEFAULT;
  Table& known = Known();
  {
    std::lock_guard lock(known.mutex);
    if (known.conditionals.size() >= kConditionalsMax) {
      std::erase_if(known.conditionals, [](const auto& one) { return one.second.expired(); });
    }
    if (known.conditionals.size() >= kConditionalsMax) {
      return BoundHit("kConditionalsMax", kConditionalsMax);
    }
    known.conditionals.emplace(made->handle, made);
  }
  *handle = made->handle;
  graph->conditionals.push_back(std::move(made));
  return CUDA_SUCCESS;
}

}  // extern "C"
}  // namespace tessera::abi
