#include "vendors/probe.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

#include "os/clock.h"
#include "os/process.h"

namespace tessera::vendors {
namespace {

// How long a child may take to leave by itself before it is killed, and the longest report it may
// write.
constexpr int kLeaveMillis = 5'000;
constexpr std::size_t kMaxReport = 4096;

Error Errno(std::string_view what) {
  return Error(Code::kInternal, std::string(what) + ": " + std::strerror(errno));
}

// The caller's environment with the card chosen. LD_PRELOAD goes: the measurement is of the bare
// driver.
std::vector<std::string> ChildEnvironment(const Probe::Options& options) {
  std::vector<std::string> out;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    if (text.starts_with("CUDA_VISIBLE_DEVICES=") || text.starts_with("LD_PRELOAD=")) continue;
    if (!options.library_path.empty() && text.starts_with("LD_LIBRARY_PATH=")) continue;
    out.emplace_back(text);
  }
  out.push_back("CUDA_VISIBLE_DEVICES=" + options.card_uuid);
  if (!options.library_path.empty()) out.push_back("LD_LIBRARY_PATH=" + options.library_path);
  return out;
}

}  // namespace

Result<std::string> DefaultProbeProgram() {
  char path[PATH_MAX];
  const ssize_t size = readlink("/proc/self/exe", path, sizeof path - 1);
  if (size < 0) return Errno("readlink /proc/self/exe");
  const std::string_view self(path, static_cast<std::size_t>(size));
  return std::string(self.substr(0, self.rfind('/') + 1)) + "tessera-probe";
}

Result<Probe> Probe::Start(const Options& options) {
  int input[2];
  if (pipe2(input, O_CLOEXEC) != 0) return Errno("pipe2");
  os::Fd input_read(input[0]);
  os::Fd input_write(input[1]);
  int output[2];
  if (pipe2(output, O_CLOEXEC) != 0) return Errno("pipe2");
  const os::Fd output_read(output[0]);
  os::Fd output_write(output[1]);

  const std::vector<std::string> environment = ChildEnvironment(options);
  std::vector<char*> envp;
  envp.reserve(environment.size() + 1);
  for (const std::string& entry : environment) envp.push_back(const_cast<char*>(entry.c_str()));
  envp.push_back(nullptr);
  char* const argv[] = {const_cast<char*>(options.program.c_str()), nullptr};

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, input_read.get(), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, output_write.get(), STDOUT_FILENO);
  // The daemon may block or ignore signals; the probe must not inherit that.
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  sigset_t defaults;
  sigfillset(&defaults);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &defaults);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);

  Probe probe;
  probe.deadline_millis_ = options.deadline_millis;
  probe.deadline_nanos_ = os::RealClock().MonotonicNanos() + options.deadline_millis * 1'000'000;
  pid_t pid = -1;
  const int failed =
      posix_spawn(&pid, options.program.c_str(), &actions, &attributes, argv, envp.data());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) {
    return Error(Code::kUnavailable, "start " + options.program + ": " + std::strerror(failed));
  }
  probe.pid_ = pid;
  probe.hold_ = std::move(input_write);
  output_write.Close();
  TRY_STATUS(probe.AwaitReady(output_read.get()));
  return probe;
}

Status Probe::AwaitReady(int output) {
  std::string report;
  while (report.find('\n') == std::string::npos) {
    pollfd wait = {output, POLLIN, 0};
    const int ready = poll(&wait, 1, static_cast<int>(MillisLeft()));
    if (ready < 0 && errno == EINTR) continue;
    if (ready < 0) return Errno("poll");
    if (ready == 0) {
      return Error(Code::kDeadlineExceeded,
                   "tessera-probe held no context within probe_deadline_millis (" +
                       std::to_string(deadline_millis_) + ")");
    }
    char chunk[512];
    const ssize_t got = read(output, chunk, sizeof chunk);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Errno("read from tessera-probe");
    if (got == 0) {
      return Error(Code::kUnavailable,
                   "tessera-probe ended without a context" + (report.empty() ? "" : ": " + report));
    }
    report.append(chunk, static_cast<std::size_t>(got));
    if (report.size() > kMaxReport) {
      return Error(Code::kUnavailable, "tessera-probe wrote more than kMaxReport bytes");
    }
  }
  const std::string line = report.substr(0, report.find('\n'));
  if (line != "ready") return Error(Code::kUnavailable, "tessera-probe: " + line);
  return {};
}

std::int64_t Probe::MillisLeft() const {
  const std::int64_t left = deadline_nanos_ - os::RealClock().MonotonicNanos();
  return std::clamp<std::int64_t>(left / 1'000'000, 0, INT_MAX);
}

Probe::Probe(Probe&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      hold_(std::move(other.hold_)),
      deadline_nanos_(other.deadline_nanos_),
      deadline_millis_(other.deadline_millis_) {}

Probe::~Probe() {
  if (pid_ < 0) return;
  hold_.Close();
  // A failed OpenPidfd (already reaped by the host program's own waiter) leaves nothing to wait
  // for.
  if (const Result<os::Fd> pidfd = os::OpenPidfd(pid_)) {
    pollfd wait = {pidfd->get(), POLLIN, 0};
    int ended;
    do {
      ended = poll(&wait, 1, kLeaveMillis);
    } while (ended < 0 && errno == EINTR);
    if (ended <= 0) kill(pid_, SIGKILL);
  }
  while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

}  // namespace tessera::vendors
