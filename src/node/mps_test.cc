// Spatial isolation: the arithmetic, the daemons, and a node over the software GPU whose tenants
// are real programs; the card's engine, which nobody in Tessera can turn, is the witness of shares.
#include "node/mps.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "base/rng.h"
#include "node/node.h"
#include "node/test_node.h"
#include "os/scratch.h"
#ifdef TESSERA_MPS_CLIENT
#include "guest/test_tenant.h"
#include "node/test_simulated_node.h"
#include "simgpu/state/state.h"
#include "wire/messages.h"
#endif

namespace tessera::node {
namespace {

using testing::HasSubstr;

MpsPart Weight(std::uint32_t permille) { return {permille, false, kGiB}; }
MpsPart Cap(std::uint32_t permille) { return {permille, true, kGiB}; }

TEST(MpsPercentagesTest, CapsAreTheirOwnAndWeightsShareTheRest) {
  using Answer = std::map<std::string, std::uint32_t>;
  EXPECT_EQ(MpsPercentages({}), Answer());
  EXPECT_EQ(MpsPercentages({{"a", Weight(700)}, {"b", Weight(300)}}),
            (Answer{{"a", 70}, {"b", 30}}));
  EXPECT_EQ(MpsPercentages({{"a", Weight(300)}}), (Answer{{"a", 100}}));
  EXPECT_EQ(MpsPercentages({{"a", Cap(300)}}), (Answer{{"a", 30}}));
  EXPECT_EQ(MpsPercentages({{"a", Cap(300)}, {"b", Weight(100)}, {"c", Weight(100)}}),
            (Answer{{"a", 30}, {"b", 35}, {"c", 35}}));
  EXPECT_EQ(MpsPercentages({{"a", Cap(1)}, {"b", Weight(999)}}), (Answer{{"a", 1}, {"b", 100}}));
}

TEST(MpsPercentagesTest, NobodyHasNothingAndTheSumIsThatOfTheCard) {
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Rng rng(seed);
    std::map<std::string, MpsPart> parts;
    std::uint32_t left = 1000;
    while (left > 0 && parts.size() < kMpsSlicesMax && (parts.empty() || rng.Below(8) != 0)) {
      const auto own = static_cast<std::uint32_t>(1 + rng.Below(left));
      left -= own;
      parts["s" + std::to_string(parts.size())] = {own, rng.Below(2) == 0, kGiB};
    }
    const auto percentages = MpsPercentages(parts);
    ASSERT_EQ(percentages.size(), parts.size());
    std::uint32_t sum = 0;
    for (const auto& [slice, own] : percentages) {
      ASSERT_GE(own, 1u);
      ASSERT_LE(own, 100u);
      sum += own;
      // Never less than what was sold.
      ASSERT_GE(own * 10, parts.at(slice).permille);
      if (parts.at(slice).capped) {
        ASSERT_LE(own * 10, parts.at(slice).permille + 9);
      }
    }
    ASSERT_LE(sum, 100 + parts.size());
  }
}

TEST(MpsBindsTest, ThePipeFolderIsReadOnlyAndRealServersNeedSharedMemory) {
  const auto simulated = MpsBinds("/run/p", true);
  ASSERT_EQ(simulated.size(), 1u);
  EXPECT_EQ(simulated[0].source, "/run/p");
  EXPECT_FALSE(simulated[0].writable);
  const auto real = MpsBinds("/run/p", false);
  ASSERT_EQ(real.size(), 2u);
  EXPECT_EQ(real[1].source, "/dev/shm");
  EXPECT_TRUE(real[1].writable);
}

TEST(MpsDaemonsTest, WithoutTheProgramItSaysWhatIsMissingAndWhere) {
  const os::ScratchFolder scratch;
  MpsDaemons daemons({.control = scratch / "not/there", .folder = scratch / "mps"});
  const Status put = daemons.Put("GPU-1", "a", Weight(100));
  ASSERT_FALSE(put);
  EXPECT_EQ(put.error().code(), Code::kFailedPrecondition);
  EXPECT_THAT(put.error().message(), HasSubstr("nvidia-cuda-mps-control"));
  EXPECT_THAT(put.error().message(), HasSubstr(scratch / "not/there"));
  EXPECT_EQ(daemons.Percentage("GPU-1", "a"), 0u);
  EXPECT_TRUE(daemons.Daemons().empty());
  // One that cannot serve is told from one that is not there, and leaves nothing either.
  const std::string broken = scratch / "broken";
  std::ofstream(broken) << "#!/bin/sh\nexit 3\n";
  std::filesystem::permissions(broken, std::filesystem::perms::all);
  MpsDaemons others({.control = broken, .folder = scratch / "mps"});
  const Status failed = others.Put("GPU-1", "a", Weight(100));
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code(), Code::kUnavailable) << failed.error().ToString();
  EXPECT_TRUE(others.Daemons().empty());
}

// A stand-in for the control program: its daemon of one card comes up only when the gate opens.
TEST(MpsDaemonsTest, ASlowDaemonIsWaitedForByItsOwnCardOnly) {
  const os::ScratchFolder scratch;
  const std::string control = scratch / "control";
  const std::string gate = scratch / "gate";
  const std::string waiting = scratch / "waiting";
  std::ofstream(control) << "#!/bin/sh\n"
                            "up=$CUDA_MPS_PIPE_DIRECTORY/up\n"
                            "if [ \"$1\" = -f ]; then\n"
                            "  trap 'rm -f $up; exit 0' TERM\n"
                            "  if [ $CUDA_VISIBLE_DEVICES = slow ]; then\n"
                            "    : > "
                         << waiting << "\n    until [ -e " << gate
                         << " ]; do sleep 0.02; done\n"
                            "  fi\n"
                            "  echo $$ > $up\n"
                            "  while [ -e $up ]; do sleep 0.02; done\n"
                            "  exit 0\n"
                            "fi\n"
                            "[ -e $up ] || exit 1\n"
                            "if grep -q quit; then rm $up; fi\n";
  std::filesystem::permissions(control, std::filesystem::perms::all);
  const auto appears = [](const std::string& file) {
    for (int i = 0; i < 6000 && !std::filesystem::exists(file); ++i) usleep(5000);
    return std::filesystem::exists(file);
  };
  MpsDaemons daemons({.control = control, .folder = scratch / "mps"});
  std::atomic<bool> done{false};
  Status slow;
  std::thread starter([&] {
    slow = daemons.Put("slow", "a", Weight(100));
    done = true;
  });
  ASSERT_TRUE(appears(waiting));
  // All that other cards need, and all that only asks about this one, goes on beside it.
  const Status put = daemons.Put("fast", "b", Weight(300));
  EXPECT_TRUE(put) << put.error().ToString();
  EXPECT_TRUE(daemons.Put("fast", "c", Weight(100)));
  EXPECT_EQ(daemons.Percentage("fast", "b"), 75u);
  EXPECT_EQ(daemons.Percentage("slow", "a"), 0u);
  EXPECT_FALSE(daemons.Variables("fast", "b").empty());
  EXPECT_FALSE(daemons.Owns(getpid()));
  EXPECT_TRUE(daemons.Remove("fast", "c"));
  daemons.Tick();
  ASSERT_EQ(daemons.Daemons().size(), 2u);
  EXPECT_FALSE(done) << "none of it waited for the slow one";
  std::ofstream(gate) << "open\n";
  starter.join();
  EXPECT_TRUE(slow) << slow.error().ToString();
  EXPECT_EQ(daemons.Percentage("slow", "a"), 100u);

  // The same for one that died, which Tick has started again.
  std::filesystem::remove(gate);
  std::filesystem::remove(waiting);
  pid_t pid = 0;
  std::ifstream(scratch / "mps/slow/daemon") >> pid;
  ASSERT_GT(pid, 1);
  std::filesystem::remove(scratch / "mps/slow/pipe/up");
  kill(pid, SIGKILL);
  const auto view = [&] {
    const auto all = daemons.Daemons();
    return *std::find_if(all.begin(), all.end(),
                         [](const auto& one) { return one.card == "slow"; });
  };
  for (int i = 0; i < 6000 && !std::filesystem::exists(waiting); ++i) {
    daemons.Tick();
    usleep(5000);
  }
  ASSERT_TRUE(std::filesystem::exists(waiting));
  daemons.Tick();
  EXPECT_TRUE(daemons.Put("fast", "b", Weight(200)));
  EXPECT_EQ(view().restarts, 1u);
  std::ofstream(gate) << "open\n";
  EXPECT_TRUE(daemons.Remove("slow", "a")) << "waits for its turn";
  EXPECT_TRUE(daemons.Remove("fast", "b"));
  EXPECT_TRUE(daemons.Daemons().empty());
}

TEST(SpatialNodeTest, WithoutTheProgramNothingIsReserved) {
  TestNode t;
  t.mps_control = t.folder + "/none";
  ASSERT_TRUE(t.Restart());
  device::Share share = t.Share(0, 2 * kGiB);
  share.isolation = device::Isolation::kSpatial;
  const auto put = t.node->PutSlice("s", 1, {share});
  ASSERT_FALSE(put);
  EXPECT_THAT(put.error().message(), HasSubstr(t.folder + "/none"));
  EXPECT_EQ(t.Reserved(0), 0u);
  EXPECT_TRUE(t.node->Slices().empty());
  ASSERT_TRUE(t.Restart());
  EXPECT_TRUE(t.node->Slices().empty()) << "no record stayed";
  // The card is as free as before for the other sort.
  EXPECT_TRUE(t.node->PutSlice("s", 1, {t.Share(0, 2 * kGiB)}));
}

TEST(SpatialNodeTest, AWholeCardHoldsOneSlice) {
  TestNode t;
  ASSERT_TRUE(t.Restart());
  device::Share whole = t.Share(0, 2 * kGiB);
  whole.isolation = device::Isolation::kWhole;
  ASSERT_TRUE(t.node->PutSlice("w", 1, {whole}));
  for (const auto isolation : {device::Isolation::kShim, device::Isolation::kWhole}) {
    device::Share other = t.Share(0, kGiB);
    other.isolation = isolation;
    const auto put = t.node->PutSlice("s", 1, {other});
    ASSERT_FALSE(put);
    EXPECT_EQ(put.error().code(), Code::kResourceExhausted);
    EXPECT_THAT(put.error().message(), HasSubstr("shares[0].isolation"));
  }
  ASSERT_TRUE(t.node->PutSlice("s", 1, {t.Share(1, kGiB)}));
  placement::Request ask;
  ask.memory_bytes = kGiB;
  ask.compute = Permille{100};
  ask.isolation = device::Isolation::kWhole;
  EXPECT_FALSE(t.node->Allocate(ask)) << "one card is whole, the other holds something";
  // The change of its own limits meets nobody else.
  whole.memory_bytes = 3 * kGiB;
  ASSERT_TRUE(t.node->PutSlice("w", 2, {whole}));
  ASSERT_TRUE(t.node->DeleteSlice("w"));
  const auto run = t.node->Allocate(ask);
  ASSERT_TRUE(run) << run.error().ToString();
  EXPECT_EQ(run->shares[0].card_uuid, t.uuids[0]);
  EXPECT_EQ(run->shares[0].isolation, device::Isolation::kWhole);
}

TEST(SpatialNodeTest, ASliceOfTwoCardsIsRefused) {
  TestNode t;
  ASSERT_TRUE(t.Restart());
  std::vector<device::Share> shares = {t.Share(0, kGiB), t.Share(1, kGiB)};
  for (auto& share : shares) share.isolation = device::Isolation::kSpatial;
  const auto put = t.node->PutSlice("s", 1, shares);
  ASSERT_FALSE(put);
  EXPECT_THAT(put.error().ToString(), HasSubstr("shares[0].isolation"));
  EXPECT_THAT(put.error().ToString(), HasSubstr("one card"));
}

#ifdef TESSERA_MPS_CLIENT

bool Eventually(const std::function<bool()>& what) {
  for (int i = 0; i < 2000; ++i) {
    if (what()) return true;
    usleep(5000);
  }
  return false;
}

class SpatialTest : public SimulatedNodeTest {
 protected:
  static void SetUpTestSuite() {
    setenv("SIMGPU_QUIET", "1", 1);
    OpenCard(TESSERA_SIMGPU_FOLDER, TESSERA_PROBE);
    std::string error;
    state_ = simgpu::State::Open(&error);
    ASSERT_NE(state_, nullptr) << error;
  }
  void SetUp() override { StartNode(); }
  void TearDown() override {
    for (auto& tenant : tenants_) tenant->Kill();  // some work without end
    tenants_.clear();
    if (node_ == nullptr) return;
    for (const SliceView& slice : node_->Slices()) {
      EXPECT_TRUE(Eventually([&] { return bool(node_->DeleteSlice(slice.id)); })) << slice.id;
    }
  }
  void StartNode(FakeRunner* runner = nullptr) {
    node_.reset();
    Node::Options options;
    options.name = "n";
    options.run_dir = scratch_ / "run";
    options.state_dir = scratch_ / "state";
    options.vendors = {vendor_.get()};
    options.background = false;
    options.runner = runner;
    options.mps_control = TESSERA_SIMGPU_FOLDER "/nvidia-cuda-mps-control";
    auto node = Node::Start(std::move(options));
    ASSERT_TRUE(node) << node.error().ToString();
    node_ = std::move(*node);
    uuid_ = node_->Cards()[0].card.uuid;
  }

  device::Share Spatial(std::uint32_t permille, bool capped = false) const {
    return {uuid_, 4 * kGiB, Permille{permille}, capped, device::Isolation::kSpatial};
  }
  // A program in the slice, started as its view says, with the guest library or without.
  guest::TestProgram& Start(const std::string& slice, guest::TestProgram::Environment more = {},
                            bool library = true) {
    guest::TestProgram::Environment environment = {{"LD_LIBRARY_PATH", TESSERA_SIMGPU_FOLDER},
                                                   {wire::kSocketVariable, node_->guest_socket()}};
    if (library) environment.emplace_back("LD_PRELOAD", TESSERA_GUEST_LIBRARY);
    const auto view = node_->GetSlice(slice);
    for (const std::string& variable : view ? view->environment : std::vector<std::string>()) {
      const auto equals = variable.find('=');
      environment.emplace_back(variable.substr(0, equals), variable.substr(equals + 1));
    }
    for (auto& item : more) environment.push_back(std::move(item));
    // It stands still until it is a member.
    tenants_.push_back(std::make_unique<guest::TestProgram>(
        std::vector<std::string>{"/bin/sh", "-c", "read go; exec " TESSERA_MPS_CLIENT},
        environment));
    guest::TestProgram& tenant = *tenants_.back();
    EXPECT_TRUE(node_->AddMember(slice, tenant.pid()));
    tenant.Say("go");
    unsigned code = 9999;
    EXPECT_EQ(std::fscanf(tenant.out(), " ready %u", &code), 1);
    EXPECT_EQ(code, 0u);
    return tenant;
  }
  static unsigned Do(guest::TestProgram& tenant, const std::string& line) {
    tenant.Say(line);
    unsigned code = 9999;
    return std::fscanf(tenant.out(), "%u", &code) == 1 ? code : 9998;
  }

  static simgpu::EngineUse Use(pid_t pid) {
    for (const auto& use : state_->engine(0).Read().uses) {
      if (use.pid == pid) return use;
    }
    return {};
  }
  // Parts of the card's time the tenants were served between two looks, once all have begun.
  static std::vector<double> Parts(const std::vector<pid_t>& pids, unsigned millis) {
    for (const pid_t pid : pids) {
      const std::uint64_t at = Use(pid).served_ns;
      EXPECT_TRUE(Eventually([&] { return Use(pid).served_ns != at; }));
    }
    std::vector<double> parts;
    const auto from = state_->engine(0).Read();
    for (const pid_t pid : pids) parts.push_back(-static_cast<double>(Use(pid).served_ns));
    usleep(millis * 1000);
    for (std::size_t i = 0; i < pids.size(); ++i) {
      parts[i] += static_cast<double>(Use(pids[i]).served_ns);
    }
    const auto to = state_->engine(0).Read();
    for (double& part : parts) part /= static_cast<double>(to.at_ns - from.at_ns);
    return parts;
  }
  pid_t DaemonPid() const {
    pid_t pid = 0;
    std::ifstream(scratch_ / "run/mps/" + uuid_ + "/daemon") >> pid;
    return pid;
  }

  static inline simgpu::State* state_ = nullptr;
  std::vector<std::unique_ptr<guest::TestProgram>> tenants_;
};

TEST_F(SpatialTest, TwoTenantsOf70And30RunAtTheSameTime) {
  ASSERT_TRUE(node_->PutSlice("a", 1, {Spatial(700)}));
  ASSERT_TRUE(node_->PutSlice("b", 1, {Spatial(300)}));
  auto& a = Start("a");
  auto& b = Start("b");
  EXPECT_EQ(Use(a.pid()).percentage, 700u);
  EXPECT_EQ(Use(b.pid()).percentage, 300u);
  const auto before = state_->engine(0).Read();
  a.Say("keep 10000 500");
  b.Say("keep 10000 500");
  const auto parts = Parts({a.pid(), b.pid()}, 1500);
  EXPECT_NEAR(parts[0] / (parts[0] + parts[1]), 0.70, 0.02);
  EXPECT_NEAR(parts[1] / (parts[0] + parts[1]), 0.30, 0.02);
  EXPECT_LE(state_->engine(0).Read().switching_ns, before.switching_ns + 200'000);
  EXPECT_EQ(node_->GetSlice("a")->processes.size(), 1u) << "the guest library counts its memory";
}

TEST_F(SpatialTest, SmallKernelsOfTwoTenantsGainByCompany) {
  ASSERT_TRUE(node_->PutSlice("a", 1, {Spatial(500)}));
  ASSERT_TRUE(node_->PutSlice("b", 1, {Spatial(500)}));
  auto& a = Start("a");
  auto& b = Start("b");
  a.Say("keep 5000 10");
  b.Say("keep 5000 10");
  const auto parts = Parts({a.pid(), b.pid()}, 1000);
  EXPECT_GT(parts[0] + parts[1], 1.5) << "turns give at most 1";
}

TEST_F(SpatialTest, ALoneTenantWithACapHasThat) {
  ASSERT_TRUE(node_->PutSlice("a", 1, {Spatial(300, true)}));
  auto& a = Start("a");
  a.Say("keep 10000 500");
  EXPECT_NEAR(Parts({a.pid()}, 1000)[0], 0.30, 0.02);
}

TEST_F(SpatialTest, ACardIsInTurnsOrSpatialNeverBoth) {
  const device::Share shim = {uuid_, 4 * kGiB, Permille{100}};
  ASSERT_TRUE(node_->PutSlice("spatial", 1, {Spatial(300)}));
  const auto second = node_->PutSlice("shim", 1, {shim});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), Code::kResourceExhausted) << "another card may do";
  EXPECT_THAT(second.error().message(), HasSubstr("shares[0].isolation: expected spatial"));
  EXPECT_THAT(second.error().message(), HasSubstr("slice spatial"));
  const auto changed = node_->PutSlice("spatial", 2, {shim});
  ASSERT_FALSE(changed);
  EXPECT_THAT(changed.error().message(), HasSubstr("isolation cannot change"));
  placement::Request ask;
  ask.memory_bytes = 2 * kGiB;
  ask.compute = Permille{100};
  EXPECT_FALSE(node_->Allocate(ask)) << "the only card is the other sort's";
  ask.isolation = device::Isolation::kSpatial;
  const auto run = node_->Allocate(ask);
  ASSERT_TRUE(run) << run.error().ToString();
  EXPECT_EQ(run->shares[0].isolation, device::Isolation::kSpatial);
  ASSERT_TRUE(node_->DeleteSlice(run->id));
  ASSERT_TRUE(node_->DeleteSlice("spatial"));
  ASSERT_TRUE(node_->PutSlice("shim", 1, {shim}));
  const auto third = node_->PutSlice("spatial", 1, {Spatial(300)});
  ASSERT_FALSE(third);
  EXPECT_THAT(third.error().message(), HasSubstr("shares[0].isolation: expected shim"));
}

TEST_F(SpatialTest, TheDaemonComesWithTheFirstSliceAndGoesWithTheLast) {
  EXPECT_TRUE(node_->mps().empty());
  ASSERT_TRUE(node_->PutSlice("a", 1, {Spatial(500)}));
  const pid_t daemon = DaemonPid();
  ASSERT_GT(daemon, 1);
  EXPECT_EQ(kill(daemon, 0), 0);
  ASSERT_TRUE(node_->PutSlice("b", 1, {Spatial(500)}));
  EXPECT_EQ(DaemonPid(), daemon);
  ASSERT_TRUE(node_->DeleteSlice("a"));
  EXPECT_EQ(kill(daemon, 0), 0);
  ASSERT_TRUE(node_->DeleteSlice("b"));
  EXPECT_EQ(kill(daemon, 0), -1) << "ended and reaped";
  EXPECT_TRUE(node_->mps().empty());
  EXPECT_EQ(DaemonPid(), 0);
}

TEST_F(SpatialTest, ADeadDaemonIsStartedAgainAndWhoRunsRunsOn) {
  ASSERT_TRUE(node_->PutSlice("a", 1, {Spatial(300, true)}));
  auto& a = Start("a");
  const pid_t daemon = DaemonPid();
  kill(daemon, SIGKILL);
  ASSERT_TRUE(Eventually([&] { return !node_->mps()[0].running; }));
  node_->Tick();
  EXPECT_FALSE(node_->mps()[0].running) << "not before its back-off";
  EXPECT_EQ(Do(a, "work 100 500 3"), 0u);
  EXPECT_EQ(Use(a.pid()).percentage, 300u);
  ASSERT_TRUE(Eventually([&] {
    node_->Tick();
    return node_->mps()[0].running;
  }));
  EXPECT_EQ(node_->mps()[0].restarts, 1u);
  EXPECT_NE(DaemonPid(), daemon);
  auto& late = Start("a");
  EXPECT_EQ(Use(late.pid()).percentage, 300u);
}

// Who runs keeps his server when its daemon dies. It is no stranger, for these daemons nor for
// those of the next tesserad, and it goes with the card's last slice.
TEST_F(SpatialTest, AServerWithoutADaemonIsStillOurs) {
  const os::ScratchFolder folder;
  const MpsDaemons::Options options = {.control = TESSERA_SIMGPU_FOLDER "/nvidia-cuda-mps-control",
                                       .folder = folder / "mps"};
  auto daemons = std::make_unique<MpsDaemons>(options);
  ASSERT_TRUE(daemons->Put(uuid_, "a", Weight(300)));
  pid_t daemon = 0;
  std::ifstream(folder / "mps/" + uuid_ + "/daemon") >> daemon;
  guest::TestProgram::Environment environment = {{"LD_LIBRARY_PATH", TESSERA_SIMGPU_FOLDER}};
  for (const std::string& variable : daemons->Variables(uuid_, "a")) {
    const auto equals = variable.find('=');
    environment.emplace_back(variable.substr(0, equals), variable.substr(equals + 1));
  }
  tenants_.push_back(std::make_unique<guest::TestProgram>(
      std::vector<std::string>{TESSERA_MPS_CLIENT}, environment));
  guest::TestProgram& client = *tenants_.back();
  unsigned code = 9999;
  ASSERT_EQ(std::fscanf(client.out(), " ready %u", &code), 1);
  ASSERT_EQ(code, 0u);
  pid_t server = 0;
  ASSERT_TRUE(Eventually([&] {
    const std::string task = "/proc/" + std::to_string(daemon) + "/task/" + std::to_string(daemon);
    return static_cast<bool>(std::ifstream(task + "/children") >> server);
  }));
  const os::ProcessId process = *os::IdentifyProcess(server);
  EXPECT_TRUE(daemons->Owns(daemon));
  EXPECT_TRUE(daemons->Owns(server));
  kill(daemon, SIGKILL);
  ASSERT_TRUE(Eventually([&] { return !daemons->Daemons()[0].running; }));
  ASSERT_TRUE(os::IsAlive(process)) << "else this says nothing";
  EXPECT_TRUE(daemons->Owns(server));
  EXPECT_FALSE(daemons->Owns(getpid()));
  daemons = std::make_unique<MpsDaemons>(options);
  EXPECT_FALSE(daemons->Owns(server)) << "its card has no slice";
  daemons->Adopt(uuid_, "a", Weight(300));
  ASSERT_TRUE(Eventually([&] {
    daemons->Tick();
    return daemons->Daemons()[0].running;
  }));
  EXPECT_TRUE(daemons->Owns(server));
  EXPECT_TRUE(os::IsAlive(process));
  EXPECT_EQ(Do(client, "work 100 500 1"), 0u);
  ASSERT_TRUE(daemons->Remove(uuid_, "a"));
  EXPECT_FALSE(os::IsAlive(process));
  EXPECT_FALSE(std::filesystem::exists(folder / "mps/" + uuid_ + "/servers"));
}

TEST_F(SpatialTest, ANewNodeFindsTheDaemonOfTheOld) {
  ASSERT_TRUE(node_->PutSlice("a", 1, {Spatial(300, true)}));
  auto& a = Start("a");
  const pid_t daemon = DaemonPid();
  StartNode();
  EXPECT_EQ(DaemonPid(), daemon);
  ASSERT_EQ(node_->mps().size(), 1u);
  EXPECT_TRUE(node_->mps()[0].running);
  EXPECT_EQ(node_->GetSlice("a")->shares[0], Spatial(300, true));
  EXPECT_EQ(Do(a, "work 100 500 3"), 0u);
}

// A change holds for processes that start afterwards, also for those whose environment was written
// before it or by the tenant himself: the guest library says what the control page says.
TEST_F(SpatialTest, ALiveChangeIsForProcessesThatStartLater) {
  ASSERT_TRUE(node_->PutSlice("a", 1, {Spatial(500)}));
  ASSERT_TRUE(node_->PutSlice("b", 1, {Spatial(500)}));
  auto& before = Start("a");
  EXPECT_EQ(Use(before.pid()).percentage, 500u);
  ASSERT_TRUE(node_->PutSlice("b", 2, {Spatial(125)}));
  EXPECT_EQ(Do(before, "work 100 500 2"), 0u);
  EXPECT_EQ(Use(before.pid()).percentage, 500u);
  auto& after = Start("a", {{"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "50"}});
  EXPECT_EQ(Use(after.pid()).percentage, 800u);
  auto& greedy = Start("b", {{"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "100"}});
  EXPECT_EQ(Use(greedy.pid()).percentage, 200u);
  // Without the library nothing but the server stands there, at the largest slice's part.
  ASSERT_TRUE(node_->PutSlice("c", 1, {Spatial(375, true)}));
  auto& bare = Start("b", {{"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "100"}}, /*library=*/false);
  EXPECT_EQ(Use(bare.pid()).percentage, 500u);
}

TEST_F(SpatialTest, TheServersMemoryLimitStandsBehindTheLedger) {
  ASSERT_TRUE(node_->PutSlice("a", 1, {Spatial(500)}));
  auto& a = Start("a");
  EXPECT_EQ(Do(a, "alloc 3000"), 0u);
  EXPECT_EQ(Do(a, "alloc 1500"), 2u);
  auto& bare = Start("a", {}, /*library=*/false);
  EXPECT_EQ(Do(bare, "alloc 3000"), 0u);
  EXPECT_EQ(Do(bare, "alloc 1500"), 2u) << "by the MPS server";
}

TEST_F(SpatialTest, WhoLeavesMpsIsSeenByTheAudit) {
  ASSERT_TRUE(node_->PutSlice("a", 1, {Spatial(500)}));
  auto& honest = Start("a");
  auto& left = Start("a", {{"CUDA_MPS_PIPE_DIRECTORY", "/nowhere"}});
  EXPECT_EQ(Use(left.pid()).percentage, 0u);
  // Stopping takes the kernel a moment, and who does not stand still yet is stopped again.
  for (int i = 0; i < 3 && node_->audit().frozen == 0; ++i) {
    node_->RefreshTelemetry();
    node_->Audit();
  }
  EXPECT_EQ(node_->audit().findings.at("no_session"), 1u);
  EXPECT_EQ(node_->audit().frozen, 1u);
  EXPECT_EQ(Do(honest, "work 100 10 1"), 0u);
  left.Kill();
}

TEST_F(SpatialTest, AnInstanceIsGivenThePipeFolderAndTheVariables) {
  FakeRunner runner;
  StartNode(&runner);
  runtime::Workload workload;
  workload.argv = {"x"};
  ASSERT_TRUE(node_->PutInstance("i", 1, {Spatial(250, true)}, workload));
  const runtime::Spec spec = runner.SpecOf("i");
  const std::string pipe = scratch_ / "run/mps/" + uuid_ + "/pipe";
  EXPECT_THAT(spec.environment, testing::IsSupersetOf({
                                    "CUDA_MPS_PIPE_DIRECTORY=" + pipe,
                                    std::string("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=25"),
                                    std::string("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0=4096M"),
                                }));
  const auto bind = std::find_if(spec.binds.begin(), spec.binds.end(),
                                 [&](const auto& one) { return one.source == pipe; });
  ASSERT_NE(bind, spec.binds.end());
  EXPECT_FALSE(bind->writable);
  const pid_t daemon = DaemonPid();
  EXPECT_EQ(kill(daemon, 0), 0);
  ASSERT_TRUE(node_->StopInstance("i", 1));
  EXPECT_EQ(kill(daemon, 0), -1) << "its slice was the last";
}

#endif  // TESSERA_MPS_CLIENT

}  // namespace
}  // namespace tessera::node
