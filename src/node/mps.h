// MPS daemons of this node's cards: one a card, in a folder of its own, while a slice in spatial
// isolation is on the card. Started with the first such slice, watched, started again when it dies,
// stopped with the last. The control program is the driver's own (on simulated cards, simgpu's).
//
// A process is a client of one daemon with the percentage it came with: what a later change of
// weights means holds for processes that start later. Whoever is under way when the daemon dies
// keeps its server and its percentage; processes that start before the new daemon answers are no
// clients, and the audit judges them as processes without a session. A server whose daemon died
// stays ours, across restarts of tesserad too, and goes with the last slice of its card.
//
// Every daemon's servers allow the largest percentage and memory of the card's slices; what is a
// slice's own is said to its processes (Variables), and the guest library says it again from the
// control page, which a tenant cannot write.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"
#include "os/clock.h"
#include "os/files.h"
#include "os/process.h"
#include "runtime/runtime.h"

namespace tessera::node {

// Bounds; reaching one is an error with its name.
// On one card. A server takes 48 client contexts, those of newer drivers 60.
inline constexpr std::size_t kMpsSlicesMax = 48;
inline constexpr std::int64_t kMpsStartNanosMax = 10'000'000'000;   // until a daemon answers
inline constexpr std::int64_t kMpsCommandNanosMax = 5'000'000'000;  // until a command is done
inline constexpr std::int64_t kMpsStopNanosMax = 5'000'000'000;     // from quit to SIGKILL
inline constexpr std::int64_t kMpsBackoffNanosMin = 1'000'000'000;  // doubled with every start
inline constexpr std::int64_t kMpsBackoffNanosMax = 60'000'000'000;
inline constexpr std::size_t kMpsAnswerBytesMax = 64 * 1024;
inline constexpr std::size_t kMpsServersMax =
    64;  // of one card that are known; further ones are not

// What a slice is owed of a card in spatial isolation.
struct MpsPart {
  std::uint32_t permille = 0;      // 1 to 1000
  bool capped = false;             // permille is a hard cap; else a weight
  std::uint64_t memory_bytes = 0;  // of device memory, each process of the slice
  bool operator==(const MpsPart&) const = default;
};

// Active thread percentages, 1 to 100, by slice. A capped one has its per mille; the others share
// what caps leave by weight. Rounded up, so that nobody has none; in sum at most one point a slice
// too much. Pure.
std::map<std::string, std::uint32_t> MpsPercentages(const std::map<std::string, MpsPart>& parts);

// What a contained instance sees of a daemon: its pipe folder, read-only, so that a client connects
// to what is there and removes and makes nothing; and, on a real card, the machine's /dev/shm,
// where NVIDIA's server and its clients meet besides. The simulated one needs none. Pure.
std::vector<runtime::Bind> MpsBinds(const std::string& pipe_folder, bool simulated);

// Thread-safe. Put, Adopt and Remove may take until a daemon answers (kMpsStartNanosMax) and wait
// for one another on one card; nothing waits for another card's daemon, and what only asks waits
// for none. The destructor leaves the daemons running; a later object of the same folder finds
// them.
class MpsDaemons {
 public:
  struct Options {
    std::string control;  // the program; a name without a slash is looked for in PATH
    std::string folder;   // one folder a card below it
    os::Files* files = nullptr;
    const os::Clock* clock = nullptr;
  };
  explicit MpsDaemons(Options options);
  ~MpsDaemons();
  MpsDaemons(const MpsDaemons&) = delete;
  MpsDaemons& operator=(const MpsDaemons&) = delete;

  // Whether there is a control program, so that Put can work.
  bool Offered() const { return FindControl().has_value(); }

  // The slice is on the card with that part, new or changed. Starts the daemon when it is the
  // first. kFailedPrecondition when there is no control program (says where it was looked for),
  // kUnavailable when the daemon does not come up; then the slice is not there.
  Status Put(const std::string& card, const std::string& slice, const MpsPart& part);
  // The same for a slice of an earlier tesserad: it is there in any case, and a daemon that does
  // not live, or does not answer, is started by Tick.
  void Adopt(const std::string& card, const std::string& slice, const MpsPart& part);
  // Stops the daemon when it was the last. What is not there is fine.
  Status Remove(const std::string& card, const std::string& slice);

  // 1 to 100; 0 when the slice is not there.
  std::uint32_t Percentage(const std::string& card, const std::string& slice) const;
  // What a process of the slice is started with.
  std::vector<std::string> Variables(const std::string& card, const std::string& slice) const;
  std::string PipeFolder(const std::string& card) const { return FolderOf(card) + "/pipe"; }
  // Whether the process is a daemon of ours or a server that one of ours has started.
  bool Owns(pid_t pid);

  // Notes which servers there are, and has daemons that died started again, each after its back-off
  // and in a thread of its own.
  void Tick();

  struct View {
    std::string card;
    std::size_t slices = 0;
    bool running = false;
    std::uint64_t restarts = 0;
  };
  std::vector<View> Daemons() const;

 private:
  using Parts = std::map<std::string, MpsPart>;  // by slice
  struct Daemon {
    Parts parts;
    std::optional<os::ProcessId> process;
    bool answered = false;  // that process did, once
    // Those that it or one before it started, as far as they live.
    std::vector<os::ProcessId> servers;
    std::uint64_t restarts = 0;
    std::int64_t started = 0;
    std::int64_t backoff = 0;
    std::int64_t next_start = 0;
  };
  // Held while one card's daemon is started, told something or stopped, and its parts change: the
  // mutex is not.
  class Turn;

  std::string FolderOf(const std::string& card) const { return options_.folder + "/" + card; }
  Result<std::string> FindControl() const;
  Result<std::string> Command(const std::string& card, const std::string& lines) const;
  // These five with the card's turn and without the mutex.
  Status Start(const std::string& card, const Parts& parts);
  void StartOrWait(const std::string& card);
  Status Stop(const std::string& card);
  Status StopServers(const std::string& card);
  Status Tell(const std::string& card, const Parts& parts) const;
  // Has StartOrWait called in a thread. With the mutex.
  void StartLater(const std::string& card);

  std::optional<os::ProcessId> ProcessOf(const std::string& card) const;
  void SetProcess(const std::string& card, const std::optional<os::ProcessId>& process);
  // What a file of the card's folder names and still lives.
  std::vector<os::ProcessId> Recorded(const std::string& card, const char* name) const;
  // Notes servers that the living daemon has started, in memory and on disk.
  void NoteServers(const std::string& card);

  Options options_;
  os::Files& files_;
  const os::Clock& clock_;
  mutable std::mutex mutex_;
  std::condition_variable turned_;
  std::set<std::string> busy_;                   // cards whose turn somebody has
  std::map<std::string, Daemon> daemons_;        // by card
  std::map<std::string, std::thread> starters_;  // by card; at most one each
  std::atomic<bool> stopping_{false};
};

}  // namespace tessera::node
