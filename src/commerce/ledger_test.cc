#include "commerce/ledger.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/rng.h"

namespace tessera::commerce {
namespace {

Ledger TwoTenants() {
  Ledger ledger;
  EXPECT_TRUE(ledger.AddAccount("bank", AccountKind::kBank));
  EXPECT_TRUE(ledger.AddAccount("revenue", AccountKind::kRevenue));
  for (const std::string tenant : {"a", "b"}) {
    EXPECT_TRUE(ledger.AddAccount(tenant + ".cash", AccountKind::kCash));
    EXPECT_TRUE(ledger.AddAccount(tenant + ".held", AccountKind::kHeld));
    EXPECT_TRUE(ledger.AddAccount(tenant + ".owed", AccountKind::kOwed));
  }
  return ledger;
}

TEST(Ledger, AHoldIsCapturedUpToItsAmountAndReturnedOnce) {
  Ledger ledger = TwoTenants();
  ASSERT_TRUE(ledger.Post({"d1", "bank", "a.cash", Money{100}}));
  ASSERT_TRUE(ledger.Place({"h1", "a.cash", "a.held", Money{60}, "hold1"}));
  EXPECT_FALSE(ledger.Place({"h2", "a.cash", "a.held", Money{41}, "hold2"}))
      << "cash is never below zero";
  EXPECT_FALSE(ledger.Place({"h3", "a.cash", "a.held", Money{1}, "hold1"}));
  EXPECT_FALSE(ledger.Capture({"c1", "a.held", "revenue", Money{61}, "hold1"}));
  ASSERT_TRUE(ledger.Capture({"c1", "a.held", "revenue", Money{25}, "hold1"}));
  ASSERT_TRUE(ledger.Capture({"c1", "a.held", "revenue", Money{25}, "hold1"}))
      << "the same again is done once";
  EXPECT_EQ(ledger.Capture({"c1", "a.held", "revenue", Money{26}, "hold1"}).error().code(),
            Code::kAlreadyExists);
  EXPECT_FALSE(ledger.Return({"v1", "a.held", "a.cash", Money{34}, "hold1"}));
  EXPECT_FALSE(ledger.Return({"v1", "a.held", "b.cash", Money{35}, "hold1"}));
  EXPECT_FALSE(ledger.Close("hold1"));
  ASSERT_TRUE(ledger.Return({"v1", "a.held", "a.cash", Money{35}, "hold1"}));
  EXPECT_FALSE(ledger.Return({"v2", "a.held", "a.cash", Money{35}, "hold1"}));
  EXPECT_FALSE(ledger.Capture({"c2", "a.held", "revenue", Money{1}, "hold1"}));
  EXPECT_EQ(ledger.Balance("a.cash")->micro, 75);
  EXPECT_EQ(ledger.Balance("a.held")->micro, 0);
  EXPECT_EQ(ledger.Balance("revenue")->micro, 25);
  EXPECT_EQ(ledger.Sum(), Money{0});
}

TEST(Ledger, RefusesWhatIsNoTransfer) {
  Ledger ledger = TwoTenants();
  EXPECT_EQ(ledger.Post({"x", "bank", "a.cash", Money{0}}).error().field(), "amount");
  EXPECT_EQ(ledger.Post({"x", "bank", "a.cash", Money{-5}}).error().field(), "amount");
  EXPECT_EQ(ledger.Post({"", "bank", "a.cash", Money{5}}).error().field(), "id");
  EXPECT_EQ(ledger.Post({"x", "bank", "bank", Money{5}}).error().field(), "credit_account");
  EXPECT_EQ(ledger.Post({"x", "nobody", "bank", Money{5}}).error().field(), "debit_account");
  EXPECT_EQ(ledger.Post({"x", "bank", "a.cash", Money{5}, "h"}).error().field(), "hold_id");
  EXPECT_EQ(
      ledger.Post({"x", "bank", "a.cash", Money{Money::Micro{INT64_MAX} + 1}}).error().field(),
      "amount");
  ASSERT_TRUE(ledger.Post({"m", "bank", "a.cash", Money{INT64_MAX}}));
  EXPECT_EQ(ledger.Post({"n", "bank", "a.cash", Money{1}}).error().code(), Code::kOutOfRange)
      << "a balance beyond 64 bits is refused, not wrapped";
  EXPECT_TRUE(ledger.transfers().size() == 1);
}

// L1 to L5, L9 and L10 against a model that knows nothing but sums.
TEST(Ledger, RandomCallsKeepTheRules) {
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    Rng rng(seed);
    Ledger ledger = TwoTenants();
    std::map<std::string, std::int64_t> model;  // account to balance
    std::map<std::string, std::int64_t> rest;   // hold to what it still holds
    std::set<std::string> ended;
    std::vector<Transfer> done;
    const char* tenants[] = {"a", "b"};
    for (int i = 0; i < 300; ++i) {
      const std::string tenant = tenants[rng.Below(2)];
      const auto amount = static_cast<std::int64_t>(rng.Below(200)) - 5;
      const std::string id = "t" + std::to_string(rng.Below(250));  // collides on purpose
      const std::string hold = tenant + std::to_string(rng.Below(30));
      const bool used =
          std::any_of(done.begin(), done.end(), [&](const Transfer& t) { return t.id == id; });
      Transfer transfer{id, "", "", Money{amount}};
      Status status;
      bool expected = amount > 0 && !used;
      switch (rng.Below(5)) {
        case 0:
          transfer.debit_account = "bank";
          transfer.credit_account = tenant + ".cash";
          status = ledger.Post(transfer);
          break;
        case 1:
          transfer.debit_account = tenant + ".cash";
          transfer.credit_account = "revenue";
          expected = expected && model[tenant + ".cash"] >= amount;
          status = ledger.Post(transfer);
          break;
        case 2:
          transfer.debit_account = tenant + ".cash";
          transfer.credit_account = tenant + ".held";
          transfer.hold_id = hold;
          expected = expected && model[tenant + ".cash"] >= amount && !rest.contains(hold);
          status = ledger.Place(transfer);
          if (status && expected) rest[hold] = amount;
          break;
        case 3:
          transfer.debit_account = tenant + ".held";
          transfer.credit_account = "revenue";
          transfer.hold_id = hold;
          expected =
              expected && rest.contains(hold) && !ended.contains(hold) && rest[hold] >= amount;
          status = ledger.Capture(transfer);
          if (status && expected) rest[hold] -= amount;
          break;
        default:
          transfer.debit_account = tenant + ".held";
          transfer.credit_account = tenant + ".cash";
          transfer.hold_id = hold;
          if (rest.contains(hold) && rng.Chance(800)) transfer.amount = Money{rest[hold]};
          expected = transfer.amount > Money{0} && !used && rest.contains(hold) &&
                     !ended.contains(hold) && Money{rest[hold]} == transfer.amount;
          status = ledger.Return(transfer);
          if (status && expected) {
            rest[hold] = 0;
            ended.insert(hold);
          }
      }
      const bool replay = std::find(done.begin(), done.end(), transfer) != done.end();
      ASSERT_EQ(status.has_value(), expected || replay) << "seed " << seed << " step " << i;
      if (expected) {
        model[transfer.debit_account] -= static_cast<std::int64_t>(transfer.amount.micro);
        model[transfer.credit_account] += static_cast<std::int64_t>(transfer.amount.micro);
        done.push_back(transfer);
      }
      ASSERT_EQ(ledger.Sum(), Money{0});
    }
    for (const auto& [account, balance] : model) {
      EXPECT_EQ(ledger.Balance(account)->micro, balance) << account;
    }
    // The balance at any moment is the fold of the log up to it.
    std::map<std::string, Money> fold;
    for (const Transfer& transfer : ledger.transfers()) {
      fold[transfer.debit_account] = fold[transfer.debit_account] - transfer.amount;
      fold[transfer.credit_account] += transfer.amount;
    }
    for (const auto& [account, balance] : fold) EXPECT_EQ(balance, *ledger.Balance(account));
    EXPECT_EQ(ledger.transfers().size(), done.size())
        << "the log holds exactly what was done, in order";
  }
}

}  // namespace
}  // namespace tessera::commerce
