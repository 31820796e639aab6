// Who uses a card, in the three layouts the suffixes promise, and how busy each process keeps it.
#include <algorithm>
#include <cstring>
#include <vector>

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

// The size-query protocol: too small an array answers INSUFFICIENT_SIZE with the number needed.
template <typename Entry, typename Fill>
nvmlReturn_t List(const std::vector<ProcessUse>& uses, unsigned* count, Entry* entries, Fill fill) {
  if (count == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  const unsigned room = *count;
  *count = static_cast<unsigned>(uses.size());
  if (uses.empty()) return NVML_SUCCESS;
  if (room < uses.size()) return NVML_ERROR_INSUFFICIENT_SIZE;
  if (entries == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  for (std::size_t i = 0; i < uses.size(); ++i) {
    entries[i] = {};
    fill(uses[i], &entries[i]);
  }
  return NVML_SUCCESS;
}

nvmlReturn_t List1(nvmlDevice_t device, unsigned* count, nvmlProcessInfo_v1_t* entries) {
  NVML_CARD(ref, device);
  return List(Visible(ref), count, entries, [](const ProcessUse& use, nvmlProcessInfo_v1_t* out) {
    out->pid = static_cast<unsigned>(use.pid);
    out->usedGpuMemory = use.usage.Total();
  });
}

template <typename Entry>
void FillDetail(const ProcessUse& use, Entry* out) {
  out->pid = static_cast<unsigned>(use.pid);
  out->usedGpuMemory = use.usage.Total();
  out->gpuInstanceId = kNvmlNoInstance;
  out->computeInstanceId = kNvmlNoInstance;
}

nvmlReturn_t List2(nvmlDevice_t device, unsigned* count, nvmlProcessInfo_v2_t* entries) {
  NVML_CARD(ref, device);
  return List(Visible(ref), count, entries, FillDetail<nvmlProcessInfo_v2_t>);
}

// Graphics and MPS processes: a simulated card has none.
nvmlReturn_t None(nvmlDevice_t device, unsigned* count) {
  NVML_CARD(ref, device);
  if (count == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *count = 0;
  return NVML_SUCCESS;
}

unsigned PercentOfWindow(std::uint64_t busy_ns) {
  return static_cast<unsigned>(
      std::min<std::uint64_t>((busy_ns * 100 + kLoadWindowNs - 1) / kLoadWindowNs, 100));
}

// The processes that worked in the window that ends now; a caller that has seen this moment gets
// none.
std::vector<ProcessUse> Busy(const CardRef& ref, unsigned long long last_seen,
                             unsigned long long now) {
  if (last_seen >= now) return {};
  std::vector<ProcessUse> uses = Visible(ref);
  std::erase_if(uses, [](const ProcessUse& use) { return use.busy_recent_ns == 0; });
  return uses;
}

}  // namespace

NVML_CALL nvmlDeviceGetComputeRunningProcesses(nvmlDevice_t device, unsigned* count,
                                               nvmlProcessInfo_v1_t* entries) {
  return List1(device, count, entries);
}
NVML_CALL nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device, unsigned* count,
                                                  nvmlProcessInfo_v2_t* entries) {
  return List2(device, count, entries);
}
NVML_CALL nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned* count,
                                                  nvmlProcessInfo_v2_t* entries) {
  return List2(device, count, entries);
}

NVML_CALL nvmlDeviceGetGraphicsRunningProcesses(nvmlDevice_t device, unsigned* count,
                                                nvmlProcessInfo_v1_t*) {
  return None(device, count);
}
NVML_CALL nvmlDeviceGetGraphicsRunningProcesses_v2(nvmlDevice_t device, unsigned* count,
                                                   nvmlProcessInfo_v2_t*) {
  return None(device, count);
}
NVML_CALL nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device, unsigned* count,
                                                   nvmlProcessInfo_v2_t*) {
  return None(device, count);
}
NVML_CALL nvmlDeviceGetMPSComputeRunningProcesses(nvmlDevice_t device, unsigned* count,
                                                  nvmlProcessInfo_v1_t*) {
  return None(device, count);
}
NVML_CALL nvmlDeviceGetMPSComputeRunningProcesses_v2(nvmlDevice_t device, unsigned* count,
                                                     nvmlProcessInfo_v2_t*) {
  return None(device, count);
}
NVML_CALL nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t device, unsigned* count,
                                                     nvmlProcessInfo_v2_t*) {
  return None(device, count);
}

NVML_CALL nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t device,
                                                nvmlProcessDetailList_v1_t* list) {
  NVML_CARD(ref, device);
  if (list == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (list->version != NvmlVersion<nvmlProcessDetailList_v1_t>(1)) {
    return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  }
  if (list->mode > 2) return NVML_ERROR_INVALID_ARGUMENT;
  if (list->mode != 0) return None(device, &list->numProcArrayEntries);
  return List(Visible(ref), &list->numProcArrayEntries, list->procArray,
              FillDetail<nvmlProcessDetail_v1_t>);
}

NVML_CALL nvmlDeviceGetProcessUtilization(nvmlDevice_t device,
                                          nvmlProcessUtilizationSample_t* samples, unsigned* count,
                                          unsigned long long last_seen) {
  NVML_CARD(ref, device);
  if (count == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  const unsigned long long now = WallMicros();
  const std::vector<ProcessUse> busy = Busy(ref, last_seen, now);
  if (busy.empty()) {
    *count = 0;
    return NVML_ERROR_NOT_FOUND;
  }
  return List(busy, count, samples,
              [&](const ProcessUse& use, nvmlProcessUtilizationSample_t* out) {
                out->pid = static_cast<unsigned>(use.pid);
                out->timeStamp = now;
                out->smUtil = PercentOfWindow(use.busy_recent_ns);
              });
}

NVML_CALL nvmlDeviceGetProcessesUtilizationInfo(nvmlDevice_t device,
                                                nvmlProcessesUtilizationInfo_v1_t* info) {
  NVML_CARD(ref, device);
  if (info == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (info->version != NvmlVersion<nvmlProcessesUtilizationInfo_v1_t>(1)) {
    return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  }
  const unsigned long long now = WallMicros();
  const std::vector<ProcessUse> busy = Busy(ref, info->lastSeenTimeStamp, now);
  if (busy.empty()) {
    info->processSamplesCount = 0;
    return NVML_ERROR_NOT_FOUND;
  }
  return List(busy, &info->processSamplesCount, info->procUtilArray,
              [&](const ProcessUse& use, nvmlProcessUtilizationInfo_v1_t* out) {
                out->pid = static_cast<unsigned>(use.pid);
                out->timeStamp = now;
                out->smUtil = PercentOfWindow(use.busy_recent_ns);
              });
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
