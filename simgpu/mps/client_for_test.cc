// A plain CUDA program that tests of MPS speak to by lines. It says "ready CODE" once it has asked
// for a context, and answers every line with the code of what came of it:
//   work MICROS BLOCKS COUNT   so many kernels of that length and grid, waited for
//   keep MICROS BLOCKS         the same without end; answers when a launch or a wait fails
//   alloc MIB                  device memory
//   fault                      a kernel that writes where it may not, waited for
//   sync                       waits for nothing
// The kernels state how long they take alone (docs/simgpu.md).
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cstdint>

#include "abi/cuda.h"

using namespace tessera::abi;  // NOLINT

namespace {

constexpr char kModule[] = R"(
.version 8.0
.target sm_70
.address_size 64
.visible .entry stated(.param .u64 time) {
  .pragma "simgpu.time_ns param0";
  ret;
}
.visible .entry broken() {
  .reg .u64 %rd<2>;
  mov.u64 %rd1, 16;
  st.global.u64 [%rd1], %rd1;
  ret;
}
)";
constexpr unsigned kBatch = 32;  // launches before the program waits

void* g_library = nullptr;

template <typename... Parameters, typename... Arguments>
unsigned Call(const char* name, CUresult (*)(Parameters...), Arguments... arguments) {
  auto* function = reinterpret_cast<CUresult (*)(Parameters...)>(dlsym(g_library, name));
  return function != nullptr ? static_cast<unsigned>(function(arguments...)) : 9999u;
}

}  // namespace

namespace tessera::abi {
#include "simgpu/cuda_declarations.inc"
}  // namespace tessera::abi

#define CALL(name, ...) Call(#name, static_cast<decltype(&name)>(nullptr), __VA_ARGS__)

namespace {

CUfunction g_stated = nullptr, g_broken = nullptr;

unsigned Launch(CUfunction function, uint64_t nanos, unsigned blocks) {
  void* parameters[] = {&nanos};
  return CALL(cuLaunchKernel, function, blocks, 1u, 1u, 1u, 1u, 1u, 0u, nullptr, parameters,
              nullptr);
}

unsigned Synchronise() {
  auto* function = reinterpret_cast<CUresult (*)()>(dlsym(g_library, "cuCtxSynchronize"));
  return function();
}

}  // namespace

int main() {
  g_library = dlopen("libcuda.so.1", RTLD_NOW);
  if (g_library == nullptr) return 3;
  CUcontext context = nullptr;
  CUmodule module = nullptr;
  unsigned code = CALL(cuInit, 0u);
  if (code == 0) code = CALL(cuDevicePrimaryCtxRetain, &context, 0);
  if (code == 0) code = CALL(cuCtxSetCurrent, context);
  if (code == 0) code = CALL(cuModuleLoadData, &module, static_cast<const void*>(kModule));
  if (code == 0) code = CALL(cuModuleGetFunction, &g_stated, module, "stated");
  if (code == 0) code = CALL(cuModuleGetFunction, &g_broken, module, "broken");
  printf("ready %u\n", code);
  fflush(stdout);
  char line[128];
  while (fgets(line, sizeof line, stdin) != nullptr) {
    unsigned long long micros = 0, mib = 0;
    unsigned blocks = 0, count = 0;
    code = 9998;
    if (sscanf(line, "work %llu %u %u", &micros, &blocks, &count) == 3) {
      code = 0;
      for (unsigned i = 0; i < count && code == 0; ++i) {
        code = Launch(g_stated, micros * 1000, blocks);
      }
      if (code == 0) code = Synchronise();
    } else if (sscanf(line, "keep %llu %u", &micros, &blocks) == 2) {
      code = 0;
      while (code == 0) {
        for (unsigned i = 0; i < kBatch && code == 0; ++i) {
          code = Launch(g_stated, micros * 1000, blocks);
        }
        if (code == 0) code = Synchronise();
      }
    } else if (sscanf(line, "alloc %llu", &mib) == 1) {
      CUdeviceptr memory = 0;
      code = CALL(cuMemAlloc_v2, &memory, static_cast<size_t>(mib << 20));
    } else if (strncmp(line, "fault", 5) == 0) {
      code = Launch(g_broken, 0, 1);
      if (code == 0) code = Synchronise();
    } else if (strncmp(line, "sync", 4) == 0) {
      code = Synchronise();
    }
    printf("%u\n", code);
    fflush(stdout);
  }
  return 0;
}
