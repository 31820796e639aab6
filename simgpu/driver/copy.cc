// Copies and fills. They run at once on the calling thread, outside the lock.
#include <string.h>

#include "simgpu/driver/driver.h"

namespace simgpu {
namespace {

enum class Side { kDevice, kHost, kEither };

// Where the bytes of one side are. A host address is taken as it is unless it lies in a card's
// range; a device address must be inside one allocation. Null: no such memory.
uint8_t* Find(Driver* driver, uint64_t address, uint64_t bytes, Side side) {
  std::lock_guard guard(driver->mutex);
  if (uint8_t* reached = Reach(*driver, address, bytes)) return reached;
  if (side == Side::kDevice || address == 0 || InAnyArena(*driver, address)) return nullptr;
  return reinterpret_cast<uint8_t*>(address);
}

CUresult CopyBytes(uint64_t to, Side to_side, uint64_t from, Side from_side, size_t bytes) {
  SIMGPU_CURRENT(driver, context);
  if (bytes == 0) return CUDA_SUCCESS;
  uint8_t* target = Find(driver, to, bytes, to_side);
  const uint8_t* source = Find(driver, from, bytes, from_side);
  if (target == nullptr || source == nullptr) return CUDA_ERROR_INVALID_VALUE;
  memmove(target, source, bytes);
  return CUDA_SUCCESS;
}

CUresult CheckStream(CUstream stream) {
  SIMGPU_CURRENT(driver, context);
  std::lock_guard guard(driver->mutex);
  return StreamOk(*driver, stream) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

uint64_t Number(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }

// One side of a 2D copy: the first byte and how far apart rows are.
struct Plane {
  uint64_t first = 0;
  size_t pitch = 0;
  Side side = Side::kEither;
};

CUresult PlaneOf(CUmemorytype type, const void* host, CUdeviceptr device, size_t pitch, size_t x,
                 size_t y, size_t width, size_t height, Plane* plane) {
  uint64_t base = 0;
  switch (type) {
    case CU_MEMORYTYPE_HOST:
      base = Number(host);
      plane->side = Side::kHost;
      break;
    case CU_MEMORYTYPE_DEVICE:
      base = device;
      plane->side = Side::kDevice;
      break;
    case CU_MEMORYTYPE_UNIFIED:
      base = device;
      break;
    case CU_MEMORYTYPE_ARRAY:
      return CUDA_ERROR_NOT_SUPPORTED;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
  plane->pitch = pitch != 0 ? pitch : x + width;
  if (plane->pitch < width && height > 1) return CUDA_ERROR_INVALID_VALUE;
  plane->first = base + y * plane->pitch + x;
  return CUDA_SUCCESS;
}

CUresult Copy2D(const CUDA_MEMCPY2D* copy) {
  SIMGPU_CURRENT(driver, context);
  if (copy == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (copy->WidthInBytes == 0 || copy->Height == 0) return CUDA_SUCCESS;
  const size_t width = copy->WidthInBytes, height = copy->Height;
  Plane from, to;
  if (CUresult bad = PlaneOf(copy->srcMemoryType, copy->srcHost, copy->srcDevice, copy->srcPitch,
                             copy->srcXInBytes, copy->srcY, width, height, &from)) {
    return bad;
  }
  if (CUresult bad = PlaneOf(copy->dstMemoryType, copy->dstHost, copy->dstDevice, copy->dstPitch,
                             copy->dstXInBytes, copy->dstY, width, height, &to)) {
    return bad;
  }
  const uint8_t* source = Find(driver, from.first, (height - 1) * from.pitch + width, from.side);
  uint8_t* target = Find(driver, to.first, (height - 1) * to.pitch + width, to.side);
  if (source == nullptr || target == nullptr) return CUDA_ERROR_INVALID_VALUE;
  for (size_t row = 0; row < height; ++row) {
    memmove(target + row * to.pitch, source + row * from.pitch, width);
  }
  return CUDA_SUCCESS;
}

template <typename T>
CUresult Fill(CUdeviceptr address, size_t pitch, T value, size_t width, size_t height) {
  SIMGPU_CURRENT(driver, context);
  if (width == 0 || height == 0) return CUDA_SUCCESS;
  if (address % sizeof(T) != 0 || pitch % sizeof(T) != 0) return CUDA_ERROR_INVALID_VALUE;
  size_t row_bytes = 0, before_last = 0, bytes = 0;
  if (__builtin_mul_overflow(width, sizeof(T), &row_bytes) ||
      __builtin_mul_overflow(pitch, height - 1, &before_last) ||
      __builtin_add_overflow(row_bytes, before_last, &bytes) || (height > 1 && pitch < row_bytes)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  uint8_t* target = Find(driver, address, bytes, Side::kDevice);
  if (target == nullptr) return CUDA_ERROR_INVALID_VALUE;
  for (size_t row = 0; row < height; ++row) {
    uint8_t* line = target + row * pitch;
    if constexpr (sizeof(T) == 1) {
      memset(line, value, width);
    } else {
      for (size_t i = 0; i < width; ++i) memcpy(line + i * sizeof(T), &value, sizeof(T));
    }
  }
  return CUDA_SUCCESS;
}

}  // namespace
}  // namespace simgpu

namespace tessera::abi {
using namespace simgpu;  // NOLINT

extern "C" {

CUresult cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  return CopyBytes(to, Side::kEither, from, Side::kEither, bytes);
}
CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) {
  return CopyBytes(to, Side::kDevice, Number(from), Side::kHost, bytes);
}
CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) {
  return CopyBytes(Number(to), Side::kHost, from, Side::kDevice, bytes);
}
CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  return CopyBytes(to, Side::kDevice, from, Side::kDevice, bytes);
}
CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  if (CUresult bad = CheckStream(stream)) return bad;
  return cuMemcpy(to, from, bytes);
}
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
  if (CUresult bad = CheckStream(stream)) return bad;
  return cuMemcpyHtoD_v2(to, from, bytes);
}
CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
  if (CUresult bad = CheckStream(stream)) return bad;
  return cuMemcpyDtoH_v2(to, from, bytes);
}
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  if (CUresult bad = CheckStream(stream)) return bad;
  return cuMemcpyDtoD_v2(to, from, bytes);
}
CUresult cuMemcpy2D_v2(const CUDA_MEMCPY2D* copy) { return Copy2D(copy); }
CUresult cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D* copy) { return Copy2D(copy); }
CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D* copy, CUstream stream) {
  if (CUresult bad = CheckStream(stream)) return bad;
  return Copy2D(copy);
}

CUresult cuMemsetD8_v2(CUdeviceptr address, unsigned char value, size_t count) {
  return Fill<uint8_t>(address, 0, value, count, 1);
}
CUresult cuMemsetD16_v2(CUdeviceptr address, unsigned short value, size_t count) {
  return Fill<uint16_t>(address, 0, value, count, 1);
}
CUresult cuMemsetD32_v2(CUdeviceptr address, unsigned int value, size_t count) {
  return Fill<uint32_t>(address, 0, value, count, 1);
}
CUresult cuMemsetD2D8_v2(CUdeviceptr address, size_t pitch, unsigned char value, size_t width,
                         size_t height) {
  return Fill<uint8_t>(address, pitch, value, width, height);
}
CUresult cuMemsetD2D16_v2(CUdeviceptr address, size_t pitch, unsigned short value, size_t width,
                          size_t height) {
  return Fill<uint16_t>(address, pitch, value, width, height);
}
CUresult cuMemsetD2D32_v2(CUdeviceptr address, size_t pitch, unsigned int value, size_t width,
                          size_t height) {
  return Fill<uint32_t>(address, pitch, value, width, height);
}
CUresult cuMemsetD8Async(CUdeviceptr address, unsigned char value, size_t count, CUstream stream) {
  if (CUresult bad = CheckStream(stream)) return bad;
  return cuMemsetD8_v2(address, value, count);
}
CUresult cuMemsetD16Async(CUdeviceptr address, unsigned short value, size_t count,
                          CUstream stream) {
  if (CUresult bad = CheckStream(stream)) return bad;
  return cuMemsetD16_v2(address, value, count);
}
CUresult cuMemsetD32Async(CUdeviceptr address, unsigned int value, size_t count, CUstream stream) {
  if (CUresult bad = CheckStream(stream)) return bad;
  return cuMemsetD32_v2(address, value, count);
}
CUresult cuMemsetD2D8Async(CUdeviceptr address, size_t pitch, unsigned char value, size_t width,
                           size_t height, CUstream stream) {
  if (CUresult bad = CheckStream(stream)) return bad;
  return cuMemsetD2D8_v2(address, pitch, value, width, height);
}
CUresult cuMemsetD2D16Async(CUdeviceptr address, size_t pitch, unsigned short value, size_t width,
                            size_t height, CUstream stream) {
  if (CUresult bad = CheckStream(stream)) return bad;
  return cuMemsetD2D16_v2(address, pitch, value, width, height);
}
CUresult cuMemsetD2D32Async(CUdeviceptr address, size_t pitch, unsigned int value, size_t width,
                            size_t height, CUstream stream) {
  if (CUresult bad = CheckStream(stream)) return bad;
  return cuMemsetD2D32_v2(address, pitch, value, width, height);
}

}  // extern "C"

SIMGPU_ALIAS(cuMemcpy, cuMemcpy_ptds);
SIMGPU_ALIAS(cuMemcpyHtoD_v2, cuMemcpyHtoD_v2_ptds);
SIMGPU_ALIAS(cuMemcpyDtoH_v2, cuMemcpyDtoH_v2_ptds);
SIMGPU_ALIAS(cuMemcpyDtoD_v2, cuMemcpyDtoD_v2_ptds);
SIMGPU_ALIAS(cuMemcpyAsync, cuMemcpyAsync_ptsz);
SIMGPU_ALIAS(cuMemcpyHtoDAsync_v2, cuMemcpyHtoDAsync_v2_ptsz);
SIMGPU_ALIAS(cuMemcpyDtoHAsync_v2, cuMemcpyDtoHAsync_v2_ptsz);
SIMGPU_ALIAS(cuMemcpyDtoDAsync_v2, cuMemcpyDtoDAsync_v2_ptsz);
SIMGPU_ALIAS(cuMemcpy2D_v2, cuMemcpy2D_v2_ptds);
SIMGPU_ALIAS(cuMemcpy2DUnaligned_v2, cuMemcpy2DUnaligned_v2_ptds);
SIMGPU_ALIAS(cuMemcpy2DAsync_v2, cuMemcpy2DAsync_v2_ptsz);
SIMGPU_ALIAS(cuMemsetD8_v2, cuMemsetD8_v2_ptds);
SIMGPU_ALIAS(cuMemsetD16_v2, cuMemsetD16_v2_ptds);
SIMGPU_ALIAS(cuMemsetD32_v2, cuMemsetD32_v2_ptds);
SIMGPU_ALIAS(cuMemsetD2D8_v2, cuMemsetD2D8_v2_ptds);
SIMGPU_ALIAS(cuMemsetD2D16_v2, cuMemsetD2D16_v2_ptds);
SIMGPU_ALIAS(cuMemsetD2D32_v2, cuMemsetD2D32_v2_ptds);
SIMGPU_ALIAS(cuMemsetD8Async, cuMemsetD8Async_ptsz);
SIMGPU_ALIAS(cuMemsetD16Async, cuMemsetD16Async_ptsz);
SIMGPU_ALIAS(cuMemsetD32Async, cuMemsetD32Async_ptsz);
SIMGPU_ALIAS(cuMemsetD2D8Async, cuMemsetD2D8Async_ptsz);
SIMGPU_ALIAS(cuMemsetD2D16Async, cuMemsetD2D16Async_ptsz);
SIMGPU_ALIAS(cuMemsetD2D32Async, cuMemsetD2D32Async_ptsz);

}  // namespace tessera::abi
