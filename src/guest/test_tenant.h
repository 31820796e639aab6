// A tenant program (testdata/tenant.cc) with an environment of the test's choosing, spoken to line
// by line.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace tessera::guest {

struct TenantAnswer {
  unsigned code = 7777;
  unsigned long long a = 0, b = 0;
};

// Owns the process. Not thread-safe.
class TestTenant {
 public:
  using Environment = std::vector<std::pair<std::string, std::string>>;
  // `argv` is the program and its arguments; what it says on stderr is kept. `inside` runs in the
  // new process before the program does.
  TestTenant(const std::vector<std::string>& argv, const Environment& environment,
             const std::function<void()>& inside = {}) {
    int down[2], up[2], said[2];
    if (pipe2(down, O_CLOEXEC) != 0 || pipe2(up, O_CLOEXEC) != 0 || pipe2(said, O_CLOEXEC) != 0)
      std::abort();
    pid_ = fork();
    if (pid_ == 0) {
      dup2(down[0], 0);
      dup2(up[1], 1);
      dup2(said[1], 2);
      for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
      if (inside) inside();
      std::vector<char*> words;
      for (const std::string& word : argv) words.push_back(const_cast<char*>(word.c_str()));
      words.push_back(nullptr);
      execvp(words[0], words.data());
      _exit(127);
    }
    close(down[0]);
    close(up[1]);
    close(said[1]);
    said_ = said[0];
    in_ = fdopen(down[1], "w");
    out_ = fdopen(up[0], "r");
  }
  ~TestTenant() { End(); }
  TestTenant(const TestTenant&) = delete;
  TestTenant& operator=(const TestTenant&) = delete;

  TenantAnswer Do(const std::string& command, unsigned long long n = 0) {
    std::fprintf(in_, "%s %llu\n", command.c_str(), n);
    std::fflush(in_);
    TenantAnswer answer;
    if (std::fscanf(out_, "%u %llu %llu", &answer.code, &answer.a, &answer.b) != 3)
      answer.code = 6666;
    return answer;
  }
  unsigned Code(const std::string& command, unsigned long long n = 0) {
    return Do(command, n).code;
  }
  // Ends it as nothing can be prepared for.
  void Kill() {
    kill(pid_, SIGKILL);
    End();
  }
  // Ends it and returns all it said on stderr.
  std::string End() {
    if (pid_ <= 0) return text_;
    std::fclose(in_);
    std::fclose(out_);
    char buffer[512];
    for (ssize_t got; (got = read(said_, buffer, sizeof(buffer))) > 0;)
      text_.append(buffer, static_cast<size_t>(got));
    close(said_);
    waitpid(pid_, nullptr, 0);
    pid_ = 0;
    return text_;
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = 0;
  int said_ = -1;
  std::FILE *in_ = nullptr, *out_ = nullptr;
  std::string text_;
};

}  // namespace tessera::guest
