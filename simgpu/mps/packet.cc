#include "simgpu/mps/packet.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "simgpu/state/mps.h"

namespace simgpu::mps {

bool Send(int fd, const std::string& text) {
  return send(fd, text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size());
}

bool SendDescriptor(int fd, const std::string& text, int descriptor) {
  iovec bytes = {const_cast<char*>(text.data()), text.size()};
  alignas(cmsghdr) char room[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  message.msg_control = room;
  message.msg_controllen = sizeof room;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
  return sendmsg(fd, &message, MSG_NOSIGNAL) == static_cast<ssize_t>(text.size());
}

bool Receive(int fd, std::string* text) {
  char buffer[kMpsMessageMax];
  ssize_t got = -1;
  do {
    got = recv(fd, buffer, sizeof buffer, 0);
  } while (got < 0 && errno == EINTR);
  if (got <= 0) return false;
  text->assign(buffer, static_cast<size_t>(got));
  return true;
}

bool ReceiveWithDescriptor(int fd, std::string* text, int* descriptor, pid_t* pid) {
  char buffer[kMpsMessageMax];
  iovec bytes = {buffer, sizeof buffer};
  alignas(cmsghdr) char room[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  message.msg_control = room;
  message.msg_controllen = sizeof room;
  ssize_t got = -1;
  do {
    got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  if (got <= 0) return false;
  text->assign(buffer, static_cast<size_t>(got));
  *descriptor = -1;
  *pid = 0;
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header != nullptr && header->cmsg_type == SCM_RIGHTS) {
    memcpy(descriptor, CMSG_DATA(header), sizeof *descriptor);
    uid_t uid = 0;
    PeerOf(*descriptor, pid, &uid);
  }
  return true;
}

bool PeerOf(int fd, pid_t* pid, uid_t* uid) {
  ucred peer = {};
  socklen_t size = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return false;
  *pid = peer.pid;
  *uid = peer.uid;
  return true;
}

}  // namespace simgpu::mps
