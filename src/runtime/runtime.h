// Runs instances on this machine: starts a workload contained (as root) or as a supervised process
// tree (without), executes further commands inside it, keeps a bounded log, and finds everything
// again after a restart.
//
// Every instance has a folder `<options.folder>/<id>/` with its records and one supervisor process
// (`tessera-init`) that outlives the caller: it owns the log pipe, starts the program, waits for it
// and writes the exit record. The supervisor holds a lock on `<id>/lock` for as long as it lives,
// so "is it running?" has one answer, whoever asks.
//
// Thread-safe. One Runtime per folder at a time (a second one is refused by Create). The destructor
// stops nothing: instances go on without their daemon and Create() of the next one adopts them.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "os/fd.h"
#include "os/process.h"
#include "runtime/limits.h"
#include "runtime/runtime_paths.h"
#include "runtime/workload.h"

namespace tessera::runtime {

// A folder, file, device node or socket of the machine made visible inside a contained instance.
struct Bind {
  std::string source;  // absolute path on the machine; must exist
  std::string target;  // absolute path inside; empty: same as source
  bool writable = false;
  bool optional = false;  // a source that does not exist is left out instead of refused
};

struct Options {
  std::string folder;        // instances live here; created (mode 0711) when missing
  std::string guest_folder;  // the folder that holds guest.sock and nothing a tenant must not see
  std::string
      guest_library;  // libtessera.so on this machine; empty: no library is loaded into instances
  std::string init_program;               // empty: "tessera-init" beside the running program
  bool contain = true;                    // false: process trees only, even as root
  std::string cgroup_parent = "tessera";  // leaf of an instance: <cgroup_parent>/<id>
  uid_t uid_first =
      700'000;  // contained instances run under one uid (and gid) each from this range
  std::uint32_t uid_count = 10'000;
  std::uint32_t instances_max = 512;  // folders kept, ended ones included
  std::uint32_t tasks_max = 4'096;    // processes and threads of one contained instance
  std::uint64_t log_bytes_max =
      4 << 20;  // newest bytes kept of one instance's output (at least half of it)
};

struct Spec {
  std::string id;  // 1 to kInstanceIdMax of a-z A-Z 0-9 . _ -, not starting with '.' or '-'
  std::uint64_t generation = 0;  // carried through to Report
  Workload workload;
  std::vector<Bind> binds;  // node's: device nodes, simulated devices' state, libraries
  std::vector<std::string>
      environment;  // node's; wins over the workload's. LD_LIBRARY_PATH goes in front of it
};

enum class State { kRunning, kEnded };

struct Report {
  std::string id;
  std::uint64_t generation = 0;
  State state = State::kRunning;
  bool contained = false;
  std::string why_not_contained;
  std::string cgroup;  // path in the unified hierarchy as /proc/PID/cgroup prints it; empty when
                       // not contained
  uid_t uid = 0;       // of the instance's processes
  os::ProcessId
      supervisor;      // outside; ancestor of every process of an instance that is not contained
  os::ProcessId main;  // the workload's first process, in this machine's pid namespace
  // Limits that were asked for and could not be set on this machine, one sentence each ("cpu:
  // ...").
  std::vector<std::string> unenforced;
  std::int64_t started_wall_micros = 0;
  // kEnded from here on.
  int exit_code =
      0;  // 128 + signal when killed by one, 127 when the program was not found, 126 not executable
  int signal = 0;              // 0: ended by itself
  bool out_of_memory = false;  // the kernel killed in this instance because of ram_bytes
  // The supervisor died with the instance (machine crash, kill -9): exit_code is 137 and
  // ended_wall_micros is its last heartbeat, at most kHeartbeatMillis before the end.
  bool lost = false;
  std::int64_t ended_wall_micros = 0;
};

struct ExecOutcome {
  int exit_code = 0;   // as Report::exit_code; 124 when timed_out
  std::string output;  // stdout and stderr in order, at most kExecOutputBytesMax
  bool truncated = false;
  bool timed_out = false;
};

struct LogChunk {
  std::uint64_t offset =
      0;  // of bytes[0] in all that was ever written; above the asked one when truncated
  std::uint64_t next_offset = 0;  // ask with this to go on
  std::uint64_t end_offset = 0;   // written so far
  bool truncated = false;         // bytes between the asked offset and `offset` are no longer kept
  std::string bytes;
};

class Runtime {
 public:
  // Looks at the machine (root? namespaces? cgroups?), adopts what runs in options.folder and
  // settles what a crash left half-started there.
  static Result<std::unique_ptr<Runtime>> Create(Options options);
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  // Whether instances started now are contained; if not, why, for people.
  bool contained() const { return contained_; }
  const std::string& why_not_contained() const { return why_not_contained_; }

  // kAlreadyExists when the id has a folder (Inspect tells its generation and state). Bad input is
  // refused with the field ("workload.argv", "binds[0].source") before anything is made. A program
  // that cannot be executed is not an error of Start: the instance ends with 127 or 126 and a line
  // in its log, as under a shell.
  Result<Report> Start(const Spec& spec);
  Result<Report> Inspect(const std::string& id);
  // SIGTERM to the main process, SIGKILL to the whole tree after the grace; waits for the end
  // (bounded by kKillWaitMillis after the kill). An ended instance is left alone and reported.
  Result<Report> Stop(const std::string& id, int grace_millis);
  // Waits until the instance has ended; kDeadlineExceeded when it has not within the time.
  Result<Report> Wait(const std::string& id, int timeout_millis);
  // A descriptor that polls readable when the instance's supervisor has ended; kFailedPrecondition
  // after the end.
  Result<os::Fd> WatchEnd(const std::string& id);
  // Runs a command inside: same namespaces, cgroup, uid, environment and library. At most kExecsMax
  // at a time.
  Result<ExecOutcome> Exec(const std::string& id, const std::vector<std::string>& argv,
                           const std::string& stdin_bytes, int timeout_millis);
  // The same on the caller's own stdin, stdout and stderr; returns the exit code. timeout_millis <
  // 0: no limit.
  Result<int> ExecWithFds(const std::string& id, const std::vector<std::string>& argv,
                          const std::array<int, 3>& fds, int timeout_millis);
  Result<LogChunk> ReadLog(const std::string& id, std::uint64_t offset, std::size_t bytes_max);
  // Forgets an ended instance (folder, log); kFailedPrecondition while it runs; an unknown id is
  // fine.
  Status Remove(const std::string& id);
  Result<std::vector<Report>> List();

 private:
  struct Machine;
  Runtime();
  std::string FolderOf(const std::string& id) const { return options_.folder + "/" + id; }
  Status Adopt();
  Status Prepare(const Spec& spec, uid_t uid, int folder, int lock);
  Status Launch(const std::string& id, int folder, os::Fd lock);
  Result<uid_t> ClaimFolder(const std::string& id);
  void ReleaseFolder(const std::string& id);
  // Ends what is left of an instance whose supervisor is gone; kNotFound when it had not begun (and
  // is now removed).
  Status Settle(const std::string& id, int folder);
  Status DeleteFolder(const std::string& id);
  Result<os::Fd> SendExec(const std::string& id, const std::vector<std::string>& argv,
                          const std::array<int, 3>& fds);

  Options options_;
  bool contained_ = false;
  std::string why_not_contained_;
  os::Fd folder_lock_;
  std::unique_ptr<Machine> machine_;
  std::mutex mutex_;                   // guards the two below
  std::map<std::string, uid_t> uids_;  // of every instance folder
  std::set<std::string> starting_;     // being made by this process right now
};

}  // namespace tessera::runtime
