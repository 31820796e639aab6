#include "commerce/ledger.h"

#include <utility>

namespace tessera::commerce {
namespace {

constexpr std::pair<AccountKind, std::string_view> kKinds[] = {
    {AccountKind::kBank, "bank"}, {AccountKind::kCash, "cash"},       {AccountKind::kHeld, "held"},
    {AccountKind::kOwed, "owed"}, {AccountKind::kRevenue, "revenue"},
};

}  // namespace

std::string_view AccountKindName(AccountKind kind) {
  for (const auto& [known, name] : kKinds) {
    if (known == kind) return name;
  }
  return "unknown";
}

Result<AccountKind> ParseAccountKind(std::string_view text, std::string_view field) {
  for (const auto& [kind, name] : kKinds) {
    if (name == text) return kind;
  }
  return Error::Field(std::string(field), "expected bank, cash, held, owed or revenue");
}

bool BalanceAllowed(AccountKind kind, Money balance) {
  switch (kind) {
    case AccountKind::kCash:
    case AccountKind::kHeld:
    case AccountKind::kRevenue:
      return balance >= Money{0};
    case AccountKind::kBank:
    case AccountKind::kOwed:
      return balance <= Money{0};
  }
  return false;
}

Status Ledger::AddAccount(const std::string& id, AccountKind kind) {
  if (!accounts_.try_emplace(id, Account{kind, Money{0}}).second) {
    return Error(Code::kAlreadyExists, "account " + id + " exists");
  }
  return {};
}

Result<bool> Ledger::SeenBefore(const Transfer& transfer) const {
  const auto found = by_id_.find(transfer.id);
  if (found == by_id_.end()) return false;
  if (log_[found->second] == transfer) return true;
  return Error(Code::kAlreadyExists, "transfer " + transfer.id + " exists with other content");
}

Status Ledger::Move(const Transfer& transfer) {
  if (transfer.id.empty()) return Error::Field("id", "expected a transfer id");
  if (transfer.amount <= Money{0}) return Error::Field("amount", "expected an amount above zero");
  TRY_STATUS(transfer.amount.ToStored().has_value()
                 ? Status()
                 : Status(Error::Field("amount", "does not fit the ledger's 64 bits")));
  const auto debit = accounts_.find(transfer.debit_account);
  const auto credit = accounts_.find(transfer.credit_account);
  if (debit == accounts_.end())
    return Error::Field("debit_account", "no account " + transfer.debit_account);
  if (credit == accounts_.end())
    return Error::Field("credit_account", "no account " + transfer.credit_account);
  if (debit == credit)
    return Error::Field("credit_account", "expected another account than the debited one");
  for (const auto& [account, balance] :
       {std::pair{debit, debit->second.balance - transfer.amount},
        std::pair{credit, credit->second.balance + transfer.amount}}) {
    if (!BalanceAllowed(account->second.kind, balance)) {
      return Error(Code::kFailedPrecondition,
                   "account " + account->first + " would stand at " + FormatMoney(balance));
    }
    if (!balance.ToStored()) {
      return Error(Code::kOutOfRange,
                   "account " + account->first + " would leave the ledger's 64 bits");
    }
  }
  debit->second.balance = debit->second.balance - transfer.amount;
  credit->second.balance += transfer.amount;
  by_id_[transfer.id] = log_.size();
  log_.push_back(transfer);
  return {};
}

Status Ledger::Post(const Transfer& transfer) {
  if (!transfer.hold_id.empty())
    return Error::Field("hold_id", "expected none on a plain transfer");
  TRY(const bool seen, SeenBefore(transfer));
  if (seen) return {};
  return Move(transfer);
}

Status Ledger::Place(const Transfer& transfer) {
  TRY(const bool seen, SeenBefore(transfer));
  if (seen) return {};
  if (transfer.hold_id.empty()) return Error::Field("hold_id", "expected the id of the new hold");
  if (holds_.contains(transfer.hold_id)) {
    return Error(Code::kAlreadyExists, "hold " + transfer.hold_id + " exists");
  }
  const auto debit = accounts_.find(transfer.debit_account);
  const auto credit = accounts_.find(transfer.credit_account);
  if (debit == accounts_.end() || debit->second.kind != AccountKind::kCash) {
    return Error::Field("debit_account", "a hold is taken from a cash account");
  }
  if (credit == accounts_.end() || credit->second.kind != AccountKind::kHeld) {
    return Error::Field("credit_account", "a hold is kept on a held account");
  }
  TRY_STATUS(Move(transfer));
  holds_[transfer.hold_id] = Hold{.cash_account = transfer.debit_account,
                                  .held_account = transfer.credit_account,
                                  .amount = transfer.amount};
  return {};
}

Status Ledger::Capture(const Transfer& transfer) {
  TRY(const bool seen, SeenBefore(transfer));
  if (seen) return {};
  const auto hold = holds_.find(transfer.hold_id);
  if (hold == holds_.end()) return Error(Code::kNotFound, "no hold " + transfer.hold_id);
  if (!hold->second.open)
    return Error(Code::kFailedPrecondition, "hold " + transfer.hold_id + " is closed");
  if (transfer.debit_account != hold->second.held_account) {
    return Error::Field("debit_account",
                        "expected the hold's own account " + hold->second.held_account);
  }
  if (hold->second.captured + transfer.amount > hold->second.amount) {
    return Error(Code::kFailedPrecondition, "a hold of " + FormatMoney(hold->second.amount) +
                                                " cannot give " + FormatMoney(transfer.amount) +
                                                " more");
  }
  TRY_STATUS(Move(transfer));
  hold->second.captured += transfer.amount;
  return {};
}

Status Ledger::Return(const Transfer& transfer) {
  TRY(const bool seen, SeenBefore(transfer));
  if (seen) return {};
  const auto hold = holds_.find(transfer.hold_id);
  if (hold == holds_.end()) return Error(Code::kNotFound, "no hold " + transfer.hold_id);
  if (!hold->second.open)
    return Error(Code::kFailedPrecondition, "hold " + transfer.hold_id + " is closed");
  if (transfer.debit_account != hold->second.held_account ||
      transfer.credit_account != hold->second.cash_account) {
    return Error::Field("credit_account", "a hold goes back to where it came from");
  }
  if (transfer.amount != hold->second.amount - hold->second.captured) {
    return Error::Field("amount", "expected the hold's rest " +
                                      FormatMoney(hold->second.amount - hold->second.captured));
  }
  TRY_STATUS(Move(transfer));
  hold->second.returned = transfer.amount;
  hold->second.open = false;
  return {};
}

Status Ledger::Close(const std::string& hold_id) {
  const auto hold = holds_.find(hold_id);
  if (hold == holds_.end()) return Error(Code::kNotFound, "no hold " + hold_id);
  if (hold->second.captured + hold->second.returned != hold->second.amount) {
    return Error(Code::kFailedPrecondition, "hold " + hold_id + " still holds money");
  }
  hold->second.open = false;
  return {};
}

Result<Money> Ledger::Balance(const std::string& account) const {
  const auto found = accounts_.find(account);
  if (found == accounts_.end()) return Error(Code::kNotFound, "no account " + account);
  return found->second.balance;
}

Money Ledger::Sum() const {
  Money sum;
  for (const auto& [id, account] : accounts_) sum += account.balance;
  return sum;
}

}  // namespace tessera::commerce
