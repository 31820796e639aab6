// The PTX text of demo_kernels.cu, NUL-terminated, ready for cuModuleLoadData or
// simgpu::ptx::Module::Parse.
#pragma once

namespace simgpu::kernels {

extern const char kDemoKernelsPtx[];

}  // namespace simgpu::kernels
