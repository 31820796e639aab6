#include "metrics/registry.h"

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <set>
#include <tuple>

#include "base/check.h"

namespace tessera::metrics {
namespace {

bool IsWord(std::string_view text) {
  return !text.empty() && text.front() >= 'a' && text.front() <= 'z' && text.back() != '_' &&
         text.find("__") == std::string_view::npos &&
         text.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") == std::string_view::npos;
}

// The last word of a name without "_total" must not be a scaled unit.
constexpr std::array<std::string_view, 23> kScaledUnits = {
    "ms",           "us",           "ns",          "millis",   "micros", "nanos",
    "milliseconds", "microseconds", "nanoseconds", "minutes",  "hours",  "days",
    "kb",           "mb",           "gb",          "tb",       "kib",    "mib",
    "gib",          "tib",          "percent",     "permille", "mhz"};

// Keeps the series of one family: finds or makes, bounded, removable. T is prometheus-cpp's metric.
template <typename T, typename... Arguments>
class Series {
 public:
  Series(const std::string& name, const std::string& help, std::vector<std::string> labels,
         std::function<void()> refused, Arguments... arguments)
      : family_(name, help, {}),
        labels_(std::move(labels)),
        refused_(std::move(refused)),
        arguments_(std::move(arguments)...) {}

  template <typename Action>
  void With(const LabelValues& values, Action action) {
    CHECK(values.size() == labels_.size());
    {
      const std::lock_guard lock(mutex_);
      auto found = known_.find(values);
      if (found == known_.end() && known_.size() < kSeriesPerFamilyMax) {
        prometheus::Labels labels;
        for (std::size_t i = 0; i < values.size(); ++i) labels[labels_[i]] = values[i];
        T& made = std::apply(
            [&](const auto&... arguments) -> T& { return family_.Add(labels, arguments...); },
            arguments_);
        found = known_.emplace(values, &made).first;
      }
      if (found != known_.end()) {
        action(*found->second);
        return;
      }
    }
    refused_();
  }
  void Remove(const LabelValues& values) {
    const std::lock_guard lock(mutex_);
    const auto found = known_.find(values);
    if (found == known_.end()) return;
    family_.Remove(found->second);
    known_.erase(found);
  }
  void Clear() {
    const std::lock_guard lock(mutex_);
    for (const auto& [values, metric] : known_) family_.Remove(metric);
    known_.clear();
  }
  std::vector<prometheus::MetricFamily> Collect() const {
    const std::lock_guard lock(mutex_);
    return family_.Collect();
  }

 private:
  mutable std::mutex mutex_;
  prometheus::Family<T> family_;
  const std::vector<std::string> labels_;
  const std::function<void()> refused_;
  const std::tuple<Arguments...> arguments_;
  std::map<LabelValues, T*> known_;
};

class Collected {
 public:
  virtual ~Collected() = default;
  virtual std::vector<prometheus::MetricFamily> Collect() const = 0;
};

class CounterFamily : public Counters, public Collected {
 public:
  CounterFamily(const std::string& name, const std::string& help, std::vector<std::string> labels,
                std::function<void()> refused)
      : series_(name, help, std::move(labels), std::move(refused)) {}
  void Add(const LabelValues& labels, double amount) override {
    CHECK(amount >= 0);
    series_.With(labels, [amount](prometheus::Counter& counter) { counter.Increment(amount); });
  }
  void Remove(const LabelValues& labels) override { series_.Remove(labels); }
  std::vector<prometheus::MetricFamily> Collect() const override { return series_.Collect(); }

 private:
  Series<prometheus::Counter> series_;
};

class GaugeFamily : public Gauges, public Collected {
 public:
  GaugeFamily(const std::string& name, const std::string& help, std::vector<std::string> labels,
              std::function<void()> refused)
      : series_(name, help, std::move(labels), std::move(refused)) {}
  void Set(const LabelValues& labels, double value) override {
    series_.With(labels, [value](prometheus::Gauge& gauge) { gauge.Set(value); });
  }
  void Remove(const LabelValues& labels) override { series_.Remove(labels); }
  void Clear() override { series_.Clear(); }
  std::vector<prometheus::MetricFamily> Collect() const override { return series_.Collect(); }

 private:
  Series<prometheus::Gauge> series_;
};

class HistogramFamily : public Histograms, public Collected {
 public:
  HistogramFamily(const std::string& name, const std::string& help, std::vector<double> bounds,
                  std::vector<std::string> labels, std::function<void()> refused)
      : series_(name, help, std::move(labels), std::move(refused), std::move(bounds)) {}
  void Observe(const LabelValues& labels, double value) override {
    series_.With(labels, [value](prometheus::Histogram& histogram) { histogram.Observe(value); });
  }
  void Remove(const LabelValues& labels) override { series_.Remove(labels); }
  std::vector<prometheus::MetricFamily> Collect() const override { return series_.Collect(); }

 private:
  Series<prometheus::Histogram, std::vector<double>> series_;
};

}  // namespace

Status CheckName(std::string_view name, Kind kind) {
  static constexpr std::string_view kPrefix = "tessera_";
  static constexpr std::string_view kTotal = "_total";
  const std::string shown(name);
  if (!name.starts_with(kPrefix) || !IsWord(name.substr(kPrefix.size()))) {
    return Error::Field("name", "expected tessera_ and lower-case words, got " + shown);
  }
  const bool is_total = name.ends_with(kTotal);
  if (is_total != (kind == Kind::kCounter)) {
    return Error::Field("name",
                        "expected _total at the end of counters and of nothing else, got " + shown);
  }
  if (is_total) name.remove_suffix(kTotal.size());
  const std::string_view unit = name.substr(name.rfind('_') + 1);
  if (std::find(kScaledUnits.begin(), kScaledUnits.end(), unit) != kScaledUnits.end()) {
    return Error::Field("name", "expected base units (seconds, bytes, ratio), got " + shown);
  }
  return {};
}

Status CheckLabel(std::string_view label) {
  if (!IsWord(label) || label == "le" || label == "quantile") {
    return Error::Field("label",
                        "expected lower-case words, not le or quantile, got " + std::string(label));
  }
  return {};
}

struct Registry::Impl {
  std::mutex mutex;
  std::mutex scrape;  // collectors run one scrape at a time
  std::map<std::string, std::unique_ptr<Collected>> families;
  std::vector<std::function<void()>> collectors;
  CounterFamily* refused = nullptr;

  template <typename Family, typename... Arguments>
  Family& Make(Kind kind, const std::string& name, const std::string& help,
               const std::vector<std::string>& labels, Arguments... arguments) {
    CHECK(CheckName(name, kind).has_value());
    std::set<std::string> distinct;
    for (const std::string& label : labels) {
      CHECK(CheckLabel(label).has_value());
      CHECK(distinct.insert(label).second);
    }
    auto family =
        std::make_unique<Family>(name, help, std::move(arguments)..., labels, [this, name] {
          if (refused != nullptr) refused->Add({name}, 1);
        });
    Family& made = *family;
    const std::lock_guard lock(mutex);
    CHECK(families.emplace(name, std::move(family)).second);
    return made;
  }
};

Registry::Registry() : impl_(std::make_unique<Impl>()) {
  impl_->refused =
      &impl_->Make<CounterFamily>(Kind::kCounter, "tessera_metrics_series_refused_total",
                                  "Updates of series beyond series_per_family_max.", {"family"});
}

Registry::~Registry() = default;

Counters& Registry::AddCounters(const std::string& name, const std::string& help,
                                const std::vector<std::string>& labels) {
  return impl_->Make<CounterFamily>(Kind::kCounter, name, help, labels);
}

Gauges& Registry::AddGauges(const std::string& name, const std::string& help,
                            const std::vector<std::string>& labels) {
  return impl_->Make<GaugeFamily>(Kind::kGauge, name, help, labels);
}

Histograms& Registry::AddHistograms(const std::string& name, const std::string& help,
                                    std::vector<double> bounds,
                                    const std::vector<std::string>& labels) {
  CHECK(!bounds.empty() &&
        std::adjacent_find(bounds.begin(), bounds.end(), std::greater_equal<>()) == bounds.end());
  return impl_->Make<HistogramFamily>(Kind::kHistogram, name, help, labels, std::move(bounds));
}

void Registry::AddCollector(std::function<void()> collector) {
  const std::lock_guard lock(impl_->mutex);
  impl_->collectors.push_back(std::move(collector));
}

std::string Registry::Text() {
  const std::lock_guard scrape(impl_->scrape);
  std::vector<std::function<void()>> collectors;
  {
    const std::lock_guard lock(impl_->mutex);
    collectors = impl_->collectors;
  }
  for (const auto& collector : collectors) collector();
  std::vector<prometheus::MetricFamily> all;
  {
    const std::lock_guard lock(impl_->mutex);
    for (const auto& [name, family] : impl_->families) {
      for (prometheus::MetricFamily& collected : family->Collect()) {
        // prometheus-cpp keeps series in a hash map; sorted ones make scrapes comparable.
        std::sort(
            collected.metric.begin(), collected.metric.end(), [](const auto& a, const auto& b) {
              return std::lexicographical_compare(a.label.begin(), a.label.end(), b.label.begin(),
                                                  b.label.end(), [](const auto& x, const auto& y) {
                                                    return x.name != y.name ? x.name < y.name
                                                                            : x.value < y.value;
                                                  });
            });
        all.push_back(std::move(collected));
      }
    }
  }
  return prometheus::TextSerializer().Serialize(all);
}

}  // namespace tessera::metrics
