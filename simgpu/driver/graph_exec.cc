// Executable graphs: made from graphs, changed, launched.
//
// A launch is a copy of what the executable graph says at that moment, put between a fork and a
// join of its stream; so what is launched is not changed by what comes later.
#include <string.h>

#include <algorithm>
#include <optional>
#include <unordered_set>

#include "simgpu/driver/capture.h"
#include "simgpu/driver/executor.h"
#include "simgpu/driver/graph.h"
#include "simgpu/driver/graph_memory.h"
#include "simgpu/driver/pool.h"

namespace simgpu {
namespace {

// All executable graphs. Driver::mutex.
std::unordered_map<const GraphExec*, std::shared_ptr<GraphExec>>& Execs() {
  static auto* execs = new std::unordered_map<const GraphExec*, std::shared_ptr<GraphExec>>;
  return *execs;
}

CUresult FindExec(const Driver& driver, CUgraphExec handle, std::shared_ptr<GraphExec>* exec) {
  auto* live = Live<GraphExec>(driver, handle, Kind::kGraphExec);
  if (live == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *exec = Execs().at(live);
  return CUDA_SUCCESS;
}

std::unordered_map<const GraphNode*, uint32_t> Indices(const Graph& graph) {
  std::unordered_map<const GraphNode*, uint32_t> indices;
  for (uint32_t i = 0; i < graph.nodes.size(); ++i) indices[graph.nodes[i].get()] = i;
  return indices;
}

void Sort(ExecGraph* graph) {
  const size_t count = graph->nodes.size();
  std::vector<uint32_t> waits(count);
  std::vector<std::vector<uint32_t>> after(count);
  for (uint32_t i = 0; i < count; ++i) {
    waits[i] = static_cast<uint32_t>(graph->nodes[i].before.size());
    for (uint32_t other : graph->nodes[i].before) after[other].push_back(i);
  }
  for (uint32_t i = 0; i < count; ++i) {
    if (waits[i] == 0) graph->order.push_back(i);
  }
  // Edges never make a circle (cuGraphAddDependencies), so this reaches all.
  for (size_t at = 0; at < graph->order.size(); ++at) {
    for (uint32_t next : after[graph->order[at]]) {
      if (--waits[next] == 0) graph->order.push_back(next);
    }
  }
}

void Build(const Graph& graph, ExecGraph* made) {
  const auto indices = Indices(graph);
  for (const auto& node : graph.nodes) {
    ExecNode twin;
    twin.source = node->id;
    twin.body = node->body;
    if (node->body.child != nullptr) {
      twin.child = std::make_shared<ExecGraph>();
      Build(*node->body.child, twin.child.get());
      twin.body.child = nullptr;
    }
    for (const auto& branch : node->body.branches) {
      twin.branches.push_back(std::make_shared<ExecGraph>());
      Build(*branch, twin.branches.back().get());
    }
    twin.body.branches.clear();
    for (const GraphEdge& edge : node->before) twin.before.push_back(indices.at(edge.node));
    std::ranges::sort(twin.before);
    made->nodes.push_back(std::move(twin));
  }
  Sort(made);
}

void Index(GraphExec* exec, ExecGraph* graph) {
  for (ExecNode& node : graph->nodes) {
    exec->by_source[node.source] = &node;
    if (node.child != nullptr) Index(exec, node.child.get());
    for (const auto& branch : node.branches) Index(exec, branch.get());
  }
}

bool HasConditions(const ExecGraph& graph) {
  return std::ranges::any_of(graph.nodes, [](const ExecNode& node) {
    return node.body.condition != nullptr || (node.child != nullptr && HasConditions(*node.child));
  });
}

void CollectAssigns(const ExecGraph& graph, std::vector<std::shared_ptr<Conditional>>* assigns) {
  for (const ExecNode& node : graph.nodes) {
    if (node.body.condition != nullptr && node.body.condition->assigned) {
      assigns->push_back(node.body.condition);
    }
    if (node.child != nullptr) CollectAssigns(*node.child, assigns);
    for (const auto& branch : node.branches) CollectAssigns(*branch, assigns);
  }
}

// What the memory nodes allocate and free. False: something is freed before it can exist.
bool CollectMemory(const Graph& graph, GraphExec* exec) {
  for (const auto& node : graph.nodes) {
    const NodeBody& body = node->body;
    if (body.child != nullptr && !CollectMemory(*body.child, exec)) return false;
    if (body.type == CU_GRAPH_NODE_TYPE_MEM_ALLOC) exec->allocates.push_back(body.memory);
    if (body.type != CU_GRAPH_NODE_TYPE_MEM_FREE) continue;
    exec->frees.push_back(body.memory);
    if (body.memory->owner != graph.id) continue;
    // Freed where it is allocated: a path has to lead here from the allocation.
    std::unordered_set<const GraphNode*> seen{node.get()};
    std::vector<const GraphNode*> open{node.get()};
    bool found = false;
    while (!open.empty() && !found) {
      const GraphNode* at = open.back();
      open.pop_back();
      found = at->body.type == CU_GRAPH_NODE_TYPE_MEM_ALLOC && at->body.memory == body.memory;
      for (const GraphEdge& edge : at->before) {
        if (seen.insert(edge.node).second) open.push_back(edge.node);
      }
    }
    if (!found) return false;
  }
  return true;
}

void RetainOf(const Graph& graph, std::map<UserObject*, unsigned int>* objects) {
  RetainAll(graph.user_objects);
  for (const auto& [object, count] : graph.user_objects) (*objects)[object] += count;
  for (const auto& node : graph.nodes) {
    node->body.ForEachWithin([&](const Graph* within) { RetainOf(*within, objects); });
  }
}

// Of a graph that takes the place of another: what is held already is not held twice.
void RetainNewOf(const Graph& graph, std::map<UserObject*, unsigned int>* objects) {
  for (const auto& [object, count] : graph.user_objects) {
    if (objects->emplace(object, 1).second) RetainOne(object);
  }
  for (const auto& node : graph.nodes) {
    if (node->body.child != nullptr) RetainNewOf(*node->body.child, objects);
  }
}

CUresult Instantiate(CUgraphExec* handle, CUgraph graph_handle, uint64_t flags,
                     unsigned int* reason) {
  SIMGPU_CURRENT(driver, context);
  *reason = CUDA_GRAPH_INSTANTIATE_ERROR;
  constexpr uint64_t kKnown =
      CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH | CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD |
      CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH | CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY;
  if (handle == nullptr || (flags & ~kKnown) != 0) return CUDA_ERROR_INVALID_VALUE;
  if ((flags & CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH) != 0) {
    if ((flags & CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH) != 0) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    Say("graphs that kernels launch are not simulated");
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  std::lock_guard guard(driver->mutex);
  Graph* graph = nullptr;
  if (CUresult bad = FindGraph(*driver, graph_handle, &graph)) return bad;
  if (graph->capturing > 0) return CUDA_ERROR_INVALID_VALUE;
  if (graph->has_memory && graph->exec != nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (!RoomForGraph()) return BoundHit("kGraphsMax", kGraphsMax);
  if (CountNodes(*graph) > kGraphNodesMax) return BoundHit("kGraphNodesMax", kGraphNodesMax);
  if (!BodiesAllowed(*graph, false)) {
    *reason = CUDA_GRAPH_INSTANTIATE_NODE_OPERATION_NOT_SUPPORTED;
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  auto exec = std::make_shared<GraphExec>();
  if (!CollectMemory(*graph, exec.get())) {
    *reason = CUDA_GRAPH_INSTANTIATE_INVALID_STRUCTURE;
    return CUDA_ERROR_INVALID_VALUE;
  }
  exec->flags = flags;
  exec->source = graph;
  exec->source_id = graph->id;
  exec->context = context;
  Build(*graph, &exec->top);
  Index(exec.get(), &exec->top);
  CollectAssigns(exec->top, &exec->assigns);
  RetainOf(*graph, &exec->user_objects);
  if (graph->has_memory) graph->exec = exec.get();
  CountGraph(1);
  driver->live.insert(exec.get());
  *handle = reinterpret_cast<CUgraphExec>(exec.get());
  Execs().emplace(exec.get(), std::move(exec));
  *reason = CUDA_GRAPH_INSTANTIATE_SUCCESS;
  return CUDA_SUCCESS;
}

// A conditional node of a launch: a host function that decides when everything before the node is
// finished, and the command that everything behind it waits for. What it decides for is put between
// the two, which the end then waits for as well.
struct Decision {
  Context* context = nullptr;
  std::shared_ptr<Conditional> condition;
  CUgraphConditionalNodeType type = CU_GRAPH_COND_TYPE_IF;
  std::vector<std::shared_ptr<const ExecGraph>> branches;  // as they were at the launch
  std::weak_ptr<Decision> self;
  CommandRef end;
  std::atomic<bool> closed{false};  // `end` is there: the deciding command may be done before it
};
Action DecideAction(const std::shared_ptr<Decision>& decision);

// A copy that later changes do not reach.
std::shared_ptr<ExecGraph> CopyOf(const ExecGraph& graph) {
  auto copy = std::make_shared<ExecGraph>(graph);
  for (ExecNode& node : copy->nodes) {
    if (node.child != nullptr) node.child = CopyOf(*node.child);
    for (auto& branch : node.branches) branch = CopyOf(*branch);
  }
  return copy;
}

// A launch's commands to be: each behind earlier ones by index, or (none) behind the fork.
struct Step {
  Context* context = nullptr;
  Action action;
  std::vector<uint32_t> before;
  std::shared_ptr<Decision> closes;  // whose end it is
};

class Steps {
 public:
  Steps(const Driver& driver, Context* context) : driver_(driver), context_(context) {}

  uint32_t Add(Context* context, Action action, std::vector<uint32_t> before) {
    steps.push_back(
        {context != nullptr ? context : context_, std::move(action), std::move(before), nullptr});
    return static_cast<uint32_t>(steps.size() - 1);
  }

  // The graph's steps behind `start`; answers those at its end.
  std::vector<uint32_t> AddAll(const ExecGraph& graph, const std::vector<uint32_t>& start) {
    std::vector<uint32_t> step_of(graph.nodes.size());
    std::vector<bool> inner(graph.nodes.size(), false);
    for (uint32_t index : graph.order) {
      const ExecNode& node = graph.nodes[index];
      std::vector<uint32_t> before;
      for (uint32_t other : node.before) {
        before.push_back(step_of[other]);
        inner[other] = true;
      }
      if (before.empty()) before = start;
      step_of[index] = AddNode(node, std::move(before));
    }
    std::vector<uint32_t> ends;
    for (uint32_t index : graph.order) {
      if (!inner[index]) ends.push_back(step_of[index]);
    }
    return ends.empty() ? start : ends;
  }

  std::vector<Step> steps;
  CUresult result = CUDA_SUCCESS;  // the first thing that stands against the launch

 private:
  uint32_t AddNode(const ExecNode& node, std::vector<uint32_t> before) {
    const NodeBody& body = node.body;
    CheckNode(body);
    if (node.child != nullptr) return Add(nullptr, EmptyAction{}, AddAll(*node.child, before));
    if (body.condition != nullptr) {
      auto decision = std::make_shared<Decision>();
      decision->context = body.context;
      decision->condition = body.condition;
      decision->type = body.condition_type;
      for (const auto& branch : node.branches) decision->branches.push_back(CopyOf(*branch));
      const uint32_t decides = Add(body.context, DecideAction(decision), std::move(before));
      const uint32_t end = Add(body.context, EmptyAction{}, {decides});
      steps[end].closes = std::move(decision);
      return end;
    }
    if (!node.enabled) return Add(nullptr, EmptyAction{}, std::move(before));
    if (body.type != CU_GRAPH_NODE_TYPE_BATCH_MEM_OP) {
      return Add(body.context, body.action, std::move(before));
    }
    uint32_t last = Add(body.context, EmptyAction{}, std::move(before));
    for (const WordAction& word : WordsOf(body)) last = Add(body.context, word, {last});
    return last;
  }

  void CheckNode(const NodeBody& body) {
    if (result != CUDA_SUCCESS) return;
    if (body.context != nullptr && !body.context->alive.load(std::memory_order_acquire)) {
      result = CUDA_ERROR_CONTEXT_IS_DESTROYED;
    } else if (body.context != nullptr && body.context->sticky.load() != 0) {
      result = static_cast<CUresult>(body.context->sticky.load());
    }
    const Event* event = nullptr;
    if (const auto* record = std::get_if<EventRecordAction>(&body.action)) event = record->event;
    if (const auto* wait = std::get_if<EventWaitAction>(&body.action)) event = wait->event;
    if (event != nullptr && !driver_.live.contains(event)) result = CUDA_ERROR_INVALID_HANDLE;
  }

  const Driver& driver_;
  Context* const context_;
};

// Puts the steps behind `first`; answers a command behind those at the end.
CommandRef PutSteps(Context* context, std::vector<Step>* steps, const std::vector<uint32_t>& ends,
                    const std::vector<CommandRef>& first) {
  std::vector<CommandRef> commands;
  commands.reserve(steps->size());
  for (Step& step : *steps) {
    std::vector<CommandRef> before;
    for (uint32_t index : step.before) before.push_back(commands[index]);
    commands.push_back(
        PutAfter(step.context, before.empty() ? first : before, std::move(step.action)));
    if (step.closes == nullptr) continue;
    step.closes->end = commands.back();
    step.closes->closed.store(true, std::memory_order_release);
    step.closes->closed.notify_all();
  }
  std::vector<CommandRef> last;
  for (uint32_t index : ends) last.push_back(commands[index]);
  return PutAfter(context, last.empty() ? first : last, EmptyAction{});
}

void Decide(void* data) {
  auto* decision = static_cast<Decision*>(data);
  decision->closed.wait(false, std::memory_order_acquire);
  const uint32_t value = decision->condition->value.load();
  const bool loop = decision->type == CU_GRAPH_COND_TYPE_WHILE;
  // An IF with two bodies runs the second when the value is 0.
  const uint32_t chosen =
      decision->type == CU_GRAPH_COND_TYPE_SWITCH ? value : (value != 0 ? 0u : 1u);
  if (chosen >= decision->branches.size()) return;
  Driver* driver = Get();
  Steps plan(*driver, decision->context);
  std::vector<uint32_t> ends;
  {
    std::lock_guard guard(driver->mutex);
    ends = plan.AddAll(*decision->branches[chosen], {});
  }
  if (plan.result != CUDA_SUCCESS) return;  // a context ended meanwhile
  CommandRef last = PutSteps(decision->context, &plan.steps, ends, {});
  if (loop) {
    // Once more, as the same decision: its owner is the action that runs it.
    const CommandRef before[] = {last};
    last = PutAfter(decision->context, before, DecideAction(decision->self.lock()));
  }
  Executor::Get().Also(decision->end, last);
}

Action DecideAction(const std::shared_ptr<Decision>& decision) {
  decision->self = decision;
  HostAction action;
  action.function = Decide;
  action.data = decision.get();
  action.keep = decision;
  return action;
}

void AssignInitial(void* data) {
  for (const auto& one : *static_cast<std::vector<std::shared_ptr<Conditional>>*>(data)) {
    one->value.store(one->initial);
  }
}

bool Holds(const std::vector<std::shared_ptr<GraphMemory>>& list, const GraphMemory* memory) {
  return std::ranges::any_of(list, [&](const auto& one) { return one.get() == memory; });
}

// What a launch does to memory, in the order of calls: checks it, takes what is needed of the card.
// `freed_first`: what AUTO_FREE_ON_LAUNCH frees before the launch begins. Mutex held.
CUresult LaunchMemory(Driver* driver, GraphExec* exec, std::vector<uint64_t>* freed_first,
                      std::vector<uint64_t>* undo) {
  const bool auto_free = (exec->flags & CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH) != 0;
  for (const auto& memory : exec->allocates) {
    // Gone with its context, without a call of its own.
    if (!GraphMemoryLives(*driver, memory->address)) memory->outstanding = false;
    if (memory->outstanding && !auto_free) return CUDA_ERROR_INVALID_VALUE;
  }
  for (const auto& memory : exec->frees) {
    if (!GraphMemoryLives(*driver, memory->address)) memory->outstanding = false;
    if (!memory->outstanding && !Holds(exec->allocates, memory.get())) {
      return CUDA_ERROR_INVALID_VALUE;
    }
  }
  // Those that have no memory yet come first: only they can fail and have to be undone.
  std::vector<GraphMemory*> takes;
  for (const bool lives : {false, true}) {
    for (const auto& memory : exec->allocates) {
      if (GraphMemoryLives(*driver, memory->address) == lives) takes.push_back(memory.get());
    }
  }
  for (GraphMemory* memory : takes) {
    const bool fresh = !GraphMemoryLives(*driver, memory->address);
    if (CUresult bad = TakeGraphMemory(driver, memory->address)) return bad;
    if (fresh) undo->push_back(memory->address);
  }
  undo->clear();
  for (const auto& memory : exec->allocates) {
    if (memory->outstanding) freed_first->push_back(memory->address);
    memory->outstanding = !Holds(exec->frees, memory.get());
  }
  for (const auto& memory : exec->frees) memory->outstanding = false;
  return CUDA_SUCCESS;
}

// A launch into a stream that captures, or one that a capture forbids. Nothing: launch.
std::optional<CUresult> LaunchIntoCapture(Driver* driver, Context* context, Stream* stream,
                                          const GraphExec& exec) {
  const bool legacy = stream == context->legacy;
  if (stream->capture == nullptr) {
    if (CUresult bad = CheckNotCaptured(driver, context, stream, legacy)) return bad;
    return std::nullopt;
  }
  ChildAction child;
  if (CUresult bad = GraphOfExec(driver, exec, &child.graph)) return bad;
  const std::shared_ptr<Graph> graph = child.graph;
  Action action = std::move(child);
  std::optional<CUresult> answer = Captured(driver, context, stream, legacy, &action);
  if (answer.has_value() && *answer != CUDA_SUCCESS) DropGraph(driver, graph.get());
  return answer;
}

CUresult Launch(CUgraphExec handle, CUstream stream_handle, StreamForm form) {
  SIMGPU_CURRENT(driver, context);
  std::shared_ptr<GraphExec> exec;
  {
    std::lock_guard guard(driver->mutex);
    if (CUresult bad = FindExec(*driver, handle, &exec)) return bad;
    Stream* stream = nullptr;
    if (CUresult bad = FindStream(driver, context, stream_handle, form, &stream)) return bad;
    if (auto answer = LaunchIntoCapture(driver, context, stream, *exec)) return *answer;
    context = stream->context;
  }
  std::lock_guard launching(exec->launching);
  CommandRef fork;
  if (CUresult bad = Fork(stream_handle, form, &fork)) return bad;
  Steps plan(*driver, context);
  std::vector<uint32_t> ends;
  std::vector<uint64_t> freed_first, undo;
  const auto assigns = std::make_shared<std::vector<std::shared_ptr<Conditional>>>();
  CUresult result = CUDA_SUCCESS;
  {
    std::lock_guard guard(driver->mutex);
    ends = plan.AddAll(exec->top, {});
    *assigns = exec->assigns;
    result = plan.result;
    if (result == CUDA_SUCCESS) result = LaunchMemory(driver, exec.get(), &freed_first, &undo);
  }
  for (uint64_t address : undo) EndLife(driver, FreeAction{address});
  if (result != CUDA_SUCCESS) return result;
  std::vector<CommandRef> first = exec->last;
  first.push_back(std::move(fork));
  if (!freed_first.empty()) {
    std::vector<CommandRef> frees;
    for (uint64_t address : freed_first) {
      frees.push_back(PutAfter(context, first, FreeAction{address}));
    }
    first = std::move(frees);
  }
  if (!assigns->empty()) {
    HostAction assign;
    assign.function = AssignInitial;
    assign.data = assigns.get();
    assign.keep = assigns;
    first = {PutAfter(context, first, assign)};
  }
  exec->last = {PutSteps(context, &plan.steps, ends, first)};
  return Join(stream_handle, form, exec->last);
}

CUresult Upload(CUgraphExec handle, CUstream stream_handle, StreamForm form) {
  SIMGPU_CURRENT(driver, context);
  {
    std::lock_guard guard(driver->mutex);
    std::shared_ptr<GraphExec> exec;
    if (CUresult bad = FindExec(*driver, handle, &exec)) return bad;
    Stream* stream = nullptr;
    if (CUresult bad = FindStream(driver, context, stream_handle, form, &stream)) return bad;
    if (CUresult bad = CheckNotCaptured(driver, context, stream, stream == context->legacy)) {
      return bad;
    }
  }
  return Put(stream_handle, form, EmptyAction{});
}

// Runs when the last launch of a destroyed executable graph is over.
struct Held {
  std::map<UserObject*, unsigned int> objects;
};
void RunRelease(void* data) {
  const std::unique_ptr<Held> held(static_cast<Held*>(data));
  Driver* driver = Get();
  Destructors destructors;
  {
    std::lock_guard guard(driver->mutex);
    ReleaseAll(driver, &held->objects, &destructors);
  }
  Call(destructors);
}

CUresult Destroy(CUgraphExec handle) {
  SIMGPU_DRIVER(driver);
  std::shared_ptr<GraphExec> exec;
  {
    std::lock_guard guard(driver->mutex);
    if (CUresult bad = FindExec(*driver, handle, &exec)) return bad;
    driver->live.erase(exec.get());
    Execs().erase(exec.get());
    CountGraph(-1);
    if (driver->live.contains(exec->source) && exec->source->id == exec->source_id &&
        exec->source->exec == exec.get()) {
      exec->source->exec = nullptr;
    }
  }
  // A launch that another thread has just begun comes first.
  std::lock_guard launching(exec->launching);
  auto held = std::make_unique<Held>();
  {
    std::lock_guard guard(driver->mutex);
    exec->allocates.clear();
    exec->frees.clear();
    exec->top = {};
    held->objects.swap(exec->user_objects);
    SweepGraphMemory(driver);
  }
  if (held->objects.empty()) return CUDA_SUCCESS;
  if (!exec->last.empty() && !Done(exec->last.front()) && exec->context->alive.load()) {
    HostAction action;
    action.function = RunRelease;
    action.data = held.release();
    PutAfter(exec->context, exec->last, action);
  } else {
    RunRelease(held.release());
  }
  return CUDA_SUCCESS;
}

CUresult InstantiateWithParams(CUgraphExec* handle, CUgraph graph,
                               CUDA_GRAPH_INSTANTIATE_PARAMS* params, StreamForm form) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  params->hErrNode_out = nullptr;
  if (CUresult bad = Instantiate(handle, graph, params->flags, &params->result_out)) return bad;
  if ((params->flags & CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD) == 0) return CUDA_SUCCESS;
  if (CUresult bad = Upload(*handle, params->hUploadStream, form)) {
    Destroy(*handle);
    params->result_out = CUDA_GRAPH_INSTANTIATE_ERROR;
    return bad;
  }
  return CUDA_SUCCESS;
}

// Compares an executable graph with one that is to take its place, and collects the new bodies.
struct Change {
  ExecNode* node;
  const NodeBody* body;
};
CUgraphExecUpdateResult Compare(const Driver& driver, ExecGraph* old, const Graph& graph,
                                std::vector<Change>* changes, CUgraphExecUpdateResultInfo* info) {
  const auto fail = [&](CUgraphExecUpdateResult why, const GraphNode* node, const GraphNode* from) {
    *info = {why, HandleOf(node), HandleOf(from)};
    return why;
  };
  if (old->nodes.size() != graph.nodes.size()) {
    const bool more = graph.nodes.size() > old->nodes.size();
    return fail(CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED,
                more ? graph.nodes[old->nodes.size()].get() : nullptr, nullptr);
  }
  const auto indices = Indices(graph);
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const GraphNode* node = graph.nodes[i].get();
    ExecNode& was = old->nodes[i];
    if (was.body.type != node->body.type) {
      return fail(CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED, node, nullptr);
    }
    for (const GraphEdge& edge : node->before) {
      if (!std::ranges::binary_search(was.before, indices.at(edge.node))) {
        return fail(CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED, node, edge.node);
      }
    }
    if (was.before.size() != node->before.size()) {
      return fail(CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED, node, nullptr);
    }
    if (was.body.condition != nullptr) {
      return fail(CU_GRAPH_EXEC_UPDATE_ERROR_NOT_SUPPORTED, node, nullptr);
    }
    if (was.child != nullptr) {
      if (auto bad = Compare(driver, was.child.get(), *node->body.child, changes, info)) return bad;
      continue;
    }
    if (auto bad = MayBecome(driver, was.body, node->body)) return fail(bad, node, nullptr);
    changes->push_back({&was, &node->body});
  }
  return CU_GRAPH_EXEC_UPDATE_SUCCESS;
}

CUresult Update(CUgraphExec exec_handle, CUgraph graph_handle, CUgraphExecUpdateResultInfo* info) {
  SIMGPU_DRIVER(driver);
  *info = {CU_GRAPH_EXEC_UPDATE_ERROR, nullptr, nullptr};
  std::lock_guard guard(driver->mutex);
  std::shared_ptr<GraphExec> exec;
  Graph* graph = nullptr;
  if (CUresult bad = FindExec(*driver, exec_handle, &exec)) return bad;
  if (CUresult bad = FindGraph(*driver, graph_handle, &graph)) return bad;
  if (graph->capturing > 0) return CUDA_ERROR_INVALID_VALUE;
  std::vector<Change> changes;
  if (Compare(*driver, &exec->top, *graph, &changes, info) != CU_GRAPH_EXEC_UPDATE_SUCCESS) {
    return CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
  }
  for (const Change& change : changes) change.node->body = *change.body;
  RetainNewOf(*graph, &exec->user_objects);
  info->result = CU_GRAPH_EXEC_UPDATE_SUCCESS;
  return CUDA_SUCCESS;
}

// The executable graph's node made from that one. Mutex held.
CUresult FindExecNode(const Driver& driver, CUgraphExec exec_handle, CUgraphNode handle,
                      std::shared_ptr<GraphExec>* exec, GraphNode** source, ExecNode** node) {
  if (CUresult bad = FindExec(driver, exec_handle, exec)) return bad;
  if (CUresult bad = FindNode(driver, handle, source)) return bad;
  const auto found = (*exec)->by_source.find((*source)->id);
  if (found == (*exec)->by_source.end()) return CUDA_ERROR_INVALID_VALUE;
  *node = found->second;
  return CUDA_SUCCESS;
}

CUresult SetChild(CUgraphExec exec_handle, CUgraphNode handle, CUgraph child_handle) {
  SIMGPU_DRIVER(driver);
  std::lock_guard guard(driver->mutex);
  std::shared_ptr<GraphExec> exec;
  GraphNode* source = nullptr;
  ExecNode* node = nullptr;
  Graph* child = nullptr;
  if (CUresult bad = FindExecNode(*driver, exec_handle, handle, &exec, &source, &node)) return bad;
  if (CUresult bad = FindGraph(*driver, child_handle, &child)) return bad;
  std::vector<Change> changes;
  CUgraphExecUpdateResultInfo info{};
  if (node->child == nullptr || child->capturing > 0 ||
      Compare(*driver, node->child.get(), *child, &changes, &info) !=
          CU_GRAPH_EXEC_UPDATE_SUCCESS) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  for (const Change& change : changes) change.node->body = *change.body;
  RetainNewOf(*child, &exec->user_objects);
  return CUDA_SUCCESS;
}

CUresult Set(CUgraphExec exec_handle, CUgraphNode handle, CUcontext named,
             const CUgraphNodeParams& params) {
  SIMGPU_DRIVER(driver);
  if (params.type == CU_GRAPH_NODE_TYPE_MEM_ALLOC || params.type == CU_GRAPH_NODE_TYPE_MEM_FREE) {
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  if (params.type == CU_GRAPH_NODE_TYPE_GRAPH) {
    return SetChild(exec_handle, handle, params.graph.graph);
  }
  Context* context = nullptr;
  if (named != nullptr) {
    if (CUresult bad = ContextOf(named, &driver, &context)) return bad;
  }
  std::lock_guard guard(driver->mutex);
  std::shared_ptr<GraphExec> exec;
  GraphNode* source = nullptr;
  ExecNode* node = nullptr;
  if (CUresult bad = FindExecNode(*driver, exec_handle, handle, &exec, &source, &node)) return bad;
  if (node->body.type != params.type) return CUDA_ERROR_INVALID_VALUE;
  NodeBody body;
  body.attributes = node->body.attributes;
  std::vector<CUmemAccessDesc> access;
  if (CUresult bad = BodyFrom(driver, context != nullptr ? context : node->body.context, params,
                              &body, &access)) {
    return bad;
  }
  if (MayBecome(*driver, node->body, body) != CU_GRAPH_EXEC_UPDATE_SUCCESS) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  node->body = std::move(body);
  return CUDA_SUCCESS;
}

CUgraphNodeParams Params(CUgraphNodeType type) {
  CUgraphNodeParams params;
  memset(static_cast<void*>(&params), 0, sizeof params);
  params.type = type;
  return params;
}

CUresult GraphOf(Driver* driver, const ExecGraph& exec, size_t depth,
                 std::shared_ptr<Graph>* graph) {
  if (depth > kGraphDepthMax) return BoundHit("kGraphDepthMax", kGraphDepthMax);
  std::shared_ptr<Graph> made = NewGraph(driver);
  if (made == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  std::vector<GraphNode*> nodes(exec.nodes.size());
  for (uint32_t index : exec.order) {
    const ExecNode& from = exec.nodes[index];
    NodeBody body = from.enabled ? from.body : NodeBody{};
    CUresult bad = CUDA_SUCCESS;
    if (from.child != nullptr) bad = GraphOf(driver, *from.child, depth + 1, &body.child);
    std::vector<GraphEdge> before;
    for (uint32_t other : from.before) before.push_back({nodes[other], {}});
    if (bad == CUDA_SUCCESS) {
      bad = AddNode(driver, made.get(), before, std::move(body), &nodes[index]);
    }
    if (bad != CUDA_SUCCESS) {
      DropGraph(driver, made.get());
      return bad;
    }
  }
  *graph = std::move(made);
  return CUDA_SUCCESS;
}

}  // namespace

CUresult GraphOfExec(Driver* driver, const GraphExec& exec, std::shared_ptr<Graph>* graph) {
  if (!exec.allocates.empty() || !exec.frees.empty() || HasConditions(exec.top)) {
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  return GraphOf(driver, exec.top, 1, graph);
}

}  // namespace simgpu

namespace tessera::abi {
using namespace simgpu;  // NOLINT

extern "C" {

CUresult cuGraphInstantiateWithFlags(CUgraphExec* exec, CUgraph graph, unsigned long long flags) {
  unsigned int reason = 0;
  // An upload needs a stream, which only cuGraphInstantiateWithParams takes.
  if ((flags & CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD) != 0) return CUDA_ERROR_INVALID_VALUE;
  return Instantiate(exec, graph, flags, &reason);
}

CUresult cuGraphInstantiate_v2(CUgraphExec* exec, CUgraph graph, CUgraphNode* error_node, char* log,
                               size_t log_bytes) {
  if (error_node != nullptr) *error_node = nullptr;
  if (log != nullptr && log_bytes > 0) log[0] = '\0';
  unsigned int reason = 0;
  return Instantiate(exec, graph, 0, &reason);
}

CUresult cuGraphInstantiateWithParams(CUgraphExec* exec, CUgraph graph,
                                      CUDA_GRAPH_INSTANTIATE_PARAMS* params) {
  return InstantiateWithParams(exec, graph, params, StreamForm::kLegacy);
}

CUresult cuGraphInstantiateWithParams_ptsz(CUgraphExec* exec, CUgraph graph,
                                           CUDA_GRAPH_INSTANTIATE_PARAMS* params) {
  return InstantiateWithParams(exec, graph, params, StreamForm::kPerThread);
}

CUresult cuGraphExecGetFlags(CUgraphExec handle, cuuint64_t* flags) {
  SIMGPU_DRIVER(driver);
  if (flags == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  std::shared_ptr<GraphExec> exec;
  if (CUresult bad = FindExec(*driver, handle, &exec)) return bad;
  *flags = exec->flags;
  return CUDA_SUCCESS;
}

CUresult cuGraphExecDestroy(CUgraphExec exec) { return Destroy(exec); }

CUresult cuGraphUpload(CUgraphExec exec, CUstream stream) {
  return Upload(exec, stream, StreamForm::kLegacy);
}
CUresult cuGraphUpload_ptsz(CUgraphExec exec, CUstream stream) {
  return Upload(exec, stream, StreamForm::kPerThread);
}
CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream) {
  return Launch(exec, stream, StreamForm::kLegacy);
}
CUresult cuGraphLaunch_ptsz(CUgraphExec exec, CUstream stream) {
  return Launch(exec, stream, StreamForm::kPerThread);
}

CUresult cuGraphExecUpdate_v2(CUgraphExec exec, CUgraph graph, CUgraphExecUpdateResultInfo* info) {
  if (info == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return Update(exec, graph, info);
}

CUresult cuGraphExecUpdate(CUgraphExec exec, CUgraph graph, CUgraphNode* error_node,
                           CUgraphExecUpdateResult* result) {
  if (result == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUgraphExecUpdateResultInfo info{};
  CUresult answer = Update(exec, graph, &info);
  *result = info.result;
  if (error_node != nullptr) *error_node = info.errorNode;
  return answer;
}

CUresult cuGraphExecNodeSetParams(CUgraphExec exec, CUgraphNode node, CUgraphNodeParams* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return Set(exec, node, NamedContext(*params), *params);
}

CUresult cuGraphExecKernelNodeSetParams_v2(CUgraphExec exec, CUgraphNode node,
                                           const CUDA_KERNEL_NODE_PARAMS* given) {
  if (given == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUgraphNodeParams params = Params(CU_GRAPH_NODE_TYPE_KERNEL);
  params.kernel = *given;
  return Set(exec, node, given->ctx, params);
}

CUresult cuGraphExecKernelNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                        const CUDA_KERNEL_NODE_PARAMS_v1* given) {
  if (given == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUgraphNodeParams params = Params(CU_GRAPH_NODE_TYPE_KERNEL);
  memcpy(static_cast<void*>(&params.kernel), given, sizeof *given);
  return Set(exec, node, nullptr, params);
}

CUresult cuGraphExecMemcpyNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                        const CUDA_MEMCPY3D* copy, CUcontext context) {
  if (copy == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUgraphNodeParams params = Params(CU_GRAPH_NODE_TYPE_MEMCPY);
  params.memcpy.copyParams = *copy;
  return Set(exec, node, context, params);
}

CUresult cuGraphExecMemsetNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                        const CUDA_MEMSET_NODE_PARAMS* given, CUcontext context) {
  if (given == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUgraphNodeParams params = Params(CU_GRAPH_NODE_TYPE_MEMSET);
  memcpy(static_cast<void*>(&params.memset), given, sizeof *given);
  return Set(exec, node, context, params);
}

CUresult cuGraphExecHostNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                      const CUDA_HOST_NODE_PARAMS* given) {
  if (given == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUgraphNodeParams params = Params(CU_GRAPH_NODE_TYPE_HOST);
  params.host = *given;
  return Set(exec, node, nullptr, params);
}

CUresult cuGraphExecChildGraphNodeSetParams(CUgraphExec exec, CUgraphNode node, CUgraph child) {
  return SetChild(exec, node, child);
}

CUresult cuGraphExecEventRecordNodeSetEvent(CUgraphExec exec, CUgraphNode node, CUevent event) {
  CUgraphNodeParams params = Params(CU_GRAPH_NODE_TYPE_EVENT_RECORD);
  params.event = event;
  return Set(exec, node, nullptr, params);
}

CUresult cuGraphExecEventWaitNodeSetEvent(CUgraphExec exec, CUgraphNode node, CUevent event) {
  CUgraphNodeParams params = Params(CU_GRAPH_NODE_TYPE_WAIT_EVENT);
  params.event = event;
  return Set(exec, node, nullptr, params);
}

CUresult cuGraphExecBatchMemOpNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                            const CUDA_BATCH_MEM_OP_NODE_PARAMS* given) {
  if (given == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUgraphNodeParams params = Params(CU_GRAPH_NODE_TYPE_BATCH_MEM_OP);
  params.memOp = *given;
  return Set(exec, node, given->ctx, params);
}

CUresult cuGraphNodeSetEnabled(CUgraphExec exec_handle, CUgraphNode handle, unsigned int enabled) {
  SIMGPU_DRIVER(driver);
  std::lock_guard guard(driver->mutex);
  std::shared_ptr<GraphExec> exec;
  GraphNode* source = nullptr;
  ExecNode* node = nullptr;
  if (CUresult bad = FindExecNode(*driver, exec_handle, handle, &exec, &source, &node)) return bad;
  if (node->body.type != CU_GRAPH_NODE_TYPE_KERNEL &&
      node->body.type != CU_GRAPH_NODE_TYPE_MEMCPY &&
      node->body.type != CU_GRAPH_NODE_TYPE_MEMSET) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  node->enabled = enabled != 0;
  return CUDA_SUCCESS;
}

CUresult cuGraphNodeGetEnabled(CUgraphExec exec_handle, CUgraphNode handle, unsigned int* enabled) {
  SIMGPU_DRIVER(driver);
  if (enabled == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  std::shared_ptr<GraphExec> exec;
  GraphNode* source = nullptr;
  ExecNode* node = nullptr;
  if (CUresult bad = FindExecNode(*driver, exec_handle, handle, &exec, &source, &node)) return bad;
  *enabled = node->enabled ? 1 : 0;
  return CUDA_SUCCESS;
}

}  // extern "C"

SIMGPU_ALIAS(cuGraphInstantiate_v2, cuGraphInstantiate);

}  // namespace tessera::abi
