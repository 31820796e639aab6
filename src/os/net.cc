#include "os/net.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "os/error.h"

namespace tessera::os {
namespace {

constexpr std::size_t kPathMax = sizeof(sockaddr_un::sun_path);  // with the terminating NUL
constexpr std::size_t kFdsMax = 4;
constexpr int kBacklog = 128;

int TypeOf(SocketKind kind) {
  return (kind == SocketKind::kStream ? SOCK_STREAM : SOCK_SEQPACKET) | SOCK_CLOEXEC;
}

Result<sockaddr_un> AddressOf(const std::string& path) {
  if (path.empty()) return Error(Code::kInvalidArgument, "unix socket: empty path");
  if (path.size() >= kPathMax) {
    return Error(Code::kInvalidArgument,
                 "unix socket " + path + ": path has " + std::to_string(path.size()) +
                     " bytes, the kernel's bound is " + std::to_string(kPathMax - 1));
  }
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

const sockaddr* Raw(const sockaddr_un& address) {
  return reinterpret_cast<const sockaddr*>(&address);
}

}  // namespace

Result<Fd> ListenUnix(const std::string& path, SocketKind kind, unsigned mode) {
  TRY(const sockaddr_un address, AddressOf(path));
  struct stat info{};
  if (lstat(path.c_str(), &info) == 0) {
    if (!S_ISSOCK(info.st_mode)) {
      return Error(Code::kAlreadyExists, "listen " + path + ": exists and is not a socket");
    }
    // Whoever still listens accepts the probe (or its queue is full, EAGAIN); a stale file refuses
    // it. A probe of the other type is EPROTOTYPE, which only a live socket answers.
    const Fd probe(socket(AF_UNIX, TypeOf(kind) | SOCK_NONBLOCK, 0));
    if (!probe) return ErrnoError("socket", path, errno);
    if (connect(probe.get(), Raw(address), sizeof(address)) == 0 || errno != ECONNREFUSED) {
      return Error(Code::kAlreadyExists, "listen " + path + ": another process listens there");
    }
    if (unlink(path.c_str()) != 0 && errno != ENOENT) return ErrnoError("unlink", path, errno);
  }
  Fd listener(socket(AF_UNIX, TypeOf(kind), 0));
  if (!listener) return ErrnoError("socket", path, errno);
  // fchmod before bind gives the file its final mode at birth (minus the umask), chmod lifts the
  // umask.
  fchmod(listener.get(), mode & 0700);
  if (bind(listener.get(), Raw(address), sizeof(address)) != 0)
    return ErrnoError("bind", path, errno);
  if (chmod(path.c_str(), mode) != 0) {
    const int number = errno;
    unlink(path.c_str());
    return ErrnoError("chmod", path, number);
  }
  if (listen(listener.get(), kBacklog) != 0) {
    const int number = errno;
    unlink(path.c_str());
    return ErrnoError("listen", path, number);
  }
  return listener;
}

Result<Fd> ConnectUnix(const std::string& path, SocketKind kind) {
  TRY(const sockaddr_un address, AddressOf(path));
  Fd fd(socket(AF_UNIX, TypeOf(kind), 0));
  if (!fd) return ErrnoError("socket", path, errno);
  if (connect(fd.get(), Raw(address), sizeof(address)) != 0)
    return ErrnoError("connect", path, errno);
  return fd;
}

Result<Fd> Accept(int listener) {
  for (;;) {
    Fd fd(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    if (fd) return fd;
    if (errno == EINTR || errno == ECONNABORTED) continue;
    return ErrnoError("accept", "unix socket", errno);
  }
}

Result<PeerCredentials> PeerOf(int socket) {
  ucred credentials{};
  socklen_t size = sizeof(credentials);
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    return ErrnoError("SO_PEERCRED", "unix socket", errno);
  }
  return PeerCredentials{credentials.pid, credentials.uid, credentials.gid};
}

Status SendWithFds(int socket, std::span<const std::byte> bytes, std::span<const int> fds) {
  if (fds.size() > kFdsMax) {
    return Error(Code::kInvalidArgument, "send: at most 4 descriptors a datagram");
  }
  iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(kFdsMax * sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(header), fds.data(), fds.size_bytes());
  }
  ssize_t n;
  do {
    n = sendmsg(socket, &message, MSG_NOSIGNAL);
  } while (n < 0 && errno == EINTR);
  if (n < 0) return ErrnoError("send", "unix socket", errno);
  if (static_cast<std::size_t>(n) != bytes.size())
    return Error(Code::kInternal, "send: short datagram");
  return {};
}

Result<Datagram> ReceiveWithFds(int socket, std::size_t bytes_max) {
  Datagram datagram;
  datagram.bytes.resize(bytes_max);
  iovec part{datagram.bytes.data(), datagram.bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(kFdsMax * sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  ssize_t n;
  do {
    n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (n < 0 && errno == EINTR);
  if (n < 0) return ErrnoError("receive", "unix socket", errno);
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
      datagram.fds.emplace_back(fd);
    }
  }
  datagram.truncated = (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0;
  datagram.bytes.resize(static_cast<std::size_t>(n));
  return datagram;
}

}  // namespace tessera::os
