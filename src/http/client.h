// HTTP client on libcurl, over TCP or a unix socket. One Client per thread or guarded by its own
// lock: calls are serialised inside; connections are kept alive.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "base/result.h"

namespace tessera::http {

struct ClientResponse {
  int status = 0;
  std::map<std::string, std::string> headers;  // lower-case names
  std::string body;
};

class Client {
 public:
  struct Options {
    std::string unix_path;  // empty: TCP
    std::string base_url = "http://localhost";
    int timeout_millis = 10'000;
    std::uint64_t body_bytes_max = 16 << 20;
  };
  explicit Client(Options options);
  ~Client();
  // kUnavailable when nobody answers, kDeadlineExceeded on timeout; any HTTP status is a value.
  Result<ClientResponse> Call(const std::string& method, const std::string& target,
                              const std::string& body = "",
                              const std::map<std::string, std::string>& headers = {});
  // Call() and turn a problem+json answer (status >= 400) back into the Error it was made from.
  Result<std::string> CallOk(const std::string& method, const std::string& target,
                             const std::string& body = "",
                             const std::map<std::string, std::string>& headers = {});

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tessera::http
