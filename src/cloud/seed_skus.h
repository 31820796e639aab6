// The catalogue a new machine starts with: every kind of card it has, whole and in halves and
// thirds.
#pragma once

#include <string>
#include <vector>

#include "cloud/execution.h"
#include "cloud/model.h"
#include "cloud/service.h"

namespace tessera::cloud {

struct SeedPrices {
  Money third{2'000'000};
  Money half{3'000'000};
  Money full{6'000'000};
};

// "NVIDIA A100-SXM4-80GB" -> "a100-80", "Tesla T4" -> "t4", "NVIDIA H200" -> "h200".
std::string ShortModel(const std::string& model);

// For each distinct model NAME.third, NAME.half and NAME.full. Memory is the share of the smallest
// card of that model rounded down to whole 2 MiB granules, so that three thirds always fit one
// card. Two models with one short name get "-2", "-3". Sorted by model.
std::vector<Sku> SeedSkus(const std::vector<CardView>& cards, const SeedPrices& prices);

// Fills an empty catalogue; one that has SKUs is left alone. The number of SKUs added.
Result<std::size_t> SeedCatalogue(Service& service, const SeedPrices& prices);

}  // namespace tessera::cloud
