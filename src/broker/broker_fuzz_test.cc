// What a tenant can send or write, at random: datagrams of any bytes, and a usage page full of
// anything while the reaper counts and turns are granted. The broker must stay up and right, and no
// other slice may notice. Seeded: TESSERA_SEED runs one again; TESSERA_SOAK makes 10^7 inputs each.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <set>
#include <thread>

#include <gtest/gtest.h>

#include "base/rng.h"
#include "broker/broker.h"
#include "broker/test_guest.h"
#include "os/scratch.h"

namespace tessera::broker {
namespace {

constexpr std::uint64_t kLimit = 1000;
constexpr std::uint64_t kMost = wire::kFrozenBit >> 1;  // what a nonsense figure is cut to
constexpr std::uint64_t kSoakInputs = 10'000'000;
constexpr std::uint64_t kProgressInputs = 250'000;  // between two lines about how far it is

std::uint64_t Inputs(std::uint64_t few) {
  return getenv("TESSERA_SOAK") != nullptr ? kSoakInputs : few;
}
std::uint64_t Seed() {
  const char* const given = getenv("TESSERA_SEED");
  const std::uint64_t seed =
      given != nullptr ? strtoull(given, nullptr, 10) : static_cast<std::uint64_t>(getpid());
  std::cout << "TESSERA_SEED=" << seed << std::endl;
  return seed;
}

CardLimits MakeCard(const std::string& uuid) { return {uuid, kLimit, 0, kLimit, 10, 1, 500, 1}; }

// Time that passes with every look at it, so that no bound on requests a moment holds a fuzzer up.
class HastyClock final : public os::Clock {
 public:
  explicit HastyClock(std::int64_t step) : step_(step) {}
  std::int64_t MonotonicNanos() const override { return nanos_ += step_; }
  std::int64_t WallMicros() const override { return nanos_ / 1000; }
  void SleepNanos(std::int64_t nanos) const override { nanos_ += nanos; }

 private:
  const std::int64_t step_;
  mutable std::atomic<std::int64_t> nanos_{1};
};

// ---- datagrams ----

// What the page two processes share says of a run.
struct Told {
  std::uint64_t sent, malformed, attached, settled, connections;
  char wrong[200];
};

// A datagram that is a request by its bytes alone; the cards of the slice decide the rest.
bool IsRequest(const std::vector<std::byte>& bytes, wire::Request* request) {
  if (bytes.size() != sizeof(*request)) return false;
  memcpy(request, bytes.data(), sizeof(*request));
  return request->magic == wire::kMessageMagic && request->version == wire::kMessageVersion &&
         (request->kind == wire::kAttach || request->kind == wire::kSettle);
}

std::vector<std::byte> AnyDatagram(Rng* rng) {
  wire::Request request{wire::kMessageMagic, wire::kMessageVersion, wire::kSettle, 0, 1, {}};
  if (rng->Chance(300)) request.kind = wire::kAttach;
  request.card = static_cast<std::uint32_t>(rng->Below(2));
  const auto whole = std::as_bytes(std::span(&request, 1));
  std::vector<std::byte> bytes(whole.begin(), whole.end());
  switch (rng->Below(8)) {
    case 0:  // any bytes, any size
      bytes.resize(1 + rng->Below(rng->Chance(50) ? 9000 : 80));
      for (std::byte& byte : bytes) byte = static_cast<std::byte>(rng->Next());
      break;
    case 1:  // cut short or with more behind
      bytes.resize(1 + rng->Below(2 * sizeof(request)));
      break;
    case 2: {  // a field takes an extreme value
      const std::uint32_t values[] = {0, 1, 2, 3, 15, 16, 17, 0x7fffffff, 0xffffffff};
      memcpy(bytes.data() + 4 * rng->Below(sizeof(request) / 4), &values[rng->Below(9)], 4);
      break;
    }
    case 3:  // bits flipped
      for (std::uint64_t i = 1 + rng->Below(3); i > 0; --i)
        bytes[rng->Below(bytes.size())] ^= static_cast<std::byte>(1u << rng->Below(8));
      break;
    default:
      break;
  }
  return bytes;
}

// Connections that a member of the slice talks over at once: while it reads one answer the broker
// has the next datagrams, so that neither waits for the other. Half of an input's time was that.
constexpr std::size_t kAtOnce = 16;

struct Talk {
  TestGuest guest;
  bool connected = false;
  std::vector<std::byte> bytes;  // of the datagram under way
  bool with_fds = false;
};

// Sends `inputs` of them as a member of a slice with one card, and checks each answer.
int SendDatagrams(const std::string& socket, std::uint64_t inputs, std::uint64_t seed, Told* told) {
  Rng rng(seed);
  std::array<Talk, kAtOnce> talks;
  std::uint32_t slot = ~0u;
  const os::Fd spare(open("/dev/null", O_RDONLY | O_CLOEXEC));
  const auto wrong = [&](const char* what, std::uint64_t value) {
    snprintf(told->wrong, sizeof(told->wrong), "input %llu: %s (%llu)",
             static_cast<unsigned long long>(told->sent), what,
             static_cast<unsigned long long>(value));
    return 1;
  };
  const auto send = [&](Talk& talk) {
    if (!talk.connected) {
      if (!talk.guest.Connect(socket)) return wrong("cannot connect", 0);
      talk.connected = true;
      ++told->connections;
    }
    talk.bytes = AnyDatagram(&rng);
    // Descriptors that nobody asked for must not stay open in the broker.
    const int fds[] = {spare.get(), spare.get()};
    talk.with_fds = rng.Chance(50);
    const std::span<const int> with(fds, talk.with_fds ? 1 + rng.Below(2) : 0);
    return os::SendWithFds(talk.guest.socket.get(), talk.bytes, with) ? 0 : wrong("cannot send", 0);
  };
  const auto check = [&](Talk& talk) {
    auto answer = os::ReceiveWithFds(talk.guest.socket.get(), 64);
    if (!answer || answer->bytes.size() != sizeof(wire::Reply))
      return wrong("no answer of a reply's size", answer ? answer->bytes.size() : 0);
    wire::Reply reply{};
    memcpy(&reply, answer->bytes.data(), sizeof(reply));
    wire::Request request{};
    const bool asked = IsRequest(talk.bytes, &request);
    const bool good = asked && !talk.with_fds;
    const bool settle = good && request.kind == wire::kSettle;
    if (reply.magic != wire::kMessageMagic || reply.version != wire::kMessageVersion)
      return wrong("a reply without its magic", reply.magic);
    if (!good || (settle && slot != ~0u && request.card != 0)) {
      // Descriptors that come with a good request are dropped, and it is served.
      if (talk.with_fds && asked && reply.status != wire::kStatusVersion) {
        told->attached += request.kind == wire::kAttach;
        if (request.kind == wire::kAttach) slot = reply.slot;
        return 0;
      }
      if (reply.status != wire::kStatusVersion) return wrong("malformed and served", reply.status);
      if (!answer->fds.empty()) return wrong("malformed and given pages", 0);
      ++told->malformed;
      auto end = os::ReceiveWithFds(talk.guest.socket.get(), 64);
      if (end && !end->bytes.empty()) return wrong("two answers", 0);
      talk.connected = false;
      return 0;
    }
    if (settle) {
      const std::uint32_t expected = slot == ~0u ? wire::kStatusNoSlice : wire::kStatusOk;
      if (reply.status != expected) return wrong("settle answered", reply.status);
      if (slot != ~0u && reply.bytes != 4242) return wrong("settled at", reply.bytes);
      ++told->settled;
    } else {
      if (reply.status != wire::kStatusOk) return wrong("attach answered", reply.status);
      if (answer->fds.size() != 2) return wrong("descriptors given", answer->fds.size());
      if (slot != ~0u && slot != reply.slot) return wrong("another slot", reply.slot);
      slot = reply.slot;
      ++told->attached;
    }
    if (rng.Chance(20)) talk.connected = false;
    return 0;
  };
  while (told->sent < inputs) {
    // Before it is attached, what a settlement is answered depends on what came before it.
    const std::size_t now = slot == ~0u ? 1 : std::min<std::uint64_t>(kAtOnce, inputs - told->sent);
    for (std::size_t i = 0; i < now; ++i) {
      if (const int failed = send(talks[i])) return failed;
    }
    for (std::size_t i = 0; i < now; ++i) {
      if (const int failed = check(talks[i])) return failed;
      ++told->sent;
    }
  }
  return 0;
}

std::size_t OpenFds() {
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    (void)entry;
    ++count;
  }
  return count;
}

TEST(BrokerFuzz, AnyDatagramIsAnsweredOrRefusedAndNobodyElseNotices) {
  const std::uint64_t seed = Seed();
  const std::uint64_t inputs = Inputs(30'000);
  const os::ScratchFolder folder;
  // Slow enough that the checks of each second do not come with every datagram.
  const HastyClock clock(kWindowNanos / kRequestsPerWindowMax);
  Broker::Options options;
  options.run_folder = folder.path();
  options.socket_path = folder / "s";
  options.clock = &clock;
  options.settle = [](const std::string&, pid_t) { return std::optional<std::uint64_t>(4242); };
  auto started = Broker::Start(std::move(options));
  ASSERT_TRUE(started) << started.error().ToString();
  Broker& broker = **started;
  ASSERT_TRUE(broker.CreateSlice("good", {MakeCard("GPU-a"), MakeCard("GPU-b")}));
  ASSERT_TRUE(broker.CreateSlice("evil", {MakeCard("GPU-a")}));
  auto* const told = static_cast<Told*>(
      mmap(nullptr, sizeof(Told), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(told, MAP_FAILED);
  int gate[2];
  ASSERT_EQ(pipe2(gate, O_CLOEXEC), 0);
  const pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(gate[1]);
    char go = 0;
    if (read(gate[0], &go, 1) != 1) _exit(9);
    _exit(SendDatagrams(folder / "s", inputs, seed, told));
  }
  ASSERT_GT(child, 0);
  ASSERT_TRUE(broker.AddRoot("good", *os::IdentifyProcess(getpid())));
  // The nearest root of a process decides, so the child is in its own slice.
  ASSERT_TRUE(broker.AddRoot("evil", *os::IdentifyProcess(child)));
  TestGuest guest;
  ASSERT_EQ(guest.Attach(folder / "s"), wire::kStatusOk);
  ASSERT_TRUE(guest.Reserve(0, 600) && guest.Reserve(1, 50));
  const std::uint64_t attached_before = broker.counters().attached;
  const std::size_t fds_before = OpenFds();
  ASSERT_EQ(write(gate[1], "g", 1), 1);
  int status = 0;
  std::uint64_t asked = 0;
  std::uint64_t told_of = 0;  // inputs, in the last line of progress
  const std::int64_t began = os::RealClock().MonotonicNanos();
  while (waitpid(child, &status, WNOHANG) == 0) {
    if (told->sent >= told_of + kProgressInputs) {
      told_of = told->sent;
      const std::int64_t seconds = (os::RealClock().MonotonicNanos() - began) / 1'000'000'000;
      std::cout << told_of << " of " << inputs << " datagrams after " << seconds << " s"
                << std::endl;
    }
    wire::Reply reply{};
    ASSERT_TRUE(guest.Ask(wire::kSettle, static_cast<std::uint32_t>(asked % 2), &reply));
    ASSERT_EQ(reply.status, wire::kStatusOk);
    ASSERT_EQ(reply.bytes, 4242u);
    const auto usage = *broker.Usage("good");
    ASSERT_EQ(usage[0].used, 600u);
    ASSERT_EQ(usage[1].used, 50u);
    ++asked;
    usleep(1000);
  }
  EXPECT_EQ(status, 0) << told->wrong;
  EXPECT_EQ(told->sent, inputs);
  EXPECT_GT(told->settled, inputs / 10);
  EXPECT_GT(told->malformed, inputs / 10);
  const BrokerCounters counters = broker.counters();
  EXPECT_EQ(counters.malformed, told->malformed);
  EXPECT_EQ(counters.attached - attached_before, told->attached);
  EXPECT_EQ(counters.refused_connections, 0u);
  EXPECT_EQ(counters.damaged, 0u);
  // Both ends of the gate are ours; the connections and whatever came over them are gone.
  for (int i = 0; i < 3000 && OpenFds() > fds_before; ++i) usleep(10'000);
  EXPECT_LE(OpenFds(), fds_before);
  std::cout << told->sent << " datagrams over " << told->connections << " connections, "
            << told->malformed << " malformed, " << asked << " questions of another slice"
            << std::endl;
  close(gate[0]);
  close(gate[1]);
  munmap(told, sizeof(Told));
}

// ---- pages ----

// The page of a slice as a tenant has it.
wire::UsagePage* MapUsage(const os::ScratchFolder& folder, const std::string& id) {
  const os::Fd fd(open((folder / ("slices/" + id + "/usage")).c_str(), O_RDWR | O_CLOEXEC));
  void* const page =
      mmap(nullptr, sizeof(wire::UsagePage), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  return page == MAP_FAILED ? nullptr : static_cast<wire::UsagePage*>(page);
}

// One write of a tenant that wants to do harm: any word anywhere, and often where it hurts.
void Scribble(wire::UsagePage* page, Rng* rng) {
  const std::uint64_t values[] = {0,     1,           kLimit,           kLimit + 1,
                                  kMost, kMost + 1,   wire::kFrozenBit, ~0ull,
                                  1000,  kMost / 256, rng->Next(),      rng->Next() & 0xffffffff};
  const std::uint64_t value = values[rng->Below(12)];
  wire::ProcessSlot& slot = page->slots[rng->Below(rng->Chance(700) ? 8 : wire::kProcessesMax)];
  switch (rng->Below(8)) {
    case 0: {
      auto* const words = reinterpret_cast<std::uint64_t*>(page);
      wire::Store(&words[rng->Below(sizeof(*page) / 8)], value);
      break;
    }
    case 1: {
      auto* const words = reinterpret_cast<std::uint64_t*>(page);
      __atomic_fetch_xor(&words[rng->Below(sizeof(*page) / 8)], 1ull << rng->Below(64),
                         __ATOMIC_SEQ_CST);
      break;
    }
    case 2:
      wire::Store(&slot.pid, static_cast<std::uint32_t>(rng->Chance(500) ? value : getpid()));
      break;
    case 3:
      wire::Store(&slot.start_time, value);
      break;
    case 4:
      wire::Store(&slot.intent, static_cast<std::uint32_t>(rng->Chance(700) ? 0 : value));
      break;
    case 5:
      wire::Store(&page->cards[rng->Below(2)].used, value);
      break;
    default:
      wire::Store(&slot.used[rng->Below(2)], value);
      break;
  }
}

// A process that only exists.
class Sleeper {
 public:
  Sleeper() : pid_(fork()) {
    if (pid_ != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) pause();
  }
  ~Sleeper() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  Sleeper(const Sleeper&) = delete;
  Sleeper& operator=(const Sleeper&) = delete;
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_;
};

TEST(BrokerFuzz, AHostileUsagePageMisleadsNobodyButItsSlice) {
  const std::uint64_t inputs = Inputs(200'000);
  Rng rng(Seed());
  const os::ScratchFolder folder;
  const HastyClock clock(2'000'000);
  const std::vector<CardLimits> cards = {MakeCard("GPU-a"), MakeCard("GPU-b")};
  SliceStore store(os::PosixFiles(), folder.path());
  ASSERT_TRUE(store.Prepare());
  auto evil_pages = store.Create("evil", cards);
  auto good_pages = store.Create("good", cards);
  ASSERT_TRUE(evil_pages && good_pages);
  SliceLedger evil("evil", std::move(*evil_pages), clock);
  SliceLedger good("good", std::move(*good_pages), clock);
  wire::UsagePage* const page = MapUsage(folder, "evil");
  wire::UsagePage* const other = MapUsage(folder, "good");
  ASSERT_TRUE(page != nullptr && other != nullptr);
  const Sleeper sleepers[4];
  std::set<pid_t> alive;
  for (const Sleeper& sleeper : sleepers) {
    ASSERT_TRUE(evil.Attach(*IdentifyProgram(sleeper.pid())));
    alive.insert(sleeper.pid());
  }
  const auto honest = good.Attach(*IdentifyProgram(getpid()));
  ASSERT_TRUE(honest);
  wire::Store(&other->slots[*honest].used[0], 600);
  wire::Store(&other->cards[0].used, 600);

  std::uint64_t recounts = 0;
  pid_t never = 0x3fff0000;
  for (std::uint64_t input = 0; input < inputs; ++input) {
    Scribble(page, &rng);
    switch (rng.Below(8)) {
      case 0:
        // Somebody attaches who is gone at the next look, which makes a recount necessary.
        (void)evil.Attach({{++never, 1}, 0});
        evil.CheckProcesses();
        break;
      case 1:
        (void)evil.Usage();
        break;
      case 2: {
        for (const CardAudit& card : evil.Audit()) ASSERT_LE(card.recomputed, kMost);
        break;
      }
      default:
        break;
    }
    (void)evil.Step();
    if (evil.recounts() != recounts) {
      // Just counted: whatever stood there, it is the sum of the living now, and nobody's slot has
      // anything in it.
      recounts = evil.recounts();
      std::vector<std::uint64_t> sums(cards.size());
      std::set<std::uint32_t> slots;
      for (const AttachedProcess& process : evil.Processes()) {
        slots.insert(process.slot);
        ASSERT_TRUE(alive.contains(process.process.pid)) << "input " << input;
        const wire::ProcessSlot& slot = page->slots[process.slot];
        ASSERT_EQ(wire::Load(&slot.pid), static_cast<std::uint32_t>(process.process.pid));
        ASSERT_EQ(wire::Load(&slot.start_time), process.process.start_time);
        for (std::size_t c = 0; c < cards.size(); ++c)
          sums[c] = std::min(sums[c] + process.used[c], kMost);
      }
      ASSERT_EQ(slots.size(), alive.size()) << "input " << input;
      for (std::size_t c = 0; c < cards.size(); ++c)
        ASSERT_EQ(wire::Load(&page->cards[c].used), sums[c]) << "input " << input;
    }
    if (input % 64 == 0) {
      const auto usage = good.Usage();
      ASSERT_EQ(usage[0].used, 600u);
      ASSERT_EQ(usage[1].used, 0u);
      ASSERT_EQ(good.LiveCount(), 1u);
      ASSERT_EQ(evil.LiveCount(), alive.size());
    }
  }
  EXPECT_GT(recounts, inputs / 100);
  EXPECT_GT(evil.nonsense(), 0u);
  EXPECT_GT(evil.unsettled(), 0u);
  // Its processes leave, and everything is clean, as far as the broker answers for it.
  std::cout << inputs << " writes, " << recounts << " recounts, " << evil.unsettled()
            << " given up for a moment, " << evil.nonsense() << " figures of nonsense" << std::endl;
  munmap(page, sizeof(*page));
  munmap(other, sizeof(*other));
}

// A node that starts again finds the page in any state.
TEST(BrokerFuzz, AnyPageIsAdoptedOrRefusedWhole) {
  const std::uint64_t rounds = Inputs(400'000) / 1000;
  Rng rng(Seed());
  const os::ScratchFolder folder;
  const HastyClock clock(2'000'000);
  const std::vector<CardLimits> cards = {MakeCard("GPU-a"), MakeCard("GPU-b")};
  SliceStore store(os::PosixFiles(), folder.path());
  ASSERT_TRUE(store.Prepare());
  ASSERT_TRUE(store.Create("evil", cards));
  const Sleeper member;
  const Sleeper stranger;
  std::uint64_t adopted = 0;
  std::uint64_t refused = 0;
  for (std::uint64_t round = 0; round < rounds; ++round) {
    wire::UsagePage* const page = MapUsage(folder, "evil");
    ASSERT_NE(page, nullptr);
    for (int i = 0; i < 1000; ++i) Scribble(page, &rng);
    for (const pid_t pid : {member.pid(), stranger.pid()}) {
      wire::ProcessSlot& slot = page->slots[rng.Below(wire::kProcessesMax)];
      wire::Store(&slot.pid, static_cast<std::uint32_t>(pid));
      wire::Store(&slot.start_time, os::IdentifyProcess(pid)->start_time);
    }
    auto pages = store.Open("evil", cards);
    if (!pages) {
      ++refused;
      ASSERT_EQ(pages.error().code(), Code::kDataLoss);
      wire::Store(&page->magic, wire::kUsageMagic);
      wire::Store(&page->version, wire::kPageVersion);
      munmap(page, sizeof(*page));
      continue;
    }
    ++adopted;
    SliceLedger ledger("evil", std::move(*pages), clock);
    ledger.Adopt([&](const os::ProcessId& process) { return process.pid == member.pid(); });
    ASSERT_LE(ledger.LiveCount(), 1u);
    for (const AttachedProcess& process : ledger.Processes())
      ASSERT_EQ(process.process.pid, member.pid());
    // The living one may claim to be in mid-reservation; it is let go and settles.
    for (wire::ProcessSlot& slot : page->slots) wire::Store(&slot.intent, 0u);
    while (ledger.recounts() == 0) (void)ledger.Step();
    for (std::size_t c = 0; c < cards.size(); ++c) {
      std::uint64_t sum = 0;
      for (const AttachedProcess& process : ledger.Processes()) sum += process.used[c];
      ASSERT_EQ(wire::Load(&page->cards[c].used), sum);
    }
    munmap(page, sizeof(*page));
  }
  EXPECT_GT(adopted, rounds / 2);
  std::cout << adopted << " pages adopted, " << refused << " refused" << std::endl;
}

// ---- turns ----

TEST(BrokerFuzz, AHostilePageNeverKeepsTheTurnFromAnother) {
  const std::uint64_t inputs = Inputs(300'000);
  const std::uint64_t seed = Seed();
  const os::ScratchFolder folder;
  SliceStore store(os::PosixFiles(), folder.path());
  ASSERT_TRUE(store.Prepare());
  const std::vector<CardLimits> cards = {MakeCard("GPU-a")};
  CardLimits capped = cards[0];
  capped.weight = 0;
  auto evil = store.Create("evil", {capped});
  auto good = store.Create("good", cards);
  ASSERT_TRUE(evil && good);
  wire::UsagePage* const page = MapUsage(folder, "evil");
  ASSERT_NE(page, nullptr);
  std::uint64_t written = 0;
  std::uint64_t granted = 0;
  {
    Turns turns;
    turns.Add("evil", evil->get(), {capped});
    turns.Add("good", good->get(), cards);
    std::atomic<bool> stop{false};
    std::thread scribbler([&] {
      Rng rng(seed);
      for (; written < inputs || !stop; ++written) {
        Scribble(page, &rng);
        // What the node sleeps on, and what it takes for work.
        if (rng.Chance(200)) {
          __atomic_fetch_add(&page->cards[0].arrivals, 1u, __ATOMIC_SEQ_CST);
          syscall(SYS_futex, &page->cards[0].arrivals, FUTEX_WAKE, 1, nullptr, nullptr, 0);
        }
        wire::ProcessSlot& slot = page->slots[rng.Below(4)];
        wire::Store(&slot.lanes[rng.Below(wire::kLanesMax)].state,
                    static_cast<std::uint32_t>(rng.Next()));
        wire::StreamMarks& marks = slot.marks[rng.Below(wire::kMarksMax)];
        wire::Store(&marks.card, static_cast<std::uint32_t>(rng.Next()));
        wire::Store(rng.Chance(500) ? &marks.submitted : &marks.completed,
                    static_cast<std::uint32_t>(rng.Next()));
        if (written % 1024 == 0) usleep(50);
      }
    });
    // A well-behaved tenant: it asks, gets its turn, works a moment, and gives it back.
    wire::UsagePage& mine = (*good)->usage();
    const wire::ControlCard& card = (*good)->control().cards[0];
    wire::Store(&mine.slots[0].pid, static_cast<std::uint32_t>(getpid()));
    const std::uint64_t turns_wanted = inputs / 20'000;
    for (; granted < turns_wanted; ++granted) {
      for (int asked = 0;; ++asked) {
        __atomic_fetch_add(&mine.cards[0].arrivals, 1u, __ATOMIC_SEQ_CST);
        syscall(SYS_futex, &mine.cards[0].arrivals, FUTEX_WAKE, 1, nullptr, nullptr, 0);
        const std::uint32_t word = wire::Load(&card.gate);
        if ((word & wire::kGateGranted) != 0) break;
        ASSERT_LT(asked, 300) << "no turn in a minute, after " << granted;
        const timespec wait{0, static_cast<long>(wire::kTurnSleepNanosMax)};
        syscall(SYS_futex, &card.gate, FUTEX_WAIT, word, &wait, nullptr, 0);
      }
      __atomic_fetch_add(&mine.slots[0].marks[0].submitted, 1u, __ATOMIC_SEQ_CST);
      usleep(100);
      __atomic_fetch_add(&mine.slots[0].marks[0].completed, 1u, __ATOMIC_SEQ_CST);
      usleep(1000);
    }
    stop = true;
    scribbler.join();
    EXPECT_GT(turns.counters().turns, 1u);
    turns.Remove("evil");
    turns.Remove("good");
  }
  EXPECT_EQ(wire::Load(&(*good)->control().cards[0].gate), 0u);
  EXPECT_EQ(wire::Load(&(*evil)->control().cards[0].gate), 0u);
  EXPECT_EQ(wire::Load(&(*good)->usage().cards[0].used), 0u);
  std::cout << written << " writes, " << granted << " turns of the other slice" << std::endl;
  munmap(page, sizeof(*page));
}

}  // namespace
}  // namespace tessera::broker
