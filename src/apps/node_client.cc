#include "apps/node_client.h"

#include "http/json.h"
#include "http/url.h"
#include "node/records.h"

namespace tessera::apps {
namespace {

constexpr std::size_t kCardsMax = 256;
constexpr std::size_t kInstancesMax = 4096;
constexpr std::size_t kOutputMax = 8 << 20;  // escaped, 1 MiB of output may grow

http::Client::Options OptionsFor(const std::string& socket_path, int timeout_millis) {
  http::Client::Options options;
  options.unix_path = socket_path;
  options.timeout_millis = timeout_millis;
  return options;
}

Result<std::uint64_t> Count(http::JsonObject& json, std::string_view key) {
  TRY(const auto value, json.Int(key, 0, http::kJsonIntMax));
  return static_cast<std::uint64_t>(value);
}

Result<std::uint32_t> Small(http::JsonObject& json, std::string_view key) {
  TRY(const auto value, json.Int(key, 0, UINT32_MAX));
  return static_cast<std::uint32_t>(value);
}

constexpr std::size_t kLinksMax = 256;
constexpr std::size_t kIsolationsMax = 64;

// Answers of a newer node may carry more fields than are read here, so nothing is Finish()ed.
Result<scheduler::CardState> ReadCard(http::JsonObject json) {
  scheduler::CardState state;
  device::Card& card = state.card;
  TRY(card.uuid, json.String("uuid"));
  TRY(card.vendor, json.String("vendor"));
  TRY(card.model, json.String("model"));
  TRY(const auto index, json.Int("index", 0, INT32_MAX));
  card.index = static_cast<int>(index);
  TRY(card.pci_bus_id, json.OptionalString("pci_bus_id"));
  TRY(card.memory_bytes, Count(json, "memory_bytes"));
  TRY(card.compute_units, Small(json, "compute_units"));
  TRY(const auto numa, json.Int("numa_node", -1, INT32_MAX));
  card.numa_node = static_cast<int>(numa);
  TRY(card.healthy, json.Bool("healthy"));
  TRY(card.health_reason, json.OptionalString("health_reason", "", 4096));
  TRY(card.simulated, json.Bool("simulated"));
  TRY(card.granule_bytes, Count(json, "granule_bytes"));
  TRY(card.context_bytes, Count(json, "context_bytes"));
  TRY(state.reserved_bytes, Count(json, "reserved_bytes"));
  TRY(state.reserved_permille, Small(json, "reserved_permille"));
  TRY(state.used_bytes, Count(json, "used_bytes"));
  TRY(state.busy_permille, Small(json, "busy_permille"));
  // An older node says neither.
  TRY(const std::string isolation, json.OptionalString("isolation", "shim"));
  const auto held = device::IsolationNamed(isolation);
  if (!held) return json.Wrong("isolation", "expected a known mode, got " + isolation);
  state.isolation = *held;
  TRY(const auto links, json.OptionalArray("links", kLinksMax));
  for (const auto& item : links) {
    TRY(auto link, item.Object());
    TRY(std::string peer, link.String("card"));
    TRY(const auto score, Small(link, "score"));
    card.links.push_back({std::move(peer), score});
  }
  return state;
}

Result<scheduler::RunStatus> ReadStatus(http::JsonObject json) {
  scheduler::RunStatus status;
  TRY(status.instance_id, json.String("id"));
  TRY(status.generation, Count(json, "generation"));
  TRY(const std::string state, json.String("state"));
  // "starting" is reserved and not yet running, which for the scheduler is neither.
  status.state = state == "running"  ? scheduler::RunState::kRunning
                 : state == "exited" ? scheduler::RunState::kExited
                                     : scheduler::RunState::kUnknown;
  TRY(const auto exit_code, json.Int("exit_code", 0, 255));
  status.exit_code = static_cast<int>(exit_code);
  TRY(status.started_wall_micros, json.Int("started_wall_micros", 0, http::kJsonIntMax));
  TRY(status.ended_wall_micros, json.Int("ended_wall_micros", 0, http::kJsonIntMax));
  TRY(status.used_bytes, Count(json, "used_bytes"));
  if (json.Has("shares")) {
    TRY(status.shares, node::ReadShares(json));
  }
  // An older node does not list these.
  TRY(const auto cpu, json.OptionalInt("cpu_millis", 0, UINT32_MAX, 0));
  status.cpu_millis = static_cast<std::uint32_t>(cpu);
  TRY(status.ram_bytes, json.OptionalBytes("ram_bytes", 0));
  TRY(status.memo, json.OptionalString("memo", "", scheduler::kMemoBytesMax));
  return status;
}

Result<scheduler::RunStatus> ParseStatus(const std::string& text) {
  TRY(auto json, http::JsonObject::Parse(text));
  return ReadStatus(std::move(json));
}

std::string Path(const std::string& instance_id, const char* rest = "") {
  return "/v1/instances/" + http::PercentEncode(instance_id) + rest;
}

}  // namespace

HttpNode::HttpNode(std::string socket_path)
    : socket_path_(std::move(socket_path)), quick_(OptionsFor(socket_path_, kNodeCallMillisMax)) {}

Result<std::string> HttpNode::LongCall(const std::string& method, const std::string& target,
                                       const std::string& body) {
  http::Client client(OptionsFor(socket_path_, kNodeLongCallMillisMax));
  return client.CallOk(method, target, body);
}

Result<scheduler::NodeState> HttpNode::State() {
  TRY(const std::string text, quick_.CallOk("GET", "/v1/node"));
  TRY(auto json, http::JsonObject::Parse(text));
  scheduler::NodeState state;
  TRY(state.name, json.String("name"));
  TRY(state.cpu_millis, Small(json, "cpu_millis"));
  TRY(state.cpu_reserved_millis, Small(json, "cpu_reserved_millis"));
  TRY(state.ram_bytes, Count(json, "ram_bytes"));
  TRY(state.ram_reserved_bytes, Count(json, "ram_reserved_bytes"));
  TRY(state.contained, json.Bool("contained"));
  TRY(state.rack, json.OptionalString("rack"));
  TRY(const auto isolations, json.OptionalStrings("isolations", kIsolationsMax));
  for (const std::string& name : isolations) {
    // A newer node may know more.
    if (const auto one = device::IsolationNamed(name)) state.isolations |= placement::Bit(*one);
  }
  TRY(const auto cards, json.Array("cards", kCardsMax));
  for (const auto& item : cards) {
    TRY(auto object, item.Object());
    TRY(auto card, ReadCard(std::move(object)));
    state.cards.push_back(std::move(card));
  }
  return state;
}

Result<scheduler::RunStatus> HttpNode::Start(const placement::Placement& placement,
                                             std::uint64_t generation,
                                             const runtime::Workload& workload,
                                             const std::string& memo) {
  http::JsonWriter json;
  json.BeginObject().Field("generation", generation);
  node::WriteShares(json, placement.shares);
  node::WriteWorkload(json, workload);
  json.Field("memo", memo).EndObject();
  TRY(const std::string text, LongCall("PUT", Path(placement.request_id), json.Take()));
  return ParseStatus(text);
}

Result<scheduler::RunStatus> HttpNode::Stop(const std::string& instance_id,
                                            std::uint64_t generation) {
  http::JsonWriter json;
  json.BeginObject();
  if (generation != 0) json.Field("generation", generation);
  json.EndObject();
  TRY(const std::string text, LongCall("POST", Path(instance_id, "/stop"), json.Take()));
  return ParseStatus(text);
}

Status HttpNode::Forget(const std::string& instance_id) {
  const auto done = quick_.CallOk("DELETE", Path(instance_id));
  if (!done && done.error().code() != Code::kNotFound) return done.error();
  return {};
}

Result<std::vector<scheduler::RunStatus>> HttpNode::List() {
  TRY(const std::string text, quick_.CallOk("GET", "/v1/instances"));
  TRY(auto json, http::JsonObject::Parse(text));
  TRY(const auto items, json.Array("instances", kInstancesMax));
  std::vector<scheduler::RunStatus> all;
  for (const auto& item : items) {
    TRY(auto object, item.Object());
    TRY(auto status, ReadStatus(std::move(object)));
    all.push_back(std::move(status));
  }
  return all;
}

Result<std::string> HttpNode::Log(const std::string& instance_id, std::uint64_t offset) {
  return quick_.CallOk("GET", Path(instance_id, "/log") + "?offset=" + std::to_string(offset));
}

Result<scheduler::ExecResult> HttpNode::Exec(const std::string& instance_id,
                                             const std::vector<std::string>& argv,
                                             const std::string& stdin_bytes) {
  http::JsonWriter body;
  body.BeginObject().Key("argv").BeginArray();
  for (const std::string& word : argv) body.Value(word);
  body.EndArray()
      .Field("stdin", stdin_bytes)
      .Field("timeout_millis", kNodeExecMillisMax)
      .EndObject();
  TRY(const std::string text, LongCall("POST", Path(instance_id, "/exec"), body.Take()));
  TRY(auto json, http::JsonObject::Parse(text, {.bytes_max = kOutputMax}));
  scheduler::ExecResult result;
  TRY(const auto exit_code, json.Int("exit_code", 0, 255));
  result.exit_code = static_cast<int>(exit_code);
  TRY(result.output, json.String("output", kOutputMax));
  TRY(result.truncated, json.Bool("truncated"));
  TRY(const bool timed_out, json.Bool("timed_out"));
  if (timed_out) {
    return Error(Code::kDeadlineExceeded,
                 "the command ran longer than kNodeExecMillisMax (60 s) and was ended");
  }
  return result;
}

}  // namespace tessera::apps
