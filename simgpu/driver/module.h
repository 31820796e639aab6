// Modules, libraries, kernels and functions of the driver. See driver.h for the rules of handles.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "simgpu/driver/driver.h"
#include "simgpu/ptx/ptx.h"

namespace simgpu {

struct Function : Object {
  Function() : Object(Kind::kFunction) {}
  Module* module = nullptr;
  const ptx::KernelInfo* info = nullptr;
  int dynamic_shared_max = -1;  // -1: what fits the ordinary 48 KiB
};

// PTX made ready in one context: its variables have addresses there.
struct Module : Object {
  Module() : Object(Kind::kModule) {}
  Context* context = nullptr;
  // Shared with launches under way, which may outlive an unload by another thread.
  std::shared_ptr<ptx::Module> code;
  uint64_t base = 0;              // of its memory; 0 when it takes none
  std::vector<uint64_t> managed;  // bases of its managed variables, which have memory of their own
  std::vector<uint64_t> globals;
  std::map<std::string, std::unique_ptr<Function>, std::less<>> functions;
  Library* library = nullptr;  // when it is a library's instance
};

struct KernelOf : Object {
  KernelOf() : Object(Kind::kKernel) {}
  Library* library = nullptr;
  const ptx::KernelInfo* info = nullptr;
  int dynamic_shared_max = -1;
};

// PTX that becomes a module in each context that uses it.
struct Library : Object {
  Library() : Object(Kind::kLibrary) {}
  std::string text;
  std::shared_ptr<ptx::Module> code;  // for what it declares
  std::map<Context*, Module*> instances;
  std::map<std::string, std::unique_ptr<KernelOf>, std::less<>> kernels;
};

// The function a handle names: a function, or a kernel made ready in `context`. Mutex held.
CUresult FunctionOf(Driver* driver, Context* context, const void* handle, Function** function,
                    int* dynamic_shared_max);

// The largest dynamic shared memory of a launch, given what cuFuncSetAttribute raised it to.
uint32_t DynamicSharedMax(const Profile& profile, const ptx::KernelInfo& info, int raised_to);

}  // namespace simgpu
