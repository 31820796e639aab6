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

// Whether memory is checked, and what becomes of memory that fails: whole pages are taken out of
// use (Turing), or rows are replaced by spare ones (Ampere and later).
enum class Ecc : uint32_t { kNone, kOff, kOn };
enum class MemoryRepair : uint32_t { kNone, kPages, kRows };

inline constexpr uint32_t kMigProfilesMax = 8;  // GPU instance profiles of one model
inline constexpr uint32_t kMigSlots = 8;        // memory slices of a card that MIG divides

// One GPU instance profile of MIG: line "mig" of a profile, up to kMigProfilesMax of them. The
// figures are those of the vendor's table of supported profiles. Read by state/mig.h.
struct MigProfile {
  char name[16];            // "1g.10gb+me"
  uint32_t id;              // what instances are created by
  uint32_t kind;            // NVML's NVML_GPU_INSTANCE_PROFILE_* number
  uint32_t compute_slices;  // of seven
  uint32_t instances;       // at most so many of it on one card
  uint32_t memory_mib;
  uint32_t sms;
  uint32_t copy_engines;
  uint32_t decoders;
  uint32_t encoders;
  uint32_t jpeg;
  uint32_t ofa;
  uint32_t size;    // memory slices it takes, of kMigSlots
  uint32_t starts;  // bit n: it may begin at memory slice n
};

// Plain data, because the card table in shared memory holds it. Texts end with NUL. Who reads what:
// the driver all that cuDeviceGetAttribute tells, the engine time_slice_us and switch_us, the copy
// model pcie_*, NVML and state/topology.h the rest.
struct Profile {
  char key[24];           // "A100-80", what SIMGPU_CARDS names; not a line of the file
  char name[64];          // "NVIDIA A100-SXM4-80GB", what the driver answers
  char architecture[16];  // "ampere"
  char brand[16];         // "tesla", "nvidia" or "geforce"
  char vbios[24];
  uint64_t memory_bytes;   // whole granules
  uint64_t context_bytes;  // what one context takes, whole granules
  uint64_t bar1_bytes;     // the window through which the host sees the memory
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
  uint32_t p2p_pcie;        // 1: reaches another card of its model over PCIe
  uint32_t nvlink_links;    // 0: has no NVLink
  uint32_t nvlink_version;  // NVML's number: 4 is 3.0, 6 is 4.0, 7 is 5.0; 0 none
  uint32_t nvlink_mb_s;     // one link, one direction
  Ecc ecc;
  MemoryRepair memory_repair;
  uint32_t power_idle_mw;
  uint32_t power_min_mw;    // the range the limit may be set in
  uint32_t power_limit_mw;  // the limit as delivered
  uint32_t power_max_mw;
  uint32_t temperature_idle_c;
  uint32_t temperature_load_c;
  uint32_t temperature_max_c;  // the highest it should run at
  uint32_t temperature_slowdown_c;
  uint32_t temperature_shutdown_c;
  uint32_t temperature_memory_idle_c;  // 0 for all three: the memory has no sensor
  uint32_t temperature_memory_load_c;
  uint32_t temperature_memory_max_c;
  uint32_t fans;           // 0: passively cooled, fan speed is not supported
  uint32_t time_slice_us;  // how long the compute engine stays with one process when others wait
  uint32_t switch_us;      // what a change of process costs
  uint32_t mig_count;      // 0: the model has no MIG
  MigProfile mig[kMigProfilesMax];
};

// Reads one profile's text. False with "line N: what was expected" in `error`. Every key must be
// there once, "mig" any number of times up to kMigProfilesMax.
bool ParseProfile(std::string_view text, Profile* profile, std::string* error);

// The profile called `key`: $SIMGPU_PROFILES/KEY.profile if that folder is set and has it, else the
// built-in one. False with a sentence that lists the known names in `error`.
bool FindProfile(std::string_view key, Profile* profile, std::string* error);

// What copies reach over the card's PCIe link in one direction, in bytes a nanosecond: the driver's
// copies take their time by it, NVML counts bytes by it.
double PcieBytesPerNs(const Profile& profile);

// The names of the built-in profiles, with a comma between them.
std::string KnownProfiles();

}  // namespace simgpu
