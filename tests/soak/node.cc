#include "tests/soak/node.h"

#include <cstdio>
#include <iostream>
#include <memory>
#include <optional>
#include <sstream>

#include "broker/broker.h"
#include "os/process.h"

namespace tessera::soak {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;
// What tesserad measures for an A100: 416 MiB of a context and 8 MiB that come with it.
constexpr std::uint64_t kContextMib = 424;

std::vector<broker::CardLimits> LimitsOf(const SlicePlan& plan, const simgpu::State& state,
                                         std::uint32_t permille, std::uint32_t weight) {
  std::vector<broker::CardLimits> cards;
  for (const std::uint32_t index : plan.cards) {
    broker::CardLimits card;
    card.uuid = state.card(index).uuid;
    card.limit_bytes = card.ceiling_bytes = plan.limit_mib * kMiB;
    card.context_bytes = kContextMib * kMiB;
    card.granule_bytes = 2 * kMiB;
    card.compute_permille = permille;
    card.weight = weight;
    card.priority = plan.priority;
    cards.push_back(std::move(card));
  }
  return cards;
}

}  // namespace

const std::vector<SlicePlan>& Plans() {
  // Card 0 is shared by weights with a hard cap among them, card 1 has classes and a tight slice,
  // one slice spans both. Memory is short in some, so that refusals are met.
  static const std::vector<SlicePlan> plans = {
      {"weight-1", {0}, 2048, 250, 1, 0, 3},      {"weight-3", {0}, 3072, 500, 3, 0, 3},
      {"capped-25", {0}, 1600, 250, 0, 0, 3},     {"capped-40", {1}, 1300, 400, 0, 0, 2},
      {"urgent", {1}, 1536, 200, 1, 1, 2},        {"both", {0, 1}, 1800, 300, 2, 0, 2},
      {"comes-and-goes", {1}, 900, 100, 1, 0, 1},
  };
  return plans;
}

int RunNode(const std::string& folder) {
  std::string why;
  const simgpu::State* const state = simgpu::State::Open(&why);
  if (state == nullptr) {
    std::cout << "error " << why << std::endl;
    return 1;
  }
  broker::Broker::Options options;
  options.run_folder = folder;
  options.socket_path = folder + "/s";
  options.settle = [state](const std::string& uuid, pid_t pid) -> std::optional<std::uint64_t> {
    for (std::uint32_t card = 0; card < state->card_count(); ++card) {
      if (uuid != state->card(card).uuid) continue;
      for (const auto& process : state->Processes(card, 0)) {
        if (process.pid == pid) return process.usage.Total();
      }
      return 0;
    }
    return std::nullopt;
  };
  auto started = broker::Broker::Start(std::move(options));
  if (!started) {
    std::cout << "error " << started.error().ToString() << std::endl;
    return 1;
  }
  broker::Broker& broker = **started;
  std::cout << "ok" << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string command;
    std::size_t number = 0;
    words >> command;
    if (command == "counters") {
      const auto c = broker.counters();
      const auto t = broker.turns();
      std::cout << "ok " << c.attached << ' ' << c.strangers << ' ' << c.malformed << ' '
                << c.recounts << ' ' << c.unsettled << ' ' << c.nonsense << ' ' << c.damaged << ' '
                << t.turns << ' ' << t.overdue << std::endl;
      continue;
    }
    if (!(words >> number) || number >= Plans().size()) {
      std::cout << "error no slice " << line << std::endl;
      continue;
    }
    const SlicePlan& plan = Plans()[number];
    auto limits = LimitsOf(plan, *state, plan.permille, plan.weight);
    Status done = Error(Code::kInvalidArgument, "unknown command " + command);
    if (command == "create") {
      done = broker.CreateSlice(plan.id, limits);
    } else if (command == "adopt" || command == "root") {
      std::vector<os::ProcessId> roots;
      for (os::ProcessId root; words >> root.pid >> root.start_time;) roots.push_back(root);
      if (command == "adopt") {
        done = broker.AdoptSlice(plan.id, limits, {}, roots);
      } else {
        done = broker.AddRoot(plan.id, roots.at(0));
      }
    } else if (command == "terms") {
      std::uint32_t permille = 0;
      std::uint32_t weight = 0;
      words >> permille >> weight;
      done = broker.SetLimits(plan.id, LimitsOf(plan, *state, permille, weight));
    } else if (command == "remove") {
      done = broker.RemoveSlice(plan.id);
    }
    std::cout << (done ? "ok" : "error " + done.error().ToString()) << std::endl;
  }
  return 0;
}

}  // namespace tessera::soak
