// `tessera run`: a program of the caller's own, as it stands, inside a slice of a card of this
// machine. Joins the machine's tesserad or starts one, asks it for a slice, puts the program into
// it before its first instruction, passes signals on and ends with its exit code. Not thread-safe;
// one run a process.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

namespace tessera::cli {

struct RunOptions {
  std::string memory;                // "4GiB", of each slice
  std::string compute;               // "33%", of each slice; empty: in proportion to the memory
  std::string cards = "1";           // slices on that many different cards
  std::string isolation;             // "shim", "spatial" or "whole"; empty: shim
  std::vector<std::string> command;  // program and arguments
  // Empty: as the daemons choose. Tests set them.
  std::string run_dir;       // sockets of the node
  std::string node_program;  // tesserad
  std::vector<std::string> node_arguments;
  std::string guest_library;  // libtessera.so
  std::FILE* err = stderr;
};

// The program's exit code (128 + signal when killed by one, 127 or 126 when it could not be
// executed), or one of the CLI's own codes (commands.h) when it was never started.
int RunCommand(const RunOptions& options);

}  // namespace tessera::cli
