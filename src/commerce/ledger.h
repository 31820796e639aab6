// The rules of the double-entry ledger, in memory. The stored ledger (cloud/) follows the same
// rules in SQL; tests replay it through this class, and the class itself is tried against a naive
// model.
//
// Balances are credits minus debits: a tenant's cash is what we owe him (>= 0), held is the part of
// it set aside for running hours (>= 0), owed is what he owes us (<= 0), revenue >= 0, bank is what
// was paid in
// (<= 0). The sum over all accounts is always zero. Transfers never change; a mistake is mended by
// another transfer. Not thread-safe.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/units.h"

namespace tessera::commerce {

enum class AccountKind { kBank, kCash, kHeld, kOwed, kRevenue };
std::string_view AccountKindName(AccountKind kind);  // "cash"
Result<AccountKind> ParseAccountKind(std::string_view text, std::string_view field);
// Whether an account of this kind may stand at `balance`.
bool BalanceAllowed(AccountKind kind, Money balance);

// Moves `amount` from the debited to the credited account. `id` is made by the caller and is the
// idempotency key: the same id with the same content is done once, with other content it is an
// error.
struct Transfer {
  std::string id;
  std::string debit_account;
  std::string credit_account;
  Money amount;
  std::string hold_id;  // set on the hold itself and on what captures or returns it
  bool operator==(const Transfer&) const = default;
};

struct Hold {
  std::string cash_account;
  std::string held_account;
  Money amount;
  Money captured;
  Money returned;
  bool open = true;
};

class Ledger {
 public:
  Status AddAccount(const std::string& id, AccountKind kind);
  // One transfer outside any hold.
  Status Post(const Transfer& transfer);
  // Sets `amount` of cash aside. The hold's id is the transfer's hold_id.
  Status Place(const Transfer& transfer);
  // Takes at most the hold's rest as earnings; what is left of the hold stays held.
  Status Capture(const Transfer& transfer);
  // Ends the hold and returns its rest; `transfer.amount` must be that rest (no transfer when it is
  // zero).
  Status Return(const Transfer& transfer);
  // Ends a hold whose whole amount was captured.
  Status Close(const std::string& hold_id);

  Result<Money> Balance(const std::string& account) const;
  // Zero, or the books are broken.
  Money Sum() const;
  const std::map<std::string, Hold>& holds() const { return holds_; }
  const std::vector<Transfer>& transfers() const { return log_; }

 private:
  struct Account {
    AccountKind kind;
    Money balance;
  };
  // True when this very transfer was done before.
  Result<bool> SeenBefore(const Transfer& transfer) const;
  Status Move(const Transfer& transfer);

  std::map<std::string, Account> accounts_;
  std::map<std::string, Hold> holds_;
  std::map<std::string, std::size_t> by_id_;
  std::vector<Transfer> log_;
};

}  // namespace tessera::commerce
