// What kind of card is simulated: the numbers of one model, as data.
//
// Profiles are text files "key value" (simgpu/profiles/*.profile), built into the library and
// overridden by a file of the same name in the folder $SIMGPU_PROFILES. Plain values; parsing has
// no side effects.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace simgpu {

inline constexpr uint64_t kGranule = uint64_t{2} << 20;  // memory is taken in these

// Plain data, because the card table in shared memory holds it. Texts end with NUL.
struct Profile {
  char key[24];           // "A100-80", what SIMGPU_CARDS names
  char name[64];          // "NVIDIA A100-SXM4-80GB", what the driver answers
  char architecture[16];  // "ampere"
  char vbios[24];
  uint64_t memory_bytes;   // whole granules
  uint64_t context_bytes;  // what one context takes, whole granules
  uint64_t l2_bytes;
  uint32_t capability_major;
  uint32_t capability_minor;
  uint32_t sm_count;
  uint32_t cores_per_sm;
  uint32_t threads_per_sm;
  uint32_t blocks_per_sm;
  uint32_t registers_per_sm;
  uint32_t shared_per_sm;           // bytes
  uint32_t shared_per_block_optin;  // bytes
  uint32_t clock_khz;               // highest SM clock
  uint32_t clock_idle_khz;
  uint32_t memory_clock_khz;
  uint32_t memory_bus_bits;
  uint32_t copy_engines;
  uint32_t pci_device;     // device id << 16 | vendor id, as NVML's pciDeviceId
  uint32_t pci_subsystem;  // subsystem device << 16 | subsystem vendor
  uint32_t pcie_generation;
  uint32_t pcie_width;
  uint32_t power_idle_mw;
  uint32_t power_limit_mw;
  uint32_t temperature_idle_c;
  uint32_t temperature_load_c;
  uint32_t temperature_slowdown_c;
  uint32_t temperature_shutdown_c;
  uint32_t has_fan;  // 0: passively cooled, fan speed is not supported
  uint32_t time_slice_us;  // how long the compute engine stays with one process when others wait
  uint32_t switch_us;      // what a change of process costs
};

// Reads one profile's text. False with "line N: what was expected" in `error`. Every key must be
// there once.
bool ParseProfile(std::string_view text, Profile* profile, std::string* error);

// The profile called `key`: $SIMGPU_PROFILES/KEY.profile if that folder is set and has it, else the
// built-in one. False with a sentence that lists the known names in `error`.
bool FindProfile(std::string_view key, Profile* profile, std::string* error);

}  // namespace simgpu
