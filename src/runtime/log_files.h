// The bounded log of an instance: at most two files `log.<offset of the first byte>`, each at most
// half the bound, so that offsets into all that was ever written survive rotation and restarts
// without any header.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tessera::runtime {

struct LogFile {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  std::string name;
};

// The log files of a folder, by offset. Files that vanish meanwhile (rotation) are left out.
std::vector<LogFile> ListLogFiles(int folder);

// Appends to the log. One writer per folder. Not thread-safe. A full disk loses bytes, never blocks
// the program: what was lost is said in the log as soon as writing works again.
class LogWriter {
 public:
  LogWriter(int folder, std::uint64_t bytes_max)
      : folder_(folder), file_bytes_max_(bytes_max / 2) {}
  ~LogWriter();
  LogWriter(const LogWriter&) = delete;
  LogWriter& operator=(const LogWriter&) = delete;
  void Append(const char* data, std::size_t size);

 private:
  bool Rotate();
  void Write(const char* data, std::size_t size);

  int folder_;
  std::uint64_t file_bytes_max_;
  std::uint64_t offset_ = 0;      // of the next byte
  std::uint64_t file_bytes_ = 0;  // in the current file
  std::uint64_t lost_ = 0;
  int fd_ = -1;
  std::string current_;
  std::string previous_;
};

}  // namespace tessera::runtime
