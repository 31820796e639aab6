// cuGetProcAddress: the front's table comes from the manifest, so what is handed out is what is
// exported.
#include <atomic>

#include "simgpu/cudart/detect_static.h"
#include "simgpu/driver/driver.h"
#include "simgpu/front/front.h"

namespace simgpu {
namespace {

CUresult Find(const char* name, void** function, int version, cuuint64_t flags,
              CUdriverProcAddressQueryResult* status) {
  if (name == nullptr || function == nullptr ||
      (flags & ~cuuint64_t{CU_GET_PROC_ADDRESS_LEGACY_STREAM |
                           CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM}) != 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const bool per_thread = (flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM) != 0;
  bool known = false;
  const front::Proc* found = front::FindProc(name, version, per_thread, &known);
  *function = found != nullptr ? found->function : nullptr;
  if (status != nullptr) {
    *status = found != nullptr ? CU_GET_PROC_ADDRESS_SUCCESS
              : known          ? CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT
                               : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  }
  return found != nullptr ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

}  // namespace

// Called by the generated stubs of what simgpu lacks.
CUresult Unsupported(const char* symbol, int* said) {
  if (std::atomic_ref<int>(*said).exchange(1) == 0) {
    Say(std::string(symbol) + " is not simulated: CUDA_ERROR_NOT_SUPPORTED");
  }
  return CUDA_ERROR_NOT_SUPPORTED;
}

}  // namespace simgpu

namespace tessera::abi {

extern "C" {

CUresult cuGetProcAddress(const char* name, void** function, int version, cuuint64_t flags) {
  return simgpu::Find(name, function, version, flags, nullptr);
}

CUresult cuGetProcAddress_v2(const char* name, void** function, int version, cuuint64_t flags,
                             CUdriverProcAddressQueryResult* status) {
  return simgpu::Find(name, function, version, flags, status);
}

// NVIDIA's own runtime library puts an authenticity question through this door when it starts. We
// do not answer it, so a program that carries that library cannot run here; say why and what to do.
CUresult cuGetExportTable(const void** table, const CUuuid*) {
  if (table == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *table = nullptr;
  // A program that is built on it cannot go on; one that merely has it in some plugin may.
  simgpu::StopUnsupportedRuntime();
  static std::atomic<bool> said{false};
  if (!said.exchange(true)) {
    simgpu::Say(
        "this program uses NVIDIA's own CUDA runtime library, which runs on NVIDIA's driver only; "
        "build "
        "it with \"nvcc -cudart shared\" and put simgpu's libcudart.so.13 first on "
        "LD_LIBRARY_PATH");
  }
  return CUDA_ERROR_NOT_SUPPORTED;
}

}  // extern "C"
}  // namespace tessera::abi
