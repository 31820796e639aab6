#include "cli/commands.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "base/units.h"
#include "cli/client.h"
#include "cli/table.h"
#include "os/fd.h"
#include "os/files.h"

namespace tessera::cli {
namespace {

constexpr std::size_t kStdinBytesMax = 1 << 20;

std::string Share(std::int64_t part, std::int64_t whole) {
  if (whole <= 0) return "-";
  return std::to_string((part * 100 + whole / 2) / whole) + "%";
}

// "-1 spot"
std::string Rank(const json::value& instance) {
  return Text(instance, "priority") + (Text(instance, "spot") == "true" ? " spot" : "");
}

std::string InstanceLine(const json::value& instance) {
  std::string line = Text(instance, "id") + " " + Text(instance, "state");
  const std::string waiting = Text(instance, "waiting_for");
  if (!waiting.empty()) line += ": waiting for " + waiting;
  return line + "\n";
}

std::string ExplanationOf(const json::value& reply) {
  std::string text = Text(reply, "instance");
  const std::string waiting = Text(reply, "waiting_for");
  text += waiting.empty() ? " is placed\n" : " waits: " + waiting + "\n";
  if (Text(reply, "spot") == "true") text += "spot: it may be stopped for others at any time\n";
  if (const json::value* queue = Find(reply, "queue"); queue != nullptr && queue->is_object()) {
    text += "queue: place " + Text(*queue, "position") + " of " + Text(*queue, "waiting") +
            ", priority " + Text(*queue, "priority") + ", held by rule '" + Text(*queue, "rule") +
            "'\n";
    std::string own;
    for (const json::value& id : Items(*queue, "ahead")) {
      own += (own.empty() ? "" : ", ") + std::string(id.is_string() ? id.as_string().c_str() : "?");
    }
    if (!own.empty()) text += "  ahead, yours: " + own + "\n";
    if (Number(*queue, "others_ahead") > 0) {
      text += "  ahead, of others: " + Text(*queue, "others_ahead") + "\n";
    }
  }
  if (const json::value* quota = Find(reply, "quota"); quota != nullptr && quota->is_object()) {
    Table table({"QUOTA", ">COMPUTE", ">MEMORY"});
    for (const char* row : {"held", "borrowed", "nominal", "borrowing_limit", "lending_limit"}) {
      table.Add({row, Cards(Find(*quota, row)), Memory(Find(*quota, row))});
    }
    text += "\n" + table.ToString();
  }
  if (!Items(reply, "filtered").empty()) {
    Table table({"FILTERED BY", ">NODES", "FOR EXAMPLE", "WHY"});
    for (const json::value& rule : Items(reply, "filtered")) {
      table.Add({Text(rule, "rule"), Text(rule, "nodes"), Text(rule, "example_node"),
                 Text(rule, "message")});
    }
    text += "\n" + table.ToString();
  }
  if (!Items(reply, "best").empty()) {
    Table table({"BEST NODES", ">SCORE", "PARTS", "CARDS"});
    for (const json::value& candidate : Items(reply, "best")) {
      std::string parts;
      for (const json::value& part : Items(candidate, "parts")) {
        parts += (parts.empty() ? "" : " ") + Text(part, "name") + " " + Text(part, "score");
      }
      std::string cards;
      for (const json::value& card : Items(candidate, "cards")) {
        cards += (cards.empty() ? "" : " ") +
                 std::string(card.is_string() ? card.as_string().c_str() : "?");
      }
      table.Add({Text(candidate, "node"), Text(candidate, "score"), parts, cards});
    }
    text += "\n" + table.ToString();
  } else {
    text += "\nno node takes it now\n";
  }
  return text;
}

// One page after another until the cursor ends; bounded so that a broken server cannot hold us for
// ever.
Result<json::value> AllPages(const Context& context, const std::string& path,
                             const std::string& key) {
  constexpr int kPagesMax = 1000;
  json::array all;
  std::string cursor;
  for (int page = 0; page < kPagesMax; ++page) {
    std::string target = path + (path.find('?') == std::string::npos ? "?" : "&") + "limit=100";
    if (!cursor.empty()) target += "&cursor=" + cursor;
    TRY(const json::value reply, Call(context, "GET", target));
    for (const json::value& item : Items(reply, key)) all.push_back(item);
    cursor = Text(reply, "next");
    if (cursor.empty()) return json::value(json::object{{key, all}});
  }
  return Error(Code::kOutOfRange, "more than kPagesMax (1000) pages of " + key);
}

}  // namespace

int ExitCode(const Error& error) {
  switch (error.code()) {
    case Code::kOk:
      return 0;
    case Code::kInvalidArgument:
    case Code::kOutOfRange:
      return 2;
    case Code::kNotFound:
      return 3;
    case Code::kPermissionDenied:
    case Code::kUnauthenticated:
      return 4;
    case Code::kResourceExhausted:
      return 5;
    case Code::kUnavailable:
    case Code::kDeadlineExceeded:
      return 6;
    default:
      return 1;
  }
}

int Report(const Context& context, const Error& error) {
  const std::string field = error.field().empty() ? "" : error.field() + ": ";
  std::fprintf(context.err, "tessera: %s%s\n", field.c_str(), error.message().c_str());
  return ExitCode(error);
}

Result<std::string> LoadKey(const std::string& key_file) {
  if (key_file.empty()) {
    const char* key = std::getenv("TESSERA_KEY");
    if (key != nullptr && *key != '\0') return std::string(key);
  }
  const char* from_environment = std::getenv("TESSERA_KEY_FILE");
  const std::string path = !key_file.empty()             ? key_file
                           : from_environment != nullptr ? from_environment
                                                         : "";
  if (path.empty()) {
    return Error(Code::kUnauthenticated,
                 "no API key: set TESSERA_KEY or TESSERA_KEY_FILE, or give --key-file");
  }
  auto text = os::PosixFiles().Read(path);
  if (!text) return text.error().Wrap("API key");
  const std::string key = text->substr(0, text->find_first_of("\r\n"));
  if (key.empty())
    return Error::Field("key-file", "expected an API key in the first line of " + path);
  return key;
}

int Skus(const Context& context) {
  return Finish(context, Call(context, "GET", "/v1/skus"), [](const json::value& reply) {
    Table table(
        {"SKU", ">MEMORY", ">COMPUTE", ">CPU", ">RAM", ">PRICE/H", ">SPOT/H", "CURRENCY", "CARD"});
    for (const json::value& sku : Items(reply, "skus")) {
      table.Add({Text(sku, "name"),
                 FormatBytes(static_cast<std::uint64_t>(Number(sku, "memory_bytes"))),
                 FormatPermille({static_cast<std::uint32_t>(Number(sku, "compute_permille"))}),
                 std::to_string(Number(sku, "cpu_millis")) + "m",
                 FormatBytes(static_cast<std::uint64_t>(Number(sku, "ram_bytes"))),
                 Text(sku, "price_per_hour"), Text(sku, "spot_price_per_hour"),
                 Text(sku, "currency"), Text(sku, "model")});
    }
    return table.ToString();
  });
}

namespace {

// Until every member runs or has ended.
Result<json::value> WaitForGang(const Context& context, json::value gang, int seconds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  json::array members = Items(gang, "instances");
  for (json::value& member : members) {
    while (Text(member, "state") == "queued" || Text(member, "state") == "starting") {
      if (std::chrono::steady_clock::now() > end) {
        std::fprintf(context.err, "tessera: %s is still %s after %d s\n",
                     Text(member, "id").c_str(), Text(member, "state").c_str(), seconds);
        break;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      TRY(member, Call(context, "GET", "/v1/instances/" + Text(member, "id")));
    }
  }
  gang.as_object()["instances"] = std::move(members);
  return gang;
}

}  // namespace

int Rent(const Context& context, const RentOptions& options) {
  json::object environment;
  for (const std::string& pair : options.environment) {
    const auto equals = pair.find('=');
    if (equals == std::string::npos || equals == 0) {
      return Report(context, Error::Field("env", "expected NAME=value, got \"" + pair + "\""));
    }
    environment[pair.substr(0, equals)] = pair.substr(equals + 1);
  }
  json::object body{{"sku", options.sku},
                    {"command", json::array(options.command.begin(), options.command.end())}};
  if (!options.name.empty()) body["name"] = options.name;
  if (!options.isolation.empty()) body["isolation"] = options.isolation;
  if (!environment.empty()) body["environment"] = environment;
  if (!options.reservation.empty()) body["reservation"] = options.reservation;
  if (options.count > 1) {
    body["count"] = options.count;
    if (options.per_node_min > 1) body["per_node_min"] = options.per_node_min;
    if (!options.same_rack.empty()) body["same_rack"] = options.same_rack;
  } else if (options.per_node_min > 1 || !options.same_rack.empty()) {
    return Report(context, Error::Field("count",
                                        "expected 2 or more with --per-node-min or "
                                        "--same-rack"));
  }
  if (!options.priority.empty()) {
    const auto priority = ParseInt(options.priority, "priority", INT32_MIN, INT32_MAX);
    if (!priority) return Report(context, priority.error());
    body["priority"] = *priority;
  }
  if (options.spot) body["spot"] = true;
  if (options.requeue) body["requeue"] = true;
  auto reply = Call(context, "POST", options.count > 1 ? "/v1/gangs" : "/v1/instances", body);
  if (options.count > 1) {
    if (reply && options.wait) reply = WaitForGang(context, *reply, options.wait_seconds_max);
    return Finish(context, reply, [](const json::value& gang) {
      std::string text = "gang " + Text(gang, "gang") + "\n";
      for (const json::value& member : Items(gang, "instances")) text += InstanceLine(member);
      return text;
    });
  }
  if (reply && options.wait) {
    const auto end =
        std::chrono::steady_clock::now() + std::chrono::seconds(options.wait_seconds_max);
    const std::string id = Text(*reply, "id");
    while (reply) {
      const std::string state = Text(*reply, "state");
      if (state != "queued" && state != "starting") break;
      if (std::chrono::steady_clock::now() > end) {
        std::fprintf(context.err, "tessera: %s is still %s after %d s%s%s\n", id.c_str(),
                     state.c_str(), options.wait_seconds_max,
                     Text(*reply, "waiting_for").empty() ? "" : ", waiting for ",
                     Text(*reply, "waiting_for").c_str());
        break;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      reply = Call(context, "GET", "/v1/instances/" + id);
    }
  }
  return Finish(context, reply, InstanceLine);
}

int Ps(const Context& context, bool all) {
  return Finish(
      context, AllPages(context, "/v1/instances", "instances"), [all](const json::value& reply) {
        Table table({"ID", "NAME", "SKU", "STATE", ">PRIORITY", "CARDS", ">PRICE/H", "NOTE"});
        for (const json::value& instance : Items(reply, "instances")) {
          const std::string state = Text(instance, "state");
          if (!all && state == "released") continue;
          std::string cards;
          for (const json::value& card : Items(instance, "cards")) {
            if (!cards.empty()) cards += ",";
            const std::string uuid =
                card.is_string() ? std::string(card.as_string()) : Text(card, "uuid");
            cards += uuid.size() > 12 ? uuid.substr(uuid.size() - 12) : uuid;
          }
          std::string note = Text(instance, "waiting_for");
          if (note.empty()) note = Text(instance, "reason");
          table.Add({Text(instance, "id"), Text(instance, "name"), Text(instance, "sku"), state,
                     Rank(instance), cards, Text(instance, "price_per_hour"), note});
        }
        return table.ToString();
      });
}

int Show(const Context& context, const std::string& id) {
  const auto checked = CheckedId(id, "instance");
  if (!checked) return Report(context, checked.error());
  auto reply = Call(context, "GET", "/v1/instances/" + id);
  if (reply) {
    auto events = Call(context, "GET", "/v1/instances/" + id + "/events");
    if (!events) return Report(context, events.error());
    if (reply->is_object()) reply->as_object()["events"] = json::array(Items(*events, "events"));
  }
  return Finish(context, reply, [](const json::value& instance) {
    std::string text;
    for (const char* key : {"id", "name", "sku", "isolation", "state", "waiting_for", "reason",
                            "exit_code", "price_per_hour", "priority", "spot", "requeue"}) {
      const std::string value = Text(instance, key);
      if (!value.empty()) text += std::string(key) + ": " + value + "\n";
    }
    Table table({"AT", "EVENT", "DETAIL"});
    for (const json::value& event : Items(instance, "events")) {
      table.Add({Text(event, "at"), Text(event, "kind"), Text(event, "detail")});
    }
    return text + table.ToString();
  });
}

int Explain(const Context& context, const std::string& id) {
  const auto checked = CheckedId(id, "instance");
  if (!checked) return Report(context, checked.error());
  return Finish(context, Call(context, "GET", "/v1/instances/" + id + "/explanation"),
                ExplanationOf);
}

std::string ExplanationText(const std::string& answer) {
  boost::system::error_code error;
  const json::value value = json::parse(answer, error);
  return error ? error.message() : ExplanationOf(value);
}

int Logs(const Context& context, const std::string& id, bool follow) {
  const auto checked = CheckedId(id, "instance");
  if (!checked) return Report(context, checked.error());
  std::int64_t offset = 0;
  while (true) {
    auto reply =
        Call(context, "GET", "/v1/instances/" + id + "/logs?offset=" + std::to_string(offset));
    if (!reply) return Report(context, reply.error());
    const std::string text = Text(*reply, "text");
    const std::int64_t next = Number(*reply, "next_offset");
    if (context.output == Output::kJson) {
      Print(context, json::serialize(*reply) + "\n");
      return 0;
    }
    std::fwrite(text.data(), 1, text.size(), context.out);
    std::fflush(context.out);
    const bool more = next > offset && !text.empty();
    offset = std::max(offset, next);
    if (more) continue;
    if (!follow) return 0;
    auto instance = Call(context, "GET", "/v1/instances/" + id);
    if (!instance) return Report(context, instance.error());
    const std::string state = Text(*instance, "state");
    if (state != "running" && state != "queued" && state != "starting" && state != "stopping")
      return 0;
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
  }
}

int Exec(const Context& context, const std::string& id, const std::vector<std::string>& command,
         bool read_stdin) {
  const auto checked = CheckedId(id, "instance");
  if (!checked) return Report(context, checked.error());
  std::string input;
  if (read_stdin) {
    char buffer[65536];
    ssize_t n;
    while ((n = read(0, buffer, sizeof buffer)) > 0) {
      input.append(buffer, static_cast<std::size_t>(n));
      if (input.size() > kStdinBytesMax) {
        return Report(context, Error::Field("stdin", "expected at most kStdinBytesMax (1 MiB)"));
      }
    }
  }
  json::object body{{"command", json::array(command.begin(), command.end())}};
  if (!input.empty()) body["stdin"] = input;
  auto reply = Call(context, "POST", "/v1/instances/" + id + "/exec", body);
  if (!reply) return Report(context, reply.error());
  if (context.output == Output::kJson) {
    Print(context, json::serialize(*reply) + "\n");
  } else {
    const std::string text = Text(*reply, "output");
    std::fwrite(text.data(), 1, text.size(), context.out);
    if (const auto* truncated = Find(*reply, "truncated");
        truncated != nullptr && truncated->is_bool() && truncated->as_bool()) {
      std::fputs("tessera: output was cut at 1 MiB\n", context.err);
    }
  }
  return static_cast<int>(Number(*reply, "exit_code"));
}

namespace {

int Act(const Context& context, const std::string& id, const std::string& method,
        const std::string& suffix) {
  const auto checked = CheckedId(id, "instance");
  if (!checked) return Report(context, checked.error());
  return Finish(context, Call(context, method, "/v1/instances/" + id + suffix),
                [&](const json::value& reply) {
                  return reply.is_object() ? InstanceLine(reply) : id + " released\n";
                });
}

}  // namespace

int Stop(const Context& context, const std::string& id) {
  return Act(context, id, "POST", "/stop");
}
int Start(const Context& context, const std::string& id) {
  return Act(context, id, "POST", "/start");
}
int Release(const Context& context, const std::string& id) {
  return Act(context, id, "DELETE", "");
}

int Bill(const Context& context) {
  return Finish(context, Call(context, "GET", "/v1/bill"), [](const json::value& reply) {
    Table table({"INSTANCE", "NAME", "SKU", "FROM", "TO", ">SECONDS", ">PRICE/H", ">AMOUNT"});
    for (const json::value& line : Items(reply, "lines")) {
      table.Add({Text(line, "instance"), Text(line, "name"), Text(line, "sku"), Text(line, "from"),
                 Text(line, "to"), Text(line, "seconds"),
                 Text(line, "price_per_hour") + (Text(line, "spot") == "true" ? " spot" : ""),
                 Text(line, "amount")});
    }
    return table.ToString() + "total " + Text(reply, "total") + " " + Text(reply, "currency") +
           "\n" + Text(reply, "rule") + "\n";
  });
}

int Top(const Context& context) {
  return Finish(context, Call(context, "GET", "/v1/cards"), [](const json::value& reply) {
    Table table(
        {"NODE", "CARD", "MODEL", ">MEMORY", ">SOLD", ">USED", ">COMPUTE SOLD", ">BUSY", "NOTE"});
    for (const json::value& card : Items(reply, "cards")) {
      const auto* simulated = Find(card, "simulated");
      const std::int64_t memory = Number(card, "memory_bytes");
      table.Add({Text(card, "node"), Text(card, "uuid"), Text(card, "model"),
                 FormatBytes(static_cast<std::uint64_t>(memory)),
                 Share(Number(card, "reserved_bytes"), memory),
                 Share(Number(card, "used_bytes"), memory),
                 Share(Number(card, "reserved_permille"), 1000),
                 Share(Number(card, "busy_permille"), 1000),
                 simulated != nullptr && simulated->is_bool() && simulated->as_bool() ? "simulated"
                                                                                      : ""});
    }
    return table.ToString();
  });
}

int Me(const Context& context) {
  return Finish(context, Call(context, "GET", "/v1/me"), [](const json::value& reply) {
    std::string text;
    for (const char* key : {"id", "name", "role", "balance", "held", "available", "currency"}) {
      const std::string value = Text(reply, key);
      if (!value.empty()) text += std::string(key) + ": " + value + "\n";
    }
    return text;
  });
}

int CreateTenant(const Context& context, const std::string& name, const std::string& key_out) {
  os::Fd file;
  if (!key_out.empty()) {
    // Opened before the tenant is made: a key that cannot be written down would be lost for ever.
    file = os::Fd(open(key_out.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!file)
      return Report(context, Error::Field("key-out", key_out + ": " + std::strerror(errno)));
  }
  auto reply = Call(context, "POST", "/v1/tenants", json::object{{"name", name}});
  if (!reply) {
    if (file) unlink(key_out.c_str());
    return Report(context, reply.error());
  }
  if (file) {
    const std::string key = Text(*reply, "api_key") + "\n";
    if (write(file.get(), key.data(), key.size()) != static_cast<ssize_t>(key.size())) {
      return Report(context, Error(Code::kInternal,
                                   "writing " + key_out + " failed: " + std::strerror(errno)));
    }
    if (reply->is_object()) reply->as_object().erase("api_key");
  }
  return Finish(context, reply, [](const json::value& tenant) {
    const std::string key = Text(tenant, "api_key");
    return Text(tenant, "id") + " " + Text(tenant, "name") +
           (key.empty() ? "" : "\nkey (shown once): " + key) + "\n";
  });
}

int Tenants(const Context& context) {
  return Finish(context, Call(context, "GET", "/v1/tenants"), [](const json::value& reply) {
    Table table({"ID", "NAME", ">BALANCE", ">HELD", ">PRIORITY MAX"});
    for (const json::value& tenant : Items(reply, "tenants")) {
      table.Add({Text(tenant, "id"), Text(tenant, "name"), Text(tenant, "balance"),
                 Text(tenant, "held"), Text(tenant, "priority_max")});
    }
    return table.ToString();
  });
}

int Deposit(const Context& context, const std::string& tenant, const std::string& amount) {
  const auto checked = CheckedId(tenant, "tenant");
  if (!checked) return Report(context, checked.error());
  return Finish(
      context,
      Call(context, "POST", "/v1/tenants/" + tenant + "/deposits",
           json::object{{"amount", amount}}),
      [](const json::value& reply) { return "balance " + Text(reply, "balance") + "\n"; });
}

int CheckLedger(const Context& context) {
  auto reply = Call(context, "GET", "/v1/ledger");
  const int code = Finish(context, reply, [](const json::value& ledger) {
    Table table({"ACCOUNT", ">BALANCE"});
    for (const json::value& account : Items(ledger, "accounts")) {
      table.Add({Text(account, "name"), Text(account, "balance")});
    }
    return table.ToString() + "sum " + Text(ledger, "sum") + "\n";
  });
  if (code == 0) {
    const auto sum = ParseMoney(Text(*reply, "sum"), "sum");
    if (!sum || sum->micro != 0)
      return Report(context, Error(Code::kDataLoss, "the ledger does not sum to zero"));
  }
  return code;
}

int AddSku(const Context& context, const SkuOptions& options) {
  json::object body{{"name", options.name},
                    {"price_per_hour", options.price_per_hour},
                    {"memory", options.memory},
                    {"compute", options.compute},
                    {"ram", options.ram}};
  const auto cpu = ParseInt(options.cpu, "cpu", 0, 1'000'000);
  if (!cpu) return Report(context, cpu.error());
  body["cpu_millis"] = *cpu;
  if (!options.model.empty()) body["model"] = options.model;
  return Finish(context, Call(context, "POST", "/v1/skus", body), [](const json::value& sku) {
    return Text(sku, "name") + " " + Text(sku, "version") + "\n";
  });
}

}  // namespace tessera::cli
