// Datagrams between a guest and the node over one SEQPACKET unix socket (`guest.sock` in the run
// folder, bind-mounted at kGuestSocket for contained instances).
//
// The node learns who asks from the kernel (SO_PEERCRED, then the peer's cgroup or process
// ancestry); nothing in a datagram is believed about identity. Every request has one reply; the
// guest waits at most kReplyWaitMillis. A datagram of another version or size is answered with
// kStatusVersion and the connection is closed.
#pragma once

#include <stdint.h>

#include "wire/pages.h"

namespace tessera::wire {

inline constexpr uint32_t kMessageMagic = 0x5453534d;
inline constexpr uint32_t kMessageVersion = 1;
inline constexpr int kReplyWaitMillis = 2000;

// Where a contained process finds its node. Outside a container (not contained, or `tessera run`
// without root) kGuestSocket does not exist and the path in the environment variable
// kSocketVariable is used; it is never looked at when kGuestSocket exists.
inline constexpr char kGuestSocket[] = "/run/tessera/guest.sock";
inline constexpr char kSocketVariable[] = "TESSERA_SOCKET";

enum MessageKind : uint32_t {
  kAttach = 1,  // "which slice am I in?" -> reply with two descriptors: control (read-only), usage
  kSettle = 2,  // "what does the driver really hold for me on this card?" -> reply.bytes
};

enum MessageStatus : uint32_t {
  kStatusOk = 0,
  kStatusNoSlice = 1,  // the peer belongs to no slice
  kStatusFull = 2,     // kProcessesMax live processes
  kStatusVersion = 3,  // other version or malformed
  kStatusClosed = 4,   // the slice was taken back
  kStatusUnknown = 5,  // the node cannot tell (no telemetry for this process yet)
};

struct Request {
  uint32_t magic;
  uint32_t version;
  uint32_t kind;
  uint32_t card;  // kSettle: index into ControlPage::cards
  uint32_t guest_version;
  uint32_t reserved[3];
};
static_assert(sizeof(Request) == 32);

struct Reply {
  uint32_t magic;
  uint32_t version;
  uint32_t kind;
  uint32_t status;
  uint32_t slot;  // kAttach: index into UsagePage::slots
  uint32_t reserved;
  uint64_t bytes;  // kSettle: bytes the driver reports for the peer on that card
};
static_assert(sizeof(Reply) == 32);

}  // namespace tessera::wire
