// Who uses a card, in the three layouts the suffixes promise, and how busy each process keeps it.
#include <algorithm>
#include <cstring>

#include "simgpu/nvml/core.h"

namespace simgpu::nvml {
namespace {

// The processes a caller can name: those of other pid namespaces have no pid here, as with the real
// driver.
std::vector<ProcessUse> Visible(const CardRef& ref) {
  std::vector<ProcessUse> uses = ref.state->Processes(ref.card->index, kLoadWindowNs);
  std::erase_if(uses, [](const ProcessUse& use) { return use.pid <= 0; });
  return uses;
}

enum class Kind { kCompute, kGraphics, kMPSCompute };

// All layouts: members that only some have are filled where they are. A simulated card runs no
// graphics and nothing inside MIG devices. A client of the MPS server is in that list and no other.
template <typename Entry>
nvmlReturn_t Running(nvmlDevice_t device, Kind kind, unsigned* count, Entry* entries) {
  if (FindMig(device).card != nullptr) return Give(count, 0u);
  NVML_CARD(ref, device);
  if (kind == Kind::kGraphics) return Give(count, 0u);
  std::vector<ProcessUse> uses = Visible(ref);
  std::erase_if(uses, [&](const auto& use) { return use.mps != (kind == Kind::kMPSCompute); });
  return GiveList(uses, count, entries, NVML_ERROR_INSUFFICIENT_SIZE,
                  [](const ProcessUse& use, Entry* out) {
                    out->pid = static_cast<unsigned>(use.pid);
                    out->usedGpuMemory = use.usage.Total();
                    if constexpr (requires { out->gpuInstanceId; }) {
                      out->gpuInstanceId = kNvmlNoInstance;
                      out->computeInstanceId = kNvmlNoInstance;
                    }
                  });
}

unsigned PercentOfWindow(std::uint64_t busy_ns) {
  return static_cast<unsigned>(
      std::min<std::uint64_t>((busy_ns * 100 + kLoadWindowNs - 1) / kLoadWindowNs, 100));
}

// The processes that worked in the window that ends now, in either layout; a caller that has seen
// this moment hears NOT_FOUND, as on an idle card.
template <typename Entry>
nvmlReturn_t Busy(const CardRef& ref, unsigned long long last_seen, unsigned* count,
                  Entry* entries) {
  if (count == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  const unsigned long long now = WallMicros();
  std::vector<ProcessUse> busy;
  if (last_seen < now) busy = Visible(ref);
  std::erase_if(busy, [](const ProcessUse& use) { return use.busy_recent_ns == 0; });
  if (busy.empty()) {
    *count = 0;
    return NVML_ERROR_NOT_FOUND;
  }
  return GiveList(busy, count, entries, NVML_ERROR_INSUFFICIENT_SIZE,
                  [&](const ProcessUse& use, Entry* out) {
                    out->pid = static_cast<unsigned>(use.pid);
                    out->timeStamp = now;
                    out->smUtil = PercentOfWindow(use.busy_recent_ns);
                  });
}

}  // namespace

// The unsuffixed form of each has the first layout, the suffixed ones the second.
#define RUNNING_PROCESSES(kind, suffix, Entry)                                                  \
  NVML_CALL nvmlDeviceGet##kind##RunningProcesses##suffix(nvmlDevice_t device, unsigned* count, \
                                                          Entry* entries) {                     \
    return Running(device, Kind::k##kind, count, entries);                                      \
  }
#define ALL_RUNNING_PROCESSES(kind)                  \
  RUNNING_PROCESSES(kind, , nvmlProcessInfo_v1_t)    \
  RUNNING_PROCESSES(kind, _v2, nvmlProcessInfo_v2_t) \
  RUNNING_PROCESSES(kind, _v3, nvmlProcessInfo_v2_t)

ALL_RUNNING_PROCESSES(Compute)
ALL_RUNNING_PROCESSES(Graphics)
ALL_RUNNING_PROCESSES(MPSCompute)

NVML_CALL nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t device,
                                                nvmlProcessDetailList_v1_t* list) {
  NVML_CARD(ref, device);
  if (list == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (list->version != NvmlVersion<nvmlProcessDetailList_v1_t>(1)) {
    return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  }
  constexpr Kind kKinds[] = {Kind::kCompute, Kind::kGraphics, Kind::kMPSCompute};
  if (list->mode > 2) return NVML_ERROR_INVALID_ARGUMENT;
  return Running(device, kKinds[list->mode], &list->numProcArrayEntries, list->procArray);
}

NVML_CALL nvmlDeviceGetProcessUtilization(nvmlDevice_t device,
                                          nvmlProcessUtilizationSample_t* samples, unsigned* count,
                                          unsigned long long last_seen) {
  NVML_CARD(ref, device);
  return Busy(ref, last_seen, count, samples);
}

NVML_CALL nvmlDeviceGetProcessesUtilizationInfo(nvmlDevice_t device,
                                                nvmlProcessesUtilizationInfo_v1_t* info) {
  NVML_CARD(ref, device);
  if (info == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (info->version != NvmlVersion<nvmlProcessesUtilizationInfo_v1_t>(1)) {
    return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  }
  return Busy(ref, info->lastSeenTimeStamp, &info->processSamplesCount, info->procUtilArray);
}

// The name of a process that uses some card; of others the driver knows nothing.
NVML_CALL nvmlSystemGetProcessName(unsigned pid, char* name, unsigned length) {
  State* const state = Ready();
  if (state == nullptr) return NVML_ERROR_UNINITIALIZED;
  if (name == nullptr || length == 0) return NVML_ERROR_INVALID_ARGUMENT;
  for (std::uint32_t i = 0; i < state->card_count(); ++i) {
    for (const ProcessUse& use : state->Processes(i, kLoadWindowNs)) {
      if (use.pid <= 0 || static_cast<unsigned>(use.pid) != pid) continue;
      const std::size_t size = strnlen(use.command, sizeof use.command);
      const std::size_t kept = std::min<std::size_t>(size, length - 1);
      std::memcpy(name, use.command, kept);
      name[kept] = '\0';
      return NVML_SUCCESS;
    }
  }
  return NVML_ERROR_NOT_FOUND;
}

}  // namespace simgpu::nvml
