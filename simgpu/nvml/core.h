// What the entry points share: the initialised state, handles, text answers. Every entry point is
// thread-safe.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "abi/nvml.h"
#include "simgpu/state/mig.h"
#include "simgpu/state/state.h"

// An entry point of the library: C linkage, visible.
#define NVML_CALL extern "C" __attribute__((visibility("default"))) nvmlReturn_t

namespace simgpu::nvml {

using namespace tessera::abi;

// Load is measured over this window, as the real library averages over up to a second.
inline constexpr std::uint64_t kLoadWindowNs = 1'000'000'000;
// A recognisable version that still begins with the three numbers clients parse.
inline constexpr std::string_view kDriverVersion = "580.95.05-simgpu";
inline constexpr std::string_view kNvmlVersion = "13.580.95.05-simgpu";

// The state while some nvmlInit is not yet undone, else null (answer UNINITIALIZED).
State* Ready();

// The card behind a handle. A handle is the address of the card's entry in the shared table;
// anything else is refused without being looked into. A card that faults.h says is lost answers
// GPU_IS_LOST, a MIG device NOT_SUPPORTED.
struct CardRef {
  State* state = nullptr;
  const Card* card = nullptr;
  nvmlReturn_t code = NVML_SUCCESS;  // why there is none
};
CardRef Find(nvmlDevice_t device);
// The same for calls that tell only who a card is: those answer for a lost one too.
CardRef FindEvenLost(nvmlDevice_t device);
nvmlDevice_t HandleOf(const Card& card);

// The MIG device behind a handle. Handles of instances are addresses of marks in a table of our
// own, so they too are looked up, never looked into. They stay valid as long as the instance
// exists.
struct MigRef {
  State* state = nullptr;
  const Card* card = nullptr;  // null: not a MIG device
  GpuInstance gpu_instance;
  ComputeInstance instance;
};
MigRef FindMig(nvmlDevice_t device);
nvmlDevice_t MigHandleOf(uint32_t card, uint32_t gpu_instance, uint32_t instance);
// The book of instances; only between Init and Shutdown.
Mig* Instances();

// Answers one number.
template <typename T>
nvmlReturn_t Give(T* out, T value) {
  if (out == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *out = value;
  return NVML_SUCCESS;
}

// Answers a list. `probe_code` is what a caller hears whose array is too small, with the number
// needed; most lists say INSUFFICIENT_SIZE, some tell the number to a null array as success.
template <typename Entry, typename Items, typename Fill>
nvmlReturn_t GiveList(const Items& items, unsigned* count, Entry* entries, nvmlReturn_t probe_code,
                      Fill fill) {
  if (count == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  const unsigned room = *count;
  *count = static_cast<unsigned>(items.size());
  if (items.empty()) return NVML_SUCCESS;
  if (entries == nullptr && probe_code == NVML_SUCCESS) return NVML_SUCCESS;
  if (room < items.size()) return NVML_ERROR_INSUFFICIENT_SIZE;
  if (entries == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  unsigned i = 0;
  for (const auto& item : items) {
    entries[i] = {};
    fill(item, &entries[i++]);
  }
  return NVML_SUCCESS;
}

// Copies text and its NUL; INSUFFICIENT_SIZE writes nothing.
nvmlReturn_t Answer(std::string_view text, char* out, unsigned length);

// What sensors.cc measures, for fields and samples too.
std::uint32_t LoadPermille(const CardRef& ref);
unsigned PowerMilliwatts(const CardRef& ref);
unsigned long long EnergyMillijoules(const CardRef& ref);
unsigned SmClockMhz(const CardRef& ref);
bool MemoryCelsius(const CardRef& ref, unsigned* celsius);
// Bytes that copies moved over PCIe since the machine came to be, by NVML's direction.
unsigned long long PcieBytes(const CardRef& ref, unsigned direction);
unsigned PerformanceState(const CardRef& ref);

// What health.cc knows of the card's memory; false when it does not check it.
struct MemoryErrors {
  unsigned long long corrected = 0;
  unsigned long long uncorrected = 0;
};
bool FindMemoryErrors(const CardRef& ref, MemoryErrors* errors);
// Uncorrected errors take a piece of memory out of use: rows or pages by the model.
struct Repairs {
  MemoryRepair kind = MemoryRepair::kNone;
  unsigned count = 0;
  bool pending = false;  // takes effect with the next reset, which a simulated card never sees
  bool failed = false;
};
Repairs FindRepairs(const CardRef& ref);

// Bus id texts of a PCI address, NVML's two forms.
void LegacyBusId(unsigned domain, unsigned bus, unsigned slot, char* out);
void BusId(unsigned domain, unsigned bus, unsigned slot, char* out);

// Microseconds since 1970, the time stamps of NVML.
unsigned long long WallMicros();

}  // namespace simgpu::nvml

// Binds `ref` to the card or leaves the entry point with the reason.
#define NVML_CARD(ref, device)      \
  const CardRef ref = Find(device); \
  if (ref.card == nullptr) return ref.code

// An entry point that answers one number of the card; `profile` is its model.
#define NVML_NUMBER(name, expression)                            \
  NVML_CALL name(nvmlDevice_t device, unsigned* out) {           \
    NVML_CARD(ref, device);                                      \
    [[maybe_unused]] const Profile& profile = ref.card->profile; \
    return Give(out, static_cast<unsigned>(expression));         \
  }
