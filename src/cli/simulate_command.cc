#include "cli/simulate_command.h"

#include <cmath>

#include "cli/placement_page.h"
#include "cli/table.h"
#include "http/json.h"
#include "os/files.h"
#include "placement/engine.h"
#include "simulate/churn.h"
#include "simulate/replay.h"
#include "simulate/spot.h"

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

Result<std::vector<simulate::TracePod>> PodsKept(const SimulateOptions& options) {
  TRY(const auto pods, simulate::ReadPods(options.pods));
  std::vector<simulate::TracePod> kept;
  for (std::size_t i = 0; i < pods.size(); i += options.pods_every) kept.push_back(pods[i]);
  return kept;
}

// "1.4" as per mille.
Result<std::uint32_t> RatioOf(const std::string& text) {
  const Error wrong = Error::Field("oversell",
                                   "expected ratios from 1.0 to 1.8, up to three digits after the "
                                   "point; got " +
                                       text.substr(0, 40));
  std::uint32_t permille = 0;
  std::size_t digits = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (i == 1 && text[i] == '.') continue;
    if (text[i] < '0' || text[i] > '9' || (i > 0 && text[1] != '.') || ++digits > 4) return wrong;
    permille = permille * 10 + static_cast<std::uint32_t>(text[i] - '0');
  }
  if (digits == 0) return wrong;
  for (; digits < 4; ++digits) permille *= 10;
  if (permille < 1000 || permille > placement::kOversellMax) return wrong;
  return permille;
}

void WriteClass(http::JsonWriter* json, const char* name, const simulate::SpotClassResult& one) {
  json->Key(name).BeginObject().Field("arrived", one.arrived).Field("placed", one.placed);
  json->Field("delay_seconds_p50", one.delay_p50).Field("delay_seconds_p99", one.delay_p99);
  json->Field("delay_seconds_max", one.delay_max).Field("evicted", one.evicted);
  json->Key("wanted_percent").Raw(Hundredths(one.wanted_percent));
  json->Key("lost_percent").Raw(Hundredths(one.lost_percent)).EndObject();
}

Status SimulateSpot(const Context& context, const SimulateOptions& options) {
  TRY(const auto nodes, simulate::ReadNodes(options.nodes));
  TRY(const auto pods, PodsKept(options));
  simulate::SpotOptions spot{.nodes_every = options.nodes_every,
                             .load_percent = options.churn_load_percent,
                             .spot_percent = options.spot_percent,
                             .use_percent = options.use_percent,
                             .seed = options.seed};
  const std::string part = spot.spot_percent ? std::to_string(*spot.spot_percent) + " percent"
                                             : "qos " + std::string(simulate::kSpotClass);
  http::JsonWriter json;
  json.BeginObject().Field("seed", options.seed).Field("load_percent", spot.load_percent);
  json.Field("nodes_every", spot.nodes_every).Field("pods_every", options.pods_every);
  json.Field("spot", part);
  json.Field("use_percent", spot.use_percent).Key("runs").BeginArray();
  std::string csv = "policy,oversell_permille,moves_max,time_permille,sold_percent\n";
  Table table({"POLICY", ">OVERSELL", ">MOVES AT ONCE", ">ALLOC", ">SOLD", ">USEFUL", ">WAIT P50",
               ">P99", ">SPOT P99", ">EVICTED", ">LOST WORK", ">OVER", ">SPOT LOST", ">MEMORY OVER",
               ">MOVES"});
  std::vector<PlacementCurve> curves;
  std::string title;
  for (const std::string& policy : options.policies) {
    for (const std::string& ratio : options.oversell) {
      TRY(spot.oversell, RatioOf(ratio));
      for (const std::uint32_t moves_max : {0u, options.moves}) {
        if (moves_max == 0 && !curves.empty() && curves.back().policy == policy + " at " + ratio) {
          continue;
        }
        spot.policy = policy;
        spot.moves_max = moves_max;
        TRY(const auto result, simulate::ChurnSpot(nodes, pods, spot));
        const simulate::SpotClassResult& sure = result.guaranteed;
        title = "Churn of " + std::to_string(sure.arrived) + " guaranteed and " +
                std::to_string(result.spot.arrived) + " spot requests on " +
                std::to_string(result.nodes) + " nodes with " + std::to_string(result.cards) +
                " cards";
        table.Add({policy, ratio, std::to_string(moves_max), Hundredths(result.allocated_percent),
                   Hundredths(result.sold_percent), Hundredths(result.useful_percent),
                   std::to_string(sure.delay_p50), std::to_string(sure.delay_p99),
                   std::to_string(result.spot.delay_p99), std::to_string(result.spot.evicted),
                   Hundredths(result.lost_work_percent), Hundredths(result.contended_percent),
                   Hundredths(result.spot.lost_percent), Hundredths(result.memory_over_percent),
                   std::to_string(result.moves)});
        json.BeginObject().Field("policy", policy).Field("oversell_permille", spot.oversell);
        json.Field("moves_max", moves_max).Field("nodes", result.nodes);
        json.Field("cards", result.cards).Field("span_seconds", result.span_seconds);
        json.Field("never", result.never).Field("unplaced", result.unplaced);
        json.Field("behind_spot_seconds_max", result.behind_spot_max);
        const std::pair<const char*, double> percents[] = {
            {"allocated_percent", result.allocated_percent},
            {"sold_percent", result.sold_percent},
            {"memory_sold_percent", result.memory_sold_percent},
            {"served_percent", result.served_percent},
            {"useful_percent", result.useful_percent},
            {"lost_work_percent", result.lost_work_percent},
            {"contended_percent", result.contended_percent},
            {"memory_over_percent", result.memory_over_percent}};
        for (const auto& [name, percent] : percents) json.Key(name).Raw(Hundredths(percent));
        json.Field("moves", result.moves).Field("moves_refused", result.moves_refused);
        json.Field("cards_emptied", result.cards_emptied);
        WriteClass(&json, "guaranteed", sure);
        WriteClass(&json, "spot", result.spot);
        WriteCurve(&json, "sold_percent_over_time", result.sold);
        json.EndObject();
        PlacementCurve curve{policy + " at " + ratio, std::vector<double>(101, -1), {}};
        if (moves_max > 0) curve.policy += ", up to " + std::to_string(moves_max) + " moves";
        for (std::size_t i = 0; i < result.sold.size(); ++i) {
          csv.append(policy + "," + std::to_string(spot.oversell) + "," +
                     std::to_string(moves_max) + "," +
                     std::to_string((i + 1) * 1000 / simulate::kChurnSamples) + "," +
                     Hundredths(result.sold[i]) + "\n");
          curve.allocated[(i + 1) * 100 / simulate::kChurnSamples] = result.sold[i];
        }
        curves.push_back(std::move(curve));
      }
    }
  }
  json.EndArray().EndObject();
  const std::string text = json.Take();
  TRY_STATUS(WriteFiles(options, text, csv,
                        PlacementPage(title, curves, "time, percent of the arrivals' span")));
  Print(context, text, table,
        "allocated, sold, useful and lost work in percent of what the cards have, over the last "
        "three quarters of the arrivals; waits of guaranteed requests (and of spot) in seconds; "
        "over: of card-time, more wanted than there is; spot lost: of what spot wanted");
  return {};
}

Status SimulateChurn(const Context& context, const SimulateOptions& options) {
  TRY(const auto nodes, simulate::ReadNodes(options.nodes));
  TRY(const auto pods, PodsKept(options));
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
  json.Field("nodes_every", churn.nodes_every).Field("pods_every", options.pods_every);
  json.Field("backfill", options.backfill);
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
  const Status done = options.spot    ? SimulateSpot(context, options)
                      : options.churn ? SimulateChurn(context, options)
                                      : Simulate(context, options);
  return done ? 0 : Report(context, done.error());
}

}  // namespace tessera::cli
