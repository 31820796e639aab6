// The other side of the front in the library that traces another driver: each hidden function
// calls the entry point of the driver that $SIMGPU_TRACE_DRIVER names by its full path.
//
// A function is looked up once, at its first call or when cuGetProcAddress of that driver answers
// it. What that driver lacks answers CUDA_ERROR_NOT_SUPPORTED; functions that the manifest does not
// know are handed out as they are and are not traced.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "simgpu/front/front.h"

namespace simgpu::front {

bool HasFaults() { return false; }
uint32_t CardFault(const Site&, const uint64_t*) { return 0; }
void StartWatching() {}

namespace {

using namespace tessera::abi;  // NOLINT

std::atomic<void*> g_real[1024];

void* Driver() {
  static void* const driver = []() -> void* {
    const char* path = getenv("SIMGPU_TRACE_DRIVER");
    if (path == nullptr || path[0] != '/') {
      fprintf(stderr,
              "simgpu: SIMGPU_TRACE_DRIVER: expected the full path of the driver to trace "
              "(libcuda.so.1)\n");
      return nullptr;
    }
    void* opened = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (opened == nullptr) fprintf(stderr, "simgpu: SIMGPU_TRACE_DRIVER: %s\n", dlerror());
    // A path that leads back here would forward to itself for ever.
    Dl_info ours, theirs;
    void* const init = opened != nullptr ? dlsym(opened, "cuInit") : nullptr;
    if (init != nullptr && dladdr(init, &theirs) != 0 &&
        dladdr(reinterpret_cast<void*>(&HasFaults), &ours) != 0 &&
        ours.dli_fbase == theirs.dli_fbase) {
      fprintf(stderr, "simgpu: SIMGPU_TRACE_DRIVER: %s is the tracing library itself\n", path);
      return nullptr;
    }
    return opened;
  }();
  return driver;
}

void* Real(int site) {
  void* real = g_real[site].load(std::memory_order_acquire);
  if (real == nullptr && Driver() != nullptr) {
    real = dlsym(Driver(), kSites[site].symbol);
    if (real != nullptr) g_real[site].store(real, std::memory_order_release);
  }
  return real;
}

// What the driver handed out becomes what our wrapper of the same form calls.
void Wrap(const char* name, int version, cuuint64_t flags, void** function) {
  if (name == nullptr || function == nullptr || *function == nullptr) return;
  bool known = false;
  const Proc* proc =
      FindProc(name, version, (flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM) != 0, &known);
  if (proc == nullptr) return;
  g_real[proc->site].store(*function, std::memory_order_release);
  *function = proc->function;
}

constexpr CUresult kAbsent = CUDA_ERROR_NOT_SUPPORTED;

}  // namespace
}  // namespace simgpu::front

namespace tessera::abi {

// The driver's answer to these two leads around us, so it is wrapped.
static CUresult Ask(int site, const char* name, void** function, int version, cuuint64_t flags,
                    CUdriverProcAddressQueryResult* status) {
  void* real = simgpu::front::Real(site);
  if (real == nullptr) return simgpu::front::kAbsent;
  using Old = CUresult (*)(const char*, void**, int, cuuint64_t);
  using New = CUresult (*)(const char*, void**, int, cuuint64_t, CUdriverProcAddressQueryResult*);
  const bool old = strcmp(simgpu::front::kSites[site].symbol, "cuGetProcAddress") == 0;
  const CUresult result = old ? reinterpret_cast<Old>(real)(name, function, version, flags)
                              : reinterpret_cast<New>(real)(name, function, version, flags, status);
  if (result == CUDA_SUCCESS) simgpu::front::Wrap(name, version, flags, function);
  return result;
}

template <typename Signature>
struct Forward {
  template <typename... Arguments>
  static CUresult Pass(int site, Arguments... arguments) {
    void* real = simgpu::front::Real(site);
    if (real == nullptr) return simgpu::front::kAbsent;
    return reinterpret_cast<Signature>(real)(arguments...);
  }
};

template <>
struct Forward<CUresult (*)(const char*, void**, int, cuuint64_t)> {
  static CUresult Pass(int site, const char* name, void** function, int version, cuuint64_t flags) {
    return Ask(site, name, function, version, flags, nullptr);
  }
};
template <>
struct Forward<CUresult (*)(const char*, void**, int, cuuint64_t,
                            CUdriverProcAddressQueryResult*)> {
  static CUresult Pass(int site, const char* name, void** function, int version, cuuint64_t flags,
                       CUdriverProcAddressQueryResult* status) {
    return Ask(site, name, function, version, flags, status);
  }
};

#define TESSERA_REST(...) __VA_OPT__(, ) __VA_ARGS__
#define TESSERA_FRONT(index, symbol, base, result, parameters, arguments, descriptions, values) \
  static_assert(index < 1024);                                                                  \
  extern "C" __attribute__((visibility("hidden"))) result simgpu_##symbol parameters {          \
    return Forward<result(*) parameters>::Pass(index TESSERA_REST arguments);                   \
  }
#include "simgpu/cuda_front.inc"
#undef TESSERA_FRONT

}  // namespace tessera::abi
