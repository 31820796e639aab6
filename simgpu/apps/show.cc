// simgpu cards and simgpu ps: what there is, and who uses it. Both only look: a state folder that
// is not there is not made.
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>

#include "simgpu/apps/commands.h"
#include "simgpu/state/engine.h"
#include "simgpu/state/faults.h"
#include "simgpu/state/state.h"

namespace simgpu::apps {
namespace {

constexpr double kMiB = 1 << 20;

// Null with the exit code in `code` when there is nothing to look at.
State* Look(const Options& options, int* code) {
  const std::string folder = StateFolder(options);
  *code = 0;
  if (access((folder + "/state").c_str(), F_OK) != 0) {
    if (options.Has("state") && options.Get("state") != "shared") {
      Complain("--state: expected a folder that programs on simulated cards use; " + folder +
               " is none");
      *code = kExitFailed;
    } else {
      printf("%s: no program has used simulated cards yet\n", folder.c_str());
    }
    return nullptr;
  }
  setenv("SIMGPU_STATE", folder.c_str(), 1);
  unsetenv("SIMGPU_CARDS");  // what is there is shown, whatever the caller would make
  std::string error;
  State* state = State::Open(&error);
  if (state == nullptr) {
    Complain(error);
    *code = kExitFailed;
  }
  return state;
}

bool NoMore(const char* command, const Options& options) {
  if (options.rest().empty()) return true;
  Complain(std::string(command) + ": expected options only, not \"" + options.rest()[0] + "\"");
  return false;
}

}  // namespace

int Cards(const Words& words) {
  Options options;
  if (!options.Read(words, {"state"}, {}) || !NoMore("cards", options)) return kExitUsage;
  printf("models (for --cards and SIMGPU_CARDS):\n");
  std::string known = KnownProfiles() + ",";
  for (size_t at = 0, end; (end = known.find(',', at)) != std::string::npos; at = end + 1) {
    const size_t begin = std::min(known.find_first_not_of(' ', at), end);
    Profile profile;
    std::string error;
    if (!FindProfile(known.substr(begin, end - begin), &profile, &error)) {
      Complain(error);
      return kExitFailed;
    }
    printf("  %-12s %-28s %7.0f MiB  sm_%u%u  %3u SMs\n", profile.key, profile.name,
           static_cast<double>(profile.memory_bytes) / kMiB, profile.capability_major,
           profile.capability_minor, profile.sm_count);
  }
  printf("machines (whole, with how their cards are joined):\n  %s\n", KnownMachines().c_str());
  int code = 0;
  State* state = Look(options, &code);
  if (state == nullptr) return code;
  printf("cards of %s:\n", state->folder().c_str());
  for (uint32_t i = 0; i < state->card_count(); ++i) {
    const Card& card = state->card(i);
    const double used = static_cast<double>(state->UsedBytes(i));
    printf("  %u %-12s %s  %6.0f of %.0f MiB used, %zu processes, busy %.1f %%%s\n", i,
           card.profile.key, card.uuid, used / kMiB,
           static_cast<double>(card.profile.memory_bytes) / kMiB, state->Processes(i, 0).size(),
           state->UtilisationPermille(i, 1'000'000'000) / 10.0,
           Faults::Get().Lost(i)   ? ", lost by a fault rule"
           : Faults::Get().Hung(i) ? ", hung by a fault rule"
                                   : "");
  }
  return 0;
}

int Ps(const Words& words) {
  Options options;
  if (!options.Read(words, {"state"}, {}) || !NoMore("ps", options)) return kExitUsage;
  int code = 0;
  State* state = Look(options, &code);
  if (state == nullptr) return code;
  printf("%-4s %8s %10s %8s %12s %12s %6s  %s\n", "CARD", "PID", "MEMORY", "CONTEXTS", "COMPUTE",
         "COPIES", "BUSY", "COMMAND");
  for (uint32_t i = 0; i < state->card_count(); ++i) {
    const Engine::Account account = state->engine(i).Read(State::kWindowMaxNs);
    for (const ProcessUse& one : state->Processes(i, State::kWindowMaxNs)) {
      EngineUse engine;
      for (const EngineUse& use : account.uses) {
        if (use.slot == one.slot) engine = use;
      }
      printf(
          "%-4u %8d %6.0f MiB %8u %10.3f s %10.3f s %4.0f %%  %s\n", i, one.pid,
          static_cast<double>(one.usage.Total()) / kMiB, one.usage.contexts,
          static_cast<double>(engine.served_ns) / 1e9, static_cast<double>(engine.copied_ns) / 1e9,
          100.0 * static_cast<double>(engine.recent_ns) / static_cast<double>(State::kWindowMaxNs),
          one.command);
    }
    printf(
        "%-4u %8s %10s %8s %10.3f s %12s %4.0f %%  served in all, %.3f s switching\n", i, "all", "",
        "", static_cast<double>(account.busy_ns) / 1e9, "",
        100.0 * static_cast<double>(account.recent_ns) / static_cast<double>(State::kWindowMaxNs),
        static_cast<double>(account.switching_ns) / 1e9);
  }
  return 0;
}

}  // namespace simgpu::apps
