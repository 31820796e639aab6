#include "simulate/trace.h"

#include <algorithm>
#include <charconv>
#include <string_view>

#include "base/rng.h"
#include "base/units.h"
#include "os/files.h"

namespace tessera::simulate {
namespace {

// One CSV file: its lines, and errors that say where.
class Table {
 public:
  static Result<Table> Read(const std::string& path, std::vector<std::string_view> columns) {
    TRY(std::string text, os::PosixFiles().Read(path));
    Table table;
    table.path_ = path;
    table.text_ = std::move(text);
    table.columns_ = std::move(columns);
    return table;
  }

  // Calls `row` with the fields of each line after the header, which must begin with the columns.
  template <typename Row>
  Status ForEach(Row row) {
    std::size_t number = 0;
    std::string_view rest = text_;
    while (!rest.empty()) {
      const std::size_t end = rest.find('\n');
      std::string_view line = rest.substr(0, end);
      rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
      if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
      line_ = ++number;
      if (line_ > kTraceLinesMax) return Wrong("line", "at most kTraceLinesMax (4000000) lines");
      if (line.empty()) continue;
      std::vector<std::string_view> fields;
      for (std::string_view left = line;;) {
        const std::size_t comma = left.find(',');
        fields.push_back(left.substr(0, comma));
        if (comma == std::string_view::npos) break;
        left.remove_prefix(comma + 1);
      }
      if (fields.size() < columns_.size()) {
        return Wrong("line", "at least " + std::to_string(columns_.size()) + " columns");
      }
      if (number == 1) {
        for (std::size_t i = 0; i < columns_.size(); ++i) {
          if (fields[i] != columns_[i]) {
            return Wrong("header", "column \"" + std::string(columns_[i]) + "\"");
          }
        }
        header_ = fields;
        continue;
      }
      TRY_STATUS(row(fields));
    }
    if (number == 0) return Wrong("header", "a header line");
    return {};
  }

  // Where a column that need not be there stands; 0 (a column that must): it is not there.
  std::size_t Find(std::string_view column) const {
    const auto at = std::find(header_.begin(), header_.end(), column);
    return at == header_.end() ? 0 : static_cast<std::size_t>(at - header_.begin());
  }

  Error Wrong(std::string_view column, const std::string& expected) const {
    return Error(Code::kInvalidArgument, path_ + ":" + std::to_string(line_) + ": " +
                                             std::string(column) + ": expected " + expected)
        .Under(std::string(column));
  }

  Result<std::int64_t> Number(const std::vector<std::string_view>& fields, std::size_t column,
                              std::int64_t max) const {
    std::int64_t value = 0;
    const std::string_view text = fields[column];
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value < 0 || value > max) {
      return Wrong(header_[column], "a whole number of 0 to " + std::to_string(max) + ", got \"" +
                                        std::string(text.substr(0, 40)) + "\"");
    }
    return value;
  }

 private:
  std::string path_;
  std::string text_;
  std::vector<std::string_view> columns_;
  std::vector<std::string_view> header_;
  std::size_t line_ = 0;
};

constexpr std::int64_t kCpuMillisMax = 100'000'000;
constexpr std::int64_t kSecondsMax = 100LL * 366 * 86'400;
constexpr std::int64_t kRamMibMax = std::int64_t{1} << 32;

}  // namespace

Result<std::vector<TraceNode>> ReadNodes(const std::string& path) {
  TRY(Table table, Table::Read(path, {"sn", "cpu_milli", "memory_mib", "gpu", "model"}));
  std::vector<TraceNode> nodes;
  TRY_STATUS(table.ForEach([&](const std::vector<std::string_view>& fields) -> Status {
    TraceNode node;
    node.name = fields[0];
    if (node.name.empty()) return table.Wrong("sn", "a name");
    TRY(node.cpu_millis, table.Number(fields, 1, kCpuMillisMax));
    TRY(node.ram_mib, table.Number(fields, 2, kRamMibMax));
    TRY(const std::int64_t cards, table.Number(fields, 3, placement::kCardsPerNodeMax));
    node.cards = static_cast<std::uint32_t>(cards);
    node.model = fields[4];
    nodes.push_back(std::move(node));
    return {};
  }));
  std::sort(nodes.begin(), nodes.end(),
            [](const TraceNode& a, const TraceNode& b) { return a.name < b.name; });
  return nodes;
}

Result<std::vector<TracePod>> ReadPods(const std::string& path) {
  TRY(Table table, Table::Read(path, {"name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli"}));
  std::vector<TracePod> pods;
  TRY_STATUS(table.ForEach([&](const std::vector<std::string_view>& fields) -> Status {
    TracePod pod;
    pod.name = fields[0];
    TRY(pod.cpu_millis, table.Number(fields, 1, kCpuMillisMax));
    TRY(pod.ram_mib, table.Number(fields, 2, kRamMibMax));
    TRY(const std::int64_t cards, table.Number(fields, 3, placement::kCardsPerNodeMax));
    TRY(const std::int64_t milli, table.Number(fields, 4, 1'000'000));
    pod.cards = static_cast<std::uint32_t>(cards);
    // The published simulator caps the share at one card and reads the models of GPU pods only.
    pod.milli =
        cards == 0
            ? 0
            : static_cast<std::uint32_t>(std::min<std::int64_t>(milli, placement::kWholeCardMilli));
    if (cards > 0 && fields.size() > 5) pod.models = fields[5];
    if (cards > 0 && pod.milli == 0) return table.Wrong("gpu_milli", "more than 0 with num_gpu");
    const std::size_t qos = table.Find("qos");
    if (qos > 0 && fields.size() > qos) pod.qos = fields[qos];
    const std::size_t created = table.Find("creation_time");
    const std::size_t deleted = table.Find("deletion_time");
    if (created > 0 && deleted > 0 && fields.size() > std::max(created, deleted)) {
      TRY(pod.created, table.Number(fields, created, kSecondsMax));
      TRY(pod.deleted, table.Number(fields, deleted, kSecondsMax));
      if (pod.deleted < pod.created) {
        return table.Wrong("deletion_time", "no earlier time than creation_time");
      }
    }
    pods.push_back(std::move(pod));
    return {};
  }));
  return pods;
}

Result<TraceOrder> ReadOrder(const std::string& path, std::size_t pods, std::size_t nodes) {
  TRY(const std::string text, os::PosixFiles().Read(path));
  TraceOrder order;
  bool ranks = false;
  std::size_t line = 0;
  const auto wrong = [&](const std::string& expected) {
    return Error(Code::kInvalidArgument,
                 path + ":" + std::to_string(line) + ": expected " + expected)
        .Under("sequence");
  };
  for (std::string_view rest = text; !rest.empty();) {
    const std::size_t end = rest.find_first_of(" \n\r\t");
    const std::string_view word = rest.substr(0, end);
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    if (word.empty()) continue;
    if (++line > kTraceLinesMax) return wrong("at most kTraceLinesMax (4000000) numbers");
    std::int64_t value = 0;
    const auto [stop, error] = std::from_chars(word.data(), word.data() + word.size(), value);
    if (error != std::errc() || stop != word.data() + word.size()) return wrong("a number");
    if (value == -1 && !ranks) {
      ranks = true;
    } else if (value < 0 || (!ranks && value >= static_cast<std::int64_t>(pods))) {
      return wrong("an index of the " + std::to_string(pods) + " pods");
    } else {
      (ranks ? order.ranks : order.arrivals).push_back(static_cast<std::uint32_t>(value));
    }
  }
  if (order.ranks.size() != nodes) {
    return wrong("-1 and then " + std::to_string(nodes) + " ranks, got " +
                 std::to_string(order.ranks.size()));
  }
  return order;
}

TraceOrder MakeOrder(const std::vector<TraceNode>& nodes, const std::vector<TracePod>& pods,
                     std::uint64_t seed, std::uint32_t load_permille) {
  Rng rng(seed);
  const auto shuffled = [&](std::size_t count) {
    std::vector<std::uint32_t> all(count);
    for (std::size_t i = 0; i < count; ++i) all[i] = static_cast<std::uint32_t>(i);
    for (std::size_t i = count; i > 1; --i) std::swap(all[i - 1], all[rng.Below(i)]);
    return all;
  };
  std::int64_t capacity = 0;
  for (const TraceNode& node : nodes) {
    capacity += std::int64_t{node.cards} * placement::kWholeCardMilli;
  }
  const std::int64_t wanted = capacity * load_permille / 1000;
  TraceOrder order;
  std::int64_t arrived = 0;
  const auto add = [&](std::uint32_t pod) {
    order.arrivals.push_back(pod);
    arrived += std::int64_t{pods[pod].cards} * pods[pod].milli;
  };
  for (const std::uint32_t pod : shuffled(pods.size())) {
    if (arrived >= wanted) break;
    add(pod);
  }
  std::int64_t in_all = 0;
  for (const TracePod& pod : pods) in_all += std::int64_t{pod.cards} * pod.milli;
  while (in_all > 0 && arrived < wanted && order.arrivals.size() < kTraceLinesMax) {
    add(static_cast<std::uint32_t>(rng.Below(pods.size())));
  }
  order.ranks = shuffled(nodes.size());
  return order;
}

placement::Shape ShapeOf(const placement::Fleet& fleet, const TracePod& pod) {
  placement::Shape shape{pod.cpu_millis, pod.ram_mib * static_cast<std::int64_t>(kMiB), pod.cards,
                         pod.milli, 0};
  if (pod.cards == 0 || pod.models.empty()) return shape;
  for (std::string_view models = pod.models;;) {
    const std::size_t bar = models.find('|');
    for (std::size_t k = 0; k < fleet.kinds().size(); ++k) {
      if (fleet.kinds()[k] == models.substr(0, bar)) shape.kinds |= std::uint64_t{1} << k;
    }
    if (bar == std::string_view::npos) break;
    models.remove_prefix(bar + 1);
  }
  // A model the fleet lacks adds nothing; a pod that names only such models fits nowhere, which is
  // not "any".
  constexpr std::uint64_t kNowhere = std::uint64_t{1} << 63;
  if (shape.kinds == 0) shape.kinds = kNowhere;
  return shape;
}

}  // namespace tessera::simulate
