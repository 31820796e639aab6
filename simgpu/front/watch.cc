// Follows the rules' file while a program runs, so that the front need not ask at each call: one
// sleeping thread a process, woken by the kernel when something in the state folder changes. Where
// the kernel has no more watches to give, calls look themselves (kHookWatch stays).
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <string>

#include "simgpu/front/front.h"
#include "simgpu/state/faults.h"

namespace simgpu::front {

namespace {

// The program may have closed our descriptor and opened something else under its number, which we
// must not read from.
bool IsOurs(int fd) {
  char path[64], target[64] = {};
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  return readlink(path, target, sizeof target - 1) > 0 && strcmp(target, "anon_inode:inotify") == 0;
}

void* Watch(void* argument) {
  const int fd = static_cast<int>(reinterpret_cast<intptr_t>(argument));
  alignas(inotify_event) char buffer[4096];
  bool gone = false;
  while (!gone) {
    pollfd waiting = {fd, POLLIN, 0};
    if (poll(&waiting, 1, -1) < 0 && errno == EINTR) continue;
    if ((waiting.revents & POLLIN) == 0 || !IsOurs(fd)) break;
    const ssize_t got = read(fd, buffer, sizeof buffer);
    if (got <= 0) break;
    bool look = false;
    for (ssize_t at = 0; at < got;) {
      const auto* event = reinterpret_cast<const inotify_event*>(buffer + at);
      look |= event->len > 0 && strcmp(event->name, "faults") == 0;
      gone |= (event->mask & IN_IGNORED) != 0;
      at += static_cast<ssize_t>(sizeof *event + event->len);
    }
    if (!look && !gone) continue;
    Faults::Get().Look(true);
    UpdateHooks();
  }
  // A folder that is gone needs no watch; anything else means that calls have to look again.
  if (!gone) SetWatching(false);
  if (gone) close(fd);
  return nullptr;
}

}  // namespace

void StartWatching() {
  static std::atomic<bool> tried{false};
  if (tried.exchange(true)) return;
  const int fd = inotify_init1(IN_CLOEXEC);
  if (fd < 0) return;
  const std::string& folder = Faults::Get().folder();
  if (inotify_add_watch(fd, folder.c_str(),
                        IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE) < 0) {
    close(fd);
    return;
  }
  // The program's signals are for its own threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_t thread;
  const int failed = pthread_create(&thread, &attributes, Watch,
                                    reinterpret_cast<void*>(static_cast<intptr_t>(fd)));
  pthread_attr_destroy(&attributes);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (failed != 0) {
    close(fd);
    return;
  }
  // What changed before the watch stood.
  Faults::Get().Look(true);
  SetWatching(true);
}

}  // namespace simgpu::front
