#include "broker/broker.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "base/log.h"
#include "os/error.h"
#include "os/net.h"
#include "wire/messages.h"

namespace tessera::broker {
namespace {

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

// What an epoll event is about: a tag in the top byte, a number below.
constexpr std::uint64_t kTagShift = 56;
constexpr std::uint64_t kTagListener = 1;
constexpr std::uint64_t kTagWake = 2;
constexpr std::uint64_t kTagPidfd = 3;
constexpr std::uint64_t kTagConnection = 4;
constexpr std::uint64_t Tagged(std::uint64_t tag, std::uint64_t number) {
  return tag << kTagShift | number;
}

constexpr int kEventsMax = 64;
constexpr int kAcceptsPerTurn = 16;
// A stranger that waits is looked at this often.
constexpr std::int64_t kParkedLookNanos = 10'000'000;

struct Connection {
  os::Fd socket;
  os::Fd pidfd;  // of the peer itself; absent before Linux 6.5
  pid_t pid = 0;
  std::optional<os::ProcessId> identity;  // when it connected
  // What the kernel said of the peer a moment ago, for a request that came with the connection:
  // asking /proc again would say the same and is most of what an answer takes. Forgotten before the
  // next event.
  std::optional<ProgramId> fresh;
  bool asked_kernel = false;  // counted_as is the kernel's word, not our memory of an attach
  std::string counted_as;     // slice whose connection bound it counts against, "" for strangers
  bool watching = true;       // EPOLLIN is on
  std::optional<wire::Request> parked;  // an attach that waits for membership
  std::int64_t parked_until = 0;
};

struct Slice {
  std::unique_ptr<SliceLedger> ledger;
  std::int64_t window_start = 0;
  std::uint32_t window_requests = 0;
};

}  // namespace

struct Broker::Impl {
  Options options;
  os::Files& files;
  const os::Clock& clock;
  SliceStore store;
  Membership membership;
  std::shared_ptr<std::atomic<int>> announced = std::make_shared<std::atomic<int>>(0);

  os::Fd epoll;
  os::Fd wake;
  os::Fd listener;
  std::thread thread;
  std::atomic<bool> stopping{false};

  mutable std::mutex mutex;  // guards slices and counters
  std::map<std::string, Slice> slices;
  BrokerCounters counters;
  // Below the slices, because it goes first: it uses their pages.
  Turns turns;

  // Owned by the thread.
  std::unordered_map<std::uint64_t, Connection> connections;
  std::unordered_map<std::string, std::size_t> connections_of;
  std::uint64_t next_connection = 1;
  std::int64_t next_check = 0;
  bool listening = true;

  explicit Impl(Options given)
      : options(std::move(given)),
        files(options.files != nullptr ? *options.files : os::PosixFiles()),
        clock(options.clock != nullptr ? *options.clock : os::RealClock()),
        store(files, options.run_folder),
        membership(options.kernel) {}

  // ---- set-up ----

  Status Open() {
    TRY_STATUS(store.Prepare());
    epoll = os::Fd(epoll_create1(EPOLL_CLOEXEC));
    if (!epoll) return os::ErrnoError("epoll_create1", "broker", errno);
    wake = os::Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!wake) return os::ErrnoError("eventfd", "broker", errno);
    TRY_STATUS(Watch(wake.get(), Tagged(kTagWake, 0)));
    if (!options.socket_path.empty()) {
      TRY(listener,
          os::ListenUnix(options.socket_path, os::SocketKind::kSeqPacket, options.socket_mode));
      fcntl(listener.get(), F_SETFL, O_NONBLOCK);
      TRY_STATUS(Watch(listener.get(), Tagged(kTagListener, 0)));
    }
    thread = std::thread([this] {
      // Signals belong to the program's main thread.
      sigset_t all;
      sigfillset(&all);
      sigdelset(&all, SIGBUS);
      pthread_sigmask(SIG_BLOCK, &all, nullptr);
      Run();
    });
    return {};
  }

  Status Watch(int fd, std::uint64_t tag) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = tag;
    if (epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event) != 0 && errno != EEXIST) {
      return os::ErrnoError("epoll_ctl", "broker", errno);
    }
    return {};
  }

  void Wake() {
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t n = write(wake.get(), &one, sizeof(one));
  }

  // A pidfd that cannot be watched is still looked at every kCheckNanos.
  void WatchProcess(const SliceLedger& ledger, std::uint32_t slot) {
    if (const int fd = ledger.PidfdOf(slot); fd >= 0) (void)Watch(fd, Tagged(kTagPidfd, 0));
  }

  // ---- the thread ----

  void Run() {
    std::int64_t wait_until = 0;
    while (!stopping.load()) {
      const std::int64_t now = clock.MonotonicNanos();
      const std::int64_t nanos = std::clamp<std::int64_t>(wait_until - now, 0, kCheckNanos);
      epoll_event events[kEventsMax];
      // Rounded up, so that a wait of less than a millisecond does not spin.
      const int count = epoll_wait(epoll.get(), events, kEventsMax,
                                   static_cast<int>((nanos + 999'999) / 1'000'000));
      bool process_ended = false;
      for (int i = 0; i < count; ++i) {
        const std::uint64_t number = events[i].data.u64 & ((1ull << kTagShift) - 1);
        switch (events[i].data.u64 >> kTagShift) {
          case kTagListener:
            AcceptSome();
            break;
          case kTagWake: {
            std::uint64_t ignored = 0;
            [[maybe_unused]] const ssize_t n = read(wake.get(), &ignored, sizeof(ignored));
            break;
          }
          case kTagPidfd:
            process_ended = true;
            break;
          case kTagConnection:
            Serve(number);
            break;
          default:
            break;
        }
      }
      wait_until = Turn(process_ended);
    }
    connections.clear();
  }

  // Everything that is due by time; returns when to look again.
  std::int64_t Turn(bool process_ended) {
    const std::int64_t now = clock.MonotonicNanos();
    const bool check = now >= next_check;
    if (check) next_check = now + kCheckNanos;
    std::int64_t next = next_check;
    {
      const std::lock_guard lock(mutex);
      for (auto& [id, slice] : slices) {
        SliceLedger& ledger = *slice.ledger;
        if (check || process_ended) ledger.CheckProcesses();
        if (check && ledger.CloseIfDamaged()) {
          ++counters.damaged;
          Log(LogLevel::kWarn, "slice.damaged",
              {{"slice", id},
               {"why", "a process of the slice changed the size of its usage page"}});
        }
        if (const auto again = ledger.Step()) next = std::min(next, *again);
      }
    }
    std::vector<std::uint64_t> ready;
    for (auto& [number, connection] : connections) {
      if (connection.parked || !connection.watching) ready.push_back(number);
    }
    for (const std::uint64_t number : ready) {
      const auto at = connections.find(number);
      if (at == connections.end()) continue;
      if (at->second.parked) {
        const wire::Request request = *at->second.parked;
        at->second.parked.reset();
        Answer(number, request);
      } else {
        SetWatching(number, at->second, true);
        Serve(number);
      }
    }
    for (const auto& [number, connection] : connections) {
      if (connection.parked) next = std::min(next, now + kParkedLookNanos);
      if (!connection.parked && !connection.watching) next = std::min(next, now + kWindowNanos / 4);
    }
    // Out of descriptors earlier: listen again, some may be free now.
    if (check && !listening && listener) {
      listening = static_cast<bool>(Watch(listener.get(), Tagged(kTagListener, 0)));
    }
    return next;
  }

  void AcceptSome() {
    for (int i = 0; i < kAcceptsPerTurn; ++i) {
      auto accepted = os::Accept(listener.get());
      if (!accepted) {
        if (accepted.error().code() == Code::kResourceExhausted) {
          // Level-triggered readiness would spin; look again at the next check.
          epoll_ctl(epoll.get(), EPOLL_CTL_DEL, listener.get(), nullptr);
          listening = false;
        }
        return;
      }
      Welcome(std::move(*accepted));
    }
  }

  void Welcome(os::Fd socket) {
    fcntl(socket.get(), F_SETFL, O_NONBLOCK);
    Connection connection;
    int pidfd = -1;
    socklen_t size = sizeof(pidfd);
    if (getsockopt(socket.get(), SOL_SOCKET, SO_PEERPIDFD, &pidfd, &size) == 0) {
      connection.pidfd = os::Fd(pidfd);
      fcntl(pidfd, F_SETFD, FD_CLOEXEC);
    }
    if (const auto peer = os::PeerOf(socket.get()); peer && peer->pid > 0) {
      connection.pid = peer->pid;
      pid_t parent = 0;
      if (auto program = IdentifyProgram(peer->pid, &parent)) {
        connection.identity = program->process;
        connection.fresh = *program;
        connection.counted_as = AttachedTo(program->process);
        if (connection.counted_as.empty()) {
          const Membership::Known known{program->process, parent};
          connection.counted_as = membership.SliceOf(peer->pid, &known).value_or("");
          connection.asked_kernel = true;
        }
      }
    }
    std::size_t& count = connections_of[connection.counted_as];
    const std::size_t bound =
        connection.counted_as.empty() ? kStrangerConnectionsMax : kConnectionsPerSliceMax;
    if (connections.size() >= kConnectionsMax || count >= bound) {
      {
        const std::lock_guard lock(mutex);
        ++counters.refused_connections;
      }
      const wire::Reply full{
          wire::kMessageMagic, wire::kMessageVersion, 0, wire::kStatusFull, 0, 0, 0};
      (void)os::SendWithFds(socket.get(), std::as_bytes(std::span(&full, 1)), {});
      return;
    }
    const std::uint64_t number = next_connection++;
    ++count;
    connection.socket = std::move(socket);
    connections.emplace(number, std::move(connection));
    // Guests send their question right after connecting, so it is usually there.
    Serve(number);
    const auto at = connections.find(number);
    if (at == connections.end()) return;
    at->second.fresh.reset();
    if (!Watch(at->second.socket.get(), Tagged(kTagConnection, number))) Drop(number);
  }

  void Drop(std::uint64_t number) {
    const auto at = connections.find(number);
    if (at == connections.end()) return;
    const auto counted = connections_of.find(at->second.counted_as);
    if (--counted->second == 0) connections_of.erase(counted);
    connections.erase(at);
  }

  void SetWatching(std::uint64_t number, Connection& connection, bool on) {
    epoll_event event{};
    event.events = on ? static_cast<std::uint32_t>(EPOLLIN) : 0u;
    event.data.u64 = Tagged(kTagConnection, number);
    epoll_ctl(epoll.get(), EPOLL_CTL_MOD, connection.socket.get(), &event);
    connection.watching = on;
  }

  // Reads one datagram: epoll comes back for the next one, after the other connections had their
  // turn.
  void Serve(std::uint64_t number) {
    const auto at = connections.find(number);
    if (at == connections.end()) return;
    Connection& connection = at->second;
    if (connection.parked) {
      // The peer left, or talks while it should wait for its answer; either way it is no client of
      // ours.
      Drop(number);
      return;
    }
    if (!Admit(connection)) {
      SetWatching(number, connection, false);
      return;
    }
    auto datagram = os::ReceiveWithFds(connection.socket.get(), sizeof(wire::Request) + 1);
    if (!datagram) {
      if (datagram.error().code() != Code::kUnavailable) {
        Drop(number);
      } else {
        Readmit(connection);
      }
      return;
    }
    if (datagram->bytes.empty()) {
      Drop(number);
      return;
    }
    wire::Request request{};
    const bool right_size = datagram->bytes.size() == sizeof(request) && !datagram->truncated;
    if (right_size) std::memcpy(&request, datagram->bytes.data(), sizeof(request));
    if (!right_size || request.magic != wire::kMessageMagic ||
        request.version != wire::kMessageVersion ||
        (request.kind != wire::kAttach && request.kind != wire::kSettle)) {
      {
        const std::lock_guard lock(mutex);
        ++counters.malformed;
      }
      Reply(number, request.kind, wire::kStatusVersion);
      Drop(number);
      return;
    }
    Answer(number, request);
  }

  // True while the connection's slice has requests left in this window. Strangers share one window.
  bool Admit(const Connection& connection) {
    const std::int64_t now = clock.MonotonicNanos();
    const std::lock_guard lock(mutex);
    const auto at = slices.find(connection.counted_as);
    Slice& slice = at == slices.end() ? strangers : at->second;
    if (now - slice.window_start >= kWindowNanos) {
      slice.window_start = now;
      slice.window_requests = 0;
    }
    if (slice.window_requests >= kRequestsPerWindowMax) return false;
    ++slice.window_requests;
    return true;
  }
  // Nothing had come: the request is still to be counted.
  void Readmit(const Connection& connection) {
    const std::lock_guard lock(mutex);
    const auto at = slices.find(connection.counted_as);
    Slice& slice = at == slices.end() ? strangers : at->second;
    if (slice.window_requests > 0) --slice.window_requests;
  }
  Slice strangers;
  std::unordered_map<pid_t, std::string> attached_to;  // hints, checked before use

  void Reply(std::uint64_t number, std::uint32_t kind, std::uint32_t status, std::uint32_t slot = 0,
             std::uint64_t bytes = 0, std::span<const int> fds = {}) {
    const auto at = connections.find(number);
    if (at == connections.end()) return;
    const wire::Reply reply{
        wire::kMessageMagic, wire::kMessageVersion, kind, status, slot, 0, bytes};
    // A peer that does not read its answers loses its connection; the node never waits for it.
    if (!os::SendWithFds(at->second.socket.get(), std::as_bytes(std::span(&reply, 1)), fds))
      Drop(number);
  }

  // The program behind a connection, if it is still the process that connected.
  Result<ProgramId> Peer(const Connection& connection) const {
    const Error gone(Code::kNotFound, "the peer has ended");
    if (!connection.identity) return gone;
    ProgramId program;
    if (connection.fresh) {
      program = *connection.fresh;
    } else {
      TRY(program, IdentifyProgram(connection.pid));
      if (program.process != *connection.identity) return gone;
    }
    if (connection.pidfd) {
      pollfd waiter{connection.pidfd.get(), POLLIN, 0};
      if (poll(&waiter, 1, 0) != 0) return gone;
    }
    return program;
  }

  // The slice the kernel says the process behind a connection belongs to. A stranger may have
  // become a member meanwhile.
  std::optional<std::string> SliceOf(const Connection& connection) const {
    if (connection.fresh && connection.asked_kernel && !connection.counted_as.empty()) {
      return connection.counted_as;
    }
    return membership.SliceOf(connection.pid);
  }

  // The slice this very process is attached to, or "". Saves asking the kernel whose it is.
  std::string AttachedTo(const os::ProcessId& process) {
    const std::lock_guard lock(mutex);
    const auto hint = attached_to.find(process.pid);
    if (hint == attached_to.end()) return "";
    const auto at = slices.find(hint->second);
    return at != slices.end() && at->second.ledger->IsAttached(process) ? at->first : "";
  }

  void Answer(std::uint64_t number, const wire::Request& request) {
    const auto at = connections.find(number);
    if (at == connections.end()) return;
    if (request.kind == wire::kAttach) {
      AnswerAttach(number, at->second, request);
    } else {
      AnswerSettle(number, at->second, request);
    }
  }

  void AnswerAttach(std::uint64_t number, Connection& connection, const wire::Request& request) {
    const auto program = Peer(connection);
    const auto slice_id = program ? SliceOf(connection) : std::nullopt;
    if (!slice_id) {
      const std::int64_t now = clock.MonotonicNanos();
      if (connection.parked_until == 0) connection.parked_until = now + kStrangerWaitNanos;
      if (program && announced->load() > 0 && now < connection.parked_until) {
        connection.parked = request;
        return;
      }
      connection.parked_until = 0;
      {
        const std::lock_guard lock(mutex);
        ++counters.strangers;
      }
      Reply(number, wire::kAttach, wire::kStatusNoSlice);
      return;
    }
    connection.parked_until = 0;
    // Answered under the lock, which keeps the pages: a send to a peer that may not read never
    // waits. What the asker need not wait for comes after it.
    const std::lock_guard lock(mutex);
    const auto slice = slices.find(*slice_id);
    if (slice == slices.end()) {
      ++counters.strangers;
      Reply(number, wire::kAttach, wire::kStatusNoSlice);
      return;
    }
    SliceLedger& ledger = *slice->second.ledger;
    auto taken = ledger.Attach(*program, &connection.pidfd);
    if (!taken && taken.error().code() == Code::kResourceExhausted) {
      // Some of those in the table may have ended without the news being read yet.
      if (ledger.CheckProcesses()) ledger.Step();
      taken = ledger.Attach(*program, &connection.pidfd);
    }
    if (!taken) {
      const bool full = taken.error().code() == Code::kResourceExhausted;
      Reply(number, wire::kAttach, full ? wire::kStatusFull : wire::kStatusClosed);
      return;
    }
    const int fds[] = {ledger.pages().control_fd(), ledger.pages().usage_fd()};
    Reply(number, wire::kAttach, wire::kStatusOk, *taken, 0, fds);
    ++counters.attached;
    if (attached_to.size() >= kConnectionsMax) attached_to.clear();
    attached_to[program->process.pid] = *slice_id;
    WatchProcess(ledger, *taken);
  }

  void AnswerSettle(std::uint64_t number, Connection& connection, const wire::Request& request) {
    wire::MessageStatus status = wire::kStatusNoSlice;
    std::string uuid;
    if (const auto program = Peer(connection)) {
      // Only a process that is attached is answered, so where it is attached is where it belongs.
      // The memory of it is gone after a restart of the node.
      std::string slice_id = AttachedTo(program->process);
      if (slice_id.empty()) slice_id = SliceOf(connection).value_or("");
      const std::lock_guard lock(mutex);
      const auto at = slices.find(slice_id);
      if (at != slices.end() && at->second.ledger->IsAttached(program->process)) {
        const auto& limits = at->second.ledger->limits();
        if (request.card < limits.size()) {
          uuid = limits[request.card].uuid;
          status = wire::kStatusUnknown;
        } else {
          status = wire::kStatusVersion;
        }
      }
    }
    std::optional<std::uint64_t> bytes;
    if (status == wire::kStatusUnknown && options.settle)
      bytes = options.settle(uuid, connection.pid);
    if (bytes) status = wire::kStatusOk;
    Reply(number, wire::kSettle, status, 0, bytes.value_or(0));
    if (status == wire::kStatusVersion) {
      {
        const std::lock_guard lock(mutex);
        ++counters.malformed;
      }
      Drop(number);
    }
  }
};

Result<std::unique_ptr<Broker>> Broker::Start(Options options) {
  auto impl = std::make_unique<Impl>(std::move(options));
  TRY_STATUS(impl->Open());
  return std::unique_ptr<Broker>(new Broker(std::move(impl)));
}

Broker::Broker(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Broker::~Broker() {
  impl_->stopping.store(true);
  impl_->Wake();
  if (impl_->thread.joinable()) impl_->thread.join();
  // The socket file stays: between two tesserads a guest's connect is refused at once, and the next
  // one replaces it.
}

namespace {
Error NoSlice(const std::string& id) {
  return Error(Code::kNotFound, "slice " + id + " does not exist");
}
}  // namespace

Status Broker::CreateSlice(const std::string& id, const std::vector<CardLimits>& cards,
                           std::uint64_t host_bytes) {
  const std::lock_guard lock(impl_->mutex);
  if (impl_->slices.contains(id))
    return Error(Code::kAlreadyExists, "slice " + id + " exists already");
  if (impl_->slices.size() >= kSlicesMax) {
    return Error(Code::kResourceExhausted, "kSlicesMax (1024) slices exist on this node");
  }
  TRY(auto pages, impl_->store.Create(id, cards, host_bytes));
  SlicePages* const given = pages.get();
  impl_->slices[id].ledger = std::make_unique<SliceLedger>(id, std::move(pages), impl_->clock);
  impl_->turns.Add(id, given, cards);
  return {};
}

Status Broker::AdoptSlice(const std::string& id, const std::vector<CardLimits>& cards,
                          const std::vector<std::string>& cgroups,
                          const std::vector<os::ProcessId>& roots, std::uint64_t host_bytes) {
  const std::lock_guard lock(impl_->mutex);
  if (impl_->slices.contains(id))
    return Error(Code::kAlreadyExists, "slice " + id + " exists already");
  if (impl_->slices.size() >= kSlicesMax) {
    return Error(Code::kResourceExhausted, "kSlicesMax (1024) slices exist on this node");
  }
  TRY(auto pages, impl_->store.Open(id, cards, host_bytes));
  const auto register_members = [&]() -> Status {
    for (const std::string& path : cgroups) TRY_STATUS(impl_->membership.AddCgroup(id, path));
    for (const os::ProcessId& root : roots) {
      if (os::IsAlive(root)) TRY_STATUS(impl_->membership.AddRoot(id, root));
    }
    return {};
  };
  if (auto registered = register_members(); !registered) {
    impl_->membership.RemoveSlice(id);
    return registered;
  }
  auto ledger = std::make_unique<SliceLedger>(id, std::move(pages), impl_->clock);
  ledger->Adopt([this, &id](const os::ProcessId& process) {
    const auto slice = impl_->membership.SliceOf(process.pid);
    return slice && *slice == id;
  });
  for (const AttachedProcess& process : ledger->Processes())
    impl_->WatchProcess(*ledger, process.slot);
  impl_->turns.Add(id, &ledger->pages(), cards);
  impl_->slices[id].ledger = std::move(ledger);
  impl_->Wake();
  return {};
}

Status Broker::SetLimits(const std::string& id, const std::vector<CardLimits>& cards,
                         std::uint64_t host_bytes) {
  TRY_STATUS(CheckLimits(cards));
  const std::lock_guard lock(impl_->mutex);
  const auto at = impl_->slices.find(id);
  if (at == impl_->slices.end()) return NoSlice(id);
  const auto& before = at->second.ledger->limits();
  const bool same_cards = std::equal(before.begin(), before.end(), cards.begin(), cards.end(),
                                     [](const auto& a, const auto& b) { return a.uuid == b.uuid; });
  if (!same_cards) return Error::Field("cards", "expected the slice's own cards in their order");
  at->second.ledger->SetLimits(cards, host_bytes);
  impl_->turns.SetLimits(id, cards);
  return {};
}

Status Broker::CloseSlice(const std::string& id) {
  const std::lock_guard lock(impl_->mutex);
  const auto at = impl_->slices.find(id);
  if (at == impl_->slices.end()) return NoSlice(id);
  at->second.ledger->Close();
  return {};
}

Status Broker::RemoveSlice(const std::string& id) {
  const std::lock_guard lock(impl_->mutex);
  if (const auto at = impl_->slices.find(id); at != impl_->slices.end()) {
    at->second.ledger->Close();
    TRY_STATUS(impl_->store.Remove(id));
    impl_->turns.Remove(id);
    impl_->slices.erase(at);
  } else {
    TRY_STATUS(impl_->store.Remove(id));
  }
  impl_->membership.RemoveSlice(id);
  return {};
}

Status Broker::AddCgroup(const std::string& id, const std::string& path) {
  const std::lock_guard lock(impl_->mutex);
  if (!impl_->slices.contains(id)) return NoSlice(id);
  TRY_STATUS(impl_->membership.AddCgroup(id, path));
  impl_->Wake();
  return {};
}

Status Broker::AddRoot(const std::string& id, const os::ProcessId& root) {
  const std::lock_guard lock(impl_->mutex);
  if (!impl_->slices.contains(id)) return NoSlice(id);
  TRY_STATUS(impl_->membership.AddRoot(id, root));
  impl_->Wake();
  return {};
}

std::vector<os::ProcessId> Broker::LiveRoots(const std::string& id) {
  return impl_->membership.LiveRoots(id);
}

std::optional<std::string> Broker::SliceOf(pid_t pid) const {
  return impl_->membership.SliceOf(pid);
}

std::unique_ptr<Broker::Announcement> Broker::Announce() {
  return std::make_unique<Announcement>(impl_->announced);
}

std::vector<std::string> Broker::Slices() const {
  const std::lock_guard lock(impl_->mutex);
  std::vector<std::string> ids;
  for (const auto& [id, slice] : impl_->slices) ids.push_back(id);
  return ids;
}

std::vector<std::string> Broker::PagesOnDisk() {
  auto names = impl_->store.List();
  return names ? *std::move(names) : std::vector<std::string>();
}

Result<std::vector<AttachedProcess>> Broker::Processes(const std::string& id) const {
  const std::lock_guard lock(impl_->mutex);
  const auto at = impl_->slices.find(id);
  if (at == impl_->slices.end()) return NoSlice(id);
  return at->second.ledger->Processes();
}

Result<std::vector<CardUsage>> Broker::Usage(const std::string& id) const {
  const std::lock_guard lock(impl_->mutex);
  const auto at = impl_->slices.find(id);
  if (at == impl_->slices.end()) return NoSlice(id);
  return at->second.ledger->Usage();
}

Result<CardUsage> Broker::HostUsage(const std::string& id) const {
  const std::lock_guard lock(impl_->mutex);
  const auto at = impl_->slices.find(id);
  if (at == impl_->slices.end()) return NoSlice(id);
  return at->second.ledger->HostUsage();
}

Result<SliceActivity> Broker::Activity(const std::string& id) const {
  const std::lock_guard lock(impl_->mutex);
  const auto at = impl_->slices.find(id);
  if (at == impl_->slices.end()) return NoSlice(id);
  return at->second.ledger->Activity();
}

Result<std::vector<CardAudit>> Broker::Audit(const std::string& id, const Settle& truth) const {
  std::vector<CardAudit> cards;
  std::vector<AttachedProcess> processes;
  {
    const std::lock_guard lock(impl_->mutex);
    const auto at = impl_->slices.find(id);
    if (at == impl_->slices.end()) return NoSlice(id);
    cards = at->second.ledger->Audit();
    processes = at->second.ledger->Processes();
  }
  if (!truth) return cards;
  for (CardAudit& card : cards) {
    card.driver = 0;
    for (const AttachedProcess& process : processes) {
      const auto bytes = truth(card.uuid, process.process.pid);
      if (!bytes) {
        card.driver.reset();
        break;
      }
      *card.driver += *bytes;
    }
  }
  return cards;
}

std::vector<TurnService> Broker::TurnsOf(const std::string& id) const {
  return impl_->turns.Service(id);
}

TurnCounters Broker::turns() const { return impl_->turns.counters(); }

BrokerCounters Broker::counters() const {
  const std::lock_guard lock(impl_->mutex);
  BrokerCounters all = impl_->counters;
  for (const auto& [id, slice] : impl_->slices) {
    all.recounts += slice.ledger->recounts();
    all.unsettled += slice.ledger->unsettled();
    all.nonsense += slice.ledger->nonsense();
  }
  return all;
}

}  // namespace tessera::broker
