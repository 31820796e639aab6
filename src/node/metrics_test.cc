// What the node tells Prometheus about slices, to the last character: a node over cards whose
// figures the test sets, and processes that speak the pages' protocol by hand.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <functional>
#include <sstream>

#include "broker/test_guest.h"
#include "node/api.h"
#include "node/test_node.h"

namespace tessera::node {
namespace {

bool Eventually(const std::function<bool()>& holds) {
  for (int i = 0; i < 500; ++i) {
    if (holds()) return true;
    usleep(10'000);
  }
  return false;
}

// A member of slice "s" that has done what `work` does when the constructor returns.
class Member {
 public:
  Member(TestNode& t, const std::function<bool(broker::TestGuest&)>& work) {
    int go[2], ready[2];
    if (pipe(go) != 0 || pipe(ready) != 0) std::abort();
    pid_ = fork();
    if (pid_ == 0) {
      char byte = 0;
      broker::TestGuest guest;
      const bool good = read(go[0], &byte, 1) == 1 &&
                        guest.Attach(t.node->guest_socket()) == wire::kStatusOk && work(guest);
      byte = good ? 'y' : 'n';
      if (write(ready[1], &byte, 1) != 1) _exit(1);
      for (;;) pause();
    }
    EXPECT_TRUE(t.node->AddMember("s", pid_));
    char byte = 'x';
    EXPECT_EQ(write(go[1], &byte, 1), 1);
    EXPECT_EQ(read(ready[0], &byte, 1), 1);
    EXPECT_EQ(byte, 'y');
    for (const int fd : {go[0], go[1], ready[0], ready[1]}) close(fd);
  }
  ~Member() { Kill(); }
  Member(const Member&) = delete;
  Member& operator=(const Member&) = delete;
  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = 0;
};

std::string SliceLines(metrics::Registry& registry) {
  std::istringstream text(registry.Text());
  std::string lines;
  for (std::string line; std::getline(text, line);) {
    if (line.find("tessera_slice_") != std::string::npos) lines += line + "\n";
  }
  return lines;
}

TEST(NodeMetricsTest, WhatASliceShowsIsGolden) {
  os::FakeClock clock;
  TestNode t;
  t.clock = &clock;
  ASSERT_TRUE(t.Restart());
  metrics::Registry registry;
  ExportMetrics(*t.node, registry);
  ASSERT_TRUE(t.node->PutSlice("s", 1, {t.Share(0, 4 * kGiB, 500)},
                               {.pinned_bytes = 64 * kMiB, .pod = "team/trainer-0"}));
  ASSERT_TRUE(t.node->PutSlice("u", 1, {t.Share(1, 2 * kGiB)}));
  ASSERT_TRUE(t.node->PutInstance("i-7", 1, {t.Share(1, kGiB)}, {.argv = {"true"}}));
  const auto work = [](broker::TestGuest& guest) {
    wire::Store(&guest.slot->launches, std::uint64_t{5});
    wire::Store(&guest.slot->gate_wait_nanos, std::uint64_t{2'500'000'000});
    if (guest.Reserve(wire::kHostRow, 65 * kMiB)) return false;
    __atomic_fetch_add(&guest.usage->cards[wire::kHostRow].refusals, 1, __ATOMIC_SEQ_CST);
    return guest.Reserve(0, kGiB) && guest.Reserve(wire::kHostRow, 24 * kMiB);
  };
  Member first(t, work), second(t, work);
  // Two of 24 MiB fit 64 MiB; a third would not, and what the first held is free when it has ended.
  const auto sample = [&] {
    t.node->RefreshTelemetry();
    t.node->Audit();
    return SliceLines(registry);
  };
  t.vendor->SetProcesses(t.uuids[0], {{first.pid(), kGiB}, {second.pid(), kGiB}});
  t.vendor->SetBusy(t.uuids[0], {{first.pid(), Permille{150}}, {second.pid(), Permille{100}}});
  sample();
  clock.AdvanceMicros(3'000'000);
  const std::string text = sample();
  const std::string golden = TESSERA_NODE_SOURCE "/metrics.golden";
  if (std::getenv("TESSERA_GOLDEN_WRITE") != nullptr) std::ofstream(golden) << text;
  std::stringstream expected;
  expected << std::ifstream(golden).rdbuf();
  EXPECT_EQ(text, expected.str()) << "./dev golden rewrites " << golden;

  // What a process did stays with its slice when it is killed; what it held does not.
  const std::string labels = "{instance=\"\",pod=\"team/trainer-0\",slice=\"s\"} ";
  const auto has = [](const std::string& lines, const std::string& line) {
    return lines.find(line + "\n") != std::string::npos;
  };
  ASSERT_TRUE(has(text, "tessera_slice_pinned_bytes" + labels + "50331648"));
  first.Kill();
  ASSERT_TRUE(Eventually(
      [&] { return has(sample(), "tessera_slice_pinned_bytes" + labels + "25165824"); }));
  EXPECT_TRUE(has(sample(), "tessera_slice_gate_wait_seconds_total" + labels + "5"));
  EXPECT_TRUE(has(sample(), "tessera_slice_submissions_total" + labels + "10"));
  Member third(t, work);
  EXPECT_TRUE(has(sample(), "tessera_slice_submissions_total" + labels + "15"));
  EXPECT_TRUE(has(sample(), "tessera_slice_pinned_bytes" + labels + "50331648"));

  // A slice that is gone leaves no series.
  second.Kill();
  third.Kill();
  ASSERT_TRUE(Eventually([&] { return static_cast<bool>(t.node->DeleteSlice("s")); }));
  EXPECT_EQ(SliceLines(registry).find("trainer-0"), std::string::npos);
}

TEST(NodeMetricsTest, TheTermsOfASliceOutliveTheNodeAndChangeWithItsGeneration) {
  TestNode t;
  ASSERT_TRUE(t.Restart());
  const SliceTerms terms{.pinned_bytes = kGiB, .pod = "team/a"};
  ASSERT_TRUE(t.node->PutSlice("s", 1, {t.Share(0, 4 * kGiB)}, terms));
  ASSERT_TRUE(t.node->PutSlice("s", 1, {t.Share(0, 4 * kGiB)}, terms));
  EXPECT_EQ(t.node->PutSlice("s", 1, {t.Share(0, 4 * kGiB)}).error().code(), Code::kAlreadyExists);
  ASSERT_TRUE(t.Restart());
  EXPECT_EQ(t.node->GetSlice("s")->terms, terms);
  const auto pins = [&](std::uint64_t bytes) {
    bool fitted = false;
    const auto pin = [&](broker::TestGuest& guest) { return guest.Reserve(wire::kHostRow, bytes); };
    const auto no_pin = [&](broker::TestGuest& guest) {
      return !guest.Reserve(wire::kHostRow, bytes + 1);
    };
    {
      const Member over(t, no_pin);
    }
    EXPECT_TRUE(Eventually([&] { return t.node->GetSlice("s")->pinned.used == 0; }));
    {
      const Member within(t, pin);
      fitted = t.node->GetSlice("s")->pinned.used == bytes;
    }
    EXPECT_TRUE(Eventually([&] { return t.node->GetSlice("s")->pinned.used == 0; }));
    return fitted;
  };
  EXPECT_TRUE(pins(kGiB));
  ASSERT_TRUE(t.node->PutSlice("s", 2, {t.Share(0, 4 * kGiB)}, {.pinned_bytes = kMiB}));
  EXPECT_TRUE(pins(kMiB));
  ASSERT_TRUE(t.node->PutSlice("s", 3, {t.Share(0, 4 * kGiB)}));
  EXPECT_TRUE(pins(wire::kUnlimitedBytes));
  // An instance may pin what it rents of the machine's memory.
  ASSERT_TRUE(
      t.node->PutInstance("i", 1, {t.Share(1, kGiB)}, {.argv = {"true"}, .ram_bytes = 2 * kGiB}));
  EXPECT_EQ(t.node->GetSlice("i")->terms.pinned_bytes, 2 * kGiB);
}

}  // namespace
}  // namespace tessera::node
