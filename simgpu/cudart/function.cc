// What is asked and set of kernels, and libraries that programs load themselves.
#include <type_traits>
#include <vector>

#include "simgpu/cudart/registry.h"
#include "simgpu/cudart/runtime.h"

namespace simgpu::cudart {
namespace {

// The kernel as a function of the current context.
cudaError_t FunctionOf(const void* function, CUfunction* loaded) {
  CUkernel kernel = nullptr;
  if (const cudaError_t bad = KernelOf(function, &kernel); bad != cudaSuccess) return bad;
  return static_cast<cudaError_t>(Call(Driver().cuKernelGetFunction)(loaded, kernel));
}

cudaError_t Attribute(int* value, CUfunction_attribute attribute, CUkernel kernel) {
  return static_cast<cudaError_t>(
      Call(Driver().cuKernelGetAttribute)(value, attribute, kernel, CurrentDevice()));
}

CUlaunchConfig DriverConfig(const cudaLaunchConfig_t& config) {
  CUlaunchConfig driver = {};
  driver.gridDimX = config.gridDim.x;
  driver.gridDimY = config.gridDim.y;
  driver.gridDimZ = config.gridDim.z;
  driver.blockDimX = config.blockDim.x;
  driver.blockDimY = config.blockDim.y;
  driver.blockDimZ = config.blockDim.z;
  driver.sharedMemBytes = static_cast<unsigned int>(config.dynamicSmemBytes);
  driver.hStream = config.stream;
  driver.attrs = config.attrs;
  driver.numAttrs = config.numAttrs;
  return driver;
}

}  // namespace

CUDART_CALL cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes,
                                              const void* function) {
  if (attributes == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  CUkernel kernel = nullptr;
  if (const cudaError_t bad = KernelOf(function, &kernel); bad != cudaSuccess) return Record(bad);
  *attributes = {};
  cudaError_t worst = cudaSuccess;
  // Older drivers lack the later ones, which then stay 0.
  const auto get = [&](auto* field, CUfunction_attribute attribute, bool needed) {
    int value = 0;
    const cudaError_t result = Attribute(&value, attribute, kernel);
    if (result == cudaSuccess) {
      *field = static_cast<std::remove_reference_t<decltype(*field)>>(value);
    } else if (needed && worst == cudaSuccess) {
      worst = result;
    }
  };
  get(&attributes->maxThreadsPerBlock, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, true);
  get(&attributes->sharedSizeBytes, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, true);
  get(&attributes->constSizeBytes, CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES, true);
  get(&attributes->localSizeBytes, CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES, true);
  get(&attributes->numRegs, CU_FUNC_ATTRIBUTE_NUM_REGS, true);
  get(&attributes->ptxVersion, CU_FUNC_ATTRIBUTE_PTX_VERSION, true);
  get(&attributes->binaryVersion, CU_FUNC_ATTRIBUTE_BINARY_VERSION, true);
  get(&attributes->cacheModeCA, CU_FUNC_ATTRIBUTE_CACHE_MODE_CA, false);
  get(&attributes->maxDynamicSharedSizeBytes, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
      false);
  get(&attributes->preferredShmemCarveout, CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT,
      false);
  const auto later = [](int attribute) { return static_cast<CUfunction_attribute>(attribute); };
  get(&attributes->clusterDimMustBeSet, later(10), false);
  get(&attributes->requiredClusterWidth, later(11), false);
  get(&attributes->requiredClusterHeight, later(12), false);
  get(&attributes->requiredClusterDepth, later(13), false);
  get(&attributes->nonPortableClusterSizeAllowed, later(14), false);
  get(&attributes->clusterSchedulingPolicyPreference, later(15), false);
  return Record(worst);
}

// The runtime's settable attributes have the driver's numbers.
CUDART_CALL cudaError_t cudaFuncSetAttribute(const void* function, CUfunction_attribute attribute,
                                             int value) {
  CUDART_NEEDS_CONTEXT();
  CUkernel kernel = nullptr;
  if (const cudaError_t bad = KernelOf(function, &kernel); bad != cudaSuccess) return Record(bad);
  return Record(Call(Driver().cuKernelSetAttribute)(attribute, value, kernel, CurrentDevice()));
}

CUDART_CALL cudaError_t cudaFuncSetCacheConfig(const void* function, CUfunc_cache config) {
  CUDART_NEEDS_CONTEXT();
  CUkernel kernel = nullptr;
  if (const cudaError_t bad = KernelOf(function, &kernel); bad != cudaSuccess) return Record(bad);
  return Record(Call(Driver().cuKernelSetCacheConfig)(kernel, config, CurrentDevice()));
}

CUDART_CALL cudaError_t cudaFuncSetSharedMemConfig(const void* function, CUsharedconfig config) {
  CUDART_NEEDS_CONTEXT();
  CUfunction loaded = nullptr;
  if (const cudaError_t bad = FunctionOf(function, &loaded); bad != cudaSuccess) return Record(bad);
  return Record(Call(Driver().cuFuncSetSharedMemConfig)(loaded, config));
}

CUDART_CALL cudaError_t cudaFuncGetName(const char** name, const void* function) {
  CUDART_NEEDS_CONTEXT();
  CUkernel kernel = nullptr;
  if (const cudaError_t bad = KernelOf(function, &kernel); bad != cudaSuccess) return Record(bad);
  return Record(Call(Driver().cuKernelGetName)(name, kernel));
}

CUDART_CALL cudaError_t cudaFuncGetParamInfo(const void* function, size_t index, size_t* offset,
                                             size_t* size) {
  CUDART_NEEDS_CONTEXT();
  CUkernel kernel = nullptr;
  if (const cudaError_t bad = KernelOf(function, &kernel); bad != cudaSuccess) return Record(bad);
  return Record(Call(Driver().cuKernelGetParamInfo)(kernel, index, offset, size));
}

CUDART_CALL cudaError_t cudaGetFuncBySymbol(CUfunction* function, const void* symbol) {
  if (function == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  return Record(FunctionOf(symbol, function));
}

CUDART_CALL cudaError_t cudaGetKernel(CUkernel* kernel, const void* symbol) {
  if (kernel == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  return Record(KernelOf(symbol, kernel));
}

CUDART_CALL cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    int* blocks, const void* function, int block_size, size_t shared_bytes, unsigned int flags) {
  if (blocks == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  CUfunction loaded = nullptr;
  if (const cudaError_t bad = FunctionOf(function, &loaded); bad != cudaSuccess) return Record(bad);
  return Record(Call(Driver().cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags)(
      blocks, loaded, block_size, shared_bytes, flags));
}

CUDART_CALL cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks,
                                                                      const void* function,
                                                                      int block_size,
                                                                      size_t shared_bytes) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, block_size,
                                                                shared_bytes, 0);
}

CUDART_CALL cudaError_t cudaOccupancyAvailableDynamicSMemPerBlock(size_t* bytes,
                                                                  const void* function, int blocks,
                                                                  int block_size) {
  if (bytes == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  CUfunction loaded = nullptr;
  if (const cudaError_t bad = FunctionOf(function, &loaded); bad != cudaSuccess) return Record(bad);
  return Record(
      Call(Driver().cuOccupancyAvailableDynamicSMemPerBlock)(bytes, loaded, blocks, block_size));
}

CUDART_CALL cudaError_t cudaOccupancyMaxPotentialClusterSize(int* size, const void* function,
                                                             const cudaLaunchConfig_t* config) {
  if (size == nullptr || config == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  CUfunction loaded = nullptr;
  if (const cudaError_t bad = FunctionOf(function, &loaded); bad != cudaSuccess) return Record(bad);
  const CUlaunchConfig driver = DriverConfig(*config);
  return Record(Call(Driver().cuOccupancyMaxPotentialClusterSize)(size, loaded, &driver));
}

CUDART_CALL cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void* function,
                                                       const cudaLaunchConfig_t* config) {
  if (clusters == nullptr || config == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  CUfunction loaded = nullptr;
  if (const cudaError_t bad = FunctionOf(function, &loaded); bad != cudaSuccess) return Record(bad);
  const CUlaunchConfig driver = DriverConfig(*config);
  return Record(Call(Driver().cuOccupancyMaxActiveClusters)(clusters, loaded, &driver));
}

// Libraries.

CUDART_PASS(cudaLibraryLoadData, cuLibraryLoadData,
            (CUlibrary * library, const void* code, CUjit_option* jit_options, void** jit_values,
             unsigned int jit_count, CUlibraryOption* options, void** values, unsigned int count),
            (library, code, jit_options, jit_values, jit_count, options, values, count))
CUDART_PASS(cudaLibraryLoadFromFile, cuLibraryLoadFromFile,
            (CUlibrary * library, const char* file, CUjit_option* jit_options, void** jit_values,
             unsigned int jit_count, CUlibraryOption* options, void** values, unsigned int count),
            (library, file, jit_options, jit_values, jit_count, options, values, count))
CUDART_PASS(cudaLibraryGetKernelCount, cuLibraryGetKernelCount,
            (unsigned int* count, CUlibrary library), (count, library))
CUDART_PASS(cudaKernelSetAttributeForDevice, cuKernelSetAttribute,
            (CUkernel kernel, CUfunction_attribute attribute, int value, int device),
            (attribute, value, kernel, device))
CUDART_PASS(cudaLibraryGetUnifiedFunction, cuLibraryGetUnifiedFunction,
            (void** function, CUlibrary library, const char* symbol), (function, library, symbol))

CUDART_CALL cudaError_t cudaLibraryUnload(CUlibrary library) {
  CUDART_NEEDS_CONTEXT();
  const CUresult result = Call(Driver().cuLibraryUnload)(library);
  if (result == CUDA_SUCCESS) Forget(library);
  return Record(result);
}

CUDART_CALL cudaError_t cudaLibraryGetKernel(CUkernel* kernel, CUlibrary library,
                                             const char* name) {
  if (kernel == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  const CUresult result = Call(Driver().cuLibraryGetKernel)(kernel, library, name);
  if (result == CUDA_SUCCESS) Remember(*kernel, library);
  return Record(result);
}

CUDART_CALL cudaError_t cudaLibraryEnumerateKernels(CUkernel* kernels, unsigned int count,
                                                    CUlibrary library) {
  if (kernels == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  unsigned int all = 0;
  CUresult result = Call(Driver().cuLibraryGetKernelCount)(&all, library);
  if (result == CUDA_SUCCESS) {
    result = Call(Driver().cuLibraryEnumerateKernels)(kernels, count, library);
  }
  if (result == CUDA_SUCCESS) {
    for (unsigned int i = 0; i < count && i < all; ++i) Remember(kernels[i], library);
  }
  return Record(result);
}

CUDART_CALL cudaError_t cudaLibraryGetGlobal(void** pointer, size_t* bytes, CUlibrary library,
                                             const char* name) {
  CUDART_NEEDS_CONTEXT();
  return Record(Call(Driver().cuLibraryGetGlobal)(reinterpret_cast<CUdeviceptr*>(pointer), bytes,
                                                  library, name));
}

CUDART_CALL cudaError_t cudaLibraryGetManaged(void** pointer, size_t* bytes, CUlibrary library,
                                              const char* name) {
  CUDART_NEEDS_CONTEXT();
  return Record(Call(Driver().cuLibraryGetManaged)(reinterpret_cast<CUdeviceptr*>(pointer), bytes,
                                                   library, name));
}

}  // namespace simgpu::cudart
