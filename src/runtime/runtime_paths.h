// Names inside an instance; shared by the library and tessera-init.
#pragma once

namespace tessera::runtime {

inline constexpr char kInsideHome[] = "/run/home";  // own folder, HOME, default working directory
inline constexpr char kInsideGuestFolder[] = "/run/tessera";  // read-only, holds guest.sock
inline constexpr char kInsideLibrary[] =
    "/run/tessera-guest/libtessera.so";  // named by ld.so.preload
// Marks every process of an instance that is not contained, so that orphans of a killed supervisor
// are found.
inline constexpr char kRunTokenVariable[] = "TESSERA_RUN_TOKEN";

}  // namespace tessera::runtime
