#include "simgpu/driver/module.h"

#include <string.h>

#include <fstream>
#include <iterator>

#include "simgpu/driver/fatbin.h"
#include "simgpu/driver/jit.h"
#include "simgpu/driver/work.h"

namespace simgpu {
namespace {

constexpr unsigned int kCacheConfigMax = 3;   // CU_FUNC_CACHE_PREFER_EQUAL
constexpr unsigned int kSharedConfigMax = 2;  // CU_SHARED_MEM_CONFIG_EIGHT_BYTE_BANK_SIZE

// PTX text to code, with the reason of a refusal in the program's log.
CUresult Parse(const std::string& text, unsigned int sm, JitLog* log,
               std::shared_ptr<ptx::Module>* code) {
  ptx::ParseError error;
  std::unique_ptr<ptx::Module> made = ptx::Module::Parse(text, &error);
  std::string message;
  if (made == nullptr) {
    message = "ptx error: " + error.ToString();
  } else if (made->target() > static_cast<int>(sm)) {
    message = "ptx error: target sm_" + std::to_string(made->target()) +
              " is newer than the device, sm_" + std::to_string(sm);
  }
  WriteLog(message, log->error, log->error_size, log->error_size_slot);
  WriteLog("", log->info, log->info_size, log->info_size_slot);
  if (!message.empty()) {
    if (log->error == nullptr) Say(message);
    return CUDA_ERROR_INVALID_PTX;
  }
  *code = std::move(made);
  return CUDA_SUCCESS;
}

unsigned int SmOf(const Driver& driver, int device) {
  const Profile& profile = CardOf(driver, device).profile;
  return profile.capability_major * 10 + profile.capability_minor;
}

void ReleaseMemory(Driver* driver, const Module& module) {
  for (uint64_t base : module.managed) {
    if (auto at = driver->allocations.find(base); at != driver->allocations.end())
      Release(driver, at);
  }
  if (auto at = driver->allocations.find(module.base); at != driver->allocations.end())
    Release(driver, at);
}

// Gives the code's variables addresses and first values in the context. Mutex held.
CUresult MakeReady(Driver* driver, Context* context, std::shared_ptr<ptx::Module> code,
                   size_t code_bytes, Module** out) {
  auto module = std::make_unique<Module>();
  module->context = context;
  // Variables first, then the code itself, which takes memory of a card as it would of a real one.
  uint64_t bytes = 0;
  for (const ptx::Global& global : code->globals()) {
    bytes = RoundUp(bytes, std::max<uint64_t>(256, global.align));
    module->globals.push_back(bytes);
    if (!global.managed) bytes += global.size;
  }
  bytes = RoundUp(bytes, 256) + code_bytes;
  if (CUresult bad = Allocate(driver, context, std::max<uint64_t>(bytes, 1), MemoryKind::kModule,
                              &module->base)) {
    return bad;
  }
  for (size_t i = 0; i < module->globals.size(); ++i) {
    module->globals[i] += module->base;
    const ptx::Global& global = code->globals()[i];
    if (global.managed && global.size > 0) {
      // Managed variables are memory that the host reaches too.
      if (CUresult bad =
              Allocate(driver, context, global.size, MemoryKind::kManaged, &module->globals[i])) {
        ReleaseMemory(driver, *module);
        return bad;
      }
      module->managed.push_back(module->globals[i]);
    }
    code->SetGlobalAddress(i, module->globals[i]);
  }
  for (size_t i = 0; i < module->globals.size(); ++i) {
    if (code->globals()[i].size == 0 || !code->HasInitialiser(i)) continue;
    const std::vector<uint8_t> image = code->InitialImage(i);
    uint8_t* host = Reach(*driver, module->globals[i], image.size());
    if (host != nullptr) memcpy(host, image.data(), image.size());
  }
  module->code = std::move(code);
  for (const ptx::KernelInfo& info : module->code->kernels()) {
    auto function = std::make_unique<Function>();
    function->module = module.get();
    function->info = &info;
    driver->live.insert(function.get());
    module->functions.emplace(info.name, std::move(function));
  }
  driver->live.insert(module.get());
  *out = module.release();
  return CUDA_SUCCESS;
}

// Mutex held. The module's memory goes with it.
void Drop(Driver* driver, Module* module) {
  driver->live.erase(module);
  for (auto& [name, function] : module->functions) driver->live.erase(function.get());
  ReleaseMemory(driver, *module);
  if (module->library != nullptr) module->library->instances.erase(module->context);
  delete module;
}

CUresult Load(CUmodule* handle, const void* image, unsigned int count, const CUjit_option* options,
              void** values) {
  SIMGPU_CURRENT(driver, context);
  if (handle == nullptr || image == nullptr) return CUDA_ERROR_INVALID_VALUE;
  JitLog log;
  if (CUresult bad = ReadOptions(count, options, values, &log)) return bad;
  const unsigned int sm = SmOf(*driver, context->device);
  std::string text, why;
  if (CUresult bad = PtxOf(image, sm, &text, &why)) {
    Say(why);
    return bad;
  }
  std::shared_ptr<ptx::Module> code;
  if (CUresult bad = Parse(text, sm, &log, &code)) return bad;
  std::lock_guard guard(driver->mutex);
  Module* module = nullptr;
  if (CUresult bad = MakeReady(driver, context, std::move(code), text.size(), &module)) return bad;
  *handle = reinterpret_cast<CUmodule>(module);
  return CUDA_SUCCESS;
}

bool ReadFile(const char* path, std::string* bytes) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return false;
  bytes->assign(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  return true;
}

CUresult LoadLibrary(CUlibrary* handle, const void* image, unsigned int count,
                     const CUjit_option* options, void** values) {
  SIMGPU_DRIVER(driver);
  if (handle == nullptr || image == nullptr) return CUDA_ERROR_INVALID_VALUE;
  JitLog log;
  if (CUresult bad = ReadOptions(count, options, values, &log)) return bad;
  // A library belongs to no context; its PTX is chosen for the current device, or the first one.
  Driver* current_driver = nullptr;
  Context* context = nullptr;
  const int device = Current(&current_driver, &context) == CUDA_SUCCESS ? context->device : 0;
  const unsigned int sm = SmOf(*driver, device);
  auto library = std::make_unique<Library>();
  std::string why;
  if (CUresult bad = PtxOf(image, sm, &library->text, &why)) {
    Say(why);
    return bad;
  }
  if (CUresult bad = Parse(library->text, sm, &log, &library->code)) return bad;
  std::lock_guard guard(driver->mutex);
  for (const ptx::KernelInfo& info : library->code->kernels()) {
    auto kernel = std::make_unique<KernelOf>();
    kernel->library = library.get();
    kernel->info = &info;
    driver->live.insert(kernel.get());
    library->kernels.emplace(info.name, std::move(kernel));
  }
  driver->live.insert(library.get());
  *handle = reinterpret_cast<CUlibrary>(library.release());
  return CUDA_SUCCESS;
}

// The library's module in the context, made at first use. Mutex held.
CUresult InstanceOf(Driver* driver, Context* context, Library* library, Module** module) {
  auto at = library->instances.find(context);
  if (at != library->instances.end()) {
    *module = at->second;
    return CUDA_SUCCESS;
  }
  JitLog none;
  std::shared_ptr<ptx::Module> code;
  if (CUresult bad = Parse(library->text, SmOf(*driver, context->device), &none, &code)) return bad;
  if (CUresult bad = MakeReady(driver, context, std::move(code), library->text.size(), module)) {
    return bad;
  }
  (*module)->library = library;
  library->instances[context] = *module;
  return CUDA_SUCCESS;
}

CUresult GlobalOf(const Module& module, const char* name, CUdeviceptr* address, size_t* bytes) {
  const int index = module.code->FindGlobal(name);
  if (index < 0 || module.code->globals()[index].size == 0) return CUDA_ERROR_NOT_FOUND;
  if (address != nullptr) *address = module.globals[index];
  if (bytes != nullptr) *bytes = module.code->globals()[index].size;
  return CUDA_SUCCESS;
}

CUresult AttributeOf(const Profile& profile, const ptx::KernelInfo& info, const ptx::Module& code,
                     int raised_to, CUfunction_attribute attribute, int* value) {
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
      *value = static_cast<int>(std::min<uint32_t>(info.max_threads, 1024));
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
      *value = static_cast<int>(info.static_shared_bytes);
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES:
      *value = static_cast<int>(info.local_bytes);
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
      *value = static_cast<int>(info.registers);
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
      *value = code.target();
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
      *value = static_cast<int>(profile.capability_major * 10 + profile.capability_minor);
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
      *value = static_cast<int>(DynamicSharedMax(profile, info, raised_to));
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
      *value = -1;  // the default
      return CUDA_SUCCESS;
    default:
      *value = 0;
      return attribute < CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE + 1
                 ? CUDA_SUCCESS
                 : CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult RaiseShared(const Profile& profile, const ptx::KernelInfo& info,
                     CUfunction_attribute attribute, int value, int* raised_to) {
  if (attribute == CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT) {
    return value >= -1 && value <= 100 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;  // a hint
  }
  if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_ERROR_INVALID_VALUE;
  const int64_t most = int64_t{profile.shared_per_block_optin} - int64_t{info.static_shared_bytes};
  if (value < 0 || value > most) return CUDA_ERROR_INVALID_VALUE;
  *raised_to = value;
  return CUDA_SUCCESS;
}

CUresult ParameterOf(const ptx::KernelInfo& info, size_t index, size_t* offset, size_t* size) {
  if (offset == nullptr || index >= info.params.size()) return CUDA_ERROR_INVALID_VALUE;
  *offset = info.params[index].offset;
  if (size != nullptr) *size = info.params[index].size;
  return CUDA_SUCCESS;
}

}  // namespace

void DropModules(Driver* driver, Context* context) {
  std::vector<Module*> modules;
  for (const Object* object : driver->live) {
    if (object->kind != Kind::kModule) continue;
    auto* module = const_cast<Module*>(static_cast<const Module*>(object));
    if (module->context == context) modules.push_back(module);
  }
  for (Module* module : modules) Drop(driver, module);
}

CUresult FunctionOf(Driver* driver, Context* context, const void* handle, Function** function,
                    int* dynamic_shared_max) {
  if (auto* direct = Live<Function>(*driver, handle, Kind::kFunction)) {
    *function = direct;
    *dynamic_shared_max = direct->dynamic_shared_max;
    return CUDA_SUCCESS;
  }
  auto* kernel = Live<KernelOf>(*driver, handle, Kind::kKernel);
  if (kernel == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  Module* module = nullptr;
  if (CUresult bad = InstanceOf(driver, context, kernel->library, &module)) return bad;
  *function = module->functions.find(kernel->info->name)->second.get();
  *dynamic_shared_max = std::max(kernel->dynamic_shared_max, (*function)->dynamic_shared_max);
  return CUDA_SUCCESS;
}

uint32_t DynamicSharedMax(const Profile& profile, const ptx::KernelInfo& info, int raised_to) {
  const uint32_t ordinary = 49152 - std::min<uint32_t>(49152, info.static_shared_bytes);
  const uint32_t optin = profile.shared_per_block_optin -
                         std::min(profile.shared_per_block_optin, info.static_shared_bytes);
  return raised_to < 0 ? ordinary : std::min(optin, static_cast<uint32_t>(raised_to));
}

}  // namespace simgpu

namespace tessera::abi {
using namespace simgpu;  // NOLINT

extern "C" {

CUresult cuModuleLoadData(CUmodule* handle, const void* image) {
  return Load(handle, image, 0, nullptr, nullptr);
}

CUresult cuModuleLoadDataEx(CUmodule* handle, const void* image, unsigned int count,
                            CUjit_option* options, void** values) {
  return Load(handle, image, count, options, values);
}

CUresult cuModuleLoadFatBinary(CUmodule* handle, const void* image) {
  return Load(handle, image, 0, nullptr, nullptr);
}

CUresult cuModuleLoad(CUmodule* handle, const char* path) {
  SIMGPU_CURRENT(driver, context);
  if (path == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::string bytes;
  if (!ReadFile(path, &bytes)) return CUDA_ERROR_FILE_NOT_FOUND;
  return Load(handle, bytes.c_str(), 0, nullptr, nullptr);
}

CUresult cuModuleUnload(CUmodule handle) {
  SIMGPU_CURRENT(driver, context);
  // What runs it or uses its variables ends first. Another thread may unload it meanwhile.
  for (Context* owner = nullptr;;) {
    std::unique_lock lock(driver->mutex);
    auto* module = Live<Module>(*driver, handle, Kind::kModule);
    if (module == nullptr || module->library != nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (owner == module->context) {
      Drop(driver, module);
      return CUDA_SUCCESS;
    }
    owner = module->context;
    lock.unlock();
    WaitContext(owner);
  }
}

CUresult cuModuleGetLoadingMode(CUmoduleLoadingMode* mode) {
  SIMGPU_DRIVER(driver);
  if (mode == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *mode = CU_MODULE_EAGER_LOADING;
  return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction* out, CUmodule handle, const char* name) {
  SIMGPU_CURRENT(driver, context);
  if (out == nullptr || name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  auto* module = Live<Module>(*driver, handle, Kind::kModule);
  if (module == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  auto at = module->functions.find(std::string_view(name));
  if (at == module->functions.end()) return CUDA_ERROR_NOT_FOUND;
  *out = reinterpret_cast<CUfunction>(at->second.get());
  return CUDA_SUCCESS;
}

CUresult cuModuleGetFunctionCount(unsigned int* count, CUmodule handle) {
  SIMGPU_CURRENT(driver, context);
  if (count == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  auto* module = Live<Module>(*driver, handle, Kind::kModule);
  if (module == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  *count = static_cast<unsigned int>(module->functions.size());
  return CUDA_SUCCESS;
}

CUresult cuModuleEnumerateFunctions(CUfunction* out, unsigned int count, CUmodule handle) {
  SIMGPU_CURRENT(driver, context);
  if (out == nullptr || count == 0) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  auto* module = Live<Module>(*driver, handle, Kind::kModule);
  if (module == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  unsigned int i = 0;
  for (auto& [name, function] : module->functions) {
    if (i == count) break;
    out[i++] = reinterpret_cast<CUfunction>(function.get());
  }
  return CUDA_SUCCESS;
}

CUresult cuModuleGetGlobal_v2(CUdeviceptr* address, size_t* bytes, CUmodule handle,
                              const char* name) {
  SIMGPU_CURRENT(driver, context);
  if (name == nullptr || (address == nullptr && bytes == nullptr)) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  auto* module = Live<Module>(*driver, handle, Kind::kModule);
  if (module == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  return GlobalOf(*module, name, address, bytes);
}

CUresult cuLibraryLoadData(CUlibrary* handle, const void* image, CUjit_option* jit_options,
                           void** jit_values, unsigned int jit_count, CUlibraryOption* options,
                           void**, unsigned int count) {
  if (count > 0 && options == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return LoadLibrary(handle, image, jit_count, jit_options, jit_values);
}

CUresult cuLibraryLoadFromFile(CUlibrary* handle, const char* path, CUjit_option* jit_options,
                               void** jit_values, unsigned int jit_count, CUlibraryOption* options,
                               void**, unsigned int count) {
  SIMGPU_DRIVER(driver);
  if (path == nullptr || (count > 0 && options == nullptr)) return CUDA_ERROR_INVALID_VALUE;
  std::string bytes;
  if (!ReadFile(path, &bytes)) return CUDA_ERROR_FILE_NOT_FOUND;
  return LoadLibrary(handle, bytes.c_str(), jit_count, jit_options, jit_values);
}

CUresult cuLibraryUnload(CUlibrary handle) {
  SIMGPU_DRIVER(driver);
  if (InHostFunction()) return CUDA_ERROR_NOT_PERMITTED;
  // What runs it or uses its variables ends first. Contexts are never deleted.
  std::vector<Context*> users;
  {
    std::lock_guard guard(driver->mutex);
    const auto* library = Live<Library>(*driver, handle, Kind::kLibrary);
    if (library == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    for (const auto& [context, module] : library->instances) users.push_back(context);
  }
  for (Context* context : users) WaitContext(context);
  std::lock_guard guard(driver->mutex);
  auto* library = Live<Library>(*driver, handle, Kind::kLibrary);
  if (library == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  while (!library->instances.empty()) Drop(driver, library->instances.begin()->second);
  for (auto& [name, kernel] : library->kernels) driver->live.erase(kernel.get());
  driver->live.erase(library);
  delete library;
  return CUDA_SUCCESS;
}

CUresult cuLibraryGetKernel(CUkernel* out, CUlibrary handle, const char* name) {
  SIMGPU_DRIVER(driver);
  if (out == nullptr || name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  auto* library = Live<Library>(*driver, handle, Kind::kLibrary);
  if (library == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  auto at = library->kernels.find(std::string_view(name));
  if (at == library->kernels.end()) return CUDA_ERROR_NOT_FOUND;
  *out = reinterpret_cast<CUkernel>(at->second.get());
  return CUDA_SUCCESS;
}

CUresult cuLibraryGetKernelCount(unsigned int* count, CUlibrary handle) {
  SIMGPU_DRIVER(driver);
  if (count == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  auto* library = Live<Library>(*driver, handle, Kind::kLibrary);
  if (library == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  *count = static_cast<unsigned int>(library->kernels.size());
  return CUDA_SUCCESS;
}

CUresult cuLibraryEnumerateKernels(CUkernel* out, unsigned int count, CUlibrary handle) {
  SIMGPU_DRIVER(driver);
  if (out == nullptr || count == 0) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  auto* library = Live<Library>(*driver, handle, Kind::kLibrary);
  if (library == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  unsigned int i = 0;
  for (auto& [name, kernel] : library->kernels) {
    if (i == count) break;
    out[i++] = reinterpret_cast<CUkernel>(kernel.get());
  }
  return CUDA_SUCCESS;
}

CUresult cuLibraryGetModule(CUmodule* out, CUlibrary handle) {
  SIMGPU_CURRENT(driver, context);
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  auto* library = Live<Library>(*driver, handle, Kind::kLibrary);
  if (library == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  Module* module = nullptr;
  if (CUresult bad = InstanceOf(driver, context, library, &module)) return bad;
  *out = reinterpret_cast<CUmodule>(module);
  return CUDA_SUCCESS;
}

CUresult cuLibraryGetGlobal(CUdeviceptr* address, size_t* bytes, CUlibrary handle,
                            const char* name) {
  SIMGPU_CURRENT(driver, context);
  if (name == nullptr || (address == nullptr && bytes == nullptr)) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  auto* library = Live<Library>(*driver, handle, Kind::kLibrary);
  if (library == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  Module* module = nullptr;
  if (CUresult bad = InstanceOf(driver, context, library, &module)) return bad;
  return GlobalOf(*module, name, address, bytes);
}

// Managed variables have one address in all contexts that use the library on a device.
CUresult cuLibraryGetManaged(CUdeviceptr* address, size_t* bytes, CUlibrary handle,
                             const char* name) {
  SIMGPU_CURRENT(driver, context);
  if (name == nullptr || (address == nullptr && bytes == nullptr)) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  auto* library = Live<Library>(*driver, handle, Kind::kLibrary);
  if (library == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  const int index = library->code->FindGlobal(name);
  if (index < 0 || !library->code->globals()[index].managed) return CUDA_ERROR_NOT_FOUND;
  Module* module = nullptr;
  if (CUresult bad = InstanceOf(driver, context, library, &module)) return bad;
  return GlobalOf(*module, name, address, bytes);
}

CUresult cuKernelGetLibrary(CUlibrary* out, CUkernel handle) {
  SIMGPU_DRIVER(driver);
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  auto* kernel = Live<KernelOf>(*driver, handle, Kind::kKernel);
  if (kernel == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  *out = reinterpret_cast<CUlibrary>(kernel->library);
  return CUDA_SUCCESS;
}

// How a multiprocessor divides its memory between cache and shared is a hint, and nothing here.
CUresult cuKernelSetCacheConfig(CUkernel handle, CUfunc_cache config, CUdevice device) {
  Driver* driver = nullptr;
  if (CUresult bad = CheckDevice(device, &driver)) return bad;
  if (static_cast<unsigned int>(config) > kCacheConfigMax) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  return Live<KernelOf>(*driver, handle, Kind::kKernel) != nullptr ? CUDA_SUCCESS
                                                                   : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuKernelGetFunction(CUfunction* out, CUkernel handle) {
  SIMGPU_CURRENT(driver, context);
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  if (Live<KernelOf>(*driver, handle, Kind::kKernel) == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  Function* function = nullptr;
  int raised_to = 0;
  if (CUresult bad = FunctionOf(driver, context, handle, &function, &raised_to)) return bad;
  *out = reinterpret_cast<CUfunction>(function);
  return CUDA_SUCCESS;
}

CUresult cuKernelGetName(const char** name, CUkernel handle) {
  SIMGPU_DRIVER(driver);
  if (name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  auto* kernel = Live<KernelOf>(*driver, handle, Kind::kKernel);
  if (kernel == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  *name = kernel->info->name.c_str();
  return CUDA_SUCCESS;
}

CUresult cuKernelGetParamInfo(CUkernel handle, size_t index, size_t* offset, size_t* size) {
  SIMGPU_DRIVER(driver);
  std::lock_guard guard(driver->mutex);
  auto* kernel = Live<KernelOf>(*driver, handle, Kind::kKernel);
  if (kernel == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  return ParameterOf(*kernel->info, index, offset, size);
}

CUresult cuKernelGetAttribute(int* value, CUfunction_attribute attribute, CUkernel handle,
                              CUdevice device) {
  Driver* driver = nullptr;
  if (CUresult bad = CheckDevice(device, &driver)) return bad;
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  auto* kernel = Live<KernelOf>(*driver, handle, Kind::kKernel);
  if (kernel == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  return AttributeOf(CardOf(*driver, device).profile, *kernel->info, *kernel->library->code,
                     kernel->dynamic_shared_max, attribute, value);
}

CUresult cuKernelSetAttribute(CUfunction_attribute attribute, int value, CUkernel handle,
                              CUdevice device) {
  Driver* driver = nullptr;
  if (CUresult bad = CheckDevice(device, &driver)) return bad;
  std::lock_guard guard(driver->mutex);
  auto* kernel = Live<KernelOf>(*driver, handle, Kind::kKernel);
  if (kernel == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  return RaiseShared(CardOf(*driver, device).profile, *kernel->info, attribute, value,
                     &kernel->dynamic_shared_max);
}

CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction handle) {
  SIMGPU_CURRENT(driver, context);
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  Function* function = nullptr;
  int raised_to = 0;
  if (CUresult bad = FunctionOf(driver, context, handle, &function, &raised_to)) return bad;
  return AttributeOf(CardOf(*driver, context->device).profile, *function->info,
                     *function->module->code, raised_to, attribute, value);
}

CUresult cuFuncSetAttribute(CUfunction handle, CUfunction_attribute attribute, int value) {
  SIMGPU_CURRENT(driver, context);
  std::lock_guard guard(driver->mutex);
  Function* function = nullptr;
  int raised_to = 0;
  if (CUresult bad = FunctionOf(driver, context, handle, &function, &raised_to)) return bad;
  return RaiseShared(CardOf(*driver, context->device).profile, *function->info, attribute, value,
                     &function->dynamic_shared_max);
}

CUresult cuFuncSetCacheConfig(CUfunction handle, CUfunc_cache config) {
  SIMGPU_CURRENT(driver, context);
  if (static_cast<unsigned int>(config) > kCacheConfigMax) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  Function* function = nullptr;
  int raised_to = 0;
  return FunctionOf(driver, context, handle, &function, &raised_to);
}

CUresult cuFuncSetSharedMemConfig(CUfunction handle, CUsharedconfig config) {
  SIMGPU_CURRENT(driver, context);
  if (static_cast<unsigned int>(config) > kSharedConfigMax) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  Function* function = nullptr;
  int raised_to = 0;
  return FunctionOf(driver, context, handle, &function, &raised_to);
}

// Loading is eager (cuModuleGetLoadingMode): what has a handle is loaded.
CUresult cuFuncLoad(CUfunction handle) {
  SIMGPU_CURRENT(driver, context);
  std::lock_guard guard(driver->mutex);
  Function* function = nullptr;
  int raised_to = 0;
  return FunctionOf(driver, context, handle, &function, &raised_to);
}

CUresult cuFuncIsLoaded(CUfunctionLoadingState* state, CUfunction handle) {
  SIMGPU_CURRENT(driver, context);
  if (state == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  Function* function = nullptr;
  int raised_to = 0;
  if (CUresult bad = FunctionOf(driver, context, handle, &function, &raised_to)) return bad;
  *state = CUfunctionLoadingState{1};
  return CUDA_SUCCESS;
}

CUresult cuFuncGetName(const char** name, CUfunction handle) {
  SIMGPU_CURRENT(driver, context);
  if (name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  auto* function = Live<Function>(*driver, handle, Kind::kFunction);
  if (function == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  *name = function->info->name.c_str();
  return CUDA_SUCCESS;
}

CUresult cuFuncGetModule(CUmodule* out, CUfunction handle) {
  SIMGPU_CURRENT(driver, context);
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  auto* function = Live<Function>(*driver, handle, Kind::kFunction);
  if (function == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  *out = reinterpret_cast<CUmodule>(function->module);
  return CUDA_SUCCESS;
}

CUresult cuFuncGetParamInfo(CUfunction handle, size_t index, size_t* offset, size_t* size) {
  SIMGPU_CURRENT(driver, context);
  std::lock_guard guard(driver->mutex);
  auto* function = Live<Function>(*driver, handle, Kind::kFunction);
  if (function == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  return ParameterOf(*function->info, index, offset, size);
}

}  // extern "C"
}  // namespace tessera::abi
