// A plain CUDA program that does what brought another shim down: for defects_test.cc. Its argument
// says what; it prints one line of numbers, all of which are explained there, and waits for a line.
#include <dlfcn.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "abi/cuda.h"
#include "guest/testdata/calls.h"

using namespace tessera::abi;

namespace {

unsigned Start() {
  CUcontext context = nullptr;
  if (unsigned code = Cuda("cuInit", 0u)) return code;
  if (unsigned code = Cuda("cuDevicePrimaryCtxRetain", &context, 0)) return code;
  return Cuda("cuCtxSetCurrent", context);
}

// Threads that make and drop physical handles and plain memory; how often that went wrong.
unsigned Threads() {
  if (unsigned code = Start()) return code;
  std::atomic<unsigned> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&wrong, t] {
      CUcontext context = nullptr;
      Cuda("cuDevicePrimaryCtxRetain", &context, 0);
      Cuda("cuCtxSetCurrent", context);
      CUmemAllocationProp prop = {};
      prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
      prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
      for (int i = 0; i < 400; ++i) {
        CUdeviceptr pointer = 0;
        CUmemGenericAllocationHandle handle = 0;
        if (t % 2 == 0) {
          wrong += Cuda("cuMemCreate", &handle, size_t{2} << 20, &prop, 0ull) != 0 ||
                   Cuda("cuMemRelease", handle) != 0;
        } else if (t % 4 == 1) {
          wrong += Cuda("cuMemAlloc_v2", &pointer, size_t{4000} + 700 * i) != 0 ||
                   Cuda("cuMemFree_v2", pointer) != 0;
        } else {
          CUstream const stream = nullptr;
          wrong += Cuda("cuMemAllocAsync", &pointer, size_t{4000} + 700 * i, stream) != 0 ||
                   Cuda("cuMemFreeAsync", pointer, stream) != 0;
        }
      }
      Cuda("cuDevicePrimaryCtxRelease_v2", 0);
    });
  }
  for (std::thread& thread : threads) thread.join();
  Cuda("cuCtxSynchronize");
  return wrong;
}

// Every form of handing work in, once each with a grid whose product is no 32-bit number.
unsigned Submissions() {
  if (unsigned code = Cuda("cuInit", 0u)) return code;
  constexpr unsigned kX = 65536, kY = 32768;
  void* const none = nullptr;
  unsigned done = 0;
  for (const char* name : {"cuLaunchKernel", "cuLaunchKernel_ptsz"}) {
    done += Cuda(name, none, kX, kY, 1u, 1u, 1u, 1u, 0u, none, none, none) == 0;
  }
  for (const char* name : {"cuLaunchCooperativeKernel", "cuLaunchCooperativeKernel_ptsz"}) {
    done += Cuda(name, none, kX, kY, 1u, 1u, 1u, 1u, 0u, none, none) == 0;
  }
  CUlaunchConfig config = {};
  config.gridDimX = kX;
  config.gridDimY = kY;
  config.gridDimZ = config.blockDimX = config.blockDimY = config.blockDimZ = 1;
  for (const char* name : {"cuLaunchKernelEx", "cuLaunchKernelEx_ptsz"}) {
    done += Cuda(name, static_cast<const CUlaunchConfig*>(&config), none, none, none) == 0;
  }
  for (const char* name : {"cuGraphLaunch", "cuGraphLaunch_ptsz"}) {
    done += Cuda(name, none, none) == 0;
  }
  return done;
}

// The second look for a name finds what the first found, wherever it starts from.
unsigned Lookups() {
  unsigned wrong = 0;
  // Seen by everybody, as by a program linked to it.
  g_cuda = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  for (const char* name : {"cuMemAlloc_v2", "cuMemFree_v2", "dlsym"}) {
    void* const first = dlsym(RTLD_NEXT, name);
    wrong += first == nullptr || dlsym(RTLD_NEXT, name) != first;
  }
  for (const char* name : {"cudnnCreate", "curl_easy_init", "cuNoSuchFunction"}) {
    wrong += dlsym(g_cuda, name) != nullptr;
    wrong += dlsym(g_cuda, name) != nullptr;
    wrong += dlsym(RTLD_DEFAULT, name) != nullptr;
  }
  wrong += dlsym(g_cuda, "cuMemAlloc_v2") == nullptr;
  wrong += dlsym(g_cuda, "cuMemAlloc_v2") != dlsym(g_cuda, "cuMemAlloc_v2");
  return wrong;
}

// Arguments a program may leave out, and some it may not.
unsigned Nulls() {
  if (unsigned code = Start()) return code;
  size_t size = 0;
  size_t* const none = nullptr;
  unsigned answered = 0;
  answered += Cuda("cuMemGetInfo_v2", none, &size) != 9999;
  answered += Cuda("cuMemGetInfo_v2", &size, none) != 9999;
  answered += Cuda("cuMemGetInfo_v2", none, none) != 9999;
  answered += Cuda("cuMemAlloc_v2", static_cast<CUdeviceptr*>(nullptr), size_t{4096}) != 0;
  answered += Cuda("cuMemCreate", static_cast<CUmemGenericAllocationHandle*>(nullptr), size_t{4096},
                   static_cast<void*>(nullptr), 0ull) != 0;
  answered +=
      Cuda("cuModuleLoadData", static_cast<CUmodule*>(nullptr), static_cast<void*>(nullptr)) != 0;
  answered += Cuda("cuMemPoolCreate", static_cast<CUmemoryPool*>(nullptr),
                   static_cast<void*>(nullptr)) != 0;
  answered += Cuda("cuMemFree_v2", CUdeviceptr{0}) != 9999;
  return answered;
}

// Begins, takes, gives back and ends.
unsigned Short() {
  if (unsigned code = Start()) return code;
  CUdeviceptr pointer = 0;
  if (unsigned code = Cuda("cuMemAlloc_v2", &pointer, size_t{3} << 20)) return code;
  return Cuda("cuMemFree_v2", pointer);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  OpenCuda();
  unsigned answer = 7777;
  if (what == "threads") answer = Threads();
  if (what == "submissions") answer = Submissions();
  if (what == "lookups") answer = Lookups();
  if (what == "nulls") answer = Nulls();
  if (what == "short") answer = Short();
  std::printf("%u\n", answer);
  std::fflush(stdout);
  if (what == "short") return 0;
  char line[16];
  return std::fgets(line, sizeof(line), stdin) == nullptr ? 1 : 0;
}
