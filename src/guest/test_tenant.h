// Programs that a test starts and speaks to line by line: any program, and the tenant of testdata/.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace tessera::guest {

// Owns the process. Not thread-safe.
class TestProgram {
 public:
  using Environment = std::vector<std::pair<std::string, std::string>>;
  // `argv` is the program and its arguments; `environment` is added to the test's own. `inside`
  // runs in the new process before the program does.
  TestProgram(const std::vector<std::string>& argv, const Environment& environment,
              const std::function<void()>& inside = {}) {
    int down[2], up[2];
    said_ = memfd_create("said", MFD_CLOEXEC);
    if (said_ < 0 || pipe2(down, O_CLOEXEC) != 0 || pipe2(up, O_CLOEXEC) != 0) std::abort();
    pid_ = fork();
    if (pid_ == 0) {
      dup2(down[0], 0);
      dup2(up[1], 1);
      dup2(said_, 2);
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
    in_ = fdopen(down[1], "w");
    out_ = fdopen(up[0], "r");
  }
  ~TestProgram() { End(); }
  TestProgram(const TestProgram&) = delete;
  TestProgram& operator=(const TestProgram&) = delete;

  void Say(const std::string& line) {
    std::fprintf(in_, "%s\n", line.c_str());
    std::fflush(in_);
  }
  std::FILE* out() { return out_; }
  // Ends it as nothing can be prepared for; End waits for that.
  void Kill() { kill(pid_, SIGKILL); }
  // Waits for its end; what it ended with, as waitpid says it. What it said on stderr is passed on.
  int End() {
    if (pid_ <= 0) return status_;
    std::fclose(in_);
    std::fclose(out_);
    waitpid(pid_, &status_, 0);
    pid_ = 0;
    char buffer[512];
    lseek(said_, 0, SEEK_SET);
    for (ssize_t got; (got = read(said_, buffer, sizeof(buffer))) > 0;) {
      text_.append(buffer, static_cast<size_t>(got));
    }
    close(said_);
    std::fputs(text_.c_str(), stderr);
    return status_;
  }
  // Ends it and returns all it said on stderr.
  const std::string& Said() {
    End();
    return text_;
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = 0;
  int said_ = -1, status_ = 0;
  std::FILE *in_ = nullptr, *out_ = nullptr;
  std::string text_;
};

struct TenantAnswer {
  unsigned code = 7777;
  unsigned long long a = 0, b = 0;
};

// The tenant program, or one that is spoken to like it.
class TestTenant : public TestProgram {
 public:
  using TestProgram::TestProgram;

  void Send(const std::string& command, unsigned long long n = 0) {
    Say(command + " " + std::to_string(n));
  }
  TenantAnswer Receive() {
    TenantAnswer answer;
    if (std::fscanf(out(), "%u %llu %llu", &answer.code, &answer.a, &answer.b) != 3)
      answer.code = 6666;
    return answer;
  }
  TenantAnswer Do(const std::string& command, unsigned long long n = 0) {
    Send(command, n);
    return Receive();
  }
  unsigned Code(const std::string& command, unsigned long long n = 0) {
    return Do(command, n).code;
  }
};

}  // namespace tessera::guest
