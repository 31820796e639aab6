// The guest's side of the protocol in as few lines as it takes, for the broker's tests: attach over
// the socket, map the pages, reserve and release. Runs in forked children; a failure ends the child
// with a code the parent reads.
#pragma once

#include <linux/futex.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <string>

#include "os/net.h"
#include "wire/messages.h"
#include "wire/pages.h"

namespace tessera::broker {

struct TestGuest {
  os::Fd socket;
  os::Fd control_fd;
  os::Fd usage_fd;
  const wire::ControlPage* control = nullptr;
  wire::UsagePage* usage = nullptr;
  wire::ProcessSlot* slot = nullptr;
  std::uint32_t slot_index = 0;

  bool Connect(const std::string& path) {
    auto fd = os::ConnectUnix(path, os::SocketKind::kSeqPacket);
    if (!fd) return false;
    socket = std::move(*fd);
    return true;
  }

  // One request and its reply; false when the connection ended instead.
  bool Ask(std::uint32_t kind, std::uint32_t card, wire::Reply* reply,
           std::vector<os::Fd>* fds = nullptr) {
    const wire::Request request{wire::kMessageMagic, wire::kMessageVersion, kind, card, 1, {}};
    if (!os::SendWithFds(socket.get(), std::as_bytes(std::span(&request, 1)), {})) return false;
    auto datagram = os::ReceiveWithFds(socket.get(), 64);
    if (!datagram || datagram->bytes.size() != sizeof(*reply)) return false;
    memcpy(reply, datagram->bytes.data(), sizeof(*reply));
    if (fds != nullptr) *fds = std::move(datagram->fds);
    return true;
  }

  // Returns the reply's status, or 999 when there was none.
  std::uint32_t Attach(const std::string& path) {
    wire::Reply reply{};
    std::vector<os::Fd> fds;
    if (!Connect(path) || !Ask(wire::kAttach, 0, &reply, &fds)) return 999;
    if (reply.status != wire::kStatusOk) return reply.status;
    if (fds.size() != 2) return 999;
    control_fd = std::move(fds[0]);
    usage_fd = std::move(fds[1]);
    void* const c =
        mmap(nullptr, sizeof(wire::ControlPage), PROT_READ, MAP_SHARED, control_fd.get(), 0);
    void* const u = mmap(nullptr, sizeof(wire::UsagePage), PROT_READ | PROT_WRITE, MAP_SHARED,
                         usage_fd.get(), 0);
    if (c == MAP_FAILED || u == MAP_FAILED) return 999;
    control = static_cast<const wire::ControlPage*>(c);
    usage = static_cast<wire::UsagePage*>(u);
    slot_index = reply.slot;
    slot = &usage->slots[reply.slot];
    return wire::kStatusOk;
  }

  void Enter(std::uint32_t card) {
    for (;;) {
      __atomic_fetch_add(&slot->intent, 1, __ATOMIC_SEQ_CST);
      if ((__atomic_load_n(&usage->cards[card].used, __ATOMIC_SEQ_CST) & wire::kFrozenBit) == 0)
        return;
      Leave();
      std::uint32_t* const futex = wire::FrozenFutex(&usage->cards[card]);
      const std::uint32_t seen = __atomic_load_n(futex, __ATOMIC_ACQUIRE);
      if ((seen >> 31) == 0) continue;
      const timespec wait{0, static_cast<long>(wire::kFrozenSleepNanosMax)};
      syscall(SYS_futex, futex, FUTEX_WAIT, seen, &wait, nullptr, 0);
    }
  }
  void Leave() { __atomic_fetch_sub(&slot->intent, 1, __ATOMIC_SEQ_CST); }

  bool Reserve(std::uint32_t card, std::uint64_t bytes) {
    for (;;) {
      Enter(card);
      std::uint64_t used = __atomic_load_n(&usage->cards[card].used, __ATOMIC_SEQ_CST);
      bool frozen = false;
      for (;;) {
        frozen = (used & wire::kFrozenBit) != 0;
        if (frozen) break;
        const std::uint64_t limit = wire::Load(&control->cards[card].limit_bytes);
        if (wire::Load(&control->state) != wire::kStateOpen || bytes > limit ||
            used > limit - bytes) {
          Leave();
          return false;
        }
        if (__atomic_compare_exchange_n(&usage->cards[card].used, &used, used + bytes, false,
                                        __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
          break;
        }
      }
      if (!frozen) {
        __atomic_fetch_add(&slot->used[card], bytes, __ATOMIC_SEQ_CST);
        Leave();
        return true;
      }
      Leave();
    }
  }

  void Release(std::uint32_t card, std::uint64_t bytes) {
    Enter(card);
    __atomic_fetch_sub(&slot->used[card], bytes, __ATOMIC_SEQ_CST);
    __atomic_fetch_sub(&usage->cards[card].used, bytes, __ATOMIC_SEQ_CST);
    Leave();
  }
};

}  // namespace tessera::broker
