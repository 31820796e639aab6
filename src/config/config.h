// Reads a configuration file the way http/json.h reads a body: typed, bounded, and strict. An
// unknown key, a key given twice, a wrong type or a value out of range is an error that names the
// field and the line.
//
//   TRY(ConfigMap file, ConfigMap::Parse(text, "tessera.yaml"));
//   TRY(std::string socket, file.OptionalString("socket", "/run/tessera.sock"));
//   TRY(ConfigMap node, file.OptionalMap("node"));
//   TRY(std::uint64_t spare, node.OptionalBytes("spare_memory", 0));
//   TRY_STATUS(node.Finish());
//   TRY_STATUS(file.Finish());
//
// Values are handles to one immutable document and keep it alive. A ConfigMap notes which keys were
// asked for and is not thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/units.h"

namespace tessera::config {

inline constexpr std::size_t kFileBytesMax = 1 << 20;
inline constexpr std::size_t kDepthMax = 16;
inline constexpr std::size_t kValuesMax = 20'000;
inline constexpr std::size_t kListMax = 1'000;
inline constexpr std::size_t kStringBytesMax = 4'096;

struct ConfigNode;

class ConfigMap {
 public:
  // An empty document is an empty map. `name` is the file's name in errors.
  static Result<ConfigMap> Parse(std::string_view text, std::string_view name);

  bool Has(std::string_view key);  // there and not null; counts as asked for

  Result<std::string> String(std::string_view key);
  Result<std::string> OptionalString(std::string_view key, std::string fallback);
  Result<std::int64_t> OptionalInt(std::string_view key, std::int64_t min, std::int64_t max,
                                   std::int64_t fallback);
  // true or false and nothing else: "yes" and "on" are text.
  Result<bool> OptionalBool(std::string_view key, bool fallback);
  Result<std::uint64_t> OptionalBytes(std::string_view key, std::uint64_t fallback);
  Result<tessera::Permille> OptionalPermille(std::string_view key, tessera::Permille fallback);
  Result<Money> OptionalMoney(std::string_view key, Money fallback);
  // Absent: empty.
  Result<ConfigMap> OptionalMap(std::string_view key);
  Result<std::vector<ConfigMap>> OptionalMaps(std::string_view key);
  Result<std::vector<std::string>> OptionalStrings(std::string_view key);

  std::vector<std::string> Keys() const;  // in the file's order
  Status Finish() const;                  // an error when a key was never asked for
  // An error about `key` with its file and line.
  Error Wrong(std::string_view key, const std::string& message) const;

 private:
  ConfigMap(std::shared_ptr<const ConfigNode> root, const ConfigNode* node, std::string file,
            std::string path);

  const ConfigNode* Find(std::string_view key);
  Result<std::string> Scalar(std::string_view key, const ConfigNode& node) const;
  std::string FieldPath(std::string_view key) const;
  // The same error with file and line in front.
  Error At(const ConfigNode& node, const Error& error) const;

  std::shared_ptr<const ConfigNode> root_;
  const ConfigNode* node_;
  std::string file_;
  std::string path_;
  std::vector<std::string> asked_;
};

}  // namespace tessera::config
