#include "simgpu/driver/array.h"

#include <algorithm>
#include <bit>

#include "abi/cuda_memory.h"
#include "simgpu/driver/capture.h"
#include "simgpu/driver/external.h"
#include "simgpu/driver/memory.h"
#include "simgpu/driver/vmm.h"

namespace simgpu {
namespace {

constexpr uint64_t kRowUnit = 64;  // bytes of a tile's row
constexpr uint64_t kRowsUnit = 8;  // rows of a tile

// Bytes of one element; 0 when the format or its number of channels is none. `known` says that
// there is such a format, which is not kept here.
uint32_t ElementBytes(unsigned int format, unsigned int channels, bool* known) {
  *known = false;
  const bool counted = channels == 1 || channels == 2 || channels == 4;
  auto fixed = [channels](unsigned int expected, uint32_t bytes) {
    return channels == expected ? expected * bytes : 0;
  };
  switch (format) {
    case CU_AD_FORMAT_UNSIGNED_INT8:
    case CU_AD_FORMAT_SIGNED_INT8:
      return counted ? channels : 0;
    case CU_AD_FORMAT_UNSIGNED_INT16:
    case CU_AD_FORMAT_SIGNED_INT16:
    case CU_AD_FORMAT_HALF:
      return counted ? 2 * channels : 0;
    case CU_AD_FORMAT_UNSIGNED_INT32:
    case CU_AD_FORMAT_SIGNED_INT32:
    case CU_AD_FORMAT_FLOAT:
      return counted ? 4 * channels : 0;
    case CU_AD_FORMAT_UNORM_INT8X1:
    case CU_AD_FORMAT_SNORM_INT8X1:
      return fixed(1, 1);
    case CU_AD_FORMAT_UNORM_INT8X2:
    case CU_AD_FORMAT_SNORM_INT8X2:
      return fixed(2, 1);
    case CU_AD_FORMAT_UNORM_INT8X4:
    case CU_AD_FORMAT_SNORM_INT8X4:
      return fixed(4, 1);
    case CU_AD_FORMAT_UNORM_INT16X1:
    case CU_AD_FORMAT_SNORM_INT16X1:
      return fixed(1, 2);
    case CU_AD_FORMAT_UNORM_INT16X2:
    case CU_AD_FORMAT_SNORM_INT16X2:
      return fixed(2, 2);
    case CU_AD_FORMAT_UNORM_INT16X4:
    case CU_AD_FORMAT_SNORM_INT16X4:
      return fixed(4, 2);
    case CU_AD_FORMAT_NV12:
      return fixed(3, 1) != 0 ? 1 : 0;
    default:
      // Compressed and other planar formats.
      *known = format == 0x50 || (format >= 0x91 && format <= 0xb5);
      return 0;
  }
}

// The largest extents of each sort of array, as the device attributes tell them too.
constexpr uint64_t k1dMax = 131'072, k2dMax = 131'072, k2dRowsMax = 65'536, k3dMax = 16'384;
constexpr uint64_t kLayersMax = 2'048, kLayeredMax = 32'768, kCubeMax = 32'768;

// Whether there can be such an array; sets the bytes of an element.
CUresult Check(const CUDA_ARRAY3D_DESCRIPTOR& wanted, uint32_t* element) {
  constexpr unsigned int kKept = CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_SURFACE_LDST |
                                 CUDA_ARRAY3D_CUBEMAP | CUDA_ARRAY3D_TEXTURE_GATHER;
  constexpr unsigned int kOthers = CUDA_ARRAY3D_DEPTH_TEXTURE | CUDA_ARRAY3D_COLOR_ATTACHMENT |
                                   CUDA_ARRAY3D_SPARSE | CUDA_ARRAY3D_DEFERRED_MAPPING |
                                   CUDA_ARRAY3D_VIDEO_ENCODE_DECODE;
  bool known = false;
  *element = ElementBytes(wanted.Format, wanted.NumChannels, &known);
  if (*element == 0) return known ? CUDA_ERROR_NOT_SUPPORTED : CUDA_ERROR_INVALID_VALUE;
  if ((wanted.Flags & ~(kKept | kOthers)) != 0) return CUDA_ERROR_INVALID_VALUE;
  if ((wanted.Flags & kOthers) != 0) return CUDA_ERROR_NOT_SUPPORTED;
  const bool layered = (wanted.Flags & CUDA_ARRAY3D_LAYERED) != 0;
  const bool cube = (wanted.Flags & CUDA_ARRAY3D_CUBEMAP) != 0;
  const uint64_t width = wanted.Width, height = wanted.Height, depth = wanted.Depth;
  bool fits = width != 0;
  if (cube) {
    // Six square faces, as layers.
    fits = fits && width == height && width <= kCubeMax &&
           (layered ? depth != 0 && depth % 6 == 0 && depth <= kLayersMax : depth == 6);
  } else if (layered) {
    fits =
        fits && depth != 0 && depth <= kLayersMax && width <= kLayeredMax && height <= kLayeredMax;
  } else if (depth != 0) {
    fits = fits && height != 0 && width <= k3dMax && height <= k3dMax && depth <= k3dMax;
  } else if (height != 0) {
    fits = fits && width <= k2dMax && height <= k2dRowsMax;
  } else {
    fits = fits && width <= k1dMax;
  }
  if ((wanted.Flags & CUDA_ARRAY3D_TEXTURE_GATHER) != 0) fits = fits && height != 0 && depth == 0;
  if (wanted.Format == static_cast<CUarray_format>(CU_AD_FORMAT_NV12)) {
    fits = fits && depth == 0 && height != 0 && width % 2 == 0 && height % 2 == 0;
  }
  return fits ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

// The layout of one level without its place; the bytes it takes.
uint64_t LayOut(uint64_t width, uint64_t height, uint64_t depth, uint32_t element, int device,
                ArrayLayout* layout) {
  layout->element_bytes = element;
  layout->width_bytes = width * element;
  layout->height = std::max<uint64_t>(height, 1);
  layout->depth = std::max<uint64_t>(depth, 1);
  layout->pitch = RoundUp(layout->width_bytes, kRowUnit);
  layout->rows = height == 0 ? 1 : RoundUp(height, kRowsUnit);
  layout->device = device;
  return layout->pitch * layout->rows * layout->depth;
}

CUresult CreateArray(CUarray* handle, const CUDA_ARRAY3D_DESCRIPTOR& wanted) {
  SIMGPU_CURRENT(driver, context);
  if (handle == nullptr) return CUDA_ERROR_INVALID_VALUE;
  uint32_t element = 0;
  if (CUresult bad = Check(wanted, &element)) return bad;
  auto array = std::make_unique<Array>();
  array->context = context;
  array->descriptor = wanted;
  const bool planar = wanted.Format == static_cast<CUarray_format>(CU_AD_FORMAT_NV12);
  uint64_t bytes =
      LayOut(wanted.Width, wanted.Height, wanted.Depth, element, context->device, &array->layout);
  std::unique_ptr<Array> planes[2];
  if (planar) {
    // A plane of luma bytes, then one of pairs of chroma bytes at half the size.
    planes[0] = std::make_unique<Array>();
    planes[0]->descriptor = {wanted.Width, wanted.Height, 0, CU_AD_FORMAT_UNSIGNED_INT8, 1,
                             wanted.Flags};
    planes[0]->layout = array->layout;
    planes[1] = std::make_unique<Array>();
    planes[1]->descriptor = {wanted.Width / 2, wanted.Height / 2, 0, CU_AD_FORMAT_UNSIGNED_INT8, 2,
                             wanted.Flags};
    bytes += LayOut(wanted.Width / 2, wanted.Height / 2, 0, 2, context->device, &planes[1]->layout);
  }
  std::lock_guard guard(driver->mutex);
  if (CUresult bad = CheckUnsafeCall(driver)) return bad;
  if (CUresult bad = TakeStorage(driver, context, bytes, MemoryKind::kLarge, &array->storage)) {
    return bad;
  }
  array->layout.host = array->storage.host;
  for (int i = 0; planar && i < 2; ++i) {
    planes[i]->context = context;
    planes[i]->whole = array.get();
    planes[i]->layout.host =
        array->layout.host + (i == 0 ? 0 : array->layout.pitch * array->layout.rows);
    driver->live.insert(planes[i].get());
    array->planes[i] = planes[i].release();
  }
  driver->live.insert(array.get());
  *handle = reinterpret_cast<CUarray>(array.release());
  return CUDA_SUCCESS;
}

void Drop(Driver* driver, Array* array) {
  for (Array* plane : array->planes) {
    if (plane == nullptr) continue;
    driver->live.erase(plane);
    delete plane;
  }
  driver->live.erase(array);
  GiveStorage(driver, array->storage);
  delete array;
}

void Drop(Driver* driver, Mipmap* mipmap) {
  for (const auto& level : mipmap->levels) driver->live.erase(level.get());
  driver->live.erase(mipmap);
  if (mipmap->storage.memory_kind == MemoryKind::kExternal) {
    --mipmap->storage.physical->mappings;
    DropIfUnused(driver, mipmap->storage.physical);
  } else {
    GiveStorage(driver, mipmap->storage);
  }
  delete mipmap;
}

// Destroys what `find` finds (and says may be destroyed) once no work can be using it.
template <typename Find>
CUresult Destroy(Find find) {
  SIMGPU_DRIVER(driver);
  int device = 0;
  {
    std::lock_guard guard(driver->mutex);
    auto* found = find(*driver);
    if (found == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (CUresult bad = CheckUnsafeCall(driver)) return bad;
    device = found->storage.device;
  }
  WaitBeforeFree(driver, nullptr, device);
  std::lock_guard guard(driver->mutex);
  auto* found = find(*driver);
  if (found == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  Drop(driver, found);
  return CUDA_SUCCESS;
}

}  // namespace

CUresult CreateMipmap(CUmipmappedArray* handle, const CUDA_ARRAY3D_DESCRIPTOR* wanted,
                      unsigned int levels, const ExternalPlace* external) {
  SIMGPU_CURRENT(driver, context);
  if (handle == nullptr || wanted == nullptr) return CUDA_ERROR_INVALID_VALUE;
  uint32_t element = 0;
  if (CUresult bad = Check(*wanted, &element)) return bad;
  if (wanted->Format == static_cast<CUarray_format>(CU_AD_FORMAT_NV12)) {
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  const bool layered = (wanted->Flags & (CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_CUBEMAP)) != 0;
  // Down to a single element; a number of levels beyond that, or none, is cut to what there are.
  const uint64_t largest =
      std::max({static_cast<uint64_t>(wanted->Width), static_cast<uint64_t>(wanted->Height),
                layered ? uint64_t{1} : static_cast<uint64_t>(wanted->Depth)});
  const auto most = static_cast<unsigned int>(std::bit_width(largest));
  levels = std::clamp(levels, 1u, std::min(most, kMipmapLevelsMax));
  auto mipmap = std::make_unique<Mipmap>();
  mipmap->context = context;
  mipmap->descriptor = *wanted;
  std::vector<uint64_t> offsets;
  uint64_t bytes = 0;
  for (unsigned int i = 0; i < levels; ++i) {
    auto half = [i](uint64_t extent) {
      return extent == 0 ? 0 : std::max<uint64_t>(extent >> i, 1);
    };
    auto level = std::make_unique<Array>();
    level->context = context;
    level->mipmap = mipmap.get();
    level->descriptor = *wanted;
    level->descriptor.Width = half(wanted->Width);
    level->descriptor.Height = half(wanted->Height);
    if (!layered) level->descriptor.Depth = half(wanted->Depth);
    offsets.push_back(bytes);
    bytes += RoundUp(LayOut(level->descriptor.Width, level->descriptor.Height,
                            level->descriptor.Depth, element, context->device, &level->layout),
                     kSmallUnit);
    mipmap->levels.push_back(std::move(level));
  }
  std::lock_guard guard(driver->mutex);
  if (CUresult bad = CheckUnsafeCall(driver)) return bad;
  if (CUresult bad = external != nullptr ? TakeExternal(driver, *external, bytes, &mipmap->storage)
                                         : TakeStorage(driver, context, bytes, MemoryKind::kLarge,
                                                       &mipmap->storage)) {
    return bad;
  }
  for (unsigned int i = 0; i < levels; ++i) {
    mipmap->levels[i]->layout.host = mipmap->storage.host + offsets[i];
    driver->live.insert(mipmap->levels[i].get());
  }
  driver->live.insert(mipmap.get());
  *handle = reinterpret_cast<CUmipmappedArray>(mipmap.release());
  return CUDA_SUCCESS;
}

void DropArrays(Driver* driver, Context* context) {
  std::vector<Array*> arrays;
  std::vector<Mipmap*> mipmaps;
  for (const Object* object : driver->live) {
    auto* one = const_cast<Object*>(object);
    if (object->kind == Kind::kArray) {
      auto* array = static_cast<Array*>(one);
      if (array->context == context && array->mipmap == nullptr && array->whole == nullptr) {
        arrays.push_back(array);
      }
    } else if (object->kind == Kind::kMipmap && static_cast<Mipmap*>(one)->context == context) {
      mipmaps.push_back(static_cast<Mipmap*>(one));
    }
  }
  for (Array* array : arrays) Drop(driver, array);
  for (Mipmap* mipmap : mipmaps) Drop(driver, mipmap);
}

}  // namespace simgpu

namespace tessera::abi {
using namespace simgpu;  // NOLINT

extern "C" {

CUresult cuArrayCreate_v2(CUarray* handle, const CUDA_ARRAY_DESCRIPTOR* wanted) {
  SIMGPU_DRIVER(driver);
  if (wanted == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return CreateArray(handle,
                     {wanted->Width, wanted->Height, 0, wanted->Format, wanted->NumChannels, 0});
}

CUresult cuArray3DCreate_v2(CUarray* handle, const CUDA_ARRAY3D_DESCRIPTOR* wanted) {
  SIMGPU_DRIVER(driver);
  if (wanted == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return CreateArray(handle, *wanted);
}

CUresult cuArrayGetDescriptor_v2(CUDA_ARRAY_DESCRIPTOR* descriptor, CUarray handle) {
  SIMGPU_DRIVER(driver);
  if (descriptor == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  const Array* array = FindArray(*driver, handle);
  if (array == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  *descriptor = {array->descriptor.Width, array->descriptor.Height, array->descriptor.Format,
                 array->descriptor.NumChannels};
  return CUDA_SUCCESS;
}

CUresult cuArray3DGetDescriptor_v2(CUDA_ARRAY3D_DESCRIPTOR* descriptor, CUarray handle) {
  SIMGPU_DRIVER(driver);
  if (descriptor == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  const Array* array = FindArray(*driver, handle);
  if (array == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  *descriptor = array->descriptor;
  return CUDA_SUCCESS;
}

CUresult cuArrayGetPlane(CUarray* plane, CUarray handle, unsigned int index) {
  SIMGPU_DRIVER(driver);
  if (plane == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  const Array* array = FindArray(*driver, handle);
  if (array == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (index > 1 || array->planes[index] == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *plane = reinterpret_cast<CUarray>(array->planes[index]);
  return CUDA_SUCCESS;
}

CUresult cuArrayDestroy(CUarray handle) {
  {
    // Levels and planes are their owner's.
    SIMGPU_DRIVER(driver);
    std::lock_guard guard(driver->mutex);
    const Array* array = FindArray(*driver, handle);
    if (array != nullptr && (array->mipmap != nullptr || array->whole != nullptr)) {
      return CUDA_ERROR_INVALID_VALUE;
    }
  }
  return Destroy([handle](const Driver& driver) { return FindArray(driver, handle); });
}

CUresult cuMipmappedArrayCreate(CUmipmappedArray* handle, const CUDA_ARRAY3D_DESCRIPTOR* wanted,
                                unsigned int levels) {
  return CreateMipmap(handle, wanted, levels, nullptr);
}

CUresult cuMipmappedArrayGetLevel(CUarray* level, CUmipmappedArray handle, unsigned int index) {
  SIMGPU_DRIVER(driver);
  if (level == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  const Mipmap* mipmap = Live<Mipmap>(*driver, handle, Kind::kMipmap);
  if (mipmap == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (index >= mipmap->levels.size()) return CUDA_ERROR_INVALID_VALUE;
  *level = reinterpret_cast<CUarray>(mipmap->levels[index].get());
  return CUDA_SUCCESS;
}

CUresult cuMipmappedArrayDestroy(CUmipmappedArray handle) {
  return Destroy(
      [handle](const Driver& driver) { return Live<Mipmap>(driver, handle, Kind::kMipmap); });
}

// Arrays without storage of their own, and sparse ones, cannot be made here; of all others these
// questions are invalid.
CUresult cuArrayGetMemoryRequirements(CUDA_ARRAY_MEMORY_REQUIREMENTS*, CUarray handle,
                                      CUdevice device) {
  Driver* driver = nullptr;
  if (CUresult bad = CheckDevice(device, &driver)) return bad;
  std::lock_guard guard(driver->mutex);
  if (FindArray(*driver, handle) == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  return CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMipmappedArrayGetMemoryRequirements(CUDA_ARRAY_MEMORY_REQUIREMENTS*,
                                               CUmipmappedArray handle, CUdevice device) {
  Driver* driver = nullptr;
  if (CUresult bad = CheckDevice(device, &driver)) return bad;
  std::lock_guard guard(driver->mutex);
  if (Live<Mipmap>(*driver, handle, Kind::kMipmap) == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  return CUDA_ERROR_INVALID_VALUE;
}

CUresult cuArrayGetSparseProperties(CUDA_ARRAY_SPARSE_PROPERTIES*, CUarray handle) {
  SIMGPU_DRIVER(driver);
  std::lock_guard guard(driver->mutex);
  if (FindArray(*driver, handle) == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  return CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMipmappedArrayGetSparseProperties(CUDA_ARRAY_SPARSE_PROPERTIES*,
                                             CUmipmappedArray handle) {
  SIMGPU_DRIVER(driver);
  std::lock_guard guard(driver->mutex);
  if (Live<Mipmap>(*driver, handle, Kind::kMipmap) == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  return CUDA_ERROR_INVALID_VALUE;
}

}  // extern "C"
}  // namespace tessera::abi
