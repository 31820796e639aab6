#include "apps/paths.h"

#include <limits.h>
#include <unistd.h>

#include <cstdlib>

namespace tessera::apps {
namespace {

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

std::string DefaultRunDir() {
  if (const std::string given = Environment("TESSERA_RUN_DIR"); !given.empty()) return given;
  if (geteuid() == 0) return "/run/tessera";
  if (const std::string runtime = Environment("XDG_RUNTIME_DIR"); !runtime.empty())
    return runtime + "/tessera";
  return "/tmp/tessera-" + std::to_string(geteuid());
}

std::string DefaultDataDir() {
  if (geteuid() == 0) return "/var/lib/tessera";
  if (const std::string data = Environment("XDG_DATA_HOME"); !data.empty())
    return data + "/tessera";
  return Environment("HOME") + "/.local/share/tessera";
}

std::string ProgramFolder() {
  char path[PATH_MAX];
  const ssize_t n = readlink("/proc/self/exe", path, sizeof path);
  if (n <= 0) return ".";
  const std::string text(path, static_cast<std::size_t>(n));
  return text.substr(0, text.rfind('/'));
}

std::string FindGuestLibrary() {
  for (const char* relative : {"/libtessera.so", "/../lib/libtessera.so"}) {
    const std::string path = ProgramFolder() + relative;
    char resolved[PATH_MAX];
    if (access(path.c_str(), R_OK) == 0 && realpath(path.c_str(), resolved) != nullptr)
      return resolved;
  }
  return "";
}

}  // namespace tessera::apps
