#include "runtime/runtime.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <functional>

#include "base/log.h"
#include "os/clock.h"
#include "os/error.h"
#include "os/files.h"
#include "runtime/cgroups.h"
#include "runtime/log_files.h"
#include "runtime/plan.h"
#include "runtime/record.h"

namespace tessera::runtime {
namespace {

constexpr char kGonePrefix[] = ".gone-";    // a folder on its way out
constexpr int kGraceMillisMax = 600'000;    // Stop
constexpr int kWaitMillisMax = 86'400'000;  // Wait
constexpr int kFolderLockWaitMillis = 3'000;
constexpr int kUnlockWaitMillis = 5'000;  // between the exit record and the supervisor's own end
constexpr std::int64_t kPauseNanos = 3'000'000;
constexpr int kSpawnFdMin =
    16;  // descriptors handed to tessera-init are moved above its fixed numbers first

// Tries something every few milliseconds until it holds or the time is over.
bool Eventually(int millis, const std::function<bool()>& holds) {
  const os::Clock& clock = os::RealClock();
  const std::int64_t until = clock.MonotonicNanos() + std::int64_t{millis} * 1'000'000;
  while (!holds()) {
    if (clock.MonotonicNanos() >= until) return false;
    clock.SleepNanos(kPauseNanos);
  }
  return true;
}

// Whether a supervisor lives: it holds the lock for as long as it does.
bool IsHeld(int folder) {
  const os::Fd lock(openat(folder, kLockFile, O_RDONLY | O_CLOEXEC));
  return lock && flock(lock.get(), LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
}

bool Exists(int folder, const char* name) { return faccessat(folder, name, F_OK, 0) == 0; }

// Starts a program with an empty environment and the given descriptors as 1 (probe) or 3, 4, 5
// (supervise), and waits for that process, which leaves the supervisor behind on its own.
Result<int> SpawnAndWait(const std::string& program, const char* verb,
                         const std::vector<std::pair<int, int>>& fds) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  for (const auto& [from, to] : fds) posix_spawn_file_actions_adddup2(&actions, from, to);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  char* const argv[] = {const_cast<char*>("tessera-init"), const_cast<char*>(verb), nullptr};
  char* const environment[] = {nullptr};
  pid_t pid = 0;
  const int failed = posix_spawn(&pid, program.c_str(), &actions, &attributes, argv, environment);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) return os::ErrnoError("start", program, failed);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0) {
    if (errno == EINTR) continue;
    if (errno == ECHILD) return 0;  // the daemon ignores SIGCHLD: the kernel has reaped it
    return os::ErrnoError("wait for", program, errno);
  }
  return status;
}

Result<std::string> ProbeWith(const std::string& program) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return os::ErrnoError("pipe", program, errno);
  const os::Fd reader(fds[0]);
  os::Fd writer(fds[1]);
  TRY(const int status, SpawnAndWait(program, "probe", {{writer.get(), 1}}));
  writer.Close();
  char text[512];
  const ssize_t n = read(reader.get(), text, sizeof text);
  if (status != 0 || n <= 0) return Error(Code::kInternal, program + " probe did not answer");
  return std::string(text, static_cast<std::size_t>(n) - 1);
}

std::string RandomToken() {
  unsigned char bytes[16] = {};
  [[maybe_unused]] const ssize_t n = getrandom(bytes, sizeof bytes, 0);
  static constexpr char kHex[] = "0123456789abcdef";
  std::string text;
  for (const unsigned char byte : bytes) {
    text += kHex[byte >> 4];
    text += kHex[byte & 15];
  }
  return text;
}

// Kills what carries the token in its environment: orphans of a killed supervisor without a cgroup.
Status KillByToken(const std::string& token) {
  if (token.empty()) return {};
  const std::string mark = std::string(kRunTokenVariable) + "=" + token;
  os::Files& files = os::PosixFiles();
  const bool gone = Eventually(kKillWaitMillis, [&] {
    bool found = false;
    for (const std::string& name : files.List("/proc").value_or({})) {
      if (name.find_first_not_of("0123456789") != std::string::npos) continue;
      const auto environment = files.Read("/proc/" + name + "/environ");
      if (!environment || environment->find(mark) == std::string::npos) continue;
      found = true;
      kill(static_cast<pid_t>(std::stol(name)), SIGKILL);
    }
    return !found;
  });
  if (gone) return {};
  return Error(Code::kDeadlineExceeded,
               "orphaned processes still live kKillWaitMillis after the kill");
}

Status DirAt(int folder, const char* name, unsigned mode, uid_t owner) {
  if (mkdirat(folder, name, 0700) != 0) return os::ErrnoError("mkdir", name, errno);
  if (fchownat(folder, name, owner, owner, AT_SYMLINK_NOFOLLOW) != 0)
    return os::ErrnoError("chown", name, errno);
  if (fchmodat(folder, name, mode, 0) != 0) return os::ErrnoError("chmod", name, errno);
  return {};
}

os::Fd MoveUp(int fd) { return os::Fd(fcntl(fd, F_DUPFD_CLOEXEC, kSpawnFdMin)); }

Result<os::Fd> OpenFolder(const std::string& path, const std::string& id) {
  os::Fd folder(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  if (folder) return folder;
  if (errno == ENOENT) return Error(Code::kNotFound, "no instance " + id);
  return os::ErrnoError("open", path, errno);
}

// The report of an instance that has a start record.
Report ReportOf(const Record& plan, const Record& started, const Record* exit) {
  Report report;
  report.id = plan.Get("id");
  report.generation = static_cast<std::uint64_t>(plan.GetInt("generation"));
  report.contained = plan.GetInt("contained") != 0;
  report.why_not_contained = plan.Get("why_not_contained");
  report.cgroup = plan.Get("cgroup_path");
  report.uid = static_cast<uid_t>(plan.GetInt("uid"));
  report.supervisor = {static_cast<pid_t>(started.GetInt("supervisor_pid")),
                       static_cast<std::uint64_t>(started.GetInt("supervisor_start"))};
  report.main = {static_cast<pid_t>(started.GetInt("main_pid")),
                 static_cast<std::uint64_t>(started.GetInt("main_start"))};
  report.unenforced = plan.All("unenforced");
  report.started_wall_micros = started.GetInt("started_micros");
  if (exit == nullptr) return report;
  report.state = State::kEnded;
  const int status = static_cast<int>(exit->GetInt("status"));
  report.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  report.exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  report.out_of_memory = exit->GetInt("out_of_memory") != 0;
  report.lost = exit->GetInt("lost") != 0;
  report.ended_wall_micros = exit->GetInt("ended_micros");
  return report;
}

}  // namespace

namespace {

// Makes the v2 leaf, or refuses when another runtime's instance of that name lives in it.
Status ClaimCgroup(const std::string& leaf) {
  // An empty one is what a crash between this and the plan left behind.
  rmdir(leaf.c_str());
  if (mkdir(leaf.c_str(), 0755) == 0) return {};
  if (errno != EEXIST) return os::ErrnoError("mkdir", leaf, errno);
  return Error(Code::kAlreadyExists,
               "the cgroup " + leaf + " is in use; give runtimes a cgroup_parent each");
}

}  // namespace

struct Runtime::Machine {
  Cgroups cgroups;
};

Runtime::Runtime() = default;
Runtime::~Runtime() = default;

Result<std::unique_ptr<Runtime>> Runtime::Create(Options options) {
  TRY_STATUS(CheckOptions(options));
  os::Files& files = os::PosixFiles();
  if (options.init_program.empty()) {
    std::error_code failed;
    const auto self = std::filesystem::read_symlink("/proc/self/exe", failed);
    options.init_program = (self.parent_path() / "tessera-init").string();
  }
  if (access(options.init_program.c_str(), X_OK) != 0) {
    return Error::Field("init_program", options.init_program + " is not an executable file");
  }
  if (!files.Exists(options.folder)) {
    if (auto made = files.MakeDirs(options.folder, 0711); !made) {
      return Error::Field("folder", made.error().message());
    }
  }
  std::unique_ptr<Runtime> runtime(new Runtime);
  const std::string lock_path = options.folder + "/.lock";
  runtime->folder_lock_ = os::Fd(open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!runtime->folder_lock_) return os::ErrnoError("open", lock_path, errno);
  // A daemon that was killed while starting a supervisor may leave a copy of its descriptor for a
  // moment.
  if (!Eventually(kFolderLockWaitMillis,
                  [&] { return flock(runtime->folder_lock_.get(), LOCK_EX | LOCK_NB) == 0; })) {
    return Error(Code::kFailedPrecondition, options.folder + " is in use by another runtime");
  }
  if (!options.contain) {
    runtime->why_not_contained_ = "containment is switched off";
  } else if (geteuid() != 0) {
    runtime->why_not_contained_ = "not root";
  } else {
    TRY(runtime->why_not_contained_, ProbeWith(options.init_program));
    if (runtime->why_not_contained_.empty()) {
      auto cgroups = Cgroups::Detect(options.cgroup_parent);
      if (cgroups) {
        runtime->machine_ = std::make_unique<Machine>(Machine{*std::move(cgroups)});
        runtime->contained_ = true;
      } else {
        runtime->why_not_contained_ = cgroups.error().message();
      }
    }
  }
  runtime->options_ = std::move(options);
  TRY_STATUS(runtime->Adopt());
  return runtime;
}

Status Runtime::Adopt() {
  TRY(const auto names, os::PosixFiles().List(options_.folder));
  for (const std::string& name : names) {
    if (name.starts_with(kGonePrefix)) {
      std::error_code failed;
      std::filesystem::remove_all(FolderOf(name), failed);
      continue;
    }
    if (!CheckInstanceId(name)) continue;
    TRY(const os::Fd folder, OpenFolder(FolderOf(name), name));
    uids_[name] = 0;
    // A supervisor whose daemon died in Start goes on by itself; what it decides is known within
    // this time.
    Eventually(kStartWaitMillis, [&] {
      return !IsHeld(folder.get()) || Exists(folder.get(), kStartedFile) ||
             Exists(folder.get(), kExitFile);
    });
    if (!IsHeld(folder.get()) && !Exists(folder.get(), kExitFile)) {
      const Status settled = Settle(name, folder.get());
      if (!settled && settled.error().code() == Code::kNotFound) {
        uids_.erase(name);
        continue;
      }
      if (!settled) return settled.error().Wrap("settling instance " + name);
    }
    Record plan;
    if (ReadRecordAt(folder.get(), kPlanFile, &plan))
      uids_[name] = static_cast<uid_t>(plan.GetInt("uid"));
  }
  return {};
}

Status Runtime::Settle(const std::string& id, int folder) {
  Record plan;
  const bool planned = ReadRecordAt(folder, kPlanFile, &plan);
  if (planned) {
    // Killing by name is safe: the leaf and the token are this instance's alone.
    TRY_STATUS(KillCgroup(plan.Get("cgroup_leaf"), kKillWaitMillis));
    TRY_STATUS(KillByToken(plan.Get("run_token")));
    TRY_STATUS(RemoveCgroups(plan.All("cgroup_folder")));
  }
  if (!planned && machine_) {
    // Empty leaves only: without a plan nobody says that what runs in them is ours.
    for (const std::string& leaf : machine_->cgroups.LeafOf(id, true, true).folders)
      rmdir(leaf.c_str());
  }
  Record started;
  if (!planned || !ReadRecordAt(folder, kStartedFile, &started)) {
    TRY_STATUS(DeleteFolder(id));
    return Error(Code::kNotFound, "instance " + id + " had not begun");
  }
  struct stat beat{};
  if (fstatat(folder, kLockFile, &beat, 0) != 0) return os::ErrnoError("stat", kLockFile, errno);
  const std::int64_t last =
      std::int64_t{beat.st_mtim.tv_sec} * 1'000'000 + beat.st_mtim.tv_nsec / 1000;
  Record exit;
  exit.AddInt("status", SIGKILL);
  exit.AddInt("lost", 1);
  exit.AddInt("ended_micros", std::max(last, started.GetInt("started_micros")));
  if (!WriteFileAt(folder, kExitFile, exit.Encode()))
    return os::ErrnoError("write", kExitFile, errno);
  Log(LogLevel::kWarn, "instance.lost", {{"instance", id}});
  return {};
}

Status Runtime::DeleteFolder(const std::string& id) {
  const std::string path = FolderOf(id);
  TRY(const std::string mounts, os::PosixFiles().Read("/proc/self/mountinfo"));
  if (mounts.find(" " + path + "/") != std::string::npos) {
    return Error(Code::kInternal, "something is mounted below " + path + "; it is not deleted");
  }
  // Renamed first: a crash while deleting leaves nothing that looks like an instance.
  const std::string gone = FolderOf(kGonePrefix + RandomToken());
  if (rename(path.c_str(), gone.c_str()) != 0) {
    if (errno == ENOENT) return {};
    return os::ErrnoError("rename", path, errno);
  }
  std::error_code failed;
  std::filesystem::remove_all(gone, failed);
  if (failed) return Error(Code::kInternal, "deleting " + gone + ": " + failed.message());
  return {};
}

Result<uid_t> Runtime::ClaimFolder(const std::string& id) {
  const std::lock_guard<std::mutex> guard(mutex_);
  const std::string path = FolderOf(id);
  if (uids_.contains(id)) return Error(Code::kAlreadyExists, "instance " + id + " exists");
  if (uids_.size() >= options_.instances_max) {
    return Error(Code::kResourceExhausted,
                 "instances_max is reached: " + std::to_string(options_.instances_max) +
                     " instances are kept here");
  }
  uid_t uid = geteuid();
  if (contained_) {
    // Runtimes of different folders begin at different places of the range.
    std::set<uid_t> taken;
    for (const auto& [name, number] : uids_) taken.insert(number);
    const std::size_t begin =
        std::hash<std::string>{}(options_.folder + "/" + id) % options_.uid_count;
    std::uint32_t i = 0;
    for (; i < options_.uid_count; ++i) {
      uid = options_.uid_first + static_cast<uid_t>((begin + i) % options_.uid_count);
      if (!taken.contains(uid)) break;
    }
    if (i == options_.uid_count) {
      return Error(Code::kResourceExhausted,
                   "uid_count is reached: every uid of the range is in use");
    }
  }
  if (mkdir(path.c_str(), 0700) != 0) {
    if (errno == EEXIST) return Error(Code::kAlreadyExists, "instance " + id + " exists");
    return os::ErrnoError("mkdir", path, errno);
  }
  uids_[id] = uid;
  starting_.insert(id);
  return uid;
}

void Runtime::ReleaseFolder(const std::string& id) {
  const std::lock_guard<std::mutex> guard(mutex_);
  uids_.erase(id);
  starting_.erase(id);
}

Status Runtime::Prepare(const Spec& spec, uid_t uid, int folder, int lock) {
  if (flock(lock, LOCK_EX | LOCK_NB) != 0) return os::ErrnoError("lock", FolderOf(spec.id), errno);
  PlanContext context;
  context.contained = contained_;
  context.why_not_contained = why_not_contained_;
  context.uid = uid;
  context.folder = FolderOf(spec.id);
  const Workload& workload = spec.workload;
  if (contained_) {
    context.leaf =
        machine_->cgroups.LeafOf(spec.id, workload.cpu_millis > 0, workload.ram_bytes > 0);
    context.supervisors_procs = machine_->cgroups.supervisors_procs();
  } else {
    context.run_token = RandomToken();
    if (workload.cpu_millis > 0) context.unenforced.push_back("cpu: the instance is not contained");
    if (workload.ram_bytes > 0) context.unenforced.push_back("ram: the instance is not contained");
  }
  const auto write_plan = [&]() -> Status {
    if (WriteFileAt(folder, kPlanFile, MakePlan(options_, spec, context).Encode())) return {};
    return os::ErrnoError("write", kPlanFile, errno);
  };
  // The leaf is taken before the plan names it: what a plan names is killed without asking when its
  // supervisor is gone, so it must be this instance's alone.
  if (contained_) TRY_STATUS(ClaimCgroup(context.leaf.unified));
  TRY_STATUS(write_plan());
  TRY_STATUS(DirAt(folder, "home", 0700, uid));
  if (!contained_) return {};
  TRY_STATUS(DirAt(folder, "tmp", 01777, 0));
  TRY_STATUS(DirAt(folder, "var_tmp", 01777, 0));
  for (const char* name : {"root", "upper", "work"}) TRY_STATUS(DirAt(folder, name, 0755, 0));
  TRY(context.unenforced,
      machine_->cgroups.Make(context.leaf, spec.id, workload.cpu_millis, workload.ram_bytes));
  if (!context.unenforced.empty()) TRY_STATUS(write_plan());
  return {};
}

Status Runtime::Launch(const std::string& id, int folder, os::Fd lock) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return os::ErrnoError("pipe", id, errno);
  const os::Fd reader(fds[0]);
  os::Fd writer = MoveUp(fds[1]);
  close(fds[1]);
  const os::Fd high_folder = MoveUp(folder);
  os::Fd high_lock = MoveUp(lock.get());
  if (!writer || !high_folder || !high_lock) return os::ErrnoError("dup", id, errno);
  TRY(const int status,
      SpawnAndWait(options_.init_program, "supervise",
                   {{high_folder.get(), 3}, {high_lock.get(), 4}, {writer.get(), 5}}));
  if (status != 0) return Error(Code::kInternal, "the supervisor could not be started");
  writer.Close();
  high_lock.Close();
  lock.Close();
  std::string answer;
  const os::Clock& clock = os::RealClock();
  const std::int64_t until = clock.MonotonicNanos() + std::int64_t{kStartWaitMillis} * 1'000'000;
  while (true) {
    const std::int64_t left = until - clock.MonotonicNanos();
    pollfd waiting{reader.get(), POLLIN, 0};
    const int ready = left <= 0 ? 0 : poll(&waiting, 1, static_cast<int>(left / 1'000'000) + 1);
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) {
      return Error(Code::kDeadlineExceeded,
                   "the supervisor did not answer within kStartWaitMillis (" +
                       std::to_string(kStartWaitMillis) + " ms)");
    }
    char buffer[4096];
    const ssize_t n = read(reader.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    answer.append(buffer, static_cast<std::size_t>(n));
  }
  if (answer == "O") return {};
  if (answer.empty() || answer[0] != 'E')
    return Error(Code::kInternal, "the supervisor ended without an answer");
  const std::size_t stop = answer.find('\0');
  const std::string field = answer.substr(1, stop - 1);
  const std::string text = stop == std::string::npos ? "" : answer.substr(stop + 1);
  if (!field.empty()) return Error::Field(field, text);
  return Error(Code::kInternal, text);
}

Result<Report> Runtime::Start(const Spec& spec) {
  TRY_STATUS(CheckSpec(spec, contained_));
  TRY(const uid_t uid, ClaimFolder(spec.id));
  const auto give_up = [&](const Error& error) {
    // Waits for a supervisor on its way out before taking its folder away; one that hangs is killed
    // through its cgroup or token, and its folder stays for Adopt.
    Status settled;
    if (const auto folder = OpenFolder(FolderOf(spec.id), spec.id)) {
      Record plan;
      ReadRecordAt(folder->get(), kPlanFile, &plan);
      Eventually(kUnlockWaitMillis, [&] { return !IsHeld(folder->get()); });
      unlinkat(folder->get(), kStartedFile, 0);
      settled = Settle(spec.id, folder->get());
    }
    if (!settled && settled.error().code() != Code::kNotFound) {
      Log(LogLevel::kError, "instance.not_settled",
          {{"instance", spec.id}, {"error", settled.error().message()}});
      const std::lock_guard<std::mutex> guard(mutex_);
      starting_.erase(spec.id);
      return error;
    }
    ReleaseFolder(spec.id);
    return error;
  };
  auto folder = OpenFolder(FolderOf(spec.id), spec.id);
  if (!folder) return give_up(folder.error());
  os::Fd lock(openat(folder->get(), kLockFile, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock) return give_up(os::ErrnoError("create", kLockFile, errno));
  if (auto prepared = Prepare(spec, uid, folder->get(), lock.get()); !prepared) {
    lock.Close();
    return give_up(prepared.error().Wrap("starting instance " + spec.id));
  }
  if (auto launched = Launch(spec.id, folder->get(), std::move(lock)); !launched) {
    return give_up(launched.error().Wrap("starting instance " + spec.id));
  }
  {
    const std::lock_guard<std::mutex> guard(mutex_);
    starting_.erase(spec.id);
  }
  return Inspect(spec.id);
}

Result<Report> Runtime::Inspect(const std::string& id) {
  TRY_STATUS(CheckInstanceId(id));
  // Held while looking, so that a folder is not claimed, settled or deleted meanwhile.
  const std::lock_guard<std::mutex> guard(mutex_);
  if (starting_.contains(id))
    return Error(Code::kUnavailable, "instance " + id + " is being started");
  TRY(const os::Fd folder, OpenFolder(FolderOf(id), id));
  Record plan, started, exit;
  for (int attempt = 0; attempt < 2; ++attempt) {
    const bool held = IsHeld(folder.get());
    const bool ended = ReadRecordAt(folder.get(), kExitFile, &exit);
    if (held || ended) {
      if (!ReadRecordAt(folder.get(), kPlanFile, &plan) ||
          !ReadRecordAt(folder.get(), kStartedFile, &started)) {
        return Error(Code::kUnavailable, "instance " + id + " is being started");
      }
      return ReportOf(plan, started, ended ? &exit : nullptr);
    }
    // Neither alive nor ended by the book: its supervisor was killed.
    const Status settled = Settle(id, folder.get());
    if (!settled && settled.error().code() == Code::kNotFound) uids_.erase(id);
    if (!settled) return settled.error();
  }
  return Error(Code::kInternal, "instance " + id + " could not be settled");
}

Result<os::Fd> Runtime::WatchEnd(const std::string& id) {
  TRY(const Report report, Inspect(id));
  const Error ended(Code::kFailedPrecondition, "instance " + id + " has ended");
  if (report.state == State::kEnded) return ended;
  auto watch = os::OpenPidfd(report.supervisor.pid);
  // The pid may be another process's by now; only then does the pair differ.
  if (!watch || !os::IsAlive(report.supervisor)) return ended;
  return watch;
}

Result<Report> Runtime::Wait(const std::string& id, int timeout_millis) {
  if (timeout_millis < 0 || timeout_millis > kWaitMillisMax) {
    return Error::Field("timeout_millis", "expected 0 to " + std::to_string(kWaitMillisMax));
  }
  const os::Clock& clock = os::RealClock();
  const std::int64_t until = clock.MonotonicNanos() + std::int64_t{timeout_millis} * 1'000'000;
  while (true) {
    TRY(Report report, Inspect(id));
    if (report.state == State::kEnded) return report;
    const std::int64_t left = (until - clock.MonotonicNanos()) / 1'000'000;
    if (left <= 0) {
      return Error(Code::kDeadlineExceeded, "instance " + id + " still runs after " +
                                                std::to_string(timeout_millis) + " ms");
    }
    const auto watch = WatchEnd(id);
    if (!watch) continue;  // ended, or just ending: Inspect tells
    pollfd waiting{watch->get(), POLLIN, 0};
    poll(&waiting, 1, static_cast<int>(left));
  }
}

Result<Report> Runtime::Stop(const std::string& id, int grace_millis) {
  if (grace_millis < 0 || grace_millis > kGraceMillisMax) {
    return Error::Field("grace_millis", "expected 0 to " + std::to_string(kGraceMillisMax));
  }
  TRY(const Report report, Inspect(id));
  if (report.state == State::kEnded) return report;
  const auto signal = [](const os::ProcessId& target, int number) {
    const auto process = os::OpenPidfd(target.pid);
    if (process && os::IsAlive(target))
      syscall(SYS_pidfd_send_signal, process->get(), number, nullptr, 0);
  };
  if (grace_millis > 0) {
    signal(report.main, SIGTERM);
    auto ended = Wait(id, grace_millis);
    if (ended || ended.error().code() != Code::kDeadlineExceeded) return ended;
  }
  if (report.contained) {
    TRY(const os::Fd folder, OpenFolder(FolderOf(id), id));
    Record plan;
    if (ReadRecordAt(folder.get(), kPlanFile, &plan)) {
      // A kernel without cgroup.kill says so; the supervisor's own kill of the pid namespace is
      // enough there.
      const auto killed = os::PosixFiles().Poke(plan.Get("cgroup_leaf") + "/cgroup.kill", "1");
      if (!killed)
        Log(LogLevel::kDebug, "instance.cgroup_kill", {{"error", killed.error().message()}});
    }
  }
  signal(report.supervisor, SIGUSR1);
  auto ended = Wait(id, kKillWaitMillis);
  if (!ended) return ended.error().Wrap("after the kill (kKillWaitMillis)");
  return ended;
}

Status Runtime::Remove(const std::string& id) {
  auto report = Inspect(id);
  if (!report && report.error().code() == Code::kNotFound) return {};
  if (!report) return report.error();
  if (report->state == State::kRunning) {
    return Error(Code::kFailedPrecondition, "instance " + id + " is running; stop it first");
  }
  auto folder = OpenFolder(FolderOf(id), id);
  if (!folder) return {};
  // The exit record is written just before the supervisor itself ends.
  if (!Eventually(kUnlockWaitMillis, [&] { return !IsHeld(folder->get()); })) {
    return Error(Code::kDeadlineExceeded,
                 "the supervisor of " + id + " did not end within kUnlockWaitMillis");
  }
  const std::lock_guard<std::mutex> guard(mutex_);
  Record plan;
  if (ReadRecordAt(folder->get(), kPlanFile, &plan))
    TRY_STATUS(RemoveCgroups(plan.All("cgroup_folder")));
  TRY_STATUS(DeleteFolder(id));
  uids_.erase(id);
  return {};
}

Result<std::vector<Report>> Runtime::List() {
  TRY(const auto names, os::PosixFiles().List(options_.folder));
  std::vector<Report> reports;
  for (const std::string& name : names) {
    if (!CheckInstanceId(name)) continue;
    auto report = Inspect(name);
    if (report) {
      reports.push_back(*std::move(report));
    } else if (report.error().code() != Code::kNotFound &&
               report.error().code() != Code::kUnavailable) {
      return report.error();
    }
  }
  return reports;
}

Result<LogChunk> Runtime::ReadLog(const std::string& id, std::uint64_t offset,
                                  std::size_t bytes_max) {
  TRY_STATUS(CheckInstanceId(id));
  if (bytes_max == 0 || bytes_max > kLogChunkBytesMax) {
    return Error::Field("bytes_max", "expected 1 to " + std::to_string(kLogChunkBytesMax));
  }
  TRY(const os::Fd folder, OpenFolder(FolderOf(id), id));
  LogChunk chunk;
  const auto files = ListLogFiles(folder.get());
  if (!files.empty()) chunk.end_offset = files.back().offset + files.back().bytes;
  if (offset > chunk.end_offset) {
    return Error::Field(
        "offset", "expected at most " + std::to_string(chunk.end_offset) + ", the end of the log");
  }
  chunk.offset = files.empty() ? 0 : std::max(offset, files.front().offset);
  chunk.next_offset = chunk.offset;
  for (const LogFile& file : files) {
    if (file.offset + file.bytes <= chunk.next_offset || chunk.bytes.size() == bytes_max) continue;
    const os::Fd source(openat(folder.get(), file.name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (!source) {
      // Rotated away since the listing: what it held is gone, the next file begins after it.
      if (chunk.bytes.empty()) chunk.offset = chunk.next_offset = file.offset + file.bytes;
      continue;
    }
    const std::uint64_t skip = chunk.next_offset - file.offset;
    const std::size_t want = static_cast<std::size_t>(
        std::min<std::uint64_t>(bytes_max - chunk.bytes.size(), file.bytes - skip));
    std::string part(want, '\0');
    const ssize_t n = pread(source.get(), part.data(), want, static_cast<off_t>(skip));
    if (n < 0) return os::ErrnoError("read", file.name, errno);
    chunk.bytes.append(part, 0, static_cast<std::size_t>(n));
    chunk.next_offset += static_cast<std::uint64_t>(n);
  }
  chunk.truncated = chunk.offset > offset;
  return chunk;
}

}  // namespace tessera::runtime
