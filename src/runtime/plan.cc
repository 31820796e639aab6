#include "runtime/plan.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cctype>
#include <map>
#include <set>
#include <string_view>

#include "base/units.h"
#include "os/fd.h"
#include "os/files.h"

namespace tessera::runtime {
namespace {

constexpr char kDefaultPath[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
constexpr char kSocketVariable[] =
    "TESSERA_SOCKET";                        // read by the guest library outside containers
constexpr std::uint32_t kCpuMillisMin = 10;  // the kernel's least quota
constexpr std::uint32_t kCpuMillisMax = 10'000'000;
constexpr std::uint64_t kRamBytesMin = 4 * kMiB;
constexpr std::uint64_t kRamBytesMax = 1ull << 50;
// Private inside an instance; a working directory may not uncover the machine's own.
constexpr std::string_view kPrivateFolders[] = {"/proc", "/sys", "/dev", "/run", "/etc"};

bool HasNul(std::string_view text) { return text.find('\0') != std::string_view::npos; }

bool Under(std::string_view path, std::string_view folder) {
  return path.substr(0, folder.size()) == folder &&
         (path.size() == folder.size() || path[folder.size()] == '/');
}

Status CheckPath(const std::string& path, const std::string& field) {
  if (path.empty() || path[0] != '/') return Error::Field(field, "expected an absolute path");
  if (HasNul(path)) return Error::Field(field, "expected a path without NUL bytes");
  if (path.size() > kPathMax) {
    return Error::Field(field, "expected at most " + std::to_string(kPathMax) + " bytes");
  }
  return {};
}

// No ".", ".." or empty component: what is refused below cannot be spelled another way.
bool IsPlain(std::string_view path) {
  while (!path.empty()) {
    path.remove_prefix(1);
    const std::string_view part = path.substr(0, path.find('/'));
    if (part.empty() || part == "." || part == "..") return false;
    path.remove_prefix(part.size());
  }
  return true;
}

Status CheckEnvironment(const std::vector<std::string>& variables, const std::string& field,
                        bool tenant) {
  if (variables.size() > kEnvironmentMax) {
    return Error::Field(field, "expected at most " + std::to_string(kEnvironmentMax) +
                                   " variables, got " + std::to_string(variables.size()));
  }
  std::size_t bytes = 0;
  std::set<std::string_view> seen;
  for (std::size_t i = 0; i < variables.size(); ++i) {
    const std::string& variable = variables[i];
    const std::string at = field + "[" + std::to_string(i) + "]";
    bytes += variable.size() + 1;
    if (HasNul(variable)) return Error::Field(at, "expected no NUL bytes");
    const std::string_view name = std::string_view(variable).substr(0, variable.find('='));
    bool valid = !name.empty() && name.size() != variable.size() &&
                 !std::isdigit(static_cast<unsigned char>(name[0]));
    for (const char c : name)
      valid = valid && (std::isalnum(static_cast<unsigned char>(c)) || c == '_');
    if (!valid) return Error::Field(at, "expected NAME=value with a name of letters, digits and _");
    if (tenant && (name.starts_with("TESSERA_") || name == "LD_PRELOAD" || name == "LD_AUDIT")) {
      return Error::Field(
          at, std::string(name) + " belongs to the node and cannot be set by a workload");
    }
    if (!seen.insert(name).second) return Error::Field(at, std::string(name) + " is given twice");
  }
  if (bytes > kEnvironmentBytesMax) {
    return Error::Field(
        field, "expected at most " + std::to_string(kEnvironmentBytesMax) + " bytes in all");
  }
  return {};
}

Status CheckFolder(const std::string& path, const std::string& field) {
  struct stat info{};
  if (stat(path.c_str(), &info) != 0) return Error::Field(field, path + " does not exist");
  if (!S_ISDIR(info.st_mode)) return Error::Field(field, path + " is not a folder");
  return {};
}

// A folder named inside a root file system, symbolic links taken as that root sees them.
bool FolderExistsInside(const std::string& rootfs, const std::string& directory) {
  const os::Fd root(open(rootfs.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  open_how how{};
  how.flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT;
  const os::Fd found(
      static_cast<int>(syscall(SYS_openat2, root.get(), directory.c_str(), &how, sizeof how)));
  return static_cast<bool>(found);
}

std::string RealPath(const std::string& path) {
  char* resolved = realpath(path.c_str(), nullptr);
  if (resolved == nullptr) return path;
  std::string result(resolved);
  free(resolved);
  return result;
}

Status CheckDirectory(const Workload& workload, bool contained) {
  if (workload.directory.empty()) return {};
  const std::string field = "workload.directory";
  TRY_STATUS(CheckPath(workload.directory, field));
  if (!workload.rootfs.empty()) {
    if (!FolderExistsInside(workload.rootfs, workload.directory)) {
      return Error::Field(field, workload.directory + " is not a folder inside the rootfs");
    }
    return {};
  }
  TRY_STATUS(CheckFolder(workload.directory, field));
  if (!contained) return {};
  const std::string real = RealPath(workload.directory);
  for (const std::string_view folder : kPrivateFolders) {
    if (Under(real, folder)) {
      return Error::Field(field, "expected a folder outside " + std::string(folder) +
                                     ", which is the instance's own");
    }
  }
  return {};
}

}  // namespace

Status CheckInstanceId(const std::string& id) {
  bool valid = !id.empty() && id.size() <= kInstanceIdMax && id[0] != '.' && id[0] != '-';
  for (const char c : id) {
    valid =
        valid && (std::isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-');
  }
  if (valid) return {};
  return Error::Field("id", "expected 1 to " + std::to_string(kInstanceIdMax) +
                                " characters of a-z A-Z 0-9 . _ -, not starting with . or -");
}

Status CheckArgv(const std::vector<std::string>& argv, const std::string& field) {
  if (argv.empty()) return Error::Field(field, "expected a program and its arguments, got none");
  if (argv[0].empty()) return Error::Field(field + "[0]", "expected a program's name or path");
  if (argv.size() > kArgvMax) {
    return Error::Field(field, "expected at most " + std::to_string(kArgvMax) + " entries, got " +
                                   std::to_string(argv.size()));
  }
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < argv.size(); ++i) {
    if (HasNul(argv[i]))
      return Error::Field(field + "[" + std::to_string(i) + "]", "expected no NUL bytes");
    bytes += argv[i].size() + 1;
  }
  if (bytes > kArgvBytesMax) {
    return Error::Field(field, "expected at most " + std::to_string(kArgvBytesMax) +
                                   " bytes in all, got " + std::to_string(bytes));
  }
  return {};
}

Status CheckSpec(const Spec& spec, bool contained) {
  TRY_STATUS(CheckInstanceId(spec.id));
  const Workload& workload = spec.workload;
  TRY_STATUS(CheckArgv(workload.argv, "workload.argv"));
  TRY_STATUS(CheckEnvironment(workload.environment, "workload.environment", true));
  TRY_STATUS(CheckEnvironment(spec.environment, "environment", false));
  if (!workload.rootfs.empty()) {
    if (!contained) {
      return Error::Field("workload.rootfs",
                          "expected none: a root folder of its own needs a contained instance");
    }
    TRY_STATUS(CheckPath(workload.rootfs, "workload.rootfs"));
    TRY_STATUS(CheckFolder(workload.rootfs, "workload.rootfs"));
  }
  TRY_STATUS(CheckDirectory(workload, contained));
  if (workload.cpu_millis != 0 &&
      (workload.cpu_millis < kCpuMillisMin || workload.cpu_millis > kCpuMillisMax)) {
    return Error::Field("workload.cpu_millis", "expected 0 (no limit) or " +
                                                   std::to_string(kCpuMillisMin) + " to " +
                                                   std::to_string(kCpuMillisMax));
  }
  if (workload.ram_bytes != 0 &&
      (workload.ram_bytes < kRamBytesMin || workload.ram_bytes > kRamBytesMax)) {
    return Error::Field("workload.ram_bytes", "expected 0 (no limit) or " +
                                                  FormatBytes(kRamBytesMin) + " to " +
                                                  FormatBytes(kRamBytesMax));
  }
  if (spec.binds.size() > kBindsMax) {
    return Error::Field("binds", "expected at most " + std::to_string(kBindsMax));
  }
  for (std::size_t i = 0; i < spec.binds.size(); ++i) {
    const Bind& bind = spec.binds[i];
    const std::string at = "binds[" + std::to_string(i) + "]";
    TRY_STATUS(CheckPath(bind.source, at + ".source"));
    struct stat info{};
    if (!bind.optional && stat(bind.source.c_str(), &info) != 0) {
      return Error::Field(at + ".source", bind.source + " does not exist");
    }
    const std::string& target = bind.target.empty() ? bind.source : bind.target;
    TRY_STATUS(CheckPath(target, at + ".target"));
    if (!IsPlain(target))
      return Error::Field(at + ".target", "expected a path without . and .. parts");
  }
  return {};
}

Status CheckOptions(const Options& options) {
  TRY_STATUS(CheckPath(options.folder, "folder"));
  TRY_STATUS(CheckPath(options.guest_folder, "guest_folder"));
  TRY_STATUS(CheckFolder(options.guest_folder, "guest_folder"));
  if (!options.guest_library.empty()) {
    TRY_STATUS(CheckPath(options.guest_library, "guest_library"));
    struct stat info{};
    if (stat(options.guest_library.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) {
      return Error::Field("guest_library", options.guest_library + " is not a file");
    }
    // The loader splits LD_PRELOAD and ld.so.preload at these.
    if (options.guest_library.find_first_of(" :\n\t") != std::string::npos) {
      return Error::Field("guest_library", "expected a path without spaces and colons");
    }
  }
  if (!CheckInstanceId(options.cgroup_parent)) {
    return Error::Field("cgroup_parent",
                        "expected one name of a-z A-Z 0-9 . _ -, not starting with . or -");
  }
  if (options.uid_first == 0) return Error::Field("uid_first", "expected a uid above 0");
  if (options.uid_count == 0) return Error::Field("uid_count", "expected at least 1");
  if (options.instances_max == 0) return Error::Field("instances_max", "expected at least 1");
  if (options.tasks_max < 16) return Error::Field("tasks_max", "expected at least 16");
  if (options.log_bytes_max < 8 * kKiB || options.log_bytes_max > kGiB) {
    return Error::Field("log_bytes_max", "expected 8 KiB to 1 GiB");
  }
  return {};
}

std::vector<std::string> MakeEnvironment(const Options& options, const Spec& spec,
                                         const PlanContext& context) {
  std::map<std::string, std::string> values;
  std::string node_libraries, workload_libraries;
  const auto put = [&](const std::string& variable, std::string* libraries) {
    const std::size_t equals = variable.find('=');
    const std::string name = variable.substr(0, equals);
    if (name == "LD_LIBRARY_PATH" && libraries != nullptr) *libraries = variable.substr(equals + 1);
    values[name] = variable.substr(equals + 1);
  };
  put(kDefaultPath, nullptr);
  put("LANG=C.UTF-8", nullptr);
  put("HOME=" + (context.contained ? std::string(kInsideHome) : context.folder + "/home"), nullptr);
  for (const std::string& variable : spec.workload.environment) put(variable, &workload_libraries);
  for (const std::string& variable : spec.environment) put(variable, &node_libraries);
  if (!node_libraries.empty() && !workload_libraries.empty()) {
    values["LD_LIBRARY_PATH"] = node_libraries + ":" + workload_libraries;
  }
  put("TESSERA_INSTANCE=" + spec.id, nullptr);
  if (!context.contained) {
    if (!options.guest_library.empty()) put("LD_PRELOAD=" + options.guest_library, nullptr);
    put(std::string(kSocketVariable) + "=" + options.guest_folder + "/guest.sock", nullptr);
    put(std::string(kRunTokenVariable) + "=" + context.run_token, nullptr);
  }
  std::vector<std::string> environment;
  for (const auto& [name, value] : values) environment.push_back(name + "=" + value);
  return environment;
}

Record MakePlan(const Options& options, const Spec& spec, const PlanContext& context) {
  Record plan;
  plan.Add("id", spec.id);
  plan.AddInt("generation", static_cast<std::int64_t>(spec.generation));
  plan.AddInt("contained", context.contained ? 1 : 0);
  plan.Add("why_not_contained", context.why_not_contained);
  plan.AddInt("uid", context.uid);
  plan.AddInt("tasks_max", options.tasks_max);
  plan.AddInt("log_bytes_max", static_cast<std::int64_t>(options.log_bytes_max));
  plan.Add("run_token", context.run_token);
  for (const std::string& argument : spec.workload.argv) plan.Add("argv", argument);
  for (const std::string& variable : MakeEnvironment(options, spec, context))
    plan.Add("environment", variable);
  for (const std::string& sentence : context.unenforced) plan.Add("unenforced", sentence);
  std::string directory = spec.workload.directory;
  if (directory.empty()) {
    directory = context.contained ? std::string(kInsideHome) : context.folder + "/home";
  } else if (spec.workload.rootfs.empty()) {
    directory = RealPath(directory);
  }
  plan.Add("directory", directory);
  if (!context.contained) return plan;

  // The machine's root is there already, and the private folders have nothing of it to uncover.
  const bool bind = !spec.workload.directory.empty() && spec.workload.rootfs.empty() &&
                    directory != "/" && directory != "/tmp" && directory != "/var/tmp";
  plan.AddInt("bind_directory", bind ? 1 : 0);
  plan.Add("folder", context.folder);
  plan.Add("rootfs", spec.workload.rootfs);
  plan.Add("guest_folder", options.guest_folder);
  plan.Add("guest_library", options.guest_library);
  if (!options.guest_library.empty()) {
    std::string preload = std::string(kInsideLibrary) + "\n";
    if (spec.workload.rootfs.empty()) {
      preload += os::PosixFiles().Read("/etc/ld.so.preload").value_or("");
    }
    plan.Add("preload", preload);
  }
  for (const Bind& bind_mount : spec.binds) {
    plan.Add("bind_source", bind_mount.source);
    plan.Add("bind_target", bind_mount.target.empty() ? bind_mount.source : bind_mount.target);
    plan.Add("bind_mode",
             std::string(bind_mount.writable ? "w" : "r") + (bind_mount.optional ? "o" : ""));
  }
  plan.Add("cgroup_path", context.leaf.path);
  plan.Add("cgroup_leaf", context.leaf.unified);
  for (const std::string& folder : context.leaf.folders) plan.Add("cgroup_folder", folder);
  for (const std::string& procs : context.leaf.procs) plan.Add("cgroup_procs", procs);
  for (const std::string& file : context.leaf.memory_events) plan.Add("memory_events", file);
  plan.Add("supervisors_procs", context.supervisors_procs);
  return plan;
}

}  // namespace tessera::runtime
