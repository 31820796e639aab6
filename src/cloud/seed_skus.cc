#include "cloud/seed_skus.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>

namespace tessera::cloud {
namespace {

constexpr std::uint64_t kGranuleBytes = 2 * kMiB;

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// Words of a model's name that do not tell cards apart in a price list.
bool IsNoise(const std::string& word) {
  static constexpr std::array<std::string_view, 10> kWords = {
      "nvidia",   "tesla", "geforce", "quadro",    "amd",
      "instinct", "pcie",  "nvl",     "simulated", "simgpu"};
  if (std::find(kWords.begin(), kWords.end(), word) != kWords.end()) return true;
  for (const std::string_view stem : {"sxm", "hbm"}) {
    if (word.starts_with(stem) &&
        std::all_of(word.begin() + static_cast<std::ptrdiff_t>(stem.size()), word.end(),
                    [](char c) { return IsDigit(c) || c == 'e'; })) {
      return true;
    }
  }
  return false;
}

}  // namespace

std::string ShortModel(const std::string& model) {
  std::vector<std::string> words(1);
  for (const char c : model) {
    const char lower = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    if (IsDigit(lower) || (lower >= 'a' && lower <= 'z')) {
      words.back() += lower;
    } else if (!words.back().empty()) {
      words.emplace_back();
    }
  }
  std::string name;
  for (std::string word : words) {
    if (word.empty() || IsNoise(word)) continue;
    if (word.size() > 2 && word.ends_with("gb") && IsDigit(word.front()))
      word.resize(word.size() - 2);
    name += (name.empty() ? "" : "-") + word;
  }
  if (name.empty()) name = "card";
  return name.substr(0, 40);
}

std::vector<Sku> SeedSkus(const std::vector<CardView>& cards, const SeedPrices& prices) {
  std::map<std::string, std::uint64_t> smallest;
  for (const auto& card : cards) {
    const auto [at, added] = smallest.emplace(card.model, card.memory_bytes);
    if (!added) at->second = std::min(at->second, card.memory_bytes);
  }
  std::vector<Sku> skus;
  std::set<std::string> taken;
  for (const auto& [model, memory_bytes] : smallest) {
    const std::string stem = ShortModel(model);
    std::string name = stem;
    for (int i = 2; !taken.insert(name).second; ++i) name = stem + "-" + std::to_string(i);
    const struct {
      const char* suffix;
      std::uint64_t parts;
      std::uint32_t permille;
      Money price;
    } shapes[] = {{".third", 3, 333, prices.third},
                  {".half", 2, 500, prices.half},
                  {".full", 1, 1000, prices.full}};
    for (const auto& shape : shapes) {
      Sku sku{.name = name + shape.suffix, .model = model.substr(0, 64)};
      sku.memory_bytes = memory_bytes / shape.parts / kGranuleBytes * kGranuleBytes;
      sku.compute.value = shape.permille;
      sku.price_per_hour = shape.price;
      if (sku.memory_bytes >= kGranuleBytes) skus.push_back(std::move(sku));
    }
  }
  return skus;
}

Result<std::size_t> SeedCatalogue(Service& service, const SeedPrices& prices) {
  TRY(const auto existing, service.Skus());
  if (!existing.empty()) return std::size_t{0};
  TRY(const auto cards, service.Cards());
  const auto skus = SeedSkus(cards, prices);
  for (const auto& sku : skus) {
    TRY(const auto added, service.AddSku(sku));
    (void)added;
  }
  return skus.size();
}

}  // namespace tessera::cloud
