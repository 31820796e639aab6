#include "os/files.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>

#include "os/error.h"
#include "os/fd.h"

namespace tessera::os {
namespace {

// A state or /proc file is small; whatever grows past this is not one of ours.
constexpr std::size_t kReadBytesMax = 64u << 20;

std::string FolderOf(const std::string& path) {
  const auto slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

Status WriteAll(int fd, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t n = write(fd, bytes.data(), bytes.size());
    if (n < 0) {
      if (errno == EINTR) continue;
      return ErrnoError("write", path, errno);
    }
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return {};
}

Status SyncFolder(const std::string& folder) {
  const Fd fd(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return ErrnoError("open", folder, errno);
  if (fsync(fd.get()) != 0) return ErrnoError("fsync", folder, errno);
  return {};
}

class Posix : public Files {
 public:
  Result<std::string> Read(const std::string& path) override {
    const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) return ErrnoError("open", path, errno);
    std::string bytes;
    char buffer[16384];
    for (;;) {
      const ssize_t n = read(fd.get(), buffer, sizeof(buffer));
      if (n < 0) {
        if (errno == EINTR) continue;
        return ErrnoError("read", path, errno);
      }
      if (n == 0) return bytes;
      bytes.append(buffer, static_cast<std::size_t>(n));
      if (bytes.size() > kReadBytesMax) {
        return Error(Code::kResourceExhausted,
                     "read " + path + ": larger than kReadBytesMax (64 MiB)");
      }
    }
  }

  Status WriteAtomically(const std::string& path, std::string_view bytes) override {
    // The name is unique in this process and across processes, so that two writers of one path
    // never share a temporary file; the last rename wins. A leftover starts with '.' and ends in
    // ".tmp".
    static std::atomic<unsigned> counter{0};
    const std::string folder = FolderOf(path);
    const auto slash = path.rfind('/');
    const std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
    const std::string temporary = folder + "/." + name + "." + std::to_string(getpid()) + "." +
                                  std::to_string(counter.fetch_add(1)) + ".tmp";
    Status done = WriteTemporary(temporary, bytes);
    if (done && rename(temporary.c_str(), path.c_str()) != 0) {
      done = ErrnoError("rename", path, errno);
    }
    if (!done) {
      unlink(temporary.c_str());
      return done;
    }
    return SyncFolder(folder);
  }

  Status Poke(const std::string& path, std::string_view bytes) override {
    const Fd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
    if (!fd) return ErrnoError("open", path, errno);
    ssize_t n;
    do {
      n = write(fd.get(), bytes.data(), bytes.size());
    } while (n < 0 && errno == EINTR);
    if (n < 0) return ErrnoError("write", path, errno);
    if (static_cast<std::size_t>(n) != bytes.size()) {
      return Error(Code::kInternal, "write " + path + ": short write");
    }
    return {};
  }

  Status MakeDirs(const std::string& path, unsigned mode) override {
    if (path.empty()) return Error(Code::kInvalidArgument, "mkdir: empty path");
    for (std::size_t end = 1; end <= path.size(); ++end) {
      if (end != path.size() && path[end] != '/') continue;
      const std::string part = path.substr(0, end);
      if (mkdir(part.c_str(), mode) == 0) {
        // mkdir applies the umask; the caller's mode is what counts.
        if (chmod(part.c_str(), mode) != 0) return ErrnoError("chmod", part, errno);
        continue;
      }
      if (errno != EEXIST) return ErrnoError("mkdir", part, errno);
      struct stat info{};
      if (stat(part.c_str(), &info) != 0) return ErrnoError("stat", part, errno);
      if (!S_ISDIR(info.st_mode)) return ErrnoError("mkdir", part, ENOTDIR);
    }
    return {};
  }

  Status Remove(const std::string& path) override {
    if (::remove(path.c_str()) == 0 || errno == ENOENT) return {};
    return ErrnoError("remove", path, errno);
  }

  Result<std::vector<std::string>> List(const std::string& path) override {
    DIR* const folder = opendir(path.c_str());
    if (folder == nullptr) return ErrnoError("opendir", path, errno);
    std::vector<std::string> names;
    for (;;) {
      errno = 0;
      const dirent* const entry = readdir(folder);
      if (entry == nullptr) break;
      const std::string_view name = entry->d_name;
      if (name != "." && name != "..") names.emplace_back(name);
    }
    const int number = errno;
    closedir(folder);
    if (number != 0) return ErrnoError("readdir", path, number);
    std::sort(names.begin(), names.end());
    return names;
  }

  bool Exists(const std::string& path) override { return access(path.c_str(), F_OK) == 0; }

 private:
  static Status WriteTemporary(const std::string& path, std::string_view bytes) {
    const Fd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!fd) return ErrnoError("create", path, errno);
    TRY_STATUS(WriteAll(fd.get(), bytes, path));
    if (fsync(fd.get()) != 0) return ErrnoError("fsync", path, errno);
    return {};
  }
};

Error Injected(const std::string& path) {
  return Error(Code::kInternal, "injected fault at " + path);
}

}  // namespace

Files& PosixFiles() {
  static Posix* const files = new Posix;
  return *files;
}

Status FaultyFiles::WriteAtomically(const std::string& path, std::string_view bytes) {
  if (Fails()) return Injected(path);
  return under_.WriteAtomically(path, bytes);
}

Status FaultyFiles::Poke(const std::string& path, std::string_view bytes) {
  if (Fails()) return Injected(path);
  return under_.Poke(path, bytes);
}

Status FaultyFiles::MakeDirs(const std::string& path, unsigned mode) {
  if (Fails()) return Injected(path);
  return under_.MakeDirs(path, mode);
}

Status FaultyFiles::Remove(const std::string& path) {
  if (Fails()) return Injected(path);
  return under_.Remove(path);
}

}  // namespace tessera::os
