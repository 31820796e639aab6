// Packets of text over SEQPACKET sockets.
#pragma once

#include <sys/types.h>

#include <string>

namespace simgpu::mps {

bool Send(int fd, const std::string& text);
// The same with a descriptor of a client and the client's pid as the sender sees it.
bool SendDescriptor(int fd, const std::string& text, int descriptor);
// False: the other side is gone.
bool Receive(int fd, std::string* text);
// With a descriptor, if one came (else -1), and the pid of who is at its other end.
bool ReceiveWithDescriptor(int fd, std::string* text, int* descriptor, pid_t* pid);
// Who is at the other end.
bool PeerOf(int fd, pid_t* pid, uid_t* uid);

}  // namespace simgpu::mps
