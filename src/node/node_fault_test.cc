#include <gtest/gtest.h>

#include <atomic>

#include "node/node.h"
#include "node/test_node.h"

namespace tessera::node {
namespace {

runtime::Workload Sleep() {
  return {.argv = {"sleep", "1"},
          .environment = {},
          .directory = "",
          .rootfs = "",
          .cpu_millis = 500,
          .ram_bytes = kGiB};
}

// Fails `width` mutating calls in a row from the n-th on.
class FaultyRun : public os::Files {
 public:
  FaultyRun(int first, int width) : first_(first), width_(width) {}
  Result<std::string> Read(const std::string& path) override { return under_.Read(path); }
  Status WriteAtomically(const std::string& path, std::string_view bytes) override {
    return Fails() ? Injected(path) : under_.WriteAtomically(path, bytes);
  }
  Status Poke(const std::string& path, std::string_view bytes) override {
    return Fails() ? Injected(path) : under_.Poke(path, bytes);
  }
  Status MakeDirs(const std::string& path, unsigned mode) override {
    return Fails() ? Injected(path) : under_.MakeDirs(path, mode);
  }
  Status Remove(const std::string& path) override {
    return Fails() ? Injected(path) : under_.Remove(path);
  }
  Result<std::vector<std::string>> List(const std::string& path) override {
    return under_.List(path);
  }
  bool Exists(const std::string& path) override { return under_.Exists(path); }
  int calls() const { return calls_; }

 private:
  static Status Injected(const std::string& path) {
    return Error(Code::kInternal, "injected fault at " + path);
  }
  bool Fails() {
    const int call = calls_++;
    return call >= first_ && call < first_ + width_;
  }
  os::Files& under_ = os::PosixFiles();
  int first_;
  int width_;
  std::atomic<int> calls_{0};
};

class NodeFaultTest : public testing::TestWithParam<int> {};

// From the n-th on, one or three writes of a whole life fail, for every n; three also break the
// undoing. Whatever was answered holds after a restart, nothing is booked twice, and the same calls
// once more lead to the same end.
TEST_P(NodeFaultTest, NothingIsLostOrBookedTwice) {
  int steps = 0;
  for (int fail_at = 0;; ++fail_at) {
    SCOPED_TRACE("fail_at " + std::to_string(fail_at));
    TestNode t;
    FaultyRun faulty(fail_at, GetParam());
    std::map<std::string, std::uint64_t> promised;  // id -> bytes on card 0, as answered
    const auto life = [&](bool again) {
      if (!t.node) return;
      const auto keep = [&](const std::string& id, std::uint64_t bytes, const auto& answer) {
        if (answer) promised[id] = bytes;
        if (again) {
          EXPECT_TRUE(answer) << id << ": " << answer.error().ToString();
        }
      };
      keep("t", kGiB, t.node->PutSlice("t", 1, {t.Share(0, kGiB)}));  // Written once only.
      keep("s", 2 * kGiB, t.node->PutSlice("s", 1, {t.Share(0, 2 * kGiB)}));
      keep("s", 3 * kGiB, t.node->PutSlice("s", 2, {t.Share(0, 3 * kGiB)}));
      keep("i", 2 * kGiB, t.node->PutInstance("i", 1, {t.Share(0, 2 * kGiB)}, Sleep()));
      keep("j", 4 * kGiB, t.node->PutInstance("j", 1, {t.Share(0, 4 * kGiB)}, Sleep()));
      if (t.node->StopInstance("j", 1)) {
        promised.erase("j");
      } else {
        EXPECT_FALSE(again && t.node->GetInstance("j"));
      }
      if (t.node->DeleteInstance("j")) promised.erase("j");
      // Fits only if something above was refused, and then that must not come back.
      if (t.node->PutSlice("u", 1, {t.Share(0, 5 * kGiB)})) promised["u"] = 5 * kGiB;
      t.node->Tick();
    };
    const auto check = [&](const char* when) {
      SCOPED_TRACE(when);
      std::uint64_t sum = 0;
      for (const SliceView& slice : t.node->Slices()) sum += slice.shares[0].memory_bytes;
      EXPECT_GE(t.Reserved(0), sum);
      EXPECT_LE(t.Reserved(0), 10 * kGiB);
      for (const auto& [id, bytes] : promised) {
        const auto slice = t.node->GetSlice(id);
        ASSERT_TRUE(slice) << id << " was promised and is lost";
        EXPECT_GE(slice->shares[0].memory_bytes, bytes) << id;
        EXPECT_TRUE(std::filesystem::exists(t.folder + "/run/slices/" + id + "/control"));
      }
    };
    const bool up = static_cast<bool>(t.Restart(&faulty));
    life(false);
    if (up) check("after the fault");
    steps = faulty.calls();
    ASSERT_TRUE(t.Restart());
    check("after the restart");
    for (const std::string id : {"i", "j"}) {
      const auto instance = t.node->GetInstance(id);
      // Whatever runs is known, and whatever is known to run runs.
      const auto report = t.runner.Inspect(id);
      const bool runs = report && report->state == runtime::State::kRunning;
      EXPECT_EQ(runs, instance && instance->phase == Phase::kRunning) << id;
    }
    if (t.node->GetInstance("j")) {
      if (t.node->GetInstance("j")->phase == Phase::kRunning) {
        ASSERT_TRUE(t.node->StopInstance("j", 1));
      }
      ASSERT_TRUE(t.node->DeleteInstance("j"));
    }
    if (const auto s = t.node->GetSlice("s"); s && s->generation == 2) {
      ASSERT_TRUE(t.node->DeleteSlice("s"));
    }
    promised.erase("u");
    ASSERT_TRUE(t.node->DeleteSlice("u"));
    life(true);
    EXPECT_EQ(t.Reserved(0), 6 * kGiB);
    EXPECT_EQ(t.node->Slices().size(), 3u);
    EXPECT_EQ(t.runner.running(), 1u);
    ASSERT_TRUE(t.Restart());
    EXPECT_EQ(t.Reserved(0), 6 * kGiB);
    if (fail_at >= steps) break;
  }
  EXPECT_GT(steps, 25);
}

INSTANTIATE_TEST_SUITE_P(Widths, NodeFaultTest, testing::Values(1, 3));

}  // namespace
}  // namespace tessera::node
