#include "runtime/log_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "runtime/record.h"

namespace tessera::runtime {

std::vector<LogFile> ListLogFiles(int folder) {
  std::vector<LogFile> files;
  // A descriptor of its own: reading a folder moves the shared position of the description.
  const int own = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* dir = own < 0 ? nullptr : fdopendir(own);
  if (dir == nullptr) {
    if (own >= 0) close(own);
    return files;
  }
  const std::size_t prefix = std::strlen(kLogPrefix);
  while (const dirent* entry = readdir(dir)) {
    if (std::strncmp(entry->d_name, kLogPrefix, prefix) != 0) continue;
    char* end = nullptr;
    const std::uint64_t offset = std::strtoull(entry->d_name + prefix, &end, 10);
    if (end == entry->d_name + prefix || *end != '\0') continue;
    struct stat info{};
    if (fstatat(folder, entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(info.st_mode)) {
      continue;
    }
    files.push_back({offset, static_cast<std::uint64_t>(info.st_size), entry->d_name});
  }
  closedir(dir);
  std::sort(files.begin(), files.end(),
            [](const LogFile& a, const LogFile& b) { return a.offset < b.offset; });
  return files;
}

LogWriter::~LogWriter() {
  if (fd_ >= 0) close(fd_);
}

bool LogWriter::Rotate() {
  const std::string name = kLogPrefix + std::to_string(offset_);
  const int fd = openat(folder_, name.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return false;
  if (!previous_.empty()) unlinkat(folder_, previous_.c_str(), 0);
  if (fd_ >= 0) close(fd_);
  fd_ = fd;
  previous_ = current_;
  current_ = name;
  file_bytes_ = 0;
  return true;
}

void LogWriter::Write(const char* data, std::size_t size) {
  while (size > 0) {
    if ((fd_ < 0 || file_bytes_ >= file_bytes_max_) && !Rotate()) {
      lost_ += size;
      return;
    }
    const std::size_t part =
        static_cast<std::size_t>(std::min<std::uint64_t>(size, file_bytes_max_ - file_bytes_));
    const ssize_t n = write(fd_, data, part);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      lost_ += size;
      return;
    }
    data += n;
    size -= static_cast<std::size_t>(n);
    offset_ += static_cast<std::uint64_t>(n);
    file_bytes_ += static_cast<std::uint64_t>(n);
  }
}

void LogWriter::Append(const char* data, std::size_t size) {
  if (lost_ > 0) {
    const std::uint64_t lost = lost_;
    lost_ = 0;
    const std::string line =
        "\n[tessera: " + std::to_string(lost) + " bytes of this log could not be written]\n";
    Write(line.data(), line.size());
    if (lost_ > 0) {
      lost_ = lost + size;
      return;
    }
  }
  Write(data, size);
}

}  // namespace tessera::runtime
