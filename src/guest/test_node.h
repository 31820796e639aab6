// A node small enough to read: serves the pages of one slice on a SEQPACKET socket, and recounts
// after deaths by the protocol of wire/pages.h. For the guest's tests and benchmark; identity is
// the peer's pid alone.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "wire/messages.h"
#include "wire/pages.h"

namespace tessera::guest {

// Owns its pages, socket and thread. Thread-safe: all methods.
class TestNode {
 public:
  struct Card {
    std::string uuid;
    uint64_t limit_bytes;
    uint64_t context_bytes = 0;
  };
  // What the driver holds for a pid on a card; negative: unknown.
  using Real = std::function<int64_t(pid_t pid, uint32_t card)>;

  explicit TestNode(const std::vector<Card>& cards, Real real = {}) : real_(std::move(real)) {
    control_fd_ = MakePage("control", sizeof(wire::ControlPage));
    usage_fd_ = MakePage("usage", sizeof(wire::UsagePage));
    control_ = static_cast<wire::ControlPage*>(Map(control_fd_, sizeof(wire::ControlPage)));
    usage_ = static_cast<wire::UsagePage*>(Map(usage_fd_, sizeof(wire::UsagePage)));
    control_->magic = wire::kControlMagic;
    control_->version = usage_->version = wire::kPageVersion;
    control_->bytes = sizeof(wire::ControlPage);
    control_->state = wire::kStateOpen;
    control_->card_count = usage_->card_count = static_cast<uint32_t>(cards.size());
    usage_->magic = wire::kUsageMagic;
    usage_->bytes = sizeof(wire::UsagePage);
    for (size_t i = 0; i < cards.size(); ++i) {
      wire::ControlCard& card = control_->cards[i];
      std::snprintf(card.uuid, sizeof(card.uuid), "%s", cards[i].uuid.c_str());
      card.limit_bytes = card.ceiling_bytes = cards[i].limit_bytes;
      card.context_bytes = cards[i].context_bytes;
      card.granule_bytes = 2 << 20;
      card.compute_permille = 1000;
    }
    SetHostLimit(wire::kUnlimitedBytes);
    // The guest gets a descriptor it cannot write through.
    const std::string path = "/proc/self/fd/" + std::to_string(control_fd_);
    control_read_fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  }

  ~TestNode() {
    Stop();
    munmap(control_, sizeof(*control_));
    munmap(usage_, sizeof(*usage_));
    close(control_fd_);
    close(control_read_fd_);
    close(usage_fd_);
  }
  TestNode(const TestNode&) = delete;
  TestNode& operator=(const TestNode&) = delete;

  wire::ControlPage* control() { return control_; }
  wire::UsagePage* usage() { return usage_; }
  // As a node whose usage page has another size.
  void Shorten(uint64_t bytes) {
    if (ftruncate(usage_fd_, static_cast<off_t>(bytes)) != 0) std::abort();
  }
  // How much page-locked memory of the machine the slice may hold.
  void SetHostLimit(uint64_t bytes) {
    wire::Store(&control_->cards[wire::kHostRow].limit_bytes, bytes);
    wire::Store(&control_->cards[wire::kHostRow].ceiling_bytes, bytes);
  }
  uint32_t attaches() const { return attaches_; }
  uint32_t settles() const { return settles_; }
  // What every attach is answered with from now on.
  void AnswerWith(uint32_t status) { status_ = status; }
  void SetReal(Real real) {
    std::lock_guard<std::mutex> lock(mutex_);
    real_ = std::move(real);
  }

  bool Listen(const std::string& path) {
    Stop();
    path_ = path;
    listener_ = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::snprintf(address.sun_path, sizeof(address.sun_path), "%s", path.c_str());
    unlink(path.c_str());
    if (bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
        listen(listener_, 128) != 0) {
      return false;
    }
    stop_ = false;
    thread_ = std::thread([this] { Serve(); });
    return true;
  }
  // As a node that went away: the socket is gone, the pages live on.
  void Stop() {
    if (!thread_.joinable()) return;
    stop_ = true;
    thread_.join();
    close(listener_);
    unlink(path_.c_str());
  }

  // The slot of a pid, made when there is none; -1 when all are taken. Forked children ask too,
  // each with a copy of the mutex, so a slot is taken by compare-exchange.
  int SlotOf(pid_t pid) {
    const auto owner = static_cast<uint32_t>(pid);
    for (uint32_t i = 0; i < wire::kProcessesMax; ++i) {
      if (wire::Load(&usage_->slots[i].pid) == owner) return static_cast<int>(i);
    }
    for (uint32_t i = 0; i < wire::kProcessesMax; ++i) {
      uint32_t nobody = 0;
      if (__atomic_compare_exchange_n(&usage_->slots[i].pid, &nobody, owner, false,
                                      __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
        return static_cast<int>(i);
      }
    }
    return -1;
  }

  // One recount: true when it went through, false when a living process did not settle in time.
  bool Recount() {
    std::lock_guard<std::mutex> lock(mutex_);
    for (uint32_t c = 0; c < wire::kRowsMax; ++c) {
      __atomic_fetch_or(&usage_->cards[c].used, wire::kFrozenBit, __ATOMIC_SEQ_CST);
    }
    const auto deadline =
        std::chrono::steady_clock::now() + std::chrono::nanoseconds(wire::kFreezeWaitNanosMax);
    bool settled = false;
    while (!settled && std::chrono::steady_clock::now() < deadline) {
      settled = true;
      for (wire::ProcessSlot& slot : usage_->slots) {
        const uint32_t pid = wire::Load(&slot.pid);
        if (pid != 0 && Alive(static_cast<pid_t>(pid)) &&
            __atomic_load_n(&slot.intent, __ATOMIC_SEQ_CST) != 0) {
          settled = false;
        }
      }
      if (!settled) std::this_thread::yield();
    }
    if (settled) {
      for (wire::ProcessSlot& slot : usage_->slots) {
        const uint32_t pid = wire::Load(&slot.pid);
        if (pid == 0 || Alive(static_cast<pid_t>(pid))) continue;
        // The pid goes last: from then on the slot may be somebody else's.
        std::memset(&slot.intent, 0, sizeof(slot) - offsetof(wire::ProcessSlot, intent));
        wire::Store(&slot.pid, 0u);
      }
    }
    for (uint32_t c = 0; c < wire::kRowsMax; ++c) {
      if (settled) {
        uint64_t sum = 0;
        for (wire::ProcessSlot& slot : usage_->slots) sum += wire::Load(&slot.used[c]);
        __atomic_store_n(&usage_->cards[c].used, sum, __ATOMIC_SEQ_CST);
      } else {
        __atomic_fetch_and(&usage_->cards[c].used, ~wire::kFrozenBit, __ATOMIC_SEQ_CST);
      }
      constexpr int kWake = 1;
      syscall(SYS_futex, wire::FrozenFutex(&usage_->cards[c]), kWake, 1 << 30, nullptr, nullptr, 0);
    }
    return settled;
  }

  uint64_t SumOfSlots(uint32_t card) {
    uint64_t sum = 0;
    for (wire::ProcessSlot& slot : usage_->slots) sum += wire::Load(&slot.used[card]);
    return sum;
  }

 private:
  static int MakePage(const char* name, size_t bytes) {
    const int fd = static_cast<int>(syscall(SYS_memfd_create, name, 1u /* MFD_CLOEXEC */));
    if (fd < 0 || ftruncate(fd, static_cast<off_t>(bytes)) != 0) std::abort();
    return fd;
  }
  static void* Map(int fd, size_t bytes) {
    void* page = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED) std::abort();
    return page;
  }
  // A zombie holds nothing any more.
  static bool Alive(pid_t pid) {
    char path[64], line[512] = {};
    std::snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    std::FILE* file = std::fopen(path, "re");
    if (file == nullptr) return false;
    const size_t got = std::fread(line, 1, sizeof(line) - 1, file);
    std::fclose(file);
    const char* end = got == 0 ? nullptr : std::strrchr(line, ')');
    return end != nullptr && end[1] != '\0' && end[2] != 'Z' && end[2] != 'X';
  }

  void Serve() {
    std::vector<pollfd> all = {{listener_, POLLIN, 0}};
    while (!stop_) {
      if (poll(all.data(), all.size(), 20) <= 0) continue;
      if ((all[0].revents & POLLIN) != 0) {
        const int peer = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
        if (peer >= 0) all.push_back({peer, POLLIN, 0});
      }
      for (size_t i = all.size(); i-- > 1;) {
        if (all[i].revents == 0) continue;
        if (!Answer(all[i].fd)) {
          close(all[i].fd);
          all.erase(all.begin() + static_cast<long>(i));
        }
      }
    }
    for (size_t i = 1; i < all.size(); ++i) close(all[i].fd);
  }

  bool Answer(int peer) {
    wire::Request request = {};
    if (recv(peer, &request, sizeof(request), 0) != static_cast<ssize_t>(sizeof(request)))
      return false;
    ucred who = {};
    socklen_t length = sizeof(who);
    getsockopt(peer, SOL_SOCKET, SO_PEERCRED, &who, &length);
    wire::Reply reply = {
        wire::kMessageMagic, wire::kMessageVersion, request.kind, wire::kStatusOk, 0, 0, 0};
    bool with_pages = false;
    if (request.kind == wire::kAttach) {
      ++attaches_;
      reply.status = status_;
      if (reply.status == wire::kStatusOk) {
        const int slot = SlotOf(who.pid);
        reply.status = slot < 0 ? wire::kStatusFull : wire::kStatusOk;
        reply.slot = static_cast<uint32_t>(slot);
        with_pages = slot >= 0;
      }
    } else {
      ++settles_;
      Real real;
      {
        std::lock_guard<std::mutex> lock(mutex_);
        real = real_;
      }
      const int64_t bytes = real ? real(who.pid, request.card) : -1;
      reply.status = bytes < 0 ? wire::kStatusUnknown : wire::kStatusOk;
      reply.bytes = bytes < 0 ? 0 : static_cast<uint64_t>(bytes);
    }
    iovec vector = {&reply, sizeof(reply)};
    alignas(cmsghdr) char control[CMSG_SPACE(2 * sizeof(int))] = {};
    msghdr header = {};
    header.msg_iov = &vector;
    header.msg_iovlen = 1;
    if (with_pages) {
      header.msg_control = control;
      header.msg_controllen = sizeof(control);
      cmsghdr* rights = CMSG_FIRSTHDR(&header);
      rights->cmsg_level = SOL_SOCKET;
      rights->cmsg_type = SCM_RIGHTS;
      rights->cmsg_len = CMSG_LEN(2 * sizeof(int));
      const int pages[2] = {control_read_fd_, usage_fd_};
      std::memcpy(CMSG_DATA(rights), pages, sizeof(pages));
    }
    return sendmsg(peer, &header, MSG_NOSIGNAL) == static_cast<ssize_t>(sizeof(reply));
  }

  int control_fd_ = -1, control_read_fd_ = -1, usage_fd_ = -1, listener_ = -1;
  wire::ControlPage* control_ = nullptr;
  wire::UsagePage* usage_ = nullptr;
  std::string path_;
  std::thread thread_;
  std::atomic<bool> stop_{false};
  std::atomic<uint32_t> attaches_{0}, settles_{0}, status_{wire::kStatusOk};
  std::mutex mutex_;
  Real real_;
};

}  // namespace tessera::guest
