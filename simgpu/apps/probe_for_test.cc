// What the tests of `simgpu run` run: asks the libcuda.so.1 it is given, as any program would.
// Words: alloc MIB (takes it), hold (until a line or the end of its input), exit N, signal N, state
// (prints the state folder).
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "abi/cuda.h"

using namespace tessera::abi;  // NOLINT

namespace {

void* g_library = nullptr;

template <typename... Parameters, typename... Arguments>
void Must(const char* name, CUresult (*)(Parameters...), Arguments... arguments) {
  auto* function = reinterpret_cast<CUresult (*)(Parameters...)>(dlsym(g_library, name));
  const CUresult result = function != nullptr ? function(arguments...) : CUDA_ERROR_NOT_FOUND;
  if (result == CUDA_SUCCESS) return;
  printf("%s answered %u\n", name, static_cast<unsigned>(result));
  exit(4);
}

}  // namespace

namespace tessera::abi {
#include "simgpu/cuda_declarations.inc"
}  // namespace tessera::abi

#define MUST(name, ...) Must(#name, static_cast<decltype(&name)>(nullptr), __VA_ARGS__)

int main(int argc, char** argv) {
  g_library = dlopen("libcuda.so.1", RTLD_NOW);
  if (g_library == nullptr) {
    printf("%s\n", dlerror());
    return 5;
  }
  MUST(cuInit, 0u);
  int count = 0;
  MUST(cuDeviceGetCount, &count);
  for (int i = 0; i < count; ++i) {
    char name[64];
    MUST(cuDeviceGetName, name, static_cast<int>(sizeof name), i);
    printf("%s\n", name);
  }
  CUcontext context = nullptr;
  MUST(cuDevicePrimaryCtxRetain, &context, 0);
  MUST(cuCtxSetCurrent, context);
  for (int i = 1; i < argc; ++i) {
    const char* value = i + 1 < argc ? argv[i + 1] : "0";
    if (strcmp(argv[i], "alloc") == 0) {
      CUdeviceptr memory = 0;
      MUST(cuMemAlloc_v2, &memory, strtoul(value, nullptr, 10) << 20);
    } else if (strcmp(argv[i], "hold") == 0) {
      printf("holding\n");
      fflush(stdout);
      (void)getchar();
    } else if (strcmp(argv[i], "exit") == 0) {
      return atoi(value);
    } else if (strcmp(argv[i], "signal") == 0) {
      fflush(stdout);
      raise(atoi(value));
    } else if (strcmp(argv[i], "state") == 0) {
      printf("state %s\n", getenv("SIMGPU_STATE"));
    }
  }
  return 0;
}
