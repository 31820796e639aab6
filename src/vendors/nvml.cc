#include <algorithm>
#include <array>
#include <cctype>
#include <map>
#include <mutex>
#include <utility>

#include "abi/nvml.h"
#include "os/clock.h"
#include "os/files.h"
#include "os/library.h"
#include "vendors/probe.h"
#include "vendors/vendor.h"

namespace tessera::vendors {
namespace {

using namespace abi;

// Pause between two looks for the probe's process: the driver may account a context a moment after
// it exists.
constexpr std::int64_t kLookAgainNanos = 20'000'000;

// The entry points we call. Those in the first block must exist, the others make their answer
// absent.
struct Api {
  nvmlReturn_t (*init)() = nullptr;
  nvmlReturn_t (*shutdown)() = nullptr;
  nvmlReturn_t (*driver_version)(char*, unsigned) = nullptr;
  nvmlReturn_t (*count)(unsigned*) = nullptr;
  nvmlReturn_t (*by_index)(unsigned, nvmlDevice_t*) = nullptr;
  nvmlReturn_t (*card_name)(nvmlDevice_t, char*, unsigned) = nullptr;
  nvmlReturn_t (*uuid)(nvmlDevice_t, char*, unsigned) = nullptr;
  nvmlReturn_t (*pci)(nvmlDevice_t, nvmlPciInfo_t*) = nullptr;
  nvmlReturn_t (*memory)(nvmlDevice_t, nvmlMemory_t*) = nullptr;
  using ListProcesses = nvmlReturn_t(nvmlDevice_t, unsigned*, nvmlProcessInfo_v2_t*);
  ListProcesses* compute_processes = nullptr;

  ListProcesses* graphics_processes = nullptr;
  ListProcesses* mps_processes = nullptr;
  nvmlReturn_t (*utilization)(nvmlDevice_t, nvmlUtilization_t*) = nullptr;
  nvmlReturn_t (*process_utilization)(nvmlDevice_t, nvmlProcessUtilizationSample_t*, unsigned*,
                                      unsigned long long) = nullptr;
  nvmlReturn_t (*temperature)(nvmlDevice_t, unsigned, unsigned*) = nullptr;
  nvmlReturn_t (*power)(nvmlDevice_t, unsigned*) = nullptr;
  nvmlReturn_t (*cores)(nvmlDevice_t, unsigned*) = nullptr;
  nvmlReturn_t (*capability)(nvmlDevice_t, int*, int*) = nullptr;
  nvmlReturn_t (*remapped_rows)(nvmlDevice_t, unsigned*, unsigned*, unsigned*, unsigned*) = nullptr;
  nvmlReturn_t (*retired_pending)(nvmlDevice_t, unsigned*) = nullptr;
  const char* (*error_text)(nvmlReturn_t) = nullptr;
  int (*is_simulated)() = nullptr;  // only simgpu's library has it
};

template <typename Fn>
bool Bind(const os::Library& library, Fn*& slot, const char* name) {
  slot = library.Function<Fn>(name);
  return slot != nullptr;
}

Result<Api> BindApi(const os::Library& library) {
  Api api;
  std::string missing;
  const auto need = [&](auto& slot, const char* name) {
    if (!Bind(library, slot, name)) missing += (missing.empty() ? "" : ", ") + std::string(name);
  };
  need(api.init, "nvmlInit_v2");
  need(api.shutdown, "nvmlShutdown");
  need(api.driver_version, "nvmlSystemGetDriverVersion");
  need(api.count, "nvmlDeviceGetCount_v2");
  need(api.by_index, "nvmlDeviceGetHandleByIndex_v2");
  need(api.card_name, "nvmlDeviceGetName");
  need(api.uuid, "nvmlDeviceGetUUID");
  need(api.pci, "nvmlDeviceGetPciInfo_v3");
  need(api.memory, "nvmlDeviceGetMemoryInfo");
  // _v2 and _v3 fill the same structure; drivers older than 510 have _v2 only.
  if (!Bind(library, api.compute_processes, "nvmlDeviceGetComputeRunningProcesses_v3")) {
    need(api.compute_processes, "nvmlDeviceGetComputeRunningProcesses_v2");
  }
  if (!missing.empty()) {
    return Error(Code::kFailedPrecondition, "the NVML library lacks " + missing);
  }
  if (!Bind(library, api.graphics_processes, "nvmlDeviceGetGraphicsRunningProcesses_v3")) {
    Bind(library, api.graphics_processes, "nvmlDeviceGetGraphicsRunningProcesses_v2");
  }
  if (!Bind(library, api.mps_processes, "nvmlDeviceGetMPSComputeRunningProcesses_v3")) {
    Bind(library, api.mps_processes, "nvmlDeviceGetMPSComputeRunningProcesses_v2");
  }
  Bind(library, api.utilization, "nvmlDeviceGetUtilizationRates");
  Bind(library, api.process_utilization, "nvmlDeviceGetProcessUtilization");
  Bind(library, api.temperature, "nvmlDeviceGetTemperature");
  Bind(library, api.power, "nvmlDeviceGetPowerUsage");
  Bind(library, api.cores, "nvmlDeviceGetNumGpuCores");
  Bind(library, api.capability, "nvmlDeviceGetCudaComputeCapability");
  Bind(library, api.remapped_rows, "nvmlDeviceGetRemappedRows");
  Bind(library, api.retired_pending, "nvmlDeviceGetRetiredPagesPendingStatus");
  Bind(library, api.error_text, "nvmlErrorString");
  Bind(library, api.is_simulated, "simgpu_is_simulated");
  return api;
}

// Arithmetic units per multiprocessor by compute capability. NVML gives the former's sum;
// schedulers think in the latter. 0 for a capability we do not know: the card then has an unknown
// number, never a wrong one.
unsigned CoresPerUnit(int major, int minor) {
  if (major == 5) return 128;
  if (major == 6) return minor == 0 ? 64 : 128;
  if (major == 7) return 64;
  if (major == 8) return minor == 0 ? 64 : 128;
  if (major >= 9 && major <= 12) return 128;
  return 0;
}

Code CodeOf(nvmlReturn_t code) {
  switch (code) {
    case NVML_ERROR_INVALID_ARGUMENT:
      return Code::kInvalidArgument;
    case NVML_ERROR_NOT_SUPPORTED:
    case NVML_ERROR_FUNCTION_NOT_FOUND:
      return Code::kUnimplemented;
    case NVML_ERROR_NO_PERMISSION:
      return Code::kPermissionDenied;
    case NVML_ERROR_NOT_FOUND:
    case NVML_ERROR_GPU_NOT_FOUND:
      return Code::kNotFound;
    case NVML_ERROR_TIMEOUT:
      return Code::kDeadlineExceeded;
    case NVML_ERROR_DRIVER_NOT_LOADED:
    case NVML_ERROR_LIBRARY_NOT_FOUND:
    case NVML_ERROR_LIB_RM_VERSION_MISMATCH:
    case NVML_ERROR_GPU_IS_LOST:
    case NVML_ERROR_RESET_REQUIRED:
      return Code::kUnavailable;
    default:
      return Code::kInternal;
  }
}

class Nvml : public Vendor {
 public:
  Nvml(os::Library library, const Api& api, NvmlOptions options)
      : library_(std::move(library)), api_(api), options_(std::move(options)) {}
  ~Nvml() override { api_.shutdown(); }

  std::string_view name() const override { return "nvidia"; }
  Result<std::string> DriverVersion() override;
  Result<std::vector<device::Card>> Discover() override;
  Result<std::vector<CardHealth>> Health() override;
  Result<CardTelemetry> Telemetry(const std::string& card_uuid) override;
  Result<std::vector<CardProcess>> Processes(const std::string& card_uuid) override;
  Result<std::vector<ProcessBusy>> Busy(const std::string& card_uuid) override;
  Result<std::uint64_t> MeasureContext(const std::string& card_uuid) override;

 private:
  Error Failure(std::string_view call, nvmlReturn_t code) const;
  Result<nvmlDevice_t> Handle(const std::string& card_uuid);
  Result<device::Card> Describe(nvmlDevice_t handle, unsigned index) const;
  std::pair<bool, std::string> HealthOf(nvmlDevice_t handle) const;
  Status AddProcesses(std::string_view call, Api::ListProcesses* list, nvmlDevice_t handle,
                      std::map<pid_t, std::optional<std::uint64_t>>* found) const;

  const os::Library library_;
  const Api api_;
  const NvmlOptions options_;
  std::mutex mutex_;  // guards the two below
  std::map<std::string, nvmlDevice_t> handles_;
  std::vector<std::string> order_;
};

Error Nvml::Failure(std::string_view call, nvmlReturn_t code) const {
  const char* const text = api_.error_text ? api_.error_text(code) : nullptr;
  return Error(CodeOf(code), std::string(call) + ": " + (text ? text : "NVML error") + " (" +
                                 std::to_string(code) + ")");
}

Result<std::string> Nvml::DriverVersion() {
  std::array<char, NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE> text = {};
  if (const nvmlReturn_t code = api_.driver_version(text.data(), text.size())) {
    return Failure("nvmlSystemGetDriverVersion", code);
  }
  return std::string(text.data());
}

// "00000000:3B:00.0" as sysfs names it: "0000:3b:00.0".
std::string SysfsName(std::string bus_id) {
  std::transform(bus_id.begin(), bus_id.end(), bus_id.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const std::size_t colon = bus_id.find(':');
  return colon == 8 ? bus_id.substr(4) : bus_id;
}

int NumaNodeOf(const std::string& bus_id) {
  const Result<std::string> text =
      os::PosixFiles().Read("/sys/bus/pci/devices/" + SysfsName(bus_id) + "/numa_node");
  if (!text) return -1;
  const std::string_view line = std::string_view(*text).substr(0, text->find('\n'));
  const Result<std::int64_t> node = ParseInt(line, "numa_node", 0, 4095);
  return node ? static_cast<int>(*node) : -1;  // the kernel itself says -1 for "unknown"
}

Result<device::Card> Nvml::Describe(nvmlDevice_t handle, unsigned index) const {
  device::Card card;
  card.vendor = "nvidia";
  card.index = static_cast<int>(index);
  std::array<char, NVML_DEVICE_NAME_V2_BUFFER_SIZE> text = {};
  if (const nvmlReturn_t code = api_.card_name(handle, text.data(), text.size())) {
    return Failure("nvmlDeviceGetName", code);
  }
  card.model = text.data();
  text = {};
  if (const nvmlReturn_t code = api_.uuid(handle, text.data(), text.size())) {
    return Failure("nvmlDeviceGetUUID", code);
  }
  card.uuid = text.data();
  nvmlPciInfo_t pci = {};
  if (const nvmlReturn_t code = api_.pci(handle, &pci)) {
    return Failure("nvmlDeviceGetPciInfo_v3", code);
  }
  pci.busId[sizeof pci.busId - 1] = '\0';
  card.pci_bus_id = pci.busId;
  nvmlMemory_t memory = {};
  if (const nvmlReturn_t code = api_.memory(handle, &memory)) {
    return Failure("nvmlDeviceGetMemoryInfo", code);
  }
  card.memory_bytes = memory.total;
  unsigned cores = 0;
  int major = 0;
  int minor = 0;
  if (api_.cores && api_.capability && api_.cores(handle, &cores) == NVML_SUCCESS &&
      api_.capability(handle, &major, &minor) == NVML_SUCCESS) {
    const unsigned per_unit = CoresPerUnit(major, minor);
    card.compute_units = per_unit == 0 ? 0 : cores / per_unit;
  }
  card.numa_node = NumaNodeOf(card.pci_bus_id);
  card.simulated = api_.is_simulated != nullptr && api_.is_simulated() != 0;
  std::tie(card.healthy, card.health_reason) = HealthOf(handle);
  return card;
}

Result<std::vector<device::Card>> Nvml::Discover() {
  unsigned count = 0;
  if (const nvmlReturn_t code = api_.count(&count)) {
    return Failure("nvmlDeviceGetCount_v2", code);
  }
  if (count > kMaxCards) {
    return Error(Code::kResourceExhausted, "the machine has " + std::to_string(count) +
                                               " cards, more than kMaxCards (" +
                                               std::to_string(kMaxCards) + ")");
  }
  std::vector<device::Card> cards;
  std::map<std::string, nvmlDevice_t> handles;
  std::vector<std::string> order;
  for (unsigned i = 0; i < count; ++i) {
    nvmlDevice_t handle = nullptr;
    if (const nvmlReturn_t code = api_.by_index(i, &handle)) {
      return Failure("nvmlDeviceGetHandleByIndex_v2 of card " + std::to_string(i), code);
    }
    auto card = Describe(handle, i);
    if (!card) return card.error().Wrap("card " + std::to_string(i));
    handles[card->uuid] = handle;
    order.push_back(card->uuid);
    cards.push_back(std::move(*card));
  }
  const std::lock_guard lock(mutex_);
  handles_ = std::move(handles);
  order_ = std::move(order);
  return cards;
}

Result<nvmlDevice_t> Nvml::Handle(const std::string& card_uuid) {
  const std::lock_guard lock(mutex_);
  const auto found = handles_.find(card_uuid);
  if (found == handles_.end()) {
    return Error(Code::kNotFound, "no card " + card_uuid + " was discovered");
  }
  return found->second;
}

// A card that does not answer, or that waits for a reset or a replacement, takes no new work.
// Counted single memory errors the card has contained are no reason.
std::pair<bool, std::string> Nvml::HealthOf(nvmlDevice_t handle) const {
  nvmlMemory_t memory = {};
  if (const nvmlReturn_t code = api_.memory(handle, &memory)) {
    return {false, Failure("nvmlDeviceGetMemoryInfo", code).message()};
  }
  unsigned corrected = 0;
  unsigned uncorrected = 0;
  unsigned pending = 0;
  unsigned failed = 0;
  if (api_.remapped_rows &&
      api_.remapped_rows(handle, &corrected, &uncorrected, &pending, &failed) == NVML_SUCCESS) {
    if (failed != 0) return {false, "a memory row could not be remapped: replace the card"};
    if (pending != 0) return {false, "a memory row waits to be remapped: reset the card"};
  }
  if (api_.retired_pending && api_.retired_pending(handle, &pending) == NVML_SUCCESS &&
      pending != 0) {
    return {false, "a memory page waits to be retired: reset the card"};
  }
  return {true, ""};
}

Result<std::vector<CardHealth>> Nvml::Health() {
  std::vector<std::pair<std::string, nvmlDevice_t>> cards;
  {
    const std::lock_guard lock(mutex_);
    for (const std::string& uuid : order_) cards.emplace_back(uuid, handles_[uuid]);
  }
  std::vector<CardHealth> out;
  for (const auto& [uuid, handle] : cards) {
    auto [healthy, reason] = HealthOf(handle);
    out.push_back({uuid, healthy, std::move(reason)});
  }
  return out;
}

Result<CardTelemetry> Nvml::Telemetry(const std::string& card_uuid) {
  TRY(nvmlDevice_t const handle, Handle(card_uuid));
  CardTelemetry out;
  nvmlMemory_t memory = {};
  if (const nvmlReturn_t code = api_.memory(handle, &memory)) {
    return Failure("nvmlDeviceGetMemoryInfo", code);
  }
  out.total_bytes = memory.total;
  out.used_bytes = memory.used;
  nvmlUtilization_t busy = {};
  if (api_.utilization && api_.utilization(handle, &busy) == NVML_SUCCESS) {
    out.busy = Permille{std::min(busy.gpu, 100u) * 10};
  }
  unsigned value = 0;
  if (api_.temperature && api_.temperature(handle, NVML_TEMPERATURE_GPU, &value) == NVML_SUCCESS) {
    out.temperature_celsius = static_cast<int>(value);
  }
  if (api_.power && api_.power(handle, &value) == NVML_SUCCESS) out.power_milliwatts = value;
  return out;
}

Status Nvml::AddProcesses(std::string_view call, Api::ListProcesses* list, nvmlDevice_t handle,
                          std::map<pid_t, std::optional<std::uint64_t>>* found) const {
  // The list may grow between the answer "too small, n needed" and the next call, so ask for more
  // than n.
  std::vector<nvmlProcessInfo_v2_t> entries(16);
  while (true) {
    unsigned count = static_cast<unsigned>(entries.size());
    const nvmlReturn_t code = list(handle, &count, entries.data());
    if (code == NVML_ERROR_INSUFFICIENT_SIZE) {
      if (entries.size() >= 2 * kMaxProcessesPerCard) {
        return Error(Code::kResourceExhausted, "more than kMaxProcessesPerCard (" +
                                                   std::to_string(kMaxProcessesPerCard) +
                                                   ") processes on one card");
      }
      entries.resize(std::min<std::size_t>(std::max<std::size_t>(count, entries.size()) * 2,
                                           2 * kMaxProcessesPerCard));
      continue;
    }
    if (code != NVML_SUCCESS) return Failure(call, code);
    for (unsigned i = 0; i < count && i < entries.size(); ++i) {
      std::optional<std::uint64_t>& bytes = (*found)[static_cast<pid_t>(entries[i].pid)];
      if (entries[i].usedGpuMemory == NVML_VALUE_NOT_AVAILABLE) continue;
      // A process in several lists is one process; its figure is that of the card, not a part.
      bytes = std::max<std::uint64_t>(bytes.value_or(0), entries[i].usedGpuMemory);
    }
    return {};
  }
}

Result<std::vector<CardProcess>> Nvml::Processes(const std::string& card_uuid) {
  TRY(nvmlDevice_t const handle, Handle(card_uuid));
  std::map<pid_t, std::optional<std::uint64_t>> found;
  TRY_STATUS(
      AddProcesses("nvmlDeviceGetComputeRunningProcesses", api_.compute_processes, handle, &found));
  std::map<pid_t, std::optional<std::uint64_t>> mps;
  const std::pair<const char*, Api::ListProcesses*> optional_lists[] = {
      {"nvmlDeviceGetGraphicsRunningProcesses", api_.graphics_processes},
      {"nvmlDeviceGetMPSComputeRunningProcesses", api_.mps_processes}};
  for (const auto& [call, list] : optional_lists) {
    if (list == nullptr) continue;
    const Status added =
        AddProcesses(call, list, handle, list == api_.mps_processes ? &mps : &found);
    if (!added && added.error().code() != Code::kUnimplemented) return added.error();
  }
  if (found.size() > kMaxProcessesPerCard) {
    return Error(Code::kResourceExhausted, "more than kMaxProcessesPerCard (" +
                                               std::to_string(kMaxProcessesPerCard) +
                                               ") processes on one card");
  }
  for (const auto& [pid, bytes] : mps) {
    std::optional<std::uint64_t>& all = found[pid];
    if (bytes) all = std::max(all.value_or(0), *bytes);
  }
  std::vector<CardProcess> out;
  out.reserve(found.size());
  for (const auto& [pid, bytes] : found) out.push_back({pid, bytes, mps.contains(pid)});
  return out;
}

Result<std::vector<ProcessBusy>> Nvml::Busy(const std::string& card_uuid) {
  TRY(nvmlDevice_t const handle, Handle(card_uuid));
  if (api_.process_utilization == nullptr) {
    return Error(Code::kUnimplemented, "this driver does not tell how busy a process keeps a card");
  }
  // Samples from before would say that a process that stopped goes on.
  constexpr std::int64_t kNotOlderMicros = 1'500'000;
  const auto since =
      static_cast<unsigned long long>(os::RealClock().WallMicros() - kNotOlderMicros);
  std::vector<nvmlProcessUtilizationSample_t> samples(64);
  unsigned count = 0;
  while (true) {
    count = static_cast<unsigned>(samples.size());
    const nvmlReturn_t code = api_.process_utilization(handle, samples.data(), &count, since);
    if (code == NVML_ERROR_NOT_FOUND) return std::vector<ProcessBusy>();
    if (code == NVML_SUCCESS) break;
    if (code != NVML_ERROR_INSUFFICIENT_SIZE || samples.size() >= 2 * kMaxProcessesPerCard) {
      return Failure("nvmlDeviceGetProcessUtilization", code);
    }
    samples.resize(samples.size() * 2);
  }
  // Of several samples of a process the newest.
  std::map<pid_t, nvmlProcessUtilizationSample_t> newest;
  for (unsigned i = 0; i < count && i < samples.size(); ++i) {
    auto& known = newest[static_cast<pid_t>(samples[i].pid)];
    if (samples[i].timeStamp >= known.timeStamp) known = samples[i];
  }
  std::vector<ProcessBusy> out;
  for (const auto& [pid, sample] : newest) {
    if (pid > 0) out.push_back({pid, Permille{std::min(sample.smUtil, 100u) * 10}});
  }
  return out;
}

Result<std::uint64_t> Nvml::MeasureContext(const std::string& card_uuid) {
  TRY_STATUS(Handle(card_uuid) ? Status() : Status(Error(Code::kNotFound, "no card " + card_uuid)));
  Probe::Options options;
  options.program = options_.probe;
  if (options.program.empty()) {
    TRY(options.program, DefaultProbeProgram());
  }
  options.card_uuid = card_uuid;
  options.library_path = options_.probe_library_path;
  // A library named by its path brings its driver along from the same folder.
  const std::size_t slash = options_.library.rfind('/');
  if (options.library_path.empty() && slash != std::string::npos) {
    options.library_path = options_.library.substr(0, slash);
  }
  options.deadline_millis = options_.probe_deadline_millis;
  auto probe = Probe::Start(options);
  if (!probe) return probe.error().Wrap("measure a context on " + card_uuid);
  do {
    TRY(const std::vector<CardProcess> processes, Processes(card_uuid));
    for (const CardProcess& process : processes) {
      if (process.host_pid != probe->pid()) continue;
      if (!process.bytes) {
        return Error(Code::kUnimplemented, "the driver does not tell what a process uses");
      }
      if (*process.bytes > 0) return *process.bytes;
    }
    os::RealClock().SleepNanos(kLookAgainNanos);
  } while (probe->MillisLeft() > 0);
  return Error(Code::kDeadlineExceeded, "NVML did not list tessera-probe (pid " +
                                            std::to_string(probe->pid()) +
                                            ") within probe_deadline_millis (" +
                                            std::to_string(options_.probe_deadline_millis) + ")");
}

}  // namespace

Result<std::unique_ptr<Vendor>> OpenNvml(const NvmlOptions& options) {
  if (options.probe_deadline_millis < 1 || options.probe_deadline_millis > 600'000) {
    return Error::Field("probe_deadline_millis", "expected 1 to 600000");
  }
  auto library = os::Library::Open(options.library);
  if (!library) {
    return Error(Code::kUnavailable, "no NVML on this machine: " + library.error().message());
  }
  library->Keep();  // driver libraries start threads and do not survive dlclose
  TRY(const Api api, BindApi(*library));
  if (const nvmlReturn_t code = api.init()) {
    const char* const text = api.error_text ? api.error_text(code) : nullptr;
    return Error(
        CodeOf(code) == Code::kPermissionDenied ? Code::kPermissionDenied : Code::kUnavailable,
        std::string("nvmlInit_v2: ") + (text ? text : "NVML error") + " (" + std::to_string(code) +
            ")");
  }
  return std::unique_ptr<Vendor>(std::make_unique<Nvml>(std::move(*library), api, options));
}

}  // namespace tessera::vendors
