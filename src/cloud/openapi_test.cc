// The contract against the code: the same routes, every answer of a whole story documented and
// shaped as its schema says, every example valid and, where it is a request, accepted.
#include <gtest/gtest.h>
#include <yaml-cpp/yaml.h>

#include <set>

#include "cloud/rest_harness.h"

namespace tessera::cloud {
namespace {

bool IsInteger(const YAML::Node& value) {
  const std::string text = value.IsScalar() ? value.Scalar() : "x";
  const std::size_t start = text.starts_with("-") ? 1 : 0;
  return text.size() > start && text.find_first_not_of("0123456789", start) == std::string::npos &&
         value.Tag() != "!";
}

// What is wrong with `value` by `schema`, empty when nothing is. The part of JSON Schema that the
// file uses; a keyword it does not know is an error, so that the file cannot promise what nobody
// checks.
class Checker {
 public:
  explicit Checker(YAML::Node root) : root_(std::move(root)) {}

  YAML::Node Resolve(YAML::Node node) const {
    while (node["$ref"]) {
      const std::string path = node["$ref"].as<std::string>();
      YAML::Node at;
      at.reset(root_);
      std::size_t from = 2;
      while (from <= path.size()) {
        const std::size_t slash = std::min(path.find('/', from), path.size());
        YAML::Node next = at[path.substr(from, slash - from)];
        at.reset(next);
        from = slash + 1;
      }
      node.reset(at);
    }
    return node;
  }

  std::string Check(const YAML::Node& value, const YAML::Node& raw_schema,
                    const std::string& where) const {
    const YAML::Node schema = Resolve(raw_schema);
    if (!schema.IsDefined() || !schema.IsMap()) return where + ": no schema";
    static const std::set<std::string> kKnown = {
        "type",      "properties", "required",   "additionalProperties",
        "items",     "enum",       "pattern",    "minLength",
        "maxLength", "minimum",    "maximum",    "minItems",
        "maxItems",  "default",    "description"};
    for (const auto& keyword : schema) {
      if (!kKnown.contains(keyword.first.as<std::string>())) {
        return where + ": unknown keyword " + keyword.first.as<std::string>();
      }
    }
    bool fits = false;
    std::string wanted;
    const YAML::Node types = schema["type"];
    for (std::size_t i = 0; i < (types.IsSequence() ? types.size() : 1); ++i) {
      const std::string type =
          types.IsSequence() ? types[i].as<std::string>() : types.as<std::string>();
      wanted += type + " ";
      if (type == "object") fits = fits || value.IsMap();
      if (type == "array") fits = fits || value.IsSequence();
      if (type == "null") fits = fits || value.IsNull();
      if (type == "string") fits = fits || value.IsScalar();
      if (type == "integer") fits = fits || IsInteger(value);
      if (type == "boolean")
        fits =
            fits || (value.IsScalar() && (value.Scalar() == "true" || value.Scalar() == "false"));
    }
    if (!fits) return where + ": expected " + wanted;
    if (value.IsNull()) return "";
    if (schema["enum"]) {
      bool listed = false;
      for (const auto& entry : schema["enum"]) listed = listed || entry.Scalar() == value.Scalar();
      if (!listed) return where + ": " + value.Scalar() + " is not in the enum";
    }
    if (value.IsSequence()) {
      for (std::size_t i = 0; i < value.size(); ++i) {
        const std::string wrong =
            Check(value[i], schema["items"], where + "[" + std::to_string(i) + "]");
        if (!wrong.empty()) return wrong;
      }
    }
    if (value.IsMap()) {
      for (const auto& name : schema["required"]) {
        if (!value[name.as<std::string>()]) return where + ": lacks " + name.as<std::string>();
      }
      for (const auto& member : value) {
        const std::string name = member.first.as<std::string>();
        const YAML::Node property =
            schema["properties"] ? schema["properties"][name] : YAML::Node();
        if (property.IsDefined() && !property.IsNull()) {
          const std::string wrong = Check(member.second, property, where + "." + name);
          if (!wrong.empty()) return wrong;
        } else if (schema["additionalProperties"].IsMap()) {
          const std::string wrong =
              Check(member.second, schema["additionalProperties"], where + "." + name);
          if (!wrong.empty()) return wrong;
        } else {
          return where + ": does not know " + name;
        }
      }
    }
    return "";
  }

 private:
  YAML::Node root_;
};

class OpenApi : public ::testing::Test {
 protected:
  void SetUp() override { root_ = YAML::LoadFile(TESSERA_OPENAPI); }

  static std::string Lower(std::string text) {
    for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    return text;
  }
  YAML::Node Operation(const std::string& method, const std::string& pattern) {
    return root_["paths"][pattern][Lower(method)];
  }

  // Sends a request and holds the answer against the contract.
  http::Response Send(const std::string& key, const std::string& method, const std::string& pattern,
                      const std::string& id, const std::string& body, const std::string& once,
                      const std::string& query = "") {
    std::string path = pattern;
    if (const auto at = path.find("{id}"); at != std::string::npos) path.replace(at, 4, id);
    auto answer = cloud_.Send(key, method, path + query, body, once);
    const std::string where = method + " " + pattern + " " + std::to_string(answer.status);
    const Checker checker(root_);
    const YAML::Node documented =
        Operation(method, pattern)["responses"][std::to_string(answer.status)];
    if (!documented.IsDefined()) {
      ADD_FAILURE() << where << " is not documented: " << answer.body;
      return answer;
    }
    const YAML::Node content = checker.Resolve(documented)["content"][answer.content_type];
    if (!content.IsDefined()) {
      ADD_FAILURE() << where << " is not documented as " << answer.content_type;
      return answer;
    }
    EXPECT_EQ(checker.Check(YAML::Load(answer.body), content["schema"], where), "") << answer.body;
    seen_.insert(where);
    return answer;
  }

  YAML::Node root_;
  RestHarness cloud_{2};
  std::set<std::string> seen_;
};

TEST_F(OpenApi, HasExactlyTheRoutesOfTheRouter) {
  std::set<std::string> documented;
  for (const auto& path : root_["paths"]) {
    for (const auto& operation : path.second) {
      documented.insert(Lower(operation.first.as<std::string>()) + " " +
                        path.first.as<std::string>());
    }
  }
  std::set<std::string> routed;
  for (const auto& [method, pattern] : RouteTable()) routed.insert(Lower(method) + " " + pattern);
  EXPECT_EQ(documented, routed);
}

TEST_F(OpenApi, EveryOperationIsCompleteAndItsExamplesAreValid) {
  const Checker checker(root_);
  std::set<std::string> ids;
  for (const auto& path : root_["paths"]) {
    for (const auto& entry : path.second) {
      const YAML::Node& operation = entry.second;
      const std::string where = entry.first.as<std::string>() + " " + path.first.as<std::string>();
      EXPECT_TRUE(operation["summary"]) << where;
      ASSERT_TRUE(operation["operationId"]) << where;
      EXPECT_TRUE(ids.insert(operation["operationId"].as<std::string>()).second) << where;
      std::set<std::string> statuses;
      for (const auto& response : operation["responses"]) {
        const std::string status = response.first.as<std::string>();
        statuses.insert(status);
        const YAML::Node resolved = checker.Resolve(response.second);
        ASSERT_TRUE(resolved["content"]) << where << " " << status;
        for (const auto& content : resolved["content"]) {
          ASSERT_TRUE(content.second["example"]) << where << " " << status;
          EXPECT_EQ(checker.Check(content.second["example"], content.second["schema"],
                                  where + " " + status),
                    "");
        }
      }
      const std::string role = operation["x-role"].as<std::string>();
      EXPECT_EQ(statuses.contains("401"), role != "none") << where;
      EXPECT_EQ(statuses.contains("403"), role == "admin" || role == "tenant") << where;
      EXPECT_EQ(statuses.contains("404"), where.find("{id}") != std::string::npos) << where;
      bool once = false;
      for (const auto& parameter : operation["parameters"]) {
        once = once || checker.Resolve(parameter)["name"].as<std::string>() == "Idempotency-Key";
      }
      EXPECT_EQ(statuses.contains("422"), once) << where;
      if (operation["requestBody"]) {
        const YAML::Node content = operation["requestBody"]["content"]["application/json"];
        ASSERT_TRUE(content["example"]) << where;
        EXPECT_EQ(checker.Check(content["example"], content["schema"], where), "");
      }
    }
  }
}

TEST_F(OpenApi, TheAnswersAreWhatItPromises) {
  const auto acme = cloud_.AddTenant("story", "50.00");
  cloud_.AddSku();
  const std::string& admin = cloud_.admin;
  // Request bodies as the examples give them.
  const std::string tenant =
      RestHarness::Text(Send(admin, "POST", "/v1/tenants", "", R"({"name":"acme"})", "1"), "id");
  Send(admin, "POST", "/v1/tenants", "", R"({"name":"acme"})", "2");
  Send(admin, "POST", "/v1/tenants", "", R"({"name":"other"})", "1");
  Send(admin, "POST", "/v1/tenants/{id}/deposits", tenant,
       R"({"amount":"100.00","currency":"CNY"})", "1");
  Send(admin, "POST", "/v1/tenants/{id}/deposits", "nobody", R"({"amount":"100.00"})", "1");
  Send(admin, "POST", "/v1/tenants/{id}/key", tenant, "", "");
  Send(admin, "POST", "/v1/tenants/{id}/key", "nobody", "", "");
  Send(
      admin, "POST", "/v1/skus", "",
      R"({"name":"a100-80.third","model":"NVIDIA A100-SXM4-80GB","slices":1,"memory":"26GiB","compute":"33.3%",)"
      R"("cpu_millis":0,"ram":"0B","price_per_hour":"2.00","currency":"CNY"})",
      "1");
  Send(admin, "GET", "/v1/me", "", "", "");
  Send(admin, "PUT", "/v1/tenants/{id}/limits", tenant, R"({"priority_max":500})", "");
  Send(acme.key, "GET", "/v1/quota", "", "", "");
  Send(admin, "GET", "/v1/queue", "", "", "");
  const std::string rules =
      R"({"fair_share":false,"preemption":true,"reclaim":"lower_priority","quotas":[)"
      R"({"name":"research"},{"name":")" +
      acme.id +
      R"(","parent":"research","nominal":{"card_millis":1000,"memory_bytes":"80GiB"},)"
      R"("borrowing_limit":{"card_millis":500,"memory_bytes":null},"weight":2}]})";
  Send(admin, "PUT", "/v1/queue", "", R"({"version":0,"policy":)" + rules + "}", "");
  Send(admin, "PUT", "/v1/queue", "", R"({"version":0,"policy":{}})", "");
  Send(acme.key, "GET", "/v1/quota", "", "", "");
  Send(acme.key, "POST", "/v1/instances", "",
       R"({"name":"cheap","sku":"third","command":["x"],"spot":true,"requeue":true,"priority":-5})",
       "spot");
  Send(acme.key, "POST", "/v1/instances", "", R"({"sku":"third","command":["x"],"priority":5})",
       "high");
  Send(admin, "GET", "/v1/tenants", "", "", "");
  const std::string order =
      R"({"name":"train","sku":"a100-80.third","command":["/opt/train","--epochs","3"],"environment":{"SEED":"7"}})";
  const std::string id =
      RestHarness::Text(Send(acme.key, "POST", "/v1/instances", "", order, "1"), "id");
  Send(acme.key, "POST", "/v1/instances", "", order, "");
  Send(acme.key, "POST", "/v1/instances", "", order, "2");
  Send(acme.key, "POST", "/v1/instances", "", "{}", "1");
  for (int i = 0; i < 3; ++i) {
    Send(acme.key, "POST", "/v1/instances", "", R"({"sku":"third","command":["x"]})",
         "q" + std::to_string(i));
  }
  Send(acme.key, "GET", "/v1/instances/{id}/explanation", id, "", "");
  {
    const auto page = cloud_.Send(acme.key, "GET", "/v1/instances?state=queued");
    auto queued = http::JsonObject::Parse(page.body)->OptionalArray("instances", 10);
    ASSERT_TRUE(queued && !queued->empty());
    const std::string last = *queued->back().Object()->String("id", 64);
    Send(acme.key, "GET", "/v1/instances/{id}/explanation", last, "", "");
  }
  const std::string gang =
      R"({"sku":"third","command":["x"],"count":2,"per_node_min":1,"same_rack":"prefer"})";
  Send(acme.key, "POST", "/v1/gangs", "", gang, "1");
  Send(acme.key, "POST", "/v1/gangs", "", gang, "1");
  const std::string kept = R"({"tenant":")" + tenant +
                           R"(","sku":"third","units":1,"lend":true,"end":"2199-01-01T00:00:00Z"})";
  const std::string reservation =
      RestHarness::Text(Send(admin, "POST", "/v1/reservations", "", kept, "1"), "id");
  Send(admin, "POST", "/v1/reservations", "",
       R"({"tenant":")" + tenant + R"(","sku":"third","units":1000})", "2");
  Send(acme.key, "GET", "/v1/reservations", "", "", "");
  Send(admin, "GET", "/v1/reservations", "", "", "");
  Send(admin, "DELETE", "/v1/reservations/{id}", reservation, "", "");
  Send(acme.key, "GET", "/v1/instances", "", "", "");
  Send(acme.key, "GET", "/v1/instances", "", "", "", "?limit=1&state=running");
  Send(acme.key, "GET", "/v1/instances", "", "", "", "?limit=0");
  Send(acme.key, "GET", "/v1/instances/{id}", id, "", "");
  Send(acme.key, "GET", "/v1/instances/{id}/logs", id, "", "", "?offset=2");
  Send(acme.key, "POST", "/v1/instances/{id}/exec", id, R"({"command":["nvidia-smi"],"stdin":""})",
       "");
  Send(acme.key, "POST", "/v1/instances/{id}/start", id, "", "1");
  cloud_.clock.AdvanceMicros(1'800'000'000);
  ASSERT_TRUE(cloud_.service->Tick());
  Send(acme.key, "GET", "/v1/bill", "", "", "");
  Send(acme.key, "POST", "/v1/instances/{id}/stop", id, "", "");
  Send(acme.key, "POST", "/v1/instances/{id}/exec", id, R"({"command":["nvidia-smi"]})", "");
  Send(acme.key, "POST", "/v1/instances/{id}/start", id, "", "1");
  Send(acme.key, "DELETE", "/v1/instances/{id}", id, "", "");
  Send(acme.key, "POST", "/v1/instances/{id}/stop", id, "", "");
  Send(acme.key, "GET", "/v1/instances/{id}/explanation", id, "", "");
  Send(acme.key, "GET", "/v1/instances/{id}/logs", id, "", "");
  Send(acme.key, "GET", "/v1/instances/{id}/events", id, "", "");
  Send(acme.key, "GET", "/v1/bill", "", "", "");
  Send(acme.key, "GET", "/v1/me", "", "", "");
  Send(acme.key, "GET", "/v1/skus", "", "", "");
  Send(acme.key, "GET", "/v1/cards", "", "", "");
  Send(admin, "GET", "/v1/ledger", "", "", "");
  Send("", "GET", "/healthz", "", "", "");
  const auto poor = cloud_.AddTenant("poor");
  Send(poor.key, "POST", "/v1/instances", "", order, "1");
  Send(poor.key, "POST", "/v1/gangs", "", gang, "1");
  cloud_.execution.SetRefusal(
      Error(Code::kResourceExhausted, "the queue holds at most kQueueMax (1000)"));
  Send(acme.key, "POST", "/v1/instances", "", R"({"sku":"third","command":["x"]})", "full");
  cloud_.execution.SetOutage(Error(Code::kUnavailable, "the scheduler does not answer"));
  Send(acme.key, "GET", "/v1/cards", "", "", "");
  cloud_.execution.SetOutage(std::nullopt);
  for (const auto& [method, pattern] : RouteTable()) {
    if (pattern == "/healthz") continue;
    const std::string role = Operation(method, pattern)["x-role"].as<std::string>();
    Send("", method, pattern, "x", "", "z");
    if (role != "any") Send(role == "admin" ? acme.key : admin, method, pattern, "x", "", "z");
    Send(role == "tenant" ? acme.key : admin, method, pattern, "x", "[]", "z", "?surprise=1");
    if (pattern.find("{id}") != std::string::npos) {
      const std::string body = pattern.ends_with("exec")       ? R"({"command":["x"]})"
                               : pattern.ends_with("deposits") ? R"({"amount":"1.00"})"
                               : pattern.ends_with("limits")   ? R"({"priority_max":1})"
                                                               : "";
      const auto unknown =
          Send(role == "tenant" ? acme.key : admin, method, pattern, "x", body, "y");
      EXPECT_EQ(unknown.status, 404) << method << " " << pattern;
    }
    if (Operation(method, pattern)["responses"]["422"]) {
      store::FailStatementsFromForTest(*cloud_.database, 2);
      Send(role == "tenant" ? acme.key : admin, method, pattern, "x", "{}", "w");
      store::FailStatementForTest(*cloud_.database, -1);
    }
  }
  for (const auto& [method, pattern] : RouteTable()) {
    const bool good = seen_.contains(method + " " + pattern + " 200") ||
                      seen_.contains(method + " " + pattern + " 201");
    EXPECT_TRUE(good) << method << " " << pattern << " never succeeded here";
  }
  for (const char* must :
       {"POST /v1/instances 400", "POST /v1/instances 402", "POST /v1/instances 409",
        "POST /v1/instances 403", "PUT /v1/queue 409", "PUT /v1/queue 400",
        "POST /v1/instances 422", "POST /v1/instances 429", "GET /v1/cards 503",
        "POST /v1/gangs 402", "POST /v1/reservations 429", "POST /v1/instances/{id}/start 409",
        "GET /v1/instances/{id}/logs 409", "GET /v1/instances/{id}/explanation 409"}) {
    EXPECT_TRUE(seen_.contains(must)) << must;
  }
}

}  // namespace
}  // namespace tessera::cloud
