// Event sets: critical errors (XID), memory errors, changes of clocks and performance state. Nobody
// sends events on a simulated machine: a waiting set looks at the truth every kLookMs and reports
// what changed since it looked last.
#include <algorithm>
#include <atomic>
#include <ctime>
#include <deque>
#include <memory>
#include <mutex>

#include "simgpu/nvml/core.h"
#include "simgpu/state/faults.h"

namespace simgpu::nvml {
namespace {

constexpr std::size_t kEventSetsMax = 256;
constexpr std::size_t kEventsWaitingMax = 1024;  // of one set; then the oldest go
constexpr unsigned kLookMs = 10;

constexpr unsigned long long kEccEvents =
    nvmlEventTypeSingleBitEccError | nvmlEventTypeDoubleBitEccError;

struct Watched {
  std::uint32_t card = 0;
  unsigned long long types = 0;
  MemoryErrors errors;
  unsigned clock_mhz = 0;
  unsigned performance = 0;
};

struct Event {
  std::uint32_t card;
  unsigned long long type;
  unsigned long long data;
};

struct Set {
  std::vector<Watched> cards;
  std::deque<Event> waiting;
  std::uint64_t xid_seen = 0;
};

// Plain statics with constant initialisers or never destroyed: a client may call at exit.
std::mutex mutex;
std::vector<std::unique_ptr<Set>>& Sets() {
  static auto* const sets = new std::vector<std::unique_ptr<Set>>;
  return *sets;
}

// With the mutex held. Null when there is no such set.
Set* FindSet(nvmlEventSet_t handle) {
  for (const std::unique_ptr<Set>& set : Sets()) {
    if (reinterpret_cast<nvmlEventSet_t>(set.get()) == handle) return set.get();
  }
  return nullptr;
}

unsigned long long Supported(const CardRef& ref) {
  return nvmlEventTypeXidCriticalError | nvmlEventTypeClock | nvmlEventTypePState |
         (ref.card->profile.ecc == Ecc::kOn ? kEccEvents : 0);
}

CardRef RefOf(State* state, std::uint32_t card) {
  return {state, &state->card(card), NVML_SUCCESS};
}

void Add(Set* set, const Watched& watched, unsigned long long type, unsigned long long data) {
  if ((watched.types & type) == 0) return;
  if (set->waiting.size() == kEventsWaitingMax) set->waiting.pop_front();
  set->waiting.push_back({watched.card, type, data});
}

// Compares the truth with what the set saw last.
void Look(State* state, Set* set) {
  for (const XidEvent& xid : Faults::Get().Xids(set->xid_seen)) {
    set->xid_seen = std::max(set->xid_seen, xid.sequence);
    for (const Watched& watched : set->cards) {
      if (watched.card == xid.card) Add(set, watched, nvmlEventTypeXidCriticalError, xid.number);
    }
  }
  for (Watched& watched : set->cards) {
    const CardRef ref = RefOf(state, watched.card);
    MemoryErrors errors;
    if (FindMemoryErrors(ref, &errors)) {
      if (errors.corrected > watched.errors.corrected) {
        Add(set, watched, nvmlEventTypeSingleBitEccError, 0);
      }
      if (errors.uncorrected > watched.errors.uncorrected) {
        Add(set, watched, nvmlEventTypeDoubleBitEccError, 0);
      }
      watched.errors = errors;
    }
    const unsigned clock = SmClockMhz(ref);
    if (clock != watched.clock_mhz) Add(set, watched, nvmlEventTypeClock, 0);
    watched.clock_mhz = clock;
    const unsigned performance = PerformanceState(ref);
    if (performance != watched.performance) Add(set, watched, nvmlEventTypePState, 0);
    watched.performance = performance;
  }
}

// Fills either layout; instances are only in the newer.
template <typename Data>
nvmlReturn_t Wait(nvmlEventSet_t handle, Data* data, unsigned timeout_ms) {
  State* const state = Ready();
  if (state == nullptr) return NVML_ERROR_UNINITIALIZED;
  if (data == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  const std::uint64_t until = Engine::NowNs() + std::uint64_t{timeout_ms} * 1'000'000;
  while (true) {
    {
      const std::lock_guard lock(mutex);
      Set* const set = FindSet(handle);
      if (set == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
      if (set->waiting.empty()) Look(state, set);
      if (!set->waiting.empty()) {
        const Event event = set->waiting.front();
        set->waiting.pop_front();
        *data = {};
        data->device = HandleOf(state->card(event.card));
        data->eventType = event.type;
        data->eventData = event.data;
        if constexpr (requires { data->gpuInstanceId; }) {
          data->gpuInstanceId = kNvmlNoInstance;
          data->computeInstanceId = kNvmlNoInstance;
        }
        return NVML_SUCCESS;
      }
    }
    const std::uint64_t now = Engine::NowNs();
    if (now >= until) return NVML_ERROR_TIMEOUT;
    const std::uint64_t ns = std::min<std::uint64_t>(until - now, kLookMs * 1'000'000ull);
    const timespec pause = {0, static_cast<long>(ns)};
    nanosleep(&pause, nullptr);
  }
}

}  // namespace

NVML_CALL nvmlEventSetCreate(nvmlEventSet_t* set) {
  if (Ready() == nullptr) return NVML_ERROR_UNINITIALIZED;
  if (set == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  const std::lock_guard lock(mutex);
  if (Sets().size() == kEventSetsMax) return NVML_ERROR_INSUFFICIENT_RESOURCES;
  Sets().push_back(std::make_unique<Set>());
  *set = reinterpret_cast<nvmlEventSet_t>(Sets().back().get());
  return NVML_SUCCESS;
}

NVML_CALL nvmlEventSetFree(nvmlEventSet_t set) {
  if (Ready() == nullptr) return NVML_ERROR_UNINITIALIZED;
  const std::lock_guard lock(mutex);
  const std::size_t erased = std::erase_if(Sets(), [&](const std::unique_ptr<Set>& one) {
    return reinterpret_cast<nvmlEventSet_t>(one.get()) == set;
  });
  return erased != 0 ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
}

NVML_CALL nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device, unsigned long long* types) {
  NVML_CARD(ref, device);
  return Give(types, Supported(ref));
}

// A lost card still reports its own loss, so it can be watched.
NVML_CALL nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types,
                                   nvmlEventSet_t handle) {
  const CardRef ref = FindEvenLost(device);
  if (ref.card == nullptr) return ref.code;
  const std::lock_guard lock(mutex);
  Set* const set = FindSet(handle);
  if (set == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if ((types & ~Supported(ref)) != 0) return NVML_ERROR_NOT_SUPPORTED;
  for (Watched& watched : set->cards) {
    if (watched.card != ref.card->index) continue;
    watched.types |= types;
    return NVML_SUCCESS;
  }
  Watched fresh{ref.card->index, types, {}, SmClockMhz(ref), PerformanceState(ref)};
  FindMemoryErrors(ref, &fresh.errors);
  set->cards.push_back(fresh);
  return NVML_SUCCESS;
}

NVML_CALL nvmlEventSetWait(nvmlEventSet_t set, nvmlEventDataLegacy_t* data, unsigned timeout_ms) {
  return Wait(set, data, timeout_ms);
}
NVML_CALL nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t* data, unsigned timeout_ms) {
  return Wait(set, data, timeout_ms);
}

}  // namespace simgpu::nvml
