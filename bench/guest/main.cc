// bench-guest [--json FILE]: what libtessera.so adds to a call, on a driver that does nothing.
//
// Two copies of the same program run side by side, one with the preload; they make batches of calls
// in turn, and the figure is the median over pairs of the difference. One machine, one moment, so
// drift and neighbours cancel. MAD is the median distance from that median. Instructions are
// counted by callgrind: (2N calls - N calls) / N, with and without.
#include <spawn.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "bench/figures.h"
#include "bench/guest/shares.h"
#include "bench/guest/worker.h"
#include "guest/test_node.h"

extern char** environ;

namespace {

using tessera::guest::TestNode;

constexpr char kNullCard[] = "GPU-73696d67-7075-2d6e-756c-6c2d63617264";
constexpr int kPairs = 61;
constexpr int kStarts = 61;

using tessera::bench::Figure;
using tessera::bench::Summarise;

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "bench-guest: %s: %s\n", what.c_str(), std::strerror(errno));
  std::exit(1);
}

// The environment of a measured program: the null driver, and the guest when `preloaded`.
std::vector<std::string> Environment(bool preloaded, const std::string& socket) {
  std::vector<std::string> result;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    if (text.rfind("LD_", 0) == 0 || text.rfind("CUDA_", 0) == 0) continue;
    result.push_back(text);
  }
  result.push_back(std::string("LD_LIBRARY_PATH=") + TESSERA_NULL_FOLDER);
  if (preloaded) result.push_back(std::string("LD_PRELOAD=") + TESSERA_GUEST_LIBRARY);
  result.push_back(std::string(tessera::wire::kSocketVariable) + "=" + socket);
  return result;
}

pid_t Spawn(const std::vector<std::string>& arguments, const std::vector<std::string>& environment,
            int in, int out, int err) {
  std::vector<char*> argv, envp;
  for (const auto& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  for (const auto& entry : environment) envp.push_back(const_cast<char*>(entry.c_str()));
  argv.push_back(nullptr);
  envp.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  if (in >= 0) posix_spawn_file_actions_adddup2(&actions, in, 0);
  if (out >= 0) posix_spawn_file_actions_adddup2(&actions, out, 1);
  if (err >= 0) posix_spawn_file_actions_adddup2(&actions, err, 2);
  pid_t pid = 0;
  const int error = posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), envp.data());
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    errno = error;
    Die(arguments[0]);
  }
  return pid;
}

// One of the two programs.
class Worker {
 public:
  Worker(const std::string& program, bool preloaded, const std::string& socket) {
    int down[2], up[2];
    if (pipe2(down, O_CLOEXEC) != 0 || pipe2(up, O_CLOEXEC) != 0) Die("pipe");
    pid_ = Spawn({program, "--worker"}, Environment(preloaded, socket), down[0], up[1], -1);
    close(down[0]);
    close(up[1]);
    commands_ = down[1];
    answers_ = fdopen(up[0], "r");
  }
  ~Worker() {
    close(commands_);
    std::fclose(answers_);
    int status = 0;
    waitpid(pid_, &status, 0);
  }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  double NanosPerCall(const std::string& kind, long calls) {
    const std::string command = kind + " " + std::to_string(calls) + "\n";
    if (write(commands_, command.data(), command.size()) != static_cast<ssize_t>(command.size())) {
      Die("worker");
    }
    unsigned long long nanos = 0;
    if (std::fscanf(answers_, "%llu", &nanos) != 1) Die("a worker ended");
    return static_cast<double>(nanos) / static_cast<double>(calls);
  }

 private:
  pid_t pid_ = 0;
  int commands_ = -1;
  std::FILE* answers_ = nullptr;
};

double StartMicros(const std::string& program, bool preloaded, const std::string& socket) {
  timespec before, after;
  clock_gettime(CLOCK_MONOTONIC, &before);
  const pid_t pid = Spawn({program, "--start"}, Environment(preloaded, socket), -1, -1, -1);
  int status = 0;
  if (waitpid(pid, &status, 0) != pid || status != 0) Die("a process start failed");
  clock_gettime(CLOCK_MONOTONIC, &after);
  return static_cast<double>(after.tv_sec - before.tv_sec) * 1e6 +
         static_cast<double>(after.tv_nsec - before.tv_nsec) / 1e3;
}

bool HaveValgrind() { return std::system("valgrind --version >/dev/null 2>&1") == 0; }

// Instructions callgrind counts for a whole run.
double Instructions(const std::string& program, const std::string& kind, long calls, bool preloaded,
                    const std::string& socket, const std::string& folder) {
  const std::string log = folder + "/callgrind";
  const pid_t pid = Spawn({"valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null",
                           "--log-file=" + log, program, "--calls", kind, std::to_string(calls)},
                          Environment(preloaded, socket), -1, -1, -1);
  int status = 0;
  if (waitpid(pid, &status, 0) != pid || status != 0) Die("valgrind failed");
  std::FILE* file = std::fopen(log.c_str(), "re");
  if (file == nullptr) Die(log);
  char line[512];
  double count = -1;
  while (std::fgets(line, sizeof(line), file) != nullptr) {
    if (const char* at = std::strstr(line, "Collected :")) count = std::strtod(at + 11, nullptr);
  }
  std::fclose(file);
  unlink(log.c_str());
  if (count < 0) Die("valgrind counted nothing");
  return count;
}

int Measure(const std::string& json) {
  char program[4096];
  const ssize_t length = readlink("/proc/self/exe", program, sizeof(program) - 1);
  if (length < 0) Die("/proc/self/exe");
  program[length] = '\0';
  char folder[] = "/tmp/bgXXXXXX";
  if (mkdtemp(folder) == nullptr) Die("mkdtemp");
  const std::string socket = std::string(folder) + "/s";
  TestNode node({{kNullCard, 60ull << 30, 256ull << 20}});
  if (!node.Listen(socket)) Die(socket);

  std::vector<Figure> figures;
  struct Kind {
    const char* kind;
    const char* name;
    long calls;    // a batch
    long counted;  // N for callgrind
  };
  const Kind kinds[] = {{"launch", "launch_added_ns", 20000, 20000},
                        {"alloc_free.1", "alloc_free_added_ns.1", 5000, 5000},
                        {"alloc_free.100", "alloc_free_added_ns.100", 5000, 5000},
                        {"alloc_free.10000", "alloc_free_added_ns.10000", 5000, 5000},
                        {"meminfo", "meminfo_added_ns", 20000, 20000}};
  {
    Worker direct(program, false, socket), guest(program, true, socket);
    const auto measure = [&](const Kind& kind) {
      std::vector<double> differences;
      for (int pair = -3; pair < kPairs; ++pair) {
        // Who goes first alternates; the first pairs only warm up.
        double with = 0, without = 0;
        if (pair % 2 == 0) {
          without = direct.NanosPerCall(kind.kind, kind.calls);
          with = guest.NanosPerCall(kind.kind, kind.calls);
        } else {
          with = guest.NanosPerCall(kind.kind, kind.calls);
          without = direct.NanosPerCall(kind.kind, kind.calls);
        }
        if (pair >= 0) differences.push_back(with - without);
      }
      Summarise(kind.name, differences, &figures);
    };
    for (const Kind& kind : kinds) measure(kind);
    // The same launch in a turn that is granted and has room, marks included.
    tessera::bench::GrantedTurn turn(&node);
    measure({"launch", "launch_capped_added_ns", 20000, 0});
  }
  std::vector<double> differences;
  for (int pair = -3; pair < kStarts; ++pair) {
    const double without = StartMicros(program, false, socket);
    const double with = StartMicros(program, true, socket);
    if (pair >= 0) differences.push_back(with - without);
  }
  Summarise("init_added_us", differences, &figures);

  if (HaveValgrind()) {
    for (const Kind& kind : kinds) {
      double per_call[2];
      for (const bool preloaded : {false, true}) {
        const double once =
            Instructions(program, kind.kind, kind.counted, preloaded, socket, folder);
        const double twice =
            Instructions(program, kind.kind, 2 * kind.counted, preloaded, socket, folder);
        per_call[preloaded] = (twice - once) / static_cast<double>(kind.counted);
      }
      figures.push_back({std::string(kind.name) + "_instructions", per_call[1] - per_call[0]});
    }
  } else {
    std::fprintf(stderr,
                 "bench-guest: valgrind is not installed, so instructions are not counted\n");
  }
  node.Stop();
  rmdir(folder);
  tessera::bench::MeasureShares("", &figures);

  if (!tessera::bench::WriteFigures(json, figures)) Die(json);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  if (mode == "--worker" && argc == 2) return tessera::bench::ServeBatches(0, 1);
  if (mode == "--start" && argc == 2) return tessera::bench::StartOnly();
  if (mode == "--calls" && argc == 4) {
    return tessera::bench::MakeCalls(argv[2], std::strtol(argv[3], nullptr, 10));
  }
  if (mode == "--shares" && argc == 3) {
    std::vector<Figure> none;
    tessera::bench::MeasureShares(argv[2], &none);
    return 0;
  }
  if (mode == "--json" && argc == 3) return Measure(argv[2]);
  if (argc == 1) return Measure("");
  std::fprintf(stderr, "usage: bench-guest [--json FILE | --shares MIX]\n");
  return 2;
}
