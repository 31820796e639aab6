#include "http/json.h"

#include <algorithm>
#include <boost/json/basic_parser_impl.hpp>
#include <optional>
#include <unordered_set>
#include <utility>

#include "base/check.h"
#include "base/log.h"

namespace tessera::http {

// One value of a parsed document. Immutable after parsing.
struct JsonNode {
  enum class Kind { kNull, kBool, kInt, kNumber, kString, kArray, kObject };
  Kind kind = Kind::kNull;
  bool boolean = false;
  std::int64_t integer = 0;
  std::string text;               // kString: the value; kNumber: as written
  std::vector<JsonNode> items;    // kArray: elements; kObject: member values
  std::vector<std::string> keys;  // kObject: beside items
};

namespace {

constexpr std::size_t kNumberTextMax = 40;

std::string_view KindName(JsonNode::Kind kind) {
  switch (kind) {
    case JsonNode::Kind::kNull:
      return "null";
    case JsonNode::Kind::kBool:
      return "a boolean";
    case JsonNode::Kind::kInt:
      return "a whole number";
    case JsonNode::Kind::kNumber:
      return "a number";
    case JsonNode::Kind::kString:
      return "a string";
    case JsonNode::Kind::kArray:
      return "an array";
    case JsonNode::Kind::kObject:
      return "an object";
  }
  return "a value";
}

std::string MemberPath(const std::string& parent, bool parent_is_root, std::string_view key) {
  return parent_is_root ? std::string(key) : parent + "." + std::string(key);
}

std::string ElementPath(const std::string& parent, std::size_t index) {
  return parent + "[" + std::to_string(index) + "]";
}

// A key as shown in an error: bounded, and without bytes that would spoil a terminal or a log.
std::string ShownKey(std::string_view key) {
  if (key.empty()) return "\"\"";
  std::string shown;
  for (const char c : key.substr(0, 64)) {
    const auto u = static_cast<unsigned char>(c);
    shown += u < 0x20 || u == 0x7f ? '?' : c;
  }
  while (!shown.empty() && key.size() > 64 && (static_cast<unsigned char>(shown.back()) & 0x80)) {
    shown.pop_back();
  }
  if (key.size() > 64) shown += "...";
  return shown;
}

// Builds the tree from the events of Boost.JSON's parser and refuses what the parser alone would
// let pass: duplicate keys and too many values.
class TreeHandler {
 public:
  static constexpr std::size_t max_object_size = static_cast<std::size_t>(-1);
  static constexpr std::size_t max_array_size = static_cast<std::size_t>(-1);
  static constexpr std::size_t max_key_size = static_cast<std::size_t>(-1);
  static constexpr std::size_t max_string_size = static_cast<std::size_t>(-1);
  using ErrorCode = boost::json::error_code;
  using Text = boost::json::string_view;

  TreeHandler(std::string_view name, std::size_t values_max)
      : name_(name), values_max_(values_max) {}

  bool on_document_begin(ErrorCode&) { return true; }
  bool on_document_end(ErrorCode&) { return true; }
  bool on_object_begin(ErrorCode& ec) { return Open(JsonNode::Kind::kObject, ec); }
  bool on_array_begin(ErrorCode& ec) { return Open(JsonNode::Kind::kArray, ec); }
  bool on_object_end(std::size_t, ErrorCode&) { return Close(); }
  bool on_array_end(std::size_t, ErrorCode&) { return Close(); }
  bool on_key_part(Text part, std::size_t, ErrorCode&) { return Collect(part); }
  bool on_key(Text part, std::size_t, ErrorCode& ec) {
    Collect(part);
    Frame& frame = frames_.back();
    frame.key = std::exchange(collected_, {});
    if (!frame.seen.insert(frame.key).second) {
      return Fail(Error::Field(Path(), "expected each key once, given twice"), ec);
    }
    return true;
  }
  bool on_string_part(Text part, std::size_t, ErrorCode&) { return Collect(part); }
  bool on_string(Text part, std::size_t, ErrorCode& ec) {
    Collect(part);
    JsonNode node;
    node.kind = JsonNode::Kind::kString;
    node.text = std::exchange(collected_, {});
    return Add(std::move(node), ec);
  }
  bool on_number_part(Text part, ErrorCode&) { return Collect(part); }
  bool on_int64(std::int64_t value, Text, ErrorCode& ec) {
    collected_.clear();
    JsonNode node;
    node.kind = JsonNode::Kind::kInt;
    node.integer = value;
    return Add(std::move(node), ec);
  }
  bool on_uint64(std::uint64_t value, Text part, ErrorCode& ec) {
    if (value <= INT64_MAX) return on_int64(static_cast<std::int64_t>(value), part, ec);
    return on_double(0, part, ec);
  }
  bool on_double(double, Text part, ErrorCode& ec) {
    Collect(part);
    JsonNode node;
    node.kind = JsonNode::Kind::kNumber;
    node.text = std::exchange(collected_, {}).substr(0, kNumberTextMax);
    return Add(std::move(node), ec);
  }
  bool on_bool(bool value, ErrorCode& ec) {
    JsonNode node;
    node.kind = JsonNode::Kind::kBool;
    node.boolean = value;
    return Add(std::move(node), ec);
  }
  bool on_null(ErrorCode& ec) { return Add(JsonNode(), ec); }
  bool on_comment_part(Text, ErrorCode&) { return true; }
  bool on_comment(Text, ErrorCode&) { return true; }

  JsonNode root;
  std::optional<Error> error;

 private:
  struct Frame {
    JsonNode node;
    std::string key;
    std::unordered_set<std::string> seen;
  };

  bool Collect(Text part) {
    collected_.append(part.data(), part.size());
    return true;
  }
  bool Fail(Error why, ErrorCode& ec) {
    error = std::move(why);
    ec = boost::json::error::syntax;
    return false;
  }
  bool Count(ErrorCode& ec) {
    if (++values_ <= values_max_) return true;
    return Fail(Error::Field(std::string(name_), "expected at most values_max (" +
                                                     std::to_string(values_max_) + ") values"),
                ec);
  }
  bool Open(JsonNode::Kind kind, ErrorCode& ec) {
    frames_.emplace_back();
    frames_.back().node.kind = kind;
    return Count(ec);
  }
  bool Close() {
    JsonNode done = std::move(frames_.back().node);
    frames_.pop_back();
    Attach(std::move(done));
    return true;
  }
  bool Add(JsonNode node, ErrorCode& ec) {
    Attach(std::move(node));
    return Count(ec);
  }
  void Attach(JsonNode node) {
    if (frames_.empty()) {
      root = std::move(node);
      return;
    }
    Frame& frame = frames_.back();
    if (frame.node.kind == JsonNode::Kind::kObject) {
      frame.node.keys.push_back(std::move(frame.key));
    }
    frame.node.items.push_back(std::move(node));
  }
  std::string Path() const {
    std::string path(name_);
    for (std::size_t i = 0; i < frames_.size(); ++i) {
      const Frame& frame = frames_[i];
      path = frame.node.kind == JsonNode::Kind::kObject
                 ? MemberPath(path, i == 0, ShownKey(frame.key))
                 : ElementPath(path, frame.node.items.size());
    }
    return path;
  }

  std::string_view name_;
  std::size_t values_max_;
  std::size_t values_ = 0;
  std::vector<Frame> frames_;
  std::string collected_;
};

bool IsSpace(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

}  // namespace

Result<JsonValue> JsonValue::Parse(std::string_view text, std::string_view name,
                                   JsonLimits limits) {
  const std::string field(name);
  if (text.size() > limits.bytes_max) {
    return Error::Field(field, "expected at most bytes_max (" + std::to_string(limits.bytes_max) +
                                   ") bytes of JSON, got " + std::to_string(text.size()));
  }
  if (std::all_of(text.begin(), text.end(), IsSpace)) {
    return Error::Field(field, "expected JSON, got nothing");
  }
  try {
    boost::json::parse_options options;
    options.max_depth = limits.depth_max;
    boost::json::basic_parser<TreeHandler> parser(options, name, limits.values_max);
    boost::json::error_code ec;
    const std::size_t consumed = parser.write_some(false, text.data(), text.size(), ec);
    TreeHandler& handler = parser.handler();
    if (handler.error) return *std::move(handler.error);
    if (ec == boost::json::error::too_deep) {
      return Error::Field(field, "expected nesting of at most depth_max (" +
                                     std::to_string(limits.depth_max) + ") levels");
    }
    if (ec) {
      return Error::Field(
          field, "expected JSON, " + ec.message() + " at byte " + std::to_string(consumed));
    }
    if (!std::all_of(text.begin() + static_cast<std::ptrdiff_t>(consumed), text.end(), IsSpace)) {
      return Error::Field(
          field, "expected one JSON value, more text follows at byte " + std::to_string(consumed));
    }
    auto root = std::make_shared<const JsonNode>(std::move(handler.root));
    const JsonNode* node = root.get();
    return JsonValue(std::move(root), node, field, true);
  } catch (const std::exception& thrown) {
    return Error(Code::kInternal, std::string("JSON parser: ") + thrown.what());
  }
}

bool JsonValue::IsNull() const { return node_->kind == JsonNode::Kind::kNull; }
bool JsonValue::IsObject() const { return node_->kind == JsonNode::Kind::kObject; }
bool JsonValue::IsArray() const { return node_->kind == JsonNode::Kind::kArray; }
bool JsonValue::IsString() const { return node_->kind == JsonNode::Kind::kString; }
bool JsonValue::IsInt() const { return node_->kind == JsonNode::Kind::kInt; }
bool JsonValue::IsBool() const { return node_->kind == JsonNode::Kind::kBool; }

Result<JsonObject> JsonValue::Object() const {
  if (!IsObject()) return Wrong("expected an object, got " + std::string(KindName(node_->kind)));
  return JsonObject(*this);
}

Result<std::vector<JsonValue>> JsonValue::Array(std::size_t count_max) const {
  if (!IsArray()) return Wrong("expected an array, got " + std::string(KindName(node_->kind)));
  if (node_->items.size() > count_max) {
    return Wrong("expected at most " + std::to_string(count_max) + " elements, got " +
                 std::to_string(node_->items.size()));
  }
  std::vector<JsonValue> values;
  values.reserve(node_->items.size());
  for (std::size_t i = 0; i < node_->items.size(); ++i) {
    values.push_back(JsonValue(root_, &node_->items[i], ElementPath(path_, i), false));
  }
  return values;
}

Result<std::string> JsonValue::String(std::size_t bytes_max) const {
  if (!IsString()) return Wrong("expected a string, got " + std::string(KindName(node_->kind)));
  if (node_->text.size() > bytes_max) {
    return Wrong("expected at most " + std::to_string(bytes_max) + " bytes, got " +
                 std::to_string(node_->text.size()));
  }
  if (node_->text.find('\0') != std::string::npos) return Wrong("expected text without NUL");
  return node_->text;
}

Result<std::int64_t> JsonValue::Int(std::int64_t min, std::int64_t max) const {
  const std::string expected =
      "expected a whole number from " + std::to_string(min) + " to " + std::to_string(max);
  if (node_->kind == JsonNode::Kind::kNumber) return Wrong(expected + ", got " + node_->text);
  if (!IsInt()) return Wrong(expected + ", got " + std::string(KindName(node_->kind)));
  if (node_->integer < min || node_->integer > max) {
    return Wrong(expected + ", got " + std::to_string(node_->integer));
  }
  return node_->integer;
}

Result<bool> JsonValue::Bool() const {
  if (!IsBool()) return Wrong("expected true or false, got " + std::string(KindName(node_->kind)));
  return node_->boolean;
}

Result<std::uint64_t> JsonValue::Bytes() const {
  if (IsString()) {
    TRY(const std::uint64_t bytes, ParseBytes(node_->text, path_));
    if (bytes > static_cast<std::uint64_t>(INT64_MAX)) return Wrong("expected less than 8 EiB");
    return bytes;
  }
  if (!IsInt() && node_->kind != JsonNode::Kind::kNumber) {
    return Wrong("expected bytes as a whole number or as text such as \"4GiB\", got " +
                 std::string(KindName(node_->kind)));
  }
  TRY(const std::int64_t bytes, Int(0, INT64_MAX));
  return static_cast<std::uint64_t>(bytes);
}

Result<tessera::Permille> JsonValue::Permille() const {
  if (IsString()) return ParsePermille(node_->text, path_);
  if (!IsInt() && node_->kind != JsonNode::Kind::kNumber) {
    return Wrong("expected per mille as a whole number or text such as \"33.3%\", got " +
                 std::string(KindName(node_->kind)));
  }
  TRY(const std::int64_t value, Int(1, 1000));
  return tessera::Permille{static_cast<std::uint32_t>(value)};
}

Result<JsonObject> JsonObject::Parse(std::string_view text, JsonLimits limits) {
  TRY(const JsonValue value, JsonValue::Parse(text, "body", limits));
  return value.Object();
}

std::string JsonObject::FieldPath(std::string_view key) const {
  return MemberPath(value_.path_, value_.is_root_, key);
}

bool JsonObject::Has(std::string_view key) {
  if (std::find(asked_.begin(), asked_.end(), key) == asked_.end()) asked_.emplace_back(key);
  const auto& keys = value_.node_->keys;
  const auto found = std::find(keys.begin(), keys.end(), key);
  return found != keys.end() &&
         value_.node_->items[static_cast<std::size_t>(found - keys.begin())].kind !=
             JsonNode::Kind::kNull;
}

Result<JsonValue> JsonObject::Value(std::string_view key) {
  if (std::find(asked_.begin(), asked_.end(), key) == asked_.end()) asked_.emplace_back(key);
  const auto& keys = value_.node_->keys;
  const auto found = std::find(keys.begin(), keys.end(), key);
  if (found == keys.end()) return Wrong(key, "required, but missing");
  return JsonValue(value_.root_,
                   &value_.node_->items[static_cast<std::size_t>(found - keys.begin())],
                   FieldPath(key), false);
}

Result<std::string> JsonObject::String(std::string_view key, std::size_t bytes_max) {
  TRY(const JsonValue value, Value(key));
  return value.String(bytes_max);
}

Result<std::int64_t> JsonObject::Int(std::string_view key, std::int64_t min, std::int64_t max) {
  TRY(const JsonValue value, Value(key));
  return value.Int(min, max);
}

Result<bool> JsonObject::Bool(std::string_view key) {
  TRY(const JsonValue value, Value(key));
  return value.Bool();
}

Result<std::uint64_t> JsonObject::Bytes(std::string_view key) {
  TRY(const JsonValue value, Value(key));
  return value.Bytes();
}

Result<tessera::Permille> JsonObject::Permille(std::string_view key) {
  TRY(const JsonValue value, Value(key));
  return value.Permille();
}

Result<JsonObject> JsonObject::Object(std::string_view key) {
  TRY(const JsonValue value, Value(key));
  return value.Object();
}

Result<std::vector<JsonValue>> JsonObject::Array(std::string_view key, std::size_t count_max) {
  TRY(const JsonValue value, Value(key));
  return value.Array(count_max);
}

Result<std::vector<std::string>> JsonObject::Strings(std::string_view key, std::size_t count_max,
                                                     std::size_t bytes_max) {
  TRY(const auto values, Array(key, count_max));
  std::vector<std::string> strings;
  strings.reserve(values.size());
  for (const JsonValue& value : values) {
    TRY(std::string text, value.String(bytes_max));
    strings.push_back(std::move(text));
  }
  return strings;
}

Result<std::string> JsonObject::OptionalString(std::string_view key, std::string fallback,
                                               std::size_t bytes_max) {
  if (!Has(key)) return fallback;
  return String(key, bytes_max);
}

Result<std::int64_t> JsonObject::OptionalInt(std::string_view key, std::int64_t min,
                                             std::int64_t max, std::int64_t fallback) {
  if (!Has(key)) return fallback;
  return Int(key, min, max);
}

Result<bool> JsonObject::OptionalBool(std::string_view key, bool fallback) {
  if (!Has(key)) return fallback;
  return Bool(key);
}

Result<std::uint64_t> JsonObject::OptionalBytes(std::string_view key, std::uint64_t fallback) {
  if (!Has(key)) return fallback;
  return Bytes(key);
}

Result<tessera::Permille> JsonObject::OptionalPermille(std::string_view key,
                                                       tessera::Permille fallback) {
  if (!Has(key)) return fallback;
  return Permille(key);
}

Result<std::vector<JsonValue>> JsonObject::OptionalArray(std::string_view key,
                                                         std::size_t count_max) {
  if (!Has(key)) return std::vector<JsonValue>();
  return Array(key, count_max);
}

Result<std::vector<std::string>> JsonObject::OptionalStrings(std::string_view key,
                                                             std::size_t count_max,
                                                             std::size_t bytes_max) {
  if (!Has(key)) return std::vector<std::string>();
  return Strings(key, count_max, bytes_max);
}

Result<std::map<std::string, std::string>> JsonObject::OptionalStringMap(std::string_view key,
                                                                         std::size_t count_max,
                                                                         std::size_t bytes_max) {
  std::map<std::string, std::string> map;
  if (!Has(key)) return map;
  TRY(JsonObject object, Object(key));
  const std::vector<std::string> keys = object.Keys();
  if (keys.size() > count_max) {
    return Wrong(key, "expected at most " + std::to_string(count_max) + " entries, got " +
                          std::to_string(keys.size()));
  }
  for (const std::string& name : keys) {
    if (name.size() > bytes_max || name.find('\0') != std::string::npos) {
      return Wrong(key, "expected names of at most " + std::to_string(bytes_max) +
                            " bytes without NUL, got " + ShownKey(name));
    }
    TRY(std::string text, object.String(name, bytes_max));
    map.emplace(name, std::move(text));
  }
  return map;
}

std::vector<std::string> JsonObject::Keys() const { return value_.node_->keys; }

Status JsonObject::Finish() const {
  for (const std::string& key : value_.node_->keys) {
    if (std::find(asked_.begin(), asked_.end(), key) != asked_.end()) continue;
    std::string expected;
    for (const std::string& name : asked_) expected += (expected.empty() ? "" : ", ") + name;
    return Error::Field(FieldPath(ShownKey(key)),
                        "unknown field; expected " +
                            (expected.empty() ? std::string("no fields") : "one of: " + expected));
  }
  return {};
}

namespace {

// Length of the valid UTF-8 sequence at the start of `text`, 0 when there is none.
std::size_t Utf8Length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  std::size_t length = 0;
  std::uint32_t code = 0;
  std::uint32_t least = 0;
  if ((lead & 0xe0) == 0xc0) {
    length = 2, code = lead & 0x1f, least = 0x80;
  } else if ((lead & 0xf0) == 0xe0) {
    length = 3, code = lead & 0x0f, least = 0x800;
  } else if ((lead & 0xf8) == 0xf0) {
    length = 4, code = lead & 0x07, least = 0x10000;
  } else {
    return 0;
  }
  if (text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
    code = code << 6 | (byte(i) & 0x3f);
  }
  const bool surrogate = code >= 0xd800 && code <= 0xdfff;
  return code < least || code > 0x10ffff || surrogate ? 0 : length;
}

void AppendString(std::string* out, std::string_view text) {
  *out += '"';
  while (!text.empty()) {
    const std::size_t length = Utf8Length(text);
    if (length == 0) {
      *out += "\xef\xbf\xbd";
      text.remove_prefix(1);
    } else {
      AppendJsonEscaped(out, text.substr(0, length));
      text.remove_prefix(length);
    }
  }
  *out += '"';
}

}  // namespace

void JsonWriter::BeforeValue() {
  if (frames_.empty()) {
    CHECK(out_.empty());
  } else if (frames_.back() == Frame::kObject) {
    CHECK(after_key_);
  } else if (!first_) {
    out_ += ',';
  }
  after_key_ = false;
  first_ = false;
}

JsonWriter& JsonWriter::BeginObject() {
  BeforeValue();
  out_ += '{';
  frames_.push_back(Frame::kObject);
  first_ = true;
  return *this;
}

JsonWriter& JsonWriter::EndObject() {
  CHECK(!frames_.empty() && frames_.back() == Frame::kObject && !after_key_);
  out_ += '}';
  frames_.pop_back();
  first_ = false;
  return *this;
}

JsonWriter& JsonWriter::BeginArray() {
  BeforeValue();
  out_ += '[';
  frames_.push_back(Frame::kArray);
  first_ = true;
  return *this;
}

JsonWriter& JsonWriter::EndArray() {
  CHECK(!frames_.empty() && frames_.back() == Frame::kArray);
  out_ += ']';
  frames_.pop_back();
  first_ = false;
  return *this;
}

JsonWriter& JsonWriter::Key(std::string_view key) {
  CHECK(!frames_.empty() && frames_.back() == Frame::kObject && !after_key_);
  if (!first_) out_ += ',';
  first_ = false;
  AppendString(&out_, key);
  out_ += ':';
  after_key_ = true;
  return *this;
}

JsonWriter& JsonWriter::Value(std::string_view text) {
  BeforeValue();
  AppendString(&out_, text);
  return *this;
}

JsonWriter& JsonWriter::Value(bool value) { return Raw(value ? "true" : "false"); }

JsonWriter& JsonWriter::Raw(std::string_view json) {
  BeforeValue();
  out_ += json;
  return *this;
}

std::string JsonWriter::Take() {
  CHECK(frames_.empty() && !out_.empty());
  first_ = true;
  return std::exchange(out_, {});
}

}  // namespace tessera::http
