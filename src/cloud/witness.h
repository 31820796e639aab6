// For tests: what an auditor with nothing but SQL and a pocket calculator would check.
#pragma once

#include <string>

#include "store/database.h"

namespace tessera::cloud {

// One of the queries in witness/, as an auditor would load it.
std::string WitnessSql(const std::string& name);

// Empty when the books are in order: lines add up to zero in all and in each transfer, cached
// balances are the fold of the lines, and the ledger's own rules accept every transfer in its
// order.
std::string CheckBooks(store::Database& database);

}  // namespace tessera::cloud
