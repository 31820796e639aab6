#include "os/files.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <thread>

#include <gtest/gtest.h>

namespace tessera::os {
namespace {

class FilesTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/tfXXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    folder_ = name;
  }
  void TearDown() override {
    if (auto names = files_.List(folder_)) {
      for (const auto& name : *names) ASSERT_TRUE(files_.Remove(folder_ + "/" + name));
    }
    ASSERT_TRUE(files_.Remove(folder_));
  }
  std::string Path(const char* name) const { return folder_ + "/" + name; }

  Files& files_ = PosixFiles();
  std::string folder_;
};

TEST_F(FilesTest, WriteReadRemove) {
  EXPECT_EQ(files_.Read(Path("a")).error().code(), Code::kNotFound);
  ASSERT_TRUE(files_.WriteAtomically(Path("a"), "one"));
  ASSERT_TRUE(files_.WriteAtomically(Path("a"), "two"));
  EXPECT_EQ(*files_.Read(Path("a")), "two");
  EXPECT_TRUE(files_.Exists(Path("a")));
  ASSERT_TRUE(files_.Remove(Path("a")));
  EXPECT_TRUE(files_.Remove(Path("a")));
  EXPECT_FALSE(files_.Exists(Path("a")));
}

TEST_F(FilesTest, BinaryAndLargeContentsSurvive) {
  std::string bytes(300'000, '\0');
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 31);
  ASSERT_TRUE(files_.WriteAtomically(Path("b"), bytes));
  EXPECT_EQ(*files_.Read(Path("b")), bytes);
}

TEST_F(FilesTest, AFailedWriteKeepsTheOldBytesAndLeavesNoTemporary) {
  ASSERT_TRUE(files_.MakeDirs(Path("d"), 0755));
  // The rename fails because the target is a folder; the temporary file must be gone.
  EXPECT_FALSE(files_.WriteAtomically(Path("d"), "x"));
  EXPECT_EQ(*files_.List(folder_), std::vector<std::string>{"d"});
  EXPECT_FALSE(files_.WriteAtomically(Path("missing/a"), "x"));
}

TEST_F(FilesTest, ReadersSeeOldOrNewNeverAMixture) {
  const std::string old_bytes(70'000, 'o');
  const std::string new_bytes(90'000, 'n');
  ASSERT_TRUE(files_.WriteAtomically(Path("a"), old_bytes));
  std::thread writer([&] {
    for (int i = 0; i < 20; ++i) {
      EXPECT_TRUE(files_.WriteAtomically(Path("a"), i % 2 ? old_bytes : new_bytes));
    }
  });
  for (int i = 0; i < 200; ++i) {
    const auto seen = files_.Read(Path("a"));
    ASSERT_TRUE(seen);
    EXPECT_TRUE(*seen == old_bytes || *seen == new_bytes);
  }
  writer.join();
}

// Every mutating call fails once; whatever was there before stays whole.
TEST_F(FilesTest, FaultLoopKeepsOldOrNew) {
  int calls = 0;
  for (int fail_at = 0;; ++fail_at) {
    ASSERT_TRUE(files_.WriteAtomically(Path("a"), "old"));
    FaultyFiles faulty(files_, fail_at);
    const auto work = [&]() -> Status {
      TRY_STATUS(faulty.MakeDirs(Path("sub"), 0700));
      TRY_STATUS(faulty.WriteAtomically(Path("a"), "new"));
      TRY_STATUS(faulty.Poke(Path("a"), "NEW"));
      TRY_STATUS(faulty.Remove(Path("sub")));
      return {};
    };
    const Status done = work();
    const std::string seen = *files_.Read(Path("a"));
    if (done) {
      EXPECT_EQ(seen, "NEW");
      calls = faulty.calls();
      break;
    }
    EXPECT_EQ(done.error().code(), Code::kInternal);
    EXPECT_EQ(seen, fail_at <= 1 ? "old" : fail_at == 2 ? "new" : "NEW");
  }
  EXPECT_EQ(calls, 4);
}

TEST_F(FilesTest, MakeDirsSetsTheModeWhateverTheUmaskAndAcceptsExisting) {
  const mode_t before = umask(0077);
  EXPECT_TRUE(files_.MakeDirs(Path("m"), 0755));
  umask(before);
  struct stat info{};
  ASSERT_EQ(stat(Path("m").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0755u);
  EXPECT_TRUE(files_.MakeDirs(Path("m"), 0755));
  ASSERT_TRUE(files_.WriteAtomically(Path("f"), ""));
  EXPECT_EQ(files_.MakeDirs(Path("f"), 0755).error().code(), Code::kFailedPrecondition);
}

TEST_F(FilesTest, PokeNeedsAnExistingFileAndListIsSorted) {
  EXPECT_EQ(files_.Poke(Path("p"), "1").error().code(), Code::kNotFound);
  ASSERT_TRUE(files_.WriteAtomically(Path("z"), ""));
  ASSERT_TRUE(files_.WriteAtomically(Path("p"), ""));
  ASSERT_TRUE(files_.Poke(Path("p"), "1"));
  EXPECT_EQ(*files_.Read(Path("p")), "1");
  EXPECT_EQ(*files_.List(folder_), (std::vector<std::string>{"p", "z"}));
  EXPECT_EQ(files_.List(Path("none")).error().code(), Code::kNotFound);
}

}  // namespace
}  // namespace tessera::os
