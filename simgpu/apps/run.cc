// simgpu run: a program with simgpu's libraries before the machine's.
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "simgpu/apps/commands.h"
#include "simgpu/cudart/detect_static.h"
#include "simgpu/state/faults.h"
#include "simgpu/state/state.h"

namespace simgpu::apps {
namespace {

// Where a shell would find it; empty when nowhere.
std::string FindProgram(const std::string& name) {
  if (name.find('/') != std::string::npos) return name;
  const char* path = getenv("PATH");
  std::string rest = path != nullptr ? path : "/usr/local/bin:/usr/bin:/bin";
  rest += ':';
  for (size_t at = 0, end; (end = rest.find(':', at)) != std::string::npos; at = end + 1) {
    const std::string folder = end == at ? "." : rest.substr(at, end - at);
    const std::string file = folder + "/" + name;
    struct stat info;
    if (access(file.c_str(), X_OK) == 0 && stat(file.c_str(), &info) == 0 &&
        S_ISREG(info.st_mode)) {
      return file;
    }
  }
  return "";
}

// Whether the file has these bytes somewhere.
bool Mentions(const std::string& path, const char* what) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat info;
  if (fd < 0) return false;
  bool found = false;
  if (fstat(fd, &info) == 0 && info.st_size > 0) {
    const auto size = static_cast<size_t>(info.st_size);
    void* map = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map != MAP_FAILED) {
      found = memmem(map, size, what, strlen(what)) != nullptr;
      munmap(map, size);
    }
  }
  close(fd);
  return found;
}

void PutFirst(const char* variable, const std::string& folder) {
  const char* before = getenv(variable);
  const std::string value = before != nullptr && *before != 0 ? folder + ":" + before : folder;
  setenv(variable, value.c_str(), 1);
}

pid_t g_child = 0;

void PassOn(int signal) {
  if (g_child > 0) kill(g_child, signal);
}

// Runs the program as a child, because something is to be done when it has ended.
int RunAndWait(const std::string& program, char** argv) {
  // What arrives before the child exists is kept until it does.
  sigset_t passed, before;
  sigemptyset(&passed);
  for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2})
    sigaddset(&passed, signal);
  sigprocmask(SIG_BLOCK, &passed, &before);
  const pid_t child = fork();
  if (child < 0) {
    Complain(std::string("fork: ") + strerror(errno));
    return kExitFailed;
  }
  if (child == 0) {
    sigprocmask(SIG_SETMASK, &before, nullptr);
    execv(program.c_str(), argv);
    Complain(program + ": " + strerror(errno));
    _exit(kExitNotExecutable);
  }
  g_child = child;
  struct sigaction action = {};
  action.sa_handler = PassOn;
  for (int signal : {SIGTERM, SIGHUP, SIGUSR1, SIGUSR2}) sigaction(signal, &action, nullptr);
  // The terminal sends these to the child itself.
  action.sa_handler = SIG_IGN;
  for (int signal : {SIGINT, SIGQUIT}) sigaction(signal, &action, nullptr);
  sigprocmask(SIG_SETMASK, &before, nullptr);
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) {
      Complain(std::string("waitpid: ") + strerror(errno));
      return kExitFailed;
    }
  }
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

// A folder for this run alone, in memory where there is such a file system.
std::string MakePrivateFolder() {
  std::string error;
  const char* const chosen = getenv("TMPDIR");
  for (const char* parent : {"/dev/shm", chosen, "/tmp"}) {
    if (parent == nullptr || *parent == 0) continue;
    std::string name = std::string(parent) + "/simgpu-run-XXXXXX";
    if (mkdtemp(name.data()) != nullptr) return name;
    error += (error.empty() ? "" : "; ") + name + ": " + strerror(errno);
  }
  Complain("--state private: " + error);
  return "";
}

// Reads and checks the rules before anything is made.
bool ReadFaults(const std::string& path, std::string* text) {
  std::ifstream in(path, std::ios::binary);
  text->assign(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  if (!in.good() && !in.eof()) {
    Complain("--faults: " + path + ": " + strerror(errno));
    return false;
  }
  std::vector<FaultRule> rules;
  std::string errors;
  if (text->size() > kFaultFileBytesMax) {
    errors = path + ": larger than kFaultFileBytesMax = " + std::to_string(kFaultFileBytesMax);
  } else {
    ParseFaults(path, *text, '\n', &rules, &errors);
  }
  if (!errors.empty()) Complain("--faults: expected fault rules\n" + errors);
  return errors.empty();
}

bool WriteWhole(const std::string& path, const std::string& text) {
  const std::string fresh = path + ".new";
  std::ofstream out(fresh, std::ios::binary | std::ios::trunc);
  out << text;
  out.close();
  if (!out || rename(fresh.c_str(), path.c_str()) != 0) {
    Complain(path + ": " + strerror(errno));
    return false;
  }
  return true;
}

// Checks everything and sets the environment; what was made for this run stands in `made`.
int Prepare(const Options& options, std::string* program, std::string* made) {
  if (options.rest().empty()) {
    Complain("run: expected a program after the options, as in simgpu run -- ./program");
    return kExitUsage;
  }
  std::string error;
  const std::string libraries = LibraryFolder(&error);
  if (libraries.empty()) {
    Complain(error);
    return kExitFailed;
  }
  *program = FindProgram(options.rest()[0]);
  if (program->empty() || access(program->c_str(), F_OK) != 0) {
    Complain(options.rest()[0] + ": not found");
    return kExitNotFound;
  }
  if (access(program->c_str(), X_OK) != 0 || std::filesystem::is_directory(*program)) {
    Complain(*program + ": not an executable file");
    return kExitNotExecutable;
  }
  // A runtime that is linked in shows as device code without a library to load.
  if (HasSection(program->c_str(), ".nv_fatbin") && !Mentions(*program, "libcudart.so.")) {
    Complain(*program + ": " + UnsupportedRuntime(program->c_str()));
    return kExitCannotRun;
  }
  if (options.Has("seed")) {
    const std::string seed = options.Get("seed");
    if (seed.empty() || seed.size() > 19 ||
        seed.find_first_not_of("0123456789") != std::string::npos) {
      Complain("--seed: expected a number, not \"" + seed + "\"");
      return kExitUsage;
    }
    setenv("SIMGPU_SEED", seed.c_str(), 1);
  }
  std::string faults;
  if (options.Has("faults") && !ReadFaults(options.Get("faults"), &faults)) return kExitUsage;
  if (options.Has("trace")) {
    std::string trace = options.Get("trace");
    if (trace.empty()) {
      Complain("--trace: expected a file, or - for the standard error");
      return kExitUsage;
    }
    if (trace != "-") {
      // Emptied once here; every process of the program then appends.
      if (trace.find("%p") == std::string::npos) {
        const int fd = open(trace.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        if (fd < 0) {
          Complain("--trace: " + trace + ": " + strerror(errno));
          return kExitUsage;
        }
        close(fd);
      }
      trace = std::filesystem::absolute(trace).string();
    }
    setenv("SIMGPU_TRACE", trace.c_str(), 1);
  }
  if (options.Has("quiet")) setenv("SIMGPU_QUIET", "1", 1);
  if (options.Has("cards")) {
    if (options.Get("cards").empty()) {
      Complain("--cards: expected models with a comma between them; known are " + KnownProfiles());
      return kExitUsage;
    }
    setenv("SIMGPU_CARDS", options.Get("cards").c_str(), 1);
  }
  const std::string state = options.Get("state", "private");
  std::string folder;
  if (state == "private") {
    folder = *made = MakePrivateFolder();
    if (folder.empty()) return kExitFailed;
  } else if (state.empty()) {
    Complain("--state: expected private, shared or a folder");
    return kExitUsage;
  } else {
    folder = std::filesystem::absolute(StateFolder(options)).string();
  }
  setenv("SIMGPU_STATE", folder.c_str(), 1);
  // The cards are made here, so that a word that names none is this program's error.
  if (State::Open(&error) == nullptr) {
    Complain(options.Has("cards") && error.find("SIMGPU_CARDS: ") == 0
                 ? "--cards: " + error.substr(strlen("SIMGPU_CARDS: "))
                 : error);
    return kExitUsage;
  }
  if (options.Has("faults") && !WriteWhole(folder + "/faults", faults)) return kExitFailed;
  PutFirst("LD_LIBRARY_PATH", libraries);
  return 0;
}

}  // namespace

int Run(const Words& words) {
  Options options;
  if (!options.Read(words, {"cards", "state", "seed", "trace", "faults"}, {"quiet"})) {
    return kExitUsage;
  }
  std::string program, made;
  int code = Prepare(options, &program, &made);
  std::vector<char*> argv;
  for (const std::string& word : options.rest()) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  if (code == 0) {
    if (made.empty()) {
      execv(program.c_str(), argv.data());
      Complain(program + ": " + strerror(errno));
      return kExitNotExecutable;
    }
    code = RunAndWait(program, argv.data());
  }
  if (!made.empty()) {
    std::error_code gone;
    std::filesystem::remove_all(made, gone);
  }
  return code;
}

}  // namespace simgpu::apps
