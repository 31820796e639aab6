// For tests: the whole REST surface over a database in a temporary folder and a fake scheduling
// plane, called without a socket.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "cloud/fake_execution.h"
#include "cloud/rest.h"
#include "cloud/service.h"
#include "cloud/witness.h"
#include "http/json.h"

namespace tessera::cloud {

class RestHarness {
 public:
  explicit RestHarness(std::size_t places = 1) : execution(clock, places) {
    database = *store::Database::OpenSqlite(":memory:");
    service = *Service::Open(*database, execution, clock);
    admin = service->TakeNewAdminKey();
    AddRoutes(router, *service);
  }

  http::Response Send(const std::string& key, const std::string& method, const std::string& target,
                      const std::string& body = "", const std::string& once = "") {
    http::Request request;
    request.method = method;
    if (const Status split = http::SplitTarget(target, &request); !split)
      return http::Problem(split.error());
    if (!key.empty()) request.headers["authorization"] = "Bearer " + key;
    if (!once.empty()) request.headers["idempotency-key"] = once;
    request.body = body;
    return router.Dispatch(request);
  }
  // A request with a key of its own, as the command line sends it.
  http::Response Post(const std::string& key, const std::string& target,
                      const std::string& body = "") {
    return Send(key, "POST", target, body, "k" + std::to_string(++keys_));
  }
  static std::string Text(const http::Response& response, const std::string& field) {
    auto body = http::JsonObject::Parse(response.body);
    if (!body) return "unparsable: " + response.body;
    auto text = body->OptionalString(field, "", 1 << 20);
    return text ? *text : "not text";
  }
  // The first field a problem names; "" when it names none.
  static std::string Field(const http::Response& response) {
    auto body = http::JsonObject::Parse(response.body);
    if (!body) return "unparsable";
    auto errors = body->OptionalArray("errors", 10);
    if (!errors || errors->empty()) return "";
    return *(*errors)[0].Object()->String("field", 4096);
  }
  struct TenantKey {
    std::string id;
    std::string key;
  };
  TenantKey AddTenant(const std::string& name, const std::string& deposit = "") {
    const auto made = Post(admin, "/v1/tenants", "{\"name\":\"" + name + "\"}");
    const TenantKey tenant{Text(made, "id"), Text(made, "api_key")};
    if (!deposit.empty())
      Post(admin, "/v1/tenants/" + tenant.id + "/deposits", "{\"amount\":\"" + deposit + "\"}");
    return tenant;
  }
  void AddSku(const std::string& name = "third", const std::string& price = "4.00") {
    Post(admin, "/v1/skus",
         "{\"name\":\"" + name +
             "\",\"memory\":\"26GiB\",\"compute\":\"33.3%\",\"price_per_hour\":\"" + price + "\"}");
  }
  // Every row of every table, to tell whether anything changed at all.
  std::string Fingerprint() {
    std::string all;
    const auto tables =
        database->Query("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name", {});
    for (const auto& table : *tables) {
      const auto rows = database->Query("SELECT * FROM " + table.Text(0) + " ORDER BY rowid", {});
      all += table.Text(0) + ":" + std::to_string(rows->size()) + "\n";
      for (const auto& row : *rows) {
        for (const auto& value : row.values) {
          if (const auto* number = std::get_if<std::int64_t>(&value))
            all += std::to_string(*number);
          if (const auto* text = std::get_if<std::string>(&value)) all += *text;
          all += "|";
        }
      }
    }
    return all;
  }

  os::FakeClock clock;
  FakeExecution execution;
  std::unique_ptr<store::Database> database;
  std::unique_ptr<Service> service;
  std::string admin;
  http::Router router;

 private:
  int keys_ = 0;
};

}  // namespace tessera::cloud
