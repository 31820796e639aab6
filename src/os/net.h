// Unix sockets with peer credentials and descriptor passing. Errors carry errno's text and the
// path.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "os/fd.h"

namespace tessera::os {

struct PeerCredentials {
  pid_t pid = 0;  // in the caller's pid namespace; 0 when the peer lives in an unrelated one
  uid_t uid = 0;
  gid_t gid = 0;
};

enum class SocketKind { kStream, kSeqPacket };

// Binds and listens with the given mode bits; a stale socket file is replaced, a live one is
// kAlreadyExists. Paths of 108 bytes and more are refused by name of the bound.
Result<Fd> ListenUnix(const std::string& path, SocketKind kind, unsigned mode);
Result<Fd> ConnectUnix(const std::string& path, SocketKind kind);
Result<Fd> Accept(int listener);
Result<PeerCredentials> PeerOf(int socket);
// One datagram with up to 4 descriptors.
Status SendWithFds(int socket, std::span<const std::byte> bytes, std::span<const int> fds);

struct Datagram {
  std::vector<std::byte> bytes;  // empty: the peer closed
  std::vector<Fd> fds;
  bool truncated = false;  // the datagram or its descriptors did not fit
};
// Receives one datagram of at most `bytes_max` bytes; kUnavailable when a non-blocking socket has
// none.
Result<Datagram> ReceiveWithFds(int socket, std::size_t bytes_max);

}  // namespace tessera::os
