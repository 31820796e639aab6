#include "cli/simulate_command.h"

#include <cmath>

#include "cli/placement_page.h"
#include "cli/table.h"
#include "http/json.h"
#include "os/files.h"
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
  json.Field("learn_every", options.learn_every).Key("policies").BeginObject();
  std::vector<PlacementCurve> curves;
  Table table({"POLICY", ">PLACED", ">90%", ">100%", ">110%", ">120%", ">130%"});
  for (const std::string& policy : options.policies) {
    TRY(const auto result, simulate::Replay(nodes, pods, order,
                                            {.policy = policy,
                                             .learn_every = options.learn_every,
                                             .random_ties = options.random_ties,
                                             .seed = options.seed}));
    std::vector<std::string> row = {
        policy, std::to_string(result.placed) + "/" + std::to_string(result.arrived)};
    for (const int load : kLoads) {
      row.push_back(Hundredths(result.allocated[static_cast<std::size_t>(load)]));
    }
    table.Add(std::move(row));
    json.Key(policy).BeginObject();
    json.Field("placed", result.placed);
    WriteCurve(&json, "allocated_percent_at_load", result.allocated);
    WriteCurve(&json, "fragmented_percent_at_load", result.fragmented);
    json.EndObject();
    curves.push_back({policy, result.allocated, result.fragmented});
  }
  json.EndObject().EndObject();
  const std::string text = json.Take();
  if (!options.json.empty()) {
    TRY_STATUS(os::PosixFiles().WriteAtomically(options.json, text + "\n"));
  }
  if (!options.html.empty()) {
    const std::string title = "Placement of " + std::to_string(order.arrivals.size()) +
                              " requests on " + std::to_string(nodes.size()) + " nodes";
    TRY_STATUS(os::PosixFiles().WriteAtomically(options.html, PlacementPage(title, curves)));
  }
  if (context.output == Output::kJson) {
    std::fprintf(context.out, "%s\n", text.c_str());
  } else {
    std::fputs(table.ToString().c_str(), context.out);
    std::fprintf(context.out, "allocated, in percent of the cards, by load that has arrived\n");
  }
  return {};
}

}  // namespace

int SimulatePlacement(const Context& context, const SimulateOptions& options) {
  const Status done = Simulate(context, options);
  return done ? 0 : Report(context, done.error());
}

}  // namespace tessera::cli
