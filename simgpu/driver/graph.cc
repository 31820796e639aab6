// Graphs as structures: nodes, edges, clones, and the calls that ask about them.
#include "simgpu/driver/graph.h"

#include <string.h>

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "simgpu/driver/graph_memory.h"

namespace simgpu {
namespace {

// The graphs programs own. Driver::mutex.
std::unordered_map<const Graph*, std::shared_ptr<Graph>>& Owned() {
  static auto* owned = new std::unordered_map<const Graph*, std::shared_ptr<Graph>>;
  return *owned;
}
size_t graph_count = 0;

bool SameData(const CUgraphEdgeData& a, const CUgraphEdgeData& b) {
  return a.from_port == b.from_port && a.to_port == b.to_port && a.type == b.type;
}
bool HasData(const CUgraphEdgeData& data) { return !SameData(data, CUgraphEdgeData{}); }

std::vector<GraphEdge>::iterator FindEdge(std::vector<GraphEdge>* edges, const GraphNode* node) {
  return std::ranges::find_if(*edges, [&](const GraphEdge& edge) { return edge.node == node; });
}

bool Connected(const GraphNode* from, const GraphNode* to) {
  if (from->after.size() < to->before.size()) {
    return std::ranges::any_of(from->after, [&](const GraphEdge& e) { return e.node == to; });
  }
  return std::ranges::any_of(to->before, [&](const GraphEdge& e) { return e.node == from; });
}

void Connect(GraphNode* from, GraphNode* to, const CUgraphEdgeData& data) {
  from->after.push_back({to, data});
  to->before.push_back({from, data});
  ++from->graph->edges;
}

void Disconnect(GraphNode* from, GraphNode* to) {
  from->after.erase(FindEdge(&from->after, to));
  to->before.erase(FindEdge(&to->before, from));
  --from->graph->edges;
}

// Whether a path leads from one node to the other.
bool Reaches(const GraphNode* from, const GraphNode* to) {
  std::unordered_set<const GraphNode*> seen{from};
  std::vector<const GraphNode*> open{from};
  while (!open.empty()) {
    const GraphNode* node = open.back();
    open.pop_back();
    if (node == to) return true;
    for (const GraphEdge& edge : node->after) {
      if (seen.insert(edge.node).second) open.push_back(edge.node);
    }
  }
  return false;
}

size_t DepthOf(const Graph* graph) {
  size_t depth = 1;
  for (; graph->parent != nullptr; graph = graph->parent) ++depth;
  return depth;
}

size_t HeightOf(const Graph& graph) {
  size_t below = 0;
  for (const auto& node : graph.nodes) {
    node->body.ForEachWithin(
        [&](const Graph* within) { below = std::max(below, HeightOf(*within)); });
  }
  return below + 1;
}

// Fills a caller's array as all list calls do.
void GiveList(const std::vector<GraphEdge>& list, CUgraphNode* nodes, CUgraphEdgeData* data,
              size_t* count) {
  if (nodes == nullptr) {
    *count = list.size();
    return;
  }
  for (size_t i = 0; i < *count; ++i) {
    nodes[i] = i < list.size() ? HandleOf(list[i].node) : nullptr;
    if (data != nullptr) data[i] = i < list.size() ? list[i].data : CUgraphEdgeData{};
  }
  *count = std::min(*count, list.size());
}

// The shared body of the four calls about a node's neighbours.
CUresult Neighbours(CUgraphNode handle, bool before, bool with_data, CUgraphNode* nodes,
                    CUgraphEdgeData* data, size_t* count) {
  SIMGPU_DRIVER(driver);
  if (count == nullptr || (data != nullptr && nodes == nullptr)) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  GraphNode* node = nullptr;
  if (CUresult bad = FindNode(*driver, handle, &node)) return bad;
  const auto& list = before ? node->before : node->after;
  if (nodes != nullptr && (!with_data || data == nullptr) &&
      std::ranges::any_of(list, [](const GraphEdge& edge) { return HasData(edge.data); })) {
    return CUDA_ERROR_LOSSY_QUERY;
  }
  GiveList(list, nodes, data, count);
  return CUDA_SUCCESS;
}

CUresult Edges(CUgraph handle, CUgraphNode* from, CUgraphNode* to, bool with_data,
               CUgraphEdgeData* data, size_t* count) {
  SIMGPU_DRIVER(driver);
  if (count == nullptr || (from == nullptr) != (to == nullptr) ||
      (data != nullptr && from == nullptr)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  std::lock_guard guard(driver->mutex);
  Graph* graph = nullptr;
  if (CUresult bad = FindGraph(*driver, handle, &graph)) return bad;
  if (from == nullptr) {
    *count = graph->edges;
    return CUDA_SUCCESS;
  }
  size_t at = 0;
  for (const auto& node : graph->nodes) {
    for (const GraphEdge& edge : node->after) {
      if ((!with_data || data == nullptr) && HasData(edge.data)) return CUDA_ERROR_LOSSY_QUERY;
      if (at < *count) {
        from[at] = HandleOf(node.get());
        to[at] = HandleOf(edge.node);
        if (data != nullptr) data[at] = edge.data;
      }
      ++at;
    }
  }
  for (size_t i = at; i < *count; ++i) {
    from[i] = to[i] = nullptr;
    if (data != nullptr) data[i] = {};
  }
  *count = std::min(*count, at);
  return CUDA_SUCCESS;
}

CUresult AddEdges(CUgraph handle, const CUgraphNode* from, const CUgraphNode* to,
                  const CUgraphEdgeData* data, size_t count) {
  SIMGPU_DRIVER(driver);
  if (count > 0 && (from == nullptr || to == nullptr)) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  Graph* graph = nullptr;
  if (CUresult bad = FindGraph(*driver, handle, &graph)) return bad;
  if (count > kGraphEdgesMax - graph->edges) return BoundHit("kGraphEdgesMax", kGraphEdgesMax);
  // Each is added as it passes; the first that does not takes those before it away again.
  for (size_t i = 0; i < count; ++i) {
    GraphNode *a = nullptr, *b = nullptr;
    CUresult bad = FindNode(*driver, from[i], &a);
    if (bad == CUDA_SUCCESS) bad = FindNode(*driver, to[i], &b);
    if (bad == CUDA_SUCCESS &&
        (a->graph != graph || b->graph != graph || a == b || Connected(a, b) || Reaches(b, a))) {
      bad = CUDA_ERROR_INVALID_VALUE;
    }
    const CUgraphEdgeData* edge = data != nullptr ? &data[i] : nullptr;
    if (bad == CUDA_SUCCESS) bad = CheckEdgeData(a, edge);
    if (bad == CUDA_SUCCESS && edge != nullptr && edge->type != 0 &&
        b->body.type != CU_GRAPH_NODE_TYPE_KERNEL) {
      bad = CUDA_ERROR_INVALID_VALUE;
    }
    if (bad == CUDA_SUCCESS) {
      Connect(a, b, edge != nullptr ? *edge : CUgraphEdgeData{});
      continue;
    }
    while (i-- > 0) {
      Disconnect(reinterpret_cast<GraphNode*>(from[i]), reinterpret_cast<GraphNode*>(to[i]));
    }
    return bad;
  }
  return CUDA_SUCCESS;
}

CUresult RemoveEdges(CUgraph handle, const CUgraphNode* from, const CUgraphNode* to,
                     const CUgraphEdgeData* data, size_t count) {
  SIMGPU_DRIVER(driver);
  if (count > 0 && (from == nullptr || to == nullptr)) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  Graph* graph = nullptr;
  if (CUresult bad = FindGraph(*driver, handle, &graph)) return bad;
  if (graph->has_memory) return CUDA_ERROR_NOT_SUPPORTED;
  std::vector<std::pair<GraphNode*, GraphNode*>> gone;
  gone.reserve(std::min(count, graph->edges));
  for (size_t i = 0; i < count; ++i) {
    GraphNode *a = nullptr, *b = nullptr;
    if (CUresult bad = FindNode(*driver, from[i], &a)) return bad;
    if (CUresult bad = FindNode(*driver, to[i], &b)) return bad;
    if (a->graph != graph) return CUDA_ERROR_INVALID_VALUE;
    auto edge = FindEdge(&a->after, b);
    const CUgraphEdgeData wanted = data != nullptr ? data[i] : CUgraphEdgeData{};
    if (edge == a->after.end() || !SameData(edge->data, wanted)) return CUDA_ERROR_INVALID_VALUE;
    gone.emplace_back(a, b);
  }
  auto sorted = gone;
  std::ranges::sort(sorted);
  if (std::ranges::adjacent_find(sorted) != sorted.end()) return CUDA_ERROR_INVALID_VALUE;
  for (auto& [a, b] : gone) Disconnect(a, b);
  return CUDA_SUCCESS;
}

}  // namespace

CUresult BoundHit(const char* name, size_t bound) {
  Say("a bound of this simulation was hit: " + std::string(name) + " = " + std::to_string(bound));
  return CUDA_ERROR_OUT_OF_MEMORY;
}

bool RoomForGraph() { return graph_count < kGraphsMax; }
void CountGraph(int change) { graph_count += change; }

void CountCapture(Graph* graph, int change) {
  for (; graph != nullptr; graph = graph->parent) graph->capturing += change;
}

std::shared_ptr<Graph> NewGraph(Driver* driver) {
  if (!RoomForGraph()) {
    BoundHit("kGraphsMax", kGraphsMax);
    return nullptr;
  }
  CountGraph(1);
  auto graph = std::make_shared<Graph>();
  graph->id = driver->next_id++;
  driver->live.insert(graph.get());
  return graph;
}

void Own(std::shared_ptr<Graph> graph) {
  const Graph* key = graph.get();
  Owned().emplace(key, std::move(graph));
}

std::shared_ptr<Graph> Disown(Graph* graph) {
  auto node = Owned().extract(graph);
  return node.empty() ? nullptr : std::move(node.mapped());
}

CUresult FindGraph(const Driver& driver, CUgraph handle, Graph** graph) {
  if (handle == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *graph = Live<Graph>(driver, handle, Kind::kGraph);
  return *graph != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult FindNode(const Driver& driver, CUgraphNode handle, GraphNode** node) {
  if (handle == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *node = Live<GraphNode>(driver, handle, Kind::kGraphNode);
  return *node != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult FindNodes(const Driver& driver, const Graph* graph, const CUgraphNode* handles,
                   size_t count, std::vector<GraphNode*>* nodes) {
  if (count > 0 && handles == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (count > graph->nodes.size()) return CUDA_ERROR_INVALID_VALUE;
  nodes->clear();
  for (size_t i = 0; i < count; ++i) {
    GraphNode* node = nullptr;
    if (CUresult bad = FindNode(driver, handles[i], &node)) return bad;
    if (node->graph != graph) return CUDA_ERROR_INVALID_VALUE;
    nodes->push_back(node);
  }
  auto sorted = *nodes;
  std::ranges::sort(sorted);
  return std::ranges::adjacent_find(sorted) == sorted.end() ? CUDA_SUCCESS
                                                            : CUDA_ERROR_INVALID_VALUE;
}

CUresult CheckEdgeData(const GraphNode* from, const CUgraphEdgeData* data) {
  if (data == nullptr) return CUDA_SUCCESS;
  const bool reserved = std::ranges::any_of(data->reserved, [](unsigned char c) { return c != 0; });
  if (reserved || data->to_port != 0) return CUDA_ERROR_INVALID_VALUE;
  if (data->type == CU_GRAPH_DEPENDENCY_TYPE_DEFAULT) {
    return data->from_port == CU_GRAPH_KERNEL_NODE_PORT_DEFAULT ? CUDA_SUCCESS
                                                                : CUDA_ERROR_INVALID_VALUE;
  }
  // A programmatic edge lets a kernel begin early; ending the one before first is always allowed.
  const bool port = data->from_port == CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC ||
                    data->from_port == CU_GRAPH_KERNEL_NODE_PORT_LAUNCH_ORDER;
  return data->type == CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC && port &&
                 from->body.type == CU_GRAPH_NODE_TYPE_KERNEL
             ? CUDA_SUCCESS
             : CUDA_ERROR_INVALID_VALUE;
}

size_t CountNodes(const Graph& graph) {
  size_t count = graph.nodes.size();
  for (const auto& node : graph.nodes) {
    node->body.ForEachWithin([&](const Graph* within) { count += CountNodes(*within); });
  }
  return count;
}

CUresult AddNode(Driver* driver, Graph* graph, std::span<const GraphEdge> before, NodeBody body,
                 GraphNode** node) {
  if (graph->nodes.size() >= kGraphNodesMax) return BoundHit("kGraphNodesMax", kGraphNodesMax);
  if (before.size() > kGraphEdgesMax - graph->edges) {
    return BoundHit("kGraphEdgesMax", kGraphEdgesMax);
  }
  if (body.child != nullptr) {
    if (DepthOf(graph) + HeightOf(*body.child) > kGraphDepthMax) {
      return BoundHit("kGraphDepthMax", kGraphDepthMax);
    }
    if (CountNodes(*body.child) + graph->nodes.size() >= kGraphNodesMax) {
      return BoundHit("kGraphNodesMax", kGraphNodesMax);
    }
    body.child->parent = graph;
  }
  if (!body.branches.empty() && DepthOf(graph) >= kGraphDepthMax) {
    return BoundHit("kGraphDepthMax", kGraphDepthMax);
  }
  for (const auto& branch : body.branches) branch->parent = graph;
  auto made = std::make_unique<GraphNode>();
  made->graph = graph;
  made->id = driver->next_id++;
  made->body = std::move(body);
  if (made->body.memory != nullptr ||
      (made->body.child != nullptr && made->body.child->has_memory)) {
    for (Graph* at = graph; at != nullptr; at = at->parent) at->has_memory = true;
  }
  if (made->body.condition != nullptr ||
      (made->body.child != nullptr && made->body.child->has_conditions)) {
    for (Graph* at = graph; at != nullptr; at = at->parent) at->has_conditions = true;
  }
  driver->live.insert(made.get());
  for (const GraphEdge& edge : before) Connect(edge.node, made.get(), edge.data);
  *node = made.get();
  graph->nodes.push_back(std::move(made));
  return CUDA_SUCCESS;
}

CUresult CloneGraph(Driver* driver, const Graph& from, size_t depth, std::shared_ptr<Graph>* to) {
  if (from.has_memory || from.has_conditions) return CUDA_ERROR_NOT_SUPPORTED;
  if (depth > kGraphDepthMax) return BoundHit("kGraphDepthMax", kGraphDepthMax);
  std::shared_ptr<Graph> made = NewGraph(driver);
  if (made == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  made->cloned_from = from.id;
  std::unordered_map<const GraphNode*, GraphNode*> twins;
  for (const auto& node : from.nodes) {
    NodeBody body = node->body;
    CUresult bad = CUDA_SUCCESS;
    if (body.child != nullptr) bad = CloneGraph(driver, *node->body.child, depth + 1, &body.child);
    GraphNode* twin = nullptr;
    if (bad == CUDA_SUCCESS) bad = AddNode(driver, made.get(), {}, std::move(body), &twin);
    if (bad != CUDA_SUCCESS) {
      DropGraph(driver, made.get());
      return bad;
    }
    twin->cloned_from = node->id;
    twins[node.get()] = twin;
  }
  for (const auto& node : from.nodes) {
    for (const GraphEdge& edge : node->after) {
      Connect(twins[node.get()], twins[edge.node], edge.data);
    }
  }
  made->user_objects = from.user_objects;
  RetainAll(made->user_objects);
  *to = std::move(made);
  return CUDA_SUCCESS;
}

void DropGraph(Driver* driver, Graph* graph) {
  for (const auto& node : graph->nodes) {
    node->body.ForEachWithin([&](Graph* within) { DropGraph(driver, within); });
    driver->live.erase(node.get());
  }
  driver->live.erase(graph);
  CountGraph(-1);
  Disown(graph);
}

}  // namespace simgpu

namespace tessera::abi {
using namespace simgpu;  // NOLINT

extern "C" {

CUresult cuGraphCreate(CUgraph* handle, unsigned int flags) {
  SIMGPU_DRIVER(driver);
  if (handle == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  std::shared_ptr<Graph> graph = NewGraph(driver);
  if (graph == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  *handle = HandleOf(graph.get());
  Own(std::move(graph));
  return CUDA_SUCCESS;
}

CUresult cuGraphDestroy(CUgraph handle) {
  SIMGPU_DRIVER(driver);
  Destructors destructors;
  {
    std::lock_guard guard(driver->mutex);
    Graph* graph = nullptr;
    if (CUresult bad = FindGraph(*driver, handle, &graph)) return bad;
    if (graph->parent != nullptr || graph->capturing > 0) return CUDA_ERROR_INVALID_VALUE;
    ReleaseUserObjects(driver, graph, &destructors);
    DropGraph(driver, graph);
    SweepGraphMemory(driver);
  }
  Call(destructors);
  return CUDA_SUCCESS;
}

CUresult cuGraphClone(CUgraph* handle, CUgraph original) {
  SIMGPU_DRIVER(driver);
  if (handle == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  Graph* graph = nullptr;
  if (CUresult bad = FindGraph(*driver, original, &graph)) return bad;
  std::shared_ptr<Graph> clone;
  if (CUresult bad = CloneGraph(driver, *graph, 1, &clone)) return bad;
  *handle = HandleOf(clone.get());
  Own(std::move(clone));
  return CUDA_SUCCESS;
}

CUresult cuGraphNodeFindInClone(CUgraphNode* found, CUgraphNode original, CUgraph clone) {
  SIMGPU_DRIVER(driver);
  if (found == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  GraphNode* node = nullptr;
  Graph* graph = nullptr;
  if (CUresult bad = FindNode(*driver, original, &node)) return bad;
  if (CUresult bad = FindGraph(*driver, clone, &graph)) return bad;
  if (graph->cloned_from != node->graph->id) return CUDA_ERROR_INVALID_VALUE;
  for (const auto& twin : graph->nodes) {
    if (twin->cloned_from != node->id) continue;
    *found = HandleOf(twin.get());
    return CUDA_SUCCESS;
  }
  return CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGraphGetNodes(CUgraph handle, CUgraphNode* nodes, size_t* count) {
  SIMGPU_DRIVER(driver);
  if (count == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  Graph* graph = nullptr;
  if (CUresult bad = FindGraph(*driver, handle, &graph)) return bad;
  std::vector<GraphEdge> list;
  for (const auto& node : graph->nodes) list.push_back({node.get(), {}});
  GiveList(list, nodes, nullptr, count);
  return CUDA_SUCCESS;
}

CUresult cuGraphGetRootNodes(CUgraph handle, CUgraphNode* nodes, size_t* count) {
  SIMGPU_DRIVER(driver);
  if (count == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  Graph* graph = nullptr;
  if (CUresult bad = FindGraph(*driver, handle, &graph)) return bad;
  std::vector<GraphEdge> list;
  for (const auto& node : graph->nodes) {
    if (node->before.empty()) list.push_back({node.get(), {}});
  }
  GiveList(list, nodes, nullptr, count);
  return CUDA_SUCCESS;
}

CUresult cuGraphGetEdges(CUgraph handle, CUgraphNode* from, CUgraphNode* to, size_t* count) {
  return Edges(handle, from, to, false, nullptr, count);
}
CUresult cuGraphGetEdges_v2(CUgraph handle, CUgraphNode* from, CUgraphNode* to,
                            CUgraphEdgeData* data, size_t* count) {
  return Edges(handle, from, to, true, data, count);
}
CUresult cuGraphNodeGetDependencies(CUgraphNode handle, CUgraphNode* nodes, size_t* count) {
  return Neighbours(handle, true, false, nodes, nullptr, count);
}
CUresult cuGraphNodeGetDependencies_v2(CUgraphNode handle, CUgraphNode* nodes,
                                       CUgraphEdgeData* data, size_t* count) {
  return Neighbours(handle, true, true, nodes, data, count);
}
CUresult cuGraphNodeGetDependentNodes(CUgraphNode handle, CUgraphNode* nodes, size_t* count) {
  return Neighbours(handle, false, false, nodes, nullptr, count);
}
CUresult cuGraphNodeGetDependentNodes_v2(CUgraphNode handle, CUgraphNode* nodes,
                                         CUgraphEdgeData* data, size_t* count) {
  return Neighbours(handle, false, true, nodes, data, count);
}
CUresult cuGraphAddDependencies(CUgraph handle, const CUgraphNode* from, const CUgraphNode* to,
                                size_t count) {
  return AddEdges(handle, from, to, nullptr, count);
}
CUresult cuGraphAddDependencies_v2(CUgraph handle, const CUgraphNode* from, const CUgraphNode* to,
                                   const CUgraphEdgeData* data, size_t count) {
  return AddEdges(handle, from, to, data, count);
}
CUresult cuGraphRemoveDependencies(CUgraph handle, const CUgraphNode* from, const CUgraphNode* to,
                                   size_t count) {
  return RemoveEdges(handle, from, to, nullptr, count);
}
CUresult cuGraphRemoveDependencies_v2(CUgraph handle, const CUgraphNode* from,
                                      const CUgraphNode* to, const CUgraphEdgeData* data,
                                      size_t count) {
  return RemoveEdges(handle, from, to, data, count);
}

CUresult cuGraphDestroyNode(CUgraphNode handle) {
  SIMGPU_DRIVER(driver);
  Destructors destructors;
  {
    std::lock_guard guard(driver->mutex);
    GraphNode* node = nullptr;
    if (CUresult bad = FindNode(*driver, handle, &node)) return bad;
    Graph* graph = node->graph;
    if (graph->has_memory) return CUDA_ERROR_NOT_SUPPORTED;
    if (graph->capturing > 0) return CUDA_ERROR_INVALID_VALUE;
    while (!node->before.empty()) Disconnect(node->before.back().node, node);
    while (!node->after.empty()) Disconnect(node, node->after.back().node);
    node->body.ForEachWithin([&](Graph* within) {
      ReleaseUserObjects(driver, within, &destructors);
      DropGraph(driver, within);
    });
    driver->live.erase(node);
    std::erase_if(graph->nodes, [&](const auto& other) { return other.get() == node; });
  }
  Call(destructors);
  return CUDA_SUCCESS;
}

CUresult cuGraphNodeGetType(CUgraphNode handle, CUgraphNodeType* type) {
  SIMGPU_DRIVER(driver);
  if (type == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  GraphNode* node = nullptr;
  if (CUresult bad = FindNode(*driver, handle, &node)) return bad;
  *type = node->body.type;
  return CUDA_SUCCESS;
}

}  // extern "C"

}  // namespace tessera::abi
