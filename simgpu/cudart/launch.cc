// Kernels: configuring and launching them, and host functions between them.
#include <vector>

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

bool Fits(const dim3& size, CUdevice_attribute first, int device) {
  const unsigned int sizes[3] = {size.x, size.y, size.z};
  for (int i = 0; i < 3; ++i) {
    int most = 0;
    const auto attribute = static_cast<CUdevice_attribute>(first + i);
    if (Call(Driver().cuDeviceGetAttribute)(&most, attribute, device) != CUDA_SUCCESS) return true;
    if (sizes[i] > static_cast<unsigned int>(most)) return false;
  }
  return true;
}

// A shape that no launch on the device may have is the runtime's own error; the driver has one
// error for that and for everything else it finds invalid.
cudaError_t RecordLaunch(CUresult result, const dim3& grid, const dim3& block) {
  if (result != CUDA_ERROR_INVALID_VALUE) return Record(result);
  const int device = CurrentDevice();
  int threads = 0;
  Call(Driver().cuDeviceGetAttribute)(&threads, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, device);
  const bool fits = Fits(grid, CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, device) &&
                    Fits(block, CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, device) &&
                    size_t{block.x} * block.y * block.z <= static_cast<size_t>(threads);
  return Record(fits ? cudaErrorInvalidValue : cudaErrorInvalidConfiguration);
}

// The driver takes a kernel's handle where it takes a function's.
cudaError_t Prepare(const void* function, const dim3& grid, const dim3& block, size_t shared_bytes,
                    CUfunction* handle) {
  if (const cudaError_t bad = EnsureContext(); bad != cudaSuccess) return bad;
  CUkernel kernel = nullptr;
  if (const cudaError_t bad = KernelOf(function, &kernel); bad != cudaSuccess) return bad;
  if (IsEmpty(grid) || IsEmpty(block) || shared_bytes > 0xffffffffu) {
    return cudaErrorInvalidConfiguration;
  }
  *handle = reinterpret_cast<CUfunction>(kernel);
  return cudaSuccess;
}

cudaError_t Launch(const void* function, const dim3& grid, const dim3& block, void** arguments,
                   size_t shared_bytes, CUstream stream) {
  CUfunction handle = nullptr;
  const cudaError_t bad = Prepare(function, grid, block, shared_bytes, &handle);
  if (bad != cudaSuccess) return Record(bad);
  const CUresult result = Call(Driver().cuLaunchKernel)(
      handle, grid.x, grid.y, grid.z, block.x, block.y, block.z,
      static_cast<unsigned int>(shared_bytes), stream, arguments, nullptr);
  return RecordLaunch(result, grid, block);
}

cudaError_t LaunchCooperative(const void* function, const dim3& grid, const dim3& block,
                              void** arguments, size_t shared_bytes, CUstream stream) {
  CUfunction handle = nullptr;
  const cudaError_t bad = Prepare(function, grid, block, shared_bytes, &handle);
  if (bad != cudaSuccess) return Record(bad);
  const CUresult result = Call(Driver().cuLaunchCooperativeKernel)(
      handle, grid.x, grid.y, grid.z, block.x, block.y, block.z,
      static_cast<unsigned int>(shared_bytes), stream, arguments);
  return RecordLaunch(result, grid, block);
}

cudaError_t LaunchExtended(const cudaLaunchConfig_t* config, const void* function, void** arguments,
                           Form form) {
  if (config == nullptr) return Record(cudaErrorInvalidConfiguration);
  CUfunction handle = nullptr;
  const cudaError_t bad =
      Prepare(function, config->gridDim, config->blockDim, config->dynamicSmemBytes, &handle);
  if (bad != cudaSuccess) return Record(bad);
  CUlaunchConfig driver = {};
  driver.gridDimX = config->gridDim.x;
  driver.gridDimY = config->gridDim.y;
  driver.gridDimZ = config->gridDim.z;
  driver.blockDimX = config->blockDim.x;
  driver.blockDimY = config->blockDim.y;
  driver.blockDimZ = config->blockDim.z;
  driver.sharedMemBytes = static_cast<unsigned int>(config->dynamicSmemBytes);
  driver.hStream = form == Form::kPerThread ? OwnStream(config->stream) : config->stream;
  driver.attrs = config->attrs;
  driver.numAttrs = config->numAttrs;
  const CUresult result = Call(Driver().cuLaunchKernelEx)(&driver, handle, arguments, nullptr);
  return RecordLaunch(result, config->gridDim, config->blockDim);
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

CUDART_BOTH_STREAM(__cudaLaunchKernel, Launch,
                   (const void* function, dim3 grid, dim3 block, void** arguments,
                    size_t shared_bytes, CUstream stream),
                   (function, grid, block, arguments, shared_bytes, stream))
CUDART_BOTH_STREAM(cudaLaunchKernel, Launch,
                   (const void* function, dim3 grid, dim3 block, void** arguments,
                    size_t shared_bytes, CUstream stream),
                   (function, grid, block, arguments, shared_bytes, stream))
CUDART_BOTH_STREAM(cudaLaunchCooperativeKernel, LaunchCooperative,
                   (const void* function, dim3 grid, dim3 block, void** arguments,
                    size_t shared_bytes, CUstream stream),
                   (function, grid, block, arguments, shared_bytes, stream))

CUDART_CALL cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function,
                                            void** arguments) {
  return LaunchExtended(config, function, arguments, Form::kLegacy);
}
CUDART_CALL cudaError_t cudaLaunchKernelExC_ptsz(const cudaLaunchConfig_t* config,
                                                 const void* function, void** arguments) {
  return LaunchExtended(config, function, arguments, Form::kPerThread);
}

CUDART_PASS_STREAM(cudaLaunchHostFunc, cuLaunchHostFunc,
                   (CUstream stream, CUhostFn function, void* user_data),
                   (stream, function, user_data))

}  // namespace simgpu::cudart
