// nvidia-cuda-mps-control of the software GPU: the control daemon, and the way to command it.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <list>
#include <string>

#include "simgpu/driver/visible.h"
#include "simgpu/mps/packet.h"
#include "simgpu/mps/server.h"
#include "simgpu/state/mps.h"
#include "simgpu/state/state.h"
#include "simgpu/state/text.h"

namespace simgpu::mps {
namespace {

constexpr char kUsage[] =
    "usage: nvidia-cuda-mps-control [-d | -f] [-multiuser]   (of simgpu: everything is simulated)\n"
    "  -d          start the control daemon in the background\n"
    "  -f          start it in the foreground\n"
    "  -multiuser  one server for clients of all users; the daemon must run as root\n"
    "  without -d and -f, commands are read from the standard input, one a line:\n"
    "  get_server_list | get_server_status PID | start_server -uid UID | shutdown_server PID [-f]\n"
    "  get_client_list PID | terminate_client SERVER_PID CLIENT_PID\n"
    "  set_default_active_thread_percentage P | get_default_active_thread_percentage\n"
    "  set_active_thread_percentage PID P | get_active_thread_percentage PID\n"
    "  set_default_device_pinned_mem_limit DEVICE SIZE | get_default_device_pinned_mem_limit "
    "DEVICE\n"
    "  set_device_pinned_mem_limit PID DEVICE SIZE | get_device_pinned_mem_limit PID DEVICE\n"
    "  quit [-t SECONDS]\n"
    "environment: CUDA_MPS_PIPE_DIRECTORY, CUDA_MPS_LOG_DIRECTORY, CUDA_VISIBLE_DEVICES,\n"
    "  CUDA_MPS_ACTIVE_THREAD_PERCENTAGE and CUDA_MPS_PINNED_DEVICE_MEM_LIMIT for the defaults\n";

constexpr size_t kConnectionsMax = 256;  // that said nothing yet, or command
constexpr size_t kServersMax = 64;
constexpr int kQuitSeconds = 10;

std::string Variable(const char* name, const std::string& otherwise) {
  const char* value = getenv(name);
  return value != nullptr && *value != 0 ? value : otherwise;
}

std::string PipeFolder() { return Variable("CUDA_MPS_PIPE_DIRECTORY", kMpsPipeFolder); }

int Fail(const std::string& what) {
  fprintf(stderr, "nvidia-cuda-mps-control (simulated): %s\n", what.c_str());
  return 1;
}

// ---- commands from the standard input ----

int Command() {
  int result = 0;
  for (std::string line; std::getline(std::cin, line);) {
    if (Trim(line).empty()) continue;
    const int fd = MpsConnect(PipeFolder());
    if (fd < 0) {
      fputs("Cannot find MPS control daemon process\n", stderr);
      return 1;
    }
    std::string answer;
    if (!Send(fd, "command " + line) || !Receive(fd, &answer)) return Fail("the daemon is gone");
    close(fd);
    // The first character says whether it worked.
    if (answer[0] != '0') result = 1;
    answer.erase(0, 1);
    fputs(answer.c_str(), result == 0 ? stdout : stderr);
    fflush(stdout);
  }
  return result;
}

// ---- the daemon ----

volatile sig_atomic_t g_stop = 0;

class Daemon {
 public:
  Daemon(Settings settings, bool multiuser, int listener, int lock, FILE* log)
      : settings_(std::move(settings)),
        multiuser_(multiuser),
        listener_(listener),
        lock_(lock),
        log_(log) {}

  int Run() {
    Log("control daemon started");
    while (g_stop == 0 && !over_) {
      std::vector<pollfd> waits = {{listener_, POLLIN, 0}};
      for (const int fd : connections_) waits.push_back({fd, POLLIN, 0});
      const int ready = poll(waits.data(), waits.size(), 200);
      Reap();
      if (quit_at_ != 0) Quit();
      if (ready <= 0) continue;
      for (size_t i = waits.size(); i-- > 1;) {
        if (waits[i].revents == 0) continue;
        connections_.erase(std::find(connections_.begin(), connections_.end(), waits[i].fd));
        Hear(waits[i].fd);
      }
      if (waits[0].revents != 0) {
        const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
        if (fd >= 0 && connections_.size() < kConnectionsMax) {
          connections_.push_back(fd);
        } else if (fd >= 0) {
          close(fd);
        }
      }
    }
    for (const One& server : servers_) kill(server.pid, SIGTERM);
    Log("control daemon ended");
    return 0;
  }

 private:
  struct One {
    pid_t pid = 0;
    uid_t uid = 0;
    int fd = -1;
    Settings settings;
  };

  void Log(const std::string& what) {
    const time_t now = time(nullptr);
    tm parts = {};
    localtime_r(&now, &parts);
    char stamp[32];
    strftime(stamp, sizeof stamp, "%Y-%m-%d %H:%M:%S", &parts);
    fprintf(log_, "[%s Control %d] simulated: %s\n", stamp, getpid(), what.c_str());
    fflush(log_);
  }

  void Reap() {
    for (;;) {
      int status = 0;
      const pid_t pid = waitpid(-1, &status, WNOHANG);
      if (pid <= 0) return;
      const auto at = std::find_if(servers_.begin(), servers_.end(),
                                   [&](const One& one) { return one.pid == pid; });
      if (at == servers_.end()) continue;
      Log("server " + std::to_string(pid) + " ended");
      close(at->fd);
      servers_.erase(at);
    }
  }

  void Hear(int fd) {
    std::string text;
    pid_t pid = 0;
    uid_t uid = 0;
    if (!Receive(fd, &text) || !PeerOf(fd, &pid, &uid)) {
      close(fd);
      return;
    }
    if (text == kMpsHello) {
      std::string why;
      One* server = quit_at_ != 0 ? nullptr : ServerFor(uid, &why);
      if (server == nullptr || !SendDescriptor(server->fd, "client", fd)) {
        Send(fd, "no " + (why.empty() ? "server" : why));
      } else {
        Log("client " + std::to_string(pid) + " of user " + std::to_string(uid) + " to server " +
            std::to_string(server->pid));
      }
    } else if (std::string_view words = text; TakeWord(&words) == "command") {
      if (uid != 0 && uid != geteuid()) {
        Send(fd, "1expected to be commanded by its own user or root\n");
      } else {
        std::string answer;
        const bool done = Obey(words, &answer);
        Send(fd, (done ? "0" : "1") + answer);
      }
    }
    close(fd);
  }

  // One server at a time: clients of another user are turned away until its clients are gone. (The
  // real daemon lets them wait.)
  One* ServerFor(uid_t uid, std::string* why) {
    Reap();
    const uid_t owner = multiuser_ ? geteuid() : uid;
    for (One& one : servers_) {
      if (one.uid == owner) return &one;
    }
    if (!multiuser_ && geteuid() != 0 && uid != geteuid()) {
      *why = "user";
      return nullptr;
    }
    for (One& one : servers_) {
      if (Ask(&one, "end") != "ok") {
        *why = "user";
        return nullptr;
      }
    }
    return StartServer(owner);
  }

  One* StartServer(uid_t uid) {
    int pair[2];
    if (servers_.size() >= kServersMax ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
      return nullptr;
    }
    const pid_t pid = fork();
    if (pid == 0) {
      close(pair[0]);
      close(listener_);
      close(lock_);  // a server that outlives its daemon stands in no successor's way
      for (const int fd : connections_) close(fd);
      for (const One& one : servers_) close(one.fd);
      signal(SIGTERM, SIG_DFL);
      signal(SIGINT, SIG_IGN);
      if (geteuid() == 0 && uid != 0 && (setgid(uid) != 0 || setuid(uid) != 0)) _exit(1);
      Serve(pair[1], settings_);
    }
    close(pair[1]);
    if (pid < 0) {
      close(pair[0]);
      return nullptr;
    }
    servers_.push_back({pid, uid, pair[0], settings_});
    Log("server " + std::to_string(pid) + " of user " + std::to_string(uid) + " started");
    return &servers_.back();
  }

  std::string Ask(One* server, const std::string& question) {
    std::string answer;
    if (!Send(server->fd, question) || !Receive(server->fd, &answer)) return "";
    return answer;
  }

  One* Find(std::string_view text) {
    uint64_t pid = 0;
    if (!ParseNumber(text, &pid)) return nullptr;
    for (One& one : servers_) {
      if (one.pid == static_cast<pid_t>(pid)) return &one;
    }
    return nullptr;
  }

  bool Device(std::string_view text, uint32_t* device) const {
    uint64_t number = 0;
    if (ParseNumber(text, &number) && number < settings_.devices.size()) {
      *device = static_cast<uint32_t>(number);
      return true;
    }
    const auto at = std::find(settings_.devices.begin(), settings_.devices.end(), text);
    *device = static_cast<uint32_t>(at - settings_.devices.begin());
    return at != settings_.devices.end();
  }

  static std::string LimitText(const Settings& settings, uint32_t device) {
    const auto at = settings.limits.find(device);
    if (at == settings.limits.end()) return "no limit\n";
    return std::to_string(at->second >> 20) + "M\n";
  }

  bool Obey(std::string_view words, std::string* answer) {
    Reap();
    const std::string_view verb = TakeWord(&words);
    const auto wrong = [&](const std::string& what) {
      *answer = std::string(verb) + ": " + what + "\n";
      return false;
    };
    if (verb == "get_server_list") {
      for (const One& one : servers_) *answer += std::to_string(one.pid) + "\n";
      return true;
    }
    if (verb == "quit") {
      uint64_t seconds = kQuitSeconds;
      if (!words.empty() && (TakeWord(&words) != "-t" || !ParseNumber(words, &seconds))) {
        return wrong("expected -t SECONDS");
      }
      quit_at_ = time(nullptr) + static_cast<time_t>(std::min<uint64_t>(seconds, 86'400)) + 1;
      Quit();
      return true;
    }
    uint32_t permille = 0;
    if (verb == "set_default_active_thread_percentage") {
      if (!ParseMpsPercentage(words, &permille)) return wrong("expected a percentage above 0");
      settings_.permille = permille;
      *answer = MpsPercentageText(permille) + "\n";
      return true;
    }
    if (verb == "get_default_active_thread_percentage") {
      *answer = MpsPercentageText(settings_.permille) + "\n";
      return true;
    }
    uint32_t device = 0;
    uint64_t bytes = 0;
    if (verb == "set_default_device_pinned_mem_limit") {
      if (!Device(TakeWord(&words), &device)) return wrong("expected a device of this daemon");
      if (!ParseMpsSize(words, &bytes)) return wrong("expected a size with G or M");
      settings_.limits[device] = bytes;
      return true;
    }
    if (verb == "get_default_device_pinned_mem_limit") {
      if (!Device(words, &device)) return wrong("expected a device of this daemon");
      *answer = LimitText(settings_, device);
      return true;
    }
    if (verb == "start_server") {
      uint64_t uid = 0;
      if (TakeWord(&words) != "-uid" || !ParseNumber(words, &uid))
        return wrong("expected -uid UID");
      std::string why;
      return ServerFor(static_cast<uid_t>(uid), &why) != nullptr ||
             wrong("a server of another user has clients");
    }
    if (verb != "set_active_thread_percentage" && verb != "get_active_thread_percentage" &&
        verb != "set_device_pinned_mem_limit" && verb != "get_device_pinned_mem_limit" &&
        verb != "get_client_list" && verb != "get_server_status" && verb != "terminate_client" &&
        verb != "shutdown_server") {
      return wrong("is no command of the simulated MPS");
    }
    One* const server = Find(TakeWord(&words));
    if (server == nullptr) return wrong("expected the PID of a server");
    if (verb == "set_active_thread_percentage") {
      if (!ParseMpsPercentage(words, &permille)) return wrong("expected a percentage above 0");
      server->settings.permille = permille;
      *answer = MpsPercentageText(permille) + "\n";
      return Ask(server, "percentage " + std::to_string(permille)) == "ok";
    }
    if (verb == "get_active_thread_percentage") {
      *answer = MpsPercentageText(server->settings.permille) + "\n";
    } else if (verb == "set_device_pinned_mem_limit") {
      if (!Device(TakeWord(&words), &device)) return wrong("expected a device of this daemon");
      if (!ParseMpsSize(words, &bytes)) return wrong("expected a size with G or M");
      server->settings.limits[device] = bytes;
      return Ask(server, "limit " + std::to_string(device) + " " + std::to_string(bytes)) == "ok";
    } else if (verb == "get_device_pinned_mem_limit") {
      if (!Device(words, &device)) return wrong("expected a device of this daemon");
      *answer = LimitText(server->settings, device);
    } else if (verb == "get_client_list") {
      *answer = Ask(server, "clients");
      if (*answer == "\n") answer->clear();
    } else if (verb == "get_server_status") {
      *answer = Ask(server, "status") + "\n";
    } else if (verb == "terminate_client") {
      const std::string said = Ask(server, "terminate " + std::string(words));
      return said == "ok" || wrong(said);
    } else {
      const std::string said = Ask(server, words == "-f" ? "force" : "end");
      return said == "ok" || wrong("it has clients; -f ends it all the same");
    }
    return true;
  }

  // Ends as soon as no server has clients, or when the time is over.
  void Quit() {
    const bool late = time(nullptr) >= quit_at_;
    over_ = true;
    for (One& one : servers_) over_ = Ask(&one, late ? "force" : "end") != "busy" && over_;
  }

  Settings settings_;  // of servers to come
  const bool multiuser_;
  const int listener_;
  const int lock_;
  FILE* const log_;
  std::list<One> servers_;
  std::vector<int> connections_;
  time_t quit_at_ = 0;
  bool over_ = false;
};

// Variables a daemon is started with. False: one is wrong, and it is said.
bool ReadSettings(Settings* settings) {
  std::string error;
  const State* state = State::Open(&error);
  if (state == nullptr) return Fail(error) == 0;
  std::vector<std::string> uuids;
  for (uint32_t i = 0; i < state->card_count(); ++i) uuids.push_back(state->card(i).uuid);
  for (const uint32_t card : VisibleCards(getenv("CUDA_VISIBLE_DEVICES"), uuids)) {
    settings->devices.push_back(uuids[card]);
  }
  if (settings->devices.empty()) return Fail("CUDA_VISIBLE_DEVICES: names no card") == 0;
  const std::string percentage = Variable("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "100");
  if (!ParseMpsPercentage(percentage, &settings->permille)) {
    return Fail("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE: expected a percentage above 0, not \"" +
                percentage + "\"") == 0;
  }
  const std::string limits = Variable("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "");
  if (!ParseMpsLimits(limits, &settings->limits)) {
    return Fail("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT: expected DEVICE=SIZE with G or M, not \"" +
                limits + "\"") == 0;
  }
  return true;
}

int Start(bool background, bool multiuser) {
  if (multiuser && geteuid() != 0) return Fail("-multiuser: expected to be run by root");
  Settings settings;
  if (!ReadSettings(&settings)) return 1;
  const std::string folder = PipeFolder();
  if (mkdir(folder.c_str(), 0755) != 0 && errno != EEXIST) {
    return Fail("CUDA_MPS_PIPE_DIRECTORY: " + folder + ": " + strerror(errno));
  }
  const std::string lock_path = folder + "/control_lock";
  const int lock = open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock < 0) return Fail(lock_path + ": " + strerror(errno));
  if (flock(lock, LOCK_EX | LOCK_NB) != 0)
    return Fail("An instance of this daemon is already running");
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  const std::string path = folder + "/" + kMpsControl;
  if (path.size() >= sizeof address.sun_path) return Fail(path + ": too long for a socket");
  memcpy(address.sun_path, path.c_str(), path.size() + 1);
  unlink(path.c_str());
  const int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (listener < 0 || bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      chmod(path.c_str(), 0666) != 0 || listen(listener, 64) != 0) {
    return Fail(path + ": " + strerror(errno));
  }
  const std::string log_folder = Variable("CUDA_MPS_LOG_DIRECTORY", "/var/log/nvidia-mps");
  mkdir(log_folder.c_str(), 0755);
  FILE* log = fopen((log_folder + "/control.log").c_str(), "ae");
  if (background) {
    // The flock belongs to the open file and goes with the child.
    const pid_t child = fork();
    if (child < 0) return Fail(std::string("fork: ") + strerror(errno));
    if (child > 0) return 0;
    setsid();
    const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd < 3; ++fd) dup2(null, fd);
  }
  struct sigaction stop = {};
  stop.sa_handler = [](int) { g_stop = 1; };
  sigaction(SIGTERM, &stop, nullptr);
  sigaction(SIGINT, &stop, nullptr);
  signal(SIGPIPE, SIG_IGN);
  const std::string pid_path = folder + "/nvidia-cuda-mps-control.pid";
  if (FILE* file = fopen(pid_path.c_str(), "we")) {
    fprintf(file, "%d\n", getpid());
    fclose(file);
  }
  const int result =
      Daemon(std::move(settings), multiuser, listener, lock, log != nullptr ? log : stderr).Run();
  unlink(path.c_str());
  unlink(pid_path.c_str());
  return result;
}

}  // namespace
}  // namespace simgpu::mps

int main(int argc, char** argv) {
  bool background = false, foreground = false, multiuser = false;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "-h" || word == "--help") {
      fputs(simgpu::mps::kUsage, stdout);
      return 0;
    }
    if (word != "-d" && word != "-f" && word != "-multiuser") {
      fputs(simgpu::mps::kUsage, stderr);
      return simgpu::mps::Fail("\"" + word + "\": expected -d, -f or -multiuser") + 1;
    }
    background |= word == "-d";
    foreground |= word == "-f";
    multiuser |= word == "-multiuser";
  }
  if (!background && !foreground) return simgpu::mps::Command();
  return simgpu::mps::Start(background && !foreground, multiuser);
}
