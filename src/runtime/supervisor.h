// The life of one instance as its supervisor sees it. Single-threaded, one per process, never
// returns to its caller's state: tessera-init is this and nothing else.
#pragma once

#include <string>

namespace tessera::runtime {

// Descriptors tessera-init is started with.
inline constexpr int kFolderFd = 3;  // the instance's folder
inline constexpr int kLockFd = 4;    // its lock file, already locked
inline constexpr int kReportFd = 5;  // one answer to Start: "O", or "E" field NUL text

// Starts what the folder's plan says and stays until it has ended. Returns the process's exit
// status.
int Supervise();

// Whether this machine lets us contain: makes and leaves the namespaces. Empty: yes; else why not.
std::string ProbeContainment();

}  // namespace tessera::runtime
