// Arrays and mipmapped arrays: storage, shape and channels.
#include "simgpu/cudart/copy.h"

namespace simgpu::cudart {
namespace {

// The element of an array in the driver's words: as many channels as have bits, of one width.
cudaError_t FormatOf(const cudaChannelFormatDesc& channels, CUarray_format* format,
                     unsigned int* count) {
  const int bits[4] = {channels.x, channels.y, channels.z, channels.w};
  *count = 0;
  while (*count < 4 && bits[*count] != 0) ++*count;
  if (*count == 0 || *count == 3) return cudaErrorInvalidChannelDescriptor;
  for (unsigned int i = 1; i < 4; ++i) {
    if (bits[i] != (i < *count ? bits[0] : 0)) return cudaErrorInvalidChannelDescriptor;
  }
  const auto pick = [&](CUarray_format at8, CUarray_format at16, CUarray_format at32) {
    *format = bits[0] == 8 ? at8 : (bits[0] == 16 ? at16 : at32);
    return bits[0] == 8 || bits[0] == 16 || bits[0] == 32;
  };
  bool known = false;
  switch (channels.f) {
    case cudaChannelFormatKindSigned:
      known = pick(CU_AD_FORMAT_SIGNED_INT8, CU_AD_FORMAT_SIGNED_INT16, CU_AD_FORMAT_SIGNED_INT32);
      break;
    case cudaChannelFormatKindUnsigned:
      known = pick(CU_AD_FORMAT_UNSIGNED_INT8, CU_AD_FORMAT_UNSIGNED_INT16,
                   CU_AD_FORMAT_UNSIGNED_INT32);
      break;
    case cudaChannelFormatKindFloat:
      *format = bits[0] == 16 ? CU_AD_FORMAT_HALF : CU_AD_FORMAT_FLOAT;
      known = bits[0] == 16 || bits[0] == 32;
      break;
    case cudaChannelFormatKindNone:
      break;
  }
  return known ? cudaSuccess : cudaErrorInvalidChannelDescriptor;
}

// Bits of a channel and their kind; false for a format that has none of the runtime's.
bool ChannelOf(CUarray_format format, int* bits, cudaChannelFormatKind* kind) {
  switch (format) {
    case CU_AD_FORMAT_UNSIGNED_INT8:
    case CU_AD_FORMAT_UNSIGNED_INT16:
    case CU_AD_FORMAT_UNSIGNED_INT32:
      *kind = cudaChannelFormatKindUnsigned;
      *bits = 8 << (format - CU_AD_FORMAT_UNSIGNED_INT8);
      return true;
    case CU_AD_FORMAT_SIGNED_INT8:
    case CU_AD_FORMAT_SIGNED_INT16:
    case CU_AD_FORMAT_SIGNED_INT32:
      *kind = cudaChannelFormatKindSigned;
      *bits = 8 << (format - CU_AD_FORMAT_SIGNED_INT8);
      return true;
    case CU_AD_FORMAT_HALF:
    case CU_AD_FORMAT_FLOAT:
      *kind = cudaChannelFormatKindFloat;
      *bits = format == CU_AD_FORMAT_HALF ? 16 : 32;
      return true;
    default:
      return false;
  }
}

cudaError_t Channels(const CUDA_ARRAY3D_DESCRIPTOR& from, cudaChannelFormatDesc* to) {
  int bits = 0;
  cudaChannelFormatKind kind = cudaChannelFormatKindNone;
  if (!ChannelOf(from.Format, &bits, &kind)) return cudaErrorInvalidChannelDescriptor;
  const auto channel = [&](unsigned int n) { return n <= from.NumChannels ? bits : 0; };
  *to = {channel(1), channel(2), channel(3), channel(4), kind};
  return cudaSuccess;
}

cudaError_t Describe(const cudaChannelFormatDesc* channels, const cudaExtent& extent,
                     unsigned int flags, CUDA_ARRAY3D_DESCRIPTOR* descriptor) {
  if (channels == nullptr) return cudaErrorInvalidValue;
  *descriptor = {};
  descriptor->Width = extent.width;
  descriptor->Height = extent.height;
  descriptor->Depth = extent.depth;
  descriptor->Flags = flags;
  return FormatOf(*channels, &descriptor->Format, &descriptor->NumChannels);
}

cudaError_t Create(CUarray* array, const cudaChannelFormatDesc* channels, const cudaExtent& extent,
                   unsigned int flags) {
  if (array == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  CUDA_ARRAY3D_DESCRIPTOR descriptor;
  const cudaError_t bad = Describe(channels, extent, flags, &descriptor);
  if (bad != cudaSuccess) return Record(bad);
  return Record(Call(Driver().cuArray3DCreate_v2)(array, &descriptor));
}

}  // namespace

cudaError_t ElementBytes(CUarray array, size_t* bytes) {
  CUDA_ARRAY3D_DESCRIPTOR descriptor = {};
  const CUresult result = Call(Driver().cuArray3DGetDescriptor_v2)(&descriptor, array);
  if (result != CUDA_SUCCESS) return static_cast<cudaError_t>(result);
  int bits = 0;
  cudaChannelFormatKind kind = cudaChannelFormatKindNone;
  if (!ChannelOf(descriptor.Format, &bits, &kind)) return cudaErrorInvalidChannelDescriptor;
  *bytes = static_cast<size_t>(bits) / 8 * descriptor.NumChannels;
  return cudaSuccess;
}

CUDART_CALL cudaChannelFormatDesc cudaCreateChannelDesc(int x, int y, int z, int w,
                                                        cudaChannelFormatKind kind) {
  return {x, y, z, w, kind};
}

CUDART_CALL cudaError_t cudaMallocArray(CUarray* array, const cudaChannelFormatDesc* channels,
                                        size_t width, size_t height, unsigned int flags) {
  return Create(array, channels, {width, height, 0}, flags);
}

CUDART_CALL cudaError_t cudaMalloc3DArray(CUarray* array, const cudaChannelFormatDesc* channels,
                                          cudaExtent extent, unsigned int flags) {
  return Create(array, channels, extent, flags);
}

CUDART_CALL cudaError_t cudaMallocMipmappedArray(CUmipmappedArray* array,
                                                 const cudaChannelFormatDesc* channels,
                                                 cudaExtent extent, unsigned int levels,
                                                 unsigned int flags) {
  if (array == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  CUDA_ARRAY3D_DESCRIPTOR descriptor;
  const cudaError_t bad = Describe(channels, extent, flags, &descriptor);
  if (bad != cudaSuccess) return Record(bad);
  return Record(Call(Driver().cuMipmappedArrayCreate)(array, &descriptor, levels));
}

CUDART_CALL cudaError_t cudaFreeArray(CUarray array) {
  CUDART_NEEDS_CONTEXT();
  if (array == nullptr) return cudaSuccess;
  return Record(Call(Driver().cuArrayDestroy)(array));
}

CUDART_CALL cudaError_t cudaFreeMipmappedArray(CUmipmappedArray array) {
  CUDART_NEEDS_CONTEXT();
  if (array == nullptr) return cudaSuccess;
  return Record(Call(Driver().cuMipmappedArrayDestroy)(array));
}

CUDART_PASS(cudaGetMipmappedArrayLevel, cuMipmappedArrayGetLevel,
            (CUarray * level_array, CUmipmappedArray array, unsigned int level),
            (level_array, array, level))
CUDART_PASS(cudaArrayGetPlane, cuArrayGetPlane,
            (CUarray * plane, CUarray array, unsigned int index), (plane, array, index))
CUDART_PASS(cudaArrayGetMemoryRequirements, cuArrayGetMemoryRequirements,
            (CUDA_ARRAY_MEMORY_REQUIREMENTS * requirements, CUarray array, int device),
            (requirements, array, device))
CUDART_PASS(cudaMipmappedArrayGetMemoryRequirements, cuMipmappedArrayGetMemoryRequirements,
            (CUDA_ARRAY_MEMORY_REQUIREMENTS * requirements, CUmipmappedArray array, int device),
            (requirements, array, device))
CUDART_PASS(cudaArrayGetSparseProperties, cuArrayGetSparseProperties,
            (CUDA_ARRAY_SPARSE_PROPERTIES * properties, CUarray array), (properties, array))
CUDART_PASS(cudaMipmappedArrayGetSparseProperties, cuMipmappedArrayGetSparseProperties,
            (CUDA_ARRAY_SPARSE_PROPERTIES * properties, CUmipmappedArray array),
            (properties, array))

CUDART_CALL cudaError_t cudaArrayGetInfo(cudaChannelFormatDesc* channels, cudaExtent* extent,
                                         unsigned int* flags, CUarray array) {
  CUDART_NEEDS_CONTEXT();
  CUDA_ARRAY3D_DESCRIPTOR descriptor = {};
  const CUresult result = Call(Driver().cuArray3DGetDescriptor_v2)(&descriptor, array);
  if (result != CUDA_SUCCESS) return Record(result);
  if (channels != nullptr) {
    const cudaError_t bad = Channels(descriptor, channels);
    if (bad != cudaSuccess) return Record(bad);
  }
  if (extent != nullptr) *extent = {descriptor.Width, descriptor.Height, descriptor.Depth};
  if (flags != nullptr) *flags = descriptor.Flags;
  return cudaSuccess;
}

CUDART_CALL cudaError_t cudaGetChannelDesc(cudaChannelFormatDesc* channels, CUarray array) {
  if (channels == nullptr) return Record(cudaErrorInvalidValue);
  return cudaArrayGetInfo(channels, nullptr, nullptr, array);
}

}  // namespace simgpu::cudart
