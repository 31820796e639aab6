#include "scheduler/memo.h"

#include <array>
#include <limits>
#include <string_view>

#include "http/json.h"

namespace tessera::scheduler {
namespace {

using placement::Order;
using placement::Request;

constexpr std::array<std::string_view, 3> kPolicies = {"binpack", "spread", "pool"};
constexpr std::array<std::string_view, 3> kNumas = {"none", "prefer", "require"};
constexpr std::array<std::string_view, 2> kLinks = {"any", "best"};
constexpr std::array<std::string_view, 3> kAparts = {"none", "card", "node"};
constexpr auto kIsolations = [] {
  std::array<std::string_view, placement::kIsolations> names;
  for (std::uint32_t i = 0; i < names.size(); ++i) {
    names[i] = placement::IsolationName(static_cast<placement::Isolation>(i));
  }
  return names;
}();

// Writes and reads the same list of fields, so that neither forgets one of the other's.
class Writer {
 public:
  Writer() { json_.BeginObject(); }
  Status Text(std::string_view key, const std::string& value) {
    if (!value.empty()) json_.Field(key, value);
    return {};
  }
  Status List(std::string_view key, const std::vector<std::string>& values) {
    if (values.empty()) return {};
    json_.Key(key).BeginArray();
    for (const std::string& value : values) json_.Value(value);
    json_.EndArray();
    return {};
  }
  template <typename Int>
  Status Number(std::string_view key, const Int& value, Int fallback) {
    if (value != fallback) json_.Field(key, value);
    return {};
  }
  Status Flag(std::string_view key, const bool& value) {
    if (value) json_.Field(key, value);
    return {};
  }
  template <typename Enum, std::size_t N>
  Status Name(std::string_view key, const Enum& value, const std::array<std::string_view, N>& names,
              Enum fallback) {
    if (value != fallback) json_.Field(key, names.at(static_cast<std::size_t>(value)));
    return {};
  }
  std::string Take() {
    json_.EndObject();
    return json_.Take();
  }

 private:
  http::JsonWriter json_;
};

class Reader {
 public:
  explicit Reader(http::JsonObject json) : json_(std::move(json)) {}
  Status Text(std::string_view key, std::string& value) {
    TRY(value, json_.OptionalString(key));
    return {};
  }
  Status List(std::string_view key, std::vector<std::string>& values) {
    TRY(values, json_.OptionalStrings(key, placement::kSelectorsMax));
    return {};
  }
  template <typename Int>
  Status Number(std::string_view key, Int& value, Int fallback) {
    constexpr auto kMin = std::numeric_limits<Int>::min();
    constexpr auto kMax = std::numeric_limits<Int>::max();
    TRY(const auto read,
        json_.OptionalInt(key, std::int64_t{kMin},
                          kMax < std::uint64_t{http::kJsonIntMax} ? static_cast<std::int64_t>(kMax)
                                                                  : http::kJsonIntMax,
                          static_cast<std::int64_t>(fallback)));
    value = static_cast<Int>(read);
    return {};
  }
  Status Flag(std::string_view key, bool& value) {
    TRY(value, json_.OptionalBool(key, false));
    return {};
  }
  template <typename Enum, std::size_t N>
  Status Name(std::string_view key, Enum& value, const std::array<std::string_view, N>& names,
              Enum fallback) {
    TRY(const std::string name,
        json_.OptionalString(key, std::string(names[static_cast<std::size_t>(fallback)])));
    for (std::size_t i = 0; i < N; ++i) {
      if (names[i] != name) continue;
      value = static_cast<Enum>(i);
      return {};
    }
    return json_.Wrong(key, "expected a known name, got " + name);
  }

 private:
  http::JsonObject json_;
};

// The bindings name every field: one that is added to either struct does not compile before it is
// visited here, or known not to need it.
template <typename Visitor, typename AnyOrder>
Status Visit(Visitor& visitor, AnyOrder& order) {
  auto& [request, preemptible, run_micros, gang, gang_size, gang_node_min, gang_one_rack,
         reservation] = order;
  [[maybe_unused]] const auto& [id, slices, memory_bytes, compute, cpu_millis, ram_bytes, model,
                                card_uuid, node_policy, card_policy, disk_bytes, pool, models,
                                models_excluded, cards, cards_excluded, isolation, exclusive, numa,
                                links, tenant, apart, apart_from, priority, guaranteed] = request;
  const Request fresh;
  TRY_STATUS(visitor.Number("slices", request.slices, fresh.slices));
  TRY_STATUS(visitor.Number("memory_bytes", request.memory_bytes, fresh.memory_bytes));
  TRY_STATUS(visitor.Number("compute_permille", request.compute.value, fresh.compute.value));
  TRY_STATUS(visitor.Number("cpu_millis", request.cpu_millis, fresh.cpu_millis));
  TRY_STATUS(visitor.Number("ram_bytes", request.ram_bytes, fresh.ram_bytes));
  TRY_STATUS(visitor.Number("disk_bytes", request.disk_bytes, fresh.disk_bytes));
  TRY_STATUS(visitor.Text("model", request.model));
  TRY_STATUS(visitor.Text("card", request.card_uuid));
  TRY_STATUS(visitor.Text("pool", request.pool));
  TRY_STATUS(visitor.Name("node_policy", request.node_policy, kPolicies, fresh.node_policy));
  TRY_STATUS(visitor.Name("card_policy", request.card_policy, kPolicies, fresh.card_policy));
  TRY_STATUS(visitor.List("models", request.models));
  TRY_STATUS(visitor.List("models_excluded", request.models_excluded));
  TRY_STATUS(visitor.List("cards", request.cards));
  TRY_STATUS(visitor.List("cards_excluded", request.cards_excluded));
  TRY_STATUS(visitor.Name("isolation", request.isolation, kIsolations, fresh.isolation));
  TRY_STATUS(visitor.Flag("exclusive", request.exclusive));
  TRY_STATUS(visitor.Name("numa", request.numa, kNumas, fresh.numa));
  TRY_STATUS(visitor.Name("links", request.links, kLinks, fresh.links));
  TRY_STATUS(visitor.Text("tenant", request.tenant));
  TRY_STATUS(visitor.Name("apart", request.apart, kAparts, fresh.apart));
  TRY_STATUS(visitor.List("apart_from", request.apart_from));
  TRY_STATUS(visitor.Number("priority", request.priority, fresh.priority));
  TRY_STATUS(visitor.Flag("guaranteed", request.guaranteed));
  const Order alone;
  TRY_STATUS(visitor.Flag("preemptible", preemptible));
  TRY_STATUS(visitor.Number("run_micros", run_micros, alone.run_micros));
  TRY_STATUS(visitor.Text("gang", gang));
  TRY_STATUS(visitor.Number("gang_size", gang_size, alone.gang_size));
  TRY_STATUS(visitor.Number("gang_node_min", gang_node_min, alone.gang_node_min));
  TRY_STATUS(visitor.Flag("gang_one_rack", gang_one_rack));
  return visitor.Text("reservation", reservation);
}

}  // namespace

std::string WriteMemo(const Order& order) {
  Writer writer;
  [[maybe_unused]] const Status written = Visit(writer, order);
  return writer.Take();
}

Result<Order> ReadMemo(const std::string& text, const std::string& instance_id) {
  TRY(auto json, http::JsonObject::Parse(text));
  Reader reader(std::move(json));
  Order order;
  TRY_STATUS(Visit(reader, order));
  order.request.id = instance_id;
  TRY_STATUS(placement::Validate(order.request));
  return order;
}

}  // namespace tessera::scheduler
