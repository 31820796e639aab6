// Device printf: the format and the argument buffer lie in device memory, arguments packed as
// vprintf gets them.
#include <cstdio>

#include "simgpu/ptx/code.h"

namespace simgpu::ptx {
namespace {

constexpr size_t kMaxConversion = 4096;  // Characters one conversion may produce, %s aside.

}  // namespace

bool ReadDeviceString(Exec& e, const Instr& i, uint64_t address, int lane, std::string* text) {
  text->clear();
  while (text->size() < kMaxDeviceString) {
    const uint8_t* p = TranslateSlow(e, i, Space::kGeneric, address + text->size(), 1, lane, false);
    if (p == nullptr) return false;
    if (*p == 0) return true;
    text->push_back(static_cast<char>(*p));
  }
  e.Fail(Status::kLaunchFailed, lane, "device string exceeds kMaxDeviceString");
  return false;
}

bool DevicePrintf(Exec& e, const Instr& i, uint64_t format_address, uint64_t arguments, int lane,
                  std::string* text) {
  std::string format;
  if (!ReadDeviceString(e, i, format_address, lane, &format)) return false;
  uint64_t offset = 0;
  const auto fetch = [&](uint32_t bytes, uint64_t* value) {
    offset = (offset + bytes - 1) / bytes * bytes;
    const uint8_t* p = TranslateSlow(e, i, Space::kGeneric, arguments + offset, bytes, lane, false);
    if (p == nullptr) return false;
    *value = 0;
    std::memcpy(value, p, bytes);
    offset += bytes;
    return true;
  };
  for (size_t at = 0; at < format.size(); ++at) {
    if (format[at] != '%') {
      text->push_back(format[at]);
      continue;
    }
    std::string spec = "%";
    size_t k = at + 1;
    int longs = 0;
    while (k < format.size() && std::strchr("-+ #0123456789.*lhzjt", format[k]) != nullptr) {
      const char c = format[k++];
      if (c == '*') {
        uint64_t width;
        if (!fetch(4, &width)) return false;
        const int32_t w = static_cast<int32_t>(width);
        spec += std::to_string(w > 1000 ? 1000 : w < -1000 ? -1000 : w);
      } else if (c == 'l' || c == 'z' || c == 'j' || c == 't') {
        ++longs;
      } else if (c != 'h' && spec.size() < 16) {
        spec.push_back(c);
      }
    }
    if (k >= format.size()) {
      text->append(format, at, std::string::npos);
      break;
    }
    const char conversion = format[k];
    char buffer[kMaxConversion];
    uint64_t value = 0;
    switch (conversion) {
      case '%':
        text->push_back('%');
        break;
      case 'd':
      case 'i':
        if (!fetch(longs > 0 ? 8 : 4, &value)) return false;
        spec += "lld";
        std::snprintf(buffer, sizeof buffer, spec.c_str(),
                      longs > 0 ? static_cast<long long>(value)
                                : static_cast<long long>(static_cast<int32_t>(value)));
        text->append(buffer);
        break;
      case 'u':
      case 'x':
      case 'X':
      case 'o':
        if (!fetch(longs > 0 ? 8 : 4, &value)) return false;
        spec += "ll";
        spec.push_back(conversion);
        std::snprintf(buffer, sizeof buffer, spec.c_str(), static_cast<unsigned long long>(value));
        text->append(buffer);
        break;
      case 'c':
        if (!fetch(4, &value)) return false;
        spec.push_back('c');
        std::snprintf(buffer, sizeof buffer, spec.c_str(), static_cast<int>(value));
        text->append(buffer);
        break;
      case 'f':
      case 'F':
      case 'e':
      case 'E':
      case 'g':
      case 'G':
      case 'a':
      case 'A': {
        if (!fetch(8, &value)) return false;
        double d;
        std::memcpy(&d, &value, sizeof d);
        spec.push_back(conversion);
        std::snprintf(buffer, sizeof buffer, spec.c_str(), d);
        text->append(buffer);
        break;
      }
      case 'p':
        if (!fetch(8, &value)) return false;
        std::snprintf(buffer, sizeof buffer, "0x%llx", static_cast<unsigned long long>(value));
        text->append(buffer);
        break;
      case 's': {
        std::string argument;
        if (!fetch(8, &value) || !ReadDeviceString(e, i, value, lane, &argument)) return false;
        text->append(argument);
        break;
      }
      default:
        text->append(format, at, k - at + 1);
        break;
    }
    at = k;
  }
  return true;
}

}  // namespace simgpu::ptx
