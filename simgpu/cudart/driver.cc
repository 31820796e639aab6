#include "simgpu/cudart/driver.h"

#include <dlfcn.h>

namespace simgpu::cudart {

DriverCalls& Driver() {
  static DriverCalls* const calls = new DriverCalls;  // leaked: used from exit handlers
  return *calls;
}

bool DriverCalls::Open() {
  void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) return false;
#define TESSERA_PROC(base, version, per_thread, symbol) \
  symbol = reinterpret_cast<decltype(symbol)>(dlsym(library, #symbol));
#include "simgpu-cudart/driver_table.inc"
#undef TESSERA_PROC
  return cuInit != nullptr;
}

}  // namespace simgpu::cudart
