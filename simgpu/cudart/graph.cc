// Graphs: the driver's own, with nodes described in the runtime's words.
#include <cstring>

#include "simgpu/cudart/copy.h"
#include "simgpu/cudart/registry.h"

// The parameters that every call which adds a node begins with, and its use of them.
#define CUDART_NODE \
  CUgraphNode *node, CUgraph graph, const CUgraphNode *dependencies, size_t dependency_count
#define CUDART_NODE_ARGUMENTS node, graph, dependencies, dependency_count

namespace simgpu::cudart {
namespace {

CUcontext CurrentContext() {
  CUcontext context = nullptr;
  Call(Driver().cuCtxGetCurrent)(&context);
  return context;
}

// A kernel node names its kernel as any launch does.
cudaError_t DescribeKernel(const cudaKernelNodeParams* from, CUDA_KERNEL_NODE_PARAMS* to) {
  if (from == nullptr) return cudaErrorInvalidValue;
  if (const cudaError_t bad = EnsureContext(); bad != cudaSuccess) return bad;
  *to = {};
  if (const cudaError_t bad = KernelOf(from->func, &to->kern); bad != cudaSuccess) return bad;
  to->gridDimX = from->gridDim.x;
  to->gridDimY = from->gridDim.y;
  to->gridDimZ = from->gridDim.z;
  to->blockDimX = from->blockDim.x;
  to->blockDimY = from->blockDim.y;
  to->blockDimZ = from->blockDim.z;
  to->sharedMemBytes = from->sharedMemBytes;
  to->kernelParams = from->kernelParams;
  to->extra = from->extra;
  return cudaSuccess;
}

void UndescribeKernel(const CUDA_KERNEL_NODE_PARAMS& from, cudaKernelNodeParams* to) {
  const void* const handle = from.kern != nullptr ? static_cast<const void*>(from.kern)
                                                  : static_cast<const void*>(from.func);
  to->func = HostFunctionOf(handle);
  to->gridDim = {from.gridDimX, from.gridDimY, from.gridDimZ};
  to->blockDim = {from.blockDimX, from.blockDimY, from.blockDimZ};
  to->sharedMemBytes = from.sharedMemBytes;
  to->kernelParams = from.kernelParams;
  to->extra = from.extra;
}

cudaError_t DescribeSet(const cudaMemsetParams* from, CUDA_MEMSET_NODE_PARAMS* to) {
  if (from == nullptr) return cudaErrorInvalidValue;
  if (const cudaError_t bad = EnsureContext(); bad != cudaSuccess) return bad;
  *to = {Address(from->dst), from->pitch, from->value,
         from->elementSize,  from->width, from->height};
  return cudaSuccess;
}

cudaError_t DescribeCopy(const cudaMemcpy3DParms* from, CUDA_MEMCPY3D* to) {
  if (from == nullptr) return cudaErrorInvalidValue;
  if (const cudaError_t bad = EnsureContext(); bad != cudaSuccess) return bad;
  return Describe3D(*from, to);
}

cudaError_t DescribeRow(void* to, const void* from, size_t count, unsigned int kind,
                        CUDA_MEMCPY3D* copy) {
  if (const cudaError_t bad = EnsureContext(); bad != cudaSuccess) return bad;
  return Describe1D(to, from, count, kind, copy);
}

cudaError_t DescribeToSymbol(const void* symbol, const void* from, size_t count, size_t offset,
                             unsigned int kind, CUDA_MEMCPY3D* copy) {
  if (const cudaError_t bad = EnsureContext(); bad != cudaSuccess) return bad;
  void* to = nullptr;
  if (const cudaError_t bad = SymbolRange(symbol, count, offset, &to); bad != cudaSuccess) {
    return bad;
  }
  return Describe1D(to, from, count, kind, copy);
}

cudaError_t DescribeFromSymbol(void* to, const void* symbol, size_t count, size_t offset,
                               unsigned int kind, CUDA_MEMCPY3D* copy) {
  if (const cudaError_t bad = EnsureContext(); bad != cudaSuccess) return bad;
  void* from = nullptr;
  if (const cudaError_t bad = SymbolRange(symbol, count, offset, &from); bad != cudaSuccess) {
    return bad;
  }
  return Describe1D(to, from, count, kind, copy);
}

// The three things a described copy becomes.
cudaError_t AddCopy(CUDART_NODE, cudaError_t described, const CUDA_MEMCPY3D& copy) {
  if (described != cudaSuccess) return Record(described);
  return Record(
      Call(Driver().cuGraphAddMemcpyNode)(CUDART_NODE_ARGUMENTS, &copy, CurrentContext()));
}
cudaError_t SetCopy(CUgraphNode node, cudaError_t described, const CUDA_MEMCPY3D& copy) {
  if (described != cudaSuccess) return Record(described);
  return Record(Call(Driver().cuGraphMemcpyNodeSetParams)(node, &copy));
}
cudaError_t SetExecCopy(CUgraphExec exec, CUgraphNode node, cudaError_t described,
                        const CUDA_MEMCPY3D& copy) {
  if (described != cudaSuccess) return Record(described);
  return Record(Call(Driver().cuGraphExecMemcpyNodeSetParams)(exec, node, &copy, CurrentContext()));
}

// Parameters of the generic calls. Nodes whose structures are the driver's own are taken as they
// are.
cudaError_t DescribeNode(const cudaGraphNodeParams* from, CUgraphNodeParams* to) {
  static_assert(sizeof *from == sizeof *to);
  if (from == nullptr) return cudaErrorInvalidValue;
  if (const cudaError_t bad = EnsureContext(); bad != cudaSuccess) return bad;
  std::memcpy(to, from, sizeof *to);
  switch (from->type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
      std::memset(to->reserved1, 0, sizeof to->reserved1);
      return DescribeKernel(&from->kernel, &to->kernel);
    case CU_GRAPH_NODE_TYPE_MEMCPY:
      std::memset(to->reserved1, 0, sizeof to->reserved1);
      to->memcpy.flags = from->memcpy.flags;
      to->memcpy.copyCtx = CurrentContext();
      return Describe3D(from->memcpy.copyParams, &to->memcpy.copyParams);
    case CU_GRAPH_NODE_TYPE_MEMSET:
      to->memset.ctx = CurrentContext();
      return cudaSuccess;
    default:
      return cudaSuccess;
  }
}

// What a call answers in its parameters: the address of an allocation, the child's clone.
void AnswerNode(const CUgraphNodeParams& from, cudaGraphNodeParams* to) {
  if (from.type == CU_GRAPH_NODE_TYPE_MEM_ALLOC || from.type == CU_GRAPH_NODE_TYPE_GRAPH ||
      from.type == CU_GRAPH_NODE_TYPE_CONDITIONAL) {
    std::memcpy(to->reserved1, from.reserved1, sizeof to->reserved1);
  }
}

}  // namespace

// Graphs as wholes.

CUDART_PASS(cudaGraphCreate, cuGraphCreate, (CUgraph * graph, unsigned int flags), (graph, flags))
CUDART_PASS(cudaGraphDestroy, cuGraphDestroy, (CUgraph graph), (graph))
CUDART_PASS(cudaGraphClone, cuGraphClone, (CUgraph * clone, CUgraph graph), (clone, graph))
CUDART_PASS(cudaGraphDebugDotPrint, cuGraphDebugDotPrint,
            (CUgraph graph, const char* path, unsigned int flags), (graph, path, flags))
CUDART_PASS(cudaGraphGetNodes, cuGraphGetNodes, (CUgraph graph, CUgraphNode* nodes, size_t* count),
            (graph, nodes, count))
CUDART_PASS(cudaGraphGetRootNodes, cuGraphGetRootNodes,
            (CUgraph graph, CUgraphNode* nodes, size_t* count), (graph, nodes, count))
CUDART_PASS(cudaGraphGetEdges, cuGraphGetEdges_v2,
            (CUgraph graph, CUgraphNode* from, CUgraphNode* to, CUgraphEdgeData* edges,
             size_t* count),
            (graph, from, to, edges, count))
CUDART_PASS(cudaGraphAddDependencies, cuGraphAddDependencies_v2,
            (CUgraph graph, const CUgraphNode* from, const CUgraphNode* to,
             const CUgraphEdgeData* edges, size_t count),
            (graph, from, to, edges, count))
CUDART_PASS(cudaGraphRemoveDependencies, cuGraphRemoveDependencies_v2,
            (CUgraph graph, const CUgraphNode* from, const CUgraphNode* to,
             const CUgraphEdgeData* edges, size_t count),
            (graph, from, to, edges, count))
CUDART_PASS(cudaGraphConditionalHandleCreate, cuGraphConditionalHandleCreate,
            (CUgraphConditionalHandle * handle, CUgraph graph, unsigned int value,
             unsigned int flags),
            (handle, graph, CurrentContext(), value, flags))

// Nodes.

CUDART_PASS(cudaGraphDestroyNode, cuGraphDestroyNode, (CUgraphNode node), (node))
CUDART_PASS(cudaGraphNodeGetType, cuGraphNodeGetType, (CUgraphNode node, CUgraphNodeType* type),
            (node, type))
CUDART_PASS(cudaGraphNodeFindInClone, cuGraphNodeFindInClone,
            (CUgraphNode * node, CUgraphNode original, CUgraph clone), (node, original, clone))
CUDART_PASS(cudaGraphNodeGetDependencies, cuGraphNodeGetDependencies_v2,
            (CUgraphNode node, CUgraphNode* nodes, CUgraphEdgeData* edges, size_t* count),
            (node, nodes, edges, count))
CUDART_PASS(cudaGraphNodeGetDependentNodes, cuGraphNodeGetDependentNodes_v2,
            (CUgraphNode node, CUgraphNode* nodes, CUgraphEdgeData* edges, size_t* count),
            (node, nodes, edges, count))

CUDART_CALL cudaError_t cudaGraphAddNode(CUgraphNode* node, CUgraph graph,
                                         const CUgraphNode* dependencies,
                                         const CUgraphEdgeData* edges, size_t count,
                                         cudaGraphNodeParams* parameters) {
  CUgraphNodeParams driver;
  if (const cudaError_t bad = DescribeNode(parameters, &driver); bad != cudaSuccess) {
    return Record(bad);
  }
  const CUresult result =
      Call(Driver().cuGraphAddNode_v2)(node, graph, dependencies, edges, count, &driver);
  if (result == CUDA_SUCCESS) AnswerNode(driver, parameters);
  return Record(result);
}

CUDART_CALL cudaError_t cudaGraphNodeSetParams(CUgraphNode node, cudaGraphNodeParams* parameters) {
  CUgraphNodeParams driver;
  if (const cudaError_t bad = DescribeNode(parameters, &driver); bad != cudaSuccess) {
    return Record(bad);
  }
  return Record(Call(Driver().cuGraphNodeSetParams)(node, &driver));
}

CUDART_CALL cudaError_t cudaGraphExecNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                                   cudaGraphNodeParams* parameters) {
  CUgraphNodeParams driver;
  if (const cudaError_t bad = DescribeNode(parameters, &driver); bad != cudaSuccess) {
    return Record(bad);
  }
  return Record(Call(Driver().cuGraphExecNodeSetParams)(exec, node, &driver));
}

// Kernels.

CUDART_CALL cudaError_t cudaGraphAddKernelNode(CUDART_NODE,
                                               const cudaKernelNodeParams* parameters) {
  CUDA_KERNEL_NODE_PARAMS driver;
  if (const cudaError_t bad = DescribeKernel(parameters, &driver); bad != cudaSuccess) {
    return Record(bad);
  }
  return Record(Call(Driver().cuGraphAddKernelNode_v2)(CUDART_NODE_ARGUMENTS, &driver));
}

CUDART_CALL cudaError_t cudaGraphKernelNodeGetParams(CUgraphNode node,
                                                     cudaKernelNodeParams* parameters) {
  if (parameters == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  CUDA_KERNEL_NODE_PARAMS driver = {};
  const CUresult result = Call(Driver().cuGraphKernelNodeGetParams_v2)(node, &driver);
  if (result == CUDA_SUCCESS) UndescribeKernel(driver, parameters);
  return Record(result);
}

CUDART_CALL cudaError_t cudaGraphKernelNodeSetParams(CUgraphNode node,
                                                     const cudaKernelNodeParams* parameters) {
  CUDA_KERNEL_NODE_PARAMS driver;
  if (const cudaError_t bad = DescribeKernel(parameters, &driver); bad != cudaSuccess) {
    return Record(bad);
  }
  return Record(Call(Driver().cuGraphKernelNodeSetParams_v2)(node, &driver));
}

CUDART_CALL cudaError_t cudaGraphExecKernelNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                                         const cudaKernelNodeParams* parameters) {
  CUDA_KERNEL_NODE_PARAMS driver;
  if (const cudaError_t bad = DescribeKernel(parameters, &driver); bad != cudaSuccess) {
    return Record(bad);
  }
  return Record(Call(Driver().cuGraphExecKernelNodeSetParams_v2)(exec, node, &driver));
}

CUDART_PASS(cudaGraphKernelNodeCopyAttributes, cuGraphKernelNodeCopyAttributes,
            (CUgraphNode to, CUgraphNode from), (to, from))
CUDART_PASS(cudaGraphKernelNodeGetAttribute, cuGraphKernelNodeGetAttribute,
            (CUgraphNode node, CUkernelNodeAttrID attribute, CUkernelNodeAttrValue* value),
            (node, attribute, value))
CUDART_PASS(cudaGraphKernelNodeSetAttribute, cuGraphKernelNodeSetAttribute,
            (CUgraphNode node, CUkernelNodeAttrID attribute, const CUkernelNodeAttrValue* value),
            (node, attribute, value))

// Copies.

CUDART_CALL cudaError_t cudaGraphAddMemcpyNode(CUDART_NODE, const cudaMemcpy3DParms* parameters) {
  CUDA_MEMCPY3D copy = {};
  const cudaError_t described = DescribeCopy(parameters, &copy);
  return AddCopy(CUDART_NODE_ARGUMENTS, described, copy);
}

CUDART_CALL cudaError_t cudaGraphAddMemcpyNode1D(CUDART_NODE, void* to, const void* from,
                                                 size_t count, unsigned int kind) {
  CUDA_MEMCPY3D copy = {};
  const cudaError_t described = DescribeRow(to, from, count, kind, &copy);
  return AddCopy(CUDART_NODE_ARGUMENTS, described, copy);
}

CUDART_CALL cudaError_t cudaGraphAddMemcpyNodeToSymbol(CUDART_NODE, const void* symbol,
                                                       const void* from, size_t count,
                                                       size_t offset, unsigned int kind) {
  CUDA_MEMCPY3D copy = {};
  const cudaError_t described = DescribeToSymbol(symbol, from, count, offset, kind, &copy);
  return AddCopy(CUDART_NODE_ARGUMENTS, described, copy);
}

CUDART_CALL cudaError_t cudaGraphAddMemcpyNodeFromSymbol(CUDART_NODE, void* to, const void* symbol,
                                                         size_t count, size_t offset,
                                                         unsigned int kind) {
  CUDA_MEMCPY3D copy = {};
  const cudaError_t described = DescribeFromSymbol(to, symbol, count, offset, kind, &copy);
  return AddCopy(CUDART_NODE_ARGUMENTS, described, copy);
}

CUDART_CALL cudaError_t cudaGraphMemcpyNodeGetParams(CUgraphNode node,
                                                     cudaMemcpy3DParms* parameters) {
  if (parameters == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  CUDA_MEMCPY3D copy = {};
  const CUresult result = Call(Driver().cuGraphMemcpyNodeGetParams)(node, &copy);
  if (result != CUDA_SUCCESS) return Record(result);
  return Record(Undescribe3D(copy, parameters));
}

CUDART_CALL cudaError_t cudaGraphMemcpyNodeSetParams(CUgraphNode node,
                                                     const cudaMemcpy3DParms* parameters) {
  CUDA_MEMCPY3D copy = {};
  const cudaError_t described = DescribeCopy(parameters, &copy);
  return SetCopy(node, described, copy);
}

CUDART_CALL cudaError_t cudaGraphMemcpyNodeSetParams1D(CUgraphNode node, void* to, const void* from,
                                                       size_t count, unsigned int kind) {
  CUDA_MEMCPY3D copy = {};
  const cudaError_t described = DescribeRow(to, from, count, kind, &copy);
  return SetCopy(node, described, copy);
}

CUDART_CALL cudaError_t cudaGraphMemcpyNodeSetParamsToSymbol(CUgraphNode node, const void* symbol,
                                                             const void* from, size_t count,
                                                             size_t offset, unsigned int kind) {
  CUDA_MEMCPY3D copy = {};
  const cudaError_t described = DescribeToSymbol(symbol, from, count, offset, kind, &copy);
  return SetCopy(node, described, copy);
}

CUDART_CALL cudaError_t cudaGraphMemcpyNodeSetParamsFromSymbol(CUgraphNode node, void* to,
                                                               const void* symbol, size_t count,
                                                               size_t offset, unsigned int kind) {
  CUDA_MEMCPY3D copy = {};
  const cudaError_t described = DescribeFromSymbol(to, symbol, count, offset, kind, &copy);
  return SetCopy(node, described, copy);
}

CUDART_CALL cudaError_t cudaGraphExecMemcpyNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                                         const cudaMemcpy3DParms* parameters) {
  CUDA_MEMCPY3D copy = {};
  const cudaError_t described = DescribeCopy(parameters, &copy);
  return SetExecCopy(exec, node, described, copy);
}

CUDART_CALL cudaError_t cudaGraphExecMemcpyNodeSetParams1D(CUgraphExec exec, CUgraphNode node,
                                                           void* to, const void* from, size_t count,
                                                           unsigned int kind) {
  CUDA_MEMCPY3D copy = {};
  const cudaError_t described = DescribeRow(to, from, count, kind, &copy);
  return SetExecCopy(exec, node, described, copy);
}

CUDART_CALL cudaError_t cudaGraphExecMemcpyNodeSetParamsToSymbol(CUgraphExec exec, CUgraphNode node,
                                                                 const void* symbol,
                                                                 const void* from, size_t count,
                                                                 size_t offset, unsigned int kind) {
  CUDA_MEMCPY3D copy = {};
  const cudaError_t described = DescribeToSymbol(symbol, from, count, offset, kind, &copy);
  return SetExecCopy(exec, node, described, copy);
}

CUDART_CALL cudaError_t cudaGraphExecMemcpyNodeSetParamsFromSymbol(CUgraphExec exec,
                                                                   CUgraphNode node, void* to,
                                                                   const void* symbol, size_t count,
                                                                   size_t offset,
                                                                   unsigned int kind) {
  CUDA_MEMCPY3D copy = {};
  const cudaError_t described = DescribeFromSymbol(to, symbol, count, offset, kind, &copy);
  return SetExecCopy(exec, node, described, copy);
}

// Sets.

CUDART_CALL cudaError_t cudaGraphAddMemsetNode(CUDART_NODE, const cudaMemsetParams* parameters) {
  CUDA_MEMSET_NODE_PARAMS driver;
  if (const cudaError_t bad = DescribeSet(parameters, &driver); bad != cudaSuccess) {
    return Record(bad);
  }
  return Record(
      Call(Driver().cuGraphAddMemsetNode)(CUDART_NODE_ARGUMENTS, &driver, CurrentContext()));
}

CUDART_CALL cudaError_t cudaGraphMemsetNodeGetParams(CUgraphNode node,
                                                     cudaMemsetParams* parameters) {
  if (parameters == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  CUDA_MEMSET_NODE_PARAMS driver = {};
  const CUresult result = Call(Driver().cuGraphMemsetNodeGetParams)(node, &driver);
  if (result == CUDA_SUCCESS) {
    *parameters = {reinterpret_cast<void*>(driver.dst),
                   driver.pitch,
                   driver.value,
                   driver.elementSize,
                   driver.width,
                   driver.height};
  }
  return Record(result);
}

CUDART_CALL cudaError_t cudaGraphMemsetNodeSetParams(CUgraphNode node,
                                                     const cudaMemsetParams* parameters) {
  CUDA_MEMSET_NODE_PARAMS driver;
  if (const cudaError_t bad = DescribeSet(parameters, &driver); bad != cudaSuccess) {
    return Record(bad);
  }
  return Record(Call(Driver().cuGraphMemsetNodeSetParams)(node, &driver));
}

CUDART_CALL cudaError_t cudaGraphExecMemsetNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                                         const cudaMemsetParams* parameters) {
  CUDA_MEMSET_NODE_PARAMS driver;
  if (const cudaError_t bad = DescribeSet(parameters, &driver); bad != cudaSuccess) {
    return Record(bad);
  }
  return Record(
      Call(Driver().cuGraphExecMemsetNodeSetParams)(exec, node, &driver, CurrentContext()));
}

// Host functions, events, children, memory: in the driver's own words.

CUDART_PASS(cudaGraphAddHostNode, cuGraphAddHostNode,
            (CUDART_NODE, const CUDA_HOST_NODE_PARAMS* parameters),
            (CUDART_NODE_ARGUMENTS, parameters))
CUDART_PASS(cudaGraphHostNodeGetParams, cuGraphHostNodeGetParams,
            (CUgraphNode node, CUDA_HOST_NODE_PARAMS* parameters), (node, parameters))
CUDART_PASS(cudaGraphHostNodeSetParams, cuGraphHostNodeSetParams,
            (CUgraphNode node, const CUDA_HOST_NODE_PARAMS* parameters), (node, parameters))
CUDART_PASS(cudaGraphExecHostNodeSetParams, cuGraphExecHostNodeSetParams,
            (CUgraphExec exec, CUgraphNode node, const CUDA_HOST_NODE_PARAMS* parameters),
            (exec, node, parameters))
CUDART_PASS(cudaGraphAddChildGraphNode, cuGraphAddChildGraphNode, (CUDART_NODE, CUgraph child),
            (CUDART_NODE_ARGUMENTS, child))
CUDART_PASS(cudaGraphChildGraphNodeGetGraph, cuGraphChildGraphNodeGetGraph,
            (CUgraphNode node, CUgraph* graph), (node, graph))
CUDART_PASS(cudaGraphExecChildGraphNodeSetParams, cuGraphExecChildGraphNodeSetParams,
            (CUgraphExec exec, CUgraphNode node, CUgraph child), (exec, node, child))
CUDART_PASS(cudaGraphAddEmptyNode, cuGraphAddEmptyNode, (CUDART_NODE), (CUDART_NODE_ARGUMENTS))
CUDART_PASS(cudaGraphAddEventRecordNode, cuGraphAddEventRecordNode, (CUDART_NODE, CUevent event),
            (CUDART_NODE_ARGUMENTS, event))
CUDART_PASS(cudaGraphEventRecordNodeGetEvent, cuGraphEventRecordNodeGetEvent,
            (CUgraphNode node, CUevent* event), (node, event))
CUDART_PASS(cudaGraphEventRecordNodeSetEvent, cuGraphEventRecordNodeSetEvent,
            (CUgraphNode node, CUevent event), (node, event))
CUDART_PASS(cudaGraphExecEventRecordNodeSetEvent, cuGraphExecEventRecordNodeSetEvent,
            (CUgraphExec exec, CUgraphNode node, CUevent event), (exec, node, event))
CUDART_PASS(cudaGraphAddEventWaitNode, cuGraphAddEventWaitNode, (CUDART_NODE, CUevent event),
            (CUDART_NODE_ARGUMENTS, event))
CUDART_PASS(cudaGraphEventWaitNodeGetEvent, cuGraphEventWaitNodeGetEvent,
            (CUgraphNode node, CUevent* event), (node, event))
CUDART_PASS(cudaGraphEventWaitNodeSetEvent, cuGraphEventWaitNodeSetEvent,
            (CUgraphNode node, CUevent event), (node, event))
CUDART_PASS(cudaGraphExecEventWaitNodeSetEvent, cuGraphExecEventWaitNodeSetEvent,
            (CUgraphExec exec, CUgraphNode node, CUevent event), (exec, node, event))
CUDART_PASS(cudaGraphAddMemAllocNode, cuGraphAddMemAllocNode,
            (CUDART_NODE, CUDA_MEM_ALLOC_NODE_PARAMS* parameters),
            (CUDART_NODE_ARGUMENTS, parameters))
CUDART_PASS(cudaGraphMemAllocNodeGetParams, cuGraphMemAllocNodeGetParams,
            (CUgraphNode node, CUDA_MEM_ALLOC_NODE_PARAMS* parameters), (node, parameters))
CUDART_PASS(cudaGraphAddMemFreeNode, cuGraphAddMemFreeNode, (CUDART_NODE, void* pointer),
            (CUDART_NODE_ARGUMENTS, Address(pointer)))
CUDART_PASS(cudaGraphMemFreeNodeGetParams, cuGraphMemFreeNodeGetParams,
            (CUgraphNode node, void* pointer), (node, static_cast<CUdeviceptr*>(pointer)))
CUDART_PASS(cudaDeviceGraphMemTrim, cuDeviceGraphMemTrim, (int device), (device))
CUDART_PASS(cudaDeviceGetGraphMemAttribute, cuDeviceGetGraphMemAttribute,
            (int device, CUgraphMem_attribute attribute, void* value), (device, attribute, value))
CUDART_PASS(cudaDeviceSetGraphMemAttribute, cuDeviceSetGraphMemAttribute,
            (int device, CUgraphMem_attribute attribute, void* value), (device, attribute, value))

// Executable graphs.

CUDART_PASS(cudaGraphInstantiate, cuGraphInstantiateWithFlags,
            (CUgraphExec * exec, CUgraph graph, unsigned long long flags), (exec, graph, flags))
CUDART_PASS(cudaGraphInstantiateWithFlags, cuGraphInstantiateWithFlags,
            (CUgraphExec * exec, CUgraph graph, unsigned long long flags), (exec, graph, flags))
CUDART_PASS(cudaGraphInstantiateWithParams, cuGraphInstantiateWithParams,
            (CUgraphExec * exec, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS* parameters),
            (exec, graph, parameters))
CUDART_PASS(cudaGraphInstantiateWithParams_ptsz, cuGraphInstantiateWithParams_ptsz,
            (CUgraphExec * exec, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS* parameters),
            (exec, graph, parameters))
CUDART_PASS(cudaGraphExecGetFlags, cuGraphExecGetFlags, (CUgraphExec exec, cuuint64_t* flags),
            (exec, flags))
CUDART_PASS(cudaGraphExecUpdate, cuGraphExecUpdate_v2,
            (CUgraphExec exec, CUgraph graph, CUgraphExecUpdateResultInfo* info),
            (exec, graph, info))
CUDART_PASS(cudaGraphExecDestroy, cuGraphExecDestroy, (CUgraphExec exec), (exec))
CUDART_PASS(cudaGraphNodeSetEnabled, cuGraphNodeSetEnabled,
            (CUgraphExec exec, CUgraphNode node, unsigned int enabled), (exec, node, enabled))
CUDART_PASS(cudaGraphNodeGetEnabled, cuGraphNodeGetEnabled,
            (CUgraphExec exec, CUgraphNode node, unsigned int* enabled), (exec, node, enabled))
CUDART_PASS_STREAM(cudaGraphUpload, cuGraphUpload, (CUgraphExec exec, CUstream stream),
                   (exec, stream))
CUDART_PASS_STREAM(cudaGraphLaunch, cuGraphLaunch, (CUgraphExec exec, CUstream stream),
                   (exec, stream))

// User objects.

CUDART_PASS(cudaUserObjectCreate, cuUserObjectCreate,
            (CUuserObject * object, void* pointer, CUhostFn destroy, unsigned int references,
             unsigned int flags),
            (object, pointer, destroy, references, flags))
CUDART_PASS(cudaUserObjectRetain, cuUserObjectRetain, (CUuserObject object, unsigned int count),
            (object, count))
CUDART_PASS(cudaUserObjectRelease, cuUserObjectRelease, (CUuserObject object, unsigned int count),
            (object, count))
CUDART_PASS(cudaGraphRetainUserObject, cuGraphRetainUserObject,
            (CUgraph graph, CUuserObject object, unsigned int count, unsigned int flags),
            (graph, object, count, flags))
CUDART_PASS(cudaGraphReleaseUserObject, cuGraphReleaseUserObject,
            (CUgraph graph, CUuserObject object, unsigned int count), (graph, object, count))

}  // namespace simgpu::cudart
