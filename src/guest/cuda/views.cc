// What a program is told about the card, and the driver's own lookup.
#include "guest/cuda/account.h"

namespace tessera::guest {
namespace {

// Free and total of the slice on a card, given the card's real free bytes.
void SliceMemory(uint32_t card, uint64_t real_free, uint64_t* free_bytes, uint64_t* total_bytes) {
  const uint64_t total = AllowedBytes(process.control->cards[card]);
  const uint64_t used = UsedBytes(process.ledger.pages().usage->cards[card]);
  uint64_t free = used < total ? total - used : 0;
  if (free > real_free) free = real_free;
  *free_bytes = free;
  *total_bytes = total;
}

}  // namespace
}  // namespace tessera::guest

namespace tessera::abi {

using namespace ::tessera::guest;

TESSERA_EXPORT CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
  auto* const real = TESSERA_REAL(cuMemGetInfo_v2);
  if (__builtin_expect(real == nullptr, 0)) return MissingCuda();
  const CUresult result = real(free, total);
  if (__builtin_expect(result != CUDA_SUCCESS || depth > 0 || !Attached(), 0)) return result;
  const Place place = FindPlace();
  if (__builtin_expect(place.error != CUDA_SUCCESS, 0)) return place.error;
  uint64_t slice_free = 0, slice_total = 0;
  SliceMemory(place.card, free == nullptr ? 0 : *free, &slice_free, &slice_total);
  if (free != nullptr) *free = slice_free;
  if (total != nullptr) *total = slice_total;
  return result;
}

TESSERA_EXPORT CUresult cuMemGetInfo(unsigned int* free, unsigned int* total) {
  auto* const real = TESSERA_REAL(cuMemGetInfo);
  if (real == nullptr) return MissingCuda();
  const CUresult result = real(free, total);
  if (result != CUDA_SUCCESS || depth > 0 || !Attached()) return result;
  const Place place = FindPlace();
  if (place.error != CUDA_SUCCESS) return place.error;
  // The form of 32-bit programs: figures that do not fit end at the largest that does.
  constexpr uint64_t kLargest = 0xffffffff;
  uint64_t slice_free = 0, slice_total = 0;
  SliceMemory(place.card, free == nullptr ? 0 : *free, &slice_free, &slice_total);
  if (free != nullptr) *free = static_cast<unsigned int>(slice_free);
  if (total != nullptr) {
    *total = static_cast<unsigned int>(slice_total > kLargest ? kLargest : slice_total);
  }
  return result;
}

TESSERA_EXPORT CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice dev) {
  auto* const real = TESSERA_REAL(cuDeviceTotalMem_v2);
  if (real == nullptr) return MissingCuda();
  const CUresult result = real(bytes, dev);
  if (result != CUDA_SUCCESS || depth > 0 || !Attached()) return result;
  const int card = CardOfDevice(dev);
  if (card < 0) return result;
  const uint64_t total = AllowedBytes(process.control->cards[card]);
  if (total < *bytes) *bytes = total;
  return result;
}

TESSERA_EXPORT CUresult cuDeviceTotalMem(unsigned int* bytes, CUdevice dev) {
  auto* const real = TESSERA_REAL(cuDeviceTotalMem);
  if (real == nullptr) return MissingCuda();
  const CUresult result = real(bytes, dev);
  if (result != CUDA_SUCCESS || depth > 0 || !Attached()) return result;
  const int card = CardOfDevice(dev);
  if (card < 0) return result;
  const uint64_t total = AllowedBytes(process.control->cards[card]);
  if (total < *bytes) *bytes = static_cast<unsigned int>(total);
  return result;
}

namespace {

// The driver has answered; where the function is one of ours, the program gets the wrapper of
// exactly that form.
void Replace(const char* symbol, void** pfn, int version, cuuint64_t flags) {
  if (depth > 0 || symbol == nullptr || pfn == nullptr || *pfn == nullptr) return;
  const int index =
      ChooseCuda(symbol, version, (flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM) != 0);
  if (index >= 0) *pfn = CudaWrapper(static_cast<uint32_t>(index));
}

}  // namespace

TESSERA_EXPORT CUresult cuGetProcAddress(const char* symbol, void** pfn, int driverVersion,
                                         cuuint64_t flags) {
  auto* const real = TESSERA_REAL(cuGetProcAddress);
  if (real == nullptr) return MissingCuda();
  const CUresult result = real(symbol, pfn, driverVersion, flags);
  if (result == CUDA_SUCCESS) Replace(symbol, pfn, driverVersion, flags);
  return result;
}

TESSERA_EXPORT CUresult cuGetProcAddress_v2(const char* symbol, void** pfn, int driverVersion,
                                            cuuint64_t flags,
                                            CUdriverProcAddressQueryResult* symbolFound) {
  auto* const real = TESSERA_REAL(cuGetProcAddress_v2);
  if (real == nullptr) return MissingCuda();
  const CUresult result = real(symbol, pfn, driverVersion, flags, symbolFound);
  if (result == CUDA_SUCCESS) Replace(symbol, pfn, driverVersion, flags);
  return result;
}

}  // namespace tessera::abi
