// Memory errors and what becomes of the memory. A simulated card has only the errors that a person
// asks for (state/faults.h); they all lie in device memory.
#include <algorithm>

#include "simgpu/nvml/core.h"
#include "simgpu/state/faults.h"

namespace simgpu::nvml {
namespace {

// After so many a real card has no spare memory left.
constexpr unsigned kSpareRows = 512;
constexpr unsigned kRetiredPagesMax = 64;
constexpr std::uint64_t kPageBytes = 4096;

// Both counters count alike: the simulator's life is one driver load.
nvmlReturn_t Errors(const CardRef& ref, unsigned type, unsigned since, unsigned long long* count) {
  if (count == nullptr || type > NVML_MEMORY_ERROR_TYPE_UNCORRECTED || since > NVML_AGGREGATE_ECC) {
    return NVML_ERROR_INVALID_ARGUMENT;
  }
  MemoryErrors errors;
  if (!FindMemoryErrors(ref, &errors)) return NVML_ERROR_NOT_SUPPORTED;
  *count = type == NVML_MEMORY_ERROR_TYPE_CORRECTED ? errors.corrected : errors.uncorrected;
  return NVML_SUCCESS;
}

nvmlReturn_t EccMode(const CardRef& ref, unsigned* mode) {
  if (ref.card->profile.ecc == Ecc::kNone) return NVML_ERROR_NOT_SUPPORTED;
  return Give(mode,
              ref.card->profile.ecc == Ecc::kOn ? NVML_FEATURE_ENABLED : NVML_FEATURE_DISABLED);
}

// Pages are retired from the end of the memory: where the errors were nobody said.
nvmlReturn_t RetiredPages(const CardRef& ref, unsigned cause, unsigned* count,
                          unsigned long long* addresses, unsigned long long* timestamps) {
  if (count == nullptr || cause > NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR) {
    return NVML_ERROR_INVALID_ARGUMENT;
  }
  const Repairs repairs = FindRepairs(ref);
  if (repairs.kind != MemoryRepair::kPages) return NVML_ERROR_NOT_SUPPORTED;
  const bool ours = cause == NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR;
  const std::vector<unsigned> pages(ours ? repairs.count : 0);
  std::uint64_t address = ref.card->profile.memory_bytes;
  const nvmlReturn_t code =
      GiveList(pages, count, addresses, NVML_ERROR_INSUFFICIENT_SIZE,
               [&](unsigned, unsigned long long* out) { *out = address -= kPageBytes; });
  if (code == NVML_SUCCESS && timestamps != nullptr)
    std::fill(timestamps, timestamps + *count, 0ull);
  return code;
}

}  // namespace

bool FindMemoryErrors(const CardRef& ref, MemoryErrors* errors) {
  if (ref.card->profile.ecc != Ecc::kOn) return false;
  const EccCounts counts = Faults::Get().Ecc(ref.card->index);
  *errors = {counts.corrected, counts.uncorrected};
  return true;
}

Repairs FindRepairs(const CardRef& ref) {
  MemoryErrors errors;
  Repairs repairs;
  if (!FindMemoryErrors(ref, &errors)) return repairs;
  repairs.kind = ref.card->profile.memory_repair;
  if (repairs.kind == MemoryRepair::kNone) return repairs;
  const unsigned most = repairs.kind == MemoryRepair::kRows ? kSpareRows : kRetiredPagesMax;
  repairs.count = static_cast<unsigned>(std::min<unsigned long long>(errors.uncorrected, most));
  repairs.pending = repairs.count != 0;
  repairs.failed = errors.uncorrected > most;
  return repairs;
}

NVML_CALL nvmlDeviceGetEccMode(nvmlDevice_t device, unsigned* current, unsigned* pending) {
  NVML_CARD(ref, device);
  if (const nvmlReturn_t bad = EccMode(ref, current)) return bad;
  return EccMode(ref, pending);
}
NVML_CALL nvmlDeviceGetDefaultEccMode(nvmlDevice_t device, unsigned* mode) {
  NVML_CARD(ref, device);
  return EccMode(ref, mode);
}

NVML_CALL nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, unsigned type, unsigned since,
                                      unsigned long long* count) {
  NVML_CARD(ref, device);
  return Errors(ref, type, since, count);
}

NVML_CALL nvmlDeviceGetDetailedEccErrors(nvmlDevice_t device, unsigned type, unsigned since,
                                         nvmlEccErrorCounts_t* counts) {
  NVML_CARD(ref, device);
  if (counts == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  unsigned long long memory = 0;
  if (const nvmlReturn_t bad = Errors(ref, type, since, &memory)) return bad;
  *counts = {0, 0, memory, 0};
  return NVML_SUCCESS;
}

NVML_CALL nvmlDeviceGetMemoryErrorCounter(nvmlDevice_t device, unsigned type, unsigned since,
                                          unsigned location, unsigned long long* count) {
  NVML_CARD(ref, device);
  if (location >= NVML_MEMORY_LOCATION_COUNT) return NVML_ERROR_INVALID_ARGUMENT;
  const nvmlReturn_t code = Errors(ref, type, since, count);
  if (code == NVML_SUCCESS && location != NVML_MEMORY_LOCATION_DRAM) *count = 0;
  return code;
}

NVML_CALL nvmlDeviceGetRetiredPages(nvmlDevice_t device, unsigned cause, unsigned* count,
                                    unsigned long long* addresses) {
  NVML_CARD(ref, device);
  return RetiredPages(ref, cause, count, addresses, nullptr);
}
NVML_CALL nvmlDeviceGetRetiredPages_v2(nvmlDevice_t device, unsigned cause, unsigned* count,
                                       unsigned long long* addresses,
                                       unsigned long long* timestamps) {
  NVML_CARD(ref, device);
  return RetiredPages(ref, cause, count, addresses, timestamps);
}
NVML_CALL nvmlDeviceGetRetiredPagesPendingStatus(nvmlDevice_t device, unsigned* pending) {
  NVML_CARD(ref, device);
  const Repairs repairs = FindRepairs(ref);
  if (repairs.kind != MemoryRepair::kPages) return NVML_ERROR_NOT_SUPPORTED;
  return Give(pending, repairs.pending ? 1u : 0u);
}

NVML_CALL nvmlDeviceGetRemappedRows(nvmlDevice_t device, unsigned* corrected, unsigned* uncorrected,
                                    unsigned* pending, unsigned* failed) {
  NVML_CARD(ref, device);
  if (corrected == nullptr || uncorrected == nullptr || pending == nullptr || failed == nullptr) {
    return NVML_ERROR_INVALID_ARGUMENT;
  }
  const Repairs repairs = FindRepairs(ref);
  if (repairs.kind != MemoryRepair::kRows) return NVML_ERROR_NOT_SUPPORTED;
  *corrected = 0;
  *uncorrected = repairs.count;
  *pending = repairs.pending ? 1 : 0;
  *failed = repairs.failed ? 1 : 0;
  return NVML_SUCCESS;
}

// Rows that wait for a reset are not active yet.
NVML_CALL nvmlDeviceGetRemappedRows_v2(nvmlDevice_t device, nvmlRemappedRowsInfo_v2_t* info) {
  if (info == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *info = {};
  return nvmlDeviceGetRemappedRows(device, &info->corrInactiveRemaps, &info->uncInactiveRemaps,
                                   &info->bPending, &info->bfailureOccurred);
}

}  // namespace simgpu::nvml
