// The driver's beginning, and contexts: their cost is charged before they are made and settled with
// what the driver really took.
#include "guest/cuda/account.h"
#include "guest/cuda/gate.h"

namespace tessera::guest {

namespace {

constexpr uint32_t kPrimaryNone = 0, kPrimaryMaking = 1, kPrimaryCharged = 2;

// Which ordinals are the slice's cards, asked of the driver once it runs.
void LearnDevices() {
  if (__atomic_load_n(&process.devices_known, __ATOMIC_ACQUIRE) != 0) return;
  auto* const get_count = DriverFunction<abi::CUresult(int*)>("cuDeviceGetCount");
  auto* const get = DriverFunction<abi::CUresult(abi::CUdevice*, int)>("cuDeviceGet");
  auto* get_uuid = DriverFunction<abi::CUresult(abi::CUuuid*, abi::CUdevice)>("cuDeviceGetUuid_v2");
  if (get_uuid == nullptr) {
    get_uuid = DriverFunction<abi::CUresult(abi::CUuuid*, abi::CUdevice)>("cuDeviceGetUuid");
  }
  int count = 0;
  if (get_count == nullptr || get == nullptr || get_uuid == nullptr) return;
  DepthGuard guard;
  if (get_count(&count) != abi::CUDA_SUCCESS) return;
  for (int ordinal = 0; ordinal < count && ordinal < static_cast<int>(kDevicesMax); ++ordinal) {
    abi::CUdevice device = 0;
    abi::CUuuid uuid;
    if (get(&device, ordinal) != abi::CUDA_SUCCESS || device < 0 ||
        device >= static_cast<int>(kDevicesMax) || get_uuid(&uuid, device) != abi::CUDA_SUCCESS) {
      continue;
    }
    char text[wire::kUuidTextMax];
    size_t at = 0;
    for (int i = 0; i < 16; ++i) {
      constexpr char kDigits[] = "0123456789abcdef";
      if (i == 4 || i == 6 || i == 8 || i == 10) text[at++] = '-';
      text[at++] = kDigits[static_cast<unsigned char>(uuid.bytes[i]) >> 4];
      text[at++] = kDigits[static_cast<unsigned char>(uuid.bytes[i]) & 15];
    }
    text[at] = '\0';
    const int card = CardOfUuid(*process.control, text);
    Device* const entry = &process.devices[device];
    entry->card = card < 0 ? 0 : static_cast<uint8_t>(card);
    __atomic_store_n(&entry->state, card < 0 ? kDeviceForeign : kDeviceOurs, __ATOMIC_RELEASE);
  }
  __atomic_store_n(&process.devices_known, 1u, __ATOMIC_RELEASE);
}

abi::CUresult RefuseForeign() {
  static uint32_t said = 0;
  if (__atomic_exchange_n(&said, 1u, __ATOMIC_RELAXED) == 0) {
    Line line;
    line << "this process has no slice on the card it asked for, so it gets no context there";
    line.Say();
  }
  return kRefused;
}

uint32_t NewContextId() {
  // Ids come round after kContextIdsMax contexts in one process; by then the old ones are long
  // gone.
  return 1 + __atomic_fetch_add(&process.next_context, 1, __ATOMIC_RELAXED) % (kContextIdsMax - 1);
}

// Keeps `sole_context` right. Called with every context that appears or goes.
void CountContext(int change, uint32_t id) {
  LockHolder holder(&process.context_lock);
  process.live_contexts += static_cast<uint32_t>(change);
  // Once several have lived, calls ask the driver which is current, until a process is back to
  // none.
  uint32_t sole = 0;
  if (change > 0 && process.live_contexts == 1) sole = id;
  __atomic_store_n(&process.sole_context, sole, __ATOMIC_RELAXED);
}

bool RememberContext(abi::CUcontext context, uint32_t card, uint32_t id, uint64_t charged) {
  Object object = {};
  object.key = reinterpret_cast<uint64_t>(context);
  object.kind = kObjectContext;
  object.card = card;
  object.context = id;
  object.bytes = charged;
  if (!process.objects.Put(object)) return false;
  CountContext(1, id);
  return true;
}

uint64_t ContextBytes(uint32_t card) {
  return RoundUp(__atomic_load_n(&process.control->cards[card].context_bytes, __ATOMIC_RELAXED),
                 Granule());
}

// A new context stays, charged by the node's measure, or by the driver's figure where nobody has
// measured one. False: it does not fit, or there is no memory for the table.
bool KeepContext(abi::CUcontext context, uint32_t card, uint32_t id, uint64_t* charged) {
  const bool measured = *charged != 0;
  if (!measured && !SettleObject(card, charged)) return false;
  if (!RememberContext(context, card, id, *charged)) return false;
  if (measured) __atomic_store_n(&process.unsettled[card], id, __ATOMIC_RELAXED);
  return true;
}

template <typename Make>
abi::CUresult CreateContext(abi::CUcontext* context, abi::CUdevice device, const Make& make) {
  if (depth > 0) return make();
  if (!EnsureAttached()) return kRefused;
  LearnDevices();
  const int card = CardOfDevice(device);
  if (card == -2 || context == nullptr) {
    // Not a device the driver knows: its own error is the right one.
    DepthGuard guard;
    return make();
  }
  if (card < 0) return RefuseForeign();
  const auto on = static_cast<uint32_t>(card);
  uint64_t charged = ContextBytes(on);
  if (!SettleContext(on)) return abi::CUDA_ERROR_OUT_OF_MEMORY;
  if (charged != 0 && !ReserveOn(on, charged)) return abi::CUDA_ERROR_OUT_OF_MEMORY;
  abi::CUresult result;
  {
    DepthGuard guard;
    result = make();
  }
  if (result == abi::CUDA_SUCCESS) {
    if (KeepContext(*context, on, NewContextId(), &charged)) return result;
    auto* const destroy = TESSERA_REAL(cuCtxDestroy_v2);
    DepthGuard guard;
    if (destroy != nullptr) destroy(*context);
    result = abi::CUDA_ERROR_OUT_OF_MEMORY;
  }
  if (charged != 0) process.ledger.Release(on, charged);
  return result;
}

template <typename Call>
abi::CUresult DestroyContext(abi::CUcontext context, const Call& call) {
  if (depth > 0 || !Attached()) return call();
  Object object;
  const bool known =
      process.objects.Take(kObjectContext, reinterpret_cast<uint64_t>(context), &object);
  abi::CUresult result;
  {
    DepthGuard guard;
    result = call();
  }
  if (!known) return result;
  if (result != abi::CUDA_SUCCESS) {
    process.objects.Put(object);
    return result;
  }
  CountContext(-1, object.context);
  AddAhead(object.card, -object.target);
  DropContext(object.card, object.context);
  if (object.bytes != 0) process.ledger.Release(object.card, object.bytes);
  return result;
}

// Primary contexts, one a device, counted by the driver and by us.

// After a retain that the driver served. False: someone's last release went between, so the context
// is new again.
bool JoinPrimary(Device* device) {
  LockHolder holder(&process.context_lock);
  if (__atomic_load_n(&device->primary, __ATOMIC_ACQUIRE) != kPrimaryCharged) return false;
  ++device->retains;
  return true;
}

// Charges and makes a primary context. Only the thread that moved the word to kPrimaryMaking comes
// here.
template <typename Make, typename Unmake>
abi::CUresult MakePrimary(Device* device, abi::CUcontext* context, const Make& make,
                          const Unmake& unmake) {
  const uint32_t card = device->card;
  uint64_t charged = ContextBytes(card);
  uint32_t outcome = kPrimaryNone;
  abi::CUresult result = abi::CUDA_ERROR_OUT_OF_MEMORY;
  if (charged == 0 || ReserveOn(card, charged)) {
    {
      DepthGuard guard;
      result = make();
    }
    const uint32_t id = NewContextId();
    if (result == abi::CUDA_SUCCESS) {
      if (KeepContext(*context, card, id, &charged)) {
        device->retains = 1;
        device->context = id;
        device->handle = reinterpret_cast<uint64_t>(*context);
        outcome = kPrimaryCharged;
      } else {
        DepthGuard guard;
        unmake();
        result = abi::CUDA_ERROR_OUT_OF_MEMORY;
      }
    }
    if (outcome == kPrimaryNone && charged != 0) process.ledger.Release(card, charged);
  }
  __atomic_store_n(&device->primary, outcome, __ATOMIC_RELEASE);
  FutexWake(&device->primary, 1 << 30);
  return result;
}

// The driver has destroyed the primary context.
void LosePrimary(Device* device) {
  Object object;
  const bool known = process.objects.Take(kObjectContext, device->handle, &object);
  if (known) {
    CountContext(-1, object.context);
    AddAhead(object.card, -object.target);
  }
  DropContext(device->card, device->context);
  if (known && object.bytes != 0) process.ledger.Release(object.card, object.bytes);
}

// The object of a context by our id of it.
bool TakeContext(uint32_t card, uint32_t context, Object* object) {
  const uint64_t both = static_cast<uint64_t>(card) << 32 | context;
  return process.objects.TakeWhere(
      [](const Object& candidate, uint64_t argument) {
        return candidate.kind == kObjectContext && candidate.card == argument >> 32 &&
               candidate.context == static_cast<uint32_t>(argument);
      },
      both, object);
}

// Adds to what a living context is charged; a context that went meanwhile has nothing to hold it,
// so it goes back. Of the bytes the driver will take `ahead` only later.
void GrowContext(uint32_t card, uint32_t context, uint64_t bytes, uint64_t ahead) {
  Object object;
  if (!TakeContext(card, context, &object)) {
    process.ledger.Release(card, bytes);
    return;
  }
  object.bytes += bytes;
  object.target += ahead;
  AddAhead(card, ahead);
  process.objects.Put(object);
}

// How much the context's heap is charged already.
uint64_t HeapCharged(uint32_t card, uint32_t context) {
  Object object;
  if (!TakeContext(card, context, &object)) return 0;
  process.objects.Put(object);
  return object.target;
}

// The heap of device-side malloc is taken when a kernel first asks, where nobody can be charged. So
// it is charged when its size is set.
abi::CUresult SetHeap(const Place& place, size_t value, abi::CUresult (*set)(abi::CUlimit, size_t),
                      size_t before) {
  const uint64_t wanted =
      value >= kAllocationBytesMax ? kAllocationBytesMax : RoundUp(value, Granule());
  const uint64_t present = HeapCharged(place.card, place.context);
  uint64_t more = wanted > present ? wanted - present : 0;
  if (more != 0 && !ReserveOn(place.card, more)) return abi::CUDA_ERROR_OUT_OF_MEMORY;
  abi::CUresult result;
  {
    DepthGuard guard;
    result = set(abi::CU_LIMIT_MALLOC_HEAP_SIZE, value);
  }
  uint64_t ahead = 0;
  if (result == abi::CUDA_SUCCESS) {
    if (Settle(place.card, &more, Slack(place.card), &ahead)) {
      if (ahead > more) ahead = more;
      if (more != 0) GrowContext(place.card, place.context, more, ahead);
      return result;
    }
    DepthGuard guard;
    set(abi::CU_LIMIT_MALLOC_HEAP_SIZE, before);
    result = abi::CUDA_ERROR_OUT_OF_MEMORY;
  }
  if (more != 0) process.ledger.Release(place.card, more);
  return result;
}

Device* OurDevice(abi::CUdevice device) {
  if (device < 0 || device >= static_cast<int>(kDevicesMax)) return nullptr;
  Device* const entry = &process.devices[device];
  return __atomic_load_n(&entry->state, __ATOMIC_ACQUIRE) == kDeviceOurs ? entry : nullptr;
}

template <typename Call>
abi::CUresult ReleasePrimary(abi::CUdevice ordinal, const Call& call) {
  abi::CUresult result;
  {
    DepthGuard guard;
    result = call();
  }
  if (result != abi::CUDA_SUCCESS || depth > 0 || !Attached()) return result;
  Device* const device = OurDevice(ordinal);
  if (device == nullptr) return result;
  bool last = false;
  {
    LockHolder holder(&process.context_lock);
    const bool counted = device->primary == kPrimaryCharged && device->retains > 0;
    if (counted) --device->retains;
    if (counted && device->retains == 0) {
      __atomic_store_n(&device->primary, kPrimaryMaking, __ATOMIC_RELEASE);
      last = true;
    }
  }
  if (last) {
    LosePrimary(device);
    __atomic_store_n(&device->primary, kPrimaryNone, __ATOMIC_RELEASE);
    FutexWake(&device->primary, 1 << 30);
  }
  return result;
}

template <typename Call>
abi::CUresult ResetPrimary(abi::CUdevice ordinal, const Call& call) {
  abi::CUresult result;
  {
    DepthGuard guard;
    result = call();
  }
  if (result != abi::CUDA_SUCCESS || depth > 0 || !Attached()) return result;
  Device* const device = OurDevice(ordinal);
  if (device == nullptr) return result;
  // Whether the context itself is gone is the driver's to say; what was allocated in it is.
  auto* const state = DriverFunction<abi::CUresult(abi::CUdevice, unsigned int*, int*)>(
      "cuDevicePrimaryCtxGetState");
  unsigned int flags = 0;
  int active = 0;
  if (state != nullptr) {
    DepthGuard guard;
    if (state(ordinal, &flags, &active) != abi::CUDA_SUCCESS) active = 0;
  }
  bool lost = false;
  {
    LockHolder holder(&process.context_lock);
    if (active == 0 && device->primary == kPrimaryCharged) {
      device->retains = 0;
      __atomic_store_n(&device->primary, kPrimaryMaking, __ATOMIC_RELEASE);
      lost = true;
    }
  }
  if (lost) {
    LosePrimary(device);
    __atomic_store_n(&device->primary, kPrimaryNone, __ATOMIC_RELEASE);
    FutexWake(&device->primary, 1 << 30);
  } else if (device->primary == kPrimaryCharged) {
    DropContext(device->card, device->context);
  }
  return result;
}

}  // namespace

bool SettleContextSlow(uint32_t card) {
  if (HoldsForRiders(card)) SettleRiders(card);
  const uint32_t context = __atomic_exchange_n(&process.unsettled[card], 0u, __ATOMIC_RELAXED);
  if (context == 0) return true;
  if (process.pools[card].Differs()) SettlePools(card, 0);
  const uint64_t slack = Slack(card);
  uint64_t more = 0, surplus = 0;
  if (!Settle(card, &more, slack, &surplus)) {
    __atomic_store_n(&process.unsettled[card], context, __ATOMIC_RELAXED);
    return false;
  }
  if (Slack(card) != slack) surplus = 0;
  Object object;
  uint64_t back = more;
  if ((more != 0 || surplus != 0) && TakeContext(card, context, &object)) {
    back = surplus < object.bytes ? surplus : object.bytes;
    object.bytes += more - back;
    process.objects.Put(object);
  }
  if (back != 0) process.ledger.Release(card, back);
  return true;
}

int CardOfDevice(abi::CUdevice device) {
  LearnDevices();
  if (device < 0 || device >= static_cast<int>(kDevicesMax)) return -2;
  const Device& entry = process.devices[device];
  switch (__atomic_load_n(&entry.state, __ATOMIC_ACQUIRE)) {
    case kDeviceOurs:
      return entry.card;
    case kDeviceForeign:
      return -1;
    default:
      return -2;
  }
}

Place FindPlaceSlow() {
  if (process.card_count == 1 && __atomic_load_n(&process.live_contexts, __ATOMIC_RELAXED) == 0) {
    return {abi::CUDA_SUCCESS, 0, 0};
  }
  static void* get_current = nullptr;
  void* function = __atomic_load_n(&get_current, __ATOMIC_RELAXED);
  if (function == nullptr) {
    function = ResolveReal(kCudaLibrary, "cuCtxGetCurrent");
    __atomic_store_n(&get_current, function, __ATOMIC_RELAXED);
  }
  abi::CUcontext context = nullptr;
  if (function != nullptr) {
    DepthGuard guard;
    const abi::CUresult result =
        reinterpret_cast<abi::CUresult (*)(abi::CUcontext*)>(function)(&context);
    if (result != abi::CUDA_SUCCESS) return {result, 0, 0};
  }
  Object object;
  if (context != nullptr &&
      process.objects.Get(kObjectContext, reinterpret_cast<uint64_t>(context), &object)) {
    return {abi::CUDA_SUCCESS, object.card, object.context};
  }
  if (process.card_count == 1) return {abi::CUDA_SUCCESS, 0, 0};
  if (context == nullptr) return {abi::CUDA_ERROR_INVALID_CONTEXT, 0, 0};
  // A context made behind us: its device decides.
  auto* const get_device = DriverFunction<abi::CUresult(abi::CUdevice*)>("cuCtxGetDevice");
  abi::CUdevice device = -1;
  if (get_device != nullptr) {
    DepthGuard guard;
    const abi::CUresult result = get_device(&device);
    if (result != abi::CUDA_SUCCESS) return {result, 0, 0};
  }
  const int card = CardOfDevice(device);
  if (card < 0) return {kRefused, 0, 0};
  return {abi::CUDA_SUCCESS, static_cast<uint32_t>(card), 0};
}

void DropContext(uint32_t card, uint32_t context) {
  ForgetMarks();
  if (context == 0) return;
  const uint64_t both = static_cast<uint64_t>(card) << 32 | context;
  const auto give_back = [](uint32_t on, uint32_t granules, void*) {
    process.ledger.Release(on, static_cast<uint64_t>(granules) << process.granule_shift);
  };
  process.allocations.Sweep(
      [](const Allocation& allocation, uint64_t argument) {
        return allocation.card == argument >> 32 &&
               allocation.context == static_cast<uint32_t>(argument);
      },
      both, process.granule_shift, give_back, nullptr);
  Object object;
  while (process.objects.TakeWhere(
      [](const Object& candidate, uint64_t argument) {
        return candidate.kind != kObjectContext && candidate.context != 0 &&
               (candidate.card == argument >> 32 || candidate.card == wire::kHostRow) &&
               candidate.context == static_cast<uint32_t>(argument);
      },
      both, &object)) {
    if (object.kind == kObjectGraphMemory) {
      ForgetGraph(object);
    } else if (object.bytes != 0) {
      if (object.kind == kObjectExternal) AddAhead(object.card, -object.target);
      process.ledger.Release(object.card, object.bytes);
    } else if (object.holders != 0) {
      CountRider(object.card, -1);
    }
  }
  // Pools belong to the card and outlive one context of several, but not the last.
  if (process.pools[card].Charged() != 0) {
    SettlePools(card, 0);
    SettleGraphs(card);
  }
}

}  // namespace tessera::guest

namespace tessera::abi {

using namespace ::tessera::guest;

TESSERA_EXPORT CUresult cuInit(unsigned int Flags) {
  auto* const real = TESSERA_REAL(cuInit);
  if (real == nullptr) return MissingCuda();
  if (depth > 0) return real(Flags);
  if (!EnsureAttached()) return kRefused;
  if (__atomic_load_n(&process.devices_known, __ATOMIC_ACQUIRE) == 0) {
    SetVisibleDevices();
    SetMpsPercentage();
  }
  DepthGuard guard;
  return real(Flags);
}

TESSERA_EXPORT CUresult cuCtxCreate(CUcontext* pctx, unsigned int flags, CUdevice dev) {
  auto* const real = TESSERA_REAL(cuCtxCreate);
  if (real == nullptr) return MissingCuda();
  return CreateContext(pctx, dev, [&] { return real(pctx, flags, dev); });
}

TESSERA_EXPORT CUresult cuCtxCreate_v2(CUcontext* pctx, unsigned int flags, CUdevice dev) {
  auto* const real = TESSERA_REAL(cuCtxCreate_v2);
  if (real == nullptr) return MissingCuda();
  return CreateContext(pctx, dev, [&] { return real(pctx, flags, dev); });
}

TESSERA_EXPORT CUresult cuCtxCreate_v3(CUcontext* pctx, CUexecAffinityParam* paramsArray,
                                       int numParams, unsigned int flags, CUdevice dev) {
  auto* const real = TESSERA_REAL(cuCtxCreate_v3);
  if (real == nullptr) return MissingCuda();
  return CreateContext(pctx, dev, [&] { return real(pctx, paramsArray, numParams, flags, dev); });
}

TESSERA_EXPORT CUresult cuCtxCreate_v4(CUcontext* pctx, CUctxCreateParams* ctxCreateParams,
                                       unsigned int flags, CUdevice dev) {
  auto* const real = TESSERA_REAL(cuCtxCreate_v4);
  if (real == nullptr) return MissingCuda();
  return CreateContext(pctx, dev, [&] { return real(pctx, ctxCreateParams, flags, dev); });
}

#define TESSERA_CONTEXT_END(symbol)                        \
  TESSERA_EXPORT CUresult symbol(CUcontext ctx) {          \
    auto* const real = TESSERA_REAL(symbol);               \
    if (real == nullptr) return MissingCuda();             \
    return DestroyContext(ctx, [&] { return real(ctx); }); \
  }
TESSERA_CONTEXT_END(cuCtxDestroy)
TESSERA_CONTEXT_END(cuCtxDestroy_v2)
TESSERA_CONTEXT_END(cuCtxDetach)

TESSERA_EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext* pctx, CUdevice dev) {
  auto* const real = TESSERA_REAL(cuDevicePrimaryCtxRetain);
  if (real == nullptr) return MissingCuda();
  if (depth > 0) return real(pctx, dev);
  if (!EnsureAttached()) return kRefused;
  const int card = CardOfDevice(dev);
  if (card == -1) return RefuseForeign();
  if (card < 0 || pctx == nullptr) {
    DepthGuard guard;
    return real(pctx, dev);
  }
  Device* const device = &process.devices[dev];
  const auto unmake = [&] {
    auto* release = TESSERA_REAL(cuDevicePrimaryCtxRelease_v2);
    if (release == nullptr) release = TESSERA_REAL(cuDevicePrimaryCtxRelease);
    if (release != nullptr) release(dev);
  };
  for (;;) {
    uint32_t word = kPrimaryNone;
    if (__atomic_compare_exchange_n(&device->primary, &word, kPrimaryMaking, false,
                                    __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
      return MakePrimary(device, pctx, [&] { return real(pctx, dev); }, unmake);
    }
    if (word == kPrimaryCharged) {
      CUresult result;
      {
        DepthGuard guard;
        result = real(pctx, dev);
      }
      if (result != CUDA_SUCCESS || JoinPrimary(device)) return result;
      DepthGuard guard;
      unmake();
      continue;
    }
    // Another thread is making it inside the driver, where this one would wait as well.
    FutexWait(&device->primary, kPrimaryMaking, wire::kFrozenSleepNanosMax, false);
  }
}

#define TESSERA_PRIMARY(symbol, what)            \
  TESSERA_EXPORT CUresult symbol(CUdevice dev) { \
    auto* const real = TESSERA_REAL(symbol);     \
    if (real == nullptr) return MissingCuda();   \
    return what(dev, [&] { return real(dev); }); \
  }
TESSERA_PRIMARY(cuDevicePrimaryCtxRelease, ReleasePrimary)
TESSERA_PRIMARY(cuDevicePrimaryCtxRelease_v2, ReleasePrimary)
TESSERA_PRIMARY(cuDevicePrimaryCtxReset, ResetPrimary)
TESSERA_PRIMARY(cuDevicePrimaryCtxReset_v2, ResetPrimary)

TESSERA_EXPORT CUresult cuCtxSetLimit(CUlimit limit, size_t value) {
  auto* const real = TESSERA_REAL(cuCtxSetLimit);
  if (real == nullptr) return MissingCuda();
  if (depth > 0 || !Attached()) return real(limit, value);
  const Place place = FindPlace();
  if (place.error == CUDA_SUCCESS && !SettleContext(place.card)) return CUDA_ERROR_OUT_OF_MEMORY;
  auto* const get = DriverFunction<CUresult(size_t*, CUlimit)>("cuCtxGetLimit");
  size_t before = 0;
  CUresult result;
  bool known = false;
  {
    DepthGuard guard;
    known = get != nullptr && get(&before, limit) == CUDA_SUCCESS;
  }
  if (known && limit == CU_LIMIT_MALLOC_HEAP_SIZE && place.error == CUDA_SUCCESS &&
      place.context != 0) {
    return SetHeap(place, value, real, before);
  }
  {
    DepthGuard guard;
    result = real(limit, value);
  }
  if (result != CUDA_SUCCESS || place.error != CUDA_SUCCESS || place.context == 0) return result;
  // Stacks, heap and print buffer are memory of the card: what the driver took more is charged to
  // the context.
  uint64_t grown = 0;
  if (!SettleObject(place.card, &grown)) {
    DepthGuard guard;
    if (known) real(limit, before);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  if (grown != 0) GrowContext(place.card, place.context, grown, 0);
  return result;
}

}  // namespace tessera::abi
