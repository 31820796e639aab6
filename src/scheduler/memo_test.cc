#include "scheduler/memo.h"

#include <gtest/gtest.h>

#include "base/rng.h"
#include "scheduler/nodes.h"

namespace tessera::scheduler {
namespace {

using placement::Order;

std::vector<std::string> Some(Rng& rng, const char* stem) {
  std::vector<std::string> list;
  for (std::uint64_t i = rng.Below(4); i > 0; --i) list.push_back(stem + std::to_string(i));
  return list;
}

// Any order that the scheduler takes.
Order AnyOrder(Rng& rng) {
  Order order;
  placement::Request& request = order.request;
  request.id = "i-" + std::to_string(rng.Below(1000));
  request.slices = 1 + static_cast<std::uint32_t>(rng.Below(placement::kSlicesMax));
  request.memory_bytes = 1 + rng.Below(80 * kGiB);
  request.compute.value = 1 + static_cast<std::uint32_t>(rng.Below(1000));
  request.cpu_millis = static_cast<std::uint32_t>(rng.Next());
  request.ram_bytes = rng.Next() >> 1;
  request.disk_bytes = rng.Chance(500) ? rng.Next() >> 1 : 0;
  if (rng.Chance(300)) request.model = "A100";
  if (rng.Chance(300)) request.pool = "train \"\\\n\x01";
  request.node_policy = static_cast<placement::Policy>(rng.Below(3));
  request.card_policy = static_cast<placement::Policy>(rng.Below(3));
  request.models = Some(rng, "h");
  request.models_excluded = Some(rng, "v");
  request.cards = Some(rng, "GPU-");
  request.cards_excluded = Some(rng, "GPU-x");
  request.isolation = static_cast<placement::Isolation>(rng.Below(placement::kIsolations));
  request.exclusive = rng.Chance(500);
  request.numa = static_cast<placement::Numa>(rng.Below(3));
  request.links = static_cast<placement::Links>(rng.Below(2));
  request.tenant = "t" + std::to_string(rng.Below(9));
  request.apart = static_cast<placement::Apart>(rng.Below(3));
  if (request.apart != placement::Apart::kNone) request.apart_from = Some(rng, "other");
  request.priority = static_cast<std::int32_t>(rng.Below(2'000'000'000)) - 1'000'000'000;
  request.guaranteed = rng.Chance(500);
  order.preemptible = rng.Chance(500);
  order.run_micros = rng.Chance(500) ? rng.Below(placement::kRunMicrosMax) : 0;
  if (rng.Chance(500)) {
    order.gang = "g";
    order.gang_size = static_cast<std::uint32_t>(rng.Below(100));
    order.gang_node_min = static_cast<std::uint32_t>(rng.Below(5));
    order.gang_one_rack = rng.Chance(500);
    order.reservation = rng.Chance(500) ? "r" + std::to_string(rng.Below(9)) : "";
  }
  return order;
}

TEST(Memo, AnyOrderComesBackWhole) {
  const std::uint64_t seed = 20261125;
  Rng rng(seed);
  for (int i = 0; i < 2000; ++i) {
    const Order order = AnyOrder(rng);
    ASSERT_TRUE(placement::Validate(order.request)) << i;
    const auto back = ReadMemo(WriteMemo(order), order.request.id);
    ASSERT_TRUE(back) << "seed " << seed << ", order " << i << ": " << back.error().ToString();
    EXPECT_EQ(back->request, order.request) << "seed " << seed << ", order " << i;
    EXPECT_EQ(back->preemptible, order.preemptible);
    EXPECT_EQ(back->run_micros, order.run_micros);
    EXPECT_EQ(back->gang, order.gang);
    EXPECT_EQ(back->gang_size, order.gang_size);
    EXPECT_EQ(back->gang_node_min, order.gang_node_min);
    EXPECT_EQ(back->gang_one_rack, order.gang_one_rack);
    EXPECT_EQ(back->reservation, order.reservation);
  }
}

// The node refuses longer ones, so none may be.
TEST(Memo, TheLargestOrderFitsWhatANodeKeeps) {
  Order order;
  placement::Request& request = order.request;
  const std::string worst(placement::kSelectorBytesMax, '\x01');  // six bytes each in JSON
  request.id = "i";
  request.memory_bytes = 1;
  request.compute.value = 1;
  request.apart = placement::Apart::kCard;
  request.tenant = request.pool = order.gang = worst;
  const std::string other(placement::kSelectorBytesMax, '\x02');
  for (auto* list : {&request.models, &request.models_excluded, &request.cards,
                     &request.cards_excluded, &request.apart_from}) {
    list->assign(placement::kSelectorsMax, other);
  }
  ASSERT_TRUE(placement::Validate(request));
  EXPECT_LE(WriteMemo(order).size(), kMemoBytesMax);
}

TEST(Memo, WhatANewerSchedulerWroteIsPassedOverAndNonsenseIsNamed) {
  const auto read = [](const char* text) { return ReadMemo(text, "i"); };
  const auto newer =
      read(R"({"memory_bytes":5,"compute_permille":7,"tenant":"t","shape":{"of":["things"]}})");
  ASSERT_TRUE(newer) << newer.error().ToString();
  EXPECT_EQ(newer->request.tenant, "t");
  EXPECT_EQ(newer->request.id, "i");
  EXPECT_EQ(read(R"({"memory_bytes":5,"compute_permille":7,"apart":"room"})").error().field(),
            "apart");
  EXPECT_EQ(read(R"({"memory_bytes":-1,"compute_permille":7})").error().field(), "memory_bytes");
  EXPECT_EQ(read(R"({"memory_bytes":5,"compute_permille":1001})").error().field(), "compute");
  EXPECT_FALSE(read("not json"));
  EXPECT_FALSE(read(""));
}

}  // namespace
}  // namespace tessera::scheduler
