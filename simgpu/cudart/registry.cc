#include "simgpu/cudart/registry.h"

#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "simgpu/cudart/driver.h"

namespace simgpu::cudart {
namespace {

// The device code of one translation unit.
struct Program {
  const void* wrapper = nullptr;
  bool tried = false;
  cudaError_t error = cudaSuccess;
  CUlibrary library = nullptr;
};

struct Variable {
  Program* program = nullptr;
  std::string name;
};

}  // namespace

struct Kernel {
  Program* program = nullptr;
  std::string name;
  CUkernel handle = nullptr;
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

// With the mutex held: the program's library. The driver takes the record the stub handed over and
// picks, for each card, the code that suits it.
cudaError_t Load(Program* program, CUlibrary* library) {
  if (!program->tried) {
    program->tried = true;
    // The stub's record lives as long as the program, so the driver need not copy what it points
    // to.
    CUlibraryOption option = static_cast<CUlibraryOption>(1);
    int yes = 1;
    void* value = &yes;
    program->error =
        static_cast<cudaError_t>(Call(Driver().LibraryLoadData, &program->library, program->wrapper,
                                      nullptr, nullptr, 0u, &option, &value, 1u));
  }
  *library = program->library;
  return program->error;
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
  Registry& registry = TheRegistry();
  const std::lock_guard lock(registry.mutex);
  CUlibrary library = nullptr;
  if (const cudaError_t bad = Load(kernel->program, &library); bad != cudaSuccess) {
    return bad;
  }
  if (kernel->handle == nullptr) {
    const CUresult result =
        Call(Driver().LibraryGetKernel, &kernel->handle, library, kernel->name.c_str());
    if (result == CUDA_ERROR_NOT_FOUND) return cudaErrorInvalidDeviceFunction;
    if (result != CUDA_SUCCESS) return static_cast<cudaError_t>(result);
  }
  *handle = kernel->handle;
  return cudaSuccess;
}

cudaError_t FindVariable(const void* host_variable, CUdeviceptr* address, std::size_t* size) {
  Registry& registry = TheRegistry();
  const std::lock_guard lock(registry.mutex);
  const auto found = registry.variables.find(host_variable);
  if (found == registry.variables.end()) return cudaErrorInvalidSymbol;
  CUlibrary library = nullptr;
  if (const cudaError_t bad = Load(found->second.program, &library); bad != cudaSuccess) {
    return bad;
  }
  const CUresult result =
      Call(Driver().LibraryGetGlobal, address, size, library, found->second.name.c_str());
  return result == CUDA_ERROR_NOT_FOUND ? cudaErrorInvalidSymbol : static_cast<cudaError_t>(result);
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
  if (program->library != nullptr) Call(Driver().LibraryUnload, program->library);
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
