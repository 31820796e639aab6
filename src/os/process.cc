#include "os/process.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <string_view>

#include "os/error.h"
#include "os/files.h"

namespace tessera::os {
namespace {

// Fields of /proc/pid/stat after the command, which may itself contain spaces and parentheses.
struct Stat {
  char state = '?';
  pid_t parent = 0;
  std::uint64_t threads = 0;
  std::uint64_t start_time = 0;

  // A zombie leader with living threads (main called pthread_exit) is a running process.
  bool Dead() const { return state == 'X' || state == 'x' || (state == 'Z' && threads <= 1); }
};

constexpr int kStateField = 3;  // numbered as in proc(5)
constexpr int kParentField = 4;
constexpr int kThreadsField = 20;
constexpr int kStartField = 22;

Error NoProcess(pid_t pid) {
  return Error(Code::kNotFound, "process " + std::to_string(pid) + " does not exist");
}

Result<std::string> ReadProc(pid_t pid, const char* name) {
  if (pid <= 0) return NoProcess(pid);
  const std::string path = "/proc/" + std::to_string(pid) + "/" + name;
  auto text = PosixFiles().Read(path);
  // ENOENT before and ESRCH after the open say the same: it is gone.
  if (!text && text.error().code() == Code::kNotFound) return NoProcess(pid);
  return text;
}

Result<Stat> ParseStat(std::string_view text) {
  const Error malformed(Code::kInternal, "/proc/pid/stat has an unknown form");
  const auto close = text.rfind(')');
  if (close == std::string_view::npos) return malformed;
  text.remove_prefix(close + 1);
  Stat stat;
  int field = kStateField - 1;
  while (!text.empty()) {
    const auto begin = text.find_first_not_of(" \n");
    if (begin == std::string_view::npos) break;
    text.remove_prefix(begin);
    const auto end = std::min(text.find_first_of(" \n"), text.size());
    const std::string_view word = text.substr(0, end);
    text.remove_prefix(end);
    ++field;
    if (field == kStateField) {
      stat.state = word[0];
    } else if (field == kParentField || field == kThreadsField || field == kStartField) {
      std::uint64_t value = 0;
      const auto [at, code] = std::from_chars(word.data(), word.data() + word.size(), value);
      if (code != std::errc() || at != word.data() + word.size()) return malformed;
      if (field == kParentField) stat.parent = static_cast<pid_t>(value);
      if (field == kThreadsField) stat.threads = value;
      if (field == kStartField) {
        stat.start_time = value;
        return stat;
      }
    }
  }
  return malformed;
}

Result<Stat> StatOf(pid_t pid) {
  TRY(const std::string text, ReadProc(pid, "stat"));
  TRY(const Stat stat, ParseStat(text));
  if (stat.Dead()) return NoProcess(pid);
  return stat;
}

}  // namespace

Result<ProcessId> ParseProcessStat(pid_t pid, std::string_view text, pid_t* parent) {
  TRY(const Stat stat, ParseStat(text));
  if (stat.Dead()) return NoProcess(pid);
  if (parent != nullptr) *parent = stat.parent;
  return ProcessId{pid, stat.start_time};
}

Result<ProcessId> IdentifyProcess(pid_t pid) {
  TRY(const std::string text, ReadProc(pid, "stat"));
  return ParseProcessStat(pid, text);
}

bool IsAlive(const ProcessId& id) {
  const auto now = IdentifyProcess(id.pid);
  return now && *now == id;
}

Result<pid_t> ParentOf(pid_t pid) {
  TRY(const Stat stat, StatOf(pid));
  return stat.parent;
}

Result<std::string> CgroupOf(pid_t pid) {
  TRY(const std::string text, ReadProc(pid, "cgroup"));
  std::string_view rest = text;
  while (!rest.empty()) {
    const auto end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (!line.starts_with("0::")) continue;
    line.remove_prefix(3);
    // A process in a removed group is shown with this suffix; it is still the group it belongs to.
    constexpr std::string_view kDeleted = " (deleted)";
    if (line.ends_with(kDeleted)) line.remove_suffix(kDeleted.size());
    return std::string(line.empty() ? "/" : line);
  }
  return Error(Code::kUnavailable,
               "process " + std::to_string(pid) + " has no unified (v2) cgroup");
}

Result<Fd> OpenPidfd(pid_t pid) {
  if (pid <= 0) return NoProcess(pid);
  Fd fd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!fd) return ErrnoError("pidfd_open", std::to_string(pid), errno);
  return fd;
}

}  // namespace tessera::os
