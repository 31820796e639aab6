// Graphs made node by node: kernels, copies, sets, host functions, children, memory, events; changed before and after
// they are made executable; cloned, asked about, and torn down.
//! cards: T4
#include <cstdlib>
#include <vector>

#include "check.h"

__global__ void Scale(int* data, int factor, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) data[i] *= factor;
}
__global__ void Shift(int* data, int by, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) data[i] += by;
}
__constant__ int table[4];
__global__ void Look(int* out) { out[threadIdx.x] = table[threadIdx.x] * 2; }

static void CUDART_CB Count(void* counter) { ++*static_cast<int*>(counter); }
static void CUDART_CB Destroyed(void* counter) { ++*static_cast<int*>(counter); }

int main() {
  const int n = 500;
  std::vector<int> in(n), out(n);
  for (int i = 0; i < n; ++i) in[i] = i;
  int* data;
  MUST(cudaMalloc(&data, n * sizeof(int)));
  cudaStream_t stream;
  MUST(cudaStreamCreate(&stream));
  cudaGraph_t graph;
  MUST(cudaGraphCreate(&graph, 0));

  cudaGraphNode_t put, scale, shift, get, call;
  MUST(cudaGraphAddMemcpyNode1D(&put, graph, nullptr, 0, data, in.data(), n * sizeof(int), cudaMemcpyHostToDevice));
  int factor = 3, by = 10, count = n;
  void* scale_arguments[] = {&data, &factor, &count};
  void* shift_arguments[] = {&data, &by, &count};
  cudaKernelNodeParams kernel = {};
  kernel.func = reinterpret_cast<void*>(Scale);
  kernel.gridDim = dim3(4);
  kernel.blockDim = dim3(128);
  kernel.kernelParams = scale_arguments;
  MUST(cudaGraphAddKernelNode(&scale, graph, &put, 1, &kernel));
  kernel.func = reinterpret_cast<void*>(Shift);
  kernel.kernelParams = shift_arguments;
  MUST(cudaGraphAddKernelNode(&shift, graph, nullptr, 0, &kernel));
  MUST(cudaGraphAddDependencies(graph, &scale, &shift, nullptr, 1));
  cudaMemcpy3DParms back = {};
  back.srcPtr = make_cudaPitchedPtr(data, n * sizeof(int), n, 1);
  back.dstPtr = make_cudaPitchedPtr(out.data(), n * sizeof(int), n, 1);
  back.extent = make_cudaExtent(n * sizeof(int), 1, 1);
  back.kind = cudaMemcpyDeviceToHost;
  MUST(cudaGraphAddMemcpyNode(&get, graph, &shift, 1, &back));
  int called = 0;
  cudaHostNodeParams host = {Count, &called};
  MUST(cudaGraphAddHostNode(&call, graph, &get, 1, &host));
  // Arguments were taken when the nodes were made.
  factor = by = count = 0;

  cudaGraphNodeType type;
  MUST(cudaGraphNodeGetType(scale, &type));
  EXPECT(type == cudaGraphNodeTypeKernel);
  MUST(cudaGraphNodeGetType(put, &type));
  EXPECT(type == cudaGraphNodeTypeMemcpy);
  size_t dependencies = 0;
  MUST(cudaGraphNodeGetDependencies(get, nullptr, nullptr, &dependencies));
  EXPECT(dependencies == 1);
  cudaGraphNode_t before = nullptr;
  MUST(cudaGraphNodeGetDependencies(get, &before, nullptr, &dependencies));
  EXPECT(before == shift);
  cudaKernelNodeParams asked = {};
  MUST(cudaGraphKernelNodeGetParams(scale, &asked));
  EXPECT(asked.func == reinterpret_cast<void*>(Scale) && asked.gridDim.x == 4 && asked.blockDim.x == 128);
  EXPECT(*static_cast<int*>(asked.kernelParams[1]) == 3);
  cudaMemcpy3DParms copy = {};
  MUST(cudaGraphMemcpyNodeGetParams(get, &copy));
  EXPECT(copy.srcPtr.ptr == data && copy.dstPtr.ptr == out.data() && copy.extent.width == n * sizeof(int));
  EXPECT(copy.kind == cudaMemcpyDeviceToHost);

  cudaGraphExec_t exec;
  MUST(cudaGraphInstantiate(&exec, graph));
  MUST(cudaGraphUpload(exec, stream));
  MUST(cudaGraphLaunch(exec, stream));
  MUST(cudaStreamSynchronize(stream));
  for (int i = 0; i < n; ++i) EXPECT(out[i] == 3 * i + 10);
  EXPECT(called == 1);

  // New arguments in the executable graph alone.
  int new_factor = 5, new_count = n;
  void* new_arguments[] = {&data, &new_factor, &new_count};
  kernel.func = reinterpret_cast<void*>(Scale);
  kernel.kernelParams = new_arguments;
  MUST(cudaGraphExecKernelNodeSetParams(exec, scale, &kernel));
  MUST(cudaGraphLaunch(exec, stream));
  MUST(cudaStreamSynchronize(stream));
  for (int i = 0; i < n; ++i) EXPECT(out[i] == 5 * i + 10);
  // A node switched off does nothing, and the order stays.
  MUST(cudaGraphNodeSetEnabled(exec, shift, 0));
  unsigned int enabled = 1;
  MUST(cudaGraphNodeGetEnabled(exec, shift, &enabled));
  EXPECT(enabled == 0);
  MUST(cudaGraphLaunch(exec, stream));
  MUST(cudaStreamSynchronize(stream));
  for (int i = 0; i < n; ++i) EXPECT(out[i] == 5 * i);
  // The graph itself still has the old ones; its clone too.
  cudaGraph_t clone;
  MUST(cudaGraphClone(&clone, graph));
  cudaGraphNode_t in_clone;
  MUST(cudaGraphNodeFindInClone(&in_clone, scale, clone));
  EXPECT(in_clone != scale);
  cudaGraphExec_t second;
  MUST(cudaGraphInstantiate(&second, clone));
  MUST(cudaGraphLaunch(second, stream));
  MUST(cudaStreamSynchronize(stream));
  for (int i = 0; i < n; ++i) EXPECT(out[i] == 3 * i + 10);
  EXPECT(called == 4);
  // Without the node that shifts, a graph with a hole: what depended on it does not wait any more.
  MUST(cudaGraphDestroyNode(shift));
  size_t nodes = 0;
  MUST(cudaGraphGetNodes(graph, nullptr, &nodes));
  EXPECT(nodes == 4);

  // A graph as a node of another; sets in words of two bytes; symbols; memory that lives in the graph.
  cudaGraph_t outer;
  MUST(cudaGraphCreate(&outer, 0));
  cudaMemsetParams set = {};
  set.dst = data;
  set.elementSize = 4;
  set.value = 2;
  set.width = n;
  set.height = 1;
  cudaGraphNode_t filled, child, to_symbol, allocated, look, from_look, freed, empty;
  MUST(cudaGraphAddMemsetNode(&filled, outer, nullptr, 0, &set));
  cudaGraph_t inner;
  MUST(cudaGraphCreate(&inner, 0));
  int seven = 7, all = n;
  void* seven_arguments[] = {&data, &seven, &all};
  kernel.kernelParams = seven_arguments;
  cudaGraphNode_t times;
  MUST(cudaGraphAddKernelNode(&times, inner, nullptr, 0, &kernel));
  MUST(cudaGraphAddChildGraphNode(&child, outer, &filled, 1, inner));
  MUST(cudaGraphDestroy(inner));
  const int numbers[4] = {4, 3, 2, 1};
  MUST(cudaGraphAddMemcpyNodeToSymbol(&to_symbol, outer, nullptr, 0, table, numbers, sizeof numbers, 0,
                                      cudaMemcpyHostToDevice));
  cudaMemAllocNodeParams memory = {};
  memory.poolProps.allocType = cudaMemAllocationTypePinned;
  memory.poolProps.location = {cudaMemLocationTypeDevice, 0};
  memory.bytesize = 4 * sizeof(int);
  MUST(cudaGraphAddMemAllocNode(&allocated, outer, nullptr, 0, &memory));
  EXPECT(memory.dptr != nullptr);
  const cudaGraphNode_t both[2] = {to_symbol, allocated};
  void* look_arguments[] = {&memory.dptr};
  kernel.func = reinterpret_cast<void*>(Look);
  kernel.gridDim = dim3(1);
  kernel.blockDim = dim3(4);
  kernel.kernelParams = look_arguments;
  MUST(cudaGraphAddKernelNode(&look, outer, both, 2, &kernel));
  int looked[4] = {};
  MUST(cudaGraphAddMemcpyNode1D(&from_look, outer, &look, 1, looked, memory.dptr, sizeof looked,
                                cudaMemcpyDeviceToHost));
  MUST(cudaGraphAddMemFreeNode(&freed, outer, &from_look, 1, memory.dptr));
  const cudaGraphNode_t ends[2] = {freed, child};
  MUST(cudaGraphAddEmptyNode(&empty, outer, ends, 2));
  cudaEvent_t event;
  MUST(cudaEventCreate(&event));
  cudaGraphNode_t recorded;
  MUST(cudaGraphAddEventRecordNode(&recorded, outer, &empty, 1, event));
  cudaGraphExec_t third;
  MUST(cudaGraphInstantiate(&third, outer));
  for (int round = 0; round < 3; ++round) {
    for (int& word : looked) word = 0;
    MUST(cudaGraphLaunch(third, stream));
    MUST(cudaEventSynchronize(event));
    MUST(cudaStreamSynchronize(stream));
    for (int i = 0; i < 4; ++i) EXPECT(looked[i] == 2 * numbers[i]);
    MUST(cudaMemcpy(out.data(), data, n * sizeof(int), cudaMemcpyDeviceToHost));
    for (int i = 0; i < n; ++i) EXPECT(out[i] == 14);
  }

  // The general form of adding a node; user objects end with the last graph that holds them.
  cudaGraph_t general;
  MUST(cudaGraphCreate(&general, 0));
  cudaGraphNodeParams any = {cudaGraphNodeTypeKernel};
  int minus = -1;
  void* minus_arguments[] = {&data, &minus, &all};
  any.kernel.func = reinterpret_cast<void*>(Scale);
  any.kernel.gridDim = dim3(4);
  any.kernel.blockDim = dim3(128);
  any.kernel.kernelParams = minus_arguments;
  cudaGraphNode_t node;
  MUST(cudaGraphAddNode(&node, general, nullptr, nullptr, 0, &any));
  int destroyed = 0;
  cudaUserObject_t object;
  MUST(cudaUserObjectCreate(&object, &destroyed, Destroyed, 1, cudaUserObjectNoDestructorSync));
  MUST(cudaGraphRetainUserObject(general, object, 1, cudaGraphUserObjectMove));
  cudaGraphExec_t fourth;
  MUST(cudaGraphInstantiate(&fourth, general));
  MUST(cudaGraphLaunch(fourth, stream));
  MUST(cudaStreamSynchronize(stream));
  MUST(cudaMemcpy(out.data(), data, n * sizeof(int), cudaMemcpyDeviceToHost));
  EXPECT(out[0] == -14 && out[n - 1] == -14);
  EXPECT(destroyed == 0);
  MUST(cudaGraphDestroy(general));
  EXPECT(destroyed == 0);
  MUST(cudaGraphExecDestroy(fourth));
  MUST(cudaDeviceSynchronize());
  for (int tries = 0; destroyed == 0 && tries < 1'000'000; ++tries) cudaStreamQuery(stream);
  EXPECT(static_cast<volatile int&>(destroyed) == 1);

  // A circle is refused.
  EXPECT(cudaGraphAddDependencies(outer, &look, &to_symbol, nullptr, 1) != cudaSuccess);
  EXPECT(cudaGetLastError() != cudaSuccess);
  MUST(cudaGraphExecDestroy(exec));
  MUST(cudaGraphExecDestroy(second));
  MUST(cudaGraphExecDestroy(third));
  MUST(cudaGraphDestroy(graph));
  MUST(cudaGraphDestroy(clone));
  MUST(cudaGraphDestroy(outer));
  std::printf("PASSED explicit_graph\n");
  return 0;
}
