// tesserad: the node's daemon. One a run folder; SIGTERM stops it cleanly and leaves slices and
// instances to the next.
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <optional>
#include <string>

#include "apps/paths.h"
#include "base/log.h"
#include "http/server.h"
#include "metrics/registry.h"
#include "node/api.h"
#include "node/node.h"
#include "os/error.h"
#include "vendors/vendor.h"

namespace tessera::apps {
namespace {

constexpr unsigned kHttpWorkers = 16;  // a stop blocks its worker for the grace
constexpr std::uint64_t kBodyBytesMax = 4 << 20;

constexpr char kUsage[] =
    "usage: tesserad [options]\n"
    "  --run-dir DIR         sockets and shared pages (default /run/tessera, or the user's run "
    "folder)\n"
    "  --state-dir DIR       records that survive a reboot (default /var/lib/tessera/node, or the "
    "user's data folder)\n"
    "  --guest-library FILE  libtessera.so for instances (default: beside this program or in "
    "../lib)\n"
    "  --nvml FILE           NVIDIA's management library (default libnvidia-ml.so.1)\n"
    "  --name NAME           this node's name (default: the host name)\n"
    "  --rack RACK           where this machine stands; gangs are kept within one rack where that "
    "works\n"
    "  --log json|text       form of the log on stderr (default: text on a terminal, else json)\n"
    "  --no-containment      run instances as plain process trees, even as root\n"
    "  --stop-grace SECONDS  between asking an instance to end and killing it (0 to 600, default "
    "10)\n"
    "  --audit ACTION        what to do about a process of a slice that is on a card without "
    "asking, "
    "or holds more\n"
    "                        than its ledger says: report, freeze or evict (default freeze)\n"
    "  --audit-strangers ACTION  the same for processes of no slice (default report)\n"
    "  --audit-turns ACTION  the same for a slice that uses more of a card's time than its turns "
    "gave (default report)\n"
    "  --audit-grace SECONDS  from freezing to evicting (0 to 86400, default 30)\n"
    "  --cdi-dir DIR         writes a CDI spec for every slice there (usually /var/run/cdi; "
    "default: "
    "none)\n"
    "  --wall-library FILE   libcuda.so.1 of Tessera for those (default: wall/ beside the guest "
    "library)\n"
    "  --mps-control FILE    the driver's nvidia-cuda-mps-control, for slices in spatial "
    "isolation\n"
    "                        (default: from PATH; on simulated cards, beside their libraries)\n"
    "  --help\n";

struct Flags {
  std::string run_dir = DefaultRunDir();
  std::string state_dir = DefaultDataDir() + "/node";
  std::string guest_library = FindGuestLibrary();
  std::string nvml = "libnvidia-ml.so.1";
  std::string name;
  std::string rack;
  LogFormat log = isatty(2) != 0 ? LogFormat::kText : LogFormat::kJson;
  bool contain = true;
  int stop_grace_seconds = 10;
  node::AuditPolicy audit;
  std::string cdi_dir;
  std::string wall_library;
  std::string mps_control;
};

Result<std::string> Absolute(const std::string& path, const std::string& flag) {
  if (path.empty()) return Error::Field(flag, "expected a path");
  if (path.front() == '/') return path;
  char folder[PATH_MAX];
  if (getcwd(folder, sizeof folder) == nullptr) return os::ErrnoError("getcwd", flag, errno);
  return std::string(folder) + "/" + path;
}

Result<Flags> ParseFlags(int argc, char** argv) {
  Flags flags;
  for (int i = 1; i < argc; ++i) {
    std::string flag = argv[i];
    std::optional<std::string> given;
    if (const auto equals = flag.find('='); flag.starts_with("--") && equals != std::string::npos) {
      given = flag.substr(equals + 1);
      flag.resize(equals);
    }
    if (flag == "--no-containment" && !given) {
      flags.contain = false;
      continue;
    }
    std::string* text = nullptr;
    if (flag == "--run-dir") text = &flags.run_dir;
    if (flag == "--state-dir") text = &flags.state_dir;
    if (flag == "--guest-library") text = &flags.guest_library;
    if (flag == "--nvml") text = &flags.nvml;
    if (flag == "--name") text = &flags.name;
    if (flag == "--rack") text = &flags.rack;
    if (flag == "--cdi-dir") text = &flags.cdi_dir;
    if (flag == "--wall-library") text = &flags.wall_library;
    if (flag == "--mps-control") text = &flags.mps_control;
    if (text == nullptr && flag != "--log" && flag != "--stop-grace" &&
        !flag.starts_with("--audit")) {
      return Error::Field(flag, "is no option of tesserad; see --help");
    }
    if (!given) {
      if (i + 1 >= argc) return Error::Field(flag, "expected a value");
      given = argv[++i];
    }
    if (text != nullptr) {
      *text = *given;
    } else if (flag == "--log") {
      if (*given != "json" && *given != "text") return Error::Field(flag, "expected json or text");
      flags.log = *given == "json" ? LogFormat::kJson : LogFormat::kText;
    } else if (flag == "--audit") {
      TRY(flags.audit.members, node::ParseAuditAction(*given, flag));
    } else if (flag == "--audit-strangers") {
      TRY(flags.audit.strangers, node::ParseAuditAction(*given, flag));
    } else if (flag == "--audit-turns") {
      TRY(flags.audit.turns, node::ParseAuditAction(*given, flag));
    } else if (flag == "--audit-grace") {
      TRY(const auto seconds, ParseInt(*given, flag, 0, 86'400));
      flags.audit.grace_nanos = seconds * 1'000'000'000;
    } else if (flag != "--stop-grace") {
      return Error::Field(flag, "is no option of tesserad; see --help");
    } else {
      TRY(const auto seconds, ParseInt(*given, flag, 0, 600));
      flags.stop_grace_seconds = static_cast<int>(seconds);
    }
  }
  TRY(flags.run_dir, Absolute(flags.run_dir, "--run-dir"));
  TRY(flags.state_dir, Absolute(flags.state_dir, "--state-dir"));
  if (!flags.guest_library.empty()) {
    TRY(flags.guest_library, Absolute(flags.guest_library, "--guest-library"));
    if (access(flags.guest_library.c_str(), R_OK) != 0) {
      return os::ErrnoError("--guest-library", flags.guest_library, errno);
    }
  }
  if (!flags.cdi_dir.empty()) {
    TRY(flags.cdi_dir, Absolute(flags.cdi_dir, "--cdi-dir"));
    if (flags.wall_library.empty()) {
      flags.wall_library =
          flags.guest_library.substr(0, flags.guest_library.rfind('/') + 1) + "wall/libcuda.so.1";
    }
    TRY(flags.wall_library, Absolute(flags.wall_library, "--wall-library"));
    if (access(flags.wall_library.c_str(), R_OK) != 0) {
      return os::ErrnoError("--wall-library", flags.wall_library, errno);
    }
  }
  if (!flags.mps_control.empty()) {
    TRY(flags.mps_control, Absolute(flags.mps_control, "--mps-control"));
    if (access(flags.mps_control.c_str(), X_OK) != 0) {
      return os::ErrnoError("--mps-control", flags.mps_control, errno);
    }
  }
  TRY_STATUS(node::CheckRack(flags.rack, "--rack"));
  if (flags.name.empty()) {
    char name[HOST_NAME_MAX + 1] = "node";
    gethostname(name, sizeof name - 1);
    flags.name = name;
  }
  return flags;
}

// Held for as long as the process lives; the kernel lets go of it however it ends.
Result<os::Fd> LockRunDir(const std::string& run_dir) {
  const std::string path = run_dir + "/tesserad.lock";
  os::Fd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd) return os::ErrnoError("open", path, errno);
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK)
      return Error(Code::kAlreadyExists, "another tesserad serves " + run_dir);
    return os::ErrnoError("flock", path, errno);
  }
  return fd;
}

// Where the loaded management library lies: on simulated cards the driver library lies beside it.
std::string FolderOfLoaded(const std::string& name) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    const auto slash = line.find('/');
    const auto last = line.rfind('/');
    if (slash == std::string::npos || line.compare(last + 1, name.size(), name) != 0) continue;
    char resolved[PATH_MAX];
    const std::string folder = line.substr(slash, last - slash);
    return realpath(folder.c_str(), resolved) != nullptr ? resolved : folder;
  }
  return "";
}

// Two nodes on one machine (tests, a second run folder) must not meet in one cgroup.
std::string CgroupParent(const std::string& run_dir) {
  if (run_dir == "/run/tessera") return "tessera";
  std::uint64_t hash = 0xcbf29ce484222325ull;  // FNV-1a
  for (const char c : run_dir) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  char name[32];
  std::snprintf(name, sizeof name, "tessera-%016llx", static_cast<unsigned long long>(hash));
  return name;
}

// What an instance must see to use the cards: device nodes of real ones, state folder and libraries
// of simulated ones.
void AddCardAccess(bool simulated, node::Node::Options* options) {
  if (!simulated) {
    std::vector<std::string> nodes = {"/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"};
    for (int i = 0; i < 16; ++i) nodes.push_back("/dev/nvidia" + std::to_string(i));
    for (const std::string& path : nodes) {
      options->instance_binds.push_back(
          {.source = path, .target = "", .writable = true, .optional = true});
    }
    return;
  }
  const char* const state = std::getenv("SIMGPU_STATE");
  const std::string folder = state != nullptr && *state != '\0' ? state : "/dev/shm/simgpu";
  options->instance_binds.push_back(
      {.source = folder, .target = "", .writable = true, .optional = true});
  options->instance_environment.push_back("SIMGPU_STATE=" + folder);
  for (const char* name : {"SIMGPU_CARDS", "SIMGPU_MACHINE", "SIMGPU_PROFILES", "SIMGPU_QUIET"}) {
    if (const char* const value = std::getenv(name)) {
      options->instance_environment.push_back(std::string(name) + "=" + value);
    }
  }
  if (const char* const profiles = std::getenv("SIMGPU_PROFILES");
      profiles != nullptr && *profiles == '/') {
    options->instance_binds.push_back(
        {.source = profiles, .target = "", .writable = false, .optional = true});
  }
  if (const std::string libraries = FolderOfLoaded("libnvidia-ml.so"); !libraries.empty()) {
    // An instance's own uid may not be able to walk to where they lie (a checkout in somebody's
    // home), so a contained one finds them at a path of its own; one that is not contained has only
    // the machine's.
    constexpr char kInsideDriver[] = "/run/tessera-driver";
    options->instance_binds.push_back(
        {.source = libraries, .target = kInsideDriver, .writable = false, .optional = true});
    options->instance_environment.push_back(std::string("LD_LIBRARY_PATH=") + kInsideDriver + ":" +
                                            libraries);
  }
}

// The maker's own libraries and device nodes, for CDI specs.
Result<node::CdiOptions> FindCdi(const Flags& flags, bool simulated,
                                 const node::Node::Options& node) {
  node::CdiOptions cdi;
  if (flags.cdi_dir.empty()) return cdi;
  const std::string libraries = FolderOfLoaded("libnvidia-ml.so");
  cdi.folder = flags.cdi_dir;
  cdi.wall_library = flags.wall_library;
  cdi.cuda = libraries + "/libcuda.so.1";
  cdi.nvml = libraries + "/libnvidia-ml.so.1";
  for (const std::string& path : {cdi.cuda, cdi.nvml}) {
    if (access(path.c_str(), R_OK) != 0) {
      return Error::Field("--cdi-dir", "needs the driver's own " + path);
    }
  }
  if (simulated) {
    const char* const state = std::getenv("SIMGPU_STATE");
    const std::string folder = state != nullptr && *state != '\0' ? state : "/dev/shm/simgpu";
    cdi.mounts.push_back({.source = folder, .target = "", .writable = true, .optional = false});
    for (const std::string& variable : node.instance_environment) {
      if (variable.starts_with("SIMGPU_")) cdi.environment.push_back(variable);
    }
    return cdi;
  }
  for (const char* path : {"/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"}) {
    if (access(path, F_OK) == 0) cdi.device_nodes.push_back(path);
  }
  // The kernel module says which node is which card's.
  constexpr char kCards[] = "/proc/driver/nvidia/gpus";
  if (const auto cards = os::PosixFiles().List(kCards)) {
    for (const std::string& card : *cards) {
      const auto text =
          os::PosixFiles().Read(std::string(kCards) + "/" + card + "/information").value_or("");
      const auto field = [&](const std::string& name) {
        const auto at = text.find(name);
        if (at == std::string::npos) return std::string();
        const auto begin = text.find_first_not_of(" \t", at + name.size());
        return text.substr(begin, text.find('\n', begin) - begin);
      };
      const std::string uuid = field("GPU UUID:"), minor = field("Device Minor:");
      if (!uuid.empty() && !minor.empty()) cdi.node_of_card[uuid] = "/dev/nvidia" + minor;
    }
  }
  // What the driver opens by itself when it compiles or debugs.
  for (const char* name : {"libnvidia-ptxjitcompiler.so.1", "libnvidia-nvvm.so.4",
                           "libnvidia-nvvm70.so.4", "libnvidia-gpucomp.so.1"}) {
    const std::string path = libraries + "/" + name;
    if (access(path.c_str(), R_OK) != 0) continue;
    for (const char* inside : node::kInsideLibraries) {
      cdi.mounts.push_back({.source = path,
                            .target = std::string(inside) + "/" + name,
                            .writable = false,
                            .optional = false});
    }
  }
  return cdi;
}

Status Serve(const Flags& flags) {
  // Descriptors: four a slice, one or two a guest process. Threads start later and inherit the
  // mask.
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
  sigset_t stop;
  sigemptyset(&stop);
  sigaddset(&stop, SIGTERM);
  sigaddset(&stop, SIGINT);
  pthread_sigmask(SIG_BLOCK, &stop, nullptr);
  signal(SIGPIPE, SIG_IGN);
  umask(022);

  TRY_STATUS(os::PosixFiles().MakeDirs(flags.run_dir, 0755));
  TRY_STATUS(os::PosixFiles().MakeDirs(flags.run_dir + "/guest", 0755));
  TRY(const os::Fd lock, LockRunDir(flags.run_dir));

  std::vector<std::unique_ptr<vendors::Vendor>> found;
  vendors::NvmlOptions nvml;
  nvml.library = flags.nvml;
  auto nvidia = vendors::OpenNvml(nvml);
  if (nvidia) {
    found.push_back(*std::move(nvidia));
  } else if (nvidia.error().code() == Code::kUnavailable) {
    Log(LogLevel::kWarn, "vendor.none", {{"vendor", "nvidia"}, {"why", nvidia.error().message()}});
  } else {
    return nvidia.error();
  }

  node::Node::Options options;
  options.name = flags.name;
  options.rack = flags.rack;
  options.run_dir = flags.run_dir;
  options.state_dir = flags.state_dir;
  options.stop_grace_millis = flags.stop_grace_seconds * 1000;
  options.audit = flags.audit;
  bool simulated = false;
  for (const auto& vendor : found) {
    options.vendors.push_back(vendor.get());
    TRY(const auto cards, vendor->Discover());
    for (const device::Card& card : cards) simulated = simulated || card.simulated;
  }
  AddCardAccess(simulated, &options);
  TRY(options.cdi, FindCdi(flags, simulated, options));
  options.mps_control = flags.mps_control;
  if (simulated && options.mps_control.empty()) {
    options.mps_control = FolderOfLoaded("libnvidia-ml.so") + "/nvidia-cuda-mps-control";
  }

  TRY_STATUS(os::PosixFiles().MakeDirs(flags.state_dir, 0755));
  runtime::Options runtime;
  // Ended instances and their last heartbeat survive a reboot, so that the bill is right.
  runtime.folder = flags.state_dir + "/instances";
  runtime.guest_folder = flags.run_dir + "/guest";
  runtime.guest_library = flags.guest_library;
  runtime.contain = flags.contain;
  runtime.cgroup_parent = CgroupParent(flags.run_dir);
  TRY(const auto runner, node::MakeRuntimeRunner(runtime));
  options.runner = runner.get();
  if (geteuid() == 0 && flags.contain) {
    if (auto cgroups = runtime::Cgroups::Detect(runtime.cgroup_parent)) {
      options.cgroups = *std::move(cgroups);
    } else {
      Log(LogLevel::kWarn, "cgroups.none", {{"why", cgroups.error().ToString()}});
    }
  }
  if (!runner->contained()) {
    Log(LogLevel::kWarn, "node.not_contained", {{"why", runner->why_not_contained()}});
  }

  std::string cgroup_folder;
  if (options.cgroups) {
    cgroup_folder = options.cgroups->supervisors_procs();
    cgroup_folder.resize(cgroup_folder.rfind('/'));
  }

  TRY(const auto node, node::Node::Start(std::move(options)));
  metrics::Registry registry;
  node::ExportMetrics(*node, registry);
  http::Options http;
  http.unix_path = flags.run_dir + "/node.sock";
  http.unix_mode = geteuid() == 0 ? 0660 : 0600;
  http.workers = kHttpWorkers;
  http.body_bytes_max = kBodyBytesMax;
  TRY(const auto server,
      http::Server::Start(
          http, node::MakeRouter(*node, registry, {.guest_library = flags.guest_library})));
  Log(LogLevel::kInfo, "node.serving",
      {{"name", flags.name},
       {"socket", http.unix_path},
       {"state", flags.state_dir},
       {"cards", node->Cards().size()},
       {"simulated", simulated},
       {"contained", runner->contained()},
       {"guest_library", flags.guest_library}});
  int number = 0;
  sigwait(&stop, &number);
  Log(LogLevel::kInfo, "node.stopping", {{"signal", number}});
  if (!cgroup_folder.empty()) {
    // Only empty ones go: while an instance or member lives the kernel refuses.
    rmdir(cgroup_folder.c_str());
    rmdir(cgroup_folder.substr(0, cgroup_folder.rfind('/')).c_str());
  }
  return {};
}

int Main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--help") == 0) {
      std::fputs(kUsage, stdout);
      return 0;
    }
  }
  const auto flags = ParseFlags(argc, argv);
  if (!flags) {
    std::fprintf(stderr, "tesserad: %s\n", flags.error().ToString().c_str());
    return 2;
  }
  SetLog(2, flags->log, LogLevel::kInfo);
  if (const auto served = Serve(*flags); !served) {
    Log(LogLevel::kError, "node.failed", {{"error", served.error().ToString()}});
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace tessera::apps

int main(int argc, char** argv) { return tessera::apps::Main(argc, argv); }
