#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/check.h"
#include "base/rng.h"
#include "http/client.h"
#include "http/json.h"
#include "http/server.h"
#include "http/url.h"
#include "os/fd.h"
#include "os/scratch.h"

namespace tessera::http {
namespace {

Response Text(std::string body) {
  Response response;
  response.content_type = "text/plain";
  response.body = std::move(body);
  return response;
}

Router Routes() {
  Router router;
  router.Handle("GET", "/v1/echo/{word}", [](const Request& r) {
    Response response = Text(r.parameters.at("word") + "|" + r.path);
    const auto tone = r.query.find("tone");
    if (tone != r.query.end()) response.body += "|" + tone->second;
    return response;
  });
  router.Handle("GET", "/v1/echo/fixed", [](const Request&) { return Text("literal"); });
  router.Handle("POST", "/v1/echo", [](const Request& r) { return Text(r.body); });
  router.Handle("PUT", "/v1/echo", [](const Request& r) { return Text("put " + r.body); });
  router.Handle("DELETE", "/v1/echo/{word}", [](const Request&) {
    Response response;
    response.status = 204;
    return response;
  });
  router.Handle("GET", "/v1/header", [](const Request& r) {
    Response response = Text(r.Header("x-one") + "|" + r.Header("missing"));
    response.headers["x-back"] = "a\r\nx-injected: b";
    return response;
  });
  router.Handle("GET", "/v1/peer", [](const Request& r) {
    return Text(r.peer ? std::to_string(r.peer->pid) + " " + std::to_string(r.peer->uid) : "none");
  });
  router.Handle("GET", "/v1/wrong", [](const Request&) {
    return Problem(Error::Field("shares[0].memory", "expected \"4GiB\""));
  });
  router.Handle("GET", "/v1/full", [](const Request&) {
    return Problem(Error(Code::kResourceExhausted, "queue_max (6) is reached"));
  });
  router.Handle("GET", "/v1/throws",
                [](const Request&) -> Response { throw std::runtime_error("secret"); });
  router.Handle("GET", "/v1/long", [](const Request&) { return Text(std::string(3 << 20, 'y')); });
  return router;
}

struct Pair {
  explicit Pair(Options options = {}, Router router = Routes()) {
    auto started = Server::Start(std::move(options), std::move(router));
    CHECK(started.has_value());
    server = *std::move(started);
    client = std::make_unique<Client>(ClientOptions());
  }
  Client::Options ClientOptions() const {
    return {.base_url = "http://127.0.0.1:" + std::to_string(server->port())};
  }
  std::unique_ptr<Server> server;
  std::unique_ptr<Client> client;
};

// A client without manners: sends raw bytes and reads until the server closes.
class Raw {
 public:
  explicit Raw(std::uint16_t port) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(::connect(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  }
  bool Send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<std::size_t>(n));
    }
    return true;
  }
  std::string ReadAll() {
    std::string all;
    char chunk[4096];
    while (true) {
      pollfd ready{fd_.get(), POLLIN, 0};
      if (::poll(&ready, 1, 60'000) <= 0) return all + "<no end within a minute>";
      const ssize_t n = ::recv(fd_.get(), chunk, sizeof chunk, 0);
      if (n <= 0) return all;
      all.append(chunk, static_cast<std::size_t>(n));
    }
  }

 private:
  os::Fd fd_;
};

bool Contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

TEST(Http, RoutesDecodeAndAnswerOverTcp) {
  Pair pair;
  EXPECT_EQ(*pair.client->CallOk("GET", "/v1/echo/a%20b%2Fc?tone=high+%26+low&empty="),
            "a b/c|/v1/echo/a b/c|high & low");
  EXPECT_EQ(*pair.client->CallOk("GET", "/v1/echo/fixed"), "literal");
  EXPECT_EQ(*pair.client->CallOk("POST", "/v1/echo", "body"), "body");
  EXPECT_EQ(*pair.client->CallOk("POST", "/v1/echo"), "");
  EXPECT_EQ(*pair.client->CallOk("PUT", "/v1/echo", "x"), "put x");
  EXPECT_EQ(*pair.client->CallOk("GET", "/v1/peer"), "none");
  const auto deleted = pair.client->Call("DELETE", "/v1/echo/x");
  ASSERT_TRUE(deleted);
  EXPECT_EQ(deleted->status, 204);
  const auto head = pair.client->Call("HEAD", "/v1/echo/abc");
  ASSERT_TRUE(head);
  EXPECT_EQ(head->status, 200);
  EXPECT_EQ(head->body, "");
  EXPECT_EQ(head->headers.at("content-length"),
            std::to_string(std::string("abc|/v1/echo/abc").size()));
  // The connection is still in step after HEAD and 204.
  EXPECT_EQ(*pair.client->CallOk("POST", "/v1/echo", "again"), "again");
}

TEST(Http, HeadersPassAndCannotBeInjected) {
  Pair pair;
  const auto answer = pair.client->Call("GET", "/v1/header", "", {{"X-One", "1"}});
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->body, "1|");
  EXPECT_EQ(answer->headers.at("x-back"), "a  x-injected: b");
  EXPECT_EQ(answer->headers.count("x-injected"), 0u);
  EXPECT_EQ(
      pair.client->Call("GET", "/v1/header", "", {{"X-One", "1\r\nX-Two: 2"}}).error().field(),
      "headers");
}

TEST(Http, UnixSocketCarriesPeerCredentialsAndGoesAway) {
  const os::ScratchFolder folder;
  const std::string socket = folder / "s";
  Options options;
  options.unix_path = socket;
  options.unix_mode = 0640;
  {
    Pair pair(options);
    Client client({.unix_path = socket});
    EXPECT_EQ(*client.CallOk("GET", "/v1/peer"),
              std::to_string(::getpid()) + " " + std::to_string(::getuid()));
    struct stat file{};
    ASSERT_EQ(::stat(socket.c_str(), &file), 0);
    EXPECT_EQ(file.st_mode & 0777, 0640u);
    EXPECT_FALSE(Server::Start(options, Router()));  // in use
    EXPECT_TRUE(client.CallOk("GET", "/v1/peer"));
  }
  EXPECT_NE(::access(socket.c_str(), F_OK), 0);
  const auto nobody = Client({.unix_path = socket}).Call("GET", "/");
  ASSERT_FALSE(nobody);
  EXPECT_EQ(nobody.error().code(), Code::kUnavailable);
}

TEST(Http, UnknownPathsAndMethods) {
  Pair pair;
  const auto missing = pair.client->Call("GET", "/v1/nothing");
  ASSERT_TRUE(missing);
  EXPECT_EQ(missing->status, 404);
  EXPECT_EQ(missing->headers.at("content-type"), "application/problem+json");
  const auto method = pair.client->Call("PATCH", "/v1/echo/x", "{}");
  ASSERT_TRUE(method);
  EXPECT_EQ(method->status, 405);
  EXPECT_EQ(method->headers.at("allow"), "DELETE, GET, HEAD");
  EXPECT_EQ(pair.client->Call("GET", "/v1/echo/")->status, 404);
  EXPECT_EQ(pair.client->Call("GET", "/v1/echo/%zz")->status, 400);
  EXPECT_EQ(pair.client->Call("GET", "/v1/echo/%00")->status, 400);
  EXPECT_EQ(pair.client->Call("GET", "/v1/echo/%4")->status, 400);
  const auto twice = pair.client->CallOk("GET", "/v1/echo/x?tone=a&tone=b");
  ASSERT_FALSE(twice);
  EXPECT_EQ(twice.error().field(), "tone");
}

TEST(Http, ProblemsComeBackAsTheErrorTheyWere) {
  Pair pair;
  const auto wrong = pair.client->CallOk("GET", "/v1/wrong");
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().ToString(), "INVALID_ARGUMENT: shares[0].memory: expected \"4GiB\"");
  const auto full = pair.client->CallOk("GET", "/v1/full");
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code(), Code::kResourceExhausted);
  EXPECT_EQ(full.error().message(), "queue_max (6) is reached");
  const auto raw = pair.client->Call("GET", "/v1/wrong");
  ASSERT_TRUE(raw);
  EXPECT_EQ(
      raw->body,
      R"({"type":"about:blank","title":"Bad Request","status":400,"detail":"expected \"4GiB\"",)"
      R"("code":"invalid_argument","errors":[{"field":"shares[0].memory","detail":"expected \"4GiB\""}]})");
}

TEST(Http, EveryCodeSurvivesTheTripExceptOk) {
  for (int i = 1; i <= 16; ++i) {
    const auto code = static_cast<Code>(i);
    Router router;
    router.Handle("GET", "/", [code](const Request&) { return Problem(Error(code, "why")); });
    Pair pair({.workers = 1}, std::move(router));
    const auto answer = pair.client->CallOk("GET", "/");
    ASSERT_FALSE(answer);
    EXPECT_EQ(answer.error().code(), code);
    EXPECT_EQ(answer.error().message(), "why");
    EXPECT_GE(HttpStatus(code), 400);
  }
}

TEST(Http, AHandlerThatThrowsIsAnInternalErrorWithoutItsWords) {
  Pair pair;
  const auto answer = pair.client->CallOk("GET", "/v1/throws");
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code(), Code::kInternal);
  EXPECT_FALSE(Contains(answer.error().message(), "secret"));
  EXPECT_TRUE(pair.client->CallOk("GET", "/v1/echo/x"));
}

TEST(Http, BodyBoundIsNamed) {
  Pair pair({.body_bytes_max = 1000});
  EXPECT_TRUE(pair.client->CallOk("POST", "/v1/echo", std::string(1000, 'x')));
  const auto answer = pair.client->Call("POST", "/v1/echo", std::string(1001, 'x'));
  ASSERT_TRUE(answer) << answer.error().ToString();
  EXPECT_EQ(answer->status, 413);
  EXPECT_TRUE(Contains(answer->body, "body_bytes_max (1000)"));
  // A long upload is told as well: the server reads on for a moment instead of resetting.
  const auto big = pair.client->Call("POST", "/v1/echo", std::string(8 << 20, 'x'));
  ASSERT_TRUE(big) << big.error().ToString();
  EXPECT_EQ(big->status, 413);
  // The same bound without a declared length.
  Raw raw(pair.server->port());
  ASSERT_TRUE(raw.Send("POST /v1/echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"));
  for (int i = 0; i < 20; ++i) raw.Send("64\r\n" + std::string(100, 'c') + "\r\n");
  raw.Send("0\r\n\r\n");
  EXPECT_TRUE(Contains(raw.ReadAll(), "413 Content Too Large"));
}

TEST(Http, HeaderBoundIsNamed) {
  Pair pair({.header_bytes_max = 2000});
  const auto answer =
      pair.client->Call("GET", "/v1/header", "", {{"x-one", std::string(3000, 'h')}});
  ASSERT_TRUE(answer) << answer.error().ToString();
  EXPECT_EQ(answer->status, 431);
  EXPECT_TRUE(Contains(answer->body, "header_bytes_max (2000)"));
}

TEST(Http, ConnectionBoundIsNamedAndFreedAgain) {
  Pair pair({.connections_max = 2});
  Client first(pair.ClientOptions());
  ASSERT_TRUE(first.CallOk("GET", "/v1/echo/x"));
  {
    Client second(pair.ClientOptions());
    ASSERT_TRUE(second.CallOk("GET", "/v1/echo/x"));
    const auto third = Client(pair.ClientOptions()).CallOk("GET", "/v1/echo/x");
    ASSERT_FALSE(third);
    EXPECT_EQ(third.error().code(), Code::kUnavailable);
    EXPECT_TRUE(Contains(third.error().message(), "connections_max (2)"))
        << third.error().ToString();
    ASSERT_TRUE(first.CallOk("GET", "/v1/echo/x"));
  }
  // The second's place is free once the server has seen it go.
  bool served = false;
  for (int i = 0; i < 2000 && !served; ++i) {
    served = Client(pair.ClientOptions()).CallOk("GET", "/v1/echo/x").has_value();
    if (!served) ::usleep(5000);
  }
  EXPECT_TRUE(served);
}

TEST(Http, SlowClientsAreTimedOut) {
  Pair pair({.idle_seconds_max = 1});
  Raw header(pair.server->port());
  Raw body(pair.server->port());
  Raw idle(pair.server->port());
  ASSERT_TRUE(header.Send("GET /v1/echo/x HT"));
  ASSERT_TRUE(body.Send("POST /v1/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc"));
  const std::string header_answer = header.ReadAll();
  EXPECT_TRUE(Contains(header_answer, "408 Request Timeout")) << header_answer;
  EXPECT_TRUE(Contains(header_answer, "idle_seconds_max (1 s)"));
  EXPECT_TRUE(Contains(body.ReadAll(), "408 Request Timeout"));
  EXPECT_EQ(idle.ReadAll(), "");
}

TEST(Http, ASlowReaderDoesNotHoldItsConnectionForEver) {
  Router router;
  router.Handle("GET", "/", [](const Request&) { return Text(std::string(64 << 20, 'z')); });
  Pair pair({.connections_max = 1, .idle_seconds_max = 1}, std::move(router));
  Raw raw(pair.server->port());
  ASSERT_TRUE(raw.Send("GET / HTTP/1.1\r\nhost: x\r\n\r\n"));
  bool served = false;
  for (int i = 0; i < 2000 && !served; ++i) {
    const auto answer = Client(pair.ClientOptions()).Call("GET", "/none");
    served = answer && answer->status == 404;
    if (!served) ::usleep(10'000);
  }
  EXPECT_TRUE(served);
}

TEST(Http, GarbageIsRefusedAndTheServerLives) {
  Pair pair;
  for (const std::string_view bytes :
       {"\r\n\r\nnonsense\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\r\n\r\n", "POST /v1/echo HTTP/1.1\r\ncontent-length: -5\r\n\r\n",
        "POST /v1/echo HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcde",
        "POST /v1/echo HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nabcde",
        "POST /v1/echo HTTP/1.1\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        "GET / HTTP/1.1\r\nbad header\r\n\r\n"}) {
    Raw raw(pair.server->port());
    raw.Send(bytes);
    const std::string answer = raw.ReadAll();
    EXPECT_TRUE(Contains(answer, " 400 Bad Request") || Contains(answer, " 413 ")) << bytes << "\n"
                                                                                   << answer;
  }
  Rng rng(5);
  for (int i = 0; i < 200; ++i) {
    std::string bytes = "GET /v1/echo/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    for (int edit = 0; edit < 3; ++edit)
      bytes[rng.Below(bytes.size())] = static_cast<char>(rng.Below(256));
    Raw raw(pair.server->port());
    raw.Send(bytes);  // the answer is not waited for: half of these are incomplete requests
  }
  EXPECT_TRUE(pair.client->CallOk("GET", "/v1/echo/x"));
}

TEST(Http, KeepAliveAndPipelining) {
  Pair pair;
  Raw raw(pair.server->port());
  ASSERT_TRUE(
      raw.Send("GET /v1/echo/one HTTP/1.1\r\nhost: x\r\n\r\n"
               "POST /v1/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\ntwo"
               "GET /v1/echo/three HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"));
  const std::string all = raw.ReadAll();
  EXPECT_TRUE(Contains(all, "one|/v1/echo/one"));
  EXPECT_TRUE(Contains(all, "\r\n\r\ntwo"));
  EXPECT_TRUE(Contains(all, "three|/v1/echo/three"));
}

TEST(Http, ExpectContinueIsAnswered) {
  Pair pair;
  Raw raw(pair.server->port());
  ASSERT_TRUE(
      raw.Send("POST /v1/echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\nexpect: 100-continue\r\n"
               "content-length: 3\r\n\r\n"));
  ASSERT_TRUE(raw.Send("abc"));
  const std::string all = raw.ReadAll();
  EXPECT_TRUE(all.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")) << all;
}

TEST(Http, ClientBoundsAreNamed) {
  Pair pair;
  auto options = pair.ClientOptions();
  options.body_bytes_max = 1 << 20;
  const auto answer = Client(options).Call("GET", "/v1/long");
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code(), Code::kResourceExhausted);
  EXPECT_TRUE(Contains(answer.error().message(), "body_bytes_max (1048576)"));
  EXPECT_EQ(pair.client->CallOk("GET", "/v1/long")->size(), 3u << 20);
  EXPECT_EQ(pair.client->Call("GET", "v1/echo").error().field(), "target");
}

TEST(Http, ClientTimesOutAndServerFinishesTheHandlerBeforeStopping) {
  std::mutex mutex;
  std::condition_variable changed;
  bool entered = false;
  bool release = false;
  std::atomic<bool> finished{false};
  Router router;
  router.Handle("GET", "/slow", [&](const Request&) {
    std::unique_lock lock(mutex);
    entered = true;
    changed.notify_all();
    changed.wait(lock, [&] { return release; });
    finished = true;
    return Text("done");
  });
  router.Handle("GET", "/first", [&](const Request&) {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return release; });
    return Text("too late");
  });
  auto pair = std::make_unique<Pair>(Options{}, std::move(router));
  auto options = pair->ClientOptions();
  options.timeout_millis = 50;
  const auto timed_out = Client(options).Call("GET", "/first");
  ASSERT_FALSE(timed_out);
  EXPECT_EQ(timed_out.error().code(), Code::kDeadlineExceeded);
  // A second request is in its handler when the server stops: it still gets its answer.
  Result<std::string> answer = Error(Code::kUnknown, "");
  std::thread caller([&, waiting = pair->ClientOptions()]() mutable {
    waiting.timeout_millis = 60'000;
    answer = Client(waiting).CallOk("GET", "/slow");
  });
  {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return entered; });
  }
  std::thread stopper([&] { pair.reset(); });
  ::usleep(20'000);  // lets the stop begin; the test holds in either order
  EXPECT_FALSE(finished);
  {
    const std::lock_guard lock(mutex);
    release = true;
  }
  changed.notify_all();
  stopper.join();
  caller.join();
  ASSERT_TRUE(answer) << answer.error().ToString();
  EXPECT_EQ(*answer, "done");
  EXPECT_TRUE(finished);
}

TEST(Http, ManyClientsAtOnce) {
  const os::ScratchFolder folder;
  const std::string socket = folder / "s";
  Pair pair({.unix_path = socket});
  std::atomic<int> good{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      Client client({.unix_path = socket});
      for (int i = 0; i < 100; ++i) {
        const std::string body = std::to_string(t) + ":" + std::to_string(i);
        const auto answer = client.CallOk("POST", "/v1/echo", body);
        if (answer && *answer == body) ++good;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, 800);
}

TEST(Http, BadOptionsAreRefusedByName) {
  const auto field = [](Options options) {
    const auto started = Server::Start(std::move(options), Router());
    return started ? std::string("started") : started.error().field();
  };
  EXPECT_EQ(field({.workers = 0}), "workers");
  EXPECT_EQ(field({.connections_max = 0}), "connections_max");
  EXPECT_EQ(field({.header_bytes_max = 1}), "header_bytes_max");
  EXPECT_EQ(field({.idle_seconds_max = 0}), "idle_seconds_max");
  EXPECT_EQ(field({.host = "example.invalid"}), "host");
  EXPECT_EQ(field({.body_bytes_max = std::uint64_t{1} << 40}), "body_bytes_max");
  EXPECT_EQ(field({}), "started");
}

TEST(Url, EncodesAndDecodes) {
  EXPECT_EQ(PercentEncode("a b/c~é"), "a%20b%2Fc~%C3%A9");
  EXPECT_EQ(*PercentDecode("a%20b+c", false), "a b+c");
  EXPECT_EQ(*PercentDecode("a%20b+c", true), "a b c");
  EXPECT_FALSE(PercentDecode("%", false));
  EXPECT_FALSE(PercentDecode("a%4", false));
  EXPECT_FALSE(PercentDecode("%g0", false));
  Rng rng(3);
  for (int i = 0; i < 500; ++i) {
    std::string text;
    for (std::uint64_t n = rng.Below(30); n > 0; --n) text += static_cast<char>(rng.Below(256));
    EXPECT_EQ(*PercentDecode(PercentEncode(text), true), text);
  }
}

}  // namespace
}  // namespace tessera::http
