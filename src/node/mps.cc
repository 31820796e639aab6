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
Status MpsDaemons::Tell(const std::string& card, const Daemon& daemon) const {
  std::uint32_t percentage = 1;
  std::uint64_t bytes = 0;
  for (const auto& [slice, own] : MpsPercentages(daemon.parts)) {
    percentage = std::max(percentage, own);
    bytes = std::max(bytes, daemon.parts.at(slice).memory_bytes);
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

Status MpsDaemons::Start(const std::string& card, Daemon* daemon) {
  const std::string folder = FolderOf(card);
  const std::string known = folder + "/daemon";
  daemon->process.reset();
  // One of an earlier tesserad may still serve.
  if (const auto text = files_.Read(known)) {
    std::istringstream words(*text);
    os::ProcessId process;
    if (words >> process.pid >> process.start_time && Lives(process)) daemon->process = process;
  }
  TRY(const std::string control, FindControl());
  if (!daemon->process) {
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
    const auto process = os::IdentifyProcess(pid);
    if (!process) {
      (void)waitpid(pid, nullptr, 0);
      return Error(Code::kUnavailable, control + " -f ended at once; see " + folder + "/log");
    }
    daemon->process = *process;
    const Status saved = files_.WriteAtomically(
        known, std::to_string(process->pid) + " " + std::to_string(process->start_time) + "\n");
    if (!saved) {
      (void)Stop(card, daemon);
      return saved;
    }
  }
  daemon->started = clock_.MonotonicNanos();
  // By the machine's clock: it is another process that is waited for.
  const std::int64_t until = os::RealClock().MonotonicNanos() + kMpsStartNanosMax;
  Status told = Error(Code::kUnavailable, "");
  while (Lives(*daemon->process) && os::RealClock().MonotonicNanos() < until) {
    told = Tell(card, *daemon);
    if (told) break;
    os::RealClock().SleepNanos(kLookNanos);
  }
  if (told) {
    Log(LogLevel::kInfo, "mps.started",
        {{"card", card}, {"pid", static_cast<std::int64_t>(daemon->process->pid)}});
    return {};
  }
  const bool ended = !Lives(*daemon->process);
  (void)Stop(card, daemon);
  return Error(Code::kUnavailable,
               "the MPS daemon of card " + card +
                   (ended ? " ended at once" : " did not answer within kMpsStartNanosMax (10 s)") +
                   "; see " + folder + "/log");
}

Status MpsDaemons::Stop(const std::string& card, Daemon* daemon) {
  if (daemon->process && Lives(*daemon->process)) {
    const os::Clock& clock = os::RealClock();
    const std::int64_t until = clock.MonotonicNanos() + kMpsStopNanosMax;
    const auto ended = [&](std::int64_t when) {
      while (Lives(*daemon->process)) {
        if (clock.MonotonicNanos() >= when) return false;
        clock.SleepNanos(kLookNanos);
      }
      return true;
    };
    const auto quit = Command(card, "quit -t 0\n");
    if (!quit || !ended(until - kMpsStopNanosMax / 2)) {
      kill(daemon->process->pid, SIGTERM);
      if (!ended(until)) {
        kill(daemon->process->pid, SIGKILL);
        if (!ended(until + kMpsStopNanosMax)) {
          return Error(Code::kUnavailable, "the MPS daemon of card " + card + " does not end");
        }
      }
    }
    Log(LogLevel::kInfo, "mps.stopped", {{"card", card}});
  }
  daemon->process.reset();
  return files_.Remove(FolderOf(card) + "/daemon");
}

Status MpsDaemons::Put(const std::string& card, const std::string& slice, const MpsPart& part) {
  const std::lock_guard lock(mutex_);
  const bool fresh = !daemons_.contains(card);
  Daemon& daemon = daemons_[card];
  const auto before = daemon.parts.find(slice);
  const std::optional<MpsPart> old =
      before == daemon.parts.end() ? std::nullopt : std::optional(before->second);
  if (old == part) return {};
  if (!old && daemon.parts.size() >= kMpsSlicesMax) {
    return Error(Code::kResourceExhausted, "kMpsSlicesMax (48) spatial slices on card " + card);
  }
  daemon.parts[slice] = part;
  // One that is dead at the moment hears it when it is started again.
  Status done;
  if (fresh) {
    done = Start(card, &daemon);
  } else if (daemon.process && Lives(*daemon.process)) {
    done = Tell(card, daemon);
  }
  if (done) return {};
  if (fresh) {
    daemons_.erase(card);
  } else if (old) {
    daemon.parts[slice] = *old;
  } else {
    daemon.parts.erase(slice);
  }
  return done;
}

Status MpsDaemons::Remove(const std::string& card, const std::string& slice) {
  const std::lock_guard lock(mutex_);
  const auto at = daemons_.find(card);
  if (at == daemons_.end() || !at->second.parts.contains(slice)) return {};
  Daemon& daemon = at->second;
  if (daemon.parts.size() == 1) {
    TRY_STATUS(Stop(card, &daemon));
    daemons_.erase(at);
    return {};
  }
  daemon.parts.erase(slice);
  // The others may have more from now on; when it cannot be told they keep what they have.
  if (daemon.process && Lives(*daemon.process)) {
    if (const Status told = Tell(card, daemon); !told) {
      Log(LogLevel::kWarn, "mps.not_told", {{"card", card}, {"error", told.error().ToString()}});
    }
  }
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

bool MpsDaemons::Owns(pid_t pid) const {
  const auto parent = os::ParentOf(pid);
  const std::lock_guard lock(mutex_);
  return std::any_of(daemons_.begin(), daemons_.end(), [&](const auto& item) {
    const auto& process = item.second.process;
    return process && (process->pid == pid || (parent && *parent == process->pid));
  });
}

void MpsDaemons::StartOrWait(const std::string& card, Daemon* daemon) {
  const Status started = Start(card, daemon);
  if (started) return;
  daemon->process.reset();
  daemon->backoff = std::clamp(2 * daemon->backoff, kMpsBackoffNanosMin, kMpsBackoffNanosMax);
  daemon->next_start = clock_.MonotonicNanos() + daemon->backoff;
  Log(LogLevel::kError, "mps.not_started", {{"card", card}, {"error", started.error().ToString()}});
}

void MpsDaemons::Adopt(const std::string& card, const std::string& slice, const MpsPart& part) {
  const std::lock_guard lock(mutex_);
  Daemon& daemon = daemons_[card];
  daemon.parts[slice] = part;
  if (!daemon.process) {
    StartOrWait(card, &daemon);
  } else if (const Status told = Tell(card, daemon); !told) {
    Log(LogLevel::kWarn, "mps.not_told", {{"card", card}, {"error", told.error().ToString()}});
  }
}

void MpsDaemons::Tick() {
  const std::lock_guard lock(mutex_);
  const std::int64_t now = clock_.MonotonicNanos();
  for (auto& [card, daemon] : daemons_) {
    if (daemon.process && Lives(*daemon.process)) {
      if (now - daemon.started > kMpsBackoffNanosMax) daemon.backoff = 0;
      continue;
    }
    if (daemon.process) {
      daemon.process.reset();
      daemon.backoff = std::clamp(2 * daemon.backoff, kMpsBackoffNanosMin, kMpsBackoffNanosMax);
      daemon.next_start = now + daemon.backoff;
      Log(LogLevel::kError, "mps.died",
          {{"card", card},
           {"again_in_seconds", daemon.backoff / 1'000'000'000},
           {"means", "processes under way keep their server; new ones are no clients until then"}});
    }
    if (now < daemon.next_start) continue;
    ++daemon.restarts;
    StartOrWait(card, &daemon);
  }
}

std::vector<MpsDaemons::View> MpsDaemons::Daemons() const {
  const std::lock_guard lock(mutex_);
  std::vector<View> views;
  for (const auto& [card, daemon] : daemons_) {
    views.push_back(
        {card, daemon.parts.size(), daemon.process && Lives(*daemon.process), daemon.restarts});
  }
  return views;
}

}  // namespace tessera::node
