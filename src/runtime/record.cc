#include "runtime/record.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <ctime>

namespace tessera::runtime {
namespace {
constexpr char kEndKey[] = "end";
constexpr std::size_t kRecordBytesMax = 4 << 20;
}  // namespace

void Record::Add(std::string_view key, std::string_view value) {
  entries_.emplace_back(key, value);
}

std::string Record::Get(std::string_view key) const {
  for (const auto& [name, value] : entries_) {
    if (name == key) return value;
  }
  return {};
}

std::int64_t Record::GetInt(std::string_view key) const {
  return std::strtoll(Get(key).c_str(), nullptr, 10);
}

std::vector<std::string> Record::All(std::string_view key) const {
  std::vector<std::string> values;
  for (const auto& [name, value] : entries_) {
    if (name == key) values.push_back(value);
  }
  return values;
}

std::string Record::Encode() const {
  std::string bytes;
  for (const auto& [name, value] : entries_) {
    bytes += name;
    bytes += '=';
    bytes += value;
    bytes += '\0';
  }
  bytes += kEndKey;
  bytes += '=';
  bytes += '\0';
  return bytes;
}

bool Record::Decode(std::string_view bytes, Record* out) {
  out->entries_.clear();
  while (!bytes.empty()) {
    const std::size_t stop = bytes.find('\0');
    if (stop == std::string_view::npos) return false;
    const std::string_view entry = bytes.substr(0, stop);
    bytes.remove_prefix(stop + 1);
    const std::size_t equals = entry.find('=');
    if (equals == std::string_view::npos) return false;
    const std::string_view key = entry.substr(0, equals);
    if (key == kEndKey) return bytes.empty();
    out->Add(key, entry.substr(equals + 1));
  }
  return false;
}

bool ReadFileAt(int folder, const char* name, std::string* out) {
  out->clear();
  const int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return false;
  char buffer[16384];
  while (true) {
    const ssize_t n = read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      const int saved = errno;
      close(fd);
      errno = saved;
      return n == 0;
    }
    out->append(buffer, static_cast<std::size_t>(n));
    if (out->size() > kRecordBytesMax) {
      close(fd);
      errno = EFBIG;
      return false;
    }
  }
}

bool WriteFileAt(int folder, const char* name, std::string_view bytes) {
  const std::string temporary = std::string(name) + ".new";
  const int fd = openat(folder, temporary.c_str(),
                        O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return false;
  bool ok = true;
  while (ok && !bytes.empty()) {
    const ssize_t n = write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    ok = n > 0;
    if (ok) bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  ok = ok && fsync(fd) == 0;
  const int saved = errno;
  close(fd);
  if (ok && renameat(folder, temporary.c_str(), folder, name) == 0) return true;
  if (!ok) errno = saved;
  const int cause = errno;
  unlinkat(folder, temporary.c_str(), 0);
  errno = cause;
  return false;
}

bool ReadRecordAt(int folder, const char* name, Record* out) {
  std::string bytes;
  return ReadFileAt(folder, name, &bytes) && Record::Decode(bytes, out);
}

std::uint64_t StartTimeOf(int pid) {
  std::string stat;
  if (!ReadFileAt(AT_FDCWD, ("/proc/" + std::to_string(pid) + "/stat").c_str(), &stat)) return 0;
  // The command may contain spaces and brackets: fields are counted from the last ')'.
  std::size_t at = stat.rfind(')');
  if (at == std::string::npos) return 0;
  for (int field = 2; field < 22; ++field) {
    at = stat.find(' ', at + 1);
    if (at == std::string::npos) return 0;
  }
  return std::strtoull(stat.c_str() + at + 1, nullptr, 10);
}

std::int64_t WallMicrosNow() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<std::int64_t>(now.tv_sec) * 1'000'000 + now.tv_nsec / 1000;
}

}  // namespace tessera::runtime
