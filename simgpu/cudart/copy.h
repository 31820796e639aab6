// Copies of the runtime in the driver's words; shared by plain calls and graph nodes.
#pragma once

#include "simgpu/cudart/runtime.h"

namespace simgpu::cudart {

// A three-dimensional copy. Extents and positions count elements of arrays, bytes of pointers.
cudaError_t Describe3D(const cudaMemcpy3DParms& from, CUDA_MEMCPY3D* to);
// The same copy as the runtime would have described it.
cudaError_t Undescribe3D(const CUDA_MEMCPY3D& from, cudaMemcpy3DParms* to);
// One row of bytes.
cudaError_t Describe1D(void* to, const void* from, size_t count, unsigned int kind,
                       CUDA_MEMCPY3D* copy);
// The part of a variable that a symbol copy names. Needs a context.
cudaError_t SymbolRange(const void* symbol, size_t count, size_t offset, void** address);

// The bytes of one element of an array.
cudaError_t ElementBytes(CUarray array, size_t* bytes);

}  // namespace simgpu::cudart
