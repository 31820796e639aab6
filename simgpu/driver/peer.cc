// Peers: which devices and contexts reach each other's memory.
#include "abi/cuda_memory.h"
#include "simgpu/driver/capture.h"
#include "simgpu/driver/memory.h"
#include "simgpu/driver/pool.h"
#include "simgpu/state/topology.h"

namespace simgpu {
namespace {

// What contexts of the device may do with memory that is not an ordinary allocation of a context.
uint32_t AccessByDevice(int device, const Allocation& memory) {
  constexpr uint32_t kAll = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  if (memory.memory_kind == MemoryKind::kManaged) return kAll;
  if (memory.multicast != nullptr) return 0;
  if (memory.memory_kind == MemoryKind::kMapped) return memory.access[device];
  if (memory.device == device) return kAll;
  if (memory.pool != nullptr) return memory.pool->access[device];
  return memory.access[device];
}

bool BelongsToContext(const Allocation& memory) {
  return memory.memory_kind == MemoryKind::kLarge || memory.memory_kind == MemoryKind::kSmall ||
         memory.memory_kind == MemoryKind::kModule;
}

bool NvLinked(const Driver& driver, int a, int b) {
  return NvLinksBetween(driver.state->topology(), CardOf(driver, a).index,
                        CardOf(driver, b).index) > 0;
}

}  // namespace

bool PeerCapable(const Driver& driver, int a, int b) {
  if (a == b) return false;
  const Card& one = CardOf(driver, a);
  const Card& other = CardOf(driver, b);
  return PeerAccess(driver.state->topology(), one.profile, one.index, other.profile, other.index) ==
         Peer::kOk;
}

uint32_t AccessOf(const Driver&, const Context* from, const Allocation& memory) {
  const uint32_t own = AccessByDevice(from->device, memory);
  if (own != 0 || !BelongsToContext(memory)) return own;
  return from->peers.contains(memory.context) ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE
                                              : CU_MEM_ACCESS_FLAGS_PROT_NONE;
}

bool MayReach(const Driver& driver, int from_device, const Allocation& memory) {
  if (AccessByDevice(from_device, memory) != 0) return true;
  if (!BelongsToContext(memory)) return false;
  for (const Object* object : driver.live) {
    if (object->kind != Kind::kContext) continue;
    const auto* context = static_cast<const Context*>(object);
    if (context->device == from_device && context->peers.contains(memory.context)) return true;
  }
  return false;
}

}  // namespace simgpu

namespace tessera::abi {
using namespace simgpu;  // NOLINT

extern "C" {

CUresult cuDeviceCanAccessPeer(int* can, CUdevice device, CUdevice peer) {
  Driver* driver = nullptr;
  if (CUresult bad = CheckDevice(device, &driver)) return bad;
  if (CUresult bad = CheckDevice(peer, &driver)) return bad;
  if (can == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *can = PeerCapable(*driver, device, peer) ? 1 : 0;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetP2PAttribute(int* value, CUdevice_P2PAttribute attribute, CUdevice from,
                                 CUdevice to) {
  Driver* driver = nullptr;
  if (CUresult bad = CheckDevice(from, &driver)) return bad;
  if (CUresult bad = CheckDevice(to, &driver)) return bad;
  if (value == nullptr || from == to) {
    return value == nullptr ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_INVALID_DEVICE;
  }
  const bool reaches = PeerCapable(*driver, from, to);
  const bool nvlink = reaches && NvLinked(*driver, from, to);
  switch (attribute) {
    case CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK:
      // Lower is better; the same link has the same rank for both.
      *value = nvlink ? 0 : 1;
      return CUDA_SUCCESS;
    case CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED:
    case CU_DEVICE_P2P_ATTRIBUTE_CUDA_ARRAY_ACCESS_SUPPORTED:
      *value = reaches ? 1 : 0;
      return CUDA_SUCCESS;
    case CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED:
      *value = nvlink ? 1 : 0;
      return CUDA_SUCCESS;
    case CU_DEVICE_P2P_ATTRIBUTE_ONLY_PARTIAL_NATIVE_ATOMIC_SUPPORTED:
      *value = 0;
      return CUDA_SUCCESS;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult cuCtxEnablePeerAccess(CUcontext handle, unsigned int flags) {
  SIMGPU_CURRENT(driver, context);
  if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  if (CUresult bad = CheckUnsafeCall(driver)) return bad;
  const Context* peer = Live<Context>(*driver, handle, Kind::kContext);
  if (peer == nullptr || peer == context) return CUDA_ERROR_INVALID_CONTEXT;
  if (!PeerCapable(*driver, context->device, peer->device)) {
    return CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;
  }
  if (!context->peers.insert(peer).second) return CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED;
  return CUDA_SUCCESS;
}

CUresult cuCtxDisablePeerAccess(CUcontext handle) {
  SIMGPU_CURRENT(driver, context);
  {
    std::lock_guard guard(driver->mutex);
    if (CUresult bad = CheckUnsafeCall(driver)) return bad;
    const Context* peer = Live<Context>(*driver, handle, Kind::kContext);
    if (peer == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    if (!context->peers.contains(peer)) return CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
  }
  // Kernels that use the peer's memory end first.
  if (CUresult bad = WaitContext(context)) return bad;
  std::lock_guard guard(driver->mutex);
  return context->peers.erase(reinterpret_cast<Context*>(handle)) != 0
             ? CUDA_SUCCESS
             : CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
}

}  // extern "C"
}  // namespace tessera::abi
