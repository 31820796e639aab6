// Figures asked for by number. Each one answers for itself; a number nobody simulates says
// NOT_SUPPORTED in its own entry.
#include <optional>

#include "simgpu/nvml/core.h"

namespace simgpu::nvml {
namespace {

struct Figure {
  unsigned type;  // which member of the value holds it
  unsigned long long value;
};

Figure Int(unsigned long long value) { return {NVML_VALUE_TYPE_UNSIGNED_INT, value}; }
Figure Long(unsigned long long value) { return {NVML_VALUE_TYPE_UNSIGNED_LONG_LONG, value}; }

std::optional<Figure> Repair(const CardRef& ref, MemoryRepair kind,
                             unsigned long long (*pick)(const Repairs&)) {
  const Repairs repairs = FindRepairs(ref);
  if (repairs.kind != kind) return std::nullopt;
  return Int(pick(repairs));
}

std::optional<Figure> EccErrors(const CardRef& ref, bool uncorrected) {
  MemoryErrors errors;
  if (!FindMemoryErrors(ref, &errors)) return std::nullopt;
  return Long(uncorrected ? errors.uncorrected : errors.corrected);
}

unsigned CountLinks(const CardRef& ref, NvLink::Kind kind) {
  unsigned count = 0;
  for (const NvLink& link : ref.state->topology().links[ref.card->index]) {
    if (link.kind == kind) ++count;
  }
  return count;
}

// A figure of one NVLink, whose number is the scope.
std::optional<Figure> LinkFigure(const CardRef& ref, unsigned field, unsigned link) {
  const Profile& profile = ref.card->profile;
  if (link >= profile.nvlink_links) return std::nullopt;
  const NvLink& there = ref.state->topology().links[ref.card->index][link];
  const bool active = there.kind != NvLink::Kind::kNone;
  switch (field) {
    case NVML_FI_DEV_NVLINK_GET_STATE:
      return Int(active ? 1 : 0);
    case NVML_FI_DEV_NVLINK_GET_VERSION:
      return Int(profile.nvlink_version);
    case NVML_FI_DEV_NVLINK_GET_SPEED:
      return Int(active ? profile.nvlink_mb_s : 0);
    case NVML_FI_DEV_NVLINK_REMOTE_NVLINK_ID:
      if (!active) return std::nullopt;
      return Int(there.remote_link);
    default:
      return std::nullopt;
  }
}

std::optional<Figure> Look(const CardRef& ref, unsigned field, unsigned scope) {
  const Profile& profile = ref.card->profile;
  if (field >= NVML_FI_DEV_NVLINK_SPEED_MBPS_L0 && field < NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON) {
    return LinkFigure(ref, NVML_FI_DEV_NVLINK_GET_SPEED, field - NVML_FI_DEV_NVLINK_SPEED_MBPS_L0);
  }
  if (field >= NVML_FI_DEV_NVLINK_SPEED_MBPS_L6 && field < NVML_FI_DEV_NVLINK_SPEED_MBPS_L6 + 6) {
    return LinkFigure(ref, NVML_FI_DEV_NVLINK_GET_SPEED,
                      6 + field - NVML_FI_DEV_NVLINK_SPEED_MBPS_L6);
  }
  switch (field) {
    case NVML_FI_DEV_ECC_CURRENT:
    case NVML_FI_DEV_ECC_PENDING:
      if (profile.ecc == Ecc::kNone) return std::nullopt;
      return Int(profile.ecc == Ecc::kOn ? 1 : 0);
    case NVML_FI_DEV_ECC_SBE_VOL_TOTAL:
    case NVML_FI_DEV_ECC_SBE_AGG_TOTAL:
    case NVML_FI_DEV_ECC_SBE_VOL_DEV:
      return EccErrors(ref, false);
    case NVML_FI_DEV_ECC_DBE_VOL_TOTAL:
    case NVML_FI_DEV_ECC_DBE_AGG_TOTAL:
    case NVML_FI_DEV_ECC_DBE_VOL_DEV:
      return EccErrors(ref, true);
    case NVML_FI_DEV_RETIRED_SBE:
      return Repair(ref, MemoryRepair::kPages, [](const Repairs&) { return 0ull; });
    case NVML_FI_DEV_RETIRED_DBE:
      return Repair(ref, MemoryRepair::kPages, [](const Repairs& r) { return 0ull + r.count; });
    case NVML_FI_DEV_RETIRED_PENDING:
      return Repair(ref, MemoryRepair::kPages, [](const Repairs& r) { return 0ull + r.pending; });
    case NVML_FI_DEV_REMAPPED_COR:
      return Repair(ref, MemoryRepair::kRows, [](const Repairs&) { return 0ull; });
    case NVML_FI_DEV_REMAPPED_UNC:
      return Repair(ref, MemoryRepair::kRows, [](const Repairs& r) { return 0ull + r.count; });
    case NVML_FI_DEV_REMAPPED_PENDING:
      return Repair(ref, MemoryRepair::kRows, [](const Repairs& r) { return 0ull + r.pending; });
    case NVML_FI_DEV_REMAPPED_FAILURE:
      return Repair(ref, MemoryRepair::kRows, [](const Repairs& r) { return 0ull + r.failed; });
    case NVML_FI_DEV_PERF_POLICY_POWER:
      return Long(0);  // nothing ever lowers the clocks
    case NVML_FI_DEV_MEMORY_TEMP: {
      unsigned celsius = 0;
      if (!MemoryCelsius(ref, &celsius)) return std::nullopt;
      return Int(celsius);
    }
    case NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION:
    case NVML_FI_DEV_ENERGY:
      return Long(EnergyMillijoules(ref));
    case NVML_FI_DEV_PCIE_REPLAY_COUNTER:
      return Int(0);  // a simulated link loses nothing
    case NVML_FI_DEV_PCIE_COUNT_TX_BYTES:
      return Long(PcieBytes(ref, NVML_PCIE_UTIL_TX_BYTES));
    case NVML_FI_DEV_PCIE_COUNT_RX_BYTES:
      return Long(PcieBytes(ref, NVML_PCIE_UTIL_RX_BYTES));
    case NVML_FI_DEV_POWER_AVERAGE:
    case NVML_FI_DEV_POWER_INSTANT:
      return Int(PowerMilliwatts(ref));
    case NVML_FI_DEV_POWER_MIN_LIMIT:
      return Int(profile.power_min_mw);
    case NVML_FI_DEV_POWER_MAX_LIMIT:
      return Int(profile.power_max_mw);
    case NVML_FI_DEV_POWER_DEFAULT_LIMIT:
    case NVML_FI_DEV_POWER_CURRENT_LIMIT:
    case NVML_FI_DEV_POWER_REQUESTED_LIMIT:
      return Int(profile.power_limit_mw);
    case NVML_FI_DEV_NVLINK_LINK_COUNT:
      return Int(profile.nvlink_links);
    case NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON:
      if (profile.nvlink_links == 0) return std::nullopt;
      return Int(profile.nvlink_mb_s);
    case NVML_FI_DEV_NVSWITCH_CONNECTED_LINK_COUNT:
      if (profile.nvlink_links == 0) return std::nullopt;
      return Int(CountLinks(ref, NvLink::Kind::kSwitch));
    case NVML_FI_DEV_C2C_LINK_COUNT:
      return Int(0);
    default:
      return LinkFigure(ref, field, scope);
  }
}

}  // namespace

NVML_CALL nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t* values) {
  NVML_CARD(ref, device);
  if (count < 1 || values == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  for (int i = 0; i < count; ++i) {
    nvmlFieldValue_t& one = values[i];
    one.timestamp = static_cast<long long>(WallMicros());
    one.latencyUsec = 0;
    one.value.ullVal = 0;
    const std::optional<Figure> figure = Look(ref, one.fieldId, one.scopeId);
    one.nvmlReturn = figure ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
    if (!figure) continue;
    one.valueType = figure->type;
    if (figure->type == NVML_VALUE_TYPE_UNSIGNED_INT) {
      one.value.uiVal = static_cast<unsigned>(figure->value);
    } else {
      one.value.ullVal = figure->value;
    }
  }
  return NVML_SUCCESS;
}

}  // namespace simgpu::nvml
