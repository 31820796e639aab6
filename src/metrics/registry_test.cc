#include "metrics/registry.h"

#include <gtest/gtest.h>

#include <thread>

namespace tessera::metrics {
namespace {

bool Contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

TEST(Registry, WritesPrometheusText) {
  Registry registry;
  auto& placed =
      registry.AddCounters("tessera_scheduler_placed_total", "Placed requests.", {"node"});
  auto& free = registry.AddGauges("tessera_card_free_bytes", "Free memory.", {"node", "card"});
  auto& wait = registry.AddHistograms("tessera_queue_wait_seconds", "Wait.", {0.5, 2});
  placed.Add({"b"}, 2);
  placed.Add({"a"});
  free.Set({"a", "quote\"\n"}, 1073741824);
  wait.Observe({}, 1);
  wait.Observe({}, 3);
  const std::string text = registry.Text();
  EXPECT_TRUE(Contains(text,
                       "# HELP tessera_scheduler_placed_total Placed requests.\n"
                       "# TYPE tessera_scheduler_placed_total counter\n"
                       "tessera_scheduler_placed_total{node=\"a\"} 1\n"
                       "tessera_scheduler_placed_total{node=\"b\"} 2\n"))
      << text;
  EXPECT_TRUE(Contains(text, "card=\"quote\\\"\\n\"")) << text;
  EXPECT_TRUE(Contains(text, "} 1073741824\n")) << text;
  EXPECT_TRUE(Contains(text, "tessera_queue_wait_seconds_bucket{le=\"0.5\"} 0\n")) << text;
  EXPECT_TRUE(Contains(text, "tessera_queue_wait_seconds_bucket{le=\"2\"} 1\n")) << text;
  EXPECT_TRUE(Contains(text, "tessera_queue_wait_seconds_bucket{le=\"+Inf\"} 2\n")) << text;
  EXPECT_TRUE(Contains(text, "tessera_queue_wait_seconds_sum 4\n")) << text;
}

TEST(Registry, SeriesGoAway) {
  Registry registry;
  auto& gauges = registry.AddGauges("tessera_slices", "Slices.", {"node"});
  gauges.Set({"a"}, 1);
  gauges.Set({"b"}, 2);
  gauges.Remove({"a"});
  gauges.Remove({"never"});
  EXPECT_FALSE(Contains(registry.Text(), "node=\"a\""));
  EXPECT_TRUE(Contains(registry.Text(), "tessera_slices{node=\"b\"} 2"));
  gauges.Clear();
  EXPECT_FALSE(Contains(registry.Text(), "node=\"b\""));
  gauges.Set({"b"}, 3);
  EXPECT_TRUE(Contains(registry.Text(), "tessera_slices{node=\"b\"} 3"));
}

TEST(Registry, CollectorsRunBeforeEachScrape) {
  Registry registry;
  auto& gauges = registry.AddGauges("tessera_scrapes", "Scrapes.");
  int scrapes = 0;
  registry.AddCollector([&] { gauges.Set({}, ++scrapes); });
  EXPECT_TRUE(Contains(registry.Text(), "tessera_scrapes 1\n"));
  EXPECT_TRUE(Contains(registry.Text(), "tessera_scrapes 2\n"));
}

TEST(Registry, SeriesAreBoundedAndTheRefusalIsCounted) {
  Registry registry;
  auto& counters = registry.AddCounters("tessera_requests_total", "Requests.", {"who"});
  for (std::size_t i = 0; i < kSeriesPerFamilyMax + 7; ++i) counters.Add({std::to_string(i)});
  const std::string text = registry.Text();
  EXPECT_TRUE(Contains(text, "{who=\"" + std::to_string(kSeriesPerFamilyMax - 1) + "\"}"));
  EXPECT_FALSE(Contains(text, "{who=\"" + std::to_string(kSeriesPerFamilyMax) + "\"}"));
  EXPECT_TRUE(Contains(
      text, "tessera_metrics_series_refused_total{family=\"tessera_requests_total\"} 7\n"));
  counters.Remove({"0"});
  counters.Add({"late"});
  EXPECT_TRUE(Contains(registry.Text(), "{who=\"late\"} 1"));
}

TEST(Registry, NamesAreChecked) {
  const auto fine = [](std::string_view name, Kind kind) {
    return CheckName(name, kind).has_value();
  };
  EXPECT_TRUE(fine("tessera_requests_total", Kind::kCounter));
  EXPECT_TRUE(fine("tessera_card_memory_bytes", Kind::kGauge));
  EXPECT_TRUE(fine("tessera_wait_seconds", Kind::kHistogram));
  EXPECT_FALSE(fine("requests_total", Kind::kCounter));
  EXPECT_FALSE(fine("tessera_requests", Kind::kCounter));
  EXPECT_FALSE(fine("tessera_requests_total", Kind::kGauge));
  EXPECT_FALSE(fine("tessera_wait_ms", Kind::kHistogram));
  EXPECT_FALSE(fine("tessera_wait_ms_total", Kind::kCounter));
  EXPECT_FALSE(fine("tessera_memory_mib", Kind::kGauge));
  EXPECT_FALSE(fine("tessera_busy_percent", Kind::kGauge));
  EXPECT_FALSE(fine("tessera_Upper", Kind::kGauge));
  EXPECT_FALSE(fine("tessera_", Kind::kGauge));
  EXPECT_FALSE(fine("tessera_a__b", Kind::kGauge));
  EXPECT_TRUE(CheckLabel("node"));
  EXPECT_FALSE(CheckLabel("le"));
  EXPECT_FALSE(CheckLabel("__name"));
  EXPECT_FALSE(CheckLabel("Node"));
  EXPECT_FALSE(CheckLabel(""));
}

TEST(RegistryDeathTest, MisuseStops) {
  Registry registry;
  auto& counters = registry.AddCounters("tessera_x_total", "X.", {"a"});
  EXPECT_DEATH(registry.AddCounters("tessera_x_total", "X."), "CHECK");
  EXPECT_DEATH(registry.AddCounters("tessera_y", "Y."), "CHECK");
  EXPECT_DEATH(registry.AddGauges("tessera_z", "Z.", {"le"}), "CHECK");
  EXPECT_DEATH(registry.AddHistograms("tessera_h_seconds", "H.", {2, 1}), "CHECK");
  EXPECT_DEATH(counters.Add({}), "CHECK");
  EXPECT_DEATH(counters.Add({"a"}, -1), "CHECK");
}

TEST(Registry, ManyThreads) {
  Registry registry;
  auto& counters = registry.AddCounters("tessera_work_total", "Work.", {"thread"});
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 2000; ++i) {
        counters.Add({std::to_string(t % 2)});
        if (i % 500 == 0) {
          EXPECT_FALSE(registry.Text().empty());
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(Contains(registry.Text(), "{thread=\"0\"} 4000\n"));
  EXPECT_TRUE(Contains(registry.Text(), "{thread=\"1\"} 4000\n"));
}

}  // namespace
}  // namespace tessera::metrics
