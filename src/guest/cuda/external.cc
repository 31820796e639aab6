// Memory that somebody else holds too: what another interface made (Vulkan, say) and a descriptor
// names, and what is bound to a multicast object.
//
// The rule of memory that several processes share stands here for all of it. Whoever made it is
// charged until it lets go; whoever has it from a descriptor (external memory from its import on, a
// physical handle from its first mapping on, by its length) is charged as well, once a process
// however often it maps it, because it goes on holding it when the maker is gone, and no public
// call says who else holds it. So what two processes of a slice share is charged twice while both
// hold it, and no process of any slice ever holds memory nobody is charged for. cuIpcOpenMemHandle
// alone takes nothing: what it opened ends with its maker's cuMemFree.
#include "abi/cuda_memory.h"
#include "guest/cuda/account.h"

namespace tessera::guest {

namespace {

uint64_t last_number;  // of external memories and bindings. Atomic
uint64_t NextNumber() { return __atomic_add_fetch(&last_number, 1, __ATOMIC_RELAXED); }

bool AddMaps(Object* object, int64_t count) {
  object->maps = static_cast<uint32_t>(object->maps + count);
  return object->maps == 0;
}

void HoldExternal(uint64_t number, int64_t change) {
  Object gone;
  bool was_removed = false;
  process.objects.Update(kObjectExternal, number, AddMaps, change, &gone, &was_removed);
  if (!was_removed) return;
  AddAhead(gone.card, -gone.target);
  process.ledger.Release(gone.card, gone.bytes);
}

// What a binding of memory to a multicast object is found by.
struct Bound {
  uint64_t multicast;
  uint64_t offset;
  int card;  // -1: all of the object's
};

// Forgets a binding, so that the memory may go. False: there is none such.
bool Unbind(const Bound& bound) {
  Object binding;
  if (!process.objects.TakeWhere(
          [](const Object& candidate, uint64_t argument) {
            const auto* wanted = reinterpret_cast<const Bound*>(argument);
            return candidate.kind == kObjectBinding && candidate.bytes == wanted->multicast &&
                   (wanted->card < 0 ||
                    (candidate.card == static_cast<uint32_t>(wanted->card) &&
                     candidate.holders == static_cast<uint32_t>(wanted->offset / Granule())));
          },
          reinterpret_cast<uint64_t>(&bound), &binding)) {
    return false;
  }
  HoldPhysical(binding.target, -1);
  return true;
}

// Binds physical memory, which the object then holds like a mapping does: the call at `index` with
// these words. Counted before it is so, so that a release in another thread cannot give the memory
// back too early. What is no physical memory of ours (a pool's) is counted where it is from.
abi::CUresult Bind(uint32_t index, uint64_t physical, const uint64_t (&words)[6]) {
  // Both calls take words only; the one of five does not look at the sixth.
  using Call = abi::CUresult(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);
  auto* const real = RealCuda<Call>(index);
  if (real == nullptr) return MissingCuda();
  Object binding;
  const bool counts = depth == 0 && process.objects.Get(kObjectPhysical, physical, &binding);
  const uint64_t number = NextNumber();
  if (counts) {
    // On the card of the memory, which it has.
    binding.key = number;
    binding.kind = kObjectBinding;
    binding.bytes = words[0];
    binding.holders = static_cast<uint32_t>(words[1] / Granule());
    binding.target = physical;
    if (!process.objects.Put(binding)) return abi::CUDA_ERROR_OUT_OF_MEMORY;
    HoldPhysical(physical, 1);
  }
  const abi::CUresult result = real(words[0], words[1], words[2], words[3], words[4], words[5]);
  if (counts && result != abi::CUDA_SUCCESS) {
    process.objects.Take(kObjectBinding, number, &binding);
    HoldPhysical(physical, -1);
  }
  return result;
}

// Maps a buffer or an array of external memory, which then holds it like its handle does.
abi::CUresult Map(uint32_t index, void* made, abi::CUexternalMemory memory, const void* what) {
  auto* const real = RealCuda<abi::CUresult(void*, abi::CUexternalMemory, const void*)>(index);
  if (real == nullptr) return MissingCuda();
  const abi::CUresult result = real(made, memory, what);
  Object hold;
  if (result == abi::CUDA_SUCCESS && depth == 0 &&
      process.objects.Get(kObjectHold, reinterpret_cast<uint64_t>(memory), &hold)) {
    HoldExternal(hold.target, 1);
    hold.key = *static_cast<const uint64_t*>(made);
    // Without memory for the entry the charge stays for the life of the context.
    process.objects.Put(hold);
  }
  return result;
}

}  // namespace

ExternalEnd::ExternalEnd(uint64_t key) : hold_{} {
  if (depth > 0 || !process.objects.Take(kObjectHold, key, &hold_)) hold_.kind = 0;
}

abi::CUresult ExternalEnd::End(abi::CUresult result) {
  if (hold_.kind == 0) return result;
  if (result == abi::CUDA_SUCCESS) {
    HoldExternal(hold_.target, -1);
  } else {
    process.objects.Put(hold_);
  }
  return result;
}

void UnbindAll(uint64_t multicast) {
  while (Unbind({multicast, 0, -1})) {
  }
}

}  // namespace tessera::guest

namespace tessera::abi {

using namespace ::tessera::guest;

TESSERA_EXPORT CUresult cuDestroyExternalMemory(CUexternalMemory extMem) {
  auto* const real = TESSERA_REAL(cuDestroyExternalMemory);
  if (real == nullptr) return MissingCuda();
  ExternalEnd end(reinterpret_cast<uint64_t>(extMem));
  return end.End(real(extMem));
}

// Charged on the card of the context that imports it, by its length. Whether the driver counts it
// for this process too is its own affair, and asked once: what it does not count must not look like
// room at a later settlement.
TESSERA_EXPORT CUresult cuImportExternalMemory(CUexternalMemory* extMem_out,
                                               const CUDA_EXTERNAL_MEMORY_HANDLE_DESC* desc) {
  auto* const real = TESSERA_REAL(cuImportExternalMemory);
  if (real == nullptr) return MissingCuda();
  const uint64_t size = desc == nullptr ? 0 : desc->size;
  Making making = Begin(extMem_out, size < kAllocationBytesMax ? size : kAllocationBytesMax);
  if (making.error != CUDA_SUCCESS) return making.error;
  DepthGuard guard;
  CUresult result = real(extMem_out, desc);
  if (!making.counts) return result;
  if (result == CUDA_SUCCESS) {
    const uint32_t card = making.place.card;
    Object object = {};
    object.key = NextNumber();
    object.kind = kObjectExternal;
    object.card = card;
    object.context = making.place.context;
    object.maps = 1;
    Object hold = object;
    hold.key = reinterpret_cast<uint64_t>(*extMem_out);
    hold.kind = kObjectHold;
    hold.target = object.key;
    if (process.pools[card].Differs()) SettlePools(card, 0);
    const bool fits = Settle(card, &making.charged, Slack(card), &object.target);
    object.bytes = making.charged;
    if (object.target > object.bytes) object.target = object.bytes;
    if (fits) {
      // Without memory for the entries the charge stays for the life of the process.
      process.objects.Put(hold);
      process.objects.Put(object);
      AddAhead(card, object.target);
      return result;
    }
    auto* const destroy = TESSERA_REAL(cuDestroyExternalMemory);
    if (destroy != nullptr) destroy(*extMem_out);
    result = CUDA_ERROR_OUT_OF_MEMORY;
  }
  if (making.charged != 0) process.ledger.Release(making.place.card, making.charged);
  return result;
}

TESSERA_EXPORT CUresult
cuExternalMemoryGetMappedBuffer(CUdeviceptr* devPtr, CUexternalMemory extMem,
                                const CUDA_EXTERNAL_MEMORY_BUFFER_DESC* bufferDesc) {
  return Map(kIndex_cuExternalMemoryGetMappedBuffer, devPtr, extMem, bufferDesc);
}

TESSERA_EXPORT CUresult cuExternalMemoryGetMappedMipmappedArray(
    CUmipmappedArray* mipmap, CUexternalMemory extMem,
    const CUDA_EXTERNAL_MEMORY_MIPMAPPED_ARRAY_DESC* mipmapDesc) {
  return Map(kIndex_cuExternalMemoryGetMappedMipmappedArray, mipmap, extMem, mipmapDesc);
}

// A multicast object takes nothing of a card, nor does mapping it; it stands among the physical
// handles without a charge, so that its last reference is known.
TESSERA_EXPORT CUresult cuMulticastCreate(CUmemGenericAllocationHandle* mcHandle,
                                          const CUmulticastObjectProp* prop) {
  auto* const real = TESSERA_REAL(cuMulticastCreate);
  if (real == nullptr) return MissingCuda();
  if (depth == 0 && !EnsureAttached()) return kRefused;
  CUresult result;
  {
    DepthGuard guard;
    result = real(mcHandle, prop);
  }
  if (result != CUDA_SUCCESS || depth > 0) return result;
  Object object = {};
  object.key = *mcHandle;
  object.kind = kObjectPhysical;
  object.card = wire::kHostRow;
  object.holders = 1;
  process.objects.Put(object);
  return result;
}

TESSERA_EXPORT CUresult cuMulticastBindMem(CUmemGenericAllocationHandle mcHandle, size_t mcOffset,
                                           CUmemGenericAllocationHandle memHandle, size_t memOffset,
                                           size_t size, unsigned long long flags) {
  return Bind(kIndex_cuMulticastBindMem, memHandle,
              {mcHandle, mcOffset, memHandle, memOffset, size, flags});
}

TESSERA_EXPORT CUresult cuMulticastBindAddr(CUmemGenericAllocationHandle mcHandle, size_t mcOffset,
                                            CUdeviceptr memptr, size_t size,
                                            unsigned long long flags) {
  CUmemGenericAllocationHandle memory = 0;
  if (cuMemRetainAllocationHandle(&memory, reinterpret_cast<void*>(memptr)) != CUDA_SUCCESS) {
    memory = 0;
  }
  const CUresult result =
      Bind(kIndex_cuMulticastBindAddr, memory, {mcHandle, mcOffset, memptr, size, flags});
  if (memory != 0) cuMemRelease(memory);
  return result;
}

TESSERA_EXPORT CUresult cuMulticastUnbind(CUmemGenericAllocationHandle mcHandle, CUdevice dev,
                                          size_t mcOffset, size_t size) {
  auto* const real = TESSERA_REAL(cuMulticastUnbind);
  if (real == nullptr) return MissingCuda();
  const CUresult result = real(mcHandle, dev, mcOffset, size);
  const int card = result == CUDA_SUCCESS && depth == 0 ? CardOfDevice(dev) : -1;
  if (card >= 0) Unbind({mcHandle, mcOffset, card});
  return result;
}

}  // namespace tessera::abi
