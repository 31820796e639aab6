#include "http/server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <set>
#include <thread>

#include "base/log.h"
#include "http/status.h"
#include "os/fd.h"
#include "os/net.h"

namespace tessera::http {
namespace {

namespace asio = boost::asio;
namespace bhttp = boost::beast::http;
using ErrorCode = boost::system::error_code;
using Protocol = asio::generic::stream_protocol;

// After refusing a request whose bytes are still arriving, keep reading for this long: closing at
// once would make the kernel reset the connection and throw the answer away.
constexpr int kLingerSeconds = 2;
// How many connections beyond connections_max may be told so at a time; further ones are closed
// without a word.
constexpr std::size_t kRefusedConnectionsMax = 64;
constexpr int kAcceptRetryMillis = 100;

std::string CleanHeader(std::string_view text) {
  std::string clean(text);
  for (char& c : clean) {
    if (c == '\r' || c == '\n' || c == '\0') c = ' ';
  }
  return clean;
}

std::string Serialise(const Response& response, bool keep_alive, bool head) {
  const bool bodiless = response.status == 204 || response.status == 304;
  std::string out = "HTTP/1.1 " + std::to_string(response.status) + " ";
  out += ReasonPhrase(response.status);
  out += "\r\n";
  if (!bodiless) {
    if (!response.content_type.empty()) {
      out += "content-type: " + CleanHeader(response.content_type) + "\r\n";
    }
    out += "content-length: " + std::to_string(response.body.size()) + "\r\n";
  }
  for (const auto& [name, value] : response.headers) {
    out += CleanHeader(name) + ": " + CleanHeader(value) + "\r\n";
  }
  out += keep_alive ? "connection: keep-alive\r\n\r\n" : "connection: close\r\n\r\n";
  if (!bodiless && !head) out += response.body;
  return out;
}

// A fixed pool. Its queue is bounded by connections_max: a connection has one request in flight at
// most.
class Workers {
 public:
  explicit Workers(unsigned count) {
    for (unsigned i = 0; i < count; ++i) threads_.emplace_back([this] { Work(); });
  }
  ~Workers() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    ready_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  void Push(std::function<void()> job) {
    {
      const std::lock_guard lock(mutex_);
      jobs_.push_back(std::move(job));
    }
    ready_.notify_one();
  }

 private:
  void Work() {
    std::unique_lock lock(mutex_);
    while (true) {
      ready_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
      if (jobs_.empty()) return;
      std::function<void()> job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      job();
      job = nullptr;  // the connection it holds is released outside the lock
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::function<void()>> jobs_;
  std::vector<std::thread> threads_;
  bool stopping_ = false;
};

class Session;

class ServerImpl : public Server {
 public:
  ServerImpl(Options options, Router router, os::Fd listener, std::uint16_t port);
  ~ServerImpl() override;
  std::uint16_t port() const override { return port_; }

  const Options& options() const { return options_; }
  asio::io_context& io() { return io_; }
  bool stopping() const { return stopping_; }
  void Enqueue(std::shared_ptr<Session> session, Request request);
  void Remove(const std::shared_ptr<Session>& session);

 private:
  void WaitForConnection();
  void AcceptAll();
  void BeginStop();
  void ReleaseWhenIdle();

  const Options options_;
  const Router router_;
  const bool is_unix_;
  const std::uint16_t port_;
  dev_t socket_device_ = 0;
  ino_t socket_inode_ = 0;
  // Everything below lives on the I/O thread.
  asio::io_context io_{1};
  std::optional<asio::executor_work_guard<asio::io_context::executor_type>> work_;
  asio::posix::stream_descriptor listener_;
  asio::steady_timer accept_retry_;
  std::set<std::shared_ptr<Session>> sessions_;
  std::size_t served_ = 0;
  std::size_t refused_ = 0;
  bool stopping_ = false;
  std::unique_ptr<Workers> workers_;
  std::thread io_thread_;
};

// One connection. Lives on the I/O thread; only the handler's run is elsewhere, and it returns by
// post().
class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(ServerImpl& server, Protocol::socket socket, std::optional<Peer> peer, bool refused)
      : server_(server),
        socket_(std::move(socket)),
        timer_(server.io()),
        buffer_(server.options().header_bytes_max + kReadAhead),
        peer_(peer),
        refused_(refused) {}

  bool refused() const { return refused_; }

  void Begin() {
    if (refused_) {
      Refuse(503, Error(Code::kUnavailable, "connections_max (" +
                                                std::to_string(server_.options().connections_max) +
                                                ") connections are open"));
      return;
    }
    ReadHeader();
  }

  // The server stops: a request that is being handled or answered finishes, everything else ends
  // now.
  void Stop() {
    if (phase_ == Phase::kReading || phase_ == Phase::kLingering) Close();
  }

  void Respond(const Response& response) {
    const bool keep_alive = keep_alive_ && !server_.stopping();
    Write(Serialise(response, keep_alive, head_), keep_alive ? After::kNextRequest : After::kClose);
  }

 private:
  static constexpr std::size_t kReadAhead = 64 << 10;
  enum class Phase { kReading, kHandling, kWriting, kLingering, kClosed };
  enum class After { kNextRequest, kClose, kLinger };

  void Arm(int seconds) {
    timed_out_ = false;
    timer_.expires_after(std::chrono::seconds(seconds));
    timer_.async_wait([self = shared_from_this()](ErrorCode ec) {
      // A timer that was armed again or cancelled after it had fired still delivers; the expiry
      // tells.
      if (ec || self->timer_.expiry() > std::chrono::steady_clock::now()) return;
      if (self->phase_ == Phase::kHandling || self->phase_ == Phase::kClosed) return;
      self->timed_out_ = true;
      ErrorCode ignored;
      // NOLINTNEXTLINE(bugprone-unused-return-value): it is in the argument
      (void)self->socket_.cancel(ignored);
    });
  }

  void ReadHeader() {
    if (server_.stopping()) return Close();
    phase_ = Phase::kReading;
    parser_.emplace();
    parser_->header_limit(static_cast<std::uint32_t>(server_.options().header_bytes_max));
    parser_->body_limit(server_.options().body_bytes_max);
    Arm(server_.options().idle_seconds_max);
    bhttp::async_read_header(
        socket_, buffer_, *parser_,
        [self = shared_from_this()](ErrorCode ec, std::size_t) { self->OnHeader(ec); });
  }

  void OnHeader(ErrorCode ec) {
    if (phase_ == Phase::kClosed) return;
    if (ec) return ReadFailed(ec);
    if (parser_->is_done()) return Run();
    const auto expect = parser_->get()[bhttp::field::expect];
    if (!boost::beast::iequals(expect, "100-continue")) return ReadBody();
    static constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
    asio::async_write(socket_, asio::buffer(kContinue),
                      [self = shared_from_this()](ErrorCode error, std::size_t) {
                        if (self->phase_ == Phase::kClosed) return;
                        if (error) return self->Close();
                        self->ReadBody();
                      });
  }

  void ReadBody() {
    Arm(server_.options().idle_seconds_max);
    bhttp::async_read(socket_, buffer_, *parser_,
                      [self = shared_from_this()](ErrorCode ec, std::size_t) {
                        if (self->phase_ == Phase::kClosed) return;
                        if (ec) return self->ReadFailed(ec);
                        self->Run();
                      });
  }

  void ReadFailed(ErrorCode ec) {
    const Options& options = server_.options();
    if (timed_out_) {
      if (!parser_->got_some() && buffer_.size() == 0) return Close();
      return Refuse(408, Error(Code::kDeadlineExceeded,
                               "the request did not arrive within idle_seconds_max (" +
                                   std::to_string(options.idle_seconds_max) + " s)"));
    }
    if (ec == bhttp::error::header_limit || ec == bhttp::error::buffer_overflow) {
      return Refuse(431, Error(Code::kResourceExhausted,
                               "the request's header is longer than header_bytes_max (" +
                                   std::to_string(options.header_bytes_max) + ")"));
    }
    if (ec == bhttp::error::body_limit) {
      return Refuse(413, Error(Code::kResourceExhausted,
                               "the request's body is longer than body_bytes_max (" +
                                   std::to_string(options.body_bytes_max) + ")"));
    }
    if (ec == bhttp::error::end_of_stream || ec == bhttp::error::partial_message ||
        ec.category() != bhttp::make_error_code(bhttp::error::bad_method).category()) {
      return Close();  // the client went away
    }
    Refuse(400, Error(Code::kInvalidArgument, "not an HTTP/1.1 request: " + ec.message()));
  }

  void Refuse(int status, const Error& error) {
    Write(Serialise(ProblemWithStatus(status, error), false, false), After::kLinger);
  }

  void Run() {
    timer_.cancel();
    phase_ = Phase::kHandling;
    auto message = parser_->release();
    keep_alive_ = message.keep_alive();
    head_ = message.method() == bhttp::verb::head;
    Request request;
    request.method = std::string(message.method_string());
    if (const Status split =
            SplitTarget({message.target().data(), message.target().size()}, &request);
        !split) {
      return Respond(Problem(split.error()));
    }
    for (const auto& field : message) {
      std::string name(field.name_string());
      for (char& c : name) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
      const std::string value(field.value());
      auto [where, fresh] = request.headers.emplace(std::move(name), value);
      if (!fresh) where->second += ", " + value;
    }
    request.body = std::move(message.body());
    request.peer = peer_;
    server_.Enqueue(shared_from_this(), std::move(request));
  }

  void Write(std::string bytes, After after) {
    phase_ = Phase::kWriting;
    out_ = std::move(bytes);
    Arm(server_.options().idle_seconds_max);
    asio::async_write(socket_, asio::buffer(out_),
                      [self = shared_from_this(), after](ErrorCode ec, std::size_t) {
                        if (self->phase_ == Phase::kClosed) return;
                        self->out_.clear();
                        if (ec) return self->Close();
                        if (after == After::kNextRequest) return self->ReadHeader();
                        ErrorCode ignored;
                        // NOLINTNEXTLINE(bugprone-unused-return-value): it is in the argument
                        (void)self->socket_.shutdown(Protocol::socket::shutdown_send, ignored);
                        if (after == After::kClose || self->server_.stopping())
                          return self->Close();
                        self->phase_ = Phase::kLingering;
                        self->Arm(kLingerSeconds);
                        self->out_.resize(16 << 10);
                        self->Discard();
                      });
  }

  void Discard() {
    socket_.async_read_some(asio::buffer(out_),
                            [self = shared_from_this()](ErrorCode ec, std::size_t) {
                              if (self->phase_ == Phase::kClosed) return;
                              if (ec || self->timed_out_) return self->Close();
                              self->Discard();
                            });
  }

  void Close() {
    if (phase_ == Phase::kClosed) return;
    phase_ = Phase::kClosed;
    timer_.cancel();
    ErrorCode ignored;
    // NOLINTNEXTLINE(bugprone-unused-return-value): it is in the argument
    (void)socket_.close(ignored);
    server_.Remove(shared_from_this());
  }

  ServerImpl& server_;
  Protocol::socket socket_;
  asio::steady_timer timer_;
  boost::beast::flat_buffer buffer_;
  std::optional<bhttp::request_parser<bhttp::string_body>> parser_;
  std::string out_;
  const std::optional<Peer> peer_;
  const bool refused_;
  Phase phase_ = Phase::kReading;
  bool timed_out_ = false;
  bool keep_alive_ = false;
  bool head_ = false;
};

ServerImpl::ServerImpl(Options options, Router router, os::Fd listener, std::uint16_t port)
    : options_(std::move(options)),
      router_(std::move(router)),
      is_unix_(!options_.unix_path.empty()),
      port_(port),
      listener_(io_, listener.Release()),
      accept_retry_(io_) {
  if (struct stat file{}; is_unix_ && ::stat(options_.unix_path.c_str(), &file) == 0) {
    socket_device_ = file.st_dev;
    socket_inode_ = file.st_ino;
  }
  work_.emplace(io_.get_executor());
  workers_ = std::make_unique<Workers>(options_.workers);
  WaitForConnection();
  io_thread_ = std::thread([this] { io_.run(); });
}

ServerImpl::~ServerImpl() {
  asio::post(io_, [this] { BeginStop(); });
  io_thread_.join();
  workers_.reset();
  // A successor may have bound the same path by now; its file is not ours to remove.
  if (struct stat file{}; is_unix_ && ::stat(options_.unix_path.c_str(), &file) == 0 &&
                          file.st_dev == socket_device_ && file.st_ino == socket_inode_) {
    ::unlink(options_.unix_path.c_str());
  }
}

void ServerImpl::BeginStop() {
  stopping_ = true;
  ErrorCode ignored;
  // NOLINTNEXTLINE(bugprone-unused-return-value): it is in the argument
  (void)listener_.close(ignored);
  accept_retry_.cancel();
  const auto sessions = sessions_;  // Stop() removes from the set
  for (const auto& session : sessions) session->Stop();
  ReleaseWhenIdle();
}

void ServerImpl::ReleaseWhenIdle() {
  if (stopping_ && sessions_.empty()) work_.reset();
}

void ServerImpl::Enqueue(std::shared_ptr<Session> session, Request request) {
  workers_->Push([this, session = std::move(session), request = std::move(request)]() mutable {
    Response response;
    try {
      response = router_.Dispatch(request);
    } catch (const std::exception& thrown) {
      Log(LogLevel::kError, "http.handler_threw",
          {{"method", request.method}, {"path", request.path}, {"what", thrown.what()}});
      response = Problem(Error(Code::kInternal, "the handler failed; the log says why"));
    }
    asio::post(io_, [session = std::move(session), response = std::move(response)] {
      session->Respond(response);
    });
  });
}

void ServerImpl::Remove(const std::shared_ptr<Session>& session) {
  if (sessions_.erase(session) == 0) return;
  --(session->refused() ? refused_ : served_);
  ReleaseWhenIdle();
}

void ServerImpl::WaitForConnection() {
  listener_.async_wait(asio::posix::stream_descriptor::wait_read, [this](ErrorCode ec) {
    if (ec || stopping_) return;
    AcceptAll();
  });
}

void ServerImpl::AcceptAll() {
  while (true) {
    os::Fd fd(::accept4(listener_.native_handle(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) return WaitForConnection();
      // Out of descriptors or memory: the listener stays readable, so waiting for it would spin.
      Log(LogLevel::kWarn, "http.accept_failed", {{"error", std::strerror(errno)}});
      accept_retry_.expires_after(std::chrono::milliseconds(kAcceptRetryMillis));
      accept_retry_.async_wait([this](ErrorCode ec) {
        if (!ec && !stopping_) AcceptAll();
      });
      return;
    }
    std::optional<Peer> peer;
    if (is_unix_) {
      const auto credentials = os::PeerOf(fd.get());
      if (!credentials) continue;  // gone already
      peer = Peer{credentials->pid, credentials->uid};
    } else {
      const int on = 1;
      ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    const bool refused = served_ >= options_.connections_max;
    if (refused && refused_ >= kRefusedConnectionsMax) continue;
    Protocol::socket socket(io_);
    ErrorCode ec;
    // NOLINTNEXTLINE(bugprone-unused-return-value): it is in the argument
    (void)socket.assign(is_unix_ ? Protocol(AF_UNIX, 0) : Protocol(AF_INET, IPPROTO_TCP), fd.get(),
                        ec);
    if (ec) continue;
    fd.Release();
    auto session = std::make_shared<Session>(*this, std::move(socket), peer, refused);
    ++(refused ? refused_ : served_);
    sessions_.insert(session);
    session->Begin();
  }
}

Error SystemError(const std::string& what) {
  const int number = errno;
  Code code = Code::kInternal;
  if (number == EADDRINUSE) code = Code::kAlreadyExists;
  if (number == EACCES || number == EPERM) code = Code::kPermissionDenied;
  return Error(code, what + ": " + std::strerror(number));
}

Result<os::Fd> ListenTcp(const std::string& host, std::uint16_t port, std::uint16_t* bound) {
  sockaddr_storage storage{};
  socklen_t length = 0;
  auto* v4 = reinterpret_cast<sockaddr_in*>(&storage);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&storage);
  const std::string literal = host == "localhost" ? "127.0.0.1" : host;
  if (::inet_pton(AF_INET, literal.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    length = sizeof *v4;
  } else if (::inet_pton(AF_INET6, literal.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    length = sizeof *v6;
  } else {
    return Error::Field("host", "expected an IP address or localhost");
  }
  os::Fd fd(::socket(storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return SystemError("socket");
  const int on = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  const std::string where = host + ":" + std::to_string(port);
  auto* address = reinterpret_cast<sockaddr*>(&storage);
  if (::bind(fd.get(), address, length) != 0) return SystemError("bind " + where);
  if (::listen(fd.get(), SOMAXCONN) != 0) return SystemError("listen " + where);
  length = sizeof storage;
  if (::getsockname(fd.get(), address, &length) != 0) return SystemError("getsockname " + where);
  *bound = ntohs(storage.ss_family == AF_INET ? v4->sin_port : v6->sin6_port);
  return fd;
}

}  // namespace

Result<std::unique_ptr<Server>> Server::Start(Options options, Router router) {
  if (options.workers < 1 || options.workers > 256) {
    return Error::Field("workers", "expected 1 to 256");
  }
  if (options.connections_max < 1 || options.connections_max > 65536) {
    return Error::Field("connections_max", "expected 1 to 65536");
  }
  if (options.header_bytes_max < 256 || options.header_bytes_max > (1 << 20)) {
    return Error::Field("header_bytes_max", "expected 256 to 1048576");
  }
  if (options.body_bytes_max > (std::uint64_t{1} << 30)) {
    return Error::Field("body_bytes_max", "expected at most 1 GiB");
  }
  if (options.idle_seconds_max < 1 || options.idle_seconds_max > 3600) {
    return Error::Field("idle_seconds_max", "expected 1 to 3600");
  }
  os::Fd listener;
  std::uint16_t port = 0;
  if (options.unix_path.empty()) {
    TRY(listener, ListenTcp(options.host, options.port, &port));
  } else {
    TRY(listener, os::ListenUnix(options.unix_path, os::SocketKind::kStream, options.unix_mode));
    const int flags = ::fcntl(listener.get(), F_GETFL);
    if (flags < 0 || ::fcntl(listener.get(), F_SETFL, flags | O_NONBLOCK) != 0) {
      return SystemError("fcntl " + options.unix_path);
    }
  }
  try {
    return std::unique_ptr<Server>(std::make_unique<ServerImpl>(
        std::move(options), std::move(router), std::move(listener), port));
  } catch (const std::exception& thrown) {
    return Error(Code::kInternal, std::string("HTTP server: ") + thrown.what());
  }
}

}  // namespace tessera::http
