// The driver's entry points, found by name in libcuda.so.1: one member for every line of
// abi/cuda.manifest, called by its exported name. One the driver lacks answers
// CUDA_ERROR_NOT_SUPPORTED.
#pragma once

#include "abi/cuda.h"

namespace simgpu::cudart {

using namespace tessera::abi;

namespace declared {  // for their types alone
#include "simgpu-cudart/driver_declarations.inc"
}  // namespace declared

// Null until Open succeeded.
struct DriverCalls {
#define TESSERA_PROC(base, version, per_thread, symbol) \
  decltype(&declared::symbol) symbol = nullptr;
#include "simgpu-cudart/driver_table.inc"
#undef TESSERA_PROC
  // Finds libcuda.so.1 as any program would and fills the table. False when there is none.
  bool Open();
};

DriverCalls& Driver();

// An entry point that may be missing: Call(Driver().cuMemFree_v2)(address).
template <typename... Parameters>
struct Entry {
  CUresult (*function)(Parameters...);
  CUresult operator()(Parameters... arguments) const {
    return function == nullptr ? CUDA_ERROR_NOT_SUPPORTED : function(arguments...);
  }
};
template <typename... Parameters>
Entry<Parameters...> Call(CUresult (*function)(Parameters...)) {
  return {function};
}

}  // namespace simgpu::cudart
