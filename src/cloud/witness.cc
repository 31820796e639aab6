#include "cloud/witness.h"

#include <fstream>
#include <iterator>

#include "commerce/ledger.h"

namespace tessera::cloud {

std::string WitnessSql(const std::string& name) {
  std::ifstream file(std::string(TESSERA_WITNESS) + "/" + name + ".sql");
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::string CheckBooks(store::Database& database) {
  const auto sum = database.Query(WitnessSql("ledger_sum"), {});
  if (!sum) return sum.error().ToString();
  if ((*sum)[0].Int(0) != 0) return "the ledger's sum is " + std::to_string((*sum)[0].Int(0));
  const auto stale = database.Query(WitnessSql("stale_balances"), {});
  if (!stale) return stale.error().ToString();
  if (!stale->empty()) return (*stale)[0].Text(0) + " does not add up";

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
