#include "cli/client.h"

#include <sys/random.h>

#include <chrono>
#include <cstdio>
#include <map>
#include <thread>

#include "base/units.h"
#include "http/client.h"

namespace tessera::cli {
namespace {

constexpr int kTriesMax = 3;

http::Client MakeClient(const Context& context) {
  http::Client::Options options;
  if (context.endpoint.starts_with("unix:"))
    options.unix_path = context.endpoint.substr(5);
  else
    options.base_url = context.endpoint;
  options.timeout_millis = 60'000;
  return http::Client(options);
}

// A key that names this command's one intention; a retry sends the same one, so nothing is rented
// or booked twice.
std::string IdempotencyKey() {
  unsigned char bytes[16];
  std::string text;
  if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes) return text;
  for (const unsigned char b : bytes) {
    char hex[3];
    snprintf(hex, sizeof hex, "%02x", b);
    text += hex;
  }
  return text;
}

}  // namespace

Result<json::value> Call(const Context& context, const std::string& method,
                         const std::string& target, const json::value& body) {
  http::Client client = MakeClient(context);
  std::map<std::string, std::string> headers = {{"authorization", "Bearer " + context.key}};
  if (method == "POST") headers["idempotency-key"] = IdempotencyKey();
  std::string text;
  if (!body.is_null()) {
    headers["content-type"] = "application/json";
    text = json::serialize(body);
  }
  for (int attempt = 1;; ++attempt) {
    auto reply = client.CallOk(method, target, text, headers);
    if (!reply) {
      if (reply.error().code() == Code::kUnavailable && attempt < kTriesMax) {
        std::this_thread::sleep_for(std::chrono::milliseconds(200 * attempt));
        continue;
      }
      if (reply.error().code() == Code::kUnavailable) return reply.error().Wrap(context.endpoint);
      return reply.error();
    }
    if (reply->empty()) return json::value(nullptr);
    boost::system::error_code error;
    json::value value = json::parse(*reply, error);
    if (error) return Error(Code::kInternal, "the server's answer is not JSON: " + error.message());
    return value;
  }
}

// Ids come from a person's keyboard: nothing but what an id can hold may reach the path.
Result<std::string> CheckedId(const std::string& id, const char* field) {
  if (id.empty() || id.size() > 64 ||
      id.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") !=
          std::string::npos) {
    return Error::Field(field,
                        "expected an id of letters, digits, '-' and '_', at most 64 characters");
  }
  return id;
}

const json::value* Find(const json::value& object, std::string_view key) {
  const auto* o = object.if_object();
  return o == nullptr ? nullptr : o->if_contains(key);
}

std::string Text(const json::value& object, std::string_view key) {
  const json::value* value = Find(object, key);
  if (value == nullptr || value->is_null()) return "";
  if (const auto* text = value->if_string()) return std::string(*text);
  return json::serialize(*value);
}

std::int64_t Number(const json::value& object, std::string_view key) {
  const json::value* value = Find(object, key);
  if (value == nullptr) return 0;
  if (const auto* n = value->if_int64()) return *n;
  if (const auto* n = value->if_uint64()) return static_cast<std::int64_t>(*n);
  return 0;
}

const json::array& Items(const json::value& object, std::string_view key) {
  static const json::array none;
  const json::value* value = Find(object, key);
  const auto* items = value == nullptr ? nullptr : value->if_array();
  return items == nullptr ? none : *items;
}

void Print(const Context& context, const std::string& text) {
  std::fputs(text.c_str(), context.out);
}

// Prints the API's JSON, or what `table` makes of it.
int Finish(const Context& context, const Result<json::value>& reply,
           const std::function<std::string(const json::value&)>& table) {
  if (!reply) return Report(context, reply.error());
  if (context.output == Output::kJson)
    Print(context, json::serialize(*reply) + "\n");
  else
    Print(context, table(*reply));
  return 0;
}

std::string Cards(const json::value* amount) {
  if (amount == nullptr || Find(*amount, "card_millis") == nullptr) return "-";
  if (Find(*amount, "card_millis")->is_null()) return "no limit";
  char text[48];
  std::snprintf(text, sizeof text, "%.3f cards",
                static_cast<double>(Number(*amount, "card_millis")) / 1000);
  return text;
}

std::string Memory(const json::value* amount) {
  if (amount == nullptr || Find(*amount, "memory_bytes") == nullptr) return "-";
  if (Find(*amount, "memory_bytes")->is_null()) return "no limit";
  return FormatBytes(static_cast<std::uint64_t>(Number(*amount, "memory_bytes")));
}

}  // namespace tessera::cli
