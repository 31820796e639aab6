// What the runtime's tests run inside instances where a shell will not do.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

namespace {

// Connects to a SEQPACKET socket and goes.
int Connect(const char* path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
  const int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) return 0;
  std::perror(path);
  return 1;
}

// Keeps up to `count` processes of its own forking, each in a session of its own and deaf to
// SIGTERM.
int Bomb(int count) {
  std::signal(SIGTERM, SIG_IGN);
  std::signal(SIGCHLD, SIG_IGN);
  for (int i = 0; i < count; ++i) {
    if (fork() != 0) continue;
    setsid();
    while (true) {
      const pid_t child = fork();
      if (child > 0) _exit(0);  // the child goes on under a new pid
      usleep(2000);
    }
  }
  std::puts("ready");
  std::fflush(stdout);
  while (true) pause();
}

// Writes `lines` numbered lines of 64 bytes.
int Lines(int lines) {
  char line[65];
  for (int i = 0; i < lines; ++i) {
    std::snprintf(line, sizeof line, "%063d\n", i);
    for (int done = 0; done < 64;) {
      const ssize_t n = write(1, line + done, static_cast<size_t>(64 - done));
      if (n <= 0) return 1;
      done += static_cast<int>(n);
    }
  }
  return 0;
}

// Touches that many MiB.
int Eat(int mebibytes) {
  for (int i = 0; i < mebibytes; ++i) {
    char* block = static_cast<char*>(std::malloc(1 << 20));
    if (block == nullptr) return 1;
    for (int at = 0; at < 1 << 20; at += 4096) static_cast<volatile char*>(block)[at] = 1;
  }
  std::puts("ate");
  return 0;
}

// Prints a file.
int Show(const char* path) {
  const int fd = open(path, O_RDONLY);
  char buffer[4096];
  const ssize_t n = fd < 0 ? -1 : read(fd, buffer, sizeof buffer);
  if (n < 0) std::perror(path);
  return n >= 0 && write(1, buffer, static_cast<size_t>(n)) == n ? 0 : 1;
}

// Starts that many threads and counts those that ran.
int Threads(int count) {
  std::atomic<int> ran{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) threads.emplace_back([&] { ++ran; });
  for (std::thread& thread : threads) thread.join();
  std::printf("%d\n", ran.load());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  if (std::strcmp(argv[1], "connect") == 0) return Connect(argv[2]);
  if (std::strcmp(argv[1], "bomb") == 0) return Bomb(std::atoi(argv[2]));
  if (std::strcmp(argv[1], "lines") == 0) return Lines(std::atoi(argv[2]));
  if (std::strcmp(argv[1], "eat") == 0) return Eat(std::atoi(argv[2]));
  if (std::strcmp(argv[1], "threads") == 0) return Threads(std::atoi(argv[2]));
  if (std::strcmp(argv[1], "show") == 0) return Show(argv[2]);
  return 2;
}
