// The records in an instance's folder: lists of key=value, each ended by a NUL byte, keys
// repeatable. Written by one half of the runtime and read by the other, so that instances survive a
// restart of either. Also linked into tessera-init, hence nothing but the standard library and the
// kernel.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tessera::runtime {

// File names inside an instance's folder.
inline constexpr char kPlanFile[] =
    "plan";  // what to run and how; written before the supervisor exists
inline constexpr char kStartedFile[] =
    "started";  // pids and times; written before the program is executed
inline constexpr char kExitFile[] = "exit";  // how it ended; written when everything of it is gone
inline constexpr char kLockFile[] = "lock";  // held by the supervisor; its mtime is the heartbeat
inline constexpr char kControlSocket[] = "control";  // exec requests
inline constexpr char kLogPrefix[] = "log.";         // log.<offset of its first byte>

// A plain value. Not thread-safe.
class Record {
 public:
  void Add(std::string_view key, std::string_view value);
  void AddInt(std::string_view key, std::int64_t value) { Add(key, std::to_string(value)); }
  // The first value of a key; empty or 0 when there is none.
  std::string Get(std::string_view key) const;
  std::int64_t GetInt(std::string_view key) const;
  std::vector<std::string> All(std::string_view key) const;

  // Values must not contain NUL bytes (the edge refuses those). The last entry marks completeness.
  std::string Encode() const;
  // False when the bytes are not a complete record.
  static bool Decode(std::string_view bytes, Record* out);

 private:
  std::vector<std::pair<std::string, std::string>> entries_;
};

// Both return false with errno set. Names are relative to the folder descriptor.
bool ReadFileAt(int folder, const char* name, std::string* out);
// Temporary file, fsync, rename: readers see the old bytes or all of the new ones.
bool WriteFileAt(int folder, const char* name, std::string_view bytes);
// The record of that name; false when missing or incomplete.
bool ReadRecordAt(int folder, const char* name, Record* out);

// Field 22 of /proc/PID/stat, 0 when there is no such process.
std::uint64_t StartTimeOf(int pid);
std::int64_t WallMicrosNow();

}  // namespace tessera::runtime
