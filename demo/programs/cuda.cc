#include "demo/programs/cuda.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "simgpu/kernels/demo_kernels.h"

namespace demo {
namespace {

[[noreturn]] void Stop() {
  std::fflush(stdout);
  std::exit(2);
}

}  // namespace

Session::Session(const char* program) : program_(program) {
  // Lines must reach a pipe as they are written: the demo reads them while the program runs.
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  void* library = dlopen("libcuda.so.1", RTLD_NOW);
  if (library == nullptr) {
    std::printf("program=%s error=no_driver detail=%s\n", program_, dlerror());
    Stop();
  }
  const auto find = [&](const char* name, auto* to) {
    void* symbol = dlsym(library, name);
    if (symbol == nullptr) {
      std::printf("program=%s error=no_symbol symbol=%s\n", program_, name);
      Stop();
    }
    std::memcpy(to, &symbol, sizeof symbol);
  };
  find("cuInit", &driver_.Init);
  find("cuDeviceGet", &driver_.DeviceGet);
  find("cuDeviceGetName", &driver_.DeviceGetName);
  find("cuCtxCreate_v2", &driver_.CtxCreate);
  find("cuCtxDestroy_v2", &driver_.CtxDestroy);
  find("cuCtxSynchronize", &driver_.CtxSynchronize);
  find("cuMemGetInfo_v2", &driver_.MemGetInfo);
  find("cuMemAlloc_v2", &driver_.MemAlloc);
  find("cuMemFree_v2", &driver_.MemFree);
  find("cuMemcpyHtoD_v2", &driver_.MemcpyHtoD);
  find("cuMemcpyDtoH_v2", &driver_.MemcpyDtoH);
  find("cuModuleLoadData", &driver_.ModuleLoadData);
  find("cuModuleGetFunction", &driver_.ModuleGetFunction);
  find("cuLaunchKernel", &driver_.LaunchKernel);
  Check(driver_.Init(0), "cuInit");
  int device = 0;
  Check(driver_.DeviceGet(&device, 0), "cuDeviceGet");
  char name[256] = "";
  Check(driver_.DeviceGetName(name, sizeof name, device), "cuDeviceGetName");
  for (char* c = name; *c != '\0'; ++c) {
    if (*c == ' ') *c = '_';
  }
  device_ = name;
  Check(driver_.CtxCreate(&context_, 0, device), "cuCtxCreate");
  Check(driver_.ModuleLoadData(&module_, simgpu::kernels::kDemoKernelsPtx), "cuModuleLoadData");
}

Session::~Session() {
  if (context_ != nullptr) driver_.CtxDestroy(context_);
}

void Session::Check(Result result, const char* call) const {
  if (result == 0) return;
  std::printf("program=%s error=%d call=%s\n", program_, result, call);
  Stop();
}

Function Session::Kernel(const char* name) const {
  Function function = nullptr;
  Check(driver_.ModuleGetFunction(&function, module_, name), "cuModuleGetFunction");
  return function;
}

void Session::Launch(Function function, unsigned grid_x, unsigned grid_y, unsigned block_x,
                     unsigned block_y, void** params) const {
  Check(driver_.LaunchKernel(function, grid_x, grid_y, 1, block_x, block_y, 1, 0, nullptr, params,
                             nullptr),
        "cuLaunchKernel");
}

uint64_t NumberOption(int argc, char** argv, const char* name, uint64_t fallback, uint64_t low,
                      uint64_t high) {
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], name) != 0) continue;
    const char* text = i + 1 < argc ? argv[i + 1] : "";
    char* end = nullptr;
    const unsigned long long value = std::strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || value < low || value > high) {
      std::printf("error=bad_option option=%s expected=%llu..%llu found=%s\n", name,
                  static_cast<unsigned long long>(low), static_cast<unsigned long long>(high),
                  text);
      Stop();
    }
    return value;
  }
  return fallback;
}

void CheckOptions(int argc, char** argv, std::initializer_list<const char*> names) {
  for (int i = 1; i < argc; i += 2) {
    bool known = false;
    for (const char* name : names) known = known || std::strcmp(argv[i], name) == 0;
    if (!known) {
      std::printf("error=bad_option option=%s expected=", argv[i]);
      for (const char* name : names) std::printf("%s,", name);
      std::printf("\n");
      Stop();
    }
  }
}

}  // namespace demo
