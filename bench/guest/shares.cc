#include "bench/guest/shares.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "guest/test_shares.h"

namespace tessera::bench {
namespace {

using guest::Jain;
using guest::ShareRig;

struct Program {
  broker::CardLimits terms;
  const char* kind;
  long micros;
  double due;  // of what is served; of time, for caps
};
struct Mix {
  const char* name;
  std::vector<Program> programs;
  bool capped;  // shares are parts of time
  bool equal;   // counts for Jain's index
};

broker::CardLimits Weight(std::uint32_t weight) { return ShareRig::Terms(weight, weight); }
broker::CardLimits Cap(std::uint32_t permille) { return ShareRig::Terms(permille, 0); }

void Pass(double seconds) {
  timespec wait = {static_cast<time_t>(seconds),
                   static_cast<long>((seconds - std::floor(seconds)) * 1e9)};
  while (nanosleep(&wait, &wait) != 0) {
  }
}

// How late a sleeping thread of this machine wakes up, at worst of 100: what no scheduler in user
// space can be better than.
double WakeP99Micros() {
  std::vector<double> late;
  for (int i = 0; i < 1000; ++i) {
    timespec before, after;
    const timespec wait = {0, 500'000};
    clock_gettime(CLOCK_MONOTONIC, &before);
    nanosleep(&wait, nullptr);
    clock_gettime(CLOCK_MONOTONIC, &after);
    late.push_back(static_cast<double>(after.tv_sec - before.tv_sec) * 1e6 +
                   static_cast<double>(after.tv_nsec - before.tv_nsec) / 1e3 - 500);
  }
  std::sort(late.begin(), late.end());
  return late[late.size() * 99 / 100];
}

// Voluntary context switches of all threads of a process.
double Switches(pid_t pid) {
  double sum = 0;
  std::error_code ignored;
  for (const auto& task :
       std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task", ignored)) {
    std::FILE* file = std::fopen((task.path() / "status").c_str(), "re");
    if (file == nullptr) continue;
    char line[256];
    while (std::fgets(line, sizeof(line), file) != nullptr) {
      double count = 0;
      if (std::sscanf(line, "voluntary_ctxt_switches: %lf", &count) == 1) sum += count;
    }
    std::fclose(file);
  }
  return sum;
}

constexpr int kWarmSeconds = 2, kSeconds = 10;

struct Worst {
  double error_1s = 0, error_10s = 0, jain = 1, throughput = 1;
};

void Run(ShareRig* rig, const Mix& mix, Worst* worst) {
  for (const Program& program : mix.programs)
    rig->Start(program.terms, program.kind, program.micros);
  Pass(kWarmSeconds);
  std::vector<ShareRig::Served> looks = {rig->Look()};
  for (int i = 0; i < kSeconds; ++i) {
    Pass(1);
    looks.push_back(rig->Look());
  }
  const auto error = [&](const std::vector<double>& shares) {
    double most = 0;
    for (std::size_t i = 0; i < shares.size(); ++i) {
      most = std::max(most, 100 * std::fabs(shares[i] - mix.programs[i].due));
    }
    return most;
  };
  double error_1s = 0, jain = 1;
  for (int i = 0; i < kSeconds; ++i) {
    const auto shares = ShareRig::Shares(looks[i], looks[i + 1], !mix.capped);
    error_1s = std::max(error_1s, error(shares));
    if (mix.equal) jain = std::min(jain, Jain(shares));
  }
  const auto whole = ShareRig::Shares(looks.front(), looks.back(), !mix.capped);
  const double error_10s = error(whole);
  const double busy =
      (looks.back().busy - looks.front().busy) / (looks.back().at - looks.front().at);
  const double switching =
      (looks.back().switching - looks.front().switching) / (looks.back().at - looks.front().at);
  std::fprintf(stderr,
               "%-28s 1s %5.2f points, 10s %5.2f, busy %.3f, switching %.3f, jain %.4f, shares",
               mix.name, error_1s, error_10s, busy, switching, jain);
  for (const double share : whole) std::fprintf(stderr, " %.3f", share);
  const auto counters = rig->broker().turns();
  std::fprintf(stderr, " (turns %llu unclaimed %llu overdue %llu wakes %llu)\n",
               static_cast<unsigned long long>(counters.turns),
               static_cast<unsigned long long>(counters.unclaimed),
               static_cast<unsigned long long>(counters.overdue),
               static_cast<unsigned long long>(counters.wakes));
  worst->error_1s = std::max(worst->error_1s, error_1s);
  worst->error_10s = std::max(worst->error_10s, error_10s);
  worst->jain = std::min(worst->jain, jain);
  if (!mix.capped) worst->throughput = std::min(worst->throughput, busy);
  rig->EndAll();
}

double Busy(ShareRig* rig, double seconds) {
  const auto from = rig->Look();
  Pass(seconds);
  const auto to = rig->Look();
  return (to.busy - from.busy) / (to.at - from.at);
}

}  // namespace

GrantedTurn::GrantedTurn(guest::TestNode* node) : node_(node) {
  wire::ControlCard& card = node->control()->cards[0];
  // Room for whatever a launch of the null driver is taken for, so that none waits.
  wire::Store(&card.window_nanos, 2'000'000'000u);
  wire::Store(&card.gate, wire::kGateStep | wire::kGateShut | wire::kGateGranted);
}

GrantedTurn::~GrantedTurn() { wire::Store(&node_->control()->cards[0].gate, 0u); }

void MeasureShares(const std::string& only, std::vector<Figure>* figures) {
  ShareRig rig({TESSERA_GUEST_LIBRARY, TESSERA_SIMGPU_FOLDER, TESSERA_SHARE_TENANT});
  const Mix mixes[] = {
      {"two alike",
       {{Weight(500), "kernels", 500, 0.5}, {Weight(500), "kernels", 500, 0.5}},
       false,
       true},
      {"weights 1:9, 50us and 2ms",
       {{Weight(100), "kernels", 50, 0.1}, {Weight(900), "kernels", 2000, 0.9}},
       false,
       false},
      {"weights 3:1, 2ms and 100us",
       {{Weight(750), "kernels", 2000, 0.75}, {Weight(250), "kernels", 100, 0.25}},
       false,
       false},
      {"four kinds alike",
       {{Weight(250), "kernels", 200, 0.25},
        {Weight(250), "graphs", 400, 0.25},
        {Weight(250), "cooperative", 1000, 0.25},
        {Weight(250), "mixed", 500, 0.25}},
       false,
       true},
      {"5ms units against 300us",
       {{Weight(500), "kernels", 5000, 0.5}, {Weight(500), "streams", 300, 0.5}},
       false,
       true},
      {"caps 50 and 25",
       {{Cap(500), "kernels", 300, 0.5}, {Cap(250), "graphs", 400, 0.25}},
       true,
       false},
      {"a cap of 30 alone", {{Cap(300), "kernels", 300, 0.3}}, true, false},
      {"a cap of 20 and the rest",
       {{Cap(200), "kernels", 500, 0.2}, {Weight(800), "kernels", 500, 0.8}},
       false,
       false},
  };
  Worst worst;
  for (const Mix& mix : mixes) {
    if (only.empty() || only == mix.name) Run(&rig, mix, &worst);
  }
  if (!only.empty()) return;
  figures->push_back({"share_error_points_1s_max", worst.error_1s});
  figures->push_back({"share_error_points_10s_max", worst.error_10s});
  figures->push_back({"jain_min", worst.jain});
  figures->push_back({"throughput_ratio_min", worst.throughput});

  // What one tenant reaches beside three idle ones, as part of what it reaches with the card to
  // itself.
  rig.Start(Weight(250), "kernels", 500);
  Pass(1);
  const double alone = Busy(&rig, 3);
  for (int i = 0; i < 3; ++i) rig.Start(Weight(250), "idle", 500);
  Pass(1);
  figures->push_back({"redistributed_ratio", Busy(&rig, 3) / alone});
  rig.EndAll();

  // Nobody works: how often anybody of ours wakes up, the node's turns and the tenants' processes.
  for (int i = 0; i < 2; ++i) rig.Start(Weight(500), "idle", 500);
  rig.Start(Cap(300), "idle", 500);
  Pass(1);
  const auto wakes = [&] {
    double sum = static_cast<double>(rig.broker().turns().wakes);
    for (std::size_t i = 0; i < 3; ++i) sum += Switches(rig.PidOf(i));
    return sum;
  };
  const double before = wakes();
  Pass(5);
  figures->push_back({"idle_wakeups_per_s", (wakes() - before) / 5});
  rig.EndAll();

  // A higher class's short work: alone, and against a busy lower one.
  double p99[2] = {};
  for (const bool against : {false, true}) {
    const std::size_t high = rig.Start(ShareRig::Terms(500, 500, 1), "bursts", 500);
    rig.Start(Weight(500), against ? "kernels" : "idle", 300);
    Pass(6);
    p99[against] = std::strtod(rig.End(high).c_str(), nullptr) / 1e3;
    rig.EndAll();
  }
  figures->push_back({"priority_added_p99_us", p99[1] - p99[0]});
  figures->push_back({"wake_p99_us", WakeP99Micros()});
}

}  // namespace tessera::bench
