// Where the daemons keep their things when nobody says otherwise, and where programs that belong
// together lie.
#pragma once

#include <string>

namespace tessera::apps {

// $TESSERA_RUN_DIR, else /run/tessera as root, $XDG_RUNTIME_DIR/tessera or /tmp/tessera-UID
// without.
std::string DefaultRunDir();
// /var/lib/tessera as root, else $XDG_DATA_HOME/tessera or ~/.local/share/tessera.
std::string DefaultDataDir();
// Folder of the running program.
std::string ProgramFolder();
// libtessera.so beside the program, in ../lib of it, or "" when it is in neither.
std::string FindGuestLibrary();

}  // namespace tessera::apps
