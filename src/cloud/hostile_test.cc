// A hundred and twenty tenants at once, each with a secret, each trying what it may and what it may
// not.
#include <gtest/gtest.h>

#include "base/rng.h"
#include "cloud/rest_harness.h"

namespace tessera::cloud {
namespace {

constexpr int kTenants = 120;
constexpr int kCalls = 2000;

struct Actor {
  RestHarness::TenantKey account;
  std::string secret;
  std::vector<std::string> instances;
};

class Town {
 public:
  explicit Town(std::uint64_t seed) : rng_(seed), cloud_(60) {
    cloud_.AddSku("cheap", "0.10");
    for (int i = 0; i < kTenants; ++i) {
      Actor actor;
      actor.account =
          cloud_.AddTenant("tenant-" + std::to_string(i), rng_.Chance(900) ? "1.00" : "0.05");
      actor.secret = "secret-of-" + std::to_string(i) + "-";
      actors_.push_back(actor);
    }
  }

  void Run() {
    for (int i = 0; i < kCalls && !::testing::Test::HasFailure(); ++i) {
      SCOPED_TRACE("call " + std::to_string(i));
      if (rng_.Chance(100)) {
        cloud_.clock.AdvanceMicros(static_cast<std::int64_t>(rng_.Below(600'000'000)));
        EXPECT_TRUE(cloud_.service->Tick());
        continue;
      }
      Actor& actor = actors_[rng_.Below(actors_.size())];
      if (rng_.Chance(500)) {
        Own(actor);
      } else {
        Hostile(actor);
      }
    }
    EXPECT_EQ(CheckBooks(*cloud_.database), "");
    // Whoever did something to an instance is its owner or the house.
    const auto strangers = cloud_.database->Query(
        "SELECT a.seq FROM audit a JOIN instances i ON i.id = a.resource "
        "WHERE a.actor NOT IN (i.tenant_id, 'system') OR a.tenant_id <> i.tenant_id",
        {});
    EXPECT_TRUE(strangers->empty());
    // And everything that was done is on record.
    const auto silent = cloud_.database->Query(
        "SELECT i.id FROM instances i LEFT JOIN audit a ON a.resource = i.id AND a.action = "
        "'instance.create' "
        "WHERE a.seq IS NULL UNION ALL "
        "SELECT e.instance_id FROM instance_events e LEFT JOIN audit a ON a.resource = "
        "e.instance_id AND "
        "a.action IN ('instance.stop', 'instance.release') WHERE e.state = 'stopping' AND a.seq IS "
        "NULL "
        "UNION ALL SELECT t.id FROM tenants t LEFT JOIN audit a ON a.resource = t.id AND "
        "a.action = 'tenant.create' WHERE a.seq IS NULL",
        {});
    EXPECT_TRUE(silent->empty());
    EXPECT_GT(refused_, kCalls / 10);
    EXPECT_GT(made_, kTenants);
  }

 private:
  std::int64_t Audits() {
    return (*cloud_.database->Query("SELECT count(*) FROM audit", {}))[0].Int(0);
  }

  // Nothing an actor is told may hold another one's secret, name, key or instance.
  http::Response Ask(Actor& actor, const std::string& method, const std::string& target,
                     const std::string& body) {
    auto answer = cloud_.Send(actor.account.key, method, target, body,
                              "k" + std::to_string(rng_.Below(1'000'000)));
    for (const auto& other : actors_) {
      if (&other == &actor) continue;
      EXPECT_EQ(answer.body.find(other.secret), std::string::npos)
          << method << " " << target << ": " << answer.body;
      EXPECT_EQ(answer.body.find(other.account.id), std::string::npos) << method << " " << target;
      if (answer.status < 300) {
        for (const auto& id : other.instances) EXPECT_EQ(answer.body.find(id), std::string::npos);
      }
    }
    return answer;
  }

  void Own(Actor& actor) {
    const std::int64_t audits = Audits();
    const std::string id =
        actor.instances.empty() ? "" : actor.instances[rng_.Below(actor.instances.size())];
    const auto choice = rng_.Below(9);
    if (choice <= 2 || id.empty()) {
      const auto answer = Ask(actor, "POST", "/v1/instances",
                              "{\"sku\":\"cheap\",\"command\":[\"" + actor.secret +
                                  "\"],\"environment\":{\"TOKEN\":\"" + actor.secret + "\"}}");
      ASSERT_TRUE(answer.status == 201 || answer.status == 402) << answer.body;
      EXPECT_EQ(Audits() - audits, answer.status == 201 ? 1 : 0);
      if (answer.status == 201) {
        actor.instances.push_back(RestHarness::Text(answer, "id"));
        ++made_;
      }
    } else if (choice == 3) {
      EXPECT_EQ(Ask(actor, "POST", "/v1/instances/" + id + "/stop", "").status / 100 % 2, 0);
    } else if (choice == 4) {
      const int status = Ask(actor, "POST", "/v1/instances/" + id + "/start", "").status;
      EXPECT_TRUE(status == 200 || status == 402 || status == 409) << status;
    } else if (choice == 5) {
      EXPECT_EQ(Ask(actor, "DELETE", "/v1/instances/" + id, "").status, 200);
    } else if (choice == 6) {
      const auto answer = Ask(actor, "GET", "/v1/instances/" + id, "");
      EXPECT_EQ(answer.status, 200);
      EXPECT_NE(answer.body.find(actor.secret), std::string::npos);
    } else {
      static const char* const kReads[] = {"/v1/instances", "/v1/bill",
                                           "/v1/me",        "/v1/skus",
                                           "/v1/cards",     "/v1/instances?state=released"};
      EXPECT_EQ(Ask(actor, "GET", kReads[rng_.Below(6)], "").status, 200);
    }
  }

  void Hostile(Actor& actor) {
    const Actor& victim = actors_[rng_.Below(actors_.size())];
    if (&victim == &actor) return;
    const std::string id = victim.instances.empty()
                               ? "i-00000000000000000000"
                               : victim.instances[rng_.Below(victim.instances.size())];
    const std::string& tenant = victim.account.id;
    const struct {
      const char* method;
      std::string target;
      std::string body;
      int status;
    } attempts[] = {
        {"GET", "/v1/instances/" + id, "", 404},
        {"DELETE", "/v1/instances/" + id, "", 404},
        {"POST", "/v1/instances/" + id + "/stop", "", 404},
        {"POST", "/v1/instances/" + id + "/start", "", 404},
        {"GET", "/v1/instances/" + id + "/logs", "", 404},
        {"GET", "/v1/instances/" + id + "/events", "", 404},
        {"POST", "/v1/instances/" + id + "/exec", R"({"command":["cat","/etc/shadow"]})", 404},
        {"POST", "/v1/instances",
         R"({"sku":"cheap","command":["x"],"tenant_id":")" + tenant + "\"}", 400},
        {"GET", "/v1/bill?tenant=" + tenant, "", 400},
        {"GET", "/v1/instances?cursor=c1%27%20OR%201=1", "", 400},
        {"GET", "/v1/instances?state=running%27--", "", 400},
        {"GET", "/v1/instances/" + id + "%27%20OR%20%271%27=%271", "", 404},
        {"POST", "/v1/tenants/" + actor.account.id + "/deposits", R"({"amount":"1000.00"})", 403},
        {"POST", "/v1/tenants/" + tenant + "/key", "", 403},
        {"GET", "/v1/ledger", "", 403},
        {"GET", "/v1/tenants", "", 403},
        {"POST", "/v1/skus",
         R"({"name":"cheap","memory":"80GiB","compute":"100%","price_per_hour":"0"})", 403},
        {"POST", "/v1/instances", R"({"sku":"cheap' OR '1'='1","command":["x"]})", 400},
    };
    const auto& attempt = attempts[rng_.Below(std::size(attempts))];
    const std::string before = State();
    const auto answer = Ask(actor, attempt.method, attempt.target, attempt.body);
    EXPECT_EQ(answer.status, attempt.status)
        << attempt.method << " " << attempt.target << " " << answer.body;
    EXPECT_EQ(State(), before) << attempt.method << " " << attempt.target;
    ++refused_;
  }

  // Cheap stand-ins for "no table changed": every change leaves an audit record, a line or a new
  // state.
  std::string State() {
    std::string state;
    for (const char* sql :
         {"SELECT count(*), 0 FROM audit", "SELECT count(*), 0 FROM entries",
          "SELECT count(*), coalesce(sum(generation), 0) FROM instances",
          "SELECT count(*), 0 FROM instance_events", "SELECT count(*), 0 FROM idempotency",
          "SELECT coalesce(sum(balance_micro), 0), coalesce(sum(abs(balance_micro)), 0) FROM "
          "accounts",
          "SELECT count(*), coalesce(sum(length(key_hash)), 0) FROM tenants"}) {
      const auto rows = cloud_.database->Query(sql, {});
      state += std::to_string((*rows)[0].Int(0)) + "/" + std::to_string((*rows)[0].Int(1)) + " ";
    }
    return state;
  }

  Rng rng_;
  RestHarness cloud_;
  std::vector<Actor> actors_;
  int refused_ = 0;
  int made_ = 0;
};

TEST(Hostile, NobodyReadsOrWritesWhatIsNotHis) { Town(1).Run(); }

}  // namespace
}  // namespace tessera::cloud
