// Runs real instances: contained when the test runs as root, and as plain process trees in both
// cases.
#include "runtime/runtime.h"

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "base/rng.h"
#include "base/units.h"
#include "os/files.h"
#include "os/net.h"
#include "runtime/log_files.h"
#include "runtime/record.h"

namespace tessera::runtime {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr int kWaitMillis = 30'000;  // generous: the machine may be busy

std::string ReadAll(const std::string& path) { return os::PosixFiles().Read(path).value_or(""); }

// Cgroups of that name at or below `parent`, in every hierarchy.
std::vector<std::string> CgroupFolders(const std::string& parent, const std::string& name) {
  std::vector<std::string> found;
  std::error_code failed;
  for (auto at = std::filesystem::recursive_directory_iterator(
           "/sys/fs/cgroup", std::filesystem::directory_options::skip_permission_denied, failed);
       at != std::filesystem::recursive_directory_iterator(); at.increment(failed)) {
    if (failed) break;
    if (at->is_directory(failed) && at->path().filename() == name &&
        at->path().string().find("/" + parent) != std::string::npos) {
      found.push_back(at->path());
    }
  }
  return found;
}

// Pids (of this machine) whose uid is in the range or whose environment carries the mark.
std::vector<pid_t> ProcessesOf(uid_t first, uid_t last, const std::string& mark) {
  std::vector<pid_t> pids;
  for (const auto& name : os::PosixFiles().List("/proc").value_or({})) {
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    struct stat info{};
    if (stat(("/proc/" + name).c_str(), &info) != 0) continue;
    std::istringstream status(ReadAll("/proc/" + name + "/status"));
    std::string line;
    uid_t uid = 0;
    bool zombie = false;
    while (std::getline(status, line)) {
      zombie = zombie || line.starts_with("State:\tZ");
      if (line.starts_with("Uid:")) uid = static_cast<uid_t>(std::stoul(line.substr(5)));
    }
    const bool ours = uid >= first && uid < last;
    const bool marked =
        !mark.empty() && ReadAll("/proc/" + name + "/environ").find(mark) != std::string::npos;
    if ((ours || marked) && !zombie) pids.push_back(std::stoi(name));
  }
  return pids;
}

// Supervisors of instances below a folder: their third descriptor is the instance's folder.
std::vector<pid_t> SupervisorsBelow(const std::string& base) {
  std::vector<pid_t> pids;
  for (const auto& name : os::PosixFiles().List("/proc").value_or({})) {
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::error_code failed;
    const auto target = std::filesystem::read_symlink("/proc/" + name + "/fd/3", failed);
    if (target.string().starts_with(base) &&
        ReadAll("/proc/" + name + "/comm") == "tessera-init\n") {
      pids.push_back(std::stoi(name));
    }
  }
  return pids;
}

template <typename Holds>
bool Eventually(Holds holds) {
  for (int i = 0; i < kWaitMillis / 5; ++i) {
    if (holds()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

class RuntimeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/tessera-rt-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    base_ = name;
    chmod(name, 0755);
    options_.folder = base_ + "/instances";
    options_.guest_folder = base_ + "/guest";
    options_.guest_library = TESSERA_TEST_GUEST;
    options_.init_program = TESSERA_INIT;
    options_.cgroup_parent = "tessera-test-" + std::to_string(getpid());
    // A range of its own for every test process: leftovers are found by it.
    options_.uid_first = 1'000'000 + static_cast<uid_t>(getpid()) * 1'000;
    options_.uid_count = 1'000;
    std::filesystem::create_directories(options_.guest_folder);
    auto listener =
        os::ListenUnix(options_.guest_folder + "/guest.sock", os::SocketKind::kSeqPacket, 0666);
    ASSERT_TRUE(listener);
    listener_ = *std::move(listener);
  }

  void TearDown() override {
    if (runtime_) {
      const auto reports = runtime_->List();
      EXPECT_TRUE(reports);
      for (const Report& report : reports.value_or({})) {
        EXPECT_TRUE(runtime_->Stop(report.id, 0));
        const Status removed = runtime_->Remove(report.id);
        EXPECT_TRUE(removed) << removed.error().ToString();
      }
      EXPECT_THAT(ReadAll("/proc/self/mountinfo"), Not(HasSubstr(options_.folder)));
    }
    runtime_.reset();
    // Supervisors leave their folder only after the exit record.
    EXPECT_TRUE(Eventually([&] {
      return ProcessesOf(options_.uid_first, options_.uid_first + options_.uid_count, base_)
          .empty();
    }));
    for (const std::string& folder :
         CgroupFolders(options_.cgroup_parent, options_.cgroup_parent)) {
      EXPECT_TRUE(Eventually([&] {
        rmdir((folder + "/.supervisors").c_str());
        return rmdir(folder.c_str()) == 0;
      })) << folder
          << " still holds a leaf: "
          << ::testing::PrintToString(os::PosixFiles().List(folder).value_or({}));
    }
    std::error_code failed;
    std::filesystem::remove_all(base_, failed);
  }

  void Make() {
    auto runtime = Runtime::Create(options_);
    ASSERT_TRUE(runtime) << runtime.error().ToString();
    runtime_ = *std::move(runtime);
  }

  Spec Shell(const std::string& id, const std::string& script) const {
    Spec spec;
    spec.id = id;
    spec.workload.argv = {"/bin/sh", "-c", script};
    // The build folder may be closed to the instance's uid; a bind of the node is not.
    spec.binds = {{TESSERA_TEST_HELPER, kHelper}};
    return spec;
  }
  std::string Helper() const { return options_.contain ? kHelper : TESSERA_TEST_HELPER; }

  Report Run(const Spec& spec) {
    const auto started = runtime_->Start(spec);
    EXPECT_TRUE(started) << started.error().ToString();
    if (!started) return {};
    const auto ended = runtime_->Wait(spec.id, kWaitMillis);
    EXPECT_TRUE(ended) << ended.error().ToString();
    return ended.value_or(Report{});
  }

  Report Started(const Spec& spec) {
    const auto started = runtime_->Start(spec);
    EXPECT_TRUE(started) << started.error().ToString();
    return started.value_or(Report{});
  }

  std::string LogOf(const std::string& id) {
    const auto chunk = runtime_->ReadLog(id, 0, kLogChunkBytesMax);
    EXPECT_TRUE(chunk) << chunk.error().ToString();
    return chunk.value_or(LogChunk{}).bytes;
  }

  ExecOutcome Exec(const std::string& id, const std::string& script, const std::string& in = "") {
    const auto outcome = runtime_->Exec(id, {"/bin/sh", "-c", script}, in, kWaitMillis);
    EXPECT_TRUE(outcome) << outcome.error().ToString();
    return outcome.value_or(ExecOutcome{});
  }

  static constexpr char kHelper[] = "/run/helper";
  std::string base_;
  Options options_;
  os::Fd listener_;
  std::unique_ptr<Runtime> runtime_;
};

class ContainedTest : public RuntimeTest {
 protected:
  void SetUp() override {
    // A machine that cannot contain has nothing to check here, and CI is root: say so loudly.
    ASSERT_EQ(geteuid(), 0u) << "these tests check containment and must run as root";
    RuntimeTest::SetUp();
    ASSERT_NO_FATAL_FAILURE(Make());
    ASSERT_TRUE(runtime_->contained()) << runtime_->why_not_contained();
  }
};

class PlainTest : public RuntimeTest {
 protected:
  void SetUp() override {
    RuntimeTest::SetUp();
    options_.contain = false;
    ASSERT_NO_FATAL_FAILURE(Make());
  }
};

TEST_F(ContainedTest, TheInsideLooksAsPromised) {
  // A group of the daemon that the instance must not keep.
  const gid_t extra = 4'242;
  ASSERT_EQ(setgroups(1, &extra), 0);
  const Report report = Started(Shell("facts", "sleep 1000"));
  const std::string facts =
      Exec("facts",
           "echo uid=$(id -u) gid=$(id -g) groups=$(id -G); cat /proc/1/comm; "
           "grep -E 'NoNewPrivs|Cap|Seccomp:' /proc/self/status; "
           "echo outside=$(grep -l runtime_test /proc/[0-9]*/comm); "
           "cat /etc/ld.so.preload; pwd; echo home=$HOME lang=$LANG; umask; hostname; "
           "ls -A /tmp /var/tmp /dev/shm; ls /dev; ulimit -c")
          .output;
  ASSERT_EQ(setgroups(0, nullptr), 0);
  const std::string uid = std::to_string(report.uid);
  EXPECT_THAT(facts, HasSubstr("uid=" + uid + " gid=" + uid + " groups=" + uid));
  EXPECT_THAT(facts, HasSubstr("tessera-init\n"));
  EXPECT_THAT(facts, HasSubstr("NoNewPrivs:\t1"));
  for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}) {
    EXPECT_THAT(facts, HasSubstr(std::string(set) + ":\t0000000000000000"));
  }
  EXPECT_THAT(facts, HasSubstr("outside=\n")) << "a process of the machine is visible";
  EXPECT_THAT(facts, HasSubstr(kInsideLibrary));
  EXPECT_THAT(facts, HasSubstr("home=/run/home lang=C.UTF-8"));
  EXPECT_THAT(facts, HasSubstr("\n0022\nfacts\n"));
  EXPECT_THAT(facts, HasSubstr("urandom"));
  EXPECT_EQ(report.cgroup, "/" + options_.cgroup_parent + "/facts");
  EXPECT_EQ(os::CgroupOf(report.main.pid).value_or(""), report.cgroup);
  EXPECT_GE(report.uid, options_.uid_first);
  // The machine is as it was.
  EXPECT_FALSE(os::PosixFiles().Exists(kInsideLibrary));
  EXPECT_THAT(ReadAll("/etc/ld.so.preload"), Not(HasSubstr("tessera")));
  EXPECT_THAT(ReadAll("/proc/self/mountinfo"), Not(HasSubstr(options_.folder)));
}

TEST_F(ContainedTest, NothingOfTheMachineCanBeChanged) {
  Started(Shell("ro", "sleep 1000"));
  const std::string tried =
      Exec("ro",
           "for f in /run/tessera/x /run/x /etc/x /usr/x /x /dev/x /sys/x /run/tessera-guest/x; do "
           "  (: > $f) 2>/dev/null && echo wrote $f; done; "
           "rm -f /run/tessera/guest.sock /etc/ld.so.preload 2>/dev/null; "
           "mount -t tmpfs t /mnt 2>/dev/null && echo mounted; "
           "umount /etc 2>/dev/null && echo unmounted; "
           "chroot / true 2>/dev/null && echo chrooted; "
           "kill -9 1 2>/dev/null; cat /proc/1/environ 2>/dev/null && echo read; "
           "ls /proc/1/fd >/dev/null 2>&1 && echo saw; "
           "for f in $HOME/x /tmp/x /var/tmp/x /dev/shm/x; do : > $f || echo failed $f; done; "
           "test -S /run/tessera/guest.sock && cat /etc/ld.so.preload")
          .output;
  EXPECT_EQ(tried, std::string(kInsideLibrary) + "\n");
  EXPECT_TRUE(os::PosixFiles().Exists(options_.guest_folder + "/guest.sock"));
  EXPECT_FALSE(os::PosixFiles().Exists(options_.guest_folder + "/x"));
}

TEST_F(ContainedTest, NoNamespaceOfItsOwnUncoversThePreload) {
  Started(Shell("ns", "sleep 1000"));
  const auto tried = Exec(
      "ns",
      "unshare -U true; unshare -Ur -m sh -c 'mount --bind /dev/null /etc/ld.so.preload; echo in'; "
      "grep -c Seccomp:.2 /proc/self/status /proc/1/status");
  EXPECT_THAT(tried.output, HasSubstr("Operation not permitted"));
  EXPECT_THAT(tried.output, Not(HasSubstr("in\n")));
  EXPECT_THAT(tried.output, HasSubstr("/proc/self/status:1\n/proc/1/status:1\n"));
  // Threads and processes are made as ever.
  EXPECT_EQ(Exec("ns", Helper() + " threads 20").output, "20\n");
}

TEST_F(ContainedTest, TheGuestLibraryIsInEveryProgramAndItsSocketAnswers) {
  // The test's guest library leaves a variable behind from its constructor.
  const Report report =
      Run(Shell("guest",
                "echo loaded=$TEST_GUEST_LOADED; unset LD_PRELOAD TEST_GUEST_LOADED; "
                "/usr/bin/env | grep LOADED"));
  EXPECT_EQ(report.exit_code, 0);
  EXPECT_EQ(LogOf("guest"), "loaded=yes\nTEST_GUEST_LOADED=yes\n");
  Started(Shell("socket", "sleep 1000"));
  const auto outcome = Exec("socket", Helper() + " connect /run/tessera/guest.sock");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  const auto connection = os::Accept(listener_.get());
  ASSERT_TRUE(connection);
  const auto peer = os::PeerOf(connection->get());
  ASSERT_TRUE(peer);
  EXPECT_EQ(peer->uid, runtime_->Inspect("socket")->uid);
}

TEST_F(ContainedTest, EndsAreReportedAsAShellWould) {
  EXPECT_EQ(Run(Shell("three", "exit 3")).exit_code, 3);
  const Report killed = Run(Shell("killed", "kill -TERM $$"));
  EXPECT_EQ(killed.exit_code, 128 + SIGTERM);
  EXPECT_EQ(killed.signal, SIGTERM);
  EXPECT_FALSE(killed.lost);
  Spec spec = Shell("missing", "");
  spec.workload.argv = {"/no/such/program"};
  EXPECT_EQ(Run(spec).exit_code, 127);
  EXPECT_THAT(LogOf("missing"), HasSubstr("cannot run /no/such/program: No such file"));
  spec.id = "refused";
  spec.workload.argv = {"/etc/passwd"};
  EXPECT_EQ(Run(spec).exit_code, 126);
  // What the program leaves behind ends with it.
  const Report orphans =
      Run(Shell("orphans", "setsid sleep 1000 & (setsid sleep 1000 &) ; exit 0"));
  EXPECT_EQ(orphans.exit_code, 0);
  EXPECT_GE(orphans.ended_wall_micros, orphans.started_wall_micros);
  EXPECT_TRUE(ProcessesOf(options_.uid_first, options_.uid_first + options_.uid_count, "").empty());
}

TEST_F(ContainedTest, InitPassesSignalsOnAndReaps) {
  Started(Shell("signals",
                "trap 'echo got usr1; exit 9' USR1; echo ready; while :; do sleep 0.01; done"));
  ASSERT_TRUE(Eventually([&] { return LogOf("signals") == "ready\n"; }));
  // An orphan of an exec becomes a child of pid 1 and must not stay a zombie.
  Exec("signals", "setsid sh -c 'exit 0' & exit 0");
  EXPECT_TRUE(Eventually(
      [&] { return Exec("signals", "grep -l 'State:.Z' /proc/[0-9]*/status").output.empty(); }));
  Exec("signals", "kill -USR1 1");
  EXPECT_EQ(runtime_->Wait("signals", kWaitMillis)->exit_code, 9);
  EXPECT_EQ(LogOf("signals"), "ready\ngot usr1\n");
}

TEST_F(ContainedTest, ExecIsInTheSameSlice) {
  Spec spec = Shell("slice", "sleep 1000");
  spec.workload.environment = {"COLOUR=red", "LD_LIBRARY_PATH=/tenant"};
  spec.environment = {"CUDA_VISIBLE_DEVICES=GPU-1", "LD_LIBRARY_PATH=/node"};
  const Report report = Started(spec);
  const auto seen = Exec(
      "slice", "cat /proc/self/cgroup; readlink /proc/self/ns/pid /proc/1/ns/pid; id -u; env; pwd");
  EXPECT_THAT(seen.output, HasSubstr("0::" + report.cgroup + "\n"));
  EXPECT_THAT(seen.output, HasSubstr("\n" + std::to_string(report.uid) + "\n"));
  EXPECT_THAT(seen.output, HasSubstr("COLOUR=red\n"));
  EXPECT_THAT(seen.output, HasSubstr("CUDA_VISIBLE_DEVICES=GPU-1\n"));
  EXPECT_THAT(seen.output, HasSubstr("LD_LIBRARY_PATH=/node:/tenant\n"));
  EXPECT_THAT(seen.output, HasSubstr("TEST_GUEST_LOADED=yes\n"));
  EXPECT_THAT(seen.output, HasSubstr("TESSERA_INSTANCE=slice\n"));
  EXPECT_THAT(seen.output, HasSubstr("\n/run/home\n"));
  EXPECT_THAT(seen.output, Not(HasSubstr("LD_PRELOAD")));
}

void CheckExec(Runtime* runtime, const std::string& id) {
  const auto sh = [&](const std::string& script, const std::string& in = "",
                      int millis = kWaitMillis) {
    auto outcome = runtime->Exec(id, {"/bin/sh", "-c", script}, in, millis);
    EXPECT_TRUE(outcome) << outcome.error().ToString();
    return outcome.value_or(ExecOutcome{});
  };
  EXPECT_EQ(sh("exit 42").exit_code, 42);
  EXPECT_EQ(sh("kill -KILL $$").exit_code, 128 + SIGKILL);
  EXPECT_EQ(sh("echo out; echo err >&2; echo out").output, "out\nerr\nout\n");
  const std::string big(3'000'000, 'x');
  EXPECT_EQ(sh("wc -c", big).output, "3000000\n");
  EXPECT_EQ(sh("exec <&-; sleep 0.05; echo closed", big).output, "closed\n");
  const auto missing = runtime->Exec(id, {"no-such-command"}, "", kWaitMillis);
  ASSERT_TRUE(missing);
  EXPECT_EQ(missing->exit_code, 127);
  EXPECT_THAT(missing->output, HasSubstr("cannot run no-such-command"));
  const auto flood = sh("head -c 2000000 /dev/zero; echo end");
  EXPECT_EQ(flood.output.size(), kExecOutputBytesMax);
  EXPECT_TRUE(flood.truncated);
  // A background child may keep the output open; the command's end is what counts.
  EXPECT_EQ(sh("sleep 1000 & echo back").output, "back\n");
  // A duration nobody else sleeps for, to find it by.
  const std::string nap = "sleep 77" + std::to_string(getpid());
  const auto late = sh("echo begun; " + nap + " & exec " + nap, "", 300);
  EXPECT_TRUE(late.timed_out);
  EXPECT_EQ(late.exit_code, 124);
  EXPECT_EQ(late.output, "begun\n");
  EXPECT_TRUE(Eventually([&] {
    return sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '; true").output.find(nap + " ") ==
           std::string::npos;
  }));
  for (const auto& [argv, field] : std::vector<std::pair<std::vector<std::string>, std::string>>{
           {{}, "argv"},
           {{""}, "argv[0]"},
           {{"a", std::string("b\0c", 3)}, "argv[1]"},
           {std::vector<std::string>(kArgvMax + 1, "x"), "argv"},
           {{std::string(kArgvBytesMax, 'x')}, "argv"}}) {
    const auto refused = runtime->Exec(id, argv, "", kWaitMillis);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().field(), field);
  }
  EXPECT_EQ(runtime->Exec(id, {"true"}, "", 0).error().field(), "timeout_millis");
  EXPECT_EQ(
      runtime->Exec(id, {"true"}, std::string(kExecStdinBytesMax + 1, 'x'), 1000).error().field(),
      "stdin");
  EXPECT_EQ(runtime->Exec("nobody", {"true"}, "", 1000).error().code(), Code::kNotFound);
}

TEST_F(ContainedTest, ExecCarriesBytesAndStatus) {
  Started(Shell("exec", "sleep 1000"));
  CheckExec(runtime_.get(), "exec");
}

TEST_F(PlainTest, ExecCarriesBytesAndStatus) {
  Started(Shell("exec", "sleep 1000"));
  CheckExec(runtime_.get(), "exec");
}

TEST_F(ContainedTest, ExecOnTheCallersDescriptors) {
  Started(Shell("fds", "sleep 1000"));
  int pipe_fds[2];
  ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
  const os::Fd reader(pipe_fds[0]), writer(pipe_fds[1]);
  const os::Fd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  const auto code = runtime_->ExecWithFds("fds", {"/bin/sh", "-c", "echo hello; exit 5"},
                                          {null.get(), writer.get(), null.get()}, -1);
  ASSERT_TRUE(code) << code.error().ToString();
  EXPECT_EQ(*code, 5);
  char buffer[16] = {};
  EXPECT_EQ(read(reader.get(), buffer, sizeof buffer), 6);
  EXPECT_STREQ(buffer, "hello\n");
  const auto late =
      runtime_->ExecWithFds("fds", {"sleep", "1000"}, {null.get(), null.get(), null.get()}, 100);
  ASSERT_TRUE(late);
  EXPECT_EQ(*late, 124);
}

TEST_F(ContainedTest, TheNumberOfExecsIsBoundedByName) {
  Started(Shell("many", "sleep 1000"));
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < kExecsMax; ++i) {
    // Ended by the Stop below: the command is killed or its connection closed, both are fine here.
    threads.emplace_back([&] { (void)runtime_->Exec("many", {"sleep", "1000"}, "", kWaitMillis); });
  }
  // Counted from outside: one more exec would be refused once all are in.
  const uid_t uid = runtime_->Inspect("many")->uid;
  EXPECT_TRUE(Eventually([&] { return ProcessesOf(uid, uid + 1, "").size() >= 2 + kExecsMax; }));
  const auto refused = runtime_->Exec("many", {"true"}, "", kWaitMillis);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kResourceExhausted);
  EXPECT_THAT(refused.error().message(), HasSubstr("kExecsMax"));
  EXPECT_TRUE(runtime_->Stop("many", 0));
  for (std::thread& thread : threads) thread.join();
}

TEST_F(ContainedTest, BadInputIsRefusedByFieldAndStartsNothing) {
  struct Case {
    std::string field;
    std::function<void(Spec*)> spoil;
  };
  const std::vector<Case> cases = {
      {"id", [](Spec* s) { s->id = ""; }},
      {"id", [](Spec* s) { s->id = "../up"; }},
      {"id", [](Spec* s) { s->id = ".hidden"; }},
      {"id", [](Spec* s) { s->id = std::string(kInstanceIdMax + 1, 'a'); }},
      {"workload.argv", [](Spec* s) { s->workload.argv = {}; }},
      {"workload.argv[0]", [](Spec* s) { s->workload.argv = {""}; }},
      {"workload.argv[1]", [](Spec* s) { s->workload.argv = {"a", std::string("\0", 1)}; }},
      {"workload.argv", [](Spec* s) { s->workload.argv.assign(kArgvMax + 1, "a"); }},
      {"workload.argv",
       [](Spec* s) { s->workload.argv.assign(1, std::string(kArgvBytesMax, 'a')); }},
      {"workload.environment[0]", [](Spec* s) { s->workload.environment = {"NOVALUE"}; }},
      {"workload.environment[0]", [](Spec* s) { s->workload.environment = {"=x"}; }},
      {"workload.environment[0]", [](Spec* s) { s->workload.environment = {"1A=x"}; }},
      {"workload.environment[0]", [](Spec* s) { s->workload.environment = {"A B=x"}; }},
      {"workload.environment[0]", [](Spec* s) { s->workload.environment = {"LD_PRELOAD=/x"}; }},
      {"workload.environment[0]", [](Spec* s) { s->workload.environment = {"LD_AUDIT=/x"}; }},
      {"workload.environment[0]", [](Spec* s) { s->workload.environment = {"TESSERA_SOCKET=/x"}; }},
      {"workload.environment[0]",
       [](Spec* s) { s->workload.environment = {std::string("A=\0", 3)}; }},
      {"workload.environment[1]", [](Spec* s) { s->workload.environment = {"A=1", "A=2"}; }},
      {"workload.environment",
       [](Spec* s) {
         for (std::size_t i = 0; i <= kEnvironmentMax; ++i)
           s->workload.environment.push_back("V" + std::to_string(i) + "=");
       }},
      {"workload.environment",
       [](Spec* s) { s->workload.environment = {"A=" + std::string(kEnvironmentBytesMax, 'a')}; }},
      {"workload.directory", [](Spec* s) { s->workload.directory = "relative"; }},
      {"workload.directory", [](Spec* s) { s->workload.directory = "/no/such/folder"; }},
      {"workload.directory", [](Spec* s) { s->workload.directory = "/etc/passwd"; }},
      {"workload.directory", [](Spec* s) { s->workload.directory = "/etc"; }},
      {"workload.directory", [](Spec* s) { s->workload.directory = "/usr/../proc/self"; }},
      {"workload.directory", [](Spec* s) { s->workload.directory = "/dev/shm"; }},
      {"workload.rootfs", [](Spec* s) { s->workload.rootfs = "/no/such/root"; }},
      {"workload.rootfs", [](Spec* s) { s->workload.rootfs = "here"; }},
      {"workload.rootfs", [](Spec* s) { s->workload.rootfs = "/etc/passwd"; }},
      {"workload.cpu_millis", [](Spec* s) { s->workload.cpu_millis = 9; }},
      {"workload.cpu_millis", [](Spec* s) { s->workload.cpu_millis = 4'000'000'000u; }},
      {"workload.ram_bytes", [](Spec* s) { s->workload.ram_bytes = 4096; }},
      {"workload.ram_bytes", [](Spec* s) { s->workload.ram_bytes = ~0ull; }},
      {"binds[0].source", [](Spec* s) { s->binds = {{"/no/such/device", ""}}; }},
      {"binds[0].source", [](Spec* s) { s->binds = {{"dev", ""}}; }},
      {"binds[0].target", [](Spec* s) { s->binds = {{"/dev/null", "/run/../etc/x"}}; }},
      {"binds[0].target", [](Spec* s) { s->binds = {{"/dev/null", "/usr/no/such/place"}}; }},
      {"binds", [](Spec* s) { s->binds.assign(kBindsMax + 1, {"/dev/null", "/run/x"}); }},
      {"environment[0]", [](Spec* s) { s->environment = {"bad"}; }},
  };
  for (const Case& bad : cases) {
    Spec spec = Shell("bad", "sleep 1000");
    bad.spoil(&spec);
    const auto refused = runtime_->Start(spec);
    ASSERT_FALSE(refused) << bad.field;
    EXPECT_EQ(refused.error().field(), bad.field) << refused.error().ToString();
    EXPECT_EQ(refused.error().code(), Code::kInvalidArgument);
  }
  EXPECT_THAT(os::PosixFiles().List(options_.folder).value_or({}), ::testing::ElementsAre(".lock"));
  EXPECT_THAT(CgroupFolders(options_.cgroup_parent, "bad"), ::testing::IsEmpty());
  EXPECT_TRUE(runtime_->List()->empty());
  EXPECT_TRUE(SupervisorsBelow(options_.folder).empty());
  // The last word on the id is that it is free.
  EXPECT_EQ(Run(Shell("bad", "exit 0")).exit_code, 0);
}

TEST_F(ContainedTest, OneIdOneInstanceOneFolderOneRuntime) {
  Spec spec = Shell("twice", "sleep 1000");
  spec.generation = 7;
  EXPECT_EQ(Started(spec).generation, 7u);
  EXPECT_EQ(runtime_->Start(spec).error().code(), Code::kAlreadyExists);
  EXPECT_EQ(runtime_->Remove("twice").error().code(), Code::kFailedPrecondition);
  EXPECT_EQ(Runtime::Create(options_).error().code(), Code::kFailedPrecondition);
  EXPECT_EQ(runtime_->Inspect("other").error().code(), Code::kNotFound);
  EXPECT_TRUE(runtime_->Remove("other"));
  EXPECT_EQ(runtime_->Wait("twice", 0).error().code(), Code::kDeadlineExceeded);
  EXPECT_EQ(runtime_->Stop("twice", -1).error().field(), "grace_millis");
}

TEST_F(ContainedTest, AnotherRuntimesInstanceOfTheSameNameIsLeftAlone) {
  const Report first = Started(Shell("same", "sleep 1000"));
  Options other = options_;
  other.folder = base_ + "/other";
  auto second = Runtime::Create(other);
  ASSERT_TRUE(second);
  const auto refused = (*second)->Start(Shell("same", "sleep 1000"));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kAlreadyExists);
  EXPECT_THAT(refused.error().message(), HasSubstr("cgroup_parent"));
  EXPECT_EQ((*second)->Inspect("same").error().code(), Code::kNotFound);
  EXPECT_TRUE(os::IsAlive(first.main));
  EXPECT_EQ(os::CgroupOf(first.main.pid).value_or(""), first.cgroup);
}

TEST_F(ContainedTest, InstancesHaveDifferentUidsAndCannotSeeEachOther) {
  const Report a =
      Started(Shell("a", "echo secret > $HOME/s; echo secret > /tmp/s; echo ready; sleep 1000"));
  const Report b = Started(Shell("b", "sleep 1000"));
  EXPECT_NE(a.uid, b.uid);
  ASSERT_TRUE(Eventually([&] { return LogOf("a") == "ready\n"; }));
  const std::string a_home = options_.folder + "/a/home/s";
  EXPECT_EQ(ReadAll(a_home), "secret\n");
  EXPECT_THAT(
      Exec("b", "cat /tmp/s $HOME/s " + a_home + " 2>/dev/null; ipcs -m | wc -l >/dev/null").output,
      "");
  EXPECT_NE(Exec("b", "kill -0 " + std::to_string(a.main.pid) + " 2>/dev/null").exit_code, 0);
}

TEST_F(ContainedTest, BindsAndDirectoriesAreReachable) {
  const std::string state = base_ + "/state", work = base_ + "/work", fixed = base_ + "/fixed";
  for (const std::string& folder : {state, work, fixed}) {
    std::filesystem::create_directories(folder);
    chmod(folder.c_str(), 0777);
  }
  Spec spec = Shell("binds", "sleep 1000");
  // As a simulated card's state under the private /dev/shm would be.
  spec.binds.push_back({state, "/dev/shm/simgpu", true});
  spec.binds.push_back({fixed, "/run/fixed"});
  spec.binds.push_back({"/no/such/device", "", false, true});
  // The machine's shared memory in place of the private one, as a real MPS server's clients need.
  Spec shared = Shell("shared", "sleep 1000");
  shared.binds.push_back({state, "/dev/shm", true});
  Started(shared);
  EXPECT_EQ(Exec("shared", "echo 3 > /dev/shm/y").exit_code, 0);
  EXPECT_EQ(ReadAll(state + "/y"), "3\n");
  spec.workload.directory = work;
  Started(spec);
  EXPECT_EQ(Exec("binds",
                 "echo 1 > /dev/shm/simgpu/x; echo 2 > here; pwd; (: > /run/fixed/x) 2>/dev/null "
                 "|| echo ro")
                .output,
            work + "\nro\n");
  EXPECT_EQ(ReadAll(state + "/x"), "1\n");
  EXPECT_EQ(ReadAll(work + "/here"), "2\n");
}

TEST_F(ContainedTest, ARootfsIsEnteredAndNeverChanged) {
  const std::string rootfs = base_ + "/root,fs:1", victim = base_ + "/victim";
  std::filesystem::create_directories(rootfs + "/bin");
  std::filesystem::create_directories(victim);
  std::filesystem::copy_file(TESSERA_TEST_HELPER, rootfs + "/bin/helper");
  // A root that tries to lead our mounts outside: links are taken as the instance sees them.
  std::filesystem::create_symlink("../../../../../../.." + victim, rootfs + "/etc");
  Spec spec = Shell("rootfs", "");
  spec.workload.rootfs = rootfs;
  spec.workload.argv = {"helper", "show", "/etc/ld.so.preload"};
  const auto started = runtime_->Start(spec);
  if (started) {
    EXPECT_NE(runtime_->Wait("rootfs", kWaitMillis)->exit_code, 127) << LogOf("rootfs");
  }
  EXPECT_TRUE(os::PosixFiles().List(victim)->empty());
  EXPECT_FALSE(os::PosixFiles().Exists(rootfs + "/run"));

  std::filesystem::remove(rootfs + "/etc");
  spec.id = "plainroot";
  EXPECT_EQ(Run(spec).exit_code, 0) << LogOf("plainroot");
  EXPECT_EQ(LogOf("plainroot"), std::string(kInsideLibrary) + "\n");
  EXPECT_FALSE(os::PosixFiles().Exists(rootfs + "/etc"));
  spec.id = "cwd";
  spec.workload.directory = "/none";
  EXPECT_EQ(runtime_->Start(spec).error().field(), "workload.directory");
}

TEST_F(ContainedTest, TheLogIsBoundedAndItsOffsetsHold) {
  runtime_.reset();
  options_.log_bytes_max = 64 * 1024;
  ASSERT_NO_FATAL_FAILURE(Make());
  EXPECT_EQ(Run(Shell("log", "exec " + Helper() + " lines 10000")).exit_code, 0);
  const std::uint64_t written = 10000 * 64;
  auto chunk = runtime_->ReadLog("log", 0, kLogChunkBytesMax);
  ASSERT_TRUE(chunk);
  EXPECT_TRUE(chunk->truncated);
  EXPECT_EQ(chunk->end_offset, written);
  EXPECT_EQ(chunk->next_offset, written);
  EXPECT_EQ(chunk->offset + chunk->bytes.size(), written);
  EXPECT_LE(chunk->bytes.size(), options_.log_bytes_max);
  EXPECT_GE(chunk->bytes.size(), options_.log_bytes_max / 2);
  // Every byte is where its offset says, however it is read.
  std::uint64_t at = chunk->offset;
  while (at < written) {
    chunk = runtime_->ReadLog("log", at, 1000);
    ASSERT_TRUE(chunk);
    ASSERT_FALSE(chunk->truncated);
    ASSERT_EQ(chunk->offset, at);
    ASSERT_GT(chunk->bytes.size(), 0u);
    for (std::size_t i = 0; i < chunk->bytes.size(); ++i) {
      char line[65];
      snprintf(line, sizeof line, "%063d\n", static_cast<int>((at + i) / 64));
      ASSERT_EQ(chunk->bytes[i], line[(at + i) % 64]) << at + i;
    }
    at = chunk->next_offset;
  }
  EXPECT_EQ(runtime_->ReadLog("log", written, 10)->bytes, "");
  EXPECT_EQ(runtime_->ReadLog("log", written + 1, 10).error().field(), "offset");
  EXPECT_EQ(runtime_->ReadLog("log", 0, 0).error().field(), "bytes_max");
  std::uint64_t on_disk = 0;
  for (const auto& entry : std::filesystem::directory_iterator(options_.folder + "/log")) {
    if (entry.path().filename().string().starts_with(kLogPrefix)) on_disk += entry.file_size();
  }
  EXPECT_LE(on_disk, options_.log_bytes_max);
}

TEST_F(ContainedTest, StopAsksFirstAndThenKillsEverything) {
  Started(
      Shell("polite", "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.01; done"));
  ASSERT_TRUE(Eventually([&] { return LogOf("polite") == "ready\n"; }));
  const auto polite = runtime_->Stop("polite", kWaitMillis);
  ASSERT_TRUE(polite);
  EXPECT_EQ(polite->exit_code, 7);
  EXPECT_EQ(LogOf("polite"), "ready\nbye\n");
  EXPECT_EQ(runtime_->Stop("polite", 0)->exit_code, 7);

  const Report bomb = Started(Shell("bomb", "exec " + Helper() + " bomb 40"));
  ASSERT_TRUE(Eventually([&] { return LogOf("bomb") == "ready\n"; }));
  const auto killed = runtime_->Stop("bomb", 50);
  ASSERT_TRUE(killed) << killed.error().ToString();
  EXPECT_EQ(killed->exit_code, 128 + SIGKILL);
  EXPECT_TRUE(ProcessesOf(bomb.uid, bomb.uid + 1, "").empty());
  EXPECT_EQ(runtime_->Exec("bomb", {"true"}, "", 1000).error().code(), Code::kFailedPrecondition);
}

TEST_F(PlainTest, StopKillsATreeThatForksAway) {
  Started(Shell("bomb", "exec " + Helper() + " bomb 40"));
  ASSERT_TRUE(Eventually([&] { return LogOf("bomb") == "ready\n"; }));
  const auto killed = runtime_->Stop("bomb", 50);
  ASSERT_TRUE(killed) << killed.error().ToString();
  EXPECT_EQ(killed->exit_code, 128 + SIGKILL);
  EXPECT_TRUE(ProcessesOf(0, 0, base_).empty());
}

TEST_F(ContainedTest, TasksAreBounded) {
  runtime_.reset();
  options_.tasks_max = 32;
  ASSERT_NO_FATAL_FAILURE(Make());
  const Report report = Started(
      Shell("tasks", "i=0; while [ $i -lt 100 ]; do sleep 1000 & i=$((i+1)); done; sleep 1000"));
  ASSERT_TRUE(Eventually([&] {
    return LogOf("tasks").find("fork") != std::string::npos ||
           runtime_->Inspect("tasks")->state == State::kEnded;
  }));
  EXPECT_LE(ProcessesOf(report.uid, report.uid + 1, "").size(), 32u);
}

TEST_F(ContainedTest, LimitsAreSetOrSaidToBeMissing) {
  Spec spec = Shell("limits", "sleep 1000");
  spec.workload.cpu_millis = 1500;
  spec.workload.ram_bytes = 64 * kMiB;
  const Report report = Started(spec);
  std::string quota, ram;
  for (const std::string& folder : CgroupFolders(options_.cgroup_parent, "limits")) {
    quota += ReadAll(folder + "/cpu.max") + ReadAll(folder + "/cpu.cfs_quota_us");
    ram += ReadAll(folder + "/memory.max") + ReadAll(folder + "/memory.limit_in_bytes");
  }
  const auto said = [&](const std::string& what) {
    return std::any_of(report.unenforced.begin(), report.unenforced.end(),
                       [&](const std::string& text) { return text.starts_with(what + ": "); });
  };
  EXPECT_NE(quota.find("150000") != std::string::npos, said("cpu")) << quota;
  EXPECT_NE(ram.find(std::to_string(64 * kMiB)) != std::string::npos, said("ram")) << ram;
  EXPECT_TRUE(runtime_->Stop("limits", 0));
  EXPECT_TRUE(runtime_->Remove("limits"));
  EXPECT_THAT(CgroupFolders(options_.cgroup_parent, "limits"), ::testing::IsEmpty());
  if (said("ram")) return;
  spec.id = "eater";
  spec.workload.argv = {"/bin/sh", "-c", "exec " + Helper() + " eat 200"};
  const Report eaten = Run(spec);
  EXPECT_TRUE(eaten.out_of_memory);
  EXPECT_EQ(eaten.exit_code, 128 + SIGKILL);
}

TEST_F(PlainTest, SaysThatItIsNotContained) {
  EXPECT_FALSE(runtime_->contained());
  EXPECT_EQ(runtime_->why_not_contained(), "containment is switched off");
  Spec spec = Shell(
      "plain", "echo $LD_PRELOAD $TESSERA_SOCKET $TEST_GUEST_LOADED; pwd; sleep 1000 & exit 4");
  spec.workload.cpu_millis = 1000;
  spec.workload.ram_bytes = 64 * kMiB;
  const Report report = Run(spec);
  EXPECT_FALSE(report.contained);
  EXPECT_EQ(report.why_not_contained, "containment is switched off");
  EXPECT_EQ(report.cgroup, "");
  EXPECT_EQ(report.unenforced.size(), 2u);
  EXPECT_EQ(report.exit_code, 4);
  EXPECT_EQ(LogOf("plain"), std::string(TESSERA_TEST_GUEST) + " " + options_.guest_folder +
                                "/guest.sock yes\n" + options_.folder + "/plain/home\n");
  EXPECT_TRUE(ProcessesOf(0, 0, base_).empty());
  spec = Shell("root", "true");
  spec.workload.rootfs = "/";
  EXPECT_EQ(runtime_->Start(spec).error().field(), "workload.rootfs");
  // The supervisor is an ancestor of everything, execs included: that is how the node knows the
  // slice.
  const Report running = Started(Shell("tree", "sleep 1000"));
  EXPECT_EQ(os::ParentOf(running.main.pid).value_or(0), running.supervisor.pid);
  const auto outcome =
      runtime_->Exec("tree", {"/bin/sh", "-c", "ps -o ppid= -p $PPID"}, "", kWaitMillis);
  ASSERT_TRUE(outcome);
  EXPECT_EQ(std::atoi(outcome->output.c_str()), running.supervisor.pid);
}

// Runs the body in a child of this process and gives back its exit code; the child never returns to
// the tests.
template <typename Body>
int InChild(Body body) {
  const pid_t pid = fork();
  if (pid == 0) _exit(body());
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

TEST_F(RuntimeTest, WithoutRootItRunsAndSaysSo) {
  const uid_t uid = geteuid() == 0 ? 65'534 : geteuid();
  std::filesystem::create_directories(options_.folder);
  ASSERT_EQ(chown(options_.folder.c_str(), uid, static_cast<gid_t>(uid)), 0);
  // Reachable for that user wherever the build folder is.
  for (auto [name, path] : {std::pair{"init", &options_.init_program},
                            std::pair{"guest.so", &options_.guest_library}}) {
    const std::string copy = base_ + "/" + name;
    std::filesystem::copy_file(*path, copy);
    chmod(copy.c_str(), 0755);
    *path = copy;
  }
  const int step = InChild([&] {
    if (setresgid(uid, uid, uid) != 0 || setresuid(uid, uid, uid) != 0) return 1;
    auto runtime = Runtime::Create(options_);
    if (!runtime) return 2;
    if ((*runtime)->contained() || (*runtime)->why_not_contained() != "not root") return 3;
    Spec spec = Shell("user", "echo $TEST_GUEST_LOADED; (setsid sleep 1000 &); sleep 1000");
    spec.binds.clear();
    const auto started = (*runtime)->Start(spec);
    if (!started || started->contained || started->uid != uid) return 4;
    const auto outcome = (*runtime)->Exec("user", {"id", "-u"}, "", kWaitMillis);
    if (!outcome || outcome->output != std::to_string(uid) + "\n") return 5;
    // The shell may be slower than we are.
    if (!Eventually([&] { return (*runtime)->ReadLog("user", 0, 100)->bytes == "yes\n"; }))
      return 8;
    if (!(*runtime)->Stop("user", 0)) return 6;
    if (!ProcessesOf(0, 0, base_).empty()) return 7;
    if (!(*runtime)->Remove("user")) return 9;
    return 0;
  });
  EXPECT_EQ(step, 0);
}

class LifeTest : public RuntimeTest, public ::testing::WithParamInterface<bool> {
 protected:
  void SetUp() override {
    RuntimeTest::SetUp();
    options_.contain = GetParam();
    // In memory: these start hundreds of instances, and every record of one is synced to the disk.
    options_.folder = "/dev/shm" + base_.substr(base_.rfind('/')) + "/instances";
  }
  void TearDown() override {
    RuntimeTest::TearDown();
    std::error_code failed;
    std::filesystem::remove_all(std::filesystem::path(options_.folder).parent_path(), failed);
  }
  bool NothingRuns() {
    return Eventually([&] {
      return ProcessesOf(options_.uid_first, options_.uid_first + options_.uid_count, base_)
                 .empty() &&
             SupervisorsBelow(options_.folder).empty();
    });
  }
};
INSTANTIATE_TEST_SUITE_P(Modes, LifeTest, ::testing::Bool(),
                         [](const auto& mode) { return mode.param ? "Contained" : "Plain"; });

TEST_P(LifeTest, InstancesOutliveTheirDaemon) {
  ASSERT_EQ(InChild([&] {
              auto runtime = Runtime::Create(options_);
              if (!runtime || !(*runtime)->Start(Shell("runs", "sleep 1000"))) return 1;
              if (!(*runtime)->Start(Shell("ends", "echo before; sleep 0.3; echo after; exit 6")))
                return 2;
              raise(SIGKILL);
              return 3;
            }),
            128 + SIGKILL);
  ASSERT_NO_FATAL_FAILURE(Make());
  const auto runs = runtime_->Inspect("runs");
  ASSERT_TRUE(runs) << runs.error().ToString();
  EXPECT_EQ(runs->state, State::kRunning);
  EXPECT_EQ(runs->contained, GetParam());
  EXPECT_EQ(os::CgroupOf(runs->main.pid).has_value(), true);
  EXPECT_EQ(Exec("runs", "echo inside").output, "inside\n");
  const auto watch = runtime_->WatchEnd("runs");
  ASSERT_TRUE(watch);
  const auto ends = runtime_->Wait("ends", kWaitMillis);
  ASSERT_TRUE(ends);
  EXPECT_EQ(ends->exit_code, 6);
  EXPECT_FALSE(ends->lost);
  EXPECT_GE(ends->ended_wall_micros - ends->started_wall_micros, 250'000);
  EXPECT_EQ(LogOf("ends"), "before\nafter\n");
  EXPECT_EQ(runtime_->List()->size(), 2u);
  EXPECT_TRUE(runtime_->Stop("runs", 0));
  pollfd ended{watch->get(), POLLIN, 0};
  EXPECT_EQ(poll(&ended, 1, kWaitMillis), 1);
  EXPECT_EQ(runtime_->WatchEnd("runs").error().code(), Code::kFailedPrecondition);
}

TEST_P(LifeTest, AKilledSupervisorTakesItsInstanceAlong) {
  ASSERT_NO_FATAL_FAILURE(Make());
  const Report report = Started(Shell("lost", "setsid sleep 1000 & sleep 1000"));
  kill(report.supervisor.pid, SIGKILL);
  const auto lost = runtime_->Wait("lost", kWaitMillis);
  ASSERT_TRUE(lost) << lost.error().ToString();
  EXPECT_TRUE(lost->lost);
  EXPECT_EQ(lost->exit_code, 128 + SIGKILL);
  EXPECT_GE(lost->ended_wall_micros, lost->started_wall_micros);
  EXPECT_TRUE(NothingRuns());
  // Also for a daemon that was away meanwhile.
  const Report again = Started(Shell("again", "sleep 1000"));
  runtime_.reset();
  kill(again.supervisor.pid, SIGKILL);
  ASSERT_TRUE(Eventually([&] { return !os::IsAlive(again.supervisor); }));
  ASSERT_NO_FATAL_FAILURE(Make());
  EXPECT_TRUE(runtime_->Inspect("again")->lost);
  EXPECT_EQ(runtime_->Inspect("lost")->ended_wall_micros, lost->ended_wall_micros);
}

TEST_P(LifeTest, KilledAnywhereInStartLeavesNothing) {
  const std::uint64_t seed = static_cast<std::uint64_t>(getpid());
  RecordProperty("seed", std::to_string(seed));
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  Rng rng(seed);
  int running = 0;
  for (int i = 0; i < 40; ++i) {
    const std::string id = "k" + std::to_string(i);
    const pid_t daemon = fork();
    if (daemon == 0) {
      auto runtime = Runtime::Create(options_);
      if (runtime) (void)(*runtime)->Start(Shell(id, "sleep 1000"));
      while (true) pause();
    }
    usleep(static_cast<useconds_t>(rng.Below(60'000)));
    const bool supervisor_first = rng.Chance(300);
    if (supervisor_first) {
      for (const pid_t pid : SupervisorsBelow(options_.folder)) kill(pid, SIGKILL);
    }
    kill(daemon, SIGKILL);
    waitpid(daemon, nullptr, 0);
    if (!supervisor_first && rng.Chance(300)) {
      for (const pid_t pid : SupervisorsBelow(options_.folder)) kill(pid, SIGKILL);
    }
    ASSERT_NO_FATAL_FAILURE(Make());
    const auto report = runtime_->Inspect(id);
    if (report) {
      running += report->state == State::kRunning;
      EXPECT_TRUE(runtime_->Stop(id, 0));
    } else {
      EXPECT_EQ(report.error().code(), Code::kNotFound) << report.error().ToString();
    }
    EXPECT_TRUE(runtime_->Remove(id));
    EXPECT_TRUE(NothingRuns()) << i;
    EXPECT_THAT(os::PosixFiles().List(options_.folder).value_or({}),
                ::testing::ElementsAre(".lock"));
    EXPECT_THAT(CgroupFolders(options_.cgroup_parent, id), ::testing::IsEmpty());
    runtime_.reset();
  }
  std::printf("%d of 40 were running after the kill\n", running);
}

TEST_P(LifeTest, AHundredStartsLeaveNothing) {
  ASSERT_NO_FATAL_FAILURE(Make());
  const std::string mounts = ReadAll("/proc/self/mountinfo");
  for (int i = 0; i < 100; ++i) {
    const std::string id = "h" + std::to_string(i);
    Spec spec = Shell(id, "exit 1");
    spec.workload.argv = {"/bin/false"};
    EXPECT_EQ(Run(spec).exit_code, 1);
    EXPECT_TRUE(runtime_->Remove(id));
  }
  EXPECT_EQ(ReadAll("/proc/self/mountinfo"), mounts);
  EXPECT_TRUE(NothingRuns());
  EXPECT_THAT(os::PosixFiles().List(options_.folder).value_or({}), ::testing::ElementsAre(".lock"));
  for (const std::string& folder : CgroupFolders(options_.cgroup_parent, options_.cgroup_parent)) {
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      if (entry.is_directory()) {
        EXPECT_EQ(entry.path().filename(), ".supervisors");
      }
    }
  }
}

TEST_P(LifeTest, ParallelCallersDoNotDisturbEachOther) {
  ASSERT_NO_FATAL_FAILURE(Make());
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 6; ++i) {
        const std::string id = "p" + std::to_string(t) + "-" + std::to_string(i);
        const auto started = runtime_->Start(Shell(id, "sleep 1000"));
        EXPECT_TRUE(started) << started.error().ToString();
        EXPECT_TRUE(runtime_->List());
        const auto outcome = runtime_->Exec(id, {"echo", id}, "", kWaitMillis);
        EXPECT_TRUE(outcome);
        EXPECT_EQ(outcome.value_or(ExecOutcome{}).output, id + "\n");
        EXPECT_TRUE(runtime_->Stop(id, 0));
        EXPECT_TRUE(runtime_->Remove(id));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(runtime_->List()->empty());
}

TEST_P(LifeTest, TheNumberOfInstancesIsBoundedByName) {
  options_.instances_max = 2;
  ASSERT_NO_FATAL_FAILURE(Make());
  Run(Shell("one", "true"));
  Run(Shell("two", "true"));
  const auto refused = runtime_->Start(Shell("three", "true"));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kResourceExhausted);
  EXPECT_THAT(refused.error().message(), HasSubstr("instances_max"));
  EXPECT_TRUE(runtime_->Remove("one"));
  EXPECT_EQ(Run(Shell("three", "true")).exit_code, 0);
}

}  // namespace
}  // namespace tessera::runtime
