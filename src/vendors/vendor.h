// What the node asks of a maker's management library: which cards exist, are they well, what is
// used and by whom. One adapter per maker implements it by opening the maker's library at run time;
// FakeVendor (vendors/fake.h) is the test double. Adding a maker touches no other room.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "device/card.h"

namespace tessera::vendors {

// The most cards and processes of one card an adapter reports; more is kResourceExhausted, never a
// cut list.
inline constexpr std::size_t kMaxCards = 64;
inline constexpr std::size_t kMaxProcessesPerCard = 4096;

struct CardHealth {
  std::string card_uuid;
  bool healthy = true;
  std::string reason;  // empty when healthy
};

// What a card says of itself at this moment. A sensor the card lacks is absent, never zero.
struct CardTelemetry {
  std::uint64_t total_bytes = 0;
  std::uint64_t used_bytes = 0;  // by everyone, the driver's own reservation included
  std::optional<Permille> busy;  // share of the sampling window in which some kernel ran
  std::optional<int> temperature_celsius;
  std::optional<std::uint32_t> power_milliwatts;
};

// A process that holds a context on the card.
struct CardProcess {
  pid_t host_pid = 0;  // in the pid namespace of the caller, which is the host's for tesserad
  std::optional<std::uint64_t> bytes;  // absent: the driver does not say (MIG, WDDM)
  bool mps = false;                    // as a client of an MPS server
  bool operator==(const CardProcess&) const = default;
};

// How busy a process kept a card in the driver's last sampling window.
struct ProcessBusy {
  pid_t host_pid = 0;
  Permille busy;  // share of the window in which some kernel of the process ran
  bool operator==(const ProcessBusy&) const = default;
};

// Thread-safe: every call may come from any thread. Discover is called first; the other calls name
// cards by the UUIDs it returned and answer kNotFound for any other.
class Vendor {
 public:
  virtual ~Vendor() = default;
  // "nvidia"; equals device::Card::vendor of its cards.
  virtual std::string_view name() const = 0;
  // The driver's own version text, for people ("580.65.06").
  virtual Result<std::string> DriverVersion() = 0;
  // All cards of this machine in the driver's order. Card::context_bytes is 0 here: measuring needs
  // a context, so the caller decides when to pay for it (MeasureContext).
  virtual Result<std::vector<device::Card>> Discover() = 0;
  // One entry per discovered card, same order.
  virtual Result<std::vector<CardHealth>> Health() = 0;
  virtual Result<CardTelemetry> Telemetry(const std::string& card_uuid) = 0;
  virtual Result<std::vector<CardProcess>> Processes(const std::string& card_uuid) = 0;
  // A process that did nothing is absent. kUnimplemented where the driver does not tell (MIG).
  virtual Result<std::vector<ProcessBusy>> Busy(const std::string& card_uuid) = 0;
  // What one context without any allocation takes on this card, as the driver accounts it to the
  // process that holds it. Starts a short-lived child that makes a context; blocks, at most for the
  // adapter's stated bound.
  virtual Result<std::uint64_t> MeasureContext(const std::string& card_uuid) = 0;
};

struct NvmlOptions {
  // What dlopen gets: a plain name is searched for as usual, a path is taken as it is.
  std::string library = "libnvidia-ml.so.1";
  // The tessera-probe program; empty: beside the running program (/proc/self/exe's folder).
  std::string probe;
  // LD_LIBRARY_PATH for the probe, so that it finds the libcuda.so.1 that belongs to `library`;
  // empty: inherited.
  std::string probe_library_path;
  // MeasureContext gives up after this long (kDeadlineExceeded) and ends the child.
  std::int64_t probe_deadline_millis = 20'000;
};

// Opens and initialises the library. kUnavailable when the machine has no such library or no driver
// behind it (a machine without NVIDIA cards), kFailedPrecondition when the library lacks an entry
// point we need.
Result<std::unique_ptr<Vendor>> OpenNvml(const NvmlOptions& options);

}  // namespace tessera::vendors
