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

// Makes something the driver charges to the card, charged by an estimate first and by the driver's
// own figure afterwards, and remembered under (kind, handle). In two halves around the driver's
// call, so that there is one copy of them and not one a wrapper.
struct Making {
  abi::CUresult error;
  bool counts;
  Place place;
  uint64_t charged;
};

[[gnu::noinline]] Making Begin(const void* handle, uint64_t estimate) {
  Making making = {abi::CUDA_SUCCESS, false, {}, 0};
  if (depth > 0) return making;
  if (!EnsureAttached()) {
    making.error = kRefused;
    return making;
  }
  if (handle == nullptr || !PlaceCode(&making.place)) return making;
  making.charged = RoundUp(estimate, Granule());
  if (making.charged != 0 && !ReserveOn(making.place.card, making.charged)) {
    making.error = abi::CUDA_ERROR_OUT_OF_MEMORY;
    return making;
  }
  making.counts = true;
  return making;
}

// True: it stays. False with success: it does not fit as it turned out, and must be unmade.
[[gnu::noinline]] bool Keep(ObjectKind kind, uint64_t key, Making* making) {
  if (!SettleObject(making->place.card, &making->charged)) return false;
  Object object = {};
  object.key = key;
  object.kind = kind;
  object.card = making->place.card;
  object.bytes = making->charged;
  object.context = making->place.context;
  return process.objects.Put(object);
}

template <typename Handle, typename Make, typename Unmake>
abi::CUresult MakeCode(ObjectKind kind, Handle* handle, uint64_t estimate, const Make& make,
                       const Unmake& unmake) {
  Making making = Begin(handle, estimate);
  if (making.error != abi::CUDA_SUCCESS) return making.error;
  DepthGuard guard;
  abi::CUresult result = make();
  if (!making.counts) return result;
  if (result == abi::CUDA_SUCCESS) {
    if (Keep(kind, reinterpret_cast<uint64_t>(*handle), &making)) return result;
    unmake(*handle);
    result = abi::CUDA_ERROR_OUT_OF_MEMORY;
  }
  if (making.charged != 0) process.ledger.Release(making.place.card, making.charged);
  return result;
}

// Unmakes it: the driver first, and what was charged is given back only if it did its part.
[[gnu::noinline]] abi::CUresult Unmake(ObjectKind kind, uint32_t index, void* handle) {
  auto* const real = RealCuda<abi::CUresult(void*)>(index);
  if (real == nullptr) return MissingCuda();
  Object object;
  const bool known = depth == 0 && Attached() &&
                     process.objects.Take(kind, reinterpret_cast<uint64_t>(handle), &object);
  abi::CUresult result;
  {
    DepthGuard guard;
    result = real(handle);
  }
  if (!known) return result;
  if (result != abi::CUDA_SUCCESS) {
    process.objects.Put(object);
  } else if (object.bytes != 0) {
    process.ledger.Release(object.card, object.bytes);
  }
  return result;
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

// An executable graph, with the memory its nodes will allocate.
template <typename Make>
abi::CUresult MakeGraphExec(abi::CUgraphExec* exec, abi::CUgraph graph, const Make& make) {
  if (depth > 0) return make();
  if (!EnsureAttached()) return kRefused;
  GraphClaim claim = {};
  const bool allocates = process.graphs_used != 0;
  if (allocates) {
    const abi::CUresult claimed = ClaimGraph(graph, &claim);
    if (claimed != abi::CUDA_SUCCESS) return claimed;
  }
  const abi::CUresult result = MakeCode(kObjectGraphExec, exec, 0, make, DestroyGraphExec);
  if (!allocates) return result;
  if (result != abi::CUDA_SUCCESS) {
    DropClaim(claim);
  } else {
    KeepGraph(reinterpret_cast<uint64_t>(*exec), FindPlace().context, claim);
  }
  return result;
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
  return MakeGraphExec(phGraphExec, hGraph, [&] {
    return real(phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize);
  });
}

TESSERA_EXPORT CUresult cuGraphInstantiate_v2(CUgraphExec* phGraphExec, CUgraph hGraph,
                                              CUgraphNode* phErrorNode, char* logBuffer,
                                              size_t bufferSize) {
  auto* const real = TESSERA_REAL(cuGraphInstantiate_v2);
  if (real == nullptr) return MissingCuda();
  return MakeGraphExec(phGraphExec, hGraph, [&] {
    return real(phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize);
  });
}

TESSERA_EXPORT CUresult cuGraphInstantiateWithFlags(CUgraphExec* phGraphExec, CUgraph hGraph,
                                                    unsigned long long flags) {
  auto* const real = TESSERA_REAL(cuGraphInstantiateWithFlags);
  if (real == nullptr) return MissingCuda();
  return MakeGraphExec(phGraphExec, hGraph, [&] { return real(phGraphExec, hGraph, flags); });
}

#define TESSERA_INSTANTIATE_WITH_PARAMS(symbol)                                         \
  TESSERA_EXPORT CUresult symbol(CUgraphExec* phGraphExec, CUgraph hGraph,              \
                                 CUDA_GRAPH_INSTANTIATE_PARAMS* instantiateParams) {    \
    auto* const real = TESSERA_REAL(symbol);                                            \
    if (real == nullptr) return MissingCuda();                                          \
    return MakeGraphExec(phGraphExec, hGraph,                                           \
                         [&] { return real(phGraphExec, hGraph, instantiateParams); }); \
  }
TESSERA_INSTANTIATE_WITH_PARAMS(cuGraphInstantiateWithParams)
TESSERA_INSTANTIATE_WITH_PARAMS(cuGraphInstantiateWithParams_ptsz)

#define TESSERA_OBJECT_END(symbol, kind, type) \
  TESSERA_EXPORT CUresult symbol(type handle) { return Unmake(kind, kIndex_##symbol, handle); }
TESSERA_OBJECT_END(cuModuleUnload, kObjectModule, CUmodule)
TESSERA_OBJECT_END(cuLibraryUnload, kObjectLibrary, CUlibrary)
TESSERA_OBJECT_END(cuArrayDestroy, kObjectArray, CUarray)
TESSERA_OBJECT_END(cuMipmappedArrayDestroy, kObjectMipmap, CUmipmappedArray)

TESSERA_EXPORT CUresult cuGraphExecDestroy(CUgraphExec hGraphExec) {
  const auto key = reinterpret_cast<uint64_t>(hGraphExec);
  // Its memory is looked up before the handle may be given to another graph.
  Object memory[wire::kCardsMax];
  uint32_t cards = 0;
  for (uint32_t card = 0; process.graphs_used != 0 && depth == 0 && card < wire::kCardsMax;
       ++card) {
    cards += process.objects.Take(kObjectGraphMemory, key | card, &memory[cards]);
  }
  const CUresult result = Unmake(kObjectGraphExec, kIndex_cuGraphExecDestroy, hGraphExec);
  for (uint32_t i = 0; i < cards; ++i) {
    if (result == CUDA_SUCCESS) {
      ForgetGraph(memory[i]);
    } else {
      process.objects.Put(memory[i]);
    }
  }
  return result;
}

}  // namespace tessera::abi
