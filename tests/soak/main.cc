// soak: sixteen processes churn contexts, memory of every kind, graphs, streams, forks and threads
// in the slices of one broker over software cards, and are killed at any moment; so is the broker.
// Beside them, from outside, every second and at every stop: is the ledger what its processes sum
// up to, is it what the card says, was a slice ever over its limit, does everybody move, is
// anything left at the end.
//
//   soak --walker FILE --guest FILE --simgpu DIR [--seconds N] [--processes N] [--seed N] [--json
//   F]
//        [--break ledger|fd]     spoils one thing on purpose; the soak must then fail
//   soak node FOLDER             the node of a soak (node.h)
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "base/rng.h"
#include "node/audit.h"
#include "os/process.h"
#include "os/scratch.h"
#include "simgpu/state/state.h"
#include "tests/soak/node.h"
#include "tests/soak/page.h"
#include "wire/messages.h"
#include "wire/pages.h"

namespace tessera::soak {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;
// Nobody may go longer without a driver call that came back. Generous: the machine may be busy.
constexpr int kStuckSeconds = 60;
constexpr std::uint64_t kRssGrowthMax = 16 * kMiB;
constexpr int kSampleMillis = 50;
constexpr double kCloseSecondsMax = 5;  // for the node to have closed what the dead left open
constexpr int kSettleSecondsMax = 15;   // for the reaper to have counted, at a stop

struct Flags {
  std::string walker, guest, simgpu, json, spoil;
  int seconds = 12;
  int processes = 16;
  double stop_every = 0;
  std::uint64_t seed = 0;
};

double Now() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}
void SleepMillis(int millis) { usleep(static_cast<useconds_t>(millis) * 1000); }

std::string ReadText(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::size_t CountFds(pid_t pid) {
  std::error_code error;
  std::size_t count = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/fd", error)) {
    (void)entry;
    ++count;
  }
  return count;
}

std::uint64_t RssOf(pid_t pid) {
  const std::string status = ReadText("/proc/" + std::to_string(pid) + "/status");
  const auto at = status.find("VmRSS:");
  return at == std::string::npos ? 0 : std::strtoull(status.c_str() + at + 6, nullptr, 10) * 1024;
}

struct Totals {
  std::uint64_t kills = 0, kills_in_calls = 0, kills_in_reservations = 0;
  std::uint64_t node_kills = 0, node_stops = 0, slices_remade = 0, terms_changed = 0, stops = 0;
  std::uint64_t starts = 0, samples = 0, ends_without_node = 0;
  std::uint64_t steps = 0, calls = 0, refusals = 0, unattached = 0;
  std::uint64_t slack_max = 0, over_ledger_max = 0, compared = 0;
  std::uint64_t rss_growth_max = 0;
  double longest_silence = 0;
  std::vector<double> fill;  // of each slice's limit, at most, by the card's word
};

class Soak {
 public:
  explicit Soak(Flags flags) : flags_(std::move(flags)), rng_(flags_.seed) {}

  int Run() {
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    signal(SIGPIPE, SIG_IGN);
    setenv("SIMGPU_STATE", (folder_ / "g").c_str(), 1);
    setenv("SIMGPU_CARDS", "A100-80,A100-80", 1);
    setenv("SIMGPU_QUIET", "1", 1);
    setenv(kPageVariable, (folder_ / "page").c_str(), 1);
    std::string why;
    state_ = simgpu::State::Open(&why);
    if (state_ == nullptr) return Fail("%s", why.c_str());
    std::filesystem::create_directories(folder_ / "run");
    const int fd = open((folder_ / "page").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, sizeof(Page)) != 0) return Fail("no page");
    page_ =
        static_cast<Page*>(mmap(nullptr, sizeof(Page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    close(fd);
    totals_.fill.resize(Plans().size());
    usage_.resize(Plans().size());
    if (!StartNode()) return Fail("the node did not start: %s", answer_.c_str());
    const std::size_t fds_at_rest = CountFds(node_);
    for (std::size_t slice = 0; slice < Plans().size(); ++slice) {
      if (!Make(slice)) return 1;
    }
    // By the plans' proportions, whatever the number.
    for (int i = 0; i < flags_.processes; ++i) {
      int of = i % 16;
      std::size_t slice = 0;
      while (of >= Plans()[slice].walkers) of -= Plans()[slice++].walkers;
      walkers_.push_back({.slice = slice});
    }
    const double begun = Now();
    const double end = begun + flags_.seconds;
    double next_second = begun + 1;
    double next_stop = begun + StopEvery() / 2;
    double next_node = begun + NodeEvery();
    double next_slice = begun + SliceEvery();
    while (Now() < end && failures_ == 0) {
      if (!Reap() || !StartMissing() || !Sample()) break;
      const double now = Now();
      if (now >= next_second) {
        next_second = now + 1;
        EverySecond();
      }
      if (now >= next_stop) {
        next_stop = now + StopEvery();
        StandStill();
      } else if (now >= next_node) {
        next_node = now + NodeEvery();
        ReplaceNode();
      } else if (now >= next_slice) {
        next_slice = now + SliceEvery();
        Remake(Plans().size() - 1);
      } else {
        if (rng_.Chance(250)) KillOne();
        if (rng_.Chance(30)) ChangeTerms();
      }
      SleepMillis(kSampleMillis);
    }
    if (failures_ == 0) StandStill();
    if (failures_ == 0) End(fds_at_rest);
    Report(Now() - begun);
    for (Walker& walker : walkers_) {
      if (walker.pid > 0) kill(walker.pid, SIGKILL);
    }
    if (node_ > 0) kill(node_, SIGKILL);
    while (waitpid(-1, nullptr, 0) > 0) {
    }
    return failures_ == 0 ? 0 : 1;
  }

 private:
  struct Walker {
    std::size_t slice = 0;
    pid_t pid = 0;
    std::uint64_t start_time = 0;
    bool killed = false;
    double not_before = 0;
    std::uint64_t progress = 0;
    double moved = 0;
  };

  // Short runs meet everything a few times; long ones give each node a while.
  double StopEvery() const {
    if (flags_.stop_every > 0) return flags_.stop_every;
    return std::clamp(flags_.seconds / 6.0, 3.0, 20.0);
  }
  double NodeEvery() const { return std::clamp(flags_.seconds / 4.0, 3.0, 60.0); }
  double SliceEvery() const { return std::clamp(flags_.seconds / 3.0, 4.0, 45.0); }

  __attribute__((format(printf, 2, 3))) int Fail(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    std::printf("FAILED at %.1f s: ", Now() - start_);
    std::vprintf(format, arguments);
    std::printf("\n");
    va_end(arguments);
    std::fflush(stdout);
    ++failures_;
    return 1;
  }

  // ---- the node ----

  bool StartNode() {
    int down[2];
    int up[2];
    if (pipe2(down, O_CLOEXEC) != 0 || pipe2(up, O_CLOEXEC) != 0) return false;
    const std::string run = folder_ / "run";
    node_ = fork();
    if (node_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      dup2(down[0], 0);
      dup2(up[1], 1);
      execl("/proc/self/exe", "soak", "node", run.c_str(), static_cast<char*>(nullptr));
      _exit(127);
    }
    close(down[0]);
    close(up[1]);
    to_node_ = fdopen(down[1], "w");
    from_node_ = fdopen(up[0], "r");
    rss_first_ = 0;
    node_since_ = Now();
    return Hear();
  }
  bool Hear() {
    char line[1024] = "error the node is gone\n";
    if (std::fgets(line, sizeof(line), from_node_) == nullptr)
      std::strcpy(line, "error the node is gone");
    answer_ = line;
    return answer_.starts_with("ok");
  }
  bool Ask(const std::string& line) {
    std::fprintf(to_node_, "%s\n", line.c_str());
    std::fflush(to_node_);
    return Hear() || Fail("the node answers \"%s\" with %s", line.c_str(), answer_.c_str()) == 0;
  }
  void EndNode(bool kill_it) {
    if (kill_it) kill(node_, SIGKILL);
    std::fclose(to_node_);
    int status = 0;
    waitpid(node_, &status, 0);
    std::fclose(from_node_);
    node_ = 0;
    if (!kill_it && status != 0) Fail("the node ended with status 0x%x", status);
  }
  // Killed or ended, away for a moment in which walkers go on and die, and back.
  void ReplaceNode() {
    const bool kill_it = rng_.Chance(700);
    (kill_it ? totals_.node_kills : totals_.node_stops) += 1;
    LookAtNode();
    EndNode(kill_it);
    const double back = Now() + static_cast<double>(rng_.Below(700)) / 1000;
    do {
      if (rng_.Chance(300)) KillOne();
      SleepMillis(20);
    } while (Now() < back && Reap());
    if (!StartNode()) {
      Fail("the node did not come back: %s", answer_.c_str());
      return;
    }
    for (std::size_t slice = 0; slice < Plans().size(); ++slice) {
      std::string line = "adopt " + std::to_string(slice);
      for (const Walker& walker : walkers_) {
        if (walker.slice != slice || walker.pid <= 0) continue;
        line += " " + std::to_string(walker.pid) + " " + std::to_string(walker.start_time);
      }
      Ask(line);
    }
  }
  void LookAtNode() {
    if (node_ <= 0) return;
    const std::uint64_t rss = RssOf(node_);
    // After its first seconds it has met everybody.
    if (Now() - node_since_ < 2) return;
    if (rss_first_ == 0) rss_first_ = rss;
    if (rss > rss_first_) {
      totals_.rss_growth_max = std::max(totals_.rss_growth_max, rss - rss_first_);
      if (rss - rss_first_ > kRssGrowthMax)
        Fail("the node grew from %llu to %llu bytes", Llu(rss_first_), Llu(rss));
    }
  }

  // ---- slices ----

  bool Make(std::size_t slice) {
    if (!Ask("create " + std::to_string(slice))) return false;
    const std::string path = folder_ / "run/slices/" + Plans()[slice].id + "/usage";
    const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
    void* const page =
        fd < 0 ? MAP_FAILED
               : mmap(nullptr, sizeof(wire::UsagePage), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0) close(fd);
    if (page == MAP_FAILED) return Fail("no usage page at %s", path.c_str()) == 0;
    usage_[slice] = static_cast<wire::UsagePage*>(page);
    return true;
  }
  void Unmake(std::size_t slice) {
    Ask("remove " + std::to_string(slice));
    munmap(usage_[slice], sizeof(wire::UsagePage));
    usage_[slice] = nullptr;
    if (std::filesystem::exists(folder_ / "run/slices/" + Plans()[slice].id))
      Fail("slice %s left pages behind", Plans()[slice].id);
  }
  void Remake(std::size_t slice) {
    ++totals_.slices_remade;
    for (Walker& walker : walkers_) {
      if (walker.slice == slice && walker.pid > 0) Kill(walker);
    }
    Unmake(slice);
    Make(slice);
  }
  void ChangeTerms() {
    const std::uint64_t slice = rng_.Below(Plans().size());
    ++totals_.terms_changed;
    const bool cap = Plans()[slice].weight == 0;
    Ask("terms " + std::to_string(slice) + " " + std::to_string(rng_.Between(100, 900)) + " " +
        std::to_string(cap ? 0 : rng_.Between(1, 9)));
  }

  // ---- walkers ----

  Line& LineOf(const Walker& walker) const {
    return page_->lines[static_cast<std::size_t>(&walker - walkers_.data())];
  }
  bool Start(Walker& walker) {
    const auto index = static_cast<std::size_t>(&walker - walkers_.data());
    int go[2];
    if (pipe2(go, O_CLOEXEC) != 0) return Fail("pipe") == 0;
    Line& line = LineOf(walker);
    __atomic_store_n(&line.paused, 0u, __ATOMIC_SEQ_CST);
    line.claimed = 0;
    const std::string number = std::to_string(index);
    const std::string seed = std::to_string(rng_.Next());
    const std::string log = folder_ / "log." + number;
    const std::string socket = folder_ / "run/s";
    walker.pid = fork();
    if (walker.pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      char told = 0;
      if (read(go[0], &told, 1) != 1) _exit(7);
      const int out = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
      dup2(out, 1);
      dup2(out, 2);
      setenv("LD_LIBRARY_PATH", flags_.simgpu.c_str(), 1);
      setenv("LD_PRELOAD", flags_.guest.c_str(), 1);
      setenv(wire::kSocketVariable, socket.c_str(), 1);
      execl(flags_.walker.c_str(), "soak_walker", "walk", number.c_str(), seed.c_str(), "0",
            static_cast<char*>(nullptr));
      _exit(127);
    }
    close(go[0]);
    bool started = false;
    if (const auto id = os::IdentifyProcess(walker.pid)) {
      walker.start_time = id->start_time;
      started = Ask("root " + std::to_string(walker.slice) + " " + std::to_string(id->pid) + " " +
                    std::to_string(id->start_time));
    }
    if (started && write(go[1], "g", 1) != 1) started = false;
    close(go[1]);
    walker.killed = false;
    walker.progress = line.progress;
    walker.moved = Now();
    ++totals_.starts;
    slice_of_[walker.pid] = walker.slice;
    return started || Fail("walker %s did not start", number.c_str()) == 0;
  }
  bool StartMissing() {
    for (Walker& walker : walkers_) {
      if (walker.pid == 0 && Now() >= walker.not_before && !Start(walker)) return false;
    }
    return true;
  }
  void Kill(Walker& walker) {
    walker.killed = true;
    kill(walker.pid, SIGKILL);
    ++totals_.kills;
    const std::uint32_t step = __atomic_load_n(&LineOf(walker).step, __ATOMIC_RELAXED);
    if (step >= kPlain && step <= kDrop) ++totals_.kills_in_calls;
  }
  // One in four is killed just when it is between its reservation and its slot.
  void KillOne() {
    // Every second one is mostly left alone, so that some grow old.
    const std::size_t index = rng_.Below(walkers_.size());
    Walker& walker = walkers_[index];
    if (walker.pid <= 0 || walker.killed || (index % 2 == 0 && !rng_.Chance(30))) return;
    if (rng_.Chance(250)) {
      const double until = Now() + 0.05;
      while (Now() < until) {
        const wire::ProcessSlot* const slot = SlotOf(walker);
        if (slot == nullptr || wire::Load(&slot->intent) == 0) continue;
        ++totals_.kills_in_reservations;
        break;
      }
    }
    Kill(walker);
  }
  const wire::ProcessSlot* SlotOf(const Walker& walker) const {
    for (const wire::ProcessSlot& slot : usage_[walker.slice]->slots) {
      if (wire::Load(&slot.pid) == static_cast<std::uint32_t>(walker.pid)) return &slot;
    }
    return nullptr;
  }
  // Takes note of everybody who ended, orphans included.
  bool Reap() {
    int status = 0;
    for (pid_t pid = 0; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
      if (pid == node_) {
        node_ = 0;
        return Fail("the node died by itself, status 0x%x", status) == 0;
      }
      const auto at = std::find_if(walkers_.begin(), walkers_.end(),
                                   [pid](const Walker& walker) { return walker.pid == pid; });
      if (at == walkers_.end()) continue;
      at->pid = 0;
      const bool by_us = at->killed && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
      const bool no_node = WIFEXITED(status) && WEXITSTATUS(status) == 7;
      const bool stopped = page_->stop != 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
      if (no_node) {
        ++totals_.ends_without_node;
        at->not_before = Now() + 0.2;
      }
      if (!by_us && !no_node && !stopped) {
        const auto index = std::to_string(at - walkers_.begin());
        return Fail("walker %s (pid %d, slice %s) ended with status 0x%x in step %s\n%s",
                    index.c_str(), pid, Plans()[at->slice].id, status, kStepNames[LineOf(*at).step],
                    Tail(index).c_str()) == 0;
      }
    }
    return true;
  }
  std::string Tail(const std::string& index) {
    const std::string text = ReadText(folder_ / "log." + index);
    return text.size() > 2000 ? text.substr(text.size() - 2000) : text;
  }

  // ---- what is looked at ----

  struct Holder {
    pid_t pid;
    std::uint64_t bytes;
    bool operator==(const Holder&) const = default;
  };
  std::vector<Holder> Holders(std::uint32_t card) const {
    std::vector<Holder> all;
    for (const auto& use : state_->Processes(card, 0)) all.push_back({use.pid, use.usage.Total()});
    return all;
  }
  // The slice of a process by its parents, who are ours or were; -1: unknown.
  int SliceOf(pid_t pid) {
    if (const auto known = slice_of_.find(pid); known != slice_of_.end())
      return static_cast<int>(known->second);
    pid_t at = pid;
    for (int depth = 0; depth < 8 && at > 1; ++depth) {
      const auto parent = os::ParentOf(at);
      if (!parent) break;
      at = *parent;
      if (const auto known = slice_of_.find(at); known != slice_of_.end()) {
        slice_of_[pid] = known->second;
        return static_cast<int>(known->second);
      }
    }
    return -1;
  }
  // What the cards hold for each slice, never more than its limit. Two equal readings in a row are
  // a moment.
  bool Sample() {
    for (std::uint32_t card = 0; card < state_->card_count(); ++card) {
      const auto first = Holders(card);
      for (const Holder& holder : first) SliceOf(holder.pid);
      if (first != Holders(card)) continue;
      ++totals_.samples;
      std::vector<std::uint64_t> bytes(Plans().size());
      for (const Holder& holder : first) {
        if (const int slice = SliceOf(holder.pid); slice >= 0) {
          bytes[static_cast<std::size_t>(slice)] += holder.bytes;
        }
      }
      for (std::size_t slice = 0; slice < bytes.size(); ++slice) {
        const std::uint64_t limit = Plans()[slice].limit_mib * kMiB;
        totals_.fill[slice] = std::max(
            totals_.fill[slice], static_cast<double>(bytes[slice]) / static_cast<double>(limit));
        if (bytes[slice] > limit) {
          return Fail("slice %s holds %llu bytes on card %u, %llu over its limit",
                      Plans()[slice].id, Llu(bytes[slice]), card, Llu(bytes[slice] - limit)) == 0;
        }
      }
    }
    return true;
  }
  void EverySecond() {
    for (std::size_t slice = 0; slice < Plans().size(); ++slice) {
      for (std::size_t c = 0; c < Plans()[slice].cards.size(); ++c) {
        const std::uint64_t used = wire::Load(&usage_[slice]->cards[c].used) & ~wire::kFrozenBit;
        if (used > Plans()[slice].limit_mib * kMiB)
          Fail("the ledger of %s says %llu bytes, over its limit", Plans()[slice].id, Llu(used));
      }
    }
    for (Walker& walker : walkers_) {
      const Line& line = LineOf(walker);
      if (__atomic_load_n(&line.wrong, __ATOMIC_RELAXED) != 0) {
        Fail("a walker of %s: %s", Plans()[walker.slice].id, line.what);
      }
      if (walker.pid <= 0) continue;
      const std::uint64_t progress = __atomic_load_n(&line.progress, __ATOMIC_RELAXED);
      if (progress != walker.progress || line.paused != 0) {
        walker.progress = progress;
        walker.moved = Now();
      }
      const double silence = Now() - walker.moved;
      totals_.longest_silence = std::max(totals_.longest_silence, silence);
      if (silence > kStuckSeconds) {
        Fail("walker %d of %s has not moved for %d s, in step %s", walker.pid,
             Plans()[walker.slice].id, kStuckSeconds, kStepNames[line.step]);
        ShowStacks(walker.pid);
      }
    }
    LookAtNode();
    // Pids come round.
    std::erase_if(slice_of_, [this](const auto& entry) {
      return std::none_of(walkers_.begin(), walkers_.end(),
                          [&](const Walker& walker) { return walker.pid == entry.first; }) &&
             kill(entry.first, 0) != 0;
    });
  }
  void ShowSteps(const Walker& walker) {
    const Line& line = LineOf(walker);
    std::printf("its last steps:");
    for (std::uint32_t i = 0; i < kRecent; ++i)
      std::printf(" %s", kStepNames[line.recent[(line.taken + i) % kRecent] % kSteps]);
    std::printf("\n");
  }
  // What the pages of a slice say of its turn and its marks.
  void ShowTurn(std::size_t slice) {
    const std::string path = folder_ / "run/slices/" + Plans()[slice].id + "/control";
    std::ifstream file(path, std::ios::binary);
    wire::ControlPage control{};
    file.read(reinterpret_cast<char*>(&control), sizeof(control));
    for (std::size_t c = 0; c < Plans()[slice].cards.size(); ++c) {
      std::printf("   %s card %zu: gate %x heard %u arrivals %u\n", Plans()[slice].id, c,
                  control.cards[c].gate, control.cards[c].heard,
                  wire::Load(&usage_[slice]->cards[c].arrivals));
    }
    for (const wire::ProcessSlot& slot : usage_[slice]->slots) {
      if (wire::Load(&slot.pid) == 0) continue;
      std::printf("   pid %u inside %u launches %llu, lanes:", slot.pid, slot.inside,
                  Llu(slot.launches));
      for (const wire::GateLane& lane : slot.lanes) std::printf(" %x", lane.state);
      std::printf(", marks:");
      for (const wire::StreamMarks& marks : slot.marks) {
        if (marks.submitted != marks.completed || marks.unmarked_nanos != 0) {
          std::printf(" %u/%u+%u", marks.completed, marks.submitted, marks.unmarked_nanos);
        }
      }
      std::printf("\n");
    }
  }
  void ShowStacks(pid_t pid) {
    for (std::size_t slice = 0; slice < Plans().size(); ++slice) ShowTurn(slice);
    const std::string id = std::to_string(pid);
    const std::string children = ReadText("/proc/" + id + "/task/" + id + "/children");
    std::istringstream rest(id + " " + children + " " + std::to_string(node_));
    for (std::string one; rest >> one;) {
      std::printf("-- process %s: %s\n", one.c_str(), ReadText("/proc/" + one + "/comm").c_str());
      std::error_code error;
      for (const auto& task :
           std::filesystem::directory_iterator("/proc/" + one + "/task", error)) {
        const std::string path = task.path();
        std::printf("  thread %s wchan %s syscall %s", path.substr(path.rfind('/') + 1).c_str(),
                    ReadText(path + "/wchan").c_str(), ReadText(path + "/syscall").c_str());
      }
      std::fflush(stdout);
      const std::string gdb = "timeout 30 gdb -p " + one +
                              " -batch -nx -ex 'thread apply all bt 12' 2>/dev/null | grep '^[#T]'";
      if (std::system(gdb.c_str()) != 0) std::printf("  (no gdb)\n");
    }
  }

  // Everybody stands still: now the ledger, its sum and the cards must agree.
  void StandStill() {
    ++totals_.stops;
    __atomic_store_n(&page_->pause, 1u, __ATOMIC_SEQ_CST);
    const auto all_paused = [this] {
      return std::all_of(walkers_.begin(), walkers_.end(), [this](const Walker& walker) {
        return walker.pid <= 0 || __atomic_load_n(&LineOf(walker).paused, __ATOMIC_SEQ_CST) != 0;
      });
    };
    const double until = Now() + kStuckSeconds;
    while (!all_paused() && Now() < until && Reap()) SleepMillis(5);
    if (!all_paused() && failures_ == 0) {
      for (const Walker& walker : walkers_) {
        if (walker.pid <= 0 || LineOf(walker).paused != 0) continue;
        Fail("walker %d of %s does not come to a stop within %d s, in step %s", walker.pid,
             Plans()[walker.slice].id, kStuckSeconds, kStepNames[LineOf(walker).step]);
        ShowStacks(walker.pid);
        std::printf("%s\n", Tail(std::to_string(&walker - walkers_.data())).c_str());
        break;
      }
    }
    if (flags_.spoil == "ledger") {
      __atomic_fetch_add(&usage_[0]->cards[0].used, 16 * kMiB, __ATOMIC_SEQ_CST);
    }
    // The reaper may still have somebody to count out.
    std::string why = "nothing was looked at";
    const double settled_by = Now() + kSettleSecondsMax;
    while (failures_ == 0 && !(why = Disagreement()).empty() && Now() < settled_by && Reap()) {
      SleepMillis(20);
    }
    if (failures_ == 0 && !why.empty()) {
      Fail("standing still: %s", why.c_str());
      for (const Walker& walker : walkers_) {
        if (why.find(" " + std::to_string(walker.pid) + " ") != std::string::npos)
          ShowSteps(walker);
      }
    }
    Sample();
    __atomic_store_n(&page_->pause, 0u, __ATOMIC_SEQ_CST);
  }
  std::string Disagreement() {
    char text[256];
    for (std::size_t slice = 0; slice < Plans().size(); ++slice) {
      const wire::UsagePage& usage = *usage_[slice];
      for (std::size_t c = 0; c < Plans()[slice].cards.size(); ++c) {
        const auto holders = Holders(Plans()[slice].cards[c]);
        const std::uint64_t used = wire::Load(&usage.cards[c].used);
        std::uint64_t sum = 0;
        std::set<pid_t> attached;
        for (const wire::ProcessSlot& slot : usage.slots) {
          const auto pid = static_cast<pid_t>(wire::Load(&slot.pid));
          if (pid == 0) continue;
          attached.insert(pid);
          const std::uint64_t ledger = wire::Load(&slot.used[c]);
          sum += ledger;
          const auto at = std::find_if(holders.begin(), holders.end(),
                                       [pid](const Holder& holder) { return holder.pid == pid; });
          const std::uint64_t driver = at == holders.end() ? 0 : at->bytes;
          ++totals_.compared;
          const std::uint64_t over = driver > ledger ? driver - ledger : 0;
          const std::uint64_t under = ledger > driver ? ledger - driver : 0;
          std::uint64_t claimed = 0;
          for (const Walker& walker : walkers_) {
            if (walker.pid == pid) claimed = LineOf(walker).claimed;
          }
          // What the node's audit lets pass, either way: what is made while the node is away is
          // charged by estimate, and stays so until it goes.
          const std::uint64_t slack = node::AuditSlack(ledger);
          if (over > slack || under > slack + claimed) {
            std::snprintf(text, sizeof(text),
                          "process %d of %s on card %u: the ledger says %llu, the driver %llu", pid,
                          Plans()[slice].id, Plans()[slice].cards[c], Llu(ledger), Llu(driver));
            return text;
          }
          totals_.over_ledger_max = std::max(totals_.over_ledger_max, over);
          totals_.slack_max = std::max(totals_.slack_max, under - std::min(under, claimed));
        }
        if (used != sum) {
          std::snprintf(text, sizeof(text),
                        "slice %s on card %u: the ledger says %llu, its processes sum up to %llu",
                        Plans()[slice].id, Plans()[slice].cards[c], Llu(used), Llu(sum));
          return text;
        }
        for (const Holder& holder : holders) {
          if (SliceOf(holder.pid) != static_cast<int>(slice) || attached.contains(holder.pid))
            continue;
          std::snprintf(text, sizeof(text), "process %d of %s is on card %u and in no slot",
                        holder.pid, Plans()[slice].id, Plans()[slice].cards[c]);
          return text;
        }
      }
    }
    return "";
  }

  // ---- the end ----

  void End(std::size_t fds_at_rest) {
    __atomic_store_n(&page_->stop, 1u, __ATOMIC_SEQ_CST);
    const double until = Now() + kStuckSeconds;
    const auto left = [this] {
      return std::count_if(walkers_.begin(), walkers_.end(),
                           [](const Walker& walker) { return walker.pid > 0; });
    };
    while (left() > 0 && Now() < until && Reap()) SleepMillis(10);
    if (left() > 0) {
      Fail("%ld walkers do not end", static_cast<long>(left()));
      return;
    }
    for (std::uint32_t card = 0; card < state_->card_count(); ++card) {
      const double empty_by = Now() + kSettleSecondsMax;
      while (state_->UsedBytes(card) != 0 && Now() < empty_by && Reap()) SleepMillis(20);
      if (state_->UsedBytes(card) != 0)
        Fail("card %u still holds %llu bytes", card, Llu(state_->UsedBytes(card)));
    }
    for (std::size_t slice = 0; slice < Plans().size(); ++slice) {
      const auto sum = [&] {
        std::uint64_t all = 0;
        for (const auto& card : usage_[slice]->cards) all += wire::Load(&card.used);
        for (const auto& slot : usage_[slice]->slots) all += wire::Load(&slot.pid);
        return all;
      };
      const double zero_by = Now() + kSettleSecondsMax;
      while (sum() != 0 && Now() < zero_by) SleepMillis(20);
      if (sum() != 0) Fail("the ledger of %s is not empty", Plans()[slice].id);
    }
    LookAtNode();
    if (Ask("counters"))
      std::printf(
          "node, its last life: attached strangers malformed recounts "
          "unsettled nonsense damaged turns overdue: %s",
          answer_.c_str());
    if (flags_.spoil != "fd") {
      for (std::size_t slice = 0; slice < Plans().size(); ++slice) Unmake(slice);
    }
    // Connections of the dead are closed when the news is read.
    const double closed_by = Now() + kCloseSecondsMax;
    while (CountFds(node_) > fds_at_rest && Now() < closed_by) SleepMillis(50);
    const std::size_t fds_left = CountFds(node_);
    if (fds_left > fds_at_rest)
      Fail("the node has %zu descriptors open, %zu before anybody came", fds_left, fds_at_rest);
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(folder_ / "run/slices", error)) {
      if (flags_.spoil != "fd") Fail("left behind: %s", entry.path().c_str());
    }
    EndNode(false);
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    if (errno != ECHILD) Fail("processes are left");
  }

  void Report(double seconds) {
    for (std::size_t i = 0; i < walkers_.size(); ++i) {
      const Line& line = page_->lines[i];
      totals_.calls += line.progress;
      totals_.refusals += line.refusals;
      totals_.unattached += line.unattached;
      for (std::uint32_t step = 0; step < kSteps; ++step) {
        totals_.steps += line.steps[step];
        steps_[step] += line.steps[step];
      }
    }
    std::printf("steps:");
    for (std::uint32_t step = kPlain; step < kSteps; ++step)
      std::printf(" %s %llu", kStepNames[step], Llu(steps_[step]));
    std::printf("\nfullest, of its limit:");
    for (std::size_t slice = 0; slice < Plans().size(); ++slice)
      std::printf(" %s %.2f", Plans()[slice].id, totals_.fill[slice]);
    std::printf("\n");
    // A run in which something never happened shows nothing about it.
    if (failures_ == 0) {
      for (std::uint32_t step = kPlain; step < kSteps; ++step) {
        if (steps_[step] == 0) Fail("step %s never happened", kStepNames[step]);
      }
      if (totals_.refusals == 0) Fail("no limit was met");
      if (totals_.kills_in_calls == 0) Fail("nobody was killed in a call");
      if (totals_.node_kills + totals_.node_stops == 0) Fail("the node was never replaced");
    }
    const std::vector<std::pair<const char*, double>> figures = {
        {"seconds", seconds},
        {"processes", flags_.processes},
        {"driver_calls", D(totals_.calls)},
        {"steps", D(totals_.steps)},
        {"refusals", D(totals_.refusals)},
        {"starts", D(totals_.starts)},
        {"kills", D(totals_.kills)},
        {"kills_in_calls", D(totals_.kills_in_calls)},
        {"kills_in_reservations", D(totals_.kills_in_reservations)},
        {"children_without_node", D(totals_.unattached + totals_.ends_without_node)},
        {"node_kills", D(totals_.node_kills)},
        {"node_stops", D(totals_.node_stops)},
        {"slices_remade", D(totals_.slices_remade)},
        {"terms_changed", D(totals_.terms_changed)},
        {"stops", D(totals_.stops)},
        {"processes_compared", D(totals_.compared)},
        {"samples", D(totals_.samples)},
        {"ledger_over_driver_max_bytes", D(totals_.slack_max)},
        {"driver_over_ledger_max_bytes", D(totals_.over_ledger_max)},
        {"longest_silence_seconds", totals_.longest_silence},
        {"node_rss_growth_max_bytes", D(totals_.rss_growth_max)},
        {"failures", static_cast<double>(failures_)},
    };
    if (!flags_.json.empty()) {
      std::ofstream json(flags_.json);
      json << "{\"seed\": " << flags_.seed;
      for (const auto& [name, value] : figures)
        json << ", \"" << name << "\": " << std::fixed << value;
      json << "}\n";
    }
    std::printf("soak: %s, seed %llu", failures_ == 0 ? "PASSED" : "FAILED", Llu(flags_.seed));
    for (const auto& [name, value] : figures)
      std::printf(", %s %.*f", name,
                  value == static_cast<double>(static_cast<long long>(value)) ? 0 : 1, value);
    std::printf("\n");
    std::fflush(stdout);
  }

  static unsigned long long Llu(std::uint64_t value) { return value; }
  static double D(std::uint64_t value) { return static_cast<double>(value); }

  Flags flags_;
  Rng rng_;
  os::ScratchFolder folder_;
  const double start_ = Now();
  simgpu::State* state_ = nullptr;
  Page* page_ = nullptr;
  pid_t node_ = 0;
  std::FILE* to_node_ = nullptr;
  std::FILE* from_node_ = nullptr;
  std::string answer_;
  std::uint64_t rss_first_ = 0;
  double node_since_ = 0;
  std::vector<wire::UsagePage*> usage_;
  std::vector<Walker> walkers_;
  std::map<pid_t, std::size_t> slice_of_;
  std::uint64_t steps_[kSteps] = {};
  Totals totals_;
  int failures_ = 0;
};

int Main(int argc, char** argv) {
  if (argc == 3 && std::strcmp(argv[1], "node") == 0) return RunNode(argv[2]);
  Flags flags;
  flags.seed = static_cast<std::uint64_t>(time(nullptr));
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    const char* const value = argv[i + 1];
    if (flag == "--walker")
      flags.walker = value;
    else if (flag == "--guest")
      flags.guest = value;
    else if (flag == "--simgpu")
      flags.simgpu = value;
    else if (flag == "--json")
      flags.json = value;
    else if (flag == "--break")
      flags.spoil = value;
    else if (flag == "--seconds")
      flags.seconds = std::atoi(value);
    else if (flag == "--stop-every")
      flags.stop_every = std::atof(value);
    else if (flag == "--processes")
      flags.processes = std::atoi(value);
    else if (flag == "--seed")
      flags.seed = std::strtoull(value, nullptr, 10);
    else
      argc = 0;
  }
  if (argc % 2 == 0 || flags.walker.empty() || flags.guest.empty() || flags.simgpu.empty() ||
      flags.seconds < 5 || flags.processes < 1 || flags.processes > static_cast<int>(kWalkersMax)) {
    std::fprintf(stderr,
                 "usage: soak --walker FILE --guest FILE --simgpu DIR [--seconds N (5 and more)]\n"
                 "            [--processes N (1 to %u)] [--stop-every SECONDS] [--seed N] [--json "
                 "FILE] [--break ledger|fd]\n",
                 kWalkersMax);
    return 2;
  }
  std::printf("soak: seed %llu, %d processes, %d s, on software cards (simulated)\n",
              static_cast<unsigned long long>(flags.seed), flags.processes, flags.seconds);
  std::fflush(stdout);
  return Soak(flags).Run();
}

}  // namespace
}  // namespace tessera::soak

int main(int argc, char** argv) { return tessera::soak::Main(argc, argv); }
