#include "http/client.h"

#include <curl/curl.h>

#include <mutex>

#include "base/check.h"
#include "http/json.h"
#include "http/server.h"
#include "http/status.h"

namespace tessera::http {
namespace {

constexpr std::size_t kHeaderBytesMax = 64 << 10;
constexpr std::size_t kShownBodyBytes = 200;

// libcurl wants one global initialisation before any thread uses it.
void InitialiseOnce() {
  static const CURLcode code = curl_global_init(CURL_GLOBAL_DEFAULT);
  CHECK(code == CURLE_OK);
}

struct Transfer {
  ClientResponse response;
  std::uint64_t body_bytes_max = 0;
  std::size_t header_bytes = 0;
  bool too_long = false;
};

std::size_t OnBody(char* data, std::size_t size, std::size_t count, void* user) {
  auto* transfer = static_cast<Transfer*>(user);
  const std::size_t bytes = size * count;
  if (transfer->response.body.size() + bytes > transfer->body_bytes_max) {
    transfer->too_long = true;
    return 0;  // makes libcurl end the transfer
  }
  transfer->response.body.append(data, bytes);
  return bytes;
}

std::size_t OnHeader(char* data, std::size_t size, std::size_t count, void* user) {
  auto* transfer = static_cast<Transfer*>(user);
  const std::size_t bytes = size * count;
  std::string_view line(data, bytes);
  if (line.starts_with("HTTP/")) {
    transfer->response.headers.clear();  // a 100 Continue came before
    transfer->header_bytes = 0;
  }
  transfer->header_bytes += bytes;
  if (transfer->header_bytes > kHeaderBytesMax) {
    transfer->too_long = true;
    return 0;
  }
  while (!line.empty() && (line.back() == '\r' || line.back() == '\n')) line.remove_suffix(1);
  const std::size_t colon = line.find(':');
  if (colon == std::string_view::npos) return bytes;
  std::string name(line.substr(0, colon));
  for (char& c : name) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  std::string_view value = line.substr(colon + 1);
  while (!value.empty() && value.front() == ' ') value.remove_prefix(1);
  while (!value.empty() && value.back() == ' ') value.remove_suffix(1);
  auto [where, fresh] = transfer->response.headers.emplace(std::move(name), value);
  if (!fresh) where->second += ", " + std::string(value);
  return bytes;
}

bool HasLineBreak(std::string_view text) {
  return text.find_first_of(std::string_view("\r\n\0", 3)) != std::string_view::npos;
}

Code CodeOfStatus(int status) {
  switch (status) {
    case 400:
      return Code::kInvalidArgument;
    case 401:
      return Code::kUnauthenticated;
    case 402:
      return Code::kFailedPrecondition;
    case 403:
      return Code::kPermissionDenied;
    case 404:
      return Code::kNotFound;
    case 409:
      return Code::kAborted;
    case 408:
      return Code::kDeadlineExceeded;
    case 413:
    case 429:
    case 431:
      return Code::kResourceExhausted;
    case 501:
      return Code::kUnimplemented;
    case 503:
      return Code::kUnavailable;
    case 504:
      return Code::kDeadlineExceeded;
    default:
      return status >= 500 ? Code::kInternal : Code::kUnknown;
  }
}

// The Error a problem was made from; any other body becomes a message with its first bytes.
Error ErrorFrom(const ClientResponse& response) {
  auto body = JsonObject::Parse(response.body);
  if (body) {
    const auto detail = body->OptionalString("detail", "", 64 << 10);
    const auto code_name = body->OptionalString("code");
    // A code of the service's own ("insufficient_funds") is told by its status; its detail is kept.
    const bool coded = code_name && !code_name->empty();
    const Code code = CodeFromLowerName(coded ? *code_name : "")
                          .value_or(coded ? CodeOfStatus(response.status) : Code::kOk);
    if (detail && !detail->empty() && code != Code::kOk) {
      Error error(code, *detail);
      auto errors = body->OptionalArray("errors", 1000);
      if (errors && !errors->empty()) {
        if (auto first = errors->front().Object()) {
          const auto field = first->OptionalString("field", "", 4096);
          if (field && !field->empty()) return error.Under(*field);
        }
      }
      return error;
    }
  }
  return Error(CodeOfStatus(response.status), "HTTP status " + std::to_string(response.status) +
                                                  ": " + response.body.substr(0, kShownBodyBytes));
}

}  // namespace

struct Client::Impl {
  Options options;
  std::mutex mutex;
  CURL* easy = nullptr;

  ~Impl() { curl_easy_cleanup(easy); }
};

Client::Client(Options options) : impl_(std::make_unique<Impl>()) {
  InitialiseOnce();
  impl_->options = std::move(options);
  impl_->easy = curl_easy_init();
  CHECK(impl_->easy != nullptr);
}

Client::~Client() = default;

Result<ClientResponse> Client::Call(const std::string& method, const std::string& target,
                                    const std::string& body,
                                    const std::map<std::string, std::string>& headers) {
  if (target.empty() || target.front() != '/' || HasLineBreak(target)) {
    return Error::Field("target", "expected a path that starts with '/'");
  }
  if (method.empty() || HasLineBreak(method)) return Error::Field("method", "expected a method");
  const std::lock_guard lock(impl_->mutex);
  const Options& options = impl_->options;
  CURL* easy = impl_->easy;
  curl_easy_reset(easy);  // options go, live connections stay
  Transfer transfer;
  transfer.body_bytes_max = options.body_bytes_max;
  const std::string url = options.base_url + target;
  curl_easy_setopt(easy, CURLOPT_URL, url.c_str());
  curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);
  if (!options.unix_path.empty()) {
    curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, options.unix_path.c_str());
  }
  // The house talks to itself: a proxy of the environment must not come between.
  curl_easy_setopt(easy, CURLOPT_PROXY, "");
  curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, static_cast<long>(options.timeout_millis));
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, OnBody);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, &transfer);
  curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, OnHeader);
  curl_easy_setopt(easy, CURLOPT_HEADERDATA, &transfer);
  if (method == "HEAD") {
    curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
  } else if (method == "GET" && body.empty()) {
    curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L);
  } else {
    curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, method.c_str());
    if (!body.empty() || method != "DELETE") {
      curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body.data());
      curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body.size()));
    }
  }
  // An empty "Expect:" spares the pause libcurl would make before a long body.
  curl_slist* list = curl_slist_append(nullptr, "Expect:");
  bool has_type = false;
  for (const auto& [name, value] : headers) {
    if (HasLineBreak(name) || HasLineBreak(value)) {
      curl_slist_free_all(list);
      return Error::Field("headers", "expected no line breaks");
    }
    has_type = has_type || curl_strequal(name.c_str(), "content-type") != 0;
    // "Name;" is how libcurl spells a header without a value.
    list = curl_slist_append(list, (value.empty() ? name + ";" : name + ": " + value).c_str());
  }
  if (!has_type && !body.empty()) list = curl_slist_append(list, "content-type: application/json");
  if (!has_type && body.empty()) list = curl_slist_append(list, "content-type:");
  curl_easy_setopt(easy, CURLOPT_HTTPHEADER, list);
  const CURLcode code = curl_easy_perform(easy);
  curl_easy_setopt(easy, CURLOPT_HTTPHEADER, nullptr);
  curl_slist_free_all(list);
  const std::string where =
      method + " " + (options.unix_path.empty() ? options.base_url : options.unix_path) + target;
  if (transfer.too_long) {
    return Error(Code::kResourceExhausted, where + ": the answer is longer than body_bytes_max (" +
                                               std::to_string(options.body_bytes_max) + ")");
  }
  if (code == CURLE_OPERATION_TIMEDOUT) {
    return Error(Code::kDeadlineExceeded, where + ": no answer within timeout_millis (" +
                                              std::to_string(options.timeout_millis) + ")");
  }
  if (code == CURLE_URL_MALFORMAT || code == CURLE_UNSUPPORTED_PROTOCOL) {
    return Error::Field("base_url",
                        std::string("expected an http URL: ") + curl_easy_strerror(code));
  }
  if (code != CURLE_OK) {
    return Error(Code::kUnavailable, where + ": " + curl_easy_strerror(code));
  }
  long status = 0;
  curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
  transfer.response.status = static_cast<int>(status);
  return std::move(transfer.response);
}

Result<std::string> Client::CallOk(const std::string& method, const std::string& target,
                                   const std::string& body,
                                   const std::map<std::string, std::string>& headers) {
  TRY(ClientResponse response, Call(method, target, body, headers));
  if (response.status >= 400) return ErrorFrom(response);
  return std::move(response.body);
}

}  // namespace tessera::http
