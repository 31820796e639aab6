// What host stubs register when a program starts: its device code, the kernels and variables in it.
// Device code is loaded at its first use.
// Thread-safe; leaked, because stubs come and go through exit handlers.
#pragma once

#include <cstddef>

#include "simgpu/cudart/runtime.h"

namespace simgpu::cudart {

struct Kernel;

// The kernel of a host stub's address, or null.
Kernel* FindKernel(const void* host_function);
// The kernel a handle stands for, or null: handles of the runtime are such pointers.
Kernel* KernelOf(const void* handle);
// Its handle, the same on every device. Needs a context.
cudaError_t Resolve(Kernel* kernel, CUkernel* handle);

// The address and size of a registered variable on the current device. Needs a context.
cudaError_t FindVariable(const void* host_variable, CUdeviceptr* address, std::size_t* size);

}  // namespace simgpu::cudart
