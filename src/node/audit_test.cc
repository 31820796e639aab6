// The audit of single processes: the judgement by samples, then a node with real processes, then a
// program on the software GPU that goes past the library.
#include "node/audit.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <functional>

#include "base/log.h"
#include "broker/test_guest.h"
#include "node/api.h"
#include "node/test_node.h"
#include "node/test_simulated_node.h"
#include "runtime/cgroups.h"
#ifdef TESSERA_GUEST_TENANT
#include "guest/test_tenant.h"
#include "wire/messages.h"
#endif

namespace tessera::node {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr std::int64_t kSecond = 1'000'000'000;

CardHolder Holder(pid_t pid, const std::string& slice, bool session, std::uint64_t driver,
                  std::uint64_t ledger) {
  return {{pid, 7}, "GPU-a", slice, session, driver, ledger};
}
std::vector<std::string> Words(const std::vector<Verdict>& verdicts) {
  std::vector<std::string> words;
  for (const Verdict& verdict : verdicts) {
    words.push_back(std::to_string(verdict.holder.process.pid) + " " +
                    std::string(AuditFindingName(verdict.finding)) + " " +
                    std::string(AuditActionName(verdict.step)));
  }
  return words;
}

TEST(AuditorTest, TwoSamplesThenFrozenThenEvictedAfterTheGrace) {
  Auditor auditor({.members = AuditAction::kEvict, .grace_nanos = 5 * kSecond});
  const std::vector<CardHolder> sample = {Holder(10, "s", false, kGiB, 0)};
  EXPECT_THAT(Words(auditor.Judge(sample, 1 * kSecond)), IsEmpty());
  EXPECT_THAT(Words(auditor.Judge(sample, 2 * kSecond)),
              ElementsAre("10 no_session report", "10 no_session freeze"));
  // A freeze that failed is asked for again, the report is not.
  EXPECT_THAT(Words(auditor.Judge(sample, 3 * kSecond)), ElementsAre("10 no_session freeze"));
  auditor.Frozen({10, 7}, AuditFinding::kNoSession, 3 * kSecond);
  std::vector<CardHolder> still = sample;
  still[0].stopped = true;
  EXPECT_THAT(Words(auditor.Judge(still, 6 * kSecond)), IsEmpty());
  // One that somebody woke is stopped again.
  EXPECT_THAT(Words(auditor.Judge(sample, 7 * kSecond)), ElementsAre("10 no_session freeze"));
  EXPECT_THAT(Words(auditor.Judge(still, 8 * kSecond)), ElementsAre("10 no_session evict"));
  EXPECT_THAT(Words(auditor.Judge({}, 9 * kSecond)), IsEmpty());
}

TEST(AuditorTest, TheSlackIsTheLargerOfAPercentAnd64MiB) {
  Auditor auditor({});
  const auto twice = [&](std::uint64_t driver, std::uint64_t ledger) {
    auditor.Judge({}, 0);
    auditor.Judge({Holder(10, "s", true, driver, ledger)}, 0);
    return !auditor.Judge({Holder(10, "s", true, driver, ledger)}, 0).empty();
  };
  EXPECT_FALSE(twice(kGiB + 64 * kMiB, kGiB));
  EXPECT_TRUE(twice(kGiB + 64 * kMiB + 1, kGiB));
  EXPECT_FALSE(twice(101 * kGiB, 100 * kGiB));
  EXPECT_TRUE(twice(102 * kGiB, 100 * kGiB));
}

TEST(AuditorTest, OneSampleIsNoFinding) {
  Auditor auditor({});
  for (int i = 0; i < 10; ++i) {
    EXPECT_THAT(Words(auditor.Judge({Holder(10, "s", true, 2 * kGiB, kGiB)}, 0)), IsEmpty());
    EXPECT_THAT(Words(auditor.Judge({Holder(10, "s", true, kGiB, kGiB)}, 0)), IsEmpty());
  }
}

TEST(AuditorTest, AStrangerIsReportedOnceUnlessThePolicySaysMore) {
  Auditor mild({});
  const std::vector<CardHolder> sample = {Holder(10, "", false, kGiB, 0)};
  mild.Judge(sample, 0);
  EXPECT_THAT(Words(mild.Judge(sample, 0)), ElementsAre("10 stranger report"));
  EXPECT_THAT(Words(mild.Judge(sample, 0)), IsEmpty());
  Auditor strict({.strangers = AuditAction::kFreeze});
  strict.Judge(sample, 0);
  EXPECT_THAT(Words(strict.Judge(sample, 0)),
              ElementsAre("10 stranger report", "10 stranger freeze"));
}

TEST(AuditorTest, APidGivenToAnotherProcessStartsAnew) {
  Auditor auditor({});
  auditor.Judge({Holder(10, "s", false, kGiB, 0)}, 0);
  CardHolder other = Holder(10, "s", false, kGiB, 0);
  other.process.start_time = 8;
  EXPECT_THAT(Words(auditor.Judge({other}, 0)), IsEmpty());
}

CardHolder Busy(pid_t pid, std::uint32_t own, std::uint32_t over) {
  CardHolder holder = Holder(pid, "s", true, kGiB, kGiB);
  holder.busy_permille = own;
  holder.over_turns_permille = over;
  return holder;
}

TEST(AuditorTest, MoreThanTenPointsPastTheTurnsTwiceIsAFinding) {
  Auditor auditor({.turns = AuditAction::kEvict, .grace_nanos = 5 * kSecond});
  // At ten points it is not yet one, and the process that did little is not the one.
  for (int i = 0; i < 5; ++i) {
    EXPECT_THAT(Words(auditor.Judge({Busy(10, 900, 100), Busy(11, 100, 800)}, 0)), IsEmpty());
  }
  const std::vector<CardHolder> sample = {Busy(10, 900, 101), Busy(11, 20, 101)};
  EXPECT_THAT(Words(auditor.Judge(sample, 1 * kSecond)), IsEmpty());
  EXPECT_THAT(Words(auditor.Judge(sample, 2 * kSecond)),
              ElementsAre("10 over_turns report", "10 over_turns freeze"));
  auditor.Frozen({10, 7}, AuditFinding::kOverTurns, 2 * kSecond);
  // Standing still it uses nothing, and is evicted for what it did all the same.
  CardHolder still = Busy(10, 0, 0);
  still.stopped = true;
  EXPECT_THAT(Words(auditor.Judge({still}, 6 * kSecond)), IsEmpty());
  EXPECT_THAT(Words(auditor.Judge({still}, 8 * kSecond)), ElementsAre("10 over_turns evict"));
}

TEST(AuditorTest, TimePastTheTurnsIsOnlyToldUnlessAsked) {
  Auditor auditor({.members = AuditAction::kEvict});
  auditor.Judge({Busy(10, 900, 900)}, 0);
  EXPECT_THAT(Words(auditor.Judge({Busy(10, 900, 900)}, 0)), ElementsAre("10 over_turns report"));
  EXPECT_THAT(Words(auditor.Judge({Busy(10, 900, 900)}, 0)), IsEmpty());
}

TEST(AuditorTest, AProcessWokenAfterItWasStoppedForItsTurnsIsJudgedAnew) {
  Auditor auditor({.turns = AuditAction::kFreeze});
  auditor.Judge({Busy(10, 900, 900)}, 0);
  auditor.Judge({Busy(10, 900, 900)}, 0);
  auditor.Frozen({10, 7}, AuditFinding::kOverTurns, 0);
  for (int i = 0; i < 5; ++i) EXPECT_THAT(Words(auditor.Judge({Busy(10, 900, 0)}, 0)), IsEmpty());
  auditor.Judge({Busy(10, 900, 900)}, 0);
  EXPECT_THAT(Words(auditor.Judge({Busy(10, 900, 900)}, 0)),
              ElementsAre("10 over_turns report", "10 over_turns freeze"));
}

TEST(AuditorTest, ActionsHaveNames) {
  EXPECT_EQ(*ParseAuditAction("evict", "audit"), AuditAction::kEvict);
  const auto wrong = ParseAuditAction("kill", "audit");
  ASSERT_FALSE(wrong);
  EXPECT_THAT(wrong.error().ToString(), testing::HasSubstr("audit"));
}

char StateOf(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  std::getline(file, text);
  const auto end = text.rfind(')');
  return end == std::string::npos ? '?' : text[end + 2];
}
bool Eventually(const std::function<bool()>& holds) {
  for (int i = 0; i < 500; ++i) {
    if (holds()) return true;
    usleep(10'000);
  }
  return false;
}

// A process that only waits.
class Sleeper {
 public:
  Sleeper() : pid_(fork()) {
    if (pid_ == 0) {
      for (;;) pause();
    }
  }
  ~Sleeper() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_;
};

void Sample(TestNode& t) {
  t.node->RefreshTelemetry();
  t.node->Audit();
}

TEST(NodeAuditTest, AMemberWithoutASessionIsStoppedWithinTwoSamples) {
  TestNode t;
  ASSERT_TRUE(t.Restart());
  ASSERT_TRUE(t.node->PutSlice("s", 1, {t.Share(0, 4 * kGiB)}));
  Sleeper cheat, stranger;
  ASSERT_TRUE(t.node->AddMember("s", cheat.pid()));
  t.vendor->SetProcesses(t.uuids[0], {{cheat.pid(), kGiB}, {stranger.pid(), kGiB}});
  Sample(t);
  EXPECT_NE(StateOf(cheat.pid()), 'T');
  Sample(t);
  EXPECT_TRUE(Eventually([&] { return StateOf(cheat.pid()) == 'T'; }));
  Sample(t);
  EXPECT_EQ(StateOf(stranger.pid()), 'S') << "a stranger is only reported";
  kill(cheat.pid(), SIGCONT);
  ASSERT_TRUE(Eventually([&] { return StateOf(cheat.pid()) != 'T'; }));
  Sample(t);
  EXPECT_TRUE(Eventually([&] { return StateOf(cheat.pid()) == 'T'; }))
      << "woken, and stopped again";
  const AuditCounts counts = t.node->audit();
  EXPECT_EQ(counts.findings.at("no_session"), 1u);
  EXPECT_EQ(counts.findings.at("stranger"), 1u);
  EXPECT_EQ(counts.frozen, 2u);
  EXPECT_EQ(counts.evicted, 0u);
  EXPECT_EQ(counts.strangers.at(t.uuids[0]), 1u);
}

// A process that became a member of the slice, attached, reserved so much and only waits; killed in
// the end.
class AttachedMember {
 public:
  AttachedMember(TestNode& t, const std::string& slice, std::uint64_t bytes) {
    int go[2], ready[2];
    EXPECT_EQ(pipe2(go, O_CLOEXEC), 0);
    EXPECT_EQ(pipe2(ready, O_CLOEXEC), 0);
    pid_ = fork();
    if (pid_ == 0) {
      char byte = 0;
      if (read(go[0], &byte, 1) != 1) _exit(1);
      broker::TestGuest guest;
      const bool good = guest.Attach(t.node->guest_socket()) == wire::kStatusOk &&
                        (bytes == 0 || guest.Reserve(0, bytes));
      byte = good ? 'y' : 'n';
      if (write(ready[1], &byte, 1) != 1) _exit(1);
      for (;;) pause();
    }
    EXPECT_TRUE(t.node->AddMember(slice, pid_));
    char byte = 'x';
    EXPECT_EQ(write(go[1], &byte, 1), 1);
    EXPECT_EQ(read(ready[0], &byte, 1), 1);
    EXPECT_EQ(byte, 'y');
    for (const int fd : {go[0], go[1], ready[0], ready[1]}) close(fd);
  }
  ~AttachedMember() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  AttachedMember(const AttachedMember&) = delete;
  AttachedMember& operator=(const AttachedMember&) = delete;
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
};

// A member that attached and reserved little, while the driver says it holds much.
TEST(NodeAuditTest, AMemberPastItsLedgerIsStoppedAndOneInOrderRunsOn) {
  TestNode t;
  ASSERT_TRUE(t.Restart());
  ASSERT_TRUE(t.node->PutSlice("s", 1, {t.Share(0, 4 * kGiB)}));
  const AttachedMember attached(t, "s", kGiB);
  const pid_t member = attached.pid();
  t.vendor->SetProcesses(t.uuids[0], {{member, kGiB + 60 * kMiB}});
  for (int i = 0; i < 3; ++i) Sample(t);
  EXPECT_THAT(t.node->audit().findings, IsEmpty());
  // What the sample says is gone when it is looked at again: nothing happens.
  t.vendor->SetProcesses(t.uuids[0], {{member, 3 * kGiB}});
  for (int i = 0; i < 3; ++i) {
    t.vendor->SetProcesses(t.uuids[0], {{member, 3 * kGiB}});
    t.node->RefreshTelemetry();
    t.vendor->SetProcesses(t.uuids[0], {{member, kGiB}});
    t.node->Audit();
  }
  EXPECT_THAT(t.node->audit().findings, IsEmpty());
  t.vendor->SetProcesses(t.uuids[0], {{member, 3 * kGiB}});
  for (int i = 0; i < 3; ++i) Sample(t);
  EXPECT_EQ(t.node->audit().findings.at("over_ledger"), 1u);
  EXPECT_EQ(t.node->audit().frozen, 1u);
  EXPECT_TRUE(Eventually([&] { return StateOf(member) == 'T'; }));
}

// Two slices share a card, so turns are held. A member that is busy by the driver's word and was
// served nothing is found; not when its gate was shut a moment ago, and not when it has the card to
// itself.
TEST(NodeAuditTest, AMemberThatIsBusyWithoutATurnIsStopped) {
  for (const bool settled : {false, true}) {
    for (const bool shared : {false, true}) {
      TestNode t;
      t.audit.turns = AuditAction::kFreeze;
      t.audit.turns_settle_nanos = settled ? 0 : kTurnsSettleNanos;
      ASSERT_TRUE(t.Restart());
      ASSERT_TRUE(t.node->PutSlice("s", 1, {t.Share(0, 4 * kGiB)}));
      if (shared) {
        ASSERT_TRUE(t.node->PutSlice("other", 1, {t.Share(0, 4 * kGiB)}));
      }
      const AttachedMember attached(t, "s", 0);
      const pid_t member = attached.pid();
      t.vendor->SetProcesses(t.uuids[0], {{member, 0}});
      t.vendor->SetBusy(t.uuids[0], {{member, Permille{99}}});
      for (int i = 0; i < 4; ++i) Sample(t);
      EXPECT_THAT(t.node->audit().findings, IsEmpty());
      EXPECT_EQ(t.node->BusyOf("s", t.uuids[0])->value, 99u);
      t.vendor->SetBusy(t.uuids[0], {{member, Permille{400}}});
      for (int i = 0; i < 3; ++i) Sample(t);
      const auto findings = t.node->audit().findings;
      if (settled && shared) {
        EXPECT_EQ(findings.at("over_turns"), 1u);
        EXPECT_TRUE(Eventually([&] { return StateOf(member) == 'T'; }));
      } else {
        EXPECT_THAT(findings, IsEmpty());
      }
    }
  }
}

TEST(NodeAuditTest, EvictionKillsAfterTheGrace) {
  os::FakeClock clock;
  TestNode t;
  t.audit = {.members = AuditAction::kEvict, .grace_nanos = 10 * kSecond};
  t.clock = &clock;
  ASSERT_TRUE(t.Restart());
  ASSERT_TRUE(t.node->PutSlice("s", 1, {t.Share(0, 4 * kGiB)}));
  Sleeper cheat;
  ASSERT_TRUE(t.node->AddMember("s", cheat.pid()));
  t.vendor->SetProcesses(t.uuids[0], {{cheat.pid(), kGiB}});
  for (int i = 0; i < 11; ++i) {
    Sample(t);
    clock.AdvanceMicros(1'000'000);
    // Stopping takes the kernel a moment, whatever the clock of the test says.
    if (i == 1) {
      ASSERT_TRUE(Eventually([&] { return StateOf(cheat.pid()) == 'T'; }));
    }
  }
  EXPECT_EQ(t.node->audit().frozen, 1u);
  EXPECT_EQ(t.node->audit().evicted, 0u);
  Sample(t);
  ASSERT_EQ(t.node->audit().evicted, 1u);
  int status = 0;
  ASSERT_EQ(waitpid(cheat.pid(), &status, 0), cheat.pid());
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

TEST(NodeAuditTest, AContainedMemberIsHeldByItsGroupsFreezer) {
  auto cgroups = runtime::Cgroups::Detect("tessera-audit-" + std::to_string(getpid()));
  if (!cgroups) {
    std::printf("NOT RUN: %s\n", cgroups.error().ToString().c_str());
    GTEST_SKIP();
  }
  TestNode t;
  t.cgroups = *cgroups;
  ASSERT_TRUE(t.Restart());
  ASSERT_TRUE(t.node->PutSlice("s", 1, {t.Share(0, 4 * kGiB)}));
  const std::string folder = cgroups->LeafOf("slice-s", false, false).unified;
  {
    Sleeper cheat;
    ASSERT_TRUE(t.node->AddMember("s", cheat.pid()));
    t.vendor->SetProcesses(t.uuids[0], {{cheat.pid(), kGiB}});
    Sample(t);
    Sample(t);
    EXPECT_TRUE(Eventually([&] {
      return os::PosixFiles().Read(folder + "/cgroup.events").value_or("").find("frozen 1") !=
             std::string::npos;
    }));
    // The tenant's own signal does not wake it.
    kill(cheat.pid(), SIGCONT);
    EXPECT_THAT(os::PosixFiles().Read(folder + "/cgroup.events").value_or(""),
                testing::HasSubstr("frozen 1"));
    EXPECT_EQ(t.node->audit().frozen, 1u);
  }
  EXPECT_TRUE(Eventually([&] { return bool(t.node->DeleteSlice("s")); }));
  rmdir((folder.substr(0, folder.rfind('/')) + "/.supervisors").c_str());
  rmdir(folder.substr(0, folder.rfind('/')).c_str());
}

#ifdef TESSERA_GUEST_TENANT

class SimulatedAuditTest : public SimulatedNodeTest {
 protected:
  static void SetUpTestSuite() { OpenCard(TESSERA_SIMGPU_FOLDER, TESSERA_PROBE); }
  void SetUp() override { StartWithSlice(4 * kGiB); }
  guest::TestTenant::Environment Inside(bool library) const {
    guest::TestTenant::Environment environment = {{"LD_LIBRARY_PATH", TESSERA_SIMGPU_FOLDER},
                                                  {wire::kSocketVariable, node_->guest_socket()}};
    if (library) environment.emplace_back("LD_PRELOAD", TESSERA_GUEST_LIBRARY);
    return environment;
  }
  void Sample() {
    node_->RefreshTelemetry();
    node_->Audit();
  }
};

// E13 and E15: a member of the slice without the library, and one that opens its own copy of the
// driver by path.
TEST_F(SimulatedAuditTest, E13AndE15AProgramPastTheLibraryIsFrozen) {
  guest::TestTenant cleared({TESSERA_GUEST_TENANT}, Inside(false));
  guest::TestTenant by_path({TESSERA_GUEST_TENANT, TESSERA_SIMGPU_FOLDER "/libcuda.so.1"},
                            Inside(false));
  for (guest::TestTenant* tenant : {&cleared, &by_path}) {
    ASSERT_TRUE(node_->AddMember("s", tenant->pid()));
    ASSERT_EQ(tenant->Code("init"), 0u);
    ASSERT_EQ(tenant->Code("retain"), 0u);
    ASSERT_EQ(tenant->Code("alloc", 6 * kGiB), 0u) << "nothing stands in its way";
  }
  Sample();
  EXPECT_EQ(node_->audit().frozen, 0u);
  Sample();
  EXPECT_EQ(node_->audit().frozen, 2u);
  EXPECT_EQ(node_->audit().findings.at("no_session"), 2u);
  for (guest::TestTenant* tenant : {&cleared, &by_path}) {
    EXPECT_TRUE(Eventually([&] { return StateOf(tenant->pid()) == 'T'; }));
    tenant->Kill();
    tenant->End();
  }
}

TEST_F(SimulatedAuditTest, AWellBehavedProgramNeverIs) {
  guest::TestTenant tenant({TESSERA_GUEST_TENANT}, Inside(true));
  ASSERT_TRUE(node_->AddMember("s", tenant.pid()));
  ASSERT_EQ(tenant.Code("init"), 0u);
  ASSERT_EQ(tenant.Code("retain"), 0u);
  EXPECT_EQ(node_->LastKernelNanos("s"), std::nullopt);
  for (int i = 0; i < 20; ++i) {
    ASSERT_EQ(tenant.Code("alloc", 100 * kMiB + static_cast<unsigned long long>(i)), 0u);
    Sample();
    if (i % 3 == 0) {
      ASSERT_EQ(tenant.Code("free", 1), 0u);
    }
    Sample();
  }
  EXPECT_EQ(tenant.Code("alloc", 5 * kGiB), 2u);
  Sample();
  EXPECT_THAT(node_->audit().findings, IsEmpty());
  EXPECT_EQ(node_->audit().frozen, 0u);
  EXPECT_EQ(node_->GetSlice("s")->overruns, 0u);
}

// Speaks the protocol by hand, so that session and ledger are in order, and then runs on the driver
// with nobody before its gate. Its neighbour keeps to its turns.
TEST_F(SimulatedAuditTest, AProgramThatPassesItsGateIsFoundByItsTimeAndItsNeighbourIsNot) {
  audit_.turns = AuditAction::kFreeze;
  node_.reset();
  audit_.turns_settle_nanos = 0;
  StartWithSlice(4 * kGiB);
  ASSERT_TRUE(node_->PutSlice("s", 2, {{uuid_, 4 * kGiB, Permille{500}}}));
  ASSERT_TRUE(node_->PutSlice("t", 1, {{uuid_, 4 * kGiB, Permille{500}}}));
  const std::vector<std::string> program = {TESSERA_SHARE_TENANT, "kernels", "2000"};
  int go[2];
  ASSERT_EQ(pipe2(go, O_CLOEXEC), 0);
  guest::TestProgram honest(program, Inside(true), [&] {
    char byte = 0;
    if (read(go[0], &byte, 1) != 1) _exit(1);
  });
  ASSERT_TRUE(node_->AddMember("t", honest.pid()));
  guest::TestProgram cheat(program, Inside(false), [&] {
    char byte = 0;
    broker::TestGuest guest;
    const bool good = read(go[0], &byte, 1) == 1 &&
                      guest.Attach(node_->guest_socket()) == wire::kStatusOk &&
                      guest.Reserve(0, 512 * kMiB);
    if (!good) _exit(1);
  });
  ASSERT_TRUE(node_->AddMember("s", cheat.pid()));
  ASSERT_EQ(write(go[1], "xx", 2), 2);
  char line[16];
  ASSERT_NE(fgets(line, sizeof(line), honest.out()), nullptr);
  ASSERT_NE(fgets(line, sizeof(line), cheat.out()), nullptr);
  for (int i = 0; i < 5 && node_->audit().frozen == 0; ++i) {
    usleep(1'050'000);
    Sample();
    EXPECT_GT(node_->BusyOf("s", uuid_)->value, kOverTurnsPermille);
  }
  EXPECT_EQ(node_->audit().findings.at("over_turns"), 1u);
  EXPECT_EQ(node_->audit().findings.size(), 1u);
  EXPECT_EQ(node_->audit().frozen, 1u);
  EXPECT_TRUE(Eventually([&] { return StateOf(cheat.pid()) == 'T'; }));
  EXPECT_NE(StateOf(honest.pid()), 'T');
  // What it was served is what the driver says it used.
  const auto slice = node_->GetSlice("t");
  ASSERT_TRUE(slice);
  EXPECT_GT(slice->turns[0].served_nanos, 500'000'000u);
  EXPECT_GT(slice->activity.submissions, 100u);
  EXPECT_GT(slice->activity.gate_wait_nanos, 0u);
  EXPECT_EQ(node_->GetSlice("s")->turns[0].served_nanos, 0u);
  for (guest::TestProgram* one : {&cheat, &honest}) {
    one->Kill();
    one->End();
  }
  close(go[0]);
  close(go[1]);
}

TEST_F(SimulatedAuditTest, AStrangerOnTheCardIsReportedAndRuns) {
  guest::TestTenant stranger({TESSERA_GUEST_TENANT}, Inside(false));
  ASSERT_EQ(stranger.Code("init"), 0u);
  ASSERT_EQ(stranger.Code("retain"), 0u);
  for (int i = 0; i < 4; ++i) Sample();
  EXPECT_EQ(node_->audit().findings.at("stranger"), 1u);
  EXPECT_EQ(node_->audit().frozen, 0u);
  EXPECT_EQ(stranger.Code("alloc", kMiB), 0u);
}

#endif  // TESSERA_GUEST_TENANT

}  // namespace
}  // namespace tessera::node
