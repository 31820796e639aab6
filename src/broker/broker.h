// The broker: every slice of this node, the socket guests ask at, and the thread that takes back
// what the dead held.
//
// Guests connect to a SEQPACKET socket and ask as wire/messages.h says. Who asks comes from the
// kernel alone: the peer's pid (and pidfd where the kernel gives one), then its cgroup or ancestry.
// The node makes slices and changes limits through the methods, which are thread-safe and do not
// wait for guests. State is pages in the run folder plus a table in memory; the node's own records
// say what to adopt after a restart. The destructor stops serving and leaves pages and processes as
// they are.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "broker/membership.h"
#include "broker/slice_ledger.h"
#include "broker/slice_pages.h"
#include "broker/turns.h"
#include "os/clock.h"
#include "os/files.h"

namespace tessera::broker {

// Bounds. Reaching one of the first three closes the newest connection after a kStatusFull reply
// and is counted.
inline constexpr std::size_t kConnectionsMax = 4096;
inline constexpr std::size_t kConnectionsPerSliceMax = 2 * wire::kProcessesMax;
inline constexpr std::size_t kStrangerConnectionsMax = 128;  // peers that belong to no slice
inline constexpr std::size_t kSlicesMax = 1024;
// A slice that asks more often than this is read again in the next window; its requests wait in its
// sockets.
inline constexpr std::uint32_t kRequestsPerWindowMax = 200;
inline constexpr std::int64_t kWindowNanos = 100'000'000;
// While the node is starting something (Announce), a stranger's attach waits this long to become a
// member.
inline constexpr std::int64_t kStrangerWaitNanos = 1'500'000'000;
// Processes without a pidfd and damaged pages are looked for this often.
inline constexpr std::int64_t kCheckNanos = 1'000'000'000;

struct BrokerCounters {
  std::uint64_t attached = 0;
  std::uint64_t strangers = 0;            // attaches answered kStatusNoSlice
  std::uint64_t malformed = 0;            // datagrams answered kStatusVersion
  std::uint64_t refused_connections = 0;  // by one of the bounds
  std::uint64_t recounts = 0;             // finished, over all slices that exist
  std::uint64_t unsettled = 0;  // given up for the moment because a living process did not settle
  std::uint64_t nonsense = 0;   // slot values above the ceiling seen while counting
  std::uint64_t damaged = 0;    // slices closed because a tenant resized its usage page
};

class Broker {
 public:
  // What the driver holds for a process on a card; nullopt when nobody can tell. Called without any
  // lock held.
  using Settle =
      std::function<std::optional<std::uint64_t>(const std::string& card_uuid, pid_t pid)>;
  struct Options {
    std::string run_folder;   // pages live in <run_folder>/slices
    std::string socket_path;  // empty: no socket
    unsigned socket_mode = 0666;
    Settle settle;                     // empty: every kSettle is answered kStatusUnknown
    os::Files* files = nullptr;        // nullptr: the machine's
    const os::Clock* clock = nullptr;  // nullptr: the machine's
    Membership::Kernel kernel;
  };
  static Result<std::unique_ptr<Broker>> Start(Options options);
  ~Broker();
  Broker(const Broker&) = delete;
  Broker& operator=(const Broker&) = delete;

  // New pages. kAlreadyExists when the slice is there, kResourceExhausted naming kSlicesMax.
  Status CreateSlice(const std::string& id, const std::vector<CardLimits>& cards,
                     std::uint64_t host_bytes = 0);
  // Takes over pages of an earlier tesserad and whoever of the given members still lives in them.
  // kNotFound when there are no pages, kDataLoss when they cannot be used.
  Status AdoptSlice(const std::string& id, const std::vector<CardLimits>& cards,
                    const std::vector<std::string>& cgroups,
                    const std::vector<os::ProcessId>& roots, std::uint64_t host_bytes = 0);
  // Same cards in the same order, other numbers. Lowering below what is used is allowed: asks are
  // refused until enough was given back.
  Status SetLimits(const std::string& id, const std::vector<CardLimits>& cards,
                   std::uint64_t host_bytes = 0);
  // Every later reservation and attach is refused; what is held stays counted.
  Status CloseSlice(const std::string& id);
  // Closes the slice and removes its pages and members; an unknown id only has its leftovers
  // removed.
  Status RemoveSlice(const std::string& id);

  Status AddCgroup(const std::string& id, const std::string& path);
  Status AddRoot(const std::string& id, const os::ProcessId& root);
  std::vector<os::ProcessId> LiveRoots(const std::string& id);
  std::optional<std::string> SliceOf(pid_t pid) const;

  // While one exists, a process that belongs to no slice yet is not turned away at once: the node
  // starts it first and learns its pid or cgroup a moment later.
  class Announcement {
   public:
    explicit Announcement(std::shared_ptr<std::atomic<int>> count) : count_(std::move(count)) {
      ++*count_;
    }
    ~Announcement() { --*count_; }
    Announcement(const Announcement&) = delete;
    Announcement& operator=(const Announcement&) = delete;

   private:
    std::shared_ptr<std::atomic<int>> count_;
  };
  std::unique_ptr<Announcement> Announce();

  std::vector<std::string> Slices() const;
  std::vector<std::string> PagesOnDisk();
  Result<std::vector<AttachedProcess>> Processes(const std::string& id) const;
  Result<std::vector<CardUsage>> Usage(const std::string& id) const;
  Result<CardUsage> HostUsage(const std::string& id) const;
  Result<SliceActivity> Activity(const std::string& id) const;
  // Recorded against recomputed and, with `truth`, against the driver (summed over the attached
  // processes; unknown when it cannot tell for one of them).
  Result<std::vector<CardAudit>> Audit(const std::string& id, const Settle& truth = {}) const;
  BrokerCounters counters() const;
  TurnCounters turns() const;
  std::vector<TurnService> TurnsOf(const std::string& id) const;

 private:
  struct Impl;
  explicit Broker(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tessera::broker
