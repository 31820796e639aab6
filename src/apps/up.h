// `tessera up`: the whole cloud on one machine. One process with cloud and scheduler, one child
// tesserad (or one that already runs here), REST on a TCP address. SIGTERM and SIGINT stop it
// cleanly; instances go on and are adopted by the next start.
#pragma once

#include "cli/cli.h"

namespace tessera::apps {

// Blocks until told to stop; returns the exit code.
int Up(const cli::UpFlags& flags);

}  // namespace tessera::apps
