// Launches and occupancy.
#include <sched.h>
#include <string.h>

#include <algorithm>

#include "simgpu/driver/module.h"

namespace simgpu {
namespace {

// What kernels of one device may touch: its allocations, managed memory of all, page-locked memory.
class KernelMemory : public ptx::Memory {
 public:
  KernelMemory(Driver* driver, int device) : driver_(driver), device_(device) {}

  bool Resolve(uint64_t address, ptx::MemoryRange* range) override {
    std::lock_guard guard(driver_->mutex);
    if (const Allocation* found = FindAllocation(*driver_, address)) {
      if (found->device != device_ && found->memory_kind != MemoryKind::kManaged) return false;
      *range = {found->base, found->capacity,
                driver_->devices[found->device]->arena->Host(found->base), true};
      return true;
    }
    if (const HostRange* found = FindHost(*driver_, address)) {
      *range = {found->base, found->size, reinterpret_cast<uint8_t*>(found->base),
                (found->flags & CU_MEMHOSTREGISTER_READ_ONLY) == 0 || found->mapped != 0};
      return true;
    }
    return false;
  }

 private:
  Driver* const driver_;
  const int device_;
};

struct Shape {
  unsigned int grid[3];
  unsigned int block[3];
  unsigned int shared;
};

// Small launches run on the calling thread: starting helpers costs more than they save.
uint32_t Workers(const Shape& shape) {
  const uint64_t threads = uint64_t{shape.grid[0]} * shape.grid[1] * shape.grid[2] *
                           shape.block[0] * shape.block[1] * shape.block[2];
  if (threads < 16384) return 1;
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return std::clamp<uint32_t>(CPU_COUNT(&set), 1, 16);
}

// The parameter buffer from either form of cuLaunchKernel.
CUresult PackParameters(const ptx::KernelInfo& info, void** parameters, void** extra,
                        std::vector<uint8_t>* buffer) {
  buffer->assign(info.param_bytes, 0);
  if (parameters != nullptr && extra != nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (extra != nullptr) {
    const void* data = nullptr;
    const size_t* size = nullptr;
    for (void** at = extra; reinterpret_cast<uint64_t>(*at) != kLaunchParamEnd; at += 2) {
      if (reinterpret_cast<uint64_t>(*at) == kLaunchParamBufferPointer) {
        data = at[1];
      } else if (reinterpret_cast<uint64_t>(*at) == kLaunchParamBufferSize) {
        size = static_cast<const size_t*>(at[1]);
      } else {
        return CUDA_ERROR_INVALID_VALUE;
      }
    }
    if (info.param_bytes == 0) return CUDA_SUCCESS;
    if (data == nullptr || size == nullptr || *size < info.param_bytes) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    memcpy(buffer->data(), data, info.param_bytes);
    return CUDA_SUCCESS;
  }
  if (info.params.empty()) return CUDA_SUCCESS;
  if (parameters == nullptr) return CUDA_ERROR_INVALID_VALUE;
  for (size_t i = 0; i < info.params.size(); ++i) {
    if (parameters[i] == nullptr) return CUDA_ERROR_INVALID_VALUE;
    memcpy(buffer->data() + info.params[i].offset, parameters[i], info.params[i].size);
  }
  return CUDA_SUCCESS;
}

CUresult Launch(CUfunction handle, const Shape& shape, CUstream stream, void** parameters,
                void** extra) {
  SIMGPU_CURRENT(driver, context);
  std::shared_ptr<ptx::Module> code;
  std::string name;
  std::vector<uint8_t> buffer;
  ptx::LaunchConfig config;
  {
    std::lock_guard guard(driver->mutex);
    if (!StreamOk(*driver, stream)) return CUDA_ERROR_INVALID_HANDLE;
    if (auto* given = Live<Stream>(*driver, stream, Kind::kStream);
        given != nullptr && given->context != context) {
      return CUDA_ERROR_INVALID_HANDLE;
    }
    Function* function = nullptr;
    int raised_to = 0;
    if (CUresult bad = FunctionOf(driver, context, handle, &function, &raised_to)) return bad;
    if (function->module->context != context) return CUDA_ERROR_INVALID_CONTEXT;
    const ptx::KernelInfo& info = *function->info;
    const Profile& profile = CardOf(*driver, context->device).profile;
    constexpr unsigned int kGridMax[3] = {2147483647, 65535, 65535};
    constexpr unsigned int kBlockMax[3] = {1024, 1024, 64};
    uint64_t threads = 1;
    for (int i = 0; i < 3; ++i) {
      if (shape.grid[i] == 0 || shape.grid[i] > kGridMax[i] || shape.block[i] == 0 ||
          shape.block[i] > kBlockMax[i]) {
        return CUDA_ERROR_INVALID_VALUE;
      }
      threads *= shape.block[i];
      config.grid[i] = shape.grid[i];
      config.block[i] = shape.block[i];
    }
    if (threads > 1024 || threads > info.max_threads ||
        shape.shared > DynamicSharedMax(profile, info, raised_to)) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    if (CUresult bad = PackParameters(info, parameters, extra, &buffer)) return bad;
    code = function->module->code;
    name = info.name;
    config.stack_bytes =
        std::max<uint32_t>(ptx::kDefaultStackBytes, static_cast<uint32_t>(context->limits[0]));
  }
  KernelMemory memory(driver, context->device);
  config.dynamic_shared_bytes = shape.shared;
  config.params = buffer.data();
  config.param_bytes = buffer.size();
  config.memory = &memory;
  config.workers = Workers(shape);
  const uint32_t card = driver->devices[context->device]->card;
  driver->state->BeginWork(card);
  const ptx::LaunchResult result = code->Launch(name, config);
  driver->state->EndWork(card);
  switch (result.status) {
    case ptx::Status::kOk:
      return CUDA_SUCCESS;
    case ptx::Status::kInvalidValue:
    case ptx::Status::kUnsupported:
      // The launch never began, so nothing sticks.
      Say(result.message);
      return static_cast<CUresult>(ptx::ToCudaError(result.status));
    default:
      // As on a card: the launch itself succeeds, and the fault is what every later call answers.
      Say(result.message);
      context->sticky.store(static_cast<unsigned int>(ptx::ToCudaError(result.status)));
      return CUDA_SUCCESS;
  }
}

// How many blocks of a kernel one multiprocessor holds.
CUresult Occupancy(int* blocks, CUfunction handle, int block_size, size_t shared) {
  SIMGPU_CURRENT(driver, context);
  if (blocks == nullptr || block_size <= 0) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  Function* function = nullptr;
  int raised_to = 0;
  if (CUresult bad = FunctionOf(driver, context, handle, &function, &raised_to)) return bad;
  const Profile& profile = CardOf(*driver, context->device).profile;
  const ptx::KernelInfo& info = *function->info;
  *blocks = 0;
  if (static_cast<uint32_t>(block_size) > std::min<uint32_t>(1024, info.max_threads)) {
    return CUDA_SUCCESS;
  }
  const uint64_t warps = RoundUp(block_size, 32) / 32;
  uint64_t most = std::min<uint64_t>(profile.blocks_per_sm, profile.threads_per_sm / (warps * 32));
  // Registers are given out per warp in units of 256.
  const uint64_t registers = RoundUp(std::max<uint32_t>(info.registers, 1) * 32, 256) * warps;
  most = std::min(most, profile.registers_per_sm / registers);
  const uint64_t reserved = profile.capability_major >= 8 ? 1024 : 0;
  const uint64_t per_block = info.static_shared_bytes + shared + reserved;
  if (shared + info.static_shared_bytes > profile.shared_per_block_optin) {
    most = 0;
  } else if (per_block > 0) {
    most = std::min(most, profile.shared_per_sm / per_block);
  }
  *blocks = static_cast<int>(most);
  return CUDA_SUCCESS;
}

CUresult BestBlockSize(int* grid, int* block, CUfunction handle, CUoccupancyB2DSize shared_of,
                       size_t shared, int limit) {
  SIMGPU_CURRENT(driver, context);
  if (grid == nullptr || block == nullptr || limit < 0) return CUDA_ERROR_INVALID_VALUE;
  const int top = limit == 0 || limit > 1024 ? 1024 : limit;
  const int sms = static_cast<int>(CardOf(*driver, context->device).profile.sm_count);
  int best = 0;
  *grid = *block = 0;
  for (int size = static_cast<int>(RoundUp(top, 32)); size > 0; size -= 32) {
    const int tried = std::min(size, top);
    int blocks = 0;
    if (CUresult bad =
            Occupancy(&blocks, handle, tried, shared_of != nullptr ? shared_of(tried) : shared)) {
      return bad;
    }
    if (blocks * tried <= best) continue;
    best = blocks * tried;
    *block = tried;
    *grid = blocks * sms;
  }
  return CUDA_SUCCESS;
}

}  // namespace
}  // namespace simgpu

namespace tessera::abi {
using namespace simgpu;  // NOLINT

extern "C" {

CUresult cuLaunchKernel(CUfunction function, unsigned int grid_x, unsigned int grid_y,
                        unsigned int grid_z, unsigned int block_x, unsigned int block_y,
                        unsigned int block_z, unsigned int shared, CUstream stream,
                        void** parameters, void** extra) {
  return Launch(function, {{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared}, stream,
                parameters, extra);
}

CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** parameters,
                          void** extra) {
  if (config == nullptr || (config->numAttrs > 0 && config->attrs == nullptr)) {
    return Get() == nullptr ? CUDA_ERROR_NOT_INITIALIZED : CUDA_ERROR_INVALID_VALUE;
  }
  for (unsigned int i = 0; i < config->numAttrs; ++i) {
    const CUlaunchAttribute& attribute = config->attrs[i];
    const auto& cluster = attribute.value.clusterDim;
    if (attribute.id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE && attribute.value.cooperative != 0) {
      Say("cooperative launches are not simulated");
      return CUDA_ERROR_NOT_SUPPORTED;
    }
    if (attribute.id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION &&
        uint64_t{cluster.x} * cluster.y * cluster.z > 1) {
      Say("clusters of blocks are not simulated");
      return CUDA_ERROR_NOT_SUPPORTED;
    }
    // The rest are hints about order and placement, which running in line satisfies.
  }
  return Launch(function,
                {{config->gridDimX, config->gridDimY, config->gridDimZ},
                 {config->blockDimX, config->blockDimY, config->blockDimZ},
                 config->sharedMemBytes},
                config->hStream, parameters, extra);
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction function,
                                                     int block_size, size_t shared) {
  return Occupancy(blocks, function, block_size, shared);
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, CUfunction function,
                                                              int block_size, size_t shared,
                                                              unsigned int flags) {
  if (flags > 1) return CUDA_ERROR_INVALID_VALUE;
  return Occupancy(blocks, function, block_size, shared);
}

CUresult cuOccupancyMaxPotentialBlockSize(int* grid, int* block, CUfunction function,
                                          CUoccupancyB2DSize shared_of, size_t shared, int limit) {
  return BestBlockSize(grid, block, function, shared_of, shared, limit);
}

CUresult cuOccupancyMaxPotentialBlockSizeWithFlags(int* grid, int* block, CUfunction function,
                                                   CUoccupancyB2DSize shared_of, size_t shared,
                                                   int limit, unsigned int flags) {
  if (flags > 1) return CUDA_ERROR_INVALID_VALUE;
  return BestBlockSize(grid, block, function, shared_of, shared, limit);
}

}  // extern "C"

SIMGPU_ALIAS(cuLaunchKernel, cuLaunchKernel_ptsz);
SIMGPU_ALIAS(cuLaunchKernelEx, cuLaunchKernelEx_ptsz);

}  // namespace tessera::abi
