// What runs inside an instance. Plain values, validated at the edge (cloud/ and node/).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tessera::runtime {

struct Workload {
  std::vector<std::string> argv;  // argv[0] is looked up in PATH; 1 to 256 entries, 32 KiB in all
  std::vector<std::string>
      environment;               // "NAME=value"; at most 256; TESSERA_* and LD_PRELOAD are refused
  std::string directory;         // working directory; empty: an own empty folder
  std::string rootfs;            // root folder; empty: the machine's own
  std::uint32_t cpu_millis = 0;  // 0: no limit
  std::uint64_t ram_bytes = 0;   // 0: no limit
};

}  // namespace tessera::runtime
