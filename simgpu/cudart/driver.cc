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
#define CUDART_BIND(member, symbol, ...) \
  member = reinterpret_cast<decltype(member)>(dlsym(library, symbol));
  CUDART_DRIVER_CALLS(CUDART_BIND)
#undef CUDART_BIND
  return Init != nullptr;
}

}  // namespace simgpu::cudart
