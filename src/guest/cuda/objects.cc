// What the driver makes besides linear memory and contexts: code, arrays, executable graphs. Each
// is charged by an estimate before it is made and by the driver's own figure afterwards.
#include "guest/cuda/account.h"

namespace tessera::guest {

bool SettleObject(uint32_t card, uint64_t* charged) {
  // Or the difference would be taken for this object's.
  if (HoldsForRiders(card)) SettleRiders(card);
  if (!process.pools[card].Differs()) return Settle(card, charged);
  SettlePools(card, 0);
  const uint64_t slack = Slack(card);
  uint64_t surplus = 0;
  if (!Settle(card, charged, slack, &surplus)) return false;
  if (surplus > *charged) surplus = *charged;
  if (surplus != 0 && Slack(card) == slack) {
    *charged -= surplus;
    process.ledger.Release(card, surplus);
  }
  return true;
}

// Gives up what is held beyond a granule a rider.
static void TrimRiders(uint32_t card) {
  Riders& riders = process.riders[card];
  uint64_t held = wire::Load(&riders.held);
  uint64_t most = 0;
  do {
    most = __atomic_load_n(&riders.count, __ATOMIC_RELAXED) * Granule();
    if (held <= most) return;
  } while (!__atomic_compare_exchange_n(&riders.held, &held, most, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE));
  process.ledger.Release(card, held - most);
}

void SettleRiders(uint32_t card) {
  Riders& riders = process.riders[card];
  uint64_t held = __atomic_exchange_n(&riders.held, 0, __ATOMIC_ACQ_REL);
  if (held == 0) return;
  SettleObject(card, &held);
  __atomic_fetch_add(&riders.held, held, __ATOMIC_ACQ_REL);
  TrimRiders(card);
}

void CountRider(uint32_t card, int change) {
  const auto by = static_cast<uint32_t>(change);
  __atomic_fetch_add(&process.riders[card].count, by, __ATOMIC_ACQ_REL);
  __atomic_fetch_add(&process.any_riders, by, __ATOMIC_ACQ_REL);
  TrimRiders(card);
}

// Whose a freed granule is only the driver knows. It is asked at once, or with the next settlement
// when it was asked a moment ago; until then the granule stays charged.
void ReleaseBesideRiders(uint32_t card, uint64_t bytes) {
  Riders& riders = process.riders[card];
  // Small memory lay in one granule, or in two by chance; larger has none with riders in it.
  if (bytes > 2 * Granule()) return process.ledger.Release(card, bytes);
  __atomic_fetch_add(&riders.held, bytes, __ATOMIC_ACQ_REL);
  TrimRiders(card);
  const uint64_t now = MonotonicNanos();
  if (!HoldsForRiders(card) || now - wire::Load(&riders.asked) < kRidersPauseNanos) return;
  wire::Store(&riders.asked, now);
  SettleRiders(card);
}

namespace {

// Estimates look at no more than this of an image.
constexpr uint64_t kImageBytesMax = 1ull << 31;

// What the variables of PTX text take: bytes of the type times what stands in brackets, for each
// ".global" or ".const" that begins a word and so is no part of an instruction.
uint64_t VariableBytes(const unsigned char* text, uint64_t size) {
  uint64_t sum = 0;
  const auto at = [&](uint64_t i, const char* word) {
    for (; *word != '\0'; ++word, ++i) {
      if (i >= size || text[i] != static_cast<unsigned char>(*word)) return false;
    }
    return true;
  };
  for (uint64_t i = 1; i < size; ++i) {
    if (text[i] != '.' || text[i - 1] > ' ' || !(at(i, ".global") || at(i, ".const"))) continue;
    uint64_t bytes = 1;
    for (++i; i < size && text[i] != ';' && text[i] != '='; ++i) {
      uint64_t number = 0;
      uint64_t end = i + 1;
      while (end < size && text[end] >= '0' && text[end] <= '9' && number < kImageBytesMax) {
        number = number * 10 + static_cast<uint64_t>(text[end++] - '0');
      }
      if (end == i + 1) continue;
      // ".v4" and "[10]" as they are; ".b32", ".u8", ".f64" in bits; ".align 4" has a blank before.
      const bool type = i > 0 && text[i - 1] == '.';
      if (text[i] == '[' || (type && text[i] == 'v')) {
        bytes *= number;
      } else if (type && number >= 8) {
        bytes *= number / 8;
      }
      if (bytes > kImageBytesMax) bytes = kImageBytesMax;
    }
    sum += bytes;
  }
  return sum;
}

// How many bytes an image in memory has, by its own header; text is measured to its NUL, with what
// its variables take.
uint64_t ImageBytes(const void* image, uint64_t* variables) {
  *variables = 0;
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
    return ImageBytes(reinterpret_cast<const void*>(word(8, 8)), variables);
  } else if (magic == kContainerMagic) {
    size = word(6, 2) + word(8, 8);  // header, payload
  } else if (magic == kElfMagic) {
    size = word(40, 8) + word(58, 2) * word(60, 2);  // section table: offset, entry size, entries
  } else {
    while (size < kImageBytesMax && bytes[size] != 0) ++size;
    *variables = VariableBytes(bytes, size);
    size += *variables;
  }
  return size < kImageBytesMax ? size : kImageBytesMax;
}

// The same of a file. What is no text has no such words, or hardly any.
uint64_t FileBytes(const char* path, uint64_t* variables) {
  *variables = 0;
  if (path == nullptr) return 0;
  constexpr long kReadOnlyCloexec = 02000000, kWorkingDirectory = -100, kEnd = 2;
  constexpr long kRead = 1, kPrivate = 2;
  const long file = Syscall(SYS_openat, kWorkingDirectory, Arg(path), kReadOnlyCloexec);
  if (file < 0) return 0;
  const long size = Syscall(SYS_lseek, file, 0, kEnd);
  uint64_t bytes = size < 0 ? 0 : static_cast<uint64_t>(size);
  if (size > 0) {
    const long image = Syscall(SYS_mmap, 0, size, kRead, kPrivate, file, 0);
    if (image > 0) {
      *variables = VariableBytes(reinterpret_cast<const unsigned char*>(image), bytes);
      bytes += *variables;
      Syscall(SYS_munmap, image, size);
    }
  }
  Syscall(SYS_close, file);
  return bytes < kImageBytesMax ? bytes : kImageBytesMax;
}

uint64_t ImageBytes(const void* image) {
  uint64_t variables = 0;
  return ImageBytes(image, &variables);
}
uint64_t FileBytes(const char* path) {
  uint64_t variables = 0;
  return FileBytes(path, &variables);
}

// Where code goes that belongs to no context yet (a library): with one card there is no choice;
// with several and no context the next settlement finds it.
bool PlaceCode(Place* place) {
  *place = FindPlace();
  return place->error == abi::CUDA_SUCCESS;
}

}  // namespace

// What the driver charges to the card is charged by an estimate first and by the driver's own
// figure afterwards, and remembered under (kind, handle). In two halves around the driver's call,
// so that there is one copy of them and not one a wrapper.
Making Begin(const void* handle, uint64_t estimate) {
  Making making = {abi::CUDA_SUCCESS, false, {}, 0};
  if (depth > 0) return making;
  if (!EnsureAttached()) {
    making.error = kRefused;
    return making;
  }
  if (handle == nullptr || !PlaceCode(&making.place)) return making;
  if (!SettleContext(making.place.card)) {
    making.error = abi::CUDA_ERROR_OUT_OF_MEMORY;
    return making;
  }
  making.charged = RoundUp(estimate, Granule());
  if (making.charged != 0 && !ReserveOn(making.place.card, making.charged)) {
    making.error = abi::CUDA_ERROR_OUT_OF_MEMORY;
    return making;
  }
  making.counts = true;
  return making;
}

namespace {

// True: it stays. False with success: it does not fit as it turned out, and must be unmade.
[[gnu::noinline]] bool Keep(ObjectKind kind, uint64_t key, Making* making) {
  if (!SettleObject(making->place.card, &making->charged)) return false;
  Object object = {};
  object.key = key;
  object.kind = kind;
  object.card = making->place.card;
  object.bytes = making->charged;
  object.context = making->place.context;
  const bool rides = (kind == kObjectArray || kind == kObjectMipmap) && making->charged == 0;
  object.holders = rides ? 1 : 0;
  if (!process.objects.Put(object)) return false;
  if (rides) CountRider(object.card, 1);
  return true;
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

// A library takes nothing until a context first uses something of it, and then mostly less than it
// is long. Its larger variables are charged when it is loaded; the rest is seen at a settlement.
template <typename Make>
abi::CUresult MakeLibrary(abi::CUlibrary* library, uint64_t variables, const Make& make) {
  if (SharesGranule(variables, process.granule_shift)) variables = 0;
  const Making making = Begin(library, variables);
  if (making.error != abi::CUDA_SUCCESS) return making.error;
  DepthGuard guard;
  const abi::CUresult result = make();
  if (!making.counts) return result;
  Object object = {};
  object.kind = kObjectLibrary;
  object.card = making.place.card;
  object.bytes = object.target = making.charged;
  if (result == abi::CUDA_SUCCESS) {
    object.key = reinterpret_cast<uint64_t>(*library);
    if (process.objects.Put(object)) {
      AddAhead(object.card, object.target);
      return result;
    }
  }
  if (making.charged != 0) process.ledger.Release(object.card, making.charged);
  return result;
}

// A context has taken what the library needs of it.
abi::CUresult LibraryUsed(abi::CUlibrary library) {
  Object object;
  if (depth > 0 || !Attached() ||
      !process.objects.Take(kObjectLibrary, reinterpret_cast<uint64_t>(library), &object)) {
    return abi::CUDA_SUCCESS;
  }
  AddAhead(object.card, -object.target);
  object.target = 0;
  // The settlement must know what is charged for it; it never lowers this, as other contexts may
  // follow.
  process.objects.Put(object);
  uint64_t more = 0;
  if (!SettleObject(object.card, &more)) return abi::CUDA_ERROR_OUT_OF_MEMORY;
  object.bytes += more;
  process.objects.Put(object);
  return abi::CUDA_SUCCESS;
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
    return result;
  }
  if (object.target != 0) AddAhead(object.card, -object.target);
  if (object.holders != 0) CountRider(object.card, -1);
  // Another array may ride in the granule of this one.
  if (object.bytes != 0) ReleaseGranules(object.card, object.bytes);
  return result;
}

void UnloadModule(abi::CUmodule module) {
  auto* const real = TESSERA_REAL(cuModuleUnload);
  if (real != nullptr) real(module);
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

// Bytes of one element. Formats we do not know (compressed ones) count as the widest.
uint64_t ElementBytes(abi::CUarray_format format, unsigned int channels) {
  constexpr uint64_t kWidest = 16;
  constexpr unsigned int kNv12 = 0xb0, kNormalised = 0xc0, kNormalisedEnd = 0xcc;
  const auto word = static_cast<unsigned int>(format);
  uint64_t bytes = 0;
  switch (word) {
    case abi::CU_AD_FORMAT_UNSIGNED_INT8:
    case abi::CU_AD_FORMAT_SIGNED_INT8:
      bytes = 1;
      break;
    case abi::CU_AD_FORMAT_UNSIGNED_INT16:
    case abi::CU_AD_FORMAT_SIGNED_INT16:
    case abi::CU_AD_FORMAT_HALF:
      bytes = 2;
      break;
    case abi::CU_AD_FORMAT_UNSIGNED_INT32:
    case abi::CU_AD_FORMAT_SIGNED_INT32:
    case abi::CU_AD_FORMAT_FLOAT:
      bytes = 4;
      break;
    case kNv12:
      return 2;  // a plane of one byte, and one of half that
    default:
      if (word < kNormalised || word >= kNormalisedEnd) return kWidest;
      // 8 bits of one, two and four channels, then 16 bits of the same; unsigned, then signed.
      return uint64_t{1} << (word % 3 + (word - kNormalised) % 6 / 3);
  }
  return bytes * (channels == 0 ? 1 : (channels > 4 ? 4 : channels));
}

uint64_t ArrayBytes(size_t width, size_t height, size_t depth_or_layers, abi::CUarray_format format,
                    unsigned int channels) {
  constexpr uint64_t kSideMax = 1 << 20;
  const auto side = [](size_t n) { return n == 0 ? 1 : (n > kSideMax ? kSideMax : n); };
  // Rows come in pieces of 64 bytes, and of a texture with more than one row eight at a time.
  constexpr uint64_t kRowBytes = 64, kRows = 8;
  const uint64_t row = RoundUp(side(width) * ElementBytes(format, channels), kRowBytes);
  const unsigned __int128 bytes = static_cast<unsigned __int128>(row) *
                                  (height == 0 ? 1 : RoundUp(side(height), kRows)) *
                                  side(depth_or_layers);
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
  uint64_t variables = 0;
  ImageBytes(code, &variables);
  return MakeLibrary(library, variables, [&] {
    return real(library, code, jitOptions, jitOptionsValues, numJitOptions, libraryOptions,
                libraryOptionValues, numLibraryOptions);
  });
}

TESSERA_EXPORT CUresult cuLibraryLoadFromFile(CUlibrary* library, const char* fileName,
                                              CUjit_option* jitOptions, void** jitOptionsValues,
                                              unsigned int numJitOptions,
                                              CUlibraryOption* libraryOptions,
                                              void** libraryOptionValues,
                                              unsigned int numLibraryOptions) {
  auto* const real = TESSERA_REAL(cuLibraryLoadFromFile);
  if (real == nullptr) return MissingCuda();
  uint64_t variables = 0;
  FileBytes(fileName, &variables);
  return MakeLibrary(library, variables, [&] {
    return real(library, fileName, jitOptions, jitOptionsValues, numJitOptions, libraryOptions,
                libraryOptionValues, numLibraryOptions);
  });
}

TESSERA_EXPORT CUresult cuLibraryGetModule(CUmodule* pMod, CUlibrary library) {
  auto* const real = TESSERA_REAL(cuLibraryGetModule);
  if (real == nullptr) return MissingCuda();
  const CUresult result = real(pMod, library);
  return result == CUDA_SUCCESS ? LibraryUsed(library) : result;
}

TESSERA_EXPORT CUresult cuLibraryGetGlobal(CUdeviceptr* dptr, size_t* bytes, CUlibrary library,
                                           const char* name) {
  auto* const real = TESSERA_REAL(cuLibraryGetGlobal);
  if (real == nullptr) return MissingCuda();
  const CUresult result = real(dptr, bytes, library, name);
  return result == CUDA_SUCCESS ? LibraryUsed(library) : result;
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
  uint64_t estimate = 0;
  constexpr unsigned int kLevelsMax = 21;  // no side is longer than 2^20
  for (unsigned int i = 0; pMipmappedArrayDesc != nullptr && i < kLevelsMax; ++i) {
    const auto half = [i](size_t side) { return side == 0 || side >> i != 0 ? side >> i : 1; };
    if (i != 0 && i >= numMipmapLevels) break;
    // A number of layers stays the same on all levels.
    constexpr unsigned int kLayers = 0x01 | 0x04;  // CUDA_ARRAY3D_LAYERED, CUDA_ARRAY3D_CUBEMAP
    const size_t depth_or_layers = (pMipmappedArrayDesc->Flags & kLayers) != 0
                                       ? pMipmappedArrayDesc->Depth
                                       : half(pMipmappedArrayDesc->Depth);
    estimate +=
        ArrayBytes(half(pMipmappedArrayDesc->Width), half(pMipmappedArrayDesc->Height),
                   depth_or_layers, pMipmappedArrayDesc->Format, pMipmappedArrayDesc->NumChannels);
  }
  if (estimate > kAllocationBytesMax) estimate = kAllocationBytesMax;
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

// Page-locked memory of the machine, counted in the host row.
namespace {

uint64_t HostPages(uint64_t first, uint64_t bytes) {
  constexpr uint64_t kPage = wire::kHostGranuleBytes;
  return RoundUp(first + bytes, kPage) - first / kPage * kPage;
}

// `pointer` has the memory's address after `make`, and before it when it is the program's own.
template <typename Make>
CUresult Pin(void** pointer, uint64_t first, uint64_t bytes, uint32_t undo, const Make& make) {
  if (depth > 0) return make();
  if (!EnsureAttached()) return kRefused;
  // Nothing to charge: the driver words the error itself.
  if (pointer == nullptr || bytes == 0 || first + bytes < first) {
    DepthGuard guard;
    return make();
  }
  const Place place = FindPlace();
  if (place.error != CUDA_SUCCESS) return place.error;
  const uint64_t charged = HostPages(first, bytes);
  if (bytes >= kAllocationBytesMax || !process.ledger.Reserve(wire::kHostRow, charged)) {
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  DepthGuard guard;
  CUresult result = make();
  if (result == CUDA_SUCCESS) {
    Object object = {};
    object.key = reinterpret_cast<uint64_t>(*pointer);
    object.kind = kObjectHost;
    object.card = wire::kHostRow;
    object.bytes = charged;
    object.context = place.context;
    Object stale;
    if (process.objects.Take(kObjectHost, object.key, &stale)) {
      process.ledger.Release(wire::kHostRow, stale.bytes);
    }
    if (process.objects.Put(object)) return result;
    auto* const real = RealCuda<CUresult(void*)>(undo);
    if (real != nullptr) real(*pointer);
    result = CUDA_ERROR_OUT_OF_MEMORY;
  }
  process.ledger.Release(wire::kHostRow, charged);
  return result;
}

CUresult Unpin(void* pointer, uint32_t index) {
  auto* const real = RealCuda<CUresult(void*)>(index);
  if (real == nullptr) return MissingCuda();
  if (depth > 0 || !Attached()) return real(pointer);
  Object object;
  // Out of the table before the driver frees it: its address may be given to another thread at
  // once.
  const bool known =
      process.objects.Take(kObjectHost, reinterpret_cast<uint64_t>(pointer), &object);
  DepthGuard guard;
  const CUresult result = real(pointer);
  if (!known) return result;
  if (result == CUDA_SUCCESS) {
    process.ledger.Release(wire::kHostRow, object.bytes);
  } else {
    process.objects.Put(object);
  }
  return result;
}

}  // namespace

#define TESSERA_PIN(symbol, parameters, pointer, first, bytes, undo, arguments)       \
  TESSERA_EXPORT CUresult symbol parameters {                                         \
    auto* const real = TESSERA_REAL(symbol);                                          \
    if (real == nullptr) return MissingCuda();                                        \
    return Pin(pointer, first, bytes, kIndex_##undo, [&] { return real arguments; }); \
  }
TESSERA_PIN(cuMemAllocHost, (void** pp, unsigned int bytesize), pp, 0, bytesize, cuMemFreeHost,
            (pp, bytesize))
TESSERA_PIN(cuMemAllocHost_v2, (void** pp, size_t bytesize), pp, 0, bytesize, cuMemFreeHost,
            (pp, bytesize))
TESSERA_PIN(cuMemHostAlloc, (void** pp, size_t bytesize, unsigned int Flags), pp, 0, bytesize,
            cuMemFreeHost, (pp, bytesize, Flags))
TESSERA_PIN(cuMemHostRegister, (void* p, size_t bytesize, unsigned int Flags), &p,
            reinterpret_cast<uint64_t>(p), bytesize, cuMemHostUnregister, (p, bytesize, Flags))
TESSERA_PIN(cuMemHostRegister_v2, (void* p, size_t bytesize, unsigned int Flags), &p,
            reinterpret_cast<uint64_t>(p), bytesize, cuMemHostUnregister, (p, bytesize, Flags))
TESSERA_EXPORT CUresult cuMemFreeHost(void* p) { return Unpin(p, kIndex_cuMemFreeHost); }
TESSERA_EXPORT CUresult cuMemHostUnregister(void* p) {
  return Unpin(p, kIndex_cuMemHostUnregister);
}

#define TESSERA_OBJECT_END(symbol, kind, type) \
  TESSERA_EXPORT CUresult symbol(type handle) { return Unmake(kind, kIndex_##symbol, handle); }
TESSERA_OBJECT_END(cuModuleUnload, kObjectModule, CUmodule)
TESSERA_OBJECT_END(cuLibraryUnload, kObjectLibrary, CUlibrary)
TESSERA_OBJECT_END(cuArrayDestroy, kObjectArray, CUarray)

TESSERA_EXPORT CUresult cuMipmappedArrayDestroy(CUmipmappedArray handle) {
  ExternalEnd end(reinterpret_cast<uint64_t>(handle));
  return end.End(Unmake(kObjectMipmap, kIndex_cuMipmappedArrayDestroy, handle));
}

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
