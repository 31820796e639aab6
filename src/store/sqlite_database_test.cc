#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "os/scratch.h"
#include "store/database.h"

namespace tessera::store {
namespace {

const std::vector<Migration> kTables = {
    {1, "accounts",
     "CREATE TABLE accounts (id TEXT PRIMARY KEY, balance INTEGER NOT NULL CHECK (balance >= 0));"
     "CREATE TABLE moves (id INTEGER PRIMARY KEY, account TEXT NOT NULL REFERENCES accounts(id));"},
    {2, "note", "ALTER TABLE accounts ADD COLUMN note TEXT"},
};

std::unique_ptr<Database> Open(const std::string& path = ":memory:") {
  auto database = Database::OpenSqlite(path);
  EXPECT_TRUE(database) << database.error().ToString();
  auto migrated = (*database)->Migrate(kTables);
  EXPECT_TRUE(migrated) << migrated.error().ToString();
  return std::move(*database);
}

std::int64_t Count(Database& database, const std::string& table) {
  auto rows = database.Query("SELECT count(*) FROM " + table, {});
  EXPECT_TRUE(rows);
  return (*rows)[0].Int(0);
}

TEST(Sqlite, ValuesComeBackAsTheyWentIn) {
  auto database = Open();
  auto transaction = *database->Begin();
  const std::string odd("a\0b'\"\n\xe4\xb8\xad", 9);
  EXPECT_EQ(*transaction->Execute("INSERT INTO accounts (id, balance, note) VALUES ($3, $1, $2)",
                                  {std::int64_t{INT64_MAX}, nullptr, odd}),
            1);
  ASSERT_TRUE(transaction->Commit());
  auto rows = database->Query("SELECT id, balance, note FROM accounts WHERE id = $1", {odd});
  ASSERT_TRUE(rows);
  ASSERT_EQ(rows->size(), 1u);
  EXPECT_EQ((*rows)[0].Text(0), odd);
  EXPECT_EQ((*rows)[0].Int(1), INT64_MAX);
  EXPECT_TRUE((*rows)[0].IsNull(2));
}

TEST(Sqlite, ReadersSeeTheLastCommitOnlyAndADroppedTransactionLeavesNothing) {
  auto database = Open();
  {
    auto transaction = *database->Begin();
    ASSERT_TRUE(transaction->Execute("INSERT INTO accounts (id, balance) VALUES ('a', 1)", {}));
    EXPECT_EQ(Count(*database, "accounts"), 0);
    auto inside = transaction->Query("SELECT count(*) FROM accounts", {});
    EXPECT_EQ((*inside)[0].Int(0), 1);
  }
  EXPECT_EQ(Count(*database, "accounts"), 0);
  auto again = database->Begin();
  EXPECT_TRUE(again) << "the writer's place must be free again";
}

TEST(Sqlite, ErrorsHaveTheirCodes) {
  auto database = Open();
  const auto code = [&](const std::string& sql, std::vector<Value> parameters = {}) {
    auto transaction = *database->Begin();
    auto done = transaction->Execute(sql, parameters);
    EXPECT_FALSE(done) << sql;
    if (done) return Code::kOk;
    EXPECT_EQ(transaction->Commit().error().code(), Code::kAborted)
        << "a transaction with a failed statement must not commit";
    EXPECT_EQ(transaction->Query("SELECT 1", {}).error().code(), Code::kAborted);
    return done.error().code();
  };
  {
    auto transaction = *database->Begin();
    ASSERT_TRUE(transaction->Execute("INSERT INTO accounts (id, balance) VALUES ('a', 1)", {}));
    ASSERT_TRUE(transaction->Commit());
  }
  EXPECT_EQ(code("INSERT INTO accounts (id, balance) VALUES ('a', 2)"), Code::kAlreadyExists);
  EXPECT_EQ(code("INSERT INTO accounts (id, balance) VALUES ('b', -1)"), Code::kFailedPrecondition);
  EXPECT_EQ(code("INSERT INTO moves (account) VALUES ('nobody')"), Code::kFailedPrecondition);
  EXPECT_EQ(code("INSERT INTO nowhere VALUES (1)"), Code::kInternal);
  EXPECT_EQ(code("DELETE FROM moves; DELETE FROM accounts"), Code::kInternal);
  EXPECT_EQ(code("DELETE FROM moves WHERE id = $1"), Code::kInternal);
  EXPECT_EQ(code("DELETE FROM moves WHERE id = $2", {std::int64_t{1}}), Code::kInternal);
  EXPECT_EQ(Count(*database, "accounts"), 1);
  // An integer sum that overflows is an error, never a float.
  auto transaction = *database->Begin();
  ASSERT_TRUE(transaction->Execute("INSERT INTO accounts (id, balance) VALUES ('m', $1)",
                                   {std::int64_t{INT64_MAX}}));
  ASSERT_TRUE(transaction->Commit());
  EXPECT_FALSE(database->Query("SELECT sum(balance) FROM accounts", {}));
  EXPECT_EQ(database->Query("SELECT 0.5", {}).error().code(), Code::kOutOfRange);
}

TEST(Sqlite, ReadsCannotWrite) {
  auto database = Open();
  EXPECT_FALSE(
      database->Query("INSERT INTO accounts (id, balance) VALUES ('a', 1) RETURNING id", {}));
  EXPECT_EQ(Count(*database, "accounts"), 0);
}

TEST(Sqlite, MigrationsRunOnceAndAnEditedOrUnknownOneIsRefused) {
  const os::ScratchFolder folder;
  const std::string path = folder / "db";
  {
    auto database = Open(path);
    ASSERT_TRUE(database->Migrate(kTables));
    auto transaction = *database->Begin();
    ASSERT_TRUE(transaction->Execute("INSERT INTO accounts (id, balance) VALUES ('a', 7)", {}));
    ASSERT_TRUE(transaction->Commit());
  }
  auto database = *Database::OpenSqlite(path);
  auto edited = kTables;
  edited[1].sql = "ALTER TABLE accounts ADD COLUMN notes TEXT";
  auto refused = database->Migrate(edited);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kFailedPrecondition);
  EXPECT_NE(refused.error().message().find("migration 2 (note) was edited"), std::string::npos);
  EXPECT_EQ(database->Migrate({kTables[0]}).error().code(), Code::kFailedPrecondition);
  EXPECT_EQ(database->Migrate({kTables[1], kTables[0]}).error().code(), Code::kInvalidArgument);
  auto broken = kTables;
  broken.push_back(
      {3, "broken", "CREATE TABLE half (id INTEGER); CREATE TABLE accounts (id INTEGER)"});
  ASSERT_FALSE(database->Migrate(broken));
  EXPECT_FALSE(database->Query("SELECT count(*) FROM half", {}))
      << "a failed migration leaves nothing";
  ASSERT_TRUE(database->Migrate(kTables));
  EXPECT_EQ((*database->Query("SELECT balance FROM accounts", {}))[0].Int(0), 7);
}

TEST(Sqlite, AFileThatIsNoDatabaseIsDataLoss) {
  const os::ScratchFolder folder;
  const std::string path = folder / "db";
  {
    std::ofstream file(path);
    for (int i = 0; i < 1000; ++i) file << "this is not a database ";
  }
  auto database = Database::OpenSqlite(path);
  ASSERT_FALSE(database);
  EXPECT_EQ(database.error().code(), Code::kDataLoss);
  EXPECT_FALSE(Database::OpenSqlite("/nonexistent-folder/db"));
}

TEST(Sqlite, TheFileIsPrivateAndDurable) {
  const os::ScratchFolder folder;
  const std::string path = folder / "db";
  auto database = Open(path);
  struct stat status{};
  ASSERT_EQ(stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  ASSERT_EQ(stat((path + "-wal").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  auto transaction = *database->Begin();
  EXPECT_EQ((*transaction->Query("PRAGMA synchronous", {}))[0].Int(0), 2);
  EXPECT_EQ((*transaction->Query("PRAGMA foreign_keys", {}))[0].Int(0), 1);
  EXPECT_EQ((*transaction->Query("PRAGMA busy_timeout", {}))[0].Int(0), 5000);
}

TEST(Sqlite, WritersTakeTurns) {
  auto database = Open();
  {
    auto transaction = *database->Begin();
    ASSERT_TRUE(transaction->Execute("INSERT INTO accounts (id, balance) VALUES ('a', 0)", {}));
    ASSERT_TRUE(transaction->Commit());
  }
  constexpr int kThreads = 4;
  constexpr int kRounds = 100;
  std::atomic<int> failures = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < kRounds; ++i) {
        auto transaction = database->Begin();
        if (!transaction) {
          ++failures;
          continue;
        }
        auto rows = (*transaction)->Query("SELECT balance FROM accounts WHERE id = 'a'", {});
        auto changed = (*transaction)
                           ->Execute("UPDATE accounts SET balance = $1 WHERE id = 'a'",
                                     {std::int64_t{(*rows)[0].Int(0) + 1}});
        if (!changed || !(*transaction)->Commit()) ++failures;
        if (!database->Query("SELECT balance FROM accounts", {})) ++failures;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(failures, 0);
  EXPECT_EQ((*database->Query("SELECT balance FROM accounts", {}))[0].Int(0), kThreads * kRounds);
}

// Moves one unit between two accounts; either both rows change or none, whatever statement fails.
Status Move(Database& database) {
  TRY(auto transaction, database.Begin());
  TRY(auto taken,
      transaction->Execute("UPDATE accounts SET balance = balance - 1 WHERE id = 'a'", {}));
  TRY(auto given,
      transaction->Execute("UPDATE accounts SET balance = balance + 1 WHERE id = 'b'", {}));
  EXPECT_EQ(taken + given, 2);
  return transaction->Commit();
}

TEST(Sqlite, AFaultAtAnyStatementLeavesAllOrNothing) {
  const os::ScratchFolder folder;
  const std::string path = folder / "db";
  {
    auto database = Open(path);
    auto transaction = *database->Begin();
    ASSERT_TRUE(
        transaction->Execute("INSERT INTO accounts (id, balance) VALUES ('a', 100), ('b', 0)", {}));
    ASSERT_TRUE(transaction->Commit());
  }
  std::int64_t expected = 100;
  int faults = 0;
  for (const bool dead : {false, true}) {
    for (int n = 0;; ++n) {
      auto database = Open(path);
      dead ? FailStatementsFromForTest(*database, n) : FailStatementForTest(*database, n);
      const bool moved = Move(*database).has_value();
      const int seen = StatementsSeenForTest(*database);
      FailStatementForTest(*database, -1);
      if (moved) --expected;
      auto rows = database->Query("SELECT balance FROM accounts ORDER BY id", {});
      ASSERT_TRUE(rows);
      EXPECT_EQ((*rows)[0].Int(0), expected);
      EXPECT_EQ((*rows)[1].Int(0), 100 - expected);
      EXPECT_EQ(moved, n >= seen);
      if (moved) break;
      ++faults;
      ASSERT_TRUE(Move(*database)) << "the database must be usable after a fault";
      --expected;
    }
  }
  EXPECT_EQ(faults, 8) << "begin, two updates and the commit, in both modes";
}

TEST(Sqlite, AFaultAtAnyStatementOfAMigrationIsRepairedByTheNextRun) {
  int faults = 0;
  for (int n = 0;; ++n) {
    const os::ScratchFolder folder;
    const std::string path = folder / "db";
    auto database = *Database::OpenSqlite(path);
    FailStatementForTest(*database, n);
    const bool done = database->Migrate(kTables).has_value();
    FailStatementForTest(*database, -1);
    ASSERT_TRUE(database->Migrate(kTables));
    EXPECT_EQ(Count(*database, "schema_migrations"), 2);
    if (done) break;
    ++faults;
  }
  EXPECT_GE(faults, 8);
}

}  // namespace
}  // namespace tessera::store
