// Metrics of one process. Families are made once at start and live as long as the registry; a bad
// family name is a programming error (CHECK), found by the first test that starts the service. All
// methods are thread-safe.
//
//   metrics::Registry registry;
//   auto& placed = registry.AddCounters("tessera_scheduler_placed_total", "Placed requests.",
//   {"node"}); placed.Add({node}); response.body = registry.Text();
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace tessera::metrics {

enum class Kind { kCounter, kGauge, kHistogram };

// Series of one family beyond this many are not kept; tessera_metrics_series_refused_total counts
// the refusals. It guards the process against labels that grow without end.
inline constexpr std::size_t kSeriesPerFamilyMax = 10'000;

// "tessera_" first, then lower-case words and digits; counters end in "_total" and nothing else
// does; base units only (seconds, bytes, ratio), so "_ms", "_mib" or "_percent" are refused.
Status CheckName(std::string_view name, Kind kind);
// Lower-case words; "le", "quantile" and a leading "__" belong to Prometheus.
Status CheckLabel(std::string_view label);

// The content type of Text().
inline constexpr std::string_view kContentType = "text/plain; version=0.0.4; charset=utf-8";

// Values of a family's labels, in the order in which the family named them. A wrong count is a
// CHECK.
using LabelValues = std::vector<std::string>;

class Counters {
 public:
  virtual ~Counters() = default;
  virtual void Add(const LabelValues& labels,
                   double amount = 1) = 0;  // amounts below 0 are a CHECK
  virtual void Remove(const LabelValues& labels) = 0;
};

class Gauges {
 public:
  virtual ~Gauges() = default;
  virtual void Set(const LabelValues& labels, double value) = 0;
  virtual void Remove(const LabelValues& labels) = 0;
  // Forgets every series: for families that a collector fills anew at each scrape.
  virtual void Clear() = 0;
};

class Histograms {
 public:
  virtual ~Histograms() = default;
  virtual void Observe(const LabelValues& labels, double value) = 0;
  virtual void Remove(const LabelValues& labels) = 0;
};

class Registry {
 public:
  Registry();
  ~Registry();
  Registry(const Registry&) = delete;
  Registry& operator=(const Registry&) = delete;

  // A name may be used once.
  Counters& AddCounters(const std::string& name, const std::string& help,
                        const std::vector<std::string>& labels = {});
  Gauges& AddGauges(const std::string& name, const std::string& help,
                    const std::vector<std::string>& labels = {});
  // Bounds ascending; +Inf is implied.
  Histograms& AddHistograms(const std::string& name, const std::string& help,
                            std::vector<double> bounds,
                            const std::vector<std::string>& labels = {});
  // Called before each Text(), in order, one scrape at a time: the place to copy a service's state
  // into gauges.
  void AddCollector(std::function<void()> collector);

  // The Prometheus text format, families by name.
  std::string Text();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tessera::metrics
