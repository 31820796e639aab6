// The CDI spec of a slice: its text, when it is there, and what a container laid out by it holds.
#include "node/cdi.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "http/json.h"
#include "node/test_node.h"
#include "node/test_simulated_node.h"
#ifdef TESSERA_WALL_LIBRARY
#include "guest/test_tenant.h"
#endif

namespace tessera::node {
namespace {

CdiOptions Example() {
  CdiOptions options;
  options.folder = "/var/run/cdi";
  options.wall_library = "/usr/lib/tessera/wall/libcuda.so.1";
  options.cuda = "/usr/lib/x86_64-linux-gnu/libcuda.so.1";
  options.nvml = "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1";
  options.device_nodes = {"/dev/nvidiactl", "/dev/nvidia-uvm"};
  options.node_of_card = {{"GPU-a", "/dev/nvidia0"}, {"GPU-b", "/dev/nvidia1"}};
  options.mounts = {{.source = "/opt/driver/libnvidia-ptxjitcompiler.so.1",
                     .target = "/usr/lib/x86_64-linux-gnu/libnvidia-ptxjitcompiler.so.1"}};
  return options;
}

TEST(CdiTest, TheSpecIsGolden) {
  const auto spec = CdiSpec(Example(), "/run/tessera/guest", "team-a.train",
                            {{"GPU-b", 4 * kGiB, Permille{500}}});
  ASSERT_TRUE(spec);
  const std::string golden = TESSERA_NODE_SOURCE "/cdi.golden.json";
  if (std::getenv("TESSERA_GOLDEN_WRITE") != nullptr) std::ofstream(golden) << *spec;
  std::stringstream expected;
  expected << std::ifstream(golden).rdbuf();
  EXPECT_EQ(*spec, expected.str()) << "./dev golden rewrites " << golden;
  EXPECT_EQ(spec->find("hook"), std::string::npos);
}

TEST(CdiTest, ANameCdiDoesNotTakeIsRefused) {
  const auto spec = CdiSpec(Example(), "/run/tessera/guest", "odd-", {});
  ASSERT_FALSE(spec);
  EXPECT_NE(spec.error().ToString().find("ends in a letter or digit"), std::string::npos);
}

TEST(CdiTest, FilesAreNamedForTheirSlice) {
  EXPECT_EQ(CdiPath(Example(), "s"), "/var/run/cdi/tessera-s.json");
  EXPECT_EQ(CdiSliceOf("tessera-s.json"), "s");
  EXPECT_EQ(CdiSliceOf("nvidia.yaml"), "");
  EXPECT_EQ(CdiSliceOf("tessera-.json"), "");
}

TEST(CdiTest, TheSpecComesAndGoesWithTheSlice) {
  TestNode t;
  t.cdi = Example();
  t.cdi.folder = t.folder + "/cdi";
  ASSERT_TRUE(t.Restart());
  ASSERT_TRUE(t.node->PutSlice("s", 1, {t.Share(0, kGiB)}));
  const std::string path = t.folder + "/cdi/tessera-s.json";
  EXPECT_TRUE(std::filesystem::exists(path));
  // A restart rewrites what there is, and removes what belongs to nobody; other people's files
  // stay.
  std::ofstream(path) << "old";
  std::ofstream(t.folder + "/cdi/tessera-gone.json") << "old";
  std::ofstream(t.folder + "/cdi/nvidia.yaml") << "theirs";
  ASSERT_TRUE(t.Restart());
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  EXPECT_NE(text.str().find("tessera.dev/slice"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(t.folder + "/cdi/tessera-gone.json"));
  EXPECT_TRUE(std::filesystem::exists(t.folder + "/cdi/nvidia.yaml"));
  ASSERT_TRUE(t.node->DeleteSlice("s"));
  EXPECT_FALSE(std::filesystem::exists(path));
}

#ifdef TESSERA_WALL_LIBRARY

constexpr unsigned kOutOfMemory = 2;

std::string Parent(const std::string& path) { return path.substr(0, path.rfind('/')); }

// Makes `root` a copy of the machine's tree that nothing outside sees, with the spec's mounts in
// it, and goes inside. Returns what failed, or null. Runs in a mount namespace of its own.
const char* LayOut(const std::string& spec, const std::string& scratch,
                   const std::vector<std::string>& shown) {
  if (unshare(CLONE_NEWNS) != 0) return "unshare";
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return "private mounts";
  const std::string layers = scratch + "/layers", root = layers + "/root";
  std::filesystem::create_directories(layers);
  if (mount("tmpfs", layers.c_str(), "tmpfs", 0, nullptr) != 0) return "tmpfs";
  for (const char* folder : {"/upper", "/work", "/root"})
    std::filesystem::create_directories(layers + folder);
  const std::string options =
      "lowerdir=/,upperdir=" + layers + "/upper,workdir=" + layers + "/work";
  if (mount("overlay", root.c_str(), "overlay", 0, options.c_str()) != 0) return "overlay";
  const auto bind = [&](const std::string& from, const std::string& to) {
    const std::string target = root + to;
    if (std::filesystem::is_directory(from)) {
      std::filesystem::create_directories(target);
    } else {
      std::filesystem::create_directories(Parent(target));
      std::ofstream(target, std::ios::app).flush();
    }
    return mount(from.c_str(), target.c_str(), nullptr, MS_BIND | MS_REC, nullptr) == 0;
  };
  for (const std::string& path : shown) {
    if (!bind(path, path)) return "a folder of the test";
  }
  const auto json = http::JsonValue::Parse(spec);
  if (!json) return "the spec's text";
  auto whole = json->Object();
  const auto devices = whole->Array("devices", 1);
  if (!devices || devices->size() != 1) return "the spec's devices";
  auto device = (*devices)[0].Object();
  auto edits = device->Object("containerEdits");
  const auto mounts = edits->Array("mounts", 100);
  if (!mounts) return "the spec's mounts";
  for (const auto& item : *mounts) {
    auto mounted = item.Object();
    const auto from = mounted->String("hostPath", 4096),
               to = mounted->String("containerPath", 4096);
    if (!from || !to || !bind(*from, *to)) return "a mount of the spec";
  }
  if (chroot(root.c_str()) != 0 || chdir("/") != 0) return "chroot";
  return nullptr;
}

class WallTest : public SimulatedNodeTest {
 protected:
  static void SetUpTestSuite() { OpenCard(TESSERA_SIMGPU_FOLDER, TESSERA_PROBE); }
  void SetUp() override {
    if (geteuid() != 0) {
      std::printf("NOT RUN: a mount namespace needs root\n");
      GTEST_SKIP();
    }
    CdiOptions cdi;
    cdi.folder = scratch_ / "cdi";
    cdi.wall_library = TESSERA_WALL_LIBRARY;
    cdi.cuda = TESSERA_SIMGPU_FOLDER "/libcuda.so.1";
    cdi.nvml = TESSERA_SIMGPU_FOLDER "/libnvidia-ml.so.1";
    cdi.mounts = {{.source = folder_ + "/g", .writable = true}};
    ASSERT_NO_FATAL_FAILURE(StartWithSlice(2 * kGiB, std::move(cdi)));
    std::stringstream text;
    text << std::ifstream(scratch_ / "cdi/tessera-s.json").rdbuf();
    spec_ = text.str();
  }
  // A program in a mount namespace laid out as the spec says, with nothing of ours in its
  // environment.
  std::unique_ptr<guest::TestTenant> Inside(const std::vector<std::string>& arguments) {
    std::vector<std::string> argv = {TESSERA_GUEST_TENANT};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    const std::string programs = Parent(TESSERA_GUEST_TENANT);
    const std::string scratch = scratch_.path();
    auto tenant = std::make_unique<guest::TestTenant>(argv, guest::TestTenant::Environment{}, [&] {
      unsetenv("LD_PRELOAD");
      unsetenv("LD_LIBRARY_PATH");
      if (const char* failure = LayOut(spec_, scratch, {programs, "/proc", "/dev"})) {
        std::fprintf(stderr, "layout: %s: %s\n", failure, std::strerror(errno));
        _exit(126);
      }
    });
    EXPECT_TRUE(node_->AddMember("s", tenant->pid()));
    return tenant;
  }
  std::string spec_;
};

TEST_F(WallTest, TheCapHoldsHoweverTheDriverIsOpened) {
  const std::string path = std::string(kInsideLibraries[0]) + "/libcuda.so.1";
  const std::vector<std::string> kWays[] = {
      {}, {"libcuda.so.1", "deepbind"}, {path}, {"libcuda.so.1", "namespace"}};
  for (const auto& way : kWays) {
    const std::string shown = way.empty() ? "by its soname" : way[0] + " " + way.back();
    auto tenant = Inside(way);
    ASSERT_EQ(tenant->Code("init"), 0u) << shown << tenant->Said();
    ASSERT_EQ(tenant->Code("retain"), 0u) << shown;
    const guest::TenantAnswer info = tenant->Do("info");
    EXPECT_EQ(info.b, 2 * kGiB) << shown;
    EXPECT_EQ(tenant->Code("alloc", 3 * kGiB), kOutOfMemory) << shown;
    EXPECT_EQ(tenant->Code("alloc", info.a), 0u) << shown;
    EXPECT_EQ(tenant->Code("alloc", 1), kOutOfMemory) << shown;
    if (way.empty() || way.back() != "namespace") {
      // Both names are one library, so management knows what CUDA took.
      EXPECT_EQ(tenant->Code("nvml"), 0u) << shown;
      EXPECT_EQ(tenant->Do("nvmlmemory").b, 2 * kGiB) << shown;
    }
    node_->RefreshTelemetry();
    node_->Audit();
    node_->Audit();
    EXPECT_EQ(node_->audit().frozen, 0u) << shown;
    EXPECT_EQ(tenant->Said(), "") << shown;
  }
}

// What `command` says, both streams together, and its status.
std::pair<int, std::string> Shell(const std::string& command) {
  std::string text;
  std::FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return {-1, ""};
  char buffer[512];
  while (std::fgets(buffer, sizeof(buffer), pipe) != nullptr) text += buffer;
  return {pclose(pipe), text};
}

// The same layout made by others: podman reads the spec from a folder of CDI, runc makes the
// container.
TEST_F(WallTest, ASliceIsADeviceOfPodmanWithRunc) {
  // podman in folders and a mount namespace of its own, with our spec where CDI looks for specs.
  // Limits are said because a container of this machine may not be allowed to raise its own.
  const std::string scratch = scratch_.path();
  const std::string inside =
      "mount --make-rprivate / && mount -t tmpfs none /run && mkdir -p /run/cdi && "
      "mount --bind " +
      scratch + "/cdi /run/cdi && mount -t tmpfs none /dev/shm && ";
  const std::string podman = "podman --root " + scratch + "/podman/store --runroot " + scratch +
                             "/podman/run --runtime runc --cgroup-manager cgroupfs ";
  const std::string run = podman +
                          "run --rm --network none --ulimit nofile=1024:1024 "
                          "--ulimit nproc=1000:1000 ";
  const std::string rootfs = "--rootfs /:O ";
  const auto [status, said] =
      Shell("unshare -m sh -c '" + inside + run + rootfs + "/bin/echo works'");
  if (status != 0 || said.find("works") == std::string::npos) {
    std::printf("NOT RUN: podman with runc does not run a container here: %s\n",
                said.substr(0, 400).c_str());
    GTEST_SKIP();
  }
  const std::string programs = Parent(TESSERA_GUEST_TENANT);
  const std::string id_file = scratch + "/pid";
  // The file of the container's own process is what says which one is to be a member.
  const std::string command = inside + "exec " + run + "-i --device tessera.dev/slice=s -v " +
                              programs + ":" + programs + ":ro -e SIMGPU_STATE=" + folder_ +
                              "/g -e SIMGPU_CARDS=T4 --pidfile " + id_file + " " + rootfs +
                              TESSERA_GUEST_TENANT;
  guest::TestTenant tenant({"unshare", "-m", "sh", "-c", command}, {});
  EXPECT_EQ(tenant.Code("count"), 3u) << "CUDA is not initialised yet";
  EXPECT_EQ(tenant.Code("init"), 800u) << "of no slice yet";
  pid_t pid = 0;
  std::ifstream(id_file) >> pid;
  ASSERT_GT(pid, 0);
  ASSERT_TRUE(node_->AddMember("s", pid));
  ASSERT_EQ(tenant.Code("init"), 0u);
  ASSERT_EQ(tenant.Code("retain"), 0u);
  const guest::TenantAnswer info = tenant.Do("info");
  EXPECT_EQ(info.b, 2 * kGiB);
  EXPECT_EQ(tenant.Code("alloc", 3 * kGiB), kOutOfMemory);
  EXPECT_EQ(tenant.Code("alloc", info.a), 0u);
  EXPECT_EQ(tenant.Code("alloc", 1), kOutOfMemory);
  EXPECT_EQ(tenant.Code("nvml"), 0u);
  EXPECT_EQ(tenant.Do("nvmlmemory").b, 2 * kGiB);
  const auto slice = node_->GetSlice("s");
  ASSERT_TRUE(slice);
  ASSERT_EQ(slice->processes.size(), 1u);
  EXPECT_EQ(slice->processes[0].process.pid, pid);
  for (int i = 0; i < 2; ++i) {
    node_->RefreshTelemetry();
    node_->Audit();
  }
  EXPECT_TRUE(node_->audit().findings.empty());
  EXPECT_NE(tenant.Said().find("belongs to no slice"), std::string::npos);
}

#endif

}  // namespace
}  // namespace tessera::node
