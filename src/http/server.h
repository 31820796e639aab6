// HTTP/1.1 server on Boost.Beast behind a small surface. Handlers run on a fixed pool of worker
// threads (Options::workers) and may block; connections live on one I/O thread. Every bound in
// Options is answered with a problem+json body that names it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace tessera::http {

struct Peer {
  int pid = 0;  // unix sockets only (SO_PEERCRED); 0 on TCP
  unsigned uid = 0;
};

struct Request {
  std::string method;    // "GET"
  std::string path;      // decoded, without query
  std::string raw_path;  // as sent, still percent-encoded: "%2F" inside an id does not split it.
                         // Empty: path
  std::map<std::string, std::string> query;
  std::map<std::string, std::string> headers;     // lower-case names
  std::map<std::string, std::string> parameters;  // from the route: "/v1/slices/{id}"
  std::string body;
  std::optional<Peer> peer;
  std::string Header(std::string_view lower_name) const;  // "" when absent
};

struct Response {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::map<std::string, std::string> headers;
};

// RFC 9457 problem+json: type, title, status, detail, code (gRPC name, lower snake), and errors[]
// with the field.
Response Problem(const Error& error);
int HttpStatus(Code code);
// The same body under a status the table does not hold (405, 408, 413, 431).
Response ProblemWithStatus(int status, const Error& error);
// Splits a request target ("/v1/x?limit=3") into raw_path, path and query. Bad percent escapes,
// control characters and a query name given twice are refused.
Status SplitTarget(std::string_view target, Request* request);

using Handler = std::function<Response(const Request&)>;

// Routes by method and path pattern; unknown path 404, known path with other method 405 with Allow.
// A literal segment wins over a parameter. HEAD is answered by the GET route. Filled before Start,
// read-only after: thread-safe then.
class Router {
 public:
  void Handle(std::string method, std::string pattern, Handler handler);
  Response Dispatch(Request& request) const;

 private:
  struct Route {
    std::string method;
    std::vector<std::string> segments;
    Handler handler;
  };
  std::vector<Route> routes_;
};

struct Options {
  std::string unix_path;  // set one of the two
  unsigned unix_mode = 0600;
  std::string host = "127.0.0.1";  // used when unix_path is empty
  std::uint16_t port = 0;          // 0: any free port, see Server::port()
  unsigned workers = 4;
  unsigned connections_max = 256;
  std::uint64_t body_bytes_max = 1 << 20;
  std::uint64_t header_bytes_max = 16 << 10;
  int idle_seconds_max =
      60;  // between requests, and for one request's header, its body and its answer each
};

// A running server. Thread-safe; owns its threads and its socket file.
class Server {
 public:
  // Returns once the socket listens. A bad option is refused by its name.
  static Result<std::unique_ptr<Server>> Start(Options options, Router router);
  virtual ~Server() = default;  // stops, waits for handlers that run
  virtual std::uint16_t port() const = 0;
};

}  // namespace tessera::http
