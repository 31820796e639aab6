// What cudaGetDeviceProperties tells, and the choice of a device by it.
#include <cstring>
#include <type_traits>

#include "simgpu/cudart/runtime.h"

namespace simgpu::cudart {

CUDART_CALL cudaError_t cudaGetDeviceProperties(cudaDeviceProp* prop, int device) {
  if (prop == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_DRIVER();
  int count = 0;
  if (const CUresult bad = Call(Driver().cuDeviceGetCount)(&count); bad != CUDA_SUCCESS) {
    return Record(bad);
  }
  if (device < 0 || device >= count) return Record(cudaErrorInvalidDevice);
  *prop = {};
  CUresult worst =
      Call(Driver().cuDeviceGetName)(prop->name, static_cast<int>(sizeof prop->name), device);
  if (worst == CUDA_SUCCESS)
    worst = Call(Driver().cuDeviceTotalMem_v2)(&prop->totalGlobalMem, device);
  if (worst == CUDA_SUCCESS) worst = Call(Driver().cuDeviceGetUuid_v2)(&prop->uuid, device);
  if (worst != CUDA_SUCCESS) return Record(worst);
  // An attribute the driver does not know leaves its field 0.
  const auto get = [&](auto* field, int attribute) {
    int value = 0;
    if (Call(Driver().cuDeviceGetAttribute)(&value, static_cast<CUdevice_attribute>(attribute),
                                            device) == CUDA_SUCCESS) {
      *field = static_cast<std::remove_reference_t<decltype(*field)>>(value);
    }
  };
  // Fields that stand side by side and whose attributes do too.
  const auto get_each = [&](auto& fields, int first) {
    for (auto& field : fields) get(&field, first++);
  };
  get(&prop->sharedMemPerBlock, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK);
  get(&prop->regsPerBlock, CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK);
  get(&prop->warpSize, CU_DEVICE_ATTRIBUTE_WARP_SIZE);
  get(&prop->memPitch, CU_DEVICE_ATTRIBUTE_MAX_PITCH);
  get(&prop->maxThreadsPerBlock, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK);
  get_each(prop->maxThreadsDim, CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X);
  get_each(prop->maxGridSize, CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X);
  get(&prop->totalConstMem, CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY);
  get(&prop->major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
  get(&prop->minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
  get(&prop->textureAlignment, CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT);
  get(&prop->texturePitchAlignment, CU_DEVICE_ATTRIBUTE_TEXTURE_PITCH_ALIGNMENT);
  get(&prop->multiProcessorCount, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
  get(&prop->integrated, CU_DEVICE_ATTRIBUTE_INTEGRATED);
  get(&prop->canMapHostMemory, CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY);
  get(&prop->maxTexture1D, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_WIDTH);
  get(&prop->maxTexture1DMipmap, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_MIPMAPPED_WIDTH);
  get_each(prop->maxTexture2D, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_WIDTH);
  get_each(prop->maxTexture2DMipmap, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_MIPMAPPED_WIDTH);
  get_each(prop->maxTexture2DLinear, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LINEAR_WIDTH);
  get_each(prop->maxTexture2DGather, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_GATHER_WIDTH);
  get_each(prop->maxTexture3D, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_WIDTH);
  get_each(prop->maxTexture3DAlt, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_WIDTH_ALTERNATE);
  get(&prop->maxTextureCubemap, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURECUBEMAP_WIDTH);
  get_each(prop->maxTexture1DLayered, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_LAYERED_WIDTH);
  get_each(prop->maxTexture2DLayered, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LAYERED_WIDTH);
  get_each(prop->maxTextureCubemapLayered,
           CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURECUBEMAP_LAYERED_WIDTH);
  get(&prop->maxSurface1D, CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE1D_WIDTH);
  get_each(prop->maxSurface2D, CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_WIDTH);
  get_each(prop->maxSurface3D, CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE3D_WIDTH);
  get_each(prop->maxSurface1DLayered, CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE1D_LAYERED_WIDTH);
  get_each(prop->maxSurface2DLayered, CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_LAYERED_WIDTH);
  get(&prop->maxSurfaceCubemap, CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACECUBEMAP_WIDTH);
  get_each(prop->maxSurfaceCubemapLayered,
           CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACECUBEMAP_LAYERED_WIDTH);
  get(&prop->surfaceAlignment, CU_DEVICE_ATTRIBUTE_SURFACE_ALIGNMENT);
  get(&prop->concurrentKernels, CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS);
  get(&prop->ECCEnabled, CU_DEVICE_ATTRIBUTE_ECC_ENABLED);
  get(&prop->pciBusID, CU_DEVICE_ATTRIBUTE_PCI_BUS_ID);
  get(&prop->pciDeviceID, CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID);
  get(&prop->pciDomainID, CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID);
  get(&prop->tccDriver, CU_DEVICE_ATTRIBUTE_TCC_DRIVER);
  get(&prop->asyncEngineCount, CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT);
  get(&prop->unifiedAddressing, CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING);
  get(&prop->memoryBusWidth, CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH);
  get(&prop->l2CacheSize, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
  get(&prop->persistingL2CacheMaxSize, CU_DEVICE_ATTRIBUTE_MAX_PERSISTING_L2_CACHE_SIZE);
  get(&prop->maxThreadsPerMultiProcessor, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR);
  get(&prop->streamPrioritiesSupported, CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED);
  get(&prop->globalL1CacheSupported, CU_DEVICE_ATTRIBUTE_GLOBAL_L1_CACHE_SUPPORTED);
  get(&prop->localL1CacheSupported, CU_DEVICE_ATTRIBUTE_LOCAL_L1_CACHE_SUPPORTED);
  get(&prop->sharedMemPerMultiprocessor, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR);
  get(&prop->regsPerMultiprocessor, CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR);
  get(&prop->managedMemory, CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY);
  get(&prop->isMultiGpuBoard, CU_DEVICE_ATTRIBUTE_MULTI_GPU_BOARD);
  get(&prop->multiGpuBoardGroupID, CU_DEVICE_ATTRIBUTE_MULTI_GPU_BOARD_GROUP_ID);
  get(&prop->hostNativeAtomicSupported, CU_DEVICE_ATTRIBUTE_HOST_NATIVE_ATOMIC_SUPPORTED);
  get(&prop->pageableMemoryAccess, CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS);
  get(&prop->concurrentManagedAccess, CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS);
  get(&prop->computePreemptionSupported, CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED);
  get(&prop->canUseHostPointerForRegisteredMem,
      CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM);
  get(&prop->cooperativeLaunch, CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH);
  get(&prop->sharedMemPerBlockOptin, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
  get(&prop->pageableMemoryAccessUsesHostPageTables,
      CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES);
  get(&prop->directManagedMemAccessFromHost,
      CU_DEVICE_ATTRIBUTE_DIRECT_MANAGED_MEM_ACCESS_FROM_HOST);
  get(&prop->maxBlocksPerMultiProcessor, CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR);
  get(&prop->accessPolicyMaxWindowSize, CU_DEVICE_ATTRIBUTE_MAX_ACCESS_POLICY_WINDOW_SIZE);
  get(&prop->reservedSharedMemPerBlock, CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK);
  get(&prop->hostRegisterSupported, CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED);
  get(&prop->sparseCudaArraySupported, CU_DEVICE_ATTRIBUTE_SPARSE_CUDA_ARRAY_SUPPORTED);
  get(&prop->hostRegisterReadOnlySupported, CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED);
  get(&prop->timelineSemaphoreInteropSupported,
      CU_DEVICE_ATTRIBUTE_TIMELINE_SEMAPHORE_INTEROP_SUPPORTED);
  get(&prop->memoryPoolsSupported, CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED);
  get(&prop->gpuDirectRDMASupported, CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_SUPPORTED);
  get(&prop->gpuDirectRDMAFlushWritesOptions,
      CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_FLUSH_WRITES_OPTIONS);
  get(&prop->gpuDirectRDMAWritesOrdering, CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WRITES_ORDERING);
  get(&prop->memoryPoolSupportedHandleTypes, CU_DEVICE_ATTRIBUTE_MEMPOOL_SUPPORTED_HANDLE_TYPES);
  get(&prop->deferredMappingCudaArraySupported,
      CU_DEVICE_ATTRIBUTE_DEFERRED_MAPPING_CUDA_ARRAY_SUPPORTED);
  get(&prop->ipcEventSupported, CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED);
  get(&prop->clusterLaunch, CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH);
  get(&prop->unifiedFunctionPointers, CU_DEVICE_ATTRIBUTE_UNIFIED_FUNCTION_POINTERS);
  get(&prop->deviceNumaConfig, CU_DEVICE_ATTRIBUTE_NUMA_CONFIG);
  get(&prop->deviceNumaId, CU_DEVICE_ATTRIBUTE_NUMA_ID);
  get(&prop->mpsEnabled, CU_DEVICE_ATTRIBUTE_MPS_ENABLED);
  get(&prop->hostNumaId, CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID);
  get(&prop->gpuPciDeviceID, CU_DEVICE_ATTRIBUTE_GPU_PCI_DEVICE_ID);
  get(&prop->gpuPciSubsystemID, CU_DEVICE_ATTRIBUTE_GPU_PCI_SUBSYSTEM_ID);
  get(&prop->hostNumaMultinodeIpcSupported, CU_DEVICE_ATTRIBUTE_HOST_NUMA_MULTINODE_IPC_SUPPORTED);
  return cudaSuccess;
}

// The device that meets most of what was asked for; the first of equals.
CUDART_CALL cudaError_t cudaChooseDevice(int* device, const cudaDeviceProp* wanted) {
  if (device == nullptr || wanted == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_DRIVER();
  int count = 0;
  if (const CUresult bad = Call(Driver().cuDeviceGetCount)(&count); bad != CUDA_SUCCESS) {
    return Record(bad);
  }
  int most = -1;
  for (int candidate = 0; candidate < count; ++candidate) {
    cudaDeviceProp has = {};
    if (const cudaError_t bad = cudaGetDeviceProperties(&has, candidate); bad != cudaSuccess) {
      return bad;
    }
    const bool newer =
        has.major > wanted->major || (has.major == wanted->major && has.minor >= wanted->minor);
    const int met = (wanted->name[0] != 0 && std::strcmp(has.name, wanted->name) == 0 ? 1 : 0) +
                    (newer ? 1 : 0) + (has.totalGlobalMem >= wanted->totalGlobalMem ? 1 : 0) +
                    (has.sharedMemPerBlock >= wanted->sharedMemPerBlock ? 1 : 0) +
                    (has.multiProcessorCount >= wanted->multiProcessorCount ? 1 : 0) +
                    (has.maxThreadsPerBlock >= wanted->maxThreadsPerBlock ? 1 : 0);
    if (met > most) {
      most = met;
      *device = candidate;
    }
  }
  return most < 0 ? Record(cudaErrorNoDevice) : cudaSuccess;
}

}  // namespace simgpu::cudart
