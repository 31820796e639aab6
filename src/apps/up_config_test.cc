#include "apps/up_config.h"

#include <gtest/gtest.h>

namespace tessera::apps {
namespace {

constexpr std::string_view kGood = R"(spot_discount_permille: 700
queue_max: 5
queue:
  fair_share: true
  preemption: false
  reclaim: any
  quotas:
    - name: lab
    - name: t-one
      parent: lab
      nominal: {card_millis: 1500, memory_bytes: 120GiB}
      borrowing_limit: {card_millis: 500}
      lending_limit: {memory_bytes: 0}
      weight: 2
)";

TEST(UpConfig, TheWholeOfIt) {
  const auto config = ParseUpConfig(kGood, "up.yaml");
  ASSERT_TRUE(config) << config.error().ToString();
  EXPECT_EQ(config->spot_discount_permille, 700u);
  EXPECT_EQ(config->queue_max, 5);
  ASSERT_TRUE(config->queue);
  EXPECT_TRUE(config->queue->fair_share);
  EXPECT_FALSE(config->queue->preempt);
  EXPECT_EQ(config->queue->reclaim, placement::Reclaim::kAny);
  ASSERT_EQ(config->queue->quotas.size(), 2u);
  EXPECT_EQ(config->queue->quotas[0].nominal, placement::SliceAmount());
  const placement::Quota& one = config->queue->quotas[1];
  EXPECT_EQ(one.parent, "lab");
  EXPECT_EQ(one.nominal, (placement::SliceAmount{1500, 120 * kGiB}));
  EXPECT_EQ(one.borrowing_limit, (placement::SliceAmount{500, placement::kUnlimited}));
  EXPECT_EQ(one.lending_limit, (placement::SliceAmount{placement::kUnlimited, 0}));
  EXPECT_EQ(one.weight, 2u);
}

TEST(UpConfig, WithoutTheSectionTheStoreHasTheRules) {
  EXPECT_FALSE(ParseUpConfig("", "up.yaml")->queue);
  EXPECT_FALSE(ParseUpConfig("queue:\n", "up.yaml")->queue);
  const auto empty = ParseUpConfig("queue: {}\n", "up.yaml");
  ASSERT_TRUE(empty->queue);
  EXPECT_TRUE(empty->queue->quotas.empty());
  EXPECT_TRUE(empty->queue->preempt);
}

TEST(UpConfig, WhatIsWrongIsNamedWithFileAndLine) {
  const struct {
    std::string text, field, place;
  } cases[] = {
      {"spot_discount_permille: 1001\n", "spot_discount_permille", "up.yaml:1: "},
      {"a: 1\n", "a", "up.yaml:1: unknown key"},
      {"queue: 7\n", "queue", "up.yaml:1: "},
      {"queue:\n  preempt: true\n", "queue.preempt", "up.yaml:2: unknown key"},
      {"queue:\n  fair_share: yes\n", "queue.fair_share", "up.yaml:2: "},
      {"queue:\n  reclaim: all\n", "queue.reclaim", "up.yaml:2: expected never"},
      {"queue:\n  quotas:\n    - parent: x\n", "queue.quotas[0].name", "up.yaml:3: required"},
      {"queue:\n  quotas:\n    - name: x\n      weight: 0\n", "queue.quotas[0].weight",
       "up.yaml:4: "},
      {"queue:\n  quotas:\n    - name: x\n      nominal: {cards: 1}\n",
       "queue.quotas[0].nominal.cards", "up.yaml:4: unknown key"},
      {"queue:\n  quotas:\n    - name: x\n      nominal: {card_millis: -1}\n",
       "queue.quotas[0].nominal.card_millis", "up.yaml:4: "},
      {"queue:\n  quotas:\n    - name: x\n      nominal: {memory_bytes: 1GB}\n",
       "queue.quotas[0].nominal.memory_bytes", "up.yaml:4: "},
      {"queue:\n  quotas:\n    - name: x\n      nominal: {memory_bytes: 2097152TiB}\n",
       "queue.quotas[0].nominal.memory_bytes", "up.yaml:4: expected at most"},
  };
  for (const auto& wrong : cases) {
    const auto config = ParseUpConfig(wrong.text, "up.yaml");
    ASSERT_FALSE(config) << wrong.text;
    EXPECT_EQ(config.error().field(), wrong.field) << wrong.text;
    EXPECT_EQ(config.error().message().find(wrong.place), 0u) << config.error().message();
  }
}

// What only the cloud can tell is wrong has its line as well.
TEST(UpConfig, AnErrorOfTheCloudGetsItsLine) {
  const auto config = ParseUpConfig(kGood, "up.yaml");
  const Error located = Locate(*config, Error::Field("quotas[1].parent", "expected a group"));
  EXPECT_EQ(located.field(), "queue.quotas[1].parent");
  EXPECT_EQ(located.message(), "up.yaml:10: expected a group");
  EXPECT_EQ(Locate(*config, Error(Code::kInternal, "x")).message(), "x");
}

}  // namespace
}  // namespace tessera::apps
