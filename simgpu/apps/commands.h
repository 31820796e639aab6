// The commands of the program `simgpu`. Each takes the words after its name and answers the exit
// code; what is wrong is said on the standard error, naming the option and what was expected. A
// process runs one command, so nothing here is shared between threads.
#pragma once

#include <string>
#include <vector>

namespace simgpu::apps {

inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitCannotRun = 3;  // the program can never run on simgpu
inline constexpr int kExitNotExecutable = 126;
inline constexpr int kExitNotFound = 127;

using Words = std::vector<std::string>;

int Run(const Words& words);
int Cards(const Words& words);
int Ps(const Words& words);
int FaultsCommand(const Words& words);
int TraceDiffCommand(const Words& words);

// One line "simgpu: WHAT" on the standard error.
void Complain(const std::string& what);

// Options "--name value" and "--flag" from the front of `words` up to "--" or the first word that
// is none; what follows is left in `rest`.
class Options {
 public:
  // `with_value` and `flags` are the names that are known. False when one was wrong; it is said.
  bool Read(const Words& words, const Words& with_value, const Words& flags);
  bool Has(const std::string& name) const;
  // The value of the option, or `otherwise`.
  std::string Get(const std::string& name, const std::string& otherwise = "") const;
  std::vector<std::string> All(const std::string& name) const;
  const Words& rest() const { return rest_; }

 private:
  std::vector<std::pair<std::string, std::string>> given_;
  Words rest_;
};

// The state folder a command means: --state's value ("shared": the default one), else
// $SIMGPU_STATE, else the default one.
std::string StateFolder(const Options& options);
// The folder with simgpu's libcuda.so.1, found from where this program lies: in a build tree or an
// installed one. Empty with a sentence in `error`.
std::string LibraryFolder(std::string* error);

}  // namespace simgpu::apps
