#include "simgpu/cudart/registry.h"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "simgpu/cudart/driver.h"
#include "simgpu/cudart/fatbin.h"

namespace simgpu::cudart {
namespace {

// The device code of one translation unit.
struct Program {
  const void* wrapper = nullptr;
  struct OnDevice {
    bool tried = false;
    cudaError_t error = cudaSuccess;
    CUlibrary library = nullptr;
  };
  OnDevice on[kDevicesMax];
};

struct Variable {
  Program* program = nullptr;
  std::string name;
};

}  // namespace

struct Kernel {
  Program* program = nullptr;
  std::string name;
  CUkernel on[kDevicesMax] = {};
};

namespace {

struct Registry {
  std::mutex mutex;
  std::unordered_set<Program*> programs;
  std::unordered_map<const void*, std::unique_ptr<Kernel>> kernels;  // by host stub
  std::unordered_set<const void*> kernel_handles;                    // addresses of the above
  std::unordered_map<const void*, Variable> variables;               // by host shadow
};

Registry& TheRegistry() {
  static Registry* const registry = new Registry;
  return *registry;
}

// With the mutex held: the program's library on the device.
cudaError_t Load(Program* program, int device, CUlibrary* library) {
  if (device < 0 || device >= kDevicesMax) return cudaErrorInvalidDevice;
  Program::OnDevice& on = program->on[device];
  if (!on.tried) {
    on.tried = true;
    int major = 0;
    int minor = 0;
    CUresult result = Call(Driver().DeviceGetAttribute, &major,
                           CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device);
    if (result == CUDA_SUCCESS) {
      result = Call(Driver().DeviceGetAttribute, &minor,
                    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device);
    }
    on.error = static_cast<cudaError_t>(result);
    std::string ptx;
    std::string why;
    if (result == CUDA_SUCCESS) {
      switch (ExtractPtx(program->wrapper, static_cast<unsigned>(major * 10 + minor), &ptx, &why)) {
        case FatbinAnswer::kPtx:
          result = Call(Driver().LibraryLoadData, &on.library,
                        static_cast<const void*>(ptx.c_str()), nullptr, nullptr, 0u, nullptr,
                        nullptr, 0u);
          on.error = static_cast<cudaError_t>(result);
          break;
        case FatbinAnswer::kNoMatch:
          on.error = cudaErrorNoKernelImageForDevice;
          break;
        case FatbinAnswer::kBad:
          on.error = cudaErrorInvalidKernelImage;
          break;
      }
    }
    if (!why.empty() && std::getenv("SIMGPU_QUIET") == nullptr) {
      std::fprintf(stderr, "simgpu: libcudart: %s\n", why.c_str());
    }
  }
  *library = on.library;
  return on.error;
}

}  // namespace

Kernel* FindKernel(const void* host_function) {
  Registry& registry = TheRegistry();
  const std::lock_guard lock(registry.mutex);
  const auto found = registry.kernels.find(host_function);
  return found == registry.kernels.end() ? nullptr : found->second.get();
}

Kernel* KernelOf(const void* handle) {
  Registry& registry = TheRegistry();
  const std::lock_guard lock(registry.mutex);
  if (!registry.kernel_handles.contains(handle)) return nullptr;
  return const_cast<Kernel*>(static_cast<const Kernel*>(handle));
}

cudaError_t Resolve(Kernel* kernel, CUkernel* handle) {
  const int device = CurrentDevice();
  Registry& registry = TheRegistry();
  const std::lock_guard lock(registry.mutex);
  CUlibrary library = nullptr;
  if (const cudaError_t bad = Load(kernel->program, device, &library); bad != cudaSuccess) {
    return bad;
  }
  if (kernel->on[device] == nullptr) {
    const CUresult result =
        Call(Driver().LibraryGetKernel, &kernel->on[device], library, kernel->name.c_str());
    if (result == CUDA_ERROR_NOT_FOUND) return cudaErrorInvalidDeviceFunction;
    if (result != CUDA_SUCCESS) return static_cast<cudaError_t>(result);
  }
  *handle = kernel->on[device];
  return cudaSuccess;
}

cudaError_t FindVariable(const void* host_variable, CUdeviceptr* address, std::size_t* size) {
  const int device = CurrentDevice();
  Registry& registry = TheRegistry();
  const std::lock_guard lock(registry.mutex);
  const auto found = registry.variables.find(host_variable);
  if (found == registry.variables.end()) return cudaErrorInvalidSymbol;
  CUlibrary library = nullptr;
  if (const cudaError_t bad = Load(found->second.program, device, &library); bad != cudaSuccess) {
    return bad;
  }
  const CUresult result = Call(Driver().LibraryGetGlobal, address, size, library,
                               found->second.name.c_str());
  return result == CUDA_ERROR_NOT_FOUND ? cudaErrorInvalidSymbol : static_cast<cudaError_t>(result);
}

void ForgetDevice(int device) {
  if (device < 0 || device >= kDevicesMax) return;
  Registry& registry = TheRegistry();
  const std::lock_guard lock(registry.mutex);
  for (Program* program : registry.programs) {
    Program::OnDevice& on = program->on[device];
    if (on.library != nullptr) Call(Driver().LibraryUnload, on.library);
    on = {};
  }
  for (auto& [host, kernel] : registry.kernels) kernel->on[device] = nullptr;
}

CUDART_CALL void** __cudaRegisterFatBinary(void* wrapper) {
  auto* const program = new Program;
  program->wrapper = wrapper;
  Registry& registry = TheRegistry();
  const std::lock_guard lock(registry.mutex);
  registry.programs.insert(program);
  return reinterpret_cast<void**>(program);
}

CUDART_CALL void __cudaRegisterFatBinaryEnd(void**) {}

CUDART_CALL void __cudaUnregisterFatBinary(void** handle) {
  auto* const program = reinterpret_cast<Program*>(handle);
  Registry& registry = TheRegistry();
  const std::lock_guard lock(registry.mutex);
  if (registry.programs.erase(program) == 0) return;
  for (const Program::OnDevice& on : program->on) {
    if (on.library != nullptr) Call(Driver().LibraryUnload, on.library);
  }
  std::erase_if(registry.kernels, [&](const auto& entry) {
    if (entry.second->program != program) return false;
    registry.kernel_handles.erase(entry.second.get());
    return true;
  });
  std::erase_if(registry.variables,
                [&](const auto& entry) { return entry.second.program == program; });
  delete program;
}

CUDART_CALL void __cudaRegisterFunction(void** handle, const char* host_function, char*,
                                        const char* device_name, int, void*, void*, void*, void*,
                                        int*) {
  auto kernel = std::make_unique<Kernel>();
  kernel->program = reinterpret_cast<Program*>(handle);
  kernel->name = device_name;
  Registry& registry = TheRegistry();
  const std::lock_guard lock(registry.mutex);
  registry.kernel_handles.insert(kernel.get());
  registry.kernels[host_function] = std::move(kernel);
}

CUDART_CALL void __cudaRegisterVar(void** handle, char* host_variable, char*,
                                   const char* device_name, int, std::size_t, int, int) {
  Registry& registry = TheRegistry();
  const std::lock_guard lock(registry.mutex);
  registry.variables[host_variable] = {reinterpret_cast<Program*>(handle), device_name};
}

// Programs with __managed__ variables ask for their module before main; nothing is lost by waiting.
CUDART_CALL char __cudaInitModule(void**) { return 1; }

}  // namespace simgpu::cudart
