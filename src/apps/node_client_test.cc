// HttpNode against the real node service over a unix socket, with fake cards and a fake runner
// underneath, and the strictness of the node's API.
#include "apps/node_client.h"

#include <sys/stat.h>

#include <fstream>
#include <regex>
#include <set>
#include <sstream>

#include <gtest/gtest.h>

#include "http/json.h"
#include "http/server.h"
#include "node/api.h"
#include "node/test_node.h"

namespace tessera::apps {
namespace {

constexpr char kMemo[] = R"({"tenant":"ann\u0001 \"&\"","apart":"card"})";

class NodeClientTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(t_.Restart(nullptr, /*background=*/true));
    registry_ = std::make_unique<metrics::Registry>();
    node::ExportMetrics(*t_.node, *registry_);
    http::Options options;
    options.unix_path = t_.folder + "/node.sock";
    auto server = http::Server::Start(
        options, node::MakeRouter(*t_.node, *registry_, {.guest_library = "/lib/g.so"}));
    ASSERT_TRUE(server) << server.error().ToString();
    server_ = std::move(*server);
    client_ = std::make_unique<HttpNode>(options.unix_path);
    http::Client::Options raw;
    raw.unix_path = options.unix_path;
    raw_ = std::make_unique<http::Client>(raw);
  }
  void TearDown() override {
    server_.reset();
    t_.node.reset();
  }
  runtime::Workload Workload() const {
    return {.argv = {"sh", "-c", "echo \"x\""},
            .environment = {"A=1", "B=\xC3\xA9"},
            .directory = "/tmp",
            .rootfs = "/srv/root",
            .cpu_millis = 1500,
            .ram_bytes = 2 * kGiB};
  }
  placement::Placement Placement(const std::string& id) const {
    return {id, "n1", {t_.Share(0, 4 * kGiB, 250), t_.Share(1, 2 * kGiB, 333)}};
  }
  // The status and the field a refusal names.
  std::pair<int, std::string> Refusal(const std::string& method, const std::string& target,
                                      const std::string& body) {
    const auto reply = raw_->Call(method, target, body);
    EXPECT_TRUE(reply);
    if (!reply) return {0, ""};
    if (reply->status < 400) return {reply->status, ""};
    const auto begin = reply->body.find("\"field\":\"");
    if (begin == std::string::npos) return {reply->status, ""};
    const auto end = reply->body.find('"', begin + 9);
    return {reply->status, reply->body.substr(begin + 9, end - begin - 9)};
  }

  node::TestNode t_;
  std::unique_ptr<metrics::Registry> registry_;
  std::unique_ptr<http::Server> server_;
  std::unique_ptr<HttpNode> client_;
  std::unique_ptr<http::Client> raw_;
};

TEST_F(NodeClientTest, TheNodesStateArrivesWhole) {
  vendors::CardTelemetry telemetry;
  telemetry.used_bytes = 123456789;
  telemetry.busy = Permille{42};
  t_.vendor->SetTelemetry(t_.uuids[1], telemetry);
  t_.vendor->SetHealth(t_.uuids[0], false, "row remap \"pending\"");
  t_.node->RefreshTelemetry();
  const auto state = client_->State();
  ASSERT_TRUE(state) << state.error().ToString();
  const auto here = t_.node->State();
  EXPECT_EQ(state->name, "n1");
  EXPECT_EQ(state->cpu_millis, 4000u);
  EXPECT_EQ(state->ram_bytes, 8 * kGiB);
  EXPECT_TRUE(state->contained);
  ASSERT_EQ(state->cards.size(), 2u);
  for (std::size_t i = 0; i < 2; ++i) {
    const device::Card& sent = here.cards[i].card;
    const device::Card& got = state->cards[i].card;
    EXPECT_EQ(got.uuid, sent.uuid);
    EXPECT_EQ(got.vendor, sent.vendor);
    EXPECT_EQ(got.model, sent.model);
    EXPECT_EQ(got.index, sent.index);
    EXPECT_EQ(got.pci_bus_id, sent.pci_bus_id);
    EXPECT_EQ(got.memory_bytes, sent.memory_bytes);
    EXPECT_EQ(got.compute_units, sent.compute_units);
    EXPECT_EQ(got.numa_node, sent.numa_node);
    EXPECT_EQ(got.simulated, sent.simulated);
    EXPECT_EQ(got.granule_bytes, sent.granule_bytes);
    EXPECT_EQ(got.context_bytes, sent.context_bytes);
  }
  EXPECT_FALSE(state->cards[0].card.healthy);
  EXPECT_EQ(state->cards[0].card.health_reason, "row remap \"pending\"");
  EXPECT_EQ(state->cards[1].used_bytes, 123456789u);
  EXPECT_EQ(state->cards[1].busy_permille, 42u);
}

TEST_F(NodeClientTest, TheNodeTellsItsRackItsModesAndTheLinksOfItsCards) {
  const auto bit = [](device::Isolation one) { return placement::Bit(one); };
  const auto state = client_->State();
  ASSERT_TRUE(state) << state.error().ToString();
  EXPECT_EQ(state->rack, "");
  EXPECT_EQ(state->isolations, bit(device::Isolation::kShim) | bit(device::Isolation::kWhole));
  ASSERT_EQ(state->cards[0].card.links.size(), 1u);
  EXPECT_EQ(state->cards[0].card.links[0], (device::Link{t_.uuids[1], 12}));
  EXPECT_TRUE(state->cards[1].card.links.empty());
  t_.rack = "row-3.7";
  t_.mps_control = "/bin/true";
  t_.node.reset();  // its socket's server goes on with the next one
  server_.reset();
  ASSERT_NO_FATAL_FAILURE(SetUp());
  device::Share whole = t_.Share(1, 2 * kGiB);
  whole.isolation = device::Isolation::kWhole;
  ASSERT_TRUE(client_->Start({"i-1", "n1", {whole}}, 1, {.argv = {"true"}}, ""));
  const auto now = client_->State();
  ASSERT_TRUE(now) << now.error().ToString();
  EXPECT_EQ(now->rack, "row-3.7");
  EXPECT_EQ(now->isolations, state->isolations | bit(device::Isolation::kSpatial));
  EXPECT_EQ(now->cards[0].isolation, device::Isolation::kShim);
  EXPECT_EQ(now->cards[1].isolation, device::Isolation::kWhole);
  EXPECT_EQ(client_->List()->at(0).shares[0].isolation, device::Isolation::kWhole);
}

TEST_F(NodeClientTest, AMemoHasABoundByName) {
  const std::string longest(scheduler::kMemoBytesMax, 'x');
  ASSERT_TRUE(client_->Start(Placement("i-1"), 1, {.argv = {"true"}}, longest));
  EXPECT_EQ(client_->List()->at(0).memo, longest);
  const auto more = client_->Start(Placement("i-2"), 1, {.argv = {"true"}}, longest + "x");
  EXPECT_EQ(more.error().code(), Code::kInvalidArgument);
  EXPECT_EQ(more.error().field(), "memo");
}

TEST_F(NodeClientTest, AnInstanceGoesThereAndBack) {
  const auto started = client_->Start(Placement("i-1"), 5, Workload(), kMemo);
  ASSERT_TRUE(started) << started.error().ToString();
  EXPECT_EQ(started->instance_id, "i-1");
  EXPECT_EQ(started->generation, 5u);
  EXPECT_EQ(started->state, scheduler::RunState::kRunning);
  EXPECT_EQ(started->started_wall_micros, 1000);
  for (const auto& status : {*started, client_->List()->at(0)}) {
    EXPECT_EQ(status.memo, kMemo);
    EXPECT_EQ(status.cpu_millis, 1500u);
    EXPECT_EQ(status.ram_bytes, 2 * kGiB);
    EXPECT_EQ(status.shares, Placement("i-1").shares);
  }
  // Asked again by somebody who says something else: it is the same start.
  EXPECT_EQ(client_->Start(Placement("i-1"), 5, Workload(), "other")->memo, kMemo);
  const auto sent = t_.runner.SpecOf("i-1").workload;
  EXPECT_TRUE(node::SameWorkload(sent, Workload()));
  EXPECT_EQ(t_.node->GetInstance("i-1")->shares, Placement("i-1").shares);
  const auto state = *client_->State();
  EXPECT_EQ(state.cards[0].reserved_bytes, 4 * kGiB);
  EXPECT_EQ(state.cards[1].reserved_permille, 333u);
  EXPECT_EQ(state.cpu_reserved_millis, 1500u);
  EXPECT_EQ(state.ram_reserved_bytes, 2 * kGiB);

  EXPECT_EQ(*client_->Log("i-1", 0), "log of i-1");
  EXPECT_EQ(*client_->Log("i-1", 4), "of i-1");
  const auto executed = client_->Exec("i-1", {"cat", "-"}, "in\n\"put\"");
  ASSERT_TRUE(executed) << executed.error().ToString();
  EXPECT_EQ(executed->exit_code, 2);
  EXPECT_EQ(executed->output, "cat|in\n\"put\"");

  ASSERT_EQ(client_->List()->size(), 1u);
  EXPECT_EQ(client_->Forget("i-1").error().code(), Code::kFailedPrecondition);
  const auto stopped = client_->Stop("i-1", 5);
  ASSERT_TRUE(stopped) << stopped.error().ToString();
  EXPECT_EQ(stopped->state, scheduler::RunState::kExited);
  EXPECT_EQ(stopped->exit_code, 143);
  EXPECT_EQ(stopped->ended_wall_micros, 2000);
  ASSERT_TRUE(client_->Forget("i-1"));
  ASSERT_TRUE(client_->Forget("i-1"));
  EXPECT_TRUE(client_->List()->empty());
}

TEST_F(NodeClientTest, ErrorsKeepTheirCodeAndField) {
  placement::Placement big = Placement("i-1");
  big.shares[0].memory_bytes = 9 * kGiB;
  ASSERT_TRUE(client_->Start(big, 1, {.argv = {"true"}}, ""));
  const auto full = client_->Start(Placement("i-2"), 1, {.argv = {"true"}}, "");
  EXPECT_EQ(full.error().code(), Code::kResourceExhausted);
  EXPECT_NE(full.error().message().find("memory: asked 4 GiB"), std::string::npos)
      << full.error().message();
  placement::Placement wrong = Placement("i-3");
  wrong.shares[1].card_uuid = "GPU-elsewhere";
  const auto field = client_->Start(wrong, 1, {.argv = {"true"}}, "");
  EXPECT_EQ(field.error().code(), Code::kInvalidArgument);
  EXPECT_EQ(field.error().field(), "shares[1].card");
  EXPECT_EQ(client_->Stop("none", 1).error().code(), Code::kNotFound);
  EXPECT_EQ(client_->Log("none", 0).error().code(), Code::kNotFound);
  EXPECT_EQ(client_->Exec("none", {"true"}, "").error().code(), Code::kNotFound);
  server_.reset();
  EXPECT_EQ(client_->State().error().code(), Code::kUnavailable);
}

TEST_F(NodeClientTest, BadInputIsRefusedByFieldAndChangesNothing) {
  const std::string card = t_.uuids[0];
  const auto slice = [&](const std::string& rest) {
    return "{\"generation\":1,\"shares\":[{\"card\":\"" + card + "\"" + rest + "}]}";
  };
  struct Case {
    std::string method, target, body, field;
  };
  const std::string good_share = ",\"memory_bytes\":1073741824,\"compute_permille\":100";
  const std::vector<Case> cases = {
      {"PUT", "/v1/slices/a", slice(good_share + ",\"extra\":1"), "shares[0].extra"},
      {"PUT", "/v1/slices/a", slice(",\"memory_bytes\":-1,\"compute_permille\":100"),
       "shares[0].memory_bytes"},
      {"PUT", "/v1/slices/a",
       slice(",\"memory_bytes\":99999999999999999999,\"compute_permille\":1"),
       "shares[0].memory_bytes"},
      {"PUT", "/v1/slices/a", slice(",\"memory_bytes\":9223372036854775807,\"compute_permille\":1"),
       "shares[0].memory_bytes"},
      {"PUT", "/v1/slices/a", slice(",\"memory_bytes\":\"4GB\",\"compute_permille\":1"),
       "shares[0].memory_bytes"},
      {"PUT", "/v1/slices/a", slice(",\"memory_bytes\":1.5,\"compute_permille\":1"),
       "shares[0].memory_bytes"},
      {"PUT", "/v1/slices/a", slice(",\"memory_bytes\":1073741824,\"compute_permille\":0"),
       "shares[0].compute_permille"},
      {"PUT", "/v1/slices/a", slice(",\"memory_bytes\":1073741824"), "shares[0].compute_permille"},
      {"PUT", "/v1/slices/a", "{\"generation\":0,\"shares\":[]}", "generation"},
      {"PUT", "/v1/slices/a", "{\"generation\":\"1\",\"shares\":[]}", "generation"},
      {"PUT", "/v1/slices/a", "{\"generation\":1,\"shares\":[]}", "shares"},
      {"PUT", "/v1/slices/a", "{\"generation\":1,\"shares\":{}}", "shares"},
      {"PUT", "/v1/slices/a", "{\"shares\":[]}", "generation"},
      {"PUT", "/v1/slices/.a", slice(good_share), "id"},
      {"POST", "/v1/allocations", "{}", "memory"},
      {"POST", "/v1/allocations", "{\"memory\":0}", "memory"},
      {"POST", "/v1/allocations", "{\"memory\":\"1GiB\",\"cards\":0}", "cards"},
      {"POST", "/v1/allocations", "{\"memory\":\"1GiB\",\"cards\":17}", "cards"},
      {"POST", "/v1/allocations", "{\"memory\":\"1GiB\",\"compute\":\"101%\"}", "compute"},
      {"POST", "/v1/allocations", "{\"memory\":\"1GiB\",\"pid\":0}", "pid"},
      {"POST", "/v1/allocations", "{\"memory\":\"1GiB\",\"colour\":\"red\"}", "colour"},
      {"POST", "/v1/allocations", "{\"memory\":\"1GiB\",\"pinned_bytes\":4095}", "pinned_bytes"},
      {"POST", "/v1/allocations", "{\"memory\":\"1GiB\",\"pod\":7}", "pod"},
      {"POST", "/v1/slices/a/members", "{\"pid\":-4}", "pid"},
      {"POST", "/v1/slices/a/members", "{\"pid\":\"self\"}", "pid"},
      {"PUT", "/v1/instances/a",
       "{\"generation\":1,\"shares\":[{\"card\":\"" + card + "\"" + good_share + "}]}", "workload"},
      {"PUT", "/v1/instances/a",
       "{\"generation\":1,\"shares\":[{\"card\":\"" + card + "\"" + good_share +
           "}],\"workload\":{\"argv\":[]}}",
       "workload.argv"},
      {"PUT", "/v1/instances/a",
       "{\"generation\":1,\"shares\":[{\"card\":\"" + card + "\"" + good_share +
           "}],\"workload\":{\"argv\":[\"a\",3]}}",
       "workload.argv[1]"},
      {"PUT", "/v1/instances/a",
       "{\"generation\":1,\"shares\":[{\"card\":\"" + card + "\"" + good_share +
           "}],\"workload\":{\"argv\":[\"a\"],\"cpu_millis\":4294967296}}",
       "workload.cpu_millis"},
      {"PUT", "/v1/instances/a",
       "{\"generation\":1,\"shares\":[{\"card\":\"" + card + "\"" + good_share +
           "}],\"workload\":{\"argv\":[\"a\"],\"user\":\"root\"}}",
       "workload.user"},
      // Refused by the runner: everything reserved for it is given back.
      {"PUT", "/v1/instances/a",
       "{\"generation\":1,\"shares\":[{\"card\":\"" + card + "\"" + good_share +
           "}],\"workload\":{\"argv\":[\"bad\"]}}",
       "workload.argv"},
      {"POST", "/v1/instances/a/exec", "{\"argv\":[]}", "argv"},
      {"POST", "/v1/instances/a/exec", "{\"argv\":[\"a\"],\"timeout_millis\":0}", "timeout_millis"},
      {"POST", "/v1/instances/a/stop", "{\"generation\":0}", "generation"},
  };
  for (const Case& item : cases) {
    const auto [status, field] = Refusal(item.method, item.target, item.body);
    EXPECT_EQ(status, 400) << item.target << " " << item.body;
    EXPECT_EQ(field, item.field) << item.target << " " << item.body;
  }
  EXPECT_EQ(Refusal("GET", "/v1/instances/a/log?offset=-1", "").second, "offset");
  EXPECT_EQ(Refusal("PUT", "/v1/slices/a", "not json").first, 400);
  EXPECT_EQ(Refusal("PUT", "/v1/slices/a", "").first, 400);
  EXPECT_EQ(Refusal("PATCH", "/v1/slices/a", "{}").first, 405);
  EXPECT_EQ(Refusal("GET", "/v1/nothing", "").first, 404);
  EXPECT_TRUE(t_.node->Slices().empty());
  EXPECT_TRUE(t_.node->Instances().empty());
  EXPECT_EQ(t_.Reserved(0), 0u);
}

TEST_F(NodeClientTest, AnAllocationTellsWhatARunNeeds) {
  const auto reply = raw_->Call("POST", "/v1/allocations",
                                "{\"memory\":\"1GiB\",\"pid\":" + std::to_string(getpid()) + "}");
  ASSERT_TRUE(reply);
  ASSERT_EQ(reply->status, 201) << reply->body;
  auto json = http::JsonObject::Parse(reply->body);
  ASSERT_TRUE(json);
  EXPECT_EQ(*json->String("socket"), t_.node->guest_socket());
  EXPECT_EQ(*json->String("library"), "/lib/g.so");
  EXPECT_EQ(*json->String("owner"), "run");
  struct stat info{};
  EXPECT_EQ(stat(t_.node->guest_socket().c_str(), &info), 0);
  const auto slices = t_.node->Slices();
  ASSERT_EQ(slices.size(), 1u);
  EXPECT_EQ(slices[0].shares[0].compute.value,
            100u);  // A tenth of the card's memory, a tenth of its compute.
}

// api/node.yaml says exactly the routes that api.cc makes.
TEST_F(NodeClientTest, TheApiDescriptionHasExactlyTheRoutes) {
  const auto read = [](const char* path) {
    std::ifstream file(std::string(TESSERA_SOURCE) + path);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  const std::string source = read("/src/node/api.cc");
  std::set<std::string> routes;
  const std::regex handle("router\\.Handle\\(\\s*\"([A-Z]+)\",\\s*\"([^\"]+)\"");
  for (std::sregex_iterator at(source.begin(), source.end(), handle), end; at != end; ++at) {
    routes.insert((*at)[1].str() + " " + (*at)[2].str());
  }
  std::set<std::string> described;
  std::istringstream yaml(read("/api/node.yaml"));
  std::string path;
  for (std::string line; std::getline(yaml, line);) {
    if (line.starts_with("  /") && line.ends_with(":")) path = line.substr(2, line.size() - 3);
    for (const char* const method : {"get", "put", "post", "delete", "patch"}) {
      if (line == std::string("    ") + method + ":") {
        std::string upper = method;
        for (char& c : upper) c = static_cast<char>(c - 'a' + 'A');
        described.insert(upper + " " + path);
      }
    }
  }
  EXPECT_EQ(described, routes);
  EXPECT_GE(routes.size(), 15u);
}

// The names are a contract with dashboards; a change is made here on purpose or not at all.
TEST_F(NodeClientTest, MetricNamesAreGolden) {
  ASSERT_TRUE(client_->Start(Placement("i-1"), 1, {.argv = {"true"}}, ""));
  const auto text = raw_->CallOk("GET", "/metrics");
  ASSERT_TRUE(text);
  std::set<std::string> families;
  std::istringstream lines(*text);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("# TYPE tessera_")) {
      std::istringstream words(line);
      std::string hash, type, name, kind;
      words >> hash >> type >> name >> kind;
      // The last one has no series before the node's own thread has taken a sample.
      if (name == "tessera_metrics_series_refused_total" ||
          name == "tessera_slice_utilisation_ratio") {
        continue;
      }
      families.insert(name + " " + kind);
    }
  }
  const std::set<std::string> golden = {
      "tessera_node_attaches_total counter",
      "tessera_node_audit_cleared_total counter",
      "tessera_node_audit_evicted_total counter",
      "tessera_node_audit_frozen_total counter",
      "tessera_node_card_busy_ratio gauge",
      "tessera_node_card_healthy gauge",
      "tessera_node_card_memory_bytes gauge",
      "tessera_node_card_reserved_bytes gauge",
      "tessera_node_card_reserved_compute_ratio gauge",
      "tessera_node_card_strangers gauge",
      "tessera_node_card_used_bytes gauge",
      "tessera_node_damaged_slices_total counter",
      "tessera_node_instances gauge",
      "tessera_node_malformed_datagrams_total counter",
      "tessera_node_refused_connections_total counter",
      "tessera_node_strangers_total counter",
      "tessera_slice_driver_bytes gauge",
      "tessera_slice_gate_wait_seconds_total counter",
      "tessera_slice_lease_bytes gauge",
      "tessera_slice_limit_bytes gauge",
      "tessera_slice_overruns_total counter",
      "tessera_slice_peak_bytes gauge",
      "tessera_slice_pinned_bytes gauge",
      "tessera_slice_pinned_refusals_total counter",
      "tessera_slice_processes gauge",
      "tessera_slice_refusals_total counter",
      "tessera_slice_served_seconds_total counter",
      "tessera_slice_submissions_total counter",
      "tessera_slice_used_bytes gauge",
  };
  EXPECT_EQ(families, golden);
  EXPECT_NE(text->find("tessera_slice_limit_bytes{card=\"" + t_.uuids[0] +
                       "\",instance=\"i-1\",pod=\"\",slice=\"i-1\"} 4294967296"),
            std::string::npos)
      << *text;
}

}  // namespace
}  // namespace tessera::apps
