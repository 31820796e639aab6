#include "node/mps.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <sstream>

#include "base/log.h"
#include "base/units.h"
#include "os/error.h"

extern char** environ;

namespace tessera::node {
namespace {

constexpr std::uint32_t kPercent = 100;
constexpr char kProgram[] = "nvidia-cuda-mps-control";
constexpr std::int64_t kLookNanos = 10'000'000;

std::uint64_t CeilDiv(std::uint64_t a, std::uint64_t b) { return (a + b - 1) / b; }

// Sizes are told in whole MiB, rounded up: this wall stands behind the ledger's, never before it.
std::string SizeText(std::uint64_t bytes) { return std::to_string(CeilDiv(bytes, kMiB)) + "M"; }

// The environment of the node without what other MPS daemons are told, and with these.
std::vector<std::string> Environment(const std::vector<std::string>& more) {
  std::vector<std::string> all = more;
  for (char** item = environ; *item != nullptr; ++item) {
    const std::string text = *item;
    if (!text.starts_with("CUDA_MPS_") && !text.starts_with("CUDA_VISIBLE_DEVICES=")) {
      all.push_back(text);
    }
  }
  return all;
}

std::vector<char*> Pointers(const std::vector<std::string>& words) {
  std::vector<char*> pointers;
  for (const std::string& word : words) pointers.push_back(const_cast<char*>(word.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

// A program in a session of its own, with a clean signal state. `in` and `out` below 0: /dev/null.
Result<pid_t> Spawn(const std::vector<std::string>& argv, const std::vector<std::string>& variables,
                    int in, int out) {
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  if (in >= 0) {
    posix_spawn_file_actions_adddup2(&files, in, 0);
  } else {
    posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
  }
  for (const int fd : {1, 2}) {
    if (out >= 0) {
      posix_spawn_file_actions_adddup2(&files, out, fd);
    } else {
      posix_spawn_file_actions_addopen(&files, fd, "/dev/null", O_WRONLY, 0);
    }
  }
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none, usual;
  sigemptyset(&none);
  sigemptyset(&usual);
  sigaddset(&usual, SIGPIPE);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &usual);
  posix_spawnattr_setflags(
      &attributes,
      static_cast<short>(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSID));
  pid_t pid = 0;
  const int failed = posix_spawn(&pid, argv[0].c_str(), &files, &attributes, Pointers(argv).data(),
                                 Pointers(variables).data());
  posix_spawn_file_actions_destroy(&files);
  posix_spawnattr_destroy(&attributes);
  if (failed != 0) return os::ErrnoError("posix_spawn", argv[0], failed);
  return pid;
}

// A child of ours that ended is a zombie until somebody asks.
bool Lives(const os::ProcessId& process) {
  (void)waitpid(process.pid, nullptr, WNOHANG);
  return os::IsAlive(process);
}

// Waits for the end of them all.
bool Ended(const std::vector<os::ProcessId>& processes, std::int64_t nanos_max) {
  const os::Clock& clock = os::RealClock();
  const std::int64_t until = clock.MonotonicNanos() + nanos_max;
  while (std::any_of(processes.begin(), processes.end(), Lives)) {
    if (clock.MonotonicNanos() >= until) return false;
    clock.SleepNanos(kLookNanos);
  }
  return true;
}

}  // namespace

std::map<std::string, std::uint32_t> MpsPercentages(const std::map<std::string, MpsPart>& parts) {
  std::map<std::string, std::uint32_t> percentages;
  std::uint64_t capped = 0, weights = 0;
  for (const auto& [slice, part] : parts) {
    if (part.capped) {
      const std::uint64_t own = std::clamp<std::uint64_t>(CeilDiv(part.permille, 10), 1, kPercent);
      percentages[slice] = static_cast<std::uint32_t>(own);
      capped += part.permille;
    } else {
      weights += std::max(part.permille, 1u);
    }
  }
  const std::uint64_t left = capped < 1000 ? 1000 - capped : 0;  // per mille
  for (const auto& [slice, part] : parts) {
    if (part.capped) continue;
    const std::uint64_t own = CeilDiv(left * std::max(part.permille, 1u), weights * 10);
    percentages[slice] = static_cast<std::uint32_t>(std::clamp<std::uint64_t>(own, 1, kPercent));
  }
  return percentages;
}

std::vector<runtime::Bind> MpsBinds(const std::string& pipe_folder, bool simulated) {
  std::vector<runtime::Bind> binds = {
      {.source = pipe_folder, .target = "", .writable = false, .optional = false}};
  if (!simulated) {
    binds.push_back({.source = "/dev/shm", .target = "", .writable = true, .optional = false});
  }
  return binds;
}

MpsDaemons::MpsDaemons(Options options)
    : options_(std::move(options)),
      files_(options_.files != nullptr ? *options_.files : os::PosixFiles()),
      clock_(options_.clock != nullptr ? *options_.clock : os::RealClock()) {
  if (options_.control.empty()) options_.control = kProgram;
}

Result<std::string> MpsDaemons::FindControl() const {
  const std::string& name = options_.control;
  std::string looked;
  if (name.find('/') != std::string::npos) {
    if (access(name.c_str(), X_OK) == 0) return name;
    looked = name;
  } else {
    const char* const path = std::getenv("PATH");
    std::istringstream folders(path != nullptr ? path : "");
    for (std::string folder; std::getline(folders, folder, ':');) {
      if (folder.empty()) continue;
      std::string file = folder + "/" + name;
      if (access(file.c_str(), X_OK) == 0) return file;
      looked += (looked.empty() ? "" : ", ") + std::move(file);
    }
  }
  return Error(Code::kFailedPrecondition,
               "isolation: spatial needs the driver's MPS control program (" +
                   std::string(kProgram) + "), looked for it at " +
                   (looked.empty() ? "no place, PATH is empty" : looked) +
                   "; name it with tesserad --mps-control");
}

Result<std::string> MpsDaemons::Command(const std::string& card, const std::string& lines) const {
  TRY(const std::string control, FindControl());
  int in[2], out[2];
  if (pipe2(in, O_CLOEXEC) != 0) return os::ErrnoError("pipe2", control, errno);
  const os::Fd in_read(in[0]);
  os::Fd in_write(in[1]);
  if (pipe2(out, O_CLOEXEC) != 0) return os::ErrnoError("pipe2", control, errno);
  os::Fd out_read(out[0]), out_write(out[1]);
  TRY(const pid_t pid,
      Spawn({control}, Environment({"CUDA_MPS_PIPE_DIRECTORY=" + PipeFolder(card)}), in_read.get(),
            out_write.get()));
  out_write.Close();
  // Shorter than a pipe holds, so this does not wait.
  const ssize_t written = write(in_write.get(), lines.data(), lines.size());
  in_write.Close();
  std::string said;
  bool late = written != static_cast<ssize_t>(lines.size());
  const std::int64_t until = clock_.MonotonicNanos() + kMpsCommandNanosMax;
  while (!late) {
    const std::int64_t left = until - clock_.MonotonicNanos();
    pollfd wait{out_read.get(), POLLIN, 0};
    if (left <= 0 || poll(&wait, 1, static_cast<int>(left / 1'000'000) + 1) == 0) {
      late = true;
      break;
    }
    char buffer[4096];
    const ssize_t got = read(out_read.get(), buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    if (said.size() < kMpsAnswerBytesMax) said.append(buffer, static_cast<std::size_t>(got));
  }
  if (late) kill(pid, SIGKILL);
  int status = 0;
  waitpid(pid, &status, 0);
  if (late) {
    return Error(Code::kDeadlineExceeded,
                 control + " did not answer within kMpsCommandNanosMax (5 s)");
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    while (!said.empty() && said.back() == '\n') said.pop_back();
    return Error(Code::kUnavailable, control + ": " + (said.empty() ? "failed" : said));
  }
  return said;
}

// What later clients may have at most, whoever they say they are.
Status MpsDaemons::Tell(const std::string& card, const Parts& parts) const {
  std::uint32_t percentage = 1;
  std::uint64_t bytes = 0;
  for (const auto& [slice, own] : MpsPercentages(parts)) {
    percentage = std::max(percentage, own);
    bytes = std::max(bytes, parts.at(slice).memory_bytes);
  }
  const std::string part = " " + std::to_string(percentage) + "\n";
  const std::string limit = " 0 " + SizeText(bytes) + "\n";
  std::string lines =
      "set_default_active_thread_percentage" + part + "set_default_device_pinned_mem_limit" + limit;
  TRY(const std::string servers, Command(card, "get_server_list\n"));
  std::istringstream list(servers);
  for (std::string server; std::getline(list, server);) {
    if (server.empty() || server.find_first_not_of("0123456789") != std::string::npos) continue;
    lines += "set_active_thread_percentage " + server + part;
    lines += "set_device_pinned_mem_limit " + server + limit;
  }
  TRY_STATUS(Command(card, lines));
  return {};
}

// ---- one card's turn ----

class MpsDaemons::Turn {
 public:
  Turn(MpsDaemons* all, std::string card) : all_(*all), card_(std::move(card)) {
    std::unique_lock lock(all_.mutex_);
    all_.turned_.wait(lock, [&] { return !all_.busy_.contains(card_); });
    all_.busy_.insert(card_);
  }
  // One that was taken already.
  Turn(MpsDaemons* all, std::string card, std::adopt_lock_t) : all_(*all), card_(std::move(card)) {}
  ~Turn() {
    {
      const std::lock_guard lock(all_.mutex_);
      all_.busy_.erase(card_);
    }
    all_.turned_.notify_all();
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  MpsDaemons& all_;
  const std::string card_;
};

MpsDaemons::~MpsDaemons() {
  stopping_ = true;
  std::map<std::string, std::thread> starters;
  {
    const std::lock_guard lock(mutex_);
    starters.swap(starters_);
  }
  for (auto& [card, thread] : starters) thread.join();
}

std::optional<os::ProcessId> MpsDaemons::ProcessOf(const std::string& card) const {
  const std::lock_guard lock(mutex_);
  const auto at = daemons_.find(card);
  return at == daemons_.end() ? std::nullopt : at->second.process;
}

void MpsDaemons::SetProcess(const std::string& card, const std::optional<os::ProcessId>& process) {
  const std::lock_guard lock(mutex_);
  Daemon& daemon = daemons_[card];
  daemon.process = process;
  daemon.answered = false;
}

void MpsDaemons::NoteServers(const std::string& card) {
  const auto daemon = ProcessOf(card);
  if (!daemon || !Lives(*daemon)) return;
  std::vector<os::ProcessId> found;
  const std::string tasks = "/proc/" + std::to_string(daemon->pid) + "/task";
  const auto names = os::PosixFiles().List(tasks);
  for (const std::string& task : names ? *names : std::vector<std::string>()) {
    std::istringstream children(
        os::PosixFiles().Read(tasks + "/" + task + "/children").value_or(""));
    for (pid_t pid = 0; children >> pid;) {
      const auto process = os::IdentifyProcess(pid);
      const auto parent = os::ParentOf(pid);
      if (process && parent && *parent == daemon->pid) found.push_back(*process);
    }
  }
  // That the daemon lived until now says that it was the parent, not who came after it.
  if (!Lives(*daemon)) return;
  std::string text;
  {
    const std::lock_guard lock(mutex_);
    const auto at = daemons_.find(card);
    if (at == daemons_.end()) return;
    std::vector<os::ProcessId>& servers = at->second.servers;
    const std::size_t gone =
        std::erase_if(servers, [](const os::ProcessId& server) { return !Lives(server); });
    bool changed = gone > 0;
    for (const os::ProcessId& server : found) {
      if (std::find(servers.begin(), servers.end(), server) != servers.end()) continue;
      if (servers.size() >= kMpsServersMax) {
        Log(LogLevel::kError, "mps.servers", {{"card", card}, {"error", "kMpsServersMax (64)"}});
        break;
      }
      servers.push_back(server);
      changed = true;
    }
    if (!changed) return;
    for (const os::ProcessId& server : servers) {
      text += std::to_string(server.pid) + " " + std::to_string(server.start_time) + "\n";
    }
  }
  if (const Status saved = files_.WriteAtomically(FolderOf(card) + "/servers", text); !saved) {
    Log(LogLevel::kWarn, "mps.servers", {{"card", card}, {"error", saved.error().ToString()}});
  }
}

std::vector<os::ProcessId> MpsDaemons::Recorded(const std::string& card, const char* name) const {
  std::istringstream words(files_.Read(FolderOf(card) + "/" + name).value_or(""));
  std::vector<os::ProcessId> processes;
  for (os::ProcessId one; words >> one.pid >> one.start_time;) {
    if (Lives(one)) processes.push_back(one);
  }
  return processes;
}

Status MpsDaemons::Start(const std::string& card, const Parts& parts) {
  const std::string folder = FolderOf(card);
  const std::string known = folder + "/daemon";
  // One of an earlier tesserad may still serve, and servers of one that does not.
  const std::vector<os::ProcessId> earlier = Recorded(card, "daemon");
  std::optional<os::ProcessId> process;
  if (!earlier.empty()) process = earlier[0];
  {
    const std::vector<os::ProcessId> servers = Recorded(card, "servers");
    const std::lock_guard lock(mutex_);
    Daemon& daemon = daemons_[card];
    daemon.process = process;
    daemon.answered = false;
    if (daemon.servers.empty()) daemon.servers = servers;
  }
  TRY(const std::string control, FindControl());
  if (!process) {
    TRY_STATUS(files_.MakeDirs(PipeFolder(card), 0755));
    TRY_STATUS(files_.MakeDirs(folder + "/log", 0700));
    std::vector<std::string> argv = {control, "-f"};
    // Instances have users of their own, and a server has one user's clients without it.
    if (geteuid() == 0) argv.emplace_back("-multiuser");
    TRY(const pid_t pid, Spawn(argv,
                               Environment({"CUDA_MPS_PIPE_DIRECTORY=" + PipeFolder(card),
                                            "CUDA_MPS_LOG_DIRECTORY=" + folder + "/log",
                                            "CUDA_VISIBLE_DEVICES=" + card}),
                               -1, -1));
    const auto spawned = os::IdentifyProcess(pid);
    if (!spawned) {
      (void)waitpid(pid, nullptr, 0);
      return Error(Code::kUnavailable, control + " -f ended at once; see " + folder + "/log");
    }
    process = *spawned;
    SetProcess(card, process);
    const Status saved = files_.WriteAtomically(
        known, std::to_string(process->pid) + " " + std::to_string(process->start_time) + "\n");
    if (!saved) {
      (void)Stop(card);
      return saved;
    }
  }
  // By the machine's clock: it is another process that is waited for.
  const std::int64_t until = os::RealClock().MonotonicNanos() + kMpsStartNanosMax;
  Status told = Error(Code::kUnavailable, "");
  while (Lives(*process) && os::RealClock().MonotonicNanos() < until) {
    told = Tell(card, parts);
    if (told) break;
    // The next tesserad finds it where it is.
    if (stopping_) return told;
    os::RealClock().SleepNanos(kLookNanos);
  }
  if (told) {
    {
      const std::lock_guard lock(mutex_);
      Daemon& daemon = daemons_[card];
      daemon.answered = true;
      daemon.started = clock_.MonotonicNanos();
    }
    Log(LogLevel::kInfo, "mps.started",
        {{"card", card}, {"pid", static_cast<std::int64_t>(process->pid)}});
    return {};
  }
  const bool ended = !Lives(*process);
  (void)Stop(card);
  return Error(Code::kUnavailable,
               "the MPS daemon of card " + card +
                   (ended ? " ended at once" : " did not answer within kMpsStartNanosMax (10 s)") +
                   "; see " + folder + "/log");
}

// The daemon alone: who runs keeps his server.
Status MpsDaemons::Stop(const std::string& card) {
  NoteServers(card);
  const auto process = ProcessOf(card);
  if (process && Lives(*process)) {
    const auto quit = Command(card, "quit -t 0\n");
    if (!quit || !Ended({*process}, kMpsStopNanosMax / 2)) {
      kill(process->pid, SIGTERM);
      if (!Ended({*process}, kMpsStopNanosMax / 2)) {
        kill(process->pid, SIGKILL);
        if (!Ended({*process}, kMpsStopNanosMax)) {
          return Error(Code::kUnavailable, "the MPS daemon of card " + card + " does not end");
        }
      }
    }
    Log(LogLevel::kInfo, "mps.stopped", {{"card", card}});
  }
  SetProcess(card, std::nullopt);
  return files_.Remove(FolderOf(card) + "/daemon");
}

Status MpsDaemons::StopServers(const std::string& card) {
  std::vector<os::ProcessId> servers;
  {
    const std::lock_guard lock(mutex_);
    servers = daemons_[card].servers;
  }
  for (const int number : {SIGTERM, SIGKILL}) {
    for (const os::ProcessId& server : servers) {
      if (!Lives(server)) continue;
      Log(LogLevel::kInfo, "mps.orphan_ended",
          {{"card", card}, {"pid", static_cast<std::int64_t>(server.pid)}, {"signal", number}});
      kill(server.pid, number);
    }
    if (Ended(servers, kMpsStopNanosMax / 2)) return files_.Remove(FolderOf(card) + "/servers");
  }
  return Error(Code::kUnavailable, "an MPS server of card " + card + " does not end");
}

Status MpsDaemons::Put(const std::string& card, const std::string& slice, const MpsPart& part) {
  const Turn turn(this, card);
  std::unique_lock lock(mutex_);
  const auto at = daemons_.find(card);
  const bool fresh = at == daemons_.end();
  Parts parts = fresh ? Parts() : at->second.parts;
  const auto before = parts.find(slice);
  if (before != parts.end() && before->second == part) return {};
  if (before == parts.end() && parts.size() >= kMpsSlicesMax) {
    return Error(Code::kResourceExhausted, "kMpsSlicesMax (48) spatial slices on card " + card);
  }
  parts[slice] = part;
  lock.unlock();
  // One that is dead at the moment hears it when it is started again.
  Status done;
  if (fresh) {
    done = Start(card, parts);
  } else if (const auto process = ProcessOf(card); process && Lives(*process)) {
    done = Tell(card, parts);
  }
  lock.lock();
  if (done) {
    daemons_[card].parts = std::move(parts);
  } else if (fresh) {
    daemons_.erase(card);
  }
  return done;
}

Status MpsDaemons::Remove(const std::string& card, const std::string& slice) {
  const Turn turn(this, card);
  std::unique_lock lock(mutex_);
  const auto at = daemons_.find(card);
  if (at == daemons_.end() || !at->second.parts.contains(slice)) return {};
  Parts parts = at->second.parts;
  parts.erase(slice);
  lock.unlock();
  if (parts.empty()) {
    TRY_STATUS(Stop(card));
    TRY_STATUS(StopServers(card));
    lock.lock();
    daemons_.erase(card);
    return {};
  }
  // The others may have more from now on; when it cannot be told they keep what they have.
  if (const auto process = ProcessOf(card); process && Lives(*process)) {
    if (const Status told = Tell(card, parts); !told) {
      Log(LogLevel::kWarn, "mps.not_told", {{"card", card}, {"error", told.error().ToString()}});
    }
  }
  lock.lock();
  daemons_[card].parts = std::move(parts);
  return {};
}

std::uint32_t MpsDaemons::Percentage(const std::string& card, const std::string& slice) const {
  const std::lock_guard lock(mutex_);
  const auto at = daemons_.find(card);
  if (at == daemons_.end() || !at->second.parts.contains(slice)) return 0;
  return MpsPercentages(at->second.parts).at(slice);
}

std::vector<std::string> MpsDaemons::Variables(const std::string& card,
                                               const std::string& slice) const {
  const std::lock_guard lock(mutex_);
  const auto at = daemons_.find(card);
  if (at == daemons_.end() || !at->second.parts.contains(slice)) return {};
  const auto& parts = at->second.parts;
  return {"CUDA_MPS_PIPE_DIRECTORY=" + PipeFolder(card),
          "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=" + std::to_string(MpsPercentages(parts).at(slice)),
          "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0=" + SizeText(parts.at(slice).memory_bytes)};
}

bool MpsDaemons::Owns(pid_t pid) {
  const auto parent = os::ParentOf(pid);
  std::string child_of;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [card, daemon] : daemons_) {
      if (daemon.process && daemon.process->pid == pid) return true;
      if (daemon.process && parent && *parent == daemon.process->pid) child_of = card;
      for (const os::ProcessId& server : daemon.servers) {
        if (server.pid == pid && Lives(server)) return true;
      }
    }
  }
  if (child_of.empty()) return false;
  NoteServers(child_of);
  return true;
}

void MpsDaemons::StartOrWait(const std::string& card) {
  Parts parts;
  {
    const std::lock_guard lock(mutex_);
    const auto at = daemons_.find(card);
    if (at == daemons_.end()) return;  // its last slice has gone meanwhile
    parts = at->second.parts;
  }
  const Status started = Start(card, parts);
  if (started || stopping_) return;
  const std::lock_guard lock(mutex_);
  Daemon& daemon = daemons_[card];
  daemon.process.reset();
  daemon.backoff = std::clamp(2 * daemon.backoff, kMpsBackoffNanosMin, kMpsBackoffNanosMax);
  daemon.next_start = clock_.MonotonicNanos() + daemon.backoff;
  Log(LogLevel::kError, "mps.not_started", {{"card", card}, {"error", started.error().ToString()}});
}

void MpsDaemons::StartLater(const std::string& card) {
  std::thread& thread = starters_[card];
  if (thread.joinable()) thread.join();  // it gave its card's turn back, which was its last act
  busy_.insert(card);
  thread = std::thread([this, card] {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    const Turn turn(this, card, std::adopt_lock);
    StartOrWait(card);
  });
}

void MpsDaemons::Adopt(const std::string& card, const std::string& slice, const MpsPart& part) {
  const Turn turn(this, card);
  Parts parts;
  bool there = false;
  {
    const std::lock_guard lock(mutex_);
    Daemon& daemon = daemons_[card];
    daemon.parts[slice] = part;
    parts = daemon.parts;
    there = daemon.process.has_value();
  }
  if (!there) {
    // One that does not live any more is started by Tick: nobody else waits for it.
    if (!Recorded(card, "daemon").empty()) StartOrWait(card);
  } else if (const Status told = Tell(card, parts); !told) {
    Log(LogLevel::kWarn, "mps.not_told", {{"card", card}, {"error", told.error().ToString()}});
  }
}

void MpsDaemons::Tick() {
  std::vector<std::string> living;
  {
    const std::lock_guard lock(mutex_);
    const std::int64_t now = clock_.MonotonicNanos();
    for (auto& [card, daemon] : daemons_) {
      if (busy_.contains(card) || daemon.parts.empty()) continue;
      if (daemon.process && Lives(*daemon.process)) {
        if (now - daemon.started > kMpsBackoffNanosMax) daemon.backoff = 0;
        living.push_back(card);
        continue;
      }
      if (daemon.process) {
        daemon.process.reset();
        daemon.backoff = std::clamp(2 * daemon.backoff, kMpsBackoffNanosMin, kMpsBackoffNanosMax);
        daemon.next_start = now + daemon.backoff;
        Log(LogLevel::kError, "mps.died",
            {{"card", card},
             {"again_in_seconds", daemon.backoff / 1'000'000'000},
             {"means",
              "processes under way keep their server; new ones are no clients until then"}});
      }
      if (now < daemon.next_start) continue;
      ++daemon.restarts;
      StartLater(card);
    }
  }
  for (const std::string& card : living) NoteServers(card);
}

std::vector<MpsDaemons::View> MpsDaemons::Daemons() const {
  const std::lock_guard lock(mutex_);
  std::vector<View> views;
  for (const auto& [card, daemon] : daemons_) {
    views.push_back({card, daemon.parts.size(),
                     daemon.answered && daemon.process && Lives(*daemon.process), daemon.restarts});
  }
  return views;
}

}  // namespace tessera::node
