#include "config/config.h"

#include <yaml-cpp/anchor.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <optional>
#include <set>
#include <sstream>

namespace tessera::config {

struct ConfigNode {
  enum class Kind { kNull, kScalar, kList, kMap };
  Kind kind = Kind::kNull;
  int line = 0;  // of the value, from 1
  std::string text;
  std::vector<ConfigNode> items;
  std::vector<std::string> keys;
  std::vector<int> key_lines;
};

namespace {

std::string_view KindName(ConfigNode::Kind kind) {
  switch (kind) {
    case ConfigNode::Kind::kNull:
      return "nothing";
    case ConfigNode::Kind::kScalar:
      return "a single value";
    case ConfigNode::Kind::kList:
      return "a list";
    case ConfigNode::Kind::kMap:
      return "a map";
  }
  return "a value";
}

std::string Place(std::string_view file, int line) {
  return std::string(file) + ":" + std::to_string(line) + ": ";
}

// Builds the tree from yaml-cpp's events and refuses what YAML allows and a configuration does not
// need: anchors and aliases (a small file could stand for a huge one), keys that are not plain
// text, keys given twice.
class TreeBuilder : public YAML::EventHandler {
 public:
  explicit TreeBuilder(std::string_view file) : file_(file) {}

  ConfigNode root;
  std::optional<Error> error;

  void OnDocumentStart(const YAML::Mark& mark) override {
    // yaml-cpp reports documents without end for some broken input (", b]"), so the second one ends
    // the reading.
    if (++documents_ > 1) Fail(mark, "expected one document");
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    Add(mark, anchor, ConfigNode::Kind::kNull, "");
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    Fail(mark, "expected no aliases (*name)");
  }
  void OnScalar(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                const std::string& value) override {
    if (AwaitsKey()) {
      CheckAnchor(mark, anchor);
      Frame& frame = frames_.back();
      frame.key = value;
      if (!frame.seen.insert(value).second) Fail(mark, "expected each key once, given twice");
      frame.node.keys.push_back(value);
      frame.node.key_lines.push_back(mark.line + 1);
      frame.awaits_key = false;
      return;
    }
    Add(mark, anchor, ConfigNode::Kind::kScalar, value);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    Open(mark, anchor, ConfigNode::Kind::kList);
  }
  void OnSequenceEnd() override { Close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    Open(mark, anchor, ConfigNode::Kind::kMap);
  }
  void OnMapEnd() override { Close(); }

 private:
  struct Frame {
    ConfigNode node;
    std::string key;
    std::set<std::string> seen;
    bool awaits_key = true;  // maps only
  };

  bool AwaitsKey() const {
    return !frames_.empty() && frames_.back().node.kind == ConfigNode::Kind::kMap &&
           frames_.back().awaits_key;
  }
  std::string Path() const {
    std::string path;
    for (const Frame& frame : frames_) {
      if (frame.node.kind == ConfigNode::Kind::kList) {
        path += "[" + std::to_string(frame.node.items.size()) + "]";
      } else if (!frame.seen.empty()) {
        path += (path.empty() ? "" : ".") + frame.key;
      }
    }
    return path.empty() ? "file" : path;
  }
  // The library offers no other way out of its parser than an exception of its own; Parse() catches
  // it.
  [[noreturn]] void Fail(const YAML::Mark& mark, const std::string& message) {
    error = Error::Field(Path(), Place(file_, mark.line + 1) + message);
    throw YAML::ParserException(mark, message);
  }
  void CheckAnchor(const YAML::Mark& mark, YAML::anchor_t anchor) {
    if (anchor != YAML::NullAnchor) Fail(mark, "expected no anchors (&name)");
  }
  void Check(const YAML::Mark& mark, YAML::anchor_t anchor) {
    CheckAnchor(mark, anchor);
    if (AwaitsKey()) Fail(mark, "expected plain text as a key");
    if (++values_ > kValuesMax) {
      Fail(mark, "expected at most values_max (" + std::to_string(kValuesMax) + ") values");
    }
  }
  void Open(const YAML::Mark& mark, YAML::anchor_t anchor, ConfigNode::Kind kind) {
    Check(mark, anchor);
    if (frames_.size() >= kDepthMax) {
      Fail(mark,
           "expected nesting of at most depth_max (" + std::to_string(kDepthMax) + ") levels");
    }
    frames_.emplace_back();
    frames_.back().node.kind = kind;
    frames_.back().node.line = mark.line + 1;
  }
  void Close() {
    ConfigNode done = std::move(frames_.back().node);
    frames_.pop_back();
    Attach(std::move(done));
  }
  void Add(const YAML::Mark& mark, YAML::anchor_t anchor, ConfigNode::Kind kind, std::string text) {
    Check(mark, anchor);
    ConfigNode node;
    node.kind = kind;
    node.line = mark.line + 1;
    node.text = std::move(text);
    Attach(std::move(node));
  }
  void Attach(ConfigNode node) {
    if (frames_.empty()) {
      root = std::move(node);
      return;
    }
    frames_.back().node.items.push_back(std::move(node));
    frames_.back().awaits_key = true;
  }

  std::string_view file_;
  std::size_t documents_ = 0;
  std::size_t values_ = 0;
  std::vector<Frame> frames_;
};

}  // namespace

ConfigMap::ConfigMap(std::shared_ptr<const ConfigNode> root, const ConfigNode* node,
                     std::string file, std::string path)
    : root_(std::move(root)), node_(node), file_(std::move(file)), path_(std::move(path)) {}

Result<ConfigMap> ConfigMap::Parse(std::string_view text, std::string_view name) {
  if (text.size() > kFileBytesMax) {
    return Error::Field("file", std::string(name) + ": expected at most file_bytes_max (" +
                                    std::to_string(kFileBytesMax) + ") bytes");
  }
  auto root = std::make_shared<ConfigNode>();
  TreeBuilder builder(name);
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
    *root = std::move(builder.root);
  } catch (const YAML::Exception& thrown) {
    if (builder.error) return *std::move(builder.error);
    return Error::Field("file", Place(name, thrown.mark.line + 1) + "expected YAML, " + thrown.msg);
  } catch (const std::exception& thrown) {
    return Error::Field("file", std::string(name) + ": expected YAML, " + thrown.what());
  }
  if (root->kind == ConfigNode::Kind::kNull) root->kind = ConfigNode::Kind::kMap;
  if (root->kind != ConfigNode::Kind::kMap) {
    return Error::Field("file", Place(name, root->line) + "expected a map, got " +
                                    std::string(KindName(root->kind)));
  }
  const ConfigNode* node = root.get();
  return ConfigMap(std::move(root), node, std::string(name), "");
}

std::string ConfigMap::FieldPath(std::string_view key) const {
  return path_.empty() ? std::string(key) : path_ + "." + std::string(key);
}

const ConfigNode* ConfigMap::Find(std::string_view key) {
  if (std::find(asked_.begin(), asked_.end(), key) == asked_.end()) asked_.emplace_back(key);
  const auto found = std::find(node_->keys.begin(), node_->keys.end(), key);
  if (found == node_->keys.end()) return nullptr;
  const ConfigNode& node = node_->items[static_cast<std::size_t>(found - node_->keys.begin())];
  return node.kind == ConfigNode::Kind::kNull ? nullptr : &node;
}

bool ConfigMap::Has(std::string_view key) { return Find(key) != nullptr; }

Error ConfigMap::At(const ConfigNode& node, const Error& error) const {
  return Error::Field(error.field(), Place(file_, node.line) + error.message());
}

Error ConfigMap::Wrong(std::string_view key, const std::string& message) const {
  const auto found = std::find(node_->keys.begin(), node_->keys.end(), key);
  const int line = found == node_->keys.end()
                       ? node_->line
                       : node_->key_lines[static_cast<std::size_t>(found - node_->keys.begin())];
  return Error::Field(FieldPath(key), Place(file_, line) + message);
}

Result<std::string> ConfigMap::Scalar(std::string_view key, const ConfigNode& node) const {
  if (node.kind != ConfigNode::Kind::kScalar) {
    return Wrong(key, "expected a single value, got " + std::string(KindName(node.kind)));
  }
  if (node.text.size() > kStringBytesMax) {
    return Wrong(key, "expected at most " + std::to_string(kStringBytesMax) + " bytes");
  }
  if (node.text.find('\0') != std::string::npos) return Wrong(key, "expected text without NUL");
  return node.text;
}

Result<std::string> ConfigMap::String(std::string_view key) {
  const ConfigNode* node = Find(key);
  if (node == nullptr) return Wrong(key, "required, but missing");
  return Scalar(key, *node);
}

Result<std::string> ConfigMap::OptionalString(std::string_view key, std::string fallback) {
  const ConfigNode* node = Find(key);
  if (node == nullptr) return fallback;
  return Scalar(key, *node);
}

Result<std::int64_t> ConfigMap::OptionalInt(std::string_view key, std::int64_t min,
                                            std::int64_t max, std::int64_t fallback) {
  const ConfigNode* node = Find(key);
  if (node == nullptr) return fallback;
  TRY(const std::string text, Scalar(key, *node));
  auto value = ParseInt(text, FieldPath(key), min, max);
  if (!value) return At(*node, value.error());
  return *value;
}

Result<bool> ConfigMap::OptionalBool(std::string_view key, bool fallback) {
  const ConfigNode* node = Find(key);
  if (node == nullptr) return fallback;
  TRY(const std::string text, Scalar(key, *node));
  if (text == "true") return true;
  if (text == "false") return false;
  return Wrong(key, "expected true or false");
}

Result<std::uint64_t> ConfigMap::OptionalBytes(std::string_view key, std::uint64_t fallback) {
  const ConfigNode* node = Find(key);
  if (node == nullptr) return fallback;
  TRY(const std::string text, Scalar(key, *node));
  auto value = ParseBytes(text, FieldPath(key));
  if (!value) return At(*node, value.error());
  return *value;
}

Result<tessera::Permille> ConfigMap::OptionalPermille(std::string_view key,
                                                      tessera::Permille fallback) {
  const ConfigNode* node = Find(key);
  if (node == nullptr) return fallback;
  TRY(const std::string text, Scalar(key, *node));
  auto value = ParsePermille(text, FieldPath(key));
  if (!value) return At(*node, value.error());
  return *value;
}

Result<Money> ConfigMap::OptionalMoney(std::string_view key, Money fallback) {
  const ConfigNode* node = Find(key);
  if (node == nullptr) return fallback;
  TRY(const std::string text, Scalar(key, *node));
  auto value = ParseMoney(text, FieldPath(key));
  if (!value) return At(*node, value.error());
  return *value;
}

Result<ConfigMap> ConfigMap::OptionalMap(std::string_view key) {
  static const ConfigNode kEmpty{.kind = ConfigNode::Kind::kMap};
  const ConfigNode* node = Find(key);
  if (node == nullptr) node = &kEmpty;
  if (node->kind != ConfigNode::Kind::kMap) {
    return Wrong(key, "expected a map, got " + std::string(KindName(node->kind)));
  }
  return ConfigMap(root_, node, file_, FieldPath(key));
}

Result<std::vector<ConfigMap>> ConfigMap::OptionalMaps(std::string_view key) {
  std::vector<ConfigMap> maps;
  const ConfigNode* node = Find(key);
  if (node == nullptr) return maps;
  if (node->kind != ConfigNode::Kind::kList) {
    return Wrong(key, "expected a list, got " + std::string(KindName(node->kind)));
  }
  if (node->items.size() > kListMax) {
    return Wrong(key, "expected at most list_max (" + std::to_string(kListMax) + ") entries");
  }
  for (const ConfigNode& item : node->items) {
    const std::string path = FieldPath(key) + "[" + std::to_string(maps.size()) + "]";
    if (item.kind != ConfigNode::Kind::kMap) {
      return Error::Field(path, Place(file_, item.line) + "expected a map, got " +
                                    std::string(KindName(item.kind)));
    }
    maps.push_back(ConfigMap(root_, &item, file_, path));
  }
  return maps;
}

Result<std::vector<std::string>> ConfigMap::OptionalStrings(std::string_view key) {
  std::vector<std::string> strings;
  const ConfigNode* node = Find(key);
  if (node == nullptr) return strings;
  if (node->kind != ConfigNode::Kind::kList) {
    return Wrong(key, "expected a list, got " + std::string(KindName(node->kind)));
  }
  if (node->items.size() > kListMax) {
    return Wrong(key, "expected at most list_max (" + std::to_string(kListMax) + ") entries");
  }
  for (const ConfigNode& item : node->items) {
    if (item.kind != ConfigNode::Kind::kScalar || item.text.size() > kStringBytesMax) {
      return Error::Field(FieldPath(key) + "[" + std::to_string(strings.size()) + "]",
                          Place(file_, item.line) + "expected text of at most " +
                              std::to_string(kStringBytesMax) + " bytes");
    }
    strings.push_back(item.text);
  }
  return strings;
}

std::vector<std::string> ConfigMap::Keys() const { return node_->keys; }

Status ConfigMap::Finish() const {
  for (const std::string& key : node_->keys) {
    if (std::find(asked_.begin(), asked_.end(), key) != asked_.end()) continue;
    std::string expected;
    for (const std::string& name : asked_) expected += (expected.empty() ? "" : ", ") + name;
    return Wrong(key, "unknown key; expected " +
                          (expected.empty() ? std::string("no keys") : "one of: " + expected));
  }
  return {};
}

}  // namespace tessera::config
