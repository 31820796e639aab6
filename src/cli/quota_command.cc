#include "cli/quota_command.h"

#include <algorithm>
#include <map>

#include "base/units.h"
#include "cli/client.h"
#include "cli/table.h"

namespace tessera::cli {
namespace {

constexpr std::int64_t kCardsMax = 1'000'000;

// "2" or "2.5": cards, to the thousandth.
Result<json::value> ParseCards(const std::string& text, const char* field) {
  if (text == "none") return json::value(nullptr);
  const auto dot = text.find('.');
  const std::string digits = dot == std::string::npos ? "" : text.substr(dot + 1);
  const auto whole = ParseInt(text.substr(0, dot), field, 0, kCardsMax);
  const auto part = digits.empty() ? Result<std::int64_t>(0) : ParseInt(digits, field, 0, 999);
  if (!whole || !part || digits.size() > 3 || (dot != std::string::npos && digits.empty())) {
    return Error::Field(field, "expected cards like 2 or 2.5, to the thousandth, at most " +
                                   std::to_string(kCardsMax) + ", or none; got \"" + text + "\"");
  }
  std::int64_t millis = *part;
  for (std::size_t i = digits.size(); i < 3; ++i) millis *= 10;
  return json::value(*whole * 1000 + millis);
}

Result<json::value> ParseMemory(const std::string& text, const char* field) {
  if (text == "none") return json::value(nullptr);
  TRY(const std::uint64_t bytes, ParseBytes(text, field));
  return json::value(bytes);
}

// Names of tenants by id.
Result<std::map<std::string, std::string>> TenantNames(const Context& context) {
  TRY(const json::value reply, Call(context, "GET", "/v1/tenants"));
  std::map<std::string, std::string> names;
  for (const json::value& tenant : Items(reply, "tenants")) {
    names[Text(tenant, "id")] = Text(tenant, "name");
  }
  return names;
}

// A tenant is known by his id or his name, anything else names a group.
Result<std::string> QuotaName(const Context& context, const std::string& name) {
  TRY(const auto names, TenantNames(context));
  for (const auto& [id, known] : names) {
    if (name == id || name == known) return id;
  }
  return name;
}

std::string Amount(const json::value* amount) { return Cards(amount) + ", " + Memory(amount); }

std::string QueueText(const json::value& rules, const std::map<std::string, std::string>& names) {
  const json::value none;
  const json::value* policy = Find(rules, "policy");
  if (policy == nullptr) policy = &none;
  const std::string file = Text(rules, "file");
  std::string text =
      "rules: " + (file.empty() ? "version " + Text(rules, "version") : "of " + file) + "\n";
  for (const char* key : {"fair_share", "preemption", "reclaim"}) {
    text += std::string(key) + ": " + Text(*policy, key) + "\n";
  }
  std::map<std::string, const json::value*> uses;
  for (const json::value& use : Items(rules, "use")) uses[Text(use, "name")] = &use;
  Table table({"QUOTA", "TENANT", "PARENT", ">WEIGHT", ">NOMINAL", ">HELD", ">BORROWED",
               ">BORROWS AT MOST", ">LENDS AT MOST"});
  for (const json::value& quota : Items(*policy, "quotas")) {
    const std::string name = Text(quota, "name");
    const auto tenant = names.find(name);
    const json::value& use = uses.count(name) != 0 ? *uses[name] : none;
    const bool alone = Text(quota, "parent").empty();
    table.Add({name, tenant == names.end() ? "" : tenant->second, Text(quota, "parent"),
               Text(quota, "weight"), Amount(Find(quota, "nominal")), Amount(Find(use, "held")),
               Amount(Find(use, "borrowed")), alone ? "-" : Amount(Find(quota, "borrowing_limit")),
               alone ? "-" : Amount(Find(quota, "lending_limit"))});
  }
  return table.size() == 0 ? text : text + "\n" + table.ToString();
}

int ShowQueue(const Context& context, const Result<json::value>& rules) {
  if (!rules) return Report(context, rules.error());
  std::map<std::string, std::string> names;
  if (context.output == Output::kTable) {
    auto known = TenantNames(context);
    if (!known) return Report(context, known.error());
    names = *std::move(known);
  }
  return Finish(context, rules, [&](const json::value& reply) { return QueueText(reply, names); });
}

// Reads the rules, changes them and puts them back, unless somebody else did meanwhile.
int Change(const Context& context, const std::function<Status(json::object& policy)>& change) {
  auto rules = Call(context, "GET", "/v1/queue");
  if (!rules) return Report(context, rules.error());
  const json::value* policy = Find(*rules, "policy");
  if (policy == nullptr || !policy->is_object()) {
    return Report(context, Error(Code::kInternal, "the server's answer has no policy"));
  }
  json::object changed = policy->as_object();
  if (const Status done = change(changed); !done) return Report(context, done.error());
  json::object body{{"version", Number(*rules, "version")}, {"policy", changed}};
  return ShowQueue(context, Call(context, "PUT", "/v1/queue", body));
}

json::array& Quotas(json::object& policy) {
  json::value& quotas = policy["quotas"];
  if (!quotas.is_array()) quotas = json::array();
  return quotas.as_array();
}

Status SetAmount(json::object& quota, const char* key, const std::string& cards,
                 const char* cards_flag, const std::string& memory, const char* memory_flag) {
  if (cards.empty() && memory.empty()) return {};
  json::value& value = quota[key];
  // A limit that was not there is none; a nominal that was not there is nothing.
  if (!value.is_object()) {
    const json::value absent = key == std::string_view("nominal") ? json::value(0) : nullptr;
    value = json::object{{"card_millis", absent}, {"memory_bytes", absent}};
  }
  json::object& amount = value.as_object();
  if (!cards.empty()) {
    TRY(amount["card_millis"], ParseCards(cards, cards_flag));
  }
  if (!memory.empty()) {
    TRY(amount["memory_bytes"], ParseMemory(memory, memory_flag));
  }
  return {};
}

}  // namespace

int Quota(const Context& context) {
  return Finish(context, Call(context, "GET", "/v1/quota"), [](const json::value& reply) {
    std::string text = "priority_max: " + Text(reply, "priority_max") + "\n";
    const json::value* quota = Find(reply, "quota");
    if (quota == nullptr || !quota->is_object()) return text + "no quota limits you\n";
    Table table({"QUOTA", ">COMPUTE", ">MEMORY"});
    for (const char* row : {"held", "borrowed", "nominal", "borrowing_limit", "lending_limit"}) {
      table.Add({row, Cards(Find(*quota, row)), Memory(Find(*quota, row))});
    }
    return text + table.ToString();
  });
}

int Queue(const Context& context) { return ShowQueue(context, Call(context, "GET", "/v1/queue")); }

int SetQueue(const Context& context, const QueueOptions& options) {
  return Change(context, [&](json::object& policy) -> Status {
    if (options.fair_share) policy["fair_share"] = *options.fair_share;
    if (options.preemption) policy["preemption"] = *options.preemption;
    if (!options.reclaim.empty()) policy["reclaim"] = options.reclaim;
    return {};
  });
}

int SetQuota(const Context& context, const QuotaOptions& options) {
  const auto name = QuotaName(context, options.name);
  if (!name) return Report(context, name.error());
  return Change(context, [&](json::object& policy) -> Status {
    json::array& quotas = Quotas(policy);
    auto found = std::find_if(quotas.begin(), quotas.end(), [&](const json::value& quota) {
      return Text(quota, "name") == *name;
    });
    if (found == quotas.end()) {
      quotas.push_back(json::object{{"name", *name}});
      found = quotas.end() - 1;
    }
    json::object& quota = found->as_object();
    if (options.parent) quota["parent"] = *options.parent;
    TRY_STATUS(SetAmount(quota, "nominal", options.cards, "cards", options.memory, "memory"));
    TRY_STATUS(SetAmount(quota, "borrowing_limit", options.borrow_cards, "borrow-cards",
                         options.borrow_memory, "borrow-memory"));
    TRY_STATUS(SetAmount(quota, "lending_limit", options.lend_cards, "lend-cards",
                         options.lend_memory, "lend-memory"));
    if (!options.weight.empty()) {
      TRY(quota["weight"], ParseInt(options.weight, "weight", 1, 1000));
    }
    return {};
  });
}

int RemoveQuota(const Context& context, const std::string& name) {
  const auto id = QuotaName(context, name);
  if (!id) return Report(context, id.error());
  return Change(context, [&](json::object& policy) -> Status {
    json::array& quotas = Quotas(policy);
    const auto found = std::find_if(quotas.begin(), quotas.end(), [&](const json::value& quota) {
      return Text(quota, "name") == *id;
    });
    if (found == quotas.end()) return Error(Code::kNotFound, "no quota of that name");
    quotas.erase(found);
    return {};
  });
}

int SetPriorityMax(const Context& context, const std::string& tenant, const std::string& priority) {
  const auto checked = CheckedId(tenant, "tenant");
  if (!checked) return Report(context, checked.error());
  const auto number = ParseInt(priority, "priority-max", INT32_MIN, INT32_MAX);
  if (!number) return Report(context, number.error());
  return Finish(context,
                Call(context, "PUT", "/v1/tenants/" + tenant + "/limits",
                     json::object{{"priority_max", *number}}),
                [](const json::value& reply) {
                  return Text(reply, "id") + " priority_max " + Text(reply, "priority_max") + "\n";
                });
}

}  // namespace tessera::cli
