#include "guest/core/table.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <random>
#include <thread>
#include <vector>

namespace tessera::guest {
namespace {

constexpr uint32_t kShift = 21;
constexpr uint64_t kGranule = 1ull << kShift;

std::unique_ptr<AllocationTable> Empty() { return std::make_unique<AllocationTable>(); }

Allocation Small(uint64_t address, uint64_t bytes = 4096) { return {address, bytes, 0, kPlain, 1}; }

TEST(AllocationTableTest, LargeAllocationsTakeWholeGranules) {
  auto table = Empty();
  const auto inserted = table->Insert({0x200000000, kGranule / 2, 3, kPlain, 1}, kShift);
  EXPECT_TRUE(inserted.ok);
  EXPECT_EQ(inserted.new_granules, 1u);
  EXPECT_EQ(table->Insert({0x300000000, kGranule + 1, 3, kPlain, 1}, kShift).new_granules, 2u);
  EXPECT_EQ(table->Granules(3), 3u);
  Allocation taken;
  ASSERT_TRUE(table->Take(0x300000000, kShift, &taken));
  EXPECT_EQ(taken.bytes, kGranule + 1);
  EXPECT_EQ(taken.card, 3u);
  EXPECT_EQ(table->Drop(taken, kShift), 2u);
  EXPECT_EQ(table->Granules(3), 1u);
}

TEST(AllocationTableTest, SmallAllocationsShareTheGranuleOfTheirBlock) {
  auto table = Empty();
  EXPECT_EQ(table->Insert(Small(kGranule), kShift).new_granules, 1u);
  EXPECT_EQ(table->Insert(Small(kGranule + 4096), kShift).new_granules, 0u);
  EXPECT_EQ(table->Insert(Small(5 * kGranule), kShift).new_granules, 1u);
  Allocation taken;
  ASSERT_TRUE(table->Take(kGranule, kShift, &taken));
  EXPECT_EQ(table->Drop(taken, kShift), 0u);
  ASSERT_TRUE(table->Take(kGranule + 4096, kShift, &taken));
  EXPECT_EQ(table->Drop(taken, kShift), 1u);
  EXPECT_EQ(table->Granules(0), 1u);
}

TEST(AllocationTableTest, ASmallAllocationAcrossABorderCountsBothBlocks) {
  auto table = Empty();
  EXPECT_EQ(table->Insert(Small(2 * kGranule - 2048), kShift).new_granules, 2u);
  EXPECT_EQ(table->Insert(Small(2 * kGranule + 4096), kShift).new_granules, 0u);
  Allocation taken;
  ASSERT_TRUE(table->Take(2 * kGranule - 2048, kShift, &taken));
  EXPECT_EQ(table->Drop(taken, kShift), 1u);
  EXPECT_EQ(table->Granules(0), 1u);
}

TEST(AllocationTableTest, AnAddressFreedBehindUsIsReplaced) {
  auto table = Empty();
  table->Insert({kGranule, 3 * kGranule, 2, kPlain, 1}, kShift);
  const auto inserted = table->Insert(Small(kGranule), kShift);
  EXPECT_TRUE(inserted.replaced);
  EXPECT_EQ(inserted.old_granules, 3u);
  EXPECT_EQ(inserted.old_card, 2u);
  EXPECT_EQ(inserted.new_granules, 1u);
  EXPECT_EQ(table->Granules(2), 0u);
  EXPECT_EQ(table->size(), 1u);
}

TEST(AllocationTableTest, WhatTheDriverRefusedToFreeIsPutBack) {
  auto table = Empty();
  table->Insert(Small(kGranule), kShift);
  Allocation taken;
  ASSERT_TRUE(table->Take(kGranule, kShift, &taken));
  EXPECT_FALSE(table->Take(kGranule, kShift, &taken));
  table->PutBack(taken, kShift);
  EXPECT_TRUE(table->Take(kGranule, kShift, &taken));
  EXPECT_FALSE(table->Take(0, kShift, &taken));
}

TEST(AllocationTableTest, TheLastOfAGranuleIsUncountedWhenItIsRemoved) {
  auto table = Empty();
  table->Insert(Small(kGranule), kShift);
  AllocationTable::Removed removed;
  ASSERT_TRUE(table->Remove(kGranule, kShift, &removed));
  EXPECT_FALSE(table->Remove(kGranule, kShift, &removed));
  EXPECT_EQ(table->Granules(0), 0u);
  // Who comes to the granule before the driver is done counts it anew: the caller reserves both.
  EXPECT_EQ(table->Insert(Small(kGranule + 4096), kShift).new_granules, 1u);
  EXPECT_EQ(table->Finish(removed, kShift), 1u);
  EXPECT_EQ(table->Granules(0), 1u);
}

TEST(AllocationTableTest, OneOfSeveralKeepsItsGranuleUntilTheDriverFreedIt) {
  auto table = Empty();
  table->Insert(Small(kGranule), kShift);
  table->Insert(Small(kGranule + 4096), kShift);
  AllocationTable::Removed first, second;
  ASSERT_TRUE(table->Remove(kGranule, kShift, &first));
  ASSERT_TRUE(table->Remove(kGranule + 4096, kShift, &second));
  // The later one is done first, and the granule is not given back under the earlier.
  EXPECT_EQ(table->Finish(second, kShift), 0u);
  EXPECT_EQ(table->Granules(0), 1u);
  EXPECT_EQ(table->Finish(first, kShift), 1u);
  EXPECT_EQ(table->Granules(0), 0u);
}

TEST(AllocationTableTest, ARefusedFreeIsRestored) {
  auto table = Empty();
  AllocationTable::Removed removed;
  table->Insert(Small(kGranule), kShift);
  ASSERT_TRUE(table->Remove(kGranule, kShift, &removed));
  EXPECT_EQ(table->Restore(removed, kShift), 0u);
  EXPECT_EQ(table->Granules(0), 1u);
  // Somebody else counted and reserved the granule meanwhile: one of the two goes back.
  ASSERT_TRUE(table->Remove(kGranule, kShift, &removed));
  table->Insert(Small(kGranule + 4096), kShift);
  EXPECT_EQ(table->Restore(removed, kShift), 1u);
  EXPECT_EQ(table->Granules(0), 1u);
  // A large one, and one across a border.
  table->Insert({8 * kGranule, 3 * kGranule, 0, kPlain, 1}, kShift);
  ASSERT_TRUE(table->Remove(8 * kGranule, kShift, &removed));
  EXPECT_EQ(table->Granules(0), 1u);
  EXPECT_EQ(table->Restore(removed, kShift), 0u);
  EXPECT_EQ(table->Granules(0), 4u);
  table->Insert(Small(4 * kGranule - 2048), kShift);
  ASSERT_TRUE(table->Remove(4 * kGranule - 2048, kShift, &removed));
  EXPECT_EQ(table->Granules(0), 6u);
  EXPECT_EQ(table->Restore(removed, kShift), 0u);
  ASSERT_TRUE(table->Remove(4 * kGranule - 2048, kShift, &removed));
  EXPECT_EQ(table->Finish(removed, kShift), 2u);
  EXPECT_EQ(table->size(), 3u);
}

TEST(AllocationTableTest, SweepTakesOnlyTheContextThatDied) {
  auto table = Empty();
  for (uint64_t i = 1; i <= 1000; ++i) {
    Allocation allocation = Small(i * 8192);
    allocation.context = static_cast<uint32_t>(i % 2 + 1);
    table->Insert(allocation, kShift);
  }
  const uint64_t before = table->Granules(0);
  uint64_t freed = 0;
  const auto count = [](uint32_t, uint32_t granules, void* sum) {
    *static_cast<uint64_t*>(sum) += granules;
  };
  const auto of_context = [](const Allocation& allocation, uint64_t context) {
    return allocation.context == context;
  };
  table->Sweep(of_context, 1, kShift, count, &freed);
  EXPECT_EQ(table->size(), 500u);
  EXPECT_EQ(freed, 0u);  // every block still has a neighbour of context 2
  table->Sweep(of_context, 2, kShift, count, &freed);
  EXPECT_EQ(table->size(), 0u);
  EXPECT_EQ(freed, before);
  EXPECT_EQ(table->Granules(0), 0u);
}

// Against a model that is too simple to be wrong.
TEST(AllocationTableTest, RandomUseAgreesWithAModel) {
  auto table = Empty();
  std::mt19937_64 random(20261124);
  std::map<uint64_t, Allocation> live;
  std::map<uint64_t, int> blocks;
  uint64_t whole = 0;
  const auto blocks_of = [](const Allocation& a) {
    std::vector<uint64_t> result;
    for (uint64_t b = a.address >> kShift; b <= (a.address + a.bytes - 1) >> kShift; ++b) {
      result.push_back(b);
    }
    return result;
  };
  for (int step = 0; step < 200000; ++step) {
    if (live.size() < 3000 && random() % 5 < 3) {
      const bool large = random() % 8 == 0;
      // Large ones live in a region of their own, as the driver keeps them apart.
      const uint64_t address = large ? 0x7000000000 + (random() % 4096) * 8 * kGranule
                                     : 0x1000000000 + (random() % 100000) * 16384 + 512;
      if (live.contains(address)) continue;
      const Allocation a = {address,
                            large ? kGranule / 2 + random() % (6 * kGranule) : 1 + random() % 15000,
                            0, kPlain, 1};
      uint32_t expected = 0;
      if (large) {
        expected = static_cast<uint32_t>((a.bytes + kGranule - 1) / kGranule);
        whole += expected;
      } else {
        for (uint64_t b : blocks_of(a)) expected += blocks[b]++ == 0;
      }
      ASSERT_EQ(table->Insert(a, kShift).new_granules, expected);
      live[address] = a;
    } else if (!live.empty()) {
      auto it = live.lower_bound(random() % 2 ? 0x7000000000
                                              : 0x1000000000 + random() % (100000ull * 16384));
      if (it == live.end()) it = live.begin();
      const Allocation a = it->second;
      live.erase(it);
      Allocation taken;
      AllocationTable::Removed removed;
      const bool to_free = random() % 2 == 0;
      if (to_free) {
        ASSERT_TRUE(table->Remove(a.address, kShift, &removed));
        if (random() % 4 == 0) {
          ASSERT_EQ(table->Restore(removed, kShift), 0u);
          ASSERT_TRUE(table->Remove(a.address, kShift, &removed));
        }
      } else {
        ASSERT_TRUE(table->Take(a.address, kShift, &taken));
        ASSERT_EQ(taken.bytes, a.bytes);
      }
      uint32_t expected = 0;
      if (!SharesGranule(a.bytes, kShift)) {
        expected = static_cast<uint32_t>((a.bytes + kGranule - 1) / kGranule);
        whole -= expected;
      } else {
        for (uint64_t b : blocks_of(a)) {
          if (--blocks[b] == 0) {
            ++expected;
            blocks.erase(b);
          }
        }
      }
      ASSERT_EQ(to_free ? table->Finish(removed, kShift) : table->Drop(taken, kShift), expected);
    }
  }
  EXPECT_EQ(table->size(), live.size());
  EXPECT_EQ(table->Granules(0), whole + blocks.size());
}

TEST(AllocationTableTest, ThreadsSharingBlocksLoseNoGranule) {
  auto table = Empty();
  std::atomic<int64_t> granules{0};
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937_64 random(t);
      std::vector<uint64_t> mine;
      for (int i = 0; i < 20000; ++i) {
        if (mine.size() < 64 && random() % 2 == 0) {
          // Addresses of this thread, blocks of all.
          const uint64_t address = kGranule + (random() % 2048) * 16384 + t * 4096;
          if (std::find(mine.begin(), mine.end(), address) != mine.end()) continue;
          granules += table->Insert(Small(address), kShift).new_granules;
          mine.push_back(address);
        } else if (!mine.empty()) {
          AllocationTable::Removed removed;
          ASSERT_TRUE(table->Remove(mine.back(), kShift, &removed));
          if (random() % 4 == 0) {
            granules -= table->Restore(removed, kShift);
            continue;
          }
          mine.pop_back();
          granules -= table->Finish(removed, kShift);
        }
      }
      for (uint64_t address : mine) {
        Allocation taken;
        ASSERT_TRUE(table->Take(address, kShift, &taken));
        granules -= table->Drop(taken, kShift);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(granules, 0);
  EXPECT_EQ(table->size(), 0u);
  EXPECT_EQ(table->Granules(0), 0u);
}

TEST(ObjectTableTest, KindsDoNotMeetAndGrowthKeepsAll) {
  auto table = std::make_unique<ObjectTable>();
  for (uint64_t i = 0; i < 1000; ++i) {
    Object object = {};
    object.key = i;
    object.kind = i % 2 ? kObjectModule : kObjectContext;
    object.card = static_cast<uint32_t>(i % 3);
    object.bytes = 1;
    ASSERT_TRUE(table->Put(object));
  }
  Object found;
  EXPECT_TRUE(table->Get(kObjectModule, 7, &found));
  EXPECT_FALSE(table->Get(kObjectContext, 7, &found));
  EXPECT_EQ(table->Charged(0) + table->Charged(1) + table->Charged(2), 1000u);
  EXPECT_EQ(table->Count(kObjectContext, 0) + table->Count(kObjectContext, 1) +
                table->Count(kObjectContext, 2),
            500u);
  for (uint64_t i = 0; i < 1000; i += 2) ASSERT_TRUE(table->Take(kObjectContext, i, &found));
  for (uint64_t i = 1; i < 1000; i += 2) ASSERT_TRUE(table->Get(kObjectModule, i, &found)) << i;
  EXPECT_EQ(table->Charged(0) + table->Charged(1) + table->Charged(2), 500u);
}

TEST(ObjectTableTest, UpdateRemovesWhenToldSo) {
  auto table = std::make_unique<ObjectTable>();
  Object object = {};
  object.key = 9;
  object.kind = kObjectPhysical;
  object.holders = 2;
  object.bytes = 5;
  table->Put(object);
  const auto release = [](Object* o, int64_t n) {
    o->holders = static_cast<uint32_t>(o->holders + n);
    return o->holders == 0;
  };
  Object removed;
  bool was_removed = true;
  EXPECT_TRUE(table->Update(kObjectPhysical, 9, release, -1, &removed, &was_removed));
  EXPECT_FALSE(was_removed);
  EXPECT_TRUE(table->Update(kObjectPhysical, 9, release, -1, &removed, &was_removed));
  EXPECT_TRUE(was_removed);
  EXPECT_EQ(removed.bytes, 5u);
  EXPECT_FALSE(table->Update(kObjectPhysical, 9, release, -1, &removed, &was_removed));
}

}  // namespace
}  // namespace tessera::guest
