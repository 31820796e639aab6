// What the driver makes besides linear memory and contexts: code, arrays, executable graphs. Each
// is charged by an estimate before it is made and by the driver's own figure afterwards.
#include "guest/cuda/account.h"

namespace tessera::guest {

namespace {

// Estimates look at no more than this of an image.
constexpr uint64_t kImageBytesMax = 1ull << 31;

// How many bytes an image in memory has, by its own header; text is measured to its NUL.
uint64_t ImageBytes(const void* image) {
  if (image == nullptr) return 0;
  const auto* bytes = static_cast<const unsigned char*>(image);
  const auto word = [&](size_t at, size_t width) {
    uint64_t value = 0;
    for (size_t i = width; i > 0; --i) value = value << 8 | bytes[at + i - 1];
    return value;
  };
  constexpr uint32_t kWrapperMagic = 0x466243b1, kContainerMagic = 0xba55ed50,
                     kElfMagic = 0x464c457f;
  uint32_t magic = 0;
  for (size_t i = 0; i < 4; ++i) {
    if (bytes[i] == 0) return i;  // a very short text
    magic |= static_cast<uint32_t>(bytes[i]) << (8 * i);
  }
  uint64_t size = 0;
  if (magic == kWrapperMagic) {
    return ImageBytes(reinterpret_cast<const void*>(word(8, 8)));
  } else if (magic == kContainerMagic) {
    size = word(6, 2) + word(8, 8);  // header, payload
  } else if (magic == kElfMagic) {
    size = word(40, 8) + word(58, 2) * word(60, 2);  // section table: offset, entry size, entries
  } else {
    while (size < kImageBytesMax && bytes[size] != 0) ++size;
  }
  return size < kImageBytesMax ? size : kImageBytesMax;
}

uint64_t FileBytes(const char* path) {
  if (path == nullptr) return 0;
  constexpr long kReadOnlyCloexec = 02000000, kWorkingDirectory = -100, kEnd = 2;
  const long file = Syscall(SYS_openat, kWorkingDirectory, Arg(path), kReadOnlyCloexec);
  if (file < 0) return 0;
  const long size = Syscall(SYS_lseek, file, 0, kEnd);
  Syscall(SYS_close, file);
  return size < 0 ? 0 : static_cast<uint64_t>(size);
}

// Where code goes that belongs to no context yet (a library): with one card there is no choice;
// with several and no context the next settlement finds it.
bool PlaceCode(Place* place) {
  *place = FindPlace();
  return place->error == abi::CUDA_SUCCESS;
}

template <typename Handle, typename Make, typename Unmake>
abi::CUresult MakeCode(ObjectKind kind, Handle* handle, uint64_t estimate, const Make& make,
                       const Unmake& unmake) {
  if (depth > 0) return make();
  if (!EnsureAttached()) return kRefused;
  Place place;
  if (handle == nullptr || !PlaceCode(&place)) {
    DepthGuard guard;
    return make();
  }
  return MakeCharged(
      kind, place, estimate, make, [&] { return reinterpret_cast<uint64_t>(*handle); },
      [&] { unmake(*handle); });
}

void UnloadModule(abi::CUmodule module) {
  auto* const real = TESSERA_REAL(cuModuleUnload);
  if (real != nullptr) real(module);
}
void UnloadLibrary(abi::CUlibrary library) {
  auto* const real = TESSERA_REAL(cuLibraryUnload);
  if (real != nullptr) real(library);
}
void DestroyArray(abi::CUarray array) {
  auto* const real = TESSERA_REAL(cuArrayDestroy);
  if (real != nullptr) real(array);
}
void DestroyMipmap(abi::CUmipmappedArray array) {
  auto* const real = TESSERA_REAL(cuMipmappedArrayDestroy);
  if (real != nullptr) real(array);
}
void DestroyGraphExec(abi::CUgraphExec graph) {
  auto* const real = TESSERA_REAL(cuGraphExecDestroy);
  if (real != nullptr) real(graph);
}

// Bytes of one element of one channel. Formats we do not know (compressed, planar) count as the
// widest.
uint64_t ChannelBytes(abi::CUarray_format format) {
  switch (static_cast<unsigned int>(format)) {
    case abi::CU_AD_FORMAT_UNSIGNED_INT8:
    case abi::CU_AD_FORMAT_SIGNED_INT8:
      return 1;
    case abi::CU_AD_FORMAT_UNSIGNED_INT16:
    case abi::CU_AD_FORMAT_SIGNED_INT16:
    case abi::CU_AD_FORMAT_HALF:
      return 2;
    case abi::CU_AD_FORMAT_UNSIGNED_INT32:
    case abi::CU_AD_FORMAT_SIGNED_INT32:
    case abi::CU_AD_FORMAT_FLOAT:
      return 4;
    default:
      return 16;
  }
}

uint64_t ArrayBytes(size_t width, size_t height, size_t depth_or_layers, abi::CUarray_format format,
                    unsigned int channels) {
  constexpr uint64_t kSideMax = 1 << 20;
  const auto side = [](size_t n) { return n == 0 ? 1 : (n > kSideMax ? kSideMax : n); };
  const unsigned __int128 bytes = static_cast<unsigned __int128>(side(width)) * side(height) *
                                  side(depth_or_layers) * ChannelBytes(format) *
                                  (channels == 0 ? 1 : (channels > 4 ? 4 : channels));
  return bytes >= kAllocationBytesMax ? kAllocationBytesMax : static_cast<uint64_t>(bytes);
}

}  // namespace
}  // namespace tessera::guest

namespace tessera::abi {

using namespace ::tessera::guest;

TESSERA_EXPORT CUresult cuModuleLoad(CUmodule* module, const char* fname) {
  auto* const real = TESSERA_REAL(cuModuleLoad);
  if (real == nullptr) return MissingCuda();
  return MakeCode(
      kObjectModule, module, FileBytes(fname), [&] { return real(module, fname); }, UnloadModule);
}

TESSERA_EXPORT CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  auto* const real = TESSERA_REAL(cuModuleLoadData);
  if (real == nullptr) return MissingCuda();
  return MakeCode(
      kObjectModule, module, ImageBytes(image), [&] { return real(module, image); }, UnloadModule);
}

TESSERA_EXPORT CUresult cuModuleLoadDataEx(CUmodule* module, const void* image,
                                           unsigned int numOptions, CUjit_option* options,
                                           void** optionValues) {
  auto* const real = TESSERA_REAL(cuModuleLoadDataEx);
  if (real == nullptr) return MissingCuda();
  return MakeCode(
      kObjectModule, module, ImageBytes(image),
      [&] { return real(module, image, numOptions, options, optionValues); }, UnloadModule);
}

TESSERA_EXPORT CUresult cuModuleLoadFatBinary(CUmodule* module, const void* fatCubin) {
  auto* const real = TESSERA_REAL(cuModuleLoadFatBinary);
  if (real == nullptr) return MissingCuda();
  return MakeCode(
      kObjectModule, module, ImageBytes(fatCubin), [&] { return real(module, fatCubin); },
      UnloadModule);
}

TESSERA_EXPORT CUresult cuLibraryLoadData(CUlibrary* library, const void* code,
                                          CUjit_option* jitOptions, void** jitOptionsValues,
                                          unsigned int numJitOptions,
                                          CUlibraryOption* libraryOptions,
                                          void** libraryOptionValues,
                                          unsigned int numLibraryOptions) {
  auto* const real = TESSERA_REAL(cuLibraryLoadData);
  if (real == nullptr) return MissingCuda();
  return MakeCode(
      kObjectLibrary, library, ImageBytes(code),
      [&] {
        return real(library, code, jitOptions, jitOptionsValues, numJitOptions, libraryOptions,
                    libraryOptionValues, numLibraryOptions);
      },
      UnloadLibrary);
}

TESSERA_EXPORT CUresult cuLibraryLoadFromFile(CUlibrary* library, const char* fileName,
                                              CUjit_option* jitOptions, void** jitOptionsValues,
                                              unsigned int numJitOptions,
                                              CUlibraryOption* libraryOptions,
                                              void** libraryOptionValues,
                                              unsigned int numLibraryOptions) {
  auto* const real = TESSERA_REAL(cuLibraryLoadFromFile);
  if (real == nullptr) return MissingCuda();
  return MakeCode(
      kObjectLibrary, library, FileBytes(fileName),
      [&] {
        return real(library, fileName, jitOptions, jitOptionsValues, numJitOptions, libraryOptions,
                    libraryOptionValues, numLibraryOptions);
      },
      UnloadLibrary);
}

TESSERA_EXPORT CUresult cuArrayCreate_v2(CUarray* pHandle,
                                         const CUDA_ARRAY_DESCRIPTOR* pAllocateArray) {
  auto* const real = TESSERA_REAL(cuArrayCreate_v2);
  if (real == nullptr) return MissingCuda();
  const uint64_t estimate = pAllocateArray == nullptr
                                ? 0
                                : ArrayBytes(pAllocateArray->Width, pAllocateArray->Height, 1,
                                             pAllocateArray->Format, pAllocateArray->NumChannels);
  return MakeCode(
      kObjectArray, pHandle, estimate, [&] { return real(pHandle, pAllocateArray); }, DestroyArray);
}

TESSERA_EXPORT CUresult cuArray3DCreate_v2(CUarray* pHandle,
                                           const CUDA_ARRAY3D_DESCRIPTOR* pAllocateArray) {
  auto* const real = TESSERA_REAL(cuArray3DCreate_v2);
  if (real == nullptr) return MissingCuda();
  const uint64_t estimate =
      pAllocateArray == nullptr
          ? 0
          : ArrayBytes(pAllocateArray->Width, pAllocateArray->Height, pAllocateArray->Depth,
                       pAllocateArray->Format, pAllocateArray->NumChannels);
  return MakeCode(
      kObjectArray, pHandle, estimate, [&] { return real(pHandle, pAllocateArray); }, DestroyArray);
}

TESSERA_EXPORT CUresult cuMipmappedArrayCreate(CUmipmappedArray* pHandle,
                                               const CUDA_ARRAY3D_DESCRIPTOR* pMipmappedArrayDesc,
                                               unsigned int numMipmapLevels) {
  auto* const real = TESSERA_REAL(cuMipmappedArrayCreate);
  if (real == nullptr) return MissingCuda();
  // All smaller levels together never exceed the first.
  const uint64_t estimate =
      pMipmappedArrayDesc == nullptr
          ? 0
          : 2 * ArrayBytes(pMipmappedArrayDesc->Width, pMipmappedArrayDesc->Height,
                           pMipmappedArrayDesc->Depth, pMipmappedArrayDesc->Format,
                           pMipmappedArrayDesc->NumChannels);
  return MakeCode(
      kObjectMipmap, pHandle, estimate,
      [&] { return real(pHandle, pMipmappedArrayDesc, numMipmapLevels); }, DestroyMipmap);
}

TESSERA_EXPORT CUresult cuGraphInstantiate(CUgraphExec* phGraphExec, CUgraph hGraph,
                                           CUgraphNode* phErrorNode, char* logBuffer,
                                           size_t bufferSize) {
  auto* const real = TESSERA_REAL(cuGraphInstantiate);
  if (real == nullptr) return MissingCuda();
  return MakeCode(
      kObjectGraphExec, phGraphExec, 0,
      [&] { return real(phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize); },
      DestroyGraphExec);
}

TESSERA_EXPORT CUresult cuGraphInstantiate_v2(CUgraphExec* phGraphExec, CUgraph hGraph,
                                              CUgraphNode* phErrorNode, char* logBuffer,
                                              size_t bufferSize) {
  auto* const real = TESSERA_REAL(cuGraphInstantiate_v2);
  if (real == nullptr) return MissingCuda();
  return MakeCode(
      kObjectGraphExec, phGraphExec, 0,
      [&] { return real(phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize); },
      DestroyGraphExec);
}

TESSERA_EXPORT CUresult cuGraphInstantiateWithFlags(CUgraphExec* phGraphExec, CUgraph hGraph,
                                                    unsigned long long flags) {
  auto* const real = TESSERA_REAL(cuGraphInstantiateWithFlags);
  if (real == nullptr) return MissingCuda();
  return MakeCode(
      kObjectGraphExec, phGraphExec, 0, [&] { return real(phGraphExec, hGraph, flags); },
      DestroyGraphExec);
}

#define TESSERA_INSTANTIATE_WITH_PARAMS(symbol)                                          \
  TESSERA_EXPORT CUresult symbol(CUgraphExec* phGraphExec, CUgraph hGraph,               \
                                 CUDA_GRAPH_INSTANTIATE_PARAMS* instantiateParams) {     \
    auto* const real = TESSERA_REAL(symbol);                                             \
    if (real == nullptr) return MissingCuda();                                           \
    return MakeCode(                                                                     \
        kObjectGraphExec, phGraphExec, 0,                                                \
        [&] { return real(phGraphExec, hGraph, instantiateParams); }, DestroyGraphExec); \
  }
TESSERA_INSTANTIATE_WITH_PARAMS(cuGraphInstantiateWithParams)
TESSERA_INSTANTIATE_WITH_PARAMS(cuGraphInstantiateWithParams_ptsz)

// A node that allocates cannot be counted: its memory comes and goes with launches.
namespace {
constexpr unsigned int kNodeMemoryAllocation = 10;
bool Allocates(const CUgraphNodeParams* params) {
  return params != nullptr &&
         *reinterpret_cast<const unsigned int*>(params) == kNodeMemoryAllocation;
}
}  // namespace

TESSERA_EXPORT CUresult cuGraphAddNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                       const CUgraphNode* dependencies, size_t numDependencies,
                                       CUgraphNodeParams* nodeParams) {
  auto* const real = TESSERA_REAL(cuGraphAddNode);
  if (real == nullptr) return MissingCuda();
  if (depth == 0 && Allocates(nodeParams)) return DenyCuda(kIndex_cuGraphAddNode);
  return real(phGraphNode, hGraph, dependencies, numDependencies, nodeParams);
}

TESSERA_EXPORT CUresult cuGraphAddNode_v2(CUgraphNode* phGraphNode, CUgraph hGraph,
                                          const CUgraphNode* dependencies,
                                          const CUgraphEdgeData* dependencyData,
                                          size_t numDependencies, CUgraphNodeParams* nodeParams) {
  auto* const real = TESSERA_REAL(cuGraphAddNode_v2);
  if (real == nullptr) return MissingCuda();
  if (depth == 0 && Allocates(nodeParams)) return DenyCuda(kIndex_cuGraphAddNode_v2);
  return real(phGraphNode, hGraph, dependencies, dependencyData, numDependencies, nodeParams);
}

#define TESSERA_OBJECT_END(symbol, kind, type)                                                    \
  TESSERA_EXPORT CUresult symbol(type handle) {                                                   \
    auto* const real = TESSERA_REAL(symbol);                                                      \
    if (real == nullptr) return MissingCuda();                                                    \
    if (depth > 0) return real(handle);                                                           \
    return UnmakeCharged(kind, reinterpret_cast<uint64_t>(handle), [&] { return real(handle); }); \
  }
TESSERA_OBJECT_END(cuModuleUnload, kObjectModule, CUmodule)
TESSERA_OBJECT_END(cuLibraryUnload, kObjectLibrary, CUlibrary)
TESSERA_OBJECT_END(cuArrayDestroy, kObjectArray, CUarray)
TESSERA_OBJECT_END(cuMipmappedArrayDestroy, kObjectMipmap, CUmipmappedArray)
TESSERA_OBJECT_END(cuGraphExecDestroy, kObjectGraphExec, CUgraphExec)

}  // namespace tessera::abi
