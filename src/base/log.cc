#include "base/log.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <ctime>

namespace tessera {
namespace {

std::atomic<int> g_fd{2};
std::atomic<LogFormat> g_format{LogFormat::kText};
std::atomic<LogLevel> g_least{LogLevel::kInfo};

std::string_view LevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarn:
      return "warn";
    case LogLevel::kError:
      return "error";
  }
  return "info";
}

std::string Timestamp() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  tm utc{};
  gmtime_r(&now.tv_sec, &utc);
  char text[40];
  const size_t n = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
  char out[64];
  snprintf(out, sizeof out, "%.*s.%03ldZ", static_cast<int>(n), text, now.tv_nsec / 1000000);
  return out;
}

}  // namespace

void AppendJsonEscaped(std::string* out, std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  for (const char c : text) {
    const auto u = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      *out += '\\';
      *out += c;
    } else if (c == '\n') {
      *out += "\\n";
    } else if (u < 0x20) {
      *out += "\\u00";
      *out += kHex[u >> 4];
      *out += kHex[u & 15];
    } else {
      *out += c;
    }
  }
}

void SetLog(int fd, LogFormat format, LogLevel least) {
  g_fd = fd;
  g_format = format;
  g_least = least;
}

void Log(LogLevel level, std::string_view event, std::initializer_list<LogField> fields) {
  if (level < g_least.load()) return;
  std::string line;
  if (g_format.load() == LogFormat::kJson) {
    line = "{\"time\":\"" + Timestamp() + "\",\"level\":\"" + std::string(LevelName(level)) +
           "\",\"event\":\"";
    AppendJsonEscaped(&line, event);
    line += '"';
    for (const LogField& field : fields) {
      line += ",\"";
      AppendJsonEscaped(&line, field.key);
      line += field.quoted ? "\":\"" : "\":";
      AppendJsonEscaped(&line, field.text);
      if (field.quoted) line += '"';
    }
    line += "}\n";
  } else {
    line = std::string(LevelName(level)) + " " + std::string(event);
    for (const LogField& field : fields) {
      line += " " + std::string(field.key) + "=";
      AppendJsonEscaped(&line, field.text);
    }
    line += '\n';
  }
  // A log that cannot be written has nowhere to say so; losing the line is the only choice left.
  [[maybe_unused]] const ssize_t written = write(g_fd.load(), line.data(), line.size());
}

}  // namespace tessera
