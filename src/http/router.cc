#include <algorithm>
#include <set>

#include "base/check.h"
#include "http/json.h"
#include "http/server.h"
#include "http/status.h"
#include "http/url.h"

namespace tessera::http {
namespace {

std::vector<std::string_view> Split(std::string_view path) {
  std::vector<std::string_view> segments;
  if (!path.empty() && path.front() == '/') path.remove_prefix(1);
  while (true) {
    const std::size_t slash = path.find('/');
    segments.push_back(path.substr(0, slash));
    if (slash == std::string_view::npos) return segments;
    path.remove_prefix(slash + 1);
  }
}

bool IsParameter(std::string_view segment) {
  return segment.size() > 2 && segment.front() == '{' && segment.back() == '}';
}

bool HasControl(std::string_view text) {
  return std::any_of(text.begin(), text.end(), [](char c) {
    const auto u = static_cast<unsigned char>(c);
    return u < 0x20 || u == 0x7f;
  });
}

}  // namespace

std::string Request::Header(std::string_view lower_name) const {
  const auto found = headers.find(std::string(lower_name));
  return found == headers.end() ? std::string() : found->second;
}

int HttpStatus(Code code) {
  switch (code) {
    case Code::kOk:
      return 200;
    case Code::kInvalidArgument:
      return 400;
    case Code::kOutOfRange:
      return 400;
    case Code::kUnauthenticated:
      return 401;
    case Code::kPermissionDenied:
      return 403;
    case Code::kNotFound:
      return 404;
    case Code::kAlreadyExists:
      return 409;
    case Code::kAborted:
      return 409;
    case Code::kFailedPrecondition:
      return 409;
    case Code::kResourceExhausted:
      return 429;
    case Code::kCancelled:
      return 499;
    case Code::kUnimplemented:
      return 501;
    case Code::kUnavailable:
      return 503;
    case Code::kDeadlineExceeded:
      return 504;
    case Code::kUnknown:
      return 500;
    case Code::kInternal:
      return 500;
    case Code::kDataLoss:
      return 500;
  }
  return 500;
}

std::string_view ReasonPhrase(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 201:
      return "Created";
    case 202:
      return "Accepted";
    case 204:
      return "No Content";
    case 304:
      return "Not Modified";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 402:
      return "Payment Required";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 409:
      return "Conflict";
    case 412:
      return "Precondition Failed";
    case 413:
      return "Content Too Large";
    case 415:
      return "Unsupported Media Type";
    case 422:
      return "Unprocessable Content";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 499:
      return "Client Closed Request";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "Status";
  }
}

std::string LowerCodeName(Code code) {
  std::string name(CodeName(code));
  for (char& c : name) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return name;
}

std::optional<Code> CodeFromLowerName(std::string_view name) {
  for (int i = 0; i <= static_cast<int>(Code::kUnauthenticated); ++i) {
    if (LowerCodeName(static_cast<Code>(i)) == name) return static_cast<Code>(i);
  }
  return std::nullopt;
}

Response ProblemWithStatus(int status, const Error& error) {
  JsonWriter json;
  json.BeginObject();
  // "about:blank" says: the title is the status phrase, the machine-readable part is `code`.
  json.Field("type", "about:blank");
  json.Field("title", ReasonPhrase(status));
  json.Field("status", status);
  json.Field("detail", error.message());
  json.Field("code", LowerCodeName(error.code()));
  if (!error.field().empty()) {
    json.Key("errors").BeginArray().BeginObject();
    json.Field("field", error.field());
    json.Field("detail", error.message());
    json.EndObject().EndArray();
  }
  json.EndObject();
  Response response;
  response.status = status;
  response.content_type = "application/problem+json";
  response.body = json.Take();
  return response;
}

Response Problem(const Error& error) { return ProblemWithStatus(HttpStatus(error.code()), error); }

Status SplitTarget(std::string_view target, Request* request) {
  // The absolute form ("http://host/path") is what a proxy sends; only its path counts here.
  if (const std::size_t scheme = target.find("://");
      scheme != std::string_view::npos && target.front() != '/') {
    const std::size_t path = target.find('/', scheme + 3);
    target = path == std::string_view::npos ? "/" : target.substr(path);
  }
  if (const std::size_t fragment = target.find('#'); fragment != std::string_view::npos) {
    target = target.substr(0, fragment);
  }
  const std::size_t mark = target.find('?');
  const std::string_view raw_path = target.substr(0, mark);
  if (raw_path.empty() || raw_path.front() != '/') {
    return Error::Field("path", "expected a path that starts with '/'");
  }
  auto path = PercentDecode(raw_path, false);
  if (!path) return Error::Field("path", path.error().message());
  if (HasControl(*path)) return Error::Field("path", "expected no control characters");
  std::map<std::string, std::string> query;
  if (mark != std::string_view::npos) {
    std::string_view rest = target.substr(mark + 1);
    while (!rest.empty()) {
      const std::size_t end = rest.find('&');
      const std::string_view pair = rest.substr(0, end);
      rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
      if (pair.empty()) continue;
      const std::size_t equals = pair.find('=');
      const auto name = PercentDecode(pair.substr(0, equals), true);
      const auto value = PercentDecode(
          equals == std::string_view::npos ? std::string_view() : pair.substr(equals + 1), true);
      if (!name) return Error::Field("query", name.error().message());
      if (HasControl(*name)) return Error::Field("query", "expected no control characters");
      if (!value) return Error::Field(*name, value.error().message());
      if (HasControl(*value)) return Error::Field(*name, "expected no control characters");
      if (!query.emplace(*name, *value).second) return Error::Field(*name, "expected at most once");
    }
  }
  request->raw_path = std::string(raw_path);
  request->path = *std::move(path);
  request->query = std::move(query);
  return {};
}

void Router::Handle(std::string method, std::string pattern, Handler handler) {
  CHECK(!pattern.empty() && pattern.front() == '/' && handler);
  Route route{std::move(method), {}, std::move(handler)};
  for (const std::string_view segment : Split(pattern)) route.segments.emplace_back(segment);
  for (const Route& other : routes_) {
    // Two routes of one method that match the same paths would make the answer depend on order.
    const bool same =
        other.method == route.method &&
        std::equal(other.segments.begin(), other.segments.end(), route.segments.begin(),
                   route.segments.end(), [](const std::string& a, const std::string& b) {
                     return a == b || (IsParameter(a) && IsParameter(b));
                   });
    CHECK(!same);
  }
  routes_.push_back(std::move(route));
}

Response Router::Dispatch(Request& request) const {
  const std::string& raw = request.raw_path.empty() ? request.path : request.raw_path;
  std::vector<std::string> segments;
  for (const std::string_view segment : Split(raw)) {
    if (request.raw_path.empty()) {
      segments.emplace_back(segment);
      continue;
    }
    auto decoded = PercentDecode(segment, false);
    if (!decoded) return Problem(Error::Field("path", decoded.error().message()));
    segments.push_back(*std::move(decoded));
  }
  const std::string method = request.method == "HEAD" ? "GET" : request.method;
  const Route* best = nullptr;
  std::set<std::string> allowed;
  for (const Route& route : routes_) {
    if (route.segments.size() != segments.size()) continue;
    bool matches = true;
    for (std::size_t i = 0; i < segments.size() && matches; ++i) {
      matches =
          IsParameter(route.segments[i]) ? !segments[i].empty() : route.segments[i] == segments[i];
    }
    if (!matches) continue;
    allowed.insert(route.method);
    if (route.method == "GET") allowed.insert("HEAD");
    if (route.method != method) continue;
    // The first segment where the two differ in kind decides; literal wins.
    bool better = best == nullptr;
    for (std::size_t i = 0; best != nullptr && i < segments.size(); ++i) {
      const bool a = IsParameter(route.segments[i]);
      const bool b = IsParameter(best->segments[i]);
      if (a != b) {
        better = b;
        break;
      }
    }
    if (better) best = &route;
  }
  if (best == nullptr && allowed.empty()) {
    return Problem(Error(Code::kNotFound, "no such path: " + request.path));
  }
  if (best == nullptr) {
    std::string allow;
    for (const std::string& name : allowed) allow += (allow.empty() ? "" : ", ") + name;
    Response response = ProblemWithStatus(
        405, Error(Code::kUnimplemented,
                   request.method + " is not allowed on " + request.path + "; expected " + allow));
    response.headers["allow"] = allow;
    return response;
  }
  request.parameters.clear();
  for (std::size_t i = 0; i < segments.size(); ++i) {
    const std::string& name = best->segments[i];
    if (IsParameter(name)) request.parameters[name.substr(1, name.size() - 2)] = segments[i];
  }
  return best->handler(request);
}

}  // namespace tessera::http
