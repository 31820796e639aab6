#include "simgpu/cudart/registry.h"

#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace simgpu::cudart {
namespace {

struct Managed {
  void** host_pointer = nullptr;  // where the stub keeps the variable's address
  std::string name;
};

// The device code of one translation unit.
struct Program {
  const void* wrapper = nullptr;
  bool tried = false;
  cudaError_t error = cudaSuccess;
  CUlibrary library = nullptr;
  std::vector<Managed> managed;
};

struct Variable {
  Program* program = nullptr;
  std::string name;
  void** managed = nullptr;  // of a managed variable: what holds its address
};

struct Kernel {
  Program* program = nullptr;
  std::string name;
  const void* host_function = nullptr;
  CUkernel handle = nullptr;
};

struct Registry {
  std::mutex mutex;
  std::unordered_set<Program*> programs;
  std::unordered_map<const void*, std::unique_ptr<Kernel>> kernels;  // by host stub
  std::unordered_set<const void*> kernel_records;                    // addresses of the above
  std::unordered_map<const void*, const Kernel*> by_handle;          // of those resolved
  std::unordered_map<const void*, Variable> variables;               // by host shadow
  std::unordered_map<CUkernel, CUlibrary> library_kernels;
};

Registry& TheRegistry() {
  static Registry* const registry = new Registry;
  return *registry;
}

std::atomic<bool> managed_waits{false};  // some program with managed variables is not loaded

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
    program->error = static_cast<cudaError_t>(Call(Driver().cuLibraryLoadData)(
        &program->library, program->wrapper, nullptr, nullptr, 0, &option, &value, 1));
  }
  *library = program->library;
  return program->error;
}

// With the mutex held.
cudaError_t Resolve(Registry* registry, Kernel* kernel, CUkernel* handle) {
  if (kernel->handle == nullptr) {
    CUlibrary library = nullptr;
    if (const cudaError_t bad = Load(kernel->program, &library); bad != cudaSuccess) return bad;
    const CUresult result =
        Call(Driver().cuLibraryGetKernel)(&kernel->handle, library, kernel->name.c_str());
    if (result == CUDA_ERROR_NOT_FOUND) return cudaErrorInvalidDeviceFunction;
    if (result != CUDA_SUCCESS) return static_cast<cudaError_t>(result);
    registry->by_handle[kernel->handle] = kernel;
  }
  *handle = kernel->handle;
  return cudaSuccess;
}

// With the mutex held.
cudaError_t PlaceManaged(Program* program) {
  CUlibrary library = nullptr;
  if (const cudaError_t bad = Load(program, &library); bad != cudaSuccess) return bad;
  for (const Managed& variable : program->managed) {
    CUdeviceptr address = 0;
    size_t size = 0;
    const CUresult result =
        Call(Driver().cuLibraryGetManaged)(&address, &size, library, variable.name.c_str());
    if (result != CUDA_SUCCESS) return static_cast<cudaError_t>(result);
    *variable.host_pointer = reinterpret_cast<void*>(address);
  }
  return cudaSuccess;
}

}  // namespace

cudaError_t KernelOf(const void* function, CUkernel* handle) {
  Registry& registry = TheRegistry();
  const std::lock_guard lock(registry.mutex);
  if (const auto found = registry.kernels.find(function); found != registry.kernels.end()) {
    return Resolve(&registry, found->second.get(), handle);
  }
  if (registry.kernel_records.contains(function)) {
    return Resolve(&registry, const_cast<Kernel*>(static_cast<const Kernel*>(function)), handle);
  }
  const auto kernel = static_cast<CUkernel>(const_cast<void*>(function));
  if (!registry.library_kernels.contains(kernel) && !registry.by_handle.contains(function)) {
    return cudaErrorInvalidDeviceFunction;
  }
  *handle = kernel;
  return cudaSuccess;
}

void* HostFunctionOf(const void* handle) {
  Registry& registry = TheRegistry();
  const std::lock_guard lock(registry.mutex);
  const auto found = registry.by_handle.find(handle);
  return const_cast<void*>(found == registry.by_handle.end() ? handle
                                                             : found->second->host_function);
}

void Remember(CUkernel kernel, CUlibrary library) {
  Registry& registry = TheRegistry();
  const std::lock_guard lock(registry.mutex);
  registry.library_kernels[kernel] = library;
}

void Forget(CUlibrary library) {
  Registry& registry = TheRegistry();
  const std::lock_guard lock(registry.mutex);
  std::erase_if(registry.library_kernels,
                [&](const auto& entry) { return entry.second == library; });
}

cudaError_t FindVariable(const void* host_variable, CUdeviceptr* address, std::size_t* size) {
  Registry& registry = TheRegistry();
  const std::lock_guard lock(registry.mutex);
  auto found = registry.variables.find(host_variable);
  if (found == registry.variables.end()) {
    // A managed variable is also known by where it is.
    for (auto at = registry.variables.begin(); at != registry.variables.end(); ++at) {
      if (at->second.managed != nullptr && *at->second.managed == host_variable) found = at;
    }
  }
  if (found == registry.variables.end()) return cudaErrorInvalidSymbol;
  CUlibrary library = nullptr;
  if (const cudaError_t bad = Load(found->second.program, &library); bad != cudaSuccess) {
    return bad;
  }
  const auto get = found->second.managed != nullptr ? Call(Driver().cuLibraryGetManaged)
                                                    : Call(Driver().cuLibraryGetGlobal);
  const CUresult result = get(address, size, library, found->second.name.c_str());
  return result == CUDA_ERROR_NOT_FOUND ? cudaErrorInvalidSymbol : static_cast<cudaError_t>(result);
}

cudaError_t LoadManaged() {
  if (!managed_waits.load(std::memory_order_acquire)) return cudaSuccess;
  Registry& registry = TheRegistry();
  const std::lock_guard lock(registry.mutex);
  managed_waits.store(false, std::memory_order_release);
  for (Program* const program : registry.programs) {
    if (program->managed.empty()) continue;
    if (const cudaError_t bad = PlaceManaged(program); bad != cudaSuccess) return bad;
  }
  return cudaSuccess;
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
  if (program->library != nullptr) Call(Driver().cuLibraryUnload)(program->library);
  std::erase_if(registry.kernels, [&](const auto& entry) {
    if (entry.second->program != program) return false;
    registry.kernel_records.erase(entry.second.get());
    registry.by_handle.erase(entry.second->handle);
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
  kernel->host_function = host_function;
  Registry& registry = TheRegistry();
  const std::lock_guard lock(registry.mutex);
  registry.kernel_records.insert(kernel.get());
  registry.kernels[host_function] = std::move(kernel);
}

CUDART_CALL void __cudaRegisterVar(void** handle, char* host_variable, char*,
                                   const char* device_name, int, std::size_t, int, int) {
  Registry& registry = TheRegistry();
  const std::lock_guard lock(registry.mutex);
  registry.variables[host_variable] = {reinterpret_cast<Program*>(handle), device_name};
}

CUDART_CALL void __cudaRegisterManagedVar(void** handle, void** host_pointer, char*,
                                          const char* device_name, int, std::size_t, int, int) {
  auto* const program = reinterpret_cast<Program*>(handle);
  Registry& registry = TheRegistry();
  const std::lock_guard lock(registry.mutex);
  registry.variables[host_pointer] = {program, device_name, host_pointer};
  program->managed.push_back({host_pointer, device_name});
  managed_waits.store(true, std::memory_order_release);
}

// Host code that touches a managed variable before any call asks for its module first.
CUDART_CALL char __cudaInitModule(void**) { return Record(EnsureContext()) == cudaSuccess ? 1 : 0; }

// The handle stands for the kernel on any device, so nothing is loaded yet.
CUDART_CALL cudaError_t __cudaGetKernel(void** handle, const void* host_function) {
  Registry& registry = TheRegistry();
  const std::lock_guard lock(registry.mutex);
  const auto found = registry.kernels.find(host_function);
  if (found == registry.kernels.end()) return Record(cudaErrorInvalidDeviceFunction);
  *handle = found->second.get();
  return cudaSuccess;
}

CUDART_CALL cudaError_t cudaGetSymbolAddress(void** pointer, const void* symbol) {
  if (pointer == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  CUdeviceptr address = 0;
  size_t size = 0;
  const cudaError_t bad = FindVariable(symbol, &address, &size);
  if (bad == cudaSuccess) *pointer = reinterpret_cast<void*>(address);
  return Record(bad);
}

CUDART_CALL cudaError_t cudaGetSymbolSize(size_t* size, const void* symbol) {
  if (size == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  CUdeviceptr address = 0;
  return Record(FindVariable(symbol, &address, size));
}

}  // namespace simgpu::cudart
