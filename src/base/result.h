// Result<T> and Error: how every room says "it did not work, and this is why".
//
// An Error is a code (the sixteen of gRPC, so one table maps it to an HTTP status, a CLI exit code
// and a gRPC status), a sentence for a person, and optionally the name of the field that was wrong.
// Context is added on the way up with Wrap(); the root cause stays in the message.
// Nothing here throws. Values are as thread-safe as T is.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace tessera {

enum class Code {
  kOk = 0,
  kCancelled = 1,
  kUnknown = 2,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kAlreadyExists = 6,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kAborted = 10,
  kOutOfRange = 11,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
  kDataLoss = 15,
  kUnauthenticated = 16,
};

// The upper-snake name of gRPC, e.g. "RESOURCE_EXHAUSTED".
std::string_view CodeName(Code code);

class [[nodiscard]] Error {
 public:
  Error(Code code, std::string message) : code_(code), message_(std::move(message)) {}
  // An error about one named input field; `message` says what was expected.
  static Error Field(std::string field, std::string message);

  Code code() const { return code_; }
  const std::string& message() const { return message_; }
  // Empty unless the error is about one input field ("memory", "cards[0].uuid").
  const std::string& field() const { return field_; }
  // The same error with "context: " in front of its message.
  Error Wrap(std::string_view context) const;
  // Same error, field name prefixed ("cards[0]" + "." + field).
  Error Under(std::string_view prefix) const;
  // "INVALID_ARGUMENT: memory: expected ..." for logs and terminals.
  std::string ToString() const;

 private:
  Code code_;
  std::string message_;
  std::string field_;
};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool has_value() const { return state_.index() == 0; }
  explicit operator bool() const { return has_value(); }
  T& value() & { return std::get<0>(state_); }
  const T& value() const& { return std::get<0>(state_); }
  T&& value() && { return std::get<0>(std::move(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  const Error& error() const { return std::get<1>(state_); }
  T value_or(const T& fallback) const& { return has_value() ? value() : fallback; }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}
  bool has_value() const { return !error_.has_value(); }
  explicit operator bool() const { return has_value(); }
  const Error& error() const { return *error_; }

 private:
  std::optional<Error> error_;
};

using Status = Result<void>;

}  // namespace tessera

#define TESSERA_CONCAT_INNER(a, b) a##b
#define TESSERA_CONCAT(a, b) TESSERA_CONCAT_INNER(a, b)

// TRY(auto x, Expr()) binds the value or returns the error from the enclosing function.
#define TRY(declaration, expression)                         \
  auto TESSERA_CONCAT(try_result_, __LINE__) = (expression); \
  if (!TESSERA_CONCAT(try_result_, __LINE__)) {              \
    return TESSERA_CONCAT(try_result_, __LINE__).error();    \
  }                                                          \
  declaration = std::move(*TESSERA_CONCAT(try_result_, __LINE__))

// TRY_STATUS(Expr()) returns the error of a Result<void>.
#define TRY_STATUS(expression)                                                  \
  do {                                                                          \
    if (auto try_status = (expression); !try_status) return try_status.error(); \
  } while (false)
