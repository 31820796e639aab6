#include "cli/simulate_command.h"

#include <cmath>

#include "cli/placement_page.h"
#include "cli/table.h"
#include "http/json.h"
#include "os/files.h"
#include "simulate/churn.h"
#include "simulate/replay.h"

namespace tessera::cli {
namespace {

constexpr int kLoads[] = {90, 100, 110, 120, 130};

std::string Hundredths(double percent) {
  if (percent < 0) return "-";
  const auto hundredths = static_cast<long long>(std::llround(percent * 100));
  std::string digits = std::to_string(hundredths % 100);
  if (digits.size() < 2) digits.insert(0, "0");
  return std::to_string(hundredths / 100) + "." + digits;
}

void WriteCurve(http::JsonWriter* json, const char* name, const std::vector<double>& curve) {
  json->Key(name).BeginArray();
  for (const double value : curve) {
    if (value < 0) {
      json->Null();
    } else {
      json->Raw(Hundredths(value));
    }
  }
  json->EndArray();
}

// What was written as JSON, CSV and a page, where they were asked for.
Status WriteFiles(const SimulateOptions& options, const std::string& json, const std::string& csv,
                  const std::string& page) {
  os::Files& files = os::PosixFiles();
  if (!options.json.empty()) TRY_STATUS(files.WriteAtomically(options.json, json + "\n"));
  if (!options.csv.empty()) TRY_STATUS(files.WriteAtomically(options.csv, csv));
  if (!options.html.empty()) TRY_STATUS(files.WriteAtomically(options.html, page));
  return {};
}

void Print(const Context& context, const std::string& json, const Table& table,
           const char* explanation) {
  if (context.output == Output::kJson) {
    std::fprintf(context.out, "%s\n", json.c_str());
  } else {
    std::fputs(table.ToString().c_str(), context.out);
    std::fprintf(context.out, "%s\n", explanation);
  }
}

Status SimulateChurn(const Context& context, const SimulateOptions& options) {
  TRY(const auto nodes, simulate::ReadNodes(options.nodes));
  TRY(const auto pods, simulate::ReadPods(options.pods));
  simulate::ChurnOptions churn{.nodes_every = options.nodes_every,
                               .load_percent = options.churn_load_percent,
                               .loss_every = options.loss_every,
                               .learn_every = options.learn_every,
                               .seed = options.seed};
  if (options.backfill == "none") {
    churn.backfill = simulate::Backfill::kNone;
  } else if (options.backfill == "any") {
    churn.backfill = simulate::Backfill::kAny;
  } else if (options.backfill != "easy") {
    return Error::Field("backfill", "expected none, easy or any; got " + options.backfill);
  }
  http::JsonWriter json;
  json.BeginObject().Field("seed", options.seed).Field("load_percent", churn.load_percent);
  json.Field("nodes_every", churn.nodes_every).Field("backfill", options.backfill);
  json.Field("loss_every_seconds", churn.loss_every).Key("runs").BeginArray();
  std::string csv = "policy,moves_max,time_permille,allocated_percent\n";
  Table table({"POLICY", ">MOVES AT ONCE", ">PLACED", ">NEVER", ">MEAN", ">P50", ">WAIT P50",
               ">P99", ">MAX", ">MOVES", ">EMPTIED", ">RESTARTED"});
  std::vector<PlacementCurve> curves;
  std::string title;
  for (const std::string& policy : options.policies) {
    for (const std::uint32_t moves_max : {0u, options.moves}) {
      if (moves_max == 0 && !curves.empty() && curves.back().policy == policy) continue;
      churn.policy = policy;
      churn.moves_max = moves_max;
      TRY(const auto result, simulate::Churn(nodes, pods, churn));
      title = "Churn of " + std::to_string(result.arrived) + " requests on " +
              std::to_string(result.nodes) + " nodes with " + std::to_string(result.cards) +
              " cards";
      table.Add({policy, std::to_string(moves_max),
                 std::to_string(result.placed) + "/" + std::to_string(result.arrived),
                 std::to_string(result.never), Hundredths(result.allocated_mean),
                 Hundredths(result.allocated_p50), std::to_string(result.delay_p50),
                 std::to_string(result.delay_p99), std::to_string(result.delay_max),
                 std::to_string(result.moves), std::to_string(result.cards_emptied),
                 std::to_string(result.restarted)});
      json.BeginObject().Field("policy", policy).Field("moves_max", moves_max);
      json.Field("nodes", result.nodes).Field("cards", result.cards);
      json.Field("span_seconds", result.span_seconds).Field("arrived", result.arrived);
      json.Field("placed", result.placed).Field("never", result.never);
      json.Field("unplaced", result.unplaced);
      json.Key("allocated_percent_mean").Raw(Hundredths(result.allocated_mean));
      json.Key("allocated_percent_p50").Raw(Hundredths(result.allocated_p50));
      json.Field("delay_seconds_p50", result.delay_p50);
      json.Field("delay_seconds_p99", result.delay_p99);
      json.Field("delay_seconds_max", result.delay_max).Field("moves", result.moves);
      json.Field("moved_milli", result.moved_milli).Field("cards_emptied", result.cards_emptied);
      json.Field("nodes_lost", result.nodes_lost).Field("restarted", result.restarted);
      WriteCurve(&json, "allocated_percent_over_time", result.allocated);
      json.EndObject();
      const std::size_t samples = result.allocated.size();
      PlacementCurve curve{policy, std::vector<double>(101, -1), {}};
      if (moves_max > 0) curve.policy += ", up to " + std::to_string(moves_max) + " moves";
      for (std::size_t i = 0; i < samples; ++i) {
        csv.append(policy + "," + std::to_string(moves_max) + "," +
                   std::to_string((i + 1) * 1000 / simulate::kChurnSamples) + "," +
                   Hundredths(result.allocated[i]) + "\n");
        curve.allocated[(i + 1) * 100 / simulate::kChurnSamples] = result.allocated[i];
      }
      curves.push_back(std::move(curve));
    }
  }
  json.EndArray().EndObject();
  const std::string text = json.Take();
  TRY_STATUS(WriteFiles(options, text, csv,
                        PlacementPage(title, curves, "time, percent of the arrivals' span")));
  Print(context, text, table,
        "allocated in percent of the cards over the last three quarters of the arrivals; waits in "
        "seconds");
  return {};
}

Status Simulate(const Context& context, const SimulateOptions& options) {
  TRY(const auto nodes, simulate::ReadNodes(options.nodes));
  TRY(const auto pods, simulate::ReadPods(options.pods));
  simulate::TraceOrder order;
  if (options.sequence.empty()) {
    order = simulate::MakeOrder(nodes, pods, options.seed, options.load_percent * 10);
  } else {
    TRY(order, simulate::ReadOrder(options.sequence, pods.size(), nodes.size()));
  }
  http::JsonWriter json;
  json.BeginObject().Field("nodes", nodes.size()).Field("arrivals", order.arrivals.size());
  if (options.sequence.empty()) json.Field("seed", options.seed);
  json.Field("ties", options.random_ties ? "random" : "rank");
  json.Field("learn_every", options.learn_every).Field("batch", options.batch);
  json.Field("migrate", options.migrate).Key("policies").BeginObject();
  std::vector<PlacementCurve> curves;
  std::string csv = "policy,load_percent,allocated_percent,fragmented_percent\n";
  Table table({"POLICY", ">PLACED", ">90%", ">100%", ">110%", ">120%", ">130%"});
  for (const std::string& policy : options.policies) {
    TRY(const auto result, simulate::Replay(nodes, pods, order,
                                            {.policy = policy,
                                             .learn_every = options.learn_every,
                                             .random_ties = options.random_ties,
                                             .batch = options.batch,
                                             .migrate = options.migrate,
                                             .seed = options.seed}));
    std::vector<std::string> row = {
        policy, std::to_string(result.placed) + "/" + std::to_string(result.arrived)};
    for (const int load : kLoads) {
      row.push_back(Hundredths(result.allocated[static_cast<std::size_t>(load)]));
    }
    table.Add(std::move(row));
    json.Key(policy).BeginObject();
    json.Field("placed", result.placed).Field("moves", result.moves);
    for (std::size_t load = 0; load < result.allocated.size(); ++load) {
      if (result.allocated[load] < 0) continue;
      csv.append(policy + "," + std::to_string(load) + "," + Hundredths(result.allocated[load]) +
                 "," + Hundredths(result.fragmented[load]) + "\n");
    }
    WriteCurve(&json, "allocated_percent_at_load", result.allocated);
    WriteCurve(&json, "fragmented_percent_at_load", result.fragmented);
    json.EndObject();
    curves.push_back({policy, result.allocated, result.fragmented});
  }
  json.EndObject().EndObject();
  const std::string text = json.Take();
  const std::string title = "Placement of " + std::to_string(order.arrivals.size()) +
                            " requests on " + std::to_string(nodes.size()) + " nodes";
  TRY_STATUS(WriteFiles(options, text, csv,
                        PlacementPage(title, curves, "arrived, percent of the cards")));
  Print(context, text, table, "allocated, in percent of the cards, by load that has arrived");
  return {};
}

}  // namespace

int SimulatePlacement(const Context& context, const SimulateOptions& options) {
  const Status done = options.churn ? SimulateChurn(context, options) : Simulate(context, options);
  return done ? 0 : Report(context, done.error());
}

}  // namespace tessera::cli
