#include "cli/run_command.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <set>

#include "base/result.h"
#include "base/units.h"
#include "cli/commands.h"
#include "http/client.h"
#include "http/json.h"
#include "os/clock.h"
#include "os/error.h"
#include "os/fd.h"
#include "os/files.h"

namespace tessera::cli {
namespace {

constexpr int kNodeReadyMillisMax = 60'000;  // a tesserad we start answers within this time
constexpr int kOtherNodeMillisMax =
    3'000;  // one that was started beside ours answers within this time
constexpr std::int64_t kNodePollNanos = 50'000'000;
constexpr int kCardsMax = 16;  // of one slice, as the wire format has room for
constexpr std::size_t kNodeCardsMax = 1'024;
constexpr std::size_t kVariablesMax = 64;  // that a node wants its program to have
constexpr int kNodeCallMillisMax = 30'000;
constexpr std::size_t kLogTailBytes = 2'000;  // of a tesserad that did not come up
constexpr std::uint64_t kMemoryBytesMax = 1ull << 50;
constexpr char kSocketVariable[] = "TESSERA_SOCKET";  // read by the guest library

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string ProgramFolder() {
  char path[PATH_MAX];
  const ssize_t n = readlink("/proc/self/exe", path, sizeof path);
  if (n <= 0) return ".";
  const std::string text(path, static_cast<std::size_t>(n));
  return text.substr(0, text.rfind('/'));
}

std::string RunDir(const RunOptions& options) {
  if (!options.run_dir.empty()) return options.run_dir;
  if (const std::string given = Environment("TESSERA_RUN_DIR"); !given.empty()) return given;
  if (geteuid() == 0) return "/run/tessera";
  if (const std::string runtime = Environment("XDG_RUNTIME_DIR"); !runtime.empty())
    return runtime + "/tessera";
  return "/tmp/tessera-" + std::to_string(geteuid());
}

Result<std::string> GuestLibrary(const RunOptions& options) {
  if (!options.guest_library.empty()) return options.guest_library;
  const std::string folder = ProgramFolder();
  for (const char* relative : {"/libtessera.so", "/../lib/libtessera.so"}) {
    char resolved[PATH_MAX];
    if (realpath((folder + relative).c_str(), resolved) != nullptr) return std::string(resolved);
  }
  return Error(Code::kFailedPrecondition,
               "libtessera.so is neither beside this program nor in ../lib of it");
}

// What the flags ask for, checked before anything is started.
struct Request {
  std::uint64_t memory_bytes = 0;
  std::optional<Permille> compute;  // nothing: the node gives compute in proportion to the memory
  int cards = 1;
  std::string isolation;
};

Result<Request> ParseFlags(const RunOptions& options) {
  Request request;
  TRY(request.memory_bytes, ParseBytes(options.memory, "--memory"));
  if (request.memory_bytes == 0 || request.memory_bytes > kMemoryBytesMax) {
    return Error::Field("--memory",
                        "expected more than 0 and at most " + FormatBytes(kMemoryBytesMax));
  }
  if (!options.compute.empty()) {
    TRY(request.compute, ParsePermille(options.compute, "--compute"));
  }
  TRY(const std::int64_t cards, ParseInt(options.cards, "--cards", 1, kCardsMax));
  request.cards = static_cast<int>(cards);
  if (!options.isolation.empty() && options.isolation != "shim" && options.isolation != "spatial" &&
      options.isolation != "whole") {
    return Error::Field("--isolation", "expected shim, spatial or whole");
  }
  request.isolation = options.isolation;
  if (options.command.empty() || options.command[0].empty()) {
    return Error::Field(
        "program", "expected a program after --, such as: tessera run --memory 4GiB -- ./program");
  }
  return request;
}

// --- the node

http::Client NodeClient(const std::string& run_dir, int timeout_millis) {
  http::Client::Options options;
  options.unix_path = run_dir + "/node.sock";
  options.timeout_millis = timeout_millis;
  return http::Client(options);
}

bool Answers(const std::string& run_dir) {
  http::Client client = NodeClient(run_dir, 2'000);
  const auto reply = client.Call("GET", "/healthz");
  return reply && reply->status == 200;
}

// The run folder decides whose sockets we talk to: in a place everybody may write to, it must be
// ours alone.
Status PrepareRunDir(const std::string& run_dir) {
  os::Files& files = os::PosixFiles();
  if (!files.Exists(run_dir)) TRY_STATUS(files.MakeDirs(run_dir, geteuid() == 0 ? 0755 : 0700));
  struct stat info{};
  if (lstat(run_dir.c_str(), &info) != 0) return os::ErrnoError("stat", run_dir, errno);
  if (!S_ISDIR(info.st_mode) || (info.st_uid != geteuid() && info.st_uid != 0) ||
      (info.st_mode & 022) != 0) {
    return Error(Code::kPermissionDenied,
                 run_dir + " is not a folder that only its owner, you or root, can write to");
  }
  return {};
}

struct Node {
  os::Fd log;
  os::Fd alive;  // at its end when the tesserad we started has ended
};

// Starts a tesserad that outlives us. Two runs may both do so: the second tesserad finds the folder
// taken and ends, and both runs join the first.
Result<Node> SpawnNode(const RunOptions& options, const std::string& run_dir,
                       const std::string& library) {
  const std::string program =
      options.node_program.empty() ? ProgramFolder() + "/tesserad" : options.node_program;
  if (access(program.c_str(), X_OK) != 0) {
    return Error(Code::kFailedPrecondition, "no tesserad answers on " + run_dir +
                                                "/node.sock and there is none to start at " +
                                                program);
  }
  const std::string log_path = run_dir + "/tesserad.log";
  Node node;
  node.log =
      os::Fd(open(log_path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!node.log) return os::ErrnoError("open", log_path, errno);
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return os::ErrnoError("pipe", program, errno);
  node.alive = os::Fd(fds[0]);
  const os::Fd held(fds[1]);
  const pid_t child = fork();
  if (child < 0) return os::ErrnoError("fork", program, errno);
  if (child == 0) {
    setsid();
    if (fork() != 0) _exit(0);
    const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    dup2(null, 0);
    dup2(node.log.get(), 1);
    dup2(node.log.get(), 2);
    fcntl(held.get(), F_SETFD, 0);  // stays open in the tesserad for as long as it lives
    if (chdir("/") != 0) _exit(1);
    unsetenv("LD_PRELOAD");
    std::vector<std::string> words = {"tesserad", "--run-dir", run_dir, "--guest-library", library};
    words.insert(words.end(), options.node_arguments.begin(), options.node_arguments.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    execv(program.c_str(), argv.data());
    dprintf(2, "cannot run %s: %s\n", program.c_str(), std::strerror(errno));
    _exit(127);
  }
  waitpid(child, nullptr, 0);
  return node;
}

std::string TailOf(int fd, off_t from) {
  struct stat info{};
  if (fstat(fd, &info) != 0) return "";
  from = std::max(from, info.st_size - static_cast<off_t>(kLogTailBytes));
  std::string text(kLogTailBytes, '\0');
  const ssize_t n = pread(fd, text.data(), text.size(), from);
  text.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
  return text;
}

Status EnsureNode(const RunOptions& options, const std::string& run_dir,
                  const std::string& library) {
  if (Answers(run_dir)) return {};
  TRY_STATUS(PrepareRunDir(run_dir));
  struct stat before{};
  const bool had_log = stat((run_dir + "/tesserad.log").c_str(), &before) == 0;
  TRY(const Node node, SpawnNode(options, run_dir, library));
  const auto said = [&] {
    return "; it said:\n" + TailOf(node.log.get(), had_log ? before.st_size : 0);
  };
  const os::Clock& clock = os::RealClock();
  std::int64_t until = clock.MonotonicNanos() + std::int64_t{kNodeReadyMillisMax} * 1'000'000;
  bool ended = false;
  while (!Answers(run_dir)) {
    if (clock.MonotonicNanos() > until) {
      if (ended) return Error(Code::kUnavailable, "tesserad ended before it answered" + said());
      return Error(Code::kUnavailable,
                   "tesserad did not answer within kNodeReadyMillisMax (60 s)" + said());
    }
    pollfd alive{node.alive.get(), POLLIN, 0};
    if (!ended && poll(&alive, 1, 0) > 0) {
      // It may have found another one that is only just coming up.
      ended = true;
      until =
          std::min(until, clock.MonotonicNanos() + std::int64_t{kOtherNodeMillisMax} * 1'000'000);
    }
    clock.SleepNanos(kNodePollNanos);
  }
  return {};
}

struct Slice {
  std::string id;
  std::string socket;                    // where the guest library asks
  std::string library;                   // the node's own choice; empty: it has none
  std::vector<std::string> environment;  // NAME=value, for the program
  bool contained = false;
  bool simulated = false;
};

// Asks for the slice and puts the (still waiting) program into it with one call, so that no crash
// in between leaves a slice that nobody uses.
Result<Slice> Allocate(http::Client& client, const Request& request, pid_t program) {
  http::JsonWriter json;
  json.BeginObject()
      .Field("memory", request.memory_bytes)
      .Field("cards", request.cards)
      .Field("pid", static_cast<std::int64_t>(program));
  if (request.compute) json.Field("compute", request.compute->value);
  if (!request.isolation.empty()) json.Field("isolation", request.isolation);
  json.EndObject();
  TRY(const std::string body, client.CallOk("POST", "/v1/allocations", json.Take()));
  TRY(http::JsonObject reply, http::JsonObject::Parse(body));
  Slice slice;
  TRY(slice.id, reply.String("id"));
  TRY(slice.contained, reply.Bool("contained"));
  TRY(slice.socket, reply.String("socket", PATH_MAX));
  TRY(slice.library, reply.OptionalString("library", "", PATH_MAX));
  TRY(slice.environment, reply.OptionalStrings("environment", kVariablesMax, PATH_MAX));
  TRY(const auto shares, reply.Array("shares", kCardsMax));
  std::set<std::string> mine;
  for (const http::JsonValue& item : shares) {
    TRY(http::JsonObject share, item.Object());
    TRY(std::string card, share.String("card"));
    mine.insert(std::move(card));
  }
  TRY(const std::string cards_body, client.CallOk("GET", "/v1/cards"));
  TRY(http::JsonObject cards_reply, http::JsonObject::Parse(cards_body));
  TRY(const auto cards, cards_reply.Array("cards", kNodeCardsMax));
  for (const http::JsonValue& item : cards) {
    TRY(http::JsonObject card, item.Object());
    TRY(const std::string uuid, card.String("uuid"));
    TRY(const bool simulated, card.Bool("simulated"));
    slice.simulated = slice.simulated || (simulated && mine.contains(uuid));
  }
  return slice;
}

// --- the program

struct Program {
  pid_t pid = 0;
  os::Fd gate;  // "library NUL socket", then NUL and "NAME=value" each, lets it begin; closing it
                // before that ends it
};

// The program's process up to its first instruction.
[[noreturn]] void BecomeProgram(const RunOptions& options, int gate, const sigset_t& mask) {
  std::string words;
  char buffer[PATH_MAX];
  while (true) {
    const ssize_t n = read(gate, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    words.append(buffer, static_cast<std::size_t>(n));
  }
  const std::size_t stop = words.find('\0');
  if (stop == std::string::npos) _exit(1);
  sigprocmask(SIG_SETMASK, &mask, nullptr);
  const std::string preloaded = Environment("LD_PRELOAD");
  const std::string library = words.substr(0, stop);
  setenv("LD_PRELOAD", (preloaded.empty() ? library : library + ":" + preloaded).c_str(), 1);
  std::size_t next = stop + 1;
  setenv(kSocketVariable, words.c_str() + next, 1);
  while ((next = words.find('\0', next)) != std::string::npos) {
    std::string variable = words.c_str() + ++next;
    if (const auto equals = variable.find('='); equals != std::string::npos) {
      setenv(variable.substr(0, equals).c_str(), variable.c_str() + equals + 1, 1);
    }
  }
  std::vector<char*> argv;
  for (const std::string& argument : options.command)
    argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  execvp(argv[0], argv.data());
  const int cause = errno;
  dprintf(2, "tessera: cannot run %s: %s\n", argv[0], std::strerror(cause));
  _exit(cause == ENOENT || cause == ENOTDIR ? 127 : 126);
}

Result<Program> ForkStopped(const RunOptions& options, const sigset_t& mask) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return os::ErrnoError("pipe", options.command[0], errno);
  const os::Fd reader(fds[0]);
  Program program;
  program.gate = os::Fd(fds[1]);
  program.pid = fork();
  if (program.pid < 0) return os::ErrnoError("fork", options.command[0], errno);
  if (program.pid == 0) {
    program.gate.Close();
    BecomeProgram(options, reader.get(), mask);
  }
  return program;
}

// Waits for the program and passes on what other processes send us. What the terminal sends
// (Ctrl-C) reaches the program by itself, it is in the same foreground group.
int WaitFor(pid_t pid, const sigset_t& watched) {
  const timespec while_waiting{1, 0};
  while (true) {
    siginfo_t info{};
    const int number = sigtimedwait(&watched, &info, &while_waiting);
    if (number > 0 && number != SIGCHLD && info.si_code != SI_KERNEL) kill(pid, number);
    int status = 0;
    if (waitpid(pid, &status, WNOHANG) != pid) continue;
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  }
}

Result<int> Run(const RunOptions& options) {
  TRY(const Request request, ParseFlags(options));
  TRY(const std::string library, GuestLibrary(options));
  const std::string run_dir = RunDir(options);
  TRY_STATUS(EnsureNode(options, run_dir, library));
  http::Client client = NodeClient(run_dir, kNodeCallMillisMax);

  sigset_t watched, before;
  sigemptyset(&watched);
  for (const int number : {SIGCHLD, SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2}) {
    sigaddset(&watched, number);
  }
  sigprocmask(SIG_BLOCK, &watched, &before);
  auto program = ForkStopped(options, before);
  if (!program) return program.error();
  const auto slice = Allocate(client, request, program->pid);
  if (slice) {
    if (slice->simulated) std::fprintf(options.err, "tessera: the card is simulated\n");
    if (!slice->contained) {
      std::fprintf(
          options.err,
          "tessera: not contained: the program is held by its family tree, not by a cgroup\n");
    }
    std::fflush(options.err);
    std::string words = slice->library.empty() ? library : slice->library;
    words += '\0';
    words += slice->socket;
    for (const std::string& variable : slice->environment) words += '\0' + variable;
    // Less than a pipe holds; a program that was killed meanwhile is noticed below.
    signal(SIGPIPE, SIG_IGN);
    [[maybe_unused]] const ssize_t n = write(program->gate.get(), words.data(), words.size());
  }
  program->gate.Close();
  const int code = WaitFor(program->pid, watched);
  sigprocmask(SIG_SETMASK, &before, nullptr);
  if (!slice) return slice.error();
  // While something the program left behind still lives, the slice stays held; the node takes it
  // back after that.
  const auto released = client.CallOk("DELETE", "/v1/slices/" + slice->id);
  if (!released && released.error().code() != Code::kFailedPrecondition &&
      released.error().code() != Code::kNotFound) {
    std::fprintf(options.err, "tessera: releasing slice %s: %s\n", slice->id.c_str(),
                 released.error().message().c_str());
  }
  return code;
}

}  // namespace

int RunCommand(const RunOptions& options) {
  auto code = Run(options);
  if (code) return *code;
  Context context;
  context.err = options.err;
  return Report(context, code.error());
}

}  // namespace tessera::cli
