// The stored double-entry ledger, written inside the caller's transaction: money moves with the
// state change that causes it or not at all. The rules are those of commerce/ledger.h, enforced by
// the tables.
//
// Every transfer has two lines in `entries` that add up to zero; a transfer's id is made by the
// caller and makes it happen once. Not thread-safe; lives as long as its transaction.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "store/database.h"

namespace tessera::cloud {

struct Purse {
  Money cash;  // spendable
  Money held;  // set aside for hours that run
  Money owed;  // above zero when running time could not be paid
};

struct AccountBalance {
  std::string id;
  std::string tenant_id;  // empty: the house's own
  std::string kind;
  Money balance;
};

struct LedgerState {
  std::vector<AccountBalance>
      accounts;  // folded from the ledger's lines, not from the cached balances
  Money sum;     // zero, or the books are broken
};

class Books {
 public:
  Books(store::Transaction& transaction, std::int64_t now_micros)
      : transaction_(transaction), now_micros_(now_micros) {}

  Status OpenAccounts(const std::string& tenant_id);
  Result<Purse> Read(const std::string& tenant_id);
  // Paid-in money; what is owed is repaid from it at once. False when this payment was booked
  // before.
  Result<bool> Deposit(const std::string& id, const std::string& tenant_id, Money amount);

  // Hour `hour` of a run: its hold, and what becomes of it.
  struct Hour {
    std::string tenant_id;
    std::string instance_id;
    std::uint64_t generation = 0;
    std::int64_t hour = 0;
  };
  Status Hold(const Hour& hour, Money amount);
  Status Capture(const Hour& hour, Money amount);
  Status Void(const Hour& hour, Money amount);
  Status Charge(const Hour& hour, Money amount);
  Status Owe(const Hour& hour, Money amount);
  Result<bool> HoldOpen(const Hour& hour);

 private:
  struct Move {
    std::string id;
    std::string kind;
    std::string debit;
    std::string credit;
    Money amount;
    std::string hold_id;
    std::string reason;
  };
  // False when the very same transfer was made before; kAlreadyExists when its id has other
  // content.
  Result<bool> Post(const Move& move);
  Status Settle(const Hour& hour, const std::string& kind, const std::string& credit, Money amount);

  store::Transaction& transaction_;
  std::int64_t now_micros_;
};

// Reads the ledger as of the last commit.
Result<Purse> ReadPurse(store::Database& database, const std::string& tenant_id);
Result<LedgerState> ReadLedger(store::Database& database);

}  // namespace tessera::cloud
