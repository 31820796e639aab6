// What the tests of this library share: a machine of its own, other processes on its cards, and
// calls by name, as a client makes them.
#pragma once

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "abi/nvml.h"
#include "simgpu/state/state.h"

namespace simgpu {

using namespace tessera::abi;  // NOLINT: the public names, as clients write them

inline constexpr auto kPatience = std::chrono::seconds(60);
inline constexpr uint64_t kCopyNs = 30'000'000'000;  // longer than any test looks

// The state folder must be chosen before the library is first initialised, so once for the whole
// program.
class Folder : public testing::Environment {
 public:
  explicit Folder(const char* cards) : cards_(cards) {}
  void SetUp() override {
    char path[] = "/tmp/simgpu-nvml.XXXXXX";
    ASSERT_NE(mkdtemp(path), nullptr);
    path_ = path;
    setenv("SIMGPU_STATE", path, 1);
    setenv("SIMGPU_CARDS", cards_, 1);
  }
  void TearDown() override { std::filesystem::remove_all(path_); }

 private:
  const char* cards_;
  std::string path_;
};

// A process that takes memory of card 0 and on command begins work (b), ends it (e), or makes a
// long copy to the card (t) or from it (f).
class Guest {
 public:
  explicit Guest(uint64_t bytes) {
    EXPECT_EQ(pipe(to_), 0);
    EXPECT_EQ(pipe(from_), 0);
    pid_ = fork();
    if (pid_ == 0) Live(bytes);
    // Only the child holds its ends, so that its death is heard as the end of the pipe.
    close(to_[0]);
    close(from_[1]);
    Hear();
  }
  ~Guest() { End(); }

  pid_t pid() const { return pid_; }
  void Say(char what) {
    ASSERT_EQ(write(to_[1], &what, 1), 1);
    Hear();
  }
  void End() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
    for (int fd : {to_[1], from_[0]}) close(fd);
  }

 private:
  void Hear() {
    char answer = 0;
    ASSERT_EQ(read(from_[0], &answer, 1), 1);
    ASSERT_EQ(answer, 'k');
  }
  [[noreturn]] void Live(uint64_t bytes) {
    close(to_[1]);
    close(from_[0]);
    std::string error;
    State* const state = State::Open(&error);
    if (state == nullptr) _exit(1);
    char answer = 'f';
    if (state->Take(0, State::Kind::kContext, state->card(0).profile.context_bytes) ==
            State::Answer::kOk &&
        state->Take(0, State::Kind::kAllocation, bytes) == State::Answer::kOk) {
      answer = 'k';
    }
    char command = 0;
    uint64_t begun = 0;
    while (write(from_[1], &answer, 1) == 1 && read(to_[0], &command, 1) == 1) {
      if (command == 'b') begun = state->engine(0).Begin(0);
      if (command == 'e') state->engine(0).End(begun, 0);
      if (command == 't') state->engine(0).Copy(CopyLane::kToDevice, 0, kCopyNs);
      if (command == 'f') state->engine(0).Copy(CopyLane::kFromDevice, 0, kCopyNs);
    }
    _exit(0);
  }

  int to_[2] = {-1, -1};
  int from_[2] = {-1, -1};
  pid_t pid_ = -1;
};

class Nvml : public testing::Test {
 protected:
  void SetUp() override {
    library_ = dlopen(SIMGPU_NVML_PATH, RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(library_, nullptr) << dlerror();
  }
  void TearDown() override {
    while (Call("nvmlShutdown") == NVML_SUCCESS) {
    }
  }

  template <typename... Args>
  nvmlReturn_t Call(const char* name, Args... args) {
    auto* const fn = reinterpret_cast<nvmlReturn_t (*)(Args...)>(dlsym(library_, name));
    EXPECT_NE(fn, nullptr) << name;
    return fn == nullptr ? NVML_ERROR_FUNCTION_NOT_FOUND : fn(args...);
  }
  nvmlDevice_t Card(unsigned index) {
    nvmlDevice_t device = nullptr;
    EXPECT_EQ(Call("nvmlDeviceGetHandleByIndex_v2", index, &device), NVML_SUCCESS);
    return device;
  }
  // What shall go wrong from now on.
  static void Faults(const std::string& rules) {
    const std::string path = std::string(getenv("SIMGPU_STATE")) + "/faults";
    std::ofstream(path + ".new") << rules;
    std::filesystem::rename(path + ".new", path);
  }
  unsigned Load(nvmlDevice_t device) {
    nvmlUtilization_t load = {};
    EXPECT_EQ(Call("nvmlDeviceGetUtilizationRates", device, &load), NVML_SUCCESS);
    return load.gpu;
  }
  unsigned Number(const char* call, nvmlDevice_t device) {
    unsigned value = 0;
    EXPECT_EQ(Call(call, device, &value), NVML_SUCCESS) << call;
    return value;
  }

  void* library_ = nullptr;
};

// Waits with patience until `look` is true.
template <typename Look>
bool Comes(Look look) {
  const auto until = std::chrono::steady_clock::now() + kPatience;
  while (!look()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return true;
}

// A profile's file read in the test's own way: the truth that answers are compared with.
struct ProfileFile {
  std::map<std::string, std::string> words;
  std::vector<std::vector<std::string>> mig;  // columns of each line

  uint64_t Number(const std::string& key) const {
    const auto at = words.find(key);
    EXPECT_NE(at, words.end()) << key;
    return at == words.end() ? 0 : std::stoull(at->second, nullptr, 0);
  }
};
inline ProfileFile ReadProfileFile(const std::string& key) {
  ProfileFile file;
  std::ifstream in(std::string(SIMGPU_PROFILE_FOLDER "/") + key + ".profile");
  EXPECT_TRUE(in) << key;
  for (std::string line; std::getline(in, line);) {
    if (line.empty() || line[0] == '#') continue;
    const size_t space = line.find(' ');
    if (line.substr(0, space) != "mig") {
      file.words[line.substr(0, space)] = line.substr(space + 1);
      continue;
    }
    std::istringstream columns(line.substr(space));
    file.mig.emplace_back(std::istream_iterator<std::string>(columns),
                          std::istream_iterator<std::string>());
  }
  return file;
}

}  // namespace simgpu
