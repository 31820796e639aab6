// tessera-init: the supervisor of one instance, started by the runtime library and by nobody else.
// A static program without dependencies, so that it outlives upgrades of the daemon and runs beside
// any root file system.
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <string>

#include "runtime/supervisor.h"

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "supervise") == 0) return tessera::runtime::Supervise();
  if (argc == 2 && std::strcmp(argv[1], "probe") == 0) {
    const std::string why = tessera::runtime::ProbeContainment();
    // One line on stdout: empty when instances can be contained here.
    std::printf("%s\n", why.c_str());
    return 0;
  }
  std::fprintf(stderr, "tessera-init is started by tesserad, not by hand.\n");
  return 2;
}
