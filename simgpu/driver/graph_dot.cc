// A graph as text for Graphviz.
#include <stdio.h>

#include <sstream>

#include "simgpu/driver/graph.h"
#include "simgpu/driver/graph_memory.h"

namespace simgpu {
namespace {

struct Hex {
  uint64_t value;
};
std::ostream& operator<<(std::ostream& out, Hex hex) {
  return out << "0x" << std::hex << hex.value << std::dec;
}

template <typename... Parts>
std::string Text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

const char* TypeName(CUgraphNodeType type) {
  switch (type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
      return "KERNEL";
    case CU_GRAPH_NODE_TYPE_MEMCPY:
      return "MEMCPY";
    case CU_GRAPH_NODE_TYPE_MEMSET:
      return "MEMSET";
    case CU_GRAPH_NODE_TYPE_HOST:
      return "HOST";
    case CU_GRAPH_NODE_TYPE_GRAPH:
      return "GRAPH";
    case CU_GRAPH_NODE_TYPE_EMPTY:
      return "EMPTY";
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
      return "EVENT_WAIT";
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
      return "EVENT_RECORD";
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
      return "MEM_ALLOC";
    case CU_GRAPH_NODE_TYPE_MEM_FREE:
      return "MEM_FREE";
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
      return "BATCH_MEM_OP";
    default:
      return "UNKNOWN";
  }
}

const char* SideName(CUmemorytype type) {
  switch (type) {
    case CU_MEMORYTYPE_HOST:
      return "host";
    case CU_MEMORYTYPE_DEVICE:
      return "device";
    case CU_MEMORYTYPE_ARRAY:
      return "array";
    case CU_MEMORYTYPE_UNIFIED:
      return "unified";
  }
  return "unknown";
}

std::string SideText(const CopySide& side) {
  const uint64_t at = side.array != nullptr ? reinterpret_cast<uint64_t>(side.array) : side.base;
  return Text(SideName(side.type), " ", Hex{at}, " pitch ", side.pitch, " height ", side.height,
              " at (", side.x, ",", side.y, ",", side.z, ")");
}

class Printer {
 public:
  explicit Printer(unsigned int flags) : flags_(flags) {}

  std::string Print(const Graph& graph) {
    text_ = "digraph dot {\n";
    Add(graph, "graph_0");
    return text_ + "}\n";
  }

 private:
  bool Wants(unsigned int flag) const {
    return (flags_ & (flag | CU_GRAPH_DEBUG_DOT_FLAGS_VERBOSE)) != 0;
  }

  void Add(const Graph& graph, const std::string& name) {
    text_ += Text("subgraph cluster_", name, " {\nlabel=\"", name, "\" graph[style=\"dashed\"];\n");
    std::map<const GraphNode*, size_t> numbers;
    for (const auto& node : graph.nodes) {
      const size_t number = numbers.size();
      numbers[node.get()] = number;
      const std::string node_name = Text(name, "_node_", number);
      text_ += Text("\"", node_name, "\"[shape=\"",
                    node->body.type == CU_GRAPH_NODE_TYPE_KERNEL ? "octagon" : "rectangle",
                    "\" label=\"", number, "\\n");
      Label(*node);
      text_ += "\"];\n";
      if (node->body.child != nullptr) Add(*node->body.child, node_name + "_graph");
      for (size_t i = 0; i < node->body.branches.size(); ++i) {
        Add(*node->body.branches[i], Text(node_name, "_graph_", i));
      }
    }
    for (const auto& node : graph.nodes) {
      for (const GraphEdge& edge : node->after) {
        text_ += Text("\"", name, "_node_", numbers[node.get()], "\" -> \"", name, "_node_",
                      numbers[edge.node], "\"");
        if (edge.data.type != CU_GRAPH_DEPENDENCY_TYPE_DEFAULT) text_ += "[style=\"dotted\"]";
        text_ += ";\n";
      }
    }
    text_ += "}\n";
  }

  void Line(const std::string& line) {
    for (char c : line) {
      if (c == '"' || c == '\\') text_ += '\\';
      text_ += c;
    }
    text_ += "\\n";
  }

  void Label(const GraphNode& node) {
    const NodeBody& body = node.body;
    Line(TypeName(body.type));
    if (Wants(CU_GRAPH_DEBUG_DOT_FLAGS_HANDLES)) {
      Line(Text("node ", Hex{reinterpret_cast<uint64_t>(&node)}));
    }
    if (const auto* kernel = std::get_if<KernelAction>(&body.action)) Kernel(*kernel, body);
    if (const auto* copy = std::get_if<CopyAction>(&body.action);
        copy != nullptr && Wants(CU_GRAPH_DEBUG_DOT_FLAGS_MEMCPY_NODE_PARAMS)) {
      Line("from " + SideText(copy->from));
      Line("to " + SideText(copy->to));
      Line(Text(copy->width, " bytes x ", copy->height, " x ", copy->depth));
    }
    if (const auto* fill = std::get_if<FillAction>(&body.action);
        fill != nullptr && Wants(CU_GRAPH_DEBUG_DOT_FLAGS_MEMSET_NODE_PARAMS)) {
      Line(Text("at ", Hex{fill->address}, " pitch ", fill->pitch, " value ", fill->value, " of ",
                fill->element, " bytes"));
      Line(Text(fill->width, " x ", fill->height));
    }
    if (const auto* host = std::get_if<HostAction>(&body.action);
        host != nullptr && Wants(CU_GRAPH_DEBUG_DOT_FLAGS_HOST_NODE_PARAMS)) {
      Line(Text("function ", Hex{reinterpret_cast<uint64_t>(host->function)}, " data ",
                Hex{reinterpret_cast<uint64_t>(host->data)}));
    }
    if (Wants(CU_GRAPH_DEBUG_DOT_FLAGS_EVENT_NODE_PARAMS)) {
      const Event* event = nullptr;
      if (const auto* one = std::get_if<EventRecordAction>(&body.action)) event = one->event;
      if (const auto* one = std::get_if<EventWaitAction>(&body.action)) event = one->event;
      if (event != nullptr) Line(Text("event ", Hex{reinterpret_cast<uint64_t>(event)}));
    }
    const bool alloc = body.type == CU_GRAPH_NODE_TYPE_MEM_ALLOC;
    if (body.memory != nullptr && Wants(alloc ? CU_GRAPH_DEBUG_DOT_FLAGS_MEM_ALLOC_NODE_PARAMS
                                              : CU_GRAPH_DEBUG_DOT_FLAGS_MEM_FREE_NODE_PARAMS)) {
      Line(Text(body.memory->size, " bytes at ", Hex{body.memory->address}, " of device ",
                body.memory->device));
    }
    if (Wants(CU_GRAPH_DEBUG_DOT_FLAGS_BATCH_MEM_OP_NODE_PARAMS)) {
      for (const CUstreamBatchMemOpParams& op : body.ops) {
        Line(Text("operation ", static_cast<unsigned int>(op.operation), " at ", Hex{op.address},
                  " value ", op.value64, " flags ", op.flags));
      }
    }
  }

  void Kernel(const KernelAction& kernel, const NodeBody& body) {
    Line(kernel.info->name);
    if (Wants(CU_GRAPH_DEBUG_DOT_FLAGS_KERNEL_NODE_PARAMS)) {
      Line(Text("grid ", kernel.grid[0], ",", kernel.grid[1], ",", kernel.grid[2], " block ",
                kernel.block[0], ",", kernel.block[1], ",", kernel.block[2], " shared ",
                kernel.shared_bytes));
    }
    if (Wants(CU_GRAPH_DEBUG_DOT_FLAGS_KERNEL_NODE_ATTRIBUTES)) {
      for (const auto& [id, value] : body.attributes) {
        Line(Text("attribute ", static_cast<unsigned int>(id), " value ", value.priority));
      }
    }
  }

  const unsigned int flags_;
  std::string text_;
};

}  // namespace
}  // namespace simgpu

namespace tessera::abi {
using namespace simgpu;  // NOLINT

extern "C" {

CUresult cuGraphDebugDotPrint(CUgraph handle, const char* path, unsigned int flags) {
  SIMGPU_DRIVER(driver);
  if (path == nullptr || (flags & ~CU_GRAPH_DEBUG_DOT_FLAGS_ALL) != 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  std::string text;
  {
    std::lock_guard guard(driver->mutex);
    Graph* graph = nullptr;
    if (CUresult bad = FindGraph(*driver, handle, &graph)) return bad;
    text = Printer(flags).Print(*graph);
  }
  FILE* file = fopen(path, "we");
  if (file == nullptr) return CUDA_ERROR_OPERATING_SYSTEM;
  const bool written = fwrite(text.data(), 1, text.size(), file) == text.size();
  return fclose(file) == 0 && written ? CUDA_SUCCESS : CUDA_ERROR_OPERATING_SYSTEM;
}

}  // extern "C"

}  // namespace tessera::abi
