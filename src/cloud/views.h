// How the cloud's values look as JSON. Money is a decimal string beside a currency, memory in whole
// bytes beside a readable form, time in RFC 3339 UTC with microseconds.
#pragma once

#include <string>
#include <vector>

#include "cloud/books.h"
#include "cloud/execution.h"
#include "cloud/model.h"
#include "cloud/queue_policy.h"
#include "cloud/service.h"
#include "http/json.h"

namespace tessera::cloud {

std::string FormatTime(std::int64_t wall_micros);  // "2026-01-31T08:05:09.000001Z"
// "2026-01-31T08:05:09Z", with or without a fraction of up to six digits.
Result<std::int64_t> ParseTime(const std::string& text, std::string_view field);

void Write(http::JsonWriter& json, const Tenant& tenant, const Purse& purse);
void Write(http::JsonWriter& json, const Sku& sku);
void Write(http::JsonWriter& json, const Instance& instance);
// One gang: its id and its members.
void Write(http::JsonWriter& json, const std::vector<Instance>& gang);
void Write(http::JsonWriter& json, const Reservation& reservation);
void Write(http::JsonWriter& json, const InstanceEvent& event);
void Write(http::JsonWriter& json, const CardView& card);
void Write(http::JsonWriter& json, const Explained& explained);
void Write(http::JsonWriter& json, const LedgerState& ledger);
void Write(http::JsonWriter& json, const placement::QueuePolicy& policy);
void Write(http::JsonWriter& json, const QueueRules& rules);
void Write(http::JsonWriter& json, const OwnQuota& own);
void WriteBill(http::JsonWriter& json, const Tenant& tenant, const Purse& purse,
               const commerce::Bill& bill);

template <typename... Parts>
std::string ToJson(const Parts&... parts) {
  http::JsonWriter json;
  Write(json, parts...);
  return json.Take();
}

// What the instance's owner may do now: "stop", "start", "release", "exec", "logs".
std::vector<std::string> LegalActions(const Instance& instance);

}  // namespace tessera::cloud
