// Tenants on one software card under a real broker, and what the card's engine served each of them:
// for the test and the measurement of compute shares. The engine's clock, which nobody in Tessera
// can turn, is the witness.
#pragma once

#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <climits>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "broker/broker.h"
#include "os/process.h"
#include "simgpu/state/state.h"
#include "wire/messages.h"
#include "wire/pages.h"

namespace tessera::guest {

// Where the built things lie.
struct ShareFiles {
  std::string guest_library;
  std::string simgpu_folder;
  std::string tenant;
};

// Owns a state folder, a broker and its tenants. One a process: a software card's state is never
// closed. One thread uses it.
class ShareRig {
 public:
  explicit ShareRig(ShareFiles files, const char* model = "A100-80") : files_(std::move(files)) {
    char folder[] = "/tmp/shXXXXXX";
    if (mkdtemp(folder) == nullptr) std::abort();
    folder_ = folder;
    setenv("SIMGPU_STATE", (folder_ + "/g").c_str(), 1);
    setenv("SIMGPU_CARDS", model, 1);
    setenv("SIMGPU_QUIET", "1", 1);
    std::string error;
    state_ = simgpu::State::Open(&error);
    if (state_ == nullptr) {
      std::fprintf(stderr, "%s\n", error.c_str());
      std::abort();
    }
  }
  ~ShareRig() {
    EndAll();
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  ShareRig(const ShareRig&) = delete;
  ShareRig& operator=(const ShareRig&) = delete;

  // Terms as the node's limits say them: weight 0 makes `permille` a hard cap.
  static broker::CardLimits Terms(std::uint32_t permille, std::uint32_t weight,
                                  std::uint32_t priority = 0) {
    broker::CardLimits limits;
    limits.compute_permille = permille;
    limits.weight = weight;
    limits.priority = priority;
    return limits;
  }

  // A new slice with one program in it; returns its number once the program is ready.
  std::size_t Start(const broker::CardLimits& terms, const std::string& kind, long micros,
                    const std::vector<std::uint32_t>& cards = {0}) {
    EnsureBroker();
    Tenant tenant;
    tenant.slice = "s" + std::to_string(made_++);
    tenant.cards = cards;
    if (!broker_->CreateSlice(tenant.slice, Whole(terms, cards))) std::abort();
    int down[2], up[2], go[2];
    if (pipe2(down, O_CLOEXEC) != 0 || pipe2(up, O_CLOEXEC) != 0 || pipe2(go, O_CLOEXEC) != 0) {
      std::abort();
    }
    const std::string socket = folder_ + "/s";
    const std::string length = std::to_string(micros);
    tenant.pid = fork();
    if (tenant.pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      char ready = 0;
      if (read(go[0], &ready, 1) != 1) _exit(126);
      dup2(down[0], 0);
      dup2(up[1], 1);
      setenv("LD_LIBRARY_PATH", files_.simgpu_folder.c_str(), 1);
      setenv("LD_PRELOAD", files_.guest_library.c_str(), 1);
      setenv(wire::kSocketVariable, socket.c_str(), 1);
      execl(files_.tenant.c_str(), "share_tenant", kind.c_str(), length.c_str(),
            static_cast<char*>(nullptr));
      _exit(127);
    }
    const auto root = os::IdentifyProcess(tenant.pid);
    if (!root || !broker_->AddRoot(tenant.slice, *root)) std::abort();
    if (write(go[1], "g", 1) != 1) std::abort();
    for (const int fd : {down[0], up[1], go[0], go[1]}) close(fd);
    tenant.in = down[1];
    tenant.out = fdopen(up[0], "r");
    char line[64];
    if (std::fgets(line, sizeof(line), tenant.out) == nullptr) {
      std::fprintf(stderr, "a tenant did not start\n");
      std::abort();
    }
    tenants_.push_back(std::move(tenant));
    return tenants_.size() - 1;
  }

  // Ends a tenant and removes its slice; what its program said last.
  std::string End(std::size_t number) {
    Tenant& tenant = tenants_[number];
    if (tenant.pid == 0) return "";
    close(tenant.in);
    char line[64] = "";
    if (std::fgets(line, sizeof(line), tenant.out) == nullptr) line[0] = '\0';
    std::fclose(tenant.out);
    int status = 0;
    waitpid(tenant.pid, &status, 0);
    tenant.pid = 0;
    (void)broker_->RemoveSlice(tenant.slice);
    return line;
  }
  void EndAll() {
    breaker_ = {};
    for (std::size_t i = 0; i < tenants_.size(); ++i) End(i);
    tenants_.clear();
  }

  void SetTerms(std::size_t number, const broker::CardLimits& terms) {
    const Tenant& tenant = tenants_[number];
    if (!broker_->SetLimits(tenant.slice, Whole(terms, tenant.cards))) std::abort();
  }

  // Breaks the turns on purpose: from now on a thread keeps the gates of these tenants open, behind
  // the broker's back, until they end.
  void ForceOpen(const std::vector<std::size_t>& numbers) {
    std::vector<wire::ControlPage*> pages;
    for (const std::size_t number : numbers) {
      const std::string path = folder_ + "/run/slices/" + tenants_[number].slice + "/control";
      const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
      void* page =
          mmap(nullptr, sizeof(wire::ControlPage), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
      if (page == MAP_FAILED) std::abort();
      close(fd);
      pages.push_back(static_cast<wire::ControlPage*>(page));
    }
    breaker_ = std::jthread([pages](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        for (wire::ControlPage* page : pages) {
          __atomic_store_n(&page->cards[0].gate, 0u, __ATOMIC_SEQ_CST);
          syscall(SYS_futex, &page->cards[0].gate, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
        }
        usleep(20);
      }
      for (wire::ControlPage* page : pages) munmap(page, sizeof(wire::ControlPage));
    });
  }

  // What the streams of a tenant say of their work on the card, as its usage page has it.
  std::vector<wire::StreamMarks> MarksOf(std::size_t number) const {
    const std::string path = folder_ + "/run/slices/" + tenants_[number].slice + "/usage";
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    void* const mapped = mmap(nullptr, sizeof(wire::UsagePage), PROT_READ, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED) std::abort();
    close(fd);
    const auto* const page = static_cast<const wire::UsagePage*>(mapped);
    std::vector<wire::StreamMarks> all;
    for (const wire::ProcessSlot& slot : page->slots) {
      if (static_cast<pid_t>(wire::Load(&slot.pid)) != tenants_[number].pid) continue;
      for (const wire::StreamMarks& one : slot.marks) {
        all.push_back({wire::Load(&one.submitted), wire::Load(&one.completed), one.card, 0});
      }
    }
    munmap(mapped, sizeof(wire::UsagePage));
    return all;
  }

  // Everybody's served nanoseconds and the engine's time, at one moment.
  struct Served {
    double at = 0;
    double busy = 0;
    double switching = 0;  // from one process to another: the card's own cost
    std::vector<double> by_tenant;
  };
  Served Look(std::uint32_t card = 0) const {
    const auto account = state_->engine(card).Read();
    Served served;
    served.at = static_cast<double>(account.at_ns);
    served.busy = static_cast<double>(account.busy_ns);
    served.switching = static_cast<double>(account.switching_ns);
    for (const Tenant& tenant : tenants_) {
      double nanos = 0;
      for (const auto& use : account.uses) {
        if (use.pid == tenant.pid) nanos = static_cast<double>(use.served_ns);
      }
      served.by_tenant.push_back(nanos);
    }
    return served;
  }
  // What each tenant got between two looks, as parts of all that anybody was served (`of_served`)
  // or of the time that passed.
  static std::vector<double> Shares(const Served& from, const Served& to, bool of_served) {
    std::vector<double> shares;
    double all = 0;
    for (std::size_t i = 0; i < to.by_tenant.size(); ++i) {
      shares.push_back(to.by_tenant[i] - from.by_tenant[i]);
      all += shares.back();
    }
    if (!of_served) all = to.at - from.at;
    for (double& share : shares) share = all > 0 ? share / all : 0;
    return shares;
  }

  broker::Broker& broker() {
    EnsureBroker();
    return *broker_;
  }
  pid_t PidOf(std::size_t number) const { return tenants_[number].pid; }

 private:
  struct Tenant {
    std::string slice;
    pid_t pid = 0;
    int in = -1;
    std::FILE* out = nullptr;
    std::vector<std::uint32_t> cards;
  };

  std::vector<broker::CardLimits> Whole(broker::CardLimits limits,
                                        const std::vector<std::uint32_t>& cards) const {
    limits.limit_bytes = limits.ceiling_bytes = 4ull << 30;
    limits.context_bytes = 0;
    limits.granule_bytes = 2 << 20;
    std::vector<broker::CardLimits> all;
    for (const std::uint32_t card : cards) {
      limits.uuid = state_->card(card).uuid;
      all.push_back(limits);
    }
    return all;
  }

  void EnsureBroker() {
    if (broker_ != nullptr) return;
    broker::Broker::Options options;
    options.run_folder = folder_ + "/run";
    options.socket_path = folder_ + "/s";
    std::filesystem::create_directories(options.run_folder);
    options.settle = [this](const std::string&, pid_t pid) -> std::optional<std::uint64_t> {
      for (const auto& process : state_->Processes(0, 0)) {
        if (process.pid == pid) return process.usage.Total();
      }
      return 0;
    };
    auto started = broker::Broker::Start(std::move(options));
    if (!started) std::abort();
    broker_ = std::move(*started);
  }

  ShareFiles files_;
  std::string folder_;
  simgpu::State* state_ = nullptr;
  std::unique_ptr<broker::Broker> broker_;
  std::vector<Tenant> tenants_;
  std::jthread breaker_;
  int made_ = 0;
};

// Jain's index of fairness: 1 when all are equal.
inline double Jain(const std::vector<double>& values) {
  double sum = 0, squares = 0;
  for (const double value : values) {
    sum += value;
    squares += value * value;
  }
  return squares == 0 ? 0 : sum * sum / (static_cast<double>(values.size()) * squares);
}

}  // namespace tessera::guest
