#include "apps/up_config.h"

#include "cloud/queue_policy.h"
#include "node/node.h"

namespace tessera::apps {
namespace {

using config::ConfigMap;
using placement::Quota;
using placement::SliceAmount;

Result<SliceAmount> ReadAmount(ConfigMap& quota, std::string_view key, const SliceAmount& absent) {
  if (!quota.Has(key)) return absent;
  TRY(ConfigMap map, quota.OptionalMap(key));
  SliceAmount amount{placement::kUnlimited, placement::kUnlimited};
  if (map.Has("card_millis")) {
    TRY(const auto millis, map.OptionalInt("card_millis", 0, placement::kQuotaCardMillisMax, 0));
    amount.card_millis = static_cast<std::uint64_t>(millis);
  }
  TRY(amount.memory_bytes, map.OptionalBytes("memory_bytes", amount.memory_bytes));
  if (amount.memory_bytes != placement::kUnlimited &&
      amount.memory_bytes > placement::kQuotaMemoryBytesMax) {
    return map.Wrong("memory_bytes",
                     "expected at most " + FormatBytes(placement::kQuotaMemoryBytesMax));
  }
  TRY_STATUS(map.Finish());
  return amount;
}

Result<Quota> ReadQuota(ConfigMap& map) {
  Quota quota;
  TRY(quota.name, map.String("name"));
  TRY(quota.parent, map.OptionalString("parent", ""));
  TRY(quota.nominal, ReadAmount(map, "nominal", quota.nominal));
  TRY(quota.borrowing_limit, ReadAmount(map, "borrowing_limit", quota.borrowing_limit));
  TRY(quota.lending_limit, ReadAmount(map, "lending_limit", quota.lending_limit));
  TRY(const auto weight, map.OptionalInt("weight", 1, placement::kQuotaWeightMax, 1));
  quota.weight = static_cast<std::uint32_t>(weight);
  TRY_STATUS(map.Finish());
  return quota;
}

Status ReadQueue(ConfigMap map, UpConfig* config) {
  placement::QueuePolicy policy;
  TRY(policy.fair_share, map.OptionalBool("fair_share", policy.fair_share));
  TRY(policy.preempt, map.OptionalBool("preemption", policy.preempt));
  TRY(const std::string reclaim,
      map.OptionalString("reclaim", std::string(cloud::ReclaimName(policy.reclaim))));
  const auto parsed = cloud::ParseReclaim(reclaim, "reclaim");
  if (!parsed) return map.Wrong("reclaim", parsed.error().message());
  policy.reclaim = *parsed;
  TRY(config->quota_maps, map.OptionalMaps("quotas"));
  for (ConfigMap& item : config->quota_maps) {
    TRY(Quota quota, ReadQuota(item));
    policy.quotas.push_back(std::move(quota));
  }
  TRY_STATUS(map.Finish());
  config->queue = std::move(policy);
  return {};
}

}  // namespace

Result<UpConfig> ParseUpConfig(std::string_view text, const std::string& name) {
  UpConfig config;
  TRY(ConfigMap file, ConfigMap::Parse(text, name));
  TRY(ConfigMap prices, file.OptionalMap("seed_prices_per_hour"));
  TRY(config.prices.third, prices.OptionalMoney("third", config.prices.third));
  TRY(config.prices.half, prices.OptionalMoney("half", config.prices.half));
  TRY(config.prices.full, prices.OptionalMoney("full", config.prices.full));
  TRY_STATUS(prices.Finish());
  TRY(const auto discount,
      file.OptionalInt("spot_discount_permille", 0, 1000, config.spot_discount_permille));
  config.spot_discount_permille = static_cast<std::uint32_t>(discount);
  TRY(config.queue_max, file.OptionalInt("queue_max", 1, 1'000'000, config.queue_max));
  TRY(config.workers, file.OptionalInt("http_workers", 1, 256, config.workers));
  TRY(config.placement_policy, file.OptionalString("placement_policy", config.placement_policy));
  if (const auto scorer = placement::MakeScorer(config.placement_policy); !scorer) {
    return file.Wrong("placement_policy", scorer.error().message());
  }
  TRY(config.rack, file.OptionalString("rack", ""));
  if (const Status rack = node::CheckRack(config.rack, "rack"); !rack) {
    return file.Wrong("rack", rack.error().message());
  }
  if (file.Has("queue")) {
    TRY(ConfigMap queue, file.OptionalMap("queue"));
    TRY_STATUS(ReadQueue(std::move(queue), &config));
  }
  TRY_STATUS(file.Finish());
  return config;
}

Error Locate(const UpConfig& config, const Error& error) {
  for (std::size_t i = 0; i < config.quota_maps.size(); ++i) {
    const std::string prefix = "quotas[" + std::to_string(i) + "].";
    if (!error.field().starts_with(prefix)) continue;
    return config.quota_maps[i].Wrong(error.field().substr(prefix.size()), error.message());
  }
  return error;
}

}  // namespace tessera::apps
