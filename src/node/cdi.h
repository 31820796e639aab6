// The CDI spec of a slice: how a container runtime that reads /var/run/cdi (podman, containerd,
// CRI-O) lays a container out so that our library is the driver in it. Mounts, device nodes and
// variables only, no hooks. Text in, text out.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "device/card.h"
#include "runtime/runtime.h"

namespace tessera::node {

inline constexpr char kCdiKind[] = "tessera.dev/slice";
// Where the real libraries stand in the container; the guest's wall/real.cc opens them there.
inline constexpr char kInsideReal[] = "/run/tessera-real";
// Folders a loader searches without being told: Debian's and Red Hat's.
inline constexpr const char* kInsideLibraries[] = {"/usr/lib/x86_64-linux-gnu", "/usr/lib64"};

struct CdiOptions {
  std::string folder;        // where specs are written; empty: none are
  std::string wall_library;  // our library that is the driver
  std::string cuda;          // the maker's own, by full path
  std::string nvml;
  std::vector<std::string> device_nodes;            // every container gets these
  std::map<std::string, std::string> node_of_card;  // by UUID; a card without one needs none
  std::vector<runtime::Bind> mounts;                // what else the driver needs
  std::vector<std::string> environment;
};

// kInvalidArgument when the slice's name cannot be a CDI device's: those end in a letter or digit.
Result<std::string> CdiSpec(const CdiOptions& options, const std::string& guest_folder,
                            const std::string& slice, const std::vector<device::Share>& shares);
std::string CdiPath(const CdiOptions& options, const std::string& slice);
// The slice a file of the folder belongs to, or "".
std::string CdiSliceOf(const std::string& file);

}  // namespace tessera::node
