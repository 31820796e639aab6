// One function a command of `tessera`. Each asks the cloud's REST API, prints the answer to `out`
// (a table, or the API's own JSON with --output json) or one line to `err`, and returns the
// process's exit code. Not thread-safe; one command a process.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

#include "base/result.h"

namespace tessera::cli {

enum class Output { kTable, kJson };

struct Context {
  std::string endpoint;  // "http://127.0.0.1:7070" or "unix:/path/to/socket"
  std::string key;       // API key; never taken from the command line, where `ps` would show it
  Output output = Output::kTable;
  std::FILE* out = stdout;
  std::FILE* err = stderr;
};

// Exit codes: 0 done, 1 failed, 2 bad input, 3 not found, 4 not allowed, 5 exhausted or no funds, 6
// not reachable.
int ExitCode(const Error& error);
// "tessera: memory: expected ..." on err; returns ExitCode(error).
int Report(const Context& context, const Error& error);

// The key from $TESSERA_KEY, else the first line of `key_file` (or $TESSERA_KEY_FILE).
Result<std::string> LoadKey(const std::string& key_file);

struct RentOptions {
  std::string sku;
  std::string isolation;  // empty: not said
  std::string name;
  std::vector<std::string> environment;  // NAME=value
  std::vector<std::string> command;
  std::string reservation;
  int count = 1;  // above 1: a gang, which starts together or not at all
  int per_node_min = 1;
  std::string same_rack;  // prefer, require; empty: as the cloud does it
  std::string priority;   // empty: as the cloud says
  bool spot = false;
  bool requeue = false;
  bool wait = false;  // until it runs or ended
  int wait_seconds_max = 60;
};

int Skus(const Context& context);
int Rent(const Context& context, const RentOptions& options);
int Ps(const Context& context, bool all);
int Show(const Context& context, const std::string& id);
int Explain(const Context& context, const std::string& id);
// What Explain prints of the API's answer when a table is asked for.
std::string ExplanationText(const std::string& answer);
int Logs(const Context& context, const std::string& id, bool follow);
int Exec(const Context& context, const std::string& id, const std::vector<std::string>& command,
         bool read_stdin);
int Stop(const Context& context, const std::string& id);
int Start(const Context& context, const std::string& id);
int Release(const Context& context, const std::string& id);
int Bill(const Context& context);
int Top(const Context& context);
int Me(const Context& context);

// For the operator (admin key).
int CreateTenant(const Context& context, const std::string& name, const std::string& key_out);
int Tenants(const Context& context);
int Deposit(const Context& context, const std::string& tenant, const std::string& amount);
int CheckLedger(const Context& context);
struct SkuOptions {
  std::string name;
  std::string price_per_hour;
  std::string memory;
  std::string compute;
  std::string cpu = "0";
  std::string ram = "0B";
  std::string model;
};
int AddSku(const Context& context, const SkuOptions& options);
struct ReservationOptions {
  std::string tenant;
  std::string sku;
  int units = 1;
  bool open = false;
  bool lend = false;
  std::string start;  // such as 2026-01-31T08:05:09Z; empty: now
  std::string end;    // empty: until it is deleted
};
int CreateReservation(const Context& context, const ReservationOptions& options);
int Reservations(const Context& context);  // a tenant's own, the admin's all
// What Reservations prints of the API's answer when a table is asked for.
std::string ReservationsText(const std::string& answer);
int DeleteReservation(const Context& context, const std::string& id);

}  // namespace tessera::cli
