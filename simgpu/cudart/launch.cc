// Kernels: configuring, launching, asking about them.
#include <vector>

#include "simgpu/cudart/driver.h"
#include "simgpu/cudart/registry.h"
#include "simgpu/cudart/runtime.h"

namespace simgpu::cudart {
namespace {

// What <<<...>>> pushed and the host stub has not popped yet. Stubs nest when an argument's
// constructor launches.
struct Configuration {
  dim3 grid;
  dim3 block;
  size_t shared_bytes;
  CUstream stream;
};
constexpr std::size_t kConfigurationsMax = 64;
thread_local std::vector<Configuration>* configurations = nullptr;

bool IsEmpty(const dim3& size) { return size.x == 0 || size.y == 0 || size.z == 0; }

cudaError_t Launch(Kernel* kernel, const dim3& grid, const dim3& block, void** arguments,
                   size_t shared_bytes, CUstream stream, bool cooperative) {
  CUDART_NEEDS_CONTEXT();
  if (kernel == nullptr) return Record(cudaErrorInvalidDeviceFunction);
  if (IsEmpty(grid) || IsEmpty(block) || shared_bytes > 0xffffffffu) {
    return Record(cudaErrorInvalidConfiguration);
  }
  CUkernel handle = nullptr;
  if (const cudaError_t bad = Resolve(kernel, &handle); bad != cudaSuccess) return Record(bad);
  // The driver takes a kernel's handle where it takes a function's.
  const auto function = reinterpret_cast<CUfunction>(handle);
  const auto bytes = static_cast<unsigned int>(shared_bytes);
  const CUresult result = cooperative
                              ? Call(Driver().LaunchCooperativeKernel, function, grid.x, grid.y,
                                     grid.z, block.x, block.y, block.z, bytes, stream, arguments)
                              : Call(Driver().LaunchKernel, function, grid.x, grid.y, grid.z,
                                     block.x, block.y, block.z, bytes, stream, arguments, nullptr);
  // With the kernel found, an invalid value can only be the shape of the launch.
  return Record(result == CUDA_ERROR_INVALID_VALUE ? cudaErrorInvalidConfiguration
                                                   : static_cast<cudaError_t>(result));
}

// A stub's address, or a handle given out by __cudaGetKernel.
Kernel* Find(const void* function) {
  Kernel* const kernel = FindKernel(function);
  return kernel != nullptr ? kernel : KernelOf(function);
}

cudaError_t Handle(const void* function, CUkernel* handle) {
  Kernel* const kernel = Find(function);
  if (kernel == nullptr) return cudaErrorInvalidDeviceFunction;
  return Resolve(kernel, handle);
}

}  // namespace

CUDART_CALL unsigned int __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes,
                                                     CUstream stream) {
  if (configurations == nullptr) configurations = new std::vector<Configuration>;
  if (configurations->size() == kConfigurationsMax) {
    return Record(cudaErrorInvalidConfiguration);
  }
  configurations->push_back({grid, block, shared_bytes, stream});
  return cudaSuccess;
}

CUDART_CALL cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared_bytes,
                                                   void* stream) {
  if (configurations == nullptr || configurations->empty()) {
    return Record(cudaErrorMissingConfiguration);
  }
  const Configuration top = configurations->back();
  configurations->pop_back();
  *grid = top.grid;
  *block = top.block;
  *shared_bytes = top.shared_bytes;
  *static_cast<CUstream*>(stream) = top.stream;
  return cudaSuccess;
}

// The handle stands for the kernel on any device, so nothing is loaded yet.
CUDART_CALL cudaError_t __cudaGetKernel(void** handle, const void* host_function) {
  Kernel* const kernel = FindKernel(host_function);
  if (kernel == nullptr) return Record(cudaErrorInvalidDeviceFunction);
  *handle = kernel;
  return cudaSuccess;
}

CUDART_CALL cudaError_t __cudaLaunchKernel(void* handle, dim3 grid, dim3 block, void** arguments,
                                           size_t shared_bytes, CUstream stream) {
  return Launch(KernelOf(handle), grid, block, arguments, shared_bytes, stream, false);
}

CUDART_CALL cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block,
                                         void** arguments, size_t shared_bytes, CUstream stream) {
  return Launch(Find(function), grid, block, arguments, shared_bytes, stream, false);
}

CUDART_CALL cudaError_t cudaLaunchCooperativeKernel(const void* function, dim3 grid, dim3 block,
                                                    void** arguments, size_t shared_bytes,
                                                    CUstream stream) {
  return Launch(Find(function), grid, block, arguments, shared_bytes, stream, true);
}

CUDART_CALL cudaError_t cudaLaunchHostFunc(CUstream stream, CUhostFn function, void* user_data) {
  CUDART_NEEDS_CONTEXT();
  return Record(Call(Driver().LaunchHostFunc, stream, function, user_data));
}

CUDART_CALL cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes,
                                              const void* function) {
  if (attributes == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  CUkernel kernel = nullptr;
  if (const cudaError_t bad = Handle(function, &kernel); bad != cudaSuccess) return Record(bad);
  *attributes = {};
  CUresult worst = CUDA_SUCCESS;
  const auto get = [&](auto* field, CUfunction_attribute attribute, bool needed) {
    int value = 0;
    const CUresult result =
        Call(Driver().KernelGetAttribute, &value, attribute, kernel, CurrentDevice());
    if (result == CUDA_SUCCESS) {
      *field = static_cast<std::remove_reference_t<decltype(*field)>>(value);
    } else if (needed && worst == CUDA_SUCCESS) {
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
  return Record(worst);
}

// The runtime's settable attributes have the driver's numbers.
CUDART_CALL cudaError_t cudaFuncSetAttribute(const void* function, unsigned int attribute,
                                             int value) {
  CUDART_NEEDS_CONTEXT();
  CUkernel kernel = nullptr;
  if (const cudaError_t bad = Handle(function, &kernel); bad != cudaSuccess) return Record(bad);
  return Record(Call(Driver().KernelSetAttribute, static_cast<CUfunction_attribute>(attribute),
                     value, kernel, CurrentDevice()));
}

CUDART_CALL cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    int* blocks, const void* function, int block_size, size_t shared_bytes, unsigned int flags) {
  if (blocks == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  CUkernel kernel = nullptr;
  if (const cudaError_t bad = Handle(function, &kernel); bad != cudaSuccess) return Record(bad);
  CUfunction loaded = nullptr;
  CUresult result = Call(Driver().KernelGetFunction, &loaded, kernel);
  if (result == CUDA_SUCCESS) {
    result = Call(Driver().Occupancy, blocks, loaded, block_size, shared_bytes, flags);
  }
  return Record(result);
}

CUDART_CALL cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks,
                                                                      const void* function,
                                                                      int block_size,
                                                                      size_t shared_bytes) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, block_size,
                                                                shared_bytes, 0);
}

}  // namespace simgpu::cudart
