// Copying and setting memory. Functions that take a Form do both a call's legacy form and the
// per-thread one, whose null stream is the thread's own.
#include "simgpu/cudart/copy.h"

#include <cstring>

#include "simgpu/cudart/registry.h"

// The driver's entry point of that form.
#define CUDART_FORM(form, entry) \
  Call((form) == Form::kPerThread ? Driver().entry##_ptds : Driver().entry)

// Exports both forms of a synchronous call.
#define CUDART_BOTH(name, function, parameters, ...)                                       \
  CUDART_CALL cudaError_t name parameters { return function(__VA_ARGS__, Form::kLegacy); } \
  CUDART_CALL cudaError_t name##_ptds parameters { return function(__VA_ARGS__, Form::kPerThread); }

namespace simgpu::cudart {
namespace {

bool FromDevice(unsigned int kind) {
  return kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
}
bool ToDevice(unsigned int kind) {
  return kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
}
CUmemorytype TypeOf(unsigned int kind, bool device) {
  if (kind == cudaMemcpyDefault) return CU_MEMORYTYPE_UNIFIED;
  return device ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
}

cudaError_t Copy(void* to, const void* from, size_t count, unsigned int kind, Form form) {
  CUDART_NEEDS_CONTEXT();
  if (kind > cudaMemcpyDefault) return Record(cudaErrorInvalidMemcpyDirection);
  if (count == 0) return cudaSuccess;
  switch (kind) {
    case cudaMemcpyHostToHost:
      std::memmove(to, from, count);
      return cudaSuccess;
    case cudaMemcpyHostToDevice:
      return Record(CUDART_FORM(form, cuMemcpyHtoD_v2)(Address(to), from, count));
    case cudaMemcpyDeviceToHost:
      return Record(CUDART_FORM(form, cuMemcpyDtoH_v2)(to, Address(from), count));
    case cudaMemcpyDeviceToDevice:
      return Record(CUDART_FORM(form, cuMemcpyDtoD_v2)(Address(to), Address(from), count));
    default:
      return Record(CUDART_FORM(form, cuMemcpy)(Address(to), Address(from), count));
  }
}

cudaError_t CopyAsync(void* to, const void* from, size_t count, unsigned int kind,
                      CUstream stream) {
  CUDART_NEEDS_CONTEXT();
  if (kind > cudaMemcpyDefault) return Record(cudaErrorInvalidMemcpyDirection);
  if (count == 0) return cudaSuccess;
  switch (kind) {
    case cudaMemcpyHostToDevice:
      return Record(Call(Driver().cuMemcpyHtoDAsync_v2)(Address(to), from, count, stream));
    case cudaMemcpyDeviceToHost:
      return Record(Call(Driver().cuMemcpyDtoHAsync_v2)(to, Address(from), count, stream));
    case cudaMemcpyDeviceToDevice:
      return Record(Call(Driver().cuMemcpyDtoDAsync_v2)(Address(to), Address(from), count, stream));
    default:
      return Record(Call(Driver().cuMemcpyAsync)(Address(to), Address(from), count, stream));
  }
}

// One side of a rectangle: rows in memory, or bytes of an array.
struct Side {
  const void* pointer = nullptr;
  size_t pitch = 0;
  CUarray array = nullptr;
  size_t x = 0;
  size_t y = 0;
};

cudaError_t Describe2D(const Side& to, const Side& from, size_t width, size_t height,
                       unsigned int kind, CUDA_MEMCPY2D* copy) {
  if (kind > cudaMemcpyDefault) return cudaErrorInvalidMemcpyDirection;
  if ((to.array == nullptr && width > to.pitch) || (from.array == nullptr && width > from.pitch)) {
    return cudaErrorInvalidPitchValue;
  }
  *copy = {};
  copy->srcMemoryType =
      from.array != nullptr ? CU_MEMORYTYPE_ARRAY : TypeOf(kind, FromDevice(kind));
  copy->dstMemoryType = to.array != nullptr ? CU_MEMORYTYPE_ARRAY : TypeOf(kind, ToDevice(kind));
  copy->srcHost = from.pointer;
  copy->srcDevice = Address(from.pointer);
  copy->srcArray = from.array;
  copy->srcPitch = from.pitch;
  copy->srcXInBytes = from.x;
  copy->srcY = from.y;
  copy->dstHost = const_cast<void*>(to.pointer);
  copy->dstDevice = Address(to.pointer);
  copy->dstArray = to.array;
  copy->dstPitch = to.pitch;
  copy->dstXInBytes = to.x;
  copy->dstY = to.y;
  copy->WidthInBytes = width;
  copy->Height = height;
  return cudaSuccess;
}

cudaError_t Rectangle(const Side& to, const Side& from, size_t width, size_t height,
                      unsigned int kind, Form form) {
  CUDART_NEEDS_CONTEXT();
  CUDA_MEMCPY2D copy;
  const cudaError_t bad = Describe2D(to, from, width, height, kind, &copy);
  if (bad != cudaSuccess) return Record(bad);
  if (width == 0 || height == 0) return cudaSuccess;
  return Record(CUDART_FORM(form, cuMemcpy2DUnaligned_v2)(&copy));
}

cudaError_t RectangleAsync(const Side& to, const Side& from, size_t width, size_t height,
                           unsigned int kind, CUstream stream) {
  CUDART_NEEDS_CONTEXT();
  CUDA_MEMCPY2D copy;
  const cudaError_t bad = Describe2D(to, from, width, height, kind, &copy);
  if (bad != cudaSuccess) return Record(bad);
  if (width == 0 || height == 0) return cudaSuccess;
  return Record(Call(Driver().cuMemcpy2DAsync_v2)(&copy, stream));
}

// The bytes of a row of an array.
cudaError_t RowBytes(CUarray array, size_t* bytes) {
  CUDA_ARRAY3D_DESCRIPTOR descriptor = {};
  const CUresult result = Call(Driver().cuArray3DGetDescriptor_v2)(&descriptor, array);
  if (result != CUDA_SUCCESS) return static_cast<cudaError_t>(result);
  size_t element = 0;
  if (const cudaError_t bad = ElementBytes(array, &element); bad != cudaSuccess) return bad;
  *bytes = descriptor.Width * element;
  return cudaSuccess;
}

// A run of bytes that begins somewhere in an array's row and goes on in the next ones: at most the
// rest of a row, whole rows and the beginning of a row.
template <typename Part>
cudaError_t Run(CUarray array, size_t x, size_t y, const void* memory, size_t count,
                const Part& part) {
  size_t row = 0;
  if (const cudaError_t bad = RowBytes(array, &row); bad != cudaSuccess) return Record(bad);
  if (row == 0 || x >= row) return Record(cudaErrorInvalidValue);
  const char* at = static_cast<const char*>(memory);
  while (count > 0) {
    const bool whole = x == 0 && count >= row;
    const size_t width = whole ? row : (count < row - x ? count : row - x);
    const size_t height = whole ? count / row : 1;
    const Side in_array = {nullptr, 0, array, x, y};
    const Side in_memory = {at, width, nullptr, 0, 0};
    if (const cudaError_t bad = part(in_array, in_memory, width, height); bad != cudaSuccess) {
      return bad;
    }
    at += width * height;
    count -= width * height;
    y += height;
    x = 0;
  }
  return cudaSuccess;
}

cudaError_t CopyToSymbol(const void* symbol, const void* from, size_t count, size_t offset,
                         unsigned int kind, Form form) {
  CUDART_NEEDS_CONTEXT();
  void* to = nullptr;
  const cudaError_t bad = SymbolRange(symbol, count, offset, &to);
  return bad != cudaSuccess ? Record(bad) : Copy(to, from, count, kind, form);
}

cudaError_t CopyFromSymbol(void* to, const void* symbol, size_t count, size_t offset,
                           unsigned int kind, Form form) {
  CUDART_NEEDS_CONTEXT();
  void* from = nullptr;
  const cudaError_t bad = SymbolRange(symbol, count, offset, &from);
  return bad != cudaSuccess ? Record(bad) : Copy(to, from, count, kind, form);
}

cudaError_t CopyToSymbolAsync(const void* symbol, const void* from, size_t count, size_t offset,
                              unsigned int kind, CUstream stream) {
  CUDART_NEEDS_CONTEXT();
  void* to = nullptr;
  const cudaError_t bad = SymbolRange(symbol, count, offset, &to);
  return bad != cudaSuccess ? Record(bad) : CopyAsync(to, from, count, kind, stream);
}

cudaError_t CopyFromSymbolAsync(void* to, const void* symbol, size_t count, size_t offset,
                                unsigned int kind, CUstream stream) {
  CUDART_NEEDS_CONTEXT();
  void* from = nullptr;
  const cudaError_t bad = SymbolRange(symbol, count, offset, &from);
  return bad != cudaSuccess ? Record(bad) : CopyAsync(to, from, count, kind, stream);
}

cudaError_t Copy3D(const cudaMemcpy3DParms* parameters, Form form) {
  if (parameters == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  CUDA_MEMCPY3D copy;
  if (const cudaError_t bad = Describe3D(*parameters, &copy); bad != cudaSuccess) {
    return Record(bad);
  }
  if (copy.WidthInBytes == 0 || copy.Height == 0 || copy.Depth == 0) return cudaSuccess;
  return Record(CUDART_FORM(form, cuMemcpy3D_v2)(&copy));
}

cudaError_t Copy3DAsync(const cudaMemcpy3DParms* parameters, CUstream stream) {
  if (parameters == nullptr) return Record(cudaErrorInvalidValue);
  CUDART_NEEDS_CONTEXT();
  CUDA_MEMCPY3D copy;
  if (const cudaError_t bad = Describe3D(*parameters, &copy); bad != cudaSuccess) {
    return Record(bad);
  }
  if (copy.WidthInBytes == 0 || copy.Height == 0 || copy.Depth == 0) return cudaSuccess;
  return Record(Call(Driver().cuMemcpy3DAsync_v2)(&copy, stream));
}

cudaError_t Set(void* pointer, int value, size_t count, Form form) {
  CUDART_NEEDS_CONTEXT();
  if (count == 0) return cudaSuccess;
  return Record(
      CUDART_FORM(form, cuMemsetD8_v2)(Address(pointer), static_cast<unsigned char>(value), count));
}

cudaError_t SetAsync(void* pointer, int value, size_t count, CUstream stream) {
  CUDART_NEEDS_CONTEXT();
  if (count == 0) return cudaSuccess;
  return Record(Call(Driver().cuMemsetD8Async)(Address(pointer), static_cast<unsigned char>(value),
                                               count, stream));
}

cudaError_t Set2D(void* pointer, size_t pitch, int value, size_t width, size_t height, Form form) {
  CUDART_NEEDS_CONTEXT();
  if (width == 0 || height == 0) return cudaSuccess;
  return Record(CUDART_FORM(form, cuMemsetD2D8_v2)(
      Address(pointer), pitch, static_cast<unsigned char>(value), width, height));
}

cudaError_t Set2DAsync(void* pointer, size_t pitch, int value, size_t width, size_t height,
                       CUstream stream) {
  CUDART_NEEDS_CONTEXT();
  if (width == 0 || height == 0) return cudaSuccess;
  return Record(Call(Driver().cuMemsetD2D8Async)(
      Address(pointer), pitch, static_cast<unsigned char>(value), width, height, stream));
}

// Slices that lie against each other are one rectangle.
template <typename Slice>
cudaError_t Set3D(const cudaPitchedPtr& pointer, const cudaExtent& extent, const Slice& slice) {
  if (extent.height > pointer.ysize && extent.depth > 1) return Record(cudaErrorInvalidValue);
  if (extent.width == 0 || extent.height == 0 || extent.depth == 0) return cudaSuccess;
  if (extent.depth == 1 || extent.height == pointer.ysize) {
    return slice(pointer.ptr, extent.height * extent.depth);
  }
  for (size_t z = 0; z < extent.depth; ++z) {
    char* const at = static_cast<char*>(pointer.ptr) + z * pointer.ysize * pointer.pitch;
    if (const cudaError_t bad = slice(at, extent.height); bad != cudaSuccess) return bad;
  }
  return cudaSuccess;
}

cudaError_t Set3DSync(cudaPitchedPtr pointer, int value, cudaExtent extent, Form form) {
  return Set3D(pointer, extent, [&](void* at, size_t rows) {
    return Set2D(at, pointer.pitch, value, extent.width, rows, form);
  });
}

cudaError_t Set3DAsync(cudaPitchedPtr pointer, int value, cudaExtent extent, CUstream stream) {
  return Set3D(pointer, extent, [&](void* at, size_t rows) {
    return Set2DAsync(at, pointer.pitch, value, extent.width, rows, stream);
  });
}

cudaError_t ToArray(CUarray array, size_t x, size_t y, const void* from, size_t count,
                    unsigned int kind, Form form) {
  CUDART_NEEDS_CONTEXT();
  return Run(array, x, y, from, count,
             [&](const Side& in_array, const Side& in_memory, size_t width, size_t height) {
               return Rectangle(in_array, in_memory, width, height, kind, form);
             });
}

cudaError_t FromArray(void* to, CUarray array, size_t x, size_t y, size_t count, unsigned int kind,
                      Form form) {
  CUDART_NEEDS_CONTEXT();
  return Run(array, x, y, to, count,
             [&](const Side& in_array, const Side& in_memory, size_t width, size_t height) {
               return Rectangle(in_memory, in_array, width, height, kind, form);
             });
}

cudaError_t ToArrayAsync(CUarray array, size_t x, size_t y, const void* from, size_t count,
                         unsigned int kind, CUstream stream) {
  CUDART_NEEDS_CONTEXT();
  return Run(array, x, y, from, count,
             [&](const Side& in_array, const Side& in_memory, size_t width, size_t height) {
               return RectangleAsync(in_array, in_memory, width, height, kind, stream);
             });
}

cudaError_t FromArrayAsync(void* to, CUarray array, size_t x, size_t y, size_t count,
                           unsigned int kind, CUstream stream) {
  CUDART_NEEDS_CONTEXT();
  return Run(array, x, y, to, count,
             [&](const Side& in_array, const Side& in_memory, size_t width, size_t height) {
               return RectangleAsync(in_memory, in_array, width, height, kind, stream);
             });
}

CUDA_MEMCPY3D_PEER DescribePeer(const cudaMemcpy3DParms& plain, const CUDA_MEMCPY3D& copy,
                                CUcontext from, CUcontext to) {
  CUDA_MEMCPY3D_PEER peer = {};
  peer.srcXInBytes = copy.srcXInBytes;
  peer.srcY = copy.srcY;
  peer.srcZ = copy.srcZ;
  peer.srcMemoryType = plain.srcArray != nullptr ? CU_MEMORYTYPE_ARRAY : CU_MEMORYTYPE_DEVICE;
  peer.srcDevice = copy.srcDevice;
  peer.srcArray = copy.srcArray;
  peer.srcContext = from;
  peer.srcPitch = copy.srcPitch;
  peer.srcHeight = copy.srcHeight;
  peer.dstXInBytes = copy.dstXInBytes;
  peer.dstY = copy.dstY;
  peer.dstZ = copy.dstZ;
  peer.dstMemoryType = plain.dstArray != nullptr ? CU_MEMORYTYPE_ARRAY : CU_MEMORYTYPE_DEVICE;
  peer.dstDevice = copy.dstDevice;
  peer.dstArray = copy.dstArray;
  peer.dstContext = to;
  peer.dstPitch = copy.dstPitch;
  peer.dstHeight = copy.dstHeight;
  peer.WidthInBytes = copy.WidthInBytes;
  peer.Height = copy.Height;
  peer.Depth = copy.Depth;
  return peer;
}

cudaError_t PreparePeer3D(const cudaMemcpy3DPeerParms* parameters, CUDA_MEMCPY3D_PEER* peer) {
  if (parameters == nullptr) return cudaErrorInvalidValue;
  if (const cudaError_t bad = EnsureContext(); bad != cudaSuccess) return bad;
  const cudaMemcpy3DParms plain = {
      parameters->srcArray, parameters->srcPos, parameters->srcPtr, parameters->dstArray,
      parameters->dstPos,   parameters->dstPtr, parameters->extent, cudaMemcpyDeviceToDevice};
  CUDA_MEMCPY3D copy;
  if (const cudaError_t bad = Describe3D(plain, &copy); bad != cudaSuccess) return bad;
  CUcontext from = nullptr;
  CUcontext to = nullptr;
  if (const cudaError_t bad = PrimaryOf(parameters->srcDevice, &from); bad != cudaSuccess) {
    return bad;
  }
  if (const cudaError_t bad = PrimaryOf(parameters->dstDevice, &to); bad != cudaSuccess) {
    return bad;
  }
  *peer = DescribePeer(plain, copy, from, to);
  return cudaSuccess;
}

cudaError_t Peer3D(const cudaMemcpy3DPeerParms* parameters, Form form) {
  CUDA_MEMCPY3D_PEER peer;
  if (const cudaError_t bad = PreparePeer3D(parameters, &peer); bad != cudaSuccess) {
    return Record(bad);
  }
  if (peer.WidthInBytes == 0 || peer.Height == 0 || peer.Depth == 0) return cudaSuccess;
  return Record(CUDART_FORM(form, cuMemcpy3DPeer)(&peer));
}

cudaError_t Peer3DAsync(const cudaMemcpy3DPeerParms* parameters, CUstream stream) {
  CUDA_MEMCPY3D_PEER peer;
  if (const cudaError_t bad = PreparePeer3D(parameters, &peer); bad != cudaSuccess) {
    return Record(bad);
  }
  if (peer.WidthInBytes == 0 || peer.Height == 0 || peer.Depth == 0) return cudaSuccess;
  return Record(Call(Driver().cuMemcpy3DPeerAsync)(&peer, stream));
}

cudaError_t Contexts(int to_device, int from_device, CUcontext* to, CUcontext* from) {
  if (const cudaError_t bad = EnsureContext(); bad != cudaSuccess) return bad;
  if (const cudaError_t bad = PrimaryOf(to_device, to); bad != cudaSuccess) return bad;
  return PrimaryOf(from_device, from);
}

}  // namespace

cudaError_t Describe3D(const cudaMemcpy3DParms& from, CUDA_MEMCPY3D* to) {
  if (from.kind > cudaMemcpyDefault) return cudaErrorInvalidMemcpyDirection;
  if ((from.srcArray != nullptr) == (from.srcPtr.ptr != nullptr) ||
      (from.dstArray != nullptr) == (from.dstPtr.ptr != nullptr)) {
    return cudaErrorInvalidValue;
  }
  size_t from_element = 1;
  size_t to_element = 1;
  if (from.srcArray != nullptr) {
    const cudaError_t bad = ElementBytes(from.srcArray, &from_element);
    if (bad != cudaSuccess) return bad;
  }
  if (from.dstArray != nullptr) {
    const cudaError_t bad = ElementBytes(from.dstArray, &to_element);
    if (bad != cudaSuccess) return bad;
  }
  if (from.srcArray != nullptr && from.dstArray != nullptr && from_element != to_element) {
    return cudaErrorInvalidValue;
  }
  *to = {};
  to->srcMemoryType =
      from.srcArray != nullptr ? CU_MEMORYTYPE_ARRAY : TypeOf(from.kind, FromDevice(from.kind));
  to->dstMemoryType =
      from.dstArray != nullptr ? CU_MEMORYTYPE_ARRAY : TypeOf(from.kind, ToDevice(from.kind));
  to->srcXInBytes = from.srcPos.x * from_element;
  to->srcY = from.srcPos.y;
  to->srcZ = from.srcPos.z;
  to->srcHost = from.srcPtr.ptr;
  to->srcDevice = Address(from.srcPtr.ptr);
  to->srcArray = from.srcArray;
  to->srcPitch = from.srcPtr.pitch;
  to->srcHeight = from.srcPtr.ysize;
  to->dstXInBytes = from.dstPos.x * to_element;
  to->dstY = from.dstPos.y;
  to->dstZ = from.dstPos.z;
  to->dstHost = from.dstPtr.ptr;
  to->dstDevice = Address(from.dstPtr.ptr);
  to->dstArray = from.dstArray;
  to->dstPitch = from.dstPtr.pitch;
  to->dstHeight = from.dstPtr.ysize;
  to->WidthInBytes = from.extent.width * (from_element > to_element ? from_element : to_element);
  to->Height = from.extent.height;
  to->Depth = from.extent.depth;
  return cudaSuccess;
}

cudaError_t Undescribe3D(const CUDA_MEMCPY3D& from, cudaMemcpy3DParms* to) {
  size_t from_element = 1;
  size_t to_element = 1;
  *to = {};
  const auto side = [](CUmemorytype type, const void* host, CUdeviceptr device, size_t pitch,
                       size_t width, size_t height) {
    void* const pointer =
        type == CU_MEMORYTYPE_HOST ? const_cast<void*>(host) : reinterpret_cast<void*>(device);
    return cudaPitchedPtr{pointer, pitch, width, height};
  };
  if (from.srcMemoryType == CU_MEMORYTYPE_ARRAY) {
    to->srcArray = from.srcArray;
    const cudaError_t bad = ElementBytes(from.srcArray, &from_element);
    if (bad != cudaSuccess) return bad;
  } else {
    to->srcPtr = side(from.srcMemoryType, from.srcHost, from.srcDevice, from.srcPitch,
                      from.WidthInBytes, from.srcHeight);
  }
  if (from.dstMemoryType == CU_MEMORYTYPE_ARRAY) {
    to->dstArray = from.dstArray;
    const cudaError_t bad = ElementBytes(from.dstArray, &to_element);
    if (bad != cudaSuccess) return bad;
  } else {
    to->dstPtr = side(from.dstMemoryType, from.dstHost, from.dstDevice, from.dstPitch,
                      from.WidthInBytes, from.dstHeight);
  }
  to->srcPos = {from.srcXInBytes / from_element, from.srcY, from.srcZ};
  to->dstPos = {from.dstXInBytes / to_element, from.dstY, from.dstZ};
  to->extent = {from.WidthInBytes / (from_element > to_element ? from_element : to_element),
                from.Height, from.Depth};
  if (from.srcMemoryType == CU_MEMORYTYPE_UNIFIED || from.dstMemoryType == CU_MEMORYTYPE_UNIFIED) {
    to->kind = cudaMemcpyDefault;
  } else {
    const bool from_host = from.srcMemoryType == CU_MEMORYTYPE_HOST;
    const bool to_host = from.dstMemoryType == CU_MEMORYTYPE_HOST;
    to->kind = from_host ? (to_host ? cudaMemcpyHostToHost : cudaMemcpyHostToDevice)
                         : (to_host ? cudaMemcpyDeviceToHost : cudaMemcpyDeviceToDevice);
  }
  return cudaSuccess;
}

cudaError_t Describe1D(void* to, const void* from, size_t count, unsigned int kind,
                       CUDA_MEMCPY3D* copy) {
  cudaMemcpy3DParms plain = {};
  plain.srcPtr = {const_cast<void*>(from), count, count, 1};
  plain.dstPtr = {to, count, count, 1};
  plain.extent = {count, 1, 1};
  plain.kind = static_cast<cudaMemcpyKind>(kind);
  return Describe3D(plain, copy);
}

cudaError_t SymbolRange(const void* symbol, size_t count, size_t offset, void** address) {
  CUdeviceptr base = 0;
  size_t size = 0;
  if (const cudaError_t bad = FindVariable(symbol, &base, &size); bad != cudaSuccess) return bad;
  if (offset > size || count > size - offset) return cudaErrorInvalidValue;
  *address = reinterpret_cast<void*>(base + offset);
  return cudaSuccess;
}

CUDART_BOTH(cudaMemcpy, Copy, (void* to, const void* from, size_t count, unsigned int kind), to,
            from, count, kind)
CUDART_BOTH_STREAM(cudaMemcpyAsync, CopyAsync,
                   (void* to, const void* from, size_t count, unsigned int kind, CUstream stream),
                   (to, from, count, kind, stream))
CUDART_BOTH(cudaMemcpyToSymbol, CopyToSymbol,
            (const void* symbol, const void* from, size_t count, size_t offset, unsigned int kind),
            symbol, from, count, offset, kind)
CUDART_BOTH(cudaMemcpyFromSymbol, CopyFromSymbol,
            (void* to, const void* symbol, size_t count, size_t offset, unsigned int kind), to,
            symbol, count, offset, kind)
CUDART_BOTH_STREAM(cudaMemcpyToSymbolAsync, CopyToSymbolAsync,
                   (const void* symbol, const void* from, size_t count, size_t offset,
                    unsigned int kind, CUstream stream),
                   (symbol, from, count, offset, kind, stream))
CUDART_BOTH_STREAM(cudaMemcpyFromSymbolAsync, CopyFromSymbolAsync,
                   (void* to, const void* symbol, size_t count, size_t offset, unsigned int kind,
                    CUstream stream),
                   (to, symbol, count, offset, kind, stream))

CUDART_BOTH(cudaMemcpy2D, Rectangle,
            (void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
             size_t height, unsigned int kind),
            Side{to, to_pitch}, Side{from, from_pitch}, width, height, kind)
CUDART_BOTH_STREAM(cudaMemcpy2DAsync, RectangleAsync,
                   (void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                    size_t height, unsigned int kind, CUstream stream),
                   (Side{to, to_pitch}, Side{from, from_pitch}, width, height, kind, stream))
CUDART_BOTH(cudaMemcpy2DToArray, Rectangle,
            (CUarray to, size_t x, size_t y, const void* from, size_t pitch, size_t width,
             size_t height, unsigned int kind),
            Side{nullptr, 0, to, x, y}, Side{from, pitch}, width, height, kind)
CUDART_BOTH_STREAM(cudaMemcpy2DToArrayAsync, RectangleAsync,
                   (CUarray to, size_t x, size_t y, const void* from, size_t pitch, size_t width,
                    size_t height, unsigned int kind, CUstream stream),
                   (Side{nullptr, 0, to, x, y}, Side{from, pitch}, width, height, kind, stream))
CUDART_BOTH(cudaMemcpy2DFromArray, Rectangle,
            (void* to, size_t pitch, CUarray from, size_t x, size_t y, size_t width, size_t height,
             unsigned int kind),
            Side{to, pitch}, Side{nullptr, 0, from, x, y}, width, height, kind)
CUDART_BOTH_STREAM(cudaMemcpy2DFromArrayAsync, RectangleAsync,
                   (void* to, size_t pitch, CUarray from, size_t x, size_t y, size_t width,
                    size_t height, unsigned int kind, CUstream stream),
                   (Side{to, pitch}, Side{nullptr, 0, from, x, y}, width, height, kind, stream))
CUDART_BOTH(cudaMemcpy2DArrayToArray, Rectangle,
            (CUarray to, size_t to_x, size_t to_y, CUarray from, size_t from_x, size_t from_y,
             size_t width, size_t height, unsigned int kind),
            Side{nullptr, 0, to, to_x, to_y}, Side{nullptr, 0, from, from_x, from_y}, width, height,
            kind)
CUDART_BOTH(cudaMemcpyToArray, ToArray,
            (CUarray to, size_t x, size_t y, const void* from, size_t count, unsigned int kind), to,
            x, y, from, count, kind)
CUDART_BOTH(cudaMemcpyFromArray, FromArray,
            (void* to, CUarray from, size_t x, size_t y, size_t count, unsigned int kind), to, from,
            x, y, count, kind)
CUDART_BOTH_STREAM(cudaMemcpyToArrayAsync, ToArrayAsync,
                   (CUarray to, size_t x, size_t y, const void* from, size_t count,
                    unsigned int kind, CUstream stream),
                   (to, x, y, from, count, kind, stream))
CUDART_BOTH_STREAM(cudaMemcpyFromArrayAsync, FromArrayAsync,
                   (void* to, CUarray from, size_t x, size_t y, size_t count, unsigned int kind,
                    CUstream stream),
                   (to, from, x, y, count, kind, stream))

CUDART_BOTH(cudaMemcpy3D, Copy3D, (const cudaMemcpy3DParms* parameters), parameters)
CUDART_BOTH_STREAM(cudaMemcpy3DAsync, Copy3DAsync,
                   (const cudaMemcpy3DParms* parameters, CUstream stream), (parameters, stream))
CUDART_BOTH(cudaMemcpy3DPeer, Peer3D, (const cudaMemcpy3DPeerParms* parameters), parameters)
CUDART_BOTH_STREAM(cudaMemcpy3DPeerAsync, Peer3DAsync,
                   (const cudaMemcpy3DPeerParms* parameters, CUstream stream), (parameters, stream))

CUDART_CALL cudaError_t cudaMemcpyPeer(void* to, int to_device, const void* from, int from_device,
                                       size_t count) {
  CUcontext to_context = nullptr;
  CUcontext from_context = nullptr;
  const cudaError_t bad = Contexts(to_device, from_device, &to_context, &from_context);
  if (bad != cudaSuccess) return Record(bad);
  if (count == 0) return cudaSuccess;
  return Record(
      Call(Driver().cuMemcpyPeer)(Address(to), to_context, Address(from), from_context, count));
}

CUDART_CALL cudaError_t cudaMemcpyPeerAsync(void* to, int to_device, const void* from,
                                            int from_device, size_t count, CUstream stream) {
  CUcontext to_context = nullptr;
  CUcontext from_context = nullptr;
  const cudaError_t bad = Contexts(to_device, from_device, &to_context, &from_context);
  if (bad != cudaSuccess) return Record(bad);
  if (count == 0) return cudaSuccess;
  return Record(Call(Driver().cuMemcpyPeerAsync)(Address(to), to_context, Address(from),
                                                 from_context, count, stream));
}

// The attributes of batches have the driver's layout.
CUDART_PASS_STREAM(cudaMemcpyBatchAsync, cuMemcpyBatchAsync_v2,
                   (CUdeviceptr * to, CUdeviceptr* from, size_t* sizes, size_t count,
                    CUmemcpyAttributes* attributes, size_t* indices, size_t attribute_count,
                    CUstream stream),
                   (to, from, sizes, count, attributes, indices, attribute_count, stream))
CUDART_PASS_STREAM(cudaMemcpy3DBatchAsync, cuMemcpy3DBatchAsync_v2,
                   (size_t count, CUDA_MEMCPY3D_BATCH_OP* operations, unsigned long long flags,
                    CUstream stream),
                   (count, operations, flags, stream))

CUDART_BOTH(cudaMemset, Set, (void* pointer, int value, size_t count), pointer, value, count)
CUDART_BOTH_STREAM(cudaMemsetAsync, SetAsync,
                   (void* pointer, int value, size_t count, CUstream stream),
                   (pointer, value, count, stream))
CUDART_BOTH(cudaMemset2D, Set2D,
            (void* pointer, size_t pitch, int value, size_t width, size_t height), pointer, pitch,
            value, width, height)
CUDART_BOTH_STREAM(cudaMemset2DAsync, Set2DAsync,
                   (void* pointer, size_t pitch, int value, size_t width, size_t height,
                    CUstream stream),
                   (pointer, pitch, value, width, height, stream))
CUDART_BOTH(cudaMemset3D, Set3DSync, (cudaPitchedPtr pointer, int value, cudaExtent extent),
            pointer, value, extent)
CUDART_BOTH_STREAM(cudaMemset3DAsync, Set3DAsync,
                   (cudaPitchedPtr pointer, int value, cudaExtent extent, CUstream stream),
                   (pointer, value, extent, stream))

}  // namespace simgpu::cudart
