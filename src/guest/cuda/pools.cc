// Memory pools and stream-ordered allocation. A pool keeps memory after a free, until a trim or a
// synchronisation finds it above its threshold, so what is charged is what the driver says the
// card's pools hold (RESERVED_MEM_CURRENT), and no pointer is remembered. An allocation claims its
// size first; once the driver has served it the claim is replaced by the driver's own figure.
#include "guest/cuda/account.h"

namespace tessera::guest {

namespace {

constexpr uint64_t kDestroyed = 1;  // in PoolHold::pools
constexpr int kSettleRoundsMax = 8;

abi::CUmemoryPool HandleOf(uint64_t entry) {
  return reinterpret_cast<abi::CUmemoryPool>(entry & ~kDestroyed);
}

// While this lives nothing this thread asks of the driver disturbs a capture.
class RelaxedCapture {
 public:
  RelaxedCapture() { Exchange(); }
  ~RelaxedCapture() { Exchange(); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  void Exchange() {
    constexpr unsigned int kNoFunction = ~0u;
    if (mode_ == kNoFunction) return;
    auto* const exchange =
        DriverFunction<abi::CUresult(unsigned int*)>("cuThreadExchangeStreamCaptureMode");
    if (exchange == nullptr || exchange(&mode_) != abi::CUDA_SUCCESS) mode_ = kNoFunction;
  }
  unsigned int mode_ = 2;  // CU_STREAM_CAPTURE_MODE_RELAXED
};

uint64_t* FindEntry(uint32_t card, abi::CUmemoryPool pool) {
  for (uint64_t& entry : process.pools[card].pools) {
    const uint64_t value = __atomic_load_n(&entry, __ATOMIC_ACQUIRE);
    if (value != 0 && HandleOf(value) == pool) return &entry;
  }
  return nullptr;
}

// The card whose pool it is, or -1.
int CardOfPool(abi::CUmemoryPool pool) {
  for (uint32_t card = 0; card < process.card_count; ++card) {
    if (FindEntry(card, pool) != nullptr) return static_cast<int>(card);
  }
  return -1;
}

bool RememberPool(uint32_t card, abi::CUmemoryPool pool) {
  PoolHold& hold = process.pools[card];
  LockHolder holder(&hold.lock);
  if (FindEntry(card, pool) != nullptr) return true;
  for (uint64_t& entry : hold.pools) {
    if (entry != 0) continue;
    __atomic_store_n(&entry, reinterpret_cast<uint64_t>(pool), __ATOMIC_RELEASE);
    return true;
  }
  return false;
}

// The pool every device has from the start, in the list before anything comes from a pool there.
bool KnowDefaultPool(uint32_t card) {
  if (__atomic_load_n(&process.pools[card].pools[0], __ATOMIC_ACQUIRE) != 0) return true;
  auto* const get =
      DriverFunction<abi::CUresult(abi::CUmemoryPool*, abi::CUdevice)>("cuDeviceGetDefaultMemPool");
  const int device = OrdinalOfCard(card);
  abi::CUmemoryPool pool = nullptr;
  if (get == nullptr || device < 0) return false;
  {
    DepthGuard guard;
    if (get(&pool, device) != abi::CUDA_SUCCESS || pool == nullptr) return false;
  }
  return RememberPool(card, pool);
}

bool ReadAttribute(abi::CUmemoryPool pool, abi::CUmemPool_attribute attribute, uint64_t* value) {
  auto* const get = TESSERA_REAL(cuMemPoolGetAttribute);
  DepthGuard guard;
  return get != nullptr && get(pool, attribute, value) == abi::CUDA_SUCCESS;
}

// Calls `visit` for each pool of the card. Nobody destroys one of them meanwhile.
template <typename Visit>
void ForEachPool(uint32_t card, const Visit& visit) {
  PoolHold& hold = process.pools[card];
  __atomic_fetch_add(&hold.readers, 1, __ATOMIC_SEQ_CST);
  for (const uint64_t& entry : hold.pools) {
    const uint64_t value = __atomic_load_n(&entry, __ATOMIC_SEQ_CST);
    if (value != 0) visit(value);
  }
  __atomic_fetch_sub(&hold.readers, 1, __ATOMIC_SEQ_CST);
}

// What the card's pools hold, by the driver.
uint64_t ReadPools(uint32_t card) {
  uint64_t sum = 0;
  ForEachPool(card, [&](uint64_t entry) {
    uint64_t bytes = 0;
    if (ReadAttribute(HandleOf(entry), abi::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &bytes)) {
      sum += RoundUp(bytes, Granule());
    }
  });
  return sum;
}

void Trim(abi::CUmemoryPool pool, uint64_t keep) {
  auto* const trim = TESSERA_REAL(cuMemPoolTrimTo);
  DepthGuard guard;
  if (trim != nullptr) trim(pool, keep);
}

// Pools the program has destroyed while something of them was in use live on until nothing is, so
// that they can be asked what they hold.
void BuryPools(uint32_t card) {
  PoolHold& hold = process.pools[card];
  for (uint64_t& entry : hold.pools) {
    uint64_t value = __atomic_load_n(&entry, __ATOMIC_ACQUIRE);
    if ((value & kDestroyed) == 0) continue;
    uint64_t holds = 1;
    __atomic_fetch_add(&hold.readers, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&entry, __ATOMIC_SEQ_CST) == value) {
      Trim(HandleOf(value), 0);
      if (!ReadAttribute(HandleOf(value), abi::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &holds)) {
        holds = 1;
      }
    }
    __atomic_fetch_sub(&hold.readers, 1, __ATOMIC_SEQ_CST);
    if (holds != 0) continue;
    // Out of the list first; whoever saw it there is waited for by leaving it to a later visit.
    if (!__atomic_compare_exchange_n(&entry, &value, 0, false, __ATOMIC_SEQ_CST,
                                     __ATOMIC_SEQ_CST)) {
      continue;
    }
    if (__atomic_load_n(&hold.readers, __ATOMIC_SEQ_CST) != 0) {
      __atomic_store_n(&entry, value, __ATOMIC_SEQ_CST);
      continue;
    }
    auto* const destroy = TESSERA_REAL(cuMemPoolDestroy);
    DepthGuard guard;
    if (destroy != nullptr) destroy(HandleOf(value));
  }
}

void Synchronise(const StreamForm& stream) {
  auto* const wait = stream.per_thread ? TESSERA_REAL(cuStreamSynchronize_ptsz)
                                       : TESSERA_REAL(cuStreamSynchronize);
  DepthGuard guard;
  const RelaxedCapture relaxed;
  if (wait != nullptr) wait(stream.stream);
}

// Whether the stream captures: what is asked there then becomes part of a graph.
bool Captures(const StreamForm& stream) {
  using Ask = abi::CUresult(abi::CUstream, abi::CUstreamCaptureStatus*);
  static void* known[2] = {};  // found once; looking a name up takes longer than asking
  void* function = __atomic_load_n(&known[stream.per_thread ? 1 : 0], __ATOMIC_RELAXED);
  if (function == nullptr) {
    function = ResolveReal(kCudaLibrary,
                           stream.per_thread ? "cuStreamIsCapturing_ptsz" : "cuStreamIsCapturing");
    __atomic_store_n(&known[stream.per_thread ? 1 : 0], function, __ATOMIC_RELAXED);
  }
  auto* const ask = reinterpret_cast<Ask*>(function);
  abi::CUstreamCaptureStatus status = abi::CU_STREAM_CAPTURE_STATUS_NONE;
  DepthGuard guard;
  return ask != nullptr && ask(stream.stream, &status) == abi::CUDA_SUCCESS &&
         status != abi::CU_STREAM_CAPTURE_STATUS_NONE;
}

// An allocation from a pool of that card.
template <typename Make>
abi::CUresult AllocateFromPool(uint32_t card, uint64_t bytes, const StreamForm& stream,
                               abi::CUdeviceptr* pointer, const Make& make) {
  if (bytes >= kAllocationBytesMax) return abi::CUDA_ERROR_OUT_OF_MEMORY;
  PoolHold& hold = process.pools[card];
  __atomic_store_n(&process.pools_used, 1u, __ATOMIC_RELAXED);
  const uint64_t claim = RoundUp(bytes, Granule());
  if (!process.ledger.Reserve(card, claim) && !ReserveTrimmed(card, claim, &stream)) {
    return abi::CUDA_ERROR_OUT_OF_MEMORY;
  }
  {
    LockHolder holder(&hold.lock);
    hold.claims += claim;
    __atomic_store_n(&hold.charged, hold.charged + claim, __ATOMIC_RELAXED);
  }
  abi::CUresult result;
  {
    DepthGuard guard;
    result = make();
  }
  if (SettlePools(card, claim) || result != abi::CUDA_SUCCESS) return result;
  // The driver took more for it than was claimed, and that does not fit.
  auto* const free =
      stream.per_thread ? TESSERA_REAL(cuMemFreeAsync_ptsz) : TESSERA_REAL(cuMemFreeAsync);
  {
    DepthGuard guard;
    if (free != nullptr) free(*pointer, stream.stream);
  }
  *pointer = 0;
  Synchronise(stream);
  ForEachPool(card, [](uint64_t entry) { Trim(HandleOf(entry), 0); });
  SettlePools(card, 0);
  return abi::CUDA_ERROR_OUT_OF_MEMORY;
}

// `pool` null: the current one of the context's device.
template <typename Make>
abi::CUresult AllocateInStream(abi::CUmemoryPool pool, uint64_t bytes, const StreamForm& stream,
                               abi::CUdeviceptr* pointer, const Make& make) {
  if (depth > 0) return make();
  if (!EnsureAttached()) return kRefused;
  const Place place = FindPlace();
  if (place.error != abi::CUDA_SUCCESS) return place.error;
  int card = static_cast<int>(place.card);
  bool known = KnowDefaultPool(place.card);
  if (known && pool != nullptr) {
    for (uint32_t i = 0; i < process.card_count; ++i) KnowDefaultPool(i);
    card = CardOfPool(pool);
    known = card >= 0;
  }
  // No such pool, or one of host memory; nothing to make, or nothing to say it with: the driver
  // words the error itself. In a capture a node is made, and its graph will be charged.
  if (!known || pointer == nullptr || bytes == 0) {
    DepthGuard guard;
    return make();
  }
  if (Captures(stream)) {
    __atomic_store_n(&process.graphs_used, 1u, __ATOMIC_RELAXED);
    DepthGuard guard;
    return make();
  }
  return AllocateFromPool(static_cast<uint32_t>(card), bytes, stream, pointer, make);
}

// The driver frees when the stream gets there. A pool keeps it, so nothing changes; memory of
// cuMemAlloc is gone only then, and the call waits for it, so that nobody has the room too early.
template <typename Call>
abi::CUresult FreeInStream(abi::CUdeviceptr pointer, const StreamForm& stream, const Call& call) {
  if (depth > 0 || !Attached()) return call();
  const uint32_t shift = process.granule_shift;
  Allocation taken;
  const bool known = process.allocations.Take(pointer, shift, &taken);
  abi::CUresult result;
  {
    DepthGuard guard;
    result = call();
  }
  if (!known) return result;
  if (result != abi::CUDA_SUCCESS || Captures(stream)) {
    process.allocations.PutBack(taken, shift);
    return result;
  }
  Synchronise(stream);
  const uint64_t granules = process.allocations.Drop(taken, shift);
  if (granules != 0) ReleaseGranules(taken.card, granules << shift);
  return result;
}

}  // namespace

bool SettlePools(uint32_t card, uint64_t claim) {
  PoolHold& hold = process.pools[card];
  for (int round = 1;; ++round) {
    const uint32_t seen = __atomic_load_n(&hold.settled, __ATOMIC_ACQUIRE);
    const uint64_t real = ReadPools(card);
    LockHolder holder(&hold.lock);
    const bool moved = hold.settled != seen;
    // Somebody's allocation was settled after the driver was asked, so its memory may be missing in
    // the answer.
    if (moved && round < kSettleRoundsMax) continue;
    hold.claims -= claim;
    // Others never stand still: the claim stays charged, and whoever comes last corrects it.
    if (moved) return true;
    __atomic_store_n(&hold.settled, seen + 1, __ATOMIC_RELEASE);
    const uint64_t wanted = real + hold.claims;
    if (wanted < hold.charged) {
      process.ledger.Release(card, hold.charged - wanted);
    } else if (wanted > hold.charged && !process.ledger.Reserve(card, wanted - hold.charged)) {
      return false;
    }
    __atomic_store_n(&hold.charged, wanted, __ATOMIC_RELAXED);
    return true;
  }
}

void SettleAllPools() {
  for (uint32_t card = 0; card < process.card_count && card < wire::kCardsMax; ++card) {
    if (__atomic_load_n(&process.pools[card].charged, __ATOMIC_RELAXED) == 0) continue;
    BuryPools(card);
    SettlePools(card, 0);
  }
}

bool ReserveTrimmed(uint32_t card, uint64_t bytes, const StreamForm* stream) {
  PoolHold& hold = process.pools[card];
  if (Unsettled(card) && SettleContextSlow(card) && process.ledger.Reserve(card, bytes)) {
    return true;
  }
  if (hold.Charged() == 0) return false;
  // What the driver has given back behind us is all it takes, mostly.
  if (SettlePools(card, 0) && process.ledger.Reserve(card, bytes)) return true;
  // As much as is missing of every pool; everything they can spare; everything after a wait.
  for (int pass = 0; pass < 3; ++pass) {
    if (pass == 2) {
      if (stream == nullptr) return false;
      Synchronise(*stream);
    }
    ForEachPool(card, [&](uint64_t entry) {
      uint64_t holds = 0;
      const bool part =
          pass == 0 &&
          ReadAttribute(HandleOf(entry), abi::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &holds) &&
          holds > bytes;
      Trim(HandleOf(entry), part ? holds - bytes : 0);
    });
    TrimGraphs(card);
    BuryPools(card);
    SettlePools(card, 0);
    if (process.ledger.Reserve(card, bytes)) return true;
  }
  return false;
}

uint64_t SlackSlow(uint32_t card) {
  const PoolHold& hold = process.pools[card];
  uint64_t slack = __atomic_load_n(&hold.charged, __ATOMIC_RELAXED);
  const uint64_t pools = slack == 0 ? 0 : ReadPools(card);
  slack -= pools < slack ? pools : slack;
  return slack + GraphSlack(card) + __atomic_load_n(&hold.ahead, __ATOMIC_RELAXED);
}

int OrdinalOfCard(uint32_t card) {
  for (uint32_t device = 0; device < kDevicesMax; ++device) {
    const Device& entry = process.devices[device];
    if (__atomic_load_n(&entry.state, __ATOMIC_ACQUIRE) == kDeviceOurs && entry.card == card) {
      return static_cast<int>(device);
    }
  }
  return -1;
}

}  // namespace tessera::guest

namespace tessera::abi {

using namespace ::tessera::guest;

#define TESSERA_STREAM_MEMORY(suffix, per_thread)                                                \
  TESSERA_EXPORT CUresult cuMemAllocAsync##suffix(CUdeviceptr* dptr, size_t bytesize,            \
                                                  CUstream hStream) {                            \
    auto* const real = TESSERA_REAL(cuMemAllocAsync##suffix);                                    \
    if (real == nullptr) return MissingCuda();                                                   \
    return AllocateInStream(nullptr, bytesize, {hStream, per_thread}, dptr,                      \
                            [&] { return real(dptr, bytesize, hStream); });                      \
  }                                                                                              \
  TESSERA_EXPORT CUresult cuMemAllocFromPoolAsync##suffix(CUdeviceptr* dptr, size_t bytesize,    \
                                                          CUmemoryPool pool, CUstream hStream) { \
    auto* const real = TESSERA_REAL(cuMemAllocFromPoolAsync##suffix);                            \
    if (real == nullptr) return MissingCuda();                                                   \
    /* No handle is null, so a program that passes one gets the driver's error. */               \
    if (pool == nullptr) return real(dptr, bytesize, pool, hStream);                             \
    return AllocateInStream(pool, bytesize, {hStream, per_thread}, dptr,                         \
                            [&] { return real(dptr, bytesize, pool, hStream); });                \
  }                                                                                              \
  TESSERA_EXPORT CUresult cuMemFreeAsync##suffix(CUdeviceptr dptr, CUstream hStream) {           \
    auto* const real = TESSERA_REAL(cuMemFreeAsync##suffix);                                     \
    if (real == nullptr) return MissingCuda();                                                   \
    return FreeInStream(dptr, {hStream, per_thread}, [&] { return real(dptr, hStream); });       \
  }
TESSERA_STREAM_MEMORY(, false)
TESSERA_STREAM_MEMORY(_ptsz, true)

TESSERA_EXPORT CUresult cuMemPoolCreate(CUmemoryPool* pool, const CUmemPoolProps* poolProps) {
  auto* const real = TESSERA_REAL(cuMemPoolCreate);
  if (real == nullptr) return MissingCuda();
  if (depth > 0) return real(pool, poolProps);
  if (!EnsureAttached()) return kRefused;
  int card = -2;
  if (pool != nullptr && poolProps != nullptr) {
    // Managed memory may come to the card as a whole, wherever it begins.
    if (poolProps->allocType == CU_MEM_ALLOCATION_TYPE_MANAGED) {
      return DenyCuda(kIndex_cuMemPoolCreate);
    }
    if (poolProps->location.type == CU_MEM_LOCATION_TYPE_DEVICE) {
      card = CardOfDevice(poolProps->location.id);
      if (card == -1) return kRefused;
    } else if (process.control->cards[wire::kHostRow].limit_bytes != wire::kUnlimitedBytes) {
      // A pool of the machine's memory keeps it page-locked, and is told apart by nobody who frees.
      return DenyCuda(kIndex_cuMemPoolCreate);
    }
  }
  CUresult result;
  {
    DepthGuard guard;
    result = real(pool, poolProps);
  }
  if (result != CUDA_SUCCESS || card < 0) return result;
  if (KnowDefaultPool(static_cast<uint32_t>(card)) &&
      RememberPool(static_cast<uint32_t>(card), *pool)) {
    return result;
  }
  static uint32_t said = 0;
  if (__atomic_exchange_n(&said, 1u, __ATOMIC_RELAXED) == 0) {
    Line line;
    line << "cuMemPoolCreate: this process has kPoolsPerCardMax = "
         << static_cast<uint64_t>(kPoolsPerCardMax) << " memory pools on one card already";
    line.Say();
  }
  auto* const destroy = TESSERA_REAL(cuMemPoolDestroy);
  DepthGuard guard;
  if (destroy != nullptr) destroy(*pool);
  *pool = nullptr;
  return CUDA_ERROR_OUT_OF_MEMORY;
}

TESSERA_EXPORT CUresult cuMemPoolDestroy(CUmemoryPool pool) {
  auto* const real = TESSERA_REAL(cuMemPoolDestroy);
  if (real == nullptr) return MissingCuda();
  const int card = depth > 0 || !Attached() ? -1 : CardOfPool(pool);
  uint64_t* const entry = card < 0 ? nullptr : FindEntry(static_cast<uint32_t>(card), pool);
  // Not one of ours (an imported one), or the card's default, which the driver refuses.
  if (entry == nullptr || entry == &process.pools[card].pools[0]) {
    DepthGuard guard;
    return real(pool);
  }
  uint64_t living = reinterpret_cast<uint64_t>(pool);
  if (!__atomic_compare_exchange_n(entry, &living, living | kDestroyed, false, __ATOMIC_SEQ_CST,
                                   __ATOMIC_SEQ_CST)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  // What the driver does at once for the program: nothing is kept after a free any more, and the
  // device's current pool is the default one again.
  cuuint64_t nothing = 0;
  auto* const set =
      DriverFunction<CUresult(CUmemoryPool, CUmemPool_attribute, void*)>("cuMemPoolSetAttribute");
  auto* const get_current = DriverFunction<CUresult(CUmemoryPool*, CUdevice)>("cuDeviceGetMemPool");
  auto* const set_current = DriverFunction<CUresult(CUdevice, CUmemoryPool)>("cuDeviceSetMemPool");
  const int device = OrdinalOfCard(static_cast<uint32_t>(card));
  {
    DepthGuard guard;
    if (set != nullptr) set(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &nothing);
    CUmemoryPool current = nullptr;
    if (get_current != nullptr && set_current != nullptr && device >= 0 &&
        get_current(&current, device) == CUDA_SUCCESS && current == pool) {
      set_current(device, HandleOf(process.pools[card].pools[0]));
    }
  }
  BuryPools(static_cast<uint32_t>(card));
  SettlePools(static_cast<uint32_t>(card), 0);
  return CUDA_SUCCESS;
}

TESSERA_EXPORT CUresult cuMemPoolTrimTo(CUmemoryPool pool, size_t minBytesToKeep) {
  auto* const real = TESSERA_REAL(cuMemPoolTrimTo);
  if (real == nullptr) return MissingCuda();
  CUresult result;
  {
    DepthGuard guard;
    result = real(pool, minBytesToKeep);
  }
  if (depth == 0 && Attached() && process.pools_used != 0) SettleAllPools();
  return result;
}

// A wait is where the driver gives back what pools hold above their threshold.
#define TESSERA_WAIT(symbol, parameters, arguments)                                   \
  TESSERA_EXPORT CUresult symbol parameters {                                         \
    auto* const real = TESSERA_REAL(symbol);                                          \
    if (real == nullptr) return MissingCuda();                                        \
    const CUresult result = real arguments;                                           \
    if (__builtin_expect(process.pools_used != 0, 0) && depth == 0) SettleAllPools(); \
    return result;                                                                    \
  }
TESSERA_WAIT(cuCtxSynchronize, (), ())
TESSERA_WAIT(cuCtxSynchronize_v2, (CUcontext ctx), (ctx))
TESSERA_WAIT(cuStreamSynchronize, (CUstream hStream), (hStream))
TESSERA_WAIT(cuStreamSynchronize_ptsz, (CUstream hStream), (hStream))
TESSERA_WAIT(cuEventSynchronize, (CUevent hEvent), (hEvent))

}  // namespace tessera::abi
