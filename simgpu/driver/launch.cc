// Launches and occupancy.
#include <sched.h>
#include <string.h>

#include <algorithm>

#include "simgpu/driver/executor.h"
#include "simgpu/driver/module.h"

namespace simgpu {
namespace {

// What kernels of a context may touch: its device's allocations, managed memory, what peers and
// mappings opened to it, page-locked memory.
class KernelMemory : public ptx::Memory {
 public:
  KernelMemory(Driver* driver, Context* context) : driver_(driver), context_(context) {}

  bool Resolve(uint64_t address, ptx::MemoryRange* range) override {
    std::lock_guard guard(driver_->mutex);
    if (const Allocation* found = FindAllocation(*driver_, address)) {
      const uint32_t access = AccessOf(*driver_, context_, *found);
      if (access == 0) return false;
      *range = {found->base, found->capacity, found->host, access == 3};
      return true;
    }
    if (const HostRange* found = FindHost(*driver_, address)) {
      *range = {found->base, found->size, reinterpret_cast<uint8_t*>(found->base),
                (found->flags & CU_MEMHOSTREGISTER_READ_ONLY) == 0 || found->mapped != 0};
      return true;
    }
    return false;
  }
  uint64_t HeapAllocate(uint64_t bytes) override {
    return simgpu::HeapAllocate(driver_, context_, bytes);
  }
  bool HeapFree(uint64_t address) override { return simgpu::HeapFree(driver_, context_, address); }
  bool SetConditional(uint64_t handle, uint32_t value) override {
    return simgpu::SetConditional(handle, value);
  }

 private:
  Driver* const driver_;
  Context* const context_;
};

// Small launches run on one thread: starting helpers costs more than they save.
uint32_t Workers(const KernelAction& action) {
  const uint64_t threads = uint64_t{action.grid[0]} * action.grid[1] * action.grid[2] *
                           action.block[0] * action.block[1] * action.block[2];
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

int BlocksPerMultiprocessor(const Profile& profile, const ptx::KernelInfo& info, uint32_t threads,
                            uint64_t shared);

CUresult Launch(CUfunction handle, const LaunchShape& shape, CUstream stream, StreamForm form,
                void** parameters, void** extra) {
  SIMGPU_CURRENT(driver, context);
  KernelAction action;
  {
    std::lock_guard guard(driver->mutex);
    if (CUresult bad = MakeKernel(driver, context, handle, shape, parameters, extra, &action)) {
      return bad;
    }
  }
  return Put(stream, form, std::move(action));
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
  *blocks = BlocksPerMultiprocessor(profile, info, static_cast<uint32_t>(block_size), shared);
  return CUDA_SUCCESS;
}

int BlocksPerMultiprocessor(const Profile& profile, const ptx::KernelInfo& info, uint32_t threads,
                            uint64_t shared) {
  if (threads > std::min<uint32_t>(1024, info.max_threads)) return 0;
  const uint64_t warps = RoundUp(threads, 32) / 32;
  uint64_t most = std::min<uint64_t>(profile.blocks_per_sm, profile.threads_per_sm / (warps * 32));
  // Registers are given out per warp in units of 256.
  const uint64_t registers = RoundUp(std::max<uint32_t>(info.registers, 1) * 32, 256) * warps;
  most = std::min(most, profile.registers_per_sm / registers);
  const uint64_t reserved = profile.capability_major >= 8 ? 1024 : 0;
  const uint64_t per_block = info.static_shared_bytes + shared + reserved;
  if (shared + info.static_shared_bytes > profile.shared_per_block_optin) return 0;
  if (per_block > 0) most = std::min(most, profile.shared_per_sm / per_block);
  return static_cast<int>(most);
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

// The parts of a launch's attributes that change what it does.
CUresult LaunchEx(const CUlaunchConfig* config, CUfunction function, StreamForm form,
                  void** parameters, void** extra) {
  if (config == nullptr || (config->numAttrs > 0 && config->attrs == nullptr)) {
    return Get() == nullptr ? CUDA_ERROR_NOT_INITIALIZED : CUDA_ERROR_INVALID_VALUE;
  }
  LaunchShape shape{{config->gridDimX, config->gridDimY, config->gridDimZ},
                    {config->blockDimX, config->blockDimY, config->blockDimZ},
                    config->sharedMemBytes};
  for (unsigned int i = 0; i < config->numAttrs; ++i) {
    const CUlaunchAttribute& attribute = config->attrs[i];
    const auto& cluster = attribute.value.clusterDim;
    if (attribute.id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE) {
      shape.cooperative = attribute.value.cooperative != 0;
    }
    if (attribute.id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION &&
        uint64_t{cluster.x} * cluster.y * cluster.z > 1) {
      Say("clusters of blocks are not simulated");
      return CUDA_ERROR_NOT_SUPPORTED;
    }
    if (attribute.id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT ||
        attribute.id == CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT) {
      Say("events inside of launches are not simulated");
      return CUDA_ERROR_NOT_SUPPORTED;
    }
    // The rest are hints about order and placement, which any order that streams allow satisfies.
  }
  return Launch(function, shape, config->hStream, form, parameters, extra);
}

}  // namespace

CUresult MakeKernel(Driver* driver, Context* context, CUfunction handle, const LaunchShape& shape,
                    void** parameters, void** extra, KernelAction* action) {
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
    action->grid[i] = shape.grid[i];
    action->block[i] = shape.block[i];
    if (info.required_block[i] != 0 && info.required_block[i] != shape.block[i]) {
      return CUDA_ERROR_INVALID_VALUE;
    }
  }
  if (threads > 1024 || threads > info.max_threads ||
      shape.shared_bytes > DynamicSharedMax(profile, info, raised_to)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (!info.refusal.empty()) {
    Say(info.refusal);
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  if (shape.cooperative) {
    const uint64_t blocks = uint64_t{shape.grid[0]} * shape.grid[1] * shape.grid[2];
    const auto fit = static_cast<uint64_t>(BlocksPerMultiprocessor(
                         profile, info, static_cast<uint32_t>(threads), shape.shared_bytes)) *
                     profile.sm_count;
    if (blocks > std::min<uint64_t>(fit, ptx::kMaxCooperativeBlocks)) {
      return CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
    }
  }
  if (CUresult bad = PackParameters(info, parameters, extra, &action->params)) return bad;
  action->context = context;
  action->handle = handle;
  action->code = function->module->code;
  action->info = &info;
  action->shared_bytes = shape.shared_bytes;
  action->cooperative = shape.cooperative;
  return CUDA_SUCCESS;
}

KernelOutcome RunKernel(Command* command) {
  const auto& action = std::get<KernelAction>(command->action);
  Driver* driver = Get();
  const Profile& profile = driver->state->card(command->card).profile;
  KernelMemory memory(driver, command->context);
  ptx::LaunchConfig config;
  for (int i = 0; i < 3; ++i) {
    config.grid[i] = action.grid[i];
    config.block[i] = action.block[i];
  }
  config.dynamic_shared_bytes = action.shared_bytes;
  config.params = action.params.data();
  config.param_bytes = action.params.size();
  config.memory = &memory;
  config.cancel = &command->context->cancel;
  config.cooperative = action.cooperative;
  config.clock = [] { return Engine::NowNs(); };
  config.clock_khz = profile.clock_khz;
  config.workers = Workers(action);
  {
    std::lock_guard guard(driver->mutex);
    config.stack_bytes = std::max<uint32_t>(ptx::kDefaultStackBytes,
                                            static_cast<uint32_t>(command->context->limits[0]));
  }
  const ptx::LaunchResult result = action.code->Launch(action.info->name, config);
  KernelOutcome outcome;
  outcome.duration_ns =
      result.has_stated ? result.stated_ns : KernelNs(profile, result.instructions);
  if (result.status != ptx::Status::kOk && result.status != ptx::Status::kCancelled) {
    Say(result.message);
    outcome.result = static_cast<CUresult>(ptx::ToCudaError(result.status));
  }
  return outcome;
}

}  // namespace simgpu

namespace tessera::abi {
using namespace simgpu;  // NOLINT

extern "C" {

CUresult cuLaunchKernel(CUfunction function, unsigned int grid_x, unsigned int grid_y,
                        unsigned int grid_z, unsigned int block_x, unsigned int block_y,
                        unsigned int block_z, unsigned int shared, CUstream stream,
                        void** parameters, void** extra) {
  return Launch(function, {{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared, false},
                stream, StreamForm::kLegacy, parameters, extra);
}

CUresult cuLaunchKernel_ptsz(CUfunction function, unsigned int grid_x, unsigned int grid_y,
                             unsigned int grid_z, unsigned int block_x, unsigned int block_y,
                             unsigned int block_z, unsigned int shared, CUstream stream,
                             void** parameters, void** extra) {
  return Launch(function, {{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared, false},
                stream, StreamForm::kPerThread, parameters, extra);
}

CUresult cuLaunchCooperativeKernel(CUfunction function, unsigned int grid_x, unsigned int grid_y,
                                   unsigned int grid_z, unsigned int block_x, unsigned int block_y,
                                   unsigned int block_z, unsigned int shared, CUstream stream,
                                   void** parameters) {
  return Launch(function, {{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared, true},
                stream, StreamForm::kLegacy, parameters, nullptr);
}

CUresult cuLaunchCooperativeKernel_ptsz(CUfunction function, unsigned int grid_x,
                                        unsigned int grid_y, unsigned int grid_z,
                                        unsigned int block_x, unsigned int block_y,
                                        unsigned int block_z, unsigned int shared, CUstream stream,
                                        void** parameters) {
  return Launch(function, {{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared, true},
                stream, StreamForm::kPerThread, parameters, nullptr);
}

CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** parameters,
                          void** extra) {
  return LaunchEx(config, function, StreamForm::kLegacy, parameters, extra);
}

CUresult cuLaunchKernelEx_ptsz(const CUlaunchConfig* config, CUfunction function, void** parameters,
                               void** extra) {
  return LaunchEx(config, function, StreamForm::kPerThread, parameters, extra);
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

}  // namespace tessera::abi
