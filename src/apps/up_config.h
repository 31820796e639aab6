// The file of `tessera up --config` (docs/up.md) as typed settings. Strict: an unknown key, a wrong
// type or a value out of range is an error with the field, the file and the line.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cloud/seed_skus.h"
#include "config/config.h"
#include "placement/queue.h"
#include "placement/scores.h"

namespace tessera::apps {

struct UpConfig {
  cloud::SeedPrices prices;
  std::uint32_t spot_discount_permille = 500;
  std::int64_t queue_max = 1000;
  std::int64_t workers = 8;
  std::string placement_policy = "tessera";
  std::string rack;
  // The section `queue`; not set: the file has none, and the rules are those of the store.
  std::optional<placement::QueuePolicy> queue;
  std::vector<config::ConfigMap> quota_maps;  // of queue->quotas, for Locate
};

Result<UpConfig> ParseUpConfig(std::string_view text, const std::string& name);
// An error about "quotas[2].parent" of config.queue, as an error with its file and line.
Error Locate(const UpConfig& config, const Error& error);

}  // namespace tessera::apps
