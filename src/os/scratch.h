// A folder of its own for a test, gone with everything in it when the test ends. The name is short,
// so that a unix socket fits below it.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <string>

namespace tessera::os {

class ScratchFolder {
 public:
  explicit ScratchFolder(const std::string& below = "/tmp") : path_(below + "/t-XXXXXX") {
    if (mkdtemp(path_.data()) == nullptr) abort();
  }
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace tessera::os
