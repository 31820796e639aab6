#include "commerce/bill.h"

#include <algorithm>
#include <map>
#include <optional>

#include "commerce/rating.h"

namespace tessera::commerce {
namespace {

constexpr std::pair<State, std::string_view> kStates[] = {
    {State::kQueued, "queued"},     {State::kStarting, "starting"}, {State::kRunning, "running"},
    {State::kStopping, "stopping"}, {State::kStopped, "stopped"},   {State::kEnded, "ended"},
    {State::kFailed, "failed"},     {State::kReleased, "released"},
};

struct Run {
  std::optional<std::int64_t> started;
  std::optional<std::int64_t> finished;
  std::optional<std::int64_t> seen;
};

void Lower(std::optional<std::int64_t>* value, std::int64_t candidate) {
  if (!*value || candidate < **value) *value = candidate;
}

}  // namespace

std::string_view StateName(State state) {
  for (const auto& [known, name] : kStates) {
    if (known == state) return name;
  }
  return "unknown";
}

Result<State> ParseState(std::string_view text, std::string_view field) {
  std::string names;
  for (const auto& [state, name] : kStates) {
    if (name == text) return state;
    names += (names.empty() ? "" : ", ") + std::string(name);
  }
  return Error::Field(std::string(field), "expected one of " + names);
}

bool Accrues(State state) { return state == State::kRunning || state == State::kStopping; }

bool IsFinal(State state) {
  return state == State::kStopped || state == State::kEnded || state == State::kFailed ||
         state == State::kReleased;
}

Result<Bill> MakeBill(const std::vector<Contract>& contracts, const std::vector<StateEvent>& events,
                      const std::vector<Heartbeat>& heartbeats) {
  std::map<std::string, std::map<std::uint64_t, Run>> runs;
  for (const Contract& contract : contracts) runs[contract.instance_id];
  for (const StateEvent& event : events) {
    const auto found = runs.find(event.instance_id);
    if (found == runs.end()) {
      return Error(Code::kInvalidArgument,
                   "event of " + event.instance_id + ", which has no contract");
    }
    Run& run = found->second[event.generation];
    if (event.state == State::kRunning) Lower(&run.started, event.wall_micros);
    if (IsFinal(event.state)) Lower(&run.finished, event.wall_micros);
  }
  for (const Heartbeat& beat : heartbeats) {
    const auto found = runs.find(beat.instance_id);
    if (found == runs.end()) {
      return Error(Code::kInvalidArgument,
                   "heartbeat of " + beat.instance_id + ", which has no contract");
    }
    auto& seen = found->second[beat.generation].seen;
    seen = std::max(seen.value_or(beat.seen_wall_micros), beat.seen_wall_micros);
  }
  Bill bill;
  for (const Contract& contract : contracts) {
    std::int64_t earlier_micros = 0;
    for (const auto& [generation, run] : runs[contract.instance_id]) {
      if (!run.started) continue;
      BillLine line;
      line.contract = contract;
      line.generation = generation;
      line.started_wall_micros = *run.started;
      line.open = !run.finished.has_value();
      line.ended_wall_micros =
          std::max(*run.started, run.finished.value_or(run.seen.value_or(*run.started)));
      line.running_micros = line.ended_wall_micros - line.started_wall_micros;
      TRY(line.amount,
          Charge(contract.price_per_hour, earlier_micros, earlier_micros + line.running_micros));
      earlier_micros += line.running_micros;
      bill.total += line.amount;
      bill.lines.push_back(std::move(line));
    }
  }
  TRY_STATUS(
      bill.total.ToStored().has_value()
          ? Status()
          : Status(Error(Code::kOutOfRange, "the bill's total leaves the ledger's 64 bits")));
  return bill;
}

}  // namespace tessera::commerce
