// What work takes of the card, in device time, by the numbers of its profile.
#include <algorithm>

#include "simgpu/driver/executor.h"

namespace simgpu {
namespace {

constexpr uint64_t kKernelLeastNs = 2'000;    // a launch that does next to nothing
constexpr uint64_t kHostCopyStartNs = 3'000;  // before the first byte crosses the bus
constexpr uint64_t kDeviceCopyStartNs = 2'000;

}  // namespace

uint64_t KernelNs(const Profile& profile, uint64_t instructions) {
  const double a_ms = static_cast<double>(profile.sm_count) * profile.cores_per_sm *
                      static_cast<double>(profile.clock_khz);
  const double ns = a_ms > 0 ? static_cast<double>(instructions) * 1e6 / a_ms : 0;
  return std::max(kKernelLeastNs, static_cast<uint64_t>(ns));
}

uint64_t HostCopyNs(const Profile& profile, uint64_t bytes) {
  const double ns = static_cast<double>(bytes) / PcieBytesPerNs(profile);
  return kHostCopyStartNs + static_cast<uint64_t>(ns);
}

uint64_t DeviceCopyNs(const Profile& profile, uint64_t bytes) {
  // Two transfers a clock; kHz * bytes are bytes a millisecond.
  const double a_ms =
      static_cast<double>(profile.memory_clock_khz) * 2 * profile.memory_bus_bits / 8;
  const double ns = a_ms > 0 ? static_cast<double>(bytes) * 1e6 / a_ms : 0;
  return kDeviceCopyStartNs + static_cast<uint64_t>(ns);
}

// Over NVLink where both have it, else over the slower one's bus.
uint64_t PeerCopyNs(const Profile& from, const Profile& to, uint64_t bytes) {
  const uint64_t bus = std::max(HostCopyNs(from, bytes), HostCopyNs(to, bytes));
  const double links = std::min(static_cast<double>(from.nvlink_links) * from.nvlink_mb_s,
                                static_cast<double>(to.nvlink_links) * to.nvlink_mb_s);
  if (links == 0) return bus;
  const double ns = static_cast<double>(bytes) * 1e3 / links;
  return kDeviceCopyStartNs + static_cast<uint64_t>(ns);
}

}  // namespace simgpu
