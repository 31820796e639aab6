#include "apps/node_child.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>

#include "base/log.h"
#include "http/client.h"
#include "os/clock.h"
#include "os/process.h"

namespace tessera::apps {

bool NodeChild::Answers() const {
  http::Client::Options options;
  options.unix_path = socket_;
  options.timeout_millis = 2000;
  http::Client client(options);
  const auto reply = client.Call("GET", "/healthz");
  return reply && reply->status == 200;
}

Result<pid_t> NodeChild::Spawn() {
  std::vector<char*> argv;
  for (std::string& argument : argv_) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) return Error(Code::kInternal, std::string("fork: ") + std::strerror(errno));
  if (pid == 0) {
    // The node ends with us even when we are killed; its instances do not, they are adopted by the
    // next one.
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(1);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    execv(argv[0], argv.data());
    _exit(127);
  }
  return pid;
}

Status NodeChild::Start() {
  joined_ = Answers();
  // PDEATHSIG follows the thread that forks, so the watcher thread, which lives as long as we do,
  // does all of it.
  watcher_ = std::thread([this] { Watch(); });
  const auto& clock = os::RealClock();
  const std::int64_t end = clock.MonotonicNanos() + kNodeReadyMillisMax * 1'000'000ll;
  while (clock.MonotonicNanos() < end && !stopping_) {
    if (Answers()) return {};
    clock.SleepNanos(50'000'000);
  }
  return Error(Code::kDeadlineExceeded,
               "tesserad did not answer on " + socket_ + " within kNodeReadyMillisMax (60 s)");
}

void NodeChild::Pause(int millis) const {
  for (int waited = 0; waited < millis && !stopping_; waited += 20)
    os::RealClock().SleepNanos(20'000'000);
}

void NodeChild::Watch() {
  int pause = kNodeRestartMillisFirst;
  while (!stopping_) {
    if (Answers()) {
      // Somebody else's node, perhaps one that is just going down with an earlier `up`: ours is
      // started when it is gone.
      Pause(kNodeJoinedPollMillis);
      continue;
    }
    const auto spawned = Spawn();
    if (spawned) {
      joined_ = false;
      pid_ = *spawned;
      const std::int64_t started = os::RealClock().MonotonicNanos();
      int status = 0;
      while (waitpid(*spawned, &status, 0) < 0 && errno == EINTR) {
      }
      pid_ = 0;
      if (stopping_) return;
      Log(LogLevel::kWarn, "node.ended", {{"status", status}, {"restart_in_millis", pause}});
      if (os::RealClock().MonotonicNanos() - started > 30'000'000'000)
        pause = kNodeRestartMillisFirst;
    } else {
      Log(LogLevel::kError, "node.not_started", {{"error", spawned.error().ToString()}});
    }
    Pause(pause);
    pause = std::min(pause * 2, kNodeRestartMillisMax);
  }
}

void NodeChild::Stop() {
  if (stopping_.exchange(true)) return;
  if (!watcher_.joinable()) return;
  const std::int64_t end = os::RealClock().MonotonicNanos() + kNodeStopMillisMax * 1'000'000ll;
  if (const pid_t pid = pid_; pid > 0) kill(pid, SIGTERM);
  while (pid_ > 0 && os::RealClock().MonotonicNanos() < end) os::RealClock().SleepNanos(20'000'000);
  if (const pid_t pid = pid_; pid > 0) kill(pid, SIGKILL);
  watcher_.join();
}

}  // namespace tessera::apps
