// For the CUDA programs of the guest's tests: the driver's functions by name, as a program that is
// linked to nothing finds them.
#pragma once

#include <dlfcn.h>

inline void* g_cuda = nullptr;

template <typename... Arguments>
unsigned Cuda(const char* name, Arguments... arguments) {
  auto* function = reinterpret_cast<unsigned (*)(Arguments...)>(dlsym(g_cuda, name));
  return function == nullptr ? 9999 : function(arguments...);
}

inline void OpenCuda() { g_cuda = dlopen("libcuda.so.1", RTLD_NOW); }
