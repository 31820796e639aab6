// Linear memory: cuMemAlloc and its kin, and the physical handles of the virtual memory calls.
#include "guest/cuda/account.h"

namespace tessera::guest {

namespace {

void GiveBackReplaced(const AllocationTable::Inserted& inserted) {
  if (inserted.old_granules == 0) return;
  process.ledger.Release(inserted.old_card, static_cast<uint64_t>(inserted.old_granules)
                                                << process.granule_shift);
}

// The one order of things for linear memory. `bytes` is what the driver will be asked for at most;
// `settle_bytes` says after success how much it was.
template <typename Make, typename Size, typename Unmake>
inline abi::CUresult Allocate(uint64_t bytes, PointerKind kind, abi::CUdeviceptr* pointer,
                              const Make& make, const Size& real_bytes, const Unmake& unmake) {
  if (__builtin_expect(depth > 0, 0)) return make();
  if (__builtin_expect(!EnsureAttached(), 0)) return kRefused;
  // Nothing to charge, or nothing to charge it by: the driver words the error itself.
  if (__builtin_expect(pointer == nullptr || bytes == 0, 0)) {
    DepthGuard guard;
    return make();
  }
  const Place place = FindPlace();
  if (__builtin_expect(place.error != abi::CUDA_SUCCESS, 0)) return place.error;
  if (__builtin_expect(bytes >= kAllocationBytesMax, 0)) return abi::CUDA_ERROR_OUT_OF_MEMORY;
  const uint32_t shift = process.granule_shift;
  uint64_t reserved = RoundUp(bytes, 1ull << shift);
  if (__builtin_expect(!ReserveOn(place.card, reserved), 0)) {
    return abi::CUDA_ERROR_OUT_OF_MEMORY;
  }
  abi::CUresult result;
  {
    DepthGuard guard;
    result = make();
  }
  if (__builtin_expect(result != abi::CUDA_SUCCESS, 0)) {
    process.ledger.Release(place.card, reserved);
    return result;
  }
  const Allocation allocation = {*pointer, real_bytes(), place.card, kind, place.context};
  const AllocationTable::Inserted inserted = process.allocations.Insert(allocation, shift);
  if (__builtin_expect(inserted.replaced, 0)) GiveBackReplaced(inserted);
  if (__builtin_expect(!inserted.ok, 0)) {
    DepthGuard guard;
    unmake(*pointer);
    process.ledger.Release(place.card, reserved);
    return abi::CUDA_ERROR_OUT_OF_MEMORY;
  }
  const uint64_t needed = static_cast<uint64_t>(inserted.new_granules) << shift;
  if (needed < reserved) {
    process.ledger.Release(place.card, reserved - needed);
  } else if (__builtin_expect(needed > reserved, 0)) {
    if (!process.ledger.Reserve(place.card, needed - reserved)) {
      // The driver spread it over more granules than we had counted on, and they do not fit.
      Allocation taken;
      process.allocations.Take(allocation.address, shift, &taken);
      {
        DepthGuard guard;
        unmake(*pointer);
      }
      const uint64_t freed = static_cast<uint64_t>(process.allocations.Drop(taken, shift)) << shift;
      // Granules others have come to share in the meantime stay reserved by us for them.
      if (reserved + freed > needed) {
        process.ledger.Release(place.card, reserved + freed - needed);
      }
      return abi::CUDA_ERROR_OUT_OF_MEMORY;
    }
  }
  return result;
}

template <typename Call>
inline abi::CUresult Free(abi::CUdeviceptr pointer, const Call& call) {
  if (__builtin_expect(depth > 0 || !Attached(), 0)) return call();
  const uint32_t shift = process.granule_shift;
  AllocationTable::Removed removed;
  // Out of the table before the driver frees it: its address may be given to another thread at
  // once.
  const bool known = process.allocations.Remove(pointer, shift, &removed);
  abi::CUresult result;
  if (__builtin_expect(!known, 0)) {
    ExternalEnd end(pointer);
    {
      DepthGuard guard;
      result = call();
    }
    // A pool's, perhaps: its pointers are in no table.
    if (process.pools_used != 0) SettleAllPools();
    return end.End(result);
  }
  {
    DepthGuard guard;
    result = call();
  }
  const uint64_t granules = __builtin_expect(result == abi::CUDA_SUCCESS, 1)
                                ? process.allocations.Finish(removed, shift)
                                : process.allocations.Restore(removed, shift);
  if (granules != 0) ReleaseGranules(removed.card(), granules << shift);
  return result;
}

void FreeReal(abi::CUdeviceptr pointer) {
  auto* const real = TESSERA_REAL(cuMemFree_v2);
  if (real != nullptr) real(pointer);
}

uint64_t PitchBytesMax(size_t width, size_t height) {
  // No driver pads a row beyond this (the texture pitch alignment is 32, rows are padded to 512).
  constexpr uint64_t kRowPadding = 512;
  if (width >= kAllocationBytesMax || height >= kAllocationBytesMax) return kAllocationBytesMax;
  const unsigned __int128 bytes =
      static_cast<unsigned __int128>(RoundUp(width, kRowPadding)) * height;
  return bytes >= kAllocationBytesMax ? kAllocationBytesMax : static_cast<uint64_t>(bytes);
}

}  // namespace
}  // namespace tessera::guest

namespace tessera::abi {

using namespace ::tessera::guest;

TESSERA_EXPORT CUresult cuMemAlloc_v2(CUdeviceptr* dptr, size_t bytesize) {
  auto* const real = TESSERA_REAL(cuMemAlloc_v2);
  if (__builtin_expect(real == nullptr, 0)) return MissingCuda();
  return Allocate(
      bytesize, kPlain, dptr, [&] { return real(dptr, bytesize); }, [&] { return bytesize; },
      FreeReal);
}

TESSERA_EXPORT CUresult cuMemFree_v2(CUdeviceptr dptr) {
  auto* const real = TESSERA_REAL(cuMemFree_v2);
  if (__builtin_expect(real == nullptr, 0)) return MissingCuda();
  return Free(dptr, [&] { return real(dptr); });
}

TESSERA_EXPORT_COLD CUresult cuMemAllocPitch_v2(CUdeviceptr* dptr, size_t* pPitch,
                                                size_t WidthInBytes, size_t Height,
                                                unsigned int ElementSizeBytes) {
  auto* const real = TESSERA_REAL(cuMemAllocPitch_v2);
  if (real == nullptr) return MissingCuda();
  return Allocate(
      PitchBytesMax(WidthInBytes, Height), kPlain, pPitch == nullptr ? nullptr : dptr,
      [&] { return real(dptr, pPitch, WidthInBytes, Height, ElementSizeBytes); },
      [&] { return *pPitch * Height; }, FreeReal);
}

TESSERA_EXPORT_COLD CUresult cuMemAllocManaged(CUdeviceptr* dptr, size_t bytesize,
                                               unsigned int flags) {
  auto* const real = TESSERA_REAL(cuMemAllocManaged);
  if (real == nullptr) return MissingCuda();
  // Managed memory may come to the card as a whole, so it is counted as a whole.
  return Allocate(
      bytesize, kManaged, dptr, [&] { return real(dptr, bytesize, flags); },
      [&] { return bytesize; }, FreeReal);
}

// Physical memory handles. A handle is counted until the program has given up every reference to it
// and every mapping of it is gone.
namespace {
bool Unreferenced(Object* object) { return object->holders == 0 && object->maps == 0; }
bool AddHolders(Object* object, int64_t count) {
  object->holders = static_cast<uint32_t>(object->holders + count);
  return Unreferenced(object);
}
bool AddMaps(Object* object, int64_t count) {
  object->maps = static_cast<uint32_t>(object->maps + count);
  return Unreferenced(object);
}

// One step towards or away from nobody holding the handle. An object nobody holds is taken out at
// once, before the driver may give its handle to somebody else; `Finish` then gives its bytes back,
// `Undo` puts it back.
class Step {
 public:
  Step(uint64_t handle, bool (*change)(Object*, int64_t), int64_t count)
      : handle_(handle), change_(change), count_(count) {
    known_ =
        process.objects.Update(kObjectPhysical, handle, change, count, &removed_, &was_removed_);
  }
  bool known() const { return known_; }
  void Finish() {
    if (!was_removed_) return;
    if (removed_.bytes == 0) return UnbindAll(handle_);
    if (removed_.imported != 0) AddAhead(removed_.card, -removed_.bytes);
    process.ledger.Release(removed_.card, removed_.bytes);
  }
  void Undo() {
    if (was_removed_) {
      change_(&removed_, -count_);
      process.objects.Put(removed_);
    } else if (known_) {
      Object ignored;
      bool never = false;
      process.objects.Update(kObjectPhysical, handle_, change_, -count_, &ignored, &never);
    }
  }

 private:
  uint64_t handle_;
  bool (*change_)(Object*, int64_t);
  int64_t count_;
  Object removed_ = {};
  bool known_ = false;
  bool was_removed_ = false;
};
}  // namespace
}  // namespace tessera::abi

namespace tessera::guest {
void HoldPhysical(uint64_t handle, int64_t change) {
  abi::Step(handle, abi::AddMaps, change).Finish();
}
}  // namespace tessera::guest

namespace tessera::abi {

TESSERA_EXPORT_COLD CUresult cuMemCreate(CUmemGenericAllocationHandle* handle, size_t size,
                                         const CUmemAllocationProp* prop,
                                         unsigned long long flags) {
  auto* const real = TESSERA_REAL(cuMemCreate);
  if (real == nullptr) return MissingCuda();
  if (depth > 0) return real(handle, size, prop, flags);
  if (!EnsureAttached()) return kRefused;
  if (handle == nullptr || prop == nullptr || size == 0) {
    DepthGuard guard;
    return real(handle, size, prop, flags);
  }
  // Physical memory elsewhere than on a card is page-locked memory of the machine.
  const bool here = prop->location.type == CU_MEM_LOCATION_TYPE_DEVICE;
  const int card = here ? CardOfDevice(prop->location.id) : static_cast<int>(wire::kHostRow);
  if (card < 0) return kRefused;
  if (size >= kAllocationBytesMax) return CUDA_ERROR_OUT_OF_MEMORY;
  const uint64_t charged = RoundUp(size, Granule());
  const auto on = static_cast<uint32_t>(card);
  if (!(here ? ReserveOn(on, charged) : process.ledger.Reserve(on, charged))) {
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  CUresult result;
  {
    DepthGuard guard;
    result = real(handle, size, prop, flags);
  }
  if (result == CUDA_SUCCESS) {
    Object object = {};
    object.key = *handle;
    object.kind = kObjectPhysical;
    object.card = on;
    object.bytes = charged;
    object.holders = 1;
    if (process.objects.Put(object)) return result;
    auto* const release = TESSERA_REAL(cuMemRelease);
    DepthGuard guard;
    if (release != nullptr) release(*handle);
    result = CUDA_ERROR_OUT_OF_MEMORY;
  }
  process.ledger.Release(on, charged);
  return result;
}

TESSERA_EXPORT_COLD CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
  auto* const real = TESSERA_REAL(cuMemRelease);
  if (real == nullptr) return MissingCuda();
  if (depth > 0 || !Attached()) return real(handle);
  Step step(handle, AddHolders, -1);
  CUresult result;
  {
    DepthGuard guard;
    result = real(handle);
  }
  if (result == CUDA_SUCCESS) {
    step.Finish();
  } else {
    step.Undo();
  }
  return result;
}

TESSERA_EXPORT_COLD CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle* handle,
                                                         void* addr) {
  auto* const real = TESSERA_REAL(cuMemRetainAllocationHandle);
  if (real == nullptr) return MissingCuda();
  CUresult result;
  {
    DepthGuard guard;
    result = real(handle, addr);
  }
  if (result == CUDA_SUCCESS && depth == 0 && Attached()) Step(*handle, AddHolders, 1).Finish();
  return result;
}

// Memory of another process is charged here from the moment it is mapped, because it lives on when
// its maker lets it go; what this process made itself it pays once. The driver does not say how
// large an imported handle is, a mapping does.
TESSERA_EXPORT_COLD CUresult cuMemImportFromShareableHandle(
    CUmemGenericAllocationHandle* handle, void* osHandle, CUmemAllocationHandleType shHandleType) {
  auto* const real = TESSERA_REAL(cuMemImportFromShareableHandle);
  if (real == nullptr) return MissingCuda();
  if (depth > 0) return real(handle, osHandle, shHandleType);
  if (!EnsureAttached()) return kRefused;
  auto* const properties =
      DriverFunction<CUresult(CUmemAllocationProp*, CUmemGenericAllocationHandle)>(
          "cuMemGetAllocationPropertiesFromHandle");
  DepthGuard guard;
  const CUresult result = real(handle, osHandle, shHandleType);
  if (result != CUDA_SUCCESS) return result;
  Step known(*handle, AddHolders, 1);
  if (known.known()) return result;
  CUmemAllocationProp prop = {};
  Object object = {};
  if (properties == nullptr || properties(&prop, *handle) != CUDA_SUCCESS ||
      prop.location.type != CU_MEM_LOCATION_TYPE_DEVICE) {
    // A multicast object, perhaps: it takes nothing, and what is bound to it goes with it.
    object.key = *handle;
    object.kind = kObjectPhysical;
    object.holders = 1;
    process.objects.Put(object);
    return result;
  }
  const int card = CardOfDevice(prop.location.id);
  object.key = *handle;
  object.kind = kObjectPhysical;
  object.card = static_cast<uint32_t>(card);
  object.holders = 1;
  object.imported = 1;
  if (card >= 0 && process.objects.Put(object)) return result;
  auto* const release = TESSERA_REAL(cuMemRelease);
  if (release != nullptr) release(*handle);
  return card < 0 ? kRefused : CUDA_ERROR_OUT_OF_MEMORY;
}

namespace {
bool AddBytes(Object* object, int64_t bytes) {
  object->bytes += static_cast<uint64_t>(bytes);
  return false;
}
void ChargeImport(uint64_t handle, uint32_t card, int64_t bytes) {
  Object ignored;
  bool never = false;
  process.objects.Update(kObjectPhysical, handle, AddBytes, bytes, &ignored, &never);
  AddAhead(card, static_cast<uint64_t>(bytes));
}
// How much mapping `size` bytes of it adds to its charge.
uint64_t ImportGrows(uint64_t handle, uint64_t size, uint32_t* card) {
  Object physical;
  if (!process.objects.Get(kObjectPhysical, handle, &physical) || physical.imported == 0) return 0;
  *card = physical.card;
  size = size >= kAllocationBytesMax ? kAllocationBytesMax : RoundUp(size, Granule());
  return size > physical.bytes ? size - physical.bytes : 0;
}
}  // namespace

TESSERA_EXPORT_COLD CUresult cuMemMap(CUdeviceptr ptr, size_t size, size_t offset,
                                      CUmemGenericAllocationHandle handle,
                                      unsigned long long flags) {
  auto* const real = TESSERA_REAL(cuMemMap);
  if (real == nullptr) return MissingCuda();
  if (depth > 0 || !Attached()) return real(ptr, size, offset, handle, flags);
  Object present;
  const bool taken = process.objects.Get(kObjectMapping, ptr, &present);
  uint32_t card = 0;
  const uint64_t grows = taken ? 0 : ImportGrows(handle, size, &card);
  if (grows != 0) {
    if (!ReserveOn(card, grows)) return CUDA_ERROR_OUT_OF_MEMORY;
    ChargeImport(handle, card, static_cast<int64_t>(grows));
  }
  // The mapping is counted before it exists, so that a release in another thread cannot give the
  // memory back too early. Where something is mapped already the driver will refuse, and there is
  // nothing to count.
  Step step(handle, AddMaps, taken ? 0 : 1);
  const bool counted = step.known() && !taken;
  if (counted) {
    Object mapping = {};
    mapping.key = ptr;
    mapping.kind = kObjectMapping;
    mapping.bytes = size;
    mapping.target = handle;
    if (!process.objects.Put(mapping)) {
      step.Undo();
      return CUDA_ERROR_OUT_OF_MEMORY;
    }
  }
  CUresult result;
  {
    DepthGuard guard;
    result = real(ptr, size, offset, handle, flags);
  }
  if (counted && result != CUDA_SUCCESS) {
    process.objects.Take(kObjectMapping, ptr, &present);
    step.Undo();
    if (grows != 0) {
      ChargeImport(handle, card, -static_cast<int64_t>(grows));
      process.ledger.Release(card, grows);
    }
  }
  return result;
}

TESSERA_EXPORT_COLD CUresult cuMemUnmap(CUdeviceptr ptr, size_t size) {
  auto* const real = TESSERA_REAL(cuMemUnmap);
  if (real == nullptr) return MissingCuda();
  if (depth > 0 || !Attached()) return real(ptr, size);
  // One call may take several adjoining mappings away; they go one by one, so that a failure leaves
  // the rest counted.
  for (;;) {
    Object mapping;
    if (!process.objects.Get(kObjectMapping, ptr, &mapping) || mapping.bytes >= size) break;
    const CUresult result = cuMemUnmap(ptr, mapping.bytes);
    if (result != CUDA_SUCCESS) return result;
    ptr += mapping.bytes;
    size -= mapping.bytes;
  }
  Object mapping;
  if (!process.objects.Take(kObjectMapping, ptr, &mapping)) {
    DepthGuard guard;
    return real(ptr, size);
  }
  Step step(mapping.target, AddMaps, -1);
  CUresult result;
  {
    DepthGuard guard;
    result = real(ptr, size);
  }
  if (result == CUDA_SUCCESS) {
    step.Finish();
  } else {
    step.Undo();
    process.objects.Put(mapping);
  }
  return result;
}

}  // namespace tessera::abi
