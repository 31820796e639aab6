// Devices: what they are called and what they can do, from the card's profile.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "simgpu/driver/driver.h"

namespace simgpu {
namespace {

// The value of an attribute; false when no such attribute exists. Those of things simgpu lacks
// (texture objects, clusters, multicast, fabric handles, host pools, compression, sparse arrays,
// GPUDirect, interop) are 0. The extents of textures are those of arrays.
bool Attribute(const Card& card, CUdevice_attribute attribute, int* value) {
  const Profile& p = card.profile;
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y:
      *value = 1024;
      return true;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z:
      *value = 64;
      return true;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X:
      *value = 2147483647;
      return true;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y:
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z:
      *value = 65535;
      return true;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK:
      *value = 49152;
      return true;
    case CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY:
      *value = 65536;
      return true;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE:
      *value = 32;
      return true;
    case CU_DEVICE_ATTRIBUTE_MAX_PITCH:
      *value = 2147483647;
      return true;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK:
      *value = 65536;
      return true;
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE:
      *value = static_cast<int>(p.clock_khz);
      return true;
    case CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT:
    case CU_DEVICE_ATTRIBUTE_SURFACE_ALIGNMENT:
      *value = 512;
      return true;
    case CU_DEVICE_ATTRIBUTE_TEXTURE_PITCH_ALIGNMENT:
      *value = 32;
      return true;
    case CU_DEVICE_ATTRIBUTE_GPU_OVERLAP:
    case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS:
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_GLOBAL_L1_CACHE_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_LOCAL_L1_CACHE_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY:
    case CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM:
    case CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_UNIFIED_FUNCTION_POINTERS:
    case CU_DEVICE_ATTRIBUTE_MEM_SYNC_DOMAIN_COUNT:
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS:
    case CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH:
    case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR:
    case CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED:
      *value = 1;
      return true;
    case CU_DEVICE_ATTRIBUTE_MEMPOOL_SUPPORTED_HANDLE_TYPES:
      *value = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
      return true;
    case CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_WIDTH:
    case CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_WIDTH:
      *value = 131072;
      return true;
    case CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_HEIGHT:
      *value = 65536;
      return true;
    case CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_WIDTH:
    case CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_HEIGHT:
    case CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_DEPTH:
      *value = 16384;
      return true;
    case CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_LAYERED_WIDTH:
    case CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LAYERED_WIDTH:
    case CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LAYERED_HEIGHT:
      *value = 32768;
      return true;
    case CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_LAYERED_LAYERS:
    case CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LAYERED_LAYERS:
      *value = 2048;
      return true;
    case CU_DEVICE_ATTRIBUTE_ECC_ENABLED:
      *value = p.ecc == Ecc::kOn ? 1 : 0;
      return true;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
      *value = static_cast<int>(p.sm_count);
      return true;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_MODE:
      *value = CU_COMPUTEMODE_DEFAULT;
      return true;
    case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID:
      *value = static_cast<int>(card.pci_bus);
      return true;
    case CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID:
      *value = static_cast<int>(card.pci_slot);
      return true;
    case CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID:
      *value = static_cast<int>(card.pci_domain);
      return true;
    case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE:
      *value = static_cast<int>(p.memory_clock_khz);
      return true;
    case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH:
      *value = static_cast<int>(p.memory_bus_bits);
      return true;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE:
      *value = static_cast<int>(p.l2_bytes);
      return true;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR:
      *value = static_cast<int>(p.threads_per_sm);
      return true;
    case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT:
      *value = static_cast<int>(p.copy_engines);
      return true;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
      *value = static_cast<int>(p.capability_major);
      return true;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
      *value = static_cast<int>(p.capability_minor);
      return true;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR:
      *value = static_cast<int>(p.shared_per_sm);
      return true;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR:
      *value = static_cast<int>(p.registers_per_sm);
      return true;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
      *value = static_cast<int>(p.shared_per_block_optin);
      return true;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR:
      *value = static_cast<int>(p.blocks_per_sm);
      return true;
    case CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK:
      *value = p.capability_major >= 8 ? 1024 : 0;
      return true;
    case CU_DEVICE_ATTRIBUTE_SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO:
      *value = p.capability_minor == 0 && p.capability_major >= 8 ? 2 : 32;
      return true;
    case CU_DEVICE_ATTRIBUTE_MULTI_GPU_BOARD_GROUP_ID:
      *value = static_cast<int>(card.index);
      return true;
    case CU_DEVICE_ATTRIBUTE_NUMA_ID:  // the card's memory is no node of the host
      *value = -1;
      return true;
    case CU_DEVICE_ATTRIBUTE_GPU_PCI_DEVICE_ID:
      *value = static_cast<int>(p.pci_device);
      return true;
    case CU_DEVICE_ATTRIBUTE_GPU_PCI_SUBSYSTEM_ID:
      *value = static_cast<int>(p.pci_subsystem);
      return true;
    default:
      *value = 0;
      return attribute >= 1 &&
             attribute <= CU_DEVICE_ATTRIBUTE_ONLY_PARTIAL_HOST_NATIVE_ATOMIC_SUPPORTED;
  }
}

}  // namespace
}  // namespace simgpu

namespace tessera::abi {
using namespace simgpu;  // NOLINT

extern "C" {

CUresult cuDeviceGetCount(int* count) {
  SIMGPU_DRIVER(driver);
  if (count == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *count = static_cast<int>(driver->devices.size());
  return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  Driver* driver = nullptr;
  if (CUresult bad = CheckDevice(ordinal, &driver)) return bad;
  if (device == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *device = ordinal;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char* name, int length, CUdevice device) {
  Driver* driver = nullptr;
  if (CUresult bad = CheckDevice(device, &driver)) return bad;
  if (name == nullptr || length <= 0) return CUDA_ERROR_INVALID_VALUE;
  snprintf(name, length, "%s", CardOf(*driver, device).profile.name);
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetUuid(CUuuid* uuid, CUdevice device) {
  Driver* driver = nullptr;
  if (CUresult bad = CheckDevice(device, &driver)) return bad;
  if (uuid == nullptr) return CUDA_ERROR_INVALID_VALUE;
  memcpy(uuid->bytes, CardOf(*driver, device).uuid_bytes, sizeof uuid->bytes);
  return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice device) {
  Driver* driver = nullptr;
  if (CUresult bad = CheckDevice(device, &driver)) return bad;
  if (bytes == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *bytes = CardOf(*driver, device).profile.memory_bytes;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
  Driver* driver = nullptr;
  if (CUresult bad = CheckDevice(device, &driver)) return bad;
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (attribute == CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID) {
    const Card& card = CardOf(*driver, device);
    *value = static_cast<int>(driver->state->topology().places[card.index].numa_node);
    return CUDA_SUCCESS;
  }
  return Attribute(CardOf(*driver, device), attribute, value) ? CUDA_SUCCESS
                                                              : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuDeviceComputeCapability(int* major, int* minor, CUdevice device) {
  Driver* driver = nullptr;
  if (CUresult bad = CheckDevice(device, &driver)) return bad;
  if (major == nullptr || minor == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const Profile& profile = CardOf(*driver, device).profile;
  *major = static_cast<int>(profile.capability_major);
  *minor = static_cast<int>(profile.capability_minor);
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetProperties(CUdevprop* properties, CUdevice device) {
  Driver* driver = nullptr;
  if (CUresult bad = CheckDevice(device, &driver)) return bad;
  if (properties == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const Card& card = CardOf(*driver, device);
  auto value = [&card](CUdevice_attribute attribute) {
    int told = 0;
    Attribute(card, attribute, &told);
    return told;
  };
  *properties = {.maxThreadsPerBlock = value(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK),
                 .maxThreadsDim = {value(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X),
                                   value(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y),
                                   value(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z)},
                 .maxGridSize = {value(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X),
                                 value(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y),
                                 value(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z)},
                 .sharedMemPerBlock = value(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK),
                 .totalConstantMemory = value(CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY),
                 .SIMDWidth = value(CU_DEVICE_ATTRIBUTE_WARP_SIZE),
                 .memPitch = value(CU_DEVICE_ATTRIBUTE_MAX_PITCH),
                 .regsPerBlock = value(CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK),
                 .clockRate = value(CU_DEVICE_ATTRIBUTE_CLOCK_RATE),
                 .textureAlign = value(CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT)};
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetPCIBusId(char* text, int length, CUdevice device) {
  Driver* driver = nullptr;
  if (CUresult bad = CheckDevice(device, &driver)) return bad;
  if (text == nullptr || length < 13) return CUDA_ERROR_INVALID_VALUE;
  const Card& card = CardOf(*driver, device);
  snprintf(text, length, "%04X:%02X:%02X.0", card.pci_domain, card.pci_bus, card.pci_slot);
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetByPCIBusId(CUdevice* device, const char* text) {
  SIMGPU_DRIVER(driver);
  if (device == nullptr || text == nullptr) return CUDA_ERROR_INVALID_VALUE;
  unsigned int domain = 0, bus = 0, slot = 0, function = 0;
  int end = 0;
  // "domain:bus:device.function", "domain:bus:device" or "bus:device.function", in hexadecimal.
  const bool parsed =
      (sscanf(text, "%x:%x:%x.%x%n", &domain, &bus, &slot, &function, &end) == 4 &&
       text[end] == 0) ||
      (sscanf(text, "%x:%x:%x%n", &domain, &bus, &slot, &end) == 3 && text[end] == 0) ||
      ((domain = 0, sscanf(text, "%x:%x.%x%n", &bus, &slot, &function, &end)) == 3 &&
       text[end] == 0);
  if (!parsed) return CUDA_ERROR_INVALID_VALUE;
  for (size_t i = 0; i < driver->devices.size(); ++i) {
    const Card& card = CardOf(*driver, static_cast<int>(i));
    if (card.pci_domain == domain && card.pci_bus == bus && card.pci_slot == slot) {
      *device = static_cast<CUdevice>(i);
      return CUDA_SUCCESS;
    }
  }
  return CUDA_ERROR_INVALID_DEVICE;
}

}  // extern "C"

SIMGPU_ALIAS(cuDeviceGetUuid, cuDeviceGetUuid_v2);

}  // namespace tessera::abi
