// SQLite behind database.h: one connection that writes and one that reads, both on the same WAL
// file.
#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <map>
#include <mutex>
#include <utility>

#include "base/check.h"
#include "store/database.h"

namespace tessera::store {
namespace {

constexpr int kBusyMillis = 5000;
constexpr std::size_t kStatementsMax = 256;
constexpr std::size_t kRowsMax = 1'000'000;

Error FromSqlite(int code, const std::string& message) {
  switch (code & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return Error(Code::kUnavailable, "database busy for kBusyMillis (5000 ms): " + message);
    case SQLITE_CONSTRAINT:
      if (code == SQLITE_CONSTRAINT_UNIQUE || code == SQLITE_CONSTRAINT_PRIMARYKEY) {
        return Error(Code::kAlreadyExists, message);
      }
      return Error(Code::kFailedPrecondition, message);
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT:
      return Error(Code::kDataLoss, message);
    case SQLITE_FULL:
      return Error(Code::kResourceExhausted, "disk full: " + message);
    case SQLITE_CANTOPEN:
      return Error(Code::kFailedPrecondition, message);
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
      return Error(Code::kPermissionDenied, message);
    default:
      return Error(Code::kInternal, message);
  }
}

// FNV-1a: the checksum tells an edited migration from an applied one; nobody attacks it.
std::string Checksum(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325ull;
  for (const char c : text) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 0x100000001b3ull;
  }
  static constexpr char kHex[] = "0123456789abcdef";
  std::string hex(16, '0');
  for (int i = 15; i >= 0; --i, hash >>= 4) hex[static_cast<std::size_t>(i)] = kHex[hash & 15];
  return hex;
}

// One sqlite3 handle with its prepared statements. Not thread-safe; the database's locks guard it.
class Connection {
 public:
  Connection() = default;
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection() {
    for (auto& [sql, statement] : statements_) sqlite3_finalize(statement);
    sqlite3_close(handle_);
  }

  Status Open(const std::string& path, int flags, bool durable) {
    const int code = sqlite3_open_v2(path.c_str(), &handle_, flags, nullptr);
    if (code != SQLITE_OK) return Failure(code).Wrap("open " + path);
    sqlite3_extended_result_codes(handle_, 1);
    sqlite3_busy_timeout(handle_, kBusyMillis);
    TRY_STATUS(Script("PRAGMA foreign_keys=ON"));
    TRY_STATUS(Script(durable ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=OFF"));
    // Reading the schema is what finds out that the file is no database.
    TRY(auto mode, Run("PRAGMA journal_mode=WAL", {}, nullptr));
    if (mode.size() != 1 || mode[0].Text(0) != "wal") {
      return Error(Code::kFailedPrecondition, path + ": the file system does not carry a WAL");
    }
    return {};
  }

  // Several statements without parameters.
  Status Script(const std::string& sql) {
    const int code = sqlite3_exec(handle_, sql.c_str(), nullptr, nullptr, nullptr);
    if (code != SQLITE_OK) return Failure(code);
    return {};
  }

  Result<std::vector<Row>> Run(std::string_view sql, const std::vector<Value>& parameters,
                               std::int64_t* changed) {
    TRY(sqlite3_stmt * statement, Prepare(sql));
    auto rows = Step(statement, parameters, changed);
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
    return rows;
  }

  bool InTransaction() const { return sqlite3_get_autocommit(handle_) == 0; }

 private:
  Error Failure(int code) const {
    return FromSqlite(code, handle_ != nullptr ? sqlite3_errmsg(handle_) : sqlite3_errstr(code));
  }

  Result<sqlite3_stmt*> Prepare(std::string_view sql) {
    if (const auto found = statements_.find(sql); found != statements_.end()) return found->second;
    sqlite3_stmt* statement = nullptr;
    const char* tail = nullptr;
    const int code =
        sqlite3_prepare_v2(handle_, sql.data(), static_cast<int>(sql.size()), &statement, &tail);
    if (code != SQLITE_OK) return Failure(code).Wrap(sql);
    const std::string_view rest = sql.substr(static_cast<std::size_t>(tail - sql.data()));
    if (statement == nullptr || rest.find_first_not_of(" \t\r\n;") != std::string_view::npos) {
      sqlite3_finalize(statement);
      return Error(Code::kInternal, "expected exactly one SQL statement: " + std::string(sql));
    }
    if (statements_.size() >= kStatementsMax) {
      for (auto& [text, old] : statements_) sqlite3_finalize(old);
      statements_.clear();
    }
    statements_.emplace(std::string(sql), statement);
    return statement;
  }

  Result<std::vector<Row>> Step(sqlite3_stmt* statement, const std::vector<Value>& parameters,
                                std::int64_t* changed) {
    if (sqlite3_bind_parameter_count(statement) != static_cast<int>(parameters.size())) {
      return Error(Code::kInternal, "SQL with " +
                                        std::to_string(sqlite3_bind_parameter_count(statement)) +
                                        " parameters got " + std::to_string(parameters.size()) +
                                        ": " + sqlite3_sql(statement));
    }
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      // SQLite numbers "$3" by its first appearance, so the name decides, not the order.
      const int index =
          sqlite3_bind_parameter_index(statement, ("$" + std::to_string(i + 1)).c_str());
      if (index == 0) {
        return Error(Code::kInternal, "SQL lacks parameter $" + std::to_string(i + 1) + ": " +
                                          sqlite3_sql(statement));
      }
      int code = SQLITE_OK;
      if (const auto* number = std::get_if<std::int64_t>(&parameters[i])) {
        code = sqlite3_bind_int64(statement, index, *number);
      } else if (const auto* text = std::get_if<std::string>(&parameters[i])) {
        code = sqlite3_bind_text64(statement, index, text->data(), text->size(), SQLITE_TRANSIENT,
                                   SQLITE_UTF8);
      } else {
        code = sqlite3_bind_null(statement, index);
      }
      if (code != SQLITE_OK) return Failure(code);
    }
    std::vector<Row> rows;
    while (true) {
      const int code = sqlite3_step(statement);
      if (code == SQLITE_DONE) break;
      if (code != SQLITE_ROW) return Failure(code);
      if (rows.size() >= kRowsMax) {
        return Error(Code::kResourceExhausted, "a query answers at most kRowsMax (1000000) rows: " +
                                                   std::string(sqlite3_sql(statement)));
      }
      Row row;
      const int columns = sqlite3_column_count(statement);
      for (int i = 0; i < columns; ++i) {
        switch (sqlite3_column_type(statement, i)) {
          case SQLITE_INTEGER:
            row.values.emplace_back(static_cast<std::int64_t>(sqlite3_column_int64(statement, i)));
            break;
          case SQLITE_NULL:
            row.values.emplace_back(nullptr);
            break;
          case SQLITE_FLOAT:
            return Error(Code::kOutOfRange,
                         std::string("column ") + sqlite3_column_name(statement, i) +
                             " is a float (integer overflow?): " + sqlite3_sql(statement));
          default: {
            const auto* bytes = static_cast<const char*>(sqlite3_column_blob(statement, i));
            const auto size = static_cast<std::size_t>(sqlite3_column_bytes(statement, i));
            row.values.emplace_back(bytes == nullptr ? std::string() : std::string(bytes, size));
          }
        }
      }
      rows.push_back(std::move(row));
    }
    if (changed != nullptr) *changed = sqlite3_changes64(handle_);
    return rows;
  }

  sqlite3* handle_ = nullptr;
  std::map<std::string, sqlite3_stmt*, std::less<>> statements_;
};

class SqliteTransaction;

// Thread-safe. The writer connection belongs to whoever holds `writing_`; the reader has its own
// lock.
class SqliteDatabase final : public Database {
 public:
  ~SqliteDatabase() override {
    reader_.reset();
    writer_.reset();
    if (folder_.empty()) return;
    for (const char* suffix : {"", "-wal", "-shm"}) unlink((folder_ + "/db" + suffix).c_str());
    rmdir(folder_.c_str());
  }

  Status Open(std::string path) {
    const bool durable = path != ":memory:";
    if (!durable) {
      const char* base = std::getenv("TMPDIR");
      std::string pattern = std::string(base != nullptr ? base : "/tmp") + "/tessera-db-XXXXXX";
      if (mkdtemp(pattern.data()) == nullptr) {
        return Error(Code::kUnavailable, "cannot create a temporary folder like " + pattern);
      }
      folder_ = pattern;
      path = folder_ + "/db";
    }
    // SQLite would create the file readable by everyone; its -wal and -shm inherit the mode.
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0) close(fd);
    writer_ = std::make_unique<Connection>();
    TRY_STATUS(writer_->Open(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                             durable));
    reader_ = std::make_unique<Connection>();
    TRY_STATUS(reader_->Open(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, durable));
    return reader_->Script("PRAGMA query_only=ON");
  }

  Status Migrate(const std::vector<Migration>& migrations) override;
  Result<std::unique_ptr<Transaction>> Begin() override;

  Result<std::vector<Row>> Query(std::string_view sql,
                                 const std::vector<Value>& parameters) override {
    const std::lock_guard lock(reader_mutex_);
    TRY_STATUS(Fault());
    return reader_->Run(sql, parameters, nullptr);
  }

  Connection& writer() { return *writer_; }
  void Release() {
    {
      const std::lock_guard lock(writing_mutex_);
      writing_ = false;
    }
    writing_ended_.notify_one();
  }

  // The injected failure of this statement, if it is its turn.
  Status Fault() {
    const std::lock_guard lock(fault_mutex_);
    const int number = seen_++;
    if (fail_at_ >= 0 && (number == fail_at_ || (fail_on_ && number > fail_at_))) {
      return Error(Code::kInternal, "injected fault at statement " + std::to_string(number));
    }
    return {};
  }
  void Arm(int n, bool on) {
    const std::lock_guard lock(fault_mutex_);
    fail_at_ = n;
    fail_on_ = on;
    seen_ = 0;
  }
  int Seen() {
    const std::lock_guard lock(fault_mutex_);
    return seen_;
  }

 private:
  std::string folder_;  // set for ":memory:": removed at the end
  std::unique_ptr<Connection> writer_;
  std::unique_ptr<Connection> reader_;
  std::mutex reader_mutex_;
  std::mutex writing_mutex_;
  std::condition_variable writing_ended_;
  bool writing_ = false;
  std::mutex fault_mutex_;
  int fail_at_ = -1;
  bool fail_on_ = false;
  int seen_ = 0;
};

class SqliteTransaction final : public Transaction {
 public:
  explicit SqliteTransaction(SqliteDatabase& database) : database_(database) {}
  ~SqliteTransaction() override {
    Rollback();
    database_.Release();
  }

  Status Start() {
    TRY_STATUS(database_.Fault());
    TRY_STATUS(database_.writer().Script("BEGIN IMMEDIATE"));
    open_ = true;
    return {};
  }

  Result<std::vector<Row>> Query(std::string_view sql,
                                 const std::vector<Value>& parameters) override {
    return Run(sql, parameters, nullptr);
  }

  Result<std::int64_t> Execute(std::string_view sql,
                               const std::vector<Value>& parameters) override {
    std::int64_t changed = 0;
    TRY(auto rows, Run(sql, parameters, &changed));
    (void)rows;
    return changed;
  }

  Status Script(const std::string& sql) {
    if (!open_) return Over();
    auto status = database_.Fault();
    if (status) status = database_.writer().Script(sql);
    if (!status) Rollback();
    return status;
  }

  Status Commit() override {
    if (!open_) return Over();
    auto status = database_.Fault();
    if (status) status = database_.writer().Script("COMMIT");
    if (!status) {
      Rollback();
      return status;
    }
    open_ = false;
    return {};
  }

 private:
  static Error Over() {
    return Error(Code::kAborted, "the transaction is over: committed, or a statement failed");
  }

  Result<std::vector<Row>> Run(std::string_view sql, const std::vector<Value>& parameters,
                               std::int64_t* changed) {
    if (!open_) return Over();
    if (auto fault = database_.Fault(); !fault) {
      Rollback();
      return fault.error();
    }
    auto rows = database_.writer().Run(sql, parameters, changed);
    if (!rows) Rollback();
    return rows;
  }

  void Rollback() {
    // Some errors (disk full, I/O) roll back by themselves; then there is nothing left to end.
    if (open_ && database_.writer().InTransaction()) {
      CHECK(database_.writer().Script("ROLLBACK").has_value());
    }
    open_ = false;
  }

  SqliteDatabase& database_;
  bool open_ = false;
};

Result<std::unique_ptr<Transaction>> SqliteDatabase::Begin() {
  {
    std::unique_lock lock(writing_mutex_);
    if (!writing_ended_.wait_for(lock, std::chrono::milliseconds(kBusyMillis),
                                 [this] { return !writing_; })) {
      return Error(Code::kUnavailable,
                   "another writer held the database for kBusyMillis (5000 ms)");
    }
    writing_ = true;
  }
  auto transaction = std::make_unique<SqliteTransaction>(*this);
  TRY_STATUS(transaction->Start());
  return std::unique_ptr<Transaction>(std::move(transaction));
}

Status SqliteDatabase::Migrate(const std::vector<Migration>& migrations) {
  int previous = 0;
  for (const Migration& migration : migrations) {
    if (migration.number <= previous) {
      return Error(Code::kInvalidArgument, "migrations must be numbered upwards from 1: " +
                                               std::to_string(migration.number) + " follows " +
                                               std::to_string(previous));
    }
    previous = migration.number;
  }
  std::map<std::int64_t, std::pair<std::string, std::string>> applied;
  {
    TRY(auto transaction, Begin());
    TRY_STATUS(
        static_cast<SqliteTransaction&>(*transaction)
            .Script("CREATE TABLE IF NOT EXISTS schema_migrations ("
                    "number INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL)"));
    TRY(const auto rows,
        transaction->Query("SELECT number, name, checksum FROM schema_migrations ORDER BY number",
                           {}));
    for (const Row& row : rows) applied[row.Int(0)] = {row.Text(1), row.Text(2)};
    TRY_STATUS(transaction->Commit());
  }
  for (const auto& [number, entry] : applied) {
    bool known = false;
    for (const Migration& migration : migrations) {
      if (migration.number != number) continue;
      known = true;
      if (Checksum(migration.sql) != entry.second) {
        return Error(Code::kFailedPrecondition,
                     "migration " + std::to_string(number) + " (" + entry.first +
                         ") was edited after it had been applied; add a new one instead");
      }
    }
    if (!known) {
      return Error(Code::kFailedPrecondition,
                   "the database has migration " + std::to_string(number) + " (" + entry.first +
                       "), which this program does not know; use the newer program");
    }
  }
  for (const Migration& migration : migrations) {
    if (applied.contains(migration.number)) continue;
    if (!applied.empty() && migration.number < applied.rbegin()->first) {
      return Error(Code::kFailedPrecondition, "migration " + std::to_string(migration.number) +
                                                  " would run after " +
                                                  std::to_string(applied.rbegin()->first));
    }
    TRY(auto transaction, Begin());
    if (auto done =
            static_cast<SqliteTransaction&>(*transaction).Script(std::string(migration.sql));
        !done) {
      return done.error().Wrap("migration " + std::to_string(migration.number) + " (" +
                               std::string(migration.name) + ")");
    }
    TRY(const auto changed,
        transaction->Execute(
            "INSERT INTO schema_migrations (number, name, checksum) VALUES ($1, $2, $3)",
            {std::int64_t{migration.number}, std::string(migration.name),
             Checksum(migration.sql)}));
    CHECK(changed == 1);
    TRY_STATUS(transaction->Commit());
    applied[migration.number] = {std::string(migration.name), Checksum(migration.sql)};
  }
  return {};
}

SqliteDatabase& AsSqlite(Database& database) {
  auto* sqlite = dynamic_cast<SqliteDatabase*>(&database);
  CHECK(sqlite != nullptr);
  return *sqlite;
}

}  // namespace

std::int64_t Row::Int(std::size_t column) const {
  CHECK(column < values.size());
  const auto* number = std::get_if<std::int64_t>(&values[column]);
  CHECK(number != nullptr);
  return *number;
}

const std::string& Row::Text(std::size_t column) const {
  CHECK(column < values.size());
  const auto* text = std::get_if<std::string>(&values[column]);
  CHECK(text != nullptr);
  return *text;
}

bool Row::IsNull(std::size_t column) const {
  CHECK(column < values.size());
  return std::holds_alternative<std::nullptr_t>(values[column]);
}

Result<std::unique_ptr<Database>> Database::OpenSqlite(const std::string& path) {
  auto database = std::make_unique<SqliteDatabase>();
  TRY_STATUS(database->Open(path));
  return std::unique_ptr<Database>(std::move(database));
}

void FailStatementForTest(Database& database, int n) { AsSqlite(database).Arm(n, false); }
void FailStatementsFromForTest(Database& database, int n) { AsSqlite(database).Arm(n, true); }
int StatementsSeenForTest(Database& database) { return AsSqlite(database).Seen(); }

}  // namespace tessera::store
