#include "broker/broker.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <functional>
#include <set>
#include <thread>

#include <gtest/gtest.h>

#include "base/rng.h"
#include "broker/test_guest.h"

namespace tessera::broker {
namespace {

constexpr std::uint64_t kLimit = 1000;

CardLimits MakeCard(const std::string& uuid, std::uint64_t limit = kLimit) {
  return {uuid, limit, 0, limit, 10, 1, 500, 1};
}

// Waits for something that must happen, for at most a minute.
bool Eventually(const std::function<bool()>& holds) {
  for (int i = 0; i < 6000; ++i) {
    if (holds()) return true;
    usleep(10'000);
  }
  return false;
}

// A forked child with a pipe to tell the parent how far it is, and one to be told to go on.
class Child {
 public:
  enum class Inherit { kNothing, kDescriptors };
  // Unless asked otherwise the child closes what it inherited: a copy of the listener would outlive
  // its broker.
  explicit Child(const std::function<int(Child&)>& body, Inherit inherit = Inherit::kNothing) {
    EXPECT_EQ(pipe2(up_, O_CLOEXEC), 0);
    EXPECT_EQ(pipe2(down_, O_CLOEXEC), 0);
    // A machine that is short of processes for a moment is no failure of the broker.
    for (int i = 0; i < 600 && (pid_ = fork()) < 0; ++i) usleep(100'000);
    if (pid_ != 0) {
      EXPECT_GT(pid_, 0) << "fork: " << strerror(errno);
      return;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (inherit == Inherit::kNothing) {
      for (int fd = 3; fd < 1024; ++fd) {
        if (fd != up_[1] && fd != down_[0]) close(fd);
      }
    }
    _exit(body(*this));
  }
  ~Child() {
    Kill();
    for (const int fd : {up_[0], up_[1], down_[0], down_[1]}) close(fd);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  pid_t pid() const { return pid_; }
  // In the child.
  void Say(char what) { (void)!write(up_[1], &what, 1); }
  char Listen() {
    char what = 0;
    return read(down_[0], &what, 1) == 1 ? what : '!';
  }
  // In the parent.
  void Tell(char what) { (void)!write(down_[1], &what, 1); }
  char Hear() {
    pollfd waiter{up_[0], POLLIN, 0};
    if (poll(&waiter, 1, 60'000) != 1) return '?';
    char what = 0;
    return read(up_[0], &what, 1) == 1 ? what : '!';
  }
  void Signal(int number) {
    if (pid_ > 0) kill(pid_, number);
  }
  int Join() {
    int status = 0;
    if (pid_ > 0) waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    Join();
  }

 private:
  int up_[2] = {-1, -1};
  int down_[2] = {-1, -1};
  pid_t pid_ = -1;
};

class BrokerTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/tbXXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    folder_ = name;
    StartBroker();
  }
  void TearDown() override {
    ASSERT_NE(broker_, nullptr);
    for (const auto& id : broker_->PagesOnDisk()) EXPECT_TRUE(broker_->RemoveSlice(id));
    broker_.reset();
    auto& files = os::PosixFiles();
    EXPECT_TRUE(files.Remove(Socket()));
    EXPECT_TRUE(files.Remove(folder_ + "/slices"));
    EXPECT_TRUE(files.Remove(folder_));
  }

  void StartBroker() {
    broker_.reset();
    Broker::Options options;
    options.run_folder = folder_;
    options.socket_path = Socket();
    options.settle = settle_;
    options.kernel = kernel_;
    auto started = Broker::Start(std::move(options));
    ASSERT_TRUE(started) << started.error().ToString();
    broker_ = std::move(*started);
  }

  std::string Socket() const { return folder_ + "/guest.sock"; }
  os::ProcessId Me(pid_t pid) { return *os::IdentifyProcess(pid); }
  void AddRoot(const std::string& slice, pid_t pid) {
    const auto added = broker_->AddRoot(slice, Me(pid));
    ASSERT_TRUE(added) << added.error().ToString();
  }
  std::uint64_t Used(const std::string& id, std::size_t card = 0) {
    return (*broker_->Usage(id))[card].used;
  }
  bool SettlesAt(const std::string& id, std::uint64_t bytes) {
    return Eventually([&] {
      const auto audit = *broker_->Audit(id);
      return audit[0].settled && audit[0].recorded == bytes && audit[0].recomputed == bytes;
    });
  }

  std::string folder_;
  Broker::Settle settle_;
  Membership::Kernel kernel_;
  std::unique_ptr<Broker> broker_;
};

TEST_F(BrokerTest, AMemberAttachesAndItsDeathGivesEverythingBack) {
  ASSERT_TRUE(broker_->CreateSlice("s1", {MakeCard("GPU-a"), MakeCard("GPU-b", 50)}));
  Child child([this](Child& self) {
    self.Listen();
    TestGuest guest;
    if (guest.Attach(Socket()) != wire::kStatusOk) return 1;
    if (guest.control->card_count != 2 || strcmp(guest.control->slice_id, "s1") != 0) return 2;
    if (guest.slot->pid != static_cast<std::uint32_t>(getpid())) return 3;
    if (!guest.Reserve(0, 600) || guest.Reserve(0, 401) || !guest.Reserve(1, 50)) return 4;
    guest.Release(0, 100);
    self.Say('r');
    self.Listen();
    return 0;
  });
  AddRoot("s1", child.pid());
  child.Tell('g');
  ASSERT_EQ(child.Hear(), 'r');
  EXPECT_EQ(Used("s1", 0), 500u);
  EXPECT_EQ(Used("s1", 1), 50u);
  const auto processes = *broker_->Processes("s1");
  ASSERT_EQ(processes.size(), 1u);
  EXPECT_EQ(processes[0].process.pid, child.pid());
  EXPECT_EQ(processes[0].used, (std::vector<std::uint64_t>{500, 50}));
  child.Kill();
  EXPECT_TRUE(SettlesAt("s1", 0));
  EXPECT_EQ(Used("s1", 1), 0u);
  EXPECT_TRUE(broker_->Processes("s1")->empty());
}

TEST_F(BrokerTest, AStrangerGetsNoSliceAndNoDescriptor) {
  ASSERT_TRUE(broker_->CreateSlice("s1", {MakeCard("GPU-a")}));
  TestGuest guest;
  EXPECT_EQ(guest.Attach(Socket()), wire::kStatusNoSlice);
  EXPECT_FALSE(guest.control_fd);
  EXPECT_EQ(broker_->counters().strangers, 1u);
}

TEST_F(BrokerTest, DescendantsBelongToTheirRootsSliceAndEachHasItsOwnSlot) {
  ASSERT_TRUE(broker_->CreateSlice("s1", {MakeCard("GPU-a")}));
  Child child([this](Child& self) {
    self.Listen();
    TestGuest guest;
    if (guest.Attach(Socket()) != wire::kStatusOk) return 1;
    TestGuest again;
    if (again.Attach(Socket()) != wire::kStatusOk || again.slot_index != guest.slot_index) return 2;
    const pid_t grandchild = fork();
    if (grandchild == 0) {
      TestGuest own;
      if (own.Attach(Socket()) != wire::kStatusOk) _exit(1);
      if (own.slot_index == guest.slot_index || !own.Reserve(0, 7)) _exit(2);
      _exit(0);
    }
    int status = 0;
    waitpid(grandchild, &status, 0);
    if (status != 0) return 3;
    self.Say('d');
    self.Listen();
    return 0;
  });
  AddRoot("s1", child.pid());
  child.Tell('g');
  ASSERT_EQ(child.Hear(), 'd');
  EXPECT_TRUE(SettlesAt("s1", 0));
  child.Tell('e');
  EXPECT_EQ(child.Join(), 0);
}

// exec keeps pid and start time, but the driver has taken back what the earlier program held.
TEST_F(BrokerTest, AProgramThatReplacedAnotherStartsFromZero) {
  SliceStore store(os::PosixFiles(), folder_);
  auto pages = store.Create("direct", {MakeCard("GPU-a")});
  ASSERT_TRUE(pages);
  SliceLedger ledger("direct", std::move(*pages), os::RealClock());
  const auto self = IdentifyProgram(getpid());
  ASSERT_TRUE(self);
  ASSERT_NE(self->image, 0u);
  EXPECT_EQ(IdentifyProgram(getpid())->image, self->image);
  const auto first = ledger.Attach(*self);
  ASSERT_TRUE(first);
  EXPECT_EQ(*ledger.Attach(*self), *first);
  wire::UsagePage& usage = ledger.pages().usage();
  usage.slots[*first].used[0] = 300;
  usage.cards[0].used = 300;
  ProgramId other = *self;
  other.image += 2;
  const auto second = ledger.Attach(other);
  ASSERT_TRUE(second);
  EXPECT_NE(*second, *first);
  usage.slots[*second].used[0] = 20;
  usage.cards[0].used += 20;
  EXPECT_EQ(ledger.Step(), std::nullopt);
  EXPECT_EQ(ledger.Audit()[0].recorded, 20u);
  EXPECT_EQ(ledger.LiveCount(), 1u);
}

TEST_F(BrokerTest, TheProgramIdChangesWithExec) {
  Child child([](Child& self) {
    self.Listen();
    execlp("sleep", "sleep", "600", nullptr);
    return 1;
  });
  const auto before = IdentifyProgram(child.pid());
  ASSERT_TRUE(before);
  child.Tell('g');
  EXPECT_TRUE(Eventually([&] {
    const auto now = IdentifyProgram(child.pid());
    return now && now->process == before->process && now->image != before->image;
  }));
}

TEST_F(BrokerTest, AFullTableSaysSoAndDeadSlotsAreReused) {
  SliceStore store(os::PosixFiles(), folder_);
  auto pages = store.Create("direct", {MakeCard("GPU-a")});
  ASSERT_TRUE(pages);
  SliceLedger ledger("direct", std::move(*pages), os::RealClock());
  std::set<std::uint32_t> slots;
  for (std::uint32_t i = 0; i < wire::kProcessesMax; ++i) {
    // Processes that do not exist: to the ledger they are dead as soon as it looks.
    const auto slot = ledger.Attach({{static_cast<pid_t>(0x3ffff000 + i), 1}, 0});
    ASSERT_TRUE(slot);
    slots.insert(*slot);
  }
  EXPECT_EQ(slots.size(), wire::kProcessesMax);
  const auto full = ledger.Attach({{0x3fffefff, 1}, 0});
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code(), Code::kResourceExhausted);
  EXPECT_NE(full.error().message().find("kProcessesMax"), std::string::npos);
  EXPECT_TRUE(ledger.CheckProcesses());
  while (ledger.Step()) usleep(1000);
  EXPECT_EQ(ledger.LiveCount(), 0u);
  EXPECT_TRUE(ledger.Attach({{0x3fffefff, 1}, 0}));
}

// A process stopped between its compare-exchange and its slot would be miscounted by a reaper in a
// hurry.
TEST_F(BrokerTest, AStoppedProcessInMidReservationIsNotMiscountedAndHealsLater) {
  ASSERT_TRUE(broker_->CreateSlice("s1", {MakeCard("GPU-a")}));
  Child stopped([this](Child& self) {
    self.Listen();
    TestGuest guest;
    if (guest.Attach(Socket()) != wire::kStatusOk) return 1;
    guest.Enter(0);
    __atomic_fetch_add(&guest.usage->cards[0].used, 300, __ATOMIC_SEQ_CST);
    self.Say('m');
    self.Listen();
    __atomic_fetch_add(&guest.slot->used[0], 300, __ATOMIC_SEQ_CST);
    guest.Leave();
    self.Say('o');
    self.Listen();
    return 0;
  });
  Child victim([this](Child& self) {
    self.Listen();
    TestGuest guest;
    if (guest.Attach(Socket()) != wire::kStatusOk || !guest.Reserve(0, 200)) return 1;
    self.Say('r');
    self.Listen();
    return 0;
  });
  AddRoot("s1", stopped.pid());
  AddRoot("s1", victim.pid());
  stopped.Tell('g');
  ASSERT_EQ(stopped.Hear(), 'm');
  victim.Tell('g');
  ASSERT_EQ(victim.Hear(), 'r');
  stopped.Signal(SIGSTOP);
  victim.Kill();
  ASSERT_TRUE(Eventually([&] { return broker_->counters().unsettled >= 2; }));
  EXPECT_EQ(broker_->counters().recounts, 0u);
  EXPECT_EQ(Used("s1"), 500u);  // Nothing was changed.
  stopped.Signal(SIGCONT);
  stopped.Tell('g');
  ASSERT_EQ(stopped.Hear(), 'o');
  EXPECT_TRUE(SettlesAt("s1", 300));
  stopped.Kill();
  EXPECT_TRUE(SettlesAt("s1", 0));
}

TEST_F(BrokerTest, AProcessKilledInMidReservationLeaksNothing) {
  ASSERT_TRUE(broker_->CreateSlice("s1", {MakeCard("GPU-a")}));
  Child child([this](Child& self) {
    self.Listen();
    TestGuest guest;
    if (guest.Attach(Socket()) != wire::kStatusOk) return 1;
    guest.Enter(0);
    __atomic_fetch_add(&guest.usage->cards[0].used, 999, __ATOMIC_SEQ_CST);
    self.Say('m');
    self.Listen();
    return 0;
  });
  AddRoot("s1", child.pid());
  child.Tell('g');
  ASSERT_EQ(child.Hear(), 'm');
  EXPECT_EQ(Used("s1"), 999u);
  child.Kill();
  EXPECT_TRUE(SettlesAt("s1", 0));
}

TEST_F(BrokerTest, LimitsChangeLiveAndAClosedSliceRefusesEverything) {
  ASSERT_TRUE(broker_->CreateSlice("s1", {MakeCard("GPU-a", 100)}));
  Child child([this](Child& self) {
    self.Listen();
    TestGuest guest;
    if (guest.Attach(Socket()) != wire::kStatusOk) return 1;
    const std::uint64_t generation = wire::Load(&guest.control->generation);
    if (guest.Reserve(0, 200)) return 2;
    self.Say('1');
    self.Listen();
    if (wire::Load(&guest.control->generation) <= generation) return 3;
    if (!guest.Reserve(0, 200)) return 4;
    self.Say('2');
    self.Listen();
    if (guest.Reserve(0, 1)) return 5;
    guest.Release(0, 200);  // Giving back is never refused.
    TestGuest late;
    if (late.Attach(Socket()) != wire::kStatusClosed) return 6;
    return 0;
  });
  AddRoot("s1", child.pid());
  child.Tell('g');
  ASSERT_EQ(child.Hear(), '1');
  EXPECT_EQ(broker_->SetLimits("s1", {MakeCard("GPU-b", 300)}).error().field(), "cards");
  EXPECT_EQ(broker_->SetLimits("none", {MakeCard("GPU-b", 300)}).error().code(), Code::kNotFound);
  ASSERT_TRUE(broker_->SetLimits("s1", {MakeCard("GPU-a", 300)}));
  child.Tell('g');
  ASSERT_EQ(child.Hear(), '2');
  ASSERT_TRUE(broker_->CloseSlice("s1"));
  child.Tell('g');
  EXPECT_EQ(child.Join(), 0);
}

TEST_F(BrokerTest, SettleAnswersForAttachedProcessesOnly) {
  settle_ = [](const std::string& uuid, pid_t) -> std::optional<std::uint64_t> {
    if (uuid == "GPU-a") return 4242;
    return std::nullopt;
  };
  StartBroker();
  ASSERT_TRUE(broker_->CreateSlice("s1", {MakeCard("GPU-a"), MakeCard("GPU-b")}));
  Child child([this](Child& self) {
    self.Listen();
    TestGuest guest;
    wire::Reply reply{};
    TestGuest early;
    if (!early.Connect(Socket()) || !early.Ask(wire::kSettle, 0, &reply)) return 1;
    if (reply.status != wire::kStatusNoSlice) return 2;
    if (guest.Attach(Socket()) != wire::kStatusOk) return 3;
    if (!guest.Ask(wire::kSettle, 0, &reply) || reply.status != wire::kStatusOk ||
        reply.bytes != 4242)
      return 4;
    if (!guest.Ask(wire::kSettle, 1, &reply) || reply.status != wire::kStatusUnknown) return 5;
    if (!guest.Ask(wire::kSettle, 2, &reply) || reply.status != wire::kStatusVersion) return 6;
    if (guest.Ask(wire::kSettle, 0, &reply)) return 7;  // Closed after a malformed request.
    return 0;
  });
  AddRoot("s1", child.pid());
  child.Tell('g');
  EXPECT_EQ(child.Join(), 0);
  const auto audit = *broker_->Audit(
      "s1", [](const std::string&, pid_t) { return std::optional<std::uint64_t>(5); });
  EXPECT_LE(*audit[0].driver, 5u);
}

TEST_F(BrokerTest, MalformedDatagramsGetAVersionStatusAndTheDoor) {
  wire::Request good{wire::kMessageMagic, wire::kMessageVersion, wire::kAttach, 0, 1, {}};
  std::vector<std::vector<std::byte>> bad;
  const auto bytes_of = [](const wire::Request& request) {
    const auto bytes = std::as_bytes(std::span(&request, 1));
    return std::vector<std::byte>(bytes.begin(), bytes.end());
  };
  for (int i = 0; i < 3; ++i) {
    wire::Request request = good;
    (i == 0 ? request.magic : i == 1 ? request.version : request.kind) += 7;
    bad.push_back(bytes_of(request));
  }
  bad.push_back(bytes_of(good));
  bad.back().pop_back();
  bad.push_back(bytes_of(good));
  bad.back().push_back(std::byte{0});
  bad.push_back(std::vector<std::byte>(1));
  bad.push_back(std::vector<std::byte>(5000));
  for (const auto& datagram : bad) {
    TestGuest guest;
    ASSERT_TRUE(guest.Connect(Socket()));
    ASSERT_TRUE(os::SendWithFds(guest.socket.get(), datagram, {}));
    const auto answer = os::ReceiveWithFds(guest.socket.get(), 64);
    ASSERT_TRUE(answer);
    ASSERT_EQ(answer->bytes.size(), sizeof(wire::Reply));
    wire::Reply reply;
    memcpy(&reply, answer->bytes.data(), sizeof(reply));
    EXPECT_EQ(reply.status, wire::kStatusVersion);
    EXPECT_TRUE(os::ReceiveWithFds(guest.socket.get(), 64)->bytes.empty());
  }
  EXPECT_EQ(broker_->counters().malformed, bad.size());
}

TEST_F(BrokerTest, StrangersHaveABoundedNumberOfConnections) {
  std::vector<os::Fd> held;
  for (std::size_t i = 0; i < kStrangerConnectionsMax; ++i) {
    auto fd = os::ConnectUnix(Socket(), os::SocketKind::kSeqPacket);
    ASSERT_TRUE(fd);
    held.push_back(std::move(*fd));
  }
  TestGuest guest;
  ASSERT_TRUE(guest.Connect(Socket()));
  const auto answer = os::ReceiveWithFds(guest.socket.get(), 64);
  ASSERT_TRUE(answer);
  ASSERT_EQ(answer->bytes.size(), sizeof(wire::Reply));
  held.clear();
  EXPECT_TRUE(Eventually([&] {
    TestGuest other;
    return other.Attach(Socket()) == wire::kStatusNoSlice;
  }));
}

TEST_F(BrokerTest, AnAskerInALoopIsHeldBackAndStillAnswered) {
  ASSERT_TRUE(broker_->CreateSlice("s1", {MakeCard("GPU-a")}));
  AddRoot("s1", getpid());
  TestGuest guest;
  ASSERT_EQ(guest.Attach(Socket()), wire::kStatusOk);
  const std::int64_t before = os::RealClock().MonotonicNanos();
  constexpr std::uint32_t kAsks = 5 * kRequestsPerWindowMax;
  for (std::uint32_t i = 0; i < kAsks; ++i) {
    wire::Reply reply{};
    ASSERT_TRUE(guest.Ask(wire::kAttach, 0, &reply));
    ASSERT_EQ(reply.status, wire::kStatusOk);
  }
  // Five windows' worth of requests cannot pass in fewer than four whole windows.
  EXPECT_GE(os::RealClock().MonotonicNanos() - before, 4 * kWindowNanos - kWindowNanos / 2);
}

TEST_F(BrokerTest, AProcessThatIsBeingStartedWaitsToBecomeAMember) {
  ASSERT_TRUE(broker_->CreateSlice("s1", {MakeCard("GPU-a")}));
  const auto announcement = broker_->Announce();
  Child child([this](Child& self) {
    self.Say('s');
    TestGuest guest;
    return static_cast<int>(guest.Attach(Socket()));
  });
  ASSERT_EQ(child.Hear(), 's');
  usleep(50'000);
  AddRoot("s1", child.pid());
  EXPECT_EQ(child.Join(), static_cast<int>(wire::kStatusOk));
}

TEST_F(BrokerTest, CgroupsAreMatchedByWholeComponentsLongestFirst) {
  Membership::Kernel kernel;
  std::string path;
  kernel.cgroup = [&](pid_t) -> Result<std::string> { return path; };
  Membership membership(kernel);
  ASSERT_TRUE(membership.AddCgroup("outer", "/tessera/a"));
  ASSERT_TRUE(membership.AddCgroup("inner", "/tessera/a/b"));
  const auto of = [&](const std::string& given) {
    path = given;
    return membership.SliceOf(getpid()).value_or("none");
  };
  EXPECT_EQ(of("/tessera/a"), "outer");
  EXPECT_EQ(of("/tessera/a/x/y"), "outer");
  EXPECT_EQ(of("/tessera/a/b"), "inner");
  EXPECT_EQ(of("/tessera/a/b/c"), "inner");
  EXPECT_EQ(of("/tessera/ab"), "none");
  EXPECT_EQ(of("/tessera"), "none");
  EXPECT_EQ(of("/"), "none");
  EXPECT_EQ(of("/other/tessera/a"), "none");
  for (const char* bad : {"", "/", "tessera", "/tessera/", "/a//b"}) {
    EXPECT_EQ(membership.AddCgroup("x", bad).error().field(), "cgroup") << bad;
  }
  EXPECT_EQ(membership.AddCgroup("other", "/tessera/a").error().code(), Code::kAlreadyExists);
  membership.RemoveSlice("inner");
  EXPECT_EQ(of("/tessera/a/b"), "outer");
}

TEST_F(BrokerTest, AReusedPidInTheChainOfParentsIsNoAncestor) {
  Membership::Kernel kernel;
  kernel.cgroup = [](pid_t) -> Result<std::string> { return std::string("/"); };
  // 30 (started at 300) -> 20 -> 10. 20 is younger than its supposed child 30: another process took
  // the pid.
  std::uint64_t middle_start = 200;
  kernel.identify = [&](pid_t pid) -> Result<os::ProcessId> {
    if (pid == 30) return os::ProcessId{30, 300};
    if (pid == 20) return os::ProcessId{20, middle_start};
    if (pid == 10) return os::ProcessId{10, 100};
    return Error(Code::kNotFound, "gone");
  };
  kernel.parent = [](pid_t pid) -> Result<pid_t> { return pid - 10; };
  Membership membership(kernel);
  ASSERT_TRUE(membership.AddRoot("s", {10, 100}));
  EXPECT_EQ(membership.SliceOf(30).value_or("none"), "s");
  middle_start = 400;
  EXPECT_EQ(membership.SliceOf(30).value_or("none"), "none");
  middle_start = 200;
  membership.RemoveSlice("s");
  ASSERT_TRUE(membership.AddRoot("s", {10, 99}));  // The root's pid now belongs to another process.
  EXPECT_EQ(membership.SliceOf(30).value_or("none"), "none");
}

TEST_F(BrokerTest, ARestartAdoptsTheLivingAndCountsOutTheDead) {
  ASSERT_TRUE(broker_->CreateSlice("s1", {MakeCard("GPU-a")}));
  const auto body = [this](Child& self) {
    self.Listen();
    TestGuest guest;
    if (guest.Attach(Socket()) != wire::kStatusOk || !guest.Reserve(0, 200)) return 1;
    self.Say('r');
    self.Listen();
    guest.Release(0, 50);  // The pages work as before, whoever serves.
    self.Say('f');
    self.Listen();
    return 0;
  };
  Child stays(body);
  Child dies(body);
  const std::vector<os::ProcessId> roots = {Me(stays.pid()), Me(dies.pid())};
  for (Child* child : {&stays, &dies}) {
    AddRoot("s1", child->pid());
    child->Tell('g');
    ASSERT_EQ(child->Hear(), 'r');
  }
  EXPECT_EQ(Used("s1"), 400u);
  broker_.reset();
  dies.Kill();
  // An earlier node may have died between freezing and thawing, and a tenant may have forged lines.
  {
    SliceStore store(os::PosixFiles(), folder_);
    auto pages = store.Open("s1", {MakeCard("GPU-a")});
    ASSERT_TRUE(pages);
    (*pages)->usage().cards[0].used |= wire::kFrozenBit;
    wire::ProcessSlot& forged = (*pages)->usage().slots[9];
    forged.pid = static_cast<std::uint32_t>(getpid());  // Alive, but no member of the slice.
    forged.start_time = Me(getpid()).start_time;
    forged.used[0] = 77;
    wire::ProcessSlot& twice = (*pages)->usage().slots[10];  // A member's identity a second time.
    twice.pid = static_cast<std::uint32_t>(stays.pid());
    twice.start_time = roots[0].start_time;
    twice.used[0] = 88;
    (*pages)->usage().slots[11].used[0] = 99;  // Nobody's.
  }
  StartBroker();
  EXPECT_EQ(broker_->PagesOnDisk(), std::vector<std::string>{"s1"});
  ASSERT_TRUE(broker_->AdoptSlice("s1", {MakeCard("GPU-a")}, {}, roots));
  EXPECT_TRUE(SettlesAt("s1", 200));
  ASSERT_EQ(broker_->Processes("s1")->size(), 1u);
  EXPECT_EQ(broker_->Processes("s1")->front().process, roots[0]);
  stays.Tell('g');
  ASSERT_EQ(stays.Hear(), 'f');
  EXPECT_TRUE(SettlesAt("s1", 150));
  stays.Kill();
  EXPECT_TRUE(SettlesAt("s1", 0));
}

TEST_F(BrokerTest, DamagedOrForeignPagesAreNotAdopted) {
  ASSERT_TRUE(broker_->CreateSlice("s1", {MakeCard("GPU-a")}));
  const std::string control = folder_ + "/slices/s1/control";
  StartBroker();
  EXPECT_EQ(broker_->AdoptSlice("none", {MakeCard("GPU-a")}, {}, {}).error().code(),
            Code::kNotFound);
  // Another number of cards than the records say.
  EXPECT_EQ(
      broker_->AdoptSlice("s1", {MakeCard("GPU-a"), MakeCard("GPU-b")}, {}, {}).error().code(),
      Code::kDataLoss);
  const int fd = open(control.c_str(), O_RDWR);
  const std::uint32_t version = wire::kPageVersion + 1;
  ASSERT_EQ(pwrite(fd, &version, 4, offsetof(wire::ControlPage, version)), 4);
  EXPECT_EQ(broker_->AdoptSlice("s1", {MakeCard("GPU-a")}, {}, {}).error().code(), Code::kDataLoss);
  ASSERT_EQ(ftruncate(fd, 100), 0);
  close(fd);
  EXPECT_EQ(broker_->AdoptSlice("s1", {MakeCard("GPU-a")}, {}, {}).error().code(), Code::kDataLoss);
}

TEST_F(BrokerTest, ATruncatedUsagePageClosesTheSliceAndHurtsNobodyElse) {
  ASSERT_TRUE(broker_->CreateSlice("bad", {MakeCard("GPU-a")}));
  ASSERT_TRUE(broker_->CreateSlice("good", {MakeCard("GPU-a")}));
  Child child([this](Child& self) {
    self.Listen();
    TestGuest guest;
    if (guest.Attach(Socket()) != wire::kStatusOk) return 1;
    if (ftruncate(guest.usage_fd.get(), 0) != 0) return 2;
    self.Say('t');
    self.Listen();
    return 0;
  });
  AddRoot("bad", child.pid());
  child.Tell('g');
  ASSERT_EQ(child.Hear(), 't');
  EXPECT_TRUE(broker_->Usage("bad"));  // The access that would be SIGBUS.
  EXPECT_TRUE(Eventually([&] { return broker_->counters().damaged == 1; }));
  child.Kill();
  EXPECT_TRUE(Eventually([&] { return broker_->Processes("bad")->empty(); }));
  EXPECT_EQ(Used("good"), 0u);
}

TEST_F(BrokerTest, TheDescriptorsGiveExactlyTheRightsTheyShould) {
  ASSERT_TRUE(broker_->CreateSlice("s1", {MakeCard("GPU-a")}));
  AddRoot("s1", getpid());
  TestGuest guest;
  ASSERT_EQ(guest.Attach(Socket()), wire::kStatusOk);
  EXPECT_EQ(fcntl(guest.control_fd.get(), F_GETFL) & O_ACCMODE, O_RDONLY);
  EXPECT_EQ(fcntl(guest.usage_fd.get(), F_GETFL) & O_ACCMODE, O_RDWR);
  EXPECT_EQ(mmap(nullptr, sizeof(wire::ControlPage), PROT_READ | PROT_WRITE, MAP_SHARED,
                 guest.control_fd.get(), 0),
            MAP_FAILED);
  struct stat info{};
  ASSERT_EQ(stat((folder_ + "/slices").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
  for (const int fd : {guest.control_fd.get(), guest.usage_fd.get()}) {
    ASSERT_EQ(fstat(fd, &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600u);
  }
  if (getuid() != 0) return;  // The rest needs another uid.
  Child other(
      [&](Child&) {
        if (setresgid(65534, 65534, 65534) != 0 || setresuid(65534, 65534, 65534) != 0) return 9;
        // Reopening through /proc asks for the file's own mode again.
        const std::string again = "/proc/self/fd/" + std::to_string(guest.control_fd.get());
        if (open(again.c_str(), O_RDWR) >= 0) return 1;
        if (open((folder_ + "/slices/s1/control").c_str(), O_RDONLY) >= 0) return 2;
        return 0;
      },
      Child::Inherit::kDescriptors);
  EXPECT_EQ(other.Join(), 0);
}

TEST_F(BrokerTest, BadIdsAndLimitsAreRefusedByField) {
  for (const char* id : {"", ".", "..", "a/b", ".a", "-a", "a b"}) {
    EXPECT_EQ(broker_->CreateSlice(id, {MakeCard("GPU-a")}).error().field(), "id") << id;
  }
  EXPECT_FALSE(broker_->CreateSlice(std::string(64, 'a'), {MakeCard("GPU-a")}));
  EXPECT_EQ(broker_->CreateSlice("s", {}).error().field(), "cards");
  EXPECT_EQ(broker_->CreateSlice("s", {MakeCard("GPU-a"), MakeCard("GPU-a")}).error().field(),
            "cards[1].uuid");
  CardLimits card = MakeCard("GPU-a");
  card.ceiling_bytes = card.limit_bytes - 1;
  EXPECT_EQ(broker_->CreateSlice("s", {card}).error().field(), "cards[0].ceiling_bytes");
  card = MakeCard("GPU-a");
  card.compute_permille = 0;
  EXPECT_EQ(broker_->CreateSlice("s", {card}).error().field(), "cards[0].compute_permille");
  EXPECT_TRUE(broker_->PagesOnDisk().empty());
  ASSERT_TRUE(broker_->CreateSlice("s", {MakeCard("GPU-a")}));
  EXPECT_EQ(broker_->CreateSlice("s", {MakeCard("GPU-a")}).error().code(), Code::kAlreadyExists);
}

// Random life: processes reserve and release on two cards, are killed anywhere, others take their
// place, and the broker is replaced now and then. The sum over all never passes the limit, and
// nothing is left at the end.
TEST_F(BrokerTest, RandomKillsNeverLeakAByte) {
  const char* const given = getenv("TESSERA_SEED");
  const std::uint64_t seed =
      given != nullptr ? strtoull(given, nullptr, 10) : static_cast<std::uint64_t>(getpid());
  std::printf("TESSERA_SEED=%llu\n", static_cast<unsigned long long>(seed));
  SCOPED_TRACE("TESSERA_SEED=" + std::to_string(seed));
  Rng rng(seed);
  const std::vector<CardLimits> cards = {MakeCard("GPU-a"), MakeCard("GPU-b", 300)};
  ASSERT_TRUE(broker_->CreateSlice("s1", cards));
  const auto body = [this, &rng](Child& self) {
    Rng own(rng.Next() ^ static_cast<std::uint64_t>(getpid()));
    self.Listen();
    TestGuest guest;
    while (guest.Attach(Socket()) != wire::kStatusOk) usleep(1000);
    self.Say('a');
    std::uint64_t held[2] = {0, 0};
    for (;;) {
      const auto card = static_cast<std::uint32_t>(own.Below(2));
      const std::uint64_t bytes = own.Between(1, 40);
      if (own.Chance(550)) {
        if (guest.Reserve(card, bytes)) held[card] += bytes;
      } else if (held[card] >= bytes) {
        guest.Release(card, bytes);
        held[card] -= bytes;
      }
      for (int c = 0; c < 2; ++c) {
        const std::uint64_t used =
            __atomic_load_n(&guest.usage->cards[c].used, __ATOMIC_SEQ_CST) & ~wire::kFrozenBit;
        if (used > guest.control->cards[c].limit_bytes) return 77;
      }
    }
  };
  std::vector<std::unique_ptr<Child>> children;
  std::vector<os::ProcessId> roots;
  const auto spawn = [&] {
    auto child = std::make_unique<Child>(body);
    rng.Next();  // The child took its seed from a copy.
    ASSERT_GT(child->pid(), 0);
    roots.push_back(Me(child->pid()));
    AddRoot("s1", child->pid());
    child->Tell('g');
    ASSERT_EQ(child->Hear(), 'a');
    children.push_back(std::move(child));
  };
  for (int i = 0; i < 4; ++i) spawn();
  for (int round = 0; round < 60; ++round) {
    usleep(static_cast<useconds_t>(rng.Between(0, 5000)));
    const std::size_t which = rng.Below(children.size());
    int status = 0;
    ASSERT_EQ(waitpid(children[which]->pid(), &status, WNOHANG), 0)
        << "a child saw more than the limit in use";
    children.erase(children.begin() + static_cast<std::ptrdiff_t>(which));
    spawn();
    if (round % 20 == 19) {
      StartBroker();
      ASSERT_TRUE(broker_->AdoptSlice("s1", cards, {}, roots));
    }
  }
  // A recount agrees with the living, who are stopped for the look.
  for (auto& child : children) child->Signal(SIGSTOP);
  children.clear();
  EXPECT_TRUE(SettlesAt("s1", 0));
  EXPECT_EQ(Used("s1", 1), 0u);
  EXPECT_TRUE(Eventually([&] { return broker_->Processes("s1")->empty(); }));
}

}  // namespace
}  // namespace tessera::broker
