// The driver's entry points we stand in front of: their numbers, their real functions, and what a
// wrapper does first. `guest/cuda/wrapped.inc` is generated from abi/cuda.manifest: every line that
// is not "pass".
#pragma once

#include <stdint.h>

#include "abi/cuda.h"
#include "guest/core/doors.h"
#include "guest/core/process.h"

#define TESSERA_EXPORT extern "C" __attribute__((visibility("default")))
// Of calls that programs make now and then: built for size where the rest of a file is for speed.
#define TESSERA_EXPORT_COLD TESSERA_EXPORT __attribute__((cold))

namespace tessera::abi {
#define TESSERA_ENTRY(symbol, base, version, flag, treatment, ret, parameters, arguments) \
  TESSERA_EXPORT ret symbol parameters;
#include "guest/cuda/wrapped.inc"
#undef TESSERA_ENTRY
}  // namespace tessera::abi

namespace tessera::guest {

enum CudaIndex : uint32_t {
#define TESSERA_ENTRY(symbol, base, version, flag, treatment, ret, parameters, arguments) \
  kIndex_##symbol,
#include "guest/cuda/wrapped.inc"
#undef TESSERA_ENTRY
  kCudaWrappers
};

// Real functions by index, found at first use; null before that.
extern "C" void* tessera_cuda_real[kCudaWrappers] __attribute__((visibility("hidden")));

// Finds the real function, or null: the loaded driver lacks it, or none is loaded.
void* ResolveCuda(uint32_t index);
const char* CudaName(uint32_t index);
void* CudaWrapper(uint32_t index);
// The index of the wrapper cuGetProcAddress must answer for (name, version, stream form), or -1:
// none of ours.
int ChooseCuda(const char* name, int version, bool per_thread);
// What a wrapper answers when there is no real function.
abi::CUresult MissingCuda();
// Refuses what cannot be counted, with one line a process naming it.
abi::CUresult DenyCuda(uint32_t index);

template <typename Function>
inline Function* RealCuda(uint32_t index) {
  void* real = __atomic_load_n(&tessera_cuda_real[index], __ATOMIC_RELAXED);
  if (__builtin_expect(real == nullptr, 0)) real = ResolveCuda(index);
  return reinterpret_cast<Function*>(real);
}
#define TESSERA_REAL(symbol) \
  (::tessera::guest::RealCuda<decltype(::tessera::abi::symbol)>(::tessera::guest::kIndex_##symbol))

// A driver function we call and do not wrap, by its exported name.
template <typename Function>
inline Function* DriverFunction(const char* name) {
  return reinterpret_cast<Function*>(ResolveReal(kCudaLibrary, name));
}

}  // namespace tessera::guest
