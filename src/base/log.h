// The logging facade. An event has a constant name and fields; services write JSON lines, a
// terminal gets text. Thread-safe; one write(2) a line, so lines never interleave. Never call it on
// a fast path.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

namespace tessera {

enum class LogLevel { kDebug, kInfo, kWarn, kError };
enum class LogFormat { kText, kJson };

struct LogField {
  LogField(std::string_view k, std::string_view v) : key(k), text(v) {}
  LogField(std::string_view k, const std::string& v) : key(k), text(v) {}
  LogField(std::string_view k, const char* v) : key(k), text(v) {}
  LogField(std::string_view k, bool v) : key(k), text(v ? "true" : "false"), quoted(false) {}
  template <typename Int>
    requires std::is_integral_v<Int>
  LogField(std::string_view k, Int v) : key(k), text(std::to_string(v)), quoted(false) {}

  std::string_view key;
  std::string text;
  bool quoted = true;
};

// Log(LogLevel::kInfo, "slice.created", {{"slice", id}, {"bytes", n}});
void Log(LogLevel level, std::string_view event, std::initializer_list<LogField> fields = {});

// Where lines go (a file descriptor, default 2) and how they look. Call before threads start.
void SetLog(int fd, LogFormat format, LogLevel least);

// Appends `text` as the inside of a JSON string (no quotes added).
void AppendJsonEscaped(std::string* out, std::string_view text);

}  // namespace tessera
