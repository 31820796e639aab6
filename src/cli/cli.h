// The command line of `tessera`: flags and subcommands. `up` is given in by the program, because it
// binds the services together and lives in apps/.
#pragma once

#include <functional>
#include <string>

namespace tessera::cli {

struct UpFlags {
  std::string data_dir;  // database, keys, state; empty: the default of this user
  std::string run_dir;   // sockets; empty: the default of this user
  std::string listen = "127.0.0.1:7070";
  std::string name = "local";
  std::string config;         // YAML file, see docs/up.md
  std::string guest_library;  // empty: beside the program
  bool no_containment = false;
  bool json_log = false;
};

// Runs one command line; returns the exit code.
int Main(int argc, const char* const* argv, const std::function<int(const UpFlags&)>& up);

}  // namespace tessera::cli
