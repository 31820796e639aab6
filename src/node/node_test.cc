#include "node/node.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <thread>

#include <gtest/gtest.h>

#include "broker/test_guest.h"
#include "node/test_node.h"

namespace tessera::node {
namespace {

using runtime::Workload;

Workload Sleep() {
  return {.argv = {"sleep", "1"},
          .environment = {},
          .directory = "",
          .rootfs = "",
          .cpu_millis = 500,
          .ram_bytes = kGiB};
}

bool Eventually(const std::function<bool()>& holds) {
  for (int i = 0; i < 6000; ++i) {
    if (holds()) return true;
    usleep(10'000);
  }
  return false;
}

TEST(NodeTest, ASliceIsReservedOnceHoweverOftenItIsPut) {
  TestNode t;
  ASSERT_TRUE(t.Restart());
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(t.node->PutSlice("a", 1, {t.Share(0, 4 * kGiB)}));
  EXPECT_EQ(t.Reserved(0), 4 * kGiB);
  EXPECT_EQ(t.node->PutSlice("a", 1, {t.Share(0, 5 * kGiB)}).error().code(), Code::kAlreadyExists);
  ASSERT_TRUE(t.node->PutSlice("a", 3, {t.Share(0, 5 * kGiB)}));
  EXPECT_EQ(t.Reserved(0), 5 * kGiB);
  EXPECT_EQ(t.node->PutSlice("a", 2, {t.Share(0, 5 * kGiB)}).error().code(), Code::kAborted);
  EXPECT_EQ(t.node->PutSlice("a", 4, {t.Share(1, 5 * kGiB)}).error().code(),
            Code::kFailedPrecondition);
  EXPECT_EQ(t.Reserved(0), 5 * kGiB);
  ASSERT_TRUE(t.node->DeleteSlice("a"));
  ASSERT_TRUE(t.node->DeleteSlice("a"));
  EXPECT_EQ(t.Reserved(0), 0u);
  EXPECT_EQ(t.node->GetSlice("a").error().code(), Code::kNotFound);
}

// What is kept for the scheduler outlives the node, unread; a record of before there were memos
// loads as one without.
TEST(NodeTest, AMemoOutlivesTheNodeAndOldRecordsLoad) {
  TestNode t;
  ASSERT_TRUE(t.Restart());
  const std::string memo = "not JSON \"at\\all\xC3\xA9";
  ASSERT_TRUE(t.node->PutInstance("i", 1, {t.Share(0, kGiB)}, Sleep(), memo));
  ASSERT_TRUE(t.Restart());
  EXPECT_EQ(t.node->GetInstance("i")->memo, memo);
  EXPECT_EQ(t.node->GetInstance("i")->cpu_millis, Sleep().cpu_millis);
  t.node.reset();
  const std::string file = t.folder + "/state/records/i.json";
  std::string text = *os::PosixFiles().Read(file);
  const auto begin = text.find("\"memo\":");
  ASSERT_NE(begin, std::string::npos);
  const auto end = text.find("\"exit_code\":");
  text.erase(begin, end - begin);
  ASSERT_TRUE(os::PosixFiles().WriteAtomically(file, text));
  ASSERT_TRUE(t.Restart());
  const auto old = t.node->GetInstance("i");
  ASSERT_TRUE(old) << old.error().ToString();
  EXPECT_EQ(old->phase, Phase::kRunning);
  EXPECT_EQ(old->memo, "");
  ASSERT_TRUE(t.node->StopInstance("i", 1));
}

TEST(NodeTest, WhatDoesNotFitIsRefusedByName) {
  TestNode t;
  ASSERT_TRUE(t.Restart());
  ASSERT_TRUE(t.node->PutSlice("a", 1, {t.Share(0, 7 * kGiB, 600)}));
  const auto memory = t.node->PutSlice("b", 1, {t.Share(0, 4 * kGiB)});
  EXPECT_EQ(memory.error().code(), Code::kResourceExhausted);
  EXPECT_NE(memory.error().message().find("memory: asked 4 GiB"), std::string::npos);
  EXPECT_NE(memory.error().message().find("free 3 GiB"), std::string::npos);
  const auto compute = t.node->PutSlice("b", 1, {t.Share(0, kGiB, 401)});
  EXPECT_EQ(compute.error().code(), Code::kResourceExhausted);
  EXPECT_NE(compute.error().message().find("compute"), std::string::npos);
  // All or nothing: the first of two shares fits.
  EXPECT_FALSE(t.node->PutSlice("b", 1, {t.Share(1, kGiB), t.Share(0, 4 * kGiB)}));
  EXPECT_EQ(t.Reserved(1), 0u);
  EXPECT_EQ(t.node->PutSlice("b", 1, {{"GPU-none", kGiB, {1}}}).error().field(), "shares[0].card");
  EXPECT_EQ(t.node->PutSlice("b", 1, {t.Share(1, kMiB)}).error().field(), "shares[0].memory_bytes");
  EXPECT_EQ(t.node->PutSlice("b", 1, {t.Share(1, kGiB, 1001)}).error().field(),
            "shares[0].compute_permille");
  EXPECT_EQ(t.node->PutSlice("b/c", 1, {t.Share(1, kGiB)}).error().field(), "id");
  EXPECT_EQ(t.node->PutSlice("b", 0, {t.Share(1, kGiB)}).error().field(), "generation");
  EXPECT_EQ(t.node->PutSlice("b", 1, {}).error().field(), "shares");
  t.vendor->SetHealth(t.uuids[1], false, "fell off the bus");
  t.node->RefreshTelemetry();
  const auto ill = t.node->PutSlice("b", 1, {t.Share(1, kGiB)});
  EXPECT_EQ(ill.error().code(), Code::kFailedPrecondition);
  EXPECT_NE(ill.error().message().find("fell off the bus"), std::string::npos);
  auto heavy = Sleep();
  heavy.cpu_millis = 4001;
  EXPECT_NE(t.node->PutInstance("i", 1, {t.Share(0, kGiB)}, heavy).error().message().find("cpu"),
            std::string::npos);
  heavy = Sleep();
  heavy.ram_bytes = 9 * kGiB;
  EXPECT_NE(t.node->PutInstance("i", 1, {t.Share(0, kGiB)}, heavy).error().message().find("ram"),
            std::string::npos);
  EXPECT_EQ(t.node->Slices().size(), 1u);
}

TEST(NodeTest, TheContextIsMeasuredOnceACardAndDriver) {
  TestNode t;
  t.vendor->SetContextBytes(300 * kMiB);
  ASSERT_TRUE(t.Restart());
  EXPECT_EQ(t.node->Cards()[0].card.context_bytes, 300 * kMiB);
  t.vendor->SetContextBytes(500 * kMiB);  // A second measurement would show.
  ASSERT_TRUE(t.Restart());
  EXPECT_EQ(t.node->Cards()[0].card.context_bytes, 300 * kMiB);
}

TEST(NodeTest, ConcurrentAllocationsNeverDoubleBook) {
  TestNode t;
  ASSERT_TRUE(t.Restart());
  std::atomic<int> got{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      placement::Request request;
      request.memory_bytes = 4 * kGiB;
      request.compute = Permille{400};
      const auto slice = t.node->Allocate(request);
      if (slice) {
        ++got;
      } else {
        EXPECT_EQ(slice.error().code(), Code::kResourceExhausted);
        EXPECT_NE(slice.error().message().find("memory"), std::string::npos)
            << slice.error().message();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(got, 4);  // Two a card.
  EXPECT_EQ(t.Reserved(0), 8 * kGiB);
  EXPECT_EQ(t.Reserved(1), 8 * kGiB);
  placement::Request never;
  never.memory_bytes = 11 * kGiB;
  never.compute = Permille{1};
  EXPECT_EQ(t.node->Allocate(never).error().code(), Code::kFailedPrecondition);
}

TEST(NodeTest, AnAllocationEndsWithItsRootProcess) {
  TestNode t;
  ASSERT_TRUE(t.Restart(nullptr, /*background=*/true));
  placement::Request request;
  request.memory_bytes = kGiB;
  request.compute = Permille{100};
  const auto slice = t.node->Allocate(request);
  ASSERT_TRUE(slice);
  const pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) pause();
  }
  ASSERT_TRUE(t.node->AddMember(slice->id, child));
  EXPECT_EQ(t.node->DeleteSlice(slice->id).error().code(), Code::kFailedPrecondition);
  EXPECT_EQ(t.node->AddMember("none", child).error().code(), Code::kNotFound);
  // The same process cannot be in two slices.
  ASSERT_TRUE(t.node->PutSlice("other", 1, {t.Share(0, kGiB)}));
  EXPECT_EQ(t.node->AddMember("other", child).error().code(), Code::kFailedPrecondition);
  usleep(1'200'000);  // More than two rounds of housekeeping.
  EXPECT_TRUE(t.node->GetSlice(slice->id));
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_TRUE(Eventually([&] { return !t.node->GetSlice(slice->id); }));
  EXPECT_EQ(t.node->AddMember("other", child).error().field(), "pid");
  EXPECT_EQ(t.Reserved(0) + t.Reserved(1), kGiB);
}

TEST(NodeTest, AnInstanceRunsEndsAndGivesItsShareBack) {
  TestNode t;
  ASSERT_TRUE(t.Restart(nullptr, /*background=*/true));
  const auto started = t.node->PutInstance("i", 1, {t.Share(0, 4 * kGiB)}, Sleep());
  ASSERT_TRUE(started) << started.error().ToString();
  EXPECT_EQ(started->phase, Phase::kRunning);
  EXPECT_EQ(t.node->State().cpu_reserved_millis, 500u);
  EXPECT_EQ(t.node->State().ram_reserved_bytes, kGiB);
  ASSERT_TRUE(t.node->PutInstance("i", 1, {t.Share(0, 4 * kGiB)}, Sleep()));
  EXPECT_EQ(t.runner.running(), 1u);
  const auto& environment = t.runner.SpecOf("i").environment;
  EXPECT_NE(std::find(environment.begin(), environment.end(), "CUDA_VISIBLE_DEVICES=" + t.uuids[0]),
            environment.end());
  auto other = Sleep();
  other.argv.push_back("x");
  EXPECT_EQ(t.node->PutInstance("i", 1, {t.Share(0, 4 * kGiB)}, other).error().code(),
            Code::kAlreadyExists);
  EXPECT_EQ(t.node->PutInstance("i", 2, {t.Share(0, 4 * kGiB)}, other).error().code(),
            Code::kFailedPrecondition);
  EXPECT_EQ(t.node->PutSlice("i", 1, {t.Share(0, 4 * kGiB)}).error().code(), Code::kAlreadyExists);
  EXPECT_EQ(t.node->DeleteSlice("i").error().code(), Code::kFailedPrecondition);
  EXPECT_EQ(t.node->DeleteInstance("i").error().code(), Code::kFailedPrecondition);

  t.runner.End("i", 7);  // By itself; the node notices.
  EXPECT_TRUE(Eventually(
      [&] { return t.node->GetInstance("i")->phase == Phase::kExited && t.Reserved(0) == 0; }));
  const auto ended = *t.node->GetInstance("i");
  EXPECT_EQ(ended.exit_code, 7);
  EXPECT_EQ(ended.started_wall_micros, 1000);
  EXPECT_EQ(ended.ended_wall_micros, 2000);
  // The status stays until it is deleted, over a restart too, and a newer generation may take the
  // id.
  ASSERT_TRUE(t.Restart());
  EXPECT_EQ(t.node->GetInstance("i")->exit_code, 7);
  EXPECT_EQ(t.Reserved(0), 0u);
  ASSERT_TRUE(t.node->PutInstance("i", 2, {t.Share(0, 4 * kGiB)}, other));
  EXPECT_EQ(t.node->StopInstance("i", 1).error().code(), Code::kAborted);
  EXPECT_EQ(t.node->StopInstance("i", 2)->exit_code, 143);
  EXPECT_EQ(t.node->StopInstance("i", 2)->exit_code, 143);
  ASSERT_TRUE(t.node->DeleteInstance("i"));
  ASSERT_TRUE(t.node->DeleteInstance("i"));
  EXPECT_EQ(t.node->GetInstance("i").error().code(), Code::kNotFound);
  EXPECT_EQ(t.node->StopInstance("i", 2).error().code(), Code::kNotFound);
}

TEST(NodeTest, AStartThatFailsLeavesNothing) {
  TestNode t;
  ASSERT_TRUE(t.Restart());
  t.runner.FailNext();
  EXPECT_EQ(t.node->PutInstance("i", 1, {t.Share(0, 4 * kGiB)}, Sleep()).error().code(),
            Code::kInternal);
  EXPECT_EQ(t.Reserved(0), 0u);
  EXPECT_TRUE(t.node->Instances().empty());
  EXPECT_TRUE(std::filesystem::is_empty(t.folder + "/state/records"));
  EXPECT_TRUE(std::filesystem::is_empty(t.folder + "/run/slices"));
  ASSERT_TRUE(t.node->PutInstance("i", 1, {t.Share(0, 4 * kGiB)}, Sleep()));
}

TEST(NodeTest, ARestartAdoptsWhatRunsAndLearnsWhatEnded) {
  TestNode t;
  ASSERT_TRUE(t.Restart());
  ASSERT_TRUE(t.node->PutSlice("s", 4, {t.Share(1, 3 * kGiB)}));
  ASSERT_TRUE(t.node->PutInstance("stays", 1, {t.Share(0, 4 * kGiB)}, Sleep()));
  ASSERT_TRUE(t.node->PutInstance("ends", 1, {t.Share(0, 4 * kGiB)}, Sleep()));
  t.node.reset();
  t.runner.End("ends", 3);
  ASSERT_TRUE(t.Restart());
  EXPECT_EQ(t.node->GetInstance("stays")->phase, Phase::kRunning);
  EXPECT_EQ(t.node->GetInstance("ends")->phase, Phase::kExited);
  EXPECT_EQ(t.node->GetInstance("ends")->exit_code, 3);
  EXPECT_EQ(t.Reserved(0), 4 * kGiB);
  EXPECT_EQ(t.Reserved(1), 3 * kGiB);
  EXPECT_EQ(t.node->GetSlice("s")->generation, 4u);
  // After a reboot pages are gone with the run folder, and allocations with their processes.
  placement::Request request;
  request.memory_bytes = kGiB;
  request.compute = Permille{1};
  ASSERT_TRUE(t.node->Allocate(request));
  t.node.reset();
  std::filesystem::remove_all(t.folder + "/run");
  t.boot_id = "boot-2";
  t.runner.End("stays", 137);
  ASSERT_TRUE(t.Restart());
  EXPECT_EQ(t.node->GetInstance("stays")->exit_code, 137);
  EXPECT_EQ(t.node->Slices().size(), 1u);
  EXPECT_EQ(t.Reserved(0), 0u);
  EXPECT_EQ(t.Reserved(1), 3 * kGiB);
  EXPECT_TRUE(std::filesystem::exists(t.folder + "/run/slices/s/control"));
}

TEST(NodeTest, ADamagedRecordStopsTheStartAndIsNamed) {
  TestNode t;
  ASSERT_TRUE(t.Restart());
  ASSERT_TRUE(t.node->PutSlice("s", 1, {t.Share(0, 3 * kGiB)}));
  t.node.reset();
  const std::string path = t.folder + "/state/records/s.json";
  std::filesystem::resize_file(path, 20);
  const auto started = t.Restart();
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().code(), Code::kDataLoss);
  EXPECT_NE(started.error().message().find(path), std::string::npos);
}

// A program that reaches the driver past the library shows up in the driver's own figures.
TEST(NodeTest, WhatTheDriverSaysBeyondTheLedgerIsCounted) {
  TestNode t;
  ASSERT_TRUE(t.Restart(nullptr, /*background=*/true));
  ASSERT_TRUE(t.node->PutSlice("s", 1, {t.Share(0, 4 * kGiB)}));
  ASSERT_TRUE(t.node->AddMember("s", getpid()));
  broker::TestGuest guest;
  ASSERT_EQ(guest.Attach(t.node->guest_socket()), wire::kStatusOk);
  ASSERT_TRUE(guest.Reserve(0, kGiB));
  t.vendor->SetProcesses(t.uuids[0], {{getpid(), kGiB}, {1, 5 * kGiB}});
  EXPECT_TRUE(Eventually([&] { return t.node->GetSlice("s")->audit[0].driver == kGiB; }));
  EXPECT_EQ(t.node->GetSlice("s")->overruns, 0u);
  t.vendor->SetProcesses(t.uuids[0], {{getpid(), 2 * kGiB}});
  EXPECT_TRUE(Eventually([&] { return t.node->GetSlice("s")->overruns > 0; }));
  EXPECT_EQ(t.node->GetSlice("s")->audit[0].recomputed, kGiB);
  guest.Release(0, kGiB);
}

}  // namespace
}  // namespace tessera::node
