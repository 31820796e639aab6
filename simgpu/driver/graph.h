// CUDA graphs: what nodes are, how graphs hold them, and what an executable graph keeps of them.
//
// A node's body says what it does (work.h's actions and what the interface tells about them); it is
// copied into clones and executable graphs, so that these live on whatever becomes of the original.
// Graphs own their nodes, child graph nodes their graphs. Driver::mutex guards everything here; a
// launch copies what it needs and puts it without the mutex.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "abi/cuda_graph.h"
#include "simgpu/driver/driver.h"
#include "simgpu/driver/work.h"

namespace simgpu {

inline constexpr size_t kGraphNodesMax = 262'144;    // of one graph, those of its children included
inline constexpr size_t kGraphEdgesMax = 1'048'576;  // of one graph without its children
inline constexpr size_t kGraphDepthMax = 16;         // graphs within graphs
inline constexpr size_t kGraphsMax = 65'536;         // graphs and executable graphs of a process
inline constexpr size_t kUserObjectsMax = 65'536;    // of a process
inline constexpr size_t kConditionalsMax = 65'536;   // handles of a process
inline constexpr uint32_t kBranchesMax = 4'096;      // bodies of one conditional node
inline constexpr uint32_t kBatchOpsMax = 256;        // of one batch node, as of one stream call

struct GraphExec;
struct GraphMemory;  // graph_memory.h
struct UserObject;

// What a handle of cuGraphConditionalHandleCreate names: a value that kernels set.
struct Conditional {
  uint64_t handle = 0;
  uint64_t graph = 0;  // id of the graph it was made for
  uint32_t initial = 0;
  bool assigned = false;  // `initial` when a launch begins
  bool used = false;      // by a node
  std::atomic<uint32_t> value{0};
};

struct NodeBody {
  CUgraphNodeType type = CU_GRAPH_NODE_TYPE_EMPTY;
  Context* context = nullptr;
  Action action;  // of all types but batches, children and memory nodes
  std::map<CUlaunchAttributeID, CUlaunchAttributeValue> attributes;  // kernels
  std::vector<CUstreamBatchMemOpParams> ops;                         // batches
  unsigned int batch_flags = 0;
  std::shared_ptr<Graph> child;
  std::shared_ptr<GraphMemory> memory;  // of both kinds of memory nodes
  std::shared_ptr<Conditional> condition;
  CUgraphConditionalNodeType condition_type = CU_GRAPH_COND_TYPE_IF;
  std::vector<std::shared_ptr<Graph>> branches;  // of a conditional node

  // The graphs within it: a child graph, or the bodies of a conditional node.
  template <typename Visit>
  void ForEachWithin(const Visit& visit) const {
    if (child != nullptr) visit(child.get());
    for (const auto& branch : branches) visit(branch.get());
  }
};

struct GraphEdge {
  GraphNode* node = nullptr;  // at the other end
  CUgraphEdgeData data{};
};

struct GraphNode : Object {
  GraphNode() : Object(Kind::kGraphNode) {}
  Graph* graph = nullptr;
  uint64_t id = 0;
  uint64_t cloned_from = 0;  // another node's id
  NodeBody body;
  std::vector<GraphEdge> before, after;
  std::vector<void*> pointers;  // into the packed parameters, for cuGraphKernelNodeGetParams
  std::vector<CUmemAccessDesc> access;  // allocations, for cuGraphMemAllocNodeGetParams
  std::vector<CUgraph> branches;        // the program reads them here as long as the node lives
};

struct Graph : Object {
  Graph() : Object(Kind::kGraph) {}
  uint64_t id = 0;
  uint64_t cloned_from = 0;                       // another graph's id
  std::vector<std::unique_ptr<GraphNode>> nodes;  // in the order they were made
  size_t edges = 0;
  Graph* parent = nullptr;  // of a child graph
  // Captures that make it, or a graph within it, grow: not to be instantiated or destroyed.
  unsigned int capturing = 0;
  bool has_memory = false;                                 // memory nodes here or in children
  bool has_conditions = false;                             // conditional nodes here or in children
  std::vector<std::shared_ptr<Conditional>> conditionals;  // made for it
  GraphExec* exec = nullptr;                               // with memory nodes there is one at most
  std::map<UserObject*, unsigned int> user_objects;
};

struct ExecGraph;
struct ExecNode {
  uint64_t source = 0;  // id of the node it was made from
  NodeBody body;        // without child
  std::vector<uint32_t> before;
  bool enabled = true;
  std::shared_ptr<ExecGraph> child;
  std::vector<std::shared_ptr<ExecGraph>> branches;
};
struct ExecGraph {
  std::vector<ExecNode> nodes;  // in the order of the original
  std::vector<uint32_t> order;  // a topological one
};

struct GraphExec : Object {
  GraphExec() : Object(Kind::kGraphExec) {}
  uint64_t flags = 0;
  Graph* source = nullptr;  // what it was made from; may be gone, hence its id too
  uint64_t source_id = 0;
  Context* context = nullptr;
  ExecGraph top;
  std::unordered_map<uint64_t, ExecNode*> by_source;  // children's nodes too
  std::vector<std::shared_ptr<GraphMemory>> allocates, frees;
  std::vector<std::shared_ptr<Conditional>> assigns;  // those that begin with their initial value
  std::map<UserObject*, unsigned int> user_objects;
  // Held over a launch, before Driver::mutex, so that launches stand in one order. `last` are the
  // commands at the end of the latest launch.
  std::mutex launching;
  std::vector<CommandRef> last;
};

// Graphs (graph.cc). Mutex held in all.
std::shared_ptr<Graph> NewGraph(Driver* driver);  // null: kGraphsMax
bool RoomForGraph();                              // counts executable graphs too
void CountGraph(int change);
// A capture begins or ends in the graph: it and those around it take part.
void CountCapture(Graph* graph, int change);
// Hands the graph to the program, which may destroy it from now on; Disown takes it back.
void Own(std::shared_ptr<Graph> graph);
std::shared_ptr<Graph> Disown(Graph* graph);
CUresult FindGraph(const Driver& driver, CUgraph handle, Graph** graph);
CUresult FindNode(const Driver& driver, CUgraphNode handle, GraphNode** node);
// Nodes of `graph` named by handles; refuses duplicates and strangers.
CUresult FindNodes(const Driver& driver, const Graph* graph, const CUgraphNode* handles,
                   size_t count, std::vector<GraphNode*>* nodes);
// The edge data as far as we know it (`data` may be null), or why it is refused.
CUresult CheckEdgeData(const GraphNode* from, const CUgraphEdgeData* data);
CUresult AddNode(Driver* driver, Graph* graph, std::span<const GraphEdge> before, NodeBody body,
                 GraphNode** node);
CUresult CloneGraph(Driver* driver, const Graph& from, size_t depth, std::shared_ptr<Graph>* to);
void DropGraph(Driver* driver, Graph* graph);  // and its children; it leaves the table
size_t CountNodes(const Graph& graph);
// Says which bound was hit.
CUresult BoundHit(const char* name, size_t bound);

// Bodies (graph_nodes.cc): from what calls take. Mutex held. `current` is the node's
// context; attributes that `body` has already count. An allocation's access list goes to `access`.
CUresult BodyFrom(Driver* driver, Context* current, const CUgraphNodeParams& params, NodeBody* body,
                  std::vector<CUmemAccessDesc>* access);
// The context that the parameters name, if their type names one and they do.
CUcontext NamedContext(const CUgraphNodeParams& params);
// Whether a free node may be added, and keeping book of memory nodes that were.
CUresult CheckMemoryNode(const Graph* graph, const NodeBody& body);
void NoteMemoryNode(const Graph* graph, const GraphNode& node);
// Whether an executable graph's node may become `body`.
CUgraphExecUpdateResult MayBecome(const Driver& driver, const NodeBody& old, const NodeBody& body);
std::vector<WordAction> WordsOf(const NodeBody& body);

// Conditional nodes (graph_conditional.cc). A node's body from what a call takes: its graphs are
// new and empty. Mutex held.
CUresult ConditionalBody(Driver* driver, const Graph* graph,
                         const CUDA_CONDITIONAL_NODE_PARAMS& params, NodeBody* body);
// Whether bodies hold only what may stand in them, here and in all graphs within.
bool BodiesAllowed(const Graph& graph, bool in_body);

// Executable graphs (graph_exec.cc). For the capture of a launch: a graph that does the same. It is
// nobody's yet. Mutex held.
CUresult GraphOfExec(Driver* driver, const GraphExec& exec, std::shared_ptr<Graph>* graph);

// User objects (user_object.cc). Mutex held; destructors to call once it is free are collected.
struct Destructor {
  CUhostFn function = nullptr;
  void* data = nullptr;
};
using Destructors = std::vector<Destructor>;
void RetainAll(const std::map<UserObject*, unsigned int>& objects);
void RetainOne(UserObject* object);
void ReleaseAll(Driver* driver, std::map<UserObject*, unsigned int>* objects,
                Destructors* destructors);
void Call(const Destructors& destructors);

// Releases the user objects of a graph and of its children.
void ReleaseUserObjects(Driver* driver, Graph* graph, Destructors* destructors);

inline CUgraph HandleOf(const Graph* graph) {
  return reinterpret_cast<CUgraph>(const_cast<Graph*>(graph));
}
inline CUgraphNode HandleOf(const GraphNode* node) {
  return reinterpret_cast<CUgraphNode>(const_cast<GraphNode*>(node));
}

}  // namespace simgpu
