// Memory that graphs allocate. A node takes nothing when it is made; a launch takes what the nodes
// of the executable graph need, and the driver keeps it for graphs until it is trimmed. So a graph
// is charged in full when it becomes executable, which costs a launch nothing and lets none fail,
// and what a destroyed one may have left is charged by the driver's figure until a trim.
#include "guest/cuda/account.h"

namespace tessera::guest {

namespace {

constexpr unsigned int kNodeGraph = 4, kNodeMemoryAllocation = 10;
constexpr int kGraphDepthMax = 16;  // graphs inside graphs

abi::CUresult Sum(abi::CUgraph graph, GraphClaim* claim, int levels) {
  auto* const get_nodes =
      DriverFunction<abi::CUresult(abi::CUgraph, abi::CUgraphNode*, size_t*)>("cuGraphGetNodes");
  auto* const get_type =
      DriverFunction<abi::CUresult(abi::CUgraphNode, unsigned int*)>("cuGraphNodeGetType");
  auto* const get_child = DriverFunction<abi::CUresult(abi::CUgraphNode, abi::CUgraph*)>(
      "cuGraphChildGraphNodeGetGraph");
  auto* const get_memory =
      DriverFunction<abi::CUresult(abi::CUgraphNode, abi::CUDA_MEM_ALLOC_NODE_PARAMS*)>(
          "cuGraphMemAllocNodeGetParams");
  size_t count = 0;
  if (get_nodes == nullptr || get_type == nullptr || get_child == nullptr ||
      get_memory == nullptr || get_nodes(graph, nullptr, &count) != abi::CUDA_SUCCESS ||
      count == 0) {
    return abi::CUDA_SUCCESS;  // no graph: instantiating says so
  }
  if (levels == 0) return abi::CUDA_ERROR_NOT_SUPPORTED;
  const size_t bytes = count * sizeof(abi::CUgraphNode);
  auto* const nodes = static_cast<abi::CUgraphNode*>(MapMemory(bytes));
  if (nodes == nullptr) return abi::CUDA_ERROR_OUT_OF_MEMORY;
  abi::CUresult result = get_nodes(graph, nodes, &count);
  for (size_t i = 0; i < count && result == abi::CUDA_SUCCESS; ++i) {
    unsigned int type = 0;
    if (get_type(nodes[i], &type) != abi::CUDA_SUCCESS) continue;
    abi::CUgraph child = nullptr;
    abi::CUDA_MEM_ALLOC_NODE_PARAMS memory = {};
    if (type == kNodeGraph && get_child(nodes[i], &child) == abi::CUDA_SUCCESS) {
      result = Sum(child, claim, levels - 1);
    } else if (type == kNodeMemoryAllocation) {
      result = get_memory(nodes[i], &memory);
      if (result != abi::CUDA_SUCCESS) break;
      const int card = CardOfDevice(memory.poolProps.location.id);
      if (card < 0) {
        result = kRefused;
      } else if (memory.bytesize >= kAllocationBytesMax ||
                 claim->bytes[card] >= kAllocationBytesMax) {
        result = abi::CUDA_ERROR_OUT_OF_MEMORY;
      } else {
        claim->bytes[card] += RoundUp(memory.bytesize, Granule());
      }
    }
  }
  UnmapMemory(nodes, bytes);
  return result;
}

// What the driver holds for graphs on the card.
uint64_t ReadGraphs(uint32_t card) {
  auto* const get = DriverFunction<abi::CUresult(abi::CUdevice, unsigned int, void*)>(
      "cuDeviceGetGraphMemAttribute");
  constexpr unsigned int kReservedNow = 2;
  const int device = OrdinalOfCard(card);
  uint64_t bytes = 0;
  DepthGuard guard;
  if (get == nullptr || device < 0 || get(device, kReservedNow, &bytes) != abi::CUDA_SUCCESS) {
    return 0;
  }
  return RoundUp(bytes, Granule());
}

void AddGraphClaims(uint32_t card, uint64_t bytes) {
  PoolHold& hold = process.pools[card];
  LockHolder holder(&hold.lock);
  __atomic_store_n(&hold.graph_claims, hold.graph_claims + bytes, __ATOMIC_RELAXED);
}

}  // namespace

abi::CUresult ClaimGraph(abi::CUgraph graph, GraphClaim* claim) {
  abi::CUresult result;
  {
    DepthGuard guard;
    result = Sum(graph, claim, kGraphDepthMax);
  }
  for (uint32_t card = 0; card < wire::kCardsMax; ++card) {
    const uint64_t bytes = claim->bytes[card];
    if (bytes == 0) continue;
    if (result == abi::CUDA_SUCCESS && !ReserveOn(card, bytes)) {
      result = abi::CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (result == abi::CUDA_SUCCESS) {
      AddGraphClaims(card, bytes);
    } else {
      claim->bytes[card] = 0;  // not reserved, so not to be given back
    }
  }
  if (result != abi::CUDA_SUCCESS) DropClaim(*claim);
  return result;
}

void DropClaim(const GraphClaim& claim) {
  for (uint32_t card = 0; card < wire::kCardsMax; ++card) {
    if (claim.bytes[card] == 0) continue;
    AddGraphClaims(card, -claim.bytes[card]);
    process.ledger.Release(card, claim.bytes[card]);
  }
}

void KeepGraph(uint64_t exec, uint32_t context, const GraphClaim& claim) {
  for (uint32_t card = 0; card < wire::kCardsMax; ++card) {
    if (claim.bytes[card] == 0) continue;
    Object object = {};
    object.key = exec | card;
    object.kind = kObjectGraphMemory;
    object.card = card;
    object.bytes = claim.bytes[card];
    object.context = context;
    // Without memory for the entry the charge stays for the life of the process.
    process.objects.Put(object);
  }
}

void ForgetGraph(const Object& memory) {
  const uint64_t real = ReadGraphs(memory.card);
  PoolHold& hold = process.pools[memory.card];
  uint64_t left = 0;
  uint64_t before = 0;
  {
    LockHolder holder(&hold.lock);
    before = hold.graph_left;
    left = before + memory.bytes;
    if (left > real) left = real > before ? real : before;
    __atomic_store_n(&hold.graph_claims, hold.graph_claims - memory.bytes, __ATOMIC_RELAXED);
    __atomic_store_n(&hold.graph_left, left, __ATOMIC_RELAXED);
  }
  process.ledger.Release(memory.card, memory.bytes - (left - before));
  if (left != 0) SettleGraphs(memory.card);
}

void SettleGraphs(uint32_t card) {
  PoolHold& hold = process.pools[card];
  if (__atomic_load_n(&hold.graph_left, __ATOMIC_RELAXED) == 0) return;
  const uint64_t real = ReadGraphs(card);
  uint64_t given = 0;
  {
    LockHolder holder(&hold.lock);
    if (hold.graph_left > real) {
      given = hold.graph_left - real;
      __atomic_store_n(&hold.graph_left, real, __ATOMIC_RELAXED);
    }
  }
  if (given != 0) process.ledger.Release(card, given);
}

void TrimGraphs(uint32_t card) {
  if (__atomic_load_n(&process.pools[card].graph_left, __ATOMIC_RELAXED) == 0) return;
  auto* const trim = TESSERA_REAL(cuDeviceGraphMemTrim);
  const int device = OrdinalOfCard(card);
  if (trim != nullptr && device >= 0) {
    DepthGuard guard;
    trim(device);
  }
  SettleGraphs(card);
}

uint64_t GraphSlack(uint32_t card) {
  const PoolHold& hold = process.pools[card];
  const uint64_t charged = __atomic_load_n(&hold.graph_claims, __ATOMIC_RELAXED) +
                           __atomic_load_n(&hold.graph_left, __ATOMIC_RELAXED);
  const uint64_t real = charged == 0 ? 0 : ReadGraphs(card);
  return real < charged ? charged - real : 0;
}

}  // namespace tessera::guest

namespace tessera::abi {

using namespace ::tessera::guest;

namespace {
bool Allocates(const CUgraphNodeParams* params) {
  return params != nullptr &&
         *reinterpret_cast<const unsigned int*>(params) == kNodeMemoryAllocation;
}
void SayGraphsAllocate() { __atomic_store_n(&process.graphs_used, 1u, __ATOMIC_RELAXED); }
}  // namespace

TESSERA_EXPORT CUresult cuGraphAddMemAllocNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                               const CUgraphNode* dependencies,
                                               size_t numDependencies,
                                               CUDA_MEM_ALLOC_NODE_PARAMS* nodeParams) {
  auto* const real = TESSERA_REAL(cuGraphAddMemAllocNode);
  if (real == nullptr) return MissingCuda();
  SayGraphsAllocate();
  DepthGuard guard;
  return real(phGraphNode, hGraph, dependencies, numDependencies, nodeParams);
}

TESSERA_EXPORT CUresult cuGraphAddNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                       const CUgraphNode* dependencies, size_t numDependencies,
                                       CUgraphNodeParams* nodeParams) {
  auto* const real = TESSERA_REAL(cuGraphAddNode);
  if (real == nullptr) return MissingCuda();
  if (Allocates(nodeParams)) SayGraphsAllocate();
  return real(phGraphNode, hGraph, dependencies, numDependencies, nodeParams);
}

TESSERA_EXPORT CUresult cuGraphAddNode_v2(CUgraphNode* phGraphNode, CUgraph hGraph,
                                          const CUgraphNode* dependencies,
                                          const CUgraphEdgeData* dependencyData,
                                          size_t numDependencies, CUgraphNodeParams* nodeParams) {
  auto* const real = TESSERA_REAL(cuGraphAddNode_v2);
  if (real == nullptr) return MissingCuda();
  if (Allocates(nodeParams)) SayGraphsAllocate();
  return real(phGraphNode, hGraph, dependencies, dependencyData, numDependencies, nodeParams);
}

TESSERA_EXPORT CUresult cuDeviceGraphMemTrim(CUdevice device) {
  auto* const real = TESSERA_REAL(cuDeviceGraphMemTrim);
  if (real == nullptr) return MissingCuda();
  CUresult result;
  {
    DepthGuard guard;
    result = real(device);
  }
  if (result != CUDA_SUCCESS || depth > 0 || !Attached()) return result;
  const int card = CardOfDevice(device);
  if (card >= 0) SettleGraphs(static_cast<uint32_t>(card));
  return result;
}

}  // namespace tessera::abi
