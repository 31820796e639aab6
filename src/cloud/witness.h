// For tests: what an auditor with nothing but SQL and a pocket calculator would check.
#pragma once

#include <string>

#include "commerce/ledger.h"
#include "store/database.h"

namespace tessera::cloud {

// The two queries of this room's README; a test holds them against the file.
inline constexpr std::string_view kLedgerSumSql =
    "SELECT coalesce(sum(amount_micro), 0) FROM entries";
inline constexpr std::string_view kBillSql = R"sql(WITH runs AS (
  SELECT e.instance_id, e.generation,
         min(CASE WHEN e.state = 'running' THEN e.wall_micros END) AS started,
         coalesce(min(CASE WHEN e.state IN ('stopped', 'ended', 'failed', 'released') THEN e.wall_micros END),
                  max(h.seen_micros)) AS finished
  FROM instance_events e
  LEFT JOIN heartbeats h ON h.instance_id = e.instance_id AND h.generation = e.generation
  GROUP BY e.instance_id, e.generation),
used AS (
  SELECT instance_id, sum(CASE WHEN finished > started THEN finished - started ELSE 0 END) AS micros
  FROM runs GROUP BY instance_id)
SELECT i.tenant_id, i.id, i.name, u.micros,
       i.price_per_hour_micro * (u.micros / 3600000000)
       + i.price_per_hour_micro * (u.micros % 3600000000) / 3600000000 AS amount_micro
FROM instances i JOIN used u ON u.instance_id = i.id
ORDER BY i.tenant_id, i.seq)sql";

// Empty when the books are in order: lines add up to zero in all and in each transfer, cached
// balances are the fold of the lines, and the ledger's own rules accept every transfer in its
// order.
inline std::string CheckBooks(store::Database& database) {
  const auto sum = database.Query(kLedgerSumSql, {});
  if (!sum) return sum.error().ToString();
  if ((*sum)[0].Int(0) != 0) return "the ledger's sum is " + std::to_string((*sum)[0].Int(0));
  const auto skewed = database.Query(
      "SELECT t.id FROM transfers t LEFT JOIN entries e ON e.transfer_id = t.id GROUP BY t.id "
      "HAVING count(e.account_id) <> 2 OR sum(e.amount_micro) <> 0",
      {});
  if (!skewed || !skewed->empty()) return "a transfer does not have two lines that cancel out";
  const auto stale = database.Query(
      "SELECT a.id FROM accounts a LEFT JOIN entries e ON e.account_id = a.id GROUP BY a.id "
      "HAVING coalesce(sum(e.amount_micro), 0) <> a.balance_micro",
      {});
  if (!stale || !stale->empty()) return "a balance is not the fold of its lines";

  commerce::Ledger ledger;
  const auto accounts = database.Query("SELECT id, kind, balance_micro FROM accounts", {});
  for (const auto& row : *accounts) {
    if (!ledger.AddAccount(row.Text(0), *commerce::ParseAccountKind(row.Text(1), "kind")))
      return "account twice";
  }
  const auto transfers = database.Query(
      "SELECT t.id, t.kind, coalesce(t.hold_id, ''), d.account_id, c.account_id, c.amount_micro "
      "FROM transfers t JOIN entries d ON d.transfer_id = t.id AND d.amount_micro < 0 "
      "JOIN entries c ON c.transfer_id = t.id AND c.amount_micro > 0 ORDER BY t.seq",
      {});
  for (const auto& row : *transfers) {
    const commerce::Transfer transfer{.id = row.Text(0),
                                      .debit_account = row.Text(3),
                                      .credit_account = row.Text(4),
                                      .amount = Money::FromStored(row.Int(5)),
                                      .hold_id = row.Text(2)};
    const std::string& kind = row.Text(1);
    const Status done = kind == "hold"      ? ledger.Place(transfer)
                        : kind == "capture" ? ledger.Capture(transfer)
                        : kind == "void"    ? ledger.Return(transfer)
                                            : ledger.Post(transfer);
    if (!done) return transfer.id + ": " + done.error().ToString();
  }
  for (const auto& row : *accounts) {
    if (ledger.Balance(row.Text(0))->micro != row.Int(2))
      return row.Text(0) + " differs from its replay";
  }
  const auto holds = database.Query(
      "SELECT h.id FROM holds h JOIN instances i ON i.id = h.instance_id WHERE h.state = 'open' "
      "AND "
      "(h.generation <> i.generation OR i.state IN ('stopped', 'ended', 'failed', 'released'))",
      {});
  if (!holds || !holds->empty()) return "money is held for a run that is over";
  const auto left = database.Query(
      "SELECT a.tenant_id FROM accounts a LEFT JOIN holds h ON h.tenant_id = a.tenant_id "
      "WHERE a.kind = 'held' GROUP BY a.tenant_id, a.balance_micro "
      "HAVING a.balance_micro <> coalesce(sum(h.amount_micro - h.captured_micro - "
      "h.returned_micro), 0)",
      {});
  if (!left || !left->empty()) return "what is held is not the sum of the open holds";
  return "";
}

}  // namespace tessera::cloud
