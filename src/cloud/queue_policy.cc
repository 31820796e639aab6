#include "cloud/queue_policy.h"

#include <algorithm>

#include "cloud/model.h"

namespace tessera::cloud {
namespace {

using placement::Quota;
using placement::Reclaim;
using placement::SliceAmount;

constexpr std::pair<Reclaim, std::string_view> kReclaims[] = {
    {Reclaim::kNever, "never"},
    {Reclaim::kLowerPriority, "lower_priority"},
    {Reclaim::kAny, "any"},
};

Result<SliceAmount> ReadAmount(http::JsonObject& quota, std::string_view key,
                               const SliceAmount& absent) {
  if (!quota.Has(key)) return absent;
  TRY(http::JsonObject object, quota.Object(key));
  SliceAmount amount{placement::kUnlimited, placement::kUnlimited};
  if (object.Has("card_millis")) {
    TRY(const auto millis, object.Int("card_millis", 0, placement::kQuotaCardMillisMax));
    amount.card_millis = static_cast<std::uint64_t>(millis);
  }
  if (object.Has("memory_bytes")) {
    TRY(amount.memory_bytes, object.Bytes("memory_bytes"));
    if (amount.memory_bytes > placement::kQuotaMemoryBytesMax) {
      return object.Wrong("memory_bytes",
                          "expected at most " + FormatBytes(placement::kQuotaMemoryBytesMax));
    }
  }
  TRY_STATUS(object.Finish());
  return amount;
}

// As of a SKU: safe in a path, a file name and a shell.
bool IsGroupName(const std::string& name) {
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  return !name.empty() && name.size() <= 63 && letter(name.front()) &&
         !name.starts_with(kTenantIdPrefix) && std::all_of(name.begin(), name.end(), [&](char c) {
           return letter(c) || c == '.' || c == '-' || c == '_';
         });
}

}  // namespace

std::string_view ReclaimName(Reclaim reclaim) {
  for (const auto& [known, name] : kReclaims) {
    if (known == reclaim) return name;
  }
  return "unknown";
}

Result<Reclaim> ParseReclaim(std::string_view text, std::string_view field) {
  for (const auto& [reclaim, name] : kReclaims) {
    if (name == text) return reclaim;
  }
  return Error::Field(std::string(field), "expected never, lower_priority or any");
}

Result<placement::QueuePolicy> ReadQueuePolicy(http::JsonObject object) {
  placement::QueuePolicy policy;
  TRY(policy.fair_share, object.OptionalBool("fair_share", policy.fair_share));
  TRY(policy.preempt, object.OptionalBool("preemption", policy.preempt));
  TRY(const std::string reclaim,
      object.OptionalString("reclaim", std::string(ReclaimName(policy.reclaim))));
  TRY(policy.reclaim, ParseReclaim(reclaim, object.FieldPath("reclaim")));
  TRY(const auto quotas, object.OptionalArray("quotas", kQuotaRulesMax));
  for (const http::JsonValue& value : quotas) {
    TRY(http::JsonObject item, value.Object());
    Quota quota;
    TRY(quota.name, item.String("name"));
    TRY(quota.parent, item.OptionalString("parent"));
    TRY(quota.nominal, ReadAmount(item, "nominal", quota.nominal));
    TRY(quota.borrowing_limit, ReadAmount(item, "borrowing_limit", quota.borrowing_limit));
    TRY(quota.lending_limit, ReadAmount(item, "lending_limit", quota.lending_limit));
    TRY(const auto weight, item.OptionalInt("weight", 1, placement::kQuotaWeightMax, 1));
    quota.weight = static_cast<std::uint32_t>(weight);
    TRY_STATUS(item.Finish());
    policy.quotas.push_back(std::move(quota));
  }
  TRY_STATUS(object.Finish());
  return policy;
}

Status CheckQueuePolicy(const placement::QueuePolicy& policy,
                        const std::set<std::string>& tenants) {
  for (std::size_t i = 0; i < policy.quotas.size(); ++i) {
    const Quota& quota = policy.quotas[i];
    const std::string field = "quotas[" + std::to_string(i) + "].";
    if (!IsGroupName(quota.name) && tenants.count(quota.name) == 0) {
      return Error::Field(field + "name",
                          "expected the id of a tenant, or for a group a name of 1 to 63 of a-z, "
                          "0-9, '.', '-' and '_' that does not begin with t-; got \"" +
                              quota.name + "\"");
    }
    if (!quota.parent.empty() && !IsGroupName(quota.parent)) {
      return Error::Field(field + "parent",
                          "expected the name of a group, got \"" + quota.parent + "\"");
    }
  }
  TRY(const auto tree, placement::QuotaTree::Make(policy.quotas));
  (void)tree;
  return {};
}

}  // namespace tessera::cloud
