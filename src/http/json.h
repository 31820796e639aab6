// The strict JSON reader and the writer that every body in the house goes through. The reader
// refuses what it was not asked about: unknown keys, wrong types, numbers out of range, duplicate
// keys, too deep, too long, and every error names the full path of the field
// ("shares[0].memory_bytes").
//
//   TRY(JsonObject body, JsonObject::Parse(request.body));
//   TRY(std::string name, body.String("name", 64));
//   TRY(std::int64_t count, body.OptionalInt("count", 1, 64, 1));
//   TRY(auto shares, body.Array("shares", 16));
//   for (const JsonValue& item : shares) {
//     TRY(JsonObject share, item.Object());
//     TRY(std::uint64_t memory, share.Bytes("memory"));
//     TRY_STATUS(share.Finish());
//   }
//   TRY_STATUS(body.Finish());  // an error when a key was never asked for
//
// Values are handles to one immutable parsed document and keep it alive. A JsonObject notes which
// keys were asked for and is not thread-safe.
#pragma once

#include <concepts>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/units.h"

namespace tessera::http {

struct JsonNode;
class JsonObject;

struct JsonLimits {
  std::size_t bytes_max = 4 << 20;
  std::size_t depth_max = 16;
  std::size_t values_max = 100'000;  // objects, arrays and scalars in all
};

inline constexpr std::size_t kJsonStringBytesMax = 256;  // unless a call states its own
inline constexpr std::int64_t kJsonIntMax = INT64_MAX;

class JsonValue {
 public:
  // Any JSON value. `name` stands for the whole document in errors.
  static Result<JsonValue> Parse(std::string_view text, std::string_view name = "body",
                                 JsonLimits limits = {});

  bool IsNull() const;
  bool IsObject() const;
  bool IsArray() const;
  bool IsString() const;
  bool IsInt() const;
  bool IsBool() const;

  Result<JsonObject> Object() const;
  Result<std::vector<JsonValue>> Array(std::size_t count_max) const;
  // At most bytes_max bytes of UTF-8, without NUL.
  Result<std::string> String(std::size_t bytes_max = kJsonStringBytesMax) const;
  // A whole number; 1.0 and 1e3 are not.
  Result<std::int64_t> Int(std::int64_t min, std::int64_t max) const;
  Result<bool> Bool() const;
  // Memory: a whole number of bytes, or text with a unit ("4GiB").
  Result<std::uint64_t> Bytes() const;
  // A share of compute: a whole number 1 to 1000, or text ("33.3%").
  Result<tessera::Permille> Permille() const;

  // Where this value stands: "shares[0]"; the document itself has the name given to Parse.
  const std::string& path() const { return path_; }
  // An error about this value.
  Error Wrong(std::string message) const { return Error::Field(path_, std::move(message)); }

 private:
  friend class JsonObject;
  JsonValue(std::shared_ptr<const JsonNode> root, const JsonNode* node, std::string path,
            bool is_root)
      : root_(std::move(root)), node_(node), path_(std::move(path)), is_root_(is_root) {}

  std::shared_ptr<const JsonNode> root_;
  const JsonNode* node_;
  std::string path_;
  bool is_root_;  // members of the document are named "name", not "body.name"
};

class JsonObject {
 public:
  static Result<JsonObject> Parse(std::string_view text, JsonLimits limits = {});

  // True when the key is there and not null; counts as asked for. Optional accessors treat null as
  // absent.
  bool Has(std::string_view key);

  // Required fields.
  Result<JsonValue> Value(std::string_view key);
  Result<std::string> String(std::string_view key, std::size_t bytes_max = kJsonStringBytesMax);
  Result<std::int64_t> Int(std::string_view key, std::int64_t min, std::int64_t max);
  Result<bool> Bool(std::string_view key);
  Result<std::uint64_t> Bytes(std::string_view key);
  Result<tessera::Permille> Permille(std::string_view key);
  Result<JsonObject> Object(std::string_view key);
  Result<std::vector<JsonValue>> Array(std::string_view key, std::size_t count_max);
  Result<std::vector<std::string>> Strings(std::string_view key, std::size_t count_max,
                                           std::size_t bytes_max = kJsonStringBytesMax);

  // Optional fields: absent or null gives the fallback.
  Result<std::string> OptionalString(std::string_view key, std::string fallback = "",
                                     std::size_t bytes_max = kJsonStringBytesMax);
  Result<std::int64_t> OptionalInt(std::string_view key, std::int64_t min, std::int64_t max,
                                   std::int64_t fallback);
  Result<bool> OptionalBool(std::string_view key, bool fallback);
  Result<std::uint64_t> OptionalBytes(std::string_view key, std::uint64_t fallback);
  Result<tessera::Permille> OptionalPermille(std::string_view key, tessera::Permille fallback);
  // Absent: an empty list.
  Result<std::vector<JsonValue>> OptionalArray(std::string_view key, std::size_t count_max);
  Result<std::vector<std::string>> OptionalStrings(std::string_view key, std::size_t count_max,
                                                   std::size_t bytes_max = kJsonStringBytesMax);
  // {"A": "x", "B": "y"}; absent: empty.
  Result<std::map<std::string, std::string>> OptionalStringMap(
      std::string_view key, std::size_t count_max, std::size_t bytes_max = kJsonStringBytesMax);

  // All keys in document order; counts as asking for none of them.
  std::vector<std::string> Keys() const;
  // kInvalidArgument naming the first key nobody asked for and the keys that were expected.
  Status Finish() const;

  // "shares[0].memory" for errors of one's own.
  std::string FieldPath(std::string_view key) const;
  Error Wrong(std::string_view key, std::string message) const {
    return Error::Field(FieldPath(key), std::move(message));
  }

 private:
  friend class JsonValue;
  explicit JsonObject(JsonValue value) : value_(std::move(value)) {}

  JsonValue value_;
  std::vector<std::string> asked_;
};

// Writes JSON text. Strings that are not UTF-8 have each bad byte replaced by U+FFFD, so the output
// is always valid. Misuse (a value without a key in an object) is a CHECK. Not thread-safe.
//
//   JsonWriter json;
//   json.BeginObject().Field("id", id).Key("shares").BeginArray();
//   for (...) json.BeginObject().Field("card", uuid).EndObject();
//   json.EndArray().EndObject();
//   response.body = json.Take();
class JsonWriter {
 public:
  JsonWriter& BeginObject();
  JsonWriter& EndObject();
  JsonWriter& BeginArray();
  JsonWriter& EndArray();
  JsonWriter& Key(std::string_view key);

  JsonWriter& Value(std::string_view text);
  JsonWriter& Value(const std::string& text) { return Value(std::string_view(text)); }
  JsonWriter& Value(const char* text) { return Value(std::string_view(text)); }
  JsonWriter& Value(bool value);
  template <std::integral Int>
    requires(!std::same_as<Int, bool> && !std::same_as<Int, char>)
  JsonWriter& Value(Int value) {
    return Raw(std::to_string(value));
  }
  JsonWriter& Null() { return Raw("null"); }
  // Text that is JSON already.
  JsonWriter& Raw(std::string_view json);

  template <typename T>
  JsonWriter& Field(std::string_view key, const T& value) {
    return Key(key).Value(value);
  }

  // The finished document; every Begin must have had its End. The writer is empty afterwards.
  std::string Take();

 private:
  void BeforeValue();

  enum class Frame : char { kObject, kArray };
  std::string out_;
  std::vector<Frame> frames_;
  bool first_ = true;
  bool after_key_ = false;
};

}  // namespace tessera::http
