// A plain CUDA program that knows nothing of Tessera and does what its standard input says, one
// answer a line: for the tests of the guest on the software GPU.
#include <dlfcn.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "abi/cuda.h"
#include "abi/nvml.h"

using namespace tessera::abi;

namespace {

void* g_cuda = nullptr;
void* g_nvml = nullptr;

template <typename... Arguments>
unsigned Call(void* library, const char* name, Arguments... arguments) {
  auto* function = reinterpret_cast<unsigned (*)(Arguments...)>(dlsym(library, name));
  return function == nullptr ? 9999 : function(arguments...);
}
template <typename... Arguments>
unsigned Cuda(const char* name, Arguments... arguments) {
  return Call(g_cuda, name, arguments...);
}
template <typename... Arguments>
unsigned Nvml(const char* name, Arguments... arguments) {
  return Call(g_nvml, name, arguments...);
}

constexpr char kStated[] = R"(
.version 8.0
.target sm_70
.address_size 64
.visible .entry stated(.param .u64 time) {
  .pragma "simgpu.time_ns param0";
  ret;
}
)";

// One thread is inside a copy of `bytes` for a while; meanwhile another launches one long kernel in
// each of as many streams as can be marked at a time.
unsigned LaunchesDuringACopy(unsigned long long bytes) {
  CUcontext context = nullptr;
  CUmodule module = nullptr;
  CUfunction kernel = nullptr;
  CUdeviceptr to = 0;
  unsigned wrong = Cuda("cuCtxGetCurrent", &context);
  wrong += Cuda("cuModuleLoadData", &module, static_cast<const void*>(kStated));
  wrong += Cuda("cuModuleGetFunction", &kernel, module, "stated");
  wrong += Cuda("cuMemAlloc_v2", &to, static_cast<size_t>(bytes));
  std::vector<CUstream> streams(32);
  for (CUstream& stream : streams) wrong += Cuda("cuStreamCreate", &stream, 1u);
  const auto launch = [&](CUstream stream) {
    unsigned long long nanos = 20'000'000;
    void* parameters[] = {&nanos};
    wrong += Cuda("cuLaunchKernel", kernel, 1u, 1u, 1u, 1u, 1u, 1u, 0u, stream,
                  static_cast<void**>(parameters), static_cast<void**>(nullptr));
  };
  // The guest learns how long this kernel is, and so lets many of them into its window at a time.
  for (int i = 0; i < 8; ++i) {
    launch(streams[0]);
    wrong += Cuda("cuStreamSynchronize", streams[0]);
  }
  const std::vector<char> from(bytes);
  std::atomic<unsigned> of_copy{0};
  std::thread copy([&] {
    of_copy += Cuda("cuCtxSetCurrent", context);
    of_copy += Cuda("cuMemcpyHtoD_v2", to, static_cast<const void*>(from.data()), from.size());
  });
  usleep(3000);
  for (CUstream stream : streams) launch(stream);
  copy.join();
  wrong += of_copy + Cuda("cuCtxSynchronize");
  for (CUstream stream : streams) wrong += Cuda("cuStreamDestroy_v2", stream);
  wrong += Cuda("cuMemFree_v2", to) + Cuda("cuModuleUnload", module);
  return wrong;
}

}  // namespace

// The first argument is the driver to open, by name or path; the second says how.
int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  const char* const driver = argc > 1 ? argv[1] : "libcuda.so.1";
  const std::string how = argc > 2 ? argv[2] : "";
  if (how == "namespace") {
    g_cuda = dlmopen(LM_ID_NEWLM, driver, RTLD_NOW);
  } else {
    g_cuda = dlopen(driver, how == "deepbind" ? RTLD_NOW | RTLD_DEEPBIND : RTLD_NOW);
  }
  g_nvml = dlopen("libnvidia-ml.so.1", RTLD_NOW);
  std::vector<CUdeviceptr> held;
  std::vector<CUcontext> contexts;
  std::vector<CUarray> arrays;
  std::vector<CUmemGenericAllocationHandle> handles;
  char word[64];
  unsigned long long n = 0;
  while (std::scanf("%63s %llu", word, &n) == 2) {
    const std::string command = word;
    unsigned code = 0;
    unsigned long long a = 0, b = 0;
    if (command == "init") {
      code = Cuda("cuInit", 0u);
    } else if (command == "count") {
      int count = 0;
      code = Cuda("cuDeviceGetCount", &count);
      a = static_cast<unsigned long long>(count);
    } else if (command == "retain") {
      CUcontext context = nullptr;
      code = Cuda("cuDevicePrimaryCtxRetain", &context, static_cast<int>(n));
      if (code == 0) code = Cuda("cuCtxSetCurrent", context);
    } else if (command == "release") {
      code = Cuda("cuDevicePrimaryCtxRelease_v2", static_cast<int>(n));
    } else if (command == "reset") {
      code = Cuda("cuDevicePrimaryCtxReset_v2", static_cast<int>(n));
      held.clear();
    } else if (command == "create") {
      CUcontext context = nullptr;
      code = Cuda("cuCtxCreate_v2", &context, 0u, static_cast<int>(n));
      if (code == 0) contexts.push_back(context);
    } else if (command == "destroy") {
      code = Cuda("cuCtxDestroy_v2", contexts.back());
      contexts.pop_back();
    } else if (command == "alloc") {
      CUdeviceptr pointer = 0;
      code = Cuda("cuMemAlloc_v2", &pointer, static_cast<size_t>(n));
      if (code == 0) held.push_back(pointer);
    } else if (command == "async") {
      CUdeviceptr pointer = 0;
      code =
          Cuda("cuMemAllocAsync", &pointer, static_cast<size_t>(n), static_cast<CUstream>(nullptr));
      if (code == 0) held.push_back(pointer);
    } else if (command == "managed") {
      CUdeviceptr pointer = 0;
      code = Cuda("cuMemAllocManaged", &pointer, static_cast<size_t>(n), 1u);
      if (code == 0) held.push_back(pointer);
    } else if (command == "array") {
      CUarray array = nullptr;
      const CUDA_ARRAY_DESCRIPTOR wanted = {static_cast<size_t>(n), 1, CU_AD_FORMAT_UNSIGNED_INT8,
                                            1};
      code = Cuda("cuArrayCreate_v2", &array, &wanted);
      if (code == 0) arrays.push_back(array);
    } else if (command == "unarray") {
      // The n-th but last.
      const auto at = arrays.end() - 1 - static_cast<std::ptrdiff_t>(n);
      code = Cuda("cuArrayDestroy", *at);
      arrays.erase(at);
    } else if (command == "pitch") {
      CUdeviceptr pointer = 0;
      size_t pitch = 0;
      code = Cuda("cuMemAllocPitch_v2", &pointer, &pitch, static_cast<size_t>(n), size_t{1000}, 4u);
      if (code == 0) held.push_back(pointer);
      a = pitch;
    } else if (command == "free") {
      for (; n > 0 && !held.empty() && code == 0; --n) {
        code = Cuda("cuMemFree_v2", held.back());
        held.pop_back();
      }
    } else if (command == "sync") {
      code = Cuda("cuCtxSynchronize");
    } else if (command == "memset") {
      code =
          Cuda("cuMemsetD8_v2", held.back(), static_cast<unsigned char>(1), static_cast<size_t>(n));
    } else if (command == "launches") {
      code = LaunchesDuringACopy(n);
    } else if (command == "stranger") {
      code = Cuda("cuMemFree_v2", CUdeviceptr{n});
    } else if (command == "info") {
      size_t free = 0, total = 0;
      code = Cuda("cuMemGetInfo_v2", &free, &total);
      a = free;
      b = total;
    } else if (command == "total") {
      size_t total = 0;
      code = Cuda("cuDeviceTotalMem_v2", &total, static_cast<int>(n));
      a = total;
    } else if (command == "physical") {
      CUmemAllocationProp prop = {};
      prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
      prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
      CUmemGenericAllocationHandle handle = 0;
      code = Cuda("cuMemCreate", &handle, static_cast<size_t>(n), &prop, 0ull);
      if (code == 0) handles.push_back(handle);
    } else if (command == "unphysical") {
      code = Cuda("cuMemRelease", handles.back());
      handles.pop_back();
    } else if (command == "random") {
      // `n` random allocations and frees; a: refusals, b: anything else that went wrong.
      std::mt19937_64 random(n);
      std::vector<CUdeviceptr> live;
      for (unsigned long long i = 0; i < 20000; ++i) {
        if (random() % 100 < 55) {
          const size_t bytes =
              random() % 4 == 0 ? 1 + random() % (24u << 20) : 1 + random() % 100000;
          CUdeviceptr pointer = 0;
          const unsigned result = Cuda("cuMemAlloc_v2", &pointer, bytes);
          if (result == 0) live.push_back(pointer);
          a += result == 2;
          b += result != 0 && result != 2;
        } else if (!live.empty()) {
          std::swap(live[random() % live.size()], live.back());
          b += Cuda("cuMemFree_v2", live.back()) != 0;
          live.pop_back();
        }
      }
      for (CUdeviceptr pointer : live) b += Cuda("cuMemFree_v2", pointer) != 0;
    } else if (command == "nvml") {
      unsigned count = 0;
      code = Nvml("nvmlInit_v2");
      if (code == 0) code = Nvml("nvmlDeviceGetCount_v2", &count);
      a = count;
    } else if (command == "nvmlmemory") {
      nvmlDevice_t device = nullptr;
      nvmlMemory_t memory = {};
      code = Nvml("nvmlDeviceGetHandleByIndex_v2", static_cast<unsigned>(n), &device);
      if (code == 0) code = Nvml("nvmlDeviceGetMemoryInfo", device, &memory);
      a = memory.used;
      b = memory.total;
    } else if (command == "nvmlprocesses") {
      nvmlDevice_t device = nullptr;
      nvmlProcessInfo_v2_t list[16] = {};
      unsigned count = 16;
      code = Nvml("nvmlDeviceGetHandleByIndex_v2", static_cast<unsigned>(n), &device);
      if (code == 0) code = Nvml("nvmlDeviceGetComputeRunningProcesses_v3", device, &count, list);
      a = count;
      b = list[0].usedGpuMemory;
    } else if (command == "nvmlbusy") {
      // a: the card's figure, b: the sum over the listed processes.
      nvmlDevice_t device = nullptr;
      nvmlUtilization_t rates = {};
      nvmlProcessUtilizationSample_t list[16] = {};
      unsigned count = 16;
      code = Nvml("nvmlDeviceGetHandleByIndex_v2", static_cast<unsigned>(n), &device);
      if (code == 0) code = Nvml("nvmlDeviceGetUtilizationRates", device, &rates);
      if (code == 0) {
        const unsigned listed = Nvml("nvmlDeviceGetProcessUtilization", device, list, &count, 0ull);
        for (unsigned i = 0; listed == 0 && i < count && i < 16; ++i) b += list[i].smUtil;
      }
      a = rates.gpu;
    } else if (command == "nvmlset") {
      nvmlDevice_t device = nullptr;
      code = Nvml("nvmlDeviceGetHandleByIndex_v2", 0u, &device);
      if (code == 0) code = Nvml("nvmlDeviceSetPersistenceMode", device, 1u);
    } else {
      code = 8888;
    }
    std::printf("%u %llu %llu\n", code, a, b);
  }
  return 0;
}
