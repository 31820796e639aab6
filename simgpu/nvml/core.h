// What the entry points share: the initialised state, handles, text answers. Every entry point is
// thread-safe.
#pragma once

#include <cstdint>
#include <string_view>

#include "abi/nvml.h"
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
// anything else is refused without being looked into.
struct CardRef {
  State* state = nullptr;
  const Card* card = nullptr;
  nvmlReturn_t code = NVML_SUCCESS;  // why there is none
};
CardRef Find(nvmlDevice_t device);
nvmlDevice_t HandleOf(const Card& card);

// Copies text and its NUL; INSUFFICIENT_SIZE writes nothing.
nvmlReturn_t Answer(std::string_view text, char* out, unsigned length);

// Microseconds since 1970, the time stamps of NVML.
unsigned long long WallMicros();

}  // namespace simgpu::nvml

// Binds `ref` to the card or leaves the entry point with the reason.
#define NVML_CARD(ref, device)      \
  const CardRef ref = Find(device); \
  if (ref.card == nullptr) return ref.code
