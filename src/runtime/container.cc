#include "runtime/container.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "runtime/runtime_paths.h"

namespace tessera::runtime {
namespace {

constexpr rlim_t kOpenFilesMax = 65'536;
constexpr char kOutOfMemoryScore[] = "300";  // tenants before daemons

bool Fail(Failure* failure, std::string field, std::string text) {
  failure->field = std::move(field);
  failure->text = std::move(text) + ": " + std::strerror(errno);
  return false;
}

// A detached copy of what is mounted at the path, to be placed later: sources are taken before
// anything is hidden.
int OpenTree(int dir, const std::string& path, bool recursive) {
  return open_tree(dir, path.c_str(),
                   OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (recursive ? AT_RECURSIVE : 0));
}

bool SetFlags(int tree, std::uint64_t flags) {
  mount_attr attributes{};
  attributes.attr_set = flags;
  return mount_setattr(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes, sizeof attributes) == 0;
}

bool PlaceTree(int tree, const std::string& target) {
  const bool ok = move_mount(tree, "", AT_FDCWD, target.c_str(), MOVE_MOUNT_F_EMPTY_PATH) == 0;
  const int saved = errno;
  close(tree);
  errno = saved;
  return ok;
}

bool MakeFolders(const std::string& path) {
  for (std::size_t at = path.find('/', 1);; at = path.find('/', at + 1)) {
    const std::string part = path.substr(0, at);
    struct stat info{};
    if (stat(part.c_str(), &info) != 0 && mkdir(part.c_str(), 0755) != 0 && errno != EEXIST) {
      return false;
    }
    if (at == std::string::npos) return true;
  }
}

// Makes the place for a mount: a folder for a folder, an empty file for anything else.
bool MakeTarget(const std::string& target, bool folder) {
  struct stat info{};
  if (stat(target.c_str(), &info) == 0) {
    if (S_ISDIR(info.st_mode) == folder) return true;
    errno = folder ? ENOTDIR : EISDIR;
    return false;
  }
  if (folder) return MakeFolders(target);
  const std::size_t slash = target.rfind('/');
  if (slash > 0 && !MakeFolders(target.substr(0, slash))) return false;
  const int fd = open(target.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0) return false;
  close(fd);
  return true;
}

bool IsFolder(int fd) {
  struct stat info{};
  return fstat(fd, &info) == 0 && S_ISDIR(info.st_mode);
}

bool Mount(const char* type, const std::string& target, unsigned long flags,
           const std::string& options) {
  return MakeFolders(target) &&
         mount(type, target.c_str(), type, flags, options.empty() ? nullptr : options.c_str()) == 0;
}

bool WriteWhole(const std::string& path, const std::string& text) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
  if (fd < 0) return false;
  const bool ok = write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  fchmod(fd, 0644);
  close(fd);
  return ok;
}

struct Source {
  int tree = -1;
  std::string target;
  std::string field;
  bool folder = false;
};

// Everything the instance sees of the machine beyond its root, as detached trees.
struct Sources {
  int home = -1, tmp = -1, var_tmp = -1, guest = -1, library = -1, sys = -1, directory = -1,
      resolve = -1;
  std::vector<Source> devices;
  std::vector<Source> mounts;
};

bool CollectSources(const ContainerPlan& plan, int folder, Sources* out, Failure* failure) {
  const auto own = [&](const char* name, int* tree) {
    *tree = OpenTree(folder, name, false);
    return (*tree >= 0 && SetFlags(*tree, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)) ||
           Fail(failure, "", std::string("the instance's folder ") + name);
  };
  if (!own("home", &out->home) || !own("tmp", &out->tmp) || !own("var_tmp", &out->var_tmp))
    return false;
  out->guest = OpenTree(AT_FDCWD, plan.guest_folder, false);
  if (out->guest < 0 ||
      !SetFlags(out->guest, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)) {
    return Fail(failure, "guest_folder", "binding " + plan.guest_folder);
  }
  if (!plan.guest_library.empty()) {
    out->library = OpenTree(AT_FDCWD, plan.guest_library, false);
    if (out->library < 0 ||
        !SetFlags(out->library, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)) {
      return Fail(failure, "guest_library", "binding " + plan.guest_library);
    }
  }
  if (plan.bind_directory) {
    out->directory = OpenTree(AT_FDCWD, plan.directory, true);
    if (out->directory < 0 || !SetFlags(out->directory, MOUNT_ATTR_NOSUID)) {
      return Fail(failure, "workload.directory", "binding " + plan.directory);
    }
  }
  if (!plan.rootfs.empty()) {
    out->sys = OpenTree(AT_FDCWD, "/sys", true);
    if (out->sys < 0 || !SetFlags(out->sys, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID)) {
      return Fail(failure, "", "binding /sys");
    }
  } else {
    // Name resolution of a machine under systemd goes through a file in /run, which is private
    // below.
    out->resolve = OpenTree(AT_FDCWD, "/run/systemd/resolve", false);
    if (out->resolve >= 0 && !SetFlags(out->resolve, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID)) {
      return Fail(failure, "", "binding /run/systemd/resolve");
    }
  }
  for (const char* name : {"null", "zero", "full", "random", "urandom", "tty"}) {
    const std::string path = std::string("/dev/") + name;
    const int tree = OpenTree(AT_FDCWD, path, false);
    if (tree < 0) return Fail(failure, "", "binding " + path);
    out->devices.push_back({tree, path, "", false});
  }
  for (std::size_t i = 0; i < plan.mounts.size(); ++i) {
    const ContainerPlan::Mount& mount = plan.mounts[i];
    const std::string field = "binds[" + std::to_string(i) + "]";
    const int tree = OpenTree(AT_FDCWD, mount.source, true);
    if (tree < 0 && mount.optional && errno == ENOENT) continue;
    if (tree < 0 || !SetFlags(tree, MOUNT_ATTR_NOSUID | (mount.writable ? 0 : MOUNT_ATTR_RDONLY))) {
      return Fail(failure, field + ".source", "binding " + mount.source);
    }
    out->mounts.push_back({tree, mount.target, field + ".target", IsFolder(tree)});
  }
  return true;
}

// Makes `root` in the instance's folder the instance's root file system: an overlay on the rootfs,
// or the machine's own tree read-only.
bool MountRoot(const ContainerPlan& plan, int folder, Failure* failure) {
  if (plan.rootfs.empty()) {
    const int tree = OpenTree(AT_FDCWD, "/", true);
    if (tree < 0) return Fail(failure, "", "copying the machine's mounts");
    if (!SetFlags(tree, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID)) {
      return Fail(failure, "",
                  "making the machine's mounts read-only (kernel 5.12 or newer is needed)");
    }
    const bool ok = move_mount(tree, "", folder, "root", MOVE_MOUNT_F_EMPTY_PATH) == 0;
    close(tree);
    return ok || Fail(failure, "", "mounting the root");
  }
  // Descriptors instead of paths: overlayfs gives ',' and ':' in its options a meaning.
  const int lower = open(plan.rootfs.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (lower < 0) return Fail(failure, "workload.rootfs", "opening " + plan.rootfs);
  const std::string self = "/proc/self/fd/";
  const std::string own = self + std::to_string(folder);
  const std::string options = "lowerdir=" + self + std::to_string(lower) + ",upperdir=" + own +
                              "/upper,workdir=" + own + "/work";
  const bool ok =
      mount("overlay", (own + "/root").c_str(), "overlay", MS_NOSUID, options.c_str()) == 0;
  const int saved = errno;
  close(lower);
  errno = saved;
  return ok || Fail(failure, "",
                    "mounting an overlay over the rootfs (the instances' folder must be on a "
                    "file system that can hold an overlay's upper layer, e.g. ext4, xfs or tmpfs)");
}

bool EnterRoot(int folder, Failure* failure) {
  const int root = openat(folder, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (root < 0 || fchdir(root) != 0) return Fail(failure, "", "entering the root");
  close(root);
  // Both arguments the same folder: the old root is stacked under the new one and taken off at
  // once.
  if (syscall(SYS_pivot_root, ".", ".") != 0) return Fail(failure, "", "pivot_root");
  if (umount2(".", MNT_DETACH) != 0) return Fail(failure, "", "leaving the old root");
  return chdir("/") == 0 || Fail(failure, "", "entering the root");
}

bool MountDevices(Sources* sources, Failure* failure) {
  if (!Mount("tmpfs", "/dev", MS_NOSUID | MS_NOEXEC, "mode=0755,size=1m")) {
    return Fail(failure, "", "mounting /dev");
  }
  for (Source& device : sources->devices) {
    if (!MakeTarget(device.target, false) || !PlaceTree(device.tree, device.target)) {
      return Fail(failure, "", "placing " + device.target);
    }
  }
  const char* const links[][2] = {{"/proc/self/fd", "/dev/fd"},
                                  {"/proc/self/fd/0", "/dev/stdin"},
                                  {"/proc/self/fd/1", "/dev/stdout"},
                                  {"/proc/self/fd/2", "/dev/stderr"},
                                  {"pts/ptmx", "/dev/ptmx"}};
  for (const auto& link : links) {
    if (symlink(link[0], link[1]) != 0) return Fail(failure, "", std::string("making ") + link[1]);
  }
  if (!Mount("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")) {
    return Fail(failure, "", "mounting /dev/pts");
  }
  return Mount("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777") ||
         Fail(failure, "", "mounting /dev/shm");
}

bool MountRun(Sources* sources, Failure* failure) {
  if (!Mount("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755,size=4m")) {
    return Fail(failure, "", "mounting /run");
  }
  if (!MakeFolders(kInsideGuestFolder) || !PlaceTree(sources->guest, kInsideGuestFolder)) {
    return Fail(failure, "guest_folder", "placing it");
  }
  if (!MakeFolders(kInsideHome) || !PlaceTree(sources->home, kInsideHome)) {
    return Fail(failure, "", "placing the home folder");
  }
  if (sources->library >= 0 &&
      (!MakeTarget(kInsideLibrary, false) || !PlaceTree(sources->library, kInsideLibrary))) {
    return Fail(failure, "guest_library", "placing it");
  }
  if (sources->resolve >= 0 && (!MakeFolders("/run/systemd/resolve") ||
                                !PlaceTree(sources->resolve, "/run/systemd/resolve"))) {
    return Fail(failure, "", "placing /run/systemd/resolve");
  }
  return true;
}

// The loader of every program in the instance reads this file; a rootfs has a writable layer of its
// own, the machine's /etc gets a read-only layer on top that only this instance sees.
bool WritePreload(const ContainerPlan& plan, Failure* failure) {
  if (plan.preload.empty()) return true;
  if (!plan.rootfs.empty()) {
    if (unlink("/etc/ld.so.preload") != 0 && errno != ENOENT) {
      return Fail(failure, "workload.rootfs", "replacing /etc/ld.so.preload");
    }
    return (MakeFolders("/etc") && WriteWhole("/etc/ld.so.preload", plan.preload)) ||
           Fail(failure, "workload.rootfs", "writing /etc/ld.so.preload");
  }
  const std::string layer = "/run/tessera-guest/etc";
  if (!MakeFolders(layer) || !WriteWhole(layer + "/ld.so.preload", plan.preload)) {
    return Fail(failure, "", "writing the private ld.so.preload");
  }
  const std::string options = "lowerdir=" + layer + ":/etc";
  return mount("overlay", "/etc", "overlay", MS_RDONLY | MS_NOSUID | MS_NODEV, options.c_str()) ==
             0 ||
         Fail(failure, "", "mounting the private /etc (overlayfs is needed)");
}

bool Under(const std::string& path, const std::string& folder) {
  return path == folder || path.compare(0, folder.size() + 1, folder + "/") == 0;
}

void SetLimit(int resource, rlim_t value) {
  rlimit limit{};
  getrlimit(static_cast<__rlimit_resource>(resource), &limit);
  limit.rlim_max = std::min(limit.rlim_max, value);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(static_cast<__rlimit_resource>(resource), &limit);
}

// A user namespace of his own would give a tenant mount rights inside it, enough to put something
// else over the private /etc/ld.so.preload, and the kernel code behind all capabilities to attack.
// Kernel keyrings belong to no namespace. clone3 takes its flags from memory, where no filter can
// look: it is said not to exist, and C libraries then use clone.
bool ForbidNewUserNamespaces() {
#if defined(__x86_64__)
  constexpr std::uint32_t kMachine = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
  constexpr std::uint32_t kMachine = AUDIT_ARCH_AARCH64;
#else
#error "the seccomp filter knows x86_64 and aarch64"
#endif
  constexpr std::uint32_t kDenied = SECCOMP_RET_ERRNO | EPERM;
  constexpr std::uint32_t kMissing = SECCOMP_RET_ERRNO | ENOSYS;
  constexpr std::uint32_t kX32Bit =
      0x40000000;  // the x32 calls of x86_64 have their own numbers above this
  const auto load = [](std::size_t offset) {
    return sock_filter BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<std::uint32_t>(offset));
  };
  const auto answer = [](std::uint32_t value) {
    return sock_filter BPF_STMT(BPF_RET | BPF_K, value);
  };
  const auto skip_unless = [](std::uint32_t value, std::uint8_t count) {
    return sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, count);
  };
  std::vector<sock_filter> filter = {
      load(offsetof(seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kMachine, 1, 0),
      answer(kMissing),
      load(offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, kX32Bit, 0, 1),
      answer(kMissing),
  };
  for (const int number : {SYS_add_key, SYS_request_key, SYS_keyctl}) {
    filter.push_back(skip_unless(static_cast<std::uint32_t>(number), 1));
    filter.push_back(answer(kDenied));
  }
  filter.push_back(skip_unless(SYS_clone3, 1));
  filter.push_back(answer(kMissing));
  for (const int number : {SYS_clone, SYS_unshare}) {
    // Both machines are little-endian: the low half of the first argument comes first.
    filter.push_back(skip_unless(static_cast<std::uint32_t>(number), 4));
    filter.push_back(load(offsetof(seccomp_data, args)));
    filter.push_back(BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, CLONE_NEWUSER, 0, 1));
    filter.push_back(answer(kDenied));
    filter.push_back(answer(SECCOMP_RET_ALLOW));
  }
  filter.push_back(answer(SECCOMP_RET_ALLOW));
  const sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
  return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0;
}

}  // namespace

bool BuildRoot(const ContainerPlan& plan, Failure* failure) {
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    return Fail(failure, "", "making mounts private");
  }
  const int score = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (score >= 0) {
    [[maybe_unused]] const ssize_t n =
        write(score, kOutOfMemoryScore, sizeof kOutOfMemoryScore - 1);
    close(score);
  }
  const std::string name = plan.id.substr(0, 63);
  if (sethostname(name.c_str(), name.size()) != 0)
    return Fail(failure, "", "setting the host name");

  // Opened here and not inherited: a descriptor from before belongs to the outer mount namespace.
  const int folder = open(plan.folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
  if (folder < 0) return Fail(failure, "", "opening the instance's folder");
  Sources sources;
  if (!CollectSources(plan, folder, &sources, failure) || !MountRoot(plan, folder, failure) ||
      !EnterRoot(folder, failure)) {
    return false;
  }
  // The workload's own folder first, so that it can never cover what follows, unless it lies below
  // a private folder.
  const bool late = Under(plan.directory, "/tmp") || Under(plan.directory, "/var/tmp");
  const auto place_directory = [&] {
    return (MakeTarget(plan.directory, true) && PlaceTree(sources.directory, plan.directory)) ||
           Fail(failure, "workload.directory", "placing " + plan.directory);
  };
  if (sources.directory >= 0 && !late && !place_directory()) return false;
  if (!Mount("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "")) {
    return Fail(failure, "", "mounting /proc");
  }
  if (sources.sys >= 0 && (!MakeFolders("/sys") || !PlaceTree(sources.sys, "/sys"))) {
    return Fail(failure, "", "placing /sys");
  }
  if (!MountDevices(&sources, failure)) return false;
  if (!MakeFolders("/tmp") || !PlaceTree(sources.tmp, "/tmp"))
    return Fail(failure, "", "placing /tmp");
  if (!MakeFolders("/var/tmp") || !PlaceTree(sources.var_tmp, "/var/tmp")) {
    return Fail(failure, "", "placing /var/tmp");
  }
  if (!MountRun(&sources, failure) || !WritePreload(plan, failure)) return false;
  for (Source& source : sources.mounts) {
    if (!MakeTarget(source.target, source.folder) || !PlaceTree(source.tree, source.target)) {
      return Fail(failure, source.field,
                  "placing it at " + source.target +
                      " (expected a place that exists or lies under /run, "
                      "/dev or /tmp)");
    }
  }
  if (sources.directory >= 0 && late && !place_directory()) return false;
  return true;
}

bool DropPrivileges(const ContainerPlan& plan, std::string* why) {
  const auto fail = [&](const char* what) {
    *why = std::string(what) + ": " + std::strerror(errno);
    return false;
  };
  SetLimit(RLIMIT_NOFILE, kOpenFilesMax);
  SetLimit(RLIMIT_CORE, 0);
  umask(022);
  if (!plan.contained) return true;
  SetLimit(RLIMIT_NPROC, plan.tasks_max);
  for (int capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; ++capability) {
    if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0) return fail("dropping a capability");
  }
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0)
    return fail("clearing capabilities");
  if (setgroups(0, nullptr) != 0) return fail("setgroups");
  if (setresgid(plan.uid, plan.uid, plan.uid) != 0) return fail("setresgid");
  if (setresuid(plan.uid, plan.uid, plan.uid) != 0) return fail("setresuid");
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2] = {};
  if (syscall(SYS_capset, &header, none) != 0) return fail("capset");
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return fail("no_new_privs");
  if (getuid() != plan.uid || geteuid() != plan.uid || setuid(0) == 0) {
    errno = EPERM;
    return fail("giving up root");
  }
  if (!ForbidNewUserNamespaces()) return fail("seccomp");
  return true;
}

void ResetSignals() {
  for (int number = 1; number < NSIG; ++number) signal(number, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

int ShellStatus(int wait_status) {
  if (WIFSIGNALED(wait_status)) return 128 + WTERMSIG(wait_status);
  return WEXITSTATUS(wait_status);
}

void ExecProgram(const ContainerPlan& plan, const std::vector<std::string>& argv) {
  std::string why;
  if (!DropPrivileges(plan, &why)) {
    dprintf(2, "tessera: cannot give up privileges: %s\n", why.c_str());
    _exit(125);
  }
  ResetSignals();
  if (chdir(plan.directory.c_str()) != 0) {
    dprintf(2, "tessera: cannot enter the folder %s: %s\n", plan.directory.c_str(),
            std::strerror(errno));
    _exit(126);
  }
  std::vector<char*> arguments;
  for (const std::string& argument : argv) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  std::vector<char*> variables;
  for (const std::string& variable : plan.environment) {
    variables.push_back(const_cast<char*>(variable.c_str()));
  }
  variables.push_back(nullptr);
  environ = variables.data();
  // Descriptors the kernel closes at exec; until then the error message below still has its own.
  close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
  execvp(arguments[0], arguments.data());
  const int cause = errno;
  dprintf(2, "tessera: cannot run %s: %s\n", arguments[0], std::strerror(cause));
  _exit(cause == ENOENT || cause == ENOTDIR ? 127 : 126);
}

}  // namespace tessera::runtime
