#include "simgpu/state/mps.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>

#include "simgpu/state/text.h"

namespace simgpu {

bool ParseMpsPercentage(std::string_view text, uint32_t* permille) {
  const size_t point = text.find('.');
  uint64_t whole = 0;
  if (!ParseNumber(text.substr(0, point), &whole) || whole > 100) return false;
  uint64_t tenths = 0;
  if (point != std::string_view::npos) {
    const std::string_view decimals = text.substr(point + 1);
    uint64_t all = 0;
    if (!ParseNumber(decimals, &all)) return false;
    tenths = static_cast<uint64_t>(decimals[0] - '0');
  }
  if (whole * 10 + tenths > 1000) return false;
  *permille = std::max<uint32_t>(1, static_cast<uint32_t>(whole * 10 + tenths));
  return whole != 0 || point != std::string_view::npos;
}

std::string MpsPercentageText(uint32_t permille) {
  return std::to_string(permille / 10) + "." + std::to_string(permille % 10);
}

bool ParseMpsSize(std::string_view text, uint64_t* bytes) {
  if (text.ends_with('B')) text.remove_suffix(1);
  if (text.empty()) return false;
  const unsigned shift = text.back() == 'G' ? 30 : text.back() == 'M' ? 20 : 0;
  text.remove_suffix(1);
  uint64_t number = 0;
  if (shift == 0 || !ParseNumber(text, &number) || number >= uint64_t{1} << (63 - shift)) {
    return false;
  }
  *bytes = number << shift;
  return true;
}

bool ParseMpsLimits(std::string_view text, std::map<uint32_t, uint64_t>* limits) {
  std::map<uint32_t, uint64_t> read;
  while (!text.empty()) {
    const size_t comma = text.find(',');
    const std::string_view one = Trim(text.substr(0, comma));
    text.remove_prefix(comma == std::string_view::npos ? text.size() : comma + 1);
    const size_t equals = one.find('=');
    uint64_t device = 0, bytes = 0;
    if (equals == std::string_view::npos || !ParseNumber(one.substr(0, equals), &device) ||
        device > 255 || !ParseMpsSize(one.substr(equals + 1), &bytes)) {
      return false;
    }
    read[static_cast<uint32_t>(device)] = bytes;
  }
  *limits = std::move(read);
  return true;
}

uint32_t MpsCoverage(uint32_t permille, uint32_t multiprocessors) {
  if (multiprocessors == 0) return permille;
  const uint32_t whole = std::max<uint32_t>(1, permille * multiprocessors / 1000);
  return std::max<uint32_t>(1, whole * 1000 / multiprocessors);
}

int MpsConnect(const std::string& pipe_folder) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  const std::string path = pipe_folder + "/" + kMpsControl;
  if (path.size() >= sizeof(address.sun_path)) {
    errno = ENAMETOOLONG;
    return -1;
  }
  memcpy(address.sun_path, path.c_str(), path.size() + 1);
  const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) return fd;
  const int why = errno;
  close(fd);
  errno = why;
  return -1;
}

}  // namespace simgpu
