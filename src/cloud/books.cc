#include "cloud/books.h"

#include <algorithm>

namespace tessera::cloud {
namespace {

std::string Key(const Books::Hour& hour) {
  return hour.instance_id + "/" + std::to_string(hour.generation) + "/" + std::to_string(hour.hour);
}

constexpr std::string_view kPurseSql =
    "SELECT kind, balance_micro FROM accounts WHERE tenant_id = $1 ORDER BY kind";

Result<Purse> ToPurse(const Result<std::vector<store::Row>>& rows, const std::string& tenant_id) {
  if (!rows) return rows.error();
  if (rows->size() != 3)
    return Error(Code::kDataLoss, "tenant " + tenant_id + " lacks its accounts");
  Purse purse;
  purse.cash = Money::FromStored((*rows)[0].Int(1));
  purse.held = Money::FromStored((*rows)[1].Int(1));
  purse.owed = -Money::FromStored((*rows)[2].Int(1));
  return purse;
}

}  // namespace

Status Books::OpenAccounts(const std::string& tenant_id) {
  for (const std::string kind : {"cash", "held", "owed"}) {
    TRY(const auto added,
        transaction_.Execute("INSERT INTO accounts (id, tenant_id, kind) VALUES ($1, $2, $3)",
                             {tenant_id + "/" + kind, tenant_id, kind}));
    (void)added;
  }
  return {};
}

Result<Purse> Books::Read(const std::string& tenant_id) {
  return ToPurse(transaction_.Query(kPurseSql, {tenant_id}), tenant_id);
}

Result<bool> Books::Post(const Move& move) {
  if (move.amount <= Money{0}) return Error(Code::kInternal, "a transfer moves more than nothing");
  TRY(const std::int64_t amount, move.amount.ToStored());
  TRY(const auto added,
      transaction_.Execute(
          "INSERT INTO transfers (id, kind, hold_id, reason, wall_micros) "
          "VALUES ($1, $2, $3, $4, $5) ON CONFLICT (id) DO NOTHING",
          {move.id, move.kind,
           move.hold_id.empty() ? store::Value(nullptr) : store::Value(move.hold_id), move.reason,
           now_micros_}));
  if (added == 0) {
    TRY(const auto lines,
        transaction_.Query("SELECT e.account_id, e.amount_micro, t.kind FROM entries e "
                           "JOIN transfers t ON t.id = e.transfer_id "
                           "WHERE e.transfer_id = $1 ORDER BY e.amount_micro",
                           {move.id}));
    if (lines.size() == 2 && lines[0].Text(0) == move.debit && lines[0].Int(1) == -amount &&
        lines[1].Text(0) == move.credit && lines[1].Int(1) == amount &&
        lines[0].Text(2) == move.kind) {
      return false;
    }
    return Error(Code::kAlreadyExists, "transfer " + move.id + " exists with other content");
  }
  for (const auto& [account, change] :
       {std::pair{move.debit, -amount}, std::pair{move.credit, amount}}) {
    TRY(const auto lines,
        transaction_.Execute(
            "INSERT INTO entries (transfer_id, account_id, amount_micro) VALUES ($1, $2, $3)",
            {move.id, account, change}));
    (void)lines;
    TRY(const auto changed,
        transaction_.Execute("UPDATE accounts SET balance_micro = balance_micro + $2 WHERE id = $1",
                             {account, change}));
    if (changed != 1) return Error(Code::kInternal, "no account " + account);
  }
  return true;
}

Result<bool> Books::Deposit(const std::string& id, const std::string& tenant_id, Money amount) {
  TRY(const bool moved, Post({.id = id,
                              .kind = "deposit",
                              .debit = "bank",
                              .credit = tenant_id + "/cash",
                              .amount = amount,
                              .reason = "paid in"}));
  if (!moved) return false;
  TRY(const Purse purse, Read(tenant_id));
  const Money repaid = std::min(purse.owed, purse.cash);
  if (repaid <= Money{0}) return true;
  TRY(const bool repay, Post({.id = id + "/repay",
                              .kind = "repay",
                              .debit = tenant_id + "/cash",
                              .credit = tenant_id + "/owed",
                              .amount = repaid,
                              .reason = "running time owed"}));
  (void)repay;
  return true;
}

Status Books::Hold(const Hour& hour, Money amount) {
  const std::string id = "hold/" + Key(hour);
  TRY(const bool moved, Post({.id = id,
                              .kind = "hold",
                              .debit = hour.tenant_id + "/cash",
                              .credit = hour.tenant_id + "/held",
                              .amount = amount,
                              .hold_id = id,
                              .reason = "one hour ahead"}));
  if (!moved) return {};
  TRY(const std::int64_t stored, amount.ToStored());
  TRY(const auto added,
      transaction_.Execute(
          "INSERT INTO holds (id, tenant_id, instance_id, generation, hour, amount_micro) "
          "VALUES ($1, $2, $3, $4, $5, $6)",
          {id, hour.tenant_id, hour.instance_id, static_cast<std::int64_t>(hour.generation),
           hour.hour, stored}));
  (void)added;
  return {};
}

Status Books::Settle(const Hour& hour, const std::string& kind, const std::string& credit,
                     Money amount) {
  const std::string hold_id = "hold/" + Key(hour);
  TRY(const bool moved, Post({.id = kind + "/" + Key(hour),
                              .kind = kind,
                              .debit = hour.tenant_id + "/held",
                              .credit = credit,
                              .amount = amount,
                              .hold_id = hold_id,
                              .reason = kind == "capture" ? "running time" : "rest of the hour"}));
  if (!moved) return {};
  TRY(const std::int64_t stored, amount.ToStored());
  const std::string column = kind == "capture" ? "captured_micro" : "returned_micro";
  TRY(const auto changed,
      transaction_.Execute(
          "UPDATE holds SET " + column + " = " + column +
              " + $2, state = CASE WHEN captured_micro + returned_micro + $2 = "
              "amount_micro THEN 'closed' ELSE 'open' END WHERE id = $1 AND state = 'open'",
          {hold_id, stored}));
  if (changed != 1) return Error(Code::kInternal, hold_id + " is not open");
  return {};
}

Status Books::Capture(const Hour& hour, Money amount) {
  return Settle(hour, "capture", "revenue", amount);
}

Status Books::Void(const Hour& hour, Money amount) {
  return Settle(hour, "void", hour.tenant_id + "/cash", amount);
}

Status Books::Charge(const Hour& hour, Money amount) {
  TRY(const bool moved, Post({.id = "charge/" + Key(hour),
                              .kind = "charge",
                              .debit = hour.tenant_id + "/cash",
                              .credit = "revenue",
                              .amount = amount,
                              .reason = "running time without a hold"}));
  (void)moved;
  return {};
}

Status Books::Owe(const Hour& hour, Money amount) {
  TRY(const bool moved, Post({.id = "owe/" + Key(hour),
                              .kind = "owe",
                              .debit = hour.tenant_id + "/owed",
                              .credit = "revenue",
                              .amount = amount,
                              .reason = "running time the purse could not pay"}));
  (void)moved;
  return {};
}

Result<bool> Books::HoldOpen(const Hour& hour) {
  TRY(const auto rows,
      transaction_.Query("SELECT state FROM holds WHERE id = $1", {"hold/" + Key(hour)}));
  return !rows.empty() && rows[0].Text(0) == "open";
}

Result<Purse> ReadPurse(store::Database& database, const std::string& tenant_id) {
  return ToPurse(database.Query(kPurseSql, {tenant_id}), tenant_id);
}

Result<LedgerState> ReadLedger(store::Database& database) {
  TRY(const auto rows,
      database.Query(
          "SELECT a.id, coalesce(a.tenant_id, ''), a.kind, coalesce(sum(e.amount_micro), 0) "
          "FROM accounts a LEFT JOIN entries e ON e.account_id = a.id "
          "GROUP BY a.id ORDER BY a.id",
          {}));
  LedgerState state;
  for (const auto& row : rows) {
    const Money balance = Money::FromStored(row.Int(3));
    state.accounts.push_back({row.Text(0), row.Text(1), row.Text(2), balance});
    state.sum += balance;
  }
  return state;
}

}  // namespace tessera::cloud
