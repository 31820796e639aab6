// Runtime::Exec and ExecWithFds: the caller's side of an instance's control socket.
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <span>

#include "os/clock.h"
#include "os/error.h"
#include "os/net.h"
#include "runtime/plan.h"
#include "runtime/record.h"
#include "runtime/runtime.h"

namespace tessera::runtime {
namespace {

constexpr int kExecTimeoutMillisMax = 86'400'000;
constexpr int kTimedOutCode = 124;  // as timeout(1)

// What an answer on the control socket means; kAborted when the instance ended under the command.
Result<int> ExitCodeOf(int connection, const std::string& id) {
  std::int32_t code = 0;
  ssize_t n;
  do {
    n = recv(connection, &code, sizeof code, 0);
  } while (n < 0 && errno == EINTR);
  if (n != static_cast<ssize_t>(sizeof code)) {
    return Error(Code::kAborted, "instance " + id + " ended before the command did");
  }
  if (code == kExecRefusedBusy) {
    return Error(Code::kResourceExhausted, "kExecsMax is reached: " + std::to_string(kExecsMax) +
                                               " commands run in instance " + id);
  }
  if (code == kExecRefusedFailed) {
    return Error(Code::kInternal,
                 "the supervisor of instance " + id + " could not start the command");
  }
  return code;
}

struct Pipe {
  os::Fd reader;
  os::Fd writer;
};

Result<Pipe> MakePipe() {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return os::ErrnoError("pipe", "exec", errno);
  return Pipe{os::Fd(fds[0]), os::Fd(fds[1])};
}

// Writing to a command that no longer reads raises SIGPIPE in this thread; held back and taken away
// again.
class WithoutSigpipe {
 public:
  WithoutSigpipe() {
    sigemptyset(&pipe_);
    sigaddset(&pipe_, SIGPIPE);
    sigset_t pending;
    sigpending(&pending);
    was_pending_ = sigismember(&pending, SIGPIPE) == 1;
    pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  ~WithoutSigpipe() {
    if (!was_pending_) {
      const timespec now{};
      while (sigtimedwait(&pipe_, nullptr, &now) < 0 && errno == EINTR) {
      }
    }
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  WithoutSigpipe(const WithoutSigpipe&) = delete;
  WithoutSigpipe& operator=(const WithoutSigpipe&) = delete;

 private:
  sigset_t pipe_{};
  sigset_t before_{};
  bool was_pending_ = false;
};

// Moves what is there; false when the other side is closed.
bool PumpIn(int fd, std::string_view* rest) {
  while (!rest->empty()) {
    const ssize_t n = write(fd, rest->data(), rest->size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno == EAGAIN;
    rest->remove_prefix(static_cast<std::size_t>(n));
  }
  return false;
}

bool PumpOut(int fd, ExecOutcome* outcome) {
  char buffer[65536];
  // A command that writes without end must not keep this from its deadline.
  for (int i = 0; i < 16; ++i) {
    const ssize_t n = read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno == EAGAIN;
    if (n == 0) return false;
    const std::size_t room = kExecOutputBytesMax - outcome->output.size();
    outcome->truncated = outcome->truncated || static_cast<std::size_t>(n) > room;
    outcome->output.append(buffer, std::min(room, static_cast<std::size_t>(n)));
  }
  return true;
}

}  // namespace

Result<os::Fd> Runtime::SendExec(const std::string& id, const std::vector<std::string>& argv,
                                 const std::array<int, 3>& fds) {
  TRY_STATUS(CheckArgv(argv, "argv"));
  TRY(const Report report, Inspect(id));
  if (report.state == State::kEnded) {
    return Error(Code::kFailedPrecondition, "instance " + id + " has ended");
  }
  // The folder's path may be longer than a socket's may; a descriptor's path never is.
  const std::string path = FolderOf(id);
  const os::Fd folder(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder) return os::ErrnoError("open", path, errno);
  auto connection =
      os::ConnectUnix("/proc/self/fd/" + std::to_string(folder.get()) + "/" + kControlSocket,
                      os::SocketKind::kSeqPacket);
  if (!connection) {
    return Error(Code::kFailedPrecondition, "instance " + id + " has ended or is ending");
  }
  Record request;
  for (const std::string& argument : argv) request.Add("argv", argument);
  const std::string bytes = request.Encode();
  TRY_STATUS(os::SendWithFds(connection->get(), std::as_bytes(std::span(bytes)), fds));
  return connection;
}

Result<int> Runtime::ExecWithFds(const std::string& id, const std::vector<std::string>& argv,
                                 const std::array<int, 3>& fds, int timeout_millis) {
  if (timeout_millis > kExecTimeoutMillisMax) {
    return Error::Field("timeout_millis",
                        "expected at most " + std::to_string(kExecTimeoutMillisMax));
  }
  TRY(const os::Fd connection, SendExec(id, argv, fds));
  const os::Clock& clock = os::RealClock();
  const std::int64_t until = clock.MonotonicNanos() + std::int64_t{timeout_millis} * 1'000'000;
  while (true) {
    pollfd waiting{connection.get(), POLLIN, 0};
    const std::int64_t left = (until - clock.MonotonicNanos()) / 1'000'000;
    if (timeout_millis >= 0 && left <= 0)
      return kTimedOutCode;  // closing the connection ends the command
    const int ready = poll(&waiting, 1, timeout_millis < 0 ? -1 : static_cast<int>(left));
    if (ready > 0) return ExitCodeOf(connection.get(), id);
  }
}

Result<ExecOutcome> Runtime::Exec(const std::string& id, const std::vector<std::string>& argv,
                                  const std::string& stdin_bytes, int timeout_millis) {
  if (timeout_millis <= 0 || timeout_millis > kExecTimeoutMillisMax) {
    return Error::Field("timeout_millis", "expected 1 to " + std::to_string(kExecTimeoutMillisMax));
  }
  if (stdin_bytes.size() > kExecStdinBytesMax) {
    return Error::Field("stdin",
                        "expected at most " + std::to_string(kExecStdinBytesMax) + " bytes");
  }
  TRY(Pipe in, MakePipe());
  TRY(Pipe out, MakePipe());
  TRY(const os::Fd connection,
      SendExec(id, argv, {in.reader.get(), out.writer.get(), out.writer.get()}));
  in.reader.Close();
  out.writer.Close();
  fcntl(in.writer.get(), F_SETFL, O_NONBLOCK);
  fcntl(out.reader.get(), F_SETFL, O_NONBLOCK);
  const WithoutSigpipe guard;
  ExecOutcome outcome;
  std::string_view rest = stdin_bytes;
  if (rest.empty()) in.writer.Close();
  const os::Clock& clock = os::RealClock();
  const std::int64_t until = clock.MonotonicNanos() + std::int64_t{timeout_millis} * 1'000'000;
  while (true) {
    const std::int64_t left = (until - clock.MonotonicNanos()) / 1'000'000;
    if (left <= 0) {
      outcome.timed_out = true;
      outcome.exit_code = kTimedOutCode;
      return outcome;
    }
    pollfd polls[3] = {{connection.get(), POLLIN, 0},
                       {out.reader.get(), POLLIN, 0},
                       {in.writer.get(), POLLOUT, 0}};
    poll(polls, 3, static_cast<int>(left));
    if (polls[1].revents != 0 && !PumpOut(out.reader.get(), &outcome)) out.reader.Close();
    if (polls[2].revents != 0 && !PumpIn(in.writer.get(), &rest)) in.writer.Close();
    if (polls[0].revents == 0) continue;
    TRY(outcome.exit_code, ExitCodeOf(connection.get(), id));
    // The command is gone. What it wrote is in the pipe; a background child of it may keep that
    // open for ever.
    while (out.reader && PumpOut(out.reader.get(), &outcome)) {
      pollfd more{out.reader.get(), POLLIN, 0};
      if (poll(&more, 1, 0) <= 0 || outcome.truncated) break;
    }
    return outcome;
  }
}

}  // namespace tessera::runtime
