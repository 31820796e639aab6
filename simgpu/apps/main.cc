// simgpu COMMAND ...: see kUsage.
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>

#include "simgpu/apps/commands.h"

namespace simgpu::apps {
namespace {

constexpr char kUsage[] =
    "simgpu: a GPU made of software, for programs on the CUDA driver API\n"
    "\n"
    "simgpu run [options] -- PROGRAM [ARGUMENTS]   runs a program on simulated cards\n"
    "    --cards A100-80,T4   the cards (simgpu cards lists what there is); default A100-80\n"
    "    --state private      cards of its own, gone when the program ends (the default)\n"
    "    --state shared       the machine's shared cards; --state DIR: those of that folder\n"
    "    --seed N             reorders what streams do not order, drawn from N\n"
    "    --trace FILE         writes every driver call to FILE (-: the standard error)\n"
    "    --faults FILE        what shall go wrong (see simgpu faults)\n"
    "    --quiet              silences what simgpu has to say\n"
    "simgpu cards [--state DIR|shared]             models, and the cards of a state folder\n"
    "simgpu ps [--state DIR|shared]                processes on the cards, their memory and time\n"
    "simgpu faults check FILE|-                    reads rules and says what is wrong with them\n"
    "simgpu faults show [--state DIR|shared]       the rules that stand\n"
    "simgpu faults set [--state DIR|shared] RULE...  replaces the rules (FILE with --from)\n"
    "simgpu faults clear [--state DIR|shared]      takes them away\n"
    "simgpu trace-diff [--ignore CALL[.PARAMETER]]... A B\n"
    "                                              compares two call traces\n"
    "\n"
    "Exit codes of run: the program's own; 128 + N when signal N ended it; 3 when it can never "
    "run\n"
    "on simgpu; 126 and 127 as a shell's.\n";

bool IsFolder(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

}  // namespace

void Complain(const std::string& what) { fprintf(stderr, "simgpu: %s\n", what.c_str()); }

bool Options::Read(const Words& words, const Words& with_value, const Words& flags) {
  auto known = [](const Words& names, const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  size_t i = 0;
  for (; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word == "--") {
      ++i;
      break;
    }
    if (word.size() < 3 || word.compare(0, 2, "--") != 0) break;
    const size_t equals = word.find('=');
    const std::string name = word.substr(2, equals == std::string::npos ? equals : equals - 2);
    if (known(flags, name)) {
      if (equals != std::string::npos) {
        Complain("--" + name + ": expected no value");
        return false;
      }
      given_.emplace_back(name, "");
    } else if (known(with_value, name)) {
      if (equals != std::string::npos) {
        given_.emplace_back(name, word.substr(equals + 1));
      } else if (i + 1 < words.size()) {
        given_.emplace_back(name, words[++i]);
      } else {
        Complain("--" + name + ": expected a value");
        return false;
      }
    } else {
      std::string expected;
      for (const Words* names : {&with_value, &flags}) {
        for (const std::string& one : *names) expected += (expected.empty() ? "--" : ", --") + one;
      }
      Complain("--" + name + ": no such option; expected " +
               (expected.empty() ? "none" : expected));
      return false;
    }
  }
  rest_.assign(words.begin() + static_cast<std::ptrdiff_t>(i), words.end());
  return true;
}

bool Options::Has(const std::string& name) const {
  return std::any_of(given_.begin(), given_.end(),
                     [&](const auto& one) { return one.first == name; });
}

std::string Options::Get(const std::string& name, const std::string& otherwise) const {
  for (const auto& [given, value] : given_) {
    if (given == name) return value;
  }
  return otherwise;
}

std::vector<std::string> Options::All(const std::string& name) const {
  std::vector<std::string> values;
  for (const auto& [given, value] : given_) {
    if (given == name) values.push_back(value);
  }
  return values;
}

std::string StateFolder(const Options& options) {
  std::string given = options.Get("state");
  if (!given.empty() && given != "shared") return given;
  const char* chosen = getenv("SIMGPU_STATE");
  if (given.empty() && chosen != nullptr && *chosen != 0) return chosen;
  return "/dev/shm/simgpu";
}

std::string LibraryFolder(std::string* error) {
  char path[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
  if (length <= 0) {
    *error = std::string("/proc/self/exe: ") + strerror(errno);
    return "";
  }
  std::string here(path, static_cast<size_t>(length));
  for (int up = 0; up < 2; ++up) here.resize(std::min(here.size(), here.rfind('/')));
  for (const char* below : {"/simgpu/lib", "/lib/simgpu"}) {
    const std::string folder = here + below;
    if (IsFolder(folder) && access((folder + "/libcuda.so.1").c_str(), R_OK) == 0) return folder;
  }
  *error = "no libcuda.so.1 in " + here + "/simgpu/lib or " + here +
           "/lib/simgpu: build the target simgpu_cuda, or install the component simgpu";
  return "";
}

}  // namespace simgpu::apps

int main(int argc, char** argv) {
  using namespace simgpu::apps;  // NOLINT
  const Words words(argv + std::min(argc, 2), argv + argc);
  const std::string command = argc > 1 ? argv[1] : "";
  if (command == "run") return Run(words);
  if (command == "cards") return Cards(words);
  if (command == "ps") return Ps(words);
  if (command == "faults") return FaultsCommand(words);
  if (command == "trace-diff") return TraceDiffCommand(words);
  if (command == "help" || command == "--help" || command == "-h") {
    fputs(kUsage, stdout);
    return 0;
  }
  fputs(kUsage, stderr);
  Complain((command.empty() ? "" : "\"" + command + "\": ") +
           "expected run, cards, ps, faults, trace-diff or help");
  return kExitUsage;
}
