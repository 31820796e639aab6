#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "base/rng.h"
#include "os/fd.h"
#include "os/scratch.h"
#include "runtime/cgroups.h"
#include "runtime/log_files.h"
#include "runtime/plan.h"
#include "runtime/record.h"

namespace tessera::runtime {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;

TEST(CgroupMounts, OrdinaryMachine) {
  const CgroupMounts mounts = ParseCgroupMounts(
      "25 30 0:23 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw\n"
      "31 25 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 "
      "rw,nsdelegate\n");
  EXPECT_EQ(mounts.unified, "/sys/fs/cgroup");
  EXPECT_EQ(mounts.unified_root, "/");
  EXPECT_TRUE(mounts.v1.empty());
}

TEST(CgroupMounts, HybridMachineAndContainer) {
  const CgroupMounts mounts = ParseCgroupMounts(
      "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
      "33 31 0:30 /docker/ab /sys/fs/cgroup/memory rw master:1 shared:2 - cgroup cgroup rw,memory\n"
      "41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw - cgroup2 cgroup2 rw\n"
      "broken line\n");
  EXPECT_EQ(mounts.unified, "/sys/fs/cgroup/uni fied");
  ASSERT_TRUE(mounts.v1.contains("cpu"));
  EXPECT_EQ(mounts.v1.at("cpu").point, "/sys/fs/cgroup/cpu,cpuacct");
  EXPECT_EQ(mounts.v1.at("memory").root, "/docker/ab");
}

TEST(CgroupMounts, NothingIsInvented) {
  EXPECT_EQ(ParseCgroupMounts("").unified, "");
  EXPECT_EQ(ParseCgroupMounts("1 2 3 4 5 6 7 8\n- - - -\n").unified, "");
}

TEST(Record, ComesBackAndNoPartOfItIsTakenForTheWhole) {
  Rng rng(20'260'724);
  for (int round = 0; round < 50; ++round) {
    Record record;
    std::vector<std::string> values;
    for (std::uint64_t i = rng.Below(6); i > 0; --i) {
      std::string value;
      for (std::uint64_t n = rng.Below(12); n > 0; --n)
        value += static_cast<char>(1 + rng.Below(255));
      values.push_back(value);
      record.Add("v", value);
    }
    record.AddInt("n", static_cast<std::int64_t>(rng.Next()));
    const std::string bytes = record.Encode();
    Record back;
    ASSERT_TRUE(Record::Decode(bytes, &back));
    EXPECT_EQ(back.All("v"), values);
    EXPECT_EQ(back.GetInt("n"), record.GetInt("n"));
    for (std::size_t n = 0; n < bytes.size(); ++n)
      EXPECT_FALSE(Record::Decode(bytes.substr(0, n), &back));
    EXPECT_FALSE(Record::Decode(bytes + "x", &back));
  }
}

class FolderTest : public ::testing::Test {
 protected:
  const os::ScratchFolder scratch_;
  const os::Fd folder_{open(scratch_.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
};

TEST_F(FolderTest, AWriteReplacesOrLeavesAlone) {
  std::string bytes;
  EXPECT_FALSE(ReadFileAt(folder_.get(), "r", &bytes));
  EXPECT_TRUE(WriteFileAt(folder_.get(), "r", "one"));
  EXPECT_TRUE(WriteFileAt(folder_.get(), "r", "two"));
  ASSERT_TRUE(ReadFileAt(folder_.get(), "r", &bytes));
  EXPECT_EQ(bytes, "two");
  // A folder in the way of the temporary name: the old bytes stay.
  ASSERT_EQ(mkdirat(folder_.get(), "r.new", 0700), 0);
  EXPECT_FALSE(WriteFileAt(folder_.get(), "r", "three"));
  ASSERT_TRUE(ReadFileAt(folder_.get(), "r", &bytes));
  EXPECT_EQ(bytes, "two");
}

TEST_F(FolderTest, TheLogKeepsTheNewestBytesAndSaysWhatItLost) {
  LogWriter log(folder_.get(), 8);
  const auto files = [&] {
    std::vector<std::string> names;
    for (const LogFile& file : ListLogFiles(folder_.get())) {
      std::string bytes;
      ReadFileAt(folder_.get(), file.name.c_str(), &bytes);
      names.push_back(std::to_string(file.offset) + ":" + bytes);
    }
    return names;
  };
  log.Append("ab", 2);
  EXPECT_THAT(files(), ElementsAre("0:ab"));
  log.Append("cdefg", 5);
  EXPECT_THAT(files(), ElementsAre("0:abcd", "4:efg"));
  log.Append("hij", 3);
  EXPECT_THAT(files(), ElementsAre("4:efgh", "8:ij"));
}

TEST_F(FolderTest, WhatTheLogLosesItSays) {
  LogWriter log(folder_.get(), 256);
  const std::string first(128, 'a');
  log.Append(first.data(), first.size());
  // The next file cannot be made: the program's bytes are dropped and counted.
  ASSERT_EQ(mkdirat(folder_.get(), "log.128", 0700), 0);
  log.Append("klmno", 5);
  log.Append("p", 1);
  ASSERT_EQ(unlinkat(folder_.get(), "log.128", AT_REMOVEDIR), 0);
  log.Append("q", 1);
  std::string bytes;
  ASSERT_TRUE(ReadFileAt(folder_.get(), "log.128", &bytes));
  EXPECT_EQ(bytes, "\n[tessera: 6 bytes of this log could not be written]\nq");
}

TEST(Environment, TheNodeWinsAndLibrariesAreJoined) {
  Options options;
  options.guest_library = "/lib/guest.so";
  options.guest_folder = "/g";
  Spec spec;
  spec.id = "i";
  spec.workload.environment = {"PATH=/mine", "CUDA_VISIBLE_DEVICES=all", "LD_LIBRARY_PATH=/t"};
  spec.environment = {"CUDA_VISIBLE_DEVICES=GPU-1"};
  PlanContext context;
  context.contained = true;
  auto environment = MakeEnvironment(options, spec, context);
  EXPECT_THAT(environment, Contains("PATH=/mine"));
  EXPECT_THAT(environment, Contains("CUDA_VISIBLE_DEVICES=GPU-1"));
  EXPECT_THAT(environment, Contains("LD_LIBRARY_PATH=/t"));
  EXPECT_THAT(environment, Contains("HOME=/run/home"));
  EXPECT_THAT(environment, testing::Not(Contains(testing::StartsWith("LD_PRELOAD="))));
  EXPECT_THAT(environment, testing::Not(Contains(testing::StartsWith("TESSERA_SOCKET="))));
  context.contained = false;
  context.folder = "/f/i";
  spec.environment.push_back("LD_LIBRARY_PATH=/n");
  environment = MakeEnvironment(options, spec, context);
  EXPECT_THAT(environment, Contains("LD_LIBRARY_PATH=/n:/t"));
  EXPECT_THAT(environment, Contains("LD_PRELOAD=/lib/guest.so"));
  EXPECT_THAT(environment, Contains("TESSERA_SOCKET=/g/guest.sock"));
  EXPECT_THAT(environment, Contains("HOME=/f/i/home"));
}

TEST(Options, AreCheckedByField) {
  Options good;
  good.folder = "/tmp/x";
  good.guest_folder = "/tmp";
  ASSERT_TRUE(CheckOptions(good));
  const auto field = [&](auto spoil) {
    Options bad = good;
    spoil(&bad);
    const Status status = CheckOptions(bad);
    return status ? "" : status.error().field();
  };
  EXPECT_EQ(field([](Options* o) { o->folder = "x"; }), "folder");
  EXPECT_EQ(field([](Options* o) { o->guest_folder = "/no/such"; }), "guest_folder");
  EXPECT_EQ(field([](Options* o) { o->guest_library = "/no/such"; }), "guest_library");
  EXPECT_EQ(field([](Options* o) { o->guest_library = "/tmp"; }), "guest_library");
  EXPECT_EQ(field([](Options* o) { o->cgroup_parent = "a/b"; }), "cgroup_parent");
  EXPECT_EQ(field([](Options* o) { o->cgroup_parent = ".."; }), "cgroup_parent");
  EXPECT_EQ(field([](Options* o) { o->uid_first = 0; }), "uid_first");
  EXPECT_EQ(field([](Options* o) { o->uid_count = 0; }), "uid_count");
  EXPECT_EQ(field([](Options* o) { o->instances_max = 0; }), "instances_max");
  EXPECT_EQ(field([](Options* o) { o->tasks_max = 1; }), "tasks_max");
  EXPECT_EQ(field([](Options* o) { o->log_bytes_max = 100; }), "log_bytes_max");
}

}  // namespace
}  // namespace tessera::runtime
