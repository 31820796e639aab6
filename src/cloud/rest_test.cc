#include "cloud/rest.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "cloud/reconciler.h"
#include "cloud/rest_harness.h"
#include "cloud/seed_skus.h"
#include "http/client.h"

namespace tessera::cloud {
namespace {

using Harness = RestHarness;

constexpr std::int64_t kMinute = 60'000'000;
const std::string kOrder =
    R"({"name":"train","sku":"third","command":["/bin/train","--fast"],"environment":{"A":"b"}})";

// What the owner of an order sees of why it waits, word for word; of others only their number.
TEST(Rest, AnOrderIsExplainedToItsOwnerOnly) {
  Harness cloud;
  cloud.AddSku();
  const auto acme = cloud.AddTenant("acme", "50.00");
  const auto other = cloud.AddTenant("other-firm", "50.00");
  const std::string order = R"({"sku":"third","command":["x"]})";
  const auto rent = [&](const std::string& key) {
    const auto made = cloud.Post(key, "/v1/instances", order);
    EXPECT_EQ(made.status, 201) << made.body;
    return Harness::Text(made, "id");
  };
  const std::string runs = rent(acme.key);
  const std::string first = rent(acme.key);
  const std::string between = rent(other.key);
  const std::string waits = rent(acme.key);
  const auto explain = [&](const std::string& key, const std::string& id) {
    return cloud.Send(key, "GET", "/v1/instances/" + id + "/explanation");
  };
  const std::string nodes =
      R"x("quota":{"held":{"card_millis":333,"memory_bytes":27917287424},)x"
      R"x("borrowed":{"card_millis":0,"memory_bytes":0},)x"
      R"x("nominal":{"card_millis":4000,"memory_bytes":343597383680},)x"
      R"x("borrowing_limit":{"card_millis":1000,"memory_bytes":null},)x"
      R"x("lending_limit":{"card_millis":null,"memory_bytes":null}},)x"
      R"x("filtered":[{"rule":"memory","nodes":1,"example_node":"node-b",)x"
      R"x("message":"memory: asked 26 GiB a card, 2 GiB short on the best card (24 GiB free)"}],)x"
      R"x("best":[{"node":"node-a","cards":["GPU-0"],"score":"-0.250000",)x"
      R"x("parts":[{"name":"left","score":"-0.250000"}]}]})x";
  const std::string reason =
      R"x("waiting_for":"memory: asked 26 GiB a card, 2 GiB short on the best card (24 GiB free)","spot":false,)x";
  const auto answer = explain(acme.key, waits);
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.body,
            R"x({"instance":")x" + waits + R"x(",)x" + reason +
                R"x("queue":{"position":3,"waiting":3,"rule":"fit","priority":0,"ahead":[")x" +
                first + R"x("],"others_ahead":1},)x" + nodes);
  for (const std::string& secret : {between, other.id, std::string("other-firm")}) {
    EXPECT_EQ(answer.body.find(secret), std::string::npos) << secret;
  }
  EXPECT_EQ(
      explain(acme.key, runs).body,
      R"x({"instance":")x" + runs + R"x(","waiting_for":"","spot":false,"queue":null,)x" + nodes);
  // Somebody else's is as unknown as none.
  EXPECT_EQ(explain(other.key, waits).status, 404);
  EXPECT_EQ(explain(other.key, waits).body, explain(other.key, "i-none").body);
  EXPECT_EQ(explain(cloud.admin, waits).status, 403);
  cloud.Send(acme.key, "POST", "/v1/instances/" + runs + "/stop");
  EXPECT_EQ(explain(acme.key, runs).status, 409);
  cloud.execution.ForgetQueue();
  EXPECT_EQ(explain(acme.key, waits).status, 503);
}

// Word for word what the operator and the tenant read, and that what was read can be put back.
TEST(Rest, TheRulesOfTheQueueAreReadAndSet) {
  Harness cloud(3);
  cloud.AddSku();
  const auto acme = cloud.AddTenant("acme", "50.00");
  const std::string none = R"({"version":0,"file":null,"policy":{"fair_share":false,)"
                           R"("preemption":true,"reclaim":"lower_priority","quotas":[]},"use":[]})";
  EXPECT_EQ(cloud.Send(cloud.admin, "GET", "/v1/queue").body, none);
  EXPECT_EQ(cloud.Send(acme.key, "GET", "/v1/quota").body, R"({"priority_max":0,"quota":null})");
  const auto set = cloud.Send(
      cloud.admin, "PUT", "/v1/queue",
      R"({"policy":{"fair_share":true,"reclaim":"any","quotas":[{"name":"all"},{"name":")" +
          acme.id +
          R"(","parent":"all","nominal":{"card_millis":500,"memory_bytes":"40GiB"},)"
          R"("borrowing_limit":{"card_millis":250},"weight":3}]}})");
  ASSERT_EQ(set.status, 200) << set.body;
  const std::string no_limit = R"({"card_millis":null,"memory_bytes":null})";
  const std::string nothing = R"({"card_millis":0,"memory_bytes":0})";
  const std::string policy =
      R"({"fair_share":true,"preemption":true,"reclaim":"any","quotas":[)"
      R"({"name":"all","parent":"","nominal":)" +
      nothing + R"(,"borrowing_limit":)" + no_limit + R"(,"lending_limit":)" + no_limit +
      R"(,"weight":1},{"name":")" + acme.id +
      R"(","parent":"all","nominal":{"card_millis":500,"memory_bytes":42949672960},)"
      R"("borrowing_limit":{"card_millis":250,"memory_bytes":null},"lending_limit":)" +
      no_limit + R"(,"weight":3}]})";
  const auto rules = [&](int version, const std::string& held, const std::string& borrowed) {
    return R"({"version":)" + std::to_string(version) + R"(,"file":null,"policy":)" + policy +
           R"(,"use":[{"name":"all","held":)" + held + R"(,"borrowed":)" + borrowed +
           R"(},{"name":")" + acme.id + R"(","held":)" + held + R"(,"borrowed":)" + borrowed +
           "}]}";
  };
  EXPECT_EQ(set.body, rules(1, nothing, nothing));
  for (int i = 0; i < 2; ++i) {
    ASSERT_EQ(cloud.Post(acme.key, "/v1/instances", R"({"sku":"third","command":["x"]})").status,
              201);
  }
  const std::string held = R"({"card_millis":666,"memory_bytes":55834574848})";
  EXPECT_EQ(cloud.Send(acme.key, "GET", "/v1/quota").body,
            R"({"priority_max":0,"quota":{"held":)" + held +
                R"(,"borrowed":{"card_millis":166,"memory_bytes":12884901888},)"
                R"("nominal":{"card_millis":500,"memory_bytes":42949672960},)"
                R"("borrowing_limit":{"card_millis":250,"memory_bytes":null},"lending_limit":)" +
                no_limit + R"(,"weight":3}})");
  const auto again =
      cloud.Send(cloud.admin, "PUT", "/v1/queue", R"({"version":1,"policy":)" + policy + "}");
  EXPECT_EQ(again.body, rules(1, held, R"({"card_millis":166,"memory_bytes":12884901888})"))
      << "put back as it was read";
  const std::string before = cloud.Fingerprint();
  const auto late = cloud.Send(cloud.admin, "PUT", "/v1/queue", R"({"version":0,"policy":{}})");
  EXPECT_EQ(late.status, 409);
  EXPECT_EQ(Harness::Field(late), "version");
  EXPECT_EQ(cloud.Fingerprint(), before);
  ASSERT_TRUE(cloud.service->UseQueueFile(placement::QueuePolicy(), "/etc/up.yaml"));
  EXPECT_EQ(cloud.Send(cloud.admin, "PUT", "/v1/queue", R"({"policy":{}})").status, 409);
  EXPECT_EQ(cloud.Send(cloud.admin, "GET", "/v1/queue").body,
            R"({"version":1,"file":"/etc/up.yaml","policy":{"fair_share":false,)"
            R"("preemption":true,"reclaim":"lower_priority","quotas":[]},"use":[]})");
}

TEST(Rest, WhatAnOrderAskedForIsShownAndBounded) {
  Harness cloud;
  cloud.AddSku();
  const auto acme = cloud.AddTenant("acme", "50.00");
  const auto skus = cloud.Send(acme.key, "GET", "/v1/skus");
  EXPECT_NE(skus.body.find(R"("price_per_hour":"4.00","spot_price_per_hour":"2.00")"),
            std::string::npos)
      << skus.body;
  const auto rent = [&](const std::string& more) {
    return cloud.Post(acme.key, "/v1/instances", R"({"sku":"third","command":["x"])" + more + "}");
  };
  const auto runs = rent("");
  EXPECT_NE(runs.body.find(R"("priority":0,"spot":false,"requeue":false,)"), std::string::npos);
  const auto spot = rent(R"(,"spot":true,"requeue":true)");
  EXPECT_NE(spot.body.find(R"("priority":-1,"spot":true,"requeue":true,)"), std::string::npos);
  EXPECT_NE(spot.body.find(R"("price_per_hour":"2.00")"), std::string::npos) << spot.body;
  const auto explained =
      cloud.Send(acme.key, "GET", "/v1/instances/" + Harness::Text(spot, "id") + "/explanation");
  EXPECT_NE(explained.body.find(R"("spot":true,"queue":{"position":1,"waiting":1,"rule":"fit",)"
                                R"("priority":-1,)"),
            std::string::npos)
      << explained.body;
  const std::string before = cloud.Fingerprint();
  const auto high = rent(R"(,"priority":1)");
  EXPECT_EQ(high.status, 403);
  EXPECT_EQ(Harness::Field(high), "priority");
  EXPECT_EQ(Harness::Text(high, "detail"), "expected at most your priority_max (0), got 1");
  EXPECT_EQ(cloud.Fingerprint(), before);
  const auto raised =
      cloud.Send(cloud.admin, "PUT", "/v1/tenants/" + acme.id + "/limits", R"({"priority_max":1})");
  EXPECT_EQ(raised.status, 200) << raised.body;
  EXPECT_NE(raised.body.find(R"("priority_max":1)"), std::string::npos);
  EXPECT_EQ(rent(R"(,"priority":1)").status, 201);
  cloud.execution.Evict(Harness::Text(runs, "id"), "preempted");
  ASSERT_TRUE(cloud.service->Tick());
  EXPECT_NE(cloud.Send(acme.key, "GET", "/v1/bill").body.find(R"("spot":false)"),
            std::string::npos);
}

TEST(Rest, FromTenantToBill) {
  Harness cloud;
  cloud.AddSku();
  const auto acme = cloud.AddTenant("acme", "20.00");
  const auto made = cloud.Post(acme.key, "/v1/instances", kOrder);
  ASSERT_EQ(made.status, 201) << made.body;
  const std::string id = Harness::Text(made, "id");
  EXPECT_EQ(Harness::Text(made, "state"), "running");
  EXPECT_NE(made.body.find(R"("actions":["stop","release","exec","logs"])"), std::string::npos)
      << made.body;
  EXPECT_NE(made.body.find(R"("cards":["GPU-0"])"), std::string::npos);
  const auto me = cloud.Send(acme.key, "GET", "/v1/me");
  EXPECT_EQ(Harness::Text(me, "balance"), "20.00");
  EXPECT_EQ(Harness::Text(me, "held"), "4.00");
  EXPECT_EQ(Harness::Text(me, "available"), "16.00");
  EXPECT_EQ(Harness::Text(me, "currency"), "CNY");
  const auto log = cloud.Send(acme.key, "GET", "/v1/instances/" + id + "/logs?offset=4");
  EXPECT_EQ(Harness::Text(log, "text"), "of " + id + "\n");
  EXPECT_NE(log.body.find("\"next_offset\":" + std::to_string(8 + id.size())), std::string::npos)
      << log.body;
  const auto exec = cloud.Send(acme.key, "POST", "/v1/instances/" + id + "/exec",
                               R"({"command":["ls"],"stdin":"x"})");
  EXPECT_EQ(Harness::Text(exec, "output"), id + ":ls:x");
  EXPECT_NE(exec.body.find("\"exit_code\":7"), std::string::npos);
  cloud.clock.AdvanceMicros(30 * kMinute);
  ASSERT_TRUE(cloud.service->Tick());
  const auto stopped = cloud.Send(acme.key, "POST", "/v1/instances/" + id + "/stop");
  EXPECT_EQ(Harness::Text(stopped, "state"), "stopped");
  const auto started = cloud.Post(acme.key, "/v1/instances/" + id + "/start");
  EXPECT_EQ(Harness::Text(started, "state"), "running");
  const auto released = cloud.Send(acme.key, "DELETE", "/v1/instances/" + id);
  EXPECT_EQ(released.status, 200);
  EXPECT_EQ(Harness::Text(released, "state"), "released");
  const auto bill = cloud.Send(acme.key, "GET", "/v1/bill");
  EXPECT_EQ(Harness::Text(bill, "total"), "2.00") << bill.body;
  EXPECT_EQ(Harness::Text(bill, "rule"), commerce::kBillingRule);
  EXPECT_EQ(Harness::Text(bill, "available"), "18.00");
  const auto events = cloud.Send(acme.key, "GET", "/v1/instances/" + id + "/events");
  for (const std::string kind : {"queued", "running", "stopping", "stopped", "released"}) {
    EXPECT_NE(events.body.find("\"kind\":\"" + kind + "\""), std::string::npos) << kind;
  }
  const auto ledger = cloud.Send(cloud.admin, "GET", "/v1/ledger");
  EXPECT_EQ(Harness::Text(ledger, "sum"), "0.00");
  EXPECT_NE(
      ledger.body.find(R"({"name":"revenue","kind":"revenue","tenant":null,"balance":"2.00"})"),
      std::string::npos)
      << ledger.body;
  EXPECT_EQ(cloud.Send("", "GET", "/healthz").status, 200);
  const auto cards = cloud.Send(acme.key, "GET", "/v1/cards");
  EXPECT_NE(cards.body.find("\"simulated\":true"), std::string::npos);
  EXPECT_EQ(CheckBooks(*cloud.database), "");
}

TEST(Rest, APurseTooSmallIs402AndSaysByHowMuch) {
  Harness cloud;
  cloud.AddSku();
  const auto poor = cloud.AddTenant("poor", "3.00");
  const auto refused = cloud.Send(poor.key, "POST", "/v1/instances", kOrder, "one");
  EXPECT_EQ(refused.status, 402);
  EXPECT_EQ(Harness::Text(refused, "code"), "insufficient_funds");
  EXPECT_NE(Harness::Text(refused, "detail").find("1.00 short"), std::string::npos) << refused.body;
  EXPECT_EQ(cloud.Send(poor.key, "GET", "/v1/instances").body, R"({"instances":[],"next":null})");
  cloud.Post(cloud.admin, "/v1/tenants/" + poor.id + "/deposits", R"({"amount":"1.00"})");
  EXPECT_EQ(cloud.Send(poor.key, "POST", "/v1/instances", kOrder, "one").status, 201)
      << "what had no effect may be tried again under its key";
}

TEST(Rest, IdempotencyKeys) {
  Harness cloud(10);
  cloud.AddSku();
  const auto acme = cloud.AddTenant("acme", "100.00");
  const auto other = cloud.AddTenant("other", "100.00");
  EXPECT_EQ(cloud.Send(acme.key, "POST", "/v1/instances", kOrder).status, 400);
  EXPECT_EQ(Harness::Field(cloud.Send(acme.key, "POST", "/v1/instances", kOrder)),
            "Idempotency-Key");
  EXPECT_EQ(cloud.Send(acme.key, "POST", "/v1/instances", kOrder, std::string(129, 'k')).status,
            400);
  EXPECT_EQ(cloud.Send(acme.key, "POST", "/v1/instances", kOrder, "a b").status, 400);
  const auto first = cloud.Send(acme.key, "POST", "/v1/instances", kOrder, "one");
  ASSERT_EQ(first.status, 201);
  cloud.clock.AdvanceMicros(kMinute);
  ASSERT_TRUE(cloud.service->Tick());
  const std::string before = cloud.Fingerprint();
  const auto again = cloud.Send(acme.key, "POST", "/v1/instances", kOrder, "one");
  EXPECT_EQ(again.status, 201);
  EXPECT_EQ(again.body, first.body);
  EXPECT_EQ(again.headers.at("idempotency-replayed"), "true");
  EXPECT_EQ(cloud.Send(acme.key, "POST", "/v1/instances", kOrder + " ", "one").status, 422);
  EXPECT_EQ(cloud.Fingerprint(), before) << "a replay changes nothing";
  EXPECT_EQ(cloud.Send(other.key, "POST", "/v1/instances", kOrder, "one").status, 201)
      << "keys of different tenants are different keys";
  const std::string deposit = "/v1/tenants/" + acme.id + "/deposits";
  EXPECT_EQ(cloud.Send(cloud.admin, "POST", deposit, R"({"amount":"5.00"})", "one").status, 201);
  EXPECT_EQ(cloud.Send(cloud.admin, "POST", deposit, R"({"amount":"5.00"})", "one").status, 201);
  EXPECT_EQ(Harness::Text(cloud.Send(acme.key, "GET", "/v1/me"), "balance"), "105.00");
  // A day later the answer is forgotten but the payment is not made twice.
  cloud.clock.AdvanceMicros(kIdempotencyMicros);
  const std::string id = Harness::Text(first, "id");
  EXPECT_EQ(cloud.Send(cloud.admin, "POST", deposit, R"({"amount":"5.00"})", "one").status, 201);
  const auto paid =
      cloud.database->Query("SELECT count(*) FROM transfers WHERE kind = 'deposit'", {});
  EXPECT_EQ((*paid)[0].Int(0), 3);
  // A tenant's key is shown once; a repeated request gets the tenant without it.
  const auto tenant = cloud.Send(cloud.admin, "POST", "/v1/tenants", R"({"name":"new"})", "t");
  EXPECT_NE(Harness::Text(tenant, "api_key"), "");
  const auto replay = cloud.Send(cloud.admin, "POST", "/v1/tenants", R"({"name":"new"})", "t");
  EXPECT_EQ(replay.status, 201);
  EXPECT_EQ(Harness::Text(replay, "id"), Harness::Text(tenant, "id"));
  EXPECT_EQ(Harness::Text(replay, "api_key"), "");
  const auto fresh =
      cloud.Send(cloud.admin, "POST", "/v1/tenants/" + Harness::Text(tenant, "id") + "/key");
  EXPECT_EQ(fresh.status, 201);
  EXPECT_EQ(cloud.Send(Harness::Text(fresh, "api_key"), "GET", "/v1/me").status, 200);
  EXPECT_EQ(cloud.Send(Harness::Text(tenant, "api_key"), "GET", "/v1/me").status, 401);
}

TEST(Rest, ForeignAndUnknownAreTheSame404) {
  Harness cloud(10);
  cloud.AddSku();
  const auto acme = cloud.AddTenant("acme", "100.00");
  const auto evil = cloud.AddTenant("evil", "100.00");
  const std::string id = Harness::Text(cloud.Post(acme.key, "/v1/instances", kOrder), "id");
  const std::string before = cloud.Fingerprint();
  const struct {
    const char* method;
    const char* suffix;
    const char* body;
  } calls[] = {{"GET", "", ""},
               {"DELETE", "", ""},
               {"POST", "/stop", ""},
               {"POST", "/start", ""},
               {"GET", "/logs", ""},
               {"GET", "/events", ""},
               {"POST", "/exec", R"({"command":["ls"]})"}};
  for (const auto& call : calls) {
    const auto foreign =
        cloud.Send(evil.key, call.method, "/v1/instances/" + id + call.suffix, call.body, "k");
    const auto unknown = cloud.Send(
        evil.key, call.method, std::string("/v1/instances/i-none") + call.suffix, call.body, "k");
    EXPECT_EQ(foreign.status, 404) << call.method << call.suffix;
    EXPECT_EQ(foreign.body, unknown.body);
    EXPECT_EQ(foreign.headers, unknown.headers);
  }
  EXPECT_EQ(cloud.Fingerprint(), before);
}

// From the order to the plane and into the answer, also after a stop and a start.
TEST(Rest, AnOrderSaysHowItsSlicesAreHeld) {
  Harness cloud;
  cloud.AddSku();
  cloud.Post(
      cloud.admin, "/v1/skus",
      R"({"name":"pair","slices":2,"memory":"26GiB","compute":"33.3%","price_per_hour":"1"})");
  cloud.Post(cloud.admin, "/v1/skus",
             R"({"name":"full","memory":"80GiB","compute":"100%","price_per_hour":"1"})");
  const auto acme = cloud.AddTenant("acme", "100");
  const auto order = [&](const std::string& sku, const std::string& isolation) {
    const std::string more = isolation.empty() ? "" : R"(,"isolation":")" + isolation + "\"";
    return cloud.Post(acme.key, "/v1/instances",
                      R"({"sku":")" + sku + R"(","command":["x"])" + more + "}");
  };
  for (const auto& [sku, isolation] : std::vector<std::pair<std::string, std::string>>{
           {"third", ""}, {"third", "shim"}, {"third", "spatial"}, {"full", "whole"}}) {
    const std::string expected = isolation.empty() ? "shim" : isolation;
    const auto made = order(sku, isolation);
    ASSERT_EQ(made.status, 201) << made.body;
    EXPECT_EQ(Harness::Text(made, "isolation"), expected);
    EXPECT_EQ(IsolationName(cloud.execution.LastOrder().request.isolation), expected);
    const std::string target = "/v1/instances/" + Harness::Text(made, "id");
    cloud.Post(acme.key, target + "/stop", "");
    ASSERT_EQ(cloud.Post(acme.key, target + "/start", "").status, 200);
    EXPECT_EQ(IsolationName(cloud.execution.LastOrder().request.isolation), expected);
    EXPECT_EQ(Harness::Text(cloud.Send(acme.key, "GET", target), "isolation"), expected);
    cloud.Post(acme.key, target + "/release", "");
  }
  const std::string before = cloud.Fingerprint();
  const auto pair = order("pair", "spatial");
  EXPECT_EQ(pair.status, 400);
  EXPECT_EQ(Harness::Field(pair), "isolation");
  EXPECT_EQ(cloud.Fingerprint(), before);
  EXPECT_EQ(order("pair", "shim").status, 201);
}

TEST(Rest, RolesAreKeptApart) {
  Harness cloud;
  const auto acme = cloud.AddTenant("acme");
  for (const auto& [method, pattern] : RouteTable()) {
    if (pattern == "/healthz") continue;
    std::string path = pattern;
    if (const auto at = path.find("{id}"); at != std::string::npos) path.replace(at, 4, "x");
    for (const std::string key :
         {"", "nonsense", "tsk_0000000000000000000000000000000000000000000"}) {
      const auto refused = cloud.Send(key, method, path, "{}", "k");
      EXPECT_EQ(refused.status, 401) << method << " " << path;
      EXPECT_EQ(refused.headers.at("www-authenticate"), "Bearer");
    }
  }
  for (const std::string path : {"/v1/tenants", "/v1/ledger", "/v1/queue"}) {
    EXPECT_EQ(cloud.Send(acme.key, "GET", path).status, 403);
  }
  for (const std::string path :
       {"/v1/tenants", "/v1/skus", "/v1/tenants/x/deposits", "/v1/tenants/x/key"}) {
    EXPECT_EQ(cloud.Post(acme.key, path, "{}").status, 403) << path;
  }
  // A tenant neither gives himself quota nor raises what he may ask for.
  const std::string before = cloud.Fingerprint();
  EXPECT_EQ(cloud.Send(acme.key, "PUT", "/v1/queue", R"({"policy":{}})").status, 403);
  EXPECT_EQ(
      cloud.Send(acme.key, "PUT", "/v1/tenants/" + acme.id + "/limits", R"({"priority_max":9})")
          .status,
      403);
  EXPECT_EQ(cloud.Fingerprint(), before);
  EXPECT_EQ(cloud.Send(cloud.admin, "GET", "/v1/quota").status, 403);
  EXPECT_EQ(cloud.Send(cloud.admin, "GET", "/v1/instances").status, 403);
  EXPECT_EQ(cloud.Send(cloud.admin, "GET", "/v1/bill").status, 403);
  EXPECT_EQ(Harness::Text(cloud.Send(cloud.admin, "GET", "/v1/me"), "role"), "admin");
}

struct Bad {
  const char* body;
  const char* field;
};

void ExpectRefused(Harness& cloud, const std::string& key, const std::string& path,
                   const std::vector<Bad>& bodies, const std::string& method = "POST") {
  const std::string before = cloud.Fingerprint();
  const auto runs = cloud.execution.Truth().size();
  for (const auto& bad : bodies) {
    const auto refused = method == "POST" ? cloud.Post(key, path, bad.body)
                                          : cloud.Send(key, method, path, bad.body);
    EXPECT_EQ(refused.status, 400) << path << " " << bad.body << " -> " << refused.body;
    EXPECT_EQ(Harness::Field(refused), bad.field)
        << path << " " << bad.body << " -> " << refused.body;
    EXPECT_EQ(refused.content_type, "application/problem+json");
    EXPECT_NE(Harness::Text(refused, "detail"), "");
  }
  EXPECT_EQ(cloud.Fingerprint(), before) << "nothing half-applied";
  EXPECT_EQ(cloud.execution.Truth().size(), runs);
}

TEST(Rest, EveryFieldRefusesWhatItCannotMean) {
  Harness cloud(10);
  cloud.AddSku();
  const auto acme = cloud.AddTenant("acme", "100.00");
  ExpectRefused(cloud, cloud.admin, "/v1/tenants",
                {{"", "body"},
                 {"[]", "body"},
                 {"{", "body"},
                 {"{}", "name"},
                 {R"({"name":""})", "name"},
                 {R"({"name":7})", "name"},
                 {R"({"name":null})", "name"},
                 {R"({"name":" x"})", "name"},
                 {R"({"name":"a\nb"})", "name"},
                 {R"({"name":"a","quota":1})", "quota"},
                 {R"({"name":"a","name":"b"})", "name"}});
  ExpectRefused(cloud, cloud.admin, "/v1/tenants/" + acme.id + "/deposits",
                {{"{}", "amount"},
                 {R"({"amount":5})", "amount"},
                 {R"({"amount":5.5})", "amount"},
                 {R"({"amount":"-5.00"})", "amount"},
                 {R"({"amount":"0"})", "amount"},
                 {R"({"amount":"0.0000001"})", "amount"},
                 {R"({"amount":"1e3"})", "amount"},
                 {R"({"amount":"5 CNY"})", "amount"},
                 {R"({"amount":"99999999999999999999"})", "amount"},
                 {R"({"amount":"9223372036854"})", "amount"},
                 {R"({"amount":"1000000000.000001"})", "amount"},
                 {R"({"amount":""})", "amount"},
                 {R"({"amount":"5.00","currency":"USD"})", "currency"},
                 {R"({"amount":"5.00","memo":"x"})", "memo"}});
  const std::string sku = R"("name":"n","memory":"1GiB","compute":"10%","price_per_hour":"1.00")";
  ExpectRefused(
      cloud, cloud.admin, "/v1/skus",
      {{"{}", "name"},
       {R"({"name":"UPPER","memory":"1GiB","compute":"10%","price_per_hour":"1"})", "name"},
       {R"({"name":"../x","memory":"1GiB","compute":"10%","price_per_hour":"1"})", "name"},
       {R"({"name":"n","compute":"10%","price_per_hour":"1.00"})", "memory"},
       {R"({"name":"n","memory":"1GB","compute":"10%","price_per_hour":"1.00"})", "memory"},
       {R"({"name":"n","memory":-1,"compute":"10%","price_per_hour":"1.00"})", "memory"},
       {R"({"name":"n","memory":0,"compute":"10%","price_per_hour":"1.00"})", "memory"},
       {R"({"name":"n","memory":1.5,"compute":"10%","price_per_hour":"1.00"})", "memory"},
       {R"({"name":"n","memory":99999999999999999999,"compute":"10%","price_per_hour":"1.00"})",
        "memory"},
       {R"({"name":"n","memory":"2TiB","compute":"10%","price_per_hour":"1.00"})", "memory"},
       {R"({"name":"n","memory":"1GiB","price_per_hour":"1.00"})", "compute"},
       {R"({"name":"n","memory":"1GiB","compute":"0%","price_per_hour":"1.00"})", "compute"},
       {R"({"name":"n","memory":"1GiB","compute":"101%","price_per_hour":"1.00"})", "compute"},
       {R"({"name":"n","memory":"1GiB","compute":1001,"price_per_hour":"1.00"})", "compute"},
       {R"({"name":"n","memory":"1GiB","compute":0.5,"price_per_hour":"1.00"})", "compute"},
       {R"({"name":"n","memory":"1GiB","compute":"10%"})", "price_per_hour"},
       {R"({"name":"n","memory":"1GiB","compute":"10%","price_per_hour":1})", "price_per_hour"},
       {R"({"name":"n","memory":"1GiB","compute":"10%","price_per_hour":"-1"})", "price_per_hour"},
       {R"({"name":"n","memory":"1GiB","compute":"10%","price_per_hour":"2000.000001"})",
        "price_per_hour"},
       {R"({"name":"n","memory":"1GiB","compute":"10%","price_per_hour":"1","slices":0})",
        "slices"},
       {R"({"name":"n","memory":"1GiB","compute":"10%","price_per_hour":"1","slices":17})",
        "slices"},
       {R"({"name":"n","memory":"1GiB","compute":"10%","price_per_hour":"1","cpu_millis":-1})",
        "cpu_millis"},
       {R"({"name":"n","memory":"1GiB","compute":"10%","price_per_hour":"1","ram":"1GB"})", "ram"},
       {R"({"name":"n","memory":"1GiB","compute":"10%","price_per_hour":"1","ram":"65536TiB"})",
        "ram"},
       {R"({"name":"n","memory":"1GiB","compute":"10%","price_per_hour":"1","model":7})", "model"},
       {R"({"name":"n","memory":"1GiB","compute":"10%","price_per_hour":"1","version":3})",
        "version"}});
  ExpectRefused(
      cloud, acme.key, "/v1/instances",
      {{"null", "body"},
       {"{}", "sku"},
       {R"({"sku":"none","command":["x"]})", "sku"},
       {R"({"sku":"third"})", "command"},
       {R"({"sku":"third","command":[]})", "command"},
       {R"({"sku":"third","command":"ls"})", "command"},
       {R"({"sku":"third","command":[""]})", "command[0]"},
       {R"({"sku":"third","command":["x",7]})", "command[1]"},
       {R"({"sku":"third","command":["x","a\u0000b"]})", "command[1]"},
       {R"({"sku":"third","command":["x"],"name":""})", "name"},
       {R"({"sku":"third","command":["x"],"name":"-x"})", "name"},
       {R"({"sku":"third","command":["x"],"name":"X"})", "name"},
       {R"({"sku":"third","command":["x"],"name":"a/b"})", "name"},
       {R"({"sku":"third","command":["x"],"environment":["A=b"]})", "environment"},
       {R"({"sku":"third","command":["x"],"environment":{"A":7}})", "environment.A"},
       {R"({"sku":"third","command":["x"],"environment":{"1A":"b"}})", "environment.1A"},
       {R"({"sku":"third","command":["x"],"environment":{"A=B":"b"}})", "environment.A=B"},
       {R"({"sku":"third","command":["x"],"environment":{"LD_PRELOAD":"b"}})",
        "environment.LD_PRELOAD"},
       {R"({"sku":"third","command":["x"],"environment":{"LD_AUDIT":"b"}})",
        "environment.LD_AUDIT"},
       {R"({"sku":"third","command":["x"],"environment":{"TESSERA_X":"b"}})",
        "environment.TESSERA_X"},
       {R"({"sku":"third","command":["x"],"isolation":7})", "isolation"},
       {R"({"sku":"third","command":["x"],"isolation":"turns"})", "isolation"},
       {R"({"sku":"third","command":["x"],"isolation":"mig"})", "isolation"},
       {R"({"sku":"third","command":["x"],"isolation":"whole"})", "isolation"},
       {R"({"sku":"third","command":["x"],"memory":"80GiB"})", "memory"},
       {R"({"sku":"third","command":["x"],"priority":"high"})", "priority"},
       {R"({"sku":"third","command":["x"],"priority":1.5})", "priority"},
       {R"({"sku":"third","command":["x"],"priority":1000000001})", "priority"},
       {R"({"sku":"third","command":["x"],"priority":-1000000001})", "priority"},
       {R"({"sku":"third","command":["x"],"priority":0,"spot":true})", "priority"},
       {R"({"sku":"third","command":["x"],"spot":1})", "spot"},
       {R"({"sku":"third","command":["x"],"requeue":true})", "requeue"},
       {R"({"sku":"third","command":["x"],"spot":true,"requeue":"yes"})", "requeue"},
       {R"({"sku":"third","command":["x"],"tenant":"other"})", "tenant"},
       {R"({"sku":"third","command":["x"],"price_per_hour":"0"})", "price_per_hour"}});
  ExpectRefused(cloud, cloud.admin, "/v1/tenants/" + acme.id + "/limits",
                {{"{}", "priority_max"},
                 {R"({"priority_max":"1"})", "priority_max"},
                 {R"({"priority_max":1000000001})", "priority_max"},
                 {R"({"priority_max":1,"quota":1})", "quota"}},
                "PUT");
  ExpectRefused(
      cloud, cloud.admin, "/v1/queue",
      {{"", "body"},
       {"{}", "policy"},
       {R"({"policy":[]})", "policy"},
       {R"({"policy":{},"version":-1})", "version"},
       {R"({"policy":{},"quotas":[]})", "quotas"},
       {R"({"policy":{"fair_share":1}})", "policy.fair_share"},
       {R"({"policy":{"reclaim":"all"}})", "policy.reclaim"},
       {R"({"policy":{"preempt":true}})", "policy.preempt"},
       {R"({"policy":{"quotas":[{}]}})", "policy.quotas[0].name"},
       {R"({"policy":{"quotas":[{"name":"t-x"}]}})", "policy.quotas[0].name"},
       {R"({"policy":{"quotas":[{"name":"a"},{"name":"A"}]}})", "policy.quotas[1].name"},
       {R"({"policy":{"quotas":[{"name":"a"},{"name":"a"}]}})", "policy.quotas[1].name"},
       {R"({"policy":{"quotas":[{"name":"a","parent":"b"}]}})", "policy.quotas[0].parent"},
       {R"({"policy":{"quotas":[{"name":"a","parent":"a"}]}})", "policy.quotas[0].parent"},
       {R"({"policy":{"quotas":[{"name":"a","weight":0}]}})", "policy.quotas[0].weight"},
       {R"({"policy":{"quotas":[{"name":"a","max":0}]}})", "policy.quotas[0].max"},
       {R"({"policy":{"quotas":[{"name":"a","nominal":7}]}})", "policy.quotas[0].nominal"},
       {R"({"policy":{"quotas":[{"name":"a","nominal":{"cards":7}}]}})",
        "policy.quotas[0].nominal.cards"},
       {R"({"policy":{"quotas":[{"name":"a","nominal":{"card_millis":-1}}]}})",
        "policy.quotas[0].nominal.card_millis"},
       {R"({"policy":{"quotas":[{"name":"a","nominal":{"memory_bytes":"4GB"}}]}})",
        "policy.quotas[0].nominal.memory_bytes"},
       {R"({"policy":{"quotas":[{"name":"a","lending_limit":{"memory_bytes":1}}]}})",
        "policy.quotas[0].parent"}},
      "PUT");
  const std::string id = Harness::Text(cloud.Post(acme.key, "/v1/instances", kOrder), "id");
  ExpectRefused(cloud, acme.key, "/v1/instances/" + id + "/exec",
                {{"{}", "command"},
                 {R"({"command":[]})", "command"},
                 {R"({"command":[""]})", "command[0]"},
                 {R"({"command":["ls"],"stdin":7})", "stdin"},
                 {R"({"command":["ls"],"user":"root"})", "user"}});
  ExpectRefused(cloud, acme.key, "/v1/instances/" + id + "/stop", {{R"({"force":true})", "force"}});
  ExpectRefused(cloud, acme.key, "/v1/instances/" + id + "/start", {{R"({"sku":"x"})", "sku"}});
  const std::string before = cloud.Fingerprint();
  const std::pair<const char*, const char*> targets[] = {
      {"/v1/instances?limit=0", "limit"},       {"/v1/instances?limit=201", "limit"},
      {"/v1/instances?limit=x", "limit"},       {"/v1/instances?limit=-1", "limit"},
      {"/v1/instances?state=paused", "state"},  {"/v1/instances?cursor=7", "cursor"},
      {"/v1/instances?cursor=c0", "cursor"},    {"/v1/instances?cursor=c-1", "cursor"},
      {"/v1/instances?tenant=other", "tenant"}, {"/v1/me?id=other", "id"},
      {"/v1/bill?tenant=other", "tenant"},      {"/v1/instances?limit=1&limit=2", "limit"},
  };
  for (const auto& [target, field] : targets) {
    const auto refused = cloud.Send(acme.key, "GET", target);
    EXPECT_EQ(refused.status, 400) << target;
    EXPECT_EQ(Harness::Field(refused), field) << target;
  }
  const auto logs = cloud.Send(acme.key, "GET", "/v1/instances/" + id + "/logs?offset=-1");
  EXPECT_EQ(Harness::Field(logs), "offset");
  EXPECT_EQ(cloud.Fingerprint(), before);
  EXPECT_EQ(CheckBooks(*cloud.database), "");
}

TEST(Rest, WhatCannotBeDoneNowIsAConflict) {
  Harness cloud;
  cloud.AddSku();
  const auto acme = cloud.AddTenant("acme", "100.00");
  const std::string id = Harness::Text(cloud.Post(acme.key, "/v1/instances", kOrder), "id");
  EXPECT_EQ(cloud.Post(acme.key, "/v1/instances", kOrder).status, 409) << "the name is taken";
  EXPECT_EQ(cloud.Post(acme.key, "/v1/instances/" + id + "/start").status, 409);
  EXPECT_EQ(cloud.Post(cloud.admin, "/v1/tenants", R"({"name":"acme"})").status, 409);
  cloud.Send(acme.key, "POST", "/v1/instances/" + id + "/stop");
  EXPECT_EQ(
      cloud.Send(acme.key, "POST", "/v1/instances/" + id + "/exec", R"({"command":["ls"]})").status,
      409);
  EXPECT_EQ(cloud.Send(acme.key, "POST", "/v1/instances/" + id + "/stop").status, 200)
      << "stopped is stopped";
  cloud.Send(acme.key, "DELETE", "/v1/instances/" + id);
  EXPECT_EQ(cloud.Send(acme.key, "DELETE", "/v1/instances/" + id).status, 200)
      << "released is released";
  EXPECT_EQ(cloud.Send(acme.key, "GET", "/v1/instances/" + id + "/logs").status, 409);
  EXPECT_EQ(cloud.Post(acme.key, "/v1/instances/" + id + "/start").status, 409);
  EXPECT_EQ(cloud.Send(acme.key, "PUT", "/v1/instances/" + id).status, 405);
  EXPECT_EQ(cloud.Send(acme.key, "GET", "/v2/me").status, 404);
  cloud.execution.SetRefusal(
      Error(Code::kResourceExhausted, "the queue holds at most kQueueMax (1000)"));
  EXPECT_EQ(cloud.Post(acme.key, "/v1/instances", kOrder).status, 429);
  cloud.execution.SetRefusal(
      Error(Code::kFailedPrecondition, "memory: asked 26 GiB, the largest card has 16 GiB"));
  const auto never = cloud.Post(acme.key, "/v1/instances", kOrder);
  EXPECT_EQ(never.status, 409);
  EXPECT_EQ(Harness::Text(never, "code"), "failed_precondition");
  EXPECT_EQ(Harness::Text(cloud.Send(acme.key, "GET", "/v1/me"), "held"), "0.00");
  EXPECT_EQ(cloud.Send(acme.key, "GET", "/v1/instances").body, R"({"instances":[],"next":null})");
}

TEST(Rest, OneKeyFromManyThreadsRentsOnce) {
  Harness cloud(100);
  cloud.AddSku();
  const auto acme = cloud.AddTenant("acme", "1000.00");
  constexpr int kThreads = 8;
  constexpr int kRounds = 10;
  std::atomic<int> made = 0, running = 0, wrong = 0;
  {
    const Reconciler reconciler(*cloud.service, 1);
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < kRounds; ++i) {
          const auto answer =
              cloud.Send(acme.key, "POST", "/v1/instances", R"({"sku":"third","command":["x"]})",
                         "round-" + std::to_string(i));
          if (answer.status == 201) {
            ++made;
          } else if (answer.status == 409) {
            ++running;
          } else {
            ++wrong;
          }
        }
      });
    }
    for (auto& thread : threads) thread.join();
  }
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(made + running, kThreads * kRounds);
  const auto page = *cloud.service->ListInstances(acme.id, std::nullopt, 200, 0);
  EXPECT_EQ(page.instances.size(), static_cast<std::size_t>(kRounds));
  EXPECT_EQ(cloud.execution.Truth().size(), static_cast<std::size_t>(kRounds));
  EXPECT_EQ(CheckBooks(*cloud.database), "");
}

TEST(Rest, OverARealSocketAPoorPurseIsStillNamed) {
  Harness cloud;
  cloud.AddSku();
  const auto poor = cloud.AddTenant("poor", "3.00");
  auto server = http::Server::Start({.workers = 2}, cloud.router);
  ASSERT_TRUE(server) << server.error().ToString();
  http::Client client({.base_url = "http://127.0.0.1:" + std::to_string((*server)->port())});
  const std::map<std::string, std::string> headers = {{"authorization", "Bearer " + poor.key},
                                                      {"idempotency-key", "one"}};
  const auto refused = client.CallOk("POST", "/v1/instances", kOrder, headers);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kFailedPrecondition);
  EXPECT_EQ(refused.error().field(), kPurseField);
  EXPECT_NE(refused.error().message().find("1.00 short"), std::string::npos);
  const auto me = client.CallOk("GET", "/v1/me", "", headers);
  ASSERT_TRUE(me);
  EXPECT_NE(me->find("\"available\":\"3.00\""), std::string::npos) << *me;
}

TEST(SeedSkus, ThirdsHalvesAndWholesOfEachModel) {
  EXPECT_EQ(ShortModel("NVIDIA A100-SXM4-80GB"), "a100-80");
  EXPECT_EQ(ShortModel("Tesla T4"), "t4");
  EXPECT_EQ(ShortModel("NVIDIA H200"), "h200");
  EXPECT_EQ(ShortModel("NVIDIA H100 80GB HBM3"), "h100-80");
  EXPECT_EQ(ShortModel("NVIDIA GeForce RTX 4090"), "rtx-4090");
  EXPECT_EQ(ShortModel("!!!"), "card");
  const std::vector<CardView> cards = {
      {.model = "NVIDIA A100-SXM4-80GB", .memory_bytes = 80 * kGiB},
      {.model = "NVIDIA A100-SXM4-80GB", .memory_bytes = 80 * kGiB - kMiB},
      {.model = "NVIDIA A100 80GB PCIe", .memory_bytes = 80 * kGiB},
      {.model = "Tesla T4", .memory_bytes = 15 * kGiB}};
  const auto skus = SeedSkus(cards, {.third = Money{1}, .half = Money{2}, .full = Money{3}});
  std::map<std::string, Sku> by_name;
  for (const auto& sku : skus) by_name[sku.name] = sku;
  ASSERT_EQ(by_name.size(), 9u);
  for (const std::string name : {"a100-80", "a100-80-2", "t4"}) {
    const Sku& third = by_name[name + ".third"];
    EXPECT_EQ(third.memory_bytes % (2 * kMiB), 0u);
    EXPECT_EQ(third.compute.value, 333u);
    EXPECT_EQ(third.price_per_hour, Money{1});
    EXPECT_EQ(by_name[name + ".half"].compute.value, 500u);
    EXPECT_EQ(by_name[name + ".full"].compute.value, 1000u);
  }
  EXPECT_EQ(by_name["t4.third"].memory_bytes, 5 * kGiB);
  EXPECT_EQ(by_name["a100-80-2.full"].memory_bytes, 80 * kGiB - 2 * kMiB)
      << "three shares fit the smallest card";
  Harness cloud;
  EXPECT_EQ(*SeedCatalogue(*cloud.service, {}), 3u);
  EXPECT_EQ(*SeedCatalogue(*cloud.service, {}), 0u) << "a catalogue that has SKUs is left alone";
  EXPECT_NE(cloud.Send(cloud.admin, "GET", "/v1/skus").body.find("a100-80.third"),
            std::string::npos);
}

TEST(Rest, GangsAndReservationsRefuseWhatTheyCannotMean) {
  Harness cloud(10);
  cloud.AddSku();
  const auto acme = cloud.AddTenant("acme", "100.00");
  ExpectRefused(
      cloud, acme.key, "/v1/gangs",
      {{R"({"sku":"third","command":["x"]})", "count"},
       {R"({"sku":"third","command":["x"],"count":1})", "count"},
       {R"({"sku":"third","command":["x"],"count":65})", "count"},
       {R"({"sku":"third","command":["x"],"count":"2"})", "count"},
       {R"({"sku":"third","command":["x"],"count":2,"per_node_min":3})", "per_node_min"},
       {R"({"sku":"third","command":["x"],"count":2,"same_rack":"no"})", "same_rack"},
       {R"({"sku":"third","command":["x"],"count":2,"reservation":""})", "reservation"},
       {R"({"sku":"third","command":["x"],"count":2,"reservation":"r-1","per_node_min":2})",
        "per_node_min"},
       {R"({"sku":"third","command":["x"],"count":2,"reservation":"r-1","same_rack":"require"})",
        "same_rack"},
       {R"({"sku":"none","command":["x"],"count":2})", "sku"},
       {R"({"sku":"third","command":[],"count":2})", "command"},
       {R"({"sku":"third","command":["x"],"count":2,"name":"UPPER"})", "name"},
       {R"({"sku":"third","command":["x"],"count":2,"gang":"g"})", "gang"}});
  const std::string mine = R"({"tenant":")" + acme.id + R"(","sku":"third")";
  const std::vector<std::pair<std::string, const char*>> bodies = {
      {"{}", "tenant"},
      {R"({"tenant":"t-none","sku":"third","units":1})", "tenant"},
      {R"({"tenant":")" + acme.id + R"(","units":1})", "sku"},
      {R"({"tenant":")" + acme.id + R"(","sku":"none","units":1})", "sku"},
      {mine + "}", "units"},
      {mine + R"(,"units":0})", "units"},
      {mine + R"(,"units":1025})", "units"},
      {mine + R"(,"units":1,"open":1})", "open"},
      {mine + R"(,"units":1,"lend":"yes"})", "lend"},
      {mine + R"(,"units":1,"start":"tomorrow"})", "start"},
      {mine + R"(,"units":1,"end":"2026-02-30T00:00:00Z"})", "end"},
      {mine + R"(,"units":1,"end":"1970-01-01T00:00:00Z"})", "end"},
      {mine + R"(,"units":1,"name":"x"})", "name"}};
  for (const auto& [body, field] : bodies) {
    ExpectRefused(cloud, cloud.admin, "/v1/reservations", {{body.c_str(), field}});
  }
  EXPECT_EQ(cloud.Post(acme.key, "/v1/reservations", mine + R"(,"units":1})").status, 403);
}

TEST(Rest, AGangAndAReservationAreMadeOnce) {
  Harness cloud(10);
  cloud.AddSku();
  const auto acme = cloud.AddTenant("acme", "100.00");
  const auto evil = cloud.AddTenant("evil", "100.00");
  const std::string order = R"({"name":"t","sku":"third","command":["x"],"count":3})";
  const auto made = cloud.Send(acme.key, "POST", "/v1/gangs", order, "once");
  ASSERT_EQ(made.status, 201) << made.body;
  const auto again = cloud.Send(acme.key, "POST", "/v1/gangs", order, "once");
  EXPECT_EQ(again.status, 201);
  EXPECT_EQ(again.body, made.body);
  EXPECT_EQ(cloud.execution.Running(), 3U);
  const std::string gang = Harness::Text(made, "gang");
  EXPECT_TRUE(gang.starts_with("g-"));
  for (const char* part : {R"("name":"t-1")", R"("name":"t-3")", R"("state":"running")"}) {
    EXPECT_NE(made.body.find(part), std::string::npos) << part;
  }
  // The purse is asked for all of them.
  const auto poor = cloud.AddTenant("poor", "8.00");
  EXPECT_EQ(cloud.Post(poor.key, "/v1/gangs", order).status, 402);

  const std::string body = R"({"tenant":")" + acme.id +
                           R"(","sku":"third","units":2,"lend":true,"end":"2199-01-01T00:00:00Z"})";
  const auto kept = cloud.Send(cloud.admin, "POST", "/v1/reservations", body, "r");
  ASSERT_EQ(kept.status, 201) << kept.body;
  EXPECT_EQ(cloud.Send(cloud.admin, "POST", "/v1/reservations", body, "r").body, kept.body);
  EXPECT_EQ(cloud.execution.Reserved(), 1U);
  const std::string id = Harness::Text(kept, "id");
  const std::string golden =
      R"(","sku":"third","sku_version":1,"units":2,"open":false,"lend":true,"state":"active",)"
      R"("used":0,"lent":0,"free":2,"missing":0,"missing_for":"","created_at":")";
  EXPECT_NE(kept.body.find(R"({"id":")" + id + R"(","tenant":")" + acme.id + golden),
            std::string::npos)
      << kept.body;
  EXPECT_NE(kept.body.find(R"("end":"2199-01-01T00:00:00.000000Z"})"), std::string::npos);
  const auto full = cloud.Post(cloud.admin, "/v1/reservations",
                               R"({"tenant":")" + acme.id + R"(","sku":"third","units":11})");
  EXPECT_EQ(full.status, 429) << full.body;
  EXPECT_EQ(Harness::Field(full), "units");
  EXPECT_NE(cloud.Send(acme.key, "GET", "/v1/reservations").body.find(id), std::string::npos);
  EXPECT_EQ(cloud.Send(evil.key, "GET", "/v1/reservations").body, R"({"reservations":[]})");
  EXPECT_EQ(cloud.Send(acme.key, "DELETE", "/v1/reservations/" + id).status, 403);
  EXPECT_EQ(cloud.Send(cloud.admin, "DELETE", "/v1/reservations/" + id).status, 200);
  EXPECT_EQ(cloud.Send(cloud.admin, "DELETE", "/v1/reservations/" + id).status, 404);
}

}  // namespace
}  // namespace tessera::cloud
