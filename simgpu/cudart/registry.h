// What host stubs register when a program starts: its device code, the kernels and variables in it.
// Device code is loaded at its first use, or with the first context if it has managed variables.
// Also knows the kernels of libraries a program loaded itself, because their handles stand where a
// stub's address may. Thread-safe; leaked, because stubs come and go through exit handlers.
#pragma once

#include <cstddef>

#include "simgpu/cudart/runtime.h"

namespace simgpu::cudart {

// The driver's handle of what a program calls a function: a host stub's address, a handle of
// __cudaGetKernel, or a kernel of a loaded library. The same on every device. Needs a context.
cudaError_t KernelOf(const void* function, CUkernel* handle);
// The other way: the host stub of a handle, or the handle itself when it has none.
void* HostFunctionOf(const void* handle);

// Kernels that programs may use by their handles, and the end of those of a library.
void Remember(CUkernel kernel, CUlibrary library);
void Forget(CUlibrary library);

// The address and size of a registered variable on the current device. Needs a context.
cudaError_t FindVariable(const void* host_variable, CUdeviceptr* address, std::size_t* size);

// Loads programs with managed variables that are not loaded yet and tells their stubs where the
// variables are. Needs a context; free of cost when there is nothing to do.
cudaError_t LoadManaged();

}  // namespace simgpu::cudart
