#include "runtime/supervisor.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "runtime/container.h"
#include "runtime/limits.h"
#include "runtime/log_files.h"
#include "runtime/record.h"

namespace tessera::runtime {
namespace {

constexpr int kNamespaces = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS;
constexpr int kProgramWaitMillis = 8'000;  // namespaces and mounts are made within this time
constexpr int kEmptyWaitMillis = 10'000;   // everything killed is gone within this time
constexpr int kStopPassesMax = 100;        // looks at /proc for processes that fork away
constexpr int kDrainReadsMax = 4'096;  // pipe reads after the end, against a writer that escaped
constexpr int kExecConnectionsMax = 4 * static_cast<int>(kExecsMax);
constexpr std::size_t kMessageBytesMax = 64 * 1024;

pid_t CloneWithNamespaces() {
  return static_cast<pid_t>(syscall(SYS_clone, static_cast<unsigned long>(kNamespaces | SIGCHLD),
                                    nullptr, nullptr, nullptr, 0));
}

void SleepMillis(int millis) {
  timespec wait{millis / 1000, (millis % 1000) * 1'000'000L};
  nanosleep(&wait, nullptr);
}

bool WriteText(const std::string& path, const std::string& text) {
  const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool ok = write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  const int saved = errno;
  close(fd);
  errno = saved;
  return ok;
}

std::string ReadText(const std::string& path) {
  std::string text;
  ReadFileAt(AT_FDCWD, path.c_str(), &text);
  return text;
}

// The number behind "key " in a file of such lines.
std::int64_t NumberOf(const std::string& text, const std::string& key) {
  std::size_t at = text.compare(0, key.size(), key) == 0 ? 0 : text.find("\n" + key);
  if (at == std::string::npos) return 0;
  return std::strtoll(text.c_str() + at + key.size() + (at == 0 ? 0 : 1), nullptr, 10);
}

class Supervisor {
 public:
  int Run();

 private:
  bool LoadPlan();
  bool OpenSockets(std::string* why);
  bool StartProgram(Failure* failure);
  [[noreturn]] void RunInit(int sync);
  [[noreturn]] void RunPlain(int sync);
  bool AwaitProgram(Failure* failure);
  bool WriteStarted();
  void Answer(const Failure* failure);
  void Loop();
  void OnSignal();
  void OnSync();
  void OnControl();
  void OnExecConnection(int connection);
  void Reap();
  void PumpLog(int reads_max);
  void StartExec(int connection);
  [[noreturn]] void RunExecHelper(const std::vector<std::string>& argv, const int fds[3]);
  void KillEverything();
  void StopDescendants();
  void Finish();
  bool WaitEmpty();
  bool JoinCgroups(pid_t pid);

  Record plan_;
  ContainerPlan container_;
  std::optional<LogWriter> log_;
  int log_read_ = -1;
  int log_write_ = -1;
  int sync_ = -1;     // to the first child
  int control_ = -1;  // listener
  int signals_ = -1;
  pid_t child_ = 0;  // pid 1 of the instance, or the program itself when not contained
  pid_t main_ = 0;
  std::uint64_t main_start_ = 0;
  std::int64_t started_micros_ = 0;
  int main_status_ = -1;  // wait status once known
  std::int64_t ended_micros_ = 0;
  bool child_gone_ = false;
  int namespaces_[4] = {-1, -1, -1, -1};  // pid, ipc, uts, mnt
  std::map<int, pid_t> execs_;            // connection -> helper, 0 until the request has come
};

bool Supervisor::LoadPlan() {
  if (!ReadRecordAt(kFolderFd, kPlanFile, &plan_)) return false;
  container_.contained = plan_.GetInt("contained") != 0;
  container_.id = plan_.Get("id");
  container_.folder = plan_.Get("folder");
  container_.rootfs = plan_.Get("rootfs");
  container_.directory = plan_.Get("directory");
  container_.bind_directory = plan_.GetInt("bind_directory") != 0;
  container_.guest_folder = plan_.Get("guest_folder");
  container_.guest_library = plan_.Get("guest_library");
  container_.preload = plan_.Get("preload");
  container_.environment = plan_.All("environment");
  container_.uid = static_cast<uid_t>(plan_.GetInt("uid"));
  container_.tasks_max = static_cast<unsigned>(plan_.GetInt("tasks_max"));
  const auto sources = plan_.All("bind_source");
  const auto targets = plan_.All("bind_target");
  const auto modes = plan_.All("bind_mode");
  if (sources.size() != targets.size() || sources.size() != modes.size()) return false;
  for (std::size_t i = 0; i < sources.size(); ++i) {
    container_.mounts.push_back({sources[i], targets[i], modes[i].find('w') != std::string::npos,
                                 modes[i].find('o') != std::string::npos});
  }
  return true;
}

bool Supervisor::OpenSockets(std::string* why) {
  int log_pipe[2];
  if (pipe2(log_pipe, O_CLOEXEC) != 0) {
    *why = "making the log pipe";
    return false;
  }
  log_read_ = log_pipe[0];
  log_write_ = log_pipe[1];
  fcntl(log_read_, F_SETFL, O_NONBLOCK);
  control_ = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  // The path of the folder may be longer than a socket's may; its descriptor never is.
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s", kFolderFd,
           kControlSocket);
  unlinkat(kFolderFd, kControlSocket, 0);
  if (control_ < 0 || bind(control_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      listen(control_, kExecConnectionsMax) != 0) {
    *why = "making the control socket";
    return false;
  }
  sigset_t set;
  sigemptyset(&set);
  for (const int number : {SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGUSR1}) sigaddset(&set, number);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);
  signals_ = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  if (signals_ < 0) {
    *why = "making the signal descriptor";
    return false;
  }
  return true;
}

bool Supervisor::JoinCgroups(pid_t pid) {
  for (const std::string& procs : plan_.All("cgroup_procs")) {
    if (!WriteText(procs, std::to_string(pid))) return false;
  }
  return true;
}

// --- the first child

// Reads one byte; false when the other side is gone.
bool AwaitByte(int fd) {
  char byte;
  ssize_t n;
  do {
    n = recv(fd, &byte, 1, 0);
  } while (n < 0 && errno == EINTR);
  return n == 1;
}

void RedirectToLog(int log_write) {
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null >= 0) dup2(null, 0);
  dup2(log_write, 1);
  dup2(log_write, 2);
}

// The program's process: says who it is, waits until that is written down, becomes the program.
[[noreturn]] void BecomeProgram(const ContainerPlan& plan, const std::vector<std::string>& argv,
                                int sync, int log_write) {
  setsid();
  if (send(sync, "M", 1, MSG_NOSIGNAL) != 1 || !AwaitByte(sync)) _exit(125);
  RedirectToLog(log_write);
  ExecProgram(plan, argv);
}

// Pid 1 of the instance: builds the root, starts the program, reaps, passes signals on, ends with
// it.
void Supervisor::RunInit(int sync) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const auto give_up = [&](const Failure& failure) {
    std::string message = "E" + failure.field;
    message += '\0';
    message += failure.text;
    send(sync, message.data(), message.size(), MSG_NOSIGNAL);
    _exit(125);
  };
  // Not before the supervisor has put this process into its cgroups; its end closes the socket.
  if (!AwaitByte(sync)) _exit(125);
  Failure failure;
  if (!BuildRoot(container_, &failure)) give_up(failure);

  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, nullptr);
  const pid_t main = fork();
  if (main < 0) give_up({"", std::string("fork: ") + std::strerror(errno)});
  if (main == 0) BecomeProgram(container_, plan_.All("argv"), sync, log_write_);

  std::string why;
  if (!DropPrivileges(container_, &why)) give_up({"", why});
  // The tenant runs under the same uid: he must neither trace this process nor read its memory.
  // Changing the uid has cleared the death signal.
  prctl(PR_SET_DUMPABLE, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const int keep = fcntl(sync, F_DUPFD_CLOEXEC, 64);
  const int null = open("/dev/null", O_RDWR);
  for (int fd = 0; fd < 3; ++fd) dup2(null, fd);
  close_range(3, static_cast<unsigned>(keep) - 1, 0);
  close_range(static_cast<unsigned>(keep) + 1, ~0U, 0);
  while (true) {
    siginfo_t info{};
    const int number = sigwaitinfo(&all, &info);
    if (number < 0) continue;
    if (number != SIGCHLD) {
      kill(main, number);
      continue;
    }
    int status = 0;
    while (true) {
      const pid_t pid = waitpid(-1, &status, WNOHANG);
      if (pid <= 0) break;
      if (pid != main) continue;
      char message[1 + sizeof status] = {'X'};
      std::memcpy(message + 1, &status, sizeof status);
      send(keep, message, sizeof message, MSG_NOSIGNAL);
      _exit(ShellStatus(status));
    }
  }
}

void Supervisor::RunPlain(int sync) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (!AwaitByte(sync)) _exit(125);
  BecomeProgram(container_, plan_.All("argv"), sync, log_write_);
}

bool Supervisor::StartProgram(Failure* failure) {
  const auto fail = [&](const char* what) {
    failure->text = std::string(what) + ": " + std::strerror(errno);
    return false;
  };
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) return fail("socketpair");
  const int on = 1;
  // The kernel then tells the sender's pid as seen from here, whatever namespace it is in.
  if (setsockopt(pair[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) != 0) return fail("SO_PASSCRED");
  // Orphans come here: all there are when not contained; else commands of execs whose helper died,
  // which stay in the instance's pid namespace but belong to the reaper of their helper's.
  if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0) return fail("subreaper");
  child_ = container_.contained ? CloneWithNamespaces() : fork();
  if (child_ < 0) return fail("starting a process in new namespaces");
  if (child_ == 0) {
    // The lock and the report belong to the supervisor alone: its end must be visible while this
    // process lives.
    for (const int fd : {kLockFd, kReportFd, control_, signals_, log_read_, pair[0]}) close(fd);
    if (container_.contained) RunInit(pair[1]);
    RunPlain(pair[1]);
  }
  close(pair[1]);
  close(log_write_);
  sync_ = pair[0];
  if (!JoinCgroups(child_)) return fail("joining the instance's cgroup");
  if (container_.contained) {
    const char* const names[] = {"pid", "ipc", "uts", "mnt"};
    for (int i = 0; i < 4; ++i) {
      const std::string path = "/proc/" + std::to_string(child_) + "/ns/" + names[i];
      namespaces_[i] = open(path.c_str(), O_RDONLY | O_CLOEXEC);
      if (namespaces_[i] < 0) return fail("opening the instance's namespaces");
    }
  }
  if (send(sync_, "G", 1, MSG_NOSIGNAL) != 1) return fail("the instance's first process is gone");
  return AwaitProgram(failure);
}

bool Supervisor::AwaitProgram(Failure* failure) {
  char buffer[4096];
  iovec part{buffer, sizeof buffer};
  alignas(cmsghdr) char space[CMSG_SPACE(sizeof(ucred))];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = space;
  message.msg_controllen = sizeof space;
  pollfd waiting{sync_, POLLIN, 0};
  if (poll(&waiting, 1, kProgramWaitMillis) == 0) {
    failure->text = "building the instance's root took longer than " +
                    std::to_string(kProgramWaitMillis) + " ms";
    return false;
  }
  const ssize_t n = recvmsg(sync_, &message, MSG_CMSG_CLOEXEC);
  if (n <= 0) {
    failure->text = "the instance's first process ended before its program began";
    return false;
  }
  if (buffer[0] == 'E') {
    const std::string text(buffer + 1, static_cast<std::size_t>(n - 1));
    const std::size_t stop = text.find('\0');
    failure->field = text.substr(0, stop);
    failure->text = stop == std::string::npos ? "" : text.substr(stop + 1);
    return false;
  }
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_CREDENTIALS) continue;
    ucred peer{};
    std::memcpy(&peer, CMSG_DATA(header), sizeof peer);
    main_ = peer.pid;
  }
  main_start_ = main_ > 0 ? StartTimeOf(main_) : 0;
  if (main_start_ == 0) {
    failure->text = "the program's process cannot be identified";
    return false;
  }
  return true;
}

bool Supervisor::WriteStarted() {
  started_micros_ = WallMicrosNow();
  Record record;
  record.AddInt("supervisor_pid", getpid());
  record.AddInt("supervisor_start", static_cast<std::int64_t>(StartTimeOf(getpid())));
  record.AddInt("init_pid", child_);
  record.AddInt("main_pid", main_);
  record.AddInt("main_start", static_cast<std::int64_t>(main_start_));
  record.AddInt("started_micros", started_micros_);
  return WriteFileAt(kFolderFd, kStartedFile, record.Encode());
}

void Supervisor::Answer(const Failure* failure) {
  std::string text = "O";
  if (failure != nullptr) {
    text = "E" + failure->field;
    text += '\0';
    text += failure->text;
  }
  [[maybe_unused]] const ssize_t n = write(kReportFd, text.data(), text.size());
  close(kReportFd);
}

// --- the loop

void Supervisor::PumpLog(int reads_max) {
  char buffer[65536];
  for (int i = 0; i < reads_max; ++i) {
    const ssize_t n = read(log_read_, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n == 0) {
      // No writer is left; the descriptor would poll ready for ever.
      close(log_read_);
      log_read_ = -1;
    }
    if (n <= 0) return;
    log_->Append(buffer, static_cast<std::size_t>(n));
  }
}

void Supervisor::OnSync() {
  char message[64];
  const ssize_t n = recv(sync_, message, sizeof message, MSG_DONTWAIT);
  if (n == 1 + static_cast<ssize_t>(sizeof(int)) && message[0] == 'X' && main_status_ < 0) {
    std::memcpy(&main_status_, message + 1, sizeof main_status_);
    ended_micros_ = WallMicrosNow();
  }
  if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
    close(sync_);
    sync_ = -1;
  }
}

void Supervisor::Reap() {
  int status = 0;
  while (true) {
    const pid_t pid = waitpid(-1, &status, WNOHANG);
    if (pid <= 0) return;
    if (pid == child_) {
      if (sync_ >= 0 && container_.contained) OnSync();
      // Pid 1 passes the program's status on; when it was killed itself, so was everything in it.
      if (main_status_ < 0) {
        main_status_ = status;
        ended_micros_ = WallMicrosNow();
      }
      child_gone_ = true;
      continue;
    }
    const auto job = std::find_if(execs_.begin(), execs_.end(),
                                  [pid](const auto& entry) { return entry.second == pid; });
    if (job == execs_.end()) continue;
    const std::int32_t code = ShellStatus(status);
    send(job->first, &code, sizeof code, MSG_NOSIGNAL | MSG_DONTWAIT);
    close(job->first);
    execs_.erase(job);
  }
}

void Supervisor::OnSignal() {
  signalfd_siginfo info{};
  while (read(signals_, &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
    switch (info.ssi_signo) {
      case SIGTERM:
      case SIGINT:
        if (StartTimeOf(main_) == main_start_) kill(main_, SIGTERM);
        break;
      case SIGUSR1:
        KillEverything();
        break;
      default:
        break;
    }
  }
  Reap();
}

void Supervisor::OnControl() {
  const int connection = accept4(control_, nullptr, nullptr, SOCK_CLOEXEC);
  if (connection < 0) return;
  // Callers send at once; this only bounds those that do not.
  if (execs_.size() >= static_cast<std::size_t>(kExecConnectionsMax)) {
    close(connection);
    return;
  }
  execs_[connection] = 0;
}

void Supervisor::OnExecConnection(int connection) {
  const pid_t helper = execs_[connection];
  if (helper == 0) {
    StartExec(connection);
    return;
  }
  // Anything after the request, first of all the end of the connection, means: the caller wants no
  // more of it.
  kill(helper, SIGTERM);
  close(connection);
  execs_.erase(connection);
}

void Supervisor::StartExec(int connection) {
  std::vector<char> buffer(kMessageBytesMax);
  iovec part{buffer.data(), buffer.size()};
  alignas(cmsghdr) char space[CMSG_SPACE(3 * sizeof(int))];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = space;
  message.msg_controllen = sizeof space;
  const ssize_t n = recvmsg(connection, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  std::vector<int> fds;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); n > 0 && header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    fds.resize(count);
    std::memcpy(fds.data(), CMSG_DATA(header), count * sizeof(int));
  }
  Record request;
  const bool valid = n > 0 && (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0 &&
                     fds.size() == 3 &&
                     Record::Decode({buffer.data(), static_cast<std::size_t>(n)}, &request) &&
                     !request.All("argv").empty();
  const auto running = std::count_if(execs_.begin(), execs_.end(),
                                     [](const auto& entry) { return entry.second != 0; });
  const bool busy = running >= static_cast<std::ptrdiff_t>(kExecsMax);
  pid_t helper = -1;
  if (valid && !busy) {
    const int three[3] = {fds[0], fds[1], fds[2]};
    helper = fork();
    if (helper == 0) RunExecHelper(request.All("argv"), three);
  }
  for (const int fd : fds) close(fd);
  if (helper < 0) {
    const std::int32_t refused = busy ? kExecRefusedBusy : kExecRefusedFailed;
    send(connection, &refused, sizeof refused, MSG_NOSIGNAL | MSG_DONTWAIT);
    close(connection);
    execs_.erase(connection);
    return;
  }
  execs_[connection] = helper;
}

// Outside process of one exec: enters the instance, starts the command as its child, ends with its
// status. SIGTERM makes it kill the command and what the command started in its session.
void Supervisor::RunExecHelper(const std::vector<std::string>& argv, const int fds[3]) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, nullptr);
  for (int fd = 0; fd < 3; ++fd) dup2(fds[fd], fd);
  const auto give_up = [](const char* what) {
    dprintf(2, "tessera: exec: %s: %s\n", what, std::strerror(errno));
    _exit(125);
  };
  if (!JoinCgroups(getpid())) give_up("joining the instance's cgroup");
  // The mount namespace last: the files above are outside.
  const int kinds[4] = {CLONE_NEWPID, CLONE_NEWIPC, CLONE_NEWUTS, CLONE_NEWNS};
  int root = -1;
  if (namespaces_[3] >= 0) {
    root = open(("/proc/" + std::to_string(child_) + "/root").c_str(),
                O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0) give_up("finding the instance's root");
  }
  for (int i = 0; i < 4; ++i) {
    if (namespaces_[i] >= 0 && setns(namespaces_[i], kinds[i]) != 0)
      give_up("entering the instance");
  }
  // Entering a mount namespace leads to its own root, which is not the instance's when the node
  // itself lives in a chroot.
  if (root >= 0 && (fchdir(root) != 0 || chroot(".") != 0)) give_up("entering the instance's root");
  close_range(3, ~0U, 0);
  const pid_t command = fork();
  if (command < 0) give_up("fork");
  if (command == 0) {
    setsid();
    ExecProgram(container_, argv);
  }
  const int null = open("/dev/null", O_RDWR);
  for (int fd = 0; fd < 3; ++fd) dup2(null, fd);
  while (true) {
    siginfo_t info{};
    const int number = sigwaitinfo(&all, &info);
    if (number == SIGTERM) {
      kill(-command, SIGKILL);
      kill(command, SIGKILL);  // it may not have its own session yet
    }
    int status = 0;
    if (number == SIGCHLD && waitpid(command, &status, WNOHANG) == command)
      _exit(ShellStatus(status));
  }
}

void Supervisor::Loop() {
  std::int64_t beat = 0;
  while (!child_gone_) {
    std::vector<pollfd> polls{{signals_, POLLIN, 0},
                              {log_read_, POLLIN, 0},
                              {control_, POLLIN, 0},
                              {container_.contained ? sync_ : -1, POLLIN, 0}};
    for (const auto& [connection, helper] : execs_) polls.push_back({connection, POLLIN, 0});
    poll(polls.data(), polls.size(), kHeartbeatMillis);
    const std::int64_t now = WallMicrosNow();
    if (now - beat >= kHeartbeatMillis * 1000 || now < beat) {
      futimens(kLockFd, nullptr);
      beat = now;
    }
    if (polls[3].revents != 0) OnSync();
    if (polls[1].revents != 0) PumpLog(16);
    for (std::size_t i = 4; i < polls.size(); ++i) {
      if (polls[i].revents != 0) OnExecConnection(polls[i].fd);
    }
    if (polls[2].revents != 0) OnControl();
    if (polls[0].revents != 0) OnSignal();
  }
}

// --- the end

// Processes without a cgroup of their own: stop all descendants until a pass finds no new one, so
// that none can fork away, then kill them. Orphans come to this process, it is their subreaper.
void Supervisor::StopDescendants() {
  std::set<pid_t> stopped;
  std::vector<pid_t> found;
  for (int pass = 0; pass < kStopPassesMax; ++pass) {
    std::map<pid_t, std::vector<pid_t>> children;
    bool fresh = false;
    DIR* proc = opendir("/proc");
    if (proc == nullptr) return;
    while (const dirent* entry = readdir(proc)) {
      const pid_t pid = std::atoi(entry->d_name);
      if (pid <= 0) continue;
      const std::string stat = ReadText("/proc/" + std::to_string(pid) + "/stat");
      const std::size_t at = stat.rfind(')');
      if (at == std::string::npos || at + 4 >= stat.size() || stat[at + 2] == 'Z') continue;
      const pid_t parent = std::atoi(stat.c_str() + at + 4);
      children[parent].push_back(pid);
      // At once where the parent tells enough: what forks and exits every millisecond must not win
      // the race.
      if ((parent == getpid() || stopped.contains(parent)) && stopped.insert(pid).second) {
        fresh = true;
        kill(pid, SIGSTOP);
      }
    }
    closedir(proc);
    found = children[getpid()];
    for (std::size_t i = 0; i < found.size(); ++i) {
      const std::vector<pid_t> next = children[found[i]];
      found.insert(found.end(), next.begin(), next.end());
    }
    for (const pid_t pid : found) {
      if (!stopped.insert(pid).second) continue;
      fresh = true;
      kill(pid, SIGSTOP);
    }
    if (!fresh) break;
  }
  // Only what the last pass saw: pids seen earlier may belong to others by now.
  for (const pid_t pid : found) kill(pid, SIGKILL);
}

void Supervisor::KillEverything() {
  if (!container_.contained) {
    StopDescendants();
    return;
  }
  const std::string leaf = plan_.Get("cgroup_leaf");
  if (!leaf.empty()) WriteText(leaf + "/cgroup.kill", "1");
  // Ends the pid namespace, and is all there is on kernels before 5.14.
  if (!child_gone_ && child_ > 0) kill(child_, SIGKILL);
}

bool Supervisor::WaitEmpty() {
  const std::string leaf = plan_.Get("cgroup_leaf");
  for (int waited = 0; waited < kEmptyWaitMillis;) {
    int status = 0;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
    }
    const bool no_children = pid < 0 && errno == ECHILD;
    if (no_children &&
        (leaf.empty() || NumberOf(ReadText(leaf + "/cgroup.events"), "populated ") == 0)) {
      return true;
    }
    if (!container_.contained && waited % 64 == 0) StopDescendants();
    const int step = waited < 16 ? 1 : 8;
    SleepMillis(step);
    waited += step;
  }
  return false;
}

void Supervisor::Finish() {
  KillEverything();
  WaitEmpty();
  if (log_read_ >= 0) PumpLog(kDrainReadsMax);
  Record record;
  record.AddInt("status", main_status_);
  record.AddInt("ended_micros", ended_micros_);
  std::int64_t kills = 0;
  for (const std::string& file : plan_.All("memory_events"))
    kills += NumberOf(ReadText(file), "oom_kill ");
  record.AddInt("out_of_memory", kills > 0 ? 1 : 0);
  // A disk that is full for a moment must not turn a known end into a lost one.
  for (int attempt = 0; attempt < 50 && !WriteFileAt(kFolderFd, kExitFile, record.Encode());
       ++attempt) {
    SleepMillis(100);
  }
  unlinkat(kFolderFd, kControlSocket, 0);
  for (const std::string& folder : plan_.All("cgroup_folder")) rmdir(folder.c_str());
}

int Supervisor::Run() {
  Failure failure;
  std::string why;
  if (!LoadPlan()) {
    failure.text = "the plan cannot be read";
    Answer(&failure);
    return 1;
  }
  const std::string own = plan_.Get("supervisors_procs");
  if (!own.empty() && !WriteText(own, "0")) {
    failure.text = std::string("joining ") + own + ": " + std::strerror(errno);
    Answer(&failure);
    return 1;
  }
  log_.emplace(kFolderFd, static_cast<std::uint64_t>(plan_.GetInt("log_bytes_max")));
  if (!OpenSockets(&why)) {
    failure.text = why + ": " + std::strerror(errno);
    Answer(&failure);
    return 1;
  }
  if (StartProgram(&failure)) {
    if (WriteStarted()) {
      // From here on the program may run: the record that finds it again is in place.
      if (send(sync_, "G", 1, MSG_NOSIGNAL) == 1) {
        Answer(nullptr);
        Loop();
        Finish();
        return 0;
      }
      failure.text = "the program's process is gone";
      unlinkat(kFolderFd, kStartedFile, 0);
    } else {
      failure.text = std::string("writing the start record: ") + std::strerror(errno);
    }
  }
  KillEverything();
  WaitEmpty();
  unlinkat(kFolderFd, kControlSocket, 0);
  for (const std::string& folder : plan_.All("cgroup_folder")) rmdir(folder.c_str());
  Answer(&failure);
  return 1;
}

}  // namespace

int Supervise() {
  // The starter may be a daemon with anything open and any signal state.
  close_range(kReportFd + 1, ~0U, 0);
  for (const int fd : {kFolderFd, kLockFd, kReportFd}) fcntl(fd, F_SETFD, FD_CLOEXEC);
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int fd = 0; fd < 3; ++fd) dup2(null, fd);
  ResetSignals();
  umask(022);
  if (chdir("/") != 0) return 1;
  const pid_t detached = fork();
  if (detached < 0) return 1;
  if (detached > 0) _exit(0);
  setsid();
  Supervisor supervisor;
  return supervisor.Run();
}

std::string ProbeContainment() {
  if (geteuid() != 0) return "not root";
  const pid_t child = CloneWithNamespaces();
  if (child < 0) return std::string("new namespaces: ") + std::strerror(errno);
  if (child == 0) {
    if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) _exit(1);
    if (mount("proc", "/proc", "proc", 0, nullptr) != 0) _exit(2);
    const int tree = open_tree(AT_FDCWD, "/", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
    mount_attr attributes{};
    attributes.attr_set = MOUNT_ATTR_RDONLY;
    if (tree < 0 || mount_setattr(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes,
                                  sizeof attributes) != 0) {
      _exit(3);
    }
    _exit(0);
  }
  int status = 0;
  if (waitpid(child, &status, 0) != child) return "new namespaces: the probe is gone";
  switch (ShellStatus(status)) {
    case 0:
      return "";
    case 1:
      return "mounts cannot be made private here";
    case 2:
      return "a fresh /proc cannot be mounted here";
    case 3:
      return "mounts cannot be made read-only (kernel 5.12 or newer is needed)";
    default:
      return "new namespaces: the probe died";
  }
}

}  // namespace tessera::runtime
