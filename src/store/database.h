// A thin typed door to SQL. Today SQLite in WAL mode; the same SQL text ($1 parameters, ON
// CONFLICT, RETURNING) is chosen so that PostgreSQL can stand behind the same interface. All
// integers are 64-bit; money is stored as integer micro-units; time as integer microseconds UTC.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"

namespace tessera::store {

using Value = std::variant<std::nullptr_t, std::int64_t, std::string>;

struct Row {
  std::vector<Value> values;
  // Value accessors; a wrong type is a programming error (CHECK).
  std::int64_t Int(std::size_t column) const;
  const std::string& Text(std::size_t column) const;
  bool IsNull(std::size_t column) const;
};

// One open write transaction; rolled back unless Commit succeeds. After a failed statement the
// transaction only answers kAborted (PostgreSQL does the same), so a half-done change can never be
// committed. Not thread-safe; must not outlive its database.
class Transaction {
 public:
  virtual ~Transaction() = default;
  virtual Result<std::vector<Row>> Query(std::string_view sql,
                                         const std::vector<Value>& parameters) = 0;
  // Number of changed rows.
  virtual Result<std::int64_t> Execute(std::string_view sql,
                                       const std::vector<Value>& parameters) = 0;
  virtual Status Commit() = 0;
};

struct Migration {
  int number;
  std::string_view name;
  std::string_view sql;
};

class Database {
 public:
  // Opens or creates (mode 0600); kDataLoss when the file is not a database. ":memory:" is a
  // private database in a temporary folder that goes away with the object: the same code paths
  // without the cost of fsync, for tests.
  static Result<std::unique_ptr<Database>> OpenSqlite(const std::string& path);
  virtual ~Database() = default;
  // Runs missing migrations in order, each in one transaction with a checksum row; an edited,
  // already applied migration is refused, and so is a database that has seen a migration this
  // program does not know.
  virtual Status Migrate(const std::vector<Migration>& migrations) = 0;
  // Writers are serialised; readers see the last commit. kUnavailable after the busy timeout (5 s).
  virtual Result<std::unique_ptr<Transaction>> Begin() = 0;
  virtual Result<std::vector<Row>> Query(std::string_view sql,
                                         const std::vector<Value>& parameters) = 0;
};

// For fault loops: the n-th statement or commit (0-based) from now on fails; -1 switches off.
void FailStatementForTest(Database& database, int n);
// The same, but every later statement fails too: what a process that died at that write did to its
// disk.
void FailStatementsFromForTest(Database& database, int n);
// Statements, begins and commits seen since the last of the two calls above.
int StatementsSeenForTest(Database& database);

}  // namespace tessera::store
