#include "simgpu/state/profile.h"

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <vector>

namespace simgpu {
namespace {

struct BuiltIn {
  const char* key;
  const char* text;
};
constexpr BuiltIn kBuiltIns[] = {
#include "simgpu/profiles.inc"
};

bool ParseNumber(std::string_view text, uint64_t* value) {
  if (text.empty() || text.size() > 18) return false;
  uint64_t base = 10;
  if (text.starts_with("0x")) {
    base = 16;
    text.remove_prefix(2);
  }
  *value = 0;
  for (char c : text) {
    uint64_t digit = c >= '0' && c <= '9'   ? c - '0'
                     : c >= 'A' && c <= 'F' ? c - 'A' + 10
                     : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                            : base;
    if (digit >= base) return false;
    *value = *value * base + digit;
  }
  return !text.empty();
}

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

const std::vector<Key>& Keys() {
  static const auto* keys = new std::vector<Key>{
      Text("name", &Profile::name),
      Text("architecture", &Profile::architecture),
      Text("vbios", &Profile::vbios),
      Mebibytes("memory_mib", &Profile::memory_bytes),
      Mebibytes("context_mib", &Profile::context_bytes),
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
      Number("power_idle_mw", &Profile::power_idle_mw, 1, 10'000'000),
      Number("power_limit_mw", &Profile::power_limit_mw, 1, 10'000'000),
      Number("temperature_idle_c", &Profile::temperature_idle_c, 1, 150),
      Number("temperature_load_c", &Profile::temperature_load_c, 1, 150),
      Number("temperature_slowdown_c", &Profile::temperature_slowdown_c, 1, 150),
      Number("temperature_shutdown_c", &Profile::temperature_shutdown_c, 1, 150),
      Number("has_fan", &Profile::has_fan, 0, 1),
      Number("time_slice_us", &Profile::time_slice_us, 10, 1'000'000),
      Number("switch_us", &Profile::switch_us, 0, 100'000),
  };
  return *keys;
}

std::string_view Trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t' || text.back() == '\r')) {
    text.remove_suffix(1);
  }
  return text;
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
    if (seen[i]) {
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
    if (seen[i]) continue;
    *error = std::string("key ") + Keys()[i].name + " is missing";
    return false;
  }
  if (profile->context_bytes >= profile->memory_bytes) {
    *error = "context_mib: expected less than memory_mib";
    return false;
  }
  return true;
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
  std::string known;
  for (const BuiltIn& built_in : kBuiltIns) {
    if (key == built_in.key) return ParseProfile(built_in.text, profile, error);
    known += std::string(known.empty() ? "" : ", ") + built_in.key;
  }
  *error = "no profile \"" + std::string(key) + "\": expected one of " + known +
           " or a file of that name in $SIMGPU_PROFILES";
  return false;
}

}  // namespace simgpu
