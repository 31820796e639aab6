#include "simgpu/state/profile.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <vector>

#include "simgpu/state/text.h"

namespace simgpu {
namespace {

struct BuiltIn {
  const char* key;
  const char* text;
};
constexpr BuiltIn kBuiltIns[] = {
#include "simgpu/profiles.inc"
};

// One key: sets its field from the value, or answers what was expected.
struct Key {
  const char* name;
  std::function<const char*(std::string_view, Profile*)> set;
};

template <size_t n>
Key Text(const char* name, char (Profile::*field)[n]) {
  return {name, [field](std::string_view value, Profile* profile) -> const char* {
            if (value.empty() || value.size() >= n) return "a text that fits its field";
            std::memcpy(profile->*field, value.data(), value.size());
            (profile->*field)[value.size()] = 0;
            return nullptr;
          }};
}

Key Number(const char* name, uint32_t Profile::* field, uint64_t min, uint64_t max) {
  return {name, [=](std::string_view text, Profile* profile) -> const char* {
            uint64_t value = 0;
            if (!ParseNumber(text, &value) || value < min || value > max)
              return "a number in range";
            profile->*field = static_cast<uint32_t>(value);
            return nullptr;
          }};
}

Key Mebibytes(const char* name, uint64_t Profile::* field) {
  return {name, [=](std::string_view text, Profile* profile) -> const char* {
            uint64_t value = 0;
            if (!ParseNumber(text, &value) || value < 2 || value > (1u << 22) || value % 2 != 0) {
              return "an even number of MiB, 2 to 4194304";
            }
            profile->*field = value << 20;
            return nullptr;
          }};
}

// One word of several: its value goes into the field.
template <typename T>
Key Word(const char* name, T Profile::* field,
         std::initializer_list<std::pair<const char*, T>> words, const char* expected) {
  return {name,
          [field, words = std::vector(words), expected](std::string_view text,
                                                        Profile* profile) -> const char* {
            for (const auto& [word, value] : words) {
              if (text != word) continue;
              profile->*field = value;
              return nullptr;
            }
            return expected;
          }};
}

// "mig NAME ID KIND SLICES INSTANCES MEMORY SMS COPY DECODERS ENCODERS JPEG OFA SIZE STARTS".
const char* AddMig(std::string_view text, Profile* profile) {
  if (profile->mig_count == kMigProfilesMax) return "at most kMigProfilesMax = 8 of them";
  MigProfile* const mig = &profile->mig[profile->mig_count];
  const std::string_view name = TakeWord(&text);
  if (name.empty() || name.size() >= sizeof mig->name) return "a name of 1 to 15 letters first";
  std::memcpy(mig->name, name.data(), name.size());
  struct Column {
    uint32_t MigProfile::* field;
    uint64_t min, max;
  };
  constexpr Column kColumns[] = {{&MigProfile::id, 0, 63},
                                 {&MigProfile::kind, 0, 17},
                                 {&MigProfile::compute_slices, 1, 7},
                                 {&MigProfile::instances, 1, 7},
                                 {&MigProfile::memory_mib, 1, 1 << 22},
                                 {&MigProfile::sms, 1, 1024},
                                 {&MigProfile::copy_engines, 0, 64},
                                 {&MigProfile::decoders, 0, 64},
                                 {&MigProfile::encoders, 0, 64},
                                 {&MigProfile::jpeg, 0, 64},
                                 {&MigProfile::ofa, 0, 64},
                                 {&MigProfile::size, 1, kMigSlots}};
  for (const Column& column : kColumns) {
    uint64_t value = 0;
    if (!ParseNumber(TakeWord(&text), &value) || value < column.min || value > column.max) {
      return "NAME, twelve numbers in range and STARTS";
    }
    mig->*column.field = static_cast<uint32_t>(value);
  }
  // Instances are numbered by halves, quarters and eighths (state/mig.h).
  if ((mig->size & (mig->size - 1)) != 0) return "a SIZE of 1, 2, 4 or 8";
  std::string_view starts = TakeWord(&text);
  while (!starts.empty()) {
    uint64_t start = 0;
    const size_t comma = starts.find(',');
    if (!ParseNumber(starts.substr(0, comma), &start) || start + mig->size > kMigSlots ||
        start % mig->size != 0) {
      return "STARTS that are multiples of SIZE below eight";
    }
    mig->starts |= 1u << start;
    starts.remove_prefix(comma == std::string_view::npos ? starts.size() : comma + 1);
  }
  if (mig->starts == 0 || !text.empty()) return "STARTS as the last column";
  if (mig->sms > profile->sm_count || (uint64_t{mig->memory_mib} << 20) > profile->memory_bytes) {
    return "no more than the card has; memory_mib and sm_count stand above it";
  }
  ++profile->mig_count;
  return nullptr;
}

const std::vector<Key>& Keys() {
  static const auto* keys = new std::vector<Key>{
      Text("name", &Profile::name),
      Text("architecture", &Profile::architecture),
      {"brand",
       [](std::string_view text, Profile* profile) -> const char* {
         if (text != "tesla" && text != "nvidia" && text != "geforce") {
           return "tesla, nvidia or geforce";
         }
         std::memcpy(profile->brand, text.data(), text.size());
         profile->brand[text.size()] = 0;
         return nullptr;
       }},
      Text("vbios", &Profile::vbios),
      Mebibytes("memory_mib", &Profile::memory_bytes),
      Mebibytes("context_mib", &Profile::context_bytes),
      Mebibytes("bar1_mib", &Profile::bar1_bytes),
      {"l2_kib",
       [](std::string_view text, Profile* profile) -> const char* {
         uint64_t value = 0;
         if (!ParseNumber(text, &value) || value == 0 || value > (1u << 20))
           return "KiB, 1 to 1048576";
         profile->l2_bytes = value << 10;
         return nullptr;
       }},
      {"capability",
       [](std::string_view text, Profile* profile) -> const char* {
         size_t dot = text.find('.');
         uint64_t major = 0, minor = 0;
         if (dot == std::string_view::npos || !ParseNumber(text.substr(0, dot), &major) ||
             !ParseNumber(text.substr(dot + 1), &minor) || major < 3 || major > 99 || minor > 9) {
           return "MAJOR.MINOR";
         }
         profile->capability_major = static_cast<uint32_t>(major);
         profile->capability_minor = static_cast<uint32_t>(minor);
         return nullptr;
       }},
      Number("sm_count", &Profile::sm_count, 1, 1024),
      Number("cores_per_sm", &Profile::cores_per_sm, 1, 1024),
      Number("threads_per_sm", &Profile::threads_per_sm, 32, 4096),
      Number("blocks_per_sm", &Profile::blocks_per_sm, 1, 64),
      Number("registers_per_sm", &Profile::registers_per_sm, 1024, 1 << 20),
      Number("shared_per_sm", &Profile::shared_per_sm, 49152, 1 << 20),
      Number("shared_per_block_optin", &Profile::shared_per_block_optin, 49152, 1 << 20),
      Number("clock_khz", &Profile::clock_khz, 1000, 10'000'000),
      Number("clock_idle_khz", &Profile::clock_idle_khz, 1000, 10'000'000),
      Number("memory_clock_khz", &Profile::memory_clock_khz, 1000, 100'000'000),
      Number("memory_bus_bits", &Profile::memory_bus_bits, 32, 65536),
      Number("copy_engines", &Profile::copy_engines, 1, 16),
      Number("pci_device", &Profile::pci_device, 1, UINT32_MAX),
      Number("pci_subsystem", &Profile::pci_subsystem, 1, UINT32_MAX),
      Number("pcie_generation", &Profile::pcie_generation, 1, 9),
      Number("pcie_width", &Profile::pcie_width, 1, 32),
      Number("p2p_pcie", &Profile::p2p_pcie, 0, 1),
      Number("nvlink_links", &Profile::nvlink_links, 0, 18),
      Word<uint32_t>("nvlink_version", &Profile::nvlink_version,
                     {{"none", 0}, {"2.0", 2}, {"3.0", 4}, {"4.0", 6}, {"5.0", 7}},
                     "none, 2.0, 3.0, 4.0 or 5.0"),
      Number("nvlink_mb_s", &Profile::nvlink_mb_s, 0, 1'000'000),
      Word<Ecc>("ecc", &Profile::ecc, {{"none", Ecc::kNone}, {"off", Ecc::kOff}, {"on", Ecc::kOn}},
                "none, off or on"),
      Word<MemoryRepair>("memory_repair", &Profile::memory_repair,
                         {{"none", MemoryRepair::kNone},
                          {"pages", MemoryRepair::kPages},
                          {"rows", MemoryRepair::kRows}},
                         "none, pages or rows"),
      Number("power_idle_mw", &Profile::power_idle_mw, 1, 10'000'000),
      Number("power_min_mw", &Profile::power_min_mw, 1, 10'000'000),
      Number("power_limit_mw", &Profile::power_limit_mw, 1, 10'000'000),
      Number("power_max_mw", &Profile::power_max_mw, 1, 10'000'000),
      Number("temperature_idle_c", &Profile::temperature_idle_c, 1, 150),
      Number("temperature_load_c", &Profile::temperature_load_c, 1, 150),
      Number("temperature_max_c", &Profile::temperature_max_c, 1, 150),
      Number("temperature_slowdown_c", &Profile::temperature_slowdown_c, 1, 150),
      Number("temperature_shutdown_c", &Profile::temperature_shutdown_c, 1, 150),
      Number("temperature_memory_idle_c", &Profile::temperature_memory_idle_c, 0, 150),
      Number("temperature_memory_load_c", &Profile::temperature_memory_load_c, 0, 150),
      Number("temperature_memory_max_c", &Profile::temperature_memory_max_c, 0, 150),
      Number("fans", &Profile::fans, 0, 8),
      Number("time_slice_us", &Profile::time_slice_us, 10, 1'000'000),
      Number("switch_us", &Profile::switch_us, 0, 100'000),
      {"mig", AddMig},
  };
  return *keys;
}

// Figures that must fit each other. Null, or the key and what was expected of it.
const char* Disagreement(const Profile& profile) {
  if (profile.context_bytes >= profile.memory_bytes) {
    return "context_mib: expected less than memory_mib";
  }
  const bool links = profile.nvlink_links != 0;
  if (links != (profile.nvlink_version != 0) || links != (profile.nvlink_mb_s != 0)) {
    return "nvlink_links: expected together with nvlink_version and nvlink_mb_s";
  }
  if (profile.power_min_mw > profile.power_limit_mw ||
      profile.power_limit_mw > profile.power_max_mw) {
    return "power_limit_mw: expected between power_min_mw and power_max_mw";
  }
  if (profile.temperature_load_c > profile.temperature_max_c ||
      profile.temperature_max_c > profile.temperature_slowdown_c ||
      profile.temperature_slowdown_c > profile.temperature_shutdown_c) {
    return "temperature_max_c: expected load, max, slowdown and shutdown to rise";
  }
  return nullptr;
}

}  // namespace

bool ParseProfile(std::string_view text, Profile* profile, std::string* error) {
  std::vector<bool> seen(Keys().size());
  int line = 0;
  while (!text.empty()) {
    ++line;
    size_t end = text.find('\n');
    std::string_view row = Trim(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (row.empty() || row[0] == '#') continue;
    size_t space = row.find(' ');
    std::string_view name = row.substr(0, space);
    std::string_view value =
        space == std::string_view::npos ? std::string_view() : Trim(row.substr(space));
    std::string at = "line " + std::to_string(line) + ": " + std::string(name) + ": ";
    size_t i = 0;
    while (i < Keys().size() && name != Keys()[i].name) ++i;
    if (i == Keys().size()) {
      *error = at + "unknown key";
      return false;
    }
    if (seen[i] && name != "mig") {
      *error = at + "stands there twice";
      return false;
    }
    seen[i] = true;
    if (const char* expected = Keys()[i].set(value, profile)) {
      *error = at + "expected " + expected + ", not \"" + std::string(value) + "\"";
      return false;
    }
  }
  for (size_t i = 0; i < seen.size(); ++i) {
    if (seen[i] || std::string_view(Keys()[i].name) == "mig") continue;
    *error = std::string("key ") + Keys()[i].name + " is missing";
    return false;
  }
  if (const char* wrong = Disagreement(*profile)) {
    *error = wrong;
    return false;
  }
  return true;
}

double PcieBytesPerNs(const Profile& profile) {
  constexpr double kShare = 0.85;  // of the raw rate
  // One lane's raw rate by generation; 0 is unused.
  constexpr double kLane[] = {0.25, 0.25, 0.5, 0.985, 1.969, 3.938, 7.563};
  const uint32_t generation = std::clamp<uint32_t>(profile.pcie_generation, 1, 6);
  return kLane[generation] * std::max<uint32_t>(profile.pcie_width, 1) * kShare;
}

std::string KnownProfiles() {
  std::string known;
  for (const BuiltIn& built_in : kBuiltIns) {
    known += std::string(known.empty() ? "" : ", ") + built_in.key;
  }
  return known;
}

bool FindProfile(std::string_view key, Profile* profile, std::string* error) {
  *profile = Profile();
  if (key.empty() || key.size() >= sizeof profile->key || key.find('/') != std::string_view::npos) {
    *error = "profile name: expected a plain word, not \"" + std::string(key) + "\"";
    return false;
  }
  std::memcpy(profile->key, key.data(), key.size());
  const char* folder = std::getenv("SIMGPU_PROFILES");
  if (folder != nullptr && *folder != 0) {
    std::string path = std::string(folder) + "/" + std::string(key) + ".profile";
    if (std::ifstream in(path, std::ios::binary); in) {
      std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
      if (ParseProfile(text, profile, error)) return true;
      *error = path + ": " + *error;
      return false;
    }
  }
  for (const BuiltIn& built_in : kBuiltIns) {
    if (key == built_in.key) return ParseProfile(built_in.text, profile, error);
  }
  *error = "no profile \"" + std::string(key) + "\": expected one of " + KnownProfiles() +
           " or a file of that name in $SIMGPU_PROFILES";
  return false;
}

}  // namespace simgpu
