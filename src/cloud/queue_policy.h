// The rules of the queue as text: what the REST API takes and the store keeps, and the checks that
// go beyond placement/'s own. Pure.
#pragma once

#include <set>
#include <string>
#include <string_view>

#include "base/result.h"
#include "http/json.h"
#include "placement/queue.h"

namespace tessera::cloud {

std::string_view ReclaimName(placement::Reclaim reclaim);  // "lower_priority"
Result<placement::Reclaim> ParseReclaim(std::string_view text, std::string_view field);

// A tenant's id begins so, a group's name never does.
inline constexpr std::string_view kTenantIdPrefix = "t-";

// {"fair_share": false, "preemption": true, "reclaim": "lower_priority", "quotas": [{"name": ...,
// "parent": ..., "nominal": {"card_millis": 4000, "memory_bytes": "320GiB"}, "borrowing_limit":
// ..., "lending_limit": ..., "weight": 1}]}. Everything but a quota's name may be absent; an amount
// that is absent or null is no limit, a nominal that is absent is nothing.
Result<placement::QueuePolicy> ReadQueuePolicy(http::JsonObject object);

// Names, parents and arithmetic; `tenants` are the ids there are. Names the field.
Status CheckQueuePolicy(const placement::QueuePolicy& policy, const std::set<std::string>& tenants);

}  // namespace tessera::cloud
