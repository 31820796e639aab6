// What tessera-init does inside new namespaces: builds the instance's view of the machine, drops
// every privilege and executes the program. Single-threaded code of tessera-init only; on failure
// the process exits or the caller says why.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace tessera::runtime {

// The parts of a plan that building the root and starting a program need.
struct ContainerPlan {
  struct Mount {
    std::string source;
    std::string target;
    bool writable = false;
    bool optional = false;
  };
  bool contained = false;
  std::string id;
  std::string folder;  // the instance's, outside
  std::string rootfs;
  std::string directory;  // inside
  bool bind_directory = false;
  std::string guest_folder;
  std::string guest_library;
  std::string preload;  // content of the private /etc/ld.so.preload; empty: none
  std::vector<Mount> mounts;
  std::vector<std::string> environment;
  uid_t uid = 0;
  unsigned tasks_max = 0;
};

struct Failure {
  std::string field;  // input field at fault, empty when it is the machine
  std::string text;
};

// In a new mount, pid, ipc and uts namespace, as root: makes the root folder of the instance and
// enters it. Nothing outside the namespace is changed except empty folders inside the instance's
// own folder.
bool BuildRoot(const ContainerPlan& plan, Failure* failure);

// Gives up root, all capabilities and the right to gain any. False when one step failed: then
// nothing may be run.
bool DropPrivileges(const ContainerPlan& plan, std::string* why);

// Executes argv as the plan's user in the plan's environment and folder, with descriptors 0, 1, 2
// as they are and all others closed. Never returns: what fails is said on descriptor 2 and ends the
// process with 127 (not found), 126 (not executable) or 125 (the machine).
[[noreturn]] void ExecProgram(const ContainerPlan& plan, const std::vector<std::string>& argv);

// Every signal back to its default and unblocked.
void ResetSignals();
// 128 + signal or the exit code, as a shell says it.
int ShellStatus(int wait_status);

}  // namespace tessera::runtime
